"""The reference's table of commands for the gateway itself (spec reference-gateway, A8.1)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from tbgw.config.thingsboard import REMOTE_METHODS, ThingsBoardSection
from tbgw.errors import CommandFailed
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.uplink.gateway_rpc import ALL_METHODS, METHODS, SHELL_METHODS, Actions, GatewayCommands


class CommandTests(SynchronousTestCase):
    """`GatewayCommands` with actions that only note that they were called."""

    def setUp(self) -> None:
        self.done: list[Any] = []
        self.counters = Counters()
        self.credentials: Any = True

        def later(*what: Any) -> Deferred[None]:
            self.done.append(what)
            return succeed(None)

        actions = Actions(
            devices=lambda: {"Scale": "Line"},
            counts=lambda: {"eventsProduced": 3, "eventsSent": 2, "LineEventsProduced": 3},
            version="1.2.3",
            restart=lambda seconds: self.done.append(("restart", seconds)),
            reboot=lambda seconds: self.done.append(("reboot", seconds)),
            restart_connector=lambda name: (
                later("connector", name) if name == "Line" else fail(CommandFailed("there is none", 404))
            ),
            renamed=lambda old, new: later("renamed", old, new),
            deleted=lambda name: later("deleted", name),
            remove_credentials=lambda: (
                fail(self.credentials) if isinstance(self.credentials, OSError) else succeed(self.credentials)
            ),
        )
        self.commands = GatewayCommands(actions, Events(self.counters, lambda: 0.0))

    def call(self, method: str, params: Any = None) -> Any:
        """The reply, or (code, text) of an error."""
        work = self.commands.carry_out(method, params)
        if isinstance(work.result, (dict, str)):
            return self.successResultOf(work)
        error = self.failureResultOf(work, CommandFailed).value
        return error.code, str(error)

    def test_replies(self) -> None:
        """Each reply has the reference's shape, whatever stands for "no parameters" (C-43)."""
        spellings: list[Any] = [None, {}, "{}", "", []]
        for nothing in spellings:
            self.assertEqual(self.call("gateway_ping", nothing), {"code": 200, "resp": "pong"})
            self.assertEqual(self.call("gateway_devices", nothing), {"code": 200, "resp": {"Scale": "Line"}})
            stats = {"eventsProduced": 3, "eventsSent": 2, "LineEventsProduced": 3}
            self.assertEqual(self.call("gateway_stats", nothing), stats)
            self.assertEqual(self.call("gateway_version", nothing)["resp"]["current_version"], "1.2.3")
            self.assertEqual(self.call("gateway_update", nothing)["code"], 200)
            for method in ("gateway_remove_provisioned_credentials", "remove_provisioned_credentials"):
                self.assertEqual(
                    self.call(method, nothing),
                    {"code": 200, "resp": "Provisioned credentials file removed successfully."},
                )

    def test_restart(self) -> None:
        """The delay is a number in any form, a second at least; anything else is an error and restarts nothing."""
        for params, seconds in ((None, 1), ({}, 1), ("", 1), (60, 60), ("5", 5), (0.1, 1), ({"seconds": 7}, 7)):
            self.assertEqual(self.call("gateway_restart", params), {"success": True})
            self.assertEqual(self.done.pop(), ("restart", seconds))
        nonsense: list[Any] = ["soon", [1], {"seconds": "x"}, -1, 1e9, float("nan"), float("inf")]
        for wrong in nonsense:
            self.assertEqual(self.call("gateway_restart", wrong)[0], 400, wrong)
        self.assertEqual(self.done, [])
        self.assertEqual(self.counters.total("remote_commands"), 14)

    def test_devices(self) -> None:
        """Notices of renamed and deleted devices are answered when they are carried out; nonsense is an error."""
        self.assertEqual(self.call("gateway_device_renamed", {"A": "B", "C": "D"}), {"success": True})
        self.assertEqual(self.call("gateway_device_deleted", "A"), {"success": True})
        self.assertEqual(self.done, [("renamed", "A", "B"), ("renamed", "C", "D"), ("deleted", "A")])
        self.done.clear()
        nonsense: list[Any] = [None, [], "A", {"A": 5}, {"A": ""}, {"A": "x" * 256}, {"A": None}]
        for params in nonsense:
            self.assertEqual(self.call("gateway_device_renamed", params)[0], 400)
        nonsense = [None, 5, {"x": 1}]
        for params in nonsense:
            self.assertEqual(self.call("gateway_device_deleted", params)[0], 400)
        self.commands.follow_renaming = False
        self.assertEqual(self.call("gateway_device_deleted", "A")[0], 403)
        self.assertEqual(self.done, [])

    def test_what_does_not_exist(self) -> None:
        """Unknown methods have the reference's words and code, the remote shell its own."""
        self.assertEqual(self.call("gateway_fly"), (404, "Method not found"))
        self.assertEqual(self.call("foo"), (404, "foo - connector not found in available connectors."))
        for method in SHELL_METHODS:
            code, text = self.call(method, {"command": "id"})
            self.assertEqual((code, "not offered" in text), (403, True))

    def test_allow_list(self) -> None:
        """P-19: what is not in the list is refused by name; a restart of the machine is not in it at first."""
        self.assertEqual(self.call("gateway_reboot")[0], 403)
        self.commands.allowed = ("gateway_reboot",)
        self.assertEqual(self.call("gateway_reboot", 3), {"success": True})
        self.assertEqual(self.done, [("reboot", 3)])
        self.assertEqual(self.call("gateway_ping"), (403, "gateway_ping is not allowed: it is not in "
                                                          "thingsboard.remoteMethods"))
        self.assertEqual(REMOTE_METHODS, ALL_METHODS)
        self.assertEqual(ThingsBoardSection().remote_methods, METHODS)

    def test_connector_and_credentials(self) -> None:
        """A connector is made anew by name; credentials that are not there or stay are said."""
        self.assertEqual(self.call("gateway_restart_connector", {"name": "Line"}), {"success": True})
        self.assertEqual(self.call("gateway_restart_connector", "Other"), (404, "there is none"))
        self.assertEqual(self.call("gateway_restart_connector", 5)[0], 400)
        self.credentials = False
        self.assertEqual(self.call("gateway_remove_provisioned_credentials")[0], 404)
        self.credentials = PermissionError(13, "Permission denied")
        self.assertEqual(self.call("gateway_remove_provisioned_credentials")[0], 500)
