# -*- test-case-name: tests.connectors.test_ocpp_config -*-
"""What an OCPP connector's file says, typed (spec configuration-and-apis, 1C).

The listener with its logins and limits is described in `access`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tbgw.config.schema import (
    CONNECTOR_FILE_INERT,
    NO_CUSTOM_CODE,
    NOT_YET,
    Node,
    Refused,
    Reporter,
    config_section,
    flag,
    integer,
    one_of,
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
    read_action,
    read_native,
    read_pattern,
    read_version,
    read_versions,
)
from tbgw.connectors.ocpp.policy import (
    Authorization,
    Boot,
    DataTransfer,
    DefaultMapping,
    Policy,
    Transactions,
    read_on,
)
from tbgw.connectors.templates import TemplatePoint, TemplateRpc, TemplateUpdate
from tbgw.expressions import ExpressionError, compile_template
from tbgw.model import ReportStrategy
from tbgw.ocpp.versions import Version


def _read_actions(node: Node, reporter: Reporter) -> tuple[str, ...]:
    actions = tuple(filter(None, (part.strip() for part in read_text(node, reporter).split(","))))
    if not actions:
        raise Refused("names no message; allowed are OCPP actions between commas, such as MeterValues,DataTransfer")
    return actions


def _read_template(node: Node, reporter: Reporter) -> str:
    template = read_expression(node, reporter)
    try:
        compile_template(template)
    except ExpressionError as error:
        raise Refused(str(error)) from None
    return template


@config_section
class CentralSystem(Entrance):
    """The object `centralSystem`."""

    boot: Boot = section(Boot, "boot", default=Boot(), doc="The answer to BootNotification.")
    authorization: Authorization = section(
        Authorization, "authorization", default=Authorization(), doc="Which idTags may charge."
    )
    transactions: Transactions = section(
        Transactions, "transactions", default=Transactions(), doc="Where transaction ids come from."
    )
    data_transfer: DataTransfer = section(
        DataTransfer, "dataTransfer", default=DataTransfer(), doc="The answer to DataTransfer."
    )
    mapping: DefaultMapping = section(
        DefaultMapping, "mapping", default=DefaultMapping(), doc="Options of the default mapping."
    )
    default_mapping: bool | None = setting(
        "defaultMapping",
        read=read_on,
        default=None,
        doc="Default mapping on or off; left out: on for entries without attributes and timeseries.",
    )
    certificate_signing: Literal["reject", "forward"] = one_of(
        "certificateSigning",
        choices=("reject", "forward"),
        default="reject",
        doc="SignCertificate is refused, or passed to ThingsBoard, which answers by the RPC CertificateSigned.",
    )
    legacy_unresolved: bool = flag(
        "legacyUnresolved", default=False, doc="Send the text of an expression that finds nothing, as the reference."
    )
    legacy_boot: bool = flag(
        "legacyBootFilter", default=False, doc="Filters on MeterValues match BootNotification too, as the reference."
    )


@config_section
class ChargePointPoint(TemplatePoint):
    """One entry of `attributes` or `timeseries` of a charge point."""

    key: str = setting("key", read=_read_template, doc="Name of the value in ThingsBoard; may be an expression.")
    value: str = setting("value", read=_read_template, doc="Expression over the message.")
    actions: tuple[str, ...] = setting(
        "messageTypeFilter", read=_read_actions, default=(), doc="OCPP actions it is for; empty: all."
    )
    type: Literal["auto", "string", "number"] = one_of(
        "type", choices=("auto", "string", "number"), default="auto", doc="auto: as the message has it."
    )
    matches: Literal["first", "all"] = one_of(
        "matches", choices=("first", "all"), default="first", doc="What counts when an expression finds several values."
    )


@config_section
class ChargePointUpdate(TemplateUpdate):
    """One entry of `attributeUpdates` of a charge point."""

    action: str | None = setting(
        "action", read=read_action, default=None, doc="OCPP action that carries it; None: DataTransfer."
    )
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

    action: str | None = setting(
        "action", read=read_action, default=None, doc="OCPP action that carries it; None: DataTransfer."
    )
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
    name: str = setting("deviceNameExpression", read=_read_template, doc="Device name, over the BootNotification.")
    profile: str = setting(
        "deviceTypeExpression",
        read=_read_template,
        default="default",
        doc="Device profile, over the BootNotification.",
    )
    fallback_name: str = setting(
        "fallbackNameExpression",
        read=_read_template,
        default="${chargePointId}",
        doc="Device name while deviceNameExpression finds nothing, i.e. before the first BootNotification.",
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
    boot: Boot | None = section(Boot, "boot", default=None, doc="As in centralSystem, for this entry.")
    authorization: Authorization | None = section(
        Authorization, "authorization", default=None, doc="As in centralSystem, for this entry."
    )
    data_transfer: DataTransfer | None = section(
        DataTransfer, "dataTransfer", default=None, doc="As in centralSystem, for this entry."
    )
    mapping: DefaultMapping | None = section(
        DefaultMapping, "mapping", default=None, doc="As in centralSystem, for this entry."
    )
    default_mapping: bool | None = setting(
        "defaultMapping", read=read_on, default=None, doc="As in centralSystem, for this entry."
    )
    certificate_signing: Literal["reject", "forward"] | None = one_of(
        "certificateSigning", choices=("reject", "forward"), default=None, doc="As in centralSystem, for this entry."
    )
    legacy_unresolved: bool | None = setting(
        "legacyUnresolved", read=read_on, default=None, doc="As in centralSystem, for this entry."
    )
    legacy_boot: bool | None = setting(
        "legacyBootFilter", read=read_on, default=None, doc="As in centralSystem, for this entry."
    )
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

    INERT: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("converter", "extension"), NO_CUSTOM_CODE),
        **dict.fromkeys(("host", "port"), NOT_YET),
    }


UNKNOWN_CHARGE_POINT = ChargePoint(id_pattern=re.compile(""), name="${chargePointId}")
"""What holds for those that match no entry, where `unknownChargePoint` lets them in."""


@config_section
class OCPPConfig:
    """A whole OCPP connector file."""

    central_system: CentralSystem = section(CentralSystem, "centralSystem", doc="Where charge points connect to.")
    charge_points: tuple[ChargePoint, ...] = sections(
        ChargePoint, "chargePoints", default=(), doc="Charge points that may connect."
    )
    report: ReportStrategy | None = report_strategy("When values of this connector's devices are sent on.")

    INERT: ClassVar[Mapping[str, str]] = CONNECTOR_FILE_INERT

    @property
    def needs_tls(self) -> bool:
        """Whether it has a use for OpenSSL."""
        return self.central_system.connection.has_tls


def policy_of(config: OCPPConfig, charge_point: ChargePoint) -> Policy:
    """What holds for one entry: its own sections, else those of centralSystem."""
    central, own = config.central_system, charge_point

    def chosen(mine: Any, general: Any) -> Any:
        return general if mine is None else mine

    return Policy(
        boot=chosen(own.boot, central.boot),
        boot_status=central.boot.unknown if own is UNKNOWN_CHARGE_POINT else chosen(own.boot, central.boot).status,
        authorization=chosen(own.authorization, central.authorization),
        data_transfer=chosen(own.data_transfer, central.data_transfer),
        mapping=chosen(own.mapping, central.mapping),
        maps_by_default=chosen(
            chosen(own.default_mapping, central.default_mapping), not own.attributes and not own.timeseries
        ),
        certificate_signing=chosen(own.certificate_signing, central.certificate_signing),
        legacy_unresolved=chosen(own.legacy_unresolved, central.legacy_unresolved),
        legacy_boot=chosen(own.legacy_boot, central.legacy_boot),
    )


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
