# -*- test-case-name: tests.connectors.ocpp.test_stations -*-
"""What is known of each charge point over reconnects and restarts, and the file that keeps it.

The file is an SQLite database of one row for each charge point, in the data folder; all work on it is done by jobs in
the store's thread, so it never holds up the reactor, and is on the disk before what is stored after it.

Invariants:

* When the Deferred of `save` fires, the record as it was at that moment is on stable storage. Changes that come while
  a write is under way are written together by the next: a storm of boots costs a few transactions.
* A record that did not change costs nothing.
* A file that cannot be read is moved aside and told, and a new one begun: a damaged file never keeps chargers from
  charging. Transaction ids do not fall back with it (see `transactions`).
* It is bounded: beyond `MAX_STATIONS` one that only connected is forgotten, else the one that was silent for longest.

Considered and dropped: one JSON file written as a whole (30 ms of the reactor for each transaction with 10,000 charge
points), a journal of lines (has to be compacted; SQLite is that already).
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2s
from pathlib import Path
from secrets import token_bytes
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from tbgw.connectors.ocpp.report_events import StateDamaged, StateNotWritten
from tbgw.connectors.ocpp.transactions import Sessions, restored
from tbgw.errors import StoreError
from tbgw.internal_events import Events
from tbgw.model import Value

MAX_STATIONS = 20_000
"""Charge points remembered: twice as many as one process is meant for."""
MAX_BODY_CHARACTERS = 1_000_000
"""A larger record is not ours: sessions, boot data and shared tags together stay below."""
SCHEMA_VERSION = 1

_CREATE = (
    "CREATE TABLE station (path TEXT PRIMARY KEY, seen_ms INTEGER NOT NULL, body TEXT NOT NULL);"
    "CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL);"
    f"PRAGMA user_version = {SCHEMA_VERSION};"
)

InStoreThread = Callable[[Callable[[], None]], Deferred[None]]


@dataclass(slots=True)
class Record:
    """What is kept of one charge point."""

    path: str
    boot: dict[str, Value] = field(default_factory=dict)
    """`boot_fields` of the last BootNotification; empty when there was none."""
    boot_status: str | None = None
    """How it was answered."""
    name: str | None = None
    """Its device's name, as it was last made."""
    profile: str = "default"
    sessions: Sessions = field(default_factory=Sessions)
    tags: Value = None
    """The shared attribute of idTags, as it was last received."""
    seen_ms: int = 0
    written: str | None = None
    """The body as it is in the file, or about to be."""

    def body(self) -> str:
        """JSON in ASCII, as `record_of` takes it: a lone surrogate in a boot's text would fail all of a write."""
        return json.dumps(
            {
                "boot": self.boot,
                "bootStatus": self.boot_status,
                "name": self.name,
                "profile": self.profile,
                "sessions": self.sessions.plain(),
                "tags": self.tags,
            },
            separators=(",", ":"),
        )


def record_of(path: str, seen_ms: int, body: str) -> Record | None:
    """The reverse of `Record.body`; None for what was not written by it."""
    try:
        plain = json.loads(body) if len(body) <= MAX_BODY_CHARACTERS else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(plain, dict):
        return None
    boot, status, name, profile = (plain.get(key) for key in ("boot", "bootStatus", "name", "profile"))
    return Record(
        path=path,
        boot=boot if isinstance(boot, dict) else {},
        boot_status=status if isinstance(status, str) else None,
        name=name if isinstance(name, str) else None,
        profile=profile if isinstance(profile, str) else "default",
        sessions=restored(plain.get("sessions")),
        tags=plain.get("tags"),
        seen_ms=seen_ms,
        written=body,
    )


def file_name(connector: str) -> str:
    """The file of a connector: readable, and its own whatever its name is made of."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", connector).strip("-")[:40]
    digest = blake2s(connector.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"ocpp-{readable or 'connector'}-{digest}.sqlite3"


class StationFile:
    """The database. Every method runs in the store's thread, and raises sqlite3.Error or OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        self.damage: tuple[str, str] | None = None
        """What was wrong with the file, and what became of it."""
        self.loaded: list[Record] = []
        self.facts: dict[str, str] = {}

    def open(self) -> None:
        """Fill `loaded` and `facts`; what cannot be read is moved aside, and `damage` says so."""
        try:
            self._open()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise
            self.close()
            aside = self._path.with_name(self._path.name + ".corrupt")
            kept = f"it is kept as {aside.name}"
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            os.replace(self._path, aside)
            self.damage = (str(error), kept)
            self.loaded, self.facts = [], {}
            self._open()

    def _open(self) -> None:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))  # holds idTags: nobody else's business
        # One worker does all that touches the disk, but which of Python's threads that is, is the store's business.
        db = self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5.0)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            db.executescript(f"BEGIN; {_CREATE} COMMIT;")
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"the file is of version {version}, and this program knows {SCHEMA_VERSION}")
        unreadable = 0
        for path, seen_ms, body in db.execute(
            "SELECT path, seen_ms, body FROM station ORDER BY seen_ms DESC LIMIT ?", (MAX_STATIONS,)
        ):
            record = record_of(path, seen_ms, body) if isinstance(body, str) and isinstance(path, str) else None
            if record is None:
                unreadable += 1
            else:
                self.loaded.append(record)
        if unreadable:
            self.damage = (f"{unreadable} records have another form", "the others are used")
        self.facts = {str(name): str(value) for name, value in db.execute("SELECT name, value FROM fact")}

    def write(self, rows: list[tuple[str, int, str]], facts: dict[str, str], forgotten: list[str]) -> None:
        """In one transaction, on stable storage when it returns."""
        db = self._db
        if db is None:
            self._open()
            db = self._db
        if db is None:
            raise sqlite3.OperationalError("the file is closed")
        db.execute("BEGIN IMMEDIATE")
        try:
            # In this order: one that was forgotten may have come again since.
            db.executemany("DELETE FROM station WHERE path = ?", [(path,) for path in forgotten])
            db.executemany("INSERT OR REPLACE INTO station (path, seen_ms, body) VALUES (?, ?, ?)", rows)
            db.executemany("INSERT OR REPLACE INTO fact (name, value) VALUES (?, ?)", list(facts.items()))
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Nothing may be called afterwards but `open`."""
        if self._db is not None:
            self._db.close()
            self._db = None


class Stations:
    """All charge points that a connector ever saw, by path."""

    def __init__(
        self,
        connector: str,
        data_dir: Path,
        run_in_store_thread: InStoreThread,
        events: Events,
        persist: bool = True,
    ) -> None:
        self._connector = connector
        self._run = run_in_store_thread
        self._events = events
        self._file = StationFile(data_dir / file_name(connector)) if persist else None
        self._records: dict[str, Record] = {}
        self._waiting: dict[str, Record] = {}
        """Records that differ from the file and are in no write under way."""
        self._waiting_facts: dict[str, str] = {}
        self._forgotten: list[str] = []
        self._writing = False
        self._taken: dict[str, Record] = {}
        """Records in the write that is under way."""
        self._next: Deferred[None] | None = None
        """Fires with the write after the one that is under way."""
        self.salt = token_bytes(16)
        """For what is shown of idTags when they are hashed; kept, so that a tag stays the same."""
        self.last_transaction_id = 0
        self.closed = False

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def get(self, path: str) -> Record | None:
        """None for one that was never seen."""
        return self._records.get(path)

    def restore(self) -> Deferred[None]:
        """Read the file; also after `close`. Never fails; what was wrong is told."""
        self.closed = False
        file = self._file
        if file is None:
            return succeed(None)

        def loaded(_: None) -> Deferred[None] | None:
            for record in file.loaded:
                self._records.setdefault(record.path, record)
            file.loaded = []
            self._tell_damage(file)
            salt, last = file.facts.get("salt", ""), file.facts.get("lastTransactionId", "")
            if last.isdecimal():
                self.last_transaction_id = max(self.last_transaction_id, int(last))
            if re.fullmatch("[0-9a-f]{32}", salt):
                self.salt = bytes.fromhex(salt)
                return None
            self._waiting_facts["salt"] = self.salt.hex()
            return self._flush().addErrback(lambda _: None)

        return self._run(file.open).addCallbacks(loaded, self._not_opened)

    def _tell_damage(self, file: StationFile) -> None:
        if file.damage is not None:
            self._events.emit(StateDamaged(self._connector, *file.damage))
            file.damage = None

    def _not_opened(self, why: Failure) -> None:
        self._events.emit(StateNotWritten(self._connector, why.getErrorMessage()))

    def add(self, path: str, now_ms: int, connected: Callable[[str], bool]) -> tuple[Record, str | None]:
        """A new record, and the path that was forgotten for it: one that `connected` says False of."""
        oldest: str | None = None
        if len(self._records) >= MAX_STATIONS:
            silent = [one for one in self if not connected(one.path)]
            if silent:
                oldest = min(silent, key=lambda one: (one.written is not None, one.seen_ms)).path
                del self._records[oldest]
                self._waiting.pop(oldest, None)
                self._forgotten.append(oldest)
        record = self._records[path] = Record(path, seen_ms=now_ms)
        return record, oldest

    def is_kept(self, record: Record) -> bool:
        """Whether what was saved of it last is on stable storage by now."""
        if self._file is None:
            return True
        return record.written is not None and record.path not in self._taken and record.path not in self._waiting

    def save(self, record: Record, last_transaction_id: int = 0) -> Deferred[None]:
        """Fires when the record, as it is now, is on stable storage. Fails with StoreError."""
        if self.closed:
            return fail(StoreError("what is kept of charge points is closed already"))
        record.sessions.changed = False
        if last_transaction_id > self.last_transaction_id:
            self.last_transaction_id = last_transaction_id
            self._waiting_facts["lastTransactionId"] = str(last_transaction_id)
        if self._file is None:
            return succeed(None)
        body = record.body()
        if body == record.written and self.is_kept(record):
            return succeed(None)
        record.written = body
        self._waiting[record.path] = record  # also when it is in a write under way, which may fail
        return self._flush()

    def close(self) -> Deferred[None]:
        """Fires when all is written and the file closed; never fails."""
        file = self._file
        if file is None or self.closed:
            return succeed(None)
        self.closed = True
        written = self._flush() if self._waiting or self._waiting_facts or self._writing else succeed(None)
        return (
            written.addErrback(lambda _: None)
            .addCallback(lambda _: self._run(file.close))
            .addErrback(self._not_opened)
        )

    def _flush(self) -> Deferred[None]:
        """Fires with the write that takes along what waits now."""
        done: Deferred[None] = Deferred()
        if self._next is None:
            self._next = Deferred()
        self._next.addCallbacks(
            lambda _: done.callback(None), lambda why: done.errback(why)
        )
        if not self._writing:
            self._write()
        return done

    def _write(self) -> None:
        file, finished = self._file, self._next
        if file is None or finished is None:
            return
        self._next = None
        self._writing = True
        taken, facts, forgotten = self._waiting, self._waiting_facts, self._forgotten
        self._taken = taken
        self._waiting, self._waiting_facts, self._forgotten = {}, {}, []
        rows = [(record.path, record.seen_ms, record.written or "") for record in taken.values()]

        def over() -> None:
            self._writing = False
            self._taken = {}
            if self._next is not None:
                self._write()

        def stored(_: None) -> None:
            finished.callback(None)
            over()

        def failed(why: Failure) -> None:
            for path, record in taken.items():
                if path not in self._waiting:
                    record.written = None  # so that the next `save` writes it, changed or not
            self._waiting_facts = facts | self._waiting_facts
            self._forgotten += forgotten
            self._events.emit(StateNotWritten(self._connector, why.getErrorMessage()))
            finished.errback(StoreError(f"what is kept of charge points cannot be written: {why.getErrorMessage()}"))
            over()

        self._run(lambda: file.write(rows, facts, forgotten)).addCallbacks(stored, failed)

    def plain(self) -> dict[str, Any]:
        """Counts, for a status page."""
        return {"chargePoints": len(self._records), "lastTransactionId": self.last_transaction_id}
