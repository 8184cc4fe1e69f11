"""The one builder: makes every part from the configuration, joins them, and sets the order of start and stop.

Start: the store is opened (in its own thread), then sandbox and page, then the link, and the connectors last, so that
nothing is accepted that could not be kept. Stop is the reverse, with a short time for what is in flight:

    connectors (no reading comes any more) -> what is packed is stored -> up to DRAIN_SECONDS for acknowledgements
    -> DISCONNECT -> the store is closed -> page and sandbox

All of it stays under STOP_SECONDS, whatever hangs; what was accepted is on disk by then in any case.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw import process
from tbgw.config.gateway import ConnectorEntry, GatewayConfig
from tbgw.config.loader import Examined, examine_folder, load_folder
from tbgw.config.thingsboard import session_limits
from tbgw.connectors.builders import BUILDERS, Surroundings
from tbgw.connectors.parsers import PARSERS
from tbgw.errors import StoreError, StoreFull
from tbgw.interfaces import IStatusSource
from tbgw.internal_events import Events
from tbgw.link import Link
from tbgw.management import Management, Parts
from tbgw.metrics import Counters
from tbgw.model import Device, SessionLimits
from tbgw.pipeline.devices import DeviceRegistry
from tbgw.pipeline.downlink import Downlink
from tbgw.pipeline.forwarder import Forwarder
from tbgw.pipeline.ingest import Ingest
from tbgw.pipeline.packer import MAX_POINTS, PackLimits
from tbgw.pipeline.ratelimit import SHARE, Budget
from tbgw.pipeline.renaming import Renaming
from tbgw.spool.runners import CallDirectly, StoreThread
from tbgw.spool.service import TEND_SECONDS, Spool
from tbgw.thingsboard import payloads, topics
from tbgw.uplink.fanout import FanOut
from tbgw.uplink.own_device import OwnDevice
from tbgw.version import VERSION

STOP_SECONDS = 5.0
"""Longest time between SIGTERM and the end."""

DRAIN_SECONDS = 1.5
"""Part of it in which PUBACKs of what is in flight are waited for: each that comes saves a duplicate after the
restart."""


def load(config_dir: Path, data_dir: Path, environ: Mapping[str, str]) -> GatewayConfig:
    """Read and check the whole folder. Raises ConfigurationError with all faults of all files."""

    return load_folder(config_dir, environ, data_dir, PARSERS)


@implementer(IStatusSource)
class Gateway(Service):
    """The whole gateway as one service. Everything is made here; nothing is opened before `startService`."""

    name = "tbgw"

    def __init__(self, config: GatewayConfig, reactor: Any, now_ms: Callable[[], int] | None = None) -> None:
        self._config = config
        self._reactor = reactor
        self._now_ms = now_ms or _now_ms
        self._log = Logger(namespace="tbgw.service")
        self.counters = Counters()
        self.events = Events(self.counters, reactor.seconds, later=reactor.callLater)
        self._sandbox, self._site = self._build_sandbox()
        self.registry = DeviceRegistry(config.data_dir / "connected_devices.json")
        self._renaming = Renaming(config.data_dir / "renamed_devices.json")
        self.spool = self._build_spool()
        section = config.thingsboard
        maker = self._link_maker()
        self.uplink = maker.uplink()
        self.enrolment = maker.enrolment(
            self.uplink, config.data_dir, config.config_dir, self.spool.run_in_store_thread
        )
        self.own_device = OwnDevice(
            self.uplink.publish, self.events, reactor, self._now_ms, section.max_payload_bytes, self._own_budget
        )
        self.downlink = Downlink(
            self.uplink.publish,
            self.events,
            reactor,
            self.registry.connector,
            section.max_payload_bytes,
            self.own_device,
            self.registry,
        )
        self.forwarder = Forwarder(
            self.spool,
            self.uplink,
            self.registry,
            clock=reactor,
            events=self.events,
            max_payload_bytes=section.max_payload_bytes,
            idled=lambda: self.ingest.link_idled(),
            limits_changed=lambda limits: self.ingest.set_limits(self._pack_limits(limits)),
            combine=lambda announced: session_limits(self._config.thingsboard, announced),
            backlog_share=section.backlog_share_percent / 100,
            message_received=self.downlink.message_received,
            renaming=self._renaming,
        )
        self.updates = maker.updates(
            self.own_device, self.uplink.publish, config.data_dir / "packages", self.spool.run_in_store_thread
        )
        # Who speaks of devices or asks about them knows of a session before anything of it is sent up.
        self.link = FanOut(
            [self.downlink, *self.updates, self.own_device, self.forwarder],
            [self.own_device.message_received, *[update.message_received for update in self.updates]],
            self.forwarder.message_received,
        )
        self.uplink.set_listener(self.link)
        self.ingest = Ingest(
            self.spool,
            self.registry,
            clock=reactor,
            now_ms=self._now_ms,
            events=self.events,
            limits=self._pack_limits(session_limits(section, SessionLimits())),
            pack_delay_seconds=section.pack_delay_ms / 1000,
            appended=self.forwarder.appended,
            link_idle=lambda: self.forwarder.idle,
        )
        self.spool.set_listeners(self.ingest, self.forwarder, self._store_failed)
        self._surroundings = Surroundings(
            self.ingest,
            self.downlink,
            self.spool,
            self.events,
            reactor,
            self._now_ms,
            config.data_dir,
            config.report,
            own_device=self.own_device,
        )
        self._connectors = {
            entry.name: connector
            for entry in config.connectors
            if (connector := self.build_connector(entry)) is not None
        }
        self.downlink.set_connectors(self.connectors)
        self.management = self._build_management()
        self._certificate = self._build_certificate_watch()
        self._importer = self._build_importer()
        self._listening = self._ending = self._begins_anew = False
        self._opened: Deferred[None] | None = None
        self._spool_open = False

    @property
    def connectors(self) -> list[Any]:
        """Those that there are at present."""
        return list(self._connectors.values())

    def add_connector(self, connector: Any) -> None:
        """Take in one that no file describes. Before the start."""
        self._connectors[connector.connector_name] = connector
        self.downlink.set_connectors(self.connectors)

    # Building.

    def _pack_limits(self, limits: SessionLimits) -> PackLimits:
        configured = self._config.thingsboard.max_payload_bytes
        points = min([MAX_POINTS, *[int(limit.capacity * SHARE) for limit in limits.points]])
        return PackLimits(
            telemetry_bytes=payloads.payload_limit(limits, topics.TELEMETRY, configured),
            attributes_bytes=payloads.payload_limit(limits, topics.ATTRIBUTES, configured),
            device_points=max(1, points),
        )

    def _own_budget(self, announced: SessionLimits) -> Callable[[str, int], float]:
        """What keeps the limits of the gateway's own rate in a session."""
        budget = Budget(session_limits(self._config.thingsboard, announced), self._reactor.seconds())
        return lambda topic, points: budget.send(topic, 1, points, self._reactor.seconds())

    def _build_sandbox(self) -> tuple[Any, Any]:
        section = self._config.sandbox
        if not section.enabled:
            return None, None
        from tbgw.sandbox.platform import SandboxLimits
        from tbgw.sandbox.service import Sandbox
        from tbgw.tls import ServerTLS
        from tbgw.web.site import WebSite

        sandbox = Sandbox(
            self._reactor,
            section.folder,
            section.token_file,
            address=section.address,
            mqtt_port=section.mqtt_port,
            events=self.events,
            now_ms=self._now_ms,
            tls=ServerTLS(section.certificate, section.private_key)
            if section.certificate is not None and section.private_key is not None
            else None,
            tls_port=section.tls_port,
            limits=SandboxLimits(
                max_devices=section.max_devices,
                points_per_series=section.history_per_key,
                max_store_bytes=section.max_store_bytes,
            ),
        )
        sandbox.ensure_token()
        site = WebSite(
            self._reactor,
            section.address,
            section.http_port,
            sandbox.view,
            [self],
            self.events,
            self._now_ms,
            hint=_first_command(self._config),
            control=sandbox.commands,
        )
        return sandbox, site

    def _build_spool(self) -> Spool:
        section = self._config.storage
        folder = section.folder

        def store() -> Any:
            if section.type == "memory":
                from tbgw.spool.memory import MemoryStore

                return MemoryStore()
            if section.type == "file":
                from tbgw.spool.file import FileStore

                return FileStore(folder)
            from tbgw.spool.store import SqliteStore

            return SqliteStore(folder / "spool.db")

        return Spool(
            store,
            clock=self._reactor,
            runner=CallDirectly() if section.type == "memory" else StoreThread(self._reactor),
            wall_ms=self._now_ms,
            events=self.events,
            max_bytes=section.max_bytes,
            max_messages=section.max_messages,
            drop_policy=section.drop_policy,
            ttl_seconds=section.ttl_seconds,
            ttl_check_seconds=section.ttl_check_seconds,
            tend_seconds=TEND_SECONDS,
        )

    def _build_management(self) -> Management:
        return Management(
            self._config,
            Parts(
                reactor=self._reactor,
                now_ms=self._now_ms,
                events=self.events,
                version=VERSION,
                uplink=self.uplink,
                own_device=self.own_device,
                registry=self.registry,
                renaming=self._renaming,
                spool=self.spool,
                ingest=self.ingest,
                forwarder=self.forwarder,
                downlink=self.downlink,
                connectors=self._connectors,
                status=self.status,
                build_connector=self.build_connector,
                hold=self._hold,
                relink=self._relink,
                examine=self._examine,
                restart=self.restart,
                reboot=lambda why: self.restart(why, process.restart_machine),
                running=lambda: self._listening and bool(self.running),
                remove_credentials=self._remove_credentials,
            ),
        )

    def _hold(self, config: GatewayConfig) -> None:
        """Another configuration holds, for what is made from now on."""
        self._config = config
        self._surroundings = replace(self._surroundings, report=config.report)

    def _link_maker(self) -> Link:
        token = self._sandbox.ensure_token if self._sandbox is not None else None
        return Link(self._config.thingsboard, self._reactor, self.events, token)

    def _relink(self) -> None:
        maker = self._link_maker()
        self.uplink.redirect(maker.endpoint(), maker.where, maker.credentials())
        if self._certificate is not None:
            self._certificate.look_again()

    def _remove_credentials(self) -> Deferred[bool]:
        return succeed(False) if self.enrolment is self.uplink else self.enrolment.forget()

    def _examine(self, instead: Mapping[str, bytes]) -> Examined:
        folder = self._config.config_dir
        contents = {folder / name: content for name, content in instead.items()}
        return examine_folder(folder, os.environ, self._config.data_dir, PARSERS, contents)

    def _build_importer(self) -> Any:
        folder = self._config.storage.import_from
        if folder is None:
            return None
        from tbgw.spool.importing import Importer

        return Importer(
            self.spool,
            folder,
            clock=self._reactor,
            now_ms=self._now_ms,
            events=self.events,
            limit_bytes=self._pack_limits(SessionLimits()).telemetry_bytes,
            known=self._know,
            appended=self.forwarder.appended,
        )

    def _know(self, profiles: Mapping[str, str]) -> None:
        """Remember devices of imported messages, on the disk before the rows that name them."""
        for name, profile in profiles.items():
            if name not in self.registry:
                self.registry.seen(Device(name, profile))
        if self.registry.dirty:
            content = self.registry.snapshot()
            written = self.spool.run_in_store_thread(lambda: self.registry.write(content))
            written.addErrback(lambda failure: setattr(self.registry, "dirty", True))

    def _build_certificate_watch(self) -> Any:
        """Looks when our own certificate ends, where there is one or may come one: also from ThingsBoard."""
        section = self._config.thingsboard
        provisioned = section.provisioning is not None
        if not section.security.tls:
            return None  # to begin with TLS takes a new process
        from tbgw.link import utc_now
        from tbgw.uplink.expiry import CertificateWatch

        def certificate() -> Path | None:
            login = self.enrolment.login if provisioned else None
            return login.certificate if login is not None else self._config.thingsboard.security.cert

        watch = CertificateWatch(
            certificate,
            self.own_device,
            clock=self._reactor,
            events=self.events,
            now=utc_now,
            period_seconds=section.security.certificate_check_seconds,
            days_left=section.security.certificate_days_left,
            **({"renew": self.enrolment.renew, "successor": lambda: self.enrolment.successor} if provisioned else {}),
        )
        if provisioned:
            self.enrolment.started = watch.look_again
        return watch

    def build_connector(self, entry: ConnectorEntry) -> Any:
        """The connector of an entry, which then has to be started; None, with a word in the log, when there is none."""
        build = BUILDERS.get(entry.type)
        if build is None:
            self._log.warn(
                "connector {name!r} was checked but is not started: {type} is not in this version of tbgw yet",
                name=entry.name,
                type=entry.type,
            )
            return None
        return build(entry.name, entry.config, self._surroundings)

    # IService

    def startService(self) -> None:
        super().startService()
        for line in self._config.warnings:
            self._log.warn("{line}", line=line)
        for line in self._config.notices:
            self._log.info("{line}", line=line)
        # Not before the reactor runs: until then SIGTERM ends the process without a word, in the middle of a start too.
        self._reactor.callWhenRunning(self._open)

    def _open(self) -> None:
        if not self.running:
            return
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            # The terminal was closed: stop in good order, as at SIGTERM, rather than drop what waits.
            signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._reactor.stop))
        if self._config.storage.type == "memory":
            self._log.warn("storage.type is memory: what waits for ThingsBoard is lost when tbgw ends, however it ends")
        self._opened = self.spool.open()
        self._opened.addCallbacks(self._start_rest, self._not_opened)
        self._opened.addErrback(self._start_failed)

    def _start_rest(self, _: None) -> None:
        self._spool_open = True
        if not self.running:
            return
        from tbgw.pipeline.internal_events import RegistryFault

        faults = [*self.registry.load(), self._renaming.load(self.spool.last_seq, self.spool.stored_rows)]
        for fault in filter(None, faults):
            self.events.emit(RegistryFault(fault=fault))
        self.forwarder.start()
        self.management.start()
        parts = (self._sandbox, self._site, *self.updates, self.enrolment, self._certificate)
        for part in parts:
            if part is not None:
                IService(part).startService()
        if self._importer is None:
            self._start_connectors()
        else:  # what is older goes first
            Deferred.fromCoroutine(self._import()).addErrback(self._start_failed)
        self._log.info(
            "tbgw {version}: {connectors} connector(s), {messages} message(s) waiting in the store",
            version=VERSION,
            connectors=len(self.connectors),
            messages=self.spool.stored_messages,
        )

    def _start_connectors(self) -> None:
        if self.running and not self._listening:
            self._listening = True
            for connector in self.connectors:
                IService(connector).startService()

    async def _import(self) -> None:
        """Read in what the reference left; then, or while there is no room for it, connectors run."""
        import sqlite3

        from tbgw.spool.internal_events import ImportFailed

        try:
            await self._importer.run(self._start_connectors)
        except (StoreError, StoreFull, OSError, sqlite3.Error) as error:
            self.events.emit(ImportFailed(folder=str(self._config.storage.import_from), error=str(error)))
        self._start_connectors()

    def _not_opened(self, failure: Failure) -> None:
        failure.trap(StoreError)
        self._log.critical("the store cannot be opened: {error}", error=str(failure.value))
        self._end(1)

    def _start_failed(self, failure: Failure) -> None:
        self._log.failure("the gateway cannot start", failure=failure)
        self._end(1)

    def _store_failed(self, error: Exception) -> None:
        """The spool has told what broke. Nothing is accepted any more, so there is nothing left to do here."""
        self._log.critical("tbgw ends, because its store is broken; what was accepted before is kept in it")
        self._end(1)

    def _end(self, status: int) -> None:
        """Stop the process with an exit status, which twistd has no way to be told."""
        process.end_with(status)
        self._reactor.stop()

    def restart(self, why: str, end: Callable[[], None] = process.begin_anew) -> None:
        """Stop in good order, then be begun anew; or, with `process.restart_machine`, the whole machine."""
        if not self._ending:
            self._ending = True
            self._begins_anew = end is process.begin_anew
            self._log.warn("the gateway restarts: {why}", why=why)
            end()
            self._reactor.stop()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        give_up = self._reactor.callLater(STOP_SECONDS - 0.5, self._overdue)
        if self._spool_open:
            if self._importer is not None:
                self._importer.stop()
            if self._listening:
                await self._step("connectors", *[connector.stopService for connector in self.connectors])
            self.ingest.stop()
            if self.uplink.connected and not self.forwarder.idle:
                await self._drained()
            self.management.stop()
            parts = (self._certificate, *self.updates, self.enrolment)
            await self._step("uplink", *[part.stopService for part in parts if part is not None])
            await self._step("store", self.spool.close)
            await self._step("sandbox", *[part.stopService for part in (self._site, self._sandbox) if part is not None])
        give_up.cancel()
        self.events.tell_held_back()
        lost = self._config.storage.type == "memory"
        self._log.info(
            "stopped: {delivered} message(s) delivered, {waiting} {fate}",
            delivered=self.forwarder.delivered_messages,
            waiting=self.spool.stored_messages,
            fate="lost with the memory store" if lost else "kept in the store",
        )

    async def _step(self, what: str, *stops: Callable[[], Any]) -> None:
        """Do these together and wait for them; a failure in one does not keep the others."""
        for good, result in await DeferredList([maybeDeferred(stop) for stop in stops], consumeErrors=True):
            if not good:
                self._log.failure("while stopping: {what}", failure=result, what=what)

    async def _drained(self) -> None:
        """Wait until all is acknowledged, for a short while."""
        drained = self.forwarder.when_idle()
        drained.addTimeout(DRAIN_SECONDS, self._reactor, onTimeoutCancel=lambda *_: None)
        await drained

    def _overdue(self) -> None:
        self._log.critical("stopping took more than {seconds:g} s; ending now", seconds=STOP_SECONDS)
        sys.stdout.flush()
        if self._begins_anew:
            process.run_anew()
        os._exit(1)

    # IStatusSource

    def status(self) -> Mapping[str, Any]:
        """See `IStatusSource.status`."""
        return {
            "version": VERSION,
            **self.uplink.status(),
            "store": self.spool.status(),
            "accepted": self.ingest.readings,
            "delivered": self.forwarder.delivered_messages,
            "inFlight": self.forwarder.in_flight,
            "paused": self.ingest.paused,
            "devices": len(self.registry),
            "counters": self.counters.snapshot(),
        }


def _first_command(config: GatewayConfig) -> str:
    """What a newcomer can type to see a first value: a message to the first TCP port of a socket connector."""
    for entry in config.connectors:
        config_of_it: Any = entry.config  # of the type that the connector's own `parse` gives
        if entry.type == "socket" and config_of_it.transport == "TCP":
            return f"printf 'T21.5H048' | nc -q0 {config_of_it.address} {config_of_it.port}"
    return ""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


