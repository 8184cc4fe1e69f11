"""The WebSocket of a station, byte by byte, without sockets: frames, messages, limits, pings, replacement."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tbgw.ocpp import central_system
from tbgw.ocpp.errors import CallRefused, CallTimedOut, StationGone, StationReplaced
from tbgw.ocpp.interfaces import Admission, Refusal
from tbgw.ocpp.session import Validation
from tbgw.ocpp.versions import Version
from tests.ocpp.wires import Rig, Wire, frame, request

V16, V201, V21 = Version.V16, Version.V201, Version.V21
HEARTBEAT = b'[2,"i","Heartbeat",{}]'
DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}


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


    def test_bounded_memory(self) -> None:
        """Of charge points that come and go, so many are remembered, also when others stay for ever."""
        rig = Rig(max_connections=10)
        with mock.patch.object(central_system, "MAX_REMEMBERED", 20):
            for number in range(10):
                rig.connect(f"/stays{number}")
            for number in range(200):
                rig.factory.replays_of(f"goes{number}", 0.0)
        remembered = rig.factory._replays
        self.assertLessEqual(len(remembered), 21)
        self.assertTrue(all(f"stays{number}" in remembered for number in range(10)))
        self.assertIn("goes199", remembered)


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
