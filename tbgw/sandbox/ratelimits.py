"""Rate limits as ThingsBoard enforces them (spec thingsboard-mqtt, 6.1). Pure: the time is an argument.

Every pair of `"capacity:seconds,capacity:seconds"` is a greedy token bucket: it refills continuously, and a message
passes when every bucket has room for all of it, or not at all. A message that costs more than a bucket holds never
passes. The client's own limiter (`tbgw.pipeline.ratelimit`) waits where this one refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tbgw.model import RateLimit
from tbgw.sandbox.devices import Device
from tbgw.thingsboard.payloads import parse_rate_limits

UNLIMITED: Mapping[str, str | None] = {
    "messages": None,
    "telemetryMessages": None,
    "telemetryDataPoints": None,
}

SESSION_LIMITS: Mapping[str, Any] = {
    "maxPayloadSize": 65536,
    "maxInflightMessages": 100,
    "rateLimits": UNLIMITED,
    "gatewayRateLimits": UNLIMITED,
}
"""What ThingsBoard's default tenant profile announces: its packet size, its queue length, and no rate limits (6.3)."""

MAX_NUMBER = 1 << 28
"""The largest packet that MQTT knows."""

ROUNDING = 1e-6
"""Part of a token that may be missing: sums of floats are not exact."""


class _Bucket:
    def __init__(self, limit: RateLimit, at_ms: int) -> None:
        self._capacity = float(limit.capacity)
        self._per_ms = limit.capacity / limit.seconds / 1000
        self._tokens = self._capacity
        self._at_ms = at_ms

    def has(self, cost: int, at_ms: int) -> bool:
        self._tokens = min(self._capacity, self._tokens + max(0, at_ms - self._at_ms) * self._per_ms)
        self._at_ms = at_ms
        return self._tokens + ROUNDING >= cost

    def take(self, cost: int) -> None:
        self._tokens -= cost


class _Kind:
    """All buckets of one of the three limits."""

    def __init__(self, text: object, at_ms: int) -> None:
        self._buckets = [_Bucket(limit, at_ms) for limit in parse_rate_limits(text)]

    def take(self, cost: int, at_ms: int) -> bool:
        """Whether `cost` passes, and if so, its price is paid."""
        if not all(bucket.has(cost, at_ms) for bucket in self._buckets):
            return False
        for bucket in self._buckets:
            bucket.take(cost)
        return True


class Limiter:
    """
    The three limits of one device's own traffic, or of all children of one gateway. Raises ValueError for a text that
    is no limit.
    """

    def __init__(self, limits: Mapping[str, object], at_ms: int) -> None:
        self._messages = _Kind(limits.get("messages"), at_ms)
        self._telemetry = _Kind(limits.get("telemetryMessages"), at_ms)
        self._points = _Kind(limits.get("telemetryDataPoints"), at_ms)
        self._told = [False, False]

    def first(self, points: int) -> bool:
        """Whether nobody asked this since such a message passed last: one notification for each time of refusals."""
        told, self._told[points > 0] = self._told[points > 0], True
        return not told

    def take(self, points: int, at_ms: int) -> bool:
        """
        Whether a message with so many data points passes; 0 for one that is no data. What was taken by the first of
        two limits is not given back when the second says no.
        """
        if points:
            passes = self._telemetry.take(1, at_ms) and self._points.take(points, at_ms)
        else:
            passes = self._messages.take(1, at_ms)
        if passes:
            self._told[points > 0] = False
        return passes


class RateLimited(Exception):  # noqa: N818 - says what is
    """The message goes over a limit; `first` says whether nothing passed since somebody was told of it."""

    def __init__(self, *, first: bool) -> None:
        super().__init__("rate limit")
        self.first = first


class RateLimits:
    """The limits of all sessions: what is announced is enforced. Those of one device are in `Device.limiters`."""

    def __init__(self, announced: Mapping[str, Any], steady_ms: Callable[[], int]) -> None:
        self.announced = announced
        self.children = False
        """Whether there is any limit of children."""
        self._steady_ms = steady_ms
        self._version = 0
        self._heed()

    def change(self, changed: Mapping[str, Any]) -> None:
        """Other limits from now on, all or none. Raises ValueError."""
        merged = dict(self.announced)
        for key, value in changed.items():
            if key in ("rateLimits", "gatewayRateLimits"):
                if not isinstance(value, dict) or not set(value) <= set(UNLIMITED):
                    raise ValueError(f"{key} has {', '.join(UNLIMITED)}")
                merged[key] = {**(merged.get(key) or {}), **value}
                Limiter(merged[key], 0)
            elif key not in SESSION_LIMITS:
                raise ValueError(f"limits are {', '.join(SESSION_LIMITS)}")
            elif not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_NUMBER:
                raise ValueError(f"{key} is a number above 0")
            else:
                merged[key] = value
        self.announced = merged
        self._heed()

    def _heed(self) -> None:
        self._version += 1
        self._own = any((self.announced.get("rateLimits") or {}).values())
        self.children = any((self.announced.get("gatewayRateLimits") or {}).values())

    def spend(self, device: Device, points: int, *, children: bool) -> None:
        """Account for one message. Raises RateLimited."""
        if not (self.children if children else self._own):
            return
        now = self._steady_ms()
        if device.limiters is None or device.limiters[0] != self._version:
            own, group = (self.announced.get(key) or {} for key in ("rateLimits", "gatewayRateLimits"))
            device.limiters = (self._version, Limiter(own, now), Limiter(group, now))
        _, own_limiter, group_limiter = device.limiters
        limiter = group_limiter if children else own_limiter
        if not limiter.take(points, now):
            raise RateLimited(first=limiter.first(points))
