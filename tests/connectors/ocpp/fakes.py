"""Stand-ins for the neighbours of `StationReports`, and requests made from the standard's schemas."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from tbgw.connectors.ocpp.config import OCPPConfig, parse
from tbgw.connectors.ocpp.reports import StationReports
from tbgw.errors import StoreFull
from tbgw.interfaces import IDownlink, IIngest, IPausable, IReceipt
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.model import ON_RECEIVED, Device, Reading, Value
from tbgw.ocpp.interfaces import IStation
from tbgw.ocpp.schemas import schema
from tbgw.ocpp.versions import Version
from tests.config.fakes import FolderCase, tree

NOW_MS = 1_795_000_000_000
"""2026-11-18T11:06:40Z."""


@implementer(IReceipt)
class FakeReceipt:
    """Stored when the test says so."""

    def __init__(self, outcome: Deferred[None] | None) -> None:
        self.outcome = outcome
        self.waiting: list[Deferred[None]] = []

    def when_stored(self) -> Deferred[None]:
        if self.outcome is None:
            waiting: Deferred[None] = Deferred()
            self.waiting.append(waiting)
            return waiting
        return self.outcome

    def settle(self, error: Exception | None = None) -> None:
        waiting, self.waiting = self.waiting, []
        self.outcome = succeed(None)
        for one in waiting:
            if error is None:
                one.callback(None)
            else:
                one.errback(error)


@implementer(IIngest)
class FakeIngest:
    """Keeps what it is given. `full`: refuses as a full store does; `holds`: stores only when told."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.gone: list[str] = []
        self.receipts: list[FakeReceipt] = []
        self.full = False
        self.holds = False

    def accept(self, reading: Reading) -> FakeReceipt:
        self.readings.append(reading)
        receipt = FullReceipt() if self.full else FakeReceipt(None if self.holds else succeed(None))
        self.receipts.append(receipt)
        return receipt

    def disconnected(self, device: Device) -> None:
        self.gone.append(device.name)

    def add_source(self, source: IPausable) -> None:
        """Nothing is ever paused here."""

    def remove_source(self, source: IPausable) -> None:
        """Nothing is ever paused here."""

    # What tests ask.

    def names(self) -> list[str]:
        """Devices in the order of their first reading."""
        return list(dict.fromkeys(reading.device.name for reading in self.readings))

    def values(self, device: str | None = None) -> dict[str, Value]:
        """The newest value of each time series, over all readings of a device, or of all."""
        found: dict[str, Value] = {}
        for reading in self.of(device):
            for _, values in reading.telemetry:
                found.update(values)
        return found

    def attributes(self, device: str | None = None) -> dict[str, Value]:
        """The newest value of each attribute."""
        found: dict[str, Value] = {}
        for reading in self.of(device):
            found.update(reading.attributes)
        return found

    def series(self, key: str) -> list[tuple[int, Value]]:
        """(time, value) of one key, as they came."""
        return [
            (time_ms, values[key])
            for reading in self.readings
            for time_ms, values in reading.telemetry
            if key in values
        ]

    def of(self, device: str | None) -> list[Reading]:
        return [reading for reading in self.readings if device is None or reading.device.name == device]

    def forget(self) -> None:
        """Begin anew."""
        self.readings.clear()
        self.gone.clear()
        self.receipts.clear()


class FullReceipt(FakeReceipt):
    """The store refused the reading."""

    def __init__(self) -> None:
        super().__init__(None)

    def when_stored(self) -> Deferred[None]:
        return fail(StoreFull("the store is full"))


@implementer(IDownlink)
class FakeDownlink:
    """Keeps the questions; the test answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, tuple[str, ...], Deferred[dict[str, Value]]]] = []

    def request_attributes(self, device: Device, scope: str, keys: Sequence[str]) -> Deferred[dict[str, Value]]:
        answer: Deferred[dict[str, Value]] = Deferred()
        self.asked.append((device.name, scope, tuple(keys), answer))
        return answer

    def rpc(self, device: Device, method: str, params: Value) -> Deferred[Value]:
        raise AssertionError("charge points ask ThingsBoard nothing")

    def claim(self, device: Device, secret_key: str | None = None, duration_ms: int | None = None) -> Deferred[None]:
        raise AssertionError("charge points are not claimed")


@implementer(IStation)
class FakeStation:
    """A connected charge point."""

    def __init__(self, path: str, version: Version, data: Any) -> None:
        self.path = path
        self.identity = path.rpartition("/")[2]
        self.version = version
        self.peer = ("10.0.0.7", 50001)
        self.data = data
        self.connected = True

    def call(self, action: str, payload: Mapping[str, Any], timeout_seconds: float) -> Deferred[dict[str, Any]]:
        return Deferred()

    def send(self, action: str, payload: Mapping[str, Any]) -> None:
        """Nobody listens."""

    def close(self, code: int, reason: str) -> None:
        self.connected = False


class StoreThread:
    """`ISpool.run_in_store_thread`: at once, or when the test says so."""

    def __init__(self) -> None:
        self.held: list[tuple[Callable[[], None], Deferred[None]]] = []
        self.holds = False
        self.broken: Exception | None = None
        self.jobs = 0

    def __call__(self, job: Callable[[], None]) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self.held.append((job, done))
        if not self.holds:
            self.run()
        return done

    def run(self) -> None:
        while self.held:
            job, done = self.held.pop(0)
            self.jobs += 1
            try:
                if self.broken is not None:
                    raise self.broken
                job()
            except Exception as error:  # noqa: BLE001 - as the worker does
                done.errback(error)
            else:
                done.callback(None)


class ReportsCase(FolderCase):
    """A `StationReports` with everything around it faked."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.counters = Counters()
        self.events = Events(self.counters, self.clock.seconds)
        self.ingest = FakeIngest()
        self.downlink = FakeDownlink()
        self.thread = StoreThread()
        self.now_ms = NOW_MS
        self.config: OCPPConfig | None = None
        self.ready: list[str] = []

    def make(self, entry: Mapping[str, Any] | None = None, /, **central: Any) -> StationReports:
        """One of a file with one entry, which matches everything; as it is after a restart if called again."""
        point = {"idRegexpPattern": ".*", "deviceNameExpression": "${Vendor} ${chargePointId}", **(entry or {})}
        config = self.config = parse(tree({"centralSystem": central, "chargePoints": [point]}), self.reporter)
        self.assertEqual(self.faults(), [])
        reports = StationReports(
            "Car park",
            config,
            self.ingest,
            self.events,
            self.clock,
            lambda: self.now_ms,
            Path(self.data_dir),
            self.thread,
            ON_RECEIVED,
            self.downlink,
        )
        self.successResultOf(reports.restore())
        reports.on_ready(lambda station: self.ready.append(station.path))
        return reports

    def station(self, path: str = "garage/CP_1", version: Version = Version.V16) -> FakeStation:
        assert self.config is not None
        return FakeStation(path, version, self.config.charge_points[0])

    def connect(
        self, reports: StationReports, path: str = "garage/CP_1", version: Version = Version.V16
    ) -> FakeStation:
        station = self.station(path, version)
        reports.connected(station)
        return station

    def call(
        self,
        reports: StationReports,
        station: FakeStation,
        action: str,
        payload: dict[str, Any],
        faults: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The answer, which has to be there; raises what it is refused with."""
        made = reports.call_received(station, action, payload, faults)
        if isinstance(made, Deferred):
            failure: list[Any] = []
            made.addErrback(failure.append)
            result = self.successResultOf(made)
            if failure:
                failure[0].raiseException()
            made = result
        self.clock.advance(0)
        return made

    def boot(self, reports: StationReports, station: FakeStation, vendor: str = "ABB", **more: Any) -> dict[str, Any]:
        """Send a BootNotification of the station's version."""
        if station.version.is_2:
            payload = {"reason": "PowerUp", "chargingStation": {"vendorName": vendor, "model": "M", **more}}
        else:
            payload = {"chargePointVendor": vendor, "chargePointModel": "M", **more}
        return self.call(reports, station, "BootNotification", payload)


def request_of(version: Version, action: str, whole: bool) -> dict[str, Any]:
    """A valid request made from its schema: with all that may be in it, or only with what must."""
    definition = schema(version, action)
    made = _made(definition, definition, whole, 0)
    assert isinstance(made, dict)
    return made


def _made(part: dict[str, Any], root: dict[str, Any], whole: bool, depth: int) -> Any:
    if "$ref" in part:
        return _made(root["definitions"][part["$ref"].rpartition("/")[2]], root, whole, depth + 1)
    if part.get("enum"):
        return part["enum"][-1 if whole else 0]
    kind = part.get("type")
    if kind == "object" or "properties" in part:
        names = part.get("properties", {}) if whole and depth < 12 else part.get("required", ())
        parts = part.get("properties", {})
        return {name: _made(parts[name], root, whole, depth + 1) for name in names if name in parts}
    if kind == "array":
        count = max(part.get("minItems", 1), 1 if not whole else min(2, part.get("maxItems", 2)))
        return [copy.deepcopy(_made(part["items"], root, whole, depth + 1)) for _ in range(count)]
    if kind == "integer":
        return int(min(max(part.get("minimum", 1), 1), part.get("maximum", 1)))
    if kind == "number":
        return min(max(part.get("minimum", 1.5), 1.5), part.get("maximum", 1.5))
    if kind == "boolean":
        return True
    if part.get("format") == "date-time":
        return "2026-11-18T11:00:00Z"
    return "x" * min(part.get("maxLength", 8), 60 if whole else 4)
