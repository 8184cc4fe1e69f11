"""Firmware and software packages, and their chunks (spec thingsboard-mqtt, 5.3). Pure.

A package is kept in memory and, with a database, in it: a sandbox has few, and they are bounded.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

KINDS = {"fw": "FIRMWARE", "sw": "SOFTWARE"}
"""The kinds of package by the prefix of their attributes and topics."""

MAX_PACKAGE_BYTES = 16 * 1024 * 1024
MAX_PACKAGES = 20
MAX_CHUNK_BYTES = 65536
"""A larger chunk is refused with PAYLOAD_TOO_LARGE."""


def murmur3_32(data: bytes, seed: int = 0) -> int:
    """MurmurHash3, x86, 32 bits (Austin Appleby, public domain)."""
    h, length = seed, len(data)
    for start in range(0, length - 3, 4):
        k = int.from_bytes(data[start : start + 4], "little") * 0xCC9E2D51 & 0xFFFFFFFF
        k = (k << 15 | k >> 17) * 0x1B873593 & 0xFFFFFFFF
        h ^= k
        h = ((h << 13 | h >> 19) * 5 + 0xE6546B64) & 0xFFFFFFFF
    tail = data[length & ~3 :]
    if tail:
        k = int.from_bytes(tail, "little") * 0xCC9E2D51 & 0xFFFFFFFF
        h ^= (k << 15 | k >> 17) * 0x1B873593 & 0xFFFFFFFF
    h ^= length
    h = (h ^ h >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return h ^ h >> 16


_M64 = 0xFFFFFFFFFFFFFFFF


def _rotl64(value: int, bits: int) -> int:
    return (value << bits | value >> 64 - bits) & _M64


def _fmix64(k: int) -> int:
    k = (k ^ k >> 33) * 0xFF51AFD7ED558CCD & _M64
    k = (k ^ k >> 33) * 0xC4CEB9FE1A85EC53 & _M64
    return k ^ k >> 33


def murmur3_128(data: bytes, seed: int = 0) -> int:
    """MurmurHash3, x64, 128 bits, as one number of which the first 64-bit word is the lower half."""
    h1 = h2 = seed
    c1, c2 = 0x87C37B91114253D5, 0x4CF5AD432745937F
    length = len(data)
    for start in range(0, length - 15, 16):
        k1 = int.from_bytes(data[start : start + 8], "little")
        k2 = int.from_bytes(data[start + 8 : start + 16], "little")
        h1 ^= _rotl64(k1 * c1 & _M64, 31) * c2 & _M64
        h1 = ((_rotl64(h1, 27) + h2) * 5 + 0x52DCE729) & _M64
        h2 ^= _rotl64(k2 * c2 & _M64, 33) * c1 & _M64
        h2 = ((_rotl64(h2, 31) + h1) * 5 + 0x38495AB5) & _M64
    tail = data[length & ~15 :]
    if len(tail) > 8:
        h2 ^= _rotl64(int.from_bytes(tail[8:], "little") * c2 & _M64, 33) * c1 & _M64
    if tail:
        h1 ^= _rotl64(int.from_bytes(tail[:8], "little") * c1 & _M64, 31) * c2 & _M64
    h1 ^= length
    h2 ^= length
    h1 = (h1 + h2) & _M64
    h2 = (h2 + h1) & _M64
    h1, h2 = _fmix64(h1), _fmix64(h2)
    h1 = (h1 + h2) & _M64
    h2 = (h2 + h1) & _M64
    return h2 << 64 | h1


def _little_endian_hex(number: int, size_bytes: int) -> str:
    return number.to_bytes(size_bytes, "little").hex()


CHECKSUMS: Mapping[str, Callable[[bytes], str]] = {
    "MD5": lambda data: hashlib.md5(data).hexdigest(),  # noqa: S324 - one of ThingsBoard's algorithms
    "SHA256": lambda data: hashlib.sha256(data).hexdigest(),
    "SHA384": lambda data: hashlib.sha384(data).hexdigest(),
    "SHA512": lambda data: hashlib.sha512(data).hexdigest(),
    "CRC32": lambda data: _little_endian_hex(zlib.crc32(data), 4),
    "MURMUR3_32": lambda data: _little_endian_hex(murmur3_32(data), 4),
    "MURMUR3_128": lambda data: _little_endian_hex(murmur3_128(data), 16),
}
"""ThingsBoard's algorithms; the last three as hex of the little-endian number, as Guava writes them."""


class Package(NamedTuple):
    """One firmware or software package."""

    kind: str
    """`fw` or `sw`."""
    title: str
    version: str
    tag: str
    data: bytes
    algorithm: str
    checksum: str
    url: str = ""
    """Where an external package is; there is no data then."""

    @property
    def name(self) -> str:
        """By which it is kept."""
        return json.dumps([self.kind, self.title, self.version])

    def attributes(self) -> dict[str, Any]:
        """The shared attributes that announce it."""
        found: dict[str, Any] = {"title": self.title, "version": self.version}
        if self.tag:
            found["tag"] = self.tag
        if self.url:
            found["url"] = self.url
        else:
            found |= {
                "size": len(self.data),
                "checksum_algorithm": self.algorithm,
                "checksum": self.checksum,
            }
        return {f"{self.kind}_{key}": value for key, value in found.items()}


ATTRIBUTES = ("title", "version", "tag", "size", "checksum_algorithm", "checksum", "url")
"""Every attribute of a package, without prefix."""


def make_package(
    kind: str,
    title: str,
    version: str,
    data: bytes,
    *,
    tag: str = "",
    algorithm: str = "SHA256",
    checksum: str | None = None,
    url: str = "",
) -> Package:
    """A package; `checksum` may be a wrong one, to try a client. Raises ValueError."""
    if kind not in KINDS:
        raise ValueError("kind is fw or sw")
    if not title.strip() or not version.strip() or len(title) > 255 or len(version) > 255:
        raise ValueError("a package has a title and a version")
    if algorithm not in CHECKSUMS:
        raise ValueError(f"the checksum algorithm is one of {', '.join(CHECKSUMS)}")
    if len(data) > MAX_PACKAGE_BYTES:
        raise ValueError(f"a package has {MAX_PACKAGE_BYTES} bytes at most")
    if bool(data) == bool(url):
        raise ValueError("a package has either data or a URL")
    return Package(kind, title, version, tag, data, algorithm, checksum or CHECKSUMS[algorithm](data), url)


def as_bytes(package: Package) -> bytes:
    """For the store: one line of JSON, then the data."""
    return json.dumps({**package._asdict(), "data": None}).encode() + b"\n" + package.data


def from_bytes(content: bytes) -> Package:
    """The reverse. Raises ValueError."""
    head, _, data = content.partition(b"\n")
    try:
        return Package(**{**json.loads(head), "data": data})
    except TypeError as error:
        raise ValueError(str(error)) from None
