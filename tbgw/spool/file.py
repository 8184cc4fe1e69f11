"""Rows in plain files: a log in segments, for those who configure `storage.type: file`.

Each change is appended to the newest segment as records with a CRC each, closed by a COMMIT record, then synced when it
has rows in it; what comes after the last COMMIT is not there. A delete is a record too. The oldest segment is removed
once no row in it is kept; its dead letters, and rows that alone keep it, are written anew first.

What holds
- Same contract as SQLite: what `apply` answered is on the disk, all of a change or none of it.
- A damaged record costs that record: the reader looks for the next whole one. Damage at the very end looks like a
  change that a crash cut off, and is taken for one.
- Files are 0600, one process at a time.
- Memory: some 300 bytes for each stored row, so the store suits the caps of the reference's `file` keys (100,000
  messages by default, in far fewer rows), and a large one belongs into SQLite.

Considered and dropped: the reference's format (base64 lines, a file that is rewritten for each acknowledgement): it has
no sums, no sizes and no way to see a torn line. A separate file for the dead letters: then a burial would be two files.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from tbgw.errors import StoreError
from tbgw.model import Row
from tbgw.spool.contract import (
    EXPIRE_STEP,
    Applied,
    Change,
    DeadLetter,
    Fetched,
    Opened,
    Tended,
    Totals,
    row_bytes,
)
from tbgw.spool.files import make_folders, store_error, sync_folder, take_lock

FORMAT: Final = 1
SEGMENT_BYTES: Final = 4 * 1024 * 1024
"""Size from which on a new segment is begun: what a stuck row can hold, and what is read at once at the start."""
SPARE_SEGMENTS: Final = 4
"""Segments beyond twice the kept bytes before rows are written anew to free the oldest one."""
MAX_DEAD_LETTERS: Final = 10_000
MAX_DEAD_BYTES: Final = 16 * 1024 * 1024
"""Caps of the dead letters, on top of the cap of the rows, as in `store`."""
MAX_RECORD_BYTES: Final = 256 * 1024 * 1024
"""Longer than any record: a length above it is damage."""

_MAGIC = b"\xf5tbg"  # a byte that no text in UTF-8 has, so that no payload looks like a record
_HEAD = struct.Struct("<4sIIB")  # magic, length of the body, CRC-32 of kind and body, kind
_ROW = struct.Struct("<QQIIHI")  # seq, running_ms, messages, points, length of the topic, length of the devices
_DEAD = struct.Struct("<QQH")  # id, buried_ms, length of the reason
_COMMIT = struct.Struct("<QQ")  # last_seq, running_ms
_PAIR = struct.Struct("<QQ")
_NUMBER = struct.Struct("<Q")
_KIND_FORMAT, _KIND_ROW, _KIND_DELETE, _KIND_DEAD, _KIND_EXHUME, _KIND_COMMIT = range(1, 7)


class _Place(NamedTuple):
    """Where a record's body is, and what has to be known of it without reading it."""

    segment: int
    offset: int
    length: int
    crc: int
    kind: int
    messages: int
    size: int
    running_ms: int
    reason: str


class FileStore:
    """Implements `contract.Store` in the folder `path`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_dead_letters: int = MAX_DEAD_LETTERS,
        max_dead_bytes: int = MAX_DEAD_BYTES,
    ) -> None:
        self.place = os.fspath(path)
        self._max_dead_letters = max_dead_letters
        self._max_dead_bytes = max_dead_bytes
        self._clear()
        self._lock_fd = self._fd = -1

    def _clear(self) -> None:
        self._rows: OrderedDict[int, _Place] = OrderedDict()
        self._dead: OrderedDict[int, _Place] = OrderedDict()
        self._segments: OrderedDict[int, int] = OrderedDict()
        """Size of each segment file by its number, oldest first; the last one is written to."""
        self._kept: Counter[int] = Counter()
        """Rows that are kept in each segment."""
        self._last_seq = self._last_id = self._running_ms = 0
        self._messages = self._bytes = self._dead_bytes = 0

    @property
    def _totals(self) -> Totals:
        return Totals(
            self._last_seq, len(self._rows), self._messages, self._bytes, len(self._dead), self._dead_bytes
        )

    # -- opening and closing -------------------------------------------------------------------------------------------

    def open(self) -> Opened:
        """See the contract. The `StoreError` names the folder, or the lock when another process has it."""
        try:
            make_folders(os.path.abspath(self.place))
            self._lock_fd = take_lock(self.place, os.path.join(self.place, "tbgw.lock"))
            self._clear()
            damaged: list[tuple[int, int]] = []
            numbers = sorted(int(name[5:-4]) for name in os.listdir(self.place) if _is_segment(name))
            for number in numbers:
                self._read_segment(number, damaged, last=number == numbers[-1])
            if list(self._rows) != (ordered := sorted(self._rows)):  # some were written anew, to free their segment
                for seq in ordered:
                    self._rows.move_to_end(seq)
            if self._segments:
                self._fd = os.open(self._path(next(reversed(self._segments))), os.O_WRONLY | os.O_CLOEXEC)
                os.lseek(self._fd, 0, os.SEEK_END)
            else:
                self._begin_segment()
        except StoreError:
            self._let_go()
            raise
        except OSError as error:
            self._let_go()
            raise store_error("open", self.place, error) from error
        return Opened(self._totals, damaged, self._running_ms)

    def _path(self, number: int) -> str:
        return os.path.join(self.place, f"tbgw-{number:020d}.log")

    def _read_segment(self, number: int, damaged: list[tuple[int, int]], last: bool) -> None:
        with open(self._path(number), "rb") as file:
            os.fchmod(file.fileno(), 0o600)
            content = file.read()
        self._segments[number] = len(content)
        waiting: list[tuple[int, int, bytes]] = []
        committed = position = 0
        before = self._last_seq
        gap = False
        while position < len(content):
            found = _record_at(content, position)
            if found is None:
                position = content.find(_MAGIC, position + 1)
                gap = True
                if position < 0:
                    break
                continue
            kind, body = found
            if kind == _KIND_FORMAT and _NUMBER.unpack_from(body)[0] > FORMAT:
                raise StoreError(
                    f"the store {self.place} was written by a newer version of the gateway; it was left as it is"
                )
            if gap and kind == _KIND_ROW:
                first = before + 1
                before = _ROW.unpack_from(body)[0]
                if first < before:
                    damaged.append((first, before - 1))
                gap = False
            elif kind == _KIND_ROW:
                before = _ROW.unpack_from(body)[0]
            waiting.append((kind, position, body))
            position += _HEAD.size + len(body)
            if kind == _KIND_COMMIT:
                for entry in waiting:
                    self._replay(entry[0], number, entry[1], entry[2])
                waiting.clear()
                committed = position
        if gap and before < self._last_seq:
            damaged.append((before + 1, self._last_seq))
        if last and committed < len(content):  # what a crash left unfinished
            os.truncate(self._path(number), committed)
            self._segments[number] = committed

    def close(self, last_seq: int | None) -> None:
        """See the contract."""
        if self._fd >= 0 and last_seq is not None and last_seq >= self._last_seq:
            self._last_seq = last_seq
            try:
                self._append(_commit(last_seq, self._running_ms))
                os.fsync(self._fd)
            except OSError:
                pass  # what was answered is on the disk; only the last number is not
        self._let_go()

    def _let_go(self) -> None:
        for descriptor in (self._fd, self._lock_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self._fd = self._lock_fd = -1

    # -- writing -------------------------------------------------------------------------------------------------------

    def apply(self, change: Change) -> Applied:
        """See the contract."""
        if self._fd < 0:
            raise StoreError(f"the store {self.place} is not open")
        try:
            return self._apply(change)
        except OSError as error:
            raise store_error("write", self.place, error) from error

    def _apply(self, change: Change) -> Applied:
        if self._segments[self._active] >= SEGMENT_BYTES:
            self._begin_segment()
        running_ms = max(self._running_ms, change.running_ms)
        records = [_deletes([seq for seq in change.deletes if seq in self._rows])]
        records += [_row(row, running_ms) for row, _ in change.rows]
        next_id = self._last_id
        for row, reason in change.buried:
            next_id += 1
            records.append(_dead(next_id, change.now_ms, reason, row))
        records.append(_deletes([row.seq for row, _ in change.buried if row.seq]))
        records.append(_record(_KIND_EXHUME, b"".join(map(_NUMBER.pack, change.exhumed))) if change.exhumed else b"")
        self._append(b"".join(records))
        dropped = self._over_cap(change.max_bytes, change.max_messages)
        lost = sum(self._rows[seq].messages for seq in dropped)
        dead = self._dead_over_cap()
        end = _deletes(dropped) + (_record(_KIND_EXHUME, b"".join(map(_NUMBER.pack, dead))) if dead else b"")
        self._append(end + _commit(max(self._last_seq, change.last_seq), running_ms))
        if change.rows or change.buried:
            os.fdatasync(self._fd)
        self._remove_old()
        return Applied(self._totals, len(dropped), lost, dropped[-1] if dropped else 0, len(dead))

    def _over_cap(self, max_bytes: int | None, max_messages: int | None) -> list[int]:
        """The oldest rows that have to go."""
        size, messages = self._bytes, self._messages
        dropped: list[int] = []
        for seq, place in self._rows.items():
            over = (max_bytes is not None and size > max_bytes) or (
                max_messages is not None and messages > max_messages
            )
            if not over:
                break
            dropped.append(seq)
            size, messages = size - place.size, messages - place.messages
        return dropped

    def _dead_over_cap(self) -> list[int]:
        count, size = len(self._dead), self._dead_bytes
        dropped: list[int] = []
        for number, place in self._dead.items():
            if count <= self._max_dead_letters and size <= self._max_dead_bytes:
                break
            dropped.append(number)
            count, size = count - 1, size - place.size
        return dropped

    @property
    def _active(self) -> int:
        return next(reversed(self._segments))

    def _begin_segment(self) -> None:
        number = self._active + 1 if self._segments else 1
        if self._fd >= 0:
            os.fsync(self._fd)  # deletes in it may not be yet
            os.close(self._fd)
            self._fd = -1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._fd = os.open(self._path(number), flags, 0o600)
        os.fchmod(self._fd, 0o600)
        sync_folder(self.place)
        self._segments[number] = 0
        self._append(_record(_KIND_FORMAT, _NUMBER.pack(FORMAT)) + _commit(self._last_seq, self._running_ms))

    def _append(self, data: bytes) -> None:
        """Write records to the active segment, and let them hold."""
        number = self._active
        start = self._segments[number]
        left = memoryview(data)
        while left:
            left = left[os.write(self._fd, left) :]
        self._segments[number] = start + len(data)
        for kind, offset, body in _records(data):
            self._replay(kind, number, start + offset, body)

    def _replay(self, kind: int, segment: int, offset: int, body: bytes) -> None:
        """What a record means, at opening and after writing it."""
        if kind == _KIND_ROW:
            seq, running_ms, messages, *_ = _ROW.unpack_from(body)
            row = _row_of(body)
            size = row_bytes(row)
            self._forget(seq)
            place = _Place(segment, offset, len(body), _crc(kind, body), kind, messages, size, running_ms, "")
            self._rows[seq] = place
            self._kept[segment] += 1
            self._messages += messages
            self._bytes += size
            self._last_seq = max(self._last_seq, seq)
        elif kind == _KIND_DELETE:
            for first, last in _PAIR.iter_unpack(body):
                for seq in range(first, last + 1):
                    self._forget(seq)
        elif kind == _KIND_DEAD:
            letter = _letter_of(body)
            size = row_bytes(letter.row)
            self._exhume(letter.id)
            self._dead[letter.id] = _Place(
                segment, offset, len(body), _crc(kind, body), kind, letter.row.messages, size, 0, letter.reason
            )
            self._dead_bytes += size
            self._last_id = max(self._last_id, letter.id)
        elif kind == _KIND_EXHUME:
            for (number,) in _NUMBER.iter_unpack(body):
                self._exhume(number)
        elif kind == _KIND_COMMIT:
            last_seq, running_ms = _COMMIT.unpack(body)
            self._last_seq = max(self._last_seq, last_seq)
            self._running_ms = max(self._running_ms, running_ms)

    def _forget(self, seq: int) -> None:
        place = self._rows.pop(seq, None)
        if place is not None:
            self._kept[place.segment] -= 1
            self._messages -= place.messages
            self._bytes -= place.size

    def _exhume(self, number: int) -> None:
        place = self._dead.pop(number, None)
        if place is not None:
            self._dead_bytes -= place.size

    def _remove_old(self) -> None:
        """Remove the oldest segments while nothing in them is kept; write anew what alone keeps the oldest one."""
        while len(self._segments) > 1:
            number = next(iter(self._segments))
            room = sum(self._segments.values())
            crowded = room > 2 * (self._bytes + self._dead_bytes) + SPARE_SEGMENTS * SEGMENT_BYTES
            if self._kept[number] and not crowded:
                return
            rows = [seq for seq, place in self._rows.items() if place.segment == number]
            dead = [place for place in self._dead.values() if place.segment == number]
            places = [self._rows[seq] for seq in rows] + dead
            anew = b"".join(
                _record(place.kind, body) for place in places if (body := self._body(place)) is not None
            )
            if anew:
                order = list(self._rows)
                self._append(anew + _commit(self._last_seq, self._running_ms))
                for seq in order:
                    if seq in self._rows:
                        self._rows.move_to_end(seq)
            # Deletes in the newest segment may not be on the disk yet, and must not outlive what they delete.
            os.fdatasync(self._fd)
            os.unlink(self._path(number))
            sync_folder(self.place)
            del self._segments[number], self._kept[number]

    def tend(self, running_ms: int, expire_before_ms: int | None, now_ms: int) -> Tended:
        """See the contract."""
        try:
            expired: list[int] = []
            if expire_before_ms is not None:
                for seq, place in self._rows.items():
                    if place.running_ms >= expire_before_ms or len(expired) >= EXPIRE_STEP:
                        break
                    expired.append(seq)
            messages = sum(self._rows[seq].messages for seq in expired)
            more = len(expired) == EXPIRE_STEP
            if self._rows:
                self._append(_deletes(expired) + _commit(self._last_seq, max(running_ms, self._running_ms)))
                self._remove_old()
        except OSError as error:
            raise store_error("write", self.place, error) from error
        oldest = next(iter(self._rows.values()), None)
        return Tended(
            self._totals,
            len(expired),
            messages,
            expired[-1] if expired else 0,
            oldest.running_ms if oldest is not None else None,
            Counter(place.reason for place in self._dead.values()),
            more,
        )

    # -- reading -------------------------------------------------------------------------------------------------------

    def _body(self, place: _Place) -> bytes | None:
        """A record's body; None when it is not what was written."""
        with open(self._path(place.segment), "rb", buffering=0) as file:
            body = os.pread(file.fileno(), place.length, place.offset + _HEAD.size)
        return body if _crc(place.kind, body) == place.crc else None

    def fetch(self, after_seq: int, max_bytes: int, now_ms: int) -> Fetched:
        """See the contract."""
        found: list[Row] = []
        bad: list[int] = []
        taken = 0
        first = next(iter(self._rows), 0)
        try:
            for seq in range(max(after_seq + 1, first), self._last_seq + 1):
                place = self._rows.get(seq)
                if place is None:
                    continue
                if found and taken + place.size > max_bytes:
                    break
                body = self._body(place)
                if body is None:
                    bad.append(seq)
                    continue
                found.append(_row_of(body))
                taken += place.size
            dropped = self._put_aside(bad, now_ms) if bad else 0
        except OSError as error:
            raise store_error("read", self.place, error) from error
        return Fetched(found, self._totals, bad, (), dropped)

    def _put_aside(self, seqs: Sequence[int], now_ms: int) -> int:
        """Damaged rows become dead letters without content; dead letters dropped for them."""
        records = [
            _dead(self._last_id + n, now_ms, "unreadable", Row(seq, "", b"", (), self._rows[seq].messages, 0))
            for n, seq in enumerate(seqs, 1)
        ]
        self._append(b"".join(records) + _deletes(seqs))
        dead = self._dead_over_cap()
        end = _record(_KIND_EXHUME, b"".join(map(_NUMBER.pack, dead))) if dead else b""
        self._append(end + _commit(self._last_seq, self._running_ms))
        return len(dead)

    def dead_letters(self, after_id: int, max_bytes: int) -> list[DeadLetter]:
        """See the contract. Damaged ones are left out."""
        found: list[DeadLetter] = []
        taken = 0
        try:
            for number, place in self._dead.items():
                if number <= after_id:
                    continue
                if found and taken + place.size > max_bytes:
                    break
                body = self._body(place)
                if body is not None:
                    found.append(_letter_of(body))
                    taken += place.size
        except OSError as error:
            raise store_error("read", self.place, error) from error
        return found


def _is_segment(name: str) -> bool:
    return name.startswith("tbgw-") and name.endswith(".log") and name[5:-4].isdecimal()


def _crc(kind: int, body: bytes) -> int:
    return zlib.crc32(body, kind)


def _record(kind: int, body: bytes) -> bytes:
    return _HEAD.pack(_MAGIC, len(body), _crc(kind, body), kind) + body


def _record_at(content: bytes, position: int) -> tuple[int, bytes] | None:
    """(kind, body) of the record there; None when there is no whole one."""
    if position + _HEAD.size > len(content):
        return None
    magic, length, crc, kind = _HEAD.unpack_from(content, position)
    start = position + _HEAD.size
    if magic != _MAGIC or length > MAX_RECORD_BYTES or start + length > len(content):
        return None
    body = content[start : start + length]
    return (kind, body) if crc == _crc(kind, body) else None


def _records(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(kind, offset, body) of records that were just made."""
    position = 0
    while position < len(data):
        _, length, _, kind = _HEAD.unpack_from(data, position)
        start = position + _HEAD.size
        yield kind, position, data[start : start + length]
        position = start + length


def _commit(last_seq: int, running_ms: int) -> bytes:
    return _record(_KIND_COMMIT, _COMMIT.pack(last_seq, running_ms))


def _deletes(seqs: Sequence[int]) -> bytes:
    """One record for all of these, as ranges; nothing for none."""
    ranges: list[list[int]] = []
    for seq in sorted(set(seqs)):
        if ranges and seq == ranges[-1][1] + 1:
            ranges[-1][1] = seq
        else:
            ranges.append([seq, seq])
    return _record(_KIND_DELETE, b"".join(_PAIR.pack(*pair) for pair in ranges)) if ranges else b""


def _row_body(row: Row, running_ms: int) -> bytes:
    topic, devices = row.topic.encode(), json.dumps(row.devices).encode("ascii")
    head = _ROW.pack(row.seq, running_ms, row.messages, row.points, len(topic), len(devices))
    return b"".join((head, topic, devices, row.payload))


def _row(row: Row, running_ms: int) -> bytes:
    return _record(_KIND_ROW, _row_body(row, running_ms))


def _row_of(body: bytes) -> Row:
    seq, _, messages, points, topic, devices = _ROW.unpack_from(body)
    first = _ROW.size + topic
    names = tuple(json.loads(body[first : first + devices]))
    return Row(seq, body[_ROW.size : first].decode(), body[first + devices :], names, messages, points)


def _dead(number: int, buried_ms: int, reason: str, row: Row) -> bytes:
    word = reason.encode()
    return _record(_KIND_DEAD, _DEAD.pack(number, buried_ms, len(word)) + word + _row_body(row, 0))


def _letter_of(body: bytes) -> DeadLetter:
    number, buried_ms, length = _DEAD.unpack_from(body)
    start = _DEAD.size + length
    return DeadLetter(number, buried_ms, body[_DEAD.size : start].decode(), _row_of(body[start:]))
