"""The SQLite file keeps every promise."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import astuple
from pathlib import Path

import pytest

from esazure.events import CommitRecord
from esazure.sqlite import SqliteStore
from esazure.testing.conformance import CommitStoreConformance


class TestSqliteStore(CommitStoreConformance):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SqliteStore]:
        async with SqliteStore(tmp_path / "conformance.db") as store:
            yield store

    async def overwrite(self, store: SqliteStore, record: CommitRecord) -> None:
        change = "UPDATE commits SET count = ?, occurred_at = ?, metadata = ?, snapshot = ?, payload = ?"
        values = (record.count, record.occurred_at, record.metadata, record.snapshot, record.payload)
        with closing(sqlite3.connect(store._path)) as db, db:
            key = (record.stream, record.first_version)
            db.execute(f"{change} WHERE stream = ? AND first_version = ?", (*values, *key))

    async def remove(self, store: SqliteStore, record: CommitRecord) -> None:
        with closing(sqlite3.connect(store._path)) as db, db:
            db.execute("DELETE FROM commits WHERE commit_id = ?", (record.commit_id,))

    def another(self, store: SqliteStore) -> SqliteStore:
        return SqliteStore(store._path)

    async def fill(self, store: SqliteStore, records: Sequence[CommitRecord]) -> None:
        columns = (
            "stream, commit_id, first_version, count, occurred_at, metadata, payload, command_id, snapshot, request"
        )
        rows = [astuple(record)[:10] for record in records]
        with closing(sqlite3.connect(store._path)) as db, db:
            db.executemany(
                f"INSERT INTO commits ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - constants
                rows,
            )
