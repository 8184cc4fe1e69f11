"""A charge point on the packages ocpp and websockets, for 1.6, 2.0.1 and 2.1. The package checks every message of ours.

    python -m tests.clients.station '{"endpoint": "ws://127.0.0.1:9000/garage", "identity": "CP_1", ...}'

Options and lines as in station.js.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import importlib
import json
import os
import ssl
import sys
from collections.abc import Coroutine
from typing import Any

import websockets
from ocpp.routing import after, on

OPTIONS: Any = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {"protocol": "ocpp1.6"}
VERSION = {"ocpp1.6": "v16", "ocpp2.0.1": "v201", "ocpp2.1": "v21"}[OPTIONS["protocol"]]
IS_16 = VERSION == "v16"
package = importlib.import_module(f"ocpp.{VERSION}")
call, call_result = package.call, package.call_result
START = "RemoteStartTransaction" if IS_16 else "RequestStartTransaction"
STOP = "RemoteStopTransaction" if IS_16 else "RequestStopTransaction"


def say(*words: object) -> None:
    print(*words, flush=True)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


def register(energy: int, context: str) -> list[Any]:
    """A meter value of 2.x."""
    sample = {
        "value": energy,
        "context": context,
        "measurand": "Energy.Active.Import.Register",
        "unit_of_measure": {"unit": "Wh"},
    }
    return [{"timestamp": now(), "sampled_value": [sample]}]


class Station(package.ChargePoint):  # type: ignore[name-defined] # chosen at run time
    """One life, then what it is told."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.settings = {"HeartbeatInterval": "300", "MeterValueSampleInterval": "60"}
        self.transaction: Any = None
        self.restart = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """The reply goes first, what follows from it after."""

        async def safely() -> None:
            await asyncio.sleep(0.01)
            try:
                await work
            except Exception as error:  # noqa: BLE001 - the test reads of it
                say("FAILED", repr(error))

        task = asyncio.create_task(safely())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def boot(self, number: int) -> None:
        request = (
            call.BootNotification(charge_point_vendor="ACME", charge_point_model="One")
            if IS_16
            else call.BootNotification(reason="PowerUp", charging_station={"vendor_name": "ACME", "model": "Two"})
        )
        result = await self.call(request, suppress=False)
        say("BOOTED", number, result.status)

    async def status(self, word: str) -> None:
        if IS_16:
            request = call.StatusNotification(connector_id=1, error_code="NoError", status=word)
        else:
            word = "Available" if word == "Available" else "Occupied"
            request = call.StatusNotification(timestamp=now(), connector_status=word, evse_id=1, connector_id=1)
        await self.call(request, suppress=False)

    async def authorize(self, tag: str) -> None:
        token = {"id_tag": tag} if IS_16 else {"id_token": {"id_token": tag, "type": "ISO14443"}}
        result = await self.call(call.Authorize(**token), suppress=False)
        say("AUTHORIZED", (result.id_tag_info if IS_16 else result.id_token_info)["status"])

    def event(self, kind: str, reason: str, number: int, info: dict[str, Any], **more: Any) -> Any:
        info = {"transaction_id": self.transaction, **info}
        return call.TransactionEvent(
            event_type=kind,
            timestamp=now(),
            trigger_reason=reason,
            seq_no=number,
            transaction_info=info,
            evse={"id": 1, "connector_id": 1},
            **more,
        )

    async def begin(self, tag: str, remote_start_id: int | None = None) -> None:
        if IS_16:
            request = call.StartTransaction(connector_id=1, id_tag=tag, meter_start=1000, timestamp=now())
            result = await self.call(request, suppress=False)
            self.transaction = result.transaction_id
            say("STARTED", self.transaction, result.id_tag_info["status"])
        else:
            self.transaction = f"py-{os.getpid()}-{now()}"[:36]
            info = {} if remote_start_id is None else {"remote_start_id": remote_start_id}
            reason = "Authorized" if remote_start_id is None else "RemoteStart"
            token = {"id_token": tag, "type": "ISO14443"}
            more = {"id_token": token, "meter_value": register(1000, "Transaction.Begin")}
            result = await self.call(self.event("Started", reason, 0, info, **more), suppress=False)
            say("STARTED", self.transaction, result.id_token_info["status"])
        await self.status("Charging")

    async def meter(self, energy: int) -> None:
        if IS_16:
            sample = {"value": str(energy), "measurand": "Energy.Active.Import.Register", "unit": "Wh"}
            values = [{"timestamp": now(), "sampled_value": [sample]}]
            request = call.MeterValues(connector_id=1, transaction_id=self.transaction, meter_value=values)
        else:
            values = register(energy, "Sample.Periodic")
            request = self.event("Updated", "MeterValuePeriodic", 1, {}, meter_value=values)
        await self.call(request, suppress=False)
        say("METERED", energy)

    async def end(self, reason: str) -> None:
        if IS_16:
            request = call.StopTransaction(
                meter_stop=3500, timestamp=now(), transaction_id=self.transaction, reason=reason
            )
        else:
            why = "RemoteStop" if reason == "Remote" else "StopAuthorized"
            values = register(3500, "Transaction.End")
            request = self.event("Ended", why, 2, {"stopped_reason": reason}, meter_value=values)
        await self.call(request, suppress=False)
        say("STOPPED", self.transaction)
        self.transaction = None
        await self.status("Available")

    async def firmware(self, request_id: int | None) -> None:
        for word in ("Downloading", "Downloaded", "Installing", "Installed"):
            more: dict[str, Any] = {} if IS_16 else {"request_id": request_id}
            await self.call(call.FirmwareStatusNotification(status=word, **more), suppress=False)
        say("FIRMWARE Installed")

    async def remote(self, tag: str, remote_start_id: int | None) -> None:
        await self.begin(tag, remote_start_id)
        await self.meter(2500)

    # What the central system asks.

    @on(START)
    def on_start(self, **params: Any) -> Any:
        say("TOLD", START, json.dumps(params))
        tag = params["id_tag"] if IS_16 else params["id_token"]["id_token"]
        self.later(self.remote(tag, params.get("remote_start_id")))
        return getattr(call_result, START)(status="Accepted")

    @on(STOP)
    def on_stop(self, transaction_id: Any, **_: Any) -> Any:
        say("TOLD", STOP, transaction_id)
        if transaction_id != self.transaction:
            return getattr(call_result, STOP)(status="Rejected")
        self.later(self.end("Remote"))
        return getattr(call_result, STOP)(status="Accepted")

    @on("Reset")
    def on_reset(self, **params: Any) -> Any:
        say("TOLD", "Reset", json.dumps(params))
        return call_result.Reset(status="Accepted")

    @after("Reset")
    def after_reset(self, **_: Any) -> None:
        self.restart.set()

    @on("UpdateFirmware")
    def on_firmware(self, **params: Any) -> Any:
        say("TOLD", "UpdateFirmware", json.dumps(params))
        self.later(self.firmware(params.get("request_id")))
        return call_result.UpdateFirmware() if IS_16 else call_result.UpdateFirmware(status="Accepted")

    @on("DataTransfer")
    def on_data(self, data: Any = None, **_: Any) -> Any:
        say("TOLD", "DataTransfer", json.dumps(data))
        return call_result.DataTransfer(status="Accepted", data=data)

    @on("ChangeAvailability")
    def on_availability(self, **params: Any) -> Any:
        say("TOLD", "ChangeAvailability", json.dumps(params))
        return call_result.ChangeAvailability(status="Accepted")

    @on("UnlockConnector")
    def on_unlock(self, **params: Any) -> Any:
        say("TOLD", "UnlockConnector", json.dumps(params))
        return call_result.UnlockConnector(status="Unlocked")

    @on("SetChargingProfile")
    def on_profile(self, **params: Any) -> Any:
        say("TOLD", "SetChargingProfile", json.dumps(params))
        return call_result.SetChargingProfile(status="Accepted")

    @on("ClearChargingProfile")
    def on_clear(self, **params: Any) -> Any:
        say("TOLD", "ClearChargingProfile", json.dumps(params))
        return call_result.ClearChargingProfile(status="Accepted")

    @on("TriggerMessage")
    def on_trigger(self, **params: Any) -> Any:
        say("TOLD", "TriggerMessage", json.dumps(params))
        self.later(self.status("Available"))
        return call_result.TriggerMessage(status="Accepted")

    if IS_16:

        @on("GetConfiguration")
        def on_get(self, key: Any = None, **_: Any) -> Any:
            found = [name for name in self.settings if not key or name in key]
            listed = [{"key": name, "readonly": False, "value": self.settings[name]} for name in found]
            return call_result.GetConfiguration(
                configuration_key=listed, unknown_key=[name for name in key or () if name not in self.settings]
            )

        @on("ChangeConfiguration")
        def on_set(self, key: str, value: str) -> Any:
            self.settings[key] = value
            return call_result.ChangeConfiguration(status="Accepted")

    else:

        @on("GetVariables")
        def on_get(self, get_variable_data: Any, **_: Any) -> Any:
            found = []
            for one in get_variable_data:
                name = one["variable"]["name"]
                value = {"attribute_status": "Accepted", "attribute_value": self.settings[name]}
                found.append({**one, **(value if name in self.settings else {"attribute_status": "UnknownVariable"})})
            return call_result.GetVariables(get_variable_result=found)

        @on("SetVariables")
        def on_set(self, set_variable_data: Any, **_: Any) -> Any:
            told = []
            for one in set_variable_data:
                self.settings[one["variable"]["name"]] = one["attribute_value"]
                kept = {key: one[key] for key in ("component", "variable")}
                told.append({**kept, "attribute_status": "Accepted"})
            return call_result.SetVariables(set_variable_result=told)


def connect() -> Any:
    headers = dict(OPTIONS.get("headers", {}))
    if "passwordHex" in OPTIONS:
        login = OPTIONS["identity"].encode() + b":" + bytes.fromhex(OPTIONS["passwordHex"])
        headers["Authorization"] = "Basic " + base64.b64encode(login).decode()
    context = None
    if "ca" in OPTIONS:
        context = ssl.create_default_context(cafile=OPTIONS["ca"])
        if "cert" in OPTIONS:
            context.load_cert_chain(OPTIONS["cert"], OPTIONS["key"])
    return websockets.connect(
        f"{OPTIONS['endpoint']}/{OPTIONS['identity']}",
        subprotocols=[OPTIONS["protocol"]],
        additional_headers=headers,
        ssl=context,
    )


async def main() -> None:
    settings: dict[str, str] = {}
    for number in range(1, 100):
        async with connect() as socket:
            say("CONNECTED", socket.subprotocol)
            station = Station(OPTIONS["identity"], socket)
            station.settings.update(settings)
            listening = asyncio.create_task(station.start())
            await station.boot(number)
            if number == 1:
                await station.call(call.Heartbeat(), suppress=False)
                await station.status("Available")
                await station.authorize("04AABB")
                await station.begin("04AABB")
                await station.meter(1500)
                await station.end("Local")
                say("READY")
            again = asyncio.create_task(station.restart.wait())
            await asyncio.wait({listening, again}, return_when=asyncio.FIRST_COMPLETED)
            again.cancel()
            if not station.restart.is_set():
                listening.result()
                return
            await asyncio.sleep(0.05)  # the answer to Reset is on its way
            listening.cancel()
            settings = station.settings


if __name__ == "__main__":
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(main())
    except Exception as error:  # noqa: BLE001 - the test reads of it
        say("FAILED", type(error).__name__, error)
        sys.exit(1)
