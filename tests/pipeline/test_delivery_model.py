"""The forwarder against a server that does everything a server may do, in random courses from fixed seeds.

The server takes the publishes of a session in turn, as ThingsBoard does, but answers when and how it likes: late, out
of order, never, with "later", with a close at any moment; and it has its own ways with poison (a value, or a device).
A ledger of what it took says afterwards whether something was lost, buried without need, or left in the wrong order.
"""

from __future__ import annotations

import json
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbgw.model import Device, Draft, SessionLimits
from tbgw.thingsboard import payloads, topics
from tests.fakes import Sent
from tests.pipeline.test_forwarder import Bench

NAMES = ("A", "B", "C", "D")

REFUSED = -1
"""Among the answers: a PUBACK that says nothing, and a close behind it."""


@dataclass
class Odds:
    """How often the server misbehaves, for each publish or step."""

    close: float = 0.0
    later: float = 0.0
    failure: float = 0.0
    silence: float = 0.0
    disorder: float = 0.0
    restart: float = 0.0
    refused: float = 0.0
    """A PUBACK for what is not taken, and a close behind it (MQTT 3.1.1)."""


@dataclass
class Server:
    """ThingsBoard's place. `poison`: what a value "poison" does: close, PUBACK and close, 0x83 and close,
    0x99, or no answer at all."""

    bench: Bench
    rng: random.Random
    odds: Odds
    poison: str = "close"
    uncreatable: str = ""
    taken: dict[str, list[int]] = field(default_factory=dict)
    """By device, the numbers that were taken, in the order in which they were, also several times."""
    keys: set[tuple[str, int, str]] = field(default_factory=set)
    closes: int = 0
    _seen: int = 0
    _answers: deque[tuple[Sent, int]] = field(default_factory=deque)

    def close(self) -> None:
        """The session ends."""
        self.closes += 1
        self._answers.clear()
        self.bench.uplink.down()

    def work(self, count: int) -> None:
        """Take so many of the publishes that wait, in turn; then give some of the answers."""
        uplink = self.bench.uplink
        for _ in range(count):
            if not uplink.connected:
                return
            if self._seen < len(uplink.sent):
                sent = uplink.sent[self._seen]
                self._seen += 1
                if sent.session == uplink.session:
                    self._take(sent)
        while self._answers and uplink.connected:
            place = 0
            if self.rng.random() < self.odds.disorder:
                place = self.rng.randrange(len(self._answers))
            sent, code = self._answers[place]
            del self._answers[place]
            if sent in uplink.waiting:
                uplink.acknowledge(sent, max(0, code))
            if code in (0x83, REFUSED) and uplink.connected:
                self.close()

    def _take(self, sent: Sent) -> None:
        rng, odds = self.rng, self.odds
        if sent.topic in (topics.CONNECT, topics.DISCONNECT):
            self._answers.append((sent, 0))
            return
        content = json.loads(sent.payload)
        poisoned = [name for name, part in content.items() if "poison" in json.dumps(part)]
        if poisoned and self.poison == "close":
            self.close()
            return
        if poisoned and self.poison == "0x83":
            self._answers.append((sent, 0x83))
            return
        if (poisoned and self.poison == "PUBACK") or rng.random() < odds.refused:
            self._answers.append((sent, REFUSED))
            return
        if rng.random() < odds.close:
            self.close()
            return
        chance = rng.random()
        if chance < odds.later:
            self._answers.append((sent, 0x97))
            return
        if chance < odds.later + odds.failure:
            self._answers.append((sent, 0x80))
            return
        bad = [*poisoned, self.uncreatable]
        for name, part in content.items():
            if name not in bad and sent.topic == topics.TELEMETRY:
                self.taken.setdefault(name, []).extend(element["ts"] for element in part)
                self.keys.update((name, element["ts"], key) for element in part for key in element["values"])
        if self.uncreatable in content:
            self._answers.append((sent, 0x80))
        elif poisoned and self.poison == "silence":
            return
        elif poisoned:
            self._answers.append((sent, 0x99))
        elif rng.random() >= odds.silence:
            self._answers.append((sent, 0))


class Course:
    """One random course."""

    def __init__(
        self,
        seed: int,
        odds: Odds,
        *,
        poison: str = "close",
        poisons: int = 0,
        uncreatable: str = "",
        doubtful: bool = False,
    ) -> None:
        self.rng = random.Random(seed)
        self.bench = Bench()
        self.bench.uplink.limits = SessionLimits(doubtful_pubacks=doubtful)
        self.server = Server(self.bench, self.rng, odds, poison, uncreatable)
        self.said: set[tuple[str, int, str]] = set()
        self.poisoned: set[tuple[str, int, str]] = set()
        self._poisons = poisons
        self._number = 0
        for name in NAMES:
            self.bench.registry.seen(Device(name, connector="Line 4"))

    def say(self) -> None:
        """One row of some devices, elements and keys; perhaps with a poisonous value."""
        rng = self.rng
        content: dict[bytes, list[bytes]] = {}
        names = tuple(rng.sample(NAMES, rng.randint(1, len(NAMES))))
        points = 0
        for name in names:
            elements = content[payloads.encode(name)] = []
            for _ in range(rng.randint(1, 3)):
                self._number += 1
                values: dict[str, Any] = {f"k{key}": self._number for key in range(rng.randint(1, 3))}
                if self._poisons and rng.random() < 0.1:
                    self._poisons -= 1
                    values["k0"] = "poison"
                    self.poisoned.add((name, self._number, "k0"))
                elements.append(payloads.telemetry_fragment(self._number, values))
                self.said.update((name, self._number, key) for key in values)
                points += len(values)
        self.bench.append(Draft(topics.TELEMETRY, payloads.join_telemetry(content), names, 1, points))

    def step(self) -> None:
        """Something happens."""
        bench, rng = self.bench, self.rng
        if rng.random() < self.server.odds.restart:
            if bench.uplink.connected:
                self.server.close()
            bench.forwarder = bench.build()
            bench.forwarder.start()
        if not bench.uplink.connected:
            bench.clock.advance(rng.uniform(0, 3))
            bench.uplink.up()
        if bench.uplink.disruptions and bench.uplink.connected:
            bench.uplink.disruptions.clear()
            self.server.close()
            return
        self.server.work(rng.randint(0, 12))
        bench.clock.advance(rng.choice((0, 0.001, 0.1, 1, 5)))
        bench.spool.run()

    def finish(self, steps: int = 20_000) -> None:
        """Chance has had its part: until all is delivered."""
        self.server.odds = Odds()
        for _ in range(steps):
            self.step()
            if self.bench.forwarder.idle and not self.bench.spool.step() and not self.bench.spool.stored:
                return
        raise AssertionError(f"it never comes to rest: {len(self.bench.spool.stored)} rows are left")

    def buried(self) -> set[tuple[str, int, str]]:
        """What is in the dead letters."""
        return {
            (name, element["ts"], key)
            for row, _ in self.bench.spool.dead
            for name, part in json.loads(row.payload).items()
            for element in part
            for key in element["values"]
        }

    def run(self, rows: int) -> None:
        """The whole course, to its end."""
        self.bench.forwarder.start()
        for _ in range(rows):
            self.say()
            for _ in range(self.rng.choice((0, 0, 1, 3))):
                self.step()
        self.finish()


class ModelTests(SynchronousTestCase):
    """Nothing lost, nothing buried without need, each device's last word last."""

    def check(self, course: Course, buried: set[tuple[str, int, str]]) -> None:
        self.assertEqual(course.buried(), buried)
        self.assertEqual(course.said - course.server.keys, buried)
        self.assertEqual(course.bench.spool.stored, {})
        self.assertEqual(course.bench.forwarder._flight.sent, {})
        self.assertEqual(course.bench.forwarder._retries, {})
        for name, numbers in course.server.taken.items():
            last = {number: place for place, number in enumerate(numbers)}
            in_order = sorted(last, key=lambda number: last[number])
            self.assertEqual(in_order, sorted(in_order), name)

    def test_bad_links(self):
        """Closes at random, also many: nothing is buried, all is delivered, in order."""
        for seed in range(60):
            odds = Odds(close=(0.02, 0.1, 0.3, 0.5)[seed % 4], disorder=0.3)
            course = Course(seed, odds)
            course.run(60)
            self.check(course, set())

    def test_refusals(self):
        """0x97 and 0x80 for a while, closes and answers that never come in between: likewise."""
        for seed in range(60):
            odds = Odds(close=0.02, later=0.08, failure=0.08, silence=0.03, disorder=0.4)
            course = Course(seed, odds)
            course.run(60)
            self.check(course, set())

    def test_restarts(self):
        """The process starts anew in between: what was acknowledged out of turn goes again, and order is kept."""
        for seed in range(40):
            odds = Odds(close=0.02, later=0.05, failure=0.05, disorder=0.5, restart=0.05)
            course = Course(seed, odds)
            course.run(60)
            self.check(course, set())

    def test_poison(self):
        """Values that ThingsBoard does not take, in each of its ways: exactly these are buried."""
        for poison in ("close", "0x83", "0x99", "silence"):
            for seed in range(25):
                course = Course(seed, Odds(disorder=0.2), poison=poison, poisons=1 + seed % 4)
                course.run(40)
                self.check(course, course.poisoned)
                self.assertTrue(course.poisoned)

    def test_poison_on_a_bad_link(self):
        """The same when the link is bad, too: no good value is taken for the culprit."""
        for poison in ("close", "0x83", "0x99"):
            for seed in range(25):
                odds = Odds(close=0.05, later=0.03, failure=0.03, silence=0.01, disorder=0.3)
                course = Course(seed, odds, poison=poison, poisons=1 + seed % 3)
                course.run(40)
                self.check(course, course.poisoned)

    def test_device_that_cannot_be_created(self):
        """Its data is buried, and that of the devices in the same rows is delivered."""
        for seed in range(15):
            course = Course(seed, Odds(), uncreatable="C")
            course.run(20)
            self.check(course, {entry for entry in course.said if entry[0] == "C"})

    def test_refusals_with_puback(self):
        """3.1.1: a PUBACK for what was not taken, and a close behind it, at random, on good links and bad ones."""
        for seed in range(60):
            odds = Odds(close=(0.0, 0.02, 0.1)[seed % 3], refused=(0.02, 0.1, 0.3)[seed // 3 % 3], disorder=0.3)
            course = Course(seed, odds, doubtful=True)
            course.run(60)
            self.check(course, set())

    def test_refusals_with_puback_and_restarts(self):
        """The same while the process starts anew in between."""
        for seed in range(40):
            course = Course(seed, Odds(close=0.02, refused=0.05, disorder=0.5, restart=0.05), doubtful=True)
            course.run(60)
            self.check(course, set())

    def test_poison_with_doubtful_pubacks(self):
        """3.1.1: a value on which the session ends, with a PUBACK or without, is found; no good one is taken for it."""
        for poison in ("close", "PUBACK"):
            for seed in range(25):
                odds = Odds(close=0.02, refused=0.02, disorder=0.3) if seed % 2 else Odds(disorder=0.2)
                course = Course(seed, odds, poison=poison, poisons=1 + seed % 3, doubtful=True)
                course.run(40)
                self.check(course, course.poisoned)
