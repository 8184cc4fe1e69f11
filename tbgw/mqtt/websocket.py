"""MQTT over WebSocket (section 6), by Autobahn: the same protocol classes on another transport, for both ends.

`WebSocketClientEndpoint` dials through any endpoint (TCP, TLS, a proxy); `WebSocketServerFactory` listens on any. Each
MQTT protocol gets a transport that puts its bytes into binary messages. Importing this module imports Autobahn, which
takes 7 MB; nothing else here imports it.

What Autobahn leaves open by default is shut: the size of a message, of a frame, and of the head before the handshake,
the number of connections, the status page with its open redirect, compression, the server's name. A protocol error is
answered with a close code before the drop. Its `sendClose` knows 1000 only, so the other codes take `sendCloseFrame`.
"""

from __future__ import annotations

from typing import Any, Final

from autobahn.twisted.websocket import (
    WebSocketAdapterProtocol,
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerProtocol,
)
from autobahn.twisted.websocket import WebSocketServerFactory as AutobahnServerFactory
from autobahn.websocket.types import ConnectionDeny
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

SUBPROTOCOL: Final = "mqtt"
"""[MQTT-6.0.0-3]"""

MAX_HEAD_BYTES: Final = 16 * 1024
"""The largest HTTP head of a handshake. Autobahn has no limit and would search an endless one again and again."""

MAX_MESSAGE_BYTES: Final = 1024 * 1024 + 64 * 1024
"""The largest WebSocket message that is taken by default: a packet of the largest default size and some more. A
message may hold several packets, and a packet may span messages [MQTT-6.0.0-2]."""

WRITE_BYTES: Final = 64 * 1024
"""The largest message that is sent; longer writes become several."""

OPEN_HANDSHAKE_SECONDS: Final = 10.0
CLOSE_HANDSHAKE_SECONDS: Final = 2.0

_UNSUPPORTED_DATA: Final = 1003
_PROTOCOL_ERROR: Final = 1002


class WebSocketRefused(Exception):  # noqa: N818 - named by the outcome, as ConnectionRefused is
    """There was no WebSocket with the subprotocol `mqtt` at the other end."""


@implementer(ITCPTransport, IConsumer)
class WebSocketTransport:
    """What an MQTT protocol writes to: Twisted's transport below, with WebSocket messages in between."""

    disconnecting = False

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def write(self, data: bytes) -> None:
        """In binary messages [MQTT-6.0.0-1]; after the end it is dropped, as a transport does."""
        channel = self._channel
        if channel.state != channel.STATE_OPEN:
            return
        for start in range(0, len(data), WRITE_BYTES):
            channel.sendMessage(data[start : start + WRITE_BYTES], isBinary=True)

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close frame first; the drop follows when the peer answered, or did not in time."""
        self.disconnecting = True
        channel = self._channel
        if channel.state == channel.STATE_OPEN:
            channel.sendClose(1000)
        else:
            channel.transport.loseConnection()

    def abortConnection(self) -> None:
        self.disconnecting = True
        self._channel.transport.abortConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._channel.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self._channel.transport.unregisterProducer()

    def loseWriteConnection(self) -> None:
        """A WebSocket has no half-close."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Autobahn has done so."""

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self._channel.transport.setTcpKeepAlive(enabled)

    def getTcpKeepAlive(self) -> bool:
        return bool(self._channel.transport.getTcpKeepAlive())

    def getPeer(self) -> Any:
        return self._channel.transport.getPeer()

    def getHost(self) -> Any:
        return self._channel.transport.getHost()


class _Timer:
    """In place of Autobahn's batched timer, which leaves its calls in the reactor when they were cancelled."""

    def __init__(self, clock: IReactorTime) -> None:
        self.call_later = clock.callLater


class _Channel(WebSocketAdapterProtocol):
    """What both ends share: the MQTT protocol inside, and the cap on the head."""

    inner: IProtocol | None = None
    _head_bytes = 0

    def dataReceived(self: Any, data: bytes) -> None:
        if self.state in (self.STATE_CONNECTING, self.STATE_PROXY_CONNECTING):
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and b"\r\n\r\n" not in data:
                self.transport.abortConnection()
                return
        super().dataReceived(data)

    def open_inner(self: Any, factory: IProtocolFactory) -> IProtocol | None:
        """The handshake is done: the MQTT protocol begins."""
        inner = factory.buildProtocol(self.transport.getPeer())
        if inner is None:
            self.sendCloseFrame(code=1013, reasonUtf8=None)
            return None
        self.inner = inner
        inner.makeConnection(WebSocketTransport(self))
        return inner

    def onMessage(self: Any, payload: bytes, isBinary: bool) -> None:
        if not isBinary:
            self.sendCloseFrame(code=_UNSUPPORTED_DATA, reasonUtf8=None)  # [MQTT-6.0.0-1]
        elif self.inner is not None:
            self.inner.dataReceived(payload)

    def connectionLost(self: Any, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        timer, self.closeHandshakeTimeoutCall = self.closeHandshakeTimeoutCall, None
        if timer is not None and timer.active():  # Autobahn leaves it to fire into nothing
            timer.cancel()
        inner, self.inner = self.inner, None
        if inner is not None:
            inner.connectionLost(reason)


class _ClientChannel(_Channel, WebSocketClientProtocol):  # type: ignore[misc]  # Autobahn's own two bases disagree
    def onConnect(self, response: Any) -> None:
        if response.protocol != SUBPROTOCOL:
            self.factory.refused("the server does not choose the subprotocol mqtt [MQTT-6.0.0-4]")

    def onOpen(self) -> None:
        if not self.factory.settled:
            self.factory.opened(self.open_inner(self.factory.inner_factory))
        elif self.inner is None:
            self.sendCloseFrame(code=_PROTOCOL_ERROR, reasonUtf8=None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        why = self.wasNotCleanReason or "the connection was closed"
        self.factory.refused(f"no WebSocket: {why}")


class _ClientFactory(WebSocketClientFactory):
    """Of one connection."""

    protocol = _ClientChannel
    noisy = False

    def __init__(
        self, url: str, headers: dict[str, str] | None, inner_factory: IProtocolFactory, done: Deferred[IProtocol],
        clock: IReactorTime, max_message_bytes: int,
    ) -> None:  # fmt: skip
        super().__init__(url, protocols=[SUBPROTOCOL], useragent=None, headers=headers, reactor=clock)
        self.setProtocolOptions(
            failByDrop=False,
            maxFramePayloadSize=max_message_bytes,
            maxMessagePayloadSize=max_message_bytes,
            openHandshakeTimeout=OPEN_HANDSHAKE_SECONDS,
            closeHandshakeTimeout=CLOSE_HANDSHAKE_SECONDS,
            tcpNoDelay=True,
            perMessageCompressionOffers=[],
        )
        self._batched_timer = _Timer(clock)
        self.inner_factory = inner_factory
        self._done: Deferred[IProtocol] | None = done
        self.channel: Any = None

    def buildProtocol(self, addr: IAddress | None) -> Any:
        self.channel = super().buildProtocol(addr)
        return self.channel

    @property
    def settled(self) -> bool:
        """Whether the caller was told, or lost interest."""
        return self._done is None

    def opened(self, inner: IProtocol | None) -> None:
        """Tell the caller."""
        done, self._done = self._done, None
        if done is None:
            return
        if inner is None:
            done.errback(WebSocketRefused("the factory makes no protocol"))
        else:
            done.callback(inner)

    def refused(self, text: str) -> None:
        """Tell the caller, if that was not done, and drop what there is."""
        done, self._done = self._done, None
        if done is not None:
            done.errback(WebSocketRefused(text))
            if self.channel is not None and self.channel.transport is not None:
                self.channel.transport.abortConnection()

    def dialling_failed(self, failure: Failure) -> None:
        """There is not even a connection."""
        done, self._done = self._done, None
        if done is not None:
            done.errback(failure)

    def given_up(self) -> None:
        """The caller lost interest; its Deferred fails by itself."""
        self._done = None
        if self.channel is not None and self.channel.transport is not None:
            self.channel.transport.abortConnection()


@implementer(IStreamClientEndpoint)
class WebSocketClientEndpoint:
    """
    Dials by `endpoint`, which has TLS in it where the URL says `wss`, and opens a WebSocket there. `connect` fires with
    the MQTT protocol when the handshake is done; it fails with `WebSocketRefused` or what `endpoint` fails with.
    Raises what Autobahn raises for a bad URL, at the first `connect`.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        url: str,
        *,
        clock: IReactorTime,
        headers: dict[str, str] | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._endpoint = endpoint
        self._url = url
        self._clock = clock
        self._headers = headers
        self._max_message_bytes = max_message_bytes

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint.connect`. Cancelling gives the attempt up."""
        dialling: Deferred[IProtocol] | None = None
        factory: _ClientFactory | None = None

        def cancel(deferred: Deferred[IProtocol]) -> None:
            assert dialling is not None  # noqa: S101 - for mypy: set below, before anybody can cancel
            assert factory is not None  # noqa: S101 - as above
            factory.given_up()
            dialling.cancel()

        done: Deferred[IProtocol] = Deferred(cancel)
        factory = _ClientFactory(
            self._url, self._headers, protocolFactory, done, self._clock, self._max_message_bytes
        )
        dialling = self._endpoint.connect(factory)
        dialling.addErrback(factory.dialling_failed)
        return done


class _ServerChannel(_Channel, WebSocketServerProtocol):  # type: ignore[misc]  # Autobahn's own two bases disagree
    def onConnect(self, request: Any) -> str:
        if SUBPROTOCOL not in request.protocols:
            raise ConnectionDeny(ConnectionDeny.BAD_REQUEST, "subprotocol mqtt is needed")
        if self.factory.path is not None and request.path != self.factory.path:
            raise ConnectionDeny(ConnectionDeny.NOT_FOUND, "not here")
        return SUBPROTOCOL

    def onOpen(self) -> None:
        self.open_inner(self.factory.inner_factory)


class WebSocketServerFactory(AutobahnServerFactory):
    """
    Makes WebSocket connections whose MQTT protocols `factory` makes. `path`: the only one that is served, as it stands
    in the request; None serves all. `max_connections` counts open handshakes too.
    """

    protocol = _ServerChannel
    noisy = False

    def __init__(
        self,
        factory: Factory,
        *,
        clock: IReactorTime,
        path: str | None = None,
        max_connections: int = 1000,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        super().__init__(protocols=[SUBPROTOCOL], server="", reactor=clock)
        self.setProtocolOptions(
            webStatus=False,
            failByDrop=False,
            maxFramePayloadSize=max_message_bytes,
            maxMessagePayloadSize=max_message_bytes,
            openHandshakeTimeout=OPEN_HANDSHAKE_SECONDS,
            closeHandshakeTimeout=CLOSE_HANDSHAKE_SECONDS,
            tcpNoDelay=True,
            maxConnections=max_connections,
        )
        self._batched_timer = _Timer(clock)
        self.inner_factory = factory
        self.path = path


__all__ = [
    "WebSocketClientEndpoint",
    "WebSocketRefused",
    "WebSocketServerFactory",
    "WebSocketTransport",
]
