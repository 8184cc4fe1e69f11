"""The MQTT topics of ThingsBoard's gateway and device API (spec configuration-and-apis, sections 4 and 5)."""

from __future__ import annotations

CONNECT = "v1/gateway/connect"
DISCONNECT = "v1/gateway/disconnect"
TELEMETRY = "v1/gateway/telemetry"
ATTRIBUTES = "v1/gateway/attributes"
ATTRIBUTES_REQUEST = "v1/gateway/attributes/request"
ATTRIBUTES_RESPONSE = "v1/gateway/attributes/response"
RPC = "v1/gateway/rpc"
CLAIM = "v1/gateway/claim"

DEVICE_TELEMETRY = "v1/devices/me/telemetry"
DEVICE_ATTRIBUTES = "v1/devices/me/attributes"
DEVICE_ATTRIBUTES_REQUEST = "v1/devices/me/attributes/request/"
DEVICE_ATTRIBUTES_RESPONSE = "v1/devices/me/attributes/response/"
DEVICE_RPC_REQUEST = "v1/devices/me/rpc/request/"
DEVICE_RPC_RESPONSE = "v1/devices/me/rpc/response/"

DEVICE_CLAIM = "v1/devices/me/claim"

PROVISION_REQUEST = "/provision/request"
PROVISION_RESPONSE = "/provision/response"

FIRMWARE_RESPONSE = "v2/fw/response/"
SOFTWARE_RESPONSE = "v2/sw/response/"
FIRMWARE_ERROR = "v2/fw/error"
SOFTWARE_ERROR = "v2/sw/error"

PACKAGE_SUBSCRIPTIONS = (
    FIRMWARE_RESPONSE + "+/chunk/+",
    SOFTWARE_RESPONSE + "+/chunk/+",
    FIRMWARE_ERROR,
    SOFTWARE_ERROR,
)
"""What a device subscribes to that takes packages of firmware and software (spec thingsboard-mqtt, 5.3)."""

DEVICE_TELEMETRY_SHORT = "v2/t"
DEVICE_ATTRIBUTES_SHORT = "v2/a"

_SHORT = (
    (DEVICE_ATTRIBUTES_REQUEST, "v2/a/req/"),
    (DEVICE_ATTRIBUTES_RESPONSE, "v2/a/res/"),
    (DEVICE_RPC_REQUEST, "v2/r/req/"),
    (DEVICE_RPC_RESPONSE, "v2/r/res/"),
)

GATEWAY_SUBSCRIPTIONS = (
    ATTRIBUTES,
    ATTRIBUTES_RESPONSE,
    RPC,
    DEVICE_ATTRIBUTES,
    DEVICE_ATTRIBUTES_RESPONSE + "+",
    DEVICE_RPC_REQUEST + "+",
    DEVICE_RPC_RESPONSE + "+",
)
"""What a gateway subscribes to after every CONNACK, for its children and for itself."""


def request_id(topic: str, stem: str) -> int | None:
    """The number at the end of `topic`, if that is `stem` followed by a plain decimal number."""
    if not topic.startswith(stem):
        return None
    tail = topic[len(stem) :]
    return int(tail) if tail.isascii() and tail.isdigit() and len(tail) < 19 else None


def shortened(topic: str) -> str:
    """The short form of a device topic or filter, which has the same meaning; others as they are."""
    if topic == DEVICE_TELEMETRY:
        return DEVICE_TELEMETRY_SHORT
    if topic == DEVICE_ATTRIBUTES:
        return DEVICE_ATTRIBUTES_SHORT
    for long, short in _SHORT:
        if topic.startswith(long):
            return short + topic[len(long) :]
    return topic


def lengthened(topic: str) -> str:
    """The reverse of `shortened`, which also takes the forms that name JSON (`v2/r/req/j/7`)."""
    if topic in (DEVICE_TELEMETRY_SHORT, DEVICE_TELEMETRY_SHORT + "/j"):
        return DEVICE_TELEMETRY
    if topic in (DEVICE_ATTRIBUTES_SHORT, DEVICE_ATTRIBUTES_SHORT + "/j"):
        return DEVICE_ATTRIBUTES
    for long, short in _SHORT:
        if topic.startswith(short):
            return long + topic[len(short) :].removeprefix("j/")
    return topic


def package_chunk(request: str, kind: str, number: int, chunk: int) -> str:
    """Topic of a `request` or `response` for a piece of a package; `kind` is `fw` or `sw`."""
    return f"v2/{kind}/{request}/{number}/chunk/{chunk}"
