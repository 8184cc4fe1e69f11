# -*- test-case-name: tests.connectors.xmpp.test_parts -*-
"""How long until the next attempt. ClientService's own count starts anew with every TCP connection, whatever becomes
of it, so that a bad certificate would be tried once a second for ever; this one starts anew only with a session that
lived.
"""

from __future__ import annotations

from collections.abc import Callable

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 60.0
FACTOR = 1.6
HELD_SECONDS = 60.0
"""First delay after a refused login or a conflict: nothing will have changed a second later; servers lock accounts."""
LONGEST_HELD_SECONDS = 600.0
STABLE_SECONDS = 30.0
"""A session that lived so long was a good one."""


class Backoff:
    """See the module. `jitter()` is in [0, 1)."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._failures = 0
        self._refusals = 0

    def lived(self, seconds: float) -> None:
        """A session ended that had been ready for so long."""
        if seconds >= STABLE_SECONDS:
            self._failures = self._refusals = 0

    def failed(self) -> float:
        """Seconds until the next attempt, after a failure that may pass."""
        self._failures += 1
        return self._varied(min(LONGEST_SECONDS, FIRST_SECONDS * FACTOR ** min(self._failures - 1, 20)))

    def refused(self) -> float:
        """Seconds until the next attempt, after one that will hardly pass by itself."""
        self._refusals += 1
        return self._varied(min(LONGEST_HELD_SECONDS, HELD_SECONDS * FACTOR ** min(self._refusals - 1, 20)))

    def _varied(self, seconds: float) -> float:
        """A quarter more or less, so that a hundred gateways do not come in the same moment."""
        return seconds * (0.75 + self._jitter() / 2)
