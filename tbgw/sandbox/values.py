"""JSON from the wire, and the types that ThingsBoard gives to its values (spec thingsboard-mqtt, 2.2 to 2.4). Pure.

Payloads are read as strict RFC 8259 JSON, where the real server is lenient (2.2): a client that the sandbox accepts is
accepted there too. Duplicate names are allowed, the last one wins, and broken UTF-8 is replaced, both as the server
does.

A value is *stored* as one of four Python types, which is also what SQLite keeps: `int` (LONG), `float` (DOUBLE, always
finite), `str` (STRING), and `bytes` for BOOLEAN and JSON, holding compact JSON text. `plain` turns it into a JSON
value.

Numbers with an exponent or many decimals have to be typed by their text (`1E+1` is a LONG, `10.0` a DOUBLE). Those few
come out of the parser as `_NumberText`; all others take the C parser's own way. Considered and left: keeping the text
of every number, which doubles the time of a packet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, NoReturn

Stored = int | float | str | bytes

MAX_DEPTH = 64
"""How deeply arrays and objects may be nested in one value. ThingsBoard has no such limit; what people send stays
below ten, and a bound keeps the recursion of every later reader bounded."""

MAX_DIGITS = 1000
"""Longest plain form of one number. The server writes `1E999999999` out as a thousand million digits (2.3); here such a
number is refused."""

MAX_KEY_CHARS = 255
"""The longest key that ThingsBoard's database has room for."""

_LONG_MIN, _LONG_MAX = -(2**63), 2**63 - 1
_MAX_SCALE = 16  # decimals that fit a DOUBLE (2.3)
_PLAIN_FLOAT_CHARS = 18  # a text this short, "0." and 16 digits, has no more decimals than that
_PLAIN_LONG_CHARS = 18  # a text this short is within 64 bits

_NUMERIC_TEXT = re.compile(r"-?(?:\d+(?:\.\d+)?|\.\d+)")  # 2.3; linear: no part can match the same text in two ways
_LONG_TEXT = re.compile(r"[+-]?\d+")
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")

TRUE, FALSE = b"true", b"false"


class BadPayload(Exception):  # noqa: N818 - the server's word for it is AdaptorException
    """The payload cannot be converted; "AE" in the specification."""


class ConversionFault(Exception):  # noqa: N818 - as above
    """Something that the server meets only as an unexpected runtime exception; "RTE" in the specification."""


class _NumberText(float):
    """A number whose type depends on how it was written."""

    __slots__ = ("text",)
    text: str


def _parse_float(text: str) -> float:
    if len(text) <= _PLAIN_FLOAT_CHARS and "e" not in text and "E" not in text:
        return float(text)
    number = _NumberText(text)
    number.text = text
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise BadPayload(f"{name} is not JSON")


_decode = json.JSONDecoder(parse_float=_parse_float, parse_constant=_refuse_constant).decode
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def parse(payload: bytes) -> Any:
    """The JSON value in `payload`. Raises BadPayload."""
    try:
        root = _decode(payload.decode("utf-8", "replace"))
    except ValueError as error:  # also for an integer beyond the interpreter's limit of digits
        raise BadPayload(str(error)) from None
    except RecursionError:
        raise BadPayload("nested too deeply") from None
    if _SURROGATE_ESCAPE.search(payload):
        root = _without_lone_surrogates(root)
    return root


def _without_lone_surrogates(value: Any) -> Any:
    """`value` with `?` in place of what UTF-8 cannot carry, as Java's encoder does."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_without_lone_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_lone_surrogates(key): _without_lone_surrogates(item) for key, item in value.items()}
    return value


def stored_values(members: Mapping[str, Any], *, type_cast: bool = True) -> list[tuple[str, Stored]]:
    """
    The members of one object as stored values; null is left out. Without `type_cast` texts stay as they are, and a
    number that fits neither LONG nor DOUBLE is none. Raises BadPayload.
    """
    if not type_cast:
        return _without_cast(members)
    result: list[tuple[str, Stored]] = []
    for key, value in members.items():
        kind = type(value)
        if kind is int:
            result.append((key, value if _LONG_MIN <= value <= _LONG_MAX else str(value)))
        elif kind is float:
            result.append((key, value))
        elif kind is str:
            result.append((key, _cast(value) if _NUMERIC_TEXT.fullmatch(value) else value))
        elif kind is bool:
            result.append((key, TRUE if value else FALSE))
        elif kind is _NumberText:
            result.append((key, _typed_by_text(value.text)))
        elif value is not None:
            result.append((key, _json_text(value)))
    return result


def _without_cast(members: Mapping[str, Any]) -> list[tuple[str, Stored]]:
    texts = {key: value for key, value in members.items() if type(value) is str}
    others = stored_values({key: value for key, value in members.items() if key not in texts})
    if any(type(value) is str for _, value in others):
        raise BadPayload("number out of range")
    return [*texts.items(), *others]


def _cast(text: str) -> Stored:
    """The number that a numeric-looking text stands for, or the text itself where the server gives up."""
    if len(text) <= _PLAIN_LONG_CHARS:
        return float(text) if "." in text else int(text)
    if len(text) > MAX_DIGITS:
        return text
    return _typed_by_text(text)


def _typed_by_text(text: str) -> Stored:
    """The type of a number by its text: the rules of 2.3. Raises BadPayload when its plain form is too long."""
    try:
        decimal = Decimal(text)
    except ArithmeticError:
        raise BadPayload("number out of range") from None
    _, digits, exponent = decimal.as_tuple()
    if not isinstance(exponent, int):  # cannot be: neither JSON nor the pattern lets NaN through
        raise BadPayload("not a number")
    has_exponent = "e" in text or "E" in text
    if not decimal:
        integral = True
    else:
        trailing_zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
        integral = exponent + trailing_zeros >= 0
    if integral and (has_exponent or "." not in text):
        if decimal.adjusted() < _PLAIN_LONG_CHARS + 2 or not decimal:
            number = int(decimal) if decimal else 0
            if _LONG_MIN <= number <= _LONG_MAX:
                return number
        return _plain_digits(decimal, exponent)
    if -exponent <= _MAX_SCALE:
        number_float = float(text)
        if number_float - number_float == 0:  # finite
            return number_float
    return _plain_digits(decimal, exponent)


def _plain_digits(decimal: Decimal, exponent: int) -> str:
    if max(decimal.adjusted(), -exponent) > MAX_DIGITS:
        raise BadPayload("number out of range")
    return format(decimal, "f")


def _json_text(value: Any) -> bytes:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            break
    else:
        raise BadPayload("nested too deeply")
    try:
        return _encode(value).encode()
    except ValueError as error:  # a number beyond the range of a double somewhere inside
        raise BadPayload(str(error)) from None


def plain(value: Stored) -> Any:
    """A stored value as the JSON value that it stands for."""
    return json.loads(value) if type(value) is bytes else value


def timestamp_ms(value: Any) -> int:
    """The `ts` of a timed element, in ms, wrapped to 64 bits as in Java. Raises ConversionFault."""
    while type(value) is list and len(value) == 1:
        value = value[0]
    kind = type(value)
    if kind is int:
        return value if _LONG_MIN <= value <= _LONG_MAX else _wrapped(value)
    if kind is float:
        return int(value)
    if kind is _NumberText:
        try:
            decimal = Decimal(value.text)
        except ArithmeticError:
            raise ConversionFault("ts is out of range") from None
        if decimal.adjusted() > MAX_DIGITS:
            raise ConversionFault("ts is out of range")
        return _wrapped(int(decimal))
    if kind is str and len(value) <= 64 and _LONG_TEXT.fullmatch(value) and _LONG_MIN <= int(value) <= _LONG_MAX:
        return int(value)
    raise ConversionFault("ts is not a number")


def _wrapped(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


def text_of(value: Any) -> str:
    """What Java reads where it wants a text: scalars are turned into one. Raises ConversionFault for all else."""
    while type(value) is list and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, _NumberText):
        return value.text
    if isinstance(value, int | float):
        return repr(value)
    raise ConversionFault("not a text")


TimedValues = tuple[int, list[tuple[str, Stored]]]
"""(ts in ms, stored values by key) of one instant."""


def telemetry(root: Any, now_ms: int, *, type_cast: bool = True) -> list[TimedValues]:
    """
    A telemetry payload, one object or an array of objects: all of it or nothing. What bears no time gets `now_ms`.
    Raises BadPayload, or ConversionFault for a bad `ts`.
    """
    elements: Iterable[Any]
    if isinstance(root, dict):
        elements = (root,)
    elif isinstance(root, list):
        elements = root
    else:
        raise BadPayload("telemetry is an object or an array of objects")
    result: list[TimedValues] = []
    for element in elements:
        if not isinstance(element, dict):
            raise BadPayload("an element of telemetry is an object")
        if "ts" in element and "values" in element:
            ts = timestamp_ms(element["ts"])
            values = element["values"]
            if not isinstance(values, dict):
                raise BadPayload("`values` is an object")
            result.append((ts, stored_values(values, type_cast=type_cast)))
        else:
            result.append((now_ms, stored_values(element, type_cast=type_cast)))
    return result


def child_telemetry(elements: list[Any], now_ms: int, *, type_cast: bool = True) -> list[TimedValues]:
    """One child's array in a gateway message: as `telemetry`, and each element may bear `metadata` (3.4)."""
    if any(isinstance(element, dict) and "metadata" in element for element in elements):
        elements = [_without_metadata(element) for element in elements]
    return telemetry(elements, now_ms, type_cast=type_cast)


def _without_metadata(element: Any) -> Any:
    if not isinstance(element, dict) or "metadata" not in element:
        return element
    _check_metadata(element["metadata"])
    return {key: value for key, value in element.items() if key != "metadata"}


def latencies(elements: list[Any]) -> Iterable[tuple[str, int, int]]:
    """(connector, receivedTs, publishedTs) of the elements that bear `metadata`, which was checked before."""
    for element in elements:
        if isinstance(element, dict) and "metadata" in element:
            metadata = element["metadata"]
            yield metadata["connector"], *(timestamp_ms(metadata[key]) for key in ("receivedTs", "publishedTs"))


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict):
        raise BadPayload("`metadata` is an object")
    if not isinstance(metadata.get("connector"), str):
        raise BadPayload("`metadata` names its `connector`")
    for key in ("receivedTs", "publishedTs"):
        timestamp_ms(metadata.get(key))


def attributes(root: Any, *, type_cast: bool = True) -> list[tuple[str, Stored]]:
    """An attributes payload. Raises BadPayload."""
    if not isinstance(root, dict):
        raise BadPayload("attributes are an object")
    return stored_values(root, type_cast=type_cast)
