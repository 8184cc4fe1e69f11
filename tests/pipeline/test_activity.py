"""When devices were last heard of, on a Clock."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, Literal

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbgw.model import Device, RateLimit, Reading, SessionLimits
from tbgw.pipeline.activity import SESSION_SECONDS, Activity, ChildSessions
from tbgw.thingsboard import topics
from tests.pipeline.test_renaming import NoticeCase


class ActivityTests(SynchronousTestCase):
    """Silence that is really measured."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.silent: list[str] = []
        self.activity = Activity(self.clock, 100, 10, lambda device: self.silent.append(device.name))

    def test_c42_who_speaks_is_never_gone(self) -> None:
        """C-42: a device that speaks before each time-out stays; it is told gone once, after its last word."""
        self.activity.start([])
        device = Device("A")
        for _ in range(20):
            self.activity.spoke(device)
            self.clock.advance(99)
        self.assertEqual(self.silent, [])
        self.clock.pump([1] * 11)
        self.assertEqual(self.silent, ["A"])
        self.clock.pump([10] * 50)
        self.assertEqual(self.silent, ["A"])

    def test_known_from_before(self) -> None:
        """A device that is only known from before a restart counts from the start; one that went away does not."""
        self.clock.advance(1000)
        self.activity.start([Device("A"), Device("B")])
        self.activity.gone("B")
        self.clock.pump([10] * 10)
        self.assertEqual(self.silent, ["A"])
        self.activity.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ChildSessionTests(SynchronousTestCase):
    """Sessions of silent devices are kept or begun again."""

    def begin(self, way: Literal["reconnect", "connect"]) -> ChildSessions:
        self.clock = Clock()
        self.refreshed: list[tuple[float, str, bool]] = []
        return ChildSessions(
            self.clock, way, lambda name, end: self.refreshed.append((self.clock.seconds(), name, end))
        )

    def test_before_the_ten_minutes(self) -> None:
        """The session is ended and begun before ThingsBoard ends it, again and again, and only of silent devices."""
        sessions = self.begin("reconnect")
        sessions.touched(["A", "B"])
        for _ in range(100):
            self.clock.advance(15)
            sessions.touched(["B"])
        self.assertEqual({name for _, name, _ in self.refreshed}, {"A"})
        times = [0.0, *[at for at, _, _ in self.refreshed]]
        self.assertTrue(all(later - earlier < SESSION_SECONDS for earlier, later in pairwise(times)))
        self.assertTrue(all(end for _, _, end in self.refreshed))

    def test_after_them(self) -> None:
        """The other way round nothing is ended, and the session is begun again shortly after."""
        sessions = self.begin("connect")
        sessions.touched(["A"])
        self.clock.pump([1] * 611)
        self.assertEqual(self.refreshed, [(610.0, "A", False)])
        sessions.gone("A")
        self.clock.pump([1] * 1300)
        self.assertEqual(len(self.refreshed), 1)
        sessions.touched(["A"])
        sessions.clear()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class TogetherTests(NoticeCase):
    """With ingest and the forwarder."""

    def said(self) -> list[tuple[str, list[str]]]:
        sent, self.uplink.sent = self.names(self.uplink.sent), []
        return sent

    def test_silent_and_back(self) -> None:
        """A silent device is told gone after its data, and announced again before its next."""
        activity = Activity(self.clock, 100, 10, self.ingest.silent)
        activity.start([])
        self.ingest.set_activity(activity)
        self.uplink.up()
        self.say("A")
        self.settle()
        self.said()
        for _ in range(12):
            self.clock.advance(10)
            self.settle()
        self.assertEqual(self.said(), [(topics.DISCONNECT, ["A"])])
        self.say("A")
        self.settle()
        self.assertEqual(self.said()[0], (topics.CONNECT, ["A"]))
        activity.stop()

    def test_silent_under_another_name(self) -> None:
        """A renamed device is told gone under its new name, and comes back under it."""
        activity = Activity(self.clock, 100, 10, self.ingest.silent)
        activity.start([])
        self.ingest.set_activity(activity)
        self.uplink.up()
        self.say("A")
        self.settle()
        self.notices.renamed("A", "New")
        self.say("A")
        self.settle()
        self.said()
        for _ in range(12):
            self.clock.advance(10)
            self.settle()
        self.assertEqual(self.said(), [(topics.DISCONNECT, ["New"])])
        self.say("A")
        self.settle()
        said = self.said()
        self.assertEqual((said[0], said[-1]), ((topics.CONNECT, ["New"]), (topics.TELEMETRY, ["New"])))
        self.assertEqual(self.registry.name_of("A"), "New")
        activity.stop()

    def test_refreshed(self) -> None:
        """Nine and a half minutes after the last word: disconnect, then connect, and no other device is disturbed."""
        self.forwarder.set_sessions(ChildSessions(self.clock, "reconnect", self.forwarder.refresh))
        self.uplink.up()
        self.say("A")
        self.settle()
        self.said()
        for _ in range(58):
            self.clock.advance(10)
            self.uplink.acknowledge_all()
        self.assertEqual(self.said(), [(topics.DISCONNECT, ["A"]), (topics.CONNECT, ["A"])])
        self.uplink.down()
        self.assertEqual([call for call in self.clock.getDelayedCalls() if "Session" in str(call)], [])

    def test_many_are_refreshed_within_the_limits(self) -> None:
        """Hundreds that fall due together go out within the window and the rate, each end right before its begin."""
        self.forwarder.set_sessions(ChildSessions(self.clock, "reconnect", self.forwarder.refresh))
        self.uplink.up(SessionLimits(messages=(RateLimit(60, 1.0),)))
        self.devices = {f"D{number}": Device(f"D{number}", connector="Line") for number in range(300)}
        self.say(*self.devices)
        for _ in range(400):
            self.settle()
        self.said()
        sent: list[int] = []
        for _ in range(620 * 5):
            self.clock.advance(0.2)
            sent.append(len(self.uplink.sent))
            self.uplink.acknowledge_all()
        self.assertLess(max(later - earlier for earlier, later in zip(sent, sent[5:], strict=False)), 70)
        said = self.said()
        self.assertEqual(said[::2], [(topics.DISCONNECT, names) for _, names in said[1::2]])
        self.assertEqual({topic for topic, _ in said[1::2]}, {topics.CONNECT})
        self.assertEqual({names[0] for _, names in said}, set(self.devices))

    def test_renamed_before_its_refresh_could_be_sent(self) -> None:
        """The session under the old name is ended all the same, once."""
        self.uplink.up(SessionLimits(messages=(RateLimit(5, 60.0),)))
        self.say("A")
        self.settle()
        self.said()
        self.forwarder.refresh("A", True)
        self.assertEqual(self.said(), [], "the rate does not let it through yet")
        self.notices.renamed("A", "New")
        for _ in range(100):
            self.settle()
        self.assertEqual(self.said(), [(topics.DISCONNECT, ["A"]), (topics.CONNECT, ["New"])])

    def test_thingsboard_ends_a_devices_session(self) -> None:
        """After `v1/gateway/disconnect` from ThingsBoard the device is announced anew."""
        self.uplink.up()
        self.say("A")
        self.settle()
        self.said()
        content: Any = {"device": "A", "reason": 128}
        self.forwarder.message_received(topics.DISCONNECT, json.dumps(content).encode())
        self.settle()
        self.assertEqual(self.said(), [(topics.CONNECT, ["A"])])
        for rubbish in (b"", b"[]", b'{"device":5}', b'{"device":"nobody","reason":128}'):
            self.forwarder.message_received(topics.DISCONNECT, rubbish)
        self.assertEqual(self.said(), [])

    def test_readings_by_connector(self) -> None:
        """What `gateway_stats` tells is counted by connector."""
        self.ingest.accept(Reading(Device("X", connector="Other"), ((1, {"n": 1}),)))
        self.say("A", "B")
        self.assertEqual(dict(self.ingest.readings_of), {"Other": 1, "Line": 2})
        self.settle()

    def test_who_may_not_pass_is_not_counted(self) -> None:
        """A device that the filter denies leaves nothing behind, so that names without end cost nothing."""
        told: list[str] = []
        activity = Activity(self.clock, 100, 10, lambda device: told.append(device.name))
        activity.start([])
        self.ingest.set_activity(activity)
        self.ingest.set_filter(lambda connector, device: device != "Denied")
        self.ingest.accept(Reading(Device("Denied", connector="Line"), ((1, {"n": 1}),)))
        self.ingest.accept(Reading(Device("", connector="Line"), ((1, {"n": 1}),)))
        self.assertEqual(dict(self.ingest.readings_of), {})
        self.clock.pump([10] * 12)
        self.assertEqual(told, [])
        activity.stop()
