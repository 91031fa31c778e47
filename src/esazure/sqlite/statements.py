"""All SQL: functions that run in a worker's thread, on its connection.

`prepare` opens or creates; the others are the calls of `ICommitStore` and `IOutboxStore`, one transaction each.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from esazure.errors import (
    AppendOutcomeUnknownError,
    ConcurrencyError,
    CorruptStreamError,
    StoreError,
    StoreMismatchError,
)
from esazure.events import CommitRecord
from esazure.ports import Lease, OutboxRow, Swept
from esazure.sqlite.worker import code_of

_LAYOUT = 1
_APPLICATION_ID = 0x6573617A  # "esaz" in the file's header says whose file it is before any table is looked at
_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    # The payload is last, so that finding a stream's version does not read the pages it fills.
    """CREATE TABLE commits (
        stream TEXT, first_version INTEGER, count INTEGER NOT NULL, commit_id TEXT NOT NULL, occurred_at TEXT NOT NULL,
        metadata TEXT NOT NULL, payload TEXT NOT NULL, PRIMARY KEY (stream, first_version)) WITHOUT ROWID""",
    """CREATE TABLE outbox (
        stream TEXT, first_version INTEGER, stored_at REAL NOT NULL, PRIMARY KEY (stream, first_version))
        WITHOUT ROWID""",
    """CREATE TABLE quarantine (
        stream TEXT, first_version INTEGER, reason TEXT NOT NULL, set_aside_at TEXT NOT NULL,
        PRIMARY KEY (stream, first_version)) WITHOUT ROWID""",
    """CREATE TABLE leases (
        partition TEXT PRIMARY KEY, owner TEXT NOT NULL, epoch INTEGER NOT NULL, tag TEXT NOT NULL) WITHOUT ROWID""",
)
_SELECT = "SELECT first_version, count, commit_id, occurred_at, metadata, payload FROM"
_READ = f"{_SELECT} commits WHERE stream = ? ORDER BY first_version"
_READ_TO = f"{_SELECT} commits WHERE stream = ? AND first_version <= ? ORDER BY first_version"
# LEFT, because an outbox row without its commit has to be reported: skipping it would break the order.
_UNPUBLISHED = (
    f"{_SELECT} outbox LEFT JOIN commits USING (stream, first_version) "
    "WHERE stream = ? AND first_version < ? ORDER BY first_version LIMIT ?"
)
# Ages are measured by the clock that stamped the rows, and never by the one that is given to a store.
_WAITING = (
    "SELECT stream, first_version, (julianday('now') - stored_at) * 86400.0 FROM outbox ORDER BY stream, first_version"
)
_DELETE_WAITING = "DELETE FROM outbox WHERE stream = ? AND first_version = ?"
_QUARANTINE = "INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))"
_REASON_CHARACTERS = 4_096
_ALL = -1  # in LIMIT


def prepare(db: sqlite3.Connection, path: Path, busy_timeout: float) -> UUID:
    """Create the store unless it is there, and say which one it is. Changes nothing in a file that is not ours."""
    db.execute("PRAGMA synchronous = FULL")
    if _is_new(db, path):
        db.execute("BEGIN IMMEDIATE")
        try:
            if _is_new(db, path):  # another process may have been quicker
                for statement in _SCHEMA:
                    db.execute(statement)
                db.execute("INSERT INTO meta VALUES ('layout', ?), ('store_id', ?)", (_LAYOUT, str(uuid4())))
                db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            db.execute("COMMIT")
        finally:
            _roll_back(db)
    meta: dict[str, Any] = dict(db.execute("SELECT key, value FROM meta").fetchall())
    if meta.get("layout") != _LAYOUT:
        raise StoreMismatchError(
            f"{path} has layout {meta.get('layout')!r:.20}, this version of esazure uses {_LAYOUT}: "
            "open it with the version that created it"
        )
    _use_wal(db, path, time.monotonic() + busy_timeout)
    try:
        return UUID(meta.get("store_id"))
    except (AttributeError, TypeError, ValueError):
        raise StoreError(f"{path}: the store's id is damaged: restore the file from a backup") from None


def _is_new(db: sqlite3.Connection, path: Path) -> bool:
    """Whether nothing is in the file yet.

    Raises:
        StoreError: something is, and it is not ours.
    """
    # The owner is read last: another process may create the store between the two, and tables without an owner would
    # look like somebody else's.
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (owner,) = db.execute("PRAGMA application_id").fetchone()
    if owner == _APPLICATION_ID:
        return False
    if owner or tables:
        raise StoreError(f"{path} is a database of something else: give the store a file of its own")
    return True


def _use_wal(db: sqlite3.Connection, path: Path, deadline: float) -> None:
    while True:
        try:
            (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            # This one statement does not wait by itself for connections that are open at the same time.
            if code_of(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            break
    if mode != "wal":
        raise StoreError(f"{path}: SQLite cannot keep a write-ahead log here, only {mode}: use a local disk")


def insert(db: sqlite3.Connection, record: CommitRecord, *, outbox: bool) -> None:
    """Store the commit, its outbox row with it."""
    key = record.stream, record.first_version
    db.execute("BEGIN IMMEDIATE")
    try:
        version = _version(db, record.stream)
        if version != record.expected_version:
            stored = db.execute("SELECT commit_id FROM commits WHERE stream = ? AND first_version = ?", key).fetchone()
            if stored == (record.commit_id,):
                return
            raise ConcurrencyError(record.stream, expected=record.expected_version, actual=version)
        db.execute(
            "INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*key, record.count, record.commit_id, record.occurred_at, record.metadata, record.payload),
        )
        if outbox:
            db.execute("INSERT INTO outbox VALUES (?, ?, julianday('now'))", key)
        try:
            db.execute("COMMIT")
        except sqlite3.Error as error:
            # The frame that commits is written to the log last. A full disk stopped before it, a lock before
            # everything: not stored, for certain. But when it is the fsync that fails, or what comes after, the log
            # holds a whole commit that this connection has given up and the file's next recovery may bring back.
            if code_of(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY):
                raise
            raise AppendOutcomeUnknownError(
                record.stream, expected=record.expected_version, commit_id=record.commit_id
            ) from error
    finally:
        _roll_back(db)


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:  # after some errors SQLite has done so itself
        with suppress(sqlite3.Error):  # it must not hide what went wrong before; closing rolls back as well
            db.execute("ROLLBACK")


def _version(db: sqlite3.Connection, stream: str) -> int:
    query = "SELECT first_version, count FROM commits WHERE stream = ? ORDER BY first_version DESC LIMIT 1"
    first_version, count = db.execute(query, (stream,)).fetchone() or (1, 0)
    if type(first_version) is not int or type(count) is not int:
        raise CorruptStreamError(f"{stream}: the row of its last version is damaged")
    return first_version + count - 1


def read(db: sqlite3.Connection, stream: str, to_version: int | None) -> list[CommitRecord]:
    """The commits of a stream without a gap, oldest first."""
    records = _records(db, _READ, stream) if to_version is None else _records(db, _READ_TO, stream, to_version)
    version = 0
    for record in records:
        if record.first_version != version + 1:
            raise CorruptStreamError(
                f"{stream}: after version {version} comes {record.first_version}: rows were removed"
            )
        version = record.last_version
    return records


def unpublished(db: sqlite3.Connection, stream: str, before_version: int, limit: int | None) -> list[CommitRecord]:
    """The commits of a stream that wait, oldest first."""
    return _records(db, _UNPUBLISHED, stream, before_version, _ALL if limit is None else limit)


def _records(db: sqlite3.Connection, query: str, stream: str, *limit: int) -> list[CommitRecord]:
    records: list[CommitRecord] = []
    try:
        for first_version, count, commit_id, occurred_at, metadata, payload in db.execute(query, (stream, *limit)):
            if not (
                type(first_version) is type(count) is int
                and type(commit_id) is type(occurred_at) is type(metadata) is type(payload) is str
            ):
                break
            records.append(CommitRecord(stream, commit_id, first_version, count, occurred_at, metadata, payload))
        else:
            return records
    except sqlite3.OperationalError as error:
        if hasattr(error, "sqlite_errorcode"):
            raise
    # A wrong type, or text that is not UTF-8. Raised out here, because the driver's exception for that quotes it.
    raise CorruptStreamError(f"{stream}: the row after version {records[-1].last_version if records else 0} is damaged")


def mark_published(db: sqlite3.Connection, record: CommitRecord) -> bool:
    """Remove the outbox row; whether it was there."""
    # Without an fsync, which nearly halves the cost of a persist: if the power fails now, the outbox row is back and
    # its commit is published once more, as promised.
    with _without_fsync(db):
        return db.execute(_DELETE_WAITING, (record.stream, record.first_version)).rowcount > 0


def sweep(db: sqlite3.Connection, partition: str) -> Swept:
    """Every outbox row and the lease, as of one moment."""
    db.execute("BEGIN")
    try:
        lease = db.execute("SELECT owner, epoch, tag FROM leases WHERE partition = ?", (partition,)).fetchone()
        rows = [_outbox_row(*row) for row in db.execute(_WAITING)]
    finally:
        _roll_back(db)
    return Swept(rows, None if lease is None else Lease(*lease))


def write_lease(db: sqlite3.Connection, partition: str, seen: Lease | None, *, owner: str, epoch: int) -> Lease | None:
    """Compare and swap, in one statement."""
    lease = Lease(owner, epoch, uuid4().hex)
    written = (lease.owner, lease.epoch, lease.tag, partition)
    with _without_fsync(db):  # whoever lost power does not hold a lease any more
        if seen is None:
            done = db.execute(
                "INSERT INTO leases (owner, epoch, tag, partition) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", written
            )
        else:
            done = db.execute(
                "UPDATE leases SET owner = ?, epoch = ?, tag = ? WHERE partition = ? AND tag = ?", (*written, seen.tag)
            )
    return lease if done.rowcount > 0 else None


def set_aside(db: sqlite3.Connection, record: CommitRecord, reason: str) -> None:
    """From the outbox into the quarantine; nothing when it is not in the outbox."""
    key = record.stream, record.first_version
    db.execute("BEGIN IMMEDIATE")
    try:
        if db.execute(_DELETE_WAITING, key).rowcount > 0:
            db.execute(_QUARANTINE, (*key, reason[:_REASON_CHARACTERS]))
        db.execute("COMMIT")
    finally:
        _roll_back(db)


def _outbox_row(stream: object, first_version: object, age: object) -> OutboxRow:
    if not (isinstance(stream, str) and type(first_version) is int and isinstance(age, float)):
        raise CorruptStreamError("a row of the table outbox is damaged: restore the file from a backup")
    return OutboxRow(stream, first_version, max(age, 0.0))  # this clock may be set back


@contextmanager
def _without_fsync(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("PRAGMA synchronous = NORMAL")
    try:
        yield
    finally:
        db.execute("PRAGMA synchronous = FULL")
