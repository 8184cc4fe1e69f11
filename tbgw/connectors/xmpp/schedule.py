# -*- test-case-name: tests.connectors.xmpp.test_readouts -*-
"""When which sensor is read out: each JID on its own period, spread at random, so that a thousand of them are not
asked at once. A device that came is asked within `SOON_SECONDS`, and then on its period.

A JID is asked once for each entry of the configuration, however many device names speak through it: a concentrator's
answer has the values of all its nodes. What came of it is told at the first name that is no node.

A read-out that cannot begin (no session, device gone, no resource known, the last one still under way) is left out; the
next turn comes. There is one timer for each JID and entry, and none while the connector is stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from random import random
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from tbgw.connectors.xmpp.commands import Read, read_request
from tbgw.connectors.xmpp.presence import Recipient, Station
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
        self._timers: dict[tuple[Station, Any], IDelayedCall] = {}
        self._under_way: dict[tuple[Station, Any], Deferred[None]] = {}
        self.running = False

    def add(self, recipient: Recipient) -> None:
        """Begin with this device's JID, or ask it soon when it is waited for already."""
        plan = recipient.entry.config.readout
        if not self.running or plan is None or not plan.period_seconds or recipient.is_node:
            return
        key = recipient.station, recipient.entry
        delay = min(SOON_SECONDS, plan.period_seconds) * self._jitter()
        timer = self._timers.get(key)
        if timer is None:
            self._timers[key] = self._clock.callLater(delay, self._turn, key)
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

    def _turn(self, key: tuple[Station, Any]) -> None:
        station, entry = key
        recipient = next((one for one in station.recipients if one.entry is entry and not one.is_node), None)
        if recipient is None:  # it speaks through another JID now, and is asked there
            del self._timers[key]
            return
        plan = entry.config.readout
        self._timers[key] = self._clock.callLater(plan.period_seconds, self._turn, key)
        if key in self._under_way or not self._can_read(recipient):
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

        ended = self._under_way[key] = work.addCallbacks(done, failed)
        ended.addBoth(self._over, key)

    def _over(self, outcome: object, key: tuple[Station, Any]) -> object:
        self._under_way.pop(key, None)
        return outcome
