"""When rows of the SQLite store were accepted, in running time: one mark for each minute in which rows came.

Rows from a mark's number on were accepted at its running time or later, up to `MARK_MS` later. A mark that is not what
was written makes all ages begin anew, since nothing must expire early.
"""

from __future__ import annotations

import contextlib
import sqlite3

from tbgw.spool.contract import MARK_MS
from tbgw.spool.files import is_damage
from tbgw.spool.records import as_count, mark_crc
from tbgw.spool.schema import MARK

_PRUNE = "DELETE FROM marks WHERE seq < (SELECT max(seq) FROM marks WHERE seq <= ?)"


class _MarkDamaged(Exception):  # noqa: N818 - never leaves this module
    """A mark is not what was written."""


class Ages:
    """The marks of one file."""

    def __init__(self) -> None:
        self._next_mark_ms = 0
        """Running time from which on new rows get a mark of their own."""

    def read(self, db: sqlite3.Connection, running_ms: int) -> int:
        """Look at all marks; the running time, which the newest may know better than the record of sums."""
        newest: int | None = None
        try:
            for seq, mark_ms, crc in db.execute("SELECT seq, running_ms, crc FROM marks ORDER BY seq"):
                if crc != mark_crc(seq, mark_ms):
                    raise _MarkDamaged
                newest = mark_ms
        except (_MarkDamaged, sqlite3.DatabaseError) as error:
            if isinstance(error, sqlite3.DatabaseError) and not is_damage(error):
                raise
            with contextlib.suppress(sqlite3.DatabaseError):  # a damaged page is rebuilt when a change meets it
                db.execute("DELETE FROM marks")
                db.execute(MARK, (0, running_ms, mark_crc(0, running_ms)))
            newest = running_ms
        if newest is None:
            return running_ms
        self._next_mark_ms = newest + MARK_MS
        return max(running_ms, newest)

    def note(self, db: sqlite3.Connection, seq: int, running_ms: int) -> bool:
        """Rows from `seq` on come now. Whether that takes a mark; call `noted` once it is committed."""
        if running_ms < self._next_mark_ms:
            return False
        db.execute(MARK, (seq, running_ms, mark_crc(seq, running_ms)))
        return True

    def noted(self, running_ms: int) -> None:
        """The mark is committed."""
        self._next_mark_ms = running_ms + MARK_MS

    @staticmethod
    def too_old(db: sqlite3.Connection, before_ms: int, end: int) -> int:
        """All rows below this number were surely accepted before; `end` when that is all there are."""
        marked = False
        for seq, running_ms in db.execute("SELECT seq, running_ms FROM marks ORDER BY seq"):
            if running_ms + MARK_MS > before_ms:
                return int(seq)
            marked = True
        return end if marked else 0

    @staticmethod
    def oldest_running_ms(db: sqlite3.Connection, seq: int) -> int | None:
        """When row `seq`, the oldest one, was accepted; marks that are of no use any more go."""
        db.execute(_PRUNE, (seq,))
        mark = db.execute("SELECT running_ms FROM marks WHERE seq <= ? ORDER BY seq DESC LIMIT 1", (seq,)).fetchone()
        return as_count(mark[0]) if mark is not None else None
