"""The link to ThingsBoard's place over TLS and with passwords, with mosquitto and the gateway as a user starts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.programs import GatewayFolder, Program, free_port, need
from tests.test_tls import Issued, authority, issue


class LinkSecurityTests(SynchronousTestCase):
    """A certificate that proves nothing ends the link; nothing goes on in plain text (P-02, P-03)."""

    def setUp(self) -> None:
        self.folder = GatewayFolder(self)
        self.port = free_port()
        self.authority = authority("tests")
        (self.folder.etc / "ca.pem").write_bytes(self.authority.pem)

    def mosquitto(self, server: Issued, *lines: str) -> Program:
        """A broker with this certificate; its log tells who connects."""
        files = Path(self.mktemp())
        files.mkdir(parents=True)
        (files / "cert.pem").write_bytes(server.pem)
        (files / "key.pem").write_bytes(server.key_pem())
        (files / "ca.pem").write_bytes(self.authority.pem)
        config = files / "mosquitto.conf"
        tls = [f"certfile {files}/cert.pem", f"keyfile {files}/key.pem", f"cafile {files}/ca.pem"]
        user = ["user root"]  # the files of a test are its own; mosquitto would give up the right to read them
        listener = f"listener {self.port} 127.0.0.1"
        config.write_text("\n".join([*user, listener, *tls, "log_dest stderr", "log_type all", *lines]) + "\n")
        broker = Program(self, [need("mosquitto"), "-c", str(config)])
        broker.wait_for(r"mosquitto version .* running")
        return broker

    def start(self, **security: Any) -> Program:
        """A gateway with this way to log in."""
        thingsboard = {"host": "localhost", "port": self.port, "security": {"caCert": "ca.pem", **security}}
        self.folder.write("tb_gateway.json", {"thingsboard": thingsboard, "connectors": []})
        return self.folder.start()

    def test_a_proven_server(self) -> None:
        """A certificate of the given authority for the host's name: connected, and the token arrives."""
        broker = self.mosquitto(issue("localhost", self.authority, hosts=("localhost",)), "allow_anonymous true")
        gateway = self.start(type="tlsAccessToken", accessToken="a1b2c3")
        gateway.wait_for(r"connected to ThingsBoard at localhost:\d+ \(TLS\) with MQTT 5")
        broker.wait_for("u'a1b2c3'")

    def test_a_certificate_without_names_from_the_right_authority(self) -> None:
        """Twisted's own verification lets such a one through; ours does not, and the token stays here."""
        broker = self.mosquitto(issue("localhost", self.authority), "allow_anonymous true")
        gateway = self.start(type="tlsAccessToken", accessToken="a1b2c3")
        gateway.wait_for("certificate of localhost is refused")
        gateway.wait_for("no session with ThingsBoard")
        broker.stop()
        self.assertNotIn("a1b2c3", broker.output + gateway.output)

    def test_a_server_of_another_authority(self) -> None:
        """A certificate that anybody could have made is refused."""
        broker = self.mosquitto(issue("localhost", authority("others"), hosts=("localhost",)), "allow_anonymous true")
        gateway = self.start(type="tlsAccessToken", accessToken="a1b2c3")
        gateway.wait_for("certificate of localhost is refused")
        broker.stop()
        self.assertNotIn("a1b2c3", broker.output)

    def test_a_client_certificate(self) -> None:
        """The gateway proves itself by its own certificate, where the server asks for one."""
        lines = ("require_certificate true", "use_identity_as_username true", "allow_anonymous false")
        broker = self.mosquitto(issue("localhost", self.authority, hosts=("localhost",)), *lines)
        own = issue("gateway-7", self.authority, hosts=("gateway-7",))
        (self.folder.etc / "own.pem").write_bytes(own.pem)
        (self.folder.etc / "own.key").write_bytes(own.key_pem())
        gateway = self.start(type="x509Certificate", cert="own.pem", privateKey="own.key")
        gateway.wait_for("connected to ThingsBoard")
        broker.wait_for("u'gateway-7'")
