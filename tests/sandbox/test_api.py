"""What a PUBLISH on each topic does (spec thingsboard-mqtt, 2, 3, 6.3)."""

from __future__ import annotations

import json

from twisted.trial import unittest

from tbgw.sandbox.api import publish
from tbgw.sandbox.outcomes import Verdict
from tbgw.sandbox.platform import Platform, SandboxLimits, Session
from tbgw.sandbox.profiles import ALLOW_CREATE, DeviceProfile
from tbgw.sandbox.provisioning import provision
from tbgw.sandbox.switches import Switches
from tbgw.sandbox.values import plain

NOW = 1_700_000_000_000
V = {
    "key1": "value1",
    "key2": True,
    "key3": 3.0,
    "key4": 4,
    "key5": {"someNumber": 42, "someArray": [1, 2, 3], "someNestedObject": {"key": "value"}},
}
"""The values of ThingsBoard's own tests (section 8)."""

DEVICE_TELEMETRY = "v1/devices/me/telemetry"


class ApiTests(unittest.SynchronousTestCase):
    """One platform with a gateway and a plain device, both connected."""

    def setUp(self):
        self.platform = Platform(SandboxLimits(max_devices=5))
        self.platform.add_credentials("gateway-token", "Gateway", gateway=True)
        self.platform.add_credentials("device-token", "Plain")
        self.gateway = self.session("gateway-token")
        self.plain = self.session("device-token")
        self.switches = Switches()
        self.platform.set_profile(DeviceProfile("p", strategy=ALLOW_CREATE, key="k", secret="s"))

    def session(self, token) -> Session:
        accepted = self.platform.connect(token, None, "c", 4)
        assert isinstance(accepted, tuple)
        return accepted[0]

    def publish(self, topic, payload, session=None, now_ms=NOW):
        if not isinstance(payload, bytes):
            payload = payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()
        return publish(self.platform, session or self.gateway, topic, payload, now_ms, self.switches)

    def verdict(self, topic, payload, session=None):
        return self.publish(topic, payload, session).verdict

    def latest(self, name):
        device = self.platform.devices[name]
        return {key: (series.ts_ms, plain(series.value)) for key, series in device.telemetry.items()}

    def attributes(self, name):
        return {key: plain(value) for key, (_, value) in self.platform.devices[name].attributes.items()}


class DeviceApiTests(ApiTests):
    """Topics of the connected device itself."""

    def test_telemetry_on_all_its_topics(self):
        """Values arrive on the long topic and both short ones, now or at their own time."""
        for number, topic in enumerate((DEVICE_TELEMETRY, "v2/t", "v2/t/j")):
            self.assertIs(self.verdict(topic, {"ts": 10000 + number, "values": V}, self.plain), Verdict.ACCEPTED)
            self.assertEqual(self.latest("Plain"), {key: (10000 + number, value) for key, value in V.items()})
        self.publish("v2/t", V, self.plain)
        self.assertEqual(self.latest("Plain")["key4"], (NOW, 4))

    def test_attributes(self):
        """Client attributes arrive on the long topic and both short ones."""
        for number, topic in enumerate(("v1/devices/me/attributes", "v2/a", "v2/a/j")):
            self.assertIs(self.verdict(topic, {**V, "n": number}, self.plain), Verdict.ACCEPTED)
            self.assertEqual(self.attributes("Plain"), {**V, "n": number})

    def test_error_matrix(self):
        """Each fault of a device payload has its own outcome, and nothing of it is stored."""
        for payload, expected in {
            "{}": Verdict.ACCEPTED,
            "[]": Verdict.ACCEPTED,
            "": Verdict.BAD_PAYLOAD,
            "null": Verdict.BAD_PAYLOAD,
            "5": Verdict.BAD_PAYLOAD,
            '"key1":"value1"': Verdict.BAD_PAYLOAD,
            '{"key1":, "key2":1}': Verdict.BAD_PAYLOAD,
            '[{"a":1},2]': Verdict.BAD_PAYLOAD,
            '{"ts":1,"values":2}': Verdict.BAD_PAYLOAD,
            '{"ts":null,"values":{"a":1}}': Verdict.FAULT,
            '[{"a":1},{"ts":"abc","values":{"a":1}}]': Verdict.FAULT,
        }.items():
            self.assertIs(self.verdict(DEVICE_TELEMETRY, payload, self.plain), expected, payload)
        for payload in ("[]", "[{}]", "1", "{"):
            self.assertIs(self.verdict("v2/a", payload, self.plain), Verdict.BAD_PAYLOAD, payload)
        self.assertEqual((self.latest("Plain"), self.attributes("Plain")), ({}, {}))

    def test_unknown_topics(self):
        """Other topics are unknown, and the short ones match whole."""
        for topic in ("wrong/topic/", "", "v1/devices/me/telemetry/", "v2/tt", "v2/t/", "v1/devices/you/telemetry"):
            self.assertIs(self.verdict(topic, V), Verdict.UNKNOWN_TOPIC, topic)

    def test_protobuf(self):
        """Payloads on the protobuf topics cannot be converted."""
        self.assertIs(self.verdict("v2/t/p", b"\x08\x01"), Verdict.BAD_PAYLOAD)

    def test_gateway_topics_of_another(self):
        """A device that is no gateway gets no answer on gateway topics, and nothing happens."""
        self.assertIs(self.verdict("v1/gateway/telemetry", {"A": [{"a": 1}]}, self.plain), Verdict.SILENT)
        self.assertNotIn("A", self.platform.devices)

    def test_empty_array_as_the_real_server(self):
        """On request empty arrays are never acknowledged."""
        self.switches.never_acknowledge_empty = True
        self.assertIs(self.verdict(DEVICE_TELEMETRY, "[]"), Verdict.SILENT)
        self.assertIs(self.verdict("v1/gateway/telemetry", {"A": []}), Verdict.SILENT)
        self.assertIs(self.verdict(DEVICE_TELEMETRY, "{}"), Verdict.ACCEPTED)

    def test_attribute_request(self):
        """Asked for by comma strings; neither asks for all; scopes without a found key are left out."""
        self.publish("v2/a", {"a": 1, "b": {"c": 2}})
        self.platform.devices["Gateway"].shared["s"] = (1, "x")
        for asked, expected in (
            ({"clientKeys": "a,zz"}, {"client": {"a": 1}}),
            ({"clientKeys": "a,b", "sharedKeys": "s"}, {"client": {"a": 1, "b": {"c": 2}}, "shared": {"s": "x"}}),
            ({"clientKeys": "a, b"}, {"client": {"a": 1}}),
            ({"sharedKeys": "nothing"}, {}),
            ({}, {"client": {"a": 1, "b": {"c": 2}}, "shared": {"s": "x"}}),
        ):
            outcome = self.publish("v1/devices/me/attributes/request/5", asked)
            topic, payload, qos = outcome.reply
            self.assertEqual((topic, json.loads(payload), qos), ("v1/devices/me/attributes/response/5", expected, 1))
        self.assertEqual(self.publish("v2/a/req/j/6", {}).reply[0], "v2/a/res/j/6")
        self.assertEqual(self.publish("v2/a/req/6", {}).reply[0], "v2/a/res/6")

    def test_bad_attribute_request(self):
        """A number that is none, or no object, cannot be converted; a negative one is acknowledged without answer."""
        stem = "v1/devices/me/attributes/request/"
        self.assertIs(self.verdict(stem + "abc", {}), Verdict.BAD_PAYLOAD)
        self.assertIs(self.verdict(stem + "2147483648", {}), Verdict.BAD_PAYLOAD)
        self.assertIs(self.verdict(stem + "1", "[]"), Verdict.BAD_PAYLOAD)
        self.assertEqual(self.publish(stem + "-1", {})[:2], (Verdict.ACCEPTED, None))

    def test_session_limits(self):
        """A gateway hears of its children's limits too; the QoS is that of its subscription."""
        request = {"method": "getSessionLimits", "params": {"timeout": 5000}}
        topic, payload, qos = self.publish("v1/devices/me/rpc/request/7", request).reply
        self.assertEqual((topic, qos), ("v1/devices/me/rpc/response/7", 1))
        unlimited = {"messages": None, "telemetryMessages": None, "telemetryDataPoints": None}
        announced = {"maxPayloadSize": 65536, "maxInflightMessages": 100, "rateLimits": unlimited}
        self.assertEqual(json.loads(payload), {**announced, "gatewayRateLimits": unlimited})
        self.platform.subscribe(self.plain, "v1/devices/me/rpc/response/+", 0)
        _, payload, qos = self.publish("v1/devices/me/rpc/request/1", request, self.plain).reply
        self.assertEqual((json.loads(payload), qos), (announced, 0))

    def test_session_limits_silence(self):
        """getSessionLimits is not answered on the short topic, nor when told not to."""
        request = {"method": "getSessionLimits", "params": {}}
        self.assertEqual(self.publish("v2/r/req/1", request)[:2], (Verdict.ACCEPTED, None))
        self.switches.answer_session_limits = False
        self.assertEqual(self.publish("v1/devices/me/rpc/request/1", request)[:2], (Verdict.ACCEPTED, None))

    def test_client_rpc(self):
        """Other calls are acknowledged; a number that is none and a missing method are faults."""
        stem = "v1/devices/me/rpc/request/"
        self.assertEqual(self.publish(stem + "1", {"method": "open", "params": {}})[:2], (Verdict.ACCEPTED, None))
        self.assertIs(self.verdict(stem + "x", {"method": "getTime"}), Verdict.FAULT)
        self.assertIs(self.verdict(stem + "1", {"params": {}}), Verdict.FAULT)
        self.assertIs(self.verdict(stem + "1", "nonsense"), Verdict.BAD_PAYLOAD)

    def test_rpc_replies(self):
        """Any payload replies to an RPC, if the number is one."""
        self.assertIs(self.verdict("v1/devices/me/rpc/response/0", "not JSON"), Verdict.ACCEPTED)
        self.assertIs(self.verdict("v1/devices/me/rpc/response/x", "{}"), Verdict.BAD_PAYLOAD)

    def test_claim(self):
        """A claim is checked and acknowledged."""
        for payload in ("", "{}", '{"secretKey":"s","durationMs":60000}'):
            self.assertIs(self.verdict("v1/devices/me/claim", payload), Verdict.ACCEPTED)
        self.assertIs(self.verdict("v1/devices/me/claim", "[]"), Verdict.BAD_PAYLOAD)
        self.assertIs(self.verdict("v1/devices/me/claim", '{"secretKey":null}'), Verdict.FAULT)


class GatewayApiTests(ApiTests):
    """Topics of the gateway API."""

    def test_connect_with_type(self):
        """A child is created with its profile, which never changes afterwards."""
        self.assertIs(self.verdict("v1/gateway/connect", {"device": "A", "type": "thermo"}), Verdict.ACCEPTED)
        self.verdict("v1/gateway/connect", {"device": "A", "type": "other"})
        self.verdict("v1/gateway/connect", {"device": "B", "type": None})
        profiles = {name: device.profile for name, device in self.platform.devices.items()}
        self.assertEqual((profiles["A"], profiles["B"]), ("thermo", "default"))
        self.assertEqual(set(self.gateway.children), {"A", "B"})

    def test_connect_with_odd_names(self):
        """Numbers and booleans are names too; spaces count."""
        for name, expected in (
            (5, Verdict.ACCEPTED),
            (True, Verdict.ACCEPTED),
            (1.5, Verdict.ACCEPTED),
            (" A ", Verdict.QUOTA),
        ):
            self.assertIs(self.verdict("v1/gateway/connect", {"device": name}), expected)
        self.assertEqual(set(self.gateway.children), {"5", "true", "1.5"})

    def test_connect_without_name(self):
        """A missing, null, empty or structured name is a fault of the gateway message."""
        payload: object
        for payload in ({}, {"device": None}, {"device": ""}, {"device": {}}, [], 5):
            self.assertIs(self.verdict("v1/gateway/connect", payload), Verdict.GATEWAY_FAULT, payload)
        self.assertIs(self.verdict("v1/gateway/connect", "nonsense"), Verdict.BAD_PAYLOAD)

    def test_names_that_cannot_be(self):
        """Names that ThingsBoard's core refuses are not created."""
        for name in ("  ", "x" * 256, "a\0b", "<b>bold</b>", "<script>"):
            self.assertIs(self.verdict("v1/gateway/connect", {"device": name}), Verdict.NOT_CREATED, name)
            self.assertIs(self.verdict("v1/gateway/telemetry", {name: [{"a": 1}]}), Verdict.NOT_CREATED, name)
        self.assertIs(self.verdict("v1/gateway/connect", {"device": "5 < 6 > 4"}), Verdict.ACCEPTED)

    def test_disconnect(self):
        """The child leaves the session, an unknown one is no fault, and the next message brings it back."""
        self.publish("v1/gateway/connect", {"device": "A"})
        self.assertIs(self.verdict("v1/gateway/disconnect", {"device": "A"}), Verdict.ACCEPTED)
        self.assertEqual(self.gateway.children, {})
        self.assertIs(self.verdict("v1/gateway/disconnect", {"device": "unknown"}), Verdict.ACCEPTED)
        self.assertIs(self.verdict("v1/gateway/disconnect", {}), Verdict.GATEWAY_FAULT)
        self.publish("v1/gateway/attributes", {"A": {"a": 1}})
        self.assertIn("A", self.gateway.children)

    def test_telemetry(self):
        """Many devices at many instants, typed and created on the way."""
        outcome = self.publish(
            "v1/gateway/telemetry",
            {"A": [{"ts": 10000, "values": V}, {"ts": 20000, "values": V}], "B": [{"x": "007"}]},
        )
        self.assertEqual((outcome.verdict, outcome.parts), (Verdict.ACCEPTED, 2))
        self.assertEqual(self.latest("A"), {key: (20000, value) for key, value in V.items()})
        self.assertEqual(self.latest("B"), {"x": (NOW, 7)})
        points = self.platform.take_changes().points
        self.assertEqual(len(points), 11)
        self.assertEqual([ts for _, ts, _ in points], [10000] * 5 + [20000] * 5 + [NOW])

    def test_attributes(self):
        """Client attributes of several children."""
        self.assertIs(self.verdict("v1/gateway/attributes", {"A": V, "B": {"b": 1}}), Verdict.ACCEPTED)
        self.assertEqual((self.attributes("A"), self.attributes("B")), (V, {"b": 1}))

    def test_error_matrix(self):
        """Section 3.9 for telemetry."""
        for payload, expected in {
            '{"A":': Verdict.BAD_PAYLOAD,
            "[]": Verdict.GATEWAY_FAULT,
            "{}": Verdict.GATEWAY_FAULT,
            '{"A":{"a":1}}': Verdict.GATEWAY_FAULT,
            '{"A":5,"B":{"b":1}}': Verdict.GATEWAY_FAULT,
            '{"":[{"a":1}]}': Verdict.GATEWAY_FAULT,
            '{"A":[5]}': Verdict.GATEWAY_BAD_ELEMENT,
            '{"A":[{"ts":null,"values":{}}]}': Verdict.GATEWAY_BAD_ELEMENT,
            '{"A":[{"ts":1,"values":5}]}': Verdict.GATEWAY_BAD_ELEMENT,
            '{"A":[{"a":1,"metadata":{}}]}': Verdict.GATEWAY_BAD_ELEMENT,
            '{"A":[]}': Verdict.ACCEPTED,
        }.items():
            self.assertIs(self.verdict("v1/gateway/telemetry", payload), expected, payload)
        self.assertEqual(self.latest("A"), {})
        self.assertIs(self.verdict("v1/gateway/attributes", {"A": [1]}), Verdict.GATEWAY_FAULT)
        self.assertIs(self.verdict("v1/gateway/unknown", {}), Verdict.UNKNOWN_TOPIC)

    def test_parts_are_independent(self):
        """One device's bad part does not keep the others out, and a part of the wrong type is skipped."""
        outcome = self.publish("v1/gateway/telemetry", '{"A":[{"a":1}],"B":[{"b":1},5],"C":7,"D":[{"d":1}]}')
        self.assertEqual((outcome.verdict, outcome.parts), (Verdict.GATEWAY_BAD_ELEMENT, 3))
        self.assertEqual((self.latest("A"), self.latest("D")), ({"a": (NOW, 1)}, {"d": (NOW, 1)}))
        self.assertEqual(self.latest("B"), {})
        self.assertNotIn("C", self.platform.devices)
        self.assertIs(self.verdict("v1/gateway/telemetry", {"A": [{"a": 2}], "C": 7}), Verdict.ACCEPTED)

    def test_first_failure_decides(self):
        """Of several failures the first gives the code."""
        self.assertIs(self.verdict("v1/gateway/telemetry", '{" ":[{"a":1}],"B":[5]}'), Verdict.NOT_CREATED)
        self.assertIs(self.verdict("v1/gateway/telemetry", '{"B":[5]," ":[{"a":1}]}'), Verdict.GATEWAY_BAD_ELEMENT)

    def test_device_limit(self):
        """Beyond `maxDevices` nothing is created, and known devices go on."""
        self.publish("v1/gateway/attributes", {"A": {}, "B": {}, "C": {}})
        for topic, payload in (
            ("v1/gateway/connect", {"device": "D"}),
            ("v1/gateway/telemetry", {"D": [{"a": 1}], "A": [{"a": 1}]}),
            ("v1/gateway/attributes", {"D": {"a": 1}}),
            ("v1/gateway/claim", {"D": {}}),
            ("v1/gateway/rpc", {"device": "D", "id": 1, "data": {}}),
        ):
            self.assertIs(self.verdict(topic, payload), Verdict.QUOTA, topic)
        request = {"id": 1, "device": "D", "client": True, "key": "k"}
        self.assertIs(self.verdict("v1/gateway/attributes/request", request), Verdict.GATEWAY_FAULT)
        self.assertNotIn("D", self.platform.devices)
        self.assertEqual(self.latest("A"), {"a": (NOW, 1)})

    def test_rpc_replies(self):
        """A reply needs a device, a number and data."""
        good = {"device": "A", "id": 0, "data": {"success": True}}
        self.assertIs(self.verdict("v1/gateway/rpc", good), Verdict.ACCEPTED)
        for key in good:
            broken = {k: v for k, v in good.items() if k != key}
            self.assertIs(self.verdict("v1/gateway/rpc", broken), Verdict.GATEWAY_FAULT, key)

    def test_attribute_requests(self):
        """The answer has `value` for one name, `values` for more, and neither when nothing is there."""
        self.publish("v1/gateway/attributes", {"A": {"a": 1, "b": {"c": 2}}})
        self.platform.devices["A"].shared["s"] = (1, "x")
        both = {"values": {"a": 1, "b": {"c": 2}}}
        for asked, expected in (
            ({"client": True, "key": "a"}, {"value": 1}),
            ({"client": True, "keys": ["a"]}, {"value": 1}),
            ({"client": True, "keys": ["a", "a"]}, {"value": 1}),
            ({"client": True, "key": "zz"}, {}),
            ({"client": True, "keys": ["a", "b"]}, both),
            ({"client": True, "keys": ["a", "zz"]}, {"values": {"a": 1}}),
            ({"client": True, "keys": ["y", "zz"]}, {}),
            ({"client": False, "keys": ["s"]}, {"value": "x"}),
            ({"client": False, "key": "a"}, {}),
            ({"client": True, "keys": []}, {"values": {"a": 1, "b": {"c": 2}, "s": "x"}}),
        ):
            outcome = self.publish("v1/gateway/attributes/request", {"id": 3, "device": "A", **asked})
            topic, payload, _ = outcome.reply
            self.assertEqual(topic, "v1/gateway/attributes/response")
            self.assertEqual(json.loads(payload), {"id": 3, "device": "A", **expected}, asked)

    def test_bad_attribute_requests(self):
        """All members are required."""
        good = {"id": 3, "device": "A", "client": True, "key": "a"}
        for key in good:
            broken = {k: v for k, v in good.items() if k != key}
            self.assertIs(self.verdict("v1/gateway/attributes/request", broken), Verdict.GATEWAY_FAULT, key)

    def test_nothing_raises(self):
        """Whatever JSON comes on whatever topic, there is an outcome."""
        shapes = [
            "null",
            "true",
            "-1",
            '"x"',
            "[]",
            "{}",
            "[[]]",
            '{"A":null}',
            '{"A":[null]}',
            '{"A":{"b":[]}}',
            '{"device":["A"],"id":[1],"data":null,"client":1,"keys":{}}',
            '{"A":[{"metadata":3}]}',
            "\0",
            "[" * 99,
        ]
        names = ["telemetry", "attributes", "attributes/request", "rpc", "claim", "connect", "disconnect", ""]
        numbered = ("rpc/request/", "rpc/response/", "attributes/request/")
        names += [f"{stem}{number}" for stem in numbered for number in (0, "x")]
        self.platform.set_limits({"rateLimits": {"messages": "5:600"}, "gatewayRateLimits": {"messages": "30:600"}})
        seen = set()
        for payload in shapes:
            for topic in [f"v1/gateway/{n}" for n in names] + [f"v1/devices/me/{n}" for n in names]:
                seen.add(self.verdict(topic, payload))
            for number in ("0", "9" * 30, "-1"):
                seen.add(self.verdict(f"v2/fw/request/{number}/chunk/{number}", payload))
                seen.add(provision(self.platform, "/provision/request", payload.encode(), NOW).verdict)
                seen.add(provision(self.platform, number, payload.encode(), NOW).verdict)
        self.assertTrue(seen >= {Verdict.ACCEPTED, Verdict.BAD_PAYLOAD, Verdict.GATEWAY_FAULT, Verdict.LIMITED})
        wishes = ("provisionDeviceKey", "provisionDeviceSecret", "deviceName", "credentialsType", "token", "gateway")
        for wish in wishes:
            for value in shapes:
                request = f'{{"provisionDeviceKey":"k","provisionDeviceSecret":"s","{wish}":{value}}}'
                provision(self.platform, "/provision/request", request.encode(), NOW)
