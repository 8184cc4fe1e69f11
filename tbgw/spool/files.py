"""Files that nobody else may read or open, and what to say when one cannot be used."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3

from tbgw.errors import StoreError

BUSY_SECONDS = 10.0
"""How long a person's `sqlite3` shell may hold the file before we give up."""


def take_lock(what: str, path: str) -> int:
    """
    Lock the file `path`, which keeps other processes from `what`; the descriptor to close in order to let go. The
    kernel lets go too, however the process ends. `StoreError` when another holds it.
    """
    fd = _open_private(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    except OSError as error:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise StoreError(f"the store {what} is in use: process {holder or 'unknown'} holds the lock {path}") from error
    return fd


def make_folders(path: str) -> None:
    """Make `path` and what is missing above it, 0700 each. What exists is left as it is."""
    if os.path.isdir(path):
        return
    make_folders(os.path.dirname(path))
    os.mkdir(path, 0o700)
    os.chmod(path, 0o700)  # the umask may have taken bits away
    sync_folder(os.path.dirname(path))


def _open_private(path: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if os.fstat(fd).st_mode & 0o777 != 0o600:
        try:
            os.fchmod(fd, 0o600)
        except OSError:
            os.close(fd)
            raise
    return fd


def make_private_file(path: str) -> None:
    """The database file, made empty if missing, and its side files if they are there: 0600."""
    new = not os.path.exists(path)
    # Closed before SQLite opens it: closing any descriptor of a file drops the process's POSIX locks on it.
    os.close(_open_private(path))
    for side in (path + "-wal", path + "-shm"):
        if os.path.exists(side):
            os.chmod(side, 0o600)
    if new:
        sync_folder(os.path.dirname(os.path.abspath(path)))


def unlink_database(path: str) -> None:
    """Remove a database of no use and its side files. One that stays is in nobody's way."""
    for leftover in (path, path + "-wal", path + "-shm"):
        with contextlib.suppress(OSError):
            os.unlink(leftover)


def sync_folder(path: str) -> None:
    """So that the new name in it survives a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _code(error: BaseException) -> int:
    """SQLite's primary result code, 0 when there is none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_damage(error: sqlite3.Error) -> bool:
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_full(error: sqlite3.Error) -> bool:
    return _code(error) == sqlite3.SQLITE_FULL


def store_error(doing: str, path: str, error: Exception) -> StoreError:
    """What an operator needs to know: what was tried, on which file, and why it failed."""
    code = _code(error)
    number = getattr(error, "errno", None)
    if code == sqlite3.SQLITE_FULL or number in (errno.ENOSPC, errno.EDQUOT):
        why = "disk full: no space is left on its file system"
    elif code == sqlite3.SQLITE_NOTADB:
        why = "it is not a database, or its first page is damaged; move it away to begin with an empty store"
    elif code == sqlite3.SQLITE_CORRUPT:
        why = f"the file is damaged ({error}); move it away to begin with an empty store"
    elif code == sqlite3.SQLITE_IOERR:
        name = getattr(error, "sqlite_errorname", "SQLITE_IOERR")
        why = f"input/output error ({name}): the disk is failing, full or gone"
    elif code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN) or number in (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
    ):
        why = f"no permission to use the file or its folder, or the file system is read-only ({error})"
    elif code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        why = f"another program held it for more than {BUSY_SECONDS:g} s"
    else:
        why = str(error)
    return StoreError(f"cannot {doing} the store {path}: {why}")
