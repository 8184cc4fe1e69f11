# -*- test-case-name: tests.connectors.ocpp.test_spelling -*-
"""Keys as OCPP writes them on the wire, for names in snake case. Pure.

The reference's expressions see `meter_value` where the wire has `meterValue`. Nothing is renamed here: an expression
is compiled so that it looks for both, which costs nothing for each message.
"""

from __future__ import annotations

from functools import lru_cache

_IRREGULAR: dict[str, tuple[str, ...]] = {
    "responder_url": ("responderURL",),
    "full_soc": ("fullSoC",),
    "bulk_soc": ("bulkSoC",),
    "target_soc": ("targetSoC",),
    "limit_at_soc": ("limitAtSoC",),
    "max_soc": ("maxSoC",),
    "soc": ("soC",),
    "soh": ("soH",),
    "ev_supported_der_control": ("evSupportedDERControl",),
    "ev_maximum_level1_dc_injection": ("evMaximumLevel1DCInjection",),
    "ev_duration_level1_dc_injection": ("evDurationLevel1DCInjection",),
    "ev_maximum_level2_dc_injection": ("evMaximumLevel2DCInjection",),
    "ev_duration_level2_dc_injection": ("evDurationLevel2DCInjection",),
    "price_schedule_id": ("priceScheduleID", "priceScheduleId"),
    "tax_rule_id": ("taxRuleID",),
    "fixed_pf": ("fixedPF",),
    "fixed_pf_absorb": ("fixedPFAbsorb",),
    "fixed_pf_inject": ("fixedPFInject",),
    "ev_max_v2x_energy_request": ("evMaxV2XEnergyRequest",),
    "ev_min_v2x_energy_request": ("evMinV2XEnergyRequest",),
    "prioritized_emai_ds": ("prioritizedEMAIDs",),
}
"""What the rule does not give; a test compares with the schemas. `..._l2` and `_l3` have a rule of their own."""


def camel(name: str) -> str:
    """`meter_value` -> `meterValue`."""
    first, *others = name.split("_")
    return first + "".join(other[:1].upper() + other[1:] for other in others)


@lru_cache(maxsize=2048)
def spellings(name: str) -> tuple[str, ...]:
    """The keys that an expression's name may mean: itself first, then as the wire spells it. For `compile_template`."""
    found = [name]
    if name in _IRREGULAR:
        found += _IRREGULAR[name]
    elif name.endswith(("_l2", "_l3")):
        found.append(f"{camel(name[:-3])}_L{name[-1]}")
    elif "_" in name.strip("_"):
        found.append(camel(name))
    return tuple(dict.fromkeys(found))
