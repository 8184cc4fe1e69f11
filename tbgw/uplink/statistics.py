"""What the gateway tells ThingsBoard about its store, every `statsSendPeriodInSeconds`, as telemetry of its own device.

The keys are `serviceStats`, with the reference's names for what both count, and `storage`: fill level, oldest age,
drain rate, drops and dead letters by reason. Sent directly and only while the link is up: figures of a moment that
nobody could hear are of no use later, and must not fill the store that they report on. Counts of `serviceStats` are
those since the last sending, as in the reference; those of `storage` are since the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from tbgw.errors import LinkDown
from tbgw.thingsboard import payloads, topics

SHORTEST_SECONDS = 10
"""Shortest period, as in the reference: these figures must not become a load themselves."""


class Statistics(Service):
    """`picture()` gives `{"accepted", "delivered", "store": Spool.status()}`, counts since the start."""

    name = "statistics"

    def __init__(
        self,
        clock: IReactorTime,
        period_seconds: int,
        picture: Callable[[], Mapping[str, Any]],
        connected: Callable[[], bool],
        publish: Callable[[str, bytes], Deferred[int]],
    ) -> None:
        self._clock = clock
        self._period_seconds = max(SHORTEST_SECONDS, period_seconds)
        self._picture = picture
        self._connected = connected
        self._publish = publish
        self._timer: IDelayedCall | None = None
        self._accepted = self._delivered = 0

    def startService(self) -> None:
        super().startService()
        self._timer = self._clock.callLater(self._period_seconds, self._due)

    def stopService(self) -> None:
        super().stopService()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = self._clock.callLater(self._period_seconds, self._due)
        if not self._connected():
            return
        picture = self._picture()
        accepted, delivered, store = picture["accepted"], picture["delivered"], picture["store"]
        values = {
            "serviceStats": {
                "storageMsgCount": store["messages"],
                "storageMsgPulled": delivered - self._delivered,
                "platformMsgPushed": delivered - self._delivered,
                "storageMsgPushed": accepted - self._accepted,
            },
            "storage": {
                "fill": round(store["fill"], 4),
                "bytes": store["bytes"],
                "oldestAgeSeconds": store["oldest_age_seconds"],
                "drainPerSecond": store["drain_per_second"],
                "dropped": store["dropped"],
                "deadLetters": store["dead_letters"],
            },
        }
        self._accepted, self._delivered = accepted, delivered
        self._publish(topics.DEVICE_TELEMETRY, payloads.encode(values)).addErrback(_unheard)


def _unheard(failure: Failure) -> None:
    """The session ended meanwhile; the next period tells."""
    failure.trap(LinkDown)
