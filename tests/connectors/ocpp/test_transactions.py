"""Sessions and transaction ids, as pure code."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.ocpp.sessions import SessionKeeper
from tbgw.connectors.ocpp.transactions import MAX_KEPT, Sessions, Transaction, TransactionIds, restored
from tbgw.ocpp.versions import Version
from tests.connectors.ocpp.fakes import NOW_MS
from tests.connectors.ocpp.test_measurands import ANYTHING


class IdTests(SynchronousTestCase):
    """`TransactionIds`."""

    def test_begin(self):
        """The first id is the time in seconds, or what the file asks for if that is more, and fits 32 bits."""
        self.assertEqual(TransactionIds(1, NOW_MS).take(), NOW_MS // 1000)
        self.assertEqual(TransactionIds(2_000_000_000, NOW_MS).take(), 2_000_000_000)
        self.assertLess(TransactionIds(1, NOW_MS).take(), 2**31)

    def test_restored(self):
        """It goes on after the last that was given, and never back."""
        ids = TransactionIds(1, NOW_MS)
        ids.restore(NOW_MS // 1000 + 50)
        self.assertEqual(ids.take(), NOW_MS // 1000 + 51)
        ids.restore(5)
        self.assertEqual(ids.take(), NOW_MS // 1000 + 52)


class SessionTests(SynchronousTestCase):
    """`Sessions` and `SessionKeeper`."""

    def setUp(self) -> None:
        self.sessions = Sessions()
        self.keeper = SessionKeeper(TransactionIds(1, NOW_MS))

    def start(self, connector: int = 1, tag: str = "aa", meter: Any = 0, now_ms: int = NOW_MS) -> Transaction:
        payload = {"connectorId": connector, "idTag": tag, "meterStart": meter, "timestamp": "2026-11-18T11:00:00Z"}
        found = self.keeper.apply(self.sessions, Version.V16, "StartTransaction", payload, now_ms)
        assert found is not None
        return found

    def test_two_connectors_at_once(self):
        """Two cars plugged in within one second have two ids."""
        self.assertNotEqual(self.start(1).id, self.start(2).id)

    def test_repeated_by_other_case(self):
        """A repetition may spell the tag otherwise."""
        self.assertEqual(self.start(tag="aa").id, self.start(tag="AA").id)

    def test_repeated_from_the_queue(self):
        """What waited in an offline charge point for days, and comes twice because the answer was lost, is one."""
        days_later = NOW_MS + 5 * 24 * 3600 * 1000
        first = self.start(now_ms=days_later)
        again = restored(json.loads(json.dumps(self.sessions.plain())))
        self.sessions = again
        self.assertEqual(self.start(now_ms=days_later + 60_000).id, first.id)

    def test_without_a_time(self):
        """Where no time is told, what looks the same begins a new transaction once the old one is over."""

        def start() -> Transaction:
            payload = {"connectorId": 1, "idTag": "aa", "meterStart": 0}
            found = self.keeper.apply(self.sessions, Version.V16, "StartTransaction", payload, NOW_MS)
            assert found is not None
            return found

        first = start()
        self.assertEqual(start().id, first.id)
        self.keeper.apply(self.sessions, Version.V16, "StopTransaction", {"transactionId": first.id}, NOW_MS + 1)
        self.assertNotEqual(start().id, first.id)

    def test_lost_end(self):
        """A new transaction on a connector ends the one whose end never came; its late end still counts."""
        first, second = self.start(meter=1), self.start(meter=2)
        self.assertEqual((first.runs, self.sessions.only_running()), (False, second))
        stop = {"transactionId": first.id, "meterStop": 9, "timestamp": "2026-11-18T11:03:00Z"}
        self.assertIs(self.keeper.apply(self.sessions, Version.V16, "StopTransaction", stop, NOW_MS), first)
        self.assertEqual((first.session_energy(9), first.session_seconds()), (8, 180))

    def test_energy(self):
        """Without both ends, or when the register went back, there is no energy."""
        session = Transaction(1, 1, meter_start=10.1)
        self.assertEqual(session.session_energy(12.3), 2.2)
        self.assertEqual((session.session_energy(5), session.session_energy(None)), (None, None))
        self.assertIsNone(Transaction(1, 1).session_energy(5))
        self.assertIsNone(Transaction(1, 1, start_ms=5, stop_ms=1).session_seconds())

    def test_bounded(self):
        """Only so many are kept; those that run longest of all."""
        running = self.start(connector=99)
        for number in range(200):
            self.sessions.add(Transaction(number, 1, stop_ms=5))
        self.assertEqual(len(list(self.sessions)), MAX_KEPT)
        self.assertIs(self.sessions.find(running.id), running)
        for number in range(1000, 1200):
            self.sessions.add(Transaction(number, 1))
        self.assertEqual(len(list(self.sessions)), MAX_KEPT)

    def test_kept(self):
        """What is written is read as the same."""
        self.start()
        self.sessions.add(Transaction("t-1", None, "tag", 1.5, 5, 6))
        again = restored(json.loads(json.dumps(self.sessions.plain())))
        self.assertEqual(list(again), list(self.sessions))

    @given(ANYTHING)
    def test_anything_is_read(self, plain: Any):
        """A file of another form gives no sessions, and no error."""
        restored(plain)
        restored([{"id": 1, "connector": plain, "unknown": plain}, {"id": plain}])

    def test_found_by_anything(self):
        """Ids of any type may be asked for."""
        anything: tuple[Any, ...] = (None, True, [], {}, "x", 1.5, 7)
        for wanted in anything:
            self.assertIsNone(self.sessions.find(wanted))

    def test_event_of_evse_0(self):
        """A transaction event that names no EVSE keeps the one that was named before."""

        def event(kind: str, **more: Any) -> Transaction | None:
            payload = {"eventType": kind, "transactionInfo": {"transactionId": "t"}, **more}
            return self.keeper.apply(self.sessions, Version.V201, "TransactionEvent", payload, NOW_MS)

        event("Started", evse={"id": 3})
        found = event("Updated", evse={"id": 0})
        assert found is not None
        self.assertEqual(found.connector, 3)
        event("Ended")
        late = event("Updated")
        assert late is not None
        self.assertFalse(late.runs)
