"""Both roles of MQTT 5 joined in memory: the adapter passes on what the core can."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone

from tbgw.mqtt import (
    ClientDisconnected,
    ClientOptions,
    ConnectionRefused,
    LocalProtocolError,
    MQTTClientProtocol,
    MQTTServerProtocol,
    PropertyId,
    ServerDisconnected,
    ServerOptions,
    Session,
    Subscription,
    abandon_session,
)
from tests.mqtt.memory import ClientRecord, ServerRecord, Wire
from tests.mqtt.test_protocol import Fixture


class JoinedTests(Fixture):
    """The whole of a connection's life."""

    def life(self, chunk_bytes: int) -> None:
        self.servers.on_connect = lambda protocol: protocol.accept(
            properties={PropertyId.ASSIGNED_CLIENT_IDENTIFIER: "given", PropertyId.RESPONSE_INFORMATION: "r/"}
        )
        self.servers.on_publish = lambda protocol, publish: protocol.acknowledge(
            publish, 0x10 if publish.payload == b"1" else 0, {PropertyId.REASON_STRING: "why"}
        )
        options = ServerOptions(topic_alias_maximum=1, receive_maximum=3)
        wire = self.wire(chunk_bytes, options, protocol_version=5, max_outgoing_topic_aliases=3)
        wire.pump()
        client, server = wire.client, wire.server
        self.assertEqual((client.client_id, client.window, server.protocol_version), ("given", 3, 5))
        self.assertEqual(client.peer_limits.topic_alias_maximum, 1)
        subscribed = client.subscribe(
            [Subscription(topic_filter="a/#", qos=1, no_local=True), ("b", 0)],
            properties={PropertyId.SUBSCRIPTION_IDENTIFIER: 9},
        )
        sent = {PropertyId.CONTENT_TYPE: "t"}
        up = [client.publish("up", b"%d" % qos, qos=qos, properties=sent) for qos in (0, 1, 2)]
        wire.pump()
        self.assertEqual(self.successResultOf(subscribed), [1, 0])
        self.assertEqual([self.successResultOf(each) for each in up], [0, 0x10, 0])
        self.assertEqual([(p.topic, p.properties) for p in self.servers.values("publish")], [("up", sent)] * 3)
        (subscribe,) = self.servers.values("subscribe")
        self.assertEqual(subscribe.properties, {PropertyId.SUBSCRIPTION_IDENTIFIER: 9})
        down = [
            server.publish("a/1", b"", qos=qos, properties={PropertyId.SUBSCRIPTION_IDENTIFIER: (9,)}) for qos in (1, 2)
        ]
        unsubscribed = client.unsubscribe(["a/#"])
        wire.pump()
        self.assertEqual([self.successResultOf(each) for each in down], [0, 0])
        self.assertEqual(self.successResultOf(unsubscribed), [0])
        self.assertEqual([message.qos for message in self.clients.values("message")], [1, 2])
        self.assertEqual((client.inflight, server.inflight), (0, 0))
        client.disconnect(4)
        wire.pump()
        reason = self.servers.reason()
        assert isinstance(reason, ClientDisconnected)
        self.assertEqual(reason.reason_code, 4)
        self.assertIsInstance(self.clients.reason(), ConnectionDone)
        self.assert_timers(0)

    def test_whole(self):
        """Everything that is there arrives at once."""
        self.life(0)

    def test_byte_by_byte(self):
        """Every byte arrives alone."""
        self.life(1)

    def test_server_closes(self):
        """With a code and properties; illegal ones change nothing."""
        wire = self.wire(protocol_version=5)
        wire.pump()
        self.assertRaises(LocalProtocolError, wire.server.close, 0x8B, {PropertyId.TOPIC_ALIAS: 1})
        wire.server.close(0x9D, {PropertyId.SERVER_REFERENCE: "there"})
        wire.pump()
        reason = self.clients.reason()
        assert isinstance(reason, ServerDisconnected)
        self.assertEqual(reason.packet.properties, {PropertyId.SERVER_REFERENCE: "there"})

    def test_refused(self):
        """With a code of MQTT 5 and why."""
        self.servers.on_connect = lambda protocol: protocol.refuse(0x86, {PropertyId.REASON_STRING: "no"})
        self.wire(protocol_version=5).pump()
        reason = self.clients.reason()
        assert isinstance(reason, ConnectionRefused)
        self.assertEqual(reason.connack.reason_code, 0x86)
        self.assertEqual(reason.connack.properties, {PropertyId.REASON_STRING: "no"})


class SessionTests(Fixture):
    """Deferreds of both sides outlive the connection with the session."""

    def meet(self, client_session: Session, server_session: Session, present: bool) -> Wire:
        self.clients, self.servers = ClientRecord(), ServerRecord()
        self.servers.on_connect = lambda protocol: protocol.accept(present, session=server_session)
        options = ClientOptions(client_id="c", clean_start=False, protocol_version=5)
        return Wire(
            MQTTClientProtocol(options, self.clients, self.clock, client_session),
            MQTTServerProtocol(ServerOptions(), self.servers, self.clock),
        )

    def test_kept(self):
        """What was under way on both sides is finished by the next connection, QoS 2 once."""
        sessions = Session(), Session()
        wire = self.meet(*sessions, present=False)
        wire.pump()
        waiting: list[Any] = [end.publish("t", b"x", qos=qos) for end in (wire.client, wire.server) for qos in (1, 2)]
        wire.client.abort()
        wire.client_transport.writes.clear()
        wire.server_transport.writes.clear()
        wire.pump()
        for each in waiting:
            self.assertNoResult(each)
        wire = self.meet(*sessions, present=True)
        wire.pump()
        self.assertEqual([self.successResultOf(each) for each in waiting], [0] * 4)
        self.assertEqual([publish.qos for publish in self.servers.values("publish")], [1, 2])
        self.assertEqual([publish.qos for publish in self.clients.values("message")], [1, 2])

    def test_publish_after_a_large_resumption(self):
        """What is sent again may be more than may be unsent; a publish in the same breath still has room."""
        sessions = Session(), Session()
        wire = self.meet(*sessions, present=False)
        wire.pump()
        waiting = [wire.server.publish("t", bytes(60_000)) for _ in range(50)]
        wire.server_transport.writes.clear()
        wire.client.abort()
        wire.pump()
        self.clients, self.servers = ClientRecord(), ServerRecord()

        def accept(protocol: MQTTServerProtocol) -> None:
            protocol.accept(True, session=sessions[1])
            waiting.append(protocol.publish("t", b"new"))

        self.servers.on_connect = accept
        server = MQTTServerProtocol(ServerOptions(max_unsent_bytes=1_000_000), self.servers, self.clock)
        options = ClientOptions(client_id="c", clean_start=False, protocol_version=5)
        Wire(MQTTClientProtocol(options, self.clients, self.clock, sessions[0]), server).pump()
        self.assertEqual([self.successResultOf(each) for each in waiting], [0] * 51)
        self.assertEqual(len(self.clients.values("message")), 51)

    def test_taken_at_once(self):
        """A session is free as soon as its connection was ended here, before the transport is gone."""
        sessions = Session(), Session()
        first = self.meet(*sessions, present=False)
        first.pump()
        first.server.close(0x8E)
        first.client.disconnect()
        self.meet(*sessions, present=True).pump()
        self.assertEqual(self.clients.names(), ["connected"])

    def test_abandoned(self):
        """Giving a session up fails what waits in it."""
        sessions = Session(), Session()
        wire = self.meet(*sessions, present=False)
        wire.pump()
        published = wire.server.publish("t", b"", qos=2)
        wire.server.abort()
        wire.pump()
        abandon_session(sessions[1], ValueError("over"))
        self.failureResultOf(published, ValueError)
