# -*- test-case-name: tests.connectors.xmpp.test_cuts -*-
"""What we say of ourselves: service discovery (XEP-0030), and the answers to pings (XEP-0199) and version (XEP-0092).

wokkel's `DiscoHandler` is not used: it keeps the address of everybody who ever asked (`internJID`), so that strangers
could fill the memory. Its handlers for ping and version keep nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from twisted.words.xish.domish import Element

from tbgw.connectors.xmpp import stanzas
from tbgw.connectors.xmpp.compat import PingHandler, VersionHandler, XMPPHandler
from tbgw.version import VERSION

NS_INFO = "http://jabber.org/protocol/disco#info"
NS_ITEMS = "http://jabber.org/protocol/disco#items"
NS_VERSION = "jabber:iq:version"
_BASIC = (NS_INFO, NS_ITEMS, stanzas.NS_PING, stanzas.NS_RECEIPTS, NS_VERSION)


class Discovery(XMPPHandler):
    """Answers disco#info and disco#items."""

    def __init__(self, is_component: bool) -> None:
        super().__init__()
        self.features = set(_BASIC)
        # The registrar's categories: a component is a gateway between networks, an account is a program's.
        self._identity = ("component", "generic") if is_component else ("client", "bot")

    def connectionInitialized(self) -> None:
        for namespace, answer in ((NS_INFO, self._info), (NS_ITEMS, self._items)):
            self.xmlstream.addObserver(f"/iq[@type='get']/query[@xmlns='{namespace}']", answer)

    def _info(self, iq: Element) -> None:
        iq.handled = True  # type: ignore[attr-defined] # the mark that wokkel's handlers set
        query = next(iq.elements(NS_INFO, "query"))
        if query.getAttribute("node"):
            self.send(stanzas.error(iq, "item-not-found"))
            return
        answer = stanzas.result(iq)
        told = answer.addElement((NS_INFO, "query"))
        identity = told.addElement("identity")
        identity["category"], identity["type"] = self._identity
        identity["name"] = "tbgw"
        for feature in sorted(self.features):
            told.addElement("feature")["var"] = feature
        self.send(answer)

    def _items(self, iq: Element) -> None:
        iq.handled = True  # type: ignore[attr-defined] # as above
        answer = stanzas.result(iq)
        answer.addElement((NS_ITEMS, "query"))
        self.send(answer)


def handlers(discovery: Discovery) -> Iterable[XMPPHandler]:
    """All that answers by itself."""
    return (discovery, PingHandler(), VersionHandler("tbgw", VERSION))
