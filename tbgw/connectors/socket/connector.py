# -*- test-case-name: tests.connectors.socket.test_connector -*-
"""One Socket connector as a service: opens its one TCP or UDP address, keeps trying when it cannot, closes all.

The way from device to ThingsBoard is here; attribute updates, RPC and the answers to attribute requests are not in
this version, and the connector says so once at its start if they are configured.

Invariants:

* `listening` is true between a successful bind and the loss of that socket, and at no other time (S-27).
* A socket that is lost without our wish is opened again (S-26), with the same growing delay as after a failure.
* Every call that comes back late (a name looked up, a socket closed) is matched with the listener it belongs to,
  so a connector that was stopped, or stopped and started again, is not disturbed by it.
* When the Deferred of `stopService` has fired there is no socket and no timer left (S-08).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.connectors.socket.config import SocketConfig, SocketDevice
from tbgw.connectors.socket.framing import framer_maker
from tbgw.connectors.socket.internal_events import (
    DownlinkAbsent,
    ListenerLost,
    ListenFailed,
    Listening,
    ListeningAgain,
)
from tbgw.connectors.socket.routes import Routes
from tbgw.connectors.socket.tcp import DeviceFactory
from tbgw.connectors.socket.udp import DevicePort
from tbgw.interfaces import IConnector, IIngest, IStatusSource
from tbgw.internal_events import Events
from tbgw.model import Device

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
    ) -> None:
        """
        `reactor` provides IReactorTCP or IReactorUDP, IReactorTime and, for a local address given by name,
        IReactorCore: an intersection that mypy cannot say. `now_ms`: wall time, in ms since the epoch. Raises
        ValueError when a device's encoding is unknown or unfit.
        """
        self.connector_name = name
        self.port: IListeningPort | None = None
        """The listening socket while there is one."""
        self._config = config
        self._ingest = ingest
        self._events = events
        self._reactor = reactor
        self._now_ms = now_ms
        self._routes = Routes(name, devices, ingest, events)
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
        self._tell_what_is_absent()
        self._failures = 0
        self._listener = self._make_listener()
        self._open()

    def stopService(self) -> Deferred[None]:
        """See `IConnector`: fires when all sockets are gone."""
        super().stopService()
        listener, self._listener = self._listener, None
        port, self.port = self.port, None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
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
                framer_maker(config.delimiter, config.buffer_bytes),
                config.buffer_bytes,
                config.max_connections,
                self._ingest,
                self._events,
                self._now_ms,
                lost,
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
            )
        return listener

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
        self.port = port
        where = (self.connector_name, config.transport, config.address, self._bound_port())
        self._events.emit(ListeningAgain(*where, self._failures) if self._failures else Listening(*where))
        self._failures = 0

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

    def _tell_what_is_absent(self) -> None:
        devices = self._config.devices
        configured = {
            "attributeRequests": any(device.attribute_requests for device in devices),
            "attributeUpdates": any(device.attribute_updates for device in devices),
            "serverSideRpc": any(device.rpcs for device in devices),
        }
        what = [section for section, present in configured.items() if present]
        if what:
            self._events.emit(DownlinkAbsent(self.connector_name, ", ".join(what)))
