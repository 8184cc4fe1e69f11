"""The conversation with one station, from its first message to its last: texts in, events and texts out. No I/O.

The rules (spec ocpp, 1.1, 1.4):

- Of our Calls one is open at a time; the others wait in a bounded queue, each with its own deadline.
- A Call that was sent and ran out of time keeps its id known for a while, so that a late result is told apart from one
  that nobody asked for. Neither does harm.
- The station's Calls are handed over as they come, also while ours is open, and answered in the order they came.
- When the connection ends, everything of ours fails. Nothing is sent again by itself: a second RemoteStart is a second
  charging session.
- A station that sends what is no message at all is closed once it did so too often in a minute.

The owner calls `receive`, `call`, `answer`..., then sends what `take_outgoing` gives, then asks `next_deadline` for the
moment at which it must call `expire`. Time is an argument everywhere.

Small on purpose, ten thousand of these exist: queues are made when first needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, cast

from tbgw.ocpp import messages
from tbgw.ocpp.actions import UNCONFIRMED
from tbgw.ocpp.errors import (
    CallErrorReceived,
    CallFailed,
    CallQueueFull,
    CallRefused,
    CallTimedOut,
    PayloadInvalid,
    ResultInvalid,
    StationGone,
)
from tbgw.ocpp.messages import Call, Error, Fault, MessageId, Result, ResultError, Send
from tbgw.ocpp.replays import Replays, fingerprint, is_dated
from tbgw.ocpp.schemas import SchemaFault, request_fault, result_fault
from tbgw.ocpp.versions import Version

LATE_IDS = 16
"""How many of our Calls that ran out of time are remembered."""

BUDGET_SECONDS = 60.0
"""The time over which bad messages are counted."""


class Validation(StrEnum):
    """What to do with an incoming payload that breaks its schema."""

    LENIENT = "lenient"
    """Hand it over, with what is wrong."""
    STRICT = "strict"
    """Answer with the error that fits, and hand nothing over."""
    OFF = "off"
    """Do not look."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What one session keeps to."""

    validation: Validation = Validation.LENIENT
    max_queued_calls: int = 100
    """Calls of ours that wait behind the open one."""
    max_faults_per_minute: int = 20
    """Texts that are no OCPP message, of one station, before its connection is closed."""


class MessageIds:
    """Ids that no other Call to any station bears, across connections and restarts, as 2.1 wants it."""

    __slots__ = ("_count", "_prefix")

    def __init__(self, nonce: str) -> None:
        """`nonce`: different in every run of the program, at most 20 characters."""
        self._prefix = nonce + "-"
        self._count = 0

    def next(self) -> str:
        """One more."""
        self._count += 1
        return self._prefix + str(self._count)


class OutgoingCall:
    """A Call of ours. `owner` is the caller's."""

    __slots__ = ("action", "deadline", "id", "owner", "text")

    def __init__(self, id_: str, action: str, text: str, deadline: float, owner: Any) -> None:
        self.id = id_
        self.action = action
        self.text = text
        self.deadline = deadline
        self.owner = owner


class IncomingCall:
    """A Call of the station, until it is answered."""

    __slots__ = ("action", "id", "is_kept", "mark", "reply", "session")

    def __init__(self, session: Session, id_: MessageId, action: str, mark: int, is_kept: bool) -> None:
        self.session = session
        """Where the answer goes: the session it came over, or a later one of the same station."""
        self.id = id_
        self.action = action
        self.mark = mark
        self.is_kept = is_kept
        """Whether its answer is remembered, for when the station asks again."""
        self.reply: str | None = None
        """The answer's text once there is one."""


class CallArrived(NamedTuple):
    """To be answered with `answer` or `refuse`, now or later, exactly once."""

    call: IncomingCall
    payload: dict[str, Any]
    fault: SchemaFault | None


class SendArrived(NamedTuple):
    """Not to be answered."""

    action: str
    payload: dict[str, Any]
    fault: SchemaFault | None


class CallEnded(NamedTuple):
    """A Call of ours has its result, or its failure."""

    call: OutgoingCall
    payload: dict[str, Any] | None
    failure: CallFailed | None
    fault: SchemaFault | None = None


class Ignored(NamedTuple):
    """Something came that leads to nothing. For the log and a counter."""

    what: str
    kind: str
    """One of: bad_message, payload_invalid, duplicate, late_result, unknown_result, result_error."""
    is_last_straw: bool = False
    """So many bad messages came that the connection must be closed (1008)."""


Event = CallArrived | SendArrived | CallEnded | Ignored


class Session:
    """One connection's conversation."""

    __slots__ = (
        "_bad",
        "_bad_since",
        "_closed",
        "_ids",
        "_inbound",
        "_late",
        "_open",
        "_options",
        "_outgoing",
        "_queue",
        "_replays",
        "owner",
        "version",
    )

    def __init__(
        self,
        version: Version,
        options: SessionOptions,
        ids: MessageIds,
        replays: Replays[IncomingCall],
        owner: Any = None,
    ) -> None:
        """`replays` is the charge point's, across its connections. `owner` is the caller's."""
        self.version = version
        self.owner = owner
        self._options = options
        self._ids = ids
        self._replays = replays
        self._outgoing: list[str] = []
        self._inbound: list[IncomingCall] = []
        self._open: OutgoingCall | None = None
        self._queue: deque[OutgoingCall] | None = None
        self._late: deque[str] | None = None
        self._bad = 0
        self._bad_since = 0.0
        self._closed = False

    # What comes in.

    def receive(self, text: str, now: float) -> Event | None:
        """One text frame. None: the station gets, or got, an answer that was made before."""
        strict = self._options.validation is Validation.STRICT
        message = messages.parse(text, self.version, strict)
        if type(message) is Call:
            return self._call(message, now)
        if type(message) is Result:
            return self._result(message, now)
        if type(message) is Send:
            fault = self._inbound_fault(message.action, message.payload)
            if fault is not None and strict:
                return Ignored(fault.text, "payload_invalid")
            return SendArrived(message.action, message.payload, fault)
        if type(message) is Error:
            failure = CallErrorReceived(message.code, message.description, message.details)
            return self._over(message.id, None, failure, now)
        if type(message) is ResultError:
            return Ignored(f"{message.code}: {message.description}", "result_error")
        return self._bad_message(cast(Fault, message), now)

    def _call(self, message: Call, now: float) -> Event | None:
        mark = fingerprint(message)
        dated = is_dated(message)
        if dated:
            answer = self._replays.answer_to(mark, now)
            if answer is not None:
                call = IncomingCall(self, message.id, message.action, mark, False)
                self._inbound.append(call)
                self._reply(call, messages.result_text(message.id, answer))
                return Ignored(message.action, "duplicate")
        open_call = self._replays.open_call(mark)
        if open_call is not None:
            if open_call.session is not self:
                # It is awaited here now. Where it came first, nobody listens any more.
                open_call.session = self
                self._inbound.append(open_call)
            return Ignored(message.action, "duplicate")
        if message.action == "BootNotification":
            self._replays.forget()
        fault = self._inbound_fault(message.action, message.payload)
        call = IncomingCall(self, message.id, message.action, mark, dated)
        self._inbound.append(call)
        if fault is not None and self._options.validation is Validation.STRICT:
            self._reply(call, messages.error_text(self.version, call.id, fault.code, fault.text))
            return Ignored(fault.text, "payload_invalid")
        self._replays.begin(mark, call)
        return CallArrived(call, message.payload, fault)

    def _inbound_fault(self, action: str, payload: dict[str, Any]) -> SchemaFault | None:
        if self._options.validation is Validation.OFF:
            return None
        return request_fault(self.version, action, payload)

    def _result(self, message: Result, now: float) -> Event:
        call = self._open
        if call is None or call.id != message.id:
            return self._unawaited(message.id, now)
        fault = None
        if self._options.validation is not Validation.OFF:
            fault = result_fault(self.version, call.action, message.payload)
        if fault is not None and self._options.validation is Validation.STRICT:
            if self.version is Version.V21:
                self._outgoing.append(messages.result_error_text(self.version, call.id, fault.code, fault.text))
            self._next(now)
            return CallEnded(call, None, ResultInvalid(f"the result breaks its schema: {fault.text}"), fault)
        self._next(now)
        return CallEnded(call, message.payload, None, fault)

    def _over(self, id_: MessageId, payload: dict[str, Any] | None, failure: CallFailed, now: float) -> Event:
        call = self._open
        if call is None or call.id != id_:
            return self._unawaited(id_, now)
        self._next(now)
        return CallEnded(call, payload, failure)

    def _unawaited(self, id_: MessageId, now: float) -> Ignored:
        if self._late and id_ in self._late:
            self._late.remove(str(id_))
            return Ignored("the answer to a Call of ours came too late", "late_result")
        return Ignored("an answer to no Call of ours", "unknown_result", self._is_last_straw(now))

    def _bad_message(self, fault: Fault, now: float) -> Event:
        if fault.call_id is not None and self._open is not None and self._open.id == fault.call_id:
            if self.version is Version.V21:
                text = messages.result_error_text(self.version, fault.call_id, "FormatViolation", fault.why)
                self._outgoing.append(text)
            return self._over(fault.call_id, None, ResultInvalid(fault.why), now)
        if fault.answer is not None:
            self._outgoing.append(fault.answer)
        return Ignored(fault.why, "bad_message", self._is_last_straw(now))

    def _is_last_straw(self, now: float) -> bool:
        if now - self._bad_since >= BUDGET_SECONDS:
            self._bad, self._bad_since = 0, now
        self._bad += 1
        return self._bad > self._options.max_faults_per_minute

    # Answers.

    @property
    def unanswered(self) -> int:
        """How many Calls of the station wait for their answer."""
        return len(self._inbound)

    def answer(self, call: IncomingCall, payload: Mapping[str, Any], now: float) -> SchemaFault | None:
        """
        The answer to a Call. Strict: one that breaks its schema is not sent but returned, and the station gets an
        InternalError. Works after this session has ended too: the answer is kept for when the station asks again.
        """
        version = self.version
        fault = result_fault(version, call.action, payload)
        if fault is None:
            try:
                text = messages.payload_text(payload)
            except (ValueError, TypeError) as error:
                fault = SchemaFault("FormatViolation", "", "", f"JSON cannot hold it: {error}")
        if fault is not None:
            self.refuse(call, CallRefused("InternalError"), now)
            return fault
        self._replays.end(call.mark, now, text if call.is_kept else None)
        call.session._reply(call, messages.result_text(call.id, text))
        return None

    def refuse(self, call: IncomingCall, refusal: CallRefused, now: float) -> None:
        """The answer is a CALLERROR. It is not kept: when the station asks again, it is asked again."""
        try:
            text = messages.error_text(self.version, call.id, refusal.code, refusal.description, refusal.details)
        except (ValueError, TypeError):
            text = messages.error_text(self.version, call.id, refusal.code, refusal.description)
        self._replays.end(call.mark, now, None)
        call.session._reply(call, text)

    def _reply(self, call: IncomingCall, text: str) -> None:
        call.reply = text
        inbound = self._inbound
        while inbound and inbound[0].reply is not None:
            first = inbound.pop(0)
            if not self._closed:
                self._outgoing.append(first.reply)  # type: ignore[arg-type] # just seen not to be None

    # Our Calls.

    def call(
        self, action: str, payload: Mapping[str, Any], now: float, timeout_seconds: float, owner: Any = None
    ) -> OutgoingCall:
        """Send it, or queue it. Raises PayloadInvalid, CallQueueFull, StationGone."""
        if self._closed:
            raise StationGone("the station is not connected")
        if action in UNCONFIRMED:
            raise PayloadInvalid(f"{action} is not sent as a CALL")
        text_of_id = self._ids.next()
        text = self._checked(messages.call_text, text_of_id, action, payload)
        call = OutgoingCall(text_of_id, action, text, now + timeout_seconds, owner)
        if self._open is None:
            self._send(call)
            return call
        queue = self._queue
        if queue is None:
            queue = self._queue = deque()
        if len(queue) >= self._options.max_queued_calls:
            raise CallQueueFull(f"{len(queue)} Calls wait for this station already")
        queue.append(call)
        return call

    def send(self, action: str, payload: Mapping[str, Any]) -> None:
        """An unconfirmed SEND. Raises PayloadInvalid, StationGone."""
        if self._closed:
            raise StationGone("the station is not connected")
        if self.version is not Version.V21:
            raise PayloadInvalid(f"{self.version} has no SEND")
        self._outgoing.append(self._checked(messages.send_text, self._ids.next(), action, payload))

    def cancel(self, call: OutgoingCall, now: float) -> None:
        """Nobody waits for it any more. Unsent, it never goes out; sent, its answer counts as late."""
        if call is self._open:
            self._remember_late(call)
            self._next(now)
        elif self._queue and call in self._queue:
            self._queue.remove(call)

    def next_deadline(self) -> float | None:
        """When `expire` has something to do."""
        deadlines = [call.deadline for call in self._queue] if self._queue else []
        if self._open is not None:
            deadlines.append(self._open.deadline)
        return min(deadlines, default=None)

    def expire(self, now: float) -> Sequence[CallEnded]:
        """Our Calls whose time is over, each failed; the next of the queue is sent."""
        ended = [
            CallEnded(call, None, CallTimedOut("it waited its whole time in the queue"))
            for call in self._drop_expired(now)
        ]
        if self._open is not None and self._open.deadline <= now:
            call = self._open
            self._remember_late(call)
            ended.append(CallEnded(call, None, CallTimedOut("the station did not answer in time")))
            self._next(now)
        return ended

    def end(self, why: CallFailed) -> Sequence[CallEnded]:
        """The connection is over: everything of ours fails with `why`."""
        self._closed = True
        calls = ([self._open] if self._open is not None else []) + list(self._queue or ())
        self._open = self._queue = self._late = None
        self._outgoing, self._inbound = [], []
        return [CallEnded(call, None, why) for call in calls]

    def take_outgoing(self) -> list[str]:
        """What to send, in this order."""
        outgoing = self._outgoing
        if outgoing:
            self._outgoing = []
        return outgoing

    def _checked(self, encode: Any, id_: str, action: str, payload: Mapping[str, Any]) -> str:
        fault = request_fault(self.version, action, payload)
        if fault is not None:
            raise PayloadInvalid(fault.text)
        try:
            text: str = encode(id_, action, payload)
        except (ValueError, TypeError) as error:
            raise PayloadInvalid(f"JSON cannot hold it: {error}") from None
        return text

    def _send(self, call: OutgoingCall) -> None:
        self._open = call
        self._outgoing.append(call.text)

    def _next(self, now: float) -> None:
        """The open Call is over. One whose time is over is left to `expire`, and not sent."""
        self._open = None
        queue = self._queue
        if not queue:
            return
        for index, call in enumerate(queue):
            if call.deadline > now:
                del queue[index]
                self._send(call)
                return

    def _drop_expired(self, now: float) -> list[OutgoingCall]:
        queue = self._queue
        if not queue or all(call.deadline > now for call in queue):
            return []
        expired = [call for call in queue if call.deadline <= now]
        self._queue = deque(call for call in queue if call.deadline > now)
        return expired

    def _remember_late(self, call: OutgoingCall) -> None:
        if self._late is None:
            self._late = deque(maxlen=LATE_IDS)
        self._late.append(call.id)
