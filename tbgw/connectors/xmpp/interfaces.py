# -*- test-case-name: tests.connectors.xmpp -*-
"""The contract between the XMPP link, which keeps one session with the server, and the connector that lives on it.

The link does: connecting, TLS, login, resource, stream management (XEP-0198), receipts (XEP-0184), pings both ways,
answers to disco#info, disco#items and jabber:iq:version, dead peers, back-off. It sends no presence and asks for no
roster: that is the listener's, in `link_up`.

Stanzas are `domish.Element`s. Those that come in are bounded (size, elements, depth: see `limits`), but are otherwise
whatever a stranger sent: `from` is set by the server, everything else is not. Never call `toXml` on them. Elements that
are sent bear no namespace or that of the stream, e.g. `Element((None, "message"))`.

Addresses that come from strangers must not go through `jid.internJID`, which keeps every one for ever.
"""

# ruff: noqa: N805 - zope interfaces have no self

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.words.xish.domish import Element


class IXMPPListener(Interface):
    """Who lives on the link: the connector."""

    def link_up(own_jid: str) -> None:
        """
        The session is ready: `IXMPPLink.send` works from now on. `own_jid` is the full JID that the server gave us (as
        a component: its domain). Also called when a session that was cut could be resumed; `IXMPPLink.resumed` is true
        then, and presence, roster and subscriptions are as they were: sending them again does no harm.
        """

    def link_down(reason: str) -> None:
        """The session is over, or cut and perhaps resumed later. `reason` is in words for the operator."""

    def stanza_received(element: Element) -> Deferred[None] | None:
        """
        A message, a presence, or an iq of type get or set that the link did not answer by itself. Called in the order
        of the stream.

        * None: nothing of it has to be kept. It counts as handled, and gets no receipt: so a stranger learns nothing.
        * A Deferred: it was accepted, and fires when all that was accepted of it is on stable storage. Only then the
          server hears that we have it (XEP-0198, in order), and its sender gets the receipt that he asked for
          (XEP-0184). When it fails, the stanza is not counted and the session is cut, so that the server sends it,
          and all after it, once more: fail it only where that is wanted, such as a store that cannot be written. What
          is refused for good (a full store that drops) fires with False: it counts, and gets no receipt.

        An iq of type get or set MUST be answered, by `IXMPPLink.send` (see `stanzas.result` and `stanzas.error`), now
        or later. Exceptions are logged and counted; an iq is then answered with internal-server-error, anything else
        counts as handled.
        """


class IXMPPLink(Interface):
    """
    One session with an XMPP server, begun again for ever. Also a `twisted.application.service.IService`: once the
    Deferred of `stopService` has fired, the stream is closed, nothing comes any more and no timer is left.

    Stopping goes in this order: unavailable presence (so that the server keeps what comes later), what is under way is
    taken in and its storing awaited, for at most `CLOSE_SECONDS`; then `</stream:stream>`. The listener is called for
    stanzas that still come in the meantime, and may still send.
    """

    connected = Attribute("Whether a session is ready, i.e. between `link_up` and `link_down`.")
    jid = Attribute("Our full JID while connected, as text; the configured one otherwise.")
    resumed = Attribute("Whether the present session is the resumption of the one before (XEP-0198).")
    is_component = Attribute("Whether we are a server component (XEP-0114): no roster, any name before our domain.")

    def set_listener(listener: IXMPPListener) -> None:
        """Must be called once, before the service starts."""

    def send(element: Element) -> None:
        """
        Send a stanza. Where the server has stream management it is kept until the server has it, and sent again when
        the session is resumed; messages also on a new session, for up to two minutes, so that one can arrive twice.
        As a component a missing `from` is filled in. Raises `LinkGone` without a session, `LinkBusy` (a LinkGone) when
        too many are unconfirmed, `StanzaTooLarge`, `StanzaNotSendable`; nothing was sent then.
        """

    def request(iq: Element, timeout_seconds: float) -> Deferred[Element]:
        """
        Send an iq of type get or set and wait for its answer; an `id` is given to it if it has none. Fires with the
        result. Fails with `StanzaRefused`, `RequestTimedOut`, `LinkGone` (also when the session ends for good; a cut
        that is resumed in time does no harm), and with what `send` raises. An answer counts only if it comes from whom
        the request was sent to. May be cancelled, and then the answer is ignored.
        """

    def advertise(features: Iterable[str]) -> None:
        """Add to what disco#info says of us, e.g. `urn:xmpp:iot:sensordata`. Before or while the service runs."""

    def pause_reading() -> None:
        """As `IPausable`: read nothing more from the server for a while; it keeps what is waiting."""

    def resume_reading() -> None:
        """As `IPausable`."""

    def status() -> Mapping[str, Any]:
        """As `IStatusSource`, without a key of its own around it: see `link.XMPPLink.status`."""
