# -*- test-case-name: tests.cli.test_session -*-
"""`tbgw rpc`: asks ThingsBoard's rule chain as the gateway's own device, and prints the answer as JSON."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from tbgw.cli import session
from tbgw.errors import GatewayError
from tbgw.thingsboard import topics

if TYPE_CHECKING:
    from tbgw.uplink.client import Uplink
    from tbgw.uplink.own_device import OwnDevice

HELP = "ask ThingsBoard: a client-side RPC of the gateway's device"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this subcommand."""
    session.add_arguments(parser)
    parser.add_argument("method", help="e.g. getCurrentTime, or getSessionLimits, which ThingsBoard answers by itself")
    parser.add_argument("params", nargs="?", default="{}", help="JSON (default: {})")


def run(arguments: argparse.Namespace) -> int:
    """Do it; the exit status."""

    async def work(own: OwnDevice, uplink: Uplink) -> None:
        try:
            params = json.loads(arguments.params)
        except ValueError as error:
            raise GatewayError(f"the parameters are no JSON: {error}") from None
        print(json.dumps(await own.rpc(arguments.method, params, arguments.timeout), ensure_ascii=False))

    return session.in_session(arguments, [topics.DEVICE_RPC_RESPONSE + "+"], work)
