"""The gateway managed from ThingsBoard: the real program, started by twistd, and the sandbox in the test's process."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.sandbox.service import Sandbox
from tests.programs import GatewayFolder, Program, free_port

reactor: Any = real_reactor

CONFIRM_SECONDS = 10
"""Shortest time that the configuration allows for reaching ThingsBoard again."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class RemoteCase(TestCase):
    """A sandbox that the test operates, and a gateway beside it."""

    timeout = 120

    def setUp(self) -> Deferred[None]:  # type: ignore[override] # trial waits for it
        return Deferred.fromCoroutine(self.start())

    async def start(self) -> None:
        """The sandbox runs; the gateway's folder is written."""
        self.folder = GatewayFolder(self)
        self.mqtt, self.port = free_port(), free_port()
        self.sandbox = self.make_sandbox(self.folder.path / "sandbox")
        self.sandbox.startService()
        self.addCleanup(self.sandbox.stopService)
        self.general: dict[str, Any] = {
            "thingsboard": {
                "host": "127.0.0.1",
                "port": self.mqtt,
                "remoteConfiguration": True,
                "remoteConfigurationConfirmSeconds": CONFIRM_SECONDS,
                "checkConnectorsConfigurationInSeconds": 1,
                "security": {"type": "accessToken", "accessToken": self.sandbox.ensure_token()},
            },
            "storage": {"type": "sqlite", "data_file_path": "./store/"},
            "connectors": [{"type": "socket", "name": "Line", "configuration": "line.json"}],
        }
        self.folder.write("tb_gateway.json", self.general)
        self.line: dict[str, Any] = {
            "socket": {"type": "TCP", "address": "127.0.0.1", "port": self.port, "framing": {"type": "delimiter"}},
            "devices": [
                {
                    "address": "*:*",
                    "deviceName": "Scale",
                    "deviceType": "weights",
                    "telemetry": [{"key": "kg", "type": "number"}],
                }
            ],
        }
        self.folder.write("line.json", self.line)

    def make_sandbox(self, folder: Path) -> Sandbox:
        events = Events(Counters(), reactor.seconds)
        return Sandbox(reactor, folder, folder / "token", mqtt_port=self.mqtt, events=events, now_ms=now_ms)

    async def begin(self) -> Program:
        """The gateway, connected."""
        program = self.folder.start(wait=None)
        await self.says(program, "connected to ThingsBoard")
        return program

    async def says(self, program: Program, pattern: str) -> re.Match[str]:
        """Wait for a line; the sandbox goes on meanwhile."""
        match: re.Match[str] = await deferToThread(program.wait_for, pattern)
        return match

    async def stop(self, program: Program, signum: int = signal.SIGTERM) -> int:
        status: int = await deferToThread(program.stop, signum)
        return status + signum  # twistd ends itself by the signal that it was sent

    async def until(self, condition: Any) -> Any:
        """Let the reactor run until it holds; the test's own time-out ends it otherwise."""
        while not (found := condition()):
            await deferLater(reactor, 0.02, lambda: None)
        return found

    def send(self, *values: float, port: int | None = None) -> None:
        """A device says these."""
        with socket.create_connection(("127.0.0.1", port or self.port), timeout=10) as device:
            for value in values:
                device.sendall(f"{value}\n".encode())

    async def send_until_taken(self, value: float, port: int) -> None:
        """A device that tries until somebody listens."""
        while True:
            try:
                self.send(value, port=port)
                return
            except ConnectionRefusedError:
                await deferLater(reactor, 0.05, lambda: None)

    def device(self, name: str) -> dict[str, Any] | None:
        return next((one for one in self.sandbox.view.devices() if one["name"] == name), None)

    def value(self, name: str, key: str = "kg") -> Any:
        device = self.device(name) or {"telemetry": {}}
        return device["telemetry"].get(key, {}).get("value")

    def shown(self, name: str) -> Any:
        """A client attribute of the gateway."""
        gateway = self.device("Gateway") or {"attributes": {}}
        return gateway["attributes"].get(name, {}).get("value")

    async def call(self, method: str, params: Any = None) -> Any:
        answer = await self.sandbox.control.call("Gateway", method, params)
        return json.loads(answer.body)

    def push(self, **values: Any) -> None:
        self.sandbox.control.set_attributes("Gateway", values)

    def connector(self, **more: Any) -> dict[str, Any]:
        """What ThingsBoard's page saves for the connector."""
        envelope = {"type": "socket", "name": "Line", "configuration": "line.json", "logLevel": "INFO"}
        return {**envelope, "configurationJson": self.line, "ts": now_ms() + 1000, **more}


class DeviceTests(RemoteCase):
    """Devices that are renamed and deleted."""

    async def test_renamed_and_deleted(self) -> None:
        """A renamed device goes on under its new name, also after a restart; a deleted one is made anew."""
        gateway = await self.begin()
        self.send(1)
        await self.until(lambda: self.value("Scale") == 1)
        self.sandbox.control.rename("Scale", "Scale of hall 7")
        await self.says(gateway, "renamed device 'Scale' to 'Scale of hall 7'")
        self.send(2)
        await self.until(lambda: self.value("Scale of hall 7") == 2)
        self.assertIsNone(self.device("Scale"))
        self.assertEqual(await self.stop(gateway), 0)
        gateway = await self.begin()
        self.send(3)
        await self.until(lambda: self.value("Scale of hall 7") == 3)
        self.assertIsNone(self.device("Scale"))
        self.sandbox.control.delete("Scale of hall 7")
        await self.says(gateway, "deleted device")
        self.assertIsNone(self.device("Scale of hall 7"))
        self.send(4)
        await self.until(lambda: self.value("Scale") == 4)
        made = self.device("Scale")
        assert made is not None
        self.assertEqual(made["profile"], "weights")

    async def test_stored_data_of_a_device_that_was_renamed_meanwhile(self) -> None:
        """What was stored without a link goes to the new name, in order, and the old one is not made again."""
        gateway = await self.begin()
        self.send(1)
        await self.until(lambda: self.value("Scale") == 1)
        await self.sandbox.stopService()
        await self.says(gateway, "next try in")
        self.send(*range(2, 50))
        await deferLater(reactor, 0.5, lambda: None)
        self.assertEqual(await self.stop(gateway), 0)
        self.sandbox = self.make_sandbox(self.folder.path / "sandbox")
        self.sandbox.startService()
        self.addCleanup(self.sandbox.stopService)
        await self.until(lambda: self.device("Scale"))
        self.sandbox.control.rename("Scale", "Renamed")
        gateway = await self.begin()
        await self.until(lambda: self.value("Renamed") == 49)
        history = [value for _, value in self.sandbox.view.history("Renamed", "kg", 0)]
        self.assertEqual(history, sorted(history))
        self.assertIsNone(self.device("Scale"))


class CommandTests(RemoteCase):
    """Commands for the gateway itself."""

    async def test_every_command_is_answered(self) -> None:
        """The reference's table, and what is in no table."""
        await self.begin()
        self.send(1)
        await self.until(lambda: self.value("Scale") == 1)
        self.assertEqual(await self.call("gateway_ping", {}), {"code": 200, "resp": "pong"})
        self.assertEqual(await self.call("gateway_devices"), {"code": 200, "resp": {"Scale": "Line"}})
        self.assertEqual((await self.call("gateway_version"))["resp"]["current_version"][:1], "0")
        stats = await self.call("gateway_stats", {})
        self.assertEqual((stats["eventsProduced"], stats["LineEventsProduced"]), (1, 1))
        for method, code in (
            ("gateway_fly", 404),
            ("modbus_read", 404),
            ("sendCommand", 403),
            ("gateway_reboot", 403),
            ("gateway_remove_provisioned_credentials", 404),
            ("gateway_restart_connector", 400),
        ):
            answer = await self.call(method, {})
            self.assertEqual(answer["code"], code, answer)
        self.assertEqual(await self.call("gateway_restart_connector", "Line"), {"success": True})
        await self.send_until_taken(2, self.port)
        await self.until(lambda: self.value("Scale") == 2)

    async def test_restart(self) -> None:
        """What was accepted before a restart is delivered after it, by the same process."""
        gateway = await self.begin()
        pid = gateway.process.pid
        self.send(1)
        await self.until(lambda: self.value("Scale") == 1)
        self.assertEqual(await self.call("gateway_restart", 1), {"success": True})
        self.send(*range(2, 500))
        await self.says(gateway, "the gateway restarts")
        await self.says(gateway, "connected to ThingsBoard")
        self.assertEqual(gateway.process.pid, pid)
        await self.send_until_taken(500, self.port)
        await self.until(lambda: self.value("Scale") == 500)
        self.assertEqual(await self.stop(gateway), 0)


class ConfigurationTests(RemoteCase):
    """Configuration that is pushed."""

    async def test_shown_and_changed(self) -> None:
        """What holds is shown without secrets; a change moves the connector's port, and the same again does nothing."""
        gateway = await self.begin()
        await self.until(lambda: self.shown("Line"))
        token = self.sandbox.ensure_token()
        self.assertNotIn(token, json.dumps(self.sandbox.view.devices()))
        self.assertEqual(self.shown("Line")["configurationJson"], self.line)
        self.assertEqual(self.shown("active_connectors"), ["Line"])
        self.assertEqual(self.shown("general_configuration")["security"]["accessToken"], "******")
        port = free_port()
        self.line["socket"]["port"] = port
        pushed = self.connector()
        self.push(Line=pushed)
        await self.says(gateway, "configuration changed: line.json; begun: Line; ended: Line")
        await self.send_until_taken(5, port)
        await self.until(lambda: self.value("Scale") == 5)
        await self.until(lambda: self.shown("Line")["ts"] >= pushed["ts"])
        self.assertEqual(self.shown("Line")["configurationJson"], self.line)
        self.push(Line={**pushed, "ts": pushed["ts"] + 5})
        await self.until(lambda: self.shown("Line")["ts"] >= pushed["ts"] + 5)
        await self.until(lambda: "configuration" in gateway.output)
        self.assertEqual(gateway.output.count("configuration changed"), 1)
        files = sorted(path.name for path in (self.folder.etc / "backup").iterdir())
        self.assertEqual(
            [re.sub(r"\d+", "N", name) for name in files], ["line.backup.N.json"]
        )
        self.assertNotIn(token, gateway.output)

    async def test_a_bad_one_changes_nothing(self) -> None:
        """A push with a fault anywhere is refused as a whole, said in ThingsBoard, and the device is not disturbed."""
        gateway = await self.begin()
        await self.until(lambda: self.shown("Line"))
        before = {path.name: path.read_bytes() for path in self.folder.etc.iterdir() if path.is_file()}
        with socket.create_connection(("127.0.0.1", self.port)) as device:
            device.sendall(b"1\n")
            await self.until(lambda: self.value("Scale") == 1)
            bad = self.connector(configurationJson={**self.line, "devices": [{"address": 7}]})
            self.push(Line=bad, general_configuration={"minPackSendDelayMS": 20})
            await self.until(lambda: (self.shown("remote_configuration_status") or {}).get("ok") is False)
            device.sendall(b"2\n")
            await self.until(lambda: self.value("Scale") == 2)
        self.assertEqual(
            {path.name: path.read_bytes() for path in self.folder.etc.iterdir() if path.is_file()}, before
        )
        for attribute in (
            {"Evil": {"type": "socket", "name": "Evil", "configuration": "../evil.json", "configurationJson": {}}},
            {"general_configuration": {"remoteMethods": ["gateway_reboot"]}},
            {"general_configuration": {"security": {"accessTokenFile": "/etc/hostname"}}},
            {"storage_configuration": {"data_file_path": "/tmp/elsewhere"}},
        ):
            seen = self.shown("remote_configuration_status")["ts"]
            self.push(**attribute)
            await self.until(lambda seen=seen: self.shown("remote_configuration_status")["ts"] > seen)
            self.assertFalse(self.shown("remote_configuration_status")["ok"], attribute)
        self.assertFalse((self.folder.path / "evil.json").exists())
        self.assertIsNone(gateway.process.poll())

    async def test_one_that_cuts_itself_off_is_undone(self) -> None:
        """A server that is not there: after the time everything is as before, and what was sent meanwhile arrives."""
        gateway = await self.begin()
        await self.until(lambda: self.shown("Line"))
        self.push(general_configuration={"port": free_port(), "ts": now_ms() + 1000})
        await self.says(gateway, "the link to ThingsBoard is begun anew")
        self.send(7)
        await self.says(gateway, "was not reached within")
        await self.until(lambda: self.value("Scale") == 7)
        self.assertEqual(json.loads((self.folder.etc / "tb_gateway.json").read_text()), self.general)
        await self.until(lambda: "undone" in str(self.shown("remote_configuration_status")))
        # The bad value still stands in ThingsBoard; it is not taken again.
        await deferLater(reactor, 1, lambda: None)
        self.assertEqual(json.loads((self.folder.etc / "tb_gateway.json").read_text()), self.general)

    async def test_one_that_needs_a_new_process(self) -> None:
        """Another store: the gateway begins anew by itself, reaches ThingsBoard, and the change stays."""
        gateway = await self.begin()
        await self.until(lambda: self.shown("Line"))
        self.push(storage_configuration={"size_limit": 7})
        await self.says(gateway, "the gateway restarts")
        await self.says(gateway, "it stays")
        self.assertEqual(json.loads((self.folder.etc / "tb_gateway.json").read_text())["storage"]["size_limit"], 7)
        await self.until(lambda: self.shown("storage_configuration").get("size_limit") == 7)

    async def test_a_file_that_is_changed_on_the_disk(self) -> None:
        """The connector follows its file."""
        gateway = await self.begin()
        port = free_port()
        self.line["socket"]["port"] = port
        self.folder.write("line.json", self.line)
        await self.says(gateway, "connectors Line, on the disk")
        await self.send_until_taken(3, port)
        await self.until(lambda: self.value("Scale") == 3)

    async def test_a_hundred_pushes_under_load(self) -> None:
        """While a device sends, a hundred changes of another connector's file lose nothing and delay nothing."""
        other = free_port()
        self.general["connectors"].append({"type": "socket", "name": "Other", "configuration": "other.json"})
        self.folder.write("tb_gateway.json", self.general)
        content = {**self.line, "socket": {**self.line["socket"], "port": other}}
        self.folder.write("other.json", content)
        gateway = await self.begin()
        await self.until(lambda: self.shown("Other"))
        with socket.create_connection(("127.0.0.1", self.port)) as device:
            for number in range(1, 101):
                content = {**content, "devices": [{**self.line["devices"][0], "deviceType": f"kind {number}"}]}
                self.push(Other=self.connector(name="Other", configuration="other.json", configurationJson=content))
                for value in range(number * 10 - 9, number * 10 + 1):
                    device.sendall(f"{value}\n".encode())
                    await deferLater(reactor, 0.002, lambda: None)
            await self.until(lambda: self.value("Scale") == 1000)
        await self.until(lambda: self.shown("Other")["configurationJson"] == content)
        history = [value for _, value in self.sandbox.view.history("Scale", "kg", 0)]
        self.assertEqual(history, sorted(history))
        self.assertEqual(await self.stop(gateway), 0)
        delivered, kept = map(int, re.findall(r"stopped: (\d+) message.*, (\d+) kept in the store", gateway.output)[0])
        self.assertEqual((delivered >= 1000, kept), (True, 0))
        self.assertGreater(gateway.output.count("configuration changed"), 20)
        self.assertEqual(len(list((self.folder.etc / "backup").glob("other.backup.*"))), 10)


class LogTests(RemoteCase):
    """Log lines in ThingsBoard."""

    async def test_lines_and_level(self) -> None:
        """The level that the page sets is shown again, and lines come under the reference's keys."""
        gateway = await self.begin()
        self.push(RemoteLoggingLevel="INFO")
        await self.until(lambda: self.shown("RemoteLoggingLevel") == "INFO")
        await self.call("gateway_update")
        line = await self.until(lambda: self.value("Gateway", "LOGS"))
        self.assertIn("|WARNING|", line)
        self.push(RemoteLoggingLevel="NONE")
        await self.until(lambda: self.shown("RemoteLoggingLevel") == "NONE")
        self.assertIsNone(gateway.process.poll())
