# -*- test-case-name: tests.config.test_schema -*-
"""What every room may know of the configuration: how sections are declared and read, and the report strategies.

A connector's own file is described in the connector's room, with the kinds of settings gathered here; its parse
function takes the root `Node` of the file and a `Reporter`, and gives its section.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from tbgw.config.document import Node, printable
from tbgw.config.findings import Finding, Reporter, Severity
from tbgw.config.settings import (
    REQUIRED,
    Setting,
    certificate,
    changed,
    config_section,
    flag,
    integer,
    one_of,
    read_section,
    secret,
    section,
    sections,
    setting,
    settings_of,
    text,
)
from tbgw.config.values import (
    Refused,
    Secret,
    ca_fault,
    did_you_mean,
    host_fault,
    is_loopback,
    key_pair_fault,
    read_expression,
    read_flag,
    read_host,
    read_integer,
    read_items,
    read_object,
    read_secret,
    read_text,
)
from tbgw.model import ON_RECEIVED, Aggregation, ReportPlan, ReportStrategy, ReportType

__all__ = [
    "CONNECTOR_FILE_INERT",
    "NOT_NEEDED",
    "NOT_YET",
    "NO_CUSTOM_CODE",
    "REQUIRED",
    "Finding",
    "Node",
    "Refused",
    "Reporter",
    "Secret",
    "Setting",
    "Severity",
    "ca_fault",
    "certificate",
    "changed",
    "config_section",
    "did_you_mean",
    "flag",
    "host_fault",
    "integer",
    "is_loopback",
    "key_pair_fault",
    "one_of",
    "printable",
    "read_expression",
    "read_flag",
    "read_host",
    "read_integer",
    "read_items",
    "read_object",
    "read_secret",
    "read_section",
    "read_text",
    "report_strategy",
    "resolve",
    "secret",
    "section",
    "sections",
    "setting",
    "settings_of",
    "text",
]

NOT_YET = "known, but without effect in this version"
NOT_NEEDED = "known, but without effect: the gateway settles this by itself"
NO_CUSTOM_CODE = "custom converters are not loaded; the built-in one is used"

CONNECTOR_FILE_INERT: Mapping[str, str] = {
    "name": "without effect: the name in tb_gateway.json counts",
    **dict.fromkeys(
        ("id", "configVersion", "mode", "ts"), "without effect: only ThingsBoard's page of the gateway uses it"
    ),
    **dict.fromkeys(("logLevel", "enableRemoteLogging"), "read by the gateway, and not by the connector"),
}
"""Keys at the top of every connector's file, as the reference and the page in ThingsBoard write them."""

MAX_PERIOD_SECONDS = 31 * 24 * 3600
"""Longest report period: a month. More is a slip with units."""
MAX_DEADBAND = 1e15
"""Largest deadband. Beyond it floats have no parts of one any more."""


def _read_deadband(node: Node, reporter: Reporter) -> float:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refused(f"is {node.kind}, must be a number, 0 or more")
    if not 0 <= value <= MAX_DEADBAND:
        raise Refused(f"is {value}, must be a number from 0 to {MAX_DEADBAND:g}")
    return float(value)


def _read_aggregation(node: Node, reporter: Reporter) -> Aggregation:
    stated = read_text(node, reporter)
    words = [one.value for one in Aggregation]
    if stated.upper() not in words:
        allowed = ", ".join(words)
        raise Refused(f'is "{printable(stated)}", must be one of {allowed}{did_you_mean(stated, words)}')
    return Aggregation(stated.upper())


@config_section
class _Strategy:
    """The object under `reportStrategy`."""

    type: str = one_of("type", choices=[*(one.value for one in ReportType), "DISABLED"], doc="When a value is sent on.")
    period_ms: int | None = integer(
        "reportPeriod",
        minimum=1,
        maximum=MAX_PERIOD_SECONDS * 1000,
        default=None,
        unit="ms",
        doc="Length of the report period.",
    )
    ttl_seconds: int = integer(
        "ttl",
        minimum=0,
        maximum=MAX_PERIOD_SECONDS,
        default=86_400,
        unit="seconds",
        doc="How long the last value of a silent key is repeated; 0 for never.",
    )
    deadband: float = setting(
        "deadband",
        read=_read_deadband,
        default=0.0,
        doc="Numbers that differ from the last one sent by no more than this are no change. Our own key.",
    )
    aggregation: Aggregation | None = setting(
        "aggregationFunction",
        read=_read_aggregation,
        default=None,
        doc="With ON_REPORT_PERIOD: how the values within a period become one.",
    )


_ON_CHANGE_TYPES = (ReportType.ON_CHANGE, ReportType.ON_CHANGE_OR_REPORT_PERIOD, ReportType.ON_CHANGE_THROTTLED)
_REPEATING_TYPES = (ReportType.ON_REPORT_PERIOD, ReportType.ON_CHANGE_OR_REPORT_PERIOD)


def _read_strategy(node: Node, reporter: Reporter) -> ReportStrategy:
    read = read_section(_Strategy, node, reporter)
    if read.type == "DISABLED":
        reporter.notice(node, "DISABLED is taken as ON_RECEIVED: every value is sent on when it arrives")
        return ON_RECEIVED
    kind = ReportType(read.type)
    aggregates = read.aggregation is not None and kind is ReportType.ON_REPORT_PERIOD
    for key, types in (("deadband", _ON_CHANGE_TYPES), ("aggregationFunction", (ReportType.ON_REPORT_PERIOD,))):
        child = node.member(key)
        if child is not None and kind not in types:
            reporter.without_effect(child, f"without effect with {kind.value}")
    deadband = read.deadband if kind in _ON_CHANGE_TYPES else 0.0
    if kind in (ReportType.ON_RECEIVED, ReportType.ON_CHANGE):
        return ReportStrategy(kind, deadband=deadband) if deadband else ReportStrategy(kind)
    if read.period_ms is None:
        if node.member("reportPeriod") is None:
            reporter.missing(node, "reportPeriod", f"is missing: {kind.value} needs it, in milliseconds")
        raise Refused
    ttl = float(read.ttl_seconds) if kind in _REPEATING_TYPES else ON_RECEIVED.ttl_seconds
    return ReportStrategy(kind, read.period_ms, ttl, deadband, read.aggregation if aggregates else None)


def _read_only_on_change(node: Node, reporter: Reporter) -> ReportStrategy | None:
    return ReportStrategy(ReportType.ON_CHANGE) if read_flag("")(node, reporter) else None


def report_strategy(doc: str) -> Any:
    """`reportStrategy`, or in its absence the older `sendDataOnlyOnChange: true`; None when neither says anything."""
    return setting(
        "reportStrategy",
        read=_read_strategy,
        doc=doc,
        default=None,
        instead=("sendDataOnlyOnChange", _read_only_on_change),
    )


class Reported(Protocol):
    """A configured datapoint, of any connector."""

    @property
    def key(self) -> str:
        """Its name in ThingsBoard."""

    @property
    def report(self) -> ReportStrategy | None:
        """Its own strategy, if any."""


def resolve(
    general: ReportStrategy,
    connector: ReportStrategy | None,
    device: ReportStrategy | None,
    telemetry: Iterable[Reported] = (),
    attributes: Iterable[Reported] = (),
) -> ReportPlan:
    """The plan of one device: the most specific level that says anything wins, whole (spec, 3.3)."""
    return ReportPlan(
        default=device or connector or general,
        telemetry={point.key: point.report for point in telemetry if point.report is not None},
        attributes={point.key: point.report for point in attributes if point.report is not None},
    )
