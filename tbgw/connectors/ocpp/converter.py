# -*- test-case-name: tests.connectors.ocpp.test_converter -*-
"""The `attributes` and `timeseries` of a charge point's entry, compiled, and its name. Pure.

* Expressions see the message as it is on the wire, and find its keys in snake case as well (see `spelling`). An object
  as a value is given as on the wire.
* `${meter_value[...]...}`: each meter value is looked at by itself, and has its own time. So do those of
  `transaction_data`.
* The time of everything else is the message's `timestamp`, else its arrival.
* Text in `data` of DataTransfer is read as JSON first, if it is any.
* Of several matches the first counts, as in the reference; `"matches": "all"` gives a list.
* What finds nothing is left out; with `legacyUnresolved` the text of the expression is sent, as the reference does.
* Values keep their type; the texts that 1.6 has for the numbers of a meter become numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tbgw.connectors.ocpp.config import ChargePoint, ChargePointPoint
from tbgw.connectors.ocpp.measurands import number_of
from tbgw.connectors.ocpp.policy import Policy
from tbgw.connectors.ocpp.spelling import spellings
from tbgw.connectors.ocpp.telemetry import Mapped
from tbgw.connectors.ocpp.timestamps import believable
from tbgw.expressions import MISSING, Evaluate, compile_path, compile_template, split_template, text_of
from tbgw.model import Value
from tbgw.thingsboard.payloads import is_device_name

MAX_KEY_CHARACTERS = 250
"""Longest key that an expression may make; ThingsBoard takes 255."""

MAX_BOOT_FIELDS = 20
MAX_BOOT_CHARACTERS = 255
"""Of each object of a BootNotification, and of each text in it; the standard has 9 fields of at most 50."""

MAX_WALKED = 1000
"""Meter values of one message that an expression goes through."""

CONTEXT_NAMES = frozenset({"Vendor", "Model", "chargePointId", "path", "ocppVersion"})
"""What an expression may name besides the message: who the charge point is."""

_METER_VALUES = re.compile(r"(?:\$\.)?(meterValue|meter_value|transactionData|transaction_data)\[([^\]]*)\](.*)", re.S)
_SLICE = re.compile(r"(-?\d{1,6})?:(-?\d{1,6})?(?::(-?\d{1,6}))?")
_SAMPLED = re.compile(r"\b(?:sampledValue|sampled_value)\b.*\bvalue$", re.S)


class Walk(NamedTuple):
    """Which meter values an expression goes through."""

    field: str
    """The key of the list, as on the wire."""
    part: slice | int


class Point:
    """One compiled entry."""

    __slots__ = ("_convert", "actions", "is_attribute", "key", "needs_context", "value", "walk")

    def __init__(self, entry: ChargePointPoint, is_attribute: bool, legacy_unresolved: bool) -> None:
        """Raises ExpressionError."""
        self.is_attribute = is_attribute
        self.actions = entry.actions
        self.walk, template = _walk_of(entry.value)
        first = entry.matches == "first"
        compiled = _legacy(template, entry.value, first) if legacy_unresolved else None
        self.value: Evaluate = compiled or compile_template(template, spellings, first)
        self.key: Evaluate = compile_template(entry.key, spellings, True)
        tags = [text for is_tag, text in split_template(entry.value) if is_tag]
        self.needs_context = any(
            text in CONTEXT_NAMES
            for template in (entry.value, entry.key)
            for is_tag, text in split_template(template)
            if is_tag
        )
        sampled = len(tags) == 1 and entry.value.strip() == f"${{{tags[0]}}}" and _SAMPLED.search(tags[0]) is not None
        self._convert: Callable[[Value], Value] | None = None
        if entry.type == "string":
            self._convert = _as_text
        elif entry.type == "number" or (entry.type == "auto" and sampled):
            self._convert = _as_number

    def evaluate(self, message: Mapping[str, Any]) -> tuple[str, Value] | None:
        """Key and value; None when one of them cannot be had."""
        value = self.value(message)
        if value is MISSING:
            return None
        key = self.key(message)
        if key is MISSING or key is None:
            return None
        key = text_of(key)
        if not key or len(key) > MAX_KEY_CHARACTERS:
            return None
        return key, value if self._convert is None else self._convert(value)


def _as_text(value: Value) -> Value:
    return text_of(value)


def _as_number(value: Value) -> Value:
    if isinstance(value, list):
        return [_as_number(one) for one in value]
    if not isinstance(value, str):
        return value
    number = number_of(value)
    return value if number is None else number


def _walk_of(template: str) -> tuple[Walk | None, str]:
    """The meter values that all expressions of a template walk through, and the template over a single one of them."""
    found: set[tuple[str, str]] = set()
    made = []
    for is_tag, text in split_template(template):
        match = _METER_VALUES.fullmatch(text) if is_tag else None
        if match is None:
            made.append(f"${{{text}}}" if is_tag else text)
            continue
        field = "meterValue" if match[1].startswith("meter") else "transactionData"
        found.add((field, match[2].strip()))
        made.append(f"${{{field}[0]{match[3]}}}")
    if len(found) != 1:
        return None, template
    field, selection = found.pop()
    if selection in ("*", ":"):
        return Walk(field, slice(None)), "".join(made)
    if re.fullmatch(r"-?\d{1,6}", selection):
        return Walk(field, int(selection)), "".join(made)
    bounds = _SLICE.fullmatch(selection)
    if bounds is None or bounds[3] == "0":
        return None, template
    return Walk(field, slice(*(int(bound) if bound else None for bound in bounds.groups()))), "".join(made)


def _legacy(template: str, shown: str, first: bool) -> Evaluate:
    """As the reference: an expression that finds nothing stands as its own text."""
    parts: list[tuple[str, Evaluate | None]] = []
    texts = [text for _, text in split_template(shown)]
    for (is_tag, text), original in zip(split_template(template), texts, strict=True):
        parts.append((f"${{{original}}}", compile_path(text, spellings, first)) if is_tag else (text, None))

    def resolved(message: Any, text: str, evaluate: Evaluate | None) -> Any:
        value = MISSING if evaluate is None else evaluate(message)
        return text if value is MISSING else value

    if len(parts) == 1:
        return lambda message: resolved(message, *parts[0])
    return lambda message: "".join(text_of(resolved(message, *part)) for part in parts)


class Converter:
    """All entries of one charge point's section."""

    def __init__(self, charge_point: ChargePoint, policy: Policy) -> None:
        """The expressions were checked when the file was read."""
        self._zone = policy.mapping.zone
        self._points = [
            Point(entry, is_attribute, policy.legacy_unresolved)
            for is_attribute, entries in ((True, charge_point.attributes), (False, charge_point.timeseries))
            for entry in entries
        ]
        self._for_all = [point for point in self._points if not point.actions]
        self._by_action: dict[str, list[Point]] = {}
        for action in {action for point in self._points for action in point.actions}:
            self._by_action[action] = [
                point for point in self._points if not point.actions or action in point.actions
            ]
        if policy.legacy_boot:
            boot = self._by_action.get("BootNotification", self._for_all)
            meter = [point for point in self._by_action.get("MeterValues", ()) if point not in boot]
            self._by_action["BootNotification"] = boot + meter

    def names(self, action: str) -> bool:
        """Whether an entry asks for this very message."""
        return action in self._by_action

    def takes(self, action: str) -> bool:
        """Whether there is anything to convert in such a message."""
        return bool(self._by_action.get(action, self._for_all))

    def convert(
        self,
        action: str,
        payload: dict[str, Any],
        who: Callable[[], Mapping[str, Value]],
        now_ms: int,
        into: Mapped,
    ) -> None:
        """
        Add what the entries say of the message, to the charge point's own device. `who` gives the charge point's
        context, see `context_of`; asked only if an entry needs it.
        """
        points = self._by_action.get(action, self._for_all)
        if not points:
            return
        message: dict[str, Any] = payload
        if action == "DataTransfer":
            message = with_data(payload)
        elif action == "BootNotification":
            message = {**who(), **boot_fields(payload), **payload}
        stated = payload.get("timestamp")
        time_ms = None if stated is None else believable(stated, now_ms, self._zone)
        if time_ms is None:
            time_ms = now_ms
        for point in points:
            seen = {**who(), **message} if point.needs_context else message
            if point.walk is None:
                self._add(point, point.evaluate(seen), time_ms, into)
            else:
                self._walk(point, point.walk, seen, time_ms, now_ms, into)

    def _walk(
        self, point: Point, walk: Walk, message: dict[str, Any], time_ms: int, now_ms: int, into: Mapped
    ) -> None:
        meter_values = message.get(walk.field)
        if not isinstance(meter_values, list):
            self._add(point, point.evaluate(message), time_ms, into)
            return
        if isinstance(walk.part, slice):
            chosen = meter_values[walk.part]
        else:
            chosen = meter_values[walk.part : walk.part + 1 or None]
        if not chosen:
            self._add(point, point.evaluate({**message, walk.field: []}), time_ms, into)
        if len(chosen) > MAX_WALKED:
            into.left_out("sample", len(chosen) - MAX_WALKED)
        for meter_value in chosen[:MAX_WALKED]:
            stated = meter_value.get("timestamp") if isinstance(meter_value, dict) else None
            own_ms = believable(stated, now_ms, self._zone)
            found = point.evaluate({**message, walk.field: [meter_value]})
            self._add(point, found, time_ms if own_ms is None else own_ms, into)

    def _add(self, point: Point, found: tuple[str, Value] | None, time_ms: int, into: Mapped) -> None:
        if found is None:
            into.left_out("expression")
        elif point.is_attribute:
            into.of("")[found[0]] = found[1]
        else:
            into.at("", time_ms)[found[0]] = found[1]


def with_data(payload: dict[str, Any]) -> dict[str, Any]:
    """A DataTransfer whose text `data`, if it is JSON, is what it stands for."""
    data = payload.get("data")
    if not isinstance(data, str):
        return payload
    try:
        return {**payload, "data": json.loads(data)}
    except (ValueError, RecursionError):
        return payload


def boot_fields(payload: Mapping[str, Any]) -> dict[str, Value]:
    """
    What names are made of: all fields of a BootNotification of any version side by side, `Vendor` and `Model` too.
    Texts and numbers only, and of a bounded size, because they are kept.
    """
    fields = _scalars(payload)
    station = payload.get("chargingStation")
    if isinstance(station, dict):
        fields |= _scalars(station)
        modem = station.get("modem")
        if isinstance(modem, dict):
            fields |= _scalars(modem)
    vendor = fields.get("vendorName", fields.get("chargePointVendor"))
    model = fields.get("model", fields.get("chargePointModel"))
    if isinstance(vendor, str):
        fields["Vendor"] = vendor
    if isinstance(model, str):
        fields["Model"] = model
    return fields


def _scalars(payload: Mapping[str, Any]) -> dict[str, Value]:
    return {
        key: value
        for key, value in list(payload.items())[:MAX_BOOT_FIELDS]
        if len(key) <= MAX_KEY_CHARACTERS
        and ((isinstance(value, str) and len(value) <= MAX_BOOT_CHARACTERS) or number_of(value) is not None)
    }


class Naming:
    """The names of the devices that an entry's charge points are."""

    def __init__(self, charge_point: ChargePoint) -> None:
        """The expressions were checked when the file was read."""
        self._name = compile_template(charge_point.name, spellings, True)
        self._fallback = compile_template(charge_point.fallback_name, spellings, True)
        self._profile = compile_template(charge_point.profile, spellings, True)

    def name(self, context: Mapping[str, Value]) -> str | None:
        """The name as configured; None while something of it is not known, or if no device can have such a name."""
        return _name(self._name(dict(context)))

    def fallback(self, context: Mapping[str, Value]) -> str | None:
        """The name until then."""
        return _name(self._fallback(dict(context)))

    def profile(self, context: Mapping[str, Value]) -> str:
        """`default` while it is not known."""
        return _name(self._profile(dict(context))) or "default"


def _name(value: Any) -> str | None:
    if value is MISSING or value is None:
        return None
    name = text_of(value).strip()
    return name if is_device_name(name) else None


def context_of(
    identity: str, path: str, version: str, boot: Mapping[str, Value], groups: Mapping[str, Any] | None = None
) -> dict[str, Value]:
    """
    Who a charge point is, for expressions. `boot`: the `boot_fields` of its last BootNotification; `groups`: the named
    groups of the pattern that its path matched, of which `id` takes the place of `identity`.
    """
    named = {key: value for key, value in (groups or {}).items() if isinstance(value, str)}
    return {
        **boot,
        **named,
        "chargePointId": named.get("id") or identity,
        "path": path,
        "ocppVersion": version,
    }
