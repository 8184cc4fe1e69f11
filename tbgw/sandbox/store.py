"""The sandbox's data in SQLite: latest values and a bounded history.

`write` returns once the changes would survive the death of the process (WAL, `synchronous=NORMAL`: not a power cut,
which a sandbox does not promise). It is called on the reactor's thread: one transaction for all packets of one turn,
1 to 2 us a point. The history is bounded twice: so many points for each series, pruned a little with every write, and a
size of the file, above which all series keep less.

Considered and left: a worker thread as the spool has. The sandbox may be as slow as its disk; a thread would have to be
waited for before each PUBACK all the same.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

from tbgw.errors import StoreError
from tbgw.sandbox.devices import Changes, Snapshot, StoredDevice
from tbgw.sandbox.values import plain

SCHEMA_VERSION = 2
FILE_NAME = "sandbox.sqlite3"

_CHECKPOINT_PAGES = 4000
"""16 MiB of write-ahead log between two checkpoints, the only moments at which the disk is waited for."""

_MIN_PRUNED_ROWS = 2000
"""So much may be pruned with a small write: about 2 ms."""

_INSERT_DEVICE = (
    "INSERT INTO device (id, name, profile, gateway, last_activity_ms, last_gateway_id, more) "
    "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET name = excluded.name, profile = excluded.profile, "
    "gateway = excluded.gateway, last_activity_ms = excluded.last_activity_ms, "
    "last_gateway_id = excluded.last_gateway_id, more = excluded.more"
)
_INSERT_SERIES = "INSERT INTO series (id, device_id, key) VALUES (?, ?, ?)"
_INSERT_POINT = "INSERT OR REPLACE INTO point (series_id, ts_ms, value) VALUES (?, ?, ?)"
_INSERT_ATTRIBUTE = "INSERT OR REPLACE INTO attribute (device_id, key, ts_ms, value) VALUES (?, ?, ?, ?)"
_INSERT_SHARED = "INSERT OR REPLACE INTO shared (device_id, key, ts_ms, value) VALUES (?, ?, ?, ?)"
_DELETE_SHARED = "DELETE FROM shared WHERE device_id = ? AND key = ?"
_INSERT_KEPT = "INSERT OR REPLACE INTO kept (name, content) VALUES (?, ?)"
_DELETE_KEPT = "DELETE FROM kept WHERE name = ?"
_DELETE_DEVICE = (
    "DELETE FROM point WHERE series_id IN (SELECT id FROM series WHERE device_id = ?)",
    "DELETE FROM series WHERE device_id = ?",
    "DELETE FROM attribute WHERE device_id = ?",
    "DELETE FROM shared WHERE device_id = ?",
    "DELETE FROM device WHERE id = ?",
)
_SELECT_DEVICES = (
    "SELECT id, name, profile, gateway, last_activity_ms, last_gateway_id, more FROM device ORDER BY id"
)
_SELECT_SERIES = (
    "SELECT series.id, device_id, key, ts_ms, value FROM series JOIN device ON device.id = device_id "
    "JOIN point ON point.series_id = series.id "
    "AND ts_ms = (SELECT max(ts_ms) FROM point AS p WHERE p.series_id = series.id) ORDER BY series.id"
)
_SELECT_ATTRIBUTES = "SELECT device_id, key, ts_ms, value FROM attribute JOIN device ON device.id = device_id"
_SELECT_SHARED = "SELECT device_id, key, ts_ms, value FROM shared JOIN device ON device.id = device_id"
_SELECT_KEPT = "SELECT name, content FROM kept"
_SELECT_HISTORY = "SELECT ts_ms, value FROM point WHERE series_id = ? AND ts_ms >= ? ORDER BY ts_ms DESC LIMIT ?"
_PRUNE = (
    "DELETE FROM point WHERE series_id = ?1 AND ts_ms <= "
    "(SELECT ts_ms FROM point WHERE series_id = ?1 ORDER BY ts_ms DESC LIMIT 1 OFFSET ?2)"
)


class StoreUnusable(StoreError):  # noqa: N818 - says what is
    """What is in the file cannot be used: it is damaged, or of another version."""


def _store_error(what: str, error: Exception) -> StoreError:
    damaged = isinstance(error, sqlite3.DatabaseError | ValueError) and not isinstance(
        error, sqlite3.OperationalError | sqlite3.IntegrityError
    )
    kind = StoreUnusable if damaged else StoreError
    return kind(f"the sandbox's database cannot be {what}: {error}")


class Store:
    """
    One database, in `folder` or, without one, in memory. Files are 0600, a folder made here 0700.

    Raises StoreUnusable when the database is damaged or of another version, StoreError when it cannot be opened.
    """

    def __init__(self, folder: Path | None, points_per_series: int, max_bytes: int) -> None:
        self._points_per_series = self._kept_points = points_per_series
        self._max_bytes = max_bytes
        self._since_prune: dict[int, int] = {}
        self._to_prune: dict[int, None] = {}
        self._series_ids: set[int] = set()
        try:
            self._db = sqlite3.connect(":memory:" if folder is None else _made_private(folder), isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise _store_error("opened", error) from error
        try:
            self._prepare()
            self._page_bytes = self._pragma("page_size")
        except sqlite3.Error as error:
            self._db.close()
            raise _store_error("opened", error) from error
        except StoreError:
            self._db.close()
            raise

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def _prepare(self) -> None:
        for pragma in (
            "journal_mode = WAL",
            "synchronous = NORMAL",
            f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
            "journal_size_limit = 16777216",
            "temp_store = MEMORY",
        ):
            self._db.execute(f"PRAGMA {pragma}")
        version = self._pragma("user_version")
        if version == 0:
            schema = "".join(Path(__file__).with_name(name).read_text() for name in ("schema.sql", "schema2.sql"))
            self._db.executescript(f"BEGIN; {schema}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")
        elif version == 1:
            more = Path(__file__).with_name("schema2.sql").read_text()
            self._db.executescript(f"BEGIN; {more}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")
        elif version != SCHEMA_VERSION:
            raise StoreUnusable(
                f"the sandbox's database is of version {version}, and this program knows {SCHEMA_VERSION}"
            )

    def load(self) -> Snapshot:
        """Everything but the history. Raises StoreError and StoreUnusable."""
        try:
            series = self._db.execute(_SELECT_SERIES).fetchall()
            snapshot = Snapshot(
                [
                    StoredDevice(row[0], row[1], row[2], bool(row[3]), row[4], row[5], json.loads(row[6]))
                    for row in self._db.execute(_SELECT_DEVICES)
                ],
                series,
                self._db.execute(_SELECT_ATTRIBUTES).fetchall(),
                self._db.execute(_SELECT_SHARED).fetchall(),
                dict(self._db.execute(_SELECT_KEPT).fetchall()),
            )
            for row in snapshot.series:
                plain(row[4])
            for attribute in (*snapshot.attributes, *snapshot.shared):
                plain(attribute[3])
        except (sqlite3.Error, ValueError) as error:
            raise _store_error("read", error) from error
        self._series_ids = {row[0] for row in series}
        self._since_prune = dict.fromkeys(self._series_ids, self._slack())  # how long they are is not known
        return snapshot

    def write(self, changes: Changes) -> None:
        """Keep all of these or, raising StoreError, none."""
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                _INSERT_DEVICE,
                [
                    (
                        device.id,
                        device.name,
                        device.profile,
                        device.gateway,
                        device.last_activity_ms,
                        device.last_gateway_id,
                        json.dumps(device.more) if device.more else "{}",
                    )
                    for device in changes.devices.values()
                ],
            )
            if changes.series:
                db.executemany(_INSERT_SERIES, changes.series)
            if changes.attributes:
                db.executemany(_INSERT_ATTRIBUTE, [(*where, *what) for where, what in changes.attributes.items()])
            if changes.points:
                db.executemany(_INSERT_POINT, changes.points)
                self._prune(changes)
            if changes.shared:
                self._write_shared(changes)
            for name, content in changes.kept.items():
                db.execute(*((_DELETE_KEPT, (name,)) if content is None else (_INSERT_KEPT, (name, content))))
            for device_id in changes.deleted:
                for statement in _DELETE_DEVICE:
                    db.execute(statement, (device_id,))
            db.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise _store_error("written", error) from error

    def _write_shared(self, changes: Changes) -> None:
        set_rows = [(*where, *what) for where, what in changes.shared.items() if what is not None]
        self._db.executemany(_INSERT_SHARED, set_rows)
        self._db.executemany(_DELETE_SHARED, [where for where, what in changes.shared.items() if what is None])

    def _slack(self) -> int:
        return max(1, self._kept_points // 10)

    def _prune(self, changes: Changes) -> None:
        """Within the transaction of `write`: prune what grew past its bound, in step with what was written."""
        slack = self._slack()
        for series_id, grown in Counter(map(itemgetter(0), changes.points)).items():
            since = self._since_prune.get(series_id, 0) + grown
            self._since_prune[series_id] = since
            if since >= slack:
                self._to_prune[series_id] = None
        self._series_ids.update(map(itemgetter(0), changes.series))
        if not self._to_prune:
            self._mind_size()
        allowance = max(_MIN_PRUNED_ROWS, 2 * len(changes.points))
        while self._to_prune and allowance > 0:
            series_id = next(iter(self._to_prune))
            del self._to_prune[series_id]
            allowance -= 1 + self._db.execute(_PRUNE, (series_id, self._kept_points)).rowcount
            self._since_prune[series_id] = 0

    def _mind_size(self) -> None:
        used = (self._pragma("page_count") - self._pragma("freelist_count")) * self._page_bytes
        if used > self._max_bytes and self._kept_points > 1:
            self._kept_points = max(1, self._kept_points * 3 // 4)
            self._to_prune = dict.fromkeys(self._series_ids)
        elif used < self._max_bytes // 2 and self._kept_points < self._points_per_series:
            self._kept_points = min(self._points_per_series, self._kept_points * 2)

    def history(self, series_id: int, since_ms: int, limit: int) -> list[tuple[int, Any]]:
        """The newest `limit` points at or after `since_ms`, oldest first, as JSON values. Raises StoreError."""
        try:
            rows = self._db.execute(_SELECT_HISTORY, (series_id, since_ms, limit)).fetchall()
            return [(ts_ms, plain(value)) for ts_ms, value in reversed(rows)]
        except (sqlite3.Error, ValueError) as error:
            raise _store_error("read", error) from error

    def close(self) -> None:
        """Nothing may be called afterwards. What was written is kept."""
        with suppress(sqlite3.Error):  # a checkpoint that fails now is made up for at the next opening
            self._db.close()


def _made_private(folder: Path) -> Path:
    """The path of the database, which exists afterwards with mode 0600. Raises OSError."""
    make_private_folder(folder)
    path = folder / FILE_NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    return path


def make_private_folder(folder: Path) -> None:
    """Create `folder` with mode 0700 whatever the umask; one that exists is left as it is. Raises OSError."""
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True)
        folder.chmod(0o700)


def set_aside(folder: Path) -> Path:
    """Move a database that cannot be used out of the way, over any earlier one. Raises OSError."""
    aside = folder / f"{FILE_NAME}.aside"
    for suffix in ("-wal", "-shm"):
        (folder / (FILE_NAME + suffix)).unlink(missing_ok=True)
    (folder / FILE_NAME).replace(aside)
    return aside
