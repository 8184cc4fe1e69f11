"""WebSocket on both ends, on 127.0.0.1: its traps, and that nothing is left open that Autobahn leaves open."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.utils import getProcessOutput
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tbgw.mqtt import ClientDisconnected, ClientOptions, MQTTClientProtocol, MQTTServerProtocol, ServerOptions
from tbgw.mqtt.websocket import (
    MAX_HEAD_BYTES,
    WRITE_BYTES,
    WebSocketClientEndpoint,
    WebSocketRefused,
    WebSocketServerFactory,
)
from tests.mqtt.memory import ServerRecord
from tests.mqtt.test_mosquitto import WaitingClientRecord

reactor: Any = _reactor  # the real one: it has more interfaces than its annotation says


class Raw(Protocol):
    """A plain TCP connection that keeps what comes."""

    def __init__(self) -> None:
        self.data = b""
        self.gone: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.gone.callback(None)


def request(*lines: str, path: str = "/mqtt") -> bytes:
    """The head of a handshake."""
    return "\r\n".join(
        (
            f"GET {path} HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", *lines, "", "",
        )
    ).encode()  # fmt: skip


MQTT = "Sec-WebSocket-Protocol: mqtt"


class WebSocketTests(TestCase):
    """Our server with raw sockets, and our client with our server and with servers that are none."""

    timeout = 20

    async def setUp(self) -> None:  # type: ignore[override]  # trial runs coroutines too
        self.record = ServerRecord()
        self.protocols: list[MQTTServerProtocol] = []
        test = self

        class ServerFactory(Factory):
            def buildProtocol(self, addr):
                options = ServerOptions(max_packet_bytes=1 << 20)
                test.protocols.append(MQTTServerProtocol(options, test.record, reactor))
                return test.protocols[-1]

        self.factory = WebSocketServerFactory(
            ServerFactory(), clock=reactor, path="/mqtt", max_connections=2, max_message_bytes=100_000
        )
        self.port = await self.listen(self.factory)

    async def listen(self, factory: Any) -> int:
        listening = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(listening.stopListening)
        port: int = listening.getHost().port
        return port

    async def raw(self, data: bytes) -> Raw:
        """Says something; returns when the server closed."""
        protocol = Raw()
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), protocol)
        assert protocol.transport is not None
        protocol.transport.write(data)
        await protocol.gone
        return protocol

    async def dial(
        self, port: int, path: str = "/mqtt", **options: Any
    ) -> tuple[MQTTClientProtocol, WaitingClientRecord]:
        record = WaitingClientRecord()
        protocol = MQTTClientProtocol(ClientOptions(**options), record, reactor)
        endpoint = WebSocketClientEndpoint(
            TCP4ClientEndpoint(reactor, "127.0.0.1", port), f"ws://127.0.0.1:{port}{path}", clock=reactor
        )
        await connectProtocol(endpoint, protocol)
        return protocol, record

    async def test_large(self):
        """A packet of many messages goes through, both ends pause and close in good order."""
        protocol, record = await self.dial(self.port)
        await record.next("connected")
        payload = bytes(range(256)) * 2000
        self.assertGreater(len(payload), 5 * WRITE_BYTES)
        for number in range(3):
            self.assertEqual(await protocol.publish(f"t/{number}", payload), 0)
        self.assertEqual([publish.payload for publish in self.record.values("publish")], [payload] * 3)
        gone, server_gone = record.next("disconnected"), Deferred[None]()
        self.record.on_disconnected = lambda: server_gone.callback(None)
        protocol.disconnect()
        await gone
        await server_gone
        self.assertIsInstance(self.record.reason(), ClientDisconnected)

    async def test_handshakes(self):
        """Without the subprotocol, on another path, without an upgrade: refused, and nothing of ours is told."""
        for data, status in (
            (request(), b" 400 "),
            (request("Sec-WebSocket-Protocol: other"), b" 400 "),
            (request(MQTT, path="/"), b" 404 "),
            (b"GET /mqtt?redirect=http://evil/ HTTP/1.1\r\nHost: x\r\n\r\n", b" 426 "),
            (b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00\r\n\r\n", b" 400 "),
        ):
            answer = (await self.raw(data)).data
            self.assertIn(status, answer.split(b"\r\n", 1)[0])
            self.assertNotIn(b"evil", answer)
            self.assertNotIn(b"Autobahn", answer)
        self.assertEqual(self.protocols, [])

    async def test_endless_head(self):
        """It is cut off."""
        raw = await self.raw(b"GET /mqtt HTTP/1.1\r\nX: " + b"x" * (MAX_HEAD_BYTES + 10))
        self.assertEqual(raw.data, b"")

    def frame(self, opcode: int, payload: bytes) -> bytes:
        """A masked frame, with a mask of zeros."""
        size = len(payload)
        head = (
            bytes((0x80 | opcode, 0x80 | size))
            if size < 126
            else bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big")
        )
        return head + b"\0\0\0\0" + payload

    async def test_bad_frames(self):
        """Text is answered by 1003, too much by 1009, unmasked by 1002, and the MQTT protocol hears of the end."""
        for frame, code in (
            (self.frame(1, b"hello"), 1003),
            (self.frame(2, bytes(100_001))[:14], 1009),
            (b"\x82\x01\x00", 1002),
        ):
            gone: Deferred[None] = Deferred()
            self.record.on_disconnected = lambda gone=gone: gone.callback(None)  # type: ignore[misc]  # a default argument
            raw = Raw()
            await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), raw)
            assert raw.transport is not None
            raw.transport.write(request(MQTT) + frame)
            await gone
            await raw.gone
            _, _, after = raw.data.partition(b"\r\n\r\n")
            self.assertEqual((after[:1], after[2:4]), (b"\x88", code.to_bytes(2, "big")))

    async def test_connection_cap(self):
        """One more than allowed is refused in the handshake."""
        first = await self.dial(self.port)
        second = await self.dial(self.port)
        with self.assertRaises(WebSocketRefused):
            await self.dial(self.port)
        for protocol, record in (first, second):
            gone = record.next("disconnected")
            protocol.disconnect()
            await gone

    async def test_imported_when_needed(self):
        """The library itself does not import Autobahn."""
        program = "import sys, tbgw.mqtt, tbgw.mqtt.broker, tbgw.mqtt.proxy; print('autobahn' in sys.modules)"
        output = await getProcessOutput(sys.executable, ["-c", program], env={"PYTHONPATH": ":".join(sys.path)})
        self.assertEqual(output, b"False\n")

    async def test_no_websocket_there(self):
        """A server that is none, that closes, or that chooses no subprotocol."""

        class Answer(Protocol):
            answer = b""

            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                if self.answer:
                    self.transport.write(self.answer)
                else:
                    self.transport.loseConnection()

        for text in (b"", b"HTTP/1.1 403 No\r\n\r\n", b"\x20\x02\x00\x00\r\n\r\n"):
            port = await self.listen(Factory.forProtocol(type("Answers", (Answer,), {"answer": text})))
            with self.assertRaises(WebSocketRefused):
                await self.dial(port)
        with self.assertRaises(WebSocketRefused):
            await self.dial(self.port, "/elsewhere")
