"""Checksums against published vectors, and in pieces of any size."""

from __future__ import annotations

import hashlib
import zlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.uplink.checksums import CHECKSUMS

FOX = b"The quick brown fox jumps over the lazy dog"


def digest(name: str, *pieces: bytes) -> str:
    checksum = CHECKSUMS[name]()
    for piece in pieces:
        checksum.update(piece)
    return checksum.hexdigest()


class ChecksumTests(SynchronousTestCase):
    """Every algorithm of ThingsBoard's."""

    def test_vectors(self) -> None:
        """Published values of MurmurHash3 and CRC32, turned to the byte order that ThingsBoard shows."""
        for name, data, number in (
            ("MURMUR3_32", b"", "00000000"),
            ("MURMUR3_32", b"test", "ba6bd213"),
            ("MURMUR3_32", b"Hello, world!", "c0363e43"),
            ("MURMUR3_32", FOX, "2e4ff723"),
            ("CRC32", b"123456789", "cbf43926"),
        ):
            self.assertEqual(digest(name, data), bytes.fromhex(number)[::-1].hex())
        self.assertEqual(digest("MURMUR3_128", b""), "0" * 32)
        two_words = (0xE34BBC7BBC071B6C, 0x7A433CA9C49A9347)
        self.assertEqual(digest("MURMUR3_128", FOX), b"".join(word.to_bytes(8, "little") for word in two_words).hex())

    def test_standard(self) -> None:
        """The others are the standard library's."""
        for name in ("MD5", "SHA256", "SHA384", "SHA512"):
            self.assertEqual(digest(name, FOX), hashlib.new(name.lower(), FOX).hexdigest())

    @given(st.lists(st.binary(max_size=40), max_size=8))
    def test_pieces(self, pieces: list[bytes]) -> None:
        """However the data is cut, the checksum is that of the whole."""
        whole = b"".join(pieces)
        for name in CHECKSUMS:
            self.assertEqual(digest(name, *pieces), digest(name, whole))
        self.assertEqual(digest("CRC32", *pieces), zlib.crc32(whole).to_bytes(4, "little").hex())
