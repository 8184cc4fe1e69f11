# -*- test-case-name: tests.pipeline.test_grace -*-
"""What is acknowledged, and may have been refused all the same. Pure: `now` is an argument.

On MQTT 3.1.1 ThingsBoard from 4.2.1 on acknowledges a gateway's payload that it refuses (a rate limit was met, or its
core failed), and closes the connection right behind the PUBACK (spec thingsboard-mqtt, 3.9). So a PUBACK means
"stored" only once it is known that no close belongs to it. That is known

- by an event: something that was published after this PUBACK had come is acknowledged. The server, which writes PUBACK
  and close in one go, answers nothing behind them. Under load that takes one round trip;
- by the clock, when nothing else is sent: the session has lived for `GRACE_SECONDS` after it.

What is in its grace when the session ends goes again. On MQTT 5, where refusals have a code, nothing has a grace.

Considered and dropped: to count by the clock alone (at full speed that would be megabytes, or would brake); to send a
probe behind the last row instead of waiting (it costs what the limit counts, and its own PUBACK proves as little).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from tbgw.pipeline.inflight import Sent

GRACE_SECONDS = 2.0
"""PUBACK and close leave the server in the same moment, in one stream; it waits for 1 s at most before it closes (spec
thingsboard-mqtt, 1.8). The rest is for a FIN that has to be sent again: after 0.2, 0.6 and 1.4 s."""


ALONE_SECONDS = 0.5
"""How long after the PUBACK of a suspect, which goes alone, nothing else is sent, so that a close is laid at the right
door. It stays in its grace beyond that; so this is about the time that dozens of suspects take, and about no row."""


class Grace:
    """In the order in which they will be deleted: what has its PUBACK, and may still turn out to be refused."""

    def __init__(self) -> None:
        self.on = False
        """Whether a PUBACK of this session may stand for a refusal."""
        self.bytes = 0
        """Size of what waits here."""
        self.pubacks = 0
        """What was acknowledged so far."""
        self._waiting: deque[Sent] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def acknowledged(self, sent: Sent, now: float) -> None:
        """All PUBACKs for it have come."""
        self.pubacks += 1
        sent.puback, sent.puback_at = self.pubacks, now

    def add(self, sent: Sent) -> None:
        """Nothing but its grace is missing."""
        self._waiting.append(sent)
        self.bytes += len(sent.row.payload)

    def proven(self, by: Sent) -> Iterator[Sent]:
        """What is through because `by`, which was sent after its PUBACK, was acknowledged."""
        while self._waiting and self._waiting[0].puback <= by.published:
            yield self._pop()

    def over(self, now: float) -> Iterator[Sent]:
        """What is through because the session has lived on for long enough."""
        while self._waiting and self.seconds_left(now) <= 0.0:
            yield self._pop()

    def seconds_left(self, now: float) -> float:
        """How long until `over` or `unsure` may say something else, if anything is here."""
        if self.unsure(now, False):
            return self._waiting[-1].puback_at + ALONE_SECONDS - now
        left = self._waiting[0].puback_at + GRACE_SECONDS - now
        return left if left > 0.001 else 0.0  # less than that is rounding

    def unsure(self, now: float, in_parts: bool) -> bool:
        """Whether something that has to go alone must wait; `in_parts`: a row that is taken apart, or its parts."""
        return bool(self._waiting) and (in_parts or self._waiting[-1].puback_at + ALONE_SECONDS - now > 0.001)

    def lost(self) -> list[Sent]:
        """The session ended: what was in its grace. Nothing is left."""
        lost = list(self._waiting)
        self._waiting.clear()
        self.bytes = 0
        return lost

    def _pop(self) -> Sent:
        sent = self._waiting.popleft()
        self.bytes -= len(sent.row.payload)
        return sent
