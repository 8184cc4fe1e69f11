"""Device profiles, as far as MQTT knows of them: own topics, the kind acknowledgement, provisioning (spec, 2.1, 5.2).

Pure. A profile that nobody described has none of this, and is only a name.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from tbgw.sandbox.credentials import certificate_text

DISABLED = "DISABLED"
ALLOW_CREATE = "ALLOW_CREATE_NEW_DEVICES"
CHECK_PRE_PROVISIONED = "CHECK_PRE_PROVISIONED_DEVICES"
CERTIFICATE_CHAIN = "X509_CERTIFICATE_CHAIN"
STRATEGIES = (DISABLED, ALLOW_CREATE, CHECK_PRE_PROVISIONED, CERTIFICATE_CHAIN)

MAX_TEXT_CHARS = 255
MAX_CERTIFICATE_CHARS = 16_384


@dataclass(frozen=True)
class DeviceProfile:
    """One profile. Raises ValueError for what cannot be one."""

    name: str
    telemetry_filter: str = ""
    """Topic filter of telemetry; where there is one, `v1/devices/me/telemetry` is an unknown topic."""
    attributes_filter: str = ""
    """The same of client attributes."""
    shared_attributes_filter: str = ""
    """A further filter that may be subscribed for changes of shared attributes."""
    acknowledge_bad_payloads: bool = False
    """"Send PUBACK on validation exception"."""
    strategy: str = DISABLED
    """Of provisioning."""
    key: str = ""
    secret: str = field(default="", repr=False)
    certificate: str = ""
    """Of the authority whose certificates are taken, with the strategy `CERTIFICATE_CHAIN`; PEM, or its base64 text."""
    name_pattern: str = "(.*)"
    """Regular expression that matches the whole common name; its first group, or else all of it, names the device."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not isinstance(value, bool if one.name == "acknowledge_bad_payloads" else str):
                raise ValueError(f"{one.name} is {'true or false' if isinstance(one.default, bool) else 'text'}")
            most = MAX_CERTIFICATE_CHARS if one.name == "certificate" else MAX_TEXT_CHARS
            if isinstance(value, str) and len(value) > most:
                raise ValueError(f"{one.name} has {most} characters at most")
        if not self.name.strip():
            raise ValueError("a profile has a name")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is one of {', '.join(STRATEGIES)}")
        if self.strategy == CERTIFICATE_CHAIN:
            if not self.certificate:
                raise ValueError("the strategy needs the authority's certificate")
        elif self.strategy != DISABLED and not (self.key and self.secret):
            raise ValueError("provisioning needs a key and a secret")
        try:
            re.compile(self.name_pattern)
        except re.error as error:
            raise ValueError(f"name_pattern: {error}") from None
        for topic_filter in (self.telemetry_filter, self.attributes_filter, self.shared_attributes_filter):
            levels = topic_filter.split("/")
            if any(("#" in level or "+" in level) and len(level) > 1 for level in levels) or "#" in levels[:-1]:
                raise ValueError(f"{topic_filter!r} is no topic filter")

    def name_of(self, common_name: str) -> str | None:
        """The device that a certificate's common name stands for; None for no device of this profile."""
        match = re.fullmatch(self.name_pattern, common_name)
        if match is None:
            return None
        return match[1] if match.re.groups else match[0]


def topic_matches(topic_filter: str, topic: str) -> bool:
    """Whether `topic` is meant by a profile's filter: `+` is one level, `#` all that follow (8.2, 27)."""
    wanted, given = topic_filter.split("/"), topic.split("/")
    for number, level in enumerate(wanted):
        if level == "#":
            return True
        if number >= len(given) or level not in ("+", given[number]):
            return False
    return len(wanted) == len(given)


def as_bytes(profile: DeviceProfile) -> bytes:
    """For the store."""
    return json.dumps(asdict(profile)).encode()


def from_json(value: Any) -> DeviceProfile:
    """From JSON, as it is stored and as an operator gives it. Raises ValueError."""
    names = {one.name for one in fields(DeviceProfile)}
    if not isinstance(value, dict) or not set(value) <= names or "name" not in value:
        raise ValueError(f"a profile has a name and some of {', '.join(sorted(names))}")
    if isinstance(value.get("certificate"), str):
        value = {**value, "certificate": certificate_text(value["certificate"])}
    return DeviceProfile(**value)
