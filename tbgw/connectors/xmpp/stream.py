# -*- test-case-name: tests.connectors.xmpp.test_stream -*-
"""The XML stream, bounded. Twisted's parser, but whatever the other side sends costs little and harms one stanza only.

* A stanza above a limit (bytes, elements, depth) is not built: what was built of it is let go, its rest is read past,
  and it is told to the session as oversized, with its attributes. The stream goes on. To cut it instead would bring the
  same stanza back with each resumption (XEP-0198), for ever.
* Beyond `HARD_LIMIT_FACTOR` times the limit it is cut after all: that is no stanza but an attack, and expat buffers a
  token that does not end.
* Text comes from expat in large pieces. Without that, 200,000 entities in a body were 200,000 concatenations: 1.8 s of
  CPU.
* Document types, comments and processing instructions, which XMPP forbids (RFC 6120, 11.1), end the stream; so no
  entity can be declared, and none can be blown up.
* Bytes that were already read when TLS or SASL begins the stream anew are dropped: nobody can put a clear-text
  stanza behind `<proceed/>`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol, cast

from twisted.internet.interfaces import ISSLTransport
from twisted.python.failure import Failure
from twisted.words.protocols.jabber import xmlstream
from twisted.words.xish import domish

from tbgw.connectors.xmpp.errors import StanzaNotSendable

HARD_LIMIT_FACTOR = 16

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 (2.2, Char) has no way to write."""


@dataclass(frozen=True)
class Limits:
    """What one inbound stanza may have."""

    stanza_bytes: int = 1 << 20
    """Bytes on the wire. Debian's servers allow 256 KiB."""
    elements: int = 10_000
    depth: int = 100
    """Elements within elements. `toXml` and the like recurse, and Python ends at a thousand frames."""


LOGIN_LIMITS = Limits(stanza_bytes=64 * 1024, elements=500, depth=20)
"""Before the login: stream features and challenges are small."""


class IStreamSession(Protocol):
    """Whom a stream tells what comes."""

    def element_received(self, element: domish.Element) -> None:
        """A stanza, or another child of the stream, after the login."""

    def oversized(self, element: domish.Element, why: str) -> None:
        """A child of the stream was above a limit. `element` has its name and attributes, and no children."""

    def stream_broken(self, why: str) -> None:
        """What came was no XML, not XMPP, or far too much. The stream aborts itself then."""

    def stanza_leaving(self, data: bytes, kind: str) -> None:
        """A stanza is about to be written. Raises what keeps it from being written."""

    def stanza_left(self) -> None:
        """It was written."""


class StreamError(Exception):
    """The server's `<stream:error/>`: RFC 6120, 4.9."""

    def __init__(self, condition: str, text: str) -> None:
        super().__init__(": ".join(filter(None, (condition, text))))
        self.condition = condition


def stream_error(element: domish.Element) -> StreamError:
    """What it says, bounded."""
    condition = text = ""
    for child in element.elements():
        if child.name == "text":
            text = str(child)[:300]
        elif not condition and child.uri == "urn:ietf:params:xml:ns:xmpp-streams":
            condition = child.name[:80]
    return StreamError(condition or "undefined-condition", text)


class BoundedElementStream(domish.ExpatElementStream):
    """See the module. One for each beginning of the stream."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits
        self.OversizedEvent: Any = None
        self.parser.buffer_text = True
        self.parser.buffer_size = 1 << 16
        for name in ("StartDoctypeDecl", "EntityDecl", "ProcessingInstruction", "Comment"):
            setattr(self.parser, f"{name}Handler", self._forbidden)
        self._depth = 0
        self._began = 0
        self._top: domish.Element | None = None
        self._over = ""
        """Why the present stanza is being read past; empty: it is not."""

    @property
    def maxStanzaSize(self) -> int:  # type: ignore[override] # Twisted's has it as a plain attribute
        """For Twisted's own check, which ends the stream."""
        return self.limits.stanza_bytes * HARD_LIMIT_FACTOR

    @property
    def maxElementCount(self) -> int:  # type: ignore[override] # as above
        """Ours comes first."""
        return self.limits.elements + 1

    def _forbidden(self, *args: Any) -> None:
        raise domish.ParserError("holds what XMPP does not allow: a document type, a comment or an instruction")

    def _skip(self, why: str) -> None:
        self._over = why
        if self._top is not None:
            self._top.children.clear()
        self.currElem = None

    def _too_long(self) -> bool:
        return bool(self.parser.CurrentByteIndex - self._began > self.limits.stanza_bytes)

    def _onStartElement(self, name: str, attrs: dict[str, str]) -> None:
        if not self.documentStarted:
            super()._onStartElement(name, attrs)
            return
        self._depth += 1
        if self._over:
            self.localPrefixes = {}
            return
        if self._depth == 1:
            self._began = self.parser.CurrentByteIndex
        elif self._depth > self.limits.depth:
            self._skip(f"has more than {self.limits.depth} elements within each other")
        elif self.elementCount >= self.limits.elements:
            self._skip(f"has more than {self.limits.elements} elements")
        elif self._too_long():
            self._skip(f"has more than {self.limits.stanza_bytes} bytes")
        if self._over:
            self.localPrefixes = {}
            return
        super()._onStartElement(name, attrs)
        if self._depth == 1:
            self._top = self.currElem

    def _onEndElement(self, name: str) -> None:
        if self._depth == 1 and not self._over and self._too_long():
            # Its last piece of text was beyond the limit.
            self._skip(f"has more than {self.limits.stanza_bytes} bytes")
        if self._depth:
            self._depth -= 1
        if not self._over:
            if self._depth:
                # Without the way back to its parent a stanza is no cycle, and goes when it is done with: left to the
                # collector of cycles, each costs several microseconds more, and the memory of thousands is held.
                ending: Any = self.currElem
                self.currElem, ending.parent = ending.parent, None
            else:
                self._top = None
                super()._onEndElement(name)
            return
        if not self._depth:
            top, why, self._top, self._over = self._top, self._over, None, ""
            self.elementCount = 0
            self.stanzaSize = 0
            self.OversizedEvent(top, why)

    def _onCdata(self, data: str) -> None:
        if self._over or self.currElem is None:
            return
        if self._too_long():
            self._skip(f"has more than {self.limits.stanza_bytes} bytes")
            return
        super()._onCdata(data)


class LinkStream(xmlstream.XmlStream):
    """
    One connection to the server. While the login runs, elements go to observers as Twisted's authenticators expect;
    from `ready` on they go to the session, without a search through XPath expressions.
    """

    transport: Any
    stream: Any
    authenticator: Any

    def __init__(self, authenticator: Any, session: IStreamSession, limits: Limits) -> None:
        self._limits = limits
        self._session = session
        self.is_ready = False
        self._broken = False
        self.producing = False
        self.heard = False
        """Whether anything came since somebody set this to false."""
        super().__init__(authenticator)

    @property
    def tls(self) -> Any:
        """The OpenSSL connection; None without TLS."""
        is_tls = ISSLTransport.providedBy(self.transport)
        return self.transport.getHandle() if is_tls else None

    def ready(self) -> None:
        """The login is over."""
        self.is_ready = True
        self.stream.limits = self._limits

    def _initializeStream(self) -> None:
        stream = self.stream = BoundedElementStream(LOGIN_LIMITS)

        def current(told: Any) -> Any:
            """What is still in the buffer of a stream that was begun anew is nobody's."""
            return lambda *args: told(*args) if self.stream is stream and not self._broken else None

        stream.DocumentStartEvent = current(self.onDocumentStart)
        stream.ElementEvent = current(self.onElement)
        stream.DocumentEndEvent = current(self.onDocumentEnd)
        stream.OversizedEvent = current(self._oversized)

    def dataReceived(self, data: bytes) -> None:
        if self._broken:
            return
        self.heard = True
        try:
            self.stream.parse(data)
        except domish.ParserError as error:
            self._break(f"the server sent what is no XMPP stream: {error}")

    def onDocumentStart(self, rootElement: domish.Element) -> None:
        if rootElement.uri != xmlstream.NS_STREAMS or rootElement.name != "stream":
            self._break("what answers is no XMPP server")
            return
        super().onDocumentStart(rootElement)

    def onElement(self, element: domish.Element) -> None:
        if self.is_ready and element.uri != xmlstream.NS_STREAMS:
            self._session.element_received(element)
        else:
            super().onElement(element)

    def _oversized(self, element: domish.Element, why: str) -> None:
        if self.is_ready:
            self._session.oversized(element, why)
        else:
            self._break(f"before the login, something {why}")

    def onDocumentEnd(self) -> None:
        self.close()

    def onStreamError(self, errelem: domish.Element) -> None:
        self.dispatch(Failure(stream_error(errelem)), xmlstream.STREAM_ERROR_EVENT)
        self.close()

    def close(self) -> None:
        """Close the connection after what was written."""
        if self.producing:
            # A transport with a producer waits for it before it closes.
            self.producing = False
            self.transport.unregisterProducer()
        self.transport.loseConnection()

    def produce(self, producer: Any) -> None:
        """Let it know when the other side does not read as fast as we write."""
        self.producing = True
        self.transport.registerProducer(producer, True)

    def abort(self) -> None:
        """End the connection at once. What is in the buffer is not looked at any more."""
        self._broken = True
        self.transport.abortConnection()

    def _break(self, why: str) -> None:
        self._session.stream_broken(why)
        self.abort()

    def send(self, obj: Any) -> None:
        """As Twisted's; stanzas are told to the session first. Raises StanzaNotSendable."""
        if not domish.IElement.providedBy(obj):
            self.transport.write(obj.encode() if isinstance(obj, str) else obj)
            return
        data = self.serialised(cast(domish.Element, obj))
        counts = self.is_ready and obj.name in ("message", "presence", "iq")
        if counts:
            self._session.stanza_leaving(data, obj.name)
        self.transport.write(data)
        if counts:
            self._session.stanza_left()

    def serialised(self, element: domish.Element) -> bytes:
        """What `send` writes. Raises StanzaNotSendable."""
        text = element.toXml(
            prefixes=self.prefixes, defaultUri=self.namespace, prefixesInScope=list(self.prefixes.values())
        )
        if found := _NOT_XML.search(text):
            raise StanzaNotSendable(f"the stanza holds the character U+{ord(found[0]):04X}, which XML cannot carry")
        return bytes(text.encode())
