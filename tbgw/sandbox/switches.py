"""What of ThingsBoard's behaviour can be turned on and off while the sandbox runs, to try a client against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class Switches:
    """All off, but for what the real server does and a client needs. Take effect with the next packet."""

    answer_session_limits: bool = True
    """False: getSessionLimits gets a PUBACK and no answer, as from servers before 3.8."""
    session_present: bool = True
    """True: CONNACK says "session present" to a client that wants its session kept, though there is none; the real
    server does so. False: it never does."""
    never_acknowledge_empty: bool = False
    """True: `[]` and `{"A":[]}` are never acknowledged, as by the real server."""
    acknowledge_bad_payloads: bool = False
    """The device profile's "send PUBACK on validation exception"."""
    type_cast: bool = True
    """`JSON_TYPE_CAST_ENABLED`. False: numeric texts stay texts, and what fits no number is refused (2.3)."""
    refuse_credentials: bool = False
    """True: every CONNECT is refused as if the token were wrong."""
    withhold_pubacks: bool = False
    """True: messages are stored and not acknowledged."""
    close_instead_of_puback: bool = False
    """True: messages are stored, and the connection is cut where the PUBACK would go out."""
    puback_per_device: bool = False
    """True: a gateway message gets one PUBACK for each device in it, as up to version 4.2."""
    tell_limits_as_before_4_2_1: bool = False
    """True: children over their rate limit are told by `v1/gateway/disconnect` with reason 150 (MQTT 5), then the
    connection is closed, without a PUBACK."""
    next_push_has_packet_id_zero: bool = False
    """True: the next push at QoS 1 bears packet id 0, as the real server's 65536th does; then it is off again."""
    subscribe_late_ms: int = 0
    """So much later than its SUBACK a subscription has its effect: what is pushed meanwhile is missed."""
    rpc_strategy: str = "BURST"
    """`ACTORS_RPC_SUBMIT_STRATEGY_TYPE`: also SEQUENTIAL_ON_ACK_FROM_DEVICE, SEQUENTIAL_ON_RESPONSE_FROM_DEVICE."""
    close_on_rpc_timeout: bool = False
    """True: a persistent call at QoS 1 that gets no PUBACK closes the session, and waits for the next one."""
    client_rpc_answers: dict[str, Any] = field(default_factory=dict)
    """What a rule chain would answer to client-side RPC, by method."""


STRATEGIES = ("BURST", "SEQUENTIAL_ON_ACK_FROM_DEVICE", "SEQUENTIAL_ON_RESPONSE_FROM_DEVICE")


def switched(switches: Switches, changed: Mapping[str, Any]) -> None:
    """Set these, all or none. Raises ValueError for a name or value that there is not."""
    for name, value in changed.items():
        if name not in {one.name for one in fields(Switches)}:
            raise ValueError(f"there is no switch {name!r}")
        wanted = type(getattr(switches, name))
        if type(value) is not wanted:
            raise ValueError(f"the switch {name} is {wanted.__name__}")
        if name == "rpc_strategy" and value not in STRATEGIES:
            raise ValueError(f"rpc_strategy is one of {', '.join(STRATEGIES)}")
        if name == "subscribe_late_ms" and not 0 <= value <= 60_000:
            raise ValueError("subscribe_late_ms is 0 to 60000")
    for name, value in changed.items():
        setattr(switches, name, value)
