"""Tests of control parameters: JSON values in the types of XEP-0325."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.xmpp.iot_control import BadParameter, blamed, parameter, parameters, refusal, set_element
from tests.connectors.xmpp.fakes import CONTROL, element


class ParameterTests(SynchronousTestCase):
    """Values and types."""

    def test_types(self):
        """Each type writes what it can."""
        for value, kind, expected in (
            (True, "auto", ("boolean", "true")), (5, "auto", ("int", "5")), (2**31, "auto", ("long", str(2**31))),
            (1.5, "auto", ("double", "1.5")), ("x", "auto", ("string", "x")), ("on", "boolean", ("boolean", "true")),
            (0, "boolean", ("boolean", "false")), ("7", "int", ("int", "7")), (7.0, "long", ("long", "7")),
            (7, "double", ("double", "7")), ("1e3", "double", ("double", "1e3")), (5, "string", ("string", "5")),
            ("#ff0080", "color", ("color", "FF0080")), ("ff0080cc", "color", ("color", "FF0080CC")),
            ("PT5S", "duration", ("duration", "PT5S")), ("2026-01-01", "date", ("date", "2026-01-01")),
        ):  # fmt: skip
            made = parameter("p", value, kind)
            self.assertEqual((made.kind, made.text), expected, (value, kind))

    def test_unfit(self):
        """What has no form in its type is refused, never bent."""
        for value, kind in (
            ("x", "int"), (1.5, "int"), (2**31, "int"), (2**63, "long"), (True, "int"), (True, "double"),
            ("", "int"), ("nan", "double"), ("perhaps", "boolean"), (2, "boolean"), ("red", "color"), (None, "string"),
            ([1], "auto"), ({}, "string"), (1, "odd"), (1e400, "int"), (None, "auto"),
        ):  # fmt: skip
            self.assertRaises(BadParameter, parameter, "p", value, kind)
        self.assertRaises(BadParameter, parameter, "", 1)

    def test_order(self):
        """The order of a list is kept: some devices act in it."""
        listed: Any = [{"name": "b", "value": 1}, {"name": "a", "type": "string", "value": 2}]
        written = set_element(parameters(listed), ["n"])
        self.assertEqual([child.name for child in written.elements()], ["node", "int", "string"])
        odd: Any
        for odd in (None, [], [{}], [{"name": "a"}], [{"name": 1, "value": 1}], "x"):
            self.assertRaises(BadParameter, parameters, odd)

    def test_old_refusals(self):
        """Old response codes have today's conditions; who is to blame is found at both places."""
        for code, condition in (
            ("Locked", "conflict"), ("InsufficientPrivileges", "forbidden"), ("Odd", "undefined-condition"),
        ):  # fmt: skip
            iq = element(
                f"<iq type='error'><setResponse xmlns='{CONTROL}' responseCode='{code}'>"
                "<parameter name='p'/></setResponse></iq>"
            )
            self.assertEqual(refusal(iq), (condition, f"{code}; p: "))
        self.assertIsNone(refusal(element(f"<iq><setResponse xmlns='{CONTROL}' responseCode='OK'/></iq>")))
        self.assertIsNone(refusal(element("<iq/>")))
        inner = f"<error><paramError xmlns='{CONTROL}' var='v'>No.</paramError></error>"
        self.assertEqual(blamed(element(f"<iq>{inner}</iq>")), "v: No.")
