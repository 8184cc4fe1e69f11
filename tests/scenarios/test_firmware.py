"""Firmware and software from the sandbox to an operator's program, through cuts and kills."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tbgw.sandbox import ota
from tests.programs import Program
from tests.scenarios.own import OwnCase

IMAGE = random.Random(7).randbytes(1_500_000)
"""Long enough that a fast machine is still fetching it, a kilobyte at a time, when a test cuts in."""

GATEWAY = "Gateway"


class FirmwareTests(OwnCase):
    """A gateway with a token, and a program that takes packages."""

    def setUp(self) -> None:
        super().setUp()
        self.target = Path(self.mktemp()).absolute()
        self.apply = Path(self.mktemp()).absolute()
        self.apply.write_text(
            f"#!{sys.executable}\nimport os, shutil, sys\n"
            f"shutil.copy(sys.argv[-1], {str(self.target)!r})\n"
            f"open({str(self.target) + '.version'!r}, 'a').write(os.environ['TBGW_PACKAGE_VERSION'] + '\\n')\n"
        )
        self.apply.chmod(0o755)

    def offer(self, version: str = "1.1-a", kind: str = "fw", **options: Any) -> None:
        self.control.add_package(ota.make_package(kind, "gate", version, IMAGE, **options))
        self.control.assign_package(GATEWAY, kind, "gate", version)

    async def start(self, version: str = "auto", **keys: Any) -> Program:
        firmware = {"command": [str(self.apply)], "chunkSizeBytes": 1024, **keys}
        security = {"accessToken": self.sandbox.ensure_token()}
        self.configure(security=security, firmware=firmware, mqttVersion=version)
        gateway = self.gateway()
        await self.line(gateway, "connected to ThingsBoard")
        return gateway

    def runs(self, version: str) -> Callable[[], bool]:
        """Whether the gateway says so."""
        return lambda: bool(self.latest(GATEWAY).get("current_fw_version") == version)

    @property
    def part(self) -> Path:
        return self.folder.path / "packages" / "firmware.part"

    def fetched(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    async def test_through_a_cut_and_a_kill(self) -> None:
        """The link is cut and the gateway killed in the middle: it goes on where it was, and all states are told."""
        gateway = await self.start()
        self.offer()
        await self.until(lambda: self.fetched() > 50_000, "a part of it")
        self.assertEqual(self.control.cut(GATEWAY), 1)
        await self.line(gateway, "the session with ThingsBoard .* ended")
        before = self.fetched()
        self.assertLess(before, len(IMAGE))
        await self.until(lambda: self.fetched() > before + 20_000, "more of it")
        gateway.kill()
        before = self.fetched()
        self.assertLess(before, len(IMAGE))
        publishes = self.counters.get("sandbox_publishes")
        gateway = await self.start()
        await self.until(lambda: self.latest(GATEWAY).get("fw_state") == "UPDATED", "UPDATED")
        self.assertEqual(self.target.read_bytes(), IMAGE)
        self.assertLess(self.counters.get("sandbox_publishes") - publishes, (len(IMAGE) - before) / 1024 + 30)
        self.assertEqual(self.latest(GATEWAY)["current_fw_version"], "1.1-a")
        states = self.told(GATEWAY, "fw_state")
        self.assertEqual(states[-4:], ["DOWNLOADED", "VERIFIED", "UPDATING", "UPDATED"])
        await self.stop(gateway)

    async def test_tampered(self) -> None:
        """P-24: a package that is not what its checksum says is told as FAILED, and the program never sees it."""
        gateway = await self.start(chunkSizeBytes=65536)
        self.offer(checksum=hashlib.sha256(IMAGE + b"x").hexdigest())
        await self.until(lambda: self.latest(GATEWAY).get("fw_state") == "FAILED", "FAILED")
        self.assertEqual(self.latest(GATEWAY)["fw_error"], "Checksum verification failed!")
        await self.stop(gateway)
        self.assertFalse(self.target.exists())

    async def test_every_checksum(self) -> None:
        """Every algorithm of ThingsBoard's, one package after the other in one session."""
        gateway = await self.start(chunkSizeBytes=65536)
        for number, algorithm in enumerate(ota.CHECKSUMS):
            version = f"2.{number}-a"
            self.offer(version, algorithm=algorithm)
            await self.until(self.runs(version), algorithm)
        await self.stop(gateway)
        self.assertEqual(len(Path(f"{self.target}.version").read_text().split()), len(ota.CHECKSUMS))

    async def test_software_without_a_program(self) -> None:
        """Software is fetched and checked beside firmware, and kept where no program is configured; on MQTT 3.1.1."""
        gateway = await self.start("3.1.1", chunkSizeBytes=65536)
        self.offer()
        self.offer("3.0", "sw")
        await self.until(lambda: self.latest(GATEWAY).get("sw_state") == "VERIFIED", "VERIFIED")
        await self.until(lambda: self.latest(GATEWAY).get("fw_state") == "UPDATED", "UPDATED")
        self.assertEqual((self.folder.path / "packages" / "software.bin").read_bytes(), IMAGE)
        await self.stop(gateway)

    async def test_no_package(self) -> None:
        """ThingsBoard has no such package and ends the session: told once, not tried again, the gateway lives on."""
        gateway = await self.start()
        offer = ota.make_package("fw", "gate", "9.9-a", IMAGE).attributes()
        self.control.set_attributes(GATEWAY, offer)
        await self.line(gateway, "ThingsBoard says NOT_FOUND")
        await self.line(gateway, "connected to ThingsBoard")
        await self.until(lambda: self.latest(GATEWAY).get("fw_state") == "FAILED", "FAILED")
        self.assertEqual(self.latest(GATEWAY)["fw_error"], "ThingsBoard says NOT_FOUND")
        await self.stop(gateway)
        self.assertEqual(gateway.output.count("connected to ThingsBoard"), 2)
