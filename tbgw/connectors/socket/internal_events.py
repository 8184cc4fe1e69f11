# -*- test-case-name: tests.connectors.socket -*-
"""What the socket connector has to tell. Whatever a stranger or a device can provoke at will is limited in lines."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.logger import LogLevel

from tbgw.internal_events import Event


@dataclass(frozen=True)
class Listening(Event):
    """The connector is open for its devices."""

    text = "connector {connector}: listening on {transport} {address} port {port}"
    connector: str
    transport: str
    address: str
    port: int


@dataclass(frozen=True)
class ListeningAgain(Event):
    """The connector is open after it could not be."""

    text = "connector {connector}: listening on {transport} {address} port {port} again, after {failures} failures"
    connector: str
    transport: str
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
        "connector {connector}: cannot listen on {transport} {address} port {port}: {reason}; "
        "next attempt in {retry_seconds:g} s"
    )
    connector: str
    transport: str
    address: str
    port: int
    reason: str
    retry_seconds: float


@dataclass(frozen=True)
class ListenerLost(Event):
    """The listening socket went away although nobody stopped the connector; it is opened again."""

    level = LogLevel.error
    counter = "listeners_lost"
    label = "connector"
    text = "connector {connector}: the listening socket was lost; next attempt in {retry_seconds:g} s"
    connector: str
    retry_seconds: float


@dataclass(frozen=True)
class DownlinkAbsent(Event):
    """The configuration asks for what this version does not do."""

    level = LogLevel.warn
    text = (
        "connector {connector}: {what} configured, but the way from ThingsBoard to socket devices is not in this "
        "version yet; these entries have no effect"
    )
    connector: str
    what: str


@dataclass(frozen=True)
class RequestExpressionIgnored(Event):
    """An attribute request's expression cannot be understood, so it recognises nothing."""

    level = LogLevel.warn
    text = (
        "connector {connector}, device {device}: requestExpression {expression} is ignored; "
        "allowed is ${{[from:to]==text}}, or the text alone for messages that begin with it"
    )
    connector: str
    device: str
    expression: str


@dataclass(frozen=True)
class PeerRefused(Event):
    """A connection or a datagram from an address that no device's filter admits."""

    level = LogLevel.warn
    counter = "peers_refused"
    label = "connector"
    limited = True
    text = "connector {connector}: {peer} is refused, no device's address filter admits it"
    connector: str
    peer: str


@dataclass(frozen=True)
class ConnectionLimitReached(Event):
    """A connection from an admitted address, beyond the number that may be open at one time."""

    level = LogLevel.warn
    counter = "connections_refused"
    label = "connector"
    limited = True
    text = "connector {connector}: {peer} is refused, {limit} connections are open and more are not allowed"
    connector: str
    peer: str
    limit: int


@dataclass(frozen=True)
class MessagesTooLong(Event):
    """Messages or datagrams above the limit, dropped whole."""

    level = LogLevel.warn
    counter = "messages_too_long"
    label = "connector"
    limited = True
    text = "connector {connector}: {messages} message(s) from {peer} dropped, longer than {limit_bytes} bytes"
    connector: str
    peer: str
    messages: int
    limit_bytes: int

    def amount(self) -> int:
        """One for each message."""
        return self.messages


@dataclass(frozen=True)
class KeyNotDecoded(Event):
    """Bytes that are no text in the device's encoding; the key is left out, the rest of the message is used."""

    level = LogLevel.warn
    counter = "keys_not_decoded"
    label = "connector"
    limited = True
    text = "connector {connector}, device {device}: the bytes for key {key} are not {encoding}; key left out"
    connector: str
    device: str
    key: str
    encoding: str


@dataclass(frozen=True)
class MessageUnusable(Event):
    """Not one key of the device could be had from a message."""

    level = LogLevel.warn
    counter = "messages_unusable"
    label = "connector"
    limited = True
    text = "connector {connector}, device {device}: a message of {size_bytes} bytes gave no value for any key"
    connector: str
    device: str
    size_bytes: int


@dataclass(frozen=True)
class AttributeRequestIgnored(Event):
    """A device asked for attributes, which this version cannot answer; the message is no telemetry either."""

    counter = "attribute_requests_ignored"
    label = "connector"
    limited = True
    text = "connector {connector}, device {device}: an attribute request is ignored, not in this version yet"
    connector: str
    device: str
