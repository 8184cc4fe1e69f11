"""Expressions of a charge point's entry over its messages, and names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import tbgw
from tbgw.connectors.ocpp.config import ChargePoint, ChargePointPoint, parse, policy_of
from tbgw.connectors.ocpp.converter import Converter, Naming, Point, boot_fields, context_of
from tbgw.connectors.ocpp.telemetry import Mapped
from tbgw.expressions import ExpressionError, compile_template
from tests.config.fakes import FolderCase, tree
from tests.connectors.ocpp.fakes import NOW_MS
from tests.connectors.ocpp.golden import BOOT, METER, PAYLOADS, TABLE, TRANSFER
from tests.connectors.ocpp.test_measurands import ANYTHING

CONTEXT = {"chargePointId": "CP_1", "path": "garage/CP_1", "ocppVersion": "ocpp1.6"}


class ConverterCase(FolderCase):
    """Converts messages by entries of a file."""

    def converter(self, *timeseries: dict[str, Any], attributes: Any = (), **more: Any) -> Converter:
        point = {"idRegexpPattern": ".*", "deviceNameExpression": "x", "timeseries": list(timeseries), **more}
        point["attributes"] = list(attributes)
        config = parse(tree({"centralSystem": {}, "chargePoints": [point]}), self.reporter)
        self.assertEqual(self.faults(), [])
        return Converter(config.charge_points[0], policy_of(config, config.charge_points[0]))

    def convert(self, converter: Converter, action: str, payload: dict[str, Any]) -> Mapped:
        mapped = Mapped()
        converter.convert(action, payload, lambda: CONTEXT, NOW_MS, mapped)
        return mapped

    def values(self, value: str, action: str, payload: dict[str, Any], **entry: Any) -> list[Any]:
        """What a single entry gives, oldest first."""
        legacy = {key: entry.pop(key) for key in ("legacyUnresolved", "legacyBootFilter") if key in entry}
        mapped = self.convert(self.converter({"key": "k", "value": value, **entry}, **legacy), action, payload)
        return [values["k"] for _, values in sorted(mapped.telemetry.get("", {}).items())]


class GoldenTests(ConverterCase):
    """The table of docs/ocpp.md."""

    def test_ours(self):
        """What each expression gives here."""
        for row in TABLE:
            found = self.values(row.template, row.action, PAYLOADS[row.action])
            self.assertEqual(tuple(found), row.ours, row.template)
            self.assertEqual([type(value) for value in found], [type(value) for value in row.ours], row.template)

    def test_differences_have_a_reason(self):
        """Where one differs from the reference, the table says why."""
        for row in TABLE:
            same = row.ours == (row.reference,)
            self.assertEqual(row.why == "", same or row.reference in row.ours, row.template)

    def test_legacy(self):
        """With `legacyUnresolved` the texts of expressions that find nothing are the reference's."""
        for row in TABLE:
            if row.reference is not None and "${" in row.reference and row.why.startswith("unresolved"):
                found = self.values(row.template, row.action, PAYLOADS[row.action], legacyUnresolved=True)
                self.assertEqual(found[-1], row.reference)
        mixed = self.values("${data.temp} ${data.humidity}", "DataTransfer", TRANSFER, legacyUnresolved=True)
        self.assertEqual(mixed, ["21.5 ${data.humidity}"])

    def test_documented(self):
        """docs/ocpp.md shows this very table."""
        shown = (Path(tbgw.__file__).parent.parent / "docs" / "ocpp.md").read_text()
        for row in TABLE:
            ours = ", ".join(f"`{_shown(value)}`" for value in row.ours) or "nothing"
            line = f"| {row.action} | `{row.template}` | `{row.reference}` | {ours} | {row.why} |"
            self.assertIn(line, shown)


def _shown(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else f'"{value}"'


class EntryTests(ConverterCase):
    """Filters, keys, types, times."""

    def test_filter(self):
        """Names are trimmed, empty ones are nothing, and no filter takes every message."""
        for stated, matches in (
            ("MeterValues,", True),
            ("DataTransfer, MeterValues", True),
            ("metervalues", False),
            (None, True),
        ):
            entry = {} if stated is None else {"messageTypeFilter": stated}
            self.assertEqual(self.values("${connector_id}", "MeterValues", METER, **entry), [1] if matches else [])

    def test_seed(self):
        """The entries of the seed's file."""
        converter = self.converter(
            {"messageTypeFilter": "DataTransfer,", "key": "temp", "value": "${data.temp}"},
            attributes=[
                {
                    "messageTypeFilter": "MeterValues,",
                    "key": "temp1",
                    "value": "${meter_value[:].sampled_value[:].value}",
                },
                {"messageTypeFilter": "MeterValues,", "key": "vendorId", "value": "${connector_id}"},
            ],
        )
        self.assertEqual(self.convert(converter, "MeterValues", METER).attributes, {"": {"temp1": 231, "vendorId": 1}})
        self.assertEqual(self.convert(converter, "DataTransfer", TRANSFER).telemetry, {"": {NOW_MS: {"temp": 21.5}}})
        self.assertEqual(self.convert(converter, "BootNotification", BOOT).attributes, {})
        self.assertTrue(converter.names("DataTransfer") and not converter.names("BootNotification"))

    def test_sample_times(self):
        """Each meter value has its own time; one that cannot be believed has that of the message or of its arrival."""
        mapped = self.convert(
            self.converter({"key": "v", "value": "${meter_value[*].sampled_value[0].value}"}),
            "MeterValues",
            {**METER, "meterValue": [*METER["meterValue"], {"timestamp": "1970", "sampledValue": [{"value": "1"}]}]},
        )
        self.assertEqual(
            mapped.telemetry[""],
            {NOW_MS - 400_000: {"v": 230.1}, NOW_MS - 340_000: {"v": 231}, NOW_MS: {"v": 1}},
        )

    def test_all_matches(self):
        """`all` gives lists where there are several, and the value alone where there is one."""
        found = self.values("${meter_value[:].sampled_value[:].value}", "MeterValues", METER, matches="all")
        self.assertEqual(found, [[230.1, 16.5], 231])

    def test_long_walks(self):
        """Of endless meter values only so many are looked at."""
        payload = {"meterValue": [{"sampledValue": [{"value": "1"}]}] * 5000}
        mapped = self.convert(
            self.converter({"key": "v", "value": "${meter_value[*].sampled_value[0].value}"}), "MeterValues", payload
        )
        self.assertEqual((mapped.telemetry, mapped.unusable), ({"": {NOW_MS: {"v": 1}}}, {"sample": 4000}))

    def test_mixed_walks(self):
        """An expression through two selections of meter values looks at the message as a whole."""
        both = "${meter_value[0].sampled_value[0].value} ${meter_value[1].sampled_value[0].value}"
        self.assertEqual(self.values(both, "MeterValues", METER), ["230.1 231"])

    def test_same_walk_twice(self):
        """Two parts of the same meter values stay together."""
        both = "${meter_value[:].sampled_value[0].value}@${meter_value[:].timestamp}"
        self.assertEqual(
            self.values(both, "MeterValues", METER), ["230.1@2026-11-18T11:00:00Z", "231@2026-11-18T11:01:00Z"]
        )

    def test_transaction_data(self):
        """So is it with what a StopTransaction carries along."""
        stop = {"transactionId": 1, "transactionData": METER["meterValue"]}
        found = self.values("${transaction_data[:].sampled_value[:].value}", "StopTransaction", stop)
        self.assertEqual(found, [230.1, 231])

    def test_message_time(self):
        """A message's own time counts, unless it cannot be."""
        for stated, time_ms in (("2026-11-18T11:00:00Z", NOW_MS - 400_000), ("0001-01-01T00:00:00Z", NOW_MS)):
            converter = self.converter({"key": "s", "value": "${status}"})
            mapped = self.convert(converter, "StatusNotification", {"status": "Available", "timestamp": stated})
            self.assertEqual(mapped.telemetry, {"": {time_ms: {"s": "Available"}}})

    def test_types(self):
        """`string` and `number` make what they say; `auto` leaves other texts of digits alone."""
        for value, kind, expected in (
            ("${connector_id}", "string", "1"),
            ("${meter_value[0].sampled_value[0].value}", "string", "230.1"),
            ("${vendor}", "auto", "007"),
            ("${vendor}", "number", 7),
            ("${word}", "number", "abc"),
        ):
            payload = {**METER, "vendor": "007", "word": "abc"}
            self.assertEqual(self.values(value, "MeterValues", payload, type=kind), [expected])

    def test_keys(self):
        """Keys may be expressions; one that finds nothing or becomes too long is none."""
        for key, expected in (
            ("${connector_id}_k", {"1_k": 1}),
            ("c${nothing}", None),
            ("${long}", None),
            ("${null}", None),
        ):
            converter = self.converter({"key": key, "value": "${connector_id}"})
            mapped = self.convert(converter, "MeterValues", {**METER, "long": "x" * 300, "null": None})
            self.assertEqual(mapped.telemetry.get("", {}).get(NOW_MS), expected)
        self.assertEqual(mapped.unusable, {"expression": 1})

    def test_context(self):
        """Who the charge point is may be named in any entry."""
        for template, expected in (("${chargePointId}", "CP_1"), ("${path}:${connector_id}", "garage/CP_1:1")):
            self.assertEqual(self.values(template, "MeterValues", METER), [expected])

    def test_boot(self):
        """BootNotification has a name of its own; `legacyBootFilter` lets filters on MeterValues take it as well."""
        entry = {"messageTypeFilter": "MeterValues"}
        self.assertEqual(self.values("${firmware_version}", "BootNotification", BOOT, **entry), [])
        found = self.values("${firmware_version}", "BootNotification", BOOT, legacyBootFilter=True, **entry)
        self.assertEqual(found, ["1.2"])
        named = {"messageTypeFilter": "BootNotification"}
        self.assertEqual(self.values("${chargePointVendor}", "BootNotification", BOOT, **named), ["ABB"])

    def test_boot_of_2(self):
        """The fields of a 2.x station are found at the top too."""
        boot = {"reason": "PowerUp", "chargingStation": {"vendorName": "ABB", "model": "T", "modem": {"iccid": "8"}}}
        for template, expected in (("${vendor_name}", "ABB"), ("${iccid}", "8"), ("${charging_station.model}", "T")):
            self.assertEqual(self.values(template, "BootNotification", boot), [expected])

    def test_data_is_no_json(self):
        """`data` that is no JSON is a text, and that of 2.x may be anything."""
        self.assertEqual(self.values("${data}", "DataTransfer", {"data": "{oops"}), ["{oops"])
        self.assertEqual(self.values("${data.a}", "DataTransfer", {"data": {"a": [1]}}), [[1]])

    def test_no_message_raises(self):
        """Whatever is in a message, it is converted or left out."""
        converter = self.converter(
            {"key": "${x}", "value": "${meter_value[:].sampled_value[:].value}"},
            {"key": "k", "value": "${meter_value[-1].timestamp} ${data.temp}"},
            {"key": "l", "value": "${$..value}", "type": "number"},
        )

        @given(st.dictionaries(st.sampled_from(["meterValue", "connectorId", "timestamp", "data", "x"]), ANYTHING))
        def check(payload: dict[str, Any]) -> None:
            for action in ("MeterValues", "DataTransfer", "BootNotification"):
                self.convert(converter, action, payload)

        check()

    @settings(max_examples=60, deadline=None)  # the grammar takes some ms for each
    @given(st.text("${}[]*:.-012meter_value x'\"|&?@()", max_size=30))
    def test_no_template_raises(self, text: str):
        """An expression that was let in when the file was read can be compiled here."""
        for template in ("${meter_value[" + text + "]}", "${meter_value" + text + "}", text or "x"):
            try:
                compile_template(template)
            except ExpressionError:
                continue
            for legacy in (False, True):
                Point(ChargePointPoint(key="k", value=template), False, legacy).evaluate(METER)


class NameTests(FolderCase):
    """`Naming` and what names are made of."""

    def naming(self, **entry: Any) -> Naming:
        point = {"idRegexpPattern": ".*", "deviceNameExpression": "${Vendor} ${Model}", **entry}
        found: ChargePoint = parse(tree({"centralSystem": {}, "chargePoints": [point]}), self.reporter).charge_points[0]
        return Naming(found)

    def context(self, boot: dict[str, Any]) -> dict[str, Any]:
        return context_of("CP_1", "garage/CP_1", "ocpp1.6", boot_fields(boot))

    def test_names(self):
        """Both spellings of every field, the reference's two words, and the id."""
        for template, expected in (
            ("${Vendor} ${Model}", "ABB Terra"),
            ("${charge_point_vendor}", "ABB"),
            ("${chargePointModel} ${chargePointId}", "Terra CP_1"),
            ("${firmware_version}", "1.2"),
            ("${serial_number}", None),
            ("${path}", "garage/CP_1"),
            ("${ocppVersion}", "ocpp1.6"),
            ("fixed", "fixed"),
        ):
            self.assertEqual(self.naming(deviceNameExpression=template).name(self.context(BOOT)), expected, template)

    def test_before_the_boot(self):
        """The name is unknown, the fallback is the id or what the file says, the profile is `default`."""
        naming = self.naming(deviceTypeExpression="${Model}")
        context = self.context({})
        self.assertEqual(
            (naming.name(context), naming.fallback(context), naming.profile(context)), (None, "CP_1", "default")
        )
        self.assertEqual(naming.profile(self.context(BOOT)), "Terra")
        self.assertEqual(self.naming(fallbackNameExpression="new ${path}").fallback(context), "new garage/CP_1")

    def test_bounded(self):
        """Of a boot only texts and numbers of sane size are kept."""
        fields = boot_fields({"chargePointVendor": "x" * 300, "chargePointModel": "M", "n": 7, "l": [1], "d": {"e": 1}})
        self.assertEqual(fields, {"chargePointModel": "M", "Model": "M", "n": 7})
