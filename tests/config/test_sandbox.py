"""Tests of the section `sandbox`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tbgw.config.sandbox import SandboxSection, default_sandbox, read_sandbox
from tests.config.fakes import FolderCase, tree


class SandboxTests(FolderCase):
    """Where it listens and keeps its data."""

    def read(self, **value: Any) -> SandboxSection:
        return read_sandbox(tree(value), self.reporter)

    def test_default(self):
        """It is off; an empty section is the same as none."""
        found = default_sandbox(self.data_dir)
        self.assertEqual(self.read(), found)
        self.assertFalse(found.enabled)
        self.assertEqual((found.mqtt_port, found.http_port, found.address), (18830, 8080, "127.0.0.1"))
        self.assertEqual(found.token_file, self.data_dir / "sandbox" / "token")

    def test_paths(self):
        """The token lies in the folder unless it has a path of its own; both are relative to the data folder."""
        self.assertEqual(self.read(folder="sb").token_file, self.data_dir / "sb" / "token")
        found = self.read(folder="/srv/sb", tokenFile="t")
        self.assertEqual((found.folder, found.token_file), (Path("/srv/sb"), self.data_dir / "t"))
        self.assertEqual(self.lines(), [])

    def test_this_machine_only(self):
        """Only loopback addresses are taken: it has neither users nor TLS."""
        for address in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
            self.assertEqual(self.read(address=address).address, address)
        self.assertEqual(self.faults(), [])
        for address in ("0.0.0.0", "::", "192.168.1.5", "example.org", ""):
            self.assertEqual(self.read(address=address).address, "127.0.0.1")
        self.assertEqual(len(self.faults()), 5)

    def test_ports(self):
        """Two ports may not be the same, save for 0, which is any free one."""
        self.read(mqttPort=0, httpPort=0)
        self.assertEqual(self.faults(), [])
        self.read(mqttPort=8080)
        self.read(httpPort=18830)
        self.assertEqual(len(self.faults()), 2)
