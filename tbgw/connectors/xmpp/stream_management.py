# -*- test-case-name: tests.connectors.xmpp.test_stream_management -*-
"""XEP-0198 without any I/O: what of a session each side has, so that a cut loses nothing.

`h`, the count we tell the server, rises only over stanzas that were *stored*, in the order in which they came: the
third does not count before the second, whatever the store does. What is not counted the server keeps, and sends again
when the session is resumed; what was stored in the meantime comes twice then, which the platform can bear, and a loss
it could not. A resumption begins a new epoch: late news of stanzas from before it are ignored, since they come again.

In the other direction each stanza is kept, as the bytes that were written, until the server counts it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from twisted.words.xish.domish import Element

NS = "urn:xmpp:sm:3"
_MODULUS = 1 << 32


class CountBroken(Exception):  # noqa: N818 - says what is
    """The server counted more stanzas than were sent, or fewer than it had counted before."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A stanza on its way."""

    kind: str
    """`message`, `presence` or `iq`."""
    data: bytes
    at_seconds: float


class StreamManagement:
    """The counters of one session, across its resumptions."""

    def __init__(self, max_unconfirmed: int, max_unconfirmed_bytes: int = 1 << 24) -> None:
        """At most so many stanzas, and bytes, of ours are kept for the server to count."""
        self._max_unconfirmed = max_unconfirmed
        self._max_unconfirmed_bytes = max_unconfirmed_bytes
        self._unconfirmed_bytes = 0
        self.resume_id = ""
        """What resumes the session; empty: it cannot be resumed."""
        self.epoch = 0
        self.unconfirmed: deque[Sent] = deque()
        self._confirmed = 0
        self._received = 0
        self._handled = 0
        self._early: set[int] = set()
        """Numbers above `_handled + 1` that are stored already."""
        self.told = 0
        """The `h` that the server knows of."""
        self.is_asked = False
        """Whether the server asked and has not been told everything yet."""

    # What comes.

    def received(self) -> int:
        """A stanza came: its number."""
        self._received += 1
        return self._received

    def handled(self, number: int, epoch: int) -> None:
        """It is stored, or nothing of it has to be."""
        if epoch != self.epoch:
            return
        if number != self._handled + 1:
            self._early.add(number)
            return
        self._handled = number
        while self._early and self._handled + 1 in self._early:
            self._handled += 1
            self._early.remove(self._handled)

    @property
    def pending(self) -> int:
        """Stanzas that came and are not yet counted."""
        return self._received - self._handled

    @property
    def untold(self) -> int:
        """Stanzas that are counted and of which the server does not know yet."""
        return self._handled - self.told

    def answer(self) -> Element:
        """`<a h=>`, with everything that is counted now."""
        self.told = self._handled
        self.is_asked = self.pending > 0
        element = Element((NS, "a"))
        element["h"] = str(self._handled % _MODULUS)
        return element

    # What goes.

    def is_full(self, kind: str) -> bool:
        """
        Whether no more of this kind may be sent until the server counts. For all but messages there is an eighth more:
        on a session that begins with as many messages as there may be, being sent again, roster and presence must go
        out, too, or the server would give us nothing more.
        """
        eighths = 8 if kind == "message" else 9
        return (
            len(self.unconfirmed) * 8 >= self._max_unconfirmed * eighths
            or self._unconfirmed_bytes * 8 >= self._max_unconfirmed_bytes * eighths
        )

    def sent(self, kind: str, data: bytes, at_seconds: float) -> None:
        """A stanza is being written."""
        self.unconfirmed.append(Sent(kind, data, at_seconds))
        self._unconfirmed_bytes += len(data)

    def confirmed(self, h_text: str | None) -> int:
        """The server has counted up to `h`: how many stanzas are let go. Raises CountBroken."""
        if h_text is None or not (h_text.isascii() and h_text.isdigit() and len(h_text) <= 10):
            raise CountBroken("the server's count is no number")
        new = (int(h_text) - self._confirmed) % _MODULUS
        if new > len(self.unconfirmed):
            raise CountBroken(
                f"the server counts {h_text} stanzas where {self._confirmed + len(self.unconfirmed)} were sent"
            )
        for _ in range(new):
            self._unconfirmed_bytes -= len(self.unconfirmed.popleft().data)
        self._confirmed = (self._confirmed + new) % _MODULUS
        return new

    # The session as a whole.

    def enable(self, resume_seconds: int) -> Element:
        """`<enable/>`; what is sent behind it counts."""
        element = Element((NS, "enable"))
        if resume_seconds:
            element["resume"] = "true"
            element["max"] = str(resume_seconds)
        return element

    def enabled(self, element: Element) -> None:
        """The server's `<enabled/>`: what comes behind it counts."""
        wanted = element.getAttribute("resume") in ("true", "1")
        self.resume_id = element.getAttribute("id") or "" if wanted else ""

    def resume(self) -> Element:
        """`<resume/>` with what is counted now."""
        element = Element((NS, "resume"))
        element["previd"] = self.resume_id
        element["h"] = str(self._handled % _MODULUS)
        return element

    def resumed(self, element: Element) -> list[Sent]:
        """The server's `<resumed/>`: what has to be sent again. Raises CountBroken."""
        self.confirmed(element.getAttribute("h"))
        self.epoch += 1
        self._received = self.told = self._handled
        self._early.clear()
        self.is_asked = False
        return list(self.unconfirmed)
