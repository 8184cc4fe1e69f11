"""Names and types of devices that come from the message or the peer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.socket.config import Datapoint
from tbgw.connectors.socket.naming import compile_name
from tbgw.connectors.socket.routes import Routes
from tbgw.connectors.socket.values import Message, decoder
from tbgw.expressions import ExpressionError
from tests.connectors.socket.fakes import Lines, RecordingIngest, make_device, with_model

UTF8 = decoder("utf-8")


def name(template: str, data: bytes, peer: tuple[str, int] = ("10.0.0.7", 6100)) -> str:
    return compile_name(template).make(Message(data, UTF8), peer)


class NameTests(SynchronousTestCase):
    """`compile_name`."""

    def test_parts(self) -> None:
        """Slices, the peer, JSON, and text around them; blanks and NULs around a slice are not part of it."""
        for template, data, expected in (
            ("${[0:8]}", b"PUMP-4\0\0rest", "PUMP-4"),
            ("${[3]}", b"abcd", "d"),
            ("${[-2:]}", b"abcd", "cd"),
            ("Box ${address}:${port}", b"", "Box 10.0.0.7:6100"),
            ("${site}/${id}", b'{"site":"N","id":7}', "N/7"),
            ("Pump", b"", "Pump"),
        ):
            self.assertEqual(name(template, data), expected)
        self.assertEqual(name("${address}", b"", ("::ffff:10.0.0.1", 1)), "10.0.0.1")

    def test_nothing(self) -> None:
        """A name of which a part is missing, null or no text is none."""
        for template, data in (
            ("${[4:8]}", b"abc"),
            ("${[0:2]}", b"\xff\xfe"),
            ("x${id}", b"{}"),
            ("${id}", b'{"id":null}'),
            ("${id}", b"no json"),
            ("${[0:3]}", b"   "),
        ):
            self.assertEqual(name(template, data), "")

    def test_faults(self) -> None:
        """What is no name template is a fault."""
        for template in ("${}", "${[]}", "${[a:b]}", "${[0:1]==x}", "${"):
            self.assertRaises(ExpressionError, compile_name, template)

    @given(st.sampled_from(["${[0:3]}", "a${id}", "${$..x}", "${[-1]}"]), st.binary(max_size=20))
    def test_any_message(self, template: str, data: bytes) -> None:
        """Whatever comes, it is a text."""
        self.assertIsInstance(name(template, data), str)


class NamedDevicesTests(SynchronousTestCase):
    """Entries that have many devices."""

    def setUp(self) -> None:
        self.ingest = RecordingIngest()
        self.lines = Lines()

    def test_devices_are_made_once(self) -> None:
        """Each name is one device, with the type of its first message."""
        device = make_device(name="${[0:2]}", profile="${[2]}", telemetry=(Datapoint("v", 3, None),))
        routes = Routes("c", with_model(device), self.ingest, self.lines.events)
        for data in (b"P1a5", b"P2b6", b"P1c7"):
            routes.intakes[0].receive(data, 1000, ("10.0.0.7", 1))
        devices = [reading.device for reading in self.ingest.readings]
        made = [(one.name, one.profile, one.connector) for one in devices[:2]]
        self.assertEqual(made, [("P1", "a", "c"), ("P2", "b", "c")])
        self.assertIs(devices[2], devices[0])

    def test_cap(self) -> None:
        """P-20: strangers cannot make devices without end; what is beyond the cap is counted, known ones go on."""
        device = make_device(name="${[0:2]}")
        routes = Routes("c", with_model(device), self.ingest, self.lines.events, max_devices=2)
        for data in (b"P1", b"P2", b"P3", b"P1"):
            routes.intakes[0].receive(data, 1000, None)
        self.assertEqual([name for _, name in self.ingest.log], ["P1", "P2", "P1"])
        self.assertEqual(self.lines.counters.get("devices_refused", "c"), 1)

    def test_unnamed_messages(self) -> None:
        """A message that names nobody is its peer's last device's; with none before, it is dropped and counted."""
        device = make_device(name="${id}", telemetry=(Datapoint("all"),))
        routes = Routes("c", with_model(device), self.ingest, self.lines.events)
        for data, peer in ((b"{}", 1), (b'{"id":"a"}', 1), (b"{}", 1), (b"{}", 2)):
            routes.intakes[0].receive(data, 1000, ("10.0.0.7", peer))
        self.assertEqual([name for _, name in self.ingest.log], ["a", "a"])
        self.assertEqual(self.lines.counters.get("messages_unnamed", "c"), 2)

    def test_times_are_each_devices_own(self) -> None:
        """Messages of two devices in one millisecond do not push each other's time on."""
        routes = Routes("c", with_model(make_device(name="${[0:2]}")), self.ingest, self.lines.events)
        for data in (b"P1", b"P2", b"P1"):
            routes.intakes[0].receive(data, 1000, None)
        self.assertEqual([reading.telemetry[0][0] for reading in self.ingest.readings], [1000, 1000, 1001])
