"""Stand-ins for the neighbours of the pipeline, faithful to `tbgw.interfaces` and driven by the test.

`FakeSpool` does nothing by itself: each call queues its work, and `step` or `run` does it, as the worker thread would.
`FakeUplink` keeps every publish until the test acknowledges it or ends the session. Both check what their callers owe
them, so that a test fails where a contract is broken and not somewhere later.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from tbgw.errors import LinkDown, StoreError, StoreFull
from tbgw.interfaces import IDropListener, IPausable, IPressureListener, ISpool, IUplink, IUplinkListener
from tbgw.model import Draft, Row, SessionLimits
from tbgw.thingsboard import topics


@implementer(ISpool)
class FakeSpool:
    """See `ISpool`."""

    def __init__(self) -> None:
        self.stored: dict[int, Row] = {}
        """What is on stable storage."""
        self.dead: list[tuple[Row, str]] = []
        self.to_be_dead: list[Row] = []
        """Rows as they were given to `bury`, at the time of the call."""
        self.dropped: list[Row] = []
        self.deleted: list[int] = []
        """Numbers as they were given to `delete`, at the time of the call."""
        self.rows: dict[int, Row] = {}
        """Every row that was ever appended."""
        self.calls: list[str] = []
        """Names of the queued calls, in order."""
        self.last_seq = 0
        self.pending_bytes = 0
        self.refuse = 0
        """How many of the next drafts are refused for room."""
        self._queue: deque[Callable[[], None]] = deque()
        self._broken: StoreError | None = None
        self._drops: IDropListener | None = None
        self._failed: Callable[[Exception], None] | None = None
        self.pressure: IPressureListener | None = None

    @property
    def stored_bytes(self) -> int:
        return sum(len(row.payload) for row in self.stored.values()) + self.pending_bytes

    @property
    def stored_rows(self) -> int:
        return len(self.stored) + len(self._pending())

    @property
    def stored_messages(self) -> int:
        return sum(row.messages for row in (*self.stored.values(), *self._pending()))

    def _pending(self) -> list[Row]:
        return [row for work in self._queue for row in getattr(work, "rows", ())]

    # What the test does.

    def step(self) -> bool:
        """Do the oldest piece of work. False when there was none."""
        if not self._queue:
            return False
        self._queue.popleft()()
        return True

    def run(self) -> None:
        """Do all work, also what comes in the meantime."""
        while self.step():
            pass

    def drop_oldest(self, count: int) -> None:
        """The drop policy takes `count` rows away."""
        gone = sorted(self.stored)[:count]
        for seq in gone:
            self.dropped.append(self.stored.pop(seq))
        if gone and self._drops is not None:
            self._drops.rows_dropped(gone[-1])

    def break_down(self) -> None:
        """The disk is gone: all that waits fails, and nothing is taken any more."""
        self._broken = StoreError("the disk is gone")
        self.run()
        if self._failed is not None:
            self._failed(self._broken)

    # ISpool

    def append(
        self, drafts: Sequence[Draft], numbered: Callable[[list[Row]], None] | None = None
    ) -> tuple[list[Row], Deferred[None]]:
        self.calls.append("append")
        stored: Deferred[None] = Deferred()
        rows = []
        refused = 0
        for draft in drafts:
            if self.refuse:
                self.refuse -= 1
                refused += 1
                continue
            self.last_seq += 1
            rows.append(Row(self.last_seq, *draft))
        if self._broken is None:
            self.rows.update({row.seq: row for row in rows})
            self.pending_bytes += sum(len(row.payload) for row in rows)
            self._queue.append(_Commit(self, rows, stored, refused))
            if rows and numbered is not None:
                numbered(rows)
            return rows, stored
        stored.errback(self._broken)
        return [], stored

    def delete(self, seqs: Sequence[int]) -> None:
        self.calls.append("delete")
        self.deleted += seqs

        def work() -> None:
            for seq in seqs:
                self.stored.pop(seq, None)

        self._queue.append(work)

    def bury(self, row: Row, reason: str) -> None:
        self.calls.append("bury")
        self.to_be_dead.append(row)

        def work() -> None:
            self.stored.pop(row.seq, None)
            self.dead.append((row, reason))

        self._queue.append(work)

    def fetch(self, after_seq: int, max_bytes: int) -> Deferred[list[Row]]:
        self.calls.append("fetch")
        fetched: Deferred[list[Row]] = Deferred()

        def work() -> None:
            if self._broken is not None:
                fetched.errback(self._broken)
                return
            rows: list[Row] = []
            size = 0
            for seq in sorted(self.stored):
                row = self.stored[seq]
                if seq <= after_seq:
                    continue
                if rows and size + len(row.payload) > max_bytes:
                    break
                rows.append(row)
                size += len(row.payload)
            fetched.callback(rows)

        self._queue.append(work)
        return fetched

    def run_in_store_thread(self, job: Callable[[], None]) -> Deferred[None]:
        self.calls.append("job")
        done: Deferred[None] = Deferred()

        def work() -> None:
            if self._broken is not None:
                done.errback(self._broken)
                return
            try:
                job()
            except OSError as error:
                done.errback(error)
            else:
                done.callback(None)

        self._queue.append(work)
        return done

    def set_listeners(
        self, pressure: IPressureListener, drops: IDropListener, failed: Callable[[Exception], None]
    ) -> None:
        self.pressure, self._drops, self._failed = pressure, drops, failed

    def close(self) -> Deferred[None]:
        self.calls.append("close")
        closed: Deferred[None] = Deferred()
        self._queue.append(lambda: closed.callback(None))
        return closed


class _Commit:
    """One append on its way to the disk."""

    def __init__(self, spool: FakeSpool, rows: list[Row], stored: Deferred[None], refused: int) -> None:
        self.rows = rows
        self._spool = spool
        self._stored = stored
        self._refused = refused

    def __call__(self) -> None:
        spool = self._spool
        spool.pending_bytes -= sum(len(row.payload) for row in self.rows)
        if spool._broken is not None:
            self._stored.errback(spool._broken)
            return
        spool.stored.update({row.seq: row for row in self.rows})
        if self._refused:
            self._stored.errback(StoreFull("the store is at its cap"))
        else:
            self._stored.callback(None)


class Sent:
    """One publish that reached the uplink."""

    def __init__(self, topic: str, payload: bytes, dup: bool, session: int, at: float) -> None:
        self.topic = topic
        self.payload = payload
        self.dup = dup
        self.session = session
        self.at = at
        """Time at which it was published, on the test's clock."""
        self.answer: Deferred[int] = Deferred()

    @property
    def device(self) -> str:
        """The device of a connect or disconnect message."""
        device = json.loads(self.payload)["device"]
        assert isinstance(device, str)
        return device

    def __repr__(self) -> str:
        return f"<{self.topic} {self.payload!r}{' dup' if self.dup else ''} in session {self.session}>"


@implementer(IUplink)
class FakeUplink:
    """See `IUplink`. `now` only dates what is published."""

    def __init__(self, now: Callable[[], float] = lambda: 0.0) -> None:
        self.connected = False
        self.session = 0
        self.limits = SessionLimits()
        self.sent: list[Sent] = []
        """Everything that was ever published."""
        self.waiting: list[Sent] = []
        """What is without PUBACK in this session."""
        self.disruptions: list[str] = []
        self.most_waiting = 0
        self._now = now
        self._listener: IUplinkListener | None = None

    # What the test does.

    def up(self, limits: SessionLimits | None = None) -> None:
        """A session is ready."""
        assert not self.connected
        assert self._listener is not None
        if limits is not None:
            self.limits = limits
        self.session += 1
        self.connected = True
        self.most_waiting = 0
        self._listener.link_up(self.limits)

    def down(self, code: int | None = None) -> None:
        """The session ends: all Deferreds fail, as in the contract before or after `link_down`, here one half each."""
        assert self.connected
        assert self._listener is not None
        self.connected = False
        waiting, self.waiting = self.waiting, []
        half = len(waiting) // 2
        for sent in waiting[:half]:
            sent.answer.errback(LinkDown("the connection was lost"))
        self._listener.link_down(code)
        for sent in waiting[half:]:
            sent.answer.errback(LinkDown("the connection was lost"))

    def acknowledge(self, sent: Sent | None = None, code: int = 0) -> Sent:
        """PUBACK for `sent`, or for the oldest publish."""
        if sent is None:
            sent = self.waiting[0]
        self.waiting.remove(sent)
        sent.answer.callback(code)
        return sent

    def acknowledge_all(self) -> None:
        """PUBACK for all, also for what is published in turn."""
        while self.waiting:
            self.acknowledge()

    def acknowledge_announcements(self) -> None:
        """PUBACK for all connect messages, also for those that come in turn."""
        while announced := [sent for sent in self.waiting if sent.topic == topics.CONNECT]:
            for sent in announced:
                self.acknowledge(sent)

    def data(self, session: int | None = None) -> list[Sent]:
        """All publishes but the connect messages; of one session only, if that is given."""
        return [
            sent for sent in self.sent if sent.topic != topics.CONNECT and (session is None or sent.session == session)
        ]

    # IUplink

    def set_listener(self, listener: IUplinkListener) -> None:
        self._listener = listener

    def publish(self, topic: str, payload: bytes, dup: bool = False) -> Deferred[int]:
        sent = Sent(topic, payload, dup, self.session, self._now())
        if not self.connected:
            sent.answer.errback(LinkDown("there is no connection"))
            return sent.answer
        if len(self.waiting) >= self.limits.max_inflight:
            raise ValueError("more is in flight than was announced")
        self.sent.append(sent)
        self.waiting.append(sent)
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        return sent.answer

    def disrupt(self, reason: str) -> None:
        self.disruptions.append(reason)


@implementer(IPausable)
class FakeSource:
    """A connection that can be told to stop reading."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")


def decoded(payload: bytes) -> Any:
    """The JSON value in a payload, by the standard library's own reader."""
    return json.loads(payload)
