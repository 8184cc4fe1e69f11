"""A gateway's life, from a box without credentials to one that has been through everything, as one run.

Nothing that a device said is lost, the order is kept, and nothing is left hanging: every call has its answer, every
stop is short, and the store is empty at the end.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

from tbgw.sandbox.ota import make_package
from tbgw.sandbox.profiles import ALLOW_CREATE, DeviceProfile
from tests.programs import Program, free_port
from tests.scenarios.own import OwnCase

KEY, SECRET = "pr0visionKey", "canary-provision-secret"
NAME = "Hall 7"


class LifeTests(OwnCase):
    """One gateway, `Hall 7`, and one device, `Scale`, that says one number after the other."""

    timeout = 180

    def setUp(self) -> None:
        super().setUp()
        self.said = 0
        self.published: list[int] = []
        self.sandbox.on_publish = self.note
        self.tcp = free_port()
        self.control.set_profile(DeviceProfile("Gateways", strategy=ALLOW_CREATE, key=KEY, secret=SECRET))
        self.image = Path(self.mktemp()).absolute()

    def note(self, device: str, topic: str, payload: bytes) -> None:
        """The ledger's other side: every number that comes, under whatever name."""
        if topic == "v1/gateway/telemetry":
            for elements in json.loads(payload).values():
                self.published += [element["values"]["n"] for element in elements if "n" in element["values"]]

    def say(self, count: int) -> None:
        """The device says the next numbers, on one connection."""
        with socket.create_connection(("127.0.0.1", self.tcp), timeout=10) as device:
            for _ in range(count):
                self.said += 1
                device.sendall(b"%d\n" % self.said)

    def arrived(self) -> bool:
        """Whether all that was said is in the sandbox."""
        return set(self.published) >= set(range(1, self.said + 1))

    def names(self) -> list[str]:
        return [device["name"] for device in self.sandbox.view.devices()]

    def heard(self, device: str) -> list[int]:
        return self.told(device, "n") if device in self.names() else []

    def write(self, **security: Any) -> None:
        """tb_gateway.json, with no connector: that comes from ThingsBoard."""
        apply = Path(self.mktemp()).absolute()
        apply.write_text(f"#!{sys.executable}\nimport shutil, sys\nshutil.copy(sys.argv[-1], {str(self.image)!r})\n")
        apply.chmod(0o755)
        kept = self.folder.etc / "tb_gateway.json"
        connectors = json.loads(kept.read_text())["connectors"] if kept.exists() else []
        section = {
            "host": "127.0.0.1",
            "port": self.port,
            "remoteConfiguration": True,
            "firmware": {"command": [str(apply)], "chunkSizeBytes": 4096},
            **security,
        }
        self.folder.write("tb_gateway.json", {"thingsboard": section, "connectors": connectors})
        kept.chmod(0o600)

    async def answered(self, method: str, params: Any = None) -> Any:
        """A call of the gateway itself: it has its answer."""
        answer = await self.control.call(NAME, method, params)
        self.assertEqual(answer.status, 200, answer)
        return json.loads(answer.body)

    async def begin(self) -> Program:
        program = self.gateway()
        await self.line(program, "connected to ThingsBoard")
        return program

    async def end(self, program: Program) -> None:
        """A stop that is short, also with the link in trouble."""
        began = time.monotonic()
        await self.stop(program)
        self.assertLess(time.monotonic() - began, 8, "STOP_SECONDS, and a busy machine")

    async def test_life(self) -> None:
        """Provisioned, configured, renamed, deleted, updated, limited, cut, locked out, and let in again."""
        # Provisioned.
        self.write(
            provisioning={"provisionDeviceKey": KEY, "provisionDeviceSecret": SECRET, "deviceName": NAME}
        )
        gateway = await self.begin()
        self.assertIn("provisioned as", gateway.output)
        self.assertTrue(self.control.device_as_json(NAME)["gateway"])

        # Configured from the platform.
        content = {
            "socket": {"type": "TCP", "address": "127.0.0.1", "port": self.tcp, "framing": {"type": "delimiter"}},
            "devices": [
                {
                    "address": "*:*",
                    "deviceName": "Scale",
                    "deviceType": "weights",
                    "telemetry": [{"key": "n", "type": "number"}],
                }
            ],
        }
        connector = {"type": "socket", "name": "Line", "configuration": "line.json", "configurationJson": content}
        self.control.set_attributes(NAME, {"Line": connector, "active_connectors": ["Line"]})
        await self.line(gateway, "configuration changed")
        await self.until(self.listens, "the connector listens")
        self.say(50)
        await self.until(self.arrived, "the first numbers")
        self.assertEqual(self.heard("Scale"), list(range(1, 51)))
        self.assertEqual(await self.answered("gateway_devices"), {"code": 200, "resp": {"Scale": "Line"}})

        # The device is renamed, while it speaks.
        self.control.rename("Scale", "Scale A")
        self.say(50)
        await self.line(gateway, "renamed device")
        self.say(50)
        await self.until(self.arrived, "the numbers around the new name")
        await self.until(lambda: self.heard("Scale A")[-1:] == [150], "the new name")
        self.assertNotIn("Scale", self.names())

        # The device is deleted; the next message makes it anew.
        self.control.delete("Scale A")
        await self.line(gateway, "deleted device")
        self.say(50)
        await self.until(self.arrived, "the numbers after the deletion")
        await self.until(lambda: self.heard("Scale")[-1:] == [200], "the device that was made anew")

        # Firmware is offered.
        image = bytes(range(256)) * 400
        self.control.add_package(make_package("fw", "gate", "1.1-a", image, algorithm="MURMUR3_128"))
        self.control.assign_package(NAME, "fw", "gate", "1.1-a")
        await self.until(lambda: self.latest(NAME).get("fw_state") == "UPDATED", "UPDATED")
        self.assertEqual(self.image.read_bytes(), image)

        # The limits are lowered: first met by surprise, then known.
        self.control.set_limits({"gatewayRateLimits": {"telemetryMessages": "20:1", "telemetryDataPoints": "100:1"}})
        for _ in range(10):
            self.say(30)
            await deferLater(reactor, 0.05)
        await self.until(self.arrived, "the numbers under the limits")
        self.control.set_limits({"gatewayRateLimits": {"telemetryMessages": None, "telemetryDataPoints": None}})

        # The link is cut, again and again, and the gateway killed.
        for _ in range(3):
            self.say(30)
            self.control.cut(NAME)
            self.say(30)
            await deferLater(reactor, 0.5)
        await self.until(self.arrived, "the numbers around the cuts")
        self.say(30)
        await deferLater(reactor, 0.2)
        gateway.kill()
        gateway = await self.begin()
        await self.until(self.listens, "the connector listens again")
        self.say(30)
        await self.until(self.arrived, "the numbers around the kill")

        # Another token: locked out, said so, and nothing is lost.
        self.control.set_token(NAME, "another-token")
        await self.line(gateway, "bad user name or password|refused|not authorized")
        self.say(100)
        await deferLater(reactor, 0.5)
        self.assertFalse(self.arrived())
        await self.end(gateway)
        self.write(security={"accessToken": "another-token"})
        gateway = await self.begin()
        await self.until(self.arrived, "the numbers of the time without the right token")

        # Nothing is left: no call without an answer, nothing in the store, nothing out of order.
        self.assertEqual(await self.answered("gateway_ping"), {"code": 200, "resp": "pong"})
        waiting = self.commands_waiting()
        self.assertEqual(waiting, [])
        await self.until(lambda: self.heard("Scale")[-1:] == [self.said], "the last number")
        await self.end(gateway)
        kept = re.findall(r"stopped: .*?(\d+) kept in the store", gateway.output)
        self.assertEqual(kept, ["0"])
        heard = self.heard("Scale")
        self.assertEqual(heard, sorted(heard))
        self.assertEqual(set(heard), set(range(151, self.said + 1)))
        self.assertNotIn(SECRET, gateway.output)

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.tcp)) == 0

    def commands_waiting(self) -> list[str]:
        """Names of devices with calls that are not over."""
        return [name for name in self.names() if self.control.device_as_json(name)["waitingCalls"]]
