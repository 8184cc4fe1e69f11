# -*- test-case-name: tests.connectors.socket.test_tcp -*-
"""Devices that connect over TCP: the factory that admits peers by address, and one protocol for each connection.

Invariants:

* A peer that no filter admits, or one too many, never gets a protocol: its socket is closed at accept.
* Every connection that was made is forgotten in `connectionLost`, whatever ended it (S-07); its device is told
  gone when the last connection of that device name ends, and only if it had said anything.
* One read takes no more than `max_message_bytes` off the socket (P-14).
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorTCP, ITCPTransport
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.connectors.socket.framing import Framer
from tbgw.connectors.socket.internal_events import ConnectionLimitReached, MessagesTooLong, PeerRefused
from tbgw.connectors.socket.routes import Route, Routes
from tbgw.interfaces import IIngest, IPausable
from tbgw.internal_events import Events

BACKLOG = 1024
"""Connections the kernel completes before we accept them: all devices of a site come back at once after a power
cut. The kernel cuts it to net.core.somaxconn."""

PROBE_AFTER_SECONDS = 60
PROBE_EVERY_SECONDS = 15
PROBES = 4
"""When the kernel looks whether a silent peer is alive, and gives it up: 2 minutes. Its own default is 2 hours,
for which a device without power would keep its connection and count as active."""
_PROBING = tuple(
    (getattr(socket, option), value)
    for option, value in (
        ("TCP_KEEPIDLE", PROBE_AFTER_SECONDS),
        ("TCP_KEEPINTVL", PROBE_EVERY_SECONDS),
        ("TCP_KEEPCNT", PROBES),
    )
    if hasattr(socket, option)  # not every system has them
)


def shown_peer(host: str, port: int) -> str:
    """`10.0.0.9:51234` or `[2001:db8::1]:51234`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@implementer(IPausable)
class DeviceConnection(Protocol):
    """One connection of a device."""

    def __init__(self, factory: DeviceFactory, route: Route, framer: Framer, peer: str) -> None:
        self.factory: DeviceFactory = factory
        self.route = route
        self.peer = peer
        self._framer = framer
        self._receive = route.receive
        self._routes = factory.routes
        self._now_ms = factory.now_ms
        self._paused = False
        self._closing = False

    def connectionMade(self) -> None:
        """Twisted's: bound the reads, notice dead peers, and let the store hold us back."""
        transport = cast(Any, self.transport)
        # Twisted's own attribute for the size of one recv; 64 KiB unless set.
        transport.bufferSize = self.factory.max_message_bytes
        transport.setTcpKeepAlive(True)
        for option, value in _PROBING:
            transport.getHandle().setsockopt(socket.IPPROTO_TCP, option, value)
        self.factory.opened(self)

    def dataReceived(self, data: bytes) -> None:
        """Twisted's: one read."""
        now_ms = self._now_ms()
        self._routes.bytes += len(data)
        receive = self._receive
        framer = self._framer
        for message in framer.feed(data):
            receive(message, now_ms)
        if framer.dropped:
            self._tell_dropped()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted's: a close by the peer in good order ends its last message, every other end cuts it off."""
        if reason.check(ConnectionDone) and not self._closing:
            now_ms = self._now_ms()
            for message in self._framer.finish():
                self._receive(message, now_ms)
            if self._framer.dropped:
                self._tell_dropped()
        self.factory.closed(self)

    def close(self) -> None:
        """End the connection, in good order. Nothing is received from now on."""
        self._closing = True
        if self.transport is not None:
            self.transport.loseConnection()

    def abort(self) -> None:
        """End the connection without waiting for anything."""
        self._closing = True
        cast(ITCPTransport, self.transport).abortConnection()

    def pause_reading(self) -> None:
        """See `IPausable`."""
        if not self._paused:
            self._paused = True
            cast(Any, self.transport).pauseProducing()

    def resume_reading(self) -> None:
        """See `IPausable`."""
        if self._paused:
            self._paused = False
            if not self._closing:
                cast(Any, self.transport).resumeProducing()

    def _tell_dropped(self) -> None:
        factory = self.factory
        dropped, self._framer.dropped = self._framer.dropped, 0
        factory.events.emit(MessagesTooLong(factory.connector, self.peer, dropped, factory.max_message_bytes))


class DeviceFactory(ServerFactory):
    """Admits peers by their address, and knows the open connections."""

    noisy = False

    def __init__(
        self,
        connector: str,
        routes: Routes,
        make_framer: Callable[[], Framer],
        max_message_bytes: int,
        max_connections: int,
        ingest: IIngest,
        events: Events,
        now_ms: Callable[[], int],
        lost: Callable[[], None],
    ) -> None:
        """`lost()` is called when the listening socket is gone, be it by our own wish or not."""
        self.connector = connector
        self.routes = routes
        self.max_message_bytes = max_message_bytes
        self.events = events
        self.now_ms = now_ms
        self.connections: set[DeviceConnection] = set()
        self._make_framer = make_framer
        self._max_connections = max_connections
        self._ingest = ingest
        self._lost = lost
        self._open_by_device: Counter[str] = Counter()
        self._closing = False
        self._emptied: list[Deferred[None]] = []

    def listen(self, reactor: IReactorTCP, address: str, port: int) -> IListeningPort:
        """Open the listening socket. Raises CannotListenError."""
        return reactor.listenTCP(port, self, backlog=BACKLOG, interface=address)

    def stopFactory(self) -> None:
        """Twisted's: the listening socket is gone."""
        self._lost()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Twisted's: a connection was accepted. A `DeviceConnection`, or None, which closes it at once."""
        host, port = cast(Any, addr).host, cast(Any, addr).port
        route = self.routes.find(host, port)
        if route is None:
            self.events.emit(PeerRefused(self.connector, shown_peer(host, port)))
            return None
        if len(self.connections) >= self._max_connections:
            self.events.emit(ConnectionLimitReached(self.connector, shown_peer(host, port), self._max_connections))
            return None
        if self._closing:
            return None
        return DeviceConnection(self, route, self._make_framer(), shown_peer(host, port))

    def opened(self, connection: DeviceConnection) -> None:
        """For the connection: it is up."""
        self.connections.add(connection)
        for intake in connection.route.intakes:
            self._open_by_device[intake.device.name] += 1
        self._ingest.add_source(connection)

    def closed(self, connection: DeviceConnection) -> None:
        """For the connection: it is gone, and everything that it brought was handed in."""
        self.connections.discard(connection)
        self._ingest.remove_source(connection)
        for intake in connection.route.intakes:
            name = intake.device.name
            self._open_by_device[name] -= 1
            if not self._open_by_device[name]:
                del self._open_by_device[name]
                self._tell_gone(name)
        if not self.connections:
            waiting, self._emptied = self._emptied, []
            for deferred in waiting:
                deferred.callback(None)

    def close(self) -> Deferred[None]:
        """Close all connections and take no more. Fires when they are gone."""
        self._closing = True
        if not self.connections:
            return succeed(None)
        emptied: Deferred[None] = Deferred()
        self._emptied.append(emptied)
        for connection in tuple(self.connections):
            connection.close()
        return emptied

    def abort(self) -> None:
        """Close what is left without waiting for anything."""
        for connection in tuple(self.connections):
            connection.abort()

    def _tell_gone(self, name: str) -> None:
        """Several entries of the configuration may bear one device name (S-12): it is told gone once."""
        spoke = [intake for intake in self.routes.intakes if intake.device.name == name and intake.spoke]
        for intake in spoke:
            intake.spoke = False
        if spoke:
            self._ingest.disconnected(spoke[0].device)
