"""What is remembered of charge points' security: over restarts, over crashes at any moment, and from a damaged file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.ocpp import ledger
from tbgw.connectors.ocpp.ledger import FILE_NAME, Ledger
from tbgw.connectors.ocpp.passwords import hash_password
from tests.connectors.ocpp.stand_ins import Lines

OLD, NEW = hash_password(b"old", 4), hash_password(b"new", 4)


class LedgerCase(SynchronousTestCase):
    """A ledger whose writes the test lets happen."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.clock = Clock()
        self.lines = Lines()
        self.jobs: list[tuple[Callable[[], None], Deferred[None]]] = []
        self.ledger = self.make()

    def make(self) -> Ledger:
        ledger = Ledger(self.folder, self.clock, self.lines.events, self.run_later)
        ledger.load()
        return ledger

    def run_later(self, job: Callable[[], None]) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self.jobs.append((job, done))
        return done

    def step(self) -> None:
        """Do one piece of the store's work."""
        job, done = self.jobs.pop(0)
        job()
        done.callback(None)


class LedgerTests(LedgerCase):
    """`Ledger`."""

    def test_survives(self):
        """Profile, password and serial are there after a restart."""
        self.ledger.seen("CP_1", 2)
        self.ledger.proven("CP_1", "SN7")
        done = self.ledger.taken("CP_1", NEW)
        self.assertNoResult(done)
        self.step()
        self.successResultOf(done)
        entry = self.make().entry("CP_1")
        self.assertEqual((entry.profile, str(entry.password), entry.serial), (2, str(NEW), "SN7"))
        self.assertEqual(os.stat(self.folder / FILE_NAME).st_mode & 0o777, 0o600)

    def test_profile_only_grows(self):
        """A lower profile changes nothing, and causes no write."""
        self.ledger.seen("CP_1", 3)
        self.clock.advance(1)
        self.step()
        self.ledger.seen("CP_1", 1)
        self.clock.advance(5)
        self.assertEqual((self.ledger.entry("CP_1").profile, self.jobs), (3, []))

    def test_many_at_once(self):
        """Ten thousand charge points that come together cost one write."""
        for number in range(10_000):
            self.ledger.seen(f"CP_{number}", 1)
        self.clock.advance(1)
        self.assertEqual(len(self.jobs), 1)
        self.step()
        self.assertEqual(self.make().entry("CP_9999").profile, 1)

    def test_written_while_writing(self):
        """What comes during a write is written after it, and its waiter waits for that."""
        first = self.ledger.offer("CP_1", OLD)
        second = self.ledger.offer("CP_1", NEW)
        self.step()
        self.successResultOf(first)
        self.assertNoResult(second)
        self.step()
        self.successResultOf(second)
        self.assertEqual(str(self.make().entry("CP_1").offered), str(NEW))

    def test_offered_beside_the_old(self):
        """A crash between offer and answer leaves both; the answer leaves one."""
        self.ledger.taken("CP_1", OLD)
        self.step()
        self.ledger.offer("CP_1", NEW)
        self.step()
        entry = self.make().entry("CP_1")
        self.assertEqual((str(entry.password), str(entry.offered)), (str(OLD), str(NEW)))
        self.ledger.declined("CP_1", NEW)
        self.assertIsNone(self.ledger.entry("CP_1").offered)

    def test_cannot_write(self):
        """A full disk is told to whoever waits, and said."""
        self.ledger._run = lambda job: fail(OSError("No space left on device"))
        self.failureResultOf(self.ledger.offer("CP_1", NEW), OSError)
        self.assertIn("No space left", self.lines.of("LedgerFault")[0])

    def test_full(self):
        """Of more charge points than are remembered none is told a password that would be forgotten."""
        self.ledger.seen("CP_0", 1)
        with mock.patch.object(ledger, "MAX_STATIONS", 1):
            self.failureResultOf(self.ledger.offer("CP_1", NEW), OSError)

    def test_damaged_file(self):
        """Rubbish is put aside and said; the gateway goes on with an empty ledger."""
        for content in (b"{", b"[]", b'{"stations": 5}', b"\xff\xfe"):
            (self.folder / FILE_NAME).write_bytes(content)
            before = len(self.lines.of("LedgerFault"))
            self.assertEqual(self.make().entry("CP_1").profile, 0)
            self.assertEqual(len(self.lines.of("LedgerFault")), before + 1)
            self.assertEqual((self.folder / (FILE_NAME + ".corrupt")).read_bytes(), content)

    def test_damaged_entries(self):
        """An entry that is not understood is left out and said, the others count."""
        stations = {
            "a": {"profile": 2},
            "b": {"profile": 9},
            "c": {"password": "secret"},
            "d": [],
            "e": {"profile": True},
            "f": {"serial": 5},
        }
        (self.folder / FILE_NAME).write_text(json.dumps({"version": 1, "stations": stations}))
        self.assertEqual(self.make().entry("a").profile, 2)
        lines = self.lines.of("LedgerFault")
        self.assertEqual(len(lines), 5)
        self.assertNotIn("secret", "".join(lines))

    def test_close(self):
        """What was gathered is written at the end."""
        self.ledger.seen("CP_1", 1)
        done = self.ledger.close()
        self.assertNoResult(done)
        self.step()
        self.successResultOf(done)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(self.make().close())
