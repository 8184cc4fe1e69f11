# -*- test-case-name: tests.connectors.ocpp.test_access -*-
"""What an OCPP connector's file says of the listener: transport, logins, and limits (spec ocpp, 1.2, 1.6 and 2.4).

A plain listener that others than this machine can reach, and one that asks for no credentials, load as in the
reference, with a warning (P-06). A certificate that cannot be used is a fault; the reference then listens in clear.
`{"type": "anonymous"}` lets everybody in, which the reference documents and then refuses.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tbgw.config.schema import (
    Node,
    Refused,
    Reporter,
    Secret,
    ca_fault,
    certificate,
    config_section,
    flag,
    integer,
    is_loopback,
    key_pair_fault,
    one_of,
    printable,
    read_flag,
    read_host,
    read_items,
    read_object,
    read_secret,
    read_text,
    section,
    sections,
    setting,
    text,
)
from tbgw.connectors.ocpp.passwords import HashInvalid, PasswordHash, parse_hash
from tbgw.ocpp.actions import central_actions
from tbgw.ocpp.versions import Version

IDENTITY = "${chargePointId}"
"""As a user name: it has to be the charge point's own id."""

_SAMPLE_SECRETS = ("admin", "Bearer ACCESS_TOKEN")
_VERSIONS: Mapping[str, Version] = {
    **{version.value: version for version in Version},
    **{version.value.removeprefix("ocpp"): version for version in Version},
}


def read_version(node: Node, reporter: Reporter) -> Version:
    """`ocpp1.6` or `1.6`, and so on."""
    word = read_text(node, reporter)
    if word not in _VERSIONS:
        allowed = ", ".join(version.value for version in Version)
        raise Refused(f'is "{printable(word)}", must be one of {allowed}')
    return _VERSIONS[word]


def read_versions(node: Node, reporter: Reporter) -> tuple[Version, ...]:
    """A list of versions with something in it."""
    versions: tuple[Version, ...] = read_items(read_version)(node, reporter)
    if not versions:
        raise Refused("names no version, so nobody could connect")
    return tuple(dict.fromkeys(versions))


def _read_hash(node: Node, reporter: Reporter) -> PasswordHash:
    try:
        return parse_hash(read_secret(node, reporter).reveal())
    except HashInvalid as error:
        raise Refused(str(error)) from None


def _read_hex(node: Node, reporter: Reporter) -> Secret:
    found: Secret = read_secret(node, reporter)
    if not re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", found.reveal()):
        raise Refused("must be hexadecimal digits, two for each byte of the password")
    return found


def _read_binding(node: Node, reporter: Reporter) -> str | re.Pattern[str]:
    word = read_text(node, reporter)
    if word in ("id", "serial"):
        return word
    try:
        return re.compile(word)
    except (re.error, RecursionError, OverflowError) as error:
        raise Refused(f'is neither "id" nor "serial" nor a regular expression: {error}') from None


def _read_network(node: Node, reporter: Reporter) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(read_text(node, reporter).strip(), strict=False)
    except ValueError:
        raise Refused("is no IP address and no network such as 10.0.0.0/8") from None


@config_section
class KeyPair:
    """A certificate with its key."""

    cert: Path = certificate("cert", doc="PEM file of the certificate, followed by its chain if there is one.")
    key: Path = certificate("key", doc="PEM file of the private key.")
    password: Secret | None = setting("password", read=read_secret, default=None, doc="Passphrase of the private key.")


@config_section
class Connection:
    """The object `connection`."""

    type: Literal["insecure", "tls"] = one_of(
        "type", choices=("insecure", "tls"), default="insecure", doc="ws:// or wss://."
    )
    key: Path | None = certificate("key", default=None, doc="PEM file of the private key.")
    cert: Path | None = certificate("cert", default=None, doc="PEM file of the certificate, its chain behind it.")
    password: Secret | None = setting("password", read=read_secret, default=None, doc="Passphrase of the private key.")
    more: tuple[KeyPair, ...] = sections(
        KeyPair,
        "additionalCertificates",
        default=(),
        doc="Certificates of another kind for clients that want that one, such as ECDSA beside RSA. Our own key.",
    )
    ca: Path | None = certificate(
        "ca", "caCert", default=None, doc="PEM file of the authorities of clients' certificates (profile 3). Our own."
    )
    verify_client: bool = flag(
        "verifyClient",
        default=False,
        doc="Whether every client needs a certificate of `ca`. With `ca` and without this, one that is shown counts "
        "as a login. Our own key.",
    )
    common_name: str | re.Pattern[str] | None = setting(
        "cnMustMatch",
        read=_read_binding,
        default=None,
        doc="What the certificate's CN, or one of its DNS names, has to be: the charge point's id, its serial, or a "
        "regular expression for the whole. With a certificate as the only login it is id by default. Our own key.",
    )
    organization: str | None = text(
        "organization", default=None, doc="What the O of the subject of a client's certificate has to be. Our own key."
    )
    allow_downgrade: bool = flag(
        "allowDowngrade",
        default=False,
        doc="Whether a charge point that once came with a higher security profile may come with a lower one again.",
    )

    @property
    def has_tls(self) -> bool:
        """Whether it is wss."""
        return self.type == "tls"


@config_section
class Credential:
    """One entry of `credentials`: who it is for, and one of the four kinds of secret."""

    username: str = text(
        "username",
        default=IDENTITY,
        doc="User name; left out, or ${chargePointId}: it has to be the charge point's own id.",
    )
    password: Secret | None = setting("password", read=read_secret, default=None, doc="Password, as text in UTF-8.")
    password_hex: Secret | None = setting(
        "passwordHex",
        read=_read_hex,
        default=None,
        doc="Password in hexadecimal, as an AuthorizationKey of 1.6 is written: 40 digits for its 20 bytes. Our own.",
    )
    password_hash: PasswordHash | None = setting(
        "passwordHash", read=_read_hash, default=None, doc="What `tbgw hash` printed for a password. Our own key."
    )
    charge_points: re.Pattern[str] | None = setting(
        "chargePoints",
        read=lambda node, reporter: read_pattern(node, reporter),
        default=None,
        doc="Regular expression for the ids that may use this entry; left out: all. Our own key.",
    )


@config_section
class Login:
    """One entry of `security`; a charge point needs to satisfy one of them."""

    type: Literal["token", "basic", "anonymous"] = one_of(
        "type", choices=("token", "basic", "anonymous"), doc="Kind of login."
    )
    tokens: tuple[Secret, ...] = setting(
        "tokens", read=read_items(read_secret), default=(), doc="Whole Authorization headers that are accepted."
    )
    credentials: tuple[Credential, ...] = sections(
        Credential, "credentials", default=(), doc="User names and passwords that are accepted."
    )


@config_section
class Validation:
    """The object `validation`: how strictly messages are held against their schemas."""

    inbound: Literal["lenient", "strict", "off"] = one_of(
        "inbound",
        choices=("lenient", "strict", "off"),
        default="lenient",
        doc="What comes: lenient counts and takes it, strict answers with an error, off does not look.",
    )


def read_pattern(node: Node, reporter: Reporter) -> re.Pattern[str]:
    """A regular expression."""
    try:
        return re.compile(read_text(node, reporter))
    except (re.error, RecursionError, OverflowError) as error:
        raise Refused(f"is no regular expression: {error}") from None


@config_section
class Entrance:
    """What `centralSystem` says of the listener and of who may come in. The rest of that object is in `config`."""

    host: str = setting("host", read=read_host, default="127.0.0.1", doc="Local address to listen on.")
    port: int = integer("port", minimum=1, maximum=65535, default=9000, unit="TCP port", doc="Local port.")
    connection: Connection = section(Connection, "connection", default=Connection(), doc="Plain or TLS.")
    security: tuple[Login, ...] = sections(Login, "security", default=(), doc="Logins; empty: everybody may connect.")
    name: str = text("name", default="Central System", doc="Display name.")
    strict_identity: bool = flag(
        "strictIdentity",
        default=False,
        doc="Whether the user name of every basic login has to be the charge point's id, as OCPP demands.",
    )
    unknown_charge_point: Literal["reject", "accept"] = one_of(
        "unknownChargePoint",
        choices=("reject", "accept"),
        default="reject",
        doc="What becomes of an id that fits no entry of chargePoints: 404, or taken in under its id as name.",
    )
    versions: tuple[Version, ...] = setting(
        "ocppVersions", read=read_versions, default=tuple(Version), doc="Versions that are spoken."
    )
    missing_subprotocol: Version | None = setting(
        "allowMissingSubprotocol",
        read=read_version,
        default=None,
        doc="Version for a charge point that names none in its handshake; left out: it is turned away.",
    )
    call_timeout_seconds: int = integer(
        "callTimeout", minimum=1, maximum=3600, default=30, unit="seconds", doc="How long an answer is waited for."
    )
    max_queued_calls: int = integer(
        "maxQueuedCalls", minimum=1, maximum=10_000, default=100, unit="Calls", doc="Calls that wait for one station."
    )
    ping_interval_seconds: int = integer(
        "pingInterval", minimum=0, maximum=86_400, default=60, unit="seconds", doc="Pause between pings; 0: no pings."
    )
    ping_timeout_seconds: int = integer(
        "pingTimeout", minimum=1, maximum=3600, default=30, unit="seconds", doc="How long a pong is waited for."
    )
    max_message_bytes: int = integer(
        "maxMessageSize", minimum=1024, maximum=64 * 1024 * 1024, default=1024 * 1024, unit="bytes",
        doc="Longest message that is taken.",
    )
    max_connections: int = integer(
        "maxConnections", minimum=1, maximum=1_000_000, default=12_000, unit="connections",
        doc="Charge points at one time; more are told 503.",
    )
    connections_per_second: int = integer(
        "connectionsPerSecond", minimum=1, maximum=100_000, default=200, unit="connections",
        doc="New connections in a second; more are told 503 and when to come again.",
    )
    handshake_timeout_seconds: int = integer(
        "handshakeTimeout", minimum=1, maximum=300, default=20, unit="seconds",
        doc="How long TLS and the WebSocket handshake may take together.",
    )
    failed_logins_per_minute: int = integer(
        "failedLoginsPerMinute", minimum=1, maximum=10_000, default=30, unit="failures",
        doc="Failed logins from one address in a minute; beyond, it is told 503 for a while.",
    )
    compression: bool = flag(
        "compression", default=True, doc="Whether permessage-deflate is agreed to where 2.x stations offer it."
    )
    trusted_proxies: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = setting(
        "trustedProxies",
        read=read_items(_read_network),
        default=(),
        doc="Addresses of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed.",
    )
    validation: Validation = section(
        Validation, "validation", default=Validation(), doc="How strictly messages are held against their schemas."
    )
    native_rpc: bool | tuple[str, ...] = setting(
        "nativeRpc",
        read=lambda node, reporter: read_native(node, reporter),
        default=True,
        doc="Whether OCPP's own actions may be called as RPCs without configuration: true, false, or a list of them.",
    )
    resend_attributes: bool = flag(
        "resendAttributes",
        default=True,
        doc="Whether a charge point is told its shared attributes after each start of the gateway, changed or not.",
    )


def read_action(node: Node, reporter: Reporter) -> str:
    """The name of a Call. One that no version has is a doubt: the command can only fail."""
    name: str = read_text(node, reporter)
    if not any(name in central_actions(version) for version in Version):
        reporter.doubt(node, "is no Call that a Central System sends, in no version of OCPP")
    return name


def read_native(node: Node, reporter: Reporter) -> bool | tuple[str, ...]:
    """true, false or a list of actions."""
    if isinstance(node.value, bool):
        return node.value
    if isinstance(node.value, tuple):
        actions: tuple[str, ...] = read_items(read_action)(node, reporter)
        return actions
    raise Refused(f"is {node.kind}, must be true, false or a list of actions")


def flag_or_none(key: str, doc: str) -> Any:
    """true, false, or None when the key is not there."""
    return setting(key, read=read_flag(""), default=None, doc=doc)


def check_entrance(entrance: Entrance, node: Node, reporter: Reporter) -> None:
    """What only shows when several keys are looked at together. `node`: the object `centralSystem`."""
    _check_connection(entrance, node, reporter)
    guarded = entrance.connection.has_tls and entrance.connection.verify_client
    check_logins(entrance.security, node, reporter, open_to=entrance.host, guarded=guarded)


def _check_connection(entrance: Entrance, node: Node, reporter: Reporter) -> None:
    connection = entrance.connection
    connection_node = node.member("connection") or node
    if not connection.has_tls:
        if not is_loopback(entrance.host):
            reporter.warning(
                node.member("host") or node,
                f"others than this machine reach {printable(entrance.host)} without TLS; passwords travel readable",
            )
        for key in ("ca", "caCert", "verifyClient", "cnMustMatch", "organization", "additionalCertificates"):
            if (child := connection_node.member(key)) is not None:
                reporter.without_effect(child, "without effect with type insecure")
        return
    for key in ("cert", "key"):
        if connection_node.member(key) is None:
            reporter.missing(connection_node, key, "is missing: type tls needs cert and key")
    pairs: tuple[Connection | KeyPair, ...] = (connection, *connection.more)
    for pair in pairs:
        if pair.cert and pair.key and (fault := key_pair_fault(pair.cert, pair.key, pair.password)):
            reporter.fault(connection_node, fault)
    if connection.ca is not None:
        if fault := ca_fault(connection.ca):
            reporter.fault(connection_node, fault)
    elif connection_node.member("ca") is None and connection_node.member("caCert") is None:
        for key in ("verifyClient", "cnMustMatch", "organization"):
            child = connection_node.member(key)
            if child is not None and child.value is not False:
                reporter.missing(connection_node, "ca", f"is missing: {key} needs the authorities of the clients")


def check_logins(
    logins: Sequence[Login], node: Node, reporter: Reporter, open_to: str = "", guarded: bool = False
) -> None:
    """`security` in `node`; `open_to`: the local address, if it is the listener's own list."""
    security = node.member("security")
    stated = security is not None and security.value != ()
    if not logins and not stated:
        if open_to and not is_loopback(open_to) and not guarded:
            reporter.warning(node, "without security entries every charge point that knows a fitting id may connect")
        return
    if security is None or not isinstance(security.value, tuple):
        return
    kinds = [login.type for login in logins]
    if "anonymous" in kinds and len(kinds) > 1:
        reporter.doubt(security, "anonymous lets everybody in, so the other entries do not matter")
    elif "anonymous" in kinds and open_to and not is_loopback(open_to):
        reporter.warning(security, "anonymous: every charge point that knows a fitting id may connect")
    for entry in security.value:
        _check_login(entry, reporter)


def _check_login(node: Node, reporter: Reporter) -> None:
    if not isinstance(node.value, Mapping):
        return
    kind = read_object(node, reporter).get("type")
    key = {"token": "tokens", "basic": "credentials"}.get(str(kind.value) if kind else "")
    if key is None:
        return
    listed = node.member(key)
    if listed is None or listed.value == ():
        reporter.missing(node, key, "is missing or empty, so this entry lets nobody in")
        return
    for item in listed.value if isinstance(listed.value, tuple) else ():
        if key == "credentials":
            _check_credential(item, reporter)
        else:
            _check_secret(item, reporter)


def _check_credential(node: Node, reporter: Reporter) -> None:
    if not isinstance(node.value, Mapping):
        return
    kinds = ("password", "passwordHex", "passwordHash")
    found = [child for kind in kinds if (child := node.member(kind)) is not None]
    if not found:
        reporter.missing(node, "password", "is missing; passwordHex or passwordHash may stand in its place")
    elif len(found) > 1:
        reporter.fault(found[1], "only one of password, passwordHex and passwordHash may be there")
    password = node.member("password")
    if password is not None:
        _check_secret(password, reporter)


def _check_secret(node: Node, reporter: Reporter) -> None:
    if not isinstance(node.value, str):
        return
    if not node.value.strip():
        reporter.fault(node, "is empty")
    elif node.value in _SAMPLE_SECRETS:
        reporter.warning(node, "is the one of the sample file; set a real one")


def check_patterns(patterns: Sequence[re.Pattern[str]], nodes: Sequence[Node], reporter: Reporter) -> None:
    """
    Patterns are matched whole, the reference's as a prefix (O-11): where that makes a difference among the entries of
    one file, it is told.
    """
    for pattern, node in zip(patterns, nodes, strict=False):
        literal = pattern.pattern
        longer = [other.pattern for other in patterns if other.pattern != literal and other.pattern.startswith(literal)]
        if longer and not set(literal) & set("*+?[](){}|^$\\."):
            reporter.notice(
                node, f"is matched whole: it does not take {printable(longer[0])} with it, as in the existing gateway"
            )
