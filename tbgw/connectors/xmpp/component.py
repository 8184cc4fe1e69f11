# -*- test-case-name: tests.connectors.xmpp -*-
"""The login as a server component (XEP-0114): a domain of its own, a shared secret, nothing more.

The protocol has neither STARTTLS nor stream management. The secret is hashed with the stream's id, but all that follows
is readable unless TLS is there from the first byte; so the configuration asks for that, or for a server on this
machine, or for a plain word. Stanzas that are on their way when the connection breaks may be lost; receipts (XEP-0184)
still go out only for what is stored.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.words.protocols.jabber import xmlstream
from twisted.words.xish.domish import Element

from tbgw.connectors.xmpp.errors import LoginFailed
from tbgw.connectors.xmpp.login import Outcome
from tbgw.connectors.xmpp.stream import LinkStream

NS = "jabber:component:accept"


class ComponentAuthenticator(xmlstream.ConnectAuthenticator):
    """Leads one connection through the handshake. A wrong secret comes back as stream error `not-authorized`."""

    namespace = NS
    xmlstream: Any

    def __init__(self, domain: str, secret: str) -> None:
        super().__init__(domain)
        self.secret = secret
        self.outcome = Outcome(jid=domain, mechanism="handshake")

    def __repr__(self) -> str:
        return "ComponentAuthenticator(...)"  # P-11

    def associateWithStream(self, xs: LinkStream) -> None:
        xs.version = (0, 0)
        super().associateWithStream(xs)
        xs.initializers = [_Handshake(xs, self.secret)]

    def streamStarted(self, rootElement: Element) -> None:
        """As Twisted's, without keeping the server's `from`."""
        self.xmlstream.sid = rootElement.getAttribute("id")
        self.initializeStream()


class _Handshake:
    def __init__(self, xs: LinkStream, secret: str) -> None:
        self._xs = xs
        self._secret = secret

    def initialize(self) -> Deferred[Any]:
        xs = self._xs
        if not xs.sid:
            raise LoginFailed("the server gave the stream no id")
        done: Deferred[Any] = Deferred()
        xs.addOnetimeObserver("/handshake", lambda _: done.callback(None))
        shake = Element((NS, "handshake"))
        shake.addContent(xmlstream.hashPassword(xs.sid, self._secret))
        xs.send(shake)
        return done
