# -*- test-case-name: tests.connectors.xmpp.test_device_config -*-
"""The entries of `devices` in an XMPP connector's file, typed.

Keys that are ours, and not the reference's, are: `bodyFormat`, `timestampExpression`, `presence`, `requestPresence`,
`statusAttributes`, `readout`, everything of an update and an RPC but name, `valueExpression` and `withResponse`, and
the `jid` with `*@` for all accounts of a domain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from tbgw.config.schema import (
    NO_CUSTOM_CODE,
    Node,
    Refused,
    Reporter,
    config_section,
    flag,
    integer,
    one_of,
    read_expression,
    read_items,
    read_section,
    read_text,
    report_strategy,
    section,
    setting,
    text,
)
from tbgw.connectors.xmpp.converter import compile_name, compile_value
from tbgw.connectors.xmpp.iot_control import KINDS
from tbgw.connectors.xmpp.jids import parse_jid
from tbgw.expressions import ExpressionError, compile_template
from tbgw.model import ReportStrategy

MAX_RESPONSE_MS = 110_000
"""Longest time for an answer: below the 120 s after which ThingsBoard is told anyway."""
MAX_PERIOD_SECONDS = 31 * 24 * 3600
PARAMETER_TYPES = ("auto", *KINDS)
FIELD_TYPES = ("all", "momentary", "peak", "status", "computed", "identity", "historical", "historicalSecond",
               "historicalMinute", "historicalHour", "historicalDay", "historicalWeek", "historicalMonth",
               "historicalQuarter", "historicalYear", "historicalOther")

_WILDCARD = re.compile(r"\*@([^@/*\s]{1,1023})(?:/(.{1,1023}))?")


def read_device_jid(node: Node, reporter: Reporter) -> str:
    """A JID, or `*@domain`, with or without a resource."""
    jid = read_text(node, reporter).strip()
    if found := _WILDCARD.fullmatch(jid):
        jid_parts = parse_jid(f"x@{found[1]}" + (f"/{found[2]}" if found[2] else ""))
    else:
        jid_parts = parse_jid(jid)
    odd = jid.startswith("@") or jid.endswith("/") or ("*" in jid and not found)
    if jid_parts is None or odd or re.search(r"[\s\"&'<>]", jid_parts.bare):
        raise Refused("is no JID; allowed is name@domain or name@domain/resource, and *@domain for a whole domain")
    return jid


def _read_value(node: Node, reporter: Reporter) -> str:
    template = read_expression(node, reporter)
    try:
        compile_value(template)
    except ExpressionError as error:
        raise Refused(str(error)) from None
    return template


def _read_name(node: Node, reporter: Reporter) -> str:
    template = read_expression(node, reporter)
    try:
        compile_name(template)
    except ExpressionError as error:
        raise Refused(str(error)) from None
    return template


def _read_template(node: Node, reporter: Reporter) -> str:
    template = read_expression(node, reporter)
    try:
        compile_template(template)
    except ExpressionError as error:
        raise Refused(str(error)) from None
    return template


def _read_field_types(node: Node, reporter: Reporter) -> tuple[str, ...]:
    words: tuple[str, ...] = read_items(read_text)(node, reporter)
    for word in words:
        if word not in FIELD_TYPES:
            raise Refused(f'holds "{word[:50]}", allowed are {", ".join(FIELD_TYPES)}')
    return words


@config_section
class XMPPPoint:
    """One entry of `attributes` or `timeseries`."""

    key: str = setting("key", read=_read_value, doc="Name of the value in ThingsBoard; may be an expression.")
    value: str = setting("value", read=_read_value, doc="Expression over the device's message.")
    report: ReportStrategy | None = report_strategy("When this value is sent on.")


@config_section
class XMPPUpdate:
    """One entry of `attributeUpdates`: a shared attribute that is passed on to the device."""

    attribute: str = text("attributeOnThingsBoard", doc="Name of the shared attribute.")
    value: str = setting(
        "valueExpression",
        read=_read_template,
        default='{"${attributeKey}":"${attributeValue}"}',
        doc="What is sent, with ${attributeKey}, ${attributeValue} and ${deviceName}.",
    )
    send: Literal["message", "control"] = one_of(
        "send", choices=("message", "control"), default="message", doc="As the body of a message, or by XEP-0325."
    )
    parameter: str | None = text("parameter", default=None, doc="Control parameter; None: the attribute's name.")
    parameter_type: str = one_of(
        "parameterType", choices=PARAMETER_TYPES, default="auto", doc="Type of the control parameter."
    )
    message_type: Literal["chat", "normal", "headline"] = one_of(
        "messageType", choices=("chat", "normal", "headline"), default="chat", doc="Type of the message."
    )


@config_section
class XMPPRpc:
    """One entry of `serverSideRpc`."""

    method: str = text("methodRPC", doc="Name of the RPC method.")
    with_response: bool = flag("withResponse", default=True, doc="Whether the device's answer goes back.")
    value: str = setting(
        "valueExpression",
        read=_read_template,
        default="${params}",
        doc="What is sent, with ${params}, ${params.<name>}, ${methodName} and ${deviceName}.",
    )
    send: Literal["message", "control", "readout"] = one_of(
        "send",
        choices=("message", "control", "readout"),
        default="message",
        doc="As the body of a message, by XEP-0325, or a read-out by XEP-0323.",
    )
    parameter: str | None = text("parameter", default=None, doc="Control parameter; None: the method's name.")
    parameter_type: str = one_of(
        "parameterType", choices=PARAMETER_TYPES, default="auto", doc="Type of the control parameter."
    )
    message_type: Literal["chat", "normal", "headline"] = one_of(
        "messageType", choices=("chat", "normal", "headline"), default="chat", doc="Type of the message."
    )
    timeout_ms: int = integer(
        "responseTimeoutMs",
        minimum=1,
        maximum=MAX_RESPONSE_MS,
        default=5000,
        unit="ms",
        doc="How long the device may take to answer.",
    )
    correlate: Literal["any", "thread"] = one_of(
        "correlateBy",
        choices=("any", "thread"),
        default="any",
        doc="thread: only a message with our thread or id is the answer; any: else the device's next message.",
    )
    response: str | None = setting(
        "response",
        read=_read_value,
        default=None,
        doc="Which part of the answer goes back, as an expression over it; None: all of it.",
    )
    response_is_data: bool | None = flag(
        "responseAsTelemetry",
        default=None,
        doc="Whether the answer is taken for telemetry as well; None: only if it came without our thread and id.",
    )


@config_section
class ReadOutPlan:
    """`readout`: what is asked of a sensor by XEP-0323, on a period and by `xmpp_read`."""

    period_seconds: int = integer(
        "periodSeconds", minimum=0, maximum=MAX_PERIOD_SECONDS, default=60, unit="seconds", doc="0: only on demand."
    )
    timeout_ms: int = integer(
        "timeoutMs", minimum=1, maximum=MAX_RESPONSE_MS, default=30_000, unit="ms", doc="Longest time for one."
    )
    field_types: tuple[str, ...] = setting(
        "fieldTypes", read=_read_field_types, default=("momentary",), doc="Types of fields to ask for."
    )
    nodes: tuple[str, ...] = setting("nodes", read=read_items(read_text), default=(), doc="Nodes; none: all.")
    fields: tuple[str, ...] = setting("fields", read=read_items(read_text), default=(), doc="Names; none: all.")
    key: str = setting(
        "keyExpression", read=_read_template, default="${field}", doc="Key in ThingsBoard, with ${field} and ${node}."
    )
    node_name: str | None = setting(
        "nodeNameExpression",
        read=_read_template,
        default=None,
        doc="Name of a ThingsBoard device for each node, with ${deviceName} and ${node}; None: the device itself.",
    )
    units: bool = flag("units", default=True, doc="Whether units are sent, as attributes <key>_unit.")
    data_points: Literal["all", "configured"] = one_of(
        "datapoints",
        choices=("all", "configured"),
        default="all",
        doc="all: every field by its name; configured: what attributes and timeseries take of an object of fields.",
    )


@config_section
class XMPPDevice:
    """One entry of `devices`."""

    jid: str = setting(
        "jid", read=read_device_jid, doc="Who writes: with a resource this one, without it any resource."
    )
    name: str = setting(
        "deviceNameExpression",
        read=_read_name,
        doc="Device name, over the message; also ${from.local}, ${from.bare}, ${from.jid}, ${from.resource}.",
    )
    profile: str = setting(
        "deviceTypeExpression", read=_read_name, default="default", doc="Device profile, likewise."
    )
    body_format: Literal["auto", "json", "pairs", "text"] = one_of(
        "bodyFormat",
        choices=("auto", "json", "pairs", "text"),
        default="auto",
        doc="What a body is; auto: JSON if it is an object or a list, else name=value;name=value, else text.",
    )
    timestamp: str | None = setting(
        "timestampExpression",
        read=_read_value,
        default=None,
        doc="Where a message says its time; None: ts, then timestamp, then the server's note of a delay.",
    )
    attributes: tuple[XMPPPoint, ...] = setting(
        "attributes",
        read=read_items(lambda node, reporter: read_section(XMPPPoint, node, reporter)),
        default=(),
        doc="Client attributes to take from each message.",
    )
    timeseries: tuple[XMPPPoint, ...] = setting(
        "timeseries",
        "telemetry",
        read=read_items(lambda node, reporter: read_section(XMPPPoint, node, reporter)),
        default=(),
        doc="Time series to take from each message.",
    )
    attribute_updates: tuple[XMPPUpdate, ...] = setting(
        "attributeUpdates",
        read=read_items(lambda node, reporter: read_section(XMPPUpdate, node, reporter)),
        default=(),
        doc="Shared attributes that are passed on.",
    )
    rpcs: tuple[XMPPRpc, ...] = setting(
        "serverSideRpc",
        read=read_items(lambda node, reporter: read_section(XMPPRpc, node, reporter)),
        default=(),
        doc="RPC methods that are passed on.",
    )
    presence: bool = flag(
        "presence", default=True, doc="Whether the device's presence connects and disconnects it in ThingsBoard."
    )
    request_presence: bool = flag(
        "requestPresence", default=False, doc="Ask the device for its presence when the roster does not give it."
    )
    status_attributes: bool = flag(
        "statusAttributes", default=True, doc="Whether the outcome of requests is told as attributes of the device."
    )
    readout: ReadOutPlan | None = section(
        ReadOutPlan, "readout", default=None, doc="What is read out by XEP-0323; None: nothing by itself."
    )
    report: ReportStrategy | None = report_strategy("When values of this device are sent on.")

    INERT: ClassVar[Mapping[str, str]] = dict.fromkeys(("converter", "extension"), NO_CUSTOM_CODE)
