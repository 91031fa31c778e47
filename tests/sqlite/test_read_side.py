"""What `SqliteStore` promises of commands, views, documents and scans beyond the conformance suite."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.support import MARKER, STREAM, assert_silent, change, commit, locked, on_writer

from esazure.errors import CommandHandledError, CorruptStreamError, StoreError, StoreUnavailableError
from esazure.events import CommandRecord
from esazure.ports import ViewRecord
from esazure.sqlite import SqliteStore

VIEW = ViewRecord("card", "0" * 16, 1, f'"{MARKER}"')
Call = Callable[[SqliteStore], Awaitable[object]]
WRITES: dict[str, Call] = {
    "write_document": lambda store: store.write_document("words", "new", "1", seen=None),
    "delete_document": lambda store: store.delete_document("words", MARKER, seen="tag"),
    "clear_documents": lambda store: store.clear_documents("words"),
    "find_command": lambda store: store.find_command(STREAM, MARKER, forbid=True),
    "remember_command": lambda store: store.remember_command(STREAM, f"{MARKER}-2", version=1),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def store(file: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(file, busy_timeout=0.2) as store:
        yield store


class TestDurability:
    async def test_what_a_commit_may_rely_on_is_on_the_disk_and_a_view_may_be_computed_again(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writes: list[tuple[str, int]] = []

        class Recording(sqlite3.Connection):
            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                if sql.startswith(("COMMIT", "INSERT INTO views", "UPDATE views")):
                    writes.append((sql.split(maxsplit=1)[0], *super().execute("PRAGMA synchronous").fetchone()))
                return super().execute(sql, *parameters)

        async with SqliteStore(file) as store:
            await store.insert(commit(), outbox=False)
        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Recording))
        async with SqliteStore(file) as store:
            for call in WRITES.values():
                await call(store)
            assert writes == [("COMMIT", 2)] * len(WRITES)
            writes.clear()
            await store.write_view(STREAM, VIEW, seen=None)
            await store.write_view(STREAM, VIEW, seen=await store.read_view(STREAM, "card"))
            assert writes == [("INSERT", 1), ("UPDATE", 1)]
            assert await on_writer(store, "PRAGMA synchronous") == [(2,)]

    @pytest.mark.parametrize("call", WRITES)
    @pytest.mark.parametrize(
        ("code", "error"),
        [
            (sqlite3.SQLITE_IOERR_FSYNC, StoreUnavailableError),
            (None, StoreUnavailableError),
            (sqlite3.SQLITE_FULL, StoreError),
            (sqlite3.SQLITE_BUSY, StoreUnavailableError),
        ],
    )
    async def test_a_write_that_may_still_come_back_is_no_refusal(
        self, file: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int | None, error: type[Exception]
    ) -> None:
        class Failing(sqlite3.Connection):
            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                if sql == "COMMIT":
                    failure = sqlite3.OperationalError("all of it is text")
                    if code is not None:
                        failure.sqlite_errorcode = code
                        failure.sqlite_errorname = "SQLITE_TEST"
                    raise failure
                return super().execute(sql, *parameters)

        async with SqliteStore(file):
            pass
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Failing))
            async with SqliteStore(file) as store:
                with pytest.raises(error) as caught:
                    await WRITES[call](store)
                assert type(caught.value) is error
                assert_silent(caught.value)
        async with SqliteStore(file) as store:  # what failed was rolled back and holds no lock
            await WRITES[call](store)


class TestLocks:
    async def test_a_locked_file_is_unavailable_and_reads_go_on(self, store: SqliteStore, file: Path) -> None:
        await store.insert(commit(command_id="pay-1"), outbox=False, views=[VIEW])
        tag = await store.write_document("words", "a", "1", seen=None)
        with locked(file):
            for call in (*WRITES.values(), lambda store: store.write_view(STREAM, VIEW, seen=None)):
                with pytest.raises(StoreUnavailableError) as caught:
                    await call(store)
                assert_silent(caught.value)
            found = await store.read_document("words", "a")
            assert found is not None
            assert (found.text, found.tag) == ("1", tag)
            assert len((await store.list_documents("words")).documents) == 1
            assert await store.find_command(STREAM, "pay-1") == CommandRecord(1)
            assert await store.read_view(STREAM, "card") is not None
            assert [records[0].stream async for records in store.scan("0", "Diary")] == [STREAM]
        assert len((await store.list_documents("words")).documents) == 1

    async def test_of_a_commit_and_who_forbids_it_in_another_process_exactly_one_wins(self, file: Path) -> None:
        async with SqliteStore(file) as one, SqliteStore(file) as other:
            stored = 0
            for turn in range(60):
                insert = one.insert(commit(stored + 1, command_id=f"pay-{turn}"), outbox=False)
                forbid = other.find_command(STREAM, f"pay-{turn}", forbid=True)
                answer, found = await asyncio.gather(insert, forbid, return_exceptions=True)
                if answer is None:
                    stored += 1
                    assert found == CommandRecord(stored)
                else:
                    assert isinstance(answer, CommandHandledError)
                    assert found is None
            assert len(await one.read(STREAM)) == stored

    async def test_processes_that_compare_and_swap_lose_no_update(self, file: Path) -> None:
        async def add(store: SqliteStore) -> None:
            for _ in range(20):
                while True:
                    seen = await store.read_document("words", "count")
                    text, tag = (int(seen.text), seen.tag) if seen is not None else (0, None)
                    if await store.write_document("words", "count", str(text + 1), seen=tag) is not None:
                        break

        async with SqliteStore(file) as one, SqliteStore(file) as other:
            await asyncio.gather(add(one), add(other), add(one))
            found = await one.read_document("words", "count")
        assert found is not None
        assert found.text == "60"


class TestReadingFromAVersion:
    async def test_rows_before_the_version_are_not_read(self, store: SqliteStore, file: Path) -> None:
        commits = [commit(version) for version in (1, 2, 3)]
        for one in commits:
            await store.insert(one, outbox=False)
        change(file, "UPDATE commits SET payload = x'00' WHERE first_version = 1")
        assert list(await store.read(STREAM, from_version=2)) == commits[1:]
        with pytest.raises(CorruptStreamError, match="after version 0 is damaged"):
            await store.read(STREAM)
        change(file, "UPDATE commits SET payload = x'00' WHERE first_version = 2")
        with pytest.raises(CorruptStreamError, match="after version 1 is damaged"):
            await store.read(STREAM, from_version=2)

    @pytest.mark.parametrize("from_version", [1, 2, 3, 4])
    async def test_a_gap_at_or_behind_the_version_is_an_error(
        self, store: SqliteStore, file: Path, from_version: int
    ) -> None:
        for version in (1, 2, 3, 4, 5):
            await store.insert(commit(version), outbox=False)
        change(file, "DELETE FROM commits WHERE first_version = 4")
        with pytest.raises(CorruptStreamError, match="after version 3 comes 5"):
            await store.read(STREAM, from_version=from_version)
        assert len(await store.read(STREAM, from_version=5)) == 1

    async def test_a_beginning_that_is_gone_is_an_error(self, store: SqliteStore, file: Path) -> None:
        for version in (1, 2, 3):
            await store.insert(commit(version), outbox=False)
        change(file, "DELETE FROM commits WHERE first_version < 3")
        with pytest.raises(CorruptStreamError, match="after version 1 comes 3"):
            await store.read(STREAM, from_version=2)


class TestClearing:
    async def test_a_large_collection_is_cleared_in_portions_between_which_others_write(
        self, store: SqliteStore, file: Path
    ) -> None:
        with closing(sqlite3.connect(file)) as db, db:
            rows = [(collection, str(key), "t", "x") for collection in ("words", "words2") for key in range(3_500)]
            db.executemany("INSERT INTO documents VALUES (?, ?, ?, ?)", rows)
        cleared = asyncio.create_task(store.clear_documents("words"))
        await asyncio.sleep(0)
        await store.insert(commit(), outbox=False)
        assert not cleared.done(), "a commit waits for a portion, and not for all of it"
        await cleared
        with closing(sqlite3.connect(file)) as db:
            assert db.execute("SELECT collection, count(*) FROM documents GROUP BY 1").fetchall() == [("words2", 3_500)]


class TestScanning:
    async def test_streams_before_a_damaged_one_are_given_first(self, store: SqliteStore, file: Path) -> None:
        for each in "abcd":
            await store.insert(commit(stream=f"Diary.{each}"), outbox=False)
        change(file, "UPDATE commits SET payload = x'00' WHERE stream = 'Diary.c'")
        found = []
        with pytest.raises(CorruptStreamError, match=r"Diary\.c"):  # noqa: PT012 - how far it comes is what is tested
            async for records in store.scan("0", "Diary"):
                found.append(records[0].stream)  # noqa: PERF401 - it is kept when the scan fails
        assert found == ["Diary.a", "Diary.b"]
        assert [records[0].stream async for records in store.scan("0", "Diary", after="Diary.c")] == ["Diary.d"]

    async def test_between_batches_a_load_is_answered(self, store: SqliteStore, file: Path) -> None:
        with closing(sqlite3.connect(file)) as db, db:
            rows = [
                (f"Diary.{each}", 1, 1, "c", "2026-01-02T03:04:05+00:00", None, None, "{}", None, "x")
                for each in range(500)
            ]
            db.executemany("INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        found = 0
        async for _ in store.scan("0", "Diary"):
            found += 1
            if found == 1:
                change(file, "DELETE FROM commits WHERE stream = 'Diary.99'")  # it is the last one
        assert found == 499, "not everything was read at once"


class TestDamage:
    @pytest.mark.parametrize("damage", ["text = CAST(text AS BLOB)", "text = CAST(x'ff' AS TEXT)", "tag = x'00'"])
    async def test_a_damaged_document_is_an_error_that_does_not_quote_it(
        self, store: SqliteStore, file: Path, damage: str
    ) -> None:
        await store.write_document("words", MARKER, f'"{MARKER}"', seen=None)
        change(file, f"UPDATE documents SET {damage}")  # noqa: S608 - a constant
        for call in (partial(store.read_document, "words", MARKER), partial(store.list_documents, "words")):
            with pytest.raises(CorruptStreamError, match="words: a document is damaged") as caught:
                await call()
            assert_silent(caught.value)

    @pytest.mark.parametrize("damage", ["text = x'00'", "version = 'payload-marker'", "shape = CAST(x'ff' AS TEXT)"])
    async def test_a_damaged_view_is_an_error_that_names_it(self, store: SqliteStore, file: Path, damage: str) -> None:
        await store.insert(commit(), outbox=False, views=[VIEW])
        change(file, f"UPDATE views SET {damage}")  # noqa: S608 - a constant
        with pytest.raises(CorruptStreamError, match=rf"{STREAM}: the view card") as caught:
            await store.read_view(STREAM, "card")
        assert_silent(caught.value)

    async def test_a_command_whose_row_is_damaged_is_an_error(self, store: SqliteStore, file: Path) -> None:
        await store.insert(commit(command_id="pay-1"), outbox=False)
        change(file, "UPDATE commits SET first_version = 'payload-marker'")
        for forbid in (False, True):
            with pytest.raises(CorruptStreamError, match=STREAM) as caught:
                await store.find_command(STREAM, "pay-1", forbid=forbid)
            assert_silent(caught.value)
