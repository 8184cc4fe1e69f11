"""Every transport with at least two charge points that none of us wrote; and who does not get in."""

from __future__ import annotations

import http.client
import ssl

from twisted.internet.threads import deferToThread

from tests.scenarios.test_ocpp_clients import BASIC, BEARER, KEY, TOKEN, ClientCase
from tests.test_tls import issue


class TransportTests(ClientCase):
    """Those combinations that the whole lives do not have; here to the end of the first transaction."""

    async def test_plain(self) -> None:
        """ocpp-rpc and the simulator in clear without a login."""
        self.configure()
        await self.start_gateway()
        station = self.station_js()
        simulator = self.simulator(f"ws://127.0.0.1:{self.port}/CP_2")
        await station.wait_for("READY")
        await simulator.wait_for("READY")

    async def test_basic_and_token(self) -> None:
        """One listener takes either: Python by password, ocpp-rpc by token in 2.0.1 and, not strict, in 2.1."""
        self.configure(security=[*BASIC, *TOKEN])
        await self.start_gateway()
        stations = [
            self.station_py(passwordHex=KEY),
            self.station_js(identity="CP_2", protocol="ocpp2.0.1", headers=BEARER),
            self.station_js(identity="CP_3", protocol="ocpp2.1", headers=BEARER),
        ]
        for station in stations:
            await station.wait_for("READY")

    async def test_tls(self) -> None:
        """The simulator and Python through TLS, with passwords; the key of the server has a passphrase."""
        connection, _ = self.certificates(password="phrase")
        server = issue("gateway", None, addresses=("127.0.0.1",))
        self.write("server.pem", server.pem.decode())
        self.write("server.key", server.key_pem(b"phrase").decode())
        ca = str(self.folder / "etc" / "server.pem")
        self.configure(security=[{"type": "basic", "credentials": [{"password": "pw"}]}], connection=connection)
        await self.start_gateway()
        simulator = self.simulator(f"wss://CP_1:pw@127.0.0.1:{self.port}/CP_1", ca=ca)
        station = self.station_py(identity="CP_2", endpoint=self.wss, passwordHex=b"pw".hex(), ca=ca)
        await simulator.wait_for("READY")
        await station.wait_for("READY")

    async def test_client_certificates(self) -> None:
        """The simulator and ocpp-rpc with a certificate each; with the other's they get 403."""
        connection, files = self.certificates(ca="ca.pem", verifyClient=True, cnMustMatch="id")
        self.configure(connection=connection)
        await self.start_gateway()
        simulator = self.simulator(f"{self.wss}/CP_1", **files)
        await simulator.wait_for("READY")
        await self.station_js(endpoint=self.wss, identity="CP_1", protocol="ocpp2.0.1", **files).wait_for("READY")
        refused = self.station_js(endpoint=self.wss, identity="CP_2", **files)
        await refused.ended
        self.assertIn("403", "\n".join(refused.lines))

    async def test_serial(self) -> None:
        """A certificate for a serial is good once the BootNotification bears it, and never with another."""
        connection, files = self.certificates("SN-7", ca="ca.pem", verifyClient=True, cnMustMatch="serial")
        self.configure(connection=connection)
        await self.start_gateway()
        other = self.station_js(endpoint=self.wss, identity="CP_2", serial="SN-8", **files)
        await other.ended
        self.assertIn("the serial is not the certificate", "\n".join(other.lines))
        await self.gateway.wait_for("CP_2 is cut off: its BootNotification does not bear its certificate's serial")
        await self.station_js(endpoint=self.wss, serial="SN-7", **files).wait_for("READY")

    async def test_without_certificate(self) -> None:
        """Who shows none, or one of another authority, fails in TLS, and the others go on."""
        connection, files = self.certificates(ca="ca.pem", verifyClient=True)
        self.configure(connection=connection)
        await self.start_gateway()
        self.keep("stranger", issue("CP_1", issue("Another CA", is_authority=True)))
        stranger = {
            "cert": str(self.folder / "etc" / "stranger.pem"),
            "key": str(self.folder / "etc" / "stranger.key"),
        }
        for given in ({"ca": files["ca"]}, {"ca": files["ca"], **stranger}):
            refused = self.station_js(endpoint=self.wss, **given)
            await refused.ended
            self.assertRegex("\n".join(refused.lines), "(?i)FAILED .*(ssl|tls|alert|hang up|ECONNRESET|closed)")
        await self.station_js(endpoint=self.wss, **files).wait_for("READY")

    async def test_refusals(self) -> None:
        """404 for unknown ones, 401 with its header for bad logins, before any WebSocket (O-13)."""
        self.configure({"idRegexpPattern": "CP_1", "deviceNameExpression": "x"}, security=[*BASIC, *TOKEN])
        await self.start_gateway()
        unknown = self.station_js(identity="CP_10", passwordHex=KEY)
        wrong = self.station_js(passwordHex=KEY[::-1])
        await unknown.ended
        await wrong.ended
        self.assertIn("404", "\n".join(unknown.lines))
        self.assertIn("401", "\n".join(wrong.lines))
        status, challenge = await deferToThread(self.upgrade, "/CP_1")
        self.assertEqual((status, challenge), (401, 'Basic realm="OCPP", charset="UTF-8"'))
        log = "\n".join(self.gateway.lines)
        self.assertNotIn(KEY, log)
        self.assertNotIn("Zx81", log)

    async def test_old_tls(self) -> None:
        """TLS 1.1 is refused, 1.2 and 1.3 are spoken, with an RSA or an ECDSA certificate as the client likes."""
        connection, files = self.certificates()
        self.write("rsa.pem", "")
        self.rsa()
        connection["additionalCertificates"] = [{"cert": "rsa.pem", "key": "rsa.key"}]
        self.configure(connection=connection)
        await self.start_gateway()
        found = await deferToThread(self.ciphers, files["ca"])
        self.assertEqual(
            found,
            ["refused", "TLSv1.2 ECDHE-ECDSA-AES128-GCM-SHA256", "TLSv1.2 ECDHE-RSA-AES256-GCM-SHA384", "TLSv1.3"],
        )

    def rsa(self) -> None:
        """An RSA certificate for the server; nobody verifies it here."""
        import datetime

        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(65537, 2048)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gateway")])
        start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        builder = builder.serial_number(9).not_valid_before(start)
        made = builder.not_valid_after(start + datetime.timedelta(36500)).sign(key, hashes.SHA256())
        self.write("rsa.pem", made.public_bytes(serialization.Encoding.PEM).decode())
        kind, lock = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        self.write("rsa.key", key.private_bytes(serialization.Encoding.PEM, kind, lock).decode())

    def ciphers(self, ca: str) -> list[str]:
        """What each kind of client gets. In a thread."""
        import socket

        found = []
        for version, ciphers in (
            (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
            (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-GCM-SHA256"),
            (ssl.TLSVersion.TLSv1_2, "ECDHE-RSA-AES256-GCM-SHA384"),
            (ssl.TLSVersion.TLSv1_3, ""),
        ):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.minimum_version = context.maximum_version = version
            if ciphers:
                context.set_ciphers(ciphers)
            try:
                with (
                    socket.create_connection(("127.0.0.1", self.port), timeout=20) as plain,
                    context.wrap_socket(plain) as secured,
                ):
                    cipher = secured.cipher()
                    name = "" if cipher is None or not ciphers else f" {cipher[0]}"
                    found.append(f"{secured.version()}{name}")
            except (ssl.SSLError, OSError):
                found.append("refused")
        return found

    def upgrade(self, path: str) -> tuple[int, str | None]:
        """(status, challenge) of a handshake without login. In a thread."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Protocol": "ocpp1.6",
        }
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        found = response.status, response.getheader("WWW-Authenticate")
        connection.close()
        return found
