# -*- test-case-name: tests.connectors.ocpp.test_telemetry -*-
"""The default mapping: what a charge point's messages become when nobody wrote an expression (spec ocpp, section 8).
Pure.

* Values of a connector have the prefix `connector_<n>_` (2.x: `evse_<n>_`, with `connector_<m>_` behind it for a
  further connector), those of the whole charge point none; with `connectorDevices` each connector is a device of its
  own, named `<device> Connector <n>`, and its keys have no prefix.
* All of one instant is one entry, however many messages' worth of keys it has.
* No message can make it fail: what does not have the form that the schema asks for is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2s
from typing import Any, NamedTuple

from tbgw.connectors.ocpp.measurands import Kinds, number_of, read_samples
from tbgw.connectors.ocpp.policy import DefaultMapping
from tbgw.connectors.ocpp.timestamps import believable
from tbgw.connectors.ocpp.transactions import Transaction
from tbgw.model import Value
from tbgw.ocpp.versions import Version

MAX_TEXT_CHARACTERS = 1000
"""Longest text of a message that is passed on; the longest of the standard has 2500 (info of a security event: 255)."""
MAX_CONNECTOR = 999
MAX_REMEMBERED = 512
"""Connectors and units remembered for each charge point."""
MAX_CONNECTOR_DEVICES = 64
"""Connectors of one charge point that become devices; those beyond stay prefixes."""
MAX_MESSAGE_SAMPLES = 5000
"""Sampled values of one message that are looked at, which is 10 ms; a day of a transaction's clock-aligned data of ten
measurands each quarter of an hour has 960."""
MAX_PREFIXES = 100
"""Prefixes whose keys are remembered, over all charge points: connectors are mostly 1 to 4."""
MAX_EVENTS = 1000
"""Entries of one NotifyEvent or NotifyReport that are looked at."""
MAX_NAMES_CHARACTERS = 200
"""Of component and variable together; ThingsBoard's keys have 255."""
_SECRETS = ("password", "authorizationkey", "secret", "privatekey", "passphrase")

_BOOT_16 = {
    "chargePointVendor": "vendor",
    "chargePointModel": "model",
    "chargePointSerialNumber": "serialNumber",
    "chargeBoxSerialNumber": "chargeBoxSerialNumber",
    "firmwareVersion": "firmwareVersion",
    "iccid": "iccid",
    "imsi": "imsi",
    "meterType": "meterType",
    "meterSerialNumber": "meterSerialNumber",
}
_STATION_2 = {
    "vendorName": "vendor",
    "model": "model",
    "serialNumber": "serialNumber",
    "firmwareVersion": "firmwareVersion",
}
_CHARGING_STATES = {
    "Charging": "Charging",
    "SuspendedEV": "SuspendedEV",
    "SuspendedEVSE": "SuspendedEVSE",
    "EVConnected": "Preparing",
    "Idle": "Finishing",
}


class Mapped:
    """What one message became. Devices are told by what follows the charge point's name: `` or ` Connector 2`."""

    __slots__ = ("attributes", "telemetry", "unusable")

    def __init__(self) -> None:
        self.telemetry: dict[str, dict[int, dict[str, Value]]] = {}
        self.attributes: dict[str, dict[str, Value]] = {}
        self.unusable: dict[str, int] = {}
        """How much was left out, by the reason."""

    def at(self, device: str, time_ms: int) -> dict[str, Value]:
        """The values of one device at one instant, to be filled."""
        return self.telemetry.setdefault(device, {}).setdefault(time_ms, {})

    def of(self, device: str) -> dict[str, Value]:
        """The attributes of one device, to be filled."""
        return self.attributes.setdefault(device, {})

    def left_out(self, reason: str, amount: int = 1) -> None:
        """Count it."""
        self.unusable[reason] = self.unusable.get(reason, 0) + amount


@dataclass(slots=True)
class Memory:
    """What the mapping has to know of earlier messages of a charge point. Bounded; lost with a restart."""

    statuses: dict[tuple[int, int], str] = field(default_factory=dict)
    """Status as reported, by (EVSE, connector); of 2.x, where the state is made of it and of the transaction."""
    units: dict[tuple[str, str], str] = field(default_factory=dict)
    """By device and key: told again only when they change."""
    connectors: frozenset[int] = frozenset()
    """Those that are devices of their own."""

    def unit_is_new(self, device: str, key: str, unit: str) -> bool:
        """Whether the unit has to be told."""
        if self.units.get((device, key)) == unit:
            return False
        if len(self.units) >= MAX_REMEMBERED:
            self.units.clear()
        self.units[device, key] = unit
        return True

    def set_status(self, where: tuple[int, int], status: str) -> None:
        """Remember it."""
        if where in self.statuses or len(self.statuses) < MAX_REMEMBERED:
            self.statuses[where] = status


class Message(NamedTuple):
    """One message, and what the state of its charge point made of it."""

    version: Version
    action: str
    payload: Mapping[str, Any]
    now_ms: int
    session: Transaction | None = None
    """The transaction that it belongs to, already begun, changed or ended by it."""


class Place(NamedTuple):
    """Where values of a connector go."""

    device: str
    prefix: str


STATION = Place("", "")


def text_of(value: Any) -> str | None:
    """A text of sane length, else None."""
    return value if isinstance(value, str) and len(value) <= MAX_TEXT_CHARACTERS else None


def integer_of(value: Any) -> int | None:
    """A whole number, written as a number or as a text; else None."""
    found = number_of(value)
    return int(found) if found is not None and found == int(found) and abs(found) < 2**53 else None


class DefaultMapper:
    """The mapping with its options, for any number of charge points. `salt`: what hashed idTags are salted with."""

    def __init__(self, options: DefaultMapping, salt: bytes) -> None:
        self._options = options
        self._salt = salt
        self._raw = options.units == "raw"
        self._zone = options.zone
        self._kinds_by_prefix: dict[str, Kinds] = {}
        self._maps: dict[str, Callable[[Message, Memory, Mapped], None]] = {
            "BootNotification": self._boot,
            "StatusNotification": self._status,
            "MeterValues": self._meter_values,
            "StartTransaction": self._start,
            "StopTransaction": self._stop,
            "TransactionEvent": self._transaction_event,
            "FirmwareStatusNotification": self._stated("firmwareStatus"),
            "SignedFirmwareStatusNotification": self._stated("firmwareStatus"),
            "PublishFirmwareStatusNotification": self._stated("publishFirmwareStatus"),
            "DiagnosticsStatusNotification": self._stated("diagnosticsStatus"),
            "LogStatusNotification": self._stated("logStatus"),
            "SecurityEventNotification": self._security_event,
            "NotifyEvent": self._notify_event,
            "NotifyReport": self._notify_report,
            "NotifyChargingLimit": self._charging_limit,
            "ClearedChargingLimit": self._charging_limit,
            "ReservationStatusUpdate": self._reservation,
            "NotifyPeriodicEventStream": self._event_stream,
            "NotifyDERAlarm": self._der_alarm,
            "DataTransfer": self._data_transfer,
        }

    def map(self, message: Message, memory: Memory, into: Mapped) -> None:
        """Add what the message says. Messages that say nothing of their own leave `into` as it is."""
        mapping = self._maps.get(message.action)
        if mapping is not None:
            mapping(message, memory, into)

    # Where and when.

    def _place(self, version: Version, memory: Memory, connector: Any, second: Any = None) -> Place:
        """`second`: the connector of an EVSE. What is no possible number is the charge point as a whole."""
        number = integer_of(connector)
        if number is None or not 0 < number <= MAX_CONNECTOR:
            return STATION
        further = integer_of(second) or 1
        behind = f"connector_{further}_" if 1 < further <= MAX_CONNECTOR else ""
        if self._options.connector_devices:
            if number not in memory.connectors and len(memory.connectors) < MAX_CONNECTOR_DEVICES:
                memory.connectors |= {number}
            if number in memory.connectors:
                return Place(f" Connector {number}", behind)
        return Place("", f"{'evse' if version.is_2 else 'connector'}_{number}_{behind}")

    def _time(self, stated: Any, now_ms: int, into: Mapped) -> int:
        if stated is None:
            return now_ms
        found = believable(stated, now_ms, self._zone)
        if found is None:
            into.left_out("timestamp")
            return now_ms
        return found

    def id_tag(self, tag: str) -> str | None:
        """An idTag as it may be shown; None: not at all."""
        how = self._options.id_tags
        if how == "hidden":
            return None
        if how == "plain":
            return tag[:MAX_TEXT_CHARACTERS]
        if how == "hashed":
            return blake2s(tag.lower().encode("utf-8", "replace"), key=self._salt[:32], digest_size=8).hexdigest()
        return "****" + (tag[-3:] if len(tag) > 6 else "")

    # Messages.

    def _stated(self, key: str) -> Callable[[Message, Memory, Mapped], None]:
        """A message that has a `status` and nothing else that matters."""

        def map_status(message: Message, memory: Memory, into: Mapped) -> None:
            status = text_of(message.payload.get("status"))
            if status is not None:
                into.at("", message.now_ms)[key] = status

        return map_status

    def _boot(self, message: Message, memory: Memory, into: Mapped) -> None:
        payload = message.payload
        values = into.at("", message.now_ms)
        values["boot"] = 1
        names = _BOOT_16
        if message.version.is_2:
            reason = text_of(payload.get("reason"))
            if reason is not None:
                values["bootReason"] = reason
            station = payload.get("chargingStation")
            payload, names = station if isinstance(station, dict) else {}, _STATION_2
            modem = payload.get("modem")
            if isinstance(modem, dict):
                payload = {**payload, "iccid": modem.get("iccid"), "imsi": modem.get("imsi")}
                names = {**names, "iccid": "iccid", "imsi": "imsi"}
        attributes = {key: text for name, key in names.items() if (text := text_of(payload.get(name)))}
        if attributes:
            into.of("").update(attributes)

    def _status(self, message: Message, memory: Memory, into: Mapped) -> None:
        payload = message.payload
        time_ms = self._time(payload.get("timestamp"), message.now_ms, into)
        if message.version.is_2:
            evse, connector = payload.get("evseId"), payload.get("connectorId")
            self._set_status(message.version, memory, into, evse, connector, payload.get("connectorStatus"), time_ms)
            return
        connector = payload.get("connectorId")
        place = self._set_status(message.version, memory, into, connector, None, payload.get("status"), time_ms)
        values = into.at(place.device, time_ms)
        for name in ("errorCode", "vendorErrorCode", "info"):
            text = text_of(payload.get(name))
            if text is not None:
                values[place.prefix + name] = text

    def _set_status(
        self,
        version: Version,
        memory: Memory,
        into: Mapped,
        number: Any,
        second: Any,
        status: Any,
        time_ms: int,
    ) -> Place:
        place = self._place(version, memory, number, second)
        status = text_of(status)
        if status is not None:
            if version.is_2:
                memory.set_status((integer_of(number) or 0, integer_of(second) or 1), status)
            into.at(place.device, time_ms)[place.prefix + "status"] = status
            into.of(place.device)[place.prefix + "status"] = status
            self._set_state(place, into, status, None, time_ms)
        return place

    def _set_state(self, place: Place, into: Mapped, status: str, session: Transaction | None, time_ms: int) -> None:
        """The state in the words of 1.6, whatever the version."""
        state = status
        if status == "Occupied":
            state = "Preparing"
            if session is not None:
                charging = _CHARGING_STATES.get(session.charging_state or "", "Preparing")
                state = charging if session.runs else "Finishing"
        values = into.at(place.device, time_ms)
        values[place.prefix + "state"] = state
        values[place.prefix + "available"] = state == "Available"
        values[place.prefix + "charging"] = state == "Charging"
        values[place.prefix + "faulted"] = state == "Faulted"

    def _meter_values(self, message: Message, memory: Memory, into: Mapped) -> None:
        payload = message.payload
        number = payload.get("evseId" if message.version.is_2 else "connectorId")
        place = self._place(message.version, memory, number)
        self._samples(message, memory, into, place, payload.get("meterValue"))

    def _samples(self, message: Message, memory: Memory, into: Mapped, place: Place, meter_values: Any) -> None:
        if not isinstance(meter_values, list):
            if meter_values is not None:
                into.left_out("sample")
            return
        kinds = self._kinds(place.prefix)
        count = 0
        for meter_value in meter_values:
            if not isinstance(meter_value, dict):
                into.left_out("sample")
                continue
            sampled = meter_value.get("sampledValue")
            count += len(sampled) if isinstance(sampled, list) else 1
            if count > MAX_MESSAGE_SAMPLES:
                into.left_out("sample", len(meter_values))
                return
            read = read_samples(sampled, kinds, self._options.phase_totals)
            if read.unusable:
                into.left_out("sample", read.unusable)
            if read.values:
                told = into.telemetry.setdefault(place.device, {})
                time_ms = self._time(meter_value.get("timestamp"), message.now_ms, into)
                if time_ms in told:
                    told[time_ms].update(read.values)
                else:
                    told[time_ms] = read.values
                for key, unit in read.units.items():
                    if memory.unit_is_new(place.device, key, unit):
                        into.of(place.device)[key] = unit

    def _kinds(self, prefix: str) -> Kinds:
        kinds = self._kinds_by_prefix.get(prefix)
        if kinds is None:
            if len(self._kinds_by_prefix) >= MAX_PREFIXES:
                self._kinds_by_prefix.clear()
            kinds = self._kinds_by_prefix[prefix] = Kinds(prefix, self._raw)
        return kinds

    def _start(self, message: Message, memory: Memory, into: Mapped) -> None:
        session = message.session
        if session is None:
            return
        payload = message.payload
        place = self._place(message.version, memory, session.connector)
        time_ms = self._time(payload.get("timestamp"), message.now_ms, into)
        self._begun(session, place, into, time_ms)

    def _begun(self, session: Transaction, place: Place, into: Mapped, time_ms: int) -> None:
        device, prefix = place
        values = into.at(device, time_ms)
        values[prefix + "transactionId"] = session.id
        values[prefix + "transaction"] = "started"
        if session.meter_start is not None:
            values[prefix + "meterStart"] = session.meter_start
        if session.id_tag is not None and (shown := self.id_tag(session.id_tag)) is not None:
            values[prefix + "idTag"] = shown
        into.of(device)[prefix + "activeTransactionId"] = session.id

    def _stop(self, message: Message, memory: Memory, into: Mapped) -> None:
        payload = message.payload
        session = message.session
        place = STATION if session is None else self._place(message.version, memory, session.connector)
        time_ms = self._time(payload.get("timestamp"), message.now_ms, into)
        self._samples(message, memory, into, place, payload.get("transactionData"))
        meter_stop = number_of(payload.get("meterStop"))
        stated = integer_of(payload.get("transactionId"))
        self._ended(session, place, into, time_ms, stated, payload.get("reason"), meter_stop)

    def _ended(
        self,
        session: Transaction | None,
        place: Place,
        into: Mapped,
        time_ms: int,
        stated: int | str | None,
        reason: Any,
        meter_stop: int | float | None,
    ) -> None:
        device, prefix = place
        values = into.at(device, time_ms)
        values[prefix + "transaction"] = "stopped"
        values[prefix + "stopReason"] = text_of(reason) or "Local"
        if stated is not None:
            values[prefix + "transactionId"] = stated
        if meter_stop is not None:
            values[prefix + "meterStop"] = meter_stop
        if session is None:
            return
        energy, seconds = session.session_energy(meter_stop), session.session_seconds()
        if energy is not None:
            values[prefix + "sessionEnergy"] = energy
        if seconds is not None:
            values[prefix + "sessionDuration"] = seconds
        into.of(device)[prefix + "activeTransactionId"] = 0

    def _transaction_event(self, message: Message, memory: Memory, into: Mapped) -> None:
        payload, session = message.payload, message.session
        if session is None:
            return
        evse = payload.get("evse")
        second = evse.get("connectorId") if isinstance(evse, dict) else None
        place = self._place(message.version, memory, session.connector, second)
        time_ms = self._time(payload.get("timestamp"), message.now_ms, into)
        meter_values = payload.get("meterValue")
        self._samples(message, memory, into, place, meter_values)
        device, prefix = place
        values = into.at(device, time_ms)
        event = payload.get("eventType")
        info = payload.get("transactionInfo")
        if event == "Started":
            self._begun(session, place, into, time_ms)
        elif event == "Ended":
            reason = info.get("stoppedReason") if isinstance(info, dict) else None
            self._ended(session, place, into, time_ms, session.id, reason, register_of(meter_values, "Transaction.End"))
        elif session.id_tag is not None and isinstance(payload.get("idToken"), dict):
            shown = self.id_tag(session.id_tag)
            if shown is not None:
                values[prefix + "idTag"] = shown
        if (trigger := text_of(payload.get("triggerReason"))) is not None:
            values[prefix + "triggerReason"] = trigger
        if isinstance(info, dict) and (state := text_of(info.get("chargingState"))) is not None:
            values[prefix + "chargingState"] = state
        where = (session.connector or 0, integer_of(second) or 1)
        status = memory.statuses.get(where, "Occupied")
        if status == "Occupied":
            self._set_state(place, into, status, session, time_ms)

    def _security_event(self, message: Message, memory: Memory, into: Mapped) -> None:
        payload = message.payload
        values = into.at("", self._time(payload.get("timestamp"), message.now_ms, into))
        for name, key in (("type", "securityEvent"), ("techInfo", "securityEventInfo")):
            text = text_of(payload.get(name))
            if text is not None:
                values[key] = text

    def _notify_event(self, message: Message, memory: Memory, into: Mapped) -> None:
        events = message.payload.get("eventData")
        for event in events[:MAX_EVENTS] if isinstance(events, list) else ():
            if not isinstance(event, dict):
                into.left_out("event")
                continue
            named = _named(event)
            value = text_of(event.get("actualValue"))
            if named is None or value is None:
                into.left_out("event")
                continue
            component, variable, evse = named
            time_ms = self._time(event.get("timestamp"), message.now_ms, into)
            number, second = evse.get("id"), evse.get("connectorId")
            if component == "Connector" and variable == "AvailabilityState":
                self._set_status(message.version, memory, into, number, second, value, time_ms)
                continue
            place = self._place(message.version, memory, number, second)
            if not _is_secret(variable):
                into.at(place.device, time_ms)[f"{place.prefix}{component}_{variable}"] = _typed(value)

    def _notify_report(self, message: Message, memory: Memory, into: Mapped) -> None:
        """Each page becomes attributes at once, so nothing has to wait for the last one, which may never come."""
        if not self._options.configuration:
            return
        entries = message.payload.get("reportData")
        for entry in entries[:MAX_EVENTS] if isinstance(entries, list) else ():
            named = _named(entry) if isinstance(entry, dict) else None
            if named is None or _is_secret(named[1]):
                continue
            component, variable, evse = named
            place = self._place(message.version, memory, evse.get("id"), evse.get("connectorId"))
            attributes = entry.get("variableAttribute")
            for attribute in attributes if isinstance(attributes, list) else ():
                if not isinstance(attribute, dict):
                    continue
                kind = text_of(attribute.get("type")) or "Actual"
                value = text_of(attribute.get("value"))
                if value is not None:
                    key = f"config_{component}_{variable}" + ("" if kind == "Actual" else f"_{kind}")
                    into.of(place.device)[place.prefix + key] = _typed(value)
        if not message.payload.get("tbc"):
            into.of("")["configReportedTs"] = message.now_ms

    def _charging_limit(self, message: Message, memory: Memory, into: Mapped) -> None:
        payload = message.payload
        place = self._place(message.version, memory, payload.get("evseId"))
        limit = payload.get("chargingLimit")
        given = limit if isinstance(limit, dict) else payload
        values = into.at(place.device, message.now_ms)
        values[place.prefix + "chargingLimit"] = "set" if message.action == "NotifyChargingLimit" else "cleared"
        source = text_of(given.get("chargingLimitSource"))
        if source is not None:
            values[place.prefix + "chargingLimitSource"] = source

    def _reservation(self, message: Message, memory: Memory, into: Mapped) -> None:
        payload = message.payload
        number, status = integer_of(payload.get("reservationId")), text_of(payload.get("reservationUpdateStatus"))
        if number is not None and status is not None:
            into.at("", message.now_ms).update(reservationId=number, reservationStatus=status)

    def _der_alarm(self, message: Message, memory: Memory, into: Mapped) -> None:
        payload = message.payload
        kind = text_of(payload.get("controlType"))
        if kind is not None:
            values = into.at("", self._time(payload.get("timestamp"), message.now_ms, into))
            values["derAlarm"] = kind
            fault = text_of(payload.get("gridEventFault"))
            if fault is not None:
                values["derGridEventFault"] = fault

    def _event_stream(self, message: Message, memory: Memory, into: Mapped) -> None:
        """SEND of 2.1: values at offsets, in seconds, from a common begin."""
        payload = message.payload
        stream, data = integer_of(payload.get("id")), payload.get("data")
        base_ms = believable(payload.get("basetime"), message.now_ms, self._zone)
        if stream is None or base_ms is None:
            into.left_out("event")
            return
        for element in data[:MAX_EVENTS] if isinstance(data, list) else ():
            offset = number_of(element.get("t")) if isinstance(element, dict) else None
            value = text_of(element.get("v")) if isinstance(element, dict) else None
            if offset is None or value is None or abs(offset) > 86_400 * 366:
                into.left_out("event")
                continue
            into.at("", base_ms + round(offset * 1000))[f"eventStream_{stream}"] = _typed(value)

    def _data_transfer(self, message: Message, memory: Memory, into: Mapped) -> None:
        if self._options.data_transfer:
            payload = message.payload
            shown = {name: payload[name] for name in ("vendorId", "messageId", "data") if name in payload}
            into.at("", message.now_ms)["dataTransfer"] = shown


_REGISTERS = Kinds("", raw_units=False)


def register_of(meter_values: Any, context: str) -> int | float | None:
    """The overall energy register in Wh among meter values: of this context if there is one, else of a live sample."""
    live = None
    wanted = "energy_active_import_register" + ("_begin" if context == "Transaction.Begin" else "_end")
    for meter_value in meter_values[:MAX_EVENTS] if isinstance(meter_values, list) else ():
        if isinstance(meter_value, dict):
            values = read_samples(meter_value.get("sampledValue"), _REGISTERS).values
            if wanted in values:
                found: int | float = values[wanted]
                return found
            live = values.get("energy_active_import_register", live)
    return live


def _named(entry: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Any]] | None:
    """(component, variable, EVSE) of an event or a report's entry, instances included."""
    component, variable = entry.get("component"), entry.get("variable")
    if not isinstance(component, dict) or not isinstance(variable, dict):
        return None
    names = []
    for part in (component, variable):
        name, instance = text_of(part.get("name")), text_of(part.get("instance"))
        if not name or len(name) > 100:
            return None
        names.append(name if not instance else f"{name}_{instance[:100]}")
    if len(names[0]) + len(names[1]) > MAX_NAMES_CHARACTERS:
        return None
    evse = component.get("evse")
    return names[0], names[1], evse if isinstance(evse, dict) else {}


def _is_secret(variable: str) -> bool:
    stem = variable.lower().replace("_", "")
    return any(word in stem for word in _SECRETS)


def configuration_attributes(keys: Any) -> dict[str, Value]:
    """`configurationKey` of GetConfiguration as attributes `config_<key>`, without what is secret."""
    found: dict[str, Value] = {}
    for entry in keys[:MAX_EVENTS] if isinstance(keys, list) else ():
        if isinstance(entry, dict):
            key, value = text_of(entry.get("key")), text_of(entry.get("value"))
            if key and len(key) <= 100 and value is not None and not _is_secret(key):
                found[f"config_{key}"] = _typed(value)
    return found


def _typed(text: str) -> Value:
    """Reported values are texts, whatever they mean: numbers and truth values become what they are."""
    if text in ("true", "false"):
        return text == "true"
    number = number_of(text)
    return text if number is None else number
