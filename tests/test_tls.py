"""TLS of outgoing links, against a real server: who is let in, and what an unreadable file says (P-02 to P-05)."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import ContextFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbgw.errors import ConfigurationError
from tbgw.tls import ClientTLS, client_creator

HOST = "tb.example.org"
SECRET = b"the first application data"


@dataclass(frozen=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self, passphrase: bytes | None = None) -> bytes:
        protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            protection = serialization.BestAvailableEncryption(passphrase)
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


def issue(
    name: str,
    issuer: Issued | None = None,
    *,
    is_authority: bool = False,
    hosts: tuple[str, ...] = (),
    addresses: tuple[str, ...] = (),
    days: tuple[int, int] = (-2, 30),
    usage: x509.ObjectIdentifier | None = None,
    xmpp_address: str = "",
) -> Issued:
    """
    A certificate; signed by itself without an issuer; `days` says from when to when it is valid, from now.
    `xmpp_address` is a JID of ASCII letters, put in as RFC 6120 (13.7.1.4) has it.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days[0]))
        .not_valid_after(now + datetime.timedelta(days[1]))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    alternatives: list[x509.GeneralName] = [
        *[x509.DNSName(host) for host in hosts],
        *[x509.IPAddress(ipaddress.ip_address(address)) for address in addresses],
    ]
    if xmpp_address:
        text = xmpp_address.encode("ascii")
        on_xmpp = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5")
        alternatives.append(x509.OtherName(on_xmpp, bytes([0x0C, len(text)]) + text))
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    signer = issuer.key if issuer is not None else key
    return Issued(builder.sign(signer, hashes.SHA256()), key)


@cache
def authority(name: str) -> Issued:
    """One authority of each name serves all tests."""
    return issue(name, is_authority=True)


class Server(ContextFactory):
    """The TLS side of a server, as plain as can be: OpenSSL's defaults but for what the test asks."""

    def __init__(
        self, identity: Issued, *chain: Issued, highest: int | None = None, client_ca: Issued | None = None
    ) -> None:
        self.context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self.context.use_certificate(identity.certificate)
        self.context.use_privatekey(identity.key)
        for link in chain:
            self.context.add_extra_chain_cert(link.certificate)
        if highest is not None:
            self.context.set_min_proto_version(SSL.TLS1_VERSION)
            self.context.set_max_proto_version(highest)
            self.context.set_cipher_list(b"ALL:@SECLEVEL=0")
        if client_ca is not None:
            store = self.context.get_cert_store()
            assert store is not None
            store.add_cert(crypto.X509.from_cryptography(client_ca.certificate))
            self.context.set_verify(
                SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *arguments: bool(arguments[4])
            )

    def getContext(self) -> SSL.Context:
        return self.context


class ServerProtocol(Protocol):
    """Notes what comes, and answers."""

    received = b""
    peer: Any = None
    version = ""

    def __init__(self, closed: Callable[[], None]) -> None:
        self._closed = closed

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        assert self.transport is not None
        self.peer = self.transport.getPeerCertificate()  # type: ignore[attr-defined] # a TLS transport has it
        self.version = self.transport.getHandle().get_protocol_version_name()  # type: ignore[attr-defined] # as above
        self.transport.write(b"welcome")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closed()


class ClientProtocol(Protocol):
    """Sends at once, as the MQTT client sends its CONNECT with the token in it."""

    def __init__(self, over: Deferred[str]) -> None:
        self._over = over
        self.received = b""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(SECRET)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        assert self.transport is not None
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._over.callback("" if self.received == b"welcome" else reason.getErrorMessage())


class _Factory(Factory):
    noisy = False

    def __init__(self, build: Callable[[], Protocol]) -> None:
        self._build = build

    def buildProtocol(self, addr: object) -> Protocol:
        return self._build()


class Files:
    """Certificates as files in one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder

    def write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path


class LinkTests(TestCase):
    """Who is let in."""

    def setUp(self) -> None:
        self.ca, self.other_ca = authority("Our authority"), authority("Another authority")
        self.files = Files(Path(self.mktemp()))
        self.ca_file = self.files.write("ca.pem", self.ca.pem)
        self.accepted: list[ServerProtocol] = []

    async def link(self, server: Server, tls: ClientTLS) -> str:
        """Connect and say something. Empty when the server's answer came back, else what went wrong."""
        creator = client_creator(tls)
        closed: list[Deferred[None]] = []

        def build() -> ServerProtocol:
            gone: Deferred[None] = Deferred()
            closed.append(gone)
            protocol = ServerProtocol(lambda: gone.callback(None))
            self.accepted.append(protocol)
            return protocol

        port = await SSL4ServerEndpoint(reactor, 0, server, interface="127.0.0.1").listen(_Factory(build))
        over: Deferred[str] = Deferred()
        try:
            endpoint = wrapClientTLS(creator, TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port, timeout=5))
            await endpoint.connect(_Factory(lambda: ClientProtocol(over)))
            why = await over.addTimeout(5, reactor)
            for gone in closed:
                await gone.addTimeout(5, reactor)
        finally:
            await port.stopListening()
        return why

    def trusting(self, hostname: str = HOST, **more: Any) -> ClientTLS:
        return ClientTLS(hostname, ca_cert=self.ca_file, **more)

    async def check_accepted(self, server: Server, tls: ClientTLS) -> ServerProtocol:
        self.assertEqual(await self.link(server, tls), "")
        (protocol,) = self.accepted
        self.assertEqual(protocol.received, SECRET)
        self.assertEqual(self.flushLoggedErrors(), [])
        return protocol

    async def check_refused(self, server: Server, tls: ClientTLS) -> None:
        """Refused means that not one byte of ours arrived."""
        why = await self.link(server, tls)
        self.assertNotEqual(why, "")
        self.assertEqual([protocol.received for protocol in self.accepted], [b""])

    # Accepted.

    async def test_right_certificate(self):
        """The right name, signed by the authority: accepted, with TLS 1.3."""
        protocol = await self.check_accepted(Server(issue(HOST, self.ca, hosts=(HOST,))), self.trusting())
        self.assertEqual(protocol.version, "TLSv1.3")

    async def test_tls_1_2(self):
        """A server that speaks TLS 1.2 at most is accepted."""
        server = Server(issue(HOST, self.ca, hosts=(HOST,)), highest=SSL.TLS1_2_VERSION)
        protocol = await self.check_accepted(server, self.trusting())
        self.assertEqual(protocol.version, "TLSv1.2")

    async def test_wildcard(self):
        """A wildcard in the leftmost label is a name for this host."""
        await self.check_accepted(Server(issue("any", self.ca, hosts=("*.example.org",))), self.trusting())

    async def test_intermediate_authority(self):
        """A chain over an intermediate authority that the server sends is followed."""
        between = issue("Between", self.ca, is_authority=True)
        await self.check_accepted(Server(issue(HOST, between, hosts=(HOST,)), between), self.trusting())

    async def test_several_authorities(self):
        """Of several authorities in the file each is trusted, whatever text stands around them."""
        both = self.files.write("both.pem", b"# ours\n" + self.other_ca.pem + b"\n  second:\r\n" + self.ca.pem)
        await self.check_accepted(Server(issue(HOST, self.ca, hosts=(HOST,))), ClientTLS(HOST, ca_cert=both))

    async def test_address(self):
        """A server that is known by its address bears it in its certificate."""
        await self.check_accepted(Server(issue("x", self.ca, addresses=("127.0.0.1",))), self.trusting("127.0.0.1"))

    async def test_address_6(self):
        """Also an address of IPv6, in whatever spelling."""
        await self.check_accepted(
            Server(issue("x", self.ca, addresses=("2001:db8::1",))), self.trusting("2001:db8:0::1")
        )

    async def test_international_name(self):
        """A name with letters of other alphabets is looked for in its ASCII form."""
        server = Server(issue("x", self.ca, hosts=("xn--brse-5qa.example.org",)))
        await self.check_accepted(server, self.trusting("börse.example.org"))

    async def test_client_certificate(self):
        """Our own certificate is presented, with its chain."""
        between = issue("Between", self.ca, is_authority=True)
        own = issue("gateway-7", between, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
        tls = self.trusting(
            certificate=self.files.write("own.pem", own.pem + between.pem),
            private_key=self.files.write("own.key", own.key_pem()),
        )
        server = Server(issue(HOST, self.ca, hosts=(HOST,)), client_ca=self.ca)
        protocol = await self.check_accepted(server, tls)
        self.assertEqual(protocol.peer.get_subject().CN, "gateway-7")

    async def test_accept_any_server(self):
        """With the option of the long name every certificate is accepted."""
        for identity in (
            issue("anybody"),
            issue("x", self.other_ca, hosts=("x.org",)),
            issue(HOST, self.ca, days=(-9, -2)),
        ):
            self.accepted.clear()
            await self.check_accepted(Server(identity), self.trusting(accept_any_server=True))

    # Refused.

    async def test_wrong_host(self):
        """A certificate for another host is refused, though the authority is the right one."""
        for host in ("other.example.org", "example.org", "tb.example.org.evil.org", "*.tb.example.org", "*"):
            self.accepted.clear()
            await self.check_refused(Server(issue(HOST, self.ca, hosts=(host,))), self.trusting())

    async def test_expired(self):
        """A certificate whose time is over is refused."""
        await self.check_refused(Server(issue(HOST, self.ca, hosts=(HOST,), days=(-9, -2))), self.trusting())

    async def test_not_valid_yet(self):
        """A certificate whose time has not come is refused."""
        await self.check_refused(Server(issue(HOST, self.ca, hosts=(HOST,), days=(2, 9))), self.trusting())

    async def test_self_signed(self):
        """A certificate that nobody else signed is refused."""
        await self.check_refused(Server(issue(HOST, hosts=(HOST,))), self.trusting())

    async def test_other_authority(self):
        """A certificate from another authority is refused, also one that calls itself like ours."""
        impostor = issue("Our authority", is_authority=True)
        for other in (self.other_ca, impostor):
            self.accepted.clear()
            await self.check_refused(Server(issue(HOST, other, hosts=(HOST,)), other), self.trusting())

    async def test_only_our_authority(self):
        """With an authority of our own those of the operating system are not trusted, and the other way round."""
        server = Server(issue(HOST, self.ca, hosts=(HOST,)))
        await self.check_refused(server, ClientTLS(HOST))

    async def test_no_alternative_name(self):
        """A certificate of our authority with a common name only, as devices have, is refused: Twisted let it in."""
        for name in (HOST, "device 7"):
            self.accepted.clear()
            await self.check_refused(Server(issue(name, self.ca)), self.trusting())

    async def test_no_alternative_name_for_an_address(self):
        """The same where the host is an address."""
        await self.check_refused(Server(issue("127.0.0.1", self.ca)), self.trusting("127.0.0.1"))
        self.accepted.clear()
        await self.check_refused(Server(issue("x", self.ca, hosts=("127.0.0.1",))), self.trusting("127.0.0.1"))
        self.accepted.clear()
        await self.check_refused(Server(issue("x", self.ca, addresses=("127.0.0.2",))), self.trusting("127.0.0.1"))

    async def test_not_an_authority(self):
        """A device's certificate cannot sign one for the server."""
        device = issue("device 7", self.ca)
        await self.check_refused(Server(issue(HOST, device, hosts=(HOST,)), device), self.trusting())

    async def test_not_for_servers(self):
        """A certificate that is meant for clients is refused."""
        identity = issue(HOST, self.ca, hosts=(HOST,), usage=ExtendedKeyUsageOID.CLIENT_AUTH)
        await self.check_refused(Server(identity), self.trusting())

    async def test_tls_1_1(self):
        """A server that speaks TLS 1.1 at most is refused, also when anybody would be accepted."""
        server = Server(issue(HOST, self.ca, hosts=(HOST,)), highest=SSL.TLS1_1_VERSION)
        await self.check_refused(server, self.trusting())
        self.accepted.clear()
        await self.check_refused(server, self.trusting(accept_any_server=True))

    async def test_plain_text(self):
        """A server that does not speak TLS at all hears no application data."""
        heard: list[bytes] = []

        class Plain(Protocol):
            def dataReceived(self, data: bytes) -> None:
                heard.append(data)
                assert self.transport is not None
                self.transport.write(b"220 hello\r\n")

        from twisted.internet.endpoints import TCP4ServerEndpoint

        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(_Factory(Plain))
        over: Deferred[str] = Deferred()
        try:
            endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port, timeout=5)
            await wrapClientTLS(client_creator(self.trusting()), endpoint).connect(
                _Factory(lambda: ClientProtocol(over))
            )
            self.assertNotEqual(await over.addTimeout(5, reactor), "")
        finally:
            await port.stopListening()
        self.assertNotIn(SECRET, b"".join(heard))

    async def test_tls_1_1_can_be_served_here(self):
        """The server of `test_tls_1_1` is one that a lenient client can talk to, so that the test means something."""
        server = Server(issue(HOST, self.ca, hosts=(HOST,)), highest=SSL.TLS1_1_VERSION)
        client = SSL.Context(SSL.TLS_CLIENT_METHOD)
        client.set_min_proto_version(SSL.TLS1_VERSION)
        client.set_cipher_list(b"ALL:@SECLEVEL=0")
        one, two = SSL.Connection(server.context, None), SSL.Connection(client, None)
        one.set_accept_state()
        two.set_connect_state()
        for _ in range(10):
            for end, other in ((one, two), (two, one)):
                with contextlib.suppress(SSL.WantReadError):
                    end.do_handshake()
                with contextlib.suppress(SSL.WantReadError):
                    other.bio_write(end.bio_read(65536))
        self.assertEqual(two.get_protocol_version_name(), "TLSv1.1")


class FileTests(SynchronousTestCase):
    """Files that are not what they should be raise ConfigurationError, and name the file (P-03)."""

    def setUp(self) -> None:
        self.ca = authority("Our authority")
        self.own = issue("gateway-7", self.ca)
        self.files = Files(Path(self.mktemp()))
        self.ca_file = self.files.write("ca.pem", self.ca.pem)
        self.own_file = self.files.write("own.pem", self.own.pem)
        self.key_file = self.files.write("own.key", self.own.key_pem())

    def fault(
        self, ca_cert: Path | None = None, certificate: Path | None = None, private_key: Path | None = None
    ) -> str:
        """What the error says."""
        error = self.assertRaises(
            ConfigurationError, client_creator, ClientTLS(HOST, ca_cert, certificate, private_key)
        )
        assert isinstance(error, ConfigurationError)
        (fault,) = error.faults
        return fault

    def test_good(self):
        """Good files raise nothing, whatever form the key has."""
        client_creator(ClientTLS(HOST, self.ca_file, self.own_file, self.key_file))
        other = self.own.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        client_creator(ClientTLS(HOST, self.ca_file, self.own_file, self.files.write("sec1.key", other)))
        both = self.files.write("both.pem", self.own.key_pem() + self.own.pem)
        client_creator(ClientTLS(HOST, self.ca_file, both, both))

    def test_authorities(self):
        """A file of authorities that is missing, empty, no PEM, damaged or cut off."""
        pem = self.ca.pem
        contents = {
            "empty": b"",
            "text": b"hello",
            "key": self.own.key_pem(),
            "cut": pem[:-30],
            "damaged": pem.replace(b"M", b"!", 3),
            "second damaged": pem + pem[:60] + b"\n-----END CERTIFICATE-----\n",
            "der": self.ca.certificate.public_bytes(serialization.Encoding.DER),
        }
        for name, content in contents.items():
            path = self.files.write(name, content)
            self.assertIn(str(path), self.fault(ca_cert=path), name)
        self.assertIn("missing.pem", self.fault(ca_cert=self.files.folder / "missing.pem"))
        self.assertIn(str(self.files.folder), self.fault(ca_cert=self.files.folder))

    def test_own_certificate(self):
        """Our own certificate that is missing or damaged."""
        bad = self.files.write("bad.pem", b"hello")
        self.assertIn(str(bad), self.fault(certificate=bad, private_key=self.key_file))
        missing = self.files.folder / "missing.pem"
        self.assertIn(str(missing), self.fault(certificate=missing, private_key=self.key_file))

    def test_key(self):
        """A key that is missing, damaged, encrypted, not a key, or not that of the certificate."""
        contents = {
            "damaged": b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "encrypted": self.own.key_pem(b"secret"),
            "encrypted with nothing much": self.own.key_pem(b" "),
            "certificate": self.own.pem,
            "empty": b"",
            "other": self.ca.key_pem(),
        }
        for name, content in contents.items():
            path = self.files.write(name, content)
            fault = self.fault(certificate=self.own_file, private_key=path)
            self.assertIn(str(path), fault, name)
            self.assertNotIn("PRIVATE", fault)
        missing = self.files.folder / "missing.key"
        self.assertIn(str(missing), self.fault(certificate=self.own_file, private_key=missing))

    def test_weak_certificate(self):
        """A certificate that OpenSSL finds too weak to use is a fault of that file, and no crash at the first link."""
        weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - weakness is what is tested
        builder = x509.CertificateBuilder().subject_name(self.ca.certificate.subject)
        builder = builder.issuer_name(self.ca.certificate.subject).public_key(weak.public_key()).serial_number(1)
        now = datetime.datetime.now(datetime.UTC)
        builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(9))
        pem = builder.sign(weak, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        key = weak.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self.files.write("weak.pem", pem)
        self.assertIn(str(path), self.fault(certificate=path, private_key=self.files.write("weak.key", key)))

    def test_half(self):
        """A certificate without a key, and a key without a certificate."""
        self.fault(certificate=self.own_file)
        self.fault(private_key=self.key_file)

    def test_read_at_once(self):
        """The files are read when the link is configured, not when it is used: a later fault does not weaken it."""
        creator = client_creator(ClientTLS(HOST, self.ca_file, self.own_file, self.key_file))
        self.ca_file.unlink()
        self.key_file.unlink()
        self.assertIsNotNone(creator)
