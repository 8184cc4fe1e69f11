"""Offers in attributes: complete, incomplete, hostile."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbgw.uplink.offers import Offer, OfferFault, parse_offer

GOOD: dict[str, Any] = {
    "fw_title": "gate",
    "fw_version": "1.1",
    "fw_size": 10,
    "fw_checksum": "AB",
    "fw_checksum_algorithm": "SHA256",
}


class OfferTests(SynchronousTestCase):
    """What is taken up and what is not."""

    def test_good(self) -> None:
        """All parts; a version that ThingsBoard made a number of; another spelling of the algorithm."""
        self.assertEqual(parse_offer("fw", GOOD), Offer("gate", "1.1", 10, "SHA256", "ab"))
        found = parse_offer("fw", {**GOOD, "fw_version": 1.5, "fw_checksum_algorithm": "sha-256"})
        assert found is not None
        self.assertEqual((found.version, found.algorithm), ("1.5", "SHA256"))

    def test_none(self) -> None:
        """Without title or version there is no offer; those of the other kind are none."""
        for attributes in ({}, {"fw_title": "gate"}, {"fw_version": "1"}, {**GOOD, "fw_title": ""}):
            self.assertIsNone(parse_offer("fw", attributes))
        self.assertIsNone(parse_offer("sw", GOOD))

    def test_faults(self) -> None:
        """P-24, P-20: without size or checksum, at a URL, or with a hostile title it is refused in words."""
        for change, words in (
            ({"fw_size": None}, "size"),
            ({"fw_size": True}, "size"),
            ({"fw_size": 0}, "size"),
            ({"fw_size": None, "fw_url": "http://x"}, "URL"),
            ({"fw_checksum": ""}, "checksum"),
            ({"fw_checksum_algorithm": "CRC8"}, "algorithm"),
            ({"fw_title": "a\0b"}, "title"),
            ({"fw_version": "1\n2"}, "version"),
            ({"fw_title": "x" * 256}, "title"),
        ):
            with self.assertRaisesRegex(OfferFault, words):
                parse_offer("fw", {**GOOD, **change})

    def test_identity(self) -> None:
        """Every part of it counts."""
        offers = [
            parse_offer("fw", {**GOOD, key: value})
            for key, value in (
                ("fw_title", "other"),
                ("fw_version", "2"),
                ("fw_size", 11),
                ("fw_checksum", "cd"),
                ("fw_checksum_algorithm", "MD5"),
                ("fw_tag", "no part of it"),
            )
        ]
        identities = {offer.identity for offer in offers if offer is not None}
        good = parse_offer("fw", GOOD)
        assert good is not None
        self.assertEqual(len(identities), 6)
        self.assertIn(good.identity, identities)
