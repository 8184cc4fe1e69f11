"""What the sandbox tells."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.logger import LogLevel

from tbgw.internal_events import Event


@dataclass(frozen=True)
class SandboxReady(Event):
    """The MQTT endpoint listens."""

    address: str
    port: int
    how: str
    text = "the sandbox takes {how} on {address}:{port}"


@dataclass(frozen=True)
class SandboxPortTaken(Event):
    """The MQTT port cannot be listened on; it is tried again."""

    address: str
    port: int
    why: str
    retry_seconds: float
    level = LogLevel.error
    counter = "sandbox_listen_failed"
    text = "the sandbox cannot use {address}:{port} ({why}); trying again in {retry_seconds:g} s"


@dataclass(frozen=True)
class TokenCreated(Event):
    """First start: there is an access token now."""

    path: str
    text = "the sandbox made itself an access token, in {path}"


@dataclass(frozen=True)
class TokenExposed(Event):
    """The token file can be read by others."""

    path: str
    mode: str
    level = LogLevel.warn
    counter = "secrets_exposed"
    text = "{path} holds an access token and has mode {mode}; others should not be able to read it"


@dataclass(frozen=True)
class ClientAccepted(Event):
    """A client connected with a token."""

    device: str
    peer: str
    counter = "sandbox_sessions"
    limited = True
    text = "{peer} connected to the sandbox as {device!r}"


@dataclass(frozen=True)
class ClientRefused(Event):
    """A client could not say who it is, or there was no room for it."""

    peer: str
    why: str
    level = LogLevel.warn
    counter = "sandbox_clients_refused"
    label = "why"
    limited = True
    text = "the sandbox refused {peer}: {why}"


@dataclass(frozen=True)
class ClientReplaced(Event):
    """A newer connection with the same credentials took the place of an older one."""

    device: str
    level = LogLevel.warn
    counter = "sandbox_sessions_replaced"
    limited = True
    text = "a newer connection as {device!r} took the place of the older one: two clients with one token?"


@dataclass(frozen=True)
class PublishRefused(Event):
    """A message was not, or not wholly, what ThingsBoard accepts."""

    device: str
    topic: str
    verdict: str
    level = LogLevel.warn
    counter = "sandbox_publishes_refused"
    label = "verdict"
    limited = True
    text = "a message of {device!r} on {topic!r} was not accepted: {verdict}"


@dataclass(frozen=True)
class RateLimitMet(Event):
    """A device, or a gateway's children, sent more than the limits allow."""

    device: str
    level = LogLevel.warn
    counter = "sandbox_rate_limits_met"
    limited = True
    text = "{device!r} went over its rate limit"


@dataclass(frozen=True)
class ReplyLost(Event):
    """An answer could not be sent: the client does not read or does not acknowledge."""

    device: str
    why: str
    level = LogLevel.warn
    counter = "sandbox_replies_lost"
    limited = True
    text = "an answer to {device!r} could not be sent: {why}"


@dataclass(frozen=True)
class ValuesLeftOut(Event):
    """Values were not kept, for want of room."""

    count: int
    level = LogLevel.warn
    counter = "sandbox_values_left_out"
    limited = True
    text = "{count} values were not kept: too many keys, too long a key, or too many long values"

    def amount(self) -> int:
        """How many."""
        return self.count


@dataclass(frozen=True)
class SandboxStoreFailed(Event):
    """The database cannot be opened or written. Clients are refused until it works again."""

    why: str
    retry_seconds: float
    level = LogLevel.error
    counter = "sandbox_store_failed"
    text = "{why}; the sandbox takes nothing until it works, trying again in {retry_seconds:g} s"


@dataclass(frozen=True)
class SandboxStoreSetAside(Event):
    """The database could not be used; a new one was begun."""

    why: str
    path: str
    level = LogLevel.error
    counter = "sandbox_store_set_aside"
    text = "{why}; it was moved to {path} and a new one was begun"
