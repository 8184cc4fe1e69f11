# -*- test-case-name: tests.cli -*-
"""The `tbgw` command: reads the arguments and calls the subcommand. One file for each, with `add_arguments` and `run`.

Only what a subcommand needs is imported, and Twisted not at all, so that it answers at once on a small board.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tbgw.cli import attributes, check, claim, provision, rpc, sandbox, spool, telemetry
from tbgw.version import VERSION

COMMANDS = {
    "check": check,
    "spool": spool,
    "attributes": attributes,
    "telemetry": telemetry,
    "rpc": rpc,
    "claim": claim,
    "provision": provision,
    "sandbox": sandbox,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; the result is the exit status: 0 good, 1 not good, 2 wrong usage."""
    parser = argparse.ArgumentParser(
        prog="tbgw", description="Tools around the gateway. The gateway itself is started by: twistd tbgw -c DIR"
    )
    parser.add_argument("--version", action="version", version=f"tbgw {VERSION}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        command.add_arguments(subparsers.add_parser(name, help=command.HELP, description=command.HELP))
    parsed = parser.parse_args(arguments)
    status: int = COMMANDS[parsed.command].run(parsed)
    return status


if __name__ == "__main__":
    sys.exit(main())
