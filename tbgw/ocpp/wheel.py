"""One timer for the pings of all connections, instead of one or two for each.

A connection is in the wheel once, in the slot of the second in which it wants to be asked next. The reactor has a
single delayed call, for the next slot that holds anything. Ten thousand stations cost ten thousand set entries.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Member(Protocol):
    """What is in the wheel. `slot` is the wheel's."""

    slot: int


T = TypeVar("T", bound=Member)


class Wheel(Generic[T]):
    """Asks each member, when its second has come, for the moment at which to ask it next."""

    def __init__(self, clock: IReactorTime, ask: Callable[[T, float], float | None]) -> None:
        """`ask(member, now)` gives the next moment, None to leave the wheel. It may call `add` and `discard`."""
        self._clock = clock
        self._ask = ask
        self._slots: dict[int, set[T]] = {}
        self._order: list[int] = []
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def add(self, member: T, when: float) -> None:
        """Ask the member in the first full second at or after `when`."""
        member.slot = slot = math.ceil(when)
        members = self._slots.get(slot)
        if members is not None:
            members.add(member)
            return
        self._slots[slot] = {member}
        heapq.heappush(self._order, slot)
        if self._order[0] == slot:
            self._arm()

    def discard(self, member: T) -> None:
        """Do not ask it any more."""
        slot = member.slot
        members = self._slots.get(slot)
        if members is None:
            return
        members.discard(member)
        if not members:
            del self._slots[slot]
            if not self._slots:
                self._order.clear()
                self._arm()

    def _arm(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._order:
            self._timer = self._clock.callLater(max(0.0, self._order[0] - self._clock.seconds()), self._turn)

    def _turn(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        due: list[T] = []
        while self._order and self._order[0] <= now:
            due += self._slots.pop(heapq.heappop(self._order), ())
        for member in due:
            when = self._ask(member, now)
            if when is not None:
                self.add(member, max(when, now + 0.001))
        self._arm()
