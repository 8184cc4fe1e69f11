# -*- test-case-name: tests.connectors.xmpp -*-
"""What the XMPP link has to tell. Whatever a stranger can provoke at will is limited in lines."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.logger import LogLevel

from tbgw.internal_events import Event


@dataclass(frozen=True)
class SessionUp(Event):
    """The session with the server is ready."""

    text = "connector {connector}: logged in as {jid} at {where} with {mechanism}, {encryption}, {management}"
    connector: str
    jid: str
    where: str
    mechanism: str
    encryption: str
    """`TLSv1.3`, `no TLS`."""
    management: str
    """`resumable`, `acknowledged`, `without stream management`."""


@dataclass(frozen=True)
class SessionResumed(Event):
    """A session that was cut goes on: nothing was lost."""

    counter = "xmpp_sessions_resumed"
    label = "connector"
    text = "connector {connector}: session of {jid} resumed after {away_seconds:.1f} s; {again} stanza(s) sent again"
    connector: str
    jid: str
    away_seconds: float
    again: int


@dataclass(frozen=True)
class SessionFailed(Event):
    """No session came about; another attempt follows."""

    level = LogLevel.warn
    counter = "xmpp_sessions_failed"
    label = "connector"
    text = "connector {connector}: no session at {where}: {why}; next attempt in {retry_seconds:.1f} s"
    connector: str
    where: str
    why: str
    retry_seconds: float


@dataclass(frozen=True)
class LoginTurnedDown(Event):
    """The server does not take us as we are. Stable id for P-25."""

    level = LogLevel.error
    counter = "xmpp_logins_refused"
    label = "connector"
    text = "connector {connector}: {where}: {why}; next attempt in {retry_seconds:.0f} s"
    connector: str
    where: str
    why: str
    retry_seconds: float


@dataclass(frozen=True)
class SessionReplaced(Event):
    """Somebody else logged in with our account and resource: most likely a second gateway with the same file."""

    level = LogLevel.error
    counter = "xmpp_sessions_replaced"
    label = "connector"
    text = (
        "connector {connector}: another program logged in as {jid} and the server ended our session; give each gateway "
        "an account or a resource of its own; next attempt in {retry_seconds:.0f} s"
    )
    connector: str
    jid: str
    retry_seconds: float


@dataclass(frozen=True)
class SessionLost(Event):
    """The session was cut; another attempt follows."""

    level = LogLevel.warn
    counter = "xmpp_sessions_lost"
    label = "connector"
    text = "connector {connector}: session lost: {why}; next attempt in {retry_seconds:.1f} s"
    connector: str
    why: str
    retry_seconds: float


@dataclass(frozen=True)
class ServerUnverified(Event):
    """The configuration says not to look at the server's certificate (P-05)."""

    level = LogLevel.warn
    counter = "xmpp_server_unverified"
    label = "connector"
    text = "connector {connector}: dangerouslyAcceptAnyServerCertificate is on: nobody knows who answers"
    connector: str


@dataclass(frozen=True)
class StanzaOversized(Event):
    """A stanza above a limit was read past."""

    level = LogLevel.warn
    counter = "xmpp_stanzas_oversized"
    label = "connector"
    limited = True
    text = "connector {connector}: a stanza from {sender} was not taken: it {why}"
    connector: str
    sender: str
    why: str


@dataclass(frozen=True)
class StanzaMalformed(Event):
    """A stanza that cannot be used, such as an iq without an id."""

    level = LogLevel.warn
    counter = "xmpp_stanzas_malformed"
    label = "connector"
    limited = True
    text = "connector {connector}: a stanza from {sender} was not taken: {why}"
    connector: str
    sender: str
    why: str


@dataclass(frozen=True)
class AnswerUnexpected(Event):
    """An answer to nothing that was asked: too late, or not from whom it was asked of."""

    level = LogLevel.debug
    counter = "xmpp_answers_unexpected"
    label = "connector"
    limited = True
    text = "connector {connector}: an answer from {sender} that nobody waits for"
    connector: str
    sender: str


@dataclass(frozen=True)
class ListenerBroken(Event):
    """Our own code failed on a stanza: a bug of the gateway. The traceback is logged beside it."""

    level = LogLevel.error
    counter = "xmpp_stanzas_failed"
    label = "connector"
    limited = True
    text = "connector {connector}: a stanza from {sender} could not be worked on because of a fault in the gateway"
    connector: str
    sender: str


@dataclass(frozen=True)
class StanzasUnconfirmed(Event):
    """Stanzas of which nobody knows whether the server had them: the session could not be resumed."""

    level = LogLevel.warn
    counter = "xmpp_stanzas_unconfirmed"
    label = "connector"
    text = "connector {connector}: {stanzas} stanza(s) were under way when the session ended and were not sent again"
    connector: str
    stanzas: int

    def amount(self) -> int:
        return self.stanzas


@dataclass(frozen=True)
class ReceiptUnsent(Event):
    """A receipt for a stored message could not be sent; its sender may send the message again."""

    level = LogLevel.debug
    counter = "xmpp_receipts_unsent"
    label = "connector"
    limited = True
    text = "connector {connector}: a receipt for {receiver} could not be sent: {why}"
    connector: str
    receiver: str
    why: str
