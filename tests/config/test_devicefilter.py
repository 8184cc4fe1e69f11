"""Tests of the rules that hold devices back."""

from __future__ import annotations

from typing import Any

from tbgw.config.devicefilter import DeviceFilter, parse_device_filter
from tbgw.config.findings import Severity
from tests.config.fakes import FolderCase, tree

SAMPLE = {
    "deny": {"Line 4": ["Temperature Device", "TMP_[0-9]+", "Pump (old)"]},
    "allow": {"Line 4": ["TMP_7"], "Line 5": ["anything"]},
}


class DeviceFilterTests(FolderCase):
    """Who may pass."""

    def parse(self, value: Any) -> DeviceFilter:
        return parse_device_filter(tree(value, "list.json"), frozenset({"Line 4", "Line 5"}), self.reporter)

    def test_unlisted_devices_pass(self):
        """A device that no entry names may pass, and so may every device of a connector without entries (C-41)."""
        rules = self.parse(SAMPLE)
        self.assertTrue(rules.allows("Line 4", "Scale"))
        self.assertTrue(rules.allows("Line 5", "Temperature Device"))
        self.assertTrue(DeviceFilter().allows("x", "y"))

    def test_denied(self):
        """A device that a deny entry names, or whose whole name its pattern matches, is held back."""
        rules = self.parse(SAMPLE)
        self.assertFalse(rules.allows("Line 4", "Temperature Device"))
        self.assertFalse(rules.allows("Line 4", "TMP_12"))

    def test_whole_names(self):
        """A pattern that matches a part of the name only says nothing (P-09)."""
        rules = self.parse(SAMPLE)
        for name in ("XTMP_12", "TMP_12X", "TMP_12\n", "Temperature Device 2", "temperature device"):
            self.assertTrue(rules.allows("Line 4", name), name)

    def test_allow_beats_deny(self):
        """An allow entry lets a device pass whatever denies it."""
        self.assertTrue(self.parse(SAMPLE).allows("Line 4", "TMP_7"))

    def test_names_with_parentheses(self):
        """An entry that is the name letter by letter holds, although as a pattern it would not match."""
        self.assertFalse(self.parse(SAMPLE).allows("Line 4", "Pump (old)"))

    def test_faults(self):
        """Bad patterns and wrong shapes are faults with their lines, and all are found."""
        self.parse({"deny": {"Line 4": ["(", 3, ""]}, "allow": {"Line 4": "x"}})
        self.parse({"deny": []})
        self.assertEqual(
            [line.split(": ")[:2] for line in self.faults()],
            [
                ["list.json:2", "deny"],
                ["list.json:4", "deny.Line 4[0]"],
                ["list.json:5", "deny.Line 4[1]"],
                ["list.json:6", "deny.Line 4[2]"],
                ["list.json:10", "allow.Line 4"],
            ],
        )

    def test_doubts(self):
        """An unknown list and a connector that does not exist are doubts with the nearest name."""
        self.parse({"denied": {}, "deny": {"Line4": ["x"]}})
        found = self.lines(Severity.DOUBT)
        self.assertIn("did you mean deny?", found[0])
        self.assertIn("did you mean Line 4?", found[1])
