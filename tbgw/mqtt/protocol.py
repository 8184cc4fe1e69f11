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
  turn can collect them by `with protocol.gathered():`.
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
from tbgw.mqtt.options import ClientOptions, ServerOptions
from tbgw.mqtt.packets import Connect, Publish
from tbgw.mqtt.session import Session

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
        self._reason: Exception | None = None
        self._ended_here = False
        self._lost = False
        self.paused = False

    def __repr__(self) -> str:
        """Role and state; nothing of the options, which hold secrets."""
        return f"<{type(self).__name__} {self._connection.state.value}, {self._connection.inflight} in flight>"

    # --- for the owner -------------------------------------------------------------------------------------------

    @property
    def inflight(self) -> int:
        """How many publishes of ours are not acknowledged."""
        return self._connection.inflight

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait here because the transport has enough; its own buffer is not counted."""
        return self._connection.unsent_bytes

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

    def _end(self) -> None:
        if self.transport is None or self._lost or self._ended_here:
            return
        self._ended_here = True
        self._connection.disconnect(self._seconds())
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
            if data:
                self.transport.write(data)

    def _sent(self) -> None:
        if not self._gathering:
            self._flush()
        elif self._connection.unsent_bytes > GATHER_BYTES:
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
        self, topic: str, payload: bytes, qos: int, retain: bool, dup: bool, packet_id: int | None = None
    ) -> Deferred[int]:
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
        )
        self._sent()
        return succeed(0) if identifier is None else deferred

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

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, dup: bool = False
    ) -> Deferred[int]:
        """
        Send a message. Fires with the reason code of its PUBACK (0 on 3.1.1), for QoS 0 at once with 0. Fails with the
        connection's reason when that ends first. Raises LocalProtocolError, and sends nothing, when not connected,
        when `max_inflight` are unacknowledged, when too much is unsent, or when the topic is illegal.
        """
        return self._publish(topic, payload, qos, retain, dup)

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> Deferred[list[int]]:
        """Ask for messages. Fires with one code for each filter; fails and raises as `publish` does."""
        deferred: Deferred[list[int]] = Deferred()
        self._connection.subscribe(filters, now=self._seconds(), context=deferred)
        self._sent()
        return deferred

    def unsubscribe(self, filters: Sequence[str]) -> Deferred[list[int]]:
        """The reverse. Fires with one code for each filter, on 3.1.1 always 0."""
        deferred: Deferred[list[int]] = Deferred()
        self._connection.unsubscribe(filters, now=self._seconds(), context=deferred)
        self._sent()
        return deferred

    def disconnect(self) -> None:
        """Say DISCONNECT and close in good order; after `close_timeout_seconds` the transport is aborted."""
        self._end()

    def _tell(self, event: Event) -> None:
        if isinstance(event, PublishReceived):
            publish = event.publish
            self._listener.message_received(self, publish)
            self._connection.acknowledge(publish, self._seconds())
        elif isinstance(event, Connected):
            self._listener.connected(self, event.connack)

    def _tell_disconnected(self, reason: Exception) -> None:
        self._listener.disconnected(self, reason)


class MQTTServerProtocol(_MQTTProtocol):
    """A server's end of one client's connection. `connect` is the client's CONNECT, once it came."""

    def __init__(self, options: ServerOptions, listener: IServerListener, clock: IReactorTime) -> None:
        super().__init__(options, clock, None)
        self._listener = listener
        self.connect: Connect | None = None

    def accept(self, session_present: bool = False) -> None:
        """Let the client in. After the connection's end it does nothing."""
        self._connection.accept(self._seconds(), session_present=session_present)
        if self._gathering:
            return  # dataReceived goes on with what was held
        self._flush()
        if self._connection.has_held_bytes:
            self.dataReceived(b"")
        else:
            self._arm_timer()

    def refuse(self, code: int) -> None:
        """Do not let the client in: CONNACK with this return code, then the end."""
        if self._ended_here or self._lost:
            return
        self._connection.refuse(code, self._seconds())
        self._ended_here = True
        self._close_transport()

    def acknowledge(self, publish: Publish, reason_code: int = 0) -> None:
        """
        PUBACK for a message; nothing for QoS 0 or after the connection's end. Raises LocalProtocolError for a code
        other than 0 on 3.1.1.
        """
        self._connection.acknowledge(publish, self._seconds(), reason_code)
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
    ) -> Deferred[int]:
        """As the client's. `packet_id` forces an id, even 0, for testing clients."""
        return self._publish(topic, payload, qos, retain, dup, packet_id)

    def close(self, reason_code: int | None = None) -> None:
        """Close in good order. The reason is for MQTT 5; 3.1.1 cannot say it."""
        self._end()

    def _tell(self, event: Event) -> None:
        if isinstance(event, PublishReceived):
            self._listener.publish_received(self, event.publish)
        elif isinstance(event, ConnectReceived):
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
