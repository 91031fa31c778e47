"""The embedded durable store: one SQLite file, shared by any number of processes on one machine.

`SqliteStore` hands work to threads, so that no fsync and no lock blocks the event loop; the functions below it run
there and hold all SQL. `repository.py` is what is built on it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from asyncio import get_running_loop, shield, wrap_future
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from uuid import UUID, uuid4

from typing_extensions import TypeVar

from esazure.errors import (
    AppendOutcomeUnknownError,
    ConcurrencyError,
    CorruptStreamError,
    EsAzureError,
    StoreError,
    StoreMismatchError,
    StoreUnavailableError,
)
from esazure.events import CommitRecord
from esazure.repository import CommitStore, utc_now

__all__ = ["SqliteStore"]

T = TypeVar("T")

_LAYOUT = 1
_APPLICATION_ID = 0x6573617A  # "esaz" in the file's header says whose file it is before any table is looked at
_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    # The payload is last, so that finding a stream's version does not read the pages it fills.
    """CREATE TABLE commits (
        stream TEXT, first_version INTEGER, count INTEGER NOT NULL, commit_id TEXT NOT NULL, occurred_at TEXT NOT NULL,
        metadata TEXT NOT NULL, payload TEXT NOT NULL, PRIMARY KEY (stream, first_version)) WITHOUT ROWID""",
    "CREATE TABLE outbox (stream TEXT, first_version INTEGER, PRIMARY KEY (stream, first_version)) WITHOUT ROWID",
)
_SELECT = "SELECT first_version, count, commit_id, occurred_at, metadata, payload FROM"
_READ = f"{_SELECT} commits WHERE stream = ? ORDER BY first_version"
_READ_TO = f"{_SELECT} commits WHERE stream = ? AND first_version <= ? ORDER BY first_version"
# LEFT, because an outbox row without its commit has to be reported: skipping it would break the order.
_UNPUBLISHED = (
    f"{_SELECT} outbox LEFT JOIN commits USING (stream, first_version) "
    "WHERE stream = ? AND first_version < ? ORDER BY first_version"
)

_LOCKED = "the file stayed locked by another process: try again later"
_MEANING: dict[int, tuple[type[EsAzureError], str]] = {
    sqlite3.SQLITE_BUSY: (StoreUnavailableError, _LOCKED),
    sqlite3.SQLITE_LOCKED: (StoreUnavailableError, _LOCKED),
    sqlite3.SQLITE_PROTOCOL: (StoreUnavailableError, _LOCKED),
    sqlite3.SQLITE_CORRUPT: (CorruptStreamError, "the file is damaged: restore it from a backup"),
    sqlite3.SQLITE_NOTADB: (StoreError, "this is not a SQLite database: give the store a file of its own"),
    sqlite3.SQLITE_FULL: (StoreError, "the disk is full, nothing was changed: make room and try again"),
    sqlite3.SQLITE_READONLY: (StoreError, "the file cannot be written: check its permissions and its directory's"),
    sqlite3.SQLITE_CANTOPEN: (StoreError, "the file cannot be opened: check that its directory exists"),
}


class SqliteStore(CommitStore):
    """Commits in one SQLite file: `async with SqliteStore("bank.db") as store: store.events(Customer)`.

    The file is created when it does not exist; it must be on a local disk. An append is on the disk when it returns.
    Other processes may use the file at the same time; a call that has waited for one of them for `busy_timeout`
    seconds fails with StoreUnavailableError.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, clock: Callable[[], datetime] = utc_now, busy_timeout: float = 5.0
    ) -> None:
        if os.fspath(path) in ("", ":memory:"):
            raise ValueError("SqliteStore needs a file: for a store in memory use esazure.memory.InMemoryStore")
        self.clock = clock
        self._path = Path(path).absolute()
        self._busy_timeout = busy_timeout
        self._store_id: UUID | None = None
        # Two, because WAL lets reads run beside a write: a load waits neither for an fsync nor for a locked file.
        self._writer: _Worker | None = None
        self._reader: _Worker | None = None

    @property
    def store_id(self) -> UUID:
        """Written into the file when it was created.

        Raises:
            StoreError: the store has not been opened yet.
        """
        if self._store_id is None:
            raise self._not_open()
        return self._store_id

    async def __aenter__(self) -> Self:
        """Open the file, or create it; several processes may do so at once.

        Raises:
            StoreMismatchError: the file has the layout of another version of esazure.
            StoreUnavailableError: another process keeps the file locked.
            StoreError: it cannot be opened, or is not ours; nothing was changed in it.
        """
        if self._writer is not None:
            raise StoreError(f"the store {self._path} is already open: use it, or make another SqliteStore")
        self._writer = _Worker(self._path, self._busy_timeout)
        self._reader = _Worker(self._path, self._busy_timeout)
        try:
            self._store_id = await self._writer.run(None, lambda db: _prepare(db, self._path, self._busy_timeout))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the file when the work under way is done; closing again is fine."""
        writer, reader = self._writer, self._reader
        self._writer = self._reader = None
        if writer is not None and reader is not None:
            # Both are on their way before the first await, so cancelling this leaves nothing open.
            await shield(wrap_future(writer.close(after=reader.close())))

    async def insert(self, record: CommitRecord, *, outbox: bool) -> None:
        """See `ICommitStore.insert`."""
        await self._open(self._writer).run(record.stream, lambda db: _insert(db, record, outbox=outbox))

    async def read(self, stream: str, *, to_version: int | None = None) -> Sequence[CommitRecord]:
        """See `ICommitStore.read`."""
        return await self._open(self._reader).run(stream, lambda db: _read(db, stream, to_version))

    async def unpublished(self, stream: str, *, before_version: int) -> Sequence[CommitRecord]:
        """See `ICommitStore.unpublished`."""
        return await self._open(self._reader).run(stream, lambda db: _unpublished(db, stream, before_version))

    async def mark_published(self, record: CommitRecord) -> None:
        """See `ICommitStore.mark_published`."""
        await self._open(self._writer).run(record.stream, lambda db: _mark_published(db, record))

    def _open(self, worker: _Worker | None) -> _Worker:
        if worker is None:
            raise self._not_open()
        return worker

    def _not_open(self) -> StoreError:
        return StoreError(f"the store {self._path} is not open: use it inside `async with SqliteStore(...) as store`")


class _Worker:
    """One thread and the one connection it owns."""

    def __init__(self, path: Path, busy_timeout: float) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._waits = True
        self._connection: sqlite3.Connection | None = None
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="esazure-sqlite")

    async def run(self, stream: str | None, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` in the thread. When the waiting task is cancelled, work that has begun still runs to its end."""
        deadline = time.monotonic() + self._busy_timeout
        return await get_running_loop().run_in_executor(self._executor, self._call, stream, work, deadline)

    def close(self, *, after: Future[None] | None = None) -> Future[None]:
        """Close the connection once everything handed in before is done, and `after` too."""
        closed = self._executor.submit(self._disconnect, after)
        self._executor.shutdown(wait=False)
        return closed

    def _call(self, stream: str | None, work: Callable[[sqlite3.Connection], T], deadline: float) -> T:
        try:
            db = self._connection = self._connection or sqlite3.connect(
                self._path, timeout=self._busy_timeout, isolation_level=None
            )
            # Who has used its patience up in the queue tries only once: a hundred calls behind a locked file must not
            # take a hundred timeouts.
            waits = time.monotonic() < deadline
            if waits is not self._waits:
                db.execute(f"PRAGMA busy_timeout = {round(self._busy_timeout * 1000) if waits else 0}")
                self._waits = waits
            return work(db)
        except sqlite3.Error as error:
            # The one place that says what an error of SQLite means: by its code, whose low byte is the kind.
            kind, advice = _MEANING.get(_code(error), (StoreError, "SQLite refused, nothing was changed"))
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            where = self._path if stream is None else f"{stream} in {self._path}"
            raise kind(f"{where} ({name}): {advice}") from error

    def _disconnect(self, after: Future[None] | None) -> None:
        if after is not None:
            after.result()  # one after the other, or neither sees itself as the last, which tidies the log away
        if self._connection is not None:
            self._connection.close()


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _prepare(db: sqlite3.Connection, path: Path, busy_timeout: float) -> UUID:
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
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            break
    if mode != "wal":
        raise StoreError(f"{path}: SQLite cannot keep a write-ahead log here, only {mode}: use a local disk")


def _insert(db: sqlite3.Connection, record: CommitRecord, *, outbox: bool) -> None:
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
            db.execute("INSERT INTO outbox VALUES (?, ?)", key)
        try:
            db.execute("COMMIT")
        except sqlite3.Error as error:
            # The frame that commits is written to the log last. A full disk stopped before it, a lock before
            # everything: not stored, for certain. But when it is the fsync that fails, or what comes after, the log
            # holds a whole commit that this connection has given up and the file's next recovery may bring back.
            if _code(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY):
                raise
            raise AppendOutcomeUnknownError(
                record.stream, expected=record.expected_version, commit_id=record.commit_id
            ) from error
    finally:
        _roll_back(db)


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:  # after some errors SQLite has done so itself
        db.execute("ROLLBACK")


def _version(db: sqlite3.Connection, stream: str) -> int:
    query = "SELECT first_version, count FROM commits WHERE stream = ? ORDER BY first_version DESC LIMIT 1"
    first_version, count = db.execute(query, (stream,)).fetchone() or (1, 0)
    if type(first_version) is not int or type(count) is not int:
        raise CorruptStreamError(f"{stream}: the row of its last version is damaged")
    return first_version + count - 1


def _read(db: sqlite3.Connection, stream: str, to_version: int | None) -> list[CommitRecord]:
    records = _records(db, _READ, stream) if to_version is None else _records(db, _READ_TO, stream, to_version)
    version = 0
    for record in records:
        if record.first_version != version + 1:
            raise CorruptStreamError(
                f"{stream}: after version {version} comes {record.first_version}: rows were removed"
            )
        version = record.last_version
    return records


def _unpublished(db: sqlite3.Connection, stream: str, before_version: int) -> list[CommitRecord]:
    return _records(db, _UNPUBLISHED, stream, before_version)


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


def _mark_published(db: sqlite3.Connection, record: CommitRecord) -> None:
    # Without an fsync, which nearly halves the cost of a persist: if the power fails now, the outbox row is back and
    # its commit is published once more, as promised.
    db.execute("PRAGMA synchronous = NORMAL")
    try:
        db.execute("DELETE FROM outbox WHERE stream = ? AND first_version = ?", (record.stream, record.first_version))
    finally:
        db.execute("PRAGMA synchronous = FULL")
