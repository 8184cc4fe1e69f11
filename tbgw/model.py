"""What travels through the gateway, as frozen values. Pure: no clock, no reactor, no I/O.

A connector makes one `Reading` for each message of a device and hands it to `IIngest`; the pipeline turns many of them
into one `Row`, which is a ready ThingsBoard payload. `Reading` and `Row` are on the path of every message, so they are
NamedTuples: as immutable as a frozen dataclass and built four times as fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

Value = Any
"""A JSON value: str, int, float, bool, None, or a list or dict of these."""


class ReportType(Enum):
    """When a value is sent on (spec configuration-and-apis, section 3.2). The values are the configuration's words."""

    ON_RECEIVED = "ON_RECEIVED"
    ON_CHANGE = "ON_CHANGE"
    ON_REPORT_PERIOD = "ON_REPORT_PERIOD"
    ON_CHANGE_OR_REPORT_PERIOD = "ON_CHANGE_OR_REPORT_PERIOD"
    ON_CHANGE_THROTTLED = "ON_CHANGE_THROTTLED"
    """Ours: a change, but at most one in each period; the newest at the end of the period, if it still is a change."""


class Aggregation(Enum):
    """How the values within a report period become one. The values are the configuration's words."""

    MIN = "MIN"
    MAX = "MAX"
    AVG = "AVG"
    SUM = "SUM"
    COUNT = "COUNT"
    FIRST = "FIRST"
    LAST = "LAST"


@dataclass(frozen=True, slots=True)
class ReportStrategy:
    """One report strategy."""

    type: ReportType = ReportType.ON_RECEIVED
    period_ms: int = 0
    """Length of the report period, in milliseconds; meaningful for the types with a period only."""
    ttl_seconds: float = 86_400.0
    """How long the last value of a silent key is repeated; 0 for never."""
    deadband: float = 0.0
    """Numbers that differ from the last one sent by no more than this are no change."""
    aggregation: Aggregation | None = None
    """With ON_REPORT_PERIOD: what is sent of the values of a period; None for the newest, repeated when there is
    none."""


ON_RECEIVED = ReportStrategy()
"""The built-in strategy: every value is sent on when it arrives."""


@dataclass(frozen=True, slots=True)
class ReportPlan:
    """The strategies that hold for one device, all five levels of the configuration already resolved."""

    default: ReportStrategy = ON_RECEIVED
    """For every key that has no strategy of its own (levels 1 to 4)."""
    telemetry: Mapping[str, ReportStrategy] = field(default_factory=dict)
    """Strategies of single time series (level 5), by key."""
    attributes: Mapping[str, ReportStrategy] = field(default_factory=dict)
    """Strategies of single attributes (level 5), by key."""

    @property
    def passes_all(self) -> bool:
        """Whether every value of the device goes out as it arrives, so that nothing has to be remembered."""
        return all(
            strategy.type is ReportType.ON_RECEIVED
            for strategy in (self.default, *self.telemetry.values(), *self.attributes.values())
        )


@dataclass(frozen=True, slots=True, eq=False)
class Device:
    """One device as its connector knows it. Made once, shared by all its readings, compared by identity."""

    name: str
    """Name in ThingsBoard."""
    profile: str = "default"
    """Device profile in ThingsBoard; used when ThingsBoard creates the device, and never after."""
    connector: str = ""
    """Name of the connector that owns the device."""
    connector_type: str = ""
    """`socket`, `xmpp` or `ocpp`."""
    report: ReportPlan = ReportPlan()


class Reading(NamedTuple):
    """What one message of a device said."""

    device: Device
    telemetry: tuple[tuple[int, dict[str, Value]], ...] = ()
    """(time in ms since the epoch, values by key) for each instant that the message spoke of."""
    attributes: Mapping[str, Value] = {}
    """Client attributes by key."""


class Row(NamedTuple):
    """One stored record: a payload exactly as it will travel."""

    seq: int
    """Position in the spool: strictly increasing, never used twice, also across restarts."""
    topic: str
    """MQTT topic, one of `tbgw.thingsboard.topics`."""
    payload: bytes
    """The MQTT payload."""
    devices: tuple[str, ...]
    """Names of the devices it speaks of; each has to be announced to ThingsBoard before the row is sent."""
    messages: int
    """How many accepted readings went into it, for counting."""
    points: int
    """How many data points it carries, for ThingsBoard's rate limits."""


class Draft(NamedTuple):
    """A row before the spool has given it its `seq`. Fields as in `Row`."""

    topic: str
    payload: bytes
    devices: tuple[str, ...]
    messages: int
    points: int


class RateLimit(NamedTuple):
    """At most `capacity` in any `seconds`: one greedy token bucket (spec thingsboard-mqtt, 6.1)."""

    capacity: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What ThingsBoard lets one gateway session do, raw as announced by `getSessionLimits`, or our defaults."""

    max_payload_bytes: int = 65536
    """Limit of an MQTT packet's remaining length (spec thingsboard-mqtt, 0 fact 4)."""
    max_inflight: int = 100
    """QoS 1 publishes that may be without PUBACK at one time."""
    own_messages: tuple[RateLimit, ...] = ()
    """`rateLimits.messages`: the gateway device's own requests, other than telemetry and attributes."""
    own_telemetry: tuple[RateLimit, ...] = ()
    own_points: tuple[RateLimit, ...] = ()
    messages: tuple[RateLimit, ...] = ()
    """`gatewayRateLimits.messages`: for all children together; a first contact with a child costs two."""
    telemetry: tuple[RateLimit, ...] = ()
    """`gatewayRateLimits.telemetryMessages`: each device's part of a packet counts as one."""
    points: tuple[RateLimit, ...] = ()
    """`gatewayRateLimits.telemetryDataPoints`."""
    announced: bool = field(default=False, compare=False)
    """Whether ThingsBoard itself has said so, so that an empty limit means none, and not that nobody told."""
    echoes: bool = field(default=False, compare=False)
    """Whether a plain broker is in ThingsBoard's place, which sends our own messages back to us."""
    doubtful_pubacks: bool = field(default=False, compare=False)
    """Whether a PUBACK may stand for a refusal, behind which the session ends: ThingsBoard on MQTT 3.1.1."""


class OwnAttributes(NamedTuple):
    """Attributes of the gateway's own device, by key."""

    client: dict[str, Value]
    shared: dict[str, Value]
