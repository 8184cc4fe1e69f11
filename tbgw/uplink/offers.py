# -*- test-case-name: tests.uplink.test_offers -*-
"""What ThingsBoard offers in its `fw_` and `sw_` shared attributes (spec thingsboard-mqtt, 5.3). Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tbgw.model import Value
from tbgw.uplink.checksums import CHECKSUMS

KEYS = ("title", "version", "tag", "size", "checksum", "checksum_algorithm", "url")
"""What an offer is made of, each behind `fw_` or `sw_`."""

MAX_TEXT = 255
"""Longest title and version, as in ThingsBoard."""


class OfferFault(Exception):  # noqa: N818 - says what is
    """The offer cannot be taken up; the text goes back to ThingsBoard as `fw_error`."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One package."""

    title: str
    version: str
    size_bytes: int
    algorithm: str
    """One of `CHECKSUMS`."""
    checksum: str
    """As hex, in lower case."""

    @property
    def identity(self) -> str:
        """The same for the same package only."""
        parts = (self.title, self.version, str(self.size_bytes), self.algorithm, self.checksum)
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def keys_of(kind: str) -> list[str]:
    """The attributes that make an offer; `kind` is `fw` or `sw`."""
    return [f"{kind}_{key}" for key in KEYS]


def parse_offer(kind: str, attributes: Mapping[str, Value]) -> Offer | None:
    """The offer in these attributes; None when there is none. Raises OfferFault when it cannot be taken up."""
    found: dict[str, Any] = {key: attributes.get(f"{kind}_{key}") for key in KEYS}
    title, version = (_text(found[key]) for key in ("title", "version"))
    if title is None or version is None:
        return None
    for name, text in (("title", title), ("version", version)):
        if len(text) > MAX_TEXT or not text.isprintable():
            raise OfferFault(f"the {name} is longer than {MAX_TEXT} characters or has some that cannot be printed")
    if found["url"] and found["size"] is None:
        raise OfferFault("packages that lie at a URL are not fetched: upload the file itself to ThingsBoard")
    size = found["size"]
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise OfferFault("the size is missing or is no number of bytes")
    algorithm, checksum = _text(found["checksum_algorithm"]), _text(found["checksum"])
    if algorithm is None or checksum is None:
        raise OfferFault("the checksum or its algorithm is missing: an unchecked package is never used")
    algorithm = algorithm.upper().replace("-", "")
    if algorithm not in CHECKSUMS:
        raise OfferFault(f"the checksum's algorithm is not one of {', '.join(CHECKSUMS)}")
    return Offer(title, version, size, algorithm, checksum.lower())


def _text(value: Value) -> str | None:
    """Texts; and numbers, since ThingsBoard may have made one of a version such as `1.0` (spec, 2.3)."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None
