# -*- test-case-name: tests.connectors.ocpp.test_authorization -*-
"""Whether an idTag may charge, and how that is said in each version. Pure.

Tags are compared without regard to case in every version: 1.6 says so, and 2.x calls them identifiers without case too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tbgw.connectors.ocpp.policy import STATUSES, Authorization, Tag
from tbgw.connectors.ocpp.timestamps import format_timestamp, parse_timestamp
from tbgw.model import Value

MAX_SHARED_TAGS = 10_000
"""Tags that one shared attribute may hold; ThingsBoard's limit of a message comes first."""
MAX_TAG_CHARACTERS = 255
"""Longest idToken of any version (2.1); 1.6 has 20, 2.0.1 has 36."""

_STATUSES_16 = frozenset({"Accepted", "Blocked", "ConcurrentTx", "Expired", "Invalid"})
_ACCEPTED = Tag()


def decide(policy: Authorization, shared: Mapping[str, Tag], id_tag: str, now_ms: int) -> Tag:
    """What is answered about a tag; `shared`: the tags of the shared attribute, which come first."""
    if policy.mode == "acceptAll":
        return _ACCEPTED
    key = id_tag.strip().lower()
    listed = shared.get(key) or (policy.tags or {}).get(key)
    if policy.mode == "denyAll":
        return Tag(status="Invalid")
    if listed is None:
        return Tag(status=policy.default)
    if listed.expiry_ms is not None and listed.expiry_ms <= now_ms and listed.status == "Accepted":
        return Tag(status="Expired", parent=listed.parent, expiry_ms=listed.expiry_ms)
    return listed


def id_tag_info(tag: Tag) -> dict[str, Any]:
    """`idTagInfo` of 1.6."""
    info: dict[str, Any] = {"status": tag.status if tag.status in _STATUSES_16 else "Invalid"}
    if tag.expiry_ms is not None:
        info["expiryDate"] = format_timestamp(tag.expiry_ms)
    if tag.parent is not None:
        info["parentIdTag"] = tag.parent[:20]
    return info


def id_token_info(tag: Tag) -> dict[str, Any]:
    """`idTokenInfo` of 2.x."""
    info: dict[str, Any] = {"status": tag.status}
    if tag.expiry_ms is not None:
        info["cacheExpiryDateTime"] = format_timestamp(tag.expiry_ms)
    if tag.parent is not None:
        info["groupIdToken"] = {"idToken": tag.parent[:36], "type": "Central"}
    return info


def tags_of(value: Value) -> dict[str, Tag] | None:
    """
    The tags of a shared attribute: a list of those accepted, or an object of tag to status or to
    `{"status", "parentIdTag", "expiryDate"}`; as JSON or as a text of JSON. None for what is none of these. What
    cannot be understood of a single tag makes that tag Invalid: nobody charges by a slip.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, list):
        return {one.strip().lower(): _ACCEPTED for one in value[:MAX_SHARED_TAGS] if isinstance(one, str)}
    if not isinstance(value, dict):
        return None
    return {
        str(name).strip().lower(): _tag_of(given) for name, given in list(value.items())[:MAX_SHARED_TAGS]
    }


def _tag_of(given: Any) -> Tag:
    if isinstance(given, str) and given in STATUSES:
        return Tag(status=given)
    if not isinstance(given, dict):
        return Tag(status="Invalid")
    status, parent, expiry = given.get("status", "Accepted"), given.get("parentIdTag"), given.get("expiryDate")
    expiry_ms = parse_timestamp(expiry)
    if status not in STATUSES or (expiry is not None and expiry_ms is None):
        return Tag(status="Invalid")
    return Tag(status=status, parent=parent if isinstance(parent, str) and parent else None, expiry_ms=expiry_ms)
