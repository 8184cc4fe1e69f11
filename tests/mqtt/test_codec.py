"""The codec against bytes written by hand, at every cut, and against everything that is not a packet."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.mqtt.codec import decode, encode, encode_puback
from tbgw.mqtt.errors import LocalProtocolError, RemoteProtocolError
from tbgw.mqtt.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    ReasonCode,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Will,
)
from tests.mqtt.samples import SAMPLES


def read(data: bytes, offset: int = 0, end: int | None = None, **options: Any) -> tuple[Packet | None, int]:
    """`decode` with a large cap."""
    options = {"protocol_version": 4, "max_packet_bytes": 1 << 28} | options
    return decode(data, offset, len(data) if end is None else end, **options)


def with_body(first: int, body: bytes) -> bytes:
    """A packet of fewer than 128 bytes with a right length."""
    return bytes((first, len(body))) + body


class SampleTests(SynchronousTestCase):
    """Each sample packet, both ways."""

    def test_encode(self):
        """A packet is spelt exactly as the standard says."""
        for version, name, packet, raw in SAMPLES:
            self.assertEqual(encode(packet, version), raw, name)

    def test_decode(self):
        """The bytes give the packet back, and the offset behind it."""
        for version, name, packet, raw in SAMPLES:
            self.assertEqual(read(raw, protocol_version=version), (packet, len(raw)), name)

    def test_truncated(self):
        """Every beginning of a packet asks for more than there is, and never for more than the packet has."""
        for version, name, _, raw in SAMPLES:
            for size in range(len(raw)):
                packet, wanted = read(raw[:size], protocol_version=version)
                self.assertIsNone(packet, (name, size))
                self.assertGreater(wanted, size, (name, size))
                self.assertLessEqual(wanted, len(raw), (name, size))

    def test_trailing(self):
        """What stands before and behind the packet is left alone, whatever it is."""
        for version, name, packet, raw in SAMPLES:
            self.assertEqual(
                read(b"\xff\xff" + raw + b"\xff", offset=2, protocol_version=version), (packet, len(raw) + 2), name
            )

    def test_end_is_respected(self):
        """Bytes beyond `end` are not looked at."""
        for version, name, _, raw in SAMPLES:
            self.assertIsNone(read(raw, end=len(raw) - 1, protocol_version=version)[0], name)

    def test_shortened_body(self):
        """A body cut anywhere, with a length that says so, is another packet or malformed, and nothing else."""
        for version, name, packet, raw in SAMPLES:
            if len(raw) > 129:
                continue
            for size in range(2, len(raw)):
                try:
                    got, _ = read(with_body(raw[0], raw[2:size]), protocol_version=version)
                except RemoteProtocolError:
                    continue
                if version == 5 and name == "connack refused":
                    continue  # a refusal of 3.1.1 is understood on 5 too
                self.assertNotEqual(got, packet, (name, size))

    def test_overlong_body(self):
        """A byte too many is malformed, except where the standard lets the field run to the end."""
        for version, name, packet, raw in SAMPLES:
            if len(raw) > 129 or isinstance(packet, Publish | SubAck | UnsubAck):
                continue
            if version == 5 and isinstance(packet, PubAck | PubRec | PubRel | PubComp | Disconnect | Auth):
                continue  # code and properties may be left out, so one byte more may well be another spelling
            with self.assertRaises(RemoteProtocolError, msg=name) as caught:
                read(with_body(raw[0], raw[2:] + b"\x00"), protocol_version=version)
            self.assertIn(caught.exception.reason_code, (ReasonCode.MALFORMED_PACKET, ReasonCode.PROTOCOL_ERROR), name)


class FixedHeaderTests(SynchronousTestCase):
    """What the first bytes alone decide."""

    def test_first_bytes(self):
        """Exactly the first bytes of tables 2.1 and 2.2 are taken, before anything else is there."""
        publishes = {0x30, 0x31} | {0x30 | dup | qos | retain for dup in (0, 8) for qos in (2, 4) for retain in (0, 1)}
        good = publishes | {0x10, 0x20, 0x40, 0x50, 0x62, 0x70, 0x82, 0x90, 0xA2, 0xB0, 0xC0, 0xD0, 0xE0}
        for first in range(256):
            if first in good:
                self.assertEqual(read(bytes((first,))), (None, 2))
            else:
                with self.assertRaises(RemoteProtocolError) as caught:
                    read(bytes((first,)))
                self.assertEqual(caught.exception.reason_code, ReasonCode.MALFORMED_PACKET)

    def test_clauses(self):
        """The text names the clause."""
        for raw, clause in (
            (b"\x36", "MQTT-3.3.1-4"),
            (b"\x38", "MQTT-3.3.1-2"),
            (b"\x60", "MQTT-2.2.2-2"),
            (b"\x00", "2.2.1"),
            (b"\xf0", "2.2.1"),
        ):
            with self.assertRaises(RemoteProtocolError) as caught:
                read(raw)
            self.assertIn(clause, str(caught.exception))

    def test_remaining_length_borders(self):
        """The values of table 2.4: one to four bytes."""
        for length, raw in (
            (0, b"\x00"),
            (127, b"\x7f"),
            (128, b"\x80\x01"),
            (16383, b"\xff\x7f"),
            (16384, b"\x80\x80\x01"),
            (2097151, b"\xff\xff\x7f"),
            (2097152, b"\x80\x80\x80\x01"),
            (268435455, b"\xff\xff\xff\x7f"),
        ):
            wanted = 1 + len(raw) + length
            if length > 100:
                self.assertEqual(read(b"\x30" + raw, max_packet_bytes=1 << 30), (None, wanted))
            if 3 <= length <= 2097152:
                spelt = encode(Publish(topic="a", payload=bytes(length - 3)), 4)
                self.assertEqual(spelt[1 : 1 + len(raw)], raw)
                self.assertEqual(len(spelt), wanted)
                self.assertEqual(read(spelt)[1], wanted)

    def test_fifth_length_byte(self):
        """A remaining length whose fourth byte wants a fifth is malformed as soon as the fourth is there."""
        self.assertIsNone(read(b"\x30\x80\x80\x80")[0])
        with self.assertRaises(RemoteProtocolError) as caught:
            read(b"\x30\x80\x80\x80\x80")
        self.assertIn("four bytes", str(caught.exception))

    def test_cap(self):
        """A packet above the cap is refused from its fixed header; one at the cap is taken."""
        raw = encode(Publish(topic="a", payload=bytes(200)), 4)
        self.assertEqual(read(raw, max_packet_bytes=len(raw))[1], len(raw))
        with self.assertRaises(RemoteProtocolError) as caught:
            read(raw[:3], max_packet_bytes=len(raw) - 1)
        self.assertEqual(caught.exception.reason_code, ReasonCode.PACKET_TOO_LARGE)


class MalformedTests(SynchronousTestCase):
    """Bodies that break a rule, each with its clause."""

    def refused(self, raw: bytes, clause: str, code: int = ReasonCode.MALFORMED_PACKET, **options: Any) -> None:
        with self.assertRaises(RemoteProtocolError, msg=repr(raw)) as caught:
            read(raw, **options)
        self.assertIn(clause, str(caught.exception))
        self.assertEqual(caught.exception.reason_code, code)

    def test_publish(self):
        """Topic with a wildcard, empty, ill-formed; packet id 0; cut within topic or id."""
        bad_name = ReasonCode.TOPIC_NAME_INVALID
        self.refused(b"\x30\x03\x00\x01+", "MQTT-3.3.2-2", bad_name)
        self.refused(b"\x30\x05\x00\x03a/#", "MQTT-3.3.2-2", bad_name)
        self.refused(b"\x30\x02\x00\x00", "MQTT-4.7.3-1", bad_name)
        self.refused(b"\x32\x05\x00\x01a\x00\x00", "MQTT-2.3.1-1")
        self.refused(b"\x30\x00", "topic name")
        self.refused(b"\x30\x01\x00", "topic name")
        self.refused(b"\x30\x03\x00\x02a", "topic name")
        self.refused(b"\x32\x04\x00\x01a\x00", "packet id")

    def test_utf8(self):
        """Ill-formed UTF-8, surrogates, overlong forms and U+0000 are refused, other oddities are not."""
        for raw in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xed\xb0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"):
            self.refused(b"\x30" + bytes((len(raw) + 2, 0, len(raw))) + raw, "MQTT-1.5.3-1")
        self.refused(b"\x30\x04\x00\x02a\x00", "MQTT-1.5.3-2")
        for text in ("\ufeff", "\ufffe", "\x01", "\U0010ffff"):
            packet = Publish(topic=text, payload=b"")
            self.assertEqual(read(encode(packet, 4))[0], packet)

    def test_packet_id_zero_tolerated(self):
        """With the option a QoS 1 PUBLISH may bear id 0, a QoS 2 one may not, and its PUBACK can be spelt."""
        packet, _ = read(b"\x32\x05\x00\x01a\x00\x00", allow_packet_id_zero=True)
        self.assertEqual(packet, Publish(topic="a", payload=b"", qos=1, packet_id=0))
        self.refused(b"\x34\x05\x00\x01a\x00\x00", "MQTT-2.3.1-1", allow_packet_id_zero=True)
        self.assertEqual(encode_puback(0), b"\x40\x02\x00\x00")

    def test_connect(self):
        """Every rule of section 3.1 about flags and names."""
        head = b"\x00\x04MQTT\x04"
        wrong_version = ReasonCode.UNSUPPORTED_PROTOCOL_VERSION
        self.refused(with_body(0x10, b"\x00\x06MQIsdp\x03\x02\x00\x00\x00\x00"), "MQTT-3.1.2-1", wrong_version)
        self.refused(with_body(0x10, b"\x00\x04mqtt\x04\x02\x00\x00\x00\x00"), "MQTT-3.1.2-1", wrong_version)
        self.refused(with_body(0x10, b"\x00\x04MQTT\x03\x02\x00\x00\x00\x00"), "MQTT-3.1.2-2", wrong_version)
        self.refused(with_body(0x10, head + b"\x03\x00\x00\x00\x00"), "MQTT-3.1.2-3")
        self.refused(with_body(0x10, head + b"\x42\x00\x00\x00\x00\x00\x01p"), "MQTT-3.1.2-22")
        self.refused(with_body(0x10, head + b"\x1e\x00\x00\x00\x00\x00\x01w\x00\x00"), "MQTT-3.1.2-14")
        self.refused(with_body(0x10, head + b"\x0a\x00\x00\x00\x00"), "MQTT-3.1.2-13")
        self.refused(with_body(0x10, head + b"\x22\x00\x00\x00\x00"), "MQTT-3.1.2-13")
        self.refused(
            with_body(0x10, head + b"\x06\x00\x00\x00\x00\x00\x01#\x00\x00"),
            "MQTT-3.3.2-2",
            ReasonCode.TOPIC_NAME_INVALID,
        )

    def test_connect_secrets(self):
        """The error about an ill-formed user name holds nothing of it, not even in its context."""
        raw = with_body(0x10, b"\x00\x04MQTT\x04\x82\x00\x00\x00\x00\x00\x07c4n4ry\xff")
        with self.assertRaises(RemoteProtocolError) as caught:
            read(raw)
        self.assertIsNone(caught.exception.__context__)
        self.assertNotIn("c4n4ry", repr(caught.exception))

    def test_others(self):
        """Reserved bits, reserved codes, empty lists, packet id 0."""
        self.refused(b"\x20\x02\x02\x00", "3.2.2.1")
        self.refused(b"\x82\x02\x00\x01", "MQTT-3.8.3-3", ReasonCode.PROTOCOL_ERROR)
        self.refused(b"\x82\x06\x00\x01\x00\x01a\x03", "MQTT-3-8.3-4")
        self.refused(b"\x82\x06\x00\x01\x00\x01a\x04", "MQTT-3-8.3-4")
        self.refused(b"\x82\x06\x00\x00\x00\x01a\x00", "MQTT-2.3.1-1")
        self.refused(b"\x82\x07\x00\x01\x00\x02a#\x00", "MQTT-4.7.1-2", ReasonCode.TOPIC_FILTER_INVALID)
        self.refused(b"\xa2\x02\x00\x01", "MQTT-3.10.3-2", ReasonCode.PROTOCOL_ERROR)
        self.refused(b"\xa2\x05\x00\x00\x00\x01a", "MQTT-2.3.1-1")
        self.refused(b"\x90\x02\x00\x01", "MQTT-3.9.3-2")
        self.refused(b"\x90\x03\x00\x01\x03", "MQTT-3.9.3-2")

    def test_noise(self):
        """Whatever comes, the result is one of three: packets, need more, RemoteProtocolError."""
        seeded = random.Random(1)
        samples = [(version, raw) for version, _, _, raw in SAMPLES]
        for _ in range(20000):
            version, sample = seeded.choice(samples)
            raw = bytearray(sample)
            for _ in range(seeded.randint(1, 3)):
                raw[seeded.randrange(len(raw))] = seeded.randrange(256)
            try:
                packet, offset = read(bytes(raw), max_packet_bytes=1000, protocol_version=version)
            except RemoteProtocolError:
                continue
            if packet is None:
                self.assertGreater(offset, len(raw))
            else:
                self.assertLessEqual(offset, len(raw))


class UnsayableTests(SynchronousTestCase):
    """What 3.1.1 cannot say is refused when it is asked for."""

    def test_refused(self):
        """MQTT 5 fields, illegal topics, lengths out of range, packet id 0."""
        one = (Subscription(topic_filter="a"),)
        packets: list[Packet] = [
            Auth(),
            Disconnect(reason_code=4),
            PubAck(packet_id=1, reason_code=0x97),
            Publish(topic="a", payload=b"", properties={1: 1}),
            Publish(topic="", payload=b""),
            Publish(topic="a/#", payload=b""),
            Publish(topic="\ud800", payload=b""),
            Publish(topic="a\0", payload=b""),
            Publish(topic="a" * 65536, payload=b""),
            Publish(topic="a", payload=b"", qos=1, packet_id=0),
            Publish(topic="a", payload=bytes(268435453)),
            Subscribe(packet_id=0, filters=one),
            Subscribe(packet_id=1, filters=(Subscription(topic_filter="a", no_local=True),)),
            Subscribe(packet_id=1, filters=(Subscription(topic_filter="a#"),)),
            SubAck(packet_id=1, reason_codes=(3,)),
            Unsubscribe(packet_id=1, filters=("",)),
            UnsubAck(packet_id=1, reason_codes=(0,)),
            Connect(protocol_version=5),
            Connect(username="a", password=bytes(65536)),
            Connect(will=Will(topic="a", payload=b"", properties={1: 1})),
        ]
        for packet in packets:
            self.assertRaises(LocalProtocolError, encode, packet, 4)
        self.assertRaises(LocalProtocolError, encode, ConnAck(), 3)


_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
_names = _text.filter(lambda text: text and "+" not in text and "#" not in text)
_ids = st.integers(1, 65535)
_binary = st.binary(max_size=300)
_wills = st.builds(Will, topic=_names, payload=_binary, qos=st.integers(0, 2), retain=st.booleans())
_connects = st.builds(
    Connect,
    client_id=_text.filter(bool),
    clean_start=st.booleans(),
    keep_alive_seconds=st.integers(0, 65535),
    username=_text,
    password=st.none() | _binary,
    will=st.none() | _wills,
)
_publishes = st.builds(Publish, topic=_names, payload=_binary, retain=st.booleans()) | st.builds(
    Publish,
    topic=_names,
    payload=_binary,
    qos=st.integers(1, 2),
    retain=st.booleans(),
    dup=st.booleans(),
    packet_id=_ids,
)
_subscribes = st.builds(
    Subscribe,
    packet_id=_ids,
    filters=st.lists(
        st.builds(Subscription, topic_filter=_names | st.just("a/+/#"), qos=st.integers(0, 2)),
        min_size=1,
        max_size=5,
    ).map(tuple),
)
_unsubscribes = st.builds(Unsubscribe, packet_id=_ids, filters=st.lists(_names, min_size=1, max_size=5).map(tuple))


class RoundTripTests(SynchronousTestCase):
    """Any packet survives the way through bytes."""

    @settings(max_examples=300, deadline=None)
    @given(st.lists(_connects | _publishes | _subscribes | _unsubscribes, min_size=1, max_size=4))
    def test_round_trip(self, packets):
        """Packets written one after the other are read one after the other."""
        data = b"".join(encode(packet, 4) for packet in packets)
        offset = 0
        got = []
        while offset < len(data):
            packet, offset = read(data, offset)
            got.append(packet)
        self.assertEqual(got, packets)

    @settings(max_examples=500, deadline=None)
    @given(st.binary(max_size=60))
    def test_any_bytes(self, data):
        """No other exception than RemoteProtocolError comes out, and an offset never leads back."""
        offset = 0
        try:
            while offset < len(data):
                packet, following = read(data, offset)
                self.assertGreater(following, offset if packet else len(data) - offset)
                if packet is None:
                    break
                offset = following
        except RemoteProtocolError:
            pass
