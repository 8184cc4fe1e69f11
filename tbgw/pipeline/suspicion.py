# -*- test-case-name: tests.pipeline.test_suspicion -*-
"""Finds the payload that makes ThingsBoard close the connection. Pure: `now` is an argument.

On MQTT 3.1.1 a bad payload closes the session without a word (spec thingsboard-mqtt, fact 9), and sent again it does so
again, for ever. But most sessions end for other reasons, and then nothing may be blamed. So:

- A row that was in flight when `CLOSES` sessions in a row ended is a suspect. Sessions that end with nothing in flight,
  or each time with other rows, acquit all: such a link is simply bad.
- Suspects are sent alone, nothing else in flight. One that is acknowledged is acquitted.
- One on which the session ends again is taken apart (`Case`), and its parts are sent alone; each part that closes the
  session again is taken apart in turn. What is good of it is delivered that way, in order.
- A part that cannot be cut is given up only when the session ended on it `Suspicion.closes_needed` times running, each
  time right after ThingsBoard had taken something else in the same session. One that ends before that something is
  taken sets the count back. So a server that takes no data at all costs nothing.
- How many closes that is depends on the link: on how many publishes of the last hours were acknowledged, and how many
  sessions ended that nothing explains. By chance alone it would have to come to that once in 100,000 times.
- Devices with a part that was given up are known for an hour: their rows are suspects at once.

Considered and dropped: halving instead of cutting by device, element and key (more closes for one culprit, and a close
costs seconds where a publish costs milliseconds).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from math import ceil, log

from tbgw.model import Row
from tbgw.thingsboard import payloads
from tbgw.thingsboard.payloads import Part

CLOSES = 3
"""Sessions in a row that end with a row in flight, before it is a suspect."""

MEMORY_SECONDS = 3600.0
"""How long a close that nothing explains, and a device that sent what was given up, are remembered."""

MOST_CLOSES_NEEDED = 20
"""Closes on one part that are proof enough on any link."""

DEVICE_DELETED = "device_deleted"
"""The reason in the dead letters for what was stored of a device before it was deleted in ThingsBoard."""

CHANCE = 1e-5
"""How likely it may be that what looks like a culprit is a row of chances."""

MAX_CONDEMNED = 1000
"""Devices remembered, at most."""


class Suspicion:
    """Which rows may be the reason why sessions end."""

    def __init__(self) -> None:
        self.suspects: set[int] = set()
        """Numbers of the rows that were in flight at each of the last `_closes` closes."""
        self._closes = 0
        self._convicted = False
        self._hour = 0
        self._taken = [0, 0]
        """Publishes that were acknowledged, in the hour before and in this one."""
        self._lost = [0, 0]
        """Closes that nothing explains, likewise."""
        self._condemned: dict[tuple[str, str], float] = {}

    @property
    def isolates(self) -> bool:
        """Whether rows have to be sent alone."""
        return bool(self.suspects) and self._closes >= CLOSES

    def closed(self, in_flight: Collection[int], now: float, known: bool = False) -> None:
        """A session ended that nothing else explains. `known`: one of the rows is of a condemned device."""
        common = self.suspects.intersection(in_flight)
        if not common:
            self._dissolve(now)
            if not in_flight:
                self.unexplained(now)
                return
            common = set(in_flight)
        self.suspects = common
        self._closes += 1
        if known:
            self._closes = max(self._closes, CLOSES)

    def taken(self, now: float) -> None:
        """A publish was acknowledged."""
        self._turn(now)
        self._taken[1] += 1

    def unexplained(self, now: float, closes: int = 1) -> None:
        """So many sessions ended for which no row can be blamed."""
        self._turn(now)
        self._lost[1] += closes

    def _turn(self, now: float) -> None:
        """A new hour may have begun."""
        hour = int(now // MEMORY_SECONDS)
        if hour != self._hour:
            for counts in (self._taken, self._lost):
                counts[:] = [counts[1] if hour == self._hour + 1 else 0, 0]
            self._hour = hour

    def acquit(self, seq: int, now: float) -> None:
        """The row was acknowledged."""
        if seq in self.suspects:
            self.suspects.discard(seq)
            if not self.suspects:
                self._dissolve(now)

    def again(self) -> None:
        """The session ended on a suspect that was alone in flight."""
        self._closes += 1

    def convict(self, seq: int, now: float) -> None:
        """Something in the row was given up, so that the closes are explained."""
        self._convicted = True
        self.suspects.discard(seq)
        if not self.suspects:
            self._dissolve(now)

    def condemn(self, devices: Iterable[str], why: str, now: float) -> None:
        """Something of these devices was given up; `why` is the reason in the dead letters."""
        for device in devices:
            if len(self._condemned) >= MAX_CONDEMNED:
                del self._condemned[next(iter(self._condemned))]
            self._condemned[device, why] = now + MEMORY_SECONDS

    def forget(self, last_seq: int) -> None:
        """Rows up to this one are gone, whether they were to blame or not."""
        self.suspects = {seq for seq in self.suspects if seq > last_seq}
        if not self.suspects:
            self._closes = 0
            self._convicted = False

    def _dissolve(self, now: float) -> None:
        if not self._convicted:
            self.unexplained(now, self._closes)
        self._closes = 0
        self._convicted = False
        self.suspects = set()

    def condemned(self, devices: Iterable[str], why: str, now: float) -> bool:
        """Whether one of these sent something lately that had to be given up for this reason."""
        return bool(self._condemned) and any(self._condemned.get((device, why), now) > now for device in devices)

    def closes_needed(self, part: Part, why: str, now: float) -> int:
        """How many closes in a row on this part are proof."""
        self._turn(now)
        # The rate at which publishes are lost by chance, as far as was seen; half a loss for what was not seen yet.
        lost = sum(self._lost) + 0.5
        rate = lost / (sum(self._taken) + lost + 0.5)
        enough = ceil(log(CHANCE) / log(rate))
        least = CLOSES - 1 if self.condemned(part.devices, why, now) else CLOSES
        return max(least, min(MOST_CLOSES_NEEDED, enough))


class Case:
    """One row that is taken apart. `todo[0]` is what is, or will next be, alone in flight."""

    def __init__(self, row: Row) -> None:
        self.row = row
        whole = Part(row.payload, row.devices, row.points)
        self.todo: deque[Part] = deque(payloads.parts(row.topic, row.payload) or (whole,))
        self.bad: list[tuple[Part, str]] = []
        """What has to go to the dead letters, with the reasons."""
        self.accepted = 0
        """Parts that were acknowledged."""
        self.closes = self.refusals = 0
        """Of `todo[0]`, in a row."""
        self.all_closes = 0
        """Sessions that ended on any part."""

    def passed(self) -> None:
        """`todo[0]` was acknowledged."""
        self.todo.popleft()
        self.accepted += 1
        self.closes = self.refusals = 0

    def cut(self) -> bool:
        """Take `todo[0]` apart; False when it cannot be."""
        smaller = payloads.parts(self.row.topic, self.todo[0].payload)
        if smaller:
            self.todo.popleft()
            self.todo.extendleft(reversed(smaller))
            self.closes = self.refusals = 0
        return bool(smaller)

    def give_up(self, reason: str) -> Part:
        """`todo[0]` is the culprit, or one of them."""
        part = self.todo.popleft()
        self.bad.append((part, reason))
        self.closes = self.refusals = 0
        return part

    def moved(self, old: str, new: str | None) -> None:
        """The parts that are still to be sent, under a device's new name; without it when it was deleted."""
        todo, self.todo = self.todo, deque()
        for part in todo:
            if old not in part.devices:
                self.todo.append(part)
            elif new is not None:
                payload = payloads.renamed(self.row.topic, part.payload, {old: new})
                devices = tuple([new if name == old else name for name in part.devices])
                self.todo.append(Part(payload, devices, part.points))
            else:
                payload, taken = payloads.separated(self.row.topic, part.payload, frozenset([old]))
                self.bad += [(letter, DEVICE_DELETED) for letter in taken.values()]
                if payload:
                    devices = tuple([name for name in part.devices if name != old])
                    self.todo.append(Part(payload, devices, part.points))
        left = [new if name == old else name for name in self.row.devices]
        self.row = self.row._replace(devices=tuple([name for name in left if name is not None]))

    def dead_letters(self) -> list[tuple[Row, str]]:
        """What is to be buried, once nothing is left to do: the row itself when nothing of it was taken."""
        if not self.accepted and len({reason for _, reason in self.bad}) == 1:
            return [(self.row, self.bad[0][1])]
        return [
            (Row(0, self.row.topic, part.payload, part.devices, 1, part.points), reason) for part, reason in self.bad
        ]
