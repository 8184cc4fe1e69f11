"""The sandbox's access token in its file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from twisted.trial import unittest

from tbgw.errors import ConfigurationError
from tbgw.sandbox import token as tokens


class TokenTests(unittest.SynchronousTestCase):
    """Created once, private, never replaced."""

    def setUp(self):
        self.path = Path(self.mktemp()) / "secrets" / "token"

    def test_created(self):
        """The file is the owner's only, whatever the umask, holds the token, and nothing else is left beside it."""
        old = os.umask(0o277)
        self.addCleanup(os.umask, old)
        token = tokens.create_token(self.path)
        self.assertEqual(tokens.read_token(self.path), token)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(self.path.parent.stat().st_mode), 0o700)
        self.assertEqual([entry.name for entry in self.path.parent.iterdir()], ["token"])
        self.assertTrue(len(token) == 20 and token.isalnum())
        self.assertNotEqual(tokens.make_token(), token)

    def test_never_replaced(self):
        """Who comes second gets the first one's token."""
        first = tokens.create_token(self.path)
        self.assertEqual(tokens.create_token(self.path), first)

    def test_missing(self):
        """No file, no token."""
        self.assertIsNone(tokens.read_token(self.path))

    def test_unusable(self):
        """An empty, binary or overlong file is a fault of the configuration, never an empty token."""
        self.path.parent.mkdir(parents=True)
        for content in (b"", b" \n", b"\xff\xfe", b"a\nb", b"x" * 2000):
            self.path.write_bytes(content)
            self.assertRaises(ConfigurationError, tokens.read_token, self.path)

    def test_folder_in_the_way(self):
        """What cannot be read or written is a fault of the configuration."""
        self.path.mkdir(parents=True)
        self.assertRaises(ConfigurationError, tokens.read_token, self.path)
        (self.path.parent / "file").touch()
        self.assertRaises(ConfigurationError, tokens.create_token, self.path.parent / "file" / "token")

    def test_exposed(self):
        """A file that others can read is noticed."""
        tokens.create_token(self.path)
        self.assertIsNone(tokens.exposed_mode(self.path))
        self.path.chmod(0o640)
        self.assertEqual(tokens.exposed_mode(self.path), "0640")
