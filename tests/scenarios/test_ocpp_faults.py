"""What goes wrong between charge points and the gateway: kills, dead sockets, restarts, changed keys."""

from __future__ import annotations

import random
import shutil
import socket
from typing import Any

from tbgw.thingsboard import topics
from tests.scenarios.ocpp_raw import RawStation, connect
from tests.scenarios.ocpp_rig import PUSHED, ROOT, OCPPCase

BOOT = {"chargePointVendor": "ACME", "chargePointModel": "One"}
TIME = "2026-11-21T12:00:00Z"


def values_of(number: int) -> dict[str, Any]:
    sample = {"value": str(number), "measurand": "Energy.Active.Import.Register", "unit": "Wh"}
    timestamp = f"2026-11-21T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z"
    return {"connectorId": 1, "meterValue": [{"timestamp": timestamp, "sampledValue": [sample]}]}


class FaultCase(OCPPCase):
    """Raw charge points."""

    async def station(self, path: str = "CP_1", **more: Any) -> RawStation:
        station = await connect(self.port, path, **more)
        self.addCleanup(station.dropConnection, abort=True)
        return station

    async def result(self, station: RawStation, action: str, payload: Any) -> Any:
        number = station.call(action, payload)
        await self.until(lambda: number in station.results, f"the answer to {action}")
        return station.results[number]

    async def kill_gateway(self) -> None:
        await self.gateway.kill()


class SeedTests(FaultCase):
    """The example of the documentation, as it is."""

    async def test_example(self) -> None:
        """A charger at bidon/hello/CP_1: its values, its attribute, its RPC, with the file unchanged."""
        shutil.copy(ROOT / "tests/data/reference-config/ocpp.json", self.folder / "etc" / "ocpp.json")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", 9000))
                self.port = 9000
            except OSError:  # somebody else has it here: the port is the one thing that differs
                text = (self.folder / "etc" / "ocpp.json").read_text().replace("9000", str(self.port))
                self.write("ocpp.json", text)
        await self.start_gateway()
        for wrong in (None, b"nimda"):
            with self.assertRaises(ConnectionRefusedError):
                await connect(self.port, "bidon/hello/CP_1", password=wrong)
        station = self.station_py(
            endpoint=f"ws://127.0.0.1:{self.port}/bidon/hello", headers={"Authorization": "Bearer ACCESS_TOKEN"}
        )
        await station.wait_for("READY")
        device = "ACME One"
        await self.until(lambda: self.attributes(device).get("vendorId") == 1, "the attribute")
        self.assertEqual(self.attributes(device)["temp1"], 1500)
        self.assertEqual(
            await self.rpc(device, "rpc1", {"amps": 5}),
            {"result": {"status": "Accepted", "data": '{"amps": 5}'}},
        )
        await station.wait_for(r'TOLD DataTransfer "\{\\"amps\\": 5\}"')
        await self.shared(device, shared='a "b"')
        await station.wait_for(r"TOLD DataTransfer .*shared.*a .*b")
        found = await self.rpc(device, "set", "value=5;")
        self.assertEqual(found["result"]["status"], "Accepted")


class KillTests(FaultCase):
    """kill -9."""

    timeout = 300

    async def test_nothing_acknowledged_is_lost(self) -> None:
        """
        Killed at any moment between CALL and CALLRESULT, in several rounds, while ThingsBoard is away: all that was
        answered arrives when it is back.
        """
        self.configure()
        await self.sandbox.stopService()
        sent = 0
        acknowledged: set[int] = set()
        chance = random.Random(7)
        for _ in range(4):
            await self.start_gateway()
            station = await self.station()
            await self.result(station, "BootNotification", BOOT)
            numbers: dict[str, int] = {}
            answers = chance.randrange(5, 120)
            while len(station.results) < answers:
                while len(numbers) - len(station.results) < 8:
                    sent += 1
                    numbers[station.call("MeterValues", values_of(sent))] = sent
                await self.more(station, len(station.results))
            await self.kill_gateway()
            await station.ended
            acknowledged |= {numbers[number] for number in station.results if number in numbers}
        self.sandbox.startService()
        await self.start_gateway()
        self.assertGreater(len(acknowledged), 20)

        def arrived() -> set[int]:
            series = self.sandbox.view.history("CP_1", "connector_1_energy_active_import_register", 0)
            return {int(value) for _, value in series}

        await self.until(lambda: acknowledged <= arrived(), f"all of {len(acknowledged)} acknowledged values")

    async def more(self, station: RawStation, than: int) -> None:
        await self.until(lambda: len(station.results) > than, "an answer")

    async def test_transactions_survive(self) -> None:
        """A StartTransaction that is repeated after a kill has its former id, another one has another."""
        self.configure()
        await self.start_gateway()
        station = await self.station()
        await self.result(station, "BootNotification", BOOT)
        start = {"connectorId": 1, "idTag": "A", "meterStart": 5, "timestamp": TIME}
        first = await self.result(station, "StartTransaction", start)
        await self.kill_gateway()
        await self.start_gateway()
        station = await self.station()
        again = await self.result(station, "StartTransaction", start)
        other = await self.result(station, "StartTransaction", {**start, "connectorId": 2})
        self.assertEqual(again["transactionId"], first["transactionId"])
        self.assertNotEqual(other["transactionId"], first["transactionId"])
        station.replies["RemoteStopTransaction"] = {"status": "Accepted"}
        self.assertEqual((await self.rpc("CP_1", "stopCharging", {"connectorId": 1}))["result"]["status"], "Accepted")
        self.assertEqual(
            station.told[-1], ("RemoteStopTransaction", {"transactionId": first["transactionId"]})
        )

    async def test_no_boot_after_restart(self) -> None:
        """A charger that merely reconnects is known by its name, and heard."""
        self.configure({"idRegexpPattern": ".*", "deviceNameExpression": "${Vendor} ${Model} ${chargePointId}"})
        await self.start_gateway()
        await self.result(await self.station(), "BootNotification", BOOT)
        await self.kill_gateway()
        await self.start_gateway()
        station = await self.station()
        self.assertEqual(await self.result(station, "MeterValues", values_of(7)), {})
        key = "connector_1_energy_active_import_register"
        await self.until(lambda: self.values("ACME One CP_1").get(key) == 7, "the value")


class SocketTests(FaultCase):
    """Connections that are not what they seem."""

    async def test_second_connection_wins(self) -> None:
        """The newer connection of an id counts, whichever end comes first; commands go to it (P-10, O-17)."""
        self.configure()
        await self.start_gateway()
        old = await self.station()
        await self.result(old, "BootNotification", BOOT)
        new = await self.station()
        await old.ended
        self.assertEqual(await self.result(new, "MeterValues", values_of(1)), {})
        self.assertEqual((await self.rpc("CP_1", "reset"))["result"], {"status": "Accepted"})
        self.assertEqual((old.told, new.told), ([], [("Reset", {"type": "Soft"})]))
        await self.until(lambda: self.values("CP_1").get("online") is True, "online")

    async def test_superseded_command(self) -> None:
        """A command whose connection is replaced before the answer is told so at once."""
        self.configure()
        await self.start_gateway()
        old = await self.station()
        await self.result(old, "BootNotification", BOOT)
        old.replies["Reset"] = None
        waiting = self.rpc_later("CP_1", "reset")
        await self.until(lambda: old.told, "the Call")
        await self.station()
        answer = await waiting
        self.assertEqual(answer["error"]["type"], "Superseded")

    def rpc_later(self, device: str, method: str, params: Any = None) -> Any:
        from twisted.internet.defer import Deferred

        return Deferred.fromCoroutine(self.rpc(device, method, params))

    async def test_named_errors(self) -> None:
        """Offline, time-out, bad parameters, unknown method, CALLERROR: each by its name, and never silence (O-21)."""
        self.configure(callTimeout=1)
        await self.start_gateway()
        station = await self.station()
        await self.result(station, "BootNotification", BOOT)
        station.replies["GetConfiguration"] = None
        found = {
            "Timeout": await self.rpc("CP_1", "GetConfiguration"),
            "Validation": await self.rpc("CP_1", "Reset", {"type": "Warm"}),
            "UnknownMethod": await self.rpc("CP_1", "fly"),
            "NoTransaction": await self.rpc("CP_1", "stopCharging", {"connectorId": 1}),
        }
        self.assertEqual({kind: answer["error"]["type"] for kind, answer in found.items()}, {k: k for k in found})
        self.assertEqual([action for action, _ in station.told], ["GetConfiguration"])
        station.dropConnection(abort=True)
        await self.until(lambda: self.values("CP_1").get("online") is False, "offline")
        with self.assertRaises(AssertionError):  # ThingsBoard sends nothing to a device that is disconnected
            await self.rpc("CP_1", "reset")
        command = {"id": PUSHED, "method": "reset"}
        await self.push(topics.RPC, {"device": "CP_1", "data": command})  # unless it was on its way already
        await self.until(lambda: self.answers, "the error")
        self.assertEqual(self.answers[0]["error"]["type"], "Offline")
        self.sandbox.control.create("Nobody")
        found = await self.rpc("Gateway", "ocpp_reset", {"device": "Nobody"})
        self.assertIn("error", found)

    async def test_one_at_a_time(self) -> None:
        """Commands that come together go out one by one, and the charger's own Calls are answered meanwhile."""
        self.configure()
        await self.start_gateway()
        station = await self.station()
        await self.result(station, "BootNotification", BOOT)
        station.replies["Reset"] = None
        first, second = self.rpc_later("CP_1", "reset"), self.rpc_later("CP_1", "unlock")
        await self.until(lambda: station.told, "the first")
        self.assertEqual(await self.result(station, "MeterValues", values_of(1)), {})
        self.assertEqual([action for action, _ in station.told], ["Reset"])
        station.replies["UnlockConnector"] = {"status": "Unlocked"}
        station.dropConnection(abort=True)
        self.assertEqual([(await one)["error"]["type"] for one in (first, second)], ["Offline", "Offline"])

    async def test_stop_is_quick_and_clean(self) -> None:
        """SIGTERM closes charge points in good order, also one that says nothing, within the time of the whole stop."""
        self.configure()
        await self.start_gateway()
        station = await self.station()
        await self.result(station, "BootNotification", BOOT)
        silent = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        self.addCleanup(silent.close)
        self.gateway.signal("TERM")
        self.assertEqual(await self.gateway.ended, 0)
        await station.ended
        self.assertEqual(station.remoteCloseCode, 1001)
        self.assertNotIn("Traceback", "\n".join(self.gateway.lines))


class KeyTests(FaultCase):
    """Passwords and attributes."""

    async def test_new_key(self) -> None:
        """After ChangeConfiguration(AuthorizationKey) was accepted the old password is refused, also after a kill."""
        old, new = b"0123456789abcdef", bytes(range(0, 200, 10))
        self.configure(security=[{"type": "basic", "credentials": [{"passwordHex": old.hex()}]}])
        await self.start_gateway()
        station = await self.station(password=old)
        await self.result(station, "BootNotification", BOOT)
        answer = await self.rpc("CP_1", "setConfig", {"key": "AuthorizationKey", "value": new.hex()})
        self.assertEqual(answer, {"result": {"status": "Accepted"}})
        await self.kill_gateway()
        await self.start_gateway()
        with self.assertRaises(ConnectionRefusedError):
            await connect(self.port, password=old)
        await self.station(password=new)
        everything = "\n".join(self.gateway.lines) + "".join(
            path.read_text(errors="replace") for path in self.folder.rglob("ocpp*") if path.suffix == ".json"
            and path.parent == self.folder
        )
        self.assertNotIn(new.hex(), everything)

    async def test_rejected_key(self) -> None:
        """When it was rejected, the old password stays the good one."""
        self.configure(security=[{"type": "basic", "credentials": [{"password": "old"}]}])
        await self.start_gateway()
        station = await self.station(password=b"old")
        await self.result(station, "BootNotification", BOOT)
        station.replies["ChangeConfiguration"] = {"status": "Rejected"}
        await self.rpc("CP_1", "setConfig", {"key": "AuthorizationKey", "value": "00" * 20})
        with self.assertRaises(ConnectionRefusedError):
            await connect(self.port, password=bytes(20))
        await self.station(password=b"old")

    async def test_attribute_while_away(self) -> None:
        """A shared attribute that changed while the charger was away is told when it returns, the newest value only."""
        template = '{"key": "MeterValueSampleInterval", "value": "${attributeValue}"}'
        update = {
            "attributeOnThingsBoard": "interval",
            "action": "ChangeConfiguration",
            "valueExpression": template,
        }
        point = {"idRegexpPattern": ".*", "deviceNameExpression": "${chargePointId}", "attributeUpdates": [update]}
        self.configure(point)
        await self.start_gateway()
        station = await self.station()
        await self.result(station, "BootNotification", BOOT)
        await self.shared("CP_1", interval=10)
        await self.until(lambda: station.told, "the first value")
        key = "MeterValueSampleInterval"
        self.assertEqual(station.told.pop(), ("ChangeConfiguration", {"key": key, "value": "10"}))
        station.sendClose(1000)
        await station.ended
        await self.until(lambda: self.values("CP_1").get("online") is False, "offline")
        for value in (20, 30):
            await self.shared("CP_1", interval=value)
        station = await self.station()
        await self.result(station, "Heartbeat", {})
        await self.until(lambda: station.told, "the value")
        await self.result(station, "Heartbeat", {})
        self.assertEqual(station.told, [("ChangeConfiguration", {"key": key, "value": "30"})])
        # While the gateway is not there ThingsBoard tells nobody: it is asked at the start, and when a session begins.
        await self.kill_gateway()
        await self.shared("CP_1", interval=40)
        await self.start_gateway()
        station = await self.station()
        await self.result(station, "Heartbeat", {})
        await self.until(lambda: station.told, "what changed meanwhile")
        self.assertEqual(station.told.pop()[1]["value"], "40")
        asked = len(self.asked)
        await self.sandbox.stopService()
        self.sandbox.startService()
        await self.until(lambda: len(self.asked) > asked, "the question of the new session")
        self.assertEqual((self.asked[-1]["device"], station.told), ("CP_1", []))


class SecurityExtensionTests(FaultCase):
    """The messages of the 1.6 security extension, both ways."""

    async def test_all(self) -> None:
        """A request for a certificate goes up, the signed one down; the other seven Calls; the four of the charger."""
        self.configure(certificateSigning="forward")
        await self.start_gateway()
        station = await self.station()
        await self.result(station, "BootNotification", BOOT)
        self.assertEqual(await self.result(station, "SignCertificate", {"csr": "CSR"}), {"status": "Accepted"})
        await self.until(lambda: self.values("CP_1").get("certificateSigningRequest") == "CSR", "the request")
        for action, payload in (
            ("SecurityEventNotification", {"type": "TamperDetectionActivated", "timestamp": TIME}),
            ("LogStatusNotification", {"status": "Uploaded", "requestId": 1}),
            ("SignedFirmwareStatusNotification", {"status": "Installed", "requestId": 1}),
        ):
            self.assertEqual(await self.result(station, action, payload), {})
        await self.until(lambda: self.values("CP_1").get("securityEvent") == "TamperDetectionActivated", "the event")
        station.replies["GetInstalledCertificateIds"] = {"status": "NotFound"}
        hashes = {"hashAlgorithm": "SHA256", "issuerNameHash": "a", "issuerKeyHash": "b", "serialNumber": "c"}
        log = {"logType": "SecurityLog", "log": {"remoteLocation": "https://127.0.0.1/l"}}
        firmware = {"location": "https://x", "retrieveDateTime": TIME, "signingCertificate": "c", "signature": "s"}
        for action, params in (
            ("CertificateSigned", {"certificate_chain": "PEM"}),
            ("InstallCertificate", {"certificateType": "CentralSystemRootCertificate", "certificate": "PEM"}),
            ("DeleteCertificate", {"certificateHashData": hashes}),
            ("GetInstalledCertificateIds", {"certificateType": "CentralSystemRootCertificate"}),
            ("ExtendedTriggerMessage", {"requestedMessage": "LogStatusNotification"}),
            ("GetLog", log),
            ("SignedUpdateFirmware", {"firmware": firmware}),
        ):
            answer = await self.rpc("CP_1", action, params)
            self.assertIn("result", answer, action)
            self.assertEqual(station.told[-1][0], action)
        self.assertEqual(station.told[0][1], {"certificateChain": "PEM"})
