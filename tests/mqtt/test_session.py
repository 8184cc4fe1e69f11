"""Packet ids and what a session keeps."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbgw.mqtt.errors import LocalProtocolError
from tbgw.mqtt.session import InFlight, Session
from tbgw.mqtt.state import Delivery


class PacketIdTests(SynchronousTestCase):
    """An id is given out once at a time."""

    def test_round(self):
        """Ids go from 1 to 65535 and begin again at 1; 0 never comes."""
        session = Session()
        ids = [session.next_packet_id({}) for _ in range(65536)]
        self.assertEqual(ids[:2] + ids[-2:], [1, 2, 65535, 1])
        self.assertEqual(len(set(ids)), 65535)

    def test_taken_ids_are_passed_over(self):
        """Neither what is in flight nor what the caller has taken is given out, in the second round too."""
        session = Session()
        taken: dict[int, Any] = {2: None, 65535: None}
        session.inflight[1] = session.inflight[4] = InFlight(Delivery.WAIT_PUBACK, None, None)
        ids = [session.next_packet_id(taken) for _ in range(65531 * 2)]
        self.assertEqual(ids[:3], [3, 5, 6])
        self.assertTrue({1, 2, 4, 65535}.isdisjoint(ids))
        self.assertEqual(ids[65531:], ids[:65531])


class OwnershipTests(SynchronousTestCase):
    """A session has one connection at a time."""

    def test_attach(self):
        """The second connection is refused until the first is gone."""
        session = Session()
        session.attach()
        self.assertRaises(LocalProtocolError, session.attach)
        session.detach()
        session.attach()

    def test_abandon(self):
        """The contexts come back in the order of sending, once."""
        session = Session()
        for packet_id, context in ((7, "a"), (3, "b")):
            session.inflight[packet_id] = InFlight(Delivery.WAIT_PUBACK, context, None)
        self.assertEqual(len(session), 2)
        self.assertEqual(session.abandon(), ["a", "b"])
        self.assertEqual(session.abandon(), [])
