"""Tests of the conversion from bytes to values."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.socket.config import Datapoint
from tbgw.connectors.socket.converter import Skipped, compile_converter, compile_requests
from tbgw.connectors.socket.values import decoder
from tests.connectors.socket.fakes import RAW, make_device, request

UTF8 = decoder("utf-8")


class ConverterTests(SynchronousTestCase):
    """`compile_converter`."""

    def convert(
        self,
        message: bytes,
        telemetry: tuple[Datapoint, ...] = RAW,
        attributes: tuple[Datapoint, ...] = (),
        encoding: str = "utf-8",
    ) -> tuple[dict[str, str], dict[str, str]]:
        """What comes out; the skipped keys are in `self.skipped`."""
        self.skipped: list[tuple[str, Skipped]] = []
        device = make_device(telemetry=telemetry, attributes=attributes, encoding=encoding)
        return compile_converter(device, lambda key, why: self.skipped.append((key, why)))(message)[:2]

    def test_documented_example(self) -> None:
        """The example of the specification: the whole, a part, and from a byte to the end."""
        values = self.convert(
            b"T21.5H048", (Datapoint("raw", 0, None), Datapoint("t", 1, 5)), (Datapoint("h", 6, None),)
        )
        self.assertEqual(values, ({"raw": "T21.5H048", "t": "21.5"}, {"h": "048"}))

    def test_negative_ends(self) -> None:
        """Ends below zero count from the end of the message, as in Python."""
        telemetry = (Datapoint("last", -2, None), Datapoint("middle", 1, -2))
        self.assertEqual(self.convert(b"abcde", telemetry)[0], {"last": "de", "middle": "bc"})

    def test_short_message(self) -> None:
        """A key whose bytes are not there is left out; what is there in part is used."""
        telemetry = (Datapoint("a", 0, 2), Datapoint("b", 2, 6), Datapoint("c", 6, 8))
        self.assertEqual(self.convert(b"xxyy", telemetry)[0], {"a": "xx", "b": "yy"})
        self.assertEqual(self.skipped, [("c", Skipped.ABSENT)])

    def test_empty_message(self) -> None:
        """A message of no bytes has no values."""
        self.assertEqual(self.convert(b"", RAW, RAW), ({}, {}))
        self.assertEqual(self.skipped, [("raw", Skipped.ABSENT)] * 2)

    def test_undecodable_bytes(self) -> None:
        """Bytes that are not in the encoding cost their key only, and never become the text of a Python repr."""
        telemetry = (Datapoint("bad", 0, 2), Datapoint("good", 2, None))
        self.assertEqual(self.convert(b"\xff\xfeok", telemetry)[0], {"good": "ok"})
        self.assertEqual(self.skipped, [("bad", Skipped.NOT_DECODED)])

    def test_slice_through_a_character(self) -> None:
        """A slice that cuts a character in two is not decoded."""
        self.assertEqual(self.convert("é".encode(), (Datapoint("half", 0, 1),))[0], {})
        self.assertEqual(self.skipped, [("half", Skipped.NOT_DECODED)])

    def test_hex(self) -> None:
        """`hex` gives the bytes as hexadecimal digits, NUL bytes included."""
        self.assertEqual(self.convert(b"\x00\xff\x10\x00", encoding="hex")[0], {"raw": "00ff1000"})
        self.assertEqual(self.convert(b"\x0a", encoding="HEX")[0], {"raw": "0a"})

    def test_nul_bytes_of_8_bit_encodings(self) -> None:
        """NUL bytes are removed after slicing; a field of nothing else is an empty value."""
        telemetry = (Datapoint("padded", 0, 4), Datapoint("empty", 4, 6), Datapoint("rest", 6, None))
        self.assertEqual(self.convert(b"ab\0\0\0\0\0c\0d", telemetry)[0], {"padded": "ab", "empty": "", "rest": "cd"})

    def test_s21_nul_bytes_are_part_of_wide_characters(self) -> None:
        """S-21: UTF-16 and UTF-32, in all spellings, keep their NUL bytes."""
        for encoding in ("utf-16", "utf-16-le", "utf-16-be", "UTF_32", "utf-32-le", "utf-32-be", "U16"):
            message = "hé\0".encode(encoding)
            self.assertEqual(self.convert(message, encoding=encoding)[0], {"raw": "hé\0"}, encoding)

    def test_other_encodings(self) -> None:
        """Any text encoding that Python knows can be used."""
        self.assertEqual(self.convert(b"\xe9", encoding="latin-1")[0], {"raw": "é"})
        self.assertEqual(self.convert("温".encode("gb18030"), encoding="gb18030")[0], {"raw": "温"})

    def test_encodings_that_are_refused(self) -> None:
        """Unknown names, codecs that make no text, and codecs that can make half characters are refused."""
        for encoding in ("no-such", "base64", "zlib", "rot13", "utf-7", "unicode_escape", "idna", "undefined"):
            device = make_device(encoding=encoding)
            error = self.assertRaises(ValueError, compile_converter, device, lambda key, why: None)
            self.assertIn(repr(encoding), str(error))

    def test_names_are_data(self) -> None:
        """P-20: whatever a device sends, or a key is called, comes through as it is."""
        hostile = "../../x\n#+${raw}{0}%s"
        self.assertEqual(self.convert(hostile.encode(), (Datapoint("{k}"),))[0], {"{k}": hostile})

    @given(
        st.binary(max_size=24),
        st.sampled_from(["utf-8", "ascii", "latin-1", "hex", "utf-16", "utf-16-be", "utf-32", "cp1252", "gb18030"]),
        st.lists(st.tuples(st.integers(-30, 30), st.none() | st.integers(-30, 30)), min_size=1, max_size=4),
    )
    @settings(max_examples=500, deadline=None)
    def test_any_bytes(self, message: bytes, encoding: str, slices: list[tuple[int, int | None]]) -> None:
        """Every key comes out or is told as skipped, never both; every value can travel as JSON in UTF-8."""
        telemetry = tuple(Datapoint(f"k{n}", start, stop) for n, (start, stop) in enumerate(slices))
        values, _ = self.convert(message, telemetry, encoding=encoding)
        self.assertEqual(sorted([*values, *(key for key, _ in self.skipped)]), sorted(one.key for one in telemetry))
        json.dumps(values, ensure_ascii=False).encode("utf-8")


class RequestMatcherTests(SynchronousTestCase):
    """`compile_requests`."""

    def matches(self, expression: str, message: bytes, source: str = "expression") -> bool:
        matcher, faults = compile_requests([request(expression, source)], UTF8)
        self.assertEqual(faults, [])
        assert matcher is not None
        return matcher(message) is not None

    def test_comparison(self) -> None:
        """`${[a:b]==text}` compares the slice, whole, with the text as UTF-8."""
        self.assertTrue(self.matches("${[0:3]==atr}", b"atr name"))
        self.assertFalse(self.matches("${[0:3]==atr}", b"at"))
        self.assertFalse(self.matches("${[0:3]==atr}", b"xatr"))
        self.assertTrue(self.matches("${[2:4]==é}", "ééx".encode()))
        self.assertTrue(self.matches("${[0:3]==a}}}", b"a}}"))

    def test_s05_open_slices_and_single_bytes(self) -> None:
        """S-05: slices with an end left out and single indices, which end the reference's thread, work."""
        self.assertTrue(self.matches("${[:3]==atr}", b"atrx"))
        self.assertTrue(self.matches("${[3:]==x}", b"atrx"))
        self.assertFalse(self.matches("${[3:]==x}", b"atrxx"))
        self.assertTrue(self.matches("${[0]==x}", b"xyz"))
        self.assertTrue(self.matches("${[-1]==z}", b"xyz"))
        self.assertTrue(self.matches("${[-2]==y}", b"xyz"))
        self.assertFalse(self.matches("${[9]==y}", b"xyz"))

    def test_s05_bytes_that_are_no_text(self) -> None:
        """S-05: a message that is not UTF-8 is compared like any other."""
        self.assertFalse(self.matches("${[0:3]==atr}", b"\xff\xfe\xfd"))

    def test_s06_literals(self) -> None:
        """S-06: a text without `${}` is a literal that the message begins with, whatever the source says."""
        for source in ("constant", "expression"):
            self.assertTrue(self.matches("atr", b"atr name", source))
            self.assertFalse(self.matches("atr", b"xatr", source))
        self.assertTrue(self.matches("${[0:3]==atr}", b"${[0:3]==atr}", "constant"))
        self.assertFalse(self.matches("${[0:3]==atr}", b"atr", "constant"))

    def test_faults_match_nothing(self) -> None:
        """Expressions that cannot be understood are told, and the others still work."""
        bad = ["${atr}", "${[a:b]==x}", "${[0:1:2]==x}", "${[]==x}", "", "${[0:3]=atr}", "x${[0:1]==x}"]
        matcher, faults = compile_requests([request(text) for text in [*bad, "${[0:1]==!}"]], UTF8)
        self.assertEqual(faults, bad)
        assert matcher is not None
        self.assertEqual([matcher(message) is not None for message in (b"", b"${atr}", b"!x")], [False, False, True])

    def test_nothing_to_match(self) -> None:
        """Without a usable expression there is no matcher, so that messages are not looked at twice."""
        self.assertEqual(compile_requests([], UTF8), (None, []))
        self.assertEqual(compile_requests([request("${x}")], UTF8), (None, ["${x}"]))

    @given(st.text(max_size=20) | st.text("${}[]:=-0129ab", max_size=20), st.binary(max_size=10))
    @settings(max_examples=500, deadline=None)
    def test_any_expression_any_message(self, expression: str, message: bytes) -> None:
        """No expression and no message ends in an exception."""
        for source in ("expression", "constant"):
            matcher, faults = compile_requests([request(expression, source)], UTF8)
            self.assertEqual(matcher is None, bool(faults))
            if matcher is not None:
                matcher(message)  # raises nothing
