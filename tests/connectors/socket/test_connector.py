"""Tests of the connector as a service: in memory first, then on real sockets of this machine."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, cast
from unittest import SkipTest

from twisted.application.service import IService
from twisted.internet import reactor as real_reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost, DNSLookupError
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from tbgw.connectors.socket.config import SocketConfig
from tbgw.connectors.socket.connector import CLOSE_SECONDS, SocketConnector
from tbgw.connectors.socket.tcp import BACKLOG
from tbgw.interfaces import IConnector, IStatusSource
from tests.connectors.socket.fakes import (
    DeviceTransport,
    Lines,
    MemoryDevicesReactor,
    RealSocketsFakeTime,
    RecordingIngest,
    make_config,
    make_device,
    with_model,
)

reactor: Any = real_reactor
IN_USE = OSError(errno.EADDRINUSE, "Address already in use")


def make_connector(ingest: RecordingIngest, lines: Lines, reactor: Any, config: SocketConfig) -> SocketConnector:
    return SocketConnector("c", config, with_model(*config.devices), ingest, lines.events, reactor, lambda: 1000)


class MemoryTests(SynchronousTestCase):
    """`SocketConnector` on a reactor in memory."""

    def setUp(self) -> None:
        self.ingest = RecordingIngest()
        self.lines = Lines()
        self.reactor = MemoryDevicesReactor()

    def make(self, *devices: Any, **options: Any) -> SocketConnector:
        config = make_config(*(devices or (make_device(),)), **options)
        return make_connector(self.ingest, self.lines, self.reactor, config)

    def connect(self, host: str = "10.0.0.7") -> tuple[Any, DeviceTransport]:
        factory: Any = self.reactor.tcpServers[-1][1]
        protocol = factory.buildProtocol(IPv4Address("TCP", host, 6100))
        transport = DeviceTransport(host)
        protocol.makeConnection(transport)
        return protocol, transport

    def test_interfaces(self) -> None:
        """It is a connector, a service and a source of status."""
        connector = self.make()
        verifyObject(IConnector, connector)
        verifyObject(IService, connector)
        verifyObject(IStatusSource, connector)
        self.assertEqual((connector.connector_name, connector.connector_type), ("c", "socket"))

    def test_tcp(self) -> None:
        """A TCP connector listens where it is told, says so, and hands in what devices send."""
        self.make(address="127.0.0.1", port=50000).startService()
        port, _, backlog, interface = self.reactor.tcpServers[0]
        self.assertEqual((port, backlog, interface), (50000, BACKLOG, "127.0.0.1"))
        self.connect()[0].dataReceived(b"x")
        self.assertEqual(self.ingest.values("raw"), ["x"])
        self.assertEqual(len(self.lines.of("Listening")), 1)
        self.assertIn("connector c: listening on TCP 127.0.0.1 port ", self.lines.of("Listening")[0])

    def test_udp(self) -> None:
        """A UDP connector listens where it is told and reads one byte more than the longest message."""
        connector = self.make(transport="UDP", port=6100, buffer_bytes=64)
        connector.startService()
        (port,) = self.reactor.udp
        self.assertEqual((port.max_packet_bytes, port.getHost().port), (65, 6100))
        port.waiting = [(b"x", ("10.0.0.7", 6100))]
        port.do_read()
        self.assertEqual(self.ingest.values("raw"), ["x"])
        stopped = connector.stopService()
        self.assertNoResult(stopped)
        self.reactor.advance(0)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual((port.connected, self.ingest.sources), (False, []))

    def test_ipv6_address(self) -> None:
        """An IPv6 address is handed to the reactor as it is."""
        self.make(address="::1").startService()
        self.assertEqual(self.reactor.tcpServers[0][3], "::1")

    def test_delimiter_is_used(self) -> None:
        """A configured delimiter cuts the stream."""
        self.make(delimiter=b";").startService()
        self.connect()[0].dataReceived(b"a;b;")
        self.assertEqual(self.ingest.values("raw"), ["a", "b"])

    def test_port_in_use(self) -> None:
        """An address in use is one clear line for each attempt, made after 5, 10, 20, 40, 60 and 60 s."""
        self.reactor.refusals = [IN_USE] * 6
        connector = self.make()
        connector.startService()
        for attempts, delay in enumerate((5, 10, 20, 40, 60, 60), start=1):
            self.assertEqual(len(self.lines.of("ListenFailed")), attempts)
            self.assertEqual(
                self.lines.of("ListenFailed")[-1],
                "connector c: cannot listen on TCP 127.0.0.1 port 50000: Address already in use; "
                f"next attempt in {delay} s",
            )
            self.reactor.advance(delay - 0.5)
            self.assertEqual(len(self.lines.of("ListenFailed")), attempts)
            self.reactor.advance(0.5)
        self.assertTrue(connector.listening)
        self.assertEqual(self.lines.of("Listening"), [])
        self.assertEqual(len(self.lines.of("ListeningAgain")), 1)
        self.assertIn("again, after 6 failures", self.lines.of("ListeningAgain")[0])
        self.assertEqual(self.lines.counters.get("listen_failures", "c"), 6)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_delays_begin_anew(self) -> None:
        """After a success the next trouble begins with the shortest delay again."""
        self.reactor.refusals = [IN_USE] * 3
        self.make().startService()
        self.reactor.pump([5, 10, 20])
        self.reactor.tcpServers[-1][1].doStop()
        self.assertIn("next attempt in 5 s", self.lines.of("ListenerLost")[0])

    def test_udp_port_in_use(self) -> None:
        """The same for UDP."""
        self.reactor.refusals = [IN_USE]
        connector = self.make(transport="UDP")
        connector.startService()
        self.assertEqual((connector.listening, self.ingest.sources), (False, []))
        self.reactor.advance(5)
        self.assertEqual((connector.listening, len(self.ingest.sources)), (True, 1))

    def test_stopped_while_it_waits(self) -> None:
        """A connector that is stopped between two attempts makes no further one."""
        self.reactor.refusals = [IN_USE]
        connector = self.make()
        connector.startService()
        self.assertIsNone(self.successResultOf(connector.stopService()))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_s27_listening_only_after_the_bind(self) -> None:
        """S-27: the connector does not claim to listen before it does."""
        self.reactor.refusals = [IN_USE]
        connector = self.make()
        self.assertFalse(connector.status()["listening"])
        connector.startService()
        self.assertFalse(connector.status()["listening"])
        self.reactor.advance(5)
        self.assertTrue(connector.status()["listening"])

    def test_s26_lost_listening_socket(self) -> None:
        """S-26: a listening socket that goes away by itself is told and opened again; connections stay."""
        for transport in ("TCP", "UDP"):
            connector = self.make(transport=transport)
            connector.startService()
            if transport == "TCP":
                protocol, _ = self.connect()
                self.reactor.tcpServers[-1][1].doStop()
                protocol.dataReceived(b"still here")
                self.assertEqual(self.ingest.values("raw"), ["still here"])
            else:
                self.reactor.udp[-1].lose()
            self.assertFalse(connector.listening)
            self.reactor.advance(5)
            self.assertTrue(connector.listening)
        self.assertEqual(
            self.lines.of("ListenerLost"),
            ["connector c: the listening socket was lost; next attempt in 5 s"] * 2,
        )

    def test_local_address_by_name(self) -> None:
        """A local address given by name is looked up without blocking; `localhost` needs no look-up."""
        self.make(address="localhost").startService()
        self.assertEqual(self.reactor.tcpServers[-1][3], "127.0.0.1")
        connector = self.make(address="gateway.local")
        connector.startService()
        self.assertFalse(connector.listening)
        self.reactor.names.pop("gateway.local").callback("10.0.0.1")
        self.assertTrue(connector.listening)
        self.assertEqual(self.reactor.tcpServers[-1][3], "10.0.0.1")

    def test_unknown_name(self) -> None:
        """A name that is not found is told and looked up again later."""
        connector = self.make(address="gateway.local")
        connector.startService()
        self.reactor.names.pop("gateway.local").errback(DNSLookupError("no such name"))
        self.assertIn("no such name; next attempt in 5 s", self.lines.of("ListenFailed")[0])
        self.reactor.advance(5)
        self.reactor.names.pop("gateway.local").callback("10.0.0.1")
        self.assertTrue(connector.listening)

    def test_name_found_too_late(self) -> None:
        """An answer that comes after the stop opens nothing, also if the connector was started again."""
        connector = self.make(address="gateway.local")
        connector.startService()
        late = self.reactor.names.pop("gateway.local")
        self.successResultOf(connector.stopService())
        connector.startService()
        late.callback("10.0.0.1")
        self.assertEqual((connector.listening, self.reactor.tcpServers), (False, []))

    def test_s08_stop_closes_everything(self) -> None:
        """S-08: stopping closes listener and connections and fires when the last of them is gone."""
        connector = self.make()
        connector.startService()
        connections = [self.connect(), self.connect("10.0.0.8")]
        stopped = connector.stopService()
        self.assertFalse(connector.listening)
        for protocol, transport in connections:
            self.assertTrue(transport.disconnecting)
            self.assertNoResult(stopped)
            protocol.connectionLost(Failure(ConnectionDone()))
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_s08_connection_that_does_not_close(self) -> None:
        """S-08: a connection that does not end in good order within the time is cut."""
        connector = self.make()
        connector.startService()
        protocol, transport = self.connect()
        stopped = connector.stopService()
        self.reactor.advance(CLOSE_SECONDS)
        self.assertTrue(transport.disconnected)
        protocol.connectionLost(Failure(ConnectionLost()))
        self.assertIsNone(self.successResultOf(stopped))

    def test_started_again(self) -> None:
        """A connector that was stopped can be started again, and the end of its first life does not disturb it."""
        connector = self.make()
        connector.startService()
        old_factory: Any = self.reactor.tcpServers[-1][1]
        self.successResultOf(connector.stopService())
        connector.startService()
        old_factory.doStop()
        self.assertTrue(connector.listening)
        self.assertEqual(self.lines.of("ListenerLost"), [])
        self.connect()[0].dataReceived(b"x")
        self.assertEqual(self.ingest.values("raw"), ["x"])

    def test_status(self) -> None:
        """The status has the state, the open connections and what came in."""
        connector = self.make()
        self.assertEqual(connector.status()["connections"], 0)
        connector.startService()
        self.connect()[0].dataReceived(b"abc")
        status = connector.status()
        self.assertEqual(
            {key: status[key] for key in ("name", "type", "transport", "address", "listening")},
            {"name": "c", "type": "socket", "transport": "TCP", "address": "127.0.0.1", "listening": True},
        )
        self.assertEqual((status["connections"], status["messages"], status["bytes"]), (1, 1, 3))


class NotifyingIngest(RecordingIngest):
    """Lets a test wait for what it expects."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[tuple[int, Deferred[None]]] = []

    def when_logged(self, count: int) -> Deferred[None]:
        """Fires when `log` has at least so many entries."""
        if len(self.log) >= count:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._waiting.append((count, waiting))
        return waiting

    def accept(self, reading: Any) -> Any:
        receipt = super().accept(reading)
        self._tell()
        return receipt

    def disconnected(self, device: Any) -> None:
        super().disconnected(device)
        self._tell()

    def _tell(self) -> None:
        due = [waiting for count, waiting in self._waiting if len(self.log) >= count]
        self._waiting = [(count, waiting) for count, waiting in self._waiting if len(self.log) < count]
        for waiting in due:
            waiting.callback(None)


class DeviceClient(Protocol):
    """A device; `lost` fires with the reason when its connection ends."""

    transport: Any

    def __init__(self) -> None:
        self.lost: Deferred[Failure] = Deferred()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - as Twisted's
        self.lost.callback(reason.value)  # type: ignore[arg-type]  # the exception: a Failure would be an errback


class RealSocketTests(TestCase):
    """`SocketConnector` on sockets of this machine."""

    timeout = 20

    def setUp(self) -> None:
        self.ingest = NotifyingIngest()
        self.lines = Lines()

    def start(self, clock_or_reactor: Any = reactor, **options: Any) -> SocketConnector:
        options.setdefault("port", 0)
        config = make_config(options.pop("device", None) or make_device("127.0.0.1:*"), **options)
        connector = make_connector(self.ingest, self.lines, clock_or_reactor, config)
        connector.startService()
        self.addCleanup(lambda: connector.stopService() if connector.running else None)
        return connector

    async def other_traffic(self) -> None:
        """Another gateway's message makes its way: whatever was to come before it has come."""
        ingest = NotifyingIngest()
        config = make_config(make_device(), port=0)
        other = make_connector(ingest, self.lines, reactor, config)
        other.startService()
        client = await self.client(other)
        client.transport.write(b"x")
        await ingest.when_logged(1)
        await other.stopService()

    async def client(self, connector: SocketConnector, host: str = "127.0.0.1") -> DeviceClient:
        made: Deferred[DeviceClient] = Deferred()

        class Client(DeviceClient):
            def connectionMade(self) -> None:
                made.callback(self)

        factory = Factory.forProtocol(Client)
        factory.noisy = False
        factory.startedConnecting = lambda _: None  # type: ignore[attr-defined]  # as ClientFactory has it
        factory.clientConnectionFailed = lambda _, why: made.errback(why)  # type: ignore[attr-defined]  # same
        factory.clientConnectionLost = lambda _, why: None  # type: ignore[attr-defined]  # same
        reactor.connectTCP(host, connector.status()["port"], factory)
        return await made

    async def test_tcp(self) -> None:
        """A device connects, sends and goes: reading and disconnect arrive, nothing of it stays."""
        connector = self.start()
        client = await self.client(connector)
        client.transport.write(b"21.5")
        await self.ingest.when_logged(1)
        self.assertEqual(connector.status()["connections"], 1)
        client.transport.loseConnection()
        await self.ingest.when_logged(2)
        self.assertEqual(self.ingest.log, [("accept", "Line 4"), ("disconnected", "Line 4")])
        self.assertEqual(connector.status()["connections"], 0)

    async def test_tcp_read_size(self) -> None:
        """P-14: a long write arrives in reads of the configured size, with nothing left out."""
        connector = self.start(buffer_bytes=100)
        client = await self.client(connector)
        client.transport.write(b"0123456789" * 100)
        client.transport.loseConnection()
        await client.lost
        while ("disconnected", "Line 4") not in self.ingest.log:
            await self.ingest.when_logged(len(self.ingest.log) + 1)
        values = self.ingest.values("raw")
        self.assertEqual("".join(values), "0123456789" * 100)
        self.assertLessEqual(max(map(len, values)), 100)

    async def test_refused_peer(self) -> None:
        """P-09: a peer that is not admitted finds its connection closed at once."""
        connector = self.start(device=make_device("10.0.0.7:*"))
        client = await self.client(connector)
        await client.lost
        self.assertEqual(self.lines.counters.get("peers_refused", "c"), 1)
        self.assertEqual(connector.status()["connections"], 0)

    async def test_paused_connection_keeps_its_data(self) -> None:
        """What a device sends during a pause is read after it."""
        self.ingest.behind = True
        connector = self.start()
        client = await self.client(connector)
        client.transport.write(b"21.5")
        await self.other_traffic()
        self.assertEqual(self.ingest.log, [])
        self.ingest.sources[0].resume_reading()
        await self.ingest.when_logged(1)
        self.assertEqual(self.ingest.values("raw"), ["21.5"])

    async def test_s07_reset(self) -> None:
        """S-07: a connection that the device resets is forgotten."""
        connector = self.start()
        client = await self.client(connector)
        client.transport.write(b"x")
        await self.ingest.when_logged(1)
        client.transport.abortConnection()
        await self.ingest.when_logged(2)
        self.assertEqual((connector.status()["connections"], self.ingest.sources), (0, []))

    async def test_s08_stop(self) -> None:
        """S-08: when the stop has finished, devices see their connections closed and the port is free."""
        connector = self.start()
        clients = [await self.client(connector) for _ in range(3)]
        clients[0].transport.write(b"x")
        await self.ingest.when_logged(1)
        port = connector.status()["port"]
        await connector.stopService()
        self.assertEqual(self.ingest.sources, [])
        for client in clients:
            await client.lost
        with socket.socket() as probe:
            self.assertEqual(probe.connect_ex(("127.0.0.1", port)), errno.ECONNREFUSED)

    async def test_port_in_use(self) -> None:
        """A port that another program has is told by the system's reason, and taken once it is free."""
        time = RealSocketsFakeTime(reactor)
        for transport, kind in (("TCP", socket.SOCK_STREAM), ("UDP", socket.SOCK_DGRAM)):
            with socket.socket(type=kind) as other:
                other.bind(("127.0.0.1", 0))
                if transport == "TCP":
                    other.listen()
                connector = self.start(time, transport=transport, port=other.getsockname()[1])
                self.assertFalse(connector.listening)
            time.advance(5)
            self.assertTrue(connector.listening)
        for line in self.lines.of("ListenFailed"):
            self.assertIn(os.strerror(errno.EADDRINUSE), line)

    async def test_s26_lost_listening_socket(self) -> None:
        """S-26: when Twisted gives the listening socket up, the connector opens it again."""
        time = RealSocketsFakeTime(reactor)
        for transport in ("TCP", "UDP"):
            connector = self.start(time, transport=transport)
            port: Any = connector.port
            port.stopReading()
            port.connectionLost(Failure(ConnectionLost()))
            self.assertFalse(connector.listening)
            time.advance(5)
            self.assertTrue(connector.listening)

    async def test_ipv6(self) -> None:
        """An IPv6 address is listened on, and an IPv6 peer admitted by its filter."""
        connector = self.start(device=make_device("[::1]:*"), address="::1")
        if not connector.listening:
            raise SkipTest("this machine has no IPv6 loopback")
        client = await self.client(connector, "::1")
        client.transport.write(b"six")
        await self.ingest.when_logged(1)
        self.assertEqual(self.ingest.values("raw"), ["six"])
        client.transport.loseConnection()
        await self.ingest.when_logged(2)

    async def test_ipv4_peer_on_an_ipv6_socket(self) -> None:
        """A connector on `::` admits IPv4 peers by IPv4 filters."""
        connector = self.start(device=make_device("127.0.0.1:*"), address="::")
        if not connector.listening:
            raise SkipTest("this machine has no IPv6")
        client = await self.client(connector)
        client.transport.write(b"four")
        await self.ingest.when_logged(1)
        client.transport.loseConnection()
        await self.ingest.when_logged(2)

    def send_datagrams(self, connector: SocketConnector, host: str, *datagrams: bytes) -> None:
        sender = reactor.listenUDP(0, DatagramProtocol(), interface=host)
        self.addCleanup(sender.stopListening)
        for datagram in datagrams:
            sender.write(datagram, (host, connector.status()["port"]))

    async def test_udp(self) -> None:
        """Datagrams arrive in order, of the longest possible length too."""
        connector = self.start(transport="UDP", buffer_bytes=1500)
        self.send_datagrams(connector, "127.0.0.1", b"a", b"b" * 1500, b"c")
        await self.ingest.when_logged(3)
        self.assertEqual(self.ingest.values("raw"), ["a", "b" * 1500, "c"])

    async def test_s03_long_datagram(self) -> None:
        """S-03: of a datagram that is one byte too long, nothing arrives; the configured size is the one used."""
        connector = self.start(transport="UDP", buffer_bytes=1200)
        self.send_datagrams(connector, "127.0.0.1", b"b" * 1201, b"after", b"a" * 1200)
        await self.ingest.when_logged(2)
        self.assertEqual(self.ingest.values("raw"), ["after", "a" * 1200])
        self.assertEqual(self.lines.counters.get("messages_too_long", "c"), 1)

    async def test_udp_pause(self) -> None:
        """A UDP port that opens while the store is behind reads after that what came in between."""
        self.ingest.behind = True
        connector = self.start(transport="UDP")
        self.send_datagrams(connector, "127.0.0.1", b"waits")
        await self.other_traffic()
        self.assertEqual(self.ingest.log, [])
        self.ingest.sources[0].resume_reading()
        await self.ingest.when_logged(1)
        self.assertEqual(self.ingest.values("raw"), ["waits"])

    async def test_udp_flood_is_read_in_turns(self) -> None:
        """More datagrams than one turn takes all arrive, by way of several turns."""
        connector = self.start(transport="UDP")
        for _ in range(8):
            self.send_datagrams(connector, "127.0.0.1", *[b"x"] * 100)
            await self.ingest.when_logged(len(self.ingest.log) + 100)
        self.assertEqual(len(self.ingest.log), 800)

    async def test_udp_over_ipv6(self) -> None:
        """UDP works over IPv6 as well."""
        connector = self.start(device=make_device("[::1]:*"), address="::1", transport="UDP")
        if not connector.listening:
            raise SkipTest("this machine has no IPv6 loopback")
        self.send_datagrams(connector, "::1", b"six")
        await self.ingest.when_logged(1)
        self.assertEqual(self.ingest.values("raw"), ["six"])

    async def test_multicast(self) -> None:
        """A datagram to a group that was joined is taken like any other; a group that cannot be joined is told."""
        connector = self.start(device=make_device("*:*"), address="0.0.0.0", transport="UDP", groups=("239.255.77.1",))
        assert connector.port is not None
        port = cast(Any, connector.port.getHost()).port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("0.0.0.0"))
            try:
                sender.sendto(b"to all", ("239.255.77.1", port))
            except OSError:
                raise SkipTest("this machine has no route for multicast") from None
        await self.ingest.when_logged(1)
        self.assertEqual(self.ingest.values("raw"), ["to all"])
        self.assertEqual(self.lines.of("GroupNotJoined"), [])
