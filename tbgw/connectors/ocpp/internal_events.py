# -*- test-case-name: tests.connectors.ocpp -*-
"""What the OCPP connector has to tell. Whatever a stranger or a charge point can provoke at will is limited in lines.

No event has a field for a password, a token or a payload (P-11).
"""

from __future__ import annotations

from dataclasses import dataclass

from twisted.logger import LogLevel

from tbgw.internal_events import Event


@dataclass(frozen=True)
class Listening(Event):
    """The connector is open for its charge points."""

    text = "connector {connector}: listening on {scheme}://{address}:{port}/"
    connector: str
    scheme: str
    address: str
    port: int


@dataclass(frozen=True)
class ListeningAgain(Event):
    """The connector is open after it could not be."""

    text = "connector {connector}: listening on {scheme}://{address}:{port}/ again, after {failures} failures"
    connector: str
    scheme: str
    address: str
    port: int
    failures: int


@dataclass(frozen=True)
class ListenFailed(Event):
    """The local address cannot be opened now; another attempt follows."""

    level = LogLevel.error
    counter = "listen_failures"
    label = "connector"
    text = (
        "connector {connector}: cannot listen on {scheme}://{address}:{port}/: {reason}; "
        "next attempt in {retry_seconds:g} s"
    )
    connector: str
    scheme: str
    address: str
    port: int
    reason: str
    retry_seconds: float


@dataclass(frozen=True)
class CertificatesReloaded(Event):
    """The files of the certificates changed, and new connections have the new ones."""

    text = "connector {connector}: its certificates changed and were read again"
    connector: str


@dataclass(frozen=True)
class CertificatesUnusable(Event):
    """The files of the certificates changed to something that cannot be used; the old ones stay in use."""

    level = LogLevel.error
    counter = "certificate_failures"
    label = "connector"
    limited = True
    text = "connector {connector}: its changed certificates cannot be used, the former ones stay: {reason}"
    connector: str
    reason: str


@dataclass(frozen=True)
class StationUnknown(Event):
    """A charge point whose path fits no entry of `chargePoints`."""

    level = LogLevel.warn
    counter = "charge_points_unknown"
    label = "connector"
    limited = True
    text = "connector {connector}: {peer} is refused with 404: {path} fits no entry of chargePoints"
    connector: str
    peer: str
    path: str


@dataclass(frozen=True)
class LoginRefused(Event):
    """A charge point without a good login."""

    level = LogLevel.warn
    counter = "logins_refused"
    label = "connector"
    limited = True
    text = "connector {connector}: {peer} as {identity} is refused with {status}: {why}"
    connector: str
    peer: str
    identity: str
    status: int
    why: str


@dataclass(frozen=True)
class LoginsTooMany(Event):
    """So many logins failed from one address that further ones are not looked at for a while."""

    level = LogLevel.warn
    counter = "logins_throttled"
    label = "connector"
    limited = True
    text = "connector {connector}: {address} is told 503, {failures} logins from there failed within a minute"
    connector: str
    address: str
    failures: int


@dataclass(frozen=True)
class SerialRefused(Event):
    """A BootNotification that does not bear the serial of the client's certificate."""

    level = LogLevel.warn
    counter = "serials_refused"
    label = "connector"
    limited = True
    text = "connector {connector}: {identity} is cut off: its BootNotification does not bear its certificate's serial"
    connector: str
    identity: str


@dataclass(frozen=True)
class PasswordChanged(Event):
    """A charge point has another password from now on, and its former one is refused."""

    text = "connector {connector}: {identity} has a new password; no other is accepted from it any more"
    connector: str
    identity: str


@dataclass(frozen=True)
class LedgerFault(Event):
    """The file with what is known of charge points' security."""

    level = LogLevel.error
    counter = "ocpp_security_file_faults"
    text = "{fault}"
    fault: str


@dataclass(frozen=True)
class CallUnanswered(Event):
    """A Call that nobody waits for had no result."""

    level = LogLevel.warn
    counter = "ocpp_calls_failed"
    label = "connector"
    limited = True
    text = "connector {connector}: {action} to {identity}: {why}"
    connector: str
    identity: str
    action: str
    why: str


@dataclass(frozen=True)
class UpdateRefused(Event):
    """A shared attribute could not be passed on to its charge point."""

    level = LogLevel.warn
    counter = "attribute_updates_failed"
    label = "connector"
    limited = True
    text = "connector {connector}: attribute {attribute} was not passed on to {identity}: {why}"
    connector: str
    identity: str
    attribute: str
    why: str


@dataclass(frozen=True)
class UpdatesForgotten(Event):
    """More charge points that are away have attributes waiting than are remembered."""

    level = LogLevel.warn
    counter = "attribute_updates_forgotten"
    label = "connector"
    limited = True
    text = "connector {connector}: attributes that waited for {device} are forgotten, too many charge points are away"
    connector: str
    device: str


@dataclass(frozen=True)
class EntranceNotice(Event):
    """Something about the way in, before there is a connection."""

    level = LogLevel.warn
    counter = "ocpp_entrance"
    label = "kind"
    limited = True
    text = "connector {connector}: {peer} at {path}: {kind}: {what}"
    connector: str
    kind: str
    path: str
    peer: str
    what: str


@dataclass(frozen=True)
class ConnectionNotice(EntranceNotice):
    """Something about a connection as a whole."""

    counter = "ocpp_connections"


@dataclass(frozen=True)
class MessageNotice(EntranceNotice):
    """Something about a single message."""

    counter = "ocpp_messages"


@dataclass(frozen=True)
class AnswerInvalid(Event):
    """An answer of ours breaks its schema: a bug, and not the peer's fault."""

    level = LogLevel.error
    counter = "ocpp_answers_invalid"
    label = "connector"
    limited = True
    text = "connector {connector}: an answer to {path} breaks its schema: {what}"
    connector: str
    path: str
    what: str
