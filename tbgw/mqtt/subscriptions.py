"""Who gets a message: the subscriptions of all sessions, by topic filter. Pure; `S` is whatever stands for a session.

Filters without a wildcard are found by their topic; those with one are tried one after the other, once for each
distinct filter. A shared subscription gives each message to one of its members, in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tbgw.mqtt.packets import Subscription
from tbgw.mqtt.topics import matches, split_shared

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Granted:
    """A subscription as it was granted, with its identifier (MQTT 5)."""

    subscription: Subscription
    identifier: int | None


@dataclass(slots=True)
class _Filter(Generic[S]):
    members: dict[S, Granted] = field(default_factory=dict)
    # By share name; the order of the members is the order of their turns.
    groups: dict[str, dict[S, Granted]] = field(default_factory=dict)


class SubscriptionTable(Generic[S]):
    """All subscriptions. Its size is bounded by who adds to it."""

    def __init__(self) -> None:
        self._exact: dict[str, _Filter[S]] = {}
        self._wild: dict[str, _Filter[S]] = {}

    def _where(self, proper: str) -> dict[str, _Filter[S]]:
        return self._wild if "+" in proper or "#" in proper else self._exact

    def add(self, session: S, granted: Granted) -> None:
        """Or replace what this session had under the same filter."""
        group, proper = split_shared(granted.subscription.topic_filter)
        entry = self._where(proper).setdefault(proper, _Filter())
        members = entry.members if group is None else entry.groups.setdefault(group, {})
        members[session] = granted

    def remove(self, session: S, topic_filter: str) -> bool:
        """Whether it was there."""
        group, proper = split_shared(topic_filter)
        where = self._where(proper)
        entry = where.get(proper)
        if entry is None:
            return False
        members = entry.members if group is None else entry.groups.get(group, {})
        found = members.pop(session, None) is not None
        if group is not None and not members:
            entry.groups.pop(group, None)
        if not entry.members and not entry.groups:
            del where[proper]
        return found

    def receivers(self, topic: str, available: Callable[[S], bool]) -> Iterator[tuple[S, Granted]]:
        """
        Each subscription that a message on `topic` belongs to. Of the members of a share the next one in turn, if
        there is one, that is `available`.
        """
        entry = self._exact.get(topic)
        if entry is not None:
            yield from self._of(entry, available)
        for topic_filter, entry in self._wild.items():
            if matches(topic_filter, topic):
                yield from self._of(entry, available)

    def _of(self, entry: _Filter[S], available: Callable[[S], bool]) -> Iterator[tuple[S, Granted]]:
        yield from entry.members.items()
        for members in entry.groups.values():
            session = next((each for each in members if available(each)), next(iter(members)))
            granted = members.pop(session)
            members[session] = granted  # to the end of the row
            yield session, granted
