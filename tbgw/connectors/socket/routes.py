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

from tbgw.connectors.socket.addresses import AddressFilter, AddressTable
from tbgw.connectors.socket.config import SocketDevice
from tbgw.connectors.socket.converter import Skipped, compile_converter, compile_request_matcher
from tbgw.connectors.socket.internal_events import (
    AttributeRequestIgnored,
    KeyNotDecoded,
    MessageUnusable,
    RequestExpressionIgnored,
)
from tbgw.interfaces import IIngest
from tbgw.internal_events import Events
from tbgw.model import Device, Reading

KEYS_ABSENT = "keys_absent"
"""Counter, by connector, of keys that a message was too short for. No line: with optional fields it is ordinary."""


MAX_AHEAD_MS = 1000
"""How far a timestamp may run ahead of the clock to stay unlike the one before it. ThingsBoard keeps one value for a
key and a millisecond, so messages that one read brings together would overwrite each other; beyond a second of such
stamps the device is faster than ThingsBoard's resolution for good, and further ones share a millisecond."""


class Intake:
    """Takes one device's messages in."""

    def __init__(
        self, connector: str, configured: SocketDevice, device: Device, ingest: IIngest, events: Events
    ) -> None:
        """Raises ValueError when the device's encoding is unknown or unfit."""
        self.device = device
        self.messages = 0
        """Messages that came, usable or not."""
        self.spoke = False
        """Whether a reading was handed in since somebody last set this to False."""
        self._last_ms = 0
        self._connector = connector
        self._encoding = configured.encoding
        self._events = events
        self._accept = ingest.accept
        self._convert = compile_converter(configured, self._skipped)
        self._is_request, faults = compile_request_matcher(configured.attribute_requests)
        for expression in faults:
            events.emit(RequestExpressionIgnored(connector, device.name, expression))

    def receive(self, message: bytes, now_ms: int) -> None:
        """Hand the message's values in, as of `now_ms`. What cannot be used is counted."""
        self.messages += 1
        if self._is_request is not None and self._is_request(message):
            self._events.emit(AttributeRequestIgnored(self._connector, self.device.name))
            return
        telemetry, attributes = self._convert(message)
        if telemetry:
            if now_ms <= self._last_ms:
                now_ms = min(self._last_ms + 1, now_ms + MAX_AHEAD_MS)
            self._last_ms = now_ms
            self._accept(Reading(self.device, ((now_ms, telemetry),), attributes))
        elif attributes:
            self._accept(Reading(self.device, (), attributes))
        else:
            self._events.emit(MessageUnusable(self._connector, self.device.name, len(message)))
            return
        self.spoke = True

    def _skipped(self, key: str, why: Skipped) -> None:
        if why is Skipped.ABSENT:
            self._events.counters.add(KEYS_ABSENT, self._connector)
        else:
            self._events.emit(KeyNotDecoded(self._connector, self.device.name, key, self._encoding))


class Route:
    """The device, rarely devices, that a peer's messages go to."""

    def __init__(self, intakes: Sequence[Intake]) -> None:
        self.intakes = tuple(intakes)
        self.receive: Callable[[bytes, int], None] = intakes[0].receive if len(intakes) == 1 else self._receive_all
        """`receive(message, now_ms)`"""

    def _receive_all(self, message: bytes, now_ms: int) -> None:
        for intake in self.intakes:
            intake.receive(message, now_ms)


class Routes:
    """All routes of a connector."""

    def __init__(
        self,
        connector: str,
        devices: Sequence[tuple[SocketDevice, Device]],
        ingest: IIngest,
        events: Events,
    ) -> None:
        self.bytes = 0
        """Bytes that came from admitted peers; the transports count them here, once a read."""
        self.intakes = [Intake(connector, configured, device, ingest, events) for configured, device in devices]
        by_filter: dict[AddressFilter, list[Intake]] = {}
        for (configured, _), intake in zip(devices, self.intakes, strict=True):
            by_filter.setdefault(configured.filter, []).append(intake)
        self._routes = [Route(intakes) for intakes in by_filter.values()]
        self._find = AddressTable(list(by_filter)).find

    def find(self, ip: str, port: int) -> Route | None:
        """The route of this peer, None when it is refused."""
        index = self._find(ip, port)
        return None if index is None else self._routes[index]

    @property
    def messages(self) -> int:
        """Messages that came for all devices, usable or not."""
        return sum(intake.messages for intake in self.intakes)
