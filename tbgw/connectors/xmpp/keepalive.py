# -*- test-case-name: tests.connectors.xmpp.test_parts -*-
"""Finding out that the server is gone although the connection stands (XEP-0199): a cable pulled, a server that hangs.

After `period` seconds in which nothing came it is asked; what comes afterwards, whatever it is, shows that it lives.
No answer within `timeout` seconds: it is dead, and the connection is aborted, since closing in good order would wait
for it. While we ourselves do not read, because the store is behind, silence says nothing and nothing is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Watched(Protocol):
    """What is being watched."""

    heard: bool
    """Set to true by whatever comes."""


class Keepalive:
    """For one connection."""

    def __init__(
        self,
        clock: IReactorTime,
        period_seconds: float,
        timeout_seconds: float,
        ask: Callable[[], None],
        dead: Callable[[], None],
    ) -> None:
        """`ask()` sends a ping, whose answer need not be told: it is heard. `period_seconds` 0: never."""
        self._clock = clock
        self._period = period_seconds
        self._timeout = timeout_seconds
        self._ask = ask
        self._dead = dead
        self._timer: IDelayedCall | None = None
        self.is_reading = True
        """Whether we read at all; see the module."""

    def start(self, stream: Watched) -> None:
        """A session is ready on it."""
        self.stop()
        self.is_reading = True
        if self._period:
            self._listen(stream)

    def stop(self) -> None:
        """Leave no timer."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _listen(self, stream: Watched) -> None:
        stream.heard = False
        self._timer = self._clock.callLater(self._period, self._period_over, stream)

    def _period_over(self, stream: Watched) -> None:
        if stream.heard or not self.is_reading:
            self._listen(stream)
            return
        self._timer = self._clock.callLater(self._timeout, self._timeout_over, stream)
        self._ask()

    def _timeout_over(self, stream: Watched) -> None:
        if stream.heard or not self.is_reading:
            self._listen(stream)
            return
        self.stop()
        self._dead()
