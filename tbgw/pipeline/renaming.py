# -*- test-case-name: tests.pipeline.test_renaming -*-
"""Which devices were renamed or deleted in ThingsBoard, and what that means for rows that were stored before.

A stored row is a ready payload, so it bears the names of its day. ThingsBoard creates a device for every name that it
does not know (spec thingsboard-mqtt, 3.2), so a row under an old name would bring a second device into being. Hence:

- A row that was stored before a rename is sent under the new name, and nothing is lost.
- What was stored of a device before it was deleted goes to the dead letters (`device_deleted`): it is kept, can be
  looked at and sent once more on purpose (`tbgw spool`), and brings nothing back to life by itself. The device is made
  anew, with its profile, when it speaks next.

A change holds for rows up to the number that was the last at its time, because names are used again: A may become B,
and another device A later. The changes lie in `renamed_devices.json`, which is written before the notice is answered.

Considered and dropped: rewriting the store in place (it would hold up the store for the length of the backlog, and a
power cut would leave a part of it); keeping the changes in `connected_devices.json` (it has the reference's form, and
the reference drops what it does not know).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tbgw.files import replace_file
from tbgw.interfaces import ISpool
from tbgw.internal_events import Event, Events
from tbgw.model import Row
from tbgw.pipeline.cutting import named
from tbgw.pipeline.internal_events import PartBuried
from tbgw.pipeline.suspicion import DEVICE_DELETED
from tbgw.thingsboard import payloads, topics
from tbgw.thingsboard.payloads import Part

MAX_CHANGES = 10_000
"""Changes that are remembered, at most; they are forgotten when the store runs empty. Beyond it the oldest goes."""

MAX_FILE_BYTES = 8 * 1024 * 1024
"""A larger file is not ours."""


class Change(NamedTuple):
    """One notice."""

    old: str
    new: str | None
    """None: the device was deleted."""
    last_seq: int
    """The last row that it holds for."""


class Renaming:
    """All changes, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changes: list[Change] = []
        self._highest = 0

    def load(self, last_seq: int, stored_rows: int) -> str:
        """
        Read the file, if there is one; `last_seq` and `stored_rows` are the spool's. What was wrong with the file, in
        words, or nothing. Never raises.
        """
        try:
            if self.path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
            content = json.loads(self.path.read_bytes())
            changes = [_change(entry) for entry in content]
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
            return f"{self.path}: not usable ({error}); what is stored of renamed devices goes out under its old name"
        if stored_rows:
            # A store that was put in the place of another counts from one again: nothing in it is that old.
            self._changes = [change for change in changes if change.last_seq <= last_seq]
        self._highest = max([change.last_seq for change in self._changes], default=0)
        return ""

    def add(self, old: str, new: str | None, last_seq: int, stored_rows: int) -> bytes:
        """Note a change that holds for the rows up to `last_seq`. The file's new content, for `write`."""
        if not stored_rows:
            # All before was delivered. What was delivered last may come back from the disk after a power cut, though.
            self._changes = [change for change in self._changes if change.last_seq == last_seq]
        self._changes.append(Change(old, new, last_seq))
        del self._changes[:-MAX_CHANGES]
        self._highest = last_seq
        entries = [{"old": change.old, "new": change.new, "lastSeq": change.last_seq} for change in self._changes]
        return json.dumps(entries, indent=1).encode("ascii")

    def write(self, content: bytes) -> None:
        """Put it on the disk, durably. May run in the store's thread. Raises OSError."""
        replace_file(self.path, content)

    def name(self, name: str, seq: int) -> str | None:
        """What a device that row number `seq` calls `name` is called now; None when it was deleted since."""
        current: str | None = name
        for change in self._changes:
            if seq <= change.last_seq and change.old == current:
                current = change.new
                if current is None:
                    break
        return current

    def current(self, row: Row, keep: Callable[[Part], None]) -> Row | None:
        """
        The row as it has to be sent now; itself, mostly. `keep` is called with each part that speaks of a deleted
        device. None when nothing is left: then the row itself belongs to the dead letters, and `keep` was not called.
        """
        if row.seq > self._highest or not self._changes:
            return row
        names = {name: now for name in row.devices if (now := self.name(name, row.seq)) != name}
        if not names:
            return row
        deleted = frozenset([name for name, now in names.items() if now is None])
        try:
            payload, taken = payloads.separated(row.topic, row.payload, deleted) if deleted else (row.payload, {})
            if not payload:
                return None
            payload = payloads.renamed(row.topic, payload, {old: new for old, new in names.items() if new is not None})
        except ValueError:
            return row  # damaged: the forwarder says so when it comes to send it
        for part in taken.values():
            keep(part)
        devices = tuple(dict.fromkeys([names.get(name) or name for name in row.devices if name not in deleted]))
        points = row.points - sum([part.points for part in taken.values()])
        return row._replace(
            payload=payload, devices=devices, messages=max(0, row.messages - len(taken)), points=max(0, points)
        )


class Following:
    """
    Brings rows up to date before they are sent: `current`. What speaks of deleted devices is buried on the way;
    `settled(row)` is called for a row that is done with, `bury(row, reason, event)` for one that is buried as a whole.
    """

    def __init__(
        self,
        renaming: Renaming,
        spool: ISpool,
        events: Events,
        settled: Callable[[Row], None],
        bury: Callable[[Row, str, Event], None],
    ) -> None:
        self._renaming = renaming
        self._spool = spool
        self._events = events
        self._settled = settled
        self._bury = bury

    def current(self, row: Row) -> Row | None:
        """The row under its devices' present names; None when it speaks of deleted ones only, which is settled then."""
        now = self._renaming.current(row, lambda part: self._bury_part(row.topic, part))
        if now is not None:
            return now
        if row.topic == topics.DISCONNECT:
            self._settled(row)
        else:
            self._bury(row, DEVICE_DELETED, self._buried(row))
        return None

    def _bury_part(self, topic: str, part: Part) -> None:
        letter = Row(0, topic, part.payload, part.devices, 1, part.points)
        self._events.emit(self._buried(letter))
        self._spool.bury(letter, DEVICE_DELETED)

    def _buried(self, row: Row) -> Event:
        return PartBuried(
            topic=row.topic, reason=DEVICE_DELETED, devices=named(row), size_bytes=len(row.payload)
        )


def _change(entry: object) -> Change:
    if not isinstance(entry, dict):
        raise ValueError("an entry is no object")
    old, new, last_seq = entry["old"], entry["new"], entry["lastSeq"]
    if not isinstance(old, str) or not isinstance(new, str | None) or type(last_seq) is not int:
        raise ValueError("an entry has a value of the wrong kind")
    return Change(old, new, last_seq)
