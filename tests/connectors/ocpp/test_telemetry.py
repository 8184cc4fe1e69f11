"""The default mapping: golden messages, and what no message can do to it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.ocpp.policy import DefaultMapping
from tbgw.connectors.ocpp.sessions import SessionKeeper
from tbgw.connectors.ocpp.telemetry import DefaultMapper, Mapped, Memory, Message, configuration_attributes
from tbgw.connectors.ocpp.transactions import Sessions, TransactionIds
from tbgw.ocpp.actions import station_actions
from tbgw.ocpp.errors import CallRefused
from tbgw.ocpp.versions import Version
from tests.connectors.ocpp.fakes import NOW_MS, request_of
from tests.connectors.ocpp.test_measurands import ANYTHING

SALT = bytes(16)
AT = "2026-11-18T11:00:00Z"
AT_MS = NOW_MS - 400_000


class MappingCase(SynchronousTestCase):
    """One charge point and its messages."""

    def setUp(self) -> None:
        self.memory = Memory()
        self.sessions = Sessions()
        self.keeper = SessionKeeper(TransactionIds(1, NOW_MS))

    def map(
        self, action: str, payload: dict[str, Any], version: Version = Version.V16, /, **options: Any
    ) -> Mapped:
        mapper = DefaultMapper(DefaultMapping(**options), SALT)
        session = self.keeper.apply(self.sessions, version, action, payload, NOW_MS)
        mapped = Mapped()
        mapper.map(Message(version, action, payload, NOW_MS, session), self.memory, mapped)
        return mapped

    def check(
        self,
        mapped: Mapped,
        telemetry: dict[int, dict[str, Any]],
        attributes: dict[str, Any] | None = None,
        device: str = "",
    ) -> None:
        self.assertEqual(mapped.telemetry.get(device, {}), telemetry)
        self.assertEqual(mapped.attributes.get(device, {}), attributes or {})


class Mapping16Tests(MappingCase):
    """1.6."""

    def test_boot(self):
        """Who it is becomes attributes, that it started a value."""
        boot = {
            "chargePointVendor": "ABB",
            "chargePointModel": "Terra",
            "chargePointSerialNumber": "S1",
            "chargeBoxSerialNumber": "B1",
            "firmwareVersion": "1.2",
            "iccid": "89",
            "imsi": "262",
            "meterType": "MID",
            "meterSerialNumber": "M1",
        }
        self.check(
            self.map("BootNotification", boot),
            {NOW_MS: {"boot": 1}},
            {
                "vendor": "ABB",
                "model": "Terra",
                "serialNumber": "S1",
                "chargeBoxSerialNumber": "B1",
                "firmwareVersion": "1.2",
                "iccid": "89",
                "imsi": "262",
                "meterType": "MID",
                "meterSerialNumber": "M1",
            },
        )

    def test_status(self):
        """A connector's status with its prefix, its time and its fault; the status stands as an attribute too."""
        status = {
            "connectorId": 2,
            "status": "Faulted",
            "errorCode": "GroundFailure",
            "vendorErrorCode": "E7",
            "info": "relay",
            "timestamp": AT,
        }
        self.check(
            self.map("StatusNotification", status),
            {
                AT_MS: {
                    "connector_2_status": "Faulted",
                    "connector_2_errorCode": "GroundFailure",
                    "connector_2_vendorErrorCode": "E7",
                    "connector_2_info": "relay",
                    "connector_2_state": "Faulted",
                    "connector_2_available": False,
                    "connector_2_charging": False,
                    "connector_2_faulted": True,
                }
            },
            {"connector_2_status": "Faulted"},
        )

    def test_connector_0(self):
        """Connector 0 is the charge point itself, without prefix."""
        mapped = self.map("StatusNotification", {"connectorId": 0, "status": "Available", "errorCode": "NoError"})
        self.assertEqual(mapped.attributes, {"": {"status": "Available"}})

    def test_meter_values(self):
        """One entry for each instant, units once."""
        meter = {
            "connectorId": 1,
            "meterValue": [
                {
                    "timestamp": AT,
                    "sampledValue": [{"value": "1.5", "unit": "kWh"}, {"value": "55", "measurand": "SoC"}],
                },
                {"timestamp": "2026-11-18T11:01:00Z", "sampledValue": [{"value": "1.6", "unit": "kWh"}]},
            ],
        }
        self.check(
            self.map("MeterValues", meter),
            {
                AT_MS: {"connector_1_energy_active_import_register": 1500.0, "connector_1_soc": 55},
                AT_MS + 60_000: {"connector_1_energy_active_import_register": 1600.0},
            },
            {"connector_1_energy_active_import_register_unit": "Wh"},
        )
        self.assertEqual(self.map("MeterValues", meter).attributes, {})

    def test_session(self):
        """Begin, end, and the samples of the transaction's own."""
        start = {"connectorId": 1, "idTag": "04AABBCC", "meterStart": 100, "timestamp": AT}
        number = NOW_MS // 1000
        self.check(
            self.map("StartTransaction", start),
            {
                AT_MS: {
                    "connector_1_transactionId": number,
                    "connector_1_transaction": "started",
                    "connector_1_meterStart": 100,
                    "connector_1_idTag": "****BCC",
                }
            },
            {"connector_1_activeTransactionId": number},
        )
        stop = {
            "transactionId": number,
            "meterStop": 350,
            "timestamp": "2026-11-18T11:02:00Z",
            "transactionData": [
                {"timestamp": AT, "sampledValue": [{"value": "100", "context": "Transaction.Begin"}]},
            ],
        }
        self.check(
            self.map("StopTransaction", stop),
            {
                AT_MS: {"connector_1_energy_active_import_register_begin": 100},
                AT_MS + 120_000: {
                    "connector_1_transaction": "stopped",
                    "connector_1_stopReason": "Local",
                    "connector_1_transactionId": number,
                    "connector_1_meterStop": 350,
                    "connector_1_sessionEnergy": 250,
                    "connector_1_sessionDuration": 120,
                },
            },
            {
                "connector_1_energy_active_import_register_unit": "Wh",
                "connector_1_activeTransactionId": 0,
            },
        )

    def test_id_tags(self):
        """Tags are masked unless the file says otherwise."""
        start = {"connectorId": 1, "idTag": "04AABBCC", "meterStart": 1, "timestamp": AT}
        for how, expected in (("masked", "****BCC"), ("plain", "04AABBCC"), ("hidden", None)):
            values = self.map("StartTransaction", start, id_tags=how).telemetry[""][AT_MS]
            self.assertEqual(values.get("connector_1_idTag"), expected)
        hashed = [
            DefaultMapper(DefaultMapping(id_tags="hashed"), salt).id_tag(tag)
            for salt, tag in ((SALT, "04aa"), (SALT, "04AA"), (b"x" * 16, "04aa"))
        ]
        self.assertEqual(hashed[0], hashed[1])
        self.assertNotEqual(hashed[0], hashed[2])
        self.assertEqual(DefaultMapper(DefaultMapping(), SALT).id_tag("12345"), "****")

    def test_connector_devices(self):
        """With `connectorDevices` values go to devices without prefix, bounded in number."""
        meter = {"connectorId": 3, "meterValue": [{"timestamp": AT, "sampledValue": [{"value": "1"}]}]}
        mapped = self.map("MeterValues", meter, connector_devices=True)
        self.check(
            mapped,
            {AT_MS: {"energy_active_import_register": 1}},
            {"energy_active_import_register_unit": "Wh"},
            " Connector 3",
        )
        for connector in range(1, 200):
            mapped = self.map("MeterValues", {**meter, "connectorId": connector}, connector_devices=True)
        self.assertEqual(len(self.memory.connectors), 64)
        self.assertIn("connector_199_energy_active_import_register", mapped.telemetry[""][AT_MS])

    def test_unbelievable_times(self):
        """What cannot be true is dated on arrival, and counted."""
        status = {"connectorId": 1, "status": "Available", "errorCode": "NoError", "timestamp": "1970-01-01T00:00:00Z"}
        mapped = self.map("StatusNotification", status)
        self.assertEqual((list(mapped.telemetry[""]), mapped.unusable), ([NOW_MS], {"timestamp": 1}))

    def test_other_messages(self):
        """States of firmware and logs, security events, DataTransfer if wanted."""
        for action, payload, expected in (
            ("FirmwareStatusNotification", {"status": "Installed"}, {"firmwareStatus": "Installed"}),
            ("SignedFirmwareStatusNotification", {"status": "Installed"}, {"firmwareStatus": "Installed"}),
            ("DiagnosticsStatusNotification", {"status": "Uploaded"}, {"diagnosticsStatus": "Uploaded"}),
            ("LogStatusNotification", {"status": "Uploading"}, {"logStatus": "Uploading"}),
            (
                "SecurityEventNotification",
                {"type": "TamperDetectionActivated", "techInfo": "lid"},
                {"securityEvent": "TamperDetectionActivated", "securityEventInfo": "lid"},
            ),
            ("DataTransfer", {"vendorId": "v"}, None),
            ("Heartbeat", {}, None),
        ):
            self.check(self.map(action, payload), {} if expected is None else {NOW_MS: expected})
        self.check(
            self.map("DataTransfer", {"vendorId": "v", "data": "d"}, data_transfer=True),
            {NOW_MS: {"dataTransfer": {"vendorId": "v", "data": "d"}}},
        )


class Mapping2Tests(MappingCase):
    """2.0.1 and 2.1."""

    def test_boot(self):
        """The station's own fields, and why it started."""
        boot = {
            "reason": "Watchdog",
            "chargingStation": {"vendorName": "ABB", "model": "T", "serialNumber": "S", "modem": {"iccid": "8"}},
        }
        self.check(
            self.map("BootNotification", boot, Version.V201),
            {NOW_MS: {"boot": 1, "bootReason": "Watchdog"}},
            {"vendor": "ABB", "model": "T", "serialNumber": "S", "iccid": "8"},
        )

    def test_status(self):
        """EVSE and connector make the prefix; a second connector is named."""
        for evse, connector, prefix in ((1, 1, "evse_1_"), (2, 3, "evse_2_connector_3_"), (0, 0, "")):
            status = {"timestamp": AT, "connectorStatus": "Available", "evseId": evse, "connectorId": connector}
            mapped = self.map("StatusNotification", status, Version.V21)
            self.assertEqual(mapped.attributes, {"": {prefix + "status": "Available"}})

    def test_status_by_event(self):
        """AvailabilityState in a NotifyEvent is the same as a StatusNotification; other variables are values."""

        def event(component: dict[str, Any], variable: str, value: str) -> dict[str, Any]:
            return {
                "eventId": 1,
                "timestamp": AT,
                "trigger": "Delta",
                "actualValue": value,
                "eventNotificationType": "CustomMonitor",
                "component": component,
                "variable": {"name": variable},
            }

        events = [
            event({"name": "Connector", "evse": {"id": 1, "connectorId": 1}}, "AvailabilityState", "Occupied"),
            event({"name": "EVSE", "evse": {"id": 1}}, "Temperature", "41.5"),
            event({"name": "ChargingStation"}, "Problem", "true"),
            event({"name": "SecurityCtrlr"}, "BasicAuthPassword", "secret"),
            {"eventId": 2},
        ]
        mapped = self.map("NotifyEvent", {"generatedAt": AT, "seqNo": 0, "eventData": events}, Version.V201)
        values = mapped.telemetry[""][AT_MS]
        self.assertEqual(
            (values["evse_1_status"], values["evse_1_state"], values["evse_1_EVSE_Temperature"]),
            ("Occupied", "Preparing", 41.5),
        )
        self.assertEqual(values["ChargingStation_Problem"], True)
        self.assertNotIn("secret", json.dumps(mapped.telemetry))
        self.assertEqual(mapped.unusable, {"event": 1})

    def test_states(self):
        """The state has the words of 1.6, whatever the version says."""

        def event(kind: str, state: str | None) -> str:
            info = {"transactionId": "t", **({"chargingState": state} if state else {})}
            payload = {
                "eventType": kind,
                "timestamp": AT,
                "triggerReason": "ChargingStateChanged",
                "seqNo": 0,
                "transactionInfo": info,
                "evse": {"id": 1, "connectorId": 1},
            }
            mapped = self.map("TransactionEvent", payload, Version.V201)
            return str(mapped.telemetry[""][AT_MS].get("evse_1_state"))

        for kind, state, expected in (
            ("Started", None, "Preparing"),
            ("Updated", "EVConnected", "Preparing"),
            ("Updated", "Charging", "Charging"),
            ("Updated", None, "Charging"),
            ("Updated", "SuspendedEV", "SuspendedEV"),
            ("Updated", "SuspendedEVSE", "SuspendedEVSE"),
            ("Updated", "Idle", "Finishing"),
            ("Ended", None, "Finishing"),
        ):
            self.assertEqual(event(kind, state), expected)
        status = {"timestamp": AT, "connectorStatus": "Faulted", "evseId": 1, "connectorId": 1}
        self.map("StatusNotification", status, Version.V201)
        self.assertEqual(event("Updated", "Charging"), "None")

    def test_report(self):
        """Reported variables become attributes when that is wanted, page by page, never the secret ones."""
        page = {
            "requestId": 1,
            "generatedAt": AT,
            "seqNo": 0,
            "tbc": True,
            "reportData": [
                _variable("OCPPCommCtrlr", "HeartbeatInterval", "300"),
                _variable("SecurityCtrlr", "BasicAuthPassword", "x"),
                _variable("EVSE", "Power", "22000", "MaxSet", {"id": 1}),
                {"component": 7},
            ],
        }
        self.check(self.map("NotifyReport", page, Version.V201), {})
        mapped = self.map("NotifyReport", page, Version.V201, configuration=True)
        expected = {"config_OCPPCommCtrlr_HeartbeatInterval": 300, "evse_1_config_EVSE_Power_MaxSet": 22000}
        self.check(mapped, {}, expected)
        last = {"requestId": 1, "generatedAt": AT, "seqNo": 1}
        mapped = self.map("NotifyReport", last, Version.V201, configuration=True)
        self.check(mapped, {}, {"configReportedTs": NOW_MS})

    def test_other_messages(self):
        """Limits, reservations, alarms, event streams."""
        messages: tuple[tuple[str, dict[str, Any], dict[int, dict[str, Any]]], ...] = (
            (
                "NotifyChargingLimit",
                {"evseId": 1, "chargingLimit": {"chargingLimitSource": "EMS"}},
                {NOW_MS: {"evse_1_chargingLimit": "set", "evse_1_chargingLimitSource": "EMS"}},
            ),
            (
                "ClearedChargingLimit",
                {"chargingLimitSource": "EMS"},
                {NOW_MS: {"chargingLimit": "cleared", "chargingLimitSource": "EMS"}},
            ),
            (
                "ReservationStatusUpdate",
                {"reservationId": 5, "reservationUpdateStatus": "Expired"},
                {NOW_MS: {"reservationId": 5, "reservationStatus": "Expired"}},
            ),
            (
                "NotifyDERAlarm",
                {"controlType": "FreqDroop", "gridEventFault": "OverVoltage", "timestamp": AT},
                {AT_MS: {"derAlarm": "FreqDroop", "derGridEventFault": "OverVoltage"}},
            ),
            (
                "NotifyPeriodicEventStream",
                {"id": 3, "pending": 0, "basetime": AT, "data": [{"t": 0, "v": "1"}, {"t": 1.5, "v": "2.5"}]},
                {AT_MS: {"eventStream_3": 1}, AT_MS + 1500: {"eventStream_3": 2.5}},
            ),
        )
        for action, payload, expected in messages:
            self.check(self.map(action, payload, Version.V21), expected)


class RobustnessTests(MappingCase):
    """No message can do harm."""

    def test_every_schema(self):
        """Whole and smallest requests of each action, with all options on."""
        for version in Version:
            for action in station_actions(version):
                for whole in (False, True):
                    self.map(
                        action,
                        request_of(version, action, whole),
                        version,
                        connector_devices=True,
                        phase_totals=True,
                        configuration=True,
                        data_transfer=True,
                    )

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_mutated(self, data: st.DataObject):
        """Anything in the place of anything: values stay JSON, nothing is raised but refusals."""
        version = data.draw(st.sampled_from(list(Version)))
        action = data.draw(st.sampled_from(sorted(station_actions(version))))
        payload = request_of(version, action, True)
        for _ in range(data.draw(st.integers(1, 4))):
            at: Any = payload
            while True:
                if not isinstance(at, dict | list) or not at:
                    break
                step = data.draw(st.sampled_from(sorted(at))) if isinstance(at, dict) else 0
                if not isinstance(at[step], dict | list) or data.draw(st.booleans()):
                    at[step] = data.draw(ANYTHING)
                    break
                at = at[step]
        try:
            mapped = self.map(action, payload, version, phase_totals=True, configuration=True)
        except CallRefused:
            return
        for told in mapped.telemetry.values():
            for time_ms, values in told.items():
                self.assertIsInstance(time_ms, int)
                json.dumps(values, allow_nan=False)
                self.assertTrue(all(isinstance(key, str) and len(key) <= 300 for key in values))

    def test_work_is_bounded(self):
        """Of a message of a megabyte only so much is looked at, and the rest counted."""
        meter_value = {"timestamp": AT, "sampledValue": [{"value": "1"}] * 900}
        mapped = self.map("MeterValues", {"connectorId": 1, "meterValue": [meter_value] * 100})
        self.assertEqual(mapped.unusable, {"sample": 100})
        events = [{"component": {"name": "A"}, "variable": {"name": str(n)}, "actualValue": "1"} for n in range(5000)]
        mapped = self.map("NotifyEvent", {"eventData": events}, Version.V201)
        self.assertEqual(len(mapped.telemetry[""][NOW_MS]), 1000)

    def test_memory_is_bounded(self):
        """Connectors and measurands that never end do not fill it."""
        for number in range(2000):
            sampled = [{"value": "1", "measurand": f"x{number}"}]
            meter = {"connectorId": number, "meterValue": [{"timestamp": AT, "sampledValue": sampled}]}
            self.map("MeterValues", meter)
            status = {"evseId": number, "connectorId": 1, "connectorStatus": "Available", "timestamp": AT}
            self.map("StatusNotification", status, Version.V201)
        self.assertLessEqual(max(len(self.memory.units), len(self.memory.statuses)), 512)


class ConfigurationTests(SynchronousTestCase):
    """`configuration_attributes`."""

    def test_keys(self):
        """Keys become attributes with their values' types; secrets, and what is no key, do not."""
        keys = [
            {"key": "HeartbeatInterval", "readonly": False, "value": "300"},
            {"key": "LocalPreAuthorize", "readonly": False, "value": "true"},
            {"key": "AuthorizationKey", "readonly": False, "value": "4142"},
            {"key": "NoValue", "readonly": True},
            "x",
        ]
        expected = {"config_HeartbeatInterval": 300, "config_LocalPreAuthorize": True}
        self.assertEqual(configuration_attributes(keys), expected)
        self.assertEqual(configuration_attributes(None), {})


def _variable(
    component: str, variable: str, value: str, kind: str = "Actual", evse: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "component": {"name": component, **({"evse": evse} if evse else {})},
        "variable": {"name": variable},
        "variableAttribute": [{"type": kind, "value": value}],
    }
