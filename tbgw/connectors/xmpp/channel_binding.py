# -*- test-case-name: tests.connectors.xmpp.test_sasl -*-
"""What ties a SCRAM login to the TLS connection it runs in, so that nobody in between can pass it on (RFC 5056).

`tls-exporter` (RFC 9266) with TLS 1.3, else `tls-server-end-point` (RFC 5929, 4), as far as the server says that it
knows them (XEP-0440). `tls-unique` (RFC 5929, 3) is the default of servers that say nothing; TLS 1.3 does not have it.

Debian's prosody 0.12 and ejabberd 23.01 say nothing. With TLS 1.2 they take `tls-unique`. With TLS 1.3 prosody offers
no -PLUS; ejabberd does, and then refuses `tls-exporter` ("Invalid channel binding", measured). So a server that says
nothing is not bound to with TLS 1.3, unless the configuration requires it: then `tls-exporter` is what RFC 9266 means.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from OpenSSL import SSL

TLS_EXPORTER = "tls-exporter"
TLS_SERVER_END_POINT = "tls-server-end-point"
TLS_UNIQUE = "tls-unique"

_EXPORTER_LABEL = b"EXPORTER-Channel-Binding"
_EXPORTER_BYTES = 32


def choose(
    connection: SSL.Connection, announced: Collection[str] | None, is_required: bool = False
) -> tuple[str, bytes] | None:
    """
    Name and data of the channel binding to use. `announced`: what the server says it knows (XEP-0440), None when it
    says nothing. None when there is none that both know.
    """
    is_1_3 = connection.get_protocol_version_name() == "TLSv1.3"
    wanted: Sequence[str]
    if announced is None:
        wanted = [] if is_1_3 and not is_required else [TLS_EXPORTER if is_1_3 else TLS_UNIQUE]
    else:
        wanted = [TLS_EXPORTER, TLS_SERVER_END_POINT] if is_1_3 else [TLS_SERVER_END_POINT, TLS_UNIQUE]
        wanted = [name for name in wanted if name in announced]
    for name in wanted:
        if data := binding(connection, name):
            return name, data
    return None


def binding(connection: SSL.Connection, name: str) -> bytes | None:
    """The data of one kind of binding; None where this connection has none."""
    if name == TLS_EXPORTER:
        # RFC 9266, 2: an empty context. In TLS 1.3 that is the same as none.
        return connection.export_keying_material(_EXPORTER_LABEL, _EXPORTER_BYTES, b"")
    if name == TLS_SERVER_END_POINT:
        return _server_end_point(connection)
    # The first Finished message of the handshake: ours, because we never resume TLS sessions.
    return connection.get_finished()


def _server_end_point(connection: SSL.Connection) -> bytes | None:
    """RFC 5929, 4.1: the certificate, hashed by its own signature's hash, MD5 and SHA-1 replaced by SHA-256."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    x509 = connection.get_peer_certificate()
    if x509 is None:
        return None
    certificate = x509.to_cryptography()
    algorithm = certificate.signature_hash_algorithm
    if algorithm is None:  # e.g. Ed25519, for which RFC 5929 says nothing
        return None
    if algorithm.name in ("md5", "sha1"):
        algorithm = hashes.SHA256()
    digest = hashes.Hash(algorithm)
    digest.update(certificate.public_bytes(Encoding.DER))
    return digest.finalize()
