# -*- test-case-name: tests.connectors.ocpp.test_updates -*-
"""Shared attributes on their way to charge points. Unlike commands they are state: what a charge point could not be
told, because it was away, it is told when it returns, and only the newest value of each attribute counts.

* For a charge point that is away, or whose connection ends before it answered, values wait here: one for each
  configured attribute, of at most `MAX_WAITING` charge points.
* Values of one charge point go out one after the other, in the order in which they came; a newer value of an attribute
  that still waits takes its place.
* ThingsBoard tells nobody of what changes while a device is disconnected, or while the gateway is away. So it is asked
  for the present values whenever a charge point comes, and for all that are there when a session begins; those that the
  charge point was not told yet are sent. After a restart of the gateway each charge point is told its attributes once,
  unless `resendAttributes` is false: then those that there are at first are taken as told.
* One that does not answer in time is tried again after `TRY_AGAIN_SECONDS`, or when it returns: it may stay connected
  for months.
* A charge point that answers with an error, or with a status that is no success, is not asked again: that is logged.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from tbgw.connectors.ocpp.calls import Calls
from tbgw.connectors.ocpp.commands import Commands
from tbgw.connectors.ocpp.config import ChargePoint, ChargePointUpdate, OCPPConfig
from tbgw.connectors.ocpp.internal_events import UpdateRefused, UpdatesForgotten
from tbgw.connectors.ocpp.reports import StationReports
from tbgw.connectors.ocpp.security import find_point
from tbgw.connectors.ocpp.templates import CallTemplate, for_update
from tbgw.errors import CommandFailed, LinkDown, NoAnswer
from tbgw.interfaces import IDownlink
from tbgw.internal_events import Events
from tbgw.model import Value
from tbgw.ocpp.interfaces import IStation

MAX_WAITING = 20_000
"""Charge points for which values wait at one time; those that wait longest are forgotten first, and that is told."""
MAX_QUESTIONS = 50
"""Questions to ThingsBoard at one time: after a restart thousands of charge points come within seconds."""
ASK_AGAIN_SECONDS = 60.0
TRY_AGAIN_SECONDS = 300.0
"""After which those that did not answer are told again."""

_GOOD = frozenset(("Accepted", "RebootRequired", "Scheduled", "Unlocked"))


class Updates:
    """See the module. One for each connector."""

    def __init__(
        self,
        connector: str,
        config: OCPPConfig,
        stations: Mapping[str, IStation],
        reports: StationReports,
        commands: Commands,
        calls: Calls,
        downlink: IDownlink | None,
        events: Events,
        clock: IReactorTime,
    ) -> None:
        """Raises ExpressionError."""
        self._connector = connector
        self._config = config
        self._stations = stations
        self._reports = reports
        self._commands = commands
        self._calls = calls
        self._downlink = downlink
        self._events = events
        self._clock = clock
        self._entries: dict[int, dict[str, list[tuple[ChargePointUpdate, CallTemplate]]]] = {}
        for point in config.charge_points:
            entries = self._entries.setdefault(id(point), {})
            for update in point.attribute_updates:
                entries.setdefault(update.attribute, []).append((update, for_update(update.value)))
        self._waiting: OrderedDict[str, dict[str, Value]] = OrderedDict()
        """Path to the values that it has not been told, oldest first."""
        self._told: dict[str, dict[str, Value]] = {}
        """Path to what it was told last, since the gateway started."""
        self._ready: set[str] = set()
        self._busy: dict[str, str] = {}
        """Path to the attribute that it is being told at the moment."""
        self._to_ask: dict[str, None] = {}
        """Paths about which ThingsBoard has to be asked, each once, in order."""
        self._questions = 0
        self._retry: IDelayedCall | None = None
        self._silent: set[str] = set()
        """Paths of those that are connected and did not answer."""
        self._again: IDelayedCall | None = None

    def attributes_changed(self, device: str, values: Mapping[str, Value]) -> None:
        """Shared attributes of a device were set."""
        for path in self._reports.paths_of(device):
            self._take(path, values)

    def ready(self, station: IStation) -> None:
        """It can be told things now (see `StationReports.on_ready`)."""
        path = station.path
        self._ready.add(path)
        self._silent.discard(path)
        self._want(path)
        self._ask()
        self._tell(path)

    def session_began(self) -> None:
        """There is a new session with ThingsBoard: what changed before it is not known."""
        self._to_ask.clear()
        for path in sorted(self._ready):
            self._want(path)
        self._ask()

    def _want(self, path: str) -> None:
        if self._names(path):
            self._to_ask[path] = None

    def gone(self, station: IStation) -> None:
        """Its connection is over."""
        self._ready.discard(station.path)
        self._silent.discard(station.path)

    @property
    def waiting(self) -> int:
        """Charge points that have not been told everything."""
        return len(self._waiting)

    def close(self) -> None:
        """The connector stops."""
        self._to_ask.clear()
        self._ready.clear()
        self._silent.clear()
        for timer in (self._retry, self._again):
            if timer is not None:
                timer.cancel()
        self._retry = self._again = None

    def _names(self, path: str) -> dict[str, list[tuple[ChargePointUpdate, CallTemplate]]]:
        """The configured attributes of a charge point."""
        station = self._stations.get(path)
        point: ChargePoint | None = (
            find_point(self._config, path, path.rpartition("/")[2]) if station is None else station.data
        )
        return self._entries.get(id(point), {})

    def _take(self, path: str, values: Mapping[str, Value]) -> None:
        names = self._names(path)
        fit = {key: value for key, value in values.items() if key in names}
        if not fit:
            return
        waiting = self._waiting.setdefault(path, {})
        for key, value in fit.items():
            waiting.pop(key, None)  # the newest last
            waiting[key] = value
        if len(self._waiting) > MAX_WAITING:
            forgotten, _ = self._waiting.popitem(last=False)
            self._events.emit(UpdatesForgotten(self._connector, forgotten))
        self._tell(path)

    def _tell(self, path: str) -> None:
        """Tell it the next value, if there is one and it can be told."""
        station = self._stations.get(path)
        waiting = self._waiting.get(path)
        if station is None or path not in self._ready or path in self._busy or not waiting:
            return
        key = next(iter(waiting))
        value = waiting.pop(key)
        if not waiting:
            del self._waiting[path]
        self._busy[path] = key
        Deferred.fromCoroutine(self._deliver(station, key, value)).addErrback(self._lost, path, key)

    async def _deliver(self, station: IStation, key: str, value: Value) -> None:
        path = station.path
        device = self._reports.device_of(path)
        names = {"attributeKey": key, "attributeValue": value, "deviceName": device.name if device else ""}
        try:
            for update, template in self._names(path).get(key, ()):
                request = self._commands.carried(station, update, template.text(names))
                timeout = self._commands.timeout_of(station.data, update)
                result = await self._calls.call(station, request.action, request.payload, timeout)
                self._look_at(path, key, result)
            self._told.setdefault(path, {})[key] = value
        except CommandFailed as error:
            kind = error.answer["type"] if isinstance(error.answer, dict) else ""
            if kind in ("Offline", "Superseded", "Timeout", "NotAccepted", "QueueFull"):
                # It may not have heard it: again when it returns, unless there is something newer.
                waiting = self._waiting.setdefault(path, {})
                if key not in waiting:
                    self._waiting[path] = {key: value, **waiting}
                if self._stations.get(path) is station:
                    # Calls fail before we hear that the connection is gone: nothing more for this one.
                    self._ready.discard(path)
                if kind not in ("Offline", "Superseded"):
                    minutes = round(TRY_AGAIN_SECONDS / 60)
                    self._events.emit(UpdateRefused(self._connector, path, key, f"{error}; again in {minutes} minutes"))
                    self._later(path)
            else:
                self._events.emit(UpdateRefused(self._connector, path, key, str(error)))
        finally:
            self._busy.pop(path, None)
        self._tell(path)

    def _later(self, path: str) -> None:
        if path not in self._stations or path in self._ready:
            return  # another connection of it is there by now, or none
        self._silent.add(path)
        if self._again is None:
            self._again = self._clock.callLater(TRY_AGAIN_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._again = None
        silent, self._silent = self._silent, set()
        self._ready |= silent
        for path in sorted(silent):
            self._tell(path)

    def _look_at(self, path: str, key: str, result: dict[str, Any]) -> None:
        results = result.get("setVariableResult")
        statuses = [item.get("attributeStatus") for item in results] if isinstance(results, list) else []
        statuses += [result["status"]] if "status" in result else []
        for status in statuses:
            if status not in _GOOD:
                self._events.emit(UpdateRefused(self._connector, path, key, f"it answered {status}"))

    def _lost(self, failure: Failure, path: str, key: str) -> None:
        """An error of our own: this value is lost, and the others go on."""
        self._events.emit(UpdateRefused(self._connector, path, key, f"internal error: {type(failure.value).__name__}"))
        self._tell(path)

    # Asking ThingsBoard.

    def _ask(self) -> None:
        while self._to_ask and self._questions < MAX_QUESTIONS and self._downlink is not None:
            path = next(iter(self._to_ask))
            del self._to_ask[path]
            device = self._reports.device_of(path)
            names = self._names(path)
            if device is None or not names or path not in self._stations:
                continue  # it is asked about when it comes again
            self._questions += 1
            answer = self._downlink.request_attributes(device, "shared", list(names))
            answer.addCallbacks(self._found, self._not_found, callbackArgs=(path,), errbackArgs=(path,))

    def _found(self, values: Mapping[str, Value], path: str) -> None:
        self._questions -= 1
        # What was pushed since then is newer than the answer.
        newer = {*self._waiting.get(path, {}), self._busy.get(path)}
        if path not in self._told and not self._config.central_system.resend_attributes:
            self._told[path] = {k: v for k, v in values.items() if k not in newer}
        told = self._told.get(path, {})
        self._take(path, {k: v for k, v in values.items() if k not in newer and (k not in told or told[k] != v)})
        self._ask()

    def _not_found(self, failure: Failure, path: str) -> None:
        failure.trap(LinkDown, NoAnswer)
        self._questions -= 1
        if path not in self._ready and path not in self._silent:
            return  # it is asked about when it comes again
        self._want(path)
        if self._retry is None:
            self._retry = self._clock.callLater(ASK_AGAIN_SECONDS, self._ask_again)

    def _ask_again(self) -> None:
        self._retry = None
        self._ask()

