# -*- test-case-name: tests.cli.test_session -*-
"""`tbgw claim`: opens the gateway's device, or one behind it, for a customer who knows the secret.

ThingsBoard acknowledges a claim whatever it makes of it. A device that has a customer, or may not be claimed, stays as
it is, without a word (spec thingsboard-mqtt, 5.1).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tbgw.cli import session
from tbgw.errors import GatewayError
from tbgw.thingsboard import payloads, topics

if TYPE_CHECKING:
    from tbgw.uplink.client import Uplink
    from tbgw.uplink.own_device import OwnDevice

HELP = "open the gateway's device, or one behind it, for claiming"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this subcommand."""
    session.add_arguments(parser)
    parser.add_argument("--device", metavar="NAME", help="a device behind the gateway (default: the gateway's own)")
    parser.add_argument(
        "--secret-file", metavar="FILE", help="file with the secret, - for standard input (default: an empty secret)"
    )
    parser.add_argument(
        "--duration", metavar="SECONDS", type=int, help="how long the claim is open (default: ThingsBoard's, a day)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Do it; the exit status."""

    async def work(own: OwnDevice, uplink: Uplink) -> None:
        secret = None
        if arguments.secret_file:
            path = Path("/dev/stdin" if arguments.secret_file == "-" else arguments.secret_file)  # noqa: S105 - no secret
            secret = path.read_text().strip()
        duration_ms = arguments.duration * 1000 if arguments.duration is not None else None
        if arguments.device:
            code = await uplink.publish(topics.CLAIM, payloads.claim(secret, duration_ms, arguments.device))
            refused = f"ThingsBoard refused it with reason code {code:#x}" if code >= 0x80 else ""
        else:
            refused = await own.claim(secret, duration_ms)
        if refused:
            raise GatewayError(refused)
        print("ThingsBoard has taken the claim; whether it may be used, only ThingsBoard knows")

    return session.in_session(arguments, [topics.DEVICE_RPC_RESPONSE + "+"], work)
