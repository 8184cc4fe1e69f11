"""Rows of the catalogue of scenarios (spec thingsboard-mqtt, 8; docs/scenarios.md) at the gateway's own client: its
connection and its own device. `test_gateway_rows` has those of the devices behind it. The other end is the sandbox."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from twisted.internet.defer import Deferred, succeed

from tbgw.errors import LinkDown, NoAnswer
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.model import RateLimit, SessionLimits
from tbgw.mqtt import ClientOptions, MQTTClientProtocol, ServerDisconnected
from tbgw.mqtt.packets import Connect, Publish, Subscribe
from tbgw.mqtt.versions import VersionChoice
from tbgw.sandbox.credentials import MQTT_BASIC, from_json
from tbgw.sandbox.profiles import ALLOW_CREATE, DeviceProfile
from tbgw.thingsboard import payloads, topics
from tbgw.uplink.client import CREDENTIALS_RETRY_SECONDS, LONGEST_CREDENTIALS_RETRY_SECONDS, Credentials, Uplink
from tbgw.uplink.exchange import Exchange
from tbgw.uplink.own_device import FIRST_NUMBER, REQUEST_SECONDS
from tbgw.uplink.provisioning import Login, Plan, parse_response, request
from tests.mqtt.memory import ClientRecord
from tests.sandbox.gateway import GatewayCase, packets_of
from tests.sandbox.joined import JoinedTests
from tests.sandbox.test_rows import ATTRIBUTES, TELEMETRY, C, S, V
from tests.uplink.test_client import Listener

VERSIONS: tuple[Literal[4, 5], ...] = (4, 5)


class ConnectRows(JoinedTests):
    """8.1 and 8.2: who we are, and what we ask to hear."""

    def begin(self, version: Literal[4, 5], credentials: Credentials, **options: Any) -> tuple[Uplink, Counters]:
        """An uplink of its own, after a second."""
        counters, listener = Counters(), options.pop("listener", None)
        uplink = Uplink(
            self.dial,
            "memory",
            credentials,
            clock=self.clock,
            events=Events(counters, self.clock.seconds),
            jitter=lambda: 0.5,
            versions=VersionChoice(version),
            **options,
        )
        if listener is not None:
            uplink.set_listener(listener)
        uplink.startService()
        self.addCleanup(self.end, uplink)
        self.settle()
        self.pass_time(1)
        return uplink, counters

    def end(self, uplink: Uplink) -> None:
        if uplink.running:
            uplink.stopService()
            self.settle()

    def turned_away(self, version: Literal[4, 5], credentials: Credentials) -> None:
        """It is not let in, says so, and does not try again before the time for that."""
        before = len(self.dial.wires)
        uplink, counters = self.begin(version, credentials)
        self.assertFalse(uplink.connected)
        self.assertEqual(counters.get("credentials_refused"), 1)
        self.pass_time(CREDENTIALS_RETRY_SECONDS - 2)
        self.assertEqual(len(self.dial.wires), before + 1)
        self.pass_time(2)
        self.assertEqual(len(self.dial.wires), before + 2)
        self.end(uplink)

    def test_rows_2_3_5_6_7_and_14(self) -> None:
        """A wrong token, a client id that nobody has, and nothing at all are each a refusal of who we are."""
        for credentials in (
            Credentials(username="wrongAccessToken"),
            Credentials("unknownClientId"),
            Credentials(""),
        ):
            for version in VERSIONS:
                self.turned_away(version, credentials)

    def test_rows_1_4_11_and_12(self) -> None:
        """With the token as user name we are its device, with our own client id or none; nobody else is."""
        for version in VERSIONS:
            for client_id, password in (("", None), ("mine", None), ("random", b"random")):
                uplink, _ = self.begin(version, Credentials(client_id, "device-token", password))
                self.assertTrue(uplink.connected)
                done = uplink.publish(TELEMETRY, b'{"a":%d}' % version)
                self.settle()
                self.assertEqual(self.successResultOf(done), 0)
                self.assertEqual((self.latest("Plain"), self.latest("Gateway")), ({"a": version}, {}))
                self.end(uplink)

    def test_rows_8_to_10_and_13(self) -> None:
        """MQTT basic: the client id alone, with a user name that is also a token, with a password, right and wrong."""
        for name, fields in (
            ("Alone", {"client_id": "meter-7"}),
            ("Both", {"client_id": "c", "username": "shared"}),
            ("All", {"client_id": "c", "username": "u", "password": "p"}),
        ):
            self.control.create(name, credentials=from_json({"kind": MQTT_BASIC, **fields}))
        self.control.create("Other", credentials=from_json({"token": "shared"}))
        for version in VERSIONS:
            for name, credentials in (
                ("Alone", Credentials("meter-7")),
                ("Both", Credentials("c", "shared")),
                ("All", Credentials("c", "u", b"p")),
            ):
                uplink, _ = self.begin(version, credentials)
                self.assertTrue(uplink.connected, name)
                uplink.publish(TELEMETRY, b'{"a":%d}' % version)
                self.settle()
                self.assertEqual((self.latest(name), self.latest("Other")), ({"a": version}, {}))
                self.end(uplink)
            self.turned_away(version, Credentials("c", "u", b"wrong"))

    def test_row_15(self) -> None:
        """Of two with one token the first is sent away with 0x8E, says so, and leaves the second alone for a time."""
        first, counters = self.begin(5, Credentials(username="device-token"))
        second, others = self.begin(5, Credentials(username="device-token"))
        self.assertEqual((first.connected, second.connected), (False, True))
        self.pass_time(CREDENTIALS_RETRY_SECONDS - 3)
        self.assertEqual((first.connected, second.connected), (False, True))
        self.assertEqual((counters.get("sessions_taken_over"), others.get("sessions_taken_over")), (1, 0))

    def test_row_16(self) -> None:
        """Our device is deleted: the session ends at once, and we are refused until there is one again."""
        for version in VERSIONS:
            uplink, counters = self.begin(version, Credentials(username="device-token"))
            self.control.delete("Plain")
            self.settle()
            self.assertFalse(uplink.connected)
            self.pass_time(5)
            self.assertEqual(counters.get("credentials_refused"), 1)
            self.platform.add_credentials("device-token", "Plain")
            self.pass_time(LONGEST_CREDENTIALS_RETRY_SECONDS)
            self.assertTrue(uplink.connected)
            self.end(uplink)

    def test_rows_24_145_and_147(self) -> None:
        """A filter that is not granted is told, one by one, patterns among them; those beside it work."""
        refused = ("wrong/topic/+", "v1/devices/me/#", "#", "$share/g/v1/devices/me/attributes")
        for version in VERSIONS:
            uplink, counters = self.begin(
                version,
                Credentials(username="device-token"),
                subscriptions=(ATTRIBUTES, *refused, topics.DEVICE_RPC_REQUEST + "+", "v1/devices/me/rpc/response/+"),
            )
            self.assertTrue(uplink.connected)
            self.assertEqual(counters.get("subscriptions_refused"), len(refused))
            listener = Listener()
            uplink.set_listener(listener)
            self.control.set_attributes("Plain", {"k": version})
            self.successResultOf(self.control.call("Plain", "get", two_way=False))
            self.settle()
            (update, call) = listener.told
            self.assertEqual(update, (ATTRIBUTES, b'{"k":%d}' % version))
            self.assertTrue(call[0].startswith(topics.DEVICE_RPC_REQUEST))
            self.end(uplink)

    def test_rows_23_25_and_26(self) -> None:
        """
        The codes of SUBSCRIBE and UNSUBSCRIBE, at our MQTT library: the gateway itself never unsubscribes, since all
        that it asks for is for as long as the session.
        """
        for version in VERSIONS:
            told = ClientRecord()
            options = ClientOptions(client_id="c", username="device-token", protocol_version=version)
            client = MQTTClientProtocol(options, told, self.clock)
            self.successResultOf(self.dial.connect(_Given(client)))
            self.settle()
            self.answered(client.subscribe([(ATTRIBUTES, 0)]), 0)
            self.answered(client.unsubscribe([ATTRIBUTES]), 0)
            self.answered(client.unsubscribe([ATTRIBUTES]), 0x11 if version == 5 else 0)
            self.answered(client.subscribe([(ATTRIBUTES, 2)]), 1)
            client.disconnect()
            self.settle()
            self.assertEqual(told.names()[-1], "disconnected")

    def test_row_17(self) -> None:
        """
        A client that takes packets of 99 bytes at most, as our library lets it say: what is longer is not pushed, what
        fits is. (The gateway itself says what its decoder takes, far above all that ThingsBoard sends.)
        """
        told = ClientRecord()
        options = ClientOptions(client_id="c", username="device-token", protocol_version=5, max_packet_bytes=99)
        client = MQTTClientProtocol(options, told, self.clock)
        self.successResultOf(self.dial.connect(_Given(client)))
        self.settle()
        self.answered(client.subscribe([(ATTRIBUTES, 1)]), 1)
        for length in (198, 49):
            self.control.set_attributes("Plain", {"k": "x" * length})
            self.settle()
        self.assertEqual([one.payload for one in told.values("message")], [b'{"k":"%b"}' % (b"x" * 49)])
        self.assertNotIn("disconnected", told.names())
        client.disconnect()
        self.settle()

    def answered(self, asked: Deferred[list[int]], code: int) -> None:
        """It has this one code."""
        self.settle()
        self.assertEqual(self.successResultOf(asked), [code])

    def test_rows_93_and_94(self) -> None:
        """The limits that the server tells are the session's: a device's, and a gateway's with its children's."""
        own = {"messages": "20:600", "telemetryMessages": "10:600", "telemetryDataPoints": "40:600"}
        children = {"messages": "100:600", "telemetryMessages": "50:600,9:1", "telemetryDataPoints": None}
        self.control.set_limits({"maxPayloadSize": 20_000, "rateLimits": own, "gatewayRateLimits": children})
        for version in VERSIONS:
            for token in ("device-token", "gateway-token"):
                listener = Listener()
                uplink, _ = self.begin(version, Credentials(username=token), listener=listener)
                expected = SessionLimits(
                    max_payload_bytes=20_000,
                    own_messages=(RateLimit(20, 600),),
                    own_telemetry=(RateLimit(10, 600),),
                    own_points=(RateLimit(40, 600),),
                )
                if token == "gateway-token":
                    expected = replace(
                        expected,
                        messages=(RateLimit(100, 600),),
                        telemetry=(RateLimit(50, 600), RateLimit(9, 1)),
                    )
                self.assertEqual(listener.told, [("up", expected)])
                self.end(uplink)

    def test_rows_113_and_114(self) -> None:
        """
        The connection that asks to be provisioned subscribes to the response and says nothing but its request. Other
        topics are not granted there, and to publish to one ends it with 0x90.
        """
        self.control.set_profile(DeviceProfile("thermo", strategy=ALLOW_CREATE, key="key", secret="secret"))
        login = Login("ACCESS_TOKEN", token="t", device_name="New")
        asked = request(Plan("ACCESS_TOKEN", "key", "secret"), login, "")
        options = ClientOptions(client_id="provision", username="provision", protocol_version=5)
        exchange = Exchange(asked, options, self.clock)
        exchange.begin(self.dial)
        self.settle()
        came = self.successResultOf(exchange.answer)
        assert isinstance(came, bytes)
        self.assertEqual(parse_response(came, login, ""), login)
        _, subscribe, publish, *_ = packets_of(self.dial.wires[0], 5)
        self.assertEqual([(one.topic_filter, one.qos) for one in subscribe.filters], [("/provision/response", 1)])
        self.assertEqual((publish.topic, publish.payload), ("/provision/request", asked))
        told = ClientRecord()
        client = MQTTClientProtocol(options, told, self.clock)
        self.successResultOf(self.dial.connect(_Given(client)))
        self.settle()
        self.answered(client.subscribe([("/provision/response", 1)]), 1)
        self.answered(client.subscribe([(ATTRIBUTES, 1)]), 0x8F)
        done = client.publish(TELEMETRY, b'{"a":1}')
        self.settle()
        self.assertEqual(self.successResultOf(done), 0x90)
        reason = told.reason()
        assert isinstance(reason, ServerDisconnected)
        self.assertEqual(reason.reason_code, 0x90)


class _Given:
    """A factory of the one protocol that is there."""

    def __init__(self, protocol: MQTTClientProtocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: Any) -> MQTTClientProtocol:
        return self._protocol


class OwnDeviceRows(GatewayCase):
    """The gateway's own device, on MQTT 5."""

    def done(self, deferred: Any, seconds: float = 0.0) -> Any:
        """What it fires with."""
        self.settle()
        self.pass_time(seconds)
        return self.successResultOf(deferred)

    def history(self, key: str, device: str = "Gateway") -> list[Any]:
        return [value for _, value in self.view.history(device, key, 0)]

    def profile(self, **fields: Any) -> None:
        """The profile of the gateway."""
        self.control.set_profile(DeviceProfile("default", **fields))

    def test_rows_18_and_19(self) -> None:
        """
        Before CONNACK we say nothing at all, whatever waits: more than the hundred messages that the server would hold
        go out after it, in order, each once.
        """
        self.control.cut()
        self.settle()
        self.clock.advance(2)
        self.assertEqual(len(self.dial.wires), 2)
        for number in range(150):
            self.own.publish_telemetry({"n": number}, ts_ms=number)
            self.assertEqual(len(self.dial.wires[-1].client_transport.writes), 1)
        self.settle()
        self.pass_time(1)
        self.assertEqual(self.history("n"), list(range(150)))
        connect, *others = self.packets()
        self.assertIsInstance(connect, Connect)
        said = [one for one in others if isinstance(one, Publish) and one.topic == TELEMETRY]
        self.assertEqual((len(said), len(self.dial.wires)), (150, 2))

    def test_rows_28_29_and_36(self) -> None:
        """Values of every type, at the time of saying and at another, are stored as they are."""
        self.assertEqual(self.done(self.own.publish_telemetry(V)), "")
        self.assertEqual(self.latest("Gateway"), V)
        now = self.shown("Gateway")["telemetry"]["key1"]["ts"]
        self.assertEqual(now, self.now_ms())
        self.assertEqual(self.done(self.own.publish_telemetry(V, ts_ms=10_000)), "")
        self.assertEqual(self.view.history("Gateway", "key3", 0), [(10_000, 3.0), (now, 3.0)])

    def test_rows_30_to_33(self) -> None:
        """
        Telemetry on the short topics, and on the profile's own; ours is unknown there, which is told on MQTT 5 and
        neither ends the session nor is tried again. (With `shortTopics` it arrives: `ShortTopicsRows`.)
        """
        self.profile(telemetry_filter="data/telemetry")
        for number, topic in enumerate(("v2/t", "v2/t/j", "data/telemetry")):
            payload = payloads.encode({"ts": 10_000 + number, "values": V})
            self.assertEqual(self.done(self.uplink.publish(topic, payload)), 0)
        self.assertEqual([ts for ts, _ in self.view.history("Gateway", "key1", 0)], [10_000, 10_001, 10_002])
        told = self.done(self.own.publish_telemetry({"a": 1}))
        self.assertEqual("0x90" in told, self.version == 5)
        self.pass_time(60)
        self.assertNotIn("a", self.latest("Gateway"))
        said = [one for one in self.packets() if isinstance(one, Publish) and one.topic == TELEMETRY]
        self.assertEqual((len(said), len(self.dial.wires)), (1, 1))

    def test_rows_22_34_and_35(self) -> None:
        """
        A payload that is no JSON: with the profile's flag it is acknowledged; without, MQTT 5 tells the reason, and
        3.1.1 ends the session, after which there is another one.
        """
        self.profile(telemetry_filter="data/telemetry", acknowledge_bad_payloads=True)
        bad = b'{"key1":, "key2":1}'
        code = self.done(self.uplink.publish("data/telemetry", bad))
        self.assertEqual((code, len(self.dial.wires)), (0x99 if self.version == 5 else 0, 1))
        self.profile(telemetry_filter="data/telemetry")
        answer = self.uplink.publish("data/telemetry", bad)
        self.settle()
        if self.version == 5:
            self.assertEqual((self.successResultOf(answer), len(self.dial.wires)), (0x99, 1))
        else:
            self.failureResultOf(answer, LinkDown)
            self.assertFalse(self.uplink.connected)
            self.pass_time(5)
            self.assertEqual((self.uplink.connected, len(self.dial.wires)), (True, 2))

    def test_row_44(self) -> None:
        """Client attributes of every type."""
        self.assertEqual(self.done(self.own.publish_attributes(V)), "")
        self.assertEqual(self.attributes("Gateway"), V)

    def test_rows_46_50_and_143(self) -> None:
        """Attributes of both scopes are asked for together, by name, one of each, and all that there are."""
        answer = self.done(self.own.request_attributes())
        self.assertEqual((answer.client, answer.shared), ({}, {}))
        self.own.publish_attributes(C)
        self.control.set_attributes("Gateway", S)
        answer = self.done(self.own.request_attributes(list(C), list(S)))
        self.assertEqual((answer.client, answer.shared), (C, S))
        answer = self.done(self.own.request_attributes(["clientStr"], ["sharedStr"]))
        self.assertEqual((answer.client, answer.shared), ({"clientStr": "value1"}, {"sharedStr": "value1"}))
        answer = self.done(self.own.request_attributes())
        self.assertEqual((answer.client, answer.shared), (C, S))

    def test_rows_51_52_54_and_56(self) -> None:
        """Shared attributes that are set, written twice, deleted, are told in order; a profile's own filter for them
        takes nothing from who listens on the usual topic."""
        told: list[Any] = []
        self.own.add_shared_listener(lambda values, deleted: told.append((dict(values), list(deleted))))
        for fields in ({}, {"shared_attributes_filter": "v1/devices/me/subscribeattributes"}):
            self.profile(**fields)
            self.control.cut()
            self.pass_time(5)
            self.control.set_attributes("Gateway", S)
            self.control.set_attributes("Gateway", {"k": 1})
            self.control.set_attributes("Gateway", {"k": 2})
            self.control.delete_attributes("Gateway", ["sharedJson"])
            self.settle()
            self.assertEqual(told, [(S, []), ({"k": 1}, []), ({"k": 2}, []), ({}, ["sharedJson"])])
            told.clear()

    def test_rows_77_78_83_and_92(self) -> None:
        """One-way and two-way calls to the gateway itself, with their parameters as they are."""
        asked: list[Any] = []

        def carry_out(method: str, params: Any) -> Any:
            asked.append((method, params))
            return succeed({"value1": "A", "value2": "B"})

        self.downlink.set_own_commands(carry_out)
        called = self.control.call("Gateway", "setGpio", {"pin": "23", "value": 1}, two_way=False)
        self.assertEqual(self.done(called), (200, ""))
        called = self.control.call("Gateway", "setGpio", {"pin": "26", "value": 1})
        answer = self.done(called)
        self.assertEqual(answer.status, 200)
        self.assertEqual(payloads.decode(answer.body.encode()), {"value1": "A", "value2": "B"})
        self.done(self.control.call("Gateway", "getValue", True))
        self.assertEqual(
            asked,
            [
                ("setGpio", {"pin": "23", "value": 1}),
                ("setGpio", {"pin": "26", "value": 1}),
                ("getValue", True),
            ],
        )

    def test_rows_91_and_162(self) -> None:
        """A call of ours, and what the rule chain says; when it says nothing, there is no answer, in words."""
        self.control.set_switches({"client_rpc_answers": {"getResponse": {"response": "requestReceived"}}})
        self.assertEqual(self.done(self.own.rpc("getResponse", True)), {"response": "requestReceived"})
        unanswered = self.own.rpc("open", {}, timeout_seconds=90)
        self.settle()
        self.pass_time(59)
        self.assertNoResult(unanswered)
        self.pass_time(2)
        self.assertIn("rule chain", str(self.failureResultOf(unanswered, NoAnswer).value))

    def test_rows_100_to_102(self) -> None:
        """A claim that is over, one that the customer makes use of, a second customer, and one without a secret."""
        self.done(self.own.claim("value", 1), 0.1)
        self.assertEqual(self.control.claim("Gateway", "Customer", "value"), "FAILURE")
        self.done(self.own.claim("value", 60_000))
        self.assertEqual(self.control.claim("Gateway", "Customer", "value"), "SUCCESS")
        self.assertEqual(self.control.claim("Gateway", "Customer", "value"), "CLAIMED")
        for duration_ms in (None, 60_000):
            self.control.unclaim("Gateway")
            self.done(self.own.claim(None, duration_ms))
            self.assertEqual(self.control.claim("Gateway", "Customer"), "SUCCESS")

    def test_rows_116_117_and_142(self) -> None:
        """Numbers that the server keeps as numbers and those that become texts, numeric texts, and null."""
        values = {"e": 1e22, "big": 99701010061400066001, "d": 42.0, "l": 11, "s": "007", "x": "1e5", "n": None}
        self.assertEqual(self.done(self.own.publish_telemetry(values)), "")
        expected = {"e": "1" + "0" * 22, "big": "99701010061400066001", "d": 42.0, "l": 11, "s": 7, "x": "1e5"}
        self.assertEqual(self.latest("Gateway"), expected)

    def test_row_118(self) -> None:
        """
        A server without the type cast refuses a number beyond 64 bits: whoever said it is told, on 3.1.1 after a few
        sessions that ended with it; what else was said arrives, and texts stay texts.
        """
        self.control.set_switches({"type_cast": False})
        told = self.own.publish_telemetry({"big": 99701010061400066001})
        self.settle()
        self.own.publish_telemetry({"l": 2**63 - 1, "s": "007"})
        self.own.publish_attributes({"s": "1.0"})
        self.pass_time(60)
        self.assertIn("0x99" if self.version == 5 else "session", self.successResultOf(told))
        self.assertEqual(self.latest("Gateway"), {"l": 2**63 - 1, "s": "007"})
        self.assertEqual(self.attributes("Gateway"), {"s": "1.0"})
        self.assertEqual((self.uplink.connected, len(self.dial.wires)), (True, 1 if self.version == 5 else 4))

    def test_rows_119_to_121(self) -> None:
        """What the SDK's device client does: telemetry, attributes, questions in either scope, two who listen."""
        values = {"temperature": 41.9, "humidity": 69, "enabled": False, "currentFirmwareVersion": "v1.2.2"}
        self.assertEqual(self.done(self.own.publish_telemetry(values)), "")
        self.assertEqual(self.done(self.own.publish_attributes({"sensorModel": "DHT-22", "atr3": "value3"})), "")
        self.assertEqual(self.latest("Gateway"), values)
        self.control.set_attributes("Gateway", {"attr": "hello"})
        answer = self.done(self.own.request_attributes(shared_keys=["attr"]))
        self.assertEqual((answer.client, answer.shared), ({}, {"attr": "hello"}))
        answer = self.done(self.own.request_attributes(["atr3"]))
        self.assertEqual((answer.client, answer.shared), ({"atr3": "value3"}, {}))
        told: list[Any] = []
        self.own.add_shared_listener(lambda values, deleted: told.append(("one", values.get("attr"))))
        self.own.add_shared_listener(lambda values, deleted: told.append(("all", dict(values))))
        self.control.set_attributes("Gateway", {"attr": 5})
        self.settle()
        self.assertEqual(told, [("one", 5), ("all", {"attr": 5})])

    def test_row_131(self) -> None:
        """Each session is a new one: it is asked for clean, subscribed anew, and nothing of the last is waited for."""
        told: list[Any] = []
        self.own.add_shared_listener(lambda values, deleted: told.append(dict(values)))
        for number in range(3):
            connect, subscribe = self.packets()[:2]
            self.assertTrue(connect.clean_start)
            self.assertEqual([one.topic_filter for one in subscribe.filters], list(topics.GATEWAY_SUBSCRIPTIONS))
            self.control.set_attributes("Gateway", {"heard": number})
            self.settle()
            self.control.cut()
            self.settle()
            self.control.set_attributes("Gateway", {"away": number})
            self.pass_time(10)
        self.assertEqual(told, [{"heard": 0}, {"heard": 1}, {"heard": 2}])

    def test_row_136(self) -> None:
        """The longest payload that we let ourselves send is one that the server takes, on either version; were it not
        for that, longer ones would end the session."""
        limits = SessionLimits()
        largest = payloads.payload_limit(limits, topics.DEVICE_TELEMETRY, 1 << 20)
        text = "x" * (largest - len('{"ts":1,"values":{"a":""}}'))
        self.assertEqual(self.done(self.uplink.publish(TELEMETRY, b'{"ts":1,"values":{"a":"%b"}}' % text.encode())), 0)
        self.assertEqual(self.latest("Gateway"), {"a": text})
        self.assertIn("longer than", self.done(self.own.publish_telemetry({"a": "x" * 65_537})))
        self.assertEqual((self.uplink.connected, len(self.dial.wires)), (True, 1))
        answer = self.uplink.publish(TELEMETRY, b'{"a":"%b"}' % (b"x" * 65_536))
        self.settle()
        self.failureResultOf(answer, LinkDown)

    def test_rows_133_134_and_146(self) -> None:
        """We leave no will, and neither say nor ask for anything at QoS 2; a cut says nothing to anybody."""
        self.say(t=1)
        self.own.publish_telemetry({"a": 1})
        self.own.request_attributes(["a"])
        self.settle()
        connect, *others = self.packets()
        assert isinstance(connect, Connect)
        self.assertIsNone(connect.will)
        self.assertEqual({one.qos for one in others if isinstance(one, Publish)}, {1})
        (subscribe,) = [one for one in others if isinstance(one, Subscribe)]
        self.assertEqual({one.qos for one in subscribe.filters}, {1})
        self.control.cut()
        self.settle()
        self.assertEqual((self.latest("Gateway"), self.latest("Plain")), ({"a": 1}, {}))

    def test_row_139(self) -> None:
        """A time that is none ends the session; whoever said it is told, and there is another one."""
        answer = self.uplink.publish(TELEMETRY, b'{"ts":null,"values":{"a":1}}')
        self.settle()
        self.failureResultOf(answer, LinkDown)
        self.assertFalse(self.uplink.connected)
        self.pass_time(5)
        self.assertTrue(self.uplink.connected)
        self.done(self.own.publish_telemetry({"a": 2}, ts_ms=None))
        self.assertEqual(self.view.history("Gateway", "a", 0), [(self.now_ms(), 2)])

    def test_rows_140_and_141(self) -> None:
        """A time as text is taken; `ts` and `values` of ours are values like others, whatever stands in them."""
        answer = self.uplink.publish(TELEMETRY, b'{"ts":"1451649600512","values":{"t":1}}')
        self.assertEqual(self.done(answer), 0)
        self.assertEqual(self.view.history("Gateway", "t", 0), [(1451649600512, 1)])
        self.done(self.own.publish_telemetry({"values": {"a": 1}}, ts_ms=1))
        self.done(self.own.publish_telemetry({"ts": "x", "values": {"a": 2}}, ts_ms=2))
        self.assertEqual(self.view.history("Gateway", "values", 0), [(1, {"a": 1}), (2, {"a": 2})])
        self.assertEqual(self.view.history("Gateway", "ts", 0), [(2, "x")])

    def test_row_144(self) -> None:
        """
        What is no number is refused, or ends a session of 3.1.1, and one below zero has no answer; so ours are whole
        and above zero, also when they begin anew.
        """
        topic = f"{topics.DEVICE_ATTRIBUTES_REQUEST}%s"
        if self.version == 5:
            self.assertEqual(self.done(self.uplink.publish(topic % "abc", b"{}")), 0x99)
        received = self.uplink.received_messages
        self.assertEqual(self.done(self.uplink.publish(topic % -1, b"{}"), REQUEST_SECONDS), 0)
        self.assertEqual(self.uplink.received_messages, received)
        for last, expected in ((FIRST_NUMBER, FIRST_NUMBER + 1), (2**31 - 2, 2**31 - 1), (2**31 - 1, 1)):
            self.own._last_question = last
            self.done(self.own.request_attributes(["a"]))
            said = [one.topic for one in self.packets() if isinstance(one, Publish)]
            self.assertEqual(said[-1], topic % expected)
        if self.version == 4:
            answer = self.uplink.publish(topic % "abc", b"{}")
            self.settle()
            self.failureResultOf(answer, LinkDown)


class OwnDeviceRows311(OwnDeviceRows):
    """The same on MQTT 3.1.1."""

    version = 4


class OwnFilterRows(GatewayCase):
    """A client that is told to subscribe to the filter that the profile has for shared attributes."""

    own_filter = "v1/devices/me/subscribeattributes"
    subscriptions = (own_filter, topics.DEVICE_RPC_RESPONSE + "+")

    def test_row_54(self) -> None:
        """What is set and deleted is told, on the usual topic."""
        told: list[Any] = []
        self.own.add_shared_listener(lambda values, deleted: told.append((dict(values), list(deleted))))
        self.assertEqual(self.counters.get("subscriptions_refused"), 1)
        self.control.set_profile(DeviceProfile("default", shared_attributes_filter=self.own_filter))
        self.control.cut()
        self.pass_time(5)
        self.assertEqual(self.counters.get("subscriptions_refused"), 1)
        self.control.set_attributes("Gateway", S)
        self.control.delete_attributes("Gateway", ["sharedJson"])
        self.settle()
        self.assertEqual(told, [(S, []), ({}, ["sharedJson"])])


class ShortTopicsRows(GatewayCase):
    """With `shortTopics`."""

    short_topics = True

    def test_rows_33_47_53_and_79(self) -> None:
        """Where the profile has topics of its own: telemetry, attributes, questions, updates and calls arrive."""
        self.control.set_profile(
            DeviceProfile("default", telemetry_filter="data/telemetry", attributes_filter="data/attributes")
        )
        told: list[Any] = []
        self.own.add_shared_listener(lambda values, deleted: told.append((dict(values), list(deleted))))
        self.downlink.set_own_commands(lambda method, params: succeed({method: params}))
        self.own.publish_telemetry(V)
        self.own.publish_attributes(C)
        self.settle()
        self.assertEqual((self.latest("Gateway"), self.attributes("Gateway")), (V, C))
        self.control.set_attributes("Gateway", S)
        self.control.delete_attributes("Gateway", ["sharedJson"])
        self.settle()
        self.assertEqual(told, [(S, []), ({}, ["sharedJson"])])
        asked = self.own.request_attributes(list(C), ["sharedStr"])
        called = self.control.call("Gateway", "setGpio", {"pin": "26"})
        self.settle()
        answer = self.successResultOf(asked)
        self.assertEqual((answer.client, answer.shared), (C, {"sharedStr": "value1"}))
        self.assertEqual(payloads.decode(self.successResultOf(called).body.encode()), {"setGpio": {"pin": "26"}})
        long = [one.topic for one in self.packets() if isinstance(one, Publish) and one.topic.startswith("v1/devices")]
        self.assertEqual(long, ["v1/devices/me/rpc/request/1"])


class ShortTopicsRows311(ShortTopicsRows):
    """The same on MQTT 3.1.1."""

    version = 4
