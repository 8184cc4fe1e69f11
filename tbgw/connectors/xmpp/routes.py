# -*- test-case-name: tests.connectors.xmpp.test_connector -*-
"""From a sender's JID to the entry of the configuration, and from a message to a reading that is handed in.

It is on the path of every message: a sender's text is prepared as a JID once (30 us), and found in a table afterwards.
The table is bounded, and holds nobody who is not configured, so strangers cannot crowd devices out of it.

The most specific entry has the sender: the full JID, then the bare one, then `*@domain/resource`, then `*@domain`.
Entries with the same JID all get each message.

A message of which no name can be made is the JID's last device's (X6): that of the same resource, else of any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tbgw.connectors.xmpp.converter import Body, Converter, compile_name, read_body
from tbgw.connectors.xmpp.device_config import XMPPDevice
from tbgw.connectors.xmpp.device_events import (
    DeviceLimitReached,
    DeviceNotNamed,
    MessageUnusable,
    TimeUnusable,
)
from tbgw.connectors.xmpp.jids import Address, parse_jid
from tbgw.connectors.xmpp.presence import Presences, Recipient, Station
from tbgw.interfaces import IIngest, IReceipt
from tbgw.internal_events import Events
from tbgw.model import Device, Reading, Value
from tbgw.thingsboard.payloads import is_device_name

KEYS_ABSENT = "keys_absent"
"""Counter, by connector, of keys that a message had no value for. No line: with optional fields it is ordinary."""

MAX_AHEAD_MS = 1000
"""How far a time may run ahead to stay unlike the one before it: ThingsBoard keeps one value for a key and a
millisecond, so messages of one read, or of one second of a server's delay stamps (X-19), would overwrite each other."""


class Sender:
    """A full JID of a configured device, as it was heard."""

    __slots__ = ("address", "bare", "intakes", "last", "station")

    def __init__(self, address: Address, intakes: tuple[Intake, ...], station: Station) -> None:
        self.address = address
        self.bare = address.bare
        self.intakes = intakes
        self.station = station
        self.last: dict[Intake, Recipient] = {}
        """Whom it last spoke for."""


class Intake:
    """One entry of the configuration, compiled."""

    def __init__(self, connector: str, config: XMPPDevice, template: Device, routes: Routes, events: Events) -> None:
        """`template`: a Device with the entry's profile and report plan. Raises ExpressionError."""
        self.config = config
        self.template = template
        self.follows_presence = config.presence
        self.tells_status = config.status_attributes
        self._connector = connector
        self._routes = routes
        self._events = events
        self._name = compile_name(config.name)
        self._profile = compile_name(config.profile)
        self._form = config.body_format
        self._is_of_sender = not self._name.needs_body and not self._profile.needs_body
        """Whether a sender is always the same device, so that it need be named once."""
        self._converter = Converter(
            tuple((point.key, point.value) for point in config.timeseries),
            tuple((point.key, point.value) for point in config.attributes),
            config.timestamp,
            self._skipped,
        )
        self._own: dict[str, Recipient] = {}
        """By name: this entry's. Another entry may have one of the same name, e.g. for another resource."""
        self._last_of_bare: dict[str, Recipient] = {}

    def read(self, text: str) -> Body:
        """The body, in the form that the entry says."""
        return read_body(text, self._form)

    def recipient(self, sender: Sender, body: Body | None) -> Recipient | None:
        """Whose message it is. None: nobody's, which is told."""
        if self._is_of_sender:
            known = sender.last.get(self)
            if known is not None and known.station is sender.station:
                self._routes.recipients[known.device.name] = known
                return known
        name = self._name.make(sender.address, body)
        if not name or not is_device_name(name):
            known = sender.last.get(self) or self._last_of_bare.get(sender.bare)
            if known is None and body is not None:
                self._events.emit(DeviceNotNamed(self._connector, sender.address.full, self.config.name))
            return known
        known = self._own.get(name)
        if known is None:
            known = self._routes.make(self, name, self._profile.make(sender.address, body), sender.station)
            if known is None:
                return None
            self._own[name] = known
        else:
            self._routes.recipients[name] = known
        if known.station is not sender.station:
            known.station.recipients.pop(known, None)
            known.station = sender.station
            known.station.recipients[known] = None
            self._routes.made(known)
        sender.last[self] = known
        self._last_of_bare[sender.bare] = known
        return known

    def beforehand(self, address: Address) -> None:
        """Make the device now if its name can be known, so that it can be commanded before it ever wrote (X-05)."""
        if not self._is_of_sender:
            return
        name = self._name.make(address, None)
        if name and is_device_name(name):
            station = self._routes.presences.station(address)
            known = self._routes.make(self, name, self._profile.make(address, None), station)
            if known is not None:
                self._own[name] = known
                self._last_of_bare.setdefault(address.bare, known)

    def take(
        self, recipient: Recipient, body: Body, now_ms: int, delay_ms: int | None, quietly: bool = False
    ) -> IReceipt | None:
        """Hand the body's values in. None: there were none, which is told unless `quietly`."""
        telemetry, attributes = self._converter.convert(body)
        if not telemetry and not attributes:
            if not quietly:
                self._events.emit(MessageUnusable(self._connector, recipient.device.name, len(body.text)))
            return None
        if not telemetry:
            return self._routes.accept(recipient, (), attributes)
        time_ms, is_wrong = self._converter.time_of(body)
        if is_wrong:
            self._events.emit(TimeUnusable(self._connector, recipient.device.name))
        if time_ms is None:
            time_ms = self._stamped(recipient, delay_ms) if delay_ms is not None else self._arrived(recipient, now_ms)
        return self._routes.accept(recipient, ((time_ms, telemetry),), attributes)

    def take_fields(
        self, recipient: Recipient, telemetry: dict[int, dict[str, Value]], attributes: dict[str, Value]
    ) -> IReceipt:
        """Hand in what a read-out brought."""
        return self._routes.accept(recipient, tuple(sorted(telemetry.items())), attributes)

    def convert(self, values: dict[str, Value]) -> tuple[dict[str, Value], dict[str, Value]]:
        """What the entry's expressions find in an object."""
        return self._converter.convert(Body("", values))

    def _arrived(self, recipient: Recipient, now_ms: int) -> int:
        if now_ms <= recipient.last_ms:
            now_ms = min(recipient.last_ms + 1, now_ms + MAX_AHEAD_MS)
        recipient.last_ms = now_ms
        return now_ms

    def _stamped(self, recipient: Recipient, delay_ms: int) -> int:
        stamp, times = recipient.last_delay_ms
        times = times + 1 if stamp == delay_ms else 0
        recipient.last_delay_ms = (delay_ms, times)
        return delay_ms + min(times, MAX_AHEAD_MS - 1)

    def _skipped(self, key: str) -> None:
        self._events.counters.add(KEYS_ABSENT, self._connector)


class Routes:
    """All entries of a connector."""

    def __init__(
        self,
        connector: str,
        devices: Sequence[tuple[XMPPDevice, Device]],
        ingest: IIngest,
        presences: Presences,
        events: Events,
        max_devices: int = 10_000,
    ) -> None:
        self.presences = presences
        self.recipients: dict[str, Recipient] = {}
        """By device name; of several with one name, from several entries, the one that spoke last."""
        self.made: Callable[[Recipient], None] = lambda recipient: None
        """Called for every new device name, and for one that speaks through another JID from now on."""
        self._connector = connector
        self._ingest = ingest
        self._events = events
        self._max_devices = max_devices
        self._senders: dict[str, Sender] = {}
        self._by_jid: dict[str, tuple[Intake, ...]] = {}
        self._by_domain: dict[tuple[str, str], tuple[Intake, ...]] = {}
        self.intakes: list[Intake] = []
        for config, template in devices:
            intake = Intake(connector, config, template, self, events)
            self.intakes.append(intake)
            if config.jid.startswith("*@"):
                address = _checked("x" + config.jid[1:])
                key = (address.domain, address.resource)
                self._by_domain[key] = (*self._by_domain.get(key, ()), intake)
            else:
                address = _checked(config.jid)
                self._by_jid[address.full] = (*self._by_jid.get(address.full, ()), intake)
                presences.station(address)
                intake.beforehand(address)

    @property
    def senders(self) -> int:
        """JIDs that are remembered."""
        return len(self._senders)

    def find(self, jid: str) -> Sender | None:
        """The sender of this full JID; None when no entry has it."""
        return self._senders.get(jid) or self._admit(jid)

    def _admit(self, jid: str) -> Sender | None:
        address = parse_jid(jid)
        if address is None:
            return None
        full, bare = address.full, address.bare
        intakes = self._by_jid.get(full)
        own = address
        if intakes is None:
            own = address._replace(resource="")
            intakes = self._by_jid.get(bare)
        if intakes is None and address.local:
            intakes = self._by_domain.get((address.domain, address.resource))
            own = address
            if intakes is None or not address.resource:
                own = address._replace(resource="")
                intakes = self._by_domain.get((address.domain, ""))
        if intakes is None:
            return None
        stations = self.presences.stations
        if own.full not in stations and len(stations) >= self._max_devices:
            self._events.emit(DeviceLimitReached(self._connector, own.full, self._max_devices))
            return None
        if len(self._senders) >= 2 * self._max_devices:
            del self._senders[next(iter(self._senders))]
        sender = self._senders[jid] = Sender(address, intakes, self.presences.station(own))
        return sender

    def admits_bare(self, jid: str) -> bool:
        """Whether any entry is of this JID, whatever the resource: for subscriptions, which are of bare JIDs."""
        address = parse_jid(jid)
        if address is None:
            return False
        prefix = address.bare + "/"
        return (
            address.bare in self._by_jid
            or any(key.startswith(prefix) for key in self._by_jid)
            or (bool(address.local) and any(domain == address.domain for domain, _ in self._by_domain))
        )

    def configured_jids(self) -> dict[str, Intake]:
        """The bare JIDs that the configuration names one by one."""
        return {key.partition("/")[0]: intakes[0] for key, intakes in self._by_jid.items()}

    def make(
        self, intake: Intake, name: str, profile: str, station: Station, is_node: bool = False
    ) -> Recipient | None:
        """A new device name; None when there are too many."""
        known = self.recipients.get(name)
        if known is None and len(self.recipients) >= self._max_devices:
            self._events.emit(DeviceLimitReached(self._connector, name, self._max_devices))
            return None
        template = intake.template
        if known is not None:
            device = known.device  # one device, of whichever entry came first: profile and report plan are its own
        elif name == template.name and (profile or "default") == template.profile:
            device = template
        else:
            device = Device(
                name, profile or "default", template.connector, template.connector_type, template.report
            )
        made = self.recipients[name] = Recipient(device, intake, station, is_node)
        if known is not None:
            made.twins = known.twins
        made.twins.append(made)
        station.recipients[made] = None
        if station.online:
            self.presences.tell(made)
        self.made(made)
        return made

    def node_of(self, intake: Intake, name: str, concentrator: Recipient) -> Recipient | None:
        """The device for a node behind another one, by its name; None when it cannot be."""
        known = concentrator.nodes.get(name)
        if known is None and is_device_name(name):
            known = self.make(intake, name, concentrator.device.profile, concentrator.station, is_node=True)
            if known is not None:
                concentrator.nodes[name] = known
        return known

    def accept(
        self, recipient: Recipient, telemetry: tuple[tuple[int, dict[str, Value]], ...], attributes: dict[str, Value]
    ) -> IReceipt:
        """Hand in."""
        recipient.spoke = True
        return self._ingest.accept(Reading(recipient.device, telemetry, attributes))


def _checked(jid: str) -> Address:
    """A JID that `device_config` has read."""
    address = parse_jid(jid)
    if address is None:
        raise ValueError(f"{jid} is no JID")
    return address
