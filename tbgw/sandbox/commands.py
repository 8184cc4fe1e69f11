"""What an operator does, as commands with JSON: for the page and `tbgw sandbox`, which come over HTTP.

Each is one entry of `_COMMANDS`: its members with their types, and what it does with `Control`. Secrets go in and never
come out: tokens, passwords and provisioning secrets are not told by any command.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.interfaces import ISandboxControl
from tbgw.sandbox import credentials as book
from tbgw.sandbox import ota, profiles
from tbgw.sandbox.control import Control, Refused
from tbgw.sandbox.rpc import Answer

MAX_TIMEOUT_MS = 600_000
"""Longest time that a two-way call may keep its HTTP request waiting."""

_DAY_MS = 24 * 3600 * 1000

Kinds = type | tuple[type, ...]


class _Arguments:
    """The members of one command, each asked for with its type."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = dict(given)
        self._known: set[str] = set()

    def _take(self, name: str, kinds: Kinds, default: Any) -> Any:
        self._known.add(name)
        value = self._given.get(name, default)
        if value is _NEEDED:
            raise Refused(400, f"{name} is missing")
        if value is default:
            return value
        wanted = kinds if isinstance(kinds, tuple) else (kinds,)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise Refused(400, f"{name} is {' or '.join(_NAMES.get(kind, kind.__name__) for kind in wanted)}")
        return value

    def text(self, name: str, default: Any = ...) -> Any:
        """A text."""
        return self._take(name, str, _NEEDED if default is ... else default)

    def flag(self, name: str) -> bool:
        """true or false; false when absent."""
        return bool(self._take(name, bool, False))

    def number(self, name: str, default: int | None, maximum: int) -> Any:
        """A whole number from 0."""
        value = self._take(name, int, default)
        if value is not None and not 0 <= value <= maximum:
            raise Refused(400, f"{name} is 0 to {maximum}")
        return value

    def members(self, name: str, default: Any = ...) -> Any:
        """An object."""
        return self._take(name, dict, _NEEDED if default is ... else default)

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        value = self._take(name, list, _NEEDED)
        if not all(isinstance(one, str) for one in value):
            raise Refused(400, f"{name} is a list of texts")
        return list(value)

    def anything(self, name: str) -> Any:
        """Any JSON value; null when absent."""
        self._known.add(name)
        return self._given.get(name)

    def done(self) -> None:
        """Raises Refused for members that nobody asked for."""
        unknown = set(self._given) - self._known
        if unknown:
            raise Refused(400, f"there is no {', '.join(sorted(unknown))}; there are {', '.join(sorted(self._known))}")


_NEEDED: Any = object()
_NAMES: Mapping[type, str] = {str: "a text", bool: "true or false", int: "a number", dict: "an object", list: "a list"}


@implementer(ISandboxControl)
class Commands:
    """The commands of one sandbox."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def command(self, name: str, arguments: Mapping[str, Any]) -> Deferred[tuple[int, Any]]:
        """As in ISandboxControl."""
        run = _COMMANDS.get(name)
        if run is None:
            return maybeDeferred(lambda: (404, {"error": f"no such command; there are {', '.join(sorted(_COMMANDS))}"}))
        done: Deferred[Any] = maybeDeferred(run, self._control, _Arguments(arguments))
        done.addCallbacks(_answered, _refused)
        return done


def _answered(value: Any) -> tuple[int, Any]:
    if isinstance(value, Answer):
        return value.status, {"error": value.body} if value.status >= 400 else {"response": _parsed(value.body)}
    return 200, {} if value is None else value


def _refused(failure: Failure) -> tuple[int, Any]:
    failure.trap(Refused)
    refused = failure.value
    assert isinstance(refused, Refused)  # noqa: S101 - for mypy: trapped just now
    return refused.status, {"error": str(refused)}


def _parsed(body: str) -> Any:
    return json.loads(body) if body else None


def _credentials(value: Any) -> book.Credentials:
    try:
        return book.from_json(value)
    except ValueError as error:
        raise Refused(400, str(error)) from None


def _devices(control: Control, given: _Arguments) -> Any:
    given.done()
    return {"devices": [control.device_as_json(name) for name in control.platform.devices]}


def _device(control: Control, given: _Arguments) -> Any:
    name = given.text("device")
    given.done()
    return control.device_as_json(name)


def _create(control: Control, given: _Arguments) -> Any:
    name, profile = given.text("device"), given.text("profile", "default")
    gateway, overwrite = given.flag("gateway"), given.flag("overwriteActivityTime")
    credentials = given.members("credentials", None)
    given.done()
    held = None if credentials is None else _credentials(credentials)
    control.create(name, profile, gateway=gateway, credentials=held, overwrite_activity_time=overwrite)


def _rename(control: Control, given: _Arguments) -> Any:
    device, name = given.text("device"), given.text("name")
    given.done()
    control.rename(device, name)


def _delete(control: Control, given: _Arguments) -> Any:
    device = given.text("device")
    given.done()
    control.delete(device)


def _set_credentials(control: Control, given: _Arguments) -> Any:
    device, credentials = given.text("device"), given.members("credentials")
    given.done()
    control.set_credentials(device, _credentials(credentials))


def _gateway(control: Control, given: _Arguments) -> Any:
    device, gateway = given.text("device"), given.flag("gateway")
    overwrite = given.flag("overwriteActivityTime")
    given.done()
    control.set_gateway(device, gateway=gateway, overwrite_activity_time=overwrite)


def _set(control: Control, given: _Arguments) -> Any:
    device, values = given.text("device"), given.members("values")
    given.done()
    control.set_attributes(device, values)


def _unset(control: Control, given: _Arguments) -> Any:
    device, keys = given.text("device"), given.texts("keys")
    given.done()
    return {"deleted": control.delete_attributes(device, keys)}


def _rpc(control: Control, given: _Arguments) -> Any:
    device, method, params = given.text("device"), given.text("method"), given.anything("params")
    one_way, persistent = given.flag("oneWay"), given.flag("persistent")
    timeout_ms = given.number("timeoutMs", 10_000, MAX_TIMEOUT_MS)
    retries = given.number("retries", 5, 5)
    expires_in_ms = given.number("expiresInMs", None, 30 * _DAY_MS)
    given.done()
    return control.call(
        device,
        method,
        params,
        two_way=not one_way,
        timeout_ms=timeout_ms,
        persistent=persistent,
        retries=retries,
        expires_in_ms=expires_in_ms,
    )


def _rpc_status(control: Control, given: _Arguments) -> Any:
    call_id = given.text("id")
    given.done()
    return control.persistent_call(call_id)


def _claim(control: Control, given: _Arguments) -> Any:
    device, customer, secret = given.text("device"), given.text("customer"), given.text("secretKey", "")
    given.done()
    result = control.claim(device, customer, secret)
    if result != "SUCCESS":
        raise Refused(400, result)
    return {"response": result}


def _unclaim(control: Control, given: _Arguments) -> Any:
    device = given.text("device")
    given.done()
    control.unclaim(device)


def _profile(control: Control, given: _Arguments) -> Any:
    wanted = given.members("profile")
    given.done()
    try:
        control.set_profile(profiles.from_json(wanted))
    except ValueError as error:
        raise Refused(400, str(error)) from None


def _profiles(control: Control, given: _Arguments) -> Any:
    given.done()
    return {
        "profiles": [
            {key: value for key, value in asdict(one).items() if value and key != "secret"}
            for one in control.profiles()
        ]
    }


def _package_add(control: Control, given: _Arguments) -> Any:
    kind, title, version = given.text("kind"), given.text("title"), given.text("version")
    tag, algorithm = given.text("tag", ""), given.text("algorithm", "SHA256")
    checksum, url = given.text("checksum", None), given.text("url", "")
    data = given.text("data", "")
    given.done()
    try:
        content = base64.b64decode(data, validate=True)
        package = ota.make_package(
            kind, title, version, content, tag=tag, algorithm=algorithm, checksum=checksum, url=url
        )
    except (binascii.Error, ValueError) as error:
        raise Refused(400, str(error)) from None
    control.add_package(package)
    return {"size": len(content), "checksum": package.checksum}


def _packages(control: Control, given: _Arguments) -> Any:
    given.done()
    return {
        "packages": [
            {**package._asdict(), "data": None, "size": len(package.data)}
            for package in control.platform.packages.values()
        ]
    }


def _package_remove(control: Control, given: _Arguments) -> Any:
    kind, title, version = given.text("kind"), given.text("title"), given.text("version")
    given.done()
    control.remove_package(kind, title, version)


def _assign(control: Control, given: _Arguments) -> Any:
    device, kind = given.text("device"), given.text("kind")
    title, version = given.text("title"), given.text("version")
    given.done()
    control.assign_package(device, kind, title, version)


def _unassign(control: Control, given: _Arguments) -> Any:
    device, kind = given.text("device"), given.text("kind")
    given.done()
    if kind not in ota.KINDS:
        raise Refused(400, "kind is fw or sw")
    control.unassign_package(device, kind)


def _limits(control: Control, given: _Arguments) -> Any:
    wanted = given.members("limits", None)
    given.done()
    if wanted is not None:
        control.set_limits(wanted)
    return control.platform.session_limits


def _switches(control: Control, given: _Arguments) -> Any:
    wanted = given.members("switches", None)
    given.done()
    if wanted is not None:
        control.set_switches(wanted)
    return control.switches_as_json()


def _cut(control: Control, given: _Arguments) -> Any:
    device = given.text("device", None)
    given.done()
    return {"cut": control.cut(device)}


_COMMANDS: Mapping[str, Callable[[Control, _Arguments], Any]] = {
    "devices": _devices,
    "device": _device,
    "create": _create,
    "rename": _rename,
    "delete": _delete,
    "credentials": _set_credentials,
    "gateway": _gateway,
    "set": _set,
    "unset": _unset,
    "rpc": _rpc,
    "rpc-status": _rpc_status,
    "claim": _claim,
    "unclaim": _unclaim,
    "profile": _profile,
    "profiles": _profiles,
    "package-add": _package_add,
    "packages": _packages,
    "package-remove": _package_remove,
    "assign": _assign,
    "unassign": _unassign,
    "limits": _limits,
    "switches": _switches,
    "cut": _cut,
}
