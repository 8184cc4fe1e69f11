# -*- test-case-name: tests.connectors.socket.test_reserved -*-
"""The parameters of the reserved command `set`, and of `socket_set` at the gateway, in every spelling. Pure.

    address=10.1.1.9;port=7001;value=open;                      the documented one, the last ; optional
    device=Pump 4 address=10.1.1.9;port=7001;value=open;        at the gateway, as documented: blank behind the name
    device=Pump 4;address=10.1.1.9;port=7001;value=a=1;b=2      blanks in the name, = and ; in the value (S-18, S-19)
    {"device": "Pump 4", "address": "10.1.1.9", "port": 7001, "value": {"open": true}}
    {"value": "open"}                                            without address: over the device's live connection

A key counts at the beginning, behind `;`, or behind a blank that follows the device's name; keys may be in any order.
Once address, port and value were all begun, the value goes on to the end, whatever it holds; one trailing `;` is not
part of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tbgw.errors import CommandFailed
from tbgw.expressions import text_of
from tbgw.model import Value

_KEYS = ("device", "address", "port", "value", "encoding")
_BEHIND_SEMICOLON = re.compile(rf"(?:^|;)\s*({'|'.join(_KEYS)})\s*=")
_BEHIND_BLANK = re.compile(rf"(?:^|[;\s])\s*({'|'.join(_KEYS)})\s*=")
_FORM = "write address=<ip>;port=<port>;value=<value>;"


@dataclass(frozen=True, slots=True)
class SetCommand:
    """What to write, and where."""

    value: str
    device: str | None = None
    address: str | None = None
    """None, as `port`: over the device's live connection."""
    port: int | None = None
    encoding: str | None = None


def parse_set(params: Value) -> SetCommand:
    """Raises CommandFailed, whose text says what is wrong."""
    if isinstance(params, str):
        found: dict[str, Value] = dict(_split(params))
    elif isinstance(params, dict):
        found = {str(key): value for key, value in params.items()}
    else:
        raise CommandFailed(f"bad parameters: {_FORM}")
    if "value" not in found or found["value"] is None:
        raise CommandFailed(f"bad parameters: there is no value; {_FORM}")
    address, port = found.get("address"), found.get("port")
    if (address in (None, "")) != (port in (None, "")):
        raise CommandFailed(f"bad parameters: address and port belong together; {_FORM}")
    device, encoding = found.get("device"), found.get("encoding")
    return SetCommand(
        value=text_of(found["value"]),
        device=device if isinstance(device, str) and device else None,
        address=str(address).strip("[] ") if address else None,
        port=_port(port) if port else None,
        encoding=encoding if isinstance(encoding, str) and encoding else None,
    )


def _port(port: Value) -> int:
    text = str(port).strip()
    if isinstance(port, bool) or not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= 65535:
        raise CommandFailed("bad parameters: port is a number from 1 to 65535")
    return int(text)


def _split(line: str) -> list[tuple[str, str]]:
    """(key, value) pairs, in order."""
    pairs: list[tuple[str, str]] = []
    at = 0
    seen: set[str] = set()
    while at < len(line):
        match = _BEHIND_SEMICOLON.match(line, at) or (_BEHIND_BLANK.match(line, at) if seen else None)
        if match is None:
            raise CommandFailed(f"bad parameters: {line[at : at + 40].strip()!r} is not understood; {_FORM}")
        key, begin = match[1], match.end()
        seen.add(key)
        # The value is free text, and so is the last thing where everything else has been said.
        if key == "value" and {"address", "port"} <= seen:
            end = len(line)
        else:
            pattern = _BEHIND_BLANK if key == "device" else _BEHIND_SEMICOLON
            following = pattern.search(line, begin)
            end = following.start() if following else len(line)
        text = line[begin:end]
        if end == len(line):
            text = text.removesuffix(";")
        pairs.append((key, text if key == "value" else text.strip()))
        at = end
    return pairs
