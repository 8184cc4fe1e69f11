# -*- test-case-name: tests.connectors.xmpp.test_commands -*-
"""Messages to devices that wait for the device's answer.

XMPP has no question and answer in messages, so an answer is recognised, in this order, as: a message with our
`<thread>`; one with our `id`; and, where the configuration does not ask for one of these, the next message with a body
from that JID, which then belongs to the oldest that waits. An error that bears our `id` is the answer, too.

A message taken for an answer by its place alone may have been a reading that happened to come just then. So it goes to
both, unless the configuration says otherwise: a reading is never lost to a guess.

Late answers, after the time-out, are ordinary messages. What waits is bounded for each JID.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tbgw.connectors.xmpp.outcomes import TIME_OUT, UNAVAILABLE, Refusal
from tbgw.connectors.xmpp.presence import Station

MAX_WAITING = 32
"""Messages to one JID that may wait for their answers."""


class Exchange:
    """One message that ends with an answer."""

    __slots__ = ("answer", "by_place", "is_data", "number", "timeout_seconds", "timer")

    def __init__(self, number: str, by_place: bool, is_data: bool | None, timeout_seconds: float) -> None:
        """
        `number`: `id` and `<thread>` of the message. `by_place`: whether the next message is the answer. `is_data`:
        whether the answer is a reading as well; None: only if it was taken by its place.
        """
        self.number = number
        self.by_place = by_place
        self.is_data = is_data
        self.timeout_seconds = timeout_seconds
        self.answer: Deferred[str] = Deferred()
        self.timer: IDelayedCall | None = None


class Exchanges:
    """See the module. One for each connector."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: dict[Station, list[Exchange]] = {}

    def begin(self, station: Station, exchange: Exchange) -> Deferred[str]:
        """
        Wait from now on. Fires with the body of the answer; fails with `Refusal`. May be cancelled. Must be called
        before the message is sent.
        """
        waiting = self._waiting.setdefault(station, [])
        if len(waiting) >= MAX_WAITING:
            return fail(Refusal(f"refused: {MAX_WAITING} commands wait for this device already", 500))
        exchange.answer = Deferred(lambda _: self._drop(station, exchange))
        exchange.timer = self._clock.callLater(exchange.timeout_seconds, self._overdue, station, exchange)
        waiting.append(exchange)
        return exchange.answer

    def waits(self, station: Station) -> bool:
        """Whether an answer is expected from there: a cheap look before anything else."""
        return station in self._waiting

    def take(self, station: Station, thread: str, number: str, body: str) -> bool | None:
        """
        Offer a message. None: it is no answer, or a reading as well. True: it was the answer and nothing else. False:
        it may have been the answer, and is to be taken for a reading if it can be.
        """
        found, by_place = self._find(station, thread, number)
        if found is None:
            return None
        self._drop(station, found)
        found.answer.callback(body)
        if found.is_data is None:
            return not by_place
        return None if found.is_data else True

    def bounced(self, station: Station, number: str, refusal: Refusal) -> bool:
        """A message came back as an error. Whether anybody waited for it."""
        for exchange in self._waiting.get(station, ()):
            if number and exchange.number == number:
                self._fail(station, exchange, refusal)
                return True
        return False

    def close(self) -> None:
        """The connector stops: nothing waits any more."""
        for station, waiting in tuple(self._waiting.items()):
            for exchange in tuple(waiting):
                self._fail(station, exchange, Refusal("gone: the connector is being stopped", UNAVAILABLE))

    def _find(self, station: Station, thread: str, number: str) -> tuple[Exchange | None, bool]:
        waiting = self._waiting.get(station, ())
        for exchange in waiting:
            if exchange.number in (thread, number):
                return exchange, False
        for exchange in waiting:
            if exchange.by_place:
                return exchange, True
        return None, False

    def _overdue(self, station: Station, exchange: Exchange) -> None:
        exchange.timer = None
        milliseconds = exchange.timeout_seconds * 1000
        self._fail(station, exchange, Refusal(f"time-out: no answer within {milliseconds:g} ms", TIME_OUT))

    def _fail(self, station: Station, exchange: Exchange, refusal: Refusal) -> None:
        self._drop(station, exchange)
        if not exchange.answer.called:
            exchange.answer.errback(refusal)

    def _drop(self, station: Station, exchange: Exchange) -> None:
        if exchange.timer is not None:
            exchange.timer.cancel()
            exchange.timer = None
        waiting = self._waiting.get(station)
        if waiting is not None and exchange in waiting:
            waiting.remove(exchange)
            if not waiting:
                del self._waiting[station]
