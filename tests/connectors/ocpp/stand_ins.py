"""What the tests of the downward half stand on: a station that remembers its Calls, and an upward half."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tbgw.config.findings import Reporter
from tbgw.connectors.ocpp.config import OCPPConfig, parse
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.model import Device
from tbgw.ocpp.errors import PayloadInvalid
from tbgw.ocpp.interfaces import Handshake, IStation
from tbgw.ocpp.schemas import request_fault
from tbgw.ocpp.versions import Version
from tests.config.fakes import tree

POINT = {"idRegexpPattern": "CP_1", "deviceNameExpression": "${chargePointId}"}


class Lines:
    """The events of one test: counters and, by kind, the log lines."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.now = 0.0
        self.events = Events(self.counters, lambda: self.now)
        self.written: list[LogEvent] = []
        self.events._log = Logger(namespace="test", observer=cast(ILogObserver, self.written.append))

    def of(self, kind: str) -> list[str]:
        return [event["line"] for event in self.written if event["event"] == kind]


def make_config(test: SynchronousTestCase, *points: Any, **central_system: Any) -> OCPPConfig:
    """The configuration of a file; it must be without faults."""
    from pathlib import Path

    folder = Path(test.mktemp())
    folder.mkdir(parents=True)
    reporter = Reporter(folder, folder)
    content = {"centralSystem": central_system, "chargePoints": list(points) or [POINT]}
    config = parse(tree(content, "ocpp.json"), reporter)
    assert not reporter.faulty, [str(one) for one in reporter.findings()]
    return config


def make_handshake(path: str = "CP_1", authorization: bytes | None = None, **more: Any) -> Handshake:
    return Handshake(
        path, path.rpartition("/")[2], more.pop("peer", ("10.0.0.9", 5000)), authorization, ("ocpp1.6",), **more
    )


@implementer(IStation)
class FakeStation:
    """A connected charge point. It checks what it is called with, as the library does."""

    def __init__(self, data: Any, path: str = "CP_1", version: Version = Version.V16) -> None:
        self.identity = path.rpartition("/")[2]
        self.path = path
        self.version = version
        self.peer = ("10.0.0.9", 5000)
        self.data = data
        self.connected = True
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.timeouts: list[float] = []
        self.open: list[Deferred[dict[str, Any]]] = []
        self.cancelled = 0
        self.closed: list[tuple[int, str]] = []
        self.reply: Callable[[str, dict[str, Any]], dict[str, Any] | Exception | None] = lambda action, payload: None
        """What a Call is answered with at once; None: `open` has its Deferred."""

    def call(self, action: str, payload: Mapping[str, Any], timeout_seconds: float) -> Deferred[dict[str, Any]]:
        fault = request_fault(self.version, action, payload)
        if fault is not None:
            return fail(PayloadInvalid(f"{action}: {fault.text}"))
        self.calls.append((action, json.loads(json.dumps(payload))))
        self.timeouts.append(timeout_seconds)
        reply = self.reply(action, dict(payload))
        if isinstance(reply, Exception):
            return fail(reply)
        if reply is not None:
            return succeed(reply)

        def cancel(deferred: Deferred[dict[str, Any]]) -> None:
            self.cancelled += 1
            deferred.errback(CancelledError())

        answer: Deferred[dict[str, Any]] = Deferred(cancel)
        self.open.append(answer)
        return answer

    def send(self, action: str, payload: Mapping[str, Any]) -> None:
        raise AssertionError("nothing is sent as SEND")

    def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))


class FakeReports:
    """The upward half, as far as the downward one asks it."""

    def __init__(self) -> None:
        self.devices: dict[str, str] = {"CP_1": "Charger"}
        """Path to device name."""
        self.boots: dict[str, str] = {}
        self.transactions: dict[int, int | str] = {}
        self.expected: list[tuple[str, str]] = []
        self.connectors: dict[str, int] = {}
        self.timed_out: list[str] = []
        self.configurations: list[tuple[str, Any]] = []

    def paths_of(self, device_name: str) -> Sequence[str]:
        name = device_name.partition(" Connector")[0]
        return [path for path, device in self.devices.items() if device == name]

    def device_of(self, path: str) -> Device | None:
        return Device(self.devices[path]) if path in self.devices else None

    def connector_of(self, device_name: str) -> int | None:
        return self.connectors.get(device_name)

    def transaction_of(self, path: str, connector_id: int | None = None) -> int | str | None:
        if connector_id is not None:
            return self.transactions.get(connector_id)
        return next(iter(self.transactions.values())) if len(self.transactions) == 1 else None

    def boot_status(self, path: str) -> str | None:
        return self.boots.get(path)

    def expect(self, path: str, action: str) -> None:
        self.expected.append((path, action))

    def call_timed_out(self, path: str) -> None:
        self.timed_out.append(path)

    def tell_configuration(self, path: str, keys: Any) -> None:
        self.configurations.append((path, keys))
