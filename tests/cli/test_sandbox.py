"""`tbgw sandbox` against a running sandbox, over real HTTP."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from pathlib import Path

from twisted.internet import reactor, threads
from twisted.internet.defer import inlineCallbacks
from twisted.trial import unittest

from tbgw.cli import main
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.sandbox.service import Sandbox
from tbgw.web.site import WebSite
from tests.test_tls import authority, issue


class SandboxCommandTests(unittest.TestCase):
    """The command as a user types it; the sandbox in this process, the command in a thread."""

    timeout = 60

    def setUp(self):
        events = Events(Counters(), time.monotonic)

        def now_ms() -> int:
            return int(time.time() * 1000)

        self.sandbox = Sandbox(reactor, mqtt_port=0, events=events, now_ms=now_ms)
        self.sandbox.startService()
        self.addCleanup(self.sandbox.stopService)
        self.site = WebSite(
            reactor, "127.0.0.1", 0, self.sandbox.view, [], events, now_ms, control=self.sandbox.commands
        )
        self.site.startService()
        self.addCleanup(self.site.stopService)
        self.platform = self.sandbox.control.platform

    @inlineCallbacks
    def tbgw(self, *arguments: str, status: int = 0):
        """What it printed: JSON, or the text of an error."""
        output, errors = io.StringIO(), io.StringIO()

        def call() -> int:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
                return main.main(["sandbox", "--url", f"http://127.0.0.1:{self.site.port}", *arguments])

        got = yield threads.deferToThread(call)
        self.assertEqual(got, status, errors.getvalue())
        if status:
            return errors.getvalue()
        return json.loads(output.getvalue()) if output.getvalue() else None

    @inlineCallbacks
    def test_devices(self):
        """Made, shown, renamed, given other credentials, deleted."""
        yield self.tbgw("create", "A", "--profile", "thermo", "--token", "t1", "--gateway")
        yield self.tbgw("rename", "A", "B")
        told = yield self.tbgw("device", "B")
        self.assertEqual((told["profile"], told["gateway"], told["credentials"]), ("thermo", True, "ACCESS_TOKEN"))
        yield self.tbgw("token", "B", "t2")
        self.assertIsNotNone(self.platform.credentials.find("t2", None, ""))
        self.patch(sys, "stdin", io.StringIO("t3\n"))
        yield self.tbgw("token", "B", "-")
        self.assertIsNotNone(self.platform.credentials.find("t3", None, ""))
        yield self.tbgw("credentials", "B", "--username", "u", "--password", "p")
        self.assertIsNotNone(self.platform.credentials.find("u", b"p", ""))
        pem = Path(self.mktemp())
        pem.write_bytes(issue("B").pem)
        yield self.tbgw("credentials", "B", "--certificate", str(pem))
        devices = yield self.tbgw("devices")
        self.assertEqual([(d["name"], d["credentials"]) for d in devices["devices"]][1], ("B", "X509_CERTIFICATE"))
        yield self.tbgw("delete", "B")
        self.assertIn("wasn't found", (yield self.tbgw("device", "B", status=1)))

    @inlineCallbacks
    def test_attributes_and_calls(self):
        """Values are JSON or text; a call nobody answers is told as an error."""
        yield self.tbgw("create", "A")
        yield self.tbgw("set", "A", "limit=5", "mode=eco", 'plan={"a":[1]}', "text=a=b")
        held = {key: value for key, (_, value) in self.platform.devices["A"].shared.items()}
        self.assertEqual(held, {"limit": 5, "mode": "eco", "plan": b'{"a":[1]}', "text": "a=b"})
        self.assertEqual((yield self.tbgw("unset", "A", "limit", "x")), {"deleted": ["limit"]})
        answer = yield self.tbgw("rpc", "A", "open", '{"door":1}', "--persistent", "--expires", "60")
        told = yield self.tbgw("rpc-status", answer["response"]["rpcId"])
        self.assertEqual((told["status"], told["request"]["params"]), ("QUEUED", {"door": 1}))
        self.assertIn("no active connection", (yield self.tbgw("rpc", "A", "open", "--timeout", "1", status=1)))

    @inlineCallbacks
    def test_packages(self):
        """Uploaded, offered, taken back, removed."""
        image = Path(self.mktemp())
        image.write_bytes(bytes(100_000))
        about = ("--title", "meter", "--version", "v2")
        told = yield self.tbgw("ota", "upload", str(image), *about, "--algorithm", "md5", "--tag", "m v2")
        self.assertEqual(told["size"], 100_000)
        yield self.tbgw("ota", "assign", "Gateway", *about)
        self.assertEqual(self.platform.devices["Gateway"].shared["fw_size"][1], 100_000)
        packages = yield self.tbgw("ota", "list")
        self.assertEqual([package["algorithm"] for package in packages["packages"]], ["MD5"])
        self.assertIn("assigned", (yield self.tbgw("ota", "remove", *about, status=1)))
        yield self.tbgw("ota", "unassign", "Gateway")
        yield self.tbgw("ota", "remove", *about)
        self.assertIn("No such file", (yield self.tbgw("ota", "upload", "/nowhere", *about, status=1)))

    @inlineCallbacks
    def test_platform(self):
        """Profiles, limits, switches, claims, cuts."""
        yield self.tbgw("profile", "p", "--strategy", "ALLOW_CREATE_NEW_DEVICES", "--key", "k", "--secret", "s")
        profiles = yield self.tbgw("profiles")
        self.assertEqual(profiles["profiles"][0]["strategy"], "ALLOW_CREATE_NEW_DEVICES")
        pem = Path(self.mktemp())
        pem.write_bytes(authority("meters").pem)
        chain = ("--strategy", "X509_CERTIFICATE_CHAIN", "--certificate", str(pem), "--name-pattern", "(.*)")
        yield self.tbgw("profile", "q", *chain)
        self.assertTrue(self.platform.profiles["q"].certificate)
        limits = yield self.tbgw("limits", "maxInflightMessages=5", "gatewayRateLimits.messages=10:1,300:60")
        self.assertEqual((limits["maxInflightMessages"], limits["gatewayRateLimits"]["messages"]), (5, "10:1,300:60"))
        self.assertEqual((yield self.tbgw("limits")), limits)
        switches = yield self.tbgw("switches", "withhold_pubacks=true")
        self.assertTrue(switches["withhold_pubacks"])
        self.assertIn("not KEY=VALUE", (yield self.tbgw("switches", "x", status=1)))
        self.assertIn("FAILURE", (yield self.tbgw("claim", "Gateway", "Customer", "secret", status=1)))
        yield self.tbgw("unclaim", "Gateway")
        self.assertEqual((yield self.tbgw("cut")), {"cut": 0})
        self.assertEqual((yield self.tbgw("cut", "Gateway")), {"cut": 0})

    @inlineCallbacks
    def test_nobody_there(self):
        """Without a sandbox, one clear line."""
        yield self.site.stopService()
        self.assertIn("no sandbox at", (yield self.tbgw("devices", status=1)))
