"""What the library has to tell besides its results: one short value, for the user's log and counters."""

from __future__ import annotations

from typing import NamedTuple


class Notice(NamedTuple):
    """Something worth a line or a counter. Any peer can cause most of them, so lines must be limited in rate."""

    kind: str
    """
    Of the way in: openings_full, slow_opening, refused (by `admit`), storm (503), bad_request, no_subprotocol.
    Of a connection: replaced, unresponsive, not_reading, too_many_faults, protocol_error (the WebSocket's).
    Of a message: bad_message, payload_invalid (strict mode refused it), duplicate, late_result, unknown_result,
    result_error, answer_invalid (ours broke its schema: a bug).
    """
    path: str
    """The charge point's, empty while it is unknown."""
    peer: str
    """Its address."""
    text: str
    """In words; may repeat a name that the peer wrote."""
