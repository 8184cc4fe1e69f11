"""What the spool can say of itself beyond its sums: ages, drain rate, what was dropped and what is dead, by reason."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime

from tbgw.spool.contract import Tended


class Figures:
    """Kept by `service.Spool`; everything since the start, but what the store knows."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._running_since = 0.0
        """When running time was zero, on the clock that never jumps."""
        self._oldest_running_ms: int | None = None
        self._dead_reasons: dict[str, int] = {}
        self._dropped: dict[str, int] = {}
        self.drained = 0
        """Messages that were delivered and deleted."""
        self._drain_look = (0.0, 0)
        self._drain_rate = 0.0

    def opened(self, running_ms: int) -> None:
        """The store is open, and has this running time."""
        now = self._clock.seconds()
        self._running_since = now - running_ms / 1000
        self._drain_look = now, 0

    def running_ms(self) -> int:
        """The store's running time, see `contract`."""
        return int((self._clock.seconds() - self._running_since) * 1000)

    def tended(self, tended: Tended) -> None:
        """A look at the store."""
        self._oldest_running_ms = tended.oldest_running_ms
        self._dead_reasons = dict(tended.dead_reasons)

    def dropped(self, reason: str, messages: int) -> None:
        """The caps or the age cost these."""
        self._dropped[reason] = self._dropped.get(reason, 0) + messages

    def buried(self, reason: str) -> None:
        """A row went to the dead letters."""
        self._dead_reasons[reason] = self._dead_reasons.get(reason, 0) + 1

    def status(self, rows: int, dead_rows: int) -> dict[str, Any]:
        """The part of `Spool.status` that is ours."""
        return {
            "oldest_age_seconds": self._oldest_age_seconds(rows),
            "drained": self.drained,
            "drain_per_second": self._drain_per_second(),
            "dropped": dict(self._dropped),
            "dead_letters": dict(self._dead_reasons) if dead_rows else {},
        }

    def _oldest_age_seconds(self, rows: int) -> float | None:
        """Running time since the oldest row came, as of the last look; 0 without rows, None when it is not known."""
        if not rows:
            return 0.0
        if self._oldest_running_ms is None:
            return None
        return round(max(0, self.running_ms() - self._oldest_running_ms) / 1000, 1)

    def _drain_per_second(self) -> float:
        """Messages delivered a second, over the time since somebody asked, a second at least."""
        then, count = self._drain_look
        now = self._clock.seconds()
        if now - then >= 1.0:
            self._drain_rate = (self.drained - count) / (now - then)
            self._drain_look = now, self.drained
        return round(self._drain_rate, 1)
