# -*- test-case-name: tests.cli.test_spool -*-
"""`tbgw spool`: looks into the store, and mends it by hand.

`show` only reads, and works while the gateway runs (SQLite). The others change the store or read all of it, so they
take its lock: with the gateway running they say so and do nothing. Rows that are re-queued get new numbers at the end,
so that a device's order holds among what is still to come.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tbgw.cli.folders import add_folder_arguments
from tbgw.config.loader import examine_folder
from tbgw.config.storage import StorageSection
from tbgw.connectors.parsers import PARSERS
from tbgw.errors import StoreError
from tbgw.model import Row
from tbgw.spool.contract import Change, DeadLetter, Store, row_bytes

HELP = "look into the store: show, export, requeue, purge"

_STEP_BYTES = 1024 * 1024
"""What is read from the store at once."""
_STEP_ROWS = 500
"""Rows in one change."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this subcommand."""
    add_folder_arguments(parser)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("show", help="sums, ages, dead letters by reason; also while the gateway runs")
    export = actions.add_parser("export", help="everything as JSON lines on standard output")
    requeue = actions.add_parser("requeue", help="send dead letters once more")
    purge = actions.add_parser("purge", help="forget dead letters, or everything")
    for one in (export, requeue, purge):
        one.add_argument("--reason", metavar="WORD", help="only dead letters with this reason")
    export.add_argument("--dead", action="store_true", help="only the dead letters")
    purge.add_argument("--rows", action="store_true", help="the rows that wait, too: THEY ARE LOST")
    purge.add_argument("--yes", action="store_true", help="do it; without, only the numbers are told")


def run(arguments: argparse.Namespace) -> int:
    """Do it; the exit status."""
    examined = examine_folder(Path(arguments.config_dir), os.environ, Path(arguments.data_dir), PARSERS)
    if examined.config is None:
        print(f"{arguments.config_dir}: the configuration has faults; `tbgw check` names them", file=sys.stderr)
        return 1
    section = examined.config.storage
    if section.type == "memory":
        print("the store is in the gateway's memory: there is nothing to look into from outside", file=sys.stderr)
        return 1
    place = section.folder / "spool.db" if section.type == "sqlite" else section.folder
    if not place.exists():
        print(f"there is no store at {place}", file=sys.stderr)
        return 1
    try:
        if arguments.action == "show":
            return _show(section, place)
        store = _store(section)
        store.open()
        try:
            return {"export": _export, "requeue": _requeue, "purge": _purge}[arguments.action](store, arguments)
        finally:
            store.close(None)
    except (StoreError, sqlite3.Error) as error:
        print(error, file=sys.stderr)
        if "is in use" in str(error):
            print("the gateway is running; stop it first (only `show` for SQLite works beside it)", file=sys.stderr)
        return 1


def _store(section: StorageSection) -> Store:
    if section.type == "file":
        from tbgw.spool.file import FileStore

        return FileStore(section.folder)
    from tbgw.spool.store import SqliteStore

    return SqliteStore(section.folder / "spool.db")


def _show(section: StorageSection, place: Path) -> int:
    print(f"store            {place} ({section.type})")
    if section.type == "file":
        store = _store(section)
        opened = store.open()
        try:
            tended = store.tend(opened.running_ms, None, _now_ms())
        finally:
            store.close(None)
        totals, reasons = opened.totals, tended.dead_reasons
        oldest = tended.oldest_running_ms
        age_ms = None if oldest is None else opened.running_ms - oldest
        accepted_ms = None
    else:
        # Read-only and by plain SQL: the gateway may be writing to it.
        with closing(sqlite3.connect(f"file:{place}?mode=ro", uri=True, timeout=10)) as connection:
            totals, age_ms, accepted_ms, reasons = _looked_at(connection)
    share = f"{100 * totals.bytes / section.max_bytes:.1f} % of {section.max_bytes} bytes"
    if section.max_messages is not None:
        share += f", {100 * totals.messages / section.max_messages:.1f} % of {section.max_messages} messages"
    print(f"waiting          {totals.rows} rows, {totals.messages} messages, {totals.bytes} bytes: {share}")
    if accepted_ms is not None:
        print(f"oldest row       accepted {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(accepted_ms / 1000))}")
    if age_ms is not None:
        print(f"oldest age       {max(0, age_ms) / 1000:.0f} s of running time")
    print(f"last number      {totals.last_seq}")
    print(f"dead letters     {totals.dead_rows} rows, {totals.dead_bytes} bytes")
    for reason, count in sorted(reasons.items()):
        print(f"                 {count} {reason}")
    return 0


def _looked_at(connection: sqlite3.Connection) -> tuple[Any, int | None, int | None, dict[str, int]]:
    from tbgw.spool.contract import Totals

    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute("BEGIN")  # one picture of one moment
    record = connection.execute(
        "SELECT last_seq, rows, messages, bytes, dead_rows, dead_bytes FROM meta WHERE id = 1"
    ).fetchone()
    totals = Totals(*record)
    oldest = connection.execute("SELECT seq, accepted_ms FROM rows ORDER BY seq LIMIT 1").fetchone()
    age_ms = None
    if oldest is not None and version >= 2:
        (running_ms,) = connection.execute("SELECT running_ms FROM meta WHERE id = 1").fetchone()
        mark = connection.execute(
            "SELECT running_ms FROM marks WHERE seq <= ? ORDER BY seq DESC LIMIT 1", (oldest[0],)
        ).fetchone()
        age_ms = running_ms - mark[0] if mark is not None else None
    reasons = dict(connection.execute("SELECT reason, count(*) FROM dead_letters GROUP BY reason").fetchall())
    return totals, age_ms, oldest[1] if oldest is not None else None, reasons


def _rows(store: Store) -> Iterator[Row]:
    after = 0
    while rows := store.fetch(after, _STEP_BYTES, _now_ms()).rows:
        yield from rows
        after = rows[-1].seq


def _letters(store: Store, reason: str | None) -> Iterator[DeadLetter]:
    after = 0
    while letters := store.dead_letters(after, _STEP_BYTES):
        yield from (letter for letter in letters if reason in (None, letter.reason))
        after = letters[-1].id


def _export(store: Store, arguments: argparse.Namespace) -> int:
    if not (arguments.dead or arguments.reason):
        for row in _rows(store):
            print(json.dumps({"state": "waiting", **_shown(row)}))
    for letter in _letters(store, arguments.reason):
        head = {"state": "dead", "reason": letter.reason, "buriedMs": letter.buried_ms}
        print(json.dumps({**head, **_shown(letter.row)}))
    return 0


def _shown(row: Row) -> dict[str, Any]:
    shown: dict[str, Any] = {"seq": row.seq, "topic": row.topic, "devices": row.devices, "messages": row.messages}
    try:
        shown["payload"] = json.loads(row.payload)
    except ValueError:
        shown["payloadBase64"] = base64.b64encode(row.payload).decode("ascii")
    return shown


def _requeue(store: Store, arguments: argparse.Namespace) -> int:
    seq = store.apply(Change()).totals.last_seq
    done = left = 0
    batch: list[tuple[Row, int]] = []
    ids: list[int] = []

    def keep() -> None:
        nonlocal done
        if ids:
            store.apply(Change(rows=batch, exhumed=ids, last_seq=seq, now_ms=_now_ms()))
            done += len(ids)
        batch.clear()
        ids.clear()

    for letter in list(_letters(store, arguments.reason)):
        if not letter.row.topic:  # damaged, or never a message: there is nothing to send
            left += 1
            continue
        seq += 1
        row = letter.row._replace(seq=seq)
        batch.append((row, row_bytes(row)))
        ids.append(letter.id)
        if len(ids) >= _STEP_ROWS:
            keep()
    keep()
    print(f"{done} dead letters wait for ThingsBoard again" + (f"; {left} are unreadable and stay" if left else ""))
    return 0


def _purge(store: Store, arguments: argparse.Namespace) -> int:
    ids = [letter.id for letter in _letters(store, arguments.reason)]
    seqs = [row.seq for row in _rows(store)] if arguments.rows else []
    what = f"{len(ids)} dead letters" + (f" and {len(seqs)} rows that wait" if arguments.rows else "")
    if not arguments.yes:
        print(f"would forget {what}; add --yes to do it")
        return 0
    for start in range(0, max(len(ids), len(seqs)), _STEP_ROWS):
        end = start + _STEP_ROWS
        store.apply(Change(deletes=seqs[start:end], exhumed=ids[start:end], now_ms=_now_ms()))
    print(f"forgot {what}")
    return 0


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
