"""The gateway's own client and pipeline against the sandbox, in memory, hours in a second."""

from __future__ import annotations

import json

from tbgw.pipeline.activity import ChildSessions
from tests.sandbox.gateway import GatewayCase


class GatewayTests(GatewayCase):
    """Uplink, forwarder, ingest and downlink, with one device."""

    def test_data_and_calls(self) -> None:
        """What is said arrives, and a call of nobody's is answered with a named error."""
        self.say(t=1.5)
        self.assertEqual((self.latest("A"), self.shown("A")["profile"]), ({"t": 1.5}, "thermo"))
        called = self.control.call("A", "open", {"door": 1})
        self.settle()
        answer = self.successResultOf(called)
        self.assertEqual(answer.status, 200)
        self.assertIn("error", answer.body)

    def test_calls_that_waited(self) -> None:
        """Ten persistent calls that waited for the link are all answered, with each of the server's strategies."""
        self.say(t=1)
        for strategy in ("BURST", "SEQUENTIAL_ON_ACK_FROM_DEVICE", "SEQUENTIAL_ON_RESPONSE_FROM_DEVICE"):
            self.control.set_switches({"rpc_strategy": strategy})
            for device in ("A", "Gateway"):
                self.dial.refusing = True
                self.control.cut()
                self.settle()
                answers = [
                    self.successResultOf(
                        self.control.call(device, f"m{number}", persistent=True, expires_in_ms=86_400_000)
                    )
                    for number in range(10)
                ]
                self.dial.refusing = False
                self.pass_time(120)
                ids = [json.loads(answer.body)["rpcId"] for answer in answers]
                calls = [self.control.persistent_call(one) for one in ids]
                self.assertEqual([call["status"] for call in calls], ["SUCCESSFUL"] * 10, (strategy, device))
                self.assertTrue(all("error" in call["response"] for call in calls))

    def test_silent_child(self) -> None:
        """C: a device that is silent for longer than ThingsBoard keeps its session stays within reach (3.10)."""
        self.forwarder.set_sessions(ChildSessions(self.clock, "reconnect", self.forwarder.refresh))
        self.say(t=1)
        for _ in range(4):
            self.pass_time(900)
            self.assertTrue(self.shown("A")["connected"])
            called = self.control.call("A", "open")
            self.settle()
            self.assertEqual(self.successResultOf(called).status, 200)

    def test_silent_child_that_is_not_refreshed(self) -> None:
        """Without that it would be out of reach after ten minutes: what the test above shows is not for nothing."""
        self.say(t=1)
        self.pass_time(900)
        called = self.control.call("A", "open")
        self.pass_time(11)
        self.assertEqual(self.successResultOf(called).status, 504)

    def test_ping_keeps_children(self) -> None:
        """With overwriteActivityTime the gateway's own pings do it (8.7, row 67)."""
        self.control.set_gateway("Gateway", gateway=True, overwrite_activity_time=True)
        self.say(t=1)
        self.pass_time(1800)
        self.assertTrue(self.shown("A")["connected"])

    def test_limits_met(self) -> None:
        """Limits that are lowered in the middle of a session cost time, and nothing else."""
        self.say(n=0)
        self.control.set_limits({"gatewayRateLimits": {"telemetryMessages": "5:10", "messages": "4:1"}})
        for number in range(1, 60):
            self.say(n=number)
        self.pass_time(400)
        self.assertEqual([value for _, value in self.view.history("A", "n", 0)], list(range(60)))
        self.assertEqual(self.spool.stored_rows, 0)

    def test_cut_and_refused(self) -> None:
        """Cuts, refused diallings and another token keep what is said until there is a session again."""
        for number in range(30):
            if number % 7 == 3:
                self.control.cut()
            self.dial.refusing = number % 10 == 5
            self.say(n=number)
        self.dial.refusing = False
        self.control.set_token("Gateway", "other")
        self.say(n=30)
        self.pass_time(300)
        self.assertFalse(self.uplink.connected)
        self.control.set_token("Gateway", "gateway-token")
        self.pass_time(1200)
        self.assertEqual([value for _, value in self.view.history("A", "n", 0)], list(range(31)))
        self.assertEqual(self.spool.stored_rows, 0)

    def test_nasty_server(self) -> None:
        """PUBACKs withheld, doubled, or a close in their place: all arrives in the end."""
        for switches in (
            {"withhold_pubacks": True},
            {"puback_per_device": True},
            {"close_instead_of_puback": True},
            {"answer_session_limits": False},
            {"next_push_has_packet_id_zero": True},
            {"subscribe_late_ms": 100},
        ):
            self.control.set_switches(switches)
            self.control.cut()
            self.say(**{next(iter(switches)): 1})
            self.pass_time(20)
            self.control.set_switches({name: type(value)(not value) for name, value in switches.items()})
            self.pass_time(200)
        self.assertEqual(set(self.latest("A").values()), {1})
        self.assertEqual((len(self.latest("A")), self.spool.stored_rows), (6, 0))


class GatewayTests311(GatewayTests):
    """The same on MQTT 3.1.1."""

    version = 4

    def test_limits_met(self) -> None:
        """
        On 3.1.1 ThingsBoard acknowledges what it refuses for its rate, and closes (3.9): what was acknowledged right
        before goes again, so that nothing is lost, and the last word of the device is the last that arrives.
        """
        super().test_limits_met()
        self.assertEqual(self.latest("A")["n"], 59)
        self.assertGreater(len(self.dial.wires), 1)

    def test_limits_met_again_and_again(self) -> None:
        """Limits that the gateway never knows (the tenant's, say) cost sessions and time, and nothing else."""
        self.say(n=0)
        self.control.set_limits({"gatewayRateLimits": {"telemetryMessages": "5:10"}})
        self.control.set_switches({"answer_session_limits": False})
        for number in range(1, 60):
            self.say(n=number)
        self.pass_time(3000)
        self.assertEqual({value for _, value in self.view.history("A", "n", 0)}, set(range(60)))
        self.assertEqual((self.latest("A")["n"], self.spool.stored_rows), (59, 0))
        self.assertEqual(self.counters.total("parts_buried"), 0)
