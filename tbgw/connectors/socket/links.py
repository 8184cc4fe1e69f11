# -*- test-case-name: tests.connectors.test_socket_config -*-
"""The parts of the object `socket` that have sections of their own: framing, TLS, targets, multicast groups."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from tbgw.config.schema import (
    Node,
    Refused,
    Reporter,
    config_section,
    flag,
    host_fault,
    integer,
    key_pair_fault,
    one_of,
    read_section,
    read_text,
    setting,
    text,
)
from tbgw.config.schema import (
    certificate as pem_file,
)
from tbgw.connectors.socket.fields import read_bytes_hex, read_bytes_text
from tbgw.connectors.socket.framing import Framing

MAX_TARGET_TEXT = 300


@dataclass(frozen=True, slots=True)
class Target:
    """A device that listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_target(node: Node, reporter: Reporter) -> Target:
    """`host:port`; an IPv6 address in brackets."""
    stated = read_text(node, reporter).strip()
    host, colon, port = stated.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not colon or not port.isascii() or not port.isdigit() or not 1 <= int(port[:6]) <= 65535:
        raise Refused("must be host:port, such as 10.0.0.7:502, with a port from 1 to 65535")
    if not host or host_fault(host) or bracketed != (":" in host) or len(stated) > MAX_TARGET_TEXT:
        raise Refused("must be host:port with a host name or an IP address; an IPv6 address stands in brackets")
    return Target(host, int(port))


@config_section
class TLS:
    """The object `tls`."""

    certificate: Path | None = pem_file("certificate", "cert", default=None, doc="PEM file of our certificate.")
    private_key: Path | None = pem_file("privateKey", default=None, doc="PEM file of its key, without a passphrase.")
    ca_cert: Path | None = pem_file(
        "caCert",
        default=None,
        doc="PEM file of the authorities that are trusted: as client for the devices, instead of the system's; "
        "as server for the certificates that devices must then show.",
    )
    server_name: str | None = text(
        "serverName", default=None, doc="As client: the name that the certificate must be for; None: the target's host."
    )
    accept_any_server: bool = flag(
        "dangerouslyAcceptAnyServerCertificate",
        default=False,
        doc="As client: do not verify who answers. Anybody on the way can read and change everything. For tests only.",
    )
    handshake_seconds: int = integer(
        "handshakeTimeoutSeconds",
        minimum=1,
        maximum=600,
        default=20,
        unit="seconds",
        doc="How long the handshake may take.",
    )


def read_tls(node: Node, reporter: Reporter) -> TLS:
    """The object `tls`, its files checked."""
    tls = read_section(TLS, node, reporter)
    if (tls.certificate is None) != (tls.private_key is None):
        reporter.fault(node, "needs both certificate and privateKey, or neither")
    elif tls.certificate is not None and tls.private_key is not None:
        if why := key_pair_fault(tls.certificate, tls.private_key):
            reporter.fault(node, why)
        reporter.holds_secret(node)
    if tls.accept_any_server:
        given = node.member("dangerouslyAcceptAnyServerCertificate") or node
        reporter.warning(given, "whoever answers is not verified: anybody on the way can read and change everything")
    return tls


@config_section
class _Framing:
    """The object `framing`."""

    type: Literal["none", "delimiter", "fixed", "length", "markers", "gap"] | None = one_of(
        "type",
        choices=("none", "delimiter", "fixed", "length", "markers", "gap"),
        default=None,
        doc="What ends a message; delimiter if one is given.",
    )
    delimiter: bytes | None = setting(
        "delimiter", read=read_bytes_text, default=None, doc=r"Bytes that end a message, as text; \n \r \t \0 \xHH."
    )
    delimiter_hex: bytes | None = setting(
        "delimiterHex", read=read_bytes_hex, default=None, doc="The same in hex, such as 0d0a."
    )
    length: int | None = integer(
        "length", minimum=1, maximum=1 << 20, default=None, unit="bytes", doc="fixed: length of each message."
    )
    prefix_bytes: int = integer(
        "lengthBytes", minimum=1, maximum=8, default=2, unit="bytes", doc="length: size of the length field."
    )
    prefix_offset: int = integer(
        "lengthOffset", minimum=0, maximum=1024, default=0, unit="bytes", doc="length: bytes before the length field."
    )
    prefix_order: Literal["big", "little"] = one_of(
        "byteOrder", choices=("big", "little"), default="big", doc="length: order of the bytes of the length field."
    )
    prefix_counts: Literal["rest", "field", "all"] = one_of(
        "lengthCounts",
        choices=("rest", "field", "all"),
        default="rest",
        doc="length: whether it counts what comes behind the field, the field and that, or the whole message.",
    )
    prefix_adds: int = integer(
        "lengthAdds",
        minimum=-1024,
        maximum=1024,
        default=0,
        unit="bytes",
        doc="length: added to the number, for a trailer that it does not count.",
    )
    keep_prefix: bool = flag(
        "keepHeader", default=False, doc="length: whether the field and what is before it belong to the message."
    )
    start: bytes | None = setting("start", read=read_bytes_text, default=None, doc="markers: bytes that begin one.")
    start_hex: bytes | None = setting("startHex", read=read_bytes_hex, default=None, doc="The same in hex.")
    end: bytes | None = setting("end", read=read_bytes_text, default=None, doc="markers: bytes that end one.")
    end_hex: bytes | None = setting("endHex", read=read_bytes_hex, default=None, doc="The same in hex.")
    keep_marks: bool = flag("keepMarkers", default=False, doc="markers: whether they belong to the message.")
    gap_ms: int = integer(
        "gapMs", minimum=1, maximum=600_000, default=50, unit="ms", doc="gap: the silence that ends a message."
    )
    on_overflow: Literal["resynchronise", "close"] = one_of(
        "onOverflow",
        choices=("resynchronise", "close"),
        default="resynchronise",
        doc="What becomes of a connection that sends a message above bufferSize, which is dropped in any case.",
    )


_KEYS_OF = {
    "none": (),
    "delimiter": ("delimiter", "delimiterHex"),
    "fixed": ("length",),
    "length": ("lengthBytes", "lengthOffset", "byteOrder", "lengthCounts", "lengthAdds", "keepHeader"),
    "markers": ("start", "startHex", "end", "endHex", "keepMarkers"),
    "gap": ("gapMs",),
}


def read_framing(node: Node, reporter: Reporter) -> Framing:
    """The object `framing`."""
    read = read_section(_Framing, node, reporter)
    given = node.member("delimiter") or node.member("delimiterHex")
    kind = read.type or ("delimiter" if given is not None else "none")
    for other, keys in _KEYS_OF.items():
        for key in keys:
            if other != kind and key not in _KEYS_OF[kind] and (found := node.member(key)) is not None:
                reporter.doubt(found, f"has no effect with type {kind}")
    for plain in ("delimiter", "start", "end"):
        if node.member(plain) is not None and node.member(f"{plain}Hex") is not None:
            reporter.fault(node, f"give {plain} or {plain}Hex, not both")
    start, end = read.start or read.start_hex or b"", read.end or read.end_hex or b""
    if kind == "markers":
        if not end:
            reporter.missing(node, "end", "is missing: markers need at least the one that ends a message")
            end = b"\n"
        elif start and start != end and start in end:
            reporter.fault(node, "the start mark occurs within the end mark, so no message could be told from another")
    if kind == "fixed" and read.length is None:
        reporter.missing(node, "length", "is missing: type fixed needs it")
    return Framing(
        type=kind,
        delimiter=read.delimiter or read.delimiter_hex or b"\n",
        length_bytes=read.length or 1,
        prefix_offset=read.prefix_offset,
        prefix_bytes=read.prefix_bytes,
        prefix_order=read.prefix_order,
        prefix_counts=read.prefix_counts,
        prefix_adds=read.prefix_adds,
        keep_prefix=read.keep_prefix,
        start=start,
        end=end,
        keep_marks=read.keep_marks,
        gap_ms=read.gap_ms,
        on_overflow=read.on_overflow,
    )


def read_groups(node: Node, reporter: Reporter) -> tuple[str, ...]:
    """Multicast addresses."""
    if not isinstance(node.value, tuple):
        raise Refused(f"is {node.kind}, must be a list [...]")
    groups = []
    for child in node.value:
        try:
            group = read_text(child, reporter).strip()
            if not ip_address(group).is_multicast:
                raise ValueError
            groups.append(group)
        except ValueError:
            reporter.fault(child, "must be a multicast address, from 224.0.0.0 to 239.255.255.255 or ff00::/8")
        except Refused as refusal:
            refusal.report(child, reporter)
    return tuple(groups)
