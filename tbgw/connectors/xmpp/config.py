# -*- test-case-name: tests.connectors.test_xmpp_config -*-
"""What an XMPP connector's file says, typed (spec configuration-and-apis, 1B).

What stands in `server` is in `server_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tbgw.config.schema import (
    CONNECTOR_FILE_INERT,
    NO_CUSTOM_CODE,
    Node,
    Reporter,
    config_section,
    read_expression,
    read_section,
    report_strategy,
    sections,
    setting,
)
from tbgw.connectors.templates import TemplatePoint, TemplateRpc, TemplateUpdate
from tbgw.connectors.xmpp.server_config import XMPPServer, read_jid, read_server
from tbgw.model import ReportStrategy


@config_section
class XMPPDevice:
    """One entry of `devices`."""

    jid: str = setting("jid", read=read_jid, doc="Who writes: with a resource this one, without it any resource.")
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

    server: XMPPServer = setting("server", read=read_server, doc="The account and its server.")
    devices: tuple[XMPPDevice, ...] = sections(XMPPDevice, "devices", default=(), doc="Devices that may write.")
    report: ReportStrategy | None = report_strategy("When values of this connector's devices are sent on.")

    INERT: ClassVar[Mapping[str, str]] = CONNECTOR_FILE_INERT

    @property
    def needs_tls(self) -> bool:
        """Whether OpenSSL has to be there; `tap` leaves it out otherwise."""
        return self.server.needs_tls


def parse(node: Node, reporter: Reporter) -> XMPPConfig:
    """The section of a whole file. Raises Refused when nothing can be made of it."""
    config = read_section(XMPPConfig, node, reporter)
    devices = node.member("devices")
    if devices is None or devices.value == ():
        reporter.doubt(node, "there are no devices, so nobody's messages are taken")
    seen: set[str] = set()
    for device in config.devices:
        if device.jid in seen:
            reporter.doubt(devices or node, f"{device.jid} stands here twice")
        seen.add(device.jid)
    return config

