"""What is in a handshake's request, read by the letter: identity, subprotocol, the address behind a proxy. Pure.

The request's target is read here and not by Autobahn, whose `urlparse` takes `//CP1` for a host and cuts `;1` off
`CP;1`. It is split first and decoded then, so that `%2F` is part of an identity (spec ocpp, 1.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from tbgw.ocpp.versions import Version

MAX_IDENTITY_CHARACTERS = 255
"""2.x allows 48, 1.6 says nothing."""

Network = IPv4Network | IPv6Network


class Target(NamedTuple):
    """Whom a request's target names."""

    path: str
    identity: str


def read_target(uri: str) -> Target | None:
    """
    The target of the request line, as it was sent. None for one that names nobody: its escapes or its UTF-8 are
    broken, it holds control characters, or its last part is too long. An empty path is a target without identity.
    """
    target, _, _ = uri.partition("?")
    scheme, found, rest = target.partition("://")
    if found and scheme.lower() in ("ws", "wss", "http", "https"):
        target = rest[len(rest.partition("/")[0]) :]
    parts = []
    for segment in target.strip("/").split("/"):
        part = _decoded(segment)
        if part is None or not part.isprintable():
            return None
        parts.append(part)
    identity = parts[-1]
    if len(identity) > MAX_IDENTITY_CHARACTERS:
        return None
    return Target("/".join(parts), identity)


def _decoded(segment: str) -> str | None:
    for index, character in enumerate(segment):
        if character == "%":
            digits = segment[index + 1 : index + 3]
            if len(digits) < 2 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
                return None
    try:
        # Autobahn reads the head of a request as Latin-1; who sends UTF-8 without escapes means UTF-8.
        return unquote_to_bytes(segment.encode("latin-1")).decode("utf-8")
    except UnicodeError:
        return None


def choose_version(offered: Sequence[str], allowed: Sequence[Version]) -> Version | None:
    """The first of the client's that is allowed: the order is the client's (spec ocpp, 1.2)."""
    for name in offered:
        for version in allowed:
            if name == version.value:
                return version
    return None


def real_peer(
    peer: tuple[str, int], headers: Mapping[str, str], trusted: Sequence[Network]
) -> tuple[tuple[str, int], bool]:
    """
    Who the client is, and whether a trusted proxy says that it came over TLS. X-Forwarded-For is believed from the
    right, as far as trusted proxies wrote it; the port is 0 then, since they do not tell it.
    """
    if not trusted or not _is_in(peer[0], trusted):
        return peer, False
    is_tls = headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower() in ("https", "wss")
    for hop in reversed(headers.get("x-forwarded-for", "").split(",")):
        address = hop.strip().strip("[]")
        try:
            ip_address(address)
        except ValueError:
            break
        peer = (address, 0)
        if not _is_in(address, trusted):
            break
    return peer, is_tls


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return any(parsed in network for network in networks)
