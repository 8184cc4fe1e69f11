"""What our side of a connection says: requests, answers, and the bytes that wait to be sent. See `connection`, whose
other half this is: there is what the peer says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from tbgw.mqtt.encoder import encode, encode_puback, encode_publish, encode_topic_name
from tbgw.mqtt.errors import (
    LocalProtocolError,
)
from tbgw.mqtt.events import (
    Event,
    PublishAcknowledged,
)
from tbgw.mqtt.exchanges import Exchanges
from tbgw.mqtt.limits import (
    IncomingAliases,
    OutgoingAliases,
    PeerLimits,
    without_problem_information,
)
from tbgw.mqtt.options import ClientOptions, ServerOptions
from tbgw.mqtt.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    PingReq,
    PingResp,
    Properties,
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
from tbgw.mqtt.properties import PropertyId, encode_properties
from tbgw.mqtt.reason_codes import ReasonCode
from tbgw.mqtt.session import InFlight, Session
from tbgw.mqtt.state import FIRST_DELIVERY, Move, Role, State, next_state
from tbgw.mqtt.timers import Timers

MAX_PENDING_REQUESTS: Final = 1000
"""SUBSCRIBE and UNSUBSCRIBE packets that may wait for their answer. A client has a handful of them; the cap keeps
packet ids free for the window."""

REPLY_HEADROOM_BYTES: Final = 256 * 1024
"""What answers (PUBACK, PINGRESP) may take above `max_unsent_bytes`, which the owner may fill by itself."""

MAX_HELD_BYTES: Final = 128 * 1024
"""Bytes put aside before CONNACK, beside one packet of the largest size: two reads of Twisted's 64 KiB."""

PACKET_TYPES: Final[dict[type, PacketType]] = {
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
    Auth: PacketType.AUTH,
}

_WITH_PROBLEM_INFORMATION: Final = (PacketType.CONNACK, PacketType.DISCONNECT)
"""Answers that may bear reason string and user properties even when the client asked for none (section
3.1.2.11.7)."""


def _move_of(packet: Packet) -> PacketType | Move:
    if isinstance(packet, ConnAck):
        return Move.CONNACK_REFUSED if packet.reason_code else Move.CONNACK_ACCEPTED
    return PACKET_TYPES[type(packet)]


class Outgoing:
    """State and voice of one connection, in the role that its options belong to."""

    def __init__(self, options: ClientOptions | ServerOptions, session: Session | None = None) -> None:
        self._options = options
        self._role = Role.CLIENT if isinstance(options, ClientOptions) else Role.SERVER
        self._state = State.OPENING
        self._protocol_version: int = options.protocol_version if isinstance(options, ClientOptions) else 4
        self._allow_packet_id_zero = isinstance(options, ClientOptions) and options.tolerate_packet_id_zero
        self._max_packet_bytes = options.max_packet_bytes
        self._max_unsent_bytes = options.max_unsent_bytes
        self._session_expiry_seconds = options.session_expiry_seconds if isinstance(options, ClientOptions) else 0
        # What the peer takes, known after the handshake.
        self._limits = PeerLimits()
        self._window = options.max_inflight
        self._outgoing_aliases: OutgoingAliases | None = None
        self._incoming_aliases = IncomingAliases(options.limits().get(PropertyId.TOPIC_ALIAS_MAXIMUM, 0))
        # Messages.
        self._attached = False
        self._kept = False
        self._use(session)
        # Incoming: the beginning of a packet whose rest has not come, and how much of it must be there.
        self._partial = bytearray()
        self._wanted_bytes = 0
        self._held = False
        # Outgoing.
        self._out: list[bytes] = []
        self._out_bytes = 0
        # Requests of ours that wait for SUBACK or UNSUBACK: the packet and the context.
        self._pending: dict[int, tuple[Subscribe | Unsubscribe, Any]] = {}
        self._timers = Timers(is_server=self._role is Role.SERVER)

    # --- what can be asked -------------------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        """Which end this is."""
        return self._role

    @property
    def state(self) -> State:
        """Where the connection is."""
        return self._state

    @property
    def protocol_version(self) -> int:
        """4 or 5; a server knows it from the CONNECT."""
        return self._protocol_version

    @property
    def peer_limits(self) -> PeerLimits:
        """What the peer said it takes; known after the handshake."""
        return self._limits

    @property
    def window(self) -> int:
        """How many publishes of ours may be unacknowledged: our own limit or the peer's, whichever is less."""
        return self._window

    @property
    def last_received_seconds(self) -> float:
        """When something came last; at a server a whole packet."""
        return self._timers.last_received

    @property
    def ignored_acknowledgements(self) -> int:
        """How many acknowledgements came for ids that were not in flight."""
        return self._exchanges.ignored

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
        return self._timers.due(connected=self._state is State.CONNECTED)

    # --- requests of either role -------------------------------------------------------------------------------------

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
        properties: Properties | None = None,
    ) -> int | None:
        """
        Send a message; returns its packet id, None for QoS 0. QoS 1 and 2 are answered by `PublishAcknowledged` with
        `context`. `packet_id` forces an id, 0 too, which only somebody who tests a client should want. `properties`
        are those of MQTT 5 without TOPIC_ALIAS, which is ours to use. Raises LocalProtocolError: not connected, window
        full, too much unsent, illegal topic, id in use, more than the peer takes.
        """
        # A table look-up saved: in CONNECTED both sides may always publish, and nowhere else.
        if self._state is not State.CONNECTED:
            raise LocalProtocolError(f"cannot publish: the connection is {self._state.value}")
        if qos:
            if qos not in FIRST_DELIVERY:
                raise LocalProtocolError(f"QoS must be 0, 1 or 2, not {qos} [MQTT-3.3.1-4]")
            inflight = self._session.inflight
            if len(inflight) >= self._window:
                raise LocalProtocolError(f"the in-flight window of {self._window} is full")
            if packet_id is None:
                packet_id = self._session.next_packet_id(self._pending)
            elif packet_id in inflight or packet_id in self._pending:
                raise LocalProtocolError(f"packet id {packet_id} is in use [MQTT-2.3.1-2]")
        elif dup:
            raise LocalProtocolError("a PUBLISH with QoS 0 cannot be a duplicate [MQTT-3.3.1-2]")
        else:
            packet_id = None
        if self._protocol_version < 5:
            if properties:
                raise LocalProtocolError("properties do not exist on MQTT 3.1.1")
            self._queue(encode_publish(encode_topic_name(topic), payload, qos, retain, dup, packet_id))
        else:
            self._queue_publish(topic, payload, qos, retain, dup, packet_id, properties)
        self._timers.last_sent = now
        if not qos:
            return None
        assert packet_id is not None  # noqa: S101 - for mypy: given out above
        kept = None
        if self._kept:
            kept = Publish(
                topic=topic,
                payload=payload,
                qos=qos,
                retain=retain,
                dup=dup,
                packet_id=packet_id,
                properties=properties,
            )
        inflight[packet_id] = InFlight(FIRST_DELIVERY[qos], context, kept)
        return packet_id

    def _queue_publish(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        retain: bool,
        dup: bool,
        packet_id: int | None,
        properties: Properties | None,
    ) -> None:
        """The way of MQTT 5: what the peer takes, and the topic alias."""
        fault = self._limits.publish_fault(qos, retain)
        if fault is not None:
            raise LocalProtocolError(fault[0])
        if properties and self._role is Role.CLIENT and PropertyId.SUBSCRIPTION_IDENTIFIER in properties:
            raise LocalProtocolError("a client's PUBLISH has no SUBSCRIPTION_IDENTIFIER [MQTT-3.3.4-6]")
        if properties and PropertyId.TOPIC_ALIAS in properties:
            raise LocalProtocolError("topic aliases are given out by the connection, see max_outgoing_topic_aliases")
        name = encode_topic_name(topic)
        aliases = self._outgoing_aliases
        new_alias = None
        if aliases is not None:
            alias = aliases.known(topic)
            if alias is not None:
                name = b"\x00\x00"
            else:
                alias = new_alias = aliases.free()
            if alias is not None:
                properties = {**(properties or {}), PropertyId.TOPIC_ALIAS: alias}
        raw_properties = encode_properties(properties, PacketType.PUBLISH) if properties else b"\x00"
        encoded = encode_publish(name, payload, qos, retain, dup, packet_id, raw_properties)
        self._check_size(encoded)
        self._queue(encoded)
        if aliases is not None and new_alias is not None:
            aliases.sent(topic, new_alias)

    def _check_size(self, encoded: bytes) -> None:
        if len(encoded) > self._limits.max_packet_bytes:
            raise LocalProtocolError(
                f"packet of {len(encoded)} bytes, the peer takes {self._limits.max_packet_bytes} [MQTT-3.1.2-24]"
            )

    def acknowledge(
        self, publish: Publish, now: float, reason_code: int = 0, properties: Properties | None = None
    ) -> None:
        """
        Say that a received message was taken over, or on MQTT 5 with a code of 0x80 and above that it was refused;
        nothing for QoS 0. For QoS 1 it may be said more than once, as ThingsBoard does. `properties` are a
        REASON_STRING and USER_PROPERTY, which are left out when the peer does not want them or they are too long.
        Raises LocalProtocolError for what this version cannot carry.
        """
        if publish.packet_id is None or self._state is not State.CONNECTED:
            return
        if not reason_code and not properties and publish.qos == 1 and not self._counts:
            self._reply(encode_puback(publish.packet_id), now)
            return
        # Spelt before anything is written down, so that an unsayable one changes nothing.
        probe = (PubAck if publish.qos == 1 else PubRec)(
            packet_id=publish.packet_id, reason_code=reason_code, properties=properties
        )
        encoded = self._encode_answer(probe)
        if self._exchanges.acknowledged(publish, reason_code) is not None:
            self._reply(encoded, now)

    def disconnect(self, now: float, reason_code: int = 0, properties: Properties | None = None) -> None:
        """
        Our end of the connection: DISCONNECT where it may be said, on 3.1.1 by a client only and without a code. Sends
        no event; close in good order. Raises LocalProtocolError for illegal properties.
        """
        if self._state is State.CLOSED:
            return
        expiry = (properties or {}).get(PropertyId.SESSION_EXPIRY_INTERVAL)
        if expiry is not None and (self._role is Role.SERVER or (expiry and not self._session_expiry_seconds)):
            raise LocalProtocolError("this DISCONNECT may not set the session expiry (section 3.14.2.2.2)")
        farewell = Disconnect()
        if self._protocol_version >= 5:
            farewell = Disconnect(reason_code=reason_code, properties=properties)
        self._say_goodbye(farewell, now)
        self._close(now)

    def data_to_send(self) -> bytes:
        """The bytes for the transport, which are forgotten here."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._out_bytes = 0
        return data

    # --- requests of a client ----------------------------------------------------------------------------------------

    def subscribe(
        self,
        filters: Sequence[tuple[str, int] | Subscription],
        *,
        now: float,
        context: Any = None,
        properties: Properties | None = None,
    ) -> int:
        """
        Ask for messages: (topic filter, QoS) pairs, or a `Subscription` where the options of MQTT 5 are wanted.
        Answered by `SubscribeAcknowledged`. Returns the packet id. Raises LocalProtocolError: not connected, not a
        client, an illegal filter or QoS, too much at once, something that the server said it has not.
        """
        subscriptions = tuple(
            each if isinstance(each, Subscription) else Subscription(topic_filter=each[0], qos=each[1])
            for each in filters
        )
        identified = bool(properties) and PropertyId.SUBSCRIPTION_IDENTIFIER in (properties or {})
        self._limits.check_subscriptions(subscriptions, identified)
        packet_id = self._session.next_packet_id(self._pending)
        packet = Subscribe(packet_id=packet_id, filters=subscriptions, properties=properties)
        return self._request(packet, packet_id, context, now)

    def unsubscribe(
        self, filters: Sequence[str], *, now: float, context: Any = None, properties: Properties | None = None
    ) -> int:
        """The reverse of `subscribe`, with the same event and the same errors."""
        packet_id = self._session.next_packet_id(self._pending)
        packet = Unsubscribe(packet_id=packet_id, filters=tuple(filters), properties=properties)
        return self._request(packet, packet_id, context, now)

    def _request(self, packet: Subscribe | Unsubscribe, packet_id: int, context: Any, now: float) -> int:
        if len(self._pending) >= MAX_PENDING_REQUESTS:
            raise LocalProtocolError(f"{MAX_PENDING_REQUESTS} requests wait for their answer")
        self._send(packet, now, limited=True)
        self._pending[packet_id] = (packet, context)
        return packet_id

    # --- answers of a server -----------------------------------------------------------------------------------------

    def accept(
        self,
        now: float,
        *,
        session_present: bool = False,
        properties: Properties | None = None,
        session: Session | None = None,
    ) -> list[Event]:
        """
        Let the client in. Then read on, if `has_held_bytes`. On MQTT 5 the CONNACK tells our limits, and `properties`
        beside them, which win. A kept `session` is sent again from. Returns the events of messages that turn out to be
        done. Raises LocalProtocolError for illegal properties or a session in use.
        """
        if self._state is State.CLOSED:
            return []
        told: dict[int, Any] | None = None
        if self._protocol_version >= 5:
            told = {**self._options.limits(), **(properties or {})} or None
        elif properties:
            raise LocalProtocolError("properties do not exist on MQTT 3.1.1")
        connack = ConnAck(session_present=session_present, properties=told)
        if self._allowed(self._role, connack) is not None and session is not None:
            encode(connack, self._protocol_version)
            session.attach()
            self._attached = True
            self._use(session)
        self._send(connack, now)
        keep_alive_seconds = (told or {}).get(PropertyId.SERVER_KEEP_ALIVE)
        if keep_alive_seconds is not None:
            assert isinstance(self._options, ServerOptions)  # noqa: S101 - for mypy: only a server accepts
            self._timers.keep_alive_seconds = keep_alive_seconds * self._options.keep_alive_grace
        self._timers.deadline = None
        self._timers.last_received = now
        events: list[Event] = []
        self._resume(session_present, events, now)
        return events

    def refuse(self, return_code: int, now: float, properties: Properties | None = None) -> None:
        """Do not let the client in; close in good order. The code is one of the client's version."""
        if not return_code:
            raise LocalProtocolError("return code 0 refuses nothing")
        if self._state is not State.CLOSED:
            self._send(ConnAck(reason_code=return_code, properties=properties), now)
            self._close(now)

    def acknowledge_subscribe(
        self, subscribe: Subscribe, reason_codes: Sequence[int], now: float, properties: Properties | None = None
    ) -> None:
        """One code for each filter, in order."""
        if self._state is State.CLOSED:
            return
        if len(reason_codes) != len(subscribe.filters):
            raise LocalProtocolError("a SUBACK has one code for each filter [MQTT-3.8.4-5]")
        packet = SubAck(packet_id=subscribe.packet_id, reason_codes=tuple(reason_codes), properties=properties)
        self._send(packet, now)

    def acknowledge_unsubscribe(
        self, unsubscribe: Unsubscribe, reason_codes: Sequence[int], now: float, properties: Properties | None = None
    ) -> None:
        """One code for each filter, in order; MQTT 3.1.1 does not transmit them."""
        if self._state is State.CLOSED:
            return
        if len(reason_codes) != len(unsubscribe.filters):
            raise LocalProtocolError("an UNSUBACK has one code for each filter")
        codes = tuple(reason_codes) if self._protocol_version >= 5 else ()
        self._send(UnsubAck(packet_id=unsubscribe.packet_id, reason_codes=codes, properties=properties), now)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _use(self, session: Session | None) -> None:
        self._kept = session is not None
        self._session = Session() if session is None else session
        limited = self._protocol_version >= 5 and PropertyId.RECEIVE_MAXIMUM in self._options.limits()
        self._exchanges = Exchanges(
            self._session,
            protocol_version=self._protocol_version,
            receive_maximum=self._options.receive_maximum if limited else None,
        )
        self._counts = self._exchanges.counts
        self._resent_as_dup = False

    def _peer_told(self, limits: PeerLimits) -> None:
        self._limits = limits
        self._window = min(self._options.max_inflight, limits.receive_maximum)
        aliases = min(self._options.max_outgoing_topic_aliases, limits.topic_alias_maximum)
        self._outgoing_aliases = OutgoingAliases(aliases) if aliases else None

    def _resume(self, session_present: bool, events: list[Event], now: float) -> None:
        for step in self._exchanges.resume(session_present=session_present):
            if isinstance(step, PubRel):
                self._reply(self._encode_answer(step), now)
            else:
                events.append(step)
        # DUP only for a peer that may know the message [MQTT-3.3.1-1].
        self._resent_as_dup = session_present
        self._resend(events, now)

    def _resend(self, events: list[Event], now: float) -> None:
        """Send again what the window lets through, in order [MQTT-4.4.0-1]; it is bounded by the window."""
        while (resent := self._exchanges.next_resent(self._window)) is not None:
            packet_id, entry = resent
            publish = entry.publish
            assert publish is not None  # noqa: S101 - see Exchanges.resume
            properties = publish.properties if self._protocol_version >= 5 else None
            fault = self._limits.publish_fault(publish.qos, publish.retain)
            encoded = encode(replace(publish, dup=self._resent_as_dup, properties=properties), self._protocol_version)
            if fault is None and len(encoded) <= self._limits.max_packet_bytes:
                self._reply(encoded, now)
                continue
            # This server takes less than the one that the message was meant for.
            del self._session.inflight[packet_id]
            code = ReasonCode.PACKET_TOO_LARGE if fault is None else fault[1]
            events.append(PublishAcknowledged(packet_id, code, entry.context))

    def _allowed(self, sender: Role, packet: Packet) -> State | None:
        return next_state(self._state, sender, _move_of(packet), self._protocol_version)

    def _say_goodbye(self, farewell: Disconnect, now: float) -> bool:
        """Whether DISCONNECT could be said."""
        if self._allowed(self._role, farewell) is None:
            return False
        self._send(farewell, now)
        return True

    def _send(self, packet: Packet, now: float, *, limited: bool = False) -> None:
        following = self._allowed(self._role, packet)
        if following is None:
            name = type(packet).__name__.upper()
            raise LocalProtocolError(f"a {self._role.value} cannot send {name}: the connection is {self._state.value}")
        encoded = self._encode_answer(packet)
        if limited:
            self._queue(encoded)
        else:
            self._reply(encoded, now)
        self._timers.last_sent = now
        self._state = following

    def _encode_answer(self, packet: Packet) -> bytes:
        """The bytes, without reason string and user properties where the client wants none or they are too much."""
        if self._protocol_version < 5 or isinstance(packet, PingReq | PingResp):
            return encode(packet, self._protocol_version)
        if (
            packet.properties
            and not self._limits.problem_information
            and self._role is Role.SERVER
            and PACKET_TYPES.get(type(packet), PacketType.CONNACK) not in _WITH_PROBLEM_INFORMATION
        ):
            packet = replace(packet, properties=without_problem_information(packet.properties))
        encoded = encode(packet, self._protocol_version)
        if packet.properties and len(encoded) > self._limits.max_packet_bytes:
            packet = replace(packet, properties=without_problem_information(packet.properties))
            encoded = encode(packet, self._protocol_version)
        self._check_size(encoded)
        return encoded

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
        self._timers.last_sent = now

    def _close(self, now: float) -> None:
        self._state = State.CLOSED
        self._detach()  # nothing of it is touched any more: the next connection may have it at once
        self._partial = bytearray()
        self._held = False
        self._timers.deadline = now + self._options.close_timeout_seconds

    def _detach(self) -> None:
        if self._attached:
            self._session.detach()
            self._attached = False
