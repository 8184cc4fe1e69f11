"""Autobahn's WebSocket, made lean: what is done in its place, and why (spec twisted-stack, 3).

- Its settings are attributes of a class made per listener, so that a connection carries none of them; and when the
  handshake is over, a connection drops everything that only the handshake needed. An open one costs some 3 KiB where
  Autobahn's own costs 10.
- A frame that is a whole short text message, which nearly all are, is unmasked and decoded here in a few lines. All
  else (fragments, compression, control frames, errors) goes Autobahn's way.
- Its log lines are off: strangers can cause them. What is worth telling goes through `_tell`.
- The request's head is bounded, and refusals bear their headers.
- Data that comes while `onConnect` is thinking is kept back: Autobahn would take it for a second request.
- One reading rule: nothing is read while any reason of `_hold` stands.

Deflate: with no context kept in either direction the zlib objects are let go after each message, and short messages
are sent uncompressed, which the extension allows. A connection that could compress costs next to nothing until it does.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, cast

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.util import wildcards2patterns
from autobahn.websocket.compress_deflate import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.protocol import WebSocketProtocol
from autobahn.websocket.xormasker import create_xor_masker  # type: ignore[attr-defined] # re-exported from C or Python
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.ocpp.options import CentralSystemOptions
from tbgw.ocpp.writing import write_at_once

_log = Logger(namespace="tbgw.ocpp")

CONNECTING = WebSocketProtocol.STATE_CONNECTING
OPEN = WebSocketProtocol.STATE_OPEN
CLOSING = WebSocketProtocol.STATE_CLOSING
CLOSED = WebSocketProtocol.STATE_CLOSED

# Why nothing is read from a station at the moment.
UNANSWERED = 1
NOT_READING = 2
OWNER = 4

SHORT_BYTES = 1_400
COMPRESS_FROM_BYTES = 512
"""Shorter messages go out uncompressed."""

REASONS = {
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


def _unmasked(mask: bytes, data: bytes, length: int) -> bytes:
    """A short payload as one large number is several times as quick as the call into C, a long one is not."""
    if length > SHORT_BYTES:
        unmasked: bytes = create_xor_masker(mask, length).process(data)
        return unmasked
    masks = (mask * ((length >> 2) + 1))[:length]
    return (int.from_bytes(data, "little") ^ int.from_bytes(masks, "little")).to_bytes(length, "little")


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
class LeanWebSocket(WebSocketServerProtocol, metaclass=ABCMeta):
    """A server's end of one connection. A child says what `onConnect`, `onOpen`, `_text_received` and `_tell` do."""

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
    options: ClassVar[CentralSystemOptions]
    may_compress = False
    """Whether permessage-deflate may be agreed on; asked when the handshake has succeeded."""
    _answer_headers: Mapping[str, str] | None = None
    """What the HTTP answer bears besides its own when `onConnect` refuses; None if it has not refused."""
    _is_thinking = False
    _is_registered = False
    _held = 0
    _unsent = 0
    _fragments = 0
    _heard = 0.0
    """When bytes came last."""

    def __init__(self) -> None:
        # Autobahn's own makes two Deferreds, a list and a dict of listeners, and details of the transport.
        pass

    @abstractmethod
    def _now(self) -> float:
        """Seconds on the listener's clock."""

    @abstractmethod
    def _text_received(self, text: str) -> None:
        """One text message, while the connection is open."""

    @abstractmethod
    def _tell(self, kind: str, text: str) -> None:
        """Something worth a `Notice`."""

    def connectionMade(self) -> None:
        """A TCP connection; with TLS its handshake has not begun."""
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        if hasattr(self.transport, "setTcpKeepAlive"):
            self.transport.setTcpKeepAlive(True)
        self._connectionMade()
        self.trafficStats = _NOBODY
        self.send_queue = ()

    def dataReceived(self, data: bytes) -> None:
        """Bytes from the socket, in whatever pieces."""
        self._heard = self._now()
        try:
            if self.state == CONNECTING:
                self._head_received(data)
            elif self.state == OPEN and not self._held and not self.data and self.current_frame is None:
                self._frames_received(data)
            else:
                self.data += data
                self.consumeData()
        except Exception:  # noqa: BLE001 - the edge of the service: one connection's surprise must end only that connection
            _log.failure("a connection failed")
            self.dropConnection(abort=True)

    def _head_received(self, data: bytes) -> None:
        self.data += data
        if self._is_thinking:
            if len(self.data) > self.options.max_header_bytes:
                self.failHandshake("too much before the handshake was over", 431)
            return
        limit = self.options.max_header_bytes
        if len(self.data) > limit and self.data.find(b"\r\n\r\n", 0, limit) < 0:
            self.failHandshake("the request is too large", 431)
            return
        self.consumeData()

    def succeedHandshake(self, res: Any) -> None:
        """Autobahn's, but for a peer that went away while `admit` was thinking."""
        if self.state == CONNECTING:
            super().succeedHandshake(res)

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        """
        Answer with an HTTP error and close. Autobahn's reasons repeat what the peer sent, so they stay here; and it
        sends no Content-Length, without which some clients wait for a body.
        """
        if self.state != CONNECTING:
            return
        if self._answer_headers is None:
            self._tell("bad_request", f"{code}: the handshake is not as RFC 6455 wants it")
        headers = {**_HEADERS.get(code, {}), **dict(responseHeaders or ()), **(self._answer_headers or {})}
        lines = [f"HTTP/1.1 {code} {REASONS.get(code, 'Refused')}", "Content-Length: 0", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items() if f"{name}{value}".isprintable()]
        self.sendData(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace"))
        self.wasNotCleanReason = "refused"
        self.dropConnection(abort=False)

    def perMessageCompressionAccept(self, offers: list[Any]) -> PerMessageDeflateOfferAccept | None:
        """Which of a client's compression offers is taken. Must not raise: Autobahn would leave the socket hanging."""
        if not self.may_compress:
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
            payload = _unmasked(data[start - 4 : start], data[start : start + length], length)
            position = start + length
            self._payload_received(payload)
            if self.state != OPEN or self._held:
                break
        if position < end:
            self.data += data[position:]
            self.consumeData()

    def consumeData(self) -> None:
        """Autobahn's, but it stops while nothing is to be read."""
        if self.state == OPEN or self.state == CLOSING:
            while not (self._held and self.state == OPEN) and self.processData() and self.state != CLOSED:
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
        if self.state == OPEN:
            self._text_received(text)

    def _fail_connection(self, code: int = 1001, reason: str = "going away") -> None:
        if self.state == OPEN:
            self._tell("protocol_error", f"{code}")
        super()._fail_connection(code, reason)

    def _send_text(self, text: str) -> None:
        if self.state != OPEN:
            return
        payload = text.encode("utf-8")
        length = len(payload)
        deflate = self._perMessageCompress
        if deflate is not None and length >= COMPRESS_FROM_BYTES:
            self.sendMessage(payload, False)
            deflate._compressor = None
        elif length < 126:
            write_at_once(self.transport, bytes((0x81, length)) + payload)
        elif length < 65536:
            write_at_once(self.transport, b"\x81\x7e" + length.to_bytes(2, "big") + payload)
        else:
            write_at_once(self.transport, b"\x81\x7f" + length.to_bytes(8, "big") + payload)
        if self._held & NOT_READING:
            self._unsent += length
            if self._unsent > self.options.max_unsent_bytes:
                self._tell("not_reading", f"{self._unsent} bytes wait for it")
                self.dropConnection(abort=True)

    # Whether anything is read.

    def _hold(self, why: int) -> None:
        if not self._held and self.state == OPEN:
            self.transport.pauseProducing()
        self._held |= why

    def _release(self, why: int) -> None:
        if not self._held & why:
            return
        self._held &= ~why
        if self._held or self.state != OPEN:
            return
        if self.data:
            self.consumeData()  # may hold again
        if not self._held and self.state in (OPEN, CLOSING):
            self.transport.resumeProducing()

    def pauseProducing(self) -> None:
        """The transport's buffer is full: the station does not read."""
        self._unsent = 0
        self._hold(NOT_READING)

    def resumeProducing(self) -> None:
        """The transport's buffer is empty again."""
        self._release(NOT_READING)

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

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment] # Twisted's own default is one
        """The socket is gone, for whatever reason."""
        self._connectionLost(cast(Any, reason))
        if self.closeHandshakeTimeoutCall is not None:  # Autobahn forgets this one
            self.closeHandshakeTimeoutCall.cancel()
            self.closeHandshakeTimeoutCall = None
