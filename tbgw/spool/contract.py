"""What a store is: the contract that `store` (SQLite) and `memory` keep, and the values that they and `service` pass.

A store is plain and blocking, and belongs to one thread. It knows nothing of Deferreds, listeners or events: it answers
with values, and `service` tells. All of a `Change` happens or none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tbgw.model import Draft, Row

PAGE_BYTES = 4096
"""Page size of the SQLite file; what the measure of the cap is built on."""
CELL_BYTES = 80
"""What SQLite and the columns other than payload and devices take of a page per row (measured: 74)."""
OVERFLOW_BYTES = 256
"""What a row larger than a page takes beyond its length (measured: 180 to 250, half-filled pages included)."""


def row_bytes(row: Row | Draft) -> int:
    """
    What a row counts for against the cap, in bytes: near what it takes on the disk. Small rows share a page, and as
    many as fit share it evenly; the length of device names is counted in characters, which is near enough.
    """
    length = len(row.payload) + sum(map(len, row.devices)) + 4 * len(row.devices) + CELL_BYTES
    if length < PAGE_BYTES:
        return PAGE_BYTES // (PAGE_BYTES // length)
    return length + OVERFLOW_BYTES


class Totals(NamedTuple):
    """Sums over all that a store keeps."""

    last_seq: int = 0
    """The highest sequence number ever given out, as far as the store was told."""
    rows: int = 0
    messages: int = 0
    bytes: int = 0
    """Sum of `row_bytes` over the rows."""
    dead_rows: int = 0
    dead_bytes: int = 0
    """The dead letters' part; not in `rows` and `bytes`."""


class Change(NamedTuple):
    """One transaction, done in the order of the fields."""

    deletes: Sequence[int] = ()
    """Numbers of rows to forget; unknown ones are ignored."""
    rows: Sequence[tuple[Row, int]] = ()
    """Rows to keep, each with its `row_bytes`, in the order of their numbers."""
    buried: Sequence[tuple[Row, str]] = ()
    """Rows to move to the dead letters, each with its reason. Kept there also when the row itself is unknown."""
    max_bytes: int | None = None
    """When given, the oldest rows are dropped until the sum is not above this. For `max_messages` likewise."""
    max_messages: int | None = None
    last_seq: int = 0
    """The highest sequence number given out so far."""
    now_ms: int = 0
    """Wall-clock time, in ms since the epoch, for people who look into the file."""


class Opened(NamedTuple):
    """What was found at opening."""

    totals: Totals
    damaged: Sequence[tuple[int, int]] = ()
    """(first, last) number of ranges that were lost because the file was damaged there, and had to be rebuilt."""


class Applied(NamedTuple):
    """What a `Change` did."""

    totals: Totals
    dropped_rows: int = 0
    """Oldest rows that were dropped for room, and the messages in them."""
    dropped_messages: int = 0
    dropped_to_seq: int = 0
    """All rows up to and including this are gone; 0 when none was dropped."""
    dead_dropped: int = 0
    """Oldest dead letters that were dropped for room."""
    damaged: Sequence[tuple[int, int]] = ()
    """(first, last) number of ranges that were lost because the file was damaged there, and had to be rebuilt."""


class Fetched(NamedTuple):
    """What a fetch found."""

    rows: list[Row]
    totals: Totals
    unreadable: Sequence[int] = ()
    """Numbers of rows whose content is damaged; they are in the dead letters now, or left alone if that failed too."""
    damaged: Sequence[tuple[int, int]] = ()
    """(first, last) number of ranges in which nothing can be read."""
    dead_dropped: int = 0


class Store(Protocol):
    """
    A place for rows. Every method may block and may raise `StoreError`, with a text for the operator. After a raise
    what was there before is untouched, and only `close` may be called.
    """

    place: str
    """Where it is, for people: a path, or `memory`."""

    def open(self) -> Opened:
        """Open or create. Raises `StoreError`, after which nothing is left open or locked."""
        ...

    def apply(self, change: Change) -> Applied:
        """
        Do all of it, or nothing and raise. When this returned, `change.rows` and `change.buried` are on stable storage;
        a change that only deletes need not be, since a lost delete costs a duplicate and no more.
        """
        ...

    def fetch(self, after_seq: int, max_bytes: int, now_ms: int) -> Fetched:
        """
        The oldest rows above `after_seq`, in order: at least one if any can be read, and no more than `max_bytes` by
        `row_bytes` otherwise.
        """
        ...

    def close(self, last_seq: int | None) -> None:
        """Make `last_seq` known, unless None, and close. Never raises `StoreError`; may be called again."""
        ...
