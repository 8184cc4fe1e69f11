"""Connecting to devices that listen: kept connected, with growing pauses; and the UDP side's guards."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.socket.config import Poll, Target
from tbgw.connectors.socket.connector import SocketConnector
from tbgw.connectors.socket.udp import REMEMBERED_SOURCES, RateGuard
from tests.connectors.socket.fakes import (
    DeviceTransport,
    Lines,
    MemoryDevicesReactor,
    RecordingIngest,
    make_config,
    make_device,
    with_model,
)

DONE = Failure(ConnectionDone())


class ClientTests(SynchronousTestCase):
    """Role client on a reactor in memory."""

    def setUp(self) -> None:
        self.ingest = RecordingIngest()
        self.lines = Lines()
        self.reactor = MemoryDevicesReactor()

    def start(self, *devices: Any, **options: Any) -> SocketConnector:
        config = make_config(*devices, role="client", **options)
        connector = SocketConnector(
            "c",
            config,
            with_model(*devices),
            self.ingest,
            self.lines.events,
            self.reactor,
            lambda: 1000,
            jitter=lambda: 0.5,
        )
        connector.startService()
        return connector

    def answer(self, number: int = -1) -> tuple[Any, DeviceTransport]:
        """The device takes the connection that was dialled."""
        host, port, factory, _, _ = self.reactor.tcpClients[number]
        made: Any = factory
        protocol = made.buildProtocol(IPv4Address("TCP", host, port))
        transport = DeviceTransport(host, port)
        protocol.makeConnection(transport)
        return getattr(protocol, "_wrappedProtocol", protocol), transport

    def refuse(self) -> None:
        factory: Any = self.reactor.tcpClients[-1][2]
        factory.clientConnectionFailed(None, Failure(ConnectError()))

    def test_message(self) -> None:
        """What a device that listens sends is taken as from one that connects; nothing listens here."""
        connector = self.start(make_device("10.0.0.7:502"), targets=(Target("10.0.0.7", 502),))
        protocol, _ = self.answer()
        protocol.dataReceived(b"21.5")
        self.assertEqual(self.ingest.values("raw"), ["21.5"])
        self.assertEqual((self.reactor.tcpServers, connector.status()["connections"]), ([], 1))

    def test_again_with_growing_pauses(self) -> None:
        """After 1, 2, 4, 8, 16, 32, 60 and 60 s; one that brought a message begins anew with the first."""
        self.start(make_device("10.0.0.7:502"), targets=(Target("10.0.0.7", 502),))
        for attempts, delay in enumerate((1, 2, 4, 8, 16, 32, 60, 60), start=1):
            self.assertEqual(len(self.reactor.tcpClients), attempts)
            self.refuse()
            self.reactor.advance(delay - 0.01)
            self.assertEqual(len(self.reactor.tcpClients), attempts)
            self.reactor.advance(0.01)
        protocol, _ = self.answer()
        protocol.dataReceived(b"x")
        protocol.connectionLost(DONE)
        self.reactor.advance(0.99)
        dialled = len(self.reactor.tcpClients)
        self.reactor.advance(0.01)
        self.assertEqual(len(self.reactor.tcpClients), dialled + 1)
        self.assertIn("connector c: 10.0.0.7:502: ", self.lines.of("TargetFailed")[0])
        self.assertEqual(self.lines.counters.get("targets_failed", "c"), 9)

    def test_dropped_at_once(self) -> None:
        """A device that takes the connection and drops it at once is not hammered."""
        self.start(make_device("10.0.0.7:502"), targets=(Target("10.0.0.7", 502),))
        for delay in (1, 2, 4):
            protocol, _ = self.answer()
            protocol.connectionLost(DONE)
            self.reactor.advance(delay - 0.01)
            dialled = len(self.reactor.tcpClients)
            self.reactor.advance(0.01)
            self.assertEqual(len(self.reactor.tcpClients), dialled + 1)

    def test_several_targets(self) -> None:
        """Each target is kept on its own; the filters say whose it is."""
        self.start(
            make_device("10.0.0.7:*", "a"),
            make_device("10.0.0.8:*", "b"),
            targets=(Target("10.0.0.7", 502), Target("10.0.0.8", 502)),
        )
        one, two = self.answer(0), self.answer(1)
        two[0].dataReceived(b"x")
        one[0].dataReceived(b"y")
        self.assertEqual([name for _, name in self.ingest.log], ["b", "a"])

    def test_stop(self) -> None:
        """A stop ends attempts, pauses and connections."""
        for state in ("dialling", "waiting", "connected"):
            connector = self.start(make_device("10.0.0.7:502"), targets=(Target("10.0.0.7", 502),))
            protocol = None
            if state == "waiting":
                self.refuse()
            elif state == "connected":
                protocol, _ = self.answer()
            stopped = connector.stopService()
            if protocol is not None:
                protocol.connectionLost(DONE)
            self.successResultOf(stopped)
            dialled = len(self.reactor.tcpClients)
            self.reactor.advance(200)
            self.assertEqual(len(self.reactor.tcpClients), dialled, state)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_udp_targets_are_polled(self) -> None:
        """With UDP the poll is what is sent to each target, from the bound port; answers are messages."""
        device = make_device("10.0.0.7:502", polls=(Poll("R?"),))
        self.start(device, transport="UDP", targets=(Target("10.0.0.7", 502),))
        (port,) = self.reactor.udp
        self.reactor.advance(0)
        port._protocol.datagramReceived(b"5", ("10.0.0.7", 502))
        self.reactor.advance(1)
        self.assertEqual(port.written, [(b"R?", ("10.0.0.7", 502))] * 2)
        self.assertEqual(self.ingest.values("raw"), ["5"])


class RateGuardTests(SynchronousTestCase):
    """The rate of one address with UDP."""

    def setUp(self) -> None:
        self.reactor = MemoryDevicesReactor()

    def test_rate(self) -> None:
        """P-17: as many at once as a second allows, then by the clock; each address by itself."""
        guard = RateGuard(self.reactor, 10)
        self.assertEqual(sum(guard.admits("a") for _ in range(50)), 10)
        self.assertTrue(guard.admits("b"))
        self.reactor.advance(0.5)
        self.assertEqual(sum(guard.admits("a") for _ in range(50)), 5)

    def test_remembered_addresses_are_bounded(self) -> None:
        """However many addresses are forged, no more than some are remembered."""
        guard = RateGuard(self.reactor, 10)
        for number in range(REMEMBERED_SOURCES + 100):
            guard.admits(str(number))
        self.assertEqual(len(guard._left), REMEMBERED_SOURCES)

    def test_flood_of_one_address(self) -> None:
        """P-17: a flood by one address is dropped and counted; another's datagrams all come."""
        ingest, lines = RecordingIngest(), Lines()
        device = make_device()
        config = make_config(device, transport="UDP", max_messages_per_second=5)
        connector = SocketConnector(
            "c", config, with_model(device), ingest, lines.events, self.reactor, lambda: 1000
        )
        connector.startService()
        (port,) = self.reactor.udp
        for _ in range(100):
            port._protocol.datagramReceived(b"flood", ("10.0.0.66", 1))
        for _ in range(5):
            port._protocol.datagramReceived(b"calm", ("10.0.0.7", 1))
        self.assertEqual((ingest.values("raw").count("flood"), ingest.values("raw").count("calm")), (5, 5))
        self.assertEqual(lines.counters.get("sources_held_back", "c"), 95)
