"""Tests of report strategies: every spelling, and which level wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tbgw.config.schema import config_section, read_section, report_strategy, resolve
from tbgw.model import ON_RECEIVED, Aggregation, ReportStrategy, ReportType
from tests.config.fakes import FolderCase, tree

ON_CHANGE = ReportStrategy(ReportType.ON_CHANGE)
EVERY_MINUTE = ReportStrategy(ReportType.ON_REPORT_PERIOD, 60_000)


@config_section
class Holder:
    report: ReportStrategy | None = report_strategy("d.")

    INERT: ClassVar[Mapping[str, str]] = {}


@dataclass(frozen=True)
class Point:
    key: str
    report: ReportStrategy | None = None


class ReportStrategyTests(FolderCase):
    """The object `reportStrategy`, and what stands for it."""

    def read(self, value: Any) -> ReportStrategy | None:
        return read_section(Holder, tree(value), self.reporter).report

    def strategy(self, **value: Any) -> ReportStrategy | None:
        return self.read({"reportStrategy": value})

    def test_types(self):
        """Each type is read; a period counts for the two types that have one."""
        self.assertEqual(self.strategy(type="ON_RECEIVED"), ON_RECEIVED)
        self.assertEqual(self.strategy(type="ON_CHANGE"), ON_CHANGE)
        self.assertEqual(self.strategy(type="ON_CHANGE", reportPeriod=5), ON_CHANGE)
        self.assertEqual(self.strategy(type="ON_REPORT_PERIOD", reportPeriod=60000), EVERY_MINUTE)
        self.assertEqual(
            self.strategy(type="ON_CHANGE_OR_REPORT_PERIOD", reportPeriod=1),
            ReportStrategy(ReportType.ON_CHANGE_OR_REPORT_PERIOD, 1),
        )
        self.assertEqual(self.lines(), [])

    def test_period_as_text(self):
        """A period in quotes is read: one of the reference's documents has it."""
        self.assertEqual(self.strategy(type="ON_REPORT_PERIOD", reportPeriod="60000"), EVERY_MINUTE)
        self.assertEqual(self.lines(), [])

    def test_disabled(self):
        """DISABLED, which the reference knows, sends everything on as it arrives, and a notice says so."""
        self.assertEqual(self.strategy(type="DISABLED"), ON_RECEIVED)
        self.assertEqual(self.faults(), [])
        self.assertEqual(len(self.lines()), 1)

    def test_missing_period(self):
        """A period type without period is one fault: the reference then reports every millisecond."""
        self.assertIsNone(self.strategy(type="ON_REPORT_PERIOD"))
        self.assertEqual(
            self.faults(),
            ["some.json:2: reportStrategy.reportPeriod: is missing: ON_REPORT_PERIOD needs it, in milliseconds"],
        )

    def test_bad_period(self):
        """A period of 0 or of no number is one fault, not two."""
        self.strategy(type="ON_REPORT_PERIOD", reportPeriod=0)
        self.strategy(type="ON_REPORT_PERIOD", reportPeriod="1 min")
        self.assertEqual(len(self.faults()), 2)

    def test_unknown_type(self):
        """A misspelt type is a fault that names the nearest."""
        self.strategy(type="ON_CHANGED")
        self.assertIn("did you mean ON_CHANGE?", self.faults()[0])

    def test_only_on_change(self):
        """sendDataOnlyOnChange stands for ON_CHANGE when it is true, and for nothing when it is false."""
        self.assertEqual(self.read({"sendDataOnlyOnChange": True}), ON_CHANGE)
        self.assertIsNone(self.read({"sendDataOnlyOnChange": False}))
        self.assertEqual(self.lines(), [])

    def test_strategy_beats_only_on_change(self):
        """Beside a strategy the older flag counts for nothing and is no contradiction."""
        value = {"sendDataOnlyOnChange": True, "reportStrategy": {"type": "ON_REPORT_PERIOD", "reportPeriod": 60000}}
        self.assertEqual(self.read(value), EVERY_MINUTE)
        self.assertEqual(self.lines(), [])

    def test_ttl_deadband_aggregation(self):
        """ttl is in seconds, a deadband is any number, an aggregation is a word in either case."""
        self.assertEqual(
            self.strategy(type="ON_REPORT_PERIOD", reportPeriod=60000, ttl=7, aggregationFunction="avg"),
            ReportStrategy(ReportType.ON_REPORT_PERIOD, 60000, 7.0, 0.0, Aggregation.AVG),
        )
        self.assertEqual(
            self.strategy(type="ON_CHANGE", deadband=0.5), ReportStrategy(ReportType.ON_CHANGE, deadband=0.5)
        )
        self.assertEqual(
            self.strategy(type="ON_CHANGE_THROTTLED", reportPeriod=5000, deadband=1),
            ReportStrategy(ReportType.ON_CHANGE_THROTTLED, 5000, deadband=1.0),
        )
        self.assertEqual(self.lines(), [])

    def test_bad_deadband_and_aggregation(self):
        """What is none is a fault."""
        for wrong in (-1, "1", True, 1e16):
            self.strategy(type="ON_CHANGE", deadband=wrong)
        for wrong in ("MEDIAN", "", 5):
            self.strategy(type="ON_REPORT_PERIOD", reportPeriod=5, aggregationFunction=wrong)
        self.assertEqual(len(self.faults()), 7)

    def test_keys_without_effect(self):
        """A deadband where nothing is compared, and an aggregation without a period to itself, are named."""
        self.assertEqual(self.strategy(type="ON_CHANGE", ttl=86400, aggregationFunction="AVG"), ON_CHANGE)
        self.assertEqual(self.strategy(type="ON_REPORT_PERIOD", reportPeriod=60000, deadband=1), EVERY_MINUTE)
        self.assertEqual(self.faults(), [])
        self.assertEqual(len(self.lines()), 2)


class ResolveTests(FolderCase):
    """The nearest level that says anything wins."""

    def test_nothing_said(self):
        """The general strategy holds for everything when no other level speaks."""
        plan = resolve(ON_RECEIVED, None, None, [Point("a")], [Point("b")])
        self.assertEqual((plan.default, plan.telemetry, plan.attributes), (ON_RECEIVED, {}, {}))
        self.assertTrue(plan.passes_all)

    def test_levels(self):
        """Connector beats general, device beats connector."""
        self.assertEqual(resolve(ON_RECEIVED, ON_CHANGE, None).default, ON_CHANGE)
        self.assertEqual(resolve(ON_CHANGE, EVERY_MINUTE, ON_RECEIVED).default, ON_RECEIVED)

    def test_datapoints(self):
        """A datapoint's own strategy holds for it alone, apart for time series and attributes."""
        plan = resolve(
            ON_CHANGE, EVERY_MINUTE, None, [Point("alarm", ON_RECEIVED), Point("t")], [Point("t", ON_CHANGE)]
        )
        self.assertEqual(plan.default, EVERY_MINUTE)
        self.assertEqual(plan.telemetry, {"alarm": ON_RECEIVED})
        self.assertEqual(plan.attributes, {"t": ON_CHANGE})
