# -*- test-case-name: tests.uplink.test_provisioning -*-
"""What is said in provisioning (spec thingsboard-mqtt, 5.2; configuration-and-apis, 5.8). Pure.

A request never has a null in it: ThingsBoard closes the connection on one. Secrets are in no `repr`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tbgw.thingsboard import payloads

TYPES = ("ACCESS_TOKEN", "MQTT_BASIC", "X509_CERTIFICATE")


@dataclass(frozen=True, slots=True)
class Plan:
    """What the configuration says of provisioning."""

    type: str
    """One of `TYPES`; `AUTO` leaves all to ThingsBoard, which then makes a token."""
    device_key: str = field(repr=False)
    device_secret: str = field(repr=False)
    device_name: str | None = None
    """None: one is made up and kept."""
    token: str | None = field(default=None, repr=False)
    """None: ThingsBoard makes one."""
    client_id: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    """Of these three, those that are None are made up when all are None, and left out otherwise."""


@dataclass(frozen=True, slots=True)
class Login:
    """How the gateway proves itself to ThingsBoard."""

    type: str
    """One of `TYPES`."""
    token: str = field(default="", repr=False)
    client_id: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    certificate: Path | None = None
    """PEM files, for X509_CERTIFICATE."""
    private_key: Path | None = None
    device_name: str = ""
    """Name of the gateway's device, as far as it is known here."""


class Refusal(NamedTuple):
    """ThingsBoard did not provision."""

    status: str
    """`NOT_FOUND`, `FAILURE`, or what else it said."""
    message: str


def request(plan: Plan, login: Login, certificate_pem: str = "") -> bytes:
    """
    The request for `login`, whose name and credentials were settled before. Of a token that ThingsBoard shall make,
    `login.token` is empty.
    """
    body: dict[str, Any] = {
        "deviceName": login.device_name,
        "provisionDeviceKey": plan.device_key,
        "provisionDeviceSecret": plan.device_secret,
        "gateway": True,
    }
    if login.type == "ACCESS_TOKEN" and login.token:
        body |= {"credentialsType": "ACCESS_TOKEN", "token": login.token}
    elif login.type == "MQTT_BASIC":
        given = {"clientId": login.client_id, "username": login.username, "password": login.password}
        body |= {"credentialsType": "MQTT_BASIC", **{key: value for key, value in given.items() if value}}
    elif login.type == "X509_CERTIFICATE":
        body |= {"credentialsType": "X509_CERTIFICATE", "hash": certificate_pem}
    return payloads.encode(body)


def parse_response(payload: bytes, asked: Login, certificate_pem: str = "") -> Login | Refusal:
    """
    What came of the request for `asked`. For a device that was there before, these are its own credentials, and not
    those that were asked for. Raises ValueError, without a secret in its text, for what is no answer or no use.
    """
    try:
        body = payloads.decode(payload)
    except ValueError:
        raise ValueError("the answer is no JSON") from None
    if not isinstance(body, dict):
        raise ValueError("the answer is no JSON object")
    status = body.get("status", body.get("provisionDeviceStatus"))  # the older name (configuration-and-apis, 5.8)
    if status != "SUCCESS":
        message = body.get("errorMsg")
        return Refusal(str(status)[:40], message[:200] if isinstance(message, str) else "")
    kind = body.get("credentialsType", "ACCESS_TOKEN")
    value = body.get("credentialsValue", body.get("accessToken"))
    if kind == "ACCESS_TOKEN" and isinstance(value, str) and value:
        return Login("ACCESS_TOKEN", token=value, device_name=asked.device_name)
    if kind == "MQTT_BASIC" and isinstance(value, dict):
        fields = [value.get("clientId"), value.get("userName", value.get("username")), value.get("password")]
        if all(part is None or isinstance(part, str) for part in fields) and (fields[0] or fields[1]):
            client_id, username, password = [part or "" for part in fields]
            return Login(
                "MQTT_BASIC",
                client_id=client_id,
                username=username,
                password=password,
                device_name=asked.device_name,
            )
    if kind == "X509_CERTIFICATE" and asked.type == "X509_CERTIFICATE":
        if isinstance(value, str) and value and bare(value) != bare(certificate_pem):
            raise ValueError("ThingsBoard holds another certificate for this device, and its key is not here")
        return asked
    raise ValueError(f"it grants credentials of type {str(kind)[:40]} that cannot be used here")


def bare(pem: str) -> str:
    """The text of a certificate as ThingsBoard keeps it: without its first and last line, on one line."""
    return "".join(line.strip() for line in pem.splitlines() if "-----" not in line)
