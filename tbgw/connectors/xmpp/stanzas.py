# -*- test-case-name: tests.connectors.xmpp.test_parts -*-
"""Answers, and what is asked of stanzas in more than one place. Nothing here recurses into what a stranger sent."""

from __future__ import annotations

from twisted.words.protocols.jabber.jid import JID, InvalidFormat
from twisted.words.xish.domish import Element

NS_STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"
NS_PING = "urn:xmpp:ping"
NS_RECEIPTS = "urn:xmpp:receipts"
MAX_ID_LENGTH = 1024
"""Characters. An id is repeated in each answer, so a longer one is not answered."""

_TYPES = {
    "bad-request": "modify",
    "conflict": "cancel",
    "feature-not-implemented": "cancel",
    "forbidden": "auth",
    "internal-server-error": "cancel",
    "item-not-found": "cancel",
    "not-acceptable": "modify",
    "not-allowed": "cancel",
    "not-authorized": "auth",
    "policy-violation": "modify",
    "resource-constraint": "wait",
    "service-unavailable": "cancel",
}
"""RFC 6120, 8.3.3: the type that goes with each condition that we use."""


def result(request: Element) -> Element:
    """The empty result of an iq; the caller adds what belongs into it."""
    return _answer(request, "result")


def error(request: Element, condition: str, text: str = "") -> Element:
    """An error in answer to a stanza. Of what was asked nothing is repeated but the id."""
    answer = _answer(request, "error")
    part = answer.addElement((None, "error"))
    part["type"] = _TYPES[condition]
    part.addElement((NS_STANZAS, condition))
    if text:
        part.addElement((NS_STANZAS, "text"), content=text)
    return answer


def _answer(request: Element, kind: str) -> Element:
    answer = Element((None, request.name))
    answer["type"] = kind
    for ours, theirs in (("to", "from"), ("from", "to"), ("id", "id")):
        if value := request.getAttribute(theirs):
            answer[ours] = value
    return answer


def is_request(element: Element) -> bool:
    """Whether it is an iq that has to be answered."""
    return element.name == "iq" and element.getAttribute("type") in ("get", "set")


def error_of(element: Element) -> tuple[str, str]:
    """(condition, text) of a stanza of type error; empty where it has none. Bounded."""
    condition = text = ""
    for part in element.elements():
        if part.name == "error":
            for child in part.elements():
                if child.uri == NS_STANZAS and child.name == "text":
                    text = str(child)[:500]
                elif child.uri == NS_STANZAS and not condition:
                    condition = child.name[:80]
            break
    return condition, text


def normal_jid(text: str | None) -> str | None:
    """A JID in the one spelling of it (RFC 6122); None for none and for what is none."""
    if not text:
        return None
    try:
        return str(JID(text).full())
    except (InvalidFormat, UnicodeError, IndexError):  # the last is Twisted's, for a domain with an empty label
        return None


def receipt_for(message: Element) -> Element | None:
    """The receipt that a message asks for (XEP-0184); None where it asks for none, or may not have one."""
    for child in message.children:  # first of all, since most ask for none
        if not isinstance(child, str) and child.uri == NS_RECEIPTS and child.name == "request":
            break
    else:
        return None
    if message.name != "message" or message.getAttribute("type") in ("error", "groupchat"):
        return None
    sender, identifier = message.getAttribute("from"), message.getAttribute("id")
    if not sender or not identifier or len(identifier) > MAX_ID_LENGTH:
        return None
    receipt = Element((None, "message"))
    receipt["to"] = sender
    if receiver := message.getAttribute("to"):
        receipt["from"] = receiver
    if kind := message.getAttribute("type"):
        receipt["type"] = kind  # so that it goes the way of a chat (XEP-0184, 5.4)
    receipt.addElement((NS_RECEIPTS, "received"))["id"] = identifier
    return receipt
