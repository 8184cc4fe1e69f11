# -*- test-case-name: tests.config.test_storage -*-
"""How much the gateway keeps while ThingsBoard is out of reach, and where.

The reference has three kinds of storage, each with keys of its own, and its sample file lists the keys of all three
together. Here they end in one cap in bytes, one in messages, and one folder. `maxBytes` and `dropPolicy` are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tbgw.config.document import Node
from tbgw.config.findings import Reporter
from tbgw.config.schema import NOT_NEEDED
from tbgw.config.settings import config_section, integer, one_of, read_section, setting
from tbgw.config.values import read_text

Kind = Literal["sqlite", "memory", "file"]
DropPolicy = Literal["newest", "oldest", "pause"]

MIB = 1024 * 1024
MIN_BYTES = 1 * MIB
MAX_BYTES = 1 << 46
"""Caps of `maxBytes`: below a mebibyte hardly a packet fits, above 64 TiB it is a slip."""
MEMORY_BYTES = 64 * MIB
"""Cap of the memory store where the file gives none: the reference counts records, and a record can be large."""

_OWN_KEYS = {
    "sqlite": ("data_file_path", "size_limit", "max_db_amount"),
    "memory": ("max_records_count",),
    "file": ("data_folder_path", "max_file_count", "max_records_per_file"),
}


def _read_folder(node: Node, reporter: Reporter) -> Path:
    path = Path(read_text(node, reporter))
    # Up to 3.4 the reference named the database's file here, and since then the folder.
    return reporter.data_dir / (path.parent if path.suffix == ".db" else path)


@config_section
class _StorageKeys:
    """The section `storage` as it stands in the file."""

    type: Kind = one_of("type", choices=("sqlite", "memory", "file"), default="sqlite", doc="Kind of store.")
    data_file_path: Path | None = setting(
        "data_file_path", read=_read_folder, default=None, doc="Folder of the sqlite store."
    )
    size_limit: int = integer(
        "size_limit", minimum=1, maximum=1 << 24, default=1024, unit="MiB", doc="Size of one of max_db_amount parts."
    )
    max_db_amount: int = integer(
        "max_db_amount", minimum=1, maximum=1 << 20, default=10, unit="parts", doc="How many parts of size_limit."
    )
    max_records_count: int = integer(
        "max_records_count", minimum=1, maximum=1 << 40, default=10_000, unit="messages", doc="Cap of the memory store."
    )
    data_folder_path: Path | None = setting(
        "data_folder_path", read=_read_folder, default=None, doc="Folder of the file store."
    )
    max_file_count: int = integer(
        "max_file_count", minimum=1, maximum=1 << 20, default=10, unit="files", doc="How many of max_records_per_file."
    )
    max_records_per_file: int = integer(
        "max_records_per_file", minimum=1, maximum=1 << 40, default=10_000, unit="messages", doc="Messages in one file."
    )
    max_bytes: int | None = integer(
        "maxBytes", minimum=MIN_BYTES, maximum=MAX_BYTES, default=None, unit="bytes", doc="Cap of the store, any kind."
    )
    drop_policy: DropPolicy = one_of(
        "dropPolicy",
        choices=("newest", "oldest", "pause"),
        default="newest",
        doc="What happens at the cap: the newest message is dropped, the oldest is, or devices are not read any more.",
    )
    ttl_days: int | None = integer(
        "messages_ttl_in_days",
        minimum=0,
        maximum=36_500,
        default=None,
        unit="days",
        doc="Age at which a message is dropped, counted while the gateway runs; 0: never.",
    )
    ttl_check_hours: int = integer(
        "messages_ttl_check_in_hours",
        minimum=0,
        maximum=24 * 366,
        default=1,
        unit="hours",
        doc="How often the age is looked at; 0: every minute.",
    )
    import_from: Path | None = setting(
        "import",
        read=_read_folder,
        default=None,
        doc="Folder with data_*.txt or *.db files of the reference gateway, to be read in once.",
    )

    INERT: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (
            "read_records_count",
            "max_read_records_count",
            "max_records_between_fsync",
            "oversize_check_period",
            "writing_batch_size",
        ),
        NOT_NEEDED,
    )


@dataclass(frozen=True, slots=True)
class StorageSection:
    """What the spool is made from."""

    type: Kind
    folder: Path
    """Where the files of the store lie."""
    max_bytes: int
    """Cap of all that is kept, in bytes."""
    max_messages: int | None
    """Cap in accepted messages; None: only the bytes count."""
    drop_policy: DropPolicy
    """What happens at the cap."""
    ttl_seconds: float | None = None
    """Age at which a message is dropped; None: never."""
    ttl_check_seconds: float = 3600.0
    """How often that is looked for."""
    import_from: Path | None = None
    """Folder with files of the reference, to be read in once."""


def read_storage(node: Node, reporter: Reporter) -> StorageSection:
    """Read the section `storage`; raises Refused when it is no object."""
    keys = read_section(_StorageKeys, node, reporter)
    for kind, names in _OWN_KEYS.items():
        for name in names if kind != keys.type else ():
            child = node.member(name)
            if child is not None and not (name.endswith("_path") and keys.type != "memory"):
                reporter.without_effect(child, f"without effect: not used with storage type {keys.type}")
    named = (keys.data_folder_path, keys.data_file_path)
    folder = (named[0] or named[1]) if keys.type == "file" else (named[1] or named[0])
    max_messages = None
    max_bytes = keys.size_limit * MIB * keys.max_db_amount
    if keys.type == "memory":
        max_messages, max_bytes = keys.max_records_count, MEMORY_BYTES
    elif keys.type == "file":
        max_messages = keys.max_file_count * keys.max_records_per_file
    if keys.max_bytes is None and max_bytes > MAX_BYTES:
        size = node.member("size_limit") or node.member("max_db_amount") or node
        reporter.fault(size, f"size_limit times max_db_amount is more than {MAX_BYTES // MIB} MiB")
    return StorageSection(
        type=keys.type,
        folder=folder or default_storage(reporter.data_dir).folder,
        max_bytes=max_bytes if keys.max_bytes is None else keys.max_bytes,
        max_messages=max_messages,
        drop_policy=keys.drop_policy,
        ttl_seconds=keys.ttl_days * 86_400.0 if keys.ttl_days else None,
        ttl_check_seconds=keys.ttl_check_hours * 3600.0,
        import_from=keys.import_from,
    )


def default_storage(data_dir: Path) -> StorageSection:
    """The store of a configuration that says nothing about it: the reference's own caps for SQLite."""
    return StorageSection(
        type="sqlite", folder=data_dir / "spool", max_bytes=10 * 1024 * MIB, max_messages=None, drop_policy="newest"
    )
