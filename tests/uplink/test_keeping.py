"""Credentials on the disk: private, whole, and never lost to a power cut between two steps."""

from __future__ import annotations

import json
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tbgw.uplink.keeping import ASKED, KEPT, CredentialsKeeper
from tbgw.uplink.provisioning import Login

TOKEN = Login("ACCESS_TOKEN", token="t0ken", device_name="Gate")
BASIC = Login("MQTT_BASIC", client_id="c", username="u", password="p", device_name="Gate")


class KeepingTests(SynchronousTestCase):
    """A data folder and a configuration folder."""

    def setUp(self) -> None:
        self.data, self.config = Path(self.mktemp()), Path(self.mktemp())
        self.data.mkdir(parents=True)
        self.config.mkdir(parents=True)
        self.keeper = CredentialsKeeper(self.data, self.config)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.data.iterdir())

    def test_kept(self) -> None:
        """What is kept is found again, in the reference's form, readable for the owner alone whatever the umask."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        for login in (TOKEN, BASIC):
            self.keeper.keep(login)
            self.assertEqual(CredentialsKeeper(self.data, self.config).load(), login)
        self.assertEqual((self.data / KEPT).stat().st_mode & 0o777, 0o600)
        body = json.loads((self.data / KEPT).read_bytes())
        self.assertEqual(body["credentialsValue"], {"clientId": "c", "userName": "u", "password": "p"})
        self.assertEqual(self.names(), [KEPT])

    def test_certificate(self) -> None:
        """Key and certificate are files of their own, 0600; those that are not in use any more are removed."""
        pairs = []
        for number in range(2):
            certificate, key = self.keeper.write_pair(b"cert%d" % number, b"key%d" % number)
            pairs.append((certificate, key))
            login = Login("X509_CERTIFICATE", certificate=certificate, private_key=key, device_name="Gate")
            self.keeper.keep(login)
            self.assertEqual(self.keeper.load(), login)
        self.assertEqual(pairs[1][1].read_bytes(), b"key1")
        self.assertEqual(pairs[1][1].stat().st_mode & 0o777, 0o600)
        self.assertFalse(pairs[0][0].exists() or pairs[0][1].exists())

    def test_asked(self) -> None:
        """What was asked for is found again under the same configuration only, and is gone once it is kept."""
        self.keeper.ask(BASIC, "basis")
        self.assertEqual((self.keeper.asked("basis"), self.keeper.asked("other")), (BASIC, None))
        self.assertEqual((self.data / ASKED).stat().st_mode & 0o777, 0o600)
        self.assertIsNone(self.keeper.load(), "it is not granted yet")
        self.keeper.keep(BASIC)
        self.assertIsNone(self.keeper.asked("basis"))
        (self.data / ASKED).write_text("{")
        self.assertIsNone(self.keeper.asked("basis"))

    def test_forget(self) -> None:
        """Everything of it is removed; the reference's file is renamed."""
        self.assertFalse(self.keeper.forget())
        pair = self.keeper.write_pair(b"c", b"k")
        self.keeper.keep(Login("X509_CERTIFICATE", certificate=pair[0], private_key=pair[1]))
        self.assertTrue(self.keeper.forget())
        self.assertEqual(self.names(), [])
        (self.config / ".credentials").write_text("{}")
        self.assertTrue(self.keeper.forget())
        self.assertTrue((self.config / ".credentials.old").exists())

    def test_of_the_reference(self) -> None:
        """The reference's file is read, each type of it; ours counts first."""
        basic = {"clientId": "c", "userName": "u", "password": "p"}
        for value, login in (
            ({"credentialsType": "ACCESS_TOKEN", "credentialsValue": "x"}, Login("ACCESS_TOKEN", token="x")),
            (
                {"credentialsType": "MQTT_BASIC", "credentialsValue": basic},
                Login("MQTT_BASIC", client_id="c", username="u", password="p"),
            ),
        ):
            (self.config / ".credentials").write_text(json.dumps({"status": "SUCCESS", "caCert": None, **value}))
            self.assertEqual(self.keeper.load(), login)
        (self.config / ".credentials").write_text(
            json.dumps({"status": "SUCCESS", "credentialsType": "X509_CERTIFICATE", "credentialsValue": "abc"})
        )
        with self.assertRaisesRegex(ValueError, "credentials"):
            self.keeper.load()
        for name in ("cert.pem", "key.pem"):
            (self.config / name).write_text("pem")
        found = self.keeper.load()
        assert found is not None
        self.assertEqual(found.private_key, self.config / "key.pem")
        self.keeper.keep(TOKEN)
        self.assertEqual(self.keeper.load(), TOKEN)

    def test_damaged(self) -> None:
        """A file that cannot be used is an error that names it and tells nothing of what is in it."""
        wrong = '{"status":"SUCCESS","credentialsType":"MQTT_BASIC","credentialsValue":"canary"}'
        for content in (wrong, "", "[]", "{}", '{"status":"SUCCESS","credentialsType":"canary"}', "\0" * 100):
            (self.data / KEPT).write_text(content)
            with self.assertRaisesRegex(ValueError, KEPT) as caught:
                self.keeper.load()
            self.assertNotIn("canary", str(caught.exception))

    def test_left_over_temporary_file(self) -> None:
        """A crash in the middle of writing leaves the old credentials and no obstacle."""
        self.keeper.keep(TOKEN)
        (self.data / (KEPT + ".new")).write_text("{")
        self.assertEqual(self.keeper.load(), TOKEN)
        self.keeper.keep(BASIC)
        self.assertEqual(self.keeper.load(), BASIC)
