# -*- test-case-name: tests.config.test_thingsboard -*-
"""The section `thingsboard`: the link to the server, and what the gateway does as a whole.

The keys are the reference's. What this gateway does not (yet) do is typed and checked all the same, and named in a
notice when it is asked for.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path, PurePath
from typing import ClassVar

from tbgw.config.document import Node, printable
from tbgw.config.findings import ENVIRONMENT, Reporter
from tbgw.config.schema import NOT_NEEDED, NOT_YET, report_strategy
from tbgw.config.security import (
    NO_TOKEN,
    TLS_PORT,
    Security,
    check_placeholder,
    report_no_security,
    says_who_we_are,
    settle_link,
    settle_security,
)
from tbgw.config.settings import (
    certificate,
    changed,
    config_section,
    flag,
    integer,
    one_of,
    read_section,
    secret,
    section,
    sections,
    setting,
    text,
)
from tbgw.config.values import (
    MAX_PORT,
    Refused,
    Secret,
    config_file,
    did_you_mean,
    is_loopback,
    read_choice,
    read_host,
    read_items,
    read_text,
)
from tbgw.model import RateLimit, ReportStrategy, SessionLimits

MAX_SECONDS = 366 * 24 * 3600
"""Longest period in seconds: a year. More is a slip with units."""
MAX_PAYLOAD_BYTES = 268_435_455
"""What an MQTT packet can hold."""


class DefaultLimit(Enum):
    """The words that stand for "what fits the server" in place of a rate limit."""

    TELEMETRY = "DEFAULT_TELEMETRY_RATE_LIMIT"
    TELEMETRY_DATA_POINTS = "DEFAULT_TELEMETRY_DP_RATE_LIMIT"
    MESSAGES = "DEFAULT_MESSAGES_RATE_LIMIT"


CLOUD_LIMITS: Mapping[DefaultLimit, tuple[RateLimit, ...]] = {
    DefaultLimit.TELEMETRY: (RateLimit(10, 1.0), RateLimit(60, 60.0)),
    DefaultLimit.TELEMETRY_DATA_POINTS: (RateLimit(10, 1.0), RateLimit(300, 60.0)),
    DefaultLimit.MESSAGES: (RateLimit(10, 1.0), RateLimit(60, 60.0)),
}
"""What they stand for on ThingsBoard's public servers; on any other, nothing (spec reference-gateway, A4.5)."""

RateLimits = tuple[RateLimit, ...] | DefaultLimit
"""Limits that hold together, none if empty; or what fits the server."""

_NO_KEY = re.compile(
    r"(?:put|insert|enter|your|my|the)+(?:device)?(?:provision(?:ing)?)?(?:device)?(?:key|secret)(?:here)?|changeme"
)
"""Placeholders of a provisioning key and secret, in lower case and without what is between the words."""

_LIMIT = re.compile(r"\s*([0-9]{1,12})\s*:\s*([0-9]{1,9})\s*")


def _read_rate_limits(node: Node, reporter: Reporter) -> RateLimits:
    stated = read_text(node, reporter)
    words = [limit.value for limit in DefaultLimit]
    if stated in words:
        return DefaultLimit(stated)
    limits: list[RateLimit] = []
    for part in filter(str.strip, re.split("[,;]", stated)):
        match = _LIMIT.fullmatch(part)
        if match is None or len(limits) == 32 or (int(match[1]) == 0) != (int(match[2]) == 0):
            raise Refused(
                f'"{printable(stated)}" is no rate limit; allowed are messages:seconds pairs such as 15:1,300:60, '
                f"0:0 for none, {', '.join(words)}{did_you_mean(stated, words)}"
            )
        if int(match[1]):
            limits.append(RateLimit(int(match[1]), float(match[2])))
    return tuple(limits)


REMOTE_METHODS = (
    "gateway_ping",
    "gateway_devices",
    "gateway_version",
    "gateway_update",
    "gateway_stats",
    "gateway_restart",
    "gateway_restart_connector",
    "gateway_device_renamed",
    "gateway_device_deleted",
    "gateway_remove_provisioned_credentials",
    "gateway_reboot",
)
"""Commands for the gateway itself; all but the last are allowed unless `remoteMethods` says otherwise."""


def _read_methods(node: Node, reporter: Reporter) -> tuple[str, ...]:
    return tuple(read_items(read_choice(REMOTE_METHODS))(node, reporter))


def _read_words(node: Node, reporter: Reporter) -> tuple[str, ...]:
    """A program and its arguments: a list, or one text that is cut at its spaces. There is no shell."""
    if isinstance(node.value, str):
        try:
            words = shlex.split(node.value)
        except ValueError as error:
            raise Refused(f"cannot be cut into words: {error}") from None
    else:
        words = list(read_items(read_text)(node, reporter))
    if not words or len(words) > 64:
        raise Refused("must be a program and up to 63 arguments")
    return tuple(words)


@config_section
class StatisticsCommand:
    """One entry of `thingsboard.statistics.commands`, or of the file that `configuration` names."""

    command: tuple[str, ...] = setting("command", read=_read_words, doc="Program and arguments; no shell.")
    key: str = text("attributeOnGateway", doc="Key of the telemetry that its output becomes.")
    timeout_seconds: int = integer(
        "timeout", minimum=1, maximum=3600, default=10, unit="seconds", doc="How long it may run; then it is ended."
    )

    INERT: ClassVar[Mapping[str, str]] = {"installCmd": "without effect: tbgw installs nothing"}


@config_section
class StatisticsSection:
    """`thingsboard.statistics`: what the gateway tells about itself."""

    enabled: bool = flag("enable", default=True, doc="Send figures of the gateway and its store.")
    period_seconds: int = integer(
        "statsSendPeriodInSeconds", minimum=1, maximum=MAX_SECONDS, default=3600, unit="seconds", doc="How often."
    )
    custom_enabled: bool = flag("enableCustom", default=False, doc="Send what commands print, too.")
    custom_period_seconds: int = integer(
        "customStatsSendPeriodInSeconds",
        minimum=1,
        maximum=MAX_SECONDS,
        default=3600,
        unit="seconds",
        doc="How often the commands run.",
    )
    configuration: Path | None = setting("configuration", read=config_file, default=None, doc="File with the commands.")

    commands: tuple[StatisticsCommand, ...] = sections(
        StatisticsCommand, "commands", default=(), doc="The commands, given here."
    )


@config_section
class DeviceFilteringSection:
    """`thingsboard.deviceFiltering`: whether data of some devices is held back."""

    enabled: bool = flag("enable", default=False, doc="Use the rules of the filter file.")
    file: Path | None = setting(
        "filterFile",
        read=config_file,
        default=None,
        doc="Rules file, in the configuration's folder; list.json if absent.",
    )


@config_section
class ActivitySection:
    """`thingsboard.checkingDeviceActivity`: when a silent device is reported as disconnected."""

    enabled: bool = flag(
        "checkDeviceInactivity", default=False, doc="Disconnect devices that are silent."
    )
    timeout_seconds: int = integer(
        "inactivityTimeoutSeconds",
        minimum=1,
        maximum=MAX_SECONDS,
        default=120,
        unit="seconds",
        doc="Silence after which a device counts as gone.",
    )
    check_period_seconds: int = integer(
        "inactivityCheckPeriodSeconds",
        minimum=1,
        maximum=MAX_SECONDS,
        default=10,
        unit="seconds",
        doc="How often this is looked at.",
    )


@config_section
class ProvisioningSection:
    """`thingsboard.provisioning`: how the gateway asks ThingsBoard for credentials."""

    type: str = one_of(
        "type",
        choices=("AUTO", "ACCESS_TOKEN", "MQTT_BASIC", "X509_CERTIFICATE"),
        default="",
        doc="Kind of credentials to ask for; AUTO: whatever ThingsBoard makes. Found by the other keys when left out.",
    )
    device_key: Secret | None = secret("provisionDeviceKey", default=None, doc="Key of the device profile.")
    device_secret: Secret | None = secret("provisionDeviceSecret", default=None, doc="Secret of the device profile.")
    device_name: str | None = text(
        "deviceName", default=None, doc="Name that the gateway device is to have; made up once when left out."
    )
    access_token: Secret | None = secret(
        "access_token", "accessToken", default=None, doc="Token to ask for; made by ThingsBoard when left out."
    )
    username: str | None = text("username", default=None, doc="MQTT user name to ask for.")
    password: Secret | None = secret("password", default=None, doc="MQTT password to ask for.")
    client_id: str | None = text("client_id", "clientId", default=None, doc="MQTT client id to ask for.")
    ca_cert: Path | None = certificate(
        "caCert", default=None, doc="PEM file of the certificates to trust instead of the system's; turns TLS on."
    )


def _read_command(node: Node, reporter: Reporter) -> tuple[str, ...]:
    words: tuple[str, ...] = read_items(read_text)(node, reporter)
    if not words:
        raise Refused("is empty; give the program and its arguments, each a text of its own")
    if not PurePath(words[0]).is_absolute():
        raise Refused("must begin with the full path of a program: there is no shell that would look for it")
    return words


@config_section
class PackagesSection:
    """`thingsboard.firmware` and `thingsboard.software`: packages that ThingsBoard offers the gateway's device."""

    enabled: bool = flag("enabled", default=True, doc="Fetch and check what is offered, and tell its state.")
    command: tuple[str, ...] = setting(
        "command",
        read=_read_command,
        default=(),
        doc="Program and arguments that a checked package is handed to: the file's path comes as the last argument. "
        "Without, the package is kept and nothing is done with it.",
    )
    command_timeout_seconds: int = integer(
        "commandTimeoutSeconds",
        minimum=1,
        maximum=86_400,
        default=600,
        unit="seconds",
        doc="How long the program may run.",
    )
    max_bytes: int = integer(
        "maxSizeBytes",
        minimum=1,
        maximum=2**31,
        default=256 * 1024 * 1024,
        unit="bytes",
        doc="Largest package that is fetched.",
    )
    chunk_bytes: int = integer(
        "chunkSizeBytes",
        minimum=64,
        maximum=65_536,
        default=16_384,
        unit="bytes",
        doc="How much is asked for at a time; ThingsBoard allows 65536.",
    )


@config_section
class ThingsBoardSection:
    """`thingsboard`: the link to the server, and what the gateway does as a whole."""

    host: str = setting("host", read=read_host, default="thingsboard.cloud", doc="Host name or address of the server.")
    port: int = integer("port", minimum=1, maximum=MAX_PORT, default=1883, unit="TCP port", doc="MQTT port; 8883: TLS.")
    keep_alive_seconds: int = integer(
        "keep_alive", "keepAlive", minimum=5, maximum=65535, default=60, unit="seconds", doc="MQTT keep alive."
    )
    qos: int = integer(
        "qos", minimum=0, maximum=1, default=1, unit="MQTT QoS", doc="Accepted; data goes at QoS 1 always."
    )
    max_payload_bytes: int = integer(
        "maxPayloadSizeBytes",
        minimum=100,
        maximum=MAX_PAYLOAD_BYTES,
        default=65536,
        unit="bytes",
        doc="Largest payload to send; the smaller of this and what ThingsBoard announces counts.",
    )
    pack_delay_ms: int = integer(
        "minPackSendDelayMS",
        minimum=0,
        maximum=60_000,
        default=10,
        unit="ms",
        doc="How long readings are gathered into one packet.",
    )
    security: Security = section(Security, "security", default=Security(), doc="Credentials and TLS.")
    provisioning: ProvisioningSection | None = section(
        ProvisioningSection,
        "provisioning",
        default=None,
        doc="How to get credentials. After the check: None where `security` has credentials, which count then.",
    )
    firmware: PackagesSection = section(
        PackagesSection, "firmware", default=PackagesSection(), doc="Firmware packages for the gateway. Our own key."
    )
    software: PackagesSection = section(
        PackagesSection, "software", default=PackagesSection(), doc="Software packages for the gateway. Our own key."
    )
    short_topics: bool = flag(
        "shortTopics", default=False, doc="Speak the short forms of the gateway's own topics (v2/t ...). Our own key."
    )
    report: ReportStrategy | None = report_strategy("Report strategy of all connectors that have none of their own.")
    device_filtering: DeviceFilteringSection = section(
        DeviceFilteringSection, "deviceFiltering", default=DeviceFilteringSection(), doc="Devices that are held back."
    )
    activity: ActivitySection = section(
        ActivitySection, "checkingDeviceActivity", default=ActivitySection(), doc="When a silent device is gone."
    )
    handle_device_renaming: bool = flag(
        "handleDeviceRenaming", default=True, doc="Follow devices renamed or deleted in ThingsBoard."
    )
    statistics: StatisticsSection = section(
        StatisticsSection,
        "statistics",
        default=StatisticsSection(enabled=False),
        doc="What the gateway tells of itself.",
    )
    remote_configuration: bool = flag(
        "remoteConfiguration", default=False, doc="Take the configuration from ThingsBoard, and show it there."
    )
    publish_secrets: bool = flag(
        "publishSecrets",
        default=False,
        doc="Show secrets in the configuration that is published, as the reference does: whoever may see the gateway "
        "in ThingsBoard can read them. Our own key; not to be set remotely.",
    )
    confirm_seconds: int = integer(
        "remoteConfigurationConfirmSeconds",
        minimum=10,
        maximum=86_400,
        default=120,
        unit="seconds",
        doc="How soon ThingsBoard has to be reached after a remote change of the link; else it is undone. Our own key.",
    )
    remote_methods: tuple[str, ...] = setting(
        "remoteMethods",
        read=_read_methods,
        default=tuple(method for method in REMOTE_METHODS if method != "gateway_reboot"),
        doc="Commands for the gateway itself that ThingsBoard may give. Our own key; not to be set remotely.",
    )
    child_session_refresh: str = one_of(
        "childSessionRefresh",
        choices=("reconnect", "connect", "off"),
        default="reconnect",
        doc="How silent devices stay within reach of commands, whose sessions ThingsBoard ends after ten minutes: by a "
        "disconnect and connect before, a connect after, or not at all. Our own key.",
    )
    remote_shell: bool = flag(
        "remoteShell", default=False, doc="Refused.", later="a remote shell is never offered, whatever is set here"
    )
    latency_debug: bool = flag("latencyDebugMode", default=False, doc="Measure delays.", later=NOT_YET)
    config_check_seconds: int = integer(
        "checkConnectorsConfigurationInSeconds",
        minimum=0,
        maximum=MAX_SECONDS,
        default=60,
        unit="seconds",
        doc="How often connector files are looked at for changes; 0: never.",
    )
    mqtt_version: str = one_of(
        "mqttVersion",
        choices=("auto", "5", "3.1.1"),
        default="auto",
        doc="Version of MQTT; auto: 5, and 3.1.1 where the server does not take that.",
    )
    proxy_host: str | None = text("proxy_host", default=None, doc="HTTP proxy that is asked to CONNECT to the server.")
    proxy_port: int = integer(
        "proxy_port", minimum=1, maximum=MAX_PORT, default=3128, unit="TCP port", doc="Port of the HTTP proxy."
    )
    rate_limits: RateLimits = setting(
        "rateLimits", read=_read_rate_limits, default=DefaultLimit.TELEMETRY, unit="messages", doc="Own telemetry."
    )
    dp_rate_limits: RateLimits = setting(
        "dpRateLimits",
        read=_read_rate_limits,
        default=DefaultLimit.TELEMETRY_DATA_POINTS,
        unit="data points",
        doc="Own telemetry.",
    )
    messages_rate_limits: RateLimits = setting(
        "messagesRateLimits", read=_read_rate_limits, default=DefaultLimit.MESSAGES, unit="messages", doc="Own others."
    )
    device_rate_limits: RateLimits = setting(
        "deviceRateLimits",
        read=_read_rate_limits,
        default=DefaultLimit.TELEMETRY,
        unit="messages",
        doc="Telemetry of all devices together.",
    )
    device_dp_rate_limits: RateLimits = setting(
        "deviceDpRateLimits",
        read=_read_rate_limits,
        default=DefaultLimit.TELEMETRY_DATA_POINTS,
        unit="data points",
        doc="Telemetry of all devices together.",
    )
    device_messages_rate_limits: RateLimits = setting(
        "deviceMessagesRateLimits",
        read=_read_rate_limits,
        default=DefaultLimit.MESSAGES,
        unit="messages",
        doc="Other messages of all devices together.",
    )
    backlog_share_percent: int = integer(
        "backlogSharePercent",
        minimum=1,
        maximum=100,
        default=80,
        unit="percent",
        doc="What the delivery of stored data may take of each rate limit for telemetry. Our own key.",
    )

    INERT: ClassVar[Mapping[str, str]] = {
        "minPackSizeToSend": NOT_NEEDED,
        "reportStrategyDataCacheCleanupInterval": NOT_NEEDED,
        "syncDevicesSharedAttributesOnConnect": NOT_YET,
        "managerEnabled": "without effect: there is no open control socket (C-45)",
        "statsSendPeriodInSeconds": "without effect: it belongs into thingsboard.statistics",
    }


def session_limits(section: ThingsBoardSection, announced: SessionLimits) -> SessionLimits:
    """
    The limits that hold in a session: those that ThingsBoard announces and those of the configuration, all of them
    together. The default words count only where ThingsBoard announces nothing.
    """

    def together(theirs: tuple[RateLimit, ...], configured: RateLimits) -> tuple[RateLimit, ...]:
        if isinstance(configured, DefaultLimit):
            configured = () if announced.announced else _default_limit(section.host, configured)
        return tuple(dict.fromkeys((*theirs, *configured)))

    return replace(
        announced,
        own_messages=together(announced.own_messages, section.messages_rate_limits),
        own_telemetry=together(announced.own_telemetry, section.rate_limits),
        own_points=together(announced.own_points, section.dp_rate_limits),
        messages=together(announced.messages, section.device_messages_rate_limits),
        telemetry=together(announced.telemetry, section.device_rate_limits),
        points=together(announced.points, section.device_dp_rate_limits),
    )


def _default_limit(host: str, word: DefaultLimit) -> tuple[RateLimit, ...]:
    host = host.lower()
    public = "thingsboard.cloud" in host or "demo.thingsboard.io" in host or ("tb" in host and "cloud" in host)
    return CLOUD_LIMITS[word] if public else ()


def read_thingsboard(node: Node, sandbox_token_file: Path | None, reporter: Reporter) -> ThingsBoardSection:
    """
    Read the section and check it as a whole. `sandbox_token_file`: where the sandbox, if on, writes its token. Raises
    Refused when it is no object.
    """
    read = read_section(ThingsBoardSection, node, reporter)
    security_node = node.member("security")
    read = _settle_provisioning(read, node, reporter)
    if read.provisioning is not None:
        security_node = security_node or Node({}, node.file, node.line, (node.trail, "security"))
        implied = _provisioning_needs_tls(read.provisioning)
        security = settle_link(read.security, security_node, read.port, implied, reporter)
        if read.provisioning.ca_cert is not None:
            security = changed(security, ca_cert=read.provisioning.ca_cert)
        read = changed(read, security=security)
    elif security_node is None:
        report_no_security(node, reporter)
    else:
        security = settle_security(read.security, security_node, read.port, sandbox_token_file, reporter)
        read = changed(read, security=security)
    if security_node is not None and not read.security.tls and not is_loopback(read.host):
        reporter.notice(
            security_node,
            f"without TLS the credentials and all data travel readable; port {TLS_PORT} or caCert turns it on",
        )
    if read.qos == 0:
        reporter.notice(
            node.member("qos") or node, "is taken as 1: data is deleted only once ThingsBoard has confirmed it"
        )
    return read


def _settle_provisioning(read: ThingsBoardSection, node: Node, reporter: Reporter) -> ThingsBoardSection:
    """
    The section with `provisioning` as it is to be used, None when it is not. Credentials of `security` count first, as
    in the reference; but those of the file give way to provisioning that comes from the environment.
    """
    provisioning, own = read.provisioning, node.member("provisioning")
    if provisioning is None or own is None:
        return read
    known_by = says_who_we_are(node.member("security"))
    key = own.member("provisionDeviceKey")
    if known_by is not None:
        ours_from_outside = key is not None and key.file.startswith(ENVIRONMENT)
        if not ours_from_outside or known_by.file.startswith(ENVIRONMENT):
            reporter.without_effect(own, "without effect: thingsboard.security has credentials, which are used")
            return changed(read, provisioning=None)
        reporter.notice(known_by, "is not used: the environment asks for provisioning")
    for name, given in (
        ("provisionDeviceKey", provisioning.device_key),
        ("provisionDeviceSecret", provisioning.device_secret),
    ):
        child = own.member(name)
        if given is None or child is None:
            reporter.missing(own, name, "is missing: copy it from the device profile's page in ThingsBoard")
        else:
            check_placeholder(given, _NO_KEY, child, reporter)
    kind = provisioning.type or _provisioning_type(provisioning, own)
    if kind == "MQTT_BASIC" and provisioning.password is not None and provisioning.username is None:
        reporter.missing(own, "username", "is missing: MQTT allows no password without a user name")
    if kind == "ACCESS_TOKEN" and (token := own.member("access_token") or own.member("accessToken")) is not None:
        check_placeholder(provisioning.access_token or Secret(""), NO_TOKEN, token, reporter)
    return changed(read, provisioning=changed(provisioning, type=kind))


def _provisioning_type(provisioning: ProvisioningSection, node: Node) -> str:
    """The kind of credentials that the keys mean, in the reference's order: token, basic, certificate."""
    if provisioning.access_token is not None:
        return "ACCESS_TOKEN"
    if provisioning.username or provisioning.password or provisioning.client_id:
        return "MQTT_BASIC"
    ca_cert = node.member("caCert")
    # In a file it may just be the authority of the server; as a variable it is documented as the wish for X.509.
    return "X509_CERTIFICATE" if ca_cert is not None and ca_cert.file.startswith(ENVIRONMENT) else "AUTO"


def _provisioning_needs_tls(provisioning: ProvisioningSection) -> str:
    """Why the link has to be TLS; empty if it need not."""
    if provisioning.type == "X509_CERTIFICATE":
        return "provisioning of type X509_CERTIFICATE"
    return "provisioning.caCert" if provisioning.ca_cert is not None else ""
