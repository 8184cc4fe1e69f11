"""Version-neutral commands: what Call each becomes, and that every one of them keeps to its schema."""

from __future__ import annotations

import itertools
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.ocpp.aliases import ALIASES, Circumstances, Request, alias, configuration_values, native
from tbgw.connectors.ocpp.reserved import reserved
from tbgw.errors import CommandFailed
from tbgw.ocpp.actions import central_actions
from tbgw.ocpp.schemas import request_fault
from tbgw.ocpp.versions import Version

NOW = "2026-11-21T12:00:00Z"
V16, V201, V21 = Version


def about(version: Version, transactions: dict[int, Any] | None = None, connector: int | None = None) -> Circumstances:
    """The circumstances of a command."""
    numbers = itertools.count(501)
    running = transactions or {}

    def transaction_of(place: int | None) -> Any:
        return running.get(place) if place is not None else next(iter(running.values()), None)

    return Circumstances(version, lambda: next(numbers), transaction_of, NOW, connector)


class AliasTests(SynchronousTestCase):
    """`alias`."""

    def test_transaction_by_number(self):
        """In 1.6 a transaction is a whole number: what only looks like one stops nobody else's charging."""
        for stated in (True, 5.9, "five", [5]):
            with self.assertRaises(CommandFailed):
                alias("stopCharging", {"transactionId": stated}, about(Version.V16))
        for stated in (5, "5", 5.0):
            request = alias("stopCharging", {"transactionId": stated}, about(Version.V16))
            self.assertEqual(request.payload, {"transactionId": 5})

    def made(self, version: Version, method: str, params: Any, **more: Any) -> Request:
        """The Call, which must be good by its schema."""
        request = alias(method, params, about(version, **more))
        self.assertIn(request.action, central_actions(version))
        self.assertIsNone(request_fault(version, request.action, request.payload), request)
        return request

    def test_start(self):
        """A start names the tag and, if it has to be there, the outlet; 2.x gets a number to find the session by."""
        request = self.made(V16, "startCharging", {"idTag": "A", "connectorId": 2})
        self.assertEqual(request.action, "RemoteStartTransaction")
        self.assertEqual(request.payload, {"idTag": "A", "connectorId": 2})
        for version in (V201, V21):
            request = self.made(version, "startCharging", {"id_tag": "A", "connector_id": "2"})
            self.assertEqual(
                request.payload,
                {"idToken": {"idToken": "A", "type": "Central"}, "remoteStartId": 501, "evseId": 2},
            )
            self.assertEqual(request.more, {"remoteStartId": 501})

    def test_start_with_limit(self):
        """A start may bring its limit along, which begins with the transaction."""
        for version in Version:
            request = self.made(version, "startCharging", {"idTag": "A", "connectorId": 1, "limit": 11, "unit": "kW"})
            profile = request.payload["chargingProfile"]
            self.assertEqual(profile["chargingProfilePurpose"], "TxProfile")
            self.assertEqual(profile["chargingProfileKind"], "Relative")
            self.assertIn("11000", str(profile["chargingSchedule"]))

    def test_stop(self):
        """A stop finds the running transaction; when there is none, or several, it says so and guesses nothing."""
        request = self.made(V16, "stopCharging", {"connectorId": 2}, transactions={1: 7, 2: 8})
        self.assertEqual(request.payload, {"transactionId": 8})
        self.assertEqual(self.made(V16, "stopCharging", {"transactionId": "9"}).payload, {"transactionId": 9})
        request = self.made(V201, "stopCharging", None, transactions={1: "tx-1"})
        self.assertEqual((request.action, request.payload), ("RequestStopTransaction", {"transactionId": "tx-1"}))
        self.refused("NoTransaction", V16, "stopCharging", {"connectorId": 1})
        self.refused("Validation", V16, "stopCharging", {"transactionId": "tx-1"})

    def test_limit(self):
        """A limit is one profile per outlet and purpose, set again in its own place."""
        first = self.made(V16, "setLimit", {"limit": 16}).payload
        self.assertEqual(first["connectorId"], 0)
        profile = first["csChargingProfiles"]
        self.assertEqual(profile["chargingProfilePurpose"], "ChargePointMaxProfile")
        self.assertEqual(
            profile["chargingSchedule"],
            {
                "startSchedule": NOW,
                "chargingRateUnit": "A",
                "chargingSchedulePeriod": [{"startPeriod": 0, "limit": 16}],
            },
        )
        second = self.made(V16, "setLimit", {"limit": 6.25, "connectorId": 1, "numberPhases": 1}).payload
        self.assertEqual(second["csChargingProfiles"]["chargingProfilePurpose"], "TxDefaultProfile")
        self.assertEqual(
            second["csChargingProfiles"]["chargingSchedule"]["chargingSchedulePeriod"],
            [{"startPeriod": 0, "limit": 6.2, "numberPhases": 1}],
        )
        third = self.made(V16, "setLimit", {"limit": 8, "connectorId": 1, "purpose": "TxProfile"}, transactions={1: 5})
        self.assertEqual(third.payload["csChargingProfiles"]["transactionId"], 5)
        ids = {one["csChargingProfiles"]["chargingProfileId"] for one in (first, second, third.payload)}
        self.assertEqual(len(ids), 3)
        for version in (V201, V21):
            payload = self.made(version, "setLimit", {"limit": 7.4, "unit": "kW", "evseId": 1, "duration": 60}).payload
            schedule = payload["chargingProfile"]["chargingSchedule"][0]
            self.assertEqual((payload["evseId"], schedule["chargingRateUnit"], schedule["duration"]), (1, "W", 60))
            self.assertEqual(schedule["chargingSchedulePeriod"], [{"startPeriod": 0, "limit": 7400}])

    def test_all_limits_of_one_decimal(self):
        """Every limit with one decimal passes 1.6's `multipleOf`."""
        for tenths in range(400):
            self.made(V16, "setLimit", {"limit": tenths / 10, "connectorId": 1})

    def test_no_limit(self):
        """null takes the same profile away."""
        self.assertEqual(
            self.made(V16, "setLimit", {"limit": None, "connectorId": 1}).payload,
            {"connectorId": 1, "chargingProfilePurpose": "TxDefaultProfile", "stackLevel": 0},
        )
        request = self.made(V21, "setLimit", {"limit": None})
        self.assertEqual(request.action, "ClearChargingProfile")
        self.refused("Validation", V16, "setLimit", {"connectorId": 1})

    def test_others(self):
        """Availability, unlock, reset, trigger: the words of each version."""
        for method, params, old, new in (
            (
                "availability",
                {"operative": False},
                {"connectorId": 0, "type": "Inoperative"},
                {"operationalStatus": "Inoperative"},
            ),
            (
                "availability",
                {"type": "Operative", "connectorId": 2},
                {"connectorId": 2, "type": "Operative"},
                {"operationalStatus": "Operative", "evse": {"id": 2}},
            ),
            ("unlock", None, {"connectorId": 1}, {"evseId": 1, "connectorId": 1}),
            ("unlock", {"evseId": 2, "connectorId": 3}, {"connectorId": 2}, {"evseId": 2, "connectorId": 3}),
            ("reset", {}, {"type": "Soft"}, {"type": "OnIdle"}),
            ("reset", {"hard": True}, {"type": "Hard"}, {"type": "Immediate"}),
            ("reset", {"type": "Immediate"}, {"type": "Hard"}, {"type": "Immediate"}),
            ("trigger", {"message": "Heartbeat"}, {"requestedMessage": "Heartbeat"}, {"requestedMessage": "Heartbeat"}),
            (
                "trigger",
                {"message": "StatusNotification", "connectorId": 1},
                {"requestedMessage": "StatusNotification", "connectorId": 1},
                {"requestedMessage": "StatusNotification", "evse": {"id": 1, "connectorId": 1}},
            ),
        ):
            self.assertEqual(self.made(V16, method, params).payload, old, method)
            self.assertEqual(self.made(V201, method, params).payload, new, method)
        request = self.made(V16, "trigger", {"message": "SignChargePointCertificate"})
        self.assertEqual(request.action, "ExtendedTriggerMessage")

    def test_configuration(self):
        """Keys of 2.x are components with variables, instances in brackets; values become texts."""
        self.assertEqual(self.made(V16, "getConfig", {"key": ["A", "B"]}).payload, {"key": ["A", "B"]})
        self.assertEqual(self.made(V16, "getConfig", None).payload, {})
        request = self.made(V16, "setConfig", {"key": "A", "value": True})
        self.assertEqual(request.payload, {"key": "A", "value": "true"})
        request = self.made(V201, "getConfig", {"key": "EVSE[a].Power[b], C.V"})
        self.assertEqual(
            request.payload["getVariableData"],
            [
                {"component": {"name": "EVSE", "instance": "a"}, "variable": {"name": "Power", "instance": "b"}},
                {"component": {"name": "C"}, "variable": {"name": "V"}},
            ],
        )
        self.assertEqual(self.made(V201, "getConfig", None).action, "GetBaseReport")
        request = self.made(V21, "setConfig", {"key": "C.V", "value": 5})
        self.assertEqual(request.payload["setVariableData"][0]["attributeValue"], "5")
        self.refused("Validation", V201, "getConfig", {"key": "HeartbeatInterval"})

    def test_configuration_values(self):
        """A configuration by key, from either result; what was refused is left out; rubbish gives nothing."""
        self.assertEqual(
            configuration_values({"configurationKey": [{"key": "A", "value": "1"}, {"key": "B", "readonly": True}, 5]}),
            {"A": "1", "B": None},
        )
        component = {"name": "C", "instance": "i", "evse": {"id": 1}}
        good = {"component": component, "variable": {"name": "V"}, "attributeStatus": "Accepted", "attributeValue": "2"}
        found = configuration_values({"getVariableResult": [good, {**good, "attributeStatus": "Rejected"}, None]})
        self.assertEqual(found, {"C[i]@1.V": "2"})
        self.assertEqual(configuration_values({"configurationKey": 5, "getVariableResult": "x"}), {})

    def test_data(self):
        """Data is a text in 1.6 and any JSON in 2.x."""
        params = {"vendorId": "v", "messageId": "m", "data": {"a": 1}}
        self.assertEqual(self.made(V16, "dataTransfer", params).payload["data"], '{"a":1}')
        self.assertEqual(self.made(V201, "dataTransfer", params).payload["data"], {"a": 1})

    def test_own_connector(self):
        """At the device of one connector that one is meant, unless another is named."""
        self.assertEqual(self.made(V16, "unlock", None, connector=3).payload, {"connectorId": 3})
        self.assertEqual(self.made(V16, "unlock", {"connectorId": 1}, connector=3).payload, {"connectorId": 1})

    def refused(self, kind: str, version: Version, method: str, params: Any) -> str:
        error = self.assertRaises(CommandFailed, alias, method, params, about(version))
        self.assertEqual(error.answer["type"], kind)
        return str(error)

    def test_bad_parameters(self):
        """A slip is refused with what is wrong, before anything is sent."""
        for method, params, words in (
            ("startCharging", {}, "idTag is missing"),
            ("startCharging", {"idTag": "A", "conectorId": 1}, "there is no parameter 'conectorId'; there are idTag"),
            ("startCharging", ["A"], "have to be an object"),
            ("startCharging", {"idTag": "A", "connectorId": -1}, "connectorId has to be a whole number"),
            ("startCharging", {"idTag": "A", "connectorId": 1.5}, "connectorId has to be a whole number"),
            ("startCharging", {"idTag": True}, "idTag has to be a text"),
            ("setLimit", {"limit": "much"}, "limit has to be a number"),
            ("setLimit", {"limit": -1}, "limit has to be 0 or more"),
            ("setLimit", {"limit": float("nan")}, "limit has to be a number"),
            ("setLimit", {"limit": 5, "unit": "V"}, "unit has to be A, W or kW"),
            ("availability", {}, "operative is missing"),
            ("reset", {"hard": "yes"}, "hard has to be true or false"),
            ("reset", {"type": "Warm"}, "type has to be"),
            ("trigger", {}, "message is missing"),
            ("setConfig", {"key": "A"}, "value is missing"),
            ("dataTransfer", {}, "vendorId is missing"),
        ):
            self.assertIn(words, self.refused("Validation", V16, method, params))

    def test_every_alias_in_every_version(self):
        """Each alias is an action of each version."""
        good: dict[str, Any] = {
            "startCharging": {"idTag": "A"},
            "stopCharging": {"transactionId": 5},
            "setLimit": {"limit": 5},
            "availability": {"operative": True},
            "trigger": {"message": "Heartbeat"},
            "getConfig": {"key": "A.B"},
            "setConfig": {"key": "A.B", "value": 1},
            "dataTransfer": {"vendorId": "v"},
        }
        for version in Version:
            for method in ALIASES:
                self.made(version, method, good.get(method))


class NativeTests(SynchronousTestCase):
    """`native`."""

    def test_made_up_ids(self):
        """Ids that are needed and left out are made up, and told; those that are given stay."""
        for version, action, name in (
            (V201, "RequestStartTransaction", "remoteStartId"),
            (V201, "GetBaseReport", "requestId"),
            (V21, "UpdateFirmware", "requestId"),
            (V16, "GetLog", "requestId"),
        ):
            request = native(action, {"x": 1}, about(version))
            self.assertEqual((request.payload, request.more), ({"x": 1, name: 501}, {name: 501}))
            self.assertEqual(native(action, {name: 7}, about(version)).payload, {name: 7})
        self.assertEqual(native("UpdateFirmware", {}, about(V16)).payload, {})

    def test_every_id_is_a_key_of_its_action(self):
        """What is made up stands in the schema, as required."""
        from tbgw.connectors.ocpp.aliases import _MADE_UP
        from tbgw.ocpp.schemas import schema

        for action, name in _MADE_UP.items():
            for version in Version:
                if action in central_actions(version) and (version, action) != (V16, "UpdateFirmware"):
                    self.assertIn(name, schema(version, action)["required"], (version, action))

    def test_none_is_forgotten(self):
        """There is no other action that needs a requestId or a remoteStartId."""
        from tbgw.connectors.ocpp.aliases import _MADE_UP
        from tbgw.ocpp.schemas import schema

        for version in Version:
            for action in central_actions(version):
                required = set(schema(version, action).get("required", ()))
                if required & {"requestId", "remoteStartId"}:
                    self.assertIn(action, {*_MADE_UP, "CancelReservation"}, version)


class ReservedTests(SynchronousTestCase):
    """`reserved`."""

    def made(self, version: Version, method: str, params: Any) -> tuple[str, dict[str, Any], float | None]:
        found = reserved(method, params, about(version))
        request = found.request
        self.assertIsNone(request_fault(version, request.action, request.payload), request)
        return request.action, request.payload, found.timeout_seconds

    def test_16(self):
        """Keys of 1.6, as text and as object; the value goes on to the end."""
        for params in ("key=A;", "key = A", {"key": "A"}, "variable=A;"):
            self.assertEqual(self.made(V16, "get", params), ("GetConfiguration", {"key": ["A"]}, None), params)
        stated: tuple[tuple[Any, str], ...] = (
            ("key=A;value=60;", "60"),
            ("key=A;value=a=1;b=2;", "a=1;b=2"),
            ({"key": "A", "value": 60}, "60"),
            ("key=A;value=", ""),
        )
        for given, value in stated:
            self.assertEqual(
                self.made(V16, "set", given), ("ChangeConfiguration", {"key": "A", "value": value}, None), given
            )

    def test_2x(self):
        """The grammar of the existing gateway, with instances, EVSE and time-out."""
        line = "component=EVSE;componentInstance=a;evseId=1;variable=Power;variableInstance=b;timeout=10;"
        item = {
            "component": {"name": "EVSE", "instance": "a", "evse": {"id": 1}},
            "variable": {"name": "Power", "instance": "b"},
        }
        for version in (V201, V21):
            self.assertEqual(self.made(version, "get", line), ("GetVariables", {"getVariableData": [item]}, 10.0))
            self.assertEqual(
                self.made(version, "set", line + "value=5;"),
                ("SetVariables", {"setVariableData": [{**item, "attributeValue": "5"}]}, 10.0),
            )
        found = self.made(V201, "get", "key=C.V;")
        self.assertEqual(found[1]["getVariableData"], [{"component": {"name": "C"}, "variable": {"name": "V"}}])

    def test_value_alone(self):
        """As in the existing gateway: a DataTransfer."""
        for version in Version:
            self.assertEqual(
                self.made(version, "set", "value=5;"), ("DataTransfer", {"vendorId": "1", "data": "5"}, None)
            )

    def test_bad(self):
        """What is not understood is refused, and nothing raises anything else (O-04)."""
        for method, params in (
            ("get", "value"),
            ("get", ""),
            ("get", None),
            ("get", 5),
            ("get", []),
            ("get", "unknown=5;"),
            ("set", "key=A;"),
            ("set", "=5"),
            ("get", "key=A;timeout=soon;"),
            ("get", "key=A;timeout=0;"),
            ("get", "key=A;evseId=x;"),
            ("set", {"value": None}),
        ):
            error = self.assertRaises(CommandFailed, reserved, method, params, about(V16))
            self.assertEqual(error.answer["type"], "Validation", params)
