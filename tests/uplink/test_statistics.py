"""The gateway's figures, with a Clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbgw.uplink.machine import Machine
from tbgw.uplink.statistics import RECEIVED_BYTES, SHORTEST_SECONDS, Statistics


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
            self.clock,
            period,
            lambda: self.picture,
            lambda: self.connected,
            self.sent.append,
            self.shown.append,
            machine,
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
        """Without a link nothing is sent, and the next period tells."""
        self.connected = False
        self.start()
        self.clock.advance(60)
        self.assertEqual(self.sent, [])
        self.connected = True
        self.clock.advance(60)
        self.assertEqual(len(self.sent), 1)

    def test_shortest_period_and_stop(self) -> None:
        """A period of a second becomes ten; a stop ends it."""
        statistics = self.start(period=1)
        self.clock.advance(SHORTEST_SECONDS - 1)
        self.assertEqual(self.sent, [])
        statistics.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_references_keys(self) -> None:
        """Machine, traffic and connectors under the reference's names; totals once, as attributes (A10)."""
        self.picture["traffic"] = {"sent": 4, "sentBytes": 400, "received": 3, "receivedBytes": 30}
        self.start(machine=Machine(Path.cwd()))
        self.clock.advance(60)
        self.picture["traffic"] = {"sent": 10, "sentBytes": 1000, "received": 4, "receivedBytes": 40}
        self.picture["connectors"] = {"Line": 7}
        self.clock.advance(60)
        first, second = self.sent
        self.assertEqual(len(self.shown), 1)
        self.assertEqual(set(self.shown[0]), {"totalMemory", "totalDisk", "cpuCount"})
        machine = second["machineStats"]
        self.assertEqual((machine["msgsSentToPlatform"], machine["msgsReceivedFromPlatform"]), (6, 1))
        self.assertGreater(machine["gwProcessMemoryFullInfo"]["rss"], 1024 * 1024)
        self.assertTrue(0 < machine["freeMemory"] <= 100)
        self.assertEqual(
            [said["connectorsStats"]["Line"]["connectorMsgsReceived"] for said in (first, second)], [5, 2]
        )
        self.assertEqual((second["allBytesSentToTB"], second[RECEIVED_BYTES]), (1000, 40))
        self.assertEqual(second["ALL_ERRORS_COUNT"], 2)

    def test_a_system_that_tells_nothing(self) -> None:
        """Without /proc what it would have said is left out, and the rest is sent."""
        self.start(machine=Machine(Path("/nowhere"), Path("/nowhere")))
        self.clock.advance(60)
        self.assertNotIn("gwMemory", self.sent[0]["machineStats"])
        self.assertIn("gwProcessCpuUsage", self.sent[0]["machineStats"])
