"""The tables of the file, and how it is opened or created. Read `transactions.py` next."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from esazure.errors import StoreError, StoreMismatchError
from esazure.sqlite.transactions import transaction
from esazure.sqlite.worker import code_of

_LAYOUT = 2  # 1: other tables for commands, and claims under other keys
_APPLICATION_ID = 0x6573617A  # "esaz" in the file's header says whose file it is before any table is looked at
_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    # The payload is last, so that finding a stream's version does not read the pages it fills.
    """CREATE TABLE commits (
        stream TEXT, first_version INTEGER, count INTEGER NOT NULL, commit_id TEXT NOT NULL, occurred_at TEXT NOT NULL,
        command_id TEXT, request TEXT, metadata TEXT NOT NULL, snapshot TEXT, payload TEXT NOT NULL,
        PRIMARY KEY (stream, first_version)) WITHOUT ROWID""",
    "CREATE UNIQUE INDEX commands_with_commit ON commits (stream, command_id) WHERE command_id IS NOT NULL",
    # Those without one; without `answered_at` it is forbidden.
    """CREATE TABLE commands (
        stream TEXT, command_id TEXT, answered_at INTEGER, request TEXT, PRIMARY KEY (stream, command_id))
        WITHOUT ROWID""",
    """CREATE TABLE views (
        stream TEXT, name TEXT, shape TEXT NOT NULL, version INTEGER NOT NULL, tag TEXT NOT NULL, text TEXT NOT NULL,
        PRIMARY KEY (stream, name)) WITHOUT ROWID""",
    """CREATE TABLE outbox (
        stream TEXT, first_version INTEGER, stored_at REAL NOT NULL, PRIMARY KEY (stream, first_version))
        WITHOUT ROWID""",
    """CREATE TABLE quarantine (
        stream TEXT, first_version INTEGER, reason TEXT NOT NULL, set_aside_at TEXT NOT NULL,
        PRIMARY KEY (stream, first_version)) WITHOUT ROWID""",
    """CREATE TABLE leases (
        partition TEXT PRIMARY KEY, owner TEXT NOT NULL, epoch INTEGER NOT NULL, tag TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE documents (
        collection TEXT, key TEXT, tag TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (collection, key))
        WITHOUT ROWID""",
)


def prepare(db: sqlite3.Connection, path: Path, busy_timeout: float) -> UUID:
    """Create the store unless it is there, and say which one it is. Changes nothing in a file that is not ours."""
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten, whatever SQLite was built with
    if _is_new(db, path):
        with transaction(db):
            if _is_new(db, path):  # another process may have been quicker
                for statement in _SCHEMA:
                    db.execute(statement)
                db.execute("INSERT INTO meta VALUES ('layout', ?), ('store_id', ?)", (_LAYOUT, str(uuid4())))
                db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    meta: dict[str, Any] = dict(db.execute("SELECT key, value FROM meta").fetchall())
    if meta.get("layout") != _LAYOUT:
        raise StoreMismatchError(
            f"{path} has layout {meta.get('layout')!r:.20}, this version of esazure uses {_LAYOUT}: "
            "open it with the version that created it, or use another file"
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
        raise StoreError(
            f"{path}: SQLite cannot keep a write-ahead log here, only {mode}: use a local disk, or Table Storage"
        )
