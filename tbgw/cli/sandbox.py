# -*- test-case-name: tests.cli.test_sandbox -*-
"""`tbgw sandbox`: does to a running sandbox what an operator does to ThingsBoard on its pages or by its REST API.

It speaks to the sandbox's page over HTTP, on this machine only, and has to run as the user that runs the gateway, or as
root. What comes back is printed as JSON; the exit status is 1 when the sandbox refused, with its reason on standard
error. A secret on the command line can be seen by everybody on the machine: where one is wanted, `-` reads it from
standard input.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HELP = "command a running sandbox: devices, attributes, RPC, firmware, provisioning, limits, link, switches"

DEFAULT_URL = "http://127.0.0.1:8080"

_GRACE_SECONDS = 30
"""How much longer than the call itself the answer is waited for."""

_STRATEGIES = (
    "DISABLED",
    "ALLOW_CREATE_NEW_DEVICES",
    "CHECK_PRE_PROVISIONED_DEVICES",
    "X509_CERTIFICATE_CHAIN",
)
_KINDS = {"firmware": "fw", "software": "sw"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this subcommand."""
    parser.add_argument(
        "--url",
        default=os.environ.get("TBGW_SANDBOX_URL") or DEFAULT_URL,
        help=f"the sandbox's page (default: $TBGW_SANDBOX_URL, else {DEFAULT_URL})",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help: str, *positional: str) -> argparse.ArgumentParser:  # noqa: A002 - as argparse
        one = actions.add_parser(name, help=help, description=help)
        for word in positional:
            one.add_argument(word)
        return one

    action("devices", "all devices, without their values")
    action("device", "one device, without its values", "device")
    create = action("create", "a new device", "device")
    create.add_argument("--profile", default="default")
    create.add_argument("--gateway", action="store_true")
    create.add_argument("--overwrite-activity-time", action="store_true", help="its pings keep its children active")
    create.add_argument("--token", help="access token with which it connects; -: from standard input")
    action("rename", "give a device another name; its gateway is told", "device", "name")
    action("delete", "delete a device with all its values; its gateway is told", "device")
    token = action("token", "change a device's access token; who is connected with the old one is cut", "device")
    token.add_argument("token", help="-: from standard input")
    credentials = action("credentials", "MQTT basic credentials or a certificate, in the place of a token", "device")
    credentials.add_argument("--client-id")
    credentials.add_argument("--username")
    credentials.add_argument("--password", help="-: from standard input")
    credentials.add_argument("--certificate", metavar="FILE", help="PEM file with the device's certificate")
    setting = action("set", "set shared attributes", "device")
    setting.add_argument("values", nargs="+", metavar="KEY=VALUE", help="value: JSON, or else text")
    unset = action("unset", "delete shared attributes", "device")
    unset.add_argument("keys", nargs="+", metavar="KEY")
    rpc = action("rpc", "call a device and print its answer", "device", "method")
    rpc.add_argument("params", nargs="?", help="JSON, or else text")
    rpc.add_argument("--one-way", action="store_true", help="do not wait for an answer")
    rpc.add_argument("--persistent", action="store_true", help="print the call's id at once, for rpc-status")
    rpc.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="at least 5 (default: 10)")
    rpc.add_argument("--expires", type=float, metavar="SECONDS", help="how long it may wait for an offline device")
    action("rpc-status", "how a persistent call went", "id")
    claim = action("claim", "claim a device for a customer", "device", "customer")
    claim.add_argument("secret", nargs="?", default="")
    action("unclaim", "the customer gives the device back", "device")
    profile = action("profile", "set a device profile: its provisioning, its own topics", "name")
    profile.add_argument("--strategy", choices=_STRATEGIES)
    profile.add_argument("--key")
    profile.add_argument("--secret", help="-: from standard input")
    profile.add_argument("--certificate", metavar="FILE", help="of the authority, for X509_CERTIFICATE_CHAIN")
    profile.add_argument("--name-pattern", metavar="REGEX", help="what of a common name is the device's name")
    profile.add_argument("--telemetry-filter")
    profile.add_argument("--attributes-filter")
    profile.add_argument("--shared-attributes-filter")
    profile.add_argument("--acknowledge-bad-payloads", action="store_true")
    action("profiles", "all device profiles that are more than a name")
    _add_packages(actions)
    limits = action("limits", "show, or change, what is announced and enforced")
    limits.add_argument("values", nargs="*", metavar="KEY=VALUE", help="e.g. gatewayRateLimits.messages=10:1,300:60")
    switches = action("switches", "show, or turn, behaviours of the real server that clients have to live with")
    switches.add_argument("values", nargs="*", metavar="NAME=VALUE", help="e.g. withhold_pubacks=true")
    cut = action("cut", "drop a device's connection, or all, without a word")
    cut.add_argument("device", nargs="?")


def _add_packages(actions: Any) -> None:
    ota = actions.add_parser("ota", help="firmware and software packages").add_subparsers(
        dest="ota", metavar="ACTION", required=True
    )
    ota.add_parser("list", help="all packages, without their content")
    upload = ota.add_parser("upload", help="keep a package")
    upload.add_argument("file", metavar="FILE")
    upload.add_argument("--tag", default="")
    upload.add_argument("--algorithm", default="SHA256", help="of the checksum (default: SHA256)")
    upload.add_argument("--checksum", help="another one than the right one, to try a client")
    assign = ota.add_parser("assign", help="offer a package to a device")
    unassign = ota.add_parser("unassign", help="take the offer back")
    remove = ota.add_parser("remove", help="forget a package")
    for one in (assign, unassign):
        one.add_argument("device")
    for one in (upload, assign, remove):
        one.add_argument("--title", required=True)
        one.add_argument("--version", required=True)
    for one in (upload, assign, unassign, remove):
        one.add_argument("--kind", choices=list(_KINDS), default="firmware")


def run(arguments: argparse.Namespace) -> int:
    """Do it; the exit status."""
    try:
        command, members = _command(arguments)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    seconds = getattr(arguments, "timeout", 0) + _GRACE_SECONDS
    try:
        status, answer = _post(arguments.url, command, members, seconds)
    except (OSError, http.client.HTTPException, ValueError) as error:
        print(f"no sandbox at {arguments.url}: {error}", file=sys.stderr)
        return 1
    if status >= 400:
        print(answer.get("error", answer) if isinstance(answer, dict) else answer, file=sys.stderr)
        return 1
    if answer:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    return 0


def _post(url: str, command: str, members: Mapping[str, Any], seconds: float) -> tuple[int, Any]:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError("the address is like http://127.0.0.1:8080")
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=seconds)
    try:
        body = json.dumps(members).encode()
        connection.request("POST", f"/api/sandbox/{command}", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def _command(given: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The command and its members. Raises ValueError and OSError for what cannot be one."""
    for word in ("token", "password", "secret"):
        if getattr(given, word, None) == "-":
            setattr(given, word, sys.stdin.readline().rstrip("\r\n"))
    name: str = given.action
    plain = {
        "devices": (),
        "profiles": (),
        "device": ("device",),
        "delete": ("device",),
        "unclaim": ("device",),
        "rename": ("device", "name"),
        "rpc-status": ("id",),
        "unset": ("device", "keys"),
    }
    if name in plain:
        return name, {member: getattr(given, member) for member in plain[name]}
    if name == "ota":
        return _package_command(given)
    return name if name != "token" else "credentials", _MEMBERS[name](given)


def _create(given: argparse.Namespace) -> dict[str, Any]:
    members = {
        "device": given.device,
        "profile": given.profile,
        "gateway": given.gateway,
        "overwriteActivityTime": given.overwrite_activity_time,
    }
    return members if given.token is None else {**members, "credentials": {"token": given.token}}


def _credentials(given: argparse.Namespace) -> dict[str, Any]:
    if given.certificate is not None:
        held = {"kind": "X509_CERTIFICATE", "certificate": Path(given.certificate).read_text()}
    else:
        texts = {"client_id": given.client_id, "username": given.username, "password": given.password}
        held = {"kind": "MQTT_BASIC", **{key: text for key, text in texts.items() if text is not None}}
    return {"device": given.device, "credentials": held}


def _rpc(given: argparse.Namespace) -> dict[str, Any]:
    members = {
        "device": given.device,
        "method": given.method,
        "params": None if given.params is None else _value(given.params),
        "oneWay": given.one_way,
        "persistent": given.persistent,
        "timeoutMs": int(given.timeout * 1000),
    }
    return members if given.expires is None else {**members, "expiresInMs": int(given.expires * 1000)}


def _profile(given: argparse.Namespace) -> dict[str, Any]:
    names = (
        "name",
        "strategy",
        "key",
        "secret",
        "name_pattern",
        "telemetry_filter",
        "attributes_filter",
        "shared_attributes_filter",
        "acknowledge_bad_payloads",
    )
    wanted = {name: getattr(given, name) for name in names}
    if given.certificate is not None:
        wanted["certificate"] = Path(given.certificate).read_text()
    return {"profile": {name: value for name, value in wanted.items() if value is not None}}


def _limits(given: argparse.Namespace) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    for name, value in _pairs(given.values).items():
        group, dot, key = name.partition(".")
        if dot:
            limits.setdefault(group, {})[key] = value
        else:
            limits[name] = value
    return {"limits": limits} if limits else {}


_MEMBERS = {
    "create": _create,
    "token": lambda given: {"device": given.device, "credentials": {"token": given.token}},
    "credentials": _credentials,
    "set": lambda given: {"device": given.device, "values": _pairs(given.values)},
    "rpc": _rpc,
    "claim": lambda given: {"device": given.device, "customer": given.customer, "secretKey": given.secret},
    "profile": _profile,
    "limits": _limits,
    "switches": lambda given: {"switches": _pairs(given.values)} if given.values else {},
    "cut": lambda given: {} if given.device is None else {"device": given.device},
}


def _package_command(given: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    if given.ota == "list":
        return "packages", {}
    about = {"kind": _KINDS[given.kind]}
    if given.ota == "unassign":
        return "unassign", {**about, "device": given.device}
    about |= {"title": given.title, "version": given.version}
    if given.ota == "assign":
        return "assign", {**about, "device": given.device}
    if given.ota == "remove":
        return "package-remove", about
    about |= {"tag": given.tag, "algorithm": given.algorithm.upper()}
    if given.checksum is not None:
        about["checksum"] = given.checksum
    return "package-add", {**about, "data": base64.b64encode(Path(given.file).read_bytes()).decode()}


def _pairs(texts: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` arguments. Raises ValueError."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ValueError(f"{text!r} is not KEY=VALUE")
        found[key] = _value(value)
    return found


def _value(text: str) -> Any:
    """JSON, or else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
