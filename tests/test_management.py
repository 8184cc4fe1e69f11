"""Connectors that are made anew while the gateway runs, with all that has no part in it left out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from tbgw.config.loader import examine_folder
from tbgw.connectors.parsers import PARSERS
from tbgw.errors import CommandFailed
from tbgw.internal_events import Events
from tbgw.management import CONNECTOR_STOP_SECONDS, Management, Parts
from tbgw.metrics import Counters
from tests.config.fakes import TOKEN, FolderCase


class SlowConnector(Service):
    """Takes its time to end, as one with many sessions does."""

    connector_type = "socket"

    def __init__(self, name: str, log: list[str]) -> None:
        self.connector_name = name
        self.log = log
        self.ended: Deferred[None] = Deferred()

    def startService(self) -> None:
        super().startService()
        self.log.append("begun")

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self.log.append("ending")
        return self.ended


class ExchangeTests(FolderCase):
    """Whoever asks, connectors of one name are never there at the same time."""

    def setUp(self) -> None:
        super().setUp()
        self.write("tb_gateway.json", {
            "thingsboard": {"host": "127.0.0.1", "security": {"accessToken": TOKEN}},
            "connectors": [{"type": "socket", "name": "Line", "configuration": "line.json"}],
        })
        self.write("line.json", {"socket": {"address": "127.0.0.1", "port": 50001}, "devices": []})
        config = examine_folder(self.config_dir, {}, self.data_dir, PARSERS, {}).config
        assert config is not None
        self.clock = Clock()
        self.log: list[str] = []
        self.made: list[SlowConnector] = []
        self.is_running = True
        self.connectors: dict[str, Any] = {}
        names = (*Parts.__annotations__,)
        given: dict[str, Any] = {
            "reactor": self.clock,
            "now_ms": lambda: 0,
            "events": Events(Counters(), self.clock.seconds),
            "version": "1",
            "spool": SimpleNamespace(run_in_store_thread=lambda job: maybeDeferred(job)),
            "connectors": self.connectors,
            "build_connector": self.build,
            "running": lambda: self.is_running,
        }
        self.management = Management(config, Parts(**{name: given.get(name, Mock()) for name in names}))
        self.management._started = True
        first = self.build(config.connectors[0])
        self.connectors["Line"] = first
        first.startService()

    def build(self, entry: Any) -> SlowConnector:
        self.made.append(SlowConnector(entry.name, self.log))
        return self.made[-1]

    def restart(self) -> Deferred[Any]:
        return self.management.commands.carry_out("gateway_restart_connector", "Line")

    def test_two_restarts_at_once(self) -> None:
        """The second waits for the first; in the end one connector runs, and it is the one that is known."""
        one, other = self.restart(), self.restart()
        self.assertEqual(self.log, ["begun", "ending"])
        self.made[0].ended.callback(None)
        self.assertEqual(self.successResultOf(one), {"success": True})
        self.assertEqual(self.log, ["begun", "ending", "begun", "ending"])
        self.made[1].ended.callback(None)
        self.assertEqual(self.successResultOf(other), {"success": True})
        self.assertEqual([one.connector_name for one in self.made if one.running], ["Line"])
        self.assertIs(self.connectors["Line"], self.made[-1])
        self.assertEqual(list(self.connectors), ["Line"])

    def test_one_that_does_not_end(self) -> None:
        """It holds up the others for its time and no longer."""
        one, other = self.restart(), self.restart()
        self.clock.advance(CONNECTOR_STOP_SECONDS)
        self.successResultOf(one)
        self.clock.advance(CONNECTOR_STOP_SECONDS)
        self.successResultOf(other)
        self.assertEqual(sum(one.running for one in self.made), 1)
        self.assertEqual(len(self.flushLoggedErrors()), 2)

    def test_a_name_that_is_not_there(self) -> None:
        """It is refused, and holds up nobody."""
        refused = self.management.commands.carry_out("gateway_restart_connector", "x")
        self.assertEqual(self.failureResultOf(refused, CommandFailed).value.code, 404)
        self.restart()
        self.assertEqual(self.log, ["begun", "ending"])

    def test_the_gateway_is_being_stopped(self) -> None:
        """What is made then is not begun: nobody would end it, and what it accepts could not be kept."""
        one = self.restart()
        self.is_running = False
        self.made[0].ended.callback(None)
        self.successResultOf(one)
        self.assertEqual(self.log, ["begun", "ending"])
