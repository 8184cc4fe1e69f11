"""Packets to bytes, for one protocol version at a time. Pure, no state.

Whatever this version cannot say, and whatever no peer may be told, is a LocalProtocolError and no byte.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from tbgw.mqtt.errors import LocalProtocolError
from tbgw.mqtt.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    PingReq,
    PingResp,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
)
from tbgw.mqtt.properties import WILL, PropertyId, encode_binary, encode_properties, encode_string
from tbgw.mqtt.reason_codes import SUBACK_FAILURE
from tbgw.mqtt.topics import SHARE_PREFIX, topic_filter_fault, topic_name_fault
from tbgw.mqtt.wire import (
    CONNECT_FLAG_CLEAN,
    CONNECT_FLAG_PASSWORD,
    CONNECT_FLAG_USERNAME,
    CONNECT_FLAG_WILL,
    CONNECT_FLAG_WILL_RETAIN,
    FLAGS,
    REASON_CODES,
    SUPPORTED_VERSIONS,
    UINT16,
    fixed_header,
)

_ACKNOWLEDGEMENT_TYPES: Final[dict[type, PacketType]] = {
    PubAck: PacketType.PUBACK,
    PubRec: PacketType.PUBREC,
    PubRel: PacketType.PUBREL,
    PubComp: PacketType.PUBCOMP,
}


def encode(packet: Packet, protocol_version: int) -> bytes:
    """The bytes of a packet. Raises LocalProtocolError for what this version cannot say."""
    if protocol_version not in SUPPORTED_VERSIONS:
        raise LocalProtocolError(f"protocol version {protocol_version} is not supported")
    if isinstance(packet, PingReq):
        return b"\xc0\x00"
    if isinstance(packet, PingResp):
        return b"\xd0\x00"
    if protocol_version < 5:
        if isinstance(packet, Auth):
            raise LocalProtocolError("AUTH does not exist on MQTT 3.1.1")
        if packet.properties:
            raise LocalProtocolError("properties do not exist on MQTT 3.1.1")
    if isinstance(packet, Publish):
        if packet.packet_id == 0:
            raise LocalProtocolError("a PUBLISH cannot be sent with packet id 0 [MQTT-2.3.1-1]")
        aliased = not packet.topic and packet.properties and PropertyId.TOPIC_ALIAS in packet.properties
        return encode_publish(
            b"\x00\x00" if aliased else encode_topic_name(packet.topic),
            packet.payload,
            packet.qos,
            packet.retain,
            packet.dup,
            packet.packet_id,
            b"" if protocol_version < 5 else encode_properties(packet.properties, PacketType.PUBLISH),
        )
    if isinstance(packet, PubAck | PubRec | PubRel | PubComp):
        return _encode_acknowledgement(packet, protocol_version)
    if isinstance(packet, Connect):
        if packet.protocol_version != protocol_version:
            raise LocalProtocolError(f"a CONNECT of {packet.protocol_version} on a connection of {protocol_version}")
        return _encode_connect(packet)
    if isinstance(packet, ConnAck):
        if not 0 <= packet.reason_code <= 0xFF:
            raise LocalProtocolError("a reason code has 8 bits")
        head = bytes((packet.session_present, packet.reason_code))
        return _frame(PacketType.CONNACK, [head, _properties(packet.properties, PacketType.CONNACK, protocol_version)])
    if isinstance(packet, Subscribe):
        parts = [
            _encode_packet_id(packet.packet_id),
            _properties(packet.properties, PacketType.SUBSCRIBE, protocol_version),
        ]
        for subscription in packet.filters:
            parts += (
                _encode_filter(subscription.topic_filter, protocol_version),
                bytes((_subscription_options(subscription, protocol_version),)),
            )
        return _frame(PacketType.SUBSCRIBE, parts)
    if isinstance(packet, SubAck):
        if protocol_version < 5:
            if any(code > 2 and code != SUBACK_FAILURE for code in packet.reason_codes):
                raise LocalProtocolError("SUBACK codes are 0, 1, 2 and 0x80 [MQTT-3.9.3-2]")
        else:
            _check_codes(packet.reason_codes, PacketType.SUBACK)
        properties = _properties(packet.properties, PacketType.SUBACK, protocol_version)
        return _frame(PacketType.SUBACK, [UINT16.pack(packet.packet_id), properties, bytes(packet.reason_codes)])
    if isinstance(packet, Unsubscribe):
        return _frame(
            PacketType.UNSUBSCRIBE,
            [
                _encode_packet_id(packet.packet_id),
                _properties(packet.properties, PacketType.UNSUBSCRIBE, protocol_version),
                *(_encode_filter(each, protocol_version) for each in packet.filters),
            ],
        )
    if isinstance(packet, UnsubAck):
        if protocol_version < 5:
            if packet.reason_codes:
                raise LocalProtocolError("an UNSUBACK has no codes on MQTT 3.1.1")
            return _frame(PacketType.UNSUBACK, [UINT16.pack(packet.packet_id)])
        _check_codes(packet.reason_codes, PacketType.UNSUBACK)
        properties = encode_properties(packet.properties, PacketType.UNSUBACK)
        return _frame(PacketType.UNSUBACK, [UINT16.pack(packet.packet_id), properties, bytes(packet.reason_codes)])
    if isinstance(packet, Auth):
        _check_codes((packet.reason_code,), PacketType.AUTH)
        return _encode_coded(PacketType.AUTH, packet.reason_code, packet.properties)
    return _encode_disconnect(packet, protocol_version)


def _properties(properties: Properties | None, place: PacketType, protocol_version: int) -> bytes:
    return b"" if protocol_version < 5 else encode_properties(properties, place)


def _encode_disconnect(packet: Disconnect, protocol_version: int) -> bytes:
    if protocol_version < 5:
        _refuse_code(packet.reason_code)
        return b"\xe0\x00"
    return _encode_coded(PacketType.DISCONNECT, packet.reason_code, packet.properties)


def _encode_coded(packet_type: PacketType, reason_code: int, properties: Properties | None) -> bytes:
    if not 0 <= reason_code <= 0xFF:
        raise LocalProtocolError("a reason code has 8 bits")
    if properties:
        return _frame(packet_type, [bytes((reason_code,)), encode_properties(properties, packet_type)])
    return _frame(packet_type, [bytes((reason_code,))] if reason_code else [])


def _encode_acknowledgement(packet: PubAck | PubRec | PubRel | PubComp, protocol_version: int) -> bytes:
    packet_type = _ACKNOWLEDGEMENT_TYPES[type(packet)]
    parts = [UINT16.pack(packet.packet_id)]
    if protocol_version < 5:
        _refuse_code(packet.reason_code)
    else:
        _check_codes((packet.reason_code,), packet_type)
        if packet.properties:
            parts += (bytes((packet.reason_code,)), encode_properties(packet.properties, packet_type))
        elif packet.reason_code:
            parts.append(bytes((packet.reason_code,)))
    return _frame(packet_type, parts)


def _check_codes(codes: tuple[int, ...], packet_type: PacketType) -> None:
    for code in codes:
        if code not in REASON_CODES[packet_type]:
            raise LocalProtocolError(f"{packet_type.name} cannot bear reason code {code:#04x} (section 2.4)")


def encode_topic_name(topic: str) -> bytes:
    """A topic name with its length. Raises LocalProtocolError when it may not be published to."""
    return _encode_short_topic(topic) if len(topic) <= _REMEMBERED_LENGTH else _encode_topic(topic)


def _encode_topic(topic: str) -> bytes:
    fault = topic_name_fault(topic)
    if fault is not None:
        raise LocalProtocolError(fault)
    return encode_string(topic)


_REMEMBERED_LENGTH: Final = 200
_encode_short_topic = lru_cache(maxsize=1024)(_encode_topic)
"""Most connections publish to a few topics again and again; at most 1024 short ones are remembered."""


def encode_publish(
    topic: bytes,
    payload: bytes,
    qos: int,
    retain: bool,
    dup: bool,
    packet_id: int | None,
    properties: bytes = b"",
) -> bytes:
    """
    A PUBLISH, from the topic as `encode_topic_name` gives it and the properties as `encode_properties` does (b"" on
    3.1.1). The fast way that needs no `Publish`; of its arguments only the size is checked. Raises LocalProtocolError
    when the packet is too long for any peer.
    """
    first = 0x30 | qos << 1 | (1 if retain else 0) | (8 if dup else 0)
    if packet_id is None:
        length = len(topic) + len(payload) + len(properties)
        return b"".join((fixed_header(first, length), topic, properties, payload))
    length = len(topic) + len(payload) + len(properties) + 2
    return b"".join((fixed_header(first, length), topic, packet_id.to_bytes(2, "big"), properties, payload))


def encode_puback(packet_id: int) -> bytes:
    """A PUBACK that says success, in any version; packet id 0 is spelt too, for `tolerate_packet_id_zero`."""
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def _frame(packet_type: PacketType, parts: list[bytes]) -> bytes:
    body = b"".join(parts)
    return fixed_header(packet_type << 4 | FLAGS[packet_type], len(body)) + body


def _encode_filter(topic_filter: str, protocol_version: int) -> bytes:
    fault = topic_filter_fault(topic_filter, shared=protocol_version >= 5)
    if fault is not None:
        raise LocalProtocolError(fault)
    return encode_string(topic_filter)


def _subscription_options(subscription: Subscription, protocol_version: int) -> int:
    if protocol_version < 5:
        if subscription.no_local or subscription.retain_as_published or subscription.retain_handling:
            raise LocalProtocolError("MQTT 3.1.1 has no subscription option but the QoS")
        return subscription.qos
    if subscription.no_local and subscription.topic_filter.startswith(SHARE_PREFIX):
        raise LocalProtocolError("No Local on a shared subscription [MQTT-3.8.3-4]")
    return (
        subscription.qos
        | subscription.no_local << 2
        | subscription.retain_as_published << 3
        | subscription.retain_handling << 4
    )


def _encode_packet_id(packet_id: int) -> bytes:
    if packet_id == 0:
        raise LocalProtocolError("packet id 0 [MQTT-2.3.1-1]")
    return UINT16.pack(packet_id)


def _encode_connect(packet: Connect) -> bytes:
    version = packet.protocol_version
    if version not in SUPPORTED_VERSIONS:
        raise LocalProtocolError(f"protocol version {version} is not supported")
    if version < 5:
        if packet.properties:
            raise LocalProtocolError("properties do not exist on MQTT 3.1.1")
        if packet.password is not None and packet.username is None:
            raise LocalProtocolError("a password needs a user name on MQTT 3.1.1 [MQTT-3.1.2-22]")
        if not packet.client_id and not packet.clean_start:
            raise LocalProtocolError("an empty client identifier needs a clean start [MQTT-3.1.3-7]")
    flags = CONNECT_FLAG_CLEAN if packet.clean_start else 0
    payload = [encode_string(packet.client_id)]
    will = packet.will
    if will is not None:
        flags |= CONNECT_FLAG_WILL | will.qos << 3 | (CONNECT_FLAG_WILL_RETAIN if will.retain else 0)
        if version >= 5:
            payload.append(encode_properties(will.properties, WILL))
        elif will.properties:
            raise LocalProtocolError("properties do not exist on MQTT 3.1.1")
        payload += (encode_topic_name(will.topic), encode_binary(will.payload, "will message"))
    if packet.username is not None:
        flags |= CONNECT_FLAG_USERNAME
        payload.append(encode_string(packet.username))
    if packet.password is not None:
        flags |= CONNECT_FLAG_PASSWORD
        payload.append(encode_binary(packet.password, "password"))
    head = b"\x00\x04MQTT" + bytes((version, flags)) + UINT16.pack(packet.keep_alive_seconds)
    return _frame(PacketType.CONNECT, [head, _properties(packet.properties, PacketType.CONNECT, version), *payload])


def _refuse_code(reason_code: int) -> None:
    if reason_code:
        raise LocalProtocolError("reason codes other than 0 do not exist on MQTT 3.1.1")
