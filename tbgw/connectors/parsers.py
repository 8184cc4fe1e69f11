"""The parse function of each connector type. Each module is imported when the first file of its type is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import cast

from tbgw.config.schema import Node, Reporter

_MODULES = {
    "socket": "tbgw.connectors.socket.config",
    "xmpp": "tbgw.connectors.xmpp.config",
    "ocpp": "tbgw.connectors.ocpp.config",
}


def _lazily(module: str) -> Callable[[Node, Reporter], object]:
    return lambda node, reporter: cast(object, import_module(module).parse(node, reporter))


PARSERS: Mapping[str, Callable[[Node, Reporter], object]] = {name: _lazily(path) for name, path in _MODULES.items()}
"""Connector type to what makes a section of the root of its file; see `tbgw.config.loader.load_folder`."""
