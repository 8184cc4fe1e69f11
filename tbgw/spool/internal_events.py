"""What the spool has to tell. `messages_dropped` holds every accepted message that the cap cost, by reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from twisted.logger import LogLevel

from tbgw.internal_events import Event


@dataclass(frozen=True)
class SpoolOpened(Event):
    """The store is open; what an earlier run left is there."""

    text: ClassVar[str] = "Store {place} is open: {rows} rows with {messages} messages, {bytes} bytes"
    place: str
    rows: int
    messages: int
    bytes: int


@dataclass(frozen=True)
class MessagesRefused(Event):
    """The store is at its cap: what is new was refused. `reason` is `full_newest` or `too_large`, or `disk_full`."""

    level: ClassVar[Any] = LogLevel.warn
    counter: ClassVar[str] = "messages_dropped"
    label: ClassVar[str] = "reason"
    limited: ClassVar[bool] = True
    text: ClassVar[str] = "Store is full ({stored_bytes} bytes): refused {messages} new messages ({reason})"
    reason: str
    messages: int
    stored_bytes: int

    def amount(self) -> int:
        return self.messages


@dataclass(frozen=True)
class StoreDrains(Event):
    """The file system has no room for rows; what is stored can be delivered and deleted."""

    level: ClassVar[Any] = LogLevel.error
    counter: ClassVar[str] = "store_drains"
    limited: ClassVar[bool] = True
    text: ClassVar[str] = "Disk is nearly full under the store {place}: nothing is accepted until there is room again"
    place: str


@dataclass(frozen=True)
class StoreHasRoom(Event):
    """Enough was deleted, or somebody else made room."""

    limited: ClassVar[bool] = True
    text: ClassVar[str] = "There is room under the store {place} again: it goes on"
    place: str


@dataclass(frozen=True)
class OldestDropped(Event):
    """The store is at its cap: the oldest rows were given up for new ones."""

    level: ClassVar[Any] = LogLevel.warn
    counter: ClassVar[str] = "messages_dropped"
    label: ClassVar[str] = "reason"
    limited: ClassVar[bool] = True
    text: ClassVar[str] = (
        "Store is full: dropped the {rows} oldest rows with {messages} messages, up to number {last_seq} ({reason})"
    )
    rows: int
    messages: int
    last_seq: int
    reason: str = "full_oldest"

    def amount(self) -> int:
        return self.messages


@dataclass(frozen=True)
class MessagesExpired(Event):
    """Rows were older than `messages_ttl_in_days`."""

    level: ClassVar[Any] = LogLevel.warn
    counter: ClassVar[str] = "messages_dropped"
    label: ClassVar[str] = "reason"
    limited: ClassVar[bool] = True
    text: ClassVar[str] = "{messages} messages in {rows} rows were older than messages_ttl_in_days: dropped ({reason})"
    rows: int
    messages: int
    reason: str = "expired"

    def amount(self) -> int:
        return self.messages


@dataclass(frozen=True)
class StoreUpgraded(Event):
    """The file had an older schema."""

    text: ClassVar[str] = "Store {place} was upgraded from schema {schema}; a copy as it was is kept in {copy}"
    place: str
    schema: int
    copy: str


@dataclass(frozen=True)
class FileImported(Event):
    """A storage file of the reference gateway was read in."""

    text: ClassVar[str] = "Imported {file}; {records} records so far"
    file: str
    records: int


@dataclass(frozen=True)
class ImportWaits(Event):
    """The store has no room for what is to be imported."""

    limited: ClassVar[bool] = True
    text: ClassVar[str] = "The import waits until the store has room"


@dataclass(frozen=True)
class ImportFailed(Event):
    """The import ended; what is left stays in its files."""

    level: ClassVar[Any] = LogLevel.error
    text: ClassVar[str] = "The import from {folder} failed: {error}; a later start goes on from there"
    folder: str
    error: str


@dataclass(frozen=True)
class MessagesNotStored(Event):
    """The store is broken: these were not, or may not have been, stored. Their receipts failed."""

    level: ClassVar[Any] = LogLevel.error
    counter: ClassVar[str] = "messages_not_stored"
    limited: ClassVar[bool] = True
    text: ClassVar[str] = "{messages} messages could not be stored; their senders get no acknowledgement"
    messages: int

    def amount(self) -> int:
        return self.messages


@dataclass(frozen=True)
class RowBuried(Event):
    """A row that can never be delivered went to the dead letters."""

    level: ClassVar[Any] = LogLevel.warn
    counter: ClassVar[str] = "messages_buried"
    label: ClassVar[str] = "reason"
    limited: ClassVar[bool] = True
    text: ClassVar[str] = "Row {seq} ({topic}, {bytes} bytes, {messages} messages) moved to the dead letters: {reason}"
    seq: int
    topic: str
    bytes: int
    messages: int
    reason: str

    def amount(self) -> int:
        return self.messages


@dataclass(frozen=True)
class DeadLettersDropped(Event):
    """The dead letters are at their own cap: the oldest were given up."""

    level: ClassVar[Any] = LogLevel.warn
    counter: ClassVar[str] = "dead_letters_dropped"
    limited: ClassVar[bool] = True
    text: ClassVar[str] = "Dead letters are full: the {rows} oldest were dropped"
    rows: int

    def amount(self) -> int:
        return self.rows


@dataclass(frozen=True)
class RowsUnreadable(Event):
    """Rows whose content is damaged were moved to the dead letters."""

    level: ClassVar[Any] = LogLevel.error
    counter: ClassVar[str] = "rows_unreadable"
    limited: ClassVar[bool] = True
    text: ClassVar[str] = "{rows} rows of the store are damaged, put aside (the first is number {first_seq})"
    rows: int
    first_seq: int

    def amount(self) -> int:
        return self.rows


@dataclass(frozen=True)
class StoreDamaged(Event):
    """A part of the file cannot be read at all; the rest of it can."""

    level: ClassVar[Any] = LogLevel.error
    counter: ClassVar[str] = "store_damages"
    limited: ClassVar[bool] = True
    text: ClassVar[str] = "Store is damaged: what there was of rows {first_seq} to {last_seq} is lost"
    first_seq: int
    last_seq: int


@dataclass(frozen=True)
class StoreBroken(Event):
    """The store cannot be written or read; nothing is accepted any more."""

    level: ClassVar[Any] = LogLevel.critical
    counter: ClassVar[str] = "store_errors"
    text: ClassVar[str] = "The store broke, nothing is accepted any more: {error}"
    error: str


@dataclass(frozen=True)
class SpoolBehind(Event):
    """Sources are asked to stop for a while."""

    counter: ClassVar[str] = "spool_behind"
    limited: ClassVar[bool] = True
    text: ClassVar[str] = (
        "Store is behind ({pending_bytes} bytes wait for their commit, {stored_bytes} are kept): sources are paused"
    )
    pending_bytes: int
    stored_bytes: int
