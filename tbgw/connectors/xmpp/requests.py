# -*- test-case-name: tests.connectors.xmpp.test_commands -*-
"""`xmpp_request`, which the Iotellect driver calls "Execute XMPP Request": a message or an iq to the device, and what
came of it.

    {"body": "status?"}                                             a message with this body
    {"data": {"name1": 1, "name2": true}}                           a message: name1=1;name2=true
    {"iq": "get", "xml": "<query xmlns='jabber:iq:version'/>"}      an iq with this payload

besides `messageType` (`chat`), `timeoutMs` (5000), `withResponse` (true), `correlateBy` (`any` or `thread`). The answer
is always `{"successful", "responseTimeMs", "replyCode", "reply", "error"}`; a request that failed is an answer, too.
Only parameters that cannot be understood are a failed command. The reply to an iq is its payload as an object:
`{"name", "namespace", "attributes", "text", "children"}`.

The payload is written by an operator and read with a limit of size, elements and depth; an entity, a processing
instruction or a second root is refused.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element, ParserError, elementStream

from tbgw.connectors.xmpp.converter import read_json, write_pairs
from tbgw.connectors.xmpp.outcomes import BAD_REQUEST, OK, Outcome, Refusal, refusal_of
from tbgw.connectors.xmpp.outgoing import Outgoing
from tbgw.connectors.xmpp.presence import Recipient
from tbgw.errors import CommandFailed
from tbgw.expressions import text_of
from tbgw.model import Value

MAX_PAYLOAD_CHARACTERS = 100_000
MAX_PAYLOAD_ELEMENTS = 2_000
MAX_PAYLOAD_DEPTH = 50
MAX_REPLY_ELEMENTS = 2_000
"""Elements of a reply that are told; what is beyond is left out."""
MAX_TIMEOUT_MS = 110_000


class Requests:
    """See the module."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing

    def execute(self, recipient: Recipient, params: Value) -> Deferred[Value]:
        """Fires with the answer as in the module; fails with CommandFailed for parameters that mean nothing."""
        if isinstance(params, str):
            params = {"body": params}
        if not isinstance(params, dict):
            return fail(Refusal("bad parameters: give body, data, or iq and xml", BAD_REQUEST))
        try:
            seconds = _seconds(params.get("timeoutMs"))
            if params.get("iq") is not None:
                kind, payload = params["iq"], read_payload(params.get("xml"))
                if kind not in ("get", "set"):
                    raise Refusal('bad parameters: iq is "get" or "set"', BAD_REQUEST)
                work = self._iq(recipient, kind, payload, seconds)
            else:
                work = self._message(recipient, params, _body_of(params), seconds)
        except Refusal as refusal:
            return fail(refusal)
        began = self._outgoing.now()
        work = self._outgoing.observed(recipient, work)

        def done(reply: Value) -> Value:
            return Outcome(True, self._outgoing.since(began), OK, reply, "").answer()

        def failed(failure: Failure) -> Value:
            failure.trap(CommandFailed)
            refusal = refusal_of(failure.value)
            return Outcome(False, self._outgoing.since(began), refusal.code, None, str(refusal)).answer()

        return work.addCallbacks(done, failed)

    def _iq(self, recipient: Recipient, kind: str, payload: Element, seconds: float) -> Deferred[Value]:
        try:
            jid = self._outgoing.resource_of(recipient)
        except Refusal as refusal:
            return fail(refusal)
        return self._outgoing.iq(jid, kind, payload, seconds).addCallback(_payload_of)

    def _message(self, recipient: Recipient, params: dict[str, Value], body: str, seconds: float) -> Deferred[Value]:
        kind = params.get("messageType", "chat")
        if kind not in ("chat", "normal", "headline"):
            raise Refusal("bad parameters: messageType is chat, normal or headline", BAD_REQUEST)
        if params.get("withResponse", True) is False:
            try:
                self._outgoing.message(recipient, body, kind, is_command=True)
            except Refusal as refusal:
                return fail(refusal)
            return succeed(None)
        by_place = params.get("correlateBy", "any") != "thread"
        answer = self._outgoing.ask(
            recipient, body, kind, by_place=by_place, is_data=None, timeout_seconds=seconds
        )
        return answer.addCallback(read_json)


def _body_of(params: dict[str, Value]) -> str:
    body, data = params.get("body"), params.get("data")
    if isinstance(data, dict) and data:
        try:
            return write_pairs(data)
        except ValueError as error:
            raise Refusal(f"bad parameters: {error}", BAD_REQUEST) from None
    text = text_of(data if body is None else body) if (body is not None or data is not None) else ""
    if not text:
        raise Refusal("bad parameters: give body, data, or iq and xml", BAD_REQUEST)
    return text


def _seconds(timeout_ms: Value) -> float:
    if timeout_ms is None:
        return 5.0
    is_number = isinstance(timeout_ms, (int, float)) and not isinstance(timeout_ms, bool)
    if not is_number or not 1 <= timeout_ms <= MAX_TIMEOUT_MS:
        raise Refusal(f"bad parameters: timeoutMs is a number from 1 to {MAX_TIMEOUT_MS}", BAD_REQUEST)
    return float(timeout_ms) / 1000


def read_payload(xml: Value) -> Element:
    """The one element in a text. Raises Refusal."""
    if not isinstance(xml, str) or not xml.strip():
        raise Refusal("bad parameters: xml is the payload of the iq, one element", BAD_REQUEST)
    if len(xml) > MAX_PAYLOAD_CHARACTERS or xml.count("<") > MAX_PAYLOAD_ELEMENTS:
        raise Refusal("bad parameters: xml is too long", BAD_REQUEST)
    if "<!" in xml or "<?" in xml:
        raise Refusal("bad parameters: xml holds a declaration, which XMPP has not", BAD_REQUEST)
    found: list[Element] = []
    stream: Any = elementStream()
    stream.DocumentStartEvent = lambda root: None
    stream.ElementEvent = found.append
    stream.DocumentEndEvent = lambda: None
    try:
        stream.parse(b"<payload>" + xml.encode() + b"</payload>")
    except (ParserError, UnicodeError) as error:
        raise Refusal(f"bad parameters: xml is not well-formed: {str(error)[:200]}", BAD_REQUEST) from None
    if len(found) != 1 or _depth(found[0]) > MAX_PAYLOAD_DEPTH:
        raise Refusal("bad parameters: xml is one element, not nested too deeply", BAD_REQUEST)
    return found[0]


def _depth(element: Element) -> int:
    depth, level = 0, [element]
    while level:
        depth += 1
        level = [child for one in level for child in one.elements()]
    return depth


def _payload_of(iq: Element) -> Value:
    child = iq.firstChildElement()
    return None if child is None else as_object(child)


def as_object(element: Element) -> dict[str, Value]:
    """An element as JSON, whatever it holds: without recursion, and bounded."""
    root = _own(element)
    waiting = [(element, root)]
    count = 1
    while waiting:
        one, made = waiting.pop()
        for child in one.elements():
            count += 1
            if count > MAX_REPLY_ELEMENTS:
                return root
            inner = _own(child)
            made.setdefault("children", []).append(inner)
            waiting.append((child, inner))
    return root


def _own(element: Element) -> dict[str, Value]:
    attributes = {name if isinstance(name, str) else name[1]: str(value) for name, value in element.attributes.items()}
    text = "".join(child for child in element.children if isinstance(child, str))
    made: dict[str, Value] = {"name": element.name, "namespace": element.uri}
    if attributes:
        made["attributes"] = attributes
    if text.strip():
        made["text"] = text
    return made
