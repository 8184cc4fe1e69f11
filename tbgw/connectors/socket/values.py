# -*- test-case-name: tests.connectors.socket.test_values -*-
"""From a place in a message to a value of its type, compiled once. Pure.

A compiled field is a function of a `Message`, which decodes its text and parses its JSON when the first field asks for
them, and once. It gives the value, or why there is none; whatever the bytes are, it raises nothing.

* Integers and floats of every width in four byte orders, packed BCD, bits; numbers that stand in a text.
* `scale` and `offset` keep a whole number whole where they are whole; else the result is rounded to 12 significant
  digits, so that 21.5 does not become 21.500000000000004.
* A float that is no number, or without end, has no form in JSON, and so is no value.
* An enumeration replaces what it names and leaves the rest as it is.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from math import isfinite
from typing import Any

from tbgw.connectors.socket.fields import Field, Timestamp
from tbgw.expressions import MISSING, Evaluate, compile_template
from tbgw.model import Value
from tbgw.thingsboard import payloads

_UNFIT = frozenset({"utf-7", "unicode-escape", "raw-unicode-escape", "idna", "punycode", "undefined"})
"""Text codecs that are not for device data; the first three can yield half characters that JSON cannot carry."""

MAX_TIMESTAMP_MS = 7_258_118_400_000
"""1 January 2200. A later time, or one before 1970, is none that a device means."""

_FLOATS = {2: struct.Struct(">e"), 4: struct.Struct(">f"), 8: struct.Struct(">d")}
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_WHOLE = re.compile(r"[+-]?[0-9]{1,30}")
_TRUE = frozenset({"true", "on", "yes", "1"})
_FALSE = frozenset({"false", "off", "no", "0", ""})


class Skipped(Enum):
    """Why a key got no value."""

    ABSENT = "absent"
    """The message is too short for it, or has no such column, match or member."""
    NOT_DECODED = "not decoded"
    """The bytes are no text in the device's encoding."""
    UNFIT = "unfit"
    """There is something, which is no value of the type."""


class Message:
    """One message, decoded and parsed at most once."""

    __slots__ = ("_decode", "_json", "_text", "data")

    def __init__(self, data: bytes, decode: Callable[[bytes], str]) -> None:
        self.data = data
        self._decode = decode
        self._text: str | Skipped | None = None
        self._json: Any = None

    def text(self) -> str | Skipped:
        """All of it as text."""
        if self._text is None:
            self._text = _decoded(self.data, self._decode)
        return self._text

    def part(self, where: slice) -> str:
        """These bytes as text, without blanks and NULs around it; '' when they are none."""
        try:
            return self._decode(self.data[where]).strip(" \t\r\n\0")
        except UnicodeError:
            return ""

    def json(self) -> Any:
        """All of it as JSON; MISSING when it is none."""
        if self._json is None:
            text = self.text()
            self._json = MISSING if isinstance(text, Skipped) else _json_of(text)
        return self._json


Extract = Callable[[Message], Any]
"""A value or, as a `Skipped`, why there is none."""


def decoder(encoding: str) -> Callable[[bytes], str]:
    """
    Bytes to text. `hex` gives hex digits; in 8-bit encodings NUL bytes are removed, as in the reference. Raises
    ValueError when the encoding is unknown or unfit; what it returns raises UnicodeError.
    """
    if encoding.lower() == "hex":
        return bytes.hex
    try:
        name = codecs.lookup(encoding).name.replace("_", "-")
        b"0000".decode(encoding)  # LookupError for codecs from bytes to bytes, such as base64
    except LookupError:
        raise ValueError(f"{encoding!r} is not the name of a text encoding") from None
    except UnicodeError:
        pass  # the probe is no text in this encoding, which is no reason to refuse it
    if name in _UNFIT:
        raise ValueError(f"{encoding!r} is no encoding for what devices send")
    if name.startswith(("utf-16", "utf-32")):
        return lambda part: part.decode(encoding)
    return lambda part: part.decode(encoding) if 0 not in part else part.replace(b"\0", b"").decode(encoding)


def encoder(encoding: str) -> Callable[[str], bytes]:
    """Text to bytes; what it returns raises ValueError (UnicodeError is one) for what the encoding cannot say."""
    if encoding.lower() == "hex":
        return bytes.fromhex
    return lambda text: text.encode(encoding)


def compile_field(field: Field, decode: Callable[[bytes], str]) -> Extract:
    """What takes this field's value out of a message. `decode` is for its text."""
    convert = _conversion(field)
    if field.template is not None:
        return _with(_from_json(compile_template(field.template)), convert)
    if not field.from_text:
        where = slice(field.byte_from, field.end)
        return lambda message: convert(part) if (part := message.data[where]) else Skipped.ABSENT
    text = _text_of(field, decode)
    if field.pattern is not None:
        return _with(_from_pattern(text, re.compile(field.pattern), field.group), convert)
    if field.column is not None:
        return _with(_from_column(text, field.separator, field.column), convert)
    return _with(text, convert)


def compile_timestamp(field: Timestamp, decode: Callable[[bytes], str]) -> Callable[[Message], int | Skipped]:
    """A message's own time, in ms since the epoch."""
    extract = compile_field(field, decode)
    per_ms = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}[field.unit]
    form = field.format

    def of_text(text: str) -> int | Skipped:
        try:
            if form in (None, "ISO", "iso"):
                found = datetime.fromisoformat(text.strip())
            else:
                found = datetime.strptime(text.strip(), str(form))  # noqa: DTZ007 - given its zone below
            if found.tzinfo is None:
                found = found.replace(tzinfo=UTC)
            return int(found.timestamp() * 1000)
        except (ValueError, OverflowError):
            return Skipped.UNFIT

    def timestamp(message: Message) -> int | Skipped:
        value = extract(message)
        if isinstance(value, str):
            plain = form is None and _NUMBER.fullmatch(value.strip())
            value = float(value) * per_ms if plain else of_text(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            value = value * per_ms
        elif not isinstance(value, Skipped):
            return Skipped.UNFIT
        if isinstance(value, Skipped):
            return value
        return int(value) if 0 <= value <= MAX_TIMESTAMP_MS else Skipped.UNFIT

    return timestamp


# Places.


def _with(place: Extract, convert: Callable[[Any], Any]) -> Extract:
    def extract(message: Message) -> Any:
        found = place(message)
        return found if isinstance(found, Skipped) else convert(found)

    return extract


def _text_of(field: Field, decode: Callable[[bytes], str]) -> Extract:
    if field.byte_from == 0 and field.byte_to is None:
        return Message.text
    where = slice(field.byte_from, field.byte_to)
    return lambda message: _decoded(message.data[where], decode)


def _decoded(part: bytes, decode: Callable[[bytes], str]) -> str | Skipped:
    if not part:
        return Skipped.ABSENT
    try:
        return decode(part)
    except UnicodeError:
        return Skipped.NOT_DECODED


def _from_json(evaluate: Evaluate) -> Extract:
    def extract(message: Message) -> Any:
        body = message.json()
        if body is MISSING:
            return Skipped.UNFIT
        value = evaluate(body)
        return Skipped.ABSENT if value is MISSING else value

    return extract


def _from_pattern(text: Extract, pattern: re.Pattern[str], group: int | str) -> Extract:
    def extract(message: Message) -> Any:
        whole = text(message)
        if isinstance(whole, Skipped):
            return whole
        match = pattern.search(whole)
        found = match[group] if match else None
        return Skipped.ABSENT if found is None else found

    return extract


def _from_column(text: Extract, separator: str, column: int) -> Extract:
    def extract(message: Message) -> Any:
        whole = text(message)
        if isinstance(whole, Skipped):
            return whole
        columns = whole.split(separator, column + 1)
        return columns[column].strip() if column < len(columns) else Skipped.ABSENT

    return extract


# Types.


def _conversion(field: Field) -> Callable[[Any], Any]:
    """Raw (bytes; or, from a text or JSON, a str or any JSON value) to the value."""
    raw = _of_text(field) if field.from_text else _of_bytes(field)
    steps = [raw]
    if field.scale is not None or field.offset is not None or field.decimals is not None:
        steps.append(_scaled(field.scale, field.offset, field.decimals))
    if field.names:
        names = dict(field.names)
        steps.append(lambda value: names.get(_name_of(value), value))
    if len(steps) == 1:
        return raw

    def convert(value: Any) -> Any:
        for step in steps:
            value = step(value)
            if isinstance(value, Skipped):
                return value
        return value

    return convert


def _of_bytes(field: Field) -> Callable[[bytes], Any]:
    in_order = _ordering(field.byte_order)
    kind, bit, bits = field.kind, field.bit, field.bits
    if kind == "hex":
        return bytes.hex
    if kind == "bcd":
        return lambda part: _bcd(in_order(part))
    if kind == "float":
        return lambda part: _float(in_order(part))
    if kind == "bool":
        if bit is None:
            return lambda part: part.count(0) != len(part)
        return lambda part: (
            bool(int.from_bytes(in_order(part)) >> bit & 1) if bit < 8 * len(part) else Skipped.ABSENT
        )
    if bit is not None or bits is not None:
        return _bit_field(in_order, bit or 0, bits, kind == "int")
    signed = kind == "int"
    stated = field.end is not None and (field.end < 0) == (field.byte_from < 0)
    width = field.end - field.byte_from if stated and field.end is not None else 0

    def integer(part: bytes) -> Any:
        if width and len(part) < width:
            return Skipped.ABSENT  # half a number is none
        if len(part) > 32:
            return Skipped.UNFIT
        return int.from_bytes(in_order(part), signed=signed)

    return integer


def _bit_field(in_order: Callable[[bytes], bytes], bit: int, bits: int | None, signed: bool) -> Callable[[bytes], Any]:
    width = bits or 1
    mask = (1 << width) - 1

    def extract(part: bytes) -> Any:
        if bit + width > 8 * len(part):
            return Skipped.ABSENT
        value = int.from_bytes(in_order(part)) >> bit & mask
        return value - (1 << width) if signed and value >> (width - 1) else value

    return extract


def _ordering(order: str) -> Callable[[bytes], bytes]:
    """What puts the bytes into the order most significant first."""
    if order == "big":
        return lambda part: part
    if order == "little":
        return lambda part: part[::-1]

    def swap_registers(part: bytes) -> bytes:
        return b"".join([part[at : at + 2] for at in range(len(part) - 2, -1, -2)]) if len(part) % 2 == 0 else part

    if order == "bigSwapped":
        return swap_registers
    return lambda part: swap_registers(part)[::-1]


def _bcd(part: bytes) -> Any:
    digits = part.hex()
    return int(digits) if digits.isdigit() and len(digits) <= 64 else Skipped.UNFIT


def _float(part: bytes) -> Any:
    form = _FLOATS.get(len(part))
    if form is None:
        return Skipped.ABSENT
    (value,) = form.unpack(part)
    if not isfinite(value):
        return Skipped.UNFIT
    if len(part) == 8:
        return value
    # The shortest number that is this one in so few bits: 21.6, and not what the rest of 64 bits would make of it.
    for digits in range(3, 10):
        near = float(f"{value:.{digits}g}")
        try:
            if form.pack(near) == part:
                return near
        except OverflowError:  # the largest numbers of the short form, rounded up
            continue
    return value


def _of_text(field: Field) -> Callable[[Any], Any]:
    kind = field.kind
    from_json = field.template is not None
    if kind == "string":
        # A lone ${...} keeps the type that it has in the JSON.
        return lambda value: value
    if kind in ("number", "float", "bits", "bcd"):
        return _number
    if kind in ("int", "uint"):
        return _whole
    if kind == "bool":
        return _flag
    if kind == "json":
        return (lambda value: value) if from_json else _json_value
    return lambda value: value.encode().hex() if isinstance(value, str) else Skipped.UNFIT


def _number(value: Any) -> Any:
    if isinstance(value, str):
        text = value.strip()
        if _WHOLE.fullmatch(text):
            return int(text)
        value = float(text) if len(text) < 400 and _NUMBER.fullmatch(text) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        return Skipped.UNFIT
    return value


def _whole(value: Any) -> Any:
    found = _number(value)
    if isinstance(found, float):
        return int(found) if found.is_integer() else Skipped.UNFIT
    return found


def _flag(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    return True if word in _TRUE else False if word in _FALSE else Skipped.UNFIT


def _json_of(text: str) -> Any:
    try:
        return payloads.decode(text.encode())
    except ValueError:
        return MISSING


def _json_value(text: str) -> Any:
    value = _json_of(text)
    return Skipped.UNFIT if value is MISSING else value


def _scaled(scale: float | None, offset: float | None, decimals: int | None) -> Callable[[Any], Any]:
    factor, added = 1 if scale is None else scale, 0 if offset is None else offset

    def apply(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return value  # a text of JSON that is no number stays as it is
        try:
            value = value * factor + added
            if isinstance(value, float):
                value = float(f"{value:.12g}") if decimals is None else round(value, decimals)
                return value if isfinite(value) else Skipped.UNFIT
        except OverflowError:
            return Skipped.UNFIT
        return value

    return apply


def _name_of(value: Value) -> str:
    """How an enumeration's key spells a value."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return payloads.encode(value).decode()
