# -*- test-case-name: tests.connectors.ocpp.test_passwords -*-
"""Salted hashes of charge points' passwords, in the words that `tbgw hash` prints. Pure; `matches` takes its time.

    $scrypt$ln=14,r=8,p=1$<salt, base64>$<hash, base64>

The form is the one of the PHC (as passlib writes it). A password is bytes: an AuthorizationKey of OCPP 1.6 is 20 of
them, which need not be UTF-8. The cost is bounded on reading, so that a line of the configuration cannot take the
memory of the machine.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from dataclasses import dataclass

DEFAULT_LOG2_N = 14
"""16 MiB and some 50 ms. For random keys of 16 bytes and more `--log2n 10` is plenty: nobody guesses those."""
MAX_LOG2_N = 17
MAX_BYTES = 256 * 1024 * 1024
SALT_BYTES = 16
HASH_BYTES = 32

_FORM = re.compile(
    r"\$scrypt\$ln=(?P<ln>\d{1,2}),r=(?P<r>\d{1,2}),p=(?P<p>\d{1,2})"
    r"\$(?P<salt>[A-Za-z0-9+/]{6,128}={0,2})\$(?P<hash>[A-Za-z0-9+/]{22,128}={0,2})"
)


class HashInvalid(ValueError):  # noqa: N818 - says what is
    """A text is no hash that can be used; says why, and does not repeat it."""


@dataclass(frozen=True, slots=True, repr=False)
class PasswordHash:
    """One hash with its salt and cost."""

    log2_n: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    def __repr__(self) -> str:
        return "PasswordHash(...)"

    def __str__(self) -> str:
        salt, digest = _base64(self.salt), _base64(self.digest)
        return f"$scrypt$ln={self.log2_n},r={self.r},p={self.p}${salt}${digest}"

    def matches(self, password: bytes) -> bool:
        """Whether it is the hash of this password. Takes as long as the hash is dear; for a thread."""
        made = _scrypt(password, self.salt, self.log2_n, self.r, self.p, len(self.digest))
        return hmac.compare_digest(made, self.digest)


def hash_password(password: bytes, log2_n: int = DEFAULT_LOG2_N, salt: bytes | None = None) -> PasswordHash:
    """A new hash. Takes as long as checking it does. Raises HashInvalid for a cost out of bounds."""
    _check_cost(log2_n, 8, 1)
    salt = os.urandom(SALT_BYTES) if salt is None else salt
    return PasswordHash(log2_n, 8, 1, salt, _scrypt(password, salt, log2_n, 8, 1, HASH_BYTES))


def parse_hash(text: str) -> PasswordHash:
    """Read what `tbgw hash` printed. Raises HashInvalid."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise HashInvalid("is no hash of the form $scrypt$ln=14,r=8,p=1$salt$hash; `tbgw hash` makes one")
    log2_n, r, p = int(match["ln"]), int(match["r"]), int(match["p"])
    _check_cost(log2_n, r, p)
    try:
        salt, digest = _bytes(match["salt"]), _bytes(match["hash"])
    except (binascii.Error, ValueError):
        raise HashInvalid("has a salt or a hash that is no base64") from None
    return PasswordHash(log2_n, r, p, salt, digest)


def _check_cost(log2_n: int, r: int, p: int) -> None:
    if not (4 <= log2_n <= MAX_LOG2_N and 1 <= r <= 32 and 1 <= p <= 16 and 128 * r * p << log2_n <= MAX_BYTES):
        raise HashInvalid(f"has a cost out of bounds: ln from 4 to {MAX_LOG2_N}, {MAX_BYTES >> 20} MiB in all")


def _scrypt(password: bytes, salt: bytes, log2_n: int, r: int, p: int, length: int) -> bytes:
    needed = 128 * r * ((1 << log2_n) + p + 2)
    return hashlib.scrypt(password, salt=salt, n=1 << log2_n, r=r, p=p, maxmem=needed + 1024 * 1024, dklen=length)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii").rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)
