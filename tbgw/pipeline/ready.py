# -*- test-case-name: tests.pipeline.test_forwarder -*-
"""The rows that are next to be sent: from memory while that is bounded, from the store where it is not.

Fresh rows are kept as they come, up to `READY_BYTES`; beyond that the queue lags, and is read on from the store at the
pace of the sending. What comes back from ThingsBoard unsent goes in front again, in its order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import count

from twisted.python.failure import Failure

from tbgw.errors import StoreError
from tbgw.interfaces import ISpool
from tbgw.model import Row

READY_BYTES = 2 * 1024 * 1024
"""Rows kept ready in memory: 40 of the largest payloads, enough to keep a window busy between two reads of the
store."""

FETCH_BYTES = 1024 * 1024
"""What is read from the store at once."""


class Ready:
    """
    The queue. `fetched` is called when the store was read; `current` gives a row as it has to be sent now, or None when
    it has not to be sent any more.
    """

    def __init__(self, spool: ISpool, fetched: Callable[[], None], current: Callable[[Row], Row | None]) -> None:
        self._spool = spool
        self._told = fetched
        self._current = current
        self.rows: deque[Row] = deque()
        self.bytes = 0
        """Size of their payloads."""
        self.lagging = False
        """Whether the store holds rows behind these."""
        self._tail_seq = 0
        """The last row that is, or was, in memory: the store is read on from here."""
        self._fetching = False

    @property
    def head(self) -> Row | None:
        """The first in line."""
        return self.rows[0] if self.rows else None

    def start(self) -> None:
        """The spool is open: what it holds from earlier comes first."""
        self.lagging = self._spool.stored_rows > 0
        if not self.lagging:
            self._tail_seq = self._spool.last_seq

    def append(self, rows: Iterable[Row]) -> None:
        """These were just given to the spool."""
        for row in rows:
            if self.lagging or (self.rows and self.bytes + len(row.payload) > READY_BYTES):
                self.lagging = True
                break
            self.rows.append(row)
            self.bytes += len(row.payload)
            self._tail_seq = row.seq

    def pop(self) -> Row:
        """Take the first in line."""
        row = self.rows.popleft()
        self.bytes -= len(row.payload)
        return row

    def take_back(self, rows: Iterable[Row]) -> None:
        """Rows that have to be sent again go in front, in their order among what is there."""
        for row in sorted([now for row in rows if (now := self._current(row)) is not None], reverse=True):
            place = next((place for place, other in zip(count(), self.rows) if other.seq > row.seq), len(self.rows))
            self.rows.insert(place, row)
            self.bytes += len(row.payload)

    def renew(self) -> None:
        """What `current` says has changed."""
        self.rows = deque([now for row in self.rows if (now := self._current(row)) is not None])
        self.bytes = sum([len(row.payload) for row in self.rows])

    def drop(self, last_seq: int) -> None:
        """The store dropped all rows up to this one."""
        while self.rows and self.rows[0].seq <= last_seq:
            self.pop()
        self._tail_seq = max(self._tail_seq, last_seq)

    def fill(self) -> None:
        """Read on from the store, if there is something to read and room for it."""
        if not self.lagging or self._fetching or self.bytes >= READY_BYTES // 2:
            return
        self._fetching = True
        known = self._spool.last_seq
        rows = self._spool.fetch(self._tail_seq, FETCH_BYTES)
        rows.addCallbacks(self._fetched, self._not_fetched, callbackArgs=(known,))

    def _fetched(self, rows: list[Row], known: int) -> None:
        self._fetching = False
        for row in rows:
            if row.seq <= self._tail_seq:
                continue  # dropped for room meanwhile
            now = self._current(row)
            if now is not None:
                self.rows.append(now)
                self.bytes += len(now.payload)
        self._tail_seq = max(self._tail_seq, rows[-1].seq if rows else known)
        self.lagging = self._tail_seq < self._spool.last_seq
        self._told()

    def _not_fetched(self, failure: Failure) -> None:
        # The spool has told its own listener what broke; there is nothing to add, and nothing more will come.
        failure.trap(StoreError)
        self._fetching = False
