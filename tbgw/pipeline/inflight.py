# -*- test-case-name: tests.pipeline.test_forwarder -*-
"""What was sent and is not through yet, and the rule that keeps each device's order. Pure.

PUBACKs may come in any order (spec thingsboard-mqtt, fact 5), and any row may have to be sent again: because the
session ended, or because ThingsBoard said "later". Were it sent again alone, it would come after rows that were sent
behind it, and an older value would be the last that ThingsBoard hears of the device. So a row that is acknowledged is
held until all before it are; and when one comes back, all behind it that speak of a device of it, or of a device of
such a row, come back with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from tbgw.model import Row
from tbgw.thingsboard.payloads import Piece

PROBE_SEQ = 0
"""The place of a probe; no row has this number."""


class Sent:
    """One row on its way; or a part of the row under examination, or a probe, which is alone then."""

    __slots__ = (
        "again",
        "alone",
        "code",
        "done",
        "dup",
        "puback",
        "puback_at",
        "published",
        "row",
        "sent_at",
        "unsent",
        "waiting",
    )

    def __init__(self, row: Row, dup: bool, unsent: deque[Piece], alone: bool = False) -> None:
        self.row = row
        self.dup = dup
        """Whether it was sent before."""
        self.alone = alone
        """Whether it belongs to the examination."""
        self.unsent = unsent
        """What of it was not published yet."""
        self.waiting = 0
        """PUBACKs that are still to come for what was."""
        self.code = 0
        """The worst reason code so far."""
        self.sent_at = 0.0
        """When the last part was published."""
        self.again = False
        """Whether it has to be sent again whatever its PUBACK says, because one before it has to."""
        self.done = False
        """Whether it was acknowledged, and waits for those before it."""
        self.published = self.puback = 0
        """How many PUBACKs there were when its last part was published, and with its own; see `grace`."""
        self.puback_at = 0.0


class InFlight:
    """All that was sent in this session and is not through."""

    def __init__(self) -> None:
        self.sent: dict[int, Sent] = {}
        """By number: what is without PUBACK, and what is held."""
        self.open: Sent | None = None
        """The row of which not all parts are published; in `sent` from its first part on."""
        self.publishes = 0
        """Publishes without PUBACK."""
        self.held_bytes = 0
        """Size of the rows that are held."""
        self.returning = 0
        """Rows without PUBACK of which is known that they have to be sent again: until it comes nothing may be sent
        that could get ahead of them."""

    def unanswered(self, also_held: bool = False) -> list[Sent]:
        """What is without PUBACK, in order; `also_held`: and what is held."""
        return [sent for _, sent in sorted(self.sent.items()) if also_held or not sent.done]

    def hold(self, sent: Sent) -> None:
        """It was acknowledged as a whole."""
        sent.done = True
        self.held_bytes += len(sent.row.payload)

    def release(self) -> list[Sent]:
        """Those that are through, in order."""
        through = []
        for seq in sorted(self.sent):
            sent = self.sent[seq]
            if not sent.done:
                break
            del self.sent[seq]
            self.held_bytes -= len(sent.row.payload)
            through.append(sent)
        return through

    def remove(self, sent: Sent) -> None:
        """It is dealt with in another way."""
        del self.sent[sent.row.seq]
        self.publishes -= sent.waiting
        if sent.again:
            self.returning -= 1
        if self.open is sent:
            self.open = None

    def unsend(self, sent: Sent) -> None:
        """What is unsent of it does not go now."""
        sent.unsent.clear()
        if self.open is sent:
            self.open = None

    def behind(self, row: Row) -> list[Row]:
        """
        The rows that come back with this one, which has: those that are held at once, those without PUBACK when it
        comes.
        """
        names = set(_speaks_of(row))
        back = []
        for seq, later in sorted(self.sent.items()):
            if seq <= row.seq or names.isdisjoint(_speaks_of(later.row)):
                continue
            names.update(_speaks_of(later.row))
            self.unsend(later)
            if later.waiting:
                if not later.again:
                    later.again = True
                    self.returning += 1
                continue
            del self.sent[seq]
            if later.done:
                self.held_bytes -= len(later.row.payload)
            back.append(later.row)
        return back

    def moved(self, name: Callable[[str, int], str | None]) -> list[Row]:
        """
        Devices have other names now; `name(old, seq)` gives them. What is in flight speaks of both from now on. A row
        of which a part is still to be published must be sent anew, as a whole: it is returned, or comes when its
        PUBACKs do.
        """
        back = []
        for _, sent in sorted(self.sent.items()):
            row = sent.row
            now = [current for old in row.devices if (current := name(old, row.seq)) is not None]
            if tuple(now) == row.devices:
                continue
            sent.row = row._replace(devices=tuple(dict.fromkeys([*row.devices, *now])))
            if sent.unsent:
                self.unsend(sent)
                if not sent.waiting:
                    self.remove(sent)
                    back.append(sent.row)
                elif not sent.again:
                    sent.again = True
                    self.returning += 1
        return back

    def take_open(self) -> Row | None:
        """The open row, if nothing of it was published yet: it goes back into the line."""
        sent = self.open
        if sent is None or sent.row.seq in self.sent:
            return None
        self.open = None
        return sent.row

    def lost(self) -> tuple[list[Row], list[Row]]:
        """The session ended: the rows that are through, and those that have to be sent again. Nothing is left."""
        through, back = [], []
        names: set[str] = set()
        for _, sent in sorted(self.sent.items()):
            if sent.alone:
                continue
            if sent.done and names.isdisjoint(_speaks_of(sent.row)):
                through.append(sent.row)
            else:
                names.update(_speaks_of(sent.row))
                back.append(sent.row)
        self.sent.clear()
        self.open = None
        self.publishes = self.returning = self.held_bytes = 0
        return through, back


def _speaks_of(row: Row) -> tuple[str, ...]:
    """Whose data it is: names of devices, or the empty name for the gateway itself."""
    return row.devices or ("",)
