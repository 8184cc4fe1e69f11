"""What the sandbox keeps of its devices: latest values, bounded, and the notes of what has to be written down. Pure.

Series and the room for long values are bounded for all devices together; what goes over is left out and counted. The
other half is `platform`: who the devices are, and who is connected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tbgw.sandbox.devices import Changes, Device, Series
from tbgw.sandbox.ratelimits import SESSION_LIMITS
from tbgw.sandbox.values import MAX_KEY_CHARS, Stored, TimedValues, plain

LONG_VALUE_CHARS = 256
"""From this length on a text value counts against `max_long_value_chars`; shorter ones are bounded by their number."""


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
    """
    The answer to getSessionLimits, and what is enforced: `rateLimits` on the own traffic of every device,
    `gatewayRateLimits` on all children of a gateway together. A device that is no gateway is told only the first.
    """


class Holding:
    """Values of devices, and what changed since somebody took the changes away."""

    def __init__(self, limits: SandboxLimits) -> None:
        self.limits = limits
        self.values_left_out = 0
        """Values that were not kept for want of room."""
        self._changes = Changes()
        self._next_series_id = 1
        self._series_count = 0
        self._long_chars = 0

    def active(self, device: Device, now_ms: int) -> None:
        """The device said something."""
        device.last_activity_ms = device.child_activity_ms = now_ms
        self._touch(device)

    def mark(self, device: Device, **more: Any) -> None:
        """Keep something that is rarely there (`Device.more`); None forgets it."""
        device.more = {key: value for key, value in {**device.more, **more}.items() if value is not None}
        self._touch(device)

    def keep(self, name: str, content: bytes | None) -> None:
        """Keep a setting; None forgets it."""
        self._changes.kept[name] = content

    def _touch(self, device: Device) -> None:
        device.shown = None
        if not device.deleted:
            self._changes.devices[device.id] = device

    def record_telemetry(self, device: Device, elements: Iterable[TimedValues], now_ms: int) -> None:
        """Keep these points. A point older than the latest one goes to the history only."""
        if device.deleted:
            return
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
        chars = long_chars(value)
        if self._long_chars + chars - series.long_chars > self.limits.max_long_value_chars:
            self.values_left_out += 1
            return False
        self._long_chars += chars - series.long_chars
        series.long_chars = chars
        return True

    def record_attributes(self, device: Device, values: Iterable[tuple[str, Stored]], now_ms: int) -> None:
        """Keep these client attributes."""
        if device.deleted:
            return
        for key, value in values:
            if self._keep_attribute(device.attributes, key, now_ms, value):
                self._changes.attributes[device.id, key] = (now_ms, value)
        self.active(device, now_ms)

    def _keep_attribute(self, held: dict[str, tuple[int, Stored]], key: str, now_ms: int, value: Stored) -> bool:
        old = held.get(key)
        grown = long_chars(value) - (long_chars(old[1]) if old else 0)
        if (
            (old is None and self._series_count >= self.limits.max_series)
            or len(key) > MAX_KEY_CHARS
            or self._long_chars + grown > self.limits.max_long_value_chars
        ):
            self.values_left_out += 1
            return False
        self._series_count += old is None
        self._long_chars += grown
        held[key] = (now_ms, value)
        return True

    @property
    def changed(self) -> bool:
        """Whether `take_changes` would give anything."""
        return bool(self._changes)

    @property
    def waiting_points(self) -> int:
        """How many points wait to be written down."""
        return len(self._changes.points)

    def take_changes(self) -> Changes:
        """Everything since the last call; it is the caller's now."""
        changes, self._changes = self._changes, Changes()
        return changes


def long_chars(value: Stored) -> int:
    """How much of the room for long values it takes."""
    if isinstance(value, str | bytes) and len(value) >= LONG_VALUE_CHARS:
        return len(value)
    return 0


def latency_figures(pairs: list[tuple[int, int]]) -> dict[str, int]:
    figures: dict[str, int] = {}
    for name, values in zip(("GwLatency", "TransportLatency"), zip(*pairs, strict=True), strict=True):
        figures |= {f"avg{name}": sum(values) // len(values), f"min{name}": min(values), f"max{name}": max(values)}
    return figures


def _entries(held: Mapping[str, tuple[int, Stored]]) -> dict[str, dict[str, Any]]:
    return {key: {"ts": ts_ms, "value": plain(value)} for key, (ts_ms, value) in held.items()}


def show(device: Device) -> dict[str, Any]:
    device.shown = {
        "name": device.name,
        "profile": device.profile,
        "gateway": device.gateway,
        "connected": device.session is not None or device.child_of is not None,
        "telemetry": {
            key: {"ts": series.ts_ms, "value": plain(series.value)} for key, series in device.telemetry.items()
        },
        "attributes": _entries(device.attributes),
        "shared": _entries(device.shared),
        "lastActivity": device.last_activity_ms,
    }
    return device.shown
