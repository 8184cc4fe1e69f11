"""The sandbox's database."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

from twisted.trial import unittest

from tbgw.errors import StoreError
from tbgw.sandbox.platform import Platform, SandboxLimits
from tbgw.sandbox.store import FILE_NAME, Store, StoreUnusable, make_private_folder, set_aside
from tbgw.sandbox.values import Stored

NOW = 1_700_000_000_000
REPOSITORY = Path(__file__).resolve().parents[2]


class StoreTests(unittest.SynchronousTestCase):
    """A store in a folder of its own."""

    def setUp(self):
        self.folder = Path(self.mktemp()) / "sandbox"
        self.platform = Platform(SandboxLimits())
        self.device = self.platform.add_credentials("token", "Gateway", gateway=True)

    def open(self, points=1000, max_bytes=1 << 30, folder: Path | None = None):
        store = Store(folder or self.folder, points, max_bytes)
        self.addCleanup(store.close)
        return store

    def record(self, store, key, points):
        self.platform.record_telemetry(self.device, [(ts, [(key, value)]) for ts, value in points], NOW)
        store.write(self.platform.take_changes())

    def test_everything_comes_back(self):
        """What was written is there after reopening, with its types, and ids go on from there."""
        store = self.open()
        values: list[tuple[str, Stored]] = [
            ("i", -(2**63)),
            ("f", 3.0),
            ("s", "007ä"),
            ("b", b"true"),
            ("j", b'{"a":[1,2]}'),
            ("e", ""),
        ]
        self.platform.record_telemetry(self.device, [(7, values), (5, [("i", 1)])], NOW)
        self.platform.record_attributes(self.device, values, NOW)
        store.write(self.platform.take_changes())
        before = self.platform.shown()
        store.close()

        store = self.open()
        platform = Platform(SandboxLimits(), store.load())
        self.assertEqual(platform.shown(), before)
        device = platform.devices["Gateway"]
        self.assertEqual(type(device.telemetry["f"].value), float)
        platform.record_telemetry(device, [(9, [("new", 1), ("i", 2)])], NOW)
        changes = platform.take_changes()
        store.write(changes)
        self.assertEqual(store.history(device.telemetry["i"].id, 0, 10), [(5, 1), (7, -(2**63)), (9, 2)])
        self.assertEqual(len({series.id for series in device.telemetry.values()}), 7)

    def test_history(self):
        """The newest points from a moment on, oldest first; equal times overwrite."""
        store = self.open()
        self.record(store, "k", [(3, 1), (1, "x"), (2, b"true"), (3, 4.5)])
        series_id = self.device.telemetry["k"].id
        self.assertEqual(store.history(series_id, 0, 10), [(1, "x"), (2, True), (3, 4.5)])
        self.assertEqual(store.history(series_id, 2, 10), [(2, True), (3, 4.5)])
        self.assertEqual(store.history(series_id, 0, 1), [(3, 4.5)])
        self.assertEqual(store.history(999, 0, 10), [])

    def test_history_is_bounded(self):
        """Of each series so many points are kept, and a tenth more at most."""
        store = self.open(points=100)
        for start in range(0, 1000, 7):
            self.record(store, "k", [(ts, ts) for ts in range(start, start + 7)])
            self.record(store, "other", [(start, start)])
        history = store.history(self.device.telemetry["k"].id, 0, 10_000)
        self.assertEqual(history[-1], (1000, 1000))
        self.assertTrue(100 <= len(history) <= 117, len(history))
        self.assertEqual(history, [(ts, ts) for ts in range(1001 - len(history), 1001)])

    def test_bound_holds_across_reopening(self):
        """A series that was long already is pruned soon after the next start."""
        store = self.open(points=1000)
        self.record(store, "k", [(ts, ts) for ts in range(1000)])
        store.close()
        store = self.open(points=100)
        self.platform = Platform(SandboxLimits(), store.load())
        self.device = self.platform.devices["Gateway"]
        self.record(store, "k", [(1000, 1000)])
        self.assertEqual(len(store.history(self.device.telemetry["k"].id, 0, 10_000)), 100)

    def test_file_is_bounded(self):
        """When the file grows too large all series keep less, but each its latest value."""
        store = self.open(points=100_000, max_bytes=400_000)
        for round_number in range(100):
            start = round_number * 100
            for key in ("a", "b", "c"):
                self.record(store, key, [(ts, "x" * 60) for ts in range(start, start + 100)])
        store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = (self.folder / FILE_NAME).stat().st_size
        self.assertTrue(200_000 < size < 600_000, size)
        for key in ("a", "b", "c"):
            self.assertEqual(store.history(self.device.telemetry[key].id, 0, 1), [(9999, "x" * 60)])

    def test_in_memory(self):
        """Without a folder nothing is written to disk and everything else is the same."""
        store = Store(None, 100, 1 << 30)
        self.addCleanup(store.close)
        self.record(store, "k", [(1, 2)])
        self.assertEqual(store.history(self.device.telemetry["k"].id, 0, 10), [(1, 2)])
        self.assertEqual([row[2:] for row in store.load().series], [("k", 1, 2)])

    def test_modes(self):
        """Folder and files are the owner's only, whatever the umask (P-13)."""
        old = os.umask(0)
        self.addCleanup(os.umask, old)
        store = self.open()
        self.record(store, "k", [(1, 2)])
        self.assertEqual(stat.S_IMODE(self.folder.stat().st_mode), 0o700)
        for path in self.folder.iterdir():
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600, path)

    def test_write_is_all_or_nothing(self):
        """When the database refuses, nothing of the batch is kept and StoreError says so."""
        store = self.open()
        self.record(store, "k", [(1, 1)])
        self.platform.record_telemetry(self.device, [(2, [("k", 2)])], NOW)
        changes = self.platform.take_changes()
        changes.series.append((1, 1, "an id that is taken"))
        self.assertRaises(StoreError, store.write, changes)
        self.assertEqual(store.history(self.device.telemetry["k"].id, 0, 10), [(1, 1)])
        self.record(store, "k", [(3, 3)])

    def test_damaged_file(self):
        """A file that is no database is refused, and can be set aside."""
        make_private_folder(self.folder)
        (self.folder / FILE_NAME).write_bytes(b"this is not a database" * 100)
        self.assertRaises(StoreUnusable, self.open)
        aside = set_aside(self.folder)
        self.assertTrue(aside.exists())
        self.record(self.open(), "k", [(1, 1)])

    def test_newer_version(self):
        """A database of a later version is left alone."""
        self.open().close()
        with sqlite3.connect(self.folder / FILE_NAME) as db:
            db.execute("PRAGMA user_version = 99")
        db.close()
        self.assertIn("version 99", str(self.assertRaises(StoreUnusable, self.open)))

    def test_link_is_not_followed(self):
        """A symbolic link in the database's place is refused, which is no reason to set anything aside."""
        make_private_folder(self.folder)
        (self.folder / FILE_NAME).symlink_to("/dev/null")
        self.assertNotIsInstance(self.assertRaises(StoreError, self.open), StoreUnusable)


WRITER = """
import json, sys
from pathlib import Path
from tbgw.sandbox.platform import Platform, SandboxLimits
from tbgw.sandbox.store import Store
store = Store(Path(sys.argv[1]), 100_000, 1 << 30)
platform = Platform(SandboxLimits(), store.load())
device = platform.devices.get("D") or platform.add_credentials("t", "D")
ts = max((series.ts_ms for series in device.telemetry.values()), default=0)
while True:
    ts += 1
    platform.record_telemetry(device, [(ts, [("k%d" % (ts % 7), ts), ("text", "x" * 50)])], ts)
    store.write(platform.take_changes())
    sys.stdout.write("%d\\n" % ts)
    sys.stdout.flush()
"""


class KillTests(unittest.SynchronousTestCase):
    """Death of the process at any moment."""

    def test_killed(self):
        """After kill -9 everything whose `write` returned is there, several times running."""
        folder = Path(self.mktemp()).resolve() / "sandbox"
        confirmed = 0
        for length in (10, 200, 777):
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, cwd=REPOSITORY
            )
            assert writer.stdout is not None
            for _ in range(length):
                confirmed = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split(b"\n")
            writer.stdout.close()
            writer.wait()
            confirmed = max([confirmed, *(int(line) for line in rest[:-1])])
            store = Store(folder, 100_000, 1 << 30)
            platform = Platform(SandboxLimits(), store.load())
            kept = set()
            for key, series in platform.devices["D"].telemetry.items():
                if key != "text":
                    kept |= {value for _, value in store.history(series.id, 0, 100_000)}
            store.close()
            self.assertEqual(set(range(1, confirmed + 1)) - kept, set())
        self.assertGreaterEqual(confirmed, 987)
