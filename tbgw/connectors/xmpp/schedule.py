# -*- test-case-name: tests.connectors.xmpp.test_readouts -*-
"""When which sensor is read out: each device on its own period, spread at random, so that a thousand of them are not
asked at once. A device that came is asked within `SOON_SECONDS`, and then on its period.

A read-out that cannot begin (no session, device gone, no resource known, the last one still under way) is left out; the
next turn comes. There is one timer for each device, and none while the connector is stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from random import random

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from tbgw.connectors.xmpp.commands import Read, read_request
from tbgw.connectors.xmpp.presence import Recipient
from tbgw.connectors.xmpp.readouts import ReadOut
from tbgw.errors import CommandFailed

SOON_SECONDS = 5.0


class Schedule:
    """See the module. One for each connector with XEP-0323."""

    def __init__(
        self,
        read: Read,
        can_read: Callable[[Recipient], bool],
        failed: Callable[[Recipient, str], None],
        clock: IReactorTime,
        jitter: Callable[[], float] = random,
    ) -> None:
        """`can_read`: whether it makes sense to ask now. `failed` is told why a read-out brought nothing."""
        self._read = read
        self._can_read = can_read
        self._failed = failed
        self._clock = clock
        self._jitter = jitter
        self._timers: dict[Recipient, IDelayedCall] = {}
        self._under_way: dict[Recipient, Deferred[None]] = {}
        self.running = False

    def add(self, recipient: Recipient) -> None:
        """Begin with this device, or ask it soon when it is waited for already."""
        plan = recipient.entry.config.readout
        if not self.running or plan is None or not plan.period_seconds:
            return
        delay = min(SOON_SECONDS, plan.period_seconds) * self._jitter()
        timer = self._timers.get(recipient)
        if timer is None:
            self._timers[recipient] = self._clock.callLater(delay, self._turn, recipient)
        elif timer.getTime() > self._clock.seconds() + delay:
            timer.reset(delay)

    def stop(self) -> None:
        """No further turn; what is under way is given up."""
        self.running = False
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for work in tuple(self._under_way.values()):
            work.cancel()

    def _turn(self, recipient: Recipient) -> None:
        plan = recipient.entry.config.readout
        self._timers[recipient] = self._clock.callLater(plan.period_seconds, self._turn, recipient)
        if recipient in self._under_way or not self._can_read(recipient):
            return
        request, seconds = read_request(None, plan)
        try:
            work = self._read(recipient, request, seconds)
        except CommandFailed as error:
            self._failed(recipient, str(error))
            return

        def done(result: ReadOut) -> None:
            if result.errors:
                node, text = result.errors[0]
                self._failed(recipient, f"{len(result.errors)} error(s), first: {node}: {text}")

        def failed(failure: Failure) -> None:
            if failure.check(CommandFailed, CancelledError) is None:
                failure.raiseException()
            if failure.check(CommandFailed) is not None:
                self._failed(recipient, str(failure.value))

        ended = self._under_way[recipient] = work.addCallbacks(done, failed)
        ended.addBoth(self._over, recipient)

    def _over(self, outcome: object, recipient: Recipient) -> object:
        self._under_way.pop(recipient, None)
        return outcome
