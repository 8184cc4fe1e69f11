"""Which devices ThingsBoard has heard of from us, kept across restarts in `connected_devices.json`.

The file has the reference's form, `{name: {"connectorName", "deviceType", "connectorId", "renaming",
"disconnected"}}`, so that either program can take over from the other; its older form, a list for each name, is read
too. It is written as a whole to a temporary file that then takes its place, so that a power cut leaves the old or the
new one (the reference truncates in place, C-25).

The registry decides nothing about the link: who is announced in the present session is the forwarder's knowledge.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbgw.files import replace_file
from tbgw.model import Device
from tbgw.thingsboard import payloads

MAX_FILE_BYTES = 64 * 1024 * 1024
"""Some 400,000 devices. A larger file is not ours."""


@dataclass(slots=True)
class Known:
    """One device as the file has it."""

    profile: str
    connector: str
    disconnected: bool
    rest: dict[str, Any]
    """What else the file says of it, kept as it is."""
    original: str
    """The name that its connector has for it: another one than ThingsBoard's when it was renamed there."""
    line: bytes = b""
    """How it stands in the file; empty when that has to be made anew. Of 10,000 devices mostly one has changed, and
    encoding all of them takes 50 ms."""


class DeviceRegistry:
    """All devices that were ever announced. Keeps the picture in memory; `write` puts a snapshot on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Known] = {}
        """By the name in ThingsBoard."""
        self._renamed: dict[str, str] = {}
        """The names of their connectors to the names in ThingsBoard, of devices for which the two differ."""
        self.dirty = False
        """Whether the file lacks something that has to be on disk before the next row: a device or its profile."""
        self.stale = False
        """Whether the file lacks something that may come later: who is connected."""
        self._frozen = False

    def load(self) -> list[str]:
        """
        Read the file, if there is one. Returns what was wrong with it, in words; what can be read is kept, and a
        file that is not ours is moved aside to `*.corrupt`, because the next `write` takes its place. Never raises.
        """
        aside = self.path.with_name(self.path.name + ".corrupt")
        try:
            try:
                if self.path.stat().st_size > MAX_FILE_BYTES:
                    raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
                content = json.loads(self.path.read_bytes())
                if not isinstance(content, dict):
                    raise ValueError("not a JSON object")
            except (ValueError, RecursionError) as error:
                os.replace(self.path, aside)
                return [f"{self.path}: not usable ({error}); kept as {aside.name}, devices are announced as they speak"]
        except FileNotFoundError:
            return []
        except OSError as error:
            self._frozen = True  # what is in it may still be good
            return [f"{self.path}: cannot be read ({error.strerror}); it is left as it is, and not kept up to date"]
        faults = []
        name: str
        for name, entry in content.items():
            known = _parse(name, entry) if payloads.is_device_name(name) else None
            if known is None:
                faults.append(f"{self.path}: the entry of {name!r} is not understood and left out")
                continue
            renamed = known.rest.pop("renaming", None)
            if isinstance(renamed, str) and payloads.is_device_name(renamed) and renamed != name:
                self._renamed[name] = renamed
            self._known[self.name_of(name)] = known
        return faults

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __len__(self) -> int:
        return len(self._known)

    def seen(self, device: Device, original: str | None = None) -> bool:
        """
        Note that the device spoke, whose name is the one in ThingsBoard; `original` is its connector's, if that is
        another. True when it was not known before.
        """
        known = self._known.get(device.name)
        original = original or device.name
        if known is None:
            self._known[device.name] = Known(device.profile, device.connector, False, {}, original)
            self.dirty = not self._frozen
            return True
        if known.original != original:
            # The connector's file has the new name by now, too.
            self._renamed.pop(known.original, None)
            known.original = original
            known.line = b""
            self.dirty = not self._frozen
        if known.disconnected:
            known.disconnected = False
            known.line = b""
            self.stale = not self._frozen
        if known.connector != device.connector or known.profile != device.profile:
            known.connector = device.connector
            known.profile = device.profile  # for the day on which somebody has ThingsBoard create the device anew
            known.line = b""
            self.dirty = not self._frozen
        return False

    def gone(self, name: str) -> None:
        """Note that the device went away; it is not announced again before it speaks."""
        known = self._known.get(name)
        if known is not None and not known.disconnected:
            known.disconnected = True
            known.line = b""
            self.stale = not self._frozen

    def profile(self, name: str) -> str:
        """The profile to announce it with."""
        known = self._known.get(name)
        return known.profile if known is not None else "default"

    def connector(self, name: str) -> str:
        """Name of the connector that it spoke through last; empty for one that never spoke."""
        known = self._known.get(name)
        return known.connector if known is not None else ""

    def name_of(self, original: str) -> str:
        """What ThingsBoard calls a device of which the connector's name is `original`."""
        return self._renamed.get(original, original)

    def original(self, name: str) -> str:
        """What its connector calls a device of which ThingsBoard's name is `name`."""
        known = self._known.get(name)
        return known.original if known is not None else name

    def rename(self, old: str, new: str) -> bool:
        """ThingsBoard calls a device by another name. False, and nothing done, when none is known as `old`."""
        known = self._known.pop(old, None)
        if known is None:
            return False
        self._renamed.pop(known.original, None)
        if new != known.original:
            self._renamed[known.original] = new
        known.line = b""
        self._known[new] = known
        self.dirty = not self._frozen
        return True

    def forget(self, name: str) -> bool:
        """ThingsBoard has deleted a device. False when it was not known."""
        known = self._known.pop(name, None)
        if known is None:
            return False
        self._renamed.pop(known.original, None)
        self.dirty = not self._frozen
        return True

    def connectors(self) -> dict[str, str]:
        """Name to connector of every device that did not go away."""
        return {name: known.connector for name, known in self._known.items() if not known.disconnected}

    def is_present(self, name: str) -> bool:
        """Whether the device is known and did not go away."""
        known = self._known.get(name)
        return known is not None and not known.disconnected

    def present(self) -> Iterator[str]:
        """Names of all devices that did not go away, in the order in which they came."""
        return (name for name, known in self._known.items() if not known.disconnected)

    def snapshot(self) -> bytes:
        """The file's content as of now; clears `dirty` and `stale`."""
        self.dirty = self.stale = False
        for name, known in self._known.items():
            if not known.line:
                known.line = _line(known, name)
        return b"{\n%b\n}\n" % b",\n".join([known.line for known in self._known.values()])

    def write(self, content: bytes) -> None:
        """Put a snapshot on disk, durably. Touches nothing else, so it may run in the store's thread. Raises
        OSError."""
        replace_file(self.path, content)


def _line(known: Known, name: str) -> bytes:
    entry = {
        "connectorId": None,
        **known.rest,
        "renaming": name if name != known.original else None,
        "connectorName": known.connector,
        "deviceType": known.profile,
        "disconnected": known.disconnected,
    }
    return f"{json.dumps(known.original)}: {json.dumps(entry)}".encode("ascii")


def _parse(name: str, entry: object) -> Known | None:
    if isinstance(entry, list):  # [connectorName, type, newName?], from versions before 3.1
        connector, profile, renamed = (*entry, None, None, None)[:3]
        if not isinstance(connector, str) or not isinstance(profile, str):
            return None
        return Known(profile, connector, False, {"renaming": renamed}, name)
    if not isinstance(entry, dict):
        return None
    profile, connector = entry.get("deviceType") or "default", entry.get("connectorName") or ""
    if not isinstance(profile, str) or not isinstance(connector, str):
        return None
    rest = {k: v for k, v in entry.items() if k not in ("deviceType", "connectorName", "disconnected")}
    return Known(profile, connector, entry.get("disconnected") is True, rest, name)
