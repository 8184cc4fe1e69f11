"""Every message of every version is answered with what its schema allows."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tbgw.ocpp.actions import UNCONFIRMED, central_actions, station_actions
from tbgw.ocpp.errors import CallRefused
from tbgw.ocpp.schemas import request_fault, result_fault
from tbgw.ocpp.versions import Version
from tests.connectors.ocpp.fakes import ReportsCase, request_of
from tests.connectors.ocpp.test_measurands import ANYTHING

POLICIES: tuple[dict[str, Any], ...] = (
    {},
    {"boot": {"status": "Pending", "interval": 60}},
    {
        "authorization": {
            "mode": "list",
            "tags": {"xxxx": {"status": "NoCredit", "parentIdTag": "F" * 60, "expiryDate": "2027-01-01T00:00:00Z"}},
        },
        "dataTransfer": {"vendors": {"xxxx": {"data": "ok"}}},
        "certificateSigning": "forward",
        "mapping": {
            "connectorDevices": True,
            "phaseTotals": True,
            "configuration": True,
            "dataTransfer": True,
            "idTags": "hashed",
        },
    },
    {"authorization": {"mode": "denyAll"}, "defaultMapping": False},
)


class EveryMessageTests(ReportsCase):
    """The smallest and the largest valid request of each action, under several policies."""

    def test_all(self):
        """Each has an answer that is valid, and a reading that could be taken; nothing ever raises."""
        asked = 0
        for policy in POLICIES:
            for version in Version:
                for action in sorted(station_actions(version) - UNCONFIRMED):
                    for whole in (False, True):
                        request = request_of(version, action, whole)
                        self.assertIsNone(request_fault(version, action, request), (version, action))
                        reports = self.make(None, **policy, transactions={"persist": False})
                        station = self.connect(reports, version=version)
                        try:
                            made = self.call(reports, station, action, request)
                        except CallRefused as refusal:
                            self.assertEqual((action, refusal.code), ("GetCertificateChainStatus", "NotSupported"))
                            continue
                        self.assertIsNone(result_fault(version, action, made), (version, action, made))
                        asked += 1
        actions = [station_actions(version) - UNCONFIRMED - {"GetCertificateChainStatus"} for version in Version]
        self.assertEqual(asked, len(POLICIES) * 2 * sum(map(len, actions)))
        self.assertEqual(self.counters.total("ocpp_conversions_failed"), 0)

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def test_mutated(self, data: st.DataObject):
        """In lenient mode anything may stand anywhere: the answer is valid all the same, or a refusal."""
        reports = self.make(transactions={"persist": False})
        version = data.draw(st.sampled_from(list(Version)))
        action = data.draw(st.sampled_from(sorted(station_actions(version) - UNCONFIRMED)))
        request = request_of(version, action, data.draw(st.booleans()))
        for key in sorted(request):
            fate = data.draw(st.sampled_from(["keep", "keep", "drop", "replace"]))
            if fate == "drop":
                del request[key]
            elif fate == "replace":
                request[key] = data.draw(ANYTHING)
        station = self.connect(reports, version=version)
        try:
            made = self.call(reports, station, action, request, ["broken"])
        except CallRefused as refusal:
            self.assertIn(
                refusal.code,
                {"OccurrenceConstraintViolation", "PropertyConstraintViolation", "NotSupported"},
            )
        else:
            self.assertIsNone(result_fault(version, action, made), (version, action, made))
        self.assertEqual(self.counters.total("ocpp_conversions_failed"), 0)

    def test_send(self):
        """The one SEND of 2.1 is taken, whole and as small as can be."""
        for whole in (False, True):
            reports = self.make(transactions={"persist": False})
            station = self.connect(reports, version=Version.V21)
            request = request_of(Version.V21, "NotifyPeriodicEventStream", whole)
            reports.send_received(station, "NotifyPeriodicEventStream", request, ())
        self.assertEqual(self.counters.total("ocpp_conversions_failed"), 0)

    def test_not_for_stations(self):
        """What only we send is not supported; what no version has is not implemented."""
        reports = self.make(transactions={"persist": False})
        for version in Version:
            station = self.connect(reports, f"x/{version}", version)
            for action in sorted(central_actions(version) - station_actions(version)):
                error = self.assertRaises(CallRefused, self.call, reports, station, action, {})
                self.assertEqual(error.code, "NotSupported", action)
            error = self.assertRaises(CallRefused, self.call, reports, station, "MakeCoffee", {})
            self.assertEqual(error.code, "NotImplemented")
