"""Which rows of a damaged file cannot be read."""

from __future__ import annotations

import sqlite3
from typing import Final

from tbgw.spool.files import is_damage

PAGE_ROWS: Final = 64
"""More rows than fit on one page; a damaged page is searched row by row, a larger damage in growing steps."""
# At least, not above: a search for what is above the last row of a damaged page would begin on that page.
_NEXT = "SELECT seq FROM rows WHERE seq >= ? ORDER BY seq LIMIT 1"


def damaged_range(db: sqlite3.Connection, first: int, last_seq: int) -> tuple[int, int]:
    """The (first, last) numbers from `first` on that cannot be read, searched in steps of one, later longer."""
    end = max(last_seq, first)
    if can_find(db, first):
        row = db.execute(_NEXT, (first,)).fetchone()
        return (first, end) if row is None else (row[0], row[0])
    low, step = first, 1
    high = min(low + step, end)
    while not can_find(db, high):
        if high == end:
            return first, end
        low, step = high, 1 if high - first < PAGE_ROWS else step * 2
        high = min(low + step, end)
    while high - low > 1:
        middle = (low + high) // 2
        if can_find(db, middle):
            high = middle
        else:
            low = middle
    return first, low


def can_find(db: sqlite3.Connection, seq: int) -> bool:
    """Whether the row with this number, or the one after it, can be looked up."""
    try:
        db.execute(_NEXT, (seq,)).fetchone()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return False
    return True
