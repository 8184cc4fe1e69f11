"""What was answered to a station lately, so that a Call that comes twice has one effect and one answer.

A charger that lost our answer sends the same Call again: the same id, often over a new connection (spec ocpp, 1.1). It
gets the answer that it missed, and the Call is not told again. This memory belongs to the charge point, not to a
connection.

Kept are Calls that bear a time of their own, as everything about meters and transactions does: only there does an
equal payload mean the same event. A simple client that numbers all its messages "1" and reports 20 degrees every
minute by DataTransfer sends no duplicates, and a charger that counts from 1 again after a restart must not have its
new StatusNotification taken for the old one. For the same reason a BootNotification empties the memory.

A Call whose answer is still being made is joined whatever it is: its id is in use. When it comes again over a newer
connection, the answer goes there.

In size: two generations of at most `GENERATION` answers, each a number and nearly always the one string `{}`; the
older one is forgotten after `GENERATION_SECONDS` more. An answer larger than `MAX_ANSWER_CHARACTERS` is not kept.
"""

from __future__ import annotations

import marshal
from typing import Generic, TypeVar

from tbgw.ocpp.messages import Call

T = TypeVar("T")

GENERATION = 16
GENERATION_SECONDS = 300.0
MAX_ANSWER_CHARACTERS = 2048


def is_dated(call: Call) -> bool:
    """Whether the Call says when what it tells took place."""
    payload = call.payload
    return "timestamp" in payload or "meterValue" in payload or "generatedAt" in payload


def fingerprint(call: Call) -> int:
    """The same for two Calls with the same id, action and payload; 64 bits that a peer cannot foresee."""
    # Version 2 writes equal values equally; later ones write references, by how Python happens to share objects.
    return hash((call.id, call.action, marshal.dumps(call.payload, 2)))


class Replays(Generic[T]):
    """The memory of one charge point. `T` is what stands for a Call that is being answered."""

    __slots__ = ("_old", "_open", "_since", "_young")

    def __init__(self) -> None:
        self._young: dict[int, str] | None = None
        self._old: dict[int, str] | None = None
        self._since = 0.0
        self._open: dict[int, T] | None = None

    def is_empty(self, now: float) -> bool:
        """Whether there is nothing left to remember."""
        self._age(now)
        return not (self._young or self._old or self._open)

    def answer_to(self, mark: int, now: float) -> str | None:
        """The payload that answered the Call, as text."""
        self._age(now)
        answer = self._young.get(mark) if self._young else None
        return answer if answer is not None or not self._old else self._old.get(mark)

    def open_call(self, mark: int) -> T | None:
        """The Call of this fingerprint that is being answered."""
        return self._open.get(mark) if self._open else None

    def begin(self, mark: int, call: T) -> None:
        """A Call is being answered."""
        if self._open is None:
            self._open = {}
        self._open[mark] = call

    def end(self, mark: int, now: float, answer: str | None) -> None:
        """It was answered; `answer` None if there is nothing to keep."""
        if self._open:
            self._open.pop(mark, None)
        if answer is None or len(answer) > MAX_ANSWER_CHARACTERS:
            return
        self._age(now)
        if self._young is None:
            self._young, self._since = {}, now
        elif len(self._young) >= GENERATION:
            self._young, self._old, self._since = {}, self._young, now
        self._young[mark] = answer

    def forget(self) -> None:
        """The station has booted: its ids mean something new. What is being answered stays."""
        self._young = self._old = None

    def _age(self, now: float) -> None:
        if self._young is None:
            return
        age = now - self._since
        if age < GENERATION_SECONDS:
            return
        if age >= 2 * GENERATION_SECONDS or not self._young:
            self.forget()
        else:
            self._old, self._young, self._since = self._young, {}, now
