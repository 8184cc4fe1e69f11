"""What the sandbox's platform is made of: devices, their series, sessions, and what has to be written down. Pure data.

A device is the same object from its creation to its deletion, whatever it is called: `Platform.devices` finds it by
its present name, a gateway's session by the name under which it came into that session (spec thingsboard-mqtt, 3.11).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tbgw.sandbox.values import Stored

if TYPE_CHECKING:
    from tbgw.sandbox.ota import Package
    from tbgw.sandbox.ratelimits import Limiter
    from tbgw.sandbox.rpc import Call


class Series:
    """One time series and its latest point."""

    __slots__ = ("id", "long_chars", "ts_ms", "value")

    def __init__(self, series_id: int, ts_ms: int, value: Stored) -> None:
        self.id = series_id
        self.ts_ms = ts_ms
        self.value = value
        self.long_chars = 0


class Device:
    """One device, connected or not."""

    __slots__ = (
        "attributes",
        "calls",
        "child_activity_ms",
        "child_name",
        "child_of",
        "claim",
        "deaf",
        "deleted",
        "gateway",
        "id",
        "last_activity_ms",
        "last_gateway_id",
        "limiters",
        "more",
        "name",
        "next_call",
        "profile",
        "session",
        "shared",
        "shown",
        "telemetry",
    )

    def __init__(
        self,
        device_id: int,
        name: str,
        profile: str,
        gateway: bool,
        last_activity_ms: int,
        last_gateway_id: int = 0,
        more: dict[str, Any] | None = None,
    ) -> None:
        self.id = device_id
        self.name = name
        self.profile = profile
        self.gateway = gateway
        self.last_activity_ms = last_activity_ms
        self.last_gateway_id = last_gateway_id
        """Device id of the gateway that connected it last, 0 for none: who is told that it was renamed or deleted."""
        self.more: dict[str, Any] = more or {}
        """What is rarely there, as JSON: `customer`, `provisioned`, `overwriteActivityTime`, assigned packages."""
        self.telemetry: dict[str, Series] = {}
        self.attributes: dict[str, tuple[int, Stored]] = {}
        self.shared: dict[str, tuple[int, Stored]] = {}
        self.session: Session | None = None
        self.child_of: Session | None = None
        self.child_name = ""
        """Its name within `child_of`, which stays the old one when the device is renamed meanwhile."""
        self.child_activity_ms = 0
        self.deaf = False
        """Its session as a child could not be opened for a rate limit: data is taken, nothing is pushed (6.1)."""
        self.deleted = False
        """Data that still comes for it, under an old name, is acknowledged and lost (3.11)."""
        self.claim: tuple[str, int] | None = None
        """(secret, wall-clock time in ms at which it ends) that the device put up for its customer."""
        self.next_call = 0
        self.calls: dict[int, Call] = {}
        """Server-side RPCs that are not over, by number."""
        self.limiters: tuple[int, Limiter, Limiter] | None = None
        """(version of the limits, own traffic, all children together)."""
        self.shown: dict[str, Any] | None = None


class Session:
    """One accepted MQTT connection. Compared by identity."""

    __slots__ = (
        "attributes_topic",
        "children",
        "device",
        "gateway",
        "latencies",
        "packages",
        "protocol_version",
        "rpc_stem",
        "subscriptions",
    )

    def __init__(self, device: Device, protocol_version: int) -> None:
        self.device = device
        self.gateway = device.gateway
        """Decided at CONNECT (1.3): what the device becomes later does not matter."""
        self.protocol_version = protocol_version
        self.children: dict[str, Device] = {}
        """By the name under which they came into this session."""
        self.subscriptions: dict[str, int] = {}
        self.attributes_topic: str | None = None
        """Where changes of shared attributes go: the last such topic that was subscribed, None for none (2.1)."""
        self.rpc_stem: str | None = None
        """The same for server-side RPC, without the number at its end."""
        self.packages: dict[tuple[str, str], tuple[Package, int]] = {}
        """The package and the chunk size that was given last, by kind and request id, which pins both (5.3)."""
        self.latencies: dict[str, list[tuple[int, int]]] = {}
        """(gateway, transport) latencies in ms since the last report, by connector (3.4)."""


class Push(NamedTuple):
    """Something to send to a session once everything before it is on disk."""

    session: Session
    topic: str
    payload: bytes
    qos: int
    call: Call | None = None
    """The RPC whose delivery the PUBACK proves."""


class Changes:
    """What happened since the last time, for the store and for those who look on."""

    __slots__ = ("attributes", "deleted", "devices", "kept", "names", "points", "series", "shared")

    def __init__(self) -> None:
        self.devices: dict[int, Device] = {}
        """Devices that are new or of which anything changed, by id."""
        self.deleted: list[int] = []
        """Ids of devices that are no more. Nothing else here speaks of them."""
        self.names: list[str] = []
        """Names that are no more."""
        self.series: list[tuple[int, int, str]] = []
        """New series: (id, device id, key)."""
        self.points: list[tuple[int, int, Stored]] = []
        """(series id, ts in ms, value), in order; of equal series and ts the last one counts."""
        self.attributes: dict[tuple[int, str], tuple[int, Stored]] = {}
        """(ts in ms, value) by (device id, key)."""
        self.shared: dict[tuple[int, str], tuple[int, Stored] | None] = {}
        """The same of shared attributes; None for those that were deleted."""
        self.kept: dict[str, bytes | None] = {}
        """Credentials, profiles, packages and limits under their names; None for those that were forgotten."""

    def __bool__(self) -> bool:
        return bool(self.devices or self.deleted or self.kept)


class StoredDevice(NamedTuple):
    """A device as the store gives it back."""

    device_id: int
    name: str
    profile: str
    gateway: bool
    last_activity_ms: int
    last_gateway_id: int
    more: dict[str, Any]


class Snapshot(NamedTuple):
    """Everything that the store holds, but for the history."""

    devices: list[StoredDevice]
    series: list[tuple[int, int, str, int, Stored]]
    """(series id, device id, key, ts, value) with the latest point."""
    attributes: list[tuple[int, str, int, Stored]]
    """(device id, key, ts, value)."""
    shared: list[tuple[int, str, int, Stored]]
    kept: dict[str, bytes]
