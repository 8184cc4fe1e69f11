# -*- test-case-name: tests.connectors.test_xmpp_config -*-
"""What an XMPP connector's file says, typed (spec configuration-and-apis, 1B).

The documents' tables write `disableStarttls`, their examples and the code `disable_starttls`: both are taken. Text
passwords over an open connection are off here, where the reference allows them unasked (its bug X-20).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from tbgw.config.schema import (
    CONNECTOR_FILE_INERT,
    NO_CUSTOM_CODE,
    Node,
    Refused,
    Reporter,
    Secret,
    config_section,
    flag,
    integer,
    read_expression,
    read_host,
    read_items,
    read_section,
    read_text,
    report_strategy,
    secret,
    section,
    sections,
    setting,
)
from tbgw.connectors.templates import TemplatePoint, TemplateRpc, TemplateUpdate
from tbgw.model import ReportStrategy

_JID = re.compile(r"(?:[^@/\s\"&'<>:]{1,1023}@)?[^@/\s]{1,1023}(?:/.{1,1023})?")


def _read_jid(node: Node, reporter: Reporter) -> str:
    jid = read_text(node, reporter).strip()
    if not _JID.fullmatch(jid):
        raise Refused("is no JID; allowed is name@domain or name@domain/resource")
    return jid


@config_section
class XMPPServer:
    """The object `server`: the account, and the way to its server."""

    jid: str = setting("jid", read=_read_jid, doc="The gateway's own account, name@domain.")
    password: Secret = secret("password", doc="Password of the account.")
    host: str = setting("host", read=read_host, default="localhost", doc="Host name or address of the server.")
    port: int = integer("port", minimum=1, maximum=65535, default=5222, unit="TCP port", doc="Port of the server.")
    direct_tls: bool = flag("use_ssl", "useSsl", default=False, doc="TLS from the first byte, in place of STARTTLS.")
    disable_starttls: bool = flag("disable_starttls", "disableStarttls", default=False, doc="Never encrypt.")
    force_starttls: bool = flag(
        "force_starttls", "forceStarttls", default=True, doc="Do not log in to a server without STARTTLS."
    )
    unencrypted_plain_auth: bool = flag(
        "unencrypted_plain_auth", "unencryptedPlainAuth", default=False, doc="Send the password readable if asked to."
    )
    timeout_ms: int = integer(
        "timeout", minimum=1, maximum=600_000, default=10_000, unit="ms", doc="Longest time for connecting."
    )
    plugins: tuple[str, ...] = setting(
        "plugins",
        read=read_items(read_text),
        default=("xep_0030", "xep_0323", "xep_0325"),
        doc="XMPP extensions to announce.",
    )


@config_section
class XMPPDevice:
    """One entry of `devices`."""

    jid: str = setting("jid", read=_read_jid, doc="Who writes: with a resource this one, without it any resource.")
    name: str = setting("deviceNameExpression", read=read_expression, doc="Device name, over the message.")
    profile: str = setting(
        "deviceTypeExpression", read=read_expression, default="default", doc="Device profile, over the message."
    )
    attributes: tuple[TemplatePoint, ...] = sections(
        TemplatePoint, "attributes", default=(), doc="Client attributes to take from each message."
    )
    timeseries: tuple[TemplatePoint, ...] = sections(
        TemplatePoint, "timeseries", "telemetry", default=(), doc="Time series to take from each message."
    )
    attribute_updates: tuple[TemplateUpdate, ...] = sections(
        TemplateUpdate, "attributeUpdates", default=(), doc="Shared attributes that are passed on."
    )
    rpcs: tuple[TemplateRpc, ...] = sections(
        TemplateRpc, "serverSideRpc", default=(), doc="RPC methods that are passed on."
    )
    report: ReportStrategy | None = report_strategy("When values of this device are sent on.")

    INERT: ClassVar[Mapping[str, str]] = dict.fromkeys(("converter", "extension"), NO_CUSTOM_CODE)


@config_section
class XMPPConfig:
    """A whole XMPP connector file."""

    server: XMPPServer = section(XMPPServer, "server", doc="The account and its server.")
    devices: tuple[XMPPDevice, ...] = sections(XMPPDevice, "devices", default=(), doc="Devices that may write.")
    report: ReportStrategy | None = report_strategy("When values of this connector's devices are sent on.")

    INERT: ClassVar[Mapping[str, str]] = CONNECTOR_FILE_INERT


def parse(node: Node, reporter: Reporter) -> XMPPConfig:
    """The section of a whole file. Raises Refused when nothing can be made of it."""
    config = read_section(XMPPConfig, node, reporter)
    _check_server(config.server, node.member("server") or node, reporter)
    devices = node.member("devices")
    if devices is None or devices.value == ():
        reporter.doubt(node, "there are no devices, so nobody's messages are taken")
    seen: set[str] = set()
    for device in config.devices:
        if device.jid in seen:
            reporter.doubt(devices or node, f"{device.jid} stands here twice")
        seen.add(device.jid)
    return config


def _check_server(server: XMPPServer, node: Node, reporter: Reporter) -> None:
    password = node.member("password") or node
    if not server.password.reveal().strip():
        reporter.fault(password, "is empty")
    elif server.password.reveal() == "password":
        reporter.warning(password, "is the one of the sample file; set a real one")
    if server.disable_starttls and not server.direct_tls:
        disabled = node.member("disable_starttls") or node.member("disableStarttls") or node
        if server.force_starttls and (node.member("force_starttls") or node.member("forceStarttls")):
            reporter.fault(disabled, "and force_starttls contradict each other")
        reporter.warning(disabled, "without TLS the password and all data travel readable")
