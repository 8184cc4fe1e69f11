"""Counting both ways (XEP-0198), without a server."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element

from tbgw.connectors.xmpp.stream_management import NS, CountBroken, StreamManagement


def told(name: str, **attributes: str) -> Element:
    element = Element((NS, name))
    for key, value in attributes.items():
        element[key] = value
    return element


class CountTests(SynchronousTestCase):
    """What each side has."""

    def setUp(self) -> None:
        self.management = StreamManagement(max_unconfirmed=5)

    def test_in_order(self):
        """A stanza counts only when all before it are stored, in whatever order the store is done."""
        management = self.management
        numbers = [management.received() for _ in range(5)]
        for number, h in ((2, "0"), (3, "0"), (1, "3"), (5, "3"), (4, "5")):
            management.handled(number, 0)
            self.assertEqual(management.answer()["h"], h)
        self.assertEqual((numbers, management.pending), ([1, 2, 3, 4, 5], 0))

    def test_is_asked(self):
        """Asked while something is pending, the server is owed another answer."""
        management = self.management
        first, second = management.received(), management.received()
        management.handled(first, 0)
        self.assertEqual(management.answer()["h"], "1")
        self.assertTrue(management.is_asked)
        management.handled(second, 0)
        self.assertEqual((management.untold, management.answer()["h"], management.is_asked), (1, "2", False))

    def test_resumption(self):
        """After a resumption what was not counted comes again: late news of its first coming count for nothing."""
        management = self.management
        management.enabled(told("enabled", resume="true", id="some-id"))
        for _ in range(4):
            management.received()
        management.handled(1, 0)
        management.handled(3, 0)
        self.assertEqual((management.resume()["previd"], management.resume()["h"]), ("some-id", "1"))
        self.assertEqual(management.resumed(told("resumed", h="0")), [])
        self.assertEqual(management.epoch, 1)
        again = management.received()
        self.assertEqual(again, 2)
        management.handled(2, 0)
        self.assertEqual(management.pending, 1)
        management.handled(2, 1)
        self.assertEqual((management.pending, management.answer()["h"]), (0, "2"))

    def test_not_resumable(self):
        """A server that does not let us resume gives no id that counts."""
        for element in (told("enabled"), told("enabled", id="x"), told("enabled", resume="false", id="x")):
            self.management.enabled(element)
            self.assertEqual(self.management.resume_id, "")

    def test_confirmed(self):
        """What the server counts is let go; what it does not is sent again."""
        management = self.management
        for number in range(5):
            management.sent("message", str(number).encode(), 0.0)
        self.assertTrue(management.is_full("message"))
        self.assertEqual(management.confirmed("2"), 2)
        self.assertEqual(management.confirmed("2"), 0)
        again = management.resumed(told("resumed", h="3"))
        self.assertEqual([one.data for one in again], [b"3", b"4"])
        self.assertEqual(len(management.unconfirmed), 2)

    def test_bytes(self):
        """Few large stanzas fill it as well."""
        management = StreamManagement(5, max_unconfirmed_bytes=100)
        management.sent("message", b"x" * 60, 0.0)
        self.assertFalse(management.is_full("message"))
        management.sent("message", b"x" * 60, 0.0)
        self.assertTrue(management.is_full("message"))
        management.confirmed("1")
        self.assertFalse(management.is_full("message"))

    def test_broken_counts(self):
        """A server that counts what was never sent, or backwards, or in words, is not believed."""
        for h in ("6", "4294967295", "", "x", "-1", "1e3", "٣", "99999999999", None):
            management = StreamManagement(5)
            management.sent("message", b"x", 0.0)
            management.sent("message", b"x", 0.0)
            management.confirmed("1")
            self.assertRaises(CountBroken, management.confirmed, h)
            self.assertRaises(CountBroken, management.confirmed, "0")
            self.assertEqual(len(management.unconfirmed), 1)

    def test_overflow(self):
        """The counts begin anew after 2**32 - 1."""
        management = self.management
        management._confirmed = management._handled = management._received = management.told = (1 << 32) - 1
        management.sent("message", b"x", 0.0)
        self.assertEqual(management.confirmed("0"), 1)
        management.handled(management.received(), 0)
        self.assertEqual(management.answer()["h"], "0")
