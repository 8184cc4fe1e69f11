# -*- test-case-name: tests.connectors.socket.test_commands -*-
"""Commands of one device that wait for its answer, one after the other.

Devices on a serial line behind a socket, and most others, answer in the order of the questions and say nothing that
would tell one answer from another. So one command at a time waits for one device; further ones wait for their turn, and
so they do while the answer to a poll is outstanding. Each has its own time-out, which runs from the moment at which it
came. Waiting ones are bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tbgw.connectors.socket.presence import Connection, Link, Presence
from tbgw.errors import CommandFailed
from tbgw.model import Value

MAX_WAITING = 32
"""Commands that may wait for one device."""

GONE = "gone: the device is not connected"


class Exchange:
    """One command that ends with a message of the device."""

    def __init__(
        self,
        data: bytes | None,
        matches: Callable[[bytes], bool] | None,
        value_of: Callable[[bytes], Value],
        is_data: bool,
        timeout_seconds: float,
    ) -> None:
        """
        `data`: what is written first, if anything. `matches`: whether a message is the answer; None: the next one is.
        `value_of` may raise CommandFailed. `is_data`: whether the answer is taken for telemetry as well.
        """
        self.data = data
        self.matches = matches
        self.value_of = value_of
        self.is_data = is_data
        self.timeout_seconds = timeout_seconds
        self.answer: Deferred[Value] = Deferred()
        self.timer: IDelayedCall | None = None
        self.link: Link | None = None


class Desk:
    """The commands of one device. `write(presence, link, data)` tells whether it could."""

    def __init__(
        self, presence: Presence, clock: IReactorTime, write: Callable[[Presence, Link, bytes], bool]
    ) -> None:
        self._presence = presence
        self._clock = clock
        self._write = write
        self._current: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._poll_timer: IDelayedCall | None = None

    @property
    def busy(self) -> bool:
        """Whether something waits for an answer, so that a poll would mix with it."""
        return self._current is not None or self._poll_timer is not None

    def submit(self, exchange: Exchange) -> Deferred[Value]:
        """Carry it out when its turn comes. Fails with CommandFailed; may be cancelled."""
        if len(self._waiting) >= MAX_WAITING:
            return fail(CommandFailed(f"refused: {MAX_WAITING} commands wait for this device already"))
        exchange.answer = Deferred(lambda _: self._drop(exchange))
        exchange.timer = self._clock.callLater(exchange.timeout_seconds, self._overdue, exchange)
        self._waiting.append(exchange)
        self._next()
        return exchange.answer

    def polled(self, timeout_seconds: float) -> None:
        """A poll was sent: its answer is no command's."""
        self._presence.awaits = self._message
        self._presence.ended = self._ended
        self._poll_timer = self._clock.callLater(timeout_seconds, self._poll_over)

    def close(self) -> None:
        """The connector stops: nothing waits any more."""
        if self._poll_timer is not None:
            self._poll_timer.cancel()
            self._poll_timer = None
        for exchange in (*((self._current,) if self._current is not None else ()), *self._waiting):
            self._fail(exchange, "gone: the connector is being stopped")

    def _next(self) -> None:
        presence = self._presence
        while self._current is None and self._poll_timer is None and self._waiting:
            exchange = self._waiting.popleft()
            exchange.link = presence.link()
            if exchange.link is None:
                self._fail(exchange, GONE)
                continue
            self._current = exchange
            presence.awaits, presence.ended = self._message, self._ended
            if exchange.data is not None and not self._write(presence, exchange.link, exchange.data):
                self._fail(exchange, GONE)
        if not self.busy:
            presence.awaits = presence.ended = None

    def _message(self, message: bytes, link: Link | None) -> bool:
        """For the intake: whether this was an answer, and nothing else."""
        if self._poll_timer is not None:
            self._poll_timer.cancel()
            self._poll_over()
            return False
        exchange = self._current
        if exchange is None or link != exchange.link:
            return False
        if exchange.matches is not None and not exchange.matches(message):
            return False
        self._drop(exchange)
        try:
            value = exchange.value_of(message)
        except CommandFailed as error:
            exchange.answer.errback(error)
        else:
            exchange.answer.callback(value)
        return not exchange.is_data

    def _ended(self, connection: Connection) -> None:
        if self._poll_timer is not None and not self._presence.connections:
            self._poll_timer.cancel()
            self._poll_over()
        if self._current is not None and self._current.link is connection:
            self._fail(self._current, "gone: the connection ended before the device answered")

    def _poll_over(self) -> None:
        self._poll_timer = None
        self._next()

    def _overdue(self, exchange: Exchange) -> None:
        exchange.timer = None
        self._fail(exchange, f"time-out: the device did not answer within {exchange.timeout_seconds * 1000:g} ms")

    def _fail(self, exchange: Exchange, why: str) -> None:
        self._drop(exchange)
        if not exchange.answer.called:
            exchange.answer.errback(CommandFailed(why))

    def _drop(self, exchange: Exchange) -> None:
        """It is over, whatever came of it; the next one's turn."""
        if exchange.timer is not None:
            exchange.timer.cancel()
            exchange.timer = None
        if exchange is self._current:
            self._current = None
        elif exchange in self._waiting:
            self._waiting.remove(exchange)
        self._next()
