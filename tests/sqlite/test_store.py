"""What `SqliteStore` promises beyond the conformance suite: files, locks, threads, and errors told apart by code."""

from __future__ import annotations

import asyncio
import re
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.sqlite.support import MARKER, STREAM, assert_silent, change, commit, locked, on_writer

from esazure import sqlite
from esazure.aggregate import AggregateRoot
from esazure.errors import (
    AppendOutcomeUnknownError,
    ConcurrencyError,
    CorruptStreamError,
    StoreError,
    StoreMismatchError,
    StoreUnavailableError,
)
from esazure.events import DomainEvent
from esazure.ports import ViewRecord
from esazure.sqlite import SqliteStore
from esazure.sqlite.commits import PAGE
from esazure.sqlite.schema import prepare


class Noted(DomainEvent):
    text: str


class Diary(AggregateRoot[Noted, str]):
    def when(self, event: Noted) -> None:
        pass


def diary() -> Diary:
    it = Diary("one")
    it.record(Noted(text=MARKER))
    return it


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def store(file: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(file, busy_timeout=0.2) as store:
        yield store


def content_of(file: Path) -> bytes:
    return file.read_bytes()


def write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def files_in(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def threads() -> int:
    return sum(thread.name.startswith("esazure-sqlite") for thread in threading.enumerate())


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not done():  # noqa: ASYNC110 - a thread's end is no event
            await asyncio.sleep(0.005)


class TestOpening:
    async def test_what_was_stored_is_there_after_closing_and_opening_again(self, file: Path) -> None:
        async with SqliteStore(file) as store:
            store_id = store.store_id
            commits = [commit(1), commit(2), commit(3)]
            for one in commits:
                await store.insert(one, outbox=True)
            await store.mark_published(commits[0])
        async with store:  # the same object
            assert list(await store.read(STREAM)) == commits
        async with SqliteStore(file) as again:
            assert again.store_id == store_id
            assert list(await again.read(STREAM)) == commits
            assert list(await again.unpublished(STREAM, before_version=9)) == commits[1:]

    async def test_closing_leaves_one_file_and_no_thread(self, tmp_path: Path, file: Path) -> None:
        async with SqliteStore(file) as store:
            await store.insert(commit(), outbox=True)
            await store.read(STREAM)
            assert threads() == 2
        await until(lambda: threads() == 0)
        assert files_in(tmp_path) == [file]

    async def test_a_relative_path_means_the_directory_of_its_construction(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        store = SqliteStore("here.db")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        async with store:
            assert (tmp_path / "here.db").exists()

    async def test_the_clock_stamps_commits(self, file: Path) -> None:
        then = datetime(2020, 2, 29, tzinfo=UTC)
        async with SqliteStore(file, clock=lambda: then) as store:
            stored = await store.events(Diary, outbox=True).append(diary())
        assert stored is not None
        assert stored.occurred_at == then

    @pytest.mark.parametrize("path", [":memory:", ""])
    def test_a_database_in_memory_is_refused(self, path: str) -> None:
        with pytest.raises(ValueError, match="InMemoryStore"):
            SqliteStore(path)

    async def test_many_may_create_the_same_file_at_once(self, tmp_path: Path) -> None:
        for round_ in range(6):
            stores = [SqliteStore(tmp_path / f"{round_}.db") for _ in range(8)]
            await asyncio.gather(*[store.__aenter__() for store in stores])
            try:
                assert len({store.store_id for store in stores}) == 1
                await asyncio.gather(
                    *[store.insert(commit(stream=f"A.{n}"), outbox=True) for n, store in enumerate(stores)]
                )
            finally:
                for store in stores:
                    await store.__aexit__()

    async def test_a_file_that_another_process_creates_while_it_is_looked_at_is_not_taken_for_somebody_elses(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looks: list[str] = []

        class Overtaken(sqlite3.Connection):
            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                if "sqlite_master" in sql or sql == "PRAGMA application_id":
                    looks.append(sql)
                    if len(looks) == 2:
                        with closing(connect(file, isolation_level=None)) as other:
                            ids.append(prepare(other, file, 1))
                return super().execute(sql, *parameters)

        connect, ids = sqlite3.connect, list[UUID]()
        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Overtaken))
        async with SqliteStore(file) as store:
            assert [store.store_id] == ids

    async def test_a_file_that_was_created_and_not_yet_switched_to_the_log_is_waited_for(self, file: Path) -> None:
        await created(file)
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("PRAGMA journal_mode = DELETE")
            with locked(file) as release:
                with pytest.raises(StoreUnavailableError):
                    await SqliteStore(file, busy_timeout=0.1).__aenter__()
                asyncio.get_running_loop().call_later(0.2, release)
                async with SqliteStore(file) as store:
                    await store.insert(commit(), outbox=True)

    async def test_the_connections_are_closed_one_after_the_other_so_that_the_last_can_tidy_up(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[str] = []

        class Slow(sqlite3.Connection):
            def close(self) -> None:
                seen.append("begin")
                time.sleep(0.05)
                super().close()
                seen.append("end")

        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Slow))
        async with SqliteStore(file) as store:
            await store.read(STREAM)
        assert seen == ["begin", "end"] * 2

    async def test_opening_it_twice_is_refused(self, store: SqliteStore) -> None:
        with pytest.raises(StoreError, match="already open"):
            await store.__aenter__()
        assert await store.read(STREAM) == []

    @pytest.mark.parametrize("opened", [False, True])
    async def test_a_store_that_is_not_open_says_so(self, file: Path, opened: bool) -> None:  # noqa: FBT001 - a parameter
        store = SqliteStore(file)
        if opened:
            async with store:
                pass
            await store.__aexit__()  # closing again is fine
        else:
            with pytest.raises(StoreError, match="is not open"):
                _ = store.store_id
            assert files_in(file.parent) == []
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: store.insert(commit(), outbox=True),
            lambda: store.read(STREAM),
            lambda: store.unpublished(STREAM, before_version=9),
            lambda: store.mark_published(commit()),
            lambda: store.sweep("0"),
            lambda: store.write_lease("0", None, owner="ada", epoch=1),
            lambda: store.set_aside(commit(), "too large"),
            lambda: store.find_command(STREAM, "pay-1"),
            lambda: store.find_command(STREAM, "pay-1", forbid=True),
            lambda: store.read_view(STREAM, "card"),
            lambda: store.write_view(STREAM, ViewRecord("card", "", 1, "{}"), seen=None),
            lambda: anext(aiter(store.scan("0", "Diary"))),
            lambda: store.read_document("words", "a"),
            lambda: store.write_document("words", "a", "1", seen=None),
            lambda: store.delete_document("words", "a", seen="tag"),
            lambda: store.list_documents("words"),
            lambda: store.clear_documents("words"),
        ]
        for call in calls:
            with pytest.raises(StoreError, match="is not open"):
                await call()

    def test_importing_it_imports_no_azure_sdk(self) -> None:
        check = "import sys, esazure.sqlite; print(*{'azure', 'aiohttp'} & set(sys.modules))"
        assert subprocess.run([sys.executable, "-c", check], check=True, capture_output=True).stdout.strip() == b""  # noqa: S603 - our own


class TestFilesOfOthers:
    async def refuse(self, file: Path, error: type[StoreError], match: str) -> None:
        before = content_of(file)
        with pytest.raises(error, match=match) as caught:
            async with SqliteStore(file):
                pass
        assert type(caught.value) is error
        assert str(file) in str(caught.value)
        await until(lambda: threads() == 0)
        assert content_of(file) == before
        assert files_in(file.parent) == [file]

    @pytest.mark.parametrize("content", [b"name,amount\nAda,3\n", b"x" * 5_000])
    async def test_a_file_that_is_no_database_is_refused_and_kept(self, file: Path, content: bytes) -> None:
        write(file, content)
        await self.refuse(file, StoreError, "not a SQLite database")

    @pytest.mark.parametrize(
        "statement",
        ["CREATE TABLE commits (stream)", "CREATE TABLE users (name)", "PRAGMA application_id = 7"],
    )
    async def test_somebody_elses_database_is_refused_and_kept(self, file: Path, statement: str) -> None:
        change(file, statement)
        await self.refuse(file, StoreError, "something else")

    @pytest.mark.parametrize("layout", [1, 3])
    async def test_another_layout_is_refused_and_kept(self, file: Path, layout: int) -> None:
        async with SqliteStore(file) as store:
            await store.insert(commit(), outbox=True)
        change(file, "UPDATE meta SET value = ? WHERE key = 'layout'", layout)
        with closing(sqlite3.connect(file)) as db:
            db.execute("PRAGMA journal_mode = DELETE")  # so that its bytes can be compared
        await self.refuse(
            file, StoreMismatchError, f"has layout {layout}, this version of esazure uses 2: open it with"
        )

    async def test_a_damaged_store_id_is_refused(self, file: Path) -> None:
        async with SqliteStore(file):
            pass
        change(file, "UPDATE meta SET value = 'mine' WHERE key = 'store_id'")
        with pytest.raises(StoreError, match="id is damaged"):
            await SqliteStore(file).__aenter__()

    async def test_a_disk_that_cannot_keep_a_write_ahead_log_is_refused(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class OnANetworkDisk(sqlite3.Connection):
            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                return super().execute("SELECT 'delete'" if "journal_mode" in sql else sql, *parameters)

        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=OnANetworkDisk))
        with pytest.raises(StoreError, match="local disk"):
            await SqliteStore(file).__aenter__()

    async def test_a_directory_that_does_not_exist_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="directory exists"):
            await SqliteStore(tmp_path / "missing" / "store.db").__aenter__()


class TestLocks:
    async def test_a_locked_file_is_unavailable_after_the_busy_timeout_and_nothing_is_stored(
        self, store: SqliteStore, file: Path
    ) -> None:
        waiting = commit()
        await store.insert(waiting, outbox=True)
        with locked(file) as release:
            for call in (
                partial(store.insert, commit(2), outbox=True),
                partial(store.mark_published, waiting),
                partial(store.set_aside, waiting, "too large"),
            ):
                begin = time.monotonic()
                with pytest.raises(StoreUnavailableError, match=STREAM):
                    await call()
                assert 0.15 < time.monotonic() - begin < 1.5
            with pytest.raises(StoreUnavailableError):
                await store.write_lease("0", None, owner="ada", epoch=1)
            assert list(await store.read(STREAM)) == [waiting], "reads go on"
            assert len((await store.sweep("0")).rows) == 1
            release()
            assert list(await store.unpublished(STREAM, before_version=9)) == [waiting]
        await store.insert(commit(2), outbox=True)
        assert await on_writer(store, "PRAGMA synchronous") == [(2,)], (
            "a failed mark_published must not cost durability"
        )
        assert (await store.sweep("0")).lease is None
        assert [row.stream for row in (await store.sweep("0")).rows] == [STREAM, STREAM]

    async def test_opening_a_new_file_that_is_locked_is_unavailable(self, file: Path) -> None:
        with locked(file), pytest.raises(StoreUnavailableError):
            await SqliteStore(file, busy_timeout=0.1).__aenter__()

    async def test_calls_queued_behind_a_locked_file_wait_together_and_not_in_turn(
        self, store: SqliteStore, file: Path
    ) -> None:
        calls = [store.insert(commit(stream=f"Diary.{number}"), outbox=True) for number in range(20)]
        with locked(file):
            begin = time.monotonic()
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert time.monotonic() - begin < 1.5
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailableError}
        with locked(file) as release:
            asyncio.get_running_loop().call_later(0.1, release)
            await store.insert(commit(), outbox=True)  # later calls have their patience back

    async def test_the_event_loop_runs_and_reads_are_answered_while_the_file_is_locked(self, file: Path) -> None:
        async with SqliteStore(file, busy_timeout=5) as store:
            with locked(file) as release:
                append = asyncio.create_task(store.insert(commit(), outbox=True))
                ticks = 0
                begin = time.monotonic()
                while time.monotonic() - begin < 0.4:
                    await asyncio.sleep(0.01)
                    assert await store.read(STREAM) == []
                    ticks += 1
                assert ticks > 10
                assert not append.done()
                release()
            await append

    async def test_an_append_is_on_the_disk_when_it_returns_and_a_publication_may_be_noted_later(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writes: list[tuple[str, int]] = []

        class Recording(sqlite3.Connection):
            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                if sql.startswith(("COMMIT", "DELETE")):
                    writes.append((sql[:6], *super().execute("PRAGMA synchronous").fetchone()))
                return super().execute(sql, *parameters)

        async with SqliteStore(file):
            pass
        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Recording))
        async with SqliteStore(file) as store:
            assert await on_writer(store, "PRAGMA journal_mode") == [("wal",)]
            await store.insert(commit(1), outbox=True)
            await store.mark_published(commit(1))
            await store.insert(commit(2), outbox=True)
        assert writes == [("COMMIT", 2), ("DELETE", 1), ("COMMIT", 2)]


class TestCancelling:
    async def test_a_cancelled_append_runs_to_its_end_and_sending_it_again_stores_it_once(
        self, store: SqliteStore, file: Path
    ) -> None:
        first, queued = commit(stream="Diary.first"), commit(stream="Diary.queued")
        with locked(file) as release:
            tasks = [asyncio.create_task(store.insert(record, outbox=True)) for record in (first, queued)]
            await asyncio.sleep(0.05)
            begin = time.monotonic()
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
            assert time.monotonic() - begin < 0.1, "the caller is not held up"
            release()
        await store.insert(commit(stream="Diary.other"), outbox=True)  # behind the one under way
        assert list(await store.read(first.stream)) == [first]
        assert list(await store.read(queued.stream)) == [], "what had not begun never does"
        for record in (first, queued):
            await store.insert(record, outbox=True)
            assert list(await store.unpublished(record.stream, before_version=9)) == [record]

    async def test_an_aggregate_whose_append_was_cancelled_is_persisted_once(
        self, store: SqliteStore, file: Path
    ) -> None:
        repository, it = store.events(Diary, outbox=True), diary()
        with locked(file) as release:
            task = asyncio.create_task(repository.append(it))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            release()
        await repository.append(it)
        assert (it.version, it.pending) == (1, ())
        assert (await repository.rehydrate("one")).version == 1

    async def test_closing_waits_for_the_work_under_way(self, file: Path) -> None:
        record = commit()
        with locked(await created(file)) as release:
            async with SqliteStore(file) as store:
                task = asyncio.create_task(store.insert(record, outbox=True))
                await asyncio.sleep(0.05)
                asyncio.get_running_loop().call_later(0.1, release)
            await task
        async with SqliteStore(file) as store:
            assert list(await store.read(STREAM)) == [record]

    async def test_cancelling_the_closing_leaves_nothing_open(self, tmp_path: Path, file: Path) -> None:
        with locked(await created(file)) as release:
            store = await SqliteStore(file).__aenter__()
            append = asyncio.create_task(store.insert(commit(), outbox=True))
            await asyncio.sleep(0.05)
            closing_it = asyncio.create_task(store.__aexit__())
            await asyncio.sleep(0)
            closing_it.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing_it
            release()
        await append
        await until(lambda: threads() == 0)
        assert files_in(tmp_path) == [file]

    async def test_cancelling_the_opening_leaves_nothing_open(self, tmp_path: Path, file: Path) -> None:
        with locked(file) as release:
            opening = asyncio.create_task(SqliteStore(file).__aenter__())
            await asyncio.sleep(0.05)
            asyncio.get_running_loop().call_later(0.1, release)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
        await until(lambda: threads() == 0)


async def created(file: Path) -> Path:
    async with SqliteStore(file):
        return file


class TestForRelays:
    async def test_ages_are_measured_by_the_clock_of_sqlite_and_not_by_the_stores(self, file: Path) -> None:
        async with SqliteStore(file, clock=lambda: datetime(1990, 1, 1, tzinfo=UTC)) as store:
            await store.events(Diary, outbox=True).append(diary())
            change(file, "UPDATE outbox SET stored_at = stored_at - 2.0")
            (row,) = (await store.sweep("0")).rows
        assert (row.stream, row.first_version) == (STREAM, 1)
        assert 2 * 86_400 <= row.age < 2 * 86_400 + 60

    async def test_when_the_clock_was_set_back_nothing_is_older_than_now(self, store: SqliteStore, file: Path) -> None:
        await store.insert(commit(), outbox=True)
        change(file, "UPDATE outbox SET stored_at = stored_at + 1.0")
        assert [row.age for row in (await store.sweep("0")).rows] == [0.0]

    async def test_what_was_set_aside_is_kept_with_reason_and_time(self, store: SqliteStore, file: Path) -> None:
        record = commit()
        await store.insert(record, outbox=True)
        await store.set_aside(record, "DispatchError: too large")
        await store.set_aside(record, "again")
        with closing(sqlite3.connect(file)) as db:
            ((*what, when),) = db.execute("SELECT * FROM quarantine")
        assert what == [STREAM, 1, "DispatchError: too large"]
        assert abs((datetime.now(UTC) - datetime.fromisoformat(when)).total_seconds()) < 60

    async def test_what_did_not_wait_is_not_set_aside(self, store: SqliteStore, file: Path) -> None:
        await store.insert(commit(), outbox=False)
        await store.set_aside(commit(), "too large")
        with closing(sqlite3.connect(file)) as db:
            assert db.execute("SELECT * FROM quarantine").fetchall() == []

    async def test_setting_aside_is_one_step(self, store: SqliteStore, file: Path) -> None:
        await store.insert(commit(), outbox=True)
        change(file, "DROP TABLE quarantine")
        with pytest.raises(StoreError):
            await store.set_aside(commit(), "too large")
        assert len((await store.sweep("0")).rows) == 1

    @pytest.mark.parametrize("damage", ["stored_at = NULL", "first_version = 'payload-marker'"])
    async def test_a_damaged_outbox_row_is_an_error(self, store: SqliteStore, file: Path, damage: str) -> None:
        await store.insert(commit(), outbox=True)
        change(file, "DROP TABLE outbox")
        change(file, "CREATE TABLE outbox (stream, first_version, stored_at)")
        change(file, "INSERT INTO outbox VALUES (?, 1, 2460000.5)", STREAM)
        change(file, f"UPDATE outbox SET {damage}")  # noqa: S608 - a constant
        with pytest.raises(CorruptStreamError) as caught:
            await store.sweep("0")
        assert_silent(caught.value)

    async def test_of_two_processes_one_gets_the_lease(self, store: SqliteStore, file: Path) -> None:
        async with SqliteStore(file) as other:
            for epoch in range(1, 4):
                seen = (await store.sweep("0")).lease
                taken = await asyncio.gather(
                    *[each.write_lease("0", seen, owner="relay", epoch=epoch) for each in (store, other)]
                )
                assert sum(lease is not None for lease in taken) == 1


class TestRefusals:
    @pytest.mark.parametrize(
        ("pragma", "match"), [("max_page_count = 1", "disk is full"), ("query_only = 1", "cannot be written")]
    )
    async def test_a_full_or_read_only_disk_is_a_definite_refusal(
        self, store: SqliteStore, pragma: str, match: str
    ) -> None:
        big = replace(commit(), payload=f'Noted {{"text":"{MARKER * 10_000}"}}')
        await on_writer(store, f"PRAGMA {pragma}")
        with pytest.raises(StoreError, match=match) as caught:
            await store.insert(big, outbox=True)
        assert type(caught.value) is StoreError
        assert_silent(caught.value)
        await on_writer(store, "PRAGMA max_page_count = 1000000")
        await on_writer(store, "PRAGMA query_only = 0")
        assert list(await store.read(STREAM)) == []
        await store.insert(big, outbox=True)

    async def test_when_the_log_cannot_be_written_the_outcome_is_unknown_until_it_is_asked_for_again(
        self, store: SqliteStore, file: Path
    ) -> None:
        repository, it = store.events(Diary, outbox=True), diary()
        await store.insert(commit(stream="Diary.other"), outbox=True)
        log = file.with_name(f"{file.name}-wal")
        with limited_file_size(log.stat().st_size + 100), pytest.raises(AppendOutcomeUnknownError) as caught:
            await repository.append(it)
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert caught.value.__cause__.sqlite_errorname.startswith("SQLITE_IOERR")
        assert_silent(caught.value)
        await caught.value.retry()
        assert (it.version, it.pending) == (1, ())
        assert len(await store.unpublished(STREAM, before_version=9)) == 1

    @pytest.mark.parametrize(
        ("code", "error"),
        [
            (sqlite3.SQLITE_IOERR_FSYNC, AppendOutcomeUnknownError),
            (sqlite3.SQLITE_IOERR_SHMMAP, AppendOutcomeUnknownError),
            (sqlite3.SQLITE_CORRUPT, AppendOutcomeUnknownError),
            (None, AppendOutcomeUnknownError),
            (sqlite3.SQLITE_FULL, StoreError),
            (sqlite3.SQLITE_BUSY, StoreUnavailableError),
        ],
    )
    async def test_a_commit_that_fails_is_told_apart_by_its_code(
        self, file: Path, monkeypatch: pytest.MonkeyPatch, code: int | None, error: type[Exception]
    ) -> None:
        class Failing(sqlite3.Connection):
            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                if sql == "COMMIT":
                    failure = sqlite3.OperationalError("disk is fine, database is locked, all of it is text")
                    if code is not None:
                        failure.sqlite_errorcode = code
                        failure.sqlite_errorname = "SQLITE_TEST"
                    raise failure
                return super().execute(sql, *parameters)

        await created(file)
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Failing))
            async with SqliteStore(file) as store:
                with pytest.raises(error) as caught:
                    await store.insert(commit(), outbox=True)
                assert type(caught.value) is error
        async with SqliteStore(file) as store:  # what failed was rolled back and holds no lock
            assert await store.read(STREAM) == []
            await store.insert(commit(), outbox=True)

    async def test_a_conflict_names_both_versions_and_the_next_append_works(self, store: SqliteStore) -> None:
        await store.insert(commit(1), outbox=True)
        await store.insert(commit(2), outbox=True)
        for first_version in (1, 2, 5):
            with pytest.raises(ConcurrencyError) as caught:
                await store.insert(commit(first_version), outbox=True)
            assert (caught.value.expected, caught.value.actual) == (first_version - 1, 2)
            assert_silent(caught.value)
        await store.insert(commit(3), outbox=True)


class TestDamage:
    @pytest.mark.parametrize(
        "damage",
        [
            "payload = CAST(payload AS BLOB)",
            "payload = CAST(x'ff' || payload AS TEXT)",  # not UTF-8
            "commit_id = CAST('payload-marker' AS BLOB)",
            "metadata = x'7b7d'",
            "occurred_at = x'00'",
            "command_id = CAST('payload-marker' AS BLOB)",
            "count = 'payload-marker'",
            "first_version = 'payload-marker'",
            "first_version = 2.5",
            "first_version = 3",
        ],
    )
    async def test_a_damaged_row_is_an_error_that_names_its_place(
        self, store: SqliteStore, file: Path, damage: str
    ) -> None:
        await store.insert(commit(1), outbox=True)
        await store.insert(commit(2), outbox=True)
        change(file, f"UPDATE commits SET {damage} WHERE first_version = 2")  # noqa: S608 - a constant
        calls = [partial(store.read, STREAM), partial(store.unpublished, STREAM, before_version=9)]
        for call in calls:
            with pytest.raises(CorruptStreamError, match=rf"{STREAM}.* after version 1 ") as caught:
                await call()
            assert_silent(caught.value)

    async def test_on_a_later_page_of_a_load_as_well(self, store: SqliteStore, file: Path) -> None:
        change(
            file,
            "INSERT INTO commits WITH RECURSIVE pairs (first) AS (SELECT 1 UNION ALL SELECT first + 2 FROM pairs"
            " WHERE first < ?) SELECT ?, first, 2, 'x', '', NULL, NULL, '', NULL, '' FROM pairs",
            2 * PAGE,
            STREAM,
        )
        change(file, f"UPDATE commits SET count = 'x' WHERE first_version = {2 * PAGE + 1}")  # noqa: S608 - a number
        with pytest.raises(CorruptStreamError, match=f"after version {2 * PAGE} is damaged"):
            assert [len(page) async for page in store.load(STREAM)] == []

    @pytest.mark.parametrize("damage", ["count = 'x'", "first_version = x'00'"])
    async def test_nothing_is_appended_to_a_damaged_end(self, store: SqliteStore, file: Path, damage: str) -> None:
        await store.insert(commit(1), outbox=True)
        change(file, f"UPDATE commits SET {damage}")  # noqa: S608 - a constant
        with pytest.raises(CorruptStreamError, match=STREAM):
            await store.insert(commit(2), outbox=True)

    async def test_a_null_is_damage(self, store: SqliteStore, file: Path) -> None:
        await store.insert(commit(1), outbox=True)
        change(file, "DROP TABLE commits")
        change(
            file,
            "CREATE TABLE commits "
            "(stream, first_version, count, commit_id, occurred_at, command_id, request, metadata, snapshot, payload)",
        )
        change(file, "INSERT INTO commits VALUES (?, 1, 1, NULL, '', NULL, NULL, '{}', NULL, '')", STREAM)
        with pytest.raises(CorruptStreamError, match="after version 0"):
            await store.read(STREAM)

    async def test_an_outbox_row_without_its_commit_is_not_skipped(self, store: SqliteStore, file: Path) -> None:
        for version in (1, 2):
            await store.insert(commit(version), outbox=True)
        change(file, "DELETE FROM commits WHERE first_version = 1")
        with pytest.raises(CorruptStreamError, match="after version 0"):
            await store.unpublished(STREAM, before_version=9)

    async def test_a_table_that_is_gone_is_an_error_of_the_store(self, store: SqliteStore, file: Path) -> None:
        change(file, "DROP TABLE commits")
        with pytest.raises(StoreError, match=rf"{STREAM}.*SQLITE_ERROR"):
            await store.read(STREAM)

    async def test_a_damaged_file_is_corrupt(self, file: Path) -> None:
        async with SqliteStore(file) as store:
            await store.insert(commit(), outbox=True)
        with closing(sqlite3.connect(file)) as db:
            ((page,),) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'commits'")
            ((size,),) = db.execute("PRAGMA page_size")
        content = bytearray(content_of(file))
        content[(page - 1) * size : page * size] = b"\xaa" * size
        write(file, bytes(content))
        async with SqliteStore(file) as store:
            for call in (partial(store.read, STREAM), partial(store.insert, commit(), outbox=True)):
                with pytest.raises(CorruptStreamError, match="SQLITE_CORRUPT"):
                    await call()


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_statement_has_numbered_parameters() -> None:
    """CPython 3.12.0 to 3.12.3 warn about `?1` with a sequence, for which users' `-W error` makes every load fail."""
    package = Path(sqlite.__file__ or "").parent
    assert [path.name for path in package.glob("*.py") if re.search(r"\?[0-9]", path.read_text())] == []


def test_what_is_deleted_is_overwritten_whatever_sqlite_was_built_with(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as db:
        db.execute("PRAGMA secure_delete = OFF")
        prepare(db, tmp_path / "a.db", 1.0)
        assert db.execute("PRAGMA secure_delete").fetchone() == (1,)
