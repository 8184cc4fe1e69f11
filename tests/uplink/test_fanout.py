"""Each resident is told of sessions, in order; each message goes to the first who takes it."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tbgw.interfaces import IUplinkListener
from tbgw.model import SessionLimits
from tbgw.uplink.fanout import FanOut


class Resident:
    """Writes down what it is told."""

    def __init__(self, name: str, told: list[Any]) -> None:
        self.name, self.told = name, told

    def link_up(self, limits: SessionLimits) -> None:
        self.told.append((self.name, "up"))

    def link_down(self, code: int | None = None) -> None:
        self.told.append((self.name, code))


class FanOutTests(SynchronousTestCase):
    """Sessions and messages."""

    def test_sessions(self) -> None:
        """Begin and end are told to all, in the builder's order, with the reason code."""
        told: list[Any] = []
        link = FanOut([Resident("a", told), Resident("b", told)], [], lambda topic, payload: None)
        verifyObject(IUplinkListener, link)
        link.link_up(SessionLimits())
        link.link_down(0x8E)
        self.assertEqual(told, [("a", "up"), ("b", "up"), ("a", 0x8E), ("b", 0x8E)])

    def test_messages(self) -> None:
        """The first who says yes has it; those that came later are asked before; nobody's goes to the rest."""
        told: list[Any] = []

        def taker(name: str, topic: str) -> Any:
            def take(got: str, payload: bytes) -> bool:
                if got == topic:
                    told.append((name, payload))
                return got == topic

            return take

        link = FanOut([], [taker("a", "x")], lambda topic, payload: told.append(("rest", payload)))
        link.message_received("x", b"1")
        link.message_received("y", b"2")
        link.add_taker(taker("b", "x"))
        link.message_received("x", b"3")
        self.assertEqual(told, [("a", b"1"), ("rest", b"2"), ("b", b"3")])
