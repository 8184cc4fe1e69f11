"""Expressions over messages: what the reference gateway gives (run with its release 3.8.3, `ocpp` 0.26 and `websockets`
13.1; spec ocpp, 3.1) and what this one gives. docs/ocpp.md has the same table, and a test holds them together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

METER: dict[str, Any] = {
    "connectorId": 1,
    "transactionId": 7,
    "meterValue": [
        {
            "timestamp": "2026-11-18T11:00:00Z",
            "sampledValue": [
                {"value": "230.1", "measurand": "Voltage"},
                {"value": "16.5", "measurand": "Current.Import"},
            ],
        },
        {"timestamp": "2026-11-18T11:01:00Z", "sampledValue": [{"value": "231"}]},
    ],
}
TRANSFER: dict[str, Any] = {
    "vendorId": "123",
    "messageId": "m",
    "data": '{"temp": 21.5, "on": true, "nul": null, "nestedKey": {"aB": "x"}, "list": [1, 2]}',
}


class Golden(NamedTuple):
    """One expression."""

    action: str
    template: str
    reference: str | None
    """As it arrives at ThingsBoard, always a text; None: nothing is sent."""
    ours: tuple[Any, ...]
    """One value for each instant that is told; empty: nothing is sent."""
    why: str = ""
    """Why they differ."""


TABLE = (
    Golden("MeterValues", "${connector_id}", "1", (1,), "type kept"),
    Golden("MeterValues", "${connectorId}", "${connectorId}", (1,), "the wire's spelling is found too"),
    Golden(
        "MeterValues",
        "${meter_value[:].sampled_value[:].value}",
        "230.1",
        (230.1, 231),
        "first sample of each meter value, at its own time, as a number",
    ),
    Golden("MeterValues", "${meter_value[0].sampled_value[1].value}", "16.5", (16.5,), "a number"),
    Golden("MeterValues", "${meter_value[-1:].sampled_value[0].value}", "231", (231,), "a number"),
    Golden("MeterValues", "${meter_value[*].sampled_value[0].measurand}", "Voltage", ("Voltage",)),
    Golden("MeterValues", "${$.transaction_id}", "7", (7,), "type kept"),
    Golden("MeterValues", "${connector_id}/${transaction_id}", "1/7", ("1/7",)),
    Golden("MeterValues", "${meter_value[5].sampled_value[0].value}", "${meter_value[5].sampled_value[0].value}", (),
           "unresolved is left out"),
    Golden("MeterValues", "${data.temp}", "${data.temp}", (), "unresolved is left out"),
    Golden("MeterValues", "constant", "constant", ("constant",)),
    Golden("DataTransfer", "${data.temp}", "21.5", (21.5,), "type kept"),
    Golden("DataTransfer", "${data.on}", "True", (True,), "type kept"),
    Golden("DataTransfer", "${data.nestedKey.aB}", "x", ("x",)),
    Golden("DataTransfer", "pre-${data.temp}-post", "pre-21.5-post", ("pre-21.5-post",)),
    Golden("DataTransfer", "pre-${data.on}-post", "pre-True-post", ("pre-true-post",), "JSON's words, not Python's"),
    Golden("DataTransfer", "pre-${data.humidity}-post", "pre-${data.humidity}-post", (), "unresolved is left out"),
    Golden("DataTransfer", "${data.list[*]}", "1", (1,), "type kept"),
    Golden("DataTransfer", "${vendor_id}", "123", ("123",)),
    Golden("BootNotification", "${Vendor} ${Model}", "ABB Terra", ("ABB Terra",)),
)
"""The reference files BootNotification under MeterValues, see `legacyBootFilter`."""

BOOT: dict[str, Any] = {"chargePointVendor": "ABB", "chargePointModel": "Terra", "firmwareVersion": "1.2"}
PAYLOADS = {"MeterValues": METER, "DataTransfer": TRANSFER, "BootNotification": BOOT}
