# -*- test-case-name: tests.connectors.socket.test_naming -*-
"""Names and types of devices that are made of the message or of the peer. Pure.

    ${[0:8]}  ${[3]}   bytes of the message, as text in the device's encoding, without blanks and NULs around it
    ${address} ${port} of the peer, an IPv4 address in its plain form also when it came over an IPv6 socket
    ${id}  ${a.b}      anything else: from the message as JSON

Several, and text around them, make one name. A name of which a part cannot be had is no name: the message is then put
down to the device that its connection last spoke for, if any.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from tbgw.connectors.socket.values import Message
from tbgw.expressions import MISSING, ExpressionError, compile_path, split_template, text_of

Peer = tuple[str, int]
"""IP address and port."""

_SLICE = re.compile(r"\[(-?[0-9]{1,9})?(:)?(-?[0-9]{1,9})?\]")

Part = Callable[[Message, Peer], str]
"""Gives '' when it cannot be had."""


class Name:
    """A compiled name."""

    __slots__ = ("_parts", "constant", "of_peer")

    def __init__(self, parts: list[Part], constant: str | None, of_peer: bool) -> None:
        self._parts = parts
        self.constant = constant
        """The name itself when it depends on nothing."""
        self.of_peer = of_peer
        """Whether the peer's address is in it, so that an address speaks for one device."""

    def make(self, message: Message, peer: Peer) -> str:
        """The name; '' when a part of it cannot be had."""
        made = []
        for part in self._parts:
            text = part(message, peer)
            if not text:
                return ""
            made.append(text)
        return "".join(made).strip()


def compile_name(template: str) -> Name:
    """Raises ExpressionError."""
    parts: list[Part] = []
    of_peer = False
    dynamic = False
    for is_tag, text in split_template(template):
        if not is_tag:
            parts.append(lambda message, peer, text=text: text)  # type: ignore[misc] # bound early, on purpose
            continue
        dynamic = True
        of_peer = of_peer or text == "address"
        parts.append(_part(text))
    return Name(parts, None if dynamic else template, of_peer)


def _part(tag: str) -> Part:
    if tag == "address":
        return lambda message, peer: plain_address(peer[0])
    if tag == "port":
        return lambda message, peer: str(peer[1])
    if tag.startswith("["):
        found = _SLICE.fullmatch(tag)
        if found is None or (found[1] is None and not found[2]):
            raise ExpressionError(f"${{{tag}}} is no slice such as ${{[0:8]}} or ${{[3]}}")
        start = int(found[1]) if found[1] else None
        if found[2]:
            where = slice(start, int(found[3]) if found[3] else None)
        else:
            where = slice(start, (start or 0) + 1 or None)
        return lambda message, peer: message.part(where)
    evaluate = compile_path(tag)

    def from_json(message: Message, peer: Peer) -> str:
        body = message.json()
        value = MISSING if body is MISSING else evaluate(body)
        return "" if value is MISSING or value is None else text_of(value)

    return from_json


@lru_cache(maxsize=4096)
def plain_address(ip: str) -> str:
    """`10.0.0.7` also for `::ffff:10.0.0.7`."""
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return ip
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
