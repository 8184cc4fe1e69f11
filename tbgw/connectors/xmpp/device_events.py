# -*- test-case-name: tests.connectors.xmpp -*-
"""What the XMPP connector has to tell of its devices. What a stranger or a device can provoke is limited in lines."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.logger import LogLevel

from tbgw.internal_events import Event


@dataclass(frozen=True)
class SenderRefused(Event):
    """A stanza from a JID that no entry of `devices` names."""

    level = LogLevel.warn
    counter = "senders_refused"
    label = "connector"
    limited = True
    text = "connector {connector}: a {kind} of {sender} is refused, no device has this JID"
    connector: str
    kind: str
    sender: str


@dataclass(frozen=True)
class MessageIgnored(Event):
    """A message of a device that carries nothing for us: no body, a group's message."""

    level = LogLevel.debug
    counter = "messages_ignored"
    label = "connector"
    limited = True
    text = "connector {connector}: a message of {sender} is ignored: {why}"
    connector: str
    sender: str
    why: str


@dataclass(frozen=True)
class MessageUnusable(Event):
    """A message in which nothing was found that the configuration asks for."""

    level = LogLevel.warn
    counter = "messages_unusable"
    label = "connector"
    limited = True
    text = "connector {connector}, device {device}: nothing in a message of {characters} characters could be used"
    connector: str
    device: str
    characters: int


@dataclass(frozen=True)
class DeviceNotNamed(Event):
    """A message that does not say whose it is, from a JID of which no earlier one did."""

    level = LogLevel.warn
    counter = "devices_not_named"
    label = "connector"
    limited = True
    text = "connector {connector}: a message of {sender} has no name in {expression}, and is dropped"
    connector: str
    sender: str
    expression: str


@dataclass(frozen=True)
class DeviceLimitReached(Event):
    """A message names a device beyond the number that there may be."""

    level = LogLevel.warn
    counter = "devices_refused"
    label = "connector"
    limited = True
    text = "connector {connector}: device {device} is refused, there are {limit} already"
    connector: str
    device: str
    limit: int


@dataclass(frozen=True)
class TimeUnusable(Event):
    """A message's own time is none; the time at which it came is taken."""

    level = LogLevel.warn
    counter = "times_unusable"
    label = "connector"
    limited = True
    text = "connector {connector}, device {device}: a message's time is none; the time of its arrival is taken"
    connector: str
    device: str


@dataclass(frozen=True)
class DeliveryFailed(Event):
    """Something for a device could not be sent, or came back, and nobody waits for the outcome."""

    level = LogLevel.warn
    counter = "xmpp_delivery_failures"
    label = "connector"
    limited = True
    text = "connector {connector}, device {device}: not delivered: {why}"
    connector: str
    device: str
    why: str


@dataclass(frozen=True)
class SubscriptionAccepted(Event):
    """A configured device may see our presence."""

    counter = "subscriptions_accepted"
    label = "connector"
    limited = True
    text = "connector {connector}: {sender} may see the gateway's presence"
    connector: str
    sender: str


@dataclass(frozen=True)
class SubscriptionRefused(Event):
    """Somebody who is not configured asked to see our presence."""

    level = LogLevel.warn
    counter = "subscriptions_refused"
    label = "connector"
    limited = True
    text = "connector {connector}: {sender} asked for the gateway's presence and is refused, no device has this JID"
    connector: str
    sender: str


@dataclass(frozen=True)
class RosterUnavailable(Event):
    """The server does not give the roster, so presence is what devices send by themselves."""

    level = LogLevel.warn
    counter = "roster_failures"
    label = "connector"
    text = "connector {connector}: the server does not give the roster: {why}"
    connector: str
    why: str


@dataclass(frozen=True)
class ReadOutFailed(Event):
    """A read-out on its period brought nothing, or not all."""

    level = LogLevel.warn
    counter = "readout_failures"
    label = "connector"
    limited = True
    text = "connector {connector}, device {device}: read-out failed: {why}"
    connector: str
    device: str
    why: str


@dataclass(frozen=True)
class FieldsUnusable(Event):
    """Fields of a read-out that are none of their type, have no time, or share a key with another one."""

    level = LogLevel.warn
    counter = "fields_unusable"
    label = "connector"
    limited = True
    text = "connector {connector}, device {device}: {fields} field(s) {why}"
    connector: str
    device: str
    fields: int
    why: str

    def amount(self) -> int:
        """Each field counts."""
        return self.fields
