# -*- test-case-name: tests.scenarios.test_remote -*-
"""What makes the gateway manageable from ThingsBoard's own pages, built and joined: notices about devices, commands for
the gateway itself, remote configuration and logging, statistics, and how long silent devices stay within reach.

A part of the builder (`service`), which makes the rest: here is what can be changed while all of that runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from twisted.application.service import IService
from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.logger import Logger, globalLogPublisher
from twisted.python.failure import Failure

from tbgw.config.gateway import ConnectorEntry, GatewayConfig
from tbgw.config.loader import Examined
from tbgw.configfolder import ConfigFolder
from tbgw.errors import CommandFailed, LinkDown, NoAnswer
from tbgw.interfaces import IOwnDevice, ISpool
from tbgw.internal_events import Events
from tbgw.model import Device, Value
from tbgw.pipeline.activity import Activity, ChildSessions
from tbgw.pipeline.devices import DeviceRegistry
from tbgw.pipeline.downlink import Downlink
from tbgw.pipeline.forwarder import Forwarder
from tbgw.pipeline.ingest import Ingest
from tbgw.pipeline.internal_events import DeviceSilent
from tbgw.pipeline.notices import Notices
from tbgw.pipeline.renaming import Renaming
from tbgw.reconfiguration import Difference, Reconfiguration
from tbgw.uplink.custom_statistics import CustomStatistics
from tbgw.uplink.gateway_rpc import Actions, GatewayCommands
from tbgw.uplink.machine import Machine
from tbgw.uplink.remote_logging import LEVEL, RemoteLog
from tbgw.uplink.statistics import Statistics

CONNECTOR_STOP_SECONDS = 5.0
"""How long a connector may take to end before its successor is begun all the same."""


@dataclass
class Parts:
    """What the builder has made, and what it does when it is asked to."""

    reactor: Any
    now_ms: Callable[[], int]
    events: Events
    version: str
    uplink: Any
    own_device: IOwnDevice
    registry: DeviceRegistry
    renaming: Renaming
    spool: ISpool
    ingest: Ingest
    forwarder: Forwarder
    downlink: Downlink
    connectors: dict[str, Any]
    """By name; changed here."""
    status: Callable[[], Mapping[str, Any]]
    build_connector: Callable[[ConnectorEntry], Any]
    """None for one of a type that is not offered."""
    hold: Callable[[GatewayConfig], None]
    """This is the configuration from now on, for what is made later."""
    relink: Callable[[], None]
    """Begin a session as the configuration says now."""
    examine: Callable[[Mapping[str, bytes]], Examined]
    restart: Callable[[str], None]
    """End in good order and begin anew; the text says why."""
    reboot: Callable[[str], None]
    running: Callable[[], bool]
    """Whether connectors are to run."""
    remove_credentials: Callable[[], Deferred[bool]]
    """Forget provisioned credentials; False when there are none."""


class Management:
    """Started once the store is open, and stopped before the link is."""

    def __init__(self, config: GatewayConfig, parts: Parts) -> None:
        self._parts = parts
        self._config = config
        self._log = Logger()
        self.notices = Notices(
            parts.registry,
            parts.renaming,
            parts.spool,
            parts.ingest,
            parts.forwarder,
            parts.downlink,
            parts.events,
        )
        actions = Actions(
            devices=parts.registry.connectors,
            counts=self._counts,
            version=parts.version,
            restart=lambda seconds: self._later(seconds, parts.restart),
            reboot=lambda seconds: self._later(seconds, parts.reboot),
            restart_connector=lambda name: Deferred.fromCoroutine(self._restart_connector(name)),
            renamed=self.notices.renamed,
            deleted=self.notices.deleted,
            remove_credentials=parts.remove_credentials,
        )
        self.commands = GatewayCommands(actions, parts.events)
        parts.downlink.set_own_commands(self.commands.carry_out)
        self.remote_log = RemoteLog(
            parts.reactor,
            lambda values, ts_ms: parts.own_device.publish_telemetry(values, ts_ms),
            lambda function: parts.reactor.callFromThread(function),
        )
        self.reconfiguration = Reconfiguration(
            ConfigFolder(config.config_dir, config.data_dir),
            config,
            parts.own_device,
            self,
            examine=parts.examine,
            in_thread=parts.spool.run_in_store_thread,
            clock=parts.reactor,
            now_ms=parts.now_ms,
            events=parts.events,
            version=parts.version,
        )
        self._statistics: list[IService] = []
        self._activity: Activity | None = None
        self._pending_end: Any = None
        self._exchanging = DeferredLock()
        self._started = False

    # Start and stop.

    def start(self) -> None:
        """The store is open and the registry is read; the link has not been begun."""
        self._started = True
        globalLogPublisher.addObserver(self.remote_log)
        own_device = self._parts.own_device
        own_device.add_shared_listener(self._shared_changed)
        own_device.add_link_listener(self._link_up)
        self.reconfiguration.start()
        self._begin_live(self._config)

    def stop(self) -> None:
        """Nothing is changed any more, and no timer is left."""
        if not self._started:
            return
        self._started = False
        globalLogPublisher.removeObserver(self.remote_log)
        self.remote_log.stop()
        self.reconfiguration.stop()
        self._end_live()
        if self._pending_end is not None and self._pending_end.active():
            self._pending_end.cancel()

    def _begin_live(self, config: GatewayConfig) -> None:
        """Make what depends on settings that can be changed while all runs."""
        parts, section = self._parts, config.thingsboard
        self.commands.allowed = section.remote_methods
        self.commands.follow_renaming = section.handle_device_renaming
        device_filter = config.device_filter
        parts.ingest.set_filter(device_filter.allows if device_filter is not None else _allow_all)
        if section.activity.enabled:
            times = section.activity
            self._activity = Activity(parts.reactor, times.timeout_seconds, times.check_period_seconds, self._silent)
            self._activity.start(self.notices.known())
        parts.ingest.set_activity(self._activity)
        way = section.child_session_refresh
        if way != "off":
            known_way = cast(Literal["reconnect", "connect"], way)
            parts.forwarder.set_sessions(ChildSessions(parts.reactor, known_way, parts.forwarder.refresh))
        self.remote_log.set_connectors({e.name: e.log_level for e in config.connectors if e.remote_logging})
        self._begin_statistics(config)

    def _begin_statistics(self, config: GatewayConfig) -> None:
        parts, section = self._parts, config.thingsboard.statistics
        if not section.enabled:
            return

        def connected() -> bool:
            return bool(parts.uplink.connected)

        own = parts.own_device
        machine = Machine(config.data_dir)
        services: list[Any] = [
            Statistics(
                parts.reactor,
                section.period_seconds,
                self._picture,
                connected,
                own.publish_telemetry,
                own.publish_attributes,
                machine,
            )
        ]
        if config.statistics_commands:
            services.append(
                CustomStatistics(
                    parts.reactor,
                    section.custom_period_seconds,
                    config.statistics_commands,
                    connected,
                    own.publish_telemetry,
                    parts.events,
                )
            )
        for service in services:
            service.startService()
        self._statistics = services

    def _end_live(self) -> None:
        for service in self._statistics:
            service.stopService()
        self._statistics = []
        if self._activity is not None:
            self._activity.stop()
            self._activity = None
        self._parts.ingest.set_activity(None)
        self._parts.forwarder.set_sessions(None)

    # What is told.

    def _silent(self, device: Device) -> None:
        self._parts.events.emit(DeviceSilent(device=device.name))
        self._parts.ingest.silent(device)

    def _shared_changed(self, values: Mapping[str, Value], deleted: Sequence[str]) -> None:
        if LEVEL in values:
            self._set_log_level(values[LEVEL])
        elif LEVEL in deleted:
            self._set_log_level("NONE")

    def _link_up(self) -> None:
        asked = self._parts.own_device.request_attributes(shared_keys=[LEVEL])
        asked.addCallbacks(lambda answer: self._set_log_level(answer.shared.get(LEVEL, "NONE")), _not_told)

    def _set_log_level(self, value: Value) -> None:
        if self.remote_log.set_level(value):
            self._parts.own_device.publish_attributes({LEVEL: self.remote_log.level})
        else:
            self._log.warn("the attribute {name} is no level of log lines", name=LEVEL)

    # What commands do.

    def _counts(self) -> dict[str, int]:
        ingest, forwarder = self._parts.ingest, self._parts.forwarder
        counts = {"eventsProduced": ingest.readings, "eventsSent": forwarder.delivered_messages}
        return counts | {f"{name}EventsProduced": count for name, count in ingest.readings_of.items()}

    def _picture(self) -> dict[str, Any]:
        uplink, status = self._parts.uplink, self._parts.status()
        return {
            "accepted": status["accepted"],
            "delivered": status["delivered"],
            "store": status["store"],
            "traffic": {
                "sent": uplink.sent_messages,
                "sentBytes": uplink.sent_bytes,
                "received": uplink.received_messages,
                "receivedBytes": uplink.received_bytes,
            },
            "connectors": dict(self._parts.ingest.readings_of),
            "errors": self.remote_log.errors,
        }

    def _later(self, seconds: float, end: Callable[[str], None]) -> None:
        """The last one that was asked for counts."""
        if self._pending_end is not None:
            try:
                self._pending_end.cancel()
            except (AlreadyCalled, AlreadyCancelled):
                return
        self._pending_end = self._parts.reactor.callLater(seconds, end, "ThingsBoard asked for it")

    async def _restart_connector(self, name: str) -> None:
        await self._exchanging.acquire()
        try:
            config = self.reconfiguration.config
            entry = next((entry for entry in config.connectors if entry.name == name), None)
            if entry is None:
                raise CommandFailed("there is no connector of that name", 404)
            await self._exchange((name,), (entry,), config)
        finally:
            self._exchanging.release()

    # Changes of the configuration (`reconfiguration.Applier`).

    def apply(self, config: GatewayConfig, what: Difference) -> Deferred[None]:
        """See `Applier.apply`."""
        return Deferred.fromCoroutine(self._apply(config, what))

    def restart(self, why: str) -> None:
        """See `Applier.restart`."""
        self._parts.restart(why)

    async def _apply(self, config: GatewayConfig, what: Difference) -> None:
        self._parts.hold(config)
        if what.live and self._started:
            self._end_live()
            self._begin_live(config)
        await self._exchanging.acquire()
        try:
            await self._exchange(what.gone, what.begun, config)
        finally:
            self._exchanging.release()
        if what.link:
            self._parts.relink()

    async def _exchange(self, gone: Sequence[str], begun: Sequence[ConnectorEntry], config: GatewayConfig) -> None:
        """
        End some connectors, then begin some, by name; those of one name are never there at the same time. For who holds
        the lock: two that exchange the same one would each begin a successor, and only one of them could be ended.
        """
        connectors = self._parts.connectors
        for name in gone:
            connector = connectors.pop(name, None)
            if connector is None:
                continue
            ended = maybeDeferred(connector.stopService)
            ended.addTimeout(CONNECTOR_STOP_SECONDS, self._parts.reactor)
            ended.addErrback(self._not_ended, name)
            await ended
        if self._started:
            for entry in begun:
                connector = self._parts.build_connector(entry)
                if connector is not None:
                    connectors[entry.name] = connector
        order = {entry.name: position for position, entry in enumerate(config.connectors)}
        self._parts.downlink.set_connectors(
            sorted(connectors.values(), key=lambda one: order.get(one.connector_name, len(order)))
        )
        if self._started and self._parts.running():
            for entry in begun:
                if entry.name in connectors:
                    IService(connectors[entry.name]).startService()

    def _not_ended(self, failure: Failure, name: str) -> None:
        self._log.failure("while ending connector {name!r}", failure, name=name)


def _allow_all(connector: str, device: str) -> bool:
    return True


def _not_told(failure: Failure) -> None:
    """There is no answer: the level stays as it is, and is asked for again after the next connection."""
    failure.trap(LinkDown, NoAnswer)


