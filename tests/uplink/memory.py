"""An MQTT server in memory for tests of the uplink's room: it does what the test says."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.error import ConnectionRefusedError as TCPRefused
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.mqtt import packets
from tbgw.mqtt.codec import decode, encode


class Server:
    """One connection as the server sees it, in the version of its CONNECT."""

    def __init__(self, protocol: Any) -> None:
        self.version = 4
        self.transport = StringTransportWithDisconnection()
        self.transport.protocol = protocol
        self.protocol = protocol
        protocol.makeConnection(self.transport)
        (self.connect,) = self.received()
        self.version = self.connect.protocol_version

    def received(self) -> list[Any]:
        """The packets that came since the last call."""
        data = self.transport.value()
        self.transport.clear()
        found = []
        while data:
            packet, end = decode(data, 0, len(data), protocol_version=self.version, max_packet_bytes=1 << 20)
            assert packet is not None, "the client writes whole packets"
            found.append(packet)
            data = data[end:]
        return found

    def send(self, packet: Any) -> None:
        self.protocol.dataReceived(encode(packet, self.version))

    def lose(self) -> None:
        """The connection ends, if it has not ended before."""
        if self.transport.connected:
            self.transport.connected = False
            self.protocol.connectionLost(Failure(ConnectionDone()))

    def accept(self, code: int = 0) -> None:
        """CONNACK."""
        self.send(packets.ConnAck(session_present=False, reason_code=code))

    def published(self) -> list[packets.Publish]:
        """The PUBLISHes since the last call; each is acknowledged, and so is every SUBSCRIBE."""
        found = []
        for packet in self.received():
            if isinstance(packet, packets.Subscribe):
                codes = tuple([1] * len(packet.filters))
                self.send(packets.SubAck(packet_id=packet.packet_id, reason_codes=codes))
            elif isinstance(packet, packets.Publish):
                found.append(packet)
                self.send(packets.PubAck(packet_id=packet.packet_id or 0))
        return found

    @property
    def closed(self) -> bool:
        return self.transport.disconnecting or not self.transport.connected


@implementer(IStreamClientEndpoint)
class Endpoint:
    """Every dialling makes a `Server`, or fails while `refusing`."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.refusing = False

    def connect(self, factory: Any) -> Deferred[Any]:
        if self.refusing:
            return fail(TCPRefused())
        protocol = factory.buildProtocol(None)
        self.servers.append(Server(protocol))
        return succeed(protocol)
