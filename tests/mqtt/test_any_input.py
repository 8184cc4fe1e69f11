"""Every state against every input, generated: whatever is received and asked, in whatever order, the rules hold."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.mqtt.codec import decode
from tbgw.mqtt.connection import Connection
from tbgw.mqtt.errors import LocalProtocolError
from tbgw.mqtt.events import ConnectReceived, PublishReceived, SubscribeReceived, Terminated, UnsubscribeReceived
from tbgw.mqtt.options import ClientOptions, ServerOptions
from tbgw.mqtt.packets import Packet, PacketType, Subscribe, Unsubscribe
from tbgw.mqtt.session import Session
from tbgw.mqtt.state import Role, State, next_state
from tests.mqtt.samples import SAMPLES_V4, SAMPLES_V5

RAW = {version: [raw for _, _, raw in samples] for version, samples in ((4, SAMPLES_V4), (5, SAMPLES_V5))}


class Owner:
    """Drives a connection, and holds it to its rules."""

    def __init__(self, role: Role, version: Any, kept: bool) -> None:
        self.role = role
        self.version = version
        session = Session() if kept else None
        if role is Role.CLIENT:
            options: Any = ClientOptions(
                protocol_version=version, client_id="c", clean_start=False, max_inflight=3, topic_alias_maximum=2,
                max_outgoing_topic_aliases=1, receive_maximum=3, max_packet_bytes=1000,
            )  # fmt: skip
        else:
            options = ServerOptions(max_inflight=3, receive_maximum=3, topic_alias_maximum=2, max_packet_bytes=1000)
        self.connection = Connection(options, session)
        self.session = session
        self.open: list[Any] = []
        self.ended = False
        self.now = 0.0

    def act(self, action: tuple[str, Any]) -> None:
        """One input; nothing but LocalProtocolError may come out of a request, nothing at all out of the rest."""
        kind, value = action
        connection = self.connection
        before = connection.state
        self.now += 0.5
        if kind == "bytes":
            self.take(connection.receive_data(value, self.now), before)
        elif kind == "packet":
            self.take(connection.receive_data(RAW[self.version][value % len(RAW[self.version])], self.now), before)
        elif kind == "timer":
            self.now += value
            self.take(connection.handle_timer(self.now), before)
        elif kind == "lost":
            connection.connection_lost()
            self.ended = True
        else:
            try:
                self.request(kind, value)
            except LocalProtocolError:
                if kind != "accept":
                    assert connection.state is before
        self.check_sent()

    def request(self, kind: str, value: Any) -> None:
        connection = self.connection
        if kind == "opened":
            connection.opened(self.now)
        elif kind == "publish":
            connection.publish("t/" + "x" * (value % 5), bytes(value), now=self.now, qos=value % 4)
        elif kind == "subscribe":
            connection.subscribe([("a/#", value % 4)], now=self.now)
        elif kind == "unsubscribe":
            connection.unsubscribe(["a/#"], now=self.now)
        elif kind == "accept":
            connection.accept(self.now, session_present=bool(value % 2), session=self.session)
            if connection.has_held_bytes:
                self.take(connection.receive_data(b"", self.now), connection.state)
        elif kind == "refuse":
            connection.refuse(value, self.now)
        elif kind == "disconnect":
            connection.disconnect(self.now, value % 2 * 4)
        elif self.open:
            item = self.open.pop(value % len(self.open))
            if isinstance(item, Subscribe):
                connection.acknowledge_subscribe(item, [0] * len(item.filters), self.now)
            elif isinstance(item, Unsubscribe):
                connection.acknowledge_unsubscribe(item, [0] * len(item.filters), self.now)
            else:
                connection.acknowledge(item, self.now, (0, 0, 0x97)[value % 3])

    def take(self, events: list[Any], before: State) -> None:
        if before is State.CLOSED and self.ended:
            assert events == []
        for event in events:
            if isinstance(event, PublishReceived):
                assert event.publish.topic
                self.open.append(event.publish)
            elif isinstance(event, SubscribeReceived):
                self.open.append(event.subscribe)
            elif isinstance(event, UnsubscribeReceived):
                self.open.append(event.unsubscribe)
            elif isinstance(event, ConnectReceived):
                assert self.role is Role.SERVER
                self.version = event.connect.protocol_version
            elif isinstance(event, Terminated):
                assert event is events[-1]
                assert self.connection.state is State.CLOSED
        del self.open[:-20]

    def check_sent(self) -> None:
        """What goes out is whole packets, each of which this role may say somewhere."""
        data = self.connection.data_to_send()
        offset = 0
        while offset < len(data):
            packet, offset = self.read(data, offset)
            name = PacketType[type(packet).__name__.upper()]
            if name is not PacketType.CONNACK:
                states = (State.OPENING, State.CONNECTING, State.CONNECTED)
                assert any(next_state(state, self.role, name, 5) for state in states), packet
        assert self.connection.inflight <= 3
        assert len(self.connection._partial) <= 200_000

    def read(self, data: bytes, offset: int) -> tuple[Packet, int]:
        version = self.version
        if self.role is Role.SERVER and data[offset] == 0x20:
            # A refusal may be in another version than the one that was tried, and says so by its length.
            version = 4 if data[offset + 1] == 2 else 5
        packet, following = decode(data, offset, len(data), protocol_version=version, max_packet_bytes=1 << 28)
        assert packet is not None, "half a packet"
        return packet, following


_noise = st.binary(max_size=20).map(lambda data: ("bytes", data))
_packets = st.integers(0, 60).map(lambda number: ("packet", number))
_requests = st.tuples(
    st.sampled_from(["publish", "subscribe", "unsubscribe", "acknowledge", "acknowledge", "disconnect", "accept"]),
    st.integers(0, 200),
)
_others = st.one_of(
    st.tuples(st.just("timer"), st.floats(0, 100)),
    st.just(("lost", None)),
    st.tuples(st.just("refuse"), st.sampled_from([0, 5, 0x87])),
    st.just(("opened", None)),
)
_cut = st.tuples(st.integers(0, 60), st.integers(1, 30))


class AnyInputTests(SynchronousTestCase):
    """Sequences of inputs, from every state."""

    @settings(max_examples=1500, deadline=None)
    @given(
        st.sampled_from(list(Role)),
        st.sampled_from([4, 5]),
        st.booleans(),
        st.sampled_from(["new", "opened", "connecting", "connected"]),
        st.lists(st.one_of(_packets, _packets, _requests, _requests, _others, _noise), max_size=25),
    )
    def test_rules(self, role, version, kept, begin, actions):
        """No exception but LocalProtocolError, whole packets out, `Terminated` last and once."""
        owner = Owner(role, version, kept)
        if begin != "new":
            owner.act(("opened", None))
        if begin in ("connecting", "connected") and role is Role.SERVER:
            owner.act(("packet", 0))
        if begin == "connected":
            if role is Role.SERVER:
                owner.act(("accept", 0))
            else:
                owner.act(("bytes", b"\x20\x02\x00\x00" if version == 4 else b"\x20\x03\x00\x00\x00"))
            assert owner.connection.state is State.CONNECTED
        for action in actions:
            owner.act(action)
