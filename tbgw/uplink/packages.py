# -*- test-case-name: tests.uplink.test_packages -*-
"""Where a package is while it is fetched, checked and used, and what is remembered of it across restarts.

    firmware.json   which offer, its state, and what runs now
    firmware.part   what was fetched so far
    firmware.bin    the whole package, once it was checked

in a folder of their own (0700, files 0600); likewise for software. Names are ours: a title from ThingsBoard is never a
path (P-20). The part is not synced while it grows: what a power cut spoils, the checksum of the whole file finds.

All methods block for as long as the disk takes. `read` and `append` are of one chunk, and meet the page cache.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

MAX_STATE_BYTES = 64 * 1024


@dataclass(slots=True)
class Memory:
    """What is remembered."""

    identity: str = ""
    """`Offer.identity` of the offer that `state` speaks of."""
    state: str = ""
    error: str = ""
    title: str = ""
    version: str = ""
    """Of that offer."""
    current_title: str = ""
    current_version: str = ""
    """What runs now, as far as it is known."""


class Package:
    """The files of one kind; `name` is `firmware` or `software`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.part = folder / f"{name}.part"
        self.file = folder / f"{name}.bin"
        self._state = folder / f"{name}.json"

    def load(self) -> Memory:
        """What is remembered; nothing when there is no file, or it is damaged: then everything begins anew."""
        try:
            with self._state.open("rb") as file:
                body = json.loads(file.read(MAX_STATE_BYTES))
            known = {f.name for f in fields(Memory)}
            return Memory(**{key: str(value) for key, value in body.items() if key in known})
        except (OSError, ValueError, AttributeError, RecursionError):
            return Memory()

    def save(self, memory: Memory) -> None:
        """Remember this. Raises OSError."""
        self._make_folder()
        temporary = self._state.with_suffix(".json.new")
        with self._open(temporary, os.O_TRUNC) as file:
            file.write(json.dumps(asdict(memory), indent=1).encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._state)
        self._sync_folder()

    def fetched_bytes(self, chunk_bytes: int, size_bytes: int) -> int:
        """How much of the part can be gone on with: whole chunks, of a file that is not too long."""
        try:
            length = self.part.stat().st_size
        except OSError:
            return 0
        if length > size_bytes:
            return 0
        return length if length == size_bytes else length - length % chunk_bytes

    def begin(self, offset: int) -> None:
        """The part is to have this length; 0 for a new one. Raises OSError."""
        self._make_folder()
        with self._open(self.part, 0) as file:
            os.ftruncate(file.fileno(), offset)

    def append(self, offset: int, data: bytes) -> None:
        """The next chunk. Raises OSError."""
        with self._open(self.part, 0) as file:
            written = os.pwrite(file.fileno(), data, offset)
        if written != len(data):
            raise OSError(28, "No space left on device")

    def read(self, path: Path, offset: int, count: int) -> bytes:
        """Some bytes of a file of ours. Raises OSError."""
        with path.open("rb") as file:
            return os.pread(file.fileno(), count, offset)

    def finish(self) -> None:
        """The part was checked: it is the package now. Raises OSError."""
        with self._open(self.part, 0) as file:
            os.fsync(file.fileno())
        self.part.replace(self.file)
        self._sync_folder()

    def drop(self, *, checked: bool = False, part: bool = True) -> None:
        """Remove what was fetched of a new package, and with `checked` the last one that was checked."""
        for path in ((self.part,) if part else ()) + ((self.file,) if checked else ()):
            with contextlib.suppress(OSError):
                path.unlink()

    def free_bytes(self) -> int:
        """Room on its file system for who is not root. Raises OSError."""
        self._make_folder()
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def _make_folder(self) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)

    def _open(self, path: Path, flags: int):  # type: ignore[no-untyped-def] # a binary file, whose type has no short name
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
        return os.fdopen(fd, "r+b", buffering=0 if not flags else -1)

    def _sync_folder(self) -> None:
        """So that a new name in it survives a power cut."""
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
