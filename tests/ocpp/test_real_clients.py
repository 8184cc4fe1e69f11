"""The listener on real sockets, with clients that none of us wrote: Autobahn's, and `ocpp` on websockets."""

from __future__ import annotations

import json
import socket
import ssl as plain_ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbgw.ocpp.central_system import CentralSystemFactory, listen
from tbgw.ocpp.notices import Notice
from tbgw.ocpp.options import CentralSystemOptions
from tbgw.ocpp.versions import Version
from tests.ocpp.wires import Listener, frame, request
from tests.programs import SECONDS, Program, free_port
from tests.test_tls import Files, Issued, authority, issue

reactor: Any = installed


class Client(WebSocketClientProtocol):
    """Autobahn's client; what it hears goes into Deferreds."""

    def onOpen(self) -> None:
        self.factory.client = self
        self.factory.opened.callback(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.factory.heard.append(json.loads(payload))
        waiting, self.factory.waiting = self.factory.waiting, None
        if waiting is not None:
            waiting.callback(None)

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:
        if not self.factory.opened.called:
            self.factory.opened.errback(ConnectionError(f"{code} {reason}"))
        self.factory.closed.callback((wasClean, code))


class Dial(WebSocketClientFactory):
    """One connection of the client."""

    protocol = Client
    noisy = False

    def __init__(self, url: str, protocols: list[str], **options: Any) -> None:
        super().__init__(url, protocols=protocols, reactor=reactor)
        self.setProtocolOptions(**options)
        self.client: Any = None
        self.opened: Deferred[None] = Deferred()
        self.closed: Deferred[Any] = Deferred()
        self.waiting: Deferred[None] | None = None
        self.heard: list[Any] = []

    async def next(self) -> Any:
        while not self.heard:
            self.waiting = Deferred()
            await self.waiting
        return self.heard.pop(0)


class RealCase(TestCase):
    """A listener on a port of its own."""

    async def start(self, tls: Any = None, **options: Any) -> CentralSystemFactory:
        self.listener = Listener()
        self.notices: list[Notice] = []
        options.setdefault("warm_schemas", False)
        factory = CentralSystemFactory(CentralSystemOptions(**options), self.listener, reactor, self.notices.append)
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        listening: Any = await listen(endpoint, factory, tls, reactor)
        self.port: int = listening.getHost().port

        async def stop() -> None:
            await listening.stopListening()
            await factory.close()

        self.addCleanup(lambda: Deferred.fromCoroutine(stop()))
        return factory

    async def dial(self, path: str = "/CP1", protocol: str = "ocpp1.6", **options: Any) -> Dial:
        dial = Dial(f"ws://127.0.0.1:{self.port}{path}", [protocol], **options)
        await TCP4ClientEndpoint(reactor, "127.0.0.1", self.port).connect(dial)
        await dial.opened
        return dial


class AutobahnTests(RealCase):
    """Autobahn's own client."""

    async def test_calls(self) -> None:
        """Calls go both ways, in order, and the end is polite."""
        await self.start()
        dial = await self.dial("/site/CP%201")
        client = dial.client
        client.sendMessage(b'[2,"a","Heartbeat",{}]')
        self.assertEqual((await dial.next())[:2], [3, "a"])
        station = self.listener.stations[0]
        self.assertEqual((station.path, station.version), ("site/CP 1", Version.V16))
        result = station.call("Reset", {"type": "Soft"}, 10)
        _, id_, action, payload = await dial.next()
        self.assertEqual((action, payload), ("Reset", {"type": "Soft"}))
        client.sendMessage(json.dumps([3, id_, {"status": "Accepted"}]).encode())
        self.assertEqual(await result, {"status": "Accepted"})
        client.sendClose(1000)
        self.assertEqual(await dial.closed, (True, 1000))

    async def test_fragments_and_sizes(self) -> None:
        """Messages of all sizes, in fragments of all sizes, arrive whole and are answered."""
        await self.start()
        self.listener.answer = {"status": "Accepted"}
        dial = await self.dial()
        for size in (1, 100, 126, 5_000, 65_535, 65_536, 500_000):
            for fragment in (None, 50_000):
                text = json.dumps([2, f"{size}", "DataTransfer", {"vendorId": "v", "data": "x" * size}])
                dial.client.sendMessage(text.encode(), fragmentSize=fragment)
                self.assertEqual(await dial.next(), [3, f"{size}", {"status": "Accepted"}])
        self.assertEqual([len(call[2]["data"]) for call in self.listener.told("call")][-1], 500_000)

    async def test_deflate(self) -> None:
        """With compression, messages go both ways, large and small."""
        await self.start()
        self.listener.answer = {"status": "Accepted", "data": "y" * 5_000}

        def accept(response: Any) -> Any:
            return (
                PerMessageDeflateResponseAccept(response) if isinstance(response, PerMessageDeflateResponse) else None
            )

        dial = await self.dial(
            protocol="ocpp2.0.1",
            perMessageCompressionOffers=[PerMessageDeflateOffer()],
            perMessageCompressionAccept=accept,
        )
        self.assertEqual(len(dial.client.websocket_extensions_in_use), 1)
        for size in (1, 5_000, 200_000, 3):
            text = json.dumps([2, "i", "DataTransfer", {"vendorId": "v", "data": "x" * size}])
            dial.client.sendMessage(text.encode())
            self.assertEqual((await dial.next())[2], self.listener.answer)

    async def test_too_large(self) -> None:
        """A message beyond the limit closes with 1009."""
        await self.start(max_message_bytes=10_000)
        dial = await self.dial()
        dial.client.sendMessage(b" " * 10_001)
        self.assertEqual(await dial.closed, (True, 1009))

    async def test_replacement(self) -> None:
        """Of two connections of one charge point the newer one stays."""
        await self.start()
        old, new = await self.dial(), await self.dial()
        self.assertEqual((await old.closed)[1], 1006)
        new.client.sendMessage(b'[2,"a","Heartbeat",{}]')
        await new.next()

    async def test_does_not_read(self) -> None:
        """A client that stops reading costs no more than the limits say, and is cut."""
        factory = await self.start(ping_interval_seconds=1.0, ping_timeout_seconds=0.5)
        self.listener.answer = {"status": "Accepted", "data": "y" * 50_000}
        with socket.create_connection(("127.0.0.1", self.port)) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            gone: Deferred[str] = Deferred()
            self.listener.disconnected = lambda station, reason: gone.callback(reason)  # type: ignore[method-assign]

            def flood() -> None:
                deaf.sendall(request())
                deaf.settimeout(20)
                try:
                    for number in range(100_000):
                        text = json.dumps([2, str(number), "DataTransfer", {"vendorId": "v"}])
                        deaf.sendall(frame(text.encode()))
                except OSError:
                    return
                raise AssertionError("everything was read")

            flooding = deferToThread(flood)
            await gone
            await flooding
        self.assertLess(len(self.listener.told("call")), 2_000)
        self.assertEqual([notice.kind for notice in self.notices], ["unresponsive"])
        self.assertEqual(factory.stations, {})

    async def test_half_open_flood(self) -> None:
        """Connections that say nothing are cut in time, and meanwhile others come in."""
        factory = await self.start(open_timeout_seconds=1.0, max_openings=50)
        silent = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(30)]
        await self.dial()
        for one in silent:
            one.settimeout(10)
            self.assertIn(await deferToThread(_read, one), (b"", None))
            one.close()
        self.assertEqual(factory.openings, 0)


def _read(one: socket.socket) -> bytes | None:
    try:
        return one.recv(1)
    except ConnectionError:
        return None


class TLSTests(RealCase):
    """TLS in front."""

    def issue(self, files: Files, name: str) -> tuple[Path, Path]:
        """Files of a certificate of ours, and its key."""
        issued: Issued = issue(name, authority("ours"), hosts=(name,))
        return files.write(f"{name}.pem", issued.pem), files.write(f"{name}.key", issued.key_pem())

    async def test_client_certificate(self) -> None:
        """The certificate that a client proved is shown to the user, with the fact that it came over TLS."""
        from tbgw.tls import ServerTLS, server_creator

        files = Files(Path(self.mktemp()))
        ca = files.write("ca.pem", authority("ours").pem)
        server, client = self.issue(files, "central"), self.issue(files, "CP1")
        context = server_creator(ServerTLS(*server, ca))
        await self.start(context)

        def talk(certificate: Any) -> bytes:
            tls = plain_ssl.create_default_context(cafile=str(ca))
            tls.check_hostname = False
            if certificate is not None:
                tls.load_cert_chain(*certificate)
            with (
                socket.create_connection(("127.0.0.1", self.port), timeout=10) as raw,
                tls.wrap_socket(raw) as wrapped,
            ):
                wrapped.sendall(request() + frame(b'[2,"a","Heartbeat",{}]'))
                answer = b""
                while b"currentTime" not in answer:
                    more = wrapped.recv(4096)
                    if not more:
                        break
                    answer += more
                return answer

        self.assertTrue((await deferToThread(talk, client)).startswith(b"HTTP/1.1 101"))
        (shown,) = self.listener.handshakes
        self.assertTrue(shown.tls)
        self.assertIn("CP1", shown.certificate.subject.rfc4514_string())
        with self.assertRaises(plain_ssl.SSLError):
            await deferToThread(talk, None)
        self.assertEqual(len(self.listener.handshakes), 1)

    async def test_handshakes_under_way(self) -> None:
        """Handshakes that only begin are limited: further connections are closed before TLS costs anything."""
        from tbgw.tls import ServerTLS, server_creator

        server = self.issue(Files(Path(self.mktemp())), "central")
        factory = await self.start(server_creator(ServerTLS(*server)), max_tls_handshakes=5)
        silent = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(6)]
        self.assertIn(await deferToThread(_read, silent[-1]), (b"", None))
        self.assertEqual(factory.openings, 5)
        for one in silent:
            one.close()


CHARGER = """
import asyncio, importlib, json, sys
import websockets
from ocpp.routing import on

async def charge(version, port, folder):
    package = importlib.import_module(f"ocpp.{folder}")
    call, result = package.call, package.call_result

    class Charger(package.ChargePoint):
        @on("Reset")
        def reset(self, type, **_):
            return result.Reset(status="Accepted")

    async with websockets.connect(f"ws://127.0.0.1:{port}/CP1", subprotocols=[version]) as link:
        charger = Charger("CP1", link)
        running = asyncio.create_task(charger.start())
        if folder == "v16":
            boot = call.BootNotification(charge_point_model="m", charge_point_vendor="v")
        else:
            boot = call.BootNotification(charging_station={"model": "m", "vendor_name": "v"}, reason="PowerUp")
        answer = await charger.call(boot, suppress=False)
        beat = await charger.call(call.Heartbeat(), suppress=False)
        print(answer.status, beat.current_time, link.subprotocol, flush=True)
        await link.wait_closed()

asyncio.run(charge(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
"""


class PackageTests(RealCase):
    """The package `ocpp` on websockets, which validates what we answer."""

    async def test_each_version(self) -> None:
        """Boot, heartbeat and a Call of ours, in each version."""
        await self.start()
        for version, folder in (("ocpp1.6", "v16"), ("ocpp2.0.1", "v201"), ("ocpp2.1", "v21")):
            answered: Deferred[Any] = Deferred()

            def call_received(station: Any, action: str, payload: Any, faults: Any, answered: Any = answered) -> Any:
                self.assertEqual(list(faults), [])
                now = {"currentTime": "2026-01-01T00:00:00Z"}
                if action == "BootNotification":
                    return {**now, "interval": 300, "status": "Accepted"}
                kind = "Soft" if station.version is Version.V16 else "Immediate"
                station.call("Reset", {"type": kind}, 10).chainDeferred(answered)
                return now

            self.listener.call_received = call_received  # type: ignore[method-assign] # this test's own way
            running = deferToThread(
                subprocess.run,
                [sys.executable, "-c", CHARGER, version, str(self.port), folder],
                capture_output=True,
                text=True,
                timeout=30,
            )
            self.assertEqual((await answered)["status"], "Accepted")
            self.listener.stations[-1].close(1000, "enough")
            done: Any = await running
            self.assertEqual(done.stdout.split(), ["Accepted", "2026-01-01T00:00:00Z", version], done.stderr)


class ExampleTests(SynchronousTestCase):
    """The example of docs/ocpp-protocol.md."""

    def test_example(self) -> None:
        """It runs as printed, lets a charge point in, asks for a heartbeat, answers it, and refuses others."""
        port = free_port()
        example = Path(__file__).parents[2] / "docs" / "examples" / "ocpp_central_system.py"
        program = Program(self, [sys.executable, str(example), str(port)])
        program.wait_for("listening")
        for path, expected in (("/CP1", b"TriggerMessage"), ("/X", b"404 Not Found")):
            with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as link:
                link.sendall(request(path) + frame(b'[2,"a","Heartbeat",{}]'))
                heard = b""
                while expected not in heard:
                    heard += link.recv(4096) or self.fail(f"{heard!r}")
        program.wait_for(r"CP1 Heartbeat \{\} \(\)")


class WithoutTLSTests(SynchronousTestCase):
    """A gateway that has no use for TLS does not load pyOpenSSL."""

    def test_plain(self) -> None:
        """The listener works where OpenSSL cannot be imported, and Autobahn installs no reactor."""
        program = (
            "import sys; sys.modules['OpenSSL'] = None\n"
            "from tests.ocpp.wires import Rig\n"
            "wire = Rig().connect()\n"
            "wire.tell(2, 'a', 'Heartbeat', {})\n"
            "print(wire.messages()[0][:2], 'twisted.internet.reactor' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        self.assertEqual(done.stdout.strip(), "[3, 'a'] False", done.stderr)
