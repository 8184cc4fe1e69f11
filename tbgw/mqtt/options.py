"""What a client and a server can be told, as frozen values that are checked on construction."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from tbgw.mqtt.codec import MAX_PACKET_BYTES, SUPPORTED_VERSIONS, encode
from tbgw.mqtt.limits import WIDEST_RECEIVE_MAXIMUM, own_limits
from tbgw.mqtt.packets import Connect, Will
from tbgw.mqtt.properties import PropertyId

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

    receive_maximum: int = WIDEST_RECEIVE_MAXIMUM
    """How many QoS 1 and 2 messages of the peer may wait for our acknowledgement. Told on MQTT 5, unless it is the
    widest, and held to there; 3.1.1 cannot say it."""

    topic_alias_maximum: int = 0
    """How many topic aliases the peer may use on MQTT 5; each keeps one topic in memory."""

    max_outgoing_topic_aliases: int = 0
    """How many topic aliases we use at most, on MQTT 5 and when the peer takes them: the first topics that are
    published to get one. Worth it where few long topics get many small messages."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_inflight <= MAX_WINDOW:
            raise ValueError(f"max_inflight must be 1 to {MAX_WINDOW}, not {self.max_inflight}")
        if not 1 <= self.receive_maximum <= WIDEST_RECEIVE_MAXIMUM:
            raise ValueError(f"receive_maximum must be 1 to {WIDEST_RECEIVE_MAXIMUM}, not {self.receive_maximum}")
        for name in ("topic_alias_maximum", "max_outgoing_topic_aliases"):
            if not 0 <= getattr(self, name) <= 0xFFFF:
                raise ValueError(f"{name} must be 0 to 65535")
        for name in ("max_packet_bytes", "max_unsent_bytes", "connect_timeout_seconds", "close_timeout_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")

    def limits(self) -> dict[int, Any]:
        """The properties that tell the peer what we take (MQTT 5)."""
        return own_limits(
            self.receive_maximum, min(self.max_packet_bytes, MAX_PACKET_BYTES), self.topic_alias_maximum
        )


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
    """4 is MQTT 3.1.1, 5 is MQTT 5. To try one after the other: `VersionChoice`."""

    will: Will | None = None
    """Published by the server when this client goes without DISCONNECT."""

    tolerate_packet_id_zero: bool = False
    """Take and acknowledge a QoS 1 PUBLISH with packet id 0, which ThingsBoard sends as its 65,536th push."""

    # What follows exists on MQTT 5 only and is left out on 3.1.1, so that one set of options serves both.

    session_expiry_seconds: int = 0
    """How long the server shall keep the session after the connection: 0 not at all, 0xFFFFFFFF for ever. On 3.1.1 it
    is kept for ever unless `clean_start`."""

    request_response_information: bool = False
    """Ask the server for its RESPONSE_INFORMATION, which comes with the CONNACK."""

    request_problem_information: bool = True
    """Whether reason strings and user properties may come with acknowledgements."""

    user_properties: tuple[tuple[str, str], ...] = ()
    """USER_PROPERTY of the CONNECT."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.protocol_version not in SUPPORTED_VERSIONS:
            raise ValueError(f"protocol_version {self.protocol_version} is not supported")
        if self.ping_timeout_seconds <= 0:
            raise ValueError("ping_timeout_seconds must be above 0")
        encode(self.connect_packet(), self.protocol_version)

    def connect_packet(self) -> Connect:
        """The CONNECT that says all this."""
        properties: dict[int, Any] | None = None
        will = self.will
        if self.protocol_version >= 5:
            properties = self.limits()
            if self.session_expiry_seconds:
                properties[PropertyId.SESSION_EXPIRY_INTERVAL] = self.session_expiry_seconds
            if self.request_response_information:
                properties[PropertyId.REQUEST_RESPONSE_INFORMATION] = 1
            if not self.request_problem_information:
                properties[PropertyId.REQUEST_PROBLEM_INFORMATION] = 0
            if self.user_properties:
                properties[PropertyId.USER_PROPERTY] = self.user_properties
        elif will is not None and will.properties:
            will = replace(will, properties=None)
        return Connect(
            client_id=self.client_id,
            clean_start=self.clean_start,
            keep_alive_seconds=self.keep_alive_seconds,
            username=self.username,
            password=self.password,
            will=will,
            protocol_version=self.protocol_version,
            properties=properties or None,
        )


@dataclass(frozen=True, kw_only=True)
class ServerOptions(ConnectionOptions):
    """What a server holds its clients to."""

    max_packet_bytes: int = 65536 + 5
    """ThingsBoard's limit: a remaining length of 65,536 and the fixed header."""

    max_unsent_bytes: int = 1024 * 1024
    """Less than a client's, for there are many connections."""

    protocol_versions: tuple[int, ...] = SUPPORTED_VERSIONS
    """A CONNECT of any other is answered with return code 1."""

    announce_limits: bool = True
    """Whether a CONNACK of MQTT 5 tells `max_packet_bytes`, `receive_maximum` and `topic_alias_maximum`. ThingsBoard
    tells nothing, and then takes no topic alias."""

    keep_alive_grace: float = 1.5
    """A client may be silent for this many of its keep alive times [MQTT-3.1.2-24]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_alive_grace < 1:
            raise ValueError("keep_alive_grace must be at least 1")
        if not self.protocol_versions or not set(self.protocol_versions) <= set(SUPPORTED_VERSIONS):
            raise ValueError(f"protocol_versions must be some of {SUPPORTED_VERSIONS}")

    def limits(self) -> dict[int, Any]:
        """As `ConnectionOptions.limits`; nothing without `announce_limits`."""
        return super().limits() if self.announce_limits else {}
