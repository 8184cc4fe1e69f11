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

DEVICE_TELEMETRY_SHORT = "v2/t"
DEVICE_ATTRIBUTES_SHORT = "v2/a"

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
