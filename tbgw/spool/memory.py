"""Rows in memory: for tests, and for a gateway whose owner prefers a worn-out flash chip less than lost data.

Same contract as the file, except that nothing outlives the process. Needs no thread: use `runners.CallDirectly`.
An OrderedDict and not a dict, because finding the first key of a dict walks over all that were deleted before it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from tbgw.model import Row
from tbgw.spool.contract import (
    EXPIRE_STEP,
    Applied,
    Change,
    DeadLetter,
    Fetched,
    Opened,
    Tended,
    Totals,
    row_bytes,
)

MAX_DEAD_LETTERS = 1_000
"""Dead letters that are kept: enough to see what is wrong, little enough for memory."""
MAX_DEAD_BYTES = 1024 * 1024
"""... and their bytes."""


class MemoryStore:
    """Implements `contract.Store`."""

    place = "memory"

    def __init__(self, max_dead_letters: int = MAX_DEAD_LETTERS, max_dead_bytes: int = MAX_DEAD_BYTES) -> None:
        self._max_dead_letters = max_dead_letters
        self._max_dead_bytes = max_dead_bytes
        self._rows: OrderedDict[int, tuple[Row, int, int]] = OrderedDict()
        """(row, bytes, running time of acceptance) by number"""
        self._dead: OrderedDict[int, tuple[DeadLetter, int]] = OrderedDict()
        self._last_id = 0
        self._totals = Totals()

    def open(self) -> Opened:
        """Nothing to open."""
        return Opened(self._totals)

    def apply(self, change: Change) -> Applied:
        """See the contract. Cannot fail."""
        _, count, messages, total, dead_rows, dead_bytes = self._totals
        for seq in change.deletes:
            entry = self._rows.pop(seq, None)
            if entry is not None:
                count, messages, total = count - 1, messages - entry[0].messages, total - entry[1]
        for row, size in change.rows:
            self._rows[row.seq] = row, size, change.running_ms
            count, messages, total = count + 1, messages + row.messages, total + size
        for row, reason in change.buried:
            entry = self._rows.pop(row.seq, None)
            if entry is not None:
                count, messages, total = count - 1, messages - entry[0].messages, total - entry[1]
            size = row_bytes(row)
            self._last_id += 1
            self._dead[self._last_id] = DeadLetter(self._last_id, change.now_ms, reason, row), size
            dead_rows, dead_bytes = dead_rows + 1, dead_bytes + size
        for number in change.exhumed:
            letter = self._dead.pop(number, None)
            if letter is not None:
                dead_rows, dead_bytes = dead_rows - 1, dead_bytes - letter[1]
        dead_dropped = 0
        while dead_rows > self._max_dead_letters or dead_bytes > self._max_dead_bytes:
            dead_rows, dead_bytes = dead_rows - 1, dead_bytes - self._dead.popitem(last=False)[1][1]
            dead_dropped += 1
        dropped_rows = dropped_messages = dropped_to_seq = 0
        while count and (
            (change.max_bytes is not None and total > change.max_bytes)
            or (change.max_messages is not None and messages > change.max_messages)
        ):
            dropped_to_seq, (row, size, _) = self._rows.popitem(last=False)
            count, messages, total = count - 1, messages - row.messages, total - size
            dropped_rows, dropped_messages = dropped_rows + 1, dropped_messages + row.messages
        last_seq = max(self._totals.last_seq, change.last_seq)
        self._totals = Totals(last_seq, count, messages, total, dead_rows, dead_bytes)
        return Applied(self._totals, dropped_rows, dropped_messages, dropped_to_seq, dead_dropped)

    def fetch(self, after_seq: int, max_bytes: int, now_ms: int) -> Fetched:
        """See the contract."""
        found: list[Row] = []
        taken = 0
        first = next(iter(self._rows), 0)
        for seq in range(max(after_seq + 1, first), self._totals.last_seq + 1):
            entry = self._rows.get(seq)
            if entry is None:
                continue
            if found and taken + entry[1] > max_bytes:
                break
            found.append(entry[0])
            taken += entry[1]
        return Fetched(found, self._totals)

    def tend(self, running_ms: int, expire_before_ms: int | None, now_ms: int) -> Tended:
        """See the contract."""
        last_seq, count, messages, total, *dead = self._totals
        rows = gone = to_seq = 0
        while rows < EXPIRE_STEP and self._too_old(expire_before_ms):
            to_seq, (row, size, _) = self._rows.popitem(last=False)
            count, messages, total = count - 1, messages - row.messages, total - size
            rows, gone = rows + 1, gone + row.messages
        self._totals = Totals(last_seq, count, messages, total, *dead)
        oldest = next(iter(self._rows.values()), None)
        return Tended(
            self._totals,
            rows,
            gone,
            to_seq,
            oldest[2] if oldest is not None else None,
            Counter(letter.reason for letter, _ in self._dead.values()),
            self._too_old(expire_before_ms),
        )

    def _too_old(self, expire_before_ms: int | None) -> bool:
        oldest = next(iter(self._rows.values()), None)
        return oldest is not None and expire_before_ms is not None and oldest[2] < expire_before_ms

    def dead_letters(self, after_id: int, max_bytes: int) -> list[DeadLetter]:
        """See the contract."""
        found: list[DeadLetter] = []
        taken = 0
        for number, (letter, size) in self._dead.items():
            if number <= after_id:
                continue
            if found and taken + size > max_bytes:
                break
            found.append(letter)
            taken += size
        return found

    def close(self, last_seq: int | None) -> None:
        """Nothing to close; what was kept stays readable, which is what tests want."""
        if last_seq is not None:
            self._totals = self._totals._replace(last_seq=max(self._totals.last_seq, last_seq))
