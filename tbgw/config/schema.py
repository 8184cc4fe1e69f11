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
from tbgw.model import ON_RECEIVED, ReportPlan, ReportStrategy, ReportType

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
    **dict.fromkeys(("logLevel", "enableRemoteLogging"), NOT_YET),
}
"""Keys at the top of every connector's file, as the reference and the page in ThingsBoard write them."""

MAX_PERIOD_SECONDS = 31 * 24 * 3600
"""Longest report period: a month. More is a slip with units."""


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
    ttl_seconds: int | None = integer(
        "ttl",
        minimum=0,
        maximum=MAX_PERIOD_SECONDS,
        default=None,
        unit="seconds",
        doc="How long an unchanged value is repeated.",
        later=NOT_YET,
    )
    aggregation: str | None = text(
        "aggregationFunction",
        default=None,
        doc="How the values within a period are joined.",
        later="without effect: values are not joined, neither by the reference",
    )


def _read_strategy(node: Node, reporter: Reporter) -> ReportStrategy:
    read = read_section(_Strategy, node, reporter)
    if read.type == "DISABLED":
        reporter.notice(node, "DISABLED is taken as ON_RECEIVED: every value is sent on when it arrives")
        return ON_RECEIVED
    kind = ReportType(read.type)
    if kind in (ReportType.ON_RECEIVED, ReportType.ON_CHANGE):
        return ReportStrategy(kind)
    if read.period_ms is None:
        if node.member("reportPeriod") is None:
            reporter.missing(node, "reportPeriod", f"is missing: {kind.value} needs it, in milliseconds")
        raise Refused
    return ReportStrategy(kind, read.period_ms)


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
