"""Messages on a wire that breaks at every step of their exchange: nothing is lost, and QoS 2 comes once.

Both ends are connections with kept sessions; the wire carries packet by packet and dies after a given number of them,
losing everything that was said and not carried. Then the two meet again.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.mqtt.codec import decode, encode
from tbgw.mqtt.connection import Connection
from tbgw.mqtt.events import ConnectReceived, Event, PublishAcknowledged, PublishReceived
from tbgw.mqtt.options import ClientOptions, ServerOptions
from tbgw.mqtt.packets import Publish
from tbgw.mqtt.session import Session
from tbgw.mqtt.state import State


class Meeting:
    """A client and a server that keep their sessions and lose their wire."""

    def __init__(self, version: Any, client_sends: bool, window: int = 10) -> None:
        self.version = version
        self.client_sends = client_sends
        self.client_options = ClientOptions(
            protocol_version=version, client_id="c", clean_start=False, session_expiry_seconds=999, max_inflight=window
        )
        self.server_options = ServerOptions(max_inflight=window, receive_maximum=3)
        self.client_session, self.server_session = Session(), Session()
        self.received: list[Publish] = []
        self.acknowledged: list[Any] = []
        self.carried = 0
        self.met = False
        self.acknowledges = True
        self.now = 0.0

    def connect(self, dies_after: int) -> None:
        """A new wire, which carries so many packets after the handshake."""
        self.client = Connection(self.client_options, self.client_session)
        self.server = Connection(self.server_options)
        self.client.opened(self.now)
        self.server.opened(self.now)
        self.run(self.server, self.server.receive_data(self.client.data_to_send(), self.now))
        self.met = True
        self.alive = True
        self.left = dies_after
        self.pump(handshake=True)

    def run(self, end: Connection, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, ConnectReceived):
                self.run(end, end.accept(self.now, session_present=self.met, session=self.server_session))
            elif isinstance(event, PublishReceived):
                self.received.append(event.publish)
                if self.acknowledges:
                    end.acknowledge(event.publish, self.now)
            elif isinstance(event, PublishAcknowledged):
                self.acknowledged.append(event.context)

    def pump(self, handshake: bool = False) -> None:
        """Carry until nothing moves or the wire dies; the CONNACK of a handshake is not counted."""
        waiting: dict[bool, bytearray] = {True: bytearray(), False: bytearray()}
        while self.alive:
            moved = False
            for from_client in (False, True):
                sender, receiver = (self.client, self.server) if from_client else (self.server, self.client)
                buffer = waiting[from_client]
                buffer += sender.data_to_send()
                packet, size = decode(
                    bytes(buffer), 0, len(buffer), protocol_version=self.version, max_packet_bytes=1 << 20
                )
                if packet is None:
                    continue
                if not handshake:
                    if self.left == 0:
                        self.die()
                        return
                    self.left -= 1
                    self.carried += 1
                handshake = False
                moved = True
                self.run(receiver, receiver.receive_data(bytes(buffer[:size]), self.now))
                del buffer[:size]
                assert receiver.state is State.CONNECTED
            if not moved:
                return

    def die(self) -> None:
        self.alive = False
        assert self.client.connection_lost() == []
        assert self.server.connection_lost() == []

    @property
    def sender(self) -> Connection:
        return self.client if self.client_sends else self.server

    def finish(self) -> None:
        """Until everything is said."""
        if not self.alive:
            self.connect(10**6)
        self.pump()


class RedeliveryTests(SynchronousTestCase):
    """Both versions, both directions, all QoS, each step, and each pair of steps."""

    def check(self, version: int, client_sends: bool, qos: list[int], deaths: tuple[int, ...]) -> int:
        meeting = Meeting(version, client_sends)
        meeting.connect(deaths[0])
        for number, each in enumerate(qos):
            meeting.sender.publish("t", str(number).encode(), now=0.0, qos=each, context=number)
        meeting.pump()
        for death in deaths[1:]:
            if meeting.alive:
                break
            meeting.connect(death)
        meeting.finish()
        label = (version, client_sends, qos, deaths)
        numbers = [int(publish.payload) for publish in meeting.received]
        self.assertEqual(set(numbers), set(range(len(qos))), label)
        for number, each in enumerate(qos):
            if each == 2:
                self.assertEqual(numbers.count(number), 1, label)
            copies = [publish for publish in meeting.received if int(publish.payload) == number]
            self.assertEqual([copy.dup for copy in copies[1:]], [True] * (len(copies) - 1), label)
        self.assertEqual(sorted(meeting.acknowledged), list(range(len(qos))), label)
        for session in (meeting.client_session, meeting.server_session):
            self.assertEqual((len(session), session.received), (0, {}), label)
        return meeting.carried

    def test_undisturbed(self):
        """The number of packets that the exchanges take: what the next tests cut at."""
        for version, client_sends in product((4, 5), (True, False)):
            self.assertEqual(self.check(version, client_sends, [1], (10**6,)), 2)
            self.assertEqual(self.check(version, client_sends, [2], (10**6,)), 4)

    def test_one_death(self):
        """The wire dies before and after each packet of one exchange."""
        for version, client_sends, qos in product((4, 5), (True, False), (1, 2)):
            for death in range(5):
                self.check(version, client_sends, [qos], (death,))

    def test_two_deaths(self):
        """And again while the exchange is taken up."""
        for version, client_sends, qos in product((4, 5), (True, False), (1, 2)):
            for deaths in product(range(5), range(5), range(3)):
                self.check(version, client_sends, [qos], deaths)

    def test_several_messages(self):
        """Several exchanges at once, more than the receive maximum lets through at the second meeting."""
        for version, client_sends in product((4, 5), (True, False)):
            qos = [2, 1, 2] if client_sends and version == 5 else [2, 1, 2, 2, 1]
            for death in range(20):
                self.check(version, client_sends, qos, (death,))

    @settings(max_examples=200, deadline=None)
    @given(
        st.sampled_from([4, 5]),
        st.booleans(),
        st.lists(st.integers(1, 2), min_size=1, max_size=3),
        st.lists(st.integers(0, 12), min_size=1, max_size=8),
    )
    def test_any(self, version, client_sends, qos, deaths):
        """However often it dies, wherever."""
        self.check(version, client_sends, qos, tuple(deaths))


class LostSessionTests(SynchronousTestCase):
    """The server forgot everything in between."""

    def lost_after(self, version: int, qos: int, death: int) -> Meeting:
        meeting = Meeting(version, client_sends=True)
        meeting.connect(death)
        meeting.client.publish("t", b"0", now=0.0, qos=qos, context=0)
        meeting.pump()
        meeting.met = False
        meeting.server_session = Session()
        meeting.finish()
        return meeting

    def test_sent_as_new(self):
        """What was not taken over is sent as new; what was is done."""
        for version, qos in product((4, 5), (1, 2)):
            for death in range(2 * qos):
                meeting = self.lost_after(version, qos, death)
                self.assertEqual(meeting.acknowledged, [0])
                self.assertFalse(any(publish.dup for publish in meeting.received))
                self.assertGreaterEqual(len(meeting.received), 1)
                if qos == 2 and death >= 2:  # the PUBREC had come
                    self.assertEqual(len(meeting.received), 1)
                self.assertEqual(len(meeting.client_session), 0)


class UnacknowledgedTests(SynchronousTestCase):
    """The owner had not taken over a QoS 2 message when the wire died."""

    def test_given_again(self):
        """It is given to it again when it comes again; and is not given twice while it waits."""
        message = Publish(topic="t", payload=b"", qos=2, packet_id=7)
        session = Session()
        for _ in range(2):
            meeting = Meeting(5, client_sends=False)
            meeting.client_session = session
            meeting.acknowledges = False
            meeting.connect(10)
            raw = encode(message, 5)
            self.assertEqual(meeting.client.receive_data(raw * 2, 0.0), [PublishReceived(message)])
            self.assertEqual(meeting.client.data_to_send(), b"")
            meeting.die()
