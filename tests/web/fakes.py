"""A sandbox to look at that is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zope.interface import implementer

from tbgw.interfaces import ISandboxView, IStatusSource

NOW = 1_700_000_000_000


def device(name: str, gateway: bool = False, **telemetry: Any) -> dict[str, Any]:
    """One entry of `ISandboxView.devices`."""
    return {
        "name": name,
        "profile": "default",
        "gateway": gateway,
        "connected": True,
        "telemetry": {key: {"ts": NOW, "value": value} for key, value in telemetry.items()},
        "attributes": {},
        "shared": {},
        "lastActivity": NOW,
    }


@implementer(ISandboxView)
class FakeView:
    """Devices and history as lists."""

    def __init__(self, *devices: dict[str, Any]) -> None:
        self.list = list(devices)
        self.observers: list[Callable[[str], None]] = []
        self.points: list[tuple[int, Any]] = []
        self.asked: list[tuple[str, str, int]] = []
        self.looked = 0

    def devices(self) -> list[dict[str, Any]]:
        """As in the interface."""
        self.looked += 1
        return self.list

    def history(self, device: str, key: str, since_ms: int) -> list[tuple[int, Any]]:
        """As in the interface; notes what was asked for."""
        self.asked.append((device, key, since_ms))
        return self.points

    def add_observer(self, changed: Callable[[str], None]) -> None:
        """As in the interface."""
        self.observers.append(changed)

    def remove_observer(self, changed: Callable[[str], None]) -> None:
        """As in the interface."""
        self.observers.remove(changed)

    def change(self, name: str) -> None:
        """Something of the device changed."""
        for observer in tuple(self.observers):
            observer(name)


@implementer(IStatusSource)
class FakeStatus:
    """A status."""

    def __init__(self, **status: Any) -> None:
        self._status = status

    def status(self) -> dict[str, Any]:
        """As in the interface."""
        return self._status
