"""Rows of the catalogue of scenarios that no other test plays in full (spec thingsboard-mqtt, 8; docs/scenarios.md)."""

from __future__ import annotations

import json

from tbgw.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    PubAck,
    Publish,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Will,
)
from tests.sandbox.operated import NOW, Client, OperatedTests

NESTED = {"someNumber": 42, "someArray": [1, 2, 3], "someNestedObject": {"key": "value"}}
V = {"key1": "value1", "key2": True, "key3": 3.0, "key4": 4, "key5": NESTED}
C = {"clientStr": "value1", "clientBool": True, "clientDbl": 42.0, "clientLong": 73, "clientJson": NESTED}
S = {"sharedStr": "value1", "sharedBool": True, "sharedDbl": 42.0, "sharedLong": 73, "sharedJson": NESTED}
TELEMETRY, ATTRIBUTES = "v1/devices/me/telemetry", "v1/devices/me/attributes"
CHILDREN = "v1/gateway/telemetry"
REQUEST, RESPONSE = "v1/gateway/attributes/request", "v1/gateway/attributes/response"


class ConnectionRows(OperatedTests):
    """8.1, 8.2 and what 8.14 says of connections."""

    def test_row_15(self):
        """Of two connections with one token the first is told 0x8E, the second nothing."""
        first, second = self.connect(), self.connect()
        self.ended(first, 0x8E)
        self.assertEqual((second.received(), second.closed), ([], False))

    def test_rows_20_to_26(self):
        """PUBACK, SUBACK and UNSUBACK bear MQTT 5's codes, and the connection stays."""
        device = self.connect("device-token")
        self.assertEqual(device.code(ATTRIBUTES, V), 0)
        self.assertEqual(device.code("wrong/topic/", V), 0x90)
        self.assertEqual(device.code(ATTRIBUTES, '"key1":"value1", "key2":true'), 0x99)
        filters = tuple(Subscription(topic_filter=one) for one in (ATTRIBUTES, "wrong/topic/+"))
        (suback,) = device.send(Subscribe(packet_id=1, filters=filters))
        self.assertEqual(suback.reason_codes, (0, 0x8F))
        for code in (0, 0x11):
            (unsuback,) = device.send(Unsubscribe(packet_id=2, filters=(ATTRIBUTES,)))
            self.assertIsInstance(unsuback, UnsubAck)
            self.assertEqual(unsuback.reason_codes, (code,))
        self.assertFalse(device.closed)

    def test_rows_131_and_132(self):
        """Session present is only what the client asked for: nothing is kept. The CONNACK bears no properties."""
        for version in (4, 5):
            client = Client(self, version)
            kept = Connect(username="device-token", client_id="c", clean_start=False, protocol_version=version)
            (connack,) = client.send(kept)
            self.assertEqual(connack, ConnAck(session_present=True))
            client.subscribe(ATTRIBUTES)
            client.lose()
            self.control.set_attributes("Plain", {"k": version})
            client = Client(self, version)
            self.assertEqual(client.send(kept), [ConnAck(session_present=True)])
            self.control.set_attributes("Plain", {"k": -version})
            self.assertEqual(client.received(), [])
            client.lose()

    def test_row_133(self):
        """A will is never published."""
        gateway = self.connect()
        gateway.subscribe(ATTRIBUTES)
        will = Will(topic=TELEMETRY, payload=b'{"will":1}', qos=1)
        device = self.connect("device-token", will=will)
        device.lose()
        self.assertEqual((gateway.received(), self.latest("Plain"), self.latest("Gateway")), ([], {}, {}))

    def test_row_135(self):
        """A message that comes again with DUP is taken again."""
        device = self.connect("device-token")
        for value in (1, 2):
            payload = b'{"ts":1,"values":{"a":%d}}' % value
            packet = Publish(topic=TELEMETRY, payload=payload, qos=1, packet_id=7, dup=value > 1)
            self.assertEqual(device.send(packet), [PubAck(packet_id=7)])
        self.assertEqual(self.view.history("Plain", "a", 0), [(1, 2)])

    def test_rows_137_to_142(self):
        """Empty, timed by null or by text, `values` alone, null and numeric texts."""
        device = self.connect("device-token")
        self.switches.never_acknowledge_empty = True
        self.assertEqual(device.publish(TELEMETRY, "[]"), [])
        self.assertEqual(device.code(TELEMETRY, "{}"), 0)
        self.assertEqual(device.code(TELEMETRY, {"ts": "1451649600512", "values": {"t": 1}}), 0)
        self.assertEqual(device.code(TELEMETRY, {"values": {"a": 1}}), 0)
        self.assertEqual(device.code(TELEMETRY, {"n": None, "s": "007", "e": "1e5"}), 0)
        self.assertEqual(self.latest("Plain"), {"t": 1, "values": {"a": 1}, "s": 7, "e": "1e5"})
        self.assertEqual(self.shown("Plain")["telemetry"]["t"]["ts"], 1451649600512)
        self.assertEqual(device.publish(TELEMETRY, {"ts": None, "values": {"a": 1}}), [Disconnect(reason_code=0x8B)])
        gateway = self.connect()
        self.assertEqual(gateway.code(CHILDREN, {"A": [{"ts": None, "values": {"a": 1}}]}), 0x99)

    def test_rows_143_and_144(self):
        """`{}` asks for all; a number that is none is a bad payload; a negative one gets a PUBACK and no answer."""
        device = self.connect("device-token")
        stem = "v1/devices/me/attributes/request/"
        self.assertEqual(json.loads(device.publish(stem + "5", {})[1].payload), {})
        device.code(ATTRIBUTES, C)
        self.control.set_attributes("Plain", S)
        self.assertEqual(json.loads(device.publish(stem + "5", {})[1].payload), {"client": C, "shared": S})
        self.assertEqual(device.code(stem + "abc", {}), 0x99)
        self.assertEqual(device.publish(stem + "-1", {})[0].reason_code, 0)
        device.lose()
        device = self.connect("device-token", 4)
        self.assertEqual((device.publish(stem + "abc", {}), device.closed), ([], True))

    def test_rows_145_to_147(self):
        """A bad filter among good ones, QoS 2, patterns."""
        for version, refused in ((5, 0x8F), (4, 0x80)):
            device = self.connect("device-token", version)
            device.subscribe(ATTRIBUTES, "bad/+", "v1/devices/me/rpc/request/+")
            self.assertEqual(device.granted, [1, refused, 1])
            device.subscribe(ATTRIBUTES, qos=2)
            self.assertEqual(device.granted, [1])
            device.subscribe("v1/devices/me/#", "#", "$share/g/v1/devices/me/attributes")
            self.assertEqual(device.granted, [refused] * 3)
            device.lose()

    def test_row_168(self):
        """A client that says DISCONNECT: the connection ends, and nothing of it is left."""
        device = self.connect("device-token")
        device.send(Disconnect())
        self.assertTrue(device.closed)
        self.assertFalse(self.shown("Plain")["connected"])


class RequestRows(OperatedTests):
    """8.5: attribute requests of a device."""

    def test_rows_46_47_and_50(self):
        """Asked for by name in either scope, at the QoS of the subscription, on every family of topics."""
        device = self.connect("device-token")
        device.code(ATTRIBUTES, C)
        self.control.set_attributes("Plain", S)
        asked = {"clientKeys": ",".join(C), "sharedKeys": ",".join(S)}
        for request, response in (
            ("v1/devices/me/attributes/request/", "v1/devices/me/attributes/response/"),
            ("v2/a/req/", "v2/a/res/"),
            ("v2/a/req/j/", "v2/a/res/j/"),
        ):
            for qos in (0, 1):
                device.subscribe(response + "+", qos=qos)
                ack, answer = device.publish(request + "1", asked)
                self.assertEqual(ack.reason_code, 0)
                self.assertEqual((answer.topic, answer.qos), (response + "1", qos))
                self.assertEqual(json.loads(answer.payload), {"client": C, "shared": S})
        _, answer = device.publish("v2/a/req/99", {"clientKeys": "clientStr", "sharedKeys": "sharedStr"})
        one_each = {"client": {"clientStr": "value1"}, "shared": {"sharedStr": "value1"}}
        self.assertEqual(json.loads(answer.payload), one_each)


class GatewayRows(OperatedTests):
    """8.7 and 8.8: a gateway's children."""

    def setUp(self):
        super().setUp()
        self.gateway = self.connect()

    def test_row_57(self):
        """Two points of each key of two devices."""
        part = [{"ts": 10_000, "values": V}, {"ts": 20_000, "values": V}]
        self.assertEqual(self.gateway.code(CHILDREN, {"Device A": part, "Device B": part}), 0)
        for name in ("Device A", "Device B"):
            for key, value in V.items():
                self.assertEqual(self.view.history(name, key, 0), [(10_000, value), (20_000, value)])

    def test_rows_58_and_59(self):
        """With a type and without; the child knows its gateway, once."""
        self.assertEqual(self.gateway.code("v1/gateway/connect", {"device": "Device A"}), 0)
        for _ in range(2):
            self.assertEqual(self.gateway.code("v1/gateway/connect", {"device": "Device B", "type": "thermo"}), 0)
        self.assertEqual([self.shown(name)["profile"] for name in ("Device A", "Device B")], ["default", "thermo"])
        self.assertEqual(self.control.device_as_json("Device B")["lastGateway"], "Gateway")
        self.assertEqual([device["name"] for device in self.view.devices()].count("Device B"), 1)

    def test_rows_62_149_150_and_153_to_155(self):
        """Malformed, unknown, of the wrong shape, without a name, of nobody, without `client`."""
        self.assertEqual(self.gateway.code(TELEMETRY, '{"a":'), 0x99)
        self.assertEqual(self.gateway.code("v1/gateway/unknown", {}), 0x90)
        self.assertEqual(self.gateway.code("v1/gateway/disconnect", {"device": "Nobody"}), 0)
        for topic, payload in (
            (CHILDREN, {"A": {"a": 1}}),
            ("v1/gateway/connect", {"device": ""}),
            (REQUEST, {"id": 1, "device": "A", "key": "k"}),
        ):
            gateway = self.connect()
            ack, end = gateway.publish(topic, payload)
            self.assertEqual((ack.reason_code, end), (0x83, Disconnect(reason_code=0x83)), topic)

    def test_row_63(self):
        """Client attributes of two devices."""
        self.assertEqual(self.gateway.code("v1/gateway/attributes", {"Device A": V, "Device B": V}), 0)
        for name in ("Device A", "Device B"):
            self.assertEqual({key: entry["value"] for key, entry in self.shown(name)["attributes"].items()}, V)

    def test_row_65(self):
        """Values with and without their time."""
        values = {"str": "value1", "bool": True, "dbl": 42.0, "long": 73}
        self.gateway.code(CHILDREN, {"A": [values]})
        self.assertEqual(self.shown("A")["telemetry"]["str"]["ts"], NOW)
        self.gateway.code(CHILDREN, {"B": [{"ts": 1451649600512, "values": values}]})
        self.assertEqual(self.shown("B")["telemetry"]["long"], {"ts": 1451649600512, "value": 73})
        self.assertEqual((self.latest("A"), self.latest("B")), (values, values))

    def test_rows_71_to_75_and_156(self):
        """One name gives `value`, several `values`, what is not there is left out, and the number comes back."""
        self.gateway.code("v1/gateway/attributes", {"A": {**C, "attr1": 1, "attr2": 2}})
        self.control.set_attributes("A", S)
        self.gateway.received()
        self.gateway.subscribe(RESPONSE)
        for asked, expected in (
            ({"client": True, "keys": list(C)}, {"values": C}),
            ({"client": False, "keys": list(S)}, {"values": S}),
            ({"client": True, "key": "attr1"}, {"value": 1}),
            ({"client": True, "keys": ["attr1", "attr2"]}, {"values": {"attr1": 1, "attr2": 2}}),
            ({"client": True, "keys": ["attr1", "undefined"]}, {"values": {"attr1": 1}}),
            ({"client": True, "key": "undefined"}, {}),
        ):
            _, answer = self.gateway.publish(REQUEST, {"id": 42, "device": "A", **asked})
            self.assertEqual((answer.topic, answer.qos), (RESPONSE, 1))
            self.assertEqual(json.loads(answer.payload), {"id": 42, "device": "A", **expected})

    def test_row_148(self):
        """A device that is no gateway hears nothing, and stays."""
        device = self.connect("device-token")
        self.assertEqual((device.publish(CHILDREN, {"A": [{"a": 1}]}), device.closed), ([], False))
        self.assertEqual(device.code(TELEMETRY, {"a": 1}), 0)

    def test_row_151(self):
        """A part that is good is kept beside one that is bad: 0x99, or the end on MQTT 3.1.1."""
        for version in (5, 4):
            gateway = self.connect(version=version)
            payload = {"A": [{"a": version}], "B": [{"ts": 1, "values": 5}]}
            answers = gateway.publish(CHILDREN, payload)
            self.assertEqual([answer.reason_code for answer in answers], [0x99] if version == 5 else [])
            self.assertEqual((gateway.closed, self.latest("A")), (version == 4, {"a": version}))

    def test_row_152(self):
        """As up to 4.2: a PUBACK for each device, all with one number."""
        self.switches.puback_per_device = True
        acks = self.gateway.publish(CHILDREN, {"A": [{"a": 1}], "B": [{"a": 1}], "C": [{"a": 1}]})
        self.assertEqual(len(acks), 3)
        self.assertEqual(len({ack.packet_id for ack in acks}), 1)


class FullRows(OperatedTests):
    """8.7: no room for more devices."""

    def setUp(self):
        super().setUp()
        self.platform.limits = type(self.limits)(max_devices=3)

    def test_row_61(self):
        """The device beyond the limit is not created; on MQTT 3.1.1 its message looks accepted."""
        for version, code in ((4, 0), (5, 0x97)):
            gateway = self.connect(version=version)
            self.assertEqual(gateway.code(CHILDREN, {"A": [{"a": 1}]}), 0)
            self.assertEqual(gateway.code(CHILDREN, {"B": [{"a": 1}]}), code)
            self.assertNotIn("B", [device["name"] for device in self.view.devices()])
