"""What ThingsBoard makes of JSON values (spec thingsboard-mqtt, 2.2 and 2.3)."""

from __future__ import annotations

import json

from twisted.trial import unittest

from tbgw.sandbox import values
from tbgw.sandbox.values import BadPayload, ConversionFault

NOW = 1_700_000_000_000


def one(text: str):
    """The stored form of the value written as `text`."""
    return values.stored_values(values.parse(b'{"k":%b}' % text.encode()))[0][1]


class TypingTests(unittest.SynchronousTestCase):
    """Section 2.3, row by row."""

    def check(self, table):
        for text, expected in table.items():
            stored = one(text)
            self.assertEqual((stored, type(stored)), (expected, type(expected)), text)

    def test_plain_values(self):
        """Booleans, texts, numbers, arrays and objects get their own types."""
        self.check(
            {
                "true": b"true",
                "false": b"false",
                '"text"': "text",
                '""': "",
                "11": 11,
                "-0": 0,
                "3.0": 3.0,
                "1.5": 1.5,
                '{"a": [1, "x", null, "7"]}': b'{"a":[1,"x",null,"7"]}',
                "[]": b"[]",
                '{"\\u00e4": 1}': '{"ä":1}'.encode(),
            }
        )

    def test_exponents(self):
        """A number with an exponent is a LONG when it is integral, else a DOUBLE."""
        self.check({"1E+1": 10, "1e3": 1000, "1.5e1": 15, "101E-1": 10.1, "0E5": 0, "-2e0": -2, "100e-2": 1})

    def test_type_cast_off(self):
        """Without the type cast texts stay texts, and a number that fits no type is refused (8.12: 118)."""
        root = values.parse(b'{"a":"007","b":1,"c":1.5,"d":"x","e":1E3,"f":null,"g":[1],"h":true}')
        expected = {"a": "007", "b": 1, "c": 1.5, "d": "x", "e": 1000, "g": b"[1]", "h": b"true"}
        self.assertEqual(dict(values.stored_values(root, type_cast=False)), expected)
        for text in (b"99701010061400066001", b"1E19", b"0.12345678901234567"):
            root = values.parse(b'{"a":1,"k":%b}' % text)
            self.assertRaises(BadPayload, values.stored_values, root, type_cast=False)
            self.assertRaises(BadPayload, values.telemetry, [root], NOW, type_cast=False)
            self.assertRaises(BadPayload, values.child_telemetry, [root], NOW, type_cast=False)
            self.assertRaises(BadPayload, values.attributes, root, type_cast=False)

    def test_out_of_range(self):
        """What fits neither 64 bits nor 16 decimals becomes the text of its plain digits."""
        self.check(
            {
                "9223372036854775807": 2**63 - 1,
                "-9223372036854775808": -(2**63),
                "9223372036854775808": "9223372036854775808",
                "99701010061400066001": "99701010061400066001",
                "1E19": "10000000000000000000",
                "9.9701010061400066E19": "99701010061400066000",
                "0.1234567890123456": 0.1234567890123456,
                "0.12345678901234567": "0.12345678901234567",
                "0.30000000000000004": "0.30000000000000004",
                "12345.1234567890123456": 12345.1234567890123456,
                "1e-17": "0.00000000000000001",
                "1" * 400 + ".5": "1" * 400 + ".5",
            }
        )

    def test_numeric_texts(self):
        """Texts that look numeric are cast, however many leading zeros they bear."""
        self.check(
            {
                '"11"': 11,
                '"007"': 7,
                '"-3"': -3,
                '"1.0"': 1.0,
                '".5"': 0.5,
                '"-.5"': -0.5,
                '"00000000000000000000007"': 7,
                '"9223372036854775808"': "9223372036854775808",
                '"0.12345678901234567"': "0.12345678901234567",
            }
        )

    def test_texts_that_stay(self):
        """Texts that the server's rule does not call numeric stay texts."""
        for text in ("", "+3", "1e5", " 5", "5 ", "1.", ".", "-", "-.", "0x1F", "1,000", "1.2.3", "--1", "7\n", "NaN"):
            self.assertEqual(one(json.dumps(text)), text)

    def test_long_digits_stay_text(self):
        """A text of very many digits is left alone, and quickly."""
        digits = "1" * 60_000
        self.assertEqual(one(f'"{digits}"'), digits)
        self.assertEqual(one(f'"{digits}x"'), digits + "x")

    def test_null_is_skipped(self):
        """null leaves no value."""
        self.assertEqual(values.stored_values({"a": None, "b": 1}), [("b", 1)])

    def test_number_bombs(self):
        """A number whose plain form would be enormous is refused, not written out."""
        for text in ("1E999999999", "1E-999999999", "1e99999999999999999999", "[1e400]", "9" * 5000):
            self.assertRaises(BadPayload, one, text)

    def test_plain_gives_json_values_back(self):
        """`plain` turns every stored form into the JSON value."""
        for text, expected in (("true", True), ('{"a":[1]}', {"a": [1]}), ('"x"', "x"), ("1.5", 1.5), ("7", 7)):
            self.assertEqual(values.plain(one(text)), expected)


class ParseTests(unittest.SynchronousTestCase):
    """Strict JSON."""

    def test_lenient_forms_are_refused(self):
        """What only Gson takes is refused."""
        for payload in (
            b"",
            b" ",
            b"{'a':1}",
            b"{a:1}",
            b'{"a":1,}',
            b'{"a":1} x',
            b'{"a":NaN}',
            b'{"a":-Infinity}',
            b'{"a":01}',
            b'{"a":0x1F}',
            b"/**/{}",
            b"\xef\xbb\xbf{}",
            b'{"a":"\n"}',
        ):
            self.assertRaises(BadPayload, values.parse, payload)

    def test_duplicates(self):
        """Of two members with one name the last one counts."""
        self.assertEqual(values.parse(b'{"a":1,"a":2}'), {"a": 2})

    def test_depth(self):
        """Values may be nested to a depth, and no deeper; a bomb is refused like any bad payload."""
        depth = values.MAX_DEPTH
        self.assertEqual(one("[" * depth + "]" * depth), b"[" * depth + b"]" * depth)
        self.assertRaises(BadPayload, one, "[" * (depth + 1) + "]" * (depth + 1))
        self.assertRaises(BadPayload, one, '{"a":' * (depth + 1) + "1" + "}" * (depth + 1))
        self.assertRaises(BadPayload, values.parse, b"[" * 60_000)

    def test_broken_text(self):
        """Bytes that are not UTF-8, and lone surrogates, are replaced, so that they can be stored."""
        self.assertEqual(values.parse(b'{"a":"\xff"}'), {"a": "\ufffd"})
        self.assertEqual(values.parse(b'{"\\ud800":["\\udfff","\\ud83d\\ude00"]}'), {"?": ["?", "\U0001f600"]})


class TelemetryTests(unittest.SynchronousTestCase):
    """Section 2.2."""

    def read(self, text: str):
        return values.telemetry(values.parse(text.encode()), NOW)

    def test_shapes(self):
        """One object or an array of them; timed only with both `ts` and `values`."""
        self.assertEqual(self.read('{"a":1}'), [(NOW, [("a", 1)])])
        self.assertEqual(self.read('{"ts":5,"values":{"a":1},"b":2}'), [(5, [("a", 1)])])
        self.assertEqual(self.read('[{"a":1},{"ts":5,"values":{"b":2}}]'), [(NOW, [("a", 1)]), (5, [("b", 2)])])
        self.assertEqual(self.read('{"ts":1,"a":2}'), [(NOW, [("ts", 1), ("a", 2)])])
        self.assertEqual(self.read('{"values":{"a":1}}'), [(NOW, [("values", b'{"a":1}')])])
        self.assertEqual(self.read("{}"), [(NOW, [])])
        self.assertEqual(self.read("[]"), [])

    def test_bad_shapes(self):
        """Other roots, elements and `values` cannot be converted."""
        for text in ("null", "1", '"a"', "true", "[1]", '[{"a":1},null]', '{"ts":1,"values":[]}', "[[]]"):
            self.assertRaises(BadPayload, self.read, text)

    def test_timestamps(self):
        """Numbers are truncated and wrap, numeric texts and arrays of one are taken."""
        for text, expected in {
            "1451649600512": 1451649600512,
            "-5": -5,
            "1.9": 1,
            "-1.9": -1,
            "1.5e3": 1500,
            '"1451649600512"': 1451649600512,
            '"+5"': 5,
            '[["7"]]': 7,
            "9223372036854775808": -(2**63),
            "18446744073709551617": 1,
        }.items():
            self.assertEqual(self.read(f'{{"ts":{text},"values":{{}}}}'), [(expected, [])], text)

    def test_bad_timestamps(self):
        """Any other `ts` is a fault of the conversion, not merely a bad payload."""
        for text in ("null", "true", '"abc"', '""', "{}", "[]", "[1,2]", '"1.5"', '"9223372036854775808"', "1e9999"):
            self.assertRaises(ConversionFault, self.read, f'{{"ts":{text},"values":{{}}}}')

    def test_metadata(self):
        """A child's element may bear metadata of the right shape, which is not a value."""
        good = {"connector": "c", "receivedTs": 1, "publishedTs": 2, "more": 3}
        elements = [{"a": 1, "metadata": good}, {"ts": 1, "values": {"b": 2}, "metadata": good}, {"c": 3}]
        self.assertEqual(values.child_telemetry(elements, NOW), [(NOW, [("a", 1)]), (1, [("b", 2)]), (NOW, [("c", 3)])])
        bad: object
        for bad in (None, [], {}, {**good, "connector": 1}, {"connector": "c", "receivedTs": 1}):
            elements[2] = {"c": 1, "metadata": bad}
            self.assertRaises((BadPayload, ConversionFault), values.child_telemetry, elements, NOW)
