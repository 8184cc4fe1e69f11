"""The legal moves of a connection, and of one QoS exchange, as tables.

Two rules. All transitions are here and nowhere else: who reads the tables knows the life of a connection. And this
file does not know which side we are: a move is (who sent it, what), so that the client's and the server's connection
look up the very same row for a packet, the one when sending and the other when receiving.

What a table cannot say is in `connection`: packet ids, windows, timers, and that a server puts aside what arrives
between a CONNECT and its own CONNACK instead of judging it [MQTT-3.1.4-5].
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from tbgw.mqtt.packets import PacketType


class Role(Enum):
    """The two ends of a connection."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def peer(self) -> Role:
        """The other end."""
        return Role.SERVER if self is Role.CLIENT else Role.CLIENT


class State(Enum):
    """Where a connection is; both ends go through the same states."""

    OPENING = "opening"  # nothing was said yet
    CONNECTING = "connecting"  # CONNECT was said, its answer was not
    CONNECTED = "connected"  # CONNACK said yes
    CLOSED = "closed"  # over: nothing may be said, what still comes is not read


class Move(Enum):
    """Inputs of the table that are not simply a packet type: a CONNACK means two things."""

    CONNACK_ACCEPTED = "CONNACK (accepted)"
    CONNACK_REFUSED = "CONNACK (refused)"


_CLIENT_ONLY = (
    PacketType.SUBSCRIBE,
    PacketType.UNSUBSCRIBE,
    PacketType.PINGREQ,
)
_SERVER_ONLY = (PacketType.SUBACK, PacketType.UNSUBACK, PacketType.PINGRESP)
_BOTH = (
    PacketType.PUBLISH,
    PacketType.PUBACK,
    PacketType.PUBREC,
    PacketType.PUBREL,
    PacketType.PUBCOMP,
)

TRANSITIONS: Final[Mapping[State, Mapping[tuple[Role, PacketType | Move], State]]] = {
    State.OPENING: {
        # The first packet is a CONNECT [MQTT-3.1.0-1], and it is the only one [MQTT-3.1.0-2].
        (Role.CLIENT, PacketType.CONNECT): State.CONNECTING,
    },
    State.CONNECTING: {
        # The first packet from the server is the CONNACK [MQTT-3.2.0-1].
        (Role.SERVER, Move.CONNACK_ACCEPTED): State.CONNECTED,
        (Role.SERVER, Move.CONNACK_REFUSED): State.CLOSED,
        (Role.CLIENT, PacketType.DISCONNECT): State.CLOSED,
        (Role.CLIENT, PacketType.AUTH): State.CONNECTING,
        (Role.SERVER, PacketType.AUTH): State.CONNECTING,
    },
    State.CONNECTED: {
        **{(Role.CLIENT, packet_type): State.CONNECTED for packet_type in _CLIENT_ONLY},
        **{(Role.SERVER, packet_type): State.CONNECTED for packet_type in _SERVER_ONLY},
        **{(role, packet_type): State.CONNECTED for packet_type in _BOTH for role in Role},
        **{(role, PacketType.AUTH): State.CONNECTED for role in Role},
        **{(role, PacketType.DISCONNECT): State.CLOSED for role in Role},
    },
    State.CLOSED: {},
}

MQTT5_ONLY: Final[frozenset[tuple[Role, PacketType | Move]]] = frozenset(
    {
        (Role.CLIENT, PacketType.AUTH),
        (Role.SERVER, PacketType.AUTH),
        (Role.SERVER, PacketType.DISCONNECT),
    }
)
"""Moves of the table that MQTT 3.1.1 does not have."""


def next_state(state: State, sender: Role, move: PacketType | Move, protocol_version: int) -> State | None:
    """Where `move`, sent by `sender`, leads from `state`; None when it is not legal there."""
    key = (sender, move)
    if protocol_version < 5 and key in MQTT5_ONLY:
        return None
    return TRANSITIONS[state].get(key)


class Delivery(Enum):
    """What the sender of a PUBLISH waits for; the packet id stays taken until DONE."""

    WAIT_PUBACK = "PUBACK"
    WAIT_PUBREC = "PUBREC"
    WAIT_PUBCOMP = "PUBCOMP"
    DONE = "nothing"


FIRST_DELIVERY: Final[Mapping[int, Delivery]] = {1: Delivery.WAIT_PUBACK, 2: Delivery.WAIT_PUBREC}
"""What a PUBLISH of this QoS waits for at first (section 4.3)."""

DELIVERIES: Final[Mapping[tuple[Delivery, PacketType], Delivery]] = {
    (Delivery.WAIT_PUBACK, PacketType.PUBACK): Delivery.DONE,
    (Delivery.WAIT_PUBREC, PacketType.PUBREC): Delivery.WAIT_PUBCOMP,
    (Delivery.WAIT_PUBCOMP, PacketType.PUBREC): Delivery.WAIT_PUBCOMP,  # the peer repeats itself; so does the PUBREL
    (Delivery.WAIT_PUBCOMP, PacketType.PUBCOMP): Delivery.DONE,
}
"""How an acknowledgement moves an exchange on; one that is not here is not an answer to it."""
