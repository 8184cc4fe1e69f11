"""What ThingsBoard sends down: every command is answered once, and nothing else is; and what devices ask."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tbgw.errors import CommandFailed, LinkDown, NoAnswer, UnknownDevice
from tbgw.interfaces import IConnector, IDownlink, IUplinkListener
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.model import Device, SessionLimits
from tbgw.pipeline.downlink import (
    COMMAND_SECONDS,
    MAX_REMEMBERED,
    MAX_REMEMBERED_BYTES,
    MAX_RUNNING,
    MAX_UNACKNOWLEDGED,
    REPEAT_SECONDS,
    REQUEST_SECONDS,
    Downlink,
)
from tbgw.thingsboard import payloads, topics
from tests.fakes import FakeUplink


@implementer(IConnector)
class FakeConnector:
    """Does with a command what the test says."""

    def __init__(self, name: str = "Line", kind: str = "socket") -> None:
        self.connector_name, self.connector_type = name, kind
        self.calls: list[tuple[Any, ...]] = []
        self.answer: Any = lambda: succeed("ok")

    def attributes_changed(self, device: str, values: Any, deleted: Any) -> None:
        self.calls.append(("attributes", device, dict(values), list(deleted)))

    def command(self, device: str, method: str, params: Any) -> Deferred[Any]:
        self.calls.append((device, method, params))
        answer: Deferred[Any] = self.answer()
        return answer

    def own_command(self, method: str, params: Any) -> Deferred[Any]:
        return self.command("", method, params)


class DownlinkCase(SynchronousTestCase):
    """What both groups share."""

    def setUp(self) -> None:
        self.counters = Counters()
        self.clock = Clock()
        self.uplink = FakeUplink()
        self.connector = FakeConnector()
        self.places = {"A": "Line", 'A "1"': "Line", "B": "Line", "lost": "no longer configured"}
        self.downlink = Downlink(
            self.uplink.publish, Events(self.counters, lambda: 0.0), self.clock, self.places.get
        )
        self.downlink.set_connectors([self.connector])
        self.uplink.set_listener(self.downlink)
        self.uplink.up()

    def tearDown(self) -> None:
        """Nothing is left over by any test that ends its commands."""
        self.uplink.acknowledge_all()

    def command(self, number: int = 1, device: str = "A", method: str = "m", params: Any = None) -> None:
        content = {"device": device, "data": {"id": number, "method": method, "params": params}}
        self.downlink.message_received(topics.RPC, payloads.encode(content))

    def sent(self) -> list[tuple[str, Any]]:
        """(topic, content) of all that was published since the last call."""
        new = [(sent.topic, json.loads(sent.payload)) for sent in self.uplink.sent]
        self.uplink.sent.clear()
        self.uplink.acknowledge_all() if self.uplink.connected else None
        return new

    def answers(self, topic: str, payload: bytes) -> list[tuple[str, Any]]:
        self.downlink.message_received(topic, payload)
        return self.sent()



class DownlinkTests(DownlinkCase):
    """Commands and attribute updates."""

    def test_interfaces(self):
        """What it provides, and what it is told."""
        verifyObject(IDownlink, self.downlink)
        verifyObject(IUplinkListener, self.downlink)
        verifyObject(IConnector, self.connector)

    def test_packages_of_devices(self) -> None:
        """What ThingsBoard offers a device behind the gateway (`fw_...`) is passed on as attributes, and taken back."""
        offer = {"fw_title": "t", "fw_version": "1", "fw_size": 3, "fw_checksum": "ab", "fw_checksum_algorithm": "MD5"}
        self.answers(topics.ATTRIBUTES, payloads.encode({"device": "A", "data": offer}))
        self.answers(topics.ATTRIBUTES, payloads.encode({"device": "A", "data": {"deleted": list(offer)}}))
        self.assertEqual(
            self.connector.calls, [("attributes", "A", offer, []), ("attributes", "A", {}, list(offer))]
        )

    def test_command(self):
        """A command goes to the connector that the device spoke through; its value goes back to (device, id)."""
        for number, value in enumerate([0, False, "", None, {"a": [1]}, 'x"y', 21.5]):
            self.connector.answer = lambda value=value: succeed(value)
            self.command(number, 'A "1"', "setGpio", {"pin": number})
            self.assertEqual(self.sent(), [(topics.RPC, {"device": 'A "1"', "id": number, "data": value})])
            self.assertEqual(self.connector.calls[-1], ('A "1"', "setGpio", {"pin": number}))

    def test_error_that_says_more(self):
        """A connector's error may be an object, which then stands in the place of its text."""
        self.connector.answer = lambda: fail(CommandFailed("Offline: away", answer={"type": "Offline"}))
        self.command()
        self.assertEqual(self.sent(), [(topics.RPC, {"device": "A", "id": 1, "data": {"error": {"type": "Offline"}}})])

    def test_s17_every_failure_is_answered(self):
        """S-17: unknown devices, connectors that are gone, refusals and exceptions are answered, once, in words."""

        def broken() -> Any:
            raise RuntimeError("secret detail")

        for device, answer, words in (
            ("nobody", None, "not known here"),
            ("lost", None, "connector is gone"),
            ("A", lambda: fail(CommandFailed("time-out: no answer")), "time-out: no answer"),
            ("A", broken, "internal error"),
            ("A", lambda: fail(KeyError("x")), "internal error"),
            ("A", lambda: succeed({1, 2}), "no JSON value"),
            ("A", lambda: succeed(float("nan")), "no JSON value"),
            ("A", lambda: succeed("x" * 70_000), "is longer than"),
        ):
            if answer is not None:
                self.connector.answer = answer
            self.command(5, device)
            ((topic, content),) = self.sent()
            self.assertEqual((topic, content["device"], content["id"]), (topics.RPC, device, 5))
            self.assertIn(words, content["data"]["error"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError, KeyError)), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_repeated_command(self):
        """A command that comes again while it runs is carried out once and answered once; later it is a new one."""
        running: Deferred[Any] = Deferred()
        self.connector.answer = lambda: running
        self.command(3)
        self.command(3)
        self.assertEqual(len(self.connector.calls), 1)
        running.callback("done")
        self.assertEqual([content["data"] for _, content in self.sent()], ["done"])
        self.connector.answer = lambda: succeed("again")
        self.command(3)
        self.assertEqual([content["data"] for _, content in self.sent()], ["again"])

    def test_same_number_for_two_devices_and_for_another_method(self):
        """Numbers are each device's own; after a restart of ThingsBoard one comes again with another command."""
        waiting: list[Deferred[Any]] = []

        def wait() -> Deferred[Any]:
            waiting.append(Deferred())
            return waiting[-1]

        self.connector.answer = wait
        self.command(0, "A")
        self.command(0, "B")
        self.command(0, "A", "other")
        self.assertEqual(len(self.connector.calls), 3)
        waiting[2].callback("other's")
        waiting[1].callback("B's")
        self.assertEqual(
            [(content["device"], content["data"]) for _, content in self.sent()], [("A", "other's"), ("B", "B's")]
        )

    def test_same_number_and_method_with_other_parameters(self):
        """After a restart of ThingsBoard a number may come again while the first still runs: it is another command."""
        waiting: list[Deferred[Any]] = []

        def wait() -> Deferred[Any]:
            waiting.append(Deferred())
            return waiting[-1]

        self.connector.answer = wait
        self.command(0, "A", "set", 1)
        self.uplink.down()
        self.uplink.up()
        self.command(0, "A", "set", 2)
        self.assertEqual(self.connector.calls, [("A", "set", 1), ("A", "set", 2)])
        waiting[1].callback("two")
        self.assertEqual([content["data"] for _, content in self.sent()], ["two"])

    def test_command_without_end(self):
        """What a connector never ends is ended here, and cancelled there."""
        ends: list[str] = []
        running: Deferred[Any] = Deferred(lambda _: ends.append("cancelled"))
        self.connector.answer = lambda: running
        self.command()
        self.clock.advance(COMMAND_SECONDS - 1)
        self.assertEqual(self.sent(), [])
        self.clock.advance(1)
        self.assertEqual([content["data"] for _, content in self.sent()], [{"error": "time-out"}])
        self.assertEqual(ends, ["cancelled"])
        self.failureResultOf(running, CancelledError) if not running.called else None

    def test_too_many_commands(self):
        """Beyond the bound a command is refused at once, and the others are not disturbed."""
        self.connector.answer = Deferred
        for number in range(MAX_RUNNING + 1):
            self.command(number)
        ((_, content),) = self.sent()
        self.assertEqual(content["id"], MAX_RUNNING)
        self.assertIn("refused", content["data"]["error"])

    def test_answer_belongs_to_its_session(self):
        """An answer whose session is over is dropped and counted; one that was asked for again is not."""
        waiting: list[Deferred[Any]] = []

        def wait() -> Deferred[Any]:
            waiting.append(Deferred())
            return waiting[-1]

        self.connector.answer = wait
        self.command(1)
        self.command(2)
        self.uplink.down()
        self.uplink.up()
        self.command(2)
        waiting[0].callback("late")
        waiting[1].callback("asked again")
        self.assertEqual([content["data"] for _, content in self.sent()], ["asked again"])
        self.assertEqual(self.counters.total("answers_dropped"), 1)
        self.assertEqual(len(self.connector.calls), 2)

    def test_answered_before_and_asked_again(self):
        """A command that was answered and comes again with the next session gets the same answer, and is not repeated;
        later in the session the number is another command's."""
        self.command(4, params={"x": 1})
        self.assertEqual([content["data"] for _, content in self.sent()], ["ok"])
        self.uplink.down()
        self.connector.answer = lambda: succeed("again")
        self.command(4, params={"x": 1})  # before the session is ready
        self.uplink.up()
        self.command(4, params={"x": 1})
        self.assertEqual([content["data"] for _, content in self.sent()], ["ok", "ok"])
        self.assertEqual(len(self.connector.calls), 1)
        self.command(4, params={"x": 2})
        self.command(4, method="other")
        self.assertEqual([content["data"] for _, content in self.sent()], ["again", "again"])
        self.clock.advance(REPEAT_SECONDS)
        self.command(4, params={"x": 1})
        self.assertEqual(len(self.connector.calls), 4)

    def test_answer_of_which_the_session_is_over_is_given_later(self):
        """The answer came when nobody could hear it: whoever asks again hears it, and the device does it once."""
        running: Deferred[Any] = Deferred()
        self.connector.answer = lambda: running
        self.command(1)
        self.uplink.down()
        running.callback("done")
        self.uplink.up()
        self.command(1)
        self.assertEqual([content["data"] for _, content in self.sent()], ["done"])
        self.assertEqual(len(self.connector.calls), 1)

    def test_command_before_the_session_is_ready(self):
        """ThingsBoard sends what waits as soon as that is subscribed to; the answer waits for the session."""
        self.uplink.down()
        self.command(1)
        self.assertEqual(self.uplink.sent, [])
        self.uplink.up()
        self.assertEqual([content["data"] for _, content in self.sent()], ["ok"])

    def test_remembered_answers_are_bounded(self):
        """However many and long the answers are, what is remembered of them keeps to its bounds."""
        self.connector.answer = lambda: succeed("x" * 40_000)
        for number in range(100):
            self.command(number)
            self.uplink.acknowledge_all()
        self.assertLessEqual(self.downlink._answered_bytes, MAX_REMEMBERED_BYTES)
        self.assertEqual(
            self.downlink._answered_bytes,
            sum(len(answered.payload) for answered in self.downlink._answered_before.values()),
        )
        self.connector.answer = lambda: succeed(1)
        for number in range(MAX_REMEMBERED + 100):
            self.command(number, "B")
            self.uplink.acknowledge_all()
        self.assertEqual(len(self.downlink._answered_before), MAX_REMEMBERED)

    def test_own_commands(self):
        """`gateway_...` is the gateway's, also where a connector is of that type; its code stands beside the error."""
        asked: list[Any] = []

        def own(method: str, params: Any) -> Deferred[Any]:
            asked.append((method, params))
            return fail(CommandFailed("no", 403)) if method == "gateway_x" else succeed({"code": 200})

        self.downlink.set_own_commands(own)
        self.downlink.set_connectors([self.connector, FakeConnector("Odd", "gateway")])
        for method, answer in (("gateway_ping", {"code": 200}), ("gateway_x", {"error": "no", "code": 403})):
            content = payloads.encode({"method": method, "params": {"a": 1}})
            self.assertEqual(self.answers(topics.DEVICE_RPC_REQUEST + "7", content)[0][1], answer)
        self.assertEqual(asked, [("gateway_ping", {"a": 1}), ("gateway_x", {"a": 1})])

    def test_answers_wait_for_room(self):
        """Not more than a few publishes are without PUBACK; the others follow, in order, none is lost."""
        for number in range(MAX_UNACKNOWLEDGED + 10):
            self.command(number)
        self.assertEqual(len(self.uplink.sent), MAX_UNACKNOWLEDGED)
        self.uplink.acknowledge_all()
        self.assertEqual([content["id"] for _, content in self.sent()], list(range(MAX_UNACKNOWLEDGED + 10)))

    def test_waiting_answers_end_with_the_session(self):
        """What waits for room when the session ends is dropped and counted; the next session begins with all room."""
        for number in range(MAX_UNACKNOWLEDGED + 10):
            self.command(number)
        self.uplink.down()
        self.assertEqual(self.counters.total("answers_dropped"), 10)
        self.uplink.sent.clear()
        self.uplink.up()
        self.command(1000)
        self.assertEqual([content["id"] for _, content in self.sent()], [1000])

    def test_command_for_the_gateway(self):
        """`socket_set` goes to the socket connectors as `set`, the first that knows the device has it."""
        other, station = FakeConnector("Other"), FakeConnector("Station", "ocpp")
        self.downlink.set_connectors([self.connector, other, station])
        self.connector.answer = lambda: fail(UnknownDevice("not mine"))
        answers = self.answers(topics.DEVICE_RPC_REQUEST + "42", b'{"method":"socket_set","params":"device=B"}')
        self.assertEqual(answers, [(topics.DEVICE_RPC_RESPONSE + "42", "ok")])
        self.assertEqual((other.calls, station.calls), ([("", "set", "device=B")], []))
        other.answer = self.connector.answer
        ((_, content),) = self.answers(topics.DEVICE_RPC_REQUEST + "43", b'{"method":"socket_set"}')
        self.assertEqual(content, {"error": "not mine"})

    def test_other_commands_for_the_gateway(self):
        """What nobody has is answered with the named error on the topic of its number."""
        for method in ("reboot", "socket_", "modbus_set", "gateway_ping", ""):
            content = payloads.encode({"method": method, "params": {}})
            ((topic, answer),) = self.answers(topics.DEVICE_RPC_REQUEST + "7", content)
            self.assertEqual(topic, topics.DEVICE_RPC_RESPONSE + "7")
            self.assertEqual(answer, {"error": answer["error"], "code": 404})
        self.assertEqual(self.connector.calls, [])

    def test_attribute_update(self):
        """Updates and deletions go to the device's connector; those of nobody are counted."""
        for content in (
            {"device": "A", "data": {"tare": 0.35, "deleted": 5}},
            {"device": "A", "data": {"deleted": ["x", "y", 3]}},
            {"device": "nobody", "data": {"a": 1}},
        ):
            self.assertEqual(self.answers(topics.ATTRIBUTES, payloads.encode(content)), [])
        self.assertEqual(
            self.connector.calls,
            [("attributes", "A", {"tare": 0.35, "deleted": 5}, []), ("attributes", "A", {}, ["x", "y"])],
        )
        self.assertEqual(self.counters.total("attribute_updates_ignored"), 1)

    def test_echoes(self):
        """What a plain broker sends back of our own is not answered and reaches no device."""
        for topic, payload in (
            (topics.RPC, b'{"device":"A","data":{"id":1,"method":"m"}}'),
            (topics.DEVICE_RPC_REQUEST + "7", b'{"method":"m"}'),
        ):
            ((back_topic, answer),) = self.answers(topic, payload)
            self.assertEqual(self.answers(back_topic, payloads.encode(answer)), [])
        self.connector.answer = lambda: succeed({"id": 1, "method": "m"})
        ((back_topic, answer),) = self.answers(topics.RPC, b'{"device":"A","data":{"id":1,"method":"m"}}')
        self.assertEqual(self.answers(back_topic, payloads.encode(answer)), [])
        self.assertEqual(self.answers(topics.ATTRIBUTES, b'{"A":{"head":"T"}}'), [])
        self.assertEqual(len(self.connector.calls), 2)

    def test_rubbish(self):
        """What is no command is not answered, counted, and raises nothing."""
        rubbish = [b"", b"{", b"[]", b"null", b"5", b"\xff", b"[" * 100_000]
        rubbish += [b'{"device":"A"}', b'{"device":"A","data":[]}']
        rubbish += [b'{"device":5,"data":{"id":1,"method":"m"}}', b'{"data":{"id":1,"method":"m"}}']
        rubbish += [b'{"device":"A","data":{"method":"m"}}', b'{"device":"A","data":{"id":1}}']
        rubbish += [b'{"device":"A","data":{"id":NaN,"method":"m"}}', b'{"device":"A","data":{"id":true,"method":"m"}}']
        for payload in rubbish:
            for topic in (topics.RPC, topics.DEVICE_RPC_REQUEST + "1", topics.ATTRIBUTES_RESPONSE):
                self.assertEqual(self.answers(topic, payload), [], payload[:60])
        self.assertEqual(self.counters.total("downlink_ignored"), 3 * len(rubbish))

    def test_other_topics(self):
        """What nobody has a use for is ignored and counted as one kind, whatever the topic."""
        for topic in (topics.DEVICE_RPC_REQUEST + "x", topics.DEVICE_RPC_RESPONSE + "1", "", "a/b"):
            self.assertEqual(self.answers(topic, b'{"method":"m","device":"A","data":{"id":1,"method":"m"}}'), [])
        self.assertEqual(self.counters.snapshot(), {"downlink_ignored": 4})

    @settings(max_examples=150, deadline=None)
    @given(
        st.sampled_from([topics.RPC, topics.DEVICE_RPC_REQUEST + "5", topics.ATTRIBUTES, topics.ATTRIBUTES_RESPONSE]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["A", "socket_x", "m"]),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["device", "data", "id", "method", "params"]), inner, max_size=5)
            ),
            max_leaves=8,
        ),
    )
    def test_never_raises(self, topic, content):
        """Whatever JSON comes in, at most one answer goes out, and it is JSON."""
        self.assertLessEqual(len(self.answers(topic, json.dumps(content).encode())), 1)


class QuestionTests(DownlinkCase):
    """`Downlink.request_attributes`."""

    device = Device("A", "pump", "Line", "socket")

    def ask(self, *keys: str, scope: Any = "shared") -> tuple[Deferred[dict[str, Any]], Any]:
        answer = self.downlink.request_attributes(self.device, scope, keys)
        asked = [content for topic, content in self.sent() if topic == topics.ATTRIBUTES_REQUEST]
        return answer, asked[0] if asked else None

    def reply(self, **content: Any) -> None:
        self.downlink.message_received(topics.ATTRIBUTES_RESPONSE, payloads.encode({"device": "A", **content}))

    def test_rpc(self) -> None:
        """A device's RPC goes out as the gateway's own, and names the device in the parameters."""
        asked: list[Any] = []

        class Own:
            def rpc(self, method: str, params: Any) -> Deferred[Any]:
                asked.append((method, params))
                return succeed(7)

        own: Any = Own()
        downlink = Downlink(
            self.uplink.publish, Events(self.counters, lambda: 0.0), self.clock, self.places.get, own_device=own
        )
        self.assertEqual(self.successResultOf(downlink.rpc(Device("A"), "getTime", [1])), 7)
        self.assertEqual(asked, [("getTime", {"device": "A", "params": [1]})])
        self.failureResultOf(self.downlink.rpc(Device("A"), "getTime", None), NoAnswer)

    def test_claim(self) -> None:
        """A device is introduced, then opened; a refusal, the end of the session and too many others fail it."""
        done = self.downlink.claim(Device("A", "thermo"), "s", 60_000)
        self.assertEqual(
            self.sent(),
            [
                (topics.CONNECT, {"device": "A", "type": "thermo"}),
                (topics.CLAIM, {"A": {"secretKey": "s", "durationMs": 60_000}}),
            ],
        )
        self.successResultOf(done)
        refused = self.downlink.claim(Device("A"))
        self.assertEqual([json.loads(sent.payload) for sent in self.uplink.waiting], [{"A": {}}])
        self.uplink.acknowledge(code=0x99)
        self.failureResultOf(refused, NoAnswer)
        waiting = [self.downlink.claim(Device("A")) for _ in range(MAX_UNACKNOWLEDGED)]
        self.failureResultOf(self.downlink.claim(Device("A")), NoAnswer)
        self.failureResultOf(self.downlink.claim(Device("")), NoAnswer)
        self.uplink.down()
        for one in waiting:
            self.failureResultOf(one, LinkDown)
        self.failureResultOf(self.downlink.claim(Device("A")), LinkDown)

    def test_question(self):
        """One name is asked for as `key`, several as `keys`, once each, in the scope that is asked for."""
        _, one = self.ask("a", "a")
        _, two = self.ask("a", "b", scope="client")
        self.assertEqual(one, {"id": one["id"], "device": "A", "client": False, "key": "a"})
        self.assertEqual(two, {"id": two["id"], "device": "A", "client": True, "keys": ["a", "b"]})
        self.assertNotEqual(one["id"], two["id"])

    def test_device_is_introduced_first(self):
        """In each session the first question of a device is preceded by its name and profile."""
        for _ in range(2):
            self.downlink.request_attributes(self.device, "shared", ["a"]).addErrback(lambda _: None)
            self.downlink.request_attributes(self.device, "shared", ["a"]).addErrback(lambda _: None)
            sent = self.sent()
            self.assertEqual(sent[0], (topics.CONNECT, {"device": "A", "type": "pump"}))
            self.assertEqual([topic for topic, _ in sent[1:]], [topics.ATTRIBUTES_REQUEST] * 2)
            self.uplink.down()
            self.uplink.up()

    def test_every_shape_of_answer(self):
        """All three shapes of servers are read; what is not found is absent; falsy values are values."""
        for keys, shape, expected in (
            (("a",), {"value": 0}, {"a": 0}),
            (("a",), {"value": None}, {"a": None}),
            (("a",), {}, {}),
            (("a",), {"values": {"a": False, "c": 1}}, {"a": False}),
            (("a", "b"), {"values": {"b": ""}}, {"b": ""}),
            (("a", "b"), {"shared": {"a": 1}, "client": {"b": 2}}, {"a": 1}),
            (("a", "b"), {"value": 5}, {}),
        ):
            answer, asked = self.ask(*keys)
            self.reply(id=asked["id"], **shape)
            self.assertEqual(self.successResultOf(answer), expected, shape)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_names(self):
        """A question without names would be answered with all there is, so it is not put."""
        answer, asked = self.ask()
        self.assertEqual((self.successResultOf(answer), asked), ({}, None))

    def test_no_answer(self):
        """No answer in time fails the question; one that comes later, or is another device's, is ignored."""
        answer, asked = self.ask("a")
        self.downlink.message_received(
            topics.ATTRIBUTES_RESPONSE, payloads.encode({"id": asked["id"], "device": "B", "value": 1})
        )
        self.assertNoResult(answer)
        self.clock.advance(REQUEST_SECONDS)
        self.failureResultOf(answer, NoAnswer)
        self.reply(id=asked["id"], value=1)
        self.assertEqual(self.counters.total("downlink_ignored"), 2)

    def test_link_down(self):
        """A question fails with its session, and at once when there is none."""
        answer, _ = self.ask("a")
        self.uplink.down()
        self.failureResultOf(answer, LinkDown)
        self.failureResultOf(self.downlink.request_attributes(self.device, "shared", ["a"]), LinkDown)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.uplink.up()

    def test_cancelled(self):
        """Who does not want to know any more leaves nothing behind."""
        answer, asked = self.ask("a")
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        self.reply(id=asked["id"], value=1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_payload_limit(self):
        """A question that the server would refuse, and close the session for, is not put."""
        self.uplink.down()
        self.uplink.up(SessionLimits(max_payload_bytes=200))
        self.failureResultOf(self.downlink.request_attributes(self.device, "shared", ["x" * 300]), NoAnswer)
        self.assertEqual(self.sent(), [])
