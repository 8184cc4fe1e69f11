"""Rows of the catalogue of scenarios (spec thingsboard-mqtt, 8; docs/scenarios.md) at the gateway's own pipeline: the
devices behind it. `test_client_rows` has those of its connection and its own device. The other end is the sandbox."""

from __future__ import annotations

import json
from typing import Any, Literal

from twisted.internet.defer import Deferred, succeed

from tbgw.model import Device, Draft, Reading
from tbgw.mqtt.packets import PubAck, Publish
from tbgw.pipeline.activity import ChildSessions
from tbgw.sandbox.control import Refused
from tbgw.sandbox.switches import STRATEGIES
from tbgw.thingsboard import topics
from tests.pipeline.test_downlink import FakeConnector
from tests.sandbox.gateway import GatewayCase
from tests.sandbox.test_rows import C, S, V


class ChildrenCase(GatewayCase):
    """A connector that has the devices A and B."""

    def setUp(self) -> None:
        super().setUp()
        self.connector = FakeConnector()
        self.downlink.set_connectors([self.connector])
        self.places |= {"A": "Line", "B": "Line"}

    def done(self, deferred: Any) -> Any:
        """What it fires with."""
        self.settle()
        return self.successResultOf(deferred)

    def published(self, topic: str) -> list[Any]:
        """What was said on a topic, on the latest connection."""
        return [json.loads(one.payload) for one in self.packets() if isinstance(one, Publish) and one.topic == topic]

    def leave(self, topic: str, payload: bytes, *devices: str) -> None:
        """A row that no code of ours would make."""
        rows, _ = self.spool.append([Draft(topic, payload, devices, 1, 1)])
        self.forwarder.appended(rows)
        self.pass_time(1, 0.1)

    @property
    def buried(self) -> list[tuple[str, str]]:
        """(topic, reason) of the dead letters."""
        return [(letter.row.topic, letter.reason) for letter in self.dead.dead_letters(0, 1 << 30)]


class DataRows(ChildrenCase):
    """8.7 and what 8.13 and 8.14 say of it, on MQTT 5."""

    def test_rows_57_63_and_65(self) -> None:
        """Two points of each key of two devices at their times, and client attributes of both, of every type."""
        for name in ("A", "B"):
            for ts_ms in (10_000, 20_000):
                self.said(name, V, ts_ms, **V)
        for name in ("A", "B"):
            for key, value in V.items():
                self.assertEqual(self.view.history(name, key, 0), [(10_000, value), (20_000, value)])
            self.assertEqual(self.attributes(name), V)

    def test_rows_58_and_59(self) -> None:
        """Each device is announced with its profile before its first data, once."""
        for value in (1, 2):
            self.say(t=value)
        self.assertEqual(self.published(topics.CONNECT), [{"device": "A", "type": "thermo"}])
        self.assertEqual((self.shown("A")["profile"], self.shown("A")["connected"]), ("thermo", True))
        self.assertEqual(self.control.device_as_json("A")["lastGateway"], "Gateway")

    def test_row_60(self) -> None:
        """Our payloads bear no `metadata`, so that the server has no latencies to tell."""
        for value in range(5):
            self.say(t=value)
        self.pass_time(61)
        self.assertNotIn("gatewayMetrics", self.latest("Gateway"))
        self.assertEqual({key for said in self.published(topics.TELEMETRY) for key in said["A"][0]}, {"ts", "values"})

    def test_row_61(self) -> None:
        """
        No room for one more device: what it says is tried again and in the end put aside on MQTT 5, and taken for
        stored on 3.1.1, where nobody says otherwise; either way the others' data arrive.
        """
        self.say(t=0)
        self.platform.limits = type(self.limits)(max_devices=3)
        self.said("B", {"t": 1})
        for value in range(1, 200):
            self.say(t=value)
            self.pass_time(10)
        self.assertEqual(self.latest("A"), {"t": 199})
        self.assertNotIn("B", [device["name"] for device in self.view.devices()])
        self.assertEqual(self.spool.stored_rows, 0)
        expected = [topics.ATTRIBUTES, topics.TELEMETRY] if self.version == 5 else []
        self.assertEqual([topic for topic, _ in self.buried], expected)

    def test_rows_62_139_149_and_151(self) -> None:
        """
        Rows that ThingsBoard cannot take, if there ever were one: malformed, to an unknown topic, with a time that is
        none, good and bad parts in one. On MQTT 5 each goes to the dead letters with its reason, and nothing else is
        disturbed; on 3.1.1 a row that ends the session does, once it has been found out, and an unknown topic is not
        told.
        """
        for number, (topic, payload, devices) in enumerate(
            (
                (topics.TELEMETRY, b'{"A":[{"ts":', ("A",)),
                ("v1/gateway/unknown", b"{}", ()),
                (topics.TELEMETRY, b'{"A":[{"ts":null,"values":{"a":1}}]}', ("A",)),
                (topics.TELEMETRY, b'{"A":[{"ts":1,"values":{"a":2}}],"B":[{"ts":1,"values":5}]}', ("A", "B")),
            )
        ):
            before = len(self.buried)
            self.leave(topic, payload, *devices)
            for value in range(20):
                self.say(t=100 * number + value)
                self.pass_time(10)
            self.assertEqual(self.view.history("A", "t", 0)[-1][1], 100 * number + 19)
            self.assertEqual(self.spool.stored_rows, 0)
            told = self.version == 5 or topic == topics.TELEMETRY
            self.assertEqual(len(self.buried), before + told, payload)
            if self.version == 5:
                self.assertEqual((self.buried[-1], len(self.dial.wires)), ((topic, "refused"), 1))
        self.assertEqual(self.view.history("A", "a", 0), [(1, 2)])

    def test_row_66(self) -> None:
        """A device that is deleted while we speak for it is there again with what it says next."""
        self.say(t=1)
        self.control.delete("A")
        self.settle()
        self.said("A", {"t": 2})
        self.assertEqual(self.latest("A"), {"t": 2})
        self.assertEqual(self.control.device_as_json("A")["lastGateway"], "Gateway")

    def test_rows_122_and_154(self) -> None:
        """A device comes and goes; the end of one that the server does not know any more is acknowledged as well."""
        self.say(t=1)
        device = Device("A", "thermo")
        self.ingest.disconnected(device)
        self.pass_time(0.1)
        self.assertFalse(self.shown("A")["connected"])
        self.say(t=2)
        self.assertTrue(self.shown("A")["connected"])
        self.pass_time(900)
        self.assertFalse(self.shown("A")["connected"])
        self.forwarder.set_sessions(ChildSessions(self.clock, "reconnect", self.forwarder.refresh))
        self.forwarder.refresh("A", True)
        self.pass_time(1)
        self.assertTrue(self.shown("A")["connected"])
        self.assertEqual(self.published(topics.DISCONNECT), [{"device": "A"}] * 2)
        self.assertEqual((len(self.dial.wires), self.spool.stored_rows), (1, 0))

    def test_row_124(self) -> None:
        """What the SDK's gateway client says of a device: a dictionary of values, and attributes."""
        self.said("A", {"t": 1.5}, model="X", serial=7)
        self.assertEqual((self.latest("A"), self.attributes("A")), ({"t": 1.5}, {"model": "X", "serial": 7}))

    def test_row_135(self) -> None:
        """Whatever was in flight when the session was cut comes again marked as such, and is stored once."""
        self.say(t=0)
        self.control.set_switches({"close_instead_of_puback": True})
        self.say(t=1)
        self.control.set_switches({"close_instead_of_puback": False})
        self.pass_time(30)
        again = [one for one in self.packets() if isinstance(one, Publish) and one.topic == topics.TELEMETRY]
        self.assertEqual({one.dup for one in again}, {True})
        self.assertEqual([value for _, value in self.view.history("A", "t", 0)], [0, 1])


    def test_row_118(self) -> None:
        """
        A number that the server refuses, from a device: that reading goes to the dead letters, no other does. From the
        gateway itself, which is told it: no reading is blamed for the sessions that it ends on 3.1.1.
        """
        self.control.set_switches({"type_cast": False})
        self.say(t=0)
        self.say(big=2**64)
        for value in range(1, 20):
            self.say(t=value, s="007")
            self.pass_time(15)
        self.assertEqual((self.latest("A"), len(self.buried)), ({"t": 19, "s": "007"}, 1))
        told = self.own.publish_telemetry({"big": 2**64})
        for value in range(20, 60):
            self.say(t=value)
        self.pass_time(60)
        self.assertTrue(self.successResultOf(told))
        self.assertEqual([value for _, value in self.view.history("A", "t", 0)], list(range(60)))
        self.assertEqual((len(self.buried), self.spool.stored_rows, self.uplink.connected), (1, 0, True))

    def test_row_148(self) -> None:
        """
        A gateway that is none in ThingsBoard: its data are met with silence. They are kept, the gateway's own device
        works, and all arrives once it is a gateway.
        """
        self.control.set_gateway("Gateway", gateway=False)
        self.control.cut()
        self.pass_time(5)
        for value in range(3):
            self.say(t=value)
        self.pass_time(600)
        self.own.publish_telemetry({"a": 1})
        self.settle()
        self.assertEqual(self.latest("Gateway"), {"a": 1})
        self.assertNotIn("A", [device["name"] for device in self.view.devices()])
        self.control.set_gateway("Gateway", gateway=True)
        self.pass_time(300)
        self.assertEqual([value for _, value in self.view.history("A", "t", 0)], [0, 1, 2])
        self.assertEqual((self.spool.stored_rows, self.buried), (0, []))

    def test_row_152(self) -> None:
        """Servers up to 4.2 acknowledge a message once for each device in it: the others mean nothing."""
        self.control.set_switches({"puback_per_device": True})
        self.dial.refusing = True
        self.control.cut()
        self.settle()
        for value in range(20):
            for name in ("A", "B", "C"):
                self.ingest.accept(Reading(Device(name, "thermo"), ((self.now_ms(), {"t": value}),)))
            self.pass_time(0.1, 0.02)
        self.dial.refusing = False
        self.pass_time(60)
        for name in ("A", "B", "C"):
            self.assertEqual([value for _, value in self.view.history(name, "t", 0)], list(range(20)))
        several = [said for said in self.published(topics.TELEMETRY) if len(said) == 3]
        self.assertGreater(len(several), 10)
        self.assertEqual((self.spool.stored_rows, len(self.dial.wires)), (0, 2))


class DataRows311(DataRows):
    """The same on MQTT 3.1.1."""

    version = 4


class DownlinkRows(ChildrenCase):
    """8.8, 8.9 and what 8.11 and 8.13 say of children, on MQTT 5."""

    def test_rows_68_69_and_125(self) -> None:
        """Shared attributes of a device, set and deleted: the connector that has it is told, device by device."""
        for name in ("A", "B"):
            self.said(name, {"t": 1})
        self.control.set_attributes("A", S)
        self.control.delete_attributes("A", ["sharedJson"])
        self.control.set_attributes("B", {"attr": 5})
        self.settle()
        expected = [
            ("attributes", "A", S, []),
            ("attributes", "A", {}, ["sharedJson"]),
            ("attributes", "B", {"attr": 5}, []),
        ]
        self.assertEqual(self.connector.calls, expected)

    def test_rows_71_to_75_123_and_156(self) -> None:
        """A device asks for its attributes in either scope: several, one, one that is not there among them, none."""
        self.said("A", {}, None, **C, attr1=1, attr2=2)
        self.control.set_attributes("A", {**S, "attr": "hello"})
        device = Device("A", "thermo")
        questions: tuple[tuple[Literal["shared", "client"], tuple[str, ...], dict[str, Any]], ...] = (
            ("client", tuple(C), C),
            ("shared", tuple(S), S),
            ("client", ("attr1",), {"attr1": 1}),
            ("client", ("attr1", "attr2"), {"attr1": 1, "attr2": 2}),
            ("client", ("attr1", "undefined"), {"attr1": 1}),
            ("shared", ("attr",), {"attr": "hello"}),
            ("client", ("undefined",), {}),
        )
        for scope, keys, expected in questions:
            self.assertEqual(self.done(self.downlink.request_attributes(device, scope, keys)), expected)

    def test_rows_81_and_82(self) -> None:
        """A call that nobody was there for is over, and is not carried out when we come; one of nobody never comes."""
        self.downlink.set_own_commands(lambda method, params: self.fail("carried out"))
        self.say(t=1)
        self.dial.refusing = True
        self.control.cut()
        self.settle()
        called = [
            self.control.call(device, "open", two_way=two_way, timeout_ms=6000)
            for device in ("A", "Gateway")
            for two_way in (True, False)
        ]
        self.pass_time(7)
        self.assertEqual([self.successResultOf(one).status for one in called], [504] * 4)
        error = self.assertRaises(Refused, self.control.call, "Nobody", "open")
        self.assertEqual(error.status, 404)
        self.dial.refusing = False
        self.pass_time(60)
        self.say(t=2)
        self.assertEqual((self.latest("A"), self.connector.calls), ({"t": 2}, []))

    def test_row_87(self) -> None:
        """
        A server that closes the session when a PUBACK is late has no reason to: ours goes out before the command is
        carried out, however long that takes.
        """
        self.control.set_switches({"close_on_rpc_timeout": True})
        self.say(t=1)
        running: list[Deferred[Any]] = []

        def begin(*_: Any) -> Deferred[Any]:
            running.append(Deferred())
            return running[-1]

        self.connector.answer = begin
        self.downlink.set_own_commands(begin)
        calls = [
            json.loads(self.done(self.control.call(name, "slow", persistent=True, retries=0, expires_in_ms=10**7)).body)
            for name in ("A", "Gateway")
        ]
        self.settle()
        self.assertEqual(len(running), 2)
        self.assertTrue([one for one in self.packets() if isinstance(one, PubAck)])
        self.pass_time(60)
        self.assertEqual((self.uplink.connected, len(self.dial.wires)), (True, 1))
        for one in running:
            one.callback("done")
        self.settle()
        for call in calls:
            found = self.control.persistent_call(call["rpcId"])
            self.assertEqual((found["status"], found["response"]), ("SUCCESSFUL", "done"))

    def test_rows_84_to_86(self) -> None:
        """
        Ten persistent calls that waited for us, to a device and to the gateway, one-way and two-way, with each of the
        server's strategies: carried out in their order, each once, and brought to their end.
        """
        asked: list[tuple[str, str]] = []

        def own(method: str, params: Any) -> Deferred[Any]:
            asked.append(("Gateway", method))
            return succeed({"said": method})

        self.downlink.set_own_commands(own)
        self.connector.answer = lambda: succeed({"said": self.connector.calls[-1][1]})
        self.say(t=1)
        for strategy in STRATEGIES:
            self.control.set_switches({"rpc_strategy": strategy})
            for name in ("A", "Gateway"):
                for two_way in (False, True):
                    self.dial.refusing = True
                    self.control.cut()
                    self.settle()
                    answers = [
                        self.control.call(name, f"m{n}", two_way=two_way, persistent=True, expires_in_ms=10**8)
                        for n in range(10)
                    ]
                    calls = [json.loads(self.successResultOf(answer).body)["rpcId"] for answer in answers]
                    self.dial.refusing = False
                    asked.clear()
                    self.connector.calls.clear()
                    self.pass_time(120)
                    carried_out = asked or [(device, method) for device, method, _ in self.connector.calls]
                    self.assertEqual(carried_out, [(name, f"m{n}") for n in range(10)], (strategy, name, two_way))
                    found = [self.control.persistent_call(call) for call in calls]
                    # The server does not watch for PUBACKs of what is for a device behind a gateway (3.7).
                    end = "SUCCESSFUL" if two_way else "SENT" if name == "A" else "DELIVERED"
                    self.assertEqual({one["status"] for one in found}, {end})
                    if two_way:
                        self.assertEqual([one["response"] for one in found], [{"said": f"m{n}"} for n in range(10)])

    def test_rows_88_and_89(self) -> None:
        """One-way and two-way calls to a device, with their parameters as they are; the answer is the device's."""
        self.say(t=1)
        self.connector.answer = lambda: succeed({"success": True})
        self.assertEqual(self.done(self.control.call("A", "toggle_gpio", {"pin": 1}, two_way=False)), (200, ""))
        answer = self.done(self.control.call("A", "toggle_gpio", {"pin": 2}))
        self.assertEqual((answer.status, json.loads(answer.body)), (200, {"success": True}))
        self.assertEqual(self.connector.calls, [("A", "toggle_gpio", {"pin": 1}), ("A", "toggle_gpio", {"pin": 2})])

    def test_row_103(self) -> None:
        """A device claims itself, and is brought into being on the way: with a secret, over, and without one."""
        device = Device("A", "thermo")
        self.done(self.downlink.claim(device, "value", 1))
        self.pass_time(0.1)
        self.assertEqual(self.control.claim("A", "Customer", "value"), "FAILURE")
        self.done(self.downlink.claim(device, "value", 60_000))
        self.assertEqual(self.control.claim("A", "Customer", "value"), "SUCCESS")
        self.assertEqual(self.control.claim("A", "Customer", "value"), "CLAIMED")
        self.done(self.downlink.claim(Device("B", "pump")))
        self.assertEqual(self.control.claim("B", "Customer"), "SUCCESS")
        self.assertEqual([self.shown(name)["profile"] for name in ("A", "B")], ["thermo", "pump"])


class DownlinkRows311(DownlinkRows):
    """The same on MQTT 3.1.1."""

    version = 4
