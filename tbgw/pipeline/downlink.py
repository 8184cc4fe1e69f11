# -*- test-case-name: tests.pipeline.test_downlink -*-
"""What ThingsBoard sends down, to the connector that has the device; and what devices ask of ThingsBoard.

Invariants:

* Every command is answered exactly once: with the connector's value, or with `{"error": ...}` in words, whatever
  becomes of the device (the reference leaves unknown methods and devices, and exceptions, without an answer, S-17). The
  one exception is an answer whose session is over: ThingsBoard sends what it still waits for again in the next.
* A command that comes again while it is being carried out (ThingsBoard sends all pending ones again at every
  subscription) is not carried out twice. When it comes again in a later session, its answer belongs to that one. One
  that was answered in an earlier session and comes again at the beginning of the next gets the same answer, and is not
  carried out again. Later in a session a number that was used before is a new command: ThingsBoard counts from 0 again
  when it is started anew.
* Commands come as soon as the session is subscribed, which is before `link_up`: their answers wait for that.
* Connectors know a device by their own name for it, ThingsBoard by the one that it has there; here they are translated.
* What runs, what waits for an answer and what waits to be sent are bounded; so is the time of each.
* A plain broker in ThingsBoard's place echoes what we publish on these topics; an echo has another shape than what
  ThingsBoard sends, and is let go.

Answers go out at QoS 1 beside the forwarder's window, at most `MAX_UNACKNOWLEDGED` at a time.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.errors import CommandFailed, LinkDown, NoAnswer, UnknownDevice
from tbgw.interfaces import IConnector, IDownlink, IOwnDevice, IUplinkListener
from tbgw.internal_events import Events
from tbgw.model import Device, SessionLimits, Value
from tbgw.pipeline.internal_events import (
    AnswerDropped,
    CommandRefused,
    CommandRepeated,
    MessageIgnored,
    UpdateUndeliverable,
)
from tbgw.thingsboard import payloads, topics

MAX_RUNNING = 1000
"""Commands that are carried out at one time; more are answered with an error at once."""

COMMAND_SECONDS = 120.0
"""Longest time for one command, whatever its connector says: nothing may stay without an answer for ever."""

REQUEST_SECONDS = 10.0
"""How long ThingsBoard may take to answer a question for attributes."""

MAX_REQUESTS = 1000
"""Questions that may be open at one time."""

MAX_UNACKNOWLEDGED = 50
"""Publishes of this room that may be without PUBACK: a part of the reserve that the uplink has beyond the forwarder."""

MAX_WAITING = 2000
"""Publishes that may wait for their turn."""

REPEAT_SECONDS = 30.0
"""For so long after the begin of a session a command may be one that ThingsBoard sends once more."""

MAX_REMEMBERED = 1000
"""Answers that are remembered for that."""

MAX_REMEMBERED_BYTES = 1024 * 1024
"""Bytes of them."""

GATEWAY_PREFIX = "gateway_"
"""What a method begins with that is for the gateway, and for no connector."""


class Names(Protocol):
    """How connectors and ThingsBoard call the same device; the registry knows."""

    def original(self, name: str) -> str:
        """ThingsBoard's name to the connector's."""

    def name_of(self, original: str) -> str:
        """The connector's name to ThingsBoard's."""


class _SameNames:
    """Nothing was ever renamed."""

    def original(self, name: str) -> str:
        return name

    def name_of(self, original: str) -> str:
        return original


SAME_NAMES = _SameNames()


@dataclass(slots=True)
class _Running:
    """One command that is being carried out."""

    session: int
    topic: str
    device: str
    """Empty: the gateway itself."""
    number: int
    method: str
    params: bytes
    """A digest of them."""
    work: Deferred[Value] | None = None
    timer: IDelayedCall | None = None


@dataclass(slots=True)
class _Answered:
    """An answer that was given, for the case that its command comes again."""

    session: int
    method: str
    params: bytes
    """A digest of them."""
    topic: str
    payload: bytes


@dataclass(slots=True)
class _Question:
    """One question for attributes that is open."""

    device: str
    scope: str
    keys: tuple[str, ...]
    answer: Deferred[dict[str, Value]]
    timer: IDelayedCall


@implementer(IDownlink, IUplinkListener)
class Downlink:
    """
    `publish(topic, payload)` sends, `connector_of(device name)` is the name of the connector that a device speaks
    through, empty or None when it never spoke. It has to be told of sessions and messages as the uplink's listener is.
    """

    def __init__(
        self,
        publish: Callable[[str, bytes], Deferred[int]],
        events: Events,
        clock: IReactorTime,
        connector_of: Callable[[str], str | None],
        max_payload_bytes: int = 65536,
        own_device: IOwnDevice | None = None,
        names: Names = SAME_NAMES,
    ) -> None:
        self._publish = publish
        self._own_device = own_device
        self._events = events
        self._clock = clock
        self._connector_of = connector_of
        self._configured_bytes = max_payload_bytes
        self._limits = SessionLimits()
        self._connectors: Mapping[str, IConnector] = {}
        self._names = names
        self._own_commands: Callable[[str, Value], Deferred[Value]] = _no_commands
        self._answered_before: dict[tuple[str, int], _Answered] = {}
        self._answered_bytes = 0
        self._session = 0
        """Grows with the end of every session. Nothing goes out between `link_down` and `link_up`."""
        self._began_at = float("-inf")
        self._up = False
        self._running: dict[tuple[str, int], _Running] = {}
        self._questions: dict[int, _Question] = {}
        self._last_question = 0
        self._introduced: set[str] = set()
        """Devices that ThingsBoard was told of from here, in this session."""
        self._unacknowledged = 0
        self._waiting: deque[tuple[str, bytes, str]] = deque()
        self._log = Logger()

    def set_connectors(self, connectors: Sequence[IConnector]) -> None:
        """Who carries commands out from now on. Those of a connector that is not among them any more run on."""
        self._connectors = {connector.connector_name: connector for connector in connectors}

    def set_own_commands(self, carry_out: Callable[[str, Value], Deferred[Value]]) -> None:
        """Who carries out commands for the gateway itself, given as (method, params): those that begin with
        `gateway_`, and those that no connector has. Fails as `IConnector.command` does."""
        self._own_commands = carry_out

    def moved(self, old: str, new: str | None) -> None:
        """
        ThingsBoard calls a device by another name, or has deleted it (None). An answer under the old name would bring a
        second device into being there, so what waits follows it, or is forgotten.
        """
        self._introduced.discard(old)
        for running in [running for running in self._running.values() if running.device == old]:
            self._forget(running, keep_timer=new is not None)
            if new is not None:
                running.device = new
                self._running[new, running.number] = running
            elif running.work is not None:
                running.work.cancel()
        waiting, self._waiting = self._waiting, deque()
        for topic, payload, device in waiting:
            if device != old:
                self._waiting.append((topic, payload, device))
            elif new is not None:
                self._waiting.append((topic, payloads.renamed(topic, payload, {old: new}), new))
        for key in [key for key in self._answered_before if key[0] == old]:
            self._answered_bytes -= len(self._answered_before.pop(key).payload)
        for number in [number for number, question in self._questions.items() if question.device == old]:
            question = self._questions.pop(number)
            question.timer.cancel()
            question.answer.errback(NoAnswer("the device was renamed or deleted in ThingsBoard meanwhile"))

    # What the uplink tells.

    def link_up(self, limits: SessionLimits) -> None:
        """See `IUplinkListener.link_up`."""
        self._up = True
        self._began_at = self._clock.seconds()
        self._limits = limits
        while self._waiting and self._unacknowledged < MAX_UNACKNOWLEDGED:
            self._send(*self._waiting.popleft())

    def link_down(self, code: int | None = None) -> None:
        """See `IUplinkListener.link_down`: what ThingsBoard was asked will not be answered any more."""
        self._up = False
        self._session += 1
        self._unacknowledged = 0
        for _, _, device in self._waiting:
            self._events.emit(AnswerDropped(device=device, why="its session is over"))
        self._waiting.clear()
        self._introduced.clear()
        questions, self._questions = self._questions, {}
        for question in questions.values():
            question.timer.cancel()
            question.answer.errback(LinkDown("the session ended before ThingsBoard answered"))

    def message_received(self, topic: str, payload: bytes) -> None:
        """Take one message. Never raises for what is in it."""
        if topic == topics.RPC:
            self._child_command(payload)
        elif topic == topics.ATTRIBUTES:
            self._attributes_changed(payload)
        elif topic == topics.ATTRIBUTES_RESPONSE:
            self._answered(payload)
        elif (number := topics.request_id(topic, topics.DEVICE_RPC_REQUEST)) is not None:
            self._own_command(number, payload)
        else:
            self._events.emit(MessageIgnored(topic=topic))

    # Shared attributes.

    def _attributes_changed(self, payload: bytes) -> None:
        message = _object(payload)
        device, data = message.get("device"), message.get("data")
        if not isinstance(device, str) or not isinstance(data, dict):
            self._events.emit(MessageIgnored(topic=topics.ATTRIBUTES))  # or the echo of our own client attributes
            return
        gone = data.get("deleted")
        deleted: list[str] = []
        if isinstance(gone, list) and len(data) == 1:
            # ThingsBoard's word for deletions; an attribute of that name that holds a list cannot be told from it.
            deleted, data = [key for key in gone if isinstance(key, str)], {}
        connector = self._connector_for(device)
        if connector is None:
            self._events.emit(UpdateUndeliverable(device=device))
            return
        connector.attributes_changed(self._names.original(device), data, deleted)

    def _connector_for(self, device: str) -> IConnector | None:
        name = self._connector_of(device)
        return self._connectors.get(name) if name else None

    # Commands.

    def _child_command(self, payload: bytes) -> None:
        message = _object(payload)
        device, data = message.get("device"), message.get("data")
        # A broker's echo of an answer has its number at the top; ThingsBoard has it inside.
        if isinstance(device, str) and isinstance(data, dict) and "id" not in message:
            method, number = data.get("method"), data.get("id")
            if isinstance(method, str) and isinstance(number, int) and not isinstance(number, bool):
                params = _digest(data.get("params"))
                running = _Running(self._session, topics.RPC, device, number, method, params)
                self._carry_out(running, lambda: self._for_device(device, method, data.get("params")))
                return
        self._events.emit(MessageIgnored(topic=topics.RPC))

    def _own_command(self, number: int, payload: bytes) -> None:
        message = _object(payload)
        method = message.get("method")
        if not isinstance(method, str):
            self._events.emit(MessageIgnored(topic=topics.DEVICE_RPC_REQUEST))
            return
        topic = f"{topics.DEVICE_RPC_RESPONSE}{number}"
        running = _Running(self._session, topic, "", number, method, _digest(message.get("params")))
        self._carry_out(running, lambda: self._for_gateway(method, message.get("params")))

    def _for_device(self, device: str, method: str, params: Value) -> Deferred[Value]:
        connector = self._connector_for(device)
        if connector is None:
            known = bool(self._connector_of(device))
            return fail(CommandFailed("the device's connector is gone" if known else "the device is not known here"))
        return connector.command(self._names.original(device), method, params)

    def _for_gateway(self, method: str, params: Value) -> Deferred[Value]:
        kind, _, rest = method.partition("_")
        of_kind = [connector for connector in self._connectors.values() if connector.connector_type == kind]
        if not rest or not of_kind or method.startswith(GATEWAY_PREFIX):
            return self._own_commands(method, params)
        return Deferred.fromCoroutine(self._ask_each(of_kind, rest, params))

    async def _ask_each(self, connectors: Sequence[IConnector], method: str, params: Value) -> Value:
        for connector in connectors[:-1]:
            try:
                return await connector.own_command(method, params)
            except UnknownDevice:
                continue
        return await connectors[-1].own_command(method, params)

    def _carry_out(self, running: _Running, begin: Callable[[], Deferred[Value]]) -> None:
        key = (running.device, running.number)
        earlier = self._running.get(key)
        if earlier is not None and (earlier.method, earlier.params) == (running.method, running.params):
            earlier.session = running.session
            self._events.emit(CommandRepeated(device=running.device, method=running.method))
            return
        if earlier is not None:
            # Numbers begin anew when ThingsBoard restarts: whoever waited for the earlier one is gone with that.
            self._forget(earlier)
            if earlier.work is not None:
                earlier.work.cancel()
        before = self._answered_before.get(key)
        if before is not None and self._is_repeat(running, before):
            self._events.emit(CommandRepeated(device=running.device, method=running.method))
            self._send(before.topic, before.payload, running.device)
            return
        if len(self._running) >= MAX_RUNNING:
            self._answer(running, None, f"refused: {MAX_RUNNING} commands are being carried out already")
            return
        self._running[key] = running
        running.timer = self._clock.callLater(COMMAND_SECONDS, self._overdue, running)
        work = running.work = maybeDeferred(begin)
        work.addCallbacks(
            self._done, self._failed, callbackArgs=(running,), errbackArgs=(running,)
        )

    def _is_repeat(self, running: _Running, before: _Answered) -> bool:
        """Whether this is the same command once more, and not another one that has its number."""
        at_the_begin = not self._up or self._clock.seconds() - self._began_at < REPEAT_SECONDS
        same = (running.method, running.params, running.topic) == (before.method, before.params, before.topic)
        return at_the_begin and same and before.session < self._session

    def _remember(self, running: _Running, payload: bytes) -> None:
        """Only for as long as there is room: the oldest goes first."""
        remembered, key = self._answered_before, (running.device, running.number)
        earlier = remembered.pop(key, None)
        if earlier is not None:
            self._answered_bytes -= len(earlier.payload)
        remembered[key] = _Answered(running.session, running.method, running.params, running.topic, payload)
        self._answered_bytes += len(payload)
        while len(remembered) > MAX_REMEMBERED or self._answered_bytes > MAX_REMEMBERED_BYTES:
            self._answered_bytes -= len(remembered.pop(next(iter(remembered))).payload)

    def _done(self, value: Value, running: _Running) -> None:
        if self._forget(running):
            self._answer(running, value, "")

    def _failed(self, failure: Failure, running: _Running) -> None:
        if not self._forget(running):
            return  # answered already, or overtaken; what was cancelled has nothing more to say
        if isinstance(failure.value, CommandFailed):
            why = failure.value
            self._answer(running, why.answer, str(why) or "failed", why.code)
        elif failure.check(CancelledError) is not None:
            self._answer(running, None, "the gateway is being stopped")
        else:
            self._log.failure("command {method!r}", failure, method=running.method)
            self._answer(running, None, "internal error, see the gateway's log")

    def _overdue(self, running: _Running) -> None:
        running.timer = None
        if self._forget(running):
            self._answer(running, None, "time-out")
            if running.work is not None:
                running.work.cancel()

    def _forget(self, running: _Running, keep_timer: bool = False) -> bool:
        """Whether it was still running."""
        key = (running.device, running.number)
        if self._running.get(key) is not running:
            return False
        del self._running[key]
        if running.timer is not None and not keep_timer:
            running.timer.cancel()
            running.timer = None
        return True

    def _answer(self, running: _Running, value: Value, error: str, code: int | None = None) -> None:
        """With an `error`, `value` is what is sent in its place, if it is not None."""
        if error:
            self._events.emit(CommandRefused(device=running.device, method=running.method, why=error))
            value = {"error": error if value is None else value}
            if code is not None:
                value["code"] = code
        limit = payloads.payload_limit(self._limits, running.topic, self._configured_bytes)
        try:
            payload = _wrapped(running, value)
        except ValueError:
            payload = _wrapped(running, {"error": "the answer is no JSON value"})
        if len(payload) > limit:
            payload = _wrapped(running, {"error": f"the answer is longer than {limit} bytes"})
        self._remember(running, payload)
        if running.session != self._session:
            self._events.emit(AnswerDropped(device=running.device, why="its session is over"))
            return
        self._send(running.topic, payload, running.device)

    # Questions of devices.

    def request_attributes(
        self, device: Device, scope: Literal["shared", "client"], keys: Sequence[str]
    ) -> Deferred[dict[str, Value]]:
        """See `IDownlink.request_attributes`."""
        device = self._as_named(device)
        names = tuple(dict.fromkeys(keys))
        if not names:
            return succeed({})  # ThingsBoard would send all attributes there are
        if not self._up:
            return fail(LinkDown("there is no session with ThingsBoard"))
        if len(self._questions) >= MAX_REQUESTS or not payloads.is_device_name(device.name):
            return fail(NoAnswer("too many questions are open, or the device cannot be named"))
        self._last_question = number = self._last_question % 0x7FFFFFFF + 1
        question: dict[str, Any] = {"id": number, "device": device.name, "client": scope == "client"}
        question |= {"key": names[0]} if len(names) == 1 else {"keys": list(names)}
        payload = payloads.encode(question)
        if len(payload) > payloads.payload_limit(self._limits, topics.ATTRIBUTES_REQUEST, self._configured_bytes):
            return fail(NoAnswer("the question is too long"))
        self._introduce(device)
        answer: Deferred[dict[str, Value]] = Deferred(lambda _: self._forget_question(number))
        timer = self._clock.callLater(REQUEST_SECONDS, self._unanswered, number)
        self._questions[number] = _Question(device.name, scope, names, answer, timer)
        self._send(topics.ATTRIBUTES_REQUEST, payload, device.name)
        return answer

    def _as_named(self, device: Device) -> Device:
        """The device under the name that it has in ThingsBoard."""
        name = self._names.name_of(device.name)
        return device if name == device.name else replace(device, name=name)

    def _introduce(self, device: Device) -> None:
        """Else a device that only asks would be created with the default profile (spec thingsboard-mqtt, 3.2)."""
        if device.name not in self._introduced:
            self._introduced.add(device.name)
            self._send(topics.CONNECT, payloads.connect(device.name, device.profile), device.name)

    def rpc(self, device: Device, method: str, params: Value) -> Deferred[Value]:
        """See `IDownlink.rpc`."""
        device = self._as_named(device)
        if self._own_device is None:
            return fail(NoAnswer("the gateway has no device of its own"))
        asked: Deferred[Value] = self._own_device.rpc(method, {"device": device.name, "params": params})
        return asked

    def claim(self, device: Device, secret_key: str | None = None, duration_ms: int | None = None) -> Deferred[None]:
        """See `IDownlink.claim`."""
        device = self._as_named(device)
        if not self._up:
            return fail(LinkDown("there is no session with ThingsBoard"))
        payload = payloads.claim(secret_key, duration_ms, device.name)
        limit = payloads.payload_limit(self._limits, topics.CLAIM, self._configured_bytes)
        if not payloads.is_device_name(device.name) or len(payload) > limit:
            return fail(NoAnswer("the device cannot be named, or the secret is too long"))
        if self._unacknowledged >= MAX_UNACKNOWLEDGED:
            return fail(NoAnswer(f"{MAX_UNACKNOWLEDGED} other messages wait for ThingsBoard already"))
        self._introduce(device)
        session = self._session
        self._unacknowledged += 1

        def taken(code: int) -> None:
            self._acknowledged(code, session)
            if code >= 0x80:
                raise NoAnswer(f"ThingsBoard refused the claim with reason code {code:#x}")

        return self._publish(topics.CLAIM, payload).addCallback(taken)

    def _close(self, number: int) -> _Question | None:
        question = self._questions.pop(number, None)
        if question is not None and question.timer.active():
            question.timer.cancel()
        return question

    def _forget_question(self, number: int) -> None:
        """The asker does not want to know any more."""
        self._close(number)

    def _unanswered(self, number: int) -> None:
        question = self._close(number)
        if question is not None:
            question.answer.errback(NoAnswer(f"ThingsBoard did not answer within {REQUEST_SECONDS:g} s"))

    def _answered(self, payload: bytes) -> None:
        message = _object(payload)
        number, device = message.get("id"), message.get("device")
        known = self._questions.get(number) if isinstance(number, int) and not isinstance(number, bool) else None
        if known is None or known.device != device:
            self._events.emit(MessageIgnored(topic=topics.ATTRIBUTES_RESPONSE))
            return
        self._close(number)  # type: ignore[arg-type] # an int: it was just found by it
        known.answer.callback(_found(message, known))

    # Sending.

    def _send(self, topic: str, payload: bytes, device: str) -> None:
        if self._up and self._unacknowledged < MAX_UNACKNOWLEDGED:
            self._unacknowledged += 1
            self._publish(topic, payload).addCallbacks(
                self._acknowledged, _link_down, callbackArgs=(self._session,)
            )
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append((topic, payload, device))
        else:
            self._events.emit(AnswerDropped(device=device, why=f"{MAX_WAITING} others wait to be sent already"))

    def _acknowledged(self, code: int, session: int) -> None:
        if session != self._session:
            return
        self._unacknowledged -= 1
        if self._waiting:
            self._send(*self._waiting.popleft())


def _no_commands(method: str, params: Value) -> Deferred[Value]:
    return fail(CommandFailed("the gateway has no such method", 404))


def _digest(params: Value) -> bytes:
    try:
        encoded = payloads.encode(params)
    except ValueError:  # nested as deeply as can just be read
        encoded = b""
    return hashlib.blake2b(encoded, digest_size=16).digest()


def _wrapped(running: _Running, data: Value) -> bytes:
    """The payload of an answer. Raises ValueError when there is no JSON for it."""
    if running.topic == topics.RPC:
        return payloads.encode({"device": running.device, "id": running.number, "data": data})
    return payloads.encode(data)


def _found(message: Mapping[str, Any], question: _Question) -> dict[str, Value]:
    """The values in an answer, in each of the shapes that servers have (spec configuration-and-apis, 4.7)."""
    values = message.get("values")
    if not isinstance(values, dict):
        values = message.get(question.scope)
    if isinstance(values, dict):
        return {key: values[key] for key in question.keys if key in values}
    if "value" in message and len(question.keys) == 1:
        return {question.keys[0]: message["value"]}
    return {}


def _object(payload: bytes) -> dict[str, Any]:
    """The JSON object in `payload`; an empty one when there is none."""
    try:
        value = payloads.decode(payload)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _link_down(failure: Failure) -> None:
    """The session ended before this was through; `link_down` has told, or is about to."""
    failure.trap(LinkDown)
