"""Topic names, topic filters and which of them meet."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tbgw.mqtt.topics import matches, string_fault, topic_filter_fault, topic_name_fault


class TopicTests(SynchronousTestCase):
    """What may be published to and subscribed to."""

    def test_strings(self):
        """A string may have 65535 bytes of UTF-8, no U+0000 and no surrogate."""
        for good in ("", "a", "ä" * 32767, "a" * 65535, "\U0001f600", "\ufeff"):
            self.assertIsNone(string_fault(good))
        for bad, clause in (
            ("a\0", "MQTT-1.5.3-2"),
            ("\ud800", "MQTT-1.5.3-1"),
            ("a" * 65536, "MQTT-4.7.3-3"),
            ("ä" * 32768, "MQTT-4.7.3-3"),
        ):
            self.assertIn(clause, string_fault(bad) or "")

    def test_names(self):
        """A name has at least one character and no wildcard."""
        for good in ("a", "/", "a/b", "$SYS/x", " ", "ä"):
            self.assertIsNone(topic_name_fault(good))
        for bad in ("", "+", "a/+", "a#", "#"):
            self.assertIsNotNone(topic_name_fault(bad))

    def test_filters(self):
        """A wildcard fills its level, and the multi-level one is last (the standard's own examples)."""
        for good in ("#", "sport/#", "+", "+/tennis/#", "sport/+/player1", "/", "a b", "+/+"):
            self.assertIsNone(topic_filter_fault(good), good)
        for bad in ("", "sport/tennis#", "sport/tennis/#/ranking", "sport+", "#/", "a/+b", "+a/#", "##"):
            self.assertIsNotNone(topic_filter_fault(bad), bad)

    def test_matching(self):
        """The examples of section 4.7."""
        for topic_filter, topic in (
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
            ("sport/#", "sport"),
            ("#", "a/b/c"),
            ("sport/tennis/+", "sport/tennis/player1"),
            ("sport/+", "sport/"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("a", "a"),
            ("$SYS/#", "$SYS/a"),
            ("$SYS/monitor/+", "$SYS/monitor/Clients"),
        ):
            self.assertTrue(matches(topic_filter, topic), (topic_filter, topic))
        for topic_filter, topic in (
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("a", "A"),
            ("a", "a/"),
            ("#", "$SYS/a"),
            ("+/monitor/Clients", "$SYS/monitor/Clients"),
            ("a/b/#", "a"),
            ("a/+", "b/c"),
        ):
            self.assertFalse(matches(topic_filter, topic), (topic_filter, topic))
