"""Token buckets for the limits that ThingsBoard announces (spec thingsboard-mqtt, 6.1). Pure: `now` is an argument.

Every pair `count:seconds` is one greedy bucket that refills continuously; all buckets of a limit hold together. We
spend at most `SHARE` of what is allowed, because the server's clock and ours do not agree on when a second begins,
and going over closes the session. A cost above a bucket's size waits for the full bucket and then leaves it in debt:
the mean rate holds and nothing can be too large to be sent ever.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import NamedTuple

from tbgw.model import RateLimit, SessionLimits
from tbgw.thingsboard import topics

SHARE = 0.8
"""Part of each limit that we use; what ThingsBoard's own SDK uses by default."""

ROUNDING = 1e-6
"""Part of a token that may be missing: sums of floats are not exact."""


MAX_WINDOW = 64
"""Publishes without PUBACK, at most, whatever is announced: at 50 KiB each they hold 3 MiB of memory."""


class AtOnce(NamedTuple):
    """What may be without PUBACK, and what one publish may hold: no more than a rate limit lets through at once."""

    window: int
    devices: int
    points: int


def at_once(limits: SessionLimits) -> AtOnce:
    """These, under such limits."""
    messages, telemetry, points = (
        [max(1, int(limit.capacity * SHARE)) for limit in group]
        for group in (limits.messages, limits.telemetry, limits.points)
    )
    window = max(1, min([MAX_WINDOW, int(limits.max_inflight * SHARE), *messages, *telemetry]))
    return AtOnce(window, min(telemetry, default=sys.maxsize), min(points, default=sys.maxsize))


class Bucket:
    """One greedy token bucket."""

    def __init__(self, limit: RateLimit, now: float, share: float = SHARE) -> None:
        self._size = max(1.0, limit.capacity * share)
        self._per_second = limit.capacity * share / limit.seconds
        self._tokens = self._size
        self._at = now

    def _refill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self._size, self._tokens + (now - self._at) * self._per_second)
        self._at = now  # also backwards: a clock that was set back must not keep the bucket empty until then

    def wait_seconds(self, cost: float, now: float) -> float:
        """How long until `cost` may be spent; 0 for now."""
        self._refill(now)
        missing = min(cost, self._size) - self._tokens
        # What rounding leaves over is not waited for: a wait shorter than the clock's step would never end.
        return missing / self._per_second if missing > ROUNDING else 0.0

    def spend(self, cost: float, now: float) -> None:
        """Spend `cost`, also into debt."""
        self._refill(now)
        self._tokens -= cost

    def drain(self, now: float) -> None:
        """The server said that the limit is reached: nothing is left."""
        self._refill(now)
        self._tokens = min(self._tokens, 0.0)


class RateLimiter:
    """The buckets of one kind of traffic. Without limits it never waits."""

    def __init__(self, limits: Iterable[RateLimit], now: float, share: float = SHARE) -> None:
        self._buckets = [Bucket(limit, now, share) for limit in limits]

    def __bool__(self) -> bool:
        return bool(self._buckets)

    def wait_seconds(self, cost: float, now: float) -> float:
        """How long until `cost` may be spent under every bucket; 0 for now."""
        return max([bucket.wait_seconds(cost, now) for bucket in self._buckets], default=0.0)

    def spend(self, cost: float, now: float) -> None:
        """Spend `cost` from every bucket."""
        for bucket in self._buckets:
            bucket.spend(cost, now)

    def drain(self, now: float) -> None:
        """Empty every bucket."""
        for bucket in self._buckets:
            bucket.drain(now)


FIRST_CONTACT = 2
"""What announcing a device costs on the server: get-or-create, and the child's session (spec, 6.1)."""

COMMAND = 2
"""What a command costs on the server beside the push itself: its status report, and our reply (spec, 6.1)."""

_OWN = "v1/devices/me/"
_OWN_DATA = frozenset({topics.DEVICE_TELEMETRY, topics.DEVICE_ATTRIBUTES})


class Budget:
    """
    What may be spent of all limits together: those of the children's sum, and those of the gateway's own traffic.
    Backlog has to fit into its share of the limits for data as well, so that the rest is left when fresh data comes.
    """

    def __init__(self, limits: SessionLimits, now: float, backlog_share: float = 1.0) -> None:
        self._messages = RateLimiter(limits.messages, now)
        self._own_messages = RateLimiter(limits.own_messages, now)
        self._data = (RateLimiter(limits.telemetry, now), RateLimiter(limits.points, now))
        self._own_data = (RateLimiter(limits.own_telemetry, now), RateLimiter(limits.own_points, now))
        share = SHARE * backlog_share
        self._backlog = (RateLimiter(limits.telemetry, now, share), RateLimiter(limits.points, now, share))

    def announce(self, now: float, publishes: int = 1) -> float:
        """
        Spend for one announcement, of so many publishes. Else how long to wait for that, in seconds; likewise for the
        others.
        """
        return _spend([(self._messages, FIRST_CONTACT + publishes - 1)], now)

    def send(self, topic: str, devices: int, points: int, now: float, backlog: bool = False) -> float:
        """Spend for a payload that speaks of so many devices and holds so many data points."""
        if topic in _OWN_DATA:
            return _spend([(self._own_data[0], 1), (self._own_data[1], points)], now)
        if topic.startswith(_OWN):
            return _spend([(self._own_messages, 1)], now)
        if topic not in (topics.TELEMETRY, topics.ATTRIBUTES):
            return _spend([(self._messages, 1)], now)
        costs = [(self._data[0], devices), (self._data[1], points)]
        if backlog:
            costs += [(self._backlog[0], devices), (self._backlog[1], points)]
        return _spend(costs, now)

    def received(self, topic: str, now: float) -> None:
        """ThingsBoard sent a command: what it and its answer cost is spent, waiting or not."""
        if topic == topics.RPC:
            self._messages.spend(COMMAND, now)
        elif topic.startswith(topics.DEVICE_RPC_REQUEST):
            self._own_messages.spend(COMMAND, now)

    def drain_messages(self, now: float) -> None:
        """The session ended on an announcement, which is what ThingsBoard does when this limit is reached (3.9)."""
        self._messages.drain(now)

    def drain(self, now: float) -> None:
        """ThingsBoard said, or its silence suggests, that the limits for children's data are reached."""
        for limiter in (*self._data, *self._backlog):
            limiter.drain(now)


def _spend(costs: list[tuple[RateLimiter, int]], now: float) -> float:
    """Spend from all, or from none and say how long to wait."""
    wait = max([limiter.wait_seconds(cost, now) for limiter, cost in costs if limiter], default=0.0)
    if wait <= 0:
        for limiter, cost in costs:
            limiter.spend(cost, now)
    return wait
