# -*- test-case-name: tests.connectors.xmpp.test_presence -*-
"""Who may see whose presence (RFC 6121): our roster, and subscriptions from and to devices.

* A subscription request is accepted from JIDs of the configuration, and refused from everyone else (X9). Who was
  accepted is asked for his presence in turn, unless the roster has it.
* At login, devices whose entry says `requestPresence` are asked when the roster does not have them.
* As a component there is no roster: who asks is answered, and shown our presence.

Nobody is asked twice in the life of a connector, so that a device that refuses is not pestered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element

from tbgw.connectors.xmpp.device_events import RosterUnavailable, SubscriptionAccepted, SubscriptionRefused
from tbgw.connectors.xmpp.errors import LinkGone
from tbgw.connectors.xmpp.interfaces import IXMPPLink
from tbgw.connectors.xmpp.jids import parse_jid
from tbgw.internal_events import Events

NAMESPACE = "jabber:iq:roster"
ROSTER_SECONDS = 15.0
MAX_ITEMS = 20_000
"""Items of a roster that are looked at, and JIDs that are remembered as asked."""


class Roster:
    """See the module. One for each connector."""

    def __init__(
        self,
        connector: str,
        link: IXMPPLink,
        admits: Callable[[str], bool],
        wanted: Iterable[str],
        events: Events,
    ) -> None:
        """`admits(jid)`: whether an entry of the configuration is of it. `wanted`: bare JIDs to be asked at login."""
        self._connector = connector
        self._link = link
        self._admits = admits
        self._wanted = tuple(wanted)
        self._events = events
        self._seen: set[str] = set()
        """Bare JIDs whose presence the roster gives us, or that were asked for it."""

    def logged_in(self, resumed: bool) -> None:
        """Ask for the roster, then show our presence; as a component, nothing is to be done."""
        if self._link.is_component or resumed:
            return
        iq = Element((None, "iq"))
        iq["type"] = "get"
        iq.addElement((NAMESPACE, "query"))
        asked = self._link.request(iq, ROSTER_SECONDS)
        asked.addCallbacks(self._got, self._not_got)
        asked.addCallback(lambda _: self._send(Element((None, "presence"))))
        asked.addErrback(lambda failure: failure.trap(CancelledError) and None)

    def pushed(self, iq: Element) -> bool:
        """Whether an iq of type set is the server's word of a change (RFC 6121, 2.1.6), which then is taken in."""
        query = next(iq.elements(NAMESPACE, "query"), None)
        if query is None:
            return False
        sender = iq.getAttribute("from")
        own = parse_jid(self._link.jid)
        if sender and own is not None and sender not in (own.bare, own.full, own.domain):
            return False
        self._take(query)
        return True

    def presence(self, kind: str, sender: str) -> bool:
        """Whether a presence of this type was about subscriptions, which then was answered."""
        if kind == "subscribe":
            self._asked(sender)
        elif kind == "subscribed":
            self._remember(sender)
        elif kind == "unsubscribed":
            address = parse_jid(sender)
            if address is not None:
                self._seen.discard(address.bare)
        elif kind == "probe":
            if self._link.is_component and self._admits(sender):
                self._answer(sender, None)
        elif kind != "unsubscribe":
            return False
        return True

    def _asked(self, sender: str) -> None:
        address = parse_jid(sender)
        if address is None or not self._admits(sender):
            self._events.emit(SubscriptionRefused(self._connector, sender))
            self._answer(sender, "unsubscribed")
            return
        self._events.emit(SubscriptionAccepted(self._connector, address.bare))
        self._answer(address.bare, "subscribed")
        if self._link.is_component:
            self._answer(address.bare, None)
        self._subscribe(address.bare)

    def _subscribe(self, bare: str) -> None:
        if bare not in self._seen:
            self._remember(bare)
            self._answer(bare, "subscribe")

    def _got(self, iq: Element) -> None:
        for query in iq.elements(NAMESPACE, "query"):
            self._take(query)
        for bare in self._wanted:
            self._subscribe(bare)

    def _not_got(self, failure: Failure) -> None:
        if failure.check(LinkGone, CancelledError) is None:
            self._events.emit(RosterUnavailable(self._connector, failure.getErrorMessage()))

    def _take(self, query: Element) -> None:
        for count, item in enumerate(query.elements(NAMESPACE, "item")):
            if count >= MAX_ITEMS:
                return
            has_it = item.getAttribute("subscription") in ("to", "both") or item.getAttribute("ask") == "subscribe"
            if has_it:
                self._remember(item.getAttribute("jid", ""))

    def _remember(self, jid: str) -> None:
        address = parse_jid(jid)
        if address is not None and len(self._seen) < MAX_ITEMS:
            self._seen.add(address.bare)

    def _answer(self, to: str, kind: str | None) -> None:
        presence = Element((None, "presence"))
        presence["to"] = to
        if kind is not None:
            presence["type"] = kind
        self._send(presence)

    def _send(self, element: Element) -> None:
        with suppress(LinkGone):  # the next login does it again
            self._link.send(element)
