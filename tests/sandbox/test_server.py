"""The sandbox's MQTT endpoint, byte by byte over in-memory transports."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial import unittest

from tbgw.errors import StoreError
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.mqtt.codec import decode, encode
from tbgw.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    Publish,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
)
from tbgw.sandbox.platform import Platform, SandboxLimits
from tbgw.sandbox.server import Endpoint, EndpointFactory
from tbgw.sandbox.store import Store
from tbgw.sandbox.switches import Switches
from tbgw.sandbox.view import SandboxView

TELEMETRY = "v1/devices/me/telemetry"
NOW_S = 1_700_000_000
GATEWAY = "gateway-token"


class Client:
    """The other end of one connection: packets in, packets out."""

    def __init__(self, test: ServerTests) -> None:
        protocol = test.factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 5))
        assert protocol is not None
        self.protocol = protocol
        self.transport = StringTransport()
        self.closed = False
        self.test = test
        protocol.makeConnection(self.transport)

    def send(self, *packets: Packet, turn: bool = True) -> list[Packet]:
        """Send these in one piece and answer what came back, by the end of the reactor's turn."""
        self.protocol.dataReceived(b"".join(encode(packet, 4) for packet in packets))
        if turn:
            self.test.clock.advance(0)
        return self.received()

    def received(self) -> list[Packet]:
        """What came since the last time."""
        data = self.transport.value()
        self.transport.clear()
        packets: list[Packet] = []
        position = 0
        while position < len(data):
            packet, position = decode(
                data, position, len(data), protocol_version=4, max_packet_bytes=1 << 20, allow_packet_id_zero=True
            )
            assert packet is not None
            packets.append(packet)
        if self.transport.disconnecting and not self.closed:
            self.closed = True
            self.lose()
        return packets

    def lose(self) -> None:
        """The connection is gone."""
        from twisted.internet.error import ConnectionDone
        from twisted.python.failure import Failure

        self.closed = True
        self.protocol.connectionLost(Failure(ConnectionDone()))

    def publish(self, topic: str, payload: Any, packet_id: int = 1, turn: bool = True) -> list[Packet]:
        """A QoS 1 PUBLISH."""
        return self.send(message(topic, payload, packet_id), turn=turn)


def message(topic: str, payload: Any, packet_id: int = 1) -> Publish:
    """A QoS 1 PUBLISH."""
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return Publish(topic=topic, payload=text.encode(), qos=1, packet_id=packet_id)


class FlakyStore(Store):
    """A store that can be told to fail, and counts its commits."""

    broken = False
    writes = 0

    def write(self, changes):
        self.writes += 1
        if self.broken:
            raise StoreError("the disk is gone")
        super().write(changes)


class ServerTests(unittest.SynchronousTestCase):
    """An endpoint with one gateway and one plain device."""

    limits = SandboxLimits(max_connections=3, max_devices=5, child_inactivity_ms=600_000)

    def setUp(self):
        self.clock = Clock()
        self.clock.advance(NOW_S)
        self.counters = Counters()
        self.switches = Switches()
        self.view = SandboxView()
        self.failures: list[StoreError] = []
        self.endpoint = Endpoint(
            self.clock,
            Events(self.counters, self.clock.seconds),
            lambda: int(self.clock.seconds() * 1000),
            self.switches,
            self.view,
            self.limits.max_connections,
            self.failures.append,
        )
        self.factory = EndpointFactory(self.endpoint)
        self.open_platform()

    def open_platform(self):
        self.store = FlakyStore(None, 1000, 1 << 30)
        self.addCleanup(self.store.close)
        self.platform = Platform(self.limits)
        self.platform.add_credentials("gateway-token", "Gateway", gateway=True)
        self.platform.add_credentials("device-token", "Plain")
        self.view.show(self.platform, self.store)
        self.endpoint.open(self.platform, self.store)
        self.clock.advance(0)

    def connect(self, username: str = GATEWAY, **fields) -> Client:
        client = Client(self)
        self.assertEqual(
            client.send(Connect(username=username, client_id=fields.pop("client_id", "c"), **fields)), [ConnAck()]
        )
        return client

    def stored(self, device, key):
        """What is in the database, not merely in memory."""
        return self.view.history(device, key, 0)


class ConnectTests(ServerTests):
    """CONNECT, its refusals, and who replaces whom."""

    def test_refusals(self):
        """Wrong credentials are refused with 5 or 2 and the connection closed."""
        for fields, code in (
            ({"username": "wrong", "client_id": "c"}, 5),
            ({"username": "wrong", "password": b"p", "client_id": "c"}, 5),
            ({"client_id": "unknownClientId"}, 2),
            ({"client_id": ""}, 5),
        ):
            client = Client(self)
            self.assertEqual(client.send(Connect(**fields)), [ConnAck(reason_code=code)])
            self.assertTrue(client.closed)
        self.assertEqual(self.counters.get("sandbox_clients_refused", "credentials"), 4)

    def test_switch_refuse(self):
        """Told to, the endpoint refuses the right token as well."""
        self.switches.refuse_credentials = True
        self.assertEqual(Client(self).send(Connect(username="gateway-token")), [ConnAck(reason_code=5)])

    def test_session_present(self):
        """As the real server says: present whenever the client does not want a clean session; or never."""
        kept = Connect(username="device-token", client_id="c", clean_start=False)
        self.assertEqual(Client(self).send(kept), [ConnAck(session_present=True)])
        self.switches.session_present = False
        self.assertEqual(Client(self).send(kept), [ConnAck()])

    def test_newer_replaces_older(self):
        """A second connection with the same token closes the first, whose messages are acknowledged before."""
        first = self.connect()
        first.publish(TELEMETRY, {"a": 1}, turn=False)
        second = self.connect()
        self.assertEqual(first.received(), [PubAck(packet_id=1)])
        self.assertTrue(first.closed)
        self.assertEqual(second.publish(TELEMETRY, {"a": 2}, 9), [PubAck(packet_id=9)])
        self.assertTrue(self.view.devices()[0]["connected"])

    def test_too_many(self):
        """Beyond the cap connections are not taken, and a place that gets free is."""
        clients = [Client(self) for _ in range(3)]
        self.assertIsNone(self.factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 6)))
        clients[0].lose()
        self.assertIsNotNone(self.factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 7)))

    def test_ping(self):
        """PINGREQ is answered."""
        self.assertEqual(self.connect().send(PingReq()), [PingResp()])

    def test_pipelined(self):
        """CONNECT, SUBSCRIBE and PUBLISH in one piece are answered in order."""
        packets = Client(self).send(
            Connect(username="gateway-token", client_id="c"),
            Subscribe(packet_id=1, filters=(Subscription(topic_filter="v1/gateway/rpc", qos=1),)),
            message(TELEMETRY, {"a": 1}, 2),
        )
        self.assertEqual(packets, [ConnAck(), SubAck(packet_id=1, reason_codes=(1,)), PubAck(packet_id=2)])


class PublishTests(ServerTests):
    """PUBLISH: stored, then acknowledged, or what else 3.1.1 has to say."""

    def test_stored_before_acknowledged(self):
        """Nothing is acknowledged before the end of the turn, and then it is in the database."""
        client = self.connect()
        self.assertEqual(client.publish(TELEMETRY, {"a": 1}, 7, turn=False), [])
        self.assertEqual(self.stored("Gateway", "a"), [])
        self.clock.advance(0)
        self.assertEqual(client.received(), [PubAck(packet_id=7)])
        self.assertEqual(self.stored("Gateway", "a"), [(NOW_S * 1000, 1)])

    def test_one_commit_for_a_turn(self):
        """All messages of one turn, of all connections, share one commit and are acknowledged in order."""
        gateway, plain = self.connect(), self.connect("device-token")
        before = self.store.writes
        gateway.send(*[message(TELEMETRY, {"a": n}, n) for n in range(1, 51)], turn=False)
        plain.send(*[message(TELEMETRY, {"a": n}, n) for n in range(1, 51)], turn=False)
        self.clock.advance(0)
        self.assertEqual(self.store.writes, before + 1)
        for client in (gateway, plain):
            self.assertEqual(client.received(), [PubAck(packet_id=n) for n in range(1, 51)])

    def test_turn_is_bounded(self):
        """Very many messages in one turn are committed on the way."""
        client = self.connect()
        sent = [message(TELEMETRY, {"a": n}, n) for n in range(1, 1201)]
        self.assertEqual(len(client.send(*sent, turn=False)), 1000)
        self.clock.advance(0)
        self.assertEqual(len(client.received()), 200)

    def test_quality_0(self):
        """QoS 0 is stored and not acknowledged."""
        client = self.connect()
        self.assertEqual(client.send(Publish(topic=TELEMETRY, payload=b'{"a":1}')), [])
        self.assertEqual(self.stored("Gateway", "a"), [(NOW_S * 1000, 1)])

    def test_bad_payload_closes(self):
        """A bad payload closes; what came before it is acknowledged, what comes after is not looked at."""
        client = self.connect()
        packets = client.send(
            message(TELEMETRY, {"a": 1}, 1), message(TELEMETRY, "nonsense", 2), message(TELEMETRY, {"a": 3}, 3)
        )
        self.assertEqual(packets, [PubAck(packet_id=1)])
        self.assertTrue(client.closed)
        self.assertEqual(self.stored("Gateway", "a"), [(NOW_S * 1000, 1)])
        self.assertEqual(self.counters.get("sandbox_publishes_refused", "bad_payload"), 1)

    def test_profile_flag(self):
        """With "PUBACK on validation exception" it is acknowledged and the connection stays."""
        self.switches.acknowledge_bad_payloads = True
        client = self.connect()
        self.assertEqual(client.publish(TELEMETRY, "nonsense", 2), [PubAck(packet_id=2)])
        self.assertFalse(client.closed)

    def test_fault_closes(self):
        """A `ts` that is null closes without PUBACK."""
        client = self.connect()
        self.assertEqual(client.publish(TELEMETRY, '{"ts":null,"values":{"a":1}}'), [])
        self.assertTrue(client.closed)

    def test_gateway_fault(self):
        """A gateway message with nothing usable is acknowledged, then the connection closed."""
        client = self.connect()
        self.assertEqual(client.publish("v1/gateway/telemetry", {}, 3), [PubAck(packet_id=3)])
        self.assertTrue(client.closed)

    def test_gateway_bad_element(self):
        """One bad element closes without PUBACK, the others are stored."""
        client = self.connect()
        self.assertEqual(client.publish("v1/gateway/telemetry", '{"A":[{"a":1}],"B":[5]}', 3), [])
        self.assertTrue(client.closed)
        self.assertEqual(self.stored("A", "a"), [(NOW_S * 1000, 1)])

    def test_unknown_topic(self):
        """An unknown topic is acknowledged, and the connection stays."""
        client = self.connect()
        self.assertEqual(client.publish("wrong/topic/", {}, 4), [PubAck(packet_id=4)])
        self.assertFalse(client.closed)

    def test_not_a_gateway(self):
        """A plain device gets no answer on a gateway topic, and stays."""
        client = self.connect("device-token")
        self.assertEqual(client.publish("v1/gateway/telemetry", {"A": [{"a": 1}]}), [])
        self.assertFalse(client.closed)

    def test_device_limit(self):
        """Too many devices look accepted on 3.1.1."""
        client = self.connect()
        for name in "ABCD":
            self.assertEqual(client.publish("v1/gateway/connect", {"device": name}), [PubAck(packet_id=1)])
        self.assertEqual(self.counters.get("sandbox_publishes_refused", "quota"), 1)

    def test_session_limits(self):
        """getSessionLimits: PUBACK, then the answer."""
        client = self.connect()
        ack, answer = client.publish("v1/devices/me/rpc/request/9", {"method": "getSessionLimits", "params": {}}, 5)
        self.assertEqual(ack, PubAck(packet_id=5))
        assert isinstance(answer, Publish)
        self.assertEqual((answer.topic, answer.qos), ("v1/devices/me/rpc/response/9", 1))
        self.assertEqual(json.loads(answer.payload)["maxInflightMessages"], 100)

    def test_answers_to_a_client_that_never_acknowledges(self):
        """Answers that no longer fit the window are lost and counted; the session goes on."""
        client = self.connect()
        request = {"method": "getSessionLimits", "params": {}}
        for number in range(1003):
            packets = client.publish(f"v1/devices/me/rpc/request/{number}", request, number + 1)
            self.assertEqual(packets[0], PubAck(packet_id=number + 1))
        self.assertEqual(self.counters.get("sandbox_replies_lost"), 3)
        client.lose()  # the Deferreds of the others fail here, and nobody minds

    def test_subscriptions(self):
        """One code for each filter: granted QoS, or 0x80."""
        client = self.connect()
        packets = client.send(
            Subscribe(
                packet_id=8,
                filters=(
                    Subscription(topic_filter="v1/devices/me/attributes", qos=0),
                    Subscription(topic_filter="v1/devices/me/#", qos=1),
                    Subscription(topic_filter="v1/gateway/rpc", qos=2),
                ),
            ),
            Unsubscribe(packet_id=9, filters=("v1/gateway/rpc", "never/was")),
        )
        self.assertEqual(packets, [SubAck(packet_id=8, reason_codes=(0, 0x80, 1)), UnsubAck(packet_id=9)])

    def test_every_byte_on_its_own(self):
        """However the bytes are cut, the answers are the same."""
        client = Client(self)
        data = encode(Connect(username="gateway-token", client_id="c"), 4) + b"".join(
            encode(message(TELEMETRY, {"a": n}, n), 4) for n in (1, 2)
        )
        for byte in data:
            client.protocol.dataReceived(bytes([byte]))
        self.clock.advance(0)
        self.assertEqual(client.received(), [ConnAck(), PubAck(packet_id=1), PubAck(packet_id=2)])

    def test_disconnect_right_after(self):
        """A message before DISCONNECT counts, although nobody is there to hear of it."""
        client = self.connect()
        client.send(message(TELEMETRY, {"a": 1}), Disconnect())
        self.assertEqual(self.stored("Gateway", "a"), [(NOW_S * 1000, 1)])
        self.assertFalse(self.view.devices()[0]["connected"])

    def test_hook(self):
        """`on_publish` sees every message in order, also those that are refused."""
        seen = []
        self.endpoint.on_publish = lambda *args: seen.append(args)
        self.connect().send(message(TELEMETRY, {"a": 1}, 1), message("x", "y", 2))
        self.assertEqual(seen, [("Gateway", TELEMETRY, b'{"a": 1}'), ("Gateway", "x", b"y")])


class SwitchTests(ServerTests):
    """The nasty parts, on request."""

    def test_withheld(self):
        """Messages are stored and not acknowledged, until told otherwise."""
        self.switches.withhold_pubacks = True
        client = self.connect()
        self.assertEqual(client.publish(TELEMETRY, {"a": 1}), [])
        self.assertEqual(len(self.stored("Gateway", "a")), 1)
        self.switches.withhold_pubacks = False
        self.assertEqual(client.publish(TELEMETRY, {"a": 1}, 2), [PubAck(packet_id=2)])

    def test_close_instead(self):
        """The message is stored and the connection cut where the PUBACK would be."""
        self.switches.close_instead_of_puback = True
        client = self.connect()
        self.assertEqual(client.publish(TELEMETRY, {"a": 1}), [])
        self.assertTrue(client.closed)
        self.assertEqual(len(self.stored("Gateway", "a")), 1)

    def test_one_each(self):
        """One PUBACK for each device, all with the same id."""
        self.switches.puback_per_device = True
        payload = {"A": [{"a": 1}], "B": [{"a": 1}], "Plain": [{"a": 1}]}
        self.assertEqual(self.connect().publish("v1/gateway/telemetry", payload, 6), [PubAck(packet_id=6)] * 3)


class ViewTests(ServerTests):
    """What those who look on are told."""

    def test_observers(self):
        """Observers hear of a device once for a turn, after the commit, and of connections too."""
        told: list[tuple[str, int]] = []

        def changed(name):
            told.append((name, len(self.stored(name, "a"))))

        self.view.add_observer(changed)
        client = self.connect()
        self.assertEqual(told, [("Gateway", 0)])
        del told[:]
        for n in (1, 2, 3):
            client.publish("v1/gateway/telemetry", {"A": [{"ts": n, "values": {"a": n}}]}, n, turn=False)
        self.clock.advance(0)
        self.assertEqual(told, [("A", 3)])
        del told[:]
        client.lose()
        self.clock.advance(0)
        self.assertEqual(sorted(told), [("A", 3), ("Gateway", 0)])
        self.view.remove_observer(changed)
        self.connect()
        self.assertEqual(len(told), 2)

    def test_children_expire(self):
        """A child that is silent for ten minutes is shown as gone."""
        client = self.connect(keep_alive_seconds=0)
        client.publish("v1/gateway/connect", {"device": "A"})
        self.clock.pump([60] * 9)
        client.publish("v1/gateway/telemetry", {"A": [{"a": 1}], "B": [{"a": 1}]})
        self.clock.pump([60] * 2)
        self.assertEqual([d["connected"] for d in self.view.devices()], [True, False, True, True])
        self.clock.pump([60] * 8)
        self.assertEqual([d["connected"] for d in self.view.devices()], [True, False, False, False])

    def test_history_of_unknown(self):
        """Nothing is known of what never was."""
        self.assertEqual(self.view.history("nobody", "a", 0), [])
        self.assertEqual(self.view.history("Gateway", "a", 0), [])


class FaultTests(ServerTests):
    """The store fails."""

    def test_store_fails(self):
        """Nothing is acknowledged, all connections are cut, and clients are refused as long as it lasts."""
        gateway, plain = self.connect(), self.connect("device-token")
        self.store.broken = True
        self.assertEqual(gateway.publish(TELEMETRY, {"a": 1}), [])
        plain.received()
        self.assertTrue(gateway.closed and plain.closed)
        self.assertEqual(len(self.failures), 1)
        self.assertEqual(Client(self).send(Connect(username="gateway-token")), [ConnAck(reason_code=3)])
        self.open_platform()
        self.assertEqual(self.connect().publish(TELEMETRY, {"a": 1}), [PubAck(packet_id=1)])
        self.assertEqual(len(self.failures), 1)

    def test_close(self):
        """Closing stores and acknowledges what waits, and is over when all connections are gone."""
        client = self.connect()
        client.publish(TELEMETRY, {"a": 1}, turn=False)
        closed = self.endpoint.close()
        self.assertNoResult(closed)
        self.assertEqual(client.received(), [PubAck(packet_id=1)])
        self.successResultOf(closed)
        self.assertEqual(len(self.stored("Gateway", "a")), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
