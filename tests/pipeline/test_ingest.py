"""Ingest: when packs are closed, what receipts say, and what is kept out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbgw.errors import StoreError, StoreFull
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.model import Device, Reading, ReportPlan, ReportStrategy, ReportType, Row
from tbgw.pipeline.devices import DeviceRegistry
from tbgw.pipeline.ingest import MIN_SPACING_SECONDS, REGISTRY_SECONDS, Ingest
from tbgw.pipeline.packer import PackLimits
from tbgw.thingsboard import topics
from tests.fakes import FakeSource, FakeSpool

DELAY = 0.05
PERIOD = ReportStrategy(ReportType.ON_REPORT_PERIOD, 10_000)


class MemoryRegistry(DeviceRegistry):
    """Does not touch the disk."""

    def __init__(self) -> None:
        super().__init__(Path("connected_devices.json"))
        self.written: list[bytes] = []
        self.error: OSError | None = None

    def write(self, content: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.written.append(content)


class Bench:
    """Ingest with a clock, a spool and a registry that the test drives."""

    def __init__(
        self,
        limits: PackLimits | None = None,
        allows: Callable[[str, str], bool] | None = None,
        known: tuple[str, ...] = ("A", "B"),
    ) -> None:
        self.clock = Clock()
        self.clock.rightNow = 1000.0
        self.spool = FakeSpool()
        self.registry = MemoryRegistry()
        for name in known:
            self.registry.seen(self.device(name))
        self.registry.snapshot()
        self.counters = Counters()
        self.idle = True
        self.now_ms = 1_700_000_000_000
        self.appended: list[list[Row]] = []
        self.ingest = Ingest(
            self.spool,
            self.registry,
            clock=self.clock,
            now_ms=lambda: self.now_ms,
            events=Events(self.counters, self.clock.seconds),
            limits=limits or PackLimits(60_000, 60_000),
            pack_delay_seconds=DELAY,
            appended=self.appended.append,
            link_idle=lambda: self.idle,
            **({} if allows is None else {"allows": allows}),
        )

    def device(self, name: str = "A", report: ReportPlan | None = None) -> Device:
        return Device(name, "thermo", "Line 4", "socket", report or ReportPlan())

    def rows(self) -> list[Row]:
        """All rows that were handed to `appended`, in order."""
        return [row for rows in self.appended for row in rows]

    def values(self, device: str = "A", key: str = "k") -> list[Any]:
        """The values of a time series in the order in which they were handed on."""
        return [
            element["values"][key]
            for row in self.rows()
            if row.topic == topics.TELEMETRY
            for element in json.loads(row.payload).get(device, ())
            if key in element["values"]
        ]


def said(device: Device, value: Any, ts: int = 1) -> Reading:
    return Reading(device, ((ts, {"k": value}),))


class Base(SynchronousTestCase):
    """Has a bench, and proves that no timer is left behind."""

    def setUp(self) -> None:
        self.bench = Bench()

    def busy(self) -> None:
        """From now on the link is not idle."""
        self.bench.idle = False


class PackTests(Base):
    """When a pack is closed."""

    def test_lone_message(self):
        """While all is idle a message is stored and handed on before `accept` returns."""
        bench = self.bench
        bench.ingest.accept(said(bench.device(), 1))
        self.assertEqual(bench.values(), [1])
        self.assertEqual(bench.spool.calls, ["append"])
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_lone_messages_at_intervals(self):
        """So is each further one, once the one before is stored and a moment has passed."""
        bench = self.bench
        for value in range(5):
            bench.ingest.accept(said(bench.device(), value))
            self.assertEqual(bench.values(), list(range(value + 1)))
            bench.spool.run()
            bench.clock.advance(MIN_SPACING_SECONDS * 1.01)

    def test_stream_is_packed_though_idle(self):
        """A stream of messages that finds all idle makes a pack every 2 ms, and not one for each message."""
        bench = self.bench
        for value in range(100):
            bench.ingest.accept(said(bench.device(), value))
            bench.spool.run()
            bench.clock.advance(0.0001)
        bench.clock.advance(MIN_SPACING_SECONDS)
        self.assertEqual(bench.values(), list(range(100)))
        self.assertLessEqual(len(bench.rows()), 8)

    def test_waits_for_the_commit(self):
        """While a commit is under way messages gather, and go when it has finished."""
        bench = self.bench
        bench.ingest.accept(said(bench.device(), 0))
        bench.clock.advance(0.01)
        for value in (1, 2, 3):
            bench.ingest.accept(said(bench.device(), value))
        self.assertEqual(bench.values(), [0])
        bench.spool.run()
        self.assertEqual(bench.values(), [0, 1, 2, 3])
        self.assertEqual(len(bench.rows()), 2)

    def test_waits_for_the_link(self):
        """While the link is busy messages gather, and go when it has become idle."""
        bench = self.bench
        self.busy()
        bench.ingest.accept(said(bench.device(), 1))
        bench.ingest.accept(said(bench.device(), 2))
        self.assertEqual(bench.rows(), [])
        bench.idle = True
        bench.ingest.link_idled()
        self.assertEqual(bench.values(), [1, 2])
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_delay_bound(self):
        """Whatever happens, the pack is closed the pack delay after its first message, and no later one puts it off."""
        bench = self.bench
        self.busy()
        for step in range(10):
            bench.ingest.accept(said(bench.device(), step))
            if step == 5:
                bench.ingest.link_idled()
            bench.clock.advance(DELAY / 10)
            self.assertEqual(len(bench.rows()), 1 if step == 9 else 0, step)
        self.assertEqual(bench.values(), list(range(10)))

    def test_full_pack_goes_at_once(self):
        """A pack that is full does not wait for anything, and its messages are in order."""
        self.bench = bench = Bench(PackLimits(1000, 1000))
        self.busy()
        for value in range(200):
            bench.ingest.accept(said(bench.device(), value))
        self.assertGreater(len(bench.rows()), 3)
        for row in bench.rows():
            self.assertGreater(len(row.payload), 850)
            self.assertLessEqual(len(row.payload), 1000)
        bench.ingest.flush()
        self.assertEqual(bench.values(), list(range(200)))
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_message_that_does_not_fit_beside_others(self):
        """It closes the pack of the others and opens one of its own, in this order."""
        self.bench = bench = Bench(PackLimits(300, 300))
        self.busy()
        bench.ingest.accept(said(bench.device(), "x" * 100))
        bench.ingest.accept(said(bench.device(), "y" * 200))
        self.assertEqual(bench.values(), ["x" * 100])
        bench.clock.advance(DELAY)
        self.assertEqual(bench.values(), ["x" * 100, "y" * 200])

    def test_message_larger_than_a_payload(self):
        """It goes at once, in several payloads, after what came before."""
        self.bench = bench = Bench(PackLimits(300, 300))
        self.busy()
        bench.ingest.accept(said(bench.device(), 0))
        bench.ingest.accept(Reading(bench.device(), tuple((ts, {"k": ts}) for ts in range(1, 50))))
        self.assertEqual(bench.values(), list(range(50)))
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_new_limits(self):
        """New limits close the open pack under the old ones and hold from then on."""
        bench = self.bench
        self.busy()
        bench.ingest.accept(said(bench.device(), "x" * 500))
        bench.ingest.set_limits(PackLimits(60_000, 60_000))
        self.assertEqual(bench.rows(), [])
        bench.ingest.set_limits(PackLimits(300, 300))
        self.assertEqual(len(bench.rows()), 1)
        for value in range(30):
            bench.ingest.accept(said(bench.device(), value))
        bench.ingest.flush()
        self.assertTrue(all(len(row.payload) <= 300 for row in bench.rows()[1:]))

    def test_accept_from_within(self):
        """A connector that hands in the next message when the one before is stored loses nothing."""
        self.bench = bench = Bench(PackLimits(300, 300))
        big = Reading(bench.device(), tuple((ts, {"k": ts}) for ts in range(1, 50)))
        real = bench.spool.append

        def append_and_say_more(drafts: Any, numbered: Any = None) -> Any:
            bench.spool.append = real  # type: ignore[method-assign] # once is enough
            result = real(drafts, numbered)
            bench.ingest.accept(said(bench.device("B"), "from within"))
            return result

        self.busy()
        bench.ingest.accept(said(bench.device(), 0))
        bench.spool.append = append_and_say_more  # type: ignore[method-assign] # see above
        receipt = bench.ingest.accept(big)
        bench.ingest.flush()
        bench.spool.run()
        self.successResultOf(receipt.when_stored())
        self.assertEqual(bench.values(), list(range(50)))
        self.assertEqual(bench.values("B"), ["from within"])

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["A", "B", "busy", "idle", "wait", "commit", "flush"]),
                st.integers(0, 3) | st.just(40),
            ),
            max_size=60,
        )
    )
    def test_any_course(self, course):
        """Whatever happens in between: nothing lost, nothing twice, in order, each within the pack delay."""
        bench = Bench(PackLimits(500, 500))
        said_so: dict[str, list[tuple[float, int]]] = {"A": [], "B": []}
        stored_at: dict[str, list[float]] = {"A": [], "B": []}
        devices = {name: bench.device(name) for name in said_so}

        def look() -> None:
            for name, times in stored_at.items():
                times += [bench.clock.seconds()] * (len(bench.values(name)) - len(times))

        receipts = []
        for word, number in course:
            if word in said_so:
                for _ in range(number):
                    said_so[word].append((bench.clock.seconds(), len(said_so[word])))
                    receipts.append(bench.ingest.accept(said(devices[word], said_so[word][-1][1])).when_stored())
            elif word == "wait":
                for _ in range(number):
                    bench.clock.advance(0.002)
                    look()
            elif word == "commit":
                bench.spool.step()
            elif word == "flush":
                bench.ingest.flush()
            else:
                bench.idle = word == "idle"
                if bench.idle:
                    bench.ingest.link_idled()
            look()
        bench.ingest.stop()
        look()
        bench.spool.run()
        self.assertEqual(bench.clock.getDelayedCalls(), [])
        for receipt in receipts:
            self.successResultOf(receipt)
        for name, entries in said_so.items():
            self.assertEqual(bench.values(name), [value for _, value in entries])
            for (at, _), later in zip(entries, stored_at[name], strict=True):
                self.assertLessEqual(later - at, DELAY + 0.0021)
        self.assertEqual(sum(row.messages for row in bench.rows()), sum(map(len, said_so.values())))


class ReceiptTests(Base):
    """What receipts say."""

    def test_stored(self):
        """A receipt that is asked early fires with the commit, asked late at once, asked twice twice."""
        bench = self.bench
        receipt = bench.ingest.accept(said(bench.device(), 1))
        first, second = receipt.when_stored(), receipt.when_stored()
        self.assertNoResult(first)
        bench.spool.run()
        for deferred in (first, second, receipt.when_stored()):
            self.assertIsNone(self.successResultOf(deferred))

    def test_before_the_pack_is_closed(self):
        """A receipt does not fire with an earlier pack's commit."""
        bench = self.bench
        bench.ingest.accept(said(bench.device(), 1))
        late = bench.ingest.accept(said(bench.device(), 2)).when_stored()
        bench.spool.step()
        self.assertNoResult(late)
        bench.ingest.flush()
        bench.spool.run()
        self.successResultOf(late)

    def test_one_pack_one_outcome(self):
        """All messages of a pack get the answer of its commit."""
        bench = self.bench
        self.busy()
        receipts = [bench.ingest.accept(said(bench.device(name), 1)).when_stored() for name in "ABAB"]
        bench.ingest.flush()
        bench.spool.run()
        for receipt in receipts:
            self.successResultOf(receipt)

    def test_full(self):
        """A message that was refused for room fails with StoreFull, asked before and after."""
        bench = self.bench
        bench.spool.refuse = 1
        receipt = bench.ingest.accept(said(bench.device(), 1))
        before = receipt.when_stored()
        bench.spool.run()
        self.failureResultOf(before, StoreFull)
        self.failureResultOf(receipt.when_stored(), StoreFull)
        self.assertEqual(bench.rows(), [])

    def test_goes_on_after_full(self):
        """When there is room again the next message is stored."""
        bench = self.bench
        bench.spool.refuse = 1
        bench.ingest.accept(said(bench.device(), 1))
        bench.spool.run()
        bench.clock.advance(1)
        bench.ingest.accept(said(bench.device(), 2))
        self.assertEqual(bench.values(), [2])

    def test_broken_store(self):
        """When the store breaks, what waits and what comes fails with StoreError, asked before and after."""
        bench = self.bench
        early = bench.ingest.accept(said(bench.device(), 1))
        before = early.when_stored()
        bench.spool.break_down()
        bench.clock.advance(1)
        late = bench.ingest.accept(said(bench.device(), 2))
        for deferred in (before, early.when_stored(), late.when_stored()):
            self.failureResultOf(deferred, StoreError)

    def test_nobody_asks(self):
        """A failed commit that nobody asks about is no unhandled error."""
        bench = self.bench
        bench.ingest.accept(said(bench.device(), 1))
        bench.spool.break_down()
        bench.clock.advance(1)
        bench.ingest.accept(said(bench.device("new"), 2))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_nothing_in_it(self):
        """A reading without a value has nothing to wait for."""
        bench = self.bench
        for reading in (Reading(bench.device()), Reading(bench.device(), ((1, {}),)), Reading(bench.device(), (), {})):
            self.successResultOf(bench.ingest.accept(reading).when_stored())
        self.assertEqual((bench.rows(), bench.clock.getDelayedCalls()), ([], []))

    def test_pack_of_payloads(self):
        """A message that makes several payloads is stored when all of them are."""
        self.bench = bench = Bench(PackLimits(200, 200))
        receipt = bench.ingest.accept(Reading(bench.device(), tuple((ts, {"k": ts}) for ts in range(1, 50))))
        self.assertGreater(len(bench.rows()), 3)
        stored = receipt.when_stored()
        self.assertNoResult(stored)
        bench.spool.run()
        self.successResultOf(stored)


class FilterTests(Base):
    """Readings that are kept out, and values that cannot be sent."""

    def test_denied(self):
        """Readings of a denied device go nowhere, have nothing to wait for, and are counted each."""
        self.bench = bench = Bench(allows=lambda connector, device: (connector, device) != ("Line 4", "A"))
        device = bench.device()
        for _ in range(3):
            self.successResultOf(bench.ingest.accept(said(device, 1)).when_stored())
        bench.ingest.disconnected(Device("never seen"))
        self.assertEqual(bench.rows(), [])
        self.assertEqual(bench.counters.get("readings_denied", "Line 4"), 3)
        bench.ingest.accept(said(bench.device("B"), 1))
        self.assertEqual(bench.values("B"), [1])

    def test_names_that_cannot_be(self):
        """A device with a name that ThingsBoard refuses would end every session, so it is kept out and counted."""
        bench = self.bench
        for name in ("", "  ", "x" * 256, "a\0b"):
            device = bench.device(name)
            for _ in range(2):
                self.successResultOf(bench.ingest.accept(said(device, 1)).when_stored())
        self.assertEqual(bench.rows(), [])
        self.assertEqual(len(bench.registry), 2)
        self.assertEqual(bench.counters.get("readings_unnameable", "Line 4"), 8)

    def test_unusable_values(self):
        """A value that JSON has no form for is left out and counted; the reading's other values go on."""
        for bad in (float("nan"), float("inf"), object(), b"x", {1}, [float("nan")], 10**5000):
            bench = Bench()
            reading = Reading(bench.device(), ((1, {"bad": bad, "k": 1}), (2, {"bad": bad})), {"bad": bad, "fw": "1"})
            stored = bench.ingest.accept(reading).when_stored()
            attributes, telemetry = bench.rows()
            self.assertEqual(json.loads(attributes.payload), {"A": {"fw": "1"}})
            self.assertEqual(json.loads(telemetry.payload), {"A": [{"ts": 1, "values": {"k": 1}}]})
            bench.spool.run()
            self.successResultOf(stored)
            self.assertEqual(bench.counters.total("readings_unusable"), 1)

    def test_nothing_but_unusable_values(self):
        """When nothing is left there is nothing to wait for."""
        bench = self.bench
        self.successResultOf(bench.ingest.accept(said(bench.device(), float("nan"))).when_stored())
        self.assertEqual((bench.rows(), bench.clock.getDelayedCalls()), ([], []))

    def test_unusable_values_by_period(self):
        """One key's NaN does not keep the device's other keys from being reported at the end of the period."""
        bench = self.bench
        device = bench.device(report=ReportPlan(PERIOD))
        bench.ingest.accept(Reading(device, ((1, {"k": 1, "bad": 1}),)))
        bench.ingest.accept(Reading(device, ((2, {"k": 2, "bad": float("nan")}),)))
        bench.spool.run()
        bench.clock.advance(10)
        bench.ingest.flush()
        self.assertEqual(bench.values(), [1, 2])

    def test_depth(self):
        """Values nested to any depth are sent or left out, and raise nothing, with every strategy."""
        for strategy in ReportType:
            bench = Bench()
            device = bench.device(report=ReportPlan(ReportStrategy(strategy, 1000)))
            deep: Any = 1
            for depth in range(2000):
                deep = [deep]
                if depth % 97 == 0 or depth > 1990:
                    bench.ingest.accept(Reading(device, ((depth, {"k": deep, "l": depth}),), {"k": deep}))
            bench.ingest.stop()
            self.assertIn(1999, bench.values(key="l"))

    def test_oversized(self):
        """A value that fits no payload becomes a dead letter before its reading's rows; the rest is stored."""
        self.bench = bench = Bench(PackLimits(200, 200))
        stored = bench.ingest.accept(Reading(bench.device(), ((1, {"huge": "x" * 500, "k": 1}),))).when_stored()
        self.assertEqual(bench.values(), [1])
        self.assertEqual(bench.spool.calls, ["bury", "append"])
        bench.spool.run()
        self.successResultOf(stored)
        ((row, reason),) = bench.spool.dead
        self.assertEqual((reason, row.devices, row.topic), ("too_large", ("A",), topics.TELEMETRY))
        self.assertIn("huge", json.loads(row.payload)["A"][0]["values"])
        self.assertEqual(bench.counters.total("values_too_large"), 1)

    def test_nothing_but_oversized(self):
        """When nothing is left to store nobody waits for the next message to be told so."""
        self.bench = bench = Bench(PackLimits(200, 200))
        self.successResultOf(bench.ingest.accept(said(bench.device(), "x" * 500)).when_stored())
        self.assertEqual((bench.rows(), bench.clock.getDelayedCalls()), ([], []))
        bench.spool.run()
        self.assertEqual(len(bench.spool.dead), 1)

    def test_many_devices(self):
        """What is remembered of devices is bounded, and forgetting it loses nothing."""
        bench = self.bench
        bench.ingest._ways.update({Device(str(number)): 1 for number in range(100_000)})
        bench.ingest.accept(said(bench.device(), 1))
        self.assertEqual(bench.values(), [1])
        self.assertEqual(len(bench.ingest._ways), 1)


class RegistryTests(Base):
    """The registry of known devices."""

    def test_written_before_the_rows(self):
        """A new device is in the registry's file before any row that names it is stored."""
        self.bench = bench = Bench(known=())
        bench.ingest.accept(said(bench.device(), 1))
        self.assertEqual(bench.spool.calls[:2], ["job", "append"])
        bench.spool.step()
        self.assertEqual(list(json.loads(bench.registry.written[0])), ["A"])
        self.assertEqual(bench.spool.stored, {})

    def test_not_written_without_need(self):
        """A known device costs no write."""
        bench = self.bench
        for value in range(3):
            bench.ingest.accept(said(bench.device(), value))
            bench.ingest.flush()
        self.assertNotIn("job", bench.spool.calls)

    def test_details_of_a_new_device(self):
        """A new device gets the attributes by which ThingsBoard's gateway pages count, before its first value."""
        self.bench = bench = Bench(known=())
        bench.ingest.accept(said(bench.device(), 1))
        bench.ingest.flush()
        first, second = bench.rows()
        self.assertEqual(json.loads(first.payload), {"A": {"connectorType": "socket", "connectorName": "Line 4"}})
        self.assertEqual(second.topic, topics.TELEMETRY)
        bench.ingest.accept(said(bench.device(), 2))
        bench.ingest.flush()
        self.assertEqual(len(bench.rows()), 3)

    def test_file_cannot_be_written(self):
        """That costs no reading; it is counted, and tried again with the next pack."""
        self.bench = bench = Bench(known=())
        bench.registry.error = OSError(28, "No space left on device")
        stored = bench.ingest.accept(said(bench.device(), 1)).when_stored()
        bench.ingest.flush()
        bench.spool.run()
        self.successResultOf(stored)
        self.assertEqual(bench.counters.total("registry_faults"), 1)
        bench.registry.error = None
        bench.ingest.accept(said(bench.device(), 2))
        bench.ingest.flush()
        bench.spool.run()
        self.assertEqual(len(bench.registry.written), 1)

    def test_broken_store(self):
        """A store that is broken is told once, by itself, and not by the registry too."""
        self.bench = bench = Bench(known=())
        bench.ingest.accept(said(bench.device(), 1))
        bench.spool.break_down()
        self.assertEqual(bench.counters.total("registry_faults"), 0)
        self.assertTrue(bench.registry.dirty)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_disconnected(self):
        """The disconnect message follows everything that was accepted before; the device counts as gone."""
        bench = self.bench
        self.busy()
        device = bench.device()
        bench.ingest.accept(said(device, 1))
        bench.ingest.disconnected(device)
        first, second = bench.rows()
        self.assertEqual((first.topic, second.topic), (topics.TELEMETRY, topics.DISCONNECT))
        self.assertEqual((json.loads(second.payload), second.devices), ({"device": "A"}, ("A",)))
        self.assertEqual((second.messages, second.points), (0, 0))
        self.assertEqual(list(bench.registry.present()), ["B"])
        bench.ingest.accept(said(device, 2))
        self.assertEqual(list(bench.registry.present()), ["A", "B"])

    def test_disconnected_with_values_by_period(self):
        """What waits for the end of its period goes before the disconnect message, and nothing is repeated after it."""
        bench = self.bench
        device = bench.device(report=ReportPlan(PERIOD))
        bench.ingest.accept(said(device, 1))
        bench.ingest.accept(said(device, 2, ts=7))
        bench.ingest.disconnected(device)
        self.assertEqual(bench.values(), [1, 2])
        self.assertEqual(bench.rows()[-1].topic, topics.DISCONNECT)
        bench.spool.run()
        for _ in range(10):
            bench.clock.advance(10)
        self.assertEqual(bench.values(), [1, 2])

    def test_who_is_connected_is_written_late_and_once(self):
        """Many devices that come and go cost one writing of the file, and not one each; a stop does not forget it."""
        bench = self.bench
        devices = [Device(f"D{n}", connector="Line 4") for n in range(20)]
        for device in devices:
            bench.ingest.accept(said(device, 1))
        bench.ingest.flush()
        written = bench.spool.calls.count("job")
        for device in devices:
            bench.ingest.disconnected(device)
        self.assertEqual(bench.spool.calls.count("job"), written)
        bench.clock.advance(REGISTRY_SECONDS)
        self.assertEqual(bench.spool.calls.count("job"), written + 1)
        bench.ingest.accept(said(devices[0], 2))
        bench.ingest.stop()
        self.assertEqual(bench.spool.calls.count("job"), written + 2)

    def test_a_name_that_speaks_through_another_connector_is_not_told_gone(self):
        """Two connectors with one device name: the end of the one does not end the other."""
        bench = self.bench
        here, there = Device("A", connector="Line 4"), Device("A", connector="Line 5")
        bench.ingest.accept(said(here, 1))
        bench.ingest.accept(said(there, 2))
        bench.ingest.disconnected(here)
        self.assertNotIn(topics.DISCONNECT, [row.topic for row in bench.rows()])
        self.assertIn("A", list(bench.registry.present()))

    def test_disconnected_unknown(self):
        """A device that never spoke is not told gone."""
        self.bench.ingest.disconnected(Device("never"))
        self.assertEqual(self.bench.rows(), [])


class SourceTests(Base):
    """Back-pressure."""

    def test_pause_and_resume(self):
        """All sources are paused while the store is behind, and resumed when it caught up, once each."""
        bench = self.bench
        sources = [FakeSource(), FakeSource()]
        for source in sources:
            bench.ingest.add_source(source)
        for _ in range(2):
            bench.ingest.store_behind()
        self.assertTrue(bench.ingest.paused)
        for _ in range(2):
            bench.ingest.store_ready()
        self.assertFalse(bench.ingest.paused)
        self.assertEqual([source.calls for source in sources], [["pause", "resume"]] * 2)
        self.assertEqual(bench.counters.total("sources_paused"), 1)

    def test_added_while_paused(self):
        """A source that comes while the store is behind is paused before `add_source` returns."""
        bench = self.bench
        bench.ingest.store_behind()
        source = FakeSource()
        bench.ingest.add_source(source)
        self.assertEqual(source.calls, ["pause"])
        bench.ingest.store_ready()
        self.assertEqual(source.calls, ["pause", "resume"])

    def test_removed(self):
        """A source that is gone is left alone; an unknown one is ignored."""
        bench = self.bench
        source = FakeSource()
        bench.ingest.add_source(source)
        bench.ingest.remove_source(source)
        bench.ingest.remove_source(source)
        bench.ingest.store_behind()
        bench.ingest.store_ready()
        self.assertEqual(source.calls, [])

    def test_removed_while_being_paused(self):
        """Sources may come and go while all are told."""
        bench = self.bench
        other = FakeSource()

        class Leaves(FakeSource):
            def pause_reading(self) -> None:
                bench.ingest.remove_source(self)
                bench.ingest.add_source(other)

        bench.ingest.add_source(Leaves())
        bench.ingest.store_behind()
        bench.ingest.store_ready()
        self.assertEqual(other.calls, ["pause", "resume"])

    def test_still_accepts(self):
        """What comes all the same while paused is taken: it may have been in a buffer."""
        bench = self.bench
        bench.ingest.store_behind()
        bench.ingest.accept(said(bench.device(), 1))
        bench.clock.advance(DELAY)
        self.assertEqual(bench.values(), [1])


class ReportTests(Base):
    """Report strategies, joined to the clock."""

    def test_period(self):
        """At the end of a period the newest value goes on with its sample time; repeats bear the new time."""
        bench = self.bench
        device = bench.device(report=ReportPlan(PERIOD))
        bench.ingest.accept(said(device, 1, ts=1))
        bench.clock.advance(4)
        suppressed = bench.ingest.accept(said(device, 2, ts=2))
        self.successResultOf(suppressed.when_stored())
        self.assertEqual(bench.values(), [1])
        bench.spool.run()
        bench.clock.advance(6)
        bench.spool.run()
        bench.clock.advance(10)
        times = [element["ts"] for row in bench.rows() for element in json.loads(row.payload)["A"]]
        self.assertEqual((bench.values(), times), ([1, 2, 2], [1, 2, bench.now_ms]))

    def test_sooner_period(self):
        """A key with a shorter period is not held up by the timer of a longer one."""
        bench = self.bench
        slow = bench.device("A", ReportPlan(ReportStrategy(ReportType.ON_REPORT_PERIOD, 60_000)))
        fast = bench.device("B", ReportPlan(ReportStrategy(ReportType.ON_REPORT_PERIOD, 1_000)))
        bench.ingest.accept(said(slow, 1))
        bench.ingest.accept(said(fast, 1))
        for _ in range(30):
            bench.spool.run()
            bench.clock.advance(0.1)
        bench.ingest.flush()
        self.assertEqual(len(bench.values("B")), 4)
        self.assertEqual(len(bench.clock.getDelayedCalls()), 1)

    def test_stop(self):
        """Stopping sends what waits for the end of its period, stores it, and leaves no timer."""
        bench = self.bench
        self.busy()
        device = bench.device(report=ReportPlan(PERIOD))
        bench.ingest.accept(said(device, 1, ts=1))
        bench.ingest.accept(said(device, 2, ts=2))
        bench.ingest.stop()
        self.assertEqual(bench.values(), [1, 2])
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_stop_with_nothing(self):
        """Stopping with nothing to do does nothing."""
        self.bench.ingest.stop()
        self.assertEqual((self.bench.rows(), self.bench.spool.calls), ([], []))

    def test_count(self):
        """Readings are counted as they come in, also those that go nowhere."""
        bench = self.bench
        device = bench.device(report=ReportPlan(ReportStrategy(ReportType.ON_CHANGE)))
        for _ in range(3):
            bench.ingest.accept(said(device, 1))
        self.assertEqual(bench.ingest.readings, 3)
        self.assertEqual(bench.values(), [1])


class CostTests(Base):
    """The data path makes no Deferred that nobody asked for."""

    def test_no_deferreds(self):
        """Taking readings into an open pack makes no Deferred and arms no further timer."""
        bench = self.bench
        self.busy()
        device = bench.device()
        bench.ingest.accept(said(device, 0))
        with mock.patch("tbgw.pipeline.ingest.Deferred", side_effect=AssertionError):
            for value in range(100):
                bench.ingest.accept(said(device, value))
        self.assertEqual(len(bench.clock.getDelayedCalls()), 1)
