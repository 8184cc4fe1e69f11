"""The broker with our own clients, in memory and on a clock that is moved by hand; both versions."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbgw.mqtt.broker import Broker, BrokerOptions
from tbgw.mqtt.errors import ConnectionRefused, KeepAliveTimeout, ServerDisconnected
from tbgw.mqtt.options import ClientOptions, ServerOptions
from tbgw.mqtt.packets import Connect, Publish, ReasonCode, Subscription, Will
from tbgw.mqtt.properties import PropertyId as P
from tbgw.mqtt.protocol import MQTTClientProtocol
from tbgw.mqtt.session import Session
from tests.mqtt.memory import ClientRecord, Wire


class Guest:
    """A client of the broker."""

    def __init__(self, test: BrokerTests, session: Session | None = None, **options: Any) -> None:
        self.test = test
        self.record = ClientRecord()
        self.protocol = MQTTClientProtocol(ClientOptions(**options), self.record, test.clock, session)
        server = test.broker.admit()
        assert server is not None
        self.wire = Wire(self.protocol, server)
        test.guests.append(self)
        test.pump()

    def subscribe(self, *filters: Any, **arguments: Any) -> list[int]:
        codes = self.protocol.subscribe(filters, **arguments)
        self.test.pump()
        return self.test.successResultOf(codes)

    def publish(self, topic: str, payload: bytes = b"x", **arguments: Any) -> int:
        code = self.protocol.publish(topic, payload, **arguments)
        self.test.pump()
        return self.test.successResultOf(code)

    def got(self) -> list[tuple[str, bytes, int, bool]]:
        return [(m.topic, m.payload, m.qos, m.retain) for m in self.record.values("message")]

    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.record.values("message")]

    def drop(self) -> None:
        """The wire breaks."""
        self.protocol.abort()
        self.test.pump()


class BrokerTests(SynchronousTestCase):
    """What a broker owes its clients."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.guests: list[Guest] = []
        self.use()

    def use(self, authenticate: Any = None, **options: Any) -> None:
        self.broker = Broker(self.clock, BrokerOptions(**options), authenticate)

    def pump(self) -> None:
        for _ in range(5):
            for guest in self.guests:
                guest.wire.pump()

    def guest(self, session: Session | None = None, version: Any = 5, **options: Any) -> Guest:
        return Guest(self, session, protocol_version=version, **options)

    def test_routing(self):
        """From each version to each, with each pair of QoS."""
        for sending in (4, 5):
            for receiving in (4, 5):
                sender, receiver = self.guest(version=sending), self.guest(version=receiving)
                for granted in (0, 1, 2):
                    self.assertEqual(receiver.subscribe((f"a/+/{granted}", granted)), [granted])
                for granted in (0, 1, 2):
                    for qos in (0, 1, 2):
                        self.assertEqual(sender.publish(f"a/b/{granted}", b"m", qos=qos), 0)
                self.assertEqual(
                    receiver.got(),
                    [(f"a/b/{granted}", b"m", min(granted, qos), False) for granted in range(3) for qos in range(3)],
                )
                for each in (sender, receiver):
                    each.protocol.disconnect()
                self.pump()
        self.assertEqual((self.broker.connection_count, self.broker.session_count), (0, 0))

    def test_overlap_and_identifiers(self):
        """Overlapping subscriptions give one copy with the best QoS and all identifiers."""
        guest = self.guest()
        guest.subscribe(("a/#", 0), properties={P.SUBSCRIPTION_IDENTIFIER: 1})
        guest.subscribe(("a/b", 1), properties={P.SUBSCRIPTION_IDENTIFIER: 2})
        guest.subscribe(("+/b", 0))
        self.assertEqual(guest.publish("a/b", qos=2), 0)
        (message,) = guest.record.values("message")
        self.assertEqual(message.qos, 1)
        self.assertEqual(sorted(message.properties[P.SUBSCRIPTION_IDENTIFIER]), [1, 2])

    def test_nobody(self):
        """A sender of MQTT 5 is told that nobody is subscribed; unsubscribing tells whether there was something."""
        guest = self.guest()
        self.assertEqual(guest.publish("a"), ReasonCode.NO_MATCHING_SUBSCRIBERS)
        guest.subscribe(("a", 0))
        codes = guest.protocol.unsubscribe(["a", "b"])
        self.pump()
        self.assertEqual(self.successResultOf(codes), [0, 0x11])
        self.assertEqual(self.guest(version=4).publish("a"), 0)

    def test_options(self):
        """No Local, Retain As Published, and Retain Handling."""
        guest, other = self.guest(), self.guest()
        guest.subscribe(Subscription(topic_filter="a", qos=1, no_local=True, retain_as_published=True))
        guest.publish("a", b"own")
        other.publish("a", b"kept", retain=True)
        self.assertEqual(guest.got(), [("a", b"kept", 1, True)])
        for handling, expected in ((0, 1), (1, 1), (2, 0)):
            fresh = self.guest()
            fresh.subscribe(Subscription(topic_filter="a", qos=1, retain_handling=handling))
            self.assertEqual(len(fresh.got()), expected)
            fresh.subscribe(Subscription(topic_filter="a", qos=1, retain_handling=handling))
            self.assertEqual(len(fresh.got()), 2 if handling == 0 else expected)

    def test_retained(self):
        """Kept, replaced, forgotten; within the limits; expired."""
        self.use(max_retained_messages=2, max_retained_bytes=100)
        guest = self.guest()
        guest.publish("r/1", b"old", retain=True)
        guest.publish("r/1", b"new", retain=True)
        guest.publish("r/2", b"2", retain=True, qos=1, properties={P.MESSAGE_EXPIRY_INTERVAL: 10})
        self.assertEqual(guest.publish("r/3", b"3", retain=True), ReasonCode.QUOTA_EXCEEDED)
        self.assertEqual(guest.publish("r/1", bytes(100), retain=True), ReasonCode.QUOTA_EXCEEDED)
        guest.publish("r/1", b"new", retain=True)
        late = self.guest()
        late.subscribe(("r/#", 1))
        self.assertEqual(sorted(late.got()), [("r/1", b"new", 1, True), ("r/2", b"2", 1, True)])
        self.clock.advance(11)
        later = self.guest(version=4)
        later.subscribe(("r/#", 1))
        self.assertEqual(later.payloads(), [b"new"])
        guest.publish("r/1", b"", retain=True)
        self.assertEqual(self.broker.retained_count, 0)

    def test_shared(self):
        """Each message goes to one member of each share, in turn, and to the others as well."""
        members = [self.guest(version=version) for version in (4, 5, 5)]
        for member in members[:2]:
            member.subscribe(("$share/g/a/#", 1))
        members[2].subscribe(("a/#", 1))
        for number in range(4):
            members[2].publish("a/b", str(number).encode())
        self.assertEqual(
            [member.payloads() for member in members], [[b"0", b"2"], [b"1", b"3"], [b"0", b"1", b"2", b"3"]]
        )
        self.assertEqual(members[0].subscribe(("$share//x", 1)), [0x80])

    def test_session(self):
        """A kept session queues, survives and goes on; one that is not kept is gone."""
        for version in (4, 5):
            session = Session()
            options: dict[str, Any] = {"client_id": f"s{version}", "clean_start": False, "session_expiry_seconds": 60}
            guest = self.guest(session, version, **options)
            self.assertFalse(guest.record.values("connected")[0].session_present)
            guest.subscribe(("s", 2))
            guest.drop()
            sender = self.guest()
            for qos in (0, 1, 2):
                sender.publish("s", str(qos).encode(), qos=qos)
            guest = self.guest(session, version, **options)
            self.assertTrue(guest.record.values("connected")[0].session_present)
            self.assertEqual(guest.payloads(), [b"1", b"2"])
            guest.drop()
            guest = self.guest(version=version, **(options | {"clean_start": True}))
            self.assertFalse(guest.record.values("connected")[0].session_present)
            sender.publish("s")
            self.assertEqual(guest.payloads(), [])
            guest.drop()

    def test_session_expires(self):
        """After its time, or at once when DISCONNECT says so."""
        for seconds, present in ((59, True), (61, False)):
            options: dict[str, Any] = {"client_id": "e", "clean_start": False, "session_expiry_seconds": 60}
            self.guest(**options).drop()
            self.clock.advance(seconds)
            guest = self.guest(**options)
            self.assertEqual(guest.record.values("connected")[0].session_present, present)
            guest.protocol.disconnect(0, {P.SESSION_EXPIRY_INTERVAL: 0})
            self.pump()
            self.assertEqual(self.broker.session_count, 0)

    def test_expiry_cap(self):
        """A session is kept no longer than the broker likes, and the client is told."""
        self.use(max_session_expiry_seconds=10)
        guest = self.guest(session_expiry_seconds=0xFFFFFFFF)
        self.assertEqual(guest.record.values("connected")[0].properties[P.SESSION_EXPIRY_INTERVAL], 10)

    def test_take_over(self):
        """A second connection with the same identifier ends the first, and has its session at once."""
        options: dict[str, Any] = {"client_id": "t", "clean_start": False, "session_expiry_seconds": 60}
        first = self.guest(will=Will(topic="w", payload=b"gone"), **options)
        watcher = self.guest()
        watcher.subscribe(("w", 0))
        first.subscribe(("t", 1))
        second = self.guest(**options)
        self.assertTrue(second.record.values("connected")[0].session_present)
        reason = first.record.reason()
        assert isinstance(reason, ServerDisconnected)
        self.assertEqual(reason.reason_code, ReasonCode.SESSION_TAKEN_OVER)
        watcher.publish("t", b"m")
        self.assertEqual(second.payloads(), [b"m"])
        self.assertEqual(watcher.payloads(), [b"gone"])

    def test_wills(self):
        """Published when a connection breaks or 0x04 is said, not at a clean end; with its delay; not if it is back."""
        watcher = self.guest()
        watcher.subscribe(("w", 1))
        will = Will(topic="w", payload=b"1", qos=1)
        self.guest(will=will).drop()
        self.guest(will=will).protocol.disconnect()
        self.pump()
        self.assertEqual(watcher.payloads(), [b"1"])
        self.guest(will=will).protocol.disconnect(4)
        self.pump()
        self.assertEqual(watcher.payloads(), [b"1", b"1"])
        delayed = Will(topic="w", payload=b"2", properties={P.WILL_DELAY_INTERVAL: 5, P.CONTENT_TYPE: "t"})
        options: dict[str, Any] = {
            "client_id": "d",
            "session_expiry_seconds": 60,
            "clean_start": False,
            "will": delayed,
        }
        self.guest(**options).drop()
        self.clock.advance(4)
        back = self.guest(**options)
        self.clock.advance(4)
        self.pump()
        self.assertEqual(len(watcher.payloads()), 2)
        back.drop()
        self.clock.advance(5)
        self.pump()
        message = watcher.record.values("message")[-1]
        self.assertEqual((message.payload, message.properties), (b"2", {P.CONTENT_TYPE: "t"}))

    def test_properties(self):
        """What is to be forwarded is, aliases and expiry are not passed on as they came."""
        guest = self.guest(max_outgoing_topic_aliases=3)
        old = self.guest(version=4)
        for each in (guest, old):
            each.subscribe(("p", 1))
        sent = {P.CONTENT_TYPE: "t", P.USER_PROPERTY: (("a", "b"),), P.RESPONSE_TOPIC: "r", P.CORRELATION_DATA: b"c"}
        for _ in range(2):
            guest.publish("p", properties=sent | {P.MESSAGE_EXPIRY_INTERVAL: 9})
        for message in guest.record.values("message"):
            self.assertEqual(message.properties, sent | {P.MESSAGE_EXPIRY_INTERVAL: 9})
        self.assertEqual(len(old.payloads()), 2)

    def test_queue_caps(self):
        """More than a session may queue is dropped and counted; the window is kept to."""
        self.use(max_queued_messages=3, server=ServerOptions(max_inflight=2))
        options: dict[str, Any] = {"client_id": "q", "clean_start": False, "session_expiry_seconds": 60}
        guest = self.guest(**options)
        guest.subscribe(("q", 1))
        guest.drop()
        sender = self.guest()
        for number in range(10):
            sender.publish("q", str(number).encode())
        self.assertEqual(self.broker.dropped, 7)
        self.assertEqual(self.guest(**options).payloads(), [b"0", b"1", b"2"])

    def test_subscriber_that_does_not_read(self):
        """It is closed when its buffer is full; its session keeps what it did not get, and it gets that later."""
        self.use(server=ServerOptions(max_unsent_bytes=1000))
        options: dict[str, Any] = {"client_id": "slow", "clean_start": False, "session_expiry_seconds": 60}
        session = Session()
        guest = self.guest(session, **options)
        guest.subscribe(("s", 1), ("s0", 0))
        guest.wire.server.pauseProducing()
        sender = self.guest()
        for _ in range(20):
            sender.publish("s0", bytes(100), qos=0)
        self.assertGreater(self.broker.dropped, 5)
        self.assertNotIn("disconnected", guest.record.names())
        for number in range(20):
            sender.publish("s", b"%02d" % number + bytes(98))
        reason = guest.record.reason()
        assert isinstance(reason, ServerDisconnected)
        self.assertEqual(reason.reason_code, ReasonCode.QUOTA_EXCEEDED)
        guest = self.guest(session, **options)
        self.assertEqual([payload[:2] for payload in guest.payloads()], [b"%02d" % number for number in range(20)])

    def test_expired_in_queue(self):
        """A message that waited too long is not sent."""
        options: dict[str, Any] = {"client_id": "x", "clean_start": False, "session_expiry_seconds": 60}
        guest = self.guest(**options)
        guest.subscribe(("x", 1))
        guest.drop()
        sender = self.guest()
        sender.publish("x", b"short", properties={P.MESSAGE_EXPIRY_INTERVAL: 5})
        sender.publish("x", b"long", properties={P.MESSAGE_EXPIRY_INTERVAL: 50})
        self.clock.advance(10)
        guest = self.guest(**options)
        (message,) = guest.record.values("message")
        self.assertEqual((message.payload, message.properties[P.MESSAGE_EXPIRY_INTERVAL]), (b"long", 40))

    def test_too_large_for_one(self):
        """A subscriber that takes no such size does without, the others get it."""
        small, large = self.guest(max_packet_bytes=50), self.guest()
        for guest in (small, large):
            guest.subscribe(("l", 1))
        large.publish("l", bytes(100))
        self.assertEqual((len(small.payloads()), len(large.payloads()), self.broker.dropped), (0, 1, 1))

    def test_caps(self):
        """Connections, sessions, subscriptions and packets."""
        self.use(max_connections=3, max_sessions=2, max_subscriptions=1, server=ServerOptions(max_packet_bytes=100))
        guest = self.guest()
        self.assertEqual(guest.subscribe(("a", 1), ("b", 1), ("a", 0)), [1, 0x97, 0])
        other = self.guest(version=4)
        self.assertEqual(other.subscribe(("a", 1), ("b", 1)), [1, 0x80])
        reason = self.guest().record.reason()
        assert isinstance(reason, ConnectionRefused)
        self.assertEqual(reason.reason_code, ReasonCode.SERVER_BUSY)
        self.assertEqual(self.broker.connection_count, 2)
        self.assertIsNotNone(self.broker.admit())
        self.assertIsNone(self.broker.admit())
        other.protocol.publish("a", bytes(100)).addErrback(lambda failure: None)
        self.pump()
        self.assertIn("disconnected", other.record.names())

    def test_authentication(self):
        """The code is the judge's, translated for 3.1.1."""
        self.use(authenticate=lambda connect: 0 if connect.username == "u" else 0x86)
        self.assertEqual(self.guest(username="u").record.names(), ["connected"])
        for version, code in ((4, 4), (5, 0x86)):
            reason = self.guest(version=version).record.reason()
            assert isinstance(reason, ConnectionRefused)
            self.assertEqual(reason.connack.reason_code, code)

    def test_assigned_identifier(self):
        """Clients without a name get one, and on MQTT 5 learn it."""
        first, second = self.guest(), self.guest()
        self.assertNotEqual(first.protocol.client_id, second.protocol.client_id)
        self.assertTrue(first.protocol.client_id)

    def test_keep_alive(self):
        """A client that is silent for one and a half times its keep alive is closed, with its will."""
        watcher = self.guest(keep_alive_seconds=0)
        watcher.subscribe(("w", 0))
        server = self.broker.admit()
        assert server is not None
        wire = Wire(MQTTClientProtocol(ClientOptions(), ClientRecord(), self.clock), server)
        del wire.client_transport.writes[:]
        from tbgw.mqtt.codec import encode

        connect = Connect(
            client_id="mute", keep_alive_seconds=10, protocol_version=5, will=Will(topic="w", payload=b"mute")
        )
        server.dataReceived(encode(connect, 5))
        self.clock.advance(14.9)
        self.assertFalse(wire.server_transport.disconnecting)
        self.clock.advance(0.2)
        self.assertTrue(wire.server_transport.disconnecting)
        self.assertIsInstance(server._reason, KeepAliveTimeout)
        self.guests.clear()
        wire.pump()
        watcher.wire.pump()
        self.assertEqual(watcher.payloads(), [b"mute"])

    def test_close(self):
        """All clients are told, and nothing is left."""
        guests = [self.guest(version=version, session_expiry_seconds=9) for version in (4, 5)]
        self.guest(session_expiry_seconds=9, client_id="away").drop()
        closed = self.broker.close()
        self.assertNoResult(closed)
        self.pump()
        self.successResultOf(closed)
        reason = guests[1].record.reason()
        assert isinstance(reason, ServerDisconnected)
        self.assertEqual(reason.reason_code, ReasonCode.SERVER_SHUTTING_DOWN)
        self.assertIsNone(self.broker.admit())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_own_message(self):
        """The broker can publish by itself."""
        guest = self.guest()
        guest.subscribe(("b", 1))
        self.assertEqual(self.broker.publish("b", b"own", qos=1), 0)
        self.pump()
        self.assertEqual(guest.record.values("message"), [Publish(topic="b", payload=b"own", qos=1, packet_id=1)])
