"""The reference's left-over files become rows, once, whole, and in order."""

from __future__ import annotations

import base64
import json
import sqlite3
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial import unittest

from tbgw.model import Row
from tbgw.spool import importing
from tbgw.spool.importing import GATEWAY_ITSELF, Importer, drafts_of, parse_record
from tbgw.spool.memory import MemoryStore
from tbgw.spool.runners import CallDirectly
from tbgw.spool.service import Spool
from tests.spool.fakes import NOW_MS, draft, events

AMPLE = 1 << 30


def record(number: int, device: str = "Old", **other: Any) -> bytes:
    """A record as the reference writes it."""
    telemetry = [{"ts": 1000 + number, "values": {"n": number}}]
    content = {"deviceName": device, "deviceType": "meter", "telemetry": telemetry, "attributes": {}, **other}
    return json.dumps(content).encode()


class ImportCase(unittest.TestCase):
    """A folder, and a spool in memory."""

    def setUp(self):
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.clock = Clock()
        self.events, self.counters = events()
        self.known: dict[str, str] = {}
        self.rows: list[Row] = []
        self.store = MemoryStore()
        self.spool = self.open()

    def open(self, **options: Any) -> Spool:
        spool = Spool(
            lambda: self.store,
            clock=self.clock,
            runner=CallDirectly(),
            wall_ms=lambda: NOW_MS,
            events=self.events,
            **{"max_bytes": AMPLE, **options},
        )
        self.successResultOf(spool.open())
        return spool

    def importer(self) -> Importer:
        return Importer(
            self.spool,
            self.folder,
            clock=self.clock,
            now_ms=lambda: NOW_MS,
            events=self.events,
            limit_bytes=60_000,
            known=self.known.update,
            appended=self.rows.extend,
        )

    def run_import(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.importer().run(lambda: None)))

    def texts(self, name: str, *records: bytes) -> None:
        (self.folder / name).write_bytes(b"".join(base64.b64encode(one) + b"\n" for one in records))

    def database(self, name: str, *records: bytes) -> None:
        connection = sqlite3.connect(self.folder / name)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(
            "CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp INTEGER NOT NULL, message TEXT)"
        )
        values = [(NOW_MS, one.decode()) for one in records]
        connection.executemany("INSERT INTO messages (timestamp, message) VALUES (?, ?)", values)
        connection.commit()
        connection.close()

    def arrived(self) -> list[int]:
        """The numbers in the store's rows, in order."""
        rows = self.store.fetch(0, AMPLE, NOW_MS).rows
        return [
            entry["values"]["n"]
            for row in rows
            if row.topic == "v1/gateway/telemetry"
            for entries in json.loads(row.payload).values()
            for entry in entries
        ]

    def left(self) -> list[str]:
        return sorted(entry.name for entry in self.folder.iterdir())


class FileTests(ImportCase):
    """Both kinds of files."""

    def test_texts(self):
        """Text files in their order, from the place the reference had come to; then they are renamed."""
        self.texts("data_900.txt", record(1), record(2), record(3))
        self.texts("data_1000.txt", record(4), record(5))
        (self.folder / "state_file.txt").write_text(json.dumps({"file": "data_900.txt", "position": 1}))
        self.run_import()
        assert self.arrived() == [2, 3, 4, 5]
        assert self.rows == self.store.fetch(0, AMPLE, NOW_MS).rows  # the forwarder has them too
        assert self.left() == ["data_1000.txt.imported", "data_900.txt.imported", "state_file.txt"]
        assert self.known == {"Old": "meter"}
        self.run_import()
        assert self.arrived() == [2, 3, 4, 5]

    def test_databases(self):
        """Databases, the first one first, and no other program's."""
        self.database("data_1700000000000.db", record(3))
        self.database("data.db", record(1), record(2))
        connection = sqlite3.connect(self.folder / "other.db")
        connection.execute("CREATE TABLE photos (id)")
        connection.close()
        (self.folder / "broken.db").write_bytes(b"x" * 9000)
        self.run_import()
        assert self.arrived() == [1, 2, 3]
        assert self.left() == ["broken.db", "data.db.imported", "data_1700000000000.db.imported", "other.db"]

    def test_bad_records(self):
        """What is no record goes to the dead letters and costs nothing else."""
        lines = (b"!!!", base64.b64encode(b"{"), base64.b64encode(record(1)))
        (self.folder / "data_1.txt").write_bytes(b"\n".join(lines))
        self.run_import()
        assert self.arrived() == [1]
        assert [one.reason for one in self.store.dead_letters(0, AMPLE)] == ["import", "import"]

    def test_no_folder(self):
        """A folder that is not there holds nothing."""
        self.folder.rmdir()
        self.run_import()

    def test_killed_at_every_step(self):
        """
        A kill after any job of the store's thread: the next start goes on; nothing is lost, and at most one batch for
        each kill comes twice.
        """
        self.patch(importing, "BATCH_RECORDS", 10)
        for step in range(1, 14):
            self.setUp()
            self.texts("data_1.txt", *(record(n) for n in range(25)))
            self.database("data.db", *(record(n) for n in range(25, 50)))
            jobs = self.spool.run_in_store_thread
            left = [step]

            def limited(job: Any, jobs: Any = jobs, left: list[int] = left) -> Deferred[None]:
                left[0] -= 1
                return jobs(job) if left[0] >= 0 else Deferred()

            self.patch(self.spool, "run_in_store_thread", limited)
            Deferred.fromCoroutine(self.importer().run(lambda: None))
            self.spool = self.open()
            self.run_import()
            arrived = self.arrived()
            assert sorted(set(arrived)) == list(range(50)), step
            assert len(arrived) <= 60, step
            assert [n for i, n in enumerate(arrived) if n not in arrived[:i]] == list(range(50)), step

    def test_waits_for_room(self):
        """While the store is nearly full nothing is imported and others go on; with room it does."""
        self.texts("data_1.txt", *(record(n) for n in range(20)))
        self.spool = self.open(max_messages=24)
        rows, _ = self.spool.append([draft(messages=10)])
        told: list[bool] = []
        running = Deferred.fromCoroutine(self.importer().run(lambda: told.append(True)))
        self.assertNoResult(running)
        assert told == [True]
        self.spool.delete([rows[0].seq])
        self.clock.advance(importing.WAIT_SECONDS)
        self.successResultOf(running)
        assert self.arrived() == list(range(20))

    def test_stopped_while_it_waits(self):
        """It ends at once, and leaves its file."""
        self.texts("data_1.txt", *(record(n) for n in range(20)))
        self.spool = self.open(max_messages=24)
        self.spool.append([draft(messages=10)])
        importer = self.importer()
        running = Deferred.fromCoroutine(importer.run(lambda: None))
        importer.stop()
        self.successResultOf(running)
        assert self.left() == ["data_1.txt"]


class RecordTests(unittest.TestCase):
    """Records and rows."""

    def test_gateway_itself(self):
        """The gateway's own data goes to its own topics, and no device of that name appears."""
        own = parse_record(record(1, GATEWAY_ITSELF, attributes={"a": 1}), 0)
        drafts = drafts_of([own], 1000)
        assert [(one.topic, one.payload, one.devices) for one in drafts] == [
            ("v1/devices/me/attributes", b'{"a":1}', ()),
            ("v1/devices/me/telemetry", b'[{"ts":1001,"values":{"n":1}}]', ()),
        ]
        assert sum(one.messages for one in drafts) == 1

    def test_packed(self):
        """Many small records share payloads up to the limit; a large one is cut between keys."""
        big = {"ts": 7, "values": {f"key{n}": "x" * 50 for n in range(40)}}
        records = [parse_record(record(n, f"D{n % 3}"), 0) for n in range(100)]
        records.append(parse_record(record(100, "D0", telemetry=[big]), 0))
        drafts = drafts_of(records, 1000)
        assert all(len(one.payload) <= 1000 for one in drafts)
        assert len(drafts) < 12
        assert sum(one.messages for one in drafts) == 101
        assert sum(one.points for one in drafts) == 140

    def test_attributes(self):
        """Attributes come as an object or as a list of objects."""
        for attributes in ({"a": 1, "b": 2}, [{"a": 1}, {"b": 2}]):
            (one,) = drafts_of([parse_record(record(1, telemetry=[], attributes=attributes), 0)], 1000)
            assert (one.topic, one.payload) == ("v1/gateway/attributes", b'{"Old":{"a":1,"b":2}}')

    def test_refused(self):
        """What is no record is refused with ValueError."""
        for text in (b"", b"[]", b"{}", b'{"deviceName": 3}', record(1, ""), record(1, telemetry=[3]),
                     record(1, telemetry=[{"ts": "x", "values": {}}]), record(1, attributes=[[]])):  # fmt: skip
            self.assertRaises(ValueError, parse_record, text, 0)
