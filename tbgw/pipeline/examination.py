# -*- test-case-name: tests.pipeline.test_suspicion -*-
"""What is done about rows that ThingsBoard does not take: they are taken apart, and sent part by part. Pure.

`suspicion` says which rows may be why sessions end. This module leads one of them at a time, the first in line, through
its `Case`, and keeps the account of what counts against a part:

- an answer that blames the payload (0x99 and the like, 0x83 the second time), at once;
- a close, or a PUBACK that never comes, while the part was alone in flight and ThingsBoard had taken other data earlier
  in the same session. When nothing else goes before it by itself, a probe does: the client attribute `connectorName` of
  another device, which it has already (the reference sets it too), so that nothing changes by it;
- an answer "later" (0x80, 0x97), `REFUSALS` times, each after such a probe was taken.

A part against which something counts is cut further; one that cannot be cut is given up, when the proof is enough.
"""

from __future__ import annotations

from collections.abc import Collection

from tbgw.model import Row
from tbgw.pipeline.suspicion import DEVICE_DELETED, Case, Suspicion
from tbgw.thingsboard.payloads import Part

RETRY_CODES = frozenset({0x80, 0x83, 0x97})
"""PUBACK reason codes after which the same payload may pass later: unspecified, implementation specific, quota
exceeded."""

REFUSALS = 5
"""Answers "later" to one part, while ThingsBoard takes others, before it is cut or given up; the row as a whole has had
more chances already."""

REFUSALS_OF_KNOWN = 2
"""The same for a device of which something was given up for this within the hour."""

FEW_POINTS = 50
"""A part of one device with more data points than this is cut after 0x97, too: it may be more than a bucket of points
holds that ThingsBoard did not announce (spec thingsboard-mqtt, 6.1: the tenant's)."""

BLAMES = 2
"""Answers 0x83, after each of which ThingsBoard closes the session, before the payload is suspect (spec
thingsboard-mqtt, Appendix A rule 5)."""

CLOSES_SESSION = "closes_session"
NEVER_ACKNOWLEDGED = "never_acknowledged"
REFUSED = "refused"
RETRIES_EXHAUSTED = "retries_exhausted"
TOO_LARGE = "too_large"
UNREADABLE = "unreadable"
REASONS = (CLOSES_SESSION, DEVICE_DELETED, NEVER_ACKNOWLEDGED, REFUSED, RETRIES_EXHAUSTED, TOO_LARGE, UNREADABLE)
"""All reasons that delivery gives in the dead letters; the store adds none but `unreadable`."""


class Examination:
    """The rows that have to be taken apart, and the one with which that is being done."""

    def __init__(self) -> None:
        self.suspicion = Suspicion()
        self.due: set[int] = set()
        """Numbers of the rows that are to be taken apart when they are first in line."""
        self.case: Case | None = None
        self._taken = False
        """Whether ThingsBoard took data in this session, since it last refused some."""
        self._probes = 0
        self._moves: list[tuple[str, str | None]] = []

    def session_begins(self) -> None:
        """Nothing was taken in this session yet."""
        self._taken = False

    def accepted(self, now: float) -> None:
        """ThingsBoard acknowledged data."""
        self._taken = True
        self.suspicion.taken(now)

    def alone(self, head: Row | None) -> bool:
        """Whether nothing but one publish may be in flight; `head` is the first row in line."""
        return self.suspicion.isolates or self.in_parts(head)

    def in_parts(self, head: Row | None) -> bool:
        """Whether what goes next is a part: of the row under examination, or of the first in line."""
        return self.case is not None or (head is not None and bool(self.due) and head.seq in self.due)

    def begin(self, row: Row) -> None:
        """Take this row apart, which is the first in line."""
        self.due.discard(row.seq)
        self.case = Case(row)

    def finish(self, now: float) -> Case | None:
        """The case, if nothing of it is left to do; then it is closed."""
        case = self.case
        if case is None or case.todo:
            return None
        self.case = None
        if case.bad:
            self.suspicion.convict(case.row.seq, now)
        else:
            self.suspicion.unexplained(now, case.all_closes)
            self.suspicion.acquit(case.row.seq, now)
        return case

    @property
    def wants_probe(self) -> bool:
        """Whether something else has to be taken before the part is sent."""
        return not self._taken

    def part_too_large(self) -> None:
        """The part is longer than a payload may be now."""
        if self.case is not None and not self.case.cut():
            self.case.give_up(TOO_LARGE)

    def part_answered(self, code: int, now: float) -> None:
        """PUBACK for the part that was alone in flight."""
        case = self.case
        if case is None:
            return
        if code < 0x80:
            self._taken = True
            case.passed()
            return
        needed = 1
        case.refusals += 1
        if code in RETRY_CODES:
            self._taken = False
            if code == 0x83:
                needed = BLAMES
            else:
                known = self.suspicion.condemned(case.todo[0].devices, RETRIES_EXHAUSTED, now)
                needed = REFUSALS_OF_KNOWN if known else REFUSALS
        if case.refusals < needed:
            return
        part = case.todo[0]
        if code in (0x80, 0x97) and len(part.devices) == 1 and (code == 0x80 or part.points <= FEW_POINTS):
            self._give_up(RETRIES_EXHAUSTED, now)  # about the device: its values fare no better one by one
        elif not case.cut():
            self._give_up(RETRIES_EXHAUSTED if code in (0x80, 0x97) else REFUSED, now)

    def part_unanswered(self, now: float, overdue: bool, doubted: bool = False) -> None:
        """
        The session ended with the part alone in flight; `overdue`: by us, because no PUBACK came; `doubted`: right
        after its PUBACK (see `grace`), which ThingsBoard does for want of tokens, too: then as patient as with "later".
        """
        case = self.case
        if case is None:
            return
        reason = NEVER_ACKNOWLEDGED if overdue else CLOSES_SESSION
        case.all_closes += 1
        if case.cut():
            return
        case.closes += 1
        needed = self.suspicion.closes_needed(case.todo[0], reason, now)
        if case.closes >= (max(needed, REFUSALS) if doubted else needed):
            self._give_up(reason, now)

    def _give_up(self, reason: str, now: float) -> None:
        if self.case is not None:
            self.suspicion.condemn(self.case.give_up(reason).devices, reason, now)

    def probe_unanswered(self, now: float) -> None:
        """The session ended with the probe in flight, or with nothing: it is not the part that ends sessions."""
        if self.case is not None:
            self.case.closes = 0
        self.suspicion.unexplained(now)

    def closed(self, in_flight: Collection[Row], now: float) -> None:
        """A session ended, for no other reason that is known, with these rows in flight; no case is open."""
        if self.suspicion.isolates:
            for row in in_flight:
                if row.seq in self.suspicion.suspects:
                    self.due.add(row.seq)
                    self.suspicion.again()
                    return
            self.suspicion.unexplained(now)
            return
        known = any(self.suspicion.condemned(row.devices, CLOSES_SESSION, now) for row in in_flight)
        self.suspicion.closed([row.seq for row in in_flight], now, known)

    def delivered(self, seq: int, now: float) -> None:
        """The row was acknowledged as a whole."""
        self.due.discard(seq)
        self.suspicion.acquit(seq, now)

    def forget(self, last_seq: int) -> None:
        """Rows up to this one are gone from the store."""
        self.due = {seq for seq in self.due if seq > last_seq}
        if self.case is not None and self.case.row.seq <= last_seq:
            self.case = None
        self.suspicion.forget(last_seq)

    def moved(self, old: str, new: str | None) -> None:
        """A device is called otherwise, or was deleted (None)."""
        if self.case is not None:
            self._moves.append((old, new))

    def settle_names(self) -> None:
        """Nothing is in flight: the row under examination may follow the changes of names."""
        moves, self._moves = self._moves, []
        for old, new in moves:
            if self.case is not None and old in self.case.row.devices:
                self.case.moved(old, new)

    def probe_device(self, announced: Collection[str], part: Part, now: float) -> str:
        """
        Whose attribute the probe sets: another device's, each time another's, one that ThingsBoard is known to take if
        there is one; the part's own if there is no other at all.
        """
        others = sorted(set(announced).difference(part.devices))
        fine = [name for name in others if not self.suspicion.condemned([name], RETRIES_EXHAUSTED, now)]
        self._probes += 1
        choice = fine or others or part.devices
        return choice[self._probes % len(choice)]
