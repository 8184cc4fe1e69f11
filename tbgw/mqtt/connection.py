"""One MQTT connection without input or output: bytes in, events out, bytes to send, and a moment to be woken.

The owner calls `opened` when the transport is there, `receive_data` for what it brings, `handle_timer` when
`next_timer` is reached and `connection_lost` at the end; after each of these, and after each request, it sends what
`data_to_send` gives. Time is always an argument, in seconds of any steady clock.

Invariants:
* Every packet, sent or received, is a legal move of `state.TRANSITIONS`. A move of ours that is not raises
  LocalProtocolError and sends nothing; one of the peer's ends the connection.
* `receive_data` never raises. A breach ends its list with `Terminated`, after the events of what came before it.
* A packet id is not given out again while it is in flight, and the ids of the two directions never meet: the peer's
  are only ever echoed.
* An acknowledgement for an id that is not in flight is counted in `ignored_acknowledgements` and otherwise ignored:
  ThingsBoard up to 4.2 sends one PUBACK for every device in a message.
* No buffer grows without limit: incoming bytes by the packet cap, outgoing by `max_unsent_bytes`. A peer that goes on
  sending while it does not read the answers is cut off.
* Acknowledgements and answers that come too late, after the connection ended, are dropped in silence: the end is not
  the fault of who answers. A new request then is a LocalProtocolError.

Sessions: with a kept `Session`, after CONNACK the unacknowledged publishes are sent again in their order and under
their ids, with DUP if the server says it still has the session and as new ones if not.

Between CONNECT and its own CONNACK a server reads nothing on [MQTT-3.1.4-5]; what arrives is put aside and read after
`accept`, when the owner calls `receive_data` with no bytes because `has_held_bytes` is true.

Considered and dropped: retransmission by timer on a live connection, which [MQTT-4.4.0-1] does not ask for and MQTT 5
forbids; tracking incoming QoS 1 ids, which protects nothing, as a receiver may meet an id again at any time.

Not here yet: QoS 2. A QoS 2 PUBLISH from the peer ends the connection, one of ours is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tbgw.mqtt.codec import decode, encode, encode_puback, encode_publish, encode_topic_name
from tbgw.mqtt.errors import (
    ClientDisconnected,
    ConnectionRefused,
    ConnectTimeout,
    KeepAliveTimeout,
    LocalProtocolError,
    MQTTError,
    RemoteProtocolError,
    ServerDisconnected,
)
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
from tbgw.mqtt.options import ClientOptions, ServerOptions
from tbgw.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
)
from tbgw.mqtt.reason_codes import ConnectReturnCode, ReasonCode
from tbgw.mqtt.session import InFlight, Session
from tbgw.mqtt.state import (
    DELIVERIES,
    FIRST_DELIVERY,
    Delivery,
    Move,
    Role,
    State,
    next_state,
)

MAX_PENDING_REQUESTS: Final = 1000
"""SUBSCRIBE and UNSUBSCRIBE packets that may wait for their answer. A client has a handful of them; the cap keeps
packet ids free for the window."""

REPLY_HEADROOM_BYTES: Final = 256 * 1024
"""What answers (PUBACK, PINGRESP) may take above `max_unsent_bytes`, which the owner may fill by itself."""

MAX_HELD_BYTES: Final = 128 * 1024
"""Bytes put aside before CONNACK, beside one packet of the largest size: two reads of Twisted's 64 KiB."""

_PACKET_TYPES: Final[dict[type, PacketType]] = {
    Connect: PacketType.CONNECT,
    Publish: PacketType.PUBLISH,
    PubAck: PacketType.PUBACK,
    PubRec: PacketType.PUBREC,
    PubRel: PacketType.PUBREL,
    PubComp: PacketType.PUBCOMP,
    Subscribe: PacketType.SUBSCRIBE,
    SubAck: PacketType.SUBACK,
    Unsubscribe: PacketType.UNSUBSCRIBE,
    UnsubAck: PacketType.UNSUBACK,
    PingReq: PacketType.PINGREQ,
    PingResp: PacketType.PINGRESP,
    Disconnect: PacketType.DISCONNECT,
}


def _move_of(packet: Packet) -> PacketType | Move:
    if isinstance(packet, ConnAck):
        return Move.CONNACK_REFUSED if packet.reason_code else Move.CONNACK_ACCEPTED
    return _PACKET_TYPES[type(packet)]


class Connection:
    """One connection, in the role that its options belong to. See the module for its rules."""

    def __init__(self, options: ClientOptions | ServerOptions, session: Session | None = None) -> None:
        self._options = options
        self._role = Role.CLIENT if isinstance(options, ClientOptions) else Role.SERVER
        self._kept = session is not None
        self._session = Session() if session is None else session
        self._attached = False
        self._state = State.OPENING
        self._protocol_version: int = options.protocol_version if isinstance(options, ClientOptions) else 4
        self._allow_packet_id_zero = isinstance(options, ClientOptions) and options.tolerate_packet_id_zero
        self._max_packet_bytes = options.max_packet_bytes
        self._max_inflight = options.max_inflight
        self._max_unsent_bytes = options.max_unsent_bytes
        # Incoming: the beginning of a packet whose rest has not come, and how much of it must be there.
        self._partial = bytearray()
        self._wanted_bytes = 0
        self._held = False
        # Outgoing.
        self._out: list[bytes] = []
        self._out_bytes = 0
        # Requests of ours that wait for SUBACK or UNSUBACK: the packet and the context.
        self._pending: dict[int, tuple[Subscribe | Unsubscribe, Any]] = {}
        # Time.
        self._deadline: float | None = None  # of the handshake or of closing
        self._keep_alive_seconds: float = 0.0
        self._last_sent = 0.0
        self._last_received = 0.0
        self._ping_deadline: float | None = None
        self.ignored_acknowledgements = 0

    # --- what can be asked ---------------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        """Which end this is."""
        return self._role

    @property
    def state(self) -> State:
        """Where the connection is."""
        return self._state

    @property
    def inflight(self) -> int:
        """How many publishes of ours are not acknowledged."""
        return len(self._session.inflight)

    @property
    def unsent_bytes(self) -> int:
        """Bytes that `data_to_send` would give."""
        return self._out_bytes

    @property
    def has_held_bytes(self) -> bool:
        """Whether bytes that were put aside can be read now: call `receive_data` with none."""
        return self._held and self._state is State.CONNECTED

    @property
    def next_timer(self) -> float | None:
        """
        The moment at which `handle_timer` wants to be called, or None. It may move to later at any call, so a timer
        that was armed earlier does no harm.
        """
        if self._state is not State.CONNECTED:
            return self._deadline
        if not self._keep_alive_seconds:
            return None
        if self._role is Role.SERVER:
            return self._last_received + self._keep_alive_seconds
        if self._ping_deadline is not None:
            return self._ping_deadline
        return min(self._last_sent, self._last_received) + self._keep_alive_seconds

    # --- the owner's calls ---------------------------------------------------------------------------------------

    def opened(self, now: float) -> None:
        """The transport is there. A client says CONNECT. Raises LocalProtocolError when the session is in use."""
        if self._state is not State.OPENING or self._deadline is not None:
            raise LocalProtocolError("the connection was opened before")
        if isinstance(self._options, ClientOptions):
            self._session.attach()
            self._attached = True
            self._keep_alive_seconds = self._options.keep_alive_seconds
            self._send(self._options.connect_packet(), now)
        self._deadline = now + self._options.connect_timeout_seconds

    def data_to_send(self) -> bytes:
        """The bytes for the transport, which are forgotten here."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._out_bytes = 0
        return data

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """What these bytes, in any portion, mean. Never raises; after the end it reads nothing."""
        events: list[Event] = []
        if self._state is State.CLOSED:
            return events
        try:
            if self._out_bytes > self._max_unsent_bytes + REPLY_HEADROOM_BYTES:
                raise RemoteProtocolError("peer sends but does not read", ReasonCode.QUOTA_EXCEEDED)
            self._read(data, events, now)
        except RemoteProtocolError as error:
            self._breach(error, events, now)
        return events

    def handle_timer(self, now: float) -> list[Event]:
        """Do what is due. Called too early it does nothing."""
        due = self.next_timer
        if due is None or now < due:
            return []
        if self._state is State.CLOSED:
            self._deadline = None
            return [CloseTimedOut()]
        reason: MQTTError
        if self._state is not State.CONNECTED:
            missing = "CONNACK" if self._role is Role.CLIENT or self._state is State.CONNECTING else "CONNECT"
            reason = ConnectTimeout(f"no {missing} within {self._options.connect_timeout_seconds} s")
        elif self._role is Role.SERVER:
            reason = KeepAliveTimeout(f"nothing came for {self._keep_alive_seconds:g} s [MQTT-3.1.2-24]")
        elif self._ping_deadline is not None:
            reason = KeepAliveTimeout("no answer to PINGREQ")
        else:
            assert isinstance(self._options, ClientOptions)  # noqa: S101 - for mypy: this role has these options
            self._send(PingReq(), now)
            self._ping_deadline = now + self._options.ping_timeout_seconds
            return []
        return [self._terminate(reason, now, abort=True)]

    def connection_lost(self) -> list[Any]:
        """The transport is gone. Returns the contexts that will never be answered, in the order of the requests."""
        self._state = State.CLOSED
        self._deadline = None
        self._partial = bytearray()
        self._out.clear()
        self._out_bytes = 0
        if self._attached:
            self._session.detach()
            self._attached = False
        contexts = [] if self._kept else self._session.abandon()
        contexts += [context for _, context in self._pending.values()]
        self._pending.clear()
        return contexts

    # --- requests of either role ---------------------------------------------------------------------------------

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        now: float,
        qos: int = 1,
        retain: bool = False,
        dup: bool = False,
        context: Any = None,
        packet_id: int | None = None,
    ) -> int | None:
        """
        Send a message; returns its packet id, None for QoS 0. QoS 1 is answered by `PublishAcknowledged` with
        `context`. `packet_id` forces an id, 0 too, which only somebody who tests a client should want.
        Raises LocalProtocolError: not connected, window full, too much unsent, illegal topic, QoS 2, id in use.
        """
        # A table look-up saved: in CONNECTED both sides may always publish, and nowhere else.
        if self._state is not State.CONNECTED:
            raise LocalProtocolError(f"cannot publish: the connection is {self._state.value}")
        if qos == 0:
            if dup:
                raise LocalProtocolError("a PUBLISH with QoS 0 cannot be a duplicate [MQTT-3.3.1-2]")
            self._queue(encode_publish(encode_topic_name(topic), payload, 0, retain, False, None))
            self._last_sent = now
            return None
        if qos != 1:
            raise LocalProtocolError(f"QoS {qos} is not supported")
        inflight = self._session.inflight
        if len(inflight) >= self._max_inflight:
            raise LocalProtocolError(f"the in-flight window of {self._max_inflight} is full")
        if packet_id is None:
            packet_id = self._session.next_packet_id(self._pending)
        elif packet_id in inflight or packet_id in self._pending:
            raise LocalProtocolError(f"packet id {packet_id} is in use [MQTT-2.3.1-2]")
        self._queue(encode_publish(encode_topic_name(topic), payload, 1, retain, dup, packet_id))
        self._last_sent = now
        kept = None
        if self._kept:
            kept = Publish(topic=topic, payload=payload, qos=1, retain=retain, dup=dup, packet_id=packet_id)
        inflight[packet_id] = InFlight(Delivery.WAIT_PUBACK, context, kept)
        return packet_id

    def acknowledge(self, publish: Publish, now: float, reason_code: int = 0) -> None:
        """
        Say that a received message was taken over; nothing for QoS 0. May be said more than once, as ThingsBoard does.
        Raises LocalProtocolError for a code that this version cannot carry.
        """
        if publish.packet_id is None or self._state is not State.CONNECTED:
            return
        if reason_code:
            raise LocalProtocolError("PUBACK has no reason code on MQTT 3.1.1")
        self._reply(encode_puback(publish.packet_id), now)

    def disconnect(self, now: float) -> None:
        """Our end of the connection: a client says DISCONNECT where it may. Sends no event; close in good order."""
        if self._state is State.CLOSED:
            return
        farewell = Disconnect()
        if self._allowed(self._role, farewell) is not None:
            self._send(farewell, now)
        self._close(now)

    # --- requests of a client ------------------------------------------------------------------------------------

    def subscribe(self, filters: Sequence[tuple[str, int]], *, now: float, context: Any = None) -> int:
        """
        Ask for messages: (topic filter, QoS) pairs. Answered by `SubscribeAcknowledged`. Returns the packet id.
        Raises LocalProtocolError: not connected, not a client, an illegal filter or QoS, too much at once.
        """
        subscriptions = tuple(Subscription(topic_filter=text, qos=qos) for text, qos in filters)
        if any(subscription.qos > 1 for subscription in subscriptions):
            raise LocalProtocolError("QoS 2 is not supported")
        packet_id = self._session.next_packet_id(self._pending)
        return self._request(Subscribe(packet_id=packet_id, filters=subscriptions), packet_id, context, now)

    def unsubscribe(self, filters: Sequence[str], *, now: float, context: Any = None) -> int:
        """The reverse of `subscribe`, with the same event and the same errors."""
        packet_id = self._session.next_packet_id(self._pending)
        return self._request(Unsubscribe(packet_id=packet_id, filters=tuple(filters)), packet_id, context, now)

    def _request(self, packet: Subscribe | Unsubscribe, packet_id: int, context: Any, now: float) -> int:
        if len(self._pending) >= MAX_PENDING_REQUESTS:
            raise LocalProtocolError(f"{MAX_PENDING_REQUESTS} requests wait for their answer")
        self._send(packet, now, limited=True)
        self._pending[packet_id] = (packet, context)
        return packet_id

    # --- answers of a server -------------------------------------------------------------------------------------

    def accept(self, now: float, *, session_present: bool = False) -> None:
        """Let the client in. Then read on, if `has_held_bytes`."""
        if self._state is not State.CLOSED:
            self._send(ConnAck(session_present=session_present), now)
            self._deadline = None
            self._last_received = now

    def refuse(self, return_code: int, now: float) -> None:
        """Do not let the client in; close in good order."""
        if not return_code:
            raise LocalProtocolError("return code 0 refuses nothing")
        if self._state is not State.CLOSED:
            self._send(ConnAck(reason_code=return_code), now)
            self._close(now)

    def acknowledge_subscribe(self, subscribe: Subscribe, reason_codes: Sequence[int], now: float) -> None:
        """One code for each filter, in order."""
        if self._state is State.CLOSED:
            return
        if len(reason_codes) != len(subscribe.filters):
            raise LocalProtocolError("a SUBACK has one code for each filter [MQTT-3.8.4-5]")
        self._send(SubAck(packet_id=subscribe.packet_id, reason_codes=tuple(reason_codes)), now)

    def acknowledge_unsubscribe(self, unsubscribe: Unsubscribe, reason_codes: Sequence[int], now: float) -> None:
        """One code for each filter, in order; MQTT 3.1.1 does not transmit them."""
        if self._state is State.CLOSED:
            return
        if len(reason_codes) != len(unsubscribe.filters):
            raise LocalProtocolError("an UNSUBACK has one code for each filter")
        self._send(UnsubAck(packet_id=unsubscribe.packet_id), now)

    # --- sending -------------------------------------------------------------------------------------------------

    def _allowed(self, sender: Role, packet: Packet) -> State | None:
        return next_state(self._state, sender, _move_of(packet), self._protocol_version)

    def _send(self, packet: Packet, now: float, *, limited: bool = False) -> None:
        following = self._allowed(self._role, packet)
        if following is None:
            name = type(packet).__name__.upper()
            raise LocalProtocolError(f"a {self._role.value} cannot send {name}: the connection is {self._state.value}")
        encoded = encode(packet, self._protocol_version)
        if limited:
            self._queue(encoded)
        else:
            self._reply(encoded, now)
        self._last_sent = now
        self._state = following

    def _queue(self, encoded: bytes) -> None:
        """For what our side asks to send: LocalProtocolError when too much waits. A lone packet always fits."""
        unsent_bytes = self._out_bytes + len(encoded)
        if unsent_bytes > self._max_unsent_bytes and self._out_bytes:
            raise LocalProtocolError(f"{self._out_bytes} bytes are unsent, {self._max_unsent_bytes} is the most")
        self._out_bytes = unsent_bytes
        self._out.append(encoded)

    def _reply(self, encoded: bytes, now: float) -> None:
        """For what the standard makes us send; its amount is bounded by what `receive_data` still takes."""
        self._out.append(encoded)
        self._out_bytes += len(encoded)
        self._last_sent = now

    # --- receiving -----------------------------------------------------------------------------------------------

    def _read(self, data: bytes, events: list[Event], now: float) -> None:
        if self._role is Role.CLIENT:
            # Any byte shows that the server lives. A server counts whole packets, see below.
            self._last_received = now
            self._ping_deadline = None
        elif self._state is State.CONNECTING:
            self._partial += data
            self._held = bool(self._partial)
            self._check_held_bytes()
            return
        if self._partial:
            self._partial += data
            if len(self._partial) < self._wanted_bytes:
                return
            data = bytes(self._partial)
            self._partial = bytearray()
        position = 0
        end = len(data)
        self._held = False
        self._wanted_bytes = 0
        inflight = self._session.inflight
        while position < end:
            if (
                data[position] == 0x40
                and self._state is State.CONNECTED
                and end - position >= 4
                and data[position + 1] == 2
            ):
                # The fast way for a PUBACK, legal for both roles in CONNECTED: the commonest packet of an uplink.
                packet_id = data[position + 2] << 8 | data[position + 3]
                position += 4
                entry = inflight.get(packet_id)
                if entry is not None and entry.waits_for is Delivery.WAIT_PUBACK:
                    del inflight[packet_id]
                    events.append(PublishAcknowledged(packet_id, 0, entry.context))
                else:
                    self.ignored_acknowledgements += 1
                continue
            packet, offset = decode(
                data,
                position,
                end,
                protocol_version=self._protocol_version,
                max_packet_bytes=self._max_packet_bytes,
                allow_packet_id_zero=self._allow_packet_id_zero,
            )
            if packet is None:
                self._wanted_bytes = offset
                break
            position = offset
            if packet.__class__ is Publish and self._state is State.CONNECTED:
                self._publish_received(packet, events)
            else:
                self._packet_received(packet, events, now)
                if self._state is State.CLOSED:
                    return
                if self._state is State.CONNECTING and self._role is Role.SERVER:
                    self._held = position < end
                    break
        if position:
            self._last_received = now
        if position < end:
            self._partial += data[position:] if position else data
            if self._held:
                self._check_held_bytes()

    def _check_held_bytes(self) -> None:
        if len(self._partial) > self._max_packet_bytes + MAX_HELD_BYTES:
            raise RemoteProtocolError("too much was sent before CONNACK", ReasonCode.QUOTA_EXCEEDED)

    def _publish_received(self, publish: Publish, events: list[Event]) -> None:
        if publish.qos == 2:
            raise RemoteProtocolError("QoS 2 is not supported", ReasonCode.QOS_NOT_SUPPORTED)
        events.append(PublishReceived(publish))

    def _packet_received(self, packet: Packet, events: list[Event], now: float) -> None:
        if self._allowed(self._role.peer, packet) is None:
            raise self._illegal(packet)
        if isinstance(packet, Connect):
            self._connect_received(packet, events, now)
        elif isinstance(packet, ConnAck):
            self._connack_received(packet, events, now)
        elif isinstance(packet, PubAck | PubRec | PubRel | PubComp):
            self._acknowledgement_received(packet, events)
        elif isinstance(packet, SubAck | UnsubAck):
            self._answer_received(packet, events)
        elif isinstance(packet, Subscribe):
            events.append(SubscribeReceived(subscribe=packet))
        elif isinstance(packet, Unsubscribe):
            events.append(UnsubscribeReceived(unsubscribe=packet))
        elif isinstance(packet, PingReq):
            self._send(PingResp(), now)
        elif isinstance(packet, Disconnect):
            said = ClientDisconnected if self._role is Role.SERVER else ServerDisconnected
            events.append(self._terminate(said(packet), now, abort=False))

    def _illegal(self, packet: Packet) -> RemoteProtocolError:
        name = type(packet).__name__.upper()
        if self._state is State.OPENING:
            clause = "[MQTT-3.1.0-1]"
        elif isinstance(packet, Connect):
            clause = "[MQTT-3.1.0-2]"
        elif self._state is State.CONNECTING:
            clause = "[MQTT-3.2.0-1]"
        else:
            clause = "(section 2.2.1)"
        text = f"{name} from the {self._role.peer.value} while the connection is {self._state.value} {clause}"
        return RemoteProtocolError(text, ReasonCode.PROTOCOL_ERROR)

    def _connect_received(self, connect: Connect, events: list[Event], now: float) -> None:
        assert isinstance(self._options, ServerOptions)  # noqa: S101 - for mypy: only a server gets a CONNECT
        self._state = State.CONNECTING
        self._protocol_version = connect.protocol_version
        self._keep_alive_seconds = connect.keep_alive_seconds * self._options.keep_alive_grace
        if not connect.client_id and not connect.clean_start:
            self._send(ConnAck(reason_code=ConnectReturnCode.IDENTIFIER_REJECTED), now)
            raise RemoteProtocolError(
                "empty client identifier without a clean session [MQTT-3.1.3-8]",
                ReasonCode.CLIENT_IDENTIFIER_NOT_VALID,
            )
        events.append(ConnectReceived(connect=connect))

    def _connack_received(self, connack: ConnAck, events: list[Event], now: float) -> None:
        assert isinstance(self._options, ClientOptions)  # noqa: S101 - for mypy: only a client gets a CONNACK
        if connack.reason_code:
            reason = ConnectionRefused(connack, self._protocol_version)
            events.append(self._terminate(reason, now, abort=True))
            return
        if connack.session_present and self._options.clean_start:
            raise RemoteProtocolError("session present after a clean start [MQTT-3.2.2-1]")
        self._state = State.CONNECTED
        self._deadline = None
        self._last_received = now
        for packet_id, entry in self._session.inflight.items():
            publish = entry.publish
            assert publish is not None  # noqa: S101 - only a kept session begins with something in flight
            entry.waits_for = FIRST_DELIVERY[publish.qos]
            encoded = encode_publish(
                encode_topic_name(publish.topic),
                publish.payload,
                publish.qos,
                publish.retain,
                connack.session_present,  # DUP [MQTT-3.3.1-1]
                packet_id,  # [MQTT-4.4.0-1]
            )
            self._reply(encoded, now)  # bounded by the window that it was let into
        events.append(Connected(connack=connack))

    def _acknowledgement_received(self, packet: PubAck | PubRec | PubRel | PubComp, events: list[Event]) -> None:
        entry = self._session.inflight.get(packet.packet_id)
        if entry is None or DELIVERIES.get((entry.waits_for, _PACKET_TYPES[type(packet)])) is not Delivery.DONE:
            self.ignored_acknowledgements += 1
            return
        del self._session.inflight[packet.packet_id]
        events.append(PublishAcknowledged(packet.packet_id, packet.reason_code, entry.context))

    def _answer_received(self, packet: SubAck | UnsubAck, events: list[Event]) -> None:
        request, context = self._pending.get(packet.packet_id, (None, None))
        if isinstance(packet, SubAck) and isinstance(request, Subscribe):
            codes = packet.reason_codes
            if len(codes) != len(request.filters):
                raise RemoteProtocolError("SUBACK with another number of codes than filters [MQTT-3.8.4-5]")
        elif isinstance(packet, UnsubAck) and isinstance(request, Unsubscribe):
            codes = (0,) * len(request.filters)
        else:
            self.ignored_acknowledgements += 1
            return
        del self._pending[packet.packet_id]
        events.append(SubscribeAcknowledged(packet_id=packet.packet_id, reason_codes=codes, context=context))

    # --- ending --------------------------------------------------------------------------------------------------

    def _breach(self, error: RemoteProtocolError, events: list[Event], now: float) -> None:
        """The peer broke the standard. A server says what it can, and that is little on 3.1.1."""
        said_something = False
        if self._role is Role.SERVER and self._state is State.OPENING:
            if error.reason_code == ReasonCode.UNSUPPORTED_PROTOCOL_VERSION:
                # [MQTT-3.1.2-2]; the code is that of 3.1.1, which every client can read.
                refusal = ConnAck(reason_code=ConnectReturnCode.UNACCEPTABLE_PROTOCOL_VERSION)
                self._reply(encode(refusal, 4), now)
                said_something = True
        elif self._state is State.CLOSED:
            said_something = True  # a CONNACK went out just now
        events.append(self._terminate(error, now, abort=not said_something))

    def _terminate(self, reason: MQTTError, now: float, *, abort: bool) -> Terminated:
        self._close(now)
        if abort:
            self._deadline = None
        return Terminated(reason=reason, abort=abort)

    def _close(self, now: float) -> None:
        self._state = State.CLOSED
        self._partial = bytearray()
        self._held = False
        self._deadline = now + self._options.close_timeout_seconds
