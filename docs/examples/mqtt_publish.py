"""Publish lines with QoS 1: `python docs/examples/mqtt_publish.py HOST PORT TOPIC LINE...`.

Speaks MQTT 5, and 3.1.1 with a server that does not know it. Prints the reason code of each acknowledgement.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.task import react
from zope.interface import implementer

from tbgw.mqtt import ClientOptions, ConnAck, IClientListener, MQTTClientProtocol, Publish, VersionChoice


@implementer(IClientListener)
class Listener:
    """Turns the two things that this program waits for into Deferreds."""

    def __init__(self) -> None:
        self.ready: Deferred[None] = Deferred()
        self.over: Deferred[Exception] = Deferred()

    def connected(self, protocol: MQTTClientProtocol, connack: ConnAck) -> None:
        self.ready.callback(None)

    def message_received(self, protocol: MQTTClientProtocol, publish: Publish) -> None:
        """Nothing is subscribed to."""

    def disconnected(self, protocol: MQTTClientProtocol, reason: Exception) -> None:
        if not self.ready.called:
            self.ready.errback(reason)
        self.over.callback(reason)


async def main(reactor: Any, host: str, port: str, topic: str, *lines: str) -> None:
    """Connect, publish, wait for the acknowledgements, disconnect."""
    choice = VersionChoice()
    while True:
        listener = Listener()
        options = ClientOptions(protocol_version=choice.next())
        protocol = MQTTClientProtocol(options, listener, reactor)
        await connectProtocol(HostnameEndpoint(reactor, host, int(port)), protocol)
        try:
            await listener.ready
        except Exception as error:
            if choice.failed(error):
                continue  # the server speaks 3.1.1 only
            raise
        choice.accepted()
        break
    for line in lines:
        code = await protocol.publish(topic, line.encode(), qos=1)
        print(f"{line}: {code:#04x}")  # noqa: T201 - printing is what it does
    protocol.disconnect()
    await listener.over


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))
