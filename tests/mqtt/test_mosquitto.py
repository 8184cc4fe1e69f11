"""The client against Debian's mosquitto, and the server against paho: real sockets on 127.0.0.1, own ports."""

from __future__ import annotations

import contextlib  # not "suppress" by name: trial takes a module attribute of that name for its own
import getpass
import os
import shutil
import socket
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone, ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase

from tbgw.mqtt import (
    ClientDisconnected,
    ClientOptions,
    ConnectionRefused,
    ConnectReturnCode,
    MQTTClientProtocol,
    MQTTServerProtocol,
    Publish,
    ServerOptions,
    Session,
    Will,
)
from tests.mqtt.memory import ClientRecord, ServerRecord

reactor: Any = _reactor  # the real one: it has more interfaces than its annotation says
MOSQUITTO = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Broker(ProcessProtocol):
    """One mosquitto process; `ready` fires when it says that it runs."""

    def __init__(self, directory: Path, port: int, extra: str = "") -> None:
        self.ready: Deferred[None] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self.output = b""
        self._watched: list[tuple[bytes, int, Deferred[None]]] = []
        configuration = directory / "mosquitto.conf"
        configuration.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_dest stderr\n"
            f"log_type all\nmax_inflight_messages 0\nuser {getpass.getuser()}\n{extra}"
        )
        assert MOSQUITTO is not None
        reactor.spawnProcess(self, MOSQUITTO, [MOSQUITTO, "-c", str(configuration)], env={})

    def errReceived(self, data: bytes) -> None:
        self.output += data
        if b" running" in self.output and not self.ready.called:
            self.ready.callback(None)
        for watch in self._watched[:]:
            text, count, deferred = watch
            if self.output.count(text) >= count:
                self._watched.remove(watch)
                deferred.callback(None)

    def logged(self, text: bytes, count: int) -> Deferred[None]:
        """Fires when the broker has logged this so many times from now on."""
        deferred: Deferred[None] = Deferred()
        self._watched.append((text, self.output.count(text) + count, deferred))
        return deferred

    def processEnded(self, reason: Failure) -> None:
        reason.trap(ProcessDone, ProcessTerminated)
        if not self.ready.called:
            self.ready.errback(RuntimeError(self.output.decode(errors="replace")))
        self.ended.callback(None)

    def stop(self) -> Deferred[None]:
        """Ends the process; fires when it has ended."""
        if not self.ended.called:
            assert self.transport is not None
            with contextlib.suppress(ProcessExitedAlready):
                self.transport.signalProcess("TERM")
        return self.ended


class WaitingClientRecord(ClientRecord):
    """Also lets a test wait for the next call of a name."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[str, list[Deferred[Any]]] = {}

    def next(self, name: str) -> Deferred[Any]:
        """Fires with the value of the next call."""
        deferred: Deferred[Any] = Deferred()
        self._waiting.setdefault(name, []).append(deferred)
        return deferred

    def _told(self, name: str, value: Any) -> None:
        waiting, self._waiting[name] = self._waiting.get(name, []), []
        for deferred in waiting:
            deferred.callback(value)

    def connected(self, protocol, connack):
        super().connected(protocol, connack)
        self._told("connected", connack)

    def message_received(self, protocol, publish):
        super().message_received(protocol, publish)
        self._told("message", publish)

    def disconnected(self, protocol, reason):
        super().disconnected(protocol, reason)
        self._told("disconnected", reason)


class MosquittoTests(TestCase):
    """Our client, their broker."""

    timeout = 30

    async def setUp(self) -> None:  # type: ignore[override]  # trial runs coroutines too
        if MOSQUITTO is None:
            raise SkipTest("mosquitto is not installed")
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.port = free_port()

    async def start(self, extra: str = "") -> Broker:
        broker = Broker(self.directory, self.port, extra)
        self.addCleanup(broker.stop)
        await broker.ready
        return broker

    async def client(
        self, session: Session | None = None, **options: Any
    ) -> tuple[MQTTClientProtocol, WaitingClientRecord]:
        """A client that got its CONNACK, or was refused."""
        record = WaitingClientRecord()
        protocol = MQTTClientProtocol(ClientOptions(**options), record, reactor, session)
        answered, ended = record.next("connected"), record.next("disconnected")
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), protocol)
        await DeferredList([answered, ended], fireOnOneCallback=True)
        self.addCleanup(self.end, protocol, record)
        return protocol, record

    async def end(self, protocol: MQTTClientProtocol, record: WaitingClientRecord) -> None:
        if "disconnected" not in record.names():
            gone = record.next("disconnected")
            protocol.disconnect()
            await gone

    async def test_round_trip(self):
        """Subscribe, publish with both QoS, receive, unsubscribe, disconnect."""
        await self.start()
        protocol, record = await self.client(client_id="one", keep_alive_seconds=30)
        self.assertEqual(await protocol.subscribe([("a/+/c", 1), ("b/#", 0)]), [1, 0])
        got = record.next("message")
        self.assertEqual(await protocol.publish("a/ä/c", b"\x00\xff" * 100), 0)
        message = await got
        self.assertEqual((message.topic, message.payload, message.qos), ("a/ä/c", b"\x00\xff" * 100, 1))
        got = record.next("message")
        self.assertEqual(await protocol.publish("b", b"", qos=0), 0)
        message = await got
        self.assertEqual((message.topic, message.payload, message.qos), ("b", b"", 0))
        self.assertEqual(await protocol.unsubscribe(["b/#", "never/subscribed"]), [0, 0])
        gone = record.next("disconnected")
        protocol.disconnect()
        self.assertIsInstance(await gone, ConnectionDone)

    async def test_many(self):
        """Two thousand messages with a window of fifty come back complete and in order, large ones among them."""
        await self.start()
        protocol, record = await self.client(client_id="many", max_inflight=50)
        await protocol.subscribe([("load", 1)])
        payloads = [str(number).encode() * (20000 if number % 100 == 0 else 1) for number in range(2000)]
        waiting = iter(payloads)
        left = len(payloads)
        done: Deferred[None] = Deferred()

        def send(code: int = 0) -> None:
            payload = next(waiting, None)
            if payload is not None:
                protocol.publish("load", payload).addCallbacks(acknowledged, done.errback)

        def acknowledged(code: int) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                done.callback(None)
            send()

        for _ in range(50):
            send()
        await done
        while len(record.values("message")) < len(payloads):
            await record.next("message")
        self.assertEqual([message.payload for message in record.values("message")], payloads)
        self.assertEqual(protocol.ignored_acknowledgements, 0)

    async def test_refused(self):
        """A wrong password is ConnectionRefused, told once, and the transport is gone."""
        (self.directory / "passwords").write_text("")
        await self.start(f"allow_anonymous false\npassword_file {self.directory / 'passwords'}\n")
        _, record = await self.client(client_id="x", username="user", password=b"c4n4ry")
        reason = record.reason()
        assert isinstance(reason, ConnectionRefused)
        self.assertEqual(reason.connack.reason_code, ConnectReturnCode.NOT_AUTHORIZED)
        self.assertEqual(record.names(), ["disconnected"])

    async def test_keep_alive(self):
        """With one second of keep alive an idle connection lives on pings; mosquitto would drop it after 1.5."""
        broker = await self.start()
        protocol, record = await self.client(client_id="idle", keep_alive_seconds=1)
        await broker.logged(b"Received PINGREQ from idle", 3)
        self.assertEqual(await protocol.publish("still", b"here"), 0)
        self.assertEqual(record.names(), ["connected"])

    async def test_will(self):
        """The broker publishes the will of a client that aborts."""
        await self.start()
        watcher, watched = await self.client(client_id="watcher")
        await watcher.subscribe([("will", 1)])
        mortal, record = await self.client(client_id="mortal", will=Will(topic="will", payload=b"gone", qos=1))
        got, gone = watched.next("message"), record.next("disconnected")
        mortal.abort()
        await gone
        self.assertEqual((await got).payload, b"gone")

    async def test_session(self):
        """A persistent session: session present, queued messages come, and lost publishes are sent again."""
        await self.start()
        session = Session()
        options: dict[str, Any] = {"client_id": "lasting", "clean_start": False}
        protocol, record = await self.client(session, **options)
        self.assertFalse(record.values("connected")[0].session_present)
        await protocol.subscribe([("in", 1), ("out", 1)])
        gone = record.next("disconnected")
        published = protocol.publish("out", b"lost")
        # The bytes are still in the transport's buffer: abort throws them away.
        protocol.abort()
        await gone
        self.assertFalse(published.called)
        other, _ = await self.client(client_id="other")
        await other.publish("in", b"queued")
        protocol, record = await self.client(session, **options)
        self.assertTrue(record.values("connected")[0].session_present)
        self.assertEqual(await published, 0)
        while len(record.values("message")) < 2:
            await record.next("message")
        self.assertEqual(sorted(message.payload for message in record.values("message")), [b"lost", b"queued"])

    async def test_broker_dies(self):
        """Publishes without an acknowledgement fail when the broker is killed."""
        broker = await self.start()
        protocol, record = await self.client(client_id="orphan")
        gone = record.next("disconnected")
        assert broker.transport is not None
        broker.transport.signalProcess("STOP")
        published = protocol.publish("a", b"")
        broker.transport.signalProcess("KILL")
        await gone
        with self.assertRaises(Exception) as caught:
            await published
        self.assertIs(caught.exception, record.reason())


class PahoTests(TestCase):
    """Their client, our server."""

    timeout = 30

    async def setUp(self) -> None:  # type: ignore[override]  # trial runs coroutines too
        self.record = ServerRecord()
        self.protocols: list[MQTTServerProtocol] = []
        self.options = ServerOptions()
        listener, protocols, test = self.record, self.protocols, self

        class ServerFactory(Factory):
            def buildProtocol(self, addr):
                protocols.append(MQTTServerProtocol(test.options, listener, reactor))
                return protocols[-1]

        self.listening = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(ServerFactory())
        self.addCleanup(self.listening.stopListening)

    def paho(self, **options: Any) -> tuple[Client, dict[str, Deferred[Any]]]:
        """A paho client in its own thread; its callbacks arrive as Deferreds in ours."""
        client = Client(CallbackAPIVersion.VERSION2, client_id="paho", **options)
        told: dict[str, Deferred[Any]] = {name: Deferred() for name in ("connect", "message", "subscribe", "publish")}

        def tell(name: str, value: Any) -> None:
            def fire() -> None:
                if not told[name].called:
                    told[name].callback(value)

            reactor.callFromThread(fire)

        client.on_connect = lambda client, userdata, flags, code, properties: tell("connect", code)
        client.on_message = lambda client, userdata, message: tell("message", message)
        client.on_subscribe = lambda client, userdata, mid, codes, properties: tell("subscribe", codes)
        client.on_publish = lambda client, userdata, mid, code, properties: tell("publish", mid)
        return client, told

    def start(self, client: Client) -> None:
        client.connect_async("127.0.0.1", self.listening.getHost().port, keepalive=5)
        client.loop_start()

        async def stop() -> None:
            gone: Deferred[None] = Deferred()

            def ended() -> None:
                if self.record.names().count("disconnected") == len(self.protocols) and not gone.called:
                    gone.callback(None)

            self.record.on_disconnected = ended
            ended()
            client.disconnect()
            await gone
            client.loop_stop()

        self.addCleanup(stop)

    async def test_round_trip(self):
        """Connect with credentials, subscribe, publish both ways with QoS 1, disconnect."""
        client, told = self.paho()
        client.username_pw_set("user", "secret")
        self.start(client)
        self.assertEqual((await told["connect"]).value, 0)
        (connect,) = self.record.values("connect")
        self.assertEqual((connect.client_id, connect.username, connect.password), ("paho", "user", b"secret"))
        client.subscribe([("down/+", 1)])
        self.assertEqual([code.value for code in await told["subscribe"]], [1])
        acknowledged = await self.protocols[0].publish("down/1", b"hello")
        self.assertEqual(acknowledged, 0)
        message = await told["message"]
        self.assertEqual((message.topic, message.payload, message.qos), ("down/1", b"hello", 1))
        client.publish("up", b"x" * 50000, qos=1)
        await told["publish"]
        (publish,) = self.record.values("publish")
        self.assertEqual((publish.topic, publish.payload), ("up", b"x" * 50000))
        gone: Deferred[None] = Deferred()
        self.record.on_disconnected = lambda: gone.callback(None)
        client.disconnect()
        await gone
        self.assertIsInstance(self.record.reason(), ClientDisconnected)

    async def test_refused(self):
        """paho understands our refusal."""
        self.record.on_connect = lambda protocol: protocol.refuse(ConnectReturnCode.NOT_AUTHORIZED)
        client, told = self.paho(reconnect_on_failure=False)
        self.start(client)
        self.assertEqual(str(await told["connect"]), "Not authorized")

    async def test_version_5_is_refused(self):
        """A server that is told to speak 3.1.1 only says so in a way that a client of MQTT 5 understands."""
        self.options = ServerOptions(protocol_versions=(4,))
        client, told = self.paho(protocol=MQTTv5, reconnect_on_failure=False)
        self.start(client)
        self.assertNotEqual((await told["connect"]).value, 0)
        self.assertEqual(self.record.values("connect"), [])
        self.assertEqual(self.record.values("publish"), list[Publish]())
