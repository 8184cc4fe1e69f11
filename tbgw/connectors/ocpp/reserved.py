# -*- test-case-name: tests.connectors.ocpp.test_reserved -*-
"""The parameters of the reserved commands `get` and `set`, as a text or as an object. Pure.

    get  key=HeartbeatInterval;                                         1.6: GetConfiguration
    set  key=HeartbeatInterval;value=60;                                1.6: ChangeConfiguration
    get  component=OCPPCommCtrlr;variable=HeartbeatInterval;            2.x: GetVariables, as the existing gateway
    set  component=EVSE;componentInstance=a;evseId=1;variable=Power;variableInstance=b;timeout=10;value=5;
    set  value=anything;                                                all: DataTransfer, as the existing gateway

`value` goes on to the end, whatever it holds; one trailing `;` is not part of it. In 1.6 `variable` means `key`; in 2.x
a `key` is `Component.Variable`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tbgw.connectors.ocpp.aliases import Circumstances, Parameters, Request, alias, configuration_values, variable_of
from tbgw.connectors.ocpp.failures import bad_parameters
from tbgw.expressions import text_of
from tbgw.model import Value
from tbgw.ocpp.versions import Version


@dataclass(frozen=True, slots=True)
class Reserved:
    """What was asked for."""

    request: Request
    timeout_seconds: float | None


def reserved(method: str, params: Value, about: Circumstances) -> Reserved:
    """`method` is get or set. Raises CommandFailed."""
    taken = Parameters(_split(params) if isinstance(params, str) else params)
    timeout = taken.number("timeout")
    if timeout is not None and not 1 <= timeout <= 3600:
        raise bad_parameters("timeout has to be from 1 to 3600 seconds")
    value = taken.value("value")
    key, variable = taken.text("key"), taken.text("variable")
    component = taken.text("component")
    instances = taken.text("componentInstance"), taken.text("variableInstance")
    evse, connector = taken.integer("evseId"), taken.integer("connectorId")
    kind = taken.text("attributeType")
    taken.finish()
    if method == "set" and value is None:
        raise bad_parameters("there is no value")
    if key is None and variable is None:
        if method == "get":
            raise bad_parameters("there is no key=...; and no component=...;variable=...;")
        return Reserved(Request("DataTransfer", {"vendorId": "1", "data": text_of(value)}), timeout)
    if about.version is Version.V16:
        name = {"key": key or variable}
        request = (
            alias("getConfig", name, about) if method == "get" else alias("setConfig", {**name, "value": value}, about)
        )
        return Reserved(request, timeout)
    item = _variable(key, component, variable, instances)
    if evse is not None:
        item["component"]["evse"] = {"id": evse, **({"connectorId": connector} if connector is not None else {})}
    if kind is not None:
        item["attributeType"] = kind
    if method == "get":
        return Reserved(Request("GetVariables", {"getVariableData": [item]}, values=configuration_values), timeout)
    return Reserved(Request("SetVariables", {"setVariableData": [{**item, "attributeValue": text_of(value)}]}), timeout)


def _variable(
    key: str | None, component: str | None, variable: str | None, instances: tuple[str | None, str | None]
) -> dict[str, Any]:
    if component is None or variable is None:
        return variable_of(key or variable or "")
    item: dict[str, Any] = {"component": {"name": component}, "variable": {"name": variable}}
    for part, instance in zip(("component", "variable"), instances, strict=True):
        if instance is not None:
            item[part]["instance"] = instance
    return item


def _split(line: str) -> dict[str, Value]:
    found: dict[str, Value] = {}
    rest = line.strip()
    while rest:
        name, equals, behind = rest.partition("=")
        name = name.strip()
        if not equals or not name.isalpha():
            raise bad_parameters(f"{rest[:40]!r} is not understood; write key=<key>;value=<value>;")
        if name.lower() == "value":
            found[name] = behind.removesuffix(";")
            return found
        text, _, rest = behind.partition(";")
        found[name] = text.strip()
        rest = rest.strip()
    return found
