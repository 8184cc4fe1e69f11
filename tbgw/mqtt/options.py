"""What a client and a server can be told, as frozen values that are checked on construction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from tbgw.mqtt.codec import SUPPORTED_VERSIONS, encode
from tbgw.mqtt.packets import Connect, Will

MAX_WINDOW: Final = 60_000
"""The widest in-flight window: it leaves some of the 65,535 packet ids for SUBSCRIBE and UNSUBSCRIBE."""


@dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """What both roles have in common."""

    max_packet_bytes: int = 1024 * 1024
    """Largest packet that is taken from the peer, fixed header included."""

    max_inflight: int = 100
    """How many publishes of ours may be unacknowledged at a time."""

    max_unsent_bytes: int = 8 * 1024 * 1024
    """Bytes that may wait here while the transport's own buffer is full; more is a LocalProtocolError. The default
    holds a whole window of 100 publishes of ThingsBoard's largest packet (65,536 bytes)."""

    connect_timeout_seconds: float = 20.0
    """From the open transport to the CONNACK, TLS handshake included."""

    close_timeout_seconds: float = 5.0
    """How long closing in good order may take before the transport is aborted."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_inflight <= MAX_WINDOW:
            raise ValueError(f"max_inflight must be 1 to {MAX_WINDOW}, not {self.max_inflight}")
        for name in ("max_packet_bytes", "max_unsent_bytes", "connect_timeout_seconds", "close_timeout_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")


@dataclass(frozen=True, kw_only=True)
class ClientOptions(ConnectionOptions):
    """
    Everything a client needs to know but the address. Raises ValueError for a number out of range, LocalProtocolError
    for what no CONNECT can say.
    """

    client_id: str = ""
    """Empty: the server invents one, which takes a clean start."""

    username: str | None = field(default=None, repr=False)
    """Kept out of `repr`: ThingsBoard's access token travels here."""

    password: bytes | None = field(default=None, repr=False)
    """Needs a user name on 3.1.1."""

    keep_alive_seconds: int = 60
    """A PINGREQ goes out when for this long nothing was sent or nothing came; 0 turns pings off."""

    ping_timeout_seconds: float = 10.0
    """How long after a PINGREQ the server may stay silent before the transport is aborted."""

    clean_start: bool = True
    """Ask the server to forget what it may hold from an earlier connection."""

    protocol_version: Literal[4, 5] = 4
    """4 is MQTT 3.1.1. 5 is not spoken yet and raises ValueError."""

    will: Will | None = None
    """Published by the server when this client goes without DISCONNECT."""

    tolerate_packet_id_zero: bool = False
    """Take and acknowledge a QoS 1 PUBLISH with packet id 0, which ThingsBoard sends as its 65,536th push."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.protocol_version not in SUPPORTED_VERSIONS:
            raise ValueError(f"protocol_version {self.protocol_version} is not supported")
        if self.ping_timeout_seconds <= 0:
            raise ValueError("ping_timeout_seconds must be above 0")
        encode(self.connect_packet(), self.protocol_version)

    def connect_packet(self) -> Connect:
        """The CONNECT that says all this."""
        return Connect(
            client_id=self.client_id,
            clean_start=self.clean_start,
            keep_alive_seconds=self.keep_alive_seconds,
            username=self.username,
            password=self.password,
            will=self.will,
            protocol_version=self.protocol_version,
        )


@dataclass(frozen=True, kw_only=True)
class ServerOptions(ConnectionOptions):
    """What a server holds its clients to."""

    max_packet_bytes: int = 65536 + 5
    """ThingsBoard's limit: a remaining length of 65,536 and the fixed header."""

    max_unsent_bytes: int = 1024 * 1024
    """Less than a client's, for there are many connections."""

    keep_alive_grace: float = 1.5
    """A client may be silent for this many of its keep alive times [MQTT-3.1.2-24]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_alive_grace < 1:
            raise ValueError("keep_alive_grace must be at least 1")
