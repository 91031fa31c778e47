"""A row beside a snapshot that is not what was written is said to be damaged, and never a surprise."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from esazure import CorruptStreamError
from esazure.sqlite import SqliteStore
from esazure.testing._counter import commit_of


async def test_a_snapshot_whose_version_is_no_whole_number_is_a_damaged_row(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path / "a.db") as store:
        commit = commit_of("Counter.a", 1, "a")
        commit.snapshot = "tag of this"
        await store.insert(commit, outbox=False)
        with closing(sqlite3.connect(tmp_path / "a.db")) as db, db:
            db.execute("UPDATE commits SET first_version = 1.5")
        with pytest.raises(CorruptStreamError, match="is damaged"):
            async for _ in store.load("Counter.a", tag="tag"):
                pass
