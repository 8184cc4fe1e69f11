"""What becomes of a packet, apart from how it is said: ThingsBoard's error matrices as tables. Pure.

The platform answers a PUBLISH with a `Verdict` and a CONNECT, if it refuses, with a `Refusal`; the tables here say what
that means on the wire in MQTT 3.1.1 and in MQTT 5 (spec thingsboard-mqtt, 1.2, 2.7 and 3.9, version 4.2.1.1).
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

MQTT_5 = 5


class Verdict(Enum):
    """What the platform made of a PUBLISH."""

    ACCEPTED = "accepted"
    SILENT = "silent"
    """Never acknowledged, and nothing else happens either."""
    UNKNOWN_TOPIC = "unknown_topic"
    BAD_PAYLOAD = "bad_payload"
    """The payload is not JSON, or not of the shape that the device topic wants."""
    FAULT = "fault"
    """A device payload that trips the server up, such as `"ts": null`."""
    GATEWAY_FAULT = "gateway_fault"
    """A gateway message of the wrong shape, or with nothing usable in it."""
    GATEWAY_BAD_ELEMENT = "gateway_bad_element"
    """One device's part was bad; the other parts were stored."""
    QUOTA = "quota"
    """A device could not be created because there are too many."""
    NOT_CREATED = "not_created"
    """A device could not be created for another reason, e.g. its name."""
    LIMITED = "limited"
    """A device went over a rate limit."""
    GATEWAY_LIMITED = "gateway_limited"
    """The children of a gateway went over a rate limit."""
    NOT_PROVISIONING = "not_provisioning"
    """Another topic than `/provision/request` in a session that has no other."""
    OTA_ERROR = "ota_error"
    """A chunk that cannot be had: the error is told on `v2/fw/error` instead of a PUBACK."""


class Action(NamedTuple):
    """What goes out on the wire."""

    puback: int | None
    """Reason code of the PUBACK (left out on MQTT 3.1.1); None for no PUBACK."""
    disconnect: int | None
    """Reason code with which the connection is closed (no packet on MQTT 3.1.1, only the close); None to stay."""


_STAY_SILENT = Action(None, None)

# Verdict: on MQTT 5 at QoS 1, on MQTT 5 at QoS 0, on MQTT 3.1.1 at QoS 1, on MQTT 3.1.1 at QoS 0.
_ACTIONS: dict[Verdict, tuple[Action, Action, Action, Action]] = {
    Verdict.ACCEPTED: (Action(0, None), _STAY_SILENT, Action(0, None), _STAY_SILENT),
    Verdict.SILENT: (_STAY_SILENT, _STAY_SILENT, _STAY_SILENT, _STAY_SILENT),
    Verdict.UNKNOWN_TOPIC: (Action(0x90, None), _STAY_SILENT, Action(0, None), _STAY_SILENT),
    Verdict.BAD_PAYLOAD: (Action(0x99, None), Action(None, 0x99), Action(None, 0x99), Action(None, 0x99)),
    Verdict.FAULT: (Action(None, 0x8B), Action(None, 0x8B), Action(None, 0x8B), Action(None, 0x8B)),
    Verdict.GATEWAY_FAULT: (Action(0x83, 0x83), Action(None, 0x83), Action(0, 0x83), Action(None, 0x83)),
    Verdict.GATEWAY_BAD_ELEMENT: (Action(0x99, None), _STAY_SILENT, Action(None, 0x99), Action(None, 0x99)),
    Verdict.QUOTA: (Action(0x97, None), _STAY_SILENT, Action(0, None), _STAY_SILENT),
    Verdict.NOT_CREATED: (Action(0x80, None), _STAY_SILENT, Action(0, None), _STAY_SILENT),
    Verdict.LIMITED: (Action(None, 0x83), Action(None, 0x83), Action(None, 0x83), Action(None, 0x83)),
    Verdict.GATEWAY_LIMITED: (Action(0x97, 0x83), Action(None, 0x83), Action(0, 0x83), Action(None, 0x83)),
    Verdict.NOT_PROVISIONING: (Action(0x90, 0x90), Action(None, 0x90), Action(0, 0x90), Action(None, 0x90)),
    Verdict.OTA_ERROR: (Action(None, 0x83), Action(None, 0x83), Action(None, 0x83), Action(None, 0x83)),
}


def action(verdict: Verdict, protocol_version: int, qos: int, lenient: bool = False) -> Action:
    """
    What goes out for `verdict`. `lenient` is the device profile's "send PUBACK on validation exception", which only
    changes how MQTT 3.1.1 hears of a bad payload.
    """
    if protocol_version >= MQTT_5:
        return _ACTIONS[verdict][0 if qos else 1]
    if lenient and qos and verdict is Verdict.BAD_PAYLOAD:
        return Action(0, None)
    return _ACTIONS[verdict][2 if qos else 3]


class Refusal(Enum):
    """Why a CONNECT is refused: the reason code of MQTT 5 and the return code of MQTT 3.1.1."""

    BAD_USER_NAME_OR_PASSWORD = (0x86, 5)
    CLIENT_IDENTIFIER = (0x85, 2)
    NOT_AUTHORISED = (0x87, 5)
    UNAVAILABLE = (0x88, 3)
    RATE_EXCEEDED = (0x9F, 3)

    def code(self, protocol_version: int) -> int:
        """The code that CONNACK bears in this version."""
        return self.value[0 if protocol_version >= MQTT_5 else 1]


def refusal(username: str | None, password: bytes | None, client_id: str) -> Refusal:
    """With what code credentials that match nothing are refused (1.2)."""
    if bool(username) != bool(password) or (username and password and client_id):
        return Refusal.BAD_USER_NAME_OR_PASSWORD
    if not username and not password and client_id.strip():
        return Refusal.CLIENT_IDENTIFIER
    return Refusal.NOT_AUTHORISED


SESSION_TAKEN_OVER = 0x8E
"""Reason code for the older of two sessions of one device."""

SERVER_SHUTTING_DOWN = 0x8B

NO_SUBSCRIPTION_EXISTED = 0x11

FILTER_REFUSED = 0x8F
"""SUBACK code for a filter that is not one of the fixed ones; MQTT 3.1.1 has only 0x80 for it."""


def suback_code(code: int, protocol_version: int) -> int:
    """A SUBACK reason code in the words of this version."""
    return code if protocol_version >= MQTT_5 or code < 0x80 else 0x80
