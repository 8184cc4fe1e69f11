"""What the file says of the listener, of logins and of limits."""

from __future__ import annotations

from typing import Any

from tbgw.config.findings import Severity
from tbgw.connectors.ocpp.config import OCPPConfig, parse
from tbgw.connectors.ocpp.passwords import hash_password
from tbgw.ocpp.versions import Version
from tests.config.fakes import FolderCase, key_pair, tree
from tests.connectors.ocpp.stand_ins import POINT


class AccessTests(FolderCase):
    """`Entrance` and its checks."""

    def parse(self, *points: Any, **central_system: Any) -> OCPPConfig:
        content = {"centralSystem": central_system, "chargePoints": list(points) or [POINT]}
        return parse(tree(content, "ocpp.json"), self.reporter)

    def test_everything(self):
        """All keys of ours load, without a word."""
        cert, key = key_pair(self.config_dir, "cs")
        self.parse(
            {
                **POINT,
                "security": [{"type": "token", "tokens": ["Bearer x"]}],
                "strictIdentity": False,
                "ocppVersions": ["1.6"],
                "allowMissingSubprotocol": "1.6",
                "callTimeout": 5,
                "nativeRpc": ["Reset"],
            },
            host="0.0.0.0",
            connection={
                "type": "tls",
                "cert": cert,
                "key": key,
                "ca": cert,
                "verifyClient": True,
                "cnMustMatch": "serial",
                "organization": "ACME",
                "allowDowngrade": True,
                "additionalCertificates": [{"cert": cert, "key": key}],
            },
            security=[
                {
                    "type": "basic",
                    "credentials": [
                        {"password": "one"},
                        {"username": "${chargePointId}", "passwordHex": "00ff"},
                        {"username": "u", "passwordHash": str(hash_password(b"x", 4)), "chargePoints": "CP_.*"},
                    ],
                }
            ],
            strictIdentity=True,
            unknownChargePoint="reject",
            ocppVersions=["ocpp2.0.1", "ocpp1.6"],
            allowMissingSubprotocol="ocpp1.6",
            callTimeout=30,
            maxQueuedCalls=100,
            pingInterval=0,
            pingTimeout=30,
            maxMessageSize=65536,
            maxConnections=100,
            connectionsPerSecond=10,
            handshakeTimeout=10,
            failedLoginsPerMinute=10,
            compression=False,
            trustedProxies=["10.0.0.0/8", "::1"],
            validation={"inbound": "strict"},
            nativeRpc=False,
            resendAttributes=False,
        )
        self.assertEqual(self.lines(), [])

    def test_versions(self):
        """In the file's order, either spelling; an unknown one and none at all are faults."""
        found = self.parse(ocppVersions=["2.1", "ocpp1.6", "ocpp2.1"]).central_system
        self.assertEqual(found.versions, (Version.V21, Version.V16))
        self.parse(ocppVersions=["1.5"])
        self.parse(ocppVersions=[])
        self.assertGreaterEqual(len(self.faults()), 2)

    def test_bad(self):
        """Each of these is a fault that names its key."""
        cert, key = key_pair(self.config_dir, "cs")
        for central in (
            {"security": [{"type": "basic", "credentials": [{"password": "a", "passwordHex": "00"}]}]},
            {"security": [{"type": "basic", "credentials": [{"passwordHex": "0"}]}]},
            {"security": [{"type": "basic", "credentials": [{"passwordHash": "secret"}]}]},
            {"security": [{"type": "basic", "credentials": [{"username": "a"}]}]},
            {"connection": {"type": "tls", "cert": cert, "key": key, "verifyClient": True}},
            {"connection": {"type": "tls", "cert": cert, "key": key, "cnMustMatch": "["}},
            {"connection": {"type": "tls", "cert": cert, "key": key, "ca": "absent.pem"}},
            {"connection": {"type": "tls", "cert": cert, "key": key, "ca": key}},
            {"trustedProxies": ["10.0.0.0/99"]},
            {"nativeRpc": "all"},
            {"callTimeout": 0},
            {"unknownChargePoint": "maybe"},
            {"validation": {"inbound": "sometimes"}},
        ):
            before = len(self.faults())
            self.parse(**central)
            self.assertGreater(len(self.faults()), before, central)
        self.assertNotIn("secret", "\n".join(self.lines()))

    def test_anonymous(self):
        """Anonymous is known; beside others it is a doubt, open to everybody a warning."""
        self.parse(security=[{"type": "anonymous"}])
        self.assertEqual(self.lines(), [])
        self.parse(security=[{"type": "anonymous"}, {"type": "token", "tokens": ["x"]}])
        self.assertEqual(len(self.lines(Severity.DOUBT)), 1)
        self.parse(host="0.0.0.0", security=[{"type": "anonymous"}])
        self.assertEqual(len(self.lines(Severity.WARNING)), 2)

    def test_actions(self):
        """A Call that no version has is a doubt, wherever it is named: its command can only fail."""
        rpc = {"methodRPC": "x", "valueExpression": "{}"}
        update = {"attributeOnThingsBoard": "x", "valueExpression": "{}"}
        for name, doubts in (("RequestStartTransaction", 0), ("Reset", 0), ("reset", 3), ("MeterValues", 3)):
            before = len(self.lines(Severity.DOUBT))
            rpcs, updates = [{**rpc, "action": name}], [{**update, "action": name}]
            self.parse({**POINT, "serverSideRpc": rpcs, "attributeUpdates": updates, "nativeRpc": [name]})
            self.assertEqual(len(self.lines(Severity.DOUBT)) - before, doubts, name)

    def test_prefix(self):
        """Where the existing gateway's prefix match would have taken another entry's charge points, it is told."""
        self.parse({**POINT, "idRegexpPattern": "CP_1"}, {**POINT, "idRegexpPattern": "CP_10"})
        self.assertEqual(len(self.lines(Severity.NOTICE)), 1)
        self.assertIn("CP_10", self.lines(Severity.NOTICE)[0])

    def test_open_with_tls(self):
        """Authorities whose certificates nobody has to show do not keep anybody out: that is told."""
        cert, key = key_pair(self.config_dir, "cs")
        tls = {"type": "tls", "cert": cert, "key": key, "ca": cert}
        self.parse(host="0.0.0.0", connection={**tls, "verifyClient": True})
        self.assertEqual(self.lines(Severity.WARNING), [])
        self.parse(host="0.0.0.0", connection=tls)
        self.assertEqual(len(self.lines(Severity.WARNING)), 1)

    def test_needs_tls(self):
        """Only a listener with TLS brings OpenSSL."""
        self.assertFalse(self.parse().needs_tls)
        cert, key = key_pair(self.config_dir, "cs")
        self.assertTrue(self.parse(connection={"type": "tls", "cert": cert, "key": key}).needs_tls)
