# -*- test-case-name: tests.cli.test_check -*-
"""`tbgw check`: reads a folder of configuration files and tells everything that is wrong with it, at once.

Each finding is a line of its own, `file:line: path.to.key: what`, under a heading that says how bad it is. The exit
status is 0 when the gateway would start (with --strict: and nothing looks like a slip), else 1. Nothing is written and
nothing is looked up in the network.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from tbgw.cli.folders import add_folder_arguments
from tbgw.config.findings import Finding, Severity
from tbgw.config.loader import examine_folder
from tbgw.connectors.parsers import PARSERS

HELP = "check a folder of configuration files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this subcommand."""
    add_folder_arguments(parser)
    parser.add_argument(
        "--strict", action="store_true", help="fail on what looks like a slip too, such as an unknown key"
    )


def run(arguments: argparse.Namespace) -> int:
    """Check, print, and give the exit status."""
    config_dir = Path(arguments.config_dir)
    examined = examine_folder(config_dir, os.environ, Path(arguments.data_dir), PARSERS)
    found = {severity: [f for f in examined.findings if f.severity is severity] for severity in Severity}
    wrong = list(found[Severity.FAULT])
    warnings = list(found[Severity.WARNING])
    (wrong if arguments.strict else warnings).extend(found[Severity.DOUBT])
    _print("faults", config_dir, wrong)
    _print("warnings", config_dir, warnings)
    _print("notices", config_dir, found[Severity.NOTICE])
    config = examined.config
    connectors = ", ".join(f"{entry.name} ({entry.type})" for entry in config.connectors) if config else ""
    if wrong:
        print(f"{config_dir}: {len(wrong)} {'fault' if len(wrong) == 1 else 'faults'}; {_verdict(config is not None)}")
        return 1
    print(f"{config_dir}: good; connectors: {connectors or 'none'}")
    return 0


def _verdict(starts: bool) -> str:
    return "the gateway would start, but --strict allows no slips" if starts else "the gateway does not start with it"


def _print(heading: str, config_dir: Path, findings: Sequence[Finding]) -> None:
    if findings:
        print(f"{heading}:")
        for finding in sorted(findings, key=lambda one: (one.file, one.line)):
            print(finding if finding.from_environment else config_dir / str(finding))
        print()
