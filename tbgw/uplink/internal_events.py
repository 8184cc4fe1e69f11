"""What the link to ThingsBoard tells."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.logger import LogLevel

from tbgw.internal_events import Event


@dataclass(frozen=True)
class LinkUp(Event):
    """A session is ready."""

    where: str
    version: str
    limits: str
    counter = "sessions"
    text = "connected to ThingsBoard at {where} with MQTT {version}; {limits}"


@dataclass(frozen=True)
class LinkLost(Event):
    """A session that was ready is over."""

    where: str
    why: str
    retry_seconds: float
    level = LogLevel.warn
    counter = "sessions_lost"
    text = "the session with ThingsBoard at {where} ended: {why}; next try in {retry_seconds:.1f} s"


@dataclass(frozen=True)
class LinkFailed(Event):
    """No session came about."""

    where: str
    why: str
    retry_seconds: float
    level = LogLevel.warn
    counter = "sessions_failed"
    limited = True
    line_every_seconds = 1.0
    text = "no session with ThingsBoard at {where}: {why}; next try in {retry_seconds:.1f} s"


@dataclass(frozen=True)
class CredentialsRefused(Event):
    """ThingsBoard does not accept who we say we are."""

    where: str
    code: int
    retry_seconds: float
    level = LogLevel.error
    counter = "credentials_refused"
    text = (
        "ThingsBoard at {where} refused the credentials (return code {code}): check thingsboard.security, or, if they "
        "were provisioned, the device there (tbgw provision --again asks for new ones); "
        "what devices send is stored; next try in {retry_seconds:.0f} s"
    )


@dataclass(frozen=True)
class SubscriptionRefused(Event):
    """A topic that commands come on is not granted."""

    topic: str
    level = LogLevel.warn
    counter = "subscriptions_refused"
    text = "ThingsBoard refused the subscription to {topic}"


@dataclass(frozen=True)
class LimitsUnknown(Event):
    """Nobody told the limits of the session."""

    why: str
    counter = "session_limits_unknown"
    text = "the limits of the session are not known ({why}); going by the defaults"


@dataclass(frozen=True)
class ServerUnverified(Event):
    """Verification is off by configuration."""

    level = LogLevel.error
    counter = "tls_unverified"
    text = (
        "the certificate of ThingsBoard is NOT verified: whoever sits on the way can read and change everything; "
        "remove thingsboard.security.dangerouslyAcceptAnyServerCertificate"
    )


@dataclass(frozen=True)
class OtherVersion(Event):
    """The server does not take MQTT 5; the next attempt is made with 3.1.1."""

    where: str
    why: str
    counter = "mqtt_version_refused"
    text = "ThingsBoard at {where} does not take MQTT 5 ({why}); trying 3.1.1"


@dataclass(frozen=True)
class SessionTakenOver(Event):
    """Another session with the same credentials ended ours."""

    where: str
    retry_seconds: float
    level = LogLevel.error
    counter = "sessions_taken_over"
    text = (
        "ThingsBoard at {where} ended the session because another one came with the same credentials: is a second "
        "gateway running with this token? Next try in {retry_seconds:.0f} s"
    )


@dataclass(frozen=True)
class OwnMessageDropped(Event):
    """Something that the gateway said of itself was given up."""

    topic: str
    why: str
    level = LogLevel.warn
    counter = "own_messages_dropped"
    limited = True
    text = "a message of the gateway itself on {topic} was given up: {why}"


@dataclass(frozen=True)
class OwnMessageIgnored(Event):
    """ThingsBoard sent the gateway itself something that it did not ask for, or that it does not understand."""

    topic: str
    counter = "own_messages_ignored"
    label = "topic"
    limited = True
    level = LogLevel.debug
    text = "a message on {topic} was let go: not understood, too late, or not asked for"


@dataclass(frozen=True)
class RemoteCommand(Event):
    """Somebody had the gateway itself do something, from ThingsBoard: the audit line of P-19."""

    method: str
    level = LogLevel.warn
    counter = "remote_commands"
    label = "method"
    text = "ThingsBoard asked for {method}"


@dataclass(frozen=True)
class ConfigurationChanged(Event):
    """The configuration was changed while the gateway runs: the audit line of P-19."""

    files: str
    how: str
    level = LogLevel.warn
    counter = "configuration_changes"
    text = "configuration changed: {files}; {how}"


@dataclass(frozen=True)
class ConfigurationRefused(Event):
    """A change of the configuration cannot be taken; nothing was changed."""

    attributes: str
    why: str
    level = LogLevel.error
    counter = "configuration_refusals"
    text = "a change of the configuration ({attributes}) is not taken, nothing was changed: {why}"


@dataclass(frozen=True)
class ConfigurationConfirmed(Event):
    """ThingsBoard was reached after a change that might have cut the gateway off."""

    counter = "configuration_confirmations"
    text = "ThingsBoard was reached with the changed configuration; it stays"


@dataclass(frozen=True)
class ConfigurationUndone(Event):
    """ThingsBoard was not reached in time after such a change."""

    files: str
    seconds: float
    level = LogLevel.error
    counter = "configuration_undone"
    text = "ThingsBoard was not reached within {seconds:g} s of a remote change; {files} is as it was before"


@dataclass(frozen=True)
class StatisticsCommandFailed(Event):
    """A command of `statistics.commands` gave nothing."""

    program: str
    why: str
    level = LogLevel.warn
    counter = "statistics_commands_failed"
    limited = True
    text = "the command {program} of thingsboard.statistics gave nothing: {why}"


@dataclass(frozen=True)
class Provisioned(Event):
    """ThingsBoard has given the gateway credentials, and they are kept."""

    name: str
    type: str
    counter = "provisioned"
    text = "provisioned as {name} with credentials of type {type}; they are kept, and used from now on"


@dataclass(frozen=True)
class ProvisioningFailed(Event):
    """A request for credentials had no answer."""

    why: str
    retry_seconds: float
    level = LogLevel.warn
    counter = "provisioning_failed"
    limited = True
    line_every_seconds = 1.0
    text = "no credentials yet: {why}; what devices send is stored; next try in {retry_seconds:.1f} s"


@dataclass(frozen=True)
class ProvisioningRefused(Event):
    """ThingsBoard does not give credentials."""

    status: str
    why: str
    hint: str
    retry_seconds: float
    level = LogLevel.error
    counter = "provisioning_refused"
    label = "status"
    text = (
        "ThingsBoard does not provision this gateway: {status} ({why}); {hint}; what devices send is stored; "
        "next try in {retry_seconds:.0f} s"
    )


@dataclass(frozen=True)
class CredentialsAssumed(Event):
    """A request whose answer was lost must have been granted."""

    name: str
    level = LogLevel.warn
    counter = "provisioned"
    text = (
        "the device {name} is there already, and an earlier request of ours had no answer: going on with what "
        "that one asked for; if ThingsBoard refuses it, delete the device there and use: tbgw provision --again"
    )


@dataclass(frozen=True)
class CredentialsUnusable(Event):
    """Kept credentials cannot be used; there is no link."""

    fault: str
    level = LogLevel.critical
    counter = "credentials_unusable"
    text = (
        "no link with ThingsBoard: {fault}; what devices send is stored; restore the file, or use: "
        "tbgw provision --again"
    )


@dataclass(frozen=True)
class CertificateExpires(Event):
    """The gateway's own certificate ends soon, or has ended, and is not renewed by itself."""

    file: str
    days: int
    why: str
    level = LogLevel.error
    counter = "certificate_expires"
    text = "the gateway's certificate {file} ends in {days} day(s): put in a new one; not renewed here: {why}"


@dataclass(frozen=True)
class CertificateRenewed(Event):
    """A new key and certificate are in use."""

    until: str
    counter = "certificates_renewed"
    text = "ThingsBoard has taken a new certificate of the gateway, which holds until {until}"


@dataclass(frozen=True)
class CertificateUnreadable(Event):
    """The gateway's own certificate cannot be looked at."""

    file: str
    why: str
    level = LogLevel.error
    counter = "certificates_unreadable"
    text = "the gateway's certificate {file} cannot be read: {why}"


@dataclass(frozen=True)
class PackageOffered(Event):
    """ThingsBoard offers the gateway a package, and it is taken up."""

    kind: str
    title: str
    version: str
    size_bytes: int
    counter = "packages_offered"
    label = "kind"
    text = "{kind} {title} {version} is offered, {size_bytes} bytes"


@dataclass(frozen=True)
class PackageChecked(Event):
    """A package lies on the disk, and its checksum is right."""

    kind: str
    title: str
    version: str
    counter = "packages_checked"
    label = "kind"
    text = "{kind} {title} {version} is here, and its checksum is right"


@dataclass(frozen=True)
class PackageUsed(Event):
    """The operator's program has taken a package."""

    kind: str
    title: str
    version: str
    counter = "packages_used"
    label = "kind"
    text = "{kind} {title} {version}: the configured command is through"


@dataclass(frozen=True)
class PackageFailed(Event):
    """A package was given up."""

    kind: str
    title: str
    version: str
    why: str
    level = LogLevel.error
    counter = "packages_failed"
    label = "kind"
    text = "{kind} {title} {version} was given up: {why}"
