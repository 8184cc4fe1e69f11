# -*- test-case-name: tests.test_reconfiguration -*-
"""Takes configuration from ThingsBoard, and shows there what holds (P-19); what the attributes mean is in
`uplink.remote_config`, how files are written in `configfolder`.

One update, whatever attributes it has, is taken as a whole or not at all:

1. A plan is made of it: new contents of files. Connectors that are to be active and unknown are asked for first.
2. The folder as it would be is checked by the loader, with every rule that holds at a start.
3. The files are written. Until here nothing has changed for the running gateway, and any fault ends the matter: it is
   logged and shown in the client attribute `remote_configuration_status`.
4. What differs is made anew: single connectors, the link, or, when nothing less will do, the whole process.
5. When the link was touched, ThingsBoard has to be reached within `remoteConfigurationConfirmSeconds`; else all is put
   back.

Stored data is no part of any of this: the spool goes on as it is, and a restart of the process finds it on the disk.

Updates come one after the other; those that come meanwhile are put together, the latest value of each attribute
counting. Of what ThingsBoard is asked for after each connection, only what is newer than the last that was looked at is
taken, so that a change that was refused, undone, or made on the machine since is not fought over for ever. A live
update is always looked at.

Files that are changed on the disk are noticed, too (`checkConnectorsConfigurationInSeconds`): those of connectors.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbgw.config.findings import Severity
from tbgw.config.gateway import ConnectorEntry, GatewayConfig
from tbgw.config.loader import Examined
from tbgw.config.security import Security
from tbgw.configfolder import GENERAL_FILE, LOGS_FILE, WAITING, ConfigFolder, digest, rendered
from tbgw.errors import ConfigurationError, LinkDown, NoAnswer, StoreError
from tbgw.interfaces import IOwnDevice
from tbgw.internal_events import Events
from tbgw.model import Value
from tbgw.uplink import remote_config
from tbgw.uplink.internal_events import (
    ConfigurationChanged,
    ConfigurationConfirmed,
    ConfigurationRefused,
    ConfigurationUndone,
)
from tbgw.uplink.remote_config import FIXED, MAX_FAULTS, STATUS, Refusal

MAX_WAITING = 600
"""Attributes that wait while another update is carried out; ThingsBoard cannot have more than there are connectors."""

UNDONE_WHY = "it was not finished, or ThingsBoard was not reached in time with it"
"""What ThingsBoard is told of such a change once it is reached again."""

LINK_FIELDS = frozenset({"host", "port", "security", "proxy_host", "proxy_port"})
"""Fields of `thingsboard` that only ask for another session."""

LIVE_FIELDS = frozenset(
    {
        *("statistics", "activity", "device_filtering", "report", "handle_device_renaming", "remote_configuration"),
        *("remote_shell", "latency_debug", "config_check_seconds", "remote_methods", "publish_secrets"),
        *("confirm_seconds", "qos", "child_session_refresh"),
    }
)
"""Fields that can be changed while all runs. All others need a new process."""


Places = dict[str, list[tuple[str | int, ...]]]
"""File to where secrets stand in it."""


@dataclass(frozen=True)
class Difference:
    """What has to be done to get from one configuration to another."""

    gone: tuple[str, ...] = ()
    """Connectors that end."""
    begun: tuple[ConnectorEntry, ...] = ()
    """Connectors that begin; a changed one is among both."""
    link: bool = False
    """The session with ThingsBoard has to be begun anew."""
    live: bool = False
    """Something changes that needs neither."""
    restart: bool = False
    """Only a new process will do."""

    @property
    def cuts(self) -> bool:
        """Whether ThingsBoard may be out of reach afterwards."""
        return self.link or self.restart


def difference(old: GatewayConfig, new: GatewayConfig) -> Difference:
    """Compare two configurations."""
    # A process that began without a need of TLS has none of it loaded, and cannot get it later (`tap.leave_out_tls`).
    wants_tls = new.thingsboard.security.tls or any(getattr(one.config, "needs_tls", False) for one in new.connectors)
    lacks_tls = wants_tls and sys.modules.get("OpenSSL", True) is None
    changed = {
        item.name
        for item in dataclasses.fields(old.thingsboard)
        if getattr(old.thingsboard, item.name) != getattr(new.thingsboard, item.name)
    }
    if _is_same_login(old.thingsboard.security, new.thingsboard.security):
        changed.discard("security")
    before = {entry.name: entry for entry in old.connectors}
    after = {entry.name: entry for entry in new.connectors}

    def is_same(name: str) -> bool:
        one, other = before[name], after[name]
        return (one.type, one.fingerprint, old.report) == (other.type, other.fingerprint, new.report)

    logging = [(entry.name, entry.log_level, entry.remote_logging) for entry in old.connectors] != [
        (entry.name, entry.log_level, entry.remote_logging) for entry in new.connectors
    ]
    others = changed - LINK_FIELDS - LIVE_FIELDS
    provisioned = old.thingsboard.provisioning is not None
    link = bool(changed & LINK_FIELDS)
    return Difference(
        gone=tuple(name for name in before if name not in after or not is_same(name)),
        begun=tuple(entry for name, entry in after.items() if name not in before or not is_same(name)),
        link=link,
        live=bool(changed & LIVE_FIELDS)
        or logging
        or old.device_filter != new.device_filter
        or old.statistics_commands != new.statistics_commands,
        restart=bool(others)
        or lacks_tls
        or (link and provisioned)
        or (old.storage, old.sandbox) != (new.storage, new.sandbox),
    )


def _is_same_login(old: Security, new: Security) -> bool:
    """
    Whether they are equal, but for a token whose file was not there when the first was read: the sandbox's own, at the
    first start.
    """
    if old.access_token is None and old.access_token_file is not None:
        new = dataclasses.replace(new, access_token=None)
    return old == new


class Applier(Protocol):
    """Who carries a configuration out: the builder."""

    def apply(self, config: GatewayConfig, what: Difference) -> Deferred[None]:
        """Let this configuration hold; fires when connectors and link are begun. Not for what needs a restart."""

    def restart(self, why: str) -> None:
        """End in good order, and begin anew."""


class Reconfiguration:
    """
    `examine(instead)` reads the folder with these contents in the place of files' own; `in_thread(job)` runs a job that
    writes. `logging_level(value)` is told of the shared attribute `RemoteLoggingLevel`.
    """

    def __init__(
        self,
        folder: ConfigFolder,
        config: GatewayConfig,
        own_device: IOwnDevice,
        applier: Applier,
        *,
        examine: Callable[[Mapping[str, bytes]], Examined],
        in_thread: Callable[[Callable[[], None]], Deferred[None]],
        clock: IReactorTime,
        now_ms: Callable[[], int],
        events: Events,
        version: str,
    ) -> None:
        self._folder = folder
        self.config = config
        """What holds at present."""
        self._own_device = own_device
        self._applier = applier
        self._examine = examine
        self._in_thread = in_thread
        self._clock = clock
        self._now_ms = now_ms
        self._events = events
        self._version = version
        self._log = Logger()
        self._waiting: dict[str, Value] = {}
        self._live: set[str] = set()
        self._busy = False
        self._stopped = False
        self._files_seen: dict[str, tuple[int, int, int]] = {}
        self._watch: IDelayedCall | None = None
        self._deadline: IDelayedCall | None = None
        self._status: dict[str, Value] = {}
        self._remarks: list[str] = []
        """What is to be said about an update that is carried out."""
        self._restarting = False
        self._known_places: tuple[dict[str, tuple[int, int, int]], Places] | None = None

    def start(self) -> None:
        """The store is open."""
        if fault := self._folder.load():
            self._log.warn("{fault}", fault=fault)
        self._own_device.add_shared_listener(self._shared_changed)
        self._own_device.add_link_listener(self._link_up)
        if self._folder.state.phase == WAITING:
            self._arm_deadline()
        self._files_seen = self._files()
        self._arm_watch()

    def stop(self) -> None:
        """No timer is left, and nothing is begun any more."""
        self._stopped = True
        for timer in (self._watch, self._deadline):
            if timer is not None and timer.active():
                timer.cancel()
        self._watch = self._deadline = None

    # What comes.

    def _shared_changed(self, values: Mapping[str, Value], deleted: Sequence[str]) -> None:
        self.take(values, live=True)

    def _link_up(self) -> None:
        if self._folder.state.phase == WAITING and not self._restarting:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
            confirmed = self._in_thread(self._folder.confirmed)
            confirmed.addCallbacks(lambda _: self._events.emit(ConfigurationConfirmed()), self._not_written)
        if self.config.thingsboard.remote_configuration:
            self._tell_undone()
            self._background(self._look_up())

    def _tell_undone(self) -> None:
        """Who undid a change had no session to tell it in, and was maybe another process."""
        undone, self._folder.state.undone = self._folder.state.undone, []
        if undone:
            self._tell(False, [f"the change of {', '.join(undone)} was undone: {UNDONE_WHY}"], ())
            self._in_thread(self._folder.save).addErrback(self._not_written)

    async def _look_up(self) -> None:
        """Ask for what was changed while there was no session, then show what holds."""
        names = [*FIXED, *[entry.name for entry in self.config.connectors if "," not in entry.name]]
        try:
            shared = (await self._own_device.request_attributes(shared_keys=names)).shared
        except (LinkDown, NoAnswer) as error:
            self._log.info("the shared attributes cannot be asked for: {error}", error=str(error))
            shared = {}
        self.take(shared, live=False)
        if not self._busy:
            self._publish()

    def take(self, values: Mapping[str, Value], live: bool) -> None:
        """Shared attributes of the gateway: set just now, or found when it was asked for them."""
        if not self.config.thingsboard.remote_configuration or self._stopped:
            return
        for name, value in values.items():
            if not remote_config.is_configuration(name, value) or (not live and not self._is_news(name, value)):
                continue
            if name in self._waiting or len(self._waiting) < MAX_WAITING:
                self._waiting[name] = value
        if self._waiting and not self._busy:
            self._busy = True
            self._background(self._work())

    def _is_news(self, name: str, value: Value) -> bool:
        ts = remote_config.times({name: value}).get(name, 0)
        seen = self._folder.state.seen.get(name)
        if seen is None:
            return not ts or ts > self._folder.changed_ms(self._file_of(name))
        return ts > seen[0] or (not ts and digest(value) != seen[1])

    def _file_of(self, name: str) -> str:
        for entry in self.config.connectors:
            if entry.name == name:
                return entry.file.name
        return LOGS_FILE if name == remote_config.LOGS else GENERAL_FILE

    def _background(self, work: Any) -> None:
        Deferred.fromCoroutine(work).addErrback(self._broken)

    def _broken(self, failure: Failure) -> None:
        """An error of ours: the update is left as it is, and the next one is taken all the same (C-52)."""
        self._busy = False
        self._log.failure("remote configuration", failure)

    # One update.

    async def _work(self) -> None:
        try:
            while self._waiting and not self._stopped and not self._restarting:
                update, self._waiting = self._waiting, {}
                await self._one(update)
            if self._folder.state.phase != WAITING and not self._restarting and not self._stopped:
                self._publish()
        finally:
            self._busy = False

    async def _one(self, update: dict[str, Value]) -> None:
        names = sorted(update)
        self._remarks = []
        try:
            changed = await self._carry_out(update)
        except (Refusal, ConfigurationError) as error:
            self._note(update, carried_out=False)
            self._tell(False, error.faults, ())
            self._events.emit(ConfigurationRefused(attributes=", ".join(names), why="; ".join(error.faults)))
        except (OSError, StoreError) as error:
            self._folder.note(dict.fromkeys(names, (0, "")), carried_out=False)
            self._tell(False, [f"cannot be written: {error}"], ())
            self._events.emit(ConfigurationRefused(attributes=", ".join(names), why=f"cannot be written: {error}"))
        else:
            self._tell(True, self._remarks, changed)

    async def _carry_out(self, update: dict[str, Value]) -> Sequence[str]:
        """The files that were changed. Raises Refusal, ConfigurationError, OSError, StoreError; then nothing was."""
        files = self._folder.read()
        places = self._places()
        inactive = self._folder.inactive()
        plan = remote_config.plan(update, files, places, inactive)
        if plan.unknown:
            update.update(await self._ask_for(plan.unknown))
            plan = remote_config.plan(update, files, places, inactive)
        if plan.unknown:
            names = ", ".join(plan.unknown)
            self._remarks = [f"{remote_config.ACTIVE}: nothing is known of {names[:200]}, here or in ThingsBoard"]
        if not plan.files:
            self._note(update, carried_out=True)
            await self._in_thread(self._folder.save)
            return ()
        if fault := self._folder.fault(plan.files):
            raise Refusal(fault)
        contents = {name: rendered(content) for name, content in plan.files.items()}
        config = self._checked(contents)
        what = difference(self.config, config)
        self._note(update, carried_out=True)
        if GENERAL_FILE in plan.files:
            self._folder.note_connectors(_connectors(files[GENERAL_FILE]), _connectors(plan.files[GENERAL_FILE]))
        stays_open = what.cuts or self._folder.state.phase == WAITING
        await self._in_thread(lambda: self._folder.write(contents, self._now_ms(), confirm=True))
        self._events.emit(ConfigurationChanged(files=", ".join(sorted(contents)), how=_how(what)))
        try:
            await self._apply(config, what)
        except ConfigurationError:
            await self._put_back()
            raise
        if not stays_open:
            await self._in_thread(self._folder.confirmed)
        return sorted(contents)

    async def _put_back(self) -> None:
        """A part could not be made: the next start would fail on what is written."""
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        await self._in_thread(self._folder.undo)
        self._folder.state.undone = []  # who pushed it is told at once
        config = self._checked({})
        await self._apply(config, difference(self.config, config))

    async def _ask_for(self, names: Sequence[str]) -> dict[str, Value]:
        askable = [name for name in names if "," not in name]
        try:
            shared = (await self._own_device.request_attributes(shared_keys=askable)).shared if askable else {}
        except (LinkDown, NoAnswer):
            return {}
        return {name: value for name, value in shared.items() if remote_config.is_configuration(name, value)}

    def _checked(self, contents: Mapping[str, bytes]) -> GatewayConfig:
        examined = self._examine(contents)
        if examined.config is None:
            raise ConfigurationError([str(found) for found in examined.findings if found.severity is Severity.FAULT])
        return examined.config

    async def _apply(self, config: GatewayConfig, what: Difference) -> None:
        if what.cuts and self._folder.state.phase == WAITING:
            self._arm_deadline()
        if what.restart:
            self._restarting = True
            self._applier.restart("the configuration was changed from ThingsBoard")
            return
        self.config = config
        self._files_seen = self._files()
        await self._applier.apply(config, what)
        self._arm_watch()

    def _note(self, update: Mapping[str, Value], carried_out: bool) -> None:
        """Remember what was looked at."""
        stated = remote_config.times(update)
        looked_at = {name: (stated.get(name, 0), digest(value)) for name, value in update.items()}
        self._folder.note(looked_at, carried_out)
        if not carried_out:
            self._in_thread(self._folder.save).addErrback(self._not_written)

    # Undoing.

    def _arm_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = self._clock.callLater(self.config.thingsboard.confirm_seconds, self._not_confirmed)

    def _not_confirmed(self) -> None:
        self._deadline = None
        self._background(self._undo())

    async def _undo(self) -> None:
        files = ", ".join(sorted(self._folder.state.undo))
        seconds = self.config.thingsboard.confirm_seconds
        try:
            await self._in_thread(self._folder.undo)
            config = self._checked({})
        except (OSError, StoreError, ConfigurationError) as error:
            self._log.error("a remote change cannot be undone: {error}", error=str(error))
            return
        self._events.emit(ConfigurationUndone(files=files, seconds=seconds))
        await self._apply(config, difference(self.config, config))

    # Showing.

    def _places(self) -> Places:
        """Where secrets stand in the files as they are. They are only read anew when they have changed: that can take
        seconds for a thousand devices on a small board."""
        signature = self._files(GENERAL_FILE)
        if self._known_places is None or self._known_places[0] != signature:
            places: Places = {}
            for file, place in self._examine({}).secrets:
                places.setdefault(file, []).append(place)
            self._known_places = signature, places
        return self._known_places[1]

    def _tell(self, good: bool, faults: Sequence[str], changed: Sequence[str]) -> None:
        shown = [fault[:300] for fault in faults[:MAX_FAULTS]]
        if len(faults) > MAX_FAULTS:
            shown.append(f"and {len(faults) - MAX_FAULTS} more, see the gateway's log")
        if changed or not good:
            # Also as a time series, so that ThingsBoard keeps who was told what, and when.
            told = {"ok": good, "faults": shown, "changed": list(changed)}
            self._own_device.publish_telemetry({STATUS: told})
        self._status = {"ok": good, "ts": self._now_ms(), "faults": shown, "changed": list(changed)}

    def _publish(self) -> None:
        """Show what holds."""
        try:
            files = self._folder.read()
        except ConfigurationError as error:
            self._log.warn("the configuration cannot be shown in ThingsBoard: {error}", error=str(error))
            return
        shown = self._folder.state.shown
        names = [*FIXED, *[entry.name for entry in self.config.connectors]]
        ts_ms = {name: max(shown.get(name, 0), self._folder.changed_ms(self._file_of(name))) for name in names}
        places = self._places()
        secrets = self.config.thingsboard.publish_secrets
        for message in remote_config.published(files, places, ts_ms, self._version, secrets):
            self._own_device.publish_attributes(message)
        if self._status:
            self._own_device.publish_attributes({STATUS: self._status})

    def _not_written(self, failure: Failure) -> None:
        failure.trap(OSError, StoreError)
        self._log.warn("what was taken from ThingsBoard cannot be noted: {error}", error=failure.getErrorMessage())

    # Files that are changed on the disk.

    def _files(self, *others: str) -> dict[str, tuple[int, int, int]]:
        """Time, size and number of the connectors' files and these."""
        found = {}
        for path in (*[entry.file for entry in self.config.connectors], *[self._folder.path / name for name in others]):
            try:
                status = path.stat()
            except OSError:
                continue
            found[str(path)] = (status.st_mtime_ns, status.st_size, status.st_ino)
        return found

    def _arm_watch(self) -> None:
        seconds = self.config.thingsboard.config_check_seconds
        if self._watch is not None and self._watch.active():
            self._watch.cancel()
        self._watch = self._clock.callLater(seconds, self._look_at_files) if seconds and not self._stopped else None

    def _look_at_files(self) -> None:
        self._watch = None
        present = self._files()
        if present != self._files_seen and not self._busy:
            self._files_seen = present
            self._busy = True
            self._background(self._take_files())
        self._arm_watch()

    async def _take_files(self) -> None:
        try:
            found = self._checked({})
            # Only connectors: for the rest of tb_gateway.json the gateway is restarted by who changed it.
            config = dataclasses.replace(self.config, connectors=found.connectors)
            what = difference(self.config, config)
            if what != Difference():
                names = ", ".join(sorted({*what.gone, *[entry.name for entry in what.begun]}))
                self._events.emit(ConfigurationChanged(files=f"connectors {names}, on the disk", how=_how(what)))
                await self._apply(config, what)
                if config.thingsboard.remote_configuration:
                    self._publish()
        except ConfigurationError as error:
            self._events.emit(ConfigurationRefused(attributes="files on the disk", why="; ".join(error.faults)))
        finally:
            self._busy = False
            self.take({}, live=True)


def _connectors(general: Value) -> Value:
    return general.get("connectors") if isinstance(general, dict) else None


def _how(what: Difference) -> str:
    if what.restart:
        return "the gateway restarts"
    parts = [
        (what.link, "the link to ThingsBoard is begun anew"),
        (bool(what.begun), f"begun: {', '.join(entry.name for entry in what.begun)}"),
        (bool(what.gone), f"ended: {', '.join(what.gone)}"),
    ]
    return "; ".join(text for holds, text in parts if holds) or "nothing had to be begun anew"


