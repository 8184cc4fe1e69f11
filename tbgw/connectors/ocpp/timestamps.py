# -*- test-case-name: tests.connectors.ocpp.test_timestamps -*-
"""Times as charge points write them, as ms since the epoch. Pure.

`Z`, `+02:00`, `+0200`, `+02`, a blank for the `T`, seven digits of a fraction and the basic form all occur in the
field; so do times without a zone, the year 1, and 1970 before the clock was set. What cannot be true is not taken for
a time: before 2000, or more than a day ahead of us.
"""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import Any

EARLIEST_MS = 946_684_800_000
"""2000-01-01: before that a clock was not set."""
LATEST_AHEAD_MS = 24 * 3600 * 1000
"""So far may a clock go fast, which is as much as a wrong zone makes."""
MAX_CHARACTERS = 64

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_timestamp(text: Any, zone: tzinfo = UTC) -> int | None:
    """ms since the epoch, possibly below 0; None for what is no time. Without a zone of its own it is in `zone`."""
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone)
        since = moment - _EPOCH
    except (ValueError, OverflowError):
        stripped = text.strip()
        return parse_timestamp(stripped, zone) if stripped != text else None
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def believable(text: Any, now_ms: int, zone: tzinfo = UTC) -> int | None:
    """As `parse_timestamp`; None too for a time that cannot be true."""
    found = parse_timestamp(text, zone)
    return found if found is not None and EARLIEST_MS <= found <= now_ms + LATEST_AHEAD_MS else None


def format_timestamp(time_ms: int) -> str:
    """UTC with `Z` and milliseconds, as every version wants it."""
    moment = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"
