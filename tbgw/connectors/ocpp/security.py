# -*- test-case-name: tests.connectors.ocpp.test_security -*-
"""Who may come in: asked before the WebSocket is accepted, so that the charge point sees 401, 403, 404 or 503 (spec
ocpp, 1.2 and 1.6).

In this order:

1. The path has to fit an entry of `chargePoints`, whole (P-09); 404. With a named group `id` that is the charge
   point's id, else its last segment is. A pattern that fits the last segment alone does too (O4).
2. An address from which many logins failed within a minute is told 503, unless the very login it shows was good before.
3. A client's certificate: its CN (or a DNS name of it) has to be the id, or the serial; its O as configured; 403.
4. `security`: one of its entries has to be satisfied; 401. A password that ThingsBoard gave the charge point takes the
   place of all configured ones. All comparisons take the same time, whatever they find.
5. A charge point that once came with a higher profile is refused with a lower one; 403.

Logins that were good are remembered by a keyed digest, so that a storm of reconnections costs neither scrypt nor
comparisons. scrypt runs in a thread of its own, and only so many wait for it; more are told 503.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from tbgw.connectors.ocpp.access import IDENTITY, Credential, Entrance, Login
from tbgw.connectors.ocpp.config import UNKNOWN_CHARGE_POINT, ChargePoint, OCPPConfig
from tbgw.connectors.ocpp.hashing import Hashing
from tbgw.connectors.ocpp.internal_events import LoginRefused, LoginsTooMany, PasswordChanged, StationUnknown
from tbgw.connectors.ocpp.ledger import Entry, Ledger
from tbgw.connectors.ocpp.passwords import PasswordHash
from tbgw.internal_events import Events
from tbgw.ocpp.interfaces import Admission, Handshake, Refusal

MAX_GOOD = 100_000
"""Logins that are remembered as good."""
MAX_ADDRESSES = 10_000
"""Addresses whose failures are counted at one time."""
MAX_IDENTITY_CHARACTERS = 255
RETRY_SECONDS = 30
"""After how long to come again from an address with many failures."""
BUSY_RETRY_SECONDS = 5
"""After how long to come again when too many logins wait to be hashed: most of these are through by then."""
CHALLENGE = {"WWW-Authenticate": 'Basic realm="OCPP", charset="UTF-8"'}

NO_LOGIN, BASIC, BASIC_TLS, CERTIFICATE = range(4)
"""Security profiles; 0 is none of OCPP's."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What was found of a charge point that may come in."""

    identity: str
    point: ChargePoint
    profile: int
    names: frozenset[str] = frozenset()
    """If not empty: one of these has to be the serial in its BootNotification, before which nothing is taken."""


def find_point(config: OCPPConfig, path: str, identity: str) -> ChargePoint | None:
    """The entry for a charge point: the first whose pattern fits the whole path, else the whole last segment."""
    for text in (path, identity):
        for point in config.charge_points:
            if point.id_pattern.fullmatch(text):
                return point
    return UNKNOWN_CHARGE_POINT if config.central_system.unknown_charge_point == "accept" else None


def charge_point_id(point: ChargePoint, path: str, identity: str) -> str:
    """What the pattern's group `id` matched, else the path's last segment."""
    if "id" not in point.id_pattern.groupindex:
        return identity
    match = point.id_pattern.fullmatch(path) or point.id_pattern.fullmatch(identity)
    return match["id"] or identity if match else identity


def certificate_names(certificate: Any) -> frozenset[str]:
    """CN and DNS names of a `cryptography.x509.Certificate`."""
    from cryptography import x509

    names = {str(one.value) for one in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)}
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names.update(alternatives.get_values_for_type(x509.DNSName))
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        pass  # most have none; one that cannot be read has no names for us
    return frozenset(names)


def _organizations(certificate: Any) -> frozenset[str]:
    from cryptography import x509

    return frozenset(
        str(one.value) for one in certificate.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)
    )


def _same(one: bytes, other: bytes) -> bool:
    """In constant time, their lengths included."""
    return hmac.compare_digest(hashlib.sha256(one).digest(), hashlib.sha256(other).digest())


def basic_login(authorization: bytes | None) -> bytes | None:
    """`name:password` of a Basic header, as bytes; None for anything else."""
    scheme, _, value = (authorization or b"").strip().partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        return base64.b64decode(value.strip(), validate=True)
    except binascii.Error:
        return None


def _as_hex(password: bytes) -> bytes | None:
    """The bytes that the password is the hexadecimal text of: some charge points send their AuthorizationKey so."""
    if len(password) % 2 or not re.fullmatch(rb"[0-9A-Fa-f]{8,}", password):
        return None
    return bytes.fromhex(password.decode("ascii"))


class Doorkeeper:
    """See the module. One for each connector."""

    def __init__(
        self,
        connector: str,
        config: OCPPConfig,
        ledger: Ledger,
        hashing: Hashing,
        events: Events,
        clock: IReactorTime,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._connector = connector
        self._config = config
        self._central: Entrance = config.central_system
        self._ledger = ledger
        self._hashing = hashing
        self._events = events
        self._clock = clock
        self._key = random(32)
        self._good: OrderedDict[str, bytes] = OrderedDict()
        """Id to the keyed digest of the last login that was good."""
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """Address to (when counting began, failures since)."""

    def admit(self, handshake: Handshake) -> Deferred[Pass | Refusal] | Pass | Refusal:
        """See the module. Never raises for what is in the handshake."""
        point = find_point(self._config, handshake.path, handshake.identity)
        peer = f"{handshake.peer[0]}:{handshake.peer[1]}"
        if point is None or not _is_usable(handshake.identity):
            self._events.emit(StationUnknown(self._connector, peer, handshake.path[:300]))
            return Refusal(404, "no entry of chargePoints fits")
        identity = charge_point_id(point, handshake.path, handshake.identity)
        entry = self._ledger.entry(identity)
        logins = self._central.security if point.security is None else point.security
        names: frozenset[str] = frozenset()
        proven = False
        must = self._central.connection.verify_client
        if handshake.certificate is not None and self._central.connection.ca is not None:
            found = self._certificate(handshake.certificate, identity, entry)
            # Where certificates are one way in among others, one that does not fit leaves the others.
            if found and not must and logins and handshake.authorization:
                found = frozenset()
            elif isinstance(found, str):
                return self._refuse(handshake, identity, 403, found)
            else:
                names, proven = found, True
        elif must:
            return self._refuse(handshake, identity, 403, "it shows no certificate")
        needed = bool(logins) and (not proven or must)
        if not needed and (proven or entry.password is None):
            return self._enter(handshake, Pass(identity, point, CERTIFICATE if proven else NO_LOGIN, names))
        return self._log_in(handshake, identity, point, logins, entry, proven, names)

    def _log_in(
        self,
        handshake: Handshake,
        identity: str,
        point: ChargePoint,
        logins: Sequence[Login],
        entry: Entry,
        proven: bool,
        names: frozenset[str],
    ) -> Deferred[Pass | Refusal] | Pass | Refusal:
        profile = CERTIFICATE if proven else BASIC_TLS if handshake.tls else BASIC
        passed = Pass(identity, point, profile, names)
        digest = hmac.digest(self._key, identity.encode() + b"\0" + (handshake.authorization or b""), "sha256")
        good = self._good.get(identity)
        if handshake.authorization and good is not None and hmac.compare_digest(good, digest):
            self._good.move_to_end(identity)
            return self._enter(handshake, passed)
        failures = self._failed_from(handshake.peer[0])
        if failures >= self._central.failed_logins_per_minute:
            self._events.emit(LoginsTooMany(self._connector, handshake.peer[0], failures))
            return Refusal(503, "too many failed logins from this address", {"Retry-After": str(RETRY_SECONDS)})

        strict = self._central.strict_identity if point.strict_identity is None else point.strict_identity
        outcome, hashes = self._compare(handshake, identity, logins, entry, strict)

        own = (entry.password, entry.offered)

        def decide(matched: PasswordHash | bool | None) -> Pass | Refusal:
            if matched is None:
                return Refusal(503, "too many logins wait", {"Retry-After": str(BUSY_RETRY_SECONDS)})
            if matched is False:
                return self._refuse(handshake, identity, 401, "its login is not good")
            if isinstance(matched, PasswordHash) and matched in own:
                now = self._ledger.entry(identity)
                if matched == now.offered:
                    self.password_taken(identity, matched)
                elif matched != now.password:  # it was changed while this one was being checked
                    return self._refuse(handshake, identity, 401, "its login is not good")
            self._good[identity] = digest
            self._good.move_to_end(identity)
            if len(self._good) > MAX_GOOD:
                self._good.popitem(last=False)
            return self._enter(handshake, passed)

        if outcome == "anonymous":
            return self._enter(handshake, Pass(identity, point, CERTIFICATE if proven else NO_LOGIN, names))
        if outcome or not hashes:
            return decide(bool(outcome))
        return self._hashing.first(hashes).addCallback(decide)

    def _compare(
        self, handshake: Handshake, identity: str, logins: Sequence[Login], entry: Entry, strict: bool
    ) -> tuple[str, list[tuple[PasswordHash, bytes]]]:
        """
        What the login satisfies without hashing ("" for nothing), and what has to be hashed otherwise. Looks at every
        entry, whatever it has found already.
        """
        header = (handshake.authorization or b"").strip()
        basic = basic_login(header)
        replaced = entry.password is not None
        outcome = ""
        hashes: list[tuple[PasswordHash, bytes]] = []
        users = {identity}
        for login in logins:
            if login.type == "anonymous" and not replaced:
                outcome = outcome or "anonymous"
            for token in login.tokens if login.type == "token" else ():
                if _same(token.reveal().strip().encode(), header):
                    outcome = "token"
            for credential in login.credentials if login.type == "basic" else ():
                if credential.charge_points is not None and not credential.charge_points.fullmatch(identity):
                    continue
                user = identity if credential.username == IDENTITY else credential.username
                if strict and user != identity:
                    continue
                users.add(user)
                password = _password(basic, user)
                if replaced or password is None:
                    continue
                if credential.password_hash is not None:
                    hashes.append((credential.password_hash, password))
                elif _matches(credential, password):
                    outcome = "basic"
        if basic is not None:
            given = next((found for user in sorted(users) if (found := _password(basic, user)) is not None), None)
            for made in (entry.offered, entry.password):
                if made is not None and given is not None:
                    hashes.append((made, given))
                    if (decoded := _as_hex(given)) is not None:
                        hashes.append((made, decoded))
        return outcome, hashes

    def _certificate(self, certificate: Any, identity: str, entry: Entry) -> frozenset[str] | str:
        """The names among which the serial has to be, none if nothing is left to prove; or why it is refused."""
        connection = self._central.connection
        if connection.organization is not None and connection.organization not in _organizations(certificate):
            return "its certificate is for another organization"
        names = certificate_names(certificate)
        rule = connection.common_name
        if isinstance(rule, re.Pattern):
            for name in names:
                match = rule.fullmatch(name)
                if match and ("id" not in rule.groupindex or match["id"] == identity):
                    return frozenset()
            return "its certificate's name is not what cnMustMatch allows"
        if rule != "serial" and identity in names:
            return frozenset()
        if rule == "id" or not names:
            return "its certificate is for another charge point"
        if entry.serial:
            return frozenset() if entry.serial in names else "its certificate is not for its serial"
        return names

    def _enter(self, handshake: Handshake, passed: Pass) -> Pass | Refusal:
        known = self._ledger.entry(passed.identity).profile
        if known > passed.profile:
            if not self._central.connection.allow_downgrade:
                why = f"it came with security profile {known} before, and with {passed.profile} now"
                return self._refuse(handshake, passed.identity, 403, why)
            self._ledger.forget_profile(passed.identity)
        return passed

    def entered(self, passed: Pass) -> None:
        """It is connected: its profile is the least from now on."""
        self._ledger.seen(passed.identity, passed.profile)

    def password_taken(self, identity: str, password: PasswordHash) -> Deferred[None]:
        """From now on no other password is good. Fires when that is on the disk, or the ledger told that it is not."""
        self._good.pop(identity, None)
        self._events.emit(PasswordChanged(self._connector, identity))
        done = self._ledger.taken(identity, password)

        def told(failure: Failure) -> None:
            failure.trap(OSError)

        return done.addErrback(told)

    def password_offered(self, identity: str, password: PasswordHash) -> Deferred[None]:
        """The charge point is about to be told it: both are good. Fires when that is on the disk, or with OSError."""
        return self._ledger.offer(identity, password)

    def password_declined(self, identity: str, password: PasswordHash) -> None:
        """The charge point has not taken it: the former one stays."""
        self._ledger.declined(identity, password)

    def serial_proven(self, identity: str, serial: str) -> None:
        """Its BootNotification bears its certificate's serial."""
        self._ledger.proven(identity, serial)

    def _refuse(self, handshake: Handshake, identity: str, status: int, why: str) -> Refusal:
        address = handshake.peer[0]
        begun, count = self._failures.pop(address, (self._clock.seconds(), 0))
        if self._clock.seconds() - begun > 60:
            begun, count = self._clock.seconds(), 0
        self._failures[address] = (begun, count + 1)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
        peer = f"{address}:{handshake.peer[1]}"
        self._events.emit(LoginRefused(self._connector, peer, identity[:MAX_IDENTITY_CHARACTERS], status, why))
        return Refusal(status, why, CHALLENGE if status == 401 else {})

    def _failed_from(self, address: str) -> int:
        begun, count = self._failures.get(address, (0.0, 0))
        return count if self._clock.seconds() - begun <= 60 else 0


def admission(passed: Pass, central: Entrance) -> Admission:
    """What the library is told of one that may come in."""
    point = passed.point
    return Admission(
        versions=central.versions if point.versions is None else point.versions,
        data=point,
        missing_subprotocol=point.missing_subprotocol or central.missing_subprotocol,
    )


def _is_usable(identity: str) -> bool:
    return 0 < len(identity) <= MAX_IDENTITY_CHARACTERS and identity.isprintable()


def _password(basic: bytes | None, user: str) -> bytes | None:
    """What stands behind `user:`; an id of 1.6 may hold colons itself, so the first one does not decide."""
    name = user.encode() + b":"
    if basic is None or not hmac.compare_digest(basic[: len(name)], name):
        return None
    return basic[len(name) :]


def _matches(credential: Credential, password: bytes) -> bool:
    if credential.password is not None:
        return _same(credential.password.reveal().encode(), password)
    if credential.password_hex is not None:
        key = bytes.fromhex(credential.password_hex.reveal())
        return _same(key, password) | _same(key, _as_hex(password) or b"")
    return False
