"""A file that is locked, damaged or asked behind the store's back."""

from __future__ import annotations

import sqlite3
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from esazure.events import CommitRecord
from esazure.sqlite import SqliteStore

STREAM = "Diary.one"
MARKER = "payload-marker"


def commit(first_version: int = 1, *, stream: str = STREAM, command_id: str | None = None) -> CommitRecord:
    payload = f'Noted {{"text":"{MARKER}"}}'
    return CommitRecord(stream, uuid4().hex, first_version, 1, "2026-01-02T03:04:05+00:00", "{}", payload, command_id)


@contextmanager
def locked(file: Path) -> Iterator[Callable[[], None]]:
    """Somebody else's write transaction; to SQLite every other connection is somebody else."""
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield lambda: db.execute("ROLLBACK").close()


def change(file: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(file)) as db, db:
        db.execute(statement, values)


async def on_writer(store: SqliteStore, statement: str) -> Any:
    assert store._writer is not None
    return await store._writer.run(None, lambda db: db.execute(statement).fetchall())


def assert_silent(error: BaseException) -> None:
    """No payload in the message, the repr, or the exceptions a traceback would show."""
    seen: BaseException | None = error
    while seen is not None:
        assert MARKER not in f"{seen} {seen!r} {vars(seen)}"
        seen = seen.__cause__ or seen.__context__
    assert all(MARKER not in line for line in traceback.format_exception_only(error))
