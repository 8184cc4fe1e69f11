# -*- test-case-name: tests.config.test_devicefilter -*-
"""Which devices may pass, by connector and device name (spec configuration-and-apis, 2.3; G17).

A device passes unless a deny entry of its connector names it; an allow entry beats every deny entry. An entry is a
device name or a regular expression, and holds for whole names only (P-09). The reference drops all data of a listed
connector and ignores the allow list (its bug C-41); both lists work here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tbgw.config.document import Node, printable
from tbgw.config.findings import Reporter
from tbgw.config.values import Refused, did_you_mean, read_items, read_object, read_text

Rules = Mapping[str, tuple[re.Pattern[str], ...]]


@dataclass(frozen=True, slots=True)
class DeviceFilter:
    """The rules, by connector name."""

    deny: Rules = field(default_factory=dict)
    allow: Rules = field(default_factory=dict)

    def allows(self, connector_name: str, device_name: str) -> bool:
        """Whether data of this device may pass."""
        if not _names(self.deny.get(connector_name, ()), device_name):
            return True
        return _names(self.allow.get(connector_name, ()), device_name)


def _names(patterns: tuple[re.Pattern[str], ...], device_name: str) -> bool:
    return any(pattern.fullmatch(device_name) or pattern.pattern == device_name for pattern in patterns)


def parse_device_filter(node: Node, connector_names: frozenset[str], reporter: Reporter) -> DeviceFilter:
    """Read a rules file; raises Refused when it is no object. Names of connectors that do not exist are doubts."""
    rules: dict[str, Rules] = {"deny": {}, "allow": {}}
    for key, child in read_object(node, reporter).items():
        if key in rules:
            rules[key] = _parse_rules(child, connector_names, reporter)
        else:
            reporter.doubt(child, f"unknown key, allowed are deny and allow{did_you_mean(key, rules)}")
    return DeviceFilter(rules["deny"], rules["allow"])


def _parse_rules(node: Node, connector_names: frozenset[str], reporter: Reporter) -> Rules:
    rules: dict[str, tuple[re.Pattern[str], ...]] = {}
    try:
        members = read_object(node, reporter)
    except Refused as refusal:
        refusal.report(node, reporter)
        return rules
    for connector_name, child in members.items():
        if connector_name not in connector_names:
            hint = did_you_mean(connector_name, connector_names)
            reporter.doubt(child, f"there is no connector of this name, so the entry does nothing{hint}")
        try:
            rules[connector_name] = read_items(_read_pattern)(child, reporter)
        except Refused as refusal:
            refusal.report(child, reporter)
    return rules


def _read_pattern(node: Node, reporter: Reporter) -> re.Pattern[str]:
    entry = read_text(node, reporter)
    try:
        return re.compile(entry)
    except (re.error, RecursionError, OverflowError) as error:
        raise Refused(
            f'"{printable(entry)}" is no regular expression ({error}); '
            "a name that is meant letter by letter needs a \\\\ before each of .()[]{}?*+^$|\\"
        ) from None
