"""The Twisted adapter: client and server joined in memory, a clock for the timers, and what reaches a transport."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tbgw.mqtt import (
    SUBACK_FAILURE,
    ClientDisconnected,
    ClientOptions,
    ConnAck,
    Connect,
    ConnectionRefused,
    ConnectReturnCode,
    ConnectTimeout,
    IClientListener,
    IServerListener,
    KeepAliveTimeout,
    LocalProtocolError,
    MQTTClientProtocol,
    MQTTServerProtocol,
    PubAck,
    Publish,
    RemoteProtocolError,
    ServerOptions,
    Session,
    abandon_session,
)
from tbgw.mqtt.codec import encode
from tests.mqtt.memory import ClientRecord, MemoryTransport, ServerRecord, Wire, lose

CONNACK = b"\x20\x02\x00\x00"


class Fixture(SynchronousTestCase):
    """Builds both ends on one clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.clients = ClientRecord()
        self.servers = ServerRecord()

    def wire(self, chunk_bytes: int = 0, server_options: ServerOptions | None = None, **options: Any) -> Wire:
        """Both ends joined, nothing carried yet."""
        return Wire(
            MQTTClientProtocol(ClientOptions(**options), self.clients, self.clock),
            MQTTServerProtocol(server_options or ServerOptions(), self.servers, self.clock),
            chunk_bytes,
        )

    def client(
        self, session: Session | None = None, connack: bytes = CONNACK, **options: Any
    ) -> tuple[MQTTClientProtocol, MemoryTransport]:
        """A client on a transport of its own, let in unless `connack` is empty."""
        protocol = MQTTClientProtocol(ClientOptions(**options), self.clients, self.clock, session)
        transport = MemoryTransport()
        protocol.makeConnection(transport)
        if connack:
            protocol.dataReceived(connack)
            transport.taken()
        return protocol, transport

    def server(self, **options: Any) -> tuple[MQTTServerProtocol, MemoryTransport]:
        """A server on a transport of its own, before the CONNECT."""
        protocol = MQTTServerProtocol(ServerOptions(**options), self.servers, self.clock)
        transport = MemoryTransport()
        protocol.makeConnection(transport)
        return protocol, transport

    def assert_timers(self, count: int) -> None:
        self.assertEqual(len(self.clock.getDelayedCalls()), count)


class JoinedTests(Fixture):
    """The whole of a connection's life, with the bytes whole and one at a time."""

    def life(self, chunk_bytes: int) -> None:
        wire = self.wire(chunk_bytes, client_id="gw", username="token")
        wire.pump()
        self.assertEqual(self.clients.calls, [("connected", ConnAck())])
        self.assertEqual(wire.server.connect, Connect(client_id="gw", username="token", keep_alive_seconds=60))
        subscribed = wire.client.subscribe([("a/+", 1), ("b", 0)])
        up = [wire.client.publish("up", bytes([n])) for n in range(3)]
        self.assertEqual(self.successResultOf(wire.client.publish("up", b"0", qos=0)), 0)
        self.assertNoResult(up[0])
        self.assertEqual(wire.client.inflight, 3)
        wire.pump()
        self.assertEqual(self.successResultOf(subscribed), [1, 0])
        self.assertEqual([self.successResultOf(deferred) for deferred in up], [0, 0, 0])
        self.assertEqual(wire.client.inflight, 0)
        self.assertEqual([p.payload for p in self.servers.values("publish")], [b"\0", b"\1", b"\2", b"0"])
        down = wire.server.publish("a/1", b"down", retain=True)
        unsubscribed = wire.client.unsubscribe(["a/+"])
        wire.pump()
        self.assertEqual(self.successResultOf(down), 0)
        self.assertEqual(self.successResultOf(unsubscribed), [0])
        (message,) = self.clients.values("message")
        self.assertEqual((message.topic, message.payload, message.retain), ("a/1", b"down", True))
        self.assert_timers(2)
        wire.client.disconnect()
        wire.pump()
        self.assertIsInstance(self.servers.reason(), ClientDisconnected)
        self.assertIsInstance(self.clients.reason(), ConnectionDone)
        self.assert_timers(0)

    def test_whole(self):
        """Everything that is there arrives at once."""
        self.life(0)

    def test_byte_by_byte(self):
        """Every byte arrives alone."""
        self.life(1)

    def test_interfaces(self):
        """The listeners of these tests are what the protocols ask for."""
        verifyObject(IClientListener, self.clients)
        verifyObject(IServerListener, self.servers)

    def test_refused(self):
        """The refusal reaches the client's listener, and its transport is aborted, not left open."""
        self.servers.on_connect = lambda protocol: protocol.refuse(ConnectReturnCode.NOT_AUTHORIZED)
        wire = self.wire(password=b"c4n4ry", username="c4n4ry")
        wire.pump()
        reason = self.clients.reason()
        assert isinstance(reason, ConnectionRefused)
        self.assertIsInstance(reason, RemoteProtocolError)
        self.assertEqual(reason.connack.reason_code, ConnectReturnCode.NOT_AUTHORIZED)
        self.assertTrue(wire.client_transport.aborted)
        self.assertEqual(self.clients.names(), ["disconnected"])
        self.servers.reason()
        self.assert_timers(0)
        self.assertNotIn("c4n4ry", repr(wire.client) + repr(reason) + repr(wire.server))

    def test_accepted_later(self):
        """What the client sends meanwhile is answered after the CONNACK, in order."""
        self.servers.on_connect = lambda protocol: None
        wire = self.wire()
        wire.pump()
        wire.client_transport.writes.append(encode(Publish(topic="a", payload=b"1", qos=1, packet_id=5), 4))
        wire.client_transport.writes.append(encode(Publish(topic="b", payload=b"2"), 4))
        wire.pump()
        self.assertEqual(self.servers.names(), ["connect"])
        self.clock.advance(3)
        wire.server.accept()
        self.assertEqual([p.topic for p in self.servers.values("publish")], ["a", "b"])
        self.assertEqual(wire.server_transport.taken(), CONNACK + b"\x40\x02\x00\x05")
        self.assert_timers(2)

    def test_acknowledged_later(self):
        """A server may take its time, and acknowledge in another order."""
        self.servers.on_publish = lambda protocol, publish: None
        wire = self.wire()
        wire.pump()
        first, second = wire.client.publish("a", b"1"), wire.client.publish("a", b"2")
        wire.pump()
        one, two = self.servers.values("publish")
        wire.server.acknowledge(two)
        wire.pump()
        self.assertNoResult(first)
        self.successResultOf(second)
        wire.server.acknowledge(one)
        wire.server.acknowledge(one)
        wire.pump()
        self.successResultOf(first)
        self.assertEqual(wire.client.ignored_acknowledgements, 1)

    def test_refused_subscription(self):
        """A failure code is a result, not an error."""
        wire = self.wire()
        wire.pump()
        self.servers.subscribe_received = lambda protocol, subscribe: [SUBACK_FAILURE]  # type: ignore[method-assign]  # this test's answer
        deferred = wire.client.subscribe([("#", 1)])
        wire.pump()
        self.assertEqual(self.successResultOf(deferred), [0x80])


class SilenceTests(Fixture):
    """Peers that say nothing."""

    def test_no_connack(self):
        """The client aborts; `connected` is never called, `disconnected` once."""
        protocol, transport = self.client(connack=b"", connect_timeout_seconds=20)
        self.clock.advance(19.9)
        self.assertFalse(transport.aborted)
        self.clock.advance(0.2)
        self.assertTrue(transport.aborted)
        lose(protocol, transport)
        self.assertIsInstance(self.clients.reason(), ConnectTimeout)
        self.assertEqual(self.clients.names(), ["disconnected"])
        self.assert_timers(0)

    def test_no_connect(self):
        """The server aborts."""
        protocol, transport = self.server(connect_timeout_seconds=5)
        protocol.dataReceived(b"\x10")
        self.clock.advance(5.1)
        self.assertTrue(transport.aborted)
        lose(protocol, transport)
        self.assertIsInstance(self.servers.reason(), ConnectTimeout)

    def test_dead_server(self):
        """A ping without an answer aborts the client's transport, and the publishes fail with that reason."""
        protocol, transport = self.client(keep_alive_seconds=60, ping_timeout_seconds=10)
        deferred = protocol.publish("a", b"")
        transport.taken()
        self.clock.advance(60)
        self.assertEqual(transport.taken(), b"\xc0\x00")
        self.clock.advance(9.9)
        self.assertFalse(transport.aborted)
        self.clock.advance(0.2)
        self.assertTrue(transport.aborted)
        lose(protocol, transport)
        self.assertIsInstance(self.clients.reason(), KeepAliveTimeout)
        self.failureResultOf(deferred, KeepAliveTimeout)

    def test_dead_client(self):
        """The server aborts after one and a half times the keep alive."""
        protocol, transport = self.server()
        protocol.dataReceived(encode(Connect(keep_alive_seconds=10), 4))
        self.clock.advance(14.9)
        self.assertFalse(transport.aborted)
        self.clock.advance(0.2)
        self.assertTrue(transport.aborted)
        lose(protocol, transport)
        self.assertIsInstance(self.servers.reason(), KeepAliveTimeout)

    def test_idle_pair_lives(self):
        """Two healthy ends stay together for hours on pings alone, each with one timer."""
        wire = self.wire(keep_alive_seconds=10)
        wire.pump()
        for _ in range(3000):
            self.clock.advance(1.3)
            wire.pump()
            self.assert_timers(2)
        self.assertEqual(self.clients.names(), ["connected"])
        self.assertEqual(self.servers.names(), ["connect"])

    def test_close_that_hangs(self):
        """A peer that does not let us close is dropped."""
        protocol, transport = self.client(close_timeout_seconds=5)
        protocol.disconnect()
        self.assertTrue(transport.disconnecting)
        self.assertEqual(transport.writes, [b"\xe0\x00"])
        self.clock.advance(4.9)
        self.assertFalse(transport.aborted)
        self.clock.advance(0.2)
        self.assertTrue(transport.aborted)
        lose(protocol, transport)
        self.assert_timers(0)


class EndTests(Fixture):
    """However it ends, `disconnected` is told once and every Deferred is answered."""

    def test_lost(self):
        """The transport's reason goes to the Deferreds and then to the listener."""
        protocol, transport = self.client()
        order: list[type[BaseException] | None] = []

        def told(failure: Failure) -> None:
            order.append(failure.type)
            self.assertEqual(self.clients.names(), ["connected"])

        published, subscribed = protocol.publish("a", b""), protocol.subscribe([("a", 0)])
        published.addErrback(told)
        subscribed.addErrback(told)
        lose(protocol, transport, ConnectionLost())
        self.assertEqual(order, [ConnectionLost, ConnectionLost])
        self.assertIsInstance(self.clients.reason(), ConnectionLost)
        self.assertRaises(LocalProtocolError, protocol.publish, "a", b"")
        self.assertRaises(LocalProtocolError, protocol.subscribe, [("a", 0)])
        protocol.disconnect()
        protocol.abort()
        self.assert_timers(0)

    def test_breach(self):
        """The server's breach aborts, and what came before it was told."""
        protocol, transport = self.client()
        protocol.dataReceived(encode(Publish(topic="a", payload=b"1"), 4) + b"\x00")
        self.assertTrue(transport.aborted)
        self.assertEqual(self.clients.names(), ["connected", "message"])
        protocol.dataReceived(encode(Publish(topic="a", payload=b"2"), 4))
        lose(protocol, transport)
        self.assertIsInstance(self.clients.reason(), RemoteProtocolError)
        self.assertEqual(self.clients.names(), ["connected", "message", "disconnected"])

    def test_last_words(self):
        """What came together with the client's DISCONNECT is still told."""
        protocol, transport = self.server()
        protocol.dataReceived(
            encode(Connect(), 4) + encode(Publish(topic="a", payload=b"1", qos=1, packet_id=1), 4) + b"\xe0\x00"
        )
        self.assertEqual(self.servers.names(), ["connect", "publish"])
        self.assertTrue(transport.disconnecting)
        lose(protocol, transport)
        self.assertIsInstance(self.servers.reason(), ClientDisconnected)

    def test_abort_in_listener(self):
        """After an abort no message of the same chunk is told, and none is acknowledged."""
        protocol, transport = self.client()
        self.clients.on_message = lambda protocol, publish: protocol.abort()
        raw = b"".join(encode(Publish(topic="a", payload=b"", qos=1, packet_id=n), 4) for n in (1, 2))
        protocol.dataReceived(raw)
        self.assertEqual(self.clients.names(), ["connected", "message"])
        self.assertEqual(transport.taken(), b"")
        self.assertTrue(transport.aborted)
        self.assertRaises(LocalProtocolError, protocol.publish, "a", b"")

    def test_listener_raises(self):
        """The exception is Twisted's to log; the message is not acknowledged, the one before it is."""

        def refuse_second(protocol: MQTTClientProtocol, publish: Publish) -> None:
            if publish.packet_id == 2:
                raise ZeroDivisionError

        protocol, transport = self.client()
        self.clients.on_message = refuse_second
        raw = b"".join(encode(Publish(topic="a", payload=b"", qos=1, packet_id=n), 4) for n in (1, 2, 3))
        self.assertRaises(ZeroDivisionError, protocol.dataReceived, raw)
        self.assertEqual(transport.taken(), encode(PubAck(packet_id=1), 4))

    def test_server_closes(self):
        """A 3.1.1 server closes without a word; the client sees ConnectionDone."""
        wire = self.wire()
        wire.pump()
        wire.server.close()
        wire.server.close()
        wire.pump()
        self.assertIsInstance(self.clients.reason(), ConnectionDone)
        self.servers.reason()

    def test_late_answers(self):
        """A server's listener that answers after the end does no harm."""
        self.servers.on_connect = lambda protocol: None
        protocol, transport = self.server()
        protocol.dataReceived(encode(Connect(), 4))
        lose(protocol, transport)
        protocol.accept()
        protocol.refuse(3)
        protocol.acknowledge(Publish(topic="a", payload=b"", qos=1, packet_id=1))
        self.assertEqual(transport.taken(), b"")
        self.assert_timers(0)

    def test_before_the_transport(self):
        """Ending a connection that has no transport yet does nothing; publishing raises."""
        protocol = MQTTClientProtocol(ClientOptions(), self.clients, self.clock)
        protocol.disconnect()
        protocol.abort()
        self.assertRaises(LocalProtocolError, protocol.publish, "a", b"")
        self.assertEqual(self.clients.calls, [])

    def test_cancelled(self):
        """Nobody waits for a cancelled Deferred any more, but its message stays in flight until its PUBACK."""
        protocol, _ = self.client()
        deferred = protocol.publish("a", b"")
        deferred.cancel()
        self.failureResultOf(deferred, CancelledError)
        self.assertEqual(protocol.inflight, 1)
        protocol.dataReceived(encode(PubAck(packet_id=1), 4))
        self.assertEqual(protocol.inflight, 0)


class WritingTests(Fixture):
    """When bytes reach the transport, in how many writes, and what happens when it is full."""

    def test_no_delay(self):
        """Nagle's algorithm is off."""
        self.assertTrue(self.client()[1].no_delay)

    def test_lone_publish(self):
        """It leaves at once, in one write, without a turn of the reactor."""
        protocol, transport = self.client()
        protocol.publish("a", b"x")
        self.assertEqual(transport.writes, [encode(Publish(topic="a", payload=b"x", qos=1, packet_id=1), 4)])

    def test_gathered_while_receiving(self):
        """All that one chunk leads to is one write: acknowledgements and publishes."""
        protocol, transport = self.client()
        self.clients.on_message = lambda protocol, publish: protocol.publish("echo", publish.payload)
        raw = b"".join(encode(Publish(topic="a", payload=b"x", qos=1, packet_id=n), 4) for n in range(1, 31))
        protocol.dataReceived(raw)
        self.assertEqual(len(transport.writes), 1)
        self.assertEqual(protocol.inflight, 30)

    def test_publish_on_acknowledgement(self):
        """A window that is refilled from the PUBACKs' callbacks is one write a chunk."""
        protocol, transport = self.client()

        def again(code: int) -> None:
            protocol.publish("a", b"x").addCallback(again)

        for _ in range(50):
            protocol.publish("a", b"x").addCallback(again)
        transport.taken()
        protocol.dataReceived(b"".join(encode(PubAck(packet_id=n), 4) for n in range(1, 51)))
        self.assertEqual((len(transport.writes), protocol.inflight), (1, 50))

    def test_gathered(self):
        """A burst can be one write; after a whole buffer full it does not wait for the end."""
        protocol, transport = self.client()
        with protocol.gathered():
            for _ in range(10):
                protocol.publish("a", bytes(100))
            with protocol.gathered():
                protocol.publish("a", bytes(100))
            self.assertEqual(transport.writes, [])
        self.assertEqual(len(transport.writes), 1)
        with protocol.gathered():
            for _ in range(10):
                protocol.publish("a", bytes(20000))
            self.assertEqual(len(transport.writes), 3)
        self.assertEqual(len(transport.writes), 4)

    def test_back_pressure(self):
        """While the transport is full, bytes wait here up to the limit, and go when it is empty."""
        protocol, transport = self.client(max_unsent_bytes=1000)
        self.assertIs(transport.producer, protocol)
        self.assertTrue(transport.streaming)
        self.assertFalse(protocol.paused)
        protocol.pauseProducing()
        self.assertTrue(protocol.paused)
        protocol.publish("a", bytes(400))
        protocol.publish("a", bytes(400))
        with self.assertRaises(LocalProtocolError):
            protocol.publish("a", bytes(400))
        self.assertEqual((transport.writes, protocol.inflight), ([], 2))
        self.assertGreater(protocol.unsent_bytes, 800)
        protocol.resumeProducing()
        self.assertFalse(protocol.paused)
        self.assertEqual((len(transport.writes), protocol.unsent_bytes), (1, 0))
        protocol.publish("a", bytes(400))
        self.assertEqual(len(transport.writes), 2)

    def test_disconnect_while_full(self):
        """What waits is handed over before the DISCONNECT, and the producer does not hold up the close."""
        protocol, transport = self.client()
        protocol.pauseProducing()
        deferred = protocol.publish("a", b"x")
        protocol.disconnect()
        self.assertTrue(transport.taken().endswith(b"x\xe0\x00"))
        self.assertIsNone(transport.producer)
        self.assertTrue(transport.disconnecting)
        lose(protocol, transport)
        self.failureResultOf(deferred, ConnectionDone)

    def test_one_timer(self):
        """A thousand messages leave one timer armed and do not touch it."""
        protocol, _ = self.client(keep_alive_seconds=60)
        self.clock.advance(20)  # the timer of the handshake looks again and is armed for the keep alive
        (timer,) = self.clock.getDelayedCalls()
        for number in range(1, 1001):
            self.clock.advance(0.01)
            protocol.publish("a", b"")
            protocol.dataReceived(encode(PubAck(packet_id=number), 4))
        self.assertEqual(self.clock.getDelayedCalls(), [timer])
        self.assertEqual(timer.getTime(), 1060.0)

    def test_earlier_timer(self):
        """When something is due before the armed timer, it is armed anew, and still alone."""
        protocol, _ = self.client(keep_alive_seconds=60, close_timeout_seconds=2)
        protocol.disconnect()
        (timer,) = self.clock.getDelayedCalls()
        self.assertEqual(timer.getTime(), 1002.0)


class SessionTests(Fixture):
    """Publishes whose Deferreds outlive the connection."""

    OPTIONS: dict[str, Any] = {"client_id": "c", "clean_start": False}  # noqa: RUF012 - never changed

    def lost_with(self, session: Session, count: int) -> list[Deferred[int]]:
        protocol, transport = self.client(session, **self.OPTIONS)
        deferreds = [protocol.publish("t", bytes([number])) for number in range(count)]
        lose(protocol, transport, ConnectionLost())
        for deferred in deferreds:
            self.assertNoResult(deferred)
        return deferreds

    def again(self, connack: bytes, dup: bool) -> None:
        session = Session()
        deferreds = self.lost_with(session, 3)
        protocol, transport = self.client(session, connack=b"", **self.OPTIONS)
        transport.taken()
        protocol.dataReceived(connack)
        expected = b"".join(
            encode(Publish(topic="t", payload=bytes([n]), qos=1, packet_id=n + 1, dup=dup), 4) for n in range(3)
        )
        self.assertEqual(transport.taken(), expected)
        protocol.dataReceived(b"".join(encode(PubAck(packet_id=n), 4) for n in (1, 2, 3)))
        self.assertEqual([self.successResultOf(deferred) for deferred in deferreds], [0, 0, 0])

    def test_session_present(self):
        """Sent again with DUP, and the old Deferreds fire."""
        self.again(b"\x20\x02\x01\x00", True)

    def test_no_session_present(self):
        """Sent again as new, and the old Deferreds fire."""
        self.again(b"\x20\x02\x00\x00", False)

    def test_abandoned(self):
        """Who gives up the session fails its Deferreds."""
        session = Session()
        deferreds = self.lost_with(session, 2)
        abandon_session(session, ConnectionLost())
        for deferred in deferreds:
            self.failureResultOf(deferred, ConnectionLost)

    def test_in_use(self):
        """A second connection with the session is aborted and told why; the first one is unharmed."""
        session = Session()
        first, _ = self.client(session, **self.OPTIONS)
        self.clients = ClientRecord()
        second, transport = self.client(session, connack=b"", **self.OPTIONS)
        self.assertTrue(transport.aborted)
        lose(second, transport)
        self.assertIsInstance(self.clients.reason(), LocalProtocolError)
        first.publish("a", b"")
