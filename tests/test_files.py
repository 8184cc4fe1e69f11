"""Files that a power cut cannot spoil."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tbgw.files import replace_file


class ReplaceTests(SynchronousTestCase):
    """`replace_file`."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def test_rights_whatever_the_umask(self) -> None:
        """A file is its owner's alone, or has exactly the rights that were asked for."""
        old = os.umask(0)
        self.addCleanup(os.umask, old)
        replace_file(self.folder / "a", b"1")
        os.umask(0o777)
        replace_file(self.folder / "b", b"2", 0o640)
        self.assertEqual(stat.S_IMODE((self.folder / "a").stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE((self.folder / "b").stat().st_mode), 0o640)

    def test_links_and_left_overs(self) -> None:
        """What a symbolic link points to is not written, nor is a left-over temporary file in the way."""
        outside, link = self.folder / "outside", self.folder / "file"
        outside.write_bytes(b"untouched")
        link.symlink_to(outside)
        (self.folder / "file.new").symlink_to(outside)
        replace_file(link, b"new")
        self.assertEqual((outside.read_bytes(), link.read_bytes()), (b"untouched", b"new"))
        self.assertFalse(link.is_symlink())
        self.assertEqual(sorted(os.listdir(self.folder)), ["file", "outside"])
