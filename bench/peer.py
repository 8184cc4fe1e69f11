"""The bar to measure against: a bare Twisted listener that only batches bytes into QoS 1 publishes every 5 ms. It
converts nothing, stores nothing, and loses everything when it dies: `python -m bench.peer TCP_PORT MQTT_PORT`.
"""

from __future__ import annotations

import sys

from twisted.internet import reactor
from twisted.internet.protocol import ClientFactory, Protocol, ServerFactory
from zope.interface import implementer

from tbgw.mqtt import ClientOptions, IClientListener, MQTTClientProtocol


@implementer(IClientListener)
class Batch:
    """What came since the last publish."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.mqtt: MQTTClientProtocol | None = None

    def connected(self, protocol: MQTTClientProtocol, connack: object) -> None:
        self.mqtt = protocol
        self.tick()

    def message_received(self, protocol: object, publish: object) -> None:
        """Nothing is subscribed to."""

    def disconnected(self, protocol: object, reason: Exception) -> None:
        self.mqtt = None

    def tick(self) -> None:
        if self.parts and self.mqtt is not None:
            # Made to look like the gateway's payloads to the subscriber that counts, and to nothing else.
            payload = b"".join([b'"n":"%b",' % part[:8] for parts in self.parts for part in parts.split(b"\n") if part])
            self.parts.clear()
            self.mqtt.publish("v1/gateway/telemetry", payload, qos=1)
        reactor.callLater(0.005, self.tick)


def main(tcp_port: int, mqtt_port: int) -> None:
    """Run until killed."""
    batch = Batch()

    class Line(Protocol):
        def dataReceived(self, data: bytes) -> None:
            batch.parts.append(data)

    class Dial(ClientFactory):
        def buildProtocol(self, addr: object) -> Protocol:
            return MQTTClientProtocol(ClientOptions(client_id="bench-peer", max_inflight=1000), batch, reactor)

    factory = ServerFactory()
    factory.protocol = Line
    reactor.connectTCP("127.0.0.1", mqtt_port, Dial())
    reactor.listenTCP(tcp_port, factory, interface="127.0.0.1", backlog=1024)
    reactor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
