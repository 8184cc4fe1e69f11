"""Real programs on 127.0.0.1: our client with mosquitto and amqtt, and paho and mosquitto's tools with our broker; both
versions where they have them, all QoS, over TCP, TLS and WebSocket.

Debian's mosquitto 2.0.11 is built without WebSocket, and amqtt speaks 3.1.1 only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import (
    SSL4ServerEndpoint,
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    connectProtocol,
    wrapClientTLS,
)
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase

from tbgw.mqtt import ClientOptions, MQTTClientProtocol, Session
from tbgw.mqtt.broker import Broker, BrokerOptions
from tbgw.mqtt.properties import PropertyId as P
from tbgw.mqtt.proxy import HTTPConnectEndpoint
from tbgw.mqtt.websocket import WebSocketClientEndpoint, WebSocketServerFactory
from tests.mqtt.test_mosquitto import MOSQUITTO, WaitingClientRecord, free_port
from tests.mqtt.test_mosquitto import Broker as Mosquitto
from tests.mqtt.test_tls import certificate_for_localhost

reactor: Any = _reactor  # the real one: it has more interfaces than its annotation says
MOSQUITTO_PUB = shutil.which("mosquitto_pub")
MOSQUITTO_SUB = shutil.which("mosquitto_sub")
AMQTT = shutil.which("amqtt", path=os.path.dirname(sys.executable) + ":" + os.environ.get("PATH", ""))


def pem_files(directory: Path, certificate: PrivateCertificate) -> tuple[Path, Path]:
    """Certificate and key as files."""
    certificate_file, key_file = directory / "cert.pem", directory / "key.pem"
    certificate_file.write_bytes(certificate.dumpPEM().split(b"-----BEGIN PRIVATE")[0])
    key_file.write_bytes(certificate.privateKey.dump(1))
    return certificate_file, key_file


def tls(endpoint: IStreamClientEndpoint, certificate: PrivateCertificate) -> IStreamClientEndpoint:
    """The endpoint with TLS to `localhost`, which this certificate is for."""
    trusted = Certificate.loadPEM(certificate.dumpPEM())
    wrapped: IStreamClientEndpoint = wrapClientTLS(optionsForClientTLS("localhost", trustRoot=trusted), endpoint)
    return wrapped


class OurClient(TestCase):
    """What the tests of our client share."""

    timeout = 40

    async def client(
        self, endpoint: IStreamClientEndpoint, session: Session | None = None, **options: Any
    ) -> tuple[MQTTClientProtocol, WaitingClientRecord]:
        """A client that got its CONNACK."""
        record = WaitingClientRecord()
        protocol = MQTTClientProtocol(ClientOptions(**options), record, reactor, session)
        answered, ended = record.next("connected"), record.next("disconnected")
        await connectProtocol(endpoint, protocol)
        await DeferredList([answered, ended], fireOnOneCallback=True)
        self.assertEqual(record.names()[:1], ["connected"], record.calls)
        self.addCleanup(self.end, protocol, record)
        return protocol, record

    async def end(self, protocol: MQTTClientProtocol, record: WaitingClientRecord) -> None:
        if "disconnected" not in record.names():
            gone = record.next("disconnected")
            protocol.disconnect()
            await gone

    async def round_trip(self, endpoint: IStreamClientEndpoint, version: Any) -> None:
        """All QoS there and back, small and large, with a session that is taken up again after an abort."""
        session = Session()
        options: dict[str, Any] = {
            "protocol_version": version,
            "client_id": f"round-{version}",
            "clean_start": False,
            "session_expiry_seconds": 60,
        }
        protocol, record = await self.client(endpoint, session, **options)
        self.assertEqual(await protocol.subscribe([(f"in/{version}/#", 2)]), [2])
        payloads = [b"", b"small", bytes(range(256)) * 300]
        for qos in (0, 1, 2):
            for payload in payloads:
                code = await protocol.publish(f"in/{version}/{qos}", payload, qos=qos)
                self.assertEqual(code, 0)
        while len(record.values("message")) < 9:
            await record.next("message")
        self.assertEqual(
            [(message.qos, message.payload) for message in record.values("message")],
            [(qos, payload) for qos in (0, 1, 2) for payload in payloads],
        )
        gone = record.next("disconnected")
        lost = [protocol.publish(f"in/{version}/lost", b"%d" % qos, qos=qos) for qos in (1, 2)]
        protocol.abort()
        await gone
        protocol, record = await self.client(endpoint, session, **options)
        self.assertTrue(record.values("connected")[0].session_present)
        for each in lost:
            self.assertEqual(await each, 0)
        while len(record.values("message")) < 2:
            await record.next("message")
        self.assertEqual(sorted(message.payload for message in record.values("message")), [b"1", b"2"])
        self.assertEqual(len(session), 0)
        self.assertEqual(await protocol.unsubscribe([f"in/{version}/#"]), [0])


class HTTPProxy(Protocol):
    """CONNECT and nothing else: two transports that write what the other reads."""

    other: Any = None

    def dataReceived(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)
            return
        port = int(data.split(b" ")[1].split(b":")[1])
        far = HTTPProxy()
        far.other, self.other = self, far
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        connectProtocol(endpoint, far).addCallback(
            lambda protocol: self.transport.write(b"HTTP/1.1 200 OK\r\n\r\n") if self.transport else None
        )

    def connectionLost(self, reason: Failure | None = None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.loseConnection()


class MosquittoTests(OurClient):
    """Our client, mosquitto."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial runs coroutines too
        if MOSQUITTO is None:
            raise SkipTest("mosquitto is not installed")
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.port = free_port()

    async def start(self, extra: str = "") -> IStreamClientEndpoint:
        broker = Mosquitto(self.directory, self.port, extra)
        self.addCleanup(broker.stop)
        await broker.ready
        return TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)

    async def test_tcp(self):
        """Both versions, all QoS, and a session taken up again."""
        endpoint = await self.start()
        for version in (4, 5):
            await self.round_trip(endpoint, version)

    async def test_tls(self):
        """The same in TLS."""
        certificate = certificate_for_localhost()
        certificate_file, key_file = pem_files(self.directory, certificate)
        endpoint = await self.start(f"certfile {certificate_file}\nkeyfile {key_file}\n")
        for version in (4, 5):
            await self.round_trip(tls(endpoint, certificate), version)

    async def test_proxy(self):
        """TLS to mosquitto through an HTTP proxy."""
        certificate = certificate_for_localhost()
        certificate_file, key_file = pem_files(self.directory, certificate)
        await self.start(f"certfile {certificate_file}\nkeyfile {key_file}\n")
        listening = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(HTTPProxy))
        self.addCleanup(listening.stopListening)
        proxy = TCP4ClientEndpoint(reactor, "127.0.0.1", listening.getHost().port)
        tunnel = HTTPConnectEndpoint(proxy, "127.0.0.1", self.port, clock=reactor)
        await self.round_trip(tls(tunnel, certificate), 5)

    async def test_limits(self):
        """mosquitto's receive maximum, packet size and aliases are heeded, and it understands ours."""
        endpoint = await self.start("max_packet_size 2000\nmax_keepalive 30\n")
        protocol, record = await self.client(
            endpoint, protocol_version=5, max_outgoing_topic_aliases=5, topic_alias_maximum=5, receive_maximum=3,
            keep_alive_seconds=600,
        )  # fmt: skip
        self.assertTrue(protocol.client_id)
        self.assertEqual(record.values("connected")[0].properties[P.SERVER_KEEP_ALIVE], 30)
        self.assertEqual(protocol.peer_limits.max_packet_bytes, 2000)
        self.assertEqual(protocol.window, min(100, protocol.peer_limits.receive_maximum))
        self.assertGreater(protocol.peer_limits.topic_alias_maximum, 0)
        await protocol.subscribe([("some/long/topic/name", 2)], properties={P.SUBSCRIPTION_IDENTIFIER: 7})
        sent = {P.USER_PROPERTY: (("a", "b"),), P.CONTENT_TYPE: "t"}
        for number in range(20):
            await protocol.publish("some/long/topic/name", str(number).encode(), qos=number % 3, properties=sent)
        while len(record.values("message")) < 20:
            await record.next("message")
        for number, message in enumerate(record.values("message")):
            self.assertEqual((message.topic, message.payload), ("some/long/topic/name", str(number).encode()))
            self.assertEqual(message.properties, sent | {P.SUBSCRIPTION_IDENTIFIER: (7,)})
        self.assertEqual(await protocol.publish("nobody", b""), 0x10)


class Process(ProcessProtocol):
    """A program that is ready when it said something."""

    def __init__(self, says: bytes) -> None:
        self.ready: Deferred[None] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self.output = b""
        self._says = says

    def outReceived(self, data: bytes) -> None:
        self.output += data
        if self._says in self.output and not self.ready.called:
            self.ready.callback(None)

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        reason.trap(ProcessDone, ProcessTerminated)
        if not self.ready.called:
            self.ready.errback(RuntimeError(self.output.decode(errors="replace")))
        self.ended.callback(None)

    def stop(self) -> Deferred[None]:
        """Ends the process; fires when it has ended."""
        if not self.ended.called and self.transport is not None:
            with contextlib.suppress(ProcessExitedAlready):
                self.transport.signalProcess("KILL")
        return self.ended


class AmqttTests(OurClient):
    """Our client, amqtt as the broker, in 3.1.1, which is all it speaks."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial runs coroutines too
        if AMQTT is None:
            raise SkipTest("amqtt is not installed")
        directory = Path(self.mktemp())
        directory.mkdir(parents=True)
        self.port, self.websocket_port = free_port(), free_port()
        configuration = directory / "amqtt.yaml"
        configuration.write_text(
            f"listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:{self.port}\n"
            f"  ws:\n    type: ws\n    bind: 127.0.0.1:{self.websocket_port}\n"
            "plugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin:\n    allow_anonymous: true\n"
        )
        process = Process(b"Starting session expiration monitor")
        reactor.spawnProcess(process, AMQTT, [AMQTT, "-c", str(configuration)], env=None)
        self.addCleanup(process.stop)
        await process.ready

    async def all_qos(self, endpoint: IStreamClientEndpoint) -> None:
        protocol, record = await self.client(endpoint, client_id="round")
        self.assertEqual(await protocol.subscribe([("in/#", 2)]), [2])
        payloads = [b"small", bytes(range(256)) * 100]
        for qos in (0, 1, 2):
            for payload in payloads:
                self.assertEqual(await protocol.publish(f"in/{qos}", payload, qos=qos), 0)
        while len(record.values("message")) < 6:
            await record.next("message")
        self.assertEqual(
            sorted((message.topic, message.payload) for message in record.values("message")),
            sorted((f"in/{qos}", payload) for qos in (0, 1, 2) for payload in payloads),
        )
        # It sends all with the QoS of the subscription.
        self.assertEqual({message.qos for message in record.values("message")}, {2})

    async def test_tcp(self):
        """All QoS."""
        await self.all_qos(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port))

    async def test_websocket(self):
        """All QoS over WebSocket."""
        tcp = TCP4ClientEndpoint(reactor, "127.0.0.1", self.websocket_port)
        await self.all_qos(WebSocketClientEndpoint(tcp, f"ws://127.0.0.1:{self.websocket_port}/", clock=reactor))


class OurBroker(OurClient):
    """Our broker on TCP, TLS and WebSocket; clients of others."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial runs coroutines too
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.broker = Broker(reactor, BrokerOptions())
        self.certificate = certificate_for_localhost()
        self.certificate_file, _ = pem_files(self.directory, self.certificate)
        self.ports = {}
        for name, endpoint, factory in (
            ("tcp", TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"), self.broker.factory()),
            (
                "tls",
                SSL4ServerEndpoint(reactor, 0, self.certificate.options(), interface="127.0.0.1"),
                self.broker.factory(),
            ),
            (
                "websockets",
                TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),
                WebSocketServerFactory(self.broker.factory(), clock=reactor, path="/mqtt"),
            ),
        ):
            listening = await endpoint.listen(factory)
            self.ports[name] = listening.getHost().port
            self.addCleanup(listening.stopListening)
        self.addCleanup(self.broker.close)

    def endpoint(self, name: str) -> IStreamClientEndpoint:
        tcp = TCP4ClientEndpoint(reactor, "127.0.0.1", self.ports[name])
        if name == "tls":
            return tls(tcp, self.certificate)
        if name == "websockets":
            return WebSocketClientEndpoint(tcp, f"ws://127.0.0.1:{self.ports[name]}/mqtt", clock=reactor)
        return tcp

    async def test_ourselves(self):
        """Our client, our broker, over everything, with a session taken up again."""
        for name in self.ports:
            for version in (4, 5):
                await self.round_trip(self.endpoint(name), version)

    async def paho(self, name: str, version: int) -> None:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"paho-{name}-{version}",
            protocol=MQTTv5 if version == 5 else MQTTv311,
            transport="websockets" if name == "websockets" else "tcp",
        )
        if name == "websockets":
            client.ws_set_options(path="/mqtt")
        if name == "tls":
            client.tls_set(ca_certs=str(self.certificate_file))
        told: dict[str, Deferred[Any]] = {"connect": Deferred(), "subscribe": Deferred(), "done": Deferred()}
        messages: list[tuple[int, bytes]] = []
        published: list[Any] = []
        payloads = [b"", b"small", b"x" * 50000]

        def tell(name: str, value: Any) -> None:
            if not told[name].called:
                told[name].callback(value)

        def count() -> None:
            if len(messages) == 9 and len(published) == 9:
                tell("done", None)

        def in_reactor(function: Any) -> Any:
            return lambda *arguments: reactor.callFromThread(function, *arguments)

        client.on_connect = in_reactor(lambda client, userdata, flags, code, properties: tell("connect", code))
        client.on_subscribe = in_reactor(lambda client, userdata, mid, codes, properties: tell("subscribe", codes))

        def on_message(client: Any, userdata: Any, message: Any) -> None:
            messages.append((message.qos, message.payload))
            count()

        def on_publish(client: Any, userdata: Any, mid: Any, code: Any, properties: Any) -> None:
            published.append(code)
            count()

        client.on_message = in_reactor(on_message)
        client.on_publish = in_reactor(on_publish)
        client.connect_async("localhost" if name == "tls" else "127.0.0.1", self.ports[name], keepalive=30)
        client.loop_start()
        try:
            self.assertEqual((await told["connect"]).value, 0)
            client.subscribe("p/#", qos=2)
            self.assertEqual([code.value for code in await told["subscribe"]], [2])
            for qos in (0, 1, 2):
                for payload in payloads:
                    client.publish(f"p/{qos}", payload, qos=qos)
            await told["done"]
            self.assertEqual(sorted(messages), sorted((qos, payload) for qos in (0, 1, 2) for payload in payloads))
        finally:
            client.disconnect()
            client.loop_stop()

    async def test_paho(self):
        """Both versions, all QoS, over TCP, TLS and WebSocket."""
        for name in self.ports:
            for version in (4, 5):
                await self.paho(name, version)

    async def test_mosquitto_tools(self):
        """mosquitto_sub gets what mosquitto_pub publishes: both versions, all QoS, TCP and TLS, retained and shared."""
        if MOSQUITTO_PUB is None or MOSQUITTO_SUB is None:
            raise SkipTest("mosquitto-clients is not installed")
        for name in ("tcp", "tls"):
            where = ["-h", "localhost" if name == "tls" else "127.0.0.1", "-p", str(self.ports[name])]
            if name == "tls":
                where += ["--cafile", str(self.certificate_file)]
            for version in ("mqttv311", "mqttv5"):
                for qos in ("0", "1", "2"):
                    _, error, code = await getProcessOutputAndValue(
                        MOSQUITTO_PUB,
                        [*where, "-V", version, "-q", qos, "-t", f"m/{qos}", "-m", "hello", "-r"],
                        env=os.environ,
                    )
                    self.assertEqual((error, code), (b"", 0))
                output, error, code = await getProcessOutputAndValue(
                    MOSQUITTO_SUB,
                    [*where, "-V", version, "-q", "2", "-t", "m/+", "-C", "3", "-W", "10", "-F", "%t %q %r %p"],
                    env=os.environ,
                )
                self.assertEqual((error, code), (b"", 0))
                self.assertEqual(sorted(output.splitlines()), [b"m/0 0 1 hello", b"m/1 1 1 hello", b"m/2 2 1 hello"])


class ExampleTests(TestCase):
    """The programs in docs/examples, against mosquitto."""

    timeout = 40

    async def test_both(self):
        """The subscriber prints what the publisher publishes, as the documentation says."""
        if MOSQUITTO is None:
            raise SkipTest("mosquitto is not installed")
        directory = Path(self.mktemp())
        directory.mkdir(parents=True)
        port = free_port()
        broker = Mosquitto(directory, port)
        self.addCleanup(broker.stop)
        await broker.ready
        root = Path(__file__).parent.parent.parent
        examples = root / "docs" / "examples"
        environment = {**os.environ, "PYTHONPATH": str(root)}
        subscriber = Process(b"granted QoS 2")
        command = [sys.executable, str(examples / "mqtt_subscribe.py"), "127.0.0.1", str(port), "a/#", "2"]
        reactor.spawnProcess(subscriber, sys.executable, command, env=environment)
        self.addCleanup(subscriber.stop)
        await subscriber.ready
        output, error, code = await getProcessOutputAndValue(
            sys.executable,
            [str(examples / "mqtt_publish.py"), "127.0.0.1", str(port), "a/b", "one", "two"],
            env=environment,
        )
        self.assertEqual((output, error, code), (b"one: 0x00\ntwo: 0x00\n", b"", 0))
        await subscriber.ended
        self.assertEqual(subscriber.output, b"granted QoS 2\na/b: one\na/b: two\n")
