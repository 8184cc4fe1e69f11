"""Takes readings from connectors, and makes sure that they are kept: filter, report strategy, packing, storing.

When a pack is closed:

- at once, while the way to ThingsBoard is idle and nothing waits for its commit: a lone message is not held up. Packs
  made this way are `MIN_SPACING_SECONDS` apart at least, so that a stream of messages becomes packs and not a stream
  of packs.
- when it is full;
- `pack_delay_seconds` after its first reading, whatever happens.

One receipt serves all readings of a pack. It holds a Deferred only for those who ask for one, so that taking a reading
costs no Deferred: 60,000 readings a second leave 16 us for each, all told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.errors import StoreError
from tbgw.interfaces import IIngest, IPausable, IPressureListener, IReceipt, ISpool
from tbgw.internal_events import Events
from tbgw.model import Device, Draft, Reading, Row, Value
from tbgw.pipeline.activity import Activity
from tbgw.pipeline.devices import DeviceRegistry
from tbgw.pipeline.internal_events import (
    DeviceDenied,
    DeviceUnnameable,
    RegistryFault,
    ReportKeysFull,
    SourcesPaused,
    SourcesResumed,
    ValueTooLarge,
    ValueUnusable,
)
from tbgw.pipeline.packer import Oversized, Packer, PackLimits
from tbgw.pipeline.report import ReportFilter
from tbgw.thingsboard import payloads, topics

MIN_SPACING_SECONDS = 0.002
"""Shortest time between two packs that are closed because all is idle. A pack costs some 150 us of CPU, whatever is
in it: 500 a second are 7 % of a core, and 2 ms is less than anyone waits for."""


@implementer(IReceipt)
class Receipt:
    """What became of the readings of one pack."""

    __slots__ = ("_outcome", "_waiting")

    def __init__(self, stored: bool = False) -> None:
        self._outcome: Literal[True] | Failure | None = True if stored else None
        self._waiting: list[Deferred[None]] = []

    def when_stored(self) -> Deferred[None]:
        """See `IReceipt.when_stored`."""
        if self._outcome is True:
            return succeed(None)
        if self._outcome is not None:
            return fail(self._outcome)
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        return waiting

    def settle(self, outcome: object) -> None:
        """The pack is stored, or `outcome` is the Failure that says why it is not. Never fails itself."""
        self._outcome = outcome if isinstance(outcome, Failure) else True
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            if isinstance(outcome, Failure):
                deferred.errback(outcome)
            else:
                deferred.callback(None)


def _usable(values: Mapping[str, Value]) -> dict[str, Value]:
    """The values that JSON has a form for."""
    usable = {}
    for key, value in values.items():
        with contextlib.suppress(ValueError):
            payloads.encode({key: value})
            usable[key] = value
    return usable


_DENIED, _UNNAMEABLE, _PASSES, _REPORTS, _RENAMED = 1, 2, 3, 4, 5

REGISTRY_SECONDS = 10.0
"""How long the file of known devices may be behind on who is connected. A write is the whole file, with two fsyncs."""

NOTHING_TO_KEEP = Receipt(stored=True)
"""For readings of which nothing has to be kept: denied by configuration, or suppressed by their report strategy."""


@implementer(IIngest, IPressureListener)
class Ingest:
    """See `IIngest`. `appended(rows)` is called with the rows of each pack, before their commit has finished."""

    def __init__(
        self,
        spool: ISpool,
        registry: DeviceRegistry,
        *,
        clock: IReactorTime,
        now_ms: Callable[[], int],
        events: Events,
        limits: PackLimits,
        pack_delay_seconds: float,
        appended: Callable[[list[Row]], None],
        link_idle: Callable[[], bool],
        allows: Callable[[str, str], bool] = lambda connector, device: True,
    ) -> None:
        self._spool = spool
        self._registry = registry
        self._clock = clock
        self._now_ms = now_ms
        self._events = events
        self._packer = Packer(limits)
        self._pack_delay_seconds = pack_delay_seconds
        self._appended = appended
        self._link_idle = link_idle
        self._allows = allows
        self._activity: Activity | None = None
        self._report = ReportFilter(self._not_remembered)
        self._registry_timer: IDelayedCall | None = None
        self._report_timer: IDelayedCall | None = None
        self._receipt = Receipt()
        self._flush_timer: IDelayedCall | None = None
        self._last_flush = float("-inf")
        self._ways: dict[Device, int] = {}
        """The way that each Device's readings take; absent for one that has not spoken yet."""
        self._aliases: dict[Device, Device] = {}
        """The same device under the name that it has in ThingsBoard, where that is another."""
        self._sources: dict[IPausable, None] = {}
        self._paused = False
        self.readings = 0
        """Readings that connectors handed in."""
        self.readings_of: dict[str, int] = {}
        """The same by connector, of devices that may pass. No Counter: a plain dict takes half its time."""

    # What connectors call.

    def accept(self, reading: Reading) -> Receipt:
        """See `IIngest.accept`."""
        self.readings += 1
        device = reading.device
        way = self._ways.get(device) or self._admit(device)
        if way != _PASSES:  # the others pay for their tests, and not all
            if way == _RENAMED:
                original, device = device.name, self._aliases[device]
                reading = reading._replace(device=device)
                way = self._ways.get(device) or self._begin(device, original)
            if way not in (_PASSES, _REPORTS):
                return self._refuse(device, way)
        self.readings_of[device.connector] += 1
        if self._activity is not None:
            self._activity.spoke(device)
        if way == _REPORTS:
            passed = self._report.pass_now(reading, self._clock.seconds())
            self._arm_report_timer()
            if passed is None:
                return NOTHING_TO_KEEP
            reading = passed
        return self._pack(reading)

    def disconnected(self, device: Device) -> None:
        """See `IIngest.disconnected`."""
        self._ways.pop(device, None)
        if (name := self._registry.name_of(device.name)) != device.name:
            alias = self._aliases.pop(device) if device in self._aliases else None
            device = alias or replace(device, name=name)
        self._depart(device)

    def _depart(self, device: Device) -> None:
        """Tell ThingsBoard that a device, under the name that it has there, is gone."""
        self._ways.pop(device, None)
        for reading in self._report.gone(device):
            self._pack(reading)
        if self._activity is not None:
            self._activity.gone(device.name)
        if device.name not in self._registry or self._registry.connector(device.name) != device.connector:
            return  # never seen, or it speaks through another connector now
        self.flush()
        self._registry.gone(device.name)
        self._write_registry_later()
        self._store([Draft(topics.DISCONNECT, payloads.disconnect(device.name), (device.name,), 0, 0)], Receipt())

    def add_source(self, source: IPausable) -> None:
        """See `IIngest.add_source`."""
        self._sources[source] = None
        if self._paused:
            source.pause_reading()

    def remove_source(self, source: IPausable) -> None:
        """See `IIngest.remove_source`."""
        self._sources.pop(source, None)

    # What the spool calls.

    def store_behind(self) -> None:
        """See `IPressureListener.store_behind`."""
        if not self._paused:
            self._paused = True
            self._events.emit(SourcesPaused(sources=len(self._sources)))
            for source in list(self._sources):
                source.pause_reading()

    def store_ready(self) -> None:
        """See `IPressureListener.store_ready`."""
        if self._paused:
            self._paused = False
            self._events.emit(SourcesResumed(sources=len(self._sources)))
            for source in list(self._sources):
                source.resume_reading()

    # What notices of ThingsBoard bring.

    def leave(self, name: str) -> None:
        """
        ThingsBoard has another name for the device that it called `name`, or has deleted it. What was accepted is
        handed to the spool under this name; what comes next is looked at anew, once the registry knows.
        """
        for device in [device for device in self._ways if device.name == name]:
            for reading in self._report.gone(device):
                self._pack(reading)
            self._report.forget(device)
            del self._ways[device]
        for own in [own for own, device in self._aliases.items() if device.name == name]:
            del self._aliases[own]
            self._ways.pop(own, None)
        if self._activity is not None:
            self._activity.gone(name)
        self.flush()

    def silent(self, device: Device) -> None:
        """It has not spoken for too long: for ThingsBoard it is gone until it does. `device` is as `accept` saw it."""
        self._depart(device)

    def set_activity(self, activity: Activity | None) -> None:
        """Who is told from now on when devices speak and go; None when nobody wants to know."""
        self._activity = activity

    def set_filter(self, allows: Callable[[str, str], bool]) -> None:
        """Another filter holds from now on; `allows(connector, device)`."""
        self._allows = allows
        self._ways.clear()
        self._aliases.clear()

    # What the builder and the forwarder call.

    @property
    def paused(self) -> bool:
        """Whether sources are held back at present."""
        return self._paused

    def set_limits(self, limits: PackLimits) -> None:
        """Packs from now on keep these limits."""
        if limits != self._packer.limits:
            self.flush()
            self._packer.limits = limits

    def link_idled(self) -> None:
        """The way to ThingsBoard has just become idle: what waits may go."""
        if not self._packer.empty:
            self._flush_soon()

    def flush(self) -> None:
        """Close the open pack and hand it to the spool."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if self._packer.empty:
            return
        self._last_flush = self._clock.seconds()
        receipt, self._receipt = self._receipt, Receipt()
        self._store(self._packer.take(), receipt)

    def stop(self) -> None:
        """Flush, and end all timers. Values that wait for the end of their report period go out now."""
        if self._report_timer is not None:
            self._report_timer.cancel()
            self._report_timer = None
        if self._registry_timer is not None:
            self._registry_timer.cancel()
            self._registry_due()
        for reading in self._report.unsent():
            self._pack(reading)
        self.flush()

    # Inside.

    def _admit(self, device: Device) -> int:
        if len(self._ways) >= 100_000:  # devices may be made from messages: what is remembered must not grow for ever
            self._ways.clear()
            self._aliases.clear()
        if not self._allows(device.connector, device.name):
            self._ways[device] = _DENIED
            return _DENIED
        name = self._registry.name_of(device.name)
        if name == device.name:
            return self._begin(device, device.name)
        alias = self._aliases[device] = replace(device, name=name)
        self._begin(alias, device.name)
        self._ways[device] = _RENAMED
        return _RENAMED

    def _begin(self, device: Device, original: str) -> int:
        """It speaks for the first time, under the name that it has in ThingsBoard."""
        if not payloads.is_device_name(device.name):
            self._ways[device] = _UNNAMEABLE
            return _UNNAMEABLE
        way = self._ways[device] = _PASSES if device.report.passes_all else _REPORTS
        self.readings_of.setdefault(device.connector, 0)
        if self._registry.seen(device, original):
            # What the reference adds on first sight; ThingsBoard's gateway pages count devices by it.
            details = {"connectorType": device.connector_type, "connectorName": device.connector}
            self._pack(Reading(device, (), details))
        if self._registry.stale:
            self._write_registry_later()
        return way

    def _refuse(self, device: Device, way: int) -> Receipt:
        kind = DeviceDenied if way == _DENIED else DeviceUnnameable
        self._events.emit(kind(connector=device.connector, device=device.name))
        return NOTHING_TO_KEEP

    def _pack(self, reading: Reading) -> Receipt:
        oversized: list[Oversized] = []
        packer = self._packer
        was_empty = packer.empty
        try:
            while not packer.add(reading, oversized):
                self.flush()  # may bring in the next reading before it returns, so look again
                was_empty = True
        except ValueError as error:
            return self._pack_usable(reading, error)
        receipt = self._receipt
        for value in oversized:
            self._bury(value)
        if packer.empty:
            return NOTHING_TO_KEEP  # it held no value, or only such as can never be sent
        if packer.full:
            self.flush()
        elif was_empty:
            self._flush_soon()
        return receipt

    def _pack_usable(self, reading: Reading, error: ValueError) -> Receipt:
        """What is left of a reading without the values that JSON has no form for."""
        device = reading.device
        self._events.emit(ValueUnusable(connector=device.connector, device=device.name, why=str(error)))
        telemetry = tuple([(ts_ms, _usable(values)) for ts_ms, values in reading.telemetry])
        usable = Reading(device, telemetry, _usable(reading.attributes))
        # Equal: no single value was to blame, and a further try would end here again.
        return self._pack(usable) if usable != reading else NOTHING_TO_KEEP

    def _flush_soon(self) -> None:
        """The pack has its first reading, or all has become idle: decide when it is closed."""
        now = self._clock.seconds()
        delay = self._pack_delay_seconds
        if self._link_idle() and self._spool.pending_bytes == 0:
            since = now - self._last_flush
            if since >= MIN_SPACING_SECONDS:
                self.flush()
                return
            delay = min(delay, MIN_SPACING_SECONDS - since)
        if self._flush_timer is None:
            self._flush_timer = self._clock.callLater(delay, self._flush_timed_out)
        elif self._flush_timer.getTime() > now + delay:
            self._flush_timer.reset(delay)

    def _flush_timed_out(self) -> None:
        self._flush_timer = None
        self.flush()

    def _store(self, drafts: list[Draft], receipt: Receipt) -> None:
        if self._registry.dirty:
            # Before the rows, so that no stored row names a device whose profile a power cut could make us forget.
            self._write_registry()
        _, stored = self._spool.append(drafts, self._appended)
        stored.addBoth(receipt.settle)
        stored.addCallback(self._committed)

    def _write_registry(self) -> None:
        content = self._registry.snapshot()
        written = self._spool.run_in_store_thread(lambda: self._registry.write(content))
        written.addErrback(self._registry_not_written)

    def _write_registry_later(self) -> None:
        """Who is connected may be written late, and once for many: losing it costs an announcement too many."""
        if self._registry_timer is None:
            self._registry_timer = self._clock.callLater(REGISTRY_SECONDS, self._registry_due)

    def _registry_due(self) -> None:
        self._registry_timer = None
        if self._registry.stale:
            self._write_registry()

    def _committed(self, _: None) -> None:
        if not self._packer.empty:
            self._flush_soon()

    def _registry_not_written(self, failure: Failure) -> None:
        failure.trap(OSError, StoreError)
        self._registry.dirty = True
        if failure.check(StoreError):
            return  # the store has told its own listener that it is broken
        self._events.emit(RegistryFault(fault=f"{self._registry.path}: cannot be written: {failure.value}"))

    def _bury(self, value: Oversized) -> None:
        self._events.emit(ValueTooLarge(device=value.device, size_bytes=len(value.payload)))
        self._spool.bury(Row(0, value.topic, value.payload, (value.device,), 1, 1), "too_large")

    def _arm_report_timer(self) -> None:
        due = self._report.next_due
        if due is None:
            return
        if self._report_timer is None:
            self._report_timer = self._clock.callLater(max(0.0, due - self._clock.seconds()), self._report_due)
        elif self._report_timer.getTime() > due + 0.0005:
            self._report_timer.reset(max(0.0, due - self._clock.seconds()))

    def _not_remembered(self, device: Device, key: str) -> None:
        self._events.emit(ReportKeysFull(connector=device.connector, device=device.name, keys=len(self._report)))

    def _report_due(self) -> None:
        self._report_timer = None
        for reading in self._report.due(self._clock.seconds(), self._now_ms()):
            self._pack(reading)
        self._arm_report_timer()
