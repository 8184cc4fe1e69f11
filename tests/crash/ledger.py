"""What was accepted, what arrived, and what is wrong between the two. Pure."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator

Id = tuple[str, int]
"""(device or line, number): each device counts up."""


def ids_in(payload: bytes | str) -> Iterator[Id]:
    """The readings in a telemetry payload, in order. A value `line` stands for the device where one device has many."""
    for name, entries in json.loads(payload).items():
        for entry in entries:
            values = entry["values"]
            if "n" in values:
                yield values.get("line", name), int(values["n"])


class Ledger:
    """
    Accepted ids against arrivals. Numbers of one device are accepted in ascending order, so that each arrival that does
    not ascend is either a duplicate or a broken order.
    """

    def __init__(self) -> None:
        self.accepted: set[Id] = set()
        self.arrived: set[Id] = set()
        self.lost: set[Id] = set()
        """Accepted, and not arrived."""
        self.duplicates = 0
        """Arrivals of what had arrived before."""
        self.disorder: list[Id] = []
        """First arrivals that came after a later one of their device."""
        self.restarts: dict[str, int] = defaultdict(int)
        """How often each device's arrivals went back to an earlier number: what came then were duplicates."""
        self._last: dict[str, int] = {}
        self._highest: dict[str, int] = {}

    def accept(self, ids: Iterable[Id]) -> None:
        """These were answered as stored."""
        for one in ids:
            self.accepted.add(one)
            if one not in self.arrived:
                self.lost.add(one)

    def arrive(self, ids: Iterable[Id]) -> None:
        """These arrived, in this order."""
        for one in ids:
            device, number = one
            if number <= self._last.get(device, -1):
                self.restarts[device] += 1
            self._last[device] = number
            if one in self.arrived:
                self.duplicates += 1
                continue
            self.arrived.add(one)
            self.lost.discard(one)
            if number < self._highest.get(device, -1):
                self.disorder.append(one)
            self._highest[device] = max(number, self._highest.get(device, -1))

    def check(self, breaks: int) -> None:
        """
        Nothing is lost, order is kept, and duplicates are explained: a device's arrivals begin again at an earlier
        number at most once for each of the `breaks` (kills, power cuts, lost sessions), after which rows are sent again
        whose acknowledgement, or whose deletion, was lost.
        """
        assert not self.lost, f"lost {len(self.lost)} of {len(self.accepted)}: {sorted(self.lost)[:10]}"
        assert not self.disorder, f"order broken: {self.disorder[:10]}"
        for device, restarts in self.restarts.items():
            assert restarts <= breaks, f"{device} began again {restarts} times in {breaks} breaks"

    def __str__(self) -> str:
        return (
            f"{len(self.accepted)} accepted, {len(self.arrived)} arrived, {len(self.lost)} lost, "
            f"{len(self.disorder)} out of order, {self.duplicates} duplicates"
        )
