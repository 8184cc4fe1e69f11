# -*- test-case-name: tests.cli.test_session -*-
"""`tbgw telemetry`: sends telemetry of the gateway's own device, e.g. from a script that runs once a day."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

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
        "values", nargs="+", metavar="KEY=VALUE", help="values as JSON, else as text; or one JSON object"
    )


def run(arguments: argparse.Namespace) -> int:
    """Do it; the exit status."""

    async def work(own: OwnDevice, uplink: Uplink) -> None:
        refused = await own.publish_telemetry(session.values_of(arguments.values), arguments.ts)
        if refused:
            raise GatewayError(refused)

    return session.in_session(arguments, [topics.DEVICE_RPC_RESPONSE + "+"], work)
