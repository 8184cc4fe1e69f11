"""Who may command the sandbox over HTTP, and how."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from twisted.trial import unittest
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tbgw.interfaces import ISandboxControl
from tbgw.internal_events import Events
from tbgw.sandbox.commands import Commands
from tbgw.web.peer import find_owner, owner_of
from tbgw.web.resources import MAX_COMMAND_BYTES, MAX_UPLOAD_BYTES
from tbgw.web.site import WebSite
from tests.sandbox.operated import OperatedTests
from tests.web.fakes import NOW
from tests.web.test_site import Answer, Connection, SiteTests

JSON = "Content-Type: application/json"


@implementer(ISandboxControl)
class FakeControl:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.result: Deferred[tuple[int, Any]] | None = None

    def command(self, name: str, arguments: Mapping[str, Any]) -> Deferred[tuple[int, Any]]:
        """As in the interface."""
        self.asked.append((name, arguments))
        return self.result or succeed((200, {"done": True}))


class CommandAccessTests(SiteTests):
    """A POST to `/api/sandbox/`."""

    def make(self, address="127.0.0.1"):
        self.control = FakeControl()
        self.owner: int | None = os.geteuid()
        self.sockets: list[Any] = []
        events = Events(self.counters, self.reactor.seconds)

        def owner_of(peer, here):
            self.sockets.append((peer, here))
            return self.owner

        return WebSite(
            self.reactor, address, 8080, self.view, [], events, lambda: NOW, control=self.control, owner_of=owner_of
        )

    def post(self, body: Any, *headers: str, name="rename", host="127.0.0.1:8080") -> Answer:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask(
            f"/api/sandbox/{name}", "POST", host, [*headers, f"Content-Length: {len(content)}"], content
        )

    def test_commanded(self):
        """A JSON object is handed on, and the answer comes back as it is."""
        answer = self.post({"device": "A"}, JSON)
        self.assertEqual((answer.code, answer.json()), (200, {"done": True}))
        self.assertEqual(self.control.asked, [("rename", {"device": "A"})])
        self.assertEqual(self.counters.get("sandbox_commands", "200"), 1)
        self.assertEqual(answer.headers["cache-control"], "no-store")

    def test_status(self):
        """The command's status is the answer's."""
        self.control.result = succeed((404, {"error": "no such device"}))
        answer = self.post({}, JSON)
        self.assertEqual((answer.code, answer.json()), (404, {"error": "no such device"}))

    def test_late(self):
        """A command may take its time; one whose asker is gone meanwhile ends quietly."""
        for gone in (False, True):
            self.control.result = Deferred()
            connection = Connection(self.factory)
            head = f"POST /api/sandbox/rpc HTTP/1.1\r\nHost: localhost\r\n{JSON}\r\nContent-Length: 2\r\n\r\n"
            self.assertEqual(connection.send(head.encode() + b"{}"), b"")
            if gone:
                connection.lose()
            self.control.result.callback((200, {}))
            self.assertEqual(connection.transport.value().startswith(b"HTTP/1.1 200"), not gone)

    def test_fault(self):
        """A fault of the program is a 500 and an event, and tells the asker nothing."""
        self.control.result = Deferred()
        self.control.result.errback(Failure(RuntimeError("the inside")))
        answer = self.post({}, JSON)
        self.assertEqual(answer.code, 500)
        self.assertNotIn("inside", answer.body.decode())
        self.assertEqual(self.counters.get("sandbox_commands_failed"), 1)

    def test_other_origins(self):
        """No page of another origin, and no form, can command: the browser says where it is from, or asks first."""
        for headers, code in (
            ([JSON, "Origin: http://127.0.0.1:8080", "Sec-Fetch-Site: same-origin"], 200),
            ([JSON, "Origin: http://evil.example"], 403),
            ([JSON, "Origin: http://127.0.0.1:9999"], 403),
            ([JSON, "Origin: https://127.0.0.1:8080"], 403),
            ([JSON, "Origin: null"], 403),
            ([JSON, "Sec-Fetch-Site: cross-site"], 403),
            ([JSON, "Sec-Fetch-Site: same-site"], 403),
            ([JSON, "Sec-Fetch-Site: none"], 403),
            (["Content-Type: text/plain"], 415),
            (["Content-Type: application/x-www-form-urlencoded"], 415),
            (["Content-Type: text/plain; application/json"], 415),
            ([], 415),
        ):
            self.control.asked.clear()
            self.assertEqual(self.post({}, *headers).code, code, headers)
            self.assertEqual(len(self.control.asked), code == 200, headers)
        self.assertEqual(self.post({}, JSON, host="evil.example").code, 421)

    def test_no_preflight(self):
        """Nobody is allowed to ask from elsewhere."""
        answer = self.ask("/api/sandbox/delete", "OPTIONS", headers=["Origin: http://evil.example"])
        self.assertEqual(answer.code, 405)
        self.assertEqual([name for name in answer.headers if name.startswith("access-control")], [])

    def test_other_users(self):
        """Only the user that runs the gateway, and root; nobody whose socket is not found."""
        for owner, code in ((os.geteuid(), 200), (0, 200), (12345, 403), (None, 403)):
            self.owner = owner
            self.assertEqual(self.post({}, JSON).code, code)

    def test_other_machines(self):
        """Nobody from elsewhere, even if the page is shown there."""
        connection = Connection(self.factory, "192.168.1.5")
        head = f"POST /api/sandbox/rpc HTTP/1.1\r\nHost: localhost\r\n{JSON}\r\nContent-Length: 2\r\n\r\n"
        self.assertEqual(Answer(connection.send(head.encode() + b"{}")).code, 403)

    def test_bodies(self):
        """What is no JSON object, too long, or of unknown length is refused."""
        for body in (b"", b"[]", b"{", b"\xff", b"[" * 60000):
            self.assertEqual(self.post(body, JSON).code, 400, body[:10])
        head = "POST /api/sandbox/x HTTP/1.1\r\nHost: localhost\r\n" + JSON + "\r\n"
        for rest in (
            f"Content-Length: {MAX_UPLOAD_BYTES + 1}\r\n\r\n" + "x" * (MAX_UPLOAD_BYTES + 1),
            "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        ):
            self.assertEqual(Answer(Connection(self.factory).send((head + rest).encode())).code, 413)
        self.assertEqual(self.control.asked, [])

    def test_one_upload(self):
        """Of long bodies one may come at a time; then the next."""
        body = json.dumps({"data": "x" * MAX_COMMAND_BYTES}).encode()
        head = f"POST /api/sandbox/x HTTP/1.1\r\nHost: localhost\r\n{JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
        first, second = Connection(self.factory), Connection(self.factory)
        first.send(head.encode() + body[:100])
        self.assertEqual(Answer(second.send(head.encode() + body)).code, 413)
        self.assertEqual(Answer(first.send(body[100:])).code, 200)
        third = Connection(self.factory)
        third.send(head.encode() + body[:100])
        third.lose()  # in the middle of it
        self.assertEqual(Answer(Connection(self.factory).send(head.encode() + body)).code, 200)

    def test_nobody_to_command(self):
        """Without a sandbox to command there is no such method."""
        self.site = WebSite(
            self.reactor, "127.0.0.1", 8080, self.view, [], Events(self.counters, self.reactor.seconds), lambda: NOW
        )
        self.assertEqual(self.post({}, JSON).code, 405)


class OwnerTests(unittest.SynchronousTestCase):
    """Who owns the other end of a connection."""

    def test_real_sockets(self):
        """Both ends of a connection of our own are ours, over IPv4 and IPv6."""
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as listener:
                listener.bind((host, 0))
                listener.listen()
                with socket.create_connection(listener.getsockname()[:2]) as client:
                    ends = client.getsockname()[:2], client.getpeername()[:2]
                    self.assertEqual(owner_of(*ends), os.geteuid())
                    self.assertIsNone(owner_of(ends[0], (host, 1)))

    def test_mapped(self):
        """An IPv4 connection from a socket that also speaks IPv6 is found in the other table."""
        line = (
            "   4: 0000000000000000FFFF00000100007F:C350 0000000000000000FFFF00000100007F:1F90 01 "
            "00000000:00000000 00:00000000 00000000  1000        0 1 1 0000000000000000 20 4 30 10 -1"
        )
        ends = ("127.0.0.1", 50000), ("127.0.0.1", 8080)
        self.assertEqual(find_owner([line], *ends), 1000)
        self.assertIsNone(find_owner([line, "", "nonsense"], ("127.0.0.1", 50001), ends[1]))


class CommandsTests(OperatedTests):
    """The commands themselves."""

    def setUp(self):
        super().setUp()
        self.commands = Commands(self.control)

    def do(self, command, status=200, /, **arguments):
        got, value = self.successResultOf(self.commands.command(command, arguments))
        self.assertEqual(got, status, value)
        return value

    def test_interface(self):
        """It is what the page wants."""
        self.assertTrue(verifyObject(ISandboxControl, self.commands))

    def test_devices(self):
        """Made, told, renamed, deleted."""
        self.do("create", device="A", profile="thermo", credentials={"token": "t"})
        self.do("rename", device="A", name="B")
        self.do("gateway", device="B", gateway=True, overwriteActivityTime=True)
        told = self.do("device", device="B")
        self.assertEqual((told["profile"], told["gateway"], told["overwriteActivityTime"]), ("thermo", True, True))
        self.assertEqual([device["name"] for device in self.do("devices")["devices"]], ["Gateway", "Plain", "B"])
        self.assertNotIn("t", json.dumps(told["credentials"]).split('"'))
        self.do("credentials", device="B", credentials={"kind": "MQTT_BASIC", "username": "u", "password": "secret"})
        self.assertNotIn("secret", json.dumps(self.do("devices")))
        self.do("delete", device="B")
        self.do("device", 404, device="B")

    def test_attributes(self):
        """Set and deleted."""
        self.do("set", device="Plain", values={"a": 1, "b": {"c": [1]}})
        self.assertEqual(self.do("unset", device="Plain", keys=["a", "x"]), {"deleted": ["a"]})

    def test_rpc(self):
        """A call waits for its answer; nobody there is a 504; persistent ones have an id."""
        device = self.connect("device-token")
        device.subscribe("v1/devices/me/rpc/request/+")
        waiting = self.commands.command("rpc", {"device": "Plain", "method": "get", "params": [1]})
        device.pushed()
        device.publish("v1/devices/me/rpc/response/0", {"a": 1})
        self.assertEqual(self.successResultOf(waiting), (200, {"response": {"a": 1}}))
        self.assertEqual(self.do("rpc", device="Plain", method="x", oneWay=True), {"response": None})
        call = self.do("rpc", device="Plain", method="x", persistent=True, expiresInMs=60000)["response"]["rpcId"]
        self.assertEqual(self.do("rpc-status", id=call)["status"], "SENT")
        self.do("rpc-status", 404, id="x")
        device.lose()
        waiting = self.commands.command("rpc", {"device": "Plain", "method": "get"})
        self.clock.advance(11)
        self.assertEqual(self.successResultOf(waiting)[0], 504)

    def test_packages(self):
        """Uploaded, listed without their data, offered, taken back, removed."""
        about = {"kind": "fw", "title": "meter", "version": "v2"}
        self.assertEqual(self.do("package-add", **about, data="aGVsbG8=", algorithm="CRC32")["checksum"], "86a61036")
        self.assertEqual(self.do("packages")["packages"][0]["size"], 5)
        self.do("assign", device="Plain", **about)
        self.assertEqual(self.do("device", device="Plain")["fw"], '["fw", "meter", "v2"]')
        self.do("package-remove", 400, **about)
        self.do("unassign", device="Plain", kind="fw")
        self.do("package-remove", **about)
        self.do("package-add", 400, **about, data="***")
        self.do("unassign", 400, device="Plain", kind="customer")

    def test_profiles(self):
        """Set and listed, without their secret."""
        strategy = {"strategy": "ALLOW_CREATE_NEW_DEVICES", "key": "k", "secret": "s3cret"}
        self.do("profile", profile={"name": "p", **strategy})
        self.assertEqual(self.do("profiles")["profiles"][0]["key"], "k")
        self.assertNotIn("s3cret", json.dumps(self.do("profiles")))
        self.do("profile", 400, profile={"name": ""})

    def test_link(self):
        """Limits, switches, cuts; claims."""
        device = self.connect("device-token")
        self.assertEqual(self.do("limits", limits={"maxInflightMessages": 5})["maxInflightMessages"], 5)
        self.do("limits", 400, limits={"x": 1})
        self.assertTrue(self.do("switches", switches={"withhold_pubacks": True})["withhold_pubacks"])
        self.assertFalse(self.do("switches", switches={"withhold_pubacks": False})["withhold_pubacks"])
        self.do("switches", 400, switches={"x": True})
        device.publish("v1/devices/me/claim", {"secretKey": "s"})
        self.do("claim", device="Plain", customer="C", secretKey="s")
        self.do("claim", 400, device="Plain", customer="C", secretKey="s")
        self.do("unclaim", device="Plain")
        self.assertEqual(self.do("cut", device="Plain"), {"cut": 1})
        device.received()
        self.assertEqual(self.do("cut"), {"cut": 0})

    def test_refused(self):
        """Missing, wrong and unknown members, and unknown commands, are named."""
        for name, arguments, status, word in (
            ("rename", {"device": "Plain"}, 400, "name is missing"),
            ("rename", {"device": 5, "name": "x"}, 400, "device is a text"),
            ("rename", {"device": "Plain", "name": "x", "y": 1}, 400, "there is no y"),
            ("rename", {"device": "Plain", "name": "Gateway"}, 400, "there is a device of this name"),
            ("rpc", {"device": "Plain", "method": "x", "timeoutMs": True}, 400, "timeoutMs is a number"),
            ("rpc", {"device": "Plain", "method": "x", "timeoutMs": 10**9}, 400, "timeoutMs is 0 to"),
            ("unset", {"device": "Plain", "keys": [1]}, 400, "keys is a list of texts"),
            ("gateway", {"device": "Plain", "gateway": 1}, 400, "gateway is true or false"),
            ("create", {"device": "A", "credentials": {"token": ""}}, 400, "a token is not empty"),
            ("create", {"device": "A", "credentials": {"token": "gateway-token"}}, 400, "another device"),
            ("create", {"device": "Plain"}, 400, "there is a device"),
            ("nothing", {}, 404, "no such command"),
        ):
            self.assertIn(word, self.do(name, status, **arguments)["error"])
        self.assertEqual([device["name"] for device in self.view.devices()], ["Gateway", "Plain"])
