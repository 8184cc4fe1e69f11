# -*- test-case-name: tests.connectors.ocpp.test_reports -*-
"""What charge points say, turned into readings, and what they are answered: the upward half of the OCPP connector.

The connector delegates all of `ICentralSystem` to it but `admit`, whose `Admission.data` is the `ChargePoint` section
that the path matched (`config.UNKNOWN_CHARGE_POINT` for one that matched none and is let in all the same).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed

from tbgw.connectors.ocpp.config import OCPPConfig
from tbgw.interfaces import IDownlink, IIngest
from tbgw.internal_events import Events
from tbgw.model import Device, ReportStrategy, Value
from tbgw.ocpp.errors import CallRefused
from tbgw.ocpp.interfaces import IStation


class StationReports:
    """See the module. Keys of everything are paths, as in `Handshake.path`."""

    def __init__(
        self,
        name: str,
        config: OCPPConfig,
        ingest: IIngest,
        events: Events,
        reactor: Any,
        now_ms: Callable[[], int],
        data_dir: Path,
        run_in_store_thread: Callable[[Callable[[], None]], Deferred[None]],
        report: ReportStrategy,
        downlink: IDownlink | None = None,
    ) -> None:
        """
        `reactor` provides IReactorTime; `now_ms`: wall time, ms since the epoch; `run_in_store_thread`: `ISpool`'s;
        `report`: the general strategy; `downlink`: whom `authorization.fromSharedAttribute` asks, None: nobody.
        """
        self._name = name
        self._config = config
        self._ready: list[Callable[[IStation], None]] = []

    def restore(self) -> Deferred[None]:
        """Read what was kept. Fires when charge points may come; never fails: what cannot be read is said and lost."""
        return succeed(None)

    def close(self) -> Deferred[None]:
        """Fires when everything is kept and the file is closed. All stations have been told `disconnected` before."""
        return succeed(None)

    # ICentralSystem, all but `admit`.

    def connected(self, station: IStation) -> None:
        """See `ICentralSystem`."""

    def disconnected(self, station: IStation, reason: str) -> None:
        """See `ICentralSystem`."""

    def call_received(
        self, station: IStation, action: str, payload: dict[str, Any], faults: Sequence[str]
    ) -> Deferred[dict[str, Any]] | dict[str, Any]:
        """See `ICentralSystem`. Data-bearing messages are answered once their reading is on stable storage."""
        raise CallRefused("NotImplemented", f"{action} is not known here")

    def send_received(self, station: IStation, action: str, payload: dict[str, Any], faults: Sequence[str]) -> None:
        """See `ICentralSystem`."""

    # What the downward half asks.

    def device_of(self, path: str) -> Device | None:
        """The device that this charge point is; None before its name is known. Stays when it disconnects."""
        return None

    def paths_of(self, device_name: str) -> Sequence[str]:
        """
        The charge points that are the device of this name, connected or not, the one that spoke last first; the name
        of a connector's own device (`connectorDevices`) gives its charge point.
        """
        return ()

    def connector_of(self, device_name: str) -> int | None:
        """With `connectorDevices`: the connector (2.x: EVSE) that the device of this name is; None: a charge point."""
        return None

    def transaction_of(self, path: str, connector_id: int | None = None) -> int | str | None:
        """
        The running transaction on this connector (2.x: EVSE): a number in 1.6, a text in 2.x. Without a connector
        the only one that runs, else None: nothing is guessed.
        """
        return None

    def is_accepted(self, path: str) -> bool:
        """Whether its boot was accepted, or it never was refused one: RemoteStart and the like may be sent."""
        return True

    def boot_status(self, path: str) -> str | None:
        """`Accepted`, `Pending` or `Rejected` as last answered; None when it never booted. Rejected: stay silent."""
        return None

    def expect(self, path: str, action: str) -> None:
        """We asked for this message (TriggerMessage, GetBaseReport): let through once while boot is Pending."""

    def on_ready(self, callback: Callable[[IStation], None]) -> None:
        """
        Call this for each connection once: after its first accepted boot, or after the answer to its first message if
        that was no boot. Shared attributes that waited may be delivered then.
        """
        self._ready.append(callback)

    def attributes_changed(self, device: str, values: Mapping[str, Value], deleted: Sequence[str]) -> None:
        """To be told of every change of shared attributes, for `authorization.fromSharedAttribute`."""

    def status(self) -> Mapping[str, Any]:
        """Counts for `IStatusSource.status`."""
        return {}
