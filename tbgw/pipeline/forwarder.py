# -*- test-case-name: tests.pipeline.test_forwarder -*-
"""Sends what is stored to ThingsBoard, oldest first, and has it deleted once it is acknowledged.

What holds:

- A row is deleted after its PUBACK, never before, and not before all rows that were sent ahead of it have theirs. One
  whose session ended without it is sent again, marked as a duplicate.
- Rows leave in their order. What came back, from a lost session or because ThingsBoard said "later", is put in front
  again, in its order, and whatever was sent after it and speaks of a device of it goes again too, acknowledged or not:
  so the last that ThingsBoard hears of a device is always the last that the device said, at the price of duplicates.
- A row waits until each of its devices was announced in this session and ThingsBoard has acknowledged that.
- At most the window's number of publishes are without PUBACK, announcements included, and the rate limits hold. A row
  that is more than these let through at once goes in parts, in order, and is delivered when all are.
- On MQTT 3.1.1 a PUBACK may stand for a refusal, so that a row has a grace after it (`grace`); when the session ends
  in it, the row is sent again.
- No row holds up the others for ever: what ThingsBoard answers badly, or not at all, or with the end of the session,
  again and again while it takes other data, is taken apart (`examination`), and the culprit goes to the dead letters.
- Memory is flat whatever is stored: the rows kept ready (`ready`), those acknowledged but not yet deleted
  (`inflight`, `grace`) and the window have bounds.

Considered and dropped: one row in flight for each device (keeps order without duplicates, but packed rows speak of many
devices, so it would be one row in flight at all); deleting rows as their PUBACKs come (PUBACKs may come out of order,
spec thingsboard-mqtt fact 5, and a row that comes back after a later one is gone would be the device's last word).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.errors import LinkDown
from tbgw.interfaces import IDropListener, ISpool, IUplink, IUplinkListener
from tbgw.internal_events import Event, Events
from tbgw.model import Row, SessionLimits
from tbgw.pipeline.activity import ChildSessions
from tbgw.pipeline.announcements import Announcements
from tbgw.pipeline.cutting import Uncuttable, cut, named
from tbgw.pipeline.devices import DeviceRegistry
from tbgw.pipeline.examination import (
    BLAMES,
    NEVER_ACKNOWLEDGED,
    REFUSED,
    RETRIES_EXHAUSTED,
    RETRY_CODES,
    Examination,
)
from tbgw.pipeline.grace import Grace
from tbgw.pipeline.inflight import PROBE_SEQ, InFlight, Sent
from tbgw.pipeline.internal_events import (
    NeverAcknowledged,
    NotAcknowledgedInTime,
    PartBuried,
    QuotaReached,
    Refused,
    RowExamined,
    Unsendable,
)
from tbgw.pipeline.pauses import LIMIT_CLOSES, Pauses
from tbgw.pipeline.ratelimit import Budget, at_once
from tbgw.pipeline.ready import Ready
from tbgw.pipeline.renaming import Following, Renaming
from tbgw.thingsboard import payloads, topics
from tbgw.thingsboard.payloads import Piece

PUBACK_SECONDS = 30.0
"""How long a PUBACK may take (spec thingsboard-mqtt, Appendix A rule 4)."""

STRIKES = 3
"""Sessions in which a row stayed without PUBACK though later ones got theirs, or answers that blame the payload (0x83,
after which ThingsBoard closes the session), before one that cannot be taken apart goes to the dead letters."""

TRIES = 8
"""Answers "later" to one row, before it is taken apart; for a row that cannot be: each while ThingsBoard takes later
rows, before it goes to the dead letters. A device that ThingsBoard cannot create must not hold up all others."""

HELD_BYTES = 2 * 1024 * 1024
"""Rows that are acknowledged and wait for others, at most, before nothing more is sent."""


@implementer(IUplinkListener, IDropListener)
class Forwarder:
    """
    Between spool and uplink. `idled` is called whenever all that could be sent has been acknowledged; `combine` gives
    the limits that hold, of those that ThingsBoard announces.
    """

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
        combine: Callable[[SessionLimits], SessionLimits] = lambda limits: limits,
        backlog_share: float = 1.0,
        renaming: Renaming | None = None,
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
        self._combine = combine
        self._backlog_share = backlog_share
        self._up = False
        self._limits = SessionLimits()
        self._at_once = at_once(self._limits)
        self._budget = Budget(SessionLimits(), 0.0)
        self._renaming = renaming
        followed = Following(renaming, spool, events, self._delivered, self._bury) if renaming is not None else None
        self._sessions: ChildSessions | None = None
        self._ready = Ready(spool, self._fetched, followed.current if followed is not None else _as_it_is)
        self._backlog_seq = 0
        """Rows up to this one count as backlog: they were there before the session, or piled up beyond memory."""
        self._flight = InFlight()
        self._grace = Grace()
        self._retries: dict[int, int] = {}
        """Strikes of rows that came back; rows with an entry are sent marked as duplicates."""
        self._answers: dict[int, int] = {}
        """Answers "later" to a row, whoever is to blame."""
        self._examination = Examination()
        self._announcements = Announcements(uplink, registry, clock, events, self._pump)
        self._highest_acknowledged = 0
        self._wake: IDelayedCall | None = None
        self._puback_timer: IDelayedCall | None = None
        self._pauses = Pauses()
        self._overdue = False
        """Whether it was us who ended the session, because a PUBACK did not come."""
        self._session = 0
        self._announce_first = False
        """Announcements and data take turns, so that a long backlog does not keep other devices' commands away."""
        self._idle_waiters: list[Deferred[None]] = []
        self.delivered_messages = 0
        self.delivered_rows = 0

    # What the builder and ingest call.

    def start(self) -> None:
        """The spool is open: what it holds from earlier is to be sent first."""
        self._ready.start()

    def appended(self, rows: list[Row]) -> None:
        """These rows were just given to the spool."""
        self._ready.append(rows)
        if self._ready.lagging:
            self._backlog_seq = rows[-1].seq
        if self._up:
            self._pump()

    @property
    def idle(self) -> bool:
        """Whether the link is up and everything stored has been acknowledged."""
        flight, ready = self._flight, self._ready
        return self._up and not (flight.sent or flight.open or ready.rows or ready.lagging or self._examination.case)

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
        return len(self._flight.unanswered())

    def moved(self, old: str, new: str | None) -> None:
        """
        ThingsBoard calls a device by another name, or has deleted it (None), and `renaming` knows. From here on nothing
        leaves under the old name.
        """
        self._ready.renew()
        back = self._flight.moved(self._renaming.name) if self._renaming is not None else []
        open_row = self._flight.take_open()
        self._examination.moved(old, new)
        if self._up:
            self._announcements.moved(old, new)
        if self._sessions is not None:
            self._sessions.gone(old)
        for row in back:
            self._come_back(row)
        if open_row is not None:
            self._ready.take_back([open_row])
        self._pump()

    def set_sessions(self, sessions: ChildSessions | None) -> None:
        """Who keeps the devices' own sessions in ThingsBoard alive from now on; None for nobody."""
        if self._sessions is not None:
            self._sessions.clear()
        self._sessions = sessions

    def refresh(self, name: str, end: bool) -> None:
        """Begin the device's own session in ThingsBoard anew; `end`: the old one is still there and is ended first."""
        if self._up and name in self._announcements.done:
            self._announcements.begin_anew(name, end)
            self._pump()

    # What the spool calls.

    def rows_dropped(self, last_seq: int) -> None:
        """See `IDropListener.rows_dropped`."""
        self._ready.drop(last_seq)
        row = self._flight.take_open()
        if row is not None and row.seq > last_seq:
            self._ready.take_back([row])
        for counts in (self._retries, self._answers):
            for seq in [seq for seq in counts if seq <= last_seq]:
                del counts[seq]
        self._examination.forget(last_seq)

    # What the uplink calls.

    def link_up(self, limits: SessionLimits) -> None:
        """See `IUplinkListener.link_up`."""
        self._session += 1
        self._up = True
        limits = self._combine(limits)
        if limits != self._limits:
            # Else what was spent in the last session stays spent: the server's buckets do not refill at a reconnect.
            # Nor does a pause end with one: ThingsBoard closes the session when it says "later" to a payload.
            self._limits, self._at_once = limits, at_once(limits)
            self._budget = Budget(limits, self._clock.seconds(), self._backlog_share)
        self._highest_acknowledged = 0
        self._overdue = False
        self._grace.on = limits.doubtful_pubacks
        self._backlog_seq = self._spool.last_seq
        self._examination.session_begins()
        self._announcements.begin()
        self._limits_changed(limits)  # ingest may close its pack now and call `appended`, so this comes last
        self._pump()
        if self.idle:
            self._idled()

    def link_down(self, code: int | None = None) -> None:
        """See `IUplinkListener.link_down`. `code`: the reason code of ThingsBoard's DISCONNECT, on MQTT 5."""
        self._up = False
        self._session += 1
        if self._announcements.under_way and not self._overdue:
            self._budget.drain_messages(self._clock.seconds())
        self._announcements.end()
        if self._sessions is not None:
            self._sessions.clear()
        self._cancel_timers()
        doubted = self._grace.lost()
        self._judge(self._clock.seconds(), code, [] if self._overdue else doubted)
        open_row = self._flight.take_open()
        through, back = self._flight.lost()
        if self._grace.on:
            back = [*(sent.row for sent in doubted if not sent.alone), *through, *back]
        else:
            for row in through:
                self._delivered(row)
        for row in back:
            self._retries.setdefault(row.seq, 0)
        self._ready.take_back(back if open_row is None else [*back, open_row])
        self._release_waiters()

    def _judge(self, now: float, code: int | None, doubted: list[Sent]) -> None:
        """A session ended: what, of what was in flight or `doubted`, may be the reason?"""
        in_flight = doubted + self._flight.unanswered(also_held=self._grace.on and not self._overdue)
        if code in LIMIT_CLOSES:
            self._pause(code, now)
        if self._pauses.explains(code, now):
            return
        if in_flight and not self._overdue:
            self._pauses.closed(now)
            self._budget.drain(now)  # on 3.1.1 ThingsBoard says nothing else when a rate limit is reached
        if self._examination.case is None:
            self._examination.closed([sent.row for sent in in_flight if not sent.alone], now)
        elif in_flight and in_flight[0].row.seq != PROBE_SEQ:
            self._examination.part_unanswered(now, self._overdue, bool(doubted))
        else:
            self._examination.probe_unanswered(now)

    def message_received(self, topic: str, payload: bytes) -> None:
        """See `IUplinkListener.message_received`."""
        now = self._clock.seconds()
        self._budget.received(topic, now)
        if topic == topics.DISCONNECT:
            # Not to be subscribed to, so it is ThingsBoard's own: before it closes the session, it says for whom.
            code = payloads.disconnect_reason(payload)
            if code in LIMIT_CLOSES:
                self._pause(code, now)
            if name := payloads.disconnected_device(payload):
                self._announcements.begin_anew(name, False)
                self._pump()
        self._message_received(topic, payload)

    # Sending.

    def _come_back(self, row: Row) -> None:
        """This row has to be sent again, and with it what was sent after it and speaks of the same devices."""
        back = [row, *self._flight.behind(row)]
        for returned in back:
            self._retries.setdefault(returned.seq, 0)
        open_row = self._flight.take_open()
        self._ready.take_back(back if open_row is None else [*back, open_row])

    def _pump(self) -> None:
        """Send all that may be sent now. The only place that sends."""
        now = self._clock.seconds()
        if not self._up:
            return
        for sent in self._grace.over(now):
            self._settled(sent, now)
        if self._grace:
            self._sleep(self._grace.seconds_left(now))
        if now < self._pauses.resume_at:
            self._sleep(self._pauses.resume_at - now)
            return
        announcements, flight = self._announcements, self._flight
        may_announce = may_send = True  # until a rate limit says no
        while self._up and (publishes := flight.publishes + announcements.publishes) < self._at_once.window:
            head = self._ready.head
            alone = self._examination.alone(head)
            unsure = alone and self._grace.unsure(now, self._examination.in_parts(head))
            if unsure or (alone and (flight.publishes or announcements.under_way)):
                break
            if alone:
                self._examination.settle_names()
            if alone and head is not None and flight.open is None and self._examination.case is None:
                self._examination.suspicion.forget(head.seq - 1)  # dropped, or delivered in another way
            row_waits_to_go = may_send and not flight.returning and self._can_send()
            if may_announce and (self._announce_first or not row_waits_to_go) and announcements.skip_known():
                count = announcements.next_publishes
                fits = publishes + count <= max(self._at_once.window, count)
                wait = self._budget.announce(now, count) if fits else 0.0
                if wait > 0 or not fits:  # there is room with the next PUBACK
                    if wait > 0:
                        self._sleep(wait)
                    may_announce = False
                else:
                    name = announcements.send_next()
                    if self._sessions is not None:
                        self._sessions.touched((name,))
            elif row_waits_to_go:
                may_send = self._send_alone(now) if alone and flight.open is None else self._send_next(now)
            else:
                break
            self._announce_first = not self._announce_first
        if self._up:
            self._ready.fill()

    def _can_send(self) -> bool:
        """Whether there is a row to send, and its devices have been announced; else sees to it that they will be."""
        if self._flight.open is not None:
            return True
        case = self._examination.case
        if case is not None:
            return self._covers(case.row)
        head = self._ready.head
        held_bytes = self._flight.held_bytes + self._grace.bytes
        return head is not None and held_bytes < HELD_BYTES and self._covers(head)

    def _covers(self, row: Row) -> bool:
        if row.topic == topics.DISCONNECT:
            return row.devices[0] not in self._announcements.under_way  # the two must not be mixed up
        return self._announcements.cover(row.devices)

    def _send_next(self, now: float) -> bool:
        """Publish the next row, or the next part of one. False when a rate limit says later."""
        flight = self._flight
        sent = flight.open
        if sent is None:
            row = self._ready.pop()
            pieces = self._pieces(row)
            if pieces is None:
                return True
            sent = flight.open = Sent(row, row.seq in self._retries, pieces)
        row = sent.row
        piece = sent.unsent[0]
        if not self._may_send(row, piece.devices, piece.points, now):
            return False
        sent.unsent.popleft()
        if not sent.unsent:
            flight.open = None
        if row.topic == topics.DISCONNECT:
            self._announcements.gone(row.devices[0])
            if self._sessions is not None:
                self._sessions.gone(row.devices[0])
        elif self._sessions is not None:
            self._sessions.touched(row.devices)
        self._publish(sent, row.topic, piece.payload, now)
        return True

    def _publish(self, sent: Sent, topic: str, payload: bytes, now: float) -> None:
        sent.waiting += 1
        sent.sent_at = now
        sent.published = self._grace.pubacks
        self._flight.publishes += 1
        self._flight.sent[sent.row.seq] = sent
        if self._puback_timer is None:
            self._puback_timer = self._clock.callLater(PUBACK_SECONDS, self._puback_overdue)
        answer = self._uplink.publish(topic, payload, sent.dup)
        answer.addCallbacks(self._acknowledged, _link_down, callbackArgs=(self._session, sent))

    def _may_send(self, row: Row, devices: int, points: int, now: float) -> bool:
        wait = self._budget.send(row.topic, devices, points, now, row.seq <= self._backlog_seq)
        if wait > 0:
            self._sleep(wait)
        return wait <= 0

    def _send_alone(self, now: float) -> bool:
        """Send the next part of the row under examination, or the first in line. False as for `_send_next`."""
        examination = self._examination
        if examination.case is None:
            head = self._ready.head
            if head is None or head.seq not in examination.due:
                return self._send_next(now)  # it has to go first, or is a suspect that goes as a whole
            row = self._ready.pop()
            examination.begin(row)
            self._events.emit(RowExamined(topic=row.topic, devices=named(row)))
        case = examination.case
        if case is None:
            return True
        limit = payloads.payload_limit(self._limits, case.row.topic, max(self._max_payload_bytes, 1))
        while case.todo and len(case.todo[0].payload) > limit:
            examination.part_too_large()
        if not case.todo:
            self._close_case(now)
            return True
        part = case.todo[0]
        if examination.wants_probe and (self._announcements.done or part.devices):
            name = examination.probe_device(self._announcements.done, part, now)
            payload = payloads.encode({name: {"connectorName": self._registry.connector(name)}})
            part = payloads.Part(payload, (name,), 1)
            row = Row(PROBE_SEQ, topics.ATTRIBUTES, part.payload, part.devices, 0, part.points)
        else:
            row = case.row
        if not self._may_send(row, len(part.devices), part.points, now):
            return False
        if row.topic == topics.DISCONNECT:
            self._announcements.gone(row.devices[0])
        self._publish(Sent(row, row.seq in self._retries, deque(), alone=True), row.topic, part.payload, now)
        return True

    def _close_case(self, now: float) -> None:
        """When nothing of the row under examination is left to do: what was bad of it is buried, then it is deleted."""
        case = self._examination.finish(now)
        if case is None:
            return
        row = case.row
        letters = case.dead_letters()
        for letter, reason in letters:
            size = len(letter.payload)
            self._events.emit(PartBuried(topic=row.topic, reason=reason, devices=named(letter), size_bytes=size))
            self._spool.bury(letter, reason)
        self._forget(row)
        if letters and letters[0][0] is row:
            return
        self.delivered_rows += 1
        self.delivered_messages += max(0, row.messages - len(letters))
        self._spool.delete((row.seq,))

    def _pieces(self, row: Row) -> deque[Piece] | None:
        """The row's payload, or several where it was stored under larger limits; None when it went to the dead
        letters."""
        limit = payloads.payload_limit(self._limits, row.topic, max(self._max_payload_bytes, 1))
        try:
            return cut(row, limit, self._at_once.devices, self._at_once.points)
        except Uncuttable as error:
            self._bury(row, error.reason, Unsendable(topic=row.topic, why=str(error), devices=named(row)))
            return None

    def _acknowledged(self, code: int, session: int, sent: Sent) -> None:
        flight = self._flight
        if session != self._session or flight.sent.get(sent.row.seq) is not sent:
            return
        now = self._clock.seconds()
        flight.publishes -= 1
        sent.waiting -= 1
        sent.code = max(sent.code, code)
        if code < 0x80:
            if not self._grace.on:
                self._accepted(sent, now)
            self._pauses.acknowledged(sent.sent_at)
        elif sent.unsent:
            flight.unsend(sent)  # the rest of a row that is sent again, or never, need not go now
        if not (sent.waiting or sent.unsent):
            self._grace.acknowledged(sent, now)
            if not sent.alone:
                self._answered(sent, now)
            else:
                flight.remove(sent)
                if self._grace.on and code < 0x80:
                    self._grace.add(sent)
                else:
                    self._answered_alone(sent, code, now)
            for settled in self._grace.proven(sent):
                self._settled(settled, now)
        self._pump()
        self._tell_if_idle()

    def _accepted(self, sent: Sent, now: float) -> None:
        """ThingsBoard took it, or a part of it."""
        if sent.row.seq != PROBE_SEQ or not self._grace.on:
            self._pauses.taken()
        self._examination.accepted(now)

    def _settled(self, sent: Sent, now: float) -> None:
        """The grace after its PUBACK is over."""
        self._accepted(sent, now)
        if sent.alone:
            self._answered_alone(sent, 0, now)
        else:
            self._examination.delivered(sent.row.seq, now)
            self._delivered(sent.row)

    def _answered(self, sent: Sent, now: float) -> None:
        """All PUBACKs of a row are there."""
        row, flight = sent.row, self._flight
        if sent.again:
            flight.remove(sent)
            self._come_back(row)
        elif sent.code in RETRY_CODES:
            flight.remove(sent)
            self._push_back(row, sent.code, now)
        elif sent.code < 0x80:
            self._highest_acknowledged = max(self._highest_acknowledged, row.seq)
            if not self._grace.on:
                self._examination.delivered(row.seq, now)
            flight.hold(sent)
        else:
            self._highest_acknowledged = max(self._highest_acknowledged, row.seq)
            flight.remove(sent)
            if sent.code == 0x99 and payloads.parts(row.topic, row.payload):
                self._examine(row)
            else:
                self._bury(row, REFUSED, Refused(topic=row.topic, code=sent.code, devices=named(row)))
        for through in flight.release():
            if self._grace.on:
                self._grace.add(through)
            else:
                self._delivered(through.row)

    def _answered_alone(self, sent: Sent, code: int, now: float) -> None:
        """PUBACK for a probe or a part of the row under examination."""
        known = code == 0x80 and self._examination.suspicion.condemned(sent.row.devices, RETRIES_EXHAUSTED, now)
        if sent.row.seq != PROBE_SEQ:
            self._examination.part_answered(code, now)
            self._close_case(now)
        if code in RETRY_CODES and not known:
            self._pause(code, now)

    def _delivered(self, row: Row) -> None:
        self._forget(row)
        self.delivered_rows += 1
        self.delivered_messages += row.messages
        self._spool.delete((row.seq,))

    def _forget(self, row: Row) -> None:
        self._retries.pop(row.seq, None)
        self._answers.pop(row.seq, None)

    def _bury(self, row: Row, reason: str, event: Event) -> None:
        self._forget(row)
        self._examination.delivered(row.seq, self._clock.seconds())
        self._events.emit(event)
        self._spool.bury(row, reason)

    def _examine(self, row: Row) -> None:
        """The row is to be taken apart, when it is first in line again."""
        self._examination.due.add(row.seq)
        self._come_back(row)

    def _push_back(self, row: Row, code: int, now: float) -> None:
        """ThingsBoard said: later. Everything waits, so that the order is kept."""
        answers = self._answers[row.seq] = self._answers.get(row.seq, 0) + 1
        known = self._examination.suspicion.condemned(row.devices, RETRIES_EXHAUSTED, now)
        if self._is_to_blame(row, code):
            strikes = self._retries[row.seq] = self._retries.get(row.seq, 0) + 1
        else:
            strikes = 0
        if payloads.parts(row.topic, row.payload):
            enough = answers >= (BLAMES if code == 0x83 else TRIES)
        elif strikes >= (STRIKES if code == 0x83 else TRIES):
            self._pauses.explained(now)
            reason = REFUSED if code == 0x83 else RETRIES_EXHAUSTED
            self._bury(row, reason, Refused(topic=row.topic, code=code, devices=named(row)))
            self._examination.suspicion.condemn(row.devices, reason, now)
            return
        else:
            enough = answers >= 2 * TRIES  # nobody else was there to show that it is the row
        if enough or known:
            self._examine(row)
        else:
            self._come_back(row)
        if not known or code not in (0x80, 0x97):
            self._pause(code, now)
        self._pauses.explained(now)

    def _pause(self, code: int, now: float) -> None:
        """ThingsBoard cannot take more: nothing is sent for a while, each time for longer."""
        if code in LIMIT_CLOSES:
            self._budget.drain(now)
        if pause := self._pauses.said_later(now):
            self._events.emit(QuotaReached(code=code, seconds=pause))

    def _is_to_blame(self, row: Row, code: int) -> bool:
        """
        Whether the answer is about this very row, and not about how ThingsBoard is: 0x83 says so by itself; otherwise
        the row was the first in line, and ThingsBoard took later ones in this session.
        """
        if code == 0x83:
            return True
        head = self._ready.head
        first_in_line = all(seq > row.seq for seq in self._flight.sent) and (head is None or head.seq > row.seq)
        return first_in_line and self._highest_acknowledged > row.seq

    # Timers.

    def _sleep(self, seconds: float) -> None:
        """Look again after this time, or sooner if something else wants that."""
        if self._wake is None:
            self._wake = self._clock.callLater(seconds, self._woken)
        elif self._wake.getTime() > self._clock.seconds() + seconds:
            self._wake.reset(seconds)

    def _woken(self) -> None:
        self._wake = None
        self._pump()
        self._tell_if_idle()

    def _puback_overdue(self) -> None:
        """Look at the oldest publish; timers are armed anew rather than one for each publish."""
        self._puback_timer = None
        now = self._clock.seconds()
        ages = [(now - sent.sent_at, sent) for sent in self._flight.sent.values() if sent.waiting]
        if not ages:
            return
        oldest, sent = max(ages, key=lambda entry: entry[0])
        if oldest < PUBACK_SECONDS - 0.001:  # less than that is rounding
            self._puback_timer = self._clock.callLater(PUBACK_SECONDS - oldest, self._puback_overdue)
            return
        self._events.emit(NotAcknowledgedInTime(topic=sent.row.topic, seconds=PUBACK_SECONDS))
        for age, sent in ages:
            if not sent.alone and age >= PUBACK_SECONDS - 0.001 and self._highest_acknowledged > sent.row.seq:
                # The server works, and answers others: this payload itself may be what it never answers (fact 6).
                self._strike(sent)
        self._overdue = True
        self._uplink.disrupt("a PUBACK did not come")

    def _strike(self, sent: Sent) -> None:
        row = sent.row
        strikes = self._retries[row.seq] = self._retries.get(row.seq, 0) + 1
        if strikes < STRIKES:
            return
        if payloads.parts(row.topic, row.payload):
            self._examination.due.add(row.seq)
            return
        self._flight.remove(sent)
        never = NeverAcknowledged(topic=row.topic, times=strikes, devices=named(row))
        self._bury(row, NEVER_ACKNOWLEDGED, never)

    def _cancel_timers(self) -> None:
        for timer in (self._wake, self._puback_timer):
            if timer is not None:
                timer.cancel()
        self._wake = self._puback_timer = None

    def _fetched(self) -> None:
        """The store was read."""
        if self._up:
            self._pump()
            self._tell_if_idle()


def _as_it_is(row: Row) -> Row:
    return row


def _link_down(failure: Failure) -> None:
    """What was in flight was put back when the session ended; the failed Deferred says the same once more."""
    failure.trap(LinkDown)
