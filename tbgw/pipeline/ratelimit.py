"""Token buckets for the limits that ThingsBoard announces (spec thingsboard-mqtt, 6.1). Pure: `now` is an argument.

Every pair `count:seconds` is one greedy bucket that refills continuously; all buckets of a limit hold together. We
spend at most `SHARE` of what is allowed, because the server's clock and ours do not agree on when a second begins,
and going over closes the session. A cost above a bucket's size waits for the full bucket and then leaves it in debt:
the mean rate holds and nothing can be too large to be sent ever.
"""

from __future__ import annotations

from collections.abc import Iterable

from tbgw.model import RateLimit

SHARE = 0.8
"""Part of each limit that we use; what ThingsBoard's own SDK uses by default."""

ROUNDING = 1e-6
"""Part of a token that may be missing: sums of floats are not exact."""


class Bucket:
    """One greedy token bucket."""

    def __init__(self, limit: RateLimit, now: float) -> None:
        self._size = max(1.0, limit.capacity * SHARE)
        self._per_second = limit.capacity * SHARE / limit.seconds
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

    def __init__(self, limits: Iterable[RateLimit], now: float) -> None:
        self._buckets = [Bucket(limit, now) for limit in limits]

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
