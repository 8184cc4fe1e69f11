"""The connector as a service: opening, trying again, pausing, stopping, and joining its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast
from unittest import mock

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tbgw.connectors.ocpp.connector import OCPPConnector
from tbgw.connectors.ocpp.ledger import Ledger
from tbgw.connectors.ocpp.reports import StationReports
from tbgw.errors import CommandFailed
from tbgw.interfaces import IConnector, IPausable, IStatusSource
from tbgw.model import ON_RECEIVED
from tbgw.ocpp.interfaces import ICentralSystem
from tests.connectors.ocpp.fakes import FakeIngest
from tests.connectors.ocpp.stand_ins import POINT, Lines, make_config
from tests.ocpp.wires import Wire, request

BOOT = {"chargePointVendor": "ACME", "chargePointModel": "One"}


class Reactor(MemoryReactorClock):
    """In memory; `refuse` makes the next attempts to listen fail."""

    def __init__(self) -> None:
        super().__init__()
        self.refuse = 0
        self.resolved: Deferred[str] = succeed("127.0.0.1")
        self.ports: list[Any] = []

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        if self.refuse:
            self.refuse -= 1
            raise CannotListenError(interface, port, OSError(98, "Address already in use"))
        self.ports.append(super().listenTCP(port, factory, backlog, interface))
        return self.ports[-1]

    def resolve(self, name: str, timeout: Any = ()) -> Deferred[str]:
        return self.resolved


class ConnectorCase(SynchronousTestCase):
    """A connector with its real parts, on a reactor in memory."""

    def setUp(self) -> None:
        self.lines = Lines()
        self.reactor = Reactor()
        self.ingest = FakeIngest()
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)

    def make(self, *points: Any, **central: Any) -> OCPPConnector:
        config = make_config(self, *(points or ({**POINT, "idRegexpPattern": "CP_."},)), **central)

        def run(job: Any) -> Deferred[None]:
            try:
                return succeed(job())
            except OSError:
                return fail()

        ingest, clock = cast(Any, self.ingest), cast(Any, self.reactor)
        events = self.lines.events
        now = 1_795_262_400_000
        ledger = Ledger(self.folder, clock, events, run)
        reports = StationReports(
            "c", config, ingest, events, clock, lambda: now, self.folder, run, ON_RECEIVED, None
        )
        self.connector = OCPPConnector("c", config, reports, ledger, ingest, events, clock, lambda: now)
        return self.connector

    def start(self, *points: Any, **central: Any) -> OCPPConnector:
        connector = self.make(*points, **central)
        connector.startService()
        self.reactor.advance(0)
        return connector

    @property
    def clock(self) -> Any:
        return self.reactor

    @property
    def factory(self) -> Any:
        return self.reactor.tcpServers[-1][1]

    def dial(self, path: str = "/CP_1", **more: Any) -> Wire:
        """A charge point that came in."""
        wire = Wire(cast(Any, self))
        wire.say(request(path, **more))
        assert wire.socket.value().startswith(b"HTTP/1.1 101"), wire.socket.value()
        wire.socket.clear()
        return wire


class ListenTests(ConnectorCase):
    """The listening socket."""

    def test_interfaces(self):
        """It is what the gateway and the library take it for."""
        connector = self.make()
        for interface in (IConnector, IStatusSource, ICentralSystem, IPausable):
            verifyObject(interface, connector)

    def test_listens(self):
        """On the address and port of the file, and says so."""
        connector = self.start(port=9007)
        port, _, _, interface = self.reactor.tcpServers[0]
        self.assertEqual((port, interface, connector.listening), (9007, "127.0.0.1", True))
        self.assertEqual(self.lines.of("Listening"), ["connector c: listening on ws://127.0.0.1:9007/"])

    def test_tries_again(self):
        """A port in use is tried again, growing slower, and told (O-20)."""
        self.reactor.refuse = 2
        connector = self.start()
        self.assertFalse(connector.listening)
        self.assertIn("Address already in use; next attempt in 5 s", self.lines.of("ListenFailed")[0])
        self.reactor.advance(5)
        self.assertIn("next attempt in 10 s", self.lines.of("ListenFailed")[1])
        self.reactor.advance(10)
        self.assertTrue(connector.listening)
        self.assertIn("again, after 2 failures", self.lines.of("ListeningAgain")[0])

    def test_by_name(self):
        """A local address by name is looked up; a name that nobody knows is tried again."""
        self.reactor.resolved = succeed("192.0.2.1")
        self.start(host="gateway.example.org")
        self.assertEqual(self.reactor.tcpServers[0][3], "192.0.2.1")

    def test_tls_that_cannot_be_had(self):
        """Files that went away since the check: it does not listen at all, and never in clear (O-14)."""
        from tests.config.fakes import key_pair

        cert, key = (self.folder.absolute() / name for name in key_pair(self.folder, "cs"))
        connector = self.make(connection={"type": "tls", "cert": str(cert), "key": str(key)})
        cert.unlink()
        connector.startService()
        self.assertEqual((connector.listening, self.reactor.tcpServers), (False, []))
        self.assertIn("cs.pem", self.lines.of("ListenFailed")[0])
        self.successResultOf(connector.stopService())

    def test_stop_while_trying(self):
        """A stop ends the attempts; nothing is left."""
        self.reactor.refuse = 1
        connector = self.start()
        self.successResultOf(connector.stopService())
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_start_again(self):
        """It may be stopped and started again, and takes charge points as before."""
        connector = self.start()
        self.successResultOf(connector.stopService())
        connector.startService()
        self.reactor.advance(0)
        wire = self.dial()
        self.assertEqual(connector.status()["connections"], 1)
        start = {"connectorId": 1, "idTag": "A", "meterStart": 5, "timestamp": "2026-11-21T12:00:00Z"}
        wire.tell(2, "1", "StartTransaction", start)
        self.assertEqual(wire.messages()[0][0], 3)


class StationTests(ConnectorCase):
    """Charge points."""

    def test_boot_and_command(self):
        """A charge point boots, has a device, is told a command, and its answer is the command's."""
        connector = self.start()
        wire = self.dial()
        wire.tell(2, "1", "BootNotification", BOOT)
        self.reactor.advance(0)
        self.assertEqual(wire.messages()[0][2]["status"], "Accepted")
        command = connector.command("CP_1", "reset", {"hard": True})
        kind, number, action, payload = wire.messages()[0]
        self.assertEqual((kind, action, payload), (2, "Reset", {"type": "Hard"}))
        wire.tell(3, number, {"status": "Accepted"})
        self.assertEqual(self.successResultOf(command), {"result": {"status": "Accepted"}})

    def test_what_the_connection_says(self):
        """The profile that it came with, Calls without an answer and, if wanted, its configuration become values."""
        connector = self.start(mapping={"configuration": True}, security=[{"type": "token", "tokens": ["t"]}])
        wire = self.dial(headers={"Authorization": "t"})
        wire.tell(2, "1", "BootNotification", BOOT)
        self.reactor.advance(0)
        wire.messages()
        asked = connector.command("CP_1", "getConfig", {"key": "HeartbeatInterval"})
        keys = [{"key": "HeartbeatInterval", "readonly": False, "value": "300"}]
        wire.tell(3, wire.messages()[0][1], {"configurationKey": keys})
        self.successResultOf(asked)
        unanswered = connector.command("CP_1", "reset", None)
        self.reactor.advance(31)
        self.failureResultOf(unanswered, CommandFailed)
        self.assertEqual(self.ingest.attributes()["securityProfile"], 1)
        self.assertEqual(self.ingest.attributes()["config_HeartbeatInterval"], 300)
        self.assertEqual(self.ingest.values()["callTimeouts"], 1)

    def test_status(self):
        """How many are connected, and what they speak; no secret."""
        connector = self.start(security=[{"type": "token", "tokens": ["canary"]}])
        self.dial(headers={"Authorization": "canary"})
        self.dial("/CP_2", protocols=["ocpp2.0.1"], headers={"Authorization": "canary"})
        status = connector.status()
        self.assertEqual(status["versions"], {"ocpp1.6": 1, "ocpp2.0.1": 1})
        self.assertEqual((status["listening"], status["type"]), (True, "ocpp"))
        self.assertNotIn("canary", str(status))

    def test_connection_ends_during_an_update(self):
        """A value on its way when the connection ends, or is replaced, is told once more, at the next connection."""
        update = {"attributeOnThingsBoard": "interval", "valueExpression": "${attributeValue}"}
        connector = self.start({**POINT, "attributeUpdates": [update]})
        for ending in ("lost", "replaced", "answered"):
            wire = self.dial()
            wire.tell(2, ending, "Heartbeat", {})
            self.reactor.advance(0)
            if ending == "lost":
                connector.attributes_changed("CP_1", {"interval": 5}, ())
            calls = [one for one in wire.messages() if one[0] == 2]
            self.assertEqual([one[2] for one in calls], ["DataTransfer"], ending)
            if ending == "lost":
                wire.socket.abortConnection()
        self.assertEqual(connector.status()["attributesWaiting"], 0)

    def test_pause(self):
        """While the store is behind nothing is read from charge points, also from those that come meanwhile."""
        connector = self.start()
        wire = self.dial()
        connector.pause_reading()
        connector.pause_reading()
        later = self.dial("/CP_2")
        self.assertEqual([one.socket.producerState for one in (wire, later)], ["paused", "paused"])
        connector.resume_reading()
        self.assertEqual([one.socket.producerState for one in (wire, later)], ["producing", "producing"])

    def test_stop(self):
        """A stop closes all in good order, and waits for nobody for long; commands are refused then."""
        connector = self.start()
        wires = [self.dial(f"/CP_{number}") for number in range(3)]
        connector.pause_reading()
        stopped = connector.stopService()
        self.assertNoResult(stopped)
        self.assertEqual([wire.close_code() for wire in wires], [1001] * 3)
        self.reactor.pump([0.1] * 20)
        self.successResultOf(stopped)
        self.assertEqual([wire.socket.gone for wire in wires], [True] * 3)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        error = self.failureResultOf(connector.command("CP_1", "reset", None), CommandFailed)
        self.assertIn("stopped", str(error.value))

    def test_notices(self):
        """What the library has to tell is counted by its kind, and its lines are limited."""
        self.start()
        wire = self.dial()
        for _ in range(5):
            wire.say(b"\x81\x83\x11\x22\x33\x44" + bytes(a ^ b for a, b in zip(b"xyz", b"\x11\x22\x33", strict=True)))
        self.assertEqual(self.lines.counters.get("ocpp_messages", "bad_message"), 5)
        self.assertEqual(len(self.lines.of("MessageNotice")), 1)

    def test_slow_handshakes_are_of_the_entrance(self):
        """A handshake that was cut for another counts with what else happens on the way in."""
        self.start()
        with mock.patch.object(self.factory, "max_openings", 1):
            Wire(cast(Any, self)).say(b"GET ")
            self.reactor.advance(3)
            self.dial()
        self.assertEqual(self.lines.counters.get("ocpp_entrance", "slow_opening"), 1)

    def test_refused_before_the_websocket(self):
        """Unknown ones see 404, those without login 401 with its challenge."""
        self.start(security=[{"type": "token", "tokens": ["t"]}])
        for path, expected in (("/XX", 404), ("/CP_1", 401)):
            wire = Wire(cast(Any, self))
            wire.say(request(path))
            status, headers = wire.head()
            self.assertEqual((status, "www-authenticate" in headers), (expected, expected == 401))

    def test_profile_is_remembered(self):
        """What a charge point came with is in the file when the connector has stopped."""
        connector = self.start(security=[{"type": "token", "tokens": ["t"]}])
        self.dial(headers={"Authorization": "t"})
        stopped = connector.stopService()
        self.reactor.pump([0.1] * 20)
        self.successResultOf(stopped)
        self.assertIn('"CP_1": {"profile": 1}', (self.folder / "ocpp_security.json").read_text())
