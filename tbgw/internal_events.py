"""One class for each thing worth telling: the log line and the counter together, so that they never disagree.

    events.emit(PeerRefused(connector="Line 4", peer="10.0.0.9:51234"))

counts `peers_refused{Line 4}` and writes one line. Lines of a kind that strangers can provoke are limited: after the
first, further ones within `LINE_EVERY_SECONDS` are only counted, and the next line says how many were left out.
Counters are never limited. Names that came from outside are escaped in lines (P-20).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from twisted.logger import Logger, LogLevel

from tbgw.metrics import Counters

LINE_EVERY_SECONDS = 10.0
"""How often one kind of limited event may write a line: often enough to be seen, too rare to fill a disk."""


@dataclass(frozen=True)
class Event:
    """Parent of all events. A child has fields, and says under which name it counts and how its line reads."""

    level: ClassVar[Any] = LogLevel.info
    counter: ClassVar[str] = ""
    """Name of the counter; empty for an event that is only logged."""
    label: ClassVar[str] = ""
    """Name of the field that splits the counter; empty for none."""
    limited: ClassVar[bool] = False
    """Whether lines of this kind are limited in rate."""
    text: ClassVar[str] = ""
    """The line, in `str.format` style over the fields."""
    line_every_seconds: ClassVar[float] = LINE_EVERY_SECONDS

    def amount(self) -> int:
        """How much the counter grows."""
        return 1

    def line(self) -> str:
        """The line. Texts from outside come out escaped, on one line."""
        return self.text.format(**{f.name: _shown(getattr(self, f.name)) for f in fields(self)})


def _shown(value: object) -> object:
    if not isinstance(value, str):
        return value
    return value if value.isprintable() else value.encode("unicode_escape").decode("ascii")


class Events:
    """Where events are emitted to. One for the whole gateway; `now` gives seconds on a clock that never jumps."""

    def __init__(self, counters: Counters, now: Callable[[], float], namespace: str = "tbgw") -> None:
        self.counters = counters
        self._now = now
        self._log = Logger(namespace=namespace)
        self._limits: dict[type[Event], tuple[float, int]] = {}

    def emit(self, event: Event) -> None:
        """Count it, and write its line unless lines of its kind are being held back."""
        kind = type(event)
        if kind.counter:
            label = str(getattr(event, kind.label)) if kind.label else ""
            self.counters.add(kind.counter, label, event.amount())
        suffix = ""
        if kind.limited:
            now = self._now()
            next_line, left_out = self._limits.get(kind, (now, 0))
            if now < next_line:
                self._limits[kind] = (next_line, left_out + 1)
                return
            self._limits[kind] = (now + kind.line_every_seconds, 0)
            if left_out:
                suffix = f" (and {left_out} more like it since the last such line)"
        # The line is passed as a value, never as the format: it may hold braces that came from outside.
        self._log.emit(kind.level, "{line}", line=event.line() + suffix, event=kind.__name__)
