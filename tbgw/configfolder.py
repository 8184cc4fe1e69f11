# -*- test-case-name: tests.test_configfolder -*-
"""The configuration's folder as something that is written: atomically, with backups, and so that it can be undone.

A change of several files is one change, whenever the power goes:

1. Each file that will be replaced is copied to `backup/<stem>.backup.<ms>.json`.
2. The journal, in the data folder, says which files these are. It is written before the first of them is.
3. The files are written, tb_gateway.json last.
4. The journal is closed; or, when the change may cut the gateway off from ThingsBoard, it stays open until that has
   been reached again. `recover` undoes, at a start, what was not finished, and what was tried `MAX_STARTS` times in
   vain.

The same file remembers which update of each attribute was looked at last, so that one that was refused or undone is
not taken again when it is found in ThingsBoard after a reconnection.

Names are names of files in this folder, checked by who makes the plan; a symbolic link is never written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tbgw.errors import ConfigurationError
from tbgw.files import replace_file, sync_folder
from tbgw.model import Value

GENERAL_FILE = "tb_gateway.json"
LOGS_FILE = "logs.json"
STATE_FILE = "remote_configuration.json"
BACKUP_FOLDER = "backup"

MAX_FILE_BYTES = 4 * 1024 * 1024
"""As for reading a configuration."""

KEPT_BACKUPS = 10
"""Of each file, as in the reference, which however counts those of `mqtt2` as those of `mqtt`."""

MAX_STARTS = 3
"""Starts of the gateway with a change that is not confirmed, before it is undone."""

MAX_SEEN = 600
"""Attributes of which the last update is remembered: two for each connector that there may be."""

WRITING, WAITING = "writing", "waiting"


@dataclass
class State:
    """What the state file holds."""

    seen: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Attribute to the time in ms and the digest of the update that was looked at last."""
    shown: dict[str, int] = field(default_factory=dict)
    """Attribute to the time in ms of the update that was carried out last."""
    phase: str = ""
    """Of the journal: WRITING, WAITING for ThingsBoard, or nothing."""
    starts: int = 0
    """How often the gateway was started since."""
    undo: dict[str, str | None] = field(default_factory=dict)
    """File to its backup; None for one that was not there."""
    inactive: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Entries of connectors that were taken out of the list, by name, so that the name is enough to bring them back."""
    undone: list[str] = field(default_factory=list)
    """Files of a change that was undone, until ThingsBoard has been told."""


class ConfigFolder:
    """See above. Its methods block for as long as the disk does, so they are for the store's thread."""

    def __init__(self, config_dir: Path, data_dir: Path) -> None:
        self.path = config_dir
        self._state_path = data_dir / STATE_FILE
        self.state = State()

    # Reading.

    def load(self) -> str:
        """Read the state. What was wrong with it, in words, or nothing."""
        try:
            content = json.loads(self._state_path.read_bytes())
            self.state = _state(content)
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
            return f"{self._state_path}: not usable ({error}); it is begun anew"
        return ""

    def read(self) -> dict[str, Value]:
        """The parsed contents of all files that are configured remotely. Raises ConfigurationError."""
        general = self._parsed(GENERAL_FILE)
        files = {GENERAL_FILE: general}
        entries = general.get("connectors") if isinstance(general, dict) else None
        names = [entry.get("configuration") for entry in entries or () if isinstance(entry, dict)]
        for name in [*names, LOGS_FILE]:
            if isinstance(name, str) and self.is_file(name):
                files[name] = self._parsed(name)
        return files

    def is_file(self, name: str) -> bool:
        """Whether there is a regular file of this name in the folder, links followed."""
        return not Path(name).is_absolute() and ".." not in Path(name).parts and (self.path / name).is_file()

    def _parsed(self, name: str) -> Any:
        try:
            with (self.path / name).open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise ConfigurationError([f"{name}: is larger than {MAX_FILE_BYTES} bytes"])
            return json.loads(content.decode("utf-8-sig"))
        except OSError as error:
            raise ConfigurationError([f"{name}: cannot be read: {error.strerror or error}"]) from None
        except (ValueError, RecursionError):
            raise ConfigurationError([f"{name}: is no JSON at present"]) from None

    def changed_ms(self, name: str) -> int:
        """When the file was last written, in ms since the epoch; 0 for none."""
        try:
            return (self.path / name).stat().st_mtime_ns // 1_000_000
        except OSError:
            return 0

    def fault(self, names: Mapping[str, Value]) -> str:
        """Why these files cannot be written; empty if they can."""
        for name in names:
            if (self.path / name).is_symlink():
                return f"{name}: is a symbolic link, and those are not written"
        if not os.access(self.path, os.W_OK):
            return f"the configuration's folder {self.path} cannot be written by the gateway"
        return ""

    # Writing.

    def note(self, update: Mapping[str, tuple[int, str]], carried_out: bool) -> None:
        """These attributes, with time in ms and digest, were looked at. Kept in memory until something is written."""
        state = self.state
        for name, (ts, mark) in update.items():
            state.seen.pop(name, None)
            state.seen[name] = ts, mark
            state.shown.pop(name, None)
            if carried_out:
                state.shown[name] = ts
        for name in list(state.seen)[:-MAX_SEEN]:
            del state.seen[name]
            state.shown.pop(name, None)

    def inactive(self) -> dict[str, dict[str, Any]]:
        """Entries that were taken out of the list of connectors and whose files are still there, by name."""
        return {
            name: entry for name, entry in self.state.inactive.items() if self.is_file(str(entry.get("configuration")))
        }

    def note_connectors(self, before: Value, after: Value) -> None:
        """The list of connectors becomes another. Kept in memory until something is written."""
        entries = [entry for entry in before if isinstance(entry, dict)] if isinstance(before, list) else []
        listed = [entry.get("name") for entry in after if isinstance(entry, dict)] if isinstance(after, list) else []
        inactive = self.state.inactive
        for entry in entries:
            if isinstance(entry.get("name"), str):
                inactive[entry["name"]] = entry
        for name in list(inactive):
            if name in listed or len(inactive) > MAX_SEEN:
                del inactive[name]

    def write(self, files: Mapping[str, bytes], now_ms: int, confirm: bool) -> None:
        """
        Put these contents in the place of the files'. With `confirm` the change is undone by `undo`, or by `recover`,
        unless `confirmed` is called. Raises OSError; then nothing has changed.
        """
        state = self.state
        # On top of a change that is not confirmed yet, undoing goes back to what was before both.
        earlier = dict(state.undo) if state.phase == WAITING else {}
        undo: dict[str, str | None] = {name: self._backup(name, now_ms) for name in files}
        state.undo = undo | earlier
        was_waiting = state.phase == WAITING
        state.phase, state.starts = WRITING, 0
        self.save()
        try:
            for name in sorted(files, key=lambda name: name == GENERAL_FILE):
                replace_file(self.path / name, files[name], self._mode(name))
        except OSError:
            self._restore(undo)
            state.undo, state.phase = earlier, WAITING if was_waiting else ""
            self.save()
            raise
        state.phase = WAITING if confirm or was_waiting else ""
        if not state.phase:
            state.undo = {}
        self.save()
        for name in files:
            self._prune(name)

    def confirmed(self) -> None:
        """The last change may stay. Raises OSError."""
        self.state.phase, self.state.undo, self.state.starts = "", {}, 0
        self.save()

    def undo(self) -> None:
        """Put the files back as they were before the change that is not confirmed. Raises OSError."""
        self._restore(self.state.undo)
        self.state.undone = sorted(self.state.undo)
        self.confirmed()

    def recover(self) -> list[str]:
        """
        At a start, before the configuration is read: undo a change that was not finished, or not confirmed in
        `MAX_STARTS` starts. Lines that say what was done. Raises OSError.
        """
        state = self.state
        if not state.phase:
            return []
        if state.phase == WAITING and state.starts < MAX_STARTS:
            state.starts += 1
            self.save()
            return []
        names = ", ".join(sorted(state.undo))
        self.undo()
        return [f"a remote change of {names} was not finished or never confirmed; the files are as they were before"]

    def save(self) -> None:
        """Write the state. Raises OSError."""
        state = self.state
        seen, shown = dict(state.seen), dict(state.shown)  # they may change meanwhile, in the reactor's thread
        content = {
            "seen": {name: {"ts": ts, "digest": digest} for name, (ts, digest) in seen.items()},
            "shown": shown,
            "phase": state.phase,
            "starts": state.starts,
            "undo": state.undo,
            "undone": state.undone,
            "inactive": dict(state.inactive),
        }
        replace_file(self._state_path, json.dumps(content, indent=1).encode("ascii"))

    def _mode(self, name: str) -> int:
        try:
            return (self.path / name).stat().st_mode & 0o777
        except FileNotFoundError:
            return 0o600

    def _backup(self, name: str, now_ms: int) -> str | None:
        try:
            content = (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        folder = self.path / BACKUP_FOLDER
        if not folder.exists():
            folder.mkdir(mode=0o700)
            sync_folder(self.path)
        while (folder / f"{_stem(name)}.backup.{now_ms}.json").exists():
            now_ms += 1
        backup = f"{_stem(name)}.backup.{now_ms}.json"
        replace_file(folder / backup, content)
        return backup

    def _restore(self, undo: Mapping[str, str | None]) -> None:
        for name in sorted(undo, key=lambda name: name == GENERAL_FILE):
            backup = undo[name]
            if backup is None:
                (self.path / name).unlink(missing_ok=True)
                continue
            content = (self.path / BACKUP_FOLDER / backup).read_bytes()
            if not (self.path / name).is_file() or (self.path / name).read_bytes() != content:
                replace_file(self.path / name, content, self._mode(name))
        sync_folder(self.path)

    def _prune(self, name: str) -> None:
        pattern = re.compile(re.escape(_stem(name)) + r"\.backup\.([0-9]+)\.json")
        folder = self.path / BACKUP_FOLDER
        found = [(int(match[1]), entry) for entry in os.listdir(folder) if (match := pattern.fullmatch(entry))] if (
            folder.is_dir()
        ) else []
        needed = set(self.state.undo.values())
        for _, entry in sorted(found)[:-KEPT_BACKUPS]:
            if entry not in needed:
                (folder / entry).unlink(missing_ok=True)


def rendered(content: Value) -> bytes:
    """A file's content, as a person would like to read it."""
    try:
        return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can carry
        return json.dumps(content, indent=2).encode("ascii") + b"\n"


def digest(value: Value) -> str:
    """The same for values that are equal."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def _stem(name: str) -> str:
    return name.replace("/", "_").removesuffix(".json")


def _state(content: Any) -> State:
    seen = {str(name): (int(entry["ts"]), str(entry["digest"])) for name, entry in content["seen"].items()}
    shown = {str(name): int(ts) for name, ts in content["shown"].items()}
    undo = {str(name): None if backup is None else str(backup) for name, backup in content["undo"].items()}
    phase = content["phase"]
    if phase not in ("", WRITING, WAITING):
        raise ValueError("an unknown phase")
    undone = [str(name) for name in content.get("undone", ())]  # absent in files of earlier versions
    inactive = {str(name): dict(entry) for name, entry in dict(content.get("inactive", {})).items()}
    return State(seen, shown, phase, int(content["starts"]), undo, inactive, undone)
