"""Whether an idTag may charge."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.ocpp.authorization import decide, id_tag_info, id_token_info, tags_of
from tbgw.connectors.ocpp.policy import STATUSES, Authorization, Tag
from tests.connectors.ocpp.fakes import NOW_MS
from tests.connectors.ocpp.test_measurands import ANYTHING

LISTED = {"aa": Tag(), "bb": Tag(status="Blocked", parent="FLEET"), "old": Tag(expiry_ms=NOW_MS - 1)}


class DecisionTests(SynchronousTestCase):
    """`decide`."""

    def status(self, tag: str, shared: Any = None, **policy: Any) -> str:
        return decide(Authorization(tags=LISTED, **policy), shared or {}, tag, NOW_MS).status

    def test_modes(self):
        """All, none, or those listed, without regard to case; what has expired is said to have."""
        self.assertEqual(self.status("zz"), "Accepted")
        self.assertEqual(self.status("aa", mode="denyAll"), "Invalid")
        found = [self.status(tag, mode="list") for tag in ("AA", " aa ", "Bb", "old", "zz", "")]
        self.assertEqual(found, ["Accepted", "Accepted", "Blocked", "Expired", "Invalid", "Invalid"])
        self.assertEqual(self.status("zz", mode="list", default="Unknown"), "Unknown")

    def test_shared_first(self):
        """The shared attribute's word comes before the file's."""
        self.assertEqual(self.status("aa", {"aa": Tag(status="Blocked")}, mode="list"), "Blocked")


class WireTests(SynchronousTestCase):
    """How it is said in each version."""

    def test_statuses_of_1_6(self):
        """What 1.6 has no word for is Invalid."""
        known = {"Accepted", "Blocked", "ConcurrentTx", "Expired", "Invalid"}
        for status in STATUSES:
            self.assertEqual(id_tag_info(Tag(status=status))["status"], status if status in known else "Invalid")
            self.assertEqual(id_token_info(Tag(status=status))["status"], status)

    def test_details(self):
        """Expiry and group go along, cut to what the version allows."""
        tag = Tag(parent="F" * 50, expiry_ms=NOW_MS)
        self.assertEqual(
            id_tag_info(tag),
            {"status": "Accepted", "expiryDate": "2026-11-18T11:06:40.000Z", "parentIdTag": "F" * 20},
        )
        self.assertEqual(id_token_info(tag)["groupIdToken"], {"idToken": "F" * 36, "type": "Central"})


class SharedTests(SynchronousTestCase):
    """`tags_of`."""

    def test_forms(self):
        """Lists, objects of statuses and of details, as JSON or as its text."""
        for value in (["AA", "bb"], '["AA", "bb"]', {"AA": "Accepted", "bb": {}}):
            self.assertEqual(tags_of(value), {"aa": Tag(), "bb": Tag()})
        details = {"AA": {"status": "Blocked", "parentIdTag": "F", "expiryDate": "2026-11-18T11:06:40Z"}}
        self.assertEqual(tags_of(details), {"aa": Tag(status="Blocked", parent="F", expiry_ms=NOW_MS)})

    def test_slips(self):
        """A tag whose entry cannot be understood does not charge."""
        for entry in ("accepted", 7, None, {"status": "Yes"}, {"expiryDate": "soon"}):
            self.assertEqual(tags_of({"aa": entry}), {"aa": Tag(status="Invalid")})

    @given(ANYTHING)
    def test_never_raises(self, value: Any):
        """Whatever an attribute holds."""
        found = tags_of(value)
        self.assertTrue(found is None or isinstance(found, dict))
