# -*- test-case-name: tests.connectors.socket.test_dialling -*-
"""Connecting out to devices that listen.

A `Dialler` keeps one target connected: again 1, 2, 4 and so on up to 60 seconds after a failure or a loss, with jitter,
so that a hundred devices behind one switch are not dialled in the same moment. A connection counts as a success once it
brought a message or lived for ten seconds; a device that takes the connection and drops it at once is not hammered.

The connection itself is an ordinary `DeviceConnection`: admitted by the address filters like any other, with the same
limits, and found by commands in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, UserError
from twisted.internet.interfaces import IAddress, IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tbgw.connectors.socket.internal_events import TargetConnected, TargetFailed
from tbgw.connectors.socket.links import TLS, Target
from tbgw.connectors.socket.tcp import DeviceConnection, DeviceFactory
from tbgw.errors import CommandFailed

FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 60.0
STABLE_SECONDS = 10.0


def endpoint_to(reactor: Any, target: Target, timeout_seconds: float, tls: TLS | None) -> IStreamClientEndpoint:
    """How a target is reached. Raises ConfigurationError when a file for TLS cannot be used."""
    endpoint: IStreamClientEndpoint
    if isIPAddress(target.host):
        endpoint = TCP4ClientEndpoint(reactor, target.host, target.port, timeout=timeout_seconds)
    elif isIPv6Address(target.host):
        endpoint = TCP6ClientEndpoint(reactor, target.host, target.port, timeout=timeout_seconds)
    else:
        endpoint = HostnameEndpoint(reactor, target.host.encode("idna"), target.port, timeout=timeout_seconds)
    if tls is not None:
        from tbgw.connectors.socket.secure import client_options

        endpoint = wrapClientTLS(client_options(target, tls), endpoint)
    return endpoint


class _Dialled(Factory):
    """Makes the connection that was dialled, by the rules for those that come in."""

    noisy = False

    def __init__(self, devices: DeviceFactory) -> None:
        self._devices = devices

    def buildProtocol(self, addr: IAddress | None) -> Any:
        return self._devices.buildProtocol(addr)


def dial(endpoint: IStreamClientEndpoint, devices: DeviceFactory) -> Deferred[DeviceConnection]:
    """One attempt."""
    return cast(Deferred[DeviceConnection], endpoint.connect(_Dialled(devices)))


class Dialler:
    """See the module."""

    def __init__(
        self,
        connector: str,
        target: Target,
        endpoint: IStreamClientEndpoint,
        devices: DeviceFactory,
        clock: Any,
        jitter: Callable[[], float],
    ) -> None:
        """`jitter()` is between 0 and 1."""
        self._connector = connector
        self._target = target
        self._endpoint = endpoint
        self._devices = devices
        self._clock = clock
        self._jitter = jitter
        self._attempt: Deferred[DeviceConnection] | None = None
        self._retry: IDelayedCall | None = None
        self._failures = 0
        self._stopped = False
        self._since = 0.0
        self._messages = 0

    def start(self) -> None:
        """Connect, and keep connected."""
        self._retry = None
        attempt = self._attempt = dial(self._endpoint, self._devices)
        attempt.addCallbacks(self._connected, self._failed)

    def stop(self) -> None:
        """No further attempt. The connection itself is the factory's to close."""
        self._stopped = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._attempt is not None:
            self._attempt.cancel()

    def _connected(self, protocol: Any) -> None:
        self._attempt = None
        connection = cast(DeviceConnection, getattr(protocol, "wrappedProtocol", protocol))
        self._since = self._clock.seconds()
        self._messages = self._brought(connection)
        self._devices.events.emit(TargetConnected(self._connector, str(self._target)))
        connection.lost = lambda: self._over("the connection ended", connection)

    def _brought(self, connection: DeviceConnection) -> int:
        return sum(intake.messages for intake in connection.route.intakes)

    def _failed(self, failure: Failure) -> None:
        self._attempt = None
        if self._stopped and failure.check(CancelledError, UserError, ConnectError):
            return
        self._try_later(failure.getErrorMessage().rstrip(".") or type(failure.value).__name__)

    def _over(self, why: str, connection: DeviceConnection) -> None:
        lived = self._clock.seconds() - self._since
        if lived >= STABLE_SECONDS or self._brought(connection) > self._messages:
            self._failures = 0
        if not self._stopped:
            self._try_later(why)

    def _try_later(self, why: str) -> None:
        if self._stopped:
            return
        delay = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(self._failures, 10))
        delay *= 0.75 + self._jitter() / 2
        self._failures += 1
        self._devices.events.emit(TargetFailed(self._connector, str(self._target), why, delay))
        self._retry = self._clock.callLater(delay, self.start)


class _Deliver(Protocol):
    """Writes and closes; what comes back is nobody's."""

    def __init__(self, data: bytes, done: Deferred[None]) -> None:
        self._data = data
        self._done = done

    def connectionMade(self) -> None:
        transport = cast(Any, self.transport)
        transport.write(self._data)
        transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._done.callback(None)


class _DeliverFactory(Factory):
    noisy = False

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.done: Deferred[None] = Deferred()

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return _Deliver(self._data, self.done)


def deliver(endpoint: IStreamClientEndpoint, data: bytes) -> Deferred[None]:
    """Connect, write, close. Fires when the system has taken it all; fails with CommandFailed."""
    factory = _DeliverFactory(data)

    def failed(failure: Failure) -> None:
        raise CommandFailed(f"refused: {failure.getErrorMessage().rstrip('.')}")

    return endpoint.connect(factory).addCallbacks(lambda _: factory.done, failed)
