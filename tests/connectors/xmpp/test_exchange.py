"""What flows over a session, without a server: what may be under way, and what outlives a stop."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element

from tbgw.connectors.xmpp.errors import LinkBusy
from tbgw.connectors.xmpp.exchange import Exchange
from tbgw.connectors.xmpp.login import Outcome
from tbgw.connectors.xmpp.stream import Limits, LinkStream
from tbgw.connectors.xmpp.stream_management import StreamManagement
from tests.connectors.xmpp.links import NotedEvents, message, presence
from tests.connectors.xmpp.test_stream import HEADER, Login, Transport

MOST = 8


class ExchangeTests(SynchronousTestCase):
    """On a stream in memory."""

    def setUp(self) -> None:
        self.cuts: list[str] = []
        self.exchange = Exchange("Line 4", NotedEvents(), Clock(), 200_000, self.cuts.append, lambda on: None)

    def session(self) -> Transport:
        """A new session, which is no resumption, with stream management."""
        stream = LinkStream(Login(), self.exchange, Limits())
        transport = Transport()
        stream.makeConnection(transport)
        stream.dataReceived(HEADER.encode())
        stream.namespace = "jabber:client"
        stream.ready()
        self.exchange.attach(stream, Outcome(jid="g@x/r", management=StreamManagement(MOST, 1 << 20)))
        return transport

    def test_full_at_login(self):
        """However many messages are sent again on a new session, requests and presence still go out, bounded."""
        self.session()
        for number in range(MOST):
            self.exchange.send(message("d@x", str(number)))
        self.assertRaises(LinkBusy, self.exchange.send, message("d@x", "one too many"))
        self.exchange.detach("cut", False)
        transport = self.session()
        self.assertEqual(transport.value().count(b"<message"), MOST)
        self.exchange.send(presence())
        self.assertIn(b"<presence", transport.value())
        self.assertRaises(LinkBusy, self.exchange.send, presence())

    def test_stopped_before_it_was_idle(self):
        """A stop that did not live to see everything stored ends no later session."""
        told: list[Any] = []
        self.session()
        self.exchange.send(message("d@x", "never confirmed"))
        self.exchange.when_idle(lambda: told.append(True))
        self.exchange.detach("cut", True)
        self.exchange.finish()
        transport = self.session()
        self.exchange.send(message("d@x", "confirmed"))
        counted = Element(("urn:xmpp:sm:3", "a"))
        counted["h"] = "1"
        self.exchange.element_received(counted)
        self.assertEqual((told, transport.disconnecting), ([], False))
