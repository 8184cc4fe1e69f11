"""Payloads made from the standard's own schemas, so that every message of every version has a test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tbgw.ocpp.actions import UNCONFIRMED, central_actions, station_actions
from tbgw.ocpp.schemas import schema
from tbgw.ocpp.versions import Version


def every_schema() -> Iterator[tuple[Version, str, bool, dict[str, Any]]]:
    """(version, action, whether it is the result's, the schema) of all that there are."""
    for version in Version:
        for action in sorted(station_actions(version) | central_actions(version)):
            for result in (False, True):
                if not (result and action in UNCONFIRMED):
                    yield version, action, result, schema(version, action, result)


def sample(root: dict[str, Any], full: bool) -> Any:
    """A payload that the schema allows: with all that it names, or with no more than it requires."""
    return _made(root, root, full, 0)


def _resolved(node: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref")
    return root["definitions"][reference.rpartition("/")[2]] if reference is not None else node


def _made(node: dict[str, Any], root: dict[str, Any], full: bool, depth: int) -> Any:
    node = _resolved(node, root)
    if "enum" in node:
        return node["enum"][0]
    kind = node.get("type")
    if kind == "object":
        names = node.get("properties", {}) if full and depth < 12 else node.get("required", ())
        return {name: _made(node["properties"][name], root, full, depth + 1) for name in names}
    if kind == "array":
        return [_made(node["items"], root, full, depth + 1) for _ in range(node.get("minItems", 1 if full else 0))]
    if kind == "integer":
        return int(_within(node, 1))
    if kind == "number":
        return _within(node, 1.5)
    if kind == "boolean":
        return True
    return "2026-01-01T00:00:00Z"[: node.get("maxLength", 99)]


def _within(node: dict[str, Any], value: float) -> float:
    return float(min(max(value, node.get("minimum", value)), node.get("maximum", value)))


def breakages(root: dict[str, Any], payload: Any) -> Iterator[tuple[str, str, Any]]:
    """(rule, path, payload) for each way in which one field of a payload can break the schema."""
    yield from _breakages(root, root, payload, "", lambda value: value)


def _breakages(
    node: dict[str, Any], root: dict[str, Any], value: Any, path: str, put: Any
) -> Iterator[tuple[str, str, Any]]:
    node = _resolved(node, root)
    if node.get("type") == "object" and isinstance(value, dict):
        for name in node.get("required", ()):
            yield "required", path, put({key: item for key, item in value.items() if key != name})
        if node.get("additionalProperties") is False:
            yield "additionalProperties", path, put({**value, "tbgw": 1})
        for name, item in value.items():
            below = f"{path}.{name}" if path else name
            yield from _breakages(
                node["properties"][name], root, item, below, lambda new, name=name: put({**value, name: new})
            )
        if path:
            yield "type", path, put("text")
    elif node.get("type") == "array" and isinstance(value, list):
        yield "type", path, put({})
        if node.get("minItems"):
            yield "minItems", path, put([])
        if value:
            yield from _breakages(node["items"], root, value[0], f"{path}[0]", lambda new: put([new, *value[1:]]))
    else:
        if "enum" in node:
            yield "enum", path, put("Tbgw")
        if "type" in node:
            yield "type", path, put(["wrong"])
        if "maxLength" in node and "enum" not in node:
            yield "maxLength", path, put("x" * (node["maxLength"] + 1))
        if "minimum" in node:
            yield "minimum", path, put(int(node["minimum"]) - 1)
        if "maximum" in node:
            yield "maximum", path, put(int(node["maximum"]) + 1)
