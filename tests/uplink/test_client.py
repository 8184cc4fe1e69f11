"""The uplink against a scripted server, with a Clock: sessions, limits, back-off."""

from __future__ import annotations

from typing import Any, Literal

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.error import ConnectionRefusedError as TCPRefused
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tbgw.errors import LinkDown
from tbgw.interfaces import IStatusSource, IUplink, IUplinkListener
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.model import SessionLimits
from tbgw.mqtt import packets
from tbgw.mqtt.codec import decode, encode
from tbgw.mqtt.versions import VersionChoice
from tbgw.thingsboard import payloads, topics
from tbgw.uplink.client import (
    CREDENTIALS_RETRY_SECONDS,
    LONGEST_RETRY_SECONDS,
    OTHER_VERSION_SECONDS,
    Credentials,
    Uplink,
)
from tbgw.uplink.session import LIMITS_SECONDS, SUBACK_SECONDS


class Server:
    """One connection as the server sees it."""

    def __init__(self, protocol: Any) -> None:
        self.version = 4
        self.transport = StringTransportWithDisconnection()
        self.transport.protocol = protocol
        self.protocol = protocol
        protocol.makeConnection(self.transport)

    def received(self) -> list[Any]:
        """The packets that came since the last call."""
        data = self.transport.value()
        self.transport.clear()
        found = []
        while data:
            packet, end = decode(data, 0, len(data), protocol_version=self.version, max_packet_bytes=1 << 20)
            assert packet is not None, "the client writes whole packets"
            found.append(packet)
            data = data[end:]
        return found

    def send(self, packet: Any) -> None:
        self.protocol.dataReceived(encode(packet, self.version))

    def lose(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionDone()))

    def accept(self) -> None:
        """CONNACK and SUBACK; the request for the limits is then on its way."""
        self.send(packets.ConnAck(session_present=False, reason_code=0))
        (subscribe,) = [packet for packet in self.received() if isinstance(packet, packets.Subscribe)]
        codes = tuple([1] * len(subscribe.filters))
        self.send(packets.SubAck(packet_id=subscribe.packet_id, reason_codes=codes))

    def answer_limits(self, body: bytes) -> None:
        self.send(packets.Publish(topic=topics.DEVICE_RPC_RESPONSE + "1", payload=body))


@implementer(IStreamClientEndpoint)
class Endpoint:
    """Every dialling makes a `Server`, or fails while `refusing`."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.refusing = False

    def connect(self, factory: Any) -> Deferred[Any]:
        if self.refusing:
            return fail(TCPRefused())
        protocol = factory.buildProtocol(None)
        self.servers.append(Server(protocol))
        return succeed(protocol)


@implementer(IUplinkListener)
class Listener:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def link_up(self, limits: SessionLimits) -> None:
        self.told.append(("up", limits))

    def link_down(self, code: int | None = None) -> None:
        self.told.append("down" if code is None else f"down {code:#x}")

    def message_received(self, topic: str, payload: bytes) -> None:
        self.told.append((topic, payload))


class UplinkTestCase(SynchronousTestCase):
    """`jitter` gives the middle, so that delays are exact."""

    fixed_version: Literal[4, 5] | None = 4

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = Endpoint()
        self.listener = Listener()
        self.counters = Counters()
        self.uplink = Uplink(
            self.endpoint,
            "tb:1883",
            Credentials(username="s3cret-token"),
            clock=self.clock,
            events=Events(self.counters, self.clock.seconds),
            jitter=lambda: 0.5,
            versions=VersionChoice(self.fixed_version),
        )
        self.uplink.set_listener(self.listener)

    def tearDown(self) -> None:
        self.assertEqual(len(self.clock.getDelayedCalls()), 0, "a stopped uplink leaves no timer")

    def start(self) -> Server:
        """Started, first connection open."""
        self.uplink.startService()
        self.addCleanup(self.stop)
        return self.server

    def stop(self) -> None:
        if self.uplink.running:
            stopped = self.uplink.stopService()
            for server in self.endpoint.servers:
                if server.transport.connected:
                    server.lose()
                    server.transport.connected = False
            self.successResultOf(stopped)

    @property
    def server(self) -> Server:
        return self.endpoint.servers[-1]

    def lose(self) -> None:
        self.server.transport.connected = False
        self.server.lose()

    def up(self, body: bytes = b"{}") -> Server:
        server = self.start()
        server.accept()
        server.answer_limits(body)
        return server

    def delays(self, count: int, end: Any) -> list[float]:
        """The time between `count` diallings, each ended by `end()`."""
        found = []
        for _ in range(count):
            before = len(self.endpoint.servers)
            end()
            (call,) = self.clock.getDelayedCalls()
            found.append(round(call.getTime() - self.clock.seconds(), 3))
            self.clock.advance(found[-1] + 0.001)
            self.assertEqual(len(self.endpoint.servers), before + 1)
        return found


class UplinkTests(UplinkTestCase):
    """On MQTT 3.1.1."""

    def test_interfaces(self) -> None:
        """It provides what it says."""
        verifyObject(IUplink, self.uplink)
        verifyObject(IStatusSource, self.uplink)

    def test_token_as_user_name_without_password(self) -> None:
        """ThingsBoard's token goes where ThingsBoard looks for it, with a clean session."""
        (connect,) = self.start().received()
        self.assertEqual((connect.username, connect.password, connect.clean_start), ("s3cret-token", None, True))

    def test_session_in_its_order(self) -> None:
        """CONNECT, SUBSCRIBE to all seven topics, the request for limits; up only after its answer."""
        server = self.start()
        self.assertIsInstance(server.received()[0], packets.Connect)
        server.accept()
        (request,) = server.received()
        self.assertEqual((request.topic, request.qos), ("v1/devices/me/rpc/request/1", 1))
        self.assertEqual(request.payload, payloads.session_limits_request())
        self.assertEqual((self.listener.told, self.uplink.connected), ([], False))
        server.answer_limits(b'{"maxPayloadSize":8192,"maxInflightMessages":10}')
        self.assertEqual(self.listener.told, [("up", SessionLimits(max_payload_bytes=8192, max_inflight=10))])
        self.assertTrue(self.uplink.connected)

    def test_no_answer_to_the_limits(self) -> None:
        """C-28: a server that never answers delays by the time-out and no longer."""
        self.start().accept()
        self.clock.advance(LIMITS_SECONDS - 0.01)
        self.assertEqual(self.listener.told, [])
        self.clock.advance(0.02)
        self.assertEqual(self.listener.told, [("up", SessionLimits())])
        self.server.answer_limits(b'{"maxInflightMessages":10}')
        self.assertEqual(len(self.listener.told), 1, "too late is too late")

    def test_no_suback(self) -> None:
        """A server that never answers the subscription is given up, in words, and tried again."""
        server = self.start()
        server.send(packets.ConnAck(session_present=False, reason_code=0))
        self.clock.advance(SUBACK_SECONDS - 0.01)
        self.assertTrue(server.transport.connected)
        self.clock.advance(0.02)
        if server.transport.connected:
            self.lose()
        self.assertIn("SUBACK", self.uplink.status()["uplink"]["why"])
        self.clock.advance(2)
        self.assertEqual(len(self.endpoint.servers), 2)

    def test_a_plain_broker_echoes_the_request(self) -> None:
        """Our own request coming back says that nobody will answer: no waiting, and no command for anyone."""
        server = self.start()
        server.accept()
        server.send(packets.Publish(topic="v1/devices/me/rpc/request/1", payload=payloads.session_limits_request()))
        self.assertEqual(self.listener.told, [("up", SessionLimits())])

    def doubtful(self) -> bool:
        """Whether PUBACKs of the session that is up may stand for refusals."""
        ((_, limits),) = self.listener.told
        assert isinstance(limits, SessionLimits)
        return limits.doubtful_pubacks

    def test_doubtful_pubacks(self) -> None:
        """On 3.1.1 a PUBACK may stand for a refusal, whatever is said of limits; not from a plain broker."""
        for body in (b"{}", b'{"error":"timeout"}', b'{"gatewayRateLimits":{"messages":"5:1"}}'):
            self.setUp()
            self.up(body)
            self.assertTrue(self.doubtful(), body)
            self.stop()
        self.setUp()
        self.start().accept()
        self.clock.advance(LIMITS_SECONDS)
        self.assertTrue(self.doubtful())
        self.stop()
        self.setUp()
        server = self.start()
        server.accept()
        server.send(packets.Publish(topic="v1/devices/me/rpc/request/1", payload=payloads.session_limits_request()))
        self.assertFalse(self.doubtful())

    def test_unusable_answers_to_the_limits(self) -> None:
        """An error, rubbish, or nonsense in the answer: the defaults hold."""
        for body in (b'{"error":"timeout"}', b"rubbish", b"[]", b'{"maxPayloadSize":"x"}'):
            self.setUp()
            self.up(body)
            self.assertEqual(self.listener.told, [("up", SessionLimits())], body)
            self.stop()

    def test_publish_and_puback(self) -> None:
        """The Deferred fires with PUBACK's code, 0 on 3.1.1; the DUP flag is as asked."""
        server = self.up()
        server.received()
        answer = self.uplink.publish("v1/gateway/telemetry", b"{}", dup=True)
        (publish,) = server.received()
        self.assertEqual((publish.qos, publish.dup, publish.payload), (1, True, b"{}"))
        self.assertNoResult(answer)
        server.send(packets.PubAck(packet_id=publish.packet_id))
        self.assertEqual(self.successResultOf(answer), 0)

    def test_publish_without_a_session(self) -> None:
        """No session, no publish: LinkDown at once, and what was in flight fails when the session ends."""
        self.failureResultOf(self.uplink.publish("t", b""), LinkDown)
        self.up()
        answer = self.uplink.publish("t", b"")
        self.lose()
        self.failureResultOf(answer, LinkDown)
        self.assertEqual(self.listener.told[1:], ["down"])
        self.failureResultOf(self.uplink.publish("t", b""), LinkDown)

    def test_messages_go_to_the_listener(self) -> None:
        """What is not about the session is passed on."""
        server = self.up()
        server.send(packets.Publish(topic="v1/gateway/rpc", payload=b"x", qos=1, packet_id=7))
        self.assertEqual(self.listener.told[1:], [("v1/gateway/rpc", b"x")])
        self.assertIn(7, [p.packet_id for p in server.received() if isinstance(p, packets.PubAck)])

    def test_back_off_grows_over_sessions_that_fail_after_the_tcp_connection(self) -> None:
        """ClientService's own counter would stay at its first delay for ever; ours grows up to its cap."""
        self.start()
        found = self.delays(12, self.lose)
        self.assertEqual(found[:3], [1.0, 1.6, 2.56])
        self.assertEqual(found, sorted(found))
        self.assertEqual(found[-1], LONGEST_RETRY_SECONDS)

    def test_back_off_of_diallings_that_fail(self) -> None:
        """The same where not even a TCP connection comes about."""
        self.endpoint.refusing = True
        self.uplink.startService()
        self.addCleanup(self.stop)
        found = []
        for _ in range(4):
            (call,) = self.clock.getDelayedCalls()
            found.append(round(call.getTime() - self.clock.seconds(), 3))
            self.clock.advance(found[-1] + 0.001)
        self.assertEqual(found, [1.0, 1.6, 2.56, 4.096])
        self.assertGreaterEqual(self.counters.get("sessions_failed"), 4)

    def test_a_session_that_lived_begins_the_back_off_anew(self) -> None:
        """A link that was up for a while is dialled again soon; one that drops at once is not hammered."""
        self.start()
        self.delays(3, self.lose)
        self.server.accept()
        self.server.answer_limits(b"{}")
        self.clock.pump([5.0] * 3)
        self.assertEqual(self.delays(1, self.lose), [1.0])
        self.server.accept()
        self.server.answer_limits(b"{}")
        self.assertEqual(self.delays(1, self.lose), [1.6])

    def test_refused_credentials_have_a_long_floor(self) -> None:
        """C: a wrong token is tried again rarely, and said in words; the transport is dropped."""
        self.start()

        def refuse() -> None:
            server = self.server
            server.send(packets.ConnAck(session_present=False, reason_code=5))
            if server.transport.connected:
                self.lose()

        found = self.delays(3, refuse)
        self.assertEqual(found, [CREDENTIALS_RETRY_SECONDS, 48.0, 76.8])
        self.assertEqual(self.counters.get("credentials_refused"), 3)
        self.assertEqual(self.listener.told, [])

    def test_disrupt_begins_a_new_session(self) -> None:
        """Giving a session up drops it at once, and another follows."""
        self.up()
        self.uplink.disrupt("a PUBACK did not come")
        if self.server.transport.connected:
            self.lose()
        self.assertEqual(self.listener.told[1:], ["down"])
        self.assertIn("PUBACK", self.uplink.status()["uplink"]["why"])
        self.clock.advance(2)
        self.assertEqual(len(self.endpoint.servers), 2)

    def test_stop_says_disconnect(self) -> None:
        """A clean stop says DISCONNECT and is over when the connection is."""
        server = self.up()
        server.received()
        stopped = self.uplink.stopService()
        self.assertIsInstance(server.received()[-1], packets.Disconnect)
        if server.transport.connected:
            server.transport.connected = False
            server.lose()
        self.successResultOf(stopped)
        self.assertEqual(self.listener.told[1:], ["down"])

    def test_stop_while_waiting(self) -> None:
        """A stop between two sessions is over at once."""
        self.start()
        self.lose()
        self.successResultOf(self.uplink.stopService())

    def test_secrets_stay_out_of_sight(self) -> None:
        """P-11: neither status nor repr shows the token."""
        self.start()
        shown = repr(self.uplink.status()) + repr(Credentials("a", "s3cret-token", b"pw"))
        self.assertNotIn("s3cret", shown)

    def test_redirected(self) -> None:
        """Other credentials: a session that is there ends, one that is waited for is dialled at once."""
        server = self.start()
        server.accept()
        server.answer_limits(b"{}")
        self.uplink.redirect(self.endpoint, "tb:1883", Credentials(username="second"))
        self.assertEqual(self.listener.told[-1], "down")
        self.clock.advance(1.0)
        self.assertEqual(self.server.received()[0].username, "second")
        self.server.send(packets.ConnAck(session_present=False, reason_code=5))
        count = len(self.endpoint.servers)
        self.clock.advance(CREDENTIALS_RETRY_SECONDS / 2)
        self.assertEqual(len(self.endpoint.servers), count, "refused credentials hold long")
        self.uplink.redirect(self.endpoint, "tb:1883", Credentials(username="third"))
        self.assertEqual(len(self.endpoint.servers), count + 1)
        self.assertEqual(self.server.received()[0].username, "third")

    def test_refused_subscription(self) -> None:
        """A topic that is not granted is told, and the session is ready all the same."""
        server = self.start()
        server.send(packets.ConnAck(session_present=False, reason_code=0))
        (subscribe,) = [packet for packet in server.received() if isinstance(packet, packets.Subscribe)]
        codes = (1, 0x80) + (1,) * (len(subscribe.filters) - 2)
        server.send(packets.SubAck(packet_id=subscribe.packet_id, reason_codes=codes))
        server.answer_limits(b"{}")
        self.assertTrue(self.uplink.connected)
        self.assertEqual(self.counters.get("subscriptions_refused"), 1)


class VersionTests(UplinkTestCase):
    """On MQTT 5, and the choice between the two."""

    fixed_version = None

    def start(self) -> Server:
        server = super().start()
        server.version = 5
        return server

    def test_a_server_that_closes_without_a_word(self) -> None:
        """A server that closes without a word may know 3.1.1 only: the two versions take turns, and the delays grow."""
        self.start()
        found = self.delays(12, self.lose)
        self.assertEqual(found[::2], [OTHER_VERSION_SECONDS] * 6)
        self.assertEqual(found[1::2], sorted(found[1::2]))

    def test_pubacks_with_codes(self) -> None:
        """On MQTT 5 a refusal has its code, and a PUBACK is what it says."""
        self.up()
        ((_, limits),) = self.listener.told
        assert isinstance(limits, SessionLimits)
        self.assertFalse(limits.doubtful_pubacks)

    def test_a_server_without_5(self) -> None:
        """CONNACK 1, as a 3.1.1 server answers: the next attempt comes at once, and speaks 3.1.1 from then on."""
        server = self.start()
        server.protocol.dataReceived(b"\x20\x02\x00\x01")
        if server.transport.connected:
            self.lose()
        self.clock.advance(OTHER_VERSION_SECONDS)
        self.assertEqual(len(self.endpoint.servers), 2)
        self.server.accept()
        self.server.answer_limits(b"{}")
        self.assertEqual(len(self.listener.told), 1)
        self.lose()
        self.clock.advance(2)
        self.assertEqual(self.server.received()[0].protocol_version, 4)

    def test_refused_credentials(self) -> None:
        """0x86 is about who we are, and not about the version."""
        server = self.start()
        server.send(packets.ConnAck(session_present=False, reason_code=0x86))
        if server.transport.connected:
            self.lose()
        self.assertEqual(self.counters.get("credentials_refused"), 1)
        (call,) = self.clock.getDelayedCalls()
        self.assertEqual(call.getTime() - self.clock.seconds(), CREDENTIALS_RETRY_SECONDS)

    def test_reason_codes_of_pubacks(self) -> None:
        """What PUBACK says is what the Deferred fires with."""
        server = self.up()
        server.received()
        answer = self.uplink.publish("t", b"")
        (publish,) = server.received()
        server.send(packets.PubAck(packet_id=publish.packet_id, reason_code=0x97))
        self.assertEqual(self.successResultOf(answer), 0x97)

    def test_taken_over(self) -> None:
        """0x8E: a second gateway with our token. To fight for the session at once would help nobody."""
        server = self.up()
        server.send(packets.Disconnect(reason_code=0x8E))
        if server.transport.connected:
            self.lose()
        self.assertEqual(self.counters.get("sessions_taken_over"), 1)
        self.assertEqual(self.listener.told[1:], ["down 0x8e"])
        (call,) = self.clock.getDelayedCalls()
        self.assertEqual(call.getTime() - self.clock.seconds(), CREDENTIALS_RETRY_SECONDS)

    def test_disconnect_that_is_answered(self) -> None:
        """ThingsBoard answers our DISCONNECT with its own (spec thingsboard-mqtt, 8.14: 168): a stop like any other."""
        server = self.up()
        server.received()
        stopped = self.uplink.stopService()
        (said,) = server.received()
        self.assertEqual((type(said), said.reason_code), (packets.Disconnect, 0))
        server.send(packets.Disconnect(reason_code=0))
        if server.transport.connected:
            self.lose()
        self.successResultOf(stopped)
        self.assertEqual(self.listener.told[1:], ["down"])
        self.assertEqual(self.counters.get("sessions_lost"), 0)
