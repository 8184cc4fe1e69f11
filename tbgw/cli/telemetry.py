# -*- test-case-name: tests.cli.test_session -*-
"""`tbgw telemetry`: sends telemetry of the gateway's own device, e.g. from a script that runs once a day."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from tbgw.cli import session
from tbgw.errors import GatewayError
from tbgw.thingsboard import topics

if TYPE_CHECKING:
    from tbgw.uplink.client import Uplink
    from tbgw.uplink.own_device import OwnDevice

HELP = "send telemetry of the gateway's device"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this subcommand."""
    session.add_arguments(parser)
    parser.add_argument("--ts", metavar="MS", type=int, help="time of the values, in ms since the epoch (default: now)")
    parser.add_argument(
        "values",
        nargs="+",
        metavar="KEY=VALUE",
        help='values as JSON, else as text; or one JSON text in a form of ThingsBoard\'s: {"key": 1}, '
        '{"ts": 1451649600512, "values": {"key": 1}}, or a list of such',
    )


def run(arguments: argparse.Namespace) -> int:
    """Do it; the exit status."""

    async def work(own: OwnDevice, uplink: Uplink) -> None:
        # Handed over together, so that they travel together; the PUBACKs are waited for one after the other.
        for sent in [own.publish_telemetry(values, ts) for ts, values in _instants(arguments)]:
            if refused := await sent:
                raise GatewayError(refused)

    return session.in_session(arguments, [topics.DEVICE_RPC_RESPONSE + "+"], work)


def _instants(arguments: argparse.Namespace) -> list[tuple[int | None, dict[str, Any]]]:
    """(time, values) of each element, as ThingsBoard reads them (spec thingsboard-mqtt, 2.2). Raises GatewayError."""
    words = arguments.values
    given: Any = None
    if len(words) == 1 and words[0].lstrip().startswith(("{", "[")):
        try:
            given = json.loads(words[0])
        except ValueError as error:
            raise GatewayError(f"no JSON: {error}") from None
    instants: list[tuple[int | None, dict[str, Any]]] = []
    for element in given if isinstance(given, list) else [given or session.values_of(words)]:
        if not isinstance(element, dict):
            raise GatewayError("each element has to be an object")
        ts, values = element.get("ts"), element.get("values")
        if isinstance(ts, int) and isinstance(values, dict):
            instants.append((ts, values))
        else:
            instants.append((arguments.ts, element))
    return instants
