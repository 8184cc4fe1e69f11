"""Makes the connector of a configuration entry. Each type's modules are imported when the first of its kind is made, so
that nobody pays for a protocol that he does not use.

It is also how a single connector is made anew while the gateway runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from tbgw.config.schema import resolve
from tbgw.errors import ConfigurationError
from tbgw.interfaces import IConnector, IDownlink, IIngest, IOwnDevice, ISpool
from tbgw.internal_events import Events
from tbgw.model import Device, ReportStrategy

if TYPE_CHECKING:
    from tbgw.connectors.ocpp.connector import OCPPConnector


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a connector is given of the gateway that it lives in."""

    ingest: IIngest
    downlink: IDownlink
    spool: ISpool
    """Only for `run_in_store_thread`: files that have to be on the disk before rows that follow from them."""
    events: Events
    reactor: Any
    """Provides what the connector's transports need, and IReactorTime."""
    now_ms: Callable[[], int]
    """Wall time, in ms since the epoch."""
    data_dir: Path
    """Where a connector may keep files of its own."""
    report: ReportStrategy
    """The general report strategy, which those in the connector's file override."""
    shared: dict[str, Any] = field(default_factory=dict)
    """What the connectors of one type have in common, by a name of the type's own."""
    own_device: IOwnDevice | None = None
    """For who wants to know of sessions with ThingsBoard."""


@contextmanager
def _packages_of(name: str, extra: str) -> Iterator[None]:
    """Around the imports for a connector: a package that is not installed is said with the way to get it."""
    try:
        yield
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package == "tbgw":
            raise
        raise ConfigurationError(
            [f"connector {name}: needs the Python package {package}; pip install 'tbgw[{extra}]' brings it"]
        ) from None


def _socket(name: str, config: Any, surroundings: Surroundings) -> IConnector:
    from tbgw.connectors.socket.connector import SocketConnector

    devices = [
        (
            device,
            Device(
                device.name,
                device.profile,
                name,
                "socket",
                resolve(surroundings.report, config.report, device.report, device.telemetry, device.attributes),
            ),
        )
        for device in config.devices
    ]
    return SocketConnector(
        name,
        config,
        devices,
        surroundings.ingest,
        surroundings.events,
        surroundings.reactor,
        surroundings.now_ms,
        surroundings.downlink,
    )


def _ocpp(name: str, config: Any, surroundings: Surroundings) -> IConnector:
    with _packages_of(name, "ocpp"):
        from tbgw.connectors.ocpp.connector import OCPPConnector
        from tbgw.connectors.ocpp.ledger import Ledger
        from tbgw.connectors.ocpp.reports import StationReports

    store_thread = surroundings.spool.run_in_store_thread
    ledger = surroundings.shared.get("ocpp ledger")
    if ledger is None:
        # A charge point may move from one connector to another, and what is known of its security goes with it.
        ledger = Ledger(surroundings.data_dir, surroundings.reactor, surroundings.events, store_thread)
        surroundings.shared["ocpp ledger"] = ledger
    reports = StationReports(
        name,
        config,
        surroundings.ingest,
        surroundings.events,
        surroundings.reactor,
        surroundings.now_ms,
        surroundings.data_dir,
        store_thread,
        surroundings.report,
        surroundings.downlink,
    )
    connector = OCPPConnector(
        name,
        config,
        reports,
        ledger,
        surroundings.ingest,
        surroundings.events,
        surroundings.reactor,
        surroundings.now_ms,
        surroundings.downlink,
    )
    if surroundings.own_device is not None:
        _tell_of_sessions(connector, surroundings.shared, surroundings.own_device)
    return connector


def _tell_of_sessions(connector: OCPPConnector, shared: dict[str, Any], own_device: IOwnDevice) -> None:
    """Held weakly: a connector that was made anew leaves nothing behind."""
    listeners: WeakSet[OCPPConnector] | None = shared.get("ocpp sessions")
    if listeners is None:
        told = listeners = shared["ocpp sessions"] = WeakSet()

        def began() -> None:
            for one in list(told):
                one.session_began()

        own_device.add_link_listener(began)
    listeners.add(connector)


def _xmpp(name: str, config: Any, surroundings: Surroundings) -> IConnector:
    with _packages_of(name, "xmpp"):
        from tbgw.connectors.xmpp.connector import XMPPConnector
        from tbgw.connectors.xmpp.link import XMPPLink

    devices = [
        (
            device,
            Device(
                device.name,
                device.profile,
                name,
                "xmpp",
                resolve(surroundings.report, config.report, device.report, device.timeseries, device.attributes),
            ),
        )
        for device in config.devices
    ]
    return XMPPConnector(
        name,
        devices,
        XMPPLink(name, config.server, surroundings.events, surroundings.reactor),
        config.server.plugins,
        surroundings.ingest,
        surroundings.events,
        surroundings.reactor,
        surroundings.now_ms,
        config.max_devices,
    )


BUILDERS: Mapping[str, Callable[[str, Any, Surroundings], IConnector]] = {
    "socket": _socket,
    "ocpp": _ocpp,
    "xmpp": _xmpp,
}
"""Connector type to what makes one of its name and configuration, which the type's own `parse` gave."""
