# -*- test-case-name: tests.pipeline.test_activity -*-
"""When a device was last heard of: by us, and, through us, by ThingsBoard.

`Activity` tells of devices that are silent for too long (`checkingDeviceActivity`). The time is that of the last
reading, measured when it comes, so a device that speaks is never told gone (the reference never refreshes its stamp and
disconnects active devices every time-out, C-42). Devices that are only known from before a restart count from the
start.

`ChildSessions` keeps commands coming: ThingsBoard ends a device's own session without a word when nothing was sent
about it for ten minutes (spec thingsboard-mqtt, fact 11 and 3.10), and only a connect message begins it again that
does not count as the device's activity. Two ways, neither without a price:

- `reconnect`: shortly before the ten minutes the session is ended and begun again at once. No command and no change of
  an attribute is lost; ThingsBoard notes a disconnect and a connect of the device.
- `connect`: shortly after them it is begun again. ThingsBoard notes a connect only; a change of an attribute that falls
  into the seconds between is lost.

Considered and dropped: a client attribute every nine minutes, which needs neither. It counts as activity, so that
ThingsBoard would show a dead device as an active one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tbgw.model import Device

SESSION_SECONDS = 600.0
"""After so long without a word about a device ThingsBoard ends its session."""

MARGIN_SECONDS = {"reconnect": -30.0, "connect": 10.0}
"""When it is refreshed, from then on."""

SPACING_SECONDS = 1.0
"""Those that fall due within this time are refreshed together."""


class Activity:
    """`silent(device)` is called for each device that did not speak for `timeout_seconds`."""

    def __init__(
        self, clock: IReactorTime, timeout_seconds: float, check_seconds: float, silent: Callable[[Device], None]
    ) -> None:
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._check_seconds = check_seconds
        self._silent = silent
        self._last: dict[str, tuple[float, Device]] = {}
        self._timer: IDelayedCall | None = None

    def start(self, known: Iterable[Device]) -> None:
        """`known` are the devices that count as present from before."""
        now = self._clock.seconds()
        for device in known:
            self._last.setdefault(device.name, (now, device))
        self._timer = self._clock.callLater(self._check_seconds, self._check)

    def stop(self) -> None:
        """No timer is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def spoke(self, device: Device) -> None:
        """A reading of the device came."""
        self._last[device.name] = (self._clock.seconds(), device)

    def gone(self, name: str) -> None:
        """The device went away, was renamed or deleted."""
        self._last.pop(name, None)

    def _check(self) -> None:
        self._timer = self._clock.callLater(self._check_seconds, self._check)
        latest = self._clock.seconds() - self._timeout_seconds
        for device in [device for at, device in self._last.values() if at <= latest]:
            self._last.pop(device.name, None)
            self._silent(device)


class ChildSessions:
    """`refresh(name, end)` begins a device's session anew; with `end`, the old one is still there."""

    def __init__(
        self, clock: IReactorTime, way: Literal["reconnect", "connect"], refresh: Callable[[str, bool], None]
    ) -> None:
        self._clock = clock
        self._end = way == "reconnect"
        self._after_seconds = SESSION_SECONDS + MARGIN_SECONDS[way]
        self._refresh = refresh
        self._touched: dict[str, float] = {}
        """Name to the time of the last word about the device, the oldest first."""
        self._timer: IDelayedCall | None = None

    def touched(self, names: Iterable[str]) -> None:
        """Something about these devices was just sent."""
        now = self._clock.seconds()
        for name in names:
            self._touched.pop(name, None)
            self._touched[name] = now
        if self._timer is None and self._touched:
            self._arm()

    def gone(self, name: str) -> None:
        """The device has no session any more: it went away, was renamed or deleted."""
        self._touched.pop(name, None)

    def clear(self) -> None:
        """The gateway's session is over, and theirs with it."""
        self._touched.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        oldest = next(iter(self._touched.values()))
        delay = max(SPACING_SECONDS, oldest + self._after_seconds - self._clock.seconds())
        self._timer = self._clock.callLater(delay, self._due)

    def _due(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        due = []
        for name, at in self._touched.items():
            if at + self._after_seconds > now + 0.001:
                break
            due.append(name)
        self.touched(due)
        for name in due:
            self._refresh(name, self._end)
        if self._timer is None and self._touched:
            self._arm()
