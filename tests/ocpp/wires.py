"""A charge point made of bytes, for tests without sockets: it says what it is told to, right or wrong."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.ocpp.central_system import CentralSystemFactory
from tbgw.ocpp.interfaces import Admission, Handshake, ICentralSystem, IStation, Refusal
from tbgw.ocpp.notices import Notice
from tbgw.ocpp.options import CentralSystemOptions

MASK = b"\x11\x22\x33\x44"


def frame(payload: bytes, opcode: int = 1, fin: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    """One WebSocket frame as a client sends it."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    bit = 0x80 if masked else 0
    length = len(payload)
    if length < 126:
        head += bytes([bit | length])
    elif length < 65536:
        head += bytes([bit | 126]) + struct.pack("!H", length)
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", length)
    if not masked:
        return head + payload
    return head + MASK + bytes(byte ^ MASK[index % 4] for index, byte in enumerate(payload))


def request(
    path: str = "/CP1",
    protocols: Sequence[str] = ("ocpp1.6",),
    headers: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
    line: str = "GET {} HTTP/1.1",
) -> bytes:
    """The request of a WebSocket handshake."""
    fields = {
        "Host": "central",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    if protocols:
        fields["Sec-WebSocket-Protocol"] = ", ".join(protocols)
    fields.update(headers or {})
    lines = [line.format(path), *(f"{name}: {value}" for name, value in fields.items() if name not in without)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """(opcode, payload) of each frame that a server sent; the last may not be cut short."""
    found = []
    while data:
        opcode, length, start = data[0] & 0x0F, data[1], 2
        assert not data[1] & 0x80, "a server masks nothing"
        if length == 126:
            length, start = struct.unpack("!H", data[2:4])[0], 4
        elif length == 127:
            length, start = struct.unpack("!Q", data[2:10])[0], 10
        assert len(data) >= start + length, "a frame is cut short"
        found.append((opcode, data[start : start + length]))
        data = data[start + length :]
    return found


class Socket(StringTransport):
    """A transport that ends when it is told to."""

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.7", 50000))
        self.gone = False
        self.aborted = False
        self.protocol: Any = None

    def loseConnection(self) -> None:
        super().loseConnection()
        self._end(ConnectionDone())

    def abortConnection(self) -> None:
        self.aborted = True
        self._end(ConnectionAborted())

    def _end(self, why: Exception) -> None:
        if not self.gone:
            self.gone = True
            self.protocol.connectionLost(Failure(why))


@implementer(ICentralSystem)
class Listener:
    """Who uses the library: notes what it is told, answers as the test says."""

    def __init__(self) -> None:
        self.handshakes: list[Handshake] = []
        self.log: list[tuple[Any, ...]] = []
        self.stations: list[IStation] = []
        self.verdict: Any = Admission(data="mine")
        self.answer: Any = {"currentTime": "2026-01-01T00:00:00Z"}

    def admit(self, handshake: Handshake) -> Deferred[Admission | Refusal] | Admission | Refusal:
        self.handshakes.append(handshake)
        if isinstance(self.verdict, Exception):
            raise self.verdict
        verdict: Admission | Refusal = self.verdict
        return verdict

    def connected(self, station: IStation) -> None:
        self.stations.append(station)
        self.log.append(("connected", station.path))

    def call_received(self, station: IStation, action: str, payload: dict[str, Any], faults: Sequence[str]) -> Any:
        self.log.append(("call", action, payload, tuple(faults)))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def send_received(self, station: IStation, action: str, payload: dict[str, Any], faults: Sequence[str]) -> None:
        self.log.append(("send", action, payload, tuple(faults)))

    def disconnected(self, station: IStation, reason: str) -> None:
        self.log.append(("disconnected", station.path, reason))

    def told(self, what: str) -> list[tuple[Any, ...]]:
        return [entry for entry in self.log if entry[0] == what]


class Rig:
    """A listener's factory with a clock, and charge points that dial it."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("warm_schemas", False)
        self.clock = Clock()
        self.listener = Listener()
        self.notices: list[Notice] = []
        self.factory = CentralSystemFactory(
            CentralSystemOptions(**options), self.listener, self.clock, self.notices.append, nonce="n"
        )
        self.clock.advance(1000)

    def dial(self) -> Wire:
        """A TCP connection, nothing said yet."""
        return Wire(self)

    def connect(self, path: str = "/CP1", protocols: Sequence[str] = ("ocpp1.6",), **more: Any) -> Wire:
        """A connection whose handshake is over."""
        wire = self.dial()
        wire.say(request(path, protocols, **more))
        assert wire.socket.value().startswith(b"HTTP/1.1 101"), wire.socket.value()
        wire.socket.clear()
        return wire

    def kinds(self) -> list[str]:
        return [notice.kind for notice in self.notices]


class Wire:
    """One connection from the charge point's side."""

    def __init__(self, rig: Rig) -> None:
        self.socket = Socket()
        self.protocol: Any = rig.factory.buildProtocol(self.socket.getPeer())
        assert self.protocol is not None
        self.socket.protocol = self.protocol
        self.protocol.makeConnection(self.socket)

    def say(self, data: bytes, piece: int = 0) -> None:
        """Bytes to the server, whole or in pieces."""
        for start in range(0, len(data), piece or len(data)):
            if not self.socket.gone:
                self.protocol.dataReceived(data[start : start + (piece or len(data))])

    def tell(self, *message: Any) -> None:
        """One OCPP message."""
        self.say(frame(json.dumps(message).encode()))

    def heard(self) -> list[tuple[int, bytes]]:
        """The frames that came since the last time."""
        found = frames(self.socket.value())
        self.socket.clear()
        return found

    def messages(self) -> list[Any]:
        """The OCPP messages that came since the last time."""
        return [json.loads(payload) for opcode, payload in self.heard() if opcode == 1]

    def close_code(self) -> int | None:
        """The code of the close frame that came."""
        for opcode, payload in self.heard():
            if opcode == 8:
                code: int = struct.unpack("!H", payload[:2])[0]
                return code
        return None

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the HTTP answer."""
        head, _, _ = self.socket.value().partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {}
        for each in lines:
            name, _, value = each.partition(": ")
            headers[name.lower()] = value
        return int(first.split(" ")[1]), headers
