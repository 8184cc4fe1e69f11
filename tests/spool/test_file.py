"""What the file store does beyond the contract: it survives, keeps to itself, and loses one record to damage."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

from twisted.trial import unittest

from tbgw.errors import StoreError
from tbgw.spool import file as file_module
from tbgw.spool.contract import Change, Totals
from tbgw.spool.file import FileStore
from tests.spool.fakes import NOW_MS, keep, row

AMPLE = 1 << 30


class FileCase(unittest.TestCase):
    """A folder, and stores in it that are closed in the end."""

    def setUp(self):
        self.folder = Path(self.mktemp())

    def open(self) -> FileStore:
        store = FileStore(self.folder)
        self.addCleanup(store.close, None)
        store.open()
        return store

    def segments(self) -> list[Path]:
        return sorted(self.folder.glob("tbgw-*.log"))

    def seqs(self, store: FileStore) -> list[int]:
        return [found.seq for found in store.fetch(0, AMPLE, NOW_MS).rows]


class SurvivalTests(FileCase):
    """What is there after a restart."""

    def test_everything_is_there_again(self):
        """Rows, dead letters, sums, running time and the last number outlive a clean close."""
        store = self.open()
        rows = [row(1, b"a" * 10_000, messages=3), row(2), row(3, b"\xf5tbg c")]
        store.apply(keep(*rows)._replace(running_ms=500))
        before = store.apply(Change(deletes=[2], buried=[(rows[0], "refused")], last_seq=8)).totals
        letters = store.dead_letters(0, AMPLE)
        store.close(9)
        again = FileStore(self.folder)
        self.addCleanup(again.close, None)
        opened = again.open()
        assert (opened.totals, opened.running_ms) == (before._replace(last_seq=9), 500)
        assert again.fetch(0, AMPLE, NOW_MS).rows == rows[2:]
        assert again.dead_letters(0, AMPLE) == letters

    def test_cut_anywhere(self):
        """A file that ends at any byte holds exactly the changes that were complete, and takes new ones."""
        store = self.open()
        (path,) = self.segments()
        ends = [path.stat().st_size]
        for change in (keep(row(1), row(2)), Change(deletes=[1]), Change(buried=[(row(2), "r")]), keep(row(3))):
            store.apply(change)
            ends.append(path.stat().st_size)
        store.close(None)
        content = path.read_bytes()
        expected = [[], [1, 2], [2], [], [3]]
        for length in range(ends[0], len(content)):
            path.write_bytes(content[:length])
            store = self.open()
            done = sum(end <= length for end in ends) - 1
            assert self.seqs(store) == expected[done], length
            assert store.apply(keep(row(9))).totals.rows == len(expected[done]) + 1
            store.close(None)

    def test_segments_go_when_nothing_in_them_is_kept(self):
        """The folder does not grow while rows come and go, and dead letters move on."""
        self.patch(file_module, "SEGMENT_BYTES", 20_000)
        store = self.open()
        store.apply(Change(buried=[(row(0, b"dead"), "refused")]))
        for n in range(1, 301):
            store.apply(keep(row(n, b"x" * 1000)))
            store.apply(Change(deletes=[n]))
        assert len(self.segments()) <= 2
        assert [one.row.payload for one in store.dead_letters(0, AMPLE)] == [b"dead"]
        store.close(None)
        assert [one.row.payload for one in self.open().dead_letters(0, AMPLE)] == [b"dead"]

    def test_a_stuck_row_does_not_hold_the_folder(self):
        """A row that is never delivered moves on, and keeps its place in the order, also after a restart."""
        self.patch(file_module, "SEGMENT_BYTES", 20_000)
        store = self.open()
        store.apply(keep(row(1, b"stuck"), row(2)))
        for n in range(3, 401):
            store.apply(keep(row(n, b"x" * 1000)))
            if n > 3:
                store.apply(Change(deletes=[n - 1]))
        assert len(self.segments()) <= 7
        assert self.seqs(store) == [1, 2, 400]
        store.close(None)
        assert self.seqs(self.open()) == [1, 2, 400]


class RefusalTests(FileCase):
    """One process, one version, one owner."""

    def test_second_store(self):
        """A second one is refused, with the lock named."""
        self.open()
        assert "tbgw.lock" in str(self.assertRaises(StoreError, FileStore(self.folder).open))

    def test_newer_format(self):
        """A folder of a newer version is left as it is."""
        self.patch(file_module, "FORMAT", 2)
        store = self.open()
        store.close(None)
        self.patch(file_module, "FORMAT", 1)
        before = self.segments()[0].read_bytes()
        assert "newer version" in str(self.assertRaises(StoreError, FileStore(self.folder).open))
        assert self.segments()[0].read_bytes() == before

    def test_modes(self):
        """Files are 0600 and the folder 0700, under any umask."""
        self.addCleanup(os.umask, os.umask(0o022))
        self.open().apply(keep(row(1)))
        assert {stat.S_IMODE(entry.stat().st_mode) for entry in self.folder.iterdir()} == {0o600}
        assert stat.S_IMODE(self.folder.stat().st_mode) == 0o700

    def test_other_files_are_left_alone(self):
        """The reference's own files, and anybody's, are not ours to read or remove."""
        self.folder.mkdir()
        (self.folder / "data_1.txt").write_text("theirs")
        store = self.open()
        store.apply(keep(row(1)))
        store.close(None)
        assert (self.folder / "data_1.txt").read_text() == "theirs"

    def test_empty(self):
        """Opening and closing without a row leaves nothing but the last number."""
        self.open().close(7)
        assert self.open().apply(Change()).totals == Totals(7)


class DamageTests(FileCase):
    """A damaged record costs that record."""

    def test_bit_flips(self):
        """One bit anywhere but in the last change: what comes out is what went in, and one row at most is missing."""
        store = self.open()
        source = random.Random(7)
        payloads = [source.randbytes(500) for _ in range(30)]
        for n, payload in enumerate(payloads, 1):
            store.apply(keep(row(n, payload)))
            size = self.segments()[0].stat().st_size
        store.apply(keep(row(31)))
        store.close(None)
        (path,) = self.segments()
        content = path.read_bytes()
        losses = 0
        for _ in range(200):
            flipped = bytearray(content)
            flipped[source.randrange(size)] ^= 1 << source.randrange(8)
            path.write_bytes(flipped)
            store = FileStore(self.folder)
            store.open()
            fetched = store.fetch(0, AMPLE, NOW_MS)
            store.close(None)
            assert all(one.payload == payloads[one.seq - 1] for one in fetched.rows if one.seq < 31)
            assert len(fetched.rows) >= 30
            losses += 31 - len(fetched.rows)
        assert losses > 150

    def test_damage_is_told_at_opening(self):
        """The numbers that are lost are named."""
        store = self.open()
        offsets = []
        for n in range(1, 6):
            offsets.append(self.segments()[0].stat().st_size)
            store.apply(keep(row(n, b"x" * 100)))
        store.close(None)
        self.spoil(offsets[2] + 60)
        store = FileStore(self.folder)
        self.addCleanup(store.close, None)
        assert store.open().damaged == [(3, 3)]
        assert self.seqs(store) == [1, 2, 4, 5]

    def spoil(self, offset: int) -> None:
        with self.segments()[0].open("r+b") as file:
            file.seek(offset)
            file.write(b"\xff\xff\xff")

    def test_damage_while_it_runs(self):
        """A row that is found damaged when it is read goes to the dead letters, and is counted as unreadable."""
        store = self.open()
        store.apply(keep(row(1, b"x" * 100), row(2)))
        self.spoil(store._rows[1].offset + 80)
        fetched = store.fetch(0, AMPLE, NOW_MS)
        assert ([one.seq for one in fetched.rows], list(fetched.unreadable)) == ([2], [1])
        assert dict(store.tend(0, None, NOW_MS).dead_reasons) == {"unreadable": 1}
        assert store.fetch(0, AMPLE, NOW_MS).unreadable == []
