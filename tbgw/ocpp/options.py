"""What a Central System's listener keeps to. All limits in one place, each with the reason for its default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tbgw.ocpp.handshake import Network
from tbgw.ocpp.session import Validation


@dataclass(frozen=True, slots=True)
class CentralSystemOptions:
    """Immutable; one per listener."""

    validation: Validation = Validation.LENIENT
    """What to do with incoming payloads that break their schema. Ours are always held to theirs."""

    max_message_bytes: int = 1_048_576
    """Of one message after decompression; more closes the connection with 1009. 99 % fit into 2 KiB (2.1, part 4)."""
    max_header_bytes: int = 16_384
    """Of the HTTP request; more is answered with 431."""
    open_timeout_seconds: float = 20.0
    """From TCP connect to the end of the WebSocket handshake, TLS and `admit` included: slow mobile links."""
    close_timeout_seconds: float = 2.0
    """From our close frame to the station's; after it the connection is cut."""

    ping_interval_seconds: float = 60.0
    """After so long a silence a station is pinged; 0 for never. Any traffic is a sign of life."""
    ping_timeout_seconds: float = 30.0
    """How long each of two pings waits for any traffic; after the second the connection is cut."""

    max_queued_calls: int = 100
    """Our Calls that wait for one station behind the open one."""
    max_open_calls: int = 32
    """A station's Calls that wait for our answer; with more nothing is read from it until some are answered. The
    standard allows one, simulators send two or three."""
    max_faults_per_minute: int = 20
    """Texts that are no OCPP message, before the connection is closed with 1008."""
    max_unsent_bytes: int = 262_144
    """What may wait for a station that does not read; more cuts the connection."""
    max_fragments: int = 1_024
    """Frames of one message: empty ones cost memory without counting as bytes."""

    max_connections: int = 12_000
    """Stations at a time; more get 503. Each costs 12 KiB plain and 40 KiB with TLS."""
    max_openings: int = 1_000
    """Connections whose handshake is under way; more are closed before they cost anything."""
    max_tls_handshakes: int = 256
    """The same for a listener with TLS, where each costs some 2 ms of CPU: half a second of work at most. On mobile
    links one takes a second or two, so this still lets a hundred a second in."""
    connections_per_second: float = 200.0
    """How many handshakes are let in per second on average; 0 for any number. More get 503 with Retry-After."""
    connection_burst: int = 400
    """How many may come at once after a quiet time."""

    compression: bool = True
    """Accept permessage-deflate from stations that speak 2.x, for which it is mandatory."""
    warm_schemas: bool = True
    """Compile the common messages of a version when its first station is there, a little at a time."""
    trusted_proxies: Sequence[Network] = ()
    """Whose X-Forwarded-For and X-Forwarded-Proto are believed."""
