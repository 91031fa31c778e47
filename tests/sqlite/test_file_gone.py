"""A file that is removed or replaced while it is open: nothing is acknowledged that is not in the file at the path."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from esazure import StoreError, StoreUnavailableError
from esazure.errors import EsAzureError
from esazure.sqlite import SqliteStore
from esazure.testing._calls import CALLS
from esazure.testing._counter import Counter, counter_with

Way = Callable[[Path], None]


def files(path: Path) -> list[Path]:
    return [each for each in path.parent.iterdir() if each.name.startswith(path.name)]


def remove_all(path: Path) -> None:
    for each in files(path):
        each.unlink()


def replace_all(path: Path) -> None:
    remove_all(path)
    shutil.copy(path.parent / "old", path)


def replace_by_rename(path: Path) -> None:
    shutil.copy(path.parent / "old", path.parent / "new")
    (path.parent / "new").rename(path)


def overwrite(path: Path) -> None:
    """As `cp` does: it stays the same file."""
    path.write_bytes((path.parent / "old").read_bytes())


def empty_the_log(path: Path) -> None:
    """What is in it is in the database then."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)


def switch_the_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "old")


def move_the_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


WAYS: dict[str, Way] = {
    "all removed": remove_all,
    "the database removed": Path.unlink,
    "the log removed": lambda path: path.with_name(f"{path.name}-wal").unlink(),
    "the log replaced": lambda path: shutil.move(path.parent / "text", path.with_name(f"{path.name}-wal")),
    "replaced by an older copy": replace_all,
    "replaced by renaming": replace_by_rename,
    "a link instead": switch_the_link,
    "emptied": lambda path: os.truncate(path, 0),
    "the folder moved": move_the_folder,
}


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A database, with an older copy beside it."""
    path = tmp_path / "folder" / "a.db"
    path.parent.mkdir()
    (path.parent / "text").write_text("")
    async with SqliteStore(path) as store:
        await store.events(Counter).append(counter_with("old"))
    shutil.copy(path, path.parent / "old")
    return path


async def found(store: SqliteStore) -> int:
    return len([each async for each in store.scan("0", "Counter")])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("read_before", [0, 1])
async def test_no_call_works_in_a_file_that_is_another_by_now(path: Path, way: str, read_before: int) -> None:
    async with SqliteStore(path) as store:
        await store.events(Counter).append(counter_with("a"))
        if read_before:
            assert await found(store) == 2
        WAYS[way](path)
        with pytest.raises(StoreError, match=r"was (removed|replaced) while it was open, nothing was stored"):
            await store.events(Counter).append(counter_with("b"))
        for name, call in CALLS.items():
            if name in ("store_id", "partitions"):
                continue
            with pytest.raises(StoreError, match="while it was open") as caught:
                await call(store)
            assert not isinstance(caught.value, StoreUnavailableError)


@pytest.mark.parametrize("way", ["replaced by an older copy", "replaced by renaming"])
async def test_the_file_that_is_there_instead_works_also_once_the_other_is_closed(path: Path, way: str) -> None:
    async with SqliteStore(path) as store:
        await store.events(Counter).append(counter_with("a"))
        WAYS[way](path)
        if way == "replaced by renaming":
            path.with_name("a.db-wal").unlink()
            path.with_name("a.db-shm").unlink()
        async with SqliteStore(path) as other:
            await other.events(Counter).append(counter_with("b"))
            await store.__aexit__()
            assert path.with_name("a.db-wal").exists(), "it is the other's"
            await other.events(Counter).append(counter_with("c"))
            with closing(sqlite3.connect(path)) as db:
                assert db.execute("SELECT count(*) FROM commits").fetchone() == (3,)
    async with SqliteStore(path) as again:
        assert await found(again) == 3


async def test_a_file_that_is_overwritten_by_a_smaller_copy_gets_no_commit(path: Path) -> None:
    store = SqliteStore(path)
    await store.__aenter__()
    try:
        for _ in range(50):
            await store.events(Counter).append(counter_with("a" * 2_000))
        empty_the_log(path)
        assert await found(store) == 51
        overwrite(path)
        with pytest.raises(StoreError, match=r"a\.db was replaced while it was open, nothing was stored"):
            await store.events(Counter).append(counter_with("b"))
    finally:
        await store.__aexit__()
    async with SqliteStore(path) as again:
        assert await found(again) == 1


async def test_a_file_that_grows_and_whose_log_starts_anew_stays_the_same(path: Path) -> None:
    async with SqliteStore(path) as store, SqliteStore(path) as other:
        for number in range(30):
            await (store, other)[number % 2].events(Counter).append(counter_with("a" * 2_000))
            assert await found(store) == number + 2
            empty_the_log(path)


async def test_what_was_acknowledged_before_the_log_was_removed_is_there_after_closing(path: Path) -> None:
    async with SqliteStore(path) as store:
        await store.events(Counter).append(counter_with("a"))
        path.with_name("a.db-wal").unlink()
    async with SqliteStore(path) as again:
        assert await found(again) == 2


async def test_a_file_that_is_replaced_while_a_commit_waits_for_a_lock_does_not_get_it(path: Path) -> None:
    async with SqliteStore(path) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = asyncio.create_task(store.events(Counter).append(counter_with("a")))
            await asyncio.sleep(0.3)
            replace_by_rename(path)
            other.execute("ROLLBACK")
            with pytest.raises(StoreError, match="while it was open"):
                await waiting


async def test_a_file_that_is_replaced_while_a_connection_is_made_is_not_used_and_the_connection_is_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def late(*args: Any, **options: Any) -> sqlite3.Connection:
        replace_by_rename(path)
        made.append(connect(*args, **options, check_same_thread=False))
        return made[-1]

    async with SqliteStore(path) as store:
        monkeypatch.setattr(sqlite3, "connect", late)
        with pytest.raises(StoreError, match="while it was open"):
            await found(store)  # the first to read makes a connection for it
        monkeypatch.undo()
        (connection,) = made
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


async def test_a_store_whose_file_is_there_goes_on(path: Path) -> None:
    """Also while others open and close it, and after the log was moved into it."""
    async with SqliteStore(path) as store:
        for count in range(2, 6):
            await store.events(Counter).append(counter_with("a"))
            async with SqliteStore(path) as other:
                assert await found(other) == count
            with closing(sqlite3.connect(path)) as db:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                db.execute("VACUUM")
    assert not [each for each in files(path) if each != path]


@pytest.mark.parametrize("code", ["IOERR_LOCK", "IOERR_SHMMAP", "IOERR_READ", "PROTOCOL"])
async def test_a_disk_that_cannot_lock_or_share_memory_is_said_to_be_perhaps_a_network_share(
    path: Path, code: str
) -> None:
    def fail(_: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{code}")
        error.sqlite_errorname = f"SQLITE_{code}"
        raise error

    async with SqliteStore(path) as store:
        with pytest.raises(StoreError, match=r"a network share.*use a local disk.*Table Storage"):
            await store._read(None, fail)


async def test_the_error_is_one_of_ours_and_says_what_to_do(path: Path) -> None:
    async with SqliteStore(path) as store:
        remove_all(path)
        with pytest.raises(EsAzureError, match="close the store, put the file back if it is missed, and open"):
            await store.read("Counter.a")
