"""What may outlive a connection: the publishes of ours that were not acknowledged, with their packet ids, and the ids
of the QoS 2 messages that we took and whose PUBREL did not come.

A `Session` that its owner makes and gives to one connection after another (a client in the constructor, a server in
`accept`) carries both across a loss (see `connection` and `exchanges`). Without one, a connection has a session of its
own that dies with it. Its size is bounded by the in-flight window and by the 65,535 packet ids of the peer. It belongs
to one live connection at a time.
"""

from __future__ import annotations

from typing import Any, Final

from tbgw.mqtt.errors import LocalProtocolError
from tbgw.mqtt.packets import Publish
from tbgw.mqtt.state import Delivery

_LAST_PACKET_ID: Final = 65535


class InFlight:
    """One publish of ours that the peer has not fully acknowledged."""

    __slots__ = ("context", "publish", "reason_code", "waits_for")

    def __init__(self, waits_for: Delivery, context: Any, publish: Publish | None) -> None:
        self.waits_for = waits_for
        self.context = context
        # Kept for sending again; None when the session dies with its connection, and after PUBREC.
        self.publish = publish
        self.reason_code = 0  # of the PUBREC, told when PUBCOMP came


class Session:
    """In-flight publishes in the order of their sending, by packet id; and received QoS 2 messages."""

    def __init__(self) -> None:
        self.inflight: dict[int, InFlight] = {}
        # Packet ids of the peer's QoS 2 messages: whether our PUBREC was said.
        self.received: dict[int, bool] = {}
        self._last_packet_id = 0
        self._attached = False

    def __len__(self) -> int:
        return len(self.inflight)

    def attach(self) -> None:
        """A connection takes the session. Raises LocalProtocolError when another has it."""
        if self._attached:
            raise LocalProtocolError("the session belongs to a live connection")
        self._attached = True

    def detach(self) -> None:
        """The connection is gone. A message that nobody took over until now is taken as new when it comes again."""
        self._attached = False
        for packet_id in [packet_id for packet_id, taken in self.received.items() if not taken]:
            del self.received[packet_id]

    def abandon(self) -> list[Any]:
        """Forget everything; returns the contexts of what will not be acknowledged any more, in order."""
        contexts = [entry.context for entry in self.inflight.values()]
        self.inflight.clear()
        self.received.clear()
        return contexts

    def next_packet_id(self, taken: dict[int, Any]) -> int:
        """
        An id that is in flight neither here nor in `taken`. Ids go round instead of being given out again at once,
        so that a late acknowledgement meets nobody. There is always one free: window and `taken` are capped.
        """
        packet_id = self._last_packet_id
        while True:
            packet_id = 1 if packet_id == _LAST_PACKET_ID else packet_id + 1
            if packet_id not in self.inflight and packet_id not in taken:
                self._last_packet_id = packet_id
                return packet_id
