"""The file of charge points: writes together, survives damage, forgets the oldest."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path
from unittest import mock

from twisted.internet.defer import Deferred

from tbgw.connectors.ocpp import stations
from tbgw.connectors.ocpp.stations import Record, Stations, file_name, record_of
from tbgw.connectors.ocpp.transactions import Transaction
from tbgw.errors import StoreError
from tests.connectors.ocpp.fakes import NOW_MS, ReportsCase


class StationsTests(ReportsCase):
    """`Stations`, on a real file."""

    def open(self, name: str = "Car park") -> Stations:
        found = Stations(name, Path(self.data_dir), self.thread, self.events)
        self.successResultOf(found.restore())
        return found

    def add(self, of: Stations, path: str, vendor: str = "ABB") -> Record:
        record, _ = of.add(path, NOW_MS, lambda _: False)
        record.boot = {"Vendor": vendor}
        record.sessions.add(Transaction(7, 1, "tag"))
        return record

    @property
    def path(self) -> Path:
        return Path(self.data_dir) / file_name("Car park")

    def test_kept(self):
        """What was saved is there after a restart, idTag salt and last id included; nobody else can read the file."""
        first = self.open()
        self.successResultOf(first.save(self.add(first, "a/1"), 99))
        self.successResultOf(first.close())
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        second = self.open()
        found = second.get("a/1")
        assert found is not None
        self.assertEqual((found.boot, [one.id for one in found.sessions]), ({"Vendor": "ABB"}, [7]))
        self.assertEqual((second.salt, second.last_transaction_id), (first.salt, 99))

    def test_own_files(self):
        """Two connectors have two files, however alike their names are."""
        names = {file_name(name) for name in ("a", "a/", "../a", "a b", "a-b", "", "é" * 200)}
        self.assertEqual(len(names), 7)
        self.assertTrue(all("/" not in name and len(name) < 70 for name in names))

    def test_unchanged_costs_nothing(self):
        """A record that is in the file already is not written again."""
        found = self.open()
        record = self.add(found, "a/1")
        self.successResultOf(found.save(record))
        jobs = self.thread.jobs
        self.successResultOf(found.save(record))
        self.assertEqual(self.thread.jobs, jobs)

    def test_written_together(self):
        """A thousand boots while a write is under way take one more."""
        found = self.open()
        self.thread.holds = True
        jobs = self.thread.jobs
        saved = [found.save(self.add(found, f"a/{number}")) for number in range(1000)]
        for one in saved:
            self.assertNoResult(one)
        self.thread.run()
        for one in saved:
            self.successResultOf(one)
        self.assertEqual(self.thread.jobs - jobs, 2)
        self.assertEqual(len(self.rows()), 1000)

    def rows(self) -> list[str]:
        db = sqlite3.connect(self.path)
        self.addCleanup(db.close)
        return [row[0] for row in db.execute("SELECT path FROM station")]

    def test_failed_write(self):
        """It is told, fails with StoreError, and is made good by the next save although nothing changed."""
        found = self.open()
        record = self.add(found, "a/1")
        self.thread.broken = OSError("disk full")
        self.failureResultOf(found.save(record, 55), StoreError)
        self.assertEqual(self.counters.total("ocpp_state_not_written"), 1)
        self.thread.broken = None
        self.successResultOf(found.save(record, 55))
        self.assertEqual(self.rows(), ["a/1"])
        self.successResultOf(found.close())
        self.assertEqual(self.open().last_transaction_id, 55)

    def test_save_during_a_write_that_fails(self):
        """Who saves the same again while its write is under way is not told that it is kept when that write fails."""
        found = self.open()
        record = self.add(found, "a/1")
        self.thread.holds = True
        first, second = found.save(record), found.save(record)
        _, done = self.thread.held.pop(0)
        done.errback(OSError("disk full"))
        self.failureResultOf(first, StoreError)
        self.assertNoResult(second)
        self.thread.run()
        self.successResultOf(second)
        self.assertEqual(self.rows(), ["a/1"])

    def test_any_text(self):
        """No text of a boot can make a write fail, which other charge points wait for."""
        found = self.open()
        self.successResultOf(found.save(self.add(found, "a/1", "\ud800 \0 Ä \U0001f600")))
        self.successResultOf(found.close())
        again = self.open().get("a/1")
        assert again is not None
        self.assertEqual(again.boot, {"Vendor": "\ud800 \0 Ä \U0001f600"})

    def test_not_ours(self):
        """A file that is no database is moved aside, told, and begun anew."""
        for content in (b"rubbish" * 1000, b"SQLite format 3\x00" + b"\xff" * 5000):
            self.path.write_bytes(content)
            found = self.open()
            self.successResultOf(found.save(self.add(found, "a/1")))
            self.successResultOf(found.close())
            self.assertEqual(self.path.with_name(self.path.name + ".corrupt").read_bytes(), content)
            self.assertIsNotNone(self.open().get("a/1"))
        self.assertEqual(self.counters.total("ocpp_state_damaged"), 2)

    def test_other_version(self):
        """So is one of a later program."""
        db = sqlite3.connect(self.path)
        db.execute("PRAGMA user_version = 9")
        db.close()
        self.open()
        self.assertEqual(self.counters.total("ocpp_state_damaged"), 1)

    def test_single_record_damaged(self):
        """A record of another form is left out, the others are used."""
        found = self.open()
        for path in ("a/1", "a/2"):
            self.successResultOf(found.save(self.add(found, path)))
        self.successResultOf(found.close())
        db = sqlite3.connect(self.path)
        db.execute("UPDATE station SET body = '[' WHERE path = 'a/1'")
        db.commit()
        db.close()
        again = self.open()
        self.assertEqual([record.path for record in again], ["a/2"])
        self.assertEqual(self.counters.total("ocpp_state_damaged"), 1)

    def test_folder_cannot_be_written(self):
        """The charge points may come all the same; what has to be kept fails."""
        found = Stations("Car park", Path(self.data_dir) / "absent", self.thread, self.events)
        self.successResultOf(found.restore())
        self.failureResultOf(found.save(self.add(found, "a/1")), StoreError)
        self.assertGreaterEqual(self.counters.total("ocpp_state_not_written"), 1)

    def test_bounded(self):
        """Beyond the limit the one that was silent for longest is forgotten, unless it is connected."""
        found = self.open()
        with mock.patch.object(stations, "MAX_STATIONS", 3):
            for number in range(3):
                self.successResultOf(found.save(self.add(found, f"a/{number}")))
            record, forgotten = found.add("a/3", NOW_MS, lambda path: path == "a/0")
            self.assertEqual(forgotten, "a/1")
            self.successResultOf(found.save(record))
        self.assertEqual(sorted(self.rows()), ["a/0", "a/2", "a/3"])

    def test_forgotten_and_back(self):
        """One that was forgotten and comes again before that was written is kept."""
        found = self.open()
        with mock.patch.object(stations, "MAX_STATIONS", 2):
            for number in range(2):
                self.successResultOf(found.save(self.add(found, f"a/{number}")))
            found.add("a/2", NOW_MS, lambda _: False)
            self.assertEqual(found.get("a/0"), None)
            self.successResultOf(found.save(self.add(found, "a/0")))
        self.assertIn("a/0", self.rows())

    def test_passers_by_go_first(self):
        """Who only connected, and never said anything that has to be kept, pushes nobody out who did."""
        found = self.open()
        with mock.patch.object(stations, "MAX_STATIONS", 3):
            for number in range(2):
                self.successResultOf(found.save(self.add(found, f"a/{number}")))
            forgotten = [found.add(f"x/{number}", NOW_MS + 1, lambda _: False)[1] for number in range(5)]
        self.assertEqual(forgotten, [None, "x/0", "x/1", "x/2", "x/3"])

    def test_opened_again(self):
        """After it was closed and read again it keeps as before."""
        found = self.open()
        self.successResultOf(found.close())
        self.successResultOf(found.restore())
        self.successResultOf(found.save(self.add(found, "a/1")))
        self.successResultOf(found.close())
        self.assertEqual(self.rows(), ["a/1"])

    def test_not_persistent(self):
        """With `persist: false` there is no file."""
        found = Stations("Car park", Path(self.data_dir), self.thread, self.events, persist=False)
        self.successResultOf(found.restore())
        self.successResultOf(found.save(self.add(found, "a/1"), 5))
        self.successResultOf(found.close())
        self.assertEqual((list(Path(self.data_dir).iterdir()), self.thread.jobs), ([], 0))

    def test_closed(self):
        """Closing waits for what is being written; afterwards nothing is taken any more."""
        found = self.open()
        record = self.add(found, "a/1")
        self.thread.holds = True
        saved: Deferred[None] = found.save(record)
        closed = found.close()
        self.thread.run()
        self.successResultOf(saved)
        self.successResultOf(closed)
        self.failureResultOf(found.save(record), StoreError)
        self.assertEqual(self.rows(), ["a/1"])

    def test_records_of_anything(self):
        """Bodies of another form give none."""
        for body in ("", "[]", "7", "{", '"x"'):
            self.assertIsNone(record_of("p", 0, body))
        found = record_of("p", 0, '{"boot": 1, "bootStatus": 2, "name": 3, "profile": 4, "sessions": 5}')
        assert found is not None
        self.assertEqual((found.boot, found.boot_status, found.name, found.profile), ({}, None, None, "default"))
