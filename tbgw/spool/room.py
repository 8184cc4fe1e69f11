"""Room on the file system for the SQLite store: so that deletes, which make room, never fail for want of it.

How it works
- A delete needs room too: for its pages in the write-ahead log, and for the checkpoint that lets the log begin anew. So
  a change with rows is only begun while there is room for it, for its checkpoint and for all that waits for one.
- A reserve, `<file>.reserve`, is really allocated, against other programs that fill the disk. It is given back when the
  room ends, so that the next open finds some.
- An open that finds too little room makes the store drain: rows are refused, deletes work, and each is followed by
  giving free pages back and a checkpoint, until there is room for the reserve again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from typing import Final

from tbgw.spool.contract import PAGE_BYTES

RESERVE_BYTES: Final = 10 * 1024 * 1024
"""What a checkpoint may need (4 MiB of log before it begins, and one more group of 4 MiB), and 2 MiB for deletes."""
RESERVE_PART: Final = 8
"""... but no more than this part of the file system."""
RESUME_BYTES: Final = 512 * 1024
"""Room beside the reserve from which on a draining store takes rows again, at least."""
AMPLE_BYTES: Final = 16 * 1024 * 1024
"""Above this no closer look is needed: more than waits for a checkpoint at any time."""
GROUP_EXTRA_BYTES: Final = 64 * 1024
"""What a change writes beside its rows: sums, marks, inner pages of the trees."""
CHECKPOINT_PAGES: Final = 1000
"""SQLite's own choice for `wal_autocheckpoint`."""
DRAIN_STEPS: Final = 16
"""Steps of giving pages back after one change: some 100 ms on slow flash."""


class Room:
    """Of the store in file `place`."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._folder = os.path.dirname(os.path.abspath(place))
        self._path = place + ".reserve"
        self.draining = False

    def _free(self) -> int:
        found = os.statvfs(self._folder)
        return found.f_bavail * found.f_frsize

    def _size(self) -> int:
        found = os.statvfs(self._folder)
        return min(RESERVE_BYTES, found.f_blocks * found.f_frsize // RESERVE_PART)

    def release(self) -> None:
        """Give the reserve back."""
        with contextlib.suppress(OSError):  # not there, or the disk is gone: then it is of no use either
            os.unlink(self._path)

    def release_if_tight(self) -> None:
        """After an error, whatever it was called: SQLite says I/O error too when the room ends."""
        with contextlib.suppress(OSError):
            if self._free() < self._size():
                self.release()

    def opened(self, db: sqlite3.Connection) -> None:
        """Make the reserve, or begin to drain."""
        self.draining = False
        self._checkpoint_in_time(db)
        if not self._reserved() and not self._reserve(db):
            self.begin_to_drain(db)
            self.drain(db)

    def _checkpoint_in_time(self, db: sqlite3.Connection) -> None:
        """Before more waits for it than half of the reserve, which is small on a small file system."""
        db.execute(f"PRAGMA wal_autocheckpoint={min(CHECKPOINT_PAGES, self._size() // 2 // PAGE_BYTES)}")

    def begin_to_drain(self, db: sqlite3.Connection) -> None:
        """Use the reserve for deletes."""
        self.draining = True
        self.release()
        db.execute("PRAGMA wal_autocheckpoint=0")  # one that fails half-way takes the room that deletes need
        self._checkpoint(db)

    def _reserved(self) -> bool:
        try:
            os.chmod(self._path, 0o600)
            return os.stat(self._path).st_blocks * 512 >= self._size()
        except FileNotFoundError:
            return False

    def _reserve(self, db: sqlite3.Connection) -> bool:
        """Make the reserve; whether there is room enough to take rows."""
        self.release()
        size = self._size()
        if self._free() < size + max(size, RESUME_BYTES) + self._unchecked(db):
            return False
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(fd, 0o600)
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            self.release()
            return error.errno not in (errno.ENOSPC, errno.EDQUOT)  # a file system that cannot: without a reserve
        finally:
            os.close(fd)
        return True

    def _unchecked(self, db: sqlite3.Connection) -> int:
        """What the next checkpoint may add to the file."""
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        return max(0, int(pages) * PAGE_BYTES - os.stat(self._place).st_size)

    def suffices(self, db: sqlite3.Connection, size: int) -> bool:
        """Whether rows of `size` bytes can be written, and room for deletes is left; gives the reserve back if not."""
        free = self._free()
        growth = size * 5 // 4 + GROUP_EXTRA_BYTES
        if self.draining:
            free -= self._size()
        if free >= 2 * growth + AMPLE_BYTES or free >= 2 * growth + self._unchecked(db):
            return True
        self._checkpoint(db)
        free = self._free() - (self._size() if self.draining else 0)
        (unused,) = db.execute("PRAGMA freelist_count").fetchone()
        if free >= 2 * growth - min(growth, unused * PAGE_BYTES):
            return True
        self.release()
        return False

    def _checkpoint(self, db: sqlite3.Connection) -> None:
        if self._free() >= self._unchecked(db):
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def drain(self, db: sqlite3.Connection) -> None:
        """After a change while draining: give back what can be, and go back to normal when it is enough."""
        self._checkpoint(db)
        # Pages that are moved go through the log first: no more than a part of the room.
        step = max(4, self._size() // RESERVE_PART // PAGE_BYTES)
        for _ in range(DRAIN_STEPS):
            if self._reserve(db):
                self.draining = False
                self._checkpoint_in_time(db)
                return
            (unused,) = db.execute("PRAGMA freelist_count").fetchone()
            if not unused:
                return
            db.executescript(f"PRAGMA incremental_vacuum({step})")
            self._checkpoint(db)
