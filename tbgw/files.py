# -*- test-case-name: tests.test_files -*-
"""Writing a file so that a power cut leaves the old content or the new one, and never half of either.

Invariant: what `replace_file` writes is on the disk when it returns, under its own name, with exactly these rights,
whatever the umask. A symbolic link of that name is replaced, and what it pointed to is not touched.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

PRIVATE = 0o600
"""Rights of a file that may hold a secret: nobody but its owner (P-13)."""


def replace_file(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Put `content` in the place of the file, durably. Needs no loop, so it may run in a thread. Raises OSError."""
    temporary = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()  # left over from a power cut, perhaps with other rights
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # the umask can only have taken away
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: those just created, renamed or removed. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
