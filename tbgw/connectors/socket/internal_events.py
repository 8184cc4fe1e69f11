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
class KeyUnfit(Event):
    """There is something for a key, which is no value of its type."""

    level = LogLevel.warn
    counter = "keys_unfit"
    label = "connector"
    limited = True
    text = "connector {connector}, device {device}: what is there for key {key} is no value of its type; key left out"
    connector: str
    device: str
    key: str


@dataclass(frozen=True)
class DeviceNotNamed(Event):
    """A message from which no device name can be had, and whose peer named none before."""

    level = LogLevel.warn
    counter = "messages_unnamed"
    label = "connector"
    limited = True
    text = "connector {connector}: a message of {size_bytes} bytes gives no device name by {name}"
    connector: str
    name: str
    size_bytes: int


@dataclass(frozen=True)
class DeviceLimitReached(Event):
    """A further device, beyond the number whose names may come from messages."""

    level = LogLevel.warn
    counter = "devices_refused"
    label = "connector"
    limited = True
    text = "connector {connector}: device {device} is refused, {limit} devices are known and more are not allowed"
    connector: str
    device: str
    limit: int


@dataclass(frozen=True)
class AddressLimitReached(Event):
    """A connection beyond the number that one address may have."""

    level = LogLevel.warn
    counter = "connections_refused"
    label = "connector"
    limited = True
    text = "connector {connector}: {peer} is refused, its address has {limit} connections already"
    connector: str
    peer: str
    limit: int


@dataclass(frozen=True)
class MessageCutOff(Event):
    """A connection ended within a message, which is dropped."""

    level = LogLevel.warn
    counter = "messages_cut_off"
    label = "connector"
    limited = True
    text = "connector {connector}: {peer} ended within a message, {held_bytes} bytes of it are dropped"
    connector: str
    peer: str
    held_bytes: int


@dataclass(frozen=True)
class ConnectionGivenUp(Event):
    """We closed a connection, for this reason."""

    level = LogLevel.warn
    counter = "connections_given_up"
    label = "connector"
    limited = True
    text = "connector {connector}: the connection of {peer} is closed: {why}"
    connector: str
    peer: str
    why: str


@dataclass(frozen=True)
class SourceHeldBack(Event):
    """A source sends more than it may: TCP waits, datagrams are dropped."""

    level = LogLevel.warn
    counter = "sources_held_back"
    label = "connector"
    limited = True
    text = "connector {connector}: {peer} sends more than {limit} messages a second and is held back"
    connector: str
    peer: str
    limit: int


@dataclass(frozen=True)
class WriteFailed(Event):
    """Something for a device could not be sent to it."""

    level = LogLevel.warn
    counter = "writes_failed"
    label = "connector"
    limited = True
    text = "connector {connector}, device {device}: cannot be written to: {why}"
    connector: str
    device: str
    why: str


@dataclass(frozen=True)
class AttributesNotAnswered(Event):
    """A device asked ThingsBoard for something and cannot be answered."""

    level = LogLevel.warn
    counter = "attribute_requests_failed"
    label = "connector"
    limited = True
    text = "connector {connector}, device {device}: its question to ThingsBoard is not answered: {why}"
    connector: str
    device: str
    why: str


@dataclass(frozen=True)
class TargetConnected(Event):
    """A device that listens is connected."""

    text = "connector {connector}: connected to {target}"
    connector: str
    target: str


@dataclass(frozen=True)
class TargetFailed(Event):
    """A device that listens cannot be reached, or was lost; another attempt follows."""

    level = LogLevel.warn
    counter = "targets_failed"
    label = "connector"
    limited = True
    text = "connector {connector}: {target}: {reason}; next attempt in {retry_seconds:g} s"
    connector: str
    target: str
    reason: str
    retry_seconds: float


@dataclass(frozen=True)
class GroupNotJoined(Event):
    """A multicast group cannot be joined."""

    level = LogLevel.error
    counter = "groups_not_joined"
    label = "connector"
    text = "connector {connector}: multicast group {group} cannot be joined: {why}"
    connector: str
    group: str
    why: str


@dataclass(frozen=True)
class DevicesUnverified(Event):
    """The configuration says that any certificate will do."""

    level = LogLevel.warn
    text = "connector {connector}: dangerouslyAcceptAnyServerCertificate is on: nobody knows who answers"
    connector: str
