"""The conversation with one station, without a socket: Calls both ways, order, time-outs, duplicates, budgets."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbgw.ocpp.actions import UNCONFIRMED, station_actions
from tbgw.ocpp.errors import (
    CallErrorReceived,
    CallQueueFull,
    CallRefused,
    CallTimedOut,
    PayloadInvalid,
    ResultInvalid,
    StationGone,
)
from tbgw.ocpp.replays import GENERATION, GENERATION_SECONDS, Replays
from tbgw.ocpp.session import (
    CallArrived,
    CallEnded,
    Ignored,
    IncomingCall,
    MessageIds,
    OutgoingCall,
    SendArrived,
    Session,
    SessionOptions,
    Validation,
)
from tbgw.ocpp.versions import Version
from tests.ocpp.samples import breakages, every_schema, sample

V16, V201, V21 = Version.V16, Version.V201, Version.V21

START = {"connectorId": 1, "idTag": "A", "meterStart": 0, "timestamp": "2026-01-01T00:00:00Z"}
STARTED = {"idTagInfo": {"status": "Accepted"}, "transactionId": 7}


class SessionCase(SynchronousTestCase):
    """What the tests below share."""

    def session(self, version: Version = V16, replays: Replays[IncomingCall] | None = None, **options: Any) -> Session:
        replays = replays if replays is not None else Replays()
        return Session(version, SessionOptions(**options), MessageIds("n"), replays)

    def take(self, session: Session) -> list[Any]:
        return [json.loads(text) for text in session.take_outgoing()]

    def arrive(self, session: Session, id_: Any, action: str, payload: Any, now: float = 0.0) -> CallArrived:
        event = session.receive(json.dumps([2, id_, action, payload]), now)
        assert isinstance(event, CallArrived), event
        return event

    def result(self, session: Session, call: OutgoingCall, payload: Any, now: float = 0.0) -> Any:
        return session.receive(json.dumps([3, call.id, payload]), now)


class IncomingTests(SessionCase):
    """The station's Calls."""

    def test_answer(self) -> None:
        """A Call is handed over with its payload and its answer bears its id."""
        session = self.session()
        event = self.arrive(session, "i", "Authorize", {"idTag": "A"})
        self.assertEqual((event.call.action, event.payload, event.fault), ("Authorize", {"idTag": "A"}, None))
        self.assertIsNone(session.answer(event.call, {"idTagInfo": {"status": "Accepted"}}, 0.0))
        self.assertEqual(self.take(session), [[3, "i", {"idTagInfo": {"status": "Accepted"}}]])

    def test_refuse(self) -> None:
        """A refusal is a CALLERROR in the version's spelling; details that JSON cannot hold are left out."""
        for version, code in ((V16, "OccurenceConstraintViolation"), (V201, "OccurrenceConstraintViolation")):
            session = self.session(version)
            call = self.arrive(session, "i", "Heartbeat", {}).call
            session.refuse(call, CallRefused("OccurrenceConstraintViolation", "why", {"x": float("nan")}), 0.0)
            self.assertEqual(self.take(session), [[4, "i", code, "why", {}]])

    def test_order(self) -> None:
        """Answers leave in the order in which the Calls came, whichever is ready first."""
        session = self.session()
        first, second, third = (self.arrive(session, id_, "Heartbeat", {}).call for id_ in "abc")
        now = {"currentTime": "2026-01-01T00:00:00Z"}
        session.answer(second, now, 0.0)
        session.answer(third, now, 0.0)
        self.assertEqual((self.take(session), session.unanswered), ([], 3))
        session.refuse(first, CallRefused("InternalError"), 0.0)
        self.assertEqual([message[1] for message in self.take(session)], ["a", "b", "c"])
        self.assertEqual(session.unanswered, 0)

    def test_invalid_answer(self) -> None:
        """An answer of ours that breaks its schema is not sent; the station hears InternalError and we hear why."""
        session = self.session()
        for answer in ({}, {"currentTime": float("nan")}, {"currentTime": 1}):
            call = self.arrive(session, "i", "Heartbeat", {}).call
            self.assertIsNotNone(session.answer(call, answer, 0.0))
            self.assertEqual(self.take(session), [[4, "i", "InternalError", "", {}]])

    def test_validation(self) -> None:
        """Lenient hands a broken payload over with its fault, strict answers it, off does not look."""
        payload = {"connectorId": "1", "errorCode": "NoError", "status": "Available"}
        for validation, fault in ((Validation.LENIENT, True), (Validation.OFF, False)):
            event = self.arrive(self.session(validation=validation), "i", "StatusNotification", payload)
            self.assertEqual(event.fault is not None, fault)
        for version, broken, code in (
            (V16, payload, "TypeConstraintViolation"),
            (V16, {}, "OccurenceConstraintViolation"),
            (V201, {}, "OccurrenceConstraintViolation"),
        ):
            session = self.session(version, validation=Validation.STRICT)
            said = session.receive(json.dumps([2, "i", "StatusNotification", broken]), 0.0)
            self.assertIsInstance(said, Ignored)
            self.assertEqual([message[:3] for message in self.take(session)], [[4, "i", code]])
            self.assertEqual(session.unanswered, 0)

    def test_unknown_action(self) -> None:
        """An action that the version does not have is handed over too, even in strict mode."""
        event = self.arrive(self.session(validation=Validation.STRICT), "i", "Nonsense", {"a": 1})
        self.assertIsNone(event.fault)

    def test_send(self) -> None:
        """A SEND of 2.1 is told and never answered, valid or not."""
        session = self.session(V21)
        stream = {"id": 1, "pending": 0, "basetime": "2026-01-01T00:00:00Z", "data": [{"t": 0, "v": "1"}]}
        event = session.receive(json.dumps([6, "s", "NotifyPeriodicEventStream", stream]), 0.0)
        self.assertEqual(event, SendArrived("NotifyPeriodicEventStream", stream, None))
        session = self.session(V21, validation=Validation.STRICT)
        self.assertIsInstance(session.receive('[6,"s","NotifyPeriodicEventStream",{}]', 0.0), Ignored)
        self.assertEqual(self.take(session), [])

    def test_result_error(self) -> None:
        """A CALLRESULTERROR is told and never answered."""
        session = self.session(V21)
        event = session.receive('[5,"x","FormatViolation","d",{}]', 0.0)
        self.assertEqual(event, Ignored("FormatViolation: d", "result_error"))
        self.assertEqual(self.take(session), [])


class BreakageTests(SessionCase):
    """Every field of everything that a station may call, missing, wrong, too long or too much."""

    def test_every_field(self) -> None:
        """Lenient hands each over with what is wrong; strict refuses each with a code that its version has."""
        codes = {
            V16: {"OccurenceConstraintViolation", "FormationViolation"},
            V201: {"OccurrenceConstraintViolation", "FormatViolation"},
            V21: {"OccurrenceConstraintViolation", "FormatViolation"},
        }
        count = 0
        for version, action, result, root in every_schema():
            if result or action not in station_actions(version) or action in UNCONFIRMED:
                continue
            strict = self.session(version, validation=Validation.STRICT)
            for rule, path, payload in breakages(root, sample(root, True)):
                lenient = self.session(version)
                self.assertIsNotNone(self.arrive(lenient, "i", action, payload).fault, (version, action, rule, path))
                said = strict.receive(json.dumps([2, "i", action, payload]), 0.0)
                self.assertIsInstance(said, Ignored)
                ((kind, id_, code, _, _),) = self.take(strict)
                allowed = codes[version] | {"TypeConstraintViolation", "PropertyConstraintViolation"}
                self.assertTrue((kind, id_) == (4, "i") and code in allowed, code)
                count += 1
        self.assertGreater(count, 2_000)


class DuplicateTests(SessionCase):
    """The same Call twice."""

    def test_replayed(self) -> None:
        """A Call that was answered gets the same answer again and is not told again, over a new connection as well."""
        replays: Replays[IncomingCall] = Replays()
        session = self.session(replays=replays)
        session.answer(self.arrive(session, "i", "StartTransaction", START).call, STARTED, 0.0)
        first = self.take(session)
        for again in (session, self.session(replays=replays)):
            event = again.receive(json.dumps([2, "i", "StartTransaction", START]), 60.0)
            self.assertEqual(event, Ignored("StartTransaction", "duplicate"))
            self.assertEqual(self.take(again), first)

    def test_not_the_same(self) -> None:
        """Another id, another action or another payload is another Call."""
        session = self.session()
        session.answer(self.arrive(session, "i", "StartTransaction", START).call, STARTED, 0.0)
        self.arrive(session, "j", "StartTransaction", START)
        self.arrive(session, "i", "StopTransaction", START)
        self.arrive(session, "i", "StartTransaction", {**START, "meterStart": 1})
        self.arrive(session, 1, "StartTransaction", START)

    def test_undated(self) -> None:
        """A message without a time of its own is told every time: its like may be a new event under an old number."""
        session = self.session()
        payload = {"vendorId": "v", "data": "20"}
        for _ in range(3):
            call = self.arrive(session, "1", "DataTransfer", payload).call
            session.answer(call, {"status": "Accepted"}, 0.0)

    def test_refused_is_asked_again(self) -> None:
        """An error is not remembered: when the station tries again, so do we."""
        session = self.session()
        session.refuse(self.arrive(session, "i", "StartTransaction", START).call, CallRefused("InternalError"), 0.0)
        self.arrive(session, "i", "StartTransaction", START)

    def test_boot_empties(self) -> None:
        """After a boot the station's numbers mean something new."""
        session = self.session()
        session.answer(self.arrive(session, "i", "StartTransaction", START).call, STARTED, 0.0)
        self.arrive(session, "b", "BootNotification", {"chargePointVendor": "v", "chargePointModel": "m"})
        self.arrive(session, "i", "StartTransaction", START)

    def test_while_open(self) -> None:
        """A Call that is being answered is joined: one answer, not two."""
        session = self.session()
        call = self.arrive(session, "i", "StartTransaction", START).call
        again = session.receive(json.dumps([2, "i", "StartTransaction", START]), 1.0)
        self.assertEqual(again, Ignored("StartTransaction", "duplicate"))
        session.answer(call, STARTED, 2.0)
        self.assertEqual(self.take(session), [[3, "i", STARTED]])

    def test_over_a_new_connection_while_open(self) -> None:
        """When the station asks again over a new connection, the answer goes there."""
        replays: Replays[IncomingCall] = Replays()
        old, new = self.session(replays=replays), self.session(replays=replays)
        call = self.arrive(old, "i", "StartTransaction", START).call
        old.end(StationGone())
        new.receive(json.dumps([2, "i", "StartTransaction", START]), 1.0)
        old.answer(call, STARTED, 2.0)
        self.assertEqual((self.take(old), self.take(new)), ([], [[3, "i", STARTED]]))

    def test_answered_too_late(self) -> None:
        """An answer that is ready when its connection is gone is there when the station asks again."""
        replays: Replays[IncomingCall] = Replays()
        old, new = self.session(replays=replays), self.session(replays=replays)
        call = self.arrive(old, "i", "StartTransaction", START).call
        old.end(StationGone())
        old.answer(call, STARTED, 1.0)
        self.assertEqual(self.take(old), [])
        new.receive(json.dumps([2, "i", "StartTransaction", START]), 2.0)
        self.assertEqual(self.take(new), [[3, "i", STARTED]])

    def test_bounds(self) -> None:
        """The memory holds two generations of answers, small ones, for a limited time."""
        replays: Replays[str] = Replays()
        for mark in range(100):
            replays.end(mark, 0.0, "{}")
        kept = [mark for mark in range(100) if replays.answer_to(mark, 0.0) is not None]
        self.assertEqual(kept, list(range(80, 100)))
        self.assertLessEqual(len(kept), 2 * GENERATION)
        replays.end(200, 1.0, "x" * 5000)
        self.assertIsNone(replays.answer_to(200, 1.0))
        self.assertEqual(replays.answer_to(99, GENERATION_SECONDS + 1), "{}")
        self.assertIsNone(replays.answer_to(99, 2 * GENERATION_SECONDS + 2))
        self.assertTrue(replays.is_empty(2 * GENERATION_SECONDS + 2))


class OutgoingTests(SessionCase):
    """Our Calls."""

    def test_one_at_a_time(self) -> None:
        """The second of two Calls leaves when the first has its result, not before."""
        session = self.session()
        first = session.call("Reset", {"type": "Soft"}, 0.0, 30.0)
        second = session.call("ClearCache", {}, 0.0, 30.0)
        self.assertEqual(self.take(session), [[2, "n-1", "Reset", {"type": "Soft"}]])
        self.assertEqual(self.result(session, second, {"status": "Accepted"}).kind, "unknown_result")
        ended = self.result(session, first, {"status": "Accepted"})
        self.assertEqual(ended, CallEnded(first, {"status": "Accepted"}, None))
        self.assertEqual(self.take(session), [[2, "n-2", "ClearCache", {}]])
        self.assertEqual(self.result(session, second, {"status": "Rejected"}).payload, {"status": "Rejected"})

    def test_crossing(self) -> None:
        """A station's Call that comes while ours is open is answered at once."""
        session = self.session()
        call = session.call("Reset", {"type": "Soft"}, 0.0, 30.0)
        session.answer(
            self.arrive(session, "i", "Authorize", {"idTag": "A"}).call, {"idTagInfo": {"status": "Invalid"}}, 0.0
        )
        self.assertEqual([message[0] for message in self.take(session)], [2, 3])
        self.assertIsNone(self.result(session, call, {"status": "Accepted"}).failure)

    def test_same_id_both_ways(self) -> None:
        """The station's ids and ours are two spaces: an equal id confuses nobody."""
        session = self.session()
        call = session.call("Reset", {"type": "Soft"}, 0.0, 30.0)
        self.arrive(session, call.id, "Heartbeat", {})
        self.assertIsNone(self.result(session, call, {"status": "Accepted"}).failure)

    def test_call_error(self) -> None:
        """A CALLERROR fails the Call with its code, in the 2.x spelling, and the next one leaves."""
        session = self.session()
        call = session.call("Reset", {"type": "Soft"}, 0.0, 30.0)
        session.call("ClearCache", {}, 0.0, 30.0)
        self.take(session)
        ended = session.receive(json.dumps([4, call.id, "FormationViolation", "d", {"a": 1}]), 0.0)
        assert isinstance(ended, CallEnded) and isinstance(ended.failure, CallErrorReceived)
        self.assertEqual((ended.failure.code, ended.failure.details), ("FormatViolation", {"a": 1}))
        self.assertEqual(self.take(session)[0][2], "ClearCache")

    def test_timeout(self) -> None:
        """A Call whose time is over fails, the next leaves, and a late result of the first harms nobody."""
        session = self.session()
        first = session.call("Reset", {"type": "Soft"}, 0.0, 30.0)
        second = session.call("ClearCache", {}, 0.0, 60.0)
        self.assertEqual((session.next_deadline(), session.expire(29.9)), (30.0, []))
        (ended,) = session.expire(30.0)
        self.assertIs(ended.call, first)
        self.assertIsInstance(ended.failure, CallTimedOut)
        self.assertEqual(len(self.take(session)), 2)
        self.assertEqual(self.result(session, first, {"status": "Accepted"}, 31.0).kind, "late_result")
        self.assertEqual(self.result(session, first, {"status": "Accepted"}, 31.0).kind, "unknown_result")
        self.assertIsNone(self.result(session, second, {"status": "Accepted"}, 32.0).failure)
        self.assertIsNone(session.next_deadline())

    def test_timeout_in_the_queue(self) -> None:
        """A Call that waited too long in the queue is never sent; those behind it are."""
        session = self.session()
        first = session.call("Reset", {"type": "Soft"}, 0.0, 30.0)
        late = session.call("ClearCache", {}, 0.0, 5.0)
        session.call("GetLocalListVersion", {}, 0.0, 30.0)
        self.take(session)
        self.assertEqual(session.next_deadline(), 5.0)
        self.result(session, first, {"status": "Accepted"}, 6.0)  # before the timer had its turn
        self.assertEqual([message[2] for message in self.take(session)], ["GetLocalListVersion"])
        (ended,) = session.expire(6.0)
        self.assertIs(ended.call, late)

    def test_queue_full(self) -> None:
        """The queue has an end, and says so at once."""
        session = self.session(max_queued_calls=2)
        for _ in range(3):
            session.call("ClearCache", {}, 0.0, 30.0)
        with self.assertRaises(CallQueueFull):
            session.call("ClearCache", {}, 0.0, 30.0)
        self.assertEqual(len(self.take(session)), 1)

    def test_invalid(self) -> None:
        """A Call that breaks its schema, or that JSON cannot hold, never leaves, whatever the validation."""
        for validation in Validation:
            session = self.session(validation=validation)
            for action, payload in (
                ("Reset", {}),
                ("Reset", {"type": "Warm"}),
                ("DataTransfer", {"vendorId": "v", "data": {"a": 1}}),
            ):
                with self.assertRaises(PayloadInvalid):
                    session.call(action, payload, 0.0, 30.0)
            self.assertEqual(self.take(session), [])
        with self.assertRaises(PayloadInvalid):
            self.session(V201).call("DataTransfer", {"vendorId": "v", "data": float("inf")}, 0.0, 30.0)
        with self.assertRaises(PayloadInvalid):
            self.session(V21).call("NotifyPeriodicEventStream", {}, 0.0, 30.0)

    def test_invalid_result(self) -> None:
        """A result that breaks its schema counts; in strict mode it fails the Call, and 2.1 tells the station."""
        for version in (V16, V21):
            session = self.session(version)
            ended = self.result(session, session.call("ClearCache", {}, 0.0, 30.0), {"status": "Perhaps"})
            self.assertEqual((ended.payload, ended.fault.rule), ({"status": "Perhaps"}, "enum"))
            session = self.session(version, validation=Validation.STRICT)
            call = session.call("ClearCache", {}, 0.0, 30.0)
            self.take(session)
            self.assertIsInstance(self.result(session, call, {"status": "Perhaps"}).failure, ResultInvalid)
            said = [message[:3] for message in self.take(session)]
            self.assertEqual(said, [[5, call.id, "PropertyConstraintViolation"]] if version is V21 else [])

    def test_broken_result(self) -> None:
        """A result whose payload is no object fails its Call and lets the next one go."""
        session = self.session()
        call = session.call("ClearCache", {}, 0.0, 30.0)
        session.call("ClearCache", {}, 0.0, 30.0)
        self.take(session)
        self.assertIsInstance(self.result(session, call, [1]).failure, ResultInvalid)
        self.assertEqual(len(self.take(session)), 1)

    def test_cancel(self) -> None:
        """A cancelled Call is never sent; if it was, its result is ignored and the next leaves at once."""
        session = self.session()
        first = session.call("ClearCache", {}, 0.0, 30.0)
        second = session.call("ClearCache", {}, 0.0, 30.0)
        session.call("GetLocalListVersion", {}, 0.0, 30.0)
        session.cancel(second, 1.0)
        session.cancel(first, 1.0)
        session.cancel(first, 1.0)
        self.assertEqual([message[2] for message in self.take(session)], ["ClearCache", "GetLocalListVersion"])
        self.assertEqual(self.result(session, first, {"status": "Accepted"}).kind, "late_result")

    def test_end(self) -> None:
        """When the connection ends everything of ours fails, and nothing more can be sent."""
        session = self.session(V21)
        calls = [session.call("ClearCache", {}, 0.0, 30.0) for _ in range(3)]
        ended = session.end(StationGone("gone"))
        self.assertEqual([one.call for one in ended], calls)
        self.assertEqual((self.take(session), session.next_deadline()), ([], None))
        with self.assertRaises(StationGone):
            session.call("ClearCache", {}, 0.0, 30.0)
        with self.assertRaises(StationGone):
            session.send("NotifyPeriodicEventStream", {})

    def test_send(self) -> None:
        """SEND exists in 2.1 only, and is checked like a Call."""
        stream = {"id": 1, "pending": 0, "basetime": "2026-01-01T00:00:00Z", "data": [{"t": 0, "v": "1"}]}
        session = self.session(V21)
        session.send("NotifyPeriodicEventStream", stream)
        self.assertEqual(self.take(session), [[6, "n-1", "NotifyPeriodicEventStream", stream]])
        for version, payload in ((V21, {}), (V201, stream)):
            with self.assertRaises(PayloadInvalid):
                self.session(version).send("NotifyPeriodicEventStream", payload)


class BudgetTests(SessionCase):
    """Texts that are no message."""

    def test_last_straw(self) -> None:
        """So many bad messages in a minute are borne, one more is the last; a quiet minute starts anew."""
        session = self.session(max_faults_per_minute=3)
        straws = [session.receive("rubbish", now) for now in (100.0, 110.0, 120.0, 161.0, 162.0, 163.0, 164.0)]
        self.assertEqual([straw.is_last_straw for straw in straws], [False] * 6 + [True])  # type: ignore[union-attr] # seen

    def test_invalid_payloads_are_free(self) -> None:
        """Payloads that break a schema do not count: real chargers send nothing else."""
        session = self.session(max_faults_per_minute=1, validation=Validation.STRICT)
        for number in range(50):
            event = session.receive(json.dumps([2, str(number), "StatusNotification", {}]), 1.0)
            self.assertFalse(event.is_last_straw)  # type: ignore[union-attr] # seen to be Ignored
