# -*- test-case-name: tests.connectors.test_socket_config -*-
"""What a socket connector's file says, typed (spec configuration-and-apis, 1A).

Old flat files and new ones, and every spelling that documents, samples and code of the reference disagree about, end in
the same `SocketConfig`. What is ours, and not the reference's, is listed in docs/socket.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tbgw.config.schema import (
    CONNECTOR_FILE_INERT,
    NO_CUSTOM_CODE,
    Node,
    Refused,
    Reporter,
    config_section,
    flag,
    integer,
    one_of,
    printable,
    read_host,
    read_items,
    read_object,
    read_section,
    read_text,
    report_strategy,
    section,
    setting,
    settings_of,
    text,
)
from tbgw.connectors.socket.addresses import AddressFilter, parse_filter
from tbgw.connectors.socket.fields import (
    Datapoint,
    Field,
    Timestamp,
    read_datapoint,
    read_encoding,
    read_field,
    read_template,
    read_timestamp,
)
from tbgw.connectors.socket.framing import Framing
from tbgw.connectors.socket.links import TLS, Target, read_framing, read_groups, read_target, read_tls
from tbgw.connectors.socket.naming import compile_name
from tbgw.connectors.socket.requests import (
    COMPARISON,
    AttributeRequest,
    ClaimRequest,
    RpcRequest,
    read_claim_request,
    read_plain_text,
    read_request,
    read_rpc_request,
)
from tbgw.expressions import ExpressionError
from tbgw.model import ReportStrategy

__all__ = [
    "AttributeRequest",
    "AttributeUpdate",
    "ClaimRequest",
    "Datapoint",
    "Field",
    "Framing",
    "Poll",
    "Rpc",
    "RpcRequest",
    "SocketConfig",
    "SocketDevice",
    "Target",
    "Timestamp",
    "parse",
]

MAX_BUFFER_BYTES = 1024 * 1024
"""Largest `bufferSize`: each connection may hold that much. A datagram has less than 64 KiB anyway."""
MAX_RESPONSE_MS = 110_000
"""Longest wait for a device's answer: ThingsBoard's side of it ends at two minutes."""
MAX_SECONDS = 24 * 3600
_WHOLE_READS = Framing()


def _read_filter(node: Node, reporter: Reporter) -> AddressFilter:
    try:
        return parse_filter(read_text(node, reporter))
    except ValueError as error:
        raise Refused(str(error)) from None


def _read_comparison(node: Node, reporter: Reporter) -> str:
    expression = read_text(node, reporter)
    if "${" in expression and not COMPARISON.fullmatch(expression):
        raise Refused("must be a comparison such as ${[0:2]==OK}, or a fixed beginning without ${}, such as OK")
    return expression


def _with_encoding_checked(read: Callable[[Node, Reporter], Any], key: str) -> Callable[[Node, Reporter], Any]:
    """A reader of a section that has a fixed text in an encoding, which has to be possible in it."""

    def checked(node: Node, reporter: Reporter) -> Any:
        found = read(node, reporter)
        given = node.member(key)
        if found.encoding == "hex" and given is not None and "${" not in str(given.value):
            try:
                bytes.fromhex(str(given.value))
            except ValueError:
                reporter.fault(given, "must be pairs of hex digits, because encoding is hex")
        return found

    return checked


@config_section
class AttributeUpdate:
    """One entry of `attributeUpdates`: a shared attribute that is passed on to the device."""

    attribute: str = text("attributeOnThingsBoard", doc="Name of the shared attribute.")
    encoding: str | None = setting(
        "encoding", read=read_encoding, default=None, doc="How its value is written; None: the device's encoding."
    )
    value: str = setting(
        "valueExpression",
        read=read_template,
        default="${attributeValue}",
        doc="What is sent, with ${attributeKey}, ${attributeValue} and ${deviceName}.",
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
        "encoding", read=read_encoding, default=None, doc="How the data is written; None: the device's encoding."
    )
    value: str = setting(
        "valueExpression",
        read=read_template,
        default="${params}",
        doc="What is sent, with ${params}, ${params.<name>}, ${methodName} and ${deviceName}.",
    )
    timeout_ms: int = integer(
        "responseTimeoutMs",
        minimum=1,
        maximum=MAX_RESPONSE_MS,
        default=5000,
        unit="ms",
        doc="How long the device may take to answer.",
    )
    response_expression: str | None = setting(
        "responseExpression",
        read=_read_comparison,
        default=None,
        doc="How its answer is recognised, such as ${[0:2]==OK}, or its beginning; None: the next message.",
    )
    response: Field | None = setting(
        "response", read=read_field, default=None, doc="Which value of the answer goes back; None: all of it, as text."
    )
    response_is_data: bool = flag(
        "responseAsTelemetry", default=False, doc="Whether the answer is taken for telemetry as well."
    )


@config_section
class Poll:
    """One entry of `polls`: what is sent to the device again and again, so that it answers with a message."""

    request: str = setting("request", read=read_plain_text, doc="What is sent, as a text in the encoding.")
    encoding: str | None = setting(
        "encoding", read=read_encoding, default=None, doc="How it is written; None: the device's encoding."
    )
    period_ms: int = integer(
        "periodMs", minimum=10, maximum=MAX_SECONDS * 1000, default=1000, unit="ms", doc="Time between two of them."
    )
    timeout_ms: int = integer(
        "responseTimeoutMs",
        minimum=1,
        maximum=MAX_RESPONSE_MS,
        default=1000,
        unit="ms",
        doc="How long its answer keeps commands that expect one waiting.",
    )


def read_name(node: Node, reporter: Reporter) -> str:
    """A name that may be made of `${...}`."""
    name = read_text(node, reporter)
    try:
        compile_name(name)
    except ExpressionError as error:
        raise Refused(str(error)) from None
    return name


@config_section
class SocketDevice:
    """One entry of `devices`."""

    filter: AddressFilter = setting(
        "addressFilter",
        "address",
        read=_read_filter,
        doc="Peers that this device may speak from, as ip:port with * for any; both spellings mean the same.",
    )
    name: str = setting(
        "deviceName",
        read=read_name,
        doc="Name of the device in ThingsBoard; may be made of the message or the peer: ${[0:8]}, ${id}, ${address}.",
    )
    profile: str = setting(
        "deviceType", read=read_name, default="default", doc="Device profile in ThingsBoard; may be made likewise."
    )
    encoding: str = setting(
        "encoding",
        read=read_encoding,
        default="utf-8",
        doc="How the device's bytes become text: hex, or a text codec of Python.",
    )
    telemetry: tuple[Datapoint, ...] = setting(
        "telemetry",
        "timeseries",
        read=read_items(read_datapoint),
        default=(),
        doc="Time series to take from each message.",
    )
    attributes: tuple[Datapoint, ...] = setting(
        "attributes", read=read_items(read_datapoint), default=(), doc="Client attributes to take from each message."
    )
    attribute_requests: tuple[AttributeRequest, ...] = setting(
        "attributeRequests",
        "attributesRequests",
        read=read_items(read_request),
        default=(),
        doc="Messages by which the device asks for attribute values.",
    )
    rpc_requests: tuple[RpcRequest, ...] = setting(
        "clientSideRpc",
        read=read_items(read_rpc_request),
        default=(),
        doc="Messages by which the device asks ThingsBoard's rule chain. Our own key.",
    )
    claim_requests: tuple[ClaimRequest, ...] = setting(
        "claimRequests",
        read=read_items(read_claim_request),
        default=(),
        doc="Messages by which the device opens itself for claiming. Our own key.",
    )
    attribute_updates: tuple[AttributeUpdate, ...] = setting(
        "attributeUpdates",
        read=read_items(_with_encoding_checked(lambda n, r: read_section(AttributeUpdate, n, r), "valueExpression")),
        default=(),
        doc="Shared attributes that are passed on to the device.",
    )
    rpcs: tuple[Rpc, ...] = setting(
        "serverSideRpc",
        read=read_items(_with_encoding_checked(lambda n, r: read_section(Rpc, n, r), "valueExpression")),
        default=(),
        doc="RPC methods that are passed on to the device.",
    )
    polls: tuple[Poll, ...] = setting(
        "polls",
        read=read_items(_with_encoding_checked(lambda n, r: read_section(Poll, n, r), "request")),
        default=(),
        doc="What the device is asked again and again.",
    )
    timestamp: Timestamp | None = setting(
        "timestamp", read=read_timestamp, default=None, doc="Where a message says its time; None: when it came."
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
    framing: Framing = setting(
        "framing", read=read_framing, default=_WHOLE_READS, doc="Where a message ends in a TCP stream."
    )
    role: Literal["server", "client"] = one_of(
        "role", choices=("server", "client"), default="server", doc="Whether devices connect, or are connected to."
    )
    targets: tuple[Target, ...] = setting(
        "targets",
        read=read_items(read_target),
        default=(),
        doc="As client: whom to connect to, as host:port; none: the devices whose address filter is one ip:port.",
    )
    connect_timeout_seconds: int = integer(
        "connectTimeoutSeconds",
        minimum=1,
        maximum=600,
        default=10,
        unit="seconds",
        doc="As client: how long connecting may take.",
    )
    max_connections: int = integer(
        "maxConnections",
        minimum=1,
        maximum=100_000,
        default=10_000,
        unit="connections",
        doc="TCP connections at a time.",
    )
    max_per_address: int = integer(
        "maxConnectionsPerAddress",
        minimum=1,
        maximum=100_000,
        default=1000,
        unit="connections",
        doc="TCP connections at a time from one address.",
    )
    max_devices: int = integer(
        "maxDevices",
        minimum=1,
        maximum=100_000,
        default=10_000,
        unit="devices",
        doc="Devices whose names come from messages or peers.",
    )
    max_messages_per_second: int = integer(
        "maxMessagesPerSecond",
        minimum=0,
        maximum=1_000_000,
        default=0,
        unit="messages per second",
        doc="Of one connection, or of one address with UDP; 0: any. TCP waits, a datagram is dropped.",
    )
    first_message_seconds: int = integer(
        "firstMessageTimeoutSeconds",
        minimum=0,
        maximum=MAX_SECONDS,
        default=0,
        unit="seconds",
        doc="A connection that brought no message in this time is closed; 0: never.",
    )
    idle_seconds: int = integer(
        "idleTimeoutSeconds",
        minimum=0,
        maximum=MAX_SECONDS,
        default=0,
        unit="seconds",
        doc="A connection that is silent for so long is closed; 0: never.",
    )
    keep_alive_seconds: int = integer(
        "keepAliveSeconds",
        minimum=0,
        maximum=MAX_SECONDS,
        default=60,
        unit="seconds",
        doc="When the system looks whether a silent peer is still there; 0: not at all.",
    )
    tls: TLS | None = setting("tls", read=read_tls, default=None, doc="TLS for the connections; None: none.")
    groups: tuple[str, ...] = setting(
        "multicastGroups", read=read_groups, default=(), doc="UDP: multicast groups to join."
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
    """Local address or host name to listen on; of UDP as client, to send from."""
    port: int
    buffer_bytes: int
    """Largest message: TCP reads at most this much at once, a longer datagram is refused."""
    devices: tuple[SocketDevice, ...]
    report: ReportStrategy | None
    """The connector-level report strategy."""
    max_connections: int
    """TCP connections at the same time, in all."""
    framing: Framing = _WHOLE_READS
    role: Literal["server", "client"] = "server"
    targets: tuple[Target, ...] = ()
    connect_timeout_seconds: int = 10
    max_per_address: int = 1000
    max_devices: int = 10_000
    max_messages_per_second: int = 0
    first_message_seconds: int = 0
    idle_seconds: int = 0
    keep_alive_seconds: int = 60
    tls: TLS | None = None
    groups: tuple[str, ...] = ()

    @property
    def needs_tls(self) -> bool:
        """Whether OpenSSL has to be there; `tap` leaves it out otherwise."""
        return self.tls is not None


def parse(node: Node, reporter: Reporter) -> SocketConfig:
    """The section of a whole file. Raises Refused when nothing can be made of it."""
    node = _in_new_form(node, reporter)
    file = read_section(_File, node, reporter)
    listener = file.listener
    at = node.member("socket") or node
    if not file.devices and not reporter.faulty:
        reporter.doubt(node, "there are no devices, so nobody may connect")
    _doubt_hidden_devices(file.devices, node, reporter)
    targets = listener.targets
    if listener.role == "client":
        targets = targets or tuple(Target(*own) for device in file.devices if (own := device.filter.single) is not None)
        if not targets and not reporter.faulty:
            reporter.fault(at, "has role client and nobody to connect to: give targets, or devices with one ip:port")
    elif targets:
        reporter.doubt(at.member("targets") or at, "has no effect without role client")
    _check_transport(listener, at, reporter)
    return SocketConfig(
        transport=listener.transport,
        address=listener.address,
        port=listener.port,
        buffer_bytes=listener.buffer_bytes,
        devices=file.devices,
        report=file.report,
        max_connections=listener.max_connections,
        framing=listener.framing,
        role=listener.role,
        targets=targets if listener.role == "client" else (),
        connect_timeout_seconds=listener.connect_timeout_seconds,
        max_per_address=listener.max_per_address,
        max_devices=listener.max_devices,
        max_messages_per_second=listener.max_messages_per_second,
        first_message_seconds=listener.first_message_seconds,
        idle_seconds=listener.idle_seconds,
        keep_alive_seconds=listener.keep_alive_seconds,
        tls=listener.tls,
        groups=listener.groups,
    )


def _check_transport(listener: _Listener, at: Node, reporter: Reporter) -> None:
    """What the keys of `socket` say together."""
    if listener.transport == "UDP":
        if listener.framing.type != "none":
            reporter.doubt(at.member("framing") or at, "framing has no effect with UDP: a datagram is one message")
        if listener.tls is not None:
            reporter.fault(at.member("tls") or at, "is not possible with UDP")
        for key in ("idleTimeoutSeconds", "firstMessageTimeoutSeconds"):
            if (given := at.member(key)) is not None and given.value:
                reporter.doubt(given, "has no effect with UDP, which has no connections")
    elif listener.groups:
        reporter.fault(at.member("multicastGroups") or at, "is for UDP")
    tls = listener.tls
    if tls is not None and listener.role == "server" and tls.certificate is None:
        reporter.fault(at.member("tls") or at, "a server needs certificate and privateKey")
    if tls is not None and listener.role == "server" and tls.accept_any_server:
        reporter.doubt(at.member("tls") or at, "dangerouslyAcceptAnyServerCertificate is for role client")
    if listener.framing.type == "fixed" and listener.framing.length_bytes > listener.buffer_bytes:
        reporter.fault(at.member("framing") or at, f"length is above bufferSize, which is {listener.buffer_bytes}")


def _in_new_form(node: Node, reporter: Reporter) -> Node:
    """Before 3.6 what belongs to the object `socket` stood at the top of the file."""
    members = read_object(node, reporter)
    if "socket" in members:
        return node
    keys = [key for item in settings_of(_Listener).values() for key in item.keys]
    listener = Node({key: members[key] for key in keys if key in members}, node.file, node.line)
    return node.without(*keys).with_member("socket", listener)


def _doubt_hidden_devices(devices: tuple[SocketDevice, ...], node: Node, reporter: Reporter) -> None:
    """Two devices with the same filter both get every message, which is rarely meant."""
    first: dict[AddressFilter, str] = {}
    for device in devices:
        if device.filter in first:
            reporter.doubt(
                node.member("devices") or node,
                f'"{printable(device.name)}" and "{printable(first[device.filter])}" have the same filter '
                f"{printable(str(device.filter))}; every message goes to both",
            )
        first.setdefault(device.filter, device.name)
