"""Hashes of passwords: what is printed can be read, and nothing else can."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.ocpp.passwords import HashInvalid, hash_password, parse_hash


class HashTests(SynchronousTestCase):
    """`hash_password` and `parse_hash`."""

    def test_round_trip(self):
        """A hash that was written and read takes its password, bytes of any value, and no other."""
        password = bytes(range(0, 200, 10))
        made = parse_hash(str(hash_password(password, 4)))
        self.assertTrue(made.matches(password))
        self.assertFalse(made.matches(password[:-1]))
        self.assertFalse(made.matches(b""))

    def test_salted(self):
        """The same password gives another hash each time."""
        self.assertNotEqual(str(hash_password(b"x", 4)), str(hash_password(b"x", 4)))

    def test_known_answer(self):
        """It is scrypt as RFC 7914 has it: the second test vector, in the form that others write."""
        made = parse_hash(
            "$scrypt$ln=10,r=8,p=16$TmFDbA$/bq+HJ00cgB4VucZDQHp/nxq18vII3gw53N2Y0s3MWIurzDZLiKjiG/xCSedmDDaxyevuUqD7m2DYMvfoswGQA"
        )
        self.assertEqual(made.salt, b"NaCl")
        self.assertTrue(made.matches(b"password"))

    def test_bad_texts(self):
        """What is no hash, and what would cost too much memory, is refused without being repeated."""
        good = str(hash_password(b"x", 4))
        for text in (
            "",
            "secret",
            good[:-30],
            good.replace("ln=4", "ln=30"),
            good.replace("ln=4,r=8", "ln=17,r=32"),
            good.replace("p=1", "p=0"),
            good + "$",
            "$2b$12$abcdefghijklmnopqrstuv",
        ):
            error = self.assertRaises(HashInvalid, parse_hash, text)
            if text:
                self.assertNotIn(text, str(error))

    def test_not_shown(self):
        """Neither salt nor hash shows where the object is printed by accident."""
        self.assertEqual(repr(hash_password(b"x", 4)), "PasswordHash(...)")
