"""The spool as it runs in the gateway: SQLite, the real thread, the real reactor."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import gatherResults
from twisted.trial import unittest

from tbgw.errors import StoreError
from tbgw.model import Row
from tbgw.spool.contract import row_bytes
from tbgw.spool.runners import StoreThread
from tbgw.spool.service import Spool
from tbgw.spool.store import SqliteStore
from tests.spool.fakes import NOW_MS, Listener, draft, events

AMPLE = 1 << 30
reactor: Any = global_reactor  # its type in Twisted lacks callFromThread


class ThreadTests(unittest.TestCase):
    """Everything together."""

    timeout = 20

    def setUp(self):
        self.path = Path(self.mktemp()) / "spool.db"

    def make(self) -> Spool:
        self.store = SqliteStore(self.path)
        return Spool(
            lambda: self.store,
            clock=reactor,
            runner=StoreThread(reactor),
            wall_ms=lambda: NOW_MS,
            events=events()[0],
            max_bytes=AMPLE,
        )

    async def test_life(self):
        """Rows appended, fetched, deleted and buried in one run are what the next run finds."""
        spool = self.make()
        await spool.open()
        stored = []
        expected: dict[int, Row] = {}
        for number in range(200):
            rows, done = spool.append([draft(b"%d" % number * 50), draft()])
            stored.append(done)
            expected.update((made.seq, made) for made in rows)
            if number % 3 == 0:
                spool.delete([rows[0].seq])
                del expected[rows[0].seq]
        spool.bury(expected.pop(4), "refused")
        assert (await spool.fetch(0, AMPLE)) == list(expected.values())
        await gatherResults(stored)
        await spool.close()
        again = self.make()
        await again.open()
        assert again.last_seq == 400
        assert again.stored_rows == len(expected)
        assert again.stored_bytes == sum(row_bytes(one) for one in expected.values())
        assert (await again.fetch(0, AMPLE)) == list(expected.values())
        await again.close()

    async def test_one_other_thread(self):
        """All jobs run in one thread that is not the reactor's, and it ends with the spool."""
        spool = self.make()
        await spool.open()
        seen: list[threading.Thread] = []
        for _ in range(3):
            await spool.run_in_store_thread(lambda: seen.append(threading.current_thread()))
        assert len(set(seen)) == 1
        assert seen[0] is not threading.current_thread()
        assert seen[0].is_alive()
        await spool.close()
        assert not seen[0].is_alive()

    async def test_open_fails(self):
        """A store that cannot be opened leaves no thread behind."""
        self.path.mkdir(parents=True)
        before = threading.active_count()
        spool = self.make()
        with self.assertRaises(StoreError):
            await spool.open()
        assert threading.active_count() == before

    async def test_full_disk(self):
        """A disk that fills up fails the appends, is told once, and keeps all that was answered as stored."""
        spool = self.make()
        listener = Listener()
        spool.set_listeners(listener, listener, listener.failed)
        await spool.open()
        await spool.run_in_store_thread(lambda: self.store._db.execute("PRAGMA max_page_count=60").close())
        kept = []
        try:
            for _ in range(200):
                rows, stored = spool.append([draft(b"x" * 3000)])
                await stored
                kept += rows
        except StoreError as error:
            assert "disk full" in str(error)
            broken = error
        else:
            self.fail("never full")
        await spool.close()
        assert listener.errors == [broken]
        assert len(kept) > 20
        again = self.make()
        await again.open()
        assert (await again.fetch(0, AMPLE)) == kept
        await again.close()


CHILD = """
import sys
from twisted.internet import reactor, task
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.model import Draft
from tbgw.spool.runners import StoreThread
from tbgw.spool.service import Spool
from tbgw.spool.store import SqliteStore

spool = Spool(lambda: SqliteStore(sys.argv[1]), clock=reactor, runner=StoreThread(reactor), wall_ms=lambda: 0,
              events=Events(Counters(), reactor.seconds), max_bytes=1 << 30)

def write(kind, seqs):
    sys.stdout.write("".join(f"{kind}{seq}\\n" for seq in seqs))
    sys.stdout.flush()

def append(number):
    payloads = [b"%d." % (number + n) * (number % 700) for n in (0, 1)]
    rows, stored = spool.append([Draft("topic", payload, ("Meter",), 1, 1) for payload in payloads])
    seqs = [row.seq for row in rows]
    stored.addCallback(lambda _: committed(seqs))

def committed(seqs):
    write("+", seqs)
    if seqs[0] % 5 == 0:
        write("-", seqs[:1])
        spool.delete(seqs[:1])
    append(seqs[0])

def opened(_):
    for number in range(3):
        append(number)

spool.open().addCallback(opened)
reactor.run()
"""


class KillTests(unittest.TestCase):
    """Stored means stored."""

    def test_kill(self):
        """Every row that was answered as stored is there after a SIGKILL at any moment, whole, and none twice."""
        path = Path(self.mktemp()) / "spool.db"
        source = random.Random(3)
        promised: set[int] = set()
        given_up: set[int] = set()
        for _ in range(6):
            child = subprocess.Popen(
                [sys.executable, "-c", CHILD, os.fspath(path)],
                stdout=subprocess.PIPE,
                env={"PYTHONPATH": os.pathsep.join(sys.path)},
            )
            assert child.stdout is not None
            before = len(promised)
            alive_for = source.randrange(1, 400)
            for line in child.stdout:
                number = int(line[1:])
                (promised if line[:1] == b"+" else given_up).add(number)
                alive_for -= 1
                if alive_for == 0:
                    child.kill()
            child.wait()
            child.stdout.close()
            assert len(promised) > before
            store = SqliteStore(path)
            totals = store.open().totals
            fetched = store.fetch(0, AMPLE, NOW_MS)
            store.close(None)
            found = [one.seq for one in fetched.rows]
            assert promised - given_up <= set(found)
            assert found == sorted(set(found))
            assert totals.last_seq >= max(promised)
            assert totals.rows == len(found)
            assert (fetched.unreadable, fetched.damaged) == ([], [])
