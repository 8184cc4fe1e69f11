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

    def __init__(
        self,
        counters: Counters,
        now: Callable[[], float],
        namespace: str = "tbgw",
        later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        """
        With `later(seconds, function)`, such as a reactor's `callLater`, what is held back is told when its time is
        over, also if nothing more of its kind comes; without, by the next event of the kind, or by `tell_held_back`.
        """
        self.counters = counters
        self._now = now
        self._later = later
        self._log = Logger(namespace=namespace)
        self._limits: dict[type[Event], _Limit] = {}

    def emit(self, event: Event) -> None:
        """Count it, and write its line unless lines of its kind are being held back."""
        kind = type(event)
        if kind.counter:
            label = str(getattr(event, kind.label)) if kind.label else ""
            self.counters.add(kind.counter, label, event.amount())
        if not kind.limited:
            self._write(event, "")
            return
        now = self._now()
        limit = self._limits.setdefault(kind, _Limit(now))
        if now < limit.next_line:
            if not limit.held and self._later is not None:
                self._later(limit.next_line - now, lambda: self._tell(kind))
            limit.held += 1
            limit.amount += event.amount()
            limit.last = event
            return
        limit.held += 1
        limit.amount += event.amount()
        limit.last = event
        self._tell(kind)

    def tell_held_back(self) -> None:
        """Write a line for every kind of which lines are being held back, e.g. because the gateway stops."""
        for kind in list(self._limits):
            self._tell(kind)

    def _tell(self, kind: type[Event]) -> None:
        limit = self._limits[kind]
        if not limit.held or limit.last is None:
            return
        event, others = limit.last, limit.held - 1
        suffix = f" (and {others} more like it since the last such line" if others else ""
        if suffix:
            suffix += f": {limit.amount} in all)" if limit.amount != limit.held else ")"
        limit.held, limit.amount, limit.last = 0, 0, None
        limit.next_line = self._now() + kind.line_every_seconds
        self._write(event, suffix)

    def _write(self, event: Event, suffix: str) -> None:
        # The line is passed as a value, never as the format: it may hold braces that came from outside.
        kind = type(event)
        self._log.emit(
            event.level,
            "{line}",
            line=event.line() + suffix,
            event=kind.__name__,
            room=kind.__module__.removeprefix("tbgw.").partition(".")[0],
            connector=getattr(event, "connector", ""),
        )


class _Limit:
    """What is held back of one kind of event."""

    __slots__ = ("amount", "held", "last", "next_line")

    def __init__(self, next_line: float) -> None:
        self.next_line = next_line
        self.held = 0
        self.amount = 0
        self.last: Event | None = None
