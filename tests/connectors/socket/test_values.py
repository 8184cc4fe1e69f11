"""Typed values: every width and order, text places, JSON, timestamps; and that no bytes can make any of it fail."""

from __future__ import annotations

import json
import struct
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.socket.fields import BYTE_ORDERS, KINDS, TYPES, Datapoint, Field, Timestamp
from tbgw.connectors.socket.values import Message, Skipped, compile_field, compile_timestamp, decoder

UTF8 = decoder("utf-8")


def value(data: bytes, **field: Any) -> Any:
    """What a field finds in a message."""
    return compile_field(Field(**field), UTF8)(Message(data, UTF8))


class BytesTests(SynchronousTestCase):
    """Values that are taken from bytes."""

    def test_integers(self) -> None:
        """Every width in both orders, signed and unsigned; the width of the type ends the slice."""
        for bits in (8, 16, 24, 32, 40, 48, 56, 64):
            for order in ("big", "little"):
                data = (-5).to_bytes(bits // 8, order, signed=True) + b"rest"
                self.assertEqual(value(data, type=f"int{bits}", byte_order=order), -5)
                self.assertEqual(value(data, type=f"uint{bits}", byte_order=order), (1 << bits) - 5)

    def test_free_width(self) -> None:
        """Without a width in the type, the slice is the width."""
        self.assertEqual(value(b"\x01\x02\x03\x04\x05", type="uint", byte_from=1, byte_to=4), 0x020304)
        self.assertEqual(value(b"\xff\xff", type="int"), -1)

    def test_swapped_registers(self) -> None:
        """Devices that send registers the other way round."""
        self.assertEqual(value(bytes.fromhex("03040102"), type="uint32", byte_order="bigSwapped"), 0x01020304)
        self.assertEqual(value(bytes.fromhex("02010403"), type="uint32", byte_order="littleSwapped"), 0x01020304)

    def test_floats(self) -> None:
        """Floats of 2, 4 and 8 bytes; a short one is the number that was meant, not its 64-bit neighbour."""
        self.assertEqual(value(struct.pack(">e", 1.5), type="float16"), 1.5)
        self.assertEqual(value(struct.pack("<f", 21.6), type="float32", byte_order="little"), 21.6)
        self.assertEqual(value(struct.pack(">f", 16777217.0), type="float32"), 16777216.0)
        self.assertEqual(value(struct.pack(">d", 21.6), type="double"), 21.6)

    def test_floats_without_json(self) -> None:
        """What JSON has no form for is no value."""
        for odd in (float("nan"), float("inf"), float("-inf")):
            self.assertIs(value(struct.pack(">f", odd), type="float32"), Skipped.UNFIT)

    @given(st.floats(width=32, allow_nan=False, allow_infinity=False))
    def test_any_single(self, number: float) -> None:
        """Every single comes back as a number that is the same single."""
        data = struct.pack(">f", number)
        self.assertEqual(struct.pack(">f", value(data, type="float32")), data)

    def test_bcd(self) -> None:
        """Packed decimals; a digit above nine is no value."""
        self.assertEqual(value(b"\x12\x34", type="bcd"), 1234)
        self.assertEqual(value(b"\x12\x34", type="bcd", byte_order="little"), 3412)
        self.assertIs(value(b"\x1a", type="bcd"), Skipped.UNFIT)

    def test_bits(self) -> None:
        """Single bits and fields of bits, from the least one on."""
        self.assertEqual([value(b"\x04", type="bool", bit=n) for n in range(4)], [False, False, True, False])
        self.assertEqual(value(b"\x00\x10", type="bool"), True)
        self.assertEqual(value(b"\x00\x00", type="bool"), False)
        self.assertEqual(value(b"\x24", type="bits", bit=4, bits=2), 2)
        self.assertEqual(value(b"\x0f", type="int", bit=0, bits=4), -1)
        self.assertIs(value(b"\x24", type="bits", bit=6, bits=4), Skipped.ABSENT)

    def test_scale_and_names(self) -> None:
        """Scale, offset, decimals and an enumeration."""
        self.assertEqual(value(b"\x00\xd7", type="uint16", scale=0.1), 21.5)
        self.assertEqual(value(b"\x03", type="uint8", scale=0.1), 0.3)
        self.assertEqual(value(b"\x03", type="uint8", scale=2, offset=-1), 5)
        self.assertEqual(value(b"\x07", type="uint8", scale=1 / 3, decimals=2), 2.33)
        names = (("1", "on"), ("0", {"off": True}))
        self.assertEqual([value(bytes([n]), type="uint8", names=names) for n in (0, 1, 2)], [{"off": True}, "on", 2])

    def test_short_message(self) -> None:
        """Half a number is no number."""
        for kind in ("uint32", "float32", "int16", "float64"):
            self.assertIs(value(b"\x01", type=kind), Skipped.ABSENT)

    def test_hex(self) -> None:
        """Bytes as hex, whatever the device's encoding."""
        self.assertEqual(value(b"\x01\xff", type="hex"), "01ff")


class TextTests(SynchronousTestCase):
    """Values that are taken from text and JSON."""

    def test_columns(self) -> None:
        """Columns, without blanks around them; what is not there is absent."""
        self.assertEqual(value(b"a; 5 ;c", separator=";", column=1, type="number"), 5)
        self.assertIs(value(b"a;b", separator=";", column=2), Skipped.ABSENT)

    def test_patterns(self) -> None:
        """Groups by number and name, and the whole match."""
        text = b"T=21.5 H=048"
        self.assertEqual(value(text, pattern=r"T=([\d.]+)", type="number"), 21.5)
        self.assertEqual(value(text, pattern=r"H=(?P<h>\d+)", group="h"), "048")
        self.assertEqual(value(text, pattern=r"H=\d+", group=0), "H=048")
        self.assertIs(value(text, pattern=r"X=(\d+)"), Skipped.ABSENT)
        self.assertIs(value(text, pattern=r"T(x)?"), Skipped.ABSENT)

    def test_json(self) -> None:
        """A lone expression keeps the type; with text around it, it is a text; unresolved is absent."""
        body = b'{"a":{"b":[1,2.5]},"t":"5","on":true}'
        self.assertEqual(value(body, template="${a.b[1]}"), 2.5)
        self.assertEqual(value(body, template="${on}"), True)
        self.assertEqual(value(body, template="${t} V"), "5 V")
        self.assertEqual(value(body, template="${t}", type="int"), 5)
        self.assertIs(value(body, template="${x}"), Skipped.ABSENT)
        self.assertIs(value(b"no json", template="${x}"), Skipped.UNFIT)
        self.assertEqual(value(b'[1,{"a":null}]', type="json"), [1, {"a": None}])

    def test_numbers_in_text(self) -> None:
        """Numbers as devices write them; what is none is unfit, and never becomes a text."""
        for text, number in ((b"048", 48), (b" -2.5e1 ", -25.0), (b"+7", 7), (b".5", 0.5)):
            self.assertEqual(value(text, type="number"), number)
        for text in (b"", b"1,5", b"0x10", b"nan", b"inf", b"1e999", b"1_000", "\u0663".encode()):
            self.assertIsInstance(value(text, type="number"), Skipped, text)
        words = [value(text, type="bool", column=0) for text in (b"ON", b"false", b"x")]
        self.assertEqual(words, [True, False, Skipped.UNFIT])


class TimestampTests(SynchronousTestCase):
    """The message's own time."""

    def at(self, data: bytes, **field: Any) -> Any:
        return compile_timestamp(Timestamp(**field), UTF8)(Message(data, UTF8))

    def test_forms(self) -> None:
        """Numbers in four units, ISO texts, forms of one's own; UTC unless the text says."""
        self.assertEqual(self.at(b"1700000000", unit="s"), 1_700_000_000_000)
        self.assertEqual(self.at(b"1700000000.25", unit="s"), 1_700_000_000_250)
        self.assertEqual(self.at((1_700_000_000).to_bytes(4), type="uint32", unit="s"), 1_700_000_000_000)
        self.assertEqual(self.at(b"2023-11-14T22:13:20", format="ISO"), 1_700_000_000_000)
        self.assertEqual(self.at(b"2023-11-14T23:13:20+01:00"), 1_700_000_000_000)
        self.assertEqual(self.at(b"x,14.11.23 22:13:20", column=1, format="%d.%m.%y %H:%M:%S"), 1_700_000_000_000)

    def test_impossible_times(self) -> None:
        """What no device means is no time."""
        for data in (b"yesterday", b"-5", b"99999999999999999", b""):
            self.assertIsInstance(self.at(data), Skipped, data)


class FuzzTests(SynchronousTestCase):
    """Any bytes through any field."""

    @given(
        st.binary(max_size=40),
        st.sampled_from(TYPES),
        st.sampled_from(BYTE_ORDERS),
        st.integers(-12, 12),
        st.none() | st.integers(-12, 12),
        st.none() | st.integers(0, 70),
        st.none() | st.integers(1, 64),
        st.none() | st.floats(-1e6, 1e6),
        st.sampled_from(["slice", "regex", "column", "value"]),
        st.sampled_from(["utf-8", "hex", "utf-16", "latin-1"]),
    )
    @settings(max_examples=800, deadline=None)
    def test_any_bytes_any_field(
        self, data, kind, order, start, stop, bit, bits, scale, place, encoding
    ):
        """A value that can travel as JSON, or a reason; never an exception."""
        choices: dict[str, dict[str, Any]] = {
            "slice": {},
            "regex": {"pattern": r"(\d+|.)"},
            "column": {"column": 1},
            "value": {"template": "${a[0].b}"},
        }
        places = choices[place]
        field = Datapoint(
            key="k",
            byte_from=start,
            byte_to=stop,
            type=kind,
            byte_order=order,
            bit=bit,
            bits=bits,
            scale=scale,
            **places,
        )
        decode = decoder(encoding)
        found = compile_field(field, decode)(Message(data, decode))
        if not isinstance(found, Skipped):
            json.dumps(found, allow_nan=False).encode()

    @given(
        st.recursive(
            st.none() | st.integers() | st.text(max_size=3),
            lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from("ab"), inner),
            max_leaves=8,
        ),
        st.sampled_from([one for one in KINDS if one != "bits"]),
    )
    @settings(max_examples=300, deadline=None)
    def test_any_json(self, body: Any, kind: str) -> None:
        """Any JSON through a type."""
        found = value(json.dumps(body).encode(), template="${a}", type=kind, scale=2.5)
        if not isinstance(found, Skipped):
            json.dumps(found, allow_nan=False)
