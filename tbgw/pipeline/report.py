"""Report strategies: which values go on now, and which are sent again when a period ends. Pure: `now` is an argument.

What holds (spec configuration-and-apis, section 3, without the faults C-38 and C-39 of the reference):

- A first value always goes on at once. "Changed" means another value or another type: 1 is not True, and floats are
  compared exactly (the reference calls 0.0005 no change).
- ON_REPORT_PERIOD: at the end of each period the newest value of the period goes on, with the time at which it was
  sampled. Without a new one the last known goes on again, with the time of the sending, because ThingsBoard would not
  notice the same value at the same time.
- ON_CHANGE_OR_REPORT_PERIOD: a change goes on at once and starts the period anew; otherwise as above.
- A key that has been silent for `SILENT_AFTER_SECONDS`, or whose device went away, is not repeated any more.
- No value that has not been sent is ever forgotten.

All periods share one heap, so there is one timer and no polling, however many keys there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import count

from tbgw.model import Device, Reading, ReportStrategy, ReportType, Value

SILENT_AFTER_SECONDS = 86_400.0
"""How long the last value of a silent key is repeated: the reference's default for its `ttl`."""

MIN_PERIOD_SECONDS = 0.01
"""Shortest period; the configuration allows none that is shorter, and one of zero would never let the loop go."""

MAX_KEYS = 200_000
"""Keys that are remembered, at some 500 bytes each. Names and keys may come from messages: what is beyond goes on as
it arrives."""

_TELEMETRY, _ATTRIBUTE = 0, 1


class _Key:
    """What is remembered of one key of one device."""

    __slots__ = (
        "armed",
        "device",
        "due",
        "fresh",
        "gone",
        "key",
        "kind",
        "period",
        "received",
        "strategy",
        "ts_ms",
        "value",
    )

    def __init__(self, device: Device, kind: int, key: str, strategy: ReportStrategy) -> None:
        self.device = device
        self.kind = kind
        self.key = key
        self.strategy = strategy
        self.period = max(MIN_PERIOD_SECONDS, strategy.period_ms / 1000)
        self.armed = False
        """Whether the heap knows of it."""
        self.gone = False
        """Whether the device went away since the last value, or the key has another state now."""
        self.value: Value = None
        self.ts_ms = 0
        self.fresh = False
        """Whether `value` has not been sent yet."""
        self.due = 0.0
        self.received = 0.0


def same(a: Value, b: Value) -> bool:
    """Whether two JSON values are the same value of the same type, all the way down. False where it is too deep."""
    try:
        return _same(a, b)
    except RecursionError:
        return False


def _same(a: Value, b: Value) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(value, b[key]) for key, value in a.items())
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


class ReportFilter:
    """The state of all keys that have a strategy other than ON_RECEIVED."""

    def __init__(self) -> None:
        self._devices: dict[str, dict[tuple[int, str], _Key]] = {}
        self._count = 0
        self._heap: list[tuple[float, int, _Key]] = []
        self._order = count()

    @property
    def next_due(self) -> float | None:
        """When `due` should be called next, on the clock of `now`; None for never."""
        return self._heap[0][0] if self._heap else None

    def __len__(self) -> int:
        return self._count

    def pass_now(self, reading: Reading, now: float) -> Reading | None:
        """What of `reading` goes on now; None for nothing. The rest is remembered."""
        plan = reading.device.report
        telemetry = []
        for ts_ms, values in reading.telemetry:
            passed = {
                key: value
                for key, value in values.items()
                if self._passes(
                    reading.device, _TELEMETRY, key, value, ts_ms, plan.telemetry.get(key, plan.default), now
                )
            }
            if passed:
                telemetry.append((ts_ms, passed))
        attributes = {
            key: value
            for key, value in reading.attributes.items()
            if self._passes(reading.device, _ATTRIBUTE, key, value, 0, plan.attributes.get(key, plan.default), now)
        }
        if not telemetry and not attributes:
            return None
        return Reading(reading.device, tuple(telemetry), attributes)

    def _passes(
        self, device: Device, kind: int, key: str, value: Value, ts_ms: int, strategy: ReportStrategy, now: float
    ) -> bool:
        kind_of_report = strategy.type
        if kind_of_report is ReportType.ON_RECEIVED:
            return True
        states = self._devices.get(device.name)
        state = states.get((kind, key)) if states is not None else None
        first = state is None or (state.strategy is not strategy and state.strategy != strategy)
        if state is None or first:
            if state is None and self._count >= MAX_KEYS:
                return True
            state = self._begin(device, kind, key, strategy)
        changed = first or not same(state.value, value)
        state.device = device
        state.value = value
        state.ts_ms = ts_ms
        state.received = now
        state.gone = False
        if kind_of_report is ReportType.ON_CHANGE:
            return changed
        if not state.armed:
            self._arm(state, now)
        if kind_of_report is ReportType.ON_REPORT_PERIOD:
            state.fresh = not first
            return first
        if changed:
            state.due = now + state.period  # the heap's entry comes up early and is put back then
        return changed

    def _begin(self, device: Device, kind: int, key: str, strategy: ReportStrategy) -> _Key:
        states = self._devices.setdefault(device.name, {})
        old = states.get((kind, key))
        if old is None:
            self._count += 1
        else:
            old.gone = True
        state = states[kind, key] = _Key(device, kind, key, strategy)
        return state

    def _arm(self, state: _Key, now: float) -> None:
        state.armed = True
        state.due = now + state.period
        heapq.heappush(self._heap, (state.due, next(self._order), state))

    def _forget(self, state: _Key) -> None:
        states = self._devices[state.device.name]
        del states[state.kind, state.key]
        self._count -= 1
        if not states:
            del self._devices[state.device.name]

    def due(self, now: float, now_ms: int) -> Iterator[Reading]:
        """What has to go on because periods ended, one reading for each device and instant."""
        together = _Together()
        while self._heap and self._heap[0][0] <= now:
            _, _, state = heapq.heappop(self._heap)
            if state.due > now:
                heapq.heappush(self._heap, (state.due, next(self._order), state))
                continue
            if state.gone:
                state.armed = False
                continue
            if not state.fresh and now - state.received > SILENT_AFTER_SECONDS:
                self._forget(state)
                continue
            ts_ms = state.ts_ms if state.fresh and state.kind == _TELEMETRY else now_ms
            state.fresh = False
            together.add(state, ts_ms)
            # From the end of the period, not from now: periods do not drift. After a long sleep none is made up for.
            state.due += state.period
            if state.due <= now:
                state.due = now + state.period
            heapq.heappush(self._heap, (state.due, next(self._order), state))
        return together.readings()

    def unsent(self) -> Iterator[Reading]:
        """The values that wait for the end of their period, for a gateway that is about to stop."""
        return _unsent([state for states in self._devices.values() for state in states.values()])

    def gone(self, device: Device) -> Iterator[Reading]:
        """
        The device went away: its values that wait for the end of their period. None of its values is repeated before it
        speaks again.
        """
        states = list(self._devices.get(device.name, {}).values())
        for state in states:
            state.gone = True
        return _unsent(states)


def _unsent(states: Iterable[_Key]) -> Iterator[Reading]:
    together = _Together()
    for state in states:
        if state.fresh:
            state.fresh = False
            together.add(state, state.ts_ms)
    return together.readings()


class _Together:
    """Collects keys into one reading for each device and instant."""

    def __init__(self) -> None:
        self._values: dict[tuple[Device, int], tuple[dict[str, Value], dict[str, Value]]] = {}

    def add(self, state: _Key, ts_ms: int) -> None:
        telemetry, attributes = self._values.setdefault((state.device, ts_ms), ({}, {}))
        (telemetry if state.kind == _TELEMETRY else attributes)[state.key] = state.value

    def readings(self) -> Iterator[Reading]:
        for (device, ts_ms), (telemetry, attributes) in self._values.items():
            yield Reading(device, ((ts_ms, telemetry),) if telemetry else (), attributes)
