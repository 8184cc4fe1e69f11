"""Devices without credentials, and every kind of them (spec thingsboard-mqtt, 1.1, 5.1, 5.2, 8.1, 8.11)."""

from __future__ import annotations

import json

from tbgw.mqtt.packets import ConnAck, Connect, Disconnect, PubAck, Publish, Subscribe, Subscription
from tbgw.sandbox.credentials import MQTT_BASIC, X509_CERTIFICATE, Credentials, from_json, sha3
from tbgw.sandbox.profiles import ALLOW_CREATE, CHECK_PRE_PROVISIONED, DISABLED, DeviceProfile
from tests.sandbox.operated import Client, OperatedTests

KEY, SECRET = "u7piawkboq8v32dmcmpp", "jpmwdn8ptlswmf4m29bw"
REQUEST, RESPONSE = "/provision/request", "/provision/response"
NOT_FOUND = {"status": "NOT_FOUND", "errorMsg": "Provision data was not found!"}
FAILURE = {"status": "FAILURE", "errorMsg": "Failed to provision device!"}


class ProvisionTests(OperatedTests):
    """`/provision/request` and who comes in by it."""

    def setUp(self):
        super().setUp()
        self.strategy(ALLOW_CREATE)

    def strategy(self, strategy):
        self.control.set_profile(DeviceProfile("thermo", strategy=strategy, key=KEY, secret=SECRET))

    def ask(self, version=4, **fields):
        """The response to one request on a connection of its own."""
        client = self.connect("provision", version)
        ack, answer = client.publish(
            REQUEST, {"provisionDeviceKey": KEY, "provisionDeviceSecret": SECRET, **fields}
        )
        self.assertEqual(ack.reason_code, 0)
        self.assertEqual((answer.topic, answer.qos), (RESPONSE, 1))
        client.lose()
        return json.loads(answer.payload)

    def test_token(self):
        """A new device gets a token of the server's making, and comes in with it, of the profile's name."""
        for version in (4, 5):
            answer = self.ask(version, deviceName=f"New {version}")
            self.assertEqual((answer["status"], answer["credentialsType"]), ("SUCCESS", "ACCESS_TOKEN"))
            device = self.connect(answer["credentialsValue"], version)
            self.assertEqual(device.code("v2/t", {"a": version}), 0)
            self.assertEqual(self.latest(f"New {version}"), {"a": version})
            self.assertEqual(self.shown(f"New {version}")["profile"], "thermo")

    def test_given_token(self):
        """A token that the device brings is kept, over a restart, too."""
        answer = self.ask(deviceName="New", credentialsType="ACCESS_TOKEN", token="test_token")
        self.assertEqual(answer["credentialsValue"], "test_token")
        self.connect("test_token").lose()
        self.open()
        self.connect("test_token")
        self.assertEqual(self.ask(deviceName="Other", token="test_token"), FAILURE)
        self.assertNotIn("Other", [device["name"] for device in self.view.devices()])

    def test_basic(self):
        """MQTT basic credentials; in the answer the user name's N is a capital."""
        answer = self.ask(
            deviceName="New",
            credentialsType="MQTT_BASIC",
            clientId="test_clientId",
            username="test_username",
            password="test_password",
        )
        self.assertEqual(
            answer,
            {
                "status": "SUCCESS",
                "credentialsType": "MQTT_BASIC",
                "credentialsValue": {
                    "clientId": "test_clientId",
                    "userName": "test_username",
                    "password": "test_password",
                },
            },
        )
        held = self.platform.credentials.of(self.platform.devices["New"].id)
        assert held is not None
        self.assertEqual(held.id, sha3("test_clientId|test_username"))
        self.connect("test_username", client_id="test_clientId", password=b"test_password")

    def test_certificate(self):
        """The text of a certificate is kept and told without armour, and found by its hash."""
        pem = "-----BEGIN CERTIFICATE-----\ntest\nHash\n-----END CERTIFICATE-----\n"
        answer = self.ask(deviceName="New", credentialsType="X509_CERTIFICATE", hash=pem)
        self.assertEqual(answer["credentialsValue"], "testHash")
        held = self.platform.credentials.of(self.platform.devices["New"].id)
        assert held is not None
        self.assertEqual((held.kind, held.id), (X509_CERTIFICATE, sha3("testHash")))

    def test_gateway(self):
        """The device may say that it is a gateway."""
        answer = self.ask(deviceName="New", gateway=True)
        gateway = self.connect(answer["credentialsValue"])
        self.assertEqual(gateway.code("v1/gateway/connect", {"device": "A"}), 0)
        self.assertTrue(self.shown("New")["gateway"])

    def test_names(self):
        """Without a name twenty letters and digits; only blanks are a failure, and so is a name that is taken."""
        self.assertEqual(self.ask()["status"], "SUCCESS")
        name = next(device["name"] for device in self.view.devices() if device["profile"] == "thermo")
        self.assertRegex(name, r"^[A-Za-z0-9]{20}$")
        self.assertEqual(self.ask(deviceName="  "), FAILURE)
        self.assertEqual(self.ask(deviceName=f" {name} "), FAILURE)

    def test_pre_provisioned(self):
        """A device that waits for it gets the credentials that it has, once; others fail."""
        self.strategy(CHECK_PRE_PROVISIONED)
        held = Credentials(MQTT_BASIC, username="u", password="p")
        self.control.create("Waiting", "thermo", credentials=held)
        self.control.create("Other profile", "pump", credentials=Credentials(MQTT_BASIC, username="v"))
        self.assertEqual(self.ask(deviceName="Other profile"), FAILURE)
        answer = self.ask(deviceName="Waiting", credentialsType="ACCESS_TOKEN", token="ignored")
        self.assertEqual(
            answer["credentialsValue"], {"clientId": "", "userName": "u", "password": "p"}
        )
        self.assertEqual(self.ask(deviceName="Waiting"), FAILURE)
        self.assertEqual(self.ask(deviceName="Nobody"), FAILURE)

    def test_not_found(self):
        """A wrong key or secret, or a profile that provisions nobody."""
        self.assertEqual(self.ask(provisionDeviceKey="wrong"), NOT_FOUND)
        self.assertEqual(self.ask(provisionDeviceSecret="wrong"), NOT_FOUND)
        self.strategy(DISABLED)
        self.assertEqual(self.ask(deviceName="New"), NOT_FOUND)

    def test_bad_requests(self):
        """No JSON, a member that is null or missing, and an unknown type: each with its own code and end."""
        for payload, code in (
            ("no JSON", 0x99),
            ("[]", 0x99),
            ({"provisionDeviceKey": KEY}, 0x83),
            ({"provisionDeviceKey": KEY, "provisionDeviceSecret": SECRET, "token": None}, 0x83),
            ({"provisionDeviceKey": KEY, "provisionDeviceSecret": SECRET, "credentialsType": "X"}, 0x83),
        ):
            client = self.connect("provision")
            ack, *end = client.publish(REQUEST, payload)
            self.assertEqual(ack.reason_code, code)
            self.assertEqual(end, [Disconnect(reason_code=0x83)] if code == 0x83 else [])
            self.assertEqual(client.closed, code == 0x83)
            older = self.connect("provision", 4)
            acks = older.publish(REQUEST, payload)
            self.assertEqual((len(acks), older.closed), (int(code == 0x83), True))

    def test_session(self):
        """By user name or client id; only the response may be subscribed; other topics end the session."""
        client = self.connect(None, client_id="provision")
        client.subscribe(RESPONSE, "v1/devices/me/attributes")
        self.assertEqual(client.granted, [1, 0x8F])
        ack, end = client.publish("v1/devices/me/telemetry", {"a": 1})
        self.assertEqual((ack.reason_code, end), (0x90, Disconnect(reason_code=0x90)))
        client = self.connect("provision", 4)
        client.subscribe(RESPONSE, "#", qos=0)
        self.assertEqual(client.granted, [0, 0x80])
        _, answer = client.publish(REQUEST, {"provisionDeviceKey": KEY, "provisionDeviceSecret": SECRET})
        self.assertEqual(answer.qos, 0)

    def test_ends(self):
        """A minute after the first response the server closes; before, several requests may come."""
        client = self.connect("provision")
        for _ in range(2):
            client.publish(REQUEST, {"provisionDeviceKey": KEY, "provisionDeviceSecret": SECRET})
        self.clock.advance(59)
        self.assertEqual((client.received(), client.closed), ([], False))
        self.clock.advance(2)
        self.ended(client, 0)

    def test_goes_before(self):
        """A client that leaves before leaves nothing behind."""
        client = self.connect("provision")
        client.publish(REQUEST, {"provisionDeviceKey": KEY, "provisionDeviceSecret": SECRET})
        client.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_too_many_devices(self):
        """Without room it is a failure."""
        for device in range(self.limits.max_devices - 2):
            self.platform.devices[f"d{device}"] = self.platform.devices["Plain"]
        self.assertEqual(self.ask(deviceName="New"), FAILURE)


class CredentialsTests(OperatedTests):
    """MQTT basic credentials, tokens, and which goes first."""

    def give(self, name, **fields):
        self.control.create(name, credentials=from_json(fields))

    def who(self, **fields):
        """The name of the device that a CONNECT comes in as, or the code of the refusal."""
        client_id = fields.pop("client_id", "any")
        accepted = self.platform.connect(fields.get("username"), fields.get("password"), client_id, 5)
        return accepted[0].device.name if isinstance(accepted, tuple) else accepted.code(5)

    def test_client_id_alone(self):
        """A stored client id is enough, if nothing else was stored."""
        self.give("A", kind=MQTT_BASIC, client_id="meter-7")
        self.assertEqual(self.who(client_id="meter-7"), "A")
        self.assertEqual(self.who(client_id="meter-8"), 0x85)
        self.assertEqual(self.who(client_id="meter-7", username="x"), 0x86)

    def test_client_id_and_user_name(self):
        """Both together go before a token of the same text; with another client id the token is found."""
        self.give("A", kind=MQTT_BASIC, client_id="c", username="shared")
        self.give("B", token="shared")
        self.assertEqual(self.who(client_id="c", username="shared"), "A")
        self.assertEqual(self.who(client_id="d", username="shared"), "B")

    def test_password(self):
        """A wrong or missing password is refused for good; 0x86, or 5 on MQTT 3.1.1."""
        self.give("A", kind=MQTT_BASIC, client_id="c", username="u", password="p")
        self.assertEqual(self.who(client_id="c", username="u", password=b"p"), "A")
        self.assertEqual(self.who(client_id="c", username="u", password=b"q"), 0x86)
        self.assertEqual(self.who(client_id="c", username="u"), 0x86)
        self.assertEqual(self.refused(4, username="u", password=b"q", client_id="c"), 5)
        self.assertEqual(self.shown("A")["lastActivity"], self.now_ms())

    def test_user_name_alone(self):
        """With a stored user name any client id will do."""
        self.give("A", kind=MQTT_BASIC, username="u", password="p")
        self.assertEqual(self.who(username="u", password=b"p"), "A")
        self.assertEqual(self.who(username="u", password=b"q"), 0x86)

    def test_token_needs_no_more(self):
        """With a token neither client id nor password are looked at."""
        self.give("A", token="t")
        self.assertEqual(self.who(username="t", password=b"random", client_id="random"), "A")
        device = self.connect("t", client_id="")
        self.assertEqual(device.code("v2/t", {"k": 1}), 0)
        self.assertEqual((self.latest("A"), self.latest("Plain")), ({"k": 1}, {}))

    def test_refusals(self):
        """Each combination of what was missing has its code (1.2)."""
        for fields, five, four in (
            ({"username": "wrong"}, 0x86, 5),
            ({"username": "wrong", "password": b"p"}, 0x86, 5),
            ({"client_id": "unknownClientId"}, 0x85, 2),
            ({"client_id": ""}, 0x87, 5),
        ):
            self.assertEqual(self.refused(5, **fields), five)
            self.assertEqual(self.refused(4, **fields), four)

    def test_secrets_are_not_shown(self):
        """P-11: no repr has a secret."""
        shown = [
            Credentials("ACCESS_TOKEN", token="canary"),
            Credentials(MQTT_BASIC, username="u", password="canary"),
            DeviceProfile("p", strategy=ALLOW_CREATE, key="k", secret="canary"),
        ]
        self.assertNotIn("canary", repr(shown))

    def test_stored_credentials(self):
        """Basic credentials need a client id or a user name, and a password a user name."""
        for fields in (
            {"kind": MQTT_BASIC},
            {"kind": MQTT_BASIC, "client_id": "c", "password": "p"},
            {"kind": "X509_CERTIFICATE"},
            {"kind": "LWM2M"},
            {"token": " "},
            {"token": 5},
            {"other": "x"},
        ):
            self.assertRaises(ValueError, from_json, fields)

    def test_provision_before_all(self):
        """`provision` as user name is never a token (1.1)."""
        self.give("A", token="provision")
        client = self.connect("provision")
        self.assertEqual(client.publish("v2/t", {"k": 1})[0].reason_code, 0x90)

    def test_own_packets(self):
        """What was sent together with CONNECT is taken in order after it (1.4)."""
        first = Client(self, 5)
        packets = first.send(
            Connect(username="device-token", client_id="c", protocol_version=5),
            Subscribe(packet_id=1, filters=(Subscription(topic_filter="v2/a", qos=1),)),
            *(
                Publish(topic="v2/t", payload=b'{"ts":%d,"values":{"k":%d}}' % (n, n), qos=1, packet_id=10 + n)
                for n in range(10)
            ),
        )
        self.assertEqual(packets[0], ConnAck())
        self.assertEqual([p.packet_id for p in packets if isinstance(p, PubAck)], list(range(10, 20)))
        self.assertEqual([value for _, value in self.view.history("Plain", "k", 0)], list(range(10)))


class ClaimTests(OperatedTests):
    """Claims of devices and children, and the customer's side (5.1)."""

    CLAIM = "v1/devices/me/claim"

    def setUp(self):
        super().setUp()
        self.device = self.connect("device-token")

    def test_claimed(self):
        """With the right secret in time the device is the customer's; a second time it is taken."""
        self.device.code(self.CLAIM, {"secretKey": "value", "durationMs": 60000})
        self.assertEqual(self.control.claim("Plain", "Customer", "value"), "SUCCESS")
        self.assertEqual(self.control.device_as_json("Plain")["customer"], "Customer")
        self.assertEqual(self.control.claim("Plain", "Other", "value"), "CLAIMED")
        self.device.code(self.CLAIM, {"secretKey": "value"})
        self.control.unclaim("Plain")
        self.assertEqual(self.control.claim("Plain", "Other", "value"), "FAILURE")

    def test_expired(self):
        """A claim that is over is a failure."""
        self.device.code(self.CLAIM, {"secretKey": "value", "durationMs": 1})
        self.clock.advance(1)
        self.assertEqual(self.control.claim("Plain", "Customer", "value"), "FAILURE")

    def test_wrong_secret(self):
        """A failed attempt takes the claim away."""
        self.device.code(self.CLAIM, {"secretKey": "value", "durationMs": 60000})
        self.assertEqual(self.control.claim("Plain", "Customer", "wrong"), "FAILURE")
        self.assertEqual(self.control.claim("Plain", "Customer", "value"), "FAILURE")

    def test_without_secret(self):
        """No secret and no payload at all stand for an empty secret and a day."""
        for payload in ("", "{}", {"durationMs": 60000}):
            self.device.code(self.CLAIM, payload)
            self.assertEqual(self.control.claim("Plain", "Customer"), "SUCCESS")
            self.control.unclaim("Plain")

    def test_first_stands(self):
        """While a claim stands another one changes nothing."""
        self.device.code(self.CLAIM, {"secretKey": "first", "durationMs": 60000})
        self.device.code(self.CLAIM, {"secretKey": "second", "durationMs": 60000})
        self.assertEqual(self.control.claim("Plain", "Customer", "first"), "SUCCESS")

    def test_children(self):
        """A gateway claims for its children, which are created on the way."""
        gateway = self.connect()
        self.assertEqual(gateway.code("v1/gateway/claim", {"A": {"secretKey": "s", "durationMs": 60000}, "B": {}}), 0)
        self.assertEqual(self.control.claim("A", "Customer", "s"), "SUCCESS")
        self.assertEqual(self.control.claim("B", "Customer"), "SUCCESS")
