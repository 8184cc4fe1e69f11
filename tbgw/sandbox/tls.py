"""The sandbox's TLS listener, which lets clients in by their certificates as ThingsBoard does (spec, 1.1).

A client's certificate is asked for and not required. Whom it belongs to is looked up by the certificate itself, so no
authority has to vouch for it: who can sign the handshake has the key, and that is the proof. Of a chain only so much
counts as is really signed, each certificate by the next; the dates are checked at CONNECT. Imported only when a
listener is configured.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import BasicConstraints, ExtensionNotFound
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto

from tbgw.sandbox.credentials import ShownCertificate, certificate_text_of_der
from tbgw.tls import ServerTLS, server_creator

MAX_CHAIN = 10
"""Certificates of one chain that are looked at."""

_NO_MATTER = frozenset([2, 9, 10, 18, 19, 20, 21, 26, 27])
"""OpenSSL's complaints about trust, dates and purpose (openssl-verification-options(1))."""


def context_factory(tls: ServerTLS) -> Any:
    """What `listenSSL` wants. The files are read now. Raises ConfigurationError as `tbgw.tls.server_creator` does."""
    options = server_creator(tls)
    options.getContext().set_verify(SSL.VERIFY_PEER, _take_any)
    return options


def _take_any(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    return bool(ok) or error in _NO_MATTER


def certificate_of(transport: Any, now_ms: int) -> ShownCertificate | None:
    """
    What the client showed, as far as it holds together; None when it showed nothing. OpenSSL stops to verify where it
    does not know an issuer, so that the signatures are checked here.
    """
    certificate = transport.getPeerCertificate()
    if certificate is None:
        return None
    own = certificate.to_cryptography()
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    if not own.not_valid_before_utc <= now <= own.not_valid_after_utc:
        return ShownCertificate(())
    chain = [own]
    # At a server OpenSSL leaves the client's own out of the chain.
    for above in (transport.getHandle().get_peer_cert_chain() or [])[:MAX_CHAIN]:
        issuer = above.to_cryptography()
        if issuer == own:
            continue
        try:
            if not issuer.extensions.get_extension_for_class(BasicConstraints).value.ca:
                break  # a device's certificate vouches for nobody else
            chain[-1].verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature, ExtensionNotFound):
            break
        chain.append(issuer)
    names = own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    texts = [certificate_text_of_der(one.public_bytes(Encoding.DER)) for one in chain]
    return ShownCertificate(tuple(texts), str(names[0].value) if names else "")
