"""Bytes to packets, for one protocol version at a time. Pure, no state.

Three results and no other: a packet; "need more", with how many bytes the packet needs in all; or
`RemoteProtocolError` with the standard's clause and a reason code. Invariants:

* What a fixed header alone tells (type, flags, size) is judged before any byte of the body is waited for, so that
  nobody has to buffer a packet that will be refused. A remaining length never has more than four bytes.
* Nothing is read beyond the end that the caller gives, and no byte of a packet is left over unread.
* The rest of the caller's buffer is never copied: one looks at it through an offset.
* No error text holds what the packet contained. Errors about text are raised outside of the `except` block, because
  a UnicodeDecodeError in the context of an exception carries the bytes, and these may be a user name.

Clauses are cited by their number in 3.1.1 where both versions have the rule, and by that of 5 where only 5 has it.

Dropped: decoding from a memoryview. Slices of `bytes` are what the application wants to keep anyway, and a memoryview
made the usual small packets slower by its own construction.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from tbgw.mqtt.errors import RemoteProtocolError
from tbgw.mqtt.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    PingReq,
    PingResp,
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
    Will,
    unchecked_publish,
)
from tbgw.mqtt.properties import WILL, PropertyId, decode_properties, decode_string
from tbgw.mqtt.reason_codes import SUBACK_FAILURE, ReasonCode
from tbgw.mqtt.topics import SHARE_PREFIX, topic_filter_fault, topic_name_fault
from tbgw.mqtt.wire import (
    CONNECT_FLAG_CLEAN,
    CONNECT_FLAG_PASSWORD,
    CONNECT_FLAG_USERNAME,
    CONNECT_FLAG_WILL,
    CONNECT_FLAG_WILL_RETAIN,
    FIRST_BYTES_V4,
    FIRST_BYTES_V5,
    FLAGS,
    REASON_CODES,
    SUPPORTED_VERSIONS,
    malformed,
)

_ACKNOWLEDGEMENTS: Final[dict[int, type[PubAck | PubRec | PubRel | PubComp]]] = {
    PacketType.PUBACK: PubAck,
    PacketType.PUBREC: PubRec,
    PacketType.PUBREL: PubRel,
    PacketType.PUBCOMP: PubComp,
}


def decode(
    data: bytes,
    offset: int,
    end: int,
    *,
    protocol_version: int,
    max_packet_bytes: int,
    allow_packet_id_zero: bool = False,
) -> tuple[Packet | None, int]:
    """
    The packet that begins at `offset` in `data[:end]`, and the offset of the next one. When it is not complete:
    (None, size), where `size` is how many bytes from `offset` on are needed before it makes sense to ask again.

    A CONNECT is read in the version that it bears itself. `max_packet_bytes` caps the whole packet with its fixed
    header. `allow_packet_id_zero` lets a QoS 1 PUBLISH bear packet id 0, against [MQTT-2.3.1-1]. Raises
    RemoteProtocolError; then `data` is good for nothing more.
    """
    if offset >= end:
        return None, 2
    first = data[offset]
    if first not in FIRST_BYTES_V4 and (protocol_version < 5 or first not in FIRST_BYTES_V5):
        raise _bad_first_byte(first)
    if offset + 1 >= end:
        return None, 2
    length = data[offset + 1]
    body = offset + 2
    if length > 127:
        length &= 127
        for index in (1, 2, 3):
            if body >= end:
                return None, index + 2
            byte = data[body]
            body += 1
            length |= (byte & 127) << (7 * index)
            if byte < 128:
                break
        else:
            raise malformed("remaining length of more than four bytes (section 2.2.3)")
    packet_end = body + length
    if packet_end - offset > max_packet_bytes:
        raise RemoteProtocolError(
            f"packet of {packet_end - offset} bytes, at most {max_packet_bytes} are taken [MQTT-3.1.2-24]",
            ReasonCode.PACKET_TOO_LARGE,
        )
    if packet_end > end:
        return None, packet_end - offset
    if first & 0xF0 == 0x30:
        return decode_publish(data, first, body, packet_end, protocol_version, allow_packet_id_zero), packet_end
    return _decode_body(first >> 4, _Body(data, body, packet_end), protocol_version), packet_end


def _bad_first_byte(first: int) -> RemoteProtocolError:
    packet_type = first >> 4
    if packet_type == PacketType.PUBLISH:
        if first & 6 == 6:
            return malformed("PUBLISH with both QoS bits set [MQTT-3.3.1-4]")
        return malformed("PUBLISH with QoS 0 and DUP [MQTT-3.3.1-2]")
    if packet_type in FLAGS and packet_type != PacketType.AUTH:
        return malformed(f"{PacketType(packet_type).name} with flags {first & 15:#x} [MQTT-2.2.2-2]")
    return malformed(f"control packet type {packet_type} with flags {first & 15:#x} is reserved (section 2.2.1)")


_REMEMBERED_LENGTH: Final = 200
_decode_short_topic = lru_cache(maxsize=1024)(decode_string)
"""At most 1024 short topics are remembered; what raises is not."""


def decode_publish(
    data: bytes, first: int, body: int, end: int, protocol_version: int, allow_packet_id_zero: bool
) -> Publish:
    """A PUBLISH whose body is `data[body:end]`; the first byte is right. Raises RemoteProtocolError."""
    topic_end = body + 2
    if topic_end <= end:
        topic_end += data[body] << 8 | data[body + 1]
    if topic_end > end:
        raise malformed("PUBLISH ends within its topic name (section 3.3.2)")
    raw_topic = data[body + 2 : topic_end]
    topic = decode_string(raw_topic) if len(raw_topic) > _REMEMBERED_LENGTH else _decode_short_topic(raw_topic)
    qos = (first >> 1) & 3
    packet_id = None
    payload_start = topic_end
    if qos:
        payload_start += 2
        if payload_start > end:
            raise malformed("PUBLISH ends within its packet id (section 3.3.2)")
        packet_id = data[topic_end] << 8 | data[topic_end + 1]
        if packet_id == 0 and not (allow_packet_id_zero and qos == 1):
            raise malformed("PUBLISH with packet id 0 [MQTT-2.3.1-1]")
    properties = None
    if protocol_version >= 5:
        if payload_start < end and data[payload_start] == 0:
            payload_start += 1
        else:
            properties, payload_start = decode_properties(data, payload_start, end, PacketType.PUBLISH)
    if not topic and protocol_version >= 5:
        if properties is None or PropertyId.TOPIC_ALIAS not in properties:
            raise RemoteProtocolError("PUBLISH with neither topic name nor topic alias (section 3.3.2.1)")
    else:
        fault = topic_name_fault(topic)
        if fault is not None:
            raise RemoteProtocolError(fault, ReasonCode.TOPIC_NAME_INVALID)
    return unchecked_publish(
        topic, data[payload_start:end], qos, bool(first & 1), bool(first & 8), packet_id, properties
    )


class _Body:
    """Reads what follows the fixed header, in order; each read that would go beyond the end is malformed."""

    __slots__ = ("_data", "_end", "_position")

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self._data = data
        self._position = start
        self._end = end

    def take(self, count: int, what: str) -> bytes:
        start = self._position
        stop = start + count
        if stop > self._end:
            raise malformed(f"packet ends within its {what}")
        self._position = stop
        return self._data[start:stop]

    def byte(self, what: str) -> int:
        return self.take(1, what)[0]

    def uint16(self, what: str) -> int:
        high, low = self.take(2, what)
        return high << 8 | low

    def binary(self, what: str) -> bytes:
        return self.take(self.uint16(what), what)

    def string(self, what: str) -> str:
        return decode_string(self.binary(what))

    def packet_id(self) -> int:
        packet_id = self.uint16("packet id")
        if packet_id == 0:
            raise malformed("packet id 0 [MQTT-2.3.1-1]")
        return packet_id

    def properties(self, place: int, protocol_version: int) -> dict[int, Any] | None:
        if protocol_version < 5:
            return None
        properties, self._position = decode_properties(self._data, self._position, self._end, place)
        return properties

    def rest(self) -> bytes:
        return self.take(self._end - self._position, "rest")

    def size(self) -> int:
        return self._end - self._position

    def finish(self) -> None:
        if self._position != self._end:
            raise malformed(f"{self._end - self._position} bytes too many at the end of the packet")


def _code(body: _Body, packet_type: int) -> int:
    code = body.byte("reason code")
    _check_code(code, packet_type)
    return code


def _check_code(code: int, packet_type: int) -> None:
    if code not in REASON_CODES[packet_type]:
        name = PacketType(packet_type).name
        raise RemoteProtocolError(f"{name} with reason code {code:#04x}, which is none of its own (section 2.4)")


def _decode_body(packet_type: int, body: _Body, version: int) -> Packet:
    packet: Packet
    acknowledgement = _ACKNOWLEDGEMENTS.get(packet_type)
    if acknowledgement is not None:
        # Packet id 0 is let through: it is no packet's id, and an unknown id is ignored anyway.
        packet_id = body.uint16("packet id")
        if version < 5 or not body.size():
            packet = acknowledgement(packet_id=packet_id)
        else:
            code = _code(body, packet_type)
            properties = body.properties(packet_type, version) if body.size() else None
            packet = acknowledgement(packet_id=packet_id, reason_code=code, properties=properties)
    elif packet_type == PacketType.CONNECT:
        packet = _decode_connect(body)
    elif packet_type == PacketType.CONNACK:
        packet = _decode_connack(body, version)
    elif packet_type == PacketType.SUBSCRIBE:
        packet = _decode_subscribe(body, version)
    elif packet_type == PacketType.SUBACK:
        packet = _decode_suback(body, version)
    elif packet_type == PacketType.UNSUBSCRIBE:
        packet = _decode_unsubscribe(body, version)
    elif packet_type == PacketType.UNSUBACK:
        packet = _decode_unsuback(body, version)
    elif packet_type == PacketType.PINGREQ:
        packet = PingReq()
    elif packet_type == PacketType.PINGRESP:
        packet = PingResp()
    elif packet_type == PacketType.AUTH:
        if body.size():
            code = _code(body, packet_type)
            packet = Auth(reason_code=code, properties=body.properties(packet_type, version) if body.size() else None)
        else:
            packet = Auth()
    elif version >= 5 and body.size():
        code = body.byte("reason code")
        properties = body.properties(packet_type, version) if body.size() else None
        packet = Disconnect(reason_code=code, properties=properties)
    else:
        packet = Disconnect()  # the only type left: decode() let no other first byte in
    body.finish()
    return packet


def _decode_connack(body: _Body, version: int) -> ConnAck:
    flags = body.byte("acknowledge flags")
    if flags & 0xFE:
        raise malformed("CONNACK with reserved acknowledge flags (section 3.2.2.1)")
    # ThingsBoard sets Session Present in refusals too, against [MQTT-3.2.2-4]; a refusal is one all the same.
    code = body.byte("return code")
    properties = None
    if version >= 5 and (body.size() or not code):
        # A refusal without properties is how a server of 3.1.1 answers a CONNECT of 5 (section 3.1.4 there).
        properties = body.properties(PacketType.CONNACK, version)
    return ConnAck(session_present=bool(flags), reason_code=code, properties=properties)


def _decode_connect(body: _Body) -> Connect:
    if body.binary("protocol name") != b"MQTT":
        raise RemoteProtocolError("CONNECT of another protocol [MQTT-3.1.2-1]", ReasonCode.UNSUPPORTED_PROTOCOL_VERSION)
    level = body.byte("protocol level")
    if level not in SUPPORTED_VERSIONS:
        raise RemoteProtocolError(
            f"CONNECT with protocol level {level} [MQTT-3.1.2-2]", ReasonCode.UNSUPPORTED_PROTOCOL_VERSION
        )
    try:
        return _decode_connect_of(level, body)
    except RemoteProtocolError as error:
        error.connect_version = level
        raise


def _decode_connect_of(level: int, body: _Body) -> Connect:
    flags = body.byte("connect flags")
    if flags & 1:
        raise malformed("CONNECT with the reserved flag set [MQTT-3.1.2-3]")
    if level < 5 and flags & CONNECT_FLAG_PASSWORD and not flags & CONNECT_FLAG_USERNAME:
        raise malformed("CONNECT with a password and no user name [MQTT-3.1.2-22]")
    will_qos = (flags >> 3) & 3
    if will_qos == 3:
        raise malformed("CONNECT with will QoS 3 [MQTT-3.1.2-14]")
    if not flags & CONNECT_FLAG_WILL and (will_qos or flags & CONNECT_FLAG_WILL_RETAIN):
        raise malformed("CONNECT with will QoS or will retain and no will [MQTT-3.1.2-13]")
    keep_alive_seconds = body.uint16("keep alive")
    properties = body.properties(PacketType.CONNECT, level)
    client_id = body.string("client identifier")
    will = None
    if flags & CONNECT_FLAG_WILL:
        will_properties = body.properties(WILL, level)
        will_topic = body.string("will topic")
        fault = topic_name_fault(will_topic)
        if fault is not None:
            raise RemoteProtocolError(fault, ReasonCode.TOPIC_NAME_INVALID)
        will = Will(
            topic=will_topic,
            payload=body.binary("will message"),
            qos=will_qos,
            retain=bool(flags & CONNECT_FLAG_WILL_RETAIN),
            properties=will_properties,
        )
    connect = Connect(
        client_id=client_id,
        clean_start=bool(flags & CONNECT_FLAG_CLEAN),
        keep_alive_seconds=keep_alive_seconds,
        username=body.string("user name") if flags & CONNECT_FLAG_USERNAME else None,
        password=body.binary("password") if flags & CONNECT_FLAG_PASSWORD else None,
        will=will,
        protocol_version=level,
        properties=properties,
    )
    body.finish()
    return connect


def _decode_subscribe(body: _Body, version: int) -> Subscribe:
    packet_id = body.packet_id()
    properties = body.properties(PacketType.SUBSCRIBE, version)
    subscriptions = []
    while body.size():
        topic_filter = _decode_filter(body, version)
        options = body.byte("subscription options")
        if version < 5:
            if options > 2:
                raise malformed("SUBSCRIBE with QoS 3 or reserved bits set [MQTT-3-8.3-4]")
            subscriptions.append(Subscription(topic_filter=topic_filter, qos=options))
            continue
        if options & 0xC0:
            raise malformed("SUBSCRIBE with reserved option bits set [MQTT-3.8.3-5]")
        if options & 3 == 3 or options & 0x30 == 0x30:
            raise RemoteProtocolError("SUBSCRIBE with QoS 3 or retain handling 3 (section 3.8.3.1)")
        if options & 4 and topic_filter.startswith(SHARE_PREFIX):
            raise RemoteProtocolError("SUBSCRIBE with No Local on a shared subscription [MQTT-3.8.3-4]")
        subscriptions.append(
            Subscription(
                topic_filter=topic_filter,
                qos=options & 3,
                no_local=bool(options & 4),
                retain_as_published=bool(options & 8),
                retain_handling=options >> 4,
            )
        )
    if not subscriptions:
        raise RemoteProtocolError("SUBSCRIBE without a topic filter [MQTT-3.8.3-3]")
    return Subscribe(packet_id=packet_id, filters=tuple(subscriptions), properties=properties)


def _decode_suback(body: _Body, version: int) -> SubAck:
    packet_id = body.uint16("packet id")
    properties = body.properties(PacketType.SUBACK, version)
    codes = tuple(body.rest())
    if not codes:
        raise malformed("SUBACK with no code [MQTT-3.9.3-2]")
    if version >= 5:
        for code in codes:
            _check_code(code, PacketType.SUBACK)
    elif any(code > 2 and code != SUBACK_FAILURE for code in codes):
        raise malformed("SUBACK with a reserved code [MQTT-3.9.3-2]")
    return SubAck(packet_id=packet_id, reason_codes=codes, properties=properties)


def _decode_unsubscribe(body: _Body, version: int) -> Unsubscribe:
    packet_id = body.packet_id()
    properties = body.properties(PacketType.UNSUBSCRIBE, version)
    filters = []
    while body.size():
        filters.append(_decode_filter(body, version))
    if not filters:
        raise RemoteProtocolError("UNSUBSCRIBE without a topic filter [MQTT-3.10.3-2]")
    return Unsubscribe(packet_id=packet_id, filters=tuple(filters), properties=properties)


def _decode_unsuback(body: _Body, version: int) -> UnsubAck:
    packet_id = body.uint16("packet id")
    if version < 5:
        return UnsubAck(packet_id=packet_id)
    properties = body.properties(PacketType.UNSUBACK, version)
    codes = tuple(body.rest())
    if not codes:
        raise malformed("UNSUBACK with no code [MQTT-3.11.3-1]")
    for code in codes:
        _check_code(code, PacketType.UNSUBACK)
    return UnsubAck(packet_id=packet_id, reason_codes=codes, properties=properties)


def _decode_filter(body: _Body, version: int) -> str:
    topic_filter = body.string("topic filter")
    fault = topic_filter_fault(topic_filter, shared=version >= 5)
    if fault is not None:
        raise RemoteProtocolError(fault, ReasonCode.TOPIC_FILTER_INVALID)
    return topic_filter
