"""Packets to bytes and back, for one protocol version at a time. Pure, no state.

Decoding has three results and no other: a packet; "need more", with how many bytes the packet needs in all; or
`RemoteProtocolError` with the standard's clause and a reason code. Invariants:

* What a fixed header alone tells (type, flags, size) is judged before any byte of the body is waited for, so that
  nobody has to buffer a packet that will be refused. A remaining length never has more than four bytes.
* Nothing is read beyond the end that the caller gives, and no byte of a packet is left over unread.
* The rest of the caller's buffer is never copied: one looks at it through an offset.
* No error text holds what the packet contained. Errors about text are raised outside of the `except` block, because
  a UnicodeDecodeError in the context of an exception carries the bytes, and these may be a user name.

Dropped: decoding from a memoryview. Slices of `bytes` are what the application wants to keep anyway, and a memoryview
made the usual small packets slower by its own construction.

MQTT 5 is not spelt yet: properties and reason codes are refused by `encode`, and a CONNECT of level 5 is answered as
an unsupported version. `protocol_version` is already an argument wherever the spelling depends on it.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from tbgw.mqtt.errors import LocalProtocolError, RemoteProtocolError
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
)
from tbgw.mqtt.reason_codes import SUBACK_FAILURE, ReasonCode
from tbgw.mqtt.topics import MAX_STRING_BYTES, string_fault, topic_filter_fault, topic_name_fault

MAX_REMAINING_LENGTH: Final = 268_435_455
"""What four bytes of seven bits can say (section 2.2.3)."""

SUPPORTED_VERSIONS: Final = (4,)
"""Protocol levels that can be spelt: 4 is MQTT 3.1.1."""

_UINT16 = Struct(">H")

# Flags of the first byte that each packet type must bear (table 2.2). PUBLISH is not in it: its flags have a meaning.
_FLAGS: Final = dict.fromkeys(PacketType, 0) | {
    PacketType.PUBREL: 2,
    PacketType.SUBSCRIBE: 2,
    PacketType.UNSUBSCRIBE: 2,
}
del _FLAGS[PacketType.PUBLISH]

_FIRST_BYTES_V4: Final = frozenset(
    [(packet_type << 4) | flags for packet_type, flags in _FLAGS.items() if packet_type is not PacketType.AUTH]
    + [
        (PacketType.PUBLISH << 4) | (dup << 3) | (qos << 1) | retain
        for qos in (0, 1, 2)
        for dup in ((0, 1) if qos else (0,))
        for retain in (0, 1)
    ]
)
"""Every first byte that a 3.1.1 packet may have; which side may send it when is told in `state`."""

_ACKNOWLEDGEMENTS: Final[dict[int, type[PubAck | PubRec | PubRel | PubComp]]] = {
    PacketType.PUBACK: PubAck,
    PacketType.PUBREC: PubRec,
    PacketType.PUBREL: PubRel,
    PacketType.PUBCOMP: PubComp,
}

_CONNECT_FLAG_USERNAME: Final = 0x80
_CONNECT_FLAG_PASSWORD: Final = 0x40
_CONNECT_FLAG_WILL_RETAIN: Final = 0x20
_CONNECT_FLAG_WILL: Final = 0x04
_CONNECT_FLAG_CLEAN: Final = 0x02


def malformed(text: str) -> RemoteProtocolError:
    """The error for bytes that are not a packet."""
    return RemoteProtocolError(text, ReasonCode.MALFORMED_PACKET)


# --- decoding --------------------------------------------------------------------------------------------------------


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

    `max_packet_bytes` caps the whole packet with its fixed header. `allow_packet_id_zero` lets a QoS 1 PUBLISH bear
    packet id 0, against [MQTT-2.3.1-1]. Raises RemoteProtocolError; then `data` is good for nothing more.
    """
    if offset >= end:
        return None, 2
    first = data[offset]
    if first not in _FIRST_BYTES_V4:
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
        return _decode_publish(data, first, body, packet_end, allow_packet_id_zero), packet_end
    return _decode_body(first >> 4, _Body(data, body, packet_end)), packet_end


def _bad_first_byte(first: int) -> RemoteProtocolError:
    packet_type = first >> 4
    if packet_type == PacketType.PUBLISH:
        if first & 6 == 6:
            return malformed("PUBLISH with both QoS bits set [MQTT-3.3.1-4]")
        return malformed("PUBLISH with QoS 0 and DUP [MQTT-3.3.1-2]")
    if packet_type in _FLAGS and packet_type != PacketType.AUTH:
        return malformed(f"{PacketType(packet_type).name} with flags {first & 15:#x} [MQTT-2.2.2-2]")
    return malformed(f"control packet type {packet_type} is reserved (section 2.2.1)")


def _decode_publish(data: bytes, first: int, body: int, end: int, allow_packet_id_zero: bool) -> Publish:
    topic_end = body + 2
    if topic_end <= end:
        topic_end += data[body] << 8 | data[body + 1]
    if topic_end > end:
        raise malformed("PUBLISH ends within its topic name (section 3.3.2)")
    topic = decode_string(data[body + 2 : topic_end])
    fault = topic_name_fault(topic)
    if fault is not None:
        raise RemoteProtocolError(fault, ReasonCode.TOPIC_NAME_INVALID)
    qos = (first >> 1) & 3
    packet_id = None
    if qos:
        payload_start = topic_end + 2
        if payload_start > end:
            raise malformed("PUBLISH ends within its packet id (section 3.3.2)")
        packet_id = data[topic_end] << 8 | data[topic_end + 1]
        if packet_id == 0 and not (allow_packet_id_zero and qos == 1):
            raise malformed("PUBLISH with packet id 0 [MQTT-2.3.1-1]")
        topic_end = payload_start
    return Publish(
        topic=topic,
        payload=data[topic_end:end],
        qos=qos,
        retain=bool(first & 1),
        dup=bool(first & 8),
        packet_id=packet_id,
    )


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

    def rest(self) -> bytes:
        return self.take(self._end - self._position, "rest")

    def more(self) -> bool:
        return self._position < self._end

    def finish(self) -> None:
        if self._position != self._end:
            raise malformed(f"{self._end - self._position} bytes too many at the end of the packet")


def _decode_body(packet_type: int, body: _Body) -> Packet:
    packet: Packet
    acknowledgement = _ACKNOWLEDGEMENTS.get(packet_type)
    if acknowledgement is not None:
        # Packet id 0 is let through: it is no packet's id, and an unknown id is ignored anyway.
        packet = acknowledgement(packet_id=body.uint16("packet id"))
    elif packet_type == PacketType.CONNECT:
        packet = _decode_connect(body)
    elif packet_type == PacketType.CONNACK:
        flags = body.byte("acknowledge flags")
        if flags & 0xFE:
            raise malformed("CONNACK with reserved acknowledge flags (section 3.2.2.1)")
        # ThingsBoard sets Session Present in refusals too, against [MQTT-3.2.2-4]; a refusal is one all the same.
        packet = ConnAck(session_present=bool(flags), reason_code=body.byte("return code"))
    elif packet_type == PacketType.SUBSCRIBE:
        packet = _decode_subscribe(body)
    elif packet_type == PacketType.SUBACK:
        packet_id = body.uint16("packet id")
        codes = tuple(body.rest())
        if not codes or any(code > 2 and code != SUBACK_FAILURE for code in codes):
            raise malformed("SUBACK with no code or a reserved one [MQTT-3.9.3-2]")
        packet = SubAck(packet_id=packet_id, reason_codes=codes)
    elif packet_type == PacketType.UNSUBSCRIBE:
        packet = _decode_unsubscribe(body)
    elif packet_type == PacketType.UNSUBACK:
        packet = UnsubAck(packet_id=body.uint16("packet id"))
    elif packet_type == PacketType.PINGREQ:
        packet = PingReq()
    elif packet_type == PacketType.PINGRESP:
        packet = PingResp()
    else:
        packet = Disconnect()  # the only type left: decode() let no other first byte in
    body.finish()
    return packet


def _decode_connect(body: _Body) -> Connect:
    if body.binary("protocol name") != b"MQTT":
        raise RemoteProtocolError("CONNECT of another protocol [MQTT-3.1.2-1]", ReasonCode.UNSUPPORTED_PROTOCOL_VERSION)
    level = body.byte("protocol level")
    if level not in SUPPORTED_VERSIONS:
        raise RemoteProtocolError(
            f"CONNECT with protocol level {level} [MQTT-3.1.2-2]", ReasonCode.UNSUPPORTED_PROTOCOL_VERSION
        )
    flags = body.byte("connect flags")
    if flags & 1:
        raise malformed("CONNECT with the reserved flag set [MQTT-3.1.2-3]")
    if flags & _CONNECT_FLAG_PASSWORD and not flags & _CONNECT_FLAG_USERNAME:
        raise malformed("CONNECT with a password and no user name [MQTT-3.1.2-22]")
    will_qos = (flags >> 3) & 3
    if will_qos == 3:
        raise malformed("CONNECT with will QoS 3 [MQTT-3.1.2-14]")
    if not flags & _CONNECT_FLAG_WILL and (will_qos or flags & _CONNECT_FLAG_WILL_RETAIN):
        raise malformed("CONNECT with will QoS or will retain and no will [MQTT-3.1.2-13]")
    keep_alive_seconds = body.uint16("keep alive")
    client_id = body.string("client identifier")
    will = None
    if flags & _CONNECT_FLAG_WILL:
        will_topic = body.string("will topic")
        fault = topic_name_fault(will_topic)
        if fault is not None:
            raise RemoteProtocolError(fault, ReasonCode.TOPIC_NAME_INVALID)
        will = Will(
            topic=will_topic,
            payload=body.binary("will message"),
            qos=will_qos,
            retain=bool(flags & _CONNECT_FLAG_WILL_RETAIN),
        )
    return Connect(
        client_id=client_id,
        clean_start=bool(flags & _CONNECT_FLAG_CLEAN),
        keep_alive_seconds=keep_alive_seconds,
        username=body.string("user name") if flags & _CONNECT_FLAG_USERNAME else None,
        password=body.binary("password") if flags & _CONNECT_FLAG_PASSWORD else None,
        will=will,
        protocol_version=level,
    )


def _decode_subscribe(body: _Body) -> Subscribe:
    packet_id = body.packet_id()
    subscriptions = []
    while body.more():
        topic_filter = _decode_filter(body)
        options = body.byte("subscription options")
        if options > 2:
            raise malformed("SUBSCRIBE with QoS 3 or reserved bits set [MQTT-3-8.3-4]")
        subscriptions.append(Subscription(topic_filter=topic_filter, qos=options))
    if not subscriptions:
        raise RemoteProtocolError("SUBSCRIBE without a topic filter [MQTT-3.8.3-3]")
    return Subscribe(packet_id=packet_id, filters=tuple(subscriptions))


def _decode_unsubscribe(body: _Body) -> Unsubscribe:
    packet_id = body.packet_id()
    filters = []
    while body.more():
        filters.append(_decode_filter(body))
    if not filters:
        raise RemoteProtocolError("UNSUBSCRIBE without a topic filter [MQTT-3.10.3-2]")
    return Unsubscribe(packet_id=packet_id, filters=tuple(filters))


def _decode_filter(body: _Body) -> str:
    topic_filter = body.string("topic filter")
    fault = topic_filter_fault(topic_filter)
    if fault is not None:
        raise RemoteProtocolError(fault, ReasonCode.TOPIC_FILTER_INVALID)
    return topic_filter


# --- encoding --------------------------------------------------------------------------------------------------------


def encode(packet: Packet, protocol_version: int) -> bytes:
    """The bytes of a packet. Raises LocalProtocolError for what this version cannot say."""
    if protocol_version not in SUPPORTED_VERSIONS:
        raise LocalProtocolError(f"protocol version {protocol_version} is not supported")
    if isinstance(packet, PingReq):
        return b"\xc0\x00"
    if isinstance(packet, PingResp):
        return b"\xd0\x00"
    if isinstance(packet, Auth):
        raise LocalProtocolError("AUTH does not exist on MQTT 3.1.1")
    if packet.properties:
        raise LocalProtocolError("properties do not exist on MQTT 3.1.1")
    if isinstance(packet, Publish):
        if packet.packet_id == 0:
            raise LocalProtocolError("a PUBLISH cannot be sent with packet id 0 [MQTT-2.3.1-1]")
        return encode_publish(
            encode_topic_name(packet.topic),
            packet.payload,
            packet.qos,
            packet.retain,
            packet.dup,
            packet.packet_id,
        )
    if isinstance(packet, PubAck | PubRec | PubRel | PubComp):
        _refuse_code(packet.reason_code)
        packet_type = PacketType[type(packet).__name__.upper()]
        return bytes((packet_type << 4 | _FLAGS[packet_type], 2)) + _UINT16.pack(packet.packet_id)
    if isinstance(packet, Connect):
        return _encode_connect(packet)
    if isinstance(packet, ConnAck):
        return bytes((PacketType.CONNACK << 4, 2, packet.session_present, packet.reason_code))
    if isinstance(packet, Subscribe):
        parts = [_encode_packet_id(packet.packet_id)]
        for subscription in packet.filters:
            if subscription.no_local or subscription.retain_as_published or subscription.retain_handling:
                raise LocalProtocolError("MQTT 3.1.1 has no subscription option but the QoS")
            parts += (_encode_filter(subscription.topic_filter), bytes((subscription.qos,)))
        return _frame(PacketType.SUBSCRIBE, parts)
    if isinstance(packet, SubAck):
        if any(code > 2 and code != SUBACK_FAILURE for code in packet.reason_codes):
            raise LocalProtocolError("SUBACK codes are 0, 1, 2 and 0x80 [MQTT-3.9.3-2]")
        return _frame(PacketType.SUBACK, [_UINT16.pack(packet.packet_id), bytes(packet.reason_codes)])
    if isinstance(packet, Unsubscribe):
        return _frame(
            PacketType.UNSUBSCRIBE,
            [_encode_packet_id(packet.packet_id), *(_encode_filter(each) for each in packet.filters)],
        )
    if isinstance(packet, UnsubAck):
        if packet.reason_codes:
            raise LocalProtocolError("an UNSUBACK has no codes on MQTT 3.1.1")
        return _frame(PacketType.UNSUBACK, [_UINT16.pack(packet.packet_id)])
    _refuse_code(packet.reason_code)
    return b"\xe0\x00"  # DISCONNECT, the only type left


def encode_topic_name(topic: str) -> bytes:
    """A topic name with its length. Raises LocalProtocolError when it may not be published to."""
    fault = topic_name_fault(topic)
    if fault is not None:
        raise LocalProtocolError(fault)
    return _encode_string(topic)


def encode_publish(topic: bytes, payload: bytes, qos: int, retain: bool, dup: bool, packet_id: int | None) -> bytes:
    """
    A PUBLISH, from the topic as `encode_topic_name` gives it. The fast way that needs no `Publish`; of its arguments
    only the size is checked. Raises LocalProtocolError when the packet is too long for any peer.
    """
    first = 0x30 | qos << 1 | (1 if retain else 0) | (8 if dup else 0)
    if packet_id is None:
        length = len(topic) + len(payload)
        return b"".join((_fixed_header(first, length), topic, payload))
    length = len(topic) + len(payload) + 2
    return b"".join((_fixed_header(first, length), topic, packet_id.to_bytes(2, "big"), payload))


def encode_puback(packet_id: int) -> bytes:
    """A PUBACK that says success; packet id 0 is spelt too, for `tolerate_packet_id_zero`."""
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def _fixed_header(first: int, length: int) -> bytes:
    if length < 128:
        return bytes((first, length))
    if length < 16384:
        return bytes((first, length & 127 | 128, length >> 7))
    if length > MAX_REMAINING_LENGTH:
        raise LocalProtocolError(f"packet of {length} bytes, {MAX_REMAINING_LENGTH} is the most (section 2.2.3)")
    header = bytearray((first,))
    while length > 127:
        header.append(length & 127 | 128)
        length >>= 7
    header.append(length)
    return bytes(header)


def _frame(packet_type: PacketType, parts: list[bytes]) -> bytes:
    body = b"".join(parts)
    return _fixed_header(packet_type << 4 | _FLAGS[packet_type], len(body)) + body


def _encode_string(text: str) -> bytes:
    fault = string_fault(text)
    if fault is not None:
        raise LocalProtocolError(fault)
    raw = text.encode()
    return _UINT16.pack(len(raw)) + raw


def _encode_binary(raw: bytes, what: str) -> bytes:
    if len(raw) > MAX_STRING_BYTES:
        raise LocalProtocolError(f"{what} of {len(raw)} bytes, {MAX_STRING_BYTES} is the most")
    return _UINT16.pack(len(raw)) + raw


def _encode_filter(topic_filter: str) -> bytes:
    fault = topic_filter_fault(topic_filter)
    if fault is not None:
        raise LocalProtocolError(fault)
    return _encode_string(topic_filter)


def _encode_packet_id(packet_id: int) -> bytes:
    if packet_id == 0:
        raise LocalProtocolError("packet id 0 [MQTT-2.3.1-1]")
    return _UINT16.pack(packet_id)


def _encode_connect(packet: Connect) -> bytes:
    if packet.protocol_version not in SUPPORTED_VERSIONS:
        raise LocalProtocolError(f"protocol version {packet.protocol_version} is not supported")
    if packet.password is not None and packet.username is None:
        raise LocalProtocolError("a password needs a user name on MQTT 3.1.1 [MQTT-3.1.2-22]")
    if not packet.client_id and not packet.clean_start:
        raise LocalProtocolError("an empty client identifier needs a clean start [MQTT-3.1.3-7]")
    flags = _CONNECT_FLAG_CLEAN if packet.clean_start else 0
    payload = [_encode_string(packet.client_id)]
    will = packet.will
    if will is not None:
        if will.properties:
            raise LocalProtocolError("properties do not exist on MQTT 3.1.1")
        flags |= _CONNECT_FLAG_WILL | will.qos << 3 | (_CONNECT_FLAG_WILL_RETAIN if will.retain else 0)
        payload += (encode_topic_name(will.topic), _encode_binary(will.payload, "will message"))
    if packet.username is not None:
        flags |= _CONNECT_FLAG_USERNAME
        payload.append(_encode_string(packet.username))
    if packet.password is not None:
        flags |= _CONNECT_FLAG_PASSWORD
        payload.append(_encode_binary(packet.password, "password"))
    head = b"\x00\x04MQTT" + bytes((packet.protocol_version, flags)) + _UINT16.pack(packet.keep_alive_seconds)
    return _frame(PacketType.CONNECT, [head, *payload])


def _refuse_code(reason_code: int) -> None:
    if reason_code:
        raise LocalProtocolError("reason codes other than 0 do not exist on MQTT 3.1.1")
