"""Tests of `tbgw hash`."""

from __future__ import annotations

import getpass
import io
import sys

from twisted.trial.unittest import SynchronousTestCase

from tbgw.cli.main import main
from tbgw.connectors.ocpp.passwords import parse_hash


class HashTests(SynchronousTestCase):
    """What is printed is what `passwordHash` takes."""

    def run_it(self, *arguments: str, typed: str = "") -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdin", io.StringIO(typed))
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        status = main(["hash", *arguments])
        return status, out.getvalue(), err.getvalue()

    def test_text(self):
        """A text, without the newline behind it."""
        status, out, _ = self.run_it("--stdin", "--log2n", "4", typed="pass word\n")
        self.assertEqual(status, 0)
        self.assertTrue(parse_hash(out).matches(b"pass word"))

    def test_hex(self):
        """Bytes of any value."""
        _, out, _ = self.run_it("--stdin", "--hex", "--log2n", "4", typed="00ff10")
        self.assertTrue(parse_hash(out).matches(b"\x00\xff\x10"))

    def test_random(self):
        """A new key each time, shown beside its hash."""
        _, first, _ = self.run_it("--random", "--log2n", "4")
        _, second, _ = self.run_it("--random", "--log2n", "4")
        shown, made = first.strip().split("\n")
        key = bytes.fromhex(shown.rpartition(" ")[2])
        self.assertEqual(len(key), 20)
        self.assertTrue(parse_hash(made).matches(key))
        self.assertNotEqual(first, second)

    def test_nothing_typed(self):
        """Where nothing can be typed, one line says so."""

        def closed(prompt: str) -> str:
            raise EOFError

        self.patch(getpass, "getpass", closed)
        status, out, err = self.run_it()
        self.assertEqual((status, out, err.count("\n")), (1, "", 1))
        self.assertIn("--stdin", err)

    def test_bad(self):
        """What cannot be hashed is said, and not repeated."""
        bad = ((("--stdin",), ""), (("--stdin", "--hex"), "secret"), (("--random", "--log2n", "40"), ""))
        for arguments, typed in bad:
            status, out, err = self.run_it(*arguments, typed=typed)
            self.assertEqual((status, out), (1, ""), arguments)
            self.assertNotIn("secret", err)
