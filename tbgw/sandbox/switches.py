"""What of ThingsBoard's behaviour can be turned on and off while the sandbox runs, to try a client against it."""

from __future__ import annotations

from dataclasses import dataclass


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
    refuse_credentials: bool = False
    """True: every CONNECT is refused as if the token were wrong."""
    withhold_pubacks: bool = False
    """True: messages are stored and not acknowledged."""
    close_instead_of_puback: bool = False
    """True: messages are stored, and the connection is cut where the PUBACK would go out."""
    puback_per_device: bool = False
    """True: a gateway message gets one PUBACK for each device in it, as up to version 4.2."""
