"""Delivery over real sockets and a real store, against servers that misbehave as ThingsBoard does on MQTT 3.1.1."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from tbgw.model import Device, Reading
from tbgw.mqtt import (
    Connect,
    IServerListener,
    MQTTServerProtocol,
    Publish,
    ServerOptions,
    Subscribe,
    Unsubscribe,
)
from tbgw.pipeline import pauses
from tbgw.service import Gateway, load
from tbgw.thingsboard import topics
from tbgw.uplink import client

reactor: Any = installed
SECONDS = 30.0
"""Far more than any of these takes."""


@implementer(IServerListener)
class Server(ServerFactory):
    """ThingsBoard's place. `verdict(topic, content)` says "take", or "close" to end the session without a word."""

    noisy = False

    def __init__(self, verdict: Callable[[str, Any], str]) -> None:
        self.verdict = verdict
        self.taken: list[tuple[float, str, Any]] = []
        """(time, topic, content) of what was acknowledged."""
        self.sessions = 0
        self.changed: Callable[[], None] = lambda: None

    def buildProtocol(self, addr: Any) -> MQTTServerProtocol:
        return MQTTServerProtocol(ServerOptions(), self, reactor)

    def connect_received(self, protocol: MQTTServerProtocol, connect: Connect) -> None:
        self.sessions += 1
        protocol.accept()

    def publish_received(self, protocol: MQTTServerProtocol, publish: Publish) -> None:
        content = json.loads(publish.payload)
        if publish.topic.startswith(topics.DEVICE_RPC_REQUEST):
            protocol.acknowledge(publish)
            number = publish.topic.removeprefix(topics.DEVICE_RPC_REQUEST)
            protocol.publish(topics.DEVICE_RPC_RESPONSE + number, b"{}").addErrback(lambda failure: None)
            return
        if self.verdict(publish.topic, content) == "close":
            protocol.abort()
            return
        self.taken.append((reactor.seconds(), publish.topic, content))
        protocol.acknowledge(publish)
        self.changed()

    def subscribe_received(self, protocol: MQTTServerProtocol, subscribe: Subscribe) -> Sequence[int]:
        return [1] * len(subscribe.filters)

    def unsubscribe_received(self, protocol: MQTTServerProtocol, unsubscribe: Unsubscribe) -> Sequence[int]:
        return [0] * len(unsubscribe.filters)

    def disconnected(self, protocol: MQTTServerProtocol, reason: Exception) -> None:
        """Nothing to do."""

    def samples(self, device: str) -> list[int]:
        """Times of the samples of a device that were taken, in that order."""
        return [
            element["ts"]
            for _, topic, content in self.taken
            if topic == topics.TELEMETRY
            for element in content.get(device, ())
        ]


class DeliveryTests(TestCase):
    """The gateway's own parts, joined as the service joins them; only the pauses between sessions are shorter."""

    def setUp(self) -> None:
        self.patch(client, "FIRST_RETRY_SECONDS", 0.02)
        self.patch(client, "LONGEST_RETRY_SECONDS", 0.05)
        self.patch(pauses, "PUSHED_BACK_SECONDS", (0.02, 0.1))

    def gateway(self, server: Server, **thingsboard: Any) -> Gateway:
        """A gateway that delivers to `server`."""
        port = reactor.listenTCP(0, server, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        folder = Path(self.mktemp()).absolute()
        (folder / "etc").mkdir(parents=True)
        section = {"host": "127.0.0.1", "port": port.getHost().port, "security": {"accessToken": "a1b2c3"}}
        content = {
            "thingsboard": {**section, **thingsboard},
            "storage": {"type": "sqlite", "data_file_path": "./store/"},
            "connectors": [],
        }
        (folder / "etc" / "tb_gateway.json").write_text(json.dumps(content))
        gateway = Gateway(load(folder / "etc", folder, {}), reactor)
        gateway.events._later = None  # the timer of a held-back log line may outlive the service, but not the test
        gateway.startService()
        self.addCleanup(gateway.stopService)
        return gateway

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it; looked at from outside, fifty times a second."""
        end = reactor.seconds() + SECONDS
        while not condition():
            self.assertLess(reactor.seconds(), end, "it never comes to rest")
            await deferLater(reactor, 0.02)

    def say(self, gateway: Gateway, device: Device, ts: int, value: Any) -> None:
        """One reading."""
        gateway.ingest.accept(Reading(device, ((ts, {"v": value}),)))

    def run_async(self, course: Any) -> Deferred[None]:
        """An async test, as trial wants it."""
        return Deferred.fromCoroutine(course)

    def test_poison(self) -> Deferred[None]:
        """One value that closes the session is found among a hundred and buried; the others arrive, in order."""

        async def course() -> None:
            server = Server(lambda topic, content: "close" if "poison" in json.dumps(content) else "take")
            gateway = self.gateway(server)
            await self.until(lambda: gateway.uplink.connected)
            devices = [Device(name, connector="test") for name in "AB"]
            for ts in range(1, 101):
                for device in devices:
                    bad = (ts, device.name) == (50, "B")
                    self.say(gateway, device, ts, "poison" if bad else ts)
            gateway.ingest.flush()
            await self.until(lambda: gateway.forwarder.idle and not gateway.spool.stored_rows)
            self.assertEqual(server.samples("A"), sorted(server.samples("A")))
            self.assertEqual(set(server.samples("A")), set(range(1, 101)))
            self.assertEqual(set(server.samples("B")), set(range(1, 101)) - {50})
            self.assertEqual(gateway.counters.get("parts_buried", "closes_session"), 1)

        return self.run_async(course())

    def test_bad_link(self) -> Deferred[None]:
        """A link that breaks at every seventh publish loses nothing, buries nothing, and keeps the order."""

        async def course() -> None:
            publishes = 0

            def verdict(topic: str, content: Any) -> str:
                nonlocal publishes
                publishes += 1
                return "take" if publishes % 7 else "close"

            server = Server(verdict)
            gateway = self.gateway(server)
            await self.until(lambda: gateway.uplink.connected)
            device = Device("A", connector="test")
            for ts in range(1, 301):
                self.say(gateway, device, ts, ts)
                if not ts % 3:
                    gateway.ingest.flush()
                if not ts % 30:
                    await deferLater(reactor, 0.01)
            await self.until(lambda: gateway.forwarder.idle and not gateway.spool.stored_rows)
            last = {ts: place for place, ts in enumerate(server.samples("A"))}
            self.assertEqual(sorted(last, key=last.__getitem__), list(range(1, 301)))
            self.assertEqual(gateway.counters.total("parts_buried"), 0)
            self.assertGreater(server.sessions, 5)

        return self.run_async(course())

    def test_configured_limit(self) -> Deferred[None]:
        """deviceRateLimits of the configuration hold, though ThingsBoard announces none."""

        async def course() -> None:
            server = Server(lambda topic, content: "take")
            gateway = self.gateway(server, deviceRateLimits="20:1,1000:60", minPackSendDelayMS=0)
            await self.until(lambda: gateway.uplink.connected)
            device = Device("A", connector="test")
            for ts in range(1, 61):
                self.say(gateway, device, ts, ts)
                gateway.ingest.flush()
            await self.until(lambda: gateway.forwarder.idle and not gateway.spool.stored_rows)
            times = [at for at, topic, _ in server.taken if topic in (topics.TELEMETRY, topics.ATTRIBUTES)]
            self.assertEqual(server.samples("A"), list(range(1, 61)))
            self.assertGreater(len(times), 50)
            for first in times:
                self.assertLessEqual(sum(first <= at < first + 1 for at in times), 16 + 16 + 1)
            self.assertGreater(times[-1] - times[0], (len(times) - 17) / 16 - 0.2)

        return self.run_async(course())
