# -*- test-case-name: tests.cli.test_session -*-
"""`tbgw provision`: tells what ThingsBoard gave the gateway to log in with, and forgets it on request.

Shows no secret.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tbgw.cli import session
from tbgw.cli.folders import add_folder_arguments
from tbgw.errors import GatewayError

HELP = "what ThingsBoard gave the gateway to log in with; --again to ask anew"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this subcommand."""
    add_folder_arguments(parser)
    parser.add_argument(
        "--again", action="store_true", help="forget the credentials: the next start of the gateway asks for new ones"
    )


def run(arguments: argparse.Namespace) -> int:
    """Do it; the exit status."""
    from tbgw.uplink.keeping import CredentialsKeeper

    keeper = CredentialsKeeper(Path(arguments.data_dir), Path(arguments.config_dir))
    try:
        if arguments.again:
            config = session.configuration(arguments)
            if config.thingsboard.provisioning is None:
                raise GatewayError("the configuration asks for no provisioning, so there would be no other credentials")
            found = keeper.forget()
            print("forgotten" if found else "there were none", "- the next start of the gateway asks ThingsBoard")
            return 0
        login = keeper.load()
    except (GatewayError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if login is None:
        print("no credentials are kept: the gateway was not provisioned, or has them in its configuration")
        return 0
    print(f"type: {login.type}")
    print(f"device: {login.device_name or 'unknown'}")
    if login.certificate is not None:
        from tbgw.uplink.certificates import expires

        print(f"certificate: {login.certificate}, until {expires(login.certificate).isoformat()}")
    return 0
