# -*- test-case-name: tests.connectors.socket.test_routes -*-
"""One device name as it can be reached at present: its open connections, and who spoke for it last.

Invariants:

* A connection that ended is in no presence any more, whatever ended it (S-07).
* Of several connections for one name (a wildcard filter, S-12) a command goes to the one that spoke last and still is
  open, else to the one that was opened last; attribute updates go to all.
* With UDP the last address is the way back, and the configured one before anybody spoke.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from tbgw.connectors.socket.config import SocketDevice
from tbgw.connectors.socket.naming import Peer
from tbgw.model import Device


class Connection(Protocol):
    """What is needed of a TCP connection here."""

    peer_address: Peer

    def send(self, data: bytes) -> bool:
        """Write; False when it is being closed."""

    @property
    def presences(self) -> dict[Presence, None]:
        """Those that the connection speaks for."""


Link = Connection | Peer
"""What a message came from and an answer goes to: a TCP connection, or an address with UDP."""


class Presence:
    """See the module. Compared by identity."""

    __slots__ = ("awaits", "bound", "configured", "connections", "device", "ended", "last", "spoke")

    def __init__(self, device: Device, configured: SocketDevice, bound: bool) -> None:
        self.device = device
        self.configured = configured
        self.bound = bound
        """Whether the device is gone when its last connection is: its address speaks for no other."""
        self.connections: dict[Connection, None] = {}
        self.last: Link | None = None
        """What its last message came from."""
        self.spoke = False
        """Whether a reading was handed in since it was last told gone."""
        self.awaits: Callable[[bytes, Link | None], bool] | None = None
        """Set while a command waits for the device's answer: takes a message, tells whether that was it."""
        self.ended: Callable[[Connection], None] | None = None
        """Set by who has to know when a connection ends."""

    def link(self) -> Link | None:
        """Where a command goes; None when the device cannot be reached."""
        if self.connections:
            if self.last in self.connections:
                return self.last
            return next(reversed(self.connections))
        return self.last if isinstance(self.last, tuple) else None

    def links(self) -> Iterator[Link]:
        """Where an attribute update goes."""
        if self.connections:
            yield from tuple(self.connections)
        elif isinstance(self.last, tuple):
            yield self.last

    def add(self, connection: Connection) -> None:
        """It is open and speaks for this device."""
        self.connections[connection] = None
        connection.presences[self] = None

    def discard(self, connection: Connection) -> bool:
        """It has ended. Whether it was the last."""
        self.connections.pop(connection, None)
        if self.last is connection:
            self.last = None
        if self.ended is not None:
            self.ended(connection)
        return not self.connections
