"""What the spool promises to the gateway, with time and the worker's steps decided by the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogLevel, globalLogPublisher
from twisted.trial import unittest
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tbgw.errors import StoreError, StoreFull
from tbgw.interfaces import ISpool, IStatusSource
from tbgw.model import Draft, Row
from tbgw.spool import service
from tbgw.spool.contract import Applied, Change, Fetched, Opened, Tended, Totals, row_bytes
from tbgw.spool.memory import MemoryStore
from tbgw.spool.runners import CallDirectly
from tbgw.spool.service import Spool
from tests.spool.fakes import NOW_MS, Listener, StepRunner, draft, events, row

AMPLE = 1 << 30
SIZE = row_bytes(draft())


class ScriptedStore(MemoryStore):
    """Memory that remembers its changes, and fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[Change] = []
        self.error: Exception | None = None
        self.found: Fetched | None = None
        self.closed_with: list[int | None] = []
        self.running_ms = 0
        self.draining = False

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def open(self) -> Opened:
        self.check()
        return super().open()._replace(running_ms=self.running_ms, draining=self.draining)

    def tend(self, running_ms: int, expire_before_ms: int | None, now_ms: int) -> Tended:
        self.check()
        self.running_ms = running_ms
        return super().tend(running_ms, expire_before_ms, now_ms)._replace(draining=self.draining)

    def apply(self, change: Change) -> Applied:
        self.check()
        self.changes.append(change)
        return super().apply(change)._replace(draining=self.draining)

    def fetch(self, after_seq: int, max_bytes: int, now_ms: int) -> Fetched:
        self.check()
        return self.found or super().fetch(after_seq, max_bytes, now_ms)

    def close(self, last_seq: int | None) -> None:
        self.closed_with.append(last_seq)
        super().close(last_seq)

    @property
    def seqs(self) -> list[int]:
        return [found.seq for found in super().fetch(0, AMPLE, 0).rows]


class SpoolCase(unittest.TestCase):
    """An open spool whose worker does nothing until it is stepped."""

    def setUp(self):
        self.clock = Clock()
        self.runner = StepRunner()
        self.store = ScriptedStore()
        self.events, self.counters = events()
        self.listener = Listener()
        self.fired: list[object] = []

    def make(self, **options: Any) -> Spool:
        options.setdefault("max_bytes", AMPLE)
        spool = Spool(
            lambda: self.store,
            clock=self.clock,
            runner=self.runner,
            wall_ms=lambda: NOW_MS,
            events=self.events,
            **options,
        )
        spool.set_listeners(self.listener, self.listener, self.listener.failed)
        return spool

    def opened(self, **options: Any) -> Spool:
        spool = self.make(**options)
        opening = spool.open()
        self.runner.step()
        self.successResultOf(opening)
        return spool

    def append(self, spool: Spool, name: object, *drafts: Draft) -> list[Row]:
        """Append; `name`, or (name, kind of error), is noted when the answer comes."""
        rows, stored = spool.append(drafts or [draft()])
        stored.addCallbacks(
            lambda result: self.fired.append(name), lambda failure: self.fired.append((name, failure.type))
        )
        return rows

    def tearDown(self):
        self.clock.advance(1)  # the timer of lazy deletes, the only one there is
        assert self.clock.getDelayedCalls() == []


class OpenCloseTests(SpoolCase):
    """From the first moment to the last."""

    def test_interfaces(self):
        """It provides what it says."""
        spool = self.make()
        assert verifyObject(ISpool, spool)
        assert verifyObject(IStatusSource, spool)

    def test_goes_on_where_the_store_was(self):
        """Sums and numbers of an earlier run are there once it is open, and the opening is answered then."""
        self.store.apply(Change(rows=[(row(7, messages=3), SIZE)], last_seq=9))
        spool = self.make()
        opening = spool.open()
        self.assertNoResult(opening)
        self.runner.step()
        self.successResultOf(opening)
        assert (spool.last_seq, spool.stored_rows, spool.stored_messages) == (9, 1, 3)
        assert spool.stored_bytes == SIZE
        assert [made.seq for made in self.append(spool, "a")] == [10]
        self.runner.drain()

    def test_open_fails(self):
        """The error of the store is the answer; the worker is stopped and a close has nothing to do."""
        self.store.error = StoreError("no such disk")
        spool = self.make()
        opening = spool.open()
        closing = spool.close()
        self.runner.step()
        assert self.failureResultOf(opening, StoreError).value is self.store.error
        self.successResultOf(closing)
        assert self.runner.stopped
        self.successResultOf(spool.close())

    def test_factory_fails(self):
        """An error that is not the store's own is told as a store error too, and logged with its traceback."""

        def factory() -> MemoryStore:
            raise ZeroDivisionError("mistake")

        spool = Spool(factory, clock=self.clock, runner=self.runner, wall_ms=lambda: 0, events=self.events, max_bytes=1)
        opening = spool.open()
        self.runner.step()
        assert "mistake" in str(self.failureResultOf(opening, StoreError).value)
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    def test_nothing_before_open_or_after_close(self):
        """Calls outside of its life are refused, not lost in silence."""
        spool = self.make()
        closed = self.opened()
        closed.close()
        self.runner.drain()
        for one in (spool, closed):
            rows, stored = one.append([draft(messages=4)])
            assert rows == []
            self.failureResultOf(stored, StoreError)
            self.failureResultOf(one.fetch(0, 1), StoreError)
            self.failureResultOf(one.run_in_store_thread(lambda: None), StoreError)
            one.delete([1])
            one.bury(row(1), "r")
        assert self.counters.get("messages_not_stored") == 8
        assert self.runner.jobs == type(self.runner.jobs)()
        self.failureResultOf(closed.open(), StoreError)

    def test_close_finishes_everything(self):
        """What was queued is done in order, deletes included, and the last number is handed to the store."""
        spool = self.opened()
        self.append(spool, "a")
        self.append(spool, "b", draft(), draft())
        found = spool.fetch(0, AMPLE)
        self.runner.step()
        spool.delete([1])
        spool.bury(row(3), "refused")
        closing, again = spool.close(), spool.close()
        self.runner.drain()
        assert self.fired == ["a", "b"]
        assert [one.seq for one in self.successResultOf(found)] == [2, 3]
        self.successResultOf(closing)
        self.successResultOf(again)
        assert self.store.seqs == [2]
        assert self.store.closed_with == [3]
        assert self.runner.stopped

    def test_close_while_opening(self):
        """A close during the opening waits for it."""
        spool = self.make()
        opening, closing = spool.open(), spool.close()
        self.runner.step()
        self.successResultOf(opening)
        self.runner.step()
        self.successResultOf(closing)

    def test_close_stops_the_timer(self):
        """Deletes that wait for company are flushed by the close, whose timer goes with it."""
        spool = self.opened()
        self.append(spool, "a")
        self.runner.drain()
        spool.delete([1])
        assert len(self.clock.getDelayedCalls()) == 1
        spool.close()
        self.runner.drain()
        assert self.store.seqs == []

    def test_status(self):
        """The status is a picture of the moment."""
        spool = self.opened(max_bytes=1000, max_messages=5)
        self.append(spool, "a", draft(messages=2))
        self.runner.drain()
        status = spool.status()
        assert status["state"] == "open"
        assert (status["rows"], status["messages"], status["bytes"]) == (1, 2, SIZE)
        assert (status["max_bytes"], status["max_messages"], status["last_seq"]) == (1000, 5, 1)


class GroupCommitTests(SpoolCase):
    """What becomes one transaction."""

    def test_at_once_when_idle(self):
        """A lone append is handed over in the call itself and answered when its transaction is done."""
        spool = self.opened()
        rows = self.append(spool, "a", draft(b"1"), draft(b"2"))
        assert rows == [row(1, b"1"), row(2, b"2")]
        assert len(self.runner.jobs) == 1
        assert self.fired == []
        assert (spool.pending_bytes, spool.stored_rows, spool.last_seq) == (2 * SIZE, 2, 2)
        self.runner.step()
        assert self.fired == ["a"]
        assert (spool.pending_bytes, spool.stored_bytes) == (0, 2 * SIZE)
        (change,) = self.store.changes
        assert (change.last_seq, change.now_ms, change.max_bytes) == (2, NOW_MS, None)

    def test_together_when_busy(self):
        """Appends and deletes that come while the worker is busy go in one transaction, and are answered in order."""
        spool = self.opened()
        self.append(spool, "a")
        for name in "bcd":
            self.append(spool, name)
        spool.delete([1])
        self.runner.step()
        assert self.fired == ["a"]
        self.runner.step()
        assert self.fired == ["a", "b", "c", "d"]
        assert [list(change.deletes) for change in self.store.changes] == [[], [1]]
        assert [[one.seq for one, _ in change.rows] for change in self.store.changes] == [[1], [2, 3, 4]]
        assert self.runner.jobs == type(self.runner.jobs)()

    def test_bounded_in_bytes(self):
        """A transaction ends at its limit of bytes, between two appends."""
        self.patch(service, "GROUP_BYTES", 5 * SIZE)
        spool = self.opened()
        self.append(spool, 0)
        for name in range(1, 8):
            self.append(spool, name, draft(), draft())
        assert self.runner.drain() == 4
        assert [len(change.rows) for change in self.store.changes] == [1, 6, 6, 2]
        assert self.fired == list(range(8))

    def test_bounded_in_operations(self):
        """... and at its limit of operations, for rows, deletes and burials."""
        self.patch(service, "GROUP_OPERATIONS", 3)
        spool = self.opened()
        for name in range(8):
            self.append(spool, name)
        self.runner.drain()
        assert [len(change.rows) for change in self.store.changes] == [1, 3, 3, 1]
        self.store.changes.clear()
        blocked = spool.run_in_store_thread(lambda: None)
        spool.delete(range(1, 8))
        for _ in range(4):
            spool.bury(row(8), "refused")
        self.clock.advance(1)
        self.runner.drain()
        self.successResultOf(blocked)
        assert [(len(change.deletes), len(change.buried)) for change in self.store.changes] == [(3, 3), (3, 1), (1, 0)]

    def test_empty_append(self):
        """No drafts: answered in its turn, without the disk."""
        spool = self.opened()
        self.append(spool, "a")
        rows, stored = spool.append([])
        assert rows == []
        self.assertNoResult(stored)
        self.runner.step()
        self.successResultOf(stored)
        assert len(self.store.changes) == 1
        self.successResultOf(spool.append([])[1])

    def test_append_from_a_callback(self):
        """Whoever is answered may append at once."""
        spool = self.opened()
        _, stored = spool.append([draft()])
        stored.addCallback(lambda _: self.append(spool, "inner"))
        self.runner.drain()
        assert self.fired == ["inner"]
        assert self.store.seqs == [1, 2]

    def test_append_from_a_callback_keeps_the_order(self):
        """What is appended in an answer is answered after those that were there before, also without a write."""
        spool = self.opened()
        self.append(spool, "a")
        _, stored = spool.append([draft()])
        stored.addCallback(lambda _: spool.append([])[1].addCallback(lambda _: self.fired.append("inner")))
        self.append(spool, "c")
        spool.delete([2, 3])
        self.runner.step()
        assert self.fired == ["a", "c", "inner"]

    def test_without_a_thread(self):
        """With a store that never blocks, everything is answered within the call, also in the middle of an answer."""
        spool = Spool(
            MemoryStore,
            clock=self.clock,
            runner=CallDirectly(),
            wall_ms=lambda: NOW_MS,
            events=self.events,
            max_bytes=AMPLE,
        )
        self.successResultOf(spool.open())
        answers: list[int] = []

        def again(count: int) -> Callable[[None], None]:
            def stored(_: None) -> None:
                answers.append(count)
                if count < 100:
                    spool.append([draft()])[1].addCallback(again(count + 1))

            return stored

        spool.append([draft()])[1].addCallback(again(1))
        assert len(answers) == 100
        assert len(self.successResultOf(spool.fetch(0, AMPLE))) == 100
        self.successResultOf(spool.close())


class DeleteTests(SpoolCase):
    """Deletes are lazy, but not lost, and never too early."""

    def stored(self, count: int) -> Spool:
        spool = self.opened()
        self.append(spool, "stored", *(draft() for _ in range(count)))
        self.runner.drain()
        self.store.changes.clear()
        self.fired.clear()
        return spool

    def test_alone_after_a_delay(self):
        """Deletes that find no company go together after the delay, and not before."""
        spool = self.stored(5)
        spool.delete([1])
        self.clock.advance(0.04)
        spool.delete([2, 3])
        assert not self.runner.jobs
        assert spool.stored_rows == 5
        self.clock.advance(0.02)
        self.runner.step()
        assert [list(change.deletes) for change in self.store.changes] == [[1, 2, 3]]
        assert (spool.stored_rows, spool.stored_messages, spool.stored_bytes) == (2, 2, 2 * SIZE)
        spool.delete([4])
        self.clock.advance(0.06)
        self.runner.step()
        assert self.store.seqs == [5]

    def test_ride_with_the_next_append(self):
        """An append takes the waiting deletes along; the timer then has nothing to do."""
        spool = self.stored(2)
        spool.delete([1])
        self.append(spool, "a")
        self.runner.step()
        assert [(list(change.deletes), len(change.rows)) for change in self.store.changes] == [([1], 1)]
        self.clock.advance(1)
        assert not self.runner.jobs

    def test_at_once_when_many(self):
        """A thousand deletes wait no longer."""
        spool = self.stored(3)
        spool.delete(range(10, 10 + service.DELETES_AT_ONCE - 2))
        spool.delete([1])
        assert not self.runner.jobs
        spool.delete([2])
        self.runner.step()
        assert self.store.seqs == [3]
        self.clock.advance(1)

    def test_timer_while_busy(self):
        """Deletes whose delay ended while the worker was busy go as soon as it is free."""
        spool = self.stored(2)
        self.append(spool, "a")
        spool.delete([1])
        self.clock.advance(1)
        self.runner.step()
        assert self.runner.jobs
        self.runner.step()
        assert self.store.seqs == [2, 3]

    def test_leftovers_of_a_full_group(self):
        """Deletes that did not fit into a transaction go in the next, without anything else to wake them."""
        self.patch(service, "GROUP_OPERATIONS", 2)
        spool = self.stored(5)
        spool.delete([1, 2, 3, 4, 5])
        self.clock.advance(1)
        assert self.runner.drain() == 3
        assert self.store.seqs == []

    def test_of_a_row_that_waits(self):
        """A row delivered before it was handed over never touches the disk, and is answered in its turn."""
        spool = self.opened()
        self.append(spool, "a")
        self.append(spool, "b")
        self.append(spool, "c", draft(), draft(), draft())
        spool.delete([2, 4])
        assert (spool.pending_bytes, spool.stored_rows, spool.stored_messages) == (3 * SIZE, 3, 3)
        assert self.fired == []
        self.runner.step()
        assert self.fired == ["a"]
        self.runner.step()
        assert self.fired == ["a", "b", "c"]
        assert [[one.seq for one, _ in change.rows] for change in self.store.changes] == [[1], [3, 5]]
        assert all(not change.deletes for change in self.store.changes)
        assert (spool.pending_bytes, spool.stored_rows) == (0, 3)
        assert not self.runner.jobs

    def test_of_all_rows_that_wait(self):
        """When nothing is left to write, no transaction is made; the answers come with the end of the one before."""
        spool = self.opened()
        self.append(spool, "a")
        self.append(spool, "b")
        self.append(spool, "c")
        spool.delete([2, 3])
        self.runner.step()
        assert self.fired == ["a", "b", "c"]
        assert len(self.store.changes) == 1
        assert not self.runner.jobs
        assert (spool.pending_bytes, spool.last_seq) == (0, 3)
        spool.close()
        self.runner.drain()
        assert self.store.closed_with == [3]

    def test_of_a_row_under_way(self):
        """A row deleted while its own transaction runs is deleted by the next one."""
        spool = self.opened()
        self.append(spool, "a")
        spool.delete([1])
        self.runner.step()
        assert self.store.seqs == [1]
        assert self.fired == ["a"]
        self.clock.advance(1)
        self.runner.step()
        assert self.store.seqs == []
        assert (spool.stored_rows, spool.stored_bytes) == (0, 0)

    def test_unknown(self):
        """Unknown numbers, and numbers given out later, change nothing."""
        spool = self.stored(1)
        spool.delete([99, 2])
        self.append(spool, "a")
        self.runner.drain()
        assert self.store.seqs == [1, 2]
        assert spool.stored_rows == 2
        self.clock.advance(1)

    def test_memory_is_flat(self):
        """Nothing in the spool itself grows with the number of rows that are stored."""
        spool = self.opened()
        for _ in range(50):
            self.append(spool, "a", *(draft() for _ in range(100)))
            self.runner.drain()
        assert spool.stored_rows == 5000
        held = [value for value in vars(spool).values() if hasattr(value, "__len__") and not isinstance(value, str)]
        assert max(map(len, held)) < 10


class OrderTests(SpoolCase):
    """Every interleaving that matters."""

    def test_fetch_sees_what_was_appended(self):
        """A fetch sees every append and no delete that came before it, whatever was under way."""
        spool = self.opened()
        self.append(spool, "a")
        self.append(spool, "b")
        self.append(spool, "c")
        spool.delete([1, 2])
        found = spool.fetch(0, AMPLE)
        later = self.append(spool, "d")
        self.runner.drain()
        assert [one.seq for one in self.successResultOf(found)] == [3]
        assert later[0].seq == 4
        assert self.fired == ["a", "b", "c", "d"]
        self.clock.advance(1)

    def test_fetch_takes_lazy_deletes_along(self):
        """Deletes that wait for company are done before a fetch looks."""
        spool = self.opened()
        self.append(spool, "a", draft(), draft())
        self.runner.drain()
        spool.delete([1])
        found = spool.fetch(0, AMPLE)
        self.runner.drain()
        assert [one.seq for one in self.successResultOf(found)] == [2]
        self.clock.advance(1)

    def test_fetch_is_bounded(self):
        """Its arguments reach the store."""
        spool = self.opened()
        self.append(spool, "a", *(draft() for _ in range(9)))
        found = spool.fetch(3, 2 * SIZE)
        self.runner.drain()
        assert [one.seq for one in self.successResultOf(found)] == [4, 5]

    def test_job_stands_between(self):
        """A job runs after everything before it is committed, and before anything after it."""
        spool = self.opened()
        self.append(spool, "a")
        self.append(spool, "b")
        spool.delete([1])
        seen: list[list[int]] = []
        done = spool.run_in_store_thread(lambda: seen.append(self.store.seqs))
        self.append(spool, "c")
        self.runner.drain()
        assert seen == [[2]]
        assert self.successResultOf(done) is None
        assert self.store.seqs == [2, 3]
        self.clock.advance(1)

    def test_job_fails_alone(self):
        """What a job raises is its answer, and nobody else's trouble."""
        spool = self.opened()
        done = spool.run_in_store_thread(lambda: open("/nonexistent/file").close())
        self.append(spool, "a")
        self.runner.drain()
        self.failureResultOf(done, FileNotFoundError)
        assert self.fired == ["a"]
        assert self.listener.errors == []

    def test_bury(self):
        """A row is buried after its own append, in the same transaction at the earliest; it is counted."""
        spool = self.opened()
        self.append(spool, "a")
        (waiting,) = self.append(spool, "b", draft(messages=4))
        spool.bury(waiting, "too_large")
        spool.bury(row(1, messages=2), "refused")
        self.runner.drain()
        assert self.store.seqs == []
        assert spool.stored_rows == 0
        assert spool.status()["dead_rows"] == 2
        assert self.counters.get("messages_buried", "too_large") == 4
        assert self.counters.get("messages_buried", "refused") == 2
        assert self.fired == ["a", "b"]

    def test_listener_that_raises(self):
        """A mistake in a listener is logged by whoever calls, and the queue goes on."""
        spool = self.opened()
        _, stored = spool.append([draft()])
        self.append(spool, "b")
        self.patch(spool, "_weigh", lambda: 1 / 0)
        self.assertRaises(ZeroDivisionError, self.runner.step)
        assert self.runner.jobs
        self.successResultOf(stored)
        self.assertRaises(ZeroDivisionError, self.runner.step)
        assert self.fired == ["b"]


class CapTests(SpoolCase):
    """What happens when the store is full."""

    def test_newest_is_refused(self):
        """Drafts that do not fit are refused one by one, after the others are stored, and counted with messages."""
        spool = self.opened(max_bytes=3 * SIZE)
        self.append(spool, "a")
        rows = self.append(spool, "b", draft(messages=2), draft(b"x" * 150, messages=5), draft(), draft(messages=7))
        assert [made.seq for made in rows] == [2, 3]
        assert self.counters.get("messages_dropped", "full_newest") == 12
        assert self.fired == []
        self.runner.drain()
        assert self.fired == ["a", ("b", StoreFull)]
        assert self.store.seqs == [1, 2, 3]
        assert self.listener.told == []

    def test_all_refused(self):
        """When everything of an append is refused, its failure waits for its turn and touches no disk."""
        spool = self.opened(max_bytes=SIZE)
        self.append(spool, "a")
        assert self.append(spool, "b") == []
        assert self.fired == []
        self.runner.drain()
        assert self.fired == ["a", ("b", StoreFull)]
        assert len(self.store.changes) == 1
        assert spool.last_seq == 1

    def test_messages(self):
        """The cap in messages holds as well."""
        spool = self.opened(max_messages=5)
        rows = self.append(spool, "a", draft(messages=3), draft(messages=3), draft(messages=2))
        assert [made.messages for made in rows] == [3, 2]
        self.runner.drain()
        assert self.counters.get("messages_dropped", "full_newest") == 3

    def test_too_large(self):
        """What could never fit is refused under any policy, and nothing is dropped for it."""
        for policy in ("newest", "oldest", "pause"):
            self.setUp()
            spool = self.opened(max_bytes=4 * SIZE, max_messages=9, drop_policy=policy)
            rows = self.append(spool, "a", draft(), draft(b"x" * 1000), draft(messages=10))
            assert len(rows) == 1
            self.runner.drain()
            assert self.counters.get("messages_dropped", "too_large") == 11
            assert self.store.seqs == [1]

    def test_deletes_make_room_at_once(self):
        """When something is refused, waiting deletes do not wait any longer, and then there is room."""
        spool = self.opened(max_bytes=SIZE)
        self.append(spool, "a")
        self.runner.drain()
        spool.delete([1])
        assert self.append(spool, "b") == []
        self.runner.drain()
        assert len(self.append(spool, "c")) == 1
        self.runner.drain()
        assert self.fired == ["a", ("b", StoreFull), "c"]
        self.clock.advance(1)

    def test_oldest_is_dropped(self):
        """New rows push out the oldest, in the same transaction; the listener and the counter are told."""
        spool = self.opened(max_bytes=3 * SIZE, drop_policy="oldest")
        self.append(spool, "a", draft(messages=4), draft(messages=5), draft())
        self.append(spool, "b", draft(), draft())
        self.runner.step()
        assert self.listener.told == []
        self.runner.step()
        assert self.fired == ["a", "b"]
        assert self.store.seqs == [3, 4, 5]
        assert self.listener.told == [2]
        assert self.counters.get("messages_dropped", "full_oldest") == 9
        assert (spool.stored_rows, spool.stored_bytes) == (3, 3 * SIZE)

    def test_oldest_by_messages(self):
        """The same for the cap in messages."""
        spool = self.opened(max_messages=3, drop_policy="oldest")
        for name in range(5):
            self.append(spool, name)
            self.runner.drain()
        assert self.store.seqs == [3, 4, 5]
        assert self.listener.told == [1, 2]

    def test_pause(self):
        """Sources stop above 95 % and go on below 90 %; what comes beyond the cap in between is refused."""
        spool = self.opened(max_bytes=100 * SIZE, drop_policy="pause")
        self.append(spool, "a", *(draft() for _ in range(95)))
        self.runner.drain()
        assert self.listener.told == []
        self.append(spool, "b")
        assert self.listener.told == ["behind"]
        self.append(spool, "c", *(draft() for _ in range(5)))
        self.runner.drain()
        assert self.fired == ["a", "b", ("c", StoreFull)]
        assert self.counters.get("messages_dropped", "full_newest") == 1
        spool.delete(range(1, 11))
        self.clock.advance(1)
        self.runner.drain()
        assert spool.stored_rows == 90
        assert self.listener.told == ["behind"]
        spool.delete([11])
        self.clock.advance(1)
        self.runner.drain()
        assert self.listener.told == ["behind", "ready"]
        assert self.counters.get("spool_behind") == 1

    def test_pause_by_messages(self):
        """The cap in messages pauses as well."""
        spool = self.opened(max_messages=10, drop_policy="pause")
        self.append(spool, "a", draft(messages=10))
        assert self.listener.told == ["behind"]
        self.runner.drain()

    def test_nearly_full_from_the_start(self):
        """A store that an earlier run left nearly full pauses the sources at once, also those that come late."""
        self.store.apply(Change(rows=[(row(1), SIZE)], last_seq=1))
        spool = self.opened(max_bytes=SIZE, drop_policy="pause")
        assert self.listener.told == ["behind"]
        late = Listener()
        spool.set_listeners(late, late, late.failed)
        assert late.told == ["behind"]


class PendingTests(SpoolCase):
    """Pressure from a slow disk."""

    def test_pressure(self):
        """Too much that waits for its commit stops the sources; half of it gone lets them go on. Any policy."""
        for policy in ("newest", "oldest", "pause"):
            self.setUp()
            spool = self.opened(pending_cap_bytes=4 * SIZE, drop_policy=policy)
            self.append(spool, "a", draft(), draft(), draft())
            self.append(spool, "b")
            assert self.listener.told == []
            self.append(spool, "c")
            assert self.listener.told == ["behind"]
            self.runner.step()
            assert spool.pending_bytes == 2 * SIZE
            assert self.listener.told == ["behind"]
            self.runner.step()
            assert self.listener.told == ["behind", "ready"]


class Jumping:
    """A wall clock that is set."""

    now_ms = NOW_MS

    def read(self) -> int:
        return self.now_ms


class AgeTests(SpoolCase):
    """Time to live, and tending."""

    def aged(self, **options: Any) -> Spool:
        spool = self.opened(tend_seconds=60.0, ttl_seconds=86_400.0, ttl_check_seconds=3600.0, **options)
        self.runner.drain()
        return spool

    def wait(self, hours: float) -> None:
        """Let time pass, tending included."""
        for _ in range(int(hours * 60)):
            self.clock.advance(60)
            self.runner.drain()

    def end(self, spool: Spool) -> None:
        spool.close()
        self.runner.drain()

    def test_expires(self):
        """A row goes when it is older than its time to live, is counted by its reason, and the forwarder is told."""
        spool = self.aged()
        self.append(spool, "a", draft(messages=3))
        self.runner.drain()
        self.wait(23)
        self.append(spool, "b")
        self.runner.drain()
        assert spool.status()["oldest_age_seconds"] == 23 * 3600
        self.wait(2.1)
        assert self.store.seqs == [2]
        assert self.counters.get("messages_dropped", "expired") == 3
        assert spool.status()["dropped"] == {"expired": 3}
        assert self.listener.told == [1]
        self.end(spool)

    def test_a_clock_that_is_set_expires_nothing(self):
        """The wall clock goes a year forward and a year back: nothing expires early, or never."""
        year_ms = 365 * 86_400_000
        for jump_ms in (year_ms, -year_ms):
            self.setUp()
            wall = Jumping()
            spool = Spool(
                lambda: self.store,
                clock=self.clock,
                runner=self.runner,
                wall_ms=wall.read,
                events=self.events,
                max_bytes=AMPLE,
                tend_seconds=60.0,
                ttl_seconds=86_400.0,
            )
            spool.open()
            self.runner.drain()
            self.append(spool, "a")
            self.runner.drain()
            wall.now_ms += jump_ms
            self.wait(20)
            assert self.store.seqs == [1]
            self.wait(6)
            assert self.store.seqs == []
            self.end(spool)

    def test_age_goes_on_after_a_restart(self):
        """Running time is kept with the rows: two runs of fourteen hours are more than a day."""
        spool = self.aged()
        self.append(spool, "a")
        self.runner.drain()
        self.wait(14)
        self.end(spool)
        running_ms = self.store.running_ms
        assert running_ms >= 14 * 3_600_000 - 60_000
        self.clock.advance(10**6)  # the box was off
        self.runner = StepRunner()
        again = self.aged()
        self.wait(9)
        assert self.store.seqs == [1]
        self.wait(3)
        assert self.store.seqs == []
        self.end(again)

    def test_no_room_on_the_disk(self):
        """While the store drains, nothing is taken, the sources pause, deletes work; then all is as before."""
        self.store.draining = True
        spool = self.opened(tend_seconds=60.0)
        self.runner.drain()
        assert self.listener.told == ["behind"]
        assert self.append(spool, "a", draft(messages=3)) == []
        spool.bury(row(7), "refused")
        self.runner.drain()
        assert self.fired == [("a", StoreFull)]
        assert self.counters.get("messages_dropped", "disk_full") == 3
        assert self.counters.get("store_drains") == 1
        assert spool.status()["dead_letters"] == {"refused": 1}
        assert self.store.changes[-1].rows == []
        self.store.draining = False
        self.clock.advance(60)
        self.runner.drain()
        assert self.listener.told == ["behind", "ready"]
        self.append(spool, "b")
        self.runner.drain()
        assert self.fired[1:] == ["b"]
        assert self.store.seqs == [1]
        self.end(spool)

    def test_without_ttl(self):
        """Nothing expires by itself."""
        spool = self.opened(tend_seconds=60.0)
        self.append(spool, "a")
        self.runner.drain()
        self.wait(30 * 24)
        assert self.store.seqs == [1]
        self.end(spool)

    def test_more_to_do_is_done_soon(self):
        """When one step is not enough, the next follows without waiting for its turn."""
        spool = self.opened(tend_seconds=60.0)
        self.runner.drain()
        steps: list[int] = []

        def tend(running_ms: int, expire_before_ms: int | None, now_ms: int) -> Tended:
            steps.append(running_ms)
            return Tended(Totals(), more=len(steps) < 3)

        self.patch(self.store, "tend", tend)
        self.clock.advance(60)
        for _ in range(5):
            self.runner.drain()
            self.clock.advance(service.TEND_STEP_SECONDS)
        assert len(steps) == 3
        assert steps[2] - steps[0] in range(99, 102)
        self.end(spool)

    def test_seen_in_the_status(self):
        """Fill level, drain rate, drops and dead letters by reason."""
        spool = self.aged(max_bytes=4 * SIZE)
        self.append(spool, "a", draft(messages=10), draft(messages=20), draft())
        self.runner.drain()
        assert spool.status()["fill"] == 0.75
        spool.status()
        spool.delete([1, 2])
        spool.bury(row(3), "refused")
        self.append(spool, "b", *(draft() for _ in range(5)))
        self.runner.drain()
        self.clock.advance(10)
        status = spool.status()
        assert (status["drained"], status["drain_per_second"]) == (30, 3.0)
        assert status["dead_letters"] == {"refused": 1}
        assert status["dropped"] == {"full_newest": 4}
        self.append(spool, "c")
        self.runner.drain()
        self.clock.advance(60)
        self.runner.drain()
        assert spool.status()["oldest_age_seconds"] == 70.0  # row 4, from the append before
        self.end(spool)


class FailureTests(SpoolCase):
    """The store breaks."""

    def setUp(self):
        super().setUp()
        self.error = StoreError("cannot write the store: disk full")
        self.lines: list[str] = []

        @implementer(ILogObserver)
        def observe(event: dict[str, Any]) -> None:
            if event.get("log_level") is LogLevel.critical:
                self.lines.append(event.get("line", ""))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def test_on_write(self):
        """Everything that waits fails with the error, it is told once, and nothing is taken any more."""
        spool = self.opened()
        self.append(spool, "kept")
        self.runner.drain()
        self.append(spool, "under way", draft(messages=2))
        self.append(spool, "waits", draft(messages=3), draft(messages=4))
        found = spool.fetch(0, AMPLE)
        job = spool.run_in_store_thread(lambda: self.fail("must not run"))
        spool.delete([1])
        self.append(spool, "waits too")
        self.store.error = self.error
        self.runner.step()
        assert self.fired == ["kept", *((name, StoreError) for name in ("under way", "waits", "waits too"))]
        assert self.failureResultOf(found).value is self.error
        assert self.failureResultOf(job).value is self.error
        assert self.listener.errors == [self.error]
        assert self.lines == ["The store broke, nothing is accepted any more: cannot write the store: disk full"]
        assert self.counters.get("messages_not_stored") == 10
        assert not self.runner.jobs
        rows, stored = spool.append([draft()])
        assert rows == []
        assert self.failureResultOf(stored).value is self.error
        assert self.failureResultOf(spool.fetch(0, 1)).value is self.error
        assert self.listener.errors == [self.error]
        assert (spool.pending_bytes, spool.stored_rows) == (0, 1)
        assert spool.status()["state"] == "broken"
        self.clock.advance(1)
        assert not self.runner.jobs
        self.store.error = None
        assert self.store.seqs == [1]

    def test_on_read(self):
        """An error in a fetch breaks the store just so, once, however many wait."""
        spool = self.opened()
        self.store.error = self.error
        found = [spool.fetch(0, 1), spool.fetch(0, 1)]
        self.append(spool, "a")
        self.runner.step()
        for one in found:
            assert self.failureResultOf(one).value is self.error
        assert self.fired == [("a", StoreError)]
        assert self.listener.errors == [self.error]
        assert not self.runner.jobs

    def test_close_after(self):
        """A broken store is closed, without another write."""
        spool = self.opened()
        self.store.error = self.error
        self.append(spool, "a")
        self.runner.step()
        closing = spool.close()
        self.runner.drain()
        self.successResultOf(closing)
        assert self.store.closed_with == [None]
        assert self.runner.stopped

    def test_while_closing(self):
        """A store that breaks on the last write is closed all the same."""
        spool = self.opened()
        self.append(spool, "a")
        self.append(spool, "b")
        closing = spool.close()
        self.store.error = self.error
        self.runner.step()
        assert self.fired == [("a", StoreError), ("b", StoreError)]
        self.runner.drain()
        self.successResultOf(closing)
        assert self.store.closed_with == [None]

    def test_mistake(self):
        """An error that is not the store's own counts as one, and its traceback is logged."""
        spool = self.opened()
        self.store.error = KeyError("mistake")
        self.append(spool, "a")
        self.runner.step()
        assert self.fired == [("a", StoreError)]
        assert "mistake" in str(self.listener.errors[0])
        assert len(self.flushLoggedErrors(KeyError)) == 1

    def test_late_listener(self):
        """Who begins to listen to a broken store is told."""
        spool = self.opened()
        self.store.error = self.error
        self.append(spool, "a")
        self.runner.step()
        late = Listener()
        spool.set_listeners(late, late, late.failed)
        assert late.errors == [self.error]


class DamageTests(SpoolCase):
    """Rows that cannot be read."""

    def test_told_and_counted(self):
        """What a fetch put aside or skipped is counted; the good rows come."""
        spool = self.opened()
        totals = self.store.open().totals
        self.store.found = Fetched([row(4)], totals, unreadable=[2, 3], damaged=[(5, 9)], dead_dropped=1)
        found = spool.fetch(0, AMPLE)
        self.runner.drain()
        assert self.successResultOf(found) == [row(4)]
        assert self.counters.get("rows_unreadable") == 2
        assert self.counters.get("store_damages") == 1
        assert self.counters.get("dead_letters_dropped") == 1
