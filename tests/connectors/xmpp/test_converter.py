"""Tests of the conversion of bodies; with random ones, too."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.xmpp.converter import (
    Converter,
    compile_name,
    compile_value,
    read_body,
    read_iso_time,
    read_pairs,
    read_time,
    write_pairs,
)
from tbgw.connectors.xmpp.jids import Address, parse_jid
from tbgw.expressions import MISSING, ExpressionError
from tbgw.thingsboard import payloads

SENDER = Address("pump", "example.org", "a")


def value(template: str, text: str, form: Any = "auto") -> Any:
    return compile_value(template)(read_body(text, form))


class BodyTests(SynchronousTestCase):
    """What a body is."""

    def test_json(self):
        """Objects and lists are JSON; a lone expression keeps the type, others make a text (X12, X-14)."""
        body = '{"a": 60, "b": true, "c": {"d": [1, 2]}, "n": null, "t": "x"}'
        for template, expected in (
            ("${a}", 60), ("${b}", True), ("${c}", {"d": [1, 2]}), ("${c.d[1]}", 2), ("${a}:${b}:${t}", "60:true:x"),
            ("${n}", None), ("constant", "constant"), ("${missing}", MISSING), ("${a}:${missing}", MISSING),
        ):  # fmt: skip
            self.assertEqual(value(template, body), expected, template)
        self.assertEqual(value("${[0].v}", ' [{"v": 5}]'), 5)

    def test_text(self):
        """Anything else is text, of which slices are taken, bare or in braces; paths find nothing (X-17)."""
        for template, expected in (
            ("[0:3]", "T21"), ("${[0:3]}", "T21"), ("[0]", "T"), ("[-2:]", ".5"), ("[:]", "T21.5"),
            ("${temp}", MISSING), ("[0:1]-[1:3]", "T-21"), ("[9:12]", MISSING), ("[9]", MISSING), ("[-1]", "5"),
            ("plain", "plain"), ("a[]b", "a[]b"),
        ):  # fmt: skip
            self.assertEqual(value(template, "T21.5"), expected, template)
        for text in ("21.5", '"quoted"', "true", "null", "NaN", "{broken", '{"a": NaN}', "[1,"):
            self.assertIs(value("${a}", text), MISSING, text)
            self.assertEqual(value("[:]", text), text)

    def test_slices_of_json(self):
        """A slice means nothing in JSON, and is not sent as its own text."""
        self.assertIs(value("[0:4]", '{"a": 1}'), MISSING)

    def test_pairs(self):
        """name=value pairs have their integers, doubles and booleans; what is none of it is text."""
        found = read_pairs("name1=1;name2=-2.5;name3=TRUE;name4=on; n 5 =x=y;name6=;")
        self.assertEqual(
            found, {"name1": 1, "name2": -2.5, "name3": True, "name4": "on", "n 5": "x=y", "name6": ""}
        )
        self.assertEqual(value("${a}/${b}", "a=1;b=2.5"), "1/2.5")
        for text in ("a", "a;b", "=1", "a=1;b", "", "<a b='c'/>", "a=1;;b=2"):
            self.assertIsNone(read_pairs(text), text)
        self.assertEqual(read_pairs("a=1e999"), {"a": "1e999"})
        self.assertEqual(read_pairs("a=" + "9" * 30), {"a": float("9" * 30)})

    def test_pairs_back(self):
        """What is written is read the same."""
        values = {"a": 1, "b": -2.5, "c": True, "d": "on"}
        self.assertEqual(write_pairs(values), "a=1;b=-2.5;c=true;d=on")
        self.assertEqual(read_pairs(write_pairs(values)), values)
        for bad in ({"a;": 1}, {"a": "x;y"}, {"": 1}):
            self.assertRaises(ValueError, write_pairs, bad)

    def test_slices_of_pairs(self):
        """A slice of a body that happens to look like pairs is a slice of its text."""
        self.assertEqual(value("[0:3]", "a=1;b=2"), "a=1")

    def test_fixed_form(self):
        """A form that is fixed is not guessed at."""
        self.assertEqual(value("[:]", '{"a": 1}', "text"), '{"a": 1}')
        self.assertIs(value("${a}", "a=1", "json"), MISSING)
        self.assertIs(value("${a}", '{"a": 1}', "pairs"), MISSING)
        self.assertEqual(value("${a}", "a=1", "pairs"), 1)

    def test_faulty_expressions(self):
        """What cannot be understood is found when the configuration is read."""
        for template in ("${", "${}", "${a[}", "${a.[}"):
            self.assertRaises(ExpressionError, compile_value, template)


class NameTests(SynchronousTestCase):
    """Names of devices."""

    def test_names(self):
        """Made of the body, of the sender, of both; a part that is missing makes no name."""
        for template, text, expected in (
            ("Pump", "x", "Pump"), ("${sn}", '{"sn": " A7 "}', "A7"), ("${sn}", '{"sn": 7}', "7"),
            ("${sn}", "{}", ""), ("${sn}", '{"sn": null}', ""), ("P ${from.local}", "x", "P pump"),
            ("${from.jid}", "x", "pump@example.org/a"), ("${from.bare}/${sn}", '{"sn": 1}', "pump@example.org/1"),
            ("[0:2]", "A7 on", "A7"), ("M[0:2]x", "A7", "MA7x"),
        ):  # fmt: skip
            self.assertEqual(compile_name(template).make(SENDER, read_body(text)), expected, template)

    def test_sender_wins(self):
        """The sender's parts cannot be forged by the body."""
        body = read_body('{"from.local": "x", "from": {"local": "y"}}')
        self.assertEqual(compile_name("${from.local}").make(SENDER, body), "pump")
        self.assertRaises(ExpressionError, compile_name, "${from.name}")

    def test_known_beforehand(self):
        """Whether a name needs a message."""
        for template, needs in (("Pump", False), ("${from.local}", False), ("${a}", True), ("[0]", True)):
            self.assertEqual(compile_name(template).needs_body, needs)
        self.assertEqual(compile_name("${from.resource}").make(SENDER._replace(resource=""), None), "")


class TimeTests(SynchronousTestCase):
    """Times in messages."""

    def test_forms(self):
        """Milliseconds, seconds, ISO 8601 with and without zone, as numbers or texts; nothing else (X-18)."""
        for stated, expected in (
            (1_700_000_000_123, 1_700_000_000_123), (1_700_000_000, 1_700_000_000_000), (1.7e9, 1_700_000_000_000),
            ("1700000000123", 1_700_000_000_123), ("2024-01-01T00:00:00Z", 1_704_067_200_000),
            ("2024-01-01T01:00:00+01:00", 1_704_067_200_000), ("2024-01-01T00:00:00.5", 1_704_067_200_500),
            ("yesterday", None), (True, None), (None, None), ([1], None), (-5, None), (0, None), (1e300, None),
            (float("nan"), None), ("", None), ("9999-99-99", None),
        ):  # fmt: skip
            self.assertEqual(read_time(stated), expected, stated)

    def test_old_stamp(self):
        """XEP-0091's stamp is read as well."""
        self.assertEqual(read_iso_time("20020910T23:08:25"), 1_031_699_305_000)


class AddressTests(SynchronousTestCase):
    """JIDs in their one form."""

    def test_prepared(self):
        """Case of name and domain does not count, that of the resource does."""
        address = parse_jid("Pump@EXAMPLE.org/Line A")
        assert address is not None
        self.assertEqual((address.full, address.bare), ("pump@example.org/Line A", "pump@example.org"))

    def test_none(self):
        """What is no JID is none, whatever it is."""
        for text in ("", "@x", "a@", "/r", "a@b@c/d@", "x" * 5000, "a\0@b", "\ud800@b"):
            found = parse_jid(text)
            self.assertTrue(found is None or found.domain, text)


class AnyBody(SynchronousTestCase):
    """Nothing that a device sends makes the conversion fail (P-21)."""

    @settings(max_examples=60, deadline=None)
    @given(st.text(max_size=60) | st.from_regex(r"[\[{][\"a-c0-9:,\[\]{} .e-]{0,40}"))
    def test_any_body(self, text: str) -> None:
        """Any text gives values that JSON can carry, or none."""
        skipped: list[str] = []
        points = (("a", "${a}"), ("b", "[0:3]"), ("c", "${a.b}:${[0]}"), ("${k}", "${$..x}"), ("e", "x"))
        converter = Converter(points, points, None, skipped.append)
        for form in ("auto", "json", "pairs", "text"):
            body = read_body(text, form)
            for values in converter.convert(body):
                payloads.encode(values)
            converter.time_of(body)
            compile_name("${a}[0:2]").make(SENDER, body)

    @settings(max_examples=100, deadline=None)
    @given(st.text(max_size=40))
    def test_any_jid(self, text: str) -> None:
        """Any text is a JID or none."""
        found = parse_jid(text)
        if found is not None:
            self.assertEqual(parse_jid(found.full), found)

    def test_deep(self) -> None:
        """Deep nesting is text, not a crash."""
        self.assertIs(value("${a}", "[" * 100_000), MISSING)
