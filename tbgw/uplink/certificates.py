# -*- test-case-name: tests.uplink.test_certificates -*-
"""The gateway's own key and certificate: made on this box, and looked at for when they expire.

The key never leaves the box; ThingsBoard is given the certificate, and proves by TLS that who shows it has the key. Its
issuer is itself: ThingsBoard looks a certificate up by its hash (spec thingsboard-mqtt, 1.1).
"""

from __future__ import annotations

import datetime
from pathlib import Path

VALID_DAYS = 365
"""As in the reference: renewal is part of the plan."""

SKEW_DAYS = 1
"""How far our clock may be ahead of the server's, which checks the dates."""


def make_pair(common_name: str, now: datetime.datetime) -> tuple[bytes, bytes]:
    """(certificate, key) in PEM, for a new P-256 key. `common_name` is cut at 64 characters, as X.509 has it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name[:64] or "gateway")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=SKEW_DAYS))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def expires(certificate: Path) -> datetime.datetime:
    """When the first certificate of a PEM file ends. Raises ValueError or OSError when there is none."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
