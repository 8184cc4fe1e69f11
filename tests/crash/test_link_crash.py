"""The broker dies at every step of a session, and the network is bad in every way: nothing is lost or out of order."""

from __future__ import annotations

import random
import time

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.crash.ledger import Ledger
from tests.crash.peer import STEPS, ScriptedBroker
from tests.crash.rig import LONG, CrashFolder, Watch, rounds, say
from tests.faultproxy import FaultProxy
from tests.programs import SECONDS, free_port, mosquitto

SEED = 20261121


class BrokerTests(SynchronousTestCase):
    """A broker that forgets what it has not acknowledged."""

    timeout = 300

    def test_dies_at_every_step(self):
        """At each step of a session, in any order of steps, while messages come in."""
        script: list[str] = []
        source = random.Random(SEED)
        for _ in range(rounds(1, 25)):
            script += source.sample(STEPS, len(STEPS))
        broker = ScriptedBroker(script)
        self.addCleanup(broker.close)
        folder = CrashFolder(self)
        folder.configure(broker.port, mqtt_version="3.1.1")  # all that the script speaks
        driver = folder.driver(0, "--padding", "500")
        driver.read(100)
        end = time.monotonic() + 10 * SECONDS
        while not broker.well.is_set() and time.monotonic() < end:
            driver.read_for(0.05)
        self.assertEqual(broker.died, script, driver.log)
        driver.read(len(driver.ids) + 200)
        self.assertEqual(driver.stop(), 0, driver.log)
        ledger = Ledger()
        ledger.accept(driver.ids)
        ledger.accept(folder.stored())
        last = folder.driver(-1)
        self.assertEqual(last.finish(100), 0, last.log)
        ledger.arrive(broker.arrived)
        say(self, f"{len(script)} deaths, {broker.unacknowledged} rows taken and not acknowledged: {ledger}")
        self.assertGreater(broker.unacknowledged, 0)
        ledger.check(len(script) + 1)


class NetworkTests(SynchronousTestCase):
    """mosquitto behind a proxy that spoils the link."""

    timeout = 300

    def setUp(self) -> None:
        port = free_port()
        mosquitto(self, port)
        self.ledger = Ledger()
        self.watch = Watch(self, port, self.ledger)
        self.proxy = FaultProxy(port)
        self.addCleanup(self.proxy.close)
        self.folder = CrashFolder(self)
        self.folder.configure(self.proxy.port)
        self.driver = self.folder.driver(0)
        self.driver.read(50)

    def well_again(self) -> None:
        """The network is good again: everything arrives."""
        proxy = self.proxy
        proxy.latency_seconds, proxy.bandwidth_bytes, proxy.slice_bytes = 0.0, 0, 65536
        proxy.release()
        self.driver.read(len(self.driver.ids) + 100)
        self.assertEqual(self.driver.stop(), 0, self.driver.log)
        self.ledger.accept(self.driver.ids)
        self.ledger.accept(self.folder.stored())
        last = self.folder.driver(-1)
        self.assertEqual(last.finish(100), 0, last.log)
        self.watch.until_all()
        say(self, f"{proxy.connections} connections: {self.ledger}")
        self.ledger.check(proxy.connections)

    def more(self, count: int = 150) -> None:
        """Let the device go on for so many readings."""
        self.driver.read(len(self.driver.ids) + count)

    def test_latency_bandwidth_slicing_resets(self):
        """Slow links, links in slices of a few bytes, links cut off in the middle of anything."""
        source = random.Random(SEED)
        proxy = self.proxy
        for _ in range(rounds(2, 20)):
            proxy.latency_seconds = source.choice((0.0, 0.05, 0.2))
            proxy.slice_bytes = source.choice((3, 100, 65536))
            proxy.bandwidth_bytes = source.choice((0, 0, 20_000))
            self.more()
            for _ in range(3):
                before = proxy.connections
                proxy.reset()
                end = time.monotonic() + SECONDS
                while proxy.connections == before:
                    self.assertLess(time.monotonic(), end, "no new connection")
                    self.driver.read_for(0.02)
                self.more(source.randrange(1, 100))
        self.well_again()

    def test_half_open(self):
        """A link that is dead without saying so is given up, and what was sent into it comes again."""
        if not LONG:
            raise SkipTest("takes a keep alive interval each time; part of `make crash`")
        for _ in range(3):
            before = self.proxy.connections
            self.proxy.hold()
            end = time.monotonic() + 60
            while self.proxy.connections == before:
                self.assertLess(time.monotonic(), end, "the dead link was never given up")
                self.driver.read_for(0.05)
            self.proxy.reset()
            self.proxy.release()
            self.more()
        self.assertGreater(self.proxy.connections, 3)
        self.well_again()
