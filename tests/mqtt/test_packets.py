"""The packets as values."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

from twisted.trial.unittest import SynchronousTestCase

from tbgw.mqtt.errors import ConnectionRefused, LocalProtocolError
from tbgw.mqtt.options import ClientOptions, ServerOptions
from tbgw.mqtt.packets import (
    ConnAck,
    Connect,
    PubAck,
    Publish,
    PubRec,
    Subscribe,
    Subscription,
    Unsubscribe,
    Will,
)


class PacketTests(SynchronousTestCase):
    """Construction, comparison and what a packet says of itself."""

    def test_frozen(self):
        """A packet cannot be changed."""
        packet = PubAck(packet_id=1)
        with self.assertRaises(FrozenInstanceError):
            packet.packet_id = 2  # type: ignore[misc]  # the point of the test

    def test_kinds_differ(self):
        """Two acknowledgements of different kinds are not equal, whatever they hold."""
        self.assertNotEqual(PubAck(packet_id=1), PubRec(packet_id=1))

    def test_ranges(self):
        """What no version of MQTT can say is refused at once."""
        for build in (
            lambda: Publish(topic="a", payload=b"", qos=3, packet_id=1),
            lambda: Publish(topic="a", payload=b"", qos=-1, packet_id=1),
            lambda: Publish(topic="a", payload=b"", qos=1),
            lambda: Publish(topic="a", payload=b"", packet_id=1),
            lambda: Publish(topic="a", payload=b"", dup=True),
            lambda: Publish(topic="a", payload=b"", qos=1, packet_id=65536),
            lambda: PubAck(packet_id=-1),
            lambda: Subscribe(packet_id=1, filters=()),
            lambda: Unsubscribe(packet_id=1, filters=()),
            lambda: Subscription(topic_filter="a", qos=3),
            lambda: Subscription(topic_filter="a", retain_handling=3),
            lambda: Connect(keep_alive_seconds=65536),
            lambda: Will(topic="a", payload=b"", qos=3),
        ):
            self.assertRaises(LocalProtocolError, build)

    def test_secrets(self):
        """Neither user name (ThingsBoard's token), password nor payload is in a repr or an error text."""
        canary = "c4n4ry"
        connect = Connect(username=canary, password=canary.encode(), will=Will(topic="t", payload=canary.encode()))
        options = ClientOptions(username=canary, password=canary.encode())
        refused = ConnectionRefused(ConnAck(reason_code=5), 4)
        publish = Publish(topic="t", payload=canary.encode())
        for text in map(repr, (connect, options, options.connect_packet(), refused, publish)):
            self.assertNotIn(canary, text)
        self.assertIn("6 bytes", repr(publish))
        self.assertIn("not authorized (0x05)", str(refused))


class OptionTests(SynchronousTestCase):
    """Options are checked when they are made."""

    def test_refused(self):
        """Numbers out of range, and a version that is not spoken."""
        for build in (
            lambda: ClientOptions(max_inflight=0),
            lambda: ClientOptions(max_inflight=65535),
            lambda: ClientOptions(max_packet_bytes=0),
            lambda: ClientOptions(connect_timeout_seconds=0),
            lambda: ClientOptions(ping_timeout_seconds=0),
            lambda: ClientOptions(protocol_version=3),  # type: ignore[arg-type]  # the point of the test
            lambda: ServerOptions(keep_alive_grace=0.9),
        ):
            self.assertRaises(ValueError, build)

    def test_unsayable(self):
        """What no CONNECT can say is found before there is a connection."""
        for build in (
            lambda: ClientOptions(password=b"x"),
            lambda: ClientOptions(clean_start=False),
            lambda: ClientOptions(client_id="a\0"),
            lambda: ClientOptions(keep_alive_seconds=70000),
            lambda: ClientOptions(username="a" * 65536),
            lambda: ClientOptions(will=Will(topic="a/+", payload=b"")),
        ):
            self.assertRaises(LocalProtocolError, build)
