"""The listener: who is connected, who may come in and how fast, and one place for what all connections share.

    factory = CentralSystemFactory(options, listener, reactor)
    listen(endpoint, factory)                            # or listen(endpoint, factory, tls=context, clock=reactor)

`factory.stations` has the one connection that counts for each charge point, by its path. A newcomer that was let in
takes the place of an older connection, which is most often dead without our knowing it: refusing the newcomer would
lock a charger out until a time-out finds out (spec ocpp, 1.5). Only who stands in `stations` is taken out of it, so it
does not matter in which order the two ends come.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IReactorTime, IStreamServerEndpoint
from twisted.internet.protocol import Protocol, ServerFactory

from tbgw.ocpp import schemas
from tbgw.ocpp.gate import Gate
from tbgw.ocpp.interfaces import ICentralSystem
from tbgw.ocpp.notices import Notice
from tbgw.ocpp.options import CentralSystemOptions
from tbgw.ocpp.protocol import StationProtocol, protocol_class
from tbgw.ocpp.replays import Replays
from tbgw.ocpp.session import IncomingCall, MessageIds, SessionOptions
from tbgw.ocpp.versions import Version
from tbgw.ocpp.wheel import Wheel

if TYPE_CHECKING:
    from twisted.internet.interfaces import IListeningPort

MAX_REMEMBERED = 20_000
"""Charge points whose recent answers are remembered, the connected ones included."""

PATIENCE_SECONDS = 2.0
"""How long a handshake is safe from being cut for another when too many are under way."""

WARM_PAUSE_SECONDS = 0.01
"""Between two schemas that are compiled ahead: each takes up to some 20 ms of the reactor's thread."""


class CentralSystemFactory(ServerFactory):
    """Makes a `StationProtocol` for each connection. Not Autobahn's factory: of its thirty settings ours are fixed."""

    noisy = False

    # What Autobahn's protocol reads from its factory.
    isServer = True
    isSecure = False
    port = None
    externalPort = None
    allowNullOrigin = True
    server = ""
    headers: dict[str, str] = {}  # noqa: RUF012 - read by Autobahn, never written

    def __init__(
        self,
        options: CentralSystemOptions,
        listener: ICentralSystem,
        clock: IReactorTime,
        notice: Callable[[Notice], None] = lambda _: None,
        nonce: str | None = None,
    ) -> None:
        """`notice` is told what is worth a log line or a counter. `nonce` starts our message ids; random by default."""
        self.options = options
        self.listener = listener
        self.clock = clock
        self.notice = notice
        self.stations: dict[str, StationProtocol] = {}
        self.gate = Gate(options.connections_per_second, options.connection_burst)
        self.ids = MessageIds(nonce or secrets.token_hex(4))
        self.session_options = SessionOptions(
            validation=options.validation,
            max_queued_calls=options.max_queued_calls,
            max_faults_per_minute=options.max_faults_per_minute,
        )
        self.countConnections = 0  # Autobahn's, kept by its protocol: all connections, whatever their state
        self.max_openings = options.max_openings
        self.is_closing = False
        self.is_paused = False
        self.wheel: Wheel[StationProtocol] = Wheel(clock, StationProtocol.ask)
        self._batched_timer = _Timers(clock)
        self._class = protocol_class(options)
        self._openings: dict[StationProtocol, float] = {}
        self._connections: set[StationProtocol] = set()
        self._replays: dict[str, Replays[IncomingCall]] = {}
        self._warmed: set[Version] = set()
        self._emptied: Deferred[None] | None = None

    @property
    def openings(self) -> int:
        """How many handshakes are under way."""
        return len(self._openings)

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """A connection's protocol; None, which closes it at once, when too many handshakes are under way."""
        if self.is_closing:
            return None
        if self.openings >= self.max_openings and not self._cut_the_slowest():
            self.notice(Notice("openings_full", "", _host(addr), f"{self.openings} handshakes are under way"))
            return None
        protocol = self._class()
        protocol.factory = self
        return cast(Protocol, protocol)

    def _cut_the_slowest(self) -> bool:
        """
        Make room among the handshakes: whoever dials and says nothing must not lock the others out. The oldest goes,
        if it had its `PATIENCE_SECONDS`.
        """
        oldest, since = next(iter(self._openings.items()))
        if self.clock.seconds() - since < PATIENCE_SECONDS:
            return False
        oldest.give_up_opening()
        return True

    def replays_of(self, path: str, now: float) -> Replays[IncomingCall]:
        """The memory of one charge point."""
        replays = self._replays.pop(path, None) or Replays()
        self._replays[path] = replays  # at the end: the first in the dict has been away the longest
        if len(self._replays) > max(MAX_REMEMBERED, 2 * self.options.max_connections):
            away = (other for other in self._replays if other not in self.stations and other != path)
            for other in list(islice(away, MAX_REMEMBERED // 10)):
                del self._replays[other]
        return replays

    def made(self, connection: StationProtocol) -> None:
        """A connection is there, its handshake begins."""
        self._openings[connection] = self.clock.seconds()
        self._connections.add(connection)

    def opened(self, connection: StationProtocol) -> None:
        """Its handshake is over, in one way or the other."""
        self._openings.pop(connection, None)

    def lost(self, connection: StationProtocol) -> None:
        """A connection is over, opened or not."""
        self._openings.pop(connection, None)
        self._connections.discard(connection)
        if not self._connections and self._emptied is not None:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def warm(self, version: Version) -> None:
        """Compile the common schemas of a version that somebody speaks, a little at a time."""
        if version in self._warmed or not self.options.warm_schemas:
            return
        self._warmed.add(version)
        names = schemas.warm(version)

        def step() -> None:
            if next(names, None) is not None and not self.is_closing:
                self.clock.callLater(WARM_PAUSE_SECONDS, step)

        step()

    def pause(self) -> None:
        """Read nothing from any station until `resume`: there is no room for what they would say."""
        self.is_paused = True
        for connection in list(self._connections):
            connection.hold_for_owner(True)

    def resume(self) -> None:
        """Read on."""
        self.is_paused = False
        for connection in list(self._connections):
            connection.hold_for_owner(False)

    def close(self, code: int = 1001, reason: str = "the central system stops") -> Deferred[None]:
        """Close all connections in good order, cut after `close_timeout_seconds`; fires when all are over."""
        self.is_closing = True
        for connection in list(self._connections):
            connection.close(code, reason)
        if not self._connections:
            return succeed(None)
        if self._emptied is None:
            self._emptied = Deferred()
        done: Deferred[None] = Deferred()
        self._emptied.chainDeferred(done)
        return done


class _Timers:
    """What Autobahn's protocol calls for its handshake and close time-outs."""

    def __init__(self, clock: IReactorTime) -> None:
        self.call_later = clock.callLater


def _host(address: IAddress | None) -> str:
    return str(getattr(address, "host", ""))


def listen(
    endpoint: IStreamServerEndpoint,
    factory: CentralSystemFactory,
    tls: Any = None,
    clock: IReactorTime | None = None,
) -> Deferred[IListeningPort]:
    """
    Listen. `tls`: what `TLSMemoryBIOFactory` takes as a server's context, such as `CertificateOptions`; the endpoint
    stays a TCP one.
    """
    if tls is None:
        return endpoint.listen(factory)
    from tbgw.ocpp.tls import AdmittingTLSFactory  # late: needs pyOpenSSL

    factory.max_openings = factory.options.max_tls_handshakes
    return endpoint.listen(AdmittingTLSFactory(tls, False, factory, clock))
