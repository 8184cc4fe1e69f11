"""The gateway's own device on a link in memory, with a Clock."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tbgw.errors import LinkDown, NoAnswer
from tbgw.interfaces import IOwnDevice
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.model import OwnAttributes, SessionLimits
from tbgw.thingsboard import payloads, topics
from tbgw.uplink.fanout import FanOut
from tbgw.uplink.own_device import (
    FIRST_NUMBER,
    MAX_CLOSES,
    MAX_REQUESTS,
    MAX_UNACKNOWLEDGED,
    MAX_WAITING,
    MAX_WAITING_BYTES,
    PUBACK_SECONDS,
    REQUEST_SECONDS,
    RETRY_SECONDS,
    SUSPICION_SECONDS,
    OwnDevice,
    Spend,
)
from tests.fakes import FakeUplink


class OwnDeviceCase(SynchronousTestCase):
    """A link that the test acknowledges."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.counters = Counters()
        self.uplink = FakeUplink(self.clock.seconds)
        self.wait = 0.0
        self.spent: list[tuple[str, int]] = []
        self.own = OwnDevice(
            self.uplink.publish,
            Events(self.counters, self.clock.seconds),
            self.clock,
            lambda: 1_700_000_000_000 + int(self.clock.seconds() * 1000),
            budget=self.budget,
        )
        self.rest: list[str] = []
        self.uplink.set_listener(
            FanOut([self.own], [self.own.message_received], lambda topic, payload: self.rest.append(topic))
        )

    def budget(self, limits: SessionLimits) -> Spend:
        def spend(topic: str, points: int) -> float:
            if not self.wait:
                self.spent.append((topic, points))
            return self.wait

        return spend

    def tearDown(self) -> None:
        if self.uplink.connected:
            self.uplink.down()
        self.assertEqual(self.clock.getDelayedCalls(), [], "nothing is left over")

    def sent(self) -> list[tuple[str, Any]]:
        """(topic, content) of what was published since the last call."""
        new = [(sent.topic, json.loads(sent.payload)) for sent in self.uplink.sent]
        self.uplink.sent.clear()
        return new

    def receive(self, topic: str, content: Any) -> None:
        payload = content if isinstance(content, bytes) else payloads.encode(content)
        assert self.uplink._listener is not None
        self.uplink._listener.message_received(topic, payload)


class SayingTests(OwnDeviceCase):
    """Telemetry, attributes and claims."""

    def test_interface(self) -> None:
        """It is what it says."""
        verifyObject(IOwnDevice, self.own)

    def test_telemetry_and_attributes(self) -> None:
        """Telemetry bears its time; both are done with the PUBACK, and cost what ThingsBoard counts."""
        self.uplink.up()
        first = self.own.publish_telemetry({"a": 1, "b": "ü"})
        second = self.own.publish_telemetry({"a": 2}, ts_ms=7)
        third = self.own.publish_attributes({"c": True})
        self.assertEqual(
            self.sent(),
            [
                (topics.DEVICE_TELEMETRY, {"ts": 1_700_000_000_000, "values": {"a": 1, "b": "ü"}}),
                (topics.DEVICE_TELEMETRY, {"ts": 7, "values": {"a": 2}}),
                (topics.DEVICE_ATTRIBUTES, {"c": True}),
            ],
        )
        self.assertEqual([points for _, points in self.spent], [2, 1, 1])
        self.assertNoResult(first)
        self.uplink.acknowledge_all()
        self.assertEqual([self.successResultOf(d) for d in (first, second, third)], ["", "", ""])

    def test_without_a_session_it_waits(self) -> None:
        """What is said offline bears the time of saying, and goes out in order when a session is there."""
        self.own.publish_telemetry({"a": 1})
        self.clock.advance(5)
        self.own.publish_attributes({"b": 2})
        self.uplink.up()
        self.assertEqual(
            self.sent(),
            [
                (topics.DEVICE_TELEMETRY, {"ts": 1_700_000_000_000, "values": {"a": 1}}),
                (topics.DEVICE_ATTRIBUTES, {"b": 2}),
            ],
        )

    def test_what_waits_is_bounded(self) -> None:
        """By number and by bytes; the oldest makes room, is counted, and whoever waits for it is told."""
        first = self.own.publish_attributes({"n": 0})
        for number in range(MAX_WAITING):
            self.own.publish_attributes({"n": number + 1})
        self.assertEqual(self.successResultOf(first), "too much waits")
        for number in range(MAX_WAITING_BYTES // 60_000 + 2):
            self.own.publish_attributes({"n": number, "x": "x" * 60_000})
        self.uplink.up()
        contents = []
        while self.uplink.waiting:
            contents.append(json.loads(self.uplink.acknowledge().payload))
        self.assertLessEqual(sum(len(payloads.encode(content)) for content in contents), MAX_WAITING_BYTES)
        self.assertEqual(contents[-1]["n"], MAX_WAITING_BYTES // 60_000 + 1, "the newest is there")
        self.assertGreater(self.counters.snapshot()["own_messages_dropped"], MAX_WAITING - 10)

    def test_a_session_that_ends(self) -> None:
        """What had no PUBACK goes out again in the next session, before what came later."""
        self.uplink.up()
        done = [self.own.publish_attributes({"n": number}) for number in range(3)]
        self.uplink.acknowledge()
        self.uplink.down()
        self.own.publish_attributes({"n": 3})
        self.sent()
        self.uplink.up()
        self.assertEqual([content["n"] for _, content in self.sent()], [1, 2, 3])
        self.uplink.acknowledge_all()
        self.assertEqual([self.successResultOf(d) for d in done], ["", "", ""])

    def test_window(self) -> None:
        """So many are without PUBACK and no more; one that never comes gives its place up after a time."""
        self.uplink.up()
        for number in range(MAX_UNACKNOWLEDGED + 2):
            self.own.publish_attributes({"n": number})
        self.assertEqual(len(self.sent()), MAX_UNACKNOWLEDGED)
        self.uplink.acknowledge(code=0)
        self.assertEqual(len(self.sent()), 1)
        self.clock.advance(PUBACK_SECONDS)
        self.assertEqual([content["n"] for _, content in self.sent()], [MAX_UNACKNOWLEDGED + 1])
        self.uplink.acknowledge_all()
        self.uplink.down()
        self.uplink.up()
        self.assertEqual(self.sent(), [], "a PUBACK that came late after all counts")

    def test_message_that_ends_its_sessions(self) -> None:
        """
        On 3.1.1 a payload that ThingsBoard cannot convert ends the session without a word: the first that was without
        PUBACK in a few sessions that ended right after it is tried alone, and then given up; the others are not.
        """
        done = [self.own.publish_attributes({"n": number}) for number in range(4)]
        for sessions in range(MAX_CLOSES):
            self.assertNoResult(done[0])
            self.uplink.up()
            self.assertEqual(len(self.sent()), 1 if sessions == MAX_CLOSES - 1 else 4)
            self.uplink.down()
        self.assertIn("sessions ended", self.successResultOf(done[0]))
        self.uplink.up()
        self.assertEqual([content["n"] for _, content in self.sent()], [1, 2, 3])
        self.uplink.acknowledge_all()
        self.assertEqual([self.successResultOf(one) for one in done[1:]], [""] * 3)

    def test_suspect_that_is_innocent(self) -> None:
        """One that is taken when it goes alone is done, and the others follow at once."""
        done = [self.own.publish_attributes({"n": number}) for number in range(3)]
        for _ in range(MAX_CLOSES - 1):
            self.uplink.up()
            self.uplink.down()
        self.sent()
        self.uplink.up()
        self.uplink.acknowledge()
        self.assertEqual([content["n"] for _, content in self.sent()], [0, 1, 2])
        self.uplink.acknowledge_all()
        self.assertEqual([self.successResultOf(one) for one in done], [""] * 3)

    def test_suspect_without_puback(self) -> None:
        """One that goes alone and has no PUBACK holds the others up for the time of a PUBACK and no longer."""
        for number in range(3):
            self.own.publish_attributes({"n": number})
        for _ in range(MAX_CLOSES - 1):
            self.uplink.up()
            self.uplink.down()
        self.sent()
        self.uplink.up()
        self.clock.advance(PUBACK_SECONDS)
        self.assertEqual([content["n"] for _, content in self.sent()], [0, 1, 2])

    def test_sessions_that_end_for_other_reasons(self) -> None:
        """A close that says why, or that comes long after the message, speaks of nothing that was said."""
        done = self.own.publish_attributes({"n": 0})
        for _ in range(2 * MAX_CLOSES):
            self.uplink.up()
            self.uplink.down(0x98)
            self.uplink.up()
            self.clock.advance(SUSPICION_SECONDS)
            self.uplink.down()
        self.assertNoResult(done)
        self.uplink.up()
        self.uplink.acknowledge_all()

    def test_rate(self) -> None:
        """The limits of the session are kept: what is too early waits, and later messages wait behind it."""
        self.uplink.up()
        self.wait = 3.0
        self.own.publish_attributes({"n": 1})
        self.own.publish_attributes({"n": 2})
        self.assertEqual(self.sent(), [])
        self.wait = 0.0
        self.clock.advance(3)
        self.assertEqual(len(self.sent()), 2)

    def test_refused(self) -> None:
        """A reason that passes is tried again, a few times; another one is final. Whoever waits is told."""
        self.uplink.up()
        done = self.own.publish_attributes({"n": 1})
        self.uplink.acknowledge(code=0x99)
        self.assertIn("0x99", self.successResultOf(done))
        again = self.own.publish_attributes({"n": 2})
        for _ in range(2):
            self.uplink.acknowledge(code=0x97)
            self.assertNoResult(again)
            self.clock.advance(RETRY_SECONDS)
        self.uplink.acknowledge(code=0x97)
        self.assertIn("0x97", self.successResultOf(again))
        self.assertEqual(len(self.sent()), 4)

    def test_what_cannot_be_said(self) -> None:
        """No JSON, and too long: told at once, nothing is sent; nothing at all is well said."""
        self.uplink.up(SessionLimits(max_payload_bytes=1000))
        self.assertIn("JSON", self.successResultOf(self.own.publish_telemetry({"a": float("nan")})))
        self.assertIn("longer than", self.successResultOf(self.own.publish_attributes({"a": "x" * 1000})))
        self.assertEqual(self.successResultOf(self.own.publish_telemetry({})), "")
        self.assertEqual(self.sent(), [])

    def test_claim(self) -> None:
        """What is not given is left out; without a session there is none, and it does not wait for the next."""
        self.failureResultOf(self.own.claim("s", 60_000), LinkDown)
        self.uplink.up()
        claimed = [self.own.claim("s", 60_000), self.own.claim()]
        self.assertEqual(
            self.sent(),
            [(topics.DEVICE_CLAIM, {"secretKey": "s", "durationMs": 60_000}), (topics.DEVICE_CLAIM, {})],
        )
        self.uplink.acknowledge_all()
        self.assertEqual([self.successResultOf(one) for one in claimed], ["", ""])
        lost = self.own.claim("s")
        self.sent()
        self.uplink.down()
        self.assertIn("session ended", self.successResultOf(lost))
        self.uplink.up()
        self.assertEqual(self.sent(), [])


class AskingTests(OwnDeviceCase):
    """Attribute requests and client-side RPC."""

    def test_attributes(self) -> None:
        """Keys travel as comma texts, once each; scopes that are absent in the answer are empty."""
        self.uplink.up()
        asked = self.own.request_attributes(["a", "b", "a"], ["c"])
        topic = f"{topics.DEVICE_ATTRIBUTES_REQUEST}{FIRST_NUMBER + 1}"
        self.assertEqual(self.sent(), [(topic, {"clientKeys": "a,b", "sharedKeys": "c"})])
        self.receive(f"{topics.DEVICE_ATTRIBUTES_RESPONSE}{FIRST_NUMBER + 1}", {"client": {"a": 1}})
        self.assertEqual(self.successResultOf(asked), OwnAttributes({"a": 1}, {}))
        everything = self.own.request_attributes()
        self.assertEqual(self.sent()[0][1], {})
        self.receive(f"{topics.DEVICE_ATTRIBUTES_RESPONSE}{FIRST_NUMBER + 2}", {"shared": {"c": [1]}})
        self.assertEqual(self.successResultOf(everything).shared, {"c": [1]})

    def test_no_answer(self) -> None:
        """Time-out, end of session, no session, a refusal, rubbish: each fails once, in words."""
        self.failureResultOf(self.own.request_attributes(["a"]), LinkDown)
        self.uplink.up()
        late = self.own.request_attributes(["a"])
        self.clock.advance(REQUEST_SECONDS)
        self.failureResultOf(late, NoAnswer)
        self.receive(f"{topics.DEVICE_ATTRIBUTES_RESPONSE}{FIRST_NUMBER + 1}", {"client": {"a": 1}})
        refused = self.own.rpc("m", {})
        self.uplink.acknowledge(self.uplink.waiting[-1], code=0x99)
        self.assertIn("0x99", str(self.failureResultOf(refused, NoAnswer).value))
        rubbish = self.own.request_attributes(["a"])
        self.receive(f"{topics.DEVICE_ATTRIBUTES_RESPONSE}{FIRST_NUMBER + 3}", b"[1")
        self.failureResultOf(rubbish, NoAnswer)
        self.failureResultOf(self.own.request_attributes(["a,b"]), NoAnswer)
        ended = self.own.rpc("m", {})
        self.uplink.down()
        self.failureResultOf(ended, LinkDown)

    def test_rpc(self) -> None:
        """The answer is whatever JSON it is, a text if it is none; ThingsBoard's own time-out is no answer."""
        self.uplink.up()
        for number, (body, value) in enumerate(
            [(b'{"time":1}', {"time": 1}), (b"null", None), (b"plain", "plain"), (b'{"error":"no"}', {"error": "no"})]
        ):
            asked = self.own.rpc("getTime", {"zone": "UTC"})
            topic, content = self.sent()[0]
            self.assertEqual(topic, f"{topics.DEVICE_RPC_REQUEST}{FIRST_NUMBER + 1 + number}")
            self.assertEqual(content, {"method": "getTime", "params": {"zone": "UTC"}})
            self.receive(topic.replace("request", "response"), body)
            self.assertEqual(self.successResultOf(asked), value)
        asked = self.own.rpc("getTime", None)
        topic, content = self.sent()[0]
        self.assertEqual(content["params"], {}, "ThingsBoard would store the text null")
        self.receive(topic.replace("request", "response"), {"error": "timeout"})
        self.failureResultOf(asked, NoAnswer)

    def test_bounded_and_cancelled(self) -> None:
        """So many questions are open and no more; one that is cancelled makes room."""
        self.uplink.up(SessionLimits(max_inflight=10_000))
        asked: list[Deferred[Any]] = [self.own.rpc("m", {}) for _ in range(MAX_REQUESTS)]
        self.failureResultOf(self.own.rpc("m", {}), NoAnswer)
        asked[0].addErrback(lambda failure: None)
        asked[0].cancel()
        last = self.own.rpc("m", {})
        self.assertNoResult(last)
        self.uplink.down()
        for one in (*asked[1:], last):
            self.failureResultOf(one, LinkDown)

    def test_rate(self) -> None:
        """A question over the limit of the rate is not sent, and says when it could be."""
        self.uplink.up()
        self.wait = 12.0
        self.assertIn("12 s", str(self.failureResultOf(self.own.rpc("m", {}), NoAnswer).value))
        self.assertEqual(self.sent(), [])


class ToldTests(OwnDeviceCase):
    """Shared attributes and sessions."""

    def test_shared(self) -> None:
        """Values and deletions are told apart; what is neither is counted."""
        told: list[Any] = []
        self.own.add_shared_listener(lambda values, deleted: told.append((dict(values), list(deleted))))
        self.uplink.up()
        self.receive(topics.DEVICE_ATTRIBUTES, {"a": 1})
        self.receive(topics.DEVICE_ATTRIBUTES, {"deleted": ["a", "b"]})
        self.receive(topics.DEVICE_ATTRIBUTES, {"deleted": [1]})
        self.receive(topics.DEVICE_ATTRIBUTES, b"[]")
        self.assertEqual(told, [({"a": 1}, []), ({}, ["a", "b"]), ({"deleted": [1]}, [])])
        self.assertEqual(self.counters.snapshot()[f"own_messages_ignored{{{topics.DEVICE_ATTRIBUTES}}}"], 1)

    def test_sessions(self) -> None:
        """Whoever wants to ask again is told of each session, and may ask at once."""
        asked: list[Any] = []
        self.own.add_link_listener(lambda: asked.append(self.own.request_attributes(["a"])))
        self.uplink.up()
        self.uplink.down()
        self.uplink.up()
        self.assertEqual(len(asked), 2)
        self.failureResultOf(asked[0], LinkDown)
        asked[1].addErrback(lambda failure: None)

    def test_other_topics(self) -> None:
        """What is not for the gateway itself goes on, commands for it too."""
        self.uplink.up()
        for topic in (topics.RPC, f"{topics.DEVICE_RPC_REQUEST}7", topics.ATTRIBUTES):
            self.receive(topic, {"method": "m"})
        self.assertEqual(self.rest, [topics.RPC, f"{topics.DEVICE_RPC_REQUEST}7", topics.ATTRIBUTES])

    def test_echoes(self) -> None:
        """A plain broker's echo of what we said or asked is neither an update nor a command; others' words are."""
        told: list[Any] = []
        self.own.add_shared_listener(lambda values, deleted: told.append(dict(values)))
        self.uplink.up(SessionLimits(echoes=True))
        self.own.publish_attributes({"mine": 1})
        asked = self.own.rpc("m", {"x": 1})
        asked.addErrback(lambda failure: None)
        for sent in list(self.uplink.sent):
            self.receive(sent.topic, sent.payload)
        self.receive(topics.DEVICE_ATTRIBUTES, {"theirs": 2})
        self.receive(f"{topics.DEVICE_RPC_REQUEST}7", {"method": "m", "params": {"x": 1}})
        self.assertEqual((told, self.rest), ([{"theirs": 2}], [f"{topics.DEVICE_RPC_REQUEST}7"]))
