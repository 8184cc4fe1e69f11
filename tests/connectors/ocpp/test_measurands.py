"""Sampled values: keys, numbers, units, phases."""

from __future__ import annotations

from math import isfinite
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.ocpp.measurands import Kinds, Samples, converted, number_of
from tbgw.connectors.ocpp.measurands import read_samples as read_by

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def read_samples(samples: Any, raw: bool, totals: bool) -> Samples:
    return read_by(samples, Kinds("", raw), totals)


class SampleTests(SynchronousTestCase):
    """`read_samples`."""

    def values(self, *samples: Any, raw: bool = False, totals: bool = False) -> dict[str, Any]:
        return read_samples(list(samples), raw, totals).values

    def test_defaults(self):
        """A bare value is imported energy in Wh, at the outlet, of all phases."""
        read = read_samples([{"value": "1387"}], False, False)
        self.assertEqual(read.values, {"energy_active_import_register": 1387})
        self.assertEqual(read.units, {"energy_active_import_register_unit": "Wh"})

    def test_keys(self):
        """Measurand, phase, place and context make the key."""
        for of, key in (
            ({"measurand": "SoC"}, "soc"),
            ({"measurand": "Voltage", "phase": "L1-N"}, "voltage_l1_n"),
            ({"measurand": "Voltage", "phase": "L1", "location": "Inlet"}, "voltage_l1_inlet"),
            ({"measurand": "Voltage", "location": "Outlet"}, "voltage"),
            ({"measurand": "Temperature", "location": "Body"}, "temperature_body"),
            ({"context": "Transaction.Begin"}, "energy_active_import_register_begin"),
            ({"context": "Transaction.End"}, "energy_active_import_register_end"),
            ({"context": "Interruption.Begin"}, "energy_active_import_register_interruption_begin"),
            ({"context": "Interruption.End"}, "energy_active_import_register_interruption_end"),
            ({"context": "Sample.Clock"}, "energy_active_import_register"),
            ({"context": "Trigger"}, "energy_active_import_register"),
            ({"context": "Alfen's own"}, "energy_active_import_register"),
            ({"measurand": "com.acme.Coolant-Flow"}, "com_acme_coolant_flow"),
        ):
            self.assertEqual(self.values({"value": "1", **of}), {key: 1})

    def test_begin_does_not_overwrite(self):
        """The register at the begin of the transaction stands beside the live one of the same message."""
        found = self.values({"value": "900"}, {"value": "100", "context": "Transaction.Begin"})
        self.assertEqual(
            found, {"energy_active_import_register": 900, "energy_active_import_register_begin": 100}
        )

    def test_units(self):
        """Thousands become units and kelvin and Fahrenheit Celsius, without binary noise."""
        for value, unit, expected, named in (
            ("1.1", "kWh", 1100.0, "Wh"),
            ("2.3", "kWh", 2300.0, "Wh"),
            ("2", "MWh", 2_000_000, "Wh"),
            ("7.4", "kW", 7400.0, "W"),
            ("3", "kvarh", 3000, "varh"),
            ("3", "kvar", 3000, "var"),
            ("3", "kVA", 3000, "VA"),
            ("300", "K", 26.85, "Celsius"),
            ("212", "Fahrenheit", 100.0, "Celsius"),
            ("21", "Celcius", 21, "Celsius"),
            ("21", "Celsius", 21, "Celsius"),
            ("50", "Percent", 50, "Percent"),
            ("5", "furlong", 5, "furlong"),
        ):
            read = read_samples([{"value": value, "unit": unit, "measurand": "X"}], False, False)
            self.assertEqual((read.values, read.units), ({"x": expected}, {"x_unit": named}))

    def test_raw_units(self):
        """With `raw` numbers and units are as reported."""
        read = read_samples([{"value": "1.1", "unit": "kWh"}], True, False)
        self.assertEqual(
            (read.values, read.units),
            ({"energy_active_import_register": 1.1}, {"energy_active_import_register_unit": "kWh"}),
        )

    def test_implied_units(self):
        """Frequency is in Hz and reactive energy in varh when nobody says."""
        for measurand, unit in (("Frequency", "Hz"), ("Energy.Reactive.Import.Register", "varh"), ("SoC", None)):
            read = read_samples([{"value": "1", "measurand": measurand}], False, False)
            self.assertEqual(next(iter(read.units.values()), None), unit)

    def test_multiplier(self):
        """2.x: the number is multiplied with a power of ten, exactly."""
        for value, multiplier, unit, expected in (
            (1.5, 3, "W", 1500.0),
            (1234, -3, "V", 1.234),
            (7, 0, "A", 7),
            (2, 2, "kW", 200_000),
        ):
            of = {"value": value, "measurand": "X", "unitOfMeasure": {"unit": unit, "multiplier": multiplier}}
            self.assertEqual(self.values(of), {"x": expected})

    def test_unusable(self):
        """What is no number or no sample is left out and counted; the others are used."""
        read = read_samples(
            [
                {"value": "1", "measurand": "A"},
                {"value": "abc"},
                {"value": "NaN"},
                {"value": "1e999"},
                {"value": "1_000"},
                {"value": None},
                {},
                {"value": "1", "measurand": ["x"]},
                {"value": "1", "measurand": "x" * 1000},
                {"value": 1, "unitOfMeasure": {"multiplier": 99}},
                {"value": 10**30},
                "sample",
                None,
            ],
            False,
            False,
        )
        self.assertEqual((read.values, read.unusable), ({"a": 1}, 12))
        self.assertEqual(read_samples({"value": "1"}, False, False).unusable, 1)

    def test_signed(self):
        """Signed records are kept as texts beside the value, or instead of it."""
        read = read_samples(
            [
                {"value": "QUJD", "format": "SignedData", "measurand": "A"},
                {"value": 5, "measurand": "B", "signedMeterValue": {"signedMeterData": "REVG"}},
            ],
            False,
            False,
        )
        self.assertEqual(read.values, {"a_signed": "QUJD", "b_signed": "REVG", "b": 5})

    def test_kinds_are_bounded(self):
        """Names that never end push each other out, and the keys stay right."""
        kinds = Kinds("p_", False)
        for number in range(3000):
            read = read_by([{"value": "1", "measurand": f"x{number}"}], kinds)
            self.assertEqual(read.values, {f"p_x{number}": 1})
        self.assertLessEqual(len(kinds._made), 1000)

    def test_phase_totals(self):
        """Power is summed; current, voltage and power factor are means; N is no phase; what is reported comes first."""

        def of(measurand: str, **phases: float) -> list[dict[str, Any]]:
            return [
                {"value": str(value), "measurand": measurand, "phase": phase.replace("_", "-")}
                for phase, value in phases.items()
            ]

        for samples, key, expected in (
            (of("Power.Active.Import", L1=1, L2=2, L3=3, N=9), "power_active_import", 6),
            (of("Current.Import", L1=10, L2=20, L3=30, N=5), "current_import", 20),
            (of("Voltage", L1_N=230, L2_N=231, L3_N=232), "voltage", 231),
            (of("Voltage", L1_L2=400, L2_L3=400, L3_L1=400), "voltage", 230.940108),
            (of("Power.Factor", L1=0.9, L2=1.0), "power_factor", 0.95),
            (of("Current.Import", N=5), "current_import", None),
            (of("Temperature", L1=5), "temperature", None),
            ([*of("Power.Active.Import", L1=1, L2=2), {"value": "5", "measurand": "Power.Active.Import"}],
             "power_active_import", 5),
        ):
            self.assertEqual(self.values(*samples, totals=True).get(key), expected, key)
            if key == "current_import" and expected:
                self.assertNotIn(key, self.values(*samples))

    @given(st.lists(st.fixed_dictionaries({}, optional={
        "value": ANYTHING, "measurand": ANYTHING, "phase": ANYTHING, "location": ANYTHING, "context": ANYTHING,
        "unit": ANYTHING, "format": ANYTHING, "unitOfMeasure": ANYTHING, "signedMeterValue": ANYTHING,
    }), max_size=4) | ANYTHING)
    def test_never_raises(self, samples: Any):
        """Whatever stands in the place of samples: finite numbers come out, or nothing."""
        read = read_samples(samples, False, True)
        self.assertTrue(all(isinstance(value, str) or isfinite(value) for value in read.values.values()))


class NumberTests(SynchronousTestCase):
    """`number_of` and `converted`."""

    @given(st.integers(-(2**63) + 1, 2**63 - 1))
    def test_whole(self, value: int):
        """Whole numbers stay whole, as text and as number."""
        self.assertEqual((number_of(value), number_of(str(value))), (value, value))
        self.assertIsInstance(number_of(str(value)), int)

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_floats(self, value: float):
        """Numbers with a fraction are the same as text and as number."""
        self.assertEqual(number_of(repr(value)), value)

    @given(st.decimals(0, 10**6, places=3))
    def test_exact(self, value: Any):
        """Three decimals of a thousand units are whole, as one would do it on paper."""
        self.assertEqual(converted(float(value), 1000), int(value * 1000))

    def test_not_numbers(self):
        """Truth values, lists and long texts are none."""
        others: tuple[Any, ...] = (True, None, [], {}, "", "x", "0x10", "1" * 40, "inf", "-Infinity", 2**63, "²")
        for value in others:
            self.assertIsNone(number_of(value), value)
