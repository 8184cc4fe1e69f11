# -*- test-case-name: tests.config.test_loader -*-
"""What was found wrong, or worth knowing, in the configuration; collected over all files and shown together.

Invariants: a finding names its file, its line and the path of the key; its text holds no value of a secret key; text
that came from a file is printable and short. Keys without effect are collected by reason, so that a stock file of
the reference gives a few lines and not one for each key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from tbgw.config.document import Node, printable, trail_steps, trail_text

ENVIRONMENT = "environment variable "
"""What the place of a value begins with that comes from there."""
MAX_TEXT = 1000
"""Longest text of a finding, in characters."""
_POSITION = re.compile(r"\[[0-9]+\]")


class Severity(IntEnum):
    """How bad it is; the order is the order of showing."""

    FAULT = 0
    """The gateway does not start."""
    DOUBT = 1
    """Most likely a slip, such as an unknown key: the gateway starts and warns; a strict check fails."""
    WARNING = 2
    """Works as written, but has a risk or leaves something out that was asked for."""
    NOTICE = 3
    """Good to know; nothing has to be done."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    severity: Severity
    file: str
    line: int
    """From 1; 0 when no line can be named: a whole file, or a value from the environment."""
    path: str
    """Path of the key; empty when the whole file is meant."""
    text: str
    """What is wrong, what is allowed."""

    @property
    def from_environment(self) -> bool:
        """Whether it is about an environment variable; `file` names it."""
        return self.file.startswith(ENVIRONMENT)

    def __str__(self) -> str:
        file = printable(self.file, 200)
        place = f"{file}:{self.line}" if self.line else file
        text = printable(self.text, MAX_TEXT)
        return f"{place}: {self.path}: {text}" if self.path else f"{place}: {text}"


class Reporter:
    """
    Takes in findings, and says where relative file names in the configuration start.

    It reads nothing itself; the parse functions call it and go on, so that every fault is found in one go.
    """

    def __init__(self, config_dir: Path, data_dir: Path) -> None:
        self.config_dir = config_dir
        """Where the configuration files, certificates and keys lie."""
        self.data_dir = data_dir
        """Where the gateway keeps what it writes."""
        self._findings: list[Finding] = []
        self._without_effect: dict[tuple[str, str], dict[str, int]] = {}
        self._secrets: set[tuple[str, tuple[str | int, ...]]] = set()
        self.instead: Mapping[Path, bytes] = {}
        """Contents that are looked at in the place of these files' own: what a remote configuration would bring."""

    def fault(self, node: Node, text: str) -> None:
        """Something that must be mended before the gateway starts."""
        self._add(Severity.FAULT, node, text)

    def doubt(self, node: Node, text: str) -> None:
        """Most likely a slip."""
        self._add(Severity.DOUBT, node, text)

    def warning(self, node: Node, text: str) -> None:
        """A risk, or something asked for that is left out."""
        self._add(Severity.WARNING, node, text)

    def notice(self, node: Node, text: str) -> None:
        """Good to know."""
        self._add(Severity.NOTICE, node, text)

    def missing(self, holder: Node, key: str, text: str) -> None:
        """A fault about a key that is not there: it has a path, and the line of the object that lacks it."""
        self.add(Finding(Severity.FAULT, holder.file, holder.line, trail_text((holder.trail, key)), text))

    def add(self, finding: Finding) -> None:
        """Take in a finding that is not about a node."""
        self._findings.append(finding)

    def without_effect(self, node: Node, reason: str) -> None:
        """A key that is known and does nothing here. Named once, however often it occurs."""
        lines = self._without_effect.setdefault((node.file, reason), {})
        lines.setdefault(_POSITION.sub("[]", node.path), node.line)

    def holds_secret(self, node: Node) -> None:
        """The value is a secret, so who may read its file matters."""
        if node.line:
            self._secrets.add((node.file, trail_steps(node.trail)))

    @property
    def secret_files(self) -> frozenset[str]:
        """Names of the configuration files in which a secret stands."""
        return frozenset(file for file, _ in self._secrets)

    @property
    def secrets(self) -> frozenset[tuple[str, tuple[str | int, ...]]]:
        """Where a secret stands: the file, and the keys and positions that lead to it."""
        return frozenset(self._secrets)

    @property
    def faulty(self) -> bool:
        """Whether there was any fault."""
        return any(finding.severity is Severity.FAULT for finding in self._findings)

    def findings(self) -> tuple[Finding, ...]:
        """Everything so far, the worst first, then by place."""
        grouped = [
            Finding(Severity.NOTICE, file, min(lines.values()), ", ".join(sorted(lines, key=lines.__getitem__)), reason)
            for (file, reason), lines in self._without_effect.items()
        ]
        return tuple(sorted([*self._findings, *grouped], key=_order))

    def _add(self, severity: Severity, node: Node, text: str) -> None:
        self.add(Finding(severity, node.file, node.line, node.path, text))


def _order(finding: Finding) -> tuple[int, str, int]:
    return finding.severity, finding.file, finding.line
