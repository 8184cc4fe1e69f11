"""The link as it is made from the configuration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tbgw.config.findings import Reporter
from tbgw.config.thingsboard import read_thingsboard
from tbgw.internal_events import Events
from tbgw.link import Link
from tbgw.metrics import Counters
from tbgw.thingsboard import topics
from tbgw.uplink.enrolment import Enrolment
from tests.config.fakes import tree

ROOT = Path(__file__).resolve().parent.parent


class LinkTests(SynchronousTestCase):
    """What is made of a section."""

    def make(self, **section: Any) -> Link:
        section = {"host": "127.0.0.1", "security": {"accessToken": "kQ3xv81LmWzRt5Yb"}, **section}
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        reporter = Reporter(folder, folder)
        read = read_thingsboard(tree(section), None, reporter)
        self.assertFalse(reporter.faulty, reporter.findings())
        reactor: Any = MemoryReactorClock()
        reactor.suggestThreadPoolSize = lambda size: None
        return Link(read, reactor, Events(Counters(), lambda: 0.0), lambda: "sandboxes")

    def test_endpoints(self) -> None:
        """Addresses are dialled as they are, names are looked up."""
        for host, kind in (
            ("127.0.0.1", TCP4ClientEndpoint),
            ("::1", TCP6ClientEndpoint),
            ("tb.example", HostnameEndpoint),
        ):
            self.assertIsInstance(self.make(host=host).endpoint(), kind)
        self.assertEqual(self.make(port=8883).where, "127.0.0.1:8883 (TLS)")

    def test_credentials(self) -> None:
        """A token is the user name; a login its two halves; what is provisioned is not known yet."""
        token = self.make().credentials()
        self.assertEqual((token.username, token.password), ("kQ3xv81LmWzRt5Yb", None))
        login = self.make(security={"username": "u", "password": "p", "clientId": "c"}).credentials()
        self.assertEqual((login.client_id, login.username, login.password), ("c", "u", b"p"))
        provisioning = {"provisionDeviceKey": "k1", "provisionDeviceSecret": "s1"}
        self.assertIsNone(self.make(security={}, provisioning=provisioning).credentials().username)

    def test_enrolment(self) -> None:
        """Whoever begins the link is the uplink itself, or where it is provisioned the enrolment."""
        folder = Path(self.mktemp())
        link = self.make()
        uplink = link.uplink()
        self.assertIs(link.enrolment(uplink, folder, folder, lambda job: None), uplink)  # type: ignore[arg-type,return-value] # never called
        provisioning = {"provisionDeviceKey": "k1", "provisionDeviceSecret": "s1"}
        link = self.make(security={}, provisioning=provisioning)
        self.assertIsInstance(link.enrolment(uplink, folder, folder, lambda job: None), Enrolment)  # type: ignore[arg-type,return-value] # as above

    def test_subscriptions(self) -> None:
        """Packages are subscribed to where they are on; a command subscribes to what it says."""
        self.assertIn(topics.FIRMWARE_ERROR, self.make().uplink()._subscriptions)
        off = {"enabled": False}
        self.assertNotIn(topics.FIRMWARE_ERROR, self.make(firmware=off, software=off).uplink()._subscriptions)
        self.assertEqual(self.make().uplink(["x"])._subscriptions, ["x"])

    def test_memory(self) -> None:
        """What is imported before the configuration is read loads no OpenSSL, 12 MiB that a plain link can spare."""
        source = "import sys, tbgw.service; sys.exit('OpenSSL' in sys.modules or 'cryptography' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", source], env={"PYTHONPATH": str(ROOT)}, check=False, timeout=60)
        self.assertEqual(done.returncode, 0)
