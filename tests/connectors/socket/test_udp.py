"""Tests of the UDP side, without sockets."""

from __future__ import annotations

import socket

from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tbgw.connectors.socket.routes import Routes
from tbgw.connectors.socket.udp import BYTES_A_TURN, DATAGRAMS_A_TURN, RECEIVE_BUFFER_BYTES, DevicePort
from tbgw.interfaces import IPausable
from tests.connectors.socket.fakes import (
    FakeDatagramPort,
    Lines,
    MemoryDevicesReactor,
    RecordingIngest,
    make_device,
    with_model,
)

PEER = ("10.0.0.7", 6100)


class UDPTests(SynchronousTestCase):
    """`DevicePort`."""

    def setUp(self) -> None:
        self.ingest = RecordingIngest()
        self.lines = Lines()
        self.reactor = MemoryDevicesReactor()
        self.losses = 0

    def listen(self, behind: bool = False) -> tuple[DevicePort, FakeDatagramPort]:
        self.ingest.behind = behind
        self.routes = Routes("c", with_model(make_device("10.0.0.0/8:*")), self.ingest, self.lines.events)
        protocol = DevicePort(
            "c", self.routes, 16, self.ingest, self.lines.events, lambda: 1000, self.reactor, self.lost
        )
        protocol.listen(self.reactor, "0.0.0.0", 6100)
        return protocol, self.reactor.udp[-1]

    def lost(self) -> None:
        self.losses += 1

    def test_datagram_is_a_message(self) -> None:
        """Each datagram is handed in as one message, with the wall time of its arrival."""
        protocol, _ = self.listen()
        protocol.datagramReceived(b"21.5", PEER)
        self.assertEqual(self.ingest.readings[0].telemetry, ((1000, {"raw": "21.5"}),))
        self.assertEqual(self.routes.bytes, 4)

    def test_unknown_sender_is_refused(self) -> None:
        """P-09: datagrams from elsewhere are counted and go nowhere, even if they are too long."""
        protocol, _ = self.listen()
        for datagram in (b"x", b"x" * 17):
            protocol.datagramReceived(datagram, ("11.0.0.7", 5))
        self.assertEqual(self.ingest.readings, [])
        self.assertEqual(self.lines.counters.get("peers_refused", "c"), 2)
        self.assertEqual(self.lines.counters.get("messages_too_long", "c"), 0)
        self.assertIn("11.0.0.7:5 is refused", self.lines.of("PeerRefused")[0])

    def test_s03_long_datagrams_are_dropped_whole(self) -> None:
        """S-03: a datagram at the limit passes; one byte more is dropped and counted, and never comes out cut."""
        _, port = self.listen()
        port.waiting = [(b"x" * 16, PEER), (b"y" * 17, PEER), (b"z" * 1500, PEER)]
        port.do_read()
        self.assertEqual(self.ingest.values("raw"), ["x" * 16])
        self.assertEqual(self.lines.counters.get("messages_too_long", "c"), 2)
        self.assertEqual(
            self.lines.of("MessagesTooLong"),
            ["connector c: 1 message(s) from 10.0.0.7:6100 dropped, longer than 16 bytes"],
        )

    def test_receive_buffer(self) -> None:
        """The kernel is asked for room for a burst."""
        _, port = self.listen()
        self.assertEqual(port.options, {socket.SO_RCVBUF: RECEIVE_BUFFER_BYTES})

    def test_pausing(self) -> None:
        """The port is a source that can be paused and resumed, any number of times."""
        protocol, port = self.listen()
        verifyObject(IPausable, protocol)
        self.assertEqual(self.ingest.sources, [protocol])
        for call, reading in [
            (protocol.resume_reading, True),
            (protocol.pause_reading, False),
            (protocol.pause_reading, False),
            (protocol.resume_reading, True),
        ]:
            call()
            self.assertEqual(port.reading, reading)
            self.assertEqual(port.maxThroughput > 0, reading)

    def test_opened_while_the_store_is_behind(self) -> None:
        """A port that is opened while the store is behind does not read, although Twisted starts it reading."""
        protocol, port = self.listen(behind=True)
        self.assertFalse(port.reading)
        protocol.resume_reading()
        self.assertTrue(port.reading)

    def test_pause_ends_the_read_loop(self) -> None:
        """What waits in the kernel stays there when the pause comes in the middle of a turn."""
        protocol, port = self.listen()
        port.waiting = [(b"x", PEER)] * 10
        self.ingest.accepted = protocol.pause_reading
        port.do_read()
        self.assertEqual((len(self.ingest.readings), len(port.waiting)), (1, 9))

    def test_the_reactor_gets_its_turn(self) -> None:
        """P-17: a flood, of empty datagrams and from strangers too, is read in pieces, and nothing of it is lost."""
        for datagram, sender in [(b"x", PEER), (b"", PEER), (b"", ("11.0.0.7", 5))]:
            _, port = self.listen()
            port.waiting = [(datagram, sender)] * (2 * DATAGRAMS_A_TURN + 1)
            for left in (DATAGRAMS_A_TURN + 1, 1, 0):
                port.do_read()
                self.assertEqual(len(port.waiting), left)
                port.do_read()
                self.assertEqual(len(port.waiting), left)
                self.reactor.advance(0)
            self.assertEqual(port.maxThroughput, BYTES_A_TURN)
        self.assertEqual(len(self.ingest.readings), 2 * DATAGRAMS_A_TURN + 1)

    def test_pause_lasts_over_the_end_of_a_turn(self) -> None:
        """A pause is not ended by the reactor's next turn, nor a turn by the end of a pause."""
        protocol, port = self.listen()
        port.waiting = [(b"x", PEER)] * (DATAGRAMS_A_TURN + 1)
        port.do_read()
        protocol.pause_reading()
        protocol.resume_reading()
        port.do_read()
        self.assertEqual(len(port.waiting), 1)
        protocol.pause_reading()
        self.reactor.advance(0)
        port.do_read()
        self.assertEqual(len(port.waiting), 1)
        protocol.resume_reading()
        port.do_read()
        self.assertEqual(len(port.waiting), 0)

    def test_lost_socket(self) -> None:
        """When the socket goes the source is taken back, no timer stays, and the loss is told."""
        protocol, port = self.listen()
        port.waiting = [(b"x", PEER)] * DATAGRAMS_A_TURN
        port.do_read()
        port.lose()
        self.assertEqual((self.ingest.sources, self.reactor.getDelayedCalls(), self.losses), ([], [], 1))
        protocol.pause_reading()
        protocol.resume_reading()

    def test_closing_port_does_not_read_on(self) -> None:
        """Once it is being closed, a port that was paused is not made to read again."""
        protocol, port = self.listen()
        protocol.pause_reading()
        self.assertIsNone(self.successResultOf(protocol.close()))
        protocol.resume_reading()
        self.assertFalse(port.reading)

    def test_address_in_use(self) -> None:
        """A socket that cannot be opened is the caller's to know; nothing is registered."""
        self.reactor.refusals = [OSError(98, "Address already in use")]
        self.assertRaises(CannotListenError, self.listen)
        self.assertEqual(self.ingest.sources, [])
