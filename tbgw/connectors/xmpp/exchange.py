# -*- test-case-name: tests.connectors.xmpp.test_exchange -*-
"""What flows over the session while it is ready: who gets which stanza, when it counts, what is sent again.

Invariants:

* A stanza counts (XEP-0198), and its receipt goes out (XEP-0184), after the listener's Deferred has fired, and never
  before. What cannot be stored cuts the session, so that it comes again.
* At most `MAX_UNSTORED` stanzas wait for the store; beyond that nothing more is read until half of them are stored.
* What we send is bounded: each stanza, those that the server has not confirmed, and the bytes that it does not take.
* Nothing that the other side sends raises out of here: an exception in a parser's callback would end the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element
from zope.interface import implementer

from tbgw.connectors.xmpp import link_events, stanzas
from tbgw.connectors.xmpp import stream_management as sm
from tbgw.connectors.xmpp.asked import Asked
from tbgw.connectors.xmpp.errors import LinkBusy, LinkGone, StanzaNotSendable, StanzaTooLarge
from tbgw.connectors.xmpp.interfaces import IXMPPListener
from tbgw.connectors.xmpp.login import Outcome
from tbgw.connectors.xmpp.stream import LinkStream
from tbgw.connectors.xmpp.stream_management import StreamManagement
from tbgw.internal_events import Events

MAX_UNSTORED = 2000
"""Stanzas that may wait for the store. At 10,000 a second that is a fifth of a second, many commits' worth."""
MAX_UNCONFIRMED = 2000
"""Stanzas of ours that may wait for the server's count, a few hundred bytes each as a rule."""
MAX_UNCONFIRMED_BYTES = 16 << 20
"""And their bytes, since each may have 200 kB."""
MAX_UNSENT_BYTES = 4 << 20
"""What may wait in the connection while the server does not read."""
TELL_EVERY = 100
"""Counted stanzas after which the server is told without being asked."""
SEND_AGAIN_SECONDS = 120.0
"""How old a message may be that is sent again on a new session: ThingsBoard has given a command up by then."""


@implementer(IPushProducer)
class Exchange:
    """Of one link, over all its sessions."""

    def __init__(
        self,
        connector: str,
        events: Events,
        clock: IReactorTime,
        max_stanza_bytes: int,
        cut: Callable[[str], None],
        reading: Callable[[bool], None],
    ) -> None:
        """`cut(why)` aborts the connection; `reading(False)` stops reading, `reading(True)` goes on."""
        self._connector = connector
        self._events = events
        self._clock = clock
        self._max_stanza_bytes = max_stanza_bytes
        self._cut = cut
        self._reading = reading
        self._log = Logger()
        self.listener: IXMPPListener | None = None
        self.asked = Asked(clock)
        self.management: StreamManagement | None = None
        """Of the present session, or of one that was cut and may be resumed."""
        self.received = 0
        """Stanzas that came, ever."""
        self.sent = 0
        """Stanzas that went, ever."""
        self.unstored = 0
        """Stanzas that wait for the store."""
        self._stream: LinkStream | None = None
        self._is_asking = False
        """Whether the server owes us a count."""
        self._is_behind = False
        """Whether we stopped reading because the store is."""
        self._is_stuck = False
        """Whether the server does not take what we write."""
        self._unsent_bytes = 0
        self._idle: Callable[[], None] | None = None

    # The session's life.

    def attach(self, stream: LinkStream, outcome: Outcome) -> int:
        """The login is over: how many stanzas were sent again."""
        old, self.management = self.management, outcome.management
        self._stream = stream
        self._is_asking = self._is_stuck = False
        self._unsent_bytes = 0
        stream.produce(self)
        again = 0
        if outcome.resumed:
            for one in outcome.again:
                stream.transport.write(one.data)
            again = len(outcome.again)
        else:
            self.asked.fail_all("the session could not be resumed")
            again = self._send_again(old)
        self._ask_count()
        return again

    def _send_again(self, old: StreamManagement | None) -> int:
        """Messages of a session that is lost: once more on this one. Requests have failed, presence is told anew."""
        if old is None or self._stream is None:
            return 0
        since = self._clock.seconds() - SEND_AGAIN_SECONDS
        lost = again = 0
        for one in old.unconfirmed:
            if one.kind == "message" and one.at_seconds >= since:
                if self.management is not None:
                    self.management.sent(one.kind, one.data, one.at_seconds)
                self._stream.transport.write(one.data)
                again += 1
            elif one.kind == "message":
                lost += 1
        if lost:
            self._events.emit(link_events.StanzasUnconfirmed(self._connector, lost))
        return again

    def detach(self, why: str, is_final: bool) -> None:
        """The connection is gone. `is_final`: the session too, whatever the server may think."""
        self._stream = None
        self._is_behind = False
        if is_final and self.management is not None:
            self.management.resume_id = ""
        if self.management is None or not self.management.resume_id:
            self.asked.fail_all(why)

    def finish(self) -> None:
        """The link stops: nothing is resumed any more."""
        self.management = None
        self._idle = None
        self.asked.fail_all("the connector stopped")

    # IStreamSession: what comes.

    def element_received(self, element: Element) -> None:
        """See `stream.IStreamSession`."""
        stream = self._stream
        if stream is None:
            return
        if element.uri == stream.namespace and element.name in ("message", "presence", "iq"):
            self.received += 1
            management = self.management
            number = management.received() if management is not None else 0
            if element.name == "iq":
                self._iq(stream, element, number)
            else:
                self._hand_over(element, number)
        elif element.uri == sm.NS and self.management is not None:
            self._about_counts(self.management, element)
        else:
            self._events.emit(link_events.StanzaMalformed(self._connector, "the server", "it is none of XMPP's"))

    def oversized(self, element: Element, why: str) -> None:
        """See `stream.IStreamSession`."""
        self.received += 1
        sender = element.getAttribute("from") or "the server"
        self._events.emit(link_events.StanzaOversized(self._connector, sender[:200], why))
        if self.management is not None and element.name in ("message", "presence", "iq"):
            self._counts(self.management.received())
        if stanzas.is_request(element):
            self._answer(stanzas.error(element, "policy-violation", f"it {why}"))

    def _iq(self, stream: LinkStream, element: Element, number: int) -> None:
        identifier, kind = element.getAttribute("id"), element.getAttribute("type")
        sender = (element.getAttribute("from") or "the server")[:200]
        if not identifier or len(identifier) > stanzas.MAX_ID_LENGTH or kind not in ("get", "set", "result", "error"):
            self._events.emit(link_events.StanzaMalformed(self._connector, sender, "an iq without a fit id or type"))
        elif kind in ("result", "error"):
            if not self.asked.answered(element):
                self._events.emit(link_events.AnswerUnexpected(self._connector, sender))
        else:
            element.handled = False  # type: ignore[attr-defined] # the mark that wokkel's handlers set
            stream.dispatch(element)
            if not element.handled:
                self._hand_over(element, number)
                return
        self._counts(number)

    def _hand_over(self, element: Element, number: int) -> None:
        """To the listener; see `IXMPPListener.stanza_received`."""
        listener = self.listener
        try:
            stored = listener.stanza_received(element) if listener is not None else None
        except Exception:  # noqa: BLE001 - the edge of the link: one stanza, and not the stream, bears the fault
            self._log.failure("while a stanza was worked on")
            sender = (element.getAttribute("from") or "the server")[:200]
            self._events.emit(link_events.ListenerBroken(self._connector, sender))
            if stanzas.is_request(element):
                self._answer(stanzas.error(element, "internal-server-error"))
            stored = None
        if stored is None:
            self._counts(number)
            return
        management = self.management
        epoch = management.epoch if management is not None else 0
        receipt = stanzas.receipt_for(element)
        self.unstored += 1
        if self.unstored >= MAX_UNSTORED and not self._is_behind:
            self._is_behind = True
            self._reading(False)
        stored.addCallbacks(
            self._stored,
            self._not_stored,
            callbackArgs=(number, management, epoch, receipt),
            errbackArgs=(management, epoch),
        )

    def _stored(
        self, outcome: Any, number: int, management: StreamManagement | None, epoch: int, receipt: Element | None
    ) -> None:
        self._one_less()
        if management is not None and management is self.management:
            management.handled(number, epoch)
            self._tell(management)
        if receipt is not None and outcome is not False:
            self._send_receipt(receipt)
        self._check_idle()

    def _not_stored(self, failure: Failure, management: StreamManagement | None, epoch: int) -> None:
        self._one_less()
        is_present = management is self.management and (management is None or epoch == management.epoch)
        if is_present and self._stream is not None:
            self._cut(f"a stanza could not be stored: {failure.getErrorMessage()}")
        self._check_idle()

    def _one_less(self) -> None:
        self.unstored -= 1
        if self._is_behind and self.unstored <= MAX_UNSTORED // 2:
            self._is_behind = False
            self._reading(True)

    def _send_receipt(self, receipt: Element) -> None:
        try:
            self.send(receipt)
        except (LinkGone, StanzaTooLarge, StanzaNotSendable) as error:
            self._events.emit(link_events.ReceiptUnsent(self._connector, receipt["to"][:200], str(error)))

    def _answer(self, answer: Element) -> None:
        try:
            self.send(answer)
        except (LinkGone, StanzaTooLarge, StanzaNotSendable) as error:
            self._events.emit(link_events.StanzaMalformed(self._connector, "the server", f"no answer: {error}"))

    # Counts, in both directions.

    def _counts(self, number: int) -> None:
        management = self.management
        if management is not None:
            management.handled(number, management.epoch)
            self._tell(management)

    def _tell(self, management: StreamManagement) -> None:
        """Tell the server what is counted, when it waits for that or has not heard for long."""
        if self._stream is None or not management.untold:
            return
        if (management.is_asked and not management.pending) or management.untold >= TELL_EVERY:
            self._stream.send(management.answer())

    def _about_counts(self, management: StreamManagement, element: Element) -> None:
        if element.name == "r" and self._stream is not None:
            self._stream.send(management.answer())
        elif element.name == "a":
            try:
                management.confirmed(element.getAttribute("h"))
            except sm.CountBroken as error:
                management.resume_id = ""
                self._cut(str(error))
                return
            self._is_asking = False
            self._ask_count()
            self._check_idle()

    def _ask_count(self) -> None:
        management = self.management
        if management is not None and management.unconfirmed and not self._is_asking and self._stream is not None:
            self._is_asking = True
            self._stream.send(Element((sm.NS, "r")))

    # What goes.

    def send(self, element: Element) -> None:
        """See `IXMPPLink.send`."""
        if self._stream is None:
            raise LinkGone("there is no session with the XMPP server")
        if not element.getAttribute("from") and self._stream.namespace == "jabber:component:accept":
            element["from"] = self._stream.authenticator.outcome.jid
        self._stream.send(element)

    def stanza_leaving(self, data: bytes, kind: str) -> None:
        """See `stream.IStreamSession`."""
        if len(data) > self._max_stanza_bytes:
            raise StanzaTooLarge(len(data), self._max_stanza_bytes)
        management = self.management
        if management is not None and management.is_full(kind):
            raise LinkBusy(f"the server has not confirmed the last {len(management.unconfirmed)} stanzas")
        if self._is_stuck:
            if self._unsent_bytes + len(data) > MAX_UNSENT_BYTES:
                raise LinkBusy(f"the server does not read: {self._unsent_bytes} bytes wait")
            self._unsent_bytes += len(data)
        if management is not None:
            management.sent(kind, data, self._clock.seconds())
        self.sent += 1

    def stanza_left(self) -> None:
        """See `stream.IStreamSession`."""
        self._ask_count()

    def stream_broken(self, why: str) -> None:
        """See `stream.IStreamSession`."""
        self._cut(why)

    def request(self, iq: Element, timeout_seconds: float) -> Deferred[Element]:
        """See `IXMPPLink.request`."""
        answer = self.asked.add(iq, timeout_seconds)
        if answer.called:
            return answer
        try:
            self.send(iq)
        except (LinkGone, StanzaTooLarge, StanzaNotSendable):
            self.asked.drop(iq)
            answer.errback(Failure())
        return answer

    # IPushProducer: the connection says how fast the server reads.

    def pauseProducing(self) -> None:
        self._is_stuck = True
        self._unsent_bytes = 0

    def resumeProducing(self) -> None:
        self._is_stuck = False

    def stopProducing(self) -> None:
        self._is_stuck = True

    # Stopping.

    def when_idle(self, told: Callable[[], None]) -> None:
        """Call `told` once, when all that came is stored and all that went is confirmed."""
        self._idle = told
        self._ask_count()
        self._check_idle()

    def say_count(self) -> None:
        """Tell the server the last count."""
        if self._stream is not None and self.management is not None:
            self._stream.send(self.management.answer())

    def _check_idle(self) -> None:
        if self._idle is None or self.unstored:
            return
        if self._stream is not None and self.management is not None and self.management.unconfirmed:
            return
        told, self._idle = self._idle, None
        told()
