"""The frames of OCPP-J: what is a message, what is a fault, and which faults have an answer in which version."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.ocpp.messages import (
    MAX_DEPTH,
    Call,
    Error,
    Fault,
    Result,
    ResultError,
    Send,
    call_text,
    error_code,
    error_text,
    parse,
    payload_text,
    result_text,
)
from tbgw.ocpp.versions import Version

V16, V201, V21 = Version.V16, Version.V201, Version.V21


def fault(text: str, version: Version = V201, strict: bool = False) -> Fault:
    parsed = parse(text, version, strict)
    assert isinstance(parsed, Fault), parsed
    return parsed


def answer(text: str, version: Version = V201, strict: bool = False) -> Any:
    said = fault(text, version, strict).answer
    return None if said is None else json.loads(said)[:3]


class ShapeTests(SynchronousTestCase):
    """The five types."""

    def test_each_type(self) -> None:
        """Each type of message is read with what it bears, in 2.1, which has them all."""
        for text, message in (
            ('[2,"a","Heartbeat",{}]', Call("a", "Heartbeat", {})),
            ('[3,"a",{"x":1}]', Result("a", {"x": 1})),
            ('[4,"a","InternalError","d",{"x":1}]', Error("a", "InternalError", "d", {"x": 1})),
            ('[5,"a","FormatViolation","d",{}]', ResultError("a", "FormatViolation", "d", {})),
            ('[6,"a","NotifyPeriodicEventStream",{}]', Send("a", "NotifyPeriodicEventStream", {})),
        ):
            self.assertEqual(parse(text, V21), message)

    def test_empty_payload(self) -> None:
        """A payload that is null or missing counts as empty, in a CALL and in a result; strict mode refuses both."""
        for text in ('[2,"a","Heartbeat"]', '[2,"a","Heartbeat",null]'):
            self.assertEqual(parse(text, V16), Call("a", "Heartbeat", {}))
            self.assertIsNotNone(fault(text, V16, strict=True).answer)
        for text in ('[3,"a"]', '[3,"a",null]'):
            self.assertEqual(parse(text, V16), Result("a", {}))
            self.assertEqual(fault(text, V16, strict=True).call_id, "a")

    def test_error_without_details(self) -> None:
        """An error counts even when its description and details are missing or of another type."""
        for text in ('[4,"a","GenericError"]', '[4,"a","GenericError",null,null]', '[4,"a","GenericError",7,[]]'):
            self.assertEqual(parse(text, V16), Error("a", "GenericError", "", {}))

    def test_ids(self) -> None:
        """An id has at most 36 characters; outside strict mode longer ones and numbers are given back as they came."""
        for id_, lenient, strict in (
            ("x" * 36, True, True),
            ("", True, True),
            ("x" * 37, True, False),
            ("x" * 255, True, False),
            ("x" * 256, False, False),
            (7, True, False),
            (10**30, False, False),
            (True, False, False),
            (1.5, False, False),
            (None, False, False),
            ([], False, False),
        ):
            text = json.dumps([2, id_, "Heartbeat", {}])
            self.assertEqual(isinstance(parse(text, V201), Call), lenient, id_)
            self.assertEqual(isinstance(parse(text, V201, True), Call), strict, id_)
        self.assertEqual(result_text(7, "{}"), "[3,7,{}]")

    def test_elements_too_many(self) -> None:
        """Further elements are ignored, in strict mode refused."""
        self.assertIsInstance(parse('[2,"a","Heartbeat",{},1]', V16), Call)
        self.assertEqual(answer('[2,"a","Heartbeat",{},1]', V16, True), [4, "a", "FormationViolation"])


class FaultTests(SynchronousTestCase):
    """What is no message."""

    def test_unreadable(self) -> None:
        """What cannot be read is answered with the id "-1" in 2.x, and not at all in 1.6, which defines nothing."""
        for text in (
            "",
            "{",
            "{}",
            "7",
            '"x"',
            "null",
            "[]",
            '["2","a","b",{}]',
            "[null]",
            "[2]",
            '[2,null,"a",{}]',
            "[2.0,1]",
        ):
            self.assertIsNone(answer(text, V16), text)
            for version in (V201, V21):
                self.assertEqual(answer(text, version), [4, "-1", "RpcFrameworkError"], text)

    def test_no_echo(self) -> None:
        """Nothing that the peer wrote is in the answer."""
        said = fault('[2,"a", secret').answer
        assert said is not None
        self.assertNotIn("secret", said)

    def test_readable_id(self) -> None:
        """A CALL whose id can be read is answered under that id, with the code as the version spells it."""
        self.assertEqual(answer('[2,"a"]', V16), [4, "a", "ProtocolError"])
        self.assertEqual(answer('[2,"a",7,{}]', V16), [4, "a", "FormationViolation"])
        self.assertEqual(answer('[2,"a",7,{}]', V201), [4, "a", "FormatViolation"])
        self.assertEqual(answer('[2,"a","Heartbeat",[]]', V16), [4, "a", "FormationViolation"])
        self.assertEqual(answer('[2,"a","Heartbeat","{}"]', V21), [4, "a", "FormatViolation"])

    def test_unknown_type(self) -> None:
        """2.0.1 answers a type that it does not have, 1.6 and 2.1 ignore it; SEND is unknown before 2.1."""
        for text in ('[9,"a","X",{}]', '[-1,"a"]', '[1,"a"]'):
            self.assertIsNone(answer(text, V16))
            self.assertEqual(answer(text, V201), [4, "a", "MessageTypeNotSupported"])
            self.assertIsNone(answer(text, V21))
        self.assertIsNone(answer('[6,"a","X",{}]', V16))
        self.assertEqual(answer('[6,"a","X",{}]', V201), [4, "a", "MessageTypeNotSupported"])

    def test_answers_are_not_answered(self) -> None:
        """A broken answer never gets one; the Call that it was for is named."""
        for text in ('[3,"a",[]]', '[3,"a",7]', '[4,"a",7]'):
            for version in Version:
                self.assertIsNone(answer(text, version), text)
                self.assertEqual(fault(text, version).call_id, "a")
        for text in ("[3]", "[4,null]", "[5]", "[6]", '[6,"a",7,{}]', '[6,"a","X",7]'):
            self.assertIsNone(answer(text, V21), text)

    def test_numbers(self) -> None:
        """Numbers that JSON does not have, or that a double cannot hold, make a message unreadable."""
        for number in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999"):
            self.assertEqual(answer(f'[2,"a","X",{{"v":{number}}}]'), [4, "-1", "RpcFrameworkError"])
        self.assertEqual(parse('[2,"a","X",{"v":1e3}]', V16), Call("a", "X", {"v": 1000.0}))
        self.assertEqual(answer('[2,"a","X",{"v":' + "9" * 5000 + "}]"), [4, "-1", "RpcFrameworkError"])

    def test_depth(self) -> None:
        """A message may be nested so deep and no deeper; absurd depths are refused like any other."""
        for depth, good in ((MAX_DEPTH - 2, True), (MAX_DEPTH, False), (900, False), (100_000, False)):
            text = '[2,"a","X",' + '{"a":' * depth + "1" + "}" * depth + "]"
            self.assertEqual(isinstance(parse(text, V201), Call), good, depth)
        wide = '[2,"a","X",{"v":[' + ",".join(["[]"] * 5000) + "]}]"
        self.assertIsInstance(parse(wide, V201), Call)

    def test_half_pairs(self) -> None:
        """Half a surrogate pair becomes U+FFFD, in values, keys, ids and actions; whole pairs stay."""
        call = parse(r'[2,"\ud800","A\udfff",{"k\ud83d":["\ud83d\ude00","é\uDC00"]}]', V16)
        self.assertEqual(call, Call("�", "A�", {"k�": ["😀", "é�"]}))


class CodeTests(SynchronousTestCase):
    """The spelling of error codes."""

    def test_by_version(self) -> None:
        """Either spelling becomes that of the version, an unknown code GenericError."""
        for code, in_16, in_2 in (
            ("FormatViolation", "FormationViolation", "FormatViolation"),
            ("FormationViolation", "FormationViolation", "FormatViolation"),
            ("OccurrenceConstraintViolation", "OccurenceConstraintViolation", "OccurrenceConstraintViolation"),
            ("OccurenceConstraintViolation", "OccurenceConstraintViolation", "OccurrenceConstraintViolation"),
            ("RpcFrameworkError", "GenericError", "RpcFrameworkError"),
            ("MessageTypeNotSupported", "GenericError", "MessageTypeNotSupported"),
            ("NotImplemented", "NotImplemented", "NotImplemented"),
            ("Nonsense", "GenericError", "GenericError"),
        ):
            self.assertEqual(error_code(V16, code), in_16)
            self.assertEqual(error_code(V201, code), in_2)
            self.assertEqual(error_code(V21, code), in_2)

    def test_received(self) -> None:
        """Codes of 1.6 come in with the spelling of 2.x, so that nobody needs to know both."""
        self.assertEqual(parse('[4,"a","OccurenceConstraintViolation","",{}]', V16)[1], "OccurrenceConstraintViolation")

    def test_description(self) -> None:
        """A description is cut to the 255 characters of the standard."""
        self.assertEqual(len(json.loads(error_text(V201, "a", "InternalError", "é" * 300))[3]), 255)

    def test_encoding(self) -> None:
        """What JSON cannot hold is refused; texts leave as ASCII, so no half pair can break a frame."""
        for payload in ({"v": float("nan")}, {"v": object()}, {"v": {1, 2}}):
            with self.assertRaises((ValueError, TypeError)):
                call_text("a", "X", payload)
        self.assertEqual(payload_text({}), "{}")
        self.assertTrue(call_text("a", "X", {"v": "\ud800é"}).isascii())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class FuzzTests(SynchronousTestCase):
    """Whatever comes, a message or a fault comes out."""

    @settings(max_examples=400, deadline=None)
    @given(
        st.text(alphabet=st.characters(codec=None)) | st.text(alphabet='[]{},:"\\u0dD289e+-.23456 '),
        st.sampled_from(list(Version)),
        st.booleans(),
    )
    def test_text(self, text: str, version: Version, strict: bool) -> None:
        """Any text gives a message or a fault, and every answer is JSON."""
        self.check(text, version, strict)

    @settings(max_examples=600, deadline=None)
    @given(st.lists(st.integers(-1, 7) | JSON, max_size=6), st.sampled_from(list(Version)), st.booleans())
    def test_values(self, value: list[Any], version: Version, strict: bool) -> None:
        """Any JSON list does, and what is a message can be stored as UTF-8."""
        self.check(json.dumps(value), version, strict)

    def check(self, text: str, version: Version, strict: bool) -> None:
        parsed = parse(text, version, strict)
        if isinstance(parsed, Fault):
            if parsed.answer is not None:
                self.assertEqual(json.loads(parsed.answer)[0], 4)
                parsed.answer.encode()
        else:
            json.dumps(parsed, ensure_ascii=False, allow_nan=False).encode()
