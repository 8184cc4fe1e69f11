"""Both roles over real TLS sockets: the transport there buffers, pauses and closes in its own way."""

from __future__ import annotations

import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import (
    HostnameEndpoint,
    SSL4ServerEndpoint,
    connectProtocol,
    wrapClientTLS,
)
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS
from twisted.trial.unittest import TestCase

from tbgw.mqtt import ClientDisconnected, ClientOptions, MQTTClientProtocol, MQTTServerProtocol, ServerOptions
from tests.mqtt.memory import ClientRecord, ServerRecord

reactor: Any = _reactor  # the real one: it has more interfaces than its annotation says


def certificate_for_localhost() -> PrivateCertificate:
    """Fresh, self-signed, good for a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    loaded: PrivateCertificate = PrivateCertificate.loadPEM(pem)
    return loaded


class TLSTests(TestCase):
    """One connection each."""

    timeout = 20

    async def setUp(self) -> None:  # type: ignore[override]  # trial runs coroutines too
        certificate = certificate_for_localhost()
        self.clients, self.servers = ClientRecord(), ServerRecord()
        protocols: list[MQTTServerProtocol] = []
        servers = self.servers

        class ServerFactory(Factory):
            def buildProtocol(self, addr):
                protocols.append(MQTTServerProtocol(ServerOptions(), servers, reactor))
                return protocols[-1]

        listening = await SSL4ServerEndpoint(reactor, 0, certificate.options(), interface="127.0.0.1").listen(
            ServerFactory()
        )
        self.addCleanup(listening.stopListening)
        authority = Certificate.loadPEM(certificate.dumpPEM())
        endpoint = wrapClientTLS(
            optionsForClientTLS("localhost", trustRoot=authority),
            HostnameEndpoint(reactor, "127.0.0.1", listening.getHost().port),
        )
        self.protocol = MQTTClientProtocol(ClientOptions(client_id="tls"), self.clients, reactor)
        connected: Deferred[None] = Deferred()
        self.clients.on_connected = lambda protocol: connected.callback(None)
        self.clients_gone, self.servers_gone = Deferred[None](), Deferred[None]()
        self.clients.on_disconnected = lambda: self.clients_gone.callback(None)
        self.servers.on_disconnected = lambda: self.servers_gone.callback(None)
        await connectProtocol(endpoint, self.protocol)
        await connected
        self.server = protocols[0]

    async def test_much_then_disconnect(self):
        """More than the buffers hold goes through in order, pausing on the way, and the close takes both ends along."""
        paused = []
        pause = self.protocol.pauseProducing
        self.protocol.pauseProducing = lambda: (paused.append(True), pause())[1]  # type: ignore[method-assign,func-returns-value]  # a spy
        payloads = [bytes([number]) * 60000 for number in range(90)]
        codes = await gatherResults([self.protocol.publish("big", payload) for payload in payloads])
        self.assertEqual(codes, [0] * 90)
        self.assertEqual([publish.payload for publish in self.servers.values("publish")], payloads)
        self.assertTrue(paused)
        self.assertFalse(self.protocol.paused)
        self.protocol.disconnect()
        await self.clients_gone
        await self.servers_gone
        self.assertIsInstance(self.clients.reason(), ConnectionDone)
        self.assertIsInstance(self.servers.reason(), ClientDisconnected)

    async def test_server_closes(self):
        """The other end's close arrives too."""
        self.server.close()
        await self.clients_gone
        await self.servers_gone

    async def test_abort(self):
        """So does an abort, and what was published fails."""
        deferred = self.protocol.publish("a", b"")
        self.protocol.abort()
        await self.clients_gone
        await self.servers_gone
        with self.assertRaises(Exception) as caught:
            await deferred
        self.assertIs(caught.exception, self.clients.reason())
