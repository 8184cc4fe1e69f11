"""The forwarder under any course of events: random courses, and after each step everything that must always hold.

A course is a list of words: rows come, sessions come and go, PUBACKs come in any order and with any code, the store
does its work or lets it wait, drops its oldest rows, time passes. At the end everything is allowed to come right, and
then every row must have been acknowledged, or be counted among the dropped or the dead.
"""

from __future__ import annotations

import json
from random import Random
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.model import Device, RateLimit, SessionLimits
from tbgw.pipeline import announcements
from tbgw.pipeline import forwarder as module
from tbgw.pipeline import ready as ready_module
from tbgw.pipeline.ratelimit import MAX_WINDOW
from tbgw.thingsboard import payloads, topics
from tests.fakes import Sent
from tests.pipeline.test_forwarder import Bench, gone, telemetry

READY, FETCH, LARGEST = 600, 300, 260

LIMITS = (
    SessionLimits(),
    SessionLimits(max_inflight=4),
    SessionLimits(max_inflight=1),
    SessionLimits(max_inflight=6, max_payload_bytes=140),
    SessionLimits(telemetry=(RateLimit(5, 2.0),), points=(RateLimit(8, 2.0),), messages=(RateLimit(6, 3.0),)),
    SessionLimits(telemetry=(RateLimit(2, 1.0),)),
    SessionLimits(doubtful_pubacks=True),
    SessionLimits(max_inflight=4, doubtful_pubacks=True),
)


class Course:
    """One course, and what was seen in it."""

    def __init__(self, with_codes: bool) -> None:
        self.bench = Bench()
        self.with_codes = with_codes
        self.bench.forwarder.start()
        self.numbers: dict[int, int] = {}
        """seq by number in the payload."""
        self.first_sent: list[int] = []
        """Rows in the order in which they were first published."""
        self.sent_before: set[int] = set()
        """Rows that were published in an earlier session, or answered with "later"."""
        self.acknowledged: dict[int, set[str]] = {}
        """Devices and keys that were acknowledged, by row: a row may go in parts."""
        self.announced: set[str] = set()
        self.seen = 0
        self.pushed_back = False
        self.highest = 0

    # The words.

    def come(self, devices: tuple[str, ...], size: int) -> None:
        bench = self.bench
        bench.number += 1
        for name in devices:
            bench.registry.seen(Device(name))
        (row,) = bench.append(telemetry(bench.number, devices, size), commit=False)
        self.numbers[bench.number] = row.seq

    def leave(self, name: str) -> None:
        bench = self.bench
        bench.number += 1
        bench.registry.gone(name)
        payload = payloads.encode({"device": name, "number": bench.number})
        (row,) = bench.append(gone(name)._replace(payload=payload), commit=False)
        self.numbers[bench.number] = row.seq

    def link(self, limits: SessionLimits) -> None:
        uplink = self.bench.uplink
        if uplink.connected:
            self.end_session()
        else:
            self.begin_session(limits)

    def begin_session(self, limits: SessionLimits) -> None:
        self.announced.clear()
        self.pushed_back = False
        self.highest = 0
        self.bench.uplink.up(limits)

    def end_session(self) -> None:
        self.look()
        self.sent_before.update(self.first_sent)  # those that are through do not come again anyway
        self.bench.uplink.down()
        self.announced.clear()

    def answer(self, which: int, code: int) -> None:
        waiting = self.bench.uplink.waiting
        if not waiting:
            return
        sent = waiting[which % len(waiting)]
        if sent.topic == topics.CONNECT:
            self.announced.add(sent.device)
        elif sent.topic != topics.ATTRIBUTES:
            code = code if self.with_codes else 0
            if code < 0x80:
                self.acknowledged.setdefault(self.row_of(sent), set()).update(said_in(sent.payload))
            else:
                self.sent_before.add(self.row_of(sent))
                self.pushed_back = True
        self.bench.uplink.acknowledge(sent, code)

    # What must always hold.

    def row_of(self, sent: Sent) -> int:
        """The row that a publish is of."""
        return self.numbers[number_in(sent.payload)]

    def is_acknowledged(self, seq: int) -> bool:
        """Whether all that the row says was acknowledged, or is in the dead letters where parts of it are bad."""
        said = self.acknowledged.get(seq, set()) | self.buried_parts(seq)
        return said == said_in(self.bench.spool.rows[seq].payload)

    def buried_parts(self, seq: int) -> set[str]:
        """What of the row is in the dead letters by itself."""
        dead = [row for row in self.bench.spool.to_be_dead if row.seq == 0]
        return {said for row in dead if self.numbers[number_in(row.payload)] == seq for said in said_in(row.payload)}

    def look(self) -> None:
        bench = self.bench
        for sent in bench.uplink.sent[self.seen :]:
            self.seen += 1
            if sent.topic in (topics.CONNECT, topics.ATTRIBUTES):  # of attributes there are only probes here
                continue
            if sent.topic == topics.DISCONNECT:
                self.announced.discard(sent.device)
            else:
                names = set(json.loads(sent.payload))
                assert names <= self.announced, f"{names} sent, {self.announced} announced"
            seq = self.row_of(sent)
            # What went after a row that has to go again goes again with it, so there may be more than we know of.
            assert sent.dup or seq not in self.sent_before, f"row {seq}: dup={sent.dup}"
            assert seq in self.first_sent or not sent.dup, f"row {seq}: dup={sent.dup}"
            if seq not in self.first_sent:
                self.first_sent.append(seq)
            if not self.pushed_back:
                assert seq >= self.highest, f"row {seq} after row {self.highest}"
            self.highest = max(self.highest, seq)
            limit = payloads.payload_limit(bench.uplink.limits, sent.topic, 60_000)
            assert len(sent.payload) <= limit, f"{len(sent.payload)} bytes, the limit is {limit}"
        assert self.first_sent == sorted(self.first_sent), f"not in order: {self.first_sent}"
        limits = bench.uplink.limits
        window = max(1, min(MAX_WINDOW, int(limits.max_inflight * 0.8)))
        assert bench.uplink.most_waiting <= window, f"{bench.uplink.most_waiting} in flight, the window is {window}"
        for seq in bench.spool.deleted:
            assert self.is_acknowledged(seq), f"row {seq} was deleted without PUBACK"
        ready = sum(len(row.payload) for row in bench.forwarder._ready.rows)
        assert ready == bench.forwarder._ready.bytes
        assert ready <= 2 * READY + LARGEST * (1 + MAX_WINDOW), f"{ready} bytes in memory"
        in_memory = [row.seq for row in bench.forwarder._ready.rows]
        assert in_memory == sorted(set(in_memory)), f"in memory: {in_memory}"

    def finish(self) -> None:
        """Everything comes right."""
        bench = self.bench
        for _ in range(5000):
            bench.spool.run()
            if not bench.uplink.connected:
                self.begin_session(LIMITS[0])
            while bench.uplink.waiting:
                self.answer(0, 0)
                self.look()
            if bench.forwarder.idle and not bench.spool.step() and not bench.forwarder._grace:
                break
            bench.clock.advance(0.5)
        else:
            raise AssertionError("it never comes to rest")
        self.look()
        lost_on_purpose = {row.seq for row in bench.spool.dropped} | {row.seq for row, _ in bench.spool.dead}
        lost = [seq for seq in self.numbers.values() if not (seq in lost_on_purpose or self.is_acknowledged(seq))]
        assert not lost, f"lost: {lost}"
        assert bench.spool.stored == {}, f"left behind: {sorted(bench.spool.stored)}"
        assert bench.forwarder._retries == {}
        assert not bench.uplink.disruptions or bench.clock.seconds() >= 1000.0 + module.PUBACK_SECONDS


def number_in(payload: bytes) -> int:
    """The number that a payload bears."""
    content = json.loads(payload)
    number = content["number"] if "number" in content else next(iter(content.values()))[0]["ts"]
    assert isinstance(number, int)
    return number


def said_in(payload: bytes) -> set[str]:
    """The devices and keys in a payload."""
    content = json.loads(payload)
    if "number" in content:
        return {"gone"}
    return {f"{name} {key}" for name, parts in content.items() for part in parts for key in part["values"]}


NAMES = st.lists(st.sampled_from("ABCD"), min_size=1, max_size=3, unique=True).map(tuple)
WORDS = st.one_of(
    st.tuples(st.just("come"), NAMES, st.sampled_from([0, 20, 60])),
    st.tuples(st.just("come"), NAMES, st.sampled_from([0, 20, 60])),
    st.tuples(st.just("leave"), st.sampled_from("ABCD")),
    st.tuples(st.just("link"), st.sampled_from(LIMITS)),
    st.tuples(st.just("answer"), st.integers(0, 9), st.sampled_from([0, 0, 0, 0, 0x10, 0x97, 0x80, 0x83, 0x99])),
    st.tuples(st.just("answer"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("store"), st.integers(1, 5)),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 3.0])),
    st.tuples(st.just("drop"), st.integers(1, 4)),
)


def random_word(random: Random, drops: int) -> tuple[object, ...]:
    """One word, such that rows come about as fast as they are acknowledged, and sessions live for some twenty words."""
    match random.choices(("come", "leave", "link", "answer", "store", "wait", "drop"), (30, 3, 5, 45, 12, 8, drops))[0]:
        case "come":
            return "come", tuple(random.sample("ABCD", random.randint(1, 3))), random.choice([0, 20, 60])
        case "leave":
            return "leave", random.choice("ABCD")
        case "link":
            return "link", random.choice(LIMITS)
        case "answer":
            return (
                "answer",
                random.choice([0, 0, random.randint(0, 9)]),
                random.choice([0] * 12 + [0x97, 0x80, 0x83, 0x99]),
            )
        case "store":
            return "store", random.randint(1, 5)
        case "wait":
            return "wait", random.choice([0.1, 1.0, 3.0])
        case _:
            return "drop", random.choice([1, 2, 4, 100])


def run(course: Course, words: list[tuple[object, ...]]) -> None:
    bench = course.bench
    for word, *arguments in words:
        match word, arguments:
            case "come", (tuple() as devices, int() as size):
                course.come(devices, size)
            case "leave", (str() as name,):
                course.leave(name)
            case "link", (SessionLimits() as limits,):
                course.link(limits)
            case "answer", (int() as which, int() as code):
                course.answer(which, code)
            case "store", (int() as steps,):
                for _ in range(steps):
                    bench.spool.step()
            case "wait", (float() as seconds,):
                bench.clock.advance(seconds)
            case "drop", (int() as rows,):
                bench.spool.drop_oldest(rows)
            case _:
                raise AssertionError(word)
        course.look()
    course.finish()


class AnyCourseTests(SynchronousTestCase):
    """Random courses."""

    def setUp(self) -> None:
        self.patch(ready_module, "READY_BYTES", READY)
        self.patch(ready_module, "FETCH_BYTES", FETCH)
        self.patch(module, "PUBACK_SECONDS", 10_000.0)
        self.patch(announcements, "ANNOUNCE_SECONDS", 10_000.0)

    @settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(WORDS, max_size=80))
    def test_good_answers(self, words):
        """With good answers only, everything is delivered in order of first sending, nothing lost, nothing early."""
        run(Course(with_codes=False), words)

    @settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(WORDS, max_size=80))
    def test_any_answers(self, words):
        """With any answers every row is delivered, dropped by policy, or a dead letter."""
        run(Course(with_codes=True), words)

    def test_long_courses(self):
        """The same for long courses, which are too long to be found by the other way."""
        for seed in range(150):
            random = Random(seed)
            course = Course(with_codes=seed % 2 == 0)
            try:
                run(course, [random_word(random, drops=seed % 3 * 4) for _ in range(150)])
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error}") from error


class ModelTests(SynchronousTestCase):
    """The checks themselves can fail."""

    def test_seen_to_fail(self):
        """A forwarder that deletes early, or that forgets what was in flight, is found out."""
        words: list[tuple[object, ...]] = [("link", LIMITS[0]), ("come", ("A",), 0), ("answer", 0, 0), ("store", 2)]
        with mock.patch.object(ready_module.Ready, "take_back", lambda self, rows: None):
            self.assertRaises(AssertionError, run, Course(False), [*words, ("link", LIMITS[0])])
        course = Course(False)
        course.link(LIMITS[0])
        course.come(("A",), 0)
        course.look()
        course.bench.spool.delete([1])
        self.assertRaises(AssertionError, course.look)
