# -*- test-case-name: tests.connectors.ocpp.test_reports -*-
"""What the upward half of the OCPP connector has to tell. What a charge point can provoke is limited in lines."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.logger import LogLevel

from tbgw.internal_events import Event


@dataclass(frozen=True)
class BootAnswered(Event):
    """A charge point started."""

    counter = "ocpp_boots"
    label = "connector"
    limited = True
    text = "connector {connector}, charge point {path}: booted, {vendor} {model}, {version}; answered {status}"
    connector: str
    path: str
    vendor: str
    model: str
    version: str
    status: str


@dataclass(frozen=True)
class MessageFaulty(Event):
    """A message breaks its schema and is used all the same."""

    level = LogLevel.warn
    counter = "ocpp_messages_faulty"
    label = "connector"
    limited = True
    text = "connector {connector}, charge point {path}: {action} breaks its schema and is used all the same: {fault}"
    connector: str
    path: str
    action: str
    fault: str


@dataclass(frozen=True)
class MessageRefused(Event):
    """A message that was answered with an error: it is of no known kind, lacks what counts, or comes too early."""

    level = LogLevel.warn
    counter = "ocpp_messages_refused"
    label = "connector"
    limited = True
    text = "connector {connector}, charge point {path}: {action} is answered with {error}"
    connector: str
    path: str
    action: str
    error: str


@dataclass(frozen=True)
class ConversionFailed(Event):
    """A fault of ours: a message could not be converted. It is answered as if nothing had happened."""

    level = LogLevel.error
    counter = "ocpp_conversions_failed"
    label = "connector"
    limited = True
    text = "connector {connector}, charge point {path}: {action} could not be converted: {error}"
    connector: str
    path: str
    action: str
    error: str


@dataclass(frozen=True)
class ValuesLeftOut(Event):
    """Parts of messages that have no usable form; the rest of the message is used."""

    level = LogLevel.warn
    counter = "ocpp_values_left_out"
    label = "reason"
    limited = True
    text = "connector {connector}, charge point {path}: {values} value(s) of {action} not as sent: {reason}"
    connector: str
    path: str
    action: str
    reason: str
    values: int

    def amount(self) -> int:
        """One for each value."""
        return self.values


@dataclass(frozen=True)
class ExpressionUnresolved(Event):
    """Expressions that found nothing in a message. Frequent where messages differ, so no one is warned."""

    level = LogLevel.debug
    counter = "ocpp_expressions_unresolved"
    label = "connector"
    limited = True
    text = "connector {connector}, charge point {path}: {values} expression(s) found nothing in {action}"
    connector: str
    path: str
    action: str
    values: int

    def amount(self) -> int:
        """One for each expression."""
        return self.values


@dataclass(frozen=True)
class DeviceNameShared(Event):
    """Two charge points have one device name, so they are one device in ThingsBoard."""

    level = LogLevel.warn
    counter = "ocpp_names_shared"
    label = "connector"
    limited = True
    text = (
        "connector {connector}: the charge points {path} and {other} are both the device {device}; "
        "use ${{chargePointId}} in deviceNameExpression to tell them apart"
    )
    connector: str
    path: str
    other: str
    device: str


@dataclass(frozen=True)
class TransactionUnknown(Event):
    """A charge point ended a transaction that it did not begin here. It is answered as valid."""

    counter = "ocpp_transactions_unknown"
    label = "connector"
    limited = True
    text = "connector {connector}, charge point {path}: transaction {transaction} is ended, and was not begun here"
    connector: str
    path: str
    transaction: str


@dataclass(frozen=True)
class ReplyWithheld(Event):
    """Data could not be stored, so the charge point is told to keep it and send it again."""

    level = LogLevel.error
    counter = "ocpp_replies_withheld"
    label = "connector"
    limited = True
    text = "connector {connector}, charge point {path}: {action} is not stored and answered with an error: {error}"
    connector: str
    path: str
    action: str
    error: str


@dataclass(frozen=True)
class StateDamaged(Event):
    """The file of charge points cannot be read. A new one is begun; names and running transactions are lost."""

    level = LogLevel.error
    counter = "ocpp_state_damaged"
    label = "connector"
    text = "connector {connector}: what was kept of charge points cannot be read ({error}); {kept}, a new file is begun"
    connector: str
    error: str
    kept: str


@dataclass(frozen=True)
class StateNotWritten(Event):
    """The file of charge points cannot be written. What depends on it is answered with an error."""

    level = LogLevel.error
    counter = "ocpp_state_not_written"
    label = "connector"
    limited = True
    text = "connector {connector}: what has to be kept of charge points cannot be written: {error}"
    connector: str
    error: str


@dataclass(frozen=True)
class TagsUnusable(Event):
    """The shared attribute of idTags has no usable form; those that were known before hold on."""

    level = LogLevel.warn
    counter = "ocpp_tags_unusable"
    label = "connector"
    limited = True
    text = "connector {connector}, device {device}: shared attribute {attribute} holds no idTags; the last ones hold"
    connector: str
    device: str
    attribute: str


@dataclass(frozen=True)
class TagDenied(Event):
    """An idTag that may not charge."""

    counter = "ocpp_tags_denied"
    label = "connector"
    limited = True
    text = "connector {connector}, charge point {path}: an idTag is answered with {status}"
    connector: str
    path: str
    status: str
