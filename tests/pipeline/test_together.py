"""Ingest, a real spool and forwarder together: what connectors hand in is what ThingsBoard gets, in order."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.model import Device, RateLimit, Reading, SessionLimits
from tbgw.pipeline import ready as ready_module
from tbgw.pipeline.forwarder import Forwarder
from tbgw.pipeline.ingest import Ingest
from tbgw.pipeline.packer import PackLimits
from tbgw.spool.memory import MemoryStore
from tbgw.spool.service import Spool
from tbgw.thingsboard import topics
from tests.fakes import FakeSource, FakeUplink
from tests.pipeline.test_ingest import MemoryRegistry

LIMITS = (
    SessionLimits(),
    SessionLimits(max_inflight=3),
    SessionLimits(max_payload_bytes=300),
    SessionLimits(telemetry=(RateLimit(20, 1.0),), points=(RateLimit(30, 1.0),)),
)


class SlowRunner:
    """Does the store's work when the test says so, as a thread would."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], Any], Callable[[Any, Exception | None], None]]] = deque()

    def run(self, job: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        self._waiting.append((job, done))

    def stop(self) -> None: ...

    def step(self) -> bool:
        if not self._waiting:
            return False
        job, done = self._waiting.popleft()
        done(job(), None)
        return True


class TogetherTests(SynchronousTestCase):
    """The whole way but for sockets and disk."""

    def setUp(self) -> None:
        self.patch(ready_module, "READY_BYTES", 3000)
        self.patch(ready_module, "FETCH_BYTES", 1500)

    def course(self, seed: int) -> None:
        random = Random(seed)
        clock = Clock()
        clock.rightNow = 1000.0
        counters = Counters()
        events = Events(counters, clock.seconds)
        runner = SlowRunner()
        spool = Spool(
            MemoryStore,
            clock=clock,
            runner=runner,
            wall_ms=lambda: 1,
            events=events,
            max_bytes=10**9,
            max_messages=None,
        )
        spool.open()
        runner.step()
        uplink = FakeUplink(clock.seconds)
        registry = MemoryRegistry()
        forwarder = Forwarder(
            spool,
            uplink,
            registry,
            clock=clock,
            events=events,
            max_payload_bytes=1000,
            idled=lambda: ingest.link_idled(),
            limits_changed=lambda limits: ingest.set_limits(PackLimits(min(900, limits.max_payload_bytes - 80), 900)),
        )
        uplink.set_listener(forwarder)
        ingest = Ingest(
            spool,
            registry,
            clock=clock,
            now_ms=lambda: 1,
            events=events,
            limits=PackLimits(900, 900),
            pack_delay_seconds=0.02,
            appended=forwarder.appended,
            link_idle=lambda: forwarder.idle,
        )
        ingest.add_source(FakeSource())
        spool.set_listeners(ingest, forwarder, self.fail)
        forwarder.start()

        devices = {name: Device(name) for name in "ABCDE"}
        said: dict[str, int] = dict.fromkeys(devices, 0)
        receipts = []
        for _ in range(400):
            match random.choices(("say", "acknowledge", "store", "wait", "link", "gone"), (40, 25, 20, 10, 2, 1))[0]:
                case "say":
                    for _ in range(random.choice([1, 1, 5])):
                        name = random.choice("ABCDE")
                        said[name] += 1
                        reading = Reading(
                            devices[name], ((said[name], {"k": said[name], "x": "x" * random.randint(0, 50)}),)
                        )
                        receipts.append(ingest.accept(reading).when_stored())
                case "acknowledge":
                    for _ in range(min(len(uplink.waiting), random.randint(1, 5))):
                        uplink.acknowledge(random.choice(uplink.waiting))
                case "store":
                    runner.step()
                case "wait":
                    clock.advance(random.choice([0.001, 0.01, 0.05]))
                case "link" if uplink.connected:
                    uplink.down()
                case "link":
                    uplink.up(random.choice(LIMITS))
                case _:
                    ingest.disconnected(devices[random.choice("ABCDE")])
        ingest.stop()
        if not uplink.connected:
            uplink.up(LIMITS[0])
        for _ in range(5000):
            uplink.acknowledge_all()
            if not runner.step():
                if forwarder.idle and not spool.stored_rows:
                    break
                clock.advance(0.1)
        self.assertEqual((spool.stored_rows, spool.stored_messages, forwarder.idle), (0, 0, True))
        for receipt in receipts:
            self.successResultOf(receipt)

        arrived: dict[str, list[int]] = {name: [] for name in devices}
        for sent in uplink.sent:
            if sent.topic == topics.TELEMETRY:
                for name, elements in json.loads(sent.payload).items():
                    for element in elements:
                        if element["ts"] not in arrived[name]:
                            arrived[name].append(element["ts"])
        self.assertEqual(arrived, {name: list(range(1, count + 1)) for name, count in said.items()})
        self.assertEqual(counters.total("rows_refused") + counters.total("rows_unsendable"), 0)

    def test_courses(self):
        """Nothing is lost and each device's values first arrive in their order, whatever happens on the way."""
        for seed in range(25):
            try:
                self.course(seed)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error}") from error
