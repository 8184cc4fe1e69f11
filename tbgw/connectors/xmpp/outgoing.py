# -*- test-case-name: tests.connectors.xmpp.test_commands -*-
"""What goes out to one device: messages, iqs, control, with the answer that comes back and the outcome that is kept.

Everything here goes to a device of the configuration, never to a JID that came with a request alone (P-09).
"""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_hex
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element

from tbgw.connectors.xmpp import iot_control as control
from tbgw.connectors.xmpp.answers import Exchange, Exchanges
from tbgw.connectors.xmpp.errors import LinkGone, StanzaNotSendable, StanzaRefused, StanzaTooLarge
from tbgw.connectors.xmpp.interfaces import IXMPPLink
from tbgw.connectors.xmpp.outcomes import OK, UNAVAILABLE, Outcome, Refusal, code_of, refusal_of
from tbgw.connectors.xmpp.presence import Presences, Recipient
from tbgw.connectors.xmpp.readouts import iq_to
from tbgw.errors import CommandFailed
from tbgw.model import Value

DISCO_INFO = "http://jabber.org/protocol/disco#info"
HINTS = "urn:xmpp:hints"
MAX_FEATURES = 200
NOT_SENT = (LinkGone, StanzaTooLarge, StanzaNotSendable)


class Outgoing:
    """See the module. One for each connector."""

    def __init__(self, link: IXMPPLink, presences: Presences, clock: IReactorTime) -> None:
        self.exchanges = Exchanges(clock)
        self.link = link
        self._presences = presences
        self._clock = clock
        self._prefix = token_hex(6)
        self._count = 0

    def number(self) -> str:
        """A new `id`, unlike those of the gateway's earlier life."""
        self._count += 1
        return f"{self._prefix}-{self._count}"

    # Messages.

    def message(self, recipient: Recipient, body: str, kind: str, *, is_command: bool) -> None:
        """
        Send and wait for nothing. A command for a device that is not there is refused, and marked so that the server
        does not keep it: it would be carried out whenever the device comes back. Raises Refusal.
        """
        if is_command:
            self._check_there(recipient)
        self._send(self._message(recipient, body, kind, self.number(), is_command))

    def ask(
        self,
        recipient: Recipient,
        body: str,
        kind: str,
        *,
        by_place: bool,
        is_data: bool | None,
        timeout_seconds: float,
    ) -> Deferred[str]:
        """Send, and wait for the device's answer. Fires with its body; fails with Refusal. May be cancelled."""
        number = self.number()
        exchange = Exchange(number, by_place, is_data, timeout_seconds)
        try:
            self._check_there(recipient)
        except Refusal as refusal:
            return fail(refusal)
        answer = self.exchanges.begin(recipient.station, exchange)
        if not answer.called:
            message = self._message(recipient, body, kind, number, True)
            message.addElement((None, "thread"), content=number)
            try:
                self._send(message)
            except Refusal as refusal:
                self.exchanges.bounced(recipient.station, number, refusal)
        return answer

    def _message(self, recipient: Recipient, body: str, kind: str, number: str, is_command: bool) -> Element:
        message = Element((None, "message"))
        message["to"] = recipient.target()
        message["id"] = number
        if kind != "normal":
            message["type"] = kind
        message.addElement((None, "body"), content=body)
        if is_command:
            message.addElement((HINTS, "no-store"))
        return message

    def control_message(self, recipient: Recipient, values: Sequence[control.Parameter], nodes: Sequence[str]) -> None:
        """Control without an answer (XEP-0325, 3.1.1). Raises Refusal."""
        self._check_there(recipient)
        message = Element((None, "message"))
        message["to"] = recipient.target()
        message["id"] = self.number()
        message.addChild(control.set_element(values, nodes))
        message.addElement((HINTS, "no-store"))
        self._send(message)

    def _send(self, element: Element) -> None:
        try:
            self.link.send(element)
        except NOT_SENT as error:
            raise refusal_of(error) from None

    # Requests.

    def iq(self, jid: str, kind: str, payload: Element, timeout_seconds: float) -> Deferred[Element]:
        """Fires with the result; fails with Refusal. May be cancelled."""

        def refused(failure: Failure) -> Any:
            if failure.check(CancelledError) is not None:
                return failure
            error: Any = failure.value
            if isinstance(error, StanzaRefused):
                old = control.refusal(error.element)
                if old is not None and not error.condition:
                    raise Refusal(f"refused by the device: {': '.join(filter(None, old))}"[:1000], code_of(old[0]))
                blamed = control.blamed(error.element)
                if blamed:
                    words = ": ".join(filter(None, (error.condition, error.text, blamed)))
                    raise Refusal(f"refused by the device: {words}"[:1000], code_of(error.condition))
            raise refusal_of(error, timeout_seconds)

        return self.link.request(iq_to(jid, kind, payload), timeout_seconds).addErrback(refused)

    def control(self, recipient: Recipient, payload: Element, timeout_seconds: float) -> Deferred[Value]:
        """An iq of type set with `<set>`; fires with `{"success": true}`, fails with Refusal."""

        def done(iq: Element) -> Value:
            old = control.refusal(iq)
            if old is not None:
                raise Refusal(f"refused by the device: {': '.join(filter(None, old))}"[:1000], code_of(old[0]))
            return {"success": True}

        try:
            jid = self.resource_of(recipient, control.NAMESPACE)
        except Refusal as refusal:
            return fail(refusal)
        return self.iq(jid, "set", payload, timeout_seconds).addCallback(done)

    def form(self, recipient: Recipient, nodes: Sequence[str], timeout_seconds: float) -> Deferred[Value]:
        """The device's control form; fails with Refusal."""

        def got(iq: Element) -> Value:
            form = control.read_form(iq)
            if form is None:
                old = control.refusal(iq)
                raise Refusal("the device's answer holds no form" if old is None else f"refused: {': '.join(old)}", 500)
            return form

        try:
            jid = self.resource_of(recipient, control.NAMESPACE)
        except Refusal as refusal:
            return fail(refusal)
        return self.iq(jid, "get", control.get_form_element(nodes), timeout_seconds).addCallback(got)

    def features(self, jid: str, timeout_seconds: float) -> Deferred[tuple[str, ...]]:
        """What an entity announces by disco#info; fails with Refusal."""

        def got(iq: Element) -> tuple[str, ...]:
            found = [
                str(feature.getAttribute("var", ""))
                for query in iq.elements(DISCO_INFO, "query")
                for feature in query.elements(DISCO_INFO, "feature")
            ]
            return tuple(sorted(set(found[:MAX_FEATURES])))

        return self.iq(jid, "get", Element((DISCO_INFO, "query")), timeout_seconds).addCallback(got)

    def resource_of(self, recipient: Recipient, namespace: str = "") -> str:
        """
        Where an iq goes: a bare JID would be answered by its server, not by the device. Of several resources one that
        announces the namespace comes first. Raises Refusal when none of them is known.
        """
        self._check_there(recipient)
        target = recipient.target()
        features = recipient.station.features
        if namespace and namespace not in features.get(target, ()):
            target = next((jid for jid, found in features.items() if namespace in found), target)
        if "/" not in target and recipient.station.address.local:
            raise Refusal("gone: no resource of the device is known; it has to show its presence or write", UNAVAILABLE)
        return target

    def _check_there(self, recipient: Recipient) -> None:
        if recipient.online is False:
            raise Refusal("gone: the device is offline", UNAVAILABLE)

    # Outcomes.

    def observed(self, recipient: Recipient, work: Deferred[Any]) -> Deferred[Any]:
        """The same, and the device's attributes tell what came of it."""
        if not recipient.entry.tells_status:
            return work
        began = self._clock.seconds()

        def done(value: Any) -> Any:
            self._tell(recipient, Outcome(True, self.since(began), OK, value, ""))
            return value

        def failed(failure: Failure) -> Any:
            if failure.check(CommandFailed) is not None:
                refusal = refusal_of(failure.value)
                self._tell(recipient, Outcome(False, self.since(began), refusal.code, None, str(refusal)))
            return failure

        return work.addCallbacks(done, failed)

    def since(self, began: float) -> int:
        """Milliseconds since a time of the clock."""
        return round((self._clock.seconds() - began) * 1000)

    def now(self) -> float:
        """Seconds on the clock."""
        return self._clock.seconds()

    def _tell(self, recipient: Recipient, outcome: Outcome) -> None:
        self._presences.attributes(recipient, outcome.attributes())
