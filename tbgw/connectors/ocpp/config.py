# -*- test-case-name: tests.connectors.test_ocpp_config -*-
"""What an OCPP connector's file says, typed (spec configuration-and-apis, 1C).

The listener with its logins and limits is described in `access`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from tbgw.config.schema import (
    CONNECTOR_FILE_INERT,
    NO_CUSTOM_CODE,
    NOT_YET,
    Node,
    Refused,
    Reporter,
    config_section,
    integer,
    read_expression,
    read_section,
    read_text,
    report_strategy,
    section,
    sections,
    setting,
    text,
)
from tbgw.connectors.ocpp.access import (
    Entrance,
    Login,
    check_entrance,
    check_logins,
    check_patterns,
    flag_or_none,
    read_native,
    read_pattern,
    read_signing,
    read_version,
    read_versions,
)
from tbgw.connectors.templates import TemplatePoint, TemplateRpc, TemplateUpdate
from tbgw.model import ReportStrategy
from tbgw.ocpp.versions import Version


def _read_actions(node: Node, reporter: Reporter) -> tuple[str, ...]:
    actions = tuple(filter(None, (part.strip() for part in read_text(node, reporter).split(","))))
    if not actions:
        raise Refused("names no message; allowed are OCPP actions between commas, such as MeterValues,DataTransfer")
    return actions


@config_section
class CentralSystem(Entrance):
    """The object `centralSystem`."""


@config_section
class ChargePointPoint(TemplatePoint):
    """One entry of `attributes` or `timeseries` of a charge point."""

    actions: tuple[str, ...] = setting(
        "messageTypeFilter", read=_read_actions, default=(), doc="OCPP actions it is for; empty: all."
    )


@config_section
class ChargePointUpdate(TemplateUpdate):
    """One entry of `attributeUpdates` of a charge point."""

    action: str | None = text("action", default=None, doc="OCPP action that carries it; None: DataTransfer.")
    timeout_seconds: int | None = integer(
        "timeout",
        minimum=1,
        maximum=3600,
        default=None,
        unit="seconds",
        doc="How long the answer is waited for; left out: callTimeout.",
    )
    vendor_id: str = text("vendorId", default="1", doc="vendorId of the DataTransfer that carries it.")
    message_id: str | None = text("messageId", default=None, doc="messageId of the DataTransfer that carries it.")


@config_section
class ChargePointRpc(TemplateRpc):
    """One entry of `serverSideRpc` of a charge point."""

    action: str | None = text("action", default=None, doc="OCPP action that carries it; None: DataTransfer.")
    timeout_seconds: int | None = integer(
        "timeout",
        minimum=1,
        maximum=3600,
        default=None,
        unit="seconds",
        doc="How long the answer is waited for; left out: callTimeout.",
    )
    vendor_id: str = text("vendorId", default="1", doc="vendorId of the DataTransfer that carries it.")
    message_id: str | None = text("messageId", default=None, doc="messageId of the DataTransfer that carries it.")


@config_section
class ChargePoint:
    """One entry of `chargePoints`: all charge points whose id matches."""

    id_pattern: re.Pattern[str] = setting(
        "idRegexpPattern", read=read_pattern, doc="Regular expression for the whole path behind host and port."
    )
    name: str = setting("deviceNameExpression", read=read_expression, doc="Device name, over the BootNotification.")
    profile: str = setting(
        "deviceTypeExpression",
        read=read_expression,
        default="default",
        doc="Device profile, over the BootNotification.",
    )
    attributes: tuple[ChargePointPoint, ...] = sections(
        ChargePointPoint, "attributes", default=(), doc="Client attributes to take from messages."
    )
    timeseries: tuple[ChargePointPoint, ...] = sections(
        ChargePointPoint, "timeseries", "telemetry", default=(), doc="Time series to take from messages."
    )
    attribute_updates: tuple[ChargePointUpdate, ...] = sections(
        ChargePointUpdate, "attributeUpdates", default=(), doc="Shared attributes that are passed on."
    )
    rpcs: tuple[ChargePointRpc, ...] = sections(
        ChargePointRpc, "serverSideRpc", default=(), doc="RPC methods that are passed on."
    )
    report: ReportStrategy | None = report_strategy("When values of this charge point are sent on.")
    # What may differ from centralSystem; None: what stands there counts.
    security: tuple[Login, ...] | None = sections(
        Login, "security", default=None, doc="Logins of these charge points, instead of those of centralSystem."
    )
    strict_identity: bool | None = flag_or_none(
        "strictIdentity", doc="Whether the user name has to be the charge point's id."
    )
    versions: tuple[Version, ...] | None = setting(
        "ocppVersions", read=read_versions, default=None, doc="Versions that are spoken with these charge points."
    )
    missing_subprotocol: Version | None = setting(
        "allowMissingSubprotocol", read=read_version, default=None, doc="Version for one that names none."
    )
    call_timeout_seconds: int | None = integer(
        "callTimeout", minimum=1, maximum=3600, default=None, unit="seconds", doc="How long an answer is waited for."
    )
    native_rpc: bool | tuple[str, ...] | None = setting(
        "nativeRpc", read=read_native, default=None, doc="Whether OCPP's own actions may be called as RPCs."
    )
    certificate_signing: str | None = setting(
        "certificateSigning", read=read_signing, default=None, doc="What becomes of SignCertificate: reject or forward."
    )

    INERT: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("converter", "extension"), NO_CUSTOM_CODE),
        **dict.fromkeys(("host", "port"), NOT_YET),
    }


@config_section
class OCPPConfig:
    """A whole OCPP connector file."""

    central_system: CentralSystem = section(CentralSystem, "centralSystem", doc="Where charge points connect to.")
    charge_points: tuple[ChargePoint, ...] = sections(
        ChargePoint, "chargePoints", default=(), doc="Charge points that may connect."
    )
    report: ReportStrategy | None = report_strategy("When values of this connector's devices are sent on.")

    INERT: ClassVar[Mapping[str, str]] = CONNECTOR_FILE_INERT


def parse(node: Node, reporter: Reporter) -> OCPPConfig:
    """The section of a whole file. Raises Refused when nothing can be made of it."""
    config = read_section(OCPPConfig, node, reporter)
    central_system = node.member("centralSystem") or node
    check_entrance(config.central_system, central_system, reporter)
    points = node.member("chargePoints")
    entries = points.value if points is not None and isinstance(points.value, tuple) else ()
    if len(entries) == len(config.charge_points):  # else one of them is refused already
        for point, entry in zip(config.charge_points, entries, strict=True):
            check_logins(point.security or (), entry, reporter)
        check_patterns([point.id_pattern for point in config.charge_points], entries, reporter)
    if not entries and config.central_system.unknown_charge_point == "reject":
        reporter.doubt(node, "there are no charge points, so none may connect")
    return config
