# -*- test-case-name: tests.connectors.xmpp.test_connector -*-
"""One XMPP connector as a service: what lives on the link, and sorts its stanzas out.

Invariants:

* Only JIDs of the configuration are heard (P-09). Everyone else is counted, and learns nothing but what RFC 6120 owes
  him: an error to an iq.
* `stanza_received` of a message that was taken fires when its reading is on stable storage, so that receipt and
  stream-management count mean what they say. What a full store drops is counted by the store and gets no receipt.
* Nothing that a stanza holds makes an exception: what does not fit is counted.
* All timers end with `stopService`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from random import random
from typing import Any, Literal

from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element
from zope.interface import implementer

from tbgw.connectors.xmpp import iot_control, iot_sensor_data, stanzas
from tbgw.connectors.xmpp.commands import Commands
from tbgw.connectors.xmpp.converter import Body, read_iso_time
from tbgw.connectors.xmpp.device_config import ReadOutPlan, XMPPDevice
from tbgw.connectors.xmpp.device_events import (
    DeliveryFailed,
    FieldsUnusable,
    MessageIgnored,
    ReadOutFailed,
    SenderRefused,
)
from tbgw.connectors.xmpp.errors import LinkGone, StanzaNotSendable, StanzaTooLarge
from tbgw.connectors.xmpp.field_values import UNIT_SUFFIX, as_objects, sort_fields
from tbgw.connectors.xmpp.interfaces import IXMPPLink, IXMPPListener
from tbgw.connectors.xmpp.iot_sensor_data import Fields, ReadRequest
from tbgw.connectors.xmpp.outcomes import Refusal, code_of
from tbgw.connectors.xmpp.outgoing import Outgoing
from tbgw.connectors.xmpp.presence import Presences, Recipient, Resource, Station
from tbgw.connectors.xmpp.readouts import ReadOut, ReadOuts
from tbgw.connectors.xmpp.roster import Roster
from tbgw.connectors.xmpp.routes import Intake, Routes, Sender
from tbgw.connectors.xmpp.schedule import Schedule
from tbgw.errors import CommandFailed, StoreFull
from tbgw.interfaces import IConnector, IIngest, IPausable, IReceipt, IStatusSource
from tbgw.internal_events import Events
from tbgw.model import Device, Value

DELAY = "urn:xmpp:delay"
OLD_DELAY = "jabber:x:delay"
SHOWS = frozenset({"away", "chat", "dnd", "xa"})
MAX_STATUS_CHARACTERS = 200
FEATURES_SECONDS = 10.0
MAX_UNITS = 1000
"""Units of one device that are remembered, so that they are told once."""

SENSOR_DATA_PLUGIN, CONTROL_PLUGIN = "xep_0323", "xep_0325"


@implementer(IConnector, IStatusSource, IXMPPListener, IPausable)
class XMPPConnector(Service):
    """See the module."""

    connector_type = "xmpp"

    def __init__(
        self,
        name: str,
        devices: Sequence[tuple[XMPPDevice, Device]],
        link: IXMPPLink,
        plugins: Sequence[str],
        ingest: IIngest,
        events: Events,
        reactor: Any,
        now_ms: Callable[[], int],
        max_devices: int = 10_000,
        jitter: Callable[[], float] = random,
    ) -> None:
        """
        `devices`: entries, each with a Device that has its profile and report plan. `link`: not started; it is ours
        from now on. `reactor` provides IReactorTime. `now_ms`: wall time, in ms since the epoch.
        """
        self.connector_name = name
        self.messages = 0
        """Messages of configured devices, usable or not."""
        self._link = link
        self._ingest = ingest
        self._events = events
        self._now_ms = now_ms
        self._presences = Presences(ingest, reactor)
        self._routes = Routes(name, devices, ingest, self._presences, events, max_devices)
        self._outgoing = Outgoing(link, self._presences, reactor)
        self._exchanges = self._outgoing.exchanges
        wanted = [jid for jid, intake in self._routes.configured_jids().items() if intake.config.request_presence]
        self._roster = Roster(name, link, self._routes.admits_bare, wanted, events)
        has_sensor_data, has_control = SENSOR_DATA_PLUGIN in plugins, CONTROL_PLUGIN in plugins
        self._has_sensor_data = has_sensor_data
        self._read_outs = ReadOuts(link, reactor)
        self._schedule = (
            Schedule(self._read_observed, self._can_read, self._read_out_failed, reactor, jitter)
            if has_sensor_data
            else None
        )
        self._commands = Commands(
            name, self._routes, self._outgoing, self._read if has_sensor_data else None, has_control, events
        )
        self._presences.came = self._resource_came
        self._routes.made = self._recipient_made
        self._asks_features = has_sensor_data or has_control
        link.set_listener(self)
        # We speak both protocols as their clients; neither has a feature of its own for that role.
        features = [
            *([iot_sensor_data.NAMESPACE] if has_sensor_data else []),
            *([iot_control.NAMESPACE] if has_control else []),
        ]
        if features:
            link.advertise(features)

    # Service.

    def startService(self) -> None:
        """See `IConnector`."""
        super().startService()
        if self._schedule is not None:
            self._schedule.running = True
        self._ingest.add_source(self)
        IService(self._link).startService()

    def stopService(self) -> Deferred[None]:
        """See `IConnector`: fires when the stream is closed."""
        super().stopService()
        if self._schedule is not None:
            self._schedule.stop()
        self._read_outs.close()
        self._exchanges.close()
        self._presences.cut()
        self._ingest.remove_source(self)
        stopped: Deferred[None] = IService(self._link).stopService() or succeed(None)
        return stopped.addCallback(lambda _: self._presences.cut())

    def status(self) -> Mapping[str, Any]:
        """See `IStatusSource`."""
        return {
            "name": self.connector_name,
            "type": self.connector_type,
            "jid": self._link.jid,
            "connected": self._link.connected,
            "messages": self.messages,
            "devices": len(self._routes.recipients),
            "presence": dict(self._presences.counts()),
            "readOuts": len(self._read_outs),
            "link": dict(self._link.status()),
        }

    def pause_reading(self) -> None:
        """See `IPausable`: the server keeps what waits."""
        self._link.pause_reading()

    def resume_reading(self) -> None:
        """See `IPausable`."""
        self._link.resume_reading()

    # IConnector

    def attributes_changed(self, device: str, values: Mapping[str, Value], deleted: Sequence[str]) -> None:
        """See `IConnector`."""
        self._commands.attributes_changed(device, values, deleted)

    def command(self, device: str, method: str, params: Value) -> Deferred[Value]:
        """See `IConnector`."""
        return self._commands.command(device, method, params)

    def own_command(self, method: str, params: Value) -> Deferred[Value]:
        """See `IConnector`."""
        return self._commands.own_command(method, params)

    # IXMPPListener

    def link_up(self, own_jid: str) -> None:
        """See `IXMPPListener`."""
        resumed = bool(self._link.resumed)
        self._presences.logged_in(resumed)
        self._roster.logged_in(resumed)
        if self._schedule is not None:
            for recipient in self._routes.recipients.values():
                self._schedule.add(recipient)

    def link_down(self, reason: str) -> None:
        """See `IXMPPListener`. What waits for answers goes on waiting: a session that is resumed brings them."""
        self._presences.cut()

    def stanza_received(self, element: Element) -> Deferred[Any] | None:
        """See `IXMPPListener`."""
        kind = element.name
        if kind == "message":
            return self._message(element)
        if kind == "presence":
            self._presence(element)
        elif kind == "iq":
            self._iq(element)
        return None

    # Messages.

    def _message(self, element: Element) -> Deferred[Any] | None:
        jid = element.getAttribute("from", "")
        sender = self._routes.find(jid)
        if sender is None:
            self._events.emit(SenderRefused(self.connector_name, "message", jid))
            return None
        kind = element.getAttribute("type", "normal")
        if kind == "error":
            self._bounced(sender, element)
            return None
        if kind == "groupchat":
            self._events.emit(MessageIgnored(self.connector_name, jid, "it is a group's"))
            return None
        body = delay_ms = None
        thread = ""
        has_sensor_data = False
        for child in element.children:
            if isinstance(child, str):
                continue
            name, uri = child.name, child.uri
            if name == "body" and body is None:
                body = str(child)
            elif name == "thread":
                thread = str(child)
            elif uri in (DELAY, OLD_DELAY):
                stamp = _stamp_of(child)
                delay_ms = stamp if delay_ms is None or (stamp is not None and stamp < delay_ms) else delay_ms
            elif uri == iot_sensor_data.NAMESPACE:
                has_sensor_data = True
        stored: list[IReceipt] = []
        has_owner = True
        if has_sensor_data and self._has_sensor_data:
            self.messages += 1
            self._sensor_data(sender, element, stored)
        elif not body:
            return None  # a chat state, a receipt, a marker: nothing for us, and nothing wrong
        if body:
            self.messages += 1
            has_owner = self._body(sender, element, body, thread, delay_ms, stored)
        if len(stored) == 1:
            return stored[0].when_stored().addErrback(_not_stored)
        if not stored:
            return succeed(None if has_owner else False)  # of a message that is dropped its sender gets no receipt
        return gatherResults(
            [receipt.when_stored().addErrback(_not_stored) for receipt in stored], consumeErrors=True
        ).addCallbacks(lambda outcomes: False if False in outcomes else None, _first_failure)

    def _body(
        self,
        sender: Sender,
        element: Element,
        text: str,
        thread: str,
        delay_ms: int | None,
        stored: list[IReceipt],
    ) -> bool:
        """Hand its values in. Whether it was any device's, or the answer to a command."""
        quietly = False
        if self._exchanges.waits(sender.station):
            taken = self._exchanges.take(sender.station, thread, element.getAttribute("id", ""), text)
            if taken is True:
                for intake in sender.intakes:
                    known = sender.last.get(intake)
                    if known is not None:
                        known.last = sender.address.full
                return True
            quietly = taken is False
        has_owner = quietly
        for intake in sender.intakes:
            body = intake.read(text)
            recipient = intake.recipient(sender, body)
            if recipient is None:
                continue
            has_owner = True
            recipient.last = sender.address.full
            receipt = intake.take(recipient, body, self._now_ms(), delay_ms, quietly)
            if receipt is not None:
                stored.append(receipt)
        return has_owner

    def _bounced(self, sender: Sender, element: Element) -> None:
        """Something that we sent came back."""
        condition, text = stanzas.error_of(element)
        condition = condition or "undefined-condition"
        words = f"refused by the device or its server: {condition}{': ' + text if text else ''}"
        refusal = Refusal(words[:1000], code_of(condition))
        if not self._exchanges.bounced(sender.station, element.getAttribute("id", ""), refusal):
            for recipient in sender.station.recipients:
                self._events.emit(DeliveryFailed(self.connector_name, recipient.device.name, str(refusal)))

    # Sensor data.

    def _sensor_data(self, sender: Sender, element: Element, stored: list[IReceipt]) -> None:
        for event in iot_sensor_data.read_message(element):
            if isinstance(event, Fields):
                # Readings first: whoever waits for the read-out finds them handed in when it is over.
                request = self._read_outs.request_of(sender.address.full, event.seqnr)
                stored += self._fields(sender, event, request)
            self._read_outs.event(sender.address.full, event)

    def _fields(self, sender: Sender, event: Fields, request: ReadRequest | None) -> list[IReceipt]:
        """Hand the values in, to all entries of the JID. `request`: what was asked for; None: nothing."""
        now_ms = self._now_ms()
        fields = [one for one in event.fields if request is None or request.wants(one)]
        receipts: list[IReceipt] = []
        for intake in sender.intakes:
            objects = as_objects(fields, now_ms)
            recipient = intake.recipient(sender, Body("", next(iter(objects.values()), {})))
            if recipient is None:
                continue
            recipient.last = sender.address.full
            plan = intake.config.readout or ReadOutPlan()
            device = recipient.device.name
            if event.unusable:
                self._events.emit(FieldsUnusable(self.connector_name, device, event.unusable, "are none of their type"))
            if plan.data_points == "configured":
                receipts += self._configured(intake, recipient, objects)
                continue
            found = sort_fields(fields, plan, device, now_ms)
            if found.distrusted:
                why = "are flagged as errors, or have no key"
                self._events.emit(FieldsUnusable(self.connector_name, device, found.distrusted, why))
            if found.collisions:
                why = "share their key and time with another one; set keyExpression, e.g. ${node}.${field}"
                self._events.emit(FieldsUnusable(self.connector_name, device, found.collisions, why))
            for name, values in found.devices.items():
                one = recipient if name == device else self._routes.node_of(intake, name, recipient)
                if one is None:
                    continue
                attributes = {**values.attributes, **_news(one, values.units)}
                if values.telemetry or attributes:
                    receipts.append(intake.take_fields(one, values.telemetry, attributes))
        return receipts

    def _configured(
        self, intake: Intake, recipient: Recipient, objects: dict[int, dict[str, Value]]
    ) -> list[IReceipt]:
        telemetry: dict[int, dict[str, Value]] = {}
        attributes: dict[str, Value] = {}
        for ts_ms, values in sorted(objects.items()):
            found, own = intake.convert(values)
            if found:
                telemetry[ts_ms] = found
            attributes.update(own)
        if not telemetry and not attributes:
            return []
        return [intake.take_fields(recipient, telemetry, attributes)]

    def _read(self, recipient: Recipient, request: ReadRequest, timeout_seconds: float) -> Deferred[ReadOut]:
        """Raises Refusal when the device cannot be asked."""
        jid = self._outgoing.resource_of(recipient, iot_sensor_data.NAMESPACE)

        def taken(fields: Fields) -> None:
            sender = self._routes.find(jid)
            if sender is not None:
                self._fields(sender, fields, request)

        return self._read_outs.start(jid, request, timeout_seconds, taken)

    def _read_observed(self, recipient: Recipient, request: ReadRequest, timeout_seconds: float) -> Deferred[ReadOut]:
        """As `_read`, for the schedule: the outcome is told."""
        return self._outgoing.observed(recipient, self._read(recipient, request, timeout_seconds))

    def _can_read(self, recipient: Recipient) -> bool:
        if not self._link.connected or recipient.online is False:
            return False
        return "/" in recipient.target() or not recipient.station.address.local

    def _read_out_failed(self, recipient: Recipient, why: str) -> None:
        self._events.emit(ReadOutFailed(self.connector_name, recipient.device.name, why))

    # Presence.

    def _presence(self, element: Element) -> None:
        jid = element.getAttribute("from", "")
        kind = element.getAttribute("type", "")
        if not jid or self._roster.presence(kind, jid):
            return
        sender = self._routes.find(jid)
        if sender is None:
            return  # our own other resources, rooms, people of the roster: none of them spoke to us
        full, station = sender.address.full, sender.station
        if kind == "":
            self._presences.available(station, full, _resource_of(element))
        elif kind in ("unavailable", "error"):
            self._presences.unavailable(station, full)

    def _resource_came(self, station: Station, jid: str) -> None:
        if self._schedule is not None:
            for recipient in tuple(station.recipients):
                self._schedule.add(recipient)
        uses = [one for one in station.recipients if _uses_iot(one.entry.config)]
        if not uses or not self._asks_features or ("/" not in jid and station.address.local):
            return

        def got(features: tuple[str, ...]) -> None:
            if jid in station.resources:
                station.features[jid] = features
            for recipient in tuple(station.recipients):
                if recipient.entry.tells_status:
                    names = [name for name in features if name.startswith("urn:xmpp:iot:")]
                    self._presences.attributes(recipient, {"xmppFeatures": ", ".join(names)})

        self._outgoing.features(jid, FEATURES_SECONDS).addCallbacks(
            got, lambda failure: failure.trap(CommandFailed, CancelledError) and None
        )

    def _recipient_made(self, recipient: Recipient) -> None:
        if self._schedule is not None:
            self._schedule.add(recipient)

    # Requests of others.

    def _iq(self, element: Element) -> None:
        jid = element.getAttribute("from", "")
        if element.getAttribute("type") == "set" and self._roster.pushed(element):
            self._answer(stanzas.result(element))
            return
        if jid and self._routes.find(jid) is None:
            self._events.emit(SenderRefused(self.connector_name, "request", jid))
        payload = element.firstChildElement()
        known = payload is not None and payload.uri in (iot_sensor_data.NAMESPACE, iot_control.NAMESPACE)
        # We read out and control; we are neither a sensor nor an actuator.
        self._answer(stanzas.error(element, "feature-not-implemented" if known else "service-unavailable"))

    def _answer(self, element: Element) -> None:
        with suppress(LinkGone, StanzaTooLarge, StanzaNotSendable):  # whoever asked notices that we are gone
            self._link.send(element)


def _uses_iot(device: XMPPDevice) -> bool:
    return (
        device.readout is not None
        or any(rpc.send != "message" for rpc in device.rpcs)
        or any(update.send != "message" for update in device.attribute_updates)
    )


def _news(recipient: Recipient, units: dict[str, str]) -> dict[str, Value]:
    """Units that were not told yet, as attributes."""
    news: dict[str, Value] = {}
    for key, unit in units.items():
        if recipient.units.get(key) != unit and (key in recipient.units or len(recipient.units) < MAX_UNITS):
            recipient.units[key] = unit
            news[key + UNIT_SUFFIX] = unit
    return news


def _not_stored(failure: Failure) -> Literal[False]:
    """Dropped for good by the store's policy, which counted it; everything else is the link's to know."""
    failure.trap(StoreFull)
    return False


def _first_failure(failure: Failure) -> Failure:
    return failure.value.subFailure  # type: ignore[union-attr,no-any-return] # gatherResults fails with FirstError


def _stamp_of(delay: Element) -> int | None:
    """ms since the epoch of XEP-0203's `2002-09-10T23:08:25Z`, or XEP-0091's `20020910T23:08:25`."""
    return read_iso_time(delay.getAttribute("stamp", "")[:40])


def _resource_of(presence: Element) -> Resource:
    show, text, priority = "online", "", 0
    for child in presence.elements():
        if child.uri != presence.uri:
            continue
        if child.name == "show" and str(child).strip() in SHOWS:
            show = str(child).strip()
        elif child.name == "status" and not text:
            text = str(child).strip()[:MAX_STATUS_CHARACTERS]
        elif child.name == "priority":
            word = str(child).strip()
            if word.lstrip("-").isdecimal() and len(word) < 5:
                priority = max(-128, min(127, int(word)))
    return Resource(priority, show, text)
