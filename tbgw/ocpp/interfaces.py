"""The contracts between the library and its user, in prose. Everything runs in the reactor's thread.

The library owns the wire: handshake by the letter, framing, schemas, error codes, one Call at a time, replay of
duplicate Calls, time-outs, pings, replacement of stale sockets, limits. Its user says who may connect and what a
message means.
"""
# ruff: noqa: N805 - methods of a zope interface have no self

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from tbgw.ocpp.versions import Version


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a charge point showed before it was let in."""

    path: str
    """The request's path, percent-decoded, without the leading slash and without a query: `bidon/hello/CP_1`."""
    identity: str
    """The last segment of the path as sent, percent-decoded by itself: `CP_1`; may hold any character, `/` too."""
    peer: tuple[str, int]
    """Address and port it came from; those that a trusted proxy named, if the options say so."""
    authorization: bytes | None
    """The raw value of the Authorization header."""
    offered: tuple[str, ...]
    """The subprotocols, in the charge point's order of preference."""
    certificate: Any = None
    """`cryptography.x509.Certificate` that the client proved in TLS; None without one."""
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Admission:
    """The charge point may come in. Which version is spoken is the library's choice, among `versions`."""

    versions: Sequence[Version] = tuple(Version)
    data: Any = None
    """Whatever the user wants to find on the station again."""
    missing_subprotocol: Version | None = None
    """What to speak with one that offers no subprotocol at all; None: it is turned away."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """It may not. `status` is an HTTP status: 401, 403, 404 or 503; nothing of the peer's text goes into the answer."""

    status: int
    why: str
    """For the log."""
    headers: Mapping[str, str] = field(default_factory=dict)


class IStation(Interface):
    """One connected charge point (1.6) or charging station (2.x)."""

    identity = Attribute("As in `Handshake`.")
    path = Attribute("As in `Handshake`.")
    version = Attribute("The negotiated `Version`.")
    peer = Attribute("As in `Handshake`.")
    data = Attribute("`Admission.data`.")
    connected = Attribute("False once `disconnected` was told.")

    def call(action: str, payload: Mapping[str, Any], timeout_seconds: float) -> Deferred[dict[str, Any]]:
        """
        Send a CALL as soon as none of ours is open; fires with the payload of the CALLRESULT, fails with a child of
        `CallFailed`. The payload has the wire's key names and is checked against its schema before anything else.
        The time counts from now, waiting in the queue included. May be cancelled: a Call that was not sent is then
        never sent, the result of one that was is ignored.
        """

    def send(action: str, payload: Mapping[str, Any]) -> None:
        """Send an unconfirmed SEND; 2.1 only. Raises PayloadInvalid, StationGone."""

    def close(code: int, reason: str) -> None:
        """Close the WebSocket in good order, cut it after a short time."""


class ICentralSystem(Interface):
    """Who uses the library: the OCPP connector."""

    def admit(handshake: Handshake) -> Deferred[Admission | Refusal] | Admission | Refusal:
        """Who is this, and may it come in? Asked before the WebSocket is accepted."""

    def connected(station: IStation) -> None:
        """
        The station is there; Calls may be sent. When another connection of the same path was open, its
        `disconnected` has been told before, and its Calls have failed with `StationReplaced`.
        """

    def call_received(
        station: IStation, action: str, payload: dict[str, Any], faults: Sequence[str]
    ) -> Deferred[dict[str, Any]] | dict[str, Any]:
        """
        The station sent a CALL. The answer's payload, now or later; `CallRefused` raised or failed with makes it a
        CALLERROR. Anything else that is raised is logged and answered with InternalError. `faults`: what the schema
        says against the payload (empty if valid; in lenient mode only, strict mode refuses them before). Actions
        that the version does not have come too: `CallRefused("NotImplemented")` is the answer to those. Calls of one
        station are handed over in their order; a replayed duplicate is answered by the library and does not come.
        """

    def send_received(station: IStation, action: str, payload: dict[str, Any], faults: Sequence[str]) -> None:
        """The station sent a SEND (2.1), to which there is no answer."""

    def disconnected(station: IStation, reason: str) -> None:
        """The connection is over, exactly once for each `connected`. Open Calls have failed before."""
