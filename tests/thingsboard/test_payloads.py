"""Payloads written and read: strict JSON, exact sizes, limits as ThingsBoard tells them."""

from __future__ import annotations

import json
import sys
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.model import RateLimit, SessionLimits
from tbgw.thingsboard import payloads, topics

TEXT = st.text(alphabet=st.characters(), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


class EncodeTests(SynchronousTestCase):
    """`encode`."""

    @settings(max_examples=200, deadline=None)
    @given(VALUES)
    def test_round_trip(self, value):
        """Every JSON value, lone surrogates included, comes back as the same value, from UTF-8 bytes."""
        payload = payloads.encode(value)
        self.assertEqual(json.loads(payload.decode("utf-8")), value)
        self.assertEqual(payloads.decode(payload), value)

    def test_compact(self):
        """No space is spent, and letters of other alphabets are not escaped."""
        self.assertEqual(payloads.encode({"ä": [1, 2.5, True, None, "温"]}), '{"ä":[1,2.5,true,null,"温"]}'.encode())

    def test_no_json_form(self):
        """NaN, infinity, bytes, sets, objects, endless values, absurd integers raise ValueError, also deep inside."""
        endless: list[Any] = []
        endless.append(endless)
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        for value in (float("nan"), float("inf"), -float("inf"), b"x", {1}, object(), endless, deep, 10**5000):
            for wrap in (lambda x: x, lambda x: {"k": [x]}):
                self.assertRaises(ValueError, payloads.encode, wrap(value))

    def test_lone_surrogate(self):
        """A lone surrogate comes out as its escape, so that the payload is UTF-8 all the same."""
        self.assertEqual(payloads.encode({"\udc80": "a\ud800"}), b'{"\\udc80":"a\\ud800"}')

    def test_without_accelerator(self):
        """A Python without the C encoder writes the same bytes."""
        with mock.patch.object(json.encoder, "c_make_encoder", None):
            slow = payloads._make_encoder()
        values: list[Any] = [{"a": [1, 2.0, "ü", None]}, "x", 1.5, []]
        for value in values:
            self.assertEqual(slow(value).encode(), payloads.encode(value))
        self.assertRaises(ValueError, slow, float("nan"))


class DecodeTests(SynchronousTestCase):
    """`decode`."""

    def test_rubbish(self):
        """Everything that is not strict UTF-8 JSON raises ValueError, and nothing else."""
        good = payloads.encode({"a": [1, {"b": "ü"}]})
        rubbish = [good[:length] for length in range(len(good))]
        rubbish += [b"\xff\xfe", b"\xef\xbb\xbf{}", b"{} {}", b"{'a':1}", b"[1,]", b"\x00", b"[" * 100_000, b"1" * 5000]
        rubbish += [b"NaN", b"[Infinity]", b'{"a":-Infinity}', '"ü"'.encode("latin-1"), '{"a":1}'.encode("utf-16")]
        for payload in rubbish:
            self.assertRaises(ValueError, payloads.decode, payload)
        self.assertEqual(payloads.decode(good), {"a": [1, {"b": "ü"}]})


class DeviceMessageTests(SynchronousTestCase):
    """Connect and disconnect messages, and names."""

    def test_connect(self):
        """Name and profile, as they are."""
        self.assertEqual(json.loads(payloads.connect('A "1"', "Wärme")), {"device": 'A "1"', "type": "Wärme"})
        self.assertEqual(json.loads(payloads.disconnect("A")), {"device": "A"})

    def test_names(self):
        """Names that ThingsBoard refuses are known: empty, blank, longer than 255 characters, with a character 0."""
        for name in ("A", " A ", "x" * 255, "温度", "a/b#+", "${name}"):
            self.assertTrue(payloads.is_device_name(name), name)
        for name in ("", " ", "\t\n", "x" * 256, "a\0b"):
            self.assertFalse(payloads.is_device_name(name), name)


def telemetry_of(payload: bytes) -> list[tuple[str, int, str, Any]]:
    return [
        (device, element["ts"], key, value)
        for device, elements in json.loads(payload).items()
        for element in elements
        for key, value in element["values"].items()
    ]


class SplitTests(SynchronousTestCase):
    """`split_telemetry` and `split_attributes`."""

    def telemetry(self, devices: dict[str, list[tuple[int, dict[str, Any]]]]) -> bytes:
        return payloads.join_telemetry(
            {
                payloads.encode(name): [payloads.telemetry_fragment(ts, values) for ts, values in elements]
                for name, elements in devices.items()
            }
        )

    def test_what_fits_stays(self):
        """A payload that keeps the limits comes back as it was, with its counts."""
        payload = self.telemetry({"A": [(1, {"k": 1}), (2, {"k": 2, "l": 3})], "B": [(1, {"k": 1})]})
        self.assertEqual(payloads.split_telemetry(payload, len(payload), 2, 4), [payloads.Piece(payload, 2, 4)])

    def test_one_byte_less(self):
        """With one byte less it is cut, in order."""
        payload = self.telemetry({"A": [(1, {"k": 1}), (2, {"k": 2})]})
        pieces = payloads.split_telemetry(payload, len(payload) - 1, 9, 9)
        self.assertEqual([telemetry_of(piece.payload) for piece in pieces], [[("A", 1, "k", 1)], [("A", 2, "k", 2)]])

    def test_devices_and_points(self):
        """Pieces keep the number of devices and of points, too."""
        payload = self.telemetry({name: [(1, {"a": 1, "b": 2, "c": 3})] for name in "ABCDE"})
        by_device = payloads.split_telemetry(payload, 9999, 2, 9999)
        self.assertEqual([(piece.devices, piece.points) for piece in by_device], [(2, 6), (2, 6), (1, 3)])
        by_points = payloads.split_telemetry(payload, 9999, 9999, 2)
        self.assertTrue(all(piece.points <= 2 for piece in by_points))
        self.assertEqual([entry for piece in by_points for entry in telemetry_of(piece.payload)], telemetry_of(payload))

    def test_value_that_fits_nothing(self):
        """A single key that is too long stays alone in its piece, over the limit, and the others are not with it."""
        payload = self.telemetry({"A": [(1, {"a": 1, "huge": "x" * 100, "b": 2})]})
        pieces = payloads.split_telemetry(payload, 60, 9, 9)
        over = [piece for piece in pieces if len(piece.payload) > 60]
        self.assertEqual([[entry[2] for entry in telemetry_of(piece.payload)] for piece in over], [["huge"]])
        self.assertEqual([entry[2] for piece in pieces for entry in telemetry_of(piece.payload)], ["a", "huge", "b"])

    @settings(max_examples=150, deadline=None)
    @given(
        st.dictionaries(
            TEXT,
            st.lists(
                st.tuples(st.integers(0, 10**13), st.dictionaries(TEXT, VALUES, min_size=1, max_size=4)),
                min_size=1,
                max_size=4,
            ),
            min_size=1,
            max_size=4,
        ),
        st.integers(30, 300),
        st.integers(1, 4),
        st.integers(1, 9),
    )
    def test_nothing_lost(self, devices, limit, max_devices, max_points):
        """Whatever the limits, the pieces hold the same points in the same order, counted rightly."""
        payload = self.telemetry(devices)
        pieces = payloads.split_telemetry(payload, limit, max_devices, max_points)
        self.assertEqual([e for piece in pieces for e in telemetry_of(piece.payload)], telemetry_of(payload))
        for piece in pieces:
            entries = telemetry_of(piece.payload)
            self.assertEqual((piece.devices, piece.points), (len({entry[0] for entry in entries}), len(entries)))
            self.assertTrue(len(piece.payload) <= limit or piece.points == 1)
            self.assertLessEqual(piece.points, max_points)
            self.assertLessEqual(piece.devices, max_devices)

    @settings(max_examples=100, deadline=None)
    @given(
        st.dictionaries(TEXT, st.dictionaries(TEXT, VALUES, min_size=1, max_size=5), min_size=1, max_size=4),
        st.integers(20, 200),
        st.integers(1, 4),
        st.integers(1, 9),
    )
    def test_attributes(self, devices, limit, max_devices, max_points):
        """The same for attributes."""
        payload = payloads.encode(devices)
        pieces = payloads.split_attributes(payload, limit, max_devices, max_points)
        joined = [
            (name, key, value)
            for piece in pieces
            for name, values in json.loads(piece.payload).items()
            for key, value in values.items()
        ]
        self.assertEqual(joined, [(name, key, value) for name, vs in devices.items() for key, value in vs.items()])
        for piece in pieces:
            content = json.loads(piece.payload)
            self.assertEqual((piece.devices, piece.points), (len(content), sum(map(len, content.values()))))
            self.assertTrue(len(piece.payload) <= limit or piece.points == 1)
            self.assertLessEqual(piece.points, max_points)
            self.assertLessEqual(piece.devices, max_devices)

    def test_attributes_that_fit(self):
        """An attributes payload at exactly its limit comes back as it was."""
        payload = payloads.encode({"A": {"k": 1, "ü": 2}, "B": {"k": 1}})
        self.assertEqual(payloads.split_attributes(payload, len(payload), 2, 3), [payloads.Piece(payload, 2, 3)])

    def test_other_payloads(self):
        """What is no such payload raises ValueError, and nothing else."""
        for rubbish in (
            b"",
            b"[]",
            b"5",
            b'{"A":5}',
            b'{"A":"ab"}',
            b'{"A":[5]}',
            b'{"A":[{"x":1}]}',
            b'{"A":[{"ts":"a","values":{}}]}',
            b'{"A":[{"ts":1,"values":5}]}',
            b'{"A":[{"ts":1,"values":[1,2]}]}',
            b'{"A":null}',
            b'{"A":[{"ts":null,"values":{"k":1}}]}',
        ):
            self.assertRaises(ValueError, payloads.split_telemetry, rubbish, 8, 9, 1)
        for rubbish in (b"", b"[]", b"5", b'{"A":5}', b'{"A":[1]}', b'{"A":null}'):
            self.assertRaises(ValueError, payloads.split_attributes, rubbish, 8, 9, 1)


class LimitTests(SynchronousTestCase):
    """Limits as ThingsBoard announces them."""

    def test_rate_limits(self):
        """All spellings seen, and every kind of "none"."""
        self.assertEqual(payloads.parse_rate_limits("15:1,300:60"), (RateLimit(15, 1.0), RateLimit(300, 60.0)))
        self.assertEqual(payloads.parse_rate_limits(" 15:1 ; 300:60 ;"), (RateLimit(15, 1.0), RateLimit(300, 60.0)))
        for none in (None, "", ",", "0:1", "5:0", "0:0,"):
            self.assertEqual(payloads.parse_rate_limits(none), ())

    def test_bad_rate_limits(self):
        """What is no rate limit raises ValueError: nobody is limited by a misreading, or not limited by one."""
        rubbish: tuple[object, ...] = (
            "15",
            "15:",
            ":1",
            "a:1",
            "1:a",
            "-1:1",
            "1:-1",
            "1:nan",
            "1:inf",
            "1:1e999",
            "1.5:1",
            "1:1:1",
            5,
            [],
            {},
            True,
            b"1:1",
        )
        for bad in rubbish:
            self.assertRaises(ValueError, payloads.parse_rate_limits, bad)

    def test_gateway_answer(self):
        """The answer to a gateway, complete."""
        answer = {
            "maxPayloadSize": 65536,
            "maxInflightMessages": 100,
            "rateLimits": {"messages": "20:600", "telemetryMessages": "10:600", "telemetryDataPoints": "40:600"},
            "gatewayRateLimits": {"messages": "1:1", "telemetryMessages": "2:2", "telemetryDataPoints": "3:3,4:4"},
        }
        self.assertEqual(
            payloads.parse_session_limits(payloads.encode(answer)),
            SessionLimits(
                65536,
                100,
                (RateLimit(20, 600),),
                (RateLimit(10, 600),),
                (RateLimit(40, 600),),
                (RateLimit(1, 1),),
                (RateLimit(2, 2),),
                (RateLimit(3, 3), RateLimit(4, 4)),
            ),
        )

    def test_missing_fields(self):
        """What is missing, null or zero is unlimited, or the default where there has to be a number."""
        defaults = SessionLimits()
        for answer in (
            b"{}",
            b'{"maxPayloadSize":null,"maxInflightMessages":0,"rateLimits":null,"gatewayRateLimits":{}}',
            b'{"gatewayRateLimits":{"messages":null,"telemetryMessages":""}}',
        ):
            self.assertEqual(payloads.parse_session_limits(answer), defaults)

    def test_error_answer(self):
        """Servers before 3.8 answer with an error: the call is not known."""
        self.assertIsNone(payloads.parse_session_limits(b'{"error":"timeout"}'))

    def test_bad_answers(self):
        """Everything else raises ValueError."""
        for bad in (
            b"",
            b"[]",
            b"null",
            b'"x"',
            b'{"maxPayloadSize":"65536"}',
            b'{"maxPayloadSize":-1}',
            b'{"maxPayloadSize":true}',
            b'{"maxInflightMessages":1.5}',
            b'{"rateLimits":"20:600"}',
            b'{"gatewayRateLimits":{"messages":5}}',
            b'{"rateLimits":[1]}',
            b"\xff",
            b'{"maxPayloadSize":NaN}',
        ):
            self.assertRaises(ValueError, payloads.parse_session_limits, bad)

    def test_payload_limit(self):
        """The server's limit is for the whole packet: topic and overhead come off; the configured one is as it is."""
        limits = SessionLimits(max_payload_bytes=65536)
        self.assertEqual(
            payloads.payload_limit(limits, topics.TELEMETRY, 10**9), 65536 - len("v1/gateway/telemetry") - 16
        )
        self.assertEqual(payloads.payload_limit(limits, topics.TELEMETRY, 8000), 8000)

    def test_largest_packet(self):
        """A payload at the limit makes an MQTT packet within the announced length, on 3.1.1 and on 5."""
        topic = topics.TELEMETRY
        payload = payloads.payload_limit(SessionLimits(), topic, sys.maxsize)
        self.assertLessEqual(2 + len(topic) + 2 + 1 + payload, 65536)

    def test_request(self):
        """The request is a client-side RPC."""
        self.assertEqual(json.loads(payloads.session_limits_request())["method"], "getSessionLimits")


class PartsTests(SynchronousTestCase):
    """Payloads that are taken apart, to find the part that ThingsBoard does not take."""

    def atoms(self, topic: str, payload: bytes) -> list[bytes]:
        """All that is left when everything was cut as far as it can be, in order."""
        smaller = payloads.parts(topic, payload)
        return [atom for part in smaller for atom in self.atoms(topic, part.payload)] if smaller else [payload]

    def test_by_device_then_element_then_key(self):
        """Telemetry is cut between devices, then between elements, then between keys, in order, all kept."""
        content = {"A": [{"ts": 1, "values": {"x": 1, "y": 2}}, {"ts": 2, "values": {"x": 3}}], "B": [
            {"ts": 3, "values": {"x": 4}, "metadata": {"m": 1}}]}
        by_device = payloads.parts(topics.TELEMETRY, payloads.encode(content))
        self.assertEqual([(part.devices, part.points) for part in by_device], [(("A",), 3), (("B",), 1)])
        by_element = payloads.parts(topics.TELEMETRY, by_device[0].payload)
        self.assertEqual([part.points for part in by_element], [2, 1])
        by_key = payloads.parts(topics.TELEMETRY, by_element[0].payload)
        self.assertEqual(
            [part.payload for part in by_key],
            [b'{"A":[{"ts":1,"values":{"x":1}}]}', b'{"A":[{"ts":1,"values":{"y":2}}]}'],
        )
        self.assertEqual(payloads.parts(topics.TELEMETRY, by_key[0].payload), [])
        self.assertEqual(payloads.parts(topics.TELEMETRY, by_device[1].payload), [])

    def test_attributes(self):
        """Attributes are cut between devices and keys."""
        payload = payloads.encode({"A": {"x": 1, "y": [2]}, "B": {"z": None}})
        self.assertEqual(
            self.atoms(topics.ATTRIBUTES, payload), [b'{"A":{"x":1}}', b'{"A":{"y":[2]}}', b'{"B":{"z":null}}']
        )

    def test_bounded(self):
        """No cut makes more than the bound; what is beyond stays together for the next."""
        content = {f"D{number}": [{"ts": number, "values": {"k": number}}] for number in range(1000)}
        cut = payloads.parts(topics.TELEMETRY, payloads.encode(content))
        self.assertEqual(len(cut), payloads.MOST_PARTS)
        self.assertEqual([name for part in cut for name in part.devices], list(content))
        self.assertEqual(sum(part.points for part in cut), 1000)
        self.assertEqual(len(self.atoms(topics.TELEMETRY, payloads.encode(content))), 1000)

    def test_what_cannot_be_cut(self):
        """Other topics, and what is not what its topic says, stay whole."""
        for topic, payload in (
            (topics.DISCONNECT, b'{"device":"A","x":1}'),
            (topics.TELEMETRY, b""),
            (topics.TELEMETRY, b"[]"),
            (topics.TELEMETRY, b"{}"),
            (topics.TELEMETRY, b'{"A":[]}'),
            (topics.TELEMETRY, b'{"A":[{"ts":1,"values":{}}]}'),
            (topics.TELEMETRY, b'{"A":[{"ts":1}],"B":[{"ts":1}]}'),
            (topics.TELEMETRY, b'{"A":5}'),
            (topics.TELEMETRY, b"\xff"),
            (topics.ATTRIBUTES, b'{"A":[1,2]}'),
            (topics.ATTRIBUTES, b"7"),
        ):
            self.assertEqual(payloads.parts(topic, payload), [], payload)

    def test_disconnect_reason(self):
        """The reason for which ThingsBoard gives up a device; nothing for what is no such message."""
        self.assertEqual(payloads.disconnect_reason(b'{"device":"A","reason":150}'), 150)
        for other in (b'{"device":"A"}', b"[]", b"x", b"5", b'{"reason":true}', b'{"reason":"150"}'):
            self.assertIsNone(payloads.disconnect_reason(other))
