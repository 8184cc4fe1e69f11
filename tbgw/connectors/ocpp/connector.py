# -*- test-case-name: tests.connectors.ocpp.test_connector -*-
"""One OCPP connector as a service: a Central System on one port, for charge points of every version.

It joins four parts, and does little itself: the wire is `tbgw.ocpp`'s, who may come in is for `security`, what charge
points say goes to `reports`, what they are told comes from `commands` and `updates`.

Invariants:

* `listening` is true between a successful bind and the end of that socket, and at no other time.
* An address that cannot be opened is tried again, growing slower; TLS that cannot be had is never left out.
* No charge point is let in before what was kept of it has been read.
* A charge point whose certificate is still to be proven by its serial is heard only once its BootNotification bears it.
* When the Deferred of `stopService` has fired there is no connection, no timer and no thread left.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.connectors.ocpp.calls import Calls
from tbgw.connectors.ocpp.commands import Commands
from tbgw.connectors.ocpp.config import OCPPConfig
from tbgw.connectors.ocpp.hashing import Hashing
from tbgw.connectors.ocpp.internal_events import (
    AnswerInvalid,
    ConnectionNotice,
    EntranceNotice,
    ListenFailed,
    Listening,
    ListeningAgain,
    MessageNotice,
    SerialRefused,
)
from tbgw.connectors.ocpp.ledger import Ledger
from tbgw.connectors.ocpp.reports import StationReports
from tbgw.connectors.ocpp.security import Doorkeeper, Pass, admission
from tbgw.connectors.ocpp.updates import Updates
from tbgw.errors import CommandFailed, ConfigurationError
from tbgw.interfaces import IConnector, IDownlink, IIngest, IPausable, IStatusSource
from tbgw.internal_events import Events
from tbgw.model import Value
from tbgw.ocpp.central_system import CentralSystemFactory, listen
from tbgw.ocpp.errors import CallRefused
from tbgw.ocpp.interfaces import Admission, Handshake, ICentralSystem, IStation, Refusal
from tbgw.ocpp.notices import Notice
from tbgw.ocpp.options import CentralSystemOptions
from tbgw.ocpp.session import Validation

FIRST_RETRY_SECONDS = 5.0
LAST_RETRY_SECONDS = 60.0
CLOSE_SECONDS = 1.5
"""How long a charge point may take to answer our close frame before it is cut; the whole gateway stops in 5 seconds."""
BACKLOG = 1024
"""Connections that the system holds for us until we take them: a storm after a restart comes within a second."""
MAX_PASSES = 20_000
"""Charge points that were let in and are not connected yet; those whose handshake failed afterwards stay until then."""
POLICY_VIOLATION = 1008

_ENTRANCE = frozenset(("openings_full", "slow_opening", "storm", "bad_request", "no_subprotocol"))
_CONNECTION = frozenset(("replaced", "unresponsive", "not_reading", "too_many_faults", "protocol_error"))
_TOLD_ELSEWHERE = frozenset(("refused",))


@implementer(IConnector, IStatusSource, ICentralSystem, IPausable)
class OCPPConnector(Service):
    """See the module."""

    connector_type = "ocpp"

    def __init__(
        self,
        name: str,
        config: OCPPConfig,
        reports: StationReports,
        ledger: Ledger,
        ingest: IIngest,
        events: Events,
        reactor: Any,
        now_ms: Callable[[], int],
        downlink: IDownlink | None = None,
    ) -> None:
        """
        `reactor` provides IReactorTCP, IReactorTime, IReactorFromThreads and IReactorCore: an intersection that mypy
        cannot say. `now_ms`: wall time, in ms since the epoch. `ledger`: one for all connectors of a gateway.
        """
        self.connector_name = name
        self.port: IListeningPort | None = None
        """The listening socket while there is one."""
        self._config = config
        self._entrance = config.central_system
        self._reports = reports
        self._ledger = ledger
        self._ingest = ingest
        self._events = events
        self._reactor = reactor
        self._hashing = Hashing(reactor)
        self._doorkeeper = Doorkeeper(name, config, ledger, self._hashing, events, reactor)
        self._stations: dict[str, IStation] = {}
        self._passes: dict[str, Pass] = {}
        """Of those that are connected, by path."""
        self._admitted: OrderedDict[tuple[str, tuple[str, int]], Pass] = OrderedDict()
        """Of those that may come in and are not connected yet, by path and peer."""
        calls = Calls(reports, self._doorkeeper, self._hashing, self._identity_of, self._is_proven)
        self._commands = Commands(name, config, self._stations, reports, calls, events, now_ms)
        self._updates = Updates(
            name, config, self._stations, reports, self._commands, calls, downlink, events, reactor
        )
        reports.on_ready(self._updates.ready)
        self._factory: CentralSystemFactory | None = None
        """What the connections belong to; a new one for each start. None: stopped."""
        self._retry: IDelayedCall | None = None
        self._failures = 0
        self._log = Logger()

    @property
    def listening(self) -> bool:
        """Whether charge points can reach the connector."""
        return self.port is not None

    # IService

    def startService(self) -> None:
        """See `IConnector`."""
        super().startService()
        self._failures = 0
        self._ledger.load()
        factory = self._factory = CentralSystemFactory(
            _options(self._config), self, self._reactor, notice=self._notice
        )
        self._ingest.add_source(self)
        self._reports.restore().addCallback(lambda _: self._open(factory)).addErrback(self._not_opened, factory)

    def stopService(self) -> Deferred[None]:
        """See `IConnector`: fires when all sockets are gone and all is kept."""
        super().stopService()
        factory, self._factory = self._factory, None
        port, self.port = self.port, None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._ingest.remove_source(self)
        self._updates.close()
        return Deferred.fromCoroutine(self._stop(factory, port))

    async def _stop(self, factory: CentralSystemFactory | None, port: IListeningPort | None) -> None:
        if port is not None:
            await maybeDeferred(port.stopListening)
        if factory is not None:
            if factory.is_paused:
                factory.resume()  # or nobody's close frame would be read
            await factory.close()
        self._admitted.clear()
        self._hashing.stop()
        await self._reports.close()
        await self._ledger.close()

    # IStatusSource

    def status(self) -> Mapping[str, Any]:
        """See `IStatusSource`."""
        versions = Counter(station.version.value for station in self._stations.values())
        return {
            "name": self.connector_name,
            "type": self.connector_type,
            "transport": "TLS" if self._entrance.connection.has_tls else "TCP",
            "address": self._entrance.host,
            "port": self._bound_port(),
            "listening": self.listening,
            "connections": len(self._stations),
            "versions": dict(sorted(versions.items())),
            "attributesWaiting": self._updates.waiting,
            **self._reports.status(),
        }

    def _bound_port(self) -> int:
        return self._entrance.port if self.port is None else int(cast(Any, self.port.getHost()).port)

    # IPausable

    def pause_reading(self) -> None:
        """See `IPausable`: the charge points keep what they have to say."""
        if self._factory is not None and not self._factory.is_paused:
            self._factory.pause()

    def resume_reading(self) -> None:
        """See `IPausable`."""
        if self._factory is not None and self._factory.is_paused:
            self._factory.resume()

    # IConnector

    def attributes_changed(self, device: str, values: Mapping[str, Value], deleted: Sequence[str]) -> None:
        """See `IConnector`."""
        self._reports.attributes_changed(device, values, deleted)
        self._updates.attributes_changed(device, values)

    def command(self, device: str, method: str, params: Value) -> Deferred[Value]:
        """See `IConnector`."""
        if not self.running:
            return fail(CommandFailed("the connector is stopped"))
        return self._commands.command(device, method, params)

    def own_command(self, method: str, params: Value) -> Deferred[Value]:
        """See `IConnector`."""
        if not self.running:
            return fail(CommandFailed("the connector is stopped"))
        return self._commands.own_command(method, params)

    def session_began(self) -> None:
        """There is a new session with ThingsBoard."""
        if self.running:
            self._updates.session_began()

    # ICentralSystem

    def admit(self, handshake: Handshake) -> Deferred[Admission | Refusal] | Admission | Refusal:
        """See `ICentralSystem`."""
        found = self._doorkeeper.admit(handshake)
        if isinstance(found, Deferred):
            return found.addCallback(self._admission, handshake)
        return self._admission(found, handshake)

    def _admission(self, found: Pass | Refusal, handshake: Handshake) -> Admission | Refusal:
        if isinstance(found, Refusal):
            return found
        self._admitted[handshake.path, handshake.peer] = found
        if len(self._admitted) > MAX_PASSES:
            self._admitted.popitem(last=False)
        return admission(found, self._entrance)

    def connected(self, station: IStation) -> None:
        """See `ICentralSystem`."""
        passed = self._admitted.pop((station.path, station.peer), None)
        if passed is None:
            passed = Pass(station.identity, station.data, 0)
        self._doorkeeper.entered(passed)
        self._passes[station.path] = passed
        self._stations[station.path] = station
        self._reports.connected(station, {"securityProfile": passed.profile})

    def disconnected(self, station: IStation, reason: str) -> None:
        """See `ICentralSystem`."""
        if self._stations.get(station.path) is station:
            del self._stations[station.path]
            self._passes.pop(station.path, None)
        self._updates.gone(station)
        self._reports.disconnected(station, reason)

    def call_received(
        self, station: IStation, action: str, payload: dict[str, Any], faults: Sequence[str]
    ) -> Deferred[dict[str, Any]] | dict[str, Any]:
        """See `ICentralSystem`."""
        self._check_serial(station, action, payload)
        return self._reports.call_received(station, action, payload, faults)

    def send_received(self, station: IStation, action: str, payload: dict[str, Any], faults: Sequence[str]) -> None:
        """See `ICentralSystem`."""
        if self._is_proven(station):
            self._reports.send_received(station, action, payload, faults)

    def _identity_of(self, station: IStation) -> str:
        passed = self._passes.get(station.path)
        return station.identity if passed is None else passed.identity

    def _is_proven(self, station: IStation) -> bool:
        """Whether the serial of its certificate, if that counts, was found in its BootNotification."""
        passed = self._passes.get(station.path)
        return passed is None or not passed.names

    def _check_serial(self, station: IStation, action: str, payload: dict[str, Any]) -> None:
        """Nothing is taken before the serial of its certificate was found in its BootNotification."""
        passed = self._passes.get(station.path)
        if passed is None or not passed.names:
            return
        if action != "BootNotification":
            raise CallRefused("SecurityError", "a BootNotification has to come first")
        proven = passed.names & _serials(payload)
        if not proven:
            self._events.emit(SerialRefused(self.connector_name, station.path))
            self._reactor.callLater(0, station.close, POLICY_VIOLATION, "the serial is not the certificate's")
            raise CallRefused("SecurityError", "the serial is not the certificate's")
        self._doorkeeper.serial_proven(passed.identity, min(proven))
        self._passes[station.path] = replace(passed, names=frozenset())

    def _notice(self, notice: Notice) -> None:
        if notice.kind in _TOLD_ELSEWHERE:
            return
        if notice.kind == "answer_invalid":
            self._events.emit(AnswerInvalid(self.connector_name, notice.path, notice.text))
            return
        kind = (
            EntranceNotice
            if notice.kind in _ENTRANCE
            else ConnectionNotice
            if notice.kind in _CONNECTION
            else MessageNotice
        )
        self._events.emit(kind(self.connector_name, notice.kind, notice.path, notice.peer, notice.text))

    # Listening.

    def _open(self, factory: CentralSystemFactory) -> None:
        """Bind now, or as soon as the name of the local address is looked up."""
        self._retry = None
        host = self._entrance.host
        if factory is not self._factory:
            return
        if isIPAddress(host) or isIPv6Address(host):
            self._bind(host, factory)
        elif host.lower() == "localhost":
            self._bind("127.0.0.1", factory)
        else:
            found: Deferred[str] = self._reactor.resolve(host)
            found.addCallback(self._bind, factory)
            found.addErrback(self._not_opened, factory)

    def _bind(self, address: str, factory: CentralSystemFactory) -> None:
        if factory is not self._factory:
            return
        try:
            context = self._context()
        except ConfigurationError as error:  # a file for TLS; never in plain text instead (O-14)
            self._try_later(str(error), factory)
            return
        opened = listen(self._endpoint(address), factory, context, self._reactor)
        opened.addCallback(self._opened, factory).addErrback(self._not_opened, factory)

    def _endpoint(self, address: str) -> IStreamServerEndpoint:
        kind = TCP6ServerEndpoint if isIPv6Address(address) else TCP4ServerEndpoint
        return kind(self._reactor, self._entrance.port, backlog=BACKLOG, interface=address)

    def _context(self) -> Any:
        if not self._entrance.connection.has_tls:
            return None
        from tbgw.connectors.ocpp.secure import RenewedContext  # late: needs pyOpenSSL

        return RenewedContext(self.connector_name, self._entrance.connection, self._events, self._reactor)

    def _opened(self, port: IListeningPort, factory: CentralSystemFactory) -> Any:
        if factory is not self._factory:
            return port.stopListening()
        self.port = port
        where = (self.connector_name, self._scheme, self._entrance.host, self._bound_port())
        self._events.emit(ListeningAgain(*where, self._failures) if self._failures else Listening(*where))
        self._failures = 0
        return None

    @property
    def _scheme(self) -> str:
        return "wss" if self._entrance.connection.has_tls else "ws"

    def _not_opened(self, failure: Failure, factory: CentralSystemFactory) -> None:
        if factory is not self._factory:
            return
        error = failure.value
        if isinstance(error, CannotListenError):
            reason = getattr(error.socketError, "strerror", None) or str(error.socketError)
        else:
            reason = failure.getErrorMessage().rstrip(".")
            if not isinstance(error, OSError):
                self._log.failure("opening {address}", failure, address=self._entrance.host)
        self._try_later(reason, factory)

    def _try_later(self, reason: str, factory: CentralSystemFactory) -> None:
        """Arrange the next attempt: after 5, 10, 20, 40, 60, 60 seconds and so on."""
        delay = min(FIRST_RETRY_SECONDS * 2.0 ** min(self._failures, 10), LAST_RETRY_SECONDS)
        self._failures += 1
        where = (self.connector_name, self._scheme, self._entrance.host, self._entrance.port)
        self._events.emit(ListenFailed(*where, reason, delay))
        self._retry = self._reactor.callLater(delay, self._open, factory)


def _options(config: OCPPConfig) -> CentralSystemOptions:
    entrance = config.central_system
    return CentralSystemOptions(
        validation=Validation(entrance.validation.inbound),
        max_message_bytes=entrance.max_message_bytes,
        open_timeout_seconds=float(entrance.handshake_timeout_seconds),
        close_timeout_seconds=CLOSE_SECONDS,
        ping_interval_seconds=float(entrance.ping_interval_seconds),
        ping_timeout_seconds=float(entrance.ping_timeout_seconds),
        max_queued_calls=entrance.max_queued_calls,
        max_connections=entrance.max_connections,
        connections_per_second=float(entrance.connections_per_second),
        connection_burst=2 * entrance.connections_per_second,
        compression=entrance.compression,
        trusted_proxies=entrance.trusted_proxies,
    )


def _serials(payload: Mapping[str, Any]) -> frozenset[str]:
    """What a BootNotification says of serials, in any version."""
    station = payload.get("chargingStation")
    found = [payload.get("chargePointSerialNumber"), payload.get("chargeBoxSerialNumber")]
    found += [station.get("serialNumber")] if isinstance(station, dict) else []
    return frozenset(one for one in found if isinstance(one, str) and one)
