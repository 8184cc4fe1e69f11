"""Sensor data and control over prosody and ejabberd: with slixmpp's device roles, which speak the old forms, and with a
device of our own for what slixmpp lacks.

slixmpp 1.17 cannot send history (TypeError in its own timer), and of several fields that are asked for only the last.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.words.xish.domish import Element

from tbgw.connectors.xmpp import stanzas
from tbgw.connectors.xmpp.connector import XMPPConnector
from tbgw.connectors.xmpp.link import XMPPLink
from tbgw.errors import CommandFailed
from tbgw.model import Device
from tests.connectors.socket.fakes import RecordingIngest
from tests.connectors.xmpp.fakes import ALL_PLUGINS, CONTROL, SENSOR, device, element
from tests.connectors.xmpp.links import LinkCase, Listener, NotedEvents, presence
from tests.programs import Program
from tests.xmppservers import XMPPServer, start

reactor: Any = real_reactor
ROOT = Path(__file__).resolve().parents[3]
POINTS: dict[str, Any] = {"timeseries": [{"key": "v", "value": "${v}"}], "deviceNameExpression": "Meter"}


class IoTCase(LinkCase):
    """A connector on a real link."""

    kind = ""

    async def begin(self, **entry: Any) -> XMPPServer:
        """The server, and the connector logged in to it."""
        server = start(self.kind, self, {"gateway": "gw", "meter": "m"})
        self.ingest, self.noted = RecordingIngest(), NotedEvents()
        link = XMPPLink("Site", self.settings(server), self.noted, reactor)
        config = device(jid=f"meter@{server.domain}", **{**POINTS, **entry})
        template = Device(config.name, config.profile, "Site", "xmpp")
        self.connector = XMPPConnector(
            "Site", [(config, template)], link, ALL_PLUGINS, self.ingest, self.noted, reactor,
            lambda: int(time.time() * 1000),
        )  # fmt: skip
        self.connector.startService()
        self.addCleanup(self.connector.stopService)
        await self.until(lambda: link.connected)
        return server

    async def until(self, condition: Any) -> None:
        end = reactor.seconds() + 60
        while not condition():
            if reactor.seconds() > end:
                self.fail(f"not in 60 s: {self.connector.status()}, {self.ingest.readings}, {self.noted.told}")
            await deferLater(reactor, 0.01, lambda: None)

    def ask(self, method: str, params: Any = None) -> Deferred[Any]:
        return self.connector.command("Meter", method, params)

    async def refused(self, method: str, params: Any) -> str:
        """The words in which it fails."""
        try:
            answer = await self.ask(method, params)
        except CommandFailed as error:
            return str(error)
        raise AssertionError(f"{answer} where a refusal was due")

    def online(self) -> bool:
        return bool(self.connector.status()["presence"]["online"])

    def attribute(self, key: str) -> Any:
        """The last value of an attribute."""
        found = [one.attributes[key] for one in self.ingest.readings if key in one.attributes]
        return found[-1] if found else None


class _Slixmpp:
    """With slixmpp as the device."""

    async def begin_with_device(self: Any, **entry: Any) -> Program:
        server = await self.begin(**entry)
        program = Program(
            self,
            [
                sys.executable, "-m", "tests.connectors.xmpp.slixmpp_device", f"meter@{server.domain}/slix", "m",
                str(server.port), str(server.ca), f"gateway@{server.domain}",
            ],
            env={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        await self.until(self.online)
        return program

    async def test_all(self: Any) -> None:
        """Presence, read-out of its types, refusals, control by iq and message, messages, receipts."""
        program = await self.begin_with_device()
        found = await self.ask("xmpp_read", {"nodes": ["meter"]})
        values = {one["name"]: one["value"] for one in found["fields"]}
        expected = {
            "Temperature": 21.5, "Open": True, "Name": "Line 4", "Mode": "eco", "Set": "2026-01-01T10:00:00",
            "Uptime": "P1D",
        }  # fmt: skip
        self.assertEqual(values, expected)
        flags = [one["flags"] for one in found["fields"] if one["name"] == "Temperature"]
        self.assertEqual(flags, [["automaticReadout", "momentary"]])
        self.assertEqual(self.attribute("Temperature_unit"), "C")
        one = await self.ask("xmpp_read", {"fields": ["Open"]})
        self.assertEqual([field["name"] for field in one["fields"]], ["Open"])
        self.assertIn("Invalid nodeId nowhere", await self.refused("xmpp_read", {"nodes": ["nowhere"]}))
        self.assertIn("Invalid field Nothing", await self.refused("xmpp_read", {"fields": ["Nothing"]}))

        self.assertEqual(await self.ask("xmpp_control", {"Relay": True}), {"success": True})
        await deferToThread(program.wait_for, "Relay is true")
        await self.ask("xmpp_control", {"parameters": {"Relay": False, "Level": 7}, "by": "message"})
        await deferToThread(program.wait_for, "Level is 7")
        self.assertIn("item-not-found", await self.refused("xmpp_control", {"Nothing": 1}))
        self.assertIn("item-not-found", await self.refused("xmpp_control", {"Relay": 5}))
        self.assertEqual(self.attribute("xmppReplyCode"), 404)

        features = await self.ask("xmpp_features")
        self.assertLessEqual({SENSOR, CONTROL}, set(features["features"]))
        self.assertEqual(await self.ask("get", "value=hello;"), {"result": "heard hello"})
        version = await self.ask("xmpp_request", {"iq": "get", "xml": "<ping xmlns='urn:xmpp:ping'/>"})
        self.assertTrue(version["successful"], version)

        await self.ask("set", {"value": 'send {"v": 42}'})
        await deferToThread(program.wait_for, "receipt")
        self.assertIn(42, self.ingest.values("v"))

        program.kill()
        await self.until(lambda: not self.online())
        self.assertIn(("disconnected", "Meter"), self.ingest.log)

    async def test_period(self: Any) -> None:
        """On its period, without being told."""
        program = await self.begin_with_device(readout={"periodSeconds": 1})
        await self.until(lambda: len(self.ingest.values("Temperature")) >= 2)
        program.kill()


class _OwnDevice:
    """With a device of our own, which speaks the new forms and says whatever the test wants."""

    async def begin_with_device(self: Any, answers: Any, **entry: Any) -> Listener:
        """`answers(request, payload)`: stanzas to send, as XML or elements, in order. The device's listener."""
        server = await self.begin(**entry)
        link, listener, _ = self.link(self.settings(server, "meter"))

        def answer(stanza: Element) -> None:
            payload = stanza.firstChildElement()
            if stanza.name == "presence" and stanza.getAttribute("type") == "subscribe":
                link.send(presence(to=stanza["from"], type="subscribed"))
            elif stanza.name == "iq" and payload is not None:
                for one in answers(stanza, payload):
                    made = element(one) if isinstance(one, str) else one
                    made["to"] = stanza["from"]
                    link.send(_without_namespace(made))

        listener.answer = answer
        await listener.next_up()
        link.advertise([SENSOR, CONTROL])
        link.send(presence(to=f"gateway@{server.domain}", type="subscribe"))
        await self.until(self.online)
        return listener  # type: ignore[no-any-return] # a mix-in

    async def test_new_forms(self: Any) -> None:
        """Queued, started, data in parts, a failing node, done; refusals with conditions; cancel; form; control."""
        cancelled: list[str] = []

        def answers(request: Element, payload: Element) -> Any:
            result = stanzas.result(request)
            seqnr = payload.getAttribute("seqnr", "")
            own = f"xmlns='{SENSOR}' seqnr='{seqnr}'"
            if payload.name == "req":
                nodes = [one["nodeId"] for one in payload.elements() if one.name == "node"]
                if nodes == ["none"]:
                    return [stanzas.error(request, "item-not-found", "No such node.")]
                result.addChild(element(f"<accepted {own} queued='true'/>"))
                if nodes == ["slow"]:
                    return [result]
                return [
                    result,
                    f"<message><started {own}/></message>",
                    f"<message><fields {own}><node nodeId='a'><timestamp value='2026-01-01T00:00:00Z'>"
                    "<int name='Count' value='5' momentary='true'/></timestamp></node></fields></message>",
                    f"<message><failure {own}><error nodeId='b' timestamp='2026-01-01T00:00:00Z'>No answer.</error>"
                    "</failure></message>",
                    f"<message><fields {own}><node nodeId='a'><timestamp value='2026-01-01T00:00:01Z'>"
                    "<duration name='Up' value='PT5S'/></timestamp></node></fields></message>",
                    f"<message><done {own}/></message>",
                ]
            if payload.name == "cancel":
                cancelled.append(seqnr)
                result.addChild(element(f"<cancelled {own}/>"))
                return [result]
            if payload.name == "getForm":
                field = "<field var='Relay' type='boolean'><value>true</value></field>"
                result.addChild(element(f"<x xmlns='jabber:x:data' type='form'>{field}</x>"))
                return [result]
            if payload.name == "set":
                names = [one.getAttribute("name") for one in payload.elements()]
                if names == ["Locked"]:
                    error = stanzas.error(request, "conflict")
                    error.addChild(element(f"<paramError xmlns='{CONTROL}' var='Locked'>In use.</paramError>"))
                    return [error]
                if names == ["Stuck"]:
                    return []
                result.addChild(element(f"<setResponse xmlns='{CONTROL}'/>"))
                return [result]
            return [stanzas.error(request, "service-unavailable")]

        listener = await self.begin_with_device(answers, readout={"periodSeconds": 0})
        await self.until(lambda: self.attribute("xmppFeatures") is not None)
        self.assertIn(SENSOR, self.attribute("xmppFeatures"))
        found = await self.ask("xmpp_read")
        fields = [(one["name"], one["value"], one["type"], one["ts"] % 86_400_000) for one in found["fields"]]
        self.assertEqual(fields, [("Count", 5, "int", 0), ("Up", "PT5S", "duration", 1000)])
        self.assertEqual(found["errors"], [{"node": "b", "error": "No answer."}])
        self.assertEqual(self.ingest.values("Count"), [5])
        words = await self.refused("xmpp_read", {"nodes": ["none"]})
        self.assertIn("item-not-found: No such node.", words)
        words = await self.refused("xmpp_read", {"nodes": ["slow"], "timeoutMs": 300})
        self.assertIn("time-out", words)
        await self.until(lambda: cancelled)
        self.assertEqual((await self.ask("xmpp_form"))["fields"][0]["value"], True)
        self.assertEqual(await self.ask("xmpp_control", {"Relay": True}), {"success": True})
        by_form = {"parameters": {"Relay": True}, "by": "form"}
        self.assertEqual(await self.ask("xmpp_control", by_form), {"success": True})
        await self.ask("xmpp_control", {"parameters": {"Relay": False}, "nodes": ["a"], "by": "message"})

        def told() -> list[Element]:
            messages = [one for one in listener.stanzas if one.name == "message"]
            return [child for one in messages for child in one.elements(CONTROL, "set")]

        await listener.until(told)
        self.assertEqual([one.name for one in told()[0].elements()], ["node", "boolean"])
        self.assertIn("conflict: Locked: In use.", await self.refused("xmpp_control", {"Locked": 1}))
        self.assertIn("time-out", await self.refused("xmpp_control", {"parameters": {"Stuck": 1}, "timeoutMs": 200}))


def _without_namespace(stanza: Element) -> Element:
    """`element` makes stanzas of the client's namespace; the link sends such as have none."""
    made = Element((None, stanza.name))
    for name, value in stanza.attributes.items():
        made[name] = value
    for child in stanza.elements():
        if child.uri == "jabber:client":
            child.uri = child.defaultUri = None
        made.addChild(child)
    return made


class ProsodySlixmpp(_Slixmpp, IoTCase):
    """Over prosody."""

    kind = "prosody"


class EjabberdSlixmpp(_Slixmpp, IoTCase):
    """Over ejabberd."""

    kind = "ejabberd"


class ProsodyOwn(_OwnDevice, IoTCase):
    """Over prosody."""

    kind = "prosody"


class EjabberdOwn(_OwnDevice, IoTCase):
    """Over ejabberd."""

    kind = "ejabberd"


