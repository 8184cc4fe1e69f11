"""SASL without a server: the standards' own examples, and every lie that a server can tell."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.xmpp import channel_binding, sasl
from tbgw.connectors.xmpp.sasl import Circumstances, Credentials, DigestMD5, NoMechanism, SASLFailed, Scram, saslprep
from tests.test_tls import Issued, authority, issue

WHO = Credentials("user", "pencil")


class ScramTests(SynchronousTestCase):
    """RFC 5802 and RFC 7677."""

    def test_sha_1(self):
        """The example of RFC 5802, 5."""
        scram = Scram("SCRAM-SHA-1", "sha1", WHO, nonce="fyko+d2lbbFgONRv9qkxdawL")
        self.assertEqual(scram.initial(), b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL")
        final = scram.respond(b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096")
        self.assertEqual(
            final,
            b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        )
        scram.succeeded(b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=")

    def test_sha_256(self):
        """The example of RFC 7677, 3; the proof may come as a challenge, with an empty success behind it."""
        scram = Scram("SCRAM-SHA-256", "sha256", WHO, nonce="rOprNGfwEbeRWgbNEkqO")
        final = scram.respond(
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        )
        self.assertTrue(final.endswith(b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="))
        self.assertEqual(scram.respond(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), b"")
        scram.succeeded(None)

    def test_server_lies(self):
        """A foreign nonce, too few or too many rounds, no salt, an error, an extension: each ends the login."""
        for challenge in (
            *(b"r=other,s=QSXCR+Q6sek8bf92,i=4096", b"r=abc,s=QSXCR+Q6sek8bf92,i=4096"),
            *(b"r=abcd,s=QSXCR+Q6sek8bf92,i=1", b"r=abcd,s=QSXCR+Q6sek8bf92,i=4095"),
            *(b"r=abcd,s=QSXCR+Q6sek8bf92,i=999999999", b"r=abcd,s=QSXCR+Q6sek8bf92,i=-1"),
            *(b"r=abcd,s=,i=4096", b"r=abcd,s=!!,i=4096", b"r=abcd,i=4096", b"r=abcd,s=QSXCR+Q6sek8bf92"),
            *(b"", b"\xff\x00", b"e=unknown-user", b"m=x,r=abcd,s=QSXCR+Q6sek8bf92,i=4096"),
        ):
            scram = Scram("SCRAM-SHA-1", "sha1", WHO, nonce="abc")
            self.assertRaises(SASLFailed, scram.respond, challenge)

    def test_no_proof(self):
        """A server that does not prove that it knows the password is not ours."""
        for proof in (None, b"", b"v=", b"v=smF9pqV8S7suAoZWja4dJRkFsKQ=", b"v=!!", b"e=other-error"):
            scram = Scram("SCRAM-SHA-1", "sha1", WHO, nonce="fyko+d2lbbFgONRv9qkxdawL")
            scram.respond(b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096")
            self.assertRaises(SASLFailed, scram.succeeded, proof)
        self.assertRaises(SASLFailed, Scram("SCRAM-SHA-1", "sha1", WHO).succeeded, None)

    def test_binding(self):
        """A binding's name stands in the first message, its data in the second; so does an identity to act as."""
        who = Credentials("a,b=c", "pencil", authzid="x@y")
        scram = Scram("SCRAM-SHA-1-PLUS", "sha1", who, binding=("tls-exporter", b"\x00data"), nonce="abc")
        self.assertEqual(scram.initial(), b"p=tls-exporter,a=x@y,n=a=2Cb=3Dc,r=abc")
        final = scram.respond(b"r=abcd,s=QSXCR+Q6sek8bf92,i=4096")
        shown = base64.b64decode(final.split(b",")[0][2:])
        self.assertEqual(shown, b"p=tls-exporter,a=x@y,\x00data")

    def test_against_a_server(self):
        """A server that knows only what servers keep (RFC 5802, 3) finds the proof right, for each hash."""
        for name, hash_name in (("SCRAM-SHA-512", "sha512"), ("SCRAM-SHA-256", "sha256"), ("SCRAM-SHA-1", "sha1")):
            scram = Scram(name, hash_name, WHO)
            first = scram.initial()
            assert first is not None
            bare = first[3:]
            nonce = bare.split(b"r=")[1] + b"server"
            challenge = b"r=%s,s=%s,i=4096" % (nonce, base64.b64encode(b"salt"))
            final = scram.respond(challenge)
            without, _, proof = final.rpartition(b",p=")
            said = b",".join((bare, challenge, without))
            salted = hashlib.pbkdf2_hmac(hash_name, b"pencil", b"salt", 4096)
            stored = hashlib.new(hash_name, hmac.digest(salted, b"Client Key", hash_name)).digest()
            signature = hmac.digest(stored, said, hash_name)
            key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True))
            self.assertEqual(hashlib.new(hash_name, key).digest(), stored)
            server_key = hmac.digest(salted, b"Server Key", hash_name)
            scram.succeeded(b"v=" + base64.b64encode(hmac.digest(server_key, said, hash_name)))


class DigestTests(SynchronousTestCase):
    """RFC 2831."""

    def challenge(self, **words: str) -> bytes:
        known = {"realm": '"x.org"', "nonce": '"OA6MG9tEQGm2hh"', "qop": '"auth"', "charset": "utf-8"}
        return ",".join(f"{name}={word}" for name, word in {**known, **words}.items() if word).encode()

    def test_proof(self):
        """The server's proof has to be right."""
        digest = DigestMD5(Credentials("user", "pencil", domain="x.org"), cnonce="OA6MHXh6VqTrRk")
        said = digest.respond(self.challenge())
        self.assertIn(b'digest-uri="xmpp/x.org"', said)
        self.assertRaises(SASLFailed, digest.respond, b"rspauth=ea40f60335c427b5527b84dbabcdfffd")
        self.assertRaises(SASLFailed, digest.succeeded, None)

    def test_response(self):
        """Computed by hand after 2.1.2.1."""
        digest = DigestMD5(Credentials("user", "pencil", domain="x.org"), cnonce="OA6MHXh6VqTrRk")
        said = digest.respond(self.challenge())

        def md5(text: bytes) -> bytes:
            return hashlib.md5(text, usedforsecurity=False).digest()

        a1 = md5(md5(b"user:x.org:pencil") + b":OA6MG9tEQGm2hh:OA6MHXh6VqTrRk").hex()
        a2 = md5(b"AUTHENTICATE:xmpp/x.org").hex()
        expected = md5(f"{a1}:OA6MG9tEQGm2hh:00000001:OA6MHXh6VqTrRk:auth:{a2}".encode()).hex()
        self.assertIn(f"response={expected}".encode(), said)
        rspauth = md5(f"{a1}:OA6MG9tEQGm2hh:00000001:OA6MHXh6VqTrRk:auth:{md5(b':xmpp/x.org').hex()}".encode()).hex()
        self.assertEqual(digest.respond(f"rspauth={rspauth}".encode()), b"")
        digest.succeeded(None)

    def test_server_lies(self):
        """A challenge without nonce, with another algorithm, or with protection only."""
        for words in ({"nonce": ""}, {"algorithm": "sha"}, {"qop": '"auth-int"'}):
            self.assertRaises(SASLFailed, DigestMD5(WHO).respond, self.challenge(**words))
        self.assertRaises(SASLFailed, DigestMD5(WHO).respond, b"\xff\x00,,=,")

    def test_quoting(self):
        """Quotes in names get through both ways."""
        digest = DigestMD5(Credentials('a"b\\', "p", domain="x"))
        said = digest.respond(self.challenge(realm='"x\\"y"'))
        self.assertIn(b'username="a\\"b\\\\"', said)
        self.assertIn(b'realm="x\\"y"', said)


class ChoiceTests(SynchronousTestCase):
    """Which mechanism is taken."""

    ALL = (*sasl.ALL_NAMES, "X-OAUTH2")

    def choose(self, offered: Any, who: Credentials = WHO, **around: Any) -> str:
        return sasl.choose(offered, who, Circumstances(**{"encrypted": True, **around})).name

    def test_order(self):
        """Best first; what is missing makes way for the next."""
        binding: dict[str, Any] = {"binding": ("tls-exporter", b"x"), "can_bind": True}
        self.assertEqual(self.choose(self.ALL, Credentials("u", "p", has_certificate=True)), "EXTERNAL")
        order = ["SCRAM-SHA-512-PLUS", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-512", "SCRAM-SHA-256"]
        order += ["SCRAM-SHA-1", "DIGEST-MD5", "PLAIN"]
        left = list(reversed(order))
        for name in order:
            self.assertEqual(self.choose(left, **binding), name)
            left.remove(name)
        self.assertRaises(NoMechanism, self.choose, left, **binding)

    def test_plain_unencrypted(self):
        """PLAIN without TLS needs the configuration's word."""
        self.assertRaises(NoMechanism, self.choose, ["PLAIN"], encrypted=False)
        self.assertEqual(self.choose(["PLAIN"], encrypted=False, allow_plain_unencrypted=True), "PLAIN")

    def test_must_bind(self):
        """Where binding is required nothing else is taken."""
        self.assertRaises(NoMechanism, self.choose, ["SCRAM-SHA-512", "PLAIN"], must_bind=True, can_bind=True)

    def test_anonymous(self):
        """Without a name only anonymously, and with a name never."""
        self.assertEqual(self.choose(["PLAIN", "ANONYMOUS"], Credentials("")), "ANONYMOUS")
        self.assertRaises(NoMechanism, self.choose, ["ANONYMOUS"])

    def test_downgrade_flag(self):
        """`y` where we could bind and nothing is offered; `n` where we cannot, or not in the way that is offered."""

        def flag(offered: list[str], **around: Any) -> bytes:
            scram = sasl.choose(offered, WHO, Circumstances(encrypted=True, **around))
            first = scram.initial()
            assert first is not None
            return first[:1]

        self.assertEqual(flag(["SCRAM-SHA-1"], can_bind=True), b"y")
        self.assertEqual(flag(["SCRAM-SHA-1"]), b"n")
        self.assertEqual(flag(["SCRAM-SHA-1", "SCRAM-SHA-1-PLUS"], can_bind=True), b"n")
        bound = {"can_bind": True, "binding": ("tls-exporter", b"x")}
        self.assertEqual(flag(["SCRAM-SHA-1", "SCRAM-SHA-1-PLUS"], **bound), b"p")


class SASLprepTests(SynchronousTestCase):
    """RFC 4013, 3."""

    def test_examples(self):
        """The standard's own."""
        self.assertEqual(saslprep("I\u00adX"), "IX")
        self.assertEqual(saslprep("user"), "user")
        self.assertEqual(saslprep("USER"), "USER")
        self.assertEqual(saslprep("\u00aa"), "a")
        self.assertEqual(saslprep("\u2168"), "IX")
        self.assertEqual(saslprep("a\u00a0b"), "a b")
        for bad in ("\u0007", "\u0627\u0031", "\ue000", "\ufffd"):
            self.assertRaises(ValueError, saslprep, bad)


class Ends:
    """Both ends of a TLS connection, in memory."""

    def __init__(self, identity: Issued, version: int) -> None:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.use_certificate(identity.certificate)
        context.use_privatekey(identity.key)
        context.set_max_proto_version(version)
        self.server = SSL.Connection(context, None)
        self.client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
        self.server.set_accept_state()
        self.client.set_connect_state()
        for _ in range(10):
            for end, other in ((self.client, self.server), (self.server, self.client)):
                for step in (end.do_handshake, lambda end=end, other=other: other.bio_write(end.bio_read(65536))):
                    try:
                        step()
                    except SSL.WantReadError:
                        continue


class BindingTests(SynchronousTestCase):
    """Both ends come to the same data, and no two connections do."""

    def setUp(self) -> None:
        self.identity = issue("x.org", authority("XMPP authority"), hosts=("x.org",))

    def test_exporter(self):
        """tls-exporter with TLS 1.3."""
        ends, others = Ends(self.identity, SSL.TLS1_3_VERSION), Ends(self.identity, SSL.TLS1_3_VERSION)
        chosen = channel_binding.choose(ends.client, ["tls-server-end-point", "tls-exporter"])
        assert chosen is not None
        self.assertEqual(chosen[0], "tls-exporter")
        self.assertEqual(chosen[1], ends.server.export_keying_material(b"EXPORTER-Channel-Binding", 32, b""))
        self.assertEqual(len(chosen[1]), 32)
        self.assertNotEqual(chosen, channel_binding.choose(others.client, ["tls-exporter"]))

    def test_server_end_point(self):
        """tls-server-end-point is the hash of the certificate, in both versions of TLS."""
        from cryptography.hazmat.primitives.serialization import Encoding

        expected = hashlib.sha256(self.identity.certificate.public_bytes(Encoding.DER)).digest()
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            ends = Ends(self.identity, version)
            self.assertEqual(
                channel_binding.choose(ends.client, ["tls-server-end-point"]), ("tls-server-end-point", expected)
            )

    def test_unique(self):
        """tls-unique is what the server sees of our Finished, with TLS 1.2 alone."""
        ends = Ends(self.identity, SSL.TLS1_2_VERSION)
        self.assertEqual(channel_binding.choose(ends.client, None), ("tls-unique", ends.server.get_peer_finished()))
        self.assertEqual(channel_binding.choose(ends.client, ["tls-exporter"]), None)
        newer = Ends(self.identity, SSL.TLS1_3_VERSION)
        self.assertEqual(channel_binding.choose(newer.client, ["tls-unique"]), None)
        self.assertEqual(channel_binding.choose(newer.client, None), None)
        chosen = channel_binding.choose(newer.client, None, is_required=True)
        assert chosen is not None
        self.assertEqual(chosen[0], "tls-exporter")
