# -*- test-case-name: tests.connectors.ocpp.test_commands -*-
"""Commands from ThingsBoard to charge points (spec ocpp, 3.3). A method is looked for in this order:

1. `serverSideRpc` of the charge point's entry: with `action` the Call that it names, whose payload is what
   `valueExpression` gives; without, a DataTransfer with that as its data, as the existing gateway sends it.
2. `get` and `set`, see `reserved`.
3. An action of the version that is spoken, if `nativeRpc` allows it, with the payload as parameters, its keys in either
   spelling.
4. An alias, see `aliases`.

Every command is answered: `{"result": <the payload of the CALLRESULT>}`, with the ids that were made up beside it and
the `values` of a configuration; or `{"error": {"type", "message"}}` by the names in `failures`. A `status` of Rejected
is a result. With `withResponse` false the answer is `{"success": true}` at once, and a Call that fails is logged.
Nothing is sent that breaks its schema.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from tbgw.connectors.ocpp.aliases import ALIASES, Circumstances, Request, alias, native
from tbgw.connectors.ocpp.calls import Calls
from tbgw.connectors.ocpp.config import ChargePoint, ChargePointRpc, ChargePointUpdate, OCPPConfig
from tbgw.connectors.ocpp.failures import bad_parameters, failed, offline, unknown_device
from tbgw.connectors.ocpp.internal_events import CallUnanswered
from tbgw.connectors.ocpp.reports import StationReports
from tbgw.connectors.ocpp.reserved import reserved
from tbgw.connectors.ocpp.security import find_point
from tbgw.connectors.ocpp.templates import CallTemplate, for_rpc, payload_of
from tbgw.errors import CommandFailed
from tbgw.internal_events import Events
from tbgw.model import Value
from tbgw.ocpp.actions import central_actions
from tbgw.ocpp.interfaces import IStation
from tbgw.ocpp.schemas import wire_keys
from tbgw.ocpp.versions import Version

MAX_REQUEST_ID = 2**31 - 1


class Commands:
    """See the module. One for each connector."""

    def __init__(
        self,
        connector: str,
        config: OCPPConfig,
        stations: Mapping[str, IStation],
        reports: StationReports,
        calls: Calls,
        events: Events,
        now_ms: Callable[[], int],
    ) -> None:
        """`stations`: those that are connected, by path. Raises ExpressionError."""
        self._connector = connector
        self._config = config
        self._stations = stations
        self._reports = reports
        self._calls = calls
        self._events = events
        self._now_ms = now_ms
        # Seconds since the epoch, so that a number is not used again after a restart.
        self._ids = itertools.count(now_ms() // 1000 % (MAX_REQUEST_ID // 2))
        self._rpcs: dict[int, dict[str, tuple[ChargePointRpc, CallTemplate]]] = {
            id(point): {rpc.method: (rpc, for_rpc(rpc.value)) for rpc in reversed(point.rpcs)}
            for point in config.charge_points
        }

    def command(self, device: str, method: str, params: Value) -> Deferred[Value]:
        """See `IConnector.command`."""
        paths = self._reports.paths_of(device)
        if not paths:
            return fail(unknown_device("the device is not known here"))
        stations = [self._stations[path] for path in paths if path in self._stations]
        if not stations:
            return fail(self._away(paths[0], method))
        return self.to_station(stations[0], method, params, self._reports.connector_of(device), device)

    def to_path(self, path: str, method: str, params: Value) -> Deferred[Value]:
        """A command for a charge point by its path, or by its id if only one has it. Fails as `command`."""
        station = self._stations.get(path)
        if station is None:
            found = [one for one in self._stations.values() if one.identity == path]
            if len(found) != 1:
                return fail(unknown_device("no charge point of this path or id is connected here"))
            station = found[0]
        return self.to_station(station, method, params, None, "")

    def to_station(
        self, station: IStation, method: str, params: Value, connector_id: int | None, device: str
    ) -> Deferred[Value]:
        """The command for one that is connected."""
        point: ChargePoint = station.data
        found = self._rpcs.get(id(point), {}).get(method)
        try:
            if found is not None:
                return self._configured(station, *found, method, params, device)
            request, timeout = self._request(station, point, method, params, connector_id)
        except CommandFailed as error:
            return fail(error)
        return self._call(station, request, timeout)

    def timeout_of(self, point: ChargePoint, entry: ChargePointRpc | ChargePointUpdate | None = None) -> float:
        """How long an answer is waited for, in seconds."""
        stated = (entry.timeout_seconds if entry is not None else None, point.call_timeout_seconds)
        return next((one for one in stated if one is not None), self._config.central_system.call_timeout_seconds)

    def _request(
        self, station: IStation, point: ChargePoint, method: str, params: Value, connector_id: int | None
    ) -> tuple[Request, float]:
        about = self._circumstances(station, connector_id)
        timeout = self.timeout_of(point)
        if method in ("get", "set"):
            made = reserved(method, params, about)
            return made.request, made.timeout_seconds or timeout
        if method in central_actions(station.version) and self._allows(point, method):
            return native(method, _wire(station.version, method, params), about), timeout
        if method in ALIASES:
            return alias(method, params, about), timeout
        raise self._unknown(station.version, method)

    def _allows(self, point: ChargePoint, method: str) -> bool:
        allowed = self._config.central_system.native_rpc if point.native_rpc is None else point.native_rpc
        return allowed if isinstance(allowed, bool) else method in allowed

    def _unknown(self, version: Version, method: str) -> CommandFailed:
        shown = method[:100]
        if method in central_actions(version):
            return failed("UnknownMethod", f"nativeRpc does not allow {shown}")
        if any(method in central_actions(other) for other in Version):
            return failed("UnknownMethod", f"{shown} is no action of {version.value}, which the charge point speaks")
        return failed("UnknownMethod", f"unknown method: {shown}")

    def _away(self, path: str, method: str) -> CommandFailed:
        """What is said of one that is not connected; a method that does not exist at all is told first."""
        point = find_point(self._config, path, path.rpartition("/")[2])
        known = method in ("get", "set") or method in ALIASES or any(method in central_actions(one) for one in Version)
        if not known and (point is None or method not in self._rpcs.get(id(point), {})):
            return failed("UnknownMethod", f"unknown method: {method[:100]}")
        return offline()

    def _circumstances(self, station: IStation, connector_id: int | None) -> Circumstances:
        return Circumstances(
            version=station.version,
            next_id=lambda: next(self._ids) % MAX_REQUEST_ID + 1,
            transaction_of=lambda place: self._reports.transaction_of(station.path, place),
            now=datetime.fromtimestamp(self._now_ms() / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            connector_id=connector_id,
        )

    def _configured(
        self, station: IStation, rpc: ChargePointRpc, template: CallTemplate, method: str, params: Value, device: str
    ) -> Deferred[Value]:
        names = {"params": params, "method": method, "methodName": method, "deviceName": device}
        request = self.carried(station, rpc, template.text(names))
        answer = self._call(station, request, self.timeout_of(station.data, rpc))
        if rpc.with_response:
            return answer
        answer.addErrback(self._unanswered, station, request.action)
        done: Deferred[Value] = Deferred()
        done.callback({"success": True})
        return done

    def carried(self, station: IStation, entry: ChargePointRpc | ChargePointUpdate, text: str | None) -> Request:
        """The Call of a configured entry that carries this text. Raises CommandFailed."""
        if entry.action is None:
            payload: dict[str, Any] = {"vendorId": entry.vendor_id}
            if entry.message_id is not None:
                payload["messageId"] = entry.message_id
            if text is not None:
                payload["data"] = text
            return Request("DataTransfer", payload)
        if entry.action not in central_actions(station.version):
            raise self._unknown(station.version, entry.action)
        payload = _wire(station.version, entry.action, payload_of(text))
        return native(entry.action, payload, self._circumstances(station, None))

    def _call(self, station: IStation, request: Request, timeout: float) -> Deferred[Value]:
        def answered(result: dict[str, Any]) -> Value:
            values = {"values": request.values(result)} if request.values is not None else {}
            return {"result": result, **request.more, **values}

        return self._calls.call(station, request.action, request.payload, timeout).addCallback(answered)

    def _unanswered(self, failure: Failure, station: IStation, action: str) -> None:
        failure.trap(CommandFailed)
        self._events.emit(CallUnanswered(self._connector, station.path, action, str(failure.value)))

    # The gateway's own commands: `ocpp_...`.

    def own_command(self, method: str, params: Value) -> Deferred[Value]:
        """See `IConnector.own_command`: the charge point is named by `device`, or by `chargePoint`, its path or id."""
        if not isinstance(params, dict):
            return fail(bad_parameters('write {"device": "...", "params": ...} or {"chargePoint": "...", ...}'))
        if isinstance(params.get("device"), str):
            return self.command(params["device"], method, params.get("params"))
        if isinstance(params.get("chargePoint"), str):
            return self.to_path(params["chargePoint"].strip("/"), method, params.get("params"))
        return fail(bad_parameters("neither device nor chargePoint is named"))


def _wire(version: Version, action: str, params: Value) -> dict[str, Any]:
    if params is None or params == "":
        params = {}
    if not isinstance(params, dict):
        raise bad_parameters(f"the parameters of {action} have to be an object")
    return wire_keys(version, action, params)


