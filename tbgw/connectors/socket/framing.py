# -*- test-case-name: tests.connectors.socket.test_framing -*-
"""Where one message ends and the next begins in a TCP stream. Pure: bytes in, messages out.

`WholeReads` is what the reference does: one read is one message, whatever TCP made of the device's writes (S-04); it
stays the default because existing devices rely on it. The others cut at a byte sequence, after a fixed length, by a
length that the message says of itself, between two marks, or at a silence.

A framer has three results, and none is an exception: messages, nothing yet, or a message above the cap, which is
dropped, counted in `dropped` and does not disturb its neighbours: the stream is taken up again behind it, wherever its
end can be told. Where it cannot (a length that contradicts itself) the framer is `lost`, and the connection has to end.
The result does not depend on how the stream was cut into reads, `WholeReads` excepted, and `Silent` by its nature. What
is held back never grows beyond the cap and one delimiter, mark or prefix. Bytes are searched once, also when they come
one at a time.

Dropped: one class with many switches; each framing is a class of its own with the members of `Framer`, so that the
frequent ones stay as short as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Framing:
    """How messages are told apart in a stream, as configured. Which fields have a meaning depends on `type`."""

    type: Literal["none", "delimiter", "fixed", "length", "markers", "gap"] = "none"
    delimiter: bytes = b"\n"
    length_bytes: int = 1
    """`fixed`: bytes of each message."""
    prefix_offset: int = 0
    """`length`: bytes before the length field; they belong to the message."""
    prefix_bytes: int = 2
    prefix_order: Literal["big", "little"] = "big"
    prefix_counts: Literal["rest", "field", "all"] = "rest"
    """`length`: whether the number counts what comes behind the field, the field too, or the whole message."""
    prefix_adds: int = 0
    """`length`: added to the number, for protocols with a trailer that it does not count."""
    keep_prefix: bool = False
    """`length`: whether the field, and what is before it, are part of the message that is handed on."""
    start: bytes = b""
    end: bytes = b"\n"
    keep_marks: bool = False
    """`markers`: whether they are part of the message."""
    gap_ms: int = 50
    on_overflow: Literal["resynchronise", "close"] = "resynchronise"
    """What becomes of a connection whose message is above the cap."""


class Framer(Protocol):
    """The state of one connection's stream."""

    dropped: int
    """Messages dropped for their length since somebody last set this to 0."""
    lost: bool
    """Whether nobody can tell any more where a message begins; nothing comes out from then on."""

    @property
    def held(self) -> int:
        """Bytes that are held back: what belongs to a message that is not complete."""

    def feed(self, data: bytes) -> Sequence[bytes]:
        """The messages that are complete with these bytes, in order; often none."""

    def finish(self) -> Sequence[bytes]:
        """The stream has ended in good order: what is left and counts as a message. Nothing is fed afterwards."""


class WholeReads:
    """Each read is one message."""

    __slots__ = ("_max_message_bytes", "dropped", "lost")
    held = 0

    def __init__(self, max_message_bytes: int) -> None:
        self.dropped = 0
        self.lost = False
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

    __slots__ = ("_delimiter", "_max_message_bytes", "_pending", "_skipping", "dropped", "lost")

    def __init__(self, delimiter: bytes, max_message_bytes: int) -> None:
        """`delimiter`: not empty. `max_message_bytes`: the longest message, without its delimiter."""
        if not delimiter:
            raise ValueError("the delimiter must have at least one byte")
        self.dropped = 0
        self.lost = False
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

    @property
    def held(self) -> int:
        """See `Framer`."""
        return 0 if self._skipping else len(self._pending)

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


class FixedLength:
    """Messages that all have the same number of bytes. What is short of one at the end is no message."""

    __slots__ = ("_length", "_pending", "dropped", "lost")

    def __init__(self, length_bytes: int) -> None:
        if length_bytes < 1:
            raise ValueError("a message has at least one byte")
        self.dropped = 0
        self.lost = False
        self._length = length_bytes
        self._pending = b""

    @property
    def held(self) -> int:
        """See `Framer`."""
        return len(self._pending)

    def feed(self, data: bytes) -> Sequence[bytes]:
        """See `Framer`."""
        data = self._pending + data
        length = self._length
        end = len(data) - len(data) % length
        self._pending = data[end:]
        return [data[at : at + length] for at in range(0, end, length)]

    def finish(self) -> Sequence[bytes]:
        """See `Framer`."""
        return ()


class LengthPrefixed:
    """
    Messages that say how long they are. One that is above the cap is passed over by its own length, so the stream goes
    on behind it. A number that is smaller than what it has to count leaves nothing to go by: the stream is lost.
    """

    __slots__ = (
        *("_adds", "_head", "_keep", "_max_message_bytes", "_offset"),
        *("_order", "_pending", "_skip", "dropped", "lost"),
    )

    def __init__(self, framing: Framing, max_message_bytes: int) -> None:
        self.dropped = 0
        self.lost = False
        self._offset = framing.prefix_offset
        self._head = framing.prefix_offset + framing.prefix_bytes
        counted = {"rest": self._head, "field": self._offset, "all": 0}[framing.prefix_counts]
        self._adds = counted + framing.prefix_adds
        """Added to the number: the length of the whole message."""
        self._order: Literal["big", "little"] = framing.prefix_order
        self._keep = framing.keep_prefix
        self._max_message_bytes = max_message_bytes
        self._pending = bytearray()
        self._skip = 0
        """Bytes still to come of a message that is passed over."""

    @property
    def held(self) -> int:
        """See `Framer`."""
        return len(self._pending)

    def feed(self, data: bytes) -> Sequence[bytes]:
        """See `Framer`."""
        if self.lost:
            return ()
        pending = self._pending
        if self._skip:
            passed = min(self._skip, len(data))
            self._skip -= passed
            data = data[passed:]
        pending += data
        messages: list[bytes] = []
        at = 0
        head = self._head
        while len(pending) - at >= head:
            whole = int.from_bytes(pending[at + self._offset : at + head], self._order) + self._adds
            if whole < head:
                self.lost = True
                self.dropped += 1
                pending.clear()
                return messages
            body = whole if self._keep else whole - head
            if body > self._max_message_bytes:
                self.dropped += 1
                here = min(whole, len(pending) - at)
                self._skip = whole - here
                at += here
                if self._skip:
                    break
                continue
            if len(pending) - at < whole:
                break
            if body:
                messages.append(bytes(pending[at + whole - body : at + whole]))
            at += whole
        del pending[:at]
        return messages

    def finish(self) -> Sequence[bytes]:
        """See `Framer`: what says its length is complete or is nothing."""
        return ()


class Marked:
    """
    Messages between a start mark and an end mark. Bytes outside are noise and passed over. A further start within a
    message begins it anew: what came before was cut off on the way, and is dropped. Without a start mark every message
    begins where the one before ended; so it does, after the first, when both marks are the same.
    """

    __slots__ = (
        *("_always_inside", "_end", "_inside", "_keep", "_max_message_bytes"),
        *("_pending", "_searched", "_skipping", "_start", "dropped", "lost"),
    )

    def __init__(self, framing: Framing, max_message_bytes: int) -> None:
        if not framing.end:
            raise ValueError("the end mark must have at least one byte")
        self.dropped = 0
        self.lost = False
        self._start = framing.start
        self._end = framing.end
        self._keep = framing.keep_marks
        self._max_message_bytes = max_message_bytes
        self._pending = bytearray()
        self._inside = not framing.start
        self._always_inside = framing.start in (b"", framing.end)
        self._skipping = False
        """Within a message that is too long, of which only the end is looked for."""
        self._searched = 0
        """Up to here `_pending` is known to hold neither mark."""

    @property
    def held(self) -> int:
        """See `Framer`."""
        return len(self._pending) if self._inside and not self._skipping else 0

    def feed(self, data: bytes) -> Sequence[bytes]:
        """See `Framer`."""
        self._pending += data
        messages: list[bytes] = []
        while self._step(messages):
            pass
        return messages

    def finish(self) -> Sequence[bytes]:
        """See `Framer`: a message without its end is none."""
        return ()

    def _step(self, messages: list[bytes]) -> bool:
        """Up to the next mark. False when there is none yet."""
        pending, start, end = self._pending, self._start, self._end
        if not self._inside:
            at = pending.find(start, self._searched)
            if at < 0:
                del pending[: max(0, len(pending) - len(start) + 1)]  # the last bytes may be the beginning of one
                return False
            del pending[: at + len(start)]
            self._inside, self._searched = True, 0
        at = pending.find(end, self._searched)
        if not self._always_inside:
            again = pending.find(start, self._searched)
            # A start counts when no end can begin before it, also none that is not complete yet.
            if again >= 0 and (again < at if at >= 0 else again + len(end) - 1 <= len(pending)):
                self.dropped += 1
                del pending[: again + len(start)]
                self._searched = 0
                return True
        if at < 0:
            self._hold_back()
            return False
        body = bytes(pending[:at])
        del pending[: at + len(end)]
        self._searched = 0
        self._inside = self._always_inside
        if self._skipping:
            self._skipping = False
        elif len(body) > self._max_message_bytes:
            self.dropped += 1
        elif self._keep:
            messages.append(start + body + end)
        elif body:
            messages.append(body)
        return True

    def _hold_back(self) -> None:
        """Decide about the incomplete message: too long now, or within the cap still."""
        pending = self._pending
        undecided = max(len(self._end), len(self._start)) - 1
        self._searched = max(0, len(pending) - undecided)
        if not self._skipping and len(pending) - undecided > self._max_message_bytes:
            self.dropped += 1
            self._skipping = self._always_inside
            self._inside = self._always_inside
        if self._skipping or not self._inside:
            del pending[: max(0, len(pending) - undecided)]
            self._searched = 0


class Silent:
    """
    Messages that end with a silence. The framer itself knows no time: `gap` is called when there was one. A message
    that is too long is dropped whole, up to the next silence.
    """

    __slots__ = ("_max_message_bytes", "_pending", "_skipping", "dropped", "lost")

    def __init__(self, max_message_bytes: int) -> None:
        self.dropped = 0
        self.lost = False
        self._max_message_bytes = max_message_bytes
        self._pending = bytearray()
        self._skipping = False

    @property
    def held(self) -> int:
        """See `Framer`."""
        return len(self._pending)

    def feed(self, data: bytes) -> Sequence[bytes]:
        """See `Framer`: nothing is complete before the silence."""
        if not self._skipping:
            self._pending += data
            if len(self._pending) > self._max_message_bytes:
                self._pending.clear()
                self._skipping = True
                self.dropped += 1
        return ()

    def gap(self) -> Sequence[bytes]:
        """There was a silence: what came before it."""
        self._skipping = False
        return self.finish()

    def finish(self) -> Sequence[bytes]:
        """See `Framer`."""
        rest = bytes(self._pending)
        self._pending.clear()
        return (rest,) if rest else ()


def framer_maker(framing: Framing, max_message_bytes: int) -> Callable[[], Framer]:
    """What makes the framer of a new connection."""
    match framing.type:
        case "none":
            return lambda: WholeReads(max_message_bytes)
        case "delimiter":
            delimiter = framing.delimiter
            return lambda: Delimited(delimiter, max_message_bytes)
        case "fixed":
            length_bytes = framing.length_bytes
            return lambda: FixedLength(length_bytes)
        case "length":
            return lambda: LengthPrefixed(framing, max_message_bytes)
        case "markers":
            return lambda: Marked(framing, max_message_bytes)
        case "gap":
            return lambda: Silent(max_message_bytes)
