"""The gateway's own certificate: looked at, told, renewed or cried about in time."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.uplink.certificates import make_pair
from tbgw.uplink.expiry import CertificateWatch

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
DAY = 86_400


class Own:
    """Writes down the attributes."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def publish_attributes(self, values: Any) -> Deferred[str]:
        self.told.append(values)
        return succeed("")


class ExpiryTests(SynchronousTestCase):
    """A year in a second."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.counters = Counters()
        self.own: Any = Own()
        self.path = Path(self.mktemp())
        self.path.write_bytes(make_pair("gate", START)[0])
        self.renewals: list[Deferred[str]] = []

    def now(self) -> datetime.datetime:
        return START + datetime.timedelta(seconds=self.clock.seconds())

    def renew(self) -> Deferred[str]:
        self.renewals.append(Deferred())
        return self.renewals[-1]

    def watch(self, **options: Any) -> CertificateWatch:
        watch = CertificateWatch(
            lambda: self.path,
            self.own,
            clock=self.clock,
            events=Events(self.counters, self.clock.seconds),
            now=self.now,
            period_seconds=DAY,
            days_left=30,
            **options,
        )
        watch.startService()
        self.addCleanup(watch.stopService)
        return watch

    def days(self, count: int) -> None:
        self.clock.pump([DAY] * count)

    def test_told_in_time(self) -> None:
        """The attribute tells each day; the loud line begins with the days that are configured, and goes on."""
        self.watch()
        self.days(334)
        self.assertEqual(self.counters.get("certificate_expires"), 0)
        self.days(1)
        self.assertEqual(self.own.told[-1]["certificateDaysLeft"], 30)
        self.days(1)
        self.assertEqual(self.counters.get("certificate_expires"), 2)

    def test_renewed(self) -> None:
        """One renewal at a time; once it is granted nothing more is said."""
        self.watch(renew=self.renew)
        self.days(340)
        self.assertEqual(len(self.renewals), 1)
        self.path.write_bytes(make_pair("gate", self.now())[0])
        self.renewals[0].callback("")
        self.days(3)
        self.assertEqual((len(self.renewals), self.counters.get("certificates_renewed")), (1, 1))
        self.assertGreater(self.own.told[-1]["certificateDaysLeft"], 300)

    def test_not_renewed(self) -> None:
        """A refusal is said with its reason, and it is tried again at the next look."""
        self.watch(renew=self.renew)
        self.days(336)
        self.renewals[0].callback("FAILURE: no")
        self.assertEqual(self.counters.get("certificate_expires"), 1)
        self.days(1)
        self.assertEqual(len(self.renewals), 2)

    def test_successor(self) -> None:
        """The new certificate is told as long as it waits, and taken back when it is in use."""
        waiting = ["PEM"]
        watch = self.watch(renew=self.renew, successor=lambda: waiting[0])
        self.days(336)
        self.renewals[0].callback("FAILURE: no")
        self.assertEqual(self.own.told[-1], {"newCertificate": "PEM"})
        waiting[0] = ""
        self.path.write_bytes(make_pair("gate", self.now())[0])
        watch.look_again()
        self.assertEqual(self.own.told[-1], {"newCertificate": ""})
        watch.look_again()
        self.assertIn("certificateDaysLeft", self.own.told[-1])

    def test_unreadable(self) -> None:
        """A file that is no certificate is told, and does no harm."""
        self.path.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        self.watch()
        self.assertEqual(self.counters.get("certificates_unreadable"), 1)
