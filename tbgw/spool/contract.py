"""What a store is: the contract that `store` (SQLite), `file` and `memory` keep, and the values that pass.

A store is plain and blocking, and belongs to one thread. It knows nothing of Deferreds, listeners or events: it answers
with values, and `service` tells. All of a `Change` happens or none of it.

Ages are counted in running time: the milliseconds that gateways have been running on this store, kept in it, and told
anew by each call. No clock that is set, forward or back, changes it. Time in which no gateway ran does not count, so a
message lives longer by that, and never shorter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from tbgw.model import Draft, Row

PAGE_BYTES = 4096
"""Page size of the SQLite file; what the measure of the cap is built on."""
CELL_BYTES = 80
"""What SQLite and the columns other than payload and devices take of a page per row (measured: 74)."""
OVERFLOW_BYTES = 256
"""What a row larger than a page takes beyond its length (measured: 180 to 250, half-filled pages included)."""


MARK_MS = 60_000
"""Ages are known to this, and rounded down: nothing expires early."""
EXPIRE_STEP = 2_000
"""Rows that expire at a time."""


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
    running_ms: int = 0
    """Running time: when `rows` were accepted."""
    exhumed: Sequence[int] = ()
    """Dead letters to forget, by `DeadLetter.id`; unknown ones are ignored."""


class DeadLetter(NamedTuple):
    """A row that was put aside."""

    id: int
    """Ascending in the order of burying."""
    buried_ms: int
    """Wall-clock time, in ms since the epoch."""
    reason: str
    row: Row
    """As it was; of a damaged one, what could be read of it."""


class Tended(NamedTuple):
    """What `tend` found and did."""

    totals: Totals
    expired_rows: int = 0
    """Oldest rows that were too old, and the messages in them."""
    expired_messages: int = 0
    expired_to_seq: int = 0
    """All rows up to and including this are gone; 0 when none expired."""
    oldest_running_ms: int | None = None
    """Running time at which the oldest row was accepted; None when there is no row, or when it is not known."""
    dead_reasons: Mapping[str, int] = {}
    """Number of dead letters by reason."""
    more: bool = False
    """Whether there is more to do of the same, as soon as nothing else is."""
    draining: bool = False
    """Whether the file system has no room for rows: only deletes and burials are welcome until this is False again."""


class Opened(NamedTuple):
    """What was found at opening."""

    totals: Totals
    damaged: Sequence[tuple[int, int]] = ()
    """(first, last) number of ranges that were lost because the file was damaged there, and had to be rebuilt."""
    running_ms: int = 0
    """Running time so far."""
    upgraded_from: int = 0
    """Schema that the file had; 0 when it did not have to be upgraded."""
    copy: str = ""
    """Where the file as it was before the upgrade is kept."""
    draining: bool = False
    """Whether the file system has no room for rows: only deletes and burials are welcome until this is False again."""


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
    draining: bool = False
    """Whether the file system has no room for rows: only deletes and burials are welcome until this is False again."""


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

    def tend(self, running_ms: int, expire_before_ms: int | None, now_ms: int) -> Tended:
        """
        What is to be done from time to time, a bounded part of it: keep the running time, drop rows that were accepted
        before the given running time, give room that is not used back to the file system.
        """
        ...

    def dead_letters(self, after_id: int, max_bytes: int) -> list[DeadLetter]:
        """The oldest dead letters above `after_id`, in order: at least one if there is any, up to about `max_bytes`."""
        ...

    def close(self, last_seq: int | None) -> None:
        """Make `last_seq` known, unless None, and close. Never raises `StoreError`; may be called again."""
        ...
