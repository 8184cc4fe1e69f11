"""The whole gateway in one process with a device that asks for receipts: prints an id once its receipt has fired.

    python -m tests.crash.driver ETC DATA FIRST [--devices AB] [--padding 200] [--synchronous OFF] [--early]

Everything is what `twistd tbgw` builds, but the connector: each device keeps `WINDOW` readings under way, numbered
from FIRST, and a line `A 17` says that the gateway answered number 17 of device A as stored. With FIRST below zero
nothing is sent: the gateway only delivers what it has, and ends. `ready` says that connectors were started. Retries
are quick, so that a round takes a part of a second.

The options sabotage it, so that the harness is seen to fail: another `synchronous` for SQLite, or ids printed before
they are stored.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet import reactor as global_reactor
from twisted.internet.task import LoopingCall
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.errors import StoreError, StoreFull
from tbgw.interfaces import IPausable
from tbgw.model import Device, Reading
from tbgw.service import Gateway, load
from tbgw.spool.store import SqliteStore
from tbgw.tap import use_monotonic_clock
from tbgw.uplink import client

WINDOW = 5
"""Readings of one device under way at a time."""
reactor: Any = global_reactor


@implementer(IPausable)
class Load(Service):
    """A connector without a network: begins when connectors are started, and not before."""

    connector_name, connector_type = "Load", "socket"

    def __init__(self, gateway: Gateway, devices: str, first: int, early: bool, padding: int) -> None:
        self._ingest = gateway.ingest
        self._next = {Device(name, "crash", "Load", "socket"): first for name in devices}
        self._early = early
        self._padding = "x" * padding
        self._paused = False
        self._owed: list[Device] = []

    def startService(self) -> None:
        super().startService()
        os.write(1, b"ready\n")
        self._ingest.add_source(self)
        for device in self._next:
            for _ in range(WINDOW):
                self._send(device)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        owed, self._owed = self._owed, []
        for device in owed:
            self._send(device)

    def _send(self, device: Device) -> None:
        if not self.running:
            return
        if self._paused:
            self._owed.append(device)
            return
        number = self._next[device]
        self._next[device] = number + 1
        if self._early:
            self._print(device, number)
        values: dict[str, Any] = {"n": number}
        if self._padding:
            values["x"] = self._padding
        receipt = self._ingest.accept(Reading(device, ((1_700_000_000_000 + number, values),)))
        receipt.when_stored().addCallbacks(self._stored, self._refused, (device, number))

    def _stored(self, _: None, device: Device, number: int) -> None:
        if not self._early:
            self._print(device, number)
        reactor.callLater(0, self._send, device)

    def _refused(self, failure: Failure) -> None:
        failure.trap(StoreError, StoreFull)

    @staticmethod
    def _print(device: Device, number: int) -> None:
        os.write(1, f"{device.name} {number}\n".encode())  # one write, seen at once by whoever kills this process


def end_when_empty(gateway: Gateway) -> None:
    """A look from outside, as there is no event for it: everything that was stored is delivered."""
    if gateway.running and gateway.uplink.connected and not gateway.spool.stored_rows:
        reactor.stop()


def main() -> None:
    """Run until ended from outside, or by the gateway itself."""
    parser = argparse.ArgumentParser()
    parser.add_argument("etc", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("first", type=int)
    parser.add_argument("--devices", default="ABCD")
    parser.add_argument("--padding", type=int, default=0)
    parser.add_argument("--early", action="store_true")
    parser.add_argument("--synchronous")
    options = parser.parse_args()
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    client.FIRST_RETRY_SECONDS = 0.05  # shortened for the test
    client.LONGEST_RETRY_SECONDS = 0.2
    if options.synchronous:

        def set_sync(store: Any, full: bool) -> None:
            store._db.execute(f"PRAGMA synchronous={options.synchronous}")

        os.fdatasync = lambda descriptor: None  # type: ignore[assignment] # the file store's sync
        setattr(SqliteStore, "_set_sync", set_sync)  # noqa: B010 - the sabotage; mypy forbids the plain form
    use_monotonic_clock(reactor)
    gateway = Gateway(load(options.etc, options.data, os.environ), reactor)
    devices = options.devices if options.first >= 0 else ""
    connectors: dict[str, Any] = gateway._connectors
    connectors["Load"] = Load(gateway, devices, options.first, options.early, options.padding)
    reactor.addSystemEventTrigger("before", "shutdown", gateway.stopService)
    gateway.startService()
    if not devices:
        looks = LoopingCall(end_when_empty, gateway)
        looks.start(0.02, now=False)
    reactor.run()


if __name__ == "__main__":
    main()
