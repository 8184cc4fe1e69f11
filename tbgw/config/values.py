# -*- test-case-name: tests.config.test_settings -*-
"""Readers of single values: each takes a node and the reporter, and gives the value or raises `Refused`.

Nothing here looks anything up in the network. Files are opened only to see that they are there and can be used: a
certificate that is missing is a fault of the configuration, not of the first connection.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any

from tbgw.config.document import Node, printable
from tbgw.config.findings import Reporter

MAX_PORT = 65535
MAX_PEM_BYTES = 1024 * 1024
"""Largest certificate file that is looked at: more than any system's whole CA store."""

Read = Callable[[Node, Reporter], Any]


class Refused(Exception):  # noqa: N818 - says what is, the text says why
    """A value cannot be used. The text goes into the report; an empty one means that it is reported already."""

    def report(self, node: Node, reporter: Reporter) -> None:
        """Add it to the report, as a fault of `node`."""
        if str(self):
            reporter.fault(node, str(self))


class Secret:
    """A text that no log, traceback or page may show. Only `reveal` gives it out."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one place that sends it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean x?` for the nearest of `known`, else nothing. Case, `_` and `-` make no difference."""
    by_stem: dict[str, str] = {}
    for candidate in known:
        by_stem.setdefault(_stem(candidate), candidate)
    near = get_close_matches(_stem(word[:60]), by_stem, n=1, cutoff=0.6)
    return f"; did you mean {by_stem[near[0]]}?" if near else ""


def _stem(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")


def read_object(node: Node, reporter: Reporter) -> Mapping[str, Node]:
    """The members of an object."""
    if not isinstance(node.value, Mapping):
        raise Refused(f"is {node.kind}, must be an object {{...}}")
    return node.value


def read_text(node: Node, reporter: Reporter) -> str:
    """A text that is not blank."""
    if not isinstance(node.value, str):
        raise Refused(f"is {node.kind}, must be a text in double quotes")
    if not node.value.strip():
        raise Refused("is empty")
    return node.value


def read_integer(minimum: int, maximum: int) -> Read:
    """Reader of a whole number within bounds, both included."""

    def read(node: Node, reporter: Reporter) -> int:
        value = node.value
        digits = isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,18}\s*", value)
        if digits or (isinstance(value, float) and value.is_integer()):
            value = int(value)
        allowed = f"a whole number from {minimum} to {maximum}"
        if isinstance(value, bool) or not isinstance(value, int):
            raise Refused(f"is {node.kind}, must be {allowed}")
        if not minimum <= value <= maximum:
            raise Refused(f"is {value}, must be {allowed}")
        return value

    return read


def read_items(read_item: Read) -> Read:
    """Reader of a list; an item that is refused is reported and left out."""

    def read(node: Node, reporter: Reporter) -> tuple[Any, ...]:
        if not isinstance(node.value, tuple):
            raise Refused(f"is {node.kind}, must be a list [...]")
        values = []
        for child in node.value:
            try:
                values.append(read_item(child, reporter))
            except Refused as refusal:
                refusal.report(child, reporter)
        return tuple(values)

    return read


def read_flag(later: str) -> Read:
    def read(node: Node, reporter: Reporter) -> bool:
        if not isinstance(node.value, bool):
            raise Refused(f"is {node.kind}, must be true or false, without quotes")
        if node.value and later:
            reporter.without_effect(node, later)
        return node.value

    return read


def read_choice(choices: tuple[str, ...]) -> Read:
    def read(node: Node, reporter: Reporter) -> str:
        allowed = ", ".join(choices)
        if not isinstance(node.value, str):
            raise Refused(f"is {node.kind}, must be one of {allowed}")
        if node.value not in choices:
            hint = did_you_mean(node.value, choices)
            raise Refused(f'is "{printable(node.value)}", must be one of {allowed}{hint}')
        return node.value

    return read


def read_secret(node: Node, reporter: Reporter) -> Secret:
    if not isinstance(node.value, str):
        raise Refused(f"is {node.kind}, must be a text in double quotes")
    reporter.holds_secret(node)
    return Secret(node.value)


def is_loopback(address: str) -> bool:
    """Whether nothing outside this machine reaches what listens on `address`."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def host_fault(host: str) -> str:
    """What is wrong with `host` as a bare host name or IP address; empty if nothing. Looks nothing up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if "://" in host or "/" in host:
            return "must be a host name or an IP address alone, without mqtt:// or https:// and without a path"
        if host.startswith("[") or ":" in host:
            return "must be a host name or an IP address alone; a port has a key of its own"
        try:
            fit = len(host.encode("idna")) <= 253 and host.isprintable() and not any(map(str.isspace, host))
        except UnicodeError:  # an empty label, or one of more than 63 characters
            fit = False
        if not fit:
            return "is no host name"
    return ""


def read_host(node: Node, reporter: Reporter) -> str:
    """A bare host name or IP address; see `host_fault`."""
    host = read_text(node, reporter).strip()
    if fault := host_fault(host):
        raise Refused(fault)
    return host


def read_expression(node: Node, reporter: Reporter) -> str:
    """A text with `${...}` in it, or a constant. What the expressions mean is not looked at, only that they end."""
    template = read_text(node, reporter)
    for tail in template.split("${")[1:]:
        tag, end, _ = tail.partition("}")
        if not end or not tag.strip():
            raise Refused("has a ${ without a name and } behind it" if not end else "has an empty ${}")
    return template


def config_file(node: Node, reporter: Reporter) -> Path:
    """A file by its name in the configuration's folder, which it may not leave. It need not be there."""
    name = read_text(node, reporter)
    parts = PurePath(name).parts
    if PurePath(name).is_absolute() or ".." in parts or "\\" in name or "\0" in name:
        raise Refused("must be the name of a file in the configuration's folder")
    return reporter.config_dir / name


def read_bytes(path: Path, limit_bytes: int) -> bytes:
    """What is in a file. Raises Refused, with the system's words, when it is no regular file or cannot be read."""
    shown = printable(str(path), 200)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Refused(f"{shown} is no regular file")
        with path.open("rb") as file:
            content = file.read(limit_bytes + 1)
    except OSError as error:
        raise Refused(f"cannot read {shown}: {error.strerror or error}") from None
    except ValueError:
        raise Refused("is no file name") from None
    if len(content) > limit_bytes:
        raise Refused(f"{shown} is larger than {limit_bytes} bytes")
    return content


def is_world_readable(path: Path) -> bool:
    """Whether everybody on this machine can read the file; if it holds a secret, that is worth a word (P-12)."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def read_certificate(node: Node, reporter: Reporter) -> Path:
    """A PEM file, looked for in the configuration's folder, then as given. It must be there and look like one."""
    name = read_text(node, reporter)
    path = reporter.config_dir / name
    if not os.path.lexists(path) and os.path.lexists(name):
        path = Path(name)
    content = read_bytes(path, MAX_PEM_BYTES)
    if b"-----BEGIN " not in content or b"-----END " not in content:
        raise Refused(f"{printable(name, 200)} is no PEM file: it has no -----BEGIN ...----- and -----END ...-----")
    return path


def ca_fault(ca_cert: Path) -> str:
    """Why a file cannot serve as the list of trusted certificates; empty if it can."""
    import ssl  # here, because a start without certificates need not pay for it

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_cert)
    except (ssl.SSLError, OSError, ValueError) as error:
        return f"holds no certificate that can be used: {_reason(error)}"
    return ""


def key_pair_fault(cert: Path, key: Path, password: Secret | None = None) -> str:
    """Why a certificate and a private key cannot be used together; empty if they can."""
    import ssl  # as above

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A password is always given: without one, OpenSSL asks for it on the terminal and waits.
        context.load_cert_chain(cert, key, password.reveal() if password else "")
    except (ssl.SSLError, OSError, ValueError) as error:
        return f"certificate and private key cannot be used together: {_reason(error)}"
    return ""


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or "bad password or damaged file"
