# -*- test-case-name: tests.connectors.socket.test_addresses -*-
"""Which configured device a peer's address belongs to (spec configuration-and-apis, 1A.3; promise P-09).

`parse_filter` turns the text of the configuration into networks and a range of ports, once; `AddressTable`
finds the most specific filter for a peer. Invariants:

* A pattern matches whole octets and whole addresses, never a piece of text: `192.16.*` does not admit
  192.168.1.5.
* The address decides before the port: exact address > longer prefix > any address; then exact port > range >
  any port. Filters equal in both take their order in the configuration. A more specific address whose ports do
  not fit does not hide a less specific one.
* An IPv4 peer seen through an IPv6 socket (`::ffff:10.0.0.1`) is an IPv4 peer, for filters of both spellings.
* A look-up costs the same for one filter and for a thousand: a dictionary for each prefix length that occurs,
  its result kept for each peer address in a bounded LRU cache, and a bisection over the port ranges.

Dropped: regular expressions on `ip:port`, as the reference has them (dots not escaped, linear in the number
of rules); host names, which would make admission depend on what a name server says at that moment.
"""

from __future__ import annotations

import heapq
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

MAX_PORT = 65535
CACHED_PEERS = 8192
"""Peer addresses whose matching rules are remembered: more than a gateway serves at a time, under 2 MiB."""

_FORM = (
    "allowed is <ip>:<port>, where <ip> is *, an IPv4 address, an IPv6 address in brackets, a network such "
    "as 10.0.0.0/24 or [2001:db8::]/32, or leading whole octets such as 192.168.*, and <port> is *, a port "
    "from 1 to 65535 or a range such as 6000-6010"
)
_DIGITS = re.compile(r"[0-9]{1,5}")
_OCTETS = re.compile(r"[0-9.*]*\*[0-9.*]*")
_MAPPED = IPv6Network("::ffff:0:0/96")
_LOOPBACK: tuple[Network, ...] = (IPv4Network("127.0.0.1/32"), IPv6Network("::1/128"))


@dataclass(frozen=True, slots=True)
class AddressFilter:
    """Peers that a device may speak from. Equal when they admit by the same networks and ports."""

    text: str = field(compare=False)
    """As it stands in the configuration, for messages."""
    networks: tuple[Network, ...] | None = None
    """The peer's address is in one of these; None: any address. One only, save for `localhost`."""
    first_port: int = 0
    last_port: int = MAX_PORT
    """The peer's port is in this range, both ends included."""

    def __str__(self) -> str:
        return self.text

    @property
    def one_address(self) -> bool:
        """Whether only one address is admitted, or the two of `localhost`."""
        return self.networks is not None and all(one.prefixlen == one.max_prefixlen for one in self.networks)

    @property
    def single(self) -> tuple[str, int] | None:
        """Address and port, if only one of each is admitted."""
        if self.networks is None or not self.one_address or self.first_port != self.last_port:
            return None
        return str(self.networks[0].network_address), self.first_port


def parse_filter(text: str) -> AddressFilter:
    """
    Read one filter: `<ip>:<port>`, each half literal or `*`; `*.*` is an alias of `*:*`. Raises ValueError
    whose text says what is wrong and what is allowed.
    """
    stripped = text.strip()
    if stripped == "*.*":
        return AddressFilter(text)
    host, colon, ports = _halves(stripped)
    if not colon:
        raise _fault(text, f"there is no port; write {stripped or '*'}:* for any port")
    networks = _parse_host(text, host)
    first_port, last_port = _parse_ports(text, ports)
    return AddressFilter(text, networks, first_port, last_port)


def _fault(text: str, what: str) -> ValueError:
    return ValueError(f"address filter {text!r}: {what}; {_FORM}")


def _halves(text: str) -> tuple[str, str, str]:
    """The host without brackets (a prefix length behind the bracket moves inside), a colon, the ports."""
    if not text.startswith("["):
        return text.rpartition(":") if ":" in text else (text, "", "")
    inside, bracket, rest = text[1:].partition("]")
    before, colon, ports = rest.partition(":")
    if not bracket:
        raise _fault(text, "a bracket is opened and not closed")
    if before and not before.startswith("/"):
        raise _fault(text, f"{before!r} behind the bracket makes no sense")
    if ":" not in inside:
        raise _fault(text, "brackets are for IPv6 addresses only")
    return inside + before, colon, ports


def _parse_host(text: str, host: str) -> tuple[Network, ...] | None:
    if host in ("*", "*.*"):
        return None
    if host.lower() == "localhost":
        return _LOOPBACK
    if _OCTETS.fullmatch(host):
        return (_parse_octets(text, host),)
    if ":" in host and not text.strip().startswith("["):
        raise _fault(text, "an IPv6 address stands in brackets, as in [2001:db8::1]:50000")
    if "%" in host:
        raise _fault(text, "an IPv6 zone (what follows %) is not possible here")
    try:
        network = ip_network(host, strict=False)
    except ValueError:
        raise _fault(
            text,
            f"{host!r} is no IP address or network, and host names other than localhost are not possible: "
            "use the address",
        ) from None
    try:
        ip_network(host, strict=True)
    except ValueError:
        raise _fault(text, f"there are bits set behind the prefix; the whole network is {network}") from None
    return (_unmapped(network),)


def _parse_octets(text: str, host: str) -> IPv4Network:
    octets = host.split(".")
    known = octets[: octets.index("*")] if "*" in octets else octets
    stars = octets[len(known) :]
    if not stars or any(octet != "*" for octet in stars) or len(octets) > 4:
        raise _fault(text, "* stands for whole octets at the end, as in 192.168.*, or alone for any address")
    try:
        return IPv4Network(f"{'.'.join(known + ['0'] * (4 - len(known)))}/{8 * len(known)}")
    except ValueError:
        raise _fault(text, "the octets before * must be numbers from 0 to 255") from None


def _parse_ports(text: str, ports: str) -> tuple[int, int]:
    if ports == "*":
        return 0, MAX_PORT
    first, dash, last = ports.partition("-")
    if not _DIGITS.fullmatch(first) or (dash and not _DIGITS.fullmatch(last)):
        raise _fault(text, f"{ports!r} is no port")
    low, high = int(first), int(last if dash else first)
    if not 1 <= low <= high <= MAX_PORT:
        raise _fault(text, f"port {ports} is not within 1 to {MAX_PORT} in rising order")
    return low, high


def _unmapped(network: Network) -> Network:
    """The IPv4 network that an IPv4-mapped IPv6 network stands for; others as they are."""
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


class _PortRules:
    """The ports of all filters for one network: a port to the index of the filter that it takes."""

    def __init__(self, rules: Sequence[tuple[int, int, int]]) -> None:
        """`rules`: (first port, last port, index), in the order of the configuration."""
        self._exact: dict[int, int] = {}
        self._any: int | None = None
        ranges: list[tuple[int, int, int]] = []
        for first, last, index in rules:
            if first == last:
                self._exact.setdefault(first, index)
            elif (first, last) == (0, MAX_PORT):
                self._any = index if self._any is None else self._any
            else:
                ranges.append((first, last, index))
        # Cut into stretches within which the answer is the same: where each begins, and whose it is.
        self._starts: list[int] = []
        self._winners: list[int | None] = []
        ranges.sort()
        position = 0
        open_ranges: list[tuple[int, int]] = []  # heap of (index, last port)
        for edge in sorted({edge for first, last, _ in ranges for edge in (first, last + 1)}):
            while position < len(ranges) and ranges[position][0] == edge:
                heapq.heappush(open_ranges, (ranges[position][2], ranges[position][1]))
                position += 1
            while open_ranges and open_ranges[0][1] < edge:
                heapq.heappop(open_ranges)
            self._starts.append(edge)
            self._winners.append(open_ranges[0][0] if open_ranges else None)

    def find(self, port: int) -> int | None:
        index = self._exact.get(port)
        if index is not None:
            return index
        if self._starts:
            stretch = bisect_right(self._starts, port) - 1
            if stretch >= 0:
                index = self._winners[stretch]
                if index is not None:
                    return index
        return self._any


class AddressTable:
    """All filters of a connector, ready to be asked for each connection and each datagram."""

    def __init__(self, filters: Sequence[AddressFilter]) -> None:
        anywhere: list[tuple[int, int, int]] = []
        by_network: dict[Network, list[tuple[int, int, int]]] = {}
        for index, one in enumerate(filters):
            rule = (one.first_port, one.last_port, index)
            if one.networks is None:
                anywhere.append(rule)
            for network in one.networks or ():
                by_network.setdefault(network, []).append(rule)
        self._anywhere = (_PortRules(anywhere),) if anywhere else ()
        # By IP version: bits behind the prefix, and leading bits -> rules; the longest prefix comes first.
        prefixes: dict[tuple[int, int], dict[int, _PortRules]] = {}
        for network, rules in by_network.items():
            host_bits = network.max_prefixlen - network.prefixlen
            leading = int(network.network_address) >> host_bits
            prefixes.setdefault((network.version, host_bits), {})[leading] = _PortRules(rules)
        self._prefixes: dict[int, list[tuple[int, dict[int, _PortRules]]]] = {4: [], 6: []}
        for version, host_bits in sorted(prefixes):
            self._prefixes[version].append((host_bits, prefixes[version, host_bits]))
        self._rules_for = lru_cache(maxsize=CACHED_PEERS)(self._look_up)

    def find(self, ip: str, port: int) -> int | None:
        """Position of the filter that this peer takes. None: refused, as is what is no IP address."""
        for rules in self._rules_for(ip):
            index = rules.find(port)
            if index is not None:
                return index
        return None

    def _look_up(self, ip: str) -> tuple[_PortRules, ...]:
        """The rules whose address part admits `ip`, most specific first."""
        try:
            address = ip_address(ip.partition("%")[0])
        except ValueError:
            return ()
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        bits = int(address)
        found = [
            rules
            for host_bits, by_leading in self._prefixes[address.version]
            if (rules := by_leading.get(bits >> host_bits)) is not None
        ]
        return (*found, *self._anywhere)
