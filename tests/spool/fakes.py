"""What the tests of the spool share: a runner that goes step by step, listeners that remember, drafts and rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from zope.interface import implementer

from tbgw.interfaces import IDropListener, IPressureListener
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.model import Draft, Row
from tbgw.spool.contract import Change, row_bytes

NOW_MS = 1_700_000_000_000


class StepRunner:
    """Runs jobs when told to: `step` does one job and its answer, so that interleavings are decided by the test."""

    def __init__(self) -> None:
        self.jobs: deque[tuple[Callable[[], Any], Callable[[Any, Exception | None], None]]] = deque()
        self.steps = 0
        self.stopped = False

    def run(self, job: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        assert not self.stopped, "run after stop"
        assert not self.jobs, "two jobs at a time"
        self.jobs.append((job, done))

    def stop(self) -> None:
        assert not self.jobs, "stopped with a job left"
        self.stopped = True

    def step(self) -> None:
        """Run the job that waits."""
        job, done = self.jobs.popleft()
        self.steps += 1
        try:
            result = job()
        except Exception as error:  # noqa: BLE001 - handed on, as a real runner does
            done(None, error)
        else:
            done(result, None)

    def drain(self) -> int:
        """Step until nothing is left; how many steps it took."""
        before = self.steps
        while self.jobs:
            self.step()
        return self.steps - before


@implementer(IPressureListener, IDropListener)
class Listener:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.errors: list[Exception] = []

    def store_behind(self) -> None:
        self.told.append("behind")

    def store_ready(self) -> None:
        self.told.append("ready")

    def rows_dropped(self, last_seq: int) -> None:
        self.told.append(last_seq)

    def failed(self, error: Exception) -> None:
        self.errors.append(error)


def events() -> tuple[Events, Counters]:
    """Events on a clock that stands still, and their counters."""
    counters = Counters()
    return Events(counters, lambda: 0.0), counters


def draft(payload: bytes = b"{}", devices: tuple[str, ...] = ("Meter 1",), messages: int = 1) -> Draft:
    return Draft("v1/gateway/telemetry", payload, devices, messages, 2 * messages)


def row(seq: int, payload: bytes = b"{}", devices: tuple[str, ...] = ("Meter 1",), messages: int = 1) -> Row:
    return Row(seq, *draft(payload, devices, messages))


def sized(rows: Iterable[Row]) -> list[tuple[Row, int]]:
    """Rows as a `Change` takes them."""
    return [(one, row_bytes(one)) for one in rows]


def keep(*rows: Row, max_bytes: int | None = None, max_messages: int | None = None) -> Change:
    """The change that appends these."""
    return Change(
        rows=sized(rows),
        last_seq=rows[-1].seq,
        now_ms=NOW_MS,
        max_bytes=max_bytes,
        max_messages=max_messages,
    )
