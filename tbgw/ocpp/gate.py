"""How many connections are let in, and how fast: a storm of reconnects must not stop those who are in already.

When a gateway comes back, all its stations dial at once, and chargers of 1.6 spread their attempts by nothing. Each
handshake costs the reactor's thread about half a millisecond, with TLS two. So a token bucket lets a configured number
in per second, and who is beyond gets 503 with the seconds after which there will be room: each of those turned away
gets a later moment than the one before, at the configured rate, so that a storm comes back as a queue.

In time the decision is taken as early as it can be: for plain connections when the request is there, before anybody's
password is looked at; with TLS before the first byte, by how many handshakes are under way (a 503 would cost what it is
to save).
"""

from __future__ import annotations

import math

MAX_RETRY_SECONDS = 300
"""Nobody is sent away for longer."""


class Gate:
    """One listener's gate. Time is an argument."""

    __slots__ = ("_burst", "_promised", "_rate", "_tokens", "_when")

    def __init__(self, per_second: float, burst: float) -> None:
        """`per_second` 0: no limit. `burst`: how many may come at once after a quiet time."""
        self._rate = per_second
        self._burst = max(burst, 1.0)
        self._tokens = self._burst
        self._when = -math.inf
        self._promised = -math.inf

    def ask(self, now: float) -> int:
        """0: come in. Otherwise the seconds after which to come again."""
        if not self._rate:
            return 0
        if self._when > -math.inf:
            self._tokens = min(self._burst, self._tokens + (now - self._when) * self._rate)
        self._when = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0
        self._promised = min(max(self._promised, now) + 1.0 / self._rate, now + MAX_RETRY_SECONDS)
        return max(1, math.ceil(self._promised - now))
