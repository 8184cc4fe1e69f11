"""`tbgw spool` on stores of both kinds, with the gateway stopped and running."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tbgw.cli import main
from tbgw.spool.contract import Change, Store
from tbgw.spool.file import FileStore
from tbgw.spool.store import SqliteStore
from tests.spool.fakes import NOW_MS, keep, row


class SpoolTests(SynchronousTestCase):
    """The command as a user types it."""

    kind = "sqlite"

    def setUp(self):
        self.etc = Path(self.mktemp())
        self.data = Path(self.mktemp())
        self.etc.mkdir(parents=True)
        self.data.mkdir(parents=True)
        content = {
            "thingsboard": {"host": "127.0.0.1", "security": {"accessToken": "a1b2c3"}},
            "storage": {"type": self.kind, "data_file_path": "store", "data_folder_path": "store"},
            "connectors": [],
        }
        (self.etc / "tb_gateway.json").write_text(json.dumps(content))

    def open(self) -> Store:
        folder = self.data / "store"
        store: Store = SqliteStore(folder / "spool.db") if self.kind == "sqlite" else FileStore(folder)
        self.addCleanup(store.close, None)
        store.open()
        return store

    def fill(self) -> Store:
        """Two rows, and three dead letters of two reasons; still open."""
        store = self.open()
        store.apply(keep(row(1, b'{"A":1}'), row(2, b"\xff", messages=4)))
        buried = [(row(0, b"{}"), "refused"), (row(0, b"[]"), "too_large"), (row(0, b"7"), "refused")]
        store.apply(Change(buried=buried, last_seq=7, now_ms=NOW_MS))
        return store

    def tbgw(self, *arguments: str, status: int = 0) -> str:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            got = main.main(["spool", "-c", str(self.etc), "-d", str(self.data), *arguments])
        self.assertEqual(got, status, output.getvalue())
        return output.getvalue()

    def test_show(self):
        """Sums and dead letters by reason."""
        self.fill().close(None)
        shown = self.tbgw("show")
        self.assertRegex(shown, r"waiting +2 rows, 5 messages, \d+ bytes: \d")
        self.assertRegex(shown, r"oldest age +0 s")
        self.assertRegex(shown, r"dead letters +3 rows")
        self.assertIn("2 refused", shown)
        self.assertIn("last number      7", shown)

    def test_show_beside_a_running_gateway(self):
        """`show` reads while the gateway writes."""
        store = self.fill()
        self.assertRegex(self.tbgw("show"), r"waiting +2 rows")
        store.apply(keep(row(8)))
        self.assertRegex(self.tbgw("show"), r"waiting +3 rows")

    def test_while_the_gateway_runs(self):
        """What needs the store for itself says that the gateway runs, and changes nothing."""
        store = self.fill()
        for arguments in (("export",), ("requeue",), ("purge", "--yes", "--rows")):
            self.assertIn("the gateway is running; stop it first", self.tbgw(*arguments, status=1))
        self.assertEqual(store.apply(Change()).totals.rows, 2)

    def test_export(self):
        """A JSON object on each line: rows in order, then dead letters; what is no JSON comes in base64."""
        self.fill().close(None)
        lines = [json.loads(line) for line in self.tbgw("export").splitlines()]
        self.assertEqual([line["state"] for line in lines], ["waiting"] * 2 + ["dead"] * 3)
        self.assertEqual((lines[0]["payload"], lines[1]["payloadBase64"]), ({"A": 1}, "/w=="))
        self.assertEqual((lines[0]["devices"], lines[1]["messages"]), (["Meter 1"], 4))
        dead = [json.loads(line) for line in self.tbgw("export", "--reason", "too_large").splitlines()]
        found = [(line["payload"], line["reason"], line["buriedMs"]) for line in dead]
        self.assertEqual(found, [([], "too_large", NOW_MS)])

    def test_requeue(self):
        """Dead letters become rows with new numbers behind all others; again, there is nothing more to do."""
        self.fill().close(None)
        self.assertIn("2 dead letters wait", self.tbgw("requeue", "--reason", "refused"))
        self.assertIn("1 dead letters wait", self.tbgw("requeue"))
        self.assertIn("0 dead letters wait", self.tbgw("requeue"))
        store = self.open()
        rows = store.fetch(0, 1 << 20, NOW_MS).rows
        self.assertEqual([(one.seq, one.payload) for one in rows[2:]], [(8, b"{}"), (9, b"7"), (10, b"[]")])
        self.assertEqual(store.dead_letters(0, 1 << 20), [])

    def test_purge(self):
        """Only with --yes, and rows only with --rows."""
        self.fill().close(None)
        self.assertIn("would forget 3 dead letters and 2 rows", self.tbgw("purge", "--rows"))
        self.assertIn("forgot 2 dead letters", self.tbgw("purge", "--reason", "refused", "--yes"))
        store = self.open()
        self.assertEqual((store.apply(Change()).totals.rows, store.apply(Change()).totals.dead_rows), (2, 1))
        store.close(None)
        self.tbgw("purge", "--rows", "--yes")
        self.assertEqual(self.open().apply(Change()).totals[:6], (7, 0, 0, 0, 0, 0))

    def test_no_store(self):
        """Without a store it says so, and makes none."""
        self.assertIn("there is no store at", self.tbgw("show", status=1))
        self.assertEqual(list(self.data.iterdir()), [])


class FileSpoolTests(SpoolTests):
    """The same with the file store."""

    kind = "file"

    def test_show_beside_a_running_gateway(self):
        """`show` has to have the files for itself."""
        self.fill()
        self.assertIn("the gateway is running", self.tbgw("show", status=1))
