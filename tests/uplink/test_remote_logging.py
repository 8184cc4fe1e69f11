"""Log lines as telemetry, with a Clock: right keys, right levels, and never a load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.uplink.internal_events import LinkLost
from tbgw.uplink.remote_logging import MAX_CHARACTERS, MAX_WAITING, SPACING_SECONDS, RemoteLog


class RemoteLogTests(SynchronousTestCase):
    """`RemoteLog` behind a publisher of its own."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.sent: list[tuple[dict[str, Any], int]] = []
        self.waiting: list[Deferred[str]] = []
        self.publisher = LogPublisher()
        self.log = RemoteLog(self.clock, self.say, lambda function: function())
        self.publisher.addObserver(self.log)
        self.service = Logger(namespace="tbgw.service", observer=self.publisher)

    def say(self, values: Mapping[str, Any], ts_ms: int) -> Deferred[str]:
        self.sent.append((dict(values), ts_ms))
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def go_on(self, times: int = 1) -> None:
        """What was sent is acknowledged, and the next may go."""
        for _ in range(times):
            waiting, self.waiting = self.waiting, []
            for one in waiting:
                one.callback("")
            self.clock.advance(SPACING_SECONDS)

    def keys(self) -> list[set[str]]:
        return [set(values) for values, _ in self.sent]

    def test_off_until_it_is_wanted(self) -> None:
        """Nothing is sent at first, nor after NONE; words that are no level change nothing."""
        self.service.error("x")
        self.assertTrue(self.log.set_level("warn"))
        nonsense: list[Any] = ["LOUD", 5, None, {}]
        for wrong in nonsense:
            self.assertFalse(self.log.set_level(wrong))
        self.service.info("too low")
        self.service.warn("taken")
        self.assertEqual(len(self.sent), 1)
        self.assertTrue(self.log.set_level("NONE"))
        self.go_on()
        self.service.error("x")
        self.assertEqual((len(self.sent), self.log.errors), (1, 2))

    def test_form(self) -> None:
        """The level stands between bars, a bracket follows; the line is under its key and under LOGS."""
        self.log.set_level("INFO")
        self.service.warn("it {what}", what="is {odd}")
        ((values, ts_ms),) = self.sent
        self.assertEqual(set(values), {"SERVICE_LOGS", "LOGS"})
        line = values["LOGS"]
        self.assertRegex(line, r"^\d{4}-\d\d-\d\d [\d:.]{12} - \|WARNING\| - \[tbgw\.service\] - it is \{odd\}$")
        self.assertGreater(ts_ms, 1_700_000_000_000)

    def test_keys(self) -> None:
        """The reference's keys, by who spoke; a connector's own when its lines are wanted, and never otherwise."""
        self.log.set_level("DEBUG")
        events = Events(Counters(), self.clock.seconds)
        events._log = Logger(namespace="tbgw", observer=self.publisher)
        events.emit(LinkLost("tb", "gone", 1.0))
        Logger(namespace="tbgw.spool.service", observer=self.publisher).info("stored")
        of_connector = Logger(namespace="tbgw", observer=self.publisher)
        of_connector.warn("x", connector="Line 4", room="connectors")
        self.log.set_connectors({"Line 4": "WARNING"})
        of_connector.info("x", connector="Line 4", room="connectors")
        of_connector.error("x", connector="Line 4", room="connectors")
        self.go_on(5)
        self.assertEqual(
            self.keys(), [{"CONNECTION_LOGS", "LOGS"}, {"STORAGE_LOGS", "LOGS"}, {"Line 4_LOGS"}]
        )

    def test_never_a_flood(self) -> None:
        """One line is under way at a time; what waits is bounded and cut, and what was left out is said."""
        self.log.set_level("INFO")
        for number in range(MAX_WAITING + 51):
            self.service.info("{number} {much}", number=number, much="x" * 5000)
        self.assertEqual(len(self.sent), 1)
        self.clock.advance(1000)
        self.assertEqual(len(self.sent), 1, "the first was not acknowledged")
        self.go_on(MAX_WAITING)
        self.assertEqual(len(self.sent), MAX_WAITING + 1)
        self.assertTrue(all(len(values["LOGS"]) < MAX_CHARACTERS + 50 for values, _ in self.sent))
        self.assertEqual(len([1 for values, _ in self.sent if "50 lines were left out" in values["LOGS"]]), 1)

    def test_c49_no_loop(self) -> None:
        """C-49: lines that come about by sending one are not sent, nor those that tell that one was dropped."""
        self.log.set_level("DEBUG")
        say = self.say

        def noisy(values: Mapping[str, Any], ts_ms: int) -> Deferred[str]:
            self.service.error("sending")
            return say(values, ts_ms)

        self.log._say = noisy
        self.service.info("one")
        self.service.warn("dropped", event="OwnMessageDropped")
        self.go_on(20)
        self.assertEqual(len(self.sent), 1)

    def test_stop(self) -> None:
        """After the stop no timer and no line is left."""
        self.log.set_level("INFO")
        self.service.info("a")
        self.service.info("b")
        self.waiting[0].callback("")
        self.log.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.service.error("c")
        self.assertEqual(len(self.sent), 1)
