# -*- test-case-name: tests.connectors.test_socket_config -*-
"""How a socket connector's file says where in a message a value stands, and what it is; and the readers for bytes,
encodings and times that the other sections use as well.

A value is described by its place (a slice of bytes, and within its text a regular expression, a column or a `${...}` of
a JSON body), its type, and what is done with it (bits, scale, offset, enumeration). An entry without any of the new
keys is what it always was: a slice that becomes a text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tbgw.config.schema import (
    Node,
    Refused,
    Reporter,
    config_section,
    did_you_mean,
    integer,
    one_of,
    printable,
    read_expression,
    read_integer,
    read_object,
    read_section,
    read_text,
    report_strategy,
    setting,
)
from tbgw.expressions import ExpressionError, compile_template
from tbgw.model import ReportStrategy, Value

MAX_DELIMITER_BYTES = 16
MAX_OFFSET = 1 << 30
MAX_PATTERN_CHARACTERS = 1000
MAX_INTEGER_BYTES = 32
"""Widest integer that is read from bytes."""

_NOT_FOR_DATA = ("utf-7", "unicode-escape", "raw-unicode-escape", "idna", "punycode", "undefined")
"""Python's text codecs that are no encodings of what devices send; some yield what JSON cannot carry."""
_USUAL_ENCODINGS = ("utf-8", "hex", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "latin-1")

_OFFSET = read_integer(-MAX_OFFSET, MAX_OFFSET)

BYTE_ORDERS = ("big", "little", "bigSwapped", "littleSwapped")
"""The swapped ones are of devices that send the 16-bit registers of a wider value the other way round: bytes 1 2 3 4 of
a value travel as 3 4 1 2 (bigSwapped) or 2 1 4 3 (littleSwapped)."""

_WIDTHS: dict[str, tuple[str, int]] = {
    **{f"{sign}int{bits}": (f"{sign}int", bits // 8) for sign in ("", "u") for bits in (8, 16, 24, 32, 40, 48, 56, 64)},
    "float16": ("float", 2),
    "float32": ("float", 4),
    "float64": ("float", 8),
    "double": ("float", 8),
}
"""Type names that say their width, to the plain type and the width in bytes."""
KINDS = ("string", "hex", "int", "uint", "float", "bcd", "bool", "bits", "number", "json")
TYPES = (*KINDS, *_WIDTHS)


def _read_key(node: Node, reporter: Reporter) -> str:
    key = read_text(node, reporter)
    if key != key.strip():
        raise Refused("begins or ends with a blank, which ThingsBoard does not allow in a key")
    return key


def _read_end(node: Node, reporter: Reporter) -> int | None:
    end: int = _OFFSET(node, reporter)
    return None if end == -1 else end


def read_encoding(node: Node, reporter: Reporter) -> str:
    """`hex`, or the name of one of Python's text codecs that suits data of devices."""
    name = read_text(node, reporter).strip()
    if name.lower() == "hex":
        return "hex"
    try:
        "".encode(name)  # unlike a look-up, this refuses codecs that are not of text, such as base64
        fit = name.lower().replace("_", "-") not in _NOT_FOR_DATA
    except (LookupError, ValueError):
        fit = False
    if not fit:
        hint = did_you_mean(name, _USUAL_ENCODINGS)
        raise Refused(
            f'"{printable(name)}" is no encoding; allowed are {", ".join(_USUAL_ENCODINGS)} and other text '
            f"encodings of Python{hint}"
        )
    return name


def _text_of(node: Node) -> str:
    """A text that may be blank, as a delimiter may."""
    if not isinstance(node.value, str):
        raise Refused(f"is {node.kind}, must be a text in double quotes")
    return node.value


def read_bytes_text(node: Node, reporter: Reporter) -> bytes:
    r"""A few bytes as text, with \n \r \t \0 \xHH and \\."""
    stated = _text_of(node)
    known = {"n": b"\n", "r": b"\r", "t": b"\t", "0": b"\0", "\\": b"\\"}
    found = b""
    for plain, escape in re.findall(r"([^\\])|\\(x[0-9a-fA-F]{2}|.?)", stated, re.DOTALL):
        if plain:
            found += plain.encode()
        elif len(escape) == 3:
            found += bytes.fromhex(escape[1:])
        elif escape in known:
            found += known[escape]
        else:
            raise Refused("has a backslash that is not one of \\n \\r \\t \\0 \\xHH or \\\\")
    return _fit_bytes(found)


def read_bytes_hex(node: Node, reporter: Reporter) -> bytes:
    """The same as pairs of hex digits."""
    try:
        found = bytes.fromhex(read_text(node, reporter))
    except ValueError:
        raise Refused("must be pairs of hex digits, such as 0d0a") from None
    return _fit_bytes(found)


def _fit_bytes(found: bytes) -> bytes:
    if not 1 <= len(found) <= MAX_DELIMITER_BYTES:
        raise Refused(f"has {len(found)} bytes, must have 1 to {MAX_DELIMITER_BYTES}")
    return found


def read_number(node: Node, reporter: Reporter) -> float:
    """A number, whole or not."""
    value = node.value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e18:
        raise Refused(f"is {node.kind}, must be a number")
    return value


def read_template(node: Node, reporter: Reporter) -> str:
    """A text with `${...}` in it that can be compiled."""
    template = read_expression(node, reporter)
    try:
        compile_template(template)
    except ExpressionError as error:
        raise Refused(str(error)) from None
    return template


def _read_pattern(node: Node, reporter: Reporter) -> str:
    pattern = read_text(node, reporter)
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise Refused(f"is longer than {MAX_PATTERN_CHARACTERS} characters")
    try:
        re.compile(pattern)
    except re.error as error:
        raise Refused(f"is no regular expression: {error}") from None
    return pattern


def _read_group(node: Node, reporter: Reporter) -> int | str:
    if isinstance(node.value, str) and node.value.isidentifier():
        return node.value
    found: int = read_integer(0, 99)(node, reporter)
    return found


def _read_map(node: Node, reporter: Reporter) -> tuple[tuple[str, Value], ...]:
    return tuple((key, child.plain()) for key, child in read_object(node, reporter).items())


def _read_type(node: Node, reporter: Reporter) -> str:
    if not isinstance(node.value, str):
        raise Refused(f"is {node.kind}, must be one of {', '.join(TYPES)}")
    if node.value not in TYPES:
        raise Refused(
            f'is "{printable(node.value)}", must be one of {", ".join(TYPES)}{did_you_mean(node.value, TYPES)}'
        )
    return node.value


@config_section
class Field:
    """Where a value stands in a message and what it is."""

    key: str = ""
    byte_from: int = setting(
        "byteFrom",
        read=_OFFSET,
        default=0,
        unit="bytes",
        doc="First byte; a negative one counts from the end, as in Python.",
    )
    byte_to: int | None = setting(
        "byteTo",
        read=_read_end,
        default=None,
        unit="bytes",
        doc="First byte that is not taken; -1 (here: None) is the end of the message, other negatives as in Python.",
    )
    type: str = setting("type", read=_read_type, default="string", doc="What the value is.")
    byte_order: str = one_of(
        "byteOrder", choices=BYTE_ORDERS, default="big", doc="Order of the bytes of an integer or a float."
    )
    bit: int | None = integer(
        "bit", minimum=0, maximum=255, default=None, unit="bits", doc="Lowest bit that is taken; 0 is the least."
    )
    bits: int | None = integer("bits", minimum=1, maximum=64, default=None, unit="bits", doc="How many bits.")
    pattern: str | None = setting(
        "regex", read=_read_pattern, default=None, doc="Regular expression that is searched in the text."
    )
    group: int | str = setting(
        "group", read=_read_group, default=1, unit="groups", doc="Which of its groups is the value; 0 is all of it."
    )
    separator: str = setting(
        "separator", read=lambda node, _: _text_of(node), default=",", doc="What stands between columns."
    )
    column: int | None = integer(
        "column", minimum=0, maximum=10_000, default=None, unit="columns", doc="Which column is the value; from 0."
    )
    template: str | None = setting(
        "value", read=read_template, default=None, doc="Expression over the message as JSON, such as ${body.temp}."
    )
    scale: float | None = setting("scale", read=read_number, default=None, unit="factor", doc="Is multiplied by this.")
    offset: float | None = setting("offset", read=read_number, default=None, unit="offset", doc="This is added then.")
    decimals: int | None = integer(
        "decimals", minimum=0, maximum=15, default=None, unit="decimals", doc="Rounded to so many."
    )
    names: tuple[tuple[str, Value], ...] = setting(
        "map", read=_read_map, default=(), doc="Enumeration: what the value is replaced by; others stay."
    )

    @property
    def plain(self) -> bool:
        """Whether it is no more than a slice that becomes a text."""
        return (
            self.type == "string"
            and self.pattern is None
            and self.column is None
            and self.template is None
            and not self.names
        )

    @property
    def kind(self) -> str:
        """The type without its width."""
        return _WIDTHS.get(self.type, (self.type, 0))[0]

    @property
    def from_text(self) -> bool:
        """Whether the value is taken from a text or a JSON body, and not from bytes."""
        return (
            self.pattern is not None
            or self.column is not None
            or self.template is not None
            or self.kind in ("string", "number", "json")
        )

    @property
    def end(self) -> int | None:
        """First byte that is not taken: as configured, or what the width of the type says."""
        width = _WIDTHS.get(self.type, ("", 0))[1]
        if self.byte_to is not None or not width or self.from_text:
            return self.byte_to
        return self.byte_from + width or None


@config_section
class Datapoint(Field):
    """One entry of `telemetry` or `attributes`: a value of the message, stored under a key."""

    key: str = setting("key", read=_read_key, doc="Name of the value in ThingsBoard.")
    report: ReportStrategy | None = report_strategy("When this value is sent on.")


@config_section
class Timestamp(Field):
    """`timestamp` of a device: where a message says its own time."""

    unit: str = one_of(
        "unit", choices=("s", "ms", "us", "ns"), default="ms", doc="Unit of a number, since 1970 in UTC."
    )
    format: str | None = setting(
        "format",
        read=read_text,
        default=None,
        doc="Form of a text: ISO, or one of Python's strptime; UTC if it does not say.",
    )


def read_datapoint(node: Node, reporter: Reporter) -> Datapoint:
    """One entry of `telemetry` or `attributes`."""
    found = read_section(Datapoint, node, reporter)
    check_field(found, node, reporter)
    return found


def read_field(node: Node, reporter: Reporter) -> Field:
    """A value without a key."""
    found = read_section(Field, node, reporter)
    check_field(found, node, reporter)
    return found


def read_timestamp(node: Node, reporter: Reporter) -> Timestamp:
    """The object `timestamp`."""
    found = read_section(Timestamp, node, reporter)
    check_field(found, node, reporter)
    if found.format is not None and found.kind not in ("string", "number"):
        reporter.fault(node, "format is for a text; leave type out")
    return found


def check_field(found: Field, node: Node, reporter: Reporter) -> None:
    """What the keys say together."""
    if found.byte_to is not None and 0 <= found.byte_to <= found.byte_from:
        reporter.doubt(node, f"takes no byte: from {found.byte_from}, up to but without {found.byte_to}")
    places = [key for key in ("regex", "column", "value") if node.member(key) is not None]
    if len(places) > 1:
        reporter.fault(node, f"has {' and '.join(places)}; a value has one place")
    binary = not found.from_text
    for key, needed in (("bit", binary), ("bits", binary), ("byteOrder", binary)):
        given = node.member(key)
        if given is not None and not needed:
            reporter.fault(given, f"is for values of bytes, such as type uint16; type is {found.type}")
    if found.kind == "bits" and found.bits is None:
        reporter.missing(node, "bits", "is missing: type bits needs it, and bit if the field does not begin at 0")
    if found.kind in ("string", "hex", "bool", "json"):
        for key in ("scale", "offset", "decimals"):
            given = node.member(key)
            if given is not None:
                reporter.fault(given, f"is for numbers; type is {found.type}: use number for a number in a text")
    width = None if found.end is None or (found.end < 0) != (found.byte_from < 0) else found.end - found.byte_from
    if found.kind == "float" and binary and (width or (8 if found.end is None else None)) not in (2, 4, 8, None):
        reporter.fault(node, f"a float has 2, 4 or 8 bytes, not {width}")
    stated = _WIDTHS.get(found.type, ("", 0))[1]
    if binary and stated and width is not None and width != stated:
        reporter.fault(node, f"{found.type} has {stated} byte(s), the slice has {width}")
    if found.byte_order.endswith("Swapped") and width is not None and width % 2:
        reporter.fault(node, f"registers are swapped in pairs of bytes, and the slice has {width}")
    if found.pattern is not None:
        groups = re.compile(found.pattern)
        known: Mapping[str, int] = groups.groupindex
        given = node.member("group")
        if isinstance(found.group, int) and found.group > groups.groups:
            if given is not None:
                reporter.fault(given, f"the regular expression has {groups.groups} group(s)")
            else:
                reporter.fault(node, "the regular expression has no group; write one, or group 0 for all of it")
        elif isinstance(found.group, str) and found.group not in known:
            reporter.fault(given or node, "the regular expression has no group of this name")
    if found.column is not None and not found.separator:
        reporter.fault(node, "separator is empty")
