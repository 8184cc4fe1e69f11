"""The frames of OCPP-J: text in, one message or one fault out; and back. No state, no schema (spec ocpp, 1.1).

A text is always taken whole, the WebSocket has cut it out already, so the three results of a parser are two here: a
message, or a `Fault` that says what is wrong and, where the version has an answer for it, the text of that answer.
Whatever bytes come, nothing else comes out, and nothing is raised.

What leaves here may be stored and sent on by anyone: numbers are finite, no text holds half a surrogate pair (JSON can
spell both, UTF-8 and SQLite cannot store the latter), nothing is nested deeper than `MAX_DEPTH`.

Real chargers bend the rules, so outside strict mode an id may be a number or longer than 36 characters, a payload may
be null or missing, and elements too many are ignored. What is sent bends nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NamedTuple, NoReturn

from tbgw.ocpp.versions import Version

MessageId = str | int
"""A string by the standard. A number is given back as the number it was."""

MAX_ID_CHARACTERS = 36
"""The standard's limit, so that a UUID fits."""

MAX_LENIENT_ID_CHARACTERS = 255
"""An id is kept and sent back, so even leniency ends somewhere."""

MAX_DEPTH = 64
"""Levels of lists and objects in one message. The deepest of the standard's own messages has 10; Python's own limit
is near 1,000, but whoever handles the payload later calls itself more often per level than the parser does."""

MAX_DESCRIPTION_CHARACTERS = 255
"""Of a CALLERROR, by the standard."""

UNREADABLE_ID = "-1"
"""What 2.x answers with when the id cannot be read."""

_EMPTY: dict[str, Any] = {}


class Type(IntEnum):
    """The first element of a message."""

    CALL = 2
    CALLRESULT = 3
    CALLERROR = 4
    CALLRESULTERROR = 5
    SEND = 6


TYPES: dict[Version, frozenset[Type]] = {
    Version.V16: frozenset({Type.CALL, Type.CALLRESULT, Type.CALLERROR}),
    Version.V201: frozenset({Type.CALL, Type.CALLRESULT, Type.CALLERROR}),
    Version.V21: frozenset(Type),
}
"""Which types a version has. 1.6 and 2.1 ignore others, 2.0.1 says so to the station."""


class Call(NamedTuple):
    """The station wants an answer."""

    id: MessageId
    action: str
    payload: dict[str, Any]


class Result(NamedTuple):
    """The answer to a Call of ours."""

    id: MessageId
    payload: dict[str, Any]


class Error(NamedTuple):
    """The station could not serve a Call of ours."""

    id: MessageId
    code: str
    description: str
    details: dict[str, Any]


class ResultError(NamedTuple):
    """The station could not use a result of ours (2.1). Never answered."""

    id: MessageId
    code: str
    description: str
    details: dict[str, Any]


class Send(NamedTuple):
    """The station tells something that is never answered (2.1)."""

    id: MessageId
    action: str
    payload: dict[str, Any]


class Fault(NamedTuple):
    """What came is no message."""

    why: str
    """For the log; holds nothing that the peer wrote."""
    answer: str | None = None
    """The CALLERROR to send, None where the version defines none."""
    call_id: MessageId | None = None
    """It was to be the answer to this Call of ours, which has failed with it."""


Message = Call | Result | Error | ResultError | Send


_CODES_2 = frozenset(
    {
        "FormatViolation",
        "GenericError",
        "InternalError",
        "MessageTypeNotSupported",
        "NotImplemented",
        "NotSupported",
        "OccurrenceConstraintViolation",
        "PropertyConstraintViolation",
        "ProtocolError",
        "RpcFrameworkError",
        "SecurityError",
        "TypeConstraintViolation",
    }
)
_TO_2 = {"FormationViolation": "FormatViolation", "OccurenceConstraintViolation": "OccurrenceConstraintViolation"}
_TO_16 = {
    "FormatViolation": "FormationViolation",
    "OccurrenceConstraintViolation": "OccurenceConstraintViolation",  # the standard's own spelling
    "RpcFrameworkError": "GenericError",
    "MessageTypeNotSupported": "GenericError",
}


def error_code(version: Version, code: str) -> str:
    """The code as the version spells it; a code that no version has becomes GenericError."""
    code = _TO_2.get(code, code)
    if code not in _CODES_2:
        return "GenericError"
    return code if version.is_2 else _TO_16.get(code, code)


def neutral_code(code: str) -> str:
    """A code that a station sent, in the 2.x spelling where it is one of the standard's, else as it is."""
    return _TO_2.get(code, code)


class _Refused(Exception):  # noqa: N818 - private, and says what is
    pass


def _no_constant(name: str) -> NoReturn:
    raise _Refused(f"holds {name}, which is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _Refused("holds a number beyond what a double can hold")
    return number


_decode = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite).decode
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_half_pair = re.compile(r"\\u[dD][89abcdefABCDEF]").search


def parse(text: str, version: Version, strict: bool = False) -> Message | Fault:
    """One text frame as a message. `strict`: no leniency in what the module's docstring names."""
    try:
        message = _decode(text)
    except _Refused as reason:
        return _unreadable(version, str(reason))
    except ValueError:
        return _unreadable(version, "not JSON")
    except RecursionError:
        return _unreadable(version, "nested too deeply")
    if type(message) is not list:
        return _unreadable(version, "not a JSON list")
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_too_deep(message):
        return _unreadable(version, "nested too deeply")
    if "\\u" in text and _half_pair(text):
        message = _whole_characters(message)
    length = len(message)
    kind = message[0] if length else None
    if type(kind) is not int:
        return _unreadable(version, "the first element is no message type")
    if length < 2 or not _is_id(message[1], strict):
        return _unreadable(version, "the message id cannot be read") if _is_answered(kind) else Fault("no message id")
    id_: MessageId = message[1]
    if kind not in TYPES[version]:
        if version is Version.V201:
            return Fault("unknown message type", _error(version, id_, "MessageTypeNotSupported", "message type"))
        return Fault("unknown message type")
    if kind == Type.CALL or kind == Type.SEND:
        return _call(version, kind, message, length, strict)
    if kind == Type.CALLRESULT:
        payload = message[2] if length > 2 else None
        if payload is None and not strict:
            payload = {}
        if type(payload) is not dict:
            return Fault("the payload of the result is no object", call_id=id_)
        return Result(id_, payload)
    code = message[2] if length > 2 else ""
    description = message[3] if length > 3 else ""
    details = message[4] if length > 4 else None
    if type(code) is not str:
        return Fault("the code of the error is no text", call_id=id_ if kind == Type.CALLERROR else None)
    shape = Error if kind == Type.CALLERROR else ResultError
    return shape(
        id_,
        neutral_code(code),
        description if type(description) is str else "",
        details if type(details) is dict else {},
    )


def _call(version: Version, kind: int, message: list[Any], length: int, strict: bool) -> Message | Fault:
    id_ = message[1]
    action = message[2] if length > 2 else None
    payload = message[3] if length > 3 else None
    if payload is None and not strict:
        payload = {}
    if type(action) is not str:
        why, code = "the action is no text", "ProtocolError" if length < 3 else "FormatViolation"
    elif type(payload) is not dict:
        why, code = "the payload is no object", "ProtocolError" if length < 4 else "FormatViolation"
    elif kind == Type.SEND:
        return Send(id_, action, payload)
    elif strict and length > 4:
        why, code = "too many elements", "FormatViolation"
    else:
        return Call(id_, action, payload)
    return Fault(why, _error(version, id_, code, why) if kind == Type.CALL else None)


def _is_answered(kind: int) -> bool:
    """An answer is never answered, and neither is a SEND: two peers that do it never stop."""
    return kind not in (Type.CALLRESULT, Type.CALLERROR, Type.CALLRESULTERROR, Type.SEND)


def _is_id(value: object, strict: bool) -> bool:
    if type(value) is str:
        return len(value) <= (MAX_ID_CHARACTERS if strict else MAX_LENIENT_ID_CHARACTERS)
    return type(value) is int and not strict and value.bit_length() <= 64


def _unreadable(version: Version, why: str) -> Fault:
    if not version.is_2:
        return Fault(why)
    return Fault(why, _error(version, UNREADABLE_ID, "RpcFrameworkError", why))


def _is_too_deep(message: list[Any]) -> bool:
    level: list[Any] = [message]
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for container in level:
            values = container.values() if type(container) is dict else container
            deeper.extend(value for value in values if type(value) is dict or type(value) is list)
        if not deeper:
            return False
        level = deeper
    return True


def _whole_characters(value: Any) -> Any:
    """The same with U+FFFD for every half of a surrogate pair."""
    if type(value) is str:
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if type(value) is dict:
        return {_whole_characters(key): _whole_characters(item) for key, item in value.items()}
    if type(value) is list:
        return [_whole_characters(item) for item in value]
    return value


def call_text(id_: MessageId, action: str, payload: Mapping[str, Any]) -> str:
    """Raises ValueError or TypeError for a payload that JSON cannot hold, such as NaN."""
    return _encode([int(Type.CALL), id_, action, payload])


def send_text(id_: MessageId, action: str, payload: Mapping[str, Any]) -> str:
    """As `call_text`."""
    return _encode([int(Type.SEND), id_, action, payload])


def payload_text(payload: Mapping[str, Any]) -> str:
    """The payload alone, for `result_text`. Raises as `call_text`."""
    return _encode(payload) if payload else "{}"


def result_text(id_: MessageId, payload: str) -> str:
    """`payload` as `payload_text` gives it."""
    return f"[3,{_encode(id_)},{payload}]"


def error_text(
    version: Version, id_: MessageId, code: str, description: str, details: Mapping[str, Any] = _EMPTY
) -> str:
    """`code` in any spelling; the description is cut to its limit. Raises as `call_text`."""
    return _encode(
        [int(Type.CALLERROR), id_, error_code(version, code), description[:MAX_DESCRIPTION_CHARACTERS], details]
    )


def result_error_text(version: Version, id_: MessageId, code: str, description: str) -> str:
    """2.1: what came as a result of our Call cannot be used."""
    return _encode(
        [int(Type.CALLRESULTERROR), id_, error_code(version, code), description[:MAX_DESCRIPTION_CHARACTERS], {}]
    )


_error = error_text
