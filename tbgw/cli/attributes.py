# -*- test-case-name: tests.cli.test_session -*-
"""`tbgw attributes`: reads, sets and watches attributes of the gateway's own device in ThingsBoard."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tbgw.cli import session
from tbgw.errors import GatewayError
from tbgw.thingsboard import topics

if TYPE_CHECKING:
    from tbgw.uplink.own_device import OwnDevice

HELP = "read, set or watch attributes of the gateway's device"

_RESPONSES = topics.DEVICE_ATTRIBUTES_RESPONSE + "+"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this subcommand."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    get = actions.add_parser("get", help="print client and shared attributes as JSON; all without --client, --shared")
    get.add_argument("--client", metavar="KEY,KEY", default="", help="client attributes to ask for")
    get.add_argument("--shared", metavar="KEY,KEY", default="", help="shared attributes to ask for")
    put = actions.add_parser("set", help="set client attributes")
    put.add_argument("values", nargs="+", metavar="KEY=VALUE", help="values as JSON, else as text; or one JSON object")
    watch = actions.add_parser("watch", help="print changes of shared attributes as JSON lines, until --timeout")
    for one in (get, put, watch):
        session.add_arguments(one)


def run(arguments: argparse.Namespace) -> int:
    """Do it; the exit status."""
    work = {"get": _get, "set": _set, "watch": _watch}[arguments.action]
    subscriptions = [_RESPONSES, topics.DEVICE_ATTRIBUTES] if arguments.action == "watch" else [_RESPONSES]
    return session.in_session(arguments, subscriptions, lambda own, uplink: work(arguments, own))


async def _get(arguments: argparse.Namespace, own: OwnDevice) -> None:
    keys = [[key for key in text.split(",") if key] for text in (arguments.client, arguments.shared)]
    found = await own.request_attributes(*keys)
    print(json.dumps({"client": found.client, "shared": found.shared}, ensure_ascii=False, indent=1))


async def _set(arguments: argparse.Namespace, own: OwnDevice) -> None:
    refused = await own.publish_attributes(session.values_of(arguments.values))
    if refused:
        raise GatewayError(refused)


async def _watch(arguments: argparse.Namespace, own: OwnDevice) -> None:
    from twisted.internet.defer import CancelledError, Deferred

    def changed(values: Mapping[str, Any], deleted: Sequence[str]) -> None:
        line = {"deleted": list(deleted)} if deleted else dict(values)
        print(json.dumps(line, ensure_ascii=False), flush=True)

    own.add_shared_listener(changed)
    try:
        await Deferred()
    except CancelledError:
        return  # the time is over
