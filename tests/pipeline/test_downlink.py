"""What ThingsBoard sends down: every command is answered once, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tbgw.interfaces import IUplinkListener
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.pipeline.downlink import Downlink
from tbgw.thingsboard import payloads, topics
from tests.fakes import FakeUplink


@implementer(IUplinkListener)
class Listener:
    """Nobody: the uplink has to have a listener."""

    def link_up(self, limits: object) -> None: ...

    def link_down(self) -> None: ...

    def message_received(self, topic: str, payload: bytes) -> None: ...


class DownlinkTests(SynchronousTestCase):
    """`Downlink`."""

    def setUp(self) -> None:
        self.counters = Counters()
        self.uplink = FakeUplink()
        self.uplink.set_listener(Listener())
        self.uplink.up()
        self.downlink = Downlink(self.uplink.publish, Events(self.counters, lambda: 0.0))

    def answers(self, topic: str, payload: bytes) -> list[tuple[str, Any]]:
        """(topic, content) of what is published in answer."""
        before = len(self.uplink.sent)
        self.downlink.message_received(topic, payload)
        new = self.uplink.sent[before:]
        for sent in new:
            self.uplink.acknowledge(sent)
        return [(sent.topic, json.loads(sent.payload)) for sent in new]

    def test_command_for_a_device(self):
        """A command for a child is answered to (device, id), whatever its parameters."""
        parameters: list[Any] = [None, {"a": 1}, [], "x", 5]
        for number, params in enumerate(parameters):
            command = {"device": 'A "1"', "data": {"id": number, "method": "setGpio", "params": params}}
            ((topic, answer),) = self.answers(topics.RPC, payloads.encode(command))
            self.assertEqual(topic, topics.RPC)
            self.assertEqual((answer["device"], answer["id"]), ('A "1"', number))
            self.assertIn("error", answer["data"])
        self.assertEqual(self.counters.total("commands_refused"), 5)

    def test_command_for_the_gateway(self):
        """A command for the gateway itself is answered on the topic of its number."""
        ((topic, answer),) = self.answers(topics.DEVICE_RPC_REQUEST + "42", b'{"method":"reboot","params":{}}')
        self.assertEqual(topic, topics.DEVICE_RPC_RESPONSE + "42")
        self.assertIn("error", answer)

    def test_same_command_twice(self):
        """A command that ThingsBoard sends again is answered again: the first answer may be lost."""
        command = b'{"device":"A","data":{"id":1,"method":"m"}}'
        self.assertEqual(len(self.answers(topics.RPC, command)) + len(self.answers(topics.RPC, command)), 2)

    def test_echoes(self):
        """What a plain broker sends back of our own answers is not answered: there would be no end."""
        for topic, payload in (
            (topics.RPC, b'{"device":"A","data":{"id":1,"method":"m"}}'),
            (topics.DEVICE_RPC_REQUEST + "7", b'{"method":"m"}'),
        ):
            ((back_topic, answer),) = self.answers(topic, payload)
            self.assertEqual(self.answers(back_topic, payloads.encode(answer)), [])

    def test_rubbish(self):
        """What is no command is not answered, counted, and raises nothing."""
        rubbish = [
            b"",
            b"{",
            b"[]",
            b"null",
            b"5",
            b"\xff",
            b"[" * 100_000,
            b'{"device":"A"}',
            b'{"device":"A","data":[]}',
        ]
        rubbish += [b'{"device":5,"data":{"id":1,"method":"m"}}', b'{"data":{"id":1,"method":"m"}}']
        rubbish += [b'{"device":"A","data":{"method":"m"}}', b'{"device":"A","data":{"id":1}}']
        rubbish += [
            b'{"device":"A","data":{"id":NaN,"method":"m"}}',
            b'{"device":"A","data":{"id":1e999,"method":"m"}}',
        ]
        rubbish += [b'{"device":"A","data":{"id":1,"method":' + b"[" * 900 + b"]" * 900 + b"}}"]
        rubbish += [b'{"device":"A","data":{"id":' + b"[" * 900 + b"]" * 900 + b',"method":"m"}}']
        for payload in rubbish:
            self.assertEqual(self.answers(topics.RPC, payload), [], payload[:60])
            self.assertEqual(self.answers(topics.DEVICE_RPC_REQUEST + "1", payload), [], payload[:60])
        self.assertEqual(self.counters.total("downlink_ignored"), 2 * len(rubbish))

    def test_other_topics(self):
        """What nobody has a use for is ignored and counted as one kind, whatever the topic."""
        for topic in (topics.ATTRIBUTES, topics.DEVICE_RPC_REQUEST + "x", topics.DEVICE_RPC_RESPONSE + "1", "", "a/b"):
            self.assertEqual(self.answers(topic, b'{"method":"m","device":"A","data":{"id":1,"method":"m"}}'), [])
        self.assertEqual(self.counters.snapshot(), {"downlink_ignored": 5})

    def test_session_ends_before_the_answer(self):
        """An answer whose session ends, or has ended, is given up without a fuss."""
        self.downlink.message_received(topics.RPC, b'{"device":"A","data":{"id":1,"method":"m"}}')
        self.uplink.down()
        self.downlink.message_received(topics.RPC, b'{"device":"A","data":{"id":2,"method":"m"}}')
        self.assertEqual(len(self.uplink.sent), 1)

    @settings(max_examples=150, deadline=None)
    @given(
        st.sampled_from([topics.RPC, topics.DEVICE_RPC_REQUEST + "5"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
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
