"""Tests of credentials and TLS: what is accepted, what follows from it, and that no secret is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tbgw.config.findings import Severity
from tbgw.config.security import Security, settle_security
from tbgw.config.settings import read_section
from tbgw.config.values import Secret
from tests.config.fakes import TOKEN, FolderCase, key_pair, tree

PLACEHOLDERS = (
    "PUT_YOUR_GW_ACCESS_TOKEN_HERE",
    "",
    "   ",
    "YOUR_ACCESS_TOKEN",
    "your_token",
    "ACCESS_TOKEN",
    "token",
    "Access-Token",
    "PUT_YOUR_TOKEN_HERE",
    "changeme",
    "XXXXXXXX",
    "${ACCESS_TOKEN}",
)


class SecurityCase(FolderCase):
    def settle(self, value: Any, port: int = 1883, sandbox: Path | None = None) -> Security:
        node = tree(value)
        return settle_security(read_section(Security, node, self.reporter), node, port, sandbox, self.reporter)


class CredentialTests(SecurityCase):
    """Which credentials the gateway shows."""

    def test_token(self):
        """A token is all that is needed, with or without its type."""
        for value in ({"accessToken": TOKEN}, {"type": "accessToken", "accessToken": TOKEN}):
            found = self.settle(value)
            self.assertEqual((found.type, found.access_token, found.tls), ("accessToken", Secret(TOKEN), False))
        self.assertEqual(self.lines(), [])

    def test_placeholders(self):
        """Placeholders and empty tokens stop the start (P-01)."""
        for placeholder in PLACEHOLDERS:
            before = len(self.faults())
            self.settle({"accessToken": placeholder})
            self.assertEqual(len(self.faults()), before + 1, placeholder)

    def test_real_tokens(self):
        """Tokens that merely look a little like a placeholder are taken."""
        for token in (TOKEN, "A1_TEST_TOKEN", "x7", "tokenize-99"):
            self.settle({"accessToken": token})
        self.assertEqual(self.faults(), [])

    def test_none(self):
        """A section without any credential is a fault that tells what to give."""
        self.settle({"clientIdd": "x"})
        self.assertIn("accessToken: there are no credentials", self.faults()[0])

    def test_username_and_password(self):
        """User name, password and client id are taken together; the type is found by the keys."""
        found = self.settle({"username": "gw", "password": "p w", "clientId": "c"})
        self.assertEqual(
            (found.type, found.username, found.password, found.client_id),
            ("usernamePassword", "gw", Secret("p w"), "c"),
        )
        self.assertEqual(self.settle({"clientId": "c"}).type, "usernamePassword")
        self.assertEqual(self.lines(), [])

    def test_password_alone(self):
        """A password without user name cannot be sent, and an empty one is none."""
        self.settle({"password": "p", "clientId": "c"})
        self.assertIn("username: is missing", self.faults()[0])
        self.settle({"username": "gw", "password": ""})
        self.assertEqual(len(self.faults()), 2)

    def test_type_wants_its_keys(self):
        """A named type whose keys are missing is a fault, one for each key."""
        self.settle({"type": "accessToken", "username": "u"})
        self.settle({"type": "usernamePassword"})
        self.settle({"type": "x509Certificate"})
        self.assertEqual(
            [line.split(": ")[1] for line in self.faults()], ["accessToken", "username", "cert", "privateKey"]
        )

    def test_unused_keys(self):
        """Credentials of another type than the one in use are named, once."""
        self.settle({"type": "usernamePassword", "username": "u", "password": "p", "accessToken": TOKEN, "cert": ""})
        found = self.lines(Severity.NOTICE)
        self.assertEqual(
            found, ["some.json:5: accessToken: without effect: not used with security type usernamePassword"]
        )

    def test_nothing_tells_a_secret(self):
        """No finding and no repr holds the value of a secret, whatever is wrong with it (P-11)."""
        for value in (
            {"accessToken": "canary your", "tls": "canary"},
            {"accessToken": ["canary"]},
            {"type": "accessToken", "password": "canary", "username": "u"},
            {"username": "u", "password": {"canary": 1}},
            {"accessToken": "canary", "accessTokenFile": "x"},
            {"accessToken": "${canary}"},
        ):
            self.assertNotIn("canary", repr(self.settle(value)))
        self.assertNotIn("canary", "\n".join(self.lines()))
        self.assertNotIn("canary", repr(Secret("canary")) + str(Secret("canary")) + f"{Secret('canary')}")


class SecretFileTests(SecurityCase):
    """Secrets that stand in files of their own (P-12)."""

    def put(self, name: str, content: bytes, mode: int = 0o600) -> Path:
        path = self.data_dir / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        return path

    def test_token_file(self):
        """The token is read from a file of the data folder, without the line end behind it."""
        path = self.put("t", TOKEN.encode() + b"\n")
        found = self.settle({"accessTokenFile": "t"})
        self.assertEqual((found.access_token, found.access_token_file), (Secret(TOKEN), path))
        self.assertEqual(self.lines(), [])

    def test_absolute_path(self):
        """A secret file may lie anywhere, such as where systemd puts credentials."""
        path = self.put("t", TOKEN.encode()).absolute()
        self.assertEqual(self.settle({"accessTokenFile": str(path)}).access_token, Secret(TOKEN))

    def test_password_file(self):
        """The password may come from a file too."""
        self.put("p", b"pass word")
        self.assertEqual(self.settle({"username": "u", "passwordFile": "p"}).password, Secret("pass word"))
        self.assertEqual(self.lines(), [])

    def test_world_readable(self):
        """A secret file that everybody can read warns."""
        self.put("t", TOKEN.encode(), 0o644)
        self.settle({"accessTokenFile": "t"})
        self.assertIn("everybody on this machine can read", self.lines(Severity.WARNING)[0])

    def test_bad_files(self):
        """A file that is missing, a folder, empty, a placeholder, too large or not text is a fault."""
        self.put("empty", b"\n")
        self.put("sample", b"YOUR_ACCESS_TOKEN")
        self.put("large", b"x1" * 4096)
        self.put("binary", b"\xff\xfe\xfd")
        for name in ("absent", ".", "empty", "sample", "large", "binary", "nul\0"):
            before = len(self.faults())
            self.settle({"accessTokenFile": name})
            self.assertEqual(len(self.faults()), before + 1, name)

    def test_both(self):
        """A literal and a file at once is a fault: nobody could say which counts."""
        self.put("t", TOKEN.encode())
        self.settle({"accessToken": TOKEN, "accessTokenFile": "t"})
        self.settle({"username": "u", "password": "p", "passwordFile": "t"})
        self.assertEqual(len(self.faults()), 2)

    def test_file_of_the_sandbox(self):
        """The sandbox's own token file may be absent, since the sandbox writes it at its first start."""
        path = self.data_dir / "sandbox" / "token"
        found = self.settle({"accessTokenFile": "./sandbox/token"}, sandbox=path)
        self.assertIsNone(found.access_token)
        self.assertEqual(self.faults(), [])
        self.put("sandbox/token", TOKEN.encode())
        self.assertEqual(self.settle({"accessTokenFile": "sandbox/token"}, sandbox=path).access_token, Secret(TOKEN))

    def test_file_of_no_sandbox(self):
        """With the sandbox off the same file has to be there."""
        self.settle({"accessTokenFile": "sandbox/token"})
        self.assertEqual(len(self.faults()), 1)


class TLSTests(SecurityCase):
    """When the link is encrypted, and with what."""

    def setUp(self) -> None:
        super().setUp()
        self.cert, self.key = key_pair(self.config_dir)

    def test_implied(self):
        """Port 8883, a CA and the types of TLS each turn it on."""
        self.assertTrue(self.settle({"accessToken": TOKEN}, port=8883).tls)
        self.assertTrue(self.settle({"accessToken": TOKEN, "caCert": self.cert}).tls)
        self.assertTrue(self.settle({"type": "tlsAccessToken", "accessToken": TOKEN}).tls)
        self.assertTrue(self.settle({"accessToken": TOKEN, "tls": True}).tls)
        self.assertTrue(self.settle({"cert": self.cert, "privateKey": self.key}).tls)
        self.assertEqual(self.lines(), [])

    def test_false_does_not_weaken(self):
        """`tls: false` against something that implies TLS is a doubt, and TLS stays on."""
        self.assertTrue(self.settle({"accessToken": TOKEN, "tls": False}, port=8883).tls)
        self.assertIn("port 8883 means TLS", self.lines(Severity.DOUBT)[0])

    def test_types_by_keys(self):
        """Without type, a CA beside the token and a certificate each tell it."""
        self.assertEqual(self.settle({"accessToken": TOKEN, "caCert": self.cert}).type, "tlsAccessToken")
        self.assertEqual(self.settle({"cert": self.cert, "privateKey": self.key}).type, "x509Certificate")

    def test_files_in_the_folder(self):
        """Certificates are looked for in the configuration's folder first, then as given."""
        found = self.settle({"cert": self.cert, "privateKey": str((self.config_dir / self.key).absolute())})
        self.assertEqual(found.cert, self.config_dir / self.cert)
        self.assertEqual(found.private_key, (self.config_dir / self.key).absolute())
        self.assertEqual(self.faults(), [])

    def test_missing_certificate(self):
        """A certificate that is not there is a fault with the path that was tried."""
        self.settle({"accessToken": TOKEN, "caCert": "ca.pem"})
        self.assertIn(f"cannot read {self.config_dir}/ca.pem: No such file", self.faults()[0])

    def test_no_certificate(self):
        """A file that is no PEM, and one that only looks like it, are faults."""
        self.write("a.pem", b"\x30\x82\x01\x00")
        self.write("b.pem", "-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n")
        self.settle({"accessToken": TOKEN, "caCert": "a.pem"})
        self.settle({"accessToken": TOKEN, "caCert": "b.pem"})
        self.assertEqual(len(self.faults()), 2)

    def test_pair_that_does_not_fit(self):
        """A key of another certificate, and one locked with a passphrase, are faults and ask nobody anything."""
        _, other = key_pair(self.config_dir, "other")
        cert, locked = key_pair(self.config_dir, "locked", b"passphrase")
        self.settle({"cert": self.cert, "privateKey": other})
        self.settle({"cert": cert, "privateKey": locked})
        self.assertEqual(len(self.faults()), 2)
        for line in self.faults():
            self.assertIn("cannot be used together", line)

    def test_verification_off(self):
        """Only the key with the frightening name turns verification off, and it warns (P-05)."""
        found = self.settle({"accessToken": TOKEN, "tls": True, "dangerouslyAcceptAnyServerCertificate": True})
        self.assertTrue(found.accept_any_server)
        self.assertIn("NOT verified", self.lines(Severity.WARNING)[0])

    def test_insecure(self):
        """The reference's own switch is not obeyed, and that is said."""
        found = self.settle({"accessToken": TOKEN, "tls": True, "insecure": True})
        self.assertFalse(found.accept_any_server)
        self.assertIn("not obeyed", self.lines(Severity.WARNING)[0])
