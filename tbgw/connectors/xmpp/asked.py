# -*- test-case-name: tests.connectors.xmpp.test_parts -*-
"""Requests that wait for their answer. One counts only if it comes from whom was asked: an id can be guessed or seen,
and then anybody could answer in the place of a device or of the server (RFC 6120, 8.1.2.1).
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.words.xish.domish import Element

from tbgw.connectors.xmpp import stanzas
from tbgw.connectors.xmpp.errors import LinkBusy, LinkGone, RequestTimedOut, StanzaRefused

MAX_REQUESTS = 10_000
"""Requests under way at the same time: some thousands of devices being read out, and a bound for a caller gone wild."""


@dataclass(frozen=True, slots=True)
class _Request:
    answer: Deferred[Element]
    to: str | None
    timer: IDelayedCall


class Asked:
    """All requests of a link."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: dict[str, _Request] = {}
        self.own_addresses: Collection[str | None] = (None,)
        """From whom the answer to a request without `to` may come: our account, our server."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, iq: Element, timeout_seconds: float) -> Deferred[Element]:
        """Give it an id, if it has none, and wait. Fails at once with LinkBusy, or ValueError for an id that waits."""
        if not iq.getAttribute("id"):
            iq["id"] = secrets.token_hex(8)
        identifier = iq["id"]
        if identifier in self._waiting:
            return fail(ValueError(f"a request with the id {identifier} is under way already"))
        if len(self._waiting) >= MAX_REQUESTS:
            return fail(LinkBusy(f"{MAX_REQUESTS} requests are under way"))
        answer: Deferred[Element] = Deferred(lambda _: self._forget(identifier))
        timer = self._clock.callLater(timeout_seconds, self._time_over, identifier)
        self._waiting[identifier] = _Request(answer, stanzas.normal_jid(iq.getAttribute("to")), timer)
        return answer

    def drop(self, iq: Element) -> None:
        """It could not be sent."""
        self._take(iq["id"])

    def answered(self, element: Element) -> bool:
        """An iq of type result or error: whether somebody waited for it."""
        identifier = element.getAttribute("id", "")
        request = self._waiting.get(identifier)
        if request is None:
            return False
        sender = stanzas.normal_jid(element.getAttribute("from"))
        # Our own account's address may be left out by the server, and by us (RFC 6120, 8.1.2.1 and 10.3.3).
        is_own = sender in self.own_addresses and request.to in self.own_addresses
        if sender != request.to and not (is_own and None in (sender, request.to)):
            return False
        self._take(identifier)
        if element.getAttribute("type") == "error":
            request.answer.errback(StanzaRefused(*stanzas.error_of(element), element))
        else:
            request.answer.callback(element)
        return True

    def fail_all(self, why: str) -> None:
        """The session is over for good."""
        for identifier in list(self._waiting):
            if (request := self._take(identifier)) is not None:
                request.answer.errback(LinkGone(why))

    def _forget(self, identifier: str) -> None:
        self._take(identifier)

    def _take(self, identifier: str) -> _Request | None:
        request = self._waiting.pop(identifier, None)
        if request is not None and request.timer.active():
            request.timer.cancel()
        return request

    def _time_over(self, identifier: str) -> None:
        if (request := self._take(identifier)) is not None:
            request.answer.errback(RequestTimedOut("no answer came within the time"))
