"""Print what comes on a topic filter: `python docs/examples/mqtt_subscribe.py HOST PORT FILTER COUNT`.

Ends after COUNT messages. What is printed was acknowledged only when `message_received` had returned.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.task import react
from zope.interface import implementer

from tbgw.mqtt import ClientOptions, ConnAck, IClientListener, MQTTClientProtocol, Publish


@implementer(IClientListener)
class Printer:
    """Subscribes as soon as it may, and prints."""

    def __init__(self, clock: Any, topic_filter: str, count: int) -> None:
        self.clock = clock
        self.topic_filter = topic_filter
        self.left = count
        self.over: Deferred[None] = Deferred()

    def connected(self, protocol: MQTTClientProtocol, connack: ConnAck) -> None:
        protocol.subscribe([(self.topic_filter, 2)]).addCallbacks(self.subscribed, lambda failure: None)

    def subscribed(self, codes: list[int]) -> None:
        print(f"granted QoS {codes[0]}", flush=True)  # noqa: T201 - printing is what it does

    def message_received(self, protocol: MQTTClientProtocol, publish: Publish) -> None:
        print(f"{publish.topic}: {publish.payload.decode()}", flush=True)  # noqa: T201 - printing is what it does
        self.left -= 1
        if self.left == 0:
            # The acknowledgement goes out when this has returned; DISCONNECT must not overtake it.
            self.clock.callLater(0, protocol.disconnect)

    def disconnected(self, protocol: MQTTClientProtocol, reason: Exception) -> None:
        if self.left:
            self.over.errback(reason)
        else:
            self.over.callback(None)


async def main(reactor: Any, host: str, port: str, topic_filter: str, count: str) -> None:
    """Connect and wait for the end."""
    printer = Printer(reactor, topic_filter, int(count))
    protocol = MQTTClientProtocol(ClientOptions(protocol_version=5), printer, reactor)
    await connectProtocol(HostnameEndpoint(reactor, host, int(port)), protocol)
    await printer.over


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))
