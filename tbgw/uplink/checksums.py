# -*- test-case-name: tests.uplink.test_checksums -*-
"""The checksums of ThingsBoard's packages, piece by piece, as the hex text that ThingsBoard shows. Pure.

ThingsBoard computes them with Guava, whose CRC32 and MurmurHash3 texts are their bytes from the lowest to the highest
(spec thingsboard-mqtt, 5.3). The two MurmurHashes are written here, since the standard library has none: they do 9 and
18 MiB/s where SHA256, ThingsBoard's default, does more than 1000.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Protocol


class Checksum(Protocol):
    """One checksum being made."""

    def update(self, data: bytes) -> None:
        """Add the next piece."""

    def hexdigest(self) -> str:
        """The text, in lower case."""


class _CRC32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return self._value.to_bytes(4, "little").hex()


_M32 = 0xFFFFFFFF
_M64 = 0xFFFFFFFFFFFFFFFF


class _Murmur32:
    """MurmurHash3_x86_32 with seed 0 (Appleby's reference, public domain)."""

    def __init__(self) -> None:
        self._h = 0
        self._length = 0
        self._tail = b""

    def update(self, data: bytes) -> None:
        self._length += len(data)
        data = self._tail + data
        whole = len(data) & ~3
        self._tail = data[whole:]
        h = self._h
        for k in struct.unpack(f"<{whole // 4}I", data[:whole]):
            k = k * 0xCC9E2D51 & _M32
            k = (k << 15 | k >> 17) & _M32
            h ^= k * 0x1B873593 & _M32
            h = (h << 13 | h >> 19) & _M32
            h = h * 5 + 0xE6546B64 & _M32
        self._h = h

    def hexdigest(self) -> str:
        h = self._h
        if self._tail:
            k = int.from_bytes(self._tail, "little") * 0xCC9E2D51 & _M32
            k = (k << 15 | k >> 17) & _M32
            h ^= k * 0x1B873593 & _M32
        h ^= self._length & _M32
        h = (h ^ h >> 16) * 0x85EBCA6B & _M32
        h = (h ^ h >> 13) * 0xC2B2AE35 & _M32
        return (h ^ h >> 16).to_bytes(4, "little").hex()


_C1 = 0x87C37B91114253D5
_C2 = 0x4CF5AD432745937F


def _mix64(k: int) -> int:
    k = (k ^ k >> 33) * 0xFF51AFD7ED558CCD & _M64
    k = (k ^ k >> 33) * 0xC4CEB9FE1A85EC53 & _M64
    return k ^ k >> 33


class _Murmur128:
    """MurmurHash3_x64_128 with seed 0 (Appleby's reference, public domain)."""

    def __init__(self) -> None:
        self._h = (0, 0)
        self._length = 0
        self._tail = b""

    def update(self, data: bytes) -> None:
        self._length += len(data)
        data = self._tail + data
        whole = len(data) & ~15
        self._tail = data[whole:]
        h1, h2 = self._h
        words = struct.unpack(f"<{whole // 8}Q", data[:whole])
        for k1, k2 in zip(words[::2], words[1::2], strict=True):
            k1 = k1 * _C1 & _M64
            h1 ^= (k1 << 31 | k1 >> 33) * _C2 & _M64
            h1 = ((h1 << 27 | h1 >> 37) + h2) * 5 + 0x52DCE729 & _M64
            k2 = k2 * _C2 & _M64
            h2 ^= (k2 << 33 | k2 >> 31) * _C1 & _M64
            h2 = ((h2 << 31 | h2 >> 33) + h1) * 5 + 0x38495AB5 & _M64
        self._h = h1, h2

    def hexdigest(self) -> str:
        h1, h2 = self._h
        tail = self._tail
        if len(tail) > 8:
            k2 = int.from_bytes(tail[8:], "little") * _C2 & _M64
            h2 ^= ((k2 << 33 | k2 >> 31) & _M64) * _C1 & _M64
        if tail:
            k1 = int.from_bytes(tail[:8], "little") * _C1 & _M64
            h1 ^= ((k1 << 31 | k1 >> 33) & _M64) * _C2 & _M64
        h1 ^= self._length
        h2 ^= self._length
        h1 = h1 + h2 & _M64
        h2 = h2 + h1 & _M64
        h1, h2 = _mix64(h1), _mix64(h2)
        h1 = h1 + h2 & _M64
        h2 = h2 + h1 & _M64
        return (h1.to_bytes(8, "little") + h2.to_bytes(8, "little")).hex()


CHECKSUMS: Mapping[str, Callable[[], Checksum]] = {
    "MD5": lambda: hashlib.md5(usedforsecurity=False),
    "SHA256": hashlib.sha256,
    "SHA384": hashlib.sha384,
    "SHA512": hashlib.sha512,
    "CRC32": _CRC32,
    "MURMUR3_32": _Murmur32,
    "MURMUR3_128": _Murmur128,
}
"""By the names that ThingsBoard gives them in `fw_checksum_algorithm`."""
