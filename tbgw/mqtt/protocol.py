"""The MQTT connection on a Twisted transport: the one module here that knows of Twisted.

It moves bytes between the transport and a `Connection`, tells a listener what happened, and keeps one timer armed, for
`Connection.next_timer`. Listeners are called synchronously, inside `dataReceived` or the timer.

* Both ends of the login are in here. ClientService must not wait for CONNACK in `prepareConnection`, nor count a
  TCP connection as success: a refusal or a time-out aborts the transport, so the loss that follows belongs to this
  connection, and `connected` is what tells success.
* `disconnected` is called exactly once, when the transport is gone, after the Deferreds of this connection failed with
  the same reason. With a kept `Session` the Deferreds of publishes are left alone: the next connection fires them.
* Writes: within `dataReceived` everything is collected and written once at its end. Outside of it a packet is written
  at once, because a delayed call would cost more than the transport's own gathering of writes; who sends many in one
  turn can collect them by `with protocol.gathered():`. A lone publish, with no other in flight, goes to the socket in
  the same turn (`writing`); of a burst that is the first, and the transport gathers the others.
* Back-pressure: the protocol is the transport's streaming producer. While `paused`, bytes wait in the `Connection`, up
  to `max_unsent_bytes`. Over TLS, Twisted's loseConnection waits until the producer is unregistered, which `disconnect`
  and `close` do. So call `disconnect` before `ClientService.stopService`.
* An exception from a listener is not caught: Twisted logs it and drops the connection, and the message that caused it
  is not acknowledged.

Considered and dropped: re-arming the timer at every packet (`reset` costs as much as sending); the timer is left to
fire early and is then armed for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.mqtt.connection import Connection
from tbgw.mqtt.errors import LocalProtocolError
from tbgw.mqtt.events import (
    CloseTimedOut,
    Connected,
    ConnectReceived,
    Event,
    PublishAcknowledged,
    PublishReceived,
    SubscribeAcknowledged,
    SubscribeReceived,
    Terminated,
    UnsubscribeReceived,
)
from tbgw.mqtt.interfaces import IClientListener, IMQTTTransport, IServerListener
from tbgw.mqtt.limits import PeerLimits
from tbgw.mqtt.options import ClientOptions, ServerOptions
from tbgw.mqtt.packets import Connect, Properties, Publish, Subscription
from tbgw.mqtt.properties import PropertyId
from tbgw.mqtt.session import Session
from tbgw.mqtt.writing import write_at_once

__all__ = [
    "ClientOptions",
    "IClientListener",
    "IServerListener",
    "MQTTClientProtocol",
    "MQTTServerProtocol",
    "ServerOptions",
    "Session",
    "abandon_session",
]

GATHER_BYTES: Final = 64 * 1024
"""While writes are gathered, they are handed to the transport whenever this much came together: its own high-water
mark, so that back-pressure shows in time."""


_HEADER_BYTES: Final = 1024
"""More than a PUBLISH has beside topic and payload, long properties aside."""


def abandon_session(session: Session, reason: Exception) -> None:
    """Give up a kept session: the Deferreds of its publishes fail with `reason`."""
    for deferred in session.abandon():
        deferred.errback(reason)


@implementer(IPushProducer)
class _MQTTProtocol(Protocol):
    """What both roles share: bytes, timer, back-pressure, publishing, the end."""

    transport: IMQTTTransport

    def __init__(self, options: ClientOptions | ServerOptions, clock: IReactorTime, session: Session | None) -> None:
        self._connection = Connection(options, session)
        self._clock = clock
        self._seconds = clock.seconds
        self._timer: IDelayedCall | None = None
        self._timer_due = 0.0
        self._gathering = False
        self._room_bytes = options.max_unsent_bytes - _HEADER_BYTES
        self._reason: Exception | None = None
        self._ended_here = False
        self._lost = False
        self.paused = False

    def __repr__(self) -> str:
        """Role and state; nothing of the options, which hold secrets."""
        return f"<{type(self).__name__} {self._connection.state.value}, {self._connection.inflight} in flight>"

    # --- for the owner -------------------------------------------------------------------------------------------

    @property
    def protocol_version(self) -> int:
        """4 or 5; at a server known from the CONNECT."""
        return self._connection.protocol_version

    @property
    def peer_limits(self) -> PeerLimits:
        """What the peer said it takes (MQTT 5); known after the handshake."""
        return self._connection.peer_limits

    @property
    def window(self) -> int:
        """How many publishes may be unacknowledged: `max_inflight` or the peer's receive maximum, the lesser."""
        return self._connection.window

    @property
    def inflight(self) -> int:
        """How many publishes of ours are not acknowledged."""
        return self._connection.inflight

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait here because the transport has enough; its own buffer is not counted."""
        return self._connection.unsent_bytes

    @property
    def last_received_seconds(self) -> float:
        """When something came last, by the clock; at a server a whole packet, so that a PINGREQ counts."""
        return self._connection.last_received_seconds

    @property
    def ignored_acknowledgements(self) -> int:
        """How many acknowledgements came for ids that were not in flight."""
        return self._connection.ignored_acknowledgements

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Collect what is sent inside and hand it to the transport in few writes; for bursts."""
        if self._gathering:
            yield
            return
        self._gathering = True
        try:
            yield
        finally:
            self._gathering = False
            self._flush()

    def abort(self) -> None:
        """Drop the transport at once, without a word. Before there is a transport it does nothing."""
        if self.transport is not None and not self._lost:
            self._ended_here = True
            self._connection.disconnect(self._seconds())
            self.transport.abortConnection()

    def _end(self, reason_code: int = 0, properties: Properties | None = None) -> None:
        if self.transport is None or self._lost or self._ended_here:
            return
        self._connection.disconnect(self._seconds(), reason_code, properties)
        self._ended_here = True
        self._close_transport()

    # --- from the transport --------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Without TCP_NODELAY a lone PUBLISH would wait for the acknowledgement of the packet before it."""
        tcp = ITCPTransport(self.transport, None)
        if tcp is not None:
            tcp.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        try:
            self._connection.opened(self._seconds())
        except LocalProtocolError as error:
            self._reason = error
            self.transport.abortConnection()
            return
        self._flush()
        self._arm_timer()

    def dataReceived(self, data: bytes) -> None:
        """Everything that one chunk leads to is written once, at the end."""
        outer, self._gathering = self._gathering, True
        try:
            self._dispatch(self._connection.receive_data(data, self._seconds()))
            while self._connection.has_held_bytes:
                self._dispatch(self._connection.receive_data(b"", self._seconds()))
        finally:
            self._gathering = outer
            self._flush()
            self._arm_timer()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end of everything: timer, Deferreds, listener."""
        self._lost = True
        contexts = self._connection.connection_lost()
        self._arm_timer()
        cause = self._reason
        if cause is None:
            cause = reason.value if isinstance(reason.value, Exception) else ConnectionDone(str(reason.value))
        for deferred in contexts:
            deferred.errback(cause)
        self._tell_disconnected(cause)

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        self.paused = True

    def resumeProducing(self) -> None:
        """The transport's buffer is empty."""
        self.paused = False
        self._flush()

    def stopProducing(self) -> None:
        """The transport is going; `connectionLost` does the rest."""

    # --- inside --------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if not (self.paused or self._gathering or self._ended_here):
            data = self._connection.data_to_send()
            if not data:
                return
            if self._connection.inflight == 1:
                write_at_once(self.transport, data)
            else:
                self.transport.write(data)

    def _sent(self) -> None:
        if not self._gathering:
            self._flush()
        elif self._connection.unsent_bytes > GATHER_BYTES:
            self._flush_now()

    def _flush_now(self) -> None:
        """In the middle of gathering."""
        self._gathering = False
        self._flush()
        self._gathering = True

    def _close_transport(self) -> None:
        """Hand everything over, also to a full transport: closing in good order waits for it, within the timer."""
        data = self._connection.data_to_send()
        if data:
            self.transport.write(data)
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        self._arm_timer()

    def _arm_timer(self) -> None:
        due = self._connection.next_timer
        timer = self._timer
        if timer is not None:
            if due is not None and self._timer_due <= due:
                return  # it will look again when it fires
            timer.cancel()
            self._timer = None
        if due is not None:
            self._timer_due = due
            self._timer = self._clock.callLater(max(0.0, due - self._seconds()), self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._dispatch(self._connection.handle_timer(self._seconds()))
        self._flush()
        self._arm_timer()

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            if event.__class__ is PublishAcknowledged:
                event.context.callback(event.reason_code)
            elif event.__class__ is PublishReceived:
                if not self._ended_here:
                    self._tell_publish(event.publish)
            elif isinstance(event, SubscribeAcknowledged):
                event.context.callback(list(event.reason_codes))
            elif isinstance(event, Terminated):
                self._terminated(event)
            elif isinstance(event, CloseTimedOut):
                self.transport.abortConnection()
            elif not self._ended_here:
                # What came before the peer's own end is still told; after ours it is not, and not acknowledged.
                self._tell(event)

    def _terminated(self, event: Terminated) -> None:
        if self._ended_here:
            return
        self._reason = event.reason
        self._ended_here = True
        if event.abort:
            self.transport.abortConnection()
        else:
            self._close_transport()

    def _publish(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        retain: bool,
        dup: bool,
        packet_id: int | None,
        properties: Properties | None,
    ) -> Deferred[int]:
        if self._gathering and not self.paused:
            # What only waits to be written together must not make a publish fail for want of room; after a resumed
            # session that may be a whole window.
            unsent_bytes = self._connection.unsent_bytes
            if unsent_bytes and unsent_bytes + len(topic) + len(payload) > self._room_bytes:
                self._flush_now()
        deferred: Deferred[int] = Deferred()
        identifier = self._connection.publish(
            topic,
            payload,
            now=self._seconds(),
            qos=qos,
            retain=retain,
            dup=dup,
            context=deferred,
            packet_id=packet_id,
            properties=properties,
        )
        self._sent()
        return succeed(0) if identifier is None else deferred

    def _tell_publish(self, publish: Publish) -> None:
        raise NotImplementedError

    def _tell(self, event: Event) -> None:
        raise NotImplementedError

    def _tell_disconnected(self, reason: Exception) -> None:
        raise NotImplementedError


class MQTTClientProtocol(_MQTTProtocol):
    """A client's connection. Says CONNECT by itself; see `IClientListener` for what comes back."""

    def __init__(
        self,
        options: ClientOptions,
        listener: IClientListener,
        clock: IReactorTime,
        session: Session | None = None,
    ) -> None:
        super().__init__(options, clock, session)
        self._listener = listener
        self.client_id = options.client_id
        """Ours, or the one that the server assigned; known after CONNACK."""

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        dup: bool = False,
        properties: Properties | None = None,
    ) -> Deferred[int]:
        """
        Send a message. Fires with the reason code of its PUBACK or PUBREC (0 on 3.1.1) when the exchange is done, for
        QoS 0 at once with 0. Fails with the connection's reason when that ends first. `properties` (MQTT 5) map
        `PropertyId` to values. Raises LocalProtocolError, and sends nothing, when not connected, when `window` are
        unacknowledged, when too much is unsent, when the topic is illegal, or when the server said it takes no such
        message.
        """
        return self._publish(topic, payload, qos, retain, dup, None, properties)

    def subscribe(
        self, filters: Sequence[tuple[str, int] | Subscription], properties: Properties | None = None
    ) -> Deferred[list[int]]:
        """
        Ask for messages, by (topic filter, QoS) pairs or `Subscription` values. Fires with one code for each filter;
        fails and raises as `publish` does.
        """
        deferred: Deferred[list[int]] = Deferred()
        self._connection.subscribe(filters, now=self._seconds(), context=deferred, properties=properties)
        self._sent()
        return deferred

    def unsubscribe(self, filters: Sequence[str], properties: Properties | None = None) -> Deferred[list[int]]:
        """The reverse. Fires with one code for each filter, on 3.1.1 always 0."""
        deferred: Deferred[list[int]] = Deferred()
        self._connection.unsubscribe(filters, now=self._seconds(), context=deferred, properties=properties)
        self._sent()
        return deferred

    def disconnect(self, reason_code: int = 0, properties: Properties | None = None) -> None:
        """
        Say DISCONNECT and close in good order; after `close_timeout_seconds` the transport is aborted. Code (such as
        0x04: publish my will) and properties are told on MQTT 5.
        """
        self._end(reason_code, properties)

    def _tell_publish(self, publish: Publish) -> None:
        self._listener.message_received(self, publish)
        if publish.qos:
            self._connection.acknowledge(publish, self._seconds())

    def _tell(self, event: Event) -> None:
        if isinstance(event, Connected):
            self.client_id = (event.connack.properties or {}).get(
                PropertyId.ASSIGNED_CLIENT_IDENTIFIER, self.client_id
            )
            self._listener.connected(self, event.connack)

    def _tell_disconnected(self, reason: Exception) -> None:
        self._listener.disconnected(self, reason)


class MQTTServerProtocol(_MQTTProtocol):
    """A server's end of one client's connection. `connect` is the client's CONNECT, once it came."""

    def __init__(self, options: ServerOptions, listener: IServerListener, clock: IReactorTime) -> None:
        super().__init__(options, clock, None)
        self._listener = listener
        self.connect: Connect | None = None

    def accept(
        self,
        session_present: bool = False,
        properties: Properties | None = None,
        session: Session | None = None,
    ) -> None:
        """
        Let the client in. After the connection's end it does nothing. On MQTT 5 `properties` go into the CONNACK,
        beside and above those of `ServerOptions`. With a kept `session`, what its client did not acknowledge is sent
        again after the CONNACK.
        """
        events = self._connection.accept(
            self._seconds(), session_present=session_present, properties=properties, session=session
        )
        self._dispatch(events)
        if self._gathering:
            return  # dataReceived goes on with what was held
        self._flush()
        if self._connection.has_held_bytes:
            self.dataReceived(b"")
        else:
            self._arm_timer()

    def refuse(self, code: int, properties: Properties | None = None) -> None:
        """Do not let the client in: CONNACK with this code, which is one of the client's version, then the end."""
        if self._ended_here or self._lost:
            return
        self._connection.refuse(code, self._seconds(), properties)
        self._ended_here = True
        self._close_transport()

    def acknowledge(self, publish: Publish, reason_code: int = 0, properties: Properties | None = None) -> None:
        """
        PUBACK or PUBREC for a message; nothing for QoS 0 or after the connection's end. Raises LocalProtocolError for
        a code other than 0, or properties, on 3.1.1.
        """
        self._connection.acknowledge(publish, self._seconds(), reason_code, properties)
        self._sent()

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        dup: bool = False,
        packet_id: int | None = None,
        properties: Properties | None = None,
    ) -> Deferred[int]:
        """As the client's. `packet_id` forces an id, even 0, for testing clients."""
        return self._publish(topic, payload, qos, retain, dup, packet_id, properties)

    def close(self, reason_code: int | None = None, properties: Properties | None = None) -> None:
        """Close in good order; on MQTT 5 the client is told by DISCONNECT, on 3.1.1 there is no such word."""
        self._end(reason_code or 0, properties)

    def _tell_publish(self, publish: Publish) -> None:
        self._listener.publish_received(self, publish)

    def _tell(self, event: Event) -> None:
        if isinstance(event, ConnectReceived):
            self.connect = event.connect
            self._listener.connect_received(self, event.connect)
        elif isinstance(event, SubscribeReceived):
            codes = self._listener.subscribe_received(self, event.subscribe)
            self._connection.acknowledge_subscribe(event.subscribe, codes, self._seconds())
        elif isinstance(event, UnsubscribeReceived):
            codes = self._listener.unsubscribe_received(self, event.unsubscribe)
            self._connection.acknowledge_unsubscribe(event.unsubscribe, codes, self._seconds())

    def _tell_disconnected(self, reason: Exception) -> None:
        self._listener.disconnected(self, reason)
