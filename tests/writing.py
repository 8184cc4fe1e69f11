"""What `write_at_once` has to do, for each library's copy of it."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure

reactor: Any = installed


class _Ours(Protocol):
    def __init__(self, made: Deferred[Any], lost: Deferred[None]) -> None:
        self.made = made
        self.lost = lost

    def connectionMade(self) -> None:
        self.made.callback(self.transport)

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment] # Twisted's own default is one
        self.lost.callback(None)


class WriteAtOnce:
    """A mix-in; `write_at_once` is the copy under test."""

    write_at_once: Any

    async def connection(self: Any) -> tuple[Any, socket.socket]:
        """Our transport and the peer's plain socket."""
        made: Deferred[Any] = Deferred()
        self.lost: Deferred[None] = Deferred()
        factory = Factory.forProtocol(lambda: _Ours(made, self.lost))
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        peer = socket.create_connection(("127.0.0.1", port.getHost().port), timeout=5)
        self.addCleanup(peer.close)
        transport = await made
        self.addCleanup(transport.abortConnection)
        return transport, peer

    async def test_at_once(self: Any) -> None:
        """The peer has the bytes although the reactor has not had another turn."""
        transport, peer = await self.connection()
        self.write_at_once(transport, b"lone")
        self.assertEqual(peer.recv(100), b"lone")

    async def test_order(self: Any) -> None:
        """What waits in the transport goes first."""
        transport, peer = await self.connection()
        transport.write(b"first ")
        self.write_at_once(transport, b"second")
        peer.setblocking(False)
        self.assertRaises(BlockingIOError, peer.recv, 100)
        transport.loseConnection()
        await self.lost
        self.assertEqual(peer.recv(100), b"first second")

    async def test_more_than_fits(self: Any) -> None:
        """The rest of what the socket does not take follows, in order."""
        transport, peer = await self.connection()
        content = b"".join(b"%08d" % number for number in range(1_000_000))
        received: Deferred[bytes] = Deferred()

        def read() -> None:
            parts = []
            while part := peer.recv(1 << 20):
                parts.append(part)
            reactor.callFromThread(received.callback, b"".join(parts))

        self.write_at_once(transport, content)
        transport.loseConnection()
        reactor.callInThread(read)
        self.assertEqual(await received, content)

    async def test_peer_is_gone(self: Any) -> None:
        """A reset connection is not told from within the write, but as always."""
        transport, peer = await self.connection()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        self.write_at_once(transport, b"into the void")
        self.write_at_once(transport, b"and more")
        self.assertFalse(self.lost.called)
        await self.lost

    async def test_closing(self: Any) -> None:
        """After `loseConnection` it does what the transport's own `write` does."""
        transport, peer = await self.connection()
        transport.write(b"last")
        transport.loseConnection()
        self.write_at_once(transport, b"too late")
        await self.lost
        self.assertTrue(peer.recv(100).startswith(b"last"))

    async def test_never_around_a_wrapper(self: Any) -> None:
        """A transport that wraps the socket, as TLS does, gets all by its own `write`."""
        transport, peer = await self.connection()
        written = []

        class Wrapped(ProtocolWrapper):
            def write(self, data: bytes) -> None:
                written.append(data)

        wrapper = Wrapped(WrappingFactory(Factory()), Protocol())
        wrapper.transport = transport
        self.assertTrue(hasattr(wrapper, "writeSomeData"))  # it passes names on
        self.write_at_once(wrapper, b"secret")
        self.assertEqual(written, [b"secret"])
        peer.setblocking(False)
        self.assertRaises(BlockingIOError, peer.recv, 100)
