"""Topic names and topic filters (MQTT 3.1.1 and 5, section 4.7).

Pure functions. A `..._fault` function answers with what is wrong, in the standard's words, or None: the caller knows
whose fault it is and raises accordingly.
"""

from __future__ import annotations

MAX_STRING_BYTES = 65535
"""A string on the wire has a two-byte length [MQTT-4.7.3-3]."""

SHARE_PREFIX = "$share/"
"""A topic filter of MQTT 5 that begins so is a shared subscription: `$share/GROUP/FILTER` (section 4.8.2)."""


def string_fault(text: str) -> str | None:
    """Whether the text may travel as a UTF-8 string: no U+0000, no surrogates, at most 65535 bytes."""
    if "\0" in text:
        return "U+0000 in a UTF-8 string [MQTT-1.5.3-2]"
    if len(text) > MAX_STRING_BYTES // 4 or not text.isascii():
        try:
            size_bytes = len(text.encode())
        except UnicodeEncodeError:
            return "surrogate in a UTF-8 string [MQTT-1.5.3-1]"
        if size_bytes > MAX_STRING_BYTES:
            return f"UTF-8 string of {size_bytes} bytes, {MAX_STRING_BYTES} is the most [MQTT-4.7.3-3]"
    return None


def topic_name_fault(topic: str) -> str | None:
    """What forbids this as the topic of a PUBLISH, or None. Whether it may travel at all: `string_fault`."""
    if not topic:
        return "empty topic name [MQTT-4.7.3-1]"
    if "+" in topic or "#" in topic:
        return "wildcard in a topic name [MQTT-3.3.2-2]"
    return None


def topic_filter_fault(topic_filter: str, *, shared: bool = False) -> str | None:
    """
    What forbids this as a topic filter, or None. Whether it may travel at all: `string_fault`. `shared`: judge what
    begins with `$share/` as a shared subscription, as MQTT 5 does.
    """
    if not topic_filter:
        return "empty topic filter [MQTT-4.7.3-1]"
    if shared and topic_filter.startswith(SHARE_PREFIX):
        group, _, topic_filter = topic_filter[len(SHARE_PREFIX) :].partition("/")
        if not group or "+" in group or "#" in group:
            return "share name that is empty or has a wildcard [MQTT-4.8.2-1]"
        if not topic_filter:
            return "shared subscription without a topic filter [MQTT-4.8.2-2]"
    if "#" not in topic_filter and "+" not in topic_filter:
        return None
    levels = topic_filter.split("/")
    for level in levels[:-1]:
        if "#" in level:
            return "multi-level wildcard that is not the last level [MQTT-4.7.1-2]"
    if "#" in levels[-1] and levels[-1] != "#":
        return "multi-level wildcard that is not a whole level [MQTT-4.7.1-2]"
    for level in levels:
        if "+" in level and level != "+":
            return "single-level wildcard that is not a whole level [MQTT-4.7.1-3]"
    return None


def split_shared(topic_filter: str) -> tuple[str | None, str]:
    """The share name of a faultless filter, None where it is not shared, and the filter proper."""
    if not topic_filter.startswith(SHARE_PREFIX):
        return None, topic_filter
    group, _, proper = topic_filter[len(SHARE_PREFIX) :].partition("/")
    return group, proper


def matches(topic_filter: str, topic: str) -> bool:
    """
    Whether a message on `topic` belongs to a subscription with `topic_filter`. Both must be faultless. Topics that
    begin with `$` are not matched by a wildcard at the first level [MQTT-4.7.2-1].
    """
    if "#" not in topic_filter and "+" not in topic_filter:
        return topic_filter == topic
    if topic[0] == "$" and topic_filter[0] in "#+":
        return False
    wanted = topic_filter.split("/")
    levels = topic.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        # "sport/#" also matches "sport" itself (4.7.1.2)
        if len(levels) < len(wanted):
            return False
        levels = levels[: len(wanted)]
    return len(wanted) == len(levels) and all(want in ("+", level) for want, level in zip(wanted, levels, strict=True))
