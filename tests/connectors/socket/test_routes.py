"""Tests of the way from a peer's message to a reading."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.socket.config import Datapoint, SocketDevice
from tbgw.connectors.socket.routes import KEYS_ABSENT, Route, Routes
from tests.connectors.socket.fakes import RAW, Lines, RecordingIngest, make_device, request, with_model


class RoutesTests(SynchronousTestCase):
    """`Routes`, `Route` and `Intake`."""

    def setUp(self) -> None:
        self.ingest = RecordingIngest()
        self.lines = Lines()

    def route(self, *devices: SocketDevice, ip: str = "10.0.0.7") -> Route:
        self.routes = Routes("c", with_model(*devices), self.ingest, self.lines.events)
        route = self.routes.find(ip, 6100)
        assert route is not None
        return route

    def test_reading(self) -> None:
        """A message becomes one reading: telemetry at the given time, attributes, the device as it was given."""
        device = make_device(attributes=(Datapoint("unit", 0, 1),))
        self.route(device).receive(b"kg", 1234)
        (reading,) = self.ingest.readings
        self.assertEqual(reading[1:], (((1234, {"raw": "kg"}),), {"unit": "k"}))
        self.assertIs(reading.device, self.routes.intakes[0].device)

    def test_messages_of_one_read_get_times_of_their_own(self) -> None:
        """ThingsBoard keeps one value for a key and a millisecond, so no two messages share one, within a second."""
        route = self.route(make_device(telemetry=RAW))
        for now_ms in [1000] * 3 + [1001] + [5000] * 2 + [4000] * 1500 + [7000]:
            route.receive(b"x", now_ms)
        times = [reading.telemetry[0][0] for reading in self.ingest.readings]
        self.assertEqual(times[:6], [1000, 1001, 1002, 1003, 5000, 5001])
        # The clock went back by a second: the stamps stay within the bound ahead of it, and share its end from there.
        self.assertEqual(max(times[6:-1]), 5000)
        self.assertEqual(times[-1], 7000)

    def test_attributes_only(self) -> None:
        """A message with attributes only has no empty telemetry beside them."""
        self.route(make_device(telemetry=(), attributes=RAW)).receive(b"x", 1)
        self.assertEqual(self.ingest.readings[0][1:], ((), {"raw": "x"}))

    def test_partly_usable_message(self) -> None:
        """The keys that can be had are handed in; the others are counted, by their reason."""
        telemetry = (Datapoint("bad", 0, 1), Datapoint("good", 1, 2), Datapoint("far", 5, 9))
        self.route(make_device(telemetry=telemetry)).receive(b"\xffx", 1)
        self.assertEqual(self.ingest.values("good"), ["x"])
        self.assertEqual(self.lines.counters.get("keys_not_decoded", "c"), 1)
        self.assertEqual(self.lines.counters.get(KEYS_ABSENT, "c"), 1)
        self.assertEqual(self.lines.counters.get("messages_unusable", "c"), 0)
        self.assertEqual(
            self.lines.of("KeyNotDecoded"),
            ["connector c, device Line 4: the bytes for key bad are not utf-8; key left out"],
        )

    def test_unusable_message(self) -> None:
        """A message without any value is not handed in, and counted."""
        self.route(make_device(telemetry=(Datapoint("far", 5, 9),))).receive(b"xyz", 1)
        self.assertEqual(self.ingest.readings, [])
        self.assertEqual(self.lines.counters.get("messages_unusable", "c"), 1)
        self.assertEqual(
            self.lines.of("MessageUnusable"),
            ["connector c, device Line 4: a message of 3 bytes gave no value for any key"],
        )

    def test_lines_are_limited(self) -> None:
        """A device that sends rubbish without end is counted each time and written about now and then."""
        route = self.route(make_device())
        for _ in range(100):
            route.receive(b"\xff", 1)
        self.assertEqual(self.lines.counters.get("keys_not_decoded", "c"), 100)
        self.assertEqual(len(self.lines.of("KeyNotDecoded")), 1)
        self.assertEqual(len(self.lines.of("MessageUnusable")), 1)

    def test_attribute_request_is_no_telemetry(self) -> None:
        """A message that asks for attributes is handed on as a question; the next message is telemetry again."""
        route = self.route(make_device(requests=(request("${[0:3]==atr}"),)))
        asked: list[list[str]] = []
        self.routes.intakes[0].ask = lambda presence, request, names, link: asked.append(names)
        for message in (b"atrsharedName", b"21.5"):
            route.receive(message, 1)
        self.assertEqual(self.ingest.values("raw"), ["21.5"])
        self.assertEqual(asked, [["sharedName"]])

    def test_bad_request_expression_is_told(self) -> None:
        """An attribute request that cannot be understood is told with its device, and stops nothing."""
        self.route(make_device(requests=(request("${atr}"),))).receive(b"atr", 1)
        (line,) = self.lines.of("RequestExpressionIgnored")
        self.assertIn("device Line 4: requestExpression ${atr} is ignored; allowed is ${[from:to]==text}", line)
        self.assertEqual(self.ingest.values("raw"), ["atr"])

    def test_most_specific_device(self) -> None:
        """Of overlapping filters the most specific one has the peer, alone."""
        everyone, one = make_device("*:*", "everyone"), make_device("10.0.0.7:*", "one")
        self.route(everyone, one).receive(b"x", 1)
        self.assertEqual(self.ingest.log, [("accept", "one")])

    def test_refused_peer(self) -> None:
        """A peer that no filter admits has no route."""
        self.route(make_device("10.0.0.7:*"))
        self.assertIsNone(self.routes.find("10.0.0.8", 6100))

    def test_counts(self) -> None:
        """Messages are counted whether they were usable or not."""
        route = self.route(make_device())
        for message in (b"x", b"\xff", b"y"):
            route.receive(message, 1)
        self.assertEqual(self.routes.messages, 3)

    def test_s13_devices_with_the_same_filter(self) -> None:
        """S-13: every device with the same filter gets the message, also if it is spelt in another way."""
        route = self.route(make_device("10.0.0.7:*", "one"), make_device("10.0.0.7/32:*", "two"))
        route.receive(b"x", 1)
        self.assertEqual(self.ingest.log, [("accept", "one"), ("accept", "two")])

    def test_s12_devices_with_the_same_name(self) -> None:
        """S-12: two entries with one device name are told apart by their addresses, not mixed up."""
        one = make_device("10.0.0.7:*", "same", telemetry=(Datapoint("one"),))
        two = make_device("10.0.0.8:*", "same", telemetry=(Datapoint("two"),))
        self.route(one, two, ip="10.0.0.8").receive(b"x", 1)
        self.assertEqual((self.ingest.values("one"), self.ingest.values("two")), ([], ["x"]))

    def test_s20_one_line_and_one_count(self) -> None:
        """S-20: one thing that happens is one line and one count."""
        self.route(make_device()).receive(b"\xff", 1)
        self.assertEqual(len(self.lines.of("KeyNotDecoded")), 1)
        self.assertEqual(self.lines.counters.get("keys_not_decoded", "c"), 1)
        self.assertEqual(len(self.lines.written), 2)  # the other one: the message as a whole was of no use

    def test_s22_error_messages_can_be_written(self) -> None:
        """S-22: the line about a fault is written whatever the key is called, with braces or line ends in it."""
        self.route(make_device(name="{d}", telemetry=(Datapoint("a{b}\nc"),))).receive(b"\xff", 1)
        self.assertEqual(
            self.lines.of("KeyNotDecoded"),
            ["connector c, device {d}: the bytes for key a{b}\\nc are not utf-8; key left out"],
        )

    def test_unfit_encoding(self) -> None:
        """An encoding that cannot be used is found at the start, not with the first message."""
        self.assertRaises(ValueError, self.route, make_device(encoding="base64"))
