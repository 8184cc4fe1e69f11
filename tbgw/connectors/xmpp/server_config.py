# -*- test-case-name: tests.connectors.test_xmpp_config -*-
"""The object `server` of an XMPP connector's file: the account, and the way to its server (spec, 1B.1).

The documents' tables write `disableStarttls`, their examples and the code `disable_starttls`: both are taken. What the
reference does not have is ours, and has safe defaults: certificates are verified, for the JID's domain; passwords are
never sent readable (the reference does so unasked, its bug X-20).

`host` left out means the SRV records of the JID's domain, and without any the domain itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from twisted.words.protocols.jabber.jid import JID, InvalidFormat

from tbgw.config.schema import (
    Node,
    Refused,
    Reporter,
    Secret,
    changed,
    config_section,
    flag,
    integer,
    is_loopback,
    key_pair_fault,
    one_of,
    read_host,
    read_items,
    read_section,
    read_text,
    secret,
    setting,
    text,
)
from tbgw.config.schema import certificate as pem_file
from tbgw.config.values import is_world_readable, read_bytes
from tbgw.connectors.xmpp.sasl import ALL_NAMES, saslprep

_JID = re.compile(r"(?:[^@/\s\"&'<>:]{1,1023}@)?[^@/\s]{1,1023}(?:/.{1,1023})?")
MAX_SECRET_BYTES = 4096
"""Largest file with a password."""
KNOWN_PLUGINS = ("xep_0030", "xep_0184", "xep_0198", "xep_0199", "xep_0203", "xep_0323", "xep_0325")
"""What the gateway can do; the last two are done only when they are named."""


def read_jid(node: Node, reporter: Reporter) -> str:
    """A JID, as it stands."""
    jid = read_text(node, reporter).strip()
    try:
        fit = bool(_JID.fullmatch(jid)) and bool(JID(jid).full())
    except (InvalidFormat, UnicodeError, IndexError):  # the last is Twisted's, for a domain with an empty label
        fit = False
    if not fit:
        raise Refused("is no JID; allowed is name@domain or name@domain/resource")
    return jid


def _read_tls(node: Node, reporter: Reporter) -> XMPPTLS:
    tls = read_section(XMPPTLS, node, reporter)
    if (tls.certificate is None) != (tls.private_key is None):
        reporter.fault(node, "needs both certificate and privateKey, or neither")
    elif tls.certificate is not None and tls.private_key is not None:
        if why := key_pair_fault(tls.certificate, tls.private_key):
            reporter.fault(node, why)
        reporter.holds_secret(node)
    if tls.accept_any_server:
        given = node.member("dangerouslyAcceptAnyServerCertificate") or node
        reporter.warning(given, "whoever answers is not verified: anybody on the way can read and change everything")
    return tls


def _read_mechanism(node: Node, reporter: Reporter) -> str:
    name = read_text(node, reporter).strip().upper()
    if name not in ALL_NAMES:
        raise Refused(f"is none of {', '.join(ALL_NAMES)}")
    return name


def _read_plugin(node: Node, reporter: Reporter) -> str:
    name = read_text(node, reporter)
    if name not in KNOWN_PLUGINS:
        reporter.warning(node, f"is not known here; known are {', '.join(KNOWN_PLUGINS)}")
    return name


def _read_password_file(node: Node, reporter: Reporter) -> Secret:
    path = reporter.config_dir / read_text(node, reporter)
    content = read_bytes(path, MAX_SECRET_BYTES)
    if is_world_readable(path):
        reporter.warning(node, "can be read by every user of this machine")
    try:
        found = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Refused("does not hold a text in UTF-8") from None
    if not found.strip() or "\n" in found:
        raise Refused("must hold the password in one line")
    return Secret(found)


@config_section
class XMPPTLS:
    """The object `tls` in `server`. Our own key."""

    ca_cert: Path | None = pem_file(
        "caCert", default=None, doc="PEM file of the only authorities that are trusted, instead of the system's."
    )
    certificate: Path | None = pem_file(
        "certificate", "cert", default=None, doc="PEM file of our certificate, for the login EXTERNAL."
    )
    private_key: Path | None = pem_file("privateKey", default=None, doc="PEM file of its key, without a passphrase.")
    server_name: str | None = text(
        "serverName", default=None, doc="Name that the certificate must be for; None: the domain of the JID."
    )
    accept_any_server: bool = flag(
        "dangerouslyAcceptAnyServerCertificate",
        default=False,
        doc="Do not verify who answers. Anybody on the way can read and change everything. For tests only.",
    )


@config_section
class XMPPServer:
    """The object `server`: the account, and the way to its server."""

    jid: str = setting("jid", read=read_jid, doc="The gateway's own account, name@domain; a component's domain.")
    password: Secret | None = secret(
        "password", default=None, doc="Password of the account. Not needed with a certificate, or without a name."
    )
    password_file: Secret | None = setting(
        "passwordFile",
        read=_read_password_file,
        default=None,
        doc="File with the password in its one line, e.g. a systemd credential; relative to this file. Our own key.",
    )
    host: str | None = setting(
        "host", read=read_host, default=None, doc="Host name or address of the server; None: SRV records of the domain."
    )
    port: int | None = integer(
        "port", minimum=1, maximum=65535, default=None, unit="TCP port", doc="Port of the server; None: the usual one."
    )
    direct_tls: bool = flag("use_ssl", "useSsl", default=False, doc="TLS from the first byte, in place of STARTTLS.")
    disable_starttls: bool = flag("disable_starttls", "disableStarttls", default=False, doc="Never encrypt.")
    force_starttls: bool = flag(
        "force_starttls", "forceStarttls", default=True, doc="Do not log in to a server without STARTTLS."
    )
    unencrypted_plain_auth: bool = flag(
        "unencrypted_plain_auth", "unencryptedPlainAuth", default=False, doc="Send the password readable if asked to."
    )
    timeout_ms: int = integer(
        "timeout", minimum=1, maximum=600_000, default=10_000, unit="ms", doc="Longest time for connecting."
    )
    plugins: tuple[str, ...] = setting(
        "plugins",
        read=read_items(_read_plugin),
        default=("xep_0030", "xep_0323", "xep_0325"),
        doc="XMPP extensions to use. xep_0323 and xep_0325 switch the IoT stanzas on.",
    )
    component: bool = flag(
        "component", default=False, doc="Connect as a server component (XEP-0114); jid is its domain. Our own key."
    )
    resource: str | None = text(
        "resource", default=None, doc="Resource, if the JID has none; None: the server's choice. Our own key."
    )
    username: str | None = text(
        "username", default=None, doc="Name for the login, if it is not the JID's local part. Our own key."
    )
    authzid: str | None = text(
        "authorizationId", default=None, doc="Identity to act as, if the login's name may be another's. Our own key."
    )
    mechanisms: tuple[str, ...] = setting(
        "mechanisms",
        read=read_items(_read_mechanism),
        default=ALL_NAMES,
        doc="SASL mechanisms that may be used; the order is always best first. Our own key.",
    )
    channel_binding: Literal["prefer", "require", "off"] = one_of(
        "channelBinding",
        choices=("prefer", "require", "off"),
        default="prefer",
        doc="Whether SCRAM is bound to the TLS connection. Our own key.",
    )
    tls: XMPPTLS = setting("tls", read=_read_tls, default=XMPPTLS(), doc="Certificates. Our own key.")
    login_seconds: int = integer(
        "loginTimeoutSeconds",
        minimum=1,
        maximum=600,
        default=30,
        unit="seconds",
        doc="Longest time from connecting to a session. Our own key.",
    )
    ping_seconds: int = integer(
        "pingPeriodSeconds",
        minimum=0,
        maximum=86_400,
        default=60,
        unit="seconds",
        doc="Silence after which the server is asked whether it lives; 0: never. Our own key.",
    )
    ping_timeout_seconds: int = integer(
        "pingTimeoutSeconds",
        minimum=1,
        maximum=600,
        default=20,
        unit="seconds",
        doc="How long it may take to answer. Our own key.",
    )
    stream_management: bool = flag(
        "streamManagement", default=True, doc="XEP-0198: lose nothing when a connection breaks. Our own key."
    )
    resume_seconds: int = integer(
        "resumeSeconds",
        minimum=0,
        maximum=86_400,
        default=300,
        unit="seconds",
        doc="How long the server is asked to keep a session that was cut; 0: not. Our own key.",
    )
    max_stanza_bytes: int = integer(
        "maxStanzaBytes",
        minimum=1_000,
        maximum=10_000_000,
        default=200_000,
        unit="bytes",
        doc="Largest stanza to send. Servers end the session at one above theirs, often 262144. Our own key.",
    )
    max_received_bytes: int = integer(
        "maxReceivedStanzaBytes",
        minimum=10_000,
        maximum=16_000_000,
        default=1 << 20,
        unit="bytes",
        doc="Largest stanza to take; a larger one is read past. Our own key.",
    )

    @property
    def needs_tls(self) -> bool:
        """Whether OpenSSL has to be there."""
        return self.direct_tls or not (self.disable_starttls or self.component)


def read_server(node: Node, reporter: Reporter) -> XMPPServer:
    """The section, checked as a whole."""
    server = read_section(XMPPServer, node, reporter)
    if server.password_file is not None:
        if server.password is not None:
            reporter.fault(node.member("passwordFile") or node, "give password or passwordFile, not both")
        server = changed(server, password=server.password_file, password_file=None)
    _check_login(server, node, reporter)
    _check_encryption(server, node, reporter)
    if server.resource and "/" in server.jid:
        reporter.fault(node.member("resource") or node, "stands in jid as well")
    elif server.resource:
        server = changed(server, jid=f"{server.jid}/{server.resource}")
    return server


def _check_login(server: XMPPServer, node: Node, reporter: Reporter) -> None:
    given = node.member("password") or node.member("passwordFile")
    password = server.password.reveal() if server.password is not None else ""
    if given is not None and server.password is None:
        pass  # what is wrong with it was said as it was read
    elif given is not None and not password.strip():
        reporter.fault(given, "is empty")
    elif password == "password":  # noqa: S105 - the sample file's, which is no secret
        reporter.warning(given or node, "is the one of the sample file; set a real one")
    else:
        try:
            saslprep(password)
        except ValueError as error:
            reporter.fault(given or node, str(error))
    named = "@" in server.jid.partition("/")[0]
    if server.component:
        if named or "/" in server.jid:
            reporter.fault(node.member("jid") or node, "must be the component's domain alone: devices.example.org")
        if given is None:
            reporter.missing(node, "password", "is missing: the secret that the component shares with the server")
        for key in ("resource", "username", "authorizationId", "mechanisms", "channelBinding"):
            if (useless := node.member(key)) is not None:
                reporter.doubt(useless, "has no effect for a component")
    elif given is None and (named or server.username) and server.tls.certificate is None:
        reporter.missing(node, "password", "is missing, and there is no client certificate in tls either")
    elif given is not None and not named and not server.username:
        reporter.doubt(given, "is not used: a JID without a name before the @ logs in anonymously")


def _check_encryption(server: XMPPServer, node: Node, reporter: Reporter) -> None:
    if server.component and not server.direct_tls:
        host = server.host or "localhost"
        if not is_loopback(host) and not server.disable_starttls:
            reporter.fault(
                node,
                "a component has no STARTTLS: set use_ssl, or a host on this machine, "
                "or disable_starttls if the network may read everything",
            )
    if server.disable_starttls and not server.direct_tls:
        disabled = node.member("disable_starttls") or node.member("disableStarttls") or node
        if server.force_starttls and (node.member("force_starttls") or node.member("forceStarttls")):
            reporter.fault(disabled, "and force_starttls contradict each other")
        reporter.warning(disabled, "without TLS the password and all data travel readable")
