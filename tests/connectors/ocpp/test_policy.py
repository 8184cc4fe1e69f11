"""What the file says of answers, authorization and mapping."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tbgw.config.findings import Severity
from tbgw.connectors.ocpp.config import UNKNOWN_CHARGE_POINT, OCPPConfig, parse, policy_of
from tbgw.connectors.ocpp.policy import Policy, Tag, Vendor
from tbgw.ocpp.versions import Version
from tests.config.fakes import FolderCase, tree
from tests.connectors.ocpp.fakes import NOW_MS


class PolicyTests(FolderCase):
    """Both levels."""

    def parse(self, central: dict[str, Any] | None = None, **entry: Any) -> OCPPConfig:
        point = {"idRegexpPattern": "x", "deviceNameExpression": "${chargePointId}", **entry}
        return parse(tree({"centralSystem": central or {}, "chargePoints": [point]}, "ocpp.json"), self.reporter)

    def policy(self, central: dict[str, Any] | None = None, **entry: Any) -> Policy:
        config = self.parse(central, **entry)
        return policy_of(config, config.charge_points[0])

    def test_defaults(self):
        """Everybody is accepted, asked for a heartbeat every five minutes, and mapped."""
        found = self.policy()
        self.assertEqual((found.boot_status, found.boot.interval_seconds), ("Accepted", 300))
        self.assertEqual((found.authorization.mode, found.maps_by_default), ("acceptAll", True))
        self.assertEqual((found.mapping.units, found.mapping.id_tags), ("normalised", "masked"))
        self.assertEqual(self.lines(), [])

    def test_levels(self):
        """A section of the entry counts whole; what it does not say comes from centralSystem."""
        found = self.policy(
            {"boot": {"interval": 60}, "mapping": {"units": "raw"}, "legacyUnresolved": True},
            boot={"status": "Pending"},
            legacyUnresolved=False,
        )
        self.assertEqual((found.boot_status, found.boot.interval_seconds), ("Pending", 300))
        self.assertEqual((found.mapping.units, found.legacy_unresolved), ("raw", False))

    def test_default_mapping(self):
        """It is on where nothing else is configured, and otherwise as the file says, the entry first."""
        entries = {"timeseries": [{"key": "k", "value": "${v}"}]}
        for central, entry, expected in (
            ({}, {}, True),
            ({}, entries, False),
            ({"defaultMapping": True}, entries, True),
            ({"defaultMapping": False}, {}, False),
            ({"defaultMapping": False}, {"defaultMapping": True}, True),
        ):
            self.assertEqual(self.policy(central, **entry).maps_by_default, expected)

    def test_unknown(self):
        """Those that match no entry have a status of their own."""
        config = self.parse({"boot": {"unknown": "Rejected"}, "unknownChargePoint": "accept"})
        self.assertEqual(policy_of(config, UNKNOWN_CHARGE_POINT).boot_status, "Rejected")
        self.assertEqual(policy_of(config, config.charge_points[0]).boot_status, "Accepted")

    def test_tags(self):
        """Lists, statuses, details; lower case inside."""
        found = self.policy(
            authorization={
                "mode": "list",
                "tags": {
                    "04AABB": {"status": "Accepted", "parentIdTag": "FLEET", "expiryDate": "2026-11-18T11:06:40Z"},
                    "Bad": "Blocked",
                },
            }
        ).authorization
        expected = {"04aabb": Tag(parent="FLEET", expiry_ms=NOW_MS), "bad": Tag(status="Blocked")}
        self.assertEqual(found.tags, expected)
        self.assertEqual(self.policy(authorization={"tags": ["A", "b"]}).authorization.tags, {"a": Tag(), "b": Tag()})

    def test_vendors(self):
        """A list of those known, or what each is answered."""
        found = self.policy(dataTransfer={"vendors": ["a"]}).data_transfer.vendors
        self.assertEqual(found, {"a": Vendor()})
        stated = self.policy(dataTransfer={"vendors": {"a": {"status": "Rejected", "messageIds": ["m"]}}})
        self.assertEqual(stated.data_transfer.vendors, {"a": Vendor(status="Rejected", messages=("m",))})

    def test_zone(self):
        """Times without a zone may be in one by name or by offset."""
        for name, hours in (("UTC", 0), ("+02:00", 2), ("-03:30", -3.5), ("Europe/Berlin", 1)):
            zone = self.policy(mapping={"timestampZone": name}).mapping.zone
            offset = datetime(2026, 1, 15, tzinfo=UTC).astimezone(zone).utcoffset()
            self.assertEqual(offset, timedelta(hours=hours))
        self.assertEqual(self.faults(), [])

    def test_versions(self):
        """Subprotocols or bare numbers."""
        config = self.parse({"ocppVersions": ["ocpp1.6", "2.0.1"]}, ocppVersions=["2.1"])
        self.assertEqual(config.central_system.versions, (Version.V16, Version.V201))
        self.assertEqual(config.charge_points[0].versions, (Version.V21,))

    def test_faults(self):
        """Each slip is a fault with its place."""
        for central, entry in (
            ({"boot": {"status": "Yes"}}, {}),
            ({"boot": {"interval": 0}}, {}),
            ({"authorization": {"mode": "ask"}}, {}),
            ({"authorization": {"tags": {"a": "Fine"}}}, {}),
            ({"authorization": {"tags": {"a": {"expiryDate": "soon"}}}}, {}),
            ({"authorization": {"tags": 7}}, {}),
            ({"transactions": {"firstId": 0}}, {}),
            ({"dataTransfer": {"vendors": {"a": {"status": "Fine"}}}}, {}),
            ({"mapping": {"timestampZone": "Mars/Olympus"}}, {}),
            ({"mapping": {"timestampZone": "+25:00"}}, {}),
            ({"ocppVersions": ["1.5"]}, {}),
            ({"unknownChargePoint": "maybe"}, {}),
            ({}, {"deviceNameExpression": "${[?(@.x)]}"}),
            ({}, {"defaultMapping": "yes"}),
            ({}, {"timeseries": [{"key": "k", "value": "${a[}"}]}),
            ({}, {"timeseries": [{"key": "k", "value": "v", "type": "text"}]}),
            ({}, {"ocppVersions": []}),
        ):
            before = len(self.faults())
            self.parse(central, **entry)
            self.assertGreater(len(self.faults()), before, (central, entry))
            self.assertIn("ocpp.json:", self.lines(Severity.FAULT)[-1])
