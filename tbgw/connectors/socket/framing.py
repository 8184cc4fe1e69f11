# -*- test-case-name: tests.connectors.socket.test_framing -*-
"""Where one message ends and the next begins in a TCP stream. Pure: bytes in, messages out.

Two framings. `WholeReads` is what the reference does: one read is one message, whatever TCP made of the device's
writes (S-04); it stays the default because existing devices rely on it. `Delimited` cuts at a byte sequence.

A framer has three results, and none is an exception: messages, nothing yet, or a message above the cap, which is
dropped, counted in `dropped` and does not disturb its neighbours: the stream is taken up again behind the next
delimiter. The result does not depend on how the stream was cut into reads, `WholeReads` excepted. What is held
back never grows beyond the cap and one delimiter. Bytes are searched once, also when they come one at a time.

A further framing (length prefix, fixed length, idle time) is another class with the three members of `Framer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class Framer(Protocol):
    """The state of one connection's stream."""

    dropped: int
    """Messages dropped for their length since somebody last set this to 0."""

    def feed(self, data: bytes) -> Sequence[bytes]:
        """The messages that are complete with these bytes, in order; often none."""

    def finish(self) -> Sequence[bytes]:
        """The stream has ended in good order: what is left and counts as a message. Nothing is fed afterwards."""


class WholeReads:
    """Each read is one message."""

    def __init__(self, max_message_bytes: int) -> None:
        self.dropped = 0
        self._max_message_bytes = max_message_bytes

    def feed(self, data: bytes) -> Sequence[bytes]:
        """See `Framer`. The transport reads no more than the cap at once, so dropping is the exception."""
        if len(data) > self._max_message_bytes:
            self.dropped += 1
            return ()
        return (data,)

    def finish(self) -> Sequence[bytes]:
        """See `Framer`: nothing is ever left."""
        return ()


class Delimited:
    """
    Messages that end with a delimiter, which is not part of them. Empty ones (two delimiters in a row, a blank
    line) are no messages. What stands behind the last delimiter when the peer closes in good order is a message:
    the close ended it.
    """

    def __init__(self, delimiter: bytes, max_message_bytes: int) -> None:
        """`delimiter`: not empty. `max_message_bytes`: the longest message, without its delimiter."""
        if not delimiter:
            raise ValueError("the delimiter must have at least one byte")
        self.dropped = 0
        self._delimiter = delimiter
        self._max_message_bytes = max_message_bytes
        self._pending = bytearray()
        """The message so far. While skipping: only what may be the beginning of a delimiter."""
        self._skipping = False
        """Whether the message that is coming in is too long already."""

    def feed(self, data: bytes) -> Sequence[bytes]:
        """See `Framer`."""
        pending = self._pending
        if pending or self._skipping:
            search_from = max(0, len(pending) - len(self._delimiter) + 1)
            pending += data
            if pending.find(self._delimiter, search_from) < 0:
                self._hold_back()
                return ()
            data = bytes(pending)
            pending.clear()
        messages = data.split(self._delimiter)
        pending += messages.pop()
        if self._skipping and messages:
            del messages[0]
            self._skipping = False
        if len(data) > self._max_message_bytes:
            fitting = [message for message in messages if len(message) <= self._max_message_bytes]
            self.dropped += len(messages) - len(fitting)
            messages = fitting
            self._hold_back()
        if b"" in messages:
            return [message for message in messages if message]
        return messages

    def finish(self) -> Sequence[bytes]:
        """See `Framer`."""
        rest = bytes(self._pending)
        self._pending.clear()
        if self._skipping or not rest:
            return ()
        if len(rest) > self._max_message_bytes:
            self.dropped += 1
            return ()
        return (rest,)

    def _hold_back(self) -> None:
        """Decide about the incomplete message: too long now, or within the cap still."""
        pending = self._pending
        # The last bytes may be the beginning of a delimiter, so they do not count as message yet.
        undecided = len(self._delimiter) - 1
        if not self._skipping and len(pending) - undecided > self._max_message_bytes:
            self._skipping = True
            self.dropped += 1
        if self._skipping:
            del pending[: max(0, len(pending) - undecided)]


def framer_maker(delimiter: bytes | None, max_message_bytes: int) -> Callable[[], Framer]:
    """What makes the framer of a new connection. `delimiter` None: `WholeReads`."""
    if delimiter is None:
        return lambda: WholeReads(max_message_bytes)
    return lambda: Delimited(delimiter, max_message_bytes)
