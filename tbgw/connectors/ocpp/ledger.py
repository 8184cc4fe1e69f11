# -*- test-case-name: tests.connectors.ocpp.test_ledger -*-
"""What the gateway must not forget of a charge point's security, kept in `ocpp_security.json` across restarts: the
highest profile it ever came with, the password that ThingsBoard gave it, and the serial its certificate was proven for.

Invariants:

* One ledger for all OCPP connectors of a gateway: a charge point that has moved from the plain port to the TLS port is
  refused at the plain one (spec ocpp, 1.6).
* A password is kept as its salted hash only.
* A new password is on the disk, beside the old one, before the charge point is told of it; the old one goes once the
  charge point has taken the new one, or used it. So neither a crash nor a lost answer locks anybody out.
* The file is written as a whole to a temporary one that takes its place, in the store's thread, mode 0600. One that is
  damaged is put aside and said so: its charge points are then known by the configuration only.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from tbgw.connectors.ocpp.internal_events import LedgerFault
from tbgw.connectors.ocpp.passwords import HashInvalid, PasswordHash, parse_hash
from tbgw.internal_events import Events

FILE_NAME = "ocpp_security.json"
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_STATIONS = 100_000
"""More are not remembered; they are let in by the configuration."""
WRITE_DELAY_SECONDS = 1.0
"""How long what may be lost is gathered: a profile that was seen for the first time."""


@dataclass(slots=True)
class Entry:
    """One charge point."""

    profile: int = 0
    """0: no login, 1: a login in clear, 2: a login in TLS, 3: a client certificate."""
    password: PasswordHash | None = None
    """Set by ThingsBoard; the configuration's ones do not count any more."""
    offered: PasswordHash | None = None
    """Sent to the charge point, which has not said yet whether it takes it: both count."""
    serial: str = ""
    """What the CN of its certificate was found to be equal to, in a BootNotification."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to remember."""
        return not (self.profile or self.password or self.offered or self.serial)


class Ledger:
    """See the module. Keys are the charge points' ids, without the folder in front."""

    def __init__(
        self,
        data_dir: Path,
        clock: IReactorTime,
        events: Events,
        run_in_store_thread: Callable[[Callable[[], None]], Deferred[None]],
    ) -> None:
        self.path = data_dir / FILE_NAME
        self._clock = clock
        self._events = events
        self._run = run_in_store_thread
        self._entries: dict[str, Entry] = {}
        self._loaded = False
        self._frozen = False
        self._dirty = False
        self._writing: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []
        """Who wants to know when what is dirty now is on the disk."""
        self._timer: IDelayedCall | None = None

    def load(self) -> None:
        """Read the file, once. Never raises."""
        if self._loaded:
            return
        self._loaded = True
        try:
            try:
                if self.path.stat().st_size > MAX_FILE_BYTES:
                    raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
                content = json.loads(self.path.read_bytes())
                if not isinstance(content, dict) or not isinstance(content.get("stations"), dict):
                    raise ValueError('not an object with "stations"')
            except (ValueError, RecursionError) as error:
                aside = self.path.with_name(self.path.name + ".corrupt")
                os.replace(self.path, aside)
                self._events.emit(LedgerFault(f"{self.path}: not usable ({error}); kept as {aside.name}"))
                return
        except FileNotFoundError:
            return
        except OSError as error:
            self._frozen = True
            self._events.emit(LedgerFault(f"{self.path}: cannot be read ({error.strerror}); it is left as it is"))
            return
        for identity, stated in content["stations"].items():
            entry = _entry(stated)
            if entry is None:
                self._events.emit(LedgerFault(f"{self.path}: the entry of {identity!r} is not understood"))
            else:
                self._entries[identity] = entry

    def entry(self, identity: str) -> Entry:
        """What is known; an empty entry, which is not kept, for nothing."""
        return self._entries.get(identity) or Entry()

    def seen(self, identity: str, profile: int) -> None:
        """It came in with this profile. On the disk some time later."""
        known = self._entries.get(identity)
        if profile > (known.profile if known else 0) and (entry := self._kept(identity)) is not None:
            entry.profile = profile
            self._later()

    def forget_profile(self, identity: str) -> None:
        """A lower profile is allowed again."""
        if (entry := self._entries.get(identity)) is not None and entry.profile:
            entry.profile = 0
            self._later()

    def proven(self, identity: str, serial: str) -> None:
        """The CN of its certificate is its serial."""
        if self.entry(identity).serial != serial and (entry := self._kept(identity)) is not None:
            entry.serial = serial
            self._later()

    def offer(self, identity: str, password: PasswordHash) -> Deferred[None]:
        """The charge point is about to be told this password. Fires when that is on the disk, fails if it cannot."""
        entry = self._kept(identity)
        if entry is None:
            return fail(OSError(f"{MAX_STATIONS} charge points are remembered already"))
        entry.offered = password
        return self.flush()

    def taken(self, identity: str, password: PasswordHash) -> Deferred[None]:
        """It has taken the password, or used it: no other counts from now on. Fires when that is on the disk."""
        entry = self._kept(identity)
        if entry is not None and (entry.password is not password or entry.offered is not None):
            entry.password, entry.offered = password, None
        return self.flush()

    def declined(self, identity: str, password: PasswordHash) -> None:
        """It has not taken the password."""
        entry = self._entries.get(identity)
        if entry is not None and entry.offered is password:
            entry.offered = None
            self._later()

    def flush(self) -> Deferred[None]:
        """Fires when all that is known now is on the disk; fails with OSError when it cannot be."""
        self._dirty = True
        done: Deferred[None] = Deferred()
        self._waiting.append(done)
        self._write()
        return done

    def close(self) -> Deferred[None]:
        """Fires when the file has everything, or cannot have it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._dirty and self._writing is None:
            return _fired()
        return self.flush().addErrback(lambda _: None)

    def _kept(self, identity: str) -> Entry | None:
        entry = self._entries.get(identity)
        if entry is None and len(self._entries) < MAX_STATIONS:
            entry = self._entries[identity] = Entry()
        return entry

    def _later(self) -> None:
        self._dirty = True
        if self._timer is None and self._writing is None:
            self._timer = self._clock.callLater(WRITE_DELAY_SECONDS, self._write)

    def _write(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._writing is not None:
            return  # it goes on when that one is through
        self._dirty = False
        waiting, self._waiting = self._waiting, []
        if self._frozen:
            for one in waiting:
                one.errback(OSError(f"{self.path} could not be read, and is left as it is"))
            return
        content = self._snapshot()
        self._writing = self._run(lambda: write_durably(self.path, content))
        self._writing.addBoth(self._written, waiting)

    def _written(self, result: Any, waiting: list[Deferred[None]]) -> None:
        self._writing = None
        if isinstance(result, Failure):
            self._events.emit(LedgerFault(f"{self.path}: cannot be written ({result.getErrorMessage()})"))
        for one in waiting:
            one.errback(result) if isinstance(result, Failure) else one.callback(None)
        if self._dirty:
            self._write() if self._waiting else self._later()

    def _snapshot(self) -> bytes:
        stations = {identity: _stated(entry) for identity, entry in self._entries.items() if not entry.empty}
        return json.dumps({"version": 1, "stations": stations}).encode("ascii")


def write_durably(path: Path, content: bytes) -> None:
    """Put a whole file in the place of another one, so that a power cut leaves the old or the new. Raises OSError."""
    temporary = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()  # left over from a power cut, perhaps with other rights
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)  # the umask can only have taken away
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _fired() -> Deferred[None]:
    done: Deferred[None] = Deferred()
    done.callback(None)
    return done


def _stated(entry: Entry) -> dict[str, Any]:
    return {
        **({"profile": entry.profile} if entry.profile else {}),
        **({"password": str(entry.password)} if entry.password else {}),
        **({"offered": str(entry.offered)} if entry.offered else {}),
        **({"serial": entry.serial} if entry.serial else {}),
    }


def _entry(stated: object) -> Entry | None:
    if not isinstance(stated, dict):
        return None
    profile, serial = stated.get("profile", 0), stated.get("serial", "")
    if isinstance(profile, bool) or profile not in (0, 1, 2, 3) or not isinstance(serial, str):
        return None
    try:
        password, offered = (parse_hash(stated[key]) if key in stated else None for key in ("password", "offered"))
    except (HashInvalid, TypeError, AttributeError):
        return None
    return Entry(profile, password, offered, serial)
