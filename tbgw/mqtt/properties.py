"""Properties of MQTT 5 (section 2.2.2): one table of what each is and where it may stand, and both directions.

A set of properties is a mapping from identifier to value. Values: int for the numbers, str, bytes, and for what may be
repeated a tuple: of (name, value) pairs for USER_PROPERTY, of numbers for the SUBSCRIPTION_IDENTIFIER of a PUBLISH
(that of a SUBSCRIBE is a lone number). No properties are None.

Faults, as the standard parts them: an identifier that does not exist or does not belong there, and bytes that are not
of its type, are a malformed packet [2.2.2.2]; a repetition and a value out of range are a protocol error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, Final

from tbgw.mqtt.errors import LocalProtocolError, RemoteProtocolError
from tbgw.mqtt.packets import PacketType, Properties
from tbgw.mqtt.reason_codes import ReasonCode
from tbgw.mqtt.topics import MAX_STRING_BYTES, string_fault, topic_name_fault
from tbgw.mqtt.wire import MAX_REMAINING_LENGTH, UINT16, UINT32, encode_varint, malformed


class PropertyId(IntEnum):
    """The identifiers (table 2-4)."""

    PAYLOAD_FORMAT_INDICATOR = 0x01
    MESSAGE_EXPIRY_INTERVAL = 0x02
    CONTENT_TYPE = 0x03
    RESPONSE_TOPIC = 0x08
    CORRELATION_DATA = 0x09
    SUBSCRIPTION_IDENTIFIER = 0x0B
    SESSION_EXPIRY_INTERVAL = 0x11
    ASSIGNED_CLIENT_IDENTIFIER = 0x12
    SERVER_KEEP_ALIVE = 0x13
    AUTHENTICATION_METHOD = 0x15
    AUTHENTICATION_DATA = 0x16
    REQUEST_PROBLEM_INFORMATION = 0x17
    WILL_DELAY_INTERVAL = 0x18
    REQUEST_RESPONSE_INFORMATION = 0x19
    RESPONSE_INFORMATION = 0x1A
    SERVER_REFERENCE = 0x1C
    REASON_STRING = 0x1F
    RECEIVE_MAXIMUM = 0x21
    TOPIC_ALIAS_MAXIMUM = 0x22
    TOPIC_ALIAS = 0x23
    MAXIMUM_QOS = 0x24
    RETAIN_AVAILABLE = 0x25
    USER_PROPERTY = 0x26
    MAXIMUM_PACKET_SIZE = 0x27
    WILDCARD_SUBSCRIPTION_AVAILABLE = 0x28
    SUBSCRIPTION_IDENTIFIER_AVAILABLE = 0x29
    SHARED_SUBSCRIPTION_AVAILABLE = 0x2A


WILL: Final = 0
"""The place of a will's properties, beside those of `PacketType`."""

_BYTE: Final = 0
_UINT16: Final = 1
_UINT32: Final = 2
_VARINT: Final = 3
_STRING: Final = 4
_BINARY: Final = 5
_PAIR: Final = 6

_HIGHEST: Final = {_BYTE: 0xFF, _UINT16: 0xFFFF, _UINT32: 0xFFFFFFFF, _VARINT: MAX_REMAINING_LENGTH}

_P = PropertyId
_T = PacketType
_MESSAGE = (_T.PUBLISH, WILL)
_ANSWERS = (
    _T.CONNACK,
    _T.PUBACK,
    _T.PUBREC,
    _T.PUBREL,
    _T.PUBCOMP,
    _T.SUBACK,
    _T.UNSUBACK,
    _T.DISCONNECT,
    _T.AUTH,
)
_TYPES: Final[dict[int, tuple[int, frozenset[int]]]] = {
    identifier: (kind, frozenset(places))
    for identifier, kind, places in (
        (_P.PAYLOAD_FORMAT_INDICATOR, _BYTE, _MESSAGE),
        (_P.MESSAGE_EXPIRY_INTERVAL, _UINT32, _MESSAGE),
        (_P.CONTENT_TYPE, _STRING, _MESSAGE),
        (_P.RESPONSE_TOPIC, _STRING, _MESSAGE),
        (_P.CORRELATION_DATA, _BINARY, _MESSAGE),
        (_P.SUBSCRIPTION_IDENTIFIER, _VARINT, (_T.PUBLISH, _T.SUBSCRIBE)),
        (_P.SESSION_EXPIRY_INTERVAL, _UINT32, (_T.CONNECT, _T.CONNACK, _T.DISCONNECT)),
        (_P.ASSIGNED_CLIENT_IDENTIFIER, _STRING, (_T.CONNACK,)),
        (_P.SERVER_KEEP_ALIVE, _UINT16, (_T.CONNACK,)),
        (_P.AUTHENTICATION_METHOD, _STRING, (_T.CONNECT, _T.CONNACK, _T.AUTH)),
        (_P.AUTHENTICATION_DATA, _BINARY, (_T.CONNECT, _T.CONNACK, _T.AUTH)),
        (_P.REQUEST_PROBLEM_INFORMATION, _BYTE, (_T.CONNECT,)),
        (_P.WILL_DELAY_INTERVAL, _UINT32, (WILL,)),
        (_P.REQUEST_RESPONSE_INFORMATION, _BYTE, (_T.CONNECT,)),
        (_P.RESPONSE_INFORMATION, _STRING, (_T.CONNACK,)),
        (_P.SERVER_REFERENCE, _STRING, (_T.CONNACK, _T.DISCONNECT)),
        (_P.REASON_STRING, _STRING, _ANSWERS),
        (_P.RECEIVE_MAXIMUM, _UINT16, (_T.CONNECT, _T.CONNACK)),
        (_P.TOPIC_ALIAS_MAXIMUM, _UINT16, (_T.CONNECT, _T.CONNACK)),
        (_P.TOPIC_ALIAS, _UINT16, (_T.PUBLISH,)),
        (_P.MAXIMUM_QOS, _BYTE, (_T.CONNACK,)),
        (_P.RETAIN_AVAILABLE, _BYTE, (_T.CONNACK,)),
        (_P.USER_PROPERTY, _PAIR, (_T.CONNECT, _T.SUBSCRIBE, _T.UNSUBSCRIBE, *_MESSAGE, *_ANSWERS)),
        (_P.MAXIMUM_PACKET_SIZE, _UINT32, (_T.CONNECT, _T.CONNACK)),
        (_P.WILDCARD_SUBSCRIPTION_AVAILABLE, _BYTE, (_T.CONNACK,)),
        (_P.SUBSCRIPTION_IDENTIFIER_AVAILABLE, _BYTE, (_T.CONNACK,)),
        (_P.SHARED_SUBSCRIPTION_AVAILABLE, _BYTE, (_T.CONNACK,)),
    )
}
"""What a property is, and in which packets it may stand."""

_FLAG_CLAUSES: Final = {
    _P.PAYLOAD_FORMAT_INDICATOR: "3.3.2.3.2",
    _P.REQUEST_PROBLEM_INFORMATION: "3.1.2.11.7",
    _P.REQUEST_RESPONSE_INFORMATION: "3.1.2.11.6",
    _P.MAXIMUM_QOS: "3.2.2.3.4",
    _P.RETAIN_AVAILABLE: "3.2.2.3.5",
    _P.WILDCARD_SUBSCRIPTION_AVAILABLE: "3.2.2.3.11",
    _P.SUBSCRIPTION_IDENTIFIER_AVAILABLE: "3.2.2.3.12",
    _P.SHARED_SUBSCRIPTION_AVAILABLE: "3.2.2.3.13",
}
_NOT_ZERO_CLAUSES: Final = {
    _P.RECEIVE_MAXIMUM: "(section 3.1.2.11.3)",
    _P.MAXIMUM_PACKET_SIZE: "(section 3.1.2.11.4)",
    _P.SUBSCRIPTION_IDENTIFIER: "(section 3.8.2.1.2)",
    _P.TOPIC_ALIAS: "[MQTT-3.3.2-8]",
}


def _fault(identifier: int, value: Any) -> str | None:
    """What forbids a value that is of the right type, or None."""
    clause = _FLAG_CLAUSES.get(PropertyId(identifier))
    if clause is not None:
        return f"{PropertyId(identifier).name} is neither 0 nor 1 (section {clause})" if value > 1 else None
    clause = _NOT_ZERO_CLAUSES.get(PropertyId(identifier))
    if clause is not None:
        return f"{PropertyId(identifier).name} is 0 {clause}" if value == 0 else None
    if identifier == _P.RESPONSE_TOPIC and topic_name_fault(value) is not None:
        return "RESPONSE_TOPIC is not a topic name [MQTT-3.3.2-14]"
    return None


def _repeatable(identifier: int, place: int) -> bool:
    return identifier == _P.USER_PROPERTY or (identifier == _P.SUBSCRIPTION_IDENTIFIER and place == _T.PUBLISH)


def _combined_fault(properties: Mapping[int, Any]) -> str | None:
    if _P.AUTHENTICATION_DATA in properties and _P.AUTHENTICATION_METHOD not in properties:
        return "AUTHENTICATION_DATA without AUTHENTICATION_METHOD (section 3.1.2.11.10)"
    return None


# --- decoding --------------------------------------------------------------------------------------------------------


def decode_string(raw: bytes) -> str:
    """The text of a UTF-8 string, strictly: no surrogates, no overlong forms, no U+0000."""
    try:
        text: str | None = str(raw, "utf-8")
    except UnicodeDecodeError:
        text = None
    if text is None:  # raised here, where the error gets no context that holds the bytes
        raise malformed("ill-formed UTF-8 [MQTT-1.5.3-1]")
    if "\0" in text:
        raise malformed("U+0000 in a UTF-8 string [MQTT-1.5.3-2]")
    return text


def decode_varint(data: bytes, position: int, end: int, what: str) -> tuple[int, int]:
    """A variable byte integer within a packet, and the position behind it."""
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > 21:
            raise malformed(f"{what} of more than four bytes [MQTT-1.5.5-1]")
    raise malformed(f"packet ends within its {what}")


def _read_sized(data: bytes, position: int, end: int) -> tuple[bytes, int]:
    start = position + 2
    if start <= end:
        position = start + (data[position] << 8 | data[position + 1])
        if position <= end:
            return data[start:position], position
    raise malformed("properties end within a value (section 2.2.2)")


def _read_number(size: int) -> Callable[[bytes, int, int], tuple[int, int]]:
    def read(data: bytes, position: int, end: int) -> tuple[int, int]:
        following = position + size
        if following > end:
            raise malformed("properties end within a value (section 2.2.2)")
        return int.from_bytes(data[position:following], "big"), following

    return read


def _read_varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    return decode_varint(data, position, end, "property value")


def _read_string(data: bytes, position: int, end: int) -> tuple[str, int]:
    raw, position = _read_sized(data, position, end)
    return decode_string(raw), position


def _read_pair(data: bytes, position: int, end: int) -> tuple[tuple[str, str], int]:
    name, position = _read_string(data, position, end)
    value, position = _read_string(data, position, end)
    return (name, value), position


_READ: Final[dict[int, Callable[[bytes, int, int], tuple[Any, int]]]] = {
    _BYTE: _read_number(1),
    _UINT16: _read_number(2),
    _UINT32: _read_number(4),
    _VARINT: _read_varint,
    _STRING: _read_string,
    _BINARY: _read_sized,
    _PAIR: _read_pair,
}


def decode_properties(data: bytes, position: int, end: int, place: int) -> tuple[dict[int, Any] | None, int]:
    """
    The properties whose length stands at `position`, and the position behind them. `place` is a `PacketType` or
    `WILL`. Raises RemoteProtocolError.
    """
    length, position = decode_varint(data, position, end, "property length")
    if not length:
        return None, position
    stop = position + length
    if stop > end:
        raise malformed("packet ends within its properties (section 2.2.2)")
    properties: dict[int, Any] = {}
    while position < stop:
        identifier, position = decode_varint(data, position, stop, "property identifier")
        kind, places = _TYPES.get(identifier, (None, ()))
        if kind is None:
            raise malformed(f"property identifier {identifier:#x} does not exist (section 2.2.2.2)")
        name = PropertyId(identifier).name
        if place not in places:
            where = PacketType(place).name if place else "a will"
            raise malformed(f"{name} does not belong into {where} (section 2.2.2.2)")
        value, position = _READ[kind](data, position, stop)
        fault = _fault(identifier, value)
        if fault is not None:
            is_alias = identifier == _P.TOPIC_ALIAS
            raise RemoteProtocolError(fault, ReasonCode.TOPIC_ALIAS_INVALID if is_alias else ReasonCode.PROTOCOL_ERROR)
        if _repeatable(identifier, place):
            properties.setdefault(identifier, []).append(value)
        elif identifier in properties:
            raise RemoteProtocolError(f"{name} is there twice (section 2.2.2.2)")
        else:
            properties[identifier] = value
    fault = _combined_fault(properties)
    if fault is not None:
        raise RemoteProtocolError(fault)
    for identifier in (_P.USER_PROPERTY, _P.SUBSCRIPTION_IDENTIFIER):
        if identifier in properties and isinstance(properties[identifier], list):
            properties[identifier] = tuple(properties[identifier])
    return properties, position


# --- encoding --------------------------------------------------------------------------------------------------------


def encode_string(text: str) -> bytes:
    """A UTF-8 string with its length. Raises LocalProtocolError."""
    fault = string_fault(text)
    if fault is not None:
        raise LocalProtocolError(fault)
    raw = text.encode()
    return UINT16.pack(len(raw)) + raw


def encode_binary(raw: bytes, what: str) -> bytes:
    """Bytes with their length. Raises LocalProtocolError."""
    if len(raw) > MAX_STRING_BYTES:
        raise LocalProtocolError(f"{what} of {len(raw)} bytes, {MAX_STRING_BYTES} is the most")
    return UINT16.pack(len(raw)) + raw


def _encode_value(identifier: PropertyId, kind: int, value: Any) -> bytes:
    if kind in _HIGHEST:
        if not isinstance(value, int) or not 0 <= value <= _HIGHEST[kind]:
            raise LocalProtocolError(f"{identifier.name} is a number of 0 to {_HIGHEST[kind]}")
    elif kind == _BINARY:
        if not isinstance(value, bytes):
            raise LocalProtocolError(f"{identifier.name} is bytes")
    elif kind == _STRING and not isinstance(value, str):
        raise LocalProtocolError(f"{identifier.name} is a string")
    fault = _fault(identifier, value)
    if fault is not None:
        raise LocalProtocolError(fault)
    if kind == _BYTE:
        return bytes((value,))
    if kind == _UINT16:
        return UINT16.pack(value)
    if kind == _UINT32:
        return UINT32.pack(value)
    if kind == _VARINT:
        return encode_varint(value)
    if kind == _STRING:
        return encode_string(value)
    if kind == _BINARY:
        return encode_binary(value, identifier.name)
    match value:
        case (str(name), str(text)):
            return encode_string(name) + encode_string(text)
    raise LocalProtocolError(f"{identifier.name} is a tuple of pairs of strings")


def encode_properties(properties: Properties | None, place: int) -> bytes:
    """The properties with their length, for a `PacketType` or `WILL`. Raises LocalProtocolError for illegal ones."""
    if not properties:
        return b"\x00"
    parts: list[bytes] = []
    for number, value in properties.items():
        kind, places = _TYPES.get(number, (None, ()))
        if kind is None:
            raise LocalProtocolError(f"property identifier {number!r} does not exist (section 2.2.2.2)")
        identifier = PropertyId(number)
        if place not in places:
            where = PacketType(place).name if place else "a will"
            raise LocalProtocolError(f"{identifier.name} does not belong into {where} (section 2.2.2.2)")
        if _repeatable(number, place):
            if not isinstance(value, tuple | list):
                raise LocalProtocolError(f"{identifier.name} is a tuple of values")
            values = value
        else:
            values = (value,)
        for each in values:
            parts += (bytes((number,)), _encode_value(identifier, kind, each))
    fault = _combined_fault(properties)
    if fault is not None:
        raise LocalProtocolError(fault)
    raw = b"".join(parts)
    return encode_varint(len(raw)) + raw
