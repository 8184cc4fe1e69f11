# -*- test-case-name: tests.uplink.test_gateway_rpc -*-
"""Commands for the gateway itself: the reference's table of `gateway_*` methods, each with its reply (spec
reference-gateway, A8.1; configuration-and-apis, 8.4).

Invariants:

* Every method is answered: what does not exist with the reference's 404, what is not allowed with 403 and the key of
  the configuration that allows it.
* Only methods in `remoteMethods` are carried out (P-19). Restarting the whole machine is not among them unless asked
  for. A remote shell is never offered: its methods are answered by name.
* `{}`, `"{}"`, `""` and null are all "no parameters": ThingsBoard's own widgets send each of them (the reference fails
  on `{}`, C-43).

What the methods do is given as `Actions`; here is only what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from tbgw.errors import CommandFailed
from tbgw.internal_events import Events
from tbgw.model import Value
from tbgw.thingsboard import payloads
from tbgw.uplink.internal_events import RemoteCommand

MAX_DELAY_SECONDS = 24 * 3600
"""Longest delay of a restart: longer is a slip."""

SHORTEST_DELAY_SECONDS = 1.0
"""As in the reference: the answer has to be sent before the restart."""

METHODS = (
    "gateway_ping",
    "gateway_devices",
    "gateway_version",
    "gateway_update",
    "gateway_stats",
    "gateway_restart",
    "gateway_restart_connector",
    "gateway_device_renamed",
    "gateway_device_deleted",
    "gateway_remove_provisioned_credentials",
)
"""What may be asked for unless the configuration says otherwise."""

REBOOT = "gateway_reboot"
"""Has to be allowed."""

ALL_METHODS = (*METHODS, REBOOT)

SHELL_METHODS = ("getTermInfo", "sendCommand", "getCommandStatus", "terminateCommand")
"""What the reference's remote shell listens to."""


@dataclass(frozen=True)
class Actions:
    """What the gateway does. None of them blocks."""

    devices: Callable[[], Mapping[str, str]]
    """Name in ThingsBoard to name of the connector, of the devices that are connected."""
    counts: Callable[[], Mapping[str, int]]
    """`eventsProduced`, `eventsSent`, and `<connector>EventsProduced` for each."""
    version: str
    restart: Callable[[float], None]
    """Stop in good order and start anew, after so many seconds."""
    reboot: Callable[[float], None]
    """The same with the whole machine."""
    restart_connector: Callable[[str], Deferred[None]]
    """Make a connector anew; fails with CommandFailed when there is none of that name."""
    renamed: Callable[[str, str], Deferred[None]]
    """A device has a new name; fires when that cannot be forgotten any more."""
    deleted: Callable[[str], Deferred[None]]
    """A device was deleted."""
    remove_credentials: Callable[[], Deferred[bool]]
    """Forget provisioned credentials; False when there are none. Fails with OSError."""


class GatewayCommands:
    """`carry_out` takes (method, params), as `IConnector.command` without the device."""

    def __init__(
        self, actions: Actions, events: Events, allowed: Collection[str] = METHODS, follow_renaming: bool = True
    ) -> None:
        self._actions = actions
        self._events = events
        self.allowed = allowed
        self.follow_renaming = follow_renaming
        self._methods: Mapping[str, Callable[[Value], Any]] = {
            "gateway_ping": lambda params: _good("pong"),
            "gateway_devices": lambda params: _good(dict(actions.devices())),
            "gateway_version": lambda params: _good({"current_version": actions.version, "latest_version": "unknown"}),
            "gateway_update": self._update,
            "gateway_stats": lambda params: dict(actions.counts()),
            "gateway_restart": lambda params: self._later(actions.restart, params),
            "gateway_reboot": lambda params: self._later(actions.reboot, params),
            "gateway_restart_connector": self._restart_connector,
            "gateway_device_renamed": self._renamed,
            "gateway_device_deleted": self._deleted,
            "gateway_remove_provisioned_credentials": self._remove_credentials,
        }

    def carry_out(self, method: str, params: Value) -> Deferred[Value]:
        """Fires with the reply; fails with CommandFailed, which bears the reference's code."""
        return maybeDeferred(self._carry_out, method, params)

    def _carry_out(self, method: str, params: Value) -> Any:
        if method == "remove_provisioned_credentials":  # as the head of the reference's page spells it (G19)
            method = "gateway_remove_provisioned_credentials"
        if method in SHELL_METHODS:
            raise CommandFailed("a remote shell is not offered, whatever thingsboard.remoteShell says", 403)
        what = self._methods.get(method)
        if what is None:
            unknown = "Method not found" if method.startswith("gateway_") else _no_connector(method)
            raise CommandFailed(unknown, 404)
        if method not in self.allowed:
            raise CommandFailed(f"{method} is not allowed: it is not in thingsboard.remoteMethods", 403)
        if method not in ("gateway_ping", "gateway_devices", "gateway_version", "gateway_stats"):
            self._events.emit(RemoteCommand(method=method))
        return what(None if params in ({}, [], "", "{}") else params)

    def _update(self, params: Value) -> Value:
        return _good(f"tbgw {self._actions.version} does not update itself: use the system's packages or pip.")

    def _later(self, action: Callable[[float], None], params: Value) -> Value:
        seconds: Any = params
        if isinstance(params, dict):
            seconds = params.get("seconds", params.get("timeout"))
        try:
            delay = float(seconds) if seconds is not None else 0.0
        except (TypeError, ValueError):
            raise CommandFailed("the parameter is a number of seconds", 400) from None
        if not 0 <= delay <= MAX_DELAY_SECONDS:
            raise CommandFailed(f"the parameter is a number of seconds, up to {MAX_DELAY_SECONDS}", 400)
        action(max(SHORTEST_DELAY_SECONDS, delay))
        return {"success": True}

    async def _restart_connector_now(self, name: str) -> Value:
        await self._actions.restart_connector(name)
        return {"success": True}

    def _restart_connector(self, params: Value) -> Deferred[Value]:
        name = params.get("name") if isinstance(params, dict) else params
        if not isinstance(name, str):
            raise CommandFailed("the parameter is the name of a connector", 400)
        return Deferred.fromCoroutine(self._restart_connector_now(name))

    def _renamed(self, params: Value) -> Deferred[Value]:
        self._check_follows()
        if not isinstance(params, dict) or not params:
            raise CommandFailed('the parameter is {"old name": "new name"}', 400)
        for new in params.values():
            if not isinstance(new, str) or not payloads.is_device_name(new):
                raise CommandFailed("a new name is no name for a device", 400)
        return Deferred.fromCoroutine(self._rename(dict(params)))

    async def _rename(self, names: Mapping[str, str]) -> Value:
        for old, new in names.items():
            await self._actions.renamed(old, new)
        return {"success": True}

    def _deleted(self, params: Value) -> Deferred[Value]:
        self._check_follows()
        name = params.get("name", params.get("device")) if isinstance(params, dict) else params
        if not isinstance(name, str):
            raise CommandFailed("the parameter is the name of a device", 400)
        return Deferred.fromCoroutine(self._delete(name))

    async def _delete(self, name: str) -> Value:
        await self._actions.deleted(name)
        return {"success": True}

    def _check_follows(self) -> None:
        if not self.follow_renaming:
            raise CommandFailed("thingsboard.handleDeviceRenaming is off", 403)

    def _remove_credentials(self, params: Value) -> Deferred[Value]:
        return Deferred.fromCoroutine(self._remove())

    async def _remove(self) -> Value:
        try:
            removed = await self._actions.remove_credentials()
        except OSError as error:
            raise CommandFailed(f"the credentials cannot be removed: {error.strerror or error}", 500) from None
        if not removed:
            raise CommandFailed("Provisioned credentials file not found.", 404)
        return _good("Provisioned credentials file removed successfully.")


def _good(resp: Value) -> Value:
    return {"code": 200, "resp": resp}


def _no_connector(method: str) -> str:
    kind = method.partition("_")[0]
    return f"{kind} - connector not found in available connectors."
