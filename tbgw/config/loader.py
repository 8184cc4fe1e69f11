# -*- test-case-name: tests.config.test_loader -*-
"""Reads the folder of configuration files into a `GatewayConfig`, or says everything that is wrong with it.

Invariants: nothing is written, nothing is looked up in the network, files come from the folder only (certificates and
secret files excepted), and a fault in one file does not keep the others from being checked.

The loader knows no connector: the parse function of each type is handed in. Types of the reference that have none are
left out with a warning, so that its tb_gateway.json loads unchanged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tbgw.config.devicefilter import DeviceFilter, parse_device_filter
from tbgw.config.document import MAX_FILE_BYTES, DocumentError, Node, printable, read_document
from tbgw.config.environment import overlay
from tbgw.config.findings import Finding, Reporter, Severity
from tbgw.config.gateway import LOG_LEVELS, ConnectorEntry, ConnectorReference, GatewayConfig, General, read_general
from tbgw.config.settings import read_section, section_reader
from tbgw.config.thingsboard import StatisticsCommand
from tbgw.config.values import Refused, did_you_mean, is_world_readable, read_bytes, read_choice, read_flag, read_items
from tbgw.errors import ConfigurationError

GENERAL_FILE = "tb_gateway.json"
DEFAULT_FILTER_FILE = "list.json"
MAX_CONNECTORS = 256
"""Most connectors: each is a listener or a session of its own, and a gateway has a handful."""

Parse = Callable[[Node, Reporter], object]
"""Makes a connector's section of the root of its file; raises `Refused` when nothing can be made of it."""

REFERENCE_TYPES = frozenset(
    {
        *("mqtt", "modbus", "opcua", "opc-ua", "ble", "request", "can", "bacnet", "odbc", "rest", "snmp", "ftp"),
        *("knx", "grpc", "custom", "socket", "xmpp", "ocpp", "opcua_asyncio", "modbus_async", "gpio", "serial"),
    }
)
"""Connector types of the reference gateway, past and present."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What came of reading a folder."""

    config: GatewayConfig | None
    """None when there was a fault."""
    findings: tuple[Finding, ...]
    """Everything there is to say, the worst first."""
    secrets: frozenset[tuple[str, tuple[str | int, ...]]] = frozenset()
    """Where secrets stand: (file, keys and positions that lead there)."""


def load_folder(
    config_dir: Path, environ: Mapping[str, str], data_dir: Path, parsers: Mapping[str, Parse]
) -> GatewayConfig:
    """Read the folder. Raises ConfigurationError that holds every fault of every file."""
    examined = examine_folder(config_dir, environ, data_dir, parsers)
    if examined.config is None:
        raise ConfigurationError([str(f) for f in examined.findings if f.severity is Severity.FAULT])
    return examined.config


def examine_folder(
    config_dir: Path,
    environ: Mapping[str, str],
    data_dir: Path,
    parsers: Mapping[str, Parse],
    instead: Mapping[Path, bytes] | None = None,
) -> Examined:
    """
    Read the folder and tell everything that was found. Raises nothing. `instead` has contents that are read in the
    place of these files' own, so that what is about to be written can be checked before.
    """
    reporter = Reporter(config_dir, data_dir)
    reporter.instead = instead or {}
    root = _read_file(config_dir / GENERAL_FILE, reporter)
    if root is None:
        return Examined(None, reporter.findings())
    try:
        general = read_general(overlay(root, environ, reporter), reporter)
    except Refused as refusal:
        refusal.report(root, reporter)
        return Examined(None, reporter.findings())
    references = _read_references(general.connectors, reporter)
    connectors = _read_connectors(references, parsers, reporter)
    names = frozenset(reference.name for _, reference in references)
    device_filter = _read_filter(general, root, names, reporter)
    commands = _read_commands(general, root, reporter)
    _warn_of_readable_secrets(reporter)
    findings = reporter.findings()
    if reporter.faulty:
        return Examined(None, findings)
    config = GatewayConfig(
        thingsboard=general.thingsboard,
        storage=general.storage,
        sandbox=general.sandbox,
        connectors=connectors,
        report=general.report,
        device_filter=device_filter,
        statistics_commands=commands,
        warnings=tuple(str(f) for f in findings if f.severity in (Severity.DOUBT, Severity.WARNING)),
        notices=tuple(str(f) for f in findings if f.severity is Severity.NOTICE),
        config_dir=config_dir,
        data_dir=data_dir,
    )
    return Examined(config, findings, reporter.secrets)


def _read_file(path: Path, reporter: Reporter, referrer: Node | None = None) -> Node | None:
    """The root of a JSON file; None when it cannot be read, which is then reported, at `referrer` if there is one."""
    try:
        file = path.relative_to(reporter.config_dir).as_posix()
        content = reporter.instead.get(path)
        document = read_document(read_bytes(path, MAX_FILE_BYTES) if content is None else content, file)
    except Refused as refusal:
        if referrer is not None:
            reporter.fault(referrer, str(refusal))
        else:
            hint = "; YAML is not read, convert it to JSON" if path.with_suffix(".yaml").exists() else ""
            reporter.add(Finding(Severity.FAULT, path.name, 0, "", f"{refusal}{hint}"))
        return None
    except DocumentError as error:
        reporter.add(Finding(Severity.FAULT, file, error.line, "", str(error)))
        return None
    for node in document.repeated:
        reporter.doubt(node, "the key occurs twice in this object; this one, the last, counts")
    return document.root


def _read_references(node: Node | None, reporter: Reporter) -> list[tuple[Node, ConnectorReference]]:
    """The entries of `connectors` that can be used, with their nodes."""
    references: list[tuple[Node, ConnectorReference]] = []
    if node is not None and not isinstance(node.value, tuple):
        reporter.fault(node, f"is {node.kind}, must be a list [...]")
        return references
    children = node.value if node is not None else ()
    if node is not None and len(children) > MAX_CONNECTORS:
        reporter.fault(node, f"has {len(children)} entries, at most {MAX_CONNECTORS} are allowed")
    names: dict[str, int] = {}
    for child in children[:MAX_CONNECTORS]:
        try:
            reference = read_section(ConnectorReference, child, reporter)
        except Refused as refusal:
            refusal.report(child, reporter)
            continue
        if reference.name in names:
            name_node = child.member("name") or child
            reporter.fault(name_node, f"is taken by the connector on line {names[reference.name]}; names are unique")
        names.setdefault(reference.name, child.line)
        references.append((child, reference))
    return references


def _read_connectors(
    references: list[tuple[Node, ConnectorReference]], parsers: Mapping[str, Parse], reporter: Reporter
) -> tuple[ConnectorEntry, ...]:
    """Read the file of every connector whose type has a parse function."""
    entries: list[ConnectorEntry] = []
    used: dict[Path, str] = {}
    for node, reference in references:
        parse = parsers.get(reference.type)
        type_node = node.member("type") or node
        if parse is None:
            known = ", ".join(sorted(parsers))
            if reference.type in REFERENCE_TYPES or node.member("class") is not None:
                reporter.warning(
                    type_node,
                    f"connectors of type {printable(reference.type)} are not offered; "
                    f'"{printable(reference.name)}" is not started (offered are {known})',
                )
            else:
                hint = did_you_mean(reference.type, parsers)
                reporter.fault(type_node, f'is "{printable(reference.type)}", must be one of {known}{hint}')
            continue
        file_node = node.member("configuration") or node
        if reference.file in used:
            reporter.fault(file_node, f'is the file of connector "{printable(used[reference.file])}" already')
            continue
        used[reference.file] = reference.name
        root = _read_file(reference.file, reporter, file_node)
        if root is None:
            continue
        if reference.report is not None and root.member("reportStrategy") is None and isinstance(root.value, dict):
            root = root.with_member("reportStrategy", reference.report)
        level, remote = _read_logging(root, reference, reporter)
        plain = json.dumps(root.plain(), sort_keys=True).encode()
        try:
            config = parse(root.without(*_LOGGING) if isinstance(root.value, dict) else root, reporter)
        except Refused as refusal:
            refusal.report(root, reporter)
            continue
        fingerprint = hashlib.blake2b(plain, digest_size=16).digest()
        entries.append(
            ConnectorEntry(reference.type, reference.name, reference.file, config, level, remote, fingerprint)
        )
    return tuple(entries)


_LOGGING = ("logLevel", "enableRemoteLogging")


def _read_logging(root: Node, reference: ConnectorReference, reporter: Reporter) -> tuple[str, bool]:
    """`logLevel` and `enableRemoteLogging`, which stand in tb_gateway.json or at the top of the connector's file."""
    level, remote = reference.log_level, reference.remote_logging
    node = root.member("logLevel")
    if level is None and node is not None:
        try:
            level = read_choice(LOG_LEVELS)(node, reporter)
        except Refused as refusal:
            refusal.report(node, reporter)
    node = root.member("enableRemoteLogging")
    if remote is None and node is not None:
        try:
            remote = read_flag("")(node, reporter)
        except Refused as refusal:
            refusal.report(node, reporter)
    return level or "INFO", bool(remote)


def _read_filter(general: General, root: Node, names: frozenset[str], reporter: Reporter) -> DeviceFilter | None:
    filtering = general.thingsboard.device_filtering
    if not filtering.enabled:
        return None
    thingsboard = root.member("thingsboard") or root
    section = thingsboard.member("deviceFiltering") or thingsboard
    file = _read_file(
        filtering.file or reporter.config_dir / DEFAULT_FILTER_FILE, reporter, section.member("filterFile") or section
    )
    if file is None:
        return None
    try:
        return parse_device_filter(file, names, reporter)
    except Refused as refusal:
        refusal.report(file, reporter)
        return None


def _read_commands(general: General, root: Node, reporter: Reporter) -> tuple[StatisticsCommand, ...]:
    """The commands whose output is sent: those in tb_gateway.json, then those in the file that it names."""
    statistics = general.thingsboard.statistics
    if not (statistics.enabled and statistics.custom_enabled):
        return ()
    commands = statistics.commands
    if statistics.configuration is not None:
        thingsboard = root.member("thingsboard") or root
        section = thingsboard.member("statistics") or thingsboard
        file = _read_file(statistics.configuration, reporter, section.member("configuration") or section)
        if file is not None:
            try:
                commands += read_items(section_reader(StatisticsCommand))(file, reporter)
            except Refused as refusal:
                refusal.report(file, reporter)
    return commands


def _warn_of_readable_secrets(reporter: Reporter) -> None:
    """Secrets in a file that everybody on the machine can read are worth a word (P-12)."""
    for name in sorted(reporter.secret_files):
        if is_world_readable(reporter.config_dir / name):
            text = "holds a secret and everybody on this machine can read it; chmod o-r it"
            reporter.add(Finding(Severity.WARNING, name, 0, "", text))
