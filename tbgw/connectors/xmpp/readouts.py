# -*- test-case-name: tests.connectors.xmpp.test_readouts -*-
"""Read-outs of sensors (XEP-0323) that are under way: which reply belongs to which, and when one is over.

A read-out is over when the device says so, when it refuses, or after its time; the time is ours, because devices
forget (3.2). Replies are matched by the sender's full JID and our number. What comes for none that is under way is data
all the same, and left to the connector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import randbelow

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element

from tbgw.connectors.xmpp import iot_sensor_data as sensor_data
from tbgw.connectors.xmpp.errors import LinkGone, RequestTimedOut, StanzaRefused
from tbgw.connectors.xmpp.interfaces import IXMPPLink
from tbgw.connectors.xmpp.iot_sensor_data import Done, Event, Field, Fields, ReadFailure, ReadRequest, Rejected, Started
from tbgw.connectors.xmpp.outcomes import TIME_OUT, UNAVAILABLE, Refusal, code_of, refusal_of
from tbgw.model import Value

MAX_UNDER_WAY = 10_000
"""Read-outs at one time, of all devices together."""
MAX_KEPT_FIELDS = 2_000
"""Fields that one answer to ThingsBoard holds; all of them become readings."""
MAX_ERRORS = 100
CANCEL_SECONDS = 10.0


@dataclass(slots=True, eq=False)
class ReadOut:
    """One that is under way."""

    jid: str
    seqnr: str
    request: ReadRequest
    timeout_seconds: float
    began: float
    result: Deferred[ReadOut] = field(default_factory=Deferred)
    timer: IDelayedCall | None = None
    state: str = "requested"
    """requested, accepted, queued, started, done, failed, cancelled."""
    fields: list[Field] = field(default_factory=list)
    count: int = 0
    """Fields that came, also beyond those that are kept."""
    errors: list[tuple[str, str]] = field(default_factory=list)
    reply: Deferred[Element] | None = None

    def answer(self, now: float) -> dict[str, Value]:
        """As the answer to ThingsBoard."""
        answer: dict[str, Value] = {
            "fields": [
                {
                    "node": one.node or None,
                    "ts": one.ts_ms,
                    "name": one.name,
                    "type": one.kind,
                    "value": one.value,
                    "unit": one.unit or None,
                    "flags": sorted(one.types | one.quality),
                }
                for one in self.fields
            ],
            "responseTimeMs": round((now - self.began) * 1000),
        }
        if self.errors:
            answer["errors"] = [{"node": node or None, "error": text} for node, text in self.errors]
        if self.count > len(self.fields):
            answer["fieldsLeftOut"] = self.count - len(self.fields)
        return answer


class ReadOuts:
    """See the module. One for each connector."""

    def __init__(self, link: IXMPPLink, clock: IReactorTime, first: Callable[[int], int] = randbelow) -> None:
        """Numbers begin anywhere, so that a restarted gateway does not take an old answer for a new one."""
        self._link = link
        self._clock = clock
        self._next = first(1 << 30)
        self._under_way: dict[tuple[str, str], ReadOut] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def start(
        self, jid: str, request: ReadRequest, timeout_seconds: float, taken: Callable[[Fields], None]
    ) -> Deferred[ReadOut]:
        """
        Ask the full JID. Fires when all has come, also if the device says that some of it could not be read; fails
        with `Refusal` when nothing came, or not all in time: what came has been handed on all the same. `taken` is
        called with values that come within the answer itself. May be cancelled, which tells the device.
        """
        if len(self._under_way) >= MAX_UNDER_WAY:
            return fail(Refusal(f"refused: {MAX_UNDER_WAY} read-outs are under way already", 500))
        self._next = self._next % 0x7FFFFFFF + 1
        read_out = ReadOut(jid, str(self._next), request, timeout_seconds, self._clock.seconds())
        read_out.result = Deferred(lambda _: self._cancelled(read_out))
        self._under_way[jid, read_out.seqnr] = read_out
        iq = iq_to(jid, "get", sensor_data.request_element(read_out.seqnr, request))
        read_out.timer = self._clock.callLater(timeout_seconds, self._overdue, read_out)
        read_out.reply = self._link.request(iq, timeout_seconds)
        read_out.reply.addCallbacks(
            self._replied, self._refused, callbackArgs=(read_out, taken), errbackArgs=(read_out,)
        )
        return read_out.result

    def request_of(self, jid: str, seqnr: str) -> ReadRequest | None:
        """What was asked for by the read-out of this number; None: none such is under way."""
        read_out = self._under_way.get((jid, seqnr))
        return None if read_out is None else read_out.request

    def event(self, jid: str, event: Event) -> None:
        """A message of a device says this; the read-out that it belongs to, if any, may be over with it."""
        read_out = self._under_way.get((jid, event.seqnr))
        if read_out is None:
            return
        if isinstance(event, Started):
            read_out.state = "started"
        elif isinstance(event, Fields):
            self._fields(read_out, event)
        elif isinstance(event, Done):
            self._done(read_out)
        elif isinstance(event, ReadFailure):
            read_out.errors += event.errors[: MAX_ERRORS - len(read_out.errors)]
            if event.done:
                self._done(read_out)

    def close(self) -> None:
        """The connector stops: nothing waits any more."""
        for read_out in tuple(self._under_way.values()):
            self._fail(read_out, Refusal("gone: the connector is being stopped", UNAVAILABLE))

    # Inside.

    def _replied(self, iq: Element, read_out: ReadOut, taken: Callable[[Fields], None]) -> None:
        read_out.reply = None
        if read_out.state != "requested":
            return
        found = sensor_data.read_reply(iq)
        if isinstance(found, Rejected):
            self._fail(read_out, Refusal(f"refused by the device: {found.text}", UNAVAILABLE))
        elif isinstance(found, Fields):
            taken(found)
            self._fields(read_out, found)
        elif found is not None and found.queued:
            read_out.state = "queued"
        else:
            read_out.state = "accepted"

    def _refused(self, failure: Failure, read_out: ReadOut) -> None:
        read_out.reply = None
        error = failure.value
        if isinstance(error, StanzaRefused):
            rejected = sensor_data.read_reply(error.element)
            if isinstance(rejected, Rejected) and not error.condition:
                error = Refusal(f"refused by the device: {rejected.text or 'rejected'}", code_of("forbidden"))
        self._fail(read_out, refusal_of(error, read_out.timeout_seconds))

    def _fields(self, read_out: ReadOut, event: Fields) -> None:
        read_out.state = "started"
        wanted = [one for one in event.fields if read_out.request.wants(one)]
        read_out.count += len(wanted)
        read_out.fields += wanted[: MAX_KEPT_FIELDS - len(read_out.fields)]
        if event.done:
            self._done(read_out)

    def _done(self, read_out: ReadOut) -> None:
        self._forget(read_out)
        read_out.state = "done"
        if read_out.errors and not read_out.count:
            node, text = read_out.errors[0]
            words = f"{node}: {text}" if node else text
            read_out.result.errback(Refusal(f"the device could not read: {words}"[:1000], 500))
        else:
            read_out.result.callback(read_out)

    def _overdue(self, read_out: ReadOut) -> None:
        read_out.timer = None
        words = f"time-out: not all came within {read_out.timeout_seconds * 1000:g} ms; {read_out.count} field(s) did"
        self._tell_cancelled(read_out)
        self._fail(read_out, Refusal(words if read_out.count else words.partition(";")[0], TIME_OUT))

    def _cancelled(self, read_out: ReadOut) -> None:
        self._tell_cancelled(read_out)
        self._forget(read_out)
        read_out.state = "cancelled"

    def _tell_cancelled(self, read_out: ReadOut) -> None:
        """Only one that was accepted is anything that a device could end (3.7)."""
        if read_out.state in ("accepted", "queued", "started"):
            iq = iq_to(read_out.jid, "get", sensor_data.cancel_element(read_out.seqnr))
            told = self._link.request(iq, CANCEL_SECONDS)
            # A device that does not know the read-out, or does not answer, has nothing left to cancel.
            told.addErrback(lambda failure: failure.trap(StanzaRefused, RequestTimedOut, LinkGone) and None)

    def _fail(self, read_out: ReadOut, refusal: Refusal) -> None:
        if self._forget(read_out):
            read_out.state = "failed"
            read_out.result.errback(refusal)

    def _forget(self, read_out: ReadOut) -> bool:
        """Whether it was still under way."""
        if self._under_way.pop((read_out.jid, read_out.seqnr), None) is None:
            return False
        if read_out.timer is not None:
            read_out.timer.cancel()
            read_out.timer = None
        reply, read_out.reply = read_out.reply, None
        if reply is not None:
            reply.addErrback(lambda _: None)
            reply.cancel()
        return True


def iq_to(jid: str, kind: str, payload: Element) -> Element:
    """An iq of type get or set."""
    iq = Element((None, "iq"))
    iq["to"] = jid
    iq["type"] = kind
    iq.addChild(payload)
    return iq
