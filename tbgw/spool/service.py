"""Durable store-and-forward: takes rows in the reactor's thread, writes them in another, and tells who has to know.

How it works
- Calls become operations in one queue. While the worker is idle, what waits is handed over at once as one transaction
  (`contract.Change`); while it is busy, calls gather and go together in the next. So a lone row waits for one sync, and
  a thousand rows wait for one or two.
- Deletes gather beside the queue. They ride with the next transaction, or go alone after a short delay or when many
  have gathered; a fetch, a job or the close takes them along first. A delete that a crash loses costs a duplicate.
- A row whose delete comes while it still waits in the queue was delivered: it is taken out again and never touches the
  disk. Its append is answered in its turn all the same.

What holds
- The answers to appends come in the order of the appends.
- What is counted here is the store's own sums as of the last finished transaction, plus what waits: nothing grows with
  the number of stored rows.
- A number is never given twice. The one exception leaves no trace: rows that were delivered before they ever reached
  the disk, when a crash follows before the next transaction.
- After the first error of the store nothing more is written: a store that may have lost a write must not take more.
- From time to time, when nothing else is to be done, the store is tended: what is too old is dropped, room that is not
  used is given back, and the age of the oldest row is looked up. Ages are counted in running time, see `contract`.

Considered and dropped: `deferToThreadPool` for each call (51 us each, and no group commit); a size for each stored row
in memory, to count deletes here (100 bytes a row in an outage of a million rows).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any, Final, Literal

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.errors import StoreError, StoreFull
from tbgw.interfaces import IDropListener, IPressureListener, ISpool, IStatusSource
from tbgw.internal_events import Events
from tbgw.model import Draft, Row
from tbgw.spool.contract import Applied, Change, Fetched, Opened, Store, Tended, Totals, row_bytes
from tbgw.spool.entries import Alone, Append, Bury, Group, Nobody
from tbgw.spool.figures import Figures
from tbgw.spool.internal_events import (
    DeadLettersDropped,
    MessagesExpired,
    MessagesNotStored,
    MessagesRefused,
    OldestDropped,
    RowBuried,
    RowsUnreadable,
    SpoolBehind,
    SpoolOpened,
    StoreBroken,
    StoreDamaged,
    StoreDrains,
    StoreHasRoom,
    StoreUpgraded,
)
from tbgw.spool.runners import Runner

DropPolicy = Literal["newest", "oldest", "pause"]

PENDING_CAP_BYTES: Final = 8 * 1024 * 1024
"""Bytes that may wait for their commit before sources are paused: two of the largest transactions."""
GROUP_BYTES: Final = 4 * 1024 * 1024
"""Bytes of rows in one transaction: a slow flash chip (10 MB/s) still answers within half a second."""
GROUP_OPERATIONS: Final = 2_000
"""Rows in one transaction, and deletes in one transaction."""
DELETES_AT_ONCE: Final = 1_000
"""Deletes that do not wait for company any longer."""
DELETE_DELAY_SECONDS: Final = 0.05
"""How long a delete waits for a transaction to ride with."""
TEND_SECONDS: Final = 60.0
"""How often the store is tended: ages are known to a minute."""
TEND_STEP_SECONDS: Final = 0.05
"""Pause between two steps of tending, when there is more to do: each takes some 10 ms of the worker's time."""
TTL_CHECK_SECONDS: Final = 3600.0
"""How often what is too old is looked for."""
PAUSE_ABOVE: Final = 0.95
"""Part of the cap above which the policy `pause` stops the sources; the rest is room for what is under way."""
RESUME_BELOW: Final = 0.90
"""Part of the cap below which they go on."""


class _State(Enum):
    NEW = "not open yet"
    OPENING = "being opened"
    OPEN = "open"
    CLOSING = "being closed"
    CLOSED = "closed"
    BROKEN = "broken"


@implementer(ISpool, IStatusSource)
class Spool:
    """
    See `ISpool`. `max_bytes` and `max_messages` are the cap of what is stored; the store's dead letters come on top,
    with a cap of their own. Calls before `open` fired and after `close` was called are refused, not queued. The store
    is tended every `tend_seconds`, or never without that; rows older than `ttl_seconds` are dropped then, looked for
    every `ttl_check_seconds`.
    """

    _log = Logger()

    def __init__(
        self,
        store_factory: Callable[[], Store],
        *,
        clock: IReactorTime,
        runner: Runner,
        wall_ms: Callable[[], int],
        events: Events,
        max_bytes: int,
        max_messages: int | None = None,
        drop_policy: DropPolicy = "newest",
        pending_cap_bytes: int = PENDING_CAP_BYTES,
        delete_delay_seconds: float = DELETE_DELAY_SECONDS,
        ttl_seconds: float | None = None,
        ttl_check_seconds: float = TTL_CHECK_SECONDS,
        tend_seconds: float | None = None,
    ) -> None:
        self._store_factory = store_factory
        self._clock = clock
        self._runner = runner
        self._wall_ms = wall_ms
        self._events = events
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self._drop_policy = drop_policy
        self._pending_cap_bytes = pending_cap_bytes
        self._delete_delay_seconds = delete_delay_seconds
        self._ttl_seconds = ttl_seconds
        self._ttl_check_seconds = ttl_check_seconds
        self._tend_seconds = tend_seconds

        self._state = _State.NEW
        self._error: StoreError | None = None
        self._store: Store | None = None
        self._pressure: IPressureListener | Nobody = Nobody()
        self._drops: IDropListener | Nobody = Nobody()
        self._failed: Callable[[Exception], None] | None = None
        self._closers: list[Deferred[None]] = []

        self._queue: deque[Append | Bury | Alone] = deque()
        self._waiting: dict[int, Append] = {}
        """Rows in the queue, by number: those that a delete can still take out."""
        self._deletes: list[int] = []
        self._deletes_due = False
        self._delete_timer: IDelayedCall | None = None
        self._busy = False
        self._pumping = False

        self._totals = Totals()
        """The store's, as of the last finished transaction."""
        self._last_seq = 0
        self._pending_rows = self._pending_messages = self._pending_bytes = 0
        """Appended, but the transaction is not finished."""
        self._crowded = self._nearly_full = self._behind = self._draining = False

        self._figures = Figures(clock)
        self._tend_timer: IDelayedCall | None = None
        self._next_ttl_check = 0.0

    # -- what it holds -------------------------------------------------------------------------------------------------

    @property
    def pending_bytes(self) -> int:
        return self._pending_bytes

    @property
    def stored_bytes(self) -> int:
        return self._totals.bytes + self._pending_bytes

    @property
    def stored_rows(self) -> int:
        return self._totals.rows + self._pending_rows

    @property
    def stored_messages(self) -> int:
        return self._totals.messages + self._pending_messages

    @property
    def last_seq(self) -> int:
        return self._last_seq

    def status(self) -> Mapping[str, Any]:
        """See `IStatusSource`."""
        return {
            "state": self._state.value,
            "place": self._store.place if self._store is not None else None,
            "error": str(self._error) if self._error is not None else None,
            "rows": self.stored_rows,
            "messages": self.stored_messages,
            "bytes": self.stored_bytes,
            "max_bytes": self._max_bytes,
            "max_messages": self._max_messages,
            "drop_policy": self._drop_policy,
            "pending_bytes": self._pending_bytes,
            "behind": self._behind,
            "draining": self._draining,
            "last_seq": self._last_seq,
            "fill": self._filled(),
            **self._figures.status(self.stored_rows, self._totals.dead_rows),
            "dead_rows": self._totals.dead_rows,
            "dead_bytes": self._totals.dead_bytes,
        }

    def _filled(self) -> float:
        """Part of the cap that is in use."""
        filled = self.stored_bytes / self._max_bytes
        if self._max_messages is not None:
            filled = max(filled, self.stored_messages / self._max_messages)
        return filled

    # -- opening and closing -------------------------------------------------------------------------------------------

    def open(self) -> Deferred[None]:
        """
        Open the store; fires with None when rows are taken. Fails with `StoreError`, naming the file, when it cannot be
        opened: then nothing is left open. Once only.
        """
        if self._state is not _State.NEW:
            return fail(StoreError(f"the store is {self._state.value}"))
        self._state = _State.OPENING
        opened: Deferred[None] = Deferred()
        self._start(self._open_store, partial(self._opened, opened))
        return opened

    def _open_store(self) -> tuple[Store, Opened]:  # in the worker thread
        store = self._store_factory()
        return store, store.open()

    def _opened(self, opened: Deferred[None], result: tuple[Store, Opened] | None, error: Exception | None) -> None:
        if result is None:
            self._state = _State.CLOSED
            self._queue.clear()
            self._runner.stop()
            opened.errback(self._as_store_error(error))
            self._tell_closed()
            return
        self._store, (self._totals, damaged, running_ms, upgraded_from, copy, draining) = result
        self._figures.opened(running_ms)
        self._last_seq = self._totals.last_seq
        if self._state is _State.OPENING:
            self._state = _State.OPEN
        totals = self._totals
        self._events.emit(SpoolOpened(self._store.place, totals.rows, totals.messages, totals.bytes))
        if upgraded_from:
            self._events.emit(StoreUpgraded(self._store.place, upgraded_from, copy))
        self._tell_damage(damaged)
        self._drains(draining)
        self._weigh()
        if self._tend_seconds is not None and self._state is _State.OPEN:
            self._tend()  # what has become too old, and the picture for `status`
        opened.callback(None)

    def set_listeners(
        self, pressure: IPressureListener, drops: IDropListener, failed: Callable[[Exception], None]
    ) -> None:
        """See `ISpool`. Whoever comes late is told at once what holds already."""
        self._pressure, self._drops, self._failed = pressure, drops, failed
        if self._behind:
            pressure.store_behind()
        if self._error is not None:
            failed(self._error)

    def close(self) -> Deferred[None]:
        """See `ISpool`. Never fails: what could not be written was told by the appends and by `failed`."""
        if self._state is _State.NEW:
            self._state = _State.CLOSED
        if self._state is _State.CLOSED:
            return succeed(None)
        closed: Deferred[None] = Deferred()
        self._closers.append(closed)
        if len(self._closers) == 1:
            if self._state is not _State.BROKEN:
                self._state = _State.CLOSING
            self._queue.append(Alone(self._close_store, self._closed, self._closed))
            self._pump()
        return closed

    def _close_store(self) -> None:  # in the worker thread
        if self._store is not None:
            self._store.close(None if self._error is not None else self._last_seq)

    def _closed(self, _: object) -> None:
        self._state = _State.CLOSED
        if self._delete_timer is not None:
            self._delete_timer.cancel()
            self._delete_timer = None
        self._stop_tending()
        self._runner.stop()
        self._tell_closed()

    def _tell_closed(self) -> None:
        closers, self._closers = self._closers, []
        for closed in closers:
            closed.callback(None)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def append(
        self, drafts: Sequence[Draft], numbered: Callable[[list[Row]], None] | None = None
    ) -> tuple[list[Row], Deferred[None]]:
        """See `ISpool`. No drafts at all is allowed: the Deferred then says that everything before is stored."""
        if self._state is not _State.OPEN:
            self._events.emit(MessagesNotStored(sum(draft.messages for draft in drafts)))
            return [], fail(self._error or StoreError(f"the store is {self._state.value}"))
        entry = Append()
        rows: list[Row] = []
        for draft in drafts:
            size = row_bytes(draft)
            reason = self._reason_to_refuse(size, draft.messages)
            if reason:
                entry.refused = self._refuse(reason, draft.messages)
                continue
            self._last_seq = seq = self._last_seq + 1
            row = Row(seq, *draft)
            rows.append(row)
            entry.rows[seq] = row, size
            self._waiting[seq] = entry
            self._pending_rows += 1
            self._pending_messages += draft.messages
            self._pending_bytes += size
        self._queue.append(entry)
        try:
            if rows and numbered is not None:
                numbered(rows)
        finally:  # they are queued, so they are stored whatever the other says
            self._pump()
        self._weigh()
        return rows, entry.done

    def _reason_to_refuse(self, size: int, messages: int) -> str:
        if self._draining:
            return "disk_full"
        if size > self._max_bytes or (self._max_messages is not None and messages > self._max_messages):
            return "too_large"
        if self._drop_policy == "oldest":
            return ""
        if self.stored_bytes + size > self._max_bytes:
            return "full_newest"
        if self._max_messages is not None and self.stored_messages + messages > self._max_messages:
            return "full_newest"
        return ""

    def _refuse(self, reason: str, messages: int) -> StoreFull:
        self._events.emit(MessagesRefused(reason, messages, self.stored_bytes))
        self._figures.dropped(reason, messages)
        return StoreFull(
            f"the store is full: {self.stored_bytes} of {self._max_bytes} bytes and {self.stored_messages} messages "
            f"are kept ({reason})"
        )

    def delete(self, seqs: Sequence[int]) -> None:
        """See `ISpool`."""
        if self._state is not _State.OPEN:
            return
        deletes = self._deletes
        for seq in seqs:
            entry = self._waiting.pop(seq, None)
            if entry is None:
                deletes.append(seq)
                continue
            row, size = entry.rows.pop(seq)
            self._pending_rows -= 1
            self._pending_messages -= row.messages
            self._pending_bytes -= size
            self._figures.drained += row.messages
        if len(deletes) >= DELETES_AT_ONCE:
            self._deletes_due = True
            self._pump()
        elif deletes and self._delete_timer is None:
            self._delete_timer = self._clock.callLater(self._delete_delay_seconds, self._delete_delay_over)

    def _delete_delay_over(self) -> None:
        # The timer is not stopped when deletes ride with an append, so it may find none: cheaper than re-arming it.
        self._delete_timer = None
        if self._deletes:
            self._deletes_due = True
            self._pump()

    def bury(self, row: Row, reason: str) -> None:
        """See `ISpool`."""
        if self._state is _State.OPEN:
            self._queue.append(Bury(row, reason))
            self._pump()

    def fetch(self, after_seq: int, max_bytes: int) -> Deferred[list[Row]]:
        """See `ISpool`. Fails with `StoreError` when the store is broken or not open."""
        if self._state is not _State.OPEN:
            return fail(self._error or StoreError(f"the store is {self._state.value}"))
        found: Deferred[list[Row]] = Deferred()
        self._queue.append(
            Alone(
                partial(self._fetch_from_store, after_seq, max_bytes, self._wall_ms()),
                partial(self._fetched, found),
                found.errback,
                breaks=True,
            )
        )
        self._pump()
        return found

    def _fetch_from_store(self, after_seq: int, max_bytes: int, now_ms: int) -> Fetched:  # in the worker thread
        assert self._store is not None  # noqa: S101 - for mypy; the state is OPEN
        return self._store.fetch(after_seq, max_bytes, now_ms)

    def _fetched(self, found: Deferred[list[Row]], fetched: Fetched) -> None:
        self._totals = fetched.totals
        if fetched.unreadable:
            self._events.emit(RowsUnreadable(len(fetched.unreadable), fetched.unreadable[0]))
        self._tell_damage(fetched.damaged)
        if fetched.dead_dropped:
            self._events.emit(DeadLettersDropped(fetched.dead_dropped))
        self._weigh()
        found.callback(fetched.rows)

    # -- tending -------------------------------------------------------------------------------------------------------

    def _tend(self) -> None:
        self._tend_timer = None
        if self._state is not _State.OPEN:
            return
        now = self._clock.seconds()
        running_ms = self._figures.running_ms()
        expire_before_ms = None
        if self._ttl_seconds is not None and now >= self._next_ttl_check:
            expire_before_ms = running_ms - int(self._ttl_seconds * 1000)
        self._queue.append(
            Alone(
                partial(self._tend_store, running_ms, expire_before_ms, self._wall_ms()),
                partial(self._tended, expire_before_ms is not None),
                lambda error: None,  # `breaks` has told it
                breaks=True,
            )
        )
        self._pump()

    def _tend_store(self, running_ms: int, expire_before_ms: int | None, now_ms: int) -> Tended:  # in the worker thread
        assert self._store is not None  # noqa: S101 - for mypy; the state was OPEN
        return self._store.tend(running_ms, expire_before_ms, now_ms)

    def _tended(self, checked: bool, tended: Tended) -> None:
        self._totals = tended.totals
        self._drains(tended.draining)
        self._figures.tended(tended)
        if tended.expired_rows:
            event = MessagesExpired(tended.expired_rows, tended.expired_messages)
            self._events.emit(event)
            self._figures.dropped(event.reason, tended.expired_messages)
            self._drops.rows_dropped(tended.expired_to_seq)
        if checked and not tended.more:
            self._next_ttl_check = self._clock.seconds() + self._ttl_check_seconds
        self._weigh()
        if self._tend_seconds is not None and self._state is _State.OPEN:
            delay = TEND_STEP_SECONDS if tended.more else self._tend_seconds
            self._tend_timer = self._clock.callLater(delay, self._tend)

    def _stop_tending(self) -> None:
        if self._tend_timer is not None:
            self._tend_timer.cancel()
            self._tend_timer = None

    # -- the queue, and what runs alone ------------------------------------------------------------------------------

    def run_in_store_thread(self, job: Callable[[], None]) -> Deferred[None]:
        """See `ISpool`. What the job raises does not break the store."""
        if self._state is not _State.OPEN:
            return fail(self._error or StoreError(f"the store is {self._state.value}"))
        ended: Deferred[None] = Deferred()
        self._queue.append(Alone(job, lambda result: ended.callback(None), ended.errback))
        self._pump()
        return ended

    def _start(self, job: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        self._busy = True
        self._runner.run(job, partial(self._ended, done))

    def _ended(self, done: Callable[[Any, Exception | None], None], result: Any, error: Exception | None) -> None:
        self._busy = False
        try:
            done(result, error)
        finally:  # a listener that raises must not stop the queue
            self._pump()

    def _pump(self) -> None:
        """Hand over what waits, while the worker is idle."""
        if self._pumping:  # called by a callback below, whose successors have to be answered first; the loop goes on
            return
        self._pumping = True
        try:
            while not self._busy:
                group = self._gather()
                if group is not None:
                    if group.change.rows or group.change.deletes or group.buries:
                        self._start(partial(self._apply_in_store, group.change), partial(self._applied, group))
                    else:
                        self._answer(group)
                elif self._queue:
                    alone = self._queue.popleft()
                    assert isinstance(alone, Alone)  # noqa: S101 - for mypy; all others are gathered
                    self._start(alone.job, partial(self._ended_alone, alone))
                else:
                    return
        finally:
            self._pumping = False

    def _apply_in_store(self, change: Change) -> Applied:  # in the worker thread
        assert self._store is not None  # noqa: S101 - for mypy; a group is only made while open
        return self._store.apply(change)

    def _ended_alone(self, alone: Alone, result: Any, error: Exception | None) -> None:
        if error is None:
            alone.finished(result)
        else:
            alone.failed(self._break(error) if alone.breaks else error)

    def _gather(self) -> Group | None:
        """What goes into the next transaction, taken out of the queue; None when nothing may or has to go now."""
        queue = self._queue
        if not queue and not (self._deletes_due and self._deletes):
            return None
        group = Group()
        deletes = self._deletes[:GROUP_OPERATIONS]
        del self._deletes[:GROUP_OPERATIONS]
        self._deletes_due = bool(self._deletes)  # what is left has waited long enough
        rows: list[tuple[Row, int]] = []
        while queue and not isinstance(queue[0], Alone):
            if rows and (group.bytes >= GROUP_BYTES or len(rows) >= GROUP_OPERATIONS):
                break
            if len(group.buries) >= GROUP_OPERATIONS:
                break
            entry = queue.popleft()
            if isinstance(entry, Bury):
                group.buries.append(entry)
                continue
            assert isinstance(entry, Append)  # noqa: S101 - for mypy
            group.appends.append(entry)
            for seq, (row, size) in entry.rows.items():
                del self._waiting[seq]
                rows.append((row, size))
                group.bytes += size
                group.messages += row.messages
        if not (deletes or group.appends or group.buries):
            return None
        group.rows = len(rows)
        oldest = self._drop_policy == "oldest"
        group.change = Change(
            deletes,
            rows,
            [(entry.row, entry.reason) for entry in group.buries],
            self._max_bytes if oldest else None,
            self._max_messages if oldest else None,
            self._last_seq,
            self._wall_ms(),
            self._figures.running_ms(),
        )
        return group

    def _applied(self, group: Group, applied: Applied | None, error: Exception | None) -> None:
        self._pending_rows -= group.rows
        self._pending_messages -= group.messages
        self._pending_bytes -= group.bytes
        if applied is None:
            self._break(error, group)
            return
        before, self._totals = self._totals, applied.totals
        self._drains(applied.draining)
        gone = before.messages + group.messages - applied.totals.messages - applied.dropped_messages
        if not applied.damaged:  # what buried rows held was in the store, unless they never were
            self._figures.drained += max(0, gone - sum(entry.row.messages for entry in group.buries if entry.row.seq))
        for entry in group.buries:
            row = entry.row
            self._figures.buried(entry.reason)
            self._events.emit(RowBuried(row.seq, row.topic, len(row.payload), row.messages, entry.reason))
        if applied.dead_dropped:
            self._events.emit(DeadLettersDropped(applied.dead_dropped))
        self._tell_damage(applied.damaged)
        if applied.dropped_rows:
            self._events.emit(OldestDropped(applied.dropped_rows, applied.dropped_messages, applied.dropped_to_seq))
            self._figures.dropped("full_oldest", applied.dropped_messages)
            self._drops.rows_dropped(applied.dropped_to_seq)
        self._answer(group)
        self._weigh()

    def _tell_damage(self, ranges: Sequence[tuple[int, int]]) -> None:
        for first, last in ranges:
            self._events.emit(StoreDamaged(first, last))

    @staticmethod
    def _answer(group: Group) -> None:
        for entry in group.appends:
            if entry.refused is None:
                entry.done.callback(None)
            else:
                entry.done.errback(entry.refused)

    # -- pressure and failure ------------------------------------------------------------------------------------------

    def _drains(self, draining: bool) -> None:
        """Note whether the file system has no room for rows."""
        if draining is not self._draining and self._store is not None:
            self._draining = draining
            self._events.emit(StoreDrains(self._store.place) if draining else StoreHasRoom(self._store.place))

    def _weigh(self) -> None:
        """Tell whether the sources have to stop or may go on, when that changed."""
        pending, cap = self._pending_bytes, self._pending_cap_bytes
        self._crowded = 2 * pending >= cap if self._crowded else pending > cap
        if self._drop_policy == "pause":
            filled = self._filled()
            self._nearly_full = filled >= RESUME_BELOW if self._nearly_full else filled > PAUSE_ABOVE
        behind = self._crowded or self._nearly_full or self._draining
        if behind is self._behind:
            return
        self._behind = behind
        if behind:
            self._events.emit(SpoolBehind(pending, self.stored_bytes))
            self._pressure.store_behind()
        else:
            self._pressure.store_ready()

    def _as_store_error(self, error: Exception | None) -> StoreError:
        if isinstance(error, StoreError):
            return error
        # Not one of the store's own errors: a mistake of ours, to be seen with its traceback.
        self._log.failure("unexpected error in the store's thread", Failure(error))
        return StoreError(f"the store failed unexpectedly: {error!r}")

    def _break(self, error: Exception | None, group: Group | None = None) -> StoreError:
        """The store failed: everything that waits fails with it, and nothing is taken any more."""
        broken = self._as_store_error(error)
        self._error = broken
        self._state = _State.BROKEN
        self._stop_tending()
        appends = list(group.appends) if group is not None else []
        others: list[Alone] = []
        close: Alone | None = None
        for entry in self._queue:
            if isinstance(entry, Append):
                appends.append(entry)
            elif isinstance(entry, Alone):
                if self._closers and entry is self._queue[-1]:
                    close = entry
                else:
                    others.append(entry)
        self._queue.clear()
        if close is not None:
            self._queue.append(close)
        self._waiting.clear()
        self._deletes.clear()
        self._pending_rows = self._pending_messages = self._pending_bytes = 0
        self._events.emit(StoreBroken(str(broken)))
        messages = sum(row.messages for entry in appends for row, _ in entry.rows.values())
        if messages:
            self._events.emit(MessagesNotStored(messages))
        for entry in appends:
            entry.done.errback(broken)
        for alone in others:
            alone.failed(broken)
        if self._failed is not None:
            self._failed(broken)
        return broken
