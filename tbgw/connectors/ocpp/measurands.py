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
from math import isfinite, sqrt
from typing import Any, NamedTuple

DEFAULT_MEASURAND = "Energy.Active.Import.Register"
MAX_SAMPLES = 1000
"""Sampled values of one message that are looked at: a station with 50 phases and 20 measurands."""
MAX_NAMES_CHARACTERS = 200
"""Of measurand, phase, location, context and unit together; the longest of the standard have some 90. What is longer
would make keys that ThingsBoard does not take."""
MAX_KINDS = 1000
"""Kinds remembered under one prefix; 22 measurands in each phase, place and context that occur are some 300."""
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
    is_plain: bool
    """Whether the number is passed on as it is."""
    factor: int
    """What the number is multiplied with."""
    scale: str
    """The temperature scale that it is converted from, if any."""
    total_key: str
    """Key without the phase."""
    measurand: str
    phase: str


Named = tuple[Any, Any, Any, Any, Any]
"""Measurand, phase, location, context and unit as a sample has them: texts, or None for what it leaves out."""


class Kinds:
    """
    The kinds of samples that were seen, under one prefix of keys: making one costs what twenty look-ups cost. Bounded:
    names that never end push the others out.
    """

    __slots__ = ("_made", "_prefix", "_raw")

    def __init__(self, prefix: str, raw_units: bool) -> None:
        self._prefix = prefix
        self._raw = raw_units
        self._made: dict[Named, Kind] = {}

    def get(self, named: Named) -> Kind | None:
        """None for what no key can be made of."""
        try:
            kind = self._made.get(named)
        except TypeError:  # a list or an object in the place of a name
            return None
        return kind or self._make(named)

    def _make(self, named: Named) -> Kind | None:
        texts = ["" if name is None else name for name in named]
        if not all(isinstance(text, str) for text in texts) or sum(map(len, texts)) > MAX_NAMES_CHARACTERS:
            return None
        kind = _kind_of(self._prefix, *texts, raw=self._raw)
        if len(self._made) >= MAX_KINDS:
            self._made.clear()
        self._made[named] = kind
        return kind


def _kind_of(prefix: str, measurand: str, phase: str, location: str, context: str, unit: str, *, raw: bool) -> Kind:
    measurand = measurand or DEFAULT_MEASURAND
    stem = prefix + _key(measurand)
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
        factor == 1 and not scale,
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
    kind = type(value)
    if kind is str:
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
        kind = type(value)
    if kind is float:
        return value if isfinite(value) else None
    if kind is int:
        return value if -MAX_WHOLE <= value <= MAX_WHOLE else None
    return None


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

    __slots__ = ("units", "unusable", "values")

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        """Numbers by key; the texts of signed records under `<key>_signed`."""
        self.units: dict[str, str] = {}
        self.unusable = 0
        """Samples that are no number, or no sample at all."""


def read_samples(samples: Any, kinds: Kinds, phase_totals: bool = False) -> Samples:
    """The list `sampledValue` of one meter value, of any version and however malformed."""
    read = Samples()
    if not isinstance(samples, list):
        read.unusable += 1
        return read
    phases: dict[str, list[tuple[Kind, int | float]]] = {}
    values, units = read.values, read.units
    find = kinds.get
    for sample in samples[:MAX_SAMPLES]:
        if type(sample) is not dict:
            read.unusable += 1
            continue
        get = sample.get
        unit, multiplier = get("unit"), None
        if "unitOfMeasure" in sample and isinstance(of_measure := sample["unitOfMeasure"], dict):
            unit, multiplier = of_measure.get("unit"), of_measure.get("multiplier")
        kind = find((get("measurand"), get("phase"), get("location"), get("context"), unit))
        if kind is None:
            read.unusable += 1
            continue
        value = get("value")
        if get("format") == "SignedData" or "signedMeterValue" in sample:
            value = _signed(sample, kind, values)
            if value is None:
                continue
        number = number_of(value)
        if number is not None and multiplier:
            number = _multiplied(number, multiplier)
        if number is not None and not kind.is_plain:
            number = number_of(converted(number, kind.factor, kind.scale))
        if number is None:
            read.unusable += 1
            continue
        values[kind.key] = number
        if kind.unit:
            units[kind.unit_key] = kind.unit
        if phase_totals and kind.phase:
            phases.setdefault(kind.total_key, []).append((kind, number))
    for key, found in phases.items():
        if key not in values:
            total = _total(found)
            if total is not None:
                values[key] = total
    return read


def _signed(sample: dict[str, Any], kind: Kind, values: dict[str, Any]) -> Any:
    """Keep the signed record; the value that stands beside it, if any."""
    value, record = sample.get("value"), sample.get("signedMeterValue")
    if sample.get("format") == "SignedData":
        value, record = None, value
    elif isinstance(record, dict):
        record = record.get("signedMeterData")
    if isinstance(record, str) and len(record) <= MAX_SIGNED_CHARACTERS:
        values[kind.key + "_signed"] = record
    return value


def _multiplied(number: int | float, multiplier: Any) -> int | float | None:
    if not isinstance(multiplier, int) or not -_MAX_MULTIPLIER <= multiplier <= _MAX_MULTIPLIER:
        return None
    return number_of(number * 10**multiplier if multiplier > 0 else number / 10**-multiplier)


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
