"""A thread with the one connection it owns, so that no fsync and no lock blocks the event loop.

The only place that says what an error of SQLite means. Read `schema.py` next.
"""

from __future__ import annotations

import sqlite3
import time
from asyncio import get_running_loop
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from typing_extensions import TypeVar

from esazure.errors import CorruptStreamError, EsAzureError, StoreError, StoreUnavailableError
from esazure.home import Home
from esazure.sqlite.file import OpenFile, use

T = TypeVar("T")

_LOCKED = "the file stayed locked by another process: try again later"
_SHARE = "if this is a network share, which cannot lock files as SQLite needs, use a local disk, or Table Storage"
_MEANING: dict[int, tuple[type[EsAzureError], str]] = {
    sqlite3.SQLITE_BUSY: (StoreUnavailableError, _LOCKED),
    sqlite3.SQLITE_LOCKED: (StoreUnavailableError, _LOCKED),
    sqlite3.SQLITE_PROTOCOL: (StoreUnavailableError, f"{_LOCKED}; {_SHARE}"),
    sqlite3.SQLITE_IOERR: (StoreError, f"the disk failed: look at it; {_SHARE}"),
    sqlite3.SQLITE_CORRUPT: (CorruptStreamError, "the file is damaged: restore it from a backup"),
    sqlite3.SQLITE_NOTADB: (StoreError, "this is not a SQLite database: give the store a file of its own"),
    sqlite3.SQLITE_FULL: (StoreError, "the disk is full, nothing was changed: make room and try again"),
    sqlite3.SQLITE_READONLY: (StoreError, "the file cannot be written: check its permissions and its directory's"),
    sqlite3.SQLITE_CANTOPEN: (StoreError, "the file cannot be opened: check that its directory exists"),
}


_INHERITED: list[Worker] = []
"""Kept, because a connection that nobody holds is closed, and may take away the log of others."""


class Worker:
    """One thread and the one connection it owns."""

    def __init__(self, path: Path, busy_timeout: float, file: OpenFile) -> None:
        self._path = path
        self._file = file
        self._busy_timeout = busy_timeout
        self._waits = True
        self._connection: sqlite3.Connection | None = None
        self._home = Home()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="esazure-sqlite")

    async def run(self, stream: str | None, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` in the thread. When the waiting task is cancelled, work that has begun still runs to its end.

        Raises:
            StoreError: this process was forked off since, and has neither the thread nor the right to the connection.
        """
        if not self._home.is_of_this_process:
            raise StoreError(f"{self._path} {self._home.why_not_here()}")
        deadline = time.monotonic() + self._busy_timeout
        return await get_running_loop().run_in_executor(self._executor, self._call, stream, work, deadline)

    def close(self, *, after: Future[None] | None = None) -> Future[None]:
        """Close the connection once everything handed in before is done, and `after` too.

        A process that was forked off since leaves it alone: closing it there would take away the log of the other.
        """
        if not self._home.is_of_this_process:
            _INHERITED.append(self)
            done: Future[None] = Future()
            done.set_result(None)
            return done
        closed = self._executor.submit(self._disconnect, after)
        self._executor.shutdown(wait=False)
        return closed

    def _call(self, stream: str | None, work: Callable[[sqlite3.Connection], T], deadline: float) -> T:
        try:
            use(self._file)
            db = self._connection = self._connection or self._connect()
            # Who has used its patience up in the queue tries only once: a hundred calls behind a locked file must not
            # take a hundred timeouts.
            waits = time.monotonic() < deadline
            if waits is not self._waits:
                db.execute(f"PRAGMA busy_timeout = {round(self._busy_timeout * 1000) if waits else 0}")
                self._waits = waits
            return work(db)
        except sqlite3.Error as error:
            # The one place that says what an error of SQLite means: by its code, whose low byte is the kind.
            kind, advice = _MEANING.get(code_of(error), (StoreError, "SQLite refused, nothing was changed"))
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            where = self._path if stream is None else f"{stream} in {self._path}"
            raise kind(f"{where} ({name}): {advice}") from error

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=self._busy_timeout, isolation_level=None)
        try:
            use(self._file)
        except StoreError:
            db.close()
            raise
        return db

    def _disconnect(self, after: Future[None] | None) -> None:
        if after is not None:
            after.result()  # one after the other, or neither sees itself as the last, which tidies the log away
        if self._connection is not None:
            if not self._file.may_be_tidied and not _leave_the_log(self._connection):
                _INHERITED.append(self)
            else:
                self._connection.close()


def _leave_the_log(db: sqlite3.Connection) -> bool:
    """Keep SQLite from removing a log that is another's when it closes; False before Python 3.12."""
    setconfig = getattr(db, "setconfig", None)
    if setconfig is not None:
        setconfig(getattr(sqlite3, "SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE"), True)  # noqa: B009, FBT003 - not in 3.11
    return setconfig is not None


def code_of(error: sqlite3.Error) -> int:
    """The kind of an error: the low byte of SQLite's code."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
