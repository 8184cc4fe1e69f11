"""The one MQTT session to ThingsBoard, begun again for ever.

`session` leads each connection to where it can be used. Nothing of one session is carried into the next: ThingsBoard
keeps none (section 1.3), so what was in flight fails with `LinkDown` and the forwarder, which owns the rows, sends it
again.

Two traps of Twisted's ClientService are kept out by building nothing on it but the redialling: the login is part of our
protocol, and never of `prepareConnection`; and the delay comes from our own count of failed sessions, because
ClientService's counter goes back to zero with every TCP connection, whatever becomes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from twisted.application.internet import ClientService
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.errors import LinkDown
from tbgw.interfaces import IStatusSource, IUplink, IUplinkListener
from tbgw.internal_events import Events
from tbgw.model import SessionLimits
from tbgw.mqtt import ClientOptions, ConnectionRefused, LocalProtocolError, MQTTClientProtocol, ServerDisconnected
from tbgw.mqtt.versions import VersionChoice
from tbgw.thingsboard import topics
from tbgw.uplink.internal_events import (
    CredentialsRefused,
    LinkFailed,
    LinkLost,
    LinkUp,
    OtherVersion,
    SessionTakenOver,
)
from tbgw.uplink.session import Session

FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 60.0
RETRY_FACTOR = 1.6

CREDENTIALS_RETRY_SECONDS = 30.0
"""Shortest delay after refused credentials: they are rarely right a second later, and ThingsBoard can be configured to
block an address after ten failures (spec thingsboard-mqtt, 1.2)."""

LONGEST_CREDENTIALS_RETRY_SECONDS = 300.0

REFUSED_CREDENTIALS = frozenset({2, 4, 5, 0x85, 0x86, 0x87})
"""CONNACK codes that speak of who we are: 2, 4, 5 on MQTT 3.1.1, the others on 5.0 (spec thingsboard-mqtt, 1.2)."""

INFLIGHT_RESERVE = 2000
"""Publishes the protocol may hold beyond the forwarder's window: announcements whose PUBACK never comes, and answers to
commands. They are small."""

OTHER_VERSION_SECONDS = 0.1
"""Delay before MQTT 3.1.1 is tried where 5 was refused: it says nothing against the server."""

TAKEN_OVER = 0x8E
"""DISCONNECT code for a newer session of the same device: somebody else uses our credentials (Appendix A rule 12)."""

STABLE_SECONDS = 10.0
"""A session that lived this long counts as a success: the delays begin from the first again."""


@dataclass(frozen=True)
class Credentials:
    """What CONNECT says of us. ThingsBoard's token is the user name, without a password (Appendix A rule 2)."""

    client_id: str = ""
    username: str | None = None
    password: bytes | None = None

    def __repr__(self) -> str:
        return "Credentials(...)"  # P-11


class _Factory(Factory):
    """Makes the protocol of the next session."""

    noisy = False

    def __init__(self, build: Callable[[], MQTTClientProtocol]) -> None:
        self._build = build

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return self._build()


@implementer(IStreamClientEndpoint)
class _Dialling:
    """The endpoint, telling why a dialling failed: ClientService keeps that to itself."""

    def __init__(self, endpoint: IStreamClientEndpoint, told: Callable[[Failure | None], None]) -> None:
        self.endpoint = endpoint
        """Where the next connection goes."""
        self._told = told

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        self._told(None)

        def failed(failure: Failure) -> Failure:
            self._told(failure)
            return failure

        return self.endpoint.connect(protocolFactory).addErrback(failed)


@implementer(IUplink, IStatusSource)
class Uplink(Service):
    """See `IUplink`. `endpoint` dials, with TLS already in it where that is wanted; `where` names it in log lines."""

    name = "uplink"

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        where: str,
        credentials: Credentials,
        *,
        clock: IReactorTime,
        events: Events,
        jitter: Callable[[], float],
        keep_alive_seconds: int = 60,
        versions: VersionChoice | None = None,
        subscriptions: Sequence[str] = topics.GATEWAY_SUBSCRIPTIONS,
        short_topics: bool = False,
    ) -> None:
        self._where = where
        self._subscriptions = subscriptions
        self._short_topics = short_topics
        self._clock = clock
        self._events = events
        self._jitter = jitter
        self._options = ClientOptions(
            client_id=credentials.client_id,
            username=credentials.username,
            password=credentials.password,
            keep_alive_seconds=keep_alive_seconds,
            max_inflight=SessionLimits().max_inflight + INFLIGHT_RESERVE,
            tolerate_packet_id_zero=True,  # ThingsBoard's 65536th push bears it (spec thingsboard-mqtt, 2.9)
        )
        self._versions = versions if versions is not None else VersionChoice()
        self._listener: IUplinkListener | None = None
        self._dialling = _Dialling(endpoint, self._dialled)
        self._client = ClientService(
            self._dialling,
            _Factory(self._build),
            retryPolicy=lambda attempts: self._next_delay(),
            clock=clock,
        )
        self._protocol: MQTTClientProtocol | None = None
        self.connected = False
        self.sent_messages = self.sent_bytes = self.received_messages = self.received_bytes = 0
        """Publishes in either direction since the start, and the bytes of their payloads."""
        self._closing = False
        self._session: Session | None = None
        self._dialling_failed = ""
        self._up_since = 0.0
        self._failures = 0
        self._credential_failures = 0
        self._delay = 0.0
        self._why = "not tried yet"
        self.login_accepted: Callable[[], object] = _nothing
        """Called at each CONNACK that lets us in."""
        self.login_refused: Callable[[], bool] = _nothing
        """Called at each CONNACK that says that we are not who we say: whether `aim` was given another login that is
        worth a try soon."""

    # IUplink

    def set_listener(self, listener: IUplinkListener) -> None:
        """See `IUplink.set_listener`."""
        self._listener = listener

    def publish(self, topic: str, payload: bytes, dup: bool = False) -> Deferred[int]:
        """See `IUplink.publish`."""
        protocol = self._protocol
        if not self.connected or protocol is None:
            return fail(LinkDown(self._why))
        try:
            if self._short_topics:
                topic = topics.shortened(topic)
            answer = protocol.publish(topic, payload, qos=1, dup=dup)
            self.sent_messages += 1
            self.sent_bytes += len(payload)
        except LocalProtocolError as error:
            self.disrupt(str(error))
            return fail(LinkDown(str(error)))
        return answer.addErrback(_as_link_down)

    def disrupt(self, reason: str) -> None:
        """See `IUplink.disrupt`."""
        if self._protocol is not None:
            self._why = reason
            self._protocol.abort()

    def redirect(self, endpoint: IStreamClientEndpoint, where: str, credentials: Credentials) -> None:
        """
        Another server, or the same with other credentials: at once, whatever was being waited for. A session that is
        there is given up.
        """
        self.aim(endpoint, where, credentials)
        self._failures = self._credential_failures = 0
        if self._protocol is not None:
            self.disrupt("the credentials or the address were changed")
        elif self.running:
            # It waits to dial, maybe for minutes because of the old credentials, or dials the old address.
            self._delay = 0.0
            self._client.stopService()
            self._client.startService()

    def aim(self, endpoint: IStreamClientEndpoint, where: str, credentials: Credentials) -> None:
        """As `redirect`, but from the next session on, whenever that is."""
        self._where = where
        self._dialling.endpoint = endpoint
        self._options = replace(
            self._options,
            client_id=credentials.client_id,
            username=credentials.username,
            password=credentials.password,
        )

    # IStatusSource

    def status(self) -> dict[str, Any]:
        """See `IStatusSource.status`."""
        return {"uplink": {"connected": self.connected, "server": self._where, "why": self._why}}

    # IService

    def startService(self) -> None:
        super().startService()
        self._closing = False
        self._client.startService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._closing = True
        if self._protocol is not None and self.connected:
            self._protocol.disconnect()
        return self._client.stopService()

    # What sessions tell.

    def session_accepted(self, session: Session) -> None:
        """CONNACK said yes."""
        if session is self._session:
            self._versions.accepted()
            self.login_accepted()

    def session_ready(self, session: Session, limits: SessionLimits) -> None:
        """Subscribed, limits known: the link is up."""
        if session is not self._session:
            return
        self.connected = True
        self._up_since = self._clock.seconds()
        self._why = ""
        self._events.emit(
            LinkUp(
                where=self._where,
                version="5" if self._protocol is not None and self._protocol.protocol_version == 5 else "3.1.1",
                limits=f"packets up to {limits.max_payload_bytes} bytes, {limits.max_inflight} in flight",
            )
        )
        if self._listener is not None:
            self._listener.link_up(limits)

    def session_message(self, session: Session, topic: str, payload: bytes) -> None:
        """ThingsBoard sent something that was not about the session itself."""
        if session is self._session and self._listener is not None:
            self.received_messages += 1
            self.received_bytes += len(payload)
            self._listener.message_received(topic, payload)

    def session_over(self, session: Session, reason: Exception) -> None:
        """The connection is gone, ready or not."""
        if session is not self._session:
            return
        self._session = self._protocol = None
        was_up, self.connected = self.connected, False
        # Our own reason says more than "connection aborted", when it was we who gave the session up.
        why = self._why = self._why or str(reason) or type(reason).__name__
        if not self._closing:
            self._tell_end(reason, was_up, why)
        if was_up and self._listener is not None:
            self._listener.link_down(int(reason.reason_code) if isinstance(reason, ServerDisconnected) else None)

    def _tell_end(self, reason: Exception, was_up: bool, why: str) -> None:
        """Say why the session ended, and plan when the next one begins."""
        if self._versions.failed(reason):
            self._delay = OTHER_VERSION_SECONDS
            self._events.emit(OtherVersion(where=self._where, why=why))
            return
        code = int(reason.connack.reason_code) if isinstance(reason, ConnectionRefused) else 0
        taken_over = isinstance(reason, ServerDisconnected) and reason.reason_code == TAKEN_OVER
        if code in REFUSED_CREDENTIALS or taken_over:
            self._credential_failures += 1
            self._plan_delay()
            if taken_over:
                self._events.emit(SessionTakenOver(where=self._where, retry_seconds=self._delay))
            else:
                if self.login_refused():
                    self._delay = FIRST_RETRY_SECONDS
                self._events.emit(CredentialsRefused(where=self._where, code=code, retry_seconds=self._delay))
            return
        self._credential_failures = 0
        if was_up and self._clock.seconds() - self._up_since >= STABLE_SECONDS:
            self._failures = 0
        self._failures += 1
        self._plan_delay()
        kind = LinkLost if was_up else LinkFailed
        self._events.emit(kind(where=self._where, why=why, retry_seconds=self._delay))

    # Dialling.

    def _build(self) -> MQTTClientProtocol:
        self._why = ""
        self._session = Session(
            self, self._clock, self._events, self._subscriptions, short_topics=self._short_topics
        )
        options = replace(self._options, protocol_version=self._versions.next())
        self._protocol = MQTTClientProtocol(options, self._session, self._clock)
        return self._protocol

    def _dialled(self, failure: Failure | None) -> None:
        self._dialling_failed = failure.getErrorMessage() if failure is not None else ""

    def _plan_delay(self) -> None:
        if self._credential_failures:
            delay = min(
                LONGEST_CREDENTIALS_RETRY_SECONDS,
                CREDENTIALS_RETRY_SECONDS * RETRY_FACTOR ** min(self._credential_failures - 1, 20),
            )
        else:
            delay = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * RETRY_FACTOR ** min(self._failures - 1, 20))
        self._delay = delay * (0.75 + self._jitter() / 2)

    def _next_delay(self) -> float:
        """ClientService asks: how long until the next dialling?"""
        if not self._delay:
            # The dialling itself failed, so that no session was there to tell.
            self._failures += 1
            self._plan_delay()
            why = self._why = self._dialling_failed or "the connection failed"
            self._events.emit(LinkFailed(where=self._where, why=why, retry_seconds=self._delay))
        delay, self._delay = self._delay, 0.0
        return delay


def _nothing() -> bool:
    """Nobody wants to know."""
    return False


def _as_link_down(failure: Failure) -> Failure:
    return Failure(LinkDown(failure.getErrorMessage()))

