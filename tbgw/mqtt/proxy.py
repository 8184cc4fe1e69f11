"""An endpoint behind an HTTP proxy: CONNECT (RFC 9110, section 9.3.6), and then the bytes are the caller's.

Wrap it in `wrapClientTLS` for TLS to the server; give it a TLS endpoint for TLS to the proxy. The answer's head is
capped, has a time limit, and nothing is read of a refusal but its status.

Considered and dropped: exchanging the transport's protocol for the inner one. It would save one call for each chunk,
but every kind of transport keeps its protocol elsewhere.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

MAX_HEAD_BYTES: Final = 16 * 1024
"""The largest head of an answer that is taken; proxies send a few hundred bytes."""


class ProxyRefused(Exception):  # noqa: N818 - named by the outcome, as ConnectionRefused is
    """The proxy did not make the connection; `status` is its HTTP status, None when it did not speak HTTP."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class _Tunnel(Protocol):
    """Says CONNECT, and after a status of 2xx passes everything on."""

    transport: ITCPTransport

    def __init__(self, endpoint: HTTPConnectEndpoint, factory: IProtocolFactory, done: Deferred[IProtocol]) -> None:
        self._endpoint = endpoint
        self._factory = factory
        self._done: Deferred[IProtocol] | None = done
        self._inner: IProtocol | None = None
        self._head = b""
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._timer = self._endpoint.clock.callLater(self._endpoint.timeout_seconds, self._overdue)
        self.transport.write(self._endpoint.request())

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        if self._done is None:
            return
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            if len(self._head) > MAX_HEAD_BYTES:
                self._fail(ProxyRefused(f"the proxy's answer has no end within {MAX_HEAD_BYTES} bytes"))
            return
        parts = head.split(b"\r\n", 1)[0].split(b" ", 2)
        if not parts[0].startswith(b"HTTP/1.") or len(parts) < 2 or not (len(parts[1]) == 3 and parts[1].isdigit()):
            self._fail(ProxyRefused("the proxy does not speak HTTP"))
        elif not 200 <= (status := int(parts[1])) < 300:
            self._fail(ProxyRefused(f"the proxy answered with status {status}", status))
        else:
            self._open(rest)

    def _open(self, rest: bytes) -> None:
        self._head = b""
        inner = self._factory.buildProtocol(self.transport.getPeer())
        if inner is None:
            self._fail(ProxyRefused("the factory makes no protocol"))
            return
        self._stop_timer()
        done, self._done = self._done, None
        self._inner = inner
        inner.makeConnection(self.transport)
        if done is not None:
            done.callback(inner)
        if rest:
            inner.dataReceived(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_timer()
        if self._inner is not None:
            self._inner.connectionLost(reason)
        else:
            cause = reason.value if isinstance(reason.value, Exception) else ConnectionDone()
            self._fail(cause)

    def dialling_failed(self, failure: Failure) -> None:
        """There is no connection to the proxy."""
        done, self._done = self._done, None
        if done is not None:
            done.errback(failure)

    def given_up(self) -> None:
        """Nobody wants the connection any more; its Deferred fails by itself."""
        self._stop_timer()
        self._done = None
        if self.transport is not None:
            self.transport.abortConnection()

    def _overdue(self) -> None:
        self._timer = None
        self._fail(ProxyRefused(f"the proxy gave no answer within {self._endpoint.timeout_seconds} s"))

    def _fail(self, reason: Exception) -> None:
        self._stop_timer()
        self._head = b""
        done, self._done = self._done, None
        if done is not None:
            done.errback(reason)
            self.transport.abortConnection()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _TunnelFactory(Factory):
    noisy = False

    def __init__(self, tunnel: _Tunnel) -> None:
        self._tunnel = tunnel

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return self._tunnel


@implementer(IStreamClientEndpoint)
class HTTPConnectEndpoint:
    """
    Dials `proxy`, and through it `host`:`port` (a name, an IPv4 or a bare IPv6 address). `username` and `password` are
    told by Basic authentication, in clear unless `proxy` dials by TLS. Fails with `ProxyRefused` or what `proxy` fails
    with. Raises ValueError for a host that no request can hold, or a port out of range.
    """

    def __init__(
        self,
        proxy: IStreamClientEndpoint,
        host: str,
        port: int,
        *,
        clock: IReactorTime,
        username: str | None = None,
        password: str = "",
        timeout_seconds: float = 20.0,
    ) -> None:
        if not host or not host.isascii() or any(char <= " " or char in "/?#@[]\x7f" for char in host):
            raise ValueError("the host must be an ASCII name or an address without brackets")
        if not 0 < port < 65536:
            raise ValueError(f"port must be 1 to 65535, not {port}")
        if username is not None and ":" in username:
            raise ValueError("a user name of Basic authentication has no colon (RFC 7617)")
        self._proxy = proxy
        self._authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._credentials = None if username is None else f"{username}:{password}".encode()
        self.clock = clock
        self.timeout_seconds = timeout_seconds

    def __repr__(self) -> str:
        """Where to; never the credentials."""
        return f"<HTTPConnectEndpoint to {self._authority}>"

    def request(self) -> bytes:
        """What the proxy is asked."""
        lines = [f"CONNECT {self._authority} HTTP/1.1".encode(), f"Host: {self._authority}".encode()]
        if self._credentials is not None:
            lines.append(b"Proxy-Authorization: Basic " + b64encode(self._credentials))
        return b"\r\n".join((*lines, b"", b""))

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint.connect`. Cancelling gives the attempt up."""
        dialling: Deferred[IProtocol] | None = None
        tunnel: _Tunnel | None = None

        def cancel(deferred: Deferred[IProtocol]) -> None:
            assert dialling is not None  # noqa: S101 - for mypy: set below, before anybody can cancel
            assert tunnel is not None  # noqa: S101 - as above
            dialling.cancel()
            tunnel.given_up()

        done: Deferred[IProtocol] = Deferred(cancel)
        tunnel = _Tunnel(self, protocolFactory, done)
        dialling = self._proxy.connect(_TunnelFactory(tunnel))
        dialling.addErrback(tunnel.dialling_failed)
        return done
