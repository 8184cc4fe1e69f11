# -*- test-case-name: tests.connectors.xmpp.test_iot_control -*-
"""XEP-0325, Internet of Things: control. The requester's side as elements in, elements and values out; no I/O.

Retracted in 2017 like XEP-0323; both generations of replies are read:

* done: `<setResponse/>`, with `responseCode="OK"` in the old form; any result does.
* refused: an iq error, with `<paramError var=>text</paramError>` for the parameters to blame; in the old form type
  `error` with `<setResponse responseCode="NotFound">` and no condition, or even `result` with a code other than OK.
* form: `<x type='form'>` in the result, in the old form within `<getFormResponse>`.

`Element`s that come in are bounded by the link.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.words.xish.domish import Element

from tbgw.expressions import text_of
from tbgw.model import Value

NAMESPACE = "urn:xmpp:iot:control"
FORM = "jabber:x:data"

KINDS = ("boolean", "int", "long", "double", "string", "date", "time", "dateTime", "duration", "color")
"""Element names of control parameters (3.2)."""

_OLD_CODES = {
    "NotFound": "item-not-found",
    "InsufficientPrivileges": "forbidden",
    "Locked": "conflict",
    "NotImplemented": "feature-not-implemented",
    "FormError": "bad-request",
    "OtherError": "undefined-condition",
}
"""The old response codes as today's conditions (the table in the document's revision 0.3)."""

_COLOR = re.compile(r"#?([0-9A-Fa-f]{6}(?:[0-9A-Fa-f]{2})?)")
_TRUE = frozenset({"true", "1", "on"})
_FALSE = frozenset({"false", "0", "off"})
INT_LIMIT = 2**31
LONG_LIMIT = 2**63


class BadParameter(ValueError):  # noqa: N818 - says what is
    """A value that has no form in its type; the text says which."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One control parameter, ready to be written."""

    name: str
    kind: str
    """One of `KINDS`."""
    text: str


def parameter(name: str, value: Value, kind: str = "auto") -> Parameter:
    """A JSON value as a parameter; `auto` takes the type from the value. Raises BadParameter."""
    if not name:
        raise BadParameter("a control parameter needs a name")
    if kind == "auto":
        kind = _kind_of(name, value)
    if kind not in KINDS:
        raise BadParameter(f"{kind[:50]!r} is no type of control parameter; there are {', '.join(KINDS)}")
    written = _written(value, kind)
    if written is None:
        raise BadParameter(f"{name[:100]}: {text_of(value)[:50]!r} is no {kind}")
    return Parameter(name, kind, written)


def parameters(values: Value) -> list[Parameter]:
    """
    Of `{"name": value}`, `{"name": {"type": "double", "value": 3}}`, or a list of `{"name", "type", "value"}`, whose
    order is kept. Raises BadParameter.
    """
    if isinstance(values, dict):
        items: list[Any] = [
            {"name": name, **value} if isinstance(value, dict) else {"name": name, "value": value}
            for name, value in values.items()
        ]
    elif isinstance(values, list):
        items = values
    else:
        items = []
    if not items:
        raise BadParameter('name the parameters: {"name": value} or [{"name": ..., "type": ..., "value": ...}]')
    made = []
    for item in items:
        if not isinstance(item, dict) or "value" not in item or not isinstance(item.get("name"), str):
            raise BadParameter("each parameter has a name and a value")
        made.append(parameter(item["name"], item["value"], str(item.get("type", "auto"))))
    return made


def _kind_of(name: str, value: Value) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "int" if -INT_LIMIT <= value < INT_LIMIT else "long"
    if isinstance(value, float):
        return "double"
    if isinstance(value, str):
        return "string"
    raise BadParameter(f"{name[:100]}: a control parameter is a text, a number or true or false")


def _written(value: Value, kind: str) -> str | None:
    """The value as the type writes it, None when it is none."""
    if isinstance(value, (dict, list)) or value is None:
        return None
    text = text_of(value).strip()
    if kind == "boolean":
        lowered = text.lower()
        return "true" if lowered in _TRUE else "false" if lowered in _FALSE else None
    if kind in ("int", "long"):
        limit = INT_LIMIT if kind == "int" else LONG_LIMIT
        try:
            number = int(text) if len(text) < 20 and not isinstance(value, (bool, float)) else int(float(text))
        except (ValueError, OverflowError):
            return None
        whole = not isinstance(value, float) or value.is_integer()
        return str(number) if whole and not isinstance(value, bool) and -limit <= number < limit else None
    if kind == "double":
        try:
            number_text = text if not isinstance(value, bool) and float(text) == float(text) else None
        except ValueError:
            return None
        return number_text
    if kind == "color":
        found = _COLOR.fullmatch(text)
        return found[1].upper() if found else None
    return text_of(value)


def set_element(values: Iterable[Parameter], nodes: Sequence[str] = ()) -> Element:
    """`<set>` with typed children, for an iq of type set, or a message when nobody waits for the outcome."""
    element = _with_nodes(Element((NAMESPACE, "set")), nodes)
    for one in values:
        child = element.addElement((NAMESPACE, one.kind))
        child["name"] = one.name
        child["value"] = one.text
    return element


def form_element(values: Mapping[str, Value], nodes: Sequence[str] = ()) -> Element:
    """`<set>` with a data form of type submit; part of a form is enough (3.3.3)."""
    element = _with_nodes(Element((NAMESPACE, "set")), nodes)
    form = element.addElement((FORM, "x"))
    form["type"] = "submit"
    for name, value in values.items():
        field = form.addElement((FORM, "field"))
        field["var"] = name
        for one in value if isinstance(value, list) else [value]:
            written = ("true" if one else "false") if isinstance(one, bool) else "" if one is None else text_of(one)
            field.addElement((FORM, "value"), content=written)
    return element


def get_form_element(nodes: Sequence[str] = ()) -> Element:
    """`<getForm>`, for an iq of type get."""
    return _with_nodes(Element((NAMESPACE, "getForm")), nodes)


def _with_nodes(element: Element, nodes: Sequence[str]) -> Element:
    for node in nodes:
        element.addElement((NAMESPACE, "node"))["nodeId"] = node
    return element


def refusal(iq: Element) -> tuple[str, str] | None:
    """
    (condition, text) when the answer, of type result or error, says in the old form that it was not done; None
    otherwise. The new form's refusals have a condition of their own, to which `blamed` may add.
    """
    for child in iq.elements():
        code = child.getAttribute("responseCode") if child.uri == NAMESPACE else None
        if code is not None and code != "OK":
            text = "; ".join(filter(None, [code[:100], blamed(child)]))
            return _OLD_CODES.get(code, "undefined-condition"), text
    return None


def blamed(element: Element) -> str:
    """What `<paramError>`s, at any depth down to two, say: `name: text; name: text`."""
    found = []
    for child in element.elements():
        if child.uri == NAMESPACE and child.name in ("paramError", "parameter") and child.getAttribute("var", ""):
            found.append(f"{child['var'][:100]}: {str(child)[:200]}")
        elif child.uri == NAMESPACE and child.name == "parameter":
            found.append(f"{child.getAttribute('name', '')[:100]}: {str(child)[:200]}")
        elif child.name in ("error", "setResponse"):
            inner = blamed(child)
            if inner:
                found.append(inner)
    return "; ".join(found)


def read_form(iq: Element) -> dict[str, Value] | None:
    """
    The form in an answer, as `{"title", "instructions", "fields": [{"var", "type", "label", "value", "options"}]}`;
    None when there is none. `value` is a list for types that end in `multi`.
    """
    for child in iq.elements():
        if child.uri == NAMESPACE and child.name == "getFormResponse":
            return read_form(child)
        if child.uri == FORM and child.name == "x":
            return {
                "title": _text(child, "title"),
                "instructions": _text(child, "instructions"),
                "fields": [_field(field) for field in child.elements(FORM, "field")],
            }
    return None


def _field(field: Element) -> dict[str, Value]:
    kind = field.getAttribute("type", "text-single")
    values: list[str] = [str(value) for value in field.elements(FORM, "value")]
    options = [_text(option, "value") for option in field.elements(FORM, "option")]
    value: Value = values if kind.endswith("multi") else values[0] if values else None
    if kind == "boolean" and value is not None:
        value = value in _TRUE
    found = {"var": field.getAttribute("var", ""), "type": kind, "label": field.getAttribute("label"), "value": value}
    return {**found, "options": options} if options else found


def _text(element: Element, name: str) -> str | None:
    for child in element.elements(FORM, name):
        return str(child)
    return None
