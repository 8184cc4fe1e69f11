# -*- test-case-name: tests.pipeline.test_renaming -*-
"""What is done when ThingsBoard says that a device was renamed or deleted: all who know devices by name are told, in
the one order in which nothing is lost, and nothing is brought back (see `renaming`).

1. What ingest has gathered goes to the store, under the old name.
2. The change is noted for the rows up to that point, and the registry learns it.
3. Both files are written. Only then is the notice answered; what happens in between is the same after a crash, except
   that ThingsBoard has the notice acknowledged already and does not send it again: a power cut within these
   milliseconds leaves the old name.
4. What is on its way and what waits follows; the session under the old name is ended, and that under the new one begun.

A notice that comes twice is as good as one that comes once.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from tbgw.errors import CommandFailed, StoreError
from tbgw.interfaces import ISpool
from tbgw.internal_events import Events
from tbgw.model import Device
from tbgw.pipeline.devices import DeviceRegistry
from tbgw.pipeline.downlink import Downlink
from tbgw.pipeline.forwarder import Forwarder
from tbgw.pipeline.ingest import Ingest
from tbgw.pipeline.internal_events import DeviceDeleted, DeviceRenamed
from tbgw.pipeline.renaming import Renaming


class Notices:
    """`renamed` and `deleted` fire when the change is on the disk."""

    def __init__(
        self,
        registry: DeviceRegistry,
        renaming: Renaming,
        spool: ISpool,
        ingest: Ingest,
        forwarder: Forwarder,
        downlink: Downlink,
        events: Events,
    ) -> None:
        self._registry = registry
        self._renaming = renaming
        self._spool = spool
        self._ingest = ingest
        self._forwarder = forwarder
        self._downlink = downlink
        self._events = events

    def renamed(self, old: str, new: str) -> Deferred[None]:
        """ThingsBoard calls the device `old` by the name `new` from now on."""
        if old == new:
            return succeed(None)
        if old not in self._registry:
            if new in self._registry:
                return succeed(None)  # the notice has come before
            # A device that has asked for attributes, but never told anything, is known to ThingsBoard and not here.
            self._registry.seen(Device(old))
            self._registry.gone(old)
        self._ingest.leave(old)
        self._registry.rename(old, new)
        self._events.emit(DeviceRenamed(old=old, new=new))
        return self._moved(old, new)

    def deleted(self, name: str) -> Deferred[None]:
        """ThingsBoard has deleted the device; it is made anew when it speaks next."""
        if name not in self._registry:
            return succeed(None)
        self._ingest.leave(name)
        self._registry.forget(name)
        self._events.emit(DeviceDeleted(device=name))
        return self._moved(name, None)

    def known(self) -> list[Device]:
        """The devices that count as present, as far as the registry knows them."""
        registry = self._registry
        return [Device(name, registry.profile(name), registry.connector(name)) for name in registry.present()]

    def _moved(self, old: str, new: str | None) -> Deferred[None]:
        changes = self._renaming.add(old, new, self._spool.last_seq, self._spool.stored_rows)
        devices = self._registry.snapshot()

        def write() -> None:
            self._renaming.write(changes)
            self._registry.write(devices)

        written = self._spool.run_in_store_thread(write).addErrback(self._not_written)
        self._forwarder.moved(old, new)
        self._downlink.moved(old, new)
        return written

    def _not_written(self, failure: Failure) -> None:
        failure.trap(OSError, StoreError)
        self._registry.dirty = True  # tried again before the next row
        raise CommandFailed(f"done, but it cannot be written down: {failure.getErrorMessage()}", 500)
