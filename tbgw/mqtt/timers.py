"""When a connection wants to be woken: the deadlines of its handshake and its end, and keep alive.

Plain numbers on one object; `connection` decides what happens when a moment has come. `due` may move to later at any
call, so a timer that was armed earlier does no harm.
"""

from __future__ import annotations


class Timers:
    """Written by the connection at every packet, so these are attributes and nothing more."""

    __slots__ = ("deadline", "is_server", "keep_alive_seconds", "last_received", "last_sent", "ping_deadline")

    def __init__(self, *, is_server: bool) -> None:
        self.is_server = is_server
        self.deadline: float | None = None  # of the handshake or of closing
        self.keep_alive_seconds = 0.0  # 0: off; at a server with its grace
        self.last_sent = 0.0
        self.last_received = 0.0
        self.ping_deadline: float | None = None  # of the answer to a PINGREQ

    def due(self, *, connected: bool) -> float | None:
        """The next moment, or None. While connected it is keep alive's, otherwise the deadline."""
        if not connected:
            return self.deadline
        if not self.keep_alive_seconds:
            return None
        if self.is_server:
            return self.last_received + self.keep_alive_seconds
        if self.ping_deadline is not None:
            return self.ping_deadline
        return min(self.last_sent, self.last_received) + self.keep_alive_seconds
