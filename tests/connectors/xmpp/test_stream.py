"""The bounded XML stream, without a server: what is read past, what ends the stream, what it costs."""

from __future__ import annotations

import gc
import time
import weakref
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.protocols.jabber import xmlstream
from twisted.words.xish.domish import Element

from tbgw.connectors.xmpp.errors import StanzaNotSendable
from tbgw.connectors.xmpp.stream import HARD_LIMIT_FACTOR, Limits, LinkStream

HEADER = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0' id='1'>"


class Transport(StringTransport):
    def abortConnection(self) -> None:
        self.aborting = True


class Session:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.elements: list[Element] = []
        self.over: list[tuple[str, str]] = []
        self.broken: list[str] = []
        self.left: list[tuple[str, bytes]] = []

    def element_received(self, element: Element) -> None:
        self.elements.append(element)

    def oversized(self, element: Element, why: str) -> None:
        self.over.append((element.name, why))

    def stream_broken(self, why: str) -> None:
        self.broken.append(why)

    def stanza_leaving(self, data: bytes, kind: str) -> None:
        self.left.append((kind, data))

    def stanza_left(self) -> None:
        """Nothing to do."""


class Login(xmlstream.Authenticator):
    """One that is through at once."""

    def streamStarted(self, rootElement: Element) -> None:
        """Nothing more is asked."""


class StreamTests(SynchronousTestCase):
    """Limits small enough to see."""

    limits = Limits(stanza_bytes=1000, elements=10, depth=5)

    def setUp(self) -> None:
        self.session = Session()
        self.stream: Any = LinkStream(Login(), self.session, self.limits)
        self.transport: Any = Transport()
        self.stream.makeConnection(self.transport)
        self.stream.namespace = "jabber:client"
        self.receive(HEADER)
        self.stream.ready()

    def receive(self, text: str, size: int = 0) -> None:
        data = text.encode()
        for at in range(0, len(data), size or len(data)):
            self.stream.dataReceived(data[at : at + (size or len(data))])

    @property
    def bodies(self) -> list[str]:
        return [str(one.body) for one in self.session.elements]

    def check_skipped(self, bad: str, why: str, size: int = 0) -> None:
        self.receive(f"<message><body>1</body></message>{bad}<message><body>2</body></message>", size)
        self.assertEqual(self.bodies, ["1", "2"])
        self.assertEqual([one for one, _ in self.session.over], ["message"])
        self.assertIn(why, self.session.over[0][1])
        self.assertEqual(self.session.broken, [])

    def test_no_cycles(self):
        """A stanza that is done with is gone at once, without waiting for the collector of cycles."""
        self.addCleanup(gc.enable)
        gc.disable()
        self.receive("<message><a><b>1</b><b/></a><body>x</body></message>")
        kept = weakref.ref(self.session.elements[0])
        self.assertEqual([one.name for one in self.session.elements[0].elements()], ["a", "body"])
        self.session.elements.clear()
        self.assertIsNone(kept())

    def test_depth(self):
        """Too many elements within each other: that stanza is not taken, in whatever pieces it comes."""
        self.check_skipped(f"<message>{'<a>' * 5}{'</a>' * 5}</message>", "within each other")

    def test_depth_in_pieces(self):
        """The same byte by byte."""
        self.check_skipped(f"<message>{'<a>' * 50}{'</a>' * 50}</message>", "within each other", 1)

    def test_within_limits(self):
        """Just within each limit is taken."""
        self.receive(f"<message>{'<a>' * 4}{'</a>' * 4}<body>a</body></message>")
        self.receive(f"<message>{'<a/>' * 8}<body>b</body></message>")
        self.receive(f"<message><body>{'x' * 900}</body></message>")
        self.assertEqual((len(self.session.elements), self.session.over), (3, []))

    def test_elements(self):
        """Too many elements beside each other."""
        self.check_skipped(f"<message>{'<a/>' * 11}</message>", "more than 10 elements")

    def test_bytes(self):
        """Too much text, whole and in pieces, and at the very end."""
        self.check_skipped(f"<message><body>{'x' * 1001}</body></message>", "1000 bytes")

    def test_bytes_in_pieces(self):
        """The same in pieces."""
        self.check_skipped(f"<message><body>{'x' * 5000}</body></message>", "1000 bytes", 7)

    def test_bytes_in_attributes(self):
        """Long attributes count."""
        self.check_skipped(f"<message><a b='{'x' * 2000}'/><c/></message>", "1000 bytes")

    def test_entities_count_as_written(self):
        """Entities count by what stands on the wire."""
        self.check_skipped(f"<message><body>{'&lt;' * 300}</body></message>", "1000 bytes")

    def test_names_of_the_oversized(self):
        """The one told of has its attributes and no children."""
        seen: list[Element] = []
        self.session.oversized = lambda element, why: seen.append(element)  # type: ignore[method-assign] # to look
        self.receive(f"<message from='a@b' id='7'><body>x</body>{'<a/>' * 11}</message>")
        self.assertEqual((seen[0]["from"], seen[0]["id"], seen[0].children), ("a@b", "7", []))

    def test_namespaces_survive(self):
        """What is read past leaves no prefix and no default namespace behind."""
        deep = "<x xmlns='urn:deep' xmlns:p='urn:p'>" * 8 + "</x>" * 8
        self.receive(f"<message>{deep}</message><message><body>1</body></message>")
        (element,) = self.session.elements
        self.assertEqual((element.uri, element.body.uri, element.localPrefixes), ("jabber:client",) * 2 + ({},))

    def test_far_too_much(self):
        """A token that does not end ends the stream: that is no stanza but an attack."""
        self.receive("<message a='")
        for _ in range(HARD_LIMIT_FACTOR + 1):
            self.receive("x" * 1000)
        self.assertEqual(len(self.session.broken), 1)
        self.assertTrue(self.transport.aborting)
        self.receive("'><body>late</body></message>")
        self.assertEqual(self.bodies, [])

    def test_forbidden_xml(self):
        """Document types, comments and instructions end the stream (RFC 6120, 11.1)."""
        for bad in ("<!--x-->", "<?php ?>", "<not closed></x>", "\x00", "<message><a b='<'/></message>"):
            self.setUp()
            self.receive(bad)
            self.assertEqual(len(self.session.broken), 1, bad)

    def test_entity_bomb(self):
        """No entity can be declared, so none can be blown up."""
        self.session = Session()
        stream: Any = LinkStream(Login(), self.session, self.limits)
        stream.makeConnection(Transport())
        stream.dataReceived(b"<!DOCTYPE s [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]>" + HEADER.encode())
        self.assertEqual(len(self.session.broken), 1)

    def test_no_xmpp(self):
        """What is XML and no XMPP stream is left."""
        self.session = Session()
        stream: Any = LinkStream(Login(), self.session, self.limits)
        stream.makeConnection(Transport())
        stream.dataReceived(b"<html><body>")
        self.assertIn("no XMPP server", self.session.broken[0])

    def test_begun_anew(self):
        """What stands behind the end of a stream that is begun anew is nobody's: no clear text gets into TLS."""
        stream = self.stream
        stream.is_ready = False
        heard: list[Element] = []
        stream.addObserver("/message", heard.append)
        stream.addOnetimeObserver("/proceed", lambda _: stream.reset())
        self.receive("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><message><body>injected</body></message>")
        self.assertEqual((heard, self.session.elements), ([], []))

    def test_costs(self):
        """200,000 entities take far less than the 1.8 s of one concatenation each; 5,000 nested do not end Python."""
        self.limits = Limits(stanza_bytes=1 << 20)
        self.setUp()
        began = time.process_time()
        self.receive(f"<message><body>{'&lt;' * 200_000}</body></message>", 4096)
        self.receive(f"<message>{'<a>' * 5000}{'</a>' * 5000}</message>", 4096)
        self.assertLess(time.process_time() - began, 0.5)
        self.assertEqual(self.bodies, ["<" * 200_000])
        self.assertEqual(len(self.session.over), 1)

    def test_sent(self):
        """Stanzas are told before they are written; what XML cannot carry is refused and not written."""
        message = Element((None, "message"))
        message.addElement("body", content="a<b")
        self.stream.send(message)
        self.assertEqual(self.session.left, [("message", b"<message><body>a&lt;b</body></message>")])
        self.assertTrue(self.transport.value().endswith(b"</message>"))
        self.transport.clear()
        bad = Element((None, "message"))
        bad.addElement("body", content="a\x00b")
        self.assertRaises(StanzaNotSendable, self.stream.send, bad)
        self.assertEqual((self.transport.value(), len(self.session.left)), (b"", 1))


PIECES = (
    *("<message>", "</message>", "<a>", "</a>", "<a/>", "<body>", "</body>", "<iq type='get'>", "</iq>", "&lt;"),
    *("<p:a xmlns:p='urn:p'>", "</p:a>", "<x xmlns='y'>", "</x>", "]]>", "<![CDATA[", "<!--", "-->", "<?x", "?>"),
    *("</stream:stream>", "<stream:error/>", "x" * 300, "<!DOCTYPE x>", "\x00", "'", '"', "<", ">", "&#x0;"),
)


class FuzzTests(SynchronousTestCase):
    """Whatever comes: elements within their limits, or the end of the stream, and never an exception (P-21)."""

    @settings(max_examples=400, deadline=None)
    @given(st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=20)), max_size=60), st.integers(1, 50))
    def test_anything(self, pieces: list[str | bytes], size: int) -> None:
        """In pieces of any size; after the end nothing is heard any more."""
        session = Session()
        stream: Any = LinkStream(Login(), session, Limits(stanza_bytes=1000, elements=10, depth=5))
        transport: Any = Transport()
        stream.makeConnection(transport)
        stream.namespace = "jabber:client"
        stream.dataReceived(HEADER.encode())
        stream.ready()
        data = b"".join(one.encode() if isinstance(one, str) else one for one in pieces)
        for at in range(0, len(data), size):
            stream.dataReceived(data[at : at + size])
        self.assertLessEqual(len(session.broken), 1)
        for element in session.elements:
            self.assertLessEqual(depth(element), 5)
            self.assertLessEqual(count(element), 10)
        heard = len(session.elements)
        if session.broken:
            stream.dataReceived(b"<message/>")
            self.assertEqual(len(session.elements), heard)


def depth(element: Element) -> int:
    return 1 + max((depth(child) for child in element.elements()), default=0)


def count(element: Element) -> int:
    return 1 + sum(count(child) for child in element.elements())
