"""`StationReports`: answers, readings, identity and memory, over reconnects and restarts."""

from __future__ import annotations

from typing import Any, ClassVar
from unittest import mock

from twisted.internet.defer import Deferred

from tbgw.connectors.ocpp.config import UNKNOWN_CHARGE_POINT
from tbgw.connectors.ocpp.telemetry import DefaultMapper
from tbgw.errors import LinkDown, StoreFull
from tbgw.ocpp.errors import CallRefused
from tbgw.ocpp.versions import Version
from tests.connectors.ocpp.fakes import NOW_MS, FakeStation, ReportsCase

PATH = "garage/CP_1"
STARTED: dict[str, Any] = {
    "connectorId": 1,
    "idTag": "04AABBCC",
    "meterStart": 1000,
    "timestamp": "2026-11-18T11:00:00Z",
}


def stopped(transaction: int, **more: Any) -> dict[str, Any]:
    return {"transactionId": transaction, "meterStop": 3500, "timestamp": "2026-11-18T11:05:00Z", **more}


class IdentityTests(ReportsCase):
    """Which device a charge point is, and when ThingsBoard hears of it."""

    def test_new_one_is_silent_until_its_boot(self):
        """Of a charge point that was never seen nothing is told before its name is known."""
        reports = self.make()
        station = self.connect(reports)
        self.assertEqual((self.ingest.readings, reports.device_of(PATH)), ([], None))
        made = self.boot(reports, station, "ABB", firmwareVersion="1.2")
        self.assertEqual(made, {"currentTime": "2026-11-18T11:06:40.000Z", "interval": 300, "status": "Accepted"})
        self.assertEqual(self.ingest.names(), ["ABB CP_1"])
        values, attributes = self.ingest.values(), self.ingest.attributes()
        self.assertEqual((values["online"], values["boot"], values["reconnects"]), (True, 1, 0))
        self.assertEqual(
            (attributes["vendor"], attributes["firmwareVersion"], attributes["ocppVersion"]), ("ABB", "1.2", "ocpp1.6")
        )
        self.assertEqual(reports.paths_of("ABB CP_1"), (PATH,))

    def test_name_without_boot_data(self):
        """A name that needs no boot is told at once."""
        reports = self.make({"deviceNameExpression": "Charger ${chargePointId}"})
        self.connect(reports)
        self.assertEqual(self.ingest.names(), ["Charger CP_1"])

    def test_named_group(self):
        """Groups of the pattern may be used in the name."""
        reports = self.make(
            {"idRegexpPattern": "(?P<site>[^/]+)/(?P<box>.*)", "deviceNameExpression": "${site}-${box}"}
        )
        self.connect(reports)
        self.assertEqual(self.ingest.names(), ["garage-CP_1"])
        for pattern in ("[^/]+/(?P<id>.*)_1", "(?P<id>CP)_1"):
            self.ingest.forget()
            self.connect(self.make({"idRegexpPattern": pattern, "deviceNameExpression": "${chargePointId}"}))
            self.assertEqual(self.ingest.names(), ["CP"])

    def test_no_boot(self):
        """One that never boots gets its fallback name with its first message; the boot then makes another device."""
        reports = self.make()
        station = self.connect(reports)
        status = {"connectorId": 1, "errorCode": "NoError", "status": "Faulted"}
        self.call(reports, station, "StatusNotification", status)
        self.assertEqual(self.ingest.names(), ["CP_1"])
        self.assertEqual(self.ingest.values("CP_1")["connector_1_status"], "Faulted")
        self.boot(reports, station)
        self.assertEqual((self.ingest.names(), self.ingest.gone), (["CP_1", "ABB CP_1"], ["CP_1"]))
        self.assertEqual(reports.paths_of("CP_1"), ())

    def test_impossible_name(self):
        """A boot whose fields make no possible name leaves the charge point with its fallback name."""
        reports = self.make({"deviceNameExpression": "${Vendor}${Model}${meterType}"})
        station = self.connect(reports)
        self.boot(reports, station, "v" * 200, meterType="m" * 200)
        self.assertEqual(self.ingest.names(), ["CP_1"])

    def test_heartbeat_names_too(self):
        """A heartbeat counts as a first message."""
        reports = self.make()
        self.call(reports, self.connect(reports), "Heartbeat", {})
        self.assertEqual(self.ingest.names(), ["CP_1"])

    def test_reconnect_without_boot(self):
        """The name stays when it comes back without a boot, as the standard wants it to."""
        reports = self.make()
        station = self.connect(reports)
        self.boot(reports, station)
        reports.disconnected(station, "closed by the peer")
        self.assertEqual(self.ingest.gone, ["ABB CP_1"])
        self.assertEqual(self.ingest.values()["online"], False)
        self.assertEqual(self.ingest.attributes()["lastDisconnectReason"], "closed by the peer")
        self.connect(reports)
        self.assertEqual(self.ingest.names(), ["ABB CP_1"])
        self.assertEqual(self.ingest.values()["reconnects"], 1)

    def test_restart_without_boot(self):
        """The same after the gateway was started anew: the device is known before it connects."""
        reports = self.make()
        self.boot(reports, self.connect(reports))
        self.successResultOf(reports.close())
        again = self.make()
        device = again.device_of(PATH)
        self.assertEqual((device and device.name, again.paths_of("ABB CP_1")), ("ABB CP_1", (PATH,)))
        self.ingest.forget()
        self.connect(again)
        self.assertEqual(self.ingest.names(), ["ABB CP_1"])

    def test_one_name_for_two(self):
        """Two of one model are one device, as in the reference, and that is said once for each."""
        reports = self.make({"deviceNameExpression": "${Vendor} ${Model}"})
        first, second = self.connect(reports, "a/1"), self.connect(reports, "a/2")
        for station in (first, second, first):
            self.boot(reports, station)
        self.assertEqual(self.ingest.names(), ["ABB M"])
        self.assertEqual(len({id(reading.device) for reading in self.ingest.readings}), 1)
        self.assertEqual(self.counters.total("ocpp_names_shared"), 1)
        self.assertEqual(reports.paths_of("ABB M"), ("a/1", "a/2"))
        reports.disconnected(first, "x")
        self.assertEqual(self.ingest.gone, [])
        reports.disconnected(second, "x")
        self.assertEqual(self.ingest.gone, ["ABB M"])

    def test_replaced_connection(self):
        """What is said of a connection that was replaced does not touch the newer one."""
        reports = self.make()
        old = self.connect(reports)
        self.boot(reports, old)
        reports.disconnected(old, "replaced")
        self.connect(reports)
        self.ingest.forget()
        reports.disconnected(old, "again")
        self.assertEqual((self.ingest.readings, self.ingest.gone), ([], []))

    def test_unknown_charge_point(self):
        """One that matches no entry is named by its id and mapped by default."""
        reports = self.make(None, boot={"unknown": "Pending"})
        station = FakeStation("else/X 9", Version.V16, UNKNOWN_CHARGE_POINT)
        reports.connected(station)
        self.assertEqual(self.boot(reports, station)["status"], "Pending")
        self.assertEqual(self.ingest.names(), ["X 9"])

    def test_connector_devices(self):
        """Each connector is a device of its own, gone with its charge point, and found by its name."""
        reports = self.make(mapping={"connectorDevices": True})
        station = self.connect(reports)
        self.boot(reports, station)
        for connector in (0, 1, 2):
            status = {"connectorId": connector, "errorCode": "NoError", "status": "Available"}
            self.call(reports, station, "StatusNotification", status)
        self.assertEqual(set(self.ingest.names()), {"ABB CP_1", "ABB CP_1 Connector 1", "ABB CP_1 Connector 2"})
        self.assertEqual(self.ingest.values("ABB CP_1 Connector 2")["status"], "Available")
        self.assertEqual(reports.paths_of("ABB CP_1 Connector 2"), (PATH,))
        self.assertEqual(reports.connector_of("ABB CP_1 Connector 2"), 2)
        self.assertIsNone(reports.connector_of("ABB CP_1"))
        reports.disconnected(station, "x")
        self.assertEqual(len(self.ingest.gone), 3)

    def test_without_default_mapping(self):
        """An entry with expressions of its own sends these, and announces the device with nothing else."""
        reports = self.make({"timeseries": [{"messageTypeFilter": "Heartbeat", "key": "x", "value": "${y}"}]})
        station = self.connect(reports)
        self.boot(reports, station)
        self.assertEqual(self.ingest.names(), ["ABB CP_1"])
        self.assertEqual((self.ingest.values(), self.ingest.attributes()), ({}, {}))


class AnswerTests(ReportsCase):
    """When a message is answered, and how."""

    def test_after_storing(self):
        """The answer to data leaves when the reading is on stable storage, and not before."""
        reports = self.make()
        station = self.connect(reports)
        self.boot(reports, station)
        self.ingest.holds = True
        made = reports.call_received(station, "MeterValues", _meter("7"), ())
        assert isinstance(made, Deferred)
        self.assertNoResult(made)
        heartbeat = reports.call_received(station, "Heartbeat", {}, ())
        self.assertEqual(heartbeat, {"currentTime": "2026-11-18T11:06:40.000Z"})
        self.ingest.receipts[-2].settle()
        self.assertEqual(self.successResultOf(made), {})

    def test_store_full(self):
        """What cannot be stored is answered with an error, so that it comes again; what lets cars charge is not."""
        reports = self.make()
        station = self.connect(reports)
        self.boot(reports, station)
        self.ingest.full = True
        for action, payload in (
            ("MeterValues", _meter("7")),
            ("StartTransaction", STARTED),
            ("StatusNotification", {"connectorId": 1, "errorCode": "NoError", "status": "Available"}),
        ):
            error = self.assertRaises(CallRefused, self.call, reports, station, action, payload)
            self.assertEqual(error.code, "InternalError", action)
        self.assertEqual(self.boot(reports, station)["status"], "Accepted")
        self.assertEqual(
            self.call(reports, station, "Authorize", {"idTag": "x"}), {"idTagInfo": {"status": "Accepted"}}
        )
        self.assertEqual(self.counters.get("ocpp_replies_withheld", "Car park"), 4)

    def test_state_not_written(self):
        """A transaction whose id cannot be kept is answered with an error; the same one succeeds later."""
        reports = self.make()
        station = self.connect(reports)
        self.boot(reports, station)
        self.thread.broken = OSError("no space left on device")
        self.assertRaises(CallRefused, self.call, reports, station, "StartTransaction", STARTED)
        self.assertEqual(self.counters.get("ocpp_state_not_written", "Car park"), 1)
        self.thread.broken = None
        first = self.call(reports, station, "StartTransaction", STARTED)["transactionId"]
        self.successResultOf(reports.close())
        again = self.make()
        self.assertEqual(again.transaction_of(PATH, 1), first)

    def test_state_before_answer(self):
        """The id is on the disk before the charge point gets it."""
        reports = self.make()
        station = self.connect(reports)
        self.boot(reports, station)
        self.thread.holds = True
        made = reports.call_received(station, "StartTransaction", STARTED, ())
        assert isinstance(made, Deferred)
        self.assertNoResult(made)
        self.thread.run()
        self.assertEqual(self.successResultOf(made)["idTagInfo"], {"status": "Accepted"})

    def test_boot_tells_the_time_of_the_answer(self):
        """The charge point sets its clock by the answer, so the time is that of the answer, however slow the disk."""
        reports = self.make()
        station = self.connect(reports)
        self.thread.holds = True
        boot = {"chargePointVendor": "A", "chargePointModel": "M"}
        made = reports.call_received(station, "BootNotification", boot, ())
        assert isinstance(made, Deferred)
        self.now_ms += 5000
        self.thread.run()
        self.assertEqual(self.successResultOf(made)["currentTime"], "2026-11-18T11:06:45.000Z")

    def test_conversion_fails(self):
        """A fault of ours in the mapping is logged and counted, and never an error for the charge point."""
        reports = self.make()
        station = self.connect(reports)
        self.boot(reports, station)
        with mock.patch.object(DefaultMapper, "map", side_effect=ZeroDivisionError("ours")):
            self.assertEqual(self.call(reports, station, "MeterValues", _meter("7")), {})
        self.assertEqual(self.counters.get("ocpp_conversions_failed", "Car park"), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_unknown_action(self):
        """It is refused, and its payload goes to the expressions that ask for it by name."""
        reports = self.make({"timeseries": [{"messageTypeFilter": "Brew", "key": "cups", "value": "${cups_made}"}]})
        station = self.connect(reports)
        self.boot(reports, station)
        error = self.assertRaises(CallRefused, self.call, reports, station, "Brew", {"cupsMade": 3})
        self.assertEqual((error.code, self.ingest.values()), ("NotImplemented", {"cups": 3}))

    def test_faults(self):
        """A message that breaks its schema is used; how many did is told."""
        reports = self.make()
        station = self.connect(reports)
        self.boot(reports, station)
        self.call(reports, station, "MeterValues", _meter(7), ["meterValue[0]...value must be string"])
        values = self.ingest.values()
        self.assertEqual((values["invalidMessages"], values["connector_1_energy_active_import_register"]), (1, 7))
        self.assertEqual(self.counters.get("ocpp_messages_faulty", "Car park"), 1)

    def test_pending(self):
        """While boot is pending only what belongs to it passes, and what we asked for, once."""
        reports = self.make(boot={"status": "Pending", "interval": 30})
        station = self.connect(reports, version=Version.V201)
        self.assertEqual(self.boot(reports, station)["status"], "Pending")
        self.assertEqual((reports.is_accepted(PATH), self.ready), (False, []))
        status = {"timestamp": "2026-11-18T11:00:00Z", "connectorStatus": "Available", "evseId": 1, "connectorId": 1}
        for action, payload in (("StatusNotification", status), ("Heartbeat", {})):
            error = self.assertRaises(CallRefused, self.call, reports, station, action, payload)
            self.assertEqual(error.code, "SecurityError")
        self.call(reports, station, "NotifyReport", {"requestId": 1, "generatedAt": "x", "seqNo": 0})
        reports.expect(PATH, "StatusNotification")
        self.assertEqual(self.call(reports, station, "StatusNotification", status), {})
        self.assertRaises(CallRefused, self.call, reports, station, "StatusNotification", status)
        self.successResultOf(reports.close())
        accepting = self.make()
        again = self.connect(accepting, version=Version.V201)
        self.assertEqual(self.call(accepting, again, "StatusNotification", status), {})

    def test_rejected(self):
        """A charge point that is turned away tells us nothing, reports included."""
        reports = self.make(boot={"status": "Rejected", "interval": 900})
        station = self.connect(reports)
        self.assertEqual(self.boot(reports, station)["interval"], 900)
        self.assertRaises(CallRefused, self.call, reports, station, "Heartbeat", {})
        self.assertEqual(self.ingest.readings, [])
        self.assertEqual(reports.boot_status(PATH), "Rejected")
        named = self.make({"deviceNameExpression": "${chargePointId}"}, boot={"status": "Rejected"})
        self.connect(named)
        self.assertEqual(self.ingest.readings, [])

    def test_no_boot_is_no_refusal(self):
        """One that reconnects without a boot is never told to boot first."""
        reports = self.make(boot={"status": "Pending"})
        station = self.connect(reports)
        self.assertIn("currentTime", self.call(reports, station, "Heartbeat", {}))

    def test_ready_once(self):
        """`on_ready` is told once for each connection, after the answer to the first message."""
        reports = self.make()
        station = self.connect(reports)
        made = reports.call_received(station, "Heartbeat", {}, ())
        self.assertIn("currentTime", made)
        self.assertEqual(self.ready, [])
        self.clock.advance(0)
        self.boot(reports, station)
        self.assertEqual(self.ready, [PATH])
        reports.disconnected(station, "x")
        self.boot(reports, self.connect(reports))
        self.assertEqual(self.ready, [PATH, PATH])

    def test_ready_when_gone(self):
        """One that went away before is not told."""
        reports = self.make()
        station = self.connect(reports)
        reports.call_received(station, "Heartbeat", {}, ())
        reports.disconnected(station, "x")
        self.clock.advance(0)
        self.assertEqual(self.ready, [])

    def test_certificate_request(self):
        """With `forward` the request reaches ThingsBoard and the charge point is told to wait; else it is refused."""
        for signing, status in (("forward", "Accepted"), ("reject", "Rejected")):
            entry = {"certificateSigning": signing, "defaultMapping": False}
            reports = self.make(entry, transactions={"persist": False})
            station = self.connect(reports)
            self.boot(reports, station)
            self.ingest.forget()
            self.assertEqual(self.call(reports, station, "SignCertificate", {"csr": "-----BEGIN"}), {"status": status})
            expected = {"certificateSigningRequest": "-----BEGIN", "certificateType": "ChargingStationCertificate"}
            self.assertEqual(self.ingest.values(), expected if signing == "forward" else {})

    def test_data_transfer(self):
        """1.6 is answered as by the reference, 2.x as certification asks; configured vendors decide otherwise."""
        for central, version, payload, expected in (
            ({}, Version.V16, {"vendorId": "v"}, {"status": "Accepted"}),
            ({}, Version.V201, {"vendorId": "v"}, {"status": "UnknownVendorId"}),
            ({"mapping": {"dataTransfer": True}}, Version.V201, {"vendorId": "v"}, {"status": "Accepted"}),
            ({"dataTransfer": {"vendors": ["v"]}}, Version.V16, {"vendorId": "w"}, {"status": "UnknownVendorId"}),
            ({"dataTransfer": {"vendors": ["v"]}}, Version.V16, {"vendorId": "v"}, {"status": "Accepted"}),
            (
                {"dataTransfer": {"vendors": {"v": {"messageIds": ["m"]}}}},
                Version.V16,
                {"vendorId": "v", "messageId": "n"},
                {"status": "UnknownMessageId"},
            ),
            (
                {"dataTransfer": {"vendors": {"v": {"status": "Rejected", "data": "no"}}}},
                Version.V21,
                {"vendorId": "v"},
                {"status": "Rejected", "data": "no"},
            ),
        ):
            reports = self.make(None, transactions={"persist": False}, **central)
            station = self.connect(reports, version=version)
            self.assertEqual(self.call(reports, station, "DataTransfer", payload), expected)


class TransactionTests(ReportsCase):
    """Charging sessions of 1.6 and 2.x."""

    def test_session(self):
        """Begin and end of 1.6, with the session's energy and duration."""
        reports = self.make()
        station = self.connect(reports)
        self.boot(reports, station)
        number = self.call(reports, station, "StartTransaction", STARTED)["transactionId"]
        self.assertEqual(number, NOW_MS // 1000)
        self.assertEqual((reports.transaction_of(PATH), reports.transaction_of(PATH, 1)), (number, number))
        self.assertIsNone(reports.transaction_of(PATH, 2))
        self.assertEqual(self.ingest.attributes()["connector_1_activeTransactionId"], number)
        self.assertEqual(self.ingest.series("connector_1_meterStart"), [(NOW_MS - 400_000, 1000)])
        self.assertEqual(self.ingest.values()["connector_1_idTag"], "****BCC")
        made = self.call(reports, station, "StopTransaction", stopped(number, reason="Remote", idTag="04AABBCC"))
        self.assertEqual(made, {"idTagInfo": {"status": "Accepted"}})
        values = self.ingest.values()
        self.assertEqual(
            [values[f"connector_1_{key}"] for key in ("transaction", "stopReason", "sessionEnergy", "sessionDuration")],
            ["stopped", "Remote", 2500, 300],
        )
        self.assertEqual(self.ingest.attributes()["connector_1_activeTransactionId"], 0)
        self.assertIsNone(reports.transaction_of(PATH))

    def test_repeated_start(self):
        """The same StartTransaction has the same id, also after a restart of the gateway; another one has the next."""
        reports = self.make()
        station = self.connect(reports)
        first = self.call(reports, station, "StartTransaction", STARTED)["transactionId"]
        self.assertEqual(self.call(reports, station, "StartTransaction", STARTED)["transactionId"], first)
        self.successResultOf(reports.close())
        again = self.make()
        station = self.connect(again)
        self.assertEqual(self.call(again, station, "StartTransaction", STARTED)["transactionId"], first)
        other = {**STARTED, "connectorId": 2}
        self.assertEqual(self.call(again, station, "StartTransaction", other)["transactionId"], first + 1)
        self.assertIsNone(again.transaction_of(PATH))
        self.assertEqual(again.transaction_of(PATH, 2), first + 1)

    def test_repeated_after_a_day(self):
        """What looks the same a day later is another transaction."""
        reports = self.make()
        station = self.connect(reports)
        first = self.call(reports, station, "StartTransaction", STARTED)["transactionId"]
        self.now_ms += 25 * 3600 * 1000
        self.assertNotEqual(self.call(reports, station, "StartTransaction", STARTED)["transactionId"], first)

    def test_clock_set_back(self):
        """Ids only grow, whatever the gateway's clock says after a restart."""
        reports = self.make()
        first = self.call(reports, self.connect(reports), "StartTransaction", STARTED)["transactionId"]
        self.successResultOf(reports.close())
        self.now_ms -= 400 * 24 * 3600 * 1000
        again = self.make()
        other = {**STARTED, "meterStart": 7}
        self.assertEqual(self.call(again, self.connect(again), "StartTransaction", other)["transactionId"], first + 1)

    def test_unknown_stop(self):
        """-1 and ids that are not ours are answered as valid, and no connector is guessed."""
        reports = self.make()
        station = self.connect(reports)
        self.boot(reports, station)
        self.call(reports, station, "StartTransaction", STARTED)
        for number in (-1, 0, 42):
            self.assertEqual(self.call(reports, station, "StopTransaction", stopped(number)), {})
        values = self.ingest.values()
        self.assertEqual((values["transaction"], values["meterStop"], values["stopReason"]), ("stopped", 3500, "Local"))
        self.assertNotIn("connector_1_meterStop", values)
        self.assertEqual(self.counters.get("ocpp_transactions_unknown", "Car park"), 3)

    def test_stop_after_restart(self):
        """The session's energy is known although the gateway was started anew in between."""
        reports = self.make()
        station = self.connect(reports)
        self.boot(reports, station)
        number = self.call(reports, station, "StartTransaction", STARTED)["transactionId"]
        self.successResultOf(reports.close())
        again = self.make()
        self.call(again, self.connect(again), "StopTransaction", stopped(number))
        self.assertEqual(self.ingest.values()["connector_1_sessionEnergy"], 2500)

    def test_start_lacks_what_counts(self):
        """Without connector or tag there is no transaction; anything else may be missing."""
        reports = self.make()
        station = self.connect(reports)
        for missing in ("connectorId", "idTag"):
            payload = {key: value for key, value in STARTED.items() if key != missing}
            error = self.assertRaises(CallRefused, self.call, reports, station, "StartTransaction", payload)
            self.assertEqual(error.code, "OccurrenceConstraintViolation")
        self.assertGreater(
            self.call(reports, station, "StartTransaction", {"connectorId": 1, "idTag": "x"})["transactionId"], 0
        )

    def test_denied_tag(self):
        """A tag that is not accepted still gets a transaction id."""
        reports = self.make(authorization={"mode": "list", "tags": {"ok": "Accepted"}})
        station = self.connect(reports)
        made = self.call(reports, station, "StartTransaction", STARTED)
        self.assertEqual(made["idTagInfo"], {"status": "Invalid"})
        self.assertGreater(made["transactionId"], 0)
        self.assertEqual(
            self.call(reports, station, "Authorize", {"idTag": "OK"}), {"idTagInfo": {"status": "Accepted"}}
        )

    def test_transaction_events(self):
        """A session of 2.0.1: the EVSE is known from its begin on, energy comes from registers of begin and end."""
        reports = self.make()
        station = self.connect(reports, version=Version.V201)
        self.boot(reports, station)
        token = {"idToken": "04AABBCC", "type": "ISO14443"}
        begun = _event("Started", 0, evse={"id": 2, "connectorId": 1}, idToken=token)
        begun["meterValue"] = [_register(10.0, "Transaction.Begin", "kWh")]
        made = self.call(reports, station, "TransactionEvent", begun)
        self.assertEqual(made, {"idTokenInfo": {"status": "Accepted"}})
        self.assertEqual(reports.transaction_of(PATH, 2), "t-1")
        self.assertEqual(self.ingest.values()["evse_2_meterStart"], 10000)
        self.call(reports, station, "TransactionEvent", _event("Updated", 1, info={"chargingState": "Charging"}))
        self.assertEqual(self.ingest.values()["evse_2_state"], "Charging")
        ended = _event("Ended", 2, info={"stoppedReason": "EVDisconnected"}, timestamp="2026-11-18T11:05:00Z")
        ended["meterValue"] = [_register(12.5, "Transaction.End", "kWh")]
        self.assertEqual(self.call(reports, station, "TransactionEvent", ended), {})
        values = self.ingest.values()
        self.assertEqual(
            [values[f"evse_2_{key}"] for key in ("stopReason", "sessionEnergy", "sessionDuration", "state")],
            ["EVDisconnected", 2500, 300, "Finishing"],
        )
        self.assertIsNone(reports.transaction_of(PATH, 2))

    def test_updates_are_not_written(self):
        """Only begin, end, and what is new of a session touch the file; an update during its write waits for it."""
        reports = self.make()
        station = self.connect(reports, version=Version.V201)
        self.boot(reports, station)
        self.thread.holds = True
        begun = reports.call_received(station, "TransactionEvent", _event("Started", 0), ())
        update = reports.call_received(station, "TransactionEvent", _event("Updated", 1), ())
        assert isinstance(begun, Deferred) and isinstance(update, Deferred)
        self.assertNoResult(update)
        self.thread.run()
        self.successResultOf(begun)
        self.successResultOf(update)
        self.thread.holds = False
        jobs = self.thread.jobs
        for number in range(2, 10):
            charging = _event("Updated", number, info={"chargingState": "Charging"})
            self.call(reports, station, "TransactionEvent", charging)
        self.assertEqual(self.thread.jobs, jobs)
        self.call(reports, station, "TransactionEvent", _event("Updated", 10, evse={"id": 1}))
        self.call(reports, station, "TransactionEvent", _event("Ended", 11))
        self.assertEqual(self.thread.jobs, jobs + 2)

    def test_transaction_event_lacks_what_counts(self):
        """Without an id or a known type there is no session to put it down to."""
        reports = self.make()
        station = self.connect(reports, version=Version.V21)
        for payload in ({}, {"eventType": "Started"}, {"transactionInfo": {"transactionId": "t"}}):
            self.assertRaises(CallRefused, self.call, reports, station, "TransactionEvent", payload)


class SharedTagTests(ReportsCase):
    """`authorization.fromSharedAttribute`."""

    AUTHORIZATION: ClassVar = {"mode": "list", "fromSharedAttribute": "idTags"}

    def status(self, reports: Any, station: FakeStation, tag: str) -> str:
        made = self.call(reports, station, "Authorize", {"idTag": tag})
        return str(made["idTagInfo"]["status"])

    def test_asked(self):
        """ThingsBoard is asked when the charge point comes; its tags hold, over a restart too."""
        reports = self.make(authorization=self.AUTHORIZATION)
        station = self.connect(reports)
        self.boot(reports, station)
        device, scope, keys, answer = self.downlink.asked[0]
        self.assertEqual((device, scope, keys), ("ABB CP_1", "shared", ("idTags",)))
        self.assertEqual(self.status(reports, station, "AA"), "Invalid")
        answer.callback({"idTags": {"aa": "Accepted", "bb": {"status": "Blocked"}}})
        statuses = [self.status(reports, station, tag) for tag in ("AA", "BB", "CC")]
        self.assertEqual(statuses, ["Accepted", "Blocked", "Invalid"])
        self.successResultOf(reports.close())
        again = self.make(authorization=self.AUTHORIZATION)
        station = self.connect(again)
        self.assertEqual(self.status(again, station, "aa"), "Accepted")
        self.downlink.asked[-1][3].callback({})
        self.assertEqual(self.status(again, station, "aa"), "Invalid")

    def test_changed(self):
        """A change is taken at once; what is no list of tags is told and left."""
        reports = self.make(authorization=self.AUTHORIZATION)
        station = self.connect(reports)
        self.boot(reports, station)
        reports.attributes_changed("ABB CP_1", {"idTags": ["aa"], "other": 1}, ())
        self.assertEqual(self.status(reports, station, "AA"), "Accepted")
        reports.attributes_changed("ABB CP_1", {"idTags": 7}, ())
        self.assertEqual(self.status(reports, station, "AA"), "Accepted")
        self.assertEqual(self.counters.get("ocpp_tags_unusable", "Car park"), 1)
        reports.attributes_changed("ABB CP_1", {}, ["idTags"])
        self.assertEqual(self.status(reports, station, "AA"), "Invalid")

    def test_asked_again(self):
        """A question that failed is put again while the charge point is there."""
        reports = self.make(authorization=self.AUTHORIZATION)
        station = self.connect(reports)
        self.boot(reports, station)
        self.downlink.asked[0][3].errback(LinkDown("down"))
        self.clock.advance(61)
        self.assertEqual(len(self.downlink.asked), 2)
        reports.disconnected(station, "x")
        self.downlink.asked[1][3].errback(LinkDown("down"))
        self.clock.advance(61)
        self.assertEqual(len(self.downlink.asked), 2)


class TellTests(ReportsCase):
    """What the downward half has to say."""

    def test_waits_for_a_name(self):
        """It is kept until there is a device to say it of, the newest of each key."""
        reports = self.make()
        station = self.connect(reports)
        reports.tell(PATH, {"callTimeouts": 1}, {"securityProfile": 1})
        reports.tell(PATH, {"callTimeouts": 2}, {})
        reports.tell("nobody", {"x": 1}, {})
        self.assertEqual(self.ingest.readings, [])
        self.boot(reports, station)
        self.assertEqual(self.ingest.values()["callTimeouts"], 2)
        self.assertEqual(self.ingest.attributes()["securityProfile"], 1)
        reports.tell(PATH, {"callTimeouts": 3}, {})
        self.assertEqual(self.ingest.values()["callTimeouts"], 3)

    def test_connection_is_told_whole(self):
        """What comes with a connection is in the one message that tells it, also when the name is known already."""
        reports = self.make()
        station = self.connect(reports)
        self.boot(reports, station)
        reports.disconnected(station, "x")
        self.ingest.readings.clear()
        reports.connected(station, {"securityProfile": 2})
        self.assertEqual(len(self.ingest.readings), 1)
        self.assertEqual(self.ingest.attributes()["securityProfile"], 2)

    def test_time_outs(self):
        """Calls that had no answer in time are counted over connections."""
        reports = self.make()
        station = self.connect(reports)
        self.boot(reports, station)
        reports.call_timed_out(PATH)
        reports.call_timed_out(PATH)
        reports.call_timed_out("nobody")
        self.assertEqual([value for _, value in self.ingest.series("callTimeouts")], [1, 2])

    def test_without_the_mapping(self):
        """Whose entry has expressions only, hears of nothing that it did not ask for."""
        reports = self.make({"timeseries": [{"messageTypeFilter": "MeterValues", "key": "k", "value": "1"}]})
        station = self.connect(reports)
        reports.connected(station, {"securityProfile": 2})
        self.boot(reports, station)
        reports.call_timed_out(PATH)
        reports.tell(PATH, {"x": 1}, {"y": 1})
        self.assertEqual((self.ingest.values(), self.ingest.attributes()), ({}, {}))

    def test_status(self):
        """Counts of the moment."""
        reports = self.make()
        station = self.connect(reports)
        self.call(reports, station, "StartTransaction", STARTED)
        self.assertEqual(
            reports.status(),
            {"connected": 1, "transactions": 1, "chargePoints": 1, "lastTransactionId": NOW_MS // 1000},
        )

    def test_heartbeats_are_thinned(self):
        """Ten thousand charge points' heartbeats are no load: one a minute is passed on."""
        reports = self.make()
        station = self.connect(reports)
        for _ in range(10):
            self.call(reports, station, "Heartbeat", {})
            self.now_ms += 10_000
        self.assertEqual(len(self.ingest.series("heartbeat")), 2)


def _meter(value: Any) -> dict[str, Any]:
    sampled = [{"value": value}]
    return {"connectorId": 1, "meterValue": [{"timestamp": "2026-11-18T11:00:00Z", "sampledValue": sampled}]}


def _register(value: float, context: str, unit: str) -> dict[str, Any]:
    sample = {
        "value": value,
        "context": context,
        "measurand": "Energy.Active.Import.Register",
        "unitOfMeasure": {"unit": unit},
    }
    return {"timestamp": "2026-11-18T11:00:00Z", "sampledValue": [sample]}


def _event(
    kind: str, number: int, info: dict[str, Any] | None = None, timestamp: str = "2026-11-18T11:00:00Z", **more: Any
) -> dict[str, Any]:
    return {
        "eventType": kind,
        "timestamp": timestamp,
        "triggerReason": "MeterValuePeriodic",
        "seqNo": number,
        "transactionInfo": {"transactionId": "t-1", **(info or {})},
        **more,
    }


class FullStoreErrorTests(ReportsCase):
    """Errors that come with the Deferred, later."""

    def test_refused_later(self):
        """A reading that is refused after a while is answered with an error then."""
        reports = self.make()
        station = self.connect(reports)
        self.boot(reports, station)
        self.ingest.holds = True
        made = reports.call_received(station, "MeterValues", _meter("7"), ())
        assert isinstance(made, Deferred)
        self.ingest.receipts[-1].settle(StoreFull("the store is full"))
        self.failureResultOf(made, CallRefused)
