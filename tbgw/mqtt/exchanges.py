"""The exchanges of QoS 1 and 2 on one connection, in both directions, on the tables of its session. No bytes here.

As sender: PUBLISH, then PUBACK; or PUBLISH, PUBREC, PUBREL, PUBCOMP. The message is forgotten at PUBREC, its packet id
is free at PUBACK or PUBCOMP. After a reconnect what was not answered goes out again, as far as the peer's window
allows; the rest follows as answers come.

As receiver of QoS 2 (method A of section 4.3.3): the message is given to the owner at once, and taken over by
`acknowledged`, which is when PUBREC goes out and its id is remembered until PUBREL. The same id again in between is
answered and not given to the owner a second time. What the owner has not acknowledged when its connection ends is
given to it again when the peer sends it again.

Invariant: whatever the peer answers, to whatever id, there is always one reply at most and nothing raises but for a
peer that has more unanswered messages than our Receive Maximum.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from tbgw.mqtt.errors import RemoteProtocolError
from tbgw.mqtt.events import PublishAcknowledged
from tbgw.mqtt.packets import PacketType, PubAck, PubComp, Publish, PubRec, PubRel
from tbgw.mqtt.reason_codes import ReasonCode
from tbgw.mqtt.session import InFlight, Session
from tbgw.mqtt.state import DELIVERIES, FIRST_DELIVERY, Delivery

_FAILURE = 0x80
_ANSWERS: Final = {PubAck: PacketType.PUBACK, PubRec: PacketType.PUBREC, PubComp: PacketType.PUBCOMP}


class Exchanges:
    """One connection's view of its session."""

    def __init__(self, session: Session, *, protocol_version: int, receive_maximum: int | None) -> None:
        self.session = session
        self.resending: deque[int] = deque()
        """Packet ids that have to be sent again and wait for the peer's window."""
        self.ignored = 0
        """Acknowledgements for ids that were not in flight."""
        self._unknown = ReasonCode.PACKET_IDENTIFIER_NOT_FOUND if protocol_version >= 5 else 0
        self._receive_maximum = receive_maximum
        self._unanswered = 0

    # --- our messages --------------------------------------------------------------------------------------------

    def resume(self, *, session_present: bool) -> Iterator[PubRel | PublishAcknowledged]:
        """
        The peer is there again: PUBRELs to be sent again, and exchanges that end because the peer forgot them after
        it had taken the message. Publishes are put into `resending`.
        """
        if not session_present:
            self.session.received.clear()
        for packet_id, entry in list(self.session.inflight.items()):
            if entry.waits_for is not Delivery.WAIT_PUBCOMP:
                publish = entry.publish
                assert publish is not None  # noqa: S101 - only a kept session begins with something in flight
                entry.waits_for = FIRST_DELIVERY[publish.qos]
                self.resending.append(packet_id)
            elif session_present:
                yield PubRel(packet_id=packet_id)
            else:
                del self.session.inflight[packet_id]
                yield PublishAcknowledged(packet_id, entry.reason_code, entry.context)

    def next_resent(self, window: int) -> tuple[int, InFlight] | None:
        """What to send again next, or None when there is nothing or the window is full."""
        inflight = self.session.inflight
        while self.resending and len(inflight) - len(self.resending) < window:
            packet_id = self.resending.popleft()
            entry = inflight.get(packet_id)
            if entry is not None:
                return packet_id, entry
        return None

    def answered(self, packet: PubAck | PubRec | PubComp) -> tuple[PubRel | None, PublishAcknowledged | None]:
        """An answer to a message of ours: what to reply, and what to tell the owner."""
        packet_id = packet.packet_id
        inflight = self.session.inflight
        entry = inflight.get(packet_id)
        is_pubrec = type(packet) is PubRec
        if entry is None or packet_id in self.resending:
            self.ignored += 1
            # A PUBREC is answered even so: the peer holds the id until it gets its PUBREL.
            return (PubRel(packet_id=packet_id, reason_code=self._unknown) if is_pubrec else None), None
        following = DELIVERIES.get((entry.waits_for, _ANSWERS[type(packet)]))
        if following is None:
            self.ignored += 1
            return None, None
        if is_pubrec:
            if packet.reason_code < _FAILURE:
                if entry.waits_for is not following:
                    entry.waits_for = following
                    entry.reason_code = packet.reason_code
                    entry.publish = None
                return PubRel(packet_id=packet_id), None
            if entry.waits_for is Delivery.WAIT_PUBCOMP:  # it had taken the message before
                self.ignored += 1
                return None, None
        del inflight[packet_id]
        # A PUBCOMP has nothing to say about the message: that was its PUBREC.
        code = entry.reason_code if type(packet) is PubComp else packet.reason_code
        return None, PublishAcknowledged(packet_id, code, entry.context)

    # --- the peer's messages -------------------------------------------------------------------------------------

    @property
    def counts(self) -> bool:
        """Whether QoS 1 messages of the peer have to be told to `arrived` too."""
        return self._receive_maximum is not None

    def arrived(self, publish: Publish) -> tuple[bool, PubRec | None]:
        """
        A QoS 1 or 2 message came: whether it is new, and what to reply at once. Raises RemoteProtocolError when there
        are more than our Receive Maximum.
        """
        packet_id = publish.packet_id
        assert packet_id is not None  # noqa: S101 - for mypy: the codec lets no other in
        if publish.qos == 2:
            taken = self.session.received.get(packet_id)
            if taken is not None:
                return False, PubRec(packet_id=packet_id) if taken else None
            self.session.received[packet_id] = False
        self._unanswered += 1
        if self._receive_maximum is not None and self._unanswered > self._receive_maximum:
            raise RemoteProtocolError(
                f"more than {self._receive_maximum} unacknowledged messages (section 3.3.4)",
                ReasonCode.RECEIVE_MAXIMUM_EXCEEDED,
            )
        return True, None

    def acknowledged(self, publish: Publish, reason_code: int) -> PubAck | PubRec | None:
        """The owner took over, or refused, a message: what to say to the peer."""
        packet_id = publish.packet_id
        if packet_id is None:
            return None
        if publish.qos == 1:
            self._answer_one()
            return PubAck(packet_id=packet_id, reason_code=reason_code)
        if self.session.received.get(packet_id, True):
            return None  # said before, or the exchange is over
        if reason_code < _FAILURE:
            self.session.received[packet_id] = True
        else:
            del self.session.received[packet_id]
            self._answer_one()
        return PubRec(packet_id=packet_id, reason_code=reason_code)

    def released(self, packet: PubRel) -> PubComp:
        """The peer's PUBREL: the id is free."""
        if self.session.received.pop(packet.packet_id, None) is None:
            return PubComp(packet_id=packet.packet_id, reason_code=self._unknown)
        self._answer_one()
        return PubComp(packet_id=packet.packet_id)

    def _answer_one(self) -> None:
        # Not below zero: ThingsBoard, and so our sandbox, acknowledges one message several times.
        if self._unanswered:
            self._unanswered -= 1
