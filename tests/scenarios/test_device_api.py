"""What a device behind a socket asks of ThingsBoard, and the gateway's own topics in their short forms."""

from __future__ import annotations

import socket

from twisted.internet.threads import deferToThread

from tests.programs import SECONDS, free_port
from tests.scenarios.own import OwnCase

GATEWAY = "Gateway"


class DeviceAPITests(OwnCase):
    """A gateway with one socket, against a sandbox."""

    def write(self, **thingsboard: object) -> int:
        tcp = free_port()
        section = {
            "host": "127.0.0.1",
            "port": self.port,
            "security": {"accessToken": self.sandbox.ensure_token()},
            **thingsboard,
        }
        connectors = [{"type": "socket", "name": "S", "configuration": "s.json"}]
        self.folder.write("tb_gateway.json", {"thingsboard": section, "connectors": connectors})
        device = {
            "address": "*:*",
            "deviceName": "Valve",
            "deviceType": "valve",
            "telemetry": [{"key": "raw"}],
            "clientSideRpc": [
                {
                    "requestExpression": "rpc ",
                    "methodExpression": "[4:20]",
                    "answerExpression": "${response.maxPayloadSize}\n",
                    "noAnswer": "nobody\n",
                }
            ],
            "claimRequests": [
                {"requestExpression": "claim ", "secretKeyExpression": "[6:]", "answerExpression": "taken\n"}
            ],
        }
        framing = {"type": "delimiter"}
        self.folder.write(
            "s.json",
            {"socket": {"address": "127.0.0.1", "port": tcp, "framing": framing}, "devices": [device]},
        )
        return tcp

    def converse(self, tcp: int, *lines: bytes) -> list[bytes]:
        """One connection: each line, and what came back for it."""
        with socket.create_connection(("127.0.0.1", tcp), SECONDS) as link:
            answers = link.makefile("rb")
            found = []
            for line in lines:
                link.sendall(line + b"\n")
                found.append(answers.readline())
            return found

    async def test_claim_and_rpc(self) -> None:
        """A device claims itself and asks the rule chain: the customer's secret fits, the answer comes back."""
        tcp = self.write()
        gateway = self.gateway()
        await self.line(gateway, "connected to ThingsBoard")
        found = await deferToThread(self.converse, tcp, b"claim s3cret", b"rpc getSessionLimits")
        self.assertEqual(found, [b"taken\n", b"65536\n"])
        self.assertEqual(self.control.claim("Valve", "somebody", "s3cret"), "SUCCESS")
        self.assertEqual(self.control.device_as_json("Valve")["profile"], "valve")
        await self.stop(gateway)

    async def test_short_topics(self) -> None:
        """With shortTopics the gateway's own traffic goes by v2/...: telemetry, attributes, questions, commands."""
        seen: list[str] = []
        self.sandbox.on_publish = lambda device, topic, payload: seen.append(topic)
        self.write(shortTopics=True, statistics={"enable": True, "statsSendPeriodInSeconds": 10})
        gateway = self.gateway()
        await self.line(gateway, "connected to ThingsBoard")
        answer = self.control.call(GATEWAY, "noSuchMethod")
        found = await answer
        self.assertEqual(found.status, 200)
        await self.until(lambda: "v2/t" in seen, "telemetry")
        own = {topic.rstrip("0123456789") for topic in seen if "gateway" not in topic}
        self.assertIn("v2/a/req/", own)
        self.assertIn("v2/r/res/", own)
        self.assertEqual([topic for topic in own if topic.startswith("v1")], ["v1/devices/me/rpc/request/"])
        await self.stop(gateway)
