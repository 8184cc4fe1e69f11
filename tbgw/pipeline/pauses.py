# -*- test-case-name: tests.pipeline.test_pauses -*-
"""How long nothing is sent after ThingsBoard said that it cannot take more, or ended the session without a word. Pure.

An answer may say so ("later", MQTT 5), a DISCONNECT, or nothing but the end of the session. Each time in a row the
pause is longer. A pause does not end with the session: ThingsBoard closes it when it says "later" to a payload.
"""

from __future__ import annotations

from tbgw.thingsboard.closes import HARMLESS_CLOSES

PUSHED_BACK_SECONDS = (1.0, 60.0)
"""First and longest pause."""

EXPLAINED_SECONDS = 5.0
"""An answer that ThingsBoard follows up with closing the session explains its end for so long."""

LIMIT_CLOSES = frozenset({0x96, 0x97})
"""Those that speak of rate limits; in `v1/gateway/disconnect` messages, too."""


class Pauses:
    """`resume_at` is the time from which on something may be sent."""

    def __init__(self) -> None:
        self.resume_at = 0.0
        self._answers = 0
        """Times in a row that ThingsBoard said "later", without taking anything after the pause."""
        self._closes = 0
        """Unexplained ends of sessions with rows in flight, since ThingsBoard last took one."""
        self._explained_at = float("-inf")

    def said_later(self, now: float) -> float:
        """ThingsBoard cannot take more. The pause that begins, in seconds; 0 when there is one already."""
        self.explained(now)
        if now < self.resume_at:
            return 0.0
        pause = _growing(self._answers)
        self._answers += 1
        self.resume_at = now + pause
        return pause

    def explained(self, now: float) -> None:
        """If the session ends soon, it is for what ThingsBoard just answered."""
        self._explained_at = now

    def explains(self, code: int | None, now: float) -> bool:
        """Whether it is known why the session ended; `code` is that of ThingsBoard's DISCONNECT."""
        return code in HARMLESS_CLOSES or now - self._explained_at < EXPLAINED_SECONDS

    def closed(self, now: float) -> None:
        """The session ended without a word while rows were in flight: from the second time on that makes a pause."""
        if self._closes:
            self.resume_at = max(self.resume_at, now + _growing(self._closes - 1))
        self._closes += 1

    def acknowledged(self, sent_at: float) -> None:
        """A PUBACK for what was sent at that time."""
        if sent_at >= self.resume_at:
            self._answers = 0

    def taken(self) -> None:
        """ThingsBoard took a row, or a part of one."""
        self._closes = 0


def _growing(times: int) -> float:
    first, longest = PUSHED_BACK_SECONDS
    return min(longest, first * 2.0 ** min(times, 10))
