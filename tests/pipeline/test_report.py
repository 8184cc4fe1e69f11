"""Report strategies: what goes on now, what at the end of a period, and at which time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.config.schema import resolve
from tbgw.model import ON_RECEIVED, Aggregation, Device, Reading, ReportPlan, ReportStrategy, ReportType
from tbgw.pipeline import report
from tbgw.pipeline.report import ReportFilter, same

CHANGE = ReportStrategy(ReportType.ON_CHANGE)
PERIOD = ReportStrategy(ReportType.ON_REPORT_PERIOD, 10_000)
EITHER = ReportStrategy(ReportType.ON_CHANGE_OR_REPORT_PERIOD, 10_000)


def device(strategy: ReportStrategy, name: str = "A") -> Device:
    return Device(name, report=ReportPlan(strategy))


def said(of: Device, value: Any, ts: int = 1, key: str = "k") -> Reading:
    return Reading(of, ((ts, {key: value}),))


class Point(NamedTuple):
    """A datapoint of a configuration, as `resolve` wants it."""

    key: str
    report: ReportStrategy | None


class Base(SynchronousTestCase):
    """Short ways to say what goes in and what comes out."""

    def setUp(self) -> None:
        self.filter = ReportFilter()

    def passed(self, reading: Reading, now: float) -> list[tuple[int, str, Any]]:
        """(ts, key, value) of what goes on at once."""
        out = self.filter.pass_now(reading, now)
        return (
            [] if out is None else [(ts, key, value) for ts, values in out.telemetry for key, value in values.items()]
        )

    def due(self, now: float, now_ms: int = 0) -> list[tuple[str, int, str, Any]]:
        """(device, ts, key, value) of what goes on because a period ended."""
        return [
            (one.device.name, ts, key, value)
            for one in self.filter.due(now, now_ms)
            for ts, values in one.telemetry
            for key, value in values.items()
        ]


class OnReceivedTests(Base):
    """ON_RECEIVED."""

    def test_everything_goes_on(self):
        """Every value goes on as it comes, and nothing is remembered of it."""
        of = device(ON_RECEIVED)
        for now in range(3):
            self.assertEqual(self.passed(said(of, 5), now), [(1, "k", 5)])
        self.assertEqual(len(self.filter), 0)
        self.assertIsNone(self.filter.next_due)


class OnChangeTests(Base):
    """ON_CHANGE."""

    def test_first_and_changed_values(self):
        """The first value goes on, equal ones do not, another one does, and so does the first again."""
        of = device(CHANGE)
        out = [bool(self.passed(said(of, value), 0)) for value in (1, 1, 2, 2, 1)]
        self.assertEqual(out, [True, False, True, False, True])
        self.assertIsNone(self.filter.next_due)

    def test_each_key_and_device_by_itself(self):
        """Keys, devices, and a time series and an attribute of one key do not know of each other."""
        a, b = device(CHANGE, "A"), device(CHANGE, "B")
        self.assertTrue(self.passed(said(a, 1), 0))
        self.assertTrue(self.passed(said(b, 1), 0))
        self.assertTrue(self.passed(said(a, 1, key="other"), 0))
        self.assertIsNotNone(self.filter.pass_now(Reading(a, (), {"k": 1}), 0))
        self.assertIsNone(self.filter.pass_now(Reading(a, (), {"k": 1}), 0))

    def test_only_the_changed_keys_of_a_reading(self):
        """Of a reading with several keys those go on that changed, at their own times."""
        of = device(CHANGE)
        self.passed(Reading(of, ((1, {"a": 1, "b": 1}),)), 0)
        reading = Reading(of, ((2, {"a": 1, "b": 2}), (3, {"a": 1, "b": 2}), (4, {"a": 9})))
        self.assertEqual(self.passed(reading, 0), [(2, "b", 2), (4, "a", 9)])

    def test_a_device_object_made_anew(self):
        """A reconnected device with a new Device object and an equal plan is the same device."""
        self.assertTrue(self.passed(said(device(ReportStrategy(ReportType.ON_CHANGE)), 1), 0))
        self.assertFalse(self.passed(said(device(ReportStrategy(ReportType.ON_CHANGE)), 1), 1))


class SameTests(SynchronousTestCase):
    """What counts as a change."""

    def test_types(self):
        """Another type is another value, also deep inside."""
        for a, b in ((1, True), (0, False), (1, 1.0), ("1", 1), (None, 0), (None, False), ([], {}), ("", None)):
            for wrap in (lambda x: x, lambda x: [0, x], lambda x: {"k": {"l": [x]}}):
                self.assertFalse(same(wrap(a), wrap(b)), (a, b))
                self.assertTrue(same(wrap(a), wrap(a)))

    def test_floats(self):
        """Floats are compared exactly: no difference is too small."""
        self.assertFalse(same(20.0, 20.0005))
        self.assertFalse(same(0.1 + 0.2, 0.3))
        self.assertTrue(same(0.1, 0.1))

    def test_nan(self):
        """NaN is never the same, so that it is seen, refused and counted each time."""
        self.assertFalse(same(float("nan"), float("nan")))

    def test_containers(self):
        """Lists are compared with their order, objects without."""
        self.assertFalse(same([1, 2], [2, 1]))
        self.assertFalse(same([1], [1, 1]))
        self.assertTrue(same({"a": 1, "b": 2}, {"b": 2, "a": 1}))
        self.assertFalse(same({"a": 1}, {"b": 1}))

    def test_too_deep(self):
        """Values nested too deeply to compare count as changed, and nothing is raised."""
        a: Any = 0
        b: Any = 0
        for _ in range(100_000):
            a, b = [a], [b]
        self.assertFalse(same(a, b))


class OnPeriodTests(Base):
    """ON_REPORT_PERIOD."""

    def test_newest_at_the_end_of_the_period(self):
        """The first value goes on at once; of the later ones the newest, at the end, with the time of its sample."""
        of = device(PERIOD)
        self.assertEqual(self.passed(said(of, 1, ts=100), 0), [(100, "k", 1)])
        self.assertEqual(self.passed(said(of, 2, ts=200), 3), [])
        self.assertEqual(self.passed(said(of, 3, ts=300), 6), [])
        self.assertEqual(self.filter.next_due, 10)
        self.assertEqual(self.due(9.999, 999), [])
        self.assertEqual(self.due(10, 999), [("A", 300, "k", 3)])

    def test_equal_value_keeps_its_sample_time(self):
        """A new sample of the same value is a new sample: its own time goes on."""
        of = device(PERIOD)
        self.passed(said(of, 1, ts=100), 0)
        self.passed(said(of, 1, ts=200), 5)
        self.assertEqual(self.due(10, 999), [("A", 200, "k", 1)])

    def test_repeat_bears_the_new_time(self):
        """Without a new sample the last value goes on again, with the time of the sending."""
        of = device(PERIOD)
        self.passed(said(of, 1, ts=100), 0)
        self.assertEqual(self.due(10, 5000), [("A", 5000, "k", 1)])
        self.assertEqual(self.due(20, 15000), [("A", 15000, "k", 1)])

    def test_no_drift(self):
        """Periods follow each other without drift, however late each end is noticed."""
        of = device(PERIOD)
        self.passed(said(of, 1), 0)
        for end in range(10, 1000, 10):
            self.assertEqual(self.filter.next_due, end)
            self.assertEqual(len(self.due(end + 0.7, 1)), 1)

    def test_long_sleep(self):
        """Periods that passed unnoticed are not made up for: the value goes on once."""
        of = device(PERIOD)
        self.passed(said(of, 1), 0)
        self.assertEqual(len(self.due(3600, 1)), 1)
        self.assertEqual(len(self.due(3600.5, 1)), 0)
        self.assertEqual(self.filter.next_due, 3610)

    def test_silent_for_a_day(self):
        """After a day of silence a value is not repeated any more, and its key is forgotten."""
        of = device(ReportStrategy(ReportType.ON_REPORT_PERIOD, 3_600_000))
        self.passed(said(of, 1), 0)
        repeats = sum(len(self.due(hour * 3600, 1)) for hour in range(1, 48))
        self.assertEqual(repeats, 24)
        self.assertEqual(len(self.filter), 0)
        self.assertIsNone(self.filter.next_due)
        self.assertEqual(len(self.passed(said(of, 1), 50 * 3600)), 1)

    def test_period_longer_than_a_day(self):
        """A value that waits for the end of a long period is sent then, however long ago it came."""
        week = 7 * 86400
        of = device(ReportStrategy(ReportType.ON_REPORT_PERIOD, week * 1000))
        self.passed(said(of, 1, ts=1), 0)
        self.passed(said(of, 2, ts=2), 3600)
        self.assertEqual(self.due(week, 999), [("A", 2, "k", 2)])

    def test_together(self):
        """What ends at one moment is one reading for each device and time of sample."""
        a, b = device(PERIOD, "A"), device(PERIOD, "B")
        for of in (a, b):
            self.passed(Reading(of, ((1, {"x": 0, "y": 0}),), {"fw": 0}), 0)
            self.passed(Reading(of, ((2, {"x": 1, "y": 1}),), {"fw": 1}), 1)
        readings = list(self.filter.due(10, 999))
        self.assertEqual(
            sorted((one.device.name, one.telemetry, dict(one.attributes)) for one in readings if one.telemetry),
            [("A", ((2, {"x": 1, "y": 1}),), {}), ("B", ((2, {"x": 1, "y": 1}),), {})],
        )
        self.assertEqual(
            [(one.device.name, dict(one.attributes)) for one in readings if one.attributes],
            [("A", {"fw": 1}), ("B", {"fw": 1})],
        )

    def test_zero_period(self):
        """A period of nothing, which no configuration allows, does not loop for ever."""
        self.passed(said(device(ReportStrategy(ReportType.ON_REPORT_PERIOD, 0)), 1), 0)
        self.assertEqual(len(self.due(5, 1)), 1)
        self.assertGreater(self.filter.next_due or 0, 5)

    def test_clock_jumps(self):
        """The wall clock plays no part but in the time of repeats: it may jump a year either way."""
        year_ms = 365 * 86_400_000
        of = device(PERIOD)
        self.passed(said(of, 1, ts=10 * year_ms), 0)
        self.passed(said(of, 2, ts=9 * year_ms), 5)
        self.assertEqual(self.due(10, 11 * year_ms), [("A", 9 * year_ms, "k", 2)])
        self.assertEqual(self.due(20, 8 * year_ms), [("A", 8 * year_ms, "k", 2)])
        self.assertEqual(self.filter.next_due, 30)


class OnChangeOrPeriodTests(Base):
    """ON_CHANGE_OR_REPORT_PERIOD."""

    def test_change_goes_on_at_once(self):
        """A change goes on at once, an equal value does not."""
        of = device(EITHER)
        out = [bool(self.passed(said(of, value), now)) for now, value in enumerate((1, 1, 2, 2))]
        self.assertEqual(out, [True, False, True, False])

    def test_repeat_at_the_end_of_the_period(self):
        """Without a change the last value goes on again, with the time of the sending."""
        of = device(EITHER)
        self.passed(said(of, 1, ts=100), 0)
        self.passed(said(of, 1, ts=200), 5)
        self.assertEqual(self.due(10, 777), [("A", 777, "k", 1)])

    def test_change_starts_the_period_anew(self):
        """A change at second 7 puts the end of the period off to second 17; a value that does not change, does not."""
        of = device(EITHER)
        self.passed(said(of, 1), 0)
        self.passed(said(of, 2), 7)
        self.passed(said(of, 2), 9)
        self.assertEqual(self.due(10), [])
        self.assertEqual(self.due(16.9), [])
        self.assertEqual([entry[3] for entry in self.due(17)], [2])
        self.assertEqual([entry[3] for entry in self.due(27)], [2])

    def test_one_timer_entry_for_a_key(self):
        """However often a value changes, its key is in the heap once."""
        of = device(EITHER)
        for now in range(1000):
            self.passed(said(of, now), now / 1000)
        self.assertEqual(len(self.filter._heap), 1)


class TtlTests(Base):
    """How long the last value of a silent key is repeated."""

    def test_own_ttl(self):
        """The strategy's own ttl counts, from the last sample on, and 0 repeats nothing."""
        cases: list[tuple[float, int]] = [(25.0, 2), (0.0, 0)]
        for ttl, repeats in cases:
            self.filter = ReportFilter()
            of = device(ReportStrategy(ReportType.ON_REPORT_PERIOD, 10_000, ttl))
            self.passed(said(of, 1), 0)
            self.assertEqual(sum(len(self.due(now)) for now in range(10, 200, 10)), repeats)
            self.assertEqual(len(self.filter), 0)

    def test_counted_from_the_last_sample(self):
        """A device that goes on saying the same thing is not silent."""
        of = device(ReportStrategy(ReportType.ON_CHANGE_OR_REPORT_PERIOD, 10_000, 25.0))
        repeats = 0
        for now in range(0, 200, 5):
            repeats += len(self.due(now, 1))
            self.passed(said(of, 1), now)
        self.assertEqual(repeats, 19)

    def test_waiting_value_outlives_it(self):
        """A value that was never sent is sent at the end of its period, whatever the ttl."""
        of = device(ReportStrategy(ReportType.ON_REPORT_PERIOD, 10_000, 0.0))
        self.passed(said(of, 1, ts=1), 0)
        self.passed(said(of, 2, ts=2), 1)
        self.assertEqual(self.due(10), [("A", 2, "k", 2)])


class DeadbandTests(Base):
    """From which difference on a number counts as changed."""

    def test_against_the_last_sent(self):
        """Small steps are no change, but a slow drift is: it is the last value sent that counts."""
        of = device(ReportStrategy(ReportType.ON_CHANGE, deadband=0.5))
        values = [20.0, 20.3, 20.5, 20.6, 20.9, 21.2, 20.7, 20.6]
        sent = [value for value in values if self.passed(said(of, value), 0)]
        self.assertEqual(sent, [20.0, 20.6, 21.2, 20.6])

    def test_types(self):
        """It is about numbers: 1 and 1.0 are near; text, True and what is no finite number are not."""
        near: list[tuple[Any, Any]] = [(1, 1.0), (1, 1.4), (10**30, 10**30)]
        far: list[tuple[Any, Any]] = [(1, True), ("1", "1.2"), (1, None), (1, float("nan"))]
        far += [(float("nan"), float("nan")), (1, float("inf")), (1.0, 10**400), ([1], [1.2])]
        for old, new in near:
            self.assertFalse(report.changed(old, new, 0.5), (old, new))
        for old, new in far:
            self.assertTrue(report.changed(old, new, 0.5), (old, new))

    def test_with_a_period(self):
        """Within the deadband the newest value is still the one that is repeated at the end of the period."""
        of = device(ReportStrategy(ReportType.ON_CHANGE_OR_REPORT_PERIOD, 10_000, deadband=1.0))
        self.assertTrue(self.passed(said(of, 5), 0))
        self.assertFalse(self.passed(said(of, 6), 3))
        self.assertEqual(self.due(10, 99), [("A", 99, "k", 6)])
        self.assertTrue(self.passed(said(of, 6.5), 11))


class ThrottledTests(Base):
    """ON_CHANGE_THROTTLED: on change, at most once in each period."""

    def setUp(self) -> None:
        super().setUp()
        self.of = device(ReportStrategy(ReportType.ON_CHANGE_THROTTLED, 10_000))

    def test_first_at_once_then_at_the_end(self):
        """A change goes on at once when the last was long ago; else the newest does, at the end, at its own time."""
        self.assertTrue(self.passed(said(self.of, 1, ts=1), 0))
        self.assertFalse(self.passed(said(self.of, 2, ts=2), 2))
        self.assertFalse(self.passed(said(self.of, 3, ts=3), 8))
        self.assertEqual(self.due(9.9), [])
        self.assertEqual(self.due(10, 99), [("A", 3, "k", 3)])
        self.assertFalse(self.passed(said(self.of, 4, ts=4), 15))
        self.assertEqual(self.due(20, 99), [("A", 4, "k", 4)])
        self.assertTrue(self.passed(said(self.of, 5, ts=5), 31))

    def test_no_change_by_then(self):
        """A value that went and came back within the period is no change; nothing is ever repeated."""
        self.passed(said(self.of, 1), 0)
        self.passed(said(self.of, 2), 2)
        self.passed(said(self.of, 1), 4)
        self.assertEqual([self.due(now) for now in (10, 20, 1000)], [[], [], []])
        self.assertFalse(self.passed(said(self.of, 1), 1001))
        self.assertIsNone(self.filter.next_due)

    def test_at_most_every_period(self):
        """Whatever comes, two values are never nearer than the period, and the last one is never left out."""
        sent: list[tuple[float, Any]] = []
        for step in range(1000):
            now = step * 0.7
            while self.filter.next_due is not None and self.filter.next_due <= now:
                at = self.filter.next_due
                sent += [(at, entry[3]) for entry in self.due(at)]
            value = step % 7 if step < 990 else "end"
            if self.passed(said(self.of, value), now):
                sent.append((now, value))
        sent += [(at, entry[3]) for at in [self.filter.next_due or 0] for entry in self.due(at)]
        times = [at for at, _ in sent]
        self.assertGreater(len(times), 60)
        self.assertGreaterEqual(min(later - earlier for earlier, later in pairwise(times)), 10 - 1e-9)
        self.assertEqual(sent[-1][1], "end")

    def test_stop_and_gone(self):
        """What waits goes out when the gateway stops or the device goes away."""
        self.passed(said(self.of, 1), 0)
        self.passed(said(self.of, 2, ts=2), 1)
        self.assertEqual([one.telemetry for one in self.filter.gone(self.of)], [((2, {"k": 2}),)])
        self.assertEqual(self.due(10), [])
        self.assertEqual(list(self.filter.unsent()), [])


class AggregationTests(Base):
    """ON_REPORT_PERIOD with an aggregation."""

    def aggregated(self, function: Aggregation, values: list[Any]) -> tuple[list[Any], list[tuple[str, int, str, Any]]]:
        """What goes on at once of these, said at ts 1, 2, 3 ..., and what at the end of the period."""
        self.filter = ReportFilter()
        of = device(ReportStrategy(ReportType.ON_REPORT_PERIOD, 10_000, aggregation=function))
        at_once = [value for ts, value in enumerate(values, 1) if self.passed(said(of, value, ts=ts), ts / 100)]
        return at_once, self.due(10.01, 999)

    def test_functions(self):
        """Each function over the period; min, max, first and last bear their own time, the others the newest."""
        expected: list[tuple[Aggregation, int, float]] = [
            (Aggregation.MIN, 3, 1),
            (Aggregation.MAX, 2, 7),
            (Aggregation.AVG, 4, 3.75),
            (Aggregation.SUM, 4, 15),
            (Aggregation.COUNT, 4, 4),
            (Aggregation.FIRST, 1, 4),
            (Aggregation.LAST, 4, 3),
        ]
        for function, ts, value in expected:
            self.assertEqual(self.aggregated(function, [4, 7, 1, 3]), ([], [("A", ts, "k", value)]), function)

    def test_types_of_results(self):
        """Whole numbers stay whole, also large ones, except in an average."""
        (_, _, _, total) = self.aggregated(Aggregation.SUM, [2**60, 1])[1][0]
        self.assertEqual((total, type(total)), (2**60 + 1, int))
        (_, _, _, mean) = self.aggregated(Aggregation.AVG, [2, 2])[1][0]
        self.assertEqual((mean, type(mean)), (2.0, float))

    def test_what_is_no_number(self):
        """Text, True, null, NaN, lists and endless integers go on by themselves and leave the aggregate alone."""
        others = ["7", True, None, [5], {"x": 1}, float("inf"), 10**400]
        for function in (Aggregation.MIN, Aggregation.MAX, Aggregation.AVG, Aggregation.SUM):
            at_once, end = self.aggregated(function, [*others[:3], 4, *others[3:], 6])
            self.assertEqual(at_once, others)
            self.assertEqual([entry[3] for entry in end], [{"MIN": 4, "MAX": 6, "AVG": 5, "SUM": 10}[function.value]])
            self.assertEqual(self.aggregated(function, others), (others, []))

    def test_any_type(self):
        """Count, first and last take whatever comes."""
        values: list[Any] = ["a", True, None, 3]
        expected: list[tuple[Aggregation, Any]] = [(Aggregation.COUNT, 4), (Aggregation.FIRST, "a")]
        for function, value in (*expected, (Aggregation.LAST, 3)):
            at_once, end = self.aggregated(function, values)
            self.assertEqual((at_once, [entry[3] for entry in end]), ([], [value]))

    def test_nothing_is_repeated(self):
        """A period without values sends nothing, and the next value begins a period of its own."""
        of = device(ReportStrategy(ReportType.ON_REPORT_PERIOD, 10_000, aggregation=Aggregation.SUM))
        self.passed(said(of, 1), 0)
        self.assertEqual([len(self.due(now)) for now in (10, 20, 30, 40)], [1, 0, 0, 0])
        self.assertIsNone(self.filter.next_due)
        self.passed(said(of, 5, ts=5), 47)
        self.assertEqual(self.due(57, 9), [("A", 5, "k", 5)])

    def test_each_period_by_itself(self):
        """Every value is in one period and in one only."""
        of = device(ReportStrategy(ReportType.ON_REPORT_PERIOD, 10_000, aggregation=Aggregation.COUNT))
        counts = []
        for step in range(1000):
            counts += [entry[3] for entry in self.due(step * 0.77)]
            self.passed(said(of, step), step * 0.77)
        counts += [one.telemetry[0][1]["k"] for one in self.filter.unsent()]
        self.assertEqual(sum(counts), 1000)
        self.assertEqual(len(counts), 77)

    def test_attributes(self):
        """Attributes are aggregated, too."""
        of = device(ReportStrategy(ReportType.ON_REPORT_PERIOD, 10_000, aggregation=Aggregation.MAX))
        for value in (1, 3, 2):
            self.assertIsNone(self.filter.pass_now(Reading(of, (), {"a": value}), 0))
        self.assertEqual([dict(one.attributes) for one in self.filter.due(10, 9)], [{"a": 3}])


class RoomTests(Base):
    """Memory is bounded."""

    def test_told(self):
        """Each value that goes on because there is no room is told."""
        told: list[tuple[str, str]] = []
        self.filter = ReportFilter(lambda device, key: told.append((device.name, key)))
        self.patch(report, "MAX_KEYS", 2)
        for _ in range(2):
            for key in "abc":
                self.passed(said(device(CHANGE), 1, key=key), 0)
        self.assertEqual(told, [("A", "c"), ("A", "c")])

    def test_silent_keys_make_room(self):
        """Keys silent for longer than their ttl make room for new ones; values that wait are not among them."""
        self.patch(report, "MAX_KEYS", 3)
        self.passed(said(device(CHANGE), 1, key="silent"), 0)
        self.passed(said(device(ReportStrategy(ReportType.ON_REPORT_PERIOD, 10**9)), 1, key="waits"), 0)
        self.passed(said(device(ReportStrategy(ReportType.ON_REPORT_PERIOD, 10**9)), 2, key="waits", ts=2), 0)
        self.passed(said(device(CHANGE), 1, key="speaks"), 0)
        self.passed(said(device(CHANGE), 1, key="speaks"), 86_000)
        self.passed(said(device(CHANGE), 1, key="new"), 86_401)
        self.assertEqual(len(self.filter), 3)
        self.assertFalse(self.passed(said(device(CHANGE), 1, key="new"), 86_402))
        self.assertFalse(self.passed(said(device(CHANGE), 1, key="speaks"), 86_402))
        self.assertTrue(self.passed(said(device(CHANGE), 1, key="silent"), 86_402))
        self.assertEqual([one.telemetry for one in self.filter.unsent()], [((2, {"waits": 2}),)])


class PlanTests(Base):
    """Which strategy holds for which key."""

    def test_key_overrides_default(self):
        """A key's own strategy wins over the device's, for telemetry and attributes each by itself."""
        of = Device("A", report=ReportPlan(CHANGE, {"alarm": ON_RECEIVED, "slow": PERIOD}, {"alarm": PERIOD}))
        reading = Reading(of, ((1, {"alarm": 1, "slow": 1, "other": 1}),), {"alarm": 1, "slow": 1})
        self.assertEqual(len(self.passed(reading, 0)), 3)
        out = self.filter.pass_now(reading, 1)
        self.assertEqual(out, Reading(of, ((1, {"alarm": 1}),), {}))
        self.assertEqual(
            [(one.telemetry, dict(one.attributes)) for one in self.filter.due(10, 999)],
            [(((1, {"slow": 1}),), {}), ((), {"alarm": 1})],
        )

    def test_five_levels(self):
        """The example of the specification: general ON_CHANGE, connector by period, one datapoint at once."""
        telemetry = [Point("alarm", ON_RECEIVED), Point("t", None)]
        plan = resolve(CHANGE, PERIOD, None, telemetry, [Point("fw", CHANGE)])
        self.assertEqual(plan.default, PERIOD)
        self.assertEqual((plan.telemetry["alarm"], plan.attributes["fw"]), (ON_RECEIVED, CHANGE))
        of = Device("A", report=plan)
        reading = Reading(of, ((1, {"alarm": 0, "t": 0}),), {"fw": 0, "hw": 0})
        self.filter.pass_now(reading, 0)
        self.assertEqual(self.filter.pass_now(reading, 1), Reading(of, ((1, {"alarm": 0}),), {}))
        changed = Reading(of, ((2, {"alarm": 0, "t": 1}),), {"fw": 1, "hw": 1})
        self.assertEqual(self.filter.pass_now(changed, 2), Reading(of, ((2, {"alarm": 0}),), {"fw": 1}))
        other = Device("B", report=resolve(CHANGE, None, None))
        self.assertEqual(other.report.default, CHANGE)

    def test_passes_all(self):
        """Only a plan without any other strategy may skip the filter."""
        self.assertTrue(ReportPlan().passes_all)
        self.assertTrue(ReportPlan(ON_RECEIVED, {"a": ON_RECEIVED}).passes_all)
        self.assertFalse(ReportPlan(ON_RECEIVED, {"a": CHANGE}).passes_all)
        self.assertFalse(ReportPlan(ON_RECEIVED, {}, {"a": PERIOD}).passes_all)

    def test_strategy_changes(self):
        """A device that comes back with another strategy is reported by that one, and by that one only."""
        self.passed(said(device(CHANGE), 1), 0)
        self.assertTrue(self.passed(said(device(PERIOD), 1, ts=5), 1))
        self.passed(said(device(PERIOD), 2, ts=6), 2)
        self.assertEqual(self.due(11, 9), [("A", 6, "k", 2)])
        shorter = device(ReportStrategy(ReportType.ON_REPORT_PERIOD, 3_000))
        self.passed(said(shorter, 3), 12)
        sent = [(now, entry[3]) for now in range(12, 31) for entry in self.due(now)]
        self.assertEqual(sent, [(now, 3) for now in range(15, 31, 3)])
        self.assertEqual(len(self.filter), 1)

    def test_limit_of_keys(self):
        """Keys beyond the cap are not remembered and not lost: their values go on as they arrive."""
        with mock.patch.object(report, "MAX_KEYS", 3):
            of = device(CHANGE)
            for number in range(5):
                self.assertTrue(self.passed(said(of, 1, key=f"k{number}"), 0))
            self.assertEqual(len(self.filter), 3)
            self.assertEqual(
                [bool(self.passed(said(of, 1, key=f"k{n}"), 1)) for n in range(5)], [False] * 3 + [True] * 2
            )


class GoneTests(Base):
    """Stopping, and devices that go away."""

    def test_unsent(self):
        """What waits for the end of its period is given out once, with the time of its sample, attributes too."""
        of = device(PERIOD)
        self.passed(Reading(of, ((1, {"k": 1}),), {"a": 1}), 0)
        self.passed(Reading(of, ((2, {"k": 2}),), {"a": 2}), 1)
        self.passed(said(device(EITHER, "B"), 5), 1)
        readings = list(self.filter.unsent())
        self.assertEqual([one.telemetry for one in readings if one.telemetry], [((2, {"k": 2}),)])
        self.assertEqual([dict(one.attributes) for one in readings if one.attributes], [{"a": 2}])
        self.assertEqual(list(self.filter.unsent()), [])

    def test_gone(self):
        """A device that went away gives out what waits, and is not repeated."""
        gone, stays = device(PERIOD, "gone"), device(PERIOD, "stays")
        for of in (gone, stays):
            self.passed(said(of, 1, ts=1), 0)
            self.passed(said(of, 2, ts=2), 1)
        self.assertEqual([one.telemetry for one in self.filter.gone(gone)], [((2, {"k": 2}),)])
        self.assertEqual(list(self.filter.gone(gone)), [])
        self.assertEqual({entry[0] for now in (10, 20, 30) for entry in self.due(now)}, {"stays"})

    def test_comes_back(self):
        """It is reported by period again once it speaks; what it said before counts as known."""
        of = device(EITHER)
        self.passed(said(of, 1), 0)
        list(self.filter.gone(of))
        self.assertEqual(self.due(10), [])
        self.assertFalse(self.passed(said(of, 1), 100))
        self.assertEqual(self.filter.next_due, 110)
        self.assertEqual(len(self.due(110)), 1)

    def test_comes_back_within_the_period(self):
        """Back before the end of the period, it has one timer and not two."""
        of = device(PERIOD)
        self.passed(said(of, 1), 0)
        list(self.filter.gone(of))
        self.passed(said(of, 2, ts=7), 3)
        self.assertEqual(self.due(10, 99), [("A", 7, "k", 2)])
        self.assertEqual(len(self.filter._heap), 1)

    def test_unknown_device(self):
        """A device of which nothing is remembered gives out nothing."""
        self.assertEqual(list(self.filter.gone(device(PERIOD))), [])


class AnyCourseTests(SynchronousTestCase):
    """Against a slow and obvious account of ON_REPORT_PERIOD and ON_CHANGE_OR_REPORT_PERIOD."""

    @settings(max_examples=150, deadline=None)
    @given(
        st.sampled_from([PERIOD, EITHER]),
        st.lists(st.tuples(st.floats(0.1, 25), st.integers(0, 2)), max_size=25),
    )
    def test_against_an_account(self, strategy, course):
        """Looked at in steps, the filter sends what the account says, when it says so."""
        of = device(strategy)
        of_filter = ReportFilter()
        got: list[tuple[float, int, Any]] = []
        account: list[tuple[float, int, Any]] = []
        now = 0.0
        value: Any = None
        ts, due, fresh = 0, 0.0, False
        for step, (wait, new) in enumerate(course):
            until = now + wait
            while of_filter.next_due is not None and of_filter.next_due <= until:
                at = of_filter.next_due
                got += [(at, one.telemetry[0][0], one.telemetry[0][1]["k"]) for one in of_filter.due(at, -1)]
            while value is not None and due <= until:
                account.append((due, ts if fresh else -1, value))
                fresh = False
                due += 10.0
            now = until
            out = of_filter.pass_now(said(of, new, ts=step), now)
            if out is not None:
                got.append((now, out.telemetry[0][0], out.telemetry[0][1]["k"]))
            if value is None or (strategy is EITHER and new != value):
                account.append((now, step, new))
                due = now + 10.0
            else:
                fresh = strategy is PERIOD
            value, ts = new, step
        self.assertEqual(got, account)
