"""Who may connect as what: access tokens, MQTT basic credentials and X.509 certificates (spec, 1.1). Pure.

A credential is found by its id, as in the real server: the token or the plain user name itself, the SHA3-256 of
`clientId`, of `clientId|userName`, or of the certificate. Look-ups go by a hash of what was offered, so that their time
tells nothing about what is stored, and secrets are then compared in constant time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

ACCESS_TOKEN = "ACCESS_TOKEN"  # noqa: S105 - the name of a kind, no secret
MQTT_BASIC = "MQTT_BASIC"
X509_CERTIFICATE = "X509_CERTIFICATE"
KINDS = (ACCESS_TOKEN, MQTT_BASIC, X509_CERTIFICATE)

MAX_SECRET_CHARS = 32_768
"""Of a token, a password or a certificate's text."""


def sha3(text: str) -> str:
    """ThingsBoard's id for what is too long or too secret to be one."""
    return hashlib.sha3_256(text.encode("utf-8", "replace")).hexdigest()


def certificate_text(pem: str) -> str:
    """The base64 text of the first certificate in `pem`, without armour and line ends; of DER text, itself."""
    _, begin, rest = pem.partition("-----BEGIN CERTIFICATE-----")
    body = rest.partition("-----END CERTIFICATE-----")[0] if begin else pem
    return "".join(body.split())


def certificate_text_of_der(der: bytes) -> str:
    """The same of a certificate that was shown in a handshake."""
    return base64.b64encode(der).decode()


class ShownCertificate(NamedTuple):
    """What a client showed in its handshake, proven as far as it goes: each certificate is signed by the next one."""

    chain: tuple[str, ...]
    """Base64 texts, the client's own first; empty for one that is not valid now."""
    common_name: str = ""
    """Of its own certificate."""


@dataclass(frozen=True)
class Credentials:
    """How one device may connect. Raises ValueError for what ThingsBoard does not store."""

    kind: str
    token: str = field(default="", repr=False)
    client_id: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    certificate: str = ""
    """Base64 text without armour."""

    def __post_init__(self) -> None:
        if any(len(value) > MAX_SECRET_CHARS for value in asdict(self).values()):
            raise ValueError("credentials are too long")
        if self.kind == ACCESS_TOKEN:
            if not self.token.strip():
                raise ValueError("a token is not empty")
        elif self.kind == MQTT_BASIC:
            if not (self.client_id or self.username):
                raise ValueError("MQTT basic credentials have a client id or a user name")
            if self.password and not self.username:
                raise ValueError("a password needs a user name")
        elif self.kind == X509_CERTIFICATE:
            if not self.certificate:
                raise ValueError("a certificate is not empty")
        else:
            raise ValueError(f"no such kind of credentials: one of {', '.join(KINDS)}")

    @property
    def id(self) -> str:
        """By which it is found."""
        if self.kind == ACCESS_TOKEN:
            return self.token
        if self.kind == X509_CERTIFICATE:
            return sha3(self.certificate)
        if self.client_id:
            return sha3(f"{self.client_id}|{self.username}" if self.username else self.client_id)
        return self.username

    def matches(self, username: str, password: str, client_id: str) -> bool:
        """Whether a CONNECT with these bears everything that these basic credentials ask for."""
        return all(
            hmac.compare_digest(wanted.encode("utf-8", "replace"), offered.encode("utf-8", "replace"))
            for wanted, offered in (
                (self.client_id, client_id),
                (self.username, username),
                (self.password, password),
            )
            if wanted
        )

    def provisioned_value(self) -> Any:
        """`credentialsValue` of a provisioning response."""
        if self.kind == ACCESS_TOKEN:
            return self.token
        if self.kind == X509_CERTIFICATE:
            return self.certificate
        return {"clientId": self.client_id, "userName": self.username, "password": self.password}


class CredentialsBook:
    """All credentials, each with the id of its device. A device has one kind at a time."""

    def __init__(self) -> None:
        self._by_id: dict[str, tuple[Credentials, int]] = {}
        self._of_device: dict[int, Credentials] = {}

    def set(self, device_id: int, credentials: Credentials) -> None:
        """These instead of what the device had. Raises ValueError when another device has them."""
        key = sha3(credentials.id)
        holder = self._by_id.get(key)
        if holder is not None and holder[1] != device_id:
            raise ValueError("another device has these credentials")
        self.remove(device_id)
        self._by_id[key] = (credentials, device_id)
        self._of_device[device_id] = credentials

    def remove(self, device_id: int) -> None:
        """The device cannot connect any more."""
        credentials = self._of_device.pop(device_id, None)
        if credentials is not None:
            del self._by_id[sha3(credentials.id)]

    def of(self, device_id: int) -> Credentials | None:
        """The credentials of a device."""
        return self._of_device.get(device_id)

    def find(self, username: str | None, password: bytes | None, client_id: str) -> int | None:
        """The id of the device that a CONNECT without certificate belongs to, in the server's order (1.1)."""
        name, secret = username or "", (password or b"").decode("utf-8", "replace")
        if not name:
            found = self._kept(sha3(client_id), MQTT_BASIC)
            if found is None or found[0].username or not found[0].matches(name, secret, client_id):
                return None
            return found[1]
        found = self._kept(sha3(f"{client_id}|{name}"), MQTT_BASIC)
        if found is not None and found[0].username:
            if found[0].matches(name, secret, client_id):
                return found[1]
            return None
        found = self._kept(name, ACCESS_TOKEN)
        if found is not None:
            return found[1]
        found = self._kept(name, MQTT_BASIC)
        if found is not None and found[0].username == name and found[0].matches(name, secret, client_id):
            return found[1]
        return None

    def find_certificate(self, text: str) -> int | None:
        """The id of the device that a certificate belongs to."""
        found = self._kept(sha3(text), X509_CERTIFICATE)
        return found[1] if found is not None else None

    def _kept(self, credentials_id: str, kind: str) -> tuple[Credentials, int] | None:
        found = self._by_id.get(sha3(credentials_id))
        return found if found is not None and found[0].kind == kind else None


def as_bytes(credentials: Credentials) -> bytes:
    """For the store."""
    return json.dumps({key: value for key, value in asdict(credentials).items() if value}).encode()


def from_json(value: Any) -> Credentials:
    """From JSON, as it is stored and as an operator gives it. Raises ValueError."""
    if not isinstance(value, dict) or not all(
        isinstance(key, str) and isinstance(text, str) for key, text in value.items()
    ):
        raise ValueError("credentials are an object of texts")
    names = {"kind", "token", "client_id", "username", "password", "certificate"}
    if not set(value) <= names:
        raise ValueError(f"credentials have {', '.join(sorted(names))}")
    known = dict(value)
    if "certificate" in known:
        known["certificate"] = certificate_text(known["certificate"])  # any text, as the server
    return Credentials(**{"kind": ACCESS_TOKEN, **known})
