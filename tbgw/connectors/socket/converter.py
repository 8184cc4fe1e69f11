# -*- test-case-name: tests.connectors.socket.test_converter -*-
"""From a message's bytes to values, compiled once for each device. Pure.

All values are strings, as the reference has them: slice, then decode. Where this differs from the reference:

* A slice that lies outside the message gives no value (the reference sends ''): the key is left out and counted. A
  slice that holds NUL bytes only does give '', in an 8-bit encoding: the device sent an empty field.
* Bytes that are no text in the device's encoding give no value (the reference sends Python's repr of the bytes).
* `utf-16` and `utf-32` keep their NUL bytes, which are part of the characters (S-21). In all other encodings NUL
  bytes are removed from the slice, wherever they stand, as in the reference.

Attribute requests are recognised here too, only to keep them out of the telemetry: the way back to the device is
not in this version. Comparison is on bytes, the text of the expression as UTF-8, so no message can make it fail
(S-05). An expression without `${` is a literal that the message begins with, whatever its source says (S-06).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Sequence
from enum import Enum

from tbgw.connectors.socket.config import AttributeRequest, Datapoint, SocketDevice

Converter = Callable[[bytes], tuple[dict[str, str], dict[str, str]]]
"""A message to (telemetry by key, attributes by key). Never raises."""

_UNFIT = frozenset({"utf-7", "unicode-escape", "raw-unicode-escape", "idna", "punycode", "undefined"})
"""Text codecs that are not for device data; the first three can yield half characters that JSON cannot carry."""

_COMPARISON = re.compile(
    r"\$\{\[(?:(?P<start>-?[0-9]{1,9})?(?P<colon>:)(?P<stop>-?[0-9]{1,9})?|(?P<at>-?[0-9]{1,9}))\]==(?P<text>.*)\}",
    re.DOTALL,
)


class Skipped(Enum):
    """Why a key got no value."""

    ABSENT = "absent"
    """The message is too short for it."""
    NOT_DECODED = "not decoded"
    """The bytes are no text in the device's encoding."""


def compile_converter(device: SocketDevice, skipped: Callable[[str, Skipped], None]) -> Converter:
    """
    The conversion for one device; `skipped(key, why)` is called for each key that a message has no value for.
    Raises ValueError when the encoding is unknown or unfit.
    """
    decode = _decoder(device.encoding)
    telemetry = _compile_slices(device.telemetry, decode, skipped)
    attributes = _compile_slices(device.attributes, decode, skipped)
    return lambda message: (telemetry(message), attributes(message))


def _compile_slices(
    datapoints: Sequence[Datapoint], decode: Callable[[bytes], str], skipped: Callable[[str, Skipped], None]
) -> Callable[[bytes], dict[str, str]]:
    slices = tuple((one.key, slice(one.byte_from, one.byte_to)) for one in datapoints)

    def values_of(message: bytes) -> dict[str, str]:
        values = {}
        for key, where in slices:
            part = message[where]
            if part:
                try:
                    values[key] = decode(part)
                except UnicodeError:
                    skipped(key, Skipped.NOT_DECODED)
            else:
                skipped(key, Skipped.ABSENT)
        return values

    return values_of


def _decoder(encoding: str) -> Callable[[bytes], str]:
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


def compile_request_matcher(
    requests: Sequence[AttributeRequest],
) -> tuple[Callable[[bytes], bool] | None, list[str]]:
    """
    What tells whether a message is an attribute request, None when nothing can be one; and the expressions that
    cannot be understood, which match nothing.
    """
    comparisons: list[tuple[slice, bytes]] = []
    beginnings: list[bytes] = []
    faults: list[str] = []
    for request in requests:
        expression = request.request_expression
        found = _COMPARISON.fullmatch(expression) if request.request_source == "expression" else None
        if found:
            comparisons.append((_slice_of(found), found["text"].encode()))
        elif expression and (request.request_source == "constant" or "${" not in expression):
            beginnings.append(expression.encode())
        else:
            faults.append(expression)
    if not comparisons and not beginnings:
        return None, faults
    texts = tuple(beginnings)

    def is_request(message: bytes) -> bool:
        return message.startswith(texts) or any(message[where] == text for where, text in comparisons)

    return is_request, faults


def _slice_of(found: re.Match[str]) -> slice:
    """`[a:b]` with either end left out, or `[a]`, which is one byte (S-05)."""
    if found["at"] is not None:
        at = int(found["at"])
        return slice(at, at + 1 or None)
    return slice(
        None if found["start"] is None else int(found["start"]),
        None if found["stop"] is None else int(found["stop"]),
    )
