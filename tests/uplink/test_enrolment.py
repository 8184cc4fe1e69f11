"""Provisioning against a scripted server in memory: what is asked, kept, retried; then the uplink begins."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.mqtt import packets
from tbgw.mqtt.versions import VersionChoice
from tbgw.thingsboard import topics
from tbgw.uplink import keeping
from tbgw.uplink.certificates import expires
from tbgw.uplink.client import Credentials, Uplink
from tbgw.uplink.enrolment import DISK_RETRY_SECONDS, REFUSED_RETRY_SECONDS, Enrolment
from tbgw.uplink.exchange import ANSWER_SECONDS
from tbgw.uplink.keeping import KEPT, CredentialsKeeper
from tbgw.uplink.provisioning import Login, Plan
from tests.uplink.memory import Endpoint, Server

NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
NOT_FOUND = {"status": "NOT_FOUND", "errorMsg": "Provision data was not found!"}
FAILURE = {"status": "FAILURE", "errorMsg": "Failed to provision device!"}


class EnrolmentCase(SynchronousTestCase):
    """A folder, a clock, a server."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = Endpoint()
        self.counters = Counters()
        self.data = Path(self.mktemp())
        self.data.mkdir(parents=True)
        self.dialled: list[Login | None] = []
        self.running: list[Enrolment] = []

    def tearDown(self) -> None:
        for enrolment in self.running:
            if enrolment.running:
                self.stop(enrolment)
        self.assertEqual(self.clock.getDelayedCalls(), [], "nothing is left over")

    def in_thread(self, job: Callable[[], None]) -> Deferred[None]:
        return maybeDeferred(job)

    def dial(self, login: Login | None) -> tuple[Any, str]:
        self.dialled.append(login)
        return self.endpoint, "tb:1883"

    def start(self, plan: Plan | None = None) -> Enrolment:
        events = Events(self.counters, self.clock.seconds)
        uplink = Uplink(
            self.endpoint,
            "tb:1883",
            Credentials(),
            clock=self.clock,
            events=events,
            jitter=lambda: 0.5,
            versions=VersionChoice(4),
        )
        enrolment = Enrolment(
            uplink,
            plan or Plan("ACCESS_TOKEN", "key", "secret", "Gate", token="t0ken"),
            CredentialsKeeper(self.data, self.data / "etc"),
            self.dial,
            clock=self.clock,
            events=events,
            jitter=lambda: 0.5,
            in_thread=self.in_thread,
            now=lambda: NOW,
            versions=lambda: VersionChoice(4),
        )
        self.running.append(enrolment)
        enrolment.startService()
        return enrolment

    def stop(self, enrolment: Enrolment) -> None:
        stopped = enrolment.stopService()
        for server in self.endpoint.servers:
            server.lose()
        self.successResultOf(stopped)

    @property
    def server(self) -> Server:
        return self.endpoint.servers[-1]

    def asked(self) -> dict[str, Any]:
        """Let the gateway in for provisioning; what it asks for."""
        self.assertEqual(self.server.connect.username, "provision")
        self.server.accept()
        (publish,) = self.server.published()
        self.assertEqual(publish.topic, topics.PROVISION_REQUEST)
        found = json.loads(publish.payload)
        assert isinstance(found, dict)
        return found

    def answer(self, body: Any) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        server = self.server
        server.send(packets.Publish(topic=topics.PROVISION_RESPONSE, payload=payload))
        server.lose()

    def granted(self, value: Any, kind: str = "ACCESS_TOKEN") -> dict[str, Any]:
        return {"status": "SUCCESS", "credentialsType": kind, "credentialsValue": value}


class ProvisioningTests(EnrolmentCase):
    """The way to credentials."""

    def test_token(self) -> None:
        """Asked, granted, kept, used; the next start asks nobody."""
        enrolment = self.start()
        body = self.asked()
        self.assertEqual((body["deviceName"], body["token"], body["gateway"]), ("Gate", "t0ken", True))
        self.answer(self.granted("t0ken"))
        self.assertEqual(len(self.endpoint.servers), 2)
        self.assertEqual(self.server.connect.username, "t0ken")
        self.assertEqual(json.loads((self.data / KEPT).read_bytes())["credentialsValue"], "t0ken")
        self.stop(enrolment)
        self.start()
        self.assertEqual((len(self.endpoint.servers), self.server.connect.username), (3, "t0ken"))
        self.assertEqual(self.counters.get("provisioned"), 1)

    def test_made_by_the_server(self) -> None:
        """AUTO names no kind; a device name is made up, and stays the same over retries and restarts."""
        plan = Plan("AUTO", "key", "secret")
        first = self.start(plan)
        body = self.asked()
        self.assertNotIn("credentialsType", body)
        self.assertTrue(body["deviceName"].startswith("Gateway "))
        self.server.lose()
        self.clock.advance(1)
        self.assertEqual(self.asked()["deviceName"], body["deviceName"])
        self.stop(first)
        self.start(plan)
        self.assertEqual(self.asked()["deviceName"], body["deviceName"])
        self.answer(self.granted("fromServer"))
        self.assertEqual(self.server.connect.username, "fromServer")

    def test_basic(self) -> None:
        """What is given goes out; what is not is made up, long; what the answer says is used."""
        enrolment = self.start(Plan("MQTT_BASIC", "key", "secret", "Gate", username="u", password="p"))
        body = self.asked()
        self.assertEqual((body["username"], body["password"], body.get("clientId")), ("u", "p", None))
        self.answer(self.granted({"clientId": "c", "userName": "u", "password": "p"}, "MQTT_BASIC"))
        connect = self.server.connect
        self.assertEqual((connect.client_id, connect.username, connect.password), ("c", "u", b"p"))
        self.stop(enrolment)
        self.data = Path(self.mktemp())
        self.data.mkdir(parents=True)
        self.start(Plan("MQTT_BASIC", "key", "secret", "Gate"))
        self.assertGreaterEqual(len(self.asked()["password"]), 32)

    def test_certificate(self) -> None:
        """The key is made here and stays here; what goes out is the certificate, and the link then shows it."""
        self.start(Plan("X509_CERTIFICATE", "key", "secret", "Gate"))
        body = self.asked()
        self.assertNotIn("PRIVATE", json.dumps(body))
        text = "".join(line for line in body["hash"].splitlines() if "-" not in line)
        self.answer(self.granted(text, "X509_CERTIFICATE"))
        login = self.dialled[-1]
        assert login is not None and login.certificate is not None and login.private_key is not None
        self.assertEqual(login.certificate.read_text(), body["hash"])
        self.assertIn(b"PRIVATE KEY", login.private_key.read_bytes())
        self.assertEqual((expires(login.certificate) - NOW).days, 365)
        self.assertEqual(self.server.connect.username, None)

    def test_refused(self) -> None:
        """NOT_FOUND and FAILURE hold long, and longer each time; then it is granted after all."""
        self.start()
        self.asked()
        self.answer(NOT_FOUND)
        for delay in (REFUSED_RETRY_SECONDS, REFUSED_RETRY_SECONDS * 2, REFUSED_RETRY_SECONDS * 4):
            count = len(self.endpoint.servers)
            self.clock.advance(delay - 1)
            self.assertEqual(len(self.endpoint.servers), count)
            self.clock.advance(1)
            self.asked()
            self.answer(FAILURE)
        self.assertEqual(self.counters.get("provisioning_refused", "FAILURE"), 3)
        self.clock.advance(REFUSED_RETRY_SECONDS * 8)
        self.asked()
        self.answer(self.granted("t0ken"))
        self.assertEqual(self.server.connect.username, "t0ken")

    def test_rubbish(self) -> None:
        """An answer that is none counts as a refusal: the server does not get better in a second."""
        self.start()
        self.asked()
        self.answer(b"\xff")
        self.assertEqual(self.counters.get("provisioning_refused", "UNUSABLE"), 1)

    def test_no_link(self) -> None:
        """Nobody there, a refused CONNECT, no answer, a refused PUBLISH: tried again, slower each time."""
        self.endpoint.refusing = True
        self.start()
        self.endpoint.refusing = False
        self.clock.advance(1)
        self.server.accept(code=3)
        self.clock.advance(1.6)
        self.asked()
        self.clock.advance(ANSWER_SECONDS)
        self.assertTrue(self.server.closed)
        self.server.lose()
        self.clock.advance(1.6**2)
        self.asked()
        self.assertEqual(self.counters.get("provisioning_failed"), 3)

    def test_stop_at_any_time(self) -> None:
        """A stop ends the attempt or the wait, and nothing comes after it."""
        for advance in (False, True):
            enrolment = self.start()
            self.asked()
            if advance:
                self.answer(FAILURE)
            self.stop(enrolment)
            count = len(self.endpoint.servers)
            self.clock.advance(10_000)
            self.assertEqual(len(self.endpoint.servers), count)

    def test_lost_answer(self) -> None:
        """The device is there because the answer to our request was lost: what it asked for is used."""
        self.start()
        self.asked()
        self.server.lose()
        self.clock.advance(1)
        self.asked()
        self.answer(FAILURE)
        self.assertEqual(self.server.connect.username, "t0ken")

    def test_power_cut_before_the_answer(self) -> None:
        """The gateway ended after asking: its next run asks for the same, and goes on with it when that was granted."""
        first = self.start(Plan("MQTT_BASIC", "key", "secret", "Gate"))
        body = self.asked()
        self.stop(first)
        self.start(Plan("MQTT_BASIC", "key", "secret", "Gate"))
        self.assertEqual(self.asked(), body)
        self.answer(FAILURE)
        self.assertEqual(self.server.connect.password, body["password"].encode())

    def test_again(self) -> None:
        """On request everything begins anew: forgotten, asked for, used."""
        enrolment = self.start()
        self.asked()
        self.answer(self.granted("t0ken"))
        enrolment.again()
        self.asked()
        self.answer(self.granted("second"))
        self.assertEqual(self.server.connect.username, "second")
        self.assertTrue(self.successResultOf(enrolment.forget()))
        self.assertFalse((self.data / KEPT).exists())

    def test_full_disk(self) -> None:
        """What cannot be kept is not asked for; what was granted is kept as soon as there is room, without asking."""
        full = OSError(28, "No space left on device")
        real = keeping._write

        def write(path: Path, content: bytes) -> None:
            raise full

        self.patch(keeping, "_write", write)
        self.start()
        self.assertEqual(self.endpoint.servers, [])
        self.patch(keeping, "_write", real)
        self.clock.advance(DISK_RETRY_SECONDS)
        self.asked()
        self.patch(keeping, "_write", write)
        self.answer(self.granted("t0ken"))
        self.patch(keeping, "_write", real)
        self.clock.advance(DISK_RETRY_SECONDS)
        self.assertEqual((len(self.endpoint.servers), self.server.connect.username), (2, "t0ken"))
        self.assertTrue((self.data / KEPT).exists())

    def test_damaged_file(self) -> None:
        """Kept credentials that cannot be read are never replaced by themselves: that would make a second device."""
        (self.data / KEPT).write_text("{")
        self.start()
        self.clock.advance(10_000)
        self.assertEqual((self.endpoint.servers, self.counters.get("credentials_unusable")), ([], 1))


class RenewalTests(EnrolmentCase):
    """A new certificate for the same device."""

    def provisioned(self) -> Enrolment:
        enrolment = self.start(Plan("X509_CERTIFICATE", "key", "secret", "Gate"))
        self.asked()
        self.answer(self.granted("", "X509_CERTIFICATE"))
        return enrolment

    def test_granted(self) -> None:
        """The new pair is kept and used, the old one removed."""
        enrolment = self.provisioned()
        old = enrolment.login
        done = enrolment.renew()
        self.assertEqual(self.asked()["deviceName"], "Gate")
        self.answer(self.granted("", "X509_CERTIFICATE"))
        self.assertEqual(self.successResultOf(done), "")
        assert old is not None and old.certificate is not None
        assert enrolment.login is not None and enrolment.login.certificate is not None
        self.assertNotEqual(enrolment.login.certificate, old.certificate)
        self.assertEqual((old.certificate.exists(), enrolment.login.certificate.exists()), (False, True))

    def test_refused(self) -> None:
        """The old pair stays in use and on the disk, and whoever asked is told why."""
        enrolment = self.provisioned()
        old = enrolment.login
        done = enrolment.renew()
        self.asked()
        self.answer(FAILURE)
        self.assertIn("FAILURE", self.successResultOf(done))
        self.assertIn("newCertificate", self.successResultOf(enrolment.renew()), "one waits already")
        self.assertIs(enrolment.login, old)
        self.assertEqual(CredentialsKeeper(self.data, self.data / "etc").load(), old)

    def test_put_in_by_somebody(self) -> None:
        """A refused renewal waits; once ThingsBoard knows the new certificate and not the old, that is used."""
        enrolment = self.provisioned()
        old = enrolment.login
        enrolment.renew()
        new = self.asked()["hash"]
        self.answer(FAILURE)
        self.assertEqual(enrolment.successor, new)
        server = self.endpoint.servers[1]  # the session for data
        server.accept(5)  # refused: the old one is not known any more
        self.clock.advance(1)
        assert enrolment.login is not None and enrolment.login.certificate is not None
        self.assertEqual(enrolment.login.certificate.read_text(), new)
        self.assertEqual(self.dialled[-1], enrolment.login)
        self.server.accept()
        self.assertEqual((enrolment.successor, CredentialsKeeper(self.data, self.data / "etc").next()), ("", None))
        self.assertEqual(CredentialsKeeper(self.data, self.data / "etc").load(), enrolment.login)
        assert old is not None and old.certificate is not None
        self.assertFalse(old.certificate.exists())

    def test_taking_turns(self) -> None:
        """While ThingsBoard knows neither, both are tried, slower each time, also after a restart; none is lost."""
        enrolment = self.provisioned()
        old = enrolment.login
        enrolment.renew()
        self.asked()
        self.answer(FAILURE)
        self.stop(enrolment)
        enrolment = self.start(Plan("X509_CERTIFICATE", "key", "secret", "Gate"))
        logins = []
        for _ in range(4):
            logins.append(enrolment.login)
            self.server.accept(5)
            self.clock.advance(400)
        self.assertEqual([login == old for login in logins], [True, False, True, False])
        self.server.accept()
        self.assertEqual((enrolment.login, CredentialsKeeper(self.data, self.data / "etc").load()), (old, old))

    def test_not_ours(self) -> None:
        """What is no certificate of ours is not renewed."""
        enrolment = self.start()
        self.asked()
        self.answer(self.granted("t0ken"))
        self.assertTrue(self.successResultOf(enrolment.renew()))
