"""What waits in the spool's queue, and what is under way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from tbgw.errors import StoreFull
from tbgw.model import Row
from tbgw.spool.contract import Change


class Append:
    """Some rows that wait, or whose transaction runs."""

    __slots__ = ("done", "refused", "rows")

    def __init__(self) -> None:
        self.done: Deferred[None] = Deferred()
        self.rows: dict[int, tuple[Row, int]] = {}
        """By number, with their size in bytes. Rows that are delivered in the meantime are taken out."""
        self.refused: StoreFull | None = None
        """What to answer in the end when some drafts were refused."""


class Bury:
    __slots__ = ("reason", "row")

    def __init__(self, row: Row, reason: str) -> None:
        self.row = row
        self.reason = reason


class Alone:
    """Something that runs by itself, after all before it and before all after it."""

    __slots__ = ("breaks", "failed", "finished", "job")

    def __init__(
        self,
        job: Callable[[], Any],
        finished: Callable[[Any], object],
        failed: Callable[[Exception], object],
        breaks: bool = False,
    ) -> None:
        self.job = job
        self.finished = finished
        self.failed = failed
        self.breaks = breaks
        """Whether an error in the job is one of the store."""


class Group:
    """One transaction under way, and who waits for it."""

    __slots__ = ("appends", "buries", "bytes", "change", "messages", "rows")

    def __init__(self) -> None:
        self.change = Change()
        self.appends: list[Append] = []
        self.buries: list[Bury] = []
        self.rows = self.messages = self.bytes = 0


class Nobody:
    """Listener until somebody listens."""

    def store_behind(self) -> None: ...

    def store_ready(self) -> None: ...

    def rows_dropped(self, last_seq: int) -> None: ...
