# -*- test-case-name: tests.uplink.test_fanout -*-
"""Who lives on the one session: each is told of its begin and end, and each message goes to the first who takes it.

The order is the builder's: who has to know of a session before anything of it is sent stands first. A message that
nobody takes goes to `rest`, who counts it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from zope.interface import implementer

from tbgw.interfaces import IUplinkListener
from tbgw.model import SessionLimits

Taker = Callable[[str, bytes], bool]
"""Looks at (topic, payload), and answers whether the message was its own. Never raises for what is in it."""


class Resident(Protocol):
    """Who is told of sessions; as in `IUplinkListener`."""

    def link_up(self, limits: SessionLimits) -> None:
        """A session is ready."""

    def link_down(self, code: int | None = None) -> None:
        """It is over."""


@implementer(IUplinkListener)
class FanOut:
    """See above."""

    def __init__(
        self, residents: Sequence[Resident], takers: Sequence[Taker], rest: Callable[[str, bytes], None]
    ) -> None:
        self._residents = tuple(residents)
        self._takers = tuple(takers)
        self._rest = rest

    def add_taker(self, taker: Taker) -> None:
        """Ask this one too, before those who were there."""
        self._takers = (taker, *self._takers)

    def link_up(self, limits: SessionLimits) -> None:
        """See `IUplinkListener.link_up`."""
        for resident in self._residents:
            resident.link_up(limits)

    def link_down(self, code: int | None = None) -> None:
        """See `IUplinkListener.link_down`."""
        for resident in self._residents:
            resident.link_down(code)

    def message_received(self, topic: str, payload: bytes) -> None:
        """See `IUplinkListener.message_received`."""
        for taker in self._takers:
            if taker(topic, payload):
                return
        self._rest(topic, payload)
