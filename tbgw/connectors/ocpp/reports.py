# -*- test-case-name: tests.connectors.ocpp.test_reports -*-
"""What charge points say, turned into readings, and what they are answered: the upward half of the OCPP connector.

The connector delegates all of `ICentralSystem` to it but `admit`, whose `Admission.data` is the `ChargePoint` section
that the path matched (`config.UNKNOWN_CHARGE_POINT` for one that matched none and is let in all the same).

Invariants:

* A message with data is answered when its reading, and what has to be known of the charge point, is on stable storage.
  Where that is refused or fails the charge point is told to keep it (InternalError) and sends it again; boots,
  heartbeats and authorizations are answered all the same, because a car that cannot charge is worse.
* That a message cannot be converted never shows in its answer.
* A charge point keeps its name, its transactions and its standing over reconnects and restarts: one that comes back
  need not, and shall not, send BootNotification.
* Before its name can be known nothing is told of it: a new charge point's first message is its boot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbgw.connectors.ocpp.authorization import decide
from tbgw.connectors.ocpp.charge_point import Entry, KnownStation
from tbgw.connectors.ocpp.config import ChargePoint, OCPPConfig
from tbgw.connectors.ocpp.converter import boot_fields
from tbgw.connectors.ocpp.identities import Identities
from tbgw.connectors.ocpp.policy import Tag
from tbgw.connectors.ocpp.replies import Asked, answer
from tbgw.connectors.ocpp.report_events import (
    BootAnswered,
    ConversionFailed,
    ExpressionUnresolved,
    MessageFaulty,
    MessageRefused,
    ReplyWithheld,
    TagDenied,
    TransactionUnknown,
    ValuesLeftOut,
)
from tbgw.connectors.ocpp.sessions import SessionKeeper
from tbgw.connectors.ocpp.shared_tags import SharedTags
from tbgw.connectors.ocpp.stations import InStoreThread, Record, Stations
from tbgw.connectors.ocpp.telemetry import Mapped, Message, configuration_attributes
from tbgw.connectors.ocpp.timestamps import format_timestamp
from tbgw.connectors.ocpp.transactions import Transaction, TransactionIds
from tbgw.errors import StoreError, StoreFull
from tbgw.interfaces import IDownlink, IIngest, IReceipt
from tbgw.internal_events import Events
from tbgw.model import Device, Reading, ReportStrategy, Value
from tbgw.ocpp.errors import CallRefused
from tbgw.ocpp.interfaces import IStation

HEARTBEAT_MS = 60_000
"""A heartbeat is passed on at most so often."""

_ANSWERED_ANYWAY = frozenset({"BootNotification", "Heartbeat", "Authorize"})
"""Answered also when what they say cannot be stored."""
_PASS_WHILE_PENDING = frozenset({"BootNotification", "NotifyReport", "NotifyMonitoringReport"})
"""Reports are what a Central System asks for while it has not accepted a station yet (2.x, B02)."""
_REFUSED_BOOTS = frozenset({"Pending", "Rejected"})

_NONE: Mapping[str, Value] = MappingProxyType({})

Answer = dict[str, Any]


class StationReports:
    """See the module. Keys of everything are paths, as in `Handshake.path`."""

    def __init__(
        self,
        name: str,
        config: OCPPConfig,
        ingest: IIngest,
        events: Events,
        reactor: Any,
        now_ms: Callable[[], int],
        data_dir: Path,
        run_in_store_thread: InStoreThread,
        report: ReportStrategy,
        downlink: IDownlink | None = None,
    ) -> None:
        """
        `reactor` provides IReactorTime; `now_ms`: wall time, ms since the epoch; `run_in_store_thread`: `ISpool`'s;
        `report`: the general strategy; `downlink`: whom `authorization.fromSharedAttribute` asks, None: nobody.
        """
        self._name = name
        self._config = config
        self._ingest = ingest
        self._events = events
        self._reactor = reactor
        self._now_ms = now_ms
        transactions = config.central_system.transactions
        self._stations = Stations(name, data_dir, run_in_store_thread, events, transactions.persist)
        self._ids = TransactionIds(transactions.first_id, now_ms())
        self._sessions = SessionKeeper(self._ids)
        self._known: dict[str, KnownStation] = {}
        self._entries: dict[int, Entry] = {}
        """By the identity of the section, which is frozen and compared by value otherwise."""
        self._identities = Identities(name, report, config.report, events, ingest.disconnected)
        self._tags = SharedTags(name, downlink, reactor, events, self._keep)
        self._callbacks: list[Callable[[IStation], None]] = []
        self._log = Logger()

    def restore(self) -> Deferred[None]:
        """Read what was kept. Fires when charge points may come; never fails: what cannot be read is said and lost."""

        def restored(_: None) -> None:
            self._ids.restore(self._stations.last_transaction_id)
            for record in self._stations:
                known = self._known.setdefault(record.path, KnownStation(record))
                if record.name is not None and known.device is None:
                    self._identities.be(known, record.name, record.profile)

        self._tags.open()
        return self._stations.restore().addCallback(restored)

    def close(self) -> Deferred[None]:
        """Fires when everything is kept and the file is closed. All stations have been told `disconnected` before."""
        self._tags.close()
        return self._stations.close()

    # ICentralSystem, all but `admit`.

    def connected(self, station: IStation, attributes: Mapping[str, Value] = _NONE) -> None:
        """See `ICentralSystem`. `attributes`: what is known of the connection besides, told together with it."""
        path = station.path
        known = self._known.get(path)
        if known is None:
            known = self._known[path] = KnownStation(self._record(path))
        known.entry = self._entry(station.data)
        known.station = station
        known.is_ready = known.told_online = False
        known.connections += 1
        known.expected = frozenset()
        if attributes and known.entry.mapper is not None:
            known.extra = _joined(known.extra, {}, attributes)
        self._identify(known, station)

    def disconnected(self, station: IStation, reason: str) -> None:
        """See `ICentralSystem`."""
        known = self._known.get(station.path)
        if known is None or known.station is not station:
            return
        known.station = None
        self._tags.forget(station.path)
        device = known.device
        if device is None or not known.told_online:
            return
        now_ms = self._now_ms()
        known.told_online = False
        if known.entry is not None and known.entry.mapper is not None:
            details = {"lastDisconnectReason": reason[:200], "lastDisconnectTs": now_ms}
            self._ingest.accept(Reading(device, ((now_ms, {"online": False}),), details))
        self._identities.tell_gone(known)

    def call_received(
        self, station: IStation, action: str, payload: dict[str, Any], faults: Sequence[str]
    ) -> Deferred[Answer] | Answer:
        """See `ICentralSystem`. Data-bearing messages are answered once their reading is on stable storage."""
        known = self._known[station.path]
        now_ms = self._now_ms()
        self._note_faults(known, action, faults)
        try:
            made, waits = self._answered(known, station, action, payload, now_ms)
        except CallRefused as refusal:
            self._events.emit(MessageRefused(self._name, station.path, action, str(refusal)))
            raise
        finally:
            if action in known.expected:
                known.expected -= {action}
        ready = not known.is_ready and self.is_accepted(station.path)
        if not waits:
            if ready:
                self._ready(known, station)
            return made
        stored = waits[0] if len(waits) == 1 else gatherResults(waits, consumeErrors=True)
        answered = cast("Deferred[Any]", stored).addCallbacks(
            lambda _: made, self._not_stored, errbackArgs=(station.path, action, made)
        )
        if action == "BootNotification":
            answered.addCallback(self._with_time)
        if ready:
            answered.addCallback(self._ready_after, known, station)
        return answered

    def send_received(self, station: IStation, action: str, payload: dict[str, Any], faults: Sequence[str]) -> None:
        """See `ICentralSystem`."""
        known = self._known[station.path]
        self._note_faults(known, action, faults)
        if self._is_refused(known, action):
            return
        self._convert(known, station, action, payload, None, self._now_ms())

    # What a message does.

    def _answered(
        self, known: KnownStation, station: IStation, action: str, payload: dict[str, Any], now_ms: int
    ) -> tuple[Answer, list[Deferred[None]]]:
        """The answer, and what it has to wait for. Raises CallRefused."""
        entry = self._entry_of(known)
        if self._is_refused(known, action):
            raise CallRefused("SecurityError", f"{action} before BootNotification was accepted")
        if action == "Heartbeat" and not entry.converter.names(action):
            self._heartbeat(known, now_ms)
            return answer(self._asked(known, station, action, payload, now_ms, None)), []
        try:
            session = self._sessions.apply(known.record.sessions, station.version, action, payload, now_ms)
            made = answer(self._asked(known, station, action, payload, now_ms, session))
        except CallRefused:
            if entry.converter.names(action):
                self._convert(known, station, action, payload, None, now_ms)
            raise
        waits: list[Deferred[None]] = []
        if action == "BootNotification":
            self._booted(known, station, payload, made)
        if action == "BootNotification" or (
            session is not None and (known.record.sessions.changed or not self._stations.is_kept(known.record))
        ):
            known.record.seen_ms = now_ms
            waits.append(self._stations.save(known.record, self._ids.last))
        if action == "StopTransaction" and session is None:
            number = str(payload.get("transactionId"))[:40]
            self._events.emit(TransactionUnknown(self._name, station.path, number))
        if made.get("status") != "Rejected" or action != "BootNotification":
            receipts = self._convert(known, station, action, payload, session, now_ms)
            if action != "Heartbeat":
                waits += [receipt.when_stored() for receipt in receipts]
        return made, waits

    def _asked(
        self,
        known: KnownStation,
        station: IStation,
        action: str,
        payload: dict[str, Any],
        now_ms: int,
        session: Transaction | None,
    ) -> Asked:
        entry = self._entry_of(known)
        return Asked(
            station.version,
            action,
            payload,
            entry.policy,
            now_ms,
            lambda tag: self._decide(known, tag, now_ms),
            session.id if session is not None and isinstance(session.id, int) else 0,
            entry.converter.takes(action),
        )

    def _decide(self, known: KnownStation, tag: str, now_ms: int) -> Tag:
        decided = decide(self._entry_of(known).policy.authorization, known.shared_tags(), tag, now_ms)
        if decided.status != "Accepted":
            self._events.emit(TagDenied(self._name, known.record.path, decided.status))
        return decided

    def _booted(self, known: KnownStation, station: IStation, payload: dict[str, Any], made: Answer) -> None:
        record = known.record
        record.boot = boot_fields(payload)
        record.boot_status = made["status"]
        known.memory.units.clear()
        if made["status"] != "Rejected":
            self._identify(known, station)
        self._events.emit(
            BootAnswered(
                self._name,
                record.path,
                str(record.boot.get("Vendor", "?")),
                str(record.boot.get("Model", "?")),
                station.version.value,
                made["status"],
            )
        )

    def _heartbeat(self, known: KnownStation, now_ms: int) -> None:
        if self._entry_of(known).mapper is None or now_ms - known.heartbeat_ms < HEARTBEAT_MS:
            self._device_for(known)
            return
        known.heartbeat_ms = now_ms
        device = self._device_for(known)
        if device is not None:
            self._ingest.accept(Reading(device, ((now_ms, {"heartbeat": now_ms}),)))

    def _is_refused(self, known: KnownStation, action: str) -> bool:
        """Whether its boot was answered in a way that forbids the message. Never because no boot was seen."""
        if known.record.boot_status not in _REFUSED_BOOTS:
            return False
        if self._entry_of(known).policy.boot_status == "Accepted":
            return False  # the file was changed since
        if action in known.expected and known.record.boot_status == "Pending":
            return False
        return action not in _PASS_WHILE_PENDING if known.record.boot_status == "Pending" else (
            action != "BootNotification"
        )

    def _note_faults(self, known: KnownStation, action: str, faults: Sequence[str]) -> None:
        if faults:
            known.faulty += 1
            self._events.emit(MessageFaulty(self._name, known.record.path, action, faults[0][:300]))

    def _not_stored(self, why: Failure, path: str, action: str, made: Answer) -> Answer:
        error = why.value
        if type(error).__name__ == "FirstError":
            error = cast(Any, error).subFailure.value
        if not isinstance(error, (StoreError, StoreFull)):
            self._log.failure("storing what {path} said in {action}", why, path=path, action=action)
        self._events.emit(ReplyWithheld(self._name, path, action, str(error)))
        if action in _ANSWERED_ANYWAY:
            return made
        raise CallRefused("InternalError", "could not be stored, please send it again")

    # Readings.

    def _convert(
        self,
        known: KnownStation,
        station: IStation,
        action: str,
        payload: dict[str, Any],
        session: Transaction | None,
        now_ms: int,
    ) -> list[IReceipt]:
        """Hand in what the message says."""
        entry = self._entry_of(known)
        mapped = Mapped()
        try:
            if entry.mapper is not None:
                entry.mapper.map(Message(station.version, action, payload, now_ms, session), known.memory, mapped)
                if known.faulty != known.told_faulty:
                    known.told_faulty = known.faulty
                    mapped.at("", now_ms)["invalidMessages"] = known.faulty
            if action == "SignCertificate" and entry.policy.certificate_signing == "forward":
                self._forward_request(payload, now_ms, mapped)
            entry.converter.convert(action, payload, known.context, now_ms, mapped)
        except Exception as error:  # noqa: BLE001 - the service's edge: a fault of ours must not reach the charger
            self._log.failure("converting {action} of {path}", action=action, path=station.path)
            self._events.emit(ConversionFailed(self._name, station.path, action, repr(error)))
        if mapped.unusable:
            self._tell_unusable(station.path, action, mapped.unusable)
        device = self._device_for(known)
        if device is None:
            return []
        return self._hand_in(known, device, mapped)

    def _forward_request(self, payload: dict[str, Any], now_ms: int, mapped: Mapped) -> None:
        request, kind = payload.get("csr"), payload.get("certificateType")
        if isinstance(request, str):
            values = mapped.at("", now_ms)
            values["certificateSigningRequest"] = request
            values["certificateType"] = kind if isinstance(kind, str) else "ChargingStationCertificate"

    def _tell_unusable(self, path: str, action: str, unusable: Mapping[str, int]) -> None:
        for reason, amount in unusable.items():
            if reason == "expression":
                self._events.emit(ExpressionUnresolved(self._name, path, action, amount))
            else:
                self._events.emit(ValuesLeftOut(self._name, path, action, reason, amount))

    def _hand_in(self, known: KnownStation, device: Device, mapped: Mapped) -> list[IReceipt]:
        receipts = []
        for suffix in mapped.telemetry.keys() | mapped.attributes.keys():
            told = mapped.telemetry.get(suffix, {})
            telemetry = tuple(sorted(told.items())) if len(told) > 1 else tuple(told.items())
            of = self._identities.connector_device(known, device, suffix) if suffix else device
            receipts.append(self._ingest.accept(Reading(of, telemetry, mapped.attributes.get(suffix, {}))))
        return receipts

    def _keep(self, known: KnownStation) -> None:
        """Save what nobody waits for. That it cannot be written is told by the file itself."""
        self._stations.save(known.record).addErrback(lambda _: None)

    # Who is who.

    def _record(self, path: str) -> Record:
        found = self._stations.get(path)
        if found is not None:
            return found

        def is_connected(other: str) -> bool:
            known = self._known.get(other)
            return known is not None and known.station is not None

        record, forgotten = self._stations.add(path, self._now_ms(), is_connected)
        if forgotten is not None and forgotten in self._known:
            self._identities.leave(self._known.pop(forgotten))
        return record

    def _entry(self, charge_point: ChargePoint) -> Entry:
        entry = self._entries.get(id(charge_point))
        if entry is None or entry.charge_point is not charge_point:
            entry = self._entries[id(charge_point)] = Entry(self._config, charge_point, self._stations.salt)
        return entry

    def _entry_of(self, known: KnownStation) -> Entry:
        if known.entry is None:
            raise ValueError(f"{known.record.path} has not connected")
        return known.entry

    def _identify(self, known: KnownStation, station: IStation) -> None:
        """Make its name of what is known now, and tell that it is there once there is one."""
        entry = self._entry_of(known)
        context = known.context()
        name = entry.naming.name(context)
        if name is not None:
            self._identities.be(known, name, entry.naming.profile(context))
            if entry.policy.boot_status != "Rejected":
                self._announce(known, station)

    def _device_for(self, known: KnownStation) -> Device | None:
        """The charge point's device; by its fallback name if no better one can be had by now."""
        station = known.station
        if known.entry is None or station is None:
            return known.device
        if not known.told_online:
            if known.device is None:
                context = known.context()
                name = known.entry.naming.fallback(context)
                if name is None:
                    return None
                self._identities.be(known, name, known.entry.naming.profile(context))
            self._announce(known, station)
        return known.device

    def _announce(self, known: KnownStation, station: IStation) -> None:
        """Tell ThingsBoard that it is there, if that was not told of this connection."""
        device = known.device
        if known.told_online or device is None:
            return
        known.told_online = True
        told_values, told_attributes = known.extra or ({}, {})
        values, attributes = dict(told_values), dict(told_attributes)
        known.extra = None
        now_ms = self._now_ms()
        if self._entry_of(known).mapper is not None:
            attributes["ocppVersion"] = station.version.value
            attributes["remoteAddress"] = station.peer[0]
            attributes["chargePointId"] = station.identity
            attributes["lastConnectTs"] = now_ms
            values["online"] = True
            values["reconnects"] = known.connections - 1
        self._ingest.accept(Reading(device, ((now_ms, values),) if values else (), attributes))
        self._tags.ask(known)

    # Ready.

    def _ready(self, known: KnownStation, station: IStation) -> None:
        known.is_ready = True
        # Later, so that the answer to the message that made it ready is on its way before anything of ours.
        self._reactor.callLater(0, self._tell_ready, known, station)

    def _with_time(self, made: Answer) -> Answer:
        """The charge point sets its clock by this answer, so it does not tell the time of before the disk."""
        return {**made, "currentTime": format_timestamp(self._now_ms())}

    def _ready_after(self, made: Answer, known: KnownStation, station: IStation) -> Answer:
        if known.station is station and not known.is_ready:
            self._ready(known, station)
        return made

    def _tell_ready(self, known: KnownStation, station: IStation) -> None:
        if known.station is station:
            for callback in list(self._callbacks):
                callback(station)

    # What the downward half asks and tells.

    def device_of(self, path: str) -> Device | None:
        """The device that this charge point is; None before its name is known. Stays when it disconnects."""
        known = self._known.get(path)
        return None if known is None else known.device

    def paths_of(self, device_name: str) -> Sequence[str]:
        """
        The charge points that are the device of this name, connected or not, the one that was identified last first;
        the name of a connector's own device (`connectorDevices`) gives its charge point.
        """
        found = self._identities.connector_of(device_name)
        if found is not None:
            return (found[0],)
        return tuple(known.record.path for known in self._identities.of_device(device_name))

    def connector_of(self, device_name: str) -> int | None:
        """With `connectorDevices`: the connector (2.x: EVSE) that the device of this name is; None: a charge point."""
        found = self._identities.connector_of(device_name)
        return None if found is None else found[1]

    def transaction_of(self, path: str, connector_id: int | None = None) -> int | str | None:
        """
        The running transaction on this connector (2.x: EVSE): a number in 1.6, a text in 2.x. Without a connector
        the only one that runs, else None: nothing is guessed.
        """
        known = self._known.get(path)
        if known is None:
            return None
        sessions = known.record.sessions
        found = sessions.only_running() if connector_id is None else sessions.running_on(connector_id)
        return None if found is None else found.id

    def is_accepted(self, path: str) -> bool:
        """Whether its boot was accepted, or it never was refused one: RemoteStart and the like may be sent."""
        return self.boot_status(path) not in _REFUSED_BOOTS

    def boot_status(self, path: str) -> str | None:
        """`Accepted`, `Pending` or `Rejected` as last answered; None when it never booted. Rejected: stay silent."""
        known = self._known.get(path)
        if known is None:
            return None
        accepts = known.entry is not None and known.entry.policy.boot_status == "Accepted"
        return "Accepted" if accepts and known.record.boot_status is not None else known.record.boot_status

    def expect(self, path: str, action: str) -> None:
        """We asked for this message (TriggerMessage, GetBaseReport): let through once while boot is Pending."""
        known = self._known.get(path)
        if known is not None and len(known.expected) < 20:
            known.expected |= {action}

    def tell(self, path: str, values: Mapping[str, Value], attributes: Mapping[str, Value]) -> None:
        """
        Pass on what the downward half knows of a charge point, now or as soon as it has a name, where the default
        mapping is on. What is said again before it could be told replaces what was said.
        """
        known = self._known.get(path)
        if known is None or known.entry is None or known.entry.mapper is None:
            return
        if known.device is None or (known.station is not None and not known.told_online):
            known.extra = _joined(known.extra, values, attributes)
            return
        telemetry = ((self._now_ms(), dict(values)),) if values else ()
        self._ingest.accept(Reading(known.device, telemetry, dict(attributes)))

    def call_timed_out(self, path: str) -> None:
        """A Call of ours to it had no answer in time: `callTimeouts`, their number since the start."""
        known = self._known.get(path)
        if known is not None:
            known.call_timeouts += 1
            self.tell(path, {"callTimeouts": known.call_timeouts}, {})

    def tell_configuration(self, path: str, keys: Value) -> None:
        """`configurationKey` of a GetConfiguration: attributes `config_<key>`, if the file asks for them."""
        known = self._known.get(path)
        if known is None or known.entry is None or known.entry.mapper is None:
            return
        attributes = configuration_attributes(keys) if known.entry.policy.mapping.configuration else {}
        if attributes:
            self.tell(path, {}, attributes)

    def on_ready(self, callback: Callable[[IStation], None]) -> None:
        """
        Call this for each connection once: after its first accepted boot, or after the answer to its first message if
        that was no boot. Shared attributes that waited may be delivered then.
        """
        self._callbacks.append(callback)

    def attributes_changed(self, device: str, values: Mapping[str, Value], deleted: Sequence[str]) -> None:
        """To be told of every change of shared attributes, for `authorization.fromSharedAttribute`."""
        for known in self._identities.of_device(device):
            self._tags.changed(known, device, values, deleted)

    def status(self) -> Mapping[str, Any]:
        """Counts for `IStatusSource.status`."""
        connected = sum(1 for known in self._known.values() if known.station is not None)
        running = sum(1 for record in self._stations for session in record.sessions if session.runs)
        return {"connected": connected, "transactions": running, **self._stations.plain()}


_Extra = tuple[Mapping[str, Value], Mapping[str, Value]]


def _joined(before: _Extra | None, values: Mapping[str, Value], attributes: Mapping[str, Value]) -> _Extra:
    told_values, told_attributes = before or (_NONE, _NONE)
    return {**told_values, **values}, {**told_attributes, **attributes}
