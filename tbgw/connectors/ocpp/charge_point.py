# -*- test-case-name: tests.connectors.ocpp.test_reports -*-
"""One charge point as the upward half knows it, over all its connections; and an entry of the file, compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tbgw.connectors.ocpp.authorization import tags_of
from tbgw.connectors.ocpp.config import ChargePoint, OCPPConfig, policy_of
from tbgw.connectors.ocpp.converter import Converter, Naming, context_of
from tbgw.connectors.ocpp.policy import Policy, Tag
from tbgw.connectors.ocpp.stations import Record
from tbgw.connectors.ocpp.telemetry import DefaultMapper, Memory
from tbgw.model import Device
from tbgw.ocpp.interfaces import IStation


class Entry:
    """An entry of `chargePoints`, ready for use."""

    __slots__ = ("charge_point", "converter", "mapper", "naming", "policy")

    def __init__(self, config: OCPPConfig, charge_point: ChargePoint, salt: bytes) -> None:
        self.charge_point = charge_point
        self.policy: Policy = policy_of(config, charge_point)
        self.converter = Converter(charge_point, self.policy)
        self.naming = Naming(charge_point)
        self.mapper: DefaultMapper | None = None
        """None when the default mapping is off."""
        if self.policy.maps_by_default:
            self.mapper = DefaultMapper(self.policy.mapping, salt)


@dataclass(slots=True, eq=False)
class KnownStation:
    """See the module. `record` is what of it is kept over restarts."""

    record: Record
    entry: Entry | None = None
    """None before the first connection since the start."""
    station: IStation | None = None
    """The open connection, if any."""
    device: Device | None = None
    connector_devices: dict[str, Device] = field(default_factory=dict)
    """By what follows the charge point's name."""
    memory: Memory = field(default_factory=Memory)
    told_online: bool = False
    connections: int = 0
    """Since the start of the gateway."""
    is_ready: bool = False
    """Whether the present connection was told to `on_ready`."""
    heartbeat_ms: int = 0
    """When the last heartbeat was passed on."""
    call_timeouts: int = 0
    """Calls of ours that it did not answer in time, since the start."""
    faulty: int = 0
    """Messages that broke their schema, since the start."""
    told_faulty: int = 0
    expected: frozenset[str] = frozenset()
    """Messages that we asked for, and that pass although boot is pending."""
    extra: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None
    """Values and attributes that the downward half has to tell, until there is a device to tell them of."""
    tags: tuple[Any, Mapping[str, Tag]] | None = None
    """`record.tags`, and what they were read as."""

    def shared_tags(self) -> Mapping[str, Tag]:
        """The tags of the shared attribute; none while it is unknown or unusable."""
        if self.tags is None or self.tags[0] is not self.record.tags:
            self.tags = (self.record.tags, tags_of(self.record.tags) or {})
        return self.tags[1]

    def context(self) -> Mapping[str, Any]:
        """Who it is, for expressions. Made anew each time: most expressions do not ask, and 10,000 of them add up."""
        if self.entry is None or self.station is None:
            return {}
        station = self.station
        pattern = self.entry.charge_point.id_pattern
        match = pattern.fullmatch(station.path) or pattern.fullmatch(station.identity)  # as it was let in by
        groups = match.groupdict() if match else {}
        return context_of(station.identity, station.path, station.version.value, self.record.boot, groups)
