"""What all SQL here has in common: transactions, how durable they are, and rows that are checked before use.

Read `commits.py` next.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from esazure.errors import CorruptStreamError, EsAzureError
from esazure.sqlite.file import check_before_commit
from esazure.sqlite.worker import code_of


@contextmanager
def transaction(db: sqlite3.Connection, *, in_doubt: EsAzureError | None = None) -> Iterator[None]:
    """All of it or nothing, on the disk when it ends; `in_doubt` is raised when nobody knows which of the two."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        check_before_commit()  # behind the wait for a lock, in which the file may have been replaced
        try:
            db.execute("COMMIT")
        except sqlite3.Error as error:
            # The frame that commits is written to the log last. A full disk stopped before it, a lock before
            # everything: not stored, for certain. But when it is the fsync that fails, or what comes after, the log
            # holds a whole commit that this connection has given up and the file's next recovery may bring back.
            if in_doubt is None or code_of(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY):
                raise
            raise in_doubt from error
    finally:
        _roll_back(db)


@contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """Several reads as of one moment."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        _roll_back(db)


@contextmanager
def without_fsync(db: sqlite3.Connection) -> Iterator[None]:
    """For what may be gone after the power failed, which nearly halves the cost of a persist."""
    db.execute("PRAGMA synchronous = NORMAL")
    try:
        yield
    finally:
        db.execute("PRAGMA synchronous = FULL")


def fetch(
    db: sqlite3.Connection,
    query: str,
    parameters: Sequence[str | int],
    kinds: Collection[tuple[type, ...]],
    damaged: Callable[[Sequence[Any]], str],
) -> list[Any]:
    """The rows of a query whose columns are of one of these `kinds`.

    Raises:
        CorruptStreamError: they are not; `damaged` gets those before and returns its text.
    """
    rows: list[Any] = []
    try:
        for row in db.execute(query, parameters):
            if tuple(map(type, row)) not in kinds:
                break
            rows.append(row)
        else:
            return rows
    except sqlite3.OperationalError as error:
        if hasattr(error, "sqlite_errorcode"):
            raise
    # A wrong type, or text that is not UTF-8. Raised out here, because the driver's exception for that quotes it.
    raise CorruptStreamError(damaged(rows))


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:  # after some errors SQLite has done so itself
        with suppress(sqlite3.Error):  # it must not hide what went wrong before; closing rolls back as well
            db.execute("ROLLBACK")
