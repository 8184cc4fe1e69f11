"""The two spellings of a key: `meterValue` on the wire, `meter_value` in expressions of existing configurations.

The way to snake case is the rule of the package `ocpp`, because configurations were written against its output. The
way back is not that package's rule, which loses 43 of the 555 keys of 2.1 (`limit_L2` comes back as `limitL2`), but a
table for each object in each schema, that knows both spellings of each key that may stand there.
"""

from __future__ import annotations

import re
from typing import Any

from tbgw.ocpp.versions import Version

_before_word = re.compile("(.)([A-Z][a-z]+)")
_before_capital = re.compile(r"([a-z0-9])([A-Z])(?=\S)")

OPAQUE = frozenset({"customData", "data"})
"""Keys below which nothing is renamed: `data` is DataTransfer's, any JSON; elsewhere in the standard a `data` is a text
or holds one-letter keys only."""


MAX_NAMES = 4096
"""Spellings that are remembered: five times what all versions have, so only a stranger's own keys ever fill it."""


class _Names(dict[str, str]):
    """A key in snake case, worked out when it is first seen."""

    def __missing__(self, key: str) -> str:
        if len(self) >= MAX_NAMES:
            self.clear()
        self[key] = name = snake_key(key)
        return name


def snake_key(key: str) -> str:
    """One key, by the rule of the package `ocpp`."""
    key = key.replace("ocppCSMSURL", "ocpp_csms_url").replace("V2X", "_v2x").replace("V2G", "_v2g")
    return _before_capital.sub(r"\1_\2", _before_word.sub(r"\1_\2", key)).lower()


_names = _Names()


def snake(version: Version, payload: dict[str, Any]) -> dict[str, Any]:
    """
    A payload from the wire with its keys in snake case, values as they are; the same rule for all versions. What is in
    `DataTransfer.data` and in `customData` stays as it is.
    """
    return _snake_object(payload)


def _snake_object(payload: dict[str, Any]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for key, value in payload.items():
        kind = type(value)
        if kind is list and key not in OPAQUE:
            value = [
                _snake_object(item) if type(item) is dict else _snake_list(item) if type(item) is list else item
                for item in value
            ]
        elif kind is dict and key not in OPAQUE:
            value = _snake_object(value)
        named[_names[key]] = value
    return named


def _snake_list(values: list[Any]) -> list[Any]:
    return [
        _snake_object(value) if type(value) is dict else _snake_list(value) if type(value) is list else value
        for value in values
    ]


def wire_names(schema: dict[str, Any]) -> dict[str, Any]:
    """
    For the object that a schema describes: either spelling of a key -> (the wire's, the same for what is below it or
    None for something that has no keys or is opaque).
    """
    definitions: dict[str, dict[str, Any]] = {}

    def of(node: dict[str, Any]) -> dict[str, Any] | None:
        reference = node.get("$ref")
        if reference is not None:
            name = reference.rpartition("/")[2]
            if name not in definitions:
                found = definitions[name] = {}  # known before it is filled, should a definition contain itself
                found.update(of(schema["definitions"][name]) or {})
            return definitions[name]
        if "items" in node:
            return of(node["items"])
        if "properties" not in node:
            return None
        names: dict[str, Any] = {}
        for key, below in node["properties"].items():
            entry = (key, None if key in OPAQUE else of(below))
            names.setdefault(snake_key(key), entry)
            names[key] = entry
        return names

    return of(schema) or {}
