# -*- test-case-name: tests.connectors.socket.test_tcp -*-
"""Devices over TCP: the factory that admits peers by address, and one protocol for each connection, whoever began it.

Invariants:

* A peer that no filter admits, or one too many in all or from its address, never gets a protocol: its socket is closed
  at accept.
* Every connection that was made is forgotten in `connectionLost`, whatever ended it (S-07). Its device is told gone
  with the last connection of that name, if it had said anything, and only where its address speaks for no other device:
  of a filter that admits many, a connection that ends says nothing of the device.
* One read takes no more than `max_message_bytes` off the socket (P-14).
* Over TLS, nothing is read, and nobody is written to, before the handshake is through.

What only some connectors want (timers, silence as the end of a message, a limit of the rate, TLS) is in
`GuardedConnection`, so that the others do not pay for it.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IListeningPort,
    IReactorTCP,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.connectors.socket.config import SocketConfig, SocketDevice
from tbgw.connectors.socket.framing import Framer, Silent, framer_maker
from tbgw.connectors.socket.internal_events import (
    AddressLimitReached,
    ConnectionGivenUp,
    ConnectionLimitReached,
    MessageCutOff,
    MessagesTooLong,
    PeerRefused,
    SourceHeldBack,
)
from tbgw.connectors.socket.naming import Peer
from tbgw.connectors.socket.presence import Link, Presence
from tbgw.connectors.socket.routes import NamingIntake, Route, Routes
from tbgw.interfaces import IIngest, IPausable
from tbgw.internal_events import Events

BACKLOG = 1024
"""Connections the kernel completes before we accept them: all devices of a site come back at once after a power
cut. The kernel cuts it to net.core.somaxconn."""

PROBE_EVERY_SECONDS = 15
PROBES = 4
"""How the kernel looks whether a silent peer is alive, and when it gives it up: with the usual 60 s before the first
probe after 2 minutes. Its own default is 2 hours, for which a device without power would keep its connection."""

MAX_UNSENT_BYTES = 256 * 1024
"""What may wait to be sent to one device. One that takes nothing is given up, before it fills our memory."""


def shown_peer(host: str, port: int) -> str:
    """`10.0.0.9:51234` or `[2001:db8::1]:51234`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@implementer(IPausable)
class DeviceConnection(Protocol):
    """One connection of a device."""

    def __init__(self, factory: DeviceFactory, route: Route, framer: Framer, peer: Peer) -> None:
        self.factory: DeviceFactory = factory
        self.route = route
        self.peer_address = peer
        self.lost: Callable[[], None] | None = None
        """Called once when the connection has ended, for who dialled it."""
        self._framer = framer
        self._receive = route.receive
        self._presences: dict[Presence, None] | None = None
        self._paused = False
        self._closing = False

    @property
    def peer(self) -> str:
        """As shown in lines."""
        return shown_peer(*self.peer_address)

    @property
    def presences(self) -> dict[Presence, None]:
        """The devices that the connection speaks for."""
        if self._presences is None:
            self._presences = {}
        return self._presences

    def connectionMade(self) -> None:
        """Twisted's: bound the reads, notice dead peers, and let the store hold us back."""
        self._prepare(cast(Any, self.transport))
        self.factory.opened(self)

    def _prepare(self, transport: Any) -> None:
        # Twisted's own attribute for the size of one recv; 64 KiB unless set.
        transport.bufferSize = self.factory.max_message_bytes
        after = self.factory.config.keep_alive_seconds
        if after:
            transport.setTcpKeepAlive(True)
            handle = transport.getHandle()
            for option, value in _probing(after):
                handle.setsockopt(socket.IPPROTO_TCP, option, value)

    def dataReceived(self, data: bytes) -> None:
        """Twisted's: one read."""
        factory = self.factory
        now_ms = factory.now_ms()
        factory.routes.bytes += len(data)
        receive = self._receive
        framer = self._framer
        for message in framer.feed(data):
            receive(message, now_ms, self)
        if framer.dropped:
            self._dropped()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted's: a close by the peer in good order ends its last message, every other end cuts it off."""
        framer = self._framer
        if reason.check(ConnectionDone) and not self._closing:
            now_ms = self.factory.now_ms()
            for message in framer.finish():
                self._receive(message, now_ms, self)
            if framer.dropped:
                self._tell_dropped()
        if framer.held:
            self.factory.events.emit(MessageCutOff(self.factory.connector, self.peer, framer.held))
        self._closing = True  # who still holds the connection, for an answer, writes to nobody
        self.factory.closed(self)
        if self.lost is not None:
            lost, self.lost = self.lost, None
            lost()

    def send(self, data: bytes) -> bool:
        """See `presence.Connection`."""
        if self._closing or self.transport is None:
            return False
        transport = cast(Any, self.transport)
        unsent = getattr(getattr(transport, "transport", transport), "dataBuffer", b"")
        if len(unsent) + len(data) > MAX_UNSENT_BYTES:
            self.give_up("it does not take what is sent to it")
            return False
        transport.write(data)
        return True

    def close(self) -> None:
        """End the connection, in good order. Nothing is received from now on."""
        self._closing = True
        if self.transport is not None:
            self.transport.loseConnection()

    def abort(self) -> None:
        """End the connection without waiting for anything."""
        self._closing = True
        cast(ITCPTransport, self.transport).abortConnection()

    def give_up(self, why: str) -> None:
        """End it for a reason that is worth a line."""
        if not self._closing:
            self.factory.events.emit(ConnectionGivenUp(self.factory.connector, self.peer, why))
            self.abort()

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

    def _dropped(self) -> None:
        lost = self._framer.lost
        self._tell_dropped()
        if lost:
            self.give_up("what it sends about the length of its messages contradicts itself")
        elif self.factory.config.framing.on_overflow == "close":
            self.give_up("it sent a message that is too long")

    def _tell_dropped(self) -> None:
        factory = self.factory
        dropped, self._framer.dropped = self._framer.dropped, 0
        factory.events.emit(MessagesTooLong(factory.connector, self.peer, dropped, factory.max_message_bytes))


@implementer(IHandshakeListener)
class GuardedConnection(DeviceConnection):
    """A connection with timers, a limit of its rate, or TLS."""

    def __init__(self, factory: DeviceFactory, route: Route, framer: Framer, peer: Peer) -> None:
        super().__init__(factory, route, framer, peer)
        self._idle: IDelayedCall | None = None
        """Runs until the handshake is through, the first message is there, or for the longest silence."""
        self._gap: IDelayedCall | None = None
        self._held: IDelayedCall | None = None
        """Runs while we do not read because the source is too fast."""
        self._tokens = float(factory.config.max_messages_per_second)
        self._counted_at = factory.clock.seconds()
        self._spoke = False
        self._secured = factory.config.tls is None

    def connectionMade(self) -> None:
        """See `DeviceConnection`."""
        config = self.factory.config
        transport = cast(Any, self.transport)
        if config.tls is None:
            self._prepare(transport)
            self._set_timer(config.first_message_seconds or config.idle_seconds)
            self.factory.opened(self)
        else:
            self._prepare(transport.transport)
            self._set_timer(config.tls.handshake_seconds)

    def handshakeCompleted(self) -> None:
        """Twisted's, over TLS: the peer is who it should be."""
        config = self.factory.config
        self._secured = True
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        self._set_timer(config.first_message_seconds or config.idle_seconds)
        self.factory.opened(self)

    def dataReceived(self, data: bytes) -> None:
        """Twisted's: one read, or one record of TLS."""
        factory = self.factory
        config = factory.config
        now_ms = factory.now_ms()
        factory.routes.bytes += len(data)
        framer = self._framer
        messages = framer.feed(data)
        for message in messages:
            self._receive(message, now_ms, self)
        if framer.dropped:
            self._dropped()
        if self._closing:
            return
        if messages:
            self._spoken(len(messages))
        elif self._spoke and self._idle is not None and config.idle_seconds:
            self._idle.reset(config.idle_seconds)
        if isinstance(framer, Silent) and framer.held:
            if self._gap is None:
                self._gap = factory.clock.callLater(config.framing.gap_ms / 1000, self._silent)
            else:
                self._gap.reset(config.framing.gap_ms / 1000)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See `DeviceConnection`."""
        for timer in (self._idle, self._gap, self._held):
            if timer is not None and timer.active():
                timer.cancel()
        self._idle = self._gap = self._held = None
        super().connectionLost(reason)

    def resume_reading(self) -> None:
        """See `IPausable`; not before the rate allows it."""
        if self._held is None:
            super().resume_reading()
        else:
            self._paused = False

    def _silent(self) -> None:
        self._gap = None
        now_ms = self.factory.now_ms()
        messages = cast(Silent, self._framer).gap()
        for message in messages:
            self._receive(message, now_ms, self)
        if messages:
            self._spoken(len(messages))

    def _spoken(self, messages: int) -> None:
        config = self.factory.config
        if not self._spoke or config.idle_seconds:
            self._spoke = True
            if self._idle is not None and config.idle_seconds:
                self._idle.reset(config.idle_seconds)
            elif self._idle is not None:
                self._idle.cancel()
                self._idle = None
            else:
                self._set_timer(config.idle_seconds)
        if config.max_messages_per_second:
            self._count(messages, config.max_messages_per_second)

    def _count(self, messages: int, limit: int) -> None:
        now = self.factory.clock.seconds()
        self._tokens = min(float(limit), self._tokens + (now - self._counted_at) * limit) - messages
        self._counted_at = now
        if self._tokens < 0 and self._held is None:
            self._held = self.factory.clock.callLater(-self._tokens / limit, self._let_go)
            self.factory.events.emit(SourceHeldBack(self.factory.connector, self.peer, limit))
            if not self._paused:
                cast(Any, self.transport).pauseProducing()

    def _let_go(self) -> None:
        self._held = None
        if not self._paused and not self._closing:
            cast(Any, self.transport).resumeProducing()

    def _set_timer(self, seconds: int) -> None:
        if seconds:
            self._idle = self.factory.clock.callLater(seconds, self._overdue)

    def _overdue(self) -> None:
        self._idle = None
        config = self.factory.config
        if not self._secured:
            self.give_up("the TLS handshake takes too long")
        elif not self._spoke and config.first_message_seconds:
            self.give_up(f"no message within {config.first_message_seconds} s")
        else:
            self.give_up(f"silent for {config.idle_seconds} s")


class DeviceFactory(ServerFactory):
    """Admits peers by their address, and knows the open connections, those that we dialled too."""

    noisy = False

    def __init__(
        self,
        connector: str,
        routes: Routes,
        config: SocketConfig,
        ingest: IIngest,
        events: Events,
        now_ms: Callable[[], int],
        clock: IReactorTime,
        lost: Callable[[], None],
        opened: Callable[[Link, SocketDevice, Presence | None], None] = lambda link, configured, presence: None,
        closed: Callable[[Link], None] = lambda link: None,
    ) -> None:
        """
        `lost()` is called when the listening socket is gone, be it by our own wish or not; `opened` for each entry of
        the configuration that an open connection belongs to, `closed` once when it is gone.
        """
        self.connector = connector
        self.routes = routes
        self.config = config
        self.max_message_bytes = config.buffer_bytes
        self.events = events
        self.now_ms = now_ms
        self.clock = clock
        self.connections: set[DeviceConnection] = set()
        self._make_framer = framer_maker(config.framing, config.buffer_bytes)
        guarded = (
            config.tls is not None
            or config.framing.type == "gap"
            or config.idle_seconds
            or config.first_message_seconds
            or config.max_messages_per_second
        )
        self._connection_class = GuardedConnection if guarded else DeviceConnection
        self._ingest = ingest
        self._lost = lost
        self._opened = opened
        self._closed = closed
        self._by_address: Counter[str] = Counter()
        self._closing = False
        self._emptied: list[Deferred[None]] = []

    def listen(self, reactor: IReactorTCP, address: str, port: int) -> IListeningPort:
        """Open the listening socket. Raises CannotListenError."""
        factory: ServerFactory = self
        if self.config.tls is not None:
            from tbgw.connectors.socket.secure import server_factory

            factory = server_factory(self, self.config.tls, self.clock)
        return reactor.listenTCP(port, factory, backlog=BACKLOG, interface=address)

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
        config = self.config
        if len(self.connections) >= config.max_connections:
            self.events.emit(ConnectionLimitReached(self.connector, shown_peer(host, port), config.max_connections))
            return None
        if self._by_address[host] >= config.max_per_address:
            self.events.emit(AddressLimitReached(self.connector, shown_peer(host, port), config.max_per_address))
            return None
        if self._closing:
            return None
        connection = self._connection_class(self, route, self._make_framer(), (host, port))
        self.connections.add(connection)
        self._by_address[host] += 1
        return connection

    def opened(self, connection: DeviceConnection) -> None:
        """For the connection: it is up, and the peer may speak."""
        self._ingest.add_source(connection)
        for intake in connection.route.intakes:
            intake.opened(connection)
            presence = None if isinstance(intake, NamingIntake) else intake.presence
            self._opened(connection, intake.configured, presence)

    def closed(self, connection: DeviceConnection) -> None:
        """For the connection: it is gone, and everything that it brought was handed in."""
        self.connections.discard(connection)
        host = connection.peer_address[0]
        self._by_address[host] -= 1
        if not self._by_address[host]:
            del self._by_address[host]
        self._ingest.remove_source(connection)
        self._closed(connection)
        for intake in connection.route.intakes:
            if isinstance(intake, NamingIntake):
                intake.closed(connection)
        for presence in tuple(connection.presences):
            if presence.discard(connection):
                self.routes.gone(presence)
        connection.presences.clear()
        if not self.connections:
            waiting, self._emptied = self._emptied, []
            for deferred in waiting:
                deferred.callback(None)

    def find(self, peer: Peer) -> DeviceConnection | None:
        """The open connection from exactly this address and port."""
        return next((one for one in self.connections if one.peer_address == peer), None)

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


def _probing(after_seconds: int) -> list[tuple[int, int]]:
    """The socket options of keep-alive that this system has."""
    wanted = (("TCP_KEEPIDLE", after_seconds), ("TCP_KEEPINTVL", PROBE_EVERY_SECONDS), ("TCP_KEEPCNT", PROBES))
    return [(getattr(socket, name), value) for name, value in wanted if hasattr(socket, name)]
