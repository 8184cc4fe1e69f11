"""One station's WebSocket: Autobahn's protocol between the socket and a `Session`.

Autobahn reads the handshake and the frames. What is done here in its place, and why (spec twisted-stack, 3):

- Its settings are attributes of a class made per listener, so that a connection carries none of them; and when the
  handshake is over, a connection drops everything that only the handshake needed. A plain station costs some 8 KiB.
- A frame that is a whole short text message, which nearly all are, is unmasked and decoded here in a few lines. All
  else (fragments, compression, control frames, errors) goes Autobahn's way.
- Its log lines are off: strangers can cause them. What is worth telling goes to the factory's `notice`.
- The request's head is bounded, its target is read by `handshake`, refusals bear their headers.
- Data that comes while `admit` is thinking is kept back: Autobahn would take it for a second request.
- One reading rule: nothing is read from a station while too many of its Calls are unanswered, while it does not read
  what we send, or while the owner has no room.

Deflate: with no context kept in either direction the zlib objects are let go after each message, and short answers are
sent uncompressed, which the extension allows. A connection that could compress costs next to nothing until it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn, cast

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.util import wildcards2patterns
from autobahn.websocket.compress_deflate import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.protocol import WebSocketProtocol
from autobahn.websocket.types import ConnectionDeny
from autobahn.websocket.xormasker import create_xor_masker  # type: ignore[attr-defined] # re-exported from C or Python
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IPushProducer, ISSLTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.ocpp.errors import CallFailed, CallRefused, StationGone, StationReplaced
from tbgw.ocpp.handshake import choose_version, read_target, real_peer
from tbgw.ocpp.interfaces import Admission, Handshake, Refusal
from tbgw.ocpp.notices import Notice
from tbgw.ocpp.options import CentralSystemOptions
from tbgw.ocpp.session import CallArrived, CallEnded, Event, Ignored, IncomingCall, SendArrived, Session
from tbgw.ocpp.station import Station
from tbgw.ocpp.versions import Version

_log = Logger(namespace="tbgw.ocpp")

_CONNECTING = WebSocketProtocol.STATE_CONNECTING
_OPEN = WebSocketProtocol.STATE_OPEN
_CLOSING = WebSocketProtocol.STATE_CLOSING
_CLOSED = WebSocketProtocol.STATE_CLOSED

# Why nothing is read from a station at the moment.
_UNANSWERED = 1
_NOT_READING = 2
_OWNER = 4

MAX_MISSED_PINGS = 2
COMPRESS_FROM_BYTES = 512
"""Shorter messages go out uncompressed."""

MAX_CLOSE_REASON_BYTES = 123

FULL_RETRY_SECONDS = 30
"""After how long to come again when all places are taken."""

_REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    426: "Upgrade Required",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
_HEADERS = {
    401: {"WWW-Authenticate": 'Basic realm="OCPP"'},
    405: {"Allow": "GET"},
    426: {"Upgrade": "websocket"},
    503: {"Retry-After": "10"},
}


class _Silent:
    """In place of Autobahn's logger."""

    def debug(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    trace = info = warn = error = critical = failure = debug


class _Nobody:
    """In place of the two Deferreds of each connection that nobody waits for, and of its statistics."""

    incomingOctetsWireLevel = outgoingOctetsWireLevel = 0
    incomingOctetsWebSocketLevel = outgoingOctetsWebSocketLevel = 0
    incomingOctetsAppLevel = outgoingOctetsAppLevel = 0
    incomingWebSocketFrames = outgoingWebSocketFrames = 0
    incomingWebSocketMessages = outgoingWebSocketMessages = 0
    preopenIncomingOctetsWireLevel = preopenOutgoingOctetsWireLevel = 0

    def callback(self, _: Any) -> None:
        """Nothing."""


_NOBODY = _Nobody()

_KEPT = frozenset(
    {
        "transport",
        "factory",
        "connected",
        "state",
        "data",
        "send_state",
        "utf8validator",
        "inside_message",
        "current_frame",
        "_perMessageCompress",
        "websocket_version",
        "_heard",
        "_path",
        "_peer",
        "_session",
        "_station",
        "slot",
        "_held",
        "_is_registered",
    }
)
"""What an open connection still needs of what the handshake has left on it; the rest falls back to the class."""


@implementer(IPushProducer)
class StationProtocol(WebSocketServerProtocol):
    """Made by `CentralSystemFactory`, through a child of it that `protocol_class` makes."""

    log: Any = _Silent()
    peer = ""

    # Autobahn's settings. It copies to each instance what the class does not have, by this list.
    CONFIG_ATTRS: list[str] = []  # noqa: RUF012 - read by Autobahn, never written
    logOctets = logFrames = trackTimings = False
    utf8validateIncoming = applyMask = tcpNoDelay = requireMaskedClientFrames = True
    maskServerFrames = echoCloseCodeReason = serveFlashSocketPolicy = webStatus = failByDrop = False
    autoFragmentSize = autoPingInterval = autoPingTimeout = maxConnections = trustXForwardedFor = 0
    autoPingRestartOnAnyTraffic = False
    flashSocketPolicy = ""
    versions = (13,)
    allowedOriginsPatterns = wildcards2patterns(["*"])
    maxFramePayloadSize = maxMessagePayloadSize = 0
    openHandshakeTimeout = closeHandshakeTimeout = 0.0

    # Autobahn's state, as it is on an open connection on which nothing special happens.
    is_open: Any = _NOBODY
    is_closed: Any = _NOBODY
    trafficStats: Any = _NOBODY
    send_queue: Any = ()
    triggered = wasMaxFramePayloadSizeExceeded = wasMaxMessagePayloadSizeExceeded = False
    closedByMe = failedByMe = droppedByMe = wasClean = wasServerConnectionDropTimeout = False
    wasOpenHandshakeTimeout = wasCloseHandshakeTimeout = wasServingFlashSocketPolicyFile = False
    wasNotCleanReason: Any = None
    localCloseCode = localCloseReason = remoteCloseCode = remoteCloseReason = None
    openHandshakeTimeoutCall: Any = None
    closeHandshakeTimeoutCall: Any = None
    trackedTimings: Any = None
    autoPingTimeoutCall = autoPingPending = autoPingPendingCall = autoPingPendingSent = None
    autoPingPendingSeq = 0
    utf8validateIncomingCurrentMessage = _isMessageCompressed = False
    message_data: Any = None
    frame_data: Any = None
    control_frame_data: Any = None
    current_frame_masker: Any = None

    # Ours.
    transport: Any
    factory: Any  # a CentralSystemFactory; Autobahn declares its own
    options: ClassVar[CentralSystemOptions]
    _session: Session | None = None
    _station: Station | None = None
    _version: Version | None = None
    _headers: Mapping[str, str] | None = None
    _path = ""
    _peer: tuple[str, int] = ("", 0)
    _is_admitting = False
    _is_opening = False
    _is_registered = False
    _held = 0
    _unsent = 0
    _fragments = 0
    _heard = 0.0
    _pinged = 0.0
    _missed = 0
    slot = 0
    _timer: IDelayedCall | None = None

    def __init__(self) -> None:
        # Autobahn's own makes two Deferreds, a list and a dict of listeners, and details of the transport.
        pass

    # The way in.

    def connectionMade(self) -> None:
        """A TCP connection; with TLS its handshake has not begun."""
        address = self.transport.getPeer()
        self._peer = (str(getattr(address, "host", "")), int(getattr(address, "port", 0)))
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        if hasattr(self.transport, "setTcpKeepAlive"):
            self.transport.setTcpKeepAlive(True)
        self._connectionMade()
        self.trafficStats = _NOBODY
        self.send_queue = ()
        self._is_opening = True
        self.factory.made(self)

    def dataReceived(self, data: bytes) -> None:
        """Bytes from the socket, in whatever pieces."""
        self._heard = self.factory.clock.seconds()
        try:
            if self.state == _CONNECTING:
                self._head_received(data)
            elif self.state == _OPEN and not self._held and not self.data and self.current_frame is None:
                self._frames_received(data)
            else:
                self.data += data
                self.consumeData()
        except Exception:  # noqa: BLE001 - the edge of the service: one connection's surprise must end only that connection
            _log.failure("a connection of {path!r} failed", path=self._path)
            self.dropConnection(abort=True)

    def _head_received(self, data: bytes) -> None:
        self.data += data
        if self._is_admitting:
            if len(self.data) > self.options.max_header_bytes:
                self.failHandshake("too much before the handshake was over", 431)
            return
        limit = self.options.max_header_bytes
        if len(self.data) > limit and self.data.find(b"\r\n\r\n", 0, limit) < 0:
            self.failHandshake("the request is too large", 431)
            return
        self.consumeData()

    def onConnect(self, request: Any) -> Any:
        """The request is complete and a WebSocket's. Gives the subprotocol, or a Deferred of it."""
        factory = self.factory
        now = factory.clock.seconds()
        is_full = factory.is_closing or len(factory.stations) >= self.options.max_connections
        wait = FULL_RETRY_SECONDS if is_full else factory.gate.ask(now)
        if wait:
            self._refuse("storm", 503, f"come again in {wait} seconds", {"Retry-After": str(wait)})
        target = read_target(self.http_request_uri)
        if target is None:
            self._refuse("bad_request", 400, "the path cannot be read")
        if not target.identity:
            self._refuse("refused", 404, "the path names no charge point")
        self._path = target.path
        self._peer, is_tls = real_peer(self._peer, self.http_headers, self.options.trusted_proxies)
        certificate = None
        if ISSLTransport.providedBy(self.transport):
            is_tls = True
            shown: Any = self.transport.getPeerCertificate()
            certificate = shown.to_cryptography() if shown is not None else None
        authorization = self.http_headers.get("authorization")
        handshake = Handshake(
            path=target.path,
            identity=target.identity,
            peer=self._peer,
            authorization=authorization.encode("latin-1") if authorization is not None else None,
            offered=tuple(self.websocket_protocols),
            certificate=certificate,
            tls=is_tls,
        )
        self._is_admitting = True
        try:
            answer = factory.listener.admit(handshake)
        except Exception:  # noqa: BLE001 - the user's code; without an answer nobody comes in
            _log.failure("admit failed for {path!r}", path=self._path)
            self._refuse("refused", 500, "admit failed")
        if isinstance(answer, Deferred):
            return answer.addCallbacks(self._admitted, self._not_admitted, callbackArgs=(target.identity,))
        return self._admitted(answer, target.identity)

    def _not_admitted(self, failure: Failure) -> None:
        _log.failure("admit failed for {path!r}", failure, path=self._path)
        self._refuse("refused", 500, "admit failed")

    def _admitted(self, answer: Admission | Refusal, identity: str) -> str | None:
        if isinstance(answer, Refusal):
            self._refuse("refused", answer.status, answer.why, answer.headers)
        offered = self.websocket_protocols
        self._version = choose_version(offered, answer.versions) if offered else answer.missing_subprotocol
        if self._version is not None:
            self._station = Station(cast(Any, self), identity, self._path, self._version, self._peer, answer.data)
        return self._version.value if self._version is not None and offered else None

    def _refuse(self, kind: str, status: int, why: str, headers: Mapping[str, str] | None = None) -> NoReturn:
        self._tell(kind, f"{status}: {why}")
        self._headers = headers
        raise ConnectionDeny(status, _REASONS.get(status, "Refused"))

    def succeedHandshake(self, res: Any) -> None:
        """Autobahn's, but for a peer that went away while `admit` was thinking."""
        if self.state == _CONNECTING:
            super().succeedHandshake(res)

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        """
        Answer with an HTTP error and close. Autobahn's reasons repeat what the peer sent, so they stay here; and it
        sends no Content-Length, without which some clients wait for a body.
        """
        if self.state != _CONNECTING:
            return
        if self._headers is None and code != 503 and not self._is_admitting:
            self._tell("bad_request", f"{code}: the handshake is not as RFC 6455 wants it")
        headers = {**_HEADERS.get(code, {}), **dict(responseHeaders or ()), **(self._headers or {})}
        lines = [f"HTTP/1.1 {code} {_REASONS.get(code, 'Refused')}", "Content-Length: 0", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items() if f"{name}{value}".isprintable()]
        self.sendData(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace"))
        self.wasNotCleanReason = "refused"
        self.dropConnection(abort=False)

    def perMessageCompressionAccept(self, offers: list[Any]) -> PerMessageDeflateOfferAccept | None:
        """Which of a client's compression offers is taken. Must not raise: Autobahn would leave the socket hanging."""
        if not self.options.compression or self._version is None or not self._version.is_2:
            return None
        for offer in offers:
            if isinstance(offer, PerMessageDeflateOffer) and offer.request_max_window_bits in (0, *range(9, 16)):
                return PerMessageDeflateOfferAccept(
                    offer,
                    request_no_context_takeover=offer.accept_no_context_takeover,
                    request_max_window_bits=9 if offer.accept_max_window_bits else 0,
                    no_context_takeover=True,
                    window_bits=9,
                    mem_level=1,
                    max_message_size=self.options.max_message_bytes,
                )
        return None

    def _onOpen(self) -> None:
        self.onOpen()

    def onOpen(self) -> None:
        """The handshake is over: the station is there, or has to hear why it is not."""
        self._opened()
        if self._station is None or self._version is None:
            self._tell("no_subprotocol", "it offers no version that is spoken here")
            self.sendCloseFrame(1002, b"no common subprotocol")
            return
        factory = self.factory
        now = factory.clock.seconds()
        older = factory.stations.get(self._path)
        factory.stations[self._path] = self
        if older is not None:
            older.supersede()
        self._session = Session(
            self._version, factory.session_options, factory.ids, factory.replays_of(self._path, now), self
        )
        if self.options.ping_interval_seconds:
            factory.wheel.add(self, now + self.options.ping_interval_seconds)
        self.registerProducer(self, True)
        self._slim()
        factory.warm(self._session.version)
        if factory.is_paused:
            self._hold(_OWNER)
        try:
            factory.listener.connected(self._station)
        except Exception:  # noqa: BLE001 - the user's code; the station is connected all the same
            _log.failure("connected failed for {path!r}", path=self._path)

    def _opened(self) -> None:
        if self._is_opening:
            self._is_opening = False
            self.factory.openings -= 1

    def _slim(self) -> None:
        kept = {name: value for name, value in self.__dict__.items() if name in _KEPT}
        self.__dict__ = kept  # a new dict: the old one has room for all that was dropped

    # Frames.

    def _frames_received(self, data: bytes) -> None:
        """Whole, final, masked text frames of less than 64 KiB, one after the other; the rest is Autobahn's."""
        position, end = 0, len(data)
        while end - position >= 6 and data[position] == 0x81 and not self.inside_message:
            length = data[position + 1] - 0x80
            start = position + 6
            if length == 126:
                length = (data[position + 2] << 8) | data[position + 3]
                start = position + 8
                if length < 126:
                    break
            elif not 0 < length < 126:
                break
            if start + length > end or length > self.maxMessagePayloadSize:
                break
            payload = create_xor_masker(data[start - 4 : start], length).process(data[start : start + length])
            position = start + length
            self._payload_received(payload)
            if self.state != _OPEN or self._held:
                break
        if position < end:
            self.data += data[position:]
            self.consumeData()

    def consumeData(self) -> None:
        """Autobahn's, but it stops while nothing is to be read."""
        if self.state == _OPEN or self.state == _CLOSING:
            while not (self._held and self.state == _OPEN) and self.processData() and self.state != _CLOSED:
                pass
        else:
            super().consumeData()

    def onMessageBegin(self, isBinary: bool) -> None:
        """Autobahn's, and the frames are counted."""
        super().onMessageBegin(isBinary)
        self._fragments = 0

    def onMessageFrameBegin(self, length: int) -> None:
        """Autobahn bounds the bytes; an empty frame has none and still costs an object."""
        self._fragments += 1
        if self._fragments > self.options.max_fragments and not self.failedByMe:
            self._fail_connection(1009, "too many fragments")
        super().onMessageFrameBegin(length)

    def onMessageEnd(self) -> None:
        """Autobahn's, without the Deferreds it makes for each message."""
        chunks, self.message_data = self.message_data, None
        deflate = self._perMessageCompress
        if deflate is not None and deflate.client_no_context_takeover:
            deflate._decompressor = None
        if self.failedByMe:
            return
        if self.message_is_binary:
            self.sendCloseFrame(1003, b"OCPP is text")
            return
        self._payload_received(b"".join(chunks or ()))

    def _payload_received(self, payload: bytes) -> None:
        try:
            text = payload.decode("utf-8")
        except UnicodeDecodeError:
            self._fail_connection(1007, "not UTF-8")
            return
        session = self._session
        if session is None or self.state != _OPEN:
            return
        event = session.receive(text, self._heard)
        if event is not None:
            self._happened(event)
        self._flush()

    def _fail_connection(self, code: int = 1001, reason: str = "going away") -> None:
        if self.state == _OPEN:
            self._tell("protocol_error", f"{code}")
        super()._fail_connection(code, reason)

    # Messages.

    def _happened(self, event: Event) -> None:
        kind = type(event)
        if kind is CallArrived:
            self._call_arrived(cast(CallArrived, event))
        elif kind is CallEnded:
            _settle(cast(CallEnded, event))
        elif kind is Ignored:
            ignored = cast(Ignored, event)
            self._tell(ignored.kind, ignored.what)
            if ignored.is_last_straw:
                self._tell("too_many_faults", "its connection is closed")
                self._flush()
                self.sendCloseFrame(1008, b"too many bad messages")
        else:
            send = cast(SendArrived, event)
            try:
                self.factory.listener.send_received(
                    self._station, send.action, send.payload, () if send.fault is None else (send.fault.text,)
                )
            except Exception:  # noqa: BLE001 - the user's code; there is nobody to answer
                _log.failure("send_received failed for {path!r}", path=self._path)

    def _call_arrived(self, event: CallArrived) -> None:
        call, payload, fault = event
        try:
            answer = self.factory.listener.call_received(
                self._station, call.action, payload, () if fault is None else (fault.text,)
            )
        except Exception:  # noqa: BLE001 - the user's code; the station gets an answer all the same
            self._not_answered(Failure(), call)
            return
        if isinstance(answer, Deferred):
            answer.addCallbacks(self._answered, self._not_answered, callbackArgs=(call,), errbackArgs=(call,))
            answer.addErrback(self._surprised, call)
        else:
            self._answered(answer, call)

    def _answered(self, payload: Mapping[str, Any], call: IncomingCall) -> None:
        session = cast(Session, self._session)
        fault = session.answer(call, payload, self.factory.clock.seconds())
        if fault is not None:
            self._tell("answer_invalid", f"{call.action}: {fault.text}")
            _log.error("the answer to {action} breaks its schema: {fault}", action=call.action, fault=fault.text)
        call.session.owner._flush()

    def _not_answered(self, failure: Failure, call: IncomingCall) -> None:
        refusal = failure.value
        if not isinstance(refusal, CallRefused):
            _log.failure("call_received failed for {action} of {path!r}", failure, action=call.action, path=self._path)
            refusal = CallRefused("InternalError")
        cast(Session, self._session).refuse(call, refusal, self.factory.clock.seconds())
        call.session.owner._flush()

    def _surprised(self, failure: Failure, call: IncomingCall) -> None:
        _log.failure("answering {action} of {path!r} failed", failure, action=call.action, path=self._path)

    def call(self, action: str, payload: Mapping[str, Any], timeout_seconds: float) -> Deferred[dict[str, Any]]:
        """See `IStation.call`."""
        session = self._session
        if session is None or self.state != _OPEN:
            return fail(StationGone("the station is not connected"))
        now = self.factory.clock.seconds()

        def cancel(_: Deferred[dict[str, Any]]) -> None:
            session.cancel(call, self.factory.clock.seconds())
            self._flush()

        result: Deferred[dict[str, Any]] = Deferred(cancel)
        try:
            call = session.call(action, payload, now, timeout_seconds, result)
        except CallFailed as refused:
            return fail(refused)
        self._flush()
        return result

    def send(self, action: str, payload: Mapping[str, Any]) -> None:
        """See `IStation.send`."""
        if self._session is None or self.state != _OPEN:
            raise StationGone("the station is not connected")
        self._session.send(action, payload)
        self._flush()

    def _flush(self) -> None:
        """Send what the session has to send, see to its timer, and to whether more may come in."""
        session = self._session
        if session is None:
            return
        for text in session.take_outgoing():
            self._send_text(text)
        deadline = session.next_deadline()
        if deadline is not None or self._timer is not None:
            self._see_to_timer(deadline)
        if self._held & _UNANSWERED:
            if session.unanswered <= self.options.max_open_calls // 2:
                self._release(_UNANSWERED)
        elif session.unanswered >= self.options.max_open_calls:
            self._hold(_UNANSWERED)

    def _see_to_timer(self, deadline: float | None) -> None:
        timer = self._timer
        if timer is not None and timer.active():
            if deadline is not None and timer.getTime() <= deadline:
                return  # it comes early enough, and looks again
            timer.cancel()
        if deadline is None:
            self._timer = None
        else:
            clock = self.factory.clock
            self._timer = clock.callLater(max(0.0, deadline - clock.seconds()), self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self._session is not None:
            for ended in self._session.expire(self.factory.clock.seconds()):
                _settle(ended)
        self._flush()

    def _send_text(self, text: str) -> None:
        if self.state != _OPEN:
            return
        payload = text.encode("utf-8")
        length = len(payload)
        deflate = self._perMessageCompress
        if deflate is not None and length >= COMPRESS_FROM_BYTES:
            self.sendMessage(payload, False)
            deflate._compressor = None
        elif length < 126:
            self.transport.write(bytes((0x81, length)) + payload)
        elif length < 65536:
            self.transport.write(b"\x81\x7e" + length.to_bytes(2, "big") + payload)
        else:
            self.transport.write(b"\x81\x7f" + length.to_bytes(8, "big") + payload)
        if self._held & _NOT_READING:
            self._unsent += length
            if self._unsent > self.options.max_unsent_bytes:
                self._tell("not_reading", f"{self._unsent} bytes wait for it")
                self.dropConnection(abort=True)

    # Whether anything is read.

    def _hold(self, why: int) -> None:
        if not self._held and self.state == _OPEN:
            self.transport.pauseProducing()
        self._held |= why

    def _release(self, why: int) -> None:
        if not self._held & why:
            return
        self._held &= ~why
        if self._held or self.state != _OPEN:
            return
        if self.data:
            self.consumeData()  # may hold again
        if not self._held and self.state in (_OPEN, _CLOSING):
            self.transport.resumeProducing()

    def hold_for_owner(self, hold: bool) -> None:
        """See `CentralSystemFactory.pause`."""
        if self._session is None:
            return
        if hold:
            self._hold(_OWNER)
        else:
            self._release(_OWNER)

    def pauseProducing(self) -> None:
        """The transport's buffer is full: the station does not read."""
        self._unsent = 0
        self._hold(_NOT_READING)

    def resumeProducing(self) -> None:
        """The transport's buffer is empty again."""
        self._release(_NOT_READING)

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Let the transport tell when the station does not read."""
        self._is_registered = True
        self.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Autobahn does this before it closes, whether there is one or not."""
        if self._is_registered:
            self._is_registered = False
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        """The transport is gone; `connectionLost` follows."""

    # Liveness, and the end.

    def ask(self, now: float) -> float | None:
        """The wheel's question: is the station alive, and when to ask again. Two pings may go unanswered."""
        if self.state != _OPEN:
            return None
        options = self.options
        if self._held & (_UNANSWERED | _OWNER):
            self._missed = 0
            when = now + options.ping_interval_seconds  # we do not read, so its silence means nothing
        elif self._missed and self._heard >= self._pinged:
            self._missed = 0
            when = self._heard + options.ping_interval_seconds
        elif not self._missed and now - self._heard < options.ping_interval_seconds:
            when = self._heard + options.ping_interval_seconds
        elif self._missed < MAX_MISSED_PINGS:
            self._missed += 1
            self._pinged = now
            self.sendPing()
            when = now + options.ping_timeout_seconds
        else:
            self._tell("unresponsive", f"nothing came for {now - self._heard:.0f} seconds")
            self.wasNotCleanReason = "it answered no ping"
            self.dropConnection(abort=True)
            return None
        return when

    def supersede(self) -> None:
        """A newer connection of the same charge point counts."""
        self._tell("replaced", "the same charge point connected again")
        self._finish(StationReplaced("the station connected again"), "replaced by a newer connection")
        self.wasNotCleanReason = "replaced"
        self.dropConnection(abort=True)

    def close(self, code: int, reason: str) -> None:
        """See `IStation.close`; a handshake that is under way is cut."""
        if self.state == _OPEN:
            self.sendCloseFrame(code, reason.encode()[:MAX_CLOSE_REASON_BYTES].decode("utf-8", "ignore").encode())
            if self._held:
                self._held = 0
                self.transport.resumeProducing()  # or its close frame would never be read
        elif self.state == _CONNECTING:
            self.dropConnection(abort=True)

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment] # Twisted's own default is one
        """The socket is gone, for whatever reason."""
        self._opened()
        self._connectionLost(cast(Any, reason))
        if self.closeHandshakeTimeoutCall is not None:  # Autobahn forgets this one
            self.closeHandshakeTimeoutCall.cancel()
            self.closeHandshakeTimeoutCall = None
        self._finish(StationGone("the connection ended"), self._ending(reason))
        self.factory.lost(self)

    def _ending(self, reason: Failure | None) -> str:
        if self.wasClean:
            return f"closed with {self.remoteCloseCode or self.localCloseCode or 1005}"
        if self.wasNotCleanReason:
            return str(self.wasNotCleanReason)
        return str(reason.value) if reason is not None else "lost"

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:
        """Autobahn's word for the end; `connectionLost` does the work."""

    def _finish(self, why: StationGone, reason: str) -> None:
        session, station, factory = self._session, self._station, self.factory
        if session is None or station is None or not station.connected:
            return
        station.connected = False
        factory.wheel.discard(self)
        if factory.stations.get(self._path) is self:
            del factory.stations[self._path]
        for ended in session.end(why):
            _settle(ended)
        self._flush()
        try:
            factory.listener.disconnected(station, reason)
        except Exception:  # noqa: BLE001 - the user's code
            _log.failure("disconnected failed for {path!r}", path=self._path)

    def _tell(self, kind: str, text: str) -> None:
        self.factory.notice(Notice(kind, self._path, self._peer[0], text))


def _settle(ended: CallEnded) -> None:
    result: Deferred[Any] = ended.call.owner
    if ended.failure is not None:
        result.errback(ended.failure)
    else:
        result.callback(ended.payload)


def protocol_class(options: CentralSystemOptions) -> type[StationProtocol]:
    """The class of a listener's connections, with its settings."""
    return type(
        "ListeningStationProtocol",
        (StationProtocol,),
        {
            "options": options,
            "maxFramePayloadSize": options.max_message_bytes,
            "maxMessagePayloadSize": options.max_message_bytes,
            "openHandshakeTimeout": options.open_timeout_seconds,
            "closeHandshakeTimeout": options.close_timeout_seconds,
        },
    )
