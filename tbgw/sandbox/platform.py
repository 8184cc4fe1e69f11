"""An in-process ThingsBoard as data: its devices, their values, and who is connected. Pure; `now_ms` is an argument.

What holds between two calls:

- A device is found by its name and never forgotten; the first one with credentials is the gateway itself.
- A device has at most one MQTT session of its own and is a child of at most one gateway session; the newer wins.
- Everything that has to be kept is noted in `Changes`, which the caller takes away and writes down before it
  acknowledges anything. Ids of devices and series are given out here, so the store never has to look one up.
- Devices, series and the room for long values are bounded; what goes over is refused as ThingsBoard refuses it
  (devices) or left out and counted (`values_left_out`).

What a PUBLISH does is told in `api`, how its outcome is said on the wire in `outcomes`.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tbgw.sandbox.outcomes import FILTER_REFUSED, NO_SUBSCRIPTION_EXISTED, Refusal, refusal
from tbgw.sandbox.values import MAX_KEY_CHARS, Stored, TimedValues, plain

MAX_NAME_CHARS = 255
"""The longest name of a device or profile that ThingsBoard takes."""

LONG_VALUE_CHARS = 256
"""From this length on a text value counts against `max_long_value_chars`; shorter ones are bounded by their number."""

_HTML_TAG = re.compile(r"<[/!]?[A-Za-z][^<>]*>")

_SUBSCRIBABLE = frozenset(
    [
        *("v1/devices/me/attributes", "v2/a", "v2/a/j", "v2/a/p"),
        *("v1/devices/me/attributes/response/+", "v2/a/res/+", "v2/a/res/j/+", "v2/a/res/p/+"),
        *("v1/devices/me/rpc/request/+", "v2/r/req/+", "v2/r/req/j/+", "v2/r/req/p/+"),
        *("v1/devices/me/rpc/response/+", "v2/r/res/+", "v2/r/res/j/+", "v2/r/res/p/+"),
        *("v1/gateway/attributes", "v1/gateway/rpc", "v1/gateway/attributes/response"),
        *("v2/fw/response/+/chunk/+", "v2/sw/response/+/chunk/+", "v2/fw/error", "v2/sw/error"),
    ]
)  # section 2.8: exact strings, not patterns

_NO_RATE_LIMITS: Mapping[str, str | None] = {
    "messages": None,
    "telemetryMessages": None,
    "telemetryDataPoints": None,
}

SESSION_LIMITS: Mapping[str, Any] = {
    "maxPayloadSize": 65536,
    "maxInflightMessages": 100,
    "rateLimits": _NO_RATE_LIMITS,
    "gatewayRateLimits": _NO_RATE_LIMITS,
}
"""What ThingsBoard's default tenant profile announces: its packet size, its queue length, and no rate limits (6.3)."""


@dataclass(frozen=True)
class SandboxLimits:
    """How much the sandbox holds and what it announces."""

    max_devices: int = 10_000
    """Devices that may exist; more are refused as by a tenant profile's `maxDevices`."""
    max_series: int = 100_000
    """Telemetry keys and attributes of all devices together."""
    max_long_value_chars: int = 32 * 1024 * 1024
    """Room for latest values of `LONG_VALUE_CHARS` and more, all together."""
    points_per_series: int = 20_000
    """Points of history that are kept of each key: 15 minutes at 20 a second."""
    max_store_bytes: int = 256 * 1024 * 1024
    """Size that the database file is kept under by keeping less history."""
    max_connections: int = 100
    """MQTT connections at one time."""
    child_inactivity_ms: int = 600_000
    """A child without data for so long leaves its gateway's session silently (3.10)."""
    session_limits: Mapping[str, Any] = field(default_factory=lambda: SESSION_LIMITS)
    """The answer to getSessionLimits; a device that is no gateway gets it without `gatewayRateLimits`."""


class NotCreated(Exception):  # noqa: N818 - says what is
    """A device cannot be created under this name or profile."""


class TooManyDevices(Exception):  # noqa: N818 - says what is
    """No more devices may be created."""


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
        "child_activity_ms",
        "child_of",
        "gateway",
        "id",
        "last_activity_ms",
        "name",
        "profile",
        "session",
        "shared",
        "shown",
        "telemetry",
    )

    def __init__(self, device_id: int, name: str, profile: str, gateway: bool, last_activity_ms: int) -> None:
        self.id = device_id
        self.name = name
        self.profile = profile
        self.gateway = gateway
        self.last_activity_ms = last_activity_ms
        self.telemetry: dict[str, Series] = {}
        self.attributes: dict[str, tuple[int, Stored]] = {}
        self.shared: dict[str, Stored] = {}
        self.session: Session | None = None
        self.child_of: Session | None = None
        self.child_activity_ms = 0
        self.shown: dict[str, Any] | None = None


class Session:
    """One accepted MQTT connection. Compared by identity."""

    __slots__ = ("children", "device", "gateway", "protocol_version", "subscriptions")

    def __init__(self, device: Device, protocol_version: int) -> None:
        self.device = device
        self.gateway = device.gateway
        self.protocol_version = protocol_version
        self.children: dict[str, Device] = {}
        self.subscriptions: dict[str, int] = {}


class Credentials(NamedTuple):
    """An access token and whose it is."""

    token: str
    device: Device


class Changes:
    """What happened since the last time, for the store and for those who look on."""

    __slots__ = ("attributes", "devices", "points", "series")

    def __init__(self) -> None:
        self.devices: dict[int, Device] = {}
        """Devices that are new or of which anything changed, by id."""
        self.series: list[tuple[int, int, str]] = []
        """New series: (id, device id, key)."""
        self.points: list[tuple[int, int, Stored]] = []
        """(series id, ts in ms, value), in order; of equal series and ts the last one counts."""
        self.attributes: dict[tuple[int, str], tuple[int, Stored]] = {}
        """(ts in ms, value) by (device id, key)."""


class StoredDevice(NamedTuple):
    """A device as the store gives it back."""

    device_id: int
    name: str
    profile: str
    gateway: bool
    last_activity_ms: int


class Snapshot(NamedTuple):
    """Everything that the store holds, but for the history."""

    devices: list[StoredDevice]
    series: list[tuple[int, int, str, int, Stored]]
    """(series id, device id, key, ts, value) with the latest point."""
    attributes: list[tuple[int, str, int, Stored]]
    """(device id, key, ts, value)."""


class Platform:
    """The devices and sessions of one sandbox."""

    def __init__(self, limits: SandboxLimits, snapshot: Snapshot | None = None) -> None:
        self.limits = limits
        self.devices: dict[str, Device] = {}
        self.values_left_out = 0
        """Values that were not kept for want of room."""
        self.sessions: set[Session] = set()
        self._changes = Changes()
        self._credentials: list[Credentials] = []
        self._next_device_id = 1
        self._next_series_id = 1
        self._series_count = 0
        self._long_chars = 0
        if snapshot is not None:
            self._load(snapshot)

    def _load(self, snapshot: Snapshot) -> None:
        by_id: dict[int, Device] = {}
        for stored in snapshot.devices:
            by_id[stored.device_id] = self.devices[stored.name] = Device(*stored)
        for series_id, device_id, key, ts_ms, value in snapshot.series:
            series = by_id[device_id].telemetry[key] = Series(series_id, ts_ms, value)
            self._make_room(series, value)
        for device_id, key, ts_ms, value in snapshot.attributes:
            by_id[device_id].attributes[key] = (ts_ms, value)
        self._next_device_id = max(by_id, default=0) + 1
        self._next_series_id = max((row[0] for row in snapshot.series), default=0) + 1
        self._series_count = len(snapshot.series) + len(snapshot.attributes)

    # Devices and credentials

    def add_credentials(self, token: str, name: str, gateway: bool = False) -> Device:
        """Let the device `name` connect with `token`; it is created when it is not there. Raises ValueError for an
        empty token."""
        if not token:
            raise ValueError("a token is not empty")
        device = self.devices.get(name)
        if device is None:
            device = self._create(name, "default")
        device.gateway = gateway
        self._touch(device)
        self._credentials.append(Credentials(token, device))
        return device

    def _create(self, name: str, profile: str) -> Device:
        device = Device(self._next_device_id, name, profile, False, 0)
        self._next_device_id += 1
        self.devices[name] = device
        return device

    def _touch(self, device: Device) -> None:
        device.shown = None
        self._changes.devices[device.id] = device

    # Sessions

    def connect(
        self, username: str | None, password: bytes | None, client_id: str, protocol_version: int
    ) -> tuple[Session, Session | None] | Refusal:
        """The new session and the older one that it takes the place of, or why there is none."""
        found = None
        offered = (username or "").encode("utf-8", "replace")
        for credentials in self._credentials:  # all of them, so that the time tells nothing
            if hmac.compare_digest(credentials.token.encode(), offered):
                found = credentials.device
        if found is None:
            return refusal(username, password, client_id)
        session = Session(found, protocol_version)
        older = found.session
        if older is not None:
            self.disconnect(older)
        found.session = session
        self.sessions.add(session)
        self._touch(found)
        return session, older

    def disconnect(self, session: Session) -> None:
        """The session is over, with all its children. Doing so again changes nothing."""
        if session not in self.sessions:
            return
        self.sessions.discard(session)
        for child in session.children.values():
            child.child_of = None
            self._touch(child)
        session.children = {}
        if session.device.session is session:
            session.device.session = None
            self._touch(session.device)

    def subscribe(self, session: Session, topic_filter: str, qos: int) -> int:
        """The SUBACK reason code, in MQTT 5's words."""
        if topic_filter not in _SUBSCRIBABLE:
            return FILTER_REFUSED
        session.subscriptions[topic_filter] = min(qos, 1)
        return min(qos, 1)

    def unsubscribe(self, session: Session, topic_filter: str) -> int:
        """The UNSUBACK reason code, in MQTT 5's words."""
        return 0 if session.subscriptions.pop(topic_filter, None) is not None else NO_SUBSCRIPTION_EXISTED

    # Children of a gateway

    def child(self, session: Session, name: str, now_ms: int, profile: str = "default") -> Device:
        """
        The device `name`, created with `profile` when it is not there, as a child of `session` from now on. Raises
        NotCreated and TooManyDevices.
        """
        device = session.children.get(name)
        if device is not None:
            return device
        device = self.devices.get(name)
        if device is None:
            _check_name(name)
            _check_name(profile)
            if len(self.devices) >= self.limits.max_devices:
                raise TooManyDevices(name)
            device = self._create(name, profile)
        if device.child_of is not None:
            del device.child_of.children[name]
        device.child_of = session
        device.child_activity_ms = now_ms
        session.children[name] = device
        self._touch(device)
        return device

    def child_gone(self, session: Session, name: str) -> None:
        """The gateway says that `name` is disconnected. Unknown names are ignored."""
        device = session.children.pop(name, None)
        if device is not None:
            device.child_of = None
            self._touch(device)

    def expire(self, now_ms: int) -> int | None:
        """Let silent children go; answers when to look again (ms), or None when there is no child left."""
        limit_ms = self.limits.child_inactivity_ms
        earliest = None
        for session in self.sessions:
            for name, device in list(session.children.items()):
                due_ms = device.child_activity_ms + limit_ms
                if due_ms <= now_ms:
                    self.child_gone(session, name)
                elif earliest is None or due_ms < earliest:
                    earliest = due_ms
        return earliest

    def active(self, device: Device, now_ms: int) -> None:
        """The device said something."""
        device.last_activity_ms = device.child_activity_ms = now_ms
        self._touch(device)

    # Values

    def record_telemetry(self, device: Device, elements: Iterable[TimedValues], now_ms: int) -> None:
        """Keep these points. A point older than the latest one goes to the history only."""
        telemetry = device.telemetry
        points = self._changes.points
        for ts_ms, values in elements:
            for key, value in values:
                series = telemetry.get(key)
                if series is None:
                    series = self._new_series(device, key, ts_ms, value)
                    if series is None:
                        continue
                if ts_ms >= series.ts_ms:
                    if (
                        series.long_chars
                        or ((type(value) is str or type(value) is bytes) and len(value) >= LONG_VALUE_CHARS)
                    ) and not self._make_room(series, value):
                        continue
                    series.ts_ms = ts_ms
                    series.value = value
                points.append((series.id, ts_ms, value))
        self.active(device, now_ms)

    def _new_series(self, device: Device, key: str, ts_ms: int, value: Stored) -> Series | None:
        if self._series_count >= self.limits.max_series or len(key) > MAX_KEY_CHARS:
            self.values_left_out += 1
            return None
        series = Series(self._next_series_id, ts_ms, value)
        if not self._make_room(series, value):
            return None
        self._next_series_id += 1
        self._series_count += 1
        device.telemetry[key] = series
        self._changes.series.append((series.id, device.id, key))
        return series

    def _make_room(self, series: Series, value: Stored) -> bool:
        chars = _long_chars(value)
        if self._long_chars + chars - series.long_chars > self.limits.max_long_value_chars:
            self.values_left_out += 1
            return False
        self._long_chars += chars - series.long_chars
        series.long_chars = chars
        return True

    def record_attributes(self, device: Device, values: Iterable[tuple[str, Stored]], now_ms: int) -> None:
        """Keep these client attributes."""
        for key, value in values:
            old = device.attributes.get(key)
            grown = _long_chars(value) - (_long_chars(old[1]) if old else 0)
            if (
                (old is None and self._series_count >= self.limits.max_series)
                or len(key) > MAX_KEY_CHARS
                or self._long_chars + grown > self.limits.max_long_value_chars
            ):
                self.values_left_out += 1
                continue
            self._series_count += old is None
            self._long_chars += grown
            device.attributes[key] = self._changes.attributes[device.id, key] = (now_ms, value)
        self.active(device, now_ms)

    # For those who look on

    @property
    def changed(self) -> bool:
        """Whether `take_changes` would give anything."""
        return bool(self._changes.devices)

    @property
    def waiting_points(self) -> int:
        """How many points wait to be written down."""
        return len(self._changes.points)

    def take_changes(self) -> Changes:
        """Everything since the last call; it is the caller's now."""
        changes, self._changes = self._changes, Changes()
        return changes

    def shown(self) -> list[dict[str, Any]]:
        """Every device as `ISandboxView.devices` wants it; the entries are shared and not to be changed."""
        gateways: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for device in self.devices.values():
            (gateways if device.gateway else others).append(device.shown or _show(device))
        return gateways + others


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > MAX_NAME_CHARS or "\0" in name or _HTML_TAG.search(name):
        raise NotCreated(name)


def _long_chars(value: Stored) -> int:
    if isinstance(value, str | bytes) and len(value) >= LONG_VALUE_CHARS:
        return len(value)
    return 0


def _show(device: Device) -> dict[str, Any]:
    device.shown = {
        "name": device.name,
        "profile": device.profile,
        "gateway": device.gateway,
        "connected": device.session is not None or device.child_of is not None,
        "telemetry": {
            key: {"ts": series.ts_ms, "value": plain(series.value)} for key, series in device.telemetry.items()
        },
        "attributes": {key: {"ts": ts_ms, "value": plain(value)} for key, (ts_ms, value) in device.attributes.items()},
        "lastActivity": device.last_activity_ms,
    }
    return device.shown
