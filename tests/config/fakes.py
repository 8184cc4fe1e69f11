"""A configuration folder to write into, and certificates made on the spot."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbgw.config.document import Node, read_document
from tbgw.config.findings import Finding, Reporter, Severity
from tbgw.config.loader import Examined, examine_folder

TOKEN = "kQ3xv81LmWzRt5Yb"


def tree(value: Any, file: str = "some.json") -> Node:
    """A Python value as the node of a file, one line for each key and item."""
    return read_document(json.dumps(value, indent=1).encode(), file).root


class FolderCase(SynchronousTestCase):
    """Tests with a configuration folder and a data folder of their own."""

    def setUp(self) -> None:
        self.config_dir = Path(self.mktemp())
        self.data_dir = Path(self.mktemp())
        self.config_dir.mkdir(parents=True)
        self.data_dir.mkdir(parents=True)
        self.reporter = Reporter(self.config_dir, self.data_dir)

    def write(self, name: str, content: Any, mode: int = 0o600) -> Path:
        """Write a file: bytes and text as they are, anything else as JSON."""
        path = self.config_dir / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
        path.chmod(mode)
        return path

    def write_gateway(self, **sections: Any) -> None:
        """Write a tb_gateway.json that is good as it is, with other or further sections."""
        thingsboard = {"host": "127.0.0.1", "security": {"accessToken": TOKEN}}
        self.write("tb_gateway.json", {"thingsboard": thingsboard, **sections})

    def examine(
        self, environ: Mapping[str, str] | None = None, **parsers: Callable[[Node, Reporter], object]
    ) -> Examined:
        """Read the folder; parsers by connector type."""
        return examine_folder(self.config_dir, environ or {}, self.data_dir, parsers)

    def lines(self, *severities: Severity, of: tuple[Finding, ...] | None = None) -> list[str]:
        """The findings of these severities (all without any), as lines."""
        findings = self.reporter.findings() if of is None else of
        return [str(found) for found in findings if not severities or found.severity in severities]

    def faults(self, of: tuple[Finding, ...] | None = None) -> list[str]:
        """The faults, as lines."""
        return self.lines(Severity.FAULT, of=of)


def key_pair(folder: Path, name: str = "client", password: bytes | None = None) -> tuple[str, str]:
    """Write a self-signed certificate and its key; the names of the two files."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    (folder / f"{name}.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    )
    return f"{name}.pem", f"{name}.key"
