# -*- test-case-name: tests.connectors.ocpp.test_measurands -*-
"""Sampled values of a meter: the key, the number and the unit of each (spec ocpp, section 8). Pure.

    {"value": "1.387", "unit": "kWh", "phase": "L1"}   ->   energy_active_import_register_l1 = 1387.0, in Wh

* What a sample leaves out has OCPP's defaults: Energy.Active.Import.Register, Wh, Sample.Periodic, Outlet, all phases.
* The samples of a transaction's begin and end and of interruptions have keys of their own: they stand in one message
  with the live value of the same measurand, and would overwrite it.
* 1.6 writes numbers as texts, and many chargers write numbers where texts should be: both are taken.
* Nothing is summed over phases unless `phaseTotals` asks for it, and what the charger reports itself comes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import isfinite, sqrt
from typing import Any, NamedTuple

DEFAULT_MEASURAND = "Energy.Active.Import.Register"
MAX_SAMPLES = 1000
"""Sampled values of one message that are looked at: a station with 50 phases and 20 measurands."""
MAX_NAMES_CHARACTERS = 200
"""Of measurand, phase, location, context and unit together; the longest of the standard have some 90. What is longer
would make keys that ThingsBoard does not take, and fill the cache."""
MAX_NUMBER_CHARACTERS = 32
MAX_WHOLE = 2**63 - 1
"""ThingsBoard's whole numbers have 64 bits."""
MAX_SIGNED_CHARACTERS = 4096
_MAX_MULTIPLIER = 18

_UNITS: Mapping[str, tuple[str, int]] = {
    "kWh": ("Wh", 1000),
    "MWh": ("Wh", 1_000_000),
    "kW": ("W", 1000),
    "MW": ("W", 1_000_000),
    "kvarh": ("varh", 1000),
    "kvar": ("var", 1000),
    "kVA": ("VA", 1000),
    "kVAh": ("VAh", 1000),
    "Celcius": ("Celsius", 1),
    "Hertz": ("Hz", 1),
}
"""Unit to what it becomes and the factor. Celcius stands so in the published schema of 1.6."""

_SUFFIXES = {
    "Transaction.Begin": "_begin",
    "Transaction.End": "_end",
    "Interruption.Begin": "_interruption_begin",
    "Interruption.End": "_interruption_end",
}
"""Contexts that have a key of their own; all others are live values."""

_PHASES = {"L1": 0, "L2": 1, "L3": 2, "L1-N": 0, "L2-N": 1, "L3-N": 2}
_BETWEEN = {"L1-L2": 0, "L2-L3": 1, "L3-L1": 2}


class Kind(NamedTuple):
    """What can be known of a sample without its value."""

    key: str
    unit_key: str
    """Key of the attribute that names the unit."""
    unit: str
    """As it is reported to ThingsBoard; empty when nobody says."""
    factor: int
    """What the number is multiplied with."""
    scale: str
    """The temperature scale that it is converted from, if any."""
    total_key: str
    """Key without the phase."""
    measurand: str
    phase: str


@lru_cache(maxsize=4096)
def kind_of(measurand: str, phase: str, location: str, context: str, unit: str, raw: bool) -> Kind:
    """What is the same for all samples of a kind. A stranger's names push each other out of the cache."""
    stem = _key(measurand)
    place = "" if location in ("", "Outlet") else "_" + _key(location)
    suffix = _SUFFIXES.get(context, "")
    factor, scale = 1, ""
    if not unit:
        if measurand.startswith("Energy."):
            unit = "varh" if ".Reactive." in measurand else "Wh"
        elif measurand == "Frequency":
            unit = "Hz"
    elif not raw:
        if unit in _UNITS:
            unit, factor = _UNITS[unit]
        elif unit in ("K", "Fahrenheit"):
            unit, scale = "Celsius", unit
    return Kind(
        f"{stem}{'_' + _key(phase) if phase else ''}{place}{suffix}",
        f"{stem}_unit",
        unit,
        factor,
        scale,
        f"{stem}{place}{suffix}",
        measurand,
        phase,
    )


def _key(name: str) -> str:
    return "".join(sign if sign.isalnum() else "_" for sign in name.lower())


def number_of(value: Any) -> int | float | None:
    """A number, or a text that is one; None for anything else: NaN, infinity, and whole ones beyond 64 bits."""
    if isinstance(value, str):
        if len(value) > MAX_NUMBER_CHARACTERS or "_" in value:
            return None
        try:
            # What has a point is no whole number; to ask for one first would cost an exception for each.
            value = float(value) if "." in value else int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if -MAX_WHOLE <= value <= MAX_WHOLE else None
    return value if isinstance(value, float) and isfinite(value) else None


def converted(value: int | float, factor: int, scale: str = "") -> int | float:
    """To the unit of `Kind.unit`. What the factor adds of binary noise is rounded off."""
    if scale == "K":
        return round(value - 273.15, 6)
    if scale == "Fahrenheit":
        return round((value - 32) / 1.8, 6)
    product = value * factor
    return product if isinstance(product, int) else round(product, 6)


class Samples:
    """What the sampled values of one instant say; filled by `read_samples`."""

    __slots__ = ("signed", "units", "unusable", "values")

    def __init__(self) -> None:
        self.values: dict[str, int | float] = {}
        self.units: dict[str, str] = {}
        self.signed: dict[str, str] = {}
        """Signed records, by the key of what they sign."""
        self.unusable = 0
        """Samples that are no number, or no sample at all."""


def read_samples(samples: Any, raw_units: bool, phase_totals: bool) -> Samples:
    """The list `sampledValue` of one meter value, of any version and however malformed."""
    read = Samples()
    if not isinstance(samples, list):
        read.unusable += 1
        return read
    phases: dict[str, list[tuple[Kind, int | float]]] = {}
    values = read.values
    for sample in samples[:MAX_SAMPLES]:
        if not isinstance(sample, dict):
            read.unusable += 1
            continue
        unit = sample.get("unit", "")
        multiplier = 0
        if (of_measure := sample.get("unitOfMeasure")) is not None and isinstance(of_measure, dict):
            unit = of_measure.get("unit", "")
            multiplier = of_measure.get("multiplier", 0)
        measurand = sample.get("measurand") or DEFAULT_MEASURAND
        phase, location = sample.get("phase") or "", sample.get("location") or ""
        context, unit = sample.get("context") or "", unit or ""
        try:
            if len(measurand) + len(phase) + len(location) + len(context) + len(unit) > MAX_NAMES_CHARACTERS:
                read.unusable += 1
                continue
            kind = kind_of(measurand, phase, location, context, unit, raw_units)
        except (TypeError, AttributeError):  # a list, an object or a number in the place of a name
            read.unusable += 1
            continue
        signed = sample.get("signedMeterValue")
        value = sample.get("value")
        if sample.get("format") == "SignedData":
            signed, value = {"signedMeterData": value}, None
        if isinstance(signed, dict):
            record = signed.get("signedMeterData")
            if isinstance(record, str) and len(record) <= MAX_SIGNED_CHARACTERS:
                read.signed[kind.key + "_signed"] = record
            if value is None:
                continue
        number = number_of(value)
        if number is None or (multiplier and not _fits(multiplier)):
            read.unusable += 1
            continue
        if multiplier:
            number = number * 10**multiplier if multiplier > 0 else number / 10**-multiplier
        if kind.factor != 1 or kind.scale:
            number = converted(number, kind.factor, kind.scale)
        if multiplier or kind.factor != 1:
            number = number_of(number)
            if number is None:  # too large by now
                read.unusable += 1
                continue
        values[kind.key] = number
        if kind.unit:
            read.units[kind.unit_key] = kind.unit
        if phase_totals and kind.phase:
            phases.setdefault(kind.total_key, []).append((kind, number))
    for key, found in phases.items():
        if key not in values:
            total = _total(found)
            if total is not None:
                values[key] = total
    return read


def _fits(multiplier: Any) -> bool:
    return isinstance(multiplier, int) and -_MAX_MULTIPLIER <= multiplier <= _MAX_MULTIPLIER


def _total(found: list[tuple[Kind, int | float]]) -> float | None:
    """Power: sum; current, voltage, power factor: mean; voltages between phases by way of the star. N is left out."""
    measurand = found[0][0].measurand
    star = {_PHASES[kind.phase]: value for kind, value in found if kind.phase in _PHASES}
    if measurand.startswith("Power.") and measurand != "Power.Factor":
        return round(sum(star.values()), 6) if star else None
    if measurand.startswith("Current.") or measurand in ("Voltage", "Power.Factor"):
        if star:
            return round(sum(star.values()) / len(star), 6)
        between = {_BETWEEN[kind.phase]: value for kind, value in found if kind.phase in _BETWEEN}
        if between and measurand == "Voltage":
            return round(sum(between.values()) / len(between) / sqrt(3), 6)
    return None
