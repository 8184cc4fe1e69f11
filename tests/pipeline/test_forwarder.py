"""The forwarder: order, acknowledgement before deletion, window, limits, and nothing that holds up the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tbgw.interfaces import IPressureListener
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.model import Device, Draft, RateLimit, Row, SessionLimits
from tbgw.pipeline import forwarder as module
from tbgw.pipeline import ready as ready_module
from tbgw.pipeline.announcements import ANNOUNCE_SECONDS
from tbgw.pipeline.devices import DeviceRegistry
from tbgw.pipeline.forwarder import (
    PUBACK_SECONDS,
    STRIKES,
    TRIES,
    Forwarder,
)
from tbgw.pipeline.ratelimit import MAX_WINDOW
from tbgw.pipeline.ready import FETCH_BYTES, READY_BYTES
from tbgw.thingsboard import payloads, topics
from tests.fakes import FakeSpool, FakeUplink, Sent
from tests.pipeline.test_ingest import MemoryRegistry


def telemetry(number: int, devices: tuple[str, ...] = ("A",), size: int = 0) -> Draft:
    """A telemetry payload that bears its number."""
    values = {"n": number, **({"x": "x" * size} if size else {})}
    content = {payloads.encode(name): [payloads.telemetry_fragment(number, values)] for name in devices}
    return Draft(topics.TELEMETRY, payloads.join_telemetry(content), devices, 1, len(devices) * len(values))


def gone(device: str) -> Draft:
    """A disconnect message."""
    return Draft(topics.DISCONNECT, payloads.disconnect(device), (device,), 0, 0)


class Bench:
    """A forwarder with neighbours that the test drives."""

    def __init__(self, max_payload_bytes: int = 60_000) -> None:
        self.clock = Clock()
        self.clock.rightNow = 1000.0
        self.spool = FakeSpool()
        self.uplink = FakeUplink(self.clock.seconds)
        self.registry: DeviceRegistry = MemoryRegistry()
        self.counters = Counters()
        self.idled = 0
        self.limits: list[SessionLimits] = []
        self.received: list[tuple[str, bytes]] = []
        self.number = 0
        self.forwarder = self.build(max_payload_bytes)

    def build(self, max_payload_bytes: int = 60_000, backlog_share: float = 1.0) -> Forwarder:
        forwarder = Forwarder(
            self.spool,
            self.uplink,
            self.registry,
            clock=self.clock,
            events=Events(self.counters, self.clock.seconds),
            max_payload_bytes=max_payload_bytes,
            idled=self._idled,
            limits_changed=self.limits.append,
            message_received=lambda topic, payload: self.received.append((topic, payload)),
            backlog_share=backlog_share,
        )
        self.uplink.set_listener(forwarder)
        self.spool.set_listeners(_Nobody(), forwarder, lambda error: None)
        return forwarder

    def _idled(self) -> None:
        self.idled += 1

    def append(self, *drafts: Draft, commit: bool = True) -> list[Row]:
        """As ingest does it. The rows are stored unless `commit` says otherwise."""
        rows, stored = self.spool.append(drafts)
        stored.addErrback(lambda failure: None)
        self.forwarder.appended(rows)
        if commit:
            self.spool.run()
        return rows

    def say(self, count: int = 1, devices: tuple[str, ...] = ("A",), size: int = 0, commit: bool = True) -> list[Row]:
        """Append `count` telemetry rows with running numbers."""
        rows = []
        for _ in range(count):
            self.number += 1
            rows += self.append(telemetry(self.number, devices, size), commit=commit)
        return rows

    def start(self, *known: str, limits: SessionLimits | None = None) -> None:
        """Start, with a session, and these devices known, announced and acknowledged."""
        for name in known:
            self.registry.seen(Device(name))
        self.forwarder.start()
        self.uplink.up(limits)
        self.uplink.acknowledge_announcements()

    def restart_session(self) -> None:
        """The session ends, and the next one begins, with all announcements acknowledged."""
        self.uplink.down()
        self.uplink.up()
        self.uplink.acknowledge_announcements()

    def numbers(self, session: int | None = None) -> list[int]:
        """The numbers of the telemetry payloads that were published, in order."""
        return [number_of(sent) for sent in self.uplink.data(session) if sent.topic == topics.TELEMETRY]

    def waiting(self, number: int) -> Sent:
        """The publish of this number that is without PUBACK."""
        (sent,) = [sent for sent in self.uplink.waiting if sent.topic == topics.TELEMETRY and number_of(sent) == number]
        return sent

    def finish(self) -> None:
        """Let everything come right: session up, everything acknowledged, all work done."""
        for _ in range(10_000):
            self.spool.run()
            if not self.uplink.connected:
                self.uplink.up()
            if self.uplink.waiting:
                self.uplink.acknowledge_all()
            elif self.forwarder.idle and not self.spool.step():
                return
            else:
                self.clock.advance(0.25)
        raise AssertionError("it never comes to rest")


@implementer(IPressureListener)
class _Nobody:
    def store_behind(self) -> None: ...

    def store_ready(self) -> None: ...


def number_of(sent: Sent) -> int:
    """The number in a telemetry payload; the ts of its first element."""
    number = next(iter(json.loads(sent.payload).values()))[0]["ts"]
    assert isinstance(number, int)
    return number


class Base(SynchronousTestCase):
    """Has a bench."""

    def setUp(self) -> None:
        self.bench = Bench()


class DeliveryTests(Base):
    """From the store to ThingsBoard and out of the store."""

    def test_sent_at_once_deleted_after_puback(self):
        """Online a fresh row is published before its commit; it is deleted after its PUBACK and not before."""
        bench = self.bench
        bench.start("A")
        (row,) = bench.say(commit=False)
        (sent,) = bench.uplink.data()
        self.assertEqual((sent.topic, sent.payload, sent.dup), (row.topic, row.payload, False))
        bench.spool.run()
        self.assertEqual(bench.spool.deleted, [])
        bench.uplink.acknowledge(sent)
        self.assertEqual(bench.spool.deleted, [row.seq])
        self.assertEqual((bench.forwarder.delivered_rows, bench.forwarder.delivered_messages), (1, 1))

    def test_without_a_session(self):
        """Without a session nothing is published; with one everything is, in order."""
        bench = self.bench
        bench.registry.seen(Device("A"))
        bench.forwarder.start()
        bench.say(5)
        self.assertEqual(bench.uplink.sent, [])
        bench.uplink.up()
        bench.uplink.acknowledge_announcements()
        self.assertEqual(bench.numbers(), [1, 2, 3, 4, 5])

    def test_after_a_restart(self):
        """What an earlier process has stored is read from the store and sent before anything new."""
        bench = self.bench
        bench.say(5)
        bench.forwarder = bench.build()
        bench.start("A")
        bench.number = 100
        bench.say(2)
        bench.finish()
        self.assertEqual(bench.numbers(), [1, 2, 3, 4, 5, 101, 102])
        self.assertEqual(bench.spool.stored, {})

    def test_pubacks_out_of_order(self):
        """PUBACKs may come in any order; a row is deleted when all that were sent before it have theirs, too."""
        bench = self.bench
        bench.start("A")
        one, two, three = bench.say(3)
        bench.uplink.acknowledge(bench.waiting(3))
        self.assertEqual(bench.spool.deleted, [])
        bench.uplink.acknowledge(bench.waiting(1))
        self.assertEqual(bench.spool.deleted, [one.seq])
        bench.uplink.acknowledge(bench.waiting(2))
        self.assertEqual(bench.spool.deleted, [one.seq, two.seq, three.seq])
        self.assertTrue(bench.forwarder.idle)

    def test_held_rows_are_bounded(self):
        """Rows that wait for a PUBACK before theirs take no more memory than what is kept ready."""
        self.patch(module, "HELD_BYTES", 3000)
        bench = self.bench
        bench.start("A", limits=SessionLimits(max_inflight=5))
        bench.say(40, size=500)
        for _ in range(30):
            later = [sent for sent in bench.uplink.waiting if number_of(sent) > 1]
            if later:
                bench.uplink.acknowledge(later[0])
        self.assertLess(bench.forwarder._flight.held_bytes, 3000 + 4 * 600)
        self.assertLess(len(bench.numbers()), 40)
        bench.finish()
        self.assertEqual(bench.numbers(), list(range(1, 41)))

    def test_resent_after_a_lost_session(self):
        """
        What was without PUBACK goes again first, in its order, marked as duplicates, and so does what was acknowledged
        after it: else an older value would be the last that ThingsBoard hears. Nothing else goes again or is marked.
        """
        bench = self.bench
        bench.start("A")
        bench.say(5)
        for number in (1, 3):
            bench.uplink.acknowledge(bench.waiting(number))
        bench.uplink.down()
        bench.say(2)
        bench.uplink.up()
        bench.uplink.acknowledge_announcements()
        self.assertEqual(
            [(number_of(sent), sent.dup) for sent in bench.uplink.data(2)],
            [(2, True), (3, True), (4, True), (5, True), (6, False), (7, False)],
        )
        bench.finish()
        self.assertEqual(bench.spool.stored, {})
        self.assertEqual(bench.forwarder._retries, {})

    def test_late_puback_of_an_old_session(self):
        """Nothing that an old session's Deferreds do counts for the next one."""
        bench = self.bench
        bench.start("A")
        bench.say()
        (old,) = bench.uplink.waiting
        bench.uplink.waiting.clear()
        bench.uplink.down()
        bench.uplink.up()
        bench.uplink.acknowledge_announcements()
        self.assertEqual(bench.numbers(), [1, 1])
        old.answer.callback(0)
        self.assertEqual(bench.spool.deleted, [])
        bench.finish()
        self.assertEqual(bench.numbers(), [1, 1])

    def test_idle(self):
        """Idle means up, and everything acknowledged; it is told each time that becomes true."""
        bench = self.bench
        self.assertFalse(bench.forwarder.idle)
        bench.start("A")
        self.assertTrue(bench.forwarder.idle)
        self.assertEqual(bench.idled, 1)
        bench.say(2)
        self.assertFalse(bench.forwarder.idle)
        self.assertEqual(bench.forwarder.in_flight, 2)
        bench.uplink.acknowledge()
        self.assertEqual(bench.idled, 1)
        bench.uplink.acknowledge()
        self.assertEqual((bench.idled, bench.forwarder.idle), (2, True))
        bench.uplink.down()
        self.assertFalse(bench.forwarder.idle)

    def test_passed_on(self):
        """Limits and messages are passed on."""
        bench = self.bench
        limits = SessionLimits(max_inflight=7)
        bench.start(limits=limits)
        self.assertEqual(bench.limits, [limits])
        bench.forwarder.message_received("topic", b"payload")
        self.assertEqual(bench.received, [("topic", b"payload")])

    def test_no_timers_without_a_session(self):
        """When a session ends no timer is left."""
        bench = self.bench
        bench.start("A", limits=SessionLimits(telemetry=(RateLimit(1, 60.0),)))
        bench.registry.seen(Device("B"))
        bench.say(5)
        bench.say(1, ("C",))
        bench.uplink.down()
        self.assertEqual(bench.clock.getDelayedCalls(), [])


class AnnouncementTests(Base):
    """Devices are announced before their data."""

    def test_known_devices(self):
        """At the start of a session every known device is announced with its profile, those that are gone are not."""
        bench = self.bench
        for name in ("A", "B", "C"):
            bench.registry.seen(Device(name, f"profile of {name}"))
        bench.registry.gone("B")
        bench.start()
        self.assertEqual(
            [json.loads(sent.payload) for sent in bench.uplink.sent],
            [{"device": "A", "type": "profile of A"}, {"device": "C", "type": "profile of C"}],
        )
        bench.restart_session()
        self.assertEqual([sent.device for sent in bench.uplink.sent[2:]], ["A", "C"])

    def test_before_data(self):
        """A row waits until each of its devices is announced and acknowledged, and nothing overtakes it."""
        bench = self.bench
        bench.start("A")
        bench.say(1, ("A", "B", "C"))
        bench.say(1, ("A",))
        self.assertEqual([sent.device for sent in bench.uplink.waiting], ["B", "C"])
        bench.uplink.acknowledge()
        self.assertEqual(bench.uplink.data(), [])
        bench.uplink.acknowledge()
        self.assertEqual(bench.numbers(), [1, 2])

    def test_again_after_a_reconnect(self):
        """In a new session all is announced anew before any data."""
        bench = self.bench
        bench.start("A")
        bench.say()
        bench.uplink.down()
        bench.uplink.up()
        self.assertEqual([sent.topic for sent in bench.uplink.waiting], [topics.CONNECT])
        bench.uplink.acknowledge()
        self.assertEqual(bench.numbers(), [1, 1])

    def test_whoever_has_data_comes_first(self):
        """Devices with data waiting are announced before the many that only wait for commands."""
        bench = self.bench
        for number in range(500):
            bench.registry.seen(Device(f"D{number}"))
        bench.forwarder.start()
        bench.uplink.up()
        bench.say(1, ("D499",))
        bench.uplink.acknowledge()
        self.assertIn("D499", [sent.device for sent in bench.uplink.waiting])

    def test_a_long_backlog_does_not_keep_announcements_away(self):
        """While there is data to send, devices are announced in turn with it."""
        bench = self.bench
        bench.say(500)
        for number in range(10):
            bench.registry.seen(Device(f"D{number}"))
        bench.start("A")
        bench.spool.run()
        for _ in range(40):
            bench.uplink.acknowledge()
            bench.spool.run()
        announced = {sent.device for sent in bench.uplink.sent if sent.topic == topics.CONNECT}
        self.assertEqual(len(announced), 11)

    def test_no_puback(self):
        """Old servers never acknowledge a failed announcement: after a while the data is sent all the same."""
        bench = self.bench
        bench.start()
        bench.say(1, ("bad",))
        bench.clock.advance(ANNOUNCE_SECONDS - 0.1)
        self.assertEqual(bench.uplink.data(), [])
        bench.clock.advance(0.1)
        self.assertEqual(bench.numbers(), [1])
        self.assertEqual(bench.counters.total("device_announcements_failed"), 1)

    def test_reason_codes(self):
        """A bad code is told, and the data sent all the same; 0x10, which brokers use for "nobody listens", is good."""
        for code, failed in ((0x00, 0), (0x10, 0), (0x80, 1), (0x97, 1)):
            bench = Bench()
            bench.start()
            bench.say()
            bench.uplink.acknowledge(code=code)
            self.assertEqual(bench.numbers(), [1])
            self.assertEqual(bench.counters.total("device_announcements_failed"), failed)

    def test_count_in_the_window(self):
        """Announcements take their places in the window."""
        bench = self.bench
        for number in range(100):
            bench.registry.seen(Device(f"D{number}"))
        bench.forwarder.start()
        bench.uplink.up(SessionLimits(max_inflight=10))
        self.assertEqual(len(bench.uplink.waiting), 8)
        bench.uplink.acknowledge()
        self.assertEqual(len(bench.uplink.waiting), 8)


class DisconnectTests(Base):
    """Disconnect messages."""

    def test_in_order(self):
        """It goes after the device's data, and needs no announcement itself."""
        bench = self.bench
        bench.start("A")
        bench.say()
        bench.append(gone("A"))
        bench.append(gone("never announced"))
        self.assertEqual(
            [sent.topic for sent in bench.uplink.data()], [topics.TELEMETRY, topics.DISCONNECT, topics.DISCONNECT]
        )
        bench.finish()
        self.assertEqual(bench.spool.stored, {})

    def test_data_after_it(self):
        """From the disconnect message on the device is unknown to ThingsBoard: its next data is announced anew."""
        bench = self.bench
        bench.start("A")
        bench.append(gone("A"))
        bench.say()
        self.assertEqual([sent.topic for sent in bench.uplink.waiting], [topics.DISCONNECT, topics.CONNECT])
        bench.uplink.acknowledge_all()
        self.assertEqual(
            [sent.topic for sent in bench.uplink.sent[1:]], [topics.DISCONNECT, topics.CONNECT, topics.TELEMETRY]
        )

    def test_late_puback_does_not_undo_the_announcement(self):
        """The PUBACK of the disconnect message says nothing of a device that was announced since."""
        bench = self.bench
        bench.start("A")
        bench.append(gone("A"))
        bench.say()
        bench.uplink.acknowledge_announcements()
        bench.uplink.acknowledge_all()
        bench.say()
        self.assertEqual(sum(sent.topic == topics.CONNECT for sent in bench.uplink.sent), 2)

    def test_not_announced_after_it(self):
        """A device that still waited to be announced for commands is not announced after it went away."""
        bench = self.bench
        for number in range(100):
            bench.registry.seen(Device(f"D{number}"))
        bench.forwarder.start()
        bench.uplink.up(SessionLimits(max_inflight=10))
        bench.append(gone("D99"))
        bench.finish()
        announced = [sent.device for sent in bench.uplink.sent if sent.topic == topics.CONNECT]
        self.assertNotIn("D99", announced)
        self.assertEqual(len(announced), 99)

    def test_waits_for_the_announcement_under_way(self):
        """It does not go while the device's announcement is without PUBACK: the two must not be mixed up."""
        bench = self.bench
        bench.registry.seen(Device("A"))
        bench.forwarder.start()
        bench.uplink.up()
        bench.append(gone("A"))
        self.assertEqual([sent.topic for sent in bench.uplink.waiting], [topics.CONNECT])
        bench.uplink.acknowledge()
        self.assertEqual([sent.topic for sent in bench.uplink.waiting], [topics.DISCONNECT])


class WindowTests(Base):
    """Publishes without PUBACK."""

    def test_bound(self):
        """No more than 80 % of what was announced, and never more than our own bound."""
        for announced, expected in ((100, MAX_WINDOW), (10_000, MAX_WINDOW), (10, 8), (2, 1), (1, 1)):
            bench = Bench()
            bench.start("A", limits=SessionLimits(max_inflight=announced))
            bench.say(200)
            self.assertEqual(len(bench.uplink.waiting), expected)
            bench.uplink.acknowledge()
            self.assertEqual(len(bench.uplink.waiting), expected)
            bench.finish()
            self.assertEqual(bench.uplink.most_waiting, expected)
            self.assertEqual(bench.numbers(), list(range(1, 201)))

    def test_small_bucket(self):
        """Nor more than the smallest bucket of messages holds."""
        bench = self.bench
        bench.start("A", limits=SessionLimits(telemetry=(RateLimit(5, 1.0), RateLimit(1000, 60.0))))
        bench.say(50)
        self.assertEqual(len(bench.uplink.waiting), 4)


class MemoryTests(Base):
    """Memory is flat whatever is stored."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(ready_module, "READY_BYTES", 2000)
        self.patch(ready_module, "FETCH_BYTES", 1000)

    def test_constants(self):
        """Two fetches fill what is kept ready, so that fetching never goes beyond it."""
        self.assertLessEqual(FETCH_BYTES, READY_BYTES // 2)

    def test_bound(self):
        """Without a session, and while ThingsBoard is slow, no more than the bound is kept beside the window."""
        bench = self.bench
        bench.start("A", limits=SessionLimits(max_inflight=5))
        for _ in range(5):
            bench.say(50, size=20)
            bench.uplink.acknowledge()
            bench.spool.run()
            self.assertLessEqual(bench.forwarder._ready.bytes, 2000)
            bench.restart_session()
            self.assertLessEqual(bench.forwarder._ready.bytes, 2000 + 5 * 100)
        bench.uplink.down()
        bench.say(100)
        self.assertLessEqual(bench.forwarder._ready.bytes, 2000 + 5 * 100)
        self.assertEqual(bench.forwarder._ready.bytes, sum(len(row.payload) for row in bench.forwarder._ready.rows))
        bench.finish()
        self.assertEqual(sorted(set(bench.numbers())), list(range(1, 351)))
        self.assertEqual(bench.spool.stored, {})

    def test_one_row_larger_than_the_bound(self):
        """A row larger than the bound goes all the same."""
        bench = self.bench
        bench.start("A")
        bench.say(3, size=5000)
        bench.finish()
        self.assertEqual(bench.numbers(), [1, 2, 3])

    def test_caught_up(self):
        """After a backlog, fresh rows are taken from memory again and not read from the store."""
        bench = self.bench
        bench.say(200)
        bench.forwarder = bench.build()
        bench.start("A")
        bench.finish()
        fetches = bench.spool.calls.count("fetch")
        bench.say(5)
        bench.finish()
        self.assertEqual(bench.spool.calls.count("fetch"), fetches)
        self.assertEqual(bench.numbers(), list(range(1, 206)))

    def test_rows_come_while_the_store_is_read(self):
        """Rows that are appended while a fetch is under way are neither lost nor sent twice nor out of order."""
        bench = self.bench
        bench.say(30)
        bench.forwarder = bench.build()
        bench.start("A")
        while len(bench.numbers()) < 60:
            bench.say(commit=False)
            bench.spool.step()
            if bench.uplink.waiting:
                bench.uplink.acknowledge()
        bench.finish()
        self.assertEqual(bench.numbers(), list(range(1, bench.number + 1)))

    def test_dropped_rows_are_forgotten(self):
        """Rows that the drop policy took are not sent from memory; the others are."""
        bench = self.bench
        bench.registry.seen(Device("A"))
        bench.forwarder.start()
        bench.say(20)
        bench.spool.drop_oldest(12)
        bench.finish()
        self.assertEqual(bench.numbers(), list(range(13, 21)))

    def test_dropped_beyond_memory(self):
        """Also when more was dropped than was in memory, and while a fetch is under way."""
        bench = self.bench
        bench.say(300)
        bench.forwarder = bench.build()
        bench.start("A", limits=SessionLimits(max_inflight=2))
        bench.spool.step()
        self.assertEqual(bench.numbers(), [1])
        bench.spool.drop_oldest(250)
        bench.finish()
        self.assertEqual(bench.numbers()[:1] + bench.numbers()[-50:], [1, *range(251, 301)])
        self.assertLess(len(bench.numbers()), 60)
        self.assertEqual(bench.spool.stored, {})

    def test_broken_store(self):
        """When the store breaks under a fetch, that is the store's own news, and what is in memory is sent."""
        bench = self.bench
        bench.say(100)
        bench.forwarder = bench.build()
        bench.start("A")
        bench.spool.break_down()
        self.assertEqual(self.flushLoggedErrors(), [])


class AnswerTests(Base):
    """PUBACKs that are bad, late or missing."""

    def test_refused(self):
        """A payload that ThingsBoard calls wrong goes to the dead letters, and the next one is not held up."""
        for code in (0x87, 0x90, 0x99):
            bench = Bench()
            bench.start("A")
            first, _ = bench.say(2)
            bench.uplink.acknowledge(bench.waiting(1), code)
            bench.uplink.acknowledge()
            bench.spool.run()
            self.assertEqual(bench.spool.dead, [(first, "refused")])
            self.assertEqual(bench.spool.deleted, [2])
            self.assertEqual(bench.counters.get("rows_refused", str(code)), 1)
            self.assertTrue(bench.forwarder.idle)

    def test_good_codes(self):
        """0x10 is success: a plain broker with no subscriber says so."""
        bench = self.bench
        bench.start("A")
        bench.say()
        bench.uplink.acknowledge(code=0x10)
        self.assertEqual(bench.spool.deleted, [1])

    def test_pushed_back(self):
        """After 0x97 all pauses; then the row goes again, and what was sent after it, marked as duplicates."""
        bench = self.bench
        bench.start("A", limits=SessionLimits(max_inflight=5))
        bench.say(8)
        bench.uplink.acknowledge(bench.waiting(1), 0x97)
        self.assertEqual(len(bench.uplink.waiting), 3)
        for number in (2, 3, 4):
            bench.uplink.acknowledge(bench.waiting(number))
        bench.say()
        self.assertEqual(bench.numbers(), [1, 2, 3, 4])
        bench.clock.advance(0.99)
        self.assertEqual(bench.numbers(), [1, 2, 3, 4])
        bench.clock.advance(0.01)
        self.assertEqual(bench.numbers(), [1, 2, 3, 4, 1, 2, 3, 4])
        self.assertEqual([sent.dup for sent in bench.uplink.data()], [False] * 4 + [True] * 4)
        bench.uplink.acknowledge_all()
        self.assertEqual(bench.numbers()[8:], [5, 6, 7, 8, 9])

    def test_pushed_back_beside_others(self):
        """What does not speak of the same devices, also by way of others, does not go again."""
        bench = self.bench
        bench.start("A", "B", "C", "D")
        bench.say(1, ("A",))
        bench.say(1, ("D",))
        bench.say(1, ("A", "B"))
        bench.say(1, ("B", "C"))
        bench.say(1, ("C",))
        bench.say(1, ("D",))
        for number in (6, 5, 4, 3, 2):
            bench.uplink.acknowledge(bench.waiting(number))
        bench.uplink.acknowledge(bench.waiting(1), 0x97)
        bench.finish()
        self.assertEqual(bench.numbers()[6:], [1, 3, 4, 5])
        self.assertEqual(bench.spool.stored, {})

    def test_the_next_waits_for_what_comes_back(self):
        """While a row that has to go again is still without PUBACK, nothing is sent that would get ahead of it."""
        bench = self.bench
        bench.start("A", limits=SessionLimits(max_inflight=5))
        bench.say(8)
        bench.uplink.acknowledge(bench.waiting(1), 0x97)
        bench.clock.advance(5)
        self.assertEqual(bench.numbers(), [1, 2, 3, 4])
        for number in (3, 2, 4):
            self.assertEqual(bench.numbers(), [1, 2, 3, 4])
            bench.uplink.acknowledge(bench.waiting(number))
        self.assertEqual(bench.numbers(), [1, 2, 3, 4, 1, 2, 3, 4])
        bench.finish()
        self.assertEqual(bench.spool.stored, {})
        self.assertEqual(bench.spool.dead, [])

    def test_order_of_those_pushed_back(self):
        """Several pushed back, in whatever order the answers come, go again in their own order."""
        bench = self.bench
        bench.start("A", limits=SessionLimits(max_inflight=8))
        bench.say(9)
        for number in (2, 5, 4, 1):
            bench.uplink.acknowledge(bench.waiting(number), 0x97)
        bench.uplink.acknowledge(bench.waiting(3))
        bench.uplink.acknowledge(bench.waiting(6))
        bench.clock.advance(1)
        self.assertEqual(bench.numbers()[6:], [1, 2, 3, 4, 5, 6])

    def test_pushed_back_then_lost(self):
        """Pushed-back rows and those in flight at the end of a session are put together in order."""
        bench = self.bench
        bench.start("A", limits=SessionLimits(max_inflight=8))
        bench.say(9)
        for number in (2, 4):
            bench.uplink.acknowledge(bench.waiting(number), 0x97)
        bench.uplink.down()
        bench.uplink.up()
        bench.clock.advance(1)
        bench.uplink.acknowledge_announcements()
        self.assertEqual(bench.numbers(2), [1, 2, 3, 4, 5, 6])

    def test_pauses_grow(self):
        """Each pause is twice the one before, up to a minute, until something passes."""
        bench = self.bench
        bench.start("A")
        bench.say()
        times = [bench.clock.seconds()]
        for _ in range(9):
            bench.uplink.acknowledge(code=0x97)
            while not bench.uplink.waiting:
                bench.clock.advance(0.5)
            times.append(bench.clock.seconds())
        self.assertEqual(
            [later - earlier for earlier, later in pairwise(times)],
            [1, 2, 4, 8, 16, 32, 60, 60, 60],
        )
        bench.uplink.acknowledge()
        bench.say()
        bench.uplink.acknowledge(code=0x97)
        bench.clock.advance(1)
        self.assertEqual(len(bench.uplink.waiting), 1)

    def test_pause_outlives_the_session(self):
        """ThingsBoard closes the session when it says 0x97 to a payload: the pause holds in the next one, too."""
        bench = self.bench
        bench.start("A")
        bench.say()
        sessions = []
        for _ in range(4):
            bench.uplink.acknowledge(code=0x97)
            bench.uplink.down()
            bench.uplink.up()
            begun = bench.clock.seconds()
            while not bench.uplink.waiting:
                bench.clock.advance(0.5)
            sessions.append(bench.clock.seconds() - begun)
            bench.uplink.acknowledge_announcements()
        self.assertEqual(sessions, [1, 2, 4, 8])

    def test_woken_too_early(self):
        """A pause that begins while a rate limit is waited for ends by itself."""
        bench = self.bench
        bench.start("A", limits=SessionLimits(telemetry=(RateLimit(2, 1.0),)))
        bench.say(3)
        bench.uplink.acknowledge(code=0x80)
        for _ in range(20):
            bench.clock.advance(0.25)
        self.assertEqual(len(bench.numbers()), 2)
        bench.finish()
        self.assertEqual(bench.spool.stored, {})

    def test_one_row_does_not_hold_up_the_others(self):
        """
        A device that ThingsBoard cannot create (0x97 at the device limit, 0x80 else) is tried some times and goes to
        the dead letters; rows of others are delivered all the while.
        """
        for code in (0x97, 0x80):
            bench = Bench()
            bench.start("A", "bad")
            (bad,) = bench.say(1, ("bad",))
            for _ in range(200):
                bench.say()
                while bench.uplink.waiting:
                    sent = bench.uplink.waiting[0]
                    bench.uplink.acknowledge(sent, code if b"bad" in sent.payload else 0)
                bench.clock.advance(1)
                bench.spool.run()
                if bench.spool.dead:
                    break
            self.assertEqual(bench.spool.dead, [(bad, "retries_exhausted")])
            self.assertEqual(bench.numbers().count(1), TRIES + 1)
            bench.finish()
            self.assertEqual(bench.spool.stored, {})

    def test_everything_refused_for_now(self):
        """While ThingsBoard takes nothing at all (its core is down, the quota is used up) no row is given up."""
        for code in (0x97, 0x80):
            bench = Bench()
            bench.start("A")
            bench.say(10)
            for _ in range(300):
                while bench.uplink.waiting:
                    bench.uplink.acknowledge(code=code)
                bench.clock.advance(5)
            bench.finish()
            self.assertEqual(bench.spool.dead, [])
            self.assertEqual(sorted(bench.spool.deleted), list(range(1, 11)))

    def test_a_slow_server_loses_nothing(self):
        """A server that takes some rows and refuses others for their number in a while gets all in the end."""
        bench = self.bench
        bench.start("A")
        bench.say(300)
        tokens = 0
        for _ in range(400):
            tokens = 5
            while bench.uplink.waiting:
                bench.uplink.acknowledge(code=0 if tokens > 0 else 0x97)
                tokens -= 1
            bench.clock.advance(1)
        bench.finish()
        self.assertEqual(bench.spool.dead, [])
        self.assertEqual(bench.spool.stored, {})

    def test_payload_that_closes_the_session(self):
        """0x83 blames the payload and ThingsBoard closes the session: after some times it goes to the dead letters."""
        bench = self.bench
        bench.start("A")
        poison, _ = bench.say(2)
        for _ in range(STRIKES):
            bench.uplink.acknowledge(bench.waiting(1), 0x83)
            bench.uplink.down()
            bench.clock.advance(60)
            bench.uplink.up()
            bench.clock.advance(60)
            bench.uplink.acknowledge_announcements()
        bench.finish()
        self.assertEqual(bench.spool.dead, [(poison, "refused")])
        self.assertEqual(bench.spool.stored, {})

    def test_puback_time_out(self):
        """A PUBACK that does not come in time ends the session; the row goes again in the next."""
        bench = self.bench
        bench.start("A")
        bench.say()
        bench.clock.advance(PUBACK_SECONDS - 0.1)
        self.assertEqual(bench.uplink.disruptions, [])
        bench.clock.advance(0.1)
        self.assertEqual(len(bench.uplink.disruptions), 1)
        self.assertEqual(bench.counters.total("puback_timeouts"), 1)
        bench.restart_session()
        self.assertEqual(bench.numbers(), [1, 1])

    def test_puback_time_out_is_for_the_oldest(self):
        """The time runs for each publish by itself: PUBACKs for others do not hide a missing one."""
        bench = self.bench
        bench.start("A")
        bench.say()
        for _ in range(29):
            bench.clock.advance(1)
            bench.say()
            bench.uplink.acknowledge(bench.uplink.waiting[-1])
        self.assertEqual(bench.uplink.disruptions, [])
        bench.clock.advance(1)
        self.assertEqual(len(bench.uplink.disruptions), 1)

    def test_pubacks_in_time(self):
        """As long as each comes in time nothing is disrupted, however long it goes on, at odd moments too."""
        bench = self.bench
        bench.start("A")
        for step in range(100):
            bench.say()
            bench.clock.advance(29.9 + step / 1003)
            bench.uplink.acknowledge()
        self.assertEqual(bench.uplink.disruptions, [])

    def test_never_acknowledged(self):
        """What is never acknowledged (fact 6) is buried after some sessions in which later rows were acknowledged."""
        bench = self.bench
        bench.start("A")
        dead, dead_too = bench.say(2)
        for session in range(1, STRIKES + 1):
            bench.say()
            for sent in [sent for sent in bench.uplink.waiting if number_of(sent) > 2]:
                bench.uplink.acknowledge(sent)
            bench.spool.run()
            self.assertEqual(bench.spool.dead, [])
            bench.clock.advance(PUBACK_SECONDS)
            self.assertEqual(len(bench.uplink.disruptions), session)
            bench.restart_session()
        bench.spool.run()
        self.assertEqual(bench.spool.dead, [(dead, "never_acknowledged"), (dead_too, "never_acknowledged")])
        self.assertEqual(bench.counters.total("rows_never_acknowledged"), 2)
        bench.finish()
        self.assertEqual(bench.spool.stored, {})

    def test_silent_server(self):
        """A server that acknowledges nothing at all costs no row, however often."""
        bench = self.bench
        bench.start("A")
        bench.say(3)
        for _ in range(3 * STRIKES):
            bench.clock.advance(PUBACK_SECONDS)
            bench.restart_session()
        bench.finish()
        self.assertEqual(bench.spool.dead, [])
        self.assertEqual(sorted(bench.spool.deleted), [1, 2, 3])


class LimitTests(Base):
    """Limits that ThingsBoard announces."""

    def rates(self, **limits: Any) -> SessionLimits:
        return SessionLimits(**limits)

    def test_telemetry_messages(self):
        """Each device's part of a packet counts as a message; attributes count too."""
        bench = self.bench
        bench.start("A", "B", limits=self.rates(telemetry=(RateLimit(10, 10.0),)))
        bench.say(20, ("A", "B"))
        spent = []
        for _ in range(420):
            while bench.uplink.waiting:
                bench.uplink.acknowledge()
            spent.append(len(bench.numbers()) * 2)
            bench.clock.advance(0.1)
        self.assertEqual(spent[0], 8)
        for start in range(0, 300, 20):
            self.assertLessEqual(spent[start + 100] - spent[start], 8 + 8)
        self.assertEqual(spent[-1], 40)

    def test_points(self):
        """Data points are counted by their own bucket."""
        bench = self.bench
        bench.start("A", limits=self.rates(points=(RateLimit(10, 1.0),)))
        bench.append(*[telemetry(number, size=1) for number in range(1, 9)])
        self.assertEqual(len(bench.numbers()), 4)
        bench.clock.advance(0.26)
        self.assertEqual(len(bench.numbers()), 5)

    def test_announcements(self):
        """An announcement costs two messages; they wait for their bucket, and the data of others does not wait."""
        bench = self.bench
        bench.start("A", limits=self.rates(messages=(RateLimit(10, 1000.0),)))
        for number in range(10):
            bench.registry.seen(Device(f"D{number}"))
        bench.restart_session()
        bench.uplink.acknowledge_announcements()
        announced = sum(sent.topic == topics.CONNECT for sent in bench.uplink.sent)
        self.assertEqual(announced, 4)
        bench.say(30)
        self.assertEqual(len(bench.numbers()), 8)
        for _ in range(30):
            bench.uplink.acknowledge()
            if not bench.uplink.waiting:
                break
        self.assertEqual(bench.numbers(), list(range(1, 31)))

    def test_announcement_that_ends_the_session(self):
        """ThingsBoard closes the session when the limit for announcements is reached: then their bucket is empty."""
        bench = self.bench
        bench.registry.seen(Device("A"))
        bench.forwarder.start()
        bench.uplink.up(self.rates(messages=(RateLimit(10, 10.0),)))
        self.assertEqual(len(bench.uplink.waiting), 1)
        bench.uplink.down()
        bench.uplink.up()
        self.assertEqual(bench.uplink.waiting, [])
        bench.clock.advance(2.4)
        self.assertEqual(bench.uplink.waiting, [])
        bench.clock.advance(0.2)
        self.assertEqual([sent.device for sent in bench.uplink.waiting], ["A"])

    def test_shorter_wait_wins(self):
        """Waiting long for one bucket does not keep from looking when another has filled up."""
        bench = self.bench
        limits = self.rates(messages=(RateLimit(3, 10_000.0),), telemetry=(RateLimit(3, 1.0),))
        bench.start("A", "B", limits=limits)
        bench.say(5)
        for _ in range(60):
            if bench.uplink.waiting:
                bench.uplink.acknowledge()
            bench.clock.advance(0.1)
        self.assertEqual(bench.numbers(), [1, 2, 3, 4, 5])

    def test_disconnects(self):
        """A disconnect message costs one message."""
        bench = self.bench
        bench.start(limits=self.rates(messages=(RateLimit(5, 10.0),)))
        bench.append(*[gone(f"D{number}") for number in range(10)])
        bench.uplink.acknowledge_all()
        self.assertEqual(len(bench.uplink.data()), 4)
        bench.finish()
        self.assertEqual(len(bench.uplink.data()), 10)

    def test_spent_stays_spent(self):
        """A new session with the same limits does not begin with full buckets: the server's are not full either."""
        bench = self.bench
        bench.start("A", limits=self.rates(telemetry=(RateLimit(5, 100.0),)))
        bench.say(4)
        bench.uplink.acknowledge_all()
        bench.say(3)
        bench.restart_session()
        self.assertEqual(bench.numbers(2), [])
        bench.uplink.down()
        bench.uplink.up(self.rates(telemetry=(RateLimit(50, 100.0),)))
        bench.uplink.acknowledge_announcements()
        self.assertEqual(bench.numbers(3), [5, 6, 7])

    def test_drained_when_told(self):
        """When ThingsBoard says that the limit is reached, our buckets are empty, whatever we thought."""
        bench = self.bench
        bench.start("A", limits=self.rates(telemetry=(RateLimit(50, 100.0),)))
        bench.say(10)
        for number in range(1, 11):
            bench.uplink.acknowledge(bench.waiting(number), 0x97 if number == 10 else 0)
        bench.clock.advance(2)
        self.assertEqual(len(bench.numbers()), 10)
        bench.clock.advance(1)
        self.assertEqual(len(bench.numbers()), 11)

    def test_row_above_the_bucket_of_messages(self):
        """A row of more devices than the bucket lets through at once goes in parts, and is deleted after the last."""
        bench = self.bench
        names = tuple(f"D{number}" for number in range(20))
        bench.start(*names, limits=self.rates(telemetry=(RateLimit(10, 10.0),)))
        (row,) = bench.say(1, names)
        self.assertEqual([len(json.loads(sent.payload)) for sent in bench.uplink.data()], [8])
        for _ in range(100):
            bench.uplink.acknowledge_all()
            if len(bench.uplink.data()) < 3:
                self.assertEqual(bench.spool.deleted, [])
            bench.clock.advance(0.5)
        parts = [json.loads(sent.payload) for sent in bench.uplink.data()]
        self.assertEqual([len(part) for part in parts], [8, 8, 4])
        self.assertEqual([name for part in parts for name in part], list(names))
        self.assertEqual(bench.spool.deleted, [row.seq])

    def test_row_above_the_bucket_of_points(self):
        """The same for data points, within one device's part."""
        bench = self.bench
        bench.start("A", limits=self.rates(points=(RateLimit(10, 10.0),)))
        content = {f"k{number}": number for number in range(30)}
        draft = Draft(topics.TELEMETRY, b'{"A":[%b]}' % payloads.telemetry_fragment(1, content), ("A",), 1, 30)
        bench.append(draft)
        bench.finish()
        parts = [json.loads(sent.payload)["A"][0]["values"] for sent in bench.uplink.data()]
        self.assertTrue(all(len(part) <= 8 for part in parts))
        self.assertEqual([pair for part in parts for pair in part.items()], list(content.items()))

    def test_row_above_a_smaller_payload_limit(self):
        """Rows stored under a larger payload limit go in parts that fit, in order, telemetry and attributes."""
        for topic in (topics.TELEMETRY, topics.ATTRIBUTES):
            bench = Bench()
            bench.start("A", "B", limits=self.rates(max_payload_bytes=300))
            if topic == topics.TELEMETRY:
                content = {
                    payloads.encode(name): [payloads.telemetry_fragment(ts, {"k": ts}) for ts in range(20)]
                    for name in "AB"
                }
                draft = Draft(topic, payloads.join_telemetry(content), ("A", "B"), 1, 40)
            else:
                values = {name: {f"k{number}": number for number in range(40)} for name in "AB"}
                draft = Draft(topic, payloads.encode(values), ("A", "B"), 1, 80)
            bench.append(draft)
            bench.say()
            bench.finish()
            limit = payloads.payload_limit(bench.uplink.limits, topic, 10**9)
            *parts, _ = bench.uplink.data()
            self.assertGreater(len(parts), 2)
            self.assertTrue(all(len(sent.payload) <= limit for sent in parts))
            joined: dict[str, list[Any]] = {}
            for sent in parts:
                for name, part in json.loads(sent.payload).items():
                    joined.setdefault(name, []).extend(part if isinstance(part, list) else part.items())
            whole = json.loads(draft.payload)
            self.assertEqual(
                joined, {name: part if isinstance(part, list) else list(part.items()) for name, part in whole.items()}
            )
            self.assertEqual(bench.spool.deleted, [1, 2])

    def test_parts_keep_the_window(self):
        """Parts of rows count one by one: also a hundredfold smaller limit does not overrun the window."""
        bench = self.bench
        bench.start("A", limits=self.rates(max_payload_bytes=200, max_inflight=5))
        content = {b'"A"': [payloads.telemetry_fragment(ts, {"k": ts}) for ts in range(200)]}
        draft = Draft(topics.TELEMETRY, payloads.join_telemetry(content), ("A",), 1, 200)
        bench.append(draft, draft)
        self.assertEqual(len(bench.uplink.waiting), 4)
        bench.finish()
        self.assertEqual(bench.uplink.most_waiting, 4)
        times = [element["ts"] for sent in bench.uplink.data() for element in json.loads(sent.payload)["A"]]
        self.assertEqual(times, [*range(200), *range(200)])
        self.assertEqual(bench.spool.deleted, [1, 2])

    def test_session_ends_between_parts(self):
        """A row of which some parts were acknowledged goes again as a whole."""
        bench = self.bench
        bench.start("A", limits=self.rates(max_payload_bytes=200, max_inflight=2))
        content = {b'"A"': [payloads.telemetry_fragment(ts, {"k": ts}) for ts in range(20)]}
        bench.append(Draft(topics.TELEMETRY, payloads.join_telemetry(content), ("A",), 1, 20))
        bench.uplink.acknowledge()
        bench.restart_session()
        bench.finish()
        times = [element["ts"] for sent in bench.uplink.data(2) for element in json.loads(sent.payload)["A"]]
        self.assertEqual(times, list(range(20)))
        self.assertTrue(all(sent.dup for sent in bench.uplink.data(2)))
        self.assertEqual(bench.spool.deleted, [1])

    def test_a_part_is_refused(self):
        """When a part is refused the rest does not go at once: the row is taken apart, and its culprit buried."""
        bench = self.bench
        bench.start("A", limits=self.rates(max_payload_bytes=200, max_inflight=3))
        content = {b'"A"': [payloads.telemetry_fragment(ts, {"k": ts}) for ts in range(50)]}
        bench.append(Draft(topics.TELEMETRY, payloads.join_telemetry(content), ("A",), 1, 50))
        bench.uplink.acknowledge(code=0x99)
        self.assertLess(len(bench.uplink.data()), 4)
        bench.say()
        for _ in range(1000):
            bench.spool.run()
            if bench.uplink.waiting:
                culprit = b'"ts":20,' in bench.uplink.waiting[0].payload
                bench.uplink.acknowledge(code=0x99 if culprit else 0)
        self.assertEqual(
            [(row.payload, row.devices, row.points, reason) for row, reason in bench.spool.dead],
            [(b'{"A":[{"ts":20,"values":{"k":20}}]}', ("A",), 1, "refused")],
        )
        self.assertEqual(bench.spool.stored, {})
        self.assertTrue(bench.forwarder.idle)

    def test_a_part_is_pushed_back(self):
        """When a part is pushed back the row goes again as a whole, after those parts have all been answered."""
        bench = self.bench
        bench.start("A", limits=self.rates(max_payload_bytes=200, max_inflight=3))
        content = {b'"A"': [payloads.telemetry_fragment(ts, {"k": ts}) for ts in range(50)]}
        bench.append(Draft(topics.TELEMETRY, payloads.join_telemetry(content), ("A",), 1, 50))
        bench.uplink.acknowledge(code=0x97)
        bench.finish()
        self.assertEqual(bench.spool.deleted, [1])
        self.assertEqual(bench.spool.dead, [])

    def test_value_that_fits_no_more(self):
        """A row with a value that does not fit the new limit goes to the dead letters and holds nothing up."""
        bench = self.bench
        bench.start("A", limits=self.rates(max_payload_bytes=300))
        (huge,) = bench.say(1, size=500)
        bench.say()
        bench.finish()
        self.assertEqual(bench.spool.dead, [(huge, "too_large")])
        self.assertEqual(bench.numbers(), [2])
        self.assertEqual(bench.counters.total("rows_unsendable"), 1)

    def test_payload_that_cannot_be_cut(self):
        """A row that is too large and is not what its topic says goes to the dead letters."""
        for rubbish in (b'{"A":' + b"5" * 300 + b"}", b"x" * 300, b'{"A":[%b]}' % (b" " * 300)):
            bench = Bench()
            bench.start("A", limits=self.rates(max_payload_bytes=300))
            bench.append(Draft(topics.TELEMETRY, rubbish, ("A",), 1, 1))
            bench.say()
            bench.finish()
            self.assertEqual(len(bench.spool.dead), 1)
            self.assertEqual(bench.numbers(), [1])


class PoisonTests(Base):
    """Payloads that make ThingsBoard close the session, on MQTT 3.1.1 where it says no word."""

    def live(self, closes: Callable[[Sent], bool], seconds: float = 3600.0) -> int:
        """ThingsBoard closes the session on some payloads and takes the others in turn. How many sessions that took."""
        bench = self.bench
        bench.uplink.disruptions.clear()
        end = bench.clock.seconds() + seconds
        sessions = 0
        while bench.clock.seconds() < end:
            bench.spool.run()
            if not bench.uplink.connected:
                bench.clock.advance(1)
                bench.uplink.up()
                sessions += 1
            elif (
                bench.uplink.waiting
                and bench.uplink.waiting[0].topic != topics.CONNECT
                and closes(bench.uplink.waiting[0])
            ):
                bench.uplink.down()
            elif bench.uplink.waiting:
                bench.uplink.acknowledge()
            elif bench.forwarder.idle:
                break
            else:
                bench.clock.advance(0.5)
        return sessions

    def test_one_among_many(self):
        """One value in a full window is found and buried; all else is delivered, within some ten sessions."""
        bench = self.bench
        bench.start("A", "B")
        rows = bench.say(100, ("A", "B"))
        poison = b'"B":[{"ts":40,"values":{"n":40}}]'
        sessions = self.live(lambda sent: poison in sent.payload)
        self.assertEqual(
            [(row.payload, reason) for row, reason in bench.spool.dead], [(b"{%b}" % poison, "closes_session")]
        )
        self.assertEqual(bench.spool.stored, {})
        self.assertEqual(bench.forwarder.delivered_rows, len(rows))
        self.assertLess(sessions, 12)
        self.assertEqual(bench.counters.get("parts_buried", "closes_session"), 1)

    def test_many_suspects(self):
        """A window full of rows half of which are poison is worked through to its end, and nothing good is lost."""
        bench = self.bench
        bench.start("A", "B", "C")
        bench.say(60, ("A", "B"))
        bench.say(5, ("C",))
        began = bench.clock.seconds()
        self.live(
            lambda sent: sent.topic == topics.TELEMETRY and b'"B"' in sent.payload and number_of(sent) % 2 == 0, 100_000
        )
        self.assertLess(bench.clock.seconds() - began, 30 * 30)
        self.assertEqual(len(bench.spool.dead), 30)
        for row, _ in bench.spool.dead:
            self.assertEqual(row.devices, ("B",))
        self.assertEqual(bench.spool.stored, {})

    def test_the_only_row(self):
        """Also when there is nothing else to deliver: the probe shows that ThingsBoard takes other data."""
        bench = self.bench
        bench.registry.seen(Device("A", connector="Line 4"))
        bench.start()
        (row,) = bench.say()
        self.live(lambda sent: sent.topic == topics.TELEMETRY)
        self.assertEqual(bench.spool.dead, [(row, "closes_session")])
        probes = {sent.payload for sent in bench.uplink.data() if sent.topic == topics.ATTRIBUTES}
        self.assertEqual(probes, {b'{"A":{"connectorName":"Line 4"}}'})

    def test_server_that_takes_no_data(self):
        """A server that closes the session on any data, for days, makes nothing a dead letter."""
        bench = self.bench
        bench.start("A", "B")
        bench.say(10, ("A", "B"))
        self.live(lambda sent: True, 3 * 86_400)
        self.assertEqual(bench.spool.dead, [])
        self.live(lambda sent: False)
        self.assertEqual((bench.spool.dead, bench.spool.stored), ([], {}))

    def test_back_off(self):
        """Sessions that end without a word while data is in flight are not begun with data again at once."""
        bench = self.bench
        bench.start("A")
        bench.say()
        pauses = []
        for _ in range(9):
            bench.uplink.down()
            bench.uplink.up()
            began = bench.clock.seconds()
            bench.uplink.acknowledge_announcements()
            while not bench.uplink.waiting:
                bench.clock.advance(0.5)
                bench.uplink.acknowledge_announcements()
            pauses.append(bench.clock.seconds() - began)
        self.assertEqual(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60])

    def test_closes_that_say_why(self):
        """A DISCONNECT about other things than the payload makes nobody suspect; one about limits makes us pause."""
        for code, pause in ((0x8E, 0), (0x98, 0), (0x97, 1), (0x96, 1)):
            bench = Bench()
            bench.start("A")
            bench.say(3)
            for _ in range(5 * STRIKES):
                bench.forwarder.link_down(code)
                bench.uplink.connected = False
                bench.uplink.waiting.clear()
                bench.uplink.up()
                bench.clock.advance(100)
                bench.uplink.acknowledge_announcements()
            self.assertFalse(bench.forwarder._examination.suspicion.isolates, hex(code))
            self.assertEqual(bench.counters.total("uplink_pushed_back") > 0, bool(pause), hex(code))
            bench.finish()
            self.assertEqual(sorted(bench.spool.deleted), [1, 2, 3])

    def test_told_before_the_close(self):
        """ThingsBoard up to 4.2 says for whom a limit is reached, then closes: we pause, and blame nobody."""
        bench = self.bench
        bench.start("A", limits=SessionLimits(telemetry=(RateLimit(50, 100.0),)))
        bench.say(10)
        for _ in range(5):
            bench.forwarder.message_received(topics.DISCONNECT, b'{"device":"A","reason":150}')
            bench.uplink.down()
            bench.uplink.up()
            self.assertEqual(bench.uplink.waiting, [])
            while not bench.numbers(bench.uplink.session):
                bench.clock.advance(1)
                bench.uplink.acknowledge_announcements()
        self.assertFalse(bench.forwarder._examination.suspicion.isolates)
        self.assertEqual(bench.received[0][0], topics.DISCONNECT)

    def test_dropped_while_examined(self):
        """A row under examination that the drop policy takes away holds up nothing."""
        bench = self.bench
        bench.start("A", "B")
        bench.say(3, ("A", "B"))
        for _ in range(100):
            self.live(lambda sent: sent.topic == topics.TELEMETRY and number_of(sent) == 1, 1.0)
            if bench.forwarder._examination.case is not None:
                break
        self.assertEqual(bench.spool.deleted, [])
        bench.spool.drop_oldest(1)
        bench.finish()
        self.assertEqual(bench.spool.dead, [])
        self.assertEqual(bench.spool.stored, {})

    def test_row_of_the_gateway_itself(self):
        """Data of the gateway itself speaks of no device; without any device there is no probe, and it is found."""
        bench = self.bench
        bench.start()
        drafts = [Draft(topics.DEVICE_TELEMETRY, b'{"n":%d}' % number, (), 0, 1) for number in (1, 2)]
        bench.append(*drafts)
        self.live(lambda sent: sent.payload == b'{"n":1}')
        self.assertEqual([(row.payload, reason) for row, reason in bench.spool.dead], [(b'{"n":1}', "closes_session")])
        self.assertEqual(bench.spool.stored, {})


class BacklogTests(Base):
    """Stored data and fresh data."""

    def test_share(self):
        """What was stored before the session takes its share of the limits; fresh data may take all of them."""
        bench = self.bench
        bench.forwarder = bench.build(backlog_share=0.5)
        bench.registry.seen(Device("A"))
        bench.forwarder.start()
        bench.say(100)
        bench.uplink.up(SessionLimits(telemetry=(RateLimit(10, 1.0),)))
        for _ in range(50):
            bench.uplink.acknowledge_all()
            bench.clock.advance(0.1)
        drained = len(bench.numbers())
        self.assertTrue(20 <= drained <= 4 + 20 + 1, drained)
        for _ in range(500):
            bench.uplink.acknowledge_all()
            bench.clock.advance(0.1)
        self.assertTrue(bench.forwarder.idle)
        bench.say(100)
        for _ in range(50):
            bench.uplink.acknowledge_all()
            bench.clock.advance(0.1)
        fresh = len(bench.numbers()) - 100
        self.assertTrue(40 <= fresh <= 8 + 40 + 1, fresh)

    def test_oldest_first(self):
        """Fresh data waits its turn behind the backlog: a device's order is never broken."""
        bench = self.bench
        bench.forwarder = bench.build(backlog_share=0.1)
        bench.registry.seen(Device("A"))
        bench.forwarder.start()
        bench.say(20)
        bench.uplink.up(SessionLimits(telemetry=(RateLimit(10, 1.0),)))
        bench.uplink.acknowledge_announcements()
        bench.say(20)
        bench.finish()
        self.assertEqual(bench.numbers(), list(range(1, 41)))

    def test_commands_pass(self):
        """Commands are counted when they come, and devices are announced, whatever waits to be delivered."""
        bench = self.bench
        bench.forwarder = bench.build(backlog_share=0.5)
        bench.registry.seen(Device("A"))
        bench.forwarder.start()
        bench.say(100)
        bench.uplink.up(SessionLimits(messages=(RateLimit(10, 10.0),), telemetry=(RateLimit(10, 1.0),)))
        bench.uplink.acknowledge_announcements()
        for _ in range(4):
            bench.forwarder.message_received(topics.RPC, b"{}")
        bench.registry.seen(Device("B"))
        bench.append(telemetry(1000, ("B",)))
        bench.uplink.acknowledge_all()
        bench.clock.advance(0.3)
        self.assertGreater(len(bench.numbers()), 4)
        bench.finish()
        self.assertEqual(len(bench.numbers()), 101)
