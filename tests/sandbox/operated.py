"""A sandbox in memory, with an operator's hand and clients on in-memory transports, of either MQTT version."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial import unittest

from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.mqtt.codec import decode, encode
from tbgw.mqtt.packets import ConnAck, Connect, Disconnect, Packet, PubAck, Publish, SubAck, Subscribe, Subscription
from tbgw.sandbox.control import Control
from tbgw.sandbox.platform import Platform, SandboxLimits
from tbgw.sandbox.server import Endpoint, EndpointFactory
from tbgw.sandbox.store import Store
from tbgw.sandbox.switches import Switches
from tbgw.sandbox.view import SandboxView

NOW_S = 1_700_000_000
NOW = NOW_S * 1000


class Client:
    """One connection, spoken packet by packet."""

    def __init__(self, test: OperatedTests, version: int = 4) -> None:
        protocol = test.factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 5))
        assert protocol is not None
        self.protocol = protocol
        self.version = version
        self.transport = StringTransport()
        self.closed = False
        self.test = test
        self._next_id = 1
        protocol.makeConnection(self.transport)

    def send(self, *packets: Packet) -> list[Any]:
        """Send these in one piece; what came back by the end of the turn."""
        self.protocol.dataReceived(b"".join(encode(packet, self.version) for packet in packets))
        self.test.clock.advance(0)
        return self.received()

    def received(self) -> list[Any]:
        """What came since the last time."""
        data = self.transport.value()
        self.transport.clear()
        packets: list[Any] = []
        position = 0
        while position < len(data):
            packet, position = decode(
                data,
                position,
                len(data),
                protocol_version=self.version,
                max_packet_bytes=1 << 25,
                allow_packet_id_zero=True,
            )
            assert packet is not None
            packets.append(packet)
        if (self.transport.disconnecting or self.transport.disconnected) and not self.closed:
            self.lose()
        return packets

    def lose(self) -> None:
        """The connection is gone."""
        self.closed = True
        self.protocol.connectionLost(Failure(ConnectionDone()))
        self.test.clock.advance(0)

    def publish(self, topic: str, payload: Any, qos: int = 1) -> list[Any]:
        """A PUBLISH; texts and bytes as they are, all else as JSON."""
        if not isinstance(payload, bytes):
            payload = payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()
        self._next_id += 1
        return self.send(Publish(topic=topic, payload=payload, qos=qos, packet_id=self._next_id if qos else None))

    def code(self, topic: str, payload: Any) -> int:
        """The reason code of the PUBACK, which must be all that came."""
        (ack,) = self.publish(topic, payload)
        assert isinstance(ack, PubAck), ack
        return ack.reason_code

    def subscribe(self, *filters: str, qos: int = 1) -> list[Any]:
        """SUBSCRIBE; what came after the SUBACK."""
        self._next_id += 1
        wanted = tuple([Subscription(topic_filter=topic_filter, qos=qos) for topic_filter in filters])
        ack, *rest = self.send(Subscribe(packet_id=self._next_id, filters=wanted))
        assert isinstance(ack, SubAck), ack
        self.granted = list(ack.reason_codes)
        return rest

    def pushed(self, packets: list[Any] | None = None, acknowledge: bool = True) -> list[tuple[str, Any]]:
        """(topic, JSON) of the PUBLISH packets among these, or that came since the last time."""
        taken = []
        for packet in self.received() if packets is None else packets:
            if isinstance(packet, Publish):
                taken.append((packet.topic, json.loads(packet.payload)))
                if packet.qos and acknowledge and not self.closed:
                    self.protocol.dataReceived(encode(PubAck(packet_id=packet.packet_id or 0), self.version))
        self.test.clock.advance(0)
        return taken


class OperatedTests(unittest.SynchronousTestCase):
    """A sandbox with one gateway and one plain device, known by their tokens; nothing connected."""

    limits = SandboxLimits()

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW_S)
        self.counters = Counters()
        self.switches = Switches()
        self.view = SandboxView()
        self.told: list[tuple[str, str]] = []
        self.endpoint = Endpoint(
            self.clock,
            Events(self.counters, self.clock.seconds),
            self.now_ms,
            self.switches,
            self.view,
            self.limits.max_connections,
            lambda error: None,
        )
        self.factory = EndpointFactory(self.endpoint)
        self.store = Store(None, 1000, 1 << 30)
        self.addCleanup(self.store.close)
        self.open()
        self.platform.add_credentials("gateway-token", "Gateway", gateway=True)
        self.platform.add_credentials("device-token", "Plain")
        self.control = Control(
            lambda: self.platform,
            self.endpoint,
            self.switches,
            self.now_ms,
            lambda device, credentials: self.told.append((device.name, credentials.kind)),
        )

    def open(self) -> None:
        """The platform as the store holds it, as at a start."""
        self.platform = Platform(self.limits, self.store.load(), lambda: int(self.clock.seconds() * 1000))
        self.view.show(self.platform, self.store)
        self.endpoint.open(self.platform, self.store)
        self.clock.advance(0)

    def now_ms(self) -> int:
        """The wall clock."""
        return int(self.clock.seconds() * 1000)

    def connect(self, username: str | None = "gateway-token", version: int = 5, **fields: Any) -> Client:
        """A connection that was let in."""
        client = Client(self, version)
        packet = Connect(username=username, client_id=fields.pop("client_id", "c"), protocol_version=version, **fields)
        self.assertEqual(client.send(packet), [ConnAck()])
        return client

    def refused(self, version: int = 5, **fields: Any) -> int:
        """The code with which a CONNECT is refused."""
        client = Client(self, version)
        connack, *_ = client.send(Connect(client_id=fields.pop("client_id", "c"), protocol_version=version, **fields))
        assert isinstance(connack, ConnAck)
        self.assertTrue(client.closed)
        return connack.reason_code

    def ended(self, client: Client, code: int) -> None:
        """The connection was ended by the server with this code."""
        packets = client.received()
        self.assertTrue(client.closed)
        self.assertEqual(packets, [Disconnect(reason_code=code)] if client.version >= 5 else [])

    def shown(self, name: str) -> dict[str, Any]:
        """The device as the page shows it."""
        return next(device for device in self.view.devices() if device["name"] == name)

    def latest(self, name: str) -> dict[str, Any]:
        """Its latest telemetry."""
        return {key: entry["value"] for key, entry in self.shown(name)["telemetry"].items()}
