"""The control packets as frozen values.

A packet holds what was meant, not how it is spelt: the same classes serve MQTT 3.1.1 and MQTT 5, and the codec knows
which fields a version can carry. Fields that only MQTT 5 has bear a default that means "not there". `properties` maps
a property's identifier to its value (repeatable ones to a tuple of values); None and {} both mean none.

Checked on construction: the ranges that hold in every version. What depends on the version, such as the shape of a
topic, is checked where the packet is spelt or read (`codec`).

User names count as secrets like passwords, because ThingsBoard's access token travels as the user name: neither
appears in a `repr`, and of payloads only the size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeAlias

from tbgw.mqtt.errors import LocalProtocolError
from tbgw.mqtt.reason_codes import SUBACK_FAILURE, ConnectReturnCode, ReasonCode

__all__ = [
    "SUBACK_FAILURE",
    "Auth",
    "ConnAck",
    "Connect",
    "ConnectReturnCode",
    "Disconnect",
    "Packet",
    "PacketType",
    "PingReq",
    "PingResp",
    "Properties",
    "PubAck",
    "PubComp",
    "PubRec",
    "PubRel",
    "Publish",
    "ReasonCode",
    "SubAck",
    "Subscribe",
    "Subscription",
    "UnsubAck",
    "Unsubscribe",
    "Will",
]

# By identifier, a number or a `PropertyId`. The key is Any because a mapping of one is none of the other to mypy.
Properties: TypeAlias = Mapping[Any, Any]


class PacketType(IntEnum):
    """Control packet types (section 2.1.2), the high four bits of a packet's first byte."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


def _check_qos(qos: int) -> None:
    if not 0 <= qos <= 2:
        raise LocalProtocolError(f"QoS must be 0, 1 or 2, not {qos} [MQTT-3.3.1-4]")


def _check_packet_id(packet_id: int) -> None:
    # 0 is let through here: ThingsBoard sends it, and what we received must be sayable. The codec refuses to spell it
    # but in an acknowledgement.
    if not 0 <= packet_id <= 0xFFFF:
        raise LocalProtocolError(f"a packet id has 16 bits, {packet_id} has not [MQTT-2.3.1-1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Will:
    """What the server publishes for a client that goes without DISCONNECT."""

    topic: str
    payload: bytes = field(repr=False)
    qos: int = 0
    retain: bool = False
    properties: Properties | None = None

    def __post_init__(self) -> None:
        _check_qos(self.qos)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """First packet of every connection, client to server."""

    client_id: str = ""
    clean_start: bool = True  # Clean Session on 3.1.1
    keep_alive_seconds: int = 0  # 0: off
    username: str | None = field(default=None, repr=False)
    password: bytes | None = field(default=None, repr=False)
    will: Will | None = None
    protocol_version: int = 4  # the protocol level byte: 4 is MQTT 3.1.1, 5 is MQTT 5
    properties: Properties | None = field(default=None, repr=False)  # authentication data may be in there

    def __post_init__(self) -> None:
        if not 0 <= self.keep_alive_seconds <= 0xFFFF:
            raise LocalProtocolError(f"keep alive has 16 bits, {self.keep_alive_seconds} s is out of range")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnAck:
    """The server's answer to CONNECT. `reason_code` is a `ConnectReturnCode` on 3.1.1, a `ReasonCode` on 5."""

    session_present: bool = False
    reason_code: int = 0
    properties: Properties | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Publish:
    """An application message on its way, in either direction. With QoS 0 there is no packet id."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int | None = None
    properties: Properties | None = None

    def __post_init__(self) -> None:
        if self.qos:
            _check_qos(self.qos)
            if self.packet_id is None:
                raise LocalProtocolError(f"a PUBLISH with QoS {self.qos} needs a packet id [MQTT-2.3.1-1]")
            _check_packet_id(self.packet_id)
        elif self.packet_id is not None:
            raise LocalProtocolError("a PUBLISH with QoS 0 has no packet id [MQTT-2.3.1-5]")
        elif self.dup:
            raise LocalProtocolError("a PUBLISH with QoS 0 cannot be a duplicate [MQTT-3.3.1-2]")

    def __repr__(self) -> str:
        """Everything but the payload, which may hold secrets and is long: of that, the size."""
        return (
            f"Publish(topic={self.topic!r}, payload=<{len(self.payload)} bytes>, qos={self.qos}, "
            f"retain={self.retain}, dup={self.dup}, packet_id={self.packet_id}, properties={self.properties!r})"
        )


_new = object.__new__
_set_topic = Publish.__dict__["topic"].__set__
_set_payload = Publish.__dict__["payload"].__set__
_set_qos = Publish.__dict__["qos"].__set__
_set_retain = Publish.__dict__["retain"].__set__
_set_dup = Publish.__dict__["dup"].__set__
_set_packet_id = Publish.__dict__["packet_id"].__set__
_set_properties = Publish.__dict__["properties"].__set__


def unchecked_publish(
    topic: str, payload: bytes, qos: int, retain: bool, dup: bool, packet_id: int | None, properties: Properties | None
) -> Publish:
    """A `Publish` of fields that are known to be right, in half of the time: through the slots, past the checks."""
    packet = _new(Publish)
    _set_topic(packet, topic)
    _set_payload(packet, payload)
    _set_qos(packet, qos)
    _set_retain(packet, retain)
    _set_dup(packet, dup)
    _set_packet_id(packet, packet_id)
    _set_properties(packet, properties)
    return packet


@dataclass(frozen=True, slots=True, kw_only=True)
class _Acknowledgement:
    """What PUBACK, PUBREC, PUBREL and PUBCOMP have in common. `reason_code` is always 0 on 3.1.1."""

    packet_id: int
    reason_code: int = 0
    properties: Properties | None = None

    def __post_init__(self) -> None:
        _check_packet_id(self.packet_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class PubAck(_Acknowledgement):
    """Answer to a QoS 1 PUBLISH."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PubRec(_Acknowledgement):
    """First answer to a QoS 2 PUBLISH: received."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PubRel(_Acknowledgement):
    """The sender's answer to PUBREC: it will not send the message again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PubComp(_Acknowledgement):
    """Last answer of a QoS 2 exchange."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """One topic filter of a SUBSCRIBE. All but `qos` exists on MQTT 5 only."""

    topic_filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0

    def __post_init__(self) -> None:
        _check_qos(self.qos)
        if not 0 <= self.retain_handling <= 2:
            raise LocalProtocolError(f"retain handling must be 0, 1 or 2, not {self.retain_handling}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    """Ask for messages, client to server."""

    packet_id: int
    filters: tuple[Subscription, ...]
    properties: Properties | None = None

    def __post_init__(self) -> None:
        _check_packet_id(self.packet_id)
        if not self.filters:
            raise LocalProtocolError("a SUBSCRIBE needs at least one topic filter [MQTT-3.8.3-3]")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubAck:
    """Answer to SUBSCRIBE: one code for each filter, in order; the granted QoS, or 0x80 and above for a refusal."""

    packet_id: int
    reason_codes: tuple[int, ...]
    properties: Properties | None = None

    def __post_init__(self) -> None:
        _check_packet_id(self.packet_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsubscribe:
    """Ask for no more messages, client to server."""

    packet_id: int
    filters: tuple[str, ...]
    properties: Properties | None = None

    def __post_init__(self) -> None:
        _check_packet_id(self.packet_id)
        if not self.filters:
            raise LocalProtocolError("an UNSUBSCRIBE needs at least one topic filter [MQTT-3.10.3-2]")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsubAck:
    """Answer to UNSUBSCRIBE. `reason_codes` is empty on 3.1.1, which has none."""

    packet_id: int
    reason_codes: tuple[int, ...] = ()
    properties: Properties | None = None

    def __post_init__(self) -> None:
        _check_packet_id(self.packet_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class PingReq:
    """Are you there? Client to server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PingResp:
    """Yes. Server to client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    """The end, said aloud. On 3.1.1 only the client says it, and without a code."""

    reason_code: int = 0
    properties: Properties | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """A step of an extended authentication (MQTT 5 only)."""

    reason_code: int = 0
    properties: Properties | None = field(default=None, repr=False)


Packet: TypeAlias = (
    Connect
    | ConnAck
    | Publish
    | PubAck
    | PubRec
    | PubRel
    | PubComp
    | Subscribe
    | SubAck
    | Unsubscribe
    | UnsubAck
    | PingReq
    | PingResp
    | Disconnect
    | Auth
)
