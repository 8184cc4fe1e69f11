"""Properties: every rule about where, how often and how large; and what MQTT 5 adds to the packets around them."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.mqtt.codec import decode, encode
from tbgw.mqtt.errors import LocalProtocolError, RemoteProtocolError
from tbgw.mqtt.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    PubAck,
    Publish,
    PubRel,
    ReasonCode,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Will,
)
from tbgw.mqtt.properties import WILL, PropertyId, decode_properties, encode_properties

P = PropertyId
EVERY = {
    P.PAYLOAD_FORMAT_INDICATOR: 1,
    P.MESSAGE_EXPIRY_INTERVAL: 0xFFFFFFFF,
    P.CONTENT_TYPE: "ä",
    P.RESPONSE_TOPIC: "a/b",
    P.CORRELATION_DATA: b"\x00\xff",
    P.SUBSCRIPTION_IDENTIFIER: 268435455,
    P.SESSION_EXPIRY_INTERVAL: 0,
    P.ASSIGNED_CLIENT_IDENTIFIER: "",
    P.SERVER_KEEP_ALIVE: 65535,
    P.AUTHENTICATION_METHOD: "m",
    P.AUTHENTICATION_DATA: b"",
    P.REQUEST_PROBLEM_INFORMATION: 0,
    P.WILL_DELAY_INTERVAL: 1,
    P.REQUEST_RESPONSE_INFORMATION: 1,
    P.RESPONSE_INFORMATION: "i",
    P.SERVER_REFERENCE: "s",
    P.REASON_STRING: "r",
    P.RECEIVE_MAXIMUM: 1,
    P.TOPIC_ALIAS_MAXIMUM: 0,
    P.TOPIC_ALIAS: 65535,
    P.MAXIMUM_QOS: 1,
    P.RETAIN_AVAILABLE: 0,
    P.USER_PROPERTY: (("n", "v"), ("n", "")),
    P.MAXIMUM_PACKET_SIZE: 1,
    P.WILDCARD_SUBSCRIPTION_AVAILABLE: 1,
    P.SUBSCRIPTION_IDENTIFIER_AVAILABLE: 1,
    P.SHARED_SUBSCRIPTION_AVAILABLE: 1,
}
T = PacketType
# Table 2-4 of the standard, column "Packet / Will Properties".
WHERE: dict[int, set[int]] = {
    P.PAYLOAD_FORMAT_INDICATOR: {T.PUBLISH, WILL},
    P.MESSAGE_EXPIRY_INTERVAL: {T.PUBLISH, WILL},
    P.CONTENT_TYPE: {T.PUBLISH, WILL},
    P.RESPONSE_TOPIC: {T.PUBLISH, WILL},
    P.CORRELATION_DATA: {T.PUBLISH, WILL},
    P.SUBSCRIPTION_IDENTIFIER: {T.PUBLISH, T.SUBSCRIBE},
    P.SESSION_EXPIRY_INTERVAL: {T.CONNECT, T.CONNACK, T.DISCONNECT},
    P.ASSIGNED_CLIENT_IDENTIFIER: {T.CONNACK},
    P.SERVER_KEEP_ALIVE: {T.CONNACK},
    P.AUTHENTICATION_METHOD: {T.CONNECT, T.CONNACK, T.AUTH},
    P.AUTHENTICATION_DATA: {T.CONNECT, T.CONNACK, T.AUTH},
    P.REQUEST_PROBLEM_INFORMATION: {T.CONNECT},
    P.WILL_DELAY_INTERVAL: {WILL},
    P.REQUEST_RESPONSE_INFORMATION: {T.CONNECT},
    P.RESPONSE_INFORMATION: {T.CONNACK},
    P.SERVER_REFERENCE: {T.CONNACK, T.DISCONNECT},
    P.REASON_STRING: {
        T.CONNACK,
        T.PUBACK,
        T.PUBREC,
        T.PUBREL,
        T.PUBCOMP,
        T.SUBACK,
        T.UNSUBACK,
        T.DISCONNECT,
        T.AUTH,
    },
    P.RECEIVE_MAXIMUM: {T.CONNECT, T.CONNACK},
    P.TOPIC_ALIAS_MAXIMUM: {T.CONNECT, T.CONNACK},
    P.TOPIC_ALIAS: {T.PUBLISH},
    P.MAXIMUM_QOS: {T.CONNACK},
    P.RETAIN_AVAILABLE: {T.CONNACK},
    P.USER_PROPERTY: (set(T) - {T.PINGREQ, T.PINGRESP}) | {WILL},
    P.MAXIMUM_PACKET_SIZE: {T.CONNECT, T.CONNACK},
    P.WILDCARD_SUBSCRIPTION_AVAILABLE: {T.CONNACK},
    P.SUBSCRIPTION_IDENTIFIER_AVAILABLE: {T.CONNACK},
    P.SHARED_SUBSCRIPTION_AVAILABLE: {T.CONNACK},
}


def one(identifier: int, place: int) -> dict[int, Any]:
    """A set of this property, and of what it may not stand without."""
    value: Any = EVERY[PropertyId(identifier)]
    if identifier == P.SUBSCRIPTION_IDENTIFIER and place == T.PUBLISH:
        value = (value,)
    properties = {identifier: value}
    return {P.AUTHENTICATION_METHOD: "m", **properties} if identifier == P.AUTHENTICATION_DATA else properties


def read(raw: bytes, place: int) -> dict[int, Any] | None:
    """What is in there, to the end."""
    properties, position = decode_properties(raw, 0, len(raw), place)
    assert position == len(raw)
    return properties


class PlaceTests(SynchronousTestCase):
    """Every property in every packet."""

    def test_all(self):
        """It is taken where table 2-4 has it, and is malformed or unsayable everywhere else."""
        self.assertEqual(set(EVERY), set(PropertyId))
        self.assertEqual(set(WHERE), set(PropertyId))
        for identifier in PropertyId:
            spelt = encode_properties(one(identifier, min(WHERE[identifier])), min(WHERE[identifier]))
            for place in (WILL, *T):
                if place in WHERE[identifier]:
                    self.assertEqual(read(spelt, place) is not None, True)
                    properties = one(identifier, place)
                    self.assertEqual(read(encode_properties(properties, place), place), properties)
                    continue
                with self.assertRaises(RemoteProtocolError) as caught:
                    read(spelt, place)
                self.assertEqual(caught.exception.reason_code, ReasonCode.MALFORMED_PACKET)
                with self.assertRaises(LocalProtocolError):
                    encode_properties({identifier: EVERY[identifier]}, place)

    def test_twice(self):
        """Only USER_PROPERTY may be repeated, and SUBSCRIPTION_IDENTIFIER in a PUBLISH."""
        for identifier in PropertyId:
            for place in WHERE[identifier]:
                if identifier == P.AUTHENTICATION_DATA:
                    continue
                spelt = encode_properties(one(identifier, place), place)[1:]
                twice = bytes((2 * len(spelt),)) + spelt * 2
                if identifier == P.USER_PROPERTY or (identifier == P.SUBSCRIPTION_IDENTIFIER and place == T.PUBLISH):
                    got = read(twice, place)
                    assert got is not None
                    self.assertEqual(got[identifier], one(identifier, place)[identifier] * 2)
                    continue
                with self.assertRaises(RemoteProtocolError) as caught:
                    read(twice, place)
                self.assertEqual(caught.exception.reason_code, ReasonCode.PROTOCOL_ERROR)

    def test_cut(self):
        """Cut anywhere, with a length that says so, every property is malformed."""
        for identifier in PropertyId:
            place = min(WHERE[identifier])
            spelt = b"\x16\x00\x01x"
            if identifier != P.AUTHENTICATION_DATA:
                spelt = encode_properties(one(identifier, place), place)[1:]
            if identifier == P.USER_PROPERTY:
                spelt = spelt[: len(spelt) // 2 + 1]
            for size in range(1, len(spelt)):
                raw = bytes((size,)) + spelt[:size]
                if identifier == P.USER_PROPERTY and size == 7:
                    continue  # the first of the two, whole
                with self.assertRaises(RemoteProtocolError, msg=str((identifier, size))) as caught:
                    read(raw, place)
                self.assertEqual(caught.exception.reason_code, ReasonCode.MALFORMED_PACKET)

    def test_ranges(self):
        """Values that the standard excludes are a protocol error, told from malformed; locally they are unsayable."""
        cases: list[tuple[int, int, bytes, Any, int]] = [
            (P.RECEIVE_MAXIMUM, T.CONNECT, b"\x03\x21\x00\x00", 0, ReasonCode.PROTOCOL_ERROR),
            (P.MAXIMUM_PACKET_SIZE, T.CONNECT, b"\x05\x27\x00\x00\x00\x00", 0, ReasonCode.PROTOCOL_ERROR),
            (P.SUBSCRIPTION_IDENTIFIER, T.SUBSCRIBE, b"\x02\x0b\x00", 0, ReasonCode.PROTOCOL_ERROR),
            (P.TOPIC_ALIAS, T.PUBLISH, b"\x03\x23\x00\x00", 0, ReasonCode.TOPIC_ALIAS_INVALID),
            (P.MAXIMUM_QOS, T.CONNACK, b"\x02\x24\x02", 2, ReasonCode.PROTOCOL_ERROR),
            (P.REQUEST_PROBLEM_INFORMATION, T.CONNECT, b"\x02\x17\x02", 2, ReasonCode.PROTOCOL_ERROR),
            (P.PAYLOAD_FORMAT_INDICATOR, T.PUBLISH, b"\x02\x01\x02", 2, ReasonCode.PROTOCOL_ERROR),
            (P.RESPONSE_TOPIC, T.PUBLISH, b"\x04\x08\x00\x01#", "#", ReasonCode.PROTOCOL_ERROR),
            (P.AUTHENTICATION_DATA, T.CONNECT, b"\x03\x16\x00\x00", b"", ReasonCode.PROTOCOL_ERROR),
        ]
        for identifier, place, raw, value, code in cases:
            with self.assertRaises(RemoteProtocolError) as caught:
                read(raw, place)
            self.assertEqual(caught.exception.reason_code, code, identifier)
            self.assertRaises(LocalProtocolError, encode_properties, {identifier: value}, place)

    def test_malformed(self):
        """Unknown identifiers, lengths of five bytes, strings that are none."""
        for raw in (
            b"\x02\x7f\x00",
            b"\x03\x80\x01\x00",
            b"\xff\xff\xff\xff\x01",
            b"\x05\x0b\xff\xff\xff\xff",
            b"\x04\x1f\x00\x01\xff",
            b"\x04\x1f\x00\x01\x00",
            b"\x80",
            b"",
            b"\x01",
        ):
            with self.assertRaises(RemoteProtocolError, msg=repr(raw)) as caught:
                read(raw, T.PUBACK)
            self.assertEqual(caught.exception.reason_code, ReasonCode.MALFORMED_PACKET, raw)

    def test_unsayable(self):
        """Values of another type, out of range, or not in a tuple where they may be repeated."""
        cases: list[tuple[int, int, Any]] = [
            (T.CONNECT, P.RECEIVE_MAXIMUM, 65536),
            (T.CONNECT, P.RECEIVE_MAXIMUM, "1"),
            (T.CONNECT, P.SESSION_EXPIRY_INTERVAL, -1),
            (T.PUBACK, P.REASON_STRING, b"x"),
            (T.PUBACK, P.REASON_STRING, "\0"),
            (T.PUBACK, P.REASON_STRING, "x" * 65536),
            (T.PUBLISH, P.CORRELATION_DATA, "x"),
            (T.PUBLISH, P.CORRELATION_DATA, bytes(65536)),
            (T.PUBLISH, P.USER_PROPERTY, "x"),
            (T.PUBLISH, P.USER_PROPERTY, ("x",)),
            (T.PUBLISH, P.USER_PROPERTY, ((1, 2),)),
            (T.PUBLISH, P.SUBSCRIPTION_IDENTIFIER, 1),
            (T.PUBLISH, 0x7E, 1),
        ]
        for place, identifier, value in cases:
            self.assertRaises(LocalProtocolError, encode_properties, {identifier: value}, place)


def decoded(raw: bytes) -> Packet | None:
    """A packet of version 5."""
    return decode(raw, 0, len(raw), protocol_version=5, max_packet_bytes=1 << 28)[0]


class MalformedV5Tests(SynchronousTestCase):
    """What MQTT 5 forbids beyond properties."""

    def refused(self, raw: bytes, clause: str, code: int) -> None:
        with self.assertRaises(RemoteProtocolError, msg=repr(raw)) as caught:
            decoded(raw)
        self.assertIn(clause, str(caught.exception))
        self.assertEqual(caught.exception.reason_code, code)

    def test_all(self):
        """Each with its clause and code."""
        error, malformed = ReasonCode.PROTOCOL_ERROR, ReasonCode.MALFORMED_PACKET
        self.refused(b"\x30\x03\x00\x00\x00", "topic alias", error)
        self.refused(b"\x30\x04\x00\x01+\x00", "MQTT-3.3.2-2", ReasonCode.TOPIC_NAME_INVALID)
        self.refused(b"\x30\x03\x00\x01a", "property length", malformed)
        self.refused(b"\x40\x03\x00\x01\x01", "reason code 0x01", error)
        self.refused(b"\x62\x03\x00\x01\x80", "reason code 0x80", error)
        self.refused(b"\x90\x04\x00\x01\x00\x03", "reason code 0x03", error)
        self.refused(b"\x90\x03\x00\x01\x00", "MQTT-3.9.3-2", malformed)
        self.refused(b"\xb0\x03\x00\x01\x00", "MQTT-3.11.3-1", malformed)
        self.refused(b"\xb0\x04\x00\x01\x00\x01", "reason code 0x01", error)
        self.refused(b"\xf0\x01\x01", "reason code 0x01", error)
        self.refused(b"\xf1", "2.2.1", malformed)
        self.refused(b"\x82\x07\x00\x01\x00\x00\x01a\x40", "MQTT-3.8.3-5", malformed)
        self.refused(b"\x82\x07\x00\x01\x00\x00\x01a\x03", "3.8.3.1", error)
        self.refused(b"\x82\x07\x00\x01\x00\x00\x01a\x30", "3.8.3.1", error)
        self.refused(b"\x82\x10\x00\x01\x00\x00\x0a$share/g/a\x04", "MQTT-3.8.3-4", error)
        for topic_filter in ("$share/", "$share//a", "$share/g", "$share/g/", "$share/+/a"):
            raw = topic_filter.encode()
            body = b"\x00\x01\x00" + len(raw).to_bytes(2, "big") + raw + b"\x00"
            self.refused(b"\x82" + bytes((len(body),)) + body, "MQTT-4.8.2", ReasonCode.TOPIC_FILTER_INVALID)
        self.refused(b"\x20\x02\x00\x00", "property length", malformed)

    def test_connect_version(self):
        """The error about a CONNECT of 5 says so, for the answer is to be spelt in its version."""
        with self.assertRaises(RemoteProtocolError) as caught:
            decode(b"\x10\x0b\x00\x04MQTT\x05\x03\x00\x00\x00", 0, 13, protocol_version=4, max_packet_bytes=99)
        self.assertEqual(caught.exception.connect_version, 5)

    def test_refusal_of_3_1_1(self):
        """Two bytes and a code are understood: so says no a server that knows no MQTT 5."""
        self.assertEqual(decoded(b"\x20\x02\x00\x01"), ConnAck(reason_code=1))

    def test_unsayable(self):
        """What no peer of MQTT 5 may be told."""
        packets: list[Packet] = [
            PubAck(packet_id=1, reason_code=0x92),
            PubRel(packet_id=1, reason_code=0x80),
            SubAck(packet_id=1, reason_codes=(3,)),
            UnsubAck(packet_id=1, reason_codes=(1,)),
            Auth(reason_code=1),
            Publish(topic="", payload=b""),
            Connect(),
            Connect(protocol_version=5, will=Will(topic="a", payload=b"", properties={P.TOPIC_ALIAS: 1})),
            Subscribe(packet_id=1, filters=(Subscription(topic_filter="$share/g/a", no_local=True),)),
            Subscribe(packet_id=1, filters=(Subscription(topic_filter="$share/a"),)),
            ConnAck(reason_code=256),
            Disconnect(properties={P.TOPIC_ALIAS: 1}),
            Disconnect(reason_code=256),
        ]
        for packet in packets:
            self.assertRaises(LocalProtocolError, encode, packet, 5)


_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_pairs = st.lists(st.tuples(_text, _text), min_size=1, max_size=3).map(tuple)
_message_properties = st.fixed_dictionaries(
    {},
    optional={
        P.PAYLOAD_FORMAT_INDICATOR: st.integers(0, 1),
        P.MESSAGE_EXPIRY_INTERVAL: st.integers(0, 0xFFFFFFFF),
        P.CONTENT_TYPE: _text,
        P.CORRELATION_DATA: st.binary(max_size=300),
        P.TOPIC_ALIAS: st.integers(1, 65535),
        P.SUBSCRIPTION_IDENTIFIER: st.lists(st.integers(1, 268435455), min_size=1, max_size=3).map(tuple),
        P.USER_PROPERTY: _pairs,
    },
)


class RoundTripTests(SynchronousTestCase):
    """Any properties survive the way through bytes."""

    @settings(max_examples=300, deadline=None)
    @given(_message_properties, st.binary(max_size=300))
    def test_publish(self, properties, payload):
        """Of a PUBLISH, at every length of the length."""
        packet = Publish(topic="t", payload=payload, qos=1, packet_id=1, properties=properties or None)
        self.assertEqual(decoded(encode(packet, 5)), packet)

    @settings(max_examples=500, deadline=None)
    @given(st.sampled_from([WILL, *T]), st.binary(max_size=60))
    def test_any_bytes(self, place, data):
        """No other exception than RemoteProtocolError comes out of properties."""
        with contextlib.suppress(RemoteProtocolError):
            decode_properties(bytes((len(data),)) + data, 0, len(data) + 1, place)
