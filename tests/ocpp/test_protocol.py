"""The WebSocket of a station, byte by byte, without sockets: handshake, frames, limits, pings, replacement."""

from __future__ import annotations

import json
import zlib
from ipaddress import ip_network
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tbgw.ocpp.errors import CallRefused, CallTimedOut, StationGone, StationReplaced
from tbgw.ocpp.interfaces import Admission, Refusal
from tbgw.ocpp.session import Validation
from tbgw.ocpp.versions import Version
from tests.ocpp.wires import Rig, Wire, frame, request

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


class FrameTests(SynchronousTestCase):
    """Bytes in any pieces, right and wrong."""

    def test_split_everywhere(self) -> None:
        """A handshake and three messages mean the same wherever the stream is cut."""
        stream = request() + b"".join(
            frame(json.dumps([2, str(size), "DataTransfer", {"vendorId": "v", "data": "x" * size}]).encode())
            for size in (1, 200, 70_000)
        )
        whole = self.conversation(stream, 0)
        self.assertEqual(len(whole), 3)
        for piece in (1, 2, 3, 5, 7, 11, 64, 125, 126, 127, 1000, 65_535):
            self.assertEqual(self.conversation(stream, piece), whole, piece)
        short = stream[: len(request()) + 300]
        for cut in range(1, len(short)):
            rig = Rig()
            wire = rig.dial()
            wire.say(short[:cut])
            wire.say(short[cut:])
            self.assertEqual(len(rig.listener.told("call")), 1, cut)

    def conversation(self, stream: bytes, piece: int) -> list[Any]:
        rig = Rig()
        rig.listener.answer = {"status": "Accepted"}
        rig.dial().say(stream, piece)
        return rig.listener.told("call")

    def test_many_in_one_piece(self) -> None:
        """Several messages in one piece are all read, with a ping among them and a cut one at the end."""
        rig = Rig()
        wire = rig.connect()
        wire.say(frame(HEARTBEAT) * 3 + frame(b"p", 9) + frame(HEARTBEAT) * 2 + frame(HEARTBEAT)[:9])
        self.assertEqual(len(rig.listener.told("call")), 5)
        self.assertEqual([opcode for opcode, _ in wire.heard()], [1, 1, 1, 10, 1, 1])
        wire.say(frame(HEARTBEAT)[9:])
        self.assertEqual(len(rig.listener.told("call")), 6)

    def test_fragments(self) -> None:
        """A message in fragments is one message, with control frames in between; too many fragments are no message."""
        rig = Rig(max_fragments=50)
        wire = rig.connect()
        wire.say(frame(HEARTBEAT[:5], 1, fin=False) + frame(b"", 9) + frame(HEARTBEAT[5:], 0))
        self.assertEqual(len(rig.listener.told("call")), 1)
        wire.say(frame(b"[", 1, fin=False) + frame(b"", 0, fin=False) * 60)
        self.assertEqual(wire.close_code(), 1009)

    def test_protocol_errors(self) -> None:
        """Each breach of the protocol closes with its code, a frame of it sent."""
        for data, code in (
            (frame(HEARTBEAT, masked=False), 1002),
            (frame(b"x", 3), 1002),
            (frame(b"x", 0), 1002),
            (frame(HEARTBEAT, rsv=4), 1002),
            (frame(b"x", 9, fin=False), 1002),
            (frame(b"\xff\xfe"), 1007),
            (frame(b'"\xc3'), 1007),
            (frame(b"\xed\xa0\x80"), 1007),
            (frame(b"\xff", 1, fin=False), 1007),
            (frame(b"{}", 2), 1003),
            (frame(b"x" * 1001), 1009),
            (frame(b"x" * 600, 1, fin=False) + frame(b"x" * 600, 0), 1009),
            (b"\x81\xff" + b"\x7f" * 12, 1009),
            (b"\x81\xfe\x00\x05" + b"\0" * 9, 1002),
        ):
            rig = Rig(max_message_bytes=1000)
            wire = rig.connect()
            wire.say(data)
            self.assertEqual(wire.close_code(), code, data)
            self.assertFalse(wire.socket.gone)
            wire.say(frame(HEARTBEAT))
            self.assertEqual(rig.listener.told("call"), [])
            rig.clock.advance(3)
            self.assertTrue(wire.socket.gone)
            self.assertEqual(len(rig.listener.told("disconnected")), 1)

    def test_limit(self) -> None:
        """A message of exactly the limit is read."""
        text = json.dumps([2, "i", "DataTransfer", {"vendorId": "v", "data": ""}])
        for limit in (1000, 70_000, 1_048_576):
            rig = Rig(max_message_bytes=limit)
            rig.listener.answer = {"status": "Accepted"}
            full = text.replace('""', '"' + "x" * (limit - len(text)) + '"').encode()
            wire = rig.connect()
            wire.say(frame(full))
            self.assertEqual(wire.messages()[0][0], 3)
            wire.say(frame(full + b" "))
            self.assertEqual(wire.close_code(), 1009)

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(
            st.binary(max_size=40) | st.builds(frame, st.binary(max_size=200), st.integers(0, 15), st.booleans()),
            max_size=8,
        )
    )
    def test_fuzz(self, pieces: list[bytes]) -> None:
        """Whatever bytes come, nothing is raised and nothing is left behind."""
        rig = Rig()
        wire = rig.connect()
        for piece in pieces:
            if piece:
                wire.say(piece)
        wire.socket.abortConnection()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual((rig.factory.stations, len(rig.factory.wheel), rig.clock.getDelayedCalls()), ({}, 0, []))

    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 200))
    def test_fuzz_head(self, rubbish: bytes, start: int, end: int) -> None:
        """The same for rubbish in the request."""
        head = request()
        rig = Rig()
        wire = rig.dial()
        wire.say(head[:start] + rubbish + head[end:] + b"\r\n\r\n")
        if not wire.socket.gone:
            wire.socket.abortConnection()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual((rig.factory.stations, rig.factory.openings), ({}, 0))


class MessageTests(SynchronousTestCase):
    """Calls both ways over the wire."""

    def test_answers(self) -> None:
        """An answer may come at once, later, or be a refusal; anything else raised is InternalError and logged."""
        rig = Rig()
        wire = rig.connect()
        wire.tell(2, "a", "Heartbeat", {})
        self.assertEqual(wire.messages(), [[3, "a", rig.listener.answer]])
        later: Deferred[Any] = Deferred()
        rig.listener.answer, value = later, rig.listener.answer
        wire.tell(2, "b", "Heartbeat", {})
        self.assertEqual(wire.messages(), [])
        later.callback(value)
        self.assertEqual(wire.messages(), [[3, "b", value]])
        refused: Deferred[Any] = Deferred()
        refused.errback(CallRefused("NotSupported", "why"))
        for answer in (CallRefused("NotSupported", "why"), refused):
            rig.listener.answer = answer
            wire.tell(2, "c", "Heartbeat", {})
            self.assertEqual(wire.messages(), [[4, "c", "NotSupported", "why", {}]])
        rig.listener.answer = RuntimeError("secret")
        wire.tell(2, "d", "Heartbeat", {})
        self.assertEqual(wire.messages(), [[4, "d", "InternalError", "", {}]])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_invalid_answer(self) -> None:
        """An answer that breaks its schema is our bug: logged, and an InternalError for the station."""
        rig = Rig()
        rig.listener.answer = {"currentTime": 5}
        wire = rig.connect()
        wire.tell(2, "a", "Heartbeat", {})
        self.assertEqual(wire.messages()[0][:3], [4, "a", "InternalError"])
        self.assertEqual(rig.kinds(), ["answer_invalid"])

    def test_faults(self) -> None:
        """What a schema says against a payload comes with it; strict mode answers it and hands nothing over."""
        for validation, calls, notices in ((Validation.LENIENT, 1, []), (Validation.STRICT, 0, ["payload_invalid"])):
            rig = Rig(validation=validation)
            rig.connect().tell(2, "a", "Heartbeat", {"x": 1})
            self.assertEqual((len(rig.listener.told("call")), rig.kinds()), (calls, notices))
            if calls:
                self.assertEqual(len(rig.listener.told("call")[0][3]), 1)

    def test_calls(self) -> None:
        """Two Calls are strictly one after the other, with the station's own in between."""
        rig = Rig()
        wire = rig.connect()
        station = rig.listener.stations[0]
        first = station.call("ClearCache", {}, 30)
        second = station.call("Reset", {"type": "Soft"}, 30)
        ((_, id_, action, _),) = wire.messages()
        self.assertEqual(action, "ClearCache")
        wire.tell(2, "x", "Heartbeat", {})
        self.assertEqual([message[0] for message in wire.messages()], [3])
        wire.tell(3, id_, {"status": "Accepted"})
        self.assertEqual(self.successResultOf(first), {"status": "Accepted"})
        ((_, id_, action, _),) = wire.messages()
        self.assertEqual(action, "Reset")
        rig.clock.advance(30)
        self.failureResultOf(second, CallTimedOut)
        wire.tell(3, id_, {"status": "Accepted"})
        self.assertEqual(rig.kinds(), ["late_result"])
        self.assertEqual(len(rig.clock.getDelayedCalls()), 1)  # the wheel's

    def test_call_from_a_result(self) -> None:
        """A Call may be made from where the result of another arrives."""
        rig = Rig()
        wire = rig.connect()
        station = rig.listener.stations[0]
        done = station.call("ClearCache", {}, 30).addCallback(lambda _: station.call("ClearCache", {}, 30))
        for number in (1, 2):
            self.assertEqual(wire.messages()[0][1], f"n-{number}")
            wire.tell(3, f"n-{number}", {"status": "Accepted"})
        self.assertEqual(self.successResultOf(done), {"status": "Accepted"})

    def test_cancel(self) -> None:
        """A cancelled Call leaves room for the next."""
        rig = Rig()
        wire = rig.connect()
        station = rig.listener.stations[0]
        first = station.call("ClearCache", {}, 30)
        second = station.call("ClearCache", {}, 30)
        first.addErrback(lambda _: None).cancel()
        self.assertEqual([message[1] for message in wire.messages()], ["n-1", "n-2"])
        wire.tell(3, "n-2", {"status": "Accepted"})
        self.assertEqual(self.successResultOf(second), {"status": "Accepted"})

    def test_gone(self) -> None:
        """When the connection ends all Calls fail before the user hears of it, and later ones fail at once."""
        rig = Rig()
        wire = rig.connect()
        station = rig.listener.stations[0]
        calls = [station.call("ClearCache", {}, 30) for _ in range(2)]

        def failed(failure: Failure) -> Failure:
            rig.listener.log.append(("failed",))
            return failure

        calls[0].addErrback(failed)
        wire.socket.abortConnection()
        for call in calls:
            self.failureResultOf(call, StationGone)
        self.assertEqual([entry[0] for entry in rig.listener.log], ["connected", "failed", "disconnected"])
        self.assertFalse(station.connected)
        self.failureResultOf(station.call("ClearCache", {}, 30), StationGone)
        self.assertEqual(rig.clock.getDelayedCalls(), [])

    def test_send(self) -> None:
        """SENDs of 2.1, both ways."""
        rig = Rig()
        wire = rig.connect(protocols=["ocpp2.1"])
        stream = {"id": 1, "pending": 0, "basetime": "2026-01-01T00:00:00Z", "data": [{"t": 0, "v": "1"}]}
        wire.tell(6, "s", "NotifyPeriodicEventStream", stream)
        self.assertEqual(rig.listener.told("send"), [("send", "NotifyPeriodicEventStream", stream, ())])
        self.assertEqual(wire.messages(), [])
        rig.listener.stations[0].send("NotifyPeriodicEventStream", stream)
        self.assertEqual(wire.messages()[0][0], 6)

    def test_too_many_faults(self) -> None:
        """A station that sends rubbish is borne for a while, then closed with 1008."""
        rig = Rig(max_faults_per_minute=5)
        wire = rig.connect()
        for _ in range(5):
            wire.say(frame(b"rubbish"))
        self.assertEqual(wire.heard(), [])
        wire.say(frame(b"rubbish"))
        self.assertEqual(wire.close_code(), 1008)
        self.assertEqual(rig.kinds()[-2:], ["bad_message", "too_many_faults"])

    def test_duplicate_over_a_new_connection(self) -> None:
        """A Call that was answered into a dead connection is answered alike over the next, and told once."""
        rig = Rig()
        start = {"connectorId": 1, "idTag": "A", "meterStart": 0, "timestamp": "2026-01-01T00:00:00Z"}
        rig.listener.answer = Deferred()
        rig.connect().tell(2, "i", "StartTransaction", start)
        wire = rig.connect()
        wire.tell(2, "i", "StartTransaction", start)
        rig.listener.answer.callback({"idTagInfo": {"status": "Accepted"}, "transactionId": 7})
        self.assertEqual(wire.messages()[0][2]["transactionId"], 7)
        wire = rig.connect()
        wire.tell(2, "i", "StartTransaction", start)
        self.assertEqual(wire.messages()[0][2]["transactionId"], 7)
        self.assertEqual(len(rig.listener.told("call")), 1)


class ReplacementTests(SynchronousTestCase):
    """The same charge point twice."""

    def test_newcomer_wins(self) -> None:
        """The older connection is cut when the newer is in, its Calls fail as replaced, in this order."""
        rig = Rig()
        old = rig.connect()
        call = rig.listener.stations[0].call("ClearCache", {}, 30)
        new = rig.connect()
        self.failureResultOf(call, StationReplaced)
        self.assertTrue(old.socket.aborted)
        self.assertEqual([entry[0] for entry in rig.listener.log], ["connected", "disconnected", "connected"])
        self.assertIs(rig.factory.stations["CP1"], new.protocol)
        self.assertEqual((rig.kinds(), len(rig.factory.wheel)), (["replaced"], 1))
        new.tell(2, "i", "Heartbeat", {})
        self.assertEqual(len(new.messages()), 1)

    def test_refused_newcomer(self) -> None:
        """A newcomer that is not let in does the older one no harm."""
        for verdict, protocols in ((Refusal(401, "wrong"), ["ocpp1.6"]), (Admission(), ["ocpp1.5"])):
            rig = Rig()
            old = rig.connect()
            rig.listener.verdict = verdict
            rig.dial().say(request(protocols=protocols))
            self.assertFalse(old.socket.gone)
            self.assertIs(rig.factory.stations["CP1"], old.protocol)

    def test_either_end_first(self) -> None:
        """Whichever of the two sockets ends first, the one that counts stays, or nobody."""
        for order in ((0, 1), (1, 0)):
            rig = Rig()
            wires: list[Wire] = []
            for _ in range(2):
                wires.append(rig.connect())
                wires[-1].socket._end = lambda why: None  # type: ignore[method-assign] # its end comes late
            ends = [wire.socket for wire in wires]
            ends[order[0]].protocol.connectionLost(Failure(StationGone()))
            self.assertEqual("CP1" in rig.factory.stations, order[0] == 0)
            ends[order[1]].protocol.connectionLost(Failure(StationGone()))
            self.assertEqual(rig.factory.stations, {})
            self.assertEqual(len(rig.listener.told("disconnected")), 2)


class PingTests(SynchronousTestCase):
    """Whether a station is alive."""

    def test_two_strikes(self) -> None:
        """After a silence two pings go out; when both meet silence too the connection is cut."""
        rig = Rig()
        wire = rig.connect()
        rig.clock.advance(59)
        self.assertEqual(wire.heard(), [])
        rig.clock.advance(1)
        self.assertEqual([opcode for opcode, _ in wire.heard()], [9])
        rig.clock.advance(30)
        self.assertEqual([opcode for opcode, _ in wire.heard()], [9])
        rig.clock.advance(29)
        self.assertFalse(wire.socket.gone)
        rig.clock.advance(1)
        self.assertTrue(wire.socket.aborted)
        self.assertEqual(rig.kinds(), ["unresponsive"])
        self.assertEqual(rig.listener.told("disconnected"), [("disconnected", "CP1", "it answered no ping")])
        self.assertEqual(rig.clock.getDelayedCalls(), [])

    def test_any_traffic_counts(self) -> None:
        """A station that never answers pings but talks stays, and one that only answers pings stays too."""
        for data in (frame(HEARTBEAT), frame(b"", 10), frame(b"", 9), frame(HEARTBEAT)[:3]):
            rig = Rig()
            wire = rig.connect()
            for _ in range(3):
                rig.clock.advance(60)
                rig.clock.advance(30)
                rig.clock.advance(25)
                wire.say(data)
                rig.clock.advance(20)
                if len(data) == 3:
                    break
            self.assertFalse(wire.socket.gone)

    def test_talkers_are_not_pinged(self) -> None:
        """Who talks more often than the interval gets no ping."""
        rig = Rig()
        wire = rig.connect()
        for _ in range(20):
            rig.clock.advance(50)
            wire.say(frame(b"", 10))
        self.assertEqual(wire.heard(), [])

    def test_off(self) -> None:
        """An interval of 0 means no pings and no timer."""
        rig = Rig(ping_interval_seconds=0)
        wire = rig.connect()
        rig.clock.advance(100_000)
        self.assertEqual((wire.heard(), wire.socket.gone), ([], False))

    def test_not_while_we_do_not_read(self) -> None:
        """Silence means nothing while we are the ones who do not read."""
        rig = Rig()
        wire = rig.connect()
        rig.factory.pause()
        for _ in range(10):
            rig.clock.advance(60)
        self.assertFalse(wire.socket.gone)
        rig.factory.resume()
        for _ in range(3):
            rig.clock.advance(60)
        self.assertTrue(wire.socket.gone)


class FlowTests(SynchronousTestCase):
    """Nothing grows without bound."""

    def test_unanswered(self) -> None:
        """With too many unanswered Calls nothing more is read, not even what is here already; answers open it again."""
        rig = Rig(max_open_calls=4)
        wire = rig.connect()
        answers: list[Deferred[Any]] = []

        def call_received(*_: Any) -> Deferred[Any]:
            answers.append(Deferred())
            return answers[-1]

        rig.listener.call_received = call_received  # type: ignore[method-assign,assignment] # this test's way to answer
        wire.say(b"".join(frame(json.dumps([2, str(n), "Heartbeat", {}]).encode()) for n in range(10)))
        self.assertEqual((len(answers), wire.socket.producerState), (4, "paused"))
        for answer in answers[:2]:
            answer.callback({"currentTime": "2026-01-01T00:00:00Z"})
        self.assertEqual((len(answers), wire.socket.producerState), (6, "paused"))
        while len(answers) < 10 or any(not answer.called for answer in answers):
            next(a for a in answers if not a.called).callback({"currentTime": "2026-01-01T00:00:00Z"})
        self.assertEqual(wire.socket.producerState, "producing")
        self.assertEqual([message[1] for message in wire.messages()], [str(n) for n in range(10)])

    def test_not_reading(self) -> None:
        """From a station that does not read nothing is read; what waits for it has a limit, then it is cut."""
        rig = Rig(max_unsent_bytes=10_000)
        wire = rig.connect()
        wire.socket.producer.pauseProducing()  # type: ignore[union-attr] # registered when it connected
        self.assertEqual(wire.socket.producerState, "paused")
        station = rig.listener.stations[0]
        for _ in range(20):
            station.call("DataTransfer", {"vendorId": "v", "data": "x" * 1000}, 1).addErrback(lambda _: None)
            rig.clock.advance(1)
        self.assertTrue(wire.socket.aborted)
        self.assertEqual(rig.kinds(), ["not_reading"])

    def test_reading_again(self) -> None:
        """When it reads again so do we."""
        rig = Rig()
        wire = rig.connect()
        wire.socket.producer.pauseProducing()  # type: ignore[union-attr] # registered when it connected
        wire.socket.producer.resumeProducing()  # type: ignore[union-attr] # as above
        self.assertEqual(wire.socket.producerState, "producing")

    def test_paused_by_the_owner(self) -> None:
        """While the owner has no room nothing is read from anybody, newcomers included; then everything comes."""
        rig = Rig()
        first = rig.connect("/CP1")
        rig.factory.pause()
        second = rig.connect("/CP2")
        for wire in (first, second):
            self.assertEqual(wire.socket.producerState, "paused")
            wire.say(frame(HEARTBEAT))
        self.assertEqual(rig.listener.told("call"), [])
        rig.factory.resume()
        self.assertEqual(len(rig.listener.told("call")), 2)
        self.assertEqual(second.socket.producerState, "producing")

    def test_close(self) -> None:
        """Closing tells every station, waits for them a short time, and lets nobody in any more."""
        rig = Rig()
        polite, deaf, opening = rig.connect("/CP1"), rig.connect("/CP2"), rig.dial()
        rig.factory.pause()
        done = rig.factory.close()
        self.assertTrue(opening.socket.gone)
        self.assertEqual((polite.close_code(), deaf.close_code()), (1001, 1001))
        polite.say(frame(b"\x03\xe9", 8))
        self.assertTrue(polite.socket.gone)
        self.assertNoResult(done)
        rig.clock.advance(2)
        self.assertTrue(deaf.socket.aborted)
        self.successResultOf(done)
        self.assertIsNone(rig.factory.buildProtocol(polite.socket.getPeer()))
        self.assertEqual(rig.clock.getDelayedCalls(), [])
        self.successResultOf(rig.factory.close())

    def test_close_one(self) -> None:
        """A station can be closed by its user; the reason is cut to what a frame holds."""
        rig = Rig()
        wire = rig.connect()
        rig.listener.stations[0].close(1008, "é" * 100)
        ((opcode, payload),) = wire.heard()
        self.assertEqual((opcode, payload[:2], len(payload) <= 125), (8, b"\x03\xf0", True))
        payload[2:].decode()

    def test_closed_by_the_station(self) -> None:
        """A close frame of the station's is answered, and its code is what the user hears."""
        rig = Rig()
        wire = rig.connect()
        wire.say(frame(b"\x03\xe8bye", 8))
        self.assertEqual(wire.close_code(), 1000)
        self.assertEqual(rig.listener.told("disconnected"), [("disconnected", "CP1", "closed with 1000")])


class DeflateTests(SynchronousTestCase):
    """permessage-deflate, for 2.x only."""

    def deflated(self, data: bytes, bits: int = -9) -> bytes:
        deflate = zlib.compressobj(9, zlib.DEFLATED, bits)
        return (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def extensions(self, protocol: str, offer: str, **options: Any) -> str | None:
        wire = Rig(**options).dial()
        wire.say(request(protocols=[protocol], headers={"Sec-WebSocket-Extensions": offer}))
        status, headers = wire.head()
        self.assertEqual(status, 101)
        return headers.get("sec-websocket-extensions")

    def test_negotiation(self) -> None:
        """1.6 goes without, 2.x gets the small parameters that its offer allows."""
        offer = "permessage-deflate; client_max_window_bits"
        self.assertIsNone(self.extensions("ocpp1.6", offer))
        self.assertIsNone(self.extensions("ocpp2.0.1", offer, compression=False))
        self.assertIsNone(self.extensions("ocpp2.0.1", "x-webkit-deflate-frame"))
        full = self.extensions("ocpp2.0.1", offer)
        assert full is not None
        self.assertIn("client_max_window_bits=9", full)
        self.assertIn("client_no_context_takeover", full)
        bare = self.extensions("ocpp2.1", "permessage-deflate")
        assert bare is not None
        self.assertNotIn("max_window_bits", bare)
        asked = self.extensions("ocpp2.1", "permessage-deflate; server_max_window_bits=10; server_no_context_takeover")
        assert asked is not None
        self.assertIn("server_max_window_bits=10", asked)

    def test_odd_offers(self) -> None:
        """An offer that makes no sense never leaves a socket hanging: 101 without it, or 400."""
        for offer in (
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=99",
            "permessage-deflate; nonsense=1",
            "permessage-bzip2; client_max_compress_level=x",
            ";;;",
        ):
            wire = Rig().dial()
            wire.say(request(protocols=["ocpp2.0.1"], headers={"Sec-WebSocket-Extensions": offer}))
            self.assertIn(wire.head()[0], (101, 400), offer)

    def test_messages(self) -> None:
        """Compressed and plain messages mix; short answers go plain, long ones compressed; no zlib object is kept."""
        rig = Rig()
        wire = rig.connect(protocols=["ocpp2.0.1"], headers=DEFLATE)
        for text in (HEARTBEAT, HEARTBEAT, b'[2,"j","Heartbeat",{"customData":{"vendorId":"' + b"v" * 200 + b'"}}]'):
            wire.say(frame(self.deflated(text), rsv=4))
        wire.say(frame(HEARTBEAT))
        self.assertEqual(len(rig.listener.told("call")), 4)
        self.assertEqual(len(wire.messages()), 4)
        rig.listener.stations[0].call("DataTransfer", {"vendorId": "v", "data": "x" * 2000}, 5).addErrback(
            lambda _: None
        )
        sent = wire.socket.value()
        self.assertEqual((sent[0], len(sent) < 200), (0xC1, True))
        deflate = wire.protocol._perMessageCompress
        self.assertEqual((deflate._compressor, deflate._decompressor), (None, None))

    def test_bomb(self) -> None:
        """A message that grows beyond the limit is stopped near the limit, in one frame or in many."""
        bomb = self.deflated(b"[" + b" " * 50_000_000, -15)
        for pieces in (1, 20):
            rig = Rig()
            wire = rig.connect(protocols=["ocpp2.0.1"], headers={"Sec-WebSocket-Extensions": "permessage-deflate"})
            size = len(bomb) // pieces + 1
            for start in range(0, len(bomb), size):
                wire.say(
                    frame(
                        bomb[start : start + size],
                        0 if start else 1,
                        fin=start + size >= len(bomb),
                        rsv=0 if start else 4,
                    )
                )
            self.assertEqual(wire.close_code(), 1009)

    def test_corrupt(self) -> None:
        """What cannot be decompressed closes with 1007."""
        wire = Rig().connect(protocols=["ocpp2.0.1"], headers=DEFLATE)
        wire.say(frame(b"\xff" * 50, rsv=4))
        self.assertEqual(wire.close_code(), 1007)
