# -*- test-case-name: tests.cli.test_session -*-
"""One MQTT session with ThingsBoard for a command, with the gateway's credentials and none of its subscriptions.

ThingsBoard lets one session of a device live: that of a command would end the gateway's (reason 0x8E), which then stays
away for half a minute and loses nothing. So a command sees whether the gateway runs, by the lock of its store, and does
nothing then unless `--take-over` says that this is wanted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbgw.cli.folders import add_folder_arguments
from tbgw.config.gateway import GatewayConfig
from tbgw.config.loader import examine_folder
from tbgw.connectors.parsers import PARSERS
from tbgw.errors import ConfigurationError, GatewayError, StoreError

if TYPE_CHECKING:
    from tbgw.uplink.client import Uplink
    from tbgw.uplink.own_device import OwnDevice

Work = Callable[["OwnDevice", "Uplink"], Coroutine[Any, Any, None]]
"""What a command does once the session is there; raises GatewayError for what did not work."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that all these commands have."""
    add_folder_arguments(parser)
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=30.0, help="how long all of it may take (default: 30)"
    )
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="go on while the gateway runs: ThingsBoard then ends its session, and it is back after half a minute",
    )


def configuration(arguments: argparse.Namespace) -> GatewayConfig:
    """The gateway's configuration. Raises ConfigurationError."""
    examined = examine_folder(Path(arguments.config_dir), os.environ, Path(arguments.data_dir), PARSERS)
    if examined.config is None:
        raise ConfigurationError([f"{arguments.config_dir}: the configuration has faults; `tbgw check` names them"])
    return examined.config


def refuse_while_running(config: GatewayConfig) -> None:
    """Raises StoreError when a gateway runs on this data folder."""
    from tbgw.spool.files import take_lock

    storage = config.storage
    path = storage.folder / ("spool.db.lock" if storage.type == "sqlite" else "tbgw.lock")
    if storage.type != "memory" and path.exists():
        os.close(take_lock(str(storage.folder), str(path)))


def values_of(words: Sequence[str]) -> dict[str, Any]:
    """`key=value ...`, each value as JSON or else as text; or one JSON object. Raises GatewayError."""
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        try:
            found = json.loads(words[0])
        except ValueError as error:
            raise GatewayError(f"no JSON: {error}") from None
        return dict(found)
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise GatewayError(f"{word!r} is no key=value")
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values


def in_session(arguments: argparse.Namespace, subscriptions: Sequence[str], work: Work) -> int:
    """Do `work` in a session; the exit status. What goes wrong is told on standard error."""
    try:
        config = configuration(arguments)
        if not arguments.take_over:
            refuse_while_running(config)
        from tbgw.cli.oneshot import run

        return run(config, arguments.timeout, subscriptions, work)
    except StoreError as error:
        print(error, file=sys.stderr)
        print("the gateway is running: its session would be ended; --take-over does it all the same", file=sys.stderr)
    except (GatewayError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
    return 1
