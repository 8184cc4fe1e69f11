# -*- test-case-name: tests.connectors.ocpp.test_calls -*-
"""The one way by which a Call of ours goes out, and what has to be seen to around it.

* While a boot is Rejected nothing is sent; while it is Pending nothing that would start or stop charging (2.1).
* To a charge point whose certificate is still to be proven by its serial nothing is sent: it may be another one.
* A message that we ask for (TriggerMessage, GetBaseReport) is announced upward, so that it is let in while Pending.
* A new password (AuthorizationKey of 1.6, SecurityCtrlr.BasicAuthPassword of 2.x) is on our disk, as a hash, before the
  charge point is told of it; once it has taken it, no other is good (see `ledger`). A charge point that has to boot
  first may still come with either.
* Time-outs, and the configuration in a result, are reported upward, whoever has asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from tbgw.connectors.ocpp.failures import bad_parameters, failed, named
from tbgw.connectors.ocpp.hashing import Hashing
from tbgw.connectors.ocpp.passwords import PasswordHash, hash_password
from tbgw.connectors.ocpp.reports import StationReports
from tbgw.connectors.ocpp.security import Doorkeeper
from tbgw.ocpp.errors import CallErrorReceived, CallQueueFull, CallTimedOut, PayloadInvalid
from tbgw.ocpp.interfaces import IStation

OWN_LOG2_N = 12
"""Cost of the hashes that we make: the passwords are random keys of 16 bytes and more."""

_CHARGING = frozenset(
    ("RemoteStartTransaction", "RemoteStopTransaction", "RequestStartTransaction", "RequestStopTransaction")
)
_ASKED_FOR = {
    "GetBaseReport": "NotifyReport",
    "GetReport": "NotifyReport",
    "GetMonitoringReport": "NotifyMonitoringReport",
    "GetLog": "LogStatusNotification",
    "UpdateFirmware": "FirmwareStatusNotification",
}


class Calls:
    """See the module. One for each connector."""

    def __init__(
        self,
        reports: StationReports,
        doorkeeper: Doorkeeper,
        hashing: Hashing,
        identity_of: Callable[[IStation], str],
        is_proven: Callable[[IStation], bool] = lambda _: True,
    ) -> None:
        """`identity_of`: the id under which the charge point logged in; `is_proven`: whether that is certain by now."""
        self._reports = reports
        self._doorkeeper = doorkeeper
        self._hashing = hashing
        self._identity_of = identity_of
        self._is_proven = is_proven

    def call(
        self, station: IStation, action: str, payload: dict[str, Any], timeout_seconds: float
    ) -> Deferred[dict[str, Any]]:
        """Fires with the result's payload; fails with CommandFailed, by the names in `failures`. May be cancelled."""
        if not self._is_proven(station):
            return fail(failed("NotAccepted", "its BootNotification did not bear the serial of its certificate yet"))
        status = self._reports.boot_status(station.path)
        if status == "Rejected" or (status == "Pending" and action in _CHARGING):
            return fail(failed("NotAccepted", f"its BootNotification was answered with {status}"))
        expected = payload.get("requestedMessage") if "TriggerMessage" in action else _ASKED_FOR.get(action)
        if isinstance(expected, str):
            self._reports.expect(station.path, expected)
        try:
            password = new_password(action, payload)
        except ValueError:
            return fail(bad_parameters("an AuthorizationKey is written as hexadecimal digits, 40 for its 20 bytes"))
        if password is not None:
            answer = self._change_password(station, action, payload, timeout_seconds, password)
        else:
            answer = station.call(action, payload, timeout_seconds)
        return answer.addCallbacks(
            self._answered, self._not_answered, callbackArgs=(station.path, action), errbackArgs=(station.path,)
        )

    def _answered(self, result: dict[str, Any], path: str, action: str) -> dict[str, Any]:
        if action == "GetConfiguration":
            self._reports.tell_configuration(path, result.get("configurationKey"))
        return result

    def _not_answered(self, failure: Failure, path: str) -> Failure:
        if failure.check(CallTimedOut) is not None:
            self._reports.call_timed_out(path)
        return named(failure)

    def _change_password(
        self, station: IStation, action: str, payload: dict[str, Any], timeout_seconds: float, password: bytes
    ) -> Deferred[dict[str, Any]]:
        identity = self._identity_of(station)

        async def change() -> dict[str, Any]:
            made = await self._hashing.make(password, lambda given: hash_password(given, OWN_LOG2_N))
            if made is None:
                raise failed("QueueFull", "too many passwords wait to be hashed")
            try:
                await self._doorkeeper.password_offered(identity, made)
            except OSError:
                raise failed("Failed", "the new password cannot be kept here, so it was not sent") from None
            return await self._told(station, action, payload, timeout_seconds, identity, made)

        return Deferred.fromCoroutine(change())

    async def _told(
        self,
        station: IStation,
        action: str,
        payload: dict[str, Any],
        timeout_seconds: float,
        identity: str,
        made: PasswordHash,
    ) -> dict[str, Any]:
        try:
            result = await station.call(action, payload, timeout_seconds)
        except (CallErrorReceived, CallQueueFull, PayloadInvalid):
            self._doorkeeper.password_declined(identity, made)
            raise
        status = _password_status(action, payload, result)
        if status == "Accepted":
            await self._doorkeeper.password_taken(identity, made)
        elif status != "RebootRequired":
            self._doorkeeper.password_declined(identity, made)
        return result


def new_password(action: str, payload: dict[str, Any]) -> bytes | None:
    """The password that a Call would set; None for any other. Raises ValueError for one that is no AuthorizationKey."""
    if action == "ChangeConfiguration":
        key, value = payload.get("key"), payload.get("value")
        if not isinstance(key, str) or key.lower() != "authorizationkey" or not isinstance(value, str):
            return None
        if not re.fullmatch(r"(?:[0-9A-Fa-f]{2}){8,20}", value):
            raise ValueError
        return bytes.fromhex(value)
    items = payload.get("setVariableData") if action == "SetVariables" else None
    for item in items if isinstance(items, list) else ():
        if _is_password(item) and isinstance(item.get("attributeValue"), str):
            value = item["attributeValue"]
            return str(value).encode()
    return None


def _is_password(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    component, variable = item.get("component"), item.get("variable")
    return (
        isinstance(component, dict)
        and isinstance(variable, dict)
        and str(component.get("name")).lower() == "securityctrlr"
        and str(variable.get("name")).lower() == "basicauthpassword"
    )


def _password_status(action: str, payload: dict[str, Any], result: dict[str, Any]) -> str:
    if action == "ChangeConfiguration":
        return str(result.get("status"))
    results = result.get("setVariableResult")
    for item in results if isinstance(results, list) else ():
        if _is_password(item):
            return str(item.get("attributeStatus"))
    return ""


