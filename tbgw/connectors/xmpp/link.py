# -*- test-case-name: tests.connectors.xmpp.test_cuts -*-
"""The link as a service: one session with an XMPP server, begun again for ever. What flows over it is in `exchange`,
the login in `login` and `component`, the bounds of what comes in `stream`.

Invariants:

* `connected` is true between the listener's `link_up` and `link_down`, and at no other time.
* A server that takes the connection and says nothing is left after `loginTimeoutSeconds`; one that falls silent later,
  after `pingPeriodSeconds` and `pingTimeoutSeconds`.
* The delay between attempts grows over failures of every kind, TLS included, and is a minute or more after a refused
  login or a conflict.
* When the Deferred of `stopService` has fired there is no connection and no timer left.

wokkel's `StreamManager` leads a stream from its connection to its end and tells its handlers; `ClientService` redials.
Neither is trusted with more: see `compat`, `backoff`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from random import random
from typing import Any

from twisted.application.internet import ClientService
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.words.protocols.jabber import xmlstream
from twisted.words.protocols.jabber.jid import JID
from twisted.words.xish.domish import Element
from twisted.words.xish.xmlstream import BootstrapMixin
from zope.interface import implementer

from tbgw.connectors.xmpp import endpoints, link_events, sasl, stanzas
from tbgw.connectors.xmpp.backoff import Backoff
from tbgw.connectors.xmpp.compat import StreamManager
from tbgw.connectors.xmpp.component import ComponentAuthenticator
from tbgw.connectors.xmpp.disco import Discovery, handlers
from tbgw.connectors.xmpp.errors import LinkBusy, LoginFailed, LoginRefused
from tbgw.connectors.xmpp.exchange import MAX_UNCONFIRMED, MAX_UNCONFIRMED_BYTES, Exchange
from tbgw.connectors.xmpp.interfaces import IXMPPLink, IXMPPListener
from tbgw.connectors.xmpp.keepalive import Keepalive
from tbgw.connectors.xmpp.login import Account, ClientAuthenticator
from tbgw.connectors.xmpp.server_config import XMPPServer
from tbgw.connectors.xmpp.stream import Limits, LinkStream, StreamError
from tbgw.connectors.xmpp.stream_management import StreamManagement
from tbgw.internal_events import Event, Events

CLOSE_SECONDS = 5.0
"""How long an ordered end may take before the connection is cut."""
COMPONENT_PORT = 5347
"""What servers use; XEP-0114 names none."""

_REFUSALS = frozenset({"not-authorized", "host-unknown", "invalid-namespace"})
"""Stream errors that say that we are not wanted as we are, e.g. a component's wrong secret (XEP-0114, 3)."""


class _Factory(BootstrapMixin):
    """Makes the protocol of the next connection. A plain IProtocolFactory: Twisted's own redials by itself."""

    noisy = False

    def __init__(self, build: Callable[[], LinkStream]) -> None:
        super().__init__()
        self._build = build

    def doStart(self) -> None:
        """Nothing to start."""

    def doStop(self) -> None:
        """Nothing to stop."""

    def buildProtocol(self, addr: IAddress | None) -> LinkStream:
        stream = self._build()
        stream.factory = self
        self.installBootstraps(stream)
        return stream


class _Manager(StreamManager):
    """wokkel's, telling the link. Its handlers send through the link, so that what they send is bounded and counted."""

    def __init__(self, factory: _Factory, link: XMPPLink, reactor: Any) -> None:
        super().__init__(factory, reactor)
        self._link = link
        factory.addBootstrap(xmlstream.STREAM_ERROR_EVENT, link.stream_error)

    def _authd(self, xs: LinkStream) -> None:
        super()._authd(xs)
        self._link.stream_ready(xs)

    def initializationFailed(self, reason: Failure) -> None:
        self._link.login_failed(reason)

    def _disconnected(self, reason: Failure) -> None:
        super()._disconnected(reason)
        self._link.stream_ended(reason)

    def send(self, obj: Any) -> None:
        self._link.send(obj)


@implementer(IStreamClientEndpoint)
class _Dialling:
    """The endpoint, telling why a dialling failed: ClientService keeps that to itself."""

    def __init__(self, endpoint: IStreamClientEndpoint, told: Callable[[Failure], None]) -> None:
        self._endpoint = endpoint
        self._told = told

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        def failed(failure: Failure) -> Failure:
            self._told(failure)
            return failure

        return self._endpoint.connect(protocolFactory).addErrback(failed)


@implementer(IXMPPLink)
class XMPPLink(Service):
    """See `IXMPPLink` and the module."""

    def __init__(
        self,
        connector: str,
        server: XMPPServer,
        events: Events,
        reactor: Any,
        jitter: Callable[[], float] = random,
        endpoint: IStreamClientEndpoint | None = None,
    ) -> None:
        """
        `reactor` provides what endpoints need, and IReactorTime. `endpoint` replaces the one of the configuration.
        Raises ConfigurationError when a file for TLS cannot be used.
        """
        self.connector = connector
        self._server = server
        self._events = events
        self._clock = reactor
        self._limits = Limits(stanza_bytes=server.max_received_bytes)
        self._domain = JID(server.jid).host
        self._tls = self._tls_creator()
        self._account = self._make_account()
        self._exchange = Exchange(
            connector, events, reactor, server.max_stanza_bytes, self._cut, lambda on: self._read("store", on)
        )
        self._keepalive = Keepalive(
            reactor, server.ping_seconds, server.ping_timeout_seconds, self._ping, self._peer_is_dead
        )
        self._backoff = Backoff(jitter)
        self._discovery = Discovery(server.component)
        factory: Any = _Factory(self._build)
        self._manager = _Manager(factory, self, reactor)
        for handler in handlers(self._discovery):
            handler.setHandlerParent(self._manager)
        self.where, dialled = self._endpoint(reactor, jitter)
        self._client = ClientService(
            _Dialling(endpoint or dialled, self._dialling_failed),
            factory,
            retryPolicy=lambda attempts: self._next_delay(),
            clock=reactor,
        )
        self.connected = False
        self.resumed = False
        self.jid = server.jid
        self.is_component = server.component
        self._stream: LinkStream | None = None
        self._guard: IDelayedCall | None = None
        """Ends a login, or a closing, that takes too long."""
        self._failure: Exception | None = None
        """Why the present connection ends, when we know better than the transport."""
        self._why = "not tried yet"
        self._delay: float | None = None
        self._paused: set[str] = set()
        self._closing: Deferred[None] | None = None
        self._up_since = self._down_since = 0.0
        self._encryption = self._mechanism = ""

    # How the server is reached, and who we are.

    def _tls_creator(self) -> Any:
        server = self._server
        if not server.needs_tls:
            return None
        from tbgw.tls import ClientTLS, client_creator

        return client_creator(
            ClientTLS(
                server.tls.server_name or self._domain,
                ca_cert=server.tls.ca_cert,
                certificate=server.tls.certificate,
                private_key=server.tls.private_key,
                accept_any_server=server.tls.accept_any_server,
                alpn=(b"xmpp-client",) if server.direct_tls and not server.component else (),
            )
        )

    def _endpoint(self, reactor: Any, jitter: Callable[[], float]) -> tuple[str, IStreamClientEndpoint]:
        server = self._server
        seconds = server.timeout_ms / 1000
        port = server.port or (COMPONENT_PORT if server.component else 5223 if server.direct_tls else 5222)
        host = server.host or ("localhost" if server.component else None)
        if host is not None:
            where, dialled = f"{host}:{port}", endpoints.fixed(reactor, host, port, seconds)
        else:
            service = "xmpps-client" if server.direct_tls else "xmpp-client"
            where = self._domain
            dialled = endpoints.ServiceEndpoint(reactor, self._domain, service, port, seconds, jitter)
        return where, endpoints.with_tls(dialled, self._tls) if server.direct_tls else dialled

    def _make_account(self) -> Account:
        server, jid = self._server, JID(self._server.jid)
        starttls = "require" if server.force_starttls else "try"
        if server.direct_tls:
            starttls = "direct"
        elif server.disable_starttls:
            starttls = "never"
        return Account(
            jid=jid,
            credentials=sasl.Credentials(
                username=server.username or jid.user or "",
                password=server.password.reveal() if server.password is not None else "",
                authzid=server.authzid or "",
                domain=self._domain,
                has_certificate=server.tls.certificate is not None,
            ),
            mechanisms=server.mechanisms,
            channel_binding=server.channel_binding,
            allow_plain_unencrypted=server.unencrypted_plain_auth,
            starttls=starttls,
            resume_seconds=server.resume_seconds if server.stream_management else None,
        )

    def _build(self) -> LinkStream:
        authenticator: Any
        if self._server.component:
            authenticator = ComponentAuthenticator(self._domain, self._account.credentials.password)
        else:
            authenticator = ClientAuthenticator(
                self._account,
                self._tls,
                self._exchange.management,
                self.jid,
                lambda: StreamManagement(MAX_UNCONFIRMED, MAX_UNCONFIRMED_BYTES),
            )
        self._failure = None
        self._stream = stream = LinkStream(authenticator, self._exchange, self._limits)
        self._set_guard(self._server.login_seconds, "the server took the connection, and then no login came about")
        return stream

    # IXMPPLink

    def set_listener(self, listener: IXMPPListener) -> None:
        """See `IXMPPLink`."""
        self._exchange.listener = listener

    def send(self, element: Element) -> None:
        """See `IXMPPLink`."""
        self._exchange.send(element)

    def request(self, iq: Element, timeout_seconds: float) -> Deferred[Element]:
        """See `IXMPPLink`."""
        return self._exchange.request(iq, timeout_seconds)

    def advertise(self, features: Iterable[str]) -> None:
        """See `IXMPPLink`."""
        self._discovery.features.update(features)

    def pause_reading(self) -> None:
        """See `IXMPPLink`."""
        self._read("asked", False)

    def resume_reading(self) -> None:
        """See `IXMPPLink`."""
        self._read("asked", True)

    def status(self) -> Mapping[str, Any]:
        """See `IXMPPLink`: `{"connected", "jid", "server", "why", "encryption", "mechanism", "resumable", ...}`."""
        management = self._exchange.management
        return {
            "connected": self.connected,
            "jid": self.jid,
            "server": self.where,
            "why": self._why,
            "encryption": self._encryption,
            "mechanism": self._mechanism,
            "resumable": management is not None and bool(management.resume_id),
            "resumed": self.resumed,
            "reading": not self._paused,
            "stanzasReceived": self._exchange.received,
            "stanzasSent": self._exchange.sent,
            "unstored": self._exchange.unstored,
            "unconfirmed": len(management.unconfirmed) if management is not None else 0,
            "requests": len(self._exchange.asked),
        }

    # IService

    def startService(self) -> None:
        """Begin to connect."""
        super().startService()
        if self._server.tls.accept_any_server:
            self._events.emit(link_events.ServerUnverified(self.connector))
        self._closing = None
        self._why = "not tried yet"
        self._delay = None
        self._backoff.lived(float("inf"))
        self._client.startService()

    def stopService(self) -> Deferred[None]:
        """See `IXMPPLink`."""
        super().stopService()
        if self._closing is None:
            self._closing = Deferred.fromCoroutine(self._stop())
        done: Deferred[None] = Deferred()
        self._closing.addBoth(_pass_on, done)
        return done

    async def _stop(self) -> None:
        if self._stream is not None:
            self._set_guard(CLOSE_SECONDS, "the connection did not close in good order")
        if self.connected and self._stream is not None:
            ended: Deferred[None] = Deferred()
            self._stream.addOnetimeObserver(xmlstream.STREAM_END_EVENT, lambda _: ended.callback(None))
            self._end_session(ended)
            await ended
        await self._client.stopService()
        self._clear_guard()
        self._keepalive.stop()
        self._exchange.finish()

    def _end_session(self, ended: Deferred[None]) -> None:
        """From available to closed, see `IXMPPLink`."""
        # The server keeps what comes from now on; before its answer everything has come that it had sent.
        if not self._server.component:
            self._say_unavailable()
        for who in tuple(self._paused):
            self._read(who, True)
        barrier = Element((None, "iq"))
        barrier["type"], barrier["to"] = "get", self._domain
        barrier.addElement((stanzas.NS_PING, "ping"))

        def drained(_: Any) -> None:
            if not ended.called:
                self._exchange.when_idle(self._say_goodbye)

        self._exchange.request(barrier, CLOSE_SECONDS).addBoth(drained)

    def _say_unavailable(self) -> None:
        presence = Element((None, "presence"))
        presence["type"] = "unavailable"
        with suppress(LinkBusy):  # then the server does not read, and will not hear of it at all
            self._exchange.send(presence)

    def _say_goodbye(self) -> None:
        stream = self._stream
        if stream is not None and self.connected:
            self._exchange.say_count()
            stream.sendFooter()
            stream.close()

    # What the stream tells.

    def stream_ready(self, stream: LinkStream) -> None:
        """The login is over."""
        if stream is not self._stream:
            return
        outcome = stream.authenticator.outcome
        stream.ready()
        self._clear_guard()
        self.connected, self.resumed, self.jid = True, outcome.resumed, outcome.jid
        self._up_since = self._clock.seconds()
        self._why = ""
        self._mechanism = outcome.mechanism
        self._encryption = stream.tls.get_protocol_version_name() if stream.tls is not None else "no TLS"
        own = JID(self.jid)
        self._exchange.asked.own_addresses = {None, own.full(), own.userhost(), own.host}
        again = self._exchange.attach(stream, outcome)
        self._keepalive.start(stream)
        self._paused.discard("store")
        if self._paused:
            self._keepalive.is_reading = False
            stream.transport.pauseProducing()
        self._events.emit(self._up_event(again))
        if self._exchange.listener is not None:
            self._exchange.listener.link_up(self.jid)

    def _up_event(self, again: int) -> Event:
        if self.resumed:
            away = self._up_since - self._down_since
            return link_events.SessionResumed(self.connector, self.jid, away, again)
        management = self._exchange.management
        kept = "without stream management"
        if management is not None:
            kept = "resumable" if management.resume_id else "acknowledged"
        return link_events.SessionUp(self.connector, self.jid, self.where, self._mechanism, self._encryption, kept)

    def login_failed(self, failure: Failure) -> None:
        """The session could not be begun."""
        self._failure = self._failure or _in_words(failure.value)
        stream = self._stream
        if stream is not None and stream.transport is not None:
            stream.sendFooter()
            stream.close()
            self._set_guard(CLOSE_SECONDS, str(self._failure))

    def stream_error(self, failure: Failure) -> None:
        """The server ends the stream, and says why."""
        self._failure = self._failure or _in_words(failure.value)
        if self._stream is not None:
            self._set_guard(CLOSE_SECONDS, str(failure.value))

    def stream_ended(self, reason: Failure) -> None:
        """The connection is gone."""
        self._stream = None
        self._clear_guard()
        self._keepalive.stop()
        was_up, self.connected = self.connected, False
        self._down_since = self._clock.seconds()
        error = self._failure or _in_words(reason.value)
        self._failure = None
        why = self._why = "stopped" if self._closing is not None else str(error)
        is_final = self._closing is not None or isinstance(error, StreamError)
        self._exchange.detach(why, is_final)
        if self._closing is None:
            if was_up:
                self._backoff.lived(self._down_since - self._up_since)
            self._plan(error, was_up)
        if was_up and self._exchange.listener is not None:
            self._exchange.listener.link_down(why)

    def _plan(self, error: Exception, was_up: bool) -> None:
        """Say why it ended, and when the next attempt is."""
        condition = error.condition if isinstance(error, StreamError) else ""
        if condition == "conflict":
            self._delay = self._backoff.refused()
            self._events.emit(link_events.SessionReplaced(self.connector, self.jid, self._delay))
        elif isinstance(error, LoginRefused) or (condition in _REFUSALS and not was_up):
            self._delay = self._backoff.refused()
            self._events.emit(link_events.LoginTurnedDown(self.connector, self.where, str(error), self._delay))
        else:
            self._delay = self._backoff.failed()
            if was_up:
                self._events.emit(link_events.SessionLost(self.connector, str(error), self._delay))
            else:
                self._events.emit(link_events.SessionFailed(self.connector, self.where, str(error), self._delay))

    # Dialling.

    def _dialling_failed(self, failure: Failure) -> None:
        error = _in_words(failure.value)
        self._why = str(error)
        if self._closing is None and self._delay is None:
            self._plan(error, was_up=False)

    def _next_delay(self) -> float:
        """ClientService asks: how long until the next dialling?"""
        delay, self._delay = self._delay, None
        return delay if delay is not None else self._backoff.failed()

    # Cutting, reading, timers.

    def _cut(self, why: str) -> None:
        """Abort the connection. The session may be resumed."""
        if self._stream is not None and self._stream.transport is not None:
            self._failure = self._failure or LoginFailed(why)
            self._stream.abort()

    def _ping(self) -> None:
        ping = Element((None, "iq"))
        ping["type"], ping["to"] = "get", self._domain
        ping.addElement((stanzas.NS_PING, "ping"))
        # Whatever is answered is heard, an error too; nothing else is made of it.
        self._exchange.request(ping, self._server.ping_timeout_seconds).addErrback(lambda failure: None)

    def _peer_is_dead(self) -> None:
        self._cut(f"the server has not answered for {self._server.ping_timeout_seconds} s")

    def _read(self, who: str, on: bool) -> None:
        """Read, or stop reading, as long as anybody wants that."""
        before = bool(self._paused)
        (self._paused.discard if on else self._paused.add)(who)
        now = bool(self._paused)
        self._keepalive.is_reading = not now
        if before != now and self._stream is not None and self.connected:
            (self._stream.transport.pauseProducing if now else self._stream.transport.resumeProducing)()

    def _set_guard(self, seconds: float, why: str) -> None:
        self._clear_guard()
        self._guard = self._clock.callLater(seconds, self._guard_over, why)

    def _guard_over(self, why: str) -> None:
        self._guard = None
        self._cut(why)

    def _clear_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None and guard.active():
            guard.cancel()


def _pass_on(result: Any, other: Deferred[None]) -> Any:
    """Let another one hear of it as well; a failure is the other's to bear."""
    if isinstance(result, Failure):
        other.errback(result)
        return None
    other.callback(None)
    return result


def _in_words(error: BaseException | None) -> Exception:
    """An error of Twisted's, as the operator should read it."""
    if isinstance(error, (LoginFailed, StreamError)):
        return error
    if isinstance(error, xmlstream.FeatureNotAdvertized):
        return LoginFailed("the server does not offer STARTTLS, and without it nothing is sent (force_starttls)")
    if isinstance(error, xmlstream.TLSRequired):
        return LoginRefused("the server wants TLS, and disable_starttls forbids it")
    if isinstance(error, xmlstream.TLSFailed):
        return LoginFailed("the server offers STARTTLS and then refuses it")
    if isinstance(error, ConnectionDone):
        return LoginFailed("the server closed the connection")
    if isinstance(error, ConnectionLost):
        return LoginFailed("the connection was lost")
    said = str(error) or type(error).__name__
    if error is not None and type(error).__module__.startswith("OpenSSL"):
        reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
        said = "TLS failed: " + (", ".join(str(one[-1]) for one in reasons if one) or said)
    return LoginFailed(said)
