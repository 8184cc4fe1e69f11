"""The two options that commands about a gateway's folders have in common."""

from __future__ import annotations

import argparse
import os


def add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    """`-c` and `-d`, with the defaults of `twistd tbgw`."""
    parser.add_argument(
        "-c",
        "--config-dir",
        metavar="DIR",
        default=os.environ.get("TB_GW_CONFIG_DIR") or "/etc/tbgw",
        help="folder with tb_gateway.json and the connectors' files (default: $TB_GW_CONFIG_DIR, else /etc/tbgw)",
    )
    parser.add_argument(
        "-d", "--data-dir", metavar="DIR", default=".", help="folder of what the gateway keeps (default: this one)"
    )
