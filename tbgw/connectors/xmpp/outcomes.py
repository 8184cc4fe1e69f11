# -*- test-case-name: tests.connectors.xmpp.test_commands -*-
"""What became of a request to a device, in the terms of the Iotellect driver: successful, response time, reply code,
reply, error. Pure.

Reply codes are the numbers that XEP-0086 gives to XMPP's conditions (404 for item-not-found); 200 is success, 408 no
answer in time, 413 too large for the server, 503 no session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twisted.words.protocols.jabber.error import STANZA_CONDITIONS

from tbgw.connectors.xmpp.errors import (
    LinkGone,
    RequestTimedOut,
    StanzaNotSendable,
    StanzaRefused,
    StanzaTooLarge,
)
from tbgw.errors import CommandFailed
from tbgw.expressions import text_of
from tbgw.model import Value

OK, BAD_REQUEST, TIME_OUT, TOO_LARGE, UNAVAILABLE, UNKNOWN = 200, 400, 408, 413, 503, 500
MAX_REPLY_CHARACTERS = 1000
"""Longest reply that is kept as an attribute; the RPC's answer has it whole."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request and what came of it."""

    successful: bool
    response_ms: int
    code: int
    reply: Value
    """What the device said; None: nothing."""
    error: str
    """In words; '' when successful."""

    def attributes(self) -> dict[str, Value]:
        """As attributes of the device. ThingsBoard passes over nulls, so what is not there is an empty text."""
        reply: Value = "" if self.reply is None else self.reply
        if isinstance(reply, (dict, list)):
            reply = text_of(reply)
        elif not isinstance(reply, (str, int, float)):
            reply = "(structured)"  # a read-out of the schedule, whose values are telemetry
        return {
            "xmppSuccessful": self.successful,
            "xmppResponseTimeMs": self.response_ms,
            "xmppReplyCode": self.code,
            "xmppReply": reply[:MAX_REPLY_CHARACTERS] if isinstance(reply, str) else reply,
            "xmppError": self.error[:MAX_REPLY_CHARACTERS],
        }

    def answer(self) -> dict[str, Value]:
        """As the answer to `Execute XMPP Request`."""
        return {
            "successful": self.successful,
            "responseTimeMs": self.response_ms,
            "replyCode": self.code,
            "reply": self.reply,
            "error": self.error or None,
        }


class Refusal(CommandFailed):
    """A command that failed, with its reply code."""

    code: int

    def __init__(self, words: str, code: int) -> None:
        super().__init__(words, code)


def code_of(condition: str) -> int:
    """The number of one of XMPP's conditions."""
    conditions: Mapping[str, Any] = STANZA_CONDITIONS
    found = conditions.get(condition)
    return int(found["code"]) if found is not None else UNKNOWN


def refusal_of(error: BaseException | None, timeout_seconds: float = 0.0) -> Refusal:
    """What the link, or a device, says against a request, as words for ThingsBoard."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, StanzaRefused):
        words = f"{error.condition or 'refused'}{': ' + error.text if error.text else ''}"
        return Refusal(f"refused by the device or its server: {words}"[:1000], code_of(error.condition))
    if isinstance(error, RequestTimedOut):
        return Refusal(f"time-out: no answer within {timeout_seconds * 1000:g} ms", TIME_OUT)
    if isinstance(error, StanzaTooLarge):
        return Refusal(f"refused: too large: {error}", TOO_LARGE)
    if isinstance(error, StanzaNotSendable):
        return Refusal(f"bad parameters: {error}", BAD_REQUEST)
    if isinstance(error, LinkGone):
        return Refusal(f"gone: {error}", UNAVAILABLE)
    return Refusal(str(error) or "failed", UNKNOWN)
