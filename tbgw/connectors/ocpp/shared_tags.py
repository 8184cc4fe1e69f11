# -*- test-case-name: tests.connectors.ocpp.test_reports -*-
"""The idTags of a charge point's shared attribute (`authorization.fromSharedAttribute`): asked for when it connects,
followed while they change, kept over restarts.

ThingsBoard may be out of reach when a charge point comes: what was known before holds, and it is asked again while the
charge point is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from tbgw.connectors.ocpp.authorization import tags_of
from tbgw.connectors.ocpp.charge_point import KnownStation
from tbgw.connectors.ocpp.report_events import TagsUnusable
from tbgw.interfaces import IDownlink
from tbgw.internal_events import Events
from tbgw.model import Value

ASK_AGAIN_SECONDS = 60.0
"""After a question that failed."""


class SharedTags:
    """See the module."""

    def __init__(
        self,
        connector: str,
        downlink: IDownlink | None,
        reactor: Any,
        events: Events,
        keep: Callable[[KnownStation], None],
    ) -> None:
        """`downlink` None: nobody is asked. `keep(known)`: its record's tags changed."""
        self._connector = connector
        self._downlink = downlink
        self._reactor = reactor
        self._events = events
        self._keep = keep
        self._questions: dict[str, IDelayedCall] = {}
        """By path: when it is asked again."""
        self._closed = False

    def ask(self, known: KnownStation) -> None:
        """The charge point is there, and is this device."""
        entry, device, station = known.entry, known.device, known.station
        if self._downlink is None or entry is None or device is None or station is None or self._closed:
            return
        policy = entry.policy.authorization
        key, path = policy.shared_attribute, known.record.path
        if key is None or policy.mode != "list":
            return

        def answered(values: dict[str, Value]) -> None:
            self._take(known, device.name, key, values.get(key))  # absent: deleted while it was away

        def failed(why: Failure) -> None:
            if known.station is station and known.device is device and not self._closed:
                self.forget(path)
                self._questions[path] = self._reactor.callLater(ASK_AGAIN_SECONDS, again)

        def again() -> None:
            del self._questions[path]
            self.ask(known)

        self._downlink.request_attributes(device, "shared", [key]).addCallbacks(answered, failed)

    def changed(self, known: KnownStation, device: str, values: Mapping[str, Value], deleted: Sequence[str]) -> None:
        """Shared attributes of its device were set or deleted."""
        key = None if known.entry is None else known.entry.policy.authorization.shared_attribute
        if key is not None and (key in values or key in deleted):
            self._take(known, device, key, values.get(key))

    def forget(self, path: str) -> None:
        """The charge point is gone: it is not asked again."""
        question = self._questions.pop(path, None)
        if question is not None:
            question.cancel()

    def open(self) -> None:
        """Questions may be asked, also after `close`."""
        self._closed = False

    def close(self) -> None:
        """No timer is left."""
        self._closed = True
        for path in list(self._questions):
            self.forget(path)

    def _take(self, known: KnownStation, device: str, key: str, value: Value) -> None:
        if value is not None and tags_of(value) is None:
            self._events.emit(TagsUnusable(self._connector, device, key))
            return
        known.record.tags = value
        self._keep(known)
