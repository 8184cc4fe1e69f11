"""One MQTT connection without input or output: bytes in, events out, bytes to send, and a moment to be woken.

The owner calls `opened` when the transport is there, `receive_data` for what it brings, `handle_timer` when
`next_timer` is reached and `connection_lost` at the end; after each of these, and after each request, it sends what
`data_to_send` gives. Time is always an argument, in seconds of any steady clock.

Invariants:
* Every packet, sent or received, is a legal move of `state.TRANSITIONS`. A move of ours that is not raises
  LocalProtocolError and sends nothing; one of the peer's ends the connection.
* `receive_data` never raises. A breach ends its list with `Terminated`, after the events of what came before it; on
  MQTT 5 the peer is told the reason code, in a CONNACK or a DISCONNECT.
* A packet id is not given out again while it is in flight, and the ids of the two directions never meet: the peer's
  are only ever echoed.
* An acknowledgement for an id that is not in flight is counted in `ignored_acknowledgements` and otherwise ignored:
  ThingsBoard up to 4.2 sends one PUBACK for every device in a message.
* No buffer grows without limit: incoming bytes by the packet cap, outgoing by `max_unsent_bytes`, messages by the
  window, aliases by their tables. A peer that goes on sending while it does not read the answers is cut off.
* Acknowledgements and answers that come too late, after the connection ended, are dropped in silence: the end is not
  the fault of who answers. A new request then is a LocalProtocolError.

Sessions: with a kept `Session`, after CONNACK the unacknowledged publishes are sent again in their order and under
their ids, with DUP if the peer says it still has the session and as new ones if not. See `exchanges` for QoS 2.

Between CONNECT and its own CONNACK a server reads nothing on [MQTT-3.1.4-5]; what arrives is put aside and read after
`accept`, when the owner calls `receive_data` with no bytes because `has_held_bytes` is true.

Considered and dropped: retransmission by timer on a live connection, which [MQTT-4.4.0-1] does not ask for and MQTT 5
forbids; tracking incoming QoS 1 ids, which protects nothing, as a receiver may meet an id again at any time; enhanced
authentication, which nothing here needs: a CONNECT with a method is refused with 0x8C, an AUTH is a protocol error.
"""

from __future__ import annotations

from typing import Any, Final

from tbgw.mqtt.decoder import decode
from tbgw.mqtt.encoder import encode
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
from tbgw.mqtt.limits import LEAST_PACKET_BYTES, PeerLimits
from tbgw.mqtt.options import ClientOptions, ServerOptions
from tbgw.mqtt.outgoing import MAX_HELD_BYTES, REPLY_HEADROOM_BYTES, Outgoing
from tbgw.mqtt.packets import (
    Auth,
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
    UnsubAck,
    Unsubscribe,
)
from tbgw.mqtt.properties import PropertyId
from tbgw.mqtt.reason_codes import ConnectReturnCode, ReasonCode
from tbgw.mqtt.state import Delivery, Role, State
from tbgw.mqtt.wire import REASON_CODES

_PUBACK_CODES: Final = REASON_CODES[PacketType.PUBACK]


class Connection(Outgoing):
    """One connection, in the role that its options belong to. See the module for its rules."""

    # --- the owner's calls -------------------------------------------------------------------------------------------

    def opened(self, now: float) -> None:
        """The transport is there. A client says CONNECT. Raises LocalProtocolError when the session is in use."""
        if self._state is not State.OPENING or self._timers.deadline is not None:
            raise LocalProtocolError("the connection was opened before")
        if isinstance(self._options, ClientOptions):
            self._session.attach()
            self._attached = True
            self._timers.keep_alive_seconds = self._options.keep_alive_seconds
            self._send(self._options.connect_packet(), now)
        self._timers.deadline = now + self._options.connect_timeout_seconds

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
            self._timers.deadline = None
            return [CloseTimedOut()]
        reason: MQTTError
        if self._state is not State.CONNECTED:
            missing = "CONNACK" if self._role is Role.CLIENT or self._state is State.CONNECTING else "CONNECT"
            reason = ConnectTimeout(f"no {missing} within {self._options.connect_timeout_seconds} s")
        elif self._role is Role.SERVER:
            reason = KeepAliveTimeout(f"nothing came for {self._timers.keep_alive_seconds:g} s [MQTT-3.1.2-24]")
            said = self._say_goodbye(Disconnect(reason_code=ReasonCode.KEEP_ALIVE_TIMEOUT), now)
            return [self._terminate(reason, now, abort=not said)]
        elif self._timers.ping_deadline is not None:
            reason = KeepAliveTimeout("no answer to PINGREQ")
        else:
            assert isinstance(self._options, ClientOptions)  # noqa: S101 - for mypy: this role has these options
            self._send(PingReq(), now)
            self._timers.ping_deadline = now + self._options.ping_timeout_seconds
            return []
        return [self._terminate(reason, now, abort=True)]

    def connection_lost(self) -> list[Any]:
        """The transport is gone. Returns the contexts that will never be answered, in the order of the requests."""
        self._state = State.CLOSED
        self._timers.deadline = None
        self._partial = bytearray()
        self._out.clear()
        self._out_bytes = 0
        self._detach()
        contexts = [] if self._kept else self._session.abandon()
        contexts += [context for _, context in self._pending.values()]
        self._pending.clear()
        return contexts

    # --- receiving ---------------------------------------------------------------------------------------------------

    def _read(self, data: bytes, events: list[Event], now: float) -> None:
        if self._role is Role.CLIENT:
            # Any byte shows that the server lives. A server counts whole packets, see below.
            self._timers.last_received = now
            self._timers.ping_deadline = None
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
        exchanges = self._exchanges
        while position < end:
            if data[position] == 0x40 and end - position >= 4 and self._state is State.CONNECTED:
                # The fast way for a PUBACK, legal for both roles in CONNECTED: the commonest packet of an uplink.
                length = data[position + 1]
                code = -1
                if length == 2:
                    code = 0
                elif length == 3 and self._protocol_version >= 5 and end - position >= 5:
                    code = data[position + 4]
                if code in _PUBACK_CODES:
                    packet_id = data[position + 2] << 8 | data[position + 3]
                    position += 2 + length
                    entry = inflight.get(packet_id)
                    if entry is not None and entry.waits_for is Delivery.WAIT_PUBACK and not exchanges.resending:
                        del inflight[packet_id]
                        events.append(PublishAcknowledged(packet_id, code, entry.context))
                    else:
                        puback = PubAck(packet_id=packet_id, reason_code=code)
                        self._acknowledgement_received(puback, events, now)
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
                self._publish_received(packet, events, now)
            else:
                self._packet_received(packet, events, now)
                if self._state is State.CLOSED:
                    return
                if self._state is State.CONNECTING and self._role is Role.SERVER:
                    self._held = position < end
                    break
        if position:
            self._timers.last_received = now
        if position < end:
            self._partial += data[position:] if position else data
            if self._held:
                self._check_held_bytes()

    def _check_held_bytes(self) -> None:
        if len(self._partial) > self._max_packet_bytes + MAX_HELD_BYTES:
            raise RemoteProtocolError("too much was sent before CONNACK", ReasonCode.QUOTA_EXCEEDED)

    def _publish_received(self, publish: Publish, events: list[Event], now: float) -> None:
        if publish.properties is not None:
            if self._role is Role.SERVER and PropertyId.SUBSCRIPTION_IDENTIFIER in publish.properties:
                raise RemoteProtocolError("PUBLISH from a client with a SUBSCRIPTION_IDENTIFIER [MQTT-3.3.4-6]")
            publish = self._incoming_aliases.resolve(publish)
        if publish.qos == 2 or (self._counts and publish.qos):
            new, reply = self._exchanges.arrived(publish)
            if reply is not None:
                self._reply(self._encode_answer(reply), now)
            if not new:
                return
        events.append(PublishReceived(publish))

    def _packet_received(self, packet: Packet, events: list[Event], now: float) -> None:
        if self._allowed(self._role.peer, packet) is None:
            raise self._illegal(packet)
        if isinstance(packet, Connect):
            self._connect_received(packet, events, now)
        elif isinstance(packet, ConnAck):
            self._connack_received(packet, events, now)
        elif isinstance(packet, PubRel):
            self._reply(self._encode_answer(self._exchanges.released(packet)), now)
        elif isinstance(packet, PubAck | PubRec | PubComp):
            self._acknowledgement_received(packet, events, now)
        elif isinstance(packet, SubAck | UnsubAck):
            self._answer_received(packet, events)
        elif isinstance(packet, Subscribe):
            self._check_answer_fits(len(packet.filters))
            events.append(SubscribeReceived(subscribe=packet))
        elif isinstance(packet, Unsubscribe):
            self._check_answer_fits(len(packet.filters))
            events.append(UnsubscribeReceived(unsubscribe=packet))
        elif isinstance(packet, PingReq):
            self._send(PingResp(), now)
        elif isinstance(packet, Auth):
            raise RemoteProtocolError("AUTH without an authentication method in CONNECT [MQTT-4.12.0-6]")
        elif isinstance(packet, Disconnect):
            self._check_disconnect(packet)
            said = ClientDisconnected if self._role is Role.SERVER else ServerDisconnected
            events.append(self._terminate(said(packet), now, abort=False))

    def _check_answer_fits(self, codes: int) -> None:
        if codes + LEAST_PACKET_BYTES > self._limits.max_packet_bytes:
            raise RemoteProtocolError(
                f"the answer to {codes} topic filters would be larger than the client takes [MQTT-3.1.2-24]",
                ReasonCode.PACKET_TOO_LARGE,
            )

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
        if connect.protocol_version not in self._options.protocol_versions:
            raise RemoteProtocolError(
                f"CONNECT with protocol level {connect.protocol_version} [MQTT-3.1.2-2]",
                ReasonCode.UNSUPPORTED_PROTOCOL_VERSION,
            )
        self._state = State.CONNECTING
        self._protocol_version = connect.protocol_version
        self._timers.keep_alive_seconds = connect.keep_alive_seconds * self._options.keep_alive_grace
        properties = connect.properties or {}
        self._session_expiry_seconds = properties.get(PropertyId.SESSION_EXPIRY_INTERVAL, 0)
        self._peer_told(PeerLimits.of(connect))
        self._use(None)
        if PropertyId.AUTHENTICATION_METHOD in properties:
            self._send(ConnAck(reason_code=ReasonCode.BAD_AUTHENTICATION_METHOD), now)
            raise RemoteProtocolError(
                "enhanced authentication is not supported [MQTT-4.12.0-1]", ReasonCode.BAD_AUTHENTICATION_METHOD
            )
        if not connect.client_id and not connect.clean_start and connect.protocol_version < 5:
            self._send(ConnAck(reason_code=ConnectReturnCode.IDENTIFIER_REJECTED), now)
            raise RemoteProtocolError(
                "empty client identifier without a clean session [MQTT-3.1.3-8]",
                ReasonCode.CLIENT_IDENTIFIER_NOT_VALID,
            )
        events.append(ConnectReceived(connect=connect))

    def _connack_received(self, connack: ConnAck, events: list[Event], now: float) -> None:
        assert isinstance(self._options, ClientOptions)  # noqa: S101 - for mypy: only a client gets a CONNACK
        if connack.reason_code:
            # A server that knows no MQTT 5 answers with a code of its own version.
            version = 4 if connack.reason_code < 6 else self._protocol_version
            reason = ConnectionRefused(connack, version)
            events.append(self._terminate(reason, now, abort=True))
            return
        if connack.session_present and self._options.clean_start:
            raise RemoteProtocolError("session present after a clean start [MQTT-3.2.2-1]")
        self._state = State.CONNECTED
        self._timers.deadline = None
        self._timers.last_received = now
        properties = connack.properties
        if properties:
            keep_alive_seconds = properties.get(PropertyId.SERVER_KEEP_ALIVE)
            if keep_alive_seconds is not None:  # [MQTT-3.1.2-21]
                self._timers.keep_alive_seconds = keep_alive_seconds
            self._session_expiry_seconds = properties.get(
                PropertyId.SESSION_EXPIRY_INTERVAL, self._session_expiry_seconds
            )
            self._peer_told(PeerLimits.of(connack))
        self._resume(connack.session_present, events, now)
        events.append(Connected(connack=connack))

    def _acknowledgement_received(self, packet: PubAck | PubRec | PubComp, events: list[Event], now: float) -> None:
        reply, event = self._exchanges.answered(packet)
        if reply is not None:
            self._reply(self._encode_answer(reply), now)
        if event is not None:
            events.append(event)
            if self._exchanges.resending:
                self._resend(events, now)

    def _check_disconnect(self, packet: Disconnect) -> None:
        expiry = (packet.properties or {}).get(PropertyId.SESSION_EXPIRY_INTERVAL)
        if expiry is None:
            return
        if self._role is Role.CLIENT:
            raise RemoteProtocolError("DISCONNECT from a server with a session expiry [MQTT-3.14.2-2]")
        if expiry and not self._session_expiry_seconds:
            raise RemoteProtocolError("DISCONNECT prolongs a session that was to expire at once (section 3.14.2.2.2)")

    def _answer_received(self, packet: SubAck | UnsubAck, events: list[Event]) -> None:
        request, context = self._pending.get(packet.packet_id, (None, None))
        if isinstance(packet, SubAck) and isinstance(request, Subscribe):
            codes = packet.reason_codes
            if len(codes) != len(request.filters):
                raise RemoteProtocolError("SUBACK with another number of codes than filters [MQTT-3.8.4-5]")
        elif isinstance(packet, UnsubAck) and isinstance(request, Unsubscribe):
            codes = packet.reason_codes or (0,) * len(request.filters)
            if len(codes) != len(request.filters):
                raise RemoteProtocolError("UNSUBACK with another number of codes than filters [MQTT-3.11.3-1]")
        else:
            self._exchanges.ignored += 1
            return
        del self._pending[packet.packet_id]
        events.append(SubscribeAcknowledged(packet_id=packet.packet_id, reason_codes=codes, context=context))

    # --- ending ------------------------------------------------------------------------------------------------------

    def _breach(self, error: RemoteProtocolError, events: list[Event], now: float) -> None:
        """The peer broke the standard. Say what can be said; on 3.1.1 that is little."""
        said = True  # if CLOSED, a CONNACK went out just now
        if self._out_bytes > self._max_unsent_bytes + REPLY_HEADROOM_BYTES:
            said = False  # it does not read
        elif self._state is not State.CLOSED:
            said = self._say_why(error, now)
        events.append(self._terminate(error, now, abort=not said))

    def _say_why(self, error: RemoteProtocolError, now: float) -> bool:
        if self._role is Role.SERVER and self._state is not State.CONNECTED:
            refusal = ConnAck(reason_code=error.reason_code)
            if error.reason_code == ReasonCode.UNSUPPORTED_PROTOCOL_VERSION:
                # [MQTT-3.1.2-2]; the code is that of 3.1.1, which every client can read.
                refusal = ConnAck(reason_code=ConnectReturnCode.UNACCEPTABLE_PROTOCOL_VERSION)
                self._reply(encode(refusal, 4), now)
            elif error.connect_version == 5 or (self._state is State.CONNECTING and self._protocol_version >= 5):
                self._reply(encode(refusal, 5), now)
            else:
                return False
            return True
        return self._protocol_version >= 5 and self._say_goodbye(Disconnect(reason_code=error.reason_code), now)

    def _terminate(self, reason: MQTTError, now: float, *, abort: bool) -> Terminated:
        self._close(now)
        if abort:
            self._timers.deadline = None
        return Terminated(reason=reason, abort=abort)
