"""The standard's JSON schemas, read as data from the package `ocpp`, each compiled when it is first needed.

Of that package nothing is run: importing its code would bring asyncio and jsonschema along, 17 MiB of them, and
jsonschema is fifteen to thirty times slower than what fastjsonschema compiles (spec ocpp, 4). All schemas are read as
draft 4, as that package does itself; no format is checked, no default is filled in.

The code that fastjsonschema generates repeats the whole schema in every place that can raise, which makes compiling
slow (92 ms for the largest) and the code large. `_Generator` leaves that out: what can be wrong is told by rule, path
and message alone. Then no schema takes more than some 20 ms to compile, so it happens in place, when it is needed;
`warm` does it for a version's common messages one by one, so that a reactor breathes in between.

The schemas are the standard's own and are not part of this repository: 2.1's bear a licence that forbids derivatives,
so what is compiled from them is never stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple, cast

from fastjsonschema import JsonSchemaValueException
from fastjsonschema.draft04 import CodeGeneratorDraft04
from fastjsonschema.ref_resolver import RefResolver

from tbgw.ocpp.actions import UNCONFIRMED, central_actions, is_known, station_actions
from tbgw.ocpp.keys import snake, wire_names
from tbgw.ocpp.versions import Version

__all__ = [
    "SchemaFault",
    "central_actions",
    "is_known",
    "request_fault",
    "result_fault",
    "schema",
    "snake",
    "station_actions",
    "warm",
    "wire_keys",
]

_FOLDERS = {Version.V16: "v16", Version.V201: "v201", Version.V21: "v21"}

COMMON = {
    Version.V16: "Heartbeat BootNotification StatusNotification MeterValues Authorize StartTransaction StopTransaction",
    Version.V201: "Heartbeat BootNotification StatusNotification MeterValues Authorize TransactionEvent NotifyEvent",
    Version.V21: "Heartbeat BootNotification StatusNotification MeterValues Authorize TransactionEvent NotifyEvent",
}
"""What nearly every station sends."""

_CODES = {
    "type": "TypeConstraintViolation",
    "required": "OccurrenceConstraintViolation",
    "minItems": "OccurrenceConstraintViolation",
    "maxItems": "OccurrenceConstraintViolation",
    "additionalProperties": "FormatViolation",
    "additionalItems": "FormatViolation",
}
"""By the rule that is broken; all others are PropertyConstraintViolation (spec ocpp, 1.1)."""


class SchemaFault(NamedTuple):
    """The first thing in which a payload breaks its schema."""

    code: str
    """The wire's error code, in the 2.x spelling."""
    rule: str
    """JSON schema's name of the rule: `required`, `type`, `enum`..."""
    path: str
    """Where: `meterValue[0].sampledValue`; empty for the payload itself."""
    text: str
    """In words. May repeat names that the peer wrote, never values."""


def _below(broken: JsonSchemaValueException, path: str) -> JsonSchemaValueException:
    """What is wrong below a path, with that path."""
    message, name = broken.message.removeprefix("data"), (broken.name or "").removeprefix("data")
    return JsonSchemaValueException(path + message, None, path + name, None, broken.rule)


class _Generator(CodeGeneratorDraft04):
    """
    fastjsonschema's, but what is raised does not repeat the schema, and the rules that occur in these schemas are
    quicker, which trebles the speed on meter values: what `type` has proved is not asked again by the rules behind it,
    an enumeration of texts is one look into a set, and keys are not copied to be crossed out.
    """

    def _has_type(self, name: str) -> bool:
        return bool(cast(Any, self._definition).get("type") == name)

    def generate_ref(self) -> None:
        """`$ref`: a function of its own. Where it was called from is put before the path only if something is wrong."""
        with self._resolver.in_scope(cast(Any, self._definition)["$ref"]):
            function, uri = self._resolver.get_scope_name(), self._resolver.get_uri()
            if uri not in self._validation_functions_done:
                self._needed_validation_functions[uri] = function
            cast(Any, self._extra_imports_objects)["below"] = _below
            with self.l("try:"):
                self.l("{}({variable})", function)
            with self.l("except JsonSchemaValueException as broken:"):
                self.l('raise below(broken, "{name}") from None')

    def generate_type(self) -> None:
        """`type`; that of an enumeration of texts is seen to by `enum`."""
        if not (self._has_type("string") and "enum" in cast(Any, self._definition)):
            super().generate_type()

    def generate_enum(self) -> None:
        """`enum`."""
        values = cast(Any, self._definition)["enum"]
        if not (self._has_type("string") and all(type(value) is str for value in values)):
            if self._has_type("string"):
                super().generate_type()
            super().generate_enum()
            return
        with self.l("if not isinstance({variable}, str):"):
            self.exc("{name} must be string", rule="type")
        with self.l("if {variable} not in {}:", self.e(repr(set(values)))):
            self.exc("{name} must be one of {}", self.e(values), rule="enum")

    def generate_max_length(self) -> None:
        """`maxLength`."""
        if not self._has_type("string"):
            super().generate_max_length()
            return
        with self.l("if len({variable}) > {maxLength}:"):
            self.exc("{name} must be shorter than or equal to {maxLength} characters", rule="maxLength")

    def create_variable_is_dict(self) -> None:
        """Whether it is an object."""
        if self._has_type("object"):
            self.l("{variable}_is_dict = True")
        else:
            super().create_variable_is_dict()

    def create_variable_is_list(self) -> None:
        """Whether it is a list."""
        if self._has_type("array"):
            self.l("{variable}_is_list = True")
        else:
            super().create_variable_is_list()

    def generate_required(self) -> None:
        """`required`."""
        self.create_variable_is_dict()
        names = cast(Any, self._definition)["required"]
        tests = " or ".join(f"{name!r} not in {self._variable}" for name in names)
        with self.l("if {variable}_is_dict and ({}):", tests):
            missing = f"str([name for name in {names!r} if name not in {self._variable}])"
            self.exc("{name} must contain ", rule="required", append_to_msg=missing + ' + " properties"')

    def generate_properties(self) -> None:
        """`properties`."""
        if not cast(Any, self._definition)["properties"]:
            return
        self.create_variable_is_dict()
        with self.l("if {variable}_is_dict:"):
            for key, below in cast(Any, self._definition)["properties"].items():
                name = "".join(character for character in key if character.isalnum())
                with self.l('if "{}" in {variable}:', self.e(key)):
                    self.l('{variable}__{0} = {variable}["{1}"]', name, self.e(key))
                    self.generate_func_code_block(
                        below, f"{self._variable}__{name}", f"{self._variable_name}.{self.e(key)}", clear_variables=True
                    )

    def generate_additional_properties(self) -> None:
        """`additionalProperties`."""
        if cast(Any, self._definition)["additionalProperties"] is not False:
            super().generate_additional_properties()
            return
        self.create_variable_is_dict()
        allowed = f"ALLOWED_{len(self._extra_imports_objects)}"
        cast(Any, self._extra_imports_objects)[allowed] = frozenset(cast(Any, self._definition).get("properties", ()))
        with self.l("if {variable}_is_dict and not {variable}.keys() <= {}:", allowed):
            extra = f"str(sorted({self._variable}.keys() - {allowed}))"
            self.exc("{name} must not contain ", rule="additionalProperties", append_to_msg=extra + ' + " properties"')

    def exc(self, msg: str, *args: Any, append_to_msg: str | None = None, rule: str | None = None) -> None:
        text = f'"{msg}"' + (f" + ({append_to_msg})" if append_to_msg else "")
        definition = self._definition
        value = definition.get(rule) if isinstance(definition, dict) else None
        self.l(
            "raise JsonSchemaValueException(" + text + ', None, "{name}", None, {rule})',
            *args,
            rule=repr(rule),
            definition_rule=self.e(value),
        )


def schema(version: Version, action: str, result: bool = False) -> dict[str, Any]:
    """The schema of a message, as the package ships it. Raises KeyError for one that the version does not have."""
    if not is_known(version, action) or (result and action in UNCONFIRMED):
        raise KeyError(action)
    suffix = "Response" if result else "" if version is Version.V16 or action in UNCONFIRMED else "Request"
    source = files("ocpp") / _FOLDERS[version] / "schemas" / f"{action}{suffix}.json"
    loaded: dict[str, Any] = json.loads(source.read_text(encoding="utf-8-sig"))
    return loaded


@cache  # never more than twice the messages that the versions have: it raises for all others
def _validator(version: Version, action: str, result: bool) -> Callable[[Any], Any]:
    definition = {k: v for k, v in schema(version, action, result).items() if k not in ("$schema", "$id", "id")}
    resolver = RefResolver.from_schema(definition, store={})
    generator = _Generator(definition, resolver=resolver, formats={}, use_default=False, use_formats=False)
    names = generator.global_state
    exec(generator.func_code, names)  # noqa: S102 - how fastjsonschema's own `compile` does it; the schema is data of ours
    compiled: Callable[[Any], Any] = names[resolver.get_scope_name()]
    return compiled


@cache
def _names(version: Version, action: str, result: bool) -> dict[str, Any]:
    return wire_names(schema(version, action, result))


def request_fault(version: Version, action: str, payload: Mapping[str, Any]) -> SchemaFault | None:
    """What is wrong with the payload of a CALL or SEND; None for nothing, or if the version has no such message."""
    return _fault(version, action, False, payload) if is_known(version, action) else None


def result_fault(version: Version, action: str, payload: Mapping[str, Any]) -> SchemaFault | None:
    """What is wrong with the payload of the CALLRESULT to an action; None as in `request_fault`."""
    return _fault(version, action, True, payload) if is_known(version, action) and action not in UNCONFIRMED else None


def _fault(version: Version, action: str, result: bool, payload: Mapping[str, Any]) -> SchemaFault | None:
    try:
        _validator(version, action, result)(payload)
    except JsonSchemaValueException as broken:
        rule = broken.rule or ""
        path = (broken.name or "").removeprefix("data").removeprefix(".")
        return SchemaFault(_CODES.get(rule, "PropertyConstraintViolation"), rule, path, broken.message)
    return None


def wire_keys(version: Version, action: str, payload: Mapping[str, Any], result: bool = False) -> dict[str, Any]:
    """
    The payload with every key as the wire spells it, whether it came as `meter_value` or as `meterValue`. Keys that
    the schema does not have stay as they are, and so does all that is in `DataTransfer.data` and `customData`.
    Raises KeyError for an action that the version does not have.
    """
    renamed: dict[str, Any] = _renamed(payload, _names(version, action, result))
    return renamed


def _renamed(value: Any, names: dict[str, Any]) -> Any:
    if isinstance(value, Mapping):
        renamed = {}
        for key, item in value.items():
            wire, below = names.get(key, (key, None))
            if wire != key and wire in value:
                wire, below = key, None  # both spellings are there: the other one is left to the schema
            renamed[wire] = item if below is None else _renamed(item, below)
        return renamed
    if isinstance(value, list | tuple):
        return [_renamed(item, names) for item in value]
    return value


def warm(version: Version) -> Iterator[str]:
    """Compile what is common, one message at a time; gives the name of each, so that the caller can stop in between."""
    for action in COMMON[version].split():
        _validator(version, action, False)
        yield action
        _validator(version, action, True)
        yield f"{action} result"
