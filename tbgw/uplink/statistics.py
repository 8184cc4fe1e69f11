# -*- test-case-name: tests.uplink.test_statistics -*-
"""What the gateway tells ThingsBoard about itself, every `statsSendPeriodInSeconds`, as telemetry of its own device.

The keys are the reference's, for what both count (spec reference-gateway, A10; configuration-and-apis, 7.1):
`machineStats`, `serviceStats`, `connectorsStats`, and those that older dashboards read; and `storage`, ours: fill
level, oldest age, drain rate, drops and dead letters by reason. Totals of the machine go out as attributes with the
first figures of each start.

Sent directly and only while the link is up: figures of a moment that nobody could hear are of no use later, and must
not fill the store that they report on. Counts of the `...Stats` are those since the last sending, as in the reference;
all others are since the start. What is not counted here is left out, and not sent as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tbgw.model import Value
from tbgw.uplink.machine import Machine

SHORTEST_SECONDS = 10
"""Shortest period, as in the reference: these figures must not become a load themselves."""

RECEIVED_BYTES = "allRe\u0441eivedBytesFromTB"
"""With the Cyrillic letter that the stock dashboard has in this key."""


class Statistics(Service):
    """
    `picture()` gives counts since the start: `{"accepted", "delivered", "store": Spool.status(), "traffic": {"sent",
    "sentBytes", "received", "receivedBytes"}, "connectors": {name: readings}, "errors"}`. `say` sends telemetry,
    `show` client attributes.
    """

    name = "statistics"

    def __init__(
        self,
        clock: IReactorTime,
        period_seconds: int,
        picture: Callable[[], Mapping[str, Any]],
        connected: Callable[[], bool],
        say: Callable[[Mapping[str, Value]], object],
        show: Callable[[Mapping[str, Value]], object],
        machine: Machine | None = None,
    ) -> None:
        self._clock = clock
        self._period_seconds = max(SHORTEST_SECONDS, period_seconds)
        self._picture = picture
        self._connected = connected
        self._say = say
        self._show = show
        self._machine = machine
        self._totals_shown = False
        self._timer: IDelayedCall | None = None
        self._last: dict[str, int] = {}

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
        if self._machine is not None and not self._totals_shown:
            self._totals_shown = True
            self._show(self._machine.totals())
        self._say(self._values())

    def _since(self, name: str, count: int) -> int:
        """How much a count grew since the last sending."""
        last, self._last[name] = self._last.get(name, 0), count
        return count - last

    def _values(self) -> dict[str, Value]:
        picture = self._picture()
        accepted, delivered, store = picture["accepted"], picture["delivered"], picture["store"]
        traffic, connectors = picture["traffic"], picture["connectors"]
        pushed = self._since("delivered", delivered)
        machine = self._machine.figures() if self._machine is not None else {}
        values: dict[str, Value] = {
            "machineStats": {
                **machine,
                "msgsSentToPlatform": self._since("sent", traffic["sent"]),
                "msgsReceivedFromPlatform": self._since("received", traffic["received"]),
            },
            "serviceStats": {
                "storageMsgCount": store["messages"],
                "storageMsgPulled": pushed,
                "platformMsgPushed": pushed,
                "storageMsgPushed": self._since("accepted", accepted),
            },
            "storage": {
                "fill": round(store["fill"], 4),
                "bytes": store["bytes"],
                "oldestAgeSeconds": store["oldest_age_seconds"],
                "drainPerSecond": store["drain_per_second"],
                "dropped": store["dropped"],
                "deadLetters": store["dead_letters"],
            },
            "eventsProduced": accepted,
            "eventsSent": delivered,
            "allBytesSentToTB": traffic["sentBytes"],
            RECEIVED_BYTES: traffic["receivedBytes"],
            "ALL_ERRORS_COUNT": picture["errors"],
        }
        if connectors:
            values["connectorsStats"] = {
                name: {"connectorMsgsReceived": self._since(f"connector {name}", count)}
                for name, count in connectors.items()
            }
        return values
