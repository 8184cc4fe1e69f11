"""What the SQLite file does beyond the contract: it survives, keeps to itself, and says clearly what is wrong."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
import zlib
from pathlib import Path

from twisted.trial import unittest

from tbgw.errors import StoreError
from tbgw.spool import schema as schema_module
from tbgw.spool import store as store_module
from tbgw.spool.contract import PAGE_BYTES, Change, Totals, row_bytes
from tbgw.spool.records import row_crc
from tbgw.spool.store import SqliteStore
from tests.spool.fakes import NOW_MS, keep, row, sized

AMPLE = 1 << 30


class StoreCase(unittest.TestCase):
    """A folder, and stores in it that are closed in the end."""

    def setUp(self):
        self.folder = Path(self.mktemp())
        self.path = self.folder / "spool.db"

    def open(self) -> SqliteStore:
        store = SqliteStore(self.path)
        self.addCleanup(store.close, None)
        store.open()
        return store

    def refused(self) -> str:
        """The text with which opening fails; checks that nothing was left locked."""
        store = SqliteStore(self.path)
        text = str(self.assertRaises(StoreError, store.open))
        assert store._lock_fd == -1
        assert store._connection is None
        return text

    def seqs(self, store: SqliteStore) -> list[int]:
        return [found.seq for found in store.fetch(0, AMPLE, NOW_MS).rows]

    def edit(self, *statements: str) -> None:
        """What a person (or damage) does to the closed file."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        for statement in statements:
            connection.execute(statement)
        connection.close()


class SurvivalTests(StoreCase):
    """What is there after a restart."""

    def test_everything_is_there_again(self):
        """Rows, sums and the last number outlive a clean close."""
        store = self.open()
        rows = [row(1, b"a" * 10_000, messages=3), row(2), row(3, b"c")]
        store.apply(keep(*rows))
        before = store.apply(Change(deletes=[2], buried=[(rows[0], "refused")], last_seq=8)).totals
        store.close(9)
        again = SqliteStore(self.path)
        self.addCleanup(again.close, None)
        assert again.open().totals == before._replace(last_seq=9)
        assert again.fetch(0, AMPLE, NOW_MS).rows == rows[2:]

    def test_number_survives_an_empty_table(self):
        """When all rows are gone, numbers still go on from where they were."""
        store = self.open()
        store.apply(keep(row(41), row(42)))
        store.apply(Change(deletes=[41, 42], last_seq=42))
        store.close(None)
        assert SqliteStore(self.path).open().totals == Totals(42)

    def test_crash(self):
        """A copy of the files taken without a close, as a crash leaves them, holds everything that was applied."""
        store = self.open()
        store.apply(keep(row(1), row(2)))
        copy = Path(self.mktemp())
        shutil.copytree(self.folder, copy)
        after = SqliteStore(copy / "spool.db")
        self.addCleanup(after.close, None)
        assert after.open().totals.rows == 2
        assert self.seqs(after) == [1, 2]

    def test_crash_while_it_is_made(self):
        """Whatever is left of a first start that was cut off before the schema was there, the next one completes."""
        self.folder.mkdir()
        for leftovers in ((), ("PRAGMA journal_mode=WAL",), ("PRAGMA auto_vacuum=2", "PRAGMA journal_mode=WAL")):
            self.path.write_bytes(b"")
            self.edit(*leftovers)
            store = self.open()
            store.apply(keep(row(1)))
            store.close(None)
            store = self.open()
            assert self.seqs(store) == [1]
            store.close(None)

    def test_sync(self):
        """Rows are committed with a full sync, deletes alone without."""
        store = self.open()
        for change, level in ((keep(row(1)), 2), (Change(deletes=[1]), 1), (Change(buried=[(row(1), "r")]), 2)):
            store.apply(change)
            assert store._db.execute("PRAGMA synchronous").fetchone() == (level,)

    def test_settings(self):
        """The journal, the page size and the vacuum mode are those that the promises rest on."""
        store = self.open()
        for name, value in (("journal_mode", b"wal"), ("page_size", PAGE_BYTES), ("auto_vacuum", 2)):
            assert store._db.execute(f"PRAGMA {name}").fetchone() == (value,), name

    def test_the_file_shrinks_when_tended(self):
        """Once the rows are gone, tending gives nearly all pages back, some at a time, and the file is smaller."""
        store = self.open()
        store.apply(keep(*(row(n, b"x" * 50_000) for n in range(1, 1001))))
        store.apply(Change(deletes=range(1, 1001)))
        self.assertGreater(self.path.stat().st_size, 48_000_000)
        steps = 1
        while store.tend(0, None, NOW_MS).more:
            steps += 1
        self.assertGreater(steps, 5)
        self.assertLess(self.path.stat().st_size, 10_000_000)
        store.apply(keep(row(1001)))
        self.sound_and_small(store)

    def sound_and_small(self, store: SqliteStore) -> None:
        """What is left is whole, and stays so after a restart."""
        store.close(None)
        again = self.open()
        assert again._db.execute("PRAGMA integrity_check").fetchone() == (b"ok",)
        assert self.seqs(again) == [1001]

    def test_pages_in_use_are_not_moved_about(self):
        """While more than half of the file is in use, tending leaves it as it is: rows on their way out make room."""
        store = self.open()
        store.apply(keep(*(row(n, b"x" * 50_000) for n in range(1, 1001))))
        store.apply(Change(deletes=range(1, 301)))
        assert not store.tend(0, None, NOW_MS).more

    def test_free_pages_are_given_back(self):
        """After an outage the file shrinks again, step by step."""
        self.patch(store_module, "FREE_PAGES_KEPT", 50)
        self.patch(store_module, "FREE_PAGES_STEP", 100)
        self.patch(store_module, "CHANGES_PER_LOOK", 1)
        store = self.open()
        store.apply(keep(*(row(n, b"x" * 50_000) for n in range(1, 41))))
        store.apply(Change(deletes=range(1, 41)))
        (before,) = store._db.execute("PRAGMA page_count").fetchone()
        assert before > 450
        for _ in range(6):
            store.apply(Change(deletes=[1]))
        (after,) = store._db.execute("PRAGMA page_count").fetchone()
        assert after <= 100
        store.close(None)
        assert self.path.stat().st_size <= 100 * PAGE_BYTES


class AgeTests(StoreCase):
    """Ages are counted in running time, and survive."""

    def test_running_time_goes_on_after_a_restart(self):
        """What one run counted, the next goes on from; a crash costs a minute of it at most."""
        store = self.open()
        store.apply(keep(row(1))._replace(running_ms=100_000))
        store.tend(150_000, None, NOW_MS)
        store.close(None)
        again = SqliteStore(self.path)
        self.addCleanup(again.close, None)
        assert again.open().running_ms == 150_000
        assert again.tend(150_000, None, NOW_MS).oldest_running_ms == 100_000

    def test_damaged_mark(self):
        """When a mark is damaged, all ages begin anew: late is allowed, early is not."""
        for damage in ("UPDATE marks SET running_ms = 0 WHERE seq = 2", "UPDATE marks SET crc = 'x' WHERE seq = 1"):
            self.folder = Path(self.mktemp())
            self.path = self.folder / "spool.db"
            store = self.open()
            store.apply(keep(row(1))._replace(running_ms=1_000_000))
            store.apply(keep(row(2))._replace(running_ms=2_000_000))
            store.close(None)
            self.edit(damage)
            again = self.open()
            assert again.tend(3_000_000, 1_900_000, NOW_MS).expired_rows == 0
            assert again.tend(9_000_000, 8_000_000, NOW_MS).expired_rows == 2

    def test_no_mark_no_expiry(self):
        """Rows whose age is not known at all stay."""
        store = self.open()
        store.apply(keep(row(1)))
        store.close(None)
        self.edit("DELETE FROM marks")
        assert self.open().tend(10**12, 10**12, NOW_MS).expired_rows == 0

    def test_marks_are_few(self):
        """A mark for each minute in which rows came, and none for rows that are gone."""
        store = self.open()
        for second in range(600):
            store.apply(keep(row(second + 1))._replace(running_ms=second * 1000))
        assert store._db.execute("SELECT count(*) FROM marks").fetchone() == (10,)
        store.apply(Change(deletes=range(1, 541)))
        store.tend(600_000, None, NOW_MS)
        assert store._db.execute("SELECT count(*) FROM marks").fetchone() == (1,)


class UpgradeTests(StoreCase):
    """A file of an older schema."""

    def old(self) -> None:
        """A file as version 1 of the schema had it, with a row, a dead letter, and room between the numbers."""
        self.folder.mkdir()
        schema = Path(store_module.__file__).with_name("schema_v1.sql").read_text()
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(f"BEGIN;\n{schema}\nCOMMIT;")
        one, size = row(5, b"old"), row_bytes(row(5, b"old"))
        devices = '["Meter 1"]'
        crc = row_crc(5, one.topic.encode(), devices.encode(), 1, 2, size, b"old")
        values = (5, NOW_MS, one.topic, devices, 1, 2, size, crc, b"old")
        connection.execute("INSERT INTO rows VALUES (?,?,?,?,?,?,?,?,?)", values)
        dead = (1, 3, NOW_MS, "refused", one.topic, devices, 1, 2, size, b"old")
        connection.execute("INSERT INTO dead_letters VALUES (?,?,?,?,?,?,?,?,?,?)", dead)
        sums = (7, 1, 1, size, 1, size)
        connection.execute(
            "INSERT OR REPLACE INTO meta VALUES (1,?,?,?,?,?,?,?)", (*sums, zlib.crc32(b"%d %d %d %d %d %d" % sums))
        )
        connection.close()

    def dump(self, path: Path, *, without: tuple[str, ...] = ()) -> list[str]:
        connection = sqlite3.connect(path)
        lines = [line for line in connection.iterdump() if not line.startswith(tuple(without))]
        lines += [str(connection.execute(f"PRAGMA {name}").fetchone()) for name in ("user_version", "application_id")]
        connection.close()
        return lines

    def test_upgraded_equals_fresh(self):
        """The dump of an upgraded file is that of a new one with the same content, marks (the ages) aside."""
        self.old()
        store = SqliteStore(self.path)
        opened = store.open()
        size = row_bytes(row(5, b"old"))
        assert (opened.upgraded_from, opened.totals) == (1, Totals(7, 1, 1, size, 1, size))
        assert store.fetch(0, AMPLE, NOW_MS).rows == [row(5, b"old")]
        store.close(None)
        upgraded = self.dump(self.path, without=('INSERT INTO "marks"',))
        self.path = Path(self.mktemp()) / "fresh.db"
        fresh = self.open()
        buried = [(row(3, b"old"), "refused")]
        fresh.apply(Change(rows=sized([row(5, b"old")]), buried=buried, last_seq=7, now_ms=NOW_MS))
        fresh.close(None)
        assert upgraded == self.dump(self.path, without=('INSERT INTO "marks"',))

    def test_a_copy_is_made_first(self):
        """The file as it was is kept beside, private, as one file that the old version could open."""
        self.old()
        before = self.dump(self.path)
        store = self.open()
        copy = self.folder / "spool.db.schema1"
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert self.dump(copy) == before
        store.close(None)
        again = SqliteStore(self.path)
        assert again.open().upgraded_from == 0
        again.close(None)

    def test_a_crash_on_the_way(self):
        """A kill during the copy or the upgrade leaves the old file, and the next start upgrades it."""
        self.old()
        (self.folder / "spool.db.copying").write_bytes(b"half a copy")
        self.patch(schema_module, "_carry_over", lambda connection: connection.execute("SELECT nothing"))
        assert "nothing" in self.refused()
        connection = sqlite3.connect(self.path)
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        connection.close()
        self.mend()
        assert self.seqs(self.open()) == [5]
        assert not (self.folder / "spool.db.copying").exists()

    def mend(self) -> None:
        self.patch(schema_module, "_carry_over", CARRY_OVER)

    def test_no_room_for_the_copy(self):
        """Without room for the copy nothing is upgraded, and it says so."""
        self.old()
        before = self.dump(self.path)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, hard))
        try:
            text = self.refused()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert f"cannot open the store {self.path}: " in text
        assert self.dump(self.path) == before

    def test_old_rows_age_from_the_upgrade(self):
        """Rows of a file that knew no ages are as old as the upgrade."""
        self.old()
        store = self.open()
        assert store.tend(1_000, 0, NOW_MS).expired_rows == 0
        assert store.tend(1_000_000, 500_000, NOW_MS).expired_rows == 1


CARRY_OVER = schema_module._carry_over


class PrivacyTests(StoreCase):
    """Nobody else reads the store (P-13)."""

    def test_modes_whatever_the_umask(self):
        """All files are 0600 and the folders that were made 0700, under any umask."""
        for umask in (0, 0o022, 0o077, 0o277):
            self.addCleanup(os.umask, os.umask(umask))
            top = Path(self.mktemp())
            self.path = top / "deep" / "spool.db"
            top.parent.mkdir(mode=0o700, exist_ok=True)
            store = self.open()
            store.apply(keep(row(1)))
            names = sorted(entry.name for entry in self.path.parent.iterdir())
            assert names == ["spool.db", "spool.db-shm", "spool.db-wal", "spool.db.lock", "spool.db.reserve"]
            for entry in self.path.parent.iterdir():
                assert stat.S_IMODE(entry.stat().st_mode) == 0o600, (entry, umask)
            for folder in (top, top / "deep"):
                assert stat.S_IMODE(folder.stat().st_mode) == 0o700, (folder, umask)
            store.close(None)

    def test_existing_files_are_narrowed(self):
        """Files that are wider, e.g. restored from a backup, are narrowed at the next start."""
        store = self.open()
        store.apply(keep(row(1)))
        copy = Path(self.mktemp())
        shutil.copytree(self.folder, copy)
        store.close(None)
        for entry in copy.iterdir():
            entry.chmod(0o644)
        self.path = copy / "spool.db"
        self.open()
        assert {stat.S_IMODE(entry.stat().st_mode) for entry in copy.iterdir()} == {0o600}

    def test_existing_folder_is_left(self):
        """A folder that was there keeps its mode: it may hold other things."""
        self.folder.mkdir(0o755)
        self.folder.chmod(0o755)
        self.open()
        assert stat.S_IMODE(self.folder.stat().st_mode) == 0o755


class LockTests(StoreCase):
    """One process at a time."""

    def test_second_store(self):
        """A second one is refused, with the lock named, and may open when the first has closed."""
        first = self.open()
        text = self.refused()
        assert f"{self.path}.lock" in text
        assert str(os.getpid()) in text
        first.close(None)
        self.open()

    def test_second_process(self):
        """Another process is refused while we have it, and we while it has it; its death frees the lock."""
        script = (
            "import sys\nfrom tbgw.errors import StoreError\nfrom tbgw.spool.store import SqliteStore\n"
            "try:\n    SqliteStore(sys.argv[1]).open()\nexcept StoreError as error:\n    print('refused', error)\n"
            "else:\n    print('open')\nsys.stdout.flush()\nsys.stdin.read()\n"
        )
        command = [sys.executable, "-c", script, os.fspath(self.path)]

        def start() -> subprocess.Popen[str]:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={"PYTHONPATH": os.pathsep.join(sys.path)},
            )
            self.addCleanup(child.communicate)
            self.addCleanup(child.kill)
            return child

        first = self.open()
        child = start()
        assert child.stdout is not None
        line = child.stdout.readline()
        assert line.startswith("refused")
        assert f"{self.path}.lock" in line
        first.close(None)
        child = start()
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        assert f"process {child.pid} holds" in self.refused()
        child.kill()
        child.wait()
        self.open()


class RefusalTests(StoreCase):
    """What cannot be opened is refused in clear words, and left as it is."""

    def untouched(self, expected: str) -> None:
        before = self.path.read_bytes()
        text = self.refused()
        assert expected in text, text
        assert str(self.path) in text
        assert self.path.read_bytes() == before

    def test_newer_schema(self):
        """A file of a newer version is not touched."""
        self.open().close(None)
        self.edit("PRAGMA user_version=3")
        self.untouched("newer version of the gateway (schema 3, this one knows 2)")

    def test_unknown_schema(self):
        """Nor is one with a version that never was."""
        self.open().close(None)
        self.edit("PRAGMA user_version=-1")
        self.untouched("unknown schema -1")

    def test_database_of_another_program(self):
        """Somebody else's database is not taken for an empty store."""
        self.folder.mkdir()
        self.edit("CREATE TABLE messages (id)")
        self.untouched("database of another program")

    def test_not_a_database(self):
        """Nor is any other file."""
        self.folder.mkdir()
        self.path.write_bytes(b"This is not a database. " * 300)
        self.untouched("it is not a database")

    def test_missing_table(self):
        """Our own file without its tables is refused."""
        self.open().close(None)
        self.edit("DROP TABLE rows")
        self.untouched("no such table: rows")

    def test_damaged_first_page(self):
        """A damaged schema is refused."""
        self.open().close(None)
        content = bytearray(self.path.read_bytes())
        content[100:PAGE_BYTES] = b"\xa5" * (PAGE_BYTES - 100)
        self.path.write_bytes(content)
        self.untouched("the file is damaged")

    def test_folder_in_place_of_the_file(self):
        """A folder of the same name is refused."""
        self.path.mkdir(parents=True)
        assert "Is a directory" in self.refused()

    def test_file_in_place_of_the_folder(self):
        """A file in place of a folder is refused."""
        self.folder.write_text("")
        assert f"cannot open the store {self.path}: " in self.refused()

    def test_permission(self):
        """A folder in which we may not write is refused; done in a process that is not root."""
        self.folder.mkdir(mode=0o755)
        if os.getuid() == 0:
            os.chown(self.folder, 0, 0)
            drop = "os.setgroups([]); os.setgid(65534); os.setuid(65534)"
        else:
            self.folder.chmod(0o555)
            drop = "pass"
        script = (
            "import os, sys\nfrom tbgw.errors import StoreError\nfrom tbgw.spool.store import SqliteStore\n"
            f"os.chdir(sys.argv[1]); {drop}\n"
            "try:\n    SqliteStore('spool.db').open()\nexcept StoreError as error:\n    print(error)\n"
        )
        ran = subprocess.run(
            [sys.executable, "-c", script, os.fspath(self.folder)],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert ran.stdout.startswith("cannot open the store spool.db: no permission"), ran


class FullDiskTests(StoreCase):
    """A disk that is full costs what is new, never what was accepted."""

    def fill(self, store: SqliteStore) -> int:
        """Append until it fails; the last number that was kept."""
        for seq in range(1, 2000):
            try:
                store.apply(keep(row(seq, b"x" * 3000)))
            except StoreError as error:
                self.text = str(error)
                return seq - 1
        raise AssertionError("never full")

    def test_page_limit(self):
        """SQLite's own limit of pages: the text says disk full, and all that was accepted is there after a reopen."""
        store = self.open()
        store._db.execute("PRAGMA max_page_count=60")
        kept = self.fill(store)
        assert kept > 20
        assert self.text == f"cannot write the store {self.path}: disk full: no space is left on its file system"
        store.close(kept)
        assert self.seqs(self.open()) == list(range(1, kept + 1))

    def test_nothing_of_a_failed_change(self):
        """A change that fails half-way leaves nothing of itself: neither its rows nor its deletes."""
        store = self.open()
        store.apply(keep(row(1), row(2)))
        store._db.execute("PRAGMA max_page_count=20")
        change = Change(deletes=[1], rows=sized(row(n, b"x" * 9000) for n in range(3, 60)), last_seq=59)
        self.assertRaises(StoreError, store.apply, change)
        store.close(None)
        again = SqliteStore(self.path)
        self.addCleanup(again.close, None)
        assert again.open().totals == Totals(2, 2, 2, 2 * row_bytes(row(1)))
        assert self.seqs(again) == [1, 2]

    def mount(self, size: str):
        """A small tmpfs in the place of the folder."""
        self.folder.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", os.fspath(self.folder.resolve())],
            capture_output=True,
            check=False,
        )
        if mounted.returncode:
            raise unittest.SkipTest("may not mount a tmpfs here")
        self.addCleanup(subprocess.run, ["umount", "-l", os.fspath(self.folder.resolve())], check=True)

    def test_deletes_on_a_full_disk(self):
        """Another program takes all the room: deletes go on, rows are refused, and it is normal again by itself."""
        self.mount("8m")
        store = self.open()
        for n in range(1, 1001):
            store.apply(keep(row(n, b"x" * 2000)))
        store.close(1000)
        store = self.open()
        reserve = self.folder / "spool.db.reserve"
        assert reserve.stat().st_blocks * 512 >= 1024 * 1024
        other = self.folder / "other"
        with other.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 4096):
                pass
        assert all(store.apply(Change(deletes=[n])).draining for n in range(1, 10))
        assert not reserve.exists()
        store.close(1000)
        again = SqliteStore(self.path)
        assert again.open().draining
        assert again.apply(Change(deletes=list(range(10, 900)))).totals.rows == 101
        other.unlink()
        assert not again.tend(0, None, 0).draining
        assert reserve.exists()
        again.apply(keep(row(1001, b"x" * 2000)))
        again.close(None)
        assert self.seqs(self.open()) == list(range(900, 1002))

    def test_real_file_system(self):
        """The same on a small tmpfs filled to the brim, where the log and the file meet ENOSPC."""
        self.mount("2m")
        spare = self.folder / "spare"
        spare.write_bytes(b"x" * 200_000)
        store = self.open()
        kept = self.fill(store)
        assert kept > 50
        assert "disk full" in self.text or "input/output error" in self.text, self.text
        store.close(kept)
        spare.unlink()
        again = self.open()
        assert self.seqs(again) == list(range(1, kept + 1))
        again.close(None)


class DamageTests(StoreCase):
    """A damaged record costs that record."""

    def filled(self, count: int, length: int) -> list[bytes]:
        """A closed store with rows of different content; their payloads."""
        store = self.open()
        source = random.Random(7)
        payloads = [source.randbytes(length) for _ in range(count)]
        store.apply(keep(*(row(n, payload) for n, payload in enumerate(payloads, 1))))
        store.close(None)
        return payloads

    def test_each_column(self):
        """Whatever column is not what was written, the row is put aside and the others come."""
        changes = (
            "devices = '[\"Meter 1\"'", "devices = 17", "devices = '[\"Meter 2\"]'", "topic = X'ff00'", "topic = 3",
            "messages = 2", "messages = 'many'", "points = 9", "bytes = 1", "bytes = -8000000000", "bytes = 'big'",
            "crc = crc + 1", "payload = 'text'", "payload = X''", "payload = 5",
        )  # fmt: skip
        self.filled(len(changes) + 2, 300)
        for seq, change in enumerate(changes, 2):
            self.edit(f"UPDATE rows SET {change} WHERE seq = {seq}")  # noqa: S608 - from the list above
        store = self.open()
        fetched = store.fetch(0, AMPLE, NOW_MS)
        assert [found.seq for found in fetched.rows] == [1, len(changes) + 2]
        assert list(fetched.unreadable) == list(range(2, len(changes) + 2))
        assert (fetched.totals.rows, fetched.totals.dead_rows) == (2, len(changes))
        assert store.fetch(0, AMPLE, NOW_MS).unreadable == []
        totals = store.apply(Change(deletes=[1, len(changes) + 2])).totals
        assert (totals.rows, totals.messages, totals.bytes) == (0, 0, 0)
        reasons = store._db.execute("SELECT DISTINCT reason FROM dead_letters").fetchall()
        assert reasons == [(b"unreadable",)]

    def test_many_unreadable_rows(self):
        """Good rows are found behind any number of damaged ones, and damaged ones obey the dead letters' cap."""
        self.patch(store_module, "UNREADABLE_STEP", 5)
        self.filled(32, 20)
        self.edit("UPDATE rows SET crc = 0 WHERE seq < 32")
        store = SqliteStore(self.path, max_dead_letters=10)
        self.addCleanup(store.close, None)
        store.open()
        fetched = store.fetch(0, 1, NOW_MS)
        assert [found.seq for found in fetched.rows] == [32]
        assert len(fetched.unreadable) == 31
        assert (fetched.dead_dropped, fetched.totals.dead_rows) == (21, 10)

    def test_sums(self):
        """When the record of sums is damaged or gone, they are counted anew."""
        self.filled(3, 100)
        expected = Totals(3, 3, 3, 3 * row_bytes(row(1, b"x" * 100)))
        for statement in ("UPDATE meta SET bytes = bytes + 1", "UPDATE meta SET rows = 'x'", "DELETE FROM meta"):
            self.edit(statement)
            store = SqliteStore(self.path)
            assert store.open().totals == expected
            store.apply(Change(last_seq=3))
            store.close(None)

    def leaf_pages(self) -> list[int]:
        connection = sqlite3.connect(self.path)
        connection.text_factory = str
        try:
            found = connection.execute(
                "SELECT pageno FROM dbstat WHERE name = 'rows' AND pagetype = 'leaf' ORDER BY path"
            ).fetchall()
        except sqlite3.OperationalError:
            raise unittest.SkipTest("this SQLite has no dbstat") from None
        finally:
            connection.close()
        return [number for (number,) in found]

    def spoil(self, page: int) -> None:
        with self.path.open("r+b") as file:
            file.seek((page - 1) * PAGE_BYTES)
            file.write(b"\xff" * PAGE_BYTES)

    def test_page(self):
        """Rows on a page that is gone are skipped and told; all others come and can be deleted; new ones are taken."""
        payloads = self.filled(60, 600)
        pages = self.leaf_pages()
        self.spoil(pages[3])
        store = self.open()
        fetched = store.fetch(0, AMPLE, NOW_MS)
        found = [one.seq for one in fetched.rows]
        ((first, last),) = fetched.damaged
        assert found == [n for n in range(1, 61) if not first <= n <= last]
        assert 1 <= last - first + 1 <= 7
        assert all(one.payload == payloads[one.seq - 1] for one in fetched.rows)
        applied = store.apply(Change(deletes=range(1, 59), rows=sized([row(61)]), last_seq=61))
        assert list(applied.damaged) == [(first, last)]
        assert (applied.totals.rows, applied.totals.last_seq) == (3, 61)
        after = store.fetch(0, AMPLE, NOW_MS)
        assert [one.seq for one in after.rows] == [59, 60, 61]
        assert after.damaged == []
        self.sound(store, 3)

    def sound(self, store: SqliteStore, count: int) -> None:
        """The store is as good as new: private, whole, and the same after a restart."""
        store.close(None)
        names = sorted(entry.name for entry in self.folder.iterdir())
        assert names == ["spool.db", "spool.db.lock", "spool.db.reserve"]
        assert stat.S_IMODE(self.path.stat().st_mode) == 0o600
        again = self.open()
        assert again._db.execute("PRAGMA integrity_check").fetchone() == (b"ok",)
        assert len(self.seqs(again)) == count

    def test_last_page(self):
        """The end of the table, where new rows would go, is rebuilt at open; numbers go on from where they were."""
        self.filled(60, 600)
        store = self.open()
        store.apply(Change(buried=[(row(1), "refused")], last_seq=65))
        store.close(None)
        self.spoil(self.leaf_pages()[-1])
        store = SqliteStore(self.path)
        self.addCleanup(store.close, None)
        totals, damaged, *_ = store.open()
        ((first, last),) = damaged
        assert last == 65
        assert 53 < first < 61
        assert (totals.last_seq, totals.rows, totals.dead_rows) == (65, first - 2, 1)
        store.apply(keep(row(66)))
        self.sound(store, first - 1)

    def test_rebuild_without_room(self):
        """When there is no room to rebuild, it says so and leaves the old file and no other."""
        self.filled(60, 600)
        self.spoil(self.leaf_pages()[3])
        store = self.open()
        before = self.path.read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (35_000, hard))
        try:
            error = self.assertRaises(StoreError, store.apply, Change(deletes=range(1, 61)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        self.assertIn(f"cannot write the store {self.path}: input/output error", str(error))
        store.close(None)
        assert self.path.read_bytes() == before
        names = sorted(entry.name for entry in self.folder.iterdir())
        assert names == ["spool.db", "spool.db.lock", "spool.db.reserve"]

    def test_bit_flips(self):
        """
        One bit anywhere in the file: it is refused in clear words, or what comes out is exactly what went in, and no
        more than the rows of one page are missing.
        """
        payloads = self.filled(30, 1500)
        content = self.path.read_bytes()
        source = random.Random(1)
        outcomes = {"refused": 0, "whole": 0, "part": 0}
        for _ in range(150):
            flipped = bytearray(content)
            flipped[source.randrange(len(content))] ^= 1 << source.randrange(8)
            for entry in self.folder.iterdir():
                entry.unlink()
            self.path.write_bytes(flipped)
            store = SqliteStore(self.path)
            try:
                store.open()
            except StoreError:
                outcomes["refused"] += 1
                continue
            fetched = store.fetch(0, AMPLE, NOW_MS)
            store.close(None)
            assert all(one.payload == payloads[one.seq - 1] for one in fetched.rows)
            missing = 30 - len(fetched.rows)
            outcomes["part" if missing else "whole"] += 1
            if missing > 2:  # two such rows share a page, and damage to a page's own bytes costs both
                assert fetched.damaged, missing
        assert outcomes["part"] > 60, outcomes
        assert outcomes["refused"] < 30, outcomes
