# -*- test-case-name: tests.connectors.xmpp -*-
"""The errors of the XMPP link. No text holds what a stanza contained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tbgw.errors import GatewayError

if TYPE_CHECKING:
    from twisted.words.xish.domish import Element


class LinkGone(GatewayError):  # noqa: N818 - a state of the link, not a mistake
    """There is no session with the XMPP server now, or it ended for good before an answer came."""


class LinkBusy(LinkGone):
    """The server has not confirmed the last stanzas and no more may be under way; nothing was sent."""


class StanzaTooLarge(GatewayError):  # noqa: N818 - says what is
    """The stanza is above the limit that keeps the server from ending the session; nothing was sent."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"the stanza has {size_bytes} bytes, and {limit_bytes} are allowed")
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class StanzaNotSendable(GatewayError):  # noqa: N818 - says what is
    """The stanza holds a character that XML has no way to write, such as NUL; nothing was sent."""


class StanzaRefused(GatewayError):  # noqa: N818 - says what is
    """
    The other side answered with an error. `condition` is RFC 6120's word (8.3.3), empty where the answer has none (the
    old forms of XEP-0323 and XEP-0325); `text` is what it says in words, possibly empty; `element` the whole answer.
    """

    def __init__(self, condition: str, text: str, element: Element) -> None:
        super().__init__(": ".join(filter(None, (condition or "refused", text))))
        self.condition = condition
        self.text = text
        self.element = element


class RequestTimedOut(GatewayError):  # noqa: N818 - says what is
    """No answer came within the time."""


class LoginFailed(Exception):  # noqa: N818 - says what is; never leaves the link
    """The session could not be begun. `text` is for the operator and names no secret."""


class LoginRefused(LoginFailed):
    """
    The server does not take us as we are: wrong password, no mechanism that both allow, an address that is not ours.
    Another attempt a second later would end the same way, and may get the account locked.
    """
