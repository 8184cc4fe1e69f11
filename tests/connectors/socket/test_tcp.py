"""Tests of the TCP side, without sockets."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tbgw.connectors.socket.config import Framing, SocketDevice
from tbgw.connectors.socket.routes import Routes
from tbgw.connectors.socket.tcp import (
    MAX_UNSENT_BYTES,
    PROBE_EVERY_SECONDS,
    PROBES,
    DeviceConnection,
    DeviceFactory,
    shown_peer,
)
from tbgw.interfaces import IPausable
from tests.connectors.socket.fakes import (
    DeviceTransport,
    Lines,
    RecordingIngest,
    make_config,
    make_device,
    with_model,
)

DONE = Failure(ConnectionDone())
LOST = Failure(ConnectionLost())


class TCPTests(SynchronousTestCase):
    """`DeviceFactory` and `DeviceConnection`."""

    def setUp(self) -> None:
        self.ingest = RecordingIngest()
        self.lines = Lines()
        self.now = 1000
        self.clock = Clock()
        self.factory = self.make_factory(make_device("10.0.0.7:*"))

    def make_factory(
        self,
        *devices: SocketDevice,
        delimiter: bytes | None = None,
        max_message_bytes: int = 16,
        max_connections: int = 100,
        **options: Any,
    ) -> DeviceFactory:
        return DeviceFactory(
            "c",
            Routes("c", with_model(*devices), self.ingest, self.lines.events),
            make_config(
                *devices,
                buffer_bytes=max_message_bytes,
                max_connections=max_connections,
                delimiter=delimiter,
                **options,
            ),
            self.ingest,
            self.lines.events,
            lambda: self.now,
            self.clock,
            lambda: None,
        )

    def connect(
        self, host: str = "10.0.0.7", port: int = 6100, factory: DeviceFactory | None = None
    ) -> tuple[DeviceConnection, DeviceTransport]:
        protocol = (factory or self.factory).buildProtocol(IPv4Address("TCP", host, port))
        self.assertIsNot(protocol, None)
        transport = DeviceTransport(host, port)
        protocol.makeConnection(transport)
        return protocol, transport

    def test_read_is_a_message(self) -> None:
        """Each read is handed in as one message, with the wall time of the read."""
        protocol, _ = self.connect()
        protocol.dataReceived(b"21.5")
        self.now = 2000
        protocol.dataReceived(b"22.0")
        self.assertEqual(
            [reading.telemetry for reading in self.ingest.readings],
            [((1000, {"raw": "21.5"}),), ((2000, {"raw": "22.0"}),)],
        )
        self.assertEqual(self.factory.routes.bytes, 8)

    def test_reads_are_bounded(self) -> None:
        """P-14: the transport is told to read no more than the longest message at once."""
        self.assertEqual(self.connect()[1].bufferSize, 16)

    def test_dead_peers_are_noticed(self) -> None:
        """The kernel is asked to probe silent peers, so that one without power does not stay for ever."""
        transport = self.connect()[1]
        self.assertTrue(transport.keep_alive)
        self.assertEqual(
            [transport.options[one] for one in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)],
            [60, PROBE_EVERY_SECONDS, PROBES],
        )

    def test_unknown_peer_is_refused(self) -> None:
        """P-09: a peer that no filter admits gets no protocol, is counted, and written about with its address."""
        for port in range(5000, 5003):
            self.assertIsNone(self.factory.buildProtocol(IPv4Address("TCP", "11.0.0.7", port)))
        self.assertEqual(self.lines.counters.get("peers_refused", "c"), 3)
        self.assertEqual(
            self.lines.of("PeerRefused"),
            ["connector c: 11.0.0.7:5000 is refused, no device's address filter admits it"],
        )
        self.assertEqual(self.factory.connections, set())

    def test_ipv6_peers(self) -> None:
        """IPv6 peers are matched and shown in brackets; IPv4 peers on an IPv6 socket take IPv4 filters."""
        self.assertIsNone(self.factory.buildProtocol(IPv6Address("TCP", "2001:db8::1", 5)))
        self.assertIn("[2001:db8::1]:5 is refused", self.lines.of("PeerRefused")[0])
        self.assertIsNot(self.factory.buildProtocol(IPv6Address("TCP", "::ffff:10.0.0.7", 5)), None)
        self.assertEqual(shown_peer("10.0.0.1", 5), "10.0.0.1:5")

    def test_connection_limit(self) -> None:
        """P-16: connections beyond the limit are refused and counted; when one ends there is room again."""
        factory = self.make_factory(make_device(), max_connections=2)
        first, _ = self.connect(factory=factory)
        self.connect(factory=factory)
        self.assertIsNone(factory.buildProtocol(IPv4Address("TCP", "10.0.0.7", 7)))
        self.assertEqual(self.lines.counters.get("connections_refused", "c"), 1)
        self.assertEqual(
            self.lines.of("ConnectionLimitReached"),
            ["connector c: 10.0.0.7:7 is refused, 2 connections are open and more are not allowed"],
        )
        first.connectionLost(DONE)
        self.connect(factory=factory)

    def test_pausing(self) -> None:
        """A connection is a source that can be paused and resumed, any number of times."""
        protocol, transport = self.connect()
        verifyObject(IPausable, protocol)
        self.assertEqual(self.ingest.sources, [protocol])
        for call, state in [
            (protocol.resume_reading, "producing"),
            (protocol.pause_reading, "paused"),
            (protocol.pause_reading, "paused"),
            (protocol.resume_reading, "producing"),
            (protocol.resume_reading, "producing"),
        ]:
            call()
            self.assertEqual(transport.producerState, state)

    def test_connected_while_the_store_is_behind(self) -> None:
        """A connection that comes while the store is behind is paused from its first moment."""
        self.ingest.behind = True
        _, transport = self.connect()
        self.assertEqual(transport.producerState, "paused")

    def test_closing_connection_does_not_read_on(self) -> None:
        """Once it is being closed, a connection that was paused is not made to read again."""
        protocol, transport = self.connect()
        protocol.pause_reading()
        protocol.close()
        protocol.resume_reading()
        self.assertEqual(transport.producerState, "paused")

    def test_gone(self) -> None:
        """When its last connection ends the device is told gone, after its readings; the source is taken back."""
        first, _ = self.connect()
        second, _ = self.connect(port=6101)
        first.dataReceived(b"x")
        first.connectionLost(DONE)
        self.assertEqual(self.ingest.log, [("accept", "Line 4")])
        second.dataReceived(b"y")
        second.connectionLost(DONE)
        self.assertEqual(self.ingest.log[1:], [("accept", "Line 4"), ("disconnected", "Line 4")])
        self.assertEqual(self.ingest.sources, [])

    def test_close_of_one_of_many_peers_tells_nothing(self) -> None:
        """Where a filter admits more than one address, or an address speaks for two devices, a close says nothing."""
        two = [make_device("10.0.0.7:*", "a"), make_device("10.0.0.7:*", "b")]
        for devices in ([make_device("10.0.0.0/8:*")], two):
            protocol, _ = self.connect(factory=self.make_factory(*devices))
            protocol.dataReceived(b"x")
            protocol.connectionLost(DONE)
        self.assertEqual([what for what, _ in self.ingest.log], ["accept"] * 3)

    def test_device_named_by_its_address_is_told_gone(self) -> None:
        """A name that is made of the address is of one peer only."""
        protocol, _ = self.connect(factory=self.make_factory(make_device("*:*", name="Box ${address}")))
        protocol.dataReceived(b"x")
        protocol.connectionLost(DONE)
        self.assertEqual(self.ingest.log, [("accept", "Box 10.0.0.7"), ("disconnected", "Box 10.0.0.7")])

    def test_connections_of_one_address(self) -> None:
        """P-16: connections beyond the limit of one address are refused and counted; another address is not touched."""
        factory = self.make_factory(make_device(), max_per_address=2)
        first, _ = self.connect(factory=factory)
        self.connect(port=6101, factory=factory)
        self.assertIsNone(factory.buildProtocol(IPv4Address("TCP", "10.0.0.7", 7)))
        self.assertEqual(len(self.lines.of("AddressLimitReached")), 1)
        self.connect("10.0.0.8", factory=factory)
        first.connectionLost(DONE)
        self.connect(port=6102, factory=factory)

    def test_silent_connection_is_given_up(self) -> None:
        """P-16: with the timers on, who says nothing at first, or falls silent, is cut; who speaks stays."""
        factory = self.make_factory(make_device(), first_message_seconds=5, idle_seconds=20)
        silent, silent_transport = self.connect(factory=factory)
        talker, transport = self.connect(port=6101, factory=factory)
        self.clock.advance(4)
        talker.dataReceived(b"x")
        self.clock.advance(2)
        self.assertTrue(silent_transport.disconnected)
        silent.connectionLost(LOST)
        for _ in range(3):
            self.clock.advance(17)
            talker.dataReceived(b"x")
        self.assertFalse(transport.disconnected)
        self.clock.advance(20)
        self.assertTrue(transport.disconnected)
        talker.connectionLost(LOST)
        self.assertEqual(self.lines.counters.get("connections_given_up", "c"), 2)
        self.assertIn("no message within 5 s", self.lines.of("ConnectionGivenUp")[0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_first_message_timer_alone(self) -> None:
        """Without an idle timer, one message is enough for ever."""
        protocol, transport = self.connect(factory=self.make_factory(make_device(), first_message_seconds=5))
        protocol.dataReceived(b"x")
        self.clock.advance(100)
        self.assertFalse(transport.disconnected)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_rate_of_one_connection(self) -> None:
        """P-17: a connection that sends too fast is not read for a while; nothing is lost, others are not touched."""
        factory = self.make_factory(make_device(), delimiter=b"\n", max_messages_per_second=10)
        fast, fast_transport = self.connect(factory=factory)
        slow, slow_transport = self.connect(port=6101, factory=factory)
        for _ in range(3):
            fast.dataReceived(b"a\nb\nc\nd\ne\n")
        slow.dataReceived(b"x\n")
        self.assertEqual((fast_transport.producerState, slow_transport.producerState), ("paused", "producing"))
        self.assertEqual(len(self.ingest.readings), 16)
        # The store's wish and ours are two things: reading goes on when neither is left.
        fast.pause_reading()
        self.clock.advance(0.6)
        self.assertEqual(fast_transport.producerState, "paused")
        fast.resume_reading()
        self.assertEqual(fast_transport.producerState, "producing")
        self.assertEqual(self.lines.counters.get("sources_held_back", "c"), 1)
        for _ in range(3):
            fast.dataReceived(b"a\nb\nc\nd\ne\n")
        fast.resume_reading()
        self.assertEqual(fast_transport.producerState, "paused")
        fast.connectionLost(LOST)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silence_ends_a_message(self) -> None:
        """With the framing by silence, what came without a pause is one message."""
        framing = Framing("gap", gap_ms=50)
        protocol, _ = self.connect(factory=self.make_factory(make_device(), framing=framing))
        protocol.dataReceived(b"one")
        self.clock.advance(0.04)
        protocol.dataReceived(b"+two")
        self.clock.advance(0.04)
        self.assertEqual(self.ingest.readings, [])
        self.clock.advance(0.02)
        self.assertEqual(self.ingest.values("raw"), ["one+two"])
        protocol.dataReceived(b"last")
        protocol.connectionLost(DONE)
        self.assertEqual(self.ingest.values("raw"), ["one+two", "last"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_overflow_closes_where_it_is_configured(self) -> None:
        """A message above the cap ends the connection with onOverflow close, and a contradictory length always does."""
        for framing, data in (
            (Framing("delimiter", on_overflow="close"), b"x" * 40),
            (Framing("length", prefix_bytes=1, prefix_counts="all"), b"\0abc"),
        ):
            protocol, transport = self.connect(factory=self.make_factory(make_device(), framing=framing))
            protocol.dataReceived(data)
            self.assertTrue(transport.disconnected)
            self.assertEqual(self.ingest.readings, [])

    def test_cut_off_message_is_counted(self) -> None:
        """What a connection's end leaves of a message is dropped and counted."""
        framing = Framing("fixed", length_bytes=4)
        protocol, _ = self.connect(factory=self.make_factory(make_device(), framing=framing))
        protocol.dataReceived(b"abcdef")
        protocol.connectionLost(DONE)
        self.assertEqual(self.ingest.values("raw"), ["abcd"])
        self.assertEqual(self.lines.counters.get("messages_cut_off", "c"), 1)

    def test_writing(self) -> None:
        """What is written goes to the transport; a closing connection takes nothing, a deaf device is given up."""
        protocol, transport = self.connect()
        self.assertTrue(protocol.send(b"hello"))
        self.assertEqual(transport.value(), b"hello")
        transport.dataBuffer = b"x" * MAX_UNSENT_BYTES
        self.assertFalse(protocol.send(b"y"))
        self.assertTrue(transport.disconnected)
        self.assertFalse(protocol.send(b"z"))

    def test_silent_device_is_not_told_gone(self) -> None:
        """A device that never said anything is unknown to ThingsBoard and not told gone."""
        protocol, _ = self.connect()
        protocol.connectionLost(DONE)
        again, _ = self.connect()
        again.dataReceived(b"x")
        again.connectionLost(DONE)
        third, _ = self.connect()
        third.connectionLost(DONE)
        self.assertEqual(self.ingest.log, [("accept", "Line 4"), ("disconnected", "Line 4")])

    def test_s12_one_name_in_two_entries_is_told_gone_once(self) -> None:
        """S-12: a device that is configured twice under one name is gone when both its peers are."""
        factory = self.make_factory(make_device("10.0.0.7:*", "same"), make_device("10.0.0.8:*", "same"))
        one, _ = self.connect("10.0.0.7", factory=factory)
        two, _ = self.connect("10.0.0.8", factory=factory)
        one.dataReceived(b"x")
        two.dataReceived(b"x")
        one.connectionLost(DONE)
        self.assertNotIn(("disconnected", "same"), self.ingest.log)
        two.connectionLost(DONE)
        self.assertEqual(self.ingest.log.count(("disconnected", "same")), 1)

    def test_s12_clients_of_a_wildcard_keep_their_connections(self) -> None:
        """S-12: a second client of the same filter does not take the first one's place."""
        factory = self.make_factory(make_device("10.0.0.0/8:*"))
        first, _ = self.connect("10.0.0.7", factory=factory)
        second, _ = self.connect("10.0.0.8", factory=factory)
        second.dataReceived(b"from 8")
        first.dataReceived(b"from 7")
        self.assertEqual(self.ingest.values("raw"), ["from 8", "from 7"])
        self.assertEqual((first.peer, second.peer), ("10.0.0.7:6100", "10.0.0.8:6100"))

    def test_s02_messages_are_taken_as_they_come(self) -> None:
        """S-02: any number of messages is handed in without the clock having to move; nothing waits in a queue."""
        protocol, _ = self.connect(factory=self.make_factory(make_device(), delimiter=b"\n", max_message_bytes=64))
        for _ in range(100):
            protocol.dataReceived(b"x\n" * 100)
        self.assertEqual((len(self.ingest.readings), self.clock.getDelayedCalls()), (10_000, []))

    def test_s04_delimited_messages(self) -> None:
        """S-04: with a delimiter, fragments are joined and coalesced messages cut; the close ends the last one."""
        protocol, _ = self.connect(factory=self.make_factory(make_device("10.0.0.7:*"), delimiter=b"\n"))
        for data in (b"on", b"e\ntwo\nthr", b"ee\nfour"):
            protocol.dataReceived(data)
        protocol.connectionLost(DONE)
        self.assertEqual(self.ingest.values("raw"), ["one", "two", "three", "four"])
        self.assertEqual(self.ingest.log[-1], ("disconnected", "Line 4"))

    def test_s04_cut_off_message(self) -> None:
        """S-04: what a broken connection left unfinished is not a message."""
        for reason in (LOST, Failure(ConnectionAborted())):
            protocol, _ = self.connect(factory=self.make_factory(make_device(), delimiter=b"\n"))
            protocol.dataReceived(b"one\ntw")
            protocol.connectionLost(reason)
        self.assertEqual(self.ingest.values("raw"), ["one", "one"])

    def test_our_own_close_ends_no_message(self) -> None:
        """What is unfinished when we close the connection is not a message."""
        protocol, _ = self.connect(factory=self.make_factory(make_device(), delimiter=b"\n"))
        protocol.dataReceived(b"tw")
        protocol.close()
        protocol.connectionLost(DONE)
        self.assertEqual(self.ingest.readings, [])

    def test_too_long_messages(self) -> None:
        """P-14: messages above the limit are dropped, counted and told with their peer, at the end too."""
        factory = self.make_factory(make_device(), delimiter=b"\n", max_message_bytes=4)
        protocol, _ = self.connect(factory=factory)
        protocol.dataReceived(b"1234\n12345\n12345\nok\n12345")
        self.assertEqual(self.ingest.values("raw"), ["1234", "ok"])
        self.assertEqual(self.lines.counters.get("messages_too_long", "c"), 3)
        self.assertEqual(
            self.lines.of("MessagesTooLong"),
            ["connector c: 3 message(s) from 10.0.0.7:6100 dropped, longer than 4 bytes"],
        )

    def test_too_long_last_message(self) -> None:
        """P-14: a last message that proves too long at the close only is counted as well."""
        factory = self.make_factory(make_device(), delimiter=b"\r\n", max_message_bytes=4)
        protocol, _ = self.connect(factory=factory)
        protocol.dataReceived(b"12345")
        protocol.connectionLost(DONE)
        self.assertEqual(self.ingest.readings, [])
        self.assertEqual(self.lines.counters.get("messages_too_long", "c"), 1)

    def test_s07_every_end_forgets_the_connection(self) -> None:
        """S-07: a reset connection is forgotten like one that was closed in good order."""
        for reason in (DONE, LOST, Failure(ConnectionAborted()), Failure(OSError("ECONNRESET"))):
            protocol, _ = self.connect()
            protocol.dataReceived(b"x")
            protocol.connectionLost(reason)
            self.assertEqual((self.factory.connections, self.ingest.sources), (set(), []))
            self.assertEqual(self.ingest.log[-1], ("disconnected", "Line 4"))

    def test_close(self) -> None:
        """`close` closes all, takes no more, and fires when the last connection is gone."""
        self.assertIsNone(self.successResultOf(self.make_factory(make_device()).close()))
        connections = [self.connect(port=port) for port in (1, 2)]
        closed = self.factory.close()
        for protocol, transport in connections:
            self.assertTrue(transport.disconnecting)
            self.assertNoResult(closed)
            protocol.connectionLost(DONE)
        self.assertIsNone(self.successResultOf(closed))
        self.assertIsNone(self.factory.buildProtocol(IPv4Address("TCP", "10.0.0.7", 3)))

    def test_abort(self) -> None:
        """`abort` cuts what does not end by itself."""
        _, transport = self.connect()
        self.factory.abort()
        self.assertTrue(transport.disconnected)

    def test_hostile_content(self) -> None:
        """P-20: bytes that look like format strings, topics or paths are values like any other."""
        protocol: Any = self.connect()[0]
        protocol.dataReceived(b"{0}%s#+/../${x}\n")
        self.assertEqual(self.ingest.values("raw"), ["{0}%s#+/../${x}\n"])
