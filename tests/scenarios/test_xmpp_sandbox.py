"""Both directions between XMPP devices and the sandbox, over real servers; the whole gateway is in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.words.xish.domish import Element

from tbgw.service import Gateway, load
from tbgw.thingsboard import payloads, topics
from tests.connectors.xmpp.links import LinkCase, Listener, body, message, presence
from tests.programs import free_port
from tests.xmppservers import XMPPServer, start

reactor: Any = real_reactor


def device_entry(server: XMPPServer) -> dict[str, Any]:
    """The seed's device, with a bare JID, and commands."""
    return {
        "jid": f"device@{server.domain}",
        "deviceNameExpression": "${serialNumber}",
        "deviceTypeExpression": "thermometer",
        "attributes": [{"key": "temperature", "value": "${temp}"}],
        "timeseries": [{"key": "humidity", "value": "${hum}"}, {"key": "combination", "value": "${temp}:${hum}"}],
        "attributeUpdates": [{"attributeOnThingsBoard": "shared"}],
        "serverSideRpc": [
            {"methodRPC": "rpc1", "withResponse": True, "valueExpression": "${params}"},
            {"methodRPC": "slow", "responseTimeoutMs": 300},
        ],
    }


class _SandboxTests:
    """`Gateway` with the sandbox in ThingsBoard's place, one device on `kind` of server."""

    kind = ""

    async def begin(self: Any, component: bool = False) -> Listener:
        """The gateway, connected to both; then the device, logged in. Its listener."""
        self.server = start(self.kind, self, {"gateway": "gw-secret-1", "device": "x"})
        account: dict[str, Any] = {
            "jid": f"gateway@{self.server.domain}/tbgw",
            "password": "gw-secret-1",
            "port": self.server.port,
            "tls": {"caCert": str(self.server.ca)},
        }
        if component:
            account = {
                "jid": self.server.component,
                "component": True,
                "password": self.server.component_secret,
                "port": self.server.component_port,
            }
        folder = Path(self.mktemp()).absolute()
        (folder / "etc").mkdir(parents=True)
        mqtt, http = free_port(), free_port()
        content = {
            "tb_gateway.json": {
                "thingsboard": {"host": "127.0.0.1", "port": mqtt, "security": {"accessTokenFile": "sandbox/token"}},
                "sandbox": {"enabled": True, "mqttPort": mqtt, "httpPort": http},
                "storage": {"type": "memory"},
                "connectors": [{"type": "xmpp", "name": "Site", "configuration": "site.json"}],
            },
            "site.json": {
                "server": {**account, "host": "127.0.0.1"},
                "devices": [device_entry(self.server)],
            },
        }
        for name, one in content.items():
            (folder / "etc" / name).write_text(json.dumps(one))
        (folder / "etc" / "ca.pem").write_bytes(self.server.ca.read_bytes())
        self.gateway = Gateway(load(folder / "etc", folder, {}), reactor)
        self.published: list[tuple[str, Any]] = []
        publish = self.gateway.downlink._publish

        def remembered(topic: str, payload: bytes) -> Any:
            self.published.append((topic, json.loads(payload)))
            return publish(topic, payload)

        self.gateway.downlink._publish = remembered
        self.gateway.events._later = None  # lines that are held back would be told after the test
        self.gateway.startService()
        self.addCleanup(self.gateway.stopService)
        await self.until(lambda: self.gateway.uplink.connected)
        await self.until(lambda: self.gateway.connectors[0].status()["connected"])
        self.device, listener, _ = await self.up(self.server, "device")
        return listener  # type: ignore[no-any-return] # a mix-in

    async def until(self: Any, condition: Any) -> None:
        """Let the reactor run until it holds."""
        end = reactor.seconds() + 60
        while not condition():
            if reactor.seconds() > end:
                state = self.gateway.connectors[0].status(), self.gateway.events.counters.snapshot()
                self.fail(f"not in 60 s: {state}, published {self.published}, {self.shown('TMP-9')}")
            await deferLater(reactor, 0.01, lambda: None)

    def shown(self: Any, name: str) -> dict[str, Any]:
        """The device as the sandbox's page shows it; empty while there is none."""
        return next((one for one in self.gateway._sandbox.view.devices() if one["name"] == name), {})

    def value(self: Any, key: str) -> Any:
        """The last value of a time series of TMP-9; None while there is none."""
        return self.shown("TMP-9").get("telemetry", {}).get(key, {}).get("value")

    def push(self: Any, topic: str, content: Any) -> Deferred[int]:
        """ThingsBoard says something to the gateway."""
        pushed: Deferred[int] = self.gateway._sandbox.push("Gateway", topic, payloads.encode(content))
        return pushed

    def say(self: Any, text: str, **more: str) -> None:
        """The device writes to the gateway."""
        self.device.send(message(f"gateway@{self.server.domain}/tbgw", text, **more))

    async def test_both_directions(self: Any) -> None:
        """The seed's message, an update, a command with the device's answer, one without; presence and strangers."""
        listener = await self.begin()
        await self.until(lambda: self.gateway.connectors[0].status()["link"]["stanzasReceived"] > 0)
        self.say(json.dumps({"serialNumber": "TMP-9", "temp": 19.4, "hum": 61}))
        await self.until(lambda: "combination" in self.shown("TMP-9").get("telemetry", {}))
        shown = self.shown("TMP-9")
        self.assertEqual(shown["telemetry"]["humidity"]["value"], 61)
        self.assertEqual(shown["telemetry"]["combination"]["value"], "19.4:61")
        self.assertEqual(shown["attributes"]["temperature"]["value"], 19.4)
        self.assertEqual(shown["profile"], "thermometer")

        await self.push(topics.ATTRIBUTES, {"device": "TMP-9", "data": {"shared": 21, "other": 1}})
        self.assertEqual(await listener.until_bodies(1), ['{"shared":"21"}'])

        command = {"device": "TMP-9", "data": {"id": 3, "method": "rpc1", "params": {"open": True}}}
        await self.push(topics.RPC, command)
        await listener.until_bodies(2)
        asked = listener.stanzas[-1]
        self.assertEqual(body(asked), '{"open":true}')
        answer = message(asked["from"], '{"state": "open"}')
        answer.addElement("thread", content=str(next(asked.elements(asked.uri, "thread"))))
        self.device.send(answer)
        await self.until(lambda: self.published)
        self.assertEqual(self.published.pop(), (topics.RPC, {"device": "TMP-9", "id": 3, "data": {"state": "open"}}))

        await self.push(topics.RPC, {"device": "TMP-9", "data": {"id": 4, "method": "slow", "params": "x"}})
        await self.until(lambda: self.published)
        self.assertIn("time-out", self.published.pop()[1]["data"]["error"])
        await self.until(lambda: self.shown("TMP-9")["attributes"].get("xmppReplyCode", {}).get("value") == 408)

        await self.push(topics.RPC, {"device": "TMP-9", "data": {"id": 5, "method": "nothing", "params": None}})
        await self.until(lambda: self.published)
        self.assertIn("unknown method", self.published.pop()[1]["data"]["error"])

        too_large = {"device": "TMP-9", "data": {"id": 6, "method": "rpc1", "params": "x" * 60_000}}
        await self.push(topics.RPC, too_large)
        await listener.until_bodies(4)
        self.say('{"ok": 1}')
        await self.until(lambda: self.published)
        self.published.clear()

    async def test_presence(self: Any) -> None:
        """The device asks for our presence, is accepted and asked in turn; then its own connects it, and ends it."""
        listener = await self.begin()
        bare = f"gateway@{self.server.domain}"
        self.say(json.dumps({"serialNumber": "TMP-9", "temp": 1, "hum": 2}))
        await self.until(lambda: self.shown("TMP-9"))
        self.device.send(presence(to=bare, type="subscribe"))

        def has(sender: str, kind: str | None) -> bool:
            return any(
                one.name == "presence" and one.getAttribute("type") == kind and one.getAttribute("from") == sender
                for one in listener.stanzas
            )

        # Servers tell "subscribed" itself only to who has asked for the roster; the presence shows that it was said.
        await listener.until(lambda: has(f"{bare}/tbgw", None) and has(bare, "subscribe"))
        self.device.send(presence(to=bare, type="subscribed"))
        await self.until(lambda: self.shown("TMP-9")["attributes"].get("xmppStatus", {}).get("value") == "online")
        away = Element((None, "presence"))
        away.addElement("show", content="away")
        away.addElement("status", content="asleep")
        self.device.send(away)
        await self.until(lambda: self.shown("TMP-9")["attributes"]["xmppStatus"]["value"] == "away")
        self.assertEqual(self.shown("TMP-9")["attributes"]["xmppStatusText"]["value"], "asleep")
        self.assertTrue(self.shown("TMP-9")["connected"])
        await self.device.stopService()
        await self.until(lambda: not self.shown("TMP-9")["connected"])
        self.assertEqual(self.shown("TMP-9")["attributes"]["xmppStatus"]["value"], "offline")
        await self.push(topics.RPC, {"device": "TMP-9", "data": {"id": 7, "method": "rpc1", "params": 1}})
        await self.until(lambda: self.published)
        self.assertEqual(self.published[-1][1]["data"], {"error": "gone: the device is offline", "code": 503})


    async def test_two_resources(self: Any) -> None:
        """Two resources of one account are one device; a command goes to the one that spoke last."""
        first = await self.begin()
        jid = f"device@{self.server.domain}/second"
        link, second, _ = self.link(self.settings(self.server, "device", jid=jid))
        await second.next_up()
        for number, one in ((1, self.device), (2, link)):
            reading = {"serialNumber": "TMP-9", "temp": number, "hum": number}
            one.send(message(f"gateway@{self.server.domain}/tbgw", json.dumps(reading)))
            await self.until(lambda n=number: self.value("humidity") == n)
        await self.push(topics.RPC, {"device": "TMP-9", "data": {"id": 3, "method": "rpc1", "params": "state?"}})
        await second.until_bodies(1)
        self.assertEqual(first.bodies, [])
        link.send(message(f"gateway@{self.server.domain}/tbgw", "open"))
        await self.until(lambda: self.published)
        self.assertEqual(self.published.pop()[1]["data"], "open")

    async def test_component(self: Any) -> None:
        """As a server component: any name before our domain is us; presence, readings, commands as ever."""
        listener = await self.begin(component=True)
        domain = self.server.component
        self.device.send(message(f"anything@{domain}/x", json.dumps({"serialNumber": "TMP-9", "temp": 1, "hum": 2})))
        await self.until(lambda: "humidity" in self.shown("TMP-9").get("telemetry", {}))
        self.device.send(presence(to=domain, type="subscribe"))
        await listener.until(
            lambda: any(one.name == "presence" and one.getAttribute("type") == "subscribe" for one in listener.stanzas)
        )
        self.device.send(presence(to=domain, type="subscribed"))
        await self.until(lambda: self.shown("TMP-9")["attributes"].get("xmppStatus", {}).get("value") == "online")
        await self.push(topics.RPC, {"device": "TMP-9", "data": {"id": 3, "method": "rpc1", "params": "state?"}})
        await listener.until_bodies(1)
        asked = next(one for one in listener.stanzas if body(one) == "state?")
        self.device.send(message(asked["from"], "open"))
        await self.until(lambda: self.published)
        self.assertEqual(self.published.pop()[1]["data"], "open")


class ProsodySandbox(_SandboxTests, LinkCase):
    """Over prosody."""

    kind = "prosody"


class EjabberdSandbox(_SandboxTests, LinkCase):
    """Over ejabberd."""

    kind = "ejabberd"
