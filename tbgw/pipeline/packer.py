"""Packs many devices' readings into few ready payloads. Pure: no clock, no I/O.

What is added goes into the open group: a telemetry payload and an attributes payload that grow until `take` closes
them. A reading is never spread over two groups, so that one receipt covers it: when it does not fit, the caller is
told to take the group first. A reading that is larger than a whole payload gets several payloads, cut by instant and
by key.

Sizes are exact, in encoded bytes. Fragments are encoded when they are added and only joined at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tbgw.model import Draft, Reading, Value
from tbgw.thingsboard import payloads, topics

MAX_POINTS = 20_000
"""Data points in one payload when no limit is announced: some 50 bytes each fill the largest payload long before."""


@dataclass(frozen=True, slots=True)
class PackLimits:
    """How large one payload may become."""

    telemetry_bytes: int
    attributes_bytes: int
    device_points: int = MAX_POINTS
    """Data points of one device in one payload: more than the largest bucket holds would never pass (spec
    thingsboard-mqtt, 6.1: each device's part is a message of its own)."""


@dataclass(frozen=True, slots=True)
class Oversized:
    """A value that fits no payload by itself, and so can never be sent."""

    topic: str
    device: str
    payload: bytes
    """The payload as it would have been."""


class _Part:
    """What one device has in the open telemetry payload."""

    __slots__ = ("fragments", "name", "points")

    def __init__(self, name: str) -> None:
        self.name = name
        self.fragments: list[bytes] = []
        self.points = 0


class Packer:
    """The open group. `add` and `take` are all there is to it."""

    def __init__(self, limits: PackLimits) -> None:
        self.limits = limits
        self._names: dict[str, bytes] = {}
        self._clear()

    def _clear(self) -> None:
        self._telemetry: dict[bytes, _Part] = {}
        # One byte less than the empty payload `{}`: every part is counted with a comma behind it, the last has none.
        self._telemetry_bytes = 1
        self._telemetry_points = 0
        self._telemetry_messages = 0
        self._attributes: dict[bytes, tuple[str, dict[bytes, bytes]]] = {}
        self._attributes_bytes = 1
        self._attributes_messages = 0
        self._whole: list[Draft] = []

    @property
    def empty(self) -> bool:
        """Whether `take` would give nothing."""
        return not (self._telemetry or self._attributes or self._whole)

    @property
    def full(self) -> bool:
        """Whether waiting for more is pointless: a typical further reading would not fit any more."""
        return (
            self._telemetry_bytes * 16 > self.limits.telemetry_bytes * 15
            or self._attributes_bytes * 16 > self.limits.attributes_bytes * 15
            or bool(self._whole)
        )

    def add(self, reading: Reading, oversized: list[Oversized]) -> bool:
        """
        Add the reading; False, with nothing added, when the group has to be taken first. Values that fit no payload are
        appended to `oversized`, and the rest of the reading is kept. Instants without a value are left out, because
        ThingsBoard never acknowledges a part without one (spec thingsboard-mqtt, fact 6).

        Raises ValueError for a value that JSON has no form for.
        """
        device = reading.device.name
        name = self._names.get(device)
        if name is None:
            name = self._remember_name(device)
        # The common case first: one instant, no attributes, room enough.
        fragments: list[bytes] = []
        points = cost = 0
        for ts_ms, values in reading.telemetry:
            if not values:
                continue
            fragment = payloads.telemetry_fragment(ts_ms, values)
            cost += len(fragment) + 1
            points += len(values)
            fragments.append(fragment)
        attributes = self._encode_attributes(reading.attributes) if reading.attributes else None
        part = self._telemetry.get(name)
        telemetry_bytes = self._telemetry_bytes
        if fragments:
            telemetry_bytes += cost if part is not None else cost + len(name) + 3
        limits = self.limits
        if (
            telemetry_bytes > limits.telemetry_bytes
            or points + (part.points if part is not None else 0) > limits.device_points
            or (attributes and not self._attributes_fit(name, attributes))
        ):
            if not self.empty:
                return False
            self._add_whole(reading, name, attributes or {}, oversized)
            return True
        if fragments:
            if part is None:
                part = self._telemetry[name] = _Part(device)
            part.fragments += fragments
            part.points += points
            self._telemetry_bytes = telemetry_bytes
            self._telemetry_points += points
            self._telemetry_messages += 1
        if attributes:
            self._add_attributes(device, name, attributes, counts=not fragments)
        return True

    def take(self) -> list[Draft]:
        """Close the group: its payloads in the order in which they should be sent. The next group is empty."""
        drafts = self._whole
        if self._attributes:
            values = {name: pairs for name, (_, pairs) in self._attributes.items()}
            drafts.append(
                Draft(
                    topics.ATTRIBUTES,
                    payloads.join_attributes(values),
                    tuple([device for device, _ in self._attributes.values()]),
                    self._attributes_messages,
                    sum(map(len, values.values())),
                )
            )
        if self._telemetry:
            drafts.append(
                Draft(
                    topics.TELEMETRY,
                    payloads.join_telemetry({name: part.fragments for name, part in self._telemetry.items()}),
                    tuple([part.name for part in self._telemetry.values()]),
                    self._telemetry_messages,
                    self._telemetry_points,
                )
            )
        self._clear()
        return drafts

    def _remember_name(self, device: str) -> bytes:
        if len(self._names) >= 100_000:  # names may come from messages; a cache must not grow without end
            self._names.clear()
        name = self._names[device] = payloads.encode(device)
        return name

    @staticmethod
    def _encode_attributes(attributes: Mapping[str, Value]) -> dict[bytes, bytes]:
        return {payloads.encode(key): payloads.encode(value) for key, value in attributes.items()}

    def _attributes_fit(self, name: bytes, attributes: Mapping[bytes, bytes]) -> bool:
        # What is there already counts twice here: an upper bound is enough, and cheaper than the truth. For the first
        # device, which decides whether a reading can be sent at all, it is the truth.
        cost = sum([len(key) + len(value) + 2 for key, value in attributes.items()]) + len(name) + 3
        entry = self._attributes.get(name)
        points = len(attributes) + (len(entry[1]) if entry is not None else 0)
        return self._attributes_bytes + cost <= self.limits.attributes_bytes and points <= self.limits.device_points

    def _add_attributes(self, device: str, name: bytes, attributes: Mapping[bytes, bytes], counts: bool) -> None:
        entry = self._attributes.get(name)
        if entry is None:
            entry = self._attributes[name] = (device, {})
            self._attributes_bytes += len(name) + 3
        pairs = entry[1]
        for key, value in attributes.items():
            old = pairs.get(key)
            self._attributes_bytes += len(value) - len(old) if old is not None else len(key) + len(value) + 2
            pairs[key] = value
        if counts:
            self._attributes_messages += 1

    def _add_whole(
        self, reading: Reading, name: bytes, attributes: Mapping[bytes, bytes], oversized: list[Oversized]
    ) -> None:
        """A reading that does not fit even an empty group: as many payloads of its own as it takes."""
        limits = self.limits
        room = limits.attributes_bytes - len(name) - 5  # what is left between the innermost brackets
        pairs = _Payloads(room, limits.device_points)
        for key, value in attributes.items():
            if not pairs.add(b"%b:%b" % (key, value), 1):
                payload = payloads.join_attributes({name: {key: value}})
                oversized.append(Oversized(topics.ATTRIBUTES, reading.device.name, payload))
        elements = _Payloads(limits.telemetry_bytes - len(name) - 5, limits.device_points)
        for ts_ms, values in reading.telemetry:
            if not values:
                continue
            for fragment, points in payloads.fragments(ts_ms, values, elements.room, limits.device_points):
                if not elements.add(fragment, points):
                    payload = payloads.join_telemetry({name: [fragment]})
                    oversized.append(Oversized(topics.TELEMETRY, reading.device.name, payload))
        drafts = [(topics.ATTRIBUTES, b"{%b:{%b}}", *batch) for batch in pairs.take()]
        drafts += [(topics.TELEMETRY, b"{%b:[%b]}", *batch) for batch in elements.take()]
        for topic, form, content, points in drafts:
            counts = not self._whole  # the reading is counted once, in its first payload
            self._whole.append(Draft(topic, form % (name, content), (reading.device.name,), int(counts), points))


class _Payloads:
    """The inside of one device's payloads, piece by piece."""

    def __init__(self, room: int, max_points: int) -> None:
        self.room = room
        """Bytes that one payload has for this."""
        self._max_points = max_points
        self._closed: list[tuple[bytes, int]] = []
        self._open: list[bytes] = []
        self._size = -1
        self._points = 0

    def add(self, piece: bytes, points: int) -> bool:
        """Whether the piece fits a payload at all; then it is in one."""
        cost = len(piece) + 1
        if cost - 1 > self.room:
            return False
        if self._open and (self._size + cost > self.room or self._points + points > self._max_points):
            self._close()
        self._open.append(piece)
        self._size += cost
        self._points += points
        return True

    def take(self) -> list[tuple[bytes, int]]:
        """(content, points) of each payload."""
        if self._open:
            self._close()
        return self._closed

    def _close(self) -> None:
        self._closed.append((b",".join(self._open), self._points))
        self._open = []
        self._size = -1
        self._points = 0
