"""Rows in one SQLite file: the store that survives a power cut.

What holds
- Write-ahead log with `synchronous=FULL`: a change with rows in it is on the disk when `apply` returns. A change that
  only deletes is committed with `synchronous=NORMAL`, without a sync of its own: the next change's sync covers it, and
  until then a power cut costs a duplicate, never a row.
- The file, its `-wal` and `-shm` and the lock are 0600, folders that we make are 0700, whatever the umask (SQLite gives
  its side files the mode of the main file).
- One process at a time: an flock on `<file>.lock`, which the kernel releases however the process ends.
- A damaged record costs that record: each row has a CRC, so that a flipped bit is never sent to ThingsBoard, and fetch
  steps over pages that cannot be read. When a write meets such a page, everything readable is copied to a new file that
  takes the old one's place; that wants room for both. The sums have a CRC too, and are counted anew when it is wrong.
- Opening reads a handful of pages, however much is stored.
- A file of an older schema is copied aside before it is upgraded, and one of a newer schema is left as it is. A new
  file is made by the first schema and all upgrades, so it cannot differ from an upgraded one.
- Deletes never fail for want of room on the file system, see `room`.
- Room that is not used goes back to the file system: while rows come and go only what is far too much, otherwise nearly
  all of it, in small steps.

Considered and dropped
- A temporary file renamed on creation: the schema is one transaction instead, so a crash leaves an empty database,
  which the next start fills, and never a stray file.
- Deleting around a damaged page without a rebuild: SQLite joins pages as rows go, so in the end it is in the way of
  every write.
- `PRAGMA quick_check` at open: it reads the whole file, and a single bad payload would keep the gateway from starting.
- AUTOINCREMENT: it writes a page more for each commit than the record of sums, which keeps the number anyway.
- `DELETE ... RETURNING` for the sums: needs SQLite 3.35, and RHEL 9 has 3.34.
- `executemany`: it gives up the interpreter's lock at every row, and beside a busy reactor thread each re-take can cost
  5 ms; many rows in one statement cost one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from tbgw.errors import StoreError
from tbgw.model import Row
from tbgw.spool.ages import Ages
from tbgw.spool.contract import (
    EXPIRE_STEP,
    PAGE_BYTES,
    Applied,
    Change,
    DeadLetter,
    Fetched,
    Opened,
    Tended,
    Totals,
    row_bytes,
)
from tbgw.spool.damage import damaged_range
from tbgw.spool.files import (
    BUSY_SECONDS,
    is_damage,
    is_full,
    make_folders,
    make_private_file,
    store_error,
    sync_folder,
    take_lock,
    unlink_database,
)
from tbgw.spool.records import (
    as_count,
    as_text,
    meta_crc,
    row_as_found,
    row_crc,
    row_from,
    runs_of,
    sound_totals,
)
from tbgw.spool.room import Room
from tbgw.spool.schema import READ_META, check_version, complete

MAX_DEAD_LETTERS: Final = 10_000
"""Dead letters that are kept: enough for a person to look into."""
MAX_DEAD_BYTES: Final = 16 * 1024 * 1024
"""... and their bytes on the disk, which come on top of the cap of the rows."""
CACHE_KIB: Final = 2048
"""SQLite's page cache. Rows are written once and read at most once; a larger one would only cost memory."""
WAL_KEPT_BYTES: Final = 8 * 1024 * 1024
"""What the write-ahead log is cut back to after a checkpoint: about two of the largest groups."""
FREE_PAGES_KEPT: Final = 8192
"""Free pages (32 MiB) that the file may keep for later; above, and above half of the file, they are given back."""
IDLE_FREE_PAGES: Final = 2048
"""... and what it keeps when `tend` finds time for it (8 MiB): a little ebb and flow moves no pages."""
FREE_PAGES_STEP: Final = 1024
"""Pages given back at a time: measured 8 ms."""
CHANGES_PER_LOOK: Final = 64
"""Changes between two looks at the number of free pages."""
UNREADABLE_STEP: Final = 500
"""Damaged rows that are put aside at a time."""
REBUILD_BYTES: Final = 1024 * 1024
"""Rows copied at a time when a damaged file is rebuilt."""
INSERT_STEPS: Final = (32, 8, 1)
"""Rows in one INSERT statement; few different ones, so that their compiled form stays cached."""

_COLUMNS = "seq, topic, devices, messages, points, bytes, crc, payload"
_INSERTS = {
    step: "INSERT INTO rows VALUES " + ",".join(["(?,?,?,?,?,?,?,?,?)"] * step)  # noqa: S608 - constants
    for step in INSERT_STEPS
}
_FETCH = f"SELECT {_COLUMNS} FROM rows WHERE seq >= ? ORDER BY seq LIMIT ?"  # noqa: S608 - a constant
_RANGE_SUMS = "SELECT count(*), total(messages), total(bytes) FROM rows WHERE seq BETWEEN ? AND ?"
_RANGE_DELETE = "DELETE FROM rows WHERE seq BETWEEN ? AND ?"
_BURY = "INSERT INTO dead_letters VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PUT_ASIDE = """INSERT INTO dead_letters SELECT NULL, seq, ?, 'unreadable', topic, devices, messages, points,
    coalesce(length(payload), 0) + coalesce(length(devices), 0) + 256, payload FROM rows WHERE seq = ?"""
_META = """INSERT OR REPLACE INTO meta (id, last_seq, rows, messages, bytes, dead_rows, dead_bytes, running_ms, crc)
    VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)"""
_DEAD = """SELECT id, buried_ms, reason, bytes, seq, topic, devices, messages, points, payload FROM dead_letters
    WHERE id > ? ORDER BY id"""


class SqliteStore:
    """Implements `contract.Store` in the file `path`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_dead_letters: int = MAX_DEAD_LETTERS,
        max_dead_bytes: int = MAX_DEAD_BYTES,
    ) -> None:
        self.place = os.fspath(path)
        self._max_dead_letters = max_dead_letters
        self._max_dead_bytes = max_dead_bytes
        self._totals = Totals()
        self._running_ms = 0
        self._ages = Ages()
        self._room = Room(self.place)
        self._dead_reasons: Counter[str] | None = None
        """None: not counted since they changed."""
        self._upgraded_from = 0
        self._copy = ""
        self._lock_fd = -1
        self._connection: sqlite3.Connection | None = None
        self._full_sync = True
        self._changes = 0

    # -- opening and closing -------------------------------------------------------------------------------------------

    def open(self) -> Opened:
        """See the contract. The `StoreError` names the file, or the lock when another process has it."""
        try:
            make_folders(os.path.dirname(os.path.abspath(self.place)))
            self._lock_fd = take_lock(self.place, self.place + ".lock")
            make_private_file(self.place)
            self._connection = self._connect(self.place)
            damaged = self._read_totals()
            self._running_ms = self._ages.read(self._db, self._running_ms)
            self._room.opened(self._db)
        except StoreError:
            self.close(None)
            raise
        except UnicodeDecodeError as error:  # from the module: a damaged schema's text, quoted in an error message
            self.close(None)
            raise StoreError(f"cannot open the store {self.place}: the file is damaged ({error})") from error
        except (sqlite3.Error, OSError) as error:
            self._room.release_if_tight()
            self.close(None)
            raise store_error("open", self.place, error) from error
        return Opened(self._totals, damaged, self._running_ms, self._upgraded_from, self._copy, self._room.draining)

    def _connect(self, path: str) -> sqlite3.Connection:
        # check_same_thread off: all calls come from one thread at a time, but not always from the same (tests, close).
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.text_factory = bytes  # text may be damaged; it is decoded where that can be caught
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = check_version(connection, self.place)
        if not version:
            connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # has to come before the first table
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        connection.execute(f"PRAGMA journal_size_limit={WAL_KEPT_BYTES}")
        connection.execute("PRAGMA secure_delete=OFF")  # Debian's default overwrites each deleted page; flash wears
        connection.execute("PRAGMA cell_size_check=ON")  # find damage where it is, not pages later
        connection.execute("PRAGMA trusted_schema=OFF")
        self._full_sync = True
        copy = complete(connection, self.place, version)
        if copy:
            self._copy, self._upgraded_from = copy, version

    def _read_totals(self) -> list[tuple[int, int]]:
        """Get the sums, and look at the end of the table, where the next rows will go. What a rebuild lost."""
        record: tuple[Any, ...] | None = None
        try:
            record = self._db.execute(READ_META).fetchone()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
        sound = (
            record is not None
            and all(type(value) is int for value in record)
            and record[7] == meta_crc(Totals(*record[:6]), record[6])
        )
        if record is None or not sound:
            self._totals = self._count_anew()
            return []
        self._totals, self._running_ms = Totals(*record[:6]), record[6]
        try:
            self._db.execute("SELECT max(seq) FROM rows").fetchone()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            return self._rebuild()
        return []

    def _count_anew(self) -> Totals:
        """The sums from the tables themselves; takes time with a large store."""
        highest, rows, messages, size = self._db.execute(
            "SELECT max(seq), count(*), total(messages), total(bytes) FROM rows"
        ).fetchone()
        dead_highest, dead_rows, dead_size = self._db.execute(
            "SELECT max(seq), count(*), total(bytes) FROM dead_letters"
        ).fetchone()
        return Totals(
            max(self._totals.last_seq, as_count(highest), as_count(dead_highest)),
            rows,
            int(messages),
            int(size),
            dead_rows,
            int(dead_size),
        )

    def close(self, last_seq: int | None) -> None:
        """See the contract."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # Nothing that can fail here costs a row: what was committed is in the file or in its log.
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if last_seq is not None and last_seq > self._totals.last_seq:
                    self._totals = self._totals._replace(last_seq=last_seq)
                    # The running time of the last minute goes along.
                    connection.execute(_META, self._meta())
            with contextlib.suppress(sqlite3.Error):
                connection.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"the store {self.place} is not open")
        return self._connection

    # -- writing -------------------------------------------------------------------------------------------------------

    def apply(self, change: Change) -> Applied:
        """See the contract. When it meets a damaged page, the file is rebuilt first."""
        try:
            try:
                self._give_back_free_pages()
                if change.rows and not self._room.suffices(self._db, sum(size for _, size in change.rows)):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return self._drain_after(self._transact(change))
            except sqlite3.DatabaseError as error:
                if is_full(error) and not (change.rows or self._room.draining):
                    self._roll_back()
                    self._room.begin_to_drain(self._db)
                    return self._drain_after(self._transact(change))
                if not is_damage(error):
                    raise
                self._roll_back()
                damaged = self._rebuild()
                return self._transact(change)._replace(damaged=damaged, draining=self._room.draining)
        except (sqlite3.Error, OSError) as error:
            self._roll_back()
            self._room.release_if_tight()
            raise store_error("write", self.place, error) from error

    def _drain_after(self, applied: Applied) -> Applied:
        if self._room.draining:
            self._set_sync(full=False)
            self._room.drain(self._db)
        return applied._replace(draining=self._room.draining)

    def _transact(self, change: Change) -> Applied:
        db = self._db
        self._set_sync(full=bool(change.rows or change.buried))
        db.execute("BEGIN IMMEDIATE")
        _, rows, messages, size, dead_rows, dead_bytes = self._totals
        for first, last in runs_of(change.deletes):
            gone = self._delete(first, last)
            rows, messages, size = rows - gone[0], messages - gone[1], size - gone[2]
        running_ms = max(self._running_ms, change.running_ms)
        marked = bool(change.rows) and self._ages.note(db, change.rows[0][0].seq, running_ms)
        self._insert(change.rows, change.now_ms)
        for row, own_size in change.rows:
            rows, messages, size = rows + 1, messages + row.messages, size + own_size
        for row, reason in change.buried:
            own_size = row_bytes(row)
            devices = json.dumps(row.devices)
            db.execute(
                _BURY,
                (row.seq, change.now_ms, reason, row.topic, devices, row.messages, row.points, own_size, row.payload),
            )
            dead_rows, dead_bytes = dead_rows + 1, dead_bytes + own_size
            gone = self._delete(row.seq, row.seq)
            rows, messages, size = rows - gone[0], messages - gone[1], size - gone[2]
        for number in change.exhumed:
            letter = db.execute("SELECT bytes FROM dead_letters WHERE id = ?", (number,)).fetchone()
            if letter is not None:
                db.execute("DELETE FROM dead_letters WHERE id = ?", (number,))
                dead_rows, dead_bytes = dead_rows - 1, dead_bytes - as_count(letter[0])
        dropped = self._drop_oldest(change, messages, size)
        rows, messages, size = rows - dropped[0], messages - dropped[1], size - dropped[2]
        dead_gone = self._drop_oldest_dead(dead_rows, dead_bytes) if change.buried else (0, 0)
        totals = sound_totals(
            Totals(
                max(self._totals.last_seq, change.last_seq),
                rows,
                messages,
                size,
                dead_rows - dead_gone[0],
                dead_bytes - dead_gone[1],
            )
        )
        db.execute(_META, (*totals, running_ms, meta_crc(totals, running_ms)))
        db.execute("COMMIT")
        self._totals, self._running_ms = totals, running_ms
        if marked:
            self._ages.noted(running_ms)
        if change.buried or change.exhumed:
            self._dead_reasons = None
        return Applied(totals, dropped[0], dropped[1], dropped[3], dead_gone[0])

    def _insert(self, rows: Sequence[tuple[Row, int]], now_ms: int) -> None:
        values: list[object] = []
        for row, size in rows:
            devices = json.dumps(row.devices).encode("ascii")
            crc = row_crc(row.seq, row.topic.encode(), devices, row.messages, row.points, size, row.payload)
            values += (
                row.seq,
                now_ms,
                row.topic,
                devices.decode("ascii"),
                row.messages,
                row.points,
                size,
                crc,
                row.payload,
            )
        done = 0
        for step in INSERT_STEPS:
            while len(rows) - done >= step:
                self._db.execute(_INSERTS[step], values[done * 9 : (done + step) * 9])
                done += step

    def _delete(self, first: int, last: int) -> tuple[int, int, int]:
        """Forget rows `first` to `last`; their (count, messages, bytes)."""
        count, messages, size = self._db.execute(_RANGE_SUMS, (first, last)).fetchone()
        if count:
            self._db.execute(_RANGE_DELETE, (first, last))
        return count, int(messages), int(size)

    def _drop_oldest(self, change: Change, messages: int, size: int) -> tuple[int, int, int, int]:
        """Make room; (rows, messages, bytes, last number) of what went."""
        over_bytes = 0 if change.max_bytes is None else size - change.max_bytes
        over_messages = 0 if change.max_messages is None else messages - change.max_messages
        if over_bytes <= 0 and over_messages <= 0:
            return 0, 0, 0, 0
        rows = gone_messages = gone_bytes = last = 0
        oldest = self._db.execute("SELECT seq, messages, bytes FROM rows ORDER BY seq")
        for seq, own_messages, own_bytes in oldest:
            last = seq
            rows += 1
            gone_messages += as_count(own_messages)
            gone_bytes += as_count(own_bytes)
            if gone_bytes >= over_bytes and gone_messages >= over_messages:
                break
        oldest.close()
        self._db.execute("DELETE FROM rows WHERE seq <= ?", (last,))
        return rows, gone_messages, gone_bytes, last

    def _drop_oldest_dead(self, dead_rows: int, dead_bytes: int) -> tuple[int, int]:
        """Keep the dead letters under their own cap; (count, bytes) of what went."""
        over_rows, over_bytes = dead_rows - self._max_dead_letters, dead_bytes - self._max_dead_bytes
        if over_rows <= 0 and over_bytes <= 0:
            return 0, 0
        gone_rows = gone_bytes = last = 0
        oldest = self._db.execute("SELECT id, bytes FROM dead_letters ORDER BY id")
        for number, size in oldest:
            last = number
            gone_rows += 1
            gone_bytes += as_count(size)
            if gone_rows >= over_rows and gone_bytes >= over_bytes:
                break
        oldest.close()
        self._db.execute("DELETE FROM dead_letters WHERE id <= ?", (last,))
        return gone_rows, gone_bytes

    def _set_sync(self, full: bool) -> None:
        if full is not self._full_sync:
            self._db.execute("PRAGMA synchronous=FULL" if full else "PRAGMA synchronous=NORMAL")
            self._full_sync = full

    def _give_back_free_pages(self) -> None:
        self._changes += 1
        if self._changes % CHANGES_PER_LOOK:
            return
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        if free > FREE_PAGES_KEPT and 2 * free > pages:
            self._set_sync(full=False)
            # As a script: the module steps a lone statement without columns once, which gives back one page.
            self._db.executescript(f"PRAGMA incremental_vacuum({FREE_PAGES_STEP})")

    def tend(self, running_ms: int, expire_before_ms: int | None, now_ms: int) -> Tended:
        """See the contract. Writes nothing while there is nothing to keep an age for."""
        try:
            try:
                return self._tend(running_ms, expire_before_ms)
            except sqlite3.DatabaseError as error:
                if is_full(error) and not self._room.draining:
                    self._roll_back()
                    self._room.begin_to_drain(self._db)
                    return self._tend(running_ms, expire_before_ms)
                if not is_damage(error):
                    raise
                self._roll_back()
                # The next change that meets the damage has the file rebuilt.
                return Tended(self._totals, draining=self._room.draining)
        except (sqlite3.Error, OSError) as error:
            self._roll_back()
            self._room.release_if_tight()
            raise store_error("write", self.place, error) from error

    def _tend(self, running_ms: int, expire_before_ms: int | None) -> Tended:
        db = self._db
        expired = (0, 0, 0)
        more = False
        running_ms = max(running_ms, self._running_ms)
        if self._totals.rows:
            self._set_sync(full=False)  # a lost expiry happens again
            db.execute("BEGIN IMMEDIATE")
            totals = self._totals
            if expire_before_ms is not None:
                totals, expired, more = self._expire(expire_before_ms)
            db.execute(_META, (*totals, running_ms, meta_crc(totals, running_ms)))
            db.execute("COMMIT")
            self._totals, self._running_ms = totals, running_ms
        if self._dead_reasons is None:
            found = db.execute("SELECT reason, count(*) FROM dead_letters GROUP BY reason")
            self._dead_reasons = Counter({as_text(reason): count for reason, count in found})
        more = self._shrink() or more
        if self._room.draining:
            self._room.drain(db)
        oldest = self._oldest_running_ms()
        return Tended(self._totals, *expired, oldest, dict(self._dead_reasons), more, self._room.draining)

    def _expire(self, before_ms: int) -> tuple[Totals, tuple[int, int, int], bool]:
        """Drop the oldest rows that are surely older; the new sums, (rows, messages, last number), whether more are."""
        db = self._db
        old = self._totals
        keep_from = self._ages.too_old(db, before_ms, old.last_seq + 1)
        rows = messages = size = last = 0
        oldest = db.execute(
            "SELECT seq, messages, bytes FROM rows WHERE seq < ? ORDER BY seq LIMIT ?", (keep_from, EXPIRE_STEP)
        )
        for seq, own_messages, own_bytes in oldest:
            last = seq
            rows, messages, size = rows + 1, messages + as_count(own_messages), size + as_count(own_bytes)
        if rows:
            db.execute("DELETE FROM rows WHERE seq <= ?", (last,))
        left = old._replace(rows=old.rows - rows, messages=old.messages - messages, bytes=old.bytes - size)
        return sound_totals(left), (rows, messages, last), rows == EXPIRE_STEP

    def _oldest_running_ms(self) -> int | None:
        (seq,) = self._db.execute("SELECT min(seq) FROM rows").fetchone()
        if seq is None:
            return None
        return self._ages.oldest_running_ms(self._db, seq)

    def _shrink(self) -> bool:
        """Give unused pages back, one step; whether there are more to give."""
        db = self._db
        (free,) = db.execute("PRAGMA freelist_count").fetchone()
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        if free <= IDLE_FREE_PAGES or 2 * free <= pages:
            return False
        self._set_sync(full=False)
        db.executescript(f"PRAGMA incremental_vacuum({min(FREE_PAGES_STEP, free - IDLE_FREE_PAGES)})")
        (free,) = db.execute("PRAGMA freelist_count").fetchone()
        if free > IDLE_FREE_PAGES:
            return True
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()  # only now is the file shorter
        return False

    def dead_letters(self, after_id: int, max_bytes: int) -> list[DeadLetter]:
        """See the contract."""
        found: list[DeadLetter] = []
        taken = 0
        try:
            for number, buried_ms, reason, size, *columns in self._db.execute(_DEAD, (after_id,)):
                if found and taken + as_count(size) > max_bytes:
                    break
                found.append(DeadLetter(number, buried_ms, as_text(reason), row_as_found(*columns)))
                taken += as_count(size)
        except sqlite3.Error as error:
            raise store_error("read", self.place, error) from error
        return found

    def _roll_back(self) -> None:
        # What cannot be rolled back now is when the connection closes; the error that brought us here says more.
        with contextlib.suppress(sqlite3.Error):
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    # -- reading -------------------------------------------------------------------------------------------------------

    def fetch(self, after_seq: int, max_bytes: int, now_ms: int) -> Fetched:
        """See the contract."""
        rows: list[Row] = []
        unreadable: list[int] = []
        ranges: list[tuple[int, int]] = []
        dead_dropped = 0
        position, ended = after_seq, False
        try:
            while not ended:
                bad: list[int] = []
                position, ended = self._read(position, max_bytes, rows, bad, ranges)
                for seq in bad:
                    dead_dropped += self._put_aside(seq, now_ms)
                unreadable += bad
            if not (rows or unreadable or ranges or after_seq) and self._totals.rows:
                self._totals = self._count_anew()  # rows were lost with a damaged page
        except (sqlite3.Error, OSError) as error:
            self._roll_back()
            raise store_error("read", self.place, error) from error
        return Fetched(rows, self._totals, unreadable, ranges, dead_dropped)

    def _read(
        self,
        position: int,
        max_bytes: int,
        rows: list[Row],
        bad: list[int],
        ranges: list[tuple[int, int]],
        limit: int = -1,
    ) -> tuple[int, bool]:
        """Read on behind `position`; where to go on, and whether there is enough or no more."""
        if position >= self._totals.last_seq:
            return position, True
        taken = sum(map(row_bytes, rows))
        start = position
        cursor = self._db.cursor()
        try:
            for columns in cursor.execute(_FETCH, (position + 1, limit)):
                row = row_from(columns)
                if row is None:
                    bad.append(columns[0])
                    if position < columns[0] <= self._totals.last_seq:  # the number may be what is damaged
                        position = columns[0]
                    if len(bad) >= UNREADABLE_STEP:
                        return max(position, start + 1), False
                    continue
                if rows and taken + columns[5] > max_bytes:
                    return position, True
                position = row.seq
                rows.append(row)
                taken += columns[5]
                if taken >= max_bytes:
                    return position, True
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            if limit < 0:
                # The module reads one row ahead, so the row behind `position` may still be good: look at it alone.
                return self._read(position, max_bytes, rows, bad, ranges, limit=1)
            ranges.append(damaged_range(self._db, position + 1, self._totals.last_seq))
            return ranges[-1][1], False
        finally:
            cursor.close()
        if limit > 0 and (position > start or bad):
            return max(position, start + 1), False
        return position, True

    def _rebuild(self) -> list[tuple[int, int]]:
        """
        Put a new file in the place of this one, with everything that can be read; the ranges that cannot. A crash on
        the way leaves the old file as it was.
        """
        fresh = self.place + ".rebuilt"
        unlink_database(fresh)
        lost: list[tuple[int, int]] = []
        db = self._db
        try:
            make_private_file(fresh)
            self._connect(fresh).close()
            self._empty_log("main")  # so that no log is left that the new file could take for its own
            db.execute("ATTACH ? AS fresh", (fresh,))
            db.execute("PRAGMA fresh.synchronous=NORMAL")  # the checkpoint syncs
            self._copy_readable(lost)
            self._empty_log("fresh")
            db.execute("DETACH fresh")
        except (sqlite3.Error, OSError, StoreError):
            self._roll_back()
            db.close()
            self._connection = None
            unlink_database(fresh)
            raise
        last_seq = self._totals.last_seq
        db.close()
        os.rename(fresh, self.place)
        sync_folder(os.path.dirname(os.path.abspath(self.place)))
        self._connection = self._connect(self.place)
        self._totals = self._count_anew()._replace(last_seq=last_seq)
        self._db.execute(_META, self._meta())
        self._running_ms = self._ages.read(self._db, self._running_ms)
        return lost

    def _copy_readable(self, lost: list[tuple[int, int]]) -> None:
        """Copy to the attached `fresh`; what cannot be is added to `lost`."""
        db = self._db
        position = 0
        while True:
            rows: list[Row] = []
            bad: list[int] = []
            # Outside of the transaction: once a read has met damage in one, SQLite writes nothing more in it.
            position, ended = self._read(position, REBUILD_BYTES, rows, bad, lost)
            lost += ((seq, seq) for seq in bad)
            if ended and not rows:  # with rows it may have been enough for one step, and not the end
                break
            db.execute("BEGIN")
            for row in rows:  # not in ranges: those look one row further, which may be the damaged one
                db.execute("INSERT INTO fresh.rows SELECT * FROM main.rows WHERE seq = ?", (row.seq,))
            db.execute("COMMIT")
        for table in ("dead_letters", "marks"):
            try:
                db.execute(f"INSERT INTO fresh.{table} SELECT * FROM main.{table}")  # noqa: S608 - constants
            except sqlite3.DatabaseError as error:
                if not is_damage(error):  # dead letters on damaged pages are dead indeed; ages begin anew
                    raise

    def _empty_log(self, name: str) -> None:
        if self._db.execute(f"PRAGMA {name}.wal_checkpoint(TRUNCATE)").fetchone()[0]:
            raise StoreError(f"the store {self.place} is damaged and cannot be rebuilt while another program reads it")

    def _put_aside(self, seq: int, now_ms: int) -> int:
        """Move a damaged row to the dead letters, or leave it where even that fails; dead letters dropped for it."""
        db = self._db
        self._set_sync(full=False)
        db.execute("BEGIN IMMEDIATE")
        try:
            if db.execute(_PUT_ASIDE, (now_ms, seq)).rowcount != 1:  # its very number is damaged
                self._roll_back()
                return 0
            (size,) = db.execute("SELECT bytes FROM dead_letters WHERE id = last_insert_rowid()").fetchone()
            gone = self._delete(seq, seq)
            old = self._totals
            dead_gone = self._drop_oldest_dead(old.dead_rows + 1, old.dead_bytes + size)
            totals = sound_totals(
                Totals(
                    old.last_seq,
                    old.rows - gone[0],
                    old.messages - gone[1],
                    old.bytes - gone[2],
                    old.dead_rows + 1 - dead_gone[0],
                    old.dead_bytes + size - dead_gone[1],
                )
            )
            db.execute(_META, (*totals, self._running_ms, meta_crc(totals, self._running_ms)))
            db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self._roll_back()
            return 0
        self._totals = totals
        self._dead_reasons = None
        return dead_gone[0]

    def _meta(self) -> tuple[int, ...]:
        return (*self._totals, self._running_ms, meta_crc(self._totals, self._running_ms))
