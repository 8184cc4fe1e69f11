"""The core of both roles, without a transport and with plain numbers for the time."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbgw.mqtt.codec import encode
from tbgw.mqtt.connection import Connection
from tbgw.mqtt.errors import (
    ClientDisconnected,
    ConnectionRefused,
    ConnectTimeout,
    KeepAliveTimeout,
    LocalProtocolError,
    RemoteProtocolError,
)
from tbgw.mqtt.events import (
    CloseTimedOut,
    Connected,
    ConnectReceived,
    Event,
    PublishAcknowledged,
    PublishReceived,
    SubscribeAcknowledged,
    SubscribeReceived,
    Terminated,
    UnsubscribeReceived,
)
from tbgw.mqtt.options import ClientOptions, ServerOptions
from tbgw.mqtt.outgoing import MAX_HELD_BYTES, MAX_PENDING_REQUESTS, REPLY_HEADROOM_BYTES
from tbgw.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PubAck,
    Publish,
    ReasonCode,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
)
from tbgw.mqtt.session import Session
from tbgw.mqtt.state import State


def spelt(*packets: Packet) -> bytes:
    """The packets' bytes."""
    return b"".join(encode(packet, 4) for packet in packets)


def client(session: Session | None = None, *, session_present: bool = False, **options: Any) -> Connection:
    """A client that was let in at time 0 and has nothing to send."""
    connection = Connection(ClientOptions(**options), session)
    connection.opened(0.0)
    connection.data_to_send()
    connection.receive_data(spelt(ConnAck(session_present=session_present)), 0.0)
    return connection


def server(connect: Connect | None = None, **options: Any) -> Connection:
    """A server that let a client in at time 0 and has nothing to send."""
    connection = Connection(ServerOptions(**options))
    connection.opened(0.0)
    connection.receive_data(spelt(connect or Connect(client_id="c")), 0.0)
    connection.accept(0.0)
    connection.data_to_send()
    return connection


def q1(topic: str = "t", payload: bytes = b"", packet_id: int = 1, dup: bool = False) -> Publish:
    """A QoS 1 message."""
    return Publish(topic=topic, payload=payload, qos=1, packet_id=packet_id, dup=dup)


class HandshakeTests(SynchronousTestCase):
    """CONNECT and CONNACK from both ends."""

    def test_client(self):
        """A client says CONNECT when the transport is there, and is connected by the CONNACK."""
        connection = Connection(ClientOptions(client_id="gw", username="token", keep_alive_seconds=30))
        self.assertEqual(connection.data_to_send(), b"")
        connection.opened(5.0)
        self.assertEqual(
            connection.data_to_send(), spelt(Connect(client_id="gw", username="token", keep_alive_seconds=30))
        )
        self.assertEqual(connection.next_timer, 25.0)
        self.assertEqual(connection.receive_data(spelt(ConnAck()), 6.0), [Connected(connack=ConnAck())])
        self.assertIs(connection.state, State.CONNECTED)
        self.assertEqual(connection.next_timer, 35.0)

    def test_opened_twice(self):
        """A connection begins once."""
        connection = Connection(ServerOptions())
        connection.opened(0.0)
        self.assertRaises(LocalProtocolError, connection.opened, 0.0)

    def test_client_refused(self):
        """A CONNACK that says no ends the connection at once, even one with Session Present as ThingsBoard sends it."""
        connection = Connection(ClientOptions())
        connection.opened(0.0)
        refusal = ConnAck(reason_code=5, session_present=True)
        (event,) = connection.receive_data(spelt(refusal) + b"\x30", 1.0)
        assert isinstance(event, Terminated)
        assert isinstance(event.reason, ConnectionRefused)
        self.assertEqual(event.reason.connack, refusal)
        self.assertTrue(event.abort)
        self.assertIsNone(connection.next_timer)

    def test_session_present_after_clean_start(self):
        """That is the server's fault [MQTT-3.2.2-1]."""
        connection = Connection(ClientOptions())
        connection.opened(0.0)
        (event,) = connection.receive_data(spelt(ConnAck(session_present=True)), 1.0)
        assert isinstance(event, Terminated)
        self.assertIn("MQTT-3.2.2-1", str(event.reason))

    def test_connack_timeout(self):
        """Without a CONNACK the client gives up; not a moment earlier."""
        connection = Connection(ClientOptions(connect_timeout_seconds=7))
        connection.opened(10.0)
        self.assertEqual(connection.handle_timer(16.9), [])
        (event,) = connection.handle_timer(17.0)
        assert isinstance(event, Terminated)
        self.assertIsInstance(event.reason, ConnectTimeout)
        self.assertIn("CONNACK", str(event.reason))
        self.assertTrue(event.abort)

    def test_connect_timeout(self):
        """A server waits for CONNECT, and for its own answer, for so long in all."""
        for first, missing in ((b"", "no CONNECT "), (spelt(Connect()), "no CONNACK ")):
            connection = Connection(ServerOptions(connect_timeout_seconds=7))
            connection.opened(10.0)
            connection.receive_data(first, 12.0)
            self.assertEqual(connection.handle_timer(16.9), [])
            (event,) = connection.handle_timer(17.0)
            assert isinstance(event, Terminated)
            self.assertIsInstance(event.reason, ConnectTimeout)
            self.assertIn(missing, str(event.reason))

    def test_server_refuses(self):
        """The CONNACK goes out, then the transport is closed in good order, and aborted when that hangs."""
        connection = Connection(ServerOptions(close_timeout_seconds=3))
        connection.opened(0.0)
        connection.receive_data(spelt(Connect()), 1.0)
        self.assertRaises(LocalProtocolError, connection.refuse, 0, 1.0)
        connection.refuse(4, 1.0)
        self.assertEqual(connection.data_to_send(), spelt(ConnAck(reason_code=4)))
        self.assertIs(connection.state, State.CLOSED)
        self.assertEqual(connection.next_timer, 4.0)
        self.assertEqual(connection.handle_timer(4.0), [CloseTimedOut()])
        self.assertIsNone(connection.next_timer)

    def test_late_decision(self):
        """Letting in or refusing a client that is gone does nothing."""
        for decide in (lambda c: c.accept(2.0), lambda c: c.refuse(3, 2.0)):
            connection = Connection(ServerOptions())
            connection.opened(0.0)
            connection.receive_data(spelt(Connect()), 1.0)
            connection.connection_lost()
            decide(connection)
            self.assertEqual(connection.data_to_send(), b"")

    def test_decision_twice(self):
        """A client is let in once, and only after it asked."""
        self.assertRaises(LocalProtocolError, server().accept, 1.0)
        self.assertRaises(LocalProtocolError, server().refuse, 3, 1.0)
        connection = Connection(ServerOptions())
        connection.opened(0.0)
        self.assertRaises(LocalProtocolError, connection.accept, 0.0)
        self.assertEqual(connection.data_to_send(), b"")

    def test_second_connect(self):
        """It ends the connection [MQTT-3.1.0-2]."""
        (event,) = server().receive_data(spelt(Connect()), 1.0)
        assert isinstance(event, Terminated)
        self.assertIn("MQTT-3.1.0-2", str(event.reason))
        self.assertTrue(event.abort)

    def test_first_packet(self):
        """Anything but CONNECT first ends the connection without a word [MQTT-3.1.0-1]."""
        connection = Connection(ServerOptions())
        connection.opened(0.0)
        (event,) = connection.receive_data(spelt(PingReq()), 1.0)
        assert isinstance(event, Terminated)
        self.assertIn("MQTT-3.1.0-1", str(event.reason))
        self.assertEqual(connection.data_to_send(), b"")

    def test_unsupported_version(self):
        """Other levels and the old protocol name get return code 1 before the end [MQTT-3.1.2-2]."""
        for raw in (
            b"\x10\x0d\x00\x04MQTT\x06\x02\x00\x3c\x00\x00\x00",
            b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x00",
        ):
            connection = Connection(ServerOptions())
            connection.opened(0.0)
            (event,) = connection.receive_data(raw, 1.0)
            assert isinstance(event, Terminated)
            self.assertFalse(event.abort)
            self.assertEqual(connection.data_to_send(), b"\x20\x02\x00\x01")

    def test_empty_client_id(self):
        """Without a clean session it gets return code 2 [MQTT-3.1.3-8]; with one it is fine."""
        connection = Connection(ServerOptions())
        connection.opened(0.0)
        (event,) = connection.receive_data(b"\x10\x0c\x00\x04MQTT\x04\x00\x00\x3c\x00\x00", 1.0)
        assert isinstance(event, Terminated)
        self.assertIn("MQTT-3.1.3-8", str(event.reason))
        self.assertEqual(connection.data_to_send(), b"\x20\x02\x00\x02")
        self.assertFalse(event.abort)

    def test_pipelined(self):
        """What a client sends before its CONNACK is read after it, in order, and not at all when it is refused."""
        connect = Connect()
        burst = spelt(q1("a"), Publish(topic="b", payload=b""))
        for cut in range(len(burst) + 1):
            connection = Connection(ServerOptions())
            connection.opened(0.0)
            events = connection.receive_data(spelt(connect) + burst[:cut], 1.0)
            self.assertEqual(events, [ConnectReceived(connect=connect)])
            self.assertEqual(connection.receive_data(burst[cut:], 2.0), [])
            self.assertFalse(connection.has_held_bytes)
            connection.accept(3.0)
            self.assertTrue(connection.has_held_bytes)
            events = connection.receive_data(b"", 3.0)
            self.assertEqual(events, [PublishReceived(q1("a")), PublishReceived(Publish(topic="b", payload=b""))])
            self.assertFalse(connection.has_held_bytes)
        connection = Connection(ServerOptions())
        connection.opened(0.0)
        connection.receive_data(spelt(connect) + burst, 1.0)
        connection.refuse(5, 1.0)
        self.assertFalse(connection.has_held_bytes)
        self.assertEqual(connection.receive_data(b"", 1.0), [])

    def test_pipelined_cap(self):
        """What is put aside has a limit; reaching it is fine, going above ends the connection."""
        connection = Connection(ServerOptions(max_packet_bytes=100))
        connection.opened(0.0)
        connection.receive_data(spelt(Connect()), 1.0)
        self.assertEqual(connection.receive_data(bytes(MAX_HELD_BYTES + 100), 1.0), [])
        (event,) = connection.receive_data(b"x", 1.0)
        assert isinstance(event, Terminated)
        assert isinstance(event.reason, RemoteProtocolError)
        self.assertEqual(event.reason.reason_code, ReasonCode.QUOTA_EXCEEDED)


class ReceivingTests(SynchronousTestCase):
    """Bytes in any portion mean the same."""

    STREAM = (
        q1("a/b", b"one", 5),
        PingReq(),
        Publish(topic="c", payload=b"p" * 300),
        PubAck(packet_id=1),
        PubAck(packet_id=9),
        Subscribe(packet_id=6, filters=(Subscription(topic_filter="x/+", qos=1),)),
        Unsubscribe(packet_id=7, filters=("x/+",)),
        q1("a/b", b"two", 5, dup=True),
        Disconnect(),
    )

    def run_in_chunks(self, chunks: list[bytes]) -> list[Event]:
        connection = server()
        connection.publish("t", b"", now=0.0, context="ours")
        connection.data_to_send()
        events = []
        for chunk in chunks:
            events += connection.receive_data(chunk, 1.0)
        self.assertEqual(connection.data_to_send(), b"\xd0\x00")
        self.assertEqual(connection.ignored_acknowledgements, 1)
        self.assertEqual(connection.inflight, 0)
        return events

    def check(self, events: list[Event]) -> None:
        a, c, pa, su, un, b, end = events
        self.assertEqual(
            [a, c, pa, b],
            [
                PublishReceived(self.STREAM[0]),
                PublishReceived(self.STREAM[2]),
                PublishAcknowledged(1, 0, "ours"),
                PublishReceived(self.STREAM[7]),
            ],
        )
        self.assertIsInstance(su, SubscribeReceived)
        self.assertIsInstance(un, UnsubscribeReceived)
        assert isinstance(end, Terminated)
        self.assertIsInstance(end.reason, ClientDisconnected)
        self.assertFalse(end.abort)

    def test_whole_and_split(self):
        """The stream whole, byte by byte, and cut in two at every byte."""
        raw = spelt(*self.STREAM)
        self.check(self.run_in_chunks([raw]))
        self.check(self.run_in_chunks([raw[i : i + 1] for i in range(len(raw))]))
        for cut in range(len(raw)):
            self.check(self.run_in_chunks([raw[:cut], raw[cut:]]))

    def test_rubbish_behind(self):
        """What came before a breach is told, what comes behind it is not read."""
        raw = spelt(q1("a"))
        for chunks in ([raw + b"\x00" + raw], [raw, b"\x00", raw]):
            connection = server()
            events = [event for chunk in chunks for event in connection.receive_data(chunk, 1.0)]
            self.assertEqual(events[0], PublishReceived(q1("a")))
            self.assertEqual(len(events), 2)
            end = events[1]
            assert isinstance(end, Terminated)
            assert isinstance(end.reason, RemoteProtocolError)
            self.assertEqual(end.reason.reason_code, ReasonCode.MALFORMED_PACKET)

    def test_cap_before_body(self):
        """A packet above the cap is refused before its body is there."""
        connection = server(max_packet_bytes=1000)
        (event,) = connection.receive_data(b"\x30\xe6\x07", 1.0)
        assert isinstance(event, Terminated)
        assert isinstance(event.reason, RemoteProtocolError)
        self.assertEqual(event.reason.reason_code, ReasonCode.PACKET_TOO_LARGE)

    def test_large_packet_in_small_pieces(self):
        """A packet that comes in many pieces is put together once."""
        connection = client(max_packet_bytes=1 << 20)
        packet = Publish(topic="big", payload=bytes(range(256)) * 2000)
        raw = spelt(packet)
        events = []
        for start in range(0, len(raw), 100):
            events += connection.receive_data(raw[start : start + 100], 1.0)
        self.assertEqual(events, [PublishReceived(packet)])

    def test_packet_id_zero(self):
        """ThingsBoard's 65,536th push is a breach, or with the option a message like any other."""
        raw = b"\x32\x05\x00\x01a\x00\x00"
        (event,) = client().receive_data(raw, 1.0)
        assert isinstance(event, Terminated)
        self.assertIn("MQTT-2.3.1-1", str(event.reason))
        connection = client(tolerate_packet_id_zero=True)
        (received,) = connection.receive_data(raw, 1.0)
        assert isinstance(received, PublishReceived)
        connection.acknowledge(received.publish, 1.0)
        self.assertEqual(connection.data_to_send(), b"\x40\x02\x00\x00")
        (event,) = server().receive_data(raw, 1.0)
        self.assertIsInstance(event, Terminated)


class PublishTests(SynchronousTestCase):
    """Sending messages, their ids and their window; the same for both roles."""

    def test_bytes(self):
        """What is published is spelt as the codec spells it, with ids that go up."""
        for connection in (client(), server()):
            self.assertEqual(connection.publish("a/b", b"1", now=1.0), 1)
            self.assertEqual(connection.publish("c", b"2", now=1.0, retain=True, dup=True), 2)
            self.assertIsNone(connection.publish("d", b"3", now=1.0, qos=0))
            self.assertEqual(
                connection.data_to_send(),
                spelt(
                    q1("a/b", b"1", 1),
                    Publish(topic="c", payload=b"2", qos=1, retain=True, dup=True, packet_id=2),
                    Publish(topic="d", payload=b"3"),
                ),
            )
            self.assertEqual(connection.inflight, 2)

    def test_acknowledged(self):
        """In any order; an id that is not in flight is counted, and one acknowledged twice too."""
        connection = client()
        for context in "abc":
            connection.publish("t", b"", now=1.0, context=context)
        raw = spelt(PubAck(packet_id=3), PubAck(packet_id=1), PubAck(packet_id=1), PubAck(packet_id=77))
        self.assertEqual(
            connection.receive_data(raw, 2.0), [PublishAcknowledged(3, 0, "c"), PublishAcknowledged(1, 0, "a")]
        )
        self.assertEqual(connection.ignored_acknowledgements, 2)
        self.assertEqual(connection.connection_lost(), ["b"])

    def test_wrong_acknowledgement(self):
        """A QoS 1 message is acknowledged by PUBACK and by nothing else."""
        connection = client()
        connection.publish("t", b"", now=1.0)
        self.assertEqual(connection.receive_data(b"\x50\x02\x00\x01\x70\x02\x00\x01", 2.0), [])
        self.assertEqual((connection.inflight, connection.ignored_acknowledgements), (1, 2))

    def test_window(self):
        """A full window refuses QoS 1, lets QoS 0 through, and is open again after a PUBACK."""
        connection = client(max_inflight=2)
        connection.publish("t", b"", now=1.0)
        connection.publish("t", b"", now=1.0)
        connection.data_to_send()
        self.assertRaises(LocalProtocolError, connection.publish, "t", b"", now=1.0)
        self.assertEqual(connection.data_to_send(), b"")
        connection.publish("t", b"", now=1.0, qos=0)
        connection.receive_data(spelt(PubAck(packet_id=1)), 1.0)
        self.assertEqual(connection.publish("t", b"", now=1.0), 3)

    def test_ids_and_requests(self):
        """A SUBSCRIBE's id and a PUBLISH's are never the same, and the peer's ids do not matter."""
        connection = client()
        (received,) = connection.receive_data(spelt(q1(packet_id=1)), 1.0)
        self.assertEqual(connection.publish("t", b"", now=1.0), 1)
        self.assertEqual(connection.subscribe([("a", 0)], now=1.0), 2)
        self.assertEqual(connection.publish("t", b"", now=1.0), 3)
        assert isinstance(received, PublishReceived)
        connection.data_to_send()
        connection.acknowledge(received.publish, 1.0)
        self.assertEqual(connection.data_to_send(), spelt(PubAck(packet_id=1)))
        self.assertEqual(connection.inflight, 2)

    def test_forced_id(self):
        """A tester of clients may choose the id, also 0, but not one that is in flight."""
        connection = server()
        self.assertEqual(connection.publish("a", b"", now=1.0, packet_id=0), 0)
        self.assertEqual(connection.data_to_send(), b"\x32\x05\x00\x01a\x00\x00")
        self.assertRaises(LocalProtocolError, connection.publish, "a", b"", now=1.0, packet_id=0)
        self.assertEqual(len(connection.receive_data(b"\x40\x02\x00\x00", 1.0)), 1)

    def test_refused_locally(self):
        """What may not be sent leaves no trace: no bytes, nothing in flight."""
        connection = client()
        for arguments in (
            {"topic": "a/+"},
            {"topic": ""},
            {"topic": "\ud800"},
            {"qos": 3},
            {"qos": -1},
            {"qos": 0, "dup": True},
        ):
            with self.assertRaises(LocalProtocolError):
                connection.publish(**({"topic": "t", "payload": b"", "now": 1.0} | arguments))  # type: ignore[arg-type]  # mixed values
        self.assertEqual((connection.data_to_send(), connection.inflight), (b"", 0))

    def test_not_connected(self):
        """Before CONNACK and after the end nothing is published."""
        connection = Connection(ClientOptions())
        self.assertRaises(LocalProtocolError, connection.publish, "t", b"", now=0.0)
        connection.opened(0.0)
        self.assertRaises(LocalProtocolError, connection.publish, "t", b"", now=0.0)
        self.assertRaises(LocalProtocolError, connection.subscribe, [("t", 0)], now=0.0)
        connection = client()
        connection.connection_lost()
        self.assertRaises(LocalProtocolError, connection.publish, "t", b"", now=0.0, qos=0)

    def test_acknowledge(self):
        """QoS 0 needs none, an acknowledgement may be repeated, 3.1.1 has no codes, and after the end it is dropped."""
        connection = server()
        connection.acknowledge(Publish(topic="a", payload=b""), 1.0)
        self.assertEqual(connection.data_to_send(), b"")
        connection.acknowledge(q1(packet_id=9), 1.0)
        connection.acknowledge(q1(packet_id=9), 1.0)
        self.assertEqual(connection.data_to_send(), b"\x40\x02\x00\x09" * 2)
        self.assertRaises(LocalProtocolError, connection.acknowledge, q1(), 1.0, 0x97)
        connection.connection_lost()
        connection.acknowledge(q1(), 1.0)
        self.assertEqual(connection.data_to_send(), b"")


class UnsentTests(SynchronousTestCase):
    """What waits to be sent has a limit."""

    def test_own_messages(self):
        """The one that would go above the limit is refused; when the bytes were taken it fits."""
        connection = client(max_unsent_bytes=1000)
        connection.publish("t", bytes(600), now=1.0)
        before = connection.unsent_bytes
        with self.assertRaises(LocalProtocolError) as caught:
            connection.publish("t", bytes(600), now=1.0)
        self.assertIn("unsent", str(caught.exception))
        self.assertEqual((connection.unsent_bytes, connection.inflight), (before, 1))
        self.assertEqual(len(connection.data_to_send()), before)
        self.assertEqual(connection.unsent_bytes, 0)
        connection.publish("t", bytes(5000), now=1.0)

    def test_peer_that_does_not_read(self):
        """Who makes us answer and never takes the answers is cut off, within a known amount."""
        connection = server(max_unsent_bytes=1000)
        pings = spelt(PingReq()) * 10000
        events: list[Event] = []
        rounds = 0
        while not events:
            events = connection.receive_data(pings, 1.0)
            rounds += 1
            self.assertLess(connection.unsent_bytes, 1000 + REPLY_HEADROOM_BYTES + len(pings) + 1)
        self.assertGreater(rounds, 2)
        (event,) = events
        assert isinstance(event, Terminated)
        assert isinstance(event.reason, RemoteProtocolError)
        self.assertEqual(event.reason.reason_code, ReasonCode.QUOTA_EXCEEDED)
        self.assertTrue(event.abort)


class SubscribeTests(SynchronousTestCase):
    """SUBSCRIBE and UNSUBSCRIBE from both ends."""

    def test_client(self):
        """Each answer meets its request, in any order."""
        connection = client()
        connection.subscribe([("a", 1), ("b/#", 0)], now=1.0, context="s")
        connection.unsubscribe(["c", "d"], now=1.0, context="u")
        self.assertEqual(
            connection.data_to_send(),
            spelt(
                Subscribe(
                    packet_id=1,
                    filters=(Subscription(topic_filter="a", qos=1), Subscription(topic_filter="b/#")),
                ),
                Unsubscribe(packet_id=2, filters=("c", "d")),
            ),
        )
        self.assertEqual(
            connection.receive_data(spelt(UnsubAck(packet_id=2), SubAck(packet_id=1, reason_codes=(1, 0x80))), 2.0),
            [
                SubscribeAcknowledged(packet_id=2, reason_codes=(0, 0), context="u"),
                SubscribeAcknowledged(packet_id=1, reason_codes=(1, 0x80), context="s"),
            ],
        )
        self.assertEqual(connection.connection_lost(), [])

    def test_wrong_answers(self):
        """An answer of the other kind or to nothing is ignored; one with a wrong number of codes is a breach."""
        connection = client()
        connection.subscribe([("a", 1)], now=1.0)
        raw = spelt(UnsubAck(packet_id=1), SubAck(packet_id=9, reason_codes=(0,)), PubAck(packet_id=1))
        self.assertEqual(connection.receive_data(raw, 1.0), [])
        self.assertEqual(connection.ignored_acknowledgements, 3)
        (event,) = connection.receive_data(spelt(SubAck(packet_id=1, reason_codes=(0, 0))), 1.0)
        assert isinstance(event, Terminated)
        self.assertIn("MQTT-3.8.4-5", str(event.reason))

    def test_refused_locally(self):
        """Illegal filters, no filters, too many at once, and a server that subscribes."""
        connection = client()
        for filters in ([], [("a#", 0)], [("", 0)], [("a", 3)]):
            self.assertRaises(LocalProtocolError, connection.subscribe, filters, now=1.0)
        self.assertRaises(LocalProtocolError, connection.unsubscribe, [], now=1.0)
        self.assertEqual(connection.data_to_send(), b"")
        self.assertRaises(LocalProtocolError, server().subscribe, [("a", 0)], now=1.0)
        for _ in range(MAX_PENDING_REQUESTS):
            connection.subscribe([("a", 0)], now=1.0)
        self.assertRaises(LocalProtocolError, connection.subscribe, [("a", 0)], now=1.0)

    def test_lost(self):
        """At the end the contexts of what was not answered come back, publishes first."""
        connection = client()
        connection.subscribe([("a", 1)], now=1.0, context="s")
        connection.publish("t", b"", now=1.0, context="p")
        self.assertEqual(connection.connection_lost(), ["p", "s"])
        self.assertEqual(connection.connection_lost(), [])

    def test_server(self):
        """The server's answers, one code for each filter."""
        connection = server()
        subscribe = Subscribe(packet_id=3, filters=(Subscription(topic_filter="a", qos=1),))
        unsubscribe = Unsubscribe(packet_id=4, filters=("a",))
        self.assertEqual(
            connection.receive_data(spelt(subscribe, unsubscribe), 1.0),
            [SubscribeReceived(subscribe=subscribe), UnsubscribeReceived(unsubscribe=unsubscribe)],
        )
        self.assertRaises(LocalProtocolError, connection.acknowledge_subscribe, subscribe, [], 1.0)
        self.assertRaises(LocalProtocolError, connection.acknowledge_unsubscribe, unsubscribe, [], 1.0)
        connection.acknowledge_subscribe(subscribe, [0x80], 1.0)
        connection.acknowledge_unsubscribe(unsubscribe, [0], 1.0)
        self.assertEqual(
            connection.data_to_send(), spelt(SubAck(packet_id=3, reason_codes=(0x80,)), UnsubAck(packet_id=4))
        )
        connection.connection_lost()
        connection.acknowledge_subscribe(subscribe, [0], 1.0)
        connection.acknowledge_unsubscribe(unsubscribe, [0], 1.0)
        self.assertEqual(connection.data_to_send(), b"")


class KeepAliveTests(SynchronousTestCase):
    """Time, as plain numbers."""

    def test_ping_when_nothing_was_sent(self):
        """The client pings one keep alive after it last sent something."""
        connection = client(keep_alive_seconds=10)
        connection.receive_data(spelt(Publish(topic="a", payload=b"")), 8.0)
        self.assertEqual(connection.next_timer, 10.0)
        self.assertEqual(connection.handle_timer(9.9), [])
        self.assertEqual(connection.data_to_send(), b"")
        self.assertEqual(connection.handle_timer(10.0), [])
        self.assertEqual(connection.data_to_send(), b"\xc0\x00")

    def test_ping_when_nothing_came(self):
        """A client that sends all the time pings too when the server is silent."""
        connection = client(keep_alive_seconds=10)
        connection.publish("a", b"", now=9.0, qos=0)
        connection.data_to_send()
        connection.handle_timer(10.0)
        self.assertEqual(connection.data_to_send(), b"\xc0\x00")

    def test_no_ping_while_busy(self):
        """With traffic both ways no ping is needed."""
        connection = client(keep_alive_seconds=10)
        for second in range(1, 100):
            connection.publish("a", b"", now=float(second))
            connection.data_to_send()
            connection.receive_data(spelt(PubAck(packet_id=second)), float(second))
            self.assertEqual(connection.handle_timer(float(second)), [])
            self.assertEqual(connection.data_to_send(), b"")
            self.assertEqual(connection.next_timer, second + 10.0)

    def test_dead_peer(self):
        """No answer to a ping in time ends the connection; any byte is an answer."""
        for answer, ends in ((b"", True), (b"\xd0\x00", False), (b"\x30", False)):
            connection = client(keep_alive_seconds=10, ping_timeout_seconds=3)
            connection.handle_timer(10.0)
            self.assertEqual(connection.next_timer, 13.0)
            connection.receive_data(answer, 12.9) if answer else None
            events = connection.handle_timer(13.0)
            if ends:
                (event,) = events
                assert isinstance(event, Terminated)
                self.assertIsInstance(event.reason, KeepAliveTimeout)
                self.assertTrue(event.abort)
            else:
                self.assertEqual(events, [])

    def test_off(self):
        """Keep alive 0 turns it off at both ends."""
        self.assertIsNone(client(keep_alive_seconds=0).next_timer)
        self.assertIsNone(server(Connect(client_id="c", keep_alive_seconds=0)).next_timer)

    def test_server(self):
        """A client may be silent for one and a half times its keep alive; a packet counts, a part of one does not."""
        connection = server(Connect(client_id="c", keep_alive_seconds=10))
        self.assertEqual(connection.next_timer, 15.0)
        connection.receive_data(spelt(PingReq()), 5.0)
        self.assertEqual(connection.next_timer, 20.0)
        connection.receive_data(b"\x30\x05", 19.0)
        self.assertEqual(connection.handle_timer(19.9), [])
        (event,) = connection.handle_timer(20.0)
        assert isinstance(event, Terminated)
        self.assertIsInstance(event.reason, KeepAliveTimeout)
        self.assertTrue(event.abort)

    def test_many_moments(self):
        """However late or often it is woken, a live client is never taken for dead and pings once per keep alive."""
        connection = client(keep_alive_seconds=10)
        pings = 0
        now = 0.0
        while now < 1000:
            now += 0.7
            self.assertEqual(connection.handle_timer(now), [])
            if connection.data_to_send():
                pings += 1
                connection.receive_data(b"\xd0\x00", now)
        self.assertIn(pings, range(90, 101))


class EndTests(SynchronousTestCase):
    """Ending from here."""

    def test_disconnect(self):
        """A client says DISCONNECT once, before CONNACK too; a 3.1.1 server just closes."""
        connection = client(close_timeout_seconds=2)
        connection.disconnect(1.0)
        connection.disconnect(1.5)
        self.assertEqual(connection.data_to_send(), b"\xe0\x00")
        self.assertEqual(connection.next_timer, 3.0)
        self.assertEqual(connection.receive_data(spelt(Publish(topic="a", payload=b"")), 1.0), [])
        early = Connection(ClientOptions())
        early.opened(0.0)
        early.data_to_send()
        early.disconnect(1.0)
        self.assertEqual(early.data_to_send(), b"\xe0\x00")
        closing = server()
        closing.disconnect(1.0)
        self.assertEqual(closing.data_to_send(), b"")
        self.assertIs(closing.state, State.CLOSED)


class SessionTests(SynchronousTestCase):
    """Publishes that outlive their connection."""

    def unacknowledged(self, session: Session) -> None:
        first = client(session, client_id="c", clean_start=False)
        for context in "abc":
            first.publish(f"t/{context}", context.encode(), now=1.0, context=context, retain=context == "c")
        first.receive_data(spelt(PubAck(packet_id=2)), 1.0)
        first.subscribe([("x", 0)], now=1.0, context="s")
        self.assertEqual(first.connection_lost(), ["s"])
        self.assertEqual(len(session), 2)

    def again(self, session_present: bool) -> None:
        session = Session()
        self.unacknowledged(session)
        second = Connection(ClientOptions(client_id="c", clean_start=False), session)
        second.opened(5.0)
        second.data_to_send()
        self.assertRaises(LocalProtocolError, second.publish, "t", b"", now=5.0)
        second.receive_data(spelt(ConnAck(session_present=session_present)), 5.0)
        self.assertEqual(
            second.data_to_send(),
            spelt(
                q1("t/a", b"a", 1, dup=session_present),
                Publish(topic="t/c", payload=b"c", qos=1, retain=True, packet_id=3, dup=session_present),
            ),
        )
        self.assertEqual(second.publish("n", b"", now=5.0, context="n"), 5)
        self.assertEqual(
            second.receive_data(spelt(PubAck(packet_id=3), PubAck(packet_id=1)), 6.0),
            [PublishAcknowledged(3, 0, "c"), PublishAcknowledged(1, 0, "a")],
        )
        self.assertEqual(second.connection_lost(), [])
        self.assertEqual(session.abandon(), ["n"])

    def test_session_present(self):
        """The server kept the session: sent again in order, under their ids, with DUP [MQTT-4.4.0-1]."""
        self.again(True)

    def test_no_session_present(self):
        """The server forgot: sent again as new messages."""
        self.again(False)

    def test_refused_connection_keeps_them(self):
        """A connection that never came about changes nothing."""
        session = Session()
        self.unacknowledged(session)
        refused = Connection(ClientOptions(client_id="c", clean_start=False), session)
        refused.opened(5.0)
        refused.receive_data(spelt(ConnAck(reason_code=3)), 5.0)
        self.assertEqual(refused.connection_lost(), [])
        self.assertEqual(len(session), 2)
        client(session, client_id="c", clean_start=False)

    def test_window_holds_across(self):
        """What is sent again counts for the window."""
        session = Session()
        self.unacknowledged(session)
        second = client(session, client_id="c", clean_start=False, max_inflight=3)
        second.publish("t", b"", now=1.0)
        self.assertRaises(LocalProtocolError, second.publish, "t", b"", now=1.0)

    def test_one_connection_at_a_time(self):
        """A session that a live connection has is not given to another."""
        session = Session()
        client(session, client_id="c", clean_start=False)
        other = Connection(ClientOptions(), session)
        self.assertRaises(LocalProtocolError, other.opened, 0.0)
        self.assertEqual(other.connection_lost(), [])
        third = Connection(ClientOptions(), session)
        self.assertRaises(LocalProtocolError, third.opened, 0.0)
