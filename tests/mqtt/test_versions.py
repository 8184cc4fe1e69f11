"""MQTT 5 first, 3.1.1 when the server refuses it: the policy by itself, and with real servers on 127.0.0.1."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbgw.mqtt import (
    ClientOptions,
    ConnAck,
    ConnectionRefused,
    ConnectTimeout,
    MQTTClientProtocol,
    MQTTServerProtocol,
    RemoteProtocolError,
    ServerOptions,
    VersionChoice,
)
from tests.mqtt.memory import ServerRecord
from tests.mqtt.test_mosquitto import WaitingClientRecord

reactor: Any = _reactor  # the real one: it has more interfaces than its annotation says


def refused(code: int) -> ConnectionRefused:
    """By this code."""
    return ConnectionRefused(ConnAck(reason_code=code), 5)


class PolicyTests(SynchronousTestCase):
    """What one failure leads to."""

    def test_first(self):
        """Version 5, and again 5 as long as nothing speaks against it."""
        choice = VersionChoice()
        self.assertEqual(choice.next(), 5)
        choice.accepted()
        self.assertEqual(choice.next(), 5)

    def test_refused(self):
        """0x84 and return code 1 lead to 3.1.1, and there it stays."""
        for code in (0x84, 1):
            choice = VersionChoice()
            choice.next()
            self.assertTrue(choice.failed(refused(code)))
            for _ in range(3):
                self.assertEqual(choice.next(), 4)
                choice.accepted()
                self.assertFalse(choice.failed(ConnectionLost()))

    def test_closed_without_connack(self):
        """It leads to 3.1.1; when that fares no better they take turns."""
        choice = VersionChoice()
        versions = []
        for reason in (ConnectionDone(), ConnectionLost(), ConnectionDone(), ConnectionDone()):
            versions.append(choice.next())
            choice.failed(reason)
        self.assertEqual(versions, [5, 4, 5, 4])

    def test_other_failures(self):
        """Credentials, silence, our own abort, a breach: they say nothing about the version."""
        for reason in (
            refused(0x86),
            refused(5),
            ConnectTimeout("x"),
            ConnectionAborted(),
            RemoteProtocolError("x"),
            OSError("no route"),
        ):
            choice = VersionChoice()
            choice.next()
            self.assertFalse(choice.failed(reason))
            self.assertEqual(choice.next(), 5)

    def test_accepted_before(self):
        """Once accepted, a broken network does not change it; the server's own word does, in both directions."""
        choice = VersionChoice()
        choice.next()
        choice.accepted()
        for _ in range(3):
            self.assertEqual(choice.next(), 5)
            self.assertFalse(choice.failed(ConnectionDone()))
        choice.next()
        choice.failed(refused(0x84))
        self.assertEqual(choice.next(), 4)
        choice.accepted()
        choice.next()
        choice.failed(refused(1))
        self.assertEqual(choice.next(), 5)

    def test_failed_dialling(self):
        """A failure outside of an attempt, or a second one about the same, changes nothing."""
        choice = VersionChoice()
        choice.failed(ConnectionDone())
        self.assertEqual(choice.next(), 5)
        choice.failed(ConnectionDone())
        choice.failed(ConnectionDone())
        self.assertEqual(choice.next(), 4)

    def test_fixed(self):
        """A fixed version stays, whatever comes."""
        for version in (4, 5):
            choice = VersionChoice(version)
            for reason in (refused(0x84), ConnectionDone()):
                self.assertEqual(choice.next(), version)
                self.assertFalse(choice.failed(reason))


class CloseAtOnce(Protocol):
    """A server that drops what it does not know, as ThingsBoard drops unknown levels."""

    def __init__(self, inner: MQTTServerProtocol) -> None:
        self.inner = inner

    def connectionMade(self) -> None:
        self.inner.makeConnection(self.transport)

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        if data[8:9] == b"\x05":
            self.transport.loseConnection()
        else:
            self.inner.dataReceived(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.inner.connectionLost(reason)


class FallbackTests(TestCase):
    """A client that dials until it is let in, with a new protocol for each connection as the uplink does."""

    timeout = 20

    async def versions_until_connected(self, build: Any) -> list[int]:
        listening = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(build)
        self.addCleanup(listening.stopListening)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", listening.getHost().port)
        choice = VersionChoice()
        tried: list[int] = []
        while True:
            record = WaitingClientRecord()
            version = choice.next()
            tried.append(version)
            protocol = MQTTClientProtocol(ClientOptions(protocol_version=version), record, reactor)
            over: Deferred[Any] = record.next("disconnected")

            def accepted(connack: Any, protocol: MQTTClientProtocol = protocol) -> None:
                choice.accepted()
                protocol.disconnect()

            record.next("connected").addCallback(accepted)
            await connectProtocol(endpoint, protocol)
            reason = await over
            if record.names()[0] == "connected":
                return tried
            choice.failed(reason)
            self.assertLess(len(tried), 5)

    async def test_return_code(self):
        """Our own server of 3.1.1 only."""

        class ServerFactory(Factory):
            def buildProtocol(self, addr):
                return MQTTServerProtocol(ServerOptions(protocol_versions=(4,)), ServerRecord(), reactor)

        self.assertEqual(await self.versions_until_connected(ServerFactory()), [5, 4])

    async def test_close(self):
        """A server that closes without a word."""

        class ServerFactory(Factory):
            def buildProtocol(self, addr):
                return CloseAtOnce(MQTTServerProtocol(ServerOptions(), ServerRecord(), reactor))

        self.assertEqual(await self.versions_until_connected(ServerFactory()), [5, 4])

    async def test_server_of_5(self):
        """A server that knows 5 gets 5."""

        class ServerFactory(Factory):
            def buildProtocol(self, addr):
                return MQTTServerProtocol(ServerOptions(), ServerRecord(), reactor)

        self.assertEqual(await self.versions_until_connected(ServerFactory()), [5])
