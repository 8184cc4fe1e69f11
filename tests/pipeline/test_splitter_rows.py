"""What the tests of the SDK's payload splitter ask for (spec thingsboard-mqtt, 8.13: rows 126 to 129), of our packer.

Where theirs count characters of Python texts, ours counts encoded bytes, with the device's name and all brackets: so
the sizes here are theirs and what a payload has around its values."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbgw.model import Device, Reading
from tbgw.pipeline.packer import Oversized, Packer, PackLimits

AROUND = len('{"A":[{"ts":1,"values":{}}]}')
"""Bytes of a payload of one instant without its values."""


class SplitterRows(SynchronousTestCase):
    """Readings of one device, and the payloads that come of them."""

    def parts(self, *instants: tuple[int, dict[str, Any]], size: int = 60_000, points: int = 1000) -> list[Any]:
        """The elements in each payload; each keeps the limits."""
        packer = Packer(PackLimits(size, size, points))
        oversized: list[Oversized] = []
        self.assertTrue(packer.add(Reading(Device("A"), instants), oversized))
        self.assertEqual(oversized, [])
        drafts = packer.take()
        found = [json.loads(draft.payload)["A"] for draft in drafts]
        for draft, elements in zip(drafts, found, strict=True):
            count = sum([len(element["values"]) for element in elements])
            self.assertLessEqual(len(draft.payload), size)
            self.assertLessEqual(count, points)
            self.assertEqual(count, draft.points)
        return found

    def values(self, parts: list[Any]) -> list[dict[str, Any]]:
        """What each payload says, without its times."""
        return [{key: value for element in part for key, value in element["values"].items()} for part in parts]

    def test_row_126(self) -> None:
        """Nothing gives nothing, one value is kept, ten points under a limit of five are two payloads, five texts of
        which no two fit are five."""
        self.assertEqual(self.parts(), [])
        self.assertEqual(self.parts((1, {"t": 1})), [[{"ts": 1, "values": {"t": 1}}]])
        ten = {f"k{number}": number for number in range(10)}
        halves = [dict([*ten.items()][:5]), dict([*ten.items()][5:])]
        self.assertEqual(self.values(self.parts((1, ten), points=5)), halves)
        texts = {f"k{number}": "x" * 50 for number in range(5)}
        found = self.values(self.parts((1, texts), size=100 + AROUND))
        self.assertEqual(found, [{key: value} for key, value in texts.items()])

    def test_row_127(self) -> None:
        """Three and two points of one instant under a limit of three: no key is lost; three texts, each too long for
        company, are exactly three payloads."""
        found = self.parts((1, {"a": 1, "b": 2, "c": 3}), (1, {"d": 4, "e": 5}), points=3)
        self.assertEqual(self.values(found), [{"a": 1, "b": 2, "c": 3}, {"d": 4, "e": 5}])
        self.assertGreater(len(self.parts((1, dict.fromkeys("abc", "x" * 30)), size=64 + AROUND)), 1)
        texts = dict.fromkeys("abc", "x" * 100)
        self.assertEqual(self.values(self.parts((1, texts), size=110 + AROUND)), [{key: texts[key]} for key in "abc"])

    def test_row_128(self) -> None:
        """Small, large, small: the large one is alone, and the small ones before and behind it are together."""
        values = {"a": 1, "b": 2, "c": "x" * 58, "d": 4, "e": 5}
        found = self.values(self.parts((1, values), size=64 + AROUND))
        self.assertEqual(found, [{"a": 1, "b": 2}, {"c": "x" * 58}, {"d": 4, "e": 5}])

    def test_row_129(self) -> None:
        """Instants that fit are together, those that do not are one each, those without a value are left out; what is
        nested counts with all its bytes."""
        self.assertEqual(len(self.parts((1, {"a": 1}), (2, {"b": 2}))), 1)
        long = [(number, {"k": "x" * 50}) for number in range(3)]
        self.assertEqual(len(self.parts(*long, size=64 + AROUND)), 3)
        self.assertEqual(self.parts((1, {}), (2, {"a": 1}), (3, {})), [[{"ts": 2, "values": {"a": 1}}]])
        self.assertEqual(self.parts((1, {})), [])
        nested = {key: {"list": list(range(15))} for key in "ab"}
        self.assertEqual(self.values(self.parts((1, nested), size=64 + AROUND)), [{key: nested[key]} for key in "ab"])
