"""The handshake of a station, byte by byte, without sockets: who comes in, and what the others hear."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tbgw.ocpp.interfaces import Admission, Refusal
from tbgw.ocpp.versions import Version
from tests.ocpp.wires import Rig, frame, request

V16, V201, V21 = Version.V16, Version.V201, Version.V21
HEARTBEAT = b'[2,"i","Heartbeat",{}]'
DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}


class HandshakeTests(SynchronousTestCase):
    """Who comes in, and what the others hear."""

    def test_admitted(self) -> None:
        """The user learns path, identity, peer, header and offers; the station gets the version that was chosen."""
        rig = Rig()
        wire = rig.dial()
        wire.say(
            request("/a/CP%201?x=1", ["ocpp2.0.1", "ocpp1.6"], {"Authorization": "Basic \u00e9"}),
        )
        status, headers = wire.head()
        self.assertEqual((status, headers["sec-websocket-protocol"]), (101, "ocpp2.0.1"))
        self.assertNotIn("server", headers)
        (shown,) = rig.listener.handshakes
        self.assertEqual((shown.path, shown.identity, shown.peer), ("a/CP 1", "CP 1", ("192.0.2.7", 50000)))
        self.assertEqual((shown.authorization, shown.offered), (b"Basic \xe9", ("ocpp2.0.1", "ocpp1.6")))
        self.assertEqual((shown.certificate, shown.tls), (None, False))
        (station,) = rig.listener.stations
        self.assertEqual((station.identity, station.version, station.data), ("CP 1", V201, "mine"))
        self.assertTrue(station.connected)

    def test_no_common_subprotocol(self) -> None:
        """Without a common version the handshake completes without one, and the connection is closed at once."""
        for protocols in (["ocpp1.5"], ["mqtt", "ocpp2.0"], []):
            rig = Rig()
            wire = rig.dial()
            wire.say(request("/CP1", protocols))
            head, _, rest = wire.socket.value().partition(b"\r\n\r\n")
            self.assertTrue(head.startswith(b"HTTP/1.1 101"))
            self.assertNotIn(b"Sec-WebSocket-Protocol", head)
            self.assertEqual(rest[:4], b"\x88\x17\x03\xea")
            self.assertEqual((rig.listener.log, rig.factory.stations, rig.kinds()), ([], {}, ["no_subprotocol"]))
            wire.say(frame(HEARTBEAT))
            self.assertEqual(rig.listener.log, [])

    def test_missing_subprotocol(self) -> None:
        """One that offers nothing is let in if the user says so, and only then."""
        rig = Rig()
        rig.listener.verdict = Admission(missing_subprotocol=V16)
        wire = rig.connect(protocols=())
        self.assertEqual(rig.listener.stations[0].version, V16)
        wire.tell(2, "i", "Heartbeat", {})
        self.assertEqual(wire.messages()[0][0], 3)
        rig.connect("/CP3", (), headers={"Sec-WebSocket-Protocol": ""})
        self.assertEqual(rig.listener.handshakes[-1].offered, ())
        wire = rig.dial()
        wire.say(request("/CP2", ["ocpp1.5"]))
        self.assertEqual(len(rig.listener.stations), 2)

    def test_versions_by_station(self) -> None:
        """A station may be pinned to some versions."""
        rig = Rig()
        rig.listener.verdict = Admission(versions=[V16])
        rig.connect(protocols=["ocpp2.1", "ocpp1.6"])
        self.assertEqual(rig.listener.stations[0].version, V16)

    def test_refusals(self) -> None:
        """A refusal is an HTTP answer with its headers, a length and a closed connection, before any 101."""
        for refusal, status, name, value in (
            (Refusal(404, "unknown"), 404, "content-length", "0"),
            (Refusal(401, "wrong"), 401, "www-authenticate", 'Basic realm="OCPP"'),
            (Refusal(401, "wrong", {"WWW-Authenticate": "Bearer"}), 401, "www-authenticate", "Bearer"),
            (Refusal(503, "full", {"Retry-After": "7"}), 503, "retry-after", "7"),
            (Refusal(403, "no", {"X": "a\r\nY: b"}), 403, "connection", "close"),
        ):
            rig = Rig()
            rig.listener.verdict = refusal
            wire = rig.dial()
            wire.say(request())
            got, headers = wire.head()
            self.assertEqual((got, headers[name], headers["content-length"]), (status, value, "0"))
            self.assertNotIn("y", headers)
            self.assertTrue(wire.socket.gone)
            self.assertEqual(rig.kinds(), ["refused"])
            self.assertEqual((rig.factory.openings, rig.factory.countConnections), (0, 0))

    def test_bad_requests(self) -> None:
        """What is no WebSocket handshake is refused with the status that fits, without a word of the peer's in it."""
        for data, status in (
            (request(without=["Upgrade"]), 426),
            (request(without=["Connection"]), 400),
            (request(without=["Host"]), 400),
            (request(without=["Sec-WebSocket-Key"]), 400),
            (request(headers={"Sec-WebSocket-Version": "8"}), 400),
            (request(headers={"Sec-WebSocket-Version": "x"}), 400),
            (request(line="POST {} HTTP/1.1"), 405),
            (request(line="GET {} HTTP/1.0"), 505),
            (request(line="GET"), 400),
            (request("/secret%zz"), 400),
            (request("/secret%00"), 400),
            (request("/"), 404),
            (request("/" + "s" * 256), 400),
            (request(protocols=["ocpp1.6", "ocpp1.6"]), 400),
            (request("/?redirect=http://evil", without=["Upgrade"]), 426),
            (b"\r\n\r\n", 400),
            (b"secret\r\n\r\n", 400),
        ):
            rig = Rig()
            wire = rig.dial()
            wire.say(data)
            self.assertEqual(wire.head()[0], status, data)
            self.assertNotIn(b"secret", wire.socket.value())
            self.assertTrue(wire.socket.gone)
            self.assertEqual(rig.listener.log, [])
            self.assertEqual(rig.factory.openings, 0)

    def test_admit_fails(self) -> None:
        """When the user's own code fails nobody comes in: 500, and the fault is logged."""
        for late in (False, True):
            rig = Rig()
            decision: Deferred[Any] = Deferred()
            rig.listener.verdict = decision if late else RuntimeError("secret")
            wire = rig.dial()
            wire.say(request())
            if late:
                decision.errback(Failure(RuntimeError("secret")))
            self.assertEqual(wire.head()[0], 500)
            self.assertNotIn(b"secret", wire.socket.value())
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_admit_takes_time(self) -> None:
        """While the user decides nothing else happens: what comes early waits, a second request is no request."""
        rig = Rig()
        decision: Deferred[Any] = Deferred()
        rig.listener.verdict = decision
        wire = rig.dial()
        wire.say(request() + frame(HEARTBEAT))
        wire.say(frame(HEARTBEAT) + request("/other"))
        self.assertEqual((len(rig.listener.handshakes), wire.socket.value()), (1, b""))
        decision.callback(Admission())
        self.assertEqual(len(rig.listener.handshakes), 1)
        self.assertEqual([entry[0] for entry in rig.listener.log[:3]], ["connected", "call", "call"])

    def test_gone_before_decided(self) -> None:
        """One that hangs up while the user decides is never connected."""
        for verdict in (Admission(), Refusal(404, "unknown")):
            rig = Rig()
            decision: Deferred[Any] = Deferred()
            rig.listener.verdict = decision
            wire = rig.dial()
            wire.say(request())
            wire.socket.abortConnection()
            decision.callback(verdict)
            self.assertEqual((rig.listener.log, rig.factory.stations, rig.factory.openings), ([], {}, 0))

    def test_head_too_large(self) -> None:
        """An endless head is cut off at its limit, whole or in pieces."""
        for piece in (0, 1000):
            rig = Rig()
            wire = rig.dial()
            wire.say(b"GET /CP1 HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, piece)
            self.assertEqual(wire.head()[0], 431)
            self.assertTrue(wire.socket.gone)
        wire = Rig().dial()
        wire.say(request(headers={"X": "y" * 16_000}))
        self.assertEqual(wire.head()[0], 101)

    def test_early_flood(self) -> None:
        """What comes before the handshake is over is bounded too."""
        rig = Rig()
        rig.listener.verdict = Deferred()
        wire = rig.dial()
        wire.say(request())
        wire.say(b"x" * 100_000, 1000)
        self.assertTrue(wire.socket.gone)

    def test_timeout(self) -> None:
        """A handshake that takes too long is cut, whoever is slow."""
        rig = Rig(open_timeout_seconds=5)
        silent, slow = rig.dial(), rig.dial()
        rig.listener.verdict = Deferred()
        slow.say(request())
        rig.clock.advance(4.9)
        self.assertFalse(silent.socket.gone or slow.socket.gone)
        rig.clock.advance(0.2)
        self.assertTrue(silent.socket.gone and slow.socket.gone)
        self.assertEqual((rig.factory.openings, rig.clock.getDelayedCalls()), (0, []))

    def test_storm(self) -> None:
        """Beyond the rate come 503 and the time to come again, before anybody's password is looked at."""
        rig = Rig(connections_per_second=10, connection_burst=3)
        wires = [rig.dial() for _ in range(5)]
        for number, wire in enumerate(wires):
            wire.say(request(f"/CP{number}"))
        self.assertEqual([wire.head()[0] for wire in wires], [101, 101, 101, 503, 503])
        self.assertEqual(wires[3].head()[1]["retry-after"], "1")
        self.assertEqual((len(rig.listener.handshakes), rig.kinds()), (3, ["storm", "storm"]))

    def test_places(self) -> None:
        """When all places are taken a newcomer hears 503; a place that becomes free is given away."""
        rig = Rig(max_connections=2)
        first, _ = rig.connect("/CP1"), rig.connect("/CP2")
        wire = rig.dial()
        wire.say(request("/CP3"))
        self.assertEqual(wire.head()[0], 503)
        first.socket.abortConnection()
        rig.connect("/CP3")

    def test_openings(self) -> None:
        """Handshakes under way have a limit; those beyond are closed before they cost anything."""
        rig = Rig(max_openings=2)
        rig.dial()
        wire = rig.dial()
        self.assertIsNone(rig.factory.buildProtocol(wire.socket.getPeer()))
        wire.say(request())
        self.assertIsNotNone(rig.factory.buildProtocol(wire.socket.getPeer()))
        self.assertEqual(rig.kinds(), ["openings_full"])

    def test_silent_openings(self) -> None:
        """Those who dial and say nothing lock nobody out: the oldest of them goes, once it had its time."""
        rig = Rig(max_openings=2)
        silent = [rig.dial(), rig.dial()]
        rig.clock.advance(1.9)
        self.assertIsNone(rig.factory.buildProtocol(silent[0].socket.getPeer()))
        rig.clock.advance(0.2)
        rig.connect()
        self.assertEqual([wire.socket.gone for wire in silent], [True, False])
        self.assertEqual(rig.kinds(), ["openings_full", "slow_opening"])

    def test_proxy(self) -> None:
        """Behind a trusted proxy the station has its own address, and TLS counts."""
        rig = Rig(trusted_proxies=[ip_network("192.0.2.0/24")])
        rig.connect(headers={"X-Forwarded-For": "6.6.6.6, 198.51.100.4", "X-Forwarded-Proto": "https"})
        self.assertEqual(rig.listener.stations[0].peer, ("198.51.100.4", 0))
        self.assertTrue(rig.listener.handshakes[0].tls)
