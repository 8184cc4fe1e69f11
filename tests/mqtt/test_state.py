"""The tables by themselves, and every state against every packet through a connection of either role."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbgw.mqtt.codec import encode
from tbgw.mqtt.connection import Connection
from tbgw.mqtt.errors import PeerDisconnected
from tbgw.mqtt.events import Terminated
from tbgw.mqtt.options import ClientOptions, ServerOptions
from tbgw.mqtt.packets import Auth, ConnAck, Connect, Disconnect, Packet, PacketType
from tbgw.mqtt.properties import PropertyId
from tbgw.mqtt.state import (
    DELIVERIES,
    FIRST_DELIVERY,
    MQTT5_ONLY,
    TRANSITIONS,
    Delivery,
    Move,
    Role,
    State,
    next_state,
)
from tests.mqtt.samples import SAMPLES

ACCEPTED = {4: b"\x20\x02\x00\x00", 5: b"\x20\x03\x00\x00\x00"}


def connection_in(role: Role, state: State, version: Any) -> Connection:
    """A connection that was led to this state by its own calls."""
    options = ClientOptions(protocol_version=version)
    connection = Connection(options if role is Role.CLIENT else ServerOptions())
    if state is State.CLOSED:
        connection.opened(0.0)
        connection.disconnect(0.0)
        return connection
    if role is Role.CLIENT:
        if state is not State.OPENING:
            connection.opened(0.0)
        if state is State.CONNECTED:
            connection.receive_data(ACCEPTED[version], 0.0)
    else:
        connection.opened(0.0)
        if state is not State.OPENING:
            connection.receive_data(encode(options.connect_packet(), version), 0.0)
        if state is State.CONNECTED:
            connection.accept(0.0)
    connection.data_to_send()
    return connection


class TableTests(SynchronousTestCase):
    """Properties that the tables must have."""

    def test_every_state_has_a_row(self):
        """No state is missing, and every move leads to a state of the table."""
        self.assertEqual(set(TRANSITIONS), set(State))
        for row in TRANSITIONS.values():
            for (role, move), following in row.items():
                self.assertIsInstance(role, Role)
                self.assertIsInstance(move, PacketType | Move)
                self.assertIn(following, State)

    def test_every_packet_is_legal_somewhere(self):
        """Every packet type but CONNACK, which has two moves, is in the table."""
        moves = {move for row in TRANSITIONS.values() for _, move in row}
        self.assertEqual(moves, (set(PacketType) - {PacketType.CONNACK}) | set(Move))

    def test_closed_is_the_end(self):
        """From CLOSED nothing leads anywhere, and from everywhere something leads there."""
        self.assertEqual(TRANSITIONS[State.CLOSED], {})
        for state in (State.CONNECTING, State.CONNECTED):
            self.assertIn(State.CLOSED, TRANSITIONS[state].values())

    def test_version(self):
        """AUTH and the server's DISCONNECT are moves of MQTT 5 only."""
        for role, move in MQTT5_ONLY:
            self.assertIsNone(next_state(State.CONNECTED, role, move, 4))
            self.assertIsNotNone(next_state(State.CONNECTED, role, move, 5))

    def test_publish_needs_no_look_up(self):
        """What the fast ways of `connection` take for granted: PUBLISH and PUBACK of either side keep CONNECTED."""
        for role in Role:
            for move in (PacketType.PUBLISH, PacketType.PUBACK):
                for version in (4, 5):
                    self.assertIs(next_state(State.CONNECTED, role, move, version), State.CONNECTED)

    def test_deliveries_end(self):
        """From the first wait of each QoS the right acknowledgements lead to DONE."""
        self.assertIs(DELIVERIES[(FIRST_DELIVERY[1], PacketType.PUBACK)], Delivery.DONE)
        middle = DELIVERIES[(FIRST_DELIVERY[2], PacketType.PUBREC)]
        self.assertIs(DELIVERIES[(middle, PacketType.PUBCOMP)], Delivery.DONE)
        self.assertNotIn((FIRST_DELIVERY[1], PacketType.PUBREC), DELIVERIES)
        self.assertNotIn((FIRST_DELIVERY[2], PacketType.PUBCOMP), DELIVERIES)


class EveryStateEveryPacketTests(SynchronousTestCase):
    """What a connection does with a packet is what the table says, and nothing else."""

    def outcome(self, role: Role, state: State, version: int, packet: Packet, raw: bytes) -> None:
        connection = connection_in(role, state, version)
        events = connection.receive_data(raw, 1.0)
        label = (role, state, packet)
        if isinstance(packet, ConnAck):
            move: PacketType | Move = Move.CONNACK_REFUSED if packet.reason_code else Move.CONNACK_ACCEPTED
        else:
            move = PacketType[type(packet).__name__.upper()]
        if state is State.CLOSED:
            self.assertEqual(events, [], label)
            self.assertIs(connection.state, State.CLOSED)
            return
        if role is Role.SERVER and state is State.CONNECTING:
            # Put aside until the client is let in, and judged then.
            self.assertEqual(events, [], label)
            connection.accept(1.0)
            connection.data_to_send()
            self.assertTrue(connection.has_held_bytes, label)
            events = connection.receive_data(b"", 1.0)
            self.assertFalse(connection.has_held_bytes, label)
            state = State.CONNECTED
        if state is State.OPENING and isinstance(packet, Auth):
            version = 4  # so early a server knows no version, and on 4 there is no AUTH
        following = next_state(state, role.peer, move, version)
        terminated = [event for event in events if isinstance(event, Terminated)]
        cleared = isinstance(packet, ConnAck) and packet.session_present  # after a clean start
        properties = getattr(packet, "properties", None) or {}
        forbidden = (
            isinstance(packet, Auth)  # nobody asked for an authentication
            or PropertyId.TOPIC_ALIAS in properties  # above the maximum, which is 0
            or (isinstance(packet, Connect) and PropertyId.AUTHENTICATION_METHOD in properties)
        )
        if following is None or cleared or forbidden:
            self.assertEqual(len(terminated), 1, label)
            self.assertIs(connection.state, State.CLOSED, label)
            self.assertFalse(isinstance(terminated[0].reason, PeerDisconnected), label)
        else:
            self.assertIs(connection.state, following, label)
            self.assertEqual(bool(terminated), following is State.CLOSED, label)
            self.assertEqual(
                isinstance(packet, Disconnect),
                any(isinstance(event.reason, PeerDisconnected) for event in terminated),
                label,
            )
        self.assertEqual(terminated, events[len(events) - len(terminated) :], "Terminated is the last event")
        if connection.state is State.CLOSED:
            self.assertEqual(connection.receive_data(ACCEPTED[version] * 3, 2.0), [], label)

    def test_all(self):
        """Both roles, four states, both versions, every sample packet."""
        for role in Role:
            for state in State:
                for version, _, packet, raw in SAMPLES:
                    self.outcome(role, state, version, packet, raw)
