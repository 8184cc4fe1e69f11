"""The gateway's figures, with a Clock."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbgw.errors import LinkDown
from tbgw.uplink.statistics import SHORTEST_SECONDS, Statistics


class StatisticsTests(SynchronousTestCase):
    """`Statistics` with a picture that the test paints."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.connected = True
        self.sent: list[Any] = []
        self.shown: list[Any] = []
        store = {"messages": 7, "bytes": 900, "fill": 0.125, "oldest_age_seconds": 4.5, "drain_per_second": 20.0}
        self.picture: dict[str, Any] = {
            "accepted": 0,
            "delivered": 0,
            "traffic": {"sent": 0, "sentBytes": 0, "received": 0, "receivedBytes": 0},
            "connectors": {"Line": 5},
            "errors": 2,
            "store": {**store, "dropped": {"full_newest": 3}, "dead_letters": {"refused": 1}},
        }

    def start(self, period: int = 60, machine: Machine | None = None) -> Statistics:
        statistics = Statistics(
            self.clock, period, lambda: self.picture, lambda: self.connected, self.sent.append, self.shown.append, machine
        )
        statistics.startService()
        return statistics

    def test_figures(self) -> None:
        """Every period, the store's figures and what was done since the last time."""
        self.start()
        self.clock.advance(59.9)
        self.assertEqual(self.sent, [])
        self.picture.update(accepted=100, delivered=90)
        self.clock.advance(0.1)
        self.picture.update(accepted=150, delivered=150)
        self.clock.advance(60)
        first, second = self.sent
        self.assertEqual(
            first["storage"],
            {
                "fill": 0.125,
                "bytes": 900,
                "oldestAgeSeconds": 4.5,
                "drainPerSecond": 20.0,
                "dropped": {"full_newest": 3},
                "deadLetters": {"refused": 1},
            },
        )
        counts = [said["serviceStats"] for said in (first, second)]
        self.assertEqual([count["storageMsgPushed"] for count in counts], [100, 50])
        self.assertEqual([count["storageMsgPulled"] for count in counts], [90, 60])
        self.assertEqual(counts[1]["storageMsgCount"], 7)

    def test_nobody_listens(self) -> None:
        """Without a link nothing is sent, and a link that ends meanwhile is no error."""
        self.connected = False
        self.start()
        self.clock.advance(60)
        self.assertEqual(self.sent, [])
        self.connected = True
        self.answer = fail(LinkDown("gone"))
        self.clock.advance(60)
        self.assertEqual(len(self.sent), 1)

    def test_shortest_period_and_stop(self) -> None:
        """A period of a second becomes ten; a stop ends it."""
        statistics = self.start(period=1)
        self.clock.advance(SHORTEST_SECONDS - 1)
        self.assertEqual(self.sent, [])
        statistics.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
