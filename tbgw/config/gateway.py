# -*- test-case-name: tests.config.test_loader -*-
"""The whole configuration, typed, and the top of tb_gateway.json.

The sections `thingsboard`, `storage`, `connectors` and `grpc` are the reference's; `sandbox` is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from tbgw.config.devicefilter import DeviceFilter
from tbgw.config.document import Node
from tbgw.config.findings import Reporter
from tbgw.config.sandbox import SandboxSection, default_sandbox, read_sandbox
from tbgw.config.settings import config_section, flag, one_of, setting, text
from tbgw.config.storage import StorageSection, default_storage, read_storage
from tbgw.config.thingsboard import StatisticsCommand, ThingsBoardSection, read_thingsboard
from tbgw.config.values import Refused, config_file, did_you_mean, read_flag, read_object
from tbgw.model import ON_RECEIVED, ReportStrategy

T = TypeVar("T")


LOG_LEVELS = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "NONE")
"""The reference's words."""


@config_section
class ConnectorReference:
    """One entry of `connectors`."""

    type: str = text("type", doc="Kind of connector: socket, xmpp or ocpp.")
    name: str = text("name", doc="Name of this connector; unique.")
    file: Path = setting("configuration", read=config_file, doc="Its file, in the configuration's folder.")

    log_level: str | None = one_of(
        "logLevel", choices=LOG_LEVELS, default=None, doc="Least level of its lines that are sent to ThingsBoard."
    )
    remote_logging: bool | None = flag("enableRemoteLogging", default=None, doc="Send its log lines to ThingsBoard.")
    report: Node | None = setting(
        "reportStrategy", read=lambda node, _: node, default=None, doc="As at the top of the connector's file."
    )

    INERT: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("id", "key", "ts", "mode", "configVersion"),
            "without effect: only ThingsBoard's page of the gateway uses it",
        ),
        **dict.fromkeys(("useGRPC", "useGRPCForce"), "gRPC connectors are not offered"),
        "class": "custom connectors are not loaded",
    }


@dataclass(frozen=True, slots=True)
class ConnectorEntry:
    """One connector that is to run."""

    type: str
    name: str
    file: Path
    config: object
    """What the parse function of its type made of its file."""
    log_level: str = "INFO"
    """Least level of its log lines that are sent to ThingsBoard, one of `LOG_LEVELS`."""
    remote_logging: bool = False
    """Whether they are sent at all."""
    fingerprint: bytes = b""
    """The same for files that say the same, whatever their spaces and the order of their keys."""


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """The whole configuration, checked."""

    thingsboard: ThingsBoardSection
    storage: StorageSection
    sandbox: SandboxSection
    connectors: tuple[ConnectorEntry, ...]
    report: ReportStrategy
    """The general report strategy."""
    device_filter: DeviceFilter | None
    """None: every device may pass."""
    statistics_commands: tuple[StatisticsCommand, ...]
    """Commands whose output is sent to ThingsBoard."""
    warnings: tuple[str, ...]
    """Ready lines: what the operator should look at."""
    notices: tuple[str, ...]
    """Ready lines: what is good to know."""
    config_dir: Path
    data_dir: Path


@dataclass(frozen=True, slots=True)
class General:
    """tb_gateway.json without the files that it refers to."""

    thingsboard: ThingsBoardSection
    storage: StorageSection
    sandbox: SandboxSection
    report: ReportStrategy
    connectors: Node | None
    """The list of connectors, unread."""


_SECTIONS = ("thingsboard", "storage", "grpc", "connectors", "sandbox")
_ALSO_AT_TOP = ("handleDeviceRenaming", "reportStrategy")
"""Settings of `thingsboard` that the reference or its documents put at the top of the file as well."""
_GRPC_KEYS = (
    "enabled",
    "serverPort",
    "keepAliveTimeMs",
    "keepaliveTimeMs",
    "keepAliveTimeoutMs",
    "keepaliveTimeoutMs",
    "keepAlivePermitWithoutCalls",
    "keepalivePermitWithoutCalls",
    "maxPingsWithoutData",
    "minTimeBetweenPingsMs",
    "minPingIntervalWithoutDataMs",
)


def read_general(root: Node, reporter: Reporter) -> General:
    """Read the root of tb_gateway.json, the environment already laid over it. Raises Refused when it is no object."""
    allowed = (*_SECTIONS, *_ALSO_AT_TOP)
    for key, child in read_object(root, reporter).items():
        if key not in allowed:
            reporter.doubt(child, f"unknown key{did_you_mean(key, allowed)}")
    data_dir = reporter.data_dir
    sandbox = _read(read_sandbox, root.member("sandbox"), reporter, default_sandbox(data_dir))
    token_file = sandbox.token_file if sandbox.enabled else None
    thingsboard = _read(
        lambda node, reporter: read_thingsboard(node, token_file, reporter),
        _thingsboard_node(root, reporter),
        reporter,
        ThingsBoardSection(),
    )
    _read(_check_grpc, root.member("grpc"), reporter, None)
    return General(
        thingsboard=thingsboard,
        storage=_read(read_storage, root.member("storage"), reporter, default_storage(data_dir)),
        sandbox=sandbox,
        report=thingsboard.report or ON_RECEIVED,
        connectors=root.member("connectors"),
    )


def _read(read: Callable[[Node, Reporter], T], node: Node | None, reporter: Reporter, default: T) -> T:
    """What `read` makes of `node`; the default when there is none, or when it is refused, which is then reported."""
    if node is None:
        return default
    try:
        return read(node, reporter)
    except Refused as refusal:
        refusal.report(node, reporter)
        return default


def _thingsboard_node(root: Node, reporter: Reporter) -> Node:
    """The section `thingsboard`, with those of its settings that stand at the top of the file."""
    node = root.member("thingsboard")
    if node is None:
        node = Node({}, root.file, root.line, (None, "thingsboard"))
    for key in _ALSO_AT_TOP:
        outer = root.member(key)
        inner = node.member(key)
        if outer is None:
            continue
        if inner is None:
            node = node.with_member(key, outer) if isinstance(node.value, dict) else node
        elif inner.plain() != outer.plain():
            reporter.doubt(outer, f"differs from thingsboard.{key}, which counts")
    return node


def _check_grpc(node: Node, reporter: Reporter) -> None:
    for key, child in read_object(node, reporter).items():
        if key not in _GRPC_KEYS:
            reporter.doubt(child, f"unknown key{did_you_mean(key, _GRPC_KEYS)}")
    reporter.without_effect(node, "gRPC connectors are not offered")
    enabled = node.member("enabled")
    if enabled is not None:
        _read(read_flag(""), enabled, reporter, False)
