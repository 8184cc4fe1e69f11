# -*- test-case-name: tests.connectors.ocpp.test_transactions -*-
"""The charging sessions of one charge point, and where the transaction ids of 1.6 come from. Pure.

* An id is given once: they only grow, and begin at the seconds since the epoch, so that also a lost file gives none
  twice (an id of 2026 is below 2^31, which some chargers cannot pass). `int(time)` itself, which others use, collides
  when two cars are plugged in within one second.
* A charger that did not get the answer starts the same transaction again: same connector, tag, meter and time. It then
  gets the same id, within a day of its first coming.
* -1 is what a charger says that never got an id, and any number may be one that we do not know: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

MAX_KEPT = 32
"""Sessions kept for each charge point: those that run, and the last that ended."""
RETRY_MS = 24 * 3600 * 1000
"""How long a StartTransaction is recognised when it comes again."""


@dataclass(slots=True)
class Transaction:
    """One charging session."""

    id: int | str
    """A number that we gave (1.6), a text that the station gave (2.x)."""
    connector: int | None
    """Connector in 1.6, EVSE in 2.x; None when the station never said."""
    id_tag: str | None = None
    meter_start: int | float | None = None
    """Register at the begin, in Wh."""
    start_ms: int | None = None
    stop_ms: int | None = None
    """None while it runs."""
    received_ms: int | None = None
    """When its StartTransaction came, which may be days after `start_ms`: charge points keep them while offline."""
    request: str = ""
    """What a repeated StartTransaction is recognised by."""
    charging_state: str | None = None
    """Of 2.x."""

    @property
    def runs(self) -> bool:
        """Whether it was started and not ended."""
        return self.stop_ms is None

    def session_energy(self, meter_stop: int | float | None) -> int | float | None:
        """In Wh; None when one of the ends is not known, or the register went back."""
        if self.meter_start is None or meter_stop is None or meter_stop < self.meter_start:
            return None
        energy = meter_stop - self.meter_start
        return energy if isinstance(energy, int) else round(energy, 6)

    def session_seconds(self) -> int | None:
        """How long it lasted; None when that is not known."""
        if self.start_ms is None or self.stop_ms is None or self.stop_ms < self.start_ms:
            return None
        return (self.stop_ms - self.start_ms) // 1000


class Sessions:
    """Those of one charge point, the oldest first."""

    __slots__ = ("_by_id", "changed")

    def __init__(self) -> None:
        self._by_id: dict[int | str, Transaction] = {}
        self.changed = False
        """Whether there is something that has to be kept and was not saved yet."""

    def __iter__(self) -> Iterator[Transaction]:
        return iter(self._by_id.values())

    def find(self, wanted: Any) -> Transaction | None:
        """None for one that is not known, whatever is asked for."""
        if isinstance(wanted, bool) or not isinstance(wanted, (int, str)):
            return None
        return self._by_id.get(wanted)

    def repeated(self, request: str, now_ms: int, is_dated: bool) -> Transaction | None:
        """
        The transaction that this very StartTransaction has begun already. One that tells no time (`is_dated`) begins
        another once that is over: who always comes with the same tag and a register of 0 would have one for a day.
        """
        for transaction in self:
            if transaction.request == request and (is_dated or transaction.runs):
                began_ms = transaction.start_ms if transaction.received_ms is None else transaction.received_ms
                if now_ms - (began_ms or 0) <= RETRY_MS:
                    return transaction
        return None

    def running_on(self, connector: int) -> Transaction | None:
        """The one begun last, if several run."""
        found = [one for one in self if one.runs and one.connector == connector]
        return found[-1] if found else None

    def only_running(self) -> Transaction | None:
        """The one that runs; None when there is none, or more than one."""
        running = [one for one in self if one.runs]
        return running[0] if len(running) == 1 else None

    def add(self, transaction: Transaction) -> None:
        """Keep it; what is too much goes, ended ones first."""
        self.changed = True
        self._by_id.pop(transaction.id, None)
        self._by_id[transaction.id] = transaction
        while len(self._by_id) > MAX_KEPT:
            ended = next((one for one in self if not one.runs), None)
            del self._by_id[next(iter(self._by_id)) if ended is None else ended.id]

    def plain(self) -> list[dict[str, Any]]:
        """JSON-ready, as `restored` takes it."""
        return [{key: value for key in _KEPT if (value := getattr(one, key)) not in (None, "")} for one in self]


_KEPT = tuple(one.name for one in fields(Transaction) if one.name != "charging_state")
"""What of a session outlives a restart; what it is doing comes with its next message."""


def restored(plain: Any) -> Sessions:
    """The reverse of `Sessions.plain`. What is not as it was written is left out."""
    sessions = Sessions()
    for item in plain if isinstance(plain, list) else ():
        if isinstance(item, Mapping) and isinstance(item.get("id"), (int, str)):
            try:
                sessions.add(Transaction(**{"connector": None, **item}))
            except TypeError:  # fields of another version of this program
                continue
    sessions.changed = False
    return sessions


class TransactionIds:
    """Where new ids come from."""

    __slots__ = ("last",)

    def __init__(self, first_id: int, now_ms: int) -> None:
        self.last = max(first_id, now_ms // 1000) - 1
        """The highest that was given."""

    def restore(self, last: int) -> None:
        """Ids up to this one were given before."""
        self.last = max(self.last, last)

    def take(self) -> int:
        """The next one."""
        self.last += 1
        return self.last
