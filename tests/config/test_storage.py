"""Tests of the section `storage`: the three kinds of the reference end in caps and a folder."""

from __future__ import annotations

from typing import Any

from tbgw.config.findings import Severity
from tbgw.config.storage import MEMORY_BYTES, MIB, StorageSection, default_storage, read_storage
from tests.config.fakes import FolderCase, tree


class StorageTests(FolderCase):
    """What the keys come to."""

    def read(self, **value: Any) -> StorageSection:
        return read_storage(tree(value), self.reporter)

    def test_default(self):
        """An empty section is the same as none: SQLite with the reference's caps, ten times 1024 MiB."""
        self.assertEqual(self.read(), default_storage(self.data_dir))
        self.assertEqual(self.read().max_bytes, 10 * 1024 * MIB)
        self.assertEqual((self.read().type, self.read().max_messages), ("sqlite", None))
        self.assertEqual(self.lines(), [])

    def test_sqlite(self):
        """size_limit, in MiB, times max_db_amount is the cap."""
        found = self.read(type="sqlite", size_limit=16, max_db_amount=3, data_file_path="./data/")
        self.assertEqual((found.max_bytes, found.folder), (48 * MIB, self.data_dir / "data"))
        self.assertEqual(self.lines(), [])

    def test_database_file(self):
        """Up to 3.4 the path named the database itself; its folder is meant."""
        self.assertEqual(self.read(type="sqlite", data_file_path="./data/data.db").folder, self.data_dir / "data")

    def test_absolute_folder(self):
        """An absolute path stays as it is."""
        self.assertEqual(str(self.read(data_file_path="/var/lib/gw").folder), "/var/lib/gw")

    def test_memory(self):
        """max_records_count is the cap in messages; bytes are capped as well."""
        found = self.read(type="memory", max_records_count=500, read_records_count=10)
        self.assertEqual((found.type, found.max_messages, found.max_bytes), ("memory", 500, MEMORY_BYTES))

    def test_file(self):
        """max_file_count times max_records_per_file is the cap."""
        found = self.read(type="file", max_file_count=4, max_records_per_file=25, data_folder_path="d")
        self.assertEqual((found.type, found.max_messages, found.folder), ("file", 100, self.data_dir / "d"))
        self.assertEqual(self.lines(), [])

    def test_time_to_live(self):
        """Days become seconds, 0 and nothing mean never; how often it is looked at comes in hours."""
        found = self.read(messages_ttl_in_days=7, messages_ttl_check_in_hours=2)
        self.assertEqual((found.ttl_seconds, found.ttl_check_seconds), (7 * 86_400, 7200))
        self.assertEqual((self.read(messages_ttl_in_days=0).ttl_seconds, self.read().ttl_seconds), (None, None))
        self.assertEqual(self.lines(), [])

    def test_import(self):
        """A folder of the reference's files, relative to the data folder."""
        self.assertEqual(self.read(**{"import": "./old/"}).import_from, self.data_dir / "old")

    def test_our_keys(self):
        """maxBytes beats what the reference's keys come to, for each kind; the drop policy is a choice of three."""
        for kind in ("sqlite", "memory", "file"):
            self.assertEqual(self.read(type=kind, maxBytes=5 * MIB, dropPolicy="oldest").max_bytes, 5 * MIB)
        self.assertEqual(self.read().drop_policy, "newest")
        self.assertEqual(self.read(dropPolicy="pause").drop_policy, "pause")
        self.read(dropPolicy="latest")
        self.read(maxBytes=MIB - 1)
        self.assertEqual(len(self.faults()), 2)

    def test_too_large(self):
        """A cap beyond any disk is a slip, and a fault."""
        self.read(size_limit=1 << 20, max_db_amount=1000)
        self.assertIn("size_limit times max_db_amount", self.faults()[0])

    def test_keys_of_other_kinds(self):
        """The sample's keys for the other kinds are named in one line, batch sizes in another; none is unknown."""
        self.read(type="sqlite", max_file_count=1, max_records_count=1, writing_batch_size=9, max_read_records_count=9)
        self.assertEqual(
            [line.split(": ")[1] for line in self.lines()],
            ["max_file_count, max_records_count", "writing_batch_size, max_read_records_count"],
        )

    def test_unknown_key(self):
        """A misspelt key is a doubt."""
        self.read(max_byte=5)
        self.assertEqual(self.lines(Severity.DOUBT), ["some.json:2: max_byte: unknown key; did you mean maxBytes?"])
