"""A transport in memory, a pump between two of them, and listeners that write down what they are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IConsumer, ITCPTransport
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.mqtt.interfaces import IClientListener, IServerListener
from tbgw.mqtt.packets import ConnAck, Connect, Publish, Subscribe, Unsubscribe
from tbgw.mqtt.protocol import MQTTClientProtocol, MQTTServerProtocol


@implementer(ITCPTransport, IConsumer)
class MemoryTransport(StringTransport):
    """Keeps each write apart and remembers how it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.carried: bytearray | None = None
        """All that was ever taken, for a test that wants it kept."""
        self.aborted = False
        self.no_delay = False
        self.lost = False

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        assert data, "an empty write"
        if not (self.disconnecting or self.aborted):
            self.writes.append(data)

    def taken(self) -> bytes:
        """Everything written since the last call."""
        data = b"".join(self.writes)
        self.writes.clear()
        if self.carried is not None:
            self.carried += data
        return data

    def loseConnection(self) -> None:
        # As the TLS transport does: a registered producer holds up the close.
        assert self.producer is None, "loseConnection with a registered producer hangs over TLS"
        self.disconnecting = True

    def abortConnection(self) -> None:
        self.aborted = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Not used."""

    def getTcpNoDelay(self) -> bool:
        return self.no_delay

    def getTcpKeepAlive(self) -> bool:
        return False

    def loseWriteConnection(self) -> None:
        """Not used."""


def lose(protocol: Any, transport: MemoryTransport, reason: Exception | None = None) -> None:
    """The transport is gone, as Twisted tells it: once."""
    if not transport.lost:
        transport.lost = True
        if reason is None:
            reason = ConnectionAborted() if transport.aborted else ConnectionDone()
        protocol.connectionLost(Failure(reason))


class Wire:
    """Two protocols joined; `chunk_bytes` is how much arrives at a time (0: all there is)."""

    def __init__(self, client: MQTTClientProtocol, server: MQTTServerProtocol, chunk_bytes: int = 0) -> None:
        self.client = client
        self.server = server
        self.client_transport = MemoryTransport()
        self.server_transport = MemoryTransport()
        self._chunk_bytes = chunk_bytes
        server.makeConnection(self.server_transport)
        client.makeConnection(self.client_transport)

    def pump(self) -> None:
        """Carry bytes and closings until nothing moves."""
        ends = (
            (self.client, self.client_transport, self.server, self.server_transport),
            (self.server, self.server_transport, self.client, self.client_transport),
        )
        moved = True
        while moved:
            moved = False
            for sender, sending, receiver, receiving in ends:
                data = sending.taken()
                size = self._chunk_bytes or len(data) or 1
                for start in range(0, len(data), size):
                    if not (receiving.lost or receiving.aborted):
                        moved = True
                        receiver.dataReceived(data[start : start + size])
                if (sending.disconnecting or sending.aborted) and not sending.writes and not sending.lost:
                    moved = True
                    lose(sender, sending)
                    lose(receiver, receiving)


class Record:
    """The calls that a listener got."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def names(self) -> list[str]:
        """The names of the calls."""
        return [name for name, _ in self.calls]

    def values(self, name: str) -> list[Any]:
        """What came with the calls of this name."""
        return [value for called, value in self.calls if called == name]

    def reason(self) -> Exception:
        """What `disconnected`, the last call, was told."""
        name, reason = self.calls[-1]
        assert name == "disconnected", self.calls
        assert self.names().count("disconnected") == 1
        assert isinstance(reason, Exception)
        return reason


@implementer(IClientListener)
class ClientRecord(Record):
    """An IClientListener that writes down its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.on_connected: Callable[[MQTTClientProtocol], object] | None = None
        self.on_message: Callable[[MQTTClientProtocol, Publish], object] | None = None
        self.on_disconnected: Callable[[], object] = lambda: None

    def connected(self, protocol: MQTTClientProtocol, connack: ConnAck) -> None:
        self.calls.append(("connected", connack))
        if self.on_connected is not None:
            self.on_connected(protocol)

    def message_received(self, protocol: MQTTClientProtocol, publish: Publish) -> None:
        self.calls.append(("message", publish))
        if self.on_message is not None:
            self.on_message(protocol, publish)

    def disconnected(self, protocol: MQTTClientProtocol, reason: Exception) -> None:
        self.calls.append(("disconnected", reason))
        self.on_disconnected()


@implementer(IServerListener)
class ServerRecord(Record):
    """An IServerListener that lets everybody in, acknowledges and grants everything, and writes down its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.on_disconnected: Callable[[], object] = lambda: None
        self.on_connect: Callable[[MQTTServerProtocol], object] = lambda protocol: protocol.accept()
        self.on_publish: Callable[[MQTTServerProtocol, Publish], object] = lambda protocol, publish: (
            protocol.acknowledge(publish)
        )

    def connect_received(self, protocol: MQTTServerProtocol, connect: Connect) -> None:
        self.calls.append(("connect", connect))
        self.on_connect(protocol)

    def publish_received(self, protocol: MQTTServerProtocol, publish: Publish) -> None:
        self.calls.append(("publish", publish))
        self.on_publish(protocol, publish)

    def subscribe_received(self, protocol: MQTTServerProtocol, subscribe: Subscribe) -> Sequence[int]:
        self.calls.append(("subscribe", subscribe))
        return [min(subscription.qos, 1) for subscription in subscribe.filters]

    def unsubscribe_received(self, protocol: MQTTServerProtocol, unsubscribe: Unsubscribe) -> Sequence[int]:
        self.calls.append(("unsubscribe", unsubscribe))
        return [0] * len(unsubscribe.filters)

    def disconnected(self, protocol: MQTTServerProtocol, reason: Exception) -> None:
        self.calls.append(("disconnected", reason))
        self.on_disconnected()
