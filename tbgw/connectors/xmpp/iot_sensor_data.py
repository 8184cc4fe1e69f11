# -*- test-case-name: tests.connectors.xmpp.test_readouts -*-
"""XEP-0323, Internet of Things: sensor data. The requester's side as elements in, events and elements out; no I/O.

The document was retracted in 2017 and lives on in devices. Its forms before and after version 0.3 differ; both are
read:

* refused: an iq error with a condition and a text, or (old, slixmpp) type `error` with `<rejected seqnr error=>`;
* `timeSpan` (old) and `duration`; `int`, `long`, `date`, `time` besides `numeric` (new);
* an `<error>` in `<failure>` bears its text as content.

A reply belongs to a request by the sender's full JID and `seqnr`; that is matched in `readouts`. What a device sends
unasked (`<fields>` with a number that is nobody's) is data all the same. The number of elements in a stanza is bounded
by the link.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import NamedTuple

from twisted.words.xish.domish import Element

from tbgw.connectors.xmpp.converter import read_iso_time
from tbgw.model import Value

NAMESPACE = "urn:xmpp:iot:sensordata"

_TRUE = frozenset({"true", "1"})
_BOOLEAN = {"true": True, "1": True, "false": False, "0": False}
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_TEXTS = frozenset({"string", "date", "dateTime", "time", "timeSpan", "duration", "enum"})
KINDS = frozenset({"numeric", "int", "long", "boolean"}) | _TEXTS
"""Element names of fields."""
FIELD_TYPES = frozenset({"momentary", "peak", "status", "computed", "identity"})
QUALITY = frozenset(
    {
        "missing", "inProgress", "automaticEstimate", "manualEstimate", "manualReadout", "automaticReadout",
        "timeOffset", "warning", "error", "signed", "invoiced", "endOfSeries", "powerFailure", "invoiceConfirmed",
    }
)  # fmt: skip
"""Quality-of-service flags of a field (5.7)."""


class Field(NamedTuple):
    """One value."""

    node: str
    """`nodeId`, '' when the device has no nodes, or one."""
    ts_ms: int | None
    """When it was measured; None: the device's text is no time."""
    name: str
    kind: str
    """One of `KINDS`."""
    value: Value
    unit: str
    """Of a numeric; '' without."""
    types: frozenset[str]
    """`momentary`, `status`, `historicalDay` and so on."""
    quality: frozenset[str]


@dataclass(frozen=True, slots=True)
class Fields:
    """`<fields>`: values, and perhaps the end."""

    seqnr: str
    done: bool
    fields: tuple[Field, ...]
    unusable: int
    """Values that are none of their type."""


@dataclass(frozen=True, slots=True)
class Started:
    """`<started>`: a read-out that was queued has begun."""

    seqnr: str


@dataclass(frozen=True, slots=True)
class Done:
    """`<done>`: no more will come."""

    seqnr: str


@dataclass(frozen=True, slots=True)
class ReadFailure:
    """`<failure>`: some of it could not be read; more may come unless `done`."""

    seqnr: str
    done: bool
    errors: tuple[tuple[str, str], ...]
    """(node, text) of each."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """`<accepted>`, the answer to a request."""

    queued: bool


@dataclass(frozen=True, slots=True)
class Rejected:
    """`<rejected>`, the old answer to a request, within an error that has no condition."""

    text: str


Event = Fields | Started | Done | ReadFailure


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What to ask for."""

    field_types: Sequence[str] = ("momentary",)
    """`all`, or any of the types; nothing: `all`."""
    nodes: Sequence[str] = ()
    fields: Sequence[str] = ()
    from_ms: int | None = None
    """Of historical values: not before."""
    to_ms: int | None = None
    when_ms: int | None = None
    """When to read; None: now."""

    def wants(self, field: Field) -> bool:
        """Whether a field was asked for: devices need not heed the request (3.6)."""
        if self.nodes and field.node and field.node not in self.nodes:
            return False
        return not self.fields or field.name in self.fields


def request_element(seqnr: str, request: ReadRequest) -> Element:
    """`<req>`, for an iq of type get."""
    element = Element((NAMESPACE, "req"))
    element["seqnr"] = seqnr
    for kind in request.field_types or ("all",):
        element[kind] = "true"
    for name, moment in (("from", request.from_ms), ("to", request.to_ms), ("when", request.when_ms)):
        if moment is not None:
            element[name] = iso_time(moment)
    for node in request.nodes:
        element.addElement((NAMESPACE, "node"))["nodeId"] = node
    for field in request.fields:
        element.addElement((NAMESPACE, "field"))["name"] = field
    return element


def cancel_element(seqnr: str) -> Element:
    """`<cancel>`, for an iq of type get."""
    element = Element((NAMESPACE, "cancel"))
    element["seqnr"] = seqnr
    return element


def iso_time(ms: int) -> str:
    """A time as XEP-0082 writes it; a whole second without a fraction, which not every device reads."""
    timespec = "milliseconds" if ms % 1000 else "seconds"
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def read_reply(iq: Element) -> Accepted | Rejected | Fields | None:
    """
    The payload of the answer to a request. None: a result without one of ours, which accepts as well, since data may
    come first.
    """
    for child in iq.elements():
        if child.uri != NAMESPACE:
            continue
        if child.name == "accepted":
            return Accepted(_flag(child, "queued"))
        if child.name == "rejected":
            inner = child.firstChildElement()
            text = child.getAttribute("error") or ("" if inner is None else str(inner)) or str(child)
            return Rejected(text[:500])
        if child.name == "fields":
            return _fields(child)
    return None


def read_message(message: Element) -> list[Event]:
    """What a message says of read-outs, in order; nothing for any other message."""
    events: list[Event] = []
    for child in message.elements():
        if child.uri != NAMESPACE:
            continue
        seqnr = child.getAttribute("seqnr", "")
        if child.name == "fields":
            events.append(_fields(child))
        elif child.name == "done":
            events.append(Done(seqnr))
        elif child.name == "started":
            events.append(Started(seqnr))
        elif child.name == "failure":
            errors = tuple(
                (error.getAttribute("nodeId", ""), str(error)[:500])
                for error in child.elements(NAMESPACE, "error")
            )
            events.append(ReadFailure(seqnr, _flag(child, "done"), errors))
    return events


def _fields(element: Element) -> Fields:
    found: list[Field] = []
    unusable = 0
    for node in element.elements(NAMESPACE, "node"):
        node_id = node.getAttribute("nodeId", "")
        for timestamp in node.elements(NAMESPACE, "timestamp"):
            ts_ms = read_iso_time(timestamp.getAttribute("value", ""))
            for child in timestamp.elements():
                name = child.getAttribute("name")
                if child.uri != NAMESPACE or child.name not in KINDS or not name:
                    continue
                flags = frozenset(_flags(child))
                if "missing" in flags and child.getAttribute("value") is None:
                    continue
                value = _value(child)
                if value is None:
                    unusable += 1
                    continue
                types = flags - QUALITY
                unit = child.getAttribute("unit", "") if child.name == "numeric" else ""
                found.append(Field(node_id, ts_ms, name, child.name, value, unit, types, flags & QUALITY))
    return Fields(element.getAttribute("seqnr", ""), _flag(element, "done"), tuple(found), unusable)


def _flags(element: Element) -> Iterator[str]:
    for name, value in element.attributes.items():
        if value in _TRUE and isinstance(name, str) and (
            name in FIELD_TYPES or name in QUALITY or name.startswith("historical")
        ):
            yield name


def _flag(element: Element, name: str) -> bool:
    return element.getAttribute(name, "") in _TRUE


def _value(element: Element) -> Value:
    """The value in its type; None when it is none."""
    text = element.getAttribute("value")
    if text is None:
        return None
    if element.name in _TEXTS:
        return text
    text = text.strip()
    if element.name == "boolean":
        return _BOOLEAN.get(text.lower())
    if _INTEGER.fullmatch(text):
        return int(text)
    if element.name != "numeric":
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None
