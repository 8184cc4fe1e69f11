"""Sends what is stored to ThingsBoard, oldest first, and has it deleted once it is acknowledged.

What holds:

- A row is deleted after its PUBACK, never before; one whose session ended without it is sent again, marked as a
  duplicate.
- Rows leave in their order. What came back from a lost session is put in front again, in its order.
- A row waits until each of its devices was announced in this session and ThingsBoard has acknowledged that, because a
  device that ThingsBoard first hears of from its data is born with the wrong profile.
- At most the window's number of publishes are without PUBACK, announcements included, and the announced rate limits
  hold. A row that is more than these let through at once goes in parts, in order, and is delivered when all are.
- No row holds up the others for ever: what ThingsBoard answers badly, or not at all, again and again while it takes
  other rows, goes to the dead letters.
- Memory is flat whatever is stored: at most `READY_BYTES` of rows are kept ready, beside the window. Fresh rows are
  taken from memory while that is not exceeded; otherwise the forwarder lags, and reads on from the store at its own
  pace.

Considered and dropped: holding back deletions until all earlier rows are acknowledged (PUBACKs may come out of order,
spec thingsboard-mqtt fact 5; the order of sending is what keeps a device's order, since ThingsBoard works one
session's packets in turn).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.errors import LinkDown, StoreError
from tbgw.interfaces import IDropListener, ISpool, IUplink, IUplinkListener
from tbgw.internal_events import Event, Events
from tbgw.model import Row, SessionLimits
from tbgw.pipeline.devices import DeviceRegistry
from tbgw.pipeline.internal_events import (
    DeviceNotAnnounced,
    NeverAcknowledged,
    NotAcknowledgedInTime,
    QuotaReached,
    Refused,
    Unsendable,
)
from tbgw.pipeline.ratelimit import SHARE, RateLimiter
from tbgw.thingsboard import payloads, topics
from tbgw.thingsboard.payloads import Piece

READY_BYTES = 2 * 1024 * 1024
"""Rows kept ready in memory: 40 of the largest payloads, enough to keep a window busy between two reads of the
store."""

FETCH_BYTES = 1024 * 1024
"""What is read from the store at once."""

PUBACK_SECONDS = 30.0
"""How long a PUBACK may take (spec thingsboard-mqtt, Appendix A rule 4)."""

ANNOUNCE_SECONDS = 10.0
"""How long the PUBACK of an announcement may take: ThingsBoard before 4.2.1.1 never acknowledges one that failed."""

STRIKES = 3
"""Sessions in which a row stayed without PUBACK though later ones got theirs, or answers that blame the payload (0x83,
after which ThingsBoard closes the session), before it goes to the dead letters."""

TRIES = 8
"""Answers "later" to one row, each while ThingsBoard takes later rows, before it goes to the dead letters: a device
that ThingsBoard cannot create must not hold up all others."""

PUSHED_BACK_SECONDS = (1.0, 60.0)
"""First and longest pause after ThingsBoard said that it cannot take more."""

RETRY_CODES = frozenset({0x80, 0x83, 0x97})
"""PUBACK reason codes after which the same payload may pass later: unspecified, implementation specific, quota
exceeded."""

MAX_WINDOW = 64
"""Publishes without PUBACK, at most, whatever is announced: at 50 KiB each they hold 3 MiB of memory."""


class _Sent:
    """One row on its way."""

    __slots__ = ("code", "dup", "row", "sent_at", "unsent", "waiting")

    def __init__(self, row: Row, dup: bool, unsent: deque[Piece]) -> None:
        self.row = row
        self.dup = dup
        """Whether it was sent before."""
        self.unsent = unsent
        """What of it was not published yet."""
        self.waiting = 0
        """PUBACKs that are still to come for what was."""
        self.code = 0
        """The worst reason code so far."""
        self.sent_at = 0.0
        """When the last part was published."""


@implementer(IUplinkListener, IDropListener)
class Forwarder:
    """Between spool and uplink. `idled` is called whenever all that could be sent has been acknowledged."""

    def __init__(
        self,
        spool: ISpool,
        uplink: IUplink,
        registry: DeviceRegistry,
        *,
        clock: IReactorTime,
        events: Events,
        max_payload_bytes: int,
        idled: Callable[[], None] = lambda: None,
        limits_changed: Callable[[SessionLimits], None] = lambda limits: None,
        message_received: Callable[[str, bytes], None] = lambda topic, payload: None,
    ) -> None:
        self._spool = spool
        self._uplink = uplink
        self._registry = registry
        self._clock = clock
        self._events = events
        self._max_payload_bytes = max_payload_bytes
        self._idled = idled
        self._limits_changed = limits_changed
        self._message_received = message_received
        self._up = False
        self._limits = SessionLimits()
        self._window = MAX_WINDOW
        self._max_devices = self._max_points = sys.maxsize
        """Most that one publish may hold: what a rate limit lets through at once."""
        self._telemetry_limit = self._points_limit = self._messages_limit = RateLimiter((), 0.0)
        self._ready: deque[Row] = deque()
        self._ready_bytes = 0
        self._tail_seq = 0
        """The last row that is, or was, in memory: the store is read on from here."""
        self._lagging = False
        self._fetching = False
        self._sent: dict[int, _Sent] = {}
        self._open: _Sent | None = None
        """The row of which not all parts are published; in `_sent` from its first part on."""
        self._publishes = 0
        """Publishes of rows that are without PUBACK."""
        self._retries: dict[int, int] = {}
        """Strikes of rows that came back from lost sessions; rows with an entry are sent marked as duplicates."""
        self._announced: set[str] = set()
        self._announcing: dict[str, IDelayedCall] = {}
        self._to_announce: dict[str, None] = {}
        self._highest_acknowledged = 0
        self._wake: IDelayedCall | None = None
        self._puback_timer: IDelayedCall | None = None
        self._pushed_back = 0
        self._resume_at = 0.0
        self._session = 0
        self._idle_waiters: list[Deferred[None]] = []
        self.delivered_messages = 0
        self.delivered_rows = 0

    # What the builder and ingest call.

    def start(self) -> None:
        """The spool is open: what it holds from earlier is to be sent first."""
        self._lagging = self._spool.stored_rows > 0
        if not self._lagging:
            self._tail_seq = self._spool.last_seq

    def appended(self, rows: list[Row]) -> None:
        """These rows were just given to the spool."""
        for row in rows:
            if self._lagging or (self._ready and self._ready_bytes + len(row.payload) > READY_BYTES):
                self._lagging = True
                break
            self._ready.append(row)
            self._ready_bytes += len(row.payload)
            self._tail_seq = row.seq
        if self._up:
            self._pump()

    @property
    def idle(self) -> bool:
        """Whether the link is up and everything stored has been acknowledged."""
        return self._up and not (self._sent or self._open or self._ready or self._lagging)

    def when_idle(self) -> Deferred[None]:
        """Fires when everything stored has been acknowledged, or the link is lost: no more will be soon."""
        waiting: Deferred[None] = Deferred()
        self._idle_waiters.append(waiting)
        if self.idle or not self._up:
            self._release_waiters()
        return waiting

    def _tell_if_idle(self) -> None:
        if self.idle:
            self._idled()
            self._release_waiters()

    def _release_waiters(self) -> None:
        waiters, self._idle_waiters = self._idle_waiters, []
        for waiting in waiters:
            waiting.callback(None)

    @property
    def in_flight(self) -> int:
        """Rows that are sent and not acknowledged."""
        return len(self._sent)

    # What the spool calls.

    def rows_dropped(self, last_seq: int) -> None:
        """See `IDropListener.rows_dropped`."""
        while self._ready and self._ready[0].seq <= last_seq:
            self._ready_bytes -= len(self._ready.popleft().payload)
        if self._open is not None and self._open.row.seq <= last_seq and self._open.row.seq not in self._sent:
            self._open = None
        self._tail_seq = max(self._tail_seq, last_seq)
        for seq in [seq for seq in self._retries if seq <= last_seq]:
            del self._retries[seq]

    # What the uplink calls.

    def link_up(self, limits: SessionLimits) -> None:
        """See `IUplinkListener.link_up`."""
        self._session += 1
        self._up = True
        if limits != self._limits:
            # Else what was spent in the last session stays spent: the server's buckets do not refill at a reconnect.
            # Nor does a pause end with one: ThingsBoard closes the session when it says "later" to a payload.
            self._take_limits(limits)
        self._highest_acknowledged = 0
        self._limits_changed(limits)
        self._to_announce = dict.fromkeys(self._registry.present())
        self._pump()
        if self.idle:
            self._idled()

    def _take_limits(self, limits: SessionLimits) -> None:
        self._limits = limits
        messages, telemetry, points = (
            [max(1, int(limit.capacity * SHARE)) for limit in group]
            for group in (limits.messages, limits.telemetry, limits.points)
        )
        self._window = max(1, min([MAX_WINDOW, int(limits.max_inflight * SHARE), *messages, *telemetry]))
        self._max_devices = min(telemetry, default=sys.maxsize)
        self._max_points = min(points, default=sys.maxsize)
        now = self._clock.seconds()
        self._telemetry_limit = RateLimiter(limits.telemetry, now)
        self._points_limit = RateLimiter(limits.points, now)
        self._messages_limit = RateLimiter(limits.messages, now)

    def link_down(self) -> None:
        """See `IUplinkListener.link_down`."""
        self._up = False
        self._session += 1
        for timer in self._announcing.values():
            timer.cancel()
        self._announcing.clear()
        self._announced.clear()
        self._to_announce.clear()
        self._cancel_timers()
        back = {seq: sent.row for seq, sent in self._sent.items()}
        for seq in back:
            self._retries.setdefault(seq, 0)
        if self._open is not None:
            back[self._open.row.seq] = self._open.row
        self._sent.clear()
        self._open = None
        self._publishes = 0
        self._take_back(back.values())

    def message_received(self, topic: str, payload: bytes) -> None:
        """See `IUplinkListener.message_received`."""
        self._message_received(topic, payload)

    # Sending.

    def _take_back(self, rows: Iterable[Row]) -> None:
        """Rows that have to be sent again go in front, in their order among what is there."""
        for row in sorted(rows, reverse=True):
            place = next((place for place, other in zip(count(), self._ready) if other.seq > row.seq), len(self._ready))
            self._ready.insert(place, row)
            self._ready_bytes += len(row.payload)

    def _pump(self) -> None:
        """Send all that may be sent now. The only place that sends."""
        now = self._clock.seconds()
        if not self._up:
            return
        if now < self._resume_at:
            self._sleep(self._resume_at - now)
            return
        announce = False  # in turn, so that a long backlog does not keep other devices' commands away
        may_announce = may_send = True  # until a rate limit says no
        while self._up and self._publishes + len(self._announcing) < self._window:
            row_waits_to_go = may_send and (self._open is not None or (self._ready and not self._head_waits()))
            if may_announce and self._to_announce and (announce or not row_waits_to_go):
                may_announce = self._announce_next(now)
            elif row_waits_to_go:
                may_send = self._send_next(now)
            else:
                break
            announce = not announce
        if self._up and self._lagging and not self._fetching and self._ready_bytes < READY_BYTES // 2:
            self._fetch()

    def _head_waits(self) -> bool:
        """Whether the next row's devices have not all been announced yet; sees to it that they will be."""
        row = self._ready[0]
        if row.topic == topics.DISCONNECT:
            return row.devices[0] in self._announcing  # the two must not be under way at the same time
        if self._announced.issuperset(row.devices):
            return False
        # These first: others in the queue are announced for downlink only and can wait.
        missing = [name for name in row.devices if name not in self._announced and name not in self._announcing]
        if missing and next(iter(self._to_announce), None) != missing[0]:
            rest = self._to_announce
            self._to_announce = dict.fromkeys(missing)
            self._to_announce.update(rest)
        return True

    def _announce_next(self, now: float) -> bool:
        """Announce the first in the queue. False when a rate limit says later."""
        name = next(iter(self._to_announce))
        if name in self._announced or name in self._announcing:
            del self._to_announce[name]
            return True
        # A first contact costs two messages on the server: get-or-create, and the child's session (spec, 6.1).
        if not self._may_spend(self._messages_limit, 2, now):
            return False
        del self._to_announce[name]
        session = self._session
        self._announcing[name] = self._clock.callLater(
            ANNOUNCE_SECONDS, self._announcement_over, session, name, f"no PUBACK within {ANNOUNCE_SECONDS:g} s"
        )
        answer = self._uplink.publish(topics.CONNECT, payloads.connect(name, self._registry.profile(name)))
        answer.addCallbacks(
            lambda code: self._announcement_over(session, name, f"reason code {code}" if code >= 0x80 else ""),
            _link_down,
        )
        return True

    def _announcement_over(self, session: int, name: str, why: str) -> None:
        if session != self._session or name not in self._announcing:
            return
        timer = self._announcing.pop(name)
        if timer.active():
            timer.cancel()
        if why:
            self._events.emit(DeviceNotAnnounced(device=name, why=why))
        self._announced.add(name)
        self._pump()

    def _send_next(self, now: float) -> bool:
        """Publish the next row, or the next part of one. False when a rate limit says later."""
        sent = self._open
        if sent is None:
            row = self._ready.popleft()
            self._ready_bytes -= len(row.payload)
            pieces = self._pieces(row)
            if pieces is None:
                return True
            sent = self._open = _Sent(row, row.seq in self._retries, pieces)
        row = sent.row
        piece = sent.unsent[0]
        if not self._may_send(row.topic, piece, now):
            return False
        sent.unsent.popleft()
        if not sent.unsent:
            self._open = None
        sent.waiting += 1
        sent.sent_at = now
        self._publishes += 1
        self._sent[row.seq] = sent
        if row.topic == topics.DISCONNECT:
            self._announced.discard(row.devices[0])
            self._to_announce.pop(row.devices[0], None)
        if self._puback_timer is None:
            self._puback_timer = self._clock.callLater(PUBACK_SECONDS, self._puback_overdue)
        session = self._session
        answer = self._uplink.publish(row.topic, piece.payload, sent.dup)
        answer.addCallbacks(self._acknowledged, _link_down, callbackArgs=(session, sent))
        return True

    def _pieces(self, row: Row) -> deque[Piece] | None:
        """The row's payload, or several where it was stored under larger limits; None when it went to the dead
        letters."""
        limit = payloads.payload_limit(self._limits, row.topic, max(self._max_payload_bytes, 1))
        split = _SPLIT.get(row.topic)
        if split is None or (
            len(row.payload) <= limit and len(row.devices) <= self._max_devices and row.points <= self._max_points
        ):
            return deque((Piece(row.payload, len(row.devices), row.points),))
        try:
            pieces = split(row.payload, limit, self._max_devices, self._max_points)
        except ValueError as error:
            self._bury(row, "unreadable", Unsendable(topic=row.topic, why=str(error), devices=_named(row)))
            return None
        longest = max([len(piece.payload) for piece in pieces], default=0)
        if pieces and longest <= limit:
            return deque(pieces)
        # Rare twice over: a single value that fitted under the limit of its time and does not fit now.
        why = f"a value in it makes {longest} bytes, and {limit} is the limit" if pieces else "it is empty"
        self._bury(row, "too_large", Unsendable(topic=row.topic, why=why, devices=_named(row)))
        return None

    def _acknowledged(self, code: int, session: int, sent: _Sent) -> None:
        row = sent.row
        if session != self._session or self._sent.get(row.seq) is not sent:
            return
        self._publishes -= 1
        sent.waiting -= 1
        sent.code = max(sent.code, code)
        if code >= 0x80 and sent.unsent:
            sent.unsent.clear()  # the rest of a row that is sent again, or never, need not go now
            self._open = None
        if not (sent.waiting or sent.unsent):
            del self._sent[row.seq]
            if sent.code in RETRY_CODES:
                self._push_back(row, sent.code)
            else:
                self._highest_acknowledged = max(self._highest_acknowledged, row.seq)
                if sent.code >= 0x80:
                    self._bury(row, "refused", Refused(topic=row.topic, code=sent.code, devices=_named(row)))
                else:
                    self._delivered(sent)
        self._pump()
        if self.idle:
            self._idled()

    def _delivered(self, sent: _Sent) -> None:
        row = sent.row
        if sent.sent_at >= self._resume_at:
            self._pushed_back = 0  # since the last pause, so that ThingsBoard takes rows again
        self._retries.pop(row.seq, None)
        self.delivered_rows += 1
        self.delivered_messages += row.messages
        self._spool.delete((row.seq,))

    def _bury(self, row: Row, reason: str, event: Event) -> None:
        self._retries.pop(row.seq, None)
        self._events.emit(event)
        self._spool.bury(row, reason)

    def _push_back(self, row: Row, code: int) -> None:
        """ThingsBoard said: later. Everything waits, so that the order is kept."""
        if self._is_to_blame(row, code):
            strikes = self._retries[row.seq] = self._retries.get(row.seq, 0) + 1
            if strikes >= (STRIKES if code == 0x83 else TRIES):
                self._bury(row, "refused", Refused(topic=row.topic, code=code, devices=_named(row)))
                return
        self._retries.setdefault(row.seq, 0)
        self._take_back([row])
        now = self._clock.seconds()
        if code == 0x97:
            self._telemetry_limit.drain(now)
            self._points_limit.drain(now)
        if now >= self._resume_at:
            first, longest = PUSHED_BACK_SECONDS
            pause = min(longest, first * 2**self._pushed_back)
            self._pushed_back = min(self._pushed_back + 1, 10)
            self._resume_at = now + pause
            self._events.emit(QuotaReached(code=code, seconds=pause))

    def _is_to_blame(self, row: Row, code: int) -> bool:
        """
        Whether the answer is about this very row, and not about how ThingsBoard is: 0x83 says so by itself; otherwise
        the row was the first in line, and ThingsBoard took later ones in this session.
        """
        if code == 0x83:
            return True
        first_in_line = all(seq > row.seq for seq in self._sent) and not (self._ready and self._ready[0].seq < row.seq)
        return first_in_line and self._highest_acknowledged > row.seq

    # Limits and timers.

    def _may_send(self, topic: str, piece: Piece, now: float) -> bool:
        if topic == topics.DISCONNECT:
            return self._may_spend(self._messages_limit, 1, now)
        if not (self._telemetry_limit or self._points_limit):
            return True
        wait = max(
            self._telemetry_limit.wait_seconds(piece.devices, now), self._points_limit.wait_seconds(piece.points, now)
        )
        if wait > 0:
            self._sleep(wait)
            return False
        self._telemetry_limit.spend(piece.devices, now)
        self._points_limit.spend(piece.points, now)
        return True

    def _may_spend(self, limiter: RateLimiter, cost: int, now: float) -> bool:
        wait = limiter.wait_seconds(cost, now)
        if wait > 0:
            self._sleep(wait)
            return False
        limiter.spend(cost, now)
        return True

    def _sleep(self, seconds: float) -> None:
        """Look again after this time, or sooner if something else wants that."""
        if self._wake is None:
            self._wake = self._clock.callLater(seconds, self._woken)
        elif self._wake.getTime() > self._clock.seconds() + seconds:
            self._wake.reset(seconds)

    def _woken(self) -> None:
        self._wake = None
        self._pump()

    def _puback_overdue(self) -> None:
        """Look at the oldest publish; timers are armed anew rather than one for each publish."""
        self._puback_timer = None
        now = self._clock.seconds()
        ages = [(now - sent.sent_at, sent) for sent in self._sent.values() if sent.waiting]
        if not ages:
            return
        oldest, sent = max(ages, key=lambda entry: entry[0])
        if oldest < PUBACK_SECONDS - 0.001:  # less than that is rounding
            self._puback_timer = self._clock.callLater(PUBACK_SECONDS - oldest, self._puback_overdue)
            return
        self._events.emit(NotAcknowledgedInTime(topic=sent.row.topic, seconds=PUBACK_SECONDS))
        for age, sent in ages:
            if age >= PUBACK_SECONDS - 0.001 and self._highest_acknowledged > sent.row.seq:
                # The server works, and answers others: this payload itself may be what it never answers (fact 6).
                self._strike(sent)
        self._uplink.disrupt("a PUBACK did not come")

    def _strike(self, sent: _Sent) -> None:
        row = sent.row
        strikes = self._retries[row.seq] = self._retries.get(row.seq, 0) + 1
        if strikes >= STRIKES:
            del self._sent[row.seq]
            self._publishes -= sent.waiting
            if self._open is sent:
                self._open = None
            never = NeverAcknowledged(topic=row.topic, times=strikes, devices=_named(row))
            self._bury(row, "never_acknowledged", never)

    def _cancel_timers(self) -> None:
        for timer in (self._wake, self._puback_timer):
            if timer is not None:
                timer.cancel()
        self._wake = self._puback_timer = None

    # Reading from the store.

    def _fetch(self) -> None:
        self._fetching = True
        known = self._spool.last_seq
        rows = self._spool.fetch(self._tail_seq, FETCH_BYTES)
        rows.addCallbacks(self._fetched, self._not_fetched, callbackArgs=(known,))

    def _fetched(self, rows: list[Row], known: int) -> None:
        self._fetching = False
        for row in rows:
            if row.seq > self._tail_seq:  # some may have been dropped for room meanwhile
                self._ready.append(row)
                self._ready_bytes += len(row.payload)
        if rows:
            self._tail_seq = max(self._tail_seq, rows[-1].seq)
        else:
            self._tail_seq = max(self._tail_seq, known)
        self._lagging = self._tail_seq < self._spool.last_seq
        if self._up:
            self._pump()
            self._tell_if_idle()

    def _not_fetched(self, failure: Failure) -> None:
        # The spool has told its own listener what broke; there is nothing to add, and nothing more will come.
        failure.trap(StoreError)
        self._fetching = False


_SPLIT = {topics.TELEMETRY: payloads.split_telemetry, topics.ATTRIBUTES: payloads.split_attributes}
"""What can be cut into parts, and how."""


def _link_down(failure: Failure) -> None:
    """What was in flight was put back when the session ended; the failed Deferred says the same once more."""
    failure.trap(LinkDown)


def _named(row: Row) -> str:
    """The row's devices, for a log line: the first few, and how many more."""
    shown = ", ".join(repr(name) for name in row.devices[:3])
    return f"{shown} and {len(row.devices) - 3} more" if len(row.devices) > 3 else shown

