"""The standard's schemas: all there, all compiled, each broken in every way; and the two spellings of keys."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbgw.ocpp.actions import UNCONFIRMED
from tbgw.ocpp.schemas import (
    SchemaFault,
    central_actions,
    is_known,
    request_fault,
    result_fault,
    schema,
    snake,
    station_actions,
    warm,
    wire_keys,
)
from tbgw.ocpp.versions import Version
from tests.ocpp.samples import breakages, every_schema, sample

V16, V201, V21 = Version.V16, Version.V201, Version.V21


def fault_of(version: Version, action: str, result: bool, payload: Any) -> SchemaFault | None:
    return (result_fault if result else request_fault)(version, action, payload)


class DirectionTests(SynchronousTestCase):
    """Who sends what."""

    def test_complete(self) -> None:
        """The tables and the package's schemas name exactly the same messages."""
        for version, folder in ((V16, "v16"), (V201, "v201"), (V21, "v21")):
            names = {file.name.removesuffix(".json") for file in (files("ocpp") / folder / "schemas").iterdir()}
            ours = set()
            for action in station_actions(version) | central_actions(version):
                ours.add(action + ("" if version is V16 or action in UNCONFIRMED else "Request"))
                if action not in UNCONFIRMED:
                    ours.add(action + "Response")
            self.assertEqual(ours, {name for name in names if not name.startswith("__")})

    def test_counts(self) -> None:
        """The numbers are those of the standard; DataTransfer goes both ways and nothing else does."""
        counts = [(len(station_actions(v)), len(central_actions(v))) for v in Version]
        self.assertEqual(counts, [(14, 26), (25, 40), (37, 55)])
        for version in Version:
            self.assertEqual(station_actions(version) & central_actions(version), {"DataTransfer"})

    def test_unknown(self) -> None:
        """A message that a version does not have has no schema, and therefore no fault."""
        self.assertTrue(is_known(V16, "StartTransaction"))
        self.assertFalse(is_known(V201, "StartTransaction"))
        self.assertIsNone(request_fault(V201, "StartTransaction", {}))
        self.assertIsNone(result_fault(V21, "NotifyPeriodicEventStream", {}))
        for action in ("StartTransaction", "../v16/schemas/Heartbeat", ""):
            with self.assertRaises(KeyError):
                schema(V201, action)


class ValidationTests(SynchronousTestCase):
    """Each schema with what it allows and what it forbids."""

    def test_samples(self) -> None:
        """The smallest and the largest payload that a schema describes are valid."""
        for version, action, result, root in every_schema():
            for full in (False, True):
                payload = sample(root, full)
                self.assertIsNone(fault_of(version, action, result, payload), (version, action, result, payload))

    def test_every_breakage(self) -> None:
        """Each field of each message, missing, of another type, too long, out of bounds or unknown, is found."""
        codes = {
            "type": "TypeConstraintViolation",
            "required": "OccurrenceConstraintViolation",
            "minItems": "OccurrenceConstraintViolation",
            "additionalProperties": "FormatViolation",
        }
        count = 0
        for version, action, result, root in every_schema():
            for rule, path, payload in breakages(root, sample(root, True)):
                fault = fault_of(version, action, result, payload)
                assert fault is not None, (version, action, result, rule, path)
                if rule == "enum" or (rule == "type" and fault.rule == "enum"):
                    continue  # a value of the wrong type is not in the enumeration either
                self.assertEqual((fault.rule, fault.path), (rule, path), (version, action, result, fault.text))
                self.assertEqual(fault.code, codes.get(rule, "PropertyConstraintViolation"))
                count += 1
        self.assertGreater(count, 10_000)

    def test_no_defaults(self) -> None:
        """Validation changes nothing, although schemas name defaults."""
        payload = {"id": 1, "component": {"name": "a"}, "variable": {"name": "b"}}
        before = json.dumps(payload)
        request_fault(V201, "SetVariables", {"setVariableData": [payload]})
        self.assertEqual(json.dumps(payload), before)

    def test_numbers(self) -> None:
        """true and 1.0 are no integers; the limits of 1.6 have one decimal and every such number passes."""
        self.assertIsNotNone(request_fault(V16, "MeterValues", {"connectorId": True, "meterValue": []}))
        for tenth in range(400):
            schedule = {"chargingRateUnit": "A", "chargingSchedulePeriod": [{"startPeriod": 0, "limit": tenth / 10}]}
            profile = {
                "chargingProfileId": 1,
                "stackLevel": 0,
                "chargingProfilePurpose": "TxProfile",
                "chargingProfileKind": "Absolute",
                "chargingSchedule": schedule,
            }
            payload = {"connectorId": 1, "csChargingProfiles": profile}
            self.assertIsNone(request_fault(V16, "SetChargingProfile", payload), tenth)

    def test_warm(self) -> None:
        """What is common in a version can be compiled ahead, message by message."""
        for version in Version:
            self.assertEqual(len(list(warm(version))), 14)

    def test_light(self) -> None:
        """Reading the schemas imports neither the package's own code nor jsonschema nor asyncio."""
        program = (
            "import sys; from tbgw.ocpp import schemas; from tbgw.ocpp.versions import Version;"
            "schemas.request_fault(Version.V201, 'Heartbeat', {});"
            "print([m for m in ('ocpp.messages', 'jsonschema', 'asyncio') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout.strip(), "[]")


class KeyTests(SynchronousTestCase):
    """meterValue and meter_value."""

    def test_round_trip(self) -> None:
        """Every key of every schema comes back from snake case, the 43 that the package's own rule loses included."""
        for version, action, result, root in every_schema():
            payload = sample(root, True)
            there = snake(version, payload)
            self.assertEqual(wire_keys(version, action, there, result), payload, (version, action, result))
            self.assertEqual(wire_keys(version, action, payload, result), payload)

    def test_examples(self) -> None:
        """The names that configurations know, the odd ones included."""
        for key, expected in (
            ("meterValue", "meter_value"),
            ("connectorId", "connector_id"),
            ("responderURL", "responder_url"),
            ("fullSoC", "full_soc"),
            ("evseId", "evse_id"),
            ("v2xChargingParameters", "v2x_charging_parameters"),
            ("limit_L2", "limit_l2"),
            ("ocppCsmsUrl", "ocpp_csms_url"),
        ):
            self.assertEqual(list(snake(V21, {key: 1})), [expected])

    def test_same_as_the_package(self) -> None:
        """Our rule gives what the package's gives, for every key of every schema."""
        from ocpp.charge_point import camel_to_snake_case

        for version, _, _, root in every_schema():
            payload = {key: value for key, value in sample(root, True).items() if key != "customData"}
            ours = snake(version, payload)
            self.assertEqual(ours, {key: ours[key] for key in camel_to_snake_case(payload)})

    def test_opaque(self) -> None:
        """Nothing is renamed inside DataTransfer's data and customData, in either direction."""
        inner = {"nestedKey": {"aB": 1}, "snake_key": 2}
        payload = {"vendorId": "v", "data": inner, "customData": {"vendorId": "v", **inner}}
        there = snake(V201, payload)
        self.assertEqual(there, {"vendor_id": "v", "data": inner, "custom_data": {"vendorId": "v", **inner}})
        self.assertEqual(wire_keys(V201, "DataTransfer", there), payload)

    def test_unknown_keys(self) -> None:
        """Keys that the schema does not have stay as they are, for the validation to complain about."""
        self.assertEqual(wire_keys(V16, "Reset", {"type": "Hard", "my_key": 1}), {"type": "Hard", "my_key": 1})
        self.assertEqual(
            wire_keys(V16, "RemoteStartTransaction", {"id_tag": "a", "idTag": "b"}), {"id_tag": "a", "idTag": "b"}
        )
        with self.assertRaises(KeyError):
            wire_keys(V16, "Nonsense", {})
