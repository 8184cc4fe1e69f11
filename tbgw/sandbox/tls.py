"""The sandbox's TLS listener, which lets clients in by their certificates as ThingsBoard does (spec, 1.1).

A client's certificate is asked for and not required. Whom it belongs to is looked up by the certificate itself, so no
authority has to vouch for it: who can sign the handshake has the key, and that is the proof. What is checked here is
that each certificate of a chain is really signed by the next; the dates are checked at CONNECT. Imported only when a
listener is configured.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from OpenSSL import SSL, crypto

from tbgw.sandbox.credentials import certificate_text_of_der
from tbgw.tls import ServerTLS, server_creator

_NO_MATTER = frozenset([2, 9, 10, 18, 19, 20, 21, 24, 26, 27])
"""OpenSSL's complaints about trust, dates and purpose (openssl-verification-options(1))."""


def context_factory(tls: ServerTLS) -> Any:
    """What `listenSSL` wants. The files are read now. Raises ConfigurationError as `tbgw.tls.server_creator` does."""
    options = server_creator(tls)
    options.getContext().set_verify(SSL.VERIFY_PEER, _take_any)
    return options


def _take_any(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    return bool(ok) or error in _NO_MATTER


def certificate_of(transport: Any, now_ms: int) -> str | None:
    """
    The text by which the certificate that the client showed is looked up; None when there is no TLS or it showed none.
    One that is not valid now is a text that belongs to nobody.
    """
    show = getattr(transport, "getPeerCertificate", None)
    certificate = show() if show is not None else None
    if certificate is None:
        return None
    parsed = certificate.to_cryptography()
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    if not parsed.not_valid_before_utc <= now <= parsed.not_valid_after_utc:
        return ""
    return certificate_text_of_der(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate))
