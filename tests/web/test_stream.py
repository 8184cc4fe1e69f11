"""Live updates: coalesced, bounded, and only while somebody looks."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.trial import unittest

from tbgw.web.stream import MAX_DEVICES_PER_UPDATE, MAX_STREAMS, SILENCE_SECONDS, Updates, for_page
from tests.web.fakes import NOW, FakeView, device


class Sink:
    """Where a stream writes to; reads it back as events."""

    def __init__(self):
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """(name, data) of what came since the last time."""
        blocks, self.data = self.data.split(b"\n\n"), b""
        events = []
        for block in blocks:
            lines = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line)
            if b"event" in lines:
                events.append((lines[b"event"].decode(), json.loads(lines[b"data"])))
        return events

    def names(self) -> list[list[str]]:
        """The devices of each update since the last time."""
        return [[d["name"] for d in data["devices"]] for name, data in self.events() if name == "devices"]


class UpdatesTests(unittest.SynchronousTestCase):
    """One view, a fake clock, pages that come and go."""

    def setUp(self):
        self.clock = Clock()
        self.view = FakeView(device("Gateway", gateway=True), device("A", t=1), device("B"))
        self.updates = Updates(self.clock, self.view, lambda: NOW)

    def open(self):
        sink = Sink()
        return sink, self.updates.open(sink, {"hint": "say"})

    def settle(self):
        """Whatever is due at once happens, then a second goes by."""
        self.clock.advance(0)
        self.clock.advance(1)

    def test_begins_with_everything(self):
        """A page is greeted and then told of every device."""
        sink, _ = self.open()
        self.clock.advance(0)
        greeting, update = sink.events()
        self.assertEqual(greeting, ("hello", {"hint": "say", "now": NOW}))
        self.assertEqual(update, ("devices", {"now": NOW, "total": 3, "devices": self.view.list, "gone": []}))

    def test_five_a_second(self):
        """However often devices change, a page gets at most five updates a second, and the last state always."""
        sink, _ = self.open()
        self.clock.advance(0)
        sink.events()
        for number in range(100):
            self.view.list[1] = device("A", t=number)
            self.view.change("A")
            self.clock.advance(0.01)
        self.clock.advance(0.2)
        updates = [data for name, data in sink.events() if name == "devices"]
        self.assertTrue(5 <= len(updates) <= 6, len(updates))
        self.assertEqual(updates[-1]["devices"], [device("A", t=99)])

    def test_at_once_after_a_pause(self):
        """A change after a quiet time is told without delay."""
        sink, _ = self.open()
        self.settle()
        sink.events()
        self.view.change("B")
        self.clock.advance(0)
        self.assertEqual(sink.names(), [["B"]])

    def test_changes_only(self):
        """Only what changed is told, once."""
        sink, _ = self.open()
        self.settle()
        sink.events()
        for name in ("B", "A", "B"):
            self.view.change(name)
        self.clock.advance(1)
        self.assertEqual(sink.names(), [["B", "A"]])
        self.clock.advance(1)
        self.assertEqual(sink.names(), [])

    def test_gone(self):
        """A name that no device has any more is told as such."""
        sink, _ = self.open()
        self.settle()
        sink.events()
        self.view.list[1] = device("C")
        self.view.change("A")
        self.view.change("C")
        self.clock.advance(1)
        [(_, update)] = sink.events()
        self.assertEqual(([d["name"] for d in update["devices"]], update["gone"]), (["C"], ["A"]))

    def test_slow_page(self):
        """A page whose connection is full gets nothing, and the latest of everything once it takes again."""
        slow, stream = self.open()
        quick, _ = self.open()
        self.settle()
        slow.events(), quick.events()
        stream.pauseProducing()
        for number in range(5):
            self.view.list[1] = device("A", t=number)
            self.view.change("A")
            self.settle()
        self.assertEqual(slow.data, b"")
        self.assertEqual(quick.names(), [["A"]] * 5)
        stream.resumeProducing()
        self.clock.advance(0)
        latest = {"now": NOW, "total": 3, "devices": [device("A", t=4)], "gone": []}
        self.assertEqual(slow.events(), [("devices", latest)])
        self.assertEqual(quick.names(), [])

    def test_many_devices(self):
        """Very many devices come in several updates."""
        self.view.list = [device(f"D{number}") for number in range(MAX_DEVICES_PER_UPDATE * 2 + 1)]
        sink, _ = self.open()
        self.clock.advance(0)
        self.clock.pump([0.1] * 10)
        names = sink.names()
        self.assertEqual([len(update) for update in names], [MAX_DEVICES_PER_UPDATE, MAX_DEVICES_PER_UPDATE, 1])
        self.assertEqual([name for update in names for name in update], [d["name"] for d in self.view.list])

    def test_slower_when_it_costs_much(self):
        """When an update takes long, the next one waits ten times as long."""
        sink, _ = self.open()
        self.settle()
        sink.events()
        slow = self.view.devices

        def devices():
            self.clock.rightNow += 0.3
            return slow()

        self.view.devices = devices  # type: ignore[method-assign]  # a view that takes its time
        self.view.change("A")
        self.clock.advance(0)
        self.view.change("B")
        self.clock.advance(2.6)
        self.assertEqual(sink.names(), [["A"]])
        self.clock.advance(0.2)
        self.assertEqual(sink.names(), [["B"]])

    def test_unknown_device(self):
        """A device that is gone by the time of the update is left out."""
        sink, _ = self.open()
        self.settle()
        sink.events()
        self.view.change("never was")
        self.clock.advance(1)
        self.assertEqual(sink.names(), [[]])

    def test_silence_is_broken(self):
        """A comment goes out now and then, but not to a page that is full."""
        sink, stream = self.open()
        self.settle()
        sink.events()
        self.clock.advance(SILENCE_SECONDS)
        self.assertEqual(sink.data, b":\n\n")
        stream.pauseProducing()
        self.clock.advance(SILENCE_SECONDS)
        self.assertEqual(sink.data, b":\n\n")

    def test_nobody_looks(self):
        """Without pages nothing is observed and no timer runs."""
        self.assertEqual(self.view.observers, [])
        first, second = self.open()[1], self.open()[1]
        self.assertEqual(len(self.view.observers), 1)
        self.view.change("A")
        self.updates.close(first)
        self.updates.close(first)
        self.assertEqual(len(self.view.observers), 1)
        second.stopProducing()
        self.assertEqual(self.view.observers, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.updates.open_streams, 0)

    def test_bounded(self):
        """There is room for so many pages and no more."""
        streams = [self.open()[1] for _ in range(MAX_STREAMS)]
        self.assertTrue(self.updates.full)
        self.updates.close(streams[0])
        self.assertFalse(self.updates.full)

    def test_hostile_names(self):
        """Line breaks in names and values cannot end an event."""
        self.view.list = [device("x\n\nevent: hello\ndata: {}", v="\r\n\n\u2028")]
        sink, _ = self.open()
        self.clock.advance(0)
        self.assertEqual([name for name, _ in sink.events()], ["hello", "devices"])


class ForPageTests(unittest.SynchronousTestCase):
    """Numbers that JavaScript cannot hold."""

    def test_large_integers(self):
        """They travel as text; the view's own entries are not touched."""
        original = device("A", small=2**53, large=2**63 - 1, negative=-(2**60), real=1e300, on=True)
        changed = for_page(original)
        values = {key: entry["value"] for key, entry in changed["telemetry"].items()}
        self.assertEqual(
            values,
            {"small": 2**53, "large": "9223372036854775807", "negative": str(-(2**60)), "real": 1e300, "on": True},
        )
        self.assertEqual(original["telemetry"]["large"]["value"], 2**63 - 1)
        untouched = device("A", small=1)
        self.assertIs(for_page(untouched), untouched)
