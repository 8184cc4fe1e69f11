"""Events: the line and the counter together, lines limited, names escaped."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

import tbgw
from tbgw.internal_events import LINE_EVERY_SECONDS, Event, Events
from tbgw.metrics import Counters


@dataclass(frozen=True)
class Told(Event):
    """One line and one count each."""

    who: str
    number: int = 1
    counter = "told"
    label = "who"
    level = LogLevel.warn
    text = "{who} said {number}"


@dataclass(frozen=True)
class Limited(Event):
    """Lines of this kind are limited."""

    counter = "limited"
    limited = True
    text = "again"


@dataclass(frozen=True)
class AlsoLimited(Event):
    """Limited by itself, and counted in amounts."""

    count: int
    counter = "also"
    limited = True
    text = "and again"

    def amount(self) -> int:
        return self.count


@implementer(ILogObserver)
class Lines:
    """Keeps what is logged."""

    def __init__(self, logged: list[LogEvent]) -> None:
        self._logged = logged

    def __call__(self, event: LogEvent) -> None:
        self._logged.append(event)


class Base(SynchronousTestCase):
    """Collects the lines."""

    def setUp(self) -> None:
        self.counters = Counters()
        self.now = 100.0
        self.events = Events(self.counters, lambda: self.now)
        self.logged: list[LogEvent] = []
        observer = Lines(self.logged)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def lines(self) -> list[str]:
        return [event["line"] for event in self.logged if "line" in event]


class EventsTests(Base):
    """`Events.emit`."""

    def test_line_and_counter(self):
        """One call makes both, with level and kind."""
        self.events.emit(Told("A", 5))
        self.events.emit(Told("B"))
        self.assertEqual(self.lines(), ["A said 5", "B said 1"])
        self.assertEqual(self.counters.snapshot(), {"told{A}": 1, "told{B}": 1})
        self.assertEqual((self.logged[0]["log_level"], self.logged[0]["event"]), (LogLevel.warn, "Told"))
        self.assertEqual(self.logged[0]["log_namespace"], "tbgw")

    def test_held_back_lines_are_told_in_the_end(self):
        """With a clock to call later, what is held back is told without a further event; and at once on request."""
        clock = Clock()
        events = Events(self.counters, clock.seconds, later=clock.callLater)
        for count in (1, 10, 20, 30):
            events.emit(AlsoLimited(count))
        self.assertEqual(self.lines(), ["and again"])
        clock.advance(LINE_EVERY_SECONDS)
        self.assertEqual(self.lines()[1:], ["and again (and 2 more like it since the last such line: 60 in all)"])
        clock.advance(LINE_EVERY_SECONDS)
        self.assertEqual(clock.getDelayedCalls(), [], "nothing wakes up when there is nothing to tell")
        events.emit(AlsoLimited(5))
        events.emit(AlsoLimited(6))
        events.tell_held_back()
        events.tell_held_back()
        self.assertEqual(self.lines()[2:], ["and again", "and again"])

    def test_only_logged(self):
        """An event without a counter counts nothing."""

        @dataclass(frozen=True)
        class Quiet(Event):
            text = "just so"

        self.events.emit(Quiet())
        self.assertEqual((self.lines(), self.counters.snapshot()), (["just so"], {}))

    def test_limited_lines(self):
        """Of a limited kind one line is written in a while; the next says how many were left out; all are counted."""
        for _ in range(5):
            self.events.emit(Limited())
        self.assertEqual(self.lines(), ["again"])
        self.now += LINE_EVERY_SECONDS - 0.1
        self.events.emit(Limited())
        self.now += 0.2
        self.events.emit(Limited())
        self.events.emit(Limited())
        self.now += LINE_EVERY_SECONDS
        self.events.emit(Limited())
        self.assertEqual(
            self.lines(),
            [
                "again",
                "again (and 5 more like it since the last such line)",
                "again (and 1 more like it since the last such line)",
            ],
        )
        self.assertEqual(self.counters.get("limited"), 9)

    def test_kinds_are_limited_apart(self):
        """One kind does not silence another."""
        self.events.emit(Limited())
        self.events.emit(AlsoLimited(3))
        self.events.emit(AlsoLimited(4))
        self.assertEqual(self.lines(), ["again", "and again"])
        self.assertEqual(self.counters.get("also"), 7)

    def test_names_are_escaped(self):
        """Line ends, control characters and escape sequences from outside cannot forge a line (P-20)."""
        self.events.emit(Told("A\n2026-01-01 error forged\r\x1b[31m\u2028\ud800"))
        (line,) = self.lines()
        self.assertTrue(line.isprintable(), line)
        self.assertIn("A\\n2026", line)

    def test_names_are_no_formats(self):
        """Braces and percent signs from outside are text (P-20)."""
        for name in ("{number}", "{0}", "{", "}}", "%s", "{line}", "{log_level.__class__}"):
            self.logged.clear()
            self.events.emit(Told(name))
            self.assertEqual(self.lines(), [f"{name} said 1"])
        self.assertEqual(formatEvent(self.logged[-1]), "{log_level.__class__} said 1")


class CountersTests(SynchronousTestCase):
    """`Counters`."""

    def test_snapshot(self):
        """Sorted, with and without label; reading an unknown one makes none."""
        counters = Counters()
        counters.add("b")
        counters.add("a", "x", 5)
        counters.add("a", "w")
        self.assertEqual(counters.get("never"), 0)
        self.assertEqual(list(counters.snapshot().items()), [("a{w}", 1), ("a{x}", 5), ("b", 1)])
        self.assertEqual((counters.total("a"), counters.total("never")), (6, 0))


def all_events() -> dict[str, type[Event]]:
    """Every kind of event of the gateway, by module and name."""
    root = Path(tbgw.__file__).parent
    found: dict[str, type[Event]] = {}
    for path in sorted(root.rglob("internal_events.py")):
        module = ".".join(["tbgw", *path.relative_to(root).with_suffix("").parts])
        for name, value in vars(import_module(module)).items():
            if isinstance(value, type) and issubclass(value, Event) and value is not Event:
                found[f"{module}.{name}"] = value
    return found


class EveryEventTests(Base):
    """What holds for every kind of event in tbgw, also those that are still to come."""

    def made(self, kind: type[Event]) -> Event:
        """One with some value in every field."""
        values: dict[str, Callable[[], Any]] = {"int": lambda: 7, "float": lambda: 1.5, "bool": lambda: True}
        arguments = {}
        for field in fields(kind):
            word = field.type if isinstance(field.type, str) else field.type.__name__
            arguments[field.name] = values.get(word, lambda: "nasty {name}\n")()
        return kind(**arguments)

    def test_lines_can_be_written(self):
        """The line of each names only fields that it has, and is one printable line."""
        kinds = all_events()
        self.assertGreater(len(kinds), 10)
        for name, kind in kinds.items():
            line = self.made(kind).line()
            self.assertTrue(line.isprintable(), f"{name}: {line!r}")
            self.assertGreater(len(line), 10, name)

    def test_counters(self):
        """Each that counts has a name for Prometheus, and its label is one of its fields."""
        for name, kind in all_events().items():
            if kind.counter:
                self.assertTrue(re.fullmatch(r"[a-z][a-z0-9_]*", kind.counter), name)
            if kind.label:
                self.assertIn(kind.label, {field.name for field in fields(kind)}, name)
                self.assertTrue(kind.counter, name)

    def test_nothing_secret(self):
        """None has a field for a password or token (P-11)."""
        for name, kind in all_events().items():
            for field in fields(kind):
                self.assertFalse(re.search("password|token|secret|credential", field.name), f"{name}.{field.name}")
