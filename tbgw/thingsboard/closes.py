"""What the end of a session may say, for those who ask whether something that they sent is to blame."""

from __future__ import annotations

HARMLESS_CLOSES = frozenset({0x00, 0x89, 0x8D, 0x8E, 0x96, 0x97, 0x98})
"""Reason codes of a DISCONNECT that speak of other things than the payload: server busy, keep alive, taken over by
another session, rates and quota, administrative action. 0x8B (server shutting down) is not among them, because
ThingsBoard says it for what it cannot convert, too (spec thingsboard-mqtt, fact 9)."""
