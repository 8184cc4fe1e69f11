"""One suite for every store: what `tbgw.spool.contract.Store` says."""

from __future__ import annotations

from pathlib import Path

from twisted.trial import unittest

from tbgw.model import Draft
from tbgw.spool.contract import EXPIRE_STEP, MARK_MS, PAGE_BYTES, Change, Store, Totals, row_bytes
from tbgw.spool.file import FileStore
from tbgw.spool.memory import MemoryStore
from tbgw.spool.store import SqliteStore
from tests.spool.fakes import NOW_MS, draft, keep, row

AMPLE = 1 << 30


class StoreContract:
    """Mixed into a TestCase that says how to make a store."""

    store: Store

    def make(self, max_dead_letters: int = 100, max_dead_bytes: int = AMPLE) -> Store:
        raise NotImplementedError

    def seqs(self, after: int = 0, max_bytes: int = AMPLE) -> list[int]:
        return [found.seq for found in self.store.fetch(after, max_bytes, NOW_MS).rows]

    def test_empty(self):
        """A new store holds nothing and has given out no number."""
        assert self.store.open().totals == Totals()
        assert self.store.fetch(0, AMPLE, NOW_MS).rows == []

    def test_keeps_whole_rows(self):
        """What is fetched equals what was appended, whatever is in it."""
        self.store.open()
        rows = [
            row(1, b""),
            row(2, bytes(range(256)) * 300, ("Zähler ü", "a\nb", '"', "\ud800", ""), 7),
            row(3, b"x", ()),
        ]
        self.store.apply(keep(*rows))
        assert self.store.fetch(0, AMPLE, NOW_MS).rows == rows

    def test_many_rows_in_one_change(self):
        """A change of any length is kept in order, also where it is cut into several statements."""
        self.store.open()
        done = 0
        for count in (1, 7, 8, 9, 31, 32, 33, 73):
            self.store.apply(keep(*(row(done + n, b"%d" % n) for n in range(1, count + 1))))
            done += count
        assert self.seqs() == list(range(1, done + 1))

    def test_totals(self):
        """The sums follow every change."""
        self.store.open()
        big, small = row(1, b"x" * 9000, messages=5), row(2, b"y", messages=2)
        totals = self.store.apply(keep(big, small)).totals
        assert totals == Totals(2, 2, 7, row_bytes(big) + row_bytes(small))
        totals = self.store.apply(Change(deletes=[1], last_seq=9)).totals
        assert totals == Totals(9, 1, 2, row_bytes(small))
        totals = self.store.apply(Change(deletes=[2], last_seq=3)).totals
        assert totals == Totals(9)

    def test_delete(self):
        """Exactly the named rows go; unknown and repeated numbers do no harm."""
        self.store.open()
        self.store.apply(keep(*(row(n) for n in range(1, 11))))
        totals = self.store.apply(Change(deletes=[3, 4, 5, 9, 3, 77, 0, 1])).totals
        assert self.seqs() == [2, 6, 7, 8, 10]
        assert totals.rows == 5
        assert totals.messages == 5

    def test_delete_comes_before_append(self):
        """A number deleted in the same change never takes the row that is appended under it."""
        self.store.open()
        self.store.apply(Change(deletes=[1], rows=keep(row(1)).rows, last_seq=1))
        assert self.seqs() == [1]

    def test_fetch_from(self):
        """Only rows above the given number come, also when that number is gone."""
        self.store.open()
        self.store.apply(keep(*(row(n) for n in range(1, 7))))
        self.store.apply(Change(deletes=[3]))
        assert self.seqs(2) == [4, 5, 6]
        assert self.seqs(3) == [4, 5, 6]
        assert self.seqs(6) == []
        assert self.seqs(600) == []

    def test_fetch_limit(self):
        """A fetch ends before the row that would exceed the limit, but always gives one."""
        self.store.open()
        rows = [row(n, b"x" * 5000) for n in range(1, 5)]
        size = row_bytes(rows[0])
        self.store.apply(keep(*rows))
        assert self.seqs(0, 0) == [1]
        assert self.seqs(0, 2 * size - 1) == [1]
        assert self.seqs(0, 2 * size) == [1, 2]
        assert self.seqs(1, 2 * size + 1) == [2, 3]

    def test_bury(self):
        """A buried row leaves the queue and counts with the dead letters."""
        self.store.open()
        self.store.apply(keep(row(1), row(2, messages=3)))
        applied = self.store.apply(Change(buried=[(row(1), "too_large")]))
        assert self.seqs() == [2]
        assert applied.totals == Totals(2, 1, 3, row_bytes(row(2)), 1, row_bytes(row(1)))

    def test_bury_in_the_change_that_appends(self):
        """A row may be buried in the very change that brings it."""
        self.store.open()
        totals = self.store.apply(keep(row(1), row(2))._replace(buried=[(row(2), "refused")])).totals
        assert self.seqs() == [1]
        assert (totals.rows, totals.dead_rows) == (1, 1)

    def test_bury_unknown(self):
        """A row that is not in the store any more is buried all the same, and nothing is subtracted."""
        self.store.open()
        totals = self.store.apply(Change(buried=[(row(5), "refused")])).totals
        assert (totals.rows, totals.bytes, totals.dead_rows) == (0, 0, 1)

    def test_dead_letters_are_capped_in_rows(self):
        """Beyond their number the oldest dead letters go, and are counted."""
        store = self.store = self.make(max_dead_letters=2)
        store.open()
        assert store.apply(Change(buried=[(row(1), "r"), (row(2), "r")])).dead_dropped == 0
        applied = store.apply(Change(buried=[(row(3), "r"), (row(4), "r"), (row(5), "r")]))
        assert applied.dead_dropped == 3
        assert (applied.totals.dead_rows, applied.totals.dead_bytes) == (2, 2 * row_bytes(row(1)))

    def test_dead_letters_are_capped_in_bytes(self):
        """Beyond their bytes the oldest dead letters go; one that is too large alone does not stay."""
        big = row(1, b"x" * 6000)
        store = self.store = self.make(max_dead_bytes=2 * row_bytes(big))
        store.open()
        store.apply(Change(buried=[(big, "r"), (big, "r")]))
        applied = store.apply(Change(buried=[(row(3), "r")]))
        assert (applied.dead_dropped, applied.totals.dead_rows) == (1, 2)
        applied = store.apply(Change(buried=[(row(4, b"x" * 20000), "r")]))
        assert (applied.dead_dropped, applied.totals.dead_rows, applied.totals.dead_bytes) == (3, 0, 0)

    def test_drop_oldest_for_bytes(self):
        """With a cap in the change, just as many of the oldest rows go as have to."""
        self.store.open()
        rows = [row(n, b"x" * 5000, messages=n) for n in range(1, 7)]
        size = row_bytes(rows[0])
        assert self.store.apply(keep(*rows[:4], max_bytes=4 * size)).dropped_rows == 0
        applied = self.store.apply(keep(*rows[4:], max_bytes=4 * size))
        assert (applied.dropped_rows, applied.dropped_messages, applied.dropped_to_seq) == (2, 3, 2)
        assert self.seqs() == [3, 4, 5, 6]
        assert applied.totals == Totals(6, 4, 18, 4 * size)

    def test_drop_oldest_for_messages(self):
        """The cap in messages works alike, and is not exceeded when rows are uneven."""
        self.store.open()
        self.store.apply(keep(row(1, messages=1), row(2, messages=8), row(3, messages=1)))
        applied = self.store.apply(keep(row(4, messages=3), max_messages=11))
        assert (applied.dropped_rows, applied.dropped_to_seq) == (2, 2)
        assert applied.totals.messages == 4

    def test_drop_counts_what_the_same_change_deletes_first(self):
        """Deletes of the same change make room before anything is dropped."""
        self.store.open()
        self.store.apply(keep(row(1), row(2)))
        change = keep(row(3), max_bytes=2 * row_bytes(row(1)))._replace(deletes=[1])
        assert self.store.apply(change).dropped_rows == 0
        assert self.seqs() == [2, 3]

    def test_expiry(self):
        """Rows go once they are surely too old, the oldest first; never early, and at most a minute late."""
        self.store.open()
        self.store.apply(keep(row(1), row(2, messages=3))._replace(running_ms=1_000_000))
        self.store.apply(keep(row(3))._replace(running_ms=1_000_000 + MARK_MS))
        self.store.apply(keep(row(4))._replace(running_ms=5_000_000))
        now = 9_000_000
        assert self.store.tend(now, None, NOW_MS).expired_rows == 0
        tended = self.store.tend(now, 1_000_000, NOW_MS)
        assert (tended.expired_rows, tended.oldest_running_ms) == (0, 1_000_000)
        tended = self.store.tend(now, 1_000_000 + MARK_MS, NOW_MS)
        assert (tended.expired_rows, tended.expired_messages, tended.expired_to_seq) == (2, 4, 2)
        assert tended.totals.rows == 2
        assert self.seqs() == [3, 4]
        tended = self.store.tend(now, 5_000_000 - 1, NOW_MS)
        assert (tended.expired_to_seq, tended.oldest_running_ms) == (3, 5_000_000)
        tended = self.store.tend(now, now, NOW_MS)
        assert (tended.expired_to_seq, tended.totals.rows, tended.oldest_running_ms) == (4, 0, None)

    def test_expiry_in_steps(self):
        """Of very many only a part goes at a time, and it is said that there are more."""
        self.store.open()
        rows = [row(n) for n in range(1, EXPIRE_STEP + 11)]
        self.store.apply(keep(*rows))
        assert self.store.tend(10**6, 10**6, NOW_MS)[1:4] == (EXPIRE_STEP, EXPIRE_STEP, EXPIRE_STEP)
        tended = self.store.tend(10**6, 10**6, NOW_MS)
        assert (tended.expired_rows, tended.more) == (10, False)

    def test_dead_letters_can_be_read(self):
        """All of them, in the order of burying, from any one on, with reason and content."""
        self.store.open()
        self.store.apply(keep(row(1), row(2)))
        self.store.apply(Change(buried=[(row(2, b"b", messages=4), "refused")], now_ms=NOW_MS))
        self.store.apply(Change(buried=[(row(1, b"a"), "too_large"), (row(0, b"c", ("\udc80",)), "refused")]))
        letters = self.store.dead_letters(0, AMPLE)
        assert [(one.reason, one.row) for one in letters] == [
            ("refused", row(2, b"b", messages=4)),
            ("too_large", row(1, b"a")),
            ("refused", row(0, b"c", ("\udc80",))),
        ]
        assert letters[0].buried_ms == NOW_MS
        assert self.store.dead_letters(letters[0].id, AMPLE) == letters[1:]
        assert self.store.dead_letters(0, 1) == letters[:1]
        assert dict(self.store.tend(0, None, NOW_MS).dead_reasons) == {"refused": 2, "too_large": 1}

    def test_exhume(self):
        """A dead letter can be forgotten, also in the change that makes a row of it again."""
        self.store.open()
        self.store.apply(Change(buried=[(row(1), "refused"), (row(2), "refused")], last_seq=2))
        first, second = self.store.dead_letters(0, AMPLE)
        change = keep(row(3, first.row.payload))._replace(exhumed=[first.id, 999])
        totals = self.store.apply(change).totals
        assert (totals.rows, totals.dead_rows, totals.dead_bytes) == (1, 1, row_bytes(row(2)))
        assert self.store.dead_letters(0, AMPLE) == [second]
        assert dict(self.store.tend(0, None, NOW_MS).dead_reasons) == {"refused": 1}

    def test_close_twice(self):
        """Closing again does nothing."""
        self.store.open()
        self.store.close(3)
        self.store.close(None)


class SqliteContractTests(StoreContract, unittest.TestCase):
    """The contract, kept by SQLite."""

    def setUp(self):
        self.path = Path(self.mktemp()) / "spool.db"
        self.store = self.make()

    def make(self, max_dead_letters=100, max_dead_bytes=AMPLE):
        store = SqliteStore(self.path, max_dead_letters, max_dead_bytes)
        self.addCleanup(store.close, None)
        return store


class FileContractTests(StoreContract, unittest.TestCase):
    """The contract, kept by files."""

    def setUp(self):
        self.path = Path(self.mktemp())
        self.store = self.make()

    def make(self, max_dead_letters=100, max_dead_bytes=AMPLE):
        store = FileStore(self.path, max_dead_letters, max_dead_bytes)
        self.addCleanup(store.close, None)
        self.path = self.path / "next"  # a test that makes another one wants it empty
        return store


class MemoryContractTests(StoreContract, unittest.TestCase):
    """The contract, kept by memory."""

    def setUp(self):
        self.store = self.make()

    def make(self, max_dead_letters=100, max_dead_bytes=AMPLE):
        return MemoryStore(max_dead_letters, max_dead_bytes)


class RowBytesTests(unittest.TestCase):
    """The measure of the cap."""

    def test_never_below_the_content(self):
        """Whatever the size, a row counts for at least its payload and names, and at most a page more."""
        for length in [*range(0, 9000, 13), 50_000, 1_000_000]:
            content = length + len("Meter 1")
            measured = row_bytes(draft(b"x" * length))
            assert content < measured <= content + PAGE_BYTES, length

    def test_long_list_of_devices_counts(self):
        """Names of devices count, since they are stored beside the payload."""
        names = tuple(f"device {n:06d}" for n in range(1000))
        assert row_bytes(Draft("t", b"", names, 1, 1)) >= 13_000

    def test_near_the_file(self):
        """The file of a store full of equal rows is as large as measured, within 15 percent and 64 KiB."""
        for length in (50, 300, 1000, 1500, 3000, 6000, 50_000):
            path = Path(self.mktemp()) / "spool.db"
            store = SqliteStore(path)
            store.open()
            rows = [row(n, b"x" * length) for n in range(1, 2_000_000 // (length + 300))]
            measured = store.apply(keep(*rows)).totals.bytes
            store.close(None)
            actual = path.stat().st_size
            assert 0.85 * measured - 65536 < actual < 1.15 * measured + 65536, (length, measured, actual)
