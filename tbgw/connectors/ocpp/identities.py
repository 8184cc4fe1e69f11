# -*- test-case-name: tests.connectors.ocpp.test_reports -*-
"""Which device each charge point is, and the reverse.

* Charge points whose names come out equal are one device, as in the reference, and that is told: one `Device` object,
  which is gone when the last of them is.
* A name that changes (the boot came after other messages, the file was changed) makes a new device; the old one is
  told gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tbgw.config.schema import resolve
from tbgw.connectors.ocpp.charge_point import KnownStation
from tbgw.connectors.ocpp.report_events import DeviceNameShared
from tbgw.internal_events import Events
from tbgw.model import Device, ReportPlan, ReportStrategy


class Identities:
    """See the module."""

    def __init__(
        self,
        connector: str,
        general: ReportStrategy,
        own: ReportStrategy | None,
        events: Events,
        gone: Callable[[Device], None],
    ) -> None:
        """`general`, `own`: the report strategies of the gateway and of the connector. `gone`: IIngest.disconnected."""
        self._connector = connector
        self._general = general
        self._own = own
        self._events = events
        self._gone = gone
        self._users: dict[str, dict[str, KnownStation]] = {}
        """Device name to those that have it, by path; the one that was identified last at the end."""
        self._devices: dict[str, Device] = {}
        self._connector_devices: dict[str, tuple[str, int]] = {}
        """Name of a connector's own device to the path and the connector."""

    def be(self, known: KnownStation, name: str, profile: str) -> None:
        """It is the device of this name from now on."""
        path = known.record.path
        if known.device is not None and known.device.name != name:
            self.leave(known)
        plan = self._plan(known)
        users = self._users.setdefault(name, {})
        kept = self._devices.get(name)
        if kept is None or (kept.report != plan and users.keys() <= {path}):
            kept = self._devices[name] = Device(name, profile, self._connector, "ocpp", plan)
        if known.device is not kept:
            known.connector_devices.clear()
        known.device = kept
        known.record.name, known.record.profile = name, kept.profile
        other = next((one for one in users if one != path), None)
        if other is not None and path not in users:
            self._events.emit(DeviceNameShared(self._connector, path, other, name))
        users.pop(path, None)
        users[path] = known

    def _plan(self, known: KnownStation) -> ReportPlan:
        if known.entry is None:
            return resolve(self._general, self._own, None)
        entry = known.entry.charge_point
        return resolve(self._general, self._own, entry.report, entry.timeseries, entry.attributes)

    def leave(self, known: KnownStation) -> None:
        """It is not the device any more that it was."""
        device = known.device
        if device is None:
            return
        was_told, known.told_online = known.told_online, False
        if was_told:
            self.tell_gone(known)
        known.device = None
        path = known.record.path
        for name in [name for name, (owner, _) in self._connector_devices.items() if owner == path]:
            del self._connector_devices[name]
        known.connector_devices.clear()
        users = self._users.get(device.name, {})
        users.pop(path, None)
        if not users:
            self._users.pop(device.name, None)
            self._devices.pop(device.name, None)

    def tell_gone(self, known: KnownStation) -> None:
        """Its connection is over, or it is another device now. Nothing is said while another one is the same device."""
        device = known.device
        if device is None:
            return
        for of_connector in known.connector_devices.values():
            self._gone(of_connector)
        if not any(one.told_online for one in self._users.get(device.name, {}).values()):
            self._gone(device)

    def connector_device(self, known: KnownStation, device: Device, suffix: str) -> Device:
        """The device of a connector; `suffix` is ` Connector 2`."""
        found = known.connector_devices.get(suffix)
        if found is None:
            found = Device(device.name + suffix, device.profile, self._connector, "ocpp", device.report)
            known.connector_devices[suffix] = found
            self._connector_devices[found.name] = (known.record.path, int(suffix.rpartition(" ")[2]))
        return found

    def of_device(self, name: str) -> Sequence[KnownStation]:
        """Those that are the device of this name, the one that was identified last first."""
        return tuple(reversed(self._users.get(name, {}).values()))

    def connector_of(self, name: str) -> tuple[str, int] | None:
        """The path and the connector of a connector's own device."""
        return self._connector_devices.get(name)
