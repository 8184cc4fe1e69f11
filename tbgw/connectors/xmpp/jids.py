# -*- test-case-name: tests.connectors.xmpp.test_converter -*-
"""Addresses of XMPP entities, in the one form in which two of them can be compared (RFC 7622). Pure.

`twisted.words` keeps every JID that it ever interned; what strangers write must not stay, so nothing is interned here,
and what is remembered of a sender's text is bounded by who asks (`routes`).
"""

from __future__ import annotations

from typing import NamedTuple

from twisted.words.protocols.jabber.jid import JID, InvalidFormat

MAX_JID_CHARACTERS = 3071
"""Longest JID: three parts of 1023 each, and what stands between them."""


class Address(NamedTuple):
    """A JID in its prepared form: local part and domain without case, the resource as it is."""

    local: str
    """Empty: a server, or a component."""
    domain: str
    resource: str
    """Empty: a bare JID."""

    @property
    def bare(self) -> str:
        """Without the resource."""
        return f"{self.local}@{self.domain}" if self.local else self.domain

    @property
    def full(self) -> str:
        """With the resource, if there is one."""
        return f"{self.bare}/{self.resource}" if self.resource else self.bare


def parse_jid(text: str) -> Address | None:
    """The address, None when the text is none. Costs some 30 us: the three parts are prepared as the RFC says."""
    if not text or len(text) > MAX_JID_CHARACTERS:
        return None
    try:
        jid = JID(text)
    except (InvalidFormat, UnicodeError, ValueError, IndexError):
        return None  # IndexError: Twisted's own, for a domain with an empty label such as "."
    if not jid.host:
        return None
    return Address(jid.user or "", jid.host or "", jid.resource or "")
