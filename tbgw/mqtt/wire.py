"""What `encoder` and `decoder` share: flags of the first byte, bits of CONNECT, variable byte integers."""

from __future__ import annotations

from struct import Struct
from typing import Final

from tbgw.mqtt.errors import LocalProtocolError, RemoteProtocolError
from tbgw.mqtt.packets import PacketType
from tbgw.mqtt.reason_codes import ReasonCode

MAX_REMAINING_LENGTH: Final = 268_435_455
"""What four bytes of seven bits can say (section 2.2.3 of 3.1.1, 2.1.4 of 5)."""

MAX_PACKET_BYTES: Final = MAX_REMAINING_LENGTH + 5
"""The largest packet there can be, with its fixed header."""

SUPPORTED_VERSIONS: Final = (4, 5)
"""Protocol levels that can be spelt: 4 is MQTT 3.1.1, 5 is MQTT 5."""

UINT16: Final = Struct(">H")
UINT32: Final = Struct(">L")

# Flags of the first byte that each packet type must bear (table 2.2). PUBLISH is not in it: its flags have a meaning.
FLAGS: Final = dict.fromkeys(PacketType, 0) | {
    PacketType.PUBREL: 2,
    PacketType.SUBSCRIBE: 2,
    PacketType.UNSUBSCRIBE: 2,
}
del FLAGS[PacketType.PUBLISH]

FIRST_BYTES_V4: Final = frozenset(
    [(packet_type << 4) | flags for packet_type, flags in FLAGS.items() if packet_type is not PacketType.AUTH]
    + [
        (PacketType.PUBLISH << 4) | (dup << 3) | (qos << 1) | retain
        for qos in (0, 1, 2)
        for dup in ((0, 1) if qos else (0,))
        for retain in (0, 1)
    ]
)
"""Every first byte that a 3.1.1 packet may have; which side may send it when is told in `state`."""

FIRST_BYTES_V5: Final = FIRST_BYTES_V4 | {PacketType.AUTH << 4}

CONNECT_FLAG_USERNAME: Final = 0x80
CONNECT_FLAG_PASSWORD: Final = 0x40
CONNECT_FLAG_WILL_RETAIN: Final = 0x20
CONNECT_FLAG_WILL: Final = 0x04
CONNECT_FLAG_CLEAN: Final = 0x02

REASON_CODES: Final[dict[int, frozenset[int]]] = {
    PacketType.PUBACK: frozenset((0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99)),
    PacketType.PUBREC: frozenset((0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99)),
    PacketType.PUBREL: frozenset((0x00, 0x92)),
    PacketType.PUBCOMP: frozenset((0x00, 0x92)),
    PacketType.SUBACK: frozenset((0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2)),
    PacketType.UNSUBACK: frozenset((0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91)),
    PacketType.AUTH: frozenset((0x00, 0x18, 0x19)),
}
"""The codes that MQTT 5 lets an acknowledgement bear. CONNACK and DISCONNECT are not in it: whatever the code, it ends
the connection, and ThingsBoard uses some that are not in their tables."""


def malformed(text: str) -> RemoteProtocolError:
    """The error for bytes that are not a packet."""
    return RemoteProtocolError(text, ReasonCode.MALFORMED_PACKET)


def encode_varint(value: int) -> bytes:
    """A variable byte integer (section 1.5.5 of MQTT 5)."""
    if value < 128:
        return bytes((value,))
    if value > MAX_REMAINING_LENGTH:
        raise LocalProtocolError(f"{value} does not fit into four bytes of seven bits (section 2.2.3)")
    raw = bytearray()
    while value > 127:
        raw.append(value & 127 | 128)
        value >>= 7
    raw.append(value)
    return bytes(raw)


def fixed_header(first: int, length: int) -> bytes:
    """First byte and remaining length. Raises LocalProtocolError when the packet is too long for any peer."""
    if length < 128:
        return bytes((first, length))
    if length < 16384:
        return bytes((first, length & 127 | 128, length >> 7))
    if length > MAX_REMAINING_LENGTH:
        raise LocalProtocolError(f"packet of {length} bytes, {MAX_REMAINING_LENGTH} is the most (section 2.2.3)")
    return bytes((first,)) + encode_varint(length)
