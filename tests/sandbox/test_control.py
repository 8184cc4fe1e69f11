"""What an operator does at ThingsBoard, and what the devices hear of it (spec, 2.6, 3, 4, 8.6 to 8.9)."""

from __future__ import annotations

import json

from tbgw.mqtt.packets import Disconnect, PubAck, Publish
from tbgw.sandbox.control import Refused
from tests.sandbox.operated import OperatedTests

ATTRIBUTES = "v1/devices/me/attributes"
RPC = "v1/devices/me/rpc/request/+"
NESTED = {"someNumber": 42, "someArray": [1, 2, 3], "someNestedObject": {"key": "value"}}
SHARED = {
    "sharedStr": "value1",
    "sharedBool": True,
    "sharedDbl": 42.0,
    "sharedLong": 73,
    "sharedJson": NESTED,
}
NOTICES = "v1/devices/me/rpc/request/"


class NoCallTests(OperatedTests):
    """What is no call."""

    def test_no_json(self):
        """Parameters that JSON has no form for are refused, and leave nothing behind for the device's next session."""
        refused = self.assertRaises(Refused, self.control.call, "Plain", "m", {"a": float("inf")}, persistent=True)
        self.assertEqual(refused.status, 400)
        device = self.connect("device-token")
        device.subscribe(RPC)
        self.assertEqual(device.received(), [])


class SharedAttributeTests(OperatedTests):
    """Shared attributes, set and deleted, at a device and at a gateway's children."""

    def test_pushed_with_their_types(self):
        """A device that subscribed hears of values set and keys deleted, one message for each change."""
        for topic in (ATTRIBUTES, "v2/a", "v2/a/j"):
            device = self.connect("device-token")
            device.subscribe(topic)
            self.control.set_attributes("Plain", SHARED)
            self.assertEqual(device.pushed(), [(topic, SHARED)])
            self.assertEqual(self.control.delete_attributes("Plain", ["sharedJson", "nothing"]), ["sharedJson"])
            self.assertEqual(device.pushed(), [(topic, {"deleted": ["sharedJson"]})])
            device.lose()

    def test_two_writes(self):
        """Two writes of one key are two messages, in order."""
        device = self.connect("device-token")
        device.subscribe(ATTRIBUTES)
        self.control.set_attributes("Plain", {"k": 1})
        self.control.set_attributes("Plain", {"k": 2})
        self.assertEqual(device.pushed(), [(ATTRIBUTES, {"k": 1}), (ATTRIBUTES, {"k": 2})])

    def test_not_subscribed(self):
        """Without a subscription, or after its end, nothing comes; what was written is there to be asked for."""
        device = self.connect("device-token")
        self.control.set_attributes("Plain", {"k": 1})
        self.assertEqual(device.received(), [])
        device.subscribe(ATTRIBUTES)
        self.assertEqual(device.received(), [])
        _, answer = device.publish("v1/devices/me/attributes/request/1", {"sharedKeys": "k"})
        self.assertEqual(json.loads(answer.payload), {"shared": {"k": 1}})

    def test_child(self):
        """A gateway hears of its child's attributes without any subscription, at QoS 1, or at the QoS that it chose."""
        gateway = self.connect()
        gateway.publish("v1/gateway/connect", {"device": "A", "type": "thermo"})
        self.control.set_attributes("A", SHARED)
        (push,) = gateway.received()
        self.assertEqual((push.topic, push.qos), ("v1/gateway/attributes", 1))
        self.assertEqual(json.loads(push.payload), {"device": "A", "data": SHARED})
        gateway.subscribe("v1/gateway/attributes", qos=0)
        self.control.delete_attributes("A", ["sharedJson"])
        (push,) = gateway.received()
        self.assertEqual(push.qos, 0)
        self.assertEqual(json.loads(push.payload), {"device": "A", "data": {"deleted": ["sharedJson"]}})

    def test_kept(self):
        """Shared attributes and their deletion outlive a restart of the sandbox."""
        self.control.set_attributes("Plain", SHARED)
        self.control.delete_attributes("Plain", ["sharedJson"])
        self.open()
        kept = {key: entry["value"] for key, entry in self.shown("Plain")["shared"].items()}
        self.assertEqual(kept, {key: value for key, value in SHARED.items() if key != "sharedJson"})

    def test_unknown_device(self):
        """An unknown device is a 404."""
        error = self.assertRaises(Refused, self.control.set_attributes, "Nobody", {"k": 1})
        self.assertEqual(error.status, 404)


class CallTests(OperatedTests):
    """RPC from the server."""

    def test_one_way(self):
        """Pushed in the server's member order, numbered from 0, and over as soon as it is on its way."""
        device = self.connect("device-token")
        device.subscribe(RPC, qos=0)
        done = self.control.call("Plain", "setGpio", {"pin": "23", "value": 1}, two_way=False)
        (push,) = device.received()
        self.assertEqual((push.topic, push.qos), (NOTICES + "0", 0))
        self.assertEqual(push.payload, b'{"method":"setGpio","params":{"pin":"23","value":1}}')
        self.assertEqual(self.successResultOf(done), (200, ""))

    def test_two_way(self):
        """The reply is the answer, as the device wrote it; the next call has the next number."""
        for stem, answer in (
            ("v1/devices/me/rpc/request/", "v1/devices/me/rpc/response/"),
            ("v2/r/req/", "v2/r/res/"),
            ("v2/r/req/j/", "v2/r/res/j/"),
        ):
            device = self.connect("device-token")
            device.subscribe(stem + "+")
            done = self.control.call("Plain", "setGpio", {"pin": "26", "value": 1})
            [(topic, body)] = device.pushed()
            self.assertTrue(topic.startswith(stem))
            self.assertEqual(body["params"]["pin"], "26")
            device.publish(answer + topic.removeprefix(stem), '{"value1":"A", "value2":"B"}')
            self.assertEqual(self.successResultOf(done), (200, '{"value1":"A", "value2":"B"}'))
            device.lose()

    def test_odd_replies(self):
        """A reply that is not JSON is a 406, an empty one an empty 200, one to an unknown number is dropped."""
        device = self.connect("device-token")
        device.subscribe(RPC)
        for number, (payload, expected) in enumerate((("no JSON", (406, "no JSON")), ("", (200, "")))):
            done = self.control.call("Plain", "get")
            device.pushed()
            self.assertEqual(device.code("v1/devices/me/rpc/response/99", "{}"), 0)
            self.assertEqual(device.code(f"v1/devices/me/rpc/response/{number}", payload), 0)
            self.assertEqual(self.successResultOf(done), expected)

    def test_offline(self):
        """Nobody there, or nobody answers: 504 after the time-out, of which there are at least five seconds."""
        done = self.control.call("Plain", "get", timeout_ms=1)
        self.clock.advance(4.9)
        self.assertNoResult(done)
        self.clock.advance(0.2)
        self.assertEqual(self.successResultOf(done), (504, "no active connection to the device"))
        device = self.connect("device-token")
        device.subscribe(RPC)
        done = self.control.call("Plain", "get", timeout_ms=6000)
        self.clock.advance(6.1)
        self.assertEqual(self.successResultOf(done), (504, "timeout"))

    def test_unknown_device(self):
        """404, in ThingsBoard's words."""
        error = self.assertRaises(Refused, self.control.call, "Nobody", "get")
        self.assertEqual((error.status, str(error)), (404, "Device with requested id wasn't found!"))

    def test_waits_for_the_device(self):
        """A call to a device that subscribes in time is delivered then."""
        done = self.control.call("Plain", "get")
        device = self.connect("device-token")
        self.assertEqual(device.pushed(device.subscribe(RPC)), [(NOTICES + "0", {"method": "get", "params": None})])
        device.publish("v1/devices/me/rpc/response/0", "5")
        self.assertEqual(self.successResultOf(done), (200, "5"))

    def test_sent_again(self):
        """Every new subscription brings what is not answered yet, with the same number."""
        device = self.connect("device-token")
        device.subscribe(RPC)
        self.control.call("Plain", "get")
        first = device.pushed()
        self.assertEqual(device.pushed(device.subscribe(RPC)), first)
        device.lose()
        device = self.connect("device-token")
        self.assertEqual(device.pushed(device.subscribe(RPC)), first)

    def test_child(self):
        """A call to a gateway's child, and its reply."""
        gateway = self.connect()
        gateway.publish("v1/gateway/connect", {"device": "A"})
        gateway.subscribe("v1/gateway/rpc", qos=0)
        done = self.control.call("A", "toggle_gpio", {"pin": 1})
        (push,) = gateway.received()
        self.assertEqual((push.topic, push.qos), ("v1/gateway/rpc", 0))
        self.assertEqual(
            json.loads(push.payload), {"device": "A", "data": {"id": 0, "method": "toggle_gpio", "params": {"pin": 1}}}
        )
        self.assertEqual(gateway.code("v1/gateway/rpc", {"device": "A", "id": 0, "data": {"success": True}}), 0)
        self.assertEqual(self.successResultOf(done), (200, '{"success":true}'))

    def test_child_that_comes_later(self):
        """A new child session brings what waits for the device, also once more."""
        gateway = self.connect()
        gateway.publish("v1/gateway/connect", {"device": "A"})
        gateway.publish("v1/gateway/disconnect", {"device": "A"})
        self.control.call("A", "get")
        self.assertEqual(gateway.received(), [])
        pushed = gateway.pushed(gateway.publish("v1/gateway/telemetry", {"A": [{"k": 1}]}))
        self.assertEqual([body["data"]["id"] for _, body in pushed], [0])


class PersistentCallTests(OperatedTests):
    """Persistent RPC: its statuses and strategies."""

    def begin(self, method="get", **options):
        options = {"expires_in_ms": 86_400_000, **options}
        answer = self.successResultOf(self.control.call("Plain", method, persistent=True, **options))
        self.assertEqual(answer.status, 200)
        return json.loads(answer.body)["rpcId"]

    def status(self, call_id):
        return self.control.persistent_call(call_id)["status"]

    def test_statuses(self):
        """QUEUED, SENT, DELIVERED with the PUBACK, SUCCESSFUL with the reply, which is kept."""
        call = self.begin()
        self.assertEqual(self.status(call), "QUEUED")
        device = self.connect("device-token")
        (push,) = device.subscribe(RPC)
        self.assertEqual(self.status(call), "SENT")
        device.send(PubAck(packet_id=push.packet_id))
        self.assertEqual(self.status(call), "DELIVERED")
        device.publish("v1/devices/me/rpc/response/0", {"value": 1})
        self.assertEqual(self.status(call), "SUCCESSFUL")
        self.assertEqual(self.control.persistent_call(call)["response"], {"value": 1})

    def test_reply_that_is_no_json(self):
        """It is kept as an error."""
        device = self.connect("device-token")
        device.subscribe(RPC)
        call = self.begin()
        device.publish("v1/devices/me/rpc/response/0", "burnt")
        self.assertEqual(self.control.persistent_call(call)["response"], {"error": "burnt"})

    def test_one_way(self):
        """DELIVERED is the end: with the PUBACK, at QoS 0 at once."""
        device = self.connect("device-token")
        device.subscribe(RPC, qos=0)
        self.assertEqual(self.status(self.begin(two_way=False)), "DELIVERED")
        device.received()
        device.subscribe(RPC)
        call = self.begin(two_way=False)
        self.assertEqual(self.status(call), "SENT")
        device.pushed()
        self.assertEqual(self.status(call), "DELIVERED")
        self.assertEqual(device.subscribe(RPC), [])

    def test_expires(self):
        """Without an expiration time it is over after the time-out, also while the device is away."""
        call = self.begin(expires_in_ms=None)
        self.clock.advance(10.1)
        self.assertEqual(self.status(call), "EXPIRED")

    def test_no_puback(self):
        """No PUBACK for ten seconds: TIMEOUT, sent again with the next subscription, FAILED when the retries are up."""
        device = self.connect("device-token")
        device.subscribe(RPC)
        call = self.begin(retries=2)
        first = device.pushed(acknowledge=False)
        self.clock.advance(10.1)
        self.assertEqual(self.status(call), "TIMEOUT")
        self.assertEqual(device.received(), [])
        self.assertEqual(device.pushed(device.subscribe(RPC), acknowledge=False), first)
        self.clock.advance(10.1)
        self.assertEqual(self.status(call), "FAILED")
        self.assertIn("Timeout", self.control.persistent_call(call)["response"]["error"])

    def test_close_on_timeout(self):
        """When told to, the session is closed instead, and the call waits for the next one."""
        self.switches.close_on_rpc_timeout = True
        for two_way in (False, True):
            device = self.connect("device-token")
            device.subscribe(RPC)
            call = self.begin(retries=0, two_way=two_way)
            (push,) = device.received()[-1:]
            self.assertEqual((type(push), push.qos), (Publish, 1))
            self.clock.advance(10.1)
            self.ended(device, 0x98)
            found = self.control.persistent_call(call)
            self.assertEqual((found["status"], found["response"]), ("QUEUED", None))

    def test_burst(self):
        """Ten calls that waited come at once, in order, each once, at either QoS."""
        for qos in (0, 1):
            calls = [self.begin(f"m{number}", two_way=False) for number in range(10)]
            device = self.connect("device-token")
            pushed = device.pushed(device.subscribe(RPC, qos=qos))
            self.assertEqual([body["method"] for _, body in pushed], [f"m{number}" for number in range(10)])
            self.assertEqual({self.status(call) for call in calls}, {"DELIVERED"})
            device.lose()

    def test_sequential_on_ack(self):
        """One at a time, the next one with the PUBACK of the one before."""
        self.switches.rpc_strategy = "SEQUENTIAL_ON_ACK_FROM_DEVICE"
        calls = [self.begin(f"m{number}") for number in range(10)]
        device = self.connect("device-token")
        packets = device.subscribe(RPC)
        numbers = []
        for number in range(10):
            (push,) = packets
            self.assertEqual(json.loads(push.payload)["method"], f"m{number}")
            numbers.append(push.topic.rpartition("/")[2])
            packets = device.send(PubAck(packet_id=push.packet_id))
        self.assertEqual(packets, [])
        for text in numbers:
            device.publish("v1/devices/me/rpc/response/" + text, text)
        self.assertEqual({self.status(call) for call in calls}, {"SUCCESSFUL"})

    def test_sequential_on_response(self):
        """One at a time, the next one with the reply to the one before, or after thirty seconds."""
        self.switches.rpc_strategy = "SEQUENTIAL_ON_RESPONSE_FROM_DEVICE"
        calls = [self.begin(f"m{number}") for number in range(10)]
        device = self.connect("device-token")
        pushed = device.pushed(device.subscribe(RPC))
        for number in range(9):
            [(topic, body)] = pushed
            self.assertEqual(body["method"], f"m{number}")
            pushed = device.pushed(
                device.publish("v1/devices/me/rpc/response/" + topic.rpartition("/")[2], str(number))
            )
        self.assertEqual([body["method"] for _, body in pushed], ["m9"])
        self.assertEqual([self.status(call) for call in calls], ["SUCCESSFUL"] * 9 + ["DELIVERED"])
        late = self.begin("late")
        self.assertEqual(device.pushed(), [])
        self.clock.advance(30.1)
        self.assertEqual([body["method"] for _, body in device.pushed()], ["late"])
        self.assertEqual(self.status(late), "DELIVERED")


class DeviceTests(OperatedTests):
    """Renames, deletions, credentials."""

    def setUp(self):
        super().setUp()
        self.gateway = self.connect()
        self.gateway.subscribe(RPC)
        self.gateway.publish("v1/gateway/telemetry", {"A": [{"k": 1}]})

    def test_rename(self):
        """The gateway is told; its live session goes on under the old name; later the old name is a new device."""
        self.control.set_attributes("A", {"limit": 5})
        self.gateway.received()
        self.control.rename("A", "B")
        notice = {"method": "gateway_device_renamed", "params": {"A": "B"}}
        self.assertEqual(self.gateway.pushed(), [(NOTICES + "0", notice)])
        self.gateway.publish("v1/gateway/telemetry", {"A": [{"k": 2}]})
        self.assertEqual(self.latest("B"), {"k": 2})
        self.control.set_attributes("B", {"limit": 6})
        self.assertEqual(self.gateway.pushed(), [("v1/gateway/attributes", {"device": "A", "data": {"limit": 6}})])
        self.gateway.lose()
        self.open()
        self.platform.add_credentials("gateway-token", "Gateway", gateway=True)
        self.assertEqual(self.shown("B")["shared"]["limit"]["value"], 6)
        gateway = self.connect()
        gateway.publish("v1/gateway/telemetry", {"A": [{"k": 3}]})
        self.assertEqual((self.latest("A"), self.latest("B")), ({"k": 3}, {"k": 2}))

    def test_rename_while_away(self):
        """A gateway that comes back within a day is told then."""
        self.gateway.lose()
        self.control.rename("A", "B")
        self.clock.advance(3600)
        gateway = self.connect()
        notice = {"method": "gateway_device_renamed", "params": {"A": "B"}}
        self.assertEqual(gateway.pushed(gateway.subscribe(RPC)), [(NOTICES + "0", notice)])
        self.assertEqual(gateway.subscribe(RPC), [])

    def test_rename_refused(self):
        """A name that is taken or cannot be one is a 400, and nothing changes."""
        for name in ("Plain", "", " ", "x" * 256, "<b>"):
            self.assertEqual(self.assertRaises(Refused, self.control.rename, "A", name).status, 400)
        self.assertEqual(self.latest("A"), {"k": 1})

    def test_swapped_names(self):
        """Two devices may change their names, and both are kept."""
        self.gateway.publish("v1/gateway/telemetry", {"B": [{"k": 2}]})
        for old, new in (("A", "C"), ("B", "A"), ("C", "B")):
            self.control.rename(old, new)
        self.open()
        self.assertEqual((self.latest("A"), self.latest("B")), ({"k": 2}, {"k": 1}))

    def test_delete(self):
        """The gateway is told; the next message about the device makes a new one."""
        self.control.delete("A")
        notice = {"method": "gateway_device_deleted", "params": "A"}
        self.assertEqual(self.gateway.pushed(), [(NOTICES + "0", notice)])
        self.assertNotIn("A", [device["name"] for device in self.view.devices()])
        self.gateway.publish("v1/gateway/connect", {"device": "A", "type": "thermo"})
        self.assertEqual(self.shown("A")["telemetry"], {})
        self.assertEqual(self.shown("A")["profile"], "thermo")
        self.open()
        self.assertEqual(self.shown("A")["profile"], "thermo")
        self.assertEqual(self.view.history("A", "k", 0), [])

    def test_rename_then_delete(self):
        """Under the old name messages are acknowledged and lost, as at the real server (3.11)."""
        self.control.rename("A", "B")
        self.control.delete("B")
        self.gateway.received()
        self.assertEqual(self.gateway.code("v1/gateway/telemetry", {"A": [{"k": 2}]}), 0)
        self.assertEqual(self.gateway.code("v1/gateway/attributes", {"A": {"k": 2}}), 0)
        self.assertEqual([device["name"] for device in self.view.devices()], ["Gateway", "Plain"])

    def test_delete_the_connected(self):
        """A device's own connection ends with 0x98, and its token lets nobody in any more; calls end with 404."""
        self.control.call("Plain", "get")
        done = self.control.call("Plain", "get")
        device = self.connect("device-token")
        self.control.delete("Plain")
        self.ended(device, 0x98)
        self.assertEqual(self.refused(username="device-token"), 0x86)
        self.assertEqual(self.successResultOf(done).status, 404)

    def test_credentials(self):
        """With another token the connection ends with 0x98, on MQTT 3.1.1 it is closed; the old token is refused."""
        for version in (5, 4):
            device = self.connect("device-token", version)
            self.control.set_token("Plain", "new")
            self.ended(device, 0x98)
            self.assertEqual(self.refused(version, username="device-token"), 0x86 if version == 5 else 5)
            self.connect("new", version).lose()
            self.control.set_token("Plain", "device-token")
        self.assertEqual(self.told[0], ("Plain", "ACCESS_TOKEN"))
        self.assertEqual(self.assertRaises(Refused, self.control.set_token, "Plain", "gateway-token").status, 400)

    def test_gateway_deleted(self):
        """Without the gateway its children are not connected."""
        self.control.delete("Gateway")
        self.assertEqual(self.gateway.received(), [Disconnect(reason_code=0x98)])
        self.assertFalse(self.shown("A")["connected"])

    def test_becomes_gateway(self):
        """Counts with the next CONNECT."""
        device = self.connect("device-token")
        self.control.set_gateway("Plain", gateway=True)
        self.assertEqual(device.publish("v1/gateway/connect", {"device": "X"}), [])
        device.lose()
        device = self.connect("device-token")
        self.assertEqual(device.code("v1/gateway/connect", {"device": "X"}), 0)

    def test_cut(self):
        """The link of a device, or every link, is dropped without a word."""
        device = self.connect("device-token")
        self.assertEqual(self.control.cut("Plain"), 1)
        self.assertEqual((device.received(), device.closed), ([], True))
        self.assertFalse(self.gateway.closed)
        self.assertEqual(self.control.cut(), 1)
