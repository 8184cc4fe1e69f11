"""The gateway's own client and pipeline, joined to the sandbox in memory, for tests of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tbgw.internal_events import Events
from tbgw.model import Device, Reading
from tbgw.mqtt.codec import decode
from tbgw.mqtt.versions import VersionChoice
from tbgw.pipeline.downlink import Downlink
from tbgw.pipeline.forwarder import Forwarder
from tbgw.pipeline.ingest import Ingest
from tbgw.pipeline.packer import PackLimits
from tbgw.spool.memory import MemoryStore
from tbgw.spool.runners import CallDirectly
from tbgw.spool.service import Spool
from tbgw.thingsboard import topics
from tbgw.uplink.client import Credentials, Uplink
from tbgw.uplink.fanout import FanOut
from tbgw.uplink.own_device import OwnDevice
from tests.mqtt.memory import Wire
from tests.pipeline.test_ingest import MemoryRegistry
from tests.sandbox.joined import JoinedTests


class GatewayCase(JoinedTests):
    """Uplink, own device, forwarder, ingest and downlink, with a session; `places` says who has which device."""

    version: Literal[4, 5] = 5
    short_topics = False
    subscriptions: Sequence[str] = topics.GATEWAY_SUBSCRIPTIONS

    def setUp(self) -> None:
        super().setUp()
        events = Events(self.counters, self.clock.seconds)
        self.uplink = Uplink(
            self.dial,
            "memory",
            Credentials("", "gateway-token", None),
            clock=self.clock,
            events=events,
            jitter=lambda: 0.5,
            versions=VersionChoice(self.version),
            subscriptions=self.subscriptions,
            short_topics=self.short_topics,
        )
        self.dead = MemoryStore()
        spool = Spool(
            lambda: self.dead,
            clock=self.clock,
            runner=CallDirectly(),
            wall_ms=self.now_ms,
            events=events,
            max_bytes=10**8,
            max_messages=None,
        )
        spool.open()
        registry = MemoryRegistry()
        self.own = OwnDevice(self.uplink.publish, events, self.clock, self.now_ms)
        self.places: dict[str, str] = {}
        self.downlink = Downlink(self.uplink.publish, events, self.clock, self.places.get, own_device=self.own)
        self.forwarder = Forwarder(
            spool,
            self.uplink,
            registry,
            clock=self.clock,
            events=events,
            max_payload_bytes=65_000,
            idled=lambda: self.ingest.link_idled(),
            limits_changed=lambda _: None,
            message_received=self.downlink.message_received,
        )
        self.uplink.set_listener(
            FanOut(
                [self.own, self.downlink, self.forwarder],
                [self.own.message_received],
                self.forwarder.message_received,
            )
        )
        self.ingest = Ingest(
            spool,
            registry,
            clock=self.clock,
            now_ms=self.now_ms,
            events=events,
            limits=PackLimits(60_000, 1000),
            pack_delay_seconds=0.02,
            appended=self.forwarder.appended,
            link_idle=lambda: self.forwarder.idle,
        )
        spool.set_listeners(self.ingest, self.forwarder, lambda error: None)
        self.spool = spool
        self.forwarder.start()
        self.uplink.startService()
        self.addCleanup(self.uplink.stopService)
        self.settle()
        self.pass_time(1)
        self.assertTrue(self.uplink.connected)

    def say(self, **values: Any) -> None:
        """The device A says this, now."""
        self.said("A", values)

    def said(self, name: str, values: dict[str, Any], ts_ms: int | None = None, **attributes: Any) -> None:
        """A device says this, now or at another time."""
        telemetry = ((self.now_ms() if ts_ms is None else ts_ms, values),) if values else ()
        self.ingest.accept(Reading(Device(name, "thermo"), telemetry, attributes))
        self.pass_time(0.1, 0.02)

    def attributes(self, name: str) -> dict[str, Any]:
        """The client attributes of a device, but for those that the gateway says by itself."""
        own = ("connectorName", "connectorType")
        return {key: entry["value"] for key, entry in self.shown(name)["attributes"].items() if key not in own}

    def packets(self) -> list[Any]:
        """What the client sent on its latest connection."""
        return packets_of(self.dial.wires[-1], self.version)


def packets_of(wire: Wire, version: int) -> list[Any]:
    """What a client sent on one connection."""
    data, position, found = bytes(wire.client_transport.carried or b""), 0, []
    while position < len(data):
        packet, position = decode(data, position, len(data), protocol_version=version, max_packet_bytes=1 << 20)
        assert packet is not None, "the client writes whole packets"
        found.append(packet)
    return found
