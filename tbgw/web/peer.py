"""Who is at the other end of a connection from this machine: the user that owns the socket, as Linux tells it.

The kernel lists every TCP socket with its owner in `/proc/net/tcp` and `tcp6`; the peer's socket is the one whose ends
are ours, the other way round. That is how identd knew. Considered and left: a secret in the page's address, which ends
up in histories and logs, and a login, for a tool that one tries out on one's own machine.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

OwnerOf = Callable[[tuple[str, int], tuple[str, int]], int | None]
"""What `owner_of` is."""

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def owner_of(peer: tuple[str, int], here: tuple[str, int]) -> int | None:
    """The user id that owns the socket at `peer` whose other end is `here`; None when it cannot be found."""
    for table in _TABLES:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue
        found = find_owner(lines, peer, here)
        if found is not None:
            return found
    return None


def find_owner(lines: Iterable[str], peer: tuple[str, int], here: tuple[str, int]) -> int | None:
    """The same in the lines of one table, without its heading."""
    wanted = _key(*peer), _key(*here)
    for line in lines:
        fields = line.split()
        if len(fields) > 7 and (_parsed(fields[1]), _parsed(fields[2])) == wanted:
            return int(fields[7])
    return None


Key = tuple[bytes, int]


def _key(host: str, port: int) -> Key:
    address = ipaddress.ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).packed, port


def _parsed(text: str) -> Key:
    """`0100007F:1F90`: words of four bytes in the machine's order, then the port."""
    digits, _, port = text.partition(":")
    packed = b"".join(struct.pack("=I", int(digits[at : at + 8], 16)) for at in range(0, len(digits), 8))
    if len(packed) == 16 and packed.startswith(b"\0" * 10 + b"\xff\xff"):
        packed = packed[12:]
    return packed, int(port, 16)
