# -*- test-case-name: tests.spool.test_importing -*-
"""Left-over storage files of the reference gateway, read in once, on request (`storage.import`).

`data_*.txt` holds one base64 line for each record, and `state_file.txt` says how many lines of which file were
consumed; `*.db` has a table `messages`. A record is JSON: device name and type, telemetry, attributes. Records become
rows as the gateway's own do, packed up to the payload limit; what is no record goes to the dead letters as `import`.

What holds
- Bounded memory: a batch of `BATCH_RECORDS` or `BATCH_BYTES` at a time, and none while the store is nearly full.
- Resumable: the place in the file is written down after each batch's commit, and a file is renamed to `*.imported` once
  all of it is stored. A kill in between costs no record; at most the one batch whose place was not written comes twice.
- Files that are not the reference's are left alone (C-36).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tbgw.internal_events import Events
from tbgw.model import Draft, Row
from tbgw.spool.contract import row_bytes
from tbgw.spool.internal_events import FileImported, ImportWaits
from tbgw.spool.service import Spool
from tbgw.thingsboard import payloads, topics

BATCH_RECORDS: Final = 500
"""Records in one batch: what a kill can make come twice."""
BATCH_BYTES: Final = 1024 * 1024
"""... and the bytes of their text."""
MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""A line that is longer is no record; it is passed over in pieces of this size."""
FILL_LIMIT: Final = 0.8
"""Part of the cap up to which is imported: the rest is for what comes from devices."""
WAIT_SECONDS: Final = 10.0
"""Pause before looking again whether the store has room."""
GATEWAY_ITSELF: Final = "currentThingsBoardGateway"
"""The reference's name for its own data."""
MAX_POINTS: Final = 1000
"""Data points in one payload of one device."""

_TEXT_FILE = re.compile(r"data_(\d+)\.txt")
_OWN_STATE = "tbgw_import.json"


class Place(NamedTuple):
    """How far a file has been read."""

    file: str = ""
    position: int = 0
    """Bytes of a text file, the last id of a database."""


class Batch(NamedTuple):
    """Some records of one file."""

    records: list[bytes]
    """JSON text of each."""
    bad: list[bytes]
    """Lines that are not even base64."""
    place: Place
    """Where to go on."""
    ended: bool
    """Whether the file has no more."""


class Record(NamedTuple):
    """One record, understood."""

    device: str
    profile: str
    telemetry: list[tuple[int, dict[str, Any]]]
    attributes: dict[str, Any]


class ReferenceFiles:
    """The files in one folder. Blocking; for the store's thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state = folder / _OWN_STATE
        self._place: Place | None = None

    def next_batch(self) -> Batch | None:
        """The next records; None when there is no file left. Raises OSError or sqlite3.Error."""
        if self._place is None:
            self._place = self._read_place()
        path = self._current()
        if path is None:
            with suppress(FileNotFoundError):
                self._state.unlink()
            return None
        position = self._place.position if self._place.file == path.name else 0
        return self._read_text(path, position) if path.suffix == ".txt" else self._read_database(path, position)

    def done(self, batch: Batch) -> None:
        """The batch is stored: write its place down, and rename a file that has ended."""
        temporary = self._state.with_suffix(".new")
        with temporary.open("w") as file:
            json.dump(batch.place._asdict(), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._state)
        self._place = batch.place
        if batch.ended:
            path = self._folder / batch.place.file
            os.replace(path, path.with_name(path.name + ".imported"))

    def _read_place(self) -> Place:
        """Ours if there is one, else the reference's."""
        with suppress(FileNotFoundError, ValueError, TypeError, KeyError):
            state = json.loads(self._state.read_bytes())
            return Place(str(state["file"]), int(state["position"]))
        with suppress(FileNotFoundError, ValueError, TypeError, KeyError):
            state = json.loads((self._folder / "state_file.txt").read_bytes())
            name, lines = str(state["file"]), int(state["position"])
            # What is older was consumed; the reference would have removed it. It is kept, and left alone.
            with (self._folder / name).open("rb") as file:
                for _ in range(lines):
                    file.readline(MAX_LINE_BYTES)
                return Place(name, file.tell())
        return Place()

    def _current(self) -> Path | None:
        place = self._place or Place()
        if not self._folder.is_dir():
            return None
        texts = sorted(
            (int(match[1]), entry) for entry in self._folder.iterdir() if (match := _TEXT_FILE.fullmatch(entry.name))
        )
        begun = _TEXT_FILE.fullmatch(place.file)
        for number, entry in texts:
            if begun is None or number >= int(begun[1]):
                return entry
        for entry in sorted(self._folder.glob("*.db"), key=lambda entry: (len(entry.name), entry.name)):
            if _is_reference_database(entry):
                return entry
        return None

    @staticmethod
    def _read_text(path: Path, position: int) -> Batch:
        records: list[bytes] = []
        bad: list[bytes] = []
        size = 0
        with path.open("rb") as file:
            file.seek(position)
            while len(records) + len(bad) < BATCH_RECORDS and size < BATCH_BYTES:
                line = file.readline(MAX_LINE_BYTES)
                if not line:
                    return Batch(records, bad, Place(path.name, file.tell()), True)
                size += len(line)
                try:
                    records.append(base64.b64decode(line.strip(), validate=True))
                except binascii.Error:
                    bad.append(line)
            return Batch(records, bad, Place(path.name, file.tell()), False)

    @staticmethod
    def _read_database(path: Path, position: int) -> Batch:
        records: list[bytes] = []
        size = 0
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.text_factory = bytes
            found = connection.execute("SELECT id, message FROM messages WHERE id > ? ORDER BY id", (position,))
            for number, message in found:
                records.append(message if isinstance(message, bytes) else str(message).encode())
                position = number
                size += len(records[-1])
                if len(records) >= BATCH_RECORDS or size >= BATCH_BYTES:
                    return Batch(records, [], Place(path.name, position), False)
        return Batch(records, [], Place(path.name, position), True)


def _is_reference_database(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            columns = {row[1] for row in connection.execute("PRAGMA table_info(messages)")}
    except sqlite3.Error:
        return False
    return application == 0 and {"id", "timestamp", "message"} <= columns


def parse_record(text: bytes, now_ms: int) -> Record:
    """A record of the reference. Raises ValueError for what is none."""
    content = payloads.decode(text)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    name, profile = content.get("deviceName"), content.get("deviceType") or "default"
    if not isinstance(name, str) or not isinstance(profile, str):
        raise ValueError("no device name")
    if name != GATEWAY_ITSELF and not payloads.is_device_name(name):
        raise ValueError("not a device name")
    telemetry = []
    for entry in _listed(content.get("telemetry")):
        ts_ms, values = (entry["ts"], entry.get("values")) if "ts" in entry else (now_ms, entry)
        if not isinstance(ts_ms, int) or not isinstance(values, dict):
            raise ValueError("not telemetry")
        telemetry.append((ts_ms, values))
    attributes: dict[str, Any] = {}
    for entry in _listed(content.get("attributes")):
        attributes.update(entry)
    return Record(name, profile, telemetry, attributes)


def _listed(value: object) -> list[dict[str, Any]]:
    entries: list[Any] = value if isinstance(value, list) else [value] if value else []
    if not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("not a list of objects")
    return entries


def drafts_of(records: list[Record], limit_bytes: int) -> list[Draft]:
    """Rows of these records in their order, each payload up to the limit where that can be."""
    drafts: list[Draft] = []
    telemetry: dict[bytes, list[bytes]] = {}
    names: list[str] = []
    size = points = messages = 0

    def close() -> None:
        nonlocal size, points, messages
        if telemetry:
            payload = payloads.join_telemetry(telemetry)
            drafts.append(Draft(topics.TELEMETRY, payload, tuple(names), messages, points))
        telemetry.clear()
        names.clear()
        size = points = messages = 0

    for record in records:
        own = record.device == GATEWAY_ITSELF
        name = payloads.encode(record.device)
        counted = False
        if record.attributes:
            close()  # what came before stays before
            topic = topics.DEVICE_ATTRIBUTES if own else topics.ATTRIBUTES
            pairs = {payloads.encode(key): payloads.encode(value) for key, value in record.attributes.items()}
            payload = payloads.encode(record.attributes) if own else payloads.join_attributes({name: pairs})
            drafts.append(Draft(topic, payload, () if own else (record.device,), 1, len(pairs)))
            counted = True
        for ts_ms, values in record.telemetry:
            if not values:
                continue
            for piece, count in payloads.fragments(ts_ms, values, limit_bytes - len(name) - 5, MAX_POINTS):
                if own:
                    payload = b"[%b]" % piece
                    drafts.append(Draft(topics.DEVICE_TELEMETRY, payload, (), int(not counted), count))
                    counted = True
                    continue
                cost = len(piece) + len(name) + 4
                if size + cost > limit_bytes or points + count > MAX_POINTS:
                    close()
                if name not in telemetry:
                    names.append(record.device)
                telemetry.setdefault(name, []).append(piece)
                size, points, messages = size + cost, points + count, messages + (not counted)
                counted = True
    close()
    return drafts


class Importer:
    """
    Feeds the spool from a folder of the reference's files. `known` is told profiles by name before rows come;
    `appended` gets the rows in the turn in which they were appended, as from ingest.
    """

    def __init__(
        self,
        spool: Spool,
        folder: Path,
        *,
        clock: IReactorTime,
        now_ms: Callable[[], int],
        events: Events,
        limit_bytes: int,
        known: Callable[[Mapping[str, str]], None],
        appended: Callable[[list[Row]], None],
    ) -> None:
        self._spool = spool
        self._files = ReferenceFiles(folder)
        self._clock = clock
        self._now_ms = now_ms
        self._events = events
        self._limit_bytes = limit_bytes
        self._known = known
        self._appended = appended
        self._waiting: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._stopped = False
        self.records = 0
        """Records that were imported."""

    async def run(self, waits: Callable[[], None]) -> None:
        """
        Import everything. `waits` is called when the store has no room at present, so that nobody waits for us. Fails
        with StoreError, OSError or sqlite3.Error; a later start goes on from there.
        """
        while not self._stopped and (batch := await self._next()) is not None:
            good: list[Record] = []
            bad = list(batch.bad)
            for text in batch.records:
                try:
                    good.append(parse_record(text, self._now_ms()))
                except ValueError:
                    bad.append(text)
            drafts = drafts_of(good, self._limit_bytes)
            while not self._has_room(drafts):
                self._events.emit(ImportWaits())
                waits()
                self._waiting = Deferred()
                self._timer = self._clock.callLater(WAIT_SECONDS, self._look_again)
                await self._waiting
                if self._stopped:
                    return
            self._known({one.device: one.profile for one in good if one.device != GATEWAY_ITSELF})
            for text in bad:
                self._spool.bury(Row(0, "", text, (), 1, 0), "import")
            rows, stored = self._spool.append(drafts)
            if rows:
                self._appended(rows)
            await stored
            await self._spool.run_in_store_thread(partial(self._files.done, batch))
            self.records += len(good)
            if batch.ended:
                self._events.emit(FileImported(batch.place.file, self.records))

    def _has_room(self, drafts: list[Draft]) -> bool:
        status = self._spool.status()
        size, messages = sum(map(row_bytes, drafts)), sum(draft.messages for draft in drafts)
        room = status["bytes"] + size <= FILL_LIMIT * status["max_bytes"]
        if status["max_messages"] is not None:
            room = room and status["messages"] + messages <= FILL_LIMIT * status["max_messages"]
        return not status["draining"] and (room or not status["rows"])

    async def _next(self) -> Batch | None:
        found: list[Batch | None] = []
        await self._spool.run_in_store_thread(lambda: found.append(self._files.next_batch()))
        return found[0]

    def stop(self) -> None:
        """End after the batch under way."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._look_again()

    def _look_again(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)
