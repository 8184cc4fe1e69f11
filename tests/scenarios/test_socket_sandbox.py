"""Both directions between a socket device and the sandbox, through the whole gateway in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tbgw.service import Gateway, load
from tbgw.thingsboard import payloads, topics
from tests.programs import free_port

reactor: Any = real_reactor


class Device(Protocol):
    """Lines, as a device on a socket."""

    transport: Any

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self._held = b""
        self._waiting: Deferred[bytes] | None = None

    def dataReceived(self, data: bytes) -> None:
        *lines, self._held = (self._held + data).split(b"\n")
        self.lines += lines
        if self._waiting is not None and self.lines:
            waiting, self._waiting = self._waiting, None
            waiting.callback(self.lines.pop(0))

    def line(self) -> Deferred[bytes]:
        """The next line."""
        self._waiting = Deferred()
        waiting = self._waiting
        self.dataReceived(b"")
        return waiting.addTimeout(10, reactor)


class SandboxTests(TestCase):
    """`Gateway` with the sandbox in ThingsBoard's place."""

    timeout = 30

    def setUp(self) -> Deferred[None]:  # type: ignore[override] # trial waits for it
        return Deferred.fromCoroutine(self.start())

    async def start(self) -> None:
        """The gateway, connected to its sandbox."""
        folder = Path(self.mktemp()).absolute()
        (folder / "etc").mkdir(parents=True)
        self.port, mqtt, http = free_port(), free_port(), free_port()
        self.write(
            folder / "etc" / "tb_gateway.json",
            {
                "thingsboard": {"host": "127.0.0.1", "port": mqtt, "security": {"accessTokenFile": "sandbox/token"}},
                "sandbox": {"enabled": True, "mqttPort": mqtt, "httpPort": http},
                "storage": {"type": "memory"},
                "connectors": [{"type": "socket", "name": "Line", "configuration": "line.json"}],
            },
        )
        device = {
            "address": "127.0.0.1:*",
            "deviceName": "Valve",
            "telemetry": [{"key": "v", "type": "number"}],
            "attributes": [{"key": "raw"}],
            "attributeRequests": [{"type": "client", "answerExpression": "${values}\n"}],
            "attributeUpdates": [{"attributeOnThingsBoard": "limit", "valueExpression": "L${attributeValue}\n"}],
            "serverSideRpc": [{"methodRPC": "state", "valueExpression": "S?\n", "responseExpression": "S="}],
        }
        listener = {"port": self.port, "framing": {"type": "delimiter"}}
        self.write(folder / "etc" / "line.json", {"socket": listener, "devices": [device]})
        self.gateway = Gateway(load(folder / "etc", folder, {}), reactor)
        self.published: list[tuple[str, Any]] = []
        publish = self.gateway.uplink.publish

        def remembered(topic: str, payload: bytes) -> Any:
            self.published.append((topic, json.loads(payload)))
            return publish(topic, payload)

        self.gateway.downlink._publish = remembered  # what it sends is seen here, and sent
        self.gateway.startService()
        self.addCleanup(self.gateway.stopService)
        await self.until(lambda: self.gateway.uplink.connected)

    def write(self, path: Path, content: Any) -> None:
        path.write_text(json.dumps(content))

    async def until(self, condition: Any) -> None:
        """Let the reactor run until it holds; the test's own time-out ends it otherwise."""
        while not condition():
            await deferLater(reactor, 0.01, lambda: None)

    def push(self, topic: str, content: Any) -> Deferred[int]:
        """ThingsBoard says something to the gateway."""
        pushed: Deferred[int] = self.gateway._sandbox.push("Gateway", topic, payloads.encode(content))
        return pushed

    async def test_both_directions(self) -> None:
        """Data, an update, a command with the device's own answer, a question of the device: through real MQTT."""
        device = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), Device())
        self.addCleanup(device.transport.loseConnection)
        device.transport.write(b"21.5\n")
        view = self.gateway._sandbox.view
        await self.until(lambda: any("v" in one["telemetry"] for one in view.devices()))
        self.assertEqual(await self.push(topics.ATTRIBUTES, {"device": "Valve", "data": {"limit": 7}}), 0)
        self.assertEqual(await device.line(), b"L7")
        await self.push(topics.RPC, {"device": "Valve", "data": {"id": 3, "method": "state", "params": None}})
        self.assertEqual(await device.line(), b"S?")
        device.transport.write(b"S=open\n")
        await self.until(lambda: self.published)
        self.assertEqual(self.published.pop(), (topics.RPC, {"device": "Valve", "id": 3, "data": "S=open"}))
        await self.until(lambda: any(one["attributes"].get("raw") for one in view.devices()))
        device.transport.write(b"atrraw\n")
        self.assertEqual(await device.line(), b"21.5")
        device.transport.write(b"atrnothing\n")
        self.assertEqual(await device.line(), b"null")
        await self.push(topics.DEVICE_RPC_REQUEST + "9", {"method": "socket_set", "params": "device=Valve;value=x\n"})
        self.assertEqual(await device.line(), b"x")
        await self.until(lambda: self.published[-1][0] == topics.DEVICE_RPC_RESPONSE + "9")
        self.assertEqual(self.published[-1][1], {"result": "ok"})
