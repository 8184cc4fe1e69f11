"""A gateway without credentials gets them from the sandbox, keeps them, and uses them at its next start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tbgw.sandbox.credentials import X509_CERTIFICATE, Credentials, certificate_text
from tbgw.sandbox.profiles import ALLOW_CREATE, CHECK_PRE_PROVISIONED, DeviceProfile
from tbgw.tls import ServerTLS
from tests.scenarios.own import OwnCase
from tests.test_tls import authority, issue

KEY, SECRET = "pr0visionKey", "canary-provision-secret"


class ProvisioningCase(OwnCase):
    """A gateway whose credentials are kept in a file."""

    @property
    def kept(self) -> Path:
        return self.folder.path / "credentials.json"


class ProvisioningTests(ProvisioningCase):
    """Over plain TCP."""

    def setUp(self) -> None:
        super().setUp()
        self.control.set_profile(DeviceProfile("Gateways", strategy=ALLOW_CREATE, key=KEY, secret=SECRET))

    def provision(self, **keys: Any) -> None:
        self.configure(provisioning={"provisionDeviceKey": KEY, "provisionDeviceSecret": SECRET, **keys})

    async def provisioned(self, name: str = "Gate", **options: Any) -> None:
        """The first run, and a second that asks nobody; no secret in either's output."""
        first = self.gateway(**options)
        await self.line(first, "provisioned as")
        await self.line(first, "connected to ThingsBoard")
        self.assertTrue(self.control.device_as_json(name)["gateway"])
        await self.stop(first)
        self.assertEqual(self.kept.stat().st_mode & 0o777, 0o600)
        value = json.loads(self.kept.read_bytes())["credentialsValue"]
        count = len(self.sandbox.view.devices())
        second = self.gateway(**options)
        await self.line(second, "connected to ThingsBoard")
        await self.stop(second)
        self.assertEqual(len(self.sandbox.view.devices()), count)
        output = first.output + second.output
        self.assertNotIn("provisioned as", second.output)
        for secret in (SECRET, value if isinstance(value, str) else value["password"]):
            self.assertNotIn(secret, output)

    async def test_made_by_the_server(self) -> None:
        """The least there is to say: key and secret, and a name."""
        self.provision(deviceName="Gate")
        await self.provisioned()

    async def test_token(self) -> None:
        """A token of our own choice, on MQTT 3.1.1."""
        keys = {"provisionDeviceKey": KEY, "provisionDeviceSecret": SECRET, "access_token": "canary-t0ken"}
        self.configure(mqttVersion="3.1.1", provisioning={**keys, "deviceName": "Gate"})
        await self.provisioned()
        self.assertEqual(json.loads(self.kept.read_bytes())["credentialsValue"], "canary-t0ken")

    async def test_basic(self) -> None:
        """Client id, user name and password, made up here."""
        self.provision(type="MQTT_BASIC", deviceName="Gate")
        await self.provisioned()

    async def test_environment(self) -> None:
        """All by environment variables, with a token in the file that gives way."""
        self.configure(security={"accessToken": "notThisOne1"})
        env = {
            "TB_GW_PROVISIONING_DEVICE_KEY": KEY,
            "TB_GW_PROVISIONING_DEVICE_SECRET": SECRET,
            "TB_GW_PROVISIONING_DEVICE_NAME": "Gate",
            "TB_GW_PROVISIONING_DEVICE_USERNAME": "gate",
            "TB_GW_PROVISIONING_DEVICE_PASSWORD": "canary-pass",
        }
        await self.provisioned(env=env)

    async def test_refused(self) -> None:
        """A wrong secret is said, with what to do about it, and the gateway lives on."""
        self.configure(provisioning={"provisionDeviceKey": KEY, "provisionDeviceSecret": "canary-wrong"})
        gateway = self.gateway()
        line = await self.line(gateway, "does not provision")
        self.assertIn("NOT_FOUND", line)
        self.assertIn("check provisionDeviceKey", line)
        await self.stop(gateway)
        self.assertNotIn("canary", gateway.output)

    async def test_pre_provisioned(self) -> None:
        """A device that an operator made: its own credentials are taken, whatever was asked for."""
        self.control.set_profile(
            DeviceProfile("Known", strategy=CHECK_PRE_PROVISIONED, key="knownKey", secret="knownSecret1")
        )
        self.control.create("Gate", "Known", gateway=True)
        self.control.set_token("Gate", "operators-token")
        self.configure(
            provisioning={
                "provisionDeviceKey": "knownKey",
                "provisionDeviceSecret": "knownSecret1",
                "deviceName": "Gate",
            }
        )
        gateway = self.gateway()
        await self.line(gateway, "connected to ThingsBoard")
        await self.stop(gateway)
        self.assertEqual(json.loads(self.kept.read_bytes())["credentialsValue"], "operators-token")


class CertificateTests(ProvisioningCase):
    """X.509 over TLS, with a key made on the box."""

    def setUp(self) -> None:
        files = Path(self.mktemp()).absolute()
        files.mkdir(parents=True)
        root = authority("tests")
        server = issue("localhost", root, hosts=("localhost",))
        (files / "cert.pem").write_bytes(server.pem)
        (files / "key.pem").write_bytes(server.key_pem())
        self.sandbox_options = {"tls": ServerTLS(files / "cert.pem", files / "key.pem")}
        super().setUp()
        self.root = root.pem
        self.control.set_profile(DeviceProfile("Gateways", strategy=ALLOW_CREATE, key=KEY, secret=SECRET))

    async def test_certificate(self) -> None:
        """Asked for over TLS that is verified; the same certificate proves us at the next start."""
        (self.folder.etc / "ca.pem").write_bytes(self.root)
        self.configure(
            host="localhost",
            port=self.sandbox.tls_port,
            provisioning={
                "type": "X509_CERTIFICATE",
                "caCert": "ca.pem",
                "provisionDeviceKey": KEY,
                "provisionDeviceSecret": SECRET,
                "deviceName": "Gate",
            },
        )
        for _ in range(2):
            gateway = self.gateway()
            await self.line(gateway, r"connected to ThingsBoard at localhost:\d+ \(TLS\)")
            await self.until(lambda: "certificateDaysLeft" in str(self.sandbox.view.devices()), "the attribute")
            await self.stop(gateway)
        keys = list(self.folder.path.glob("credentials-*.key.pem"))
        self.assertEqual([key.stat().st_mode & 0o777 for key in keys], [0o600])

    async def test_renewed(self) -> None:
        """Near its end: a new one is told in an attribute; put in by the operator, the gateway goes over to it."""
        (self.folder.etc / "ca.pem").write_bytes(self.root)
        self.configure(
            host="localhost",
            port=self.sandbox.tls_port,
            security={"certificateDaysLeft": 365},
            provisioning={
                "type": "X509_CERTIFICATE",
                "caCert": "ca.pem",
                "provisionDeviceKey": KEY,
                "provisionDeviceSecret": SECRET,
                "deviceName": "Gate",
            },
        )
        gateway = self.gateway()
        await self.line(gateway, "connected to ThingsBoard")

        def told() -> Any:
            gate = next(one for one in self.sandbox.view.devices() if one["name"] == "Gate")
            return gate["attributes"].get("newCertificate", {}).get("value")

        await self.until(told, "newCertificate")
        new = Credentials(X509_CERTIFICATE, certificate=certificate_text(told()))
        self.control.set_credentials("Gate", new)
        await self.line(gateway, "refused the credentials")
        await self.line(gateway, "connected to ThingsBoard")

        def kept() -> str:
            name = json.loads(self.kept.read_bytes())["certificate"]
            return certificate_text((self.folder.path / name).read_text())

        await self.until(lambda: kept() == new.certificate, "the new one is kept")
        await self.line(gateway, "ends in 364 day")
        await self.stop(gateway)
        self.assertEqual(len(list(self.folder.path.glob("credentials-*.pem"))), 4, "the next successor waits")

    async def test_other_authority(self) -> None:
        """C-21: a server that is not proven is not told the secret."""
        (self.folder.etc / "ca.pem").write_bytes(authority("others").pem)
        self.configure(
            host="localhost",
            port=self.sandbox.tls_port,
            provisioning={"caCert": "ca.pem", "provisionDeviceKey": KEY, "provisionDeviceSecret": SECRET},
        )
        gateway = self.gateway()
        await self.line(gateway, "certificate of localhost is refused")
        await self.line(gateway, "no credentials yet")
        await self.stop(gateway)
        self.assertEqual(len(self.sandbox.view.devices()), 1)
