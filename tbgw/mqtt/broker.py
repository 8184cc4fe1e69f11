"""A small broker in memory, on the server's protocol: for tests, for the sandbox, and where a dozen clients meet.

Both versions, all QoS, sessions that outlive connections, retained messages, wills with their delay, wildcard and
shared subscriptions, message expiry. Everything is bounded, see `BrokerOptions`; what does not fit is dropped and
counted in `dropped`, or refused with its code. Nothing is written to disk.

A message is taken over (PUBACK, PUBREC) when it stands in the queues of its receivers. Their own QoS exchanges are
those of their sessions. A client that does not read what is sent to it is closed when its buffer is full.

Considered and dropped: a tree of topic levels. Up to some hundreds of wildcard filters, trying them one by one is as
fast and half as long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import ServerFactory
from zope.interface import implementer

from tbgw.mqtt.errors import ClientDisconnected, LocalProtocolError
from tbgw.mqtt.interfaces import IServerListener
from tbgw.mqtt.options import ServerOptions
from tbgw.mqtt.packets import Connect, Publish, Subscribe, Unsubscribe, Will
from tbgw.mqtt.properties import PropertyId
from tbgw.mqtt.protocol import MQTTServerProtocol, abandon_session
from tbgw.mqtt.reason_codes import SUBACK_FAILURE, ConnectReturnCode, ReasonCode
from tbgw.mqtt.session import Session
from tbgw.mqtt.subscriptions import Granted, SubscriptionTable
from tbgw.mqtt.topics import SHARE_PREFIX, matches, topic_filter_fault

Authenticate = Callable[[Connect], int]
"""Judges a CONNECT: 0, or a reason code of MQTT 5, which a client of 3.1.1 gets translated."""

_P = PropertyId

_FORWARDED: Final = (
    _P.PAYLOAD_FORMAT_INDICATOR,
    _P.CONTENT_TYPE,
    _P.RESPONSE_TOPIC,
    _P.CORRELATION_DATA,
    _P.USER_PROPERTY,
)
"""What a message keeps on its way, unaltered [MQTT-3.3.2-4 and following]."""

_OVERHEAD_BYTES: Final = 100
"""About what a PUBLISH has beside topic and payload."""

_RETURN_CODES: Final[Mapping[int, int]] = {
    ReasonCode.CLIENT_IDENTIFIER_NOT_VALID: ConnectReturnCode.IDENTIFIER_REJECTED,
    ReasonCode.SERVER_UNAVAILABLE: ConnectReturnCode.SERVER_UNAVAILABLE,
    ReasonCode.SERVER_BUSY: ConnectReturnCode.SERVER_UNAVAILABLE,
    ReasonCode.BAD_USER_NAME_OR_PASSWORD: ConnectReturnCode.BAD_USER_NAME_OR_PASSWORD,
}


@dataclass(frozen=True, kw_only=True)
class BrokerOptions:
    """What a broker takes."""

    server: ServerOptions = field(
        default_factory=lambda: ServerOptions(max_packet_bytes=256 * 1024, topic_alias_maximum=16, receive_maximum=1000)
    )
    """Of each connection: packet cap, windows, keep alive."""

    max_connections: int = 1000
    """Beyond it a connection is closed as soon as it is accepted."""

    max_sessions: int = 2000
    """Of connected clients and of those that may come back. Beyond it a new client is told "server busy"."""

    max_session_expiry_seconds: int = 3600
    """The longest that a session is kept without a connection."""

    max_subscriptions: int = 200
    """Of one session; one more is refused with 0x97."""

    max_queued_messages: int = 1000
    """Waiting for one session, beside its window; what comes on top is dropped."""

    max_queued_bytes: int = 4 * 1024 * 1024
    """Payloads and topics waiting for one session."""

    max_retained_messages: int = 10_000
    max_retained_bytes: int = 16 * 1024 * 1024
    """Payloads and topics; what does not fit is not retained, and refused with 0x97 where there is a code."""


@dataclass(frozen=True, slots=True)
class _Message:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: Mapping[int, Any] | None
    expires: float | None  # by the broker's clock

    @property
    def size(self) -> int:
        return len(self.topic) + len(self.payload)


class _Client:
    """One session and, at times, its connection."""

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.protocol: MQTTServerProtocol | None = None
        self.session = Session()
        self.expiry_seconds = 0.0
        self.expiry: IDelayedCall | None = None
        self.will: Will | None = None
        self.will_timer: IDelayedCall | None = None
        self.subscriptions: dict[str, Granted] = {}
        self.queue: deque[_Message] = deque()
        self.queued_bytes = 0

    def enqueue(self, message: _Message) -> None:
        self.queue.append(message)
        self.queued_bytes += message.size

    def dequeue(self) -> _Message:
        message = self.queue.popleft()
        self.queued_bytes -= message.size
        return message


@implementer(IServerListener)
class Broker:
    """Give `factory()` to any number of listening endpoints. `close` ends it."""

    def __init__(
        self, clock: IReactorTime, options: BrokerOptions | None = None, authenticate: Authenticate | None = None
    ) -> None:
        self._clock = clock
        self._options = options or BrokerOptions()
        self._authenticate = authenticate
        self._connections: dict[MQTTServerProtocol, _Client | None] = {}
        self._clients: dict[str, _Client] = {}
        self._subscriptions: SubscriptionTable[_Client] = SubscriptionTable()
        self._retained: dict[str, _Message] = {}
        self._retained_bytes = 0
        self._assigned = 0
        self._gone: list[Deferred[None]] = []
        self._closing = False
        self.dropped = 0
        """Messages that did not reach a subscriber, because its queue was full or it takes no such size."""

    # --- for the owner -------------------------------------------------------------------------------------------

    @property
    def connection_count(self) -> int:
        """Open connections, with those that said nothing yet."""
        return len(self._connections)

    @property
    def session_count(self) -> int:
        """Sessions, connected or not."""
        return len(self._clients)

    @property
    def retained_count(self) -> int:
        """Retained messages."""
        return len(self._retained)

    def factory(self) -> BrokerFactory:
        """For a listening endpoint, or a `WebSocketServerFactory`."""
        return BrokerFactory(self)

    def admit(self) -> MQTTServerProtocol | None:
        """A protocol for a new connection, or None when there are too many."""
        if self._closing or len(self._connections) >= self._options.max_connections:
            return None
        protocol = MQTTServerProtocol(self._options.server, self, self._clock)
        self._connections[protocol] = None
        return protocol

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: Mapping[int, Any] | None = None,
    ) -> int:
        """A message of the broker itself. Returns the reason code: 0, or 0x10 when nobody is subscribed."""
        return self._route(None, topic, payload, qos, retain, properties)

    def close(self) -> Deferred[None]:
        """Close all connections and forget everything. Fires when the connections are gone."""
        self._closing = True
        for protocol in tuple(self._connections):
            protocol.close(ReasonCode.SERVER_SHUTTING_DOWN)
        for client in tuple(self._clients.values()):
            client.will = client.protocol = None
            self._forget(client)
        if not self._connections:
            return succeed(None)
        gone: Deferred[None] = Deferred()
        self._gone.append(gone)
        return gone

    # --- IServerListener: coming and going -----------------------------------------------------------------------

    def connect_received(self, protocol: MQTTServerProtocol, connect: Connect) -> None:
        """See `IServerListener.connect_received`."""
        is_v5 = connect.protocol_version >= 5
        code = 0 if self._authenticate is None else self._authenticate(connect)
        client = self._clients.get(connect.client_id) if connect.client_id else None
        if not code and client is None and len(self._clients) >= self._options.max_sessions:
            code = ReasonCode.SERVER_BUSY
        if code:
            protocol.refuse(code if is_v5 else _RETURN_CODES.get(code, ConnectReturnCode.NOT_AUTHORIZED))
            return
        if client is not None and client.protocol is not None:
            self._take_over(client)
            client = self._clients.get(connect.client_id)
        session_present = client is not None and not connect.clean_start
        if client is not None and connect.clean_start:
            self._forget(client)
            client = None
        told: dict[int, Any] = {}
        if client is None:
            client_id = connect.client_id or self._new_client_id()
            client = self._clients[client_id] = _Client(client_id)
            if is_v5 and not connect.client_id:
                told[_P.ASSIGNED_CLIENT_IDENTIFIER] = client_id
        wanted = (connect.properties or {}).get(_P.SESSION_EXPIRY_INTERVAL, 0)
        if not is_v5:
            wanted = 0 if connect.clean_start else self._options.max_session_expiry_seconds
        client.expiry_seconds = min(wanted, self._options.max_session_expiry_seconds)
        if is_v5 and client.expiry_seconds != wanted:
            told[_P.SESSION_EXPIRY_INTERVAL] = client.expiry_seconds
        self._stop_timers(client)
        client.will = connect.will
        client.protocol = protocol
        self._connections[protocol] = client
        try:
            protocol.accept(session_present, told or None, client.session)
        except LocalProtocolError:  # a client that takes no CONNACK of this size
            client.will = None
            protocol.refuse(ReasonCode.PACKET_TOO_LARGE)
            return
        self._send_queued(client)

    def disconnected(self, protocol: MQTTServerProtocol, reason: Exception) -> None:
        """See `IServerListener.disconnected`."""
        client = self._connections.pop(protocol, None)
        if client is not None and client.protocol is protocol:
            if isinstance(reason, ClientDisconnected):
                properties = reason.packet.properties or {}
                wanted = properties.get(_P.SESSION_EXPIRY_INTERVAL, client.expiry_seconds)
                client.expiry_seconds = min(wanted, self._options.max_session_expiry_seconds)
                if reason.packet.reason_code != ReasonCode.DISCONNECT_WITH_WILL_MESSAGE:
                    client.will = None
            self._left(client)
        if not self._connections:
            gone, self._gone = self._gone, []
            for deferred in gone:
                deferred.callback(None)

    def _take_over(self, client: _Client) -> None:
        """Another connection with the same client identifier came [MQTT-3.1.4-3]."""
        older = client.protocol
        assert older is not None  # noqa: S101 - the caller looked
        older.close(ReasonCode.SESSION_TAKEN_OVER)
        self._connections[older] = None
        self._left(client)

    def _left(self, client: _Client) -> None:
        client.protocol = None
        will = client.will
        if will is not None:
            delay = min((will.properties or {}).get(_P.WILL_DELAY_INTERVAL, 0), client.expiry_seconds)
            if delay:
                client.will_timer = self._clock.callLater(delay, self._publish_will, client)
            else:
                self._publish_will(client)
        if client.expiry_seconds:
            client.expiry = self._clock.callLater(client.expiry_seconds, self._expired, client)
        else:
            self._forget(client)

    def _expired(self, client: _Client) -> None:
        client.expiry = None
        self._forget(client)

    def _publish_will(self, client: _Client) -> None:
        client.will_timer = None
        will, client.will = client.will, None
        if will is not None and not self._closing:
            self._route(client, will.topic, will.payload, will.qos, will.retain, will.properties)

    def _stop_timers(self, client: _Client) -> None:
        for timer in (client.expiry, client.will_timer):
            if timer is not None:
                timer.cancel()
        client.expiry = client.will_timer = None

    def _forget(self, client: _Client) -> None:
        """The session ends: its will is due now at the latest [MQTT-3.1.2-8]."""
        self._stop_timers(client)
        self._publish_will(client)
        for topic_filter in client.subscriptions:
            self._subscriptions.remove(client, topic_filter)
        client.subscriptions.clear()
        client.queue.clear()
        client.queued_bytes = 0
        if self._clients.get(client.client_id) is client:
            del self._clients[client.client_id]
        abandon_session(client.session, LocalProtocolError("the session is over"))

    def _new_client_id(self) -> str:
        while True:
            self._assigned += 1
            client_id = f"auto-{self._assigned}"
            if client_id not in self._clients:
                return client_id

    # --- IServerListener: subscriptions --------------------------------------------------------------------------

    def subscribe_received(self, protocol: MQTTServerProtocol, subscribe: Subscribe) -> Sequence[int]:
        """See `IServerListener.subscribe_received`. Retained messages go out before the SUBACK, as they may."""
        client = self._connections.get(protocol)
        if client is None:
            return [SUBACK_FAILURE] * len(subscribe.filters)
        identifier = (subscribe.properties or {}).get(_P.SUBSCRIPTION_IDENTIFIER)
        is_v5 = protocol.protocol_version >= 5
        codes: list[int] = []
        for subscription in subscribe.filters:
            topic_filter = subscription.topic_filter
            fault = topic_filter_fault(topic_filter, shared=True)  # a client of 3.1.1 may share too
            is_new = topic_filter not in client.subscriptions
            if fault is not None:
                codes.append(ReasonCode.TOPIC_FILTER_INVALID if is_v5 else SUBACK_FAILURE)
            elif is_new and len(client.subscriptions) >= self._options.max_subscriptions:
                codes.append(ReasonCode.QUOTA_EXCEEDED if is_v5 else SUBACK_FAILURE)
            else:
                granted = Granted(subscription, identifier)
                client.subscriptions[topic_filter] = granted
                self._subscriptions.add(client, granted)
                codes.append(subscription.qos)
                handling = subscription.retain_handling
                if not topic_filter.startswith(SHARE_PREFIX) and (handling == 0 or (handling == 1 and is_new)):
                    self._send_retained(client, granted)
        return codes

    def unsubscribe_received(self, protocol: MQTTServerProtocol, unsubscribe: Unsubscribe) -> Sequence[int]:
        """See `IServerListener.unsubscribe_received`."""
        client = self._connections.get(protocol)
        codes = []
        for topic_filter in unsubscribe.filters:
            found = client is not None and client.subscriptions.pop(topic_filter, None) is not None
            if client is not None and found:
                self._subscriptions.remove(client, topic_filter)
            codes.append(0 if found else ReasonCode.NO_SUBSCRIPTION_EXISTED)
        return codes

    def _send_retained(self, client: _Client, granted: Granted) -> None:
        topic_filter = granted.subscription.topic_filter
        for topic, message in list(self._retained.items()):
            if self._is_expired(message):
                self._unretain(topic)
            elif matches(topic_filter, topic):
                self._deliver(client, message, min(message.qos, granted.subscription.qos), True, [granted])

    # --- messages ------------------------------------------------------------------------------------------------

    def publish_received(self, protocol: MQTTServerProtocol, publish: Publish) -> None:
        """See `IServerListener.publish_received`."""
        client = self._connections.get(protocol)
        if client is None:
            return
        code = self._route(
            client, publish.topic, publish.payload, publish.qos, publish.retain, publish.properties
        )
        protocol.acknowledge(publish, code if protocol.protocol_version >= 5 else 0)

    def _route(
        self,
        sender: _Client | None,
        topic: str,
        payload: bytes,
        qos: int,
        retain: bool,
        properties: Mapping[int, Any] | None,
    ) -> int:
        """To everybody that is subscribed. Returns the reason code."""
        kept = {key: value for key, value in (properties or {}).items() if key in _FORWARDED}
        lifetime = (properties or {}).get(_P.MESSAGE_EXPIRY_INTERVAL)
        expires = None if lifetime is None else self._clock.seconds() + lifetime
        message = _Message(topic, payload, qos, retain, kept or None, expires)
        if retain and not self._retain(message):
            return ReasonCode.QUOTA_EXCEEDED
        receivers: dict[_Client, list[Granted]] = {}
        for client, granted in self._subscriptions.receivers(topic, _is_connected):
            if not (granted.subscription.no_local and client is sender):
                receivers.setdefault(client, []).append(granted)
        for client, all_granted in receivers.items():
            # One copy, with the best QoS and all identifiers, where subscriptions overlap (section 3.3.4).
            best = max(granted.subscription.qos for granted in all_granted)
            as_published = any(granted.subscription.retain_as_published for granted in all_granted)
            self._deliver(client, message, min(qos, best), retain and as_published, all_granted)
        return 0 if receivers else ReasonCode.NO_MATCHING_SUBSCRIBERS

    def _retain(self, message: _Message) -> bool:
        self._unretain(message.topic)
        if not message.payload:
            return True
        if (
            len(self._retained) >= self._options.max_retained_messages
            or self._retained_bytes + message.size > self._options.max_retained_bytes
        ):
            return False
        self._retained[message.topic] = message
        self._retained_bytes += message.size
        return True

    def _unretain(self, topic: str) -> None:
        older = self._retained.pop(topic, None)
        if older is not None:
            self._retained_bytes -= older.size

    def _is_expired(self, message: _Message) -> bool:
        return message.expires is not None and message.expires <= self._clock.seconds()

    def _deliver(self, client: _Client, message: _Message, qos: int, retain: bool, granted: list[Granted]) -> None:
        identifiers = tuple(each.identifier for each in granted if each.identifier is not None)
        properties = message.properties
        if identifiers:
            properties = {**(properties or {}), _P.SUBSCRIPTION_IDENTIFIER: identifiers}
        message = _Message(message.topic, message.payload, qos, retain, properties, message.expires)
        if not client.queue and client.protocol is not None and self._send(client, client.protocol, message):
            return
        if (
            (qos == 0 and client.protocol is None)
            or len(client.queue) >= self._options.max_queued_messages
            or client.queued_bytes + message.size > self._options.max_queued_bytes
        ):
            self.dropped += 1
        else:
            client.enqueue(message)

    def _send_queued(self, client: _Client) -> None:
        protocol = client.protocol
        while client.queue and protocol is not None and protocol is client.protocol:
            if not self._send(client, protocol, client.queue[0]):
                return
            client.dequeue()

    def _send(self, client: _Client, protocol: MQTTServerProtocol, message: _Message) -> bool:
        """Whether the message needs no more care: it is sent, expired, or cannot be sent to this client at all."""
        if message.qos and protocol.inflight >= protocol.window:
            return False
        properties = message.properties if protocol.protocol_version >= 5 else None
        if message.expires is not None:
            left = message.expires - self._clock.seconds()
            if left <= 0:
                return True
            if protocol.protocol_version >= 5:
                properties = {**(properties or {}), _P.MESSAGE_EXPIRY_INTERVAL: max(1, int(left))}
        try:
            sent = protocol.publish(
                message.topic, message.payload, qos=message.qos, retain=message.retain, properties=properties
            )
        except LocalProtocolError:
            fits = message.size + _OVERHEAD_BYTES <= protocol.peer_limits.max_packet_bytes
            if fits and message.qos and protocol.paused:
                # It does not read. Its session, if it is to be kept, keeps the message.
                protocol.close(ReasonCode.QUOTA_EXCEEDED)
                return False
            self.dropped += 1
            return True
        if message.qos:
            sent.addCallbacks(lambda code: self._send_queued(client), lambda failure: None)
        return True


def _is_connected(client: _Client) -> bool:
    return client.protocol is not None


class BrokerFactory(ServerFactory):
    """Makes the connections of a `Broker`; None, which closes the connection, when there are too many."""

    noisy = False

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def buildProtocol(self, addr: IAddress | None) -> MQTTServerProtocol | None:
        return self._broker.admit()
