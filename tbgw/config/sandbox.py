# -*- test-case-name: tests.config.test_sandbox -*-
"""The section `sandbox`, which the reference does not have: the stand-in for ThingsBoard inside the gateway."""

from __future__ import annotations

from pathlib import Path

from tbgw.config.document import Node, printable
from tbgw.config.findings import Reporter
from tbgw.config.settings import certificate, changed, config_section, flag, integer, read_section, setting
from tbgw.config.values import MAX_PORT, Refused, is_loopback, read_text


def _read_loopback(node: Node, reporter: Reporter) -> str:
    address = read_text(node, reporter).strip()
    if not is_loopback(address):
        raise Refused(
            f"is {printable(address)}, must be a loopback address, e.g. 127.0.0.1: the sandbox's page has no users"
        )
    return address


def _read_path(node: Node, reporter: Reporter) -> Path:
    return Path(read_text(node, reporter))


@config_section
class SandboxSection:
    """`sandbox`."""

    enabled: bool = flag("enabled", "enable", default=False, doc="Run it.")
    mqtt_port: int = integer(
        "mqttPort", minimum=0, maximum=MAX_PORT, default=18830, unit="TCP port", doc="Its MQTT port; 0: any free one."
    )
    tls_port: int = integer(
        "mqttsPort",
        minimum=0,
        maximum=MAX_PORT,
        default=18883,
        unit="TCP port",
        doc="Its port for MQTT over TLS, listened on when there is a certificate; 0: any free one.",
    )
    private_key: Path | None = certificate("privateKey", default=None, doc="The key of its certificate, PEM.")
    certificate: Path | None = certificate(
        "certificate", default=None, doc="Its own certificate for TLS, PEM, followed by its chain."
    )
    http_port: int = integer(
        "httpPort", minimum=0, maximum=MAX_PORT, default=8080, unit="TCP port", doc="Port of its page; 0: any free one."
    )
    address: str = setting(
        "address", read=_read_loopback, default="127.0.0.1", doc="Where it listens: this machine only."
    )
    folder: Path = setting(
        "folder", read=_read_path, default=Path("sandbox"), doc="Where it keeps its data, within the data folder."
    )
    token_file: Path = setting(
        "tokenFile",
        read=_read_path,
        default=Path("sandbox/token"),
        doc="Where it writes the access token that it makes at its first start; `token` in its folder if absent.",
    )
    history_per_key: int = integer(
        "historyPerKey", minimum=1, maximum=1_000_000, default=20_000, unit="values", doc="Values it keeps of one key."
    )
    max_devices: int = integer(
        "maxDevices", minimum=1, maximum=1_000_000, default=10_000, unit="devices", doc="Devices it takes."
    )
    max_store_bytes: int = integer(
        "maxStoreBytes",
        minimum=1024 * 1024,
        maximum=1 << 40,
        default=256 * 1024 * 1024,
        unit="bytes",
        doc="Size that its database is kept under, by keeping less history.",
    )


def read_sandbox(node: Node, reporter: Reporter) -> SandboxSection:
    """Read the section. Raises Refused when it is no object."""
    read = read_section(SandboxSection, node, reporter)
    if read.mqtt_port and read.mqtt_port == read.http_port:
        reporter.fault(node.member("httpPort") or node, "must differ from mqttPort")
    if (read.certificate is None) != (read.private_key is None):
        reporter.fault(node, "certificate and privateKey are given together or not at all")
    folder = reporter.data_dir / read.folder
    token_file = folder / "token" if node.member("tokenFile") is None else reporter.data_dir / read.token_file
    return changed(read, folder=folder, token_file=token_file)


def default_sandbox(data_dir: Path) -> SandboxSection:
    """The section of a configuration that does not have it: off."""
    return SandboxSection(folder=data_dir / "sandbox", token_file=data_dir / "sandbox" / "token")
