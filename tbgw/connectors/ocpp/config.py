# -*- test-case-name: tests.connectors.test_ocpp_config -*-
"""What an OCPP connector's file says, typed (spec configuration-and-apis, 1C).

A plain listener that others than this machine can reach, and one that asks for no credentials, load as in the
reference, with a warning (P-06). A certificate that cannot be used is a fault; the reference then listens in clear.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from tbgw.config.schema import (
    CONNECTOR_FILE_INERT,
    NO_CUSTOM_CODE,
    NOT_YET,
    Node,
    Refused,
    Reporter,
    Secret,
    certificate,
    config_section,
    flag,
    integer,
    is_loopback,
    key_pair_fault,
    one_of,
    printable,
    read_expression,
    read_host,
    read_items,
    read_object,
    read_secret,
    read_section,
    read_text,
    report_strategy,
    secret,
    section,
    sections,
    setting,
    text,
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

_SAMPLE_SECRETS = ("admin", "Bearer ACCESS_TOKEN")


def _read_actions(node: Node, reporter: Reporter) -> tuple[str, ...]:
    actions = tuple(filter(None, (part.strip() for part in read_text(node, reporter).split(","))))
    if not actions:
        raise Refused("names no message; allowed are OCPP actions between commas, such as MeterValues,DataTransfer")
    return actions


def _read_pattern(node: Node, reporter: Reporter) -> re.Pattern[str]:
    try:
        return re.compile(read_text(node, reporter))
    except (re.error, RecursionError, OverflowError) as error:
        raise Refused(f"is no regular expression: {error}") from None


def _read_version(node: Node, reporter: Reporter) -> Version:
    stated = read_text(node, reporter)
    try:
        return Version(stated if stated.startswith("ocpp") else f"ocpp{stated}")
    except ValueError:
        allowed = ", ".join(Version)
        raise Refused(f'is "{printable(stated)}", must be one of {allowed}') from None


def _read_versions(node: Node, reporter: Reporter) -> tuple[Version, ...]:
    versions: tuple[Version, ...] = read_items(_read_version)(node, reporter)
    if not versions:
        raise Refused("allows no version, so nobody could connect")
    return versions


def _read_template(node: Node, reporter: Reporter) -> str:
    template = read_expression(node, reporter)
    try:
        compile_template(template)
    except ExpressionError as error:
        raise Refused(str(error)) from None
    return template


@config_section
class Connection:
    """The object `connection`."""

    type: Literal["insecure", "tls"] = one_of(
        "type", choices=("insecure", "tls"), default="insecure", doc="ws:// or wss://."
    )
    key: Path | None = certificate("key", default=None, doc="PEM file of the private key.")
    cert: Path | None = certificate("cert", default=None, doc="PEM file of the certificate.")
    password: Secret | None = secret("password", default=None, doc="Passphrase of the private key.")


@config_section
class Credential:
    """One entry of `credentials`."""

    username: str = text("username", doc="User name; often the charge point's id.")
    password: Secret = secret("password", doc="Password.")


@config_section
class Login:
    """One entry of `security`; a charge point needs to satisfy one of them."""

    type: Literal["token", "basic"] = one_of("type", choices=("token", "basic"), doc="Kind of login.")
    tokens: tuple[Secret, ...] = setting(
        "tokens", read=read_items(read_secret), default=(), doc="Whole Authorization headers that are accepted."
    )
    credentials: tuple[Credential, ...] = sections(
        Credential, "credentials", default=(), doc="User names and passwords that are accepted."
    )


@config_section
class CentralSystem:
    """The object `centralSystem`: where charge points connect to, and what they have to show."""

    host: str = setting("host", read=read_host, default="127.0.0.1", doc="Local address to listen on.")
    port: int = integer("port", minimum=1, maximum=65535, default=9000, unit="TCP port", doc="Local port.")
    connection: Connection = section(Connection, "connection", default=Connection(), doc="Plain or TLS.")
    security: tuple[Login, ...] = sections(Login, "security", default=(), doc="Logins; empty: everybody may connect.")
    versions: tuple[Version, ...] = setting(
        "ocppVersions", read=_read_versions, default=tuple(Version), doc="Versions that charge points may speak."
    )
    name: str = text("name", default="Central System", doc="Display name.")
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
    unknown_charge_point: Literal["reject", "accept"] = one_of(
        "unknownChargePoint",
        choices=("reject", "accept"),
        default="reject",
        doc="Whether one that matches no entry of chargePoints is let in, with the default mapping and its id as name.",
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

    action: str | None = text("action", default=None, doc="OCPP action that carries it; None: DataTransfer.")
    timeout_seconds: int = integer(
        "timeout", minimum=1, maximum=3600, default=5, unit="seconds", doc="How long the answer is waited for."
    )


@config_section
class ChargePointRpc(TemplateRpc):
    """One entry of `serverSideRpc` of a charge point."""

    action: str | None = text("action", default=None, doc="OCPP action that carries it; None: DataTransfer.")
    timeout_seconds: int = integer(
        "timeout", minimum=1, maximum=3600, default=5, unit="seconds", doc="How long the answer is waited for."
    )


@config_section
class ChargePoint:
    """One entry of `chargePoints`: all charge points whose id matches."""

    id_pattern: re.Pattern[str] = setting(
        "idRegexpPattern", read=_read_pattern, doc="Regular expression for the whole path behind host and port."
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
    versions: tuple[Version, ...] | None = setting(
        "ocppVersions", read=_read_versions, default=None, doc="Versions that these may speak; left out: as for all."
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
    _check_connection(config.central_system, central_system, reporter)
    _check_logins(config.central_system, central_system, reporter)
    points = node.member("chargePoints")
    if points is None or points.value == ():
        reporter.doubt(node, "there are no charge points, so none may connect")
    return config


def _check_connection(central_system: CentralSystem, node: Node, reporter: Reporter) -> None:
    connection = central_system.connection
    connection_node = node.member("connection") or node
    if connection.type == "tls":
        for key in ("cert", "key"):
            if connection_node.member(key) is None:
                reporter.missing(connection_node, key, "is missing: type tls needs cert and key")
        if connection.cert and connection.key:
            fault = key_pair_fault(connection.cert, connection.key, connection.password)
            if fault:
                reporter.fault(connection_node, fault)
    elif not is_loopback(central_system.host):
        reporter.warning(
            node.member("host") or node,
            f"others than this machine reach {printable(central_system.host)} without TLS; passwords travel readable",
        )


def _check_logins(central_system: CentralSystem, node: Node, reporter: Reporter) -> None:
    security = node.member("security")
    if not central_system.security and (security is None or security.value == ()):
        if not is_loopback(central_system.host):
            reporter.warning(node, "without security entries every charge point that knows a fitting id may connect")
        return
    for entry in security.value if security is not None and isinstance(security.value, tuple) else ():
        _check_login(entry, reporter)


def _check_login(node: Node, reporter: Reporter) -> None:
    if not isinstance(node.value, Mapping):
        return
    kind = read_object(node, reporter).get("type")
    key = {"token": "tokens", "basic": "credentials"}.get(str(kind.value) if kind else "")
    if key is None:
        return
    listed = node.member(key)
    if listed is None or listed.value == ():
        reporter.missing(node, key, "is missing or empty, so this entry lets nobody in")
        return
    for item in listed.value if isinstance(listed.value, tuple) else ():
        secret_node = item.member("password") if key == "credentials" else item
        if secret_node is None or not isinstance(secret_node.value, str):
            continue
        if not secret_node.value.strip():
            reporter.fault(secret_node, "is empty")
        elif secret_node.value in _SAMPLE_SECRETS:
            reporter.warning(secret_node, "is the one of the sample file; set a real one")
