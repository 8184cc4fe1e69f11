"""Charge points that none of us wrote, through a whole life each: every library and version once, every transport with
at least two of them. The gateway is `twistd tbgw`, ThingsBoard is the sandbox.
"""

from __future__ import annotations

from typing import Any

from tests.scenarios.ocpp_rig import OCPPCase, Running
from tests.test_tls import Issued, issue

KEY = "000102030405060708090aff0c0d0e0f1011f213"
"""An AuthorizationKey: 20 bytes, which are no UTF-8."""
BASIC = [{"type": "basic", "credentials": [{"passwordHex": KEY}]}]
TOKEN = [{"type": "token", "tokens": ["Bearer Zx81"]}]
BEARER = {"Authorization": "Bearer Zx81"}


class ClientCase(OCPPCase):
    """The life, and the certificates."""

    async def life(self, station: Running, version: str, device: str = "CP_1", is_simulator: bool = False) -> None:
        """What the charge point does by itself, then all that ThingsBoard asks of it."""
        is_16 = version == "ocpp1.6"
        await station.wait_for(f"CONNECTED {version}")
        await station.wait_for("BOOTED 1 Accepted")
        await station.wait_for("AUTHORIZED Accepted")
        await station.wait_for("STARTED .* Accepted")
        await station.wait_for("READY")
        place = "connector_1_" if is_16 else "evse_1_"
        register = f"{place}energy_active_import_register"
        await self.until(lambda: self.values(device).get(f"{place}transaction") == "stopped", "the first transaction")
        await self.until(lambda: self.values(device).get(f"{place}status") == "Available", "the status")
        values = self.values(device)
        self.assertEqual((values["online"], values[f"{place}sessionEnergy"], values[register]), (True, 2500, 1500))
        self.assertEqual(self.attributes(device)["ocppVersion"], version)

        key = "HeartbeatInterval" if is_16 else "OCPPCommCtrlr.HeartbeatInterval"
        self.assertEqual((await self.rpc(device, "getConfig", {"key": key}))["values"], {key: "300"})
        changed = await self.rpc(device, "setConfig", {"key": key, "value": 120})
        self.assertIn("Accepted", str(changed["result"]))
        self.assertEqual((await self.rpc(device, "get", f"key={key};"))["values"], {key: "120"})

        started = await self.rpc(device, "startCharging", {"idTag": "REMOTE", "connectorId": 1})
        self.assertEqual(started["result"], {"status": "Accepted"})
        await station.wait_for("TOLD R.*StartTransaction .*REMOTE")
        await station.wait_for("METERED 2500")
        await self.until(lambda: self.values(device).get(register) == 2500, "the meter value")
        self.assertEqual(self.values(device)[f"{place}transaction"], "started")
        if not is_simulator:
            limit = await self.rpc(device, "setLimit", {"limit": 16, "connectorId": 1})
            self.assertEqual(limit, {"result": {"status": "Accepted"}})
            unlocked = await self.rpc(device, "unlock", {"connectorId": 1})
            self.assertEqual(unlocked, {"result": {"status": "Unlocked"}})
        self.assertEqual(await self.rpc(device, "stopCharging"), {"result": {"status": "Accepted"}})
        await station.wait_for("STOPPED")
        await self.until(lambda: self.values(device).get(f"{place}stopReason") == "Remote", "the reason")

        firmware: dict[str, Any] = {"location": "https://127.0.0.1/f.bin", "retrieveDate": "2026-12-01T00:00:00Z"}
        if not is_16:
            firmware = {"firmware": {"location": firmware["location"], "retrieve_date_time": firmware["retrieveDate"]}}
        updated = await self.rpc(device, "UpdateFirmware", firmware)
        self.assertEqual(updated["result"], {} if is_16 else {"status": "Accepted"})
        self.assertEqual("requestId" in updated, not is_16)
        await station.wait_for("FIRMWARE Installed")
        await self.until(lambda: self.values(device).get("firmwareStatus") == "Installed", "the firmware's status")

        self.assertEqual(await self.rpc(device, "reset", {"hard": True}), {"result": {"status": "Accepted"}})
        await station.wait_for("BOOTED 2 Accepted")
        await self.until(lambda: self.values(device).get("online") is True, "its return")
        again = await self.rpc(device, "getConfig", {"key": key})
        self.assertEqual(again["values"], {key: "120"})

    def certificates(self, identity: str = "CP_1", **connection: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """(the object `connection`, the client's files)."""
        authority = issue("Test CA", is_authority=True)
        server = issue("gateway", authority, hosts=("localhost",), addresses=("127.0.0.1",))
        self.keep("ca", authority)
        self.keep("server", server)
        self.keep("client", issue(identity, authority))
        etc = self.folder / "etc"
        files = {"ca": str(etc / "ca.pem"), "cert": str(etc / "client.pem"), "key": str(etc / "client.key")}
        return {"type": "tls", "cert": "server.pem", "key": "server.key", **connection}, files

    def keep(self, name: str, issued: Issued) -> None:
        self.write(f"{name}.pem", issued.pem.decode())
        self.write(f"{name}.key", issued.key_pem().decode())

    @property
    def wss(self) -> str:
        return f"wss://127.0.0.1:{self.port}"


class WholeLifeTests(ClientCase):
    """Each library and version."""

    async def test_ocpp_rpc_16(self) -> None:
        """ocpp-rpc, strict, 1.6, with a basic login whose password is no UTF-8."""
        self.configure(security=BASIC)
        await self.start_gateway()
        await self.life(self.station_js(passwordHex=KEY), "ocpp1.6")

    async def test_ocpp_rpc_201(self) -> None:
        """ocpp-rpc, strict, 2.0.1, with a basic login through TLS."""
        connection, files = self.certificates()
        self.configure(security=BASIC, connection=connection)
        await self.start_gateway()
        station = self.station_js(protocol="ocpp2.0.1", passwordHex=KEY, endpoint=self.wss, ca=files["ca"])
        await self.life(station, "ocpp2.0.1")
        self.assertEqual(self.attributes("CP_1").get("securityProfile"), 2)

    async def test_python_16(self) -> None:
        """The packages ocpp and websockets, 1.6, with a token."""
        self.configure(security=TOKEN)
        await self.start_gateway()
        await self.life(self.station_py(headers=BEARER), "ocpp1.6")

    async def test_python_201(self) -> None:
        """The packages ocpp and websockets, 2.0.1, with a client certificate."""
        connection, files = self.certificates(ca="ca.pem", verifyClient=True, cnMustMatch="id")
        self.configure(connection=connection)
        await self.start_gateway()
        await self.life(self.station_py(protocol="ocpp2.0.1", endpoint=self.wss, **files), "ocpp2.0.1")

    async def test_python_21(self) -> None:
        """The packages ocpp and websockets, 2.1, in clear without a login."""
        self.configure()
        await self.start_gateway()
        await self.life(self.station_py(protocol="ocpp2.1"), "ocpp2.1")

    async def test_simulator(self) -> None:
        """em-ocpp-chargepoint-simulator, 1.6, whose meter values break the schema, with a basic login in its URL."""
        self.configure(security=[{"type": "basic", "credentials": [{"username": "CP_1", "password": "pw"}]}])
        await self.start_gateway()
        await self.life(self.simulator(f"ws://CP_1:pw@127.0.0.1:{self.port}/CP_1"), "ocpp1.6", is_simulator=True)
