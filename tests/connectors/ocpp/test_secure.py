"""TLS of the listener: certificates that are renewed while it runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.ocpp.access import Connection, KeyPair
from tbgw.connectors.ocpp.secure import LOOK_EVERY_SECONDS, RenewedContext, server_tls
from tbgw.errors import ConfigurationError
from tests.config.fakes import key_pair
from tests.connectors.ocpp.stand_ins import Lines


class RenewalTests(SynchronousTestCase):
    """`RenewedContext`."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.clock = Clock()
        self.lines = Lines()
        cert, key = key_pair(self.folder, "cs")
        self.cert, self.key = self.folder / cert, self.folder / key

    def make(self, **more: Any) -> RenewedContext:
        connection = Connection(type="tls", cert=self.cert, key=self.key, **more)
        return RenewedContext("c", connection, self.lines.events, self.clock)

    def renew(self) -> None:
        """Other files in their place."""
        os.utime(self.cert, ns=(1, 1))
        key_pair(self.folder, "cs")

    def test_renewed(self):
        """New files are taken after a while, and told; without a change nothing is read again."""
        context = self.make()
        first = context.getContext()
        self.clock.advance(LOOK_EVERY_SECONDS)
        self.assertIs(context.getContext(), first)
        self.renew()
        self.assertIs(context.getContext(), first, "not looked at for each connection")
        self.clock.advance(LOOK_EVERY_SECONDS)
        self.assertIsNot(context.getContext(), first)
        self.assertEqual(len(self.lines.of("CertificatesReloaded")), 1)

    def test_unusable(self):
        """Files that cannot be used are told once, and the former ones stay until there are good ones."""
        context = self.make()
        first = context.getContext()
        for content in (b"", b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"):
            self.cert.write_bytes(content)
            self.clock.advance(LOOK_EVERY_SECONDS)
            self.assertIs(context.getContext(), first)
        self.cert.unlink()
        self.clock.advance(LOOK_EVERY_SECONDS)
        self.assertIs(context.getContext(), first)
        self.assertEqual(self.lines.counters.total("certificate_failures"), 3)
        key_pair(self.folder, "cs")
        self.clock.advance(LOOK_EVERY_SECONDS)
        self.assertIsNot(context.getContext(), first)

    def test_second_certificate(self):
        """A further certificate with a locked key."""
        from tbgw.config.schema import Secret

        cert, key = key_pair(self.folder, "other", b"phrase")
        pair = KeyPair(cert=self.folder / cert, key=self.folder / key, password=Secret("phrase"))
        self.make(more=(pair,)).getContext()
        wrong = KeyPair(cert=self.folder / cert, key=self.folder / key, password=Secret("other"))
        self.assertRaises(ConfigurationError, self.make, more=(wrong,))

    def test_clients(self):
        """With `ca` a certificate may be shown, with `verifyClient` it has to be."""
        connection = Connection(type="tls", cert=self.cert, key=self.key, ca=self.cert)
        self.assertTrue(server_tls(connection).client_optional)
        connection = Connection(type="tls", cert=self.cert, key=self.key, ca=self.cert, verify_client=True)
        self.assertFalse(server_tls(connection).client_optional)
