"""A sandbox in the test's own process, so that the test is the operator, and the gateway as a user starts it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.sandbox.service import Sandbox
from tests.programs import SECONDS, GatewayFolder, Program


class OwnCase(TestCase):
    """`self.sandbox` listens on `self.port`; `self.folder` is for the gateway."""

    timeout = 120
    sandbox_options: Mapping[str, Any] = MappingProxyType({})

    def setUp(self) -> None:
        self.counters = Counters()
        self.sandbox = Sandbox(
            reactor,
            mqtt_port=0,
            tls_port=0,
            events=Events(self.counters, time.monotonic),
            now_ms=lambda: time.time_ns() // 1_000_000,
            **self.sandbox_options,
        )
        self.sandbox.startService()
        self.addCleanup(self.sandbox.stopService)
        self.control = self.sandbox.control
        self.port = self.sandbox.port
        self.folder = GatewayFolder(self)

    def configure(self, **thingsboard: Any) -> None:
        """tb_gateway.json."""
        section = {"host": "127.0.0.1", "port": self.port, **thingsboard}
        self.folder.write("tb_gateway.json", {"thingsboard": section, "connectors": []})
        (self.folder.etc / "tb_gateway.json").chmod(0o600)

    def gateway(self, **options: Any) -> Program:
        """Started; nothing waited for."""
        return self.folder.start(wait=None, **options)

    async def line(self, program: Program, pattern: str) -> str:
        """Wait for a line, with the sandbox going on meanwhile."""
        match = await deferToThread(program.wait_for, pattern)
        return match.string

    async def stop(self, program: Program) -> None:
        """SIGTERM, and a stop in good order."""
        await deferToThread(program.stop)
        self.assertIn("stopped:", program.output)

    async def until(self, holds: Callable[[], Any], what: str) -> None:
        """Wait until something is so in the sandbox, which is looked at as a person would."""
        end = time.monotonic() + SECONDS
        while not holds():
            self.assertLess(time.monotonic(), end, f"not within {SECONDS:g} s: {what}")
            await deferLater(reactor, 0.05)

    def latest(self, device: str) -> dict[str, Any]:
        """Its latest telemetry."""
        found = next(one for one in self.sandbox.view.devices() if one["name"] == device)
        return {key: entry["value"] for key, entry in found["telemetry"].items()}

    def told(self, device: str, key: str) -> list[Any]:
        """All values of one key of telemetry, oldest first."""
        return [value for _, value in self.sandbox.view.history(device, key, 0)]
