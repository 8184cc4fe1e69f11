"""What the sandbox shows of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from zope.interface import implementer

from tbgw.errors import StoreError
from tbgw.interfaces import ISandboxView
from tbgw.sandbox.platform import Platform
from tbgw.sandbox.store import Store


@implementer(ISandboxView)
class SandboxView:
    """The devices and their history. Outlives the platform and the store, which may be replaced after a fault."""

    def __init__(self) -> None:
        self._platform: Platform | None = None
        self._store: Store | None = None
        self._observers: list[Callable[[str], None]] = []

    def show(self, platform: Platform | None, store: Store | None) -> None:
        """Show these from now on. Without a platform the last one goes on being shown, without history."""
        if platform is not None:
            self._platform = platform
        self._store = store

    def devices(self) -> list[dict[str, Any]]:
        """As in the interface; the entries are shared and not to be changed."""
        return [] if self._platform is None else self._platform.shown()

    def history(self, device: str, key: str, since_ms: int) -> list[tuple[int, Any]]:
        """As in the interface; empty for what is unknown, and while the store is out of order."""
        if self._platform is None or self._store is None:
            return []
        found = self._platform.devices.get(device)
        series = found.telemetry.get(key) if found is not None else None
        if series is None:
            return []
        try:
            return self._store.history(series.id, since_ms, self._platform.limits.points_per_series)
        except StoreError:
            return []  # the next write meets the same fault, and that one is told

    def add_observer(self, changed: Callable[[str], None]) -> None:
        """As in the interface."""
        self._observers.append(changed)

    def remove_observer(self, changed: Callable[[str], None]) -> None:
        """As in the interface; an unknown one is ignored."""
        if changed in self._observers:
            self._observers.remove(changed)

    def changed(self, names: Iterable[str]) -> None:
        """Tell the observers."""
        if self._observers:
            for name in names:
                for observer in tuple(self._observers):
                    observer(name)
