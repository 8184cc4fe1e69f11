"""Shared attributes on their way down: the newest value, once, also to one that was away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.ocpp import updates as updates_module
from tbgw.connectors.ocpp.calls import Calls
from tbgw.connectors.ocpp.commands import Commands
from tbgw.connectors.ocpp.updates import ASK_AGAIN_SECONDS, Updates
from tbgw.errors import LinkDown
from tbgw.model import Device
from tbgw.ocpp.errors import CallErrorReceived, CallTimedOut, StationGone
from tests.connectors.ocpp.stand_ins import POINT, FakeReports, FakeStation, Lines, make_config
from tests.connectors.ocpp.test_commands import NoPasswords

ENTRIES = [
    {
        "attributeOnThingsBoard": "interval",
        "action": "ChangeConfiguration",
        "valueExpression": '{"key": "Interval", "value": "${attributeValue}"}',
    },
    {"attributeOnThingsBoard": "shared"},
]


class FakeDownlink:
    """Remembers what is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str], Deferred[Any]]] = []

    def request_attributes(self, device: Device, scope: str, keys: Sequence[str]) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.asked.append((device.name, list(keys), answer))
        return answer


class UpdateTests(SynchronousTestCase):
    """`Updates` with one charge point."""

    def setUp(self) -> None:
        self.lines = Lines()
        self.clock = Clock()
        self.reports = FakeReports()
        self.stations: dict[str, Any] = {}
        self.downlink = FakeDownlink()
        self.start()

    def start(self, **central: Any) -> None:
        config = make_config(self, {**POINT, "idRegexpPattern": "CP_.*", "attributeUpdates": ENTRIES}, **central)
        calls = Calls(cast(Any, self.reports), cast(Any, NoPasswords()), cast(Any, NoPasswords()), lambda one: "id")
        reports = cast(Any, self.reports)
        commands = Commands("c", config, self.stations, reports, calls, self.lines.events, lambda: 0)
        downlink, events = cast(Any, self.downlink), self.lines.events
        self.updates = Updates("c", config, self.stations, reports, commands, calls, downlink, events, self.clock)
        self.station = FakeStation(config.charge_points[0])

    def come(self) -> FakeStation:
        self.stations["CP_1"] = self.station
        self.updates.ready(self.station)
        return self.station

    def go(self) -> None:
        """In the order of `ICentralSystem`: Calls fail before the connection is said to be gone."""
        self.station.reply = lambda action, payload: StationGone("x")
        open_calls, self.station.open = self.station.open, []
        for call in open_calls:
            call.errback(StationGone("x"))
        self.station.reply = lambda action, payload: None
        del self.stations["CP_1"]
        self.updates.gone(self.station)

    def set(self, **values: Any) -> None:
        self.updates.attributes_changed("Charger", values)

    def accept(self) -> None:
        self.station.open.pop(0).callback({"status": "Accepted"})

    def test_sent(self):
        """The action and the template that are configured; without an action a DataTransfer."""
        self.come()
        self.set(interval=30, other=1)
        self.accept()
        self.set(shared='a "b"')
        self.assertEqual(
            self.station.calls,
            [
                ("ChangeConfiguration", {"key": "Interval", "value": "30"}),
                ("DataTransfer", {"vendorId": "1", "data": '{"shared":"a \\"b\\""}'}),
            ],
        )

    def test_one_by_one(self):
        """While one is being told, others wait, and of each attribute only the newest is told."""
        self.come()
        self.set(interval=1)
        for number in range(2, 10):
            self.set(interval=number, shared=number)
        self.assertEqual(len(self.station.calls), 1)
        self.accept()
        self.accept()
        self.assertEqual([payload.get("value") for _, payload in self.station.calls], ["1", "9", None])

    def test_away(self):
        """What changed while it was away is told when it is ready, not before."""
        self.set(interval=1)
        self.set(interval=2)
        self.stations["CP_1"] = self.station
        self.assertEqual((self.station.calls, self.updates.waiting), ([], 1))
        self.come()
        self.assertEqual([payload["value"] for _, payload in self.station.calls], ["2"])
        self.accept()
        self.assertEqual(self.updates.waiting, 0)

    def test_lost_on_the_way(self):
        """A value whose answer did not come is told again when it returns, unless there is a newer one."""
        self.come()
        self.set(interval=1)
        self.go()
        self.come()
        self.assertEqual([payload["value"] for _, payload in self.station.calls], ["1", "1"])
        self.set(interval=2)
        self.go()
        self.come()
        self.assertEqual([payload["value"] for _, payload in self.station.calls][2:], ["2"])

    def test_time_out(self):
        """One that does not answer is left alone until it comes again, or for some minutes, and that is said."""
        self.come()
        self.set(interval=1)
        self.station.open.pop(0).errback(CallTimedOut("x"))
        self.assertIn("again in 5 minutes", self.lines.of("UpdateRefused")[0])
        self.set(interval=2)
        self.assertEqual(len(self.station.calls), 1)
        self.go()
        self.come()
        self.assertEqual(len(self.station.calls), 2)
        self.station.open.pop(0).errback(CallTimedOut("x"))
        self.clock.advance(300)
        self.assertEqual([payload["value"] for _, payload in self.station.calls], ["1", "2", "2"])
        self.accept()
        self.assertEqual((self.updates.waiting, self.clock.getDelayedCalls()), (0, []))

    def test_time_out_and_gone(self):
        """One that did not answer and went is not tried before it comes again; a stop leaves no timer."""
        self.come()
        self.set(interval=1)
        self.station.open.pop(0).errback(CallTimedOut("x"))
        self.go()
        self.stations["CP_1"] = self.station
        self.clock.advance(300)
        self.assertEqual(len(self.station.calls), 1)
        self.come()
        self.station.open.pop(0).errback(CallTimedOut("x"))
        self.updates.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_refused(self):
        """An error, and a status that is no success, are said, and the value is not told again."""
        self.come()
        self.set(interval=1)
        self.station.open.pop(0).errback(CallErrorReceived("NotSupported", "", {}))
        self.lines.now = 60
        self.set(interval=2)
        self.station.open.pop(0).callback({"status": "Rejected"})
        self.go()
        self.come()
        self.assertEqual(len(self.station.calls), 2)
        self.assertEqual(self.lines.counters.total("attribute_updates_failed"), 2)

    def test_bounded(self):
        """Of too many that are away, the one that waits longest is forgotten, and that is said."""
        self.patch(updates_module, "MAX_WAITING", 3)
        for number in range(5):
            self.reports.devices = {f"CP_{number}": "Charger"}
            self.set(interval=number)
        self.assertEqual(self.updates.waiting, 3)
        self.assertEqual(self.lines.counters.total("attribute_updates_forgotten"), 2)

    def test_asked(self):
        """At its coming ThingsBoard is asked; what was pushed meanwhile is newer than the answer."""
        self.start()
        self.come()
        self.set(interval=5)
        device, keys, answer = self.downlink.asked[0]
        self.assertEqual((device, keys), ("Charger", ["interval", "shared"]))
        answer.callback({"interval": 4, "shared": "x"})
        self.accept()
        self.accept()
        self.assertEqual([action for action, _ in self.station.calls], ["ChangeConfiguration", "DataTransfer"])

    def test_asked_and_known(self):
        """What it was told already is not told again."""
        self.start()
        self.come()
        self.set(interval=5)
        self.accept()
        self.downlink.asked[0][2].callback({"interval": 5, "shared": "x"})
        self.accept()
        self.go()
        self.come()
        self.downlink.asked[1][2].callback({"interval": 5, "shared": "x"})
        self.assertEqual([action for action, _ in self.station.calls], ["ChangeConfiguration", "DataTransfer"])

    def test_not_resent(self):
        """With `resendAttributes` false the first values are taken as told; what differs later is sent."""
        self.start(resendAttributes=False)
        self.come()
        self.downlink.asked[0][2].callback({"interval": 5})
        self.go()
        self.come()
        self.downlink.asked[1][2].callback({"interval": 6})
        self.assertEqual([payload["value"] for _, payload in self.station.calls], ["6"])

    def test_ask_again(self):
        """Without a session it is asked again a minute later."""
        self.start()
        self.come()
        self.downlink.asked[0][2].errback(LinkDown("x"))
        self.clock.advance(ASK_AGAIN_SECONDS)
        self.assertEqual(len(self.downlink.asked), 2)
        self.downlink.asked[1][2].errback(LinkDown("x"))
        self.updates.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_answer_after_the_end(self):
        """A question whose answer comes when it is over leaves nothing behind."""
        self.start()
        self.come()
        self.updates.close()
        self.downlink.asked[0][2].errback(LinkDown("x"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_new_session(self):
        """When a session begins, ThingsBoard is asked for those that are there, and at their return for others."""
        self.start()
        self.come()
        self.downlink.asked[0][2].callback({"interval": 1})
        self.accept()
        self.updates.session_began()
        self.downlink.asked[1][2].callback({"interval": 2})
        self.accept()
        self.go()
        self.updates.session_began()
        self.assertEqual(len(self.downlink.asked), 2)
        self.come()
        self.downlink.asked[2][2].callback({"interval": 2})
        self.assertEqual([payload["value"] for _, payload in self.station.calls], ["1", "2"])

    def test_few_questions_at_a_time(self):
        """A storm of charge points does not become a storm of questions."""
        self.start()
        for number in range(200):
            path = f"CP_{number}"
            self.reports.devices[path] = path
            self.stations[path] = FakeStation(self.station.data, path)
            self.updates.ready(self.stations[path])
        self.assertEqual(len(self.downlink.asked), updates_module.MAX_QUESTIONS)
        for _, _, answer in list(self.downlink.asked):
            answer.callback({})
        self.assertEqual(len(self.downlink.asked), 2 * updates_module.MAX_QUESTIONS)
