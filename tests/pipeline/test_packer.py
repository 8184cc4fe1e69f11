"""Packing: exact sizes, nothing lost, nothing reordered, nothing that ThingsBoard could not take."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.model import Device, Draft, Reading
from tbgw.pipeline.packer import Oversized, Packer, PackLimits
from tbgw.thingsboard import topics

PLENTY = PackLimits(telemetry_bytes=65_000, attributes_bytes=65_000)


def limits(telemetry: int = 65_000, attributes: int = 65_000, points: int = 20_000) -> PackLimits:
    return PackLimits(telemetry, attributes, points)


def pack(readings: Iterable[Reading], limit: PackLimits) -> tuple[list[Draft], list[Oversized]]:
    """What ingest does: add, and take whenever the packer says so."""
    packer = Packer(limit)
    drafts: list[Draft] = []
    oversized: list[Oversized] = []
    for reading in readings:
        if not packer.add(reading, oversized):
            drafts += packer.take()
            assert packer.add(reading, oversized), "an empty group takes every reading"
        if packer.full:
            drafts += packer.take()
    drafts += packer.take()
    assert packer.empty
    return drafts, oversized


def telemetry_of(payload: bytes) -> list[tuple[str, int, str, Any]]:
    """(device, ts, key, value) in the order of the payload."""
    return [
        (device, element["ts"], key, value)
        for device, elements in json.loads(payload).items()
        for element in elements
        for key, value in element["values"].items()
    ]


def attributes_of(payload: bytes) -> list[tuple[str, str, Any]]:
    """(device, key, value) in the order of the payload."""
    return [(device, key, value) for device, values in json.loads(payload).items() for key, value in values.items()]


class PackerTests(SynchronousTestCase):
    """The open group."""

    def add(self, packer: Packer, reading: Reading) -> None:
        oversized: list[Oversized] = []
        self.assertTrue(packer.add(reading, oversized))
        self.assertEqual(oversized, [])

    def test_empty(self):
        """A new packer is empty, and taking gives nothing."""
        packer = Packer(PLENTY)
        self.assertTrue(packer.empty)
        self.assertEqual(packer.take(), [])

    def test_one_reading(self):
        """One reading becomes one payload in ThingsBoard's form."""
        packer = Packer(PLENTY)
        self.add(packer, Reading(Device("A"), ((1000, {"t": 21.5, "on": True}),)))
        self.assertEqual(
            packer.take(),
            [Draft(topics.TELEMETRY, b'{"A":[{"ts":1000,"values":{"t":21.5,"on":true}}]}', ("A",), 1, 2)],
        )

    def test_many_devices_share_a_payload(self):
        """Readings of several devices go together, each device once, its elements in order."""
        packer = Packer(PLENTY)
        for ts, name in ((1, "A"), (2, "B"), (3, "A")):
            self.add(packer, Reading(Device(name), ((ts, {"k": ts}),)))
        (draft,) = packer.take()
        self.assertEqual(draft.devices, ("A", "B"))
        self.assertEqual((draft.messages, draft.points), (3, 3))
        self.assertEqual(telemetry_of(draft.payload), [("A", 1, "k", 1), ("A", 3, "k", 3), ("B", 2, "k", 2)])

    def test_two_devices_of_one_name_are_one(self):
        """Two Device objects with one name share the name's part: a payload must not bear a name twice."""
        packer = Packer(PLENTY)
        self.add(packer, Reading(Device("A"), ((1, {"k": 1}),)))
        self.add(packer, Reading(Device("A"), ((2, {"k": 2}),)))
        (draft,) = packer.take()
        self.assertEqual(draft.payload.count(b'"A"'), 1)
        self.assertEqual(draft.devices, ("A",))

    def test_attributes_go_first(self):
        """Attributes are a payload of their own, before the telemetry; the reading is counted once."""
        packer = Packer(PLENTY)
        self.add(packer, Reading(Device("A"), ((1, {"k": 1}),), {"fw": "1.0", "n": 2}))
        first, second = packer.take()
        self.assertEqual(first, Draft(topics.ATTRIBUTES, b'{"A":{"fw":"1.0","n":2}}', ("A",), 0, 2))
        self.assertEqual((second.topic, second.messages), (topics.TELEMETRY, 1))

    def test_the_newest_attribute_wins(self):
        """A later value of an attribute takes the place of an earlier one in the group; both readings count."""
        packer = Packer(PLENTY)
        self.add(packer, Reading(Device("A"), (), {"k": "a long first value"}))
        self.add(packer, Reading(Device("A"), (), {"k": 2}))
        self.assertEqual(packer.take(), [Draft(topics.ATTRIBUTES, b'{"A":{"k":2}}', ("A",), 2, 1)])

    def test_instants_without_values_are_left_out(self):
        """ThingsBoard never acknowledges an empty part, so an instant without values makes none."""
        packer = Packer(PLENTY)
        self.add(packer, Reading(Device("A"), ((1, {}),)))
        self.add(packer, Reading(Device("B")))
        self.assertTrue(packer.empty)
        self.add(packer, Reading(Device("A"), ((1, {}), (2, {"k": 2}))))
        (draft,) = packer.take()
        self.assertEqual(draft.payload, b'{"A":[{"ts":2,"values":{"k":2}}]}')

    def test_instants_without_values_in_a_large_reading(self):
        """The same holds where the reading is cut into several payloads."""
        reading = Reading(Device("A"), ((1, {}), (2, {"a": "x" * 50, "b": "y" * 50}), (3, {})))
        drafts, _ = pack([reading], limits(telemetry=100))
        self.assertEqual([len(telemetry_of(draft.payload)) for draft in drafts], [1, 1])

    def test_values_without_a_json_form(self):
        """NaN, infinity and what is no JSON value are refused with ValueError, and nothing of the reading is added."""
        for value in (float("nan"), float("inf"), -float("inf"), {"deep": [float("nan")]}, object(), b"bytes", {1, 2}):
            packer = Packer(PLENTY)
            self.assertRaises(ValueError, packer.add, Reading(Device("A"), ((1, {"ok": 1}), (2, {"k": value}))), [])
            self.assertRaises(ValueError, packer.add, Reading(Device("A"), ((1, {"ok": 1}),), {"k": value}), [])
            self.assertTrue(packer.empty)
            self.add(packer, Reading(Device("A"), ((1, {"ok": 1}),)))
            self.assertEqual(packer.take()[0].payload, b'{"A":[{"ts":1,"values":{"ok":1}}]}')

    def test_strange_names(self):
        """Quotes, backslashes, line ends, other alphabets and lone surrogates in names and values travel whole."""
        for text in ('say "A"', "back\\slash", "line\nend", "Zähler 温度 😀", "lone \ud800 surrogate", "\x00\x1f\x7f"):
            device = Device(text)
            drafts, oversized = pack([Reading(device, ((1, {text: text}),), {text: text})], PLENTY)
            self.assertEqual(oversized, [])
            self.assertEqual([draft.devices for draft in drafts], [(text,), (text,)])
            self.assertEqual(attributes_of(drafts[0].payload), [(text, text, text)])
            self.assertEqual(telemetry_of(drafts[1].payload), [(text, 1, text, text)])

    def test_many_names(self):
        """The cache of encoded names is bounded, and emptying it changes nothing."""
        packer = Packer(PLENTY)
        packer._names.update({f"other {number}": b"" for number in range(100_000)})
        self.add(packer, Reading(Device("A"), ((1, {"k": 1}),)))
        self.assertLess(len(packer._names), 10)
        self.add(packer, Reading(Device("A"), ((2, {"k": 2}),)))
        self.assertEqual(len(packer.take()), 1)


class SizeTests(SynchronousTestCase):
    """Sizes are exact, in encoded bytes."""

    def telemetry_size(self, readings: list[Reading]) -> int:
        (draft,), _ = pack(readings, PLENTY)
        return len(draft.payload)

    def check_exact(self, readings: list[Reading], kind: str) -> None:
        """Together they are one payload at their size, and two when the limit is one byte lower."""
        size = self.telemetry_size(readings)
        for limit, count in ((size + 1, 1), (size, 1), (size - 1, 2)):
            packer = Packer(limits(**{kind: limit}))
            added = [packer.add(reading, []) for reading in readings]
            self.assertEqual(added, [True] * (len(readings) - (count - 1)) + [False] * (count - 1), limit)
            self.assertLessEqual(len(packer.take()[0].payload), limit)

    def test_telemetry_of_one_device(self):
        """The last byte of a payload can be used, and not one more: one device."""
        device = Device("Zähler")
        self.check_exact([Reading(device, ((ts, {"t": "ü" * ts}),)) for ts in range(1, 8)], "telemetry")

    def test_telemetry_of_many_devices(self):
        """The last byte of a payload can be used, and not one more: many devices."""
        self.check_exact(
            [Reading(Device(f"D{ts}"), ((ts, {"t": ts}), (ts + 1, {"u": 1}))) for ts in range(9)], "telemetry"
        )

    def test_attributes_of_many_devices(self):
        """The last byte of an attributes payload can be used, and not one more."""
        self.check_exact([Reading(Device(f"D{n}"), (), {"a": n, "ö": "ü"}) for n in range(9)], "attributes")

    def test_one_value_at_the_limit(self):
        """A single value fits at exactly the limit; at one byte less it is oversized, and named with its payload."""
        for reading in (
            Reading(Device("Zähler"), ((7, {"t": "ü" * 40}),)),
            Reading(Device("Zähler"), (), {"t": "ü" * 40}),
        ):
            size = self.telemetry_size([reading])
            for limit in (size + 1, size):
                drafts, oversized = pack([reading], limits(limit, limit))
                self.assertEqual(([len(draft.payload) for draft in drafts], oversized), ([size], []))
            drafts, oversized = pack([reading], limits(size - 1, size - 1))
            self.assertEqual(drafts, [])
            (value,) = oversized
            self.assertEqual((value.device, len(value.payload)), ("Zähler", size))
            self.assertEqual(value.topic, topics.TELEMETRY if reading.telemetry else topics.ATTRIBUTES)
            json.loads(value.payload)

    def test_oversized_value_among_good_ones(self):
        """Only what fits no payload goes aside; the rest of its reading is kept, and counted once."""
        reading = Reading(
            Device("A"),
            ((1, {"a": 1, "huge": "x" * 500, "b": 2}), (2, {"huge": "y" * 500}), (3, {"c": 3})),
            {"vast": "z" * 500, "d": 4},
        )
        drafts, oversized = pack([reading], limits(200, 200))
        self.assertEqual(
            [(value.topic, value.device) for value in oversized],
            [(topics.ATTRIBUTES, "A"), (topics.TELEMETRY, "A"), (topics.TELEMETRY, "A")],
        )
        self.assertEqual(attributes_of(drafts[0].payload), [("A", "d", 4)])
        kept = [entry for draft in drafts[1:] for entry in telemetry_of(draft.payload)]
        self.assertEqual(kept, [("A", 1, "a", 1), ("A", 1, "b", 2), ("A", 3, "c", 3)])
        self.assertEqual(sum(draft.messages for draft in drafts), 1)

    def test_a_limit_below_everything(self):
        """A limit that nothing fits makes everything oversized, and neither fails nor loops."""
        reading = Reading(Device("A"), ((1, {"a": 1, "b": 2}),), {"c": 3})
        for limit in (-5, 0, 1, 10):
            drafts, oversized = pack([reading], limits(limit, limit))
            self.assertEqual((drafts, len(oversized)), ([], 3))

    def test_large_reading_fills_payloads(self):
        """A reading of many instants is cut into payloads that are filled, not into one for each instant."""
        reading = Reading(Device("A"), tuple((ts, {"k": ts}) for ts in range(1000)))
        drafts, _ = pack([reading], limits(telemetry=3000))
        self.assertLessEqual(len(drafts), 12)
        self.assertEqual([ts for draft in drafts for _, ts, _, _ in telemetry_of(draft.payload)], list(range(1000)))
        self.assertEqual([draft.messages for draft in drafts], [1] + [0] * (len(drafts) - 1))
        self.assertEqual(sum(draft.points for draft in drafts), 1000)

    def test_reading_is_not_spread_over_groups(self):
        """What does not fit beside the others waits for the next group as a whole."""
        packer = Packer(limits(telemetry=100))
        self.assertTrue(packer.add(Reading(Device("A"), ((1, {"k": "x" * 20}),)), []))
        late = Reading(Device("A"), ((2, {"k": "y" * 10}), (3, {"k": "z" * 10})))
        self.assertFalse(packer.add(late, []))
        self.assertNotIn(b"y", packer.take()[0].payload)
        self.assertTrue(packer.add(late, []))
        self.assertIn(b"z", packer.take()[0].payload)

    def test_full(self):
        """A group counts as full when next to nothing fits any more, and not before it is well filled."""
        packer = Packer(limits(telemetry=1000))
        self.assertFalse(packer.full)
        sizes = []
        for ts in range(100):
            if packer.full:
                break
            self.assertTrue(packer.add(Reading(Device("A"), ((ts, {"k": ts}),)), []))
            sizes.append(ts)
        (draft,) = packer.take()
        self.assertGreater(len(draft.payload), 900)
        self.assertFalse(packer.full)


class PointsTests(SynchronousTestCase):
    """Data points of one device in one payload."""

    def most_points(self, drafts: list[Draft]) -> int:
        most = 0
        for draft in drafts:
            for content in json.loads(draft.payload).values():
                points = sum(len(one["values"]) for one in content) if isinstance(content, list) else len(content)
                most = max(most, points)
        return most

    def test_across_readings(self):
        """Many small readings of one device do not pile up beyond the limit, telemetry or attributes."""
        device = Device("A")
        telemetry, _ = pack([Reading(device, ((ts, {"a": 1, "b": 2}),)) for ts in range(10)], limits(points=5))
        attributes, _ = pack([Reading(device, (), {f"a{n}": 1, f"b{n}": 2}) for n in range(10)], limits(points=5))
        for drafts in (telemetry, attributes):
            self.assertEqual(self.most_points(drafts), 4)
            self.assertEqual(sum(draft.points for draft in drafts), 20)
            self.assertEqual(sum(draft.messages for draft in drafts), 10)

    def test_within_a_reading(self):
        """A reading with more points than that is cut, by instant or by key."""
        device = Device("A")
        wide = Reading(device, ((1, {f"k{n}": n for n in range(17)}),), {f"a{n}": n for n in range(17)})
        long = Reading(device, tuple((ts, {"k": ts}) for ts in range(17)))
        for reading, count in ((wide, 34), (long, 17)):
            drafts, oversized = pack([reading], limits(points=5))
            self.assertEqual(oversized, [])
            self.assertLessEqual(self.most_points(drafts), 5)
            self.assertEqual(sum(draft.points for draft in drafts), count)
            self.assertEqual(sum(draft.messages for draft in drafts), 1)

    def test_other_devices_are_not_counted(self):
        """The limit holds for each device by itself: parts of different devices share a payload."""
        readings = [Reading(Device(f"D{n}"), ((1, {"a": 1, "b": 2}),)) for n in range(10)]
        drafts, _ = pack(readings, limits(points=2))
        self.assertEqual(len(drafts), 1)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.text(max_size=6)
INSTANTS = st.tuples(st.integers(0, 2**45), st.dictionaries(KEYS, VALUES, max_size=5))


class AnySequenceTests(SynchronousTestCase):
    """What holds for every sequence of readings under every limit."""

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["A", "B", 'C"ä', "\ud800x"]),
                st.lists(INSTANTS, max_size=4),
                st.dictionaries(KEYS, VALUES, max_size=5),
            ),
            max_size=12,
        ),
        st.integers(40, 400),
        st.integers(40, 400),
        st.integers(1, 8),
    )
    def test_nothing_lost(self, said, telemetry_limit, attributes_limit, points):
        """
        Every payload keeps the limit; every value is in a payload or aside; order per device and key is kept; messages
        and points add up.
        """
        devices = {name: Device(name) for name in ("A", "B", 'C"ä', "\ud800x")}
        readings = [Reading(devices[name], tuple(instants), attributes) for name, instants, attributes in said]
        limit = limits(telemetry_limit, attributes_limit, points)
        drafts, oversized = pack(readings, limit)

        sent: dict[tuple[str, str], list[Any]] = {}
        last: dict[tuple[str, str], Any] = {}
        for draft in drafts:
            if draft.topic == topics.TELEMETRY:
                self.assertLessEqual(len(draft.payload), telemetry_limit)
                entries = telemetry_of(draft.payload)
                for device, ts, key, value in entries:
                    sent.setdefault((device, key), []).append((ts, value))
            else:
                self.assertEqual(draft.topic, topics.ATTRIBUTES)
                self.assertLessEqual(len(draft.payload), attributes_limit)
                pairs = attributes_of(draft.payload)
                entries = [(device, 0, key, value) for device, key, value in pairs]
                last.update({(device, key): value for device, key, value in pairs})
            self.assertEqual(draft.points, len(entries))
            self.assertEqual(tuple(dict.fromkeys(entry[0] for entry in entries)), draft.devices)
            counts = [sum(1 for entry in entries if entry[0] == name) for name in draft.devices]
            self.assertLessEqual(max(counts), points)
        for value in oversized:
            limit_bytes = telemetry_limit if value.topic == topics.TELEMETRY else attributes_limit
            self.assertGreater(len(value.payload), limit_bytes)

        aside = [entry for one in oversized if one.topic == topics.TELEMETRY for entry in telemetry_of(one.payload)]
        expected: dict[tuple[str, str], list[Any]] = {}
        expected_last: dict[tuple[str, str], Any] = {}
        aside_keys = [
            (d, k, v) for one in oversized if one.topic != topics.TELEMETRY for d, k, v in attributes_of(one.payload)
        ]
        for reading in readings:
            name = reading.device.name
            for ts, values in reading.telemetry:
                for key, value in values.items():
                    if (name, ts, key, value) in aside:
                        aside.remove((name, ts, key, value))
                    else:
                        expected.setdefault((name, key), []).append((ts, value))
            for key, value in reading.attributes.items():
                if (name, key, value) in aside_keys:
                    aside_keys.remove((name, key, value))
                else:
                    expected_last[name, key] = value
        self.assertEqual((aside, aside_keys), ([], []))
        self.assertEqual(sent, expected)
        self.assertEqual(last, expected_last)

        # A reading counts once if anything of it is in a payload, and not at all otherwise.
        self.assertLessEqual(sum(draft.messages for draft in drafts), len(readings))
        if not oversized:
            with_values = [one for one in readings if one.attributes or any(values for _, values in one.telemetry)]
            self.assertEqual(sum(draft.messages for draft in drafts), len(with_values))
