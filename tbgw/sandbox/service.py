"""The sandbox as a service: an MQTT endpoint in ThingsBoard's place, for trying the gateway with nothing else at hand.

    sandbox = Sandbox(reactor, folder, token_file, events=events, now_ms=now_ms)
    token = sandbox.ensure_token()      # usable before the start: the gateway's configuration reads the file
    sandbox.startService()

Without `folder` everything is kept in memory only, without `token_file` the token too. A port in use, or a database
that cannot be opened, costs one clear line and is tried again, from 5 seconds on growing to a minute. A database that
is damaged is set aside and a new one begun: what is in it was only ever a trial.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from zope.interface import implementer

from tbgw.errors import StoreError
from tbgw.interfaces import IStatusSource
from tbgw.internal_events import Events
from tbgw.sandbox import credentials as book
from tbgw.sandbox import token as tokens
from tbgw.sandbox.commands import Commands
from tbgw.sandbox.control import Control
from tbgw.sandbox.credentials import Credentials
from tbgw.sandbox.devices import Device, Snapshot
from tbgw.sandbox.internal_events import (
    SandboxPortTaken,
    SandboxReady,
    SandboxStoreFailed,
    SandboxStoreSetAside,
    TokenCreated,
    TokenExposed,
)
from tbgw.sandbox.platform import Platform, SandboxLimits
from tbgw.sandbox.server import Endpoint, EndpointFactory, OnPublish
from tbgw.sandbox.store import Store, StoreUnusable, set_aside
from tbgw.sandbox.switches import Switches
from tbgw.sandbox.view import SandboxView
from tbgw.tls import ServerTLS

FIRST_RETRY_SECONDS = 5.0
LAST_RETRY_SECONDS = 60.0

GATEWAY_NAME = "Gateway"


class _Retry:
    """One thing that is tried until it works, at growing distances."""

    def __init__(self, reactor: Any, attempt: Callable[[], None]) -> None:
        self._reactor = reactor
        self._attempt = attempt
        self._call: IDelayedCall | None = None
        self.seconds = FIRST_RETRY_SECONDS

    def again(self) -> None:
        """It failed: try again after `seconds`, and next time after twice that."""
        self._call = self._reactor.callLater(self.seconds, self._fired)
        self.seconds = min(LAST_RETRY_SECONDS, self.seconds * 2)

    def _fired(self) -> None:
        self._call = None
        self._attempt()

    def reset(self) -> None:
        """It worked, or is not wanted any more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self.seconds = FIRST_RETRY_SECONDS


@implementer(IStatusSource)
class Sandbox(Service):
    """
    The sandbox. `reactor` provides IReactorTCP and IReactorTime; `now_ms` gives the wall-clock time in ms.

    `view` is what the page shows, `control` what an operator can do, `switches` the behaviours that can be turned on
    and off; `on_publish` is called as `(device, topic, payload)` for every PUBLISH of an accepted client, in order,
    before it has any effect.
    """

    name = "sandbox"
    _tls_context: Any = None

    def __init__(
        self,
        reactor: Any,
        folder: Path | None = None,
        token_file: Path | None = None,
        address: str = "127.0.0.1",
        mqtt_port: int = 18830,
        *,
        tls: ServerTLS | None = None,
        tls_port: int = 18883,
        events: Events,
        now_ms: Callable[[], int],
        limits: SandboxLimits | None = None,
        switches: Switches | None = None,
    ) -> None:
        self._reactor = reactor
        self._folder = folder
        self._token_file = token_file
        self._address = address
        self._wanted_port = mqtt_port
        self._tls = tls
        self._wanted_tls_port = tls_port
        self._events = events
        self._limits = limits or SandboxLimits()
        self.switches = switches or Switches()
        self.view = SandboxView()
        self._endpoint = Endpoint(
            reactor,
            events,
            now_ms,
            self.switches,
            self.view,
            self._limits.max_connections,
            self._store_failed,
        )
        self.control = Control(lambda: self._platform, self._endpoint, self.switches, now_ms, self._credentials_set)
        self.commands = Commands(self.control)
        self._factory = EndpointFactory(self._endpoint)
        self._token: str | None = None
        self._others: list[tuple[str, str, bool]] = []
        self._platform: Platform | None = None
        self._gateway: Device | None = None
        self._store: Store | None = None
        self._listening: IListeningPort | None = None
        self._listening_tls: IListeningPort | None = None
        self._listen_retry = _Retry(reactor, self._listen)
        self._listen_tls_retry = _Retry(reactor, self._listen_tls)
        self._open_retry = _Retry(reactor, self._open)

    # For the one who builds

    def ensure_token(self) -> str:
        """
        The access token of the gateway, made now when there is none yet. Raises ConfigurationError when the token file
        cannot be read or written or holds no token.
        """
        if self._token is None:
            if self._token_file is None:
                self._token = tokens.make_token()
            else:
                self._token = tokens.read_token(self._token_file)
                if self._token is None:
                    self._token = tokens.create_token(self._token_file)
                    self._events.emit(TokenCreated(path=str(self._token_file)))
                mode = tokens.exposed_mode(self._token_file)
                if mode is not None:
                    self._events.emit(TokenExposed(path=str(self._token_file), mode=mode))
        return self._token

    def add_credentials(self, token: str, device: str, gateway: bool = False) -> None:
        """Let another device in. Before the start."""
        self._others.append((token, device, gateway))

    @property
    def port(self) -> int | None:
        """The MQTT port that is really listened on; None when there is none."""
        return _port_of(self._listening)

    @property
    def tls_port(self) -> int | None:
        """The same of MQTT over TLS."""
        return _port_of(self._listening_tls)

    @property
    def on_publish(self) -> OnPublish | None:
        """Who is shown every PUBLISH."""
        return self._endpoint.on_publish

    @on_publish.setter
    def on_publish(self, hook: OnPublish | None) -> None:
        self._endpoint.on_publish = hook

    # Service

    def startService(self) -> None:
        """
        Begin; returns at once, also when the port is in use. Raises ConfigurationError for the token file, and for
        certificate and key.
        """
        self.ensure_token()
        if self._tls is not None:
            from tbgw.sandbox.tls import context_factory

            self._tls_context = context_factory(self._tls)
        super().startService()
        self._open()
        self._listen()
        if self._tls is not None:
            self._listen_tls()

    def stopService(self) -> Deferred[None]:
        """Store and acknowledge what came, close all connections and the database."""
        super().stopService()
        self._listen_retry.reset()
        self._listen_tls_retry.reset()
        self._open_retry.reset()
        listening, self._listening = self._listening, None
        listening_tls, self._listening_tls = self._listening_tls, None
        stopped = maybeDeferred(listening.stopListening if listening is not None else lambda: None)
        stopped.addCallback(lambda _: listening_tls.stopListening() if listening_tls is not None else None)
        stopped.addCallback(lambda _: self._endpoint.close())

        def close_store(_: object) -> None:
            self._endpoint.suspend()
            if self._store is not None:
                self._store.close()
                self._store = None
            self.view.show(None, None)

        return stopped.addCallback(close_store)

    def _listen(self) -> None:
        try:
            self._listening = self._reactor.listenTCP(self._wanted_port, self._factory, interface=self._address)
        except CannotListenError as error:
            self._not_listening(error, self._wanted_port, self._listen_retry)
        else:
            self._listen_retry.reset()
            self._events.emit(SandboxReady(address=self._address, port=self.port or 0, how="MQTT"))

    def _listen_tls(self) -> None:
        try:
            self._listening_tls = self._reactor.listenSSL(
                self._wanted_tls_port, self._factory, self._tls_context, interface=self._address
            )
        except CannotListenError as error:
            self._not_listening(error, self._wanted_tls_port, self._listen_tls_retry)
        else:
            self._listen_tls_retry.reset()
            self._events.emit(SandboxReady(address=self._address, port=self.tls_port or 0, how="MQTT over TLS"))

    def _not_listening(self, error: CannotListenError, port: int, retry: _Retry) -> None:
        why = error.socketError.strerror or str(error.socketError)
        self._events.emit(
            SandboxPortTaken(address=self._address, port=port, why=why, retry_seconds=retry.seconds)
        )
        retry.again()

    def _open(self) -> None:
        try:
            self._store, self._platform = self._opened()
        except StoreError as error:
            self._try_again(error)
            return
        self._gateway = self._platform.add_credentials(self.ensure_token(), GATEWAY_NAME, gateway=True)
        for token, device, gateway in self._others:
            self._platform.add_credentials(token, device, gateway)
        self._open_retry.reset()
        self.view.show(self._platform, self._store)
        self._endpoint.open(self._platform, self._store)

    def _credentials_set(self, device: Device, credentials: Credentials) -> None:
        """The token file says what the gateway's token is: a gateway on this machine reads it there."""
        if device is self._gateway and credentials.kind == book.ACCESS_TOKEN:
            self._token = credentials.token
            if self._token_file is not None:
                tokens.replace_token(self._token_file, credentials.token)

    def _opened(self) -> tuple[Store, Platform]:
        for _ in range(2):
            store = None
            try:
                store = Store(self._folder, self._limits.points_per_series, self._limits.max_store_bytes)
                return store, self._restored(store.load())
            except StoreError as error:
                if store is not None:
                    store.close()
                if self._folder is None or not isinstance(error, StoreUnusable):
                    raise
                try:
                    aside = set_aside(self._folder)
                except OSError as refused:
                    raise StoreError(f"{error}, nor moved away: {refused.strerror}") from refused
                self._events.emit(SandboxStoreSetAside(why=str(error), path=str(aside)))
        raise StoreError("the sandbox's database cannot be made anew")

    def _restored(self, snapshot: Snapshot) -> Platform:
        """The platform as it was. Raises StoreUnusable for what this program never put away so."""
        try:
            return Platform(self._limits, snapshot, lambda: int(self._reactor.seconds() * 1000))
        except (ValueError, LookupError, TypeError) as error:
            raise StoreUnusable(f"the sandbox's database cannot be understood: {error!r}") from error

    def _store_failed(self, error: StoreError) -> None:
        """The endpoint has cut all connections; begin anew from what is on disk."""
        if self._store is not None:
            self._store.close()
            self._store = None
        self.view.show(None, None)
        self._try_again(error)

    def _try_again(self, error: StoreError) -> None:
        self._events.emit(SandboxStoreFailed(why=str(error), retry_seconds=self._open_retry.seconds))
        if self.running:
            self._open_retry.again()

    # For others

    def push(self, device: str, topic: str, payload: bytes, qos: int = 1) -> Deferred[int]:
        """
        Send something to the device's own connection, as ThingsBoard would. Fires with the PUBACK's reason code. Raises
        LookupError when it is not connected.
        """
        return self._endpoint.connection_of(device).publish(topic, payload, qos=qos)

    def status(self) -> Mapping[str, Any]:
        """As in IStatusSource."""
        return {
            "sandbox": {
                "listening": self._listening is not None,
                "port": self.port,
                "tlsPort": self.tls_port,
                "storeOpen": self._store is not None,
                "sessions": self._endpoint.session_count,
                "devices": 0 if self._platform is None else len(self._platform.devices),
                "publishes": self._events.counters.get("sandbox_publishes"),
                "valuesLeftOut": self._events.counters.get("sandbox_values_left_out"),
            }
        }


def _port_of(listening: IListeningPort | None) -> int | None:
    if listening is None:
        return None
    host = listening.getHost()
    assert isinstance(host, IPv4Address | IPv6Address)  # noqa: S101 - what listenTCP and listenSSL listen on
    return host.port
