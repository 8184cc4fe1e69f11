# -*- test-case-name: tests.connectors.xmpp.test_readouts -*-
"""From the fields of a read-out to values of devices in ThingsBoard. Pure.

Fields of type `identity` become attributes, all others time series at their own time. Units are attributes,
`<key>_unit`, told when they change. A field that is flagged `error` is a value that the device itself does not trust:
it is left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from tbgw.connectors.xmpp.device_config import ReadOutPlan
from tbgw.connectors.xmpp.iot_sensor_data import Field
from tbgw.expressions import MISSING, Evaluate, compile_template, text_of
from tbgw.model import Value

UNIT_SUFFIX = "_unit"
compile_cached = lru_cache(maxsize=4096)(compile_template)
"""Compiled templates are shared: a thousand entries are mostly alike."""


@dataclass(slots=True)
class Values:
    """What one device gets."""

    telemetry: dict[int, dict[str, Value]] = field(default_factory=dict)
    """By time in ms, then by key."""
    attributes: dict[str, Value] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    """By key; for the caller to tell when they are news."""


@dataclass(slots=True)
class Sorted:
    """All of a message's fields."""

    devices: dict[str, Values] = field(default_factory=dict)
    """By device name."""
    distrusted: int = 0
    collisions: int = 0
    """Fields that another one of the same key and time overwrote."""


def sort_fields(fields: Iterable[Field], plan: ReadOutPlan, device_name: str, now_ms: int) -> Sorted:
    """The fields by device, time and key, as the plan says. `now_ms` stands for a time that is none."""
    key_of: Evaluate = compile_cached(plan.key)
    name_of: Evaluate | None = compile_cached(plan.node_name) if plan.node_name is not None else None
    result = Sorted()
    for one in fields:
        if "error" in one.quality:
            result.distrusted += 1
            continue
        names = {"field": one.name, "node": one.node, "deviceName": device_name}
        key = key_of(names)
        name = name_of(names) if name_of is not None and one.node else device_name
        if key is MISSING or name is MISSING or not text_of(key):
            result.distrusted += 1
            continue
        values = result.devices.setdefault(text_of(name), Values())
        target = (
            values.attributes
            if "identity" in one.types
            else values.telemetry.setdefault(one.ts_ms if one.ts_ms is not None else now_ms, {})
        )
        written = text_of(key)
        result.collisions += written in target
        target[written] = one.value
        if one.unit and plan.units:
            values.units[written] = one.unit
    return result


def as_objects(fields: Iterable[Field], now_ms: int) -> dict[int, dict[str, Value]]:
    """For `datapoints: configured`: by time, an object of field names, with `units` and `node` besides."""
    found: dict[int, dict[str, Value]] = {}
    for one in fields:
        if "error" in one.quality:
            continue
        values = found.setdefault(one.ts_ms if one.ts_ms is not None else now_ms, {})
        values[one.name] = one.value
        if one.node:
            values["node"] = one.node
        if one.unit:
            values.setdefault("units", {})[one.name] = one.unit
    return found
