"""The sandbox as a service: its start, its faults, and a foreign client over real sockets."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from twisted.internet import reactor, threads
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial import unittest
from zope.interface import implementer

from tbgw.errors import ConfigurationError
from tbgw.interfaces import ISandboxView, IStatusSource
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.sandbox import store
from tbgw.sandbox.platform import SandboxLimits
from tbgw.sandbox.service import Sandbox
from tbgw.sandbox.store import FILE_NAME

NOW = 1_700_000_000_000


class BusyReactor(MemoryReactorClock):
    """A reactor whose port is in use."""

    busy = True
    attempts = 0

    def listenTCP(self, port, factory, backlog=50, interface=""):
        self.attempts += 1
        if self.busy:
            raise CannotListenError(interface, port, OSError(98, "Address already in use"))
        return super().listenTCP(port, factory, backlog, interface)


class ServiceTests(unittest.SynchronousTestCase):
    """Start, stop and what goes wrong, without a network."""

    def setUp(self):
        self.reactor = BusyReactor()
        self.reactor.busy = False
        self.counters = Counters()
        self.lines: list[str] = []

        @implementer(ILogObserver)
        def observe(event):
            if "line" in event:
                self.lines.append(event["line"])

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def sandbox(self, folder: Path | None = None, token_file: Path | None = None, **kwargs) -> Sandbox:
        events = Events(self.counters, self.reactor.seconds)
        return Sandbox(self.reactor, folder, token_file, events=events, now_ms=lambda: NOW, **kwargs)

    def test_interfaces(self):
        """It is a status source, and its view is what the page wants."""
        sandbox = self.sandbox()
        self.assertTrue(IStatusSource.providedBy(sandbox))
        self.assertTrue(ISandboxView.providedBy(sandbox.view))

    def test_listens_on_loopback(self):
        """By default it listens on 127.0.0.1:18830."""
        sandbox = self.sandbox()
        sandbox.startService()
        [(port, _, _, interface)] = self.reactor.tcpServers
        self.assertEqual((interface, port), ("127.0.0.1", 18830))
        self.successResultOf(sandbox.stopService())
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_token_before_the_start(self):
        """The token can be had before the start, stays, is in the file, and never in a line."""
        path = Path(self.mktemp()) / "token"
        token = self.sandbox(token_file=path).ensure_token()
        self.assertEqual(self.sandbox(token_file=path).ensure_token(), token)
        self.assertEqual(path.read_text().strip(), token)
        self.assertEqual(len(self.lines), 1)
        self.assertNotIn(token, "".join(self.lines))
        path.chmod(0o644)
        self.sandbox(token_file=path).ensure_token()
        self.assertIn("0644", self.lines[-1])

    def test_unusable_token_file(self):
        """An empty token file stops the start."""
        path = Path(self.mktemp())
        path.touch()
        self.assertRaises(ConfigurationError, self.sandbox(token_file=path).startService)
        self.assertEqual(self.reactor.tcpServers, [])

    def test_port_in_use(self):
        """A port in use is told in one line and tried again after 5, 10, 20, 40, 60 and 60 seconds."""
        self.reactor.busy = True
        sandbox = self.sandbox()
        sandbox.startService()
        self.assertIn("127.0.0.1:18830 (Address already in use); trying again in 5 s", self.lines[-1])
        for number, seconds in enumerate((5, 10, 20, 40, 60, 60), 1):
            self.reactor.advance(seconds - 1)
            self.assertEqual(self.reactor.attempts, number)
            self.reactor.advance(1)
            self.assertEqual(self.reactor.attempts, number + 1)
        self.assertIsNone(sandbox.port)
        self.reactor.busy = False
        self.reactor.advance(60)
        self.assertEqual(len(self.reactor.tcpServers), 1)
        self.assertEqual(self.counters.get("sandbox_listen_failed"), 7)
        self.successResultOf(sandbox.stopService())
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stopped_while_the_port_is_in_use(self):
        """Once stopped it does not try again."""
        self.reactor.busy = True
        sandbox = self.sandbox()
        sandbox.startService()
        self.successResultOf(sandbox.stopService())
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_data_comes_back(self):
        """After a restart the devices are as they were, but for who is connected."""
        folder = Path(self.mktemp())
        sandbox = self.sandbox(folder)
        sandbox.add_credentials("t", "Other")
        sandbox.startService()
        self.reactor.advance(0)
        self.assertEqual([d["name"] for d in sandbox.view.devices()], ["Gateway", "Other"])
        self.successResultOf(sandbox.stopService())
        sandbox = self.sandbox(folder)
        sandbox.startService()
        self.assertEqual([d["name"] for d in sandbox.view.devices()], ["Gateway", "Other"])
        self.assertEqual(sandbox.status()["sandbox"]["devices"], 2)
        self.successResultOf(sandbox.stopService())

    def test_gateways_own_token(self):
        """A changed token is in the file, private, and counts after a restart, also when the gateway has a new name."""
        folder = Path(self.mktemp())
        token_file = folder / "token"
        sandbox = self.sandbox(folder, token_file)
        sandbox.startService()
        sandbox.control.rename("Gateway", "Hall 7")
        sandbox.control.set_token("Hall 7", "another-token")
        self.assertEqual(token_file.read_text().strip(), "another-token")
        self.assertEqual(token_file.stat().st_mode & 0o777, 0o600)
        self.successResultOf(sandbox.stopService())
        sandbox = self.sandbox(folder, token_file)
        self.assertEqual(sandbox.ensure_token(), "another-token")
        sandbox.startService()
        self.assertEqual([d["name"] for d in sandbox.view.devices()], ["Hall 7"])
        platform = sandbox.control.platform
        self.assertEqual(platform.credentials.find("another-token", None, ""), platform.devices["Hall 7"].id)
        sandbox.control.delete("Hall 7")
        self.successResultOf(sandbox.stopService())
        sandbox = self.sandbox(folder, token_file)
        sandbox.startService()
        self.assertEqual([d["name"] for d in sandbox.view.devices()], ["Gateway"])
        self.successResultOf(sandbox.stopService())

    def test_database_of_version_1(self):
        """It is taken over with all that is in it."""
        folder = Path(self.mktemp())
        folder.mkdir()
        with closing(sqlite3.connect(folder / FILE_NAME)) as database:
            database.executescript(Path(store.__file__).with_name("schema.sql").read_text())
            database.executescript(
                "INSERT INTO device VALUES (1, 'Gateway', 'default', 1, 5), (2, 'A', 'thermo', 0, 6);"
                "INSERT INTO series VALUES (1, 2, 'k'); INSERT INTO point VALUES (1, 10, 1.5);"
                "INSERT INTO attribute VALUES (2, 'a', 10, 'x'); PRAGMA user_version = 1"
            )
        sandbox = self.sandbox(folder)
        sandbox.startService()
        sandbox.control.set_attributes("A", {"limit": 1})
        self.successResultOf(sandbox.stopService())
        sandbox = self.sandbox(folder)
        sandbox.startService()
        device = sandbox.view.devices()[1]
        self.assertEqual((device["name"], device["profile"]), ("A", "thermo"))
        for group, key in (("telemetry", "k"), ("attributes", "a"), ("shared", "limit")):
            self.assertIn(key, device[group])
        self.assertEqual(self.counters.get("sandbox_store_set_aside"), 0)
        self.successResultOf(sandbox.stopService())

    def test_database_that_cannot_be_understood(self):
        """Credentials, profiles and packages that make no sense: set aside, as a damaged file is."""
        for name, content in (
            ("credentials/1", b"{"),
            ("credentials/x", b"{}"),
            ("profile/p", b'{"name":5}'),
            ("package/p", b"{}\n"),
            ("limits", b'{"rateLimits":{"messages":"x"}}'),
        ):
            folder = Path(self.mktemp())
            sandbox = self.sandbox(folder)
            sandbox.startService()
            self.reactor.advance(0)
            self.successResultOf(sandbox.stopService())
            with closing(sqlite3.connect(folder / FILE_NAME)) as database:
                database.execute("INSERT INTO kept VALUES (?, ?)", (name, content))
                database.commit()
            sandbox = self.sandbox(folder)
            sandbox.startService()
            self.assertTrue((folder / f"{FILE_NAME}.aside").exists(), name)
            self.assertTrue(sandbox.status()["sandbox"]["storeOpen"])
            self.successResultOf(sandbox.stopService())

    def test_damaged_database(self):
        """A damaged database is set aside, said so, and a new one begun."""
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / FILE_NAME).write_bytes(b"nonsense" * 1000)
        sandbox = self.sandbox(folder)
        sandbox.startService()
        self.assertTrue((folder / f"{FILE_NAME}.aside").exists())
        self.assertEqual(self.counters.get("sandbox_store_set_aside"), 1)
        self.assertTrue(sandbox.status()["sandbox"]["storeOpen"])
        self.successResultOf(sandbox.stopService())

    def test_database_that_cannot_be_opened(self):
        """It is tried again until it can, and nothing is served meanwhile."""
        folder = Path(self.mktemp())
        folder.touch()
        sandbox = self.sandbox(folder)
        sandbox.startService()
        self.assertFalse(sandbox.status()["sandbox"]["storeOpen"])
        self.assertEqual((sandbox.view.devices(), sandbox.view.history("Gateway", "k", 0)), ([], []))
        folder.unlink()
        self.reactor.advance(5)
        self.assertTrue(sandbox.status()["sandbox"]["storeOpen"])
        self.assertEqual(self.counters.get("sandbox_store_failed"), 1)
        self.successResultOf(sandbox.stopService())

    def test_push_to_nobody(self):
        """Nothing can be pushed to a device that is not connected."""
        sandbox = self.sandbox()
        sandbox.startService()
        self.assertRaises(LookupError, sandbox.push, "Gateway", "v1/gateway/rpc", b"{}")
        self.successResultOf(sandbox.stopService())


class PahoTests(unittest.TestCase):
    """A foreign client over a real socket."""

    timeout = 20

    @inlineCallbacks
    def start(self, **kwargs):
        """A running sandbox on a free port."""
        self.folder = Path(self.mktemp())
        yield
        self.sandbox = Sandbox(
            reactor,
            self.folder,
            self.folder / "token",
            mqtt_port=0,
            events=Events(Counters(), time.monotonic),
            now_ms=lambda: NOW,
            **kwargs,
        )
        self.token = self.sandbox.ensure_token()
        self.sandbox.startService()
        self.addCleanup(self.sandbox.stopService)

    def talk(self, session):
        """Run `session(port)` in a thread of its own."""
        return threads.deferToThread(session, self.sandbox.port)

    @inlineCallbacks
    def test_gateway_session(self):
        """Login, subscriptions, limits, connect, telemetry, attributes and disconnect, as the reference client does."""
        yield self.start()
        token = self.token

        def session(port):
            answers = []
            client = paho.Client(CallbackAPIVersion.VERSION2, client_id="paho", protocol=paho.MQTTv311)
            client.username_pw_set(token)
            granted: list[int] = []
            client.on_message = lambda _c, _u, message: answers.append((message.topic, json.loads(message.payload)))
            client.on_subscribe = lambda _c, _u, _m, codes, _p: granted.extend(int(code.value) for code in codes)
            client.connect("127.0.0.1", port)
            client.loop_start()
            filters = ["v1/gateway/rpc", "v1/devices/me/rpc/response/+", "#"]
            client.subscribe([(topic_filter, 1) for topic_filter in filters])

            def publish(topic, value):
                client.publish(topic, json.dumps(value), qos=1).wait_for_publish(5)

            publish("v1/devices/me/rpc/request/1", {"method": "getSessionLimits", "params": {}})
            publish("v1/gateway/connect", {"device": "A", "type": "thermo"})
            publish("v1/gateway/telemetry", {"A": [{"ts": 1000, "values": {"t": "007", "on": True}}]})
            publish("v1/gateway/attributes", {"A": {"model": "DHT-22"}})
            publish("v1/gateway/disconnect", {"device": "A"})
            publish("v2/t", {"load": 0.5})
            deadline = time.monotonic() + 5
            while not answers and time.monotonic() < deadline:
                time.sleep(0.01)  # in the client's own thread, which has no reactor
            client.disconnect()
            client.loop_stop()
            return granted, answers

        granted, answers = yield self.talk(session)
        self.assertEqual(granted, [1, 1, 0x80])
        [(topic, limits)] = answers
        self.assertEqual((topic, limits["maxPayloadSize"]), ("v1/devices/me/rpc/response/1", 65536))
        gateway, device = self.sandbox.view.devices()
        self.assertEqual(gateway["telemetry"], {"load": {"ts": NOW, "value": 0.5}})
        self.assertEqual((device["profile"], device["connected"]), ("thermo", False))
        self.assertEqual(device["telemetry"], {"t": {"ts": 1000, "value": 7}, "on": {"ts": 1000, "value": True}})
        self.assertEqual(device["attributes"], {"model": {"ts": NOW, "value": "DHT-22"}})
        self.assertEqual(self.sandbox.view.history("A", "t", 0), [(1000, 7)])

    @inlineCallbacks
    def test_wrong_token(self):
        """A wrong token is refused with code 5."""
        yield self.start()

        def session(port):
            codes = []
            client = paho.Client(CallbackAPIVersion.VERSION2, client_id="paho", protocol=paho.MQTTv311)
            client.username_pw_set("wrong")
            client.on_connect = lambda _c, _u, _f, code, _p: codes.append(code.getName())
            client.connect("127.0.0.1", port)
            while not codes:
                client.loop(0.5)
            client.disconnect()
            return codes

        self.assertEqual((yield self.talk(session)), ["Not authorized"])

    @inlineCallbacks
    def test_push(self):
        """What the platform pushes reaches the client, and its PUBACK comes back."""
        yield self.start()
        token = self.token

        def session(port):
            got = []
            client = paho.Client(CallbackAPIVersion.VERSION2, client_id="paho", protocol=paho.MQTTv311)
            client.username_pw_set(token)
            client.on_message = lambda _c, _u, message: got.append((message.topic, message.payload, message.qos))

            def say_hello(*_):
                client.publish("v1/devices/me/telemetry", '{"here":1}', qos=1)

            client.on_connect = say_hello
            client.connect("127.0.0.1", port)
            while not got:
                client.loop(0.5)
            client.disconnect()
            return got

        pushes: list[Deferred[int]] = []

        def here(*_):
            pushes.append(self.sandbox.push("Gateway", "v1/gateway/rpc", b'{"device":"A","data":{}}'))

        self.sandbox.on_publish = here
        got = yield self.talk(session)
        self.assertEqual(got, [("v1/gateway/rpc", b'{"device":"A","data":{}}', 1)])
        self.assertEqual((yield pushes[0]), 0)

    @inlineCallbacks
    def test_packet_size(self):
        """A remaining length of 65536 is taken, one of 65537 closes the connection."""
        yield self.start(limits=SandboxLimits())
        token = self.token
        topic = b"v1/devices/me/telemetry"

        def packet(remaining):
            head = len(topic).to_bytes(2, "big") + topic + b"\x00\x05"
            payload = b'{"a":"' + b"x" * (remaining - len(head) - 8) + b'"}'
            length = bytes([remaining & 0x7F | 0x80, remaining >> 7 & 0x7F | 0x80, remaining >> 14])
            return b"\x32" + length + head + payload

        def session(port):
            replies = []
            for remaining in (65536, 65537):
                with socket.create_connection(("127.0.0.1", port), 5) as connection:
                    name = token.encode()
                    body = b"\x00\x04MQTT\x04\x82\x00\x3c\x00\x01c" + len(name).to_bytes(2, "big") + name
                    connection.sendall(b"\x10" + bytes([len(body)]) + body)
                    assert connection.recv(4, socket.MSG_WAITALL) == b"\x20\x02\x00\x00"
                    try:
                        connection.sendall(packet(remaining))
                        replies.append(connection.recv(4, socket.MSG_WAITALL))
                    except ConnectionError:
                        replies.append(b"")
            return replies

        self.assertEqual((yield self.talk(session)), [b"\x40\x02\x00\x05", b""])
        self.assertEqual(len(self.sandbox.view.devices()[0]["telemetry"]["a"]["value"]), 65536 - 2 - len(topic) - 2 - 8)
