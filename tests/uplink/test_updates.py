"""Packages on a link in memory, with a Clock: every way they can go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.model import SessionLimits
from tbgw.thingsboard import payloads, topics
from tbgw.uplink.fanout import FanOut
from tbgw.uplink.own_device import OwnDevice
from tbgw.uplink.packages import Package
from tbgw.uplink.updates import CHUNK_SECONDS, ENDED_MEANWHILE, MAX_FRUITLESS, RETRY_SECONDS, Rules, Updates
from tests.fakes import FakeUplink, Sent

CONTENT = bytes(range(256)) * 10  # 2560 bytes: 3 chunks of 1000, the last of 560
CHUNK = 1000


TOPICS = (
    topics.DEVICE_ATTRIBUTES,
    topics.DEVICE_ATTRIBUTES_RESPONSE + "1000001",
    topics.DEVICE_RPC_RESPONSE + "1000001",
    topics.FIRMWARE_ERROR,
    "v2/fw/response/1/chunk/0",
    "v2/fw/response/x/chunk/-1",
)
BODIES = (
    b'{"fw_title":"t","fw_version":"1","fw_size":3,"fw_checksum":"ab","fw_checksum_algorithm":"CRC32"}',
    b'{"fw_title":{},"fw_version":[1],"fw_size":1e999}',
    b'{"deleted":["fw_title",1]}',
    b'{"shared":{"fw_title":"t"},"client":3}',
    b"[]",
    b'"\\ud800"',
)


def attributes(content: bytes = CONTENT, kind: str = "fw", **changes: Any) -> dict[str, Any]:
    """What ThingsBoard says of a package."""
    offer = {
        "title": "gate",
        "version": "1.1",
        "size": len(content),
        "checksum": hashlib.sha256(content).hexdigest(),
        "checksum_algorithm": "SHA256",
        **changes,
    }
    return {f"{kind}_{key}": value for key, value in offer.items() if value is not None}


class UpdatesCase(SynchronousTestCase):
    """A gateway that is offered things."""

    kind = "fw"

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.runs: list[tuple[list[str], dict[str, str]]] = []
        self.outcome: Callable[[], Deferred[str]] = lambda: succeed("")
        self.counters = Counters()
        self.services: list[Updates] = []

    def tearDown(self) -> None:
        if self.services:
            self.end()
            self.assertEqual(self.clock.getDelayedCalls(), [], "nothing is left over")

    def start(
        self, rules: Rules | None = None, shared: dict[str, Any] | None = None, own: tuple[str, str] = ("", "")
    ) -> Updates:
        """A run of the gateway, with a session; ThingsBoard has these attributes."""
        self.clock = Clock()
        self.uplink = FakeUplink(self.clock.seconds)
        self.shared = shared or {}
        events = Events(self.counters, self.clock.seconds)
        self.own = OwnDevice(self.uplink.publish, events, self.clock, lambda: 0)
        self.updates = Updates(
            self.kind,
            rules or Rules(chunk_bytes=CHUNK),
            Package(self.folder, "firmware"),
            self.own,
            self.uplink.publish,
            clock=self.clock,
            events=events,
            in_thread=lambda job: maybeDeferred(job),
            in_other_thread=lambda job: maybeDeferred(job),
            run=self.run_command,
            one_at_a_time=DeferredLock(),
            own=own,
        )
        self.services.append(self.updates)
        self.link = FanOut(
            [self.updates, self.own],
            [self.own.message_received, self.updates.message_received],
            lambda topic, payload: self.assertEqual(topic, topics.FIRMWARE_ERROR),  # when nobody waits for a chunk
        )
        self.uplink.set_listener(self.link)
        self.updates.startService()
        self.up()
        return self.updates

    def run_command(
        self, argv: Sequence[str], variables: Mapping[str, str], folder: str, seconds: float
    ) -> Deferred[str]:
        self.runs.append((list(argv), dict(variables)))
        return self.outcome()

    def end(self) -> None:
        """The gateway ends, as at SIGTERM."""
        if self.updates.running:
            self.updates.stopService()
        if self.uplink.connected:
            self.uplink.down()

    def up(self) -> None:
        self.uplink.up(SessionLimits(max_inflight=1000))
        self.answer_attributes()

    def down(self) -> None:
        self.uplink.down()

    def answer_attributes(self) -> None:
        """ThingsBoard answers every question for attributes."""
        for sent in list(self.uplink.waiting):
            if sent.topic.startswith(topics.DEVICE_ATTRIBUTES_REQUEST):
                self.uplink.acknowledge(sent)
                number = sent.topic.rpartition("/")[2]
                body = {"shared": self.shared} if self.shared else {}
                self.link.message_received(topics.DEVICE_ATTRIBUTES_RESPONSE + number, payloads.encode(body))
        self.turn()

    def turn(self) -> None:
        """Let what waits for a moment go on."""
        for _ in range(20):
            self.clock.advance(0.1)

    def push(self, values: dict[str, Any]) -> None:
        """Shared attributes are set."""
        self.shared.update(values)
        self.link.message_received(topics.DEVICE_ATTRIBUTES, payloads.encode(values))
        self.turn()

    def asked(self) -> list[Sent]:
        """Requests for chunks that nobody acknowledged."""
        return [sent for sent in self.uplink.waiting if "/request/" in sent.topic and sent.topic.startswith("v2/")]

    def answer(self, data: bytes | None = None) -> int:
        """ThingsBoard sends the chunk that was asked for; its number."""
        (sent,) = self.asked()
        self.uplink.acknowledge(sent)
        number = int(sent.topic.rpartition("/")[2])
        if data is None:
            size = int(sent.payload)
            data = CONTENT[number * size : (number + 1) * size]
        self.link.message_received(sent.topic.replace("request", "response"), data)
        self.turn()
        return number

    def answer_all(self) -> list[int]:
        """All chunks; their numbers."""
        numbers = []
        while self.asked():
            numbers.append(self.answer())
        return numbers

    def told(self) -> list[dict[str, Any]]:
        """The telemetry of the gateway since the last call, which is acknowledged."""
        found = []
        for sent in list(self.uplink.waiting):
            if sent.topic == topics.DEVICE_TELEMETRY:
                found.append(json.loads(sent.payload)["values"])
                self.uplink.acknowledge(sent)
        return found

    def states(self) -> list[str]:
        return [values[f"{self.kind}_state"] for values in self.told() if f"{self.kind}_state" in values]

    def error(self) -> str:
        """The words of the last state, which is FAILED."""
        last = self.told()[-1]
        self.assertEqual(last[f"{self.kind}_state"], "FAILED")
        return str(last[f"{self.kind}_error"])


class FetchTests(UpdatesCase):
    """Until the package lies on the disk."""

    def test_all_states(self) -> None:
        """Offered by a push: each state is told, the chunks asked for by number, the file private and whole."""
        self.start()
        self.push(attributes())
        topic = self.asked()[0].topic
        self.assertEqual((topic, self.asked()[0].payload), ("v2/fw/request/1/chunk/0", b"1000"))
        self.assertEqual(self.answer_all(), [0, 1, 2])
        self.assertEqual(self.states(), ["DOWNLOADING", "DOWNLOADED", "VERIFIED"])
        file = self.folder / "firmware.bin"
        self.assertEqual((file.read_bytes(), file.stat().st_mode & 0o777), (CONTENT, 0o600))
        self.assertEqual(self.folder.stat().st_mode & 0o777, 0o700)
        self.assertEqual(self.runs, [], "nothing is done with it that nobody asked for")

    def test_offered_before(self) -> None:
        """What was offered while nobody listened is found by asking, and taken up once."""
        self.start(shared=attributes())
        self.assertEqual(self.answer_all(), [0, 1, 2])
        self.down()
        self.up()
        self.assertEqual(self.asked(), [])
        self.end()
        self.start(shared=attributes())
        self.assertEqual(self.asked(), [], "nor at the next start")

    def test_cut_link(self) -> None:
        """A cut goes on with the chunk that is missing, under a new number of request."""
        self.start()
        self.push(attributes())
        self.answer()
        self.down()
        self.up()
        self.clock.advance(RETRY_SECONDS)
        self.assertEqual(self.asked()[0].topic, "v2/fw/request/2/chunk/1")
        self.assertEqual(self.answer_all(), [1, 2])
        self.assertEqual(self.states()[-1], "VERIFIED")

    def test_restart(self) -> None:
        """A restart goes on where the last run stopped; other chunk sizes cut back to a whole one."""
        self.start()
        self.push(attributes())
        self.answer()
        self.answer()
        self.end()
        self.start(shared=attributes())
        self.assertEqual(self.answer_all(), [2])
        self.assertEqual((self.folder / "firmware.bin").read_bytes(), CONTENT)
        self.assertEqual(self.states()[-1], "VERIFIED")

    def test_restart_with_another_chunk_size(self) -> None:
        """What is on the disk is cut back to whole chunks of the new size."""
        self.start()
        self.push(attributes())
        self.answer()
        self.end()
        self.start(Rules(chunk_bytes=600), attributes())
        self.assertEqual(self.answer_all(), [1, 2, 3, 4])
        self.assertEqual((self.folder / "firmware.bin").read_bytes(), CONTENT)

    def test_part_spoilt_by_a_power_cut(self) -> None:
        """What the disk lost is found by the checksum, and the next offer fetches everything."""
        self.start()
        self.push(attributes())
        self.answer()
        self.end()
        (self.folder / "firmware.part").write_bytes(b"\0" * CHUNK)
        self.start(shared=attributes())
        self.answer_all()
        self.assertEqual(self.error(), "Checksum verification failed!")
        self.push(attributes())
        self.assertEqual(self.answer_all(), [0, 1, 2])
        self.assertEqual(self.states()[-1], "VERIFIED")

    def test_other_offer_meanwhile(self) -> None:
        """A new offer ends the fetching of the old one; a late chunk of that is nobody's."""
        self.start()
        self.push(attributes())
        late = self.asked()[0].topic.replace("request", "response")
        self.uplink.acknowledge(self.asked()[0])
        self.push(attributes(CONTENT[:1500], version="1.2"))
        self.link.message_received(late + "9", CONTENT[:CHUNK])
        self.assertEqual(self.answer(CONTENT[:CHUNK]), 0)
        self.assertEqual(self.answer(CONTENT[CHUNK:1500]), 1)
        self.assertEqual(self.states()[-1], "VERIFIED")
        self.assertEqual((self.folder / "firmware.bin").read_bytes(), CONTENT[:1500])

    def test_taken_back(self) -> None:
        """An offer that is taken back ends it, and leaves no part behind."""
        self.start()
        self.push(attributes())
        self.answer()
        self.uplink.acknowledge(self.asked()[0])
        gone = payloads.encode({"deleted": list(attributes())})
        self.link.message_received(topics.DEVICE_ATTRIBUTES, gone)
        self.turn()
        self.assertEqual((self.asked(), self.states()[-1]), ([], "IDLE"))
        self.assertFalse((self.folder / "firmware.part").exists())


class FaultTests(UpdatesCase):
    """What goes wrong is said in fw_error, and does not go on for ever."""

    def test_tampered(self) -> None:
        """P-24: one bit more or less, and nothing sees the package."""
        self.start(Rules(("/bin/apply",), chunk_bytes=CHUNK))
        self.push(attributes())
        self.answer(b"\xff" + CONTENT[1:CHUNK])
        self.answer_all()
        self.assertEqual(self.error(), "Checksum verification failed!")
        self.assertEqual(self.runs, [])
        self.assertFalse((self.folder / "firmware.bin").exists() or (self.folder / "firmware.part").exists())
        self.down()
        self.up()
        self.assertEqual(self.asked(), [], "it is not tried again by itself")

    def test_wrong_length(self) -> None:
        """An empty, a short and a long chunk."""
        for data in (b"", CONTENT[:999], CONTENT[:1001]):
            self.start()
            self.push(attributes())
            self.answer(data)
            self.assertIn(f"{len(data)} bytes in place of 1000", self.error())
            self.end()

    def test_error_topic(self) -> None:
        """ThingsBoard's word is passed on, and ends it."""
        self.start()
        self.push(attributes())
        self.link.message_received(topics.FIRMWARE_ERROR, b"NOT_FOUND")
        self.turn()
        self.assertEqual(self.error(), "ThingsBoard says NOT_FOUND")
        self.down()
        self.up()
        self.assertEqual(self.asked(), [])

    def test_refused(self) -> None:
        """A PUBACK with a reason ends it."""
        self.start()
        self.push(attributes())
        self.uplink.acknowledge(self.asked()[0], code=0x90)
        self.turn()
        self.assertIn("0x90", self.error())

    def test_no_answer(self) -> None:
        """A chunk is asked for a few times, then it is over; each that comes begins the count anew."""
        self.start()
        self.push(attributes())
        for number in range(MAX_FRUITLESS + 3):
            for sent in self.asked():
                self.uplink.acknowledge(sent)
            self.clock.advance(CHUNK_SECONDS)
            self.clock.advance(RETRY_SECONDS)
            if number == 2:
                self.answer()
        self.assertIn("no answer", self.error())

    def test_session_ended_at_each_try(self) -> None:
        """What ends the session each time is given up, for others need the session."""
        self.start()
        self.push(attributes())
        for _ in range(MAX_FRUITLESS):
            self.assertEqual(len(self.asked()), 1)
            self.down()
            self.up()
            self.clock.advance(RETRY_SECONDS)
        self.assertEqual(self.asked(), [])
        self.assertIn("the session ended", self.error())

    def test_too_large(self) -> None:
        """Over the cap nothing is fetched; nor where the disk has no room to spare."""
        self.start(Rules(max_bytes=2559, chunk_bytes=CHUNK))
        self.push(attributes())
        self.assertIn("2559 are allowed", self.error())
        self.end()
        self.patch(Package, "free_bytes", lambda package: 64 * 1024 * 1024 + 2559)
        self.start()
        self.push(attributes())
        self.assertIn("room on the disk", self.error())

    def test_disk(self) -> None:
        """A disk that is full in the middle is told."""
        self.start()
        self.push(attributes())

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        self.patch(Package, "append", full)
        self.answer()
        self.assertIn("No space left", self.error())

    def test_disk_that_remembers_nothing(self) -> None:
        """A disk that takes no state fails the update before it begins, and not one that is through."""

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        real = Package.save
        self.patch(Package, "save", full)
        self.start(Rules(("/bin/apply",), chunk_bytes=CHUNK))
        self.push(attributes())
        self.assertIn("No space left", self.error())
        self.patch(Package, "save", real)

        def run() -> Deferred[str]:
            self.patch(Package, "save", full)
            return succeed("")

        self.outcome = run
        self.push(attributes())
        self.answer_all()
        self.assertEqual(self.states()[-1], "UPDATED")

    def test_offers_that_cannot_be_taken_up(self) -> None:
        """A URL, no checksum: told once for each offer."""
        self.start()
        self.push(attributes(size=None, checksum=None, checksum_algorithm=None, url="http://10.0.0.1/x"))
        self.assertIn("URL", self.error())
        self.down()
        self.up()
        self.assertEqual(self.told(), [])


    @given(st.lists(st.tuples(st.sampled_from(TOPICS), st.binary(max_size=30) | st.sampled_from(BODIES)), max_size=8))
    def test_any_message(self, messages: list[tuple[str, bytes]]) -> None:
        """P-21: whatever comes on the gateway's own topics, it is taken or let go, and nothing is left over."""
        self.start()
        for topic, payload in messages:
            self.link.message_received(topic, payload)
            self.turn()
        self.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class UseTests(UpdatesCase):
    """The operator's program."""

    rules = Rules(("/bin/apply", "-q"), chunk_bytes=CHUNK)

    def test_through(self) -> None:
        """After the check, with the path as last argument and the offer in variables; then it is current."""
        self.start(self.rules)
        self.push(attributes(title="--rm; $(x)"))
        self.answer_all()
        ((argv, variables),) = self.runs
        self.assertEqual(argv, ["/bin/apply", "-q", str((self.folder / "firmware.bin").absolute())])
        self.assertEqual(variables["TBGW_PACKAGE_TITLE"], "--rm; $(x)")
        told = self.told()
        self.assertEqual([v["fw_state"] for v in told[-3:]], ["VERIFIED", "UPDATING", "UPDATED"])
        self.assertEqual((told[-1]["current_fw_title"], told[-1]["current_fw_version"]), ("--rm; $(x)", "1.1"))
        self.end()
        self.start(self.rules, self.shared)
        self.assertEqual((self.asked(), len(self.runs)), ([], 1))
        self.assertEqual(self.told(), [{"current_fw_title": "--rm; $(x)", "current_fw_version": "1.1"}])

    def test_fails(self) -> None:
        """Its words are told; offered again it runs again, without fetching again."""
        self.outcome = lambda: succeed("exit status 3: no such board")
        self.start(self.rules)
        self.push(attributes())
        self.answer_all()
        self.assertEqual(self.error(), "the command failed: exit status 3: no such board")
        self.outcome = lambda: succeed("")
        self.push(attributes())
        self.assertEqual((self.asked(), len(self.runs)), ([], 2))
        self.assertEqual(self.states(), ["VERIFIED", "UPDATING", "UPDATED"])

    def test_checked_again_before_use(self) -> None:
        """P-24: what changed on the disk between the check and a later use is not used."""
        self.outcome = lambda: succeed("exit status 3")
        self.start(self.rules)
        self.push(attributes())
        self.answer_all()
        (self.folder / "firmware.bin").write_bytes(b"x" * len(CONTENT))
        self.push(attributes())
        self.assertEqual(len(self.runs), 1)
        self.assertEqual(self.answer_all(), [0, 1, 2])
        self.assertEqual(len(self.runs), 2)

    def test_other_offer_while_it_runs(self) -> None:
        """A program that has begun is not ended; what was offered meanwhile comes next."""
        running: Deferred[str] = Deferred()
        self.outcome = lambda: running
        self.start(self.rules)
        self.push(attributes())
        self.answer_all()
        self.push(attributes(CONTENT[:500], version="1.2"))
        self.assertEqual(self.asked(), [])
        self.outcome = lambda: succeed("")
        running.callback("")
        self.turn()
        self.answer(CONTENT[:500])
        self.assertEqual([run[1]["TBGW_PACKAGE_VERSION"] for run in self.runs], ["1.1", "1.2"])

    def test_ended_while_it_ran(self) -> None:
        """A gateway that was ended in the middle says that it does not know, and does not run it again by itself."""
        self.outcome = Deferred
        self.start(self.rules)
        self.push(attributes())
        self.answer_all()
        self.end()
        self.start(self.rules, attributes())
        self.assertEqual((self.error(), len(self.runs)), (ENDED_MEANWHILE, 1))


class SoftwareTests(UpdatesCase):
    """The program itself as a package."""

    kind = "sw"
    rules = Rules(("/bin/apply",), chunk_bytes=CHUNK)

    def test_own_version(self) -> None:
        """What runs is told at the first session; the same on offer is done already."""
        self.start(self.rules, own=("tbgw", "0.1.0"))
        self.assertEqual(self.told(), [{"current_sw_title": "tbgw", "current_sw_version": "0.1.0"}])
        self.push(attributes(kind="sw", title="tbgw", version="0.1.0"))
        self.assertEqual((self.asked(), self.states()), ([], ["UPDATED"]))

    def test_restarted_by_its_own_update(self) -> None:
        """The program ended us and the new version runs: that is the proof."""
        self.outcome = Deferred
        self.start(self.rules, own=("tbgw", "0.1.0"))
        self.push(attributes(kind="sw", title="tbgw", version="0.2.0"))
        self.assertEqual(self.asked()[0].topic, "v2/sw/request/1/chunk/0")
        self.answer_all()
        self.end()
        self.start(self.rules, attributes(kind="sw", title="tbgw", version="0.2.0"), own=("tbgw", "0.2.0"))
        self.assertEqual((self.states(), len(self.runs)), (["UPDATED"], 1))
