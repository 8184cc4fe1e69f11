"""Columns of the SQLite store as values, and what guards them: a CRC for each row, each mark and the sums. Pure."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from tbgw.model import Row
from tbgw.spool.contract import Totals


def row_crc(seq: int, topic: bytes, devices: bytes, messages: int, points: int, size: int, payload: bytes) -> int:
    head = b"%d %b %b %d %d %d" % (seq, topic, devices, messages, points, size)
    return zlib.crc32(payload, zlib.crc32(head))


def row_from(columns: tuple[Any, ...]) -> Row | None:
    """The row, or None when its content is not what was written."""
    seq, topic, devices, messages, points, size, crc, payload = columns
    try:
        if crc != row_crc(seq, topic, devices, messages, points, size, payload):
            return None
        names = json.loads(devices)
        return Row(seq, topic.decode(), payload, tuple(names), messages, points)
    except (TypeError, ValueError, AttributeError):  # damage changes types as well as values
        return None


def row_as_found(seq: Any, topic: Any, devices: Any, messages: Any, points: Any, payload: Any) -> Row:
    """A dead letter's row, with something harmless where damage left nothing of the right type."""
    try:
        names = tuple(map(str, json.loads(devices)))
    except (TypeError, ValueError):
        names = ()
    content = payload if isinstance(payload, bytes) else b""
    return Row(as_count(seq), as_text(topic), content, names, as_count(messages), as_count(points))


def as_text(value: object) -> str:
    """A column that should hold text, which comes as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def sound_totals(totals: Totals) -> Totals:
    """The sums without what damaged rows may have done to them: nothing negative, and no rows means nothing."""
    last_seq, rows, messages, size, dead_rows, dead_bytes = totals
    if rows <= 0:
        rows = messages = size = 0
    if dead_rows <= 0:
        dead_rows = dead_bytes = 0
    return Totals(last_seq, rows, max(messages, 0), max(size, 0), dead_rows, max(dead_bytes, 0))


def as_count(value: object) -> int:
    """A column that should hold a count; 0 when damage made something else of it."""
    return value if isinstance(value, int) and value > 0 else 0


def runs_of(seqs: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(first, last) of the runs in `seqs`, ascending."""
    first = last = None
    for seq in sorted(set(seqs)):
        if first is None or last is None:
            first = last = seq
        elif seq == last + 1:
            last = seq
        else:
            yield first, last
            first = last = seq
    if first is not None and last is not None:
        yield first, last


def meta_crc(totals: Totals, running_ms: int) -> int:
    return zlib.crc32(b"%d %d %d %d %d %d %d" % (*totals, running_ms))


def mark_crc(seq: int, running_ms: int) -> int:
    return zlib.crc32(b"%d %d" % (seq, running_ms))
