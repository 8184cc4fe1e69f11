"""Who may come in, and what those who may not are told."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.ocpp.config import UNKNOWN_CHARGE_POINT
from tbgw.connectors.ocpp.hashing import Hashing
from tbgw.connectors.ocpp.ledger import Ledger
from tbgw.connectors.ocpp.passwords import hash_password
from tbgw.connectors.ocpp.security import Doorkeeper, Pass, admission, charge_point_id, find_point
from tbgw.ocpp.interfaces import Refusal
from tbgw.ocpp.versions import Version
from tests.config.fakes import key_pair
from tests.connectors.ocpp.stand_ins import POINT, Lines, make_config, make_handshake
from tests.test_tls import Issued, issue

KEY = bytes(range(0, 200, 10))
"""An AuthorizationKey of 1.6: 20 bytes, which are no UTF-8."""


class HashAtOnce(Hashing):
    """Hashes in the caller's thread, and counts."""

    def __init__(self) -> None:
        self.runs = 0
        self.busy = False
        self._pool: Any = object()

    def _run(self, job: Any) -> Deferred[Any]:
        self.runs += 1
        return succeed(None if self.busy else job())


def basic(user: str | bytes, password: str | bytes) -> bytes:
    """An Authorization header."""
    parts = [part.encode() if isinstance(part, str) else part for part in (user, password)]
    return b"Basic " + base64.b64encode(b":".join(parts))


def entry(pattern: str) -> dict[str, Any]:
    """An entry of chargePoints."""
    return {**POINT, "idRegexpPattern": pattern}


class DoorCase(SynchronousTestCase):
    """A doorkeeper with a ledger in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.lines = Lines()
        self.hashing = HashAtOnce()
        folder = Path(self.mktemp())
        self.ledger = Ledger(folder, self.clock, self.lines.events, lambda job: succeed(None))

    def door(self, *points: Any, **central: Any) -> Doorkeeper:
        self.config = make_config(self, *points, **central)
        self.keeper = Doorkeeper("c", self.config, self.ledger, self.hashing, self.lines.events, self.clock)
        return self.keeper

    def admit(self, path: str = "CP_1", authorization: bytes | None = None, **more: Any) -> Pass | Refusal:
        found = self.keeper.admit(make_handshake(path, authorization, **more))
        result: Pass | Refusal = self.successResultOf(found) if isinstance(found, Deferred) else found
        if isinstance(result, Pass):
            self.keeper.entered(result)
        return result

    def status(self, path: str = "CP_1", authorization: bytes | None = None, **more: Any) -> int:
        """The HTTP status of a refusal; 101 for one that may come in."""
        found = self.admit(path, authorization, **more)
        return found.status if isinstance(found, Refusal) else 101


class PathTests(DoorCase):
    """Which entry a charge point belongs to."""

    def test_whole(self):
        """A pattern takes the whole path, or the whole last segment, and nothing that is longer (P-09, O-11)."""
        config = make_config(self, entry("bidon/hello/CP_1"), entry("X_."))
        for path, index in (
            ("bidon/hello/CP_1", 0),
            ("bidon/hello/CP_10", None),
            ("x/bidon/hello/CP_1", None),
            ("CP_1", None),
            ("X_7", 1),
            ("garage/X_7", 1),
            ("garage/XX_7", None),
            ("X_77", None),
        ):
            found = find_point(config, path, path.rpartition("/")[2])
            self.assertEqual(found, None if index is None else config.charge_points[index], path)

    def test_whole_path_first(self):
        """An entry that fits the whole path comes before one that fits the last segment only."""
        config = make_config(self, entry("CP_1"), entry("garage/.*"))
        self.assertIs(find_point(config, "garage/CP_1", "CP_1"), config.charge_points[1])

    def test_group_id(self):
        """A group `id` says what the id is; without one the last segment does."""
        config = make_config(self, entry("(?P<id>[A-Z]+)/ocpp"), entry("a/.*"))
        self.assertEqual(charge_point_id(config.charge_points[0], "ABC/ocpp", "ocpp"), "ABC")
        self.assertEqual(charge_point_id(config.charge_points[1], "a/b", "b"), "b")

    def test_unknown(self):
        """An unknown charge point gets 404, or comes in where that is configured."""
        self.door()
        self.assertEqual(self.status("CP_2"), 404)
        self.assertEqual(self.lines.counters.snapshot()["charge_points_unknown{c}"], 1)
        self.door(unknownChargePoint="accept")
        found = self.admit("CP_2")
        assert isinstance(found, Pass)
        self.assertIs(found.point, UNKNOWN_CHARGE_POINT)

    def test_unusable_identity(self):
        """An empty id, one with control characters, and one that is too long get 404, whatever the patterns allow."""
        self.door(entry("(?s).*"))
        for path in ("", "a\nb", "\x7f", "x" * 256):
            self.assertEqual(self.status(path), 404, path)
        self.assertEqual(self.status("x" * 255), 101)

    def test_versions(self):
        """The versions of the entry count, else those of all."""
        self.door({**POINT, "ocppVersions": ["2.0.1"]}, entry("B"), ocppVersions=["ocpp1.6"])
        versions = [admission(found, self.config.central_system).versions for path in ("CP_1", "B")
                    if isinstance(found := self.admit(path), Pass)]
        self.assertEqual(versions, [(Version.V201,), (Version.V16,)])


class LoginTests(DoorCase):
    """`security`."""

    def test_open(self):
        """Without entries everybody comes in, with a header or without (O-13); `anonymous` is the same."""
        for security in ([], [{"type": "anonymous"}]):
            self.door(security=security)
            self.assertEqual([self.status(), self.status(authorization=b"Bearer x")], [101, 101])

    def test_alternatives(self):
        """Token and basic are alternatives; a token is the whole header (O8, O9); all else is 401 with its header."""
        self.door(
            security=[
                {"type": "token", "tokens": ["Bearer T1"]},
                {"type": "basic", "credentials": [{"username": "admin2", "password": "pw"}]},
            ]
        )
        for header in (b"Bearer T1", basic("admin2", "pw"), b"bAsIc " + basic("admin2", "pw")[6:]):
            self.assertEqual(self.status(authorization=header), 101, header)
        bad: tuple[bytes | None, ...] = (
            None,
            b"",
            b"T1",
            b"Bearer T",
            b"Bearer T11",
            b"bearer T1",
            basic("admin2", "pw2"),
            basic("admin2", ""),
            basic("admin", "pw"),
            b"Basic",
            b"Basic !!!",
            b"Basic " + base64.b64encode(b"admin2"),
            b"\xff\xfe",
        )
        for wrong in bad:
            found = self.admit(authorization=wrong)
            assert isinstance(found, Refusal), wrong
            self.assertEqual((found.status, found.headers["WWW-Authenticate"][:5]), (401, "Basic"), wrong)

    def test_anonymous_beside_others(self):
        """With anonymous among them nobody is refused, and who logs in counts as logged in."""
        self.door(
            security=[
                {"type": "basic", "credentials": [{"username": "a", "password": "pw"}]},
                {"type": "anonymous"},
            ]
        )
        profiles = [getattr(self.admit(path, header), "profile", None) for path, header in (("CP_1", None),)]
        self.assertEqual(profiles, [0])
        self.assertEqual(getattr(self.admit(authorization=basic("a", "pw")), "profile", None), 1)

    def test_identity_as_user(self):
        """Without a user name it has to be the id; `strictIdentity` demands that of all (P-07)."""
        credentials = [{"password": "own"}, {"username": "CP_2", "password": "two"}]
        self.door(entry("CP_."), security=[{"type": "basic", "credentials": credentials}])
        self.assertEqual(self.status("CP_1", basic("CP_1", "own")), 101)
        self.assertEqual(self.status("CP_1", basic("CP_9", "own")), 401)
        self.assertEqual(self.status("CP_1", basic("CP_2", "two")), 101)
        self.door(
            entry("CP_."),
            security=[{"type": "basic", "credentials": credentials}],
            strictIdentity=True,
        )
        self.assertEqual(self.status("CP_1", basic("CP_2", "two")), 401, "A with B's password")
        self.assertEqual(self.status("CP_2", basic("CP_2", "two")), 101)

    def test_one_key_each(self):
        """`chargePoints` of a credential says whose it is."""
        credential = {"username": "fleet", "password": "pw", "chargePoints": "CP_[12]"}
        self.door(entry("CP_."), security=[{"type": "basic", "credentials": [credential]}])
        found = [self.status(path, basic("fleet", "pw")) for path in ("CP_1", "CP_2", "CP_3")]
        self.assertEqual(found, [101, 101, 401])

    def test_binary_password(self):
        """A key of 20 bytes is compared as bytes; its hexadecimal text is taken too; hashed it is the same."""
        for credential in ({"passwordHex": KEY.hex().upper()}, {"passwordHash": str(hash_password(KEY, 4))}):
            self.door(security=[{"type": "basic", "credentials": [credential]}])
            self.assertEqual(self.status("CP_1", basic("CP_1", KEY)), 101, credential)
            self.assertEqual(self.status("CP_1", basic("CP_1", KEY[:-1])), 401, credential)
        self.door(security=[{"type": "basic", "credentials": [{"passwordHex": KEY.hex()}]}])
        self.assertEqual(self.status("CP_1", basic("CP_1", KEY.hex())), 101)

    def test_colons(self):
        """An id of 1.6 may hold colons, and so may a password."""
        self.door(entry(".*"), security=[{"type": "basic", "credentials": [{"password": "p:w"}]}])
        self.assertEqual(self.status("a:b", basic("a:b", "p:w")), 101)
        self.assertEqual(self.status("a", basic("a", "b:p:w")), 401)

    def test_own_logins_of_an_entry(self):
        """`security` of an entry of chargePoints takes the place of the general one."""
        self.door(
            {**POINT, "security": []},
            {**POINT, "idRegexpPattern": "B", "security": [{"type": "token", "tokens": ["t"]}]},
            entry("C"),
            security=[{"type": "token", "tokens": ["general"]}],
        )
        comers = (("CP_1", None), ("B", b"general"), ("B", b"t"), ("C", b"general"))
        self.assertEqual([self.status(*comer) for comer in comers], [101, 401, 101, 101])

    def test_good_login_is_remembered(self):
        """A hash is computed once for a login that is good, and again for one that is not."""
        made = str(hash_password(b"pw", 4))
        self.door(security=[{"type": "basic", "credentials": [{"passwordHash": made}]}])
        for _ in range(3):
            self.assertEqual(self.status("CP_1", basic("CP_1", "pw")), 101)
        self.assertEqual(self.hashing.runs, 1)
        self.assertEqual(self.status("CP_1", basic("CP_1", "no")), 401)
        self.assertEqual(self.hashing.runs, 2)

    def test_too_much_to_hash(self):
        """When too many hashes wait, the charge point is told to come again."""
        made = str(hash_password(b"pw", 4))
        self.door(security=[{"type": "basic", "credentials": [{"passwordHash": made}]}])
        self.hashing.busy = True
        found = self.admit("CP_1", basic("CP_1", "pw"))
        assert isinstance(found, Refusal)
        self.assertEqual((found.status, "Retry-After" in found.headers), (503, True))

    def test_throttle(self):
        """After many failures an address gets 503 for a minute; a login that was good before, and others, do not."""
        self.door(security=[{"type": "basic", "credentials": [{"password": "pw"}]}], failedLoginsPerMinute=5)
        self.assertEqual(self.status("CP_1", basic("CP_1", "pw")), 101)
        found = [self.status("CP_1", basic("CP_1", f"guess{number}")) for number in range(7)]
        self.assertEqual(found, [401] * 5 + [503] * 2)
        self.assertEqual(self.status("CP_1", basic("CP_1", "pw")), 101)
        self.assertEqual(self.status("CP_1", basic("CP_1", "guess"), peer=("10.0.0.10", 1)), 401)
        self.clock.advance(61)
        self.assertEqual(self.status("CP_1", basic("CP_1", "guess")), 401)

    def test_nothing_secret_is_logged(self):
        """Neither passwords nor headers of those who fail reach a line (P-11)."""
        self.door(security=[{"type": "token", "tokens": ["Bearer canary"]}])
        self.status("CP_1", b"Bearer canary2")
        self.status("CP_1", basic("CP_1", "canary3"))
        self.assertTrue(self.lines.written)
        self.assertNotIn("canary", str([event["line"] for event in self.lines.written]))


class ProfileTests(DoorCase):
    """What is remembered of a charge point."""

    def test_no_downgrade(self):
        """One that came by TLS is refused in clear, in any connector of the gateway, until that is allowed."""
        security = [{"type": "basic", "credentials": [{"password": "pw"}]}]
        self.door(security=security)
        header = basic("CP_1", "pw")
        self.assertEqual(self.status(authorization=header), 101)
        self.assertEqual(self.status(authorization=header, tls=True), 101)
        self.door(security=security)
        self.assertEqual(self.status(authorization=header), 403)
        self.assertEqual(self.status(authorization=header, tls=True), 101)
        self.door(security=security, connection={"type": "insecure", "allowDowngrade": True})
        self.assertEqual(self.status(authorization=header), 101)
        self.assertEqual(self.ledger.entry("CP_1").profile, 1)

    def test_a_failed_login_is_not_remembered(self):
        """Who does not get in does not lock the right one out of its profile."""
        self.door(security=[{"type": "basic", "credentials": [{"password": "pw"}]}])
        self.status(authorization=basic("CP_1", "no"), tls=True)
        self.assertEqual(self.status(authorization=basic("CP_1", "pw")), 101)

    def test_changed_password(self):
        """Once a charge point has taken a password, the configured one is refused, also if it was good a moment ago."""
        self.door(security=[{"type": "basic", "credentials": [{"password": "old"}]}])
        self.assertEqual(self.status(authorization=basic("CP_1", "old")), 101)
        made = hash_password(KEY, 4)
        self.keeper.password_offered("CP_1", made)
        self.assertEqual(self.status(authorization=basic("CP_1", "old")), 101, "not taken yet")
        self.keeper.password_taken("CP_1", made)
        self.assertEqual(self.status(authorization=basic("CP_1", "old")), 401)
        self.assertEqual(self.status(authorization=basic("CP_1", KEY)), 101)
        self.assertEqual(self.status(authorization=basic("CP_1", KEY.hex())), 101)
        self.assertEqual(self.status(authorization=basic("CP_2", KEY)), 401)

    def test_new_password_used(self):
        """When its answer was lost, the charge point shows that it has the new password by using it."""
        self.door(security=[{"type": "basic", "credentials": [{"password": "old"}]}])
        made = hash_password(KEY, 4)
        self.keeper.password_offered("CP_1", made)
        self.assertEqual(self.status(authorization=basic("CP_1", KEY)), 101)
        self.assertEqual(self.status(authorization=basic("CP_1", "old")), 401)
        self.assertEqual(self.lines.of("PasswordChanged"), [
            "connector c: CP_1 has a new password; no other is accepted from it any more"
        ])

    def test_declined_password(self):
        """One that the charge point did not take is not good."""
        self.door(security=[{"type": "basic", "credentials": [{"password": "old"}]}])
        made = hash_password(KEY, 4)
        self.keeper.password_offered("CP_1", made)
        self.keeper.password_declined("CP_1", made)
        self.assertEqual(self.status(authorization=basic("CP_1", KEY)), 401)
        self.assertEqual(self.status(authorization=basic("CP_1", "old")), 101)


class CertificateTests(DoorCase):
    """Profile 3."""

    def door_with(self, connection: Any, **central: Any) -> Doorkeeper:
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        cert, key = key_pair(folder, "server")
        files = {"cert": str(folder.absolute() / cert), "key": str(folder.absolute() / key)}
        ca = folder.absolute() / "ca.pem"
        ca.write_bytes(issue("CA", is_authority=True).pem)
        connection = {"type": "tls", **files, "ca": str(ca), **connection}
        return self.door(entry("CP_."), connection=connection, **central)

    def come(self, certificate: Issued | None, path: str = "CP_1", header: bytes | None = None) -> int:
        shown = certificate.certificate if certificate else None
        return self.status(path, header, tls=True, certificate=shown)

    def test_id(self):
        """The CN, or a DNS name, has to be the id (P-08); no certificate is no login."""
        self.door_with({"verifyClient": True, "cnMustMatch": "id"})
        one, other = issue("CP_1"), issue("x", hosts=("CP_2",))
        self.assertEqual([self.come(one), self.come(one, "CP_2"), self.come(None)], [101, 403, 403])
        self.assertEqual([self.come(other), self.come(other, "CP_2")], [403, 101])
        self.assertEqual(self.ledger.entry("CP_1").profile, 3)

    def test_serial(self):
        """With `serial` the CN is held against the BootNotification, and remembered once it was found there."""
        self.door_with({"verifyClient": True, "cnMustMatch": "serial"})
        found = self.admit("CP_1", tls=True, certificate=issue("SN7").certificate)
        assert isinstance(found, Pass)
        self.assertEqual(found.names, {"SN7"})
        self.keeper.serial_proven("CP_1", "SN7")
        self.assertEqual([self.come(issue("SN7")), self.come(issue("SN8"))], [101, 403])

    def test_default_binding(self):
        """Left open, the id will do at once, and the serial later; another charge point's certificate never."""
        self.door_with({"verifyClient": True})
        found = self.admit("CP_1", tls=True, certificate=issue("CP_1").certificate)
        self.assertEqual(getattr(found, "names", None), frozenset())
        found = self.admit("CP_2", tls=True, certificate=issue("CP_1").certificate)
        self.assertEqual(getattr(found, "names", None), {"CP_1"}, "not before its BootNotification says so")

    def test_pattern(self):
        """A regular expression is held against the whole CN; its group `id` has to be the id."""
        self.door_with({"verifyClient": True, "cnMustMatch": "(?P<id>CP_.)[.]acme"})
        self.assertEqual(
            [self.come(issue(name)) for name in ("CP_1.acme", "CP_2.acme", "CP_1.acme2", "xCP_1.acme")],
            [101, 403, 403, 403],
        )

    def test_organization(self):
        """O of the subject, if one is demanded, has to be that."""
        self.door_with({"verifyClient": True, "organization": "ACME"})
        self.assertEqual(self.come(issue("CP_1")), 403)

    def test_beside_passwords(self):
        """With `ca` and without `verifyClient` a certificate is one login among others."""
        security = [{"type": "basic", "credentials": [{"password": "pw"}]}]
        self.door_with({}, security=security)
        self.assertEqual(self.come(None, header=basic("CP_1", "pw")), 101)
        self.assertEqual([self.come(None), self.come(issue("CP_2"), header=basic("CP_1", "pw"))], [401, 101])
        found = self.admit("CP_1", basic("CP_1", "pw"), tls=True, certificate=issue("another").certificate)
        assert isinstance(found, Pass)
        self.assertEqual((found.profile, found.names), (2, frozenset()), "its password is good, so nothing is to prove")
        found = self.admit("CP_1", tls=True, certificate=issue("CP_1").certificate)
        self.assertEqual(getattr(found, "profile", None), 3)

    def test_both(self):
        """With `verifyClient` and `security` both are needed."""
        self.door_with({"verifyClient": True}, security=[{"type": "basic", "credentials": [{"password": "pw"}]}])
        self.assertEqual(
            [
                self.come(issue("CP_1")),
                self.come(None, header=basic("CP_1", "pw")),
                self.come(issue("CP_1"), header=basic("CP_1", "pw")),
            ],
            [401, 403, 101],
        )
