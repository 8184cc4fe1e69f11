"""Report strategies: which values go on now, and which are sent again when a period ends. Pure: `now` is an argument.

What holds (spec configuration-and-apis, section 3, without the faults C-38 and C-39 of the reference):

- A first value goes on at once, but where values are aggregated. "Changed" means: another value or another type than
  the last that went on. 1 is not True, and floats are compared exactly (the reference calls 0.0005 no change), unless a
  `deadband` says from which difference on a number counts as changed.
- ON_REPORT_PERIOD: at the end of each period the newest value of the period goes on, with the time at which it was
  sampled. Without a new one the last known goes on again, with the time of the sending, because ThingsBoard would not
  notice the same value at the same time.
- ON_REPORT_PERIOD with an aggregation: at the end of each period in which values came, one value goes on for all of
  them: the least, greatest, first or last with its own time, average, sum and count with the time of the newest.
  Nothing is repeated, since a repeated sum is a wrong sum. What is no finite number has no part in MIN, MAX, AVG and
  SUM; it goes on by itself, at once.
- ON_CHANGE_OR_REPORT_PERIOD: a change goes on at once and starts the period anew; otherwise as ON_REPORT_PERIOD.
- ON_CHANGE_THROTTLED: a change goes on at once if the last one was a period ago; else at the end of the period, if the
  newest value still is a change by then. Nothing is repeated.
- A key that has been silent for its `ttl_seconds`, or whose device went away, is not repeated any more.
- No value that has not been sent is ever forgotten; those that are aggregated live on in the aggregate.
- At most `MAX_KEYS` are remembered. Beyond that, keys silent for longer than their ttl make room; where there are none,
  values go on as they arrive, which is told.

All periods share one heap, so there is one timer and no polling, however many keys there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from math import isfinite

from tbgw.model import Aggregation, Device, Reading, ReportStrategy, ReportType, Value

MIN_PERIOD_SECONDS = 0.01
"""Shortest period; the configuration allows none that is shorter, and one of zero would never let the loop go."""

MAX_KEYS = 200_000
"""Keys that are remembered, at some 500 bytes each. Names and keys may come from messages: what is beyond goes on as
it arrives."""

SWEEP_SECONDS = 60.0
"""How often, at most, room is sought among all keys: that takes some 50 ms of CPU."""

MAX_INT_BITS = 512
"""Integers longer than this are not aggregated: their average might be no float any more."""

_TELEMETRY, _ATTRIBUTE = 0, 1

_DEEP = frozenset({list, dict})
"""Types whose values may hold values of other types, so that == is not enough."""


class _Key:
    """What is remembered of one key of one device."""

    __slots__ = (
        "aggregate",
        "armed",
        "device",
        "due",
        "fresh",
        "gone",
        "key",
        "kind",
        "period",
        "received",
        "sent",
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
        self.sent: Value = None
        """The last value that went on because it was new or changed."""
        self.fresh = False
        """Whether `value` has not been sent yet."""
        self.aggregate = _Aggregate(strategy.aggregation) if strategy.aggregation is not None else None
        self.due = 0.0
        """End of the period."""
        self.received = 0.0

    def settle(self) -> None:
        """The period is over: what was aggregated becomes the value."""
        if self.aggregate is not None and self.aggregate.count:
            self.ts_ms, self.value = self.aggregate.take()


class _Aggregate:
    """The values of one period, as one."""

    __slots__ = ("count", "function", "total", "ts_ms", "value")

    def __init__(self, function: Aggregation) -> None:
        self.function = function
        self.count = 0
        self.total: int | float = 0
        self.value: Value = None
        self.ts_ms = 0

    def add(self, ts_ms: int, value: Value) -> bool:
        """Whether the value has a part in it."""
        function = self.function
        if function is Aggregation.COUNT or function is Aggregation.LAST:
            self.ts_ms, self.value = ts_ms, value
        elif function is Aggregation.FIRST:
            if not self.count:
                self.ts_ms, self.value = ts_ms, value
        elif not _is_number(value):
            return False
        elif function is Aggregation.AVG or function is Aggregation.SUM:
            self.total += value
            self.ts_ms = ts_ms
        elif not self.count or (value < self.value if function is Aggregation.MIN else value > self.value):
            self.ts_ms, self.value = ts_ms, value
        self.count += 1
        return True

    def take(self) -> tuple[int, Value]:
        """(time, value) of all that was added; begins anew."""
        value = self.value
        if self.function is Aggregation.COUNT:
            value = self.count
        elif self.function is Aggregation.SUM:
            value = self.total
        elif self.function is Aggregation.AVG:
            value = self.total / self.count
        self.count = self.total = 0
        self.value = None
        return self.ts_ms, value


def _is_number(value: Value) -> bool:
    kind = type(value)
    if kind is int:
        return bool(value.bit_length() <= MAX_INT_BITS)
    return kind is float and isfinite(value)


def changed(old: Value, new: Value, deadband: float) -> bool:
    """Whether `new` counts as another value than `old`."""
    if deadband and _is_number(old) and _is_number(new):
        return not abs(new - old) <= deadband
    return not same(old, new)


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
    """
    The state of all keys that have a strategy other than ON_RECEIVED. `overflowed(device, key)` is called for each
    value that goes on as it arrives, because there is no room to remember its key.
    """

    def __init__(self, overflowed: Callable[[Device, str], None] = lambda device, key: None) -> None:
        self._overflowed = overflowed
        self._swept_at = float("-inf")
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
            if state is None and self._count >= MAX_KEYS and not self._make_room(now):
                self._overflowed(device, key)
                return True
            state = self._begin(device, kind, key, strategy)
        state.device = device
        state.received = now
        state.gone = False
        if kind_of_report is ReportType.ON_REPORT_PERIOD:
            if not state.armed:
                self._arm(state, now)
            if state.aggregate is not None:
                if not state.aggregate.add(ts_ms, value):
                    return True
                state.fresh = True
                return False
            state.value = value
            state.ts_ms = ts_ms
            state.fresh = not first
            return first
        state.value = value
        state.ts_ms = ts_ms
        old = state.sent
        if first:
            new = True
        elif strategy.deadband or type(old) is not type(value) or old.__class__ in _DEEP:
            new = changed(old, value, strategy.deadband)
        else:
            new = old != value
        if kind_of_report is ReportType.ON_CHANGE:
            if new:
                state.sent = value
            return new
        if kind_of_report is ReportType.ON_CHANGE_THROTTLED:
            return self._throttle(state, new, now)
        if not state.armed:
            self._arm(state, now)
        if new:
            state.sent = value
            state.due = now + state.period  # the heap's entry comes up early and is put back then
        return new

    def _throttle(self, state: _Key, new: bool, now: float) -> bool:
        if now >= state.due:
            state.fresh = False
            if new:
                state.sent = state.value
                state.due = now + state.period
            return new
        state.fresh = new
        if new and not state.armed:
            state.armed = True
            heapq.heappush(self._heap, (state.due, next(self._order), state))
        return False

    def _make_room(self, now: float) -> bool:
        """Forget keys that were silent for too long. False when there was none, or it was looked a moment ago."""
        if now - self._swept_at < SWEEP_SECONDS:
            return False
        self._swept_at = now
        states = [state for states in self._devices.values() for state in states.values()]
        for state in states:
            if not state.fresh and now - state.received > state.strategy.ttl_seconds:
                state.gone = True
                self._forget(state)
        return self._count < MAX_KEYS

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
            if state.aggregate is not None and not state.fresh:
                state.armed = False  # no value came: the next begins a period of its own
                continue
            if state.strategy.type is ReportType.ON_CHANGE_THROTTLED:
                state.armed = False
                if state.fresh:
                    state.fresh = False
                    state.sent = state.value
                    state.due = now + state.period
                    together.add(state, state.ts_ms)
                continue
            if not state.fresh and now - state.received > state.strategy.ttl_seconds:
                self._forget(state)
                continue
            state.settle()
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

    def forget(self, device: Device) -> None:
        """Its next values are the first again: ThingsBoard has none of them."""
        for state in list(self._devices.get(device.name, {}).values()):
            state.gone = True
            self._forget(state)


def _unsent(states: Iterable[_Key]) -> Iterator[Reading]:
    together = _Together()
    for state in states:
        if state.fresh:
            state.settle()
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
