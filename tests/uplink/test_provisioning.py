"""What is said in provisioning: requests without a null, answers of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.uplink.provisioning import Login, Plan, Refusal, parse_response, request

MEMBERS = ("status", "credentialsType", "credentialsValue", "clientId", "userName", "errorMsg")
PLAN = Plan("AUTO", "key", "canary-secret")


class RequestTests(SynchronousTestCase):
    """Requests, by the spec's table of fields."""

    def body(self, login: Login, pem: str = "") -> dict[str, Any]:
        found = json.loads(request(PLAN, login, pem))
        assert isinstance(found, dict)
        self.assertNotIn(None, found.values(), "ThingsBoard closes the connection on a null")
        self.assertEqual((found.pop("provisionDeviceKey"), found.pop("gateway")), ("key", True))
        self.assertEqual((found.pop("provisionDeviceSecret"), found.pop("deviceName")), ("canary-secret", "G"))
        return found

    def test_every_type(self) -> None:
        """The fields of each type; what is not given is left out."""
        self.assertEqual(self.body(Login("ACCESS_TOKEN", device_name="G")), {})
        self.assertEqual(
            self.body(Login("ACCESS_TOKEN", token="t", device_name="G")),
            {"credentialsType": "ACCESS_TOKEN", "token": "t"},
        )
        self.assertEqual(
            self.body(Login("MQTT_BASIC", client_id="c", username="u", device_name="G")),
            {"credentialsType": "MQTT_BASIC", "clientId": "c", "username": "u"},
        )
        self.assertEqual(
            self.body(Login("X509_CERTIFICATE", device_name="G"), "PEM"),
            {"credentialsType": "X509_CERTIFICATE", "hash": "PEM"},
        )

    def test_secrets_are_not_shown(self) -> None:
        """P-11: no repr has a secret."""
        login = Login("MQTT_BASIC", token="canary1", username="u", password="canary2")
        plan = Plan("AUTO", "canary3", "canary4", token="canary5", password="canary6")
        self.assertNotIn("canary", repr(login) + repr(plan))


class ResponseTests(SynchronousTestCase):
    """Answers."""

    def parse(self, body: Any, asked: Login | None = None, pem: str = "") -> Login | Refusal:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        return parse_response(payload, asked or Login("ACCESS_TOKEN", device_name="G"), pem)

    def granted(self, kind: str, value: Any) -> dict[str, Any]:
        return {"status": "SUCCESS", "credentialsType": kind, "credentialsValue": value}

    def test_granted(self) -> None:
        """A token, basic credentials with ThingsBoard's spelling, our own certificate."""
        self.assertEqual(self.parse(self.granted("ACCESS_TOKEN", "t")), Login("ACCESS_TOKEN", "t", device_name="G"))
        value = {"clientId": "c", "userName": "u", "password": None}
        self.assertEqual(
            self.parse(self.granted("MQTT_BASIC", value)),
            Login("MQTT_BASIC", client_id="c", username="u", device_name="G"),
        )
        asked = Login("X509_CERTIFICATE", certificate=Path("c"), private_key=Path("k"), device_name="G")
        pem = "-----BEGIN CERTIFICATE-----\nAB\nCD\n-----END CERTIFICATE-----\n"
        self.assertIs(self.parse(self.granted("X509_CERTIFICATE", "ABCD"), asked, pem), asked)

    def test_older_spelling(self) -> None:
        """Servers of old say provisionDeviceStatus and accessToken."""
        body = {"provisionDeviceStatus": "SUCCESS", "accessToken": "t"}
        self.assertEqual(self.parse(body), Login("ACCESS_TOKEN", "t", device_name="G"))

    def test_refused(self) -> None:
        """Status and words of ThingsBoard."""
        body = {"status": "NOT_FOUND", "errorMsg": "Provision data was not found!"}
        self.assertEqual(self.parse(body), Refusal("NOT_FOUND", "Provision data was not found!"))
        self.assertEqual(self.parse({}), Refusal("None", ""))

    def test_no_use(self) -> None:
        """Another's certificate, an unknown type, a value of the wrong kind, no JSON: an error without the secret."""
        asked = Login("X509_CERTIFICATE", certificate=Path("c"), private_key=Path("k"))
        with self.assertRaisesRegex(ValueError, "another certificate"):
            self.parse(self.granted("X509_CERTIFICATE", "canary"), asked, "AB")
        for body in (
            self.granted("LWM2M_CREDENTIALS", "canary"),
            self.granted("ACCESS_TOKEN", {"canary": 1}),
            self.granted("MQTT_BASIC", {"password": "canary"}),
            self.granted("X509_CERTIFICATE", "canary"),
            [1],
            b"canary",
        ):
            with self.assertRaises(ValueError) as caught:
                self.parse(body)
            self.assertNotIn("canary", str(caught.exception))

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(MEMBERS), inner),
        )
    )
    def test_anything(self, body: Any) -> None:
        """P-21: whatever comes is a login, a refusal, or a ValueError."""
        try:
            found = self.parse(body)
        except ValueError:
            return
        self.assertIsInstance(found, Login | Refusal)
