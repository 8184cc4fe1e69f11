# -*- test-case-name: tests.connectors.xmpp.test_sasl -*-
"""SASL, the client's side, without any I/O: which mechanism, and what it says.

A mechanism is used in this order: `initial()`, any number of `respond(challenge)`, `succeeded(data)` with what came
with the server's success. Each raises `SASLFailed` when the server breaks the rules; after that the login is over.

Order of preference (`choose`): a client certificate, if we have one; SCRAM with channel binding; SCRAM without; then
DIGEST-MD5, which does not show the password to the server; PLAIN, only inside TLS or when the configuration says so.

What guards against somebody in between who shortens the list: with SCRAM the flag `y` says "we could bind, you did not
offer it", and a server that did offer it refuses (RFC 5802, 6); `n` would be wrong then. The server has to prove that
it knows the password, too. The number of iterations is bounded in both ways: too few would make the password cheap to
guess for a server that is not ours, too many would stop the reactor.

Considered and dropped: SCRAM in a thread, since servers ask for 4,096 to 100,000 iterations, which take 2 to 50 ms;
SASL2 (XEP-0388), which Debian's servers do not have; GS2-KRB5 and OAUTHBEARER, which no device farm asked for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import stringprep
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

MIN_ITERATIONS = 4096
"""RFC 5802, 5.1 asks servers for no less."""
MAX_ITERATIONS = 500_000
"""A third of a second of computing; ten times what Debian's servers use by default."""
MAX_CHALLENGE_BYTES = 8192

_SCRAM_HASHES = (("SCRAM-SHA-512", "sha512"), ("SCRAM-SHA-256", "sha256"), ("SCRAM-SHA-1", "sha1"))
SCRAM_NAMES = tuple(name for name, _ in _SCRAM_HASHES)
ALL_NAMES = (
    *("EXTERNAL", *(f"{name}-PLUS" for name in SCRAM_NAMES), *SCRAM_NAMES),
    *("DIGEST-MD5", "PLAIN", "ANONYMOUS"),
)
"""Every mechanism that we know, best first."""


class SASLFailed(Exception):  # noqa: N818 - says what is
    """The server broke the rules of the mechanism, or could not prove that it knows us. Holds no secret."""


class NoMechanism(Exception):  # noqa: N818 - says what is
    """Nothing that the server offers may be used. The text says what it offers."""


class Mechanism(Protocol):
    """See the module."""

    name: str

    def initial(self) -> bytes | None:
        """What goes with the choice; None: nothing, the server speaks first."""

    def respond(self, challenge: bytes) -> bytes:
        """The answer to a challenge."""

    def succeeded(self, data: bytes | None) -> None:
        """The server says yes. Raises SASLFailed when it did not prove what the mechanism wants proven."""


@dataclass(frozen=True)
class Credentials:
    """Who we are."""

    username: str
    """Whose password it is; empty: anonymous."""
    password: str = field(default="", repr=False)
    authzid: str = ""
    """As whom we want to act, when that is another one: usually a bare JID."""
    domain: str = ""
    """The server's domain, for DIGEST-MD5."""
    has_certificate: bool = False
    """Whether TLS shows a client certificate."""


@dataclass(frozen=True)
class Circumstances:
    """What the connection and the configuration allow."""

    encrypted: bool
    allow_plain_unencrypted: bool = False
    allowed: Collection[str] = ALL_NAMES
    """Mechanisms that the configuration allows."""
    binding: tuple[str, bytes] | None = None
    """Name and data of the channel binding; None: there is none that both know."""
    can_bind: bool = False
    """Whether we could bind, had the server offered it: then a server that did learns of it by the flag `y`."""
    must_bind: bool = False
    """Whether a login without channel binding is out of the question."""


def choose(offered: Sequence[str], who: Credentials, around: Circumstances) -> Mechanism:
    """The best mechanism. Raises NoMechanism."""
    usable = [name for name in offered if name in around.allowed]
    if who.has_certificate and "EXTERNAL" in usable:
        return External(who.authzid)
    if who.username and who.password:
        found = _with_password(usable, offered, who, around)
        if found is not None:
            return found
    elif not who.username and "ANONYMOUS" in usable:
        return Anonymous()
    raise NoMechanism(_why_none(offered, who, around))


def _with_password(
    usable: Collection[str], offered: Collection[str], who: Credentials, around: Circumstances
) -> Mechanism | None:
    offers_plus = any(name.endswith("-PLUS") for name in offered)
    if around.binding is not None:
        for name, hash_name in _SCRAM_HASHES:
            if f"{name}-PLUS" in usable:
                return Scram(f"{name}-PLUS", hash_name, who, binding=around.binding)
    if around.must_bind:
        return None
    for name, hash_name in _SCRAM_HASHES:
        if name in usable:
            # A server that offers -PLUS, though of a kind that we do not know, would take `y` for an attack.
            return Scram(name, hash_name, who, could_bind=around.can_bind and not offers_plus)
    if "DIGEST-MD5" in usable:
        return DigestMD5(who)
    if "PLAIN" in usable and (around.encrypted or around.allow_plain_unencrypted):
        return Plain(who)
    return None


def _why_none(offered: Sequence[str], who: Credentials, around: Circumstances) -> str:
    names = ", ".join(name[:40] for name in offered[:20]) or "nothing"
    said = f"no way to log in that both allow; the server offers {names}"
    if not who.username:
        return f"{said}; a JID without a name before the @ logs in anonymously"
    if not who.password:
        return f"{said}; there is neither a password nor, with EXTERNAL offered, a client certificate"
    if around.must_bind:
        return f"{said}; channelBinding is require"
    if "PLAIN" in offered and not around.encrypted and "PLAIN" in around.allowed:
        return f"{said}; PLAIN would show the password to everybody on the way, because there is no TLS"
    return said


class Anonymous:
    """RFC 4505, without a trace."""

    name = "ANONYMOUS"

    def initial(self) -> bytes | None:
        return None

    def respond(self, challenge: bytes) -> bytes:
        return b""

    def succeeded(self, data: bytes | None) -> None:
        """Nothing is proven."""


class External:
    """RFC 4422, appendix A: TLS has shown our certificate. An empty answer asks for the identity that is in it."""

    name = "EXTERNAL"

    def __init__(self, authzid: str) -> None:
        self._authzid = authzid

    def initial(self) -> bytes | None:
        return self._authzid.encode()

    def respond(self, challenge: bytes) -> bytes:
        return self._authzid.encode()

    def succeeded(self, data: bytes | None) -> None:
        """The server was proven by its own certificate."""


class Plain:
    """RFC 4616."""

    name = "PLAIN"

    def __init__(self, who: Credentials) -> None:
        self._who = who

    def initial(self) -> bytes | None:
        who = self._who
        return b"\0".join(part.encode() for part in (who.authzid, saslprep(who.username), saslprep(who.password)))

    def respond(self, challenge: bytes) -> bytes:
        raise SASLFailed("the server asks back where PLAIN has nothing to ask")

    def succeeded(self, data: bytes | None) -> None:
        """Nothing is proven; that is why it needs TLS."""


_PARTS = re.compile(rb"([a-z]+)=([^,]*)(?:,|$)")


class Scram:
    """RFC 5802 and 7677, with SHA-1, SHA-256 or SHA-512, with or without channel binding."""

    def __init__(
        self,
        name: str,
        hash_name: str,
        who: Credentials,
        *,
        binding: tuple[str, bytes] | None = None,
        could_bind: bool = False,
        nonce: str = "",
    ) -> None:
        """`binding` for the -PLUS mechanisms; `could_bind` for the flag `y`; `nonce` is given by tests only."""
        self.name = name
        self._hash = hash_name
        self._password = saslprep(who.password).encode()
        flag = f"p={binding[0]}" if binding else "y" if could_bind else "n"
        self._gs2 = f"{flag},{f'a={_escaped(who.authzid)}' if who.authzid else ''},".encode()
        self._binding = binding[1] if binding else b""
        self._nonce = (nonce or base64.b64encode(secrets.token_bytes(24)).decode()).encode()
        self._first = b"n=%s,r=%s" % (_escaped(saslprep(who.username)).encode(), self._nonce)
        self._signature: bytes | None = None
        self._proven = False

    def initial(self) -> bytes | None:
        return self._gs2 + self._first

    def respond(self, challenge: bytes) -> bytes:
        if self._signature is not None:
            # A server may send its proof as a challenge, and then succeed without data (RFC 4422, 3.5).
            self._verify(challenge)
            return b""
        parts = _scram_parts(challenge)
        nonce, salt_text, count = parts.get(b"r", b""), parts.get(b"s", b""), parts.get(b"i", b"")
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise SASLFailed("the server's nonce does not go on from ours")
        try:
            salt = base64.b64decode(salt_text, validate=True)
        except binascii.Error:
            raise SASLFailed("the server's salt is not base64") from None
        if not salt or not re.fullmatch(rb"[1-9][0-9]{0,9}", count):
            raise SASLFailed("the server's first message lacks salt or iterations")
        iterations = int(count)
        if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise SASLFailed(
                f"the server asks for {iterations} iterations; allowed are {MIN_ITERATIONS} to {MAX_ITERATIONS}"
            )
        return self._final(challenge, nonce, salt, iterations)

    def _final(self, challenge: bytes, nonce: bytes, salt: bytes, iterations: int) -> bytes:
        salted = hashlib.pbkdf2_hmac(self._hash, self._password, salt, iterations)
        client_key = self._hmac(salted, b"Client Key")
        stored_key = hashlib.new(self._hash, client_key).digest()
        without_proof = b"c=%s,r=%s" % (base64.b64encode(self._gs2 + self._binding), nonce)
        said = b",".join((self._first, challenge, without_proof))
        signature = self._hmac(stored_key, said)
        proof = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
        self._signature = self._hmac(self._hmac(salted, b"Server Key"), said)
        return b"%s,p=%s" % (without_proof, base64.b64encode(proof))

    def _hmac(self, key: bytes, text: bytes) -> bytes:
        return hmac.digest(key, text, self._hash)

    def _verify(self, data: bytes) -> None:
        parts = _scram_parts(data)
        try:
            given = base64.b64decode(parts.get(b"v", b""), validate=True)
        except binascii.Error:
            given = b""
        if self._signature is None or not hmac.compare_digest(given, self._signature):
            raise SASLFailed("the server does not know our password: it is not ours, or somebody stands in between")
        self._proven = True

    def succeeded(self, data: bytes | None) -> None:
        if data:
            self._verify(data)
        if not self._proven:
            raise SASLFailed("the server did not prove that it knows our password")


def _scram_parts(message: bytes) -> dict[bytes, bytes]:
    parts: dict[bytes, bytes] = dict(_PARTS.findall(message))
    if b"e" in parts:
        raise SASLFailed(f"the server says {parts[b'e'][:80].decode('ascii', 'replace')}")
    if b"m" in parts:  # RFC 5802, 5.1: unknown mandatory extensions end the login
        raise SASLFailed("the server wants an extension that is not known here")
    return parts


def _escaped(name: str) -> str:
    return name.replace("=", "=3D").replace(",", "=2C")


_DIRECTIVE = re.compile(rb'\s*([a-zA-Z-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^",]*))\s*(?:,|$)')


class DigestMD5:
    """RFC 2831, for servers that have nothing better. The server's proof is verified here as well."""

    name = "DIGEST-MD5"

    def __init__(self, who: Credentials, cnonce: str = "") -> None:
        self._who = who
        self._cnonce = (cnonce or secrets.token_hex(16)).encode()
        self._expected = b""
        self._proven = False

    def initial(self) -> bytes | None:
        return None

    def respond(self, challenge: bytes) -> bytes:
        said = {
            name.lower(): re.sub(rb"\\(.)", rb"\1", quoted) if quoted else plain.strip()
            for name, quoted, plain in _DIRECTIVE.findall(challenge)
        }
        if self._expected:
            self._verify(said)
            return b""
        if b"nonce" not in said or said.get(b"algorithm", b"md5-sess").lower() != b"md5-sess":
            raise SASLFailed("the server's challenge has no nonce, or another algorithm than md5-sess")
        if b"auth" not in [word.strip() for word in said.get(b"qop", b"auth").split(b",")]:
            raise SASLFailed("the server wants DIGEST-MD5 to protect the stream, which is what TLS is for")
        who, realm = self._who, said.get(b"realm", self._who.domain.encode())
        username, password = who.username.encode(), who.password.encode()
        uri = f"xmpp/{who.domain}".encode()
        # MD5 is what RFC 2831 uses; nobody should build on it, which is why this stands near the end of the order.
        a1 = b":".join((_md5(b":".join((username, realm, password))), said[b"nonce"], self._cnonce))
        a1 += b":" + who.authzid.encode() if who.authzid else b""

        def value(a2: bytes) -> bytes:
            middle = b":".join((said[b"nonce"], b"00000001", self._cnonce, b"auth", _md5(a2).hex().encode()))
            return _md5(_md5(a1).hex().encode() + b":" + middle).hex().encode()

        self._expected = value(b":" + uri)
        words = {
            b"username": _quoted(username),
            b"realm": _quoted(realm),
            b"nonce": _quoted(said[b"nonce"]),
            b"cnonce": _quoted(self._cnonce),
            b"nc": b"00000001",
            b"qop": b"auth",
            b"digest-uri": _quoted(uri),
            b"response": value(b"AUTHENTICATE:" + uri),
            b"charset": b"utf-8",
        }
        if who.authzid:
            words[b"authzid"] = _quoted(who.authzid.encode())
        return b",".join(name + b"=" + word for name, word in words.items())

    def _verify(self, said: dict[bytes, bytes]) -> None:
        if not hmac.compare_digest(said.get(b"rspauth", b""), self._expected):
            raise SASLFailed("the server does not know our password: it is not ours, or somebody stands in between")
        self._proven = True

    def succeeded(self, data: bytes | None) -> None:
        if data:
            self.respond(data)
        if not self._proven:
            raise SASLFailed("the server did not prove that it knows our password")


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _quoted(text: bytes) -> bytes:
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


_PROHIBITED = (
    *(stringprep.in_table_c12, stringprep.in_table_c21, stringprep.in_table_c22, stringprep.in_table_c3),
    *(stringprep.in_table_c4, stringprep.in_table_c5, stringprep.in_table_c6, stringprep.in_table_c7),
    *(stringprep.in_table_c8, stringprep.in_table_c9),
)


def saslprep(text: str) -> str:
    """
    RFC 4013, as for a query: the same password typed on two keyboards becomes the same text. Raises ValueError, without
    the text, when it holds what no password may hold.
    """
    if text.isascii() and text.isprintable():
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in text if not stringprep.in_table_b1(char)
    )
    normal = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(table(char) for char in normal for table in _PROHIBITED):
        raise ValueError("holds a character that SASLprep (RFC 4013) prohibits")
    if any(map(stringprep.in_table_d1, normal)) and (
        any(map(stringprep.in_table_d2, normal))
        or not (stringprep.in_table_d1(normal[0]) and stringprep.in_table_d1(normal[-1]))
    ):
        raise ValueError("mixes directions of writing in a way that SASLprep (RFC 4013) prohibits")
    return normal
