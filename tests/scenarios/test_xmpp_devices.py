"""XMPP devices and `twistd tbgw -c etc/` as programs, over prosody: what was receipted survives a kill, and a
thousand devices are served."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor as real_reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.words.xish.domish import Element

from tests.connectors.xmpp.links import LinkCase, message
from tests.programs import GatewayFolder, Program, free_port, mosquitto, mosquitto_sub
from tests.xmppservers import XMPPServer, start

reactor: Any = real_reactor


def with_receipt(to: str, text: str, number: str) -> Element:
    """A message that asks for a receipt."""
    made = message(to, text, id=number)
    made.addElement(("urn:xmpp:receipts", "request"))
    return made


class DeviceTests(LinkCase):
    """Real programs on every side."""

    def prepare(self, server: XMPPServer, devices: list[dict[str, Any]], **settings: Any) -> GatewayFolder:
        """A folder for the gateway; ThingsBoard's place is `self.mqtt`."""
        folder = GatewayFolder(self)
        self.mqtt = free_port()
        folder.write(
            "tb_gateway.json",
            {
                "thingsboard": {"host": "127.0.0.1", "port": self.mqtt, "security": {"accessToken": "a1b2c3"}},
                "storage": {"type": "sqlite", "data_file_path": "./store/"},
                "connectors": [{"type": "xmpp", "name": "Site", "configuration": "site.json"}],
            },
        )  # fmt: skip
        account = {
            "jid": f"gateway@{server.domain}/tbgw",
            "password": "gw-secret-1",
            "host": "127.0.0.1",
            "port": server.port,
            "tls": {"caCert": "ca.pem"},
        }
        folder.write("site.json", {"server": {**account, **settings}, "devices": devices})
        (folder.etc / "ca.pem").write_bytes(server.ca.read_bytes())
        return folder

    async def wait_for(self, program: Program, pattern: str) -> Any:
        """As `Program.wait_for`, while the devices in this process go on."""
        return await deferToThread(program.wait_for, pattern)

    async def test_kill(self) -> None:
        """kill -9 with ThingsBoard away: every reading whose receipt the device has arrives after the restart."""
        server = start("prosody", self, {"gateway": "gw-secret-1", "device": "x"})
        entry = {
            "jid": f"device@{server.domain}",
            "deviceNameExpression": "Pump",
            "timeseries": [{"key": "n", "value": "${n}"}],
        }
        folder = self.prepare(server, [entry])
        gateway = folder.start(wait=None)
        await self.wait_for(gateway, "logged in as gateway@")
        device, listener, _ = await self.up(server, "device")
        to = f"gateway@{server.domain}/tbgw"
        receipted: set[int] = set()

        def receipts() -> int:
            for one in listener.stanzas:
                for receipt in one.elements("urn:xmpp:receipts", "received"):
                    receipted.add(int(receipt["id"]))
            listener.stanzas.clear()
            return len(receipted)

        count = 0
        while receipts() < 300:
            for _ in range(20):
                count += 1
                device.send(with_receipt(to, json.dumps({"n": count}), str(count)))
            await deferLater(reactor, 0.005, lambda: None)
        gateway.kill()
        receipts()
        self.assertGreaterEqual(len(receipted), 300)

        mosquitto(self, self.mqtt)
        seen = mosquitto_sub(self, self.mqtt, "v1/gateway/telemetry")
        again = folder.start(wait=None)
        await self.wait_for(again, "connected to ThingsBoard")
        arrived: list[int] = []
        end = reactor.seconds() + 60
        while not receipted <= set(arrived):
            line = await self.wait_for(seen, r"^v1/gateway/telemetry (.*)")
            arrived += [entry["values"]["n"] for entry in json.loads(line[1])["Pump"]]
            self.assertLess(reactor.seconds(), end, receipted - set(arrived))
        self.assertEqual(sorted(set(arrived) & receipted), sorted(receipted))
        self.assertEqual(arrived[: len(receipted) // 2], sorted(arrived[: len(receipted) // 2]))
        again.stop()

    async def test_a_thousand_devices(self) -> None:
        """A thousand accounts as a component's peers would be: each a device of its own, by one entry, in one go."""
        server = start("prosody", self, {"gateway": "gw-secret-1"})
        count = 1000
        # As a component the test may write for any account of the component's domain.
        entry = {
            "jid": f"*@{server.component}",
            "deviceNameExpression": "Meter ${from.local}",
            "timeseries": [{"key": "v", "value": "${v}"}],
        }
        folder = self.prepare(server, [entry])
        mosquitto(self, self.mqtt)
        seen = mosquitto_sub(self, self.mqtt, "v1/gateway/telemetry")
        gateway = folder.start(wait=None)
        await self.wait_for(gateway, "connected to ThingsBoard")
        if "logged in as gateway@" not in gateway.output:
            await self.wait_for(gateway, "logged in as gateway@")
        settings = self.settings(
            server, "peers", jid=server.component, component=True, password=server.component_secret,
            port=server.component_port,
        )  # fmt: skip
        link, listener, _ = self.link(settings)
        await listener.next_up()
        to = f"gateway@{server.domain}/tbgw"
        for number in range(count):
            reading = message(to, json.dumps({"v": number}))
            reading["from"] = f"m{number}@{server.component}/r"
            link.send(reading)
        values: dict[str, int] = {}
        while len(values) < count:
            line = await self.wait_for(seen, r"^v1/gateway/telemetry (.*)")
            values.update({name: entries[-1]["values"]["v"] for name, entries in json.loads(line[1]).items()})
        self.assertEqual(values, {f"Meter m{number}": number for number in range(count)})
        gateway.stop()
