# -*- test-case-name: tests.connectors.ocpp.test_aliases -*-
"""Commands that mean the same in every version of OCPP, each as the Call of the version that is spoken. Pure.

    startCharging {"idTag": "04AABB", "connectorId": 1}        RemoteStartTransaction / RequestStartTransaction
    stopCharging  {"connectorId": 1}                           RemoteStopTransaction / RequestStopTransaction
    setLimit      {"limit": 16, "unit": "A", "connectorId": 1} SetChargingProfile; limit null: ClearChargingProfile
    availability  {"operative": false, "connectorId": 1}       ChangeAvailability
    unlock        {"connectorId": 1}                           UnlockConnector
    reset         {"hard": true}                               Reset
    trigger       {"message": "MeterValues"}                   TriggerMessage (1.6: or ExtendedTriggerMessage)
    getConfig     {"key": "HeartbeatInterval"}                 GetConfiguration / GetVariables
    setConfig     {"key": "HeartbeatInterval", "value": 60}    ChangeConfiguration / SetVariables
    dataTransfer  {"vendorId": "acme", "data": {...}}          DataTransfer

`connectorId` is what a driver sees as an outlet: the connector of 1.6, the EVSE of 2.x (whose own connectors may be
named with `evseId` and `connectorId` together). In 2.x a configuration key is `Component.Variable`, either part with an
instance in brackets: `SampledDataCtrlr.TxUpdatedInterval`, `Connector[1].Available`.

Names of parameters may be written in camelCase or snake_case; one that is not known is refused, since it most likely
is a slip that would start a charger with something left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tbgw.connectors.ocpp.failures import bad_parameters, failed
from tbgw.expressions import text_of
from tbgw.model import Value
from tbgw.ocpp.versions import Version

PROFILE_ID = 7000
"""Ids of our charging profiles: this, plus ten for each connector, plus one for each purpose. The same limit set again
takes the place of the former one."""

_TRIGGERED_16 = frozenset(
    (
        "BootNotification",
        "DiagnosticsStatusNotification",
        "FirmwareStatusNotification",
        "Heartbeat",
        "MeterValues",
        "StatusNotification",
    )
)
_VARIABLE = re.compile(
    r"(?P<component>[^.\[\]]+)(?:\[(?P<component_instance>[^\]]*)\])?"
    r"\.(?P<variable>[^.\[\]]+)(?:\[(?P<variable_instance>[^\]]*)\])?"
)


@dataclass(frozen=True, slots=True)
class Request:
    """One Call that is to be sent."""

    action: str
    payload: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)
    """What the answer says besides the result: ids that we made up, to find later messages by."""
    values: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """Makes `values` of the answer out of the result: a configuration, by key."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a command has to know besides its parameters."""

    version: Version
    next_id: Callable[[], int]
    """A number that was not used before, for remoteStartId and requestId."""
    transaction_of: Callable[[int | None], int | str | None]
    """The one running transaction, on a connector or at all."""
    now: str
    """The time, as OCPP writes it."""
    connector_id: int | None = None
    """The connector that the device itself is, if it is one."""


class Parameters:
    """The parameters of a command, each taken out by name; what is left over at the end is refused."""

    def __init__(self, params: Value) -> None:
        if params is None or params == "":
            params = {}
        if not isinstance(params, dict):
            raise bad_parameters("the parameters have to be an object")
        self._left = {str(key): value for key, value in params.items() if value is not None}
        self._nulls = {_stem(str(key)) for key, value in params.items() if value is None}
        self._known: list[str] = []

    def value(self, *names: str) -> Any:
        """The first of these that is there, else None."""
        self._known.append(names[0])
        stems = {_stem(name) for name in names}
        found = [key for key in self._left if _stem(key) in stems]
        values = [self._left.pop(key) for key in found]
        return values[0] if values else None

    def is_null(self, name: str) -> bool:
        """Whether it is there, as null."""
        return _stem(name) in self._nulls

    def text(self, *names: str) -> str | None:
        """A text; numbers become one."""
        value = self.value(*names)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
            raise bad_parameters(f"{names[0]} has to be a text")
        return str(value)

    def integer(self, *names: str) -> int | None:
        """A whole number, 0 or more; a text of digits will do."""
        value = self.value(*names)
        if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) <= 12:
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise bad_parameters(f"{names[0]} has to be a whole number, 0 or more")
        return value

    def number(self, *names: str) -> float | int | None:
        """A number; a text with one will do."""
        value = self.value(*names)
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                value = True
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value != value):
            raise bad_parameters(f"{names[0]} has to be a number")
        return value

    def flag(self, *names: str) -> bool | None:
        """true or false."""
        value = self.value(*names)
        if value is not None and not isinstance(value, bool):
            raise bad_parameters(f"{names[0]} has to be true or false")
        return value

    def finish(self) -> None:
        """Refuse what nobody took."""
        if self._left:
            unknown, known = next(iter(self._left)), ", ".join(self._known)
            raise bad_parameters(f"there is no parameter {unknown[:40]!r}; there are {known}")


def _stem(name: str) -> str:
    return name.replace("_", "").lower()


def _needed(value: Any, name: str) -> Any:
    if value is None:
        raise bad_parameters(f"{name} is missing")
    return value


def _without_none(**members: Any) -> dict[str, Any]:
    return {key: value for key, value in members.items() if value is not None}


def _places(params: Parameters, about: Circumstances) -> tuple[int | None, int | None]:
    """(connector of 1.6 or EVSE of 2.x, connector within the EVSE)."""
    evse, connector = params.integer("evseId", "evse"), params.integer("connectorId", "connector")
    if evse is None and connector is None:
        return about.connector_id, None
    if evse is None:
        return connector, None
    return evse, connector


def _start_charging(params: Parameters, about: Circumstances) -> Request:
    tag = _needed(params.text("idTag", "idToken"), "idTag")
    place, _ = _places(params, about)
    kind = params.text("idTokenType", "type")
    limit, unit = params.number("limit"), _unit(params)
    profile = None if limit is None else _profile(about, place or 0, limit, unit, "TxProfile", None, None, 0, None)
    if about.version is Version.V16:
        payload = _without_none(idTag=tag, connectorId=place, chargingProfile=profile)
        return Request("RemoteStartTransaction", payload)
    number = params.integer("remoteStartId")
    number = about.next_id() if number is None else number
    token = {"idToken": tag, "type": kind or "Central"}
    payload = _without_none(idToken=token, remoteStartId=number, evseId=place, chargingProfile=profile)
    return Request("RequestStartTransaction", payload, {"remoteStartId": number})


def _stop_charging(params: Parameters, about: Circumstances) -> Request:
    transaction: Any = params.value("transactionId")
    place, _ = _places(params, about)
    if transaction is None:
        transaction = about.transaction_of(place)
    if transaction is None:
        where = "" if place is None else f" on connector {place}"
        raise failed("NoTransaction", f"there is not exactly one transaction{where}; name it with transactionId")
    if isinstance(transaction, float) and transaction.is_integer():
        transaction = int(transaction)
    if isinstance(transaction, bool) or not isinstance(transaction, int | str):
        raise bad_parameters("transactionId has to be a number or a text")
    if about.version is not Version.V16:
        return Request("RequestStopTransaction", {"transactionId": str(transaction)})
    try:
        return Request("RemoteStopTransaction", {"transactionId": int(transaction)})
    except ValueError:
        raise bad_parameters("transactionId has to be a number in OCPP 1.6") from None


def _unit(params: Parameters) -> str:
    unit = params.text("unit", "chargingRateUnit") or "A"
    if unit.upper() not in ("A", "W", "KW"):
        raise bad_parameters("unit has to be A, W or kW")
    return unit.upper()


def _profile(
    about: Circumstances,
    place: int,
    limit: float,
    unit: str,
    purpose: str,
    transaction: int | str | None,
    duration: int | None,
    stack_level: int,
    phases: int | None,
) -> dict[str, Any]:
    """A charging profile of one period. `unit` kW becomes W."""
    if unit == "KW":
        limit, unit = limit * 1000, "W"
    limit = round(limit, 1)  # what 1.6 allows, and no meter is finer
    number = PROFILE_ID + 10 * place + ("Tx" in purpose) + (purpose == "TxProfile")
    period = _without_none(startPeriod=0, limit=limit, numberPhases=phases)
    # From now on, whatever runs; a profile for a transaction that is about to start begins with it.
    kind = "Relative" if purpose == "TxProfile" and transaction is None else "Absolute"
    start = about.now if kind == "Absolute" else None
    schedule = _without_none(
        duration=duration, startSchedule=start, chargingRateUnit=unit, chargingSchedulePeriod=[period]
    )
    common = _without_none(
        stackLevel=stack_level, chargingProfilePurpose=purpose, chargingProfileKind=kind, transactionId=transaction
    )
    if about.version is Version.V16:
        return {"chargingProfileId": number, **common, "chargingSchedule": schedule}
    return {"id": number, **common, "chargingSchedule": [{"id": number, **schedule}]}


def _set_limit(params: Parameters, about: Circumstances) -> Request:
    limit, unit = params.number("limit"), _unit(params)
    if limit is None and not params.is_null("limit"):
        raise bad_parameters("limit is missing; null takes the limit away")
    if limit is not None and not 0 <= limit <= 1e9:
        raise bad_parameters("limit has to be 0 or more")
    place, _ = _places(params, about)
    connector = place or 0
    transaction: Any = params.value("transactionId")
    duration, level = params.integer("duration"), params.integer("stackLevel") or 0
    phases, purpose = params.integer("numberPhases", "phases"), params.text("purpose", "chargingProfilePurpose")
    station = "ChargePointMaxProfile" if about.version is Version.V16 else "ChargingStationMaxProfile"
    if purpose is None:
        purpose = "TxProfile" if transaction is not None else "TxDefaultProfile" if connector else station
    if purpose == "TxProfile" and transaction is None:
        transaction = about.transaction_of(place)
        if transaction is None:
            raise failed("NoTransaction", "there is not exactly one transaction there; name it with transactionId")
    if limit is None:
        return _clear(about, connector, purpose, level)
    profile = _profile(about, connector, limit, unit, purpose, transaction, duration, level, phases)
    if about.version is Version.V16:
        return Request("SetChargingProfile", {"connectorId": connector, "csChargingProfiles": profile})
    return Request("SetChargingProfile", {"evseId": connector, "chargingProfile": profile})


def _clear(about: Circumstances, connector: int, purpose: str, level: int) -> Request:
    if about.version is Version.V16:
        criteria = {"connectorId": connector, "chargingProfilePurpose": purpose, "stackLevel": level}
        return Request("ClearChargingProfile", criteria)
    criteria = {"evseId": connector, "chargingProfilePurpose": purpose, "stackLevel": level}
    return Request("ClearChargingProfile", {"chargingProfileCriteria": criteria})


def _availability(params: Parameters, about: Circumstances) -> Request:
    operative, kind = params.flag("operative", "available"), params.text("type", "operationalStatus")
    if operative is None and kind not in ("Operative", "Inoperative"):
        raise bad_parameters("operative is missing; true or false")
    status = kind if operative is None else "Operative" if operative else "Inoperative"
    place, inner = _places(params, about)
    if about.version is Version.V16:
        return Request("ChangeAvailability", {"connectorId": place or 0, "type": status})
    payload: dict[str, Any] = {"operationalStatus": status}
    if place:
        payload["evse"] = _without_none(id=place, connectorId=inner)
    return Request("ChangeAvailability", payload)


def _unlock(params: Parameters, about: Circumstances) -> Request:
    place, inner = _places(params, about)
    place = 1 if place is None else place
    if about.version is Version.V16:
        return Request("UnlockConnector", {"connectorId": place})
    return Request("UnlockConnector", {"evseId": place, "connectorId": inner or 1})


def _reset(params: Parameters, about: Circumstances) -> Request:
    hard, kind = params.flag("hard"), params.text("type")
    evse = params.integer("evseId")
    is_hard = hard if hard is not None else kind in ("Hard", "Immediate")
    if kind not in (None, "Hard", "Soft", "Immediate", "OnIdle", "ImmediateAndResume"):
        raise bad_parameters("type has to be Hard or Soft (2.x: Immediate or OnIdle)")
    if about.version is Version.V16:
        return Request("Reset", {"type": "Hard" if is_hard else "Soft"})
    stated = kind if kind == "ImmediateAndResume" else "Immediate" if is_hard else "OnIdle"
    return Request("Reset", _without_none(type=stated, evseId=evse))


def _trigger(params: Parameters, about: Circumstances) -> Request:
    message = _needed(params.text("message", "requestedMessage"), "message")
    place, inner = _places(params, about)
    if about.version is Version.V16:
        action = "TriggerMessage" if message in _TRIGGERED_16 else "ExtendedTriggerMessage"
        return Request(action, _without_none(requestedMessage=message, connectorId=place or None))
    payload: dict[str, Any] = {"requestedMessage": message}
    if place:
        # StatusNotification is for one connector, so that one has to be named.
        inner = 1 if inner is None and message == "StatusNotification" else inner
        payload["evse"] = _without_none(id=place, connectorId=inner)
    return Request("TriggerMessage", payload)


def variable_of(key: str) -> dict[str, Any]:
    """`Component[instance].Variable[instance]` as 2.x has it. Raises CommandFailed."""
    match = _VARIABLE.fullmatch(key.strip())
    if match is None:
        raise bad_parameters(f"{key[:60]!r} is no key of OCPP 2.x, which is written Component.Variable")
    component = _without_none(name=match["component"], instance=match["component_instance"])
    variable = _without_none(name=match["variable"], instance=match["variable_instance"])
    return {"component": component, "variable": variable}


def _key_of(item: Mapping[str, Any]) -> str:
    def named(part: Any) -> str:
        stated = part if isinstance(part, dict) else {}
        name, instance, evse = str(stated.get("name", "")), stated.get("instance"), stated.get("evse")
        place = f"[{instance}]" if instance is not None else ""
        if isinstance(evse, dict) and "id" in evse:
            place += f"@{evse['id']}" + (f".{evse['connectorId']}" if "connectorId" in evse else "")
        return name + place

    return f"{named(item.get('component'))}.{named(item.get('variable'))}"


def configuration_values(result: dict[str, Any]) -> dict[str, Any]:
    """A configuration by key, out of the result of GetConfiguration or GetVariables."""
    values: dict[str, Any] = {}
    listed, found = result.get("configurationKey"), result.get("getVariableResult")
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, dict) and "key" in item:
            values[str(item["key"])] = item.get("value")
    for item in found if isinstance(found, list) else ():
        if isinstance(item, dict) and item.get("attributeStatus") == "Accepted":
            values[_key_of(item)] = item.get("attributeValue")
    return values


def _get_config(params: Parameters, about: Circumstances) -> Request:
    stated = params.value("key", "keys")
    keys = stated if isinstance(stated, list) else [part.strip() for part in str(stated or "").split(",")]
    keys = [str(key) for key in keys if key not in ("", None)]
    if about.version is Version.V16:
        return Request("GetConfiguration", {"key": keys} if keys else {}, values=configuration_values)
    if not keys:
        number = about.next_id()
        payload = {"requestId": number, "reportBase": "ConfigurationInventory"}
        return Request("GetBaseReport", payload, {"requestId": number})
    return Request("GetVariables", {"getVariableData": list(map(variable_of, keys))}, values=configuration_values)


def _set_config(params: Parameters, about: Circumstances) -> Request:
    key = _needed(params.text("key"), "key")
    stated = params.value("value")
    value = "" if stated is None and params.is_null("value") else text_of(_needed(stated, "value"))
    if about.version is Version.V16:
        return Request("ChangeConfiguration", {"key": key, "value": value})
    return Request("SetVariables", {"setVariableData": [{**variable_of(key), "attributeValue": value}]})


def _data_transfer(params: Parameters, about: Circumstances) -> Request:
    vendor = _needed(params.text("vendorId"), "vendorId")
    message, data = params.text("messageId"), params.value("data")
    if about.version is Version.V16 and data is not None:
        data = text_of(data)
    return Request("DataTransfer", _without_none(vendorId=vendor, messageId=message, data=data))


ALIASES: Mapping[str, Callable[[Parameters, Circumstances], Request]] = {
    "startCharging": _start_charging,
    "stopCharging": _stop_charging,
    "setLimit": _set_limit,
    "availability": _availability,
    "unlock": _unlock,
    "reset": _reset,
    "trigger": _trigger,
    "getConfig": _get_config,
    "setConfig": _set_config,
    "dataTransfer": _data_transfer,
}
"""By the method's name."""

_MADE_UP = {
    "RequestStartTransaction": "remoteStartId",
    **dict.fromkeys(
        (
            "GetBaseReport",
            "GetReport",
            "GetMonitoringReport",
            "CustomerInformation",
            "GetDisplayMessages",
            "GetChargingProfiles",
            "GetLog",
            "SignedUpdateFirmware",
            "UpdateFirmware",
            "PublishFirmware",
            "RequestBatterySwap",
            "GetDERControl",
        ),
        "requestId",
    ),
}
"""Ids that a native Call may leave out."""


def alias(method: str, params: Value, about: Circumstances) -> Request:
    """The Call for an alias. Raises CommandFailed; KeyError when there is no such alias."""
    taken = Parameters(params)
    request = ALIASES[method](taken, about)
    taken.finish()
    return request


def native(action: str, payload: dict[str, Any], about: Circumstances) -> Request:
    """A Call as it was written, with the ids that it leaves out; `payload` has the wire's keys."""
    name = _MADE_UP.get(action)
    if name is not None and not (about.version is Version.V16 and action == "UpdateFirmware"):
        number = payload.get(name)
        payload = {**payload, name: about.next_id() if number is None else number}
        return Request(action, payload, {name: payload[name]})
    if action == "DataTransfer" and about.version is Version.V16 and payload.get("data") is not None:
        payload = {**payload, "data": text_of(payload["data"])}
    values = configuration_values if action in ("GetConfiguration", "GetVariables") else None
    return Request(action, payload, values=values)
