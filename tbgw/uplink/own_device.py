# -*- test-case-name: tests.uplink.test_own_device -*-
"""The gateway's own device: telemetry, attributes, questions, client-side RPC and claiming (spec thingsboard-mqtt, 2).

Invariants:

* What waits, what is without PUBACK, and what is asked are bounded; of what waits the oldest makes room, counted.
* A message that was sent in a session that ended before its PUBACK is sent again in the next, before what came later:
  at least once, as with the rows. One that ThingsBoard refuses is not sent again unchanged.
* A PUBACK that never comes (spec, fact 6) holds its place in the window for `PUBACK_SECONDS` and no longer.
* One that ends every session that it is sent in (on MQTT 3.1.1 ThingsBoard closes for what it cannot convert, without a
  word) is found out and given up: whatever the gateway says of itself must not keep the devices' data away. It is tried
  alone before, so that nobody else is blamed.
* The limits of the gateway's own rate are kept: over them ThingsBoard closes the session that carries everything.

Considered and dropped: the spool. Its rows are payloads for the children; figures of the gateway are of little use
later, and must not fill the store that they report on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.errors import LinkDown, NoAnswer
from tbgw.interfaces import IOwnDevice
from tbgw.internal_events import Events
from tbgw.model import OwnAttributes, SessionLimits, Value
from tbgw.thingsboard import payloads, topics
from tbgw.thingsboard.closes import HARMLESS_CLOSES
from tbgw.uplink.internal_events import OwnMessageDropped, OwnMessageIgnored

MAX_WAITING = 1000
"""Messages that wait for a session or for their turn."""

MAX_WAITING_BYTES = 1024 * 1024
"""Bytes of their payloads."""

MAX_UNACKNOWLEDGED = 20
"""Messages without PUBACK: a part of the reserve that the uplink has beyond the forwarder."""

PUBACK_SECONDS = 30.0
"""How long a PUBACK may take before others get its place in the window (spec thingsboard-mqtt, Appendix A rule 4)."""

REQUEST_SECONDS = 10.0
"""How long ThingsBoard may take to answer a question for attributes."""

MAX_REQUESTS = 200
"""Questions that may be open at one time."""

FIRST_NUMBER = 1_000_000
"""Numbers of our questions begin here: below are those of `getSessionLimits` and of ThingsBoard's own commands, whose
answers travel on the same topic as far as a plain broker is concerned."""

MAX_ATTEMPTS = 3
"""How often a message is sent that ThingsBoard refuses for reasons that pass (0x80, 0x97)."""

RETRY_SECONDS = 10.0
"""Delay before that."""

MAX_CLOSES = 3
"""How many sessions may end right after a message before it is given up."""

SUSPICION_SECONDS = 10.0
"""What "right after" means. A PUBACK that does not come has a session ended later than that, by ourselves."""

_PASSING = frozenset({0x80, 0x97})

Spend = Callable[[str, int], float]
"""Spends (topic, data points) under the rate limits of a session, or says how many seconds to wait for that."""


@dataclass(slots=True, eq=False)
class _Message:
    """Something that the gateway says of itself."""

    topic: str
    payload: bytes
    points: int
    answer: Deferred[str] = field(default_factory=Deferred)
    attempts: int = 0
    held: bool = False
    """Whether it has a place in the window."""
    timer: IDelayedCall | None = None
    sent_at: float = 0.0
    closes: int = 0
    """Sessions that ended right after it while it was the first without PUBACK."""


@dataclass(slots=True, eq=False)
class _Question:
    """Something that was asked."""

    payload: bytes
    answer: Deferred[Any]
    timer: IDelayedCall


def _unlimited(topic: str, points: int) -> float:
    return 0.0


@implementer(IOwnDevice)
class OwnDevice:
    """
    See `IOwnDevice`. `publish` sends, `now_ms` is the wall time; `budget` makes of a session's limits what keeps its
    rates. Has to be told of sessions and messages as the uplink's listener is.
    """

    def __init__(
        self,
        publish: Callable[[str, bytes], Deferred[int]],
        events: Events,
        clock: IReactorTime,
        now_ms: Callable[[], int],
        max_payload_bytes: int = 65536,
        budget: Callable[[SessionLimits], Spend] = lambda limits: _unlimited,
    ) -> None:
        self._publish = publish
        self._events = events
        self._clock = clock
        self._now_ms = now_ms
        self._configured_bytes = max_payload_bytes
        self._budget = budget
        self._spend: Spend = _unlimited
        self._limits = SessionLimits()
        self._up = False
        self._session = 0
        self._waiting: deque[_Message] = deque()
        self._waiting_bytes = 0
        self._unacknowledged: dict[int, _Message] = {}
        """In the order of their first sending, by a number of our own."""
        self._in_window = 0
        self._suspected = False
        """Whether what is in the window is one that sessions ended with, which goes alone."""
        self._last_message = 0
        self._turn: IDelayedCall | None = None
        self._requests: dict[int, _Question] = {}
        self._rpcs: dict[int, _Question] = {}
        self._last_question = FIRST_NUMBER
        self._shared_listeners: list[Callable[[Mapping[str, Value], Sequence[str]], None]] = []
        self._link_listeners: list[Callable[[], None]] = []
        self._own_words: deque[bytes] = deque(maxlen=64)
        """What a plain broker may send back."""

    # IOwnDevice

    def publish_telemetry(self, values: Mapping[str, Value], ts_ms: int | None = None) -> Deferred[str]:
        """See `IOwnDevice.publish_telemetry`."""
        ts = self._now_ms() if ts_ms is None else ts_ms
        return self._say(topics.DEVICE_TELEMETRY, values, lambda: payloads.telemetry_fragment(ts, values))

    def publish_attributes(self, values: Mapping[str, Value]) -> Deferred[str]:
        """See `IOwnDevice.publish_attributes`."""
        return self._say(topics.DEVICE_ATTRIBUTES, values, lambda: payloads.encode(dict(values)))

    def request_attributes(
        self, client_keys: Sequence[str] = (), shared_keys: Sequence[str] = ()
    ) -> Deferred[OwnAttributes]:
        """See `IOwnDevice.request_attributes`."""
        if any("," in key for key in (*client_keys, *shared_keys)):
            return fail(NoAnswer("an attribute with a comma in its name cannot be asked for on this topic"))
        question = {
            name: ",".join(dict.fromkeys(keys))
            for name, keys in (("clientKeys", client_keys), ("sharedKeys", shared_keys))
            if keys
        }
        return self._ask(self._requests, topics.DEVICE_ATTRIBUTES_REQUEST, question, REQUEST_SECONDS)

    def add_shared_listener(self, changed: Callable[[Mapping[str, Value], Sequence[str]], None]) -> None:
        """See `IOwnDevice.add_shared_listener`."""
        self._shared_listeners.append(changed)

    def add_link_listener(self, up: Callable[[], None]) -> None:
        """See `IOwnDevice.add_link_listener`."""
        self._link_listeners.append(up)

    def rpc(self, method: str, params: Value, timeout_seconds: float = 60.0) -> Deferred[Value]:
        """See `IOwnDevice.rpc`."""
        question = {"method": method, "params": {} if params is None else params}
        return self._ask(self._rpcs, topics.DEVICE_RPC_REQUEST, question, timeout_seconds)

    def claim(self, secret_key: str | None = None, duration_ms: int | None = None) -> Deferred[str]:
        """See `IOwnDevice.claim`."""
        if not self._up:
            return fail(LinkDown("there is no session with ThingsBoard"))
        return self._enqueue(_Message(topics.DEVICE_CLAIM, payloads.claim(secret_key, duration_ms), 0))

    # What the uplink tells.

    def link_up(self, limits: SessionLimits) -> None:
        """See `IUplinkListener.link_up`."""
        self._session += 1
        self._up = True
        self._limits = limits
        self._spend = self._budget(limits)
        self._own_words.clear()
        self._pump()
        for listener in self._link_listeners:
            listener()

    def link_down(self, code: int | None = None) -> None:
        """See `IUplinkListener.link_down`."""
        self._up = False
        self._session += 1
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        lost = list(self._unacknowledged.values())
        self._unacknowledged.clear()
        if lost and code not in HARMLESS_CLOSES and self._clock.seconds() - lost[0].sent_at < SUSPICION_SECONDS:
            lost[0].closes += 1
        for message in reversed(lost):
            self._let_go(message)
            if message.topic == topics.DEVICE_CLAIM:
                message.answer.callback("the session ended before ThingsBoard acknowledged")
                continue
            if message.closes >= MAX_CLOSES:
                why = f"{MAX_CLOSES} sessions ended with it and without a PUBACK"
                message.answer.callback(self._dropped(message.topic, why))
                continue
            self._waiting.appendleft(message)
            self._waiting_bytes += len(message.payload)
        self._make_room()
        for asked in (self._requests, self._rpcs):
            questions = list(asked.values())
            asked.clear()
            for question in questions:
                question.timer.cancel()
                question.answer.errback(LinkDown("the session ended before ThingsBoard answered"))

    def message_received(self, topic: str, payload: bytes) -> bool:
        """Take one message, if it is for the gateway itself: whether it was. Never raises for what is in it."""
        if topic == topics.DEVICE_ATTRIBUTES:
            self._shared_changed(payload)
        elif (number := topics.request_id(topic, topics.DEVICE_ATTRIBUTES_RESPONSE)) is not None:
            self._attributes_answered(number, payload)
        elif (number := topics.request_id(topic, topics.DEVICE_RPC_RESPONSE)) is not None:
            self._rpc_answered(number, topic, payload)
        elif self._limits.echoes and topic.startswith((topics.DEVICE_RPC_REQUEST, topics.DEVICE_ATTRIBUTES_REQUEST)):
            asked = self._rpcs if topic.startswith(topics.DEVICE_RPC_REQUEST) else self._requests
            number = topics.request_id(topic, topic.rpartition("/")[0] + "/")
            question = asked.get(number) if number is not None else None
            return question is not None and question.payload == payload
        else:
            return False
        return True

    # What it is told.

    def _shared_changed(self, payload: bytes) -> None:
        if self._limits.echoes and payload in self._own_words:
            return
        try:
            values = payloads.decode(payload)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            self._events.emit(OwnMessageIgnored(topic=topics.DEVICE_ATTRIBUTES))
            return
        gone = values.get("deleted")
        deleted: list[str] = []
        if isinstance(gone, list) and len(values) == 1 and all(isinstance(key, str) for key in gone):
            # ThingsBoard's word for deletions; an attribute of that name that holds a list cannot be told from it.
            deleted, values = gone, {}
        for listener in self._shared_listeners:
            listener(values, deleted)

    def _attributes_answered(self, number: int, payload: bytes) -> None:
        question = self._close(self._requests, number)
        if question is None:
            self._events.emit(OwnMessageIgnored(topic=topics.DEVICE_ATTRIBUTES_RESPONSE))
            return
        try:
            answer = payloads.decode(payload)
            client, shared = answer.get("client", {}), answer.get("shared", {})
        except (ValueError, AttributeError):
            client = shared = None
        if isinstance(client, dict) and isinstance(shared, dict):
            question.answer.callback(OwnAttributes(client, shared))
        else:
            question.answer.errback(NoAnswer("ThingsBoard's answer is not understood"))

    def _rpc_answered(self, number: int, topic: str, payload: bytes) -> None:
        question = self._close(self._rpcs, number)
        if question is None:
            self._events.emit(OwnMessageIgnored(topic=topics.DEVICE_RPC_RESPONSE))
            return
        try:
            value = payloads.decode(payload)
        except ValueError:
            value = payload.decode("utf-8", "replace")
        if value == {"error": "timeout"}:
            question.answer.errback(NoAnswer("nothing in ThingsBoard's rule chain answered"))
        else:
            question.answer.callback(value)

    # What it asks.

    def _ask(self, asked: dict[int, _Question], stem: str, question: Value, seconds: float) -> Deferred[Any]:
        if not self._up:
            return fail(LinkDown("there is no session with ThingsBoard"))
        if len(asked) >= MAX_REQUESTS:
            return fail(NoAnswer(f"{MAX_REQUESTS} questions are open already"))
        try:
            payload = payloads.encode(question)
        except ValueError as error:
            return fail(NoAnswer(f"the question is no JSON: {error}"))
        self._last_question = number = self._last_question % 0x7FFFFFFF + 1
        topic = f"{stem}{number}"
        if len(payload) > payloads.payload_limit(self._limits, topic, self._configured_bytes):
            return fail(NoAnswer("the question is too long"))
        wait = self._spend(topic, 0)
        if wait > 0:
            return fail(NoAnswer(f"the limit of the rate is reached; ask again in {wait:.0f} s"))
        answer: Deferred[Any] = Deferred(lambda _: self._forget(asked, number))
        timer = self._clock.callLater(seconds, self._unanswered, asked, number, seconds)
        asked[number] = _Question(payload, answer, timer)
        # The answer tells; a PUBACK with a reason is the one thing that is worth to hear before.
        self._publish(topic, payload).addCallbacks(self._question_taken, _over, callbackArgs=(asked, number))
        return answer

    def _question_taken(self, code: int, asked: dict[int, _Question], number: int) -> None:
        if code >= 0x80 and (question := self._close(asked, number)) is not None:
            question.answer.errback(NoAnswer(f"ThingsBoard refused the question with reason code {code:#x}"))

    def _unanswered(self, asked: dict[int, _Question], number: int, seconds: float) -> None:
        question = asked.pop(number)
        question.answer.errback(NoAnswer(f"ThingsBoard did not answer within {seconds:g} s"))

    def _close(self, asked: dict[int, _Question], number: int) -> _Question | None:
        question = asked.pop(number, None)
        if question is not None:
            question.timer.cancel()
        return question

    def _forget(self, asked: dict[int, _Question], number: int) -> None:
        """The asker does not want to know any more."""
        self._close(asked, number)

    # What it says.

    def _say(self, topic: str, values: Mapping[str, Value], encode: Callable[[], bytes]) -> Deferred[str]:
        if not values:
            return succeed("")  # ThingsBoard would never acknowledge, or have nothing to store
        try:
            payload = encode()
        except ValueError as error:
            return succeed(self._dropped(topic, f"no JSON: {error}"))
        return self._enqueue(_Message(topic, payload, len(values)))

    def _dropped(self, topic: str, why: str) -> str:
        self._events.emit(OwnMessageDropped(topic=topic, why=why))
        return why

    def _enqueue(self, message: _Message) -> Deferred[str]:
        limit = payloads.payload_limit(self._limits, message.topic, self._configured_bytes)
        if len(message.payload) > limit:
            return succeed(self._dropped(message.topic, f"longer than {limit} bytes"))
        self._waiting.append(message)
        self._waiting_bytes += len(message.payload)
        self._make_room()
        self._pump()
        return message.answer

    def _make_room(self) -> None:
        while len(self._waiting) > MAX_WAITING or self._waiting_bytes > MAX_WAITING_BYTES:
            oldest = self._waiting.popleft()
            self._waiting_bytes -= len(oldest.payload)
            oldest.answer.callback(self._dropped(oldest.topic, "too much waits"))

    def _pump(self) -> None:
        """Send what may be sent now."""
        while self._up and self._waiting and self._in_window < MAX_UNACKNOWLEDGED and self._turn is None:
            message = self._waiting[0]
            suspected = message.closes >= MAX_CLOSES - 1
            if self._in_window and (suspected or self._suspected):
                return
            wait = self._spend(message.topic, message.points)
            if wait > 0:
                self._pause(wait)
                return
            self._waiting.popleft()
            self._waiting_bytes -= len(message.payload)
            self._suspected = suspected
            self._send(message)

    def _pause(self, seconds: float) -> None:
        self._turn = self._clock.callLater(seconds, self._turn_came)

    def _turn_came(self) -> None:
        self._turn = None
        self._pump()

    def _send(self, message: _Message) -> None:
        self._last_message = number = self._last_message + 1
        message.attempts += 1
        message.sent_at = self._clock.seconds()
        message.held = True
        self._in_window += 1
        self._unacknowledged[number] = message
        message.timer = self._clock.callLater(PUBACK_SECONDS, self._overdue, message)
        if self._limits.echoes:
            self._own_words.append(message.payload)
        self._publish(message.topic, message.payload).addCallbacks(
            self._acknowledged, _over, callbackArgs=(number, self._session)
        )

    def _overdue(self, message: _Message) -> None:
        """Others get its place; it is sent again in the next session."""
        message.timer = None
        self._let_go(message)
        self._pump()

    def _let_go(self, message: _Message) -> None:
        if message.timer is not None:
            message.timer.cancel()
            message.timer = None
        if message.held:
            message.held = False
            self._in_window -= 1

    def _acknowledged(self, code: int, number: int, session: int) -> None:
        message = self._unacknowledged.pop(number, None) if session == self._session else None
        if message is None:
            return
        self._let_go(message)
        if code < 0x80:
            message.answer.callback("")
        elif code in _PASSING and message.attempts < MAX_ATTEMPTS:
            self._waiting.appendleft(message)
            self._waiting_bytes += len(message.payload)
            if self._turn is None:
                self._pause(RETRY_SECONDS)
        else:
            message.answer.callback(self._dropped(message.topic, f"refused with reason code {code:#x}"))
        self._pump()


def _over(failure: Failure) -> None:
    """The session ended before this was through; `link_down` has told, or is about to."""
    failure.trap(LinkDown)
