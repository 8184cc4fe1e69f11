# -*- test-case-name: tests.connectors.socket.test_connector -*-
"""One Socket connector as a service: opens its one TCP or UDP address, or connects to its targets; keeps trying when it
cannot, closes all. What goes down to devices is in `commands`, for which it is the wire.

Invariants:

* `listening` is true between a successful bind and the loss of that socket, and at no other time (S-27).
* A socket that is lost without our wish is opened again (S-26), with the same growing delay as after a failure.
* Every call that comes back late (a name looked up, a socket closed) is matched with the listener it belongs to,
  so a connector that was stopped, or stopped and started again, is not disturbed by it.
* When the Deferred of `stopService` has fired there is no socket and no timer left (S-08).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import random
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, fail, gatherResults, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.connectors.socket.commands import Commands
from tbgw.connectors.socket.config import SocketConfig, SocketDevice
from tbgw.connectors.socket.dialling import Dialler, deliver, dial, endpoint_to
from tbgw.connectors.socket.internal_events import (
    DevicesUnverified,
    ListenerLost,
    ListenFailed,
    Listening,
    ListeningAgain,
    TargetFailed,
)
from tbgw.connectors.socket.links import Target
from tbgw.connectors.socket.naming import Peer
from tbgw.connectors.socket.presence import Link
from tbgw.connectors.socket.routes import NamingIntake, Routes
from tbgw.connectors.socket.tcp import DeviceConnection, DeviceFactory
from tbgw.connectors.socket.udp import DevicePort
from tbgw.errors import CommandFailed, ConfigurationError
from tbgw.interfaces import IConnector, IDownlink, IIngest, IStatusSource
from tbgw.internal_events import Events
from tbgw.model import Device, Value

FIRST_RETRY_SECONDS = 5.0
LAST_RETRY_SECONDS = 60.0
CLOSE_SECONDS = 5.0
"""How long a connection may take to close in good order before it is cut."""

Listener = DeviceFactory | DevicePort


@implementer(IConnector, IStatusSource)
class SocketConnector(Service):
    """See the module."""

    connector_type = "socket"

    def __init__(
        self,
        name: str,
        config: SocketConfig,
        devices: Sequence[tuple[SocketDevice, Device]],
        ingest: IIngest,
        events: Events,
        reactor: Any,
        now_ms: Callable[[], int],
        downlink: IDownlink | None = None,
        jitter: Callable[[], float] = random,
    ) -> None:
        """
        `reactor` provides IReactorTCP or IReactorUDP, IReactorTime and, for a local address given by name,
        IReactorCore: an intersection that mypy cannot say. `now_ms`: wall time, in ms since the epoch. `downlink`:
        whom devices' questions go to; None: nobody. Raises ValueError when a device's encoding is unknown or unfit.
        """
        self.connector_name = name
        self.port: IListeningPort | None = None
        """The listening socket while there is one."""
        self._config = config
        self._ingest = ingest
        self._events = events
        self._reactor = reactor
        self._now_ms = now_ms
        self._jitter = jitter
        self._routes = Routes(name, devices, ingest, events, config.max_devices)
        self._commands = Commands(name, self._routes, self, downlink, reactor, events)
        self._diallers: list[Dialler] = []
        self._name_retries: dict[Target, IDelayedCall] = {}
        self._listener: Listener | None = None
        """What the sockets belong to; a new one for each start. None: stopped."""
        self._retry: IDelayedCall | None = None
        self._failures = 0
        self._log = Logger()

    @property
    def listening(self) -> bool:
        """Whether devices can reach the connector."""
        return self.port is not None

    def startService(self) -> None:
        """See `IConnector`."""
        super().startService()
        self._failures = 0
        listener = self._listener = self._make_listener()
        if self._config.tls is not None and self._config.tls.accept_any_server:
            self._events.emit(DevicesUnverified(self.connector_name))
        if isinstance(listener, DeviceFactory) and self._config.role == "client":
            self._dial_all(listener)
        else:
            self._open()

    def stopService(self) -> Deferred[None]:
        """See `IConnector`: fires when all sockets are gone."""
        super().stopService()
        listener, self._listener = self._listener, None
        port, self.port = self.port, None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._commands.close()
        diallers, self._diallers = self._diallers, []
        for dialler in diallers:
            dialler.stop()
        for call in self._name_retries.values():
            call.cancel()
        self._name_retries.clear()
        gone: list[Deferred[Any]] = []
        if port is not None:
            gone.append(maybeDeferred(port.stopListening))
        if listener is not None:
            gone.append(listener.close())
            if listener.connections:
                deadline = self._reactor.callLater(CLOSE_SECONDS, listener.abort)
                gone[-1].addCallback(lambda _: deadline.cancel() if deadline.active() else None)
        return gatherResults(gone, consumeErrors=True).addCallback(lambda _: None)

    def status(self) -> Mapping[str, Any]:
        """See `IStatusSource`."""
        return {
            "name": self.connector_name,
            "type": self.connector_type,
            "transport": self._config.transport,
            "address": self._config.address,
            "port": self._bound_port(),
            "listening": self.listening,
            "connections": 0 if self._listener is None else len(self._listener.connections),
            "messages": self._routes.messages,
            "bytes": self._routes.bytes,
        }

    def _bound_port(self) -> int:
        """The port as it is; it differs from the configured one only if that is 0."""
        return self._config.port if self.port is None else int(cast(Any, self.port.getHost()).port)

    def _make_listener(self) -> Listener:
        config = self._config

        def lost() -> None:
            if self._listener is listener:
                self._listener_lost()

        listener: Listener
        if config.transport == "TCP":
            listener = DeviceFactory(
                self.connector_name,
                self._routes,
                config,
                self._ingest,
                self._events,
                self._now_ms,
                self._reactor,
                lost,
                self._commands.opened,
                self._commands.closed,
            )
        else:
            listener = DevicePort(
                self.connector_name,
                self._routes,
                config.buffer_bytes,
                self._ingest,
                self._events,
                self._now_ms,
                self._reactor,
                lost,
                config.max_messages_per_second,
                config.groups,
            )
        return listener

    # As client.

    def _dial_all(self, devices: DeviceFactory) -> None:
        config = self._config
        for target in config.targets:
            try:
                endpoint = endpoint_to(self._reactor, target, config.connect_timeout_seconds, config.tls)
            except ConfigurationError as error:
                # P-03: never in plain text instead. The files were read at the check, so they changed since.
                self._log.error("{name}: {target} is not dialled: {why}", name=self.connector_name, target=str(target),
                                why=str(error))
                continue
            dialler = Dialler(self.connector_name, target, endpoint, devices, self._reactor, self._jitter)
            self._diallers.append(dialler)
        for dialler in self._diallers:
            dialler.start()

    def _poll_targets(self) -> None:
        """With UDP there is nothing to connect: what is sent is the poll."""
        for target in self._config.targets:
            self._find_target(target)

    def _find_target(self, target: Target) -> None:
        self._name_retries.pop(target, None)
        if isIPAddress(target.host) or isIPv6Address(target.host):
            self._poll_target(target.host, target)
        else:
            found: Deferred[str] = self._reactor.resolve(target.host)
            found.addCallbacks(
                self._poll_target, self._target_unknown, callbackArgs=(target,), errbackArgs=(target,)
            )

    def _poll_target(self, address: str, target: Target) -> None:
        route = self._routes.find(address, target.port)
        if self._listener is None or route is None:
            return
        for intake in route.intakes:
            presence = None if isinstance(intake, NamingIntake) else intake.presence
            if presence is not None and presence.last is None:
                presence.last = (address, target.port)
            self._commands.opened((address, target.port), intake.configured, presence)

    def _target_unknown(self, why: Failure, target: Target) -> None:
        if self._listener is not None:
            delay = 30.0
            self._events.emit(TargetFailed(self.connector_name, str(target), why.getErrorMessage(), delay))
            self._name_retries[target] = self._reactor.callLater(delay, self._find_target, target)

    # What `commands` writes by (see `commands.Wire`).

    def send_to(self, peer: Peer, data: bytes) -> None:
        """A datagram from the bound port (S-09, S-10)."""
        if not isinstance(self._listener, DevicePort):
            raise CommandFailed("gone: the connector is stopped")
        self._listener.send(peer, data)

    def connect(self, peer: Peer) -> Deferred[Link]:
        """Dial a device that listens; with UDP its address is all there is to it."""
        listener = self._listener
        if isinstance(listener, DevicePort):
            return succeed(peer)
        if listener is None or self._config.role == "client" or self._config.tls is not None:
            return fail(CommandFailed("not connected"))

        def connected(connection: DeviceConnection) -> Link:
            return connection

        endpoint = endpoint_to(self._reactor, Target(*peer), self._config.connect_timeout_seconds, None)
        return dial(endpoint, listener).addCallback(connected)

    def deliver(self, peer: Peer, data: bytes) -> Deferred[None]:
        """Over the connection from exactly there, or to what listens there (S-01)."""
        listener = self._listener
        if listener is None:
            return fail(CommandFailed("gone: the connector is stopped"))
        if isinstance(listener, DevicePort):
            return maybeDeferred(listener.send, peer, data)
        connection = listener.find(peer)
        if connection is not None:
            return succeed(None) if connection.send(data) else fail(CommandFailed("gone: the connection is closing"))
        if self._config.tls is not None:
            return fail(CommandFailed("refused: this connector speaks TLS, and would have to write in plain text"))
        return deliver(endpoint_to(self._reactor, Target(*peer), self._config.connect_timeout_seconds, None), data)

    # IConnector

    def attributes_changed(self, device: str, values: Mapping[str, Value], deleted: Sequence[str]) -> None:
        """See `IConnector`."""
        self._commands.attributes_changed(device, values, deleted)

    def command(self, device: str, method: str, params: Value) -> Deferred[Value]:
        """See `IConnector`."""
        return self._commands.command(device, method, params)

    def own_command(self, method: str, params: Value) -> Deferred[Value]:
        """See `IConnector`."""
        return self._commands.own_command(method, params)

    def _open(self) -> None:
        """Bind now, or as soon as the name of the local address is looked up."""
        self._retry = None
        listener = self._listener
        address = self._config.address
        if listener is None:
            return
        if not address or isIPAddress(address) or isIPv6Address(address):
            self._bind(address, listener)
        elif address.lower() == "localhost":
            self._bind("127.0.0.1", listener)
        else:
            found: Deferred[str] = self._reactor.resolve(address)
            found.addCallbacks(self._bind, self._name_not_found, callbackArgs=(listener,), errbackArgs=(listener,))
            found.addErrback(lambda why: self._log.failure("opening {address}", why, address=address))

    def _bind(self, address: str, listener: Listener) -> None:
        if listener is not self._listener:
            return
        config = self._config
        try:
            port = listener.listen(self._reactor, address, config.port)
        except CannotListenError as why:
            self._try_later(getattr(why.socketError, "strerror", None) or str(why.socketError))
            return
        except ConfigurationError as why:
            self._try_later(str(why))  # a file for TLS; never in plain text instead (P-03)
            return
        self.port = port
        where = (self.connector_name, config.transport, config.address, self._bound_port())
        self._events.emit(ListeningAgain(*where, self._failures) if self._failures else Listening(*where))
        self._failures = 0
        if isinstance(listener, DevicePort):
            self._poll_targets()

    def _name_not_found(self, why: Failure, listener: Listener) -> None:
        if listener is self._listener:
            self._try_later(why.getErrorMessage().rstrip("."))

    def _try_later(self, reason: str) -> None:
        config = self._config
        delay = self._schedule()
        where = (self.connector_name, config.transport, config.address, config.port)
        self._events.emit(ListenFailed(*where, reason, delay))

    def _listener_lost(self) -> None:
        self.port = None
        self._events.emit(ListenerLost(self.connector_name, self._schedule()))

    def _schedule(self) -> float:
        """Arrange the next attempt; its delay in seconds: 5, 10, 20, 40, 60, 60 and so on."""
        delay = min(FIRST_RETRY_SECONDS * 2.0 ** min(self._failures, 10), LAST_RETRY_SECONDS)
        self._failures += 1
        self._retry = self._reactor.callLater(delay, self._open)
        return delay
