# -*- test-case-name: tests.pipeline.test_forwarder -*-
"""Which devices ThingsBoard has heard of in this session, and the connect messages for the others.

A device that ThingsBoard first hears of from its data is born with the wrong profile, so each is announced, and the
announcement acknowledged, before its data (spec thingsboard-mqtt, 3.2). An announcement that fails or stays without
PUBACK is told, and the device counts as announced all the same: its data is the better judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from tbgw.errors import LinkDown
from tbgw.interfaces import IUplink
from tbgw.internal_events import Events
from tbgw.pipeline.devices import DeviceRegistry
from tbgw.pipeline.internal_events import DeviceNotAnnounced
from tbgw.thingsboard import payloads, topics

ANNOUNCE_SECONDS = 10.0
"""How long the PUBACK of an announcement may take: ThingsBoard before 4.2.1.1 never acknowledges one that failed."""


class Announcements:
    """The announcements of one session after the other. `finished` is called after each that came to its end."""

    def __init__(
        self,
        uplink: IUplink,
        registry: DeviceRegistry,
        clock: IReactorTime,
        events: Events,
        finished: Callable[[], None],
    ) -> None:
        self._uplink = uplink
        self._registry = registry
        self._clock = clock
        self._events = events
        self._finished = finished
        self._session = 0
        self.done: set[str] = set()
        self.under_way: dict[str, IDelayedCall] = {}
        self.waiting: dict[str, None] = {}
        """Names in the order in which they are to be announced."""
        self._to_end: set[str] = set()
        """Those of them whose earlier session in ThingsBoard has to be ended first."""
        self._ended: set[str] = set()
        """Those under way for which that was said; their PUBACK comes before that of the announcement."""

    @property
    def publishes(self) -> int:
        """How many publishes of ours are without PUBACK."""
        return len(self.under_way) + len(self._ended)

    @property
    def next_publishes(self) -> int:
        """How many publishes `send_next` makes."""
        return 2 if next(iter(self.waiting), "") in self._to_end else 1

    def begin(self) -> None:
        """A session is ready: all devices that did not go away are to be announced."""
        self._session += 1
        self.waiting = dict.fromkeys(self._registry.present())

    def end(self) -> None:
        """The session is over, and ThingsBoard knows nothing any more."""
        self._session += 1
        for timer in self.under_way.values():
            timer.cancel()
        self.under_way.clear()
        self.done.clear()
        self.waiting.clear()
        self._to_end.clear()
        self._ended.clear()

    def gone(self, name: str) -> None:
        """ThingsBoard is told that the device went away: from now on it is unknown there."""
        self.done.discard(name)
        self.waiting.pop(name, None)
        self._to_end.discard(name)

    def begin_anew(self, name: str, end: bool) -> None:
        """
        The device's own session in ThingsBoard is over; with `end` it is ended first. Commands reach the device again
        once it is announced. Both have their turn in the queue: thousands of devices may be silent equally long.
        """
        if name in self.done and self._registry.is_present(name):
            self.waiting[name] = None
            if end:
                self._to_end.add(name)
        if not end:
            self._to_end.discard(name)
        self.done.discard(name)

    def moved(self, old: str, new: str | None) -> None:
        """
        ThingsBoard calls a device by another name, or has deleted it (None). The session under the old name goes on
        there until it is ended (spec thingsboard-mqtt, 3.11), and the new one is begun after that.
        """
        known = old in self.done or old in self.under_way or old in self._to_end
        self._ended.discard(old)
        timer = self.under_way.pop(old, None)
        if timer is not None:
            timer.cancel()
        self.gone(old)
        if new is None:
            return
        if known:
            self._uplink.publish(topics.DISCONNECT, payloads.disconnect(old)).addErrback(_link_down)
        if self._registry.is_present(new):
            self.waiting[new] = None

    def cover(self, names: Iterable[str]) -> bool:
        """Whether all of these are announced; those that are not come first, others wait for commands only."""
        if self.done.issuperset(names):
            return True
        missing = [name for name in names if name not in self.done and name not in self.under_way]
        if missing and next(iter(self.waiting), None) != missing[0]:
            rest = self.waiting
            self.waiting = dict.fromkeys(missing)
            self.waiting.update(rest)
        return False

    def skip_known(self) -> bool:
        """Whether somebody has to be announced, once those are left out for whom that has been done."""
        while self.waiting:
            name = next(iter(self.waiting))
            if name not in self.done and name not in self.under_way:
                return True
            del self.waiting[name]
        return False

    def send_next(self) -> str:
        """Announce the first in the queue, of which `skip_known` has just said that there is one. Its name."""
        name = next(iter(self.waiting))
        del self.waiting[name]
        session = self._session
        if name in self._to_end:
            self._to_end.discard(name)
            self._ended.add(name)
            self._uplink.publish(topics.DISCONNECT, payloads.disconnect(name)).addErrback(_link_down)
        self.under_way[name] = self._clock.callLater(
            ANNOUNCE_SECONDS, self._over, session, name, f"no PUBACK within {ANNOUNCE_SECONDS:g} s"
        )
        answer = self._uplink.publish(topics.CONNECT, payloads.connect(name, self._registry.profile(name)))
        answer.addCallbacks(
            lambda code: self._over(session, name, f"reason code {code}" if code >= 0x80 else ""), _link_down
        )
        return name

    def _over(self, session: int, name: str, why: str) -> None:
        if session != self._session or name not in self.under_way:
            return
        timer = self.under_way.pop(name)
        self._ended.discard(name)
        if timer.active():
            timer.cancel()
        if why:
            self._events.emit(DeviceNotAnnounced(device=name, why=why))
        self.done.add(name)
        self._finished()


def _link_down(failure: Failure) -> None:
    """`end` has put everything right; the failed Deferred says the same once more."""
    failure.trap(LinkDown)
