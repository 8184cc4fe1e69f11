"""Server-side RPC as ThingsBoard does it (spec thingsboard-mqtt, 4): numbers, statuses, strategies, time-outs. Pure.

A call waits in its device until the device can be reached, is pushed, and ends with an `Answer`, which is what the REST
call would have got. Persistent calls are answered at once with their id, and `Calls.persistent` knows how they went.
All times are of a steady clock in ms, which is an argument, so that a clock that is set ends no call.

Persistent calls live as long as the sandbox's process: the real server keeps them in its database, and after its own
restart they come with new numbers (4.1).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from tbgw.sandbox.devices import Device, Push, Session
from tbgw.thingsboard import payloads, topics

MIN_TIMEOUT_MS = 5000
DEFAULT_TIMEOUT_MS = 10_000
PUBACK_TIMEOUT_MS = 10_000
"""`transport.mqtt.timeout`: without PUBACK for so long a persistent call counts as not delivered."""
RESPONSE_TIMEOUT_MS = 30_000
"""How long the strategy "on response" waits before it sends the next call."""
CLIENT_RPC_TIMEOUT_MS = 60_000
"""`CLIENT_SIDE_RPC_TIMEOUT`: a call of the device that nobody answers is answered so much later."""
MAX_RETRIES = 5
MAX_PENDING = 10_000
"""Calls that may wait at one time, of all devices together."""
MAX_REMEMBERED = 1000
"""Persistent calls that are remembered after their end."""


class Status(Enum):
    """How a persistent call is."""

    QUEUED = "QUEUED"
    SENT = "SENT"
    DELIVERED = "DELIVERED"
    SUCCESSFUL = "SUCCESSFUL"
    TIMEOUT = "TIMEOUT"
    EXPIRED = "EXPIRED"
    FAILED = "FAILED"
    DELETED = "DELETED"


class Strategy(Enum):
    """`ACTORS_RPC_SUBMIT_STRATEGY_TYPE`."""

    BURST = "BURST"
    ON_ACK = "SEQUENTIAL_ON_ACK_FROM_DEVICE"
    ON_RESPONSE = "SEQUENTIAL_ON_RESPONSE_FROM_DEVICE"


class Answer(NamedTuple):
    """What the REST call gets."""

    status: int
    """HTTP status: 200; 504 no session, or no reply in time; 406 a reply that is not JSON; 429 too many calls."""
    body: str = ""
    """The reply as the device wrote it, or a message."""


class Call:
    """One RPC from the server to a device. Compared by identity."""

    __slots__ = (
        "ack_due_ms",
        "device",
        "done",
        "due_ms",
        "id",
        "max_retries",
        "method",
        "number",
        "params",
        "persistent",
        "response",
        "retries",
        "sent",
        "sent_to",
        "status",
        "two_way",
        "unsent",
        "wait_due_ms",
    )

    def __init__(self, device: Device, method: str, params: Any, two_way: bool, persistent: bool) -> None:
        self.id = str(uuid.uuid4())
        self.device = device
        self.number = device.next_call
        self.method = method
        self.params = params
        self.two_way = two_way
        self.persistent = persistent
        self.due_ms = 0
        self.ack_due_ms: int | None = None
        self.wait_due_ms: int | None = None
        """Until when a sequential strategy waits for this one."""
        self.retries = 0
        self.max_retries = MAX_RETRIES
        self.status = Status.QUEUED
        self.response: Any = None
        self.unsent = True
        """A sequential strategy has it yet to send, or to send again."""
        self.sent = False
        """It was sent at least once."""
        self.sent_to: Session | None = None
        self.done: Callable[[Answer], None] | None = None

    def as_json(self) -> dict[str, Any]:
        """As `GET /api/rpc/persistent/{rpcId}` tells it, in short."""
        return {
            "id": self.id,
            "device": self.device.name,
            "requestId": self.number,
            "request": {"method": self.method, "params": self.params, "oneway": not self.two_way},
            "status": self.status.value,
            "response": self.response,
        }


class Calls:
    """All calls of one platform. `push` and `close` are where it says what is to be sent and which session to end."""

    def __init__(
        self,
        steady_ms: Callable[[], int],
        push: Callable[[Push], None],
        close: Callable[[Session, int], None],
        report: Callable[[Device], bool],
    ) -> None:
        self._steady_ms = steady_ms
        self._push = push
        self._close = close
        self._report = report
        self.strategy = Strategy.BURST
        self.close_on_timeout = False
        """`ACTORS_RPC_CLOSE_SESSION_ON_RPC_DELIVERY_TIMEOUT`."""
        self._pending: dict[Call, None] = {}
        self._remembered: dict[str, Call] = {}
        self._unanswered: list[tuple[int, Push]] = []
        self.changed = False
        """Whether `next_due_ms` may be another one than when somebody last looked, who then sets this to False."""

    @property
    def pending(self) -> int:
        """How many calls are not over."""
        return len(self._pending)

    def persistent(self, call_id: str) -> Call | None:
        """A persistent call, also after its end; None for one that is not known any more."""
        return self._remembered.get(call_id)

    def call(
        self,
        device: Device,
        method: str,
        params: Any,
        *,
        two_way: bool,
        done: Callable[[Answer], None] | None = None,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
        persistent: bool = False,
        retries: int = MAX_RETRIES,
        expires_in_ms: int | None = None,
    ) -> Call:
        """
        Begin a call. `done` is told its answer, once; a persistent one is answered at once. `expires_in_ms` goes before
        `timeout_ms`, which is at least `MIN_TIMEOUT_MS`.
        """
        call = Call(device, method, params, two_way, persistent)
        call.done = done
        if len(self._pending) >= MAX_PENDING:
            call.status = Status.FAILED
            self._answer(call, Answer(429, "too many calls wait"))
            return call
        device.next_call += 1
        wait_ms = max(MIN_TIMEOUT_MS, timeout_ms) if expires_in_ms is None else expires_in_ms
        call.due_ms = self._steady_ms() + wait_ms
        call.max_retries = min(retries, MAX_RETRIES)
        if persistent:
            while len(self._remembered) >= MAX_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[call.id] = call
        self._pending[call] = None
        self.changed = True
        device.calls[call.number] = call
        if persistent:
            self._answer(call, Answer(200, json.dumps({"rpcId": call.id})))
        self._send_due(device, only=call)
        return call

    def reachable(self, device: Device) -> None:
        """The device subscribed, or became somebody's child: with BURST everything that waits is sent, once more."""
        self._send_due(device)

    def delivered(self, call: Call) -> None:
        """The PUBACK of a push came. Those of a gateway's children are not followed (3.7)."""
        call.ack_due_ms = None
        if call not in self._pending or call.sent_to is not call.device.session or not self._report(call.device):
            return
        if call.status in (Status.SENT, Status.TIMEOUT):
            call.status = Status.DELIVERED
        if self.strategy is Strategy.ON_ACK or not call.two_way:
            call.wait_due_ms = None
        if not call.two_way:
            self._end(call)
        self._send_due(call.device, after=call)

    def replied(self, device: Device, number: int, payload: bytes) -> None:
        """A device's reply. One that nobody waits for is dropped."""
        call = device.calls.get(number)
        if call is None or not call.two_way or not call.sent:
            return
        text = payload.decode("utf-8", "replace")
        try:
            response = json.loads(text) if text.strip() else None
            answer = Answer(200, text if text.strip() else "")
        except (ValueError, RecursionError):
            response, answer = {"error": text}, Answer(406, text)
        call.status, call.response = Status.SUCCESSFUL, response
        self._end(call, answer)
        self._send_due(device, after=call)

    def forget(self, device: Device) -> None:
        """The device is no more."""
        for call in list(device.calls.values()):
            call.status = Status.DELETED
            self._end(call, Answer(404, "Device with requested id wasn't found!"))

    def lost(self, session: Session) -> None:
        """The session is over: what was only sent to it counts as not delivered, and nobody waits there any more."""
        for call in self._pending:
            if call.sent_to is session:
                call.ack_due_ms = call.wait_due_ms = None
                if call.status is Status.SENT:
                    call.status = Status.QUEUED
        self._unanswered = [one for one in self._unanswered if one[1].session is not session]

    def nobody_answers(self, push: Push) -> None:
        """A call of the device that no rule chain answers: `push` is the time-out, for later."""
        if len(self._unanswered) < MAX_PENDING:
            self.changed = True
            self._unanswered.append((self._steady_ms() + CLIENT_RPC_TIMEOUT_MS, push))

    def expire(self) -> int | None:
        """End what is overdue; answers when to look again (steady ms), or None."""
        self.changed = True
        now = self._steady_ms()
        for call in [call for call in self._pending if call.due_ms <= now]:
            self._expired(call)
        for call in [call for call in self._pending if call.ack_due_ms is not None and call.ack_due_ms <= now]:
            self._not_acknowledged(call)
        for call in [call for call in self._pending if call.wait_due_ms is not None and call.wait_due_ms <= now]:
            call.wait_due_ms = None
            self._send_due(call.device, after=call)
        while self._unanswered and self._unanswered[0][0] <= now:
            self._push(self._unanswered.pop(0)[1])
        return self.next_due_ms

    @property
    def next_due_ms(self) -> int | None:
        """The steady time at which `expire` has something to do."""
        due = [call.due_ms for call in self._pending]
        due += [call.ack_due_ms for call in self._pending if call.ack_due_ms is not None]
        due += [call.wait_due_ms for call in self._pending if call.wait_due_ms is not None]
        due += [one[0] for one in self._unanswered[:1]]
        return min(due, default=None)

    # Inside

    def _answer(self, call: Call, answer: Answer) -> None:
        done, call.done = call.done, None
        if done is not None:
            done(answer)

    def _end(self, call: Call, answer: Answer | None = None) -> None:
        self._pending.pop(call, None)
        if call.device.calls.get(call.number) is call:
            del call.device.calls[call.number]
        self._answer(call, answer or Answer(200))

    def _expired(self, call: Call) -> None:
        call.status = Status.EXPIRED
        self._end(call, Answer(504, "timeout" if call.sent else "no active connection to the device"))
        self._send_due(call.device, after=call)

    def _not_acknowledged(self, call: Call) -> None:
        call.ack_due_ms = None
        if not call.persistent or call.status is not Status.SENT:
            return
        if self.close_on_timeout and call.sent_to is not None:
            call.status = Status.QUEUED
            call.wait_due_ms = None
            self._close(call.sent_to, 0x98)
            return
        call.status = Status.TIMEOUT
        call.wait_due_ms = None
        call.retries += 1
        if call.retries >= call.max_retries:
            call.status = Status.FAILED
            call.response = {"error": "There was a Timeout and all retry attempts have been exhausted."}
            self._end(call)
            self._send_due(call.device, after=call)
        elif self.strategy is not Strategy.BURST:
            self._send(call)

    def _send_due(self, device: Device, only: Call | None = None, after: Call | None = None) -> None:
        """
        Send what may be sent now: a new call (`only`), what a finished one made way for (`after`), or, when the device
        has just become reachable, everything.
        """
        if self.strategy is Strategy.BURST:
            if after is None:
                for call in [only] if only is not None else list(device.calls.values()):
                    self._send(call)
            return
        if only is None and after is None:
            for call in device.calls.values():
                call.unsent, call.wait_due_ms = True, None
        while all(call.wait_due_ms is None for call in device.calls.values()):  # one at a time
            following = next((call for call in device.calls.values() if call.unsent), None)
            if following is None:
                return
            self._send(following)
            if following.unsent:
                return  # nobody there

    def _send(self, call: Call) -> None:
        device = call.device
        own = device.session if device.session is not None and device.session.rpc_stem is not None else None
        if own is not None:
            body: Any = {"method": call.method, "params": call.params}
            topic = f"{own.rpc_stem}{call.number}"
            session, qos = own, own.subscriptions.get(f"{own.rpc_stem}+", 1)
        elif device.child_of is not None and not device.deaf:
            session = device.child_of
            data = {"id": call.number, "method": call.method, "params": call.params}
            topic, body = topics.RPC, {"device": device.child_name, "data": data}
            qos = session.subscriptions.get(topics.RPC, 1)
        else:
            return
        now = self._steady_ms()
        call.sent, call.unsent, call.sent_to = True, False, session
        self.changed = True
        follows = own is not None and qos > 0
        call.ack_due_ms = now + PUBACK_TIMEOUT_MS if follows else None
        call.wait_due_ms = None
        if self.strategy is Strategy.ON_RESPONSE and call.two_way:
            call.wait_due_ms = now + RESPONSE_TIMEOUT_MS
        elif self.strategy is not Strategy.BURST and follows:
            call.wait_due_ms = now + PUBACK_TIMEOUT_MS + 1  # the missing PUBACK is met before
        call.status = Status.SENT if qos and call.persistent else Status.DELIVERED
        self._push(Push(session, topic, payloads.encode(body), qos, call))
        if not call.two_way and (not call.persistent or not qos):
            self._end(call)
