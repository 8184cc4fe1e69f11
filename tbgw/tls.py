"""TLS for every part of the gateway: verified where we dial out, 1.2 at least in either role (P-02 to P-05).

Twisted 26.4 to 26.10 let through any certificate of a trusted authority that bears no subjectAltName, for any host
name: service-identity raises `CertificateError` for it, the library's callback catches `VerificationError` only, and
OpenSSL's own "ok" is what remains. With a private authority that also issues common-name-only certificates to
devices, each of these devices could stand in for the server. So the callback is ours: it says no to everything that
is not a proven yes. A test holds that with such a certificate.

Nothing here falls back: what cannot be read raises `ConfigurationError`, what cannot be verified ends the connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbgw.errors import ConfigurationError

if TYPE_CHECKING:
    from OpenSSL import SSL, crypto
    from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
    from twisted.protocols.tls import TLSMemoryBIOProtocol


_OPENSSL_SAYS = {
    9: "it is not valid yet",
    10: "it has expired",
    18: "it is self-signed",
    19: "its chain ends in an authority that is not trusted here",
    20: "its issuer is not trusted here",
    21: "its issuer is not trusted here",
    26: "it is not meant for servers",
}
"""The reasons seen in practice (openssl-verification-options(1)); others are shown as their number."""


@dataclass(frozen=True)
class ClientTLS:
    """What the configuration says about TLS of one outgoing link."""

    hostname: str
    """The name, or the address, that the server's certificate must be for."""
    ca_cert: Path | None = None
    """PEM file with the only authorities that are trusted; None trusts those of the operating system."""
    certificate: Path | None = None
    """PEM file with our own certificate, followed by its chain if there is one."""
    private_key: Path | None = None
    """PEM file with its key, without a passphrase."""
    accept_any_server: bool = False
    """Do not verify at all. Whoever sits on the way can then read and change everything."""
    alpn: tuple[bytes, ...] = ()
    """Names of the protocols that we would speak (RFC 7301), e.g. `xmpp-client`; none are told when it is empty."""


@dataclass(frozen=True)
class ServerTLS:
    """What the configuration says about TLS of one listener."""

    certificate: Path
    """PEM file with our own certificate, followed by its chain if there is one."""
    private_key: Path
    """PEM file with its key."""
    client_ca: Path | None = None
    """PEM file with the authorities whose certificates clients must show; None asks for none."""
    client_optional: bool = False
    """Whether a client may come without a certificate. One that it shows has to be good in any case."""
    passphrase: bytes = b""
    """Of the private key; empty: it has none."""
    more: tuple[tuple[Path, Path, bytes], ...] = ()
    """Further certificates with key and passphrase, of another kind each: which one is shown is the client's choice."""


def server_creator(tls: ServerTLS) -> Any:
    """
    What `TLSMemoryBIOFactory` wants of a server (`CertificateOptions`). The files are read now. Raises
    ConfigurationError as `client_creator` does. With `client_ca`, who shows no certificate of it is refused.
    """
    from twisted.internet import ssl

    certificate, key, chain = _own_certificate(tls.certificate, tls.private_key, tls.passphrase)
    options = ssl.CertificateOptions(
        privateKey=key,
        certificate=certificate,
        extraCertChain=chain,
        trustRoot=_trust_root(tls.client_ca) if tls.client_ca is not None else None,
        insecurelyLowerMinimumTo=ssl.TLSVersion.TLSv1_2,  # states the minimum exactly, whatever the default becomes
    )
    if tls.client_optional:
        options.requireCertificate = False
    if tls.more:
        options._contextFactory = _with_certificates(tls.more)
    options.getContext()  # made now, so that what OpenSSL does not take shows at the start
    return options


def _with_certificates(more: tuple[tuple[Path, Path, bytes], ...]):  # type: ignore[no-untyped-def] # gives OpenSSL's own
    """Makes contexts that have these certificates already: Twisted's options know one only."""
    from OpenSSL import SSL

    loaded = [(path, _own_certificate(path, key, passphrase)[1]) for path, key, passphrase in more]

    def make(method: int) -> SSL.Context:
        context = SSL.Context(method)
        for path, key in loaded:
            context.use_certificate_chain_file(str(path))  # with its own chain, unlike the other ways
            context.use_privatekey(key)
        return context

    return make


def client_creator(tls: ClientTLS) -> IOpenSSLClientConnectionCreator:
    """
    What `wrapClientTLS` and `startTLS` want. The files are read now. Raises ConfigurationError naming the file that
    cannot be read or is no certificate or key, or when the two do not belong together.
    """
    # Late, because OpenSSL's bindings cost memory that a gateway with a plain link need not spend.
    from OpenSSL import SSL
    from twisted.internet import ssl
    from twisted.internet._sslverify import ClientTLSOptions
    from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
    from zope.interface import implementer

    certificate, key, chain = _own_certificate(tls.certificate, tls.private_key)
    options = ssl.CertificateOptions(
        trustRoot=_trust_root(tls.ca_cert),
        privateKey=key,
        certificate=certificate,
        extraCertChain=chain,
        insecurelyLowerMinimumTo=ssl.TLSVersion.TLSv1_2,  # states the minimum exactly, whatever the default becomes
        acceptableProtocols=list(tls.alpn) or None,
    )

    @implementer(IOpenSSLClientConnectionCreator)
    class StrictOptions:
        """Twisted's own options for host name and server name indication, with a verification that fails closed."""

        def __init__(self) -> None:
            self._inner = ClientTLSOptions(options._makeTLSConnection, tls.hostname)

        def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
            connection = self._inner.clientConnectionForTLS(tlsProtocol)
            if tls.accept_any_server:
                connection.set_verify(SSL.VERIFY_NONE, lambda *_: True)
            else:
                connection.set_verify(
                    SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _strict_callback(tls.hostname)
                )
            return connection

    return StrictOptions()


def _strict_callback(hostname: str):  # type: ignore[no-untyped-def] # the callback's type is OpenSSL's own
    from service_identity import CertificateError, VerificationError
    from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
    from twisted.internet.abstract import isIPAddress, isIPv6Address
    from twisted.logger import Logger

    log = Logger(namespace="tbgw.tls")
    is_address = isIPAddress(hostname) or isIPv6Address(hostname)

    def verify(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
        if not ok:
            why = _OPENSSL_SAYS.get(error, f"OpenSSL error {error}")
            log.error("the certificate of {host} is refused: {why}", host=hostname, why=why)
            return False
        if depth:
            return True
        try:
            # The certificate that OpenSSL shows us: at this moment the connection does not know it yet.
            if is_address:
                verify_certificate_ip_address(certificate.to_cryptography(), hostname)
            else:
                verify_certificate_hostname(certificate.to_cryptography(), hostname)
        except (VerificationError, CertificateError, ValueError) as reason:
            why = f"it is not for this name ({reason!r})"
            log.error("the certificate of {host} is refused: {why}", host=hostname, why=why)
            return False
        return True

    def fail_closed(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
        try:
            return verify(connection, certificate, error, depth, ok)
        except Exception:  # noqa: BLE001 - an exception in this callback would count as OpenSSL's own "ok"
            log.failure("while verifying the certificate of {host}", host=hostname)
            return False

    return fail_closed


def _trust_root(ca_cert: Path | None):  # type: ignore[no-untyped-def] # Twisted's trust roots share no public type
    from twisted.internet import ssl

    if ca_cert is None:
        return ssl.platformTrust()
    authorities = [ssl.Certificate.loadPEM(pem) for pem in _pem_blocks(ca_cert, b"CERTIFICATE")]
    return ssl.trustRootFromCertificates(authorities)


def _own_certificate(path: Path | None, key_path: Path | None, passphrase: bytes = b""):  # type: ignore[no-untyped-def] # gives OpenSSL's own
    if path is None and key_path is None:
        return None, None, None
    if path is None or key_path is None:
        raise ConfigurationError(["a client certificate needs both its file and the file of its private key"])
    from OpenSSL import SSL, crypto

    certificate, *chain = [
        crypto.load_certificate(crypto.FILETYPE_PEM, pem) for pem in _pem_blocks(path, b"CERTIFICATE")
    ]
    try:
        # An empty passphrase makes OpenSSL fail on an encrypted key where it would otherwise ask on the terminal.
        key = crypto.load_privatekey(crypto.FILETYPE_PEM, _read(key_path), passphrase=passphrase)
    except (crypto.Error, TypeError, ValueError):
        without = ", or its passphrase is wrong" if passphrase else " without a passphrase"
        raise ConfigurationError([f"{key_path}: not a private key in PEM{without}"]) from None
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    try:
        context.use_certificate(certificate)
    except SSL.Error as error:  # e.g. a key that is too short for OpenSSL's security level
        raise ConfigurationError([f"{path}: OpenSSL does not take it: {error}"]) from None
    try:
        context.use_privatekey(key)
        context.check_privatekey()
    except SSL.Error:
        raise ConfigurationError([f"{key_path}: not the key of the certificate in {path}"]) from None
    return certificate, key, chain


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from error


def _pem_blocks(path: Path, kind: bytes) -> list[bytes]:
    """The PEM blocks of one kind in a file, each checked to hold a certificate."""
    from OpenSSL import crypto

    begin, end = b"-----BEGIN %b-----" % kind, b"-----END %b-----" % kind
    blocks = []
    for part in _read(path).split(begin)[1:]:
        body, found, _ = part.partition(end)
        block = begin + body + end + b"\n"
        try:
            crypto.load_certificate(crypto.FILETYPE_PEM, block)
        except (crypto.Error, ValueError):
            found = b""
        if not found:
            raise ConfigurationError([f"{path}: holds a damaged certificate"])
        blocks.append(block)
    if not blocks:
        raise ConfigurationError([f"{path}: holds no certificate in PEM"])
    return blocks
