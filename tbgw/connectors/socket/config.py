# -*- test-case-name: tests.connectors.test_socket_config -*-
"""What a socket connector's file says, typed (spec configuration-and-apis, 1A).

Old flat files and new ones, and every spelling that documents, samples and code of the reference disagree about, end in
the same `SocketConfig`. `maxConnections` and `framing` are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from tbgw.config.schema import (
    CONNECTOR_FILE_INERT,
    NO_CUSTOM_CODE,
    NOT_YET,
    Node,
    Refused,
    Reporter,
    config_section,
    did_you_mean,
    flag,
    integer,
    one_of,
    printable,
    read_host,
    read_integer,
    read_items,
    read_object,
    read_section,
    read_text,
    report_strategy,
    section,
    sections,
    setting,
    settings_of,
    text,
)
from tbgw.connectors.socket.addresses import AddressFilter, parse_filter
from tbgw.model import ReportStrategy

MAX_BUFFER_BYTES = 1024 * 1024
"""Largest `bufferSize`: each connection may hold that much. A datagram has less than 64 KiB anyway."""
MAX_DELIMITER_BYTES = 16
MAX_OFFSET = 1 << 30

COMPARISON = re.compile(
    r"\$\{\[(?:(?P<start>-?[0-9]{1,9})?(?P<colon>:)(?P<stop>-?[0-9]{1,9})?|(?P<at>-?[0-9]{1,9}))\]==(?P<text>.*)\}",
    re.DOTALL,
)
"""A request expression such as `${[0:3]==atr}`; also `${[:3]==x}`, `${[3:]==x}` and `${[0]==x}` (S-05)."""
_SLICES = re.compile(r"\[(-?[0-9]{0,9}:-?[0-9]{0,9}|-?[0-9]{1,9})\]")

_NOT_FOR_DATA = ("utf-7", "unicode-escape", "raw-unicode-escape", "idna", "punycode", "undefined")
"""Python's text codecs that are no encodings of what devices send; some yield what JSON cannot carry."""
_USUAL_ENCODINGS = ("utf-8", "hex", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "latin-1")

_OFFSET = read_integer(-MAX_OFFSET, MAX_OFFSET)


def _read_filter(node: Node, reporter: Reporter) -> AddressFilter:
    try:
        return parse_filter(read_text(node, reporter))
    except ValueError as error:
        raise Refused(str(error)) from None


def _read_key(node: Node, reporter: Reporter) -> str:
    key = read_text(node, reporter)
    if key != key.strip():
        raise Refused("begins or ends with a blank, which ThingsBoard does not allow in a key")
    return key


def _read_end(node: Node, reporter: Reporter) -> int | None:
    end: int = _OFFSET(node, reporter)
    return None if end == -1 else end


def _read_encoding(node: Node, reporter: Reporter) -> str:
    name = read_text(node, reporter).strip()
    if name.lower() == "hex":
        return "hex"
    try:
        "".encode(name)  # unlike a look-up, this refuses codecs that are not of text, such as base64
        fit = name.lower().replace("_", "-") not in _NOT_FOR_DATA
    except (LookupError, ValueError):
        fit = False
    if not fit:
        hint = did_you_mean(name, _USUAL_ENCODINGS)
        raise Refused(
            f'"{printable(name)}" is no encoding; allowed are {", ".join(_USUAL_ENCODINGS)} and other text '
            f"encodings of Python{hint}"
        )
    return name


def _text_of(node: Node) -> str:
    """A text that may be blank, as a delimiter may."""
    if not isinstance(node.value, str):
        raise Refused(f"is {node.kind}, must be a text in double quotes")
    return node.value


def _read_delimiter(node: Node, reporter: Reporter) -> bytes:
    stated = _text_of(node)
    known = {"n": b"\n", "r": b"\r", "t": b"\t", "0": b"\0", "\\": b"\\"}
    found = b""
    for plain, escape in re.findall(r"([^\\])|\\(x[0-9a-fA-F]{2}|.?)", stated, re.DOTALL):
        if plain:
            found += plain.encode()
        elif len(escape) == 3:
            found += bytes.fromhex(escape[1:])
        elif escape in known:
            found += known[escape]
        else:
            raise Refused("has a backslash that is not one of \\n \\r \\t \\0 \\xHH or \\\\")
    return _fit_delimiter(found)


def _read_hex(node: Node, reporter: Reporter) -> bytes:
    try:
        found = bytes.fromhex(read_text(node, reporter))
    except ValueError:
        raise Refused("must be pairs of hex digits, such as 0d0a") from None
    return _fit_delimiter(found)


def _fit_delimiter(delimiter: bytes) -> bytes:
    if not 1 <= len(delimiter) <= MAX_DELIMITER_BYTES:
        raise Refused(f"has {len(delimiter)} bytes, must have 1 to {MAX_DELIMITER_BYTES}")
    return delimiter


@config_section
class Datapoint:
    """One entry of `telemetry` or `attributes`: a slice of the message, stored under a key."""

    key: str = setting("key", read=_read_key, doc="Name of the value in ThingsBoard.")
    byte_from: int = setting(
        "byteFrom",
        read=_OFFSET,
        default=0,
        unit="bytes",
        doc="First byte; a negative one counts from the end, as in Python.",
    )
    byte_to: int | None = setting(
        "byteTo",
        read=_read_end,
        default=None,
        unit="bytes",
        doc="First byte that is not taken; -1 (here: None) is the end of the message, other negatives as in Python.",
    )
    report: ReportStrategy | None = report_strategy("When this value is sent on.")


def _read_datapoint(node: Node, reporter: Reporter) -> Datapoint:
    point = read_section(Datapoint, node, reporter)
    if point.byte_to is not None and 0 <= point.byte_to <= point.byte_from:
        reporter.doubt(node, f"takes no byte: from {point.byte_from}, up to but without {point.byte_to}")
    return point


@config_section
class AttributeRequest:
    """One entry of `attributeRequests`: how a device's message asks ThingsBoard for attribute values."""

    scope: Literal["shared", "client"] = one_of(
        "type", choices=("shared", "client"), default="shared", doc="Which attributes are asked for."
    )
    request_expression: str = setting(
        "requestExpression", read=read_text, default="${[0:3]==atr}", doc="How such a message is recognised."
    )
    request_source: Literal["constant", "expression"] = one_of(
        "requestExpressionSource",
        choices=("constant", "expression"),
        default="expression",
        doc="Whether requestExpression is the beginning of the message or a comparison such as ${[0:3]==atr}.",
    )
    name_expression: str = setting(
        "attributeNameExpression", read=read_text, default="[3:]", doc="Where the attribute's name stands."
    )
    name_source: Literal["constant", "expression"] = one_of(
        "attributeNameExpressionSource",
        choices=("constant", "expression"),
        default="expression",
        doc="Whether attributeNameExpression is the name itself or slices of the message such as [3:].",
    )

    INERT: ClassVar[Mapping[str, str]] = {"expressionType": "without effect: the two ...Source keys say it"}


@config_section
class AttributeUpdate:
    """One entry of `attributeUpdates`: a shared attribute that is passed on to the device."""

    attribute: str = text("attributeOnThingsBoard", doc="Name of the shared attribute.")
    encoding: str | None = setting(
        "encoding", read=_read_encoding, default=None, doc="How its value is written; None: the device's encoding."
    )


@config_section
class Rpc:
    """One entry of `serverSideRpc`."""

    method: str = text("methodRPC", doc="Name of the RPC method.")
    with_response: bool = flag("withResponse", default=True, doc="Whether the device's answer goes back.")
    processing: Literal["write", "read"] = one_of(
        "methodProcessing", choices=("write", "read"), default="write", doc="Write to the device, or wait for it."
    )
    encoding: str | None = setting(
        "encoding", read=_read_encoding, default=None, doc="How the data is written; None: the device's encoding."
    )


def _read_request(node: Node, reporter: Reporter) -> AttributeRequest:
    request = read_section(AttributeRequest, node, reporter)
    expression, name = node.member("requestExpression"), node.member("attributeNameExpression")
    template = request.request_source == "expression" and "${" in request.request_expression
    if expression is not None and template and not COMPARISON.fullmatch(request.request_expression):
        reporter.fault(
            expression, "must be a comparison such as ${[0:3]==atr}, or a fixed beginning without ${}, such as atr"
        )
    if name is not None and request.name_source == "expression" and not _SLICES.search(request.name_expression):
        reporter.fault(
            name, "must hold a slice such as [3:]; for a fixed name set attributeNameExpressionSource to constant"
        )
    return request


@config_section
class SocketDevice:
    """One entry of `devices`."""

    filter: AddressFilter = setting(
        "addressFilter",
        "address",
        read=_read_filter,
        doc="Peers that this device may speak from, as ip:port with * for any; both spellings mean the same.",
    )
    name: str = text("deviceName", doc="Name of the device in ThingsBoard.")
    profile: str = text("deviceType", default="default", doc="Device profile in ThingsBoard.")
    encoding: str = setting(
        "encoding",
        read=_read_encoding,
        default="utf-8",
        doc="How the device's bytes become text: hex, or a text codec of Python.",
    )
    telemetry: tuple[Datapoint, ...] = setting(
        "telemetry",
        "timeseries",
        read=read_items(_read_datapoint),
        default=(),
        doc="Time series to take from each message.",
    )
    attributes: tuple[Datapoint, ...] = setting(
        "attributes", read=read_items(_read_datapoint), default=(), doc="Client attributes to take from each message."
    )
    attribute_requests: tuple[AttributeRequest, ...] = setting(
        "attributeRequests",
        "attributesRequests",
        read=read_items(_read_request),
        default=(),
        doc="Messages by which the device asks for attribute values.",
        later=NOT_YET,
    )
    attribute_updates: tuple[AttributeUpdate, ...] = sections(
        AttributeUpdate,
        "attributeUpdates",
        default=(),
        doc="Shared attributes that are passed on to the device.",
        later=NOT_YET,
    )
    rpcs: tuple[Rpc, ...] = sections(
        Rpc, "serverSideRpc", default=(), doc="RPC methods that are passed on to the device.", later=NOT_YET
    )
    report: ReportStrategy | None = report_strategy("When values of this device are sent on.")

    INERT: ClassVar[Mapping[str, str]] = {"converter": NO_CUSTOM_CODE}


def _read_device(node: Node, reporter: Reporter) -> SocketDevice:
    device = read_section(SocketDevice, node, reporter)
    for key in ("telemetry", "timeseries", "attributes"):
        points = node.member(key)
        if points is not None and isinstance(points.value, tuple):
            _doubt_repeated_keys(points.value, reporter)
    return device


def _doubt_repeated_keys(points: tuple[Node, ...], reporter: Reporter) -> None:
    seen: set[object] = set()
    for point in points:
        key = point.member("key")
        if key is not None and isinstance(key.value, str):
            if key.value in seen:
                reporter.doubt(key, "is used above already, for the same device; the later slice counts")
            seen.add(key.value)


@config_section
class _Framing:
    """The object `framing`."""

    type: Literal["none", "delimiter"] | None = one_of(
        "type", choices=("none", "delimiter"), default=None, doc="What ends a message; delimiter if one is given."
    )
    delimiter: bytes | None = setting(
        "delimiter", read=_read_delimiter, default=None, doc=r"Bytes that end a message, as text; \n \r \t \0 \xHH."
    )
    delimiter_hex: bytes | None = setting(
        "delimiterHex", read=_read_hex, default=None, doc="The same in hex, such as 0d0a."
    )


def _read_framing(node: Node, reporter: Reporter) -> bytes | None:
    framing = read_section(_Framing, node, reporter)
    given = node.member("delimiter") or node.member("delimiterHex")
    if framing.type == "none":
        if given is not None:
            reporter.doubt(given, "has no effect with type none")
        return None
    if node.member("delimiter") is not None and node.member("delimiterHex") is not None:
        reporter.fault(node, "give delimiter or delimiterHex, not both")
    if framing.type is None and given is None:
        return None
    return framing.delimiter or framing.delimiter_hex or b"\n"


@config_section
class _Listener:
    """The object `socket`; in an old file, the top."""

    transport: Literal["TCP", "UDP"] = one_of("type", choices=("TCP", "UDP"), default="TCP", doc="Transport.")
    address: str = setting("address", read=read_host, default="127.0.0.1", doc="Local address to listen on.")
    port: int = integer("port", minimum=1, maximum=65535, default=50000, unit="port", doc="Local port to listen on.")
    buffer_bytes: int = integer(
        "bufferSize",
        "buffer_size",
        minimum=1,
        maximum=MAX_BUFFER_BYTES,
        default=1024,
        unit="bytes",
        doc="Largest message: TCP reads at most this much at once, a longer datagram is refused.",
    )
    max_connections: int = integer(
        "maxConnections",
        minimum=1,
        maximum=100_000,
        default=10_000,
        unit="connections",
        doc="TCP connections at a time.",
    )
    delimiter: bytes | None = setting(
        "framing", read=_read_framing, default=None, doc="Where a message ends in a TCP stream."
    )

    INERT: ClassVar[Mapping[str, str]] = {"name": CONNECTOR_FILE_INERT["name"]}


@config_section
class _File:
    """The top of the file, an old one already turned into a new one."""

    listener: _Listener = section(_Listener, "socket", default=_Listener(), doc="Where devices connect to.")
    devices: tuple[SocketDevice, ...] = setting(
        "devices", read=read_items(_read_device), default=(), doc="Devices that may speak."
    )
    report: ReportStrategy | None = report_strategy("When values of this connector's devices are sent on.")

    INERT: ClassVar[Mapping[str, str]] = CONNECTOR_FILE_INERT


@dataclass(frozen=True, slots=True)
class SocketConfig:
    """A whole socket connector file."""

    transport: Literal["TCP", "UDP"]
    address: str
    """Local address or host name to listen on."""
    port: int
    buffer_bytes: int
    """Largest message: TCP reads at most this much at once, a longer datagram is refused."""
    devices: tuple[SocketDevice, ...]
    report: ReportStrategy | None
    """The connector-level report strategy."""
    max_connections: int
    """TCP connections at the same time, in all."""
    delimiter: bytes | None
    """Ends each message in a TCP stream; None: one read is one message, as the reference has it."""


def parse(node: Node, reporter: Reporter) -> SocketConfig:
    """The section of a whole file. Raises Refused when nothing can be made of it."""
    node = _in_new_form(node, reporter)
    file = read_section(_File, node, reporter)
    listener = file.listener
    if not file.devices and not reporter.faulty:
        reporter.doubt(node, "there are no devices, so nobody may connect")
    _doubt_hidden_devices(file.devices, node, reporter)
    if listener.delimiter is not None and listener.transport == "UDP":
        reporter.doubt(node.member("socket") or node, "framing has no effect with UDP: a datagram is one message")
    return SocketConfig(
        transport=listener.transport,
        address=listener.address,
        port=listener.port,
        buffer_bytes=listener.buffer_bytes,
        devices=file.devices,
        report=file.report,
        max_connections=listener.max_connections,
        delimiter=listener.delimiter,
    )


def _in_new_form(node: Node, reporter: Reporter) -> Node:
    """Before 3.6 what belongs to the object `socket` stood at the top of the file."""
    members = read_object(node, reporter)
    if "socket" in members:
        return node
    keys = [key for item in settings_of(_Listener).values() for key in item.keys]
    listener = Node({key: members[key] for key in keys if key in members}, node.file, node.line)
    return node.without(*keys).with_member("socket", listener)


def _doubt_hidden_devices(devices: tuple[SocketDevice, ...], node: Node, reporter: Reporter) -> None:
    """Of two devices with the same filter the second never gets a message."""
    first: dict[AddressFilter, str] = {}
    for device in devices:
        if device.filter in first:
            reporter.doubt(
                node.member("devices") or node,
                f'"{printable(device.name)}" and "{printable(first[device.filter])}" have the same filter '
                f"{printable(str(device.filter))}; only the first of them gets messages",
            )
        first.setdefault(device.filter, device.name)
