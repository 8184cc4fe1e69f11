# -*- test-case-name: tests.connectors.xmpp.test_presence -*-
"""Who of the devices is there: the resources of each JID, and the device names that speak through it.

Invariants:

* A device is told connected by its status when the first resource of its JID becomes available, and told gone when the
  last one went. A JID of which no presence ever came (no subscription, a component's peers) says nothing either way:
  such a device is connected by its messages, and never told gone.
* After a login that is no resumption, everything that was known is in doubt. Who does not show up within
  `SETTLE_SECONDS` is gone: servers send the presence of those who are there, and of others nothing.
* A device that several entries name is gone when it is gone on all of their JIDs.
* While the gateway has no session with the XMPP server nothing is told: it knows nothing then.
* Attributes of a device that is gone are held until it is back. Sent at once, they would connect it in ThingsBoard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tbgw.connectors.xmpp.jids import Address
from tbgw.interfaces import IIngest
from tbgw.model import Device, Reading, Value

SETTLE_SECONDS = 10.0
"""How long after a login presence may take to come."""

MAX_RESOURCES = 64
"""Resources of one JID that are remembered: a device has one or two."""

STATUS = "xmppStatus"
"""Attribute: online, away, chat, dnd, xa or offline."""
STATUS_TEXT = "xmppStatusText"
"""Attribute: what the device says besides, if anything."""


class Entry(Protocol):
    """What is needed of a compiled entry of the configuration."""

    @property
    def follows_presence(self) -> bool:
        """Whether presence connects and disconnects its devices."""

    @property
    def tells_status(self) -> bool:
        """Whether outcomes of requests become attributes."""


@dataclass(frozen=True, slots=True)
class Resource:
    """An available resource."""

    priority: int
    show: str
    text: str


@dataclass(slots=True, eq=False)
class Station:
    """One JID of the configuration that was heard of, or that can be written to: bare, or with its resource."""

    address: Address
    """With a resource only if the configuration says it."""
    resources: dict[str, Resource] = field(default_factory=dict)
    """Available ones, by full JID."""
    recipients: dict[Recipient, None] = field(default_factory=dict)
    """Device names that speak through it."""
    online: bool | None = None
    """None: nothing is known."""
    doubtful: bool = False
    """Whether it was online before the last login, and has not shown up since."""
    features: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What resources announce, by full JID."""

    def best(self) -> Resource | None:
        """The resource that counts for the status."""
        return max(self.resources.values(), key=lambda one: one.priority, default=None)


class Recipient:
    """One device name. Compared by identity."""

    __slots__ = (
        "device", "entry", "held", "is_node", "last", "last_delay_ms", "last_ms", "nodes", "spoke", "station", "told",
        "twins", "units",
    )  # fmt: skip

    def __init__(self, device: Device, entry: Any, station: Station, is_node: bool = False) -> None:
        """`is_node`: it stands for a node behind another device (XEP-0323), and is never asked by itself."""
        self.device = device
        self.is_node = is_node
        self.entry = entry
        self.station = station
        self.last: str | None = None
        """Full JID of its last message."""
        self.last_ms = 0
        """Newest time given to a message by its arrival."""
        self.last_delay_ms: tuple[int, int] = (0, 0)
        """The last stamp of a delayed message, and how many had it."""
        self.spoke = False
        """Whether ThingsBoard thinks it connected because of us."""
        self.told: str | None = None
        """The status that was told last."""
        self.held: dict[str, Value] = {}
        """Attributes that wait until the device is back."""
        self.units: dict[str, str] = {}
        """Units that were told, by key."""
        self.nodes: dict[str, Recipient] = {}
        """Devices of the nodes behind it (XEP-0323), by name."""
        self.twins: list[Recipient] = []
        """All of this name, itself included; there are several where several entries name the same device."""

    @property
    def online(self) -> bool | None:
        """Whether it is there; None: nobody knows."""
        return self.station.online

    def target(self) -> str:
        """
        Where a message goes: to the resource that spoke last if it can still be there, else to the one of the highest
        priority, else to the bare JID, and the server finds one.
        """
        station = self.station
        if station.address.resource:
            return station.address.full
        if self.last is not None and (self.last in station.resources or station.online is None):
            return self.last
        usable = {name: one.priority for name, one in station.resources.items()}
        return max(usable, key=usable.__getitem__) if usable else station.address.bare


class Presences:
    """See the module. One for each connector."""

    def __init__(self, ingest: IIngest, clock: IReactorTime) -> None:
        self.stations: dict[str, Station] = {}
        """By JID as text. Bounded by the devices there may be, which `routes` counts."""
        self._ingest = ingest
        self._clock = clock
        self._settling: IDelayedCall | None = None
        self.came: Callable[[Station, str], None] = lambda station, jid: None
        """Called when a resource becomes available."""

    def station(self, address: Address) -> Station:
        """The one of this JID, made if need be."""
        key = address.full
        found = self.stations.get(key)
        if found is None:
            found = self.stations[key] = Station(address)
        return found

    # What the server tells.

    def logged_in(self, resumed: bool) -> None:
        """A session has begun."""
        if resumed:
            return
        for station in self.stations.values():
            station.resources.clear()
            station.features.clear()
            station.doubtful = station.online is True
        if self._settling is not None:
            self._settling.cancel()
        self._settling = self._clock.callLater(SETTLE_SECONDS, self._settled)

    def cut(self) -> None:
        """The session is over: nothing can be concluded from silence."""
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None

    def available(self, station: Station, full: str, resource: Resource) -> None:
        """A resource is there, or has another status."""
        is_new = full not in station.resources
        if is_new and len(station.resources) >= MAX_RESOURCES:
            return
        station.resources[full] = resource
        station.doubtful = False
        station.online = True
        for recipient in tuple(station.recipients):
            self.tell(recipient)
        if is_new:
            self.came(station, full)

    def unavailable(self, station: Station, full: str) -> None:
        """A resource went, or (a bare JID) all of them."""
        if full == station.address.bare and not station.address.resource:
            station.resources.clear()
        else:
            station.resources.pop(full, None)
        station.features.pop(full, None)
        if station.resources:
            for recipient in tuple(station.recipients):
                self.tell(recipient)
        else:
            self._gone(station)

    def _settled(self) -> None:
        self._settling = None
        for station in self.stations.values():
            if station.doubtful:
                self._gone(station)

    def _gone(self, station: Station) -> None:
        station.doubtful = False
        station.online = False
        for recipient in tuple(station.recipients):
            has_other = any(twin.online and twin is not recipient for twin in recipient.twins)
            if recipient.entry.follows_presence and recipient.told not in (None, "offline") and not has_other:
                self._accept(recipient, {STATUS: "offline"})
            recipient.told = "offline"
            if recipient.entry.follows_presence and recipient.spoke:
                recipient.spoke = False
                if not has_other:
                    self._ingest.disconnected(recipient.device)

    # What is told to ThingsBoard.

    def tell(self, recipient: Recipient) -> None:
        """Its status as it is, if that is news, with what was held back for it."""
        station = recipient.station
        best = station.best()
        if best is None or not recipient.entry.follows_presence:
            return
        told = f"{best.show}\0{best.text}"
        if told == recipient.told and not recipient.held:
            return
        values: dict[str, Value] = {STATUS: best.show, **recipient.held}
        if best.text or (recipient.told is not None and not recipient.told.endswith("\0")):
            values[STATUS_TEXT] = best.text
        recipient.held = {}
        recipient.told = told
        self._accept(recipient, values)

    def attributes(self, recipient: Recipient, values: dict[str, Value]) -> None:
        """Attributes about a device that are not from itself: now, or when it is back."""
        if recipient.entry.follows_presence and recipient.online is False:
            recipient.held.update(values)
        else:
            self._accept(recipient, values)

    def _accept(self, recipient: Recipient, values: dict[str, Value]) -> None:
        recipient.spoke = True
        self._ingest.accept(Reading(recipient.device, (), values))

    def counts(self) -> Iterator[tuple[str, int]]:
        """For the status page."""
        known = [station.online for station in self.stations.values()]
        yield "online", known.count(True)
        yield "offline", known.count(False)
        yield "unknown", known.count(None)
