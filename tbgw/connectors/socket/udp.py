# -*- test-case-name: tests.connectors.socket.test_udp -*-
"""Devices that send datagrams: one message each, admitted by source address.

Invariants:

* A datagram above the limit is dropped and counted, never cut (S-03): the socket reads one byte more than allowed,
  so that too long can be told from just long enough.
* However fast strangers send, the reactor gets its turn: after `DATAGRAMS_A_TURN` the port ends its read loop.
  Twisted bounds that loop by bytes only, so datagrams of no bytes could keep it for ever.
* What goes to a device leaves from the bound port (S-10), so that it passes firewalls the way the device's came.
* Of one address that sends more than it may the rest is dropped and counted; those of others are not touched. What is
  remembered of addresses is bounded.
* While the store is behind nothing is read; what the kernel's buffer cannot hold then is lost, as UDP is.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IReactorTime, IReactorUDP
from twisted.internet.protocol import DatagramProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.connectors.socket.internal_events import GroupNotJoined, MessagesTooLong, PeerRefused, SourceHeldBack
from tbgw.connectors.socket.naming import Peer
from tbgw.connectors.socket.routes import Routes
from tbgw.connectors.socket.tcp import shown_peer
from tbgw.errors import CommandFailed
from tbgw.interfaces import IIngest, IPausable
from tbgw.internal_events import Events

DATAGRAMS_A_TURN = 512
"""Datagrams between two turns of the reactor: some 5 ms of work."""
BYTES_A_TURN = 256 * 1024
"""Twisted's own bound of one read loop."""
RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
"""What is asked of the kernel: at 60,000 datagrams a second its usual buffer lasts for 5 ms only, less than one
slow turn. The kernel cuts it to net.core.rmem_max."""


REMEMBERED_SOURCES = 8192
"""Addresses whose rate is remembered."""


class RateGuard:
    """How much each address may send: `limit` datagrams a second, as many at once."""

    def __init__(self, clock: IReactorTime, limit: int) -> None:
        self.limit = limit
        self._seconds = clock.seconds
        self._left: dict[str, tuple[float, float]] = {}
        """Address to (what is left, as of when); the one that was new longest ago is forgotten first."""

    def admits(self, address: str) -> bool:
        """Count one more of this address."""
        now = self._seconds()
        left, since = self._left.get(address) or (float(self.limit), now)
        left = min(float(self.limit), left + (now - since) * self.limit)
        if address not in self._left and len(self._left) >= REMEMBERED_SOURCES:
            del self._left[next(iter(self._left))]
        self._left[address] = (left - 1 if left >= 1 else left, now)
        return left >= 1


@implementer(IPausable)
class DevicePort(DatagramProtocol):
    """The datagrams of all devices."""

    noisy = False

    def __init__(
        self,
        connector: str,
        routes: Routes,
        max_message_bytes: int,
        ingest: IIngest,
        events: Events,
        now_ms: Callable[[], int],
        clock: IReactorTime,
        lost: Callable[[], None],
        max_messages_per_second: int = 0,
        groups: Sequence[str] = (),
    ) -> None:
        """`lost()` is called when the socket is gone, be it by our own wish or not."""
        self._guard = RateGuard(clock, max_messages_per_second) if max_messages_per_second else None
        self._groups = groups
        self.connections: frozenset[object] = frozenset()
        self._connector = connector
        self._routes = routes
        self._max_message_bytes = max_message_bytes
        self._ingest = ingest
        self._events = events
        self._now_ms = now_ms
        self._clock = clock
        self._lost = lost
        self._paused = False
        self._closing = False
        self._left_this_turn = DATAGRAMS_A_TURN
        self._next_turn: IDelayedCall | None = None

    def listen(self, reactor: IReactorUDP, address: str, port: int) -> IListeningPort:
        """Open the socket. Raises CannotListenError."""
        size = self._max_message_bytes + 1
        if self._groups:
            # Shared, because several programs on one machine may listen to one group.
            multicast = cast(Any, reactor).listenMulticast
            listening: IListeningPort = multicast(port, self, address, size, listenMultiple=True)
        else:
            listening = reactor.listenUDP(port, self, interface=address, maxPacketSize=size)
        # Not in startProtocol: Twisted starts to read after that, which would undo a pause at once.
        self._ingest.add_source(self)
        return listening

    def startProtocol(self) -> None:
        """Twisted's: the socket is bound."""
        transport = cast(Any, self.transport)
        transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        transport.maxThroughput = BYTES_A_TURN
        self._paused = False
        for group in self._groups:
            transport.joinGroup(group).addErrback(self._not_joined, group)

    def stopProtocol(self) -> None:
        """Twisted's: the socket is gone."""
        self._ingest.remove_source(self)
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        self._lost()

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        """Twisted's: one datagram."""
        self._left_this_turn -= 1
        if not self._left_this_turn:
            self._end_turn()
        route = self._routes.find(addr[0], addr[1])
        if route is None:
            self._events.emit(PeerRefused(self._connector, shown_peer(addr[0], addr[1])))
        elif len(datagram) > self._max_message_bytes:
            peer = shown_peer(addr[0], addr[1])
            self._events.emit(MessagesTooLong(self._connector, peer, 1, self._max_message_bytes))
        elif self._guard is not None and not self._guard.admits(addr[0]):
            self._events.emit(SourceHeldBack(self._connector, shown_peer(addr[0], addr[1]), self._guard.limit))
        else:
            self._routes.bytes += len(datagram)
            route.receive(datagram, self._now_ms(), addr)

    def send(self, peer: Peer, data: bytes) -> None:
        """A datagram to a device. Raises CommandFailed."""
        if self.transport is None or self._closing:
            raise CommandFailed("gone: the connector does not listen at present")
        try:
            self.transport.write(data, peer)
        except (OSError, ValueError) as error:
            raise CommandFailed(f"refused: {getattr(error, 'strerror', None) or error}") from None

    def pause_reading(self) -> None:
        """See `IPausable`. Ends the read loop that is going on, too."""
        if not self._paused:
            self._paused = True
            if self.transport is not None:
                cast(Any, self.transport).stopReading()
                self._set_throughput()

    def resume_reading(self) -> None:
        """See `IPausable`."""
        if self._paused:
            self._paused = False
            if self.transport is not None and not self._closing:
                self._set_throughput()
                cast(Any, self.transport).startReading()

    def close(self) -> Deferred[None]:
        """There are no connections to close: fired already. No pause that ends makes the port read again."""
        self._closing = True
        return succeed(None)

    def abort(self) -> None:
        """There are no connections to abort."""

    def _not_joined(self, failure: Failure, group: str) -> None:
        self._events.emit(GroupNotJoined(self._connector, group, failure.getErrorMessage()))

    def _end_turn(self) -> None:
        self._next_turn = self._clock.callLater(0, self._begin_turn)
        self._set_throughput()

    def _begin_turn(self) -> None:
        self._next_turn = None
        self._left_this_turn = DATAGRAMS_A_TURN
        self._set_throughput()

    def _set_throughput(self) -> None:
        """Twisted's port looks at this before each datagram; 0 ends its loop."""
        held = self._paused or self._next_turn is not None
        cast(Any, self.transport).maxThroughput = 0 if held else BYTES_A_TURN
