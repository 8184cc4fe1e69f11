"""Renamed and deleted devices: rows of earlier, and the notices with all who take part, on a Clock."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.model import Device, RateLimit, Reading, ReportPlan, ReportStrategy, ReportType, Row, SessionLimits
from tbgw.pipeline.downlink import Downlink
from tbgw.pipeline.forwarder import Forwarder
from tbgw.pipeline.ingest import Ingest
from tbgw.pipeline.notices import Notices
from tbgw.pipeline.packer import PackLimits
from tbgw.pipeline.renaming import MAX_CHANGES, Renaming
from tbgw.pipeline.suspicion import DEVICE_DELETED
from tbgw.thingsboard import payloads, topics
from tests.fakes import FakeSpool, FakeUplink, Sent
from tests.pipeline.test_downlink import FakeConnector
from tests.pipeline.test_ingest import MemoryRegistry


def row(seq: int, **devices: int) -> Row:
    payload = payloads.encode({name: [{"ts": seq, "values": {"n": value}}] for name, value in devices.items()})
    return Row(seq, topics.TELEMETRY, payload, tuple(devices), len(devices), len(devices))


class MemoryRenaming(Renaming):
    """Does not touch the disk."""

    def __init__(self) -> None:
        super().__init__(Path("renamed_devices.json"))
        self.written: list[bytes] = []

    def write(self, content: bytes) -> None:
        self.written.append(content)


class RenamingTests(SynchronousTestCase):
    """The changes, and what they make of a row."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.renaming = Renaming(self.path)
        self.kept: list[Any] = []

    def current(self, one: Row) -> Any:
        now = self.renaming.current(one, self.kept.append)
        return None if now is None else json.loads(now.payload)

    def test_a_row_follows(self) -> None:
        """A row of before speaks of the new name, one of after is left as it is; others are not touched."""
        self.renaming.add("A", "B", 5, 1)
        self.assertEqual(self.current(row(5, A=1, C=2)), {"B": [{"ts": 5, "values": {"n": 1}}],
                                                          "C": [{"ts": 5, "values": {"n": 2}}]})
        untouched = row(6, A=1)
        self.assertIs(self.renaming.current(untouched, self.kept.append), untouched)
        other = row(4, C=1)
        self.assertIs(self.renaming.current(other, self.kept.append), other)

    def test_chains_and_names_that_are_used_again(self) -> None:
        """A becomes B becomes C; another device becomes A later: each row goes to the device that it is of."""
        self.renaming.add("A", "B", 5, 1)
        self.renaming.add("B", "C", 8, 1)
        self.renaming.add("X", "A", 10, 1)
        self.assertEqual(list(self.current(row(3, A=1))), ["C"])
        self.assertEqual(list(self.current(row(7, B=1))), ["C"])
        self.assertEqual(list(self.current(row(9, X=1))), ["A"])
        self.assertEqual(list(self.current(row(9, A=1))), ["A"])
        self.assertEqual(list(self.current(row(12, A=1))), ["A"])

    def test_two_that_become_one(self) -> None:
        """What a row says of both names is joined, in its order."""
        self.renaming.add("A", "B", 5, 1)
        now = self.renaming.current(row(5, B=1, A=2), self.kept.append)
        assert now is not None
        self.assertEqual([part["values"]["n"] for part in json.loads(now.payload)["B"]], [1, 2])
        self.assertEqual(now.devices, ("B",))
        attributes = Row(4, topics.ATTRIBUTES, b'{"B":{"x":1,"y":1},"A":{"x":2}}', ("B", "A"), 1, 3)
        self.assertEqual(self.current(attributes), {"B": {"x": 2, "y": 1}})
        gone = Row(3, topics.DISCONNECT, b'{"device":"A"}', ("A",), 0, 0)
        self.assertEqual(self.current(gone), {"device": "B"})

    def test_deleted(self) -> None:
        """Parts of a deleted device are kept apart; a row of nothing else is for the dead letters as it is."""
        self.renaming.add("A", None, 5, 1)
        self.assertEqual(list(self.current(row(5, A=1, C=2))), ["C"])
        ((payload, devices, points),) = self.kept
        self.assertEqual((json.loads(payload)["A"][0]["values"], devices, points), ({"n": 1}, ("A",), 1))
        self.assertIsNone(self.current(row(4, A=1)))
        self.assertEqual(len(self.kept), 1)

    def test_damaged_rows_are_left_to_the_forwarder(self) -> None:
        """What is no payload of its topic comes back as it is."""
        self.renaming.add("A", None, 9, 1)
        self.renaming.add("B", "C", 9, 1)
        for payload in (b"", b"[", b"[]", b'{"A":5}', b"\xff"):
            one = Row(1, topics.TELEMETRY, payload, ("A", "B"), 1, 1)
            self.assertIs(self.renaming.current(one, self.kept.append), one)

    def test_file(self) -> None:
        """The changes outlive a restart, and are forgotten with the rows that they are for."""
        self.renaming.add("A", "é\n", 5, 1)
        content = self.renaming.add("B", None, 6, 1)
        self.renaming.write(content)
        again = Renaming(self.path)
        self.assertEqual(again.load(6, 1), "")
        self.assertEqual((again.name("A", 5), again.name("B", 6), again.name("B", 7)), ("é\n", None, "B"))
        empty = Renaming(self.path)
        self.assertEqual(empty.load(6, 0), "")
        self.assertEqual(empty.name("A", 5), "A")
        other_store = Renaming(self.path)
        self.assertEqual(other_store.load(3, 1), "")
        self.assertEqual(other_store.name("A", 2), "A")

    def test_damage(self) -> None:
        """A file that is not ours is said, and costs nothing else."""
        for content in ("", "{", "[1]", '[{"old":1,"new":"B","lastSeq":1}]', '[{"old":"A","new":"B","lastSeq":true}]'):
            self.path.write_text(content)
            self.assertIn("not usable", Renaming(self.path).load(1, 1), content)
        self.assertEqual(Renaming(Path("/nowhere/x")).load(1, 1), "")

    def test_forgotten(self) -> None:
        """With an empty store only what may come back after a power cut is still remembered."""
        self.renaming.add("A", "B", 5, 1)
        self.renaming.add("C", "D", 9, 0)
        self.assertEqual((self.renaming.name("A", 5), self.renaming.name("C", 9)), ("A", "D"))

    def test_bounded(self) -> None:
        """The list of changes does not grow for ever."""
        for number in range(MAX_CHANGES + 5):
            self.renaming.add(f"A{number}", f"B{number}", number, 1) if number % 500 == 0 else (
                self.renaming._changes.append(self.renaming._changes[-1])
            )
        content = self.renaming.add("last", "one", 10**6, 1)
        self.assertEqual(len(json.loads(content)), MAX_CHANGES)


class NoticeCase(SynchronousTestCase):
    """Ingest, forwarder and downlink between a spool and a link that the test drives."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = 1000.0
        self.counters = Counters()
        self.spool = FakeSpool()
        self.uplink = FakeUplink(self.clock.seconds)
        self.registry = MemoryRegistry()
        self.renaming = MemoryRenaming()
        events = Events(self.counters, self.clock.seconds)
        self.connector = FakeConnector("Line")
        self.downlink = Downlink(
            self.uplink.publish, events, self.clock, self.registry.connector, names=self.registry
        )
        self.downlink.set_connectors([self.connector])
        self.forwarder = Forwarder(
            self.spool,
            self.uplink,
            self.registry,
            clock=self.clock,
            events=events,
            max_payload_bytes=60_000,
            message_received=self.downlink.message_received,
            renaming=self.renaming,
        )
        self.ingest = Ingest(
            self.spool,
            self.registry,
            clock=self.clock,
            now_ms=lambda: 1,
            events=events,
            limits=PackLimits(60_000, 60_000),
            pack_delay_seconds=0.05,
            appended=self.forwarder.appended,
            link_idle=lambda: self.forwarder.idle,
        )
        self.spool.set_listeners(self.ingest, self.forwarder, lambda error: None)
        self.notices = Notices(
            self.registry, self.renaming, self.spool, self.ingest, self.forwarder, self.downlink, events
        )
        self.uplink.set_listener(self)  # type: ignore[arg-type] # it has what the link calls
        self.forwarder.start()
        self.devices = {name: Device(name, f"kind of {name}", "Line", "socket") for name in "ABC"}
        self.n = 0

    def link_up(self, limits: SessionLimits) -> None:
        self.downlink.link_up(limits)
        self.forwarder.link_up(limits)

    def link_down(self, code: int | None = None) -> None:
        self.downlink.link_down(code)
        self.forwarder.link_down(code)

    def say(self, *names: str) -> None:
        for name in names:
            self.n += 1
            self.ingest.accept(Reading(self.devices[name], ((self.n, {"n": self.n}),)))

    def settle(self) -> None:
        """Let everything that can go on go on, with every PUBACK."""
        for _ in range(20):
            self.spool.run()
            self.clock.advance(0.06)
            self.uplink.acknowledge_all() if self.uplink.connected else None

    def names(self, sent: list[Sent]) -> list[tuple[str, list[str]]]:
        """(topic, names) of publishes."""
        found = []
        for one in sent:
            content = json.loads(one.payload)
            found.append((one.topic, [content["device"]] if "device" in content else list(content)))
        return found


class NoticeTests(NoticeCase):
    """What is sent, and under which name."""

    def test_renamed_in_a_session(self) -> None:
        """Old name ended, new one begun, data after that; the connector is asked under its own name."""
        self.uplink.up()
        self.say("A")
        self.settle()
        self.uplink.sent.clear()
        self.say("A")
        done = self.notices.renamed("A", "New")
        self.say("A")
        self.settle()
        self.successResultOf(done)
        said = self.names(self.uplink.sent)
        first_new = said.index((topics.CONNECT, ["New"]))
        ended = said.index((topics.DISCONNECT, ["A"]))
        self.assertLess(ended, first_new)
        self.assertNotIn(["A"], [names for _, names in said[ended + 1 :]])
        self.assertEqual(json.loads(self.uplink.sent[first_new].payload)["type"], "kind of A")
        self.downlink.message_received(topics.RPC, b'{"device":"New","data":{"id":1,"method":"m","params":5}}')
        self.assertEqual(self.connector.calls[-1], ("A", "m", 5))
        self.downlink.message_received(topics.ATTRIBUTES, b'{"device":"New","data":{"x":1}}')
        self.assertEqual(self.connector.calls[-1], ("attributes", "A", {"x": 1}, []))
        self.downlink.request_attributes(self.devices["A"], "shared", ["x"])
        self.assertEqual(json.loads(self.uplink.sent[-1].payload)["device"], "New")
        self.clock.advance(100)
        self.flushLoggedErrors()

    def test_renamed_without_a_link(self) -> None:
        """What was stored goes out under the new name, in order, before what comes next, and the old is not named."""
        self.say("A", "B", "A")
        self.settle()
        self.notices.renamed("A", "New")
        self.say("A")
        self.settle()
        self.uplink.up()
        self.settle()
        self.assertNotIn("A", [name for _, names in self.names(self.uplink.sent) for name in names])
        values = [
            part["values"]["n"]
            for sent in self.uplink.data()
            if sent.topic == topics.TELEMETRY
            for part in json.loads(sent.payload).get("New", ())
        ]
        self.assertEqual(values, [1, 3, 4])
        self.assertEqual(self.spool.stored, {})

    def test_a_notice_before_the_session_is_ready(self) -> None:
        """The notice comes with the subscription: its answer waits for the link, the old name is not announced."""
        self.say("A")
        self.settle()
        answers: list[Any] = []
        self.downlink.set_own_commands(
            lambda method, params: self.notices.renamed("A", "New").addCallback(lambda _: {"success": True})
        )
        notice = b'{"method":"gateway_device_renamed","params":1}'
        self.forwarder.message_received(topics.DEVICE_RPC_REQUEST + "0", notice)
        self.spool.run()
        self.uplink.up()
        answers = [one for one in self.uplink.sent if one.topic.startswith(topics.DEVICE_RPC_RESPONSE)]
        self.assertEqual([one.payload for one in answers], [b'{"success":true}'])
        self.settle()
        self.assertNotIn("A", [name for _, names in self.names(self.uplink.data()) for name in names])

    def test_renamed_with_rows_in_flight(self) -> None:
        """A row without PUBACK whose session ends is sent again under the new name."""
        self.uplink.up()
        self.uplink.acknowledge_all()
        self.say("A")
        self.spool.run()
        self.clock.advance(0.06)
        self.uplink.acknowledge_announcements()
        self.notices.renamed("A", "New")
        self.spool.run()
        self.uplink.down()
        self.uplink.sent.clear()
        self.uplink.up()
        self.settle()
        said = [names for _, names in self.names(self.uplink.sent)]
        self.assertNotIn(["A"], said)
        self.assertIn(["New"], said)
        self.assertEqual(self.spool.stored, {})

    def test_renamed_between_two_parts_of_a_row(self) -> None:
        """A row goes in parts, for a limit; what is left of it when a device is renamed goes under the new name."""
        self.say("A", "B")
        self.settle()
        self.say("A", "B", "C")  # one row
        self.settle()
        self.uplink.up(SessionLimits(telemetry=(RateLimit(2, 10.0),), announced=True))
        for _ in range(200):
            self.uplink.acknowledge_all()
            parts = [names for topic, names in self.names(self.uplink.sent) if topic == topics.TELEMETRY]
            if parts[-2:] == [["A"], ["B"]] and len(parts) > 2:
                break
            self.clock.advance(1)
        self.notices.renamed("C", "New")
        self.spool.run()
        for _ in range(600):
            self.uplink.acknowledge_all()
            self.clock.advance(1)
            self.spool.run()
        said = self.names(self.uplink.data())
        after = said[said.index((topics.DISCONNECT, ["C"])) + 1 :] if (topics.DISCONNECT, ["C"]) in said else said
        self.assertNotIn(["C"], [names for _, names in after])
        self.assertIn((topics.TELEMETRY, ["New"]), said)
        self.assertEqual(self.spool.stored, {})

    def test_a_row_that_comes_back_brings_its_followers(self) -> None:
        """A row of the old name that ThingsBoard wants later takes with it what was sent behind it under the new."""
        self.uplink.up()
        self.say("A")
        self.settle()
        self.say("A")
        self.spool.run()
        (old,) = [one for one in self.uplink.waiting if one.topic == topics.TELEMETRY]
        self.notices.renamed("A", "New")
        self.spool.run()
        self.uplink.acknowledge_announcements()
        self.say("A")
        self.spool.run()
        self.clock.advance(0.06)
        for one in [one for one in self.uplink.waiting if one is not old]:
            self.uplink.acknowledge(one)
        self.uplink.acknowledge(old, 0x97)
        for _ in range(10):
            self.clock.advance(10)
            self.settle()
        values = [
            part["values"]["n"]
            for sent in self.uplink.data()
            if sent.topic == topics.TELEMETRY
            for part in json.loads(sent.payload).get("New", ())
        ]
        self.assertEqual(values[-2:], [2, 3])

    def test_deleted(self) -> None:
        """What was stored goes to the dead letters; what the device says next makes it anew, with its profile."""
        self.say("A", "B")
        self.settle()
        done = self.notices.deleted("A")
        self.spool.run()
        self.successResultOf(done)
        self.uplink.up()
        self.settle()
        self.assertNotIn("A", [name for _, names in self.names(self.uplink.sent) for name in names])
        self.assertEqual({reason for _, reason in self.spool.dead}, {DEVICE_DELETED})
        self.assertEqual({name for letter, _ in self.spool.dead for name in letter.devices}, {"A"})
        self.uplink.sent.clear()
        self.say("A")
        self.settle()
        said = self.names(self.uplink.sent)
        self.assertLess(said.index((topics.CONNECT, ["A"])), said.index((topics.TELEMETRY, ["A"])))
        self.assertEqual(self.spool.stored, {})

    def test_running_commands_follow(self) -> None:
        """The answer to a command that runs goes to the new name; of a deleted device there is none."""
        self.uplink.up()
        self.say("A", "B")
        self.settle()
        running: list[Deferred[Any]] = []
        cancelled: list[str] = []

        def wait() -> Deferred[Any]:
            running.append(Deferred(lambda _: cancelled.append("yes")))
            return running[-1]

        self.connector.answer = wait
        for name in "AB":
            content = {"device": name, "data": {"id": 1, "method": "m", "params": None}}
            self.downlink.message_received(topics.RPC, payloads.encode(content))
        self.uplink.sent.clear()
        self.notices.renamed("A", "New")
        self.notices.deleted("B")
        self.settle()
        running[0].callback("done")
        answers = [json.loads(one.payload) for one in self.uplink.sent if one.topic == topics.RPC]
        self.assertEqual(answers, [{"device": "New", "id": 1, "data": "done"}])
        self.assertEqual(cancelled, ["yes"])
        self.settle()

    def test_repeated_and_unknown_notices(self) -> None:
        """A notice that comes twice, or of a device that is not known, does nothing."""
        self.say("A")
        self.settle()
        self.notices.renamed("A", "New")
        self.spool.run()
        changes = len(self.renaming.written)
        for notice in (
            self.notices.renamed("A", "New"),
            self.notices.renamed("New", "New"),
            self.notices.deleted("A"),
        ):
            self.successResultOf(notice)
        self.assertEqual(len(self.renaming.written), changes)
        self.assertEqual(list(self.registry.present()), ["New"])

    def test_a_device_that_never_told_anything(self) -> None:
        """One that has only asked for attributes is renamed, too: its first word goes to the new name."""
        self.notices.renamed("B", "New")
        self.settle()
        self.uplink.up()
        self.say("B")
        self.settle()
        said = self.names(self.uplink.sent)
        self.assertEqual((said[0], said[-1]), ((topics.CONNECT, ["New"]), (topics.TELEMETRY, ["New"])))
        self.assertEqual(json.loads(self.uplink.sent[0].payload)["type"], "kind of B")
        self.downlink.message_received(topics.RPC, b'{"device":"New","data":{"id":1,"method":"m","params":5}}')
        self.assertEqual(self.connector.calls[-1], ("B", "m", 5))
        self.settle()

    def test_renamed_while_it_is_away(self) -> None:
        """A device that went away is not announced because it was renamed; its next word announces it."""
        self.uplink.up()
        self.say("A")
        self.settle()
        self.ingest.disconnected(self.devices["A"])
        self.settle()
        self.uplink.sent.clear()
        self.notices.renamed("A", "New")
        self.settle()
        self.assertEqual(self.names(self.uplink.sent), [])
        self.say("A")
        self.settle()
        self.assertEqual(self.names(self.uplink.sent)[0], (topics.CONNECT, ["New"]))

    def test_renamed_back(self) -> None:
        """Back to its own name, the device is as if nothing had been; the file says so."""
        self.say("A")
        self.settle()
        self.notices.renamed("A", "New")
        self.notices.renamed("New", "A")
        self.spool.run()
        entry = json.loads(self.registry.snapshot())["A"]
        self.assertIsNone(entry["renaming"])
        self.assertEqual(self.registry.name_of("A"), "A")

    def test_after_a_restart(self) -> None:
        """The registry's file has the reference's form, and brings the names back."""
        self.say("A")
        self.settle()
        self.notices.renamed("A", "New")
        self.spool.run()
        path = Path(self.mktemp())
        path.write_bytes(self.registry.snapshot())
        again = type(self.registry)()
        again.path = path
        self.assertEqual(again.load(), [])
        self.assertEqual((again.name_of("A"), again.original("New"), list(again.present())), ("New", "A", ["New"]))
        self.assertEqual(json.loads(path.read_bytes())["A"]["renaming"], "New")

    def test_report_strategy_begins_anew(self) -> None:
        """A deleted device's values are sent again when it is made anew, though they have not changed."""
        plan = ReportPlan(ReportStrategy(ReportType.ON_CHANGE))
        self.devices["A"] = Device("A", "k", "Line", "socket", plan)
        self.uplink.up()
        self.ingest.accept(Reading(self.devices["A"], ((1, {"x": 1}),)))
        self.settle()
        self.notices.deleted("A")
        self.settle()
        self.uplink.sent.clear()
        self.ingest.accept(Reading(self.devices["A"], ((2, {"x": 1}),)))
        self.settle()
        self.assertIn((topics.TELEMETRY, ["A"]), self.names(self.uplink.sent))

    def test_disconnected_under_the_new_name(self) -> None:
        """A connector that loses the device names it by its own name; ThingsBoard hears the new one, once."""
        self.uplink.up()
        self.say("A")
        self.settle()
        self.notices.renamed("A", "New")
        self.settle()
        self.uplink.sent.clear()
        self.ingest.disconnected(self.devices["A"])
        self.settle()
        self.assertEqual(self.names(self.uplink.sent), [(topics.DISCONNECT, ["New"])])
        self.say("A")
        self.settle()
        self.assertIn((topics.CONNECT, ["New"]), self.names(self.uplink.sent))

    def test_any_course(self) -> None:
        """Readings, notices, answers and ends of sessions in any order: nothing is lost, no old name comes back."""
        for seed in range(60):
            self.setUp()
            self.course(Random(seed))
            if self.uplink.connected:
                self.uplink.down()

    def course(self, random: Random) -> None:
        names = dict(zip("ABC", "ABC", strict=True))
        dead_since: dict[str, int] = {}
        """Name in ThingsBoard to how many publishes there had been when it was given up, of names not used since."""
        for step in range(60):
            what = random.randrange(10)
            own = random.choice("ABC")
            if what < 5:
                self.say(own)
                dead_since.pop(names[own], None)
            elif what == 5 and names[own] in self.registry:
                new = f"{own}{step}"
                self.notices.renamed(names[own], new)
                dead_since[names[own]] = len(self.uplink.sent)
                names[own] = new
            elif what == 6 and names[own] in self.registry:
                self.notices.deleted(names[own])
                dead_since[names[own]] = len(self.uplink.sent)
                names[own] = own  # it is made anew under its connector's name
            elif what == 7:
                self.uplink.down() if self.uplink.connected else self.uplink.up()
            else:
                self.spool.run()
                self.clock.advance(0.06)
                while self.uplink.connected and self.uplink.waiting and random.random() < 0.7:
                    self.uplink.acknowledge(random.choice(self.uplink.waiting))
            for name, since in dead_since.items():
                for one in self.uplink.sent[since:]:
                    if one.topic != topics.DISCONNECT:
                        self.assertNotIn(name, self.names([one])[0][1], "an old name was brought back")
        if not self.uplink.connected:
            self.uplink.up()
        self.settle()
        arrived = set()
        for one in self.uplink.sent:
            if one.topic == topics.TELEMETRY and one not in self.uplink.waiting:
                arrived |= {part["values"]["n"] for parts in json.loads(one.payload).values() for part in parts}
        for letter, _ in self.spool.dead:
            if letter.topic == topics.TELEMETRY:
                arrived |= {part["values"]["n"] for parts in json.loads(letter.payload).values() for part in parts}
        self.assertEqual(set(range(1, self.n + 1)) - arrived, set())
        self.assertEqual(self.spool.stored, {})
