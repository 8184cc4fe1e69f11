# -*- test-case-name: tests.pipeline.test_forwarder -*-
"""A stored row as payloads in which it can be sent, under limits that may be smaller than those of its day. Pure."""

from __future__ import annotations

from collections import deque

from tbgw.model import Row
from tbgw.pipeline.examination import TOO_LARGE, UNREADABLE
from tbgw.thingsboard import payloads, topics
from tbgw.thingsboard.payloads import Piece

_SPLIT = {topics.TELEMETRY: payloads.split_telemetry, topics.ATTRIBUTES: payloads.split_attributes}
"""What can be cut into parts, and how."""


class Uncuttable(Exception):  # noqa: N818 - says what is
    """The row cannot be sent at all. The text says why; `reason` is the word for it in the dead letters."""

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(why)
        self.reason = reason


def cut(row: Row, limit_bytes: int, max_devices: int, max_points: int) -> deque[Piece]:
    """The row's payload, or several that keep these limits. Raises Uncuttable."""
    split = _SPLIT.get(row.topic)
    if split is None or (
        len(row.payload) <= limit_bytes and len(row.devices) <= max_devices and row.points <= max_points
    ):
        return deque((Piece(row.payload, len(row.devices), row.points),))
    try:
        pieces = split(row.payload, limit_bytes, max_devices, max_points)
    except ValueError as error:
        raise Uncuttable(UNREADABLE, str(error)) from None
    longest = max([len(piece.payload) for piece in pieces], default=0)
    if pieces and longest <= limit_bytes:
        return deque(pieces)
    # Rare twice over: a single value that fitted under the limit of its time and does not fit now.
    why = f"a value in it makes {longest} bytes, and {limit_bytes} is the limit" if pieces else "it is empty"
    raise Uncuttable(TOO_LARGE, why)


def named(row: Row) -> str:
    """The row's devices, for a log line: the first few, and how many more."""
    shown = ", ".join(repr(name) for name in row.devices[:3])
    return f"{shown} and {len(row.devices) - 3} more" if len(row.devices) > 3 else shown
