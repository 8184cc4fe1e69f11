"""Tests of the OCPP connector's file."""

from __future__ import annotations

from typing import Any

from tbgw.config.findings import Severity
from tbgw.config.values import Refused
from tbgw.connectors.ocpp.config import OCPPConfig, parse
from tests.config.fakes import FolderCase, key_pair, tree

POINT = {"idRegexpPattern": "bidon/hello/CP_1", "deviceNameExpression": "${Vendor} ${Model}"}


class OCPPConfigTests(FolderCase):
    """Central System, logins and charge points."""

    def parse(self, point: Any = POINT, **central_system: Any) -> OCPPConfig:
        return parse(tree({"centralSystem": central_system, "chargePoints": [point]}, "ocpp.json"), self.reporter)

    def test_defaults(self):
        """What is left out is safe: this machine only."""
        found = self.parse().central_system
        self.assertEqual(
            (found.host, found.port, found.connection.type, found.security), ("127.0.0.1", 9000, "insecure", ())
        )
        self.assertEqual(self.lines(), [])

    def test_open_to_others(self):
        """Without TLS and logins, a listener that others reach warns, and loads as in the reference (P-06)."""
        self.parse(host="0.0.0.0")
        self.assertEqual((len(self.lines(Severity.WARNING)), self.faults()), (2, []))

    def test_logins(self):
        """Tokens and user names are read as secrets; the sample's ones warn."""
        found = self.parse(
            security=[
                {"type": "token", "tokens": ["Bearer canary", "Bearer ACCESS_TOKEN"]},
                {"type": "basic", "credentials": [{"username": "CP_A", "password": "canary"}]},
            ]
        ).central_system
        self.assertEqual(
            [token.reveal() for token in found.security[0].tokens], ["Bearer canary", "Bearer ACCESS_TOKEN"]
        )
        password = found.security[1].credentials[0].password
        assert password is not None
        self.assertEqual(password.reveal(), "canary")
        self.assertNotIn("canary", repr(found))
        self.assertEqual(len(self.lines(Severity.WARNING)), 1)

    def test_bad_logins(self):
        """An entry that lets nobody in, an empty password and an unknown type are faults."""
        for entry in (
            {"type": "token"},
            {"type": "token", "tokens": []},
            {"type": "basic", "tokens": ["x"]},
            {"type": "basic", "credentials": [{"username": "a", "password": ""}]},
            {"type": "basic", "credentials": [{"username": "a"}]},
            {"type": "digest"},
            {"tokens": ["x"]},
            "token",
        ):
            before = len(self.faults())
            self.parse(security=[entry])
            self.assertEqual(len(self.faults()), before + 1, entry)

    def test_tls(self):
        """A certificate with its key, locked or not, is taken from the configuration's folder."""
        cert, key = key_pair(self.config_dir, "cs", b"phrase")
        found = self.parse(connection={"type": "tls", "cert": cert, "key": key, "password": "phrase"})
        self.assertEqual(found.central_system.connection.cert, self.config_dir / cert)
        self.assertEqual(self.faults(), [])

    def test_bad_tls(self):
        """A missing file, a wrong passphrase and a missing key are faults: never plain text instead (O-14)."""
        cert, key = key_pair(self.config_dir, "cs", b"phrase")
        for connection, count in (
            ({"type": "tls", "cert": cert, "key": "absent.pem"}, 1),
            ({"type": "tls", "cert": cert, "key": key, "password": "wrong"}, 1),
            ({"type": "tls", "cert": cert, "key": key}, 1),
            ({"type": "tls"}, 2),
            ({"type": "ssl"}, 1),
        ):
            before = len(self.faults())
            self.parse(connection=connection)
            self.assertEqual(len(self.faults()), before + count, connection)
        self.assertNotIn("phrase", "\n".join(self.lines()))

    def test_charge_point(self):
        """Patterns are compiled, message filters split; a filter that is left out means all messages."""
        found = self.parse(
            {
                **POINT,
                "attributes": [{"messageTypeFilter": "MeterValues,", "key": "plug", "value": "${connector_id}"}],
                "timeseries": [
                    {"messageTypeFilter": "MeterValues, DataTransfer", "key": "load", "value": "${data.load}"},
                    {"key": "any", "value": "${data.temp}"},
                ],
                "attributeUpdates": [
                    {"attributeOnThingsBoard": "limit", "action": "ChangeConfiguration", "timeout": 9}
                ],
                "serverSideRpc": [{"methodRPC": "unlock", "action": "UnlockConnector"}],
                "extension": "OwnConverter",
            }
        ).charge_points[0]
        self.assertTrue(found.id_pattern.fullmatch("bidon/hello/CP_1"))
        self.assertIsNone(found.id_pattern.fullmatch("bidon/hello/CP_10"))
        self.assertEqual(found.attributes[0].actions, ("MeterValues",))
        self.assertEqual([one.actions for one in found.timeseries], [("MeterValues", "DataTransfer"), ()])
        self.assertEqual(
            (found.attribute_updates[0].action, found.attribute_updates[0].timeout_seconds), ("ChangeConfiguration", 9)
        )
        self.assertEqual((found.rpcs[0].action, found.rpcs[0].timeout_seconds), ("UnlockConnector", None))
        self.assertEqual(self.lines(Severity.FAULT, Severity.DOUBT), [])

    def test_bad_charge_points(self):
        """A bad pattern, a filter of commas only and a missing name are faults."""
        for point in (
            {**POINT, "idRegexpPattern": "CP_["},
            {**POINT, "timeseries": [{"messageTypeFilter": " , ", "key": "a", "value": "b"}]},
            {"idRegexpPattern": "x"},
        ):
            before = len(self.faults())
            self.parse(point)
            self.assertEqual(len(self.faults()), before + 1, point)

    def test_no_central_system(self):
        """Without centralSystem nothing can be made of the file."""
        self.assertRaises(Refused, parse, tree({"chargePoints": [POINT]}), self.reporter)
        self.assertEqual(len(self.faults()), 1)
