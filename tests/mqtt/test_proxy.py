"""The endpoint behind an HTTP proxy, against a scripted proxy in memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tbgw.mqtt.proxy import MAX_HEAD_BYTES, HTTPConnectEndpoint, ProxyRefused
from tests.mqtt.memory import MemoryTransport, lose


@implementer(IStreamClientEndpoint)
class Proxy:
    """An endpoint whose other end the test holds."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.transport = MemoryTransport()
        self.failure = failure
        self.tunnel: Any = None
        self.waiting: Deferred[Any] | None = None

    def connect(self, protocolFactory):
        if self.failure is not None:
            return fail(self.failure)
        if self.waiting is not None:
            return self.waiting
        self.tunnel = protocolFactory.buildProtocol(None)
        self.tunnel.makeConnection(self.transport)
        return succeed(self.tunnel)


class Inner(Protocol):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def connectionMade(self) -> None:
        self.calls.append("made")

    def dataReceived(self, data: bytes) -> None:
        self.calls.append(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.calls.append("lost")


class ProxyTests(SynchronousTestCase):
    """CONNECT, its answers, and what follows."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.proxy = Proxy()
        self.inner = Inner()

    def dial(self, host: str = "tb.example", port: int = 8883, **options: Any) -> Deferred[Any]:
        endpoint = HTTPConnectEndpoint(self.proxy, host, port, clock=self.clock, timeout_seconds=9, **options)
        inner = self.inner

        class Inners(Factory):
            def buildProtocol(self, addr):
                return inner

        return endpoint.connect(Inners())

    def test_request(self):
        """The host with its port, an IPv6 address in brackets, and credentials where there are some."""
        self.dial()
        self.assertEqual(
            self.proxy.transport.taken(), b"CONNECT tb.example:8883 HTTP/1.1\r\nHost: tb.example:8883\r\n\r\n"
        )
        self.proxy = Proxy()
        self.dial("::1", 1, username="user", password="c4n4ry")
        self.assertEqual(
            self.proxy.transport.taken(),
            b"CONNECT [::1]:1 HTTP/1.1\r\nHost: [::1]:1\r\nProxy-Authorization: Basic dXNlcjpjNG40cnk=\r\n\r\n",
        )
        endpoint = HTTPConnectEndpoint(self.proxy, "h", 1, clock=self.clock, username="user", password="c4n4ry")
        self.assertNotIn("c4n4ry", repr(endpoint))

    def test_open_at_every_cut(self):
        """The answer in any portions; what comes behind it belongs to the inner protocol."""
        answer = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nfirst"
        for cut in range(len(answer)):
            self.setUp()
            dialled = self.dial()
            for part in (answer[:cut], answer[cut:]):
                if part:
                    self.proxy.tunnel.dataReceived(part)
            self.assertIs(self.successResultOf(dialled), self.inner)
            self.assertIs(self.inner.transport, self.proxy.transport)
            self.proxy.tunnel.dataReceived(b"more")
            self.assertEqual(self.inner.calls[0], "made")
            self.assertEqual(b"".join(self.inner.calls[1:]), b"firstmore")
            lose(self.proxy.tunnel, self.proxy.transport)
            self.assertEqual(self.inner.calls[-1], "lost")
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def refused(self, answer: bytes) -> ProxyRefused:
        dialled = self.dial()
        self.proxy.tunnel.dataReceived(answer)
        reason = self.failureResultOf(dialled, ProxyRefused).value
        assert isinstance(reason, ProxyRefused)
        self.assertTrue(self.proxy.transport.aborted)
        lose(self.proxy.tunnel, self.proxy.transport)
        self.assertEqual(self.inner.calls, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return reason

    def test_refused(self):
        """Another status, something that is no HTTP, and an endless head."""
        self.assertEqual(self.refused(b"HTTP/1.1 407 Who are you\r\n\r\n").status, 407)
        for answer in (b"SSH-2.0\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 2xx\r\n\r\n", b"x" * (MAX_HEAD_BYTES + 1)):
            self.setUp()
            self.assertIsNone(self.refused(answer).status)

    def test_silence(self):
        """A proxy that says nothing has its time."""
        dialled = self.dial()
        self.clock.advance(8.9)
        self.assertNoResult(dialled)
        self.clock.advance(0.2)
        self.failureResultOf(dialled, ProxyRefused)
        self.assertTrue(self.proxy.transport.aborted)

    def test_lost(self):
        """A proxy that goes away, and one that is not there."""
        dialled = self.dial()
        lose(self.proxy.tunnel, self.proxy.transport)
        self.failureResultOf(dialled, ConnectionDone)
        self.proxy = Proxy(ConnectError())
        self.failureResultOf(self.dial(), ConnectError)

    def test_cancelled(self):
        """Cancelling gives the attempt up, wherever it is."""
        dialled = self.dial()
        dialled.cancel()
        self.failureResultOf(dialled, CancelledError)
        self.assertTrue(self.proxy.transport.aborted)
        lose(self.proxy.tunnel, self.proxy.transport)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.setUp()
        self.proxy.waiting = Deferred()
        dialled = self.dial()
        dialled.cancel()
        self.failureResultOf(dialled, CancelledError)

    def test_bad_addresses(self):
        """What no request can hold is refused at once."""
        for host, port in (("", 1), ("a b", 1), ("a\r\nb", 1), ("ä", 1), ("h/x", 1), ("h", 0), ("h", 65536)):
            self.assertRaises(ValueError, HTTPConnectEndpoint, self.proxy, host, port, clock=self.clock)
        self.assertRaises(ValueError, HTTPConnectEndpoint, self.proxy, "h", 1, clock=self.clock, username="a:b")
