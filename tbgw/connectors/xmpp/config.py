# -*- test-case-name: tests.connectors.test_xmpp_config -*-
"""What an XMPP connector's file says, typed (spec configuration-and-apis, 1B).

What stands in `server` is in `server_config`, what stands in `devices` in `device_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tbgw.config.schema import (
    CONNECTOR_FILE_INERT,
    Node,
    Reporter,
    config_section,
    integer,
    read_section,
    report_strategy,
    sections,
    setting,
)
from tbgw.connectors.xmpp.device_config import XMPPDevice
from tbgw.connectors.xmpp.server_config import XMPPServer, read_server
from tbgw.model import ReportStrategy


@config_section
class XMPPConfig:
    """A whole XMPP connector file."""

    server: XMPPServer = setting("server", read=read_server, doc="The account and its server.")
    devices: tuple[XMPPDevice, ...] = sections(XMPPDevice, "devices", default=(), doc="Devices that may write.")
    max_devices: int = integer(
        "maxDevices",
        minimum=1,
        maximum=1_000_000,
        default=10_000,
        unit="devices",
        doc="Most device names there may be, and most JIDs that are remembered.",
    )
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
            reporter.doubt(devices or node, f"{device.jid} stands here twice; each message goes to both")
        seen.add(device.jid)
    _check_plugins(config, node, reporter)
    return config


def _check_plugins(config: XMPPConfig, node: Node, reporter: Reporter) -> None:
    server = node.member("server") or node
    place = server.member("plugins") or server
    plugins = config.server.plugins
    for device in config.devices:
        sends = {rpc.send for rpc in device.rpcs} | {update.send for update in device.attribute_updates}
        if "xep_0323" not in plugins and (device.readout is not None or "readout" in sends):
            reporter.doubt(place, f"{device.jid} is to be read out, but xep_0323 is not named")
        if "xep_0325" not in plugins and "control" in sends:
            reporter.doubt(place, f"{device.jid} is to be controlled, but xep_0325 is not named")
