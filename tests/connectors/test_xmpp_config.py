"""Tests of the XMPP connector's file."""

from __future__ import annotations

from typing import Any

from tbgw.config.findings import Severity
from tbgw.config.values import Refused
from tbgw.connectors.xmpp.config import XMPPConfig, parse
from tbgw.model import ReportStrategy, ReportType
from tests.config.fakes import FolderCase, tree

SERVER = {"jid": "gateway@example.org", "password": "canary-9"}
DEVICE = {"jid": "device@example.org/TMP_1101", "deviceNameExpression": "${serialNumber}"}


class XMPPConfigTests(FolderCase):
    """Account, devices, and every spelling."""

    def parse(self, server: Any = SERVER, device: Any = DEVICE, **value: Any) -> XMPPConfig:
        return parse(tree({"server": server, "devices": [device], **value}, "xmpp.json"), self.reporter)

    def test_defaults(self):
        """Account and device need little; what is left out is safe: no readable password (X-20)."""
        found = self.parse()
        server = found.server
        self.assertEqual((server.host, server.port, server.timeout_ms), (None, None, 10_000))
        self.assertTrue(found.needs_tls and server.stream_management)
        self.assertTrue(server.force_starttls)
        self.assertFalse(server.direct_tls or server.disable_starttls or server.unencrypted_plain_auth)
        self.assertEqual(server.plugins, ("xep_0030", "xep_0323", "xep_0325"))
        self.assertEqual(found.devices[0].profile, "default")
        self.assertEqual(self.lines(), [])

    def test_starttls_spellings(self):
        """The keys of STARTTLS are read in snake case and in camel case."""
        for disable, force in (("disable_starttls", "force_starttls"), ("disableStarttls", "forceStarttls")):
            server = self.parse({**SERVER, disable: True, force: False}).server
            self.assertEqual((server.disable_starttls, server.force_starttls), (True, False))
        self.assertEqual(self.lines(Severity.FAULT, Severity.DOUBT), [])
        self.assertEqual(len(self.lines(Severity.WARNING)), 2)

    def test_contradiction(self):
        """Never encrypting and insisting on it at once is a fault, when both are said."""
        self.parse({**SERVER, "disable_starttls": True, "force_starttls": True})
        self.assertEqual(len(self.faults()), 1)

    def test_mapping(self):
        """Datapoints, updates, RPC and strategies are read; telemetry is another word for timeseries."""
        device = {
            **DEVICE,
            "attributes": [{"key": "temperature", "value": "${temp}"}],
            "telemetry": [{"key": "both", "value": "${temp}:${hum}", "reportStrategy": {"type": "ON_CHANGE"}}],
            "attributeUpdates": [{"attributeOnThingsBoard": "shared"}],
            "serverSideRpc": [{"methodRPC": "rpc1", "withResponse": False}],
        }
        found = self.parse(device=device, sendDataOnlyOnChange=True)
        (read,) = found.devices
        self.assertEqual((read.attributes[0].key, read.attributes[0].value), ("temperature", "${temp}"))
        self.assertEqual(read.timeseries[0].report, ReportStrategy(ReportType.ON_CHANGE))
        self.assertEqual(read.attribute_updates[0].value, '{"${attributeKey}":"${attributeValue}"}')
        self.assertEqual((read.rpcs[0].value, read.rpcs[0].with_response), ("${params}", False))
        self.assertEqual(found.report, ReportStrategy(ReportType.ON_CHANGE))
        self.assertEqual(self.lines(), [])

    def test_faults(self):
        """Bad JIDs, open expressions and wrong values are faults."""
        for change in ({"port": 0}, {"password": ""}, {"timeout": 0}, {"host": "a b"}, {"plugins": [""]}):
            before = len(self.faults())
            self.parse({**SERVER, **change})
            self.assertEqual(len(self.faults()), before + 1, change)
        self.assertRaises(Refused, self.parse, {**SERVER, "jid": "a b@c"})
        self.assertEqual(len(self.faults()), 6)
        for device in (
            {**DEVICE, "jid": "@x"},
            {**DEVICE, "deviceNameExpression": "${serialNumber"},
            {**DEVICE, "attributes": [{"key": "a", "value": "${}"}]},
            {**DEVICE, "timeseries": [{"key": "a"}]},
        ):
            before = len(self.faults())
            self.parse(device=device)
            self.assertEqual(len(self.faults()), before + 1, device)

    def test_no_server(self):
        """Without account nothing can be made of the file, and the fault says so."""
        self.assertRaises(Refused, self.parse, server=None)
        self.assertIn("xmpp.json:1: server: is missing", self.faults()[0])

    def test_sample_password(self):
        """The sample's password loads, with a warning."""
        self.parse({**SERVER, "password": "password"})
        self.assertIn("sample", self.lines(Severity.WARNING)[0])

    def test_secrets_stay_secret(self):
        """Neither the section nor a finding shows the password (P-11)."""
        self.assertNotIn("canary", repr(self.parse()))
        self.parse({**SERVER, "password": ["canary-9"]})
        self.assertNotEqual(self.faults(), [])
        self.assertNotIn("canary", "\n".join(self.lines()))

    def test_same_device_twice(self):
        """A JID that stands twice is a doubt."""
        parse(tree({"server": SERVER, "devices": [DEVICE, DEVICE]}), self.reporter)
        self.assertEqual(len(self.lines(Severity.DOUBT)), 1)


class ServerConfigTests(FolderCase):
    """The object `server` by itself."""

    def server(self, **keys: Any) -> Any:
        section = {key: value for key, value in {**SERVER, **keys}.items() if value is not None}
        return parse(tree({"server": section, "devices": [DEVICE]}, "xmpp.json"), self.reporter).server

    def check_fault(self, text: str, **keys: Any) -> None:
        before = self.faults()
        self.server(**keys)
        (fault,) = [line for line in self.faults() if line not in before]
        self.assertIn(text, fault)

    def test_needs_tls(self):
        """OpenSSL is loaded unless the file says never to encrypt."""
        self.assertTrue(self.server().needs_tls)
        self.assertTrue(self.server(force_starttls=False).needs_tls)
        self.assertTrue(self.server(use_ssl=True, disable_starttls=True).needs_tls)
        self.assertFalse(self.server(disable_starttls=True).needs_tls)
        self.assertFalse(self.server(component=True, jid="devices.example.org").needs_tls)

    def test_logins(self):
        """A password is needed, unless a certificate, or no name, takes its place."""
        self.check_fault("password: is missing", password=None)
        self.assertIsNone(self.server(password=None, jid="example.org").password)
        before = len(self.lines(Severity.DOUBT))
        self.server(jid="example.org")
        self.assertEqual(len(self.lines(Severity.DOUBT)), before + 1)

    def test_password_file(self):
        """The password may stand in a file of its own, which nobody else should read (P-12)."""
        path = self.reporter.config_dir / "password"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("canary-9\n")
        path.chmod(0o600)
        server = self.server(password=None, passwordFile="password")
        self.assertEqual(server.password.reveal(), "canary-9")
        self.assertEqual(self.lines(), [])
        self.assertNotIn("canary", repr(server))
        path.chmod(0o644)
        self.server(password=None, passwordFile="password")
        self.assertIn("every user", self.lines(Severity.WARNING)[0])
        self.check_fault("not both", passwordFile="password")
        path.write_text("\n")
        self.server(password=None, passwordFile="password")
        self.assertIn("in one line", "\n".join(self.faults()))

    def test_component(self):
        """A component's JID is its domain; it does not go over a network readable, unless that is said."""
        self.check_fault("domain alone", component=True, host="localhost")
        self.check_fault("no STARTTLS", component=True, jid="devices.example.org", host="xmpp.example.org")
        self.check_fault("password: is missing", component=True, jid="devices.example.org", password=None)
        for keys in ({"use_ssl": True}, {"disable_starttls": True}, {"host": "127.0.0.1"}):
            before = self.faults()
            self.server(**{"component": True, "jid": "devices.example.org", "host": "xmpp.example.org", **keys})
            self.assertEqual(self.faults(), before)

    def test_resource(self):
        """The resource stands in the JID or by itself, not in both."""
        self.assertEqual(self.server(resource="line-4").jid, "gateway@example.org/line-4")
        self.check_fault("in jid as well", jid="gateway@example.org/x", resource="line-4")

    def test_words(self):
        """Mechanisms and plugins that do not exist: a fault, and a warning."""
        self.assertEqual(self.server(mechanisms=["scram-sha-256"]).mechanisms, ("SCRAM-SHA-256",))
        self.check_fault("is none of", mechanisms=["SCRAM-MD5"])
        before = len(self.lines(Severity.WARNING))
        self.server(plugins=["xep_0323", "xep_9999"])
        self.assertEqual(len(self.lines(Severity.WARNING)), before + 1)

    def test_password_that_none_may_be(self):
        """A password that SASLprep prohibits is found before the first login."""
        self.check_fault("SASLprep", password="canary\u0007")
        self.assertNotIn("canary", "\n".join(self.faults()))

    def test_tls_files(self):
        """Certificate and key belong together; not to verify warns."""
        path = self.reporter.config_dir / "own.pem"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
        self.check_fault("needs both", tls={"certificate": "own.pem"})
        self.check_fault("cannot be used together", tls={"certificate": "own.pem", "privateKey": "own.pem"})
        self.server(tls={"dangerouslyAcceptAnyServerCertificate": True})
        self.assertIn("not verified", self.lines(Severity.WARNING)[0])
