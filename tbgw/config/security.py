# -*- test-case-name: tests.config.test_security -*-
"""How the gateway proves itself to ThingsBoard, and how it makes sure that it is ThingsBoard.

Invariants:

* A placeholder or an empty credential is a fault (P-01); so is a certificate that is missing or cannot be used.
* The certificate of the server is verified whenever there is TLS (P-02). Whatever implies TLS wins over `tls: false`:
  nothing is weaker than the strongest thing asked for. The one way around has a long name and warns each time (P-05).
* Secrets are `Secret`s from the moment they are read, and their values are in no finding (P-11).

The reference's order of precedence when `type` is left out: token, then certificate, then user name.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from tbgw.config.document import Node
from tbgw.config.findings import Reporter
from tbgw.config.settings import certificate, changed, config_section, flag, integer, one_of, secret, setting, text
from tbgw.config.values import Refused, Secret, ca_fault, is_world_readable, key_pair_fault, read_bytes, read_text

TYPES = ("accessToken", "usernamePassword", "tlsAccessToken", "x509Certificate")
TLS_PORT = 8883
MAX_SECRET_BYTES = 4096
"""Largest file with a secret: ThingsBoard's tokens have 20 characters, and 4 KiB is more than any credential."""

_KEYS_BY_TYPE = {
    "accessToken": ("accessToken", "accessTokenFile"),
    "tlsAccessToken": ("accessToken", "accessTokenFile"),
    "usernamePassword": ("username", "password", "passwordFile"),
    "x509Certificate": ("privateKey", "cert"),
}
NO_TOKEN = re.compile(r"(?:put|insert|enter|your|my|the|tb|gw|gateway|device|access)*token(?:here)?|changeme|x+")
_NO_LOGIN = re.compile(r"(?:put|insert|enter)?your(?:mqtt)?(?:user|password|username|login)(?:here)?|changeme")
"""Placeholders, in lower case and without what is between the words."""


def _read_secret_path(node: Node, reporter: Reporter) -> Path:
    return reporter.data_dir / read_text(node, reporter)


@config_section
class Security:
    """`thingsboard.security`."""

    type: str = one_of("type", choices=TYPES, default="", doc="Kind of credentials; found by the keys when left out.")
    access_token: Secret | None = secret(
        "accessToken", default=None, doc="Access token of the gateway device; sent as MQTT user name."
    )
    access_token_file: Path | None = setting(
        "accessTokenFile",
        read=_read_secret_path,
        default=None,
        doc="File that holds the access token, relative to the data folder. While it is the sandbox's own and not yet "
        "written, `access_token` is None and comes from the sandbox.",
    )
    client_id: str = text("clientId", default="", doc="MQTT client id; empty: ThingsBoard chooses.")
    username: str | None = text("username", default=None, doc="MQTT user name.")
    password: Secret | None = secret("password", default=None, doc="MQTT password.")
    password_file: Path | None = setting(
        "passwordFile",
        read=_read_secret_path,
        default=None,
        doc="File that holds the MQTT password, relative to the data folder.",
    )
    ca_cert: Path | None = certificate(
        "caCert", default=None, doc="PEM file of the certificates to trust instead of the system's; turns TLS on."
    )
    private_key: Path | None = certificate("privateKey", default=None, doc="PEM file of the gateway's private key.")
    cert: Path | None = certificate("cert", default=None, doc="PEM file of the gateway's certificate.")
    tls: bool = flag("tls", default=False, doc="Encrypt; implied by port 8883, a CA and two of the types.")
    accept_any_server: bool = flag(
        "dangerouslyAcceptAnyServerCertificate",
        default=False,
        doc="Do not verify who answers: anybody on the way can read and change everything. For tests only.",
    )
    insecure: bool = flag("insecure", default=False, doc="The reference's switch for not verifying; not obeyed.")

    certificate_check_seconds: int = integer(
        "checkCertPeriod",
        minimum=60,
        maximum=31 * 86_400,
        default=86_400,
        unit="seconds",
        doc="How often the gateway looks when its own certificate expires.",
    )
    certificate_days_left: int = integer(
        "certificateDaysLeft",
        minimum=1,
        maximum=365,
        default=30,
        unit="days",
        doc="So long before that it is renewed where that is possible, and said loudly where it is not.",
    )


def settle_security(
    security: Security, node: Node, port: int, sandbox_token_file: Path | None, reporter: Reporter
) -> Security:
    """
    Check the section as a whole, and fill in what follows from it: type, TLS, secrets from files. `node` is the
    section, `sandbox_token_file` the token file of the sandbox, when that is on: it may be absent yet.
    """
    kind = security.type or _type_by_keys(node)
    if not kind:
        reporter.missing(node, "accessToken", _NO_CREDENTIALS)
        return security
    security = changed(security, type=kind)
    _name_unused(kind, node, reporter)
    if kind in ("accessToken", "tlsAccessToken"):
        security = _settle_token(security, node, sandbox_token_file, reporter)
    elif kind == "usernamePassword":
        security = _settle_password(security, node, reporter)
    else:
        _check_certificate(security, node, reporter)
    return _settle_tls(security, node, port, reporter)


_NO_CREDENTIALS = (
    "there are no credentials: give accessToken (copy it from the gateway's device page in ThingsBoard), "
    "username and password, or privateKey and cert"
)


def report_no_security(thingsboard: Node, reporter: Reporter) -> None:
    """The fault of a configuration without a security section."""
    reporter.missing(thingsboard, "security", f"is missing: {_NO_CREDENTIALS}, or let ThingsBoard provision them")


def says_who_we_are(node: Node | None) -> Node | None:
    """The first key of a security section that is a credential; None when it has none."""
    if node is None:
        return None
    for key in ("accessToken", "accessTokenFile", "cert", "privateKey", "username", "password", "passwordFile"):
        child = node.member(key)
        if child is not None and child.value != "":
            return child
    return None


def settle_link(security: Security, node: Node, port: int, implied: str, reporter: Reporter) -> Security:
    """As `settle_security`, where credentials are provisioned: TLS alone. `implied`: what means TLS besides."""
    return _settle_tls(security, node, port, reporter, implied)


def _type_by_keys(node: Node) -> str:
    def has(*keys: str) -> bool:
        return any(node.member(key) is not None for key in keys)

    if has("accessToken", "accessTokenFile"):
        return "tlsAccessToken" if has("caCert") else "accessToken"
    if has("cert", "privateKey"):
        return "x509Certificate"
    return "usernamePassword" if has("username", "password", "passwordFile", "clientId") else ""


def _name_unused(kind: str, node: Node, reporter: Reporter) -> None:
    used = _KEYS_BY_TYPE[kind]
    for key in sorted({key for keys in _KEYS_BY_TYPE.values() for key in keys}):
        child = node.member(key)
        if child is not None and key not in used and child.value != "":
            reporter.without_effect(child, f"without effect: not used with security type {kind}")


def _settle_token(security: Security, node: Node, sandbox_file: Path | None, reporter: Reporter) -> Security:
    literal, file = node.member("accessToken"), node.member("accessTokenFile")
    if literal is None and file is None:
        reporter.missing(node, "accessToken", f"is missing: type {security.type} needs accessToken or accessTokenFile")
    elif literal is not None and file is not None:
        reporter.fault(file, "give accessToken or accessTokenFile, not both")
    elif literal is not None and security.access_token is not None:
        check_placeholder(security.access_token, NO_TOKEN, literal, reporter)
    elif file is not None and security.access_token_file is not None:
        path = security.access_token_file
        own = sandbox_file is not None and os.path.abspath(path) == os.path.abspath(sandbox_file)
        if own and not path.exists():
            return security
        return changed(security, access_token=_secret_from_file(path, NO_TOKEN, file, reporter))
    return security


def _settle_password(security: Security, node: Node, reporter: Reporter) -> Security:
    literal, file = node.member("password"), node.member("passwordFile")
    username = node.member("username")
    if literal is not None and file is not None:
        reporter.fault(file, "give password or passwordFile, not both")
    elif file is not None and security.password_file is not None:
        security = changed(security, password=_secret_from_file(security.password_file, _NO_LOGIN, file, reporter))
    elif literal is not None and security.password is not None:
        check_placeholder(security.password, _NO_LOGIN, literal, reporter)
    if username is not None and security.username is not None:
        check_placeholder(Secret(security.username), _NO_LOGIN, username, reporter)
    if username is None and not security.client_id:
        reporter.missing(node, "username", "is missing: type usernamePassword needs username, clientId or both")
    if username is None and (literal is not None or file is not None):
        reporter.missing(node, "username", "is missing: MQTT allows no password without a user name")
    return security


def _check_certificate(security: Security, node: Node, reporter: Reporter) -> None:
    for key in ("cert", "privateKey"):
        if node.member(key) is None:
            reporter.missing(node, key, "is missing: type x509Certificate needs privateKey and cert")
    if security.cert and security.private_key:
        fault = key_pair_fault(security.cert, security.private_key)
        if fault:
            reporter.fault(node.member("cert") or node, fault)


def _settle_tls(security: Security, node: Node, port: int, reporter: Reporter, implied: str = "") -> Security:
    causes = (
        (bool(implied), implied),
        (security.type in ("tlsAccessToken", "x509Certificate"), f"type {security.type}"),
        (node.member("caCert") is not None, "caCert"),
        (port == TLS_PORT, f"port {TLS_PORT}"),
    )
    cause = next((word for holds, word in causes if holds), "")
    explicit = node.member("tls")
    if explicit is not None and explicit.value is False and cause:
        reporter.doubt(explicit, f"is false, but {cause} means TLS; it stays on")
    if security.ca_cert:
        fault = ca_fault(security.ca_cert)
        if fault:
            reporter.fault(node.member("caCert") or node, fault)
    insecure = node.member("insecure")
    if security.insecure and insecure is not None:
        reporter.warning(insecure, "is not obeyed: the server's certificate is verified all the same")
    anyone = node.member("dangerouslyAcceptAnyServerCertificate")
    if security.accept_any_server and anyone is not None:
        reporter.warning(
            anyone, "the server's certificate is NOT verified: anybody on the way can read and change everything"
        )
    return changed(security, tls=security.tls or bool(cause))


def _secret_from_file(path: Path, placeholder: re.Pattern[str], node: Node, reporter: Reporter) -> Secret | None:
    try:
        content = read_bytes(path, MAX_SECRET_BYTES)
        found = Secret(content.decode("utf-8").strip())
    except Refused as refusal:
        refusal.report(node, reporter)
        return None
    except UnicodeDecodeError:
        reporter.fault(node, "the file is no UTF-8 text")
        return None
    if is_world_readable(path):
        reporter.warning(node, "everybody on this machine can read that file; chmod o-r it")
    check_placeholder(found, placeholder, node, reporter)
    return found


def check_placeholder(value: Secret, placeholder: re.Pattern[str], node: Node, reporter: Reporter) -> None:
    """A fault when it is empty, a template, or a word that stands for the real one (P-01)."""
    plain = value.reveal()
    if not plain.strip():
        reporter.fault(node, "is empty")
    elif "${" in plain:
        reporter.fault(node, "is a ${...} template, and those are not filled in here; use an environment variable")
    elif placeholder.fullmatch(re.sub(r"[^a-z0-9]", "", plain.lower())):
        reporter.fault(node, "is a placeholder: put in the real one, from the gateway's device page in ThingsBoard")
