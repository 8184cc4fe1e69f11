# -*- test-case-name: tests.connectors.socket.test_converter -*-
"""From a message's bytes to values, compiled once for each device. Pure.

Datapoints without any of the new keys are strings, as the reference has them: slice, then decode. Where this differs
from the reference:

* A slice that lies outside the message gives no value (the reference sends ''): the key is left out and counted. A
  slice that holds NUL bytes only does give '', in an 8-bit encoding: the device sent an empty field.
* Bytes that are no text in the device's encoding give no value (the reference sends Python's repr of the bytes).
* `utf-16` and `utf-32` keep their NUL bytes, which are part of the characters (S-21). In all other encodings NUL
  bytes are removed from the slice, wherever they stand, as in the reference.

Typed ones are in `values`. A device whose datapoints are all plain takes the short way, which makes no objects but the
values.

Requests of devices and answers to commands are recognised here, too. Comparison is on bytes, the text of the expression
as UTF-8, so no message can make it fail (S-05). An expression without `${` is a literal that the message begins with,
whatever its source says (S-06).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from tbgw.connectors.socket.config import SocketDevice
from tbgw.connectors.socket.fields import Datapoint
from tbgw.connectors.socket.requests import COMPARISON, Request, RpcRequest
from tbgw.connectors.socket.values import Message, Skipped, compile_field, compile_timestamp, decoder

__all__ = ["Converter", "Skipped", "compile_converter", "compile_matcher", "compile_requests"]

Converter = Callable[[bytes], tuple[dict[str, Any], dict[str, Any], int | None]]
"""A message to (telemetry by key, attributes by key, its own time in ms if it has one). Never raises."""

_SLICES = re.compile(r"\[(-?[0-9]{0,9}):(-?[0-9]{0,9})\]|\[(-?[0-9]{1,9})\]")


def compile_converter(device: SocketDevice, skipped: Callable[[str, Skipped], None]) -> Converter:
    """
    The conversion for one device; `skipped(key, why)` is called for each key that a message has no value for.
    Raises ValueError when the encoding is unknown or unfit.
    """
    decode = decoder(device.encoding)
    if device.timestamp is None and all(one.plain for one in (*device.telemetry, *device.attributes)):
        telemetry = _compile_slices(device.telemetry, decode, skipped)
        if not device.attributes:
            return lambda message: (telemetry(message), {}, None)
        attributes = _compile_slices(device.attributes, decode, skipped)
        return lambda message: (telemetry(message), attributes(message), None)
    return _compile_typed(device, decode, skipped)


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


def _compile_typed(
    device: SocketDevice, decode: Callable[[bytes], str], skipped: Callable[[str, Skipped], None]
) -> Converter:
    telemetry = tuple((one.key, compile_field(one, decode)) for one in device.telemetry)
    attributes = tuple((one.key, compile_field(one, decode)) for one in device.attributes)
    timestamp = compile_timestamp(device.timestamp, decode) if device.timestamp is not None else None

    def values_of(message: Message, extracts: Sequence[tuple[str, Callable[[Message], Any]]]) -> dict[str, Any]:
        values = {}
        for key, extract in extracts:
            value = extract(message)
            if isinstance(value, Skipped):
                skipped(key, value)
            else:
                values[key] = value
        return values

    def convert(data: bytes) -> tuple[dict[str, Any], dict[str, Any], int | None]:
        message = Message(data, decode)
        time_ms: int | None = None
        if timestamp is not None:
            found = timestamp(message)
            if isinstance(found, Skipped):
                skipped("timestamp", found)
            else:
                time_ms = found
        return values_of(message, telemetry), values_of(message, attributes), time_ms

    return convert


def compile_matcher(expression: str, is_expression: bool) -> Callable[[bytes], bool] | None:
    """What tells whether a message is meant by `expression`; None when that cannot be understood."""
    found = COMPARISON.fullmatch(expression) if is_expression else None
    if found:
        where, text = _slice_of(found), found["text"].encode()
        return lambda message: message[where] == text
    if expression and (not is_expression or "${" not in expression):
        beginning = expression.encode()
        return lambda message: message.startswith(beginning)
    return None


def compile_requests(
    requests: Sequence[Request], decode: Callable[[bytes], str]
) -> tuple[Callable[[bytes], tuple[Request, list[str]] | None] | None, list[str]]:
    """
    What tells which request a message is, if any, and the names in it (none: it names nothing): of attributes, or the
    method and parameters of an RPC, or the secret of a claim; None when nothing can be one. Second, the expressions
    that cannot be understood, which match nothing.
    """
    known: list[tuple[Callable[[bytes], bool], Request, Callable[[bytes], list[str]]]] = []
    faults = []
    for request in requests:
        matches = compile_matcher(request.request_expression, request.request_source == "expression")
        if matches is None:
            faults.append(request.request_expression)
        elif isinstance(request, RpcRequest):
            known.append((matches, request, _compile_call(request, decode)))
        else:
            names = _compile_names(request.name_expression, request.name_source, decode)
            known.append((matches, request, names))
    if not known:
        return None, faults

    def find(message: bytes) -> tuple[Request, list[str]] | None:
        for matches, request, names in known:
            if matches(message):
                return request, names(message)
        return None

    return find, faults


def _compile_call(request: RpcRequest, decode: Callable[[bytes], str]) -> Callable[[bytes], list[str]]:
    """[method, parameters], the latter empty when there are none."""
    method = _compile_names(request.name_expression, request.name_source, decode)
    params = _compile_names(request.params, request.params_source, decode)

    def call(message: bytes) -> list[str]:
        found = method(message)
        return ["".join(found), "".join(params(message))] if found else []

    return call


def _compile_names(expression: str, source: str, decode: Callable[[bytes], str]) -> Callable[[bytes], list[str]]:
    """Blanks around a name are not part of it: the default `[3:]` would keep the one behind `atr`."""
    slices = [_name_slice(found) for found in _SLICES.finditer(expression)]
    if source == "constant" or not slices:
        constant = expression.strip()
        return lambda _: [constant]

    def names(message: bytes) -> list[str]:
        try:
            found = [decode(message[where]).strip() for where in slices]
        except UnicodeError:
            return []
        return [name for name in found if name]

    return names


def _name_slice(found: re.Match[str]) -> slice:
    if found[3] is not None:
        at = int(found[3])
        return slice(at, at + 1 or None)
    return slice(*(int(end) if end not in ("", "-") else None for end in found.group(1, 2)))


def _slice_of(found: re.Match[str]) -> slice:
    """`[a:b]` with either end left out, or `[a]`, which is one byte (S-05)."""
    if found["at"] is not None:
        at = int(found["at"])
        return slice(at, at + 1 or None)
    return slice(
        None if found["start"] is None else int(found["start"]),
        None if found["stop"] is None else int(found["stop"]),
    )
