"""One connected station, as its user sees it: a thin face, so that nobody reaches into the WebSocket behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from zope.interface import implementer

from tbgw.ocpp.interfaces import IStation
from tbgw.ocpp.versions import Version


class Connection(Protocol):
    """What is behind a station."""

    def call(self, action: str, payload: Mapping[str, Any], timeout_seconds: float) -> Deferred[dict[str, Any]]:
        """As `IStation.call`."""

    def send(self, action: str, payload: Mapping[str, Any]) -> None:
        """As `IStation.send`."""

    def close(self, code: int, reason: str) -> None:
        """As `IStation.close`."""


@implementer(IStation)
class Station:
    """See `IStation`."""

    __slots__ = ("_connection", "connected", "data", "identity", "path", "peer", "version")

    def __init__(
        self, connection: Connection, identity: str, path: str, version: Version, peer: tuple[str, int], data: Any
    ) -> None:
        self._connection = connection
        self.identity = identity
        self.path = path
        self.version = version
        self.peer = peer
        self.data = data
        self.connected = True

    def __repr__(self) -> str:
        return f"<Station {self.path!r} {self.version} from {self.peer[0]}:{self.peer[1]}>"

    def call(self, action: str, payload: Mapping[str, Any], timeout_seconds: float) -> Deferred[dict[str, Any]]:
        """See `IStation.call`."""
        return self._connection.call(action, payload, timeout_seconds)

    def send(self, action: str, payload: Mapping[str, Any]) -> None:
        """See `IStation.send`."""
        self._connection.send(action, payload)

    def close(self, code: int, reason: str) -> None:
        """See `IStation.close`."""
        self._connection.close(code, reason)
