"""The schema of the SQLite store: making it, refusing what is not ours or too new, and upgrading what is older.

A new file is made by the first schema and all upgrades, so that it cannot differ from an upgraded one. Before an
upgrade the file is copied aside as it is.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from pathlib import Path
from typing import Final

from tbgw.errors import StoreError
from tbgw.spool.contract import Totals
from tbgw.spool.files import make_private_file, sync_folder, unlink_database
from tbgw.spool.records import mark_crc, meta_crc

SCHEMA_VERSION: Final = 2
APPLICATION_ID: Final = 0x74626777
"""`tbgw`: tells our files from other programs'."""
READ_META = "SELECT last_seq, rows, messages, bytes, dead_rows, dead_bytes, running_ms, crc FROM meta WHERE id = 1"
MARK = "INSERT OR REPLACE INTO marks VALUES (?, ?, ?)"


def check_version(connection: sqlite3.Connection, place: str) -> int:
    """The schema's version, 0 for an empty file. Raises when it is not ours or too new; changes nothing."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == 0 and application == 0 and tables == 0:
        return 0
    if application != APPLICATION_ID:
        raise StoreError(f"{place} is the database of another program, not a store of the gateway")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the store {place} was written by a newer version of the gateway (schema {version}, this one "
            f"knows {SCHEMA_VERSION}); it was left as it is"
        )
    if version < 1:
        raise StoreError(f"the store {place} has the unknown schema {version}")
    return int(version)


def complete(connection: sqlite3.Connection, place: str, version: int) -> str:
    """
    Bring the file from `version` (0: it is empty) to ours. Returns where a copy of it as it was is kept; an empty text
    when it did not have to be upgraded.
    """
    if version == SCHEMA_VERSION:
        return ""
    copy = _copy_aside(connection, place, version) if version else ""
    scripts = ["schema_v1.sql"] if not version else []
    scripts += [f"upgrade_v{number}.sql" for number in range(max(version, 1) + 1, SCHEMA_VERSION + 1)]
    steps = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in scripts]
    connection.executescript("BEGIN IMMEDIATE;\n" + "\n".join(steps))
    if version:
        _carry_over(connection)
    connection.execute("COMMIT")
    return copy


def _copy_aside(connection: sqlite3.Connection, place: str, version: int) -> str:
    """Keep the file as it is before an upgrade, under a name that says so; that name."""
    name, unfinished = f"{place}.schema{version}", f"{place}.copying"
    unlink_database(unfinished)
    make_private_file(unfinished)
    target = sqlite3.connect(unfinished, isolation_level=None)
    try:
        connection.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")  # one file, which a person can move about
    except sqlite3.Error:
        target.close()
        unlink_database(unfinished)
        raise
    target.close()
    os.rename(unfinished, name)
    sync_folder(os.path.dirname(os.path.abspath(name)))
    return name


def _carry_over(connection: sqlite3.Connection) -> None:
    """What upgrading needs beyond SQL: sums with their new CRC, and ages that begin now."""
    *sums, running_ms, crc = connection.execute(READ_META).fetchone()
    totals = Totals(*sums)
    if crc == zlib.crc32(b"%d %d %d %d %d %d" % totals):  # else they were damaged, and are counted anew at opening
        connection.execute("UPDATE meta SET crc = ?", (meta_crc(totals, running_ms),))
    connection.execute(MARK, (0, running_ms, mark_crc(0, running_ms)))
