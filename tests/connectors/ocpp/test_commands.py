"""Commands: where a method is looked for, what is sent, and that every end has its name."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.ocpp.calls import Calls
from tbgw.connectors.ocpp.commands import Commands
from tbgw.errors import CommandFailed, UnknownDevice
from tbgw.ocpp.errors import (
    CallErrorReceived,
    CallQueueFull,
    CallTimedOut,
    ResultInvalid,
    StationGone,
    StationReplaced,
)
from tbgw.ocpp.versions import Version
from tests.connectors.ocpp.stand_ins import POINT, FakeReports, FakeStation, Lines, make_config


class NoPasswords:
    """In place of the doorkeeper and the hashing, which these commands do not come to."""


class CommandCase(SynchronousTestCase):
    """`Commands` with one charge point."""

    def setUp(self) -> None:
        self.lines = Lines()
        self.clock = Clock()
        self.reports = FakeReports()
        self.stations: dict[str, Any] = {}

    def start(self, version: Version = Version.V16, point: Any = None, **central: Any) -> FakeStation:
        config = make_config(self, {**POINT, **(point or {})}, **central)
        calls = Calls(
            cast(Any, self.reports), cast(Any, NoPasswords()), cast(Any, NoPasswords()), lambda one: one.identity
        )
        self.commands = Commands(
            "c", config, self.stations, cast(Any, self.reports), calls, self.lines.events, lambda: 1_795_262_400_000
        )
        self.station = FakeStation(config.charge_points[0], version=version)
        self.station.reply = lambda action, payload: {"status": "Accepted"}
        self.stations["CP_1"] = self.station
        return self.station

    def answer(self, method: str, params: Any = None, device: str = "Charger") -> Any:
        return self.successResultOf(self.commands.command(device, method, params))

    def error(self, method: str, params: Any = None, device: str = "Charger") -> Any:
        """What goes to ThingsBoard as `error`."""
        return self.of(self.commands.command(device, method, params))

    def of(self, command: Deferred[Any]) -> Any:
        return cast(CommandFailed, self.failureResultOf(command, CommandFailed).value).answer


class OrderTests(CommandCase):
    """Where a method is looked for."""

    def test_configured_without_action(self):
        """A configured method is a DataTransfer, as the existing gateway sends it."""
        station = self.start(point={"serverSideRpc": [{"methodRPC": "rpc1", "valueExpression": "${params}"}]})
        self.assertEqual(self.answer("rpc1", {"a": 1}), {"result": {"status": "Accepted"}})
        self.assertEqual(self.answer("rpc1"), {"result": {"status": "Accepted"}})
        self.assertEqual(
            station.calls,
            [("DataTransfer", {"vendorId": "1", "data": '{"a": 1}'}), ("DataTransfer", {"vendorId": "1"})],
        )

    def test_configured_with_action(self):
        """With an action it is that Call; keys in either spelling, time-out and vendor as configured."""
        station = self.start(
            point={
                "serverSideRpc": [
                    {
                        "methodRPC": "interval",
                        "action": "ChangeConfiguration",
                        "timeout": 7,
                        "valueExpression": '{"key": "MeterValueSampleInterval", "value": "${params}"}',
                    },
                    {"methodRPC": "limit", "action": "SetChargingProfile", "valueExpression": "${params}"},
                    {"methodRPC": "vendor", "vendorId": "acme", "messageId": "m", "valueExpression": "x"},
                ]
            },
            callTimeout=20,
        )
        self.answer("interval", 30)
        profile = {
            "charging_profile_id": 1,
            "stack_level": 0,
            "charging_profile_purpose": "TxDefaultProfile",
            "charging_profile_kind": "Absolute",
            "charging_schedule": {
                "charging_rate_unit": "A",
                "charging_schedule_period": [{"start_period": 0, "limit": 6}],
            },
        }
        self.answer("limit", {"connector_id": 1, "cs_charging_profiles": profile})
        self.answer("vendor")
        self.assertEqual(
            station.calls[0], ("ChangeConfiguration", {"key": "MeterValueSampleInterval", "value": "30"})
        )
        self.assertEqual(station.calls[1][1]["csChargingProfiles"]["chargingProfileId"], 1)
        self.assertEqual(station.calls[2], ("DataTransfer", {"vendorId": "acme", "messageId": "m", "data": "x"}))
        self.assertEqual(station.timeouts, [7, 20, 20])

    def test_configured_comes_first(self):
        """A configured method hides an action and an alias of the same name."""
        station = self.start(
            point={"serverSideRpc": [{"methodRPC": name, "valueExpression": "x"} for name in ("Reset", "reset", "get")]}
        )
        for name in ("Reset", "reset", "get"):
            self.answer(name)
        self.assertEqual([action for action, _ in station.calls], ["DataTransfer"] * 3)

    def test_native(self):
        """An action of the version is a command, camelCase or snake_case, with an object, null or nothing."""
        station = self.start()
        self.assertEqual(self.answer("Reset", {"type": "Hard"}), {"result": {"status": "Accepted"}})
        self.answer("RemoteStartTransaction", {"id_tag": "A", "connectorId": 1})
        self.answer("ClearCache", None)
        self.assertEqual(
            station.calls,
            [
                ("Reset", {"type": "Hard"}),
                ("RemoteStartTransaction", {"idTag": "A", "connectorId": 1}),
                ("ClearCache", {}),
            ],
        )
        station = self.start(Version.V201)
        self.assertEqual(
            self.answer("GetBaseReport", {"report_base": "FullInventory"})["requestId"],
            station.calls[0][1]["requestId"],
        )

    def test_native_of_data(self):
        """Data of a DataTransfer keeps its keys; in 1.6 it becomes a text."""
        station = self.start()
        self.answer("DataTransfer", {"vendor_id": "v", "data": {"snake_key": 1}})
        self.assertEqual(station.calls[0][1], {"vendorId": "v", "data": '{"snake_key":1}'})
        station = self.start(Version.V21)
        self.answer("DataTransfer", {"vendor_id": "v", "data": {"snake_key": 1}})
        self.assertEqual(station.calls[0][1], {"vendorId": "v", "data": {"snake_key": 1}})

    def test_native_gate(self):
        """`nativeRpc` closes all actions but those of its list; aliases stay."""
        self.start(nativeRpc=False)
        self.assertIn("nativeRpc does not allow Reset", self.error("Reset", {"type": "Soft"})["message"])
        self.answer("reset")
        self.start(point={"nativeRpc": ["Reset"]}, nativeRpc=False)
        self.answer("Reset", {"type": "Soft"})
        self.assertEqual(self.error("ClearCache")["type"], "UnknownMethod")

    def test_values(self):
        """A configuration comes by key too."""
        station = self.start()
        station.reply = lambda action, payload: {"configurationKey": [{"key": "A", "readonly": False, "value": "1"}]}
        for method, params in (("getConfig", {"key": "A"}), ("get", "key=A;"), ("GetConfiguration", {"key": ["A"]})):
            self.assertEqual(self.answer(method, params)["values"], {"A": "1"}, method)

    def test_reserved_timeout(self):
        """`timeout=` of get and set is the Call's."""
        station = self.start(Version.V201)
        station.reply = lambda action, payload: {"getVariableResult": []}
        self.answer("get", "component=C;variable=V;timeout=9;")
        self.assertEqual(station.timeouts, [9])

    def test_own_connector(self):
        """A command for the device of one connector is for that connector."""
        station = self.start()
        self.reports.connectors["Charger Connector 2"] = 2
        self.answer("unlock", None, "Charger Connector 2")
        self.assertEqual(station.calls, [("UnlockConnector", {"connectorId": 2})])


class EndTests(CommandCase):
    """What becomes of a command."""

    def test_named(self):
        """Each failure of the wire has its name (O-21)."""
        station = self.start()
        for failure, kind in (
            (StationGone("x"), "Offline"),
            (StationReplaced("x"), "Superseded"),
            (CallTimedOut("x"), "Timeout"),
            (CallQueueFull("x"), "QueueFull"),
            (ResultInvalid("x"), "ResultInvalid"),
        ):
            station.reply = cast(Any, lambda *_, failure=failure: failure)
            self.assertEqual(self.error("reset")["type"], kind)

    def test_call_error(self):
        """A CALLERROR comes with what it says."""
        station = self.start()
        station.reply = lambda action, payload: CallErrorReceived("NotSupported", "no", {"a": 1})
        self.assertEqual(
            self.error("reset"),
            {
                "type": "CallError",
                "message": "the charge point answered with NotSupported",
                "code": "NotSupported",
                "description": "no",
                "details": {"a": 1},
            },
        )

    def test_rejected_is_a_result(self):
        """A status of Rejected is what the charge point said, and no error."""
        station = self.start()
        station.reply = lambda action, payload: {"status": "Rejected"}
        self.assertEqual(self.answer("reset"), {"result": {"status": "Rejected"}})

    def test_not_sent(self):
        """What breaks its schema, and parameters of another kind, are refused unsent."""
        station = self.start(point={"serverSideRpc": [{"methodRPC": "r", "action": "Reset"}]})
        for method, params in (
            ("Reset", {"type": "Warm"}),
            ("Reset", {}),
            ("Reset", [1]),
            ("Reset", "Soft"),
            ("reset", {"hard": 1}),
            ("get", "x"),
            ("r", {"type": 5}),
            ("r", "no JSON"),
        ):
            self.assertEqual(self.error(method, params)["type"], "Validation", (method, params))
        self.assertEqual(station.calls, [])

    def test_unknown(self):
        """Methods and devices that are not there; an action of another version is told as such."""
        self.start()
        self.assertEqual(self.error("fly")["message"], "unknown method: fly")
        self.assertIn("no action of ocpp1.6", self.error("RequestStartTransaction", {})["message"])
        self.failureResultOf(self.commands.command("Nobody", "reset", None), UnknownDevice)

    def test_away(self):
        """One that is not connected is offline; a method that does not exist is told first."""
        self.start(point={"serverSideRpc": [{"methodRPC": "rpc1"}]})
        self.stations.clear()
        for method in ("reset", "Reset", "get", "rpc1", "SetVariables"):
            self.assertEqual(self.error(method), {"type": "Offline", "message": "the charge point is not connected"})
        self.assertEqual(self.error("fly")["type"], "UnknownMethod")

    def test_one_of_several(self):
        """Of two ids with one name the one that is connected is meant."""
        station = self.start()
        self.reports.devices = {"CP_0": "Charger", "CP_1": "Charger"}
        self.answer("reset")
        self.assertEqual(len(station.calls), 1)

    def test_without_response(self):
        """With `withResponse` false the answer is at once, and a failure is counted and logged."""
        station = self.start(point={"serverSideRpc": [{"methodRPC": "r", "withResponse": False}]})
        station.reply = lambda action, payload: None
        self.assertEqual(self.answer("r", 1), {"success": True})
        station.open[0].errback(CallTimedOut("x"))
        self.assertEqual(
            self.lines.of("CallUnanswered"),
            ["connector c: DataTransfer to CP_1: Timeout: the charge point did not answer in time"],
        )

    def test_cancelled(self):
        """A command that ThingsBoard has given up is not sent any more."""
        station = self.start()
        station.reply = lambda action, payload: None
        command = self.commands.command("Charger", "reset", None)
        command.cancel()
        self.failureResultOf(command, CancelledError)
        self.assertEqual(station.cancelled, 1)

    def test_boot_not_accepted(self):
        """While Pending nothing is started or stopped, while Rejected nothing is sent (2.1)."""
        station = self.start()
        self.reports.boots["CP_1"] = "Pending"
        self.assertEqual(self.error("startCharging", {"idTag": "A"})["type"], "NotAccepted")
        self.answer("trigger", {"message": "StatusNotification", "connectorId": 1})
        self.assertEqual(self.reports.expected, [("CP_1", "StatusNotification")])
        self.reports.boots["CP_1"] = "Rejected"
        self.assertEqual(self.error("reset")["type"], "NotAccepted")
        self.assertEqual(len(station.calls), 1)


class OwnCommandTests(CommandCase):
    """Commands for the gateway, `ocpp_...`."""

    def test_by_name(self):
        """By the device, by the path, or by the id."""
        station = self.start()
        for target in ({"device": "Charger"}, {"chargePoint": "CP_1"}, {"chargePoint": "/CP_1/"}):
            command = self.commands.own_command("reset", {**target, "params": {"hard": True}})
            self.assertEqual(self.successResultOf(command), {"result": {"status": "Accepted"}})
        self.assertEqual(station.calls, [("Reset", {"type": "Hard"})] * 3)

    def test_unknown(self):
        """One that is not there lets the next connector be asked."""
        self.start()
        for target in ({"device": "Nobody"}, {"chargePoint": "CP_2"}):
            self.failureResultOf(self.commands.own_command("reset", target), UnknownDevice)
        for params in (None, "x", {}, {"device": 5}):
            self.assertEqual(self.of(self.commands.own_command("reset", params))["type"], "Validation")
