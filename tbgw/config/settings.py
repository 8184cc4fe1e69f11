# -*- test-case-name: tests.config.test_settings -*-
"""What a section of a configuration file may hold, declared on the frozen dataclass that it becomes.

    @config_section
    class Activity:
        check: bool = flag("checkDeviceInactivity", default=False, doc="Disconnect devices that are silent.")
        timeout_seconds: int = integer("inactivityTimeoutSeconds", default=120, minimum=1, unit="seconds", doc="...")

    activity = read_section(Activity, node, reporter)

Invariants:

* Every field that is read from a file has a meaning, and a unit where it is a number (a test holds this).
* Reading goes on after a fault, with the default in the place of the faulty value, so that all faults are found. Where
  nothing can take its place the reader raises `Refused`, whose holder is then refused in turn.
* null is the same as leaving the key out. A whole number may stand as a text of digits, as in environment variables.
* One setting may have several spellings. The first in its list counts; two that differ are a doubt, never silent.

Considered and dropped: JSON schema (its faults name no line and suggest nothing; one more dependency), attrs and
pydantic (the same, and slow to import).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, dataclass_transform

from tbgw.config.document import Node
from tbgw.config.findings import Reporter
from tbgw.config.values import (
    Read,
    Refused,
    did_you_mean,
    read_certificate,
    read_choice,
    read_flag,
    read_integer,
    read_items,
    read_object,
    read_secret,
    read_text,
)

S = TypeVar("S")
REQUIRED: Any = dataclasses.MISSING
"""As `default`: the key must be there."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How one field of a section is read."""

    keys: tuple[str, ...]
    """All spellings; the first is the one that messages use and that counts when several are there."""
    read: Read
    """Makes the value of a node, or raises Refused."""
    doc: str
    """Meaning, for the operator."""
    unit: str = ""
    """What a number counts."""
    later: str = ""
    """If set: the value is checked and has no effect, for this reason."""
    instead: tuple[str, Read] | None = None
    """Another key, and how it is read, that is looked at when none of `keys` is there."""


def setting(
    *keys: str,
    read: Read,
    doc: str,
    default: Any = REQUIRED,
    unit: str = "",
    later: str = "",
    instead: tuple[str, Read] | None = None,
) -> Any:
    """A field with a reader of its own. All kinds below are made of it."""
    return dataclasses.field(default=default, metadata={"setting": Setting(keys, read, doc, unit, later, instead)})


def flag(*keys: str, default: bool | None, doc: str, later: str = "") -> Any:
    """true or false. One without effect is named only when it is on: what is off asks for nothing."""
    return setting(*keys, read=read_flag(later), doc=doc, default=default)


def integer(
    *keys: str, minimum: int, maximum: int, unit: str, doc: str, default: Any = REQUIRED, later: str = ""
) -> Any:
    """A whole number from `minimum` to `maximum`."""
    return setting(*keys, read=read_integer(minimum, maximum), doc=doc, default=default, unit=unit, later=later)


def text(*keys: str, doc: str, default: Any = REQUIRED, later: str = "") -> Any:
    """A text with something in it."""
    return setting(*keys, read=read_text, doc=doc, default=default, later=later)


def one_of(*keys: str, choices: Iterable[str], doc: str, default: Any = REQUIRED) -> Any:
    """One of a few words, spelt exactly."""
    return setting(*keys, read=read_choice(tuple(choices)), doc=doc, default=default)


def secret(*keys: str, doc: str, default: Any = REQUIRED) -> Any:
    """A text that becomes a `Secret`; may be empty."""
    return setting(*keys, read=read_secret, doc=doc, default=default)


def certificate(*keys: str, doc: str, default: Any = REQUIRED) -> Any:
    """A PEM file that is there, looked for in the configuration's folder first; a Path."""
    return setting(*keys, read=read_certificate, doc=doc, default=default)


def section(of: type, *keys: str, doc: str, default: Any = REQUIRED) -> Any:
    """An object that is a section of its own."""
    return setting(*keys, read=section_reader(of), doc=doc, default=default)


def sections(of: type, *keys: str, doc: str, default: Any = REQUIRED, later: str = "") -> Any:
    """A list of objects, each a section; a tuple."""
    return setting(*keys, read=read_items(section_reader(of)), doc=doc, default=default, later=later)


def section_reader(of: type) -> Read:
    """`read_section` for one kind of section."""
    return lambda node, reporter: read_section(of, node, reporter)


@dataclass_transform(
    frozen_default=True,
    field_specifiers=(setting, flag, integer, text, one_of, secret, certificate, section, sections, dataclasses.field),
)
def config_section(of: type[S]) -> type[S]:
    """Make a class a section: a frozen dataclass whose fields know how they are read."""
    return dataclass(frozen=True, slots=True)(of)


def changed(value: S, **fields: Any) -> S:
    """A copy of a section with other values in some fields."""
    return dataclasses.replace(value, **fields)  # type: ignore[type-var] # it is a dataclass, see config_section


@dataclass(frozen=True, slots=True)
class _Shape:
    """What `read_section` has to know of a section."""

    settings: Mapping[str, Setting]
    required: frozenset[str]
    inert: Mapping[str, str]
    known: tuple[str, ...]


@cache
def _shape(of: Any) -> _Shape:
    settings = {f.name: f.metadata["setting"] for f in dataclasses.fields(of) if "setting" in f.metadata}
    known = [key for item in settings.values() for key in item.keys]
    known += [item.instead[0] for item in settings.values() if item.instead]
    required = frozenset(f.name for f in dataclasses.fields(of) if f.default is dataclasses.MISSING)
    inert = getattr(of, "INERT", {})
    return _Shape(settings, required, inert, (*known, *inert))


def settings_of(of: type) -> Mapping[str, Setting]:
    """Field name to setting, for the fields of a section that are read from a file."""
    return _shape(of).settings


def read_section(of: type[S], node: Node, reporter: Reporter, **given: Any) -> S:
    """
    Read an object into a section; `given` are the fields that do not come from the file. Reports every fault in it.
    Raises Refused when a field without default is missing or unusable. A section's class attribute `INERT` maps
    further keys, which are known and do nothing here, to the reason.
    """
    members = read_object(node, reporter)
    kind: type = of
    shape = _shape(kind)
    values = dict(given)
    refused = False
    for name, item in shape.settings.items():
        chosen, read = _choose(item, node, reporter)
        must = name in shape.required and name not in given
        if chosen is None:
            if must:
                reporter.missing(node, item.keys[0], f"is missing: {item.doc}")
                refused = True
            continue
        if item.later:
            reporter.without_effect(chosen, item.later)
        try:
            values[name] = read(chosen, reporter)
        except Refused as refusal:
            refusal.report(chosen, reporter)
            refused = refused or must
    for key, child in members.items():
        if key in shape.inert:
            reporter.without_effect(child, shape.inert[key])
        elif key not in shape.known:
            reporter.doubt(child, f"unknown key{did_you_mean(key, shape.known)}")
    if refused:
        raise Refused
    return of(**values)


def _choose(item: Setting, node: Node, reporter: Reporter) -> tuple[Node | None, Read]:
    """The node that counts for a setting, and how it is read."""
    found = [(key, child) for key in item.keys if (child := node.member(key)) is not None]
    if found:
        key, chosen = found[0]
        for other, child in found[1:]:
            if child.plain() != chosen.plain():
                reporter.doubt(child, f"{other} and {key} mean the same and differ; {key} counts")
        return chosen, item.read
    if item.instead:
        return node.member(item.instead[0]), item.instead[1]
    return None, item.read
