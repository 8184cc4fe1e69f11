"""What MQTT 5 adds to a connection, in both roles: limits both ways, aliases, reason codes on the wire, wills, AUTH."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbgw.mqtt.codec import decode, encode
from tbgw.mqtt.connection import Connection
from tbgw.mqtt.errors import (
    ClientDisconnected,
    ConnectionRefused,
    KeepAliveTimeout,
    LocalProtocolError,
    RemoteProtocolError,
    ServerDisconnected,
)
from tbgw.mqtt.events import (
    Connected,
    Event,
    PublishAcknowledged,
    PublishReceived,
    SubscribeAcknowledged,
    SubscribeReceived,
    Terminated,
    UnsubscribeReceived,
)
from tbgw.mqtt.limits import LEAST_PACKET_BYTES
from tbgw.mqtt.options import ClientOptions, ServerOptions
from tbgw.mqtt.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    ReasonCode,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Will,
)
from tbgw.mqtt.properties import PropertyId as P
from tbgw.mqtt.session import Session
from tbgw.mqtt.state import State


def spelt(*packets: Packet) -> bytes:
    """The packets' bytes."""
    return b"".join(encode(packet, 5) for packet in packets)


def said(connection: Connection) -> list[Packet]:
    """What the connection has to send, read."""
    data = connection.data_to_send()
    packets: list[Packet] = []
    offset = 0
    while offset < len(data):
        packet, offset = decode(data, offset, len(data), protocol_version=5, max_packet_bytes=1 << 28)
        assert packet is not None
        packets.append(packet)
    return packets


def client(
    session: Session | None = None,
    *,
    told: dict[int, Any] | None = None,
    session_present: bool = False,
    **options: Any,
) -> Connection:
    """A client that was let in at time 0 by a server that told this, and has nothing to send."""
    connection = Connection(ClientOptions(protocol_version=5, **options), session)
    connection.opened(0.0)
    connection.data_to_send()
    connection.receive_data(spelt(ConnAck(session_present=session_present, properties=told)), 0.0)
    return connection


def server(
    told: dict[int, Any] | None = None,
    *,
    accepted: dict[int, Any] | None = None,
    will: Will | None = None,
    **options: Any,
) -> Connection:
    """A server that let in a client, which told this, at time 0."""
    connection = Connection(ServerOptions(**options))
    connection.opened(0.0)
    connect = Connect(client_id="c", protocol_version=5, properties=told, keep_alive_seconds=10, will=will)
    connection.receive_data(spelt(connect), 0.0)
    connection.accept(0.0, properties=accepted)
    connection.data_to_send()
    return connection


def end(events: list[Event]) -> Terminated:
    """The last event, which is the end."""
    event = events[-1]
    assert isinstance(event, Terminated), events
    return event


class HandshakeTests(SynchronousTestCase):
    """CONNECT and CONNACK."""

    def test_connect(self):
        """Everything the options say travels."""
        options = ClientOptions(
            protocol_version=5,
            password=b"alone",
            session_expiry_seconds=7,
            receive_maximum=8,
            max_packet_bytes=9000,
            topic_alias_maximum=10,
            request_response_information=True,
            request_problem_information=False,
            user_properties=(("a", "b"),),
            will=Will(topic="w", payload=b"", properties={P.WILL_DELAY_INTERVAL: 5}),
        )
        connection = Connection(options)
        connection.opened(0.0)
        (connect,) = said(connection)
        assert isinstance(connect, Connect)
        self.assertEqual(
            connect.properties,
            {
                P.RECEIVE_MAXIMUM: 8,
                P.MAXIMUM_PACKET_SIZE: 9000,
                P.TOPIC_ALIAS_MAXIMUM: 10,
                P.SESSION_EXPIRY_INTERVAL: 7,
                P.REQUEST_RESPONSE_INFORMATION: 1,
                P.REQUEST_PROBLEM_INFORMATION: 0,
                P.USER_PROPERTY: (("a", "b"),),
            },
        )
        self.assertEqual(connect.will, options.will)

    def test_same_options_in_3_1_1(self):
        """What only MQTT 5 has is left out."""
        options = ClientOptions(
            session_expiry_seconds=7,
            user_properties=(("a", "b"),),
            will=Will(topic="w", payload=b"", properties={P.WILL_DELAY_INTERVAL: 5}),
        )
        connect = options.connect_packet()
        self.assertIsNone(connect.properties)
        self.assertEqual(connect.will, Will(topic="w", payload=b""))

    def test_connack(self):
        """The server's keep alive and limits hold."""
        connack = ConnAck(properties={P.SERVER_KEEP_ALIVE: 3, P.RECEIVE_MAXIMUM: 2, P.ASSIGNED_CLIENT_IDENTIFIER: "x"})
        connection = Connection(ClientOptions(protocol_version=5, keep_alive_seconds=60))
        connection.opened(0.0)
        self.assertEqual(connection.receive_data(spelt(connack), 1.0), [Connected(connack=connack)])
        self.assertEqual(connection.window, 2)
        self.assertEqual(connection.next_timer, 3.0)

    def test_server_announces(self):
        """A server tells its limits and what its owner adds; the given keep alive is the one it holds to."""
        connection = Connection(ServerOptions(max_packet_bytes=5000, receive_maximum=6, topic_alias_maximum=7))
        connection.opened(0.0)
        connection.receive_data(spelt(Connect(protocol_version=5, keep_alive_seconds=100)), 0.0)
        connection.accept(0.0, properties={P.SERVER_KEEP_ALIVE: 4, P.ASSIGNED_CLIENT_IDENTIFIER: "a"})
        (connack,) = said(connection)
        self.assertEqual(
            connack.properties,  # type: ignore[union-attr]  # it is a CONNACK
            {
                P.RECEIVE_MAXIMUM: 6,
                P.MAXIMUM_PACKET_SIZE: 5000,
                P.TOPIC_ALIAS_MAXIMUM: 7,
                P.SERVER_KEEP_ALIVE: 4,
                P.ASSIGNED_CLIENT_IDENTIFIER: "a",
            },
        )
        self.assertEqual(connection.next_timer, 6.0)

    def test_silent_server(self):
        """With `announce_limits` off the CONNACK is bare, as ThingsBoard's."""
        connection = Connection(ServerOptions(announce_limits=False, receive_maximum=1))
        connection.opened(0.0)
        connection.receive_data(spelt(Connect(protocol_version=5)), 0.0)
        connection.accept(0.0)
        self.assertEqual(connection.data_to_send(), b"\x20\x03\x00\x00\x00")
        events = connection.receive_data(
            spelt(*(Publish(topic="a", payload=b"", qos=1, packet_id=i) for i in (1, 2))), 1.0
        )
        self.assertEqual(len(events), 2)

    def test_empty_client_id(self):
        """On MQTT 5 it needs no clean start."""
        connection = Connection(ServerOptions())
        connection.opened(0.0)
        (event,) = connection.receive_data(spelt(Connect(protocol_version=5, clean_start=False)), 0.0)
        self.assertNotIsInstance(event, Terminated)

    def test_refusals(self):
        """0x84 and the 3.1.1 code 1 both arrive as ConnectionRefused."""
        for raw, code in ((b"\x20\x03\x00\x84\x00", 0x84), (b"\x20\x02\x00\x01", 1), (b"\x20\x02\x00\x05", 5)):
            connection = Connection(ClientOptions(protocol_version=5))
            connection.opened(0.0)
            reason = end(connection.receive_data(raw, 1.0)).reason
            assert isinstance(reason, ConnectionRefused)
            self.assertEqual(reason.connack.reason_code, code)
            self.assertEqual(reason.protocol_version, 5 if code > 5 else 4)

    def test_server_of_3_1_1(self):
        """A server that speaks 3.1.1 only answers so that every client can read it."""
        connection = Connection(ServerOptions(protocol_versions=(4,)))
        connection.opened(0.0)
        self.assertFalse(end(connection.receive_data(spelt(Connect(protocol_version=5)), 0.0)).abort)
        self.assertEqual(connection.data_to_send(), b"\x20\x02\x00\x01")

    def test_malformed_connect(self):
        """A CONNECT of 5 that is wrong is answered in version 5."""
        connection = Connection(ServerOptions())
        connection.opened(0.0)
        self.assertFalse(end(connection.receive_data(b"\x10\x0b\x00\x04MQTT\x05\x03\x00\x00\x00", 0.0)).abort)
        self.assertEqual(connection.data_to_send(), b"\x20\x03\x00\x81\x00")

    def test_enhanced_authentication(self):
        """Refused with 0x8C; an AUTH out of nowhere is a protocol error in both roles."""
        connection = Connection(ServerOptions())
        connection.opened(0.0)
        raw = spelt(Connect(protocol_version=5, properties={P.AUTHENTICATION_METHOD: "SCRAM"}))
        self.assertFalse(end(connection.receive_data(raw, 0.0)).abort)
        self.assertEqual(said(connection), [ConnAck(reason_code=0x8C)])
        for connection in (client(), server()):
            event = end(connection.receive_data(spelt(Auth(reason_code=0x18)), 1.0))
            self.assertIn("MQTT-4.12.0-6", str(event.reason))
            self.assertEqual(said(connection), [Disconnect(reason_code=ReasonCode.PROTOCOL_ERROR)])

    def test_absurd_packet_size(self):
        """A peer that could not be answered is not taken."""
        told: dict[int, Any] = {P.MAXIMUM_PACKET_SIZE: LEAST_PACKET_BYTES - 1}
        connection = Connection(ServerOptions())
        connection.opened(0.0)
        event = end(connection.receive_data(spelt(Connect(protocol_version=5, properties=told)), 0.0))
        self.assertIsInstance(event.reason, RemoteProtocolError)
        self.assertIs(client(told=told).state, State.CLOSED)
        enough: dict[int, Any] = {P.MAXIMUM_PACKET_SIZE: LEAST_PACKET_BYTES}
        self.assertIs(client(told=enough).state, State.CONNECTED)


class LimitTests(SynchronousTestCase):
    """What the peer takes, and what we take."""

    def test_window(self):
        """The peer's receive maximum is the window when it is the lesser."""
        connection = client(told={P.RECEIVE_MAXIMUM: 2})
        connection.publish("a", b"", now=1.0)
        connection.publish("a", b"", now=1.0, qos=2)
        self.assertRaises(LocalProtocolError, connection.publish, "a", b"", now=1.0)
        connection.publish("a", b"", now=1.0, qos=0)
        connection.receive_data(spelt(PubRec(packet_id=2)), 1.0)
        self.assertRaises(LocalProtocolError, connection.publish, "a", b"", now=1.0)
        connection.receive_data(spelt(PubComp(packet_id=2)), 1.0)
        connection.publish("a", b"", now=1.0)

    def test_receive_maximum(self):
        """More unacknowledged messages than we take end the connection with 0x93; answers make room."""
        connection = server(receive_maximum=2)
        one, two, three = (Publish(topic="a", payload=b"", qos=qos, packet_id=i) for i, qos in ((1, 1), (2, 2), (3, 1)))
        connection.receive_data(spelt(one, two), 1.0)
        connection.acknowledge(one, 1.0)
        self.assertEqual(connection.receive_data(spelt(three), 1.0), [PublishReceived(three)])
        connection.acknowledge(three, 1.0)
        connection.acknowledge(two, 1.0)
        connection.receive_data(spelt(one), 1.0)
        connection.receive_data(spelt(PubRel(packet_id=2)), 1.0)
        self.assertEqual(connection.receive_data(spelt(three), 1.0), [PublishReceived(three)])
        connection.data_to_send()
        event = end(connection.receive_data(spelt(Publish(topic="a", payload=b"", qos=1, packet_id=9)), 1.0))
        assert isinstance(event.reason, RemoteProtocolError)
        self.assertEqual(event.reason.reason_code, ReasonCode.RECEIVE_MAXIMUM_EXCEEDED)
        self.assertEqual(said(connection), [Disconnect(reason_code=0x93)])
        self.assertFalse(event.abort)

    def test_packet_size(self):
        """A larger packet than the peer takes is refused locally and leaves no trace; one that fits goes."""
        for connection in (client(told={P.MAXIMUM_PACKET_SIZE: 100}), server({P.MAXIMUM_PACKET_SIZE: 100})):
            self.assertRaises(LocalProtocolError, connection.publish, "a", bytes(93), now=1.0)
            self.assertEqual((connection.inflight, connection.data_to_send()), (0, b""))
            connection.publish("a", bytes(92), now=1.0)
            self.assertEqual(len(connection.data_to_send()), 100)

    def test_long_reasons_are_left_out(self):
        """An acknowledgement that would be too large goes without its reason string."""
        connection = server({P.MAXIMUM_PACKET_SIZE: 30})
        publish = Publish(topic="a", payload=b"", qos=1, packet_id=1)
        connection.receive_data(spelt(publish), 1.0)
        connection.acknowledge(publish, 1.0, 0x97, {P.REASON_STRING: "x" * 100})
        self.assertEqual(said(connection), [PubAck(packet_id=1, reason_code=0x97)])

    def test_problem_information(self):
        """A client that wants none gets no reason strings with acknowledgements, but with DISCONNECT."""
        properties = {P.REASON_STRING: "r", P.USER_PROPERTY: (("a", "b"),)}
        for wanted in (0, 1):
            connection = server({P.REQUEST_PROBLEM_INFORMATION: wanted})
            connection.acknowledge(Publish(topic="a", payload=b"", qos=1, packet_id=1), 1.0, 0, properties)
            connection.disconnect(1.0, 0x8B, {P.REASON_STRING: "bye"})
            self.assertEqual(
                said(connection),
                [
                    PubAck(packet_id=1, properties=properties if wanted else None),
                    Disconnect(reason_code=0x8B, properties={P.REASON_STRING: "bye"}),
                ],
            )

    def test_server_without(self):
        """What the server said it has not is refused locally."""
        connection = client(
            told={
                P.MAXIMUM_QOS: 1,
                P.RETAIN_AVAILABLE: 0,
                P.WILDCARD_SUBSCRIPTION_AVAILABLE: 0,
                P.SUBSCRIPTION_IDENTIFIER_AVAILABLE: 0,
                P.SHARED_SUBSCRIPTION_AVAILABLE: 0,
            }
        )
        for arguments in ({"qos": 2}, {"retain": True}):
            self.assertRaises(LocalProtocolError, connection.publish, "a", b"", now=1.0, **arguments)
        self.assertRaises(LocalProtocolError, connection.subscribe, [("a/#", 0)], now=1.0)
        self.assertRaises(LocalProtocolError, connection.subscribe, [("$share/g/a", 0)], now=1.0)
        identified = {P.SUBSCRIPTION_IDENTIFIER: 1}
        self.assertRaises(LocalProtocolError, connection.subscribe, [("a", 0)], now=1.0, properties=identified)
        self.assertEqual(connection.data_to_send(), b"")
        connection.subscribe([("a", 0)], now=1.0)

    def test_subscribe_whose_answer_does_not_fit(self):
        """A client that asks for an answer larger than it takes is told so."""
        connection = server({P.MAXIMUM_PACKET_SIZE: LEAST_PACKET_BYTES})
        filters = tuple(Subscription(topic_filter="a") for _ in range(30))
        event = end(connection.receive_data(spelt(Subscribe(packet_id=1, filters=filters)), 1.0))
        self.assertEqual(event.reason.reason_code, ReasonCode.PACKET_TOO_LARGE)  # type: ignore[attr-defined]  # one of ours


class AliasTests(SynchronousTestCase):
    """Topic aliases, both ways."""

    def test_outgoing(self):
        """The first topics get one, up to the lesser of what is taken and wanted; all arrive with their topics."""
        sender = client(told={P.TOPIC_ALIAS_MAXIMUM: 2}, max_outgoing_topic_aliases=5)
        receiver = server(topic_alias_maximum=2)
        sizes = []
        got: list[Event] = []
        topics = ["a" * 50, "b" * 50, "c" * 50, "a" * 50, "b" * 50, "c" * 50]
        for topic in topics:
            sender.publish(topic, b"x", now=1.0, properties={P.CONTENT_TYPE: "t"})
            data = sender.data_to_send()
            sizes.append(len(data))
            got += receiver.receive_data(data, 1.0)
        self.assertEqual([event.publish.topic for event in got], topics)  # type: ignore[union-attr]  # all PublishReceived
        self.assertEqual({str(event.publish.properties) for event in got}, {str({3: "t"})})  # type: ignore[union-attr]
        self.assertLess(max(sizes[3:5]), 20)
        self.assertGreater(min(sizes[:3] + sizes[5:]), 50)

    def test_refused_publish_takes_no_alias(self):
        """A PUBLISH that was not sent teaches the peer nothing."""
        sender = client(told={P.TOPIC_ALIAS_MAXIMUM: 2, P.MAXIMUM_PACKET_SIZE: 100}, max_outgoing_topic_aliases=5)
        self.assertRaises(LocalProtocolError, sender.publish, "a", bytes(100), now=1.0)
        sender.publish("a", b"", now=1.0, qos=0)
        (publish,) = said(sender)
        self.assertEqual(publish, Publish(topic="a", payload=b"", properties={P.TOPIC_ALIAS: 1}))

    def test_incoming(self):
        """An alias may be taught anew; one that is unknown or too high is told by its code."""
        connection = server(topic_alias_maximum=1)

        def publish(topic: str, alias: int) -> bytes:
            return spelt(Publish(topic=topic, payload=b"", properties={P.TOPIC_ALIAS: alias}))

        events = connection.receive_data(publish("a", 1) + publish("", 1) + publish("b", 1) + publish("", 1), 1.0)
        self.assertEqual([event.publish.topic for event in events], ["a", "a", "b", "b"])  # type: ignore[union-attr]  # all PublishReceived
        end(connection.receive_data(publish("a", 2), 1.0))
        self.assertEqual(said(connection), [Disconnect(reason_code=ReasonCode.TOPIC_ALIAS_INVALID)])
        fresh = server(topic_alias_maximum=1)
        end(fresh.receive_data(publish("", 1), 1.0))
        self.assertEqual(said(fresh), [Disconnect(reason_code=ReasonCode.PROTOCOL_ERROR)])

    def test_own_alias(self):
        """An owner cannot set one."""
        sender = client(told={P.TOPIC_ALIAS_MAXIMUM: 2})
        self.assertRaises(LocalProtocolError, sender.publish, "a", b"", now=1.0, properties={P.TOPIC_ALIAS: 1})


class AnswerTests(SynchronousTestCase):
    """Reason codes on every acknowledgement."""

    def test_publish(self):
        """PUBACK and PUBREC bring their code to the sender; a PUBREC that refuses ends the exchange."""
        connection = client()
        for qos in (1, 2, 2):
            connection.publish("a", b"", now=1.0, qos=qos, context=qos)
        connection.data_to_send()
        events = connection.receive_data(
            spelt(
                PubAck(packet_id=1, reason_code=0x10, properties={P.REASON_STRING: "nobody"}),
                PubRec(packet_id=2, reason_code=0x97),
                PubRec(packet_id=3, reason_code=0x10),
                PubComp(packet_id=3),
            ),
            2.0,
        )
        self.assertEqual(
            events, [PublishAcknowledged(1, 0x10, 1), PublishAcknowledged(2, 0x97, 2), PublishAcknowledged(3, 0x10, 2)]
        )
        self.assertEqual(said(connection), [PubRel(packet_id=3)])

    def test_acknowledge(self):
        """The owner's code travels; a refused QoS 2 message is over and its id is free."""
        connection = server()
        refused = Publish(topic="a", payload=b"", qos=2, packet_id=5)
        connection.receive_data(spelt(refused), 1.0)
        self.assertRaises(LocalProtocolError, connection.acknowledge, refused, 1.0, 0x92)
        connection.acknowledge(refused, 1.0, 0x87)
        self.assertEqual(said(connection), [PubRec(packet_id=5, reason_code=0x87)])
        self.assertEqual(connection.receive_data(spelt(refused), 1.0), [PublishReceived(refused)])

    def test_unknown_ids(self):
        """PUBREC and PUBREL of unknown ids are answered with 0x92."""
        connection = server()
        connection.receive_data(spelt(PubRec(packet_id=5), PubRel(packet_id=6), PubComp(packet_id=7)), 1.0)
        self.assertEqual(
            said(connection), [PubRel(packet_id=5, reason_code=0x92), PubComp(packet_id=6, reason_code=0x92)]
        )
        self.assertEqual(connection.ignored_acknowledgements, 2)

    def test_subscribe(self):
        """Options, identifier and codes in both directions."""
        near, far = client(), server()
        subscription = Subscription(topic_filter="$share/g/a", qos=2, retain_as_published=True, retain_handling=1)
        properties = {P.SUBSCRIPTION_IDENTIFIER: 3}
        near.subscribe([subscription, ("b", 0)], now=1.0, context="s", properties=properties)
        near.unsubscribe(["c"], now=1.0, context="u")
        subscribed, unsubscribed = far.receive_data(near.data_to_send(), 1.0)
        assert isinstance(subscribed, SubscribeReceived)
        assert isinstance(unsubscribed, UnsubscribeReceived)
        self.assertEqual(subscribed.subscribe.filters, (subscription, Subscription(topic_filter="b")))
        self.assertEqual(subscribed.subscribe.properties, properties)
        far.acknowledge_subscribe(subscribed.subscribe, [2, 0x87], 1.0)
        far.acknowledge_unsubscribe(unsubscribed.unsubscribe, [0x11], 1.0)
        self.assertEqual(
            near.receive_data(far.data_to_send(), 1.0),
            [
                SubscribeAcknowledged(packet_id=1, reason_codes=(2, 0x87), context="s"),
                SubscribeAcknowledged(packet_id=2, reason_codes=(0x11,), context="u"),
            ],
        )

    def test_wrong_number_of_codes(self):
        """An UNSUBACK with too many codes is a breach."""
        connection = client()
        connection.unsubscribe(["c"], now=1.0)
        end(connection.receive_data(spelt(UnsubAck(packet_id=1, reason_codes=(0, 0))), 1.0))

    def test_subscription_identifier_in_publish(self):
        """It comes to a client and never from one [MQTT-3.3.4-6]."""
        publish = Publish(topic="a", payload=b"", properties={P.SUBSCRIPTION_IDENTIFIER: (1, 2)})
        self.assertEqual(client().receive_data(spelt(publish), 1.0), [PublishReceived(publish)])
        self.assertIn("MQTT-3.3.4-6", str(end(server().receive_data(spelt(publish), 1.0)).reason))
        self.assertRaises(LocalProtocolError, client().publish, "a", b"", now=1.0, properties=publish.properties)


class EndTests(SynchronousTestCase):
    """DISCONNECT both ways, and what is said in a breach."""

    def test_server_disconnects(self):
        """The client is told why."""
        connection = server()
        connection.disconnect(1.0, ReasonCode.SESSION_TAKEN_OVER)
        raw = connection.data_to_send()
        reason = end(client().receive_data(raw, 1.0)).reason
        assert isinstance(reason, ServerDisconnected)
        self.assertEqual(reason.reason_code, 0x8E)

    def test_codes_of_thingsboard(self):
        """A DISCONNECT is taken with any code, for ThingsBoard uses some that are not in the table."""
        reason = end(client().receive_data(b"\xe0\x01\x86", 1.0)).reason
        assert isinstance(reason, ServerDisconnected)
        self.assertEqual(reason.reason_code, 0x86)

    def test_client_disconnects(self):
        """With a code, and with a session expiry where one was set at the beginning."""
        connection = client(session_expiry_seconds=5)
        connection.disconnect(1.0, 4, {P.SESSION_EXPIRY_INTERVAL: 9})
        raw = connection.data_to_send()
        reason = end(server({P.SESSION_EXPIRY_INTERVAL: 5}).receive_data(raw, 1.0)).reason
        assert isinstance(reason, ClientDisconnected)
        self.assertEqual(reason.packet, Disconnect(reason_code=4, properties={P.SESSION_EXPIRY_INTERVAL: 9}))
        self.assertIsInstance(end(server().receive_data(raw, 1.0)).reason, RemoteProtocolError)
        self.assertRaises(LocalProtocolError, client().disconnect, 1.0, 0, {P.SESSION_EXPIRY_INTERVAL: 9})
        self.assertRaises(LocalProtocolError, server().disconnect, 1.0, 0, {P.SESSION_EXPIRY_INTERVAL: 9})
        self.assertIn("MQTT-3.14.2-2", str(end(client().receive_data(raw, 1.0)).reason))

    def test_breaches(self):
        """Both roles say the right code, and close in good order so that it arrives."""
        for raw, code in (
            (b"\x00", ReasonCode.MALFORMED_PACKET),
            (b"\x30\x03\x00\x00\x00", ReasonCode.PROTOCOL_ERROR),
            (b"\x30\x04\x00\x01#\x00", ReasonCode.TOPIC_NAME_INVALID),
            (b"\x30\xff\xff\xff\x7f", ReasonCode.PACKET_TOO_LARGE),
        ):
            for connection in (client(), server()):
                self.assertFalse(end(connection.receive_data(raw, 1.0)).abort)
                self.assertEqual(said(connection), [Disconnect(reason_code=code)])
                self.assertIsNotNone(connection.next_timer)

    def test_keep_alive(self):
        """A server says 0x8D to a client that was silent too long."""
        connection = server()
        connection.receive_data(spelt(PingReq()), 1.0)
        connection.data_to_send()
        event = end(connection.handle_timer(16.0))
        self.assertIsInstance(event.reason, KeepAliveTimeout)
        self.assertFalse(event.abort)
        self.assertEqual(said(connection), [Disconnect(reason_code=0x8D)])


class ResendTests(SynchronousTestCase):
    """A kept session meets a server that takes less."""

    def session(self, *qos: int) -> Session:
        session = Session()
        first = client(session, clean_start=False, client_id="c", session_expiry_seconds=99)
        for number, each in enumerate(qos):
            first.publish(f"t/{number}", bytes(50), now=1.0, qos=each, context=number)
        first.connection_lost()
        return session

    def again(self, session: Session, **told: Any) -> Connection:
        connection = Connection(ClientOptions(protocol_version=5, clean_start=False, client_id="c"), session)
        connection.opened(2.0)
        connection.data_to_send()
        self.events = connection.receive_data(
            spelt(ConnAck(session_present=True, properties={P[k]: v for k, v in told.items()})), 2.0
        )
        return connection

    def test_window(self):
        """No more goes out again than the receive maximum lets through; the rest follows the answers, in order."""
        connection = self.again(self.session(1, 2, 1, 1), RECEIVE_MAXIMUM=2)
        self.assertEqual([packet.packet_id for packet in said(connection)], [1, 2])  # type: ignore[union-attr]  # all PUBLISH
        self.assertEqual(connection.receive_data(spelt(PubAck(packet_id=3)), 2.0), [])
        self.assertEqual(connection.ignored_acknowledgements, 1)
        connection.receive_data(spelt(PubAck(packet_id=1)), 2.0)
        self.assertEqual([packet.packet_id for packet in said(connection)], [3])  # type: ignore[union-attr]
        self.assertRaises(LocalProtocolError, connection.publish, "n", b"", now=2.0)
        connection.receive_data(spelt(PubRec(packet_id=2)), 2.0)
        self.assertEqual(said(connection), [PubRel(packet_id=2)])
        connection.receive_data(spelt(PubComp(packet_id=2), PubAck(packet_id=3)), 2.0)
        self.assertEqual([packet.packet_id for packet in said(connection)], [4])  # type: ignore[union-attr]
        connection.publish("n", b"", now=2.0)

    def test_too_large_now(self):
        """What this server does not take is told to its sender, not sent."""
        connection = self.again(self.session(1, 1), MAXIMUM_PACKET_SIZE=30)
        self.assertEqual([event.reason_code for event in self.events[:2]], [0x95, 0x95])  # type: ignore[union-attr]  # PublishAcknowledged
        self.assertEqual((connection.data_to_send(), connection.inflight), (b"", 0))
        self.again(self.session(2), MAXIMUM_QOS=1)
        self.assertEqual(self.events[0], PublishAcknowledged(1, 0x9B, 0))

    def test_in_the_other_version(self):
        """A session of MQTT 5 goes on in 3.1.1, without the properties."""
        session = Session()
        first = client(session, clean_start=False, client_id="c")
        first.publish("t", b"x", now=1.0, properties={P.CONTENT_TYPE: "t"})
        first.connection_lost()
        second = Connection(ClientOptions(clean_start=False, client_id="c"), session)
        second.opened(2.0)
        second.data_to_send()
        second.receive_data(b"\x20\x02\x01\x00", 2.0)
        self.assertEqual(
            second.data_to_send(), encode(Publish(topic="t", payload=b"x", qos=1, packet_id=1, dup=True), 4)
        )


class WholeAndSplitTests(SynchronousTestCase):
    """Bytes in any portion mean the same."""

    STREAM: tuple[Packet, ...] = (
        Publish(topic="a/b", payload=b"one", qos=1, packet_id=5, properties={P.TOPIC_ALIAS: 1}),
        PingReq(),
        Publish(topic="", payload=b"p" * 300, properties={P.TOPIC_ALIAS: 1, P.USER_PROPERTY: (("a", "b"),)}),
        Publish(topic="q", payload=b"", qos=2, packet_id=6),
        Publish(topic="q", payload=b"", qos=2, packet_id=6, dup=True),
        PubAck(packet_id=1, reason_code=0x10),
        PubRel(packet_id=6),
        Subscribe(packet_id=6, filters=(Subscription(topic_filter="x/+", no_local=True),)),
        Unsubscribe(packet_id=7, filters=("x/+",)),
        Disconnect(reason_code=4),
    )

    def run_in_chunks(self, chunks: list[bytes]) -> list[Event]:
        connection = server(topic_alias_maximum=1)
        connection.publish("t", b"", now=0.0, context="ours")
        connection.data_to_send()
        events = [event for chunk in chunks for event in connection.receive_data(chunk, 1.0)]
        self.assertEqual(said(connection)[1:], [PubComp(packet_id=6)])
        return events

    def test_whole_and_split(self):
        """The stream whole, byte by byte, and cut in two at every byte."""
        raw = spelt(*self.STREAM)
        whole = [repr(event) for event in self.run_in_chunks([raw])]
        self.assertEqual(len(whole), 7)
        self.assertEqual([repr(e) for e in self.run_in_chunks([raw[i : i + 1] for i in range(len(raw))])], whole)
        for cut in range(len(raw)):
            self.assertEqual([repr(event) for event in self.run_in_chunks([raw[:cut], raw[cut:]])], whole)

    def test_answers_split(self):
        """A client's side of the same."""
        raw = spelt(
            SubAck(packet_id=1, reason_codes=(0x87,)), PubRec(packet_id=2), PubComp(packet_id=2), PubAck(packet_id=3)
        )
        for cut in range(len(raw)):
            connection = client()
            connection.subscribe([("a", 0)], now=0.0)
            connection.publish("t", b"", now=0.0, qos=2)
            connection.publish("t", b"", now=0.0)
            events = connection.receive_data(raw[:cut], 1.0) + connection.receive_data(raw[cut:], 1.0)
            self.assertEqual(len(events), 3)
            self.assertEqual(connection.inflight, 0)
