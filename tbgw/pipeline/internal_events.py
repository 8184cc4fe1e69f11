"""What the pipeline tells."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.logger import LogLevel

from tbgw.internal_events import Event


@dataclass(frozen=True)
class DeviceDenied(Event):
    """A reading of a device that the device filter keeps out."""

    connector: str
    device: str
    level = LogLevel.warn
    counter = "readings_denied"
    label = "connector"
    limited = True
    text = "device {device!r} of connector {connector!r} is kept out by the device filter"


@dataclass(frozen=True)
class DeviceUnnameable(Event):
    """A reading of a device whose name ThingsBoard does not take."""

    connector: str
    device: str
    level = LogLevel.warn
    counter = "readings_unnameable"
    label = "connector"
    limited = True
    text = "ThingsBoard can have no device named {device!r} (connector {connector!r}): its readings are dropped"


@dataclass(frozen=True)
class ValueUnusable(Event):
    """A reading with values that JSON has no form for; its other values go on."""

    connector: str
    device: str
    why: str
    level = LogLevel.warn
    counter = "readings_unusable"
    label = "connector"
    limited = True
    text = "a value of device {device!r} (connector {connector!r}) cannot be sent and is left out: {why}"


@dataclass(frozen=True)
class ValueTooLarge(Event):
    """A value that fits no payload, now in the dead letters."""

    device: str
    size_bytes: int
    level = LogLevel.error
    counter = "values_too_large"
    limited = True
    text = "a value of device {device!r} makes a payload of {size_bytes} bytes: too large to send, now a dead letter"


@dataclass(frozen=True)
class ReportKeysFull(Event):
    """A value whose report strategy is not kept, because as many keys are remembered as may be."""

    connector: str
    device: str
    keys: int
    level = LogLevel.warn
    counter = "report_keys_full"
    label = "connector"
    limited = True
    text = "{keys} keys have a report strategy, the most that are remembered: others, of {device!r}, go on as they come"


@dataclass(frozen=True)
class SourcesPaused(Event):
    """Connectors were told to stop reading."""

    sources: int
    level = LogLevel.warn
    counter = "sources_paused"
    text = "the store is behind: {sources} connections and ports stop reading until it catches up"


@dataclass(frozen=True)
class SourcesResumed(Event):
    """Connectors may read on."""

    sources: int
    text = "the store has caught up: {sources} connections and ports read on"


@dataclass(frozen=True)
class RegistryFault(Event):
    """The file of known devices was not as it should be."""

    fault: str
    level = LogLevel.warn
    counter = "registry_faults"
    text = "{fault}"


@dataclass(frozen=True)
class Refused(Event):
    """ThingsBoard said that a payload is wrong; it went to the dead letters."""

    topic: str
    code: int
    devices: str
    level = LogLevel.error
    counter = "rows_refused"
    label = "code"
    limited = True
    text = "ThingsBoard refused a payload on {topic} (reason code {code}) for {devices}; moved to the dead letters"


@dataclass(frozen=True)
class Unsendable(Event):
    """A stored payload that cannot be made to fit what ThingsBoard takes now."""

    topic: str
    why: str
    devices: str
    level = LogLevel.error
    counter = "rows_unsendable"
    limited = True
    text = "a stored payload on {topic} ({devices}) cannot be sent: {why}; moved to the dead letters"


@dataclass(frozen=True)
class RowExamined(Event):
    """A payload that ThingsBoard does not take is about to be sent in parts, one by one."""

    topic: str
    devices: str
    level = LogLevel.warn
    counter = "rows_examined"
    limited = True
    text = "ThingsBoard does not take a payload on {topic} ({devices}): sending it in parts to find out what is wrong"


@dataclass(frozen=True)
class PartBuried(Event):
    """A part of a payload that ThingsBoard does not take; it went to the dead letters, the rest was delivered."""

    topic: str
    reason: str
    devices: str
    size_bytes: int
    level = LogLevel.error
    counter = "parts_buried"
    label = "reason"
    limited = True
    text = "{size_bytes} bytes on {topic} of {devices} cannot be delivered ({reason}); moved to the dead letters"


@dataclass(frozen=True)
class NeverAcknowledged(Event):
    """A payload that stayed without PUBACK again and again while others were acknowledged."""

    topic: str
    times: int
    devices: str
    level = LogLevel.error
    counter = "rows_never_acknowledged"
    limited = True
    text = "in {times} sessions a payload on {topic} ({devices}) got no PUBACK, and later ones did; now a dead letter"


@dataclass(frozen=True)
class NotAcknowledgedInTime(Event):
    """A PUBACK did not come: the session is given up."""

    topic: str
    seconds: float
    level = LogLevel.warn
    counter = "puback_timeouts"
    text = "no PUBACK for a publish on {topic} within {seconds:g} s; beginning a new session"


@dataclass(frozen=True)
class QuotaReached(Event):
    """ThingsBoard asked to slow down or to come back later."""

    code: int
    seconds: float
    level = LogLevel.warn
    counter = "uplink_pushed_back"
    label = "code"
    limited = True
    text = "ThingsBoard cannot take more now (reason code {code}); next try in {seconds:g} s"


@dataclass(frozen=True)
class DeviceNotAnnounced(Event):
    """A connect message was not acknowledged well."""

    device: str
    why: str
    level = LogLevel.warn
    counter = "device_announcements_failed"
    limited = True
    text = "ThingsBoard did not confirm device {device!r} ({why}); its data is sent all the same"


@dataclass(frozen=True)
class CommandRefused(Event):
    """A command from ThingsBoard was answered with an error."""

    device: str
    method: str
    why: str
    level = LogLevel.warn
    counter = "commands_refused"
    limited = True
    text = "command {method!r} for device {device!r} answered with an error: {why}"


@dataclass(frozen=True)
class CommandRepeated(Event):
    """ThingsBoard sent a command again that is being carried out: there will be one answer, to both."""

    device: str
    method: str
    level = LogLevel.debug
    counter = "commands_repeated"
    limited = True
    text = "command {method!r} for device {device!r} came again while it is being carried out"


@dataclass(frozen=True)
class AnswerDropped(Event):
    """An answer to ThingsBoard that cannot be sent: its session is over, or too many wait already."""

    device: str
    why: str
    level = LogLevel.warn
    counter = "answers_dropped"
    limited = True
    text = "an answer of device {device!r} to ThingsBoard is dropped: {why}"


@dataclass(frozen=True)
class UpdateUndeliverable(Event):
    """A shared attribute changed of a device that no connector has."""

    device: str
    level = LogLevel.debug
    counter = "attribute_updates_ignored"
    limited = True
    text = "shared attributes of device {device!r} changed, which no connector has at present"


@dataclass(frozen=True)
class MessageIgnored(Event):
    """Something from ThingsBoard that nobody here has a use for."""

    topic: str
    level = LogLevel.debug
    counter = "downlink_ignored"  # not split by topic: with a plain broker strangers choose that, without end
    limited = True
    text = "a message on {topic} is of no use here"


@dataclass(frozen=True)
class DeviceRenamed(Event):
    """ThingsBoard says that a device has another name now."""

    old: str
    new: str
    counter = "devices_renamed"
    text = "ThingsBoard renamed device {old!r} to {new!r}; its data and commands follow"


@dataclass(frozen=True)
class DeviceDeleted(Event):
    """ThingsBoard says that a device was deleted."""

    device: str
    level = LogLevel.warn
    counter = "devices_deleted"
    text = "ThingsBoard deleted device {device!r}; what was stored of it goes to the dead letters"


@dataclass(frozen=True)
class DeviceSilent(Event):
    """A device did not speak for longer than `inactivityTimeoutSeconds`."""

    device: str
    counter = "devices_silent"
    limited = True
    text = "device {device!r} has been silent for too long; ThingsBoard is told that it is disconnected"
