"""The session of a device that has no credentials yet: `/provision/request` (spec thingsboard-mqtt, 5.2). Pure."""

from __future__ import annotations

import hmac
import secrets
import string
from typing import TYPE_CHECKING, Any, NamedTuple

from tbgw.sandbox import credentials as kinds
from tbgw.sandbox import values
from tbgw.sandbox.credentials import Credentials, certificate_text
from tbgw.sandbox.outcomes import Verdict
from tbgw.sandbox.profiles import ALLOW_CREATE, CHECK_PRE_PROVISIONED, DeviceProfile
from tbgw.sandbox.token import make_token
from tbgw.sandbox.values import BadPayload, ConversionFault
from tbgw.thingsboard import payloads

if TYPE_CHECKING:
    from tbgw.sandbox.platform import Platform

USER = "provision"
"""The user name, or client id, of such a session."""
REQUEST = "/provision/request"
RESPONSE = "/provision/response"

IDLE_SECONDS = 60
"""After a response the server closes so much later."""

_ALPHANUMERIC = string.ascii_letters + string.digits

_NOT_FOUND = {"status": "NOT_FOUND", "errorMsg": "Provision data was not found!"}
_FAILURE = {"status": "FAILURE", "errorMsg": "Failed to provision device!"}


class Provisioned(NamedTuple):
    """What became of one PUBLISH of a provisioning session."""

    verdict: Verdict
    response: bytes | None = None


def provision(platform: Platform, topic: str, payload: bytes, now_ms: int) -> Provisioned:
    """Take over one PUBLISH. Never raises for what is in it."""
    if topic != REQUEST:
        return Provisioned(Verdict.NOT_PROVISIONING)
    try:
        root = values.parse(payload)
        if not isinstance(root, dict):
            raise BadPayload("a provisioning request is an object")
        answer = _answer(platform, root, now_ms)
    except BadPayload:
        return Provisioned(Verdict.BAD_PAYLOAD)
    except ConversionFault:
        return Provisioned(Verdict.GATEWAY_FAULT)
    return Provisioned(Verdict.ACCEPTED, payloads.encode(answer))


def _answer(platform: Platform, root: dict[str, Any], now_ms: int) -> dict[str, Any]:
    key, secret = _text(root, "provisionDeviceKey"), _text(root, "provisionDeviceSecret")
    if key is None or secret is None:
        raise ConversionFault("a provisioning request has key and secret")
    kind = _text(root, "credentialsType") or kinds.ACCESS_TOKEN
    if kind not in kinds.KINDS:
        raise ConversionFault("no such type of credentials")
    wanted = {name: _text(root, name) for name in ("token", "clientId", "username", "password", "hash")}
    gateway = root.get("gateway", False)
    if not isinstance(gateway, bool):
        gateway = values.text_of(gateway) == "true"
    name = _text(root, "deviceName")
    profile = _profile_of(platform, key, secret)
    if profile is None:
        return _NOT_FOUND
    if name is not None and name and not name.strip():
        return _FAILURE
    name = (name or "").strip() or "".join(secrets.choice(_ALPHANUMERIC) for _ in range(20))
    device = platform.devices.get(name)
    if profile.strategy == CHECK_PRE_PROVISIONED:
        held = platform.credentials.of(device.id) if device is not None else None
        if device is None or held is None or device.profile != profile.name or device.more.get("provisioned"):
            return _FAILURE
        platform.mark(device, provisioned=True)
        return _success(held)
    if device is not None:
        return _FAILURE
    try:
        given = _credentials(kind, wanted)
        device = platform.create(name, profile.name, now_ms, gateway=gateway)
    except (ValueError, platform.Refused):
        return _FAILURE
    try:
        platform.set_credentials(device, given)
    except ValueError:
        platform.delete(device)
        return _FAILURE
    platform.mark(device, provisioned=True)
    return _success(given)


def _success(held: Credentials) -> dict[str, Any]:
    return {"status": "SUCCESS", "credentialsType": held.kind, "credentialsValue": held.provisioned_value()}


def _credentials(kind: str, wanted: dict[str, str | None]) -> Credentials:
    if kind == kinds.ACCESS_TOKEN:
        return Credentials(kind, token=wanted["token"] or make_token())
    if kind == kinds.X509_CERTIFICATE:
        return Credentials(kind, certificate=certificate_text(wanted["hash"] or ""))
    return Credentials(
        kind,
        client_id=wanted["clientId"] or "",
        username=wanted["username"] or "",
        password=wanted["password"] or "",
    )


def _profile_of(platform: Platform, key: str, secret: str) -> DeviceProfile | None:
    found = None
    for profile in platform.profiles.values():  # all of them, so that the time tells nothing
        right = hmac.compare_digest(profile.key.encode(), key.encode("utf-8", "replace"))
        right &= hmac.compare_digest(profile.secret.encode(), secret.encode("utf-8", "replace"))
        if right and profile.strategy in (ALLOW_CREATE, CHECK_PRE_PROVISIONED):
            found = profile
    return found


def _text(root: dict[str, Any], name: str) -> str | None:
    """A member as text; None when absent. JSON null trips the server up. Raises ConversionFault."""
    return values.text_of(root[name]) if name in root else None


