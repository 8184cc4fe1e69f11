"""The error matrices, as they are said on the wire (spec thingsboard-mqtt, 1.2, 2.7, 3.9)."""

from __future__ import annotations

from twisted.trial import unittest

from tbgw.sandbox.outcomes import Action, Refusal, Verdict, action, refusal, suback_code

STAY = Action(None, None)


class ActionTests(unittest.SynchronousTestCase):
    """PUBACK and close by verdict, version and QoS."""

    def test_version_5_quality_1(self):
        """On MQTT 5 the PUBACK bears the reason, and only faults close."""
        for verdict, expected in {
            Verdict.ACCEPTED: (0, None),
            Verdict.SILENT: (None, None),
            Verdict.UNKNOWN_TOPIC: (0x90, None),
            Verdict.BAD_PAYLOAD: (0x99, None),
            Verdict.FAULT: (None, 0x8B),
            Verdict.GATEWAY_FAULT: (0x83, 0x83),
            Verdict.GATEWAY_BAD_ELEMENT: (0x99, None),
            Verdict.QUOTA: (0x97, None),
            Verdict.NOT_CREATED: (0x80, None),
        }.items():
            self.assertEqual(action(verdict, 5, 1), expected, verdict)

    def test_version_3_quality_1(self):
        """On MQTT 3.1.1 a bad payload closes, and what is merely not created looks accepted."""
        for verdict, (acknowledged, closes) in {
            Verdict.ACCEPTED: (True, False),
            Verdict.SILENT: (False, False),
            Verdict.UNKNOWN_TOPIC: (True, False),
            Verdict.BAD_PAYLOAD: (False, True),
            Verdict.FAULT: (False, True),
            Verdict.GATEWAY_FAULT: (True, True),
            Verdict.GATEWAY_BAD_ELEMENT: (False, True),
            Verdict.QUOTA: (True, False),
            Verdict.NOT_CREATED: (True, False),
        }.items():
            got = action(verdict, 4, 1)
            self.assertEqual((got.puback is not None, got.disconnect is not None), (acknowledged, closes), verdict)

    def test_quality_0_is_never_acknowledged(self):
        """At QoS 0 there is no PUBACK; a bad payload closes in either version."""
        for verdict in Verdict:
            for version in (4, 5):
                self.assertIsNone(action(verdict, version, 0).puback)
        self.assertEqual(action(Verdict.BAD_PAYLOAD, 5, 0), Action(None, 0x99))
        self.assertEqual(action(Verdict.GATEWAY_BAD_ELEMENT, 5, 0), STAY)
        self.assertIsNotNone(action(Verdict.GATEWAY_BAD_ELEMENT, 4, 0).disconnect)

    def test_profile_flag(self):
        """With "PUBACK on validation exception" MQTT 3.1.1 gets one for a bad payload at QoS 1, and only for that."""
        self.assertEqual(action(Verdict.BAD_PAYLOAD, 4, 1, lenient=True), Action(0, None))
        self.assertIsNotNone(action(Verdict.BAD_PAYLOAD, 4, 0, lenient=True).disconnect)
        self.assertIsNotNone(action(Verdict.FAULT, 4, 1, lenient=True).disconnect)
        self.assertEqual(action(Verdict.BAD_PAYLOAD, 5, 1, lenient=True), Action(0x99, None))


class RefusalTests(unittest.SynchronousTestCase):
    """CONNACK codes."""

    def test_codes(self):
        """The code depends on what the client offered."""
        for offered, codes in {
            ("t", None, "id"): (0x86, 5),
            ("t", None, ""): (0x86, 5),
            ("t", b"p", "id"): (0x86, 5),
            ("t", b"p", ""): (0x87, 5),
            (None, None, "id"): (0x85, 2),
            ("", b"", "id"): (0x85, 2),
            (None, None, ""): (0x87, 5),
            (None, None, "  "): (0x87, 5),
        }.items():
            found = refusal(*offered)
            self.assertEqual((found.code(5), found.code(4)), codes, offered)

    def test_unavailable(self):
        """A platform that is out of order says so."""
        self.assertEqual((Refusal.UNAVAILABLE.code(5), Refusal.UNAVAILABLE.code(4)), (0x88, 3))

    def test_suback_codes(self):
        """MQTT 3.1.1 knows only one failure code."""
        self.assertEqual([suback_code(c, 5) for c in (0, 1, 0x8F)], [0, 1, 0x8F])
        self.assertEqual([suback_code(c, 4) for c in (0, 1, 0x8F)], [0, 1, 0x80])
