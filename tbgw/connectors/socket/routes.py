# -*- test-case-name: tests.connectors.socket.test_routes -*-
"""From a peer's address to its device, and from the device's message to a reading that is handed in.

TCP and UDP share this. It is on the path of every message, so it is plain calls on objects made at the start: no
closures, Deferreds or events are made for a message that is in order.

Devices with the same filter (S-13) form one route: each of them gets every message of the peer, as the reference
meant it; that is how one device's line feeds two devices in ThingsBoard. Filters that merely overlap do not: the
most specific one wins (`addresses`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

from tbgw.connectors.socket.addresses import AddressFilter, AddressTable
from tbgw.connectors.socket.config import SocketDevice
from tbgw.connectors.socket.converter import Skipped, compile_converter, compile_requests
from tbgw.connectors.socket.internal_events import (
    DeviceLimitReached,
    DeviceNotNamed,
    KeyNotDecoded,
    KeyUnfit,
    MessageUnusable,
    RequestExpressionIgnored,
)
from tbgw.connectors.socket.naming import compile_name, plain_address
from tbgw.connectors.socket.presence import Link, Presence
from tbgw.connectors.socket.requests import Request
from tbgw.connectors.socket.values import Message, decoder
from tbgw.interfaces import IIngest
from tbgw.internal_events import Events
from tbgw.model import Device, Reading
from tbgw.thingsboard.payloads import is_device_name

KEYS_ABSENT = "keys_absent"
"""Counter, by connector, of keys that a message was too short for. No line: with optional fields it is ordinary."""

MAX_AHEAD_MS = 1000
"""How far a timestamp may run ahead of the clock to stay unlike the one before it. ThingsBoard keeps one value for a
key and a millisecond, so messages that one read brings together would overwrite each other; beyond a second of such
stamps the device is faster than ThingsBoard's resolution for good, and further ones share a millisecond."""

Ask = Callable[[Presence, Request, list[str], Link | None], None]
"""What is done about a request of a device: the names in it, and where the answer goes."""


class Intake:
    """Takes the messages of one entry of the configuration in. Its device has a constant name."""

    def __init__(
        self,
        connector: str,
        configured: SocketDevice,
        presence: Presence,
        device: Device,
        ingest: IIngest,
        events: Events,
    ) -> None:
        """Raises ValueError when the device's encoding is unknown or unfit."""
        self.device = device
        self.configured = configured
        self.presence = presence
        self.messages = 0
        """Messages that came, usable or not."""
        self.ask: Ask = lambda presence, request, names, link: None
        self._last_ms = 0
        self._connector = connector
        self._encoding = configured.encoding
        self._events = events
        self._accept = ingest.accept
        self._convert = compile_converter(configured, self._skipped)
        self._find_request, faults = compile_requests(
            (*configured.attribute_requests, *configured.rpc_requests, *configured.claim_requests),
            decoder(configured.encoding),
        )
        for expression in faults:
            events.emit(RequestExpressionIgnored(connector, device.name, expression))

    def opened(self, link: Link) -> None:
        """A connection of a peer of this entry is open."""
        if not isinstance(link, tuple):
            self.presence.add(link)

    def receive(self, message: bytes, now_ms: int, link: Link | None = None) -> None:
        """Hand the message's values in, as of `now_ms`. What cannot be used is counted."""
        self.messages += 1
        presence = self.presence
        presence.last = link
        if self._find_request is not None:
            found = self._find_request(message)
            if found is not None:
                self.ask(presence, *found, link)
                return
        if presence.awaits is not None and presence.awaits(message, link):
            return
        telemetry, attributes, time_ms = self._convert(message)
        if telemetry:
            if time_ms is None:
                if now_ms <= self._last_ms:
                    now_ms = min(self._last_ms + 1, now_ms + MAX_AHEAD_MS)
                self._last_ms = time_ms = now_ms
            self._accept(Reading(self.device, ((time_ms, telemetry),), attributes))
        elif attributes:
            self._accept(Reading(self.device, (), attributes))
        else:
            self._events.emit(MessageUnusable(self._connector, self.device.name, len(message)))
            return
        presence.spoke = True

    def _skipped(self, key: str, why: Skipped) -> None:
        if why is Skipped.ABSENT:
            self._events.counters.add(KEYS_ABSENT, self._connector)
        elif why is Skipped.NOT_DECODED:
            self._events.emit(KeyNotDecoded(self._connector, self.device.name, key, self._encoding))
        else:
            self._events.emit(KeyUnfit(self._connector, self.device.name, key))


class NamingIntake(Intake):
    """An entry whose device's name, or type, is made of the message or of the peer; so it has many devices."""

    def __init__(
        self,
        connector: str,
        configured: SocketDevice,
        device: Device,
        ingest: IIngest,
        events: Events,
        presences: dict[str, Presence],
        max_devices: int,
    ) -> None:
        """`presences`: those of all entries, by name; new ones are added. Raises ExpressionError."""
        template = Presence(device, configured, False)
        super().__init__(connector, configured, template, device, ingest, events)
        self._decode = decoder(configured.encoding)
        self._name = compile_name(configured.name)
        self._profile = compile_name(configured.profile)
        self._presences = presences
        self._max_devices = max_devices
        self._template = device
        self._bound = self._name.of_peer
        self._last_of: dict[Link, Presence] = {}
        """Of connections and addresses: whom they last spoke for."""
        self._times: dict[Presence, int] = {}

    def opened(self, link: Link) -> None:
        """Nothing is known before the first message."""

    def closed(self, link: Link) -> None:
        """The connection is gone."""
        self._last_of.pop(link, None)

    def receive(self, message: bytes, now_ms: int, link: Link | None = None) -> None:
        """As `Intake.receive`, for the device that the message is of."""
        presence = self._find(message, link)
        if presence is None:
            self.messages += 1
            return
        # What `Intake.receive` works with, for this message: plain calls in one thread, so nobody sees it otherwise.
        self.presence, self.device = presence, presence.device
        self._last_ms = self._times.get(presence, 0)
        super().receive(message, now_ms, link)
        self._times[presence] = self._last_ms

    def _find(self, data: bytes, link: Link | None) -> Presence | None:
        message = Message(data, self._decode)
        peer = link if isinstance(link, tuple) else link.peer_address if link is not None else ("", 0)
        name = self._name.make(message, peer)
        if not name or not is_device_name(name):
            presence = self._last_of.get(link) if link is not None else None
            if presence is None:
                self._events.emit(DeviceNotNamed(self._connector, self.configured.name, len(data)))
            return presence
        presence = self._presences.get(name)
        if presence is None:
            if len(self._presences) >= self._max_devices:
                self._events.emit(DeviceLimitReached(self._connector, name, self._max_devices))
                return None
            template = self._template
            profile = self._profile.make(message, peer) or "default"
            device = Device(name, profile, template.connector, template.connector_type, template.report)
            presence = self._presences[name] = Presence(device, self.configured, self._bound)
        if link is not None:
            self._remember(link, presence)
        return presence

    def _remember(self, link: Link, presence: Presence) -> None:
        if self._last_of.get(link) is presence:
            return
        if len(self._last_of) >= 2 * self._max_devices:
            del self._last_of[next(iter(self._last_of))]
        self._last_of[link] = presence
        if not isinstance(link, tuple):
            presence.add(link)


class Route:
    """The device, rarely devices, that a peer's messages go to."""

    def __init__(self, intakes: Sequence[Intake]) -> None:
        self.intakes = tuple(intakes)
        self.receive: Callable[..., None] = intakes[0].receive if len(intakes) == 1 else self._receive_all
        """`receive(message, now_ms, link)`; without the link nothing can be answered."""

    def _receive_all(self, message: bytes, now_ms: int, link: Link | None = None) -> None:
        for intake in self.intakes:
            intake.receive(message, now_ms, link)


class Routes:
    """All routes of a connector."""

    def __init__(
        self,
        connector: str,
        devices: Sequence[tuple[SocketDevice, Device]],
        ingest: IIngest,
        events: Events,
        max_devices: int = 10_000,
    ) -> None:
        self.bytes = 0
        """Bytes that came from admitted peers; the transports count them here, once a read."""
        self.presences: dict[str, Presence] = {}
        """By name of the device: all that are configured, and those whose names came up."""
        self._ingest = ingest
        sharing: dict[AddressFilter, int] = {}
        for configured, _ in devices:
            sharing[configured.filter] = sharing.get(configured.filter, 0) + 1
        self.intakes: list[Intake] = []
        by_filter: dict[AddressFilter, list[Intake]] = {}
        for configured, device in devices:
            intake: Intake
            if compile_name(configured.name).constant is None or compile_name(configured.profile).constant is None:
                intake = NamingIntake(connector, configured, device, ingest, events, self.presences, max_devices)
            else:
                bound = configured.filter.one_address and sharing[configured.filter] == 1
                presence = self.presences.get(device.name)
                if presence is None:
                    presence = self.presences[device.name] = Presence(device, configured, bound)
                presence.bound = presence.bound and bound
                intake = Intake(connector, configured, presence, device, ingest, events)
            self.intakes.append(intake)
            by_filter.setdefault(configured.filter, []).append(intake)
        self._routes = [Route(intakes) for intakes in by_filter.values()]
        self._find = AddressTable(list(by_filter)).find

    def find(self, ip: str, port: int) -> Route | None:
        """The route of this peer, None when it is refused."""
        index = self._find(ip, port)
        return None if index is None else self._routes[index]

    def admits(self, ip: str) -> bool:
        """Whether any filter admits this address, whatever the port."""
        return any(
            one.networks is None or any(_within(ip, network) for network in one.networks)
            for one in (intake.configured.filter for intake in self.intakes)
        )

    def gone(self, presence: Presence) -> None:
        """Its last connection has ended: tell ThingsBoard, if its address speaks for no other device."""
        if presence.bound and presence.spoke:
            presence.spoke = False
            self._ingest.disconnected(presence.device)

    @property
    def messages(self) -> int:
        """Messages that came for all devices, usable or not."""
        return sum(intake.messages for intake in self.intakes)


def _within(ip: str, network: IPv4Network | IPv6Network) -> bool:
    try:
        return ip_address(plain_address(ip)) in network
    except ValueError:
        return False
