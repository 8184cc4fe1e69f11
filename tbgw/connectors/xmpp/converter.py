# -*- test-case-name: tests.connectors.xmpp.test_converter -*-
"""From a message's body to values, compiled once for each expression. Pure.

A body is one of three things, which the entry's `bodyFormat` fixes or `auto` finds out:

* JSON, an object or a list: expressions are paths, `${temp}`, and a lone one keeps the value's type (X12). A number or
  a text alone is JSON too, but has nothing in it to name: it is taken as text (X-17).
* `name=value;name=value` (the Iotellect driver's form), with integers, doubles and booleans as such and everything
  else as text: then it is an object, and expressions are paths.
* Text: expressions are slices of its characters, `[0:4]` or `[7]`, bare as in the reference or as `${[0:4]}`; several
  of them and text around them make one text.

What an expression does not find is `MISSING`: its key is left out and counted, never sent as the expression's text
(X-15, X-17), nor as `null`, which ThingsBoard passes over in silence. Values keep their types (X-14).

`${from.local}`, `${from.domain}`, `${from.resource}`, `${from.bare}`, `${from.jid}` are the sender as the server
vouches for it; in names and profiles only, and whatever the body says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from typing import Any, Literal

from tbgw.connectors.xmpp.jids import Address
from tbgw.expressions import MISSING, ExpressionError, compile_template, split_template, text_of
from tbgw.model import Value

MAX_TIMESTAMP_MS = 7_258_118_400_000
"""1 January 2200. A later time, or one before 1970, is none that a device means."""
FIRST_MS = 100_000_000_000
"""A number below this (March 1973 in ms, the year 5138 in seconds) is a time in seconds."""

BodyFormat = Literal["auto", "json", "pairs", "text"]
Evaluate = Callable[["Body"], Any]
"""A body to a value, or MISSING. Never raises."""

_SLICE = re.compile(r"\[(-?[0-9]{1,9})?(:)?(-?[0-9]{1,9})?\]")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_DOUBLE = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_PAIR_NAME = re.compile(r"[^\s=;{}\[\]\"<>][^=;{}\[\]\"<>]{0,199}")
_WORDS = {"true": True, "false": False}


def _no_number(word: str) -> Value:
    raise ValueError(f"{word} is not JSON")


_decode = json.JSONDecoder(parse_constant=_no_number).decode


class Body:
    """The body of one message."""

    __slots__ = ("data", "is_pairs", "text")

    def __init__(self, text: str, data: Any = MISSING, is_pairs: bool = False) -> None:
        self.text = text
        self.data = data
        """The JSON object or list, MISSING for a text."""
        self.is_pairs = is_pairs


def read_body(text: str, form: BodyFormat = "auto") -> Body:
    """What the body is; never fails: what has not the form that was fixed is a body in which nothing is found."""
    if form in ("auto", "json"):
        if text.lstrip()[:1] in ("{", "["):
            try:
                data = _decode(text)
            except (ValueError, RecursionError):
                pass
            else:
                return Body(text, data)
        if form == "json":
            return Body(text, {})
    if form in ("auto", "pairs"):
        pairs = read_pairs(text)
        if pairs is not None:
            return Body(text, pairs, True)
        if form == "pairs":
            return Body(text, {}, True)
    return Body(text)


def read_json(text: str) -> Value:
    """Any JSON value, or the text itself when it is none: what an answer of a device gives."""
    try:
        return _decode(text)
    except (ValueError, RecursionError):
        return text


def read_pairs(text: str) -> dict[str, Value] | None:
    """`a=1;b=2.5;c=true;d=on`, the last `;` optional; None when the text is something else."""
    if "=" not in text:
        return None
    found: dict[str, Value] = {}
    for part in text.strip().removesuffix(";").split(";"):
        name, equals, value = part.partition("=")
        name = name.strip()
        if not equals or not _PAIR_NAME.fullmatch(name):
            return None
        found[name] = _pair_value(value.strip())
    return found


def _pair_value(text: str) -> Value:
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DOUBLE.fullmatch(text):
        number = float(text)
        return number if isfinite(number) else text
    return _WORDS.get(text.lower(), text)


def write_pairs(values: dict[str, Value]) -> str:
    """The reverse, for what is sent. Raises ValueError for what has no form in it."""
    parts = []
    for name, value in values.items():
        written = text_of(value)
        if not _PAIR_NAME.fullmatch(name) or ";" in written:
            raise ValueError(f"{name[:50]!r} has no form as name=value")
        parts.append(f"{name}={written}")
    return ";".join(parts)


@lru_cache(maxsize=4096)
def compile_value(template: str) -> Evaluate:
    """See the module. Compiled ones are shared: a thousand entries are mostly alike. Raises ExpressionError."""
    of_data = compile_template(template)
    of_text = _compile_text(template)
    bare_slices = of_text is not None and _SLICE.search(re.sub(r"\$\{[^}]*\}", "", template)) is not None
    if of_text is None:
        return lambda body: of_data(body.data) if body.data is not MISSING else MISSING
    sliced = of_text

    def evaluate(body: Body) -> Any:
        if body.data is MISSING or (body.is_pairs and bare_slices):
            return sliced(body.text)
        return MISSING if bare_slices else of_data(body.data)

    return evaluate


def _compile_text(template: str) -> Callable[[str], Any] | None:
    """The template over a text; None when a part of it can never be had there."""
    parts: list[str | slice] = []
    for is_tag, text in split_template(template):
        if is_tag:
            found = _SLICE.fullmatch(text)
            if found is None or (found[1] is None and not found[2]):
                return None
            parts.append(_slice_of(found))
            continue
        end = 0
        for found in _SLICE.finditer(text):
            if found[1] is None and not found[2]:
                continue  # [] stands for itself
            if found.start() > end:
                parts.append(text[end : found.start()])
            parts.append(_slice_of(found))
            end = found.end()
        if end < len(text):
            parts.append(text[end:])

    def evaluate(text: str) -> Any:
        made = []
        for part in parts:
            piece = part if isinstance(part, str) else text[part]
            if not piece:
                return MISSING
            made.append(piece)
        return "".join(made)

    return evaluate


def _slice_of(found: re.Match[str]) -> slice:
    start = int(found[1]) if found[1] else None
    if found[2]:
        return slice(start, int(found[3]) if found[3] else None)
    return slice(start, (start or 0) + 1 or None)


class Name:
    """A compiled device name, or profile."""

    __slots__ = ("_parts", "constant", "needs_body")

    def __init__(self, parts: tuple[str | Evaluate | Callable[[Address], str], ...], template: str) -> None:
        self._parts = parts
        self.constant = template if all(isinstance(part, str) for part in parts) else None
        """The name itself when it depends on nothing."""
        self.needs_body = any(isinstance(part, _OfBody) for part in parts)
        """Whether it cannot be known before the first message."""

    def make(self, sender: Address, body: Body | None) -> str:
        """The name; '' when a part of it cannot be had."""
        made = []
        for part in self._parts:
            if isinstance(part, str):
                made.append(part)
                continue
            if isinstance(part, _OfBody):
                value = MISSING if body is None else part.evaluate(body)
                text = "" if value is MISSING or value is None else text_of(value).strip()
            else:
                text = part(sender)  # type: ignore[arg-type] # the third kind: of the sender
            if not text:
                return ""
            made.append(text)
        return "".join(made).strip()


class _OfBody:
    """A part of a name that the message has to say."""

    __slots__ = ("evaluate",)

    def __init__(self, evaluate: Evaluate) -> None:
        self.evaluate = evaluate

    def __call__(self, body: Body) -> Any:
        return self.evaluate(body)


_SENDER: dict[str, Callable[[Address], str]] = {
    "from.jid": lambda sender: sender.full,
    "from.bare": lambda sender: sender.bare,
    "from.local": lambda sender: sender.local,
    "from.domain": lambda sender: sender.domain,
    "from.resource": lambda sender: sender.resource,
}


@lru_cache(maxsize=4096)
def compile_name(template: str) -> Name:
    """See the module. Raises ExpressionError."""
    parts: list[Any] = []
    for is_tag, text in split_template(template):
        if is_tag:
            if text.startswith("from.") and text not in _SENDER:
                raise ExpressionError(f"${{{text}}}: of the sender there are {', '.join(_SENDER)}")
            parts.append(_SENDER.get(text) or _OfBody(compile_value(f"${{{text}}}")))
        elif _SLICE.search(text):
            parts.append(_OfBody(compile_value(text)))
        else:
            parts.append(text)
    return Name(tuple(parts), template)


def read_time(value: Value) -> int | None:
    """ms since the epoch of a number in ms or, if it is small, seconds, or of an ISO 8601 text; None: it is no time."""
    if isinstance(value, str):
        text = value.strip()
        if _DOUBLE.fullmatch(text):
            value = float(text)
        else:
            return read_iso_time(text)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    milliseconds = value if abs(value) >= FIRST_MS else value * 1000
    return int(milliseconds) if 0 < milliseconds <= MAX_TIMESTAMP_MS else None


def read_iso_time(text: str) -> int | None:
    """ms since the epoch; without a zone it is UTC, as XMPP's own stamps are (XEP-0082)."""
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            found = found.replace(tzinfo=UTC)
        milliseconds = round(found.timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
    return milliseconds if 0 < milliseconds <= MAX_TIMESTAMP_MS else None


class Converter:
    """What one entry takes of a body. `skipped(key)` is called for each key that a message has no value for."""

    __slots__ = ("_attributes", "_skipped", "_telemetry", "_time")

    def __init__(
        self,
        telemetry: tuple[tuple[str, str], ...],
        attributes: tuple[tuple[str, str], ...],
        timestamp: str | None,
        skipped: Callable[[str], None],
    ) -> None:
        """(key expression, value expression) of each. Raises ExpressionError."""
        self._telemetry = _compile_points(telemetry)
        self._attributes = _compile_points(attributes)
        self._time = tuple(compile_value(one) for one in ([timestamp] if timestamp else ["${ts}", "${timestamp}"]))
        self._skipped = skipped

    def convert(self, body: Body) -> tuple[dict[str, Value], dict[str, Value]]:
        """(telemetry by key, attributes by key)."""
        return self._values(self._telemetry, body), self._values(self._attributes, body)

    def time_of(self, body: Body) -> tuple[int | None, bool]:
        """(the message's own time in ms, whether it said one that is none)."""
        for evaluate in self._time:
            value = evaluate(body)
            if value is not MISSING and value is not None:
                found = read_time(value)
                return found, found is None
        return None, False

    def _values(self, points: tuple[tuple[str | Evaluate, Evaluate], ...], body: Body) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for key, evaluate in points:
            value = evaluate(body)
            if not isinstance(key, str):
                made = key(body)
                key = "" if made is MISSING or made is None else text_of(made)
            if value is MISSING or value is None or not key:
                self._skipped(key if isinstance(key, str) else "")
            else:
                values[key] = value
        return values


@lru_cache(maxsize=4096)
def _compile_points(points: tuple[tuple[str, str], ...]) -> tuple[tuple[str | Evaluate, Evaluate], ...]:
    return tuple((key if "${" not in key else compile_value(key), compile_value(value)) for key, value in points)
