"""Limits, profiles and the nasty behaviours (spec thingsboard-mqtt, 6, 2.1, 3.4, 3.10, 8.10, Appendix B)."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial import unittest

from tbgw.mqtt.packets import Disconnect, PingReq, PingResp, PubAck, Publish
from tbgw.sandbox.control import Refused
from tbgw.sandbox.profiles import DeviceProfile, from_json, topic_matches
from tbgw.sandbox.ratelimits import Limiter
from tests.sandbox.operated import OperatedTests

TELEMETRY, CHILDREN = "v1/devices/me/telemetry", "v1/gateway/telemetry"
RPC = "v1/devices/me/rpc/request/+"
V = {"key1": "value1", "key2": True, "key3": 3.0, "key4": 4, "key5": {"a": [1]}}


class LimiterTests(unittest.SynchronousTestCase):
    """One bucket after the other."""

    def limiter(self, messages: Any = None, telemetry: Any = None, points: Any = None) -> Limiter:
        return Limiter({"messages": messages, "telemetryMessages": telemetry, "telemetryDataPoints": points}, 0)

    def test_refills_continuously(self):
        """After draining, one token comes back every seconds/capacity, not all at once."""
        limiter = self.limiter("2:10")
        self.assertEqual([limiter.take(0, 0) for _ in range(3)], [True, True, False])
        self.assertEqual([limiter.take(0, 4999), limiter.take(0, 5000), limiter.take(0, 5000)], [False, True, False])
        self.assertTrue(limiter.take(0, 10_000))

    def test_every_pair_counts(self):
        """`2:1,3:60` lets two pass at once, and three in a minute."""
        limiter = self.limiter("2:1,3:60")
        self.assertEqual([limiter.take(0, 0) for _ in range(3)], [True, True, False])
        self.assertEqual([limiter.take(0, 1000), limiter.take(0, 2000)], [True, False])

    def test_kinds(self):
        """Data costs a telemetry message and its points, all else a message; too many points never pass."""
        limiter = self.limiter("1:600", "2:600", "5:600")
        self.assertTrue(limiter.take(0, 0))
        self.assertFalse(limiter.take(0, 0))
        self.assertTrue(limiter.take(5, 0))
        self.assertFalse(limiter.take(1, 0))
        self.assertFalse(self.limiter(points="5:1").take(6, 10_000_000))

    def test_texts(self):
        """One pair, two pairs, none; others are errors."""
        for text in ("100:60", "100:60,200:30", None, ""):
            self.limiter(text)
        for wrong in ("abc:1", "100", 5):
            self.assertRaises(ValueError, self.limiter, wrong)


OWN = {"messages": "20:600", "telemetryMessages": "10:600", "telemetryDataPoints": "40:600"}
GROUP = {"messages": "100:600", "telemetryMessages": "50:600", "telemetryDataPoints": "200:600"}


class SessionLimitTests(OperatedTests):
    """What is announced is enforced."""

    def limit(self, **limits):
        self.control.set_limits(limits)

    def test_announced(self):
        """The device hears of its own limits, the gateway also of those of its children."""
        self.limit(rateLimits=OWN, gatewayRateLimits=GROUP)
        request = {"method": "getSessionLimits", "params": {}}
        expected: dict[str, Any] = {"maxPayloadSize": 65536, "maxInflightMessages": 100, "rateLimits": OWN}
        both = {**expected, "gatewayRateLimits": GROUP}
        for token, answer in (("device-token", expected), ("gateway-token", both)):
            client = self.connect(token)
            ack, answered = client.publish("v1/devices/me/rpc/request/1", request)
            self.assertEqual((ack.reason_code, answered.topic), (0, "v1/devices/me/rpc/response/1"))
            self.assertEqual(json.loads(answered.payload), answer)

    def test_device(self):
        """A device over its limit is cut without PUBACK: 0x83, or a plain close; what came before is kept."""
        self.limit(rateLimits={"telemetryMessages": "1:600"})
        for version, name in ((5, "Plain"), (4, "Other")):
            if name == "Other":
                self.control.create("Other")
                self.control.set_token("Other", "other")
            device = self.connect("device-token" if name == "Plain" else "other", version)
            self.assertEqual(device.code(TELEMETRY, {"a": 1}), 0)
            end = device.publish(TELEMETRY, {"a": 2})
            self.assertEqual((end, device.closed), ([Disconnect(reason_code=0x83)] if version == 5 else [], True))
            self.assertEqual(self.latest(name), {"a": 1})

    def test_connect(self):
        """Over the limit of messages a CONNECT is refused with 0x9F, or 3."""
        self.limit(rateLimits={"messages": "1:600"})
        self.connect("device-token").lose()
        self.assertEqual(self.refused(username="device-token"), 0x9F)
        self.assertEqual(self.refused(4, username="device-token"), 3)

    def test_subscribe(self):
        """A SUBSCRIBE over the limit is granted and has no effect."""
        self.limit(rateLimits={"messages": "1:600"})
        device = self.connect("device-token")
        self.assertEqual(device.subscribe("v1/devices/me/attributes"), [])
        self.assertEqual(device.granted, [1])
        self.control.set_attributes("Plain", {"k": 1})
        self.assertEqual(device.received(), [])

    def test_first_contact(self):
        """A child costs two messages; where the second is refused, data is taken, and nothing is pushed to it."""
        self.limit(gatewayRateLimits={"messages": "3:600"})
        gateway = self.connect()
        self.assertEqual(gateway.code(CHILDREN, {"DeviceA": [{"a": 1}]}), 0)
        self.assertEqual(self.counters.get("sandbox_rate_limits_met"), 0)
        self.assertEqual(gateway.code(CHILDREN, {"DeviceB": [{"a": 1}]}), 0)
        self.assertEqual(self.counters.get("sandbox_rate_limits_met"), 1)
        self.assertEqual(self.latest("DeviceB"), {"a": 1})
        for name, count in (("DeviceA", 1), ("DeviceB", 0)):
            self.control.set_attributes(name, {"k": 1})
            self.assertEqual(len(gateway.received()), count)
        end = gateway.publish(CHILDREN, {"DeviceC": [{"a": 1}]})
        self.assertEqual(end, [Disconnect(reason_code=0x8B)])
        self.assertEqual(self.counters.get("sandbox_rate_limits_met"), 1)

    def test_children(self):
        """Children over their sum: PUBACK 0x97 and the end; the part that passed is kept."""
        for limits in ({"telemetryMessages": "1:600"}, {"telemetryDataPoints": "1:600"}):
            self.limit(gatewayRateLimits={"telemetryMessages": None, "telemetryDataPoints": None, **limits})
            for version, code in ((5, 0x97), (4, 0)):
                gateway = self.connect(version=version)
                ack, *end = gateway.publish(CHILDREN, {"DeviceA": [{"a": version}], "DeviceB": [{"a": version}]})
                self.assertEqual(ack.reason_code, code)
                self.assertEqual(end, [Disconnect(reason_code=0x83)] if version == 5 else [])
                self.assertTrue(gateway.closed)
                self.limit()  # new buckets
            self.assertEqual(self.latest("DeviceA"), {"a": 4})
            self.assertEqual(self.latest("DeviceB"), {})

    def test_children_before_4_2_1(self):
        """As told to: `v1/gateway/disconnect` with reason 150, then the end without PUBACK."""
        self.switches.tell_limits_as_before_4_2_1 = True
        self.limit(gatewayRateLimits={"telemetryMessages": "1:600"})
        gateway = self.connect()
        told, end = gateway.publish(CHILDREN, {"DeviceA": [{"a": 1}], "DeviceB": [{"a": 1}]})
        self.assertEqual(told.topic, "v1/gateway/disconnect")
        self.assertEqual(json.loads(told.payload), {"device": "DeviceB", "reason": 150})
        self.assertIsInstance(end, Disconnect)

    def test_own_traffic_of_a_gateway(self):
        """A gateway's own limits do not touch its children."""
        self.limit(rateLimits={"telemetryMessages": "1:600"})
        gateway = self.connect()
        for number in range(3):
            self.assertEqual(gateway.code(CHILDREN, {"A": [{"a": number}]}), 0)
        self.assertEqual(gateway.code(TELEMETRY, {"a": 1}), 0)
        self.assertEqual(gateway.publish(TELEMETRY, {"a": 2}), [Disconnect(reason_code=0x83)])
        self.assertEqual(self.counters.get("sandbox_rate_limits_met"), 1)

    def test_requests(self):
        """Attribute requests, replies to calls, claims and other calls cost a message; getSessionLimits none."""
        for topic, payload in (
            ("v1/devices/me/attributes/request/1", {}),
            ("v1/devices/me/rpc/response/0", {}),
            ("v1/devices/me/claim", {}),
            ("v1/devices/me/rpc/request/1", {"method": "open"}),
            ("v2/t", {}),
        ):
            self.limit(rateLimits={"messages": "1:600"})
            device = self.connect("device-token")
            for _ in range(3):
                device.publish("v1/devices/me/rpc/request/1", {"method": "getSessionLimits"})
            self.assertEqual(device.publish(topic, payload), [Disconnect(reason_code=0x83)], topic)

    def test_kept(self):
        """Limits outlive a restart of the sandbox; what is none is refused, and changes nothing."""
        self.limit(maxPayloadSize=1000, rateLimits={"messages": "5:1"})
        for wrong in ({"maxPayloadSize": 0}, {"x": 1}, {"rateLimits": {"messages": "x"}}, {"rateLimits": {"x": "1:1"}}):
            self.assertEqual(self.assertRaises(Refused, self.control.set_limits, wrong).status, 400)
        self.open()
        self.assertEqual(self.platform.session_limits["maxPayloadSize"], 1000)
        self.assertEqual(self.platform.session_limits["rateLimits"]["messages"], "5:1")

    def test_payload_limit(self):
        """The largest packet has a remaining length of exactly the limit, whatever that is."""
        for limit in (100, 200, 20_000, 65_536):
            self.limit(maxPayloadSize=limit)
            for excess in (0, 1):
                device = self.connect("device-token")
                overhead = 2 + len(TELEMETRY) + 2 + 1 + len('{"a":""}')
                packets = device.publish(TELEMETRY, '{"a":"%s"}' % ("x" * (limit - overhead + excess)))
                code = packets[0].reason_code
                self.assertEqual((type(packets[0]), code), ((PubAck, 0), (Disconnect, 0x95))[excess], (limit, excess))
                device.lose()


class ProfileTests(OperatedTests):
    """Device profiles with topics of their own."""

    def setUp(self):
        super().setUp()
        profile = DeviceProfile(
            "default",
            telemetry_filter="data/telemetry",
            attributes_filter="data/attributes",
            shared_attributes_filter="v1/devices/me/subscribeattributes",
            acknowledge_bad_payloads=True,
        )
        self.control.set_profile(profile)

    def test_topics(self):
        """Its own topics work, and the short ones; the long ones are unknown."""
        device = self.connect("device-token")
        for topic in ("data/telemetry", "v2/t", "v2/t/j"):
            self.assertEqual(device.code(topic, {"ts": 10_000, "values": V}), 0)
            self.assertEqual(self.latest("Plain"), V)
        for topic in ("data/attributes", "v2/a", "v2/a/j"):
            self.assertEqual(device.code(topic, V), 0)
        self.assertEqual({k: e["value"] for k, e in self.shown("Plain")["attributes"].items()}, V)
        self.assertEqual(device.code(TELEMETRY, V), 0x90)
        self.assertEqual(device.code("v1/devices/me/attributes", V), 0x90)

    def test_bad_payload(self):
        """With the flag 3.1.1 gets a PUBACK and stays; without it is closed; MQTT 5 is told either way."""
        device = self.connect("device-token", 4)
        self.assertEqual(device.code("data/telemetry", '{"key1":, "key2":1}'), 0)
        self.assertFalse(device.closed)
        device.lose()
        self.control.set_profile(DeviceProfile("default", telemetry_filter="data/telemetry"))
        device = self.connect("device-token", 4)
        self.assertEqual(device.publish("data/telemetry", '{"key1":, "key2":1}'), [])
        self.assertTrue(device.closed)
        device = self.connect("device-token", 5)
        self.assertEqual(device.code("data/telemetry", "{"), 0x99)
        self.assertFalse(device.closed)

    def test_own_subscription(self):
        """Its own filter may be subscribed; the messages come on the long topic all the same (2.1)."""
        device = self.connect("device-token")
        device.subscribe("v1/devices/me/subscribeattributes", "v1/devices/me/other")
        self.assertEqual(device.granted, [1, 0x8F])
        self.control.set_attributes("Plain", {"k": 1})
        self.control.delete_attributes("Plain", ["k"])
        topic = "v1/devices/me/attributes"
        self.assertEqual(device.pushed(), [(topic, {"k": 1}), (topic, {"deleted": ["k"]})])

    def test_kept(self):
        """Profiles outlive a restart."""
        self.open()
        self.assertEqual(self.platform.profiles["default"].telemetry_filter, "data/telemetry")

    def test_refused(self):
        """What is no profile is said so."""
        for value in (
            {},
            {"name": " "},
            {"name": "x", "strategy": "MAYBE"},
            {"name": "x", "strategy": "ALLOW_CREATE_NEW_DEVICES"},
            {"name": "x", "telemetry_filter": "a/#/b"},
            {"name": "x", "telemetry_filter": "a#"},
            {"name": "x", "acknowledge_bad_payloads": "yes"},
            {"name": "x", "other": 1},
            {"name": "x" * 256},
        ):
            self.assertRaises(ValueError, from_json, value)

    def test_filters(self):
        """Filters match as MQTT's do."""
        for topic_filter, topic, matches in (
            ("Sensor/Temperature/House/+", "Sensor/Temperature/House/48", True),
            ("Sensor/Temperature/House/+", "Sensor/Temperature", False),
            ("Sensor/+/House/#", "Sensor/Temperature/House/48", True),
            ("Sensor/#", "Sensor/Temperature/House/48", True),
            ("#", "/", True),
            ("#", "Sensor/Temp erature", True),
            ("Sensor/Temperature#", "Sensor/Temperature", False),
        ):
            self.assertEqual(topic_matches(topic_filter, topic), matches, (topic_filter, topic))


class NastyTests(OperatedTests):
    """Behaviours of the real server that clients have to live with; each can be had on request."""

    def test_packet_id_zero(self):
        """The next push at QoS 1 bears packet id 0, once, and its PUBACK is taken."""
        device = self.connect("device-token")
        device.subscribe("v1/devices/me/attributes")
        self.control.set_switches({"next_push_has_packet_id_zero": True})
        ids = []
        for number in range(2):
            self.control.set_attributes("Plain", {"k": number})
            (push,) = device.received()
            ids.append(push.packet_id)
            device.send(PubAck(packet_id=push.packet_id))
        self.assertEqual(ids[0], 0)
        self.assertNotEqual(ids[1], 0)
        self.assertFalse(device.closed)

    def test_late_subscription(self):
        """What is pushed right after the SUBACK is missed."""
        self.control.set_switches({"subscribe_late_ms": 200})
        device = self.connect("device-token")
        self.assertEqual(device.subscribe("v1/devices/me/attributes", "#"), [])
        self.assertEqual(device.granted, [1, 0x8F])
        self.control.set_attributes("Plain", {"k": 1})
        self.assertEqual(device.received(), [])
        self.clock.advance(0.3)
        self.control.set_attributes("Plain", {"k": 2})
        self.assertEqual(device.pushed(), [("v1/devices/me/attributes", {"k": 2})])

    def test_client_that_goes_before_its_subscription(self):
        """A subscription that comes too late for its client has no effect."""
        self.control.set_switches({"subscribe_late_ms": 200})
        device = self.connect("device-token")
        device.subscribe(RPC)
        device.lose()
        self.clock.advance(0.3)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_silent_child(self):
        """A child without data for ten minutes hears nothing more until it says something."""
        gateway = self.connect(keep_alive_seconds=0)
        gateway.publish("v1/gateway/connect", {"device": "A"})
        self.clock.advance(601)
        self.control.set_attributes("A", {"k": 1})
        self.assertEqual(gateway.received(), [])
        gateway.publish("v1/gateway/connect", {"device": "A"})
        self.control.set_attributes("A", {"k": 2})
        self.assertEqual(gateway.pushed(), [("v1/gateway/attributes", {"device": "A", "data": {"k": 2}})])

    def test_overwrite_activity_time(self):
        """With the flag each ping of the gateway is activity of every child."""
        self.control.set_gateway("Gateway", gateway=True, overwrite_activity_time=True)
        gateway = self.connect(keep_alive_seconds=0)
        gateway.publish("v1/gateway/connect", {"device": "A"})
        for _ in range(3):
            self.clock.advance(400)
            self.assertEqual(gateway.send(PingReq()), [PingResp()])
        self.control.set_attributes("A", {"k": 1})
        self.assertEqual(len(gateway.pushed()), 1)
        self.clock.advance(1300)
        self.assertFalse(self.shown("A")["connected"])

    def test_client_rpc(self):
        """A call of the device is answered as configured, with the time, or after a minute with a time-out."""
        self.control.set_switches({"client_rpc_answers": {"getResponse": {"response": "requestReceived"}}})
        device = self.connect("device-token")
        stem = "v1/devices/me/rpc/request/"
        _, answer = device.publish(stem + "42", {"method": "getResponse", "params": True})
        self.assertEqual(answer.topic, "v1/devices/me/rpc/response/42")
        self.assertEqual(json.loads(answer.payload), {"response": "requestReceived"})
        _, answer = device.publish("v2/r/req/7", {"method": "getCurrentTime", "params": {}})
        self.assertEqual(answer.topic, "v2/r/res/7")
        self.assertEqual(json.loads(answer.payload), {"time": "2023-11-14T22:13:20.000+00:00"})
        self.assertEqual(device.code(stem + "9", {"method": "open", "params": {}}), 0)
        self.clock.advance(59)
        self.assertEqual(device.received(), [])
        self.clock.advance(2)
        self.assertEqual(device.pushed(), [("v1/devices/me/rpc/response/9", {"error": "timeout"})])

    def test_latencies(self):
        """What metadata say of latencies becomes `gatewayMetrics` of the gateway every minute."""
        gateway = self.connect()
        now = self.now_ms()
        for received, published in ((30, 10), (70, 30)):
            metadata = {"connector": "connectorA", "receivedTs": now - received, "publishedTs": now - published}
            gateway.publish(CHILDREN, {"A": [{"ts": now, "values": {"k": 1}, "metadata": metadata}]})
        self.clock.advance(61)
        self.assertEqual(
            self.latest("Gateway")["gatewayMetrics"],
            {
                "connectorA": {
                    "avgGwLatency": 30,
                    "minGwLatency": 20,
                    "maxGwLatency": 40,
                    "avgTransportLatency": 20,
                    "minTransportLatency": 10,
                    "maxTransportLatency": 30,
                }
            },
        )
        self.clock.advance(120)
        self.assertEqual(len(self.view.history("Gateway", "gatewayMetrics", 0)), 1)

    def test_switches_refused(self):
        """What is no switch, or no value for it, changes nothing."""
        for wrong in (
            {"x": True},
            {"session_present": 1},
            {"rpc_strategy": "MAYBE"},
            {"subscribe_late_ms": -1},
            {"refuse_credentials": True, "x": 1},
        ):
            self.assertEqual(self.assertRaises(Refused, self.control.set_switches, wrong).status, 400)
        self.assertFalse(self.switches.refuse_credentials)

    def test_no_memory_of_sessions(self):
        """Nothing is stored for a session, no message is routed, no will is published (8.14: 131, 133)."""
        other = self.connect("gateway-token")
        other.subscribe("v1/devices/me/attributes")
        device = self.connect("device-token")
        device.publish("v1/devices/me/attributes", {"k": 1})
        device.lose()
        self.assertEqual(other.received(), [])

    def test_qos_2(self):
        """QoS 2 is answered as MQTT wants it; a client must not need it (8.14: 134)."""
        device = self.connect("device-token")
        packets = device.send(Publish(topic=TELEMETRY, payload=b'{"a":1}', qos=2, packet_id=9))
        self.assertEqual(len(packets), 1)
        self.assertEqual(self.latest("Plain"), {"a": 1})
