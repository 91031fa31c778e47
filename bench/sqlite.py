"""One SQLite file for each library: loading a stream, appending an event. Read `imports.py` next.

What is compared is CPU, because the wall time of an append is the disk's. The floor is `sqlite3` without threads; a
second one hands each call to a thread, as whoever does not want to block an event loop has to.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from bench.domain import Account, FloorAccount, account_of, check, store
from bench.measuring import Settings, Work, race
from bench.peers import EsAccount, Eventsourcing, PyAccount, eventsource_in
from bench.report import Report
from esazure.sqlite import SqliteStore

EVENTS = 1_000


class FloorFile:
    """One table, one row an event, a write-ahead log, an fsync for each commit."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute(
            "CREATE TABLE events (stream TEXT, version INTEGER, name TEXT NOT NULL, json TEXT NOT NULL,"
            " PRIMARY KEY (stream, version)) WITHOUT ROWID"
        )

    def save(self, account: FloorAccount) -> None:
        """The primary key refuses what is not the next version."""
        stream, before = str(account.id), account.version - len(account.pending)
        rows = [
            (stream, version, name, json.decode())
            for version, (name, json) in enumerate(account.lines(), start=before + 1)
        ]
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
        self._db.execute("COMMIT")
        account.pending = []

    def load(self, id: UUID) -> FloorAccount:
        """All of it."""
        query = "SELECT name, json FROM events WHERE stream = ? ORDER BY version"
        return FloorAccount(id).replay(self._db.execute(query, (str(id),)))

    def close(self) -> None:
        """No more."""
        self._db.close()


@dataclass(frozen=True, slots=True)
class _Files:
    folder: Path
    ours: SqliteStore
    floor: FloorFile
    es: Eventsourcing


@asynccontextmanager
async def _opened() -> AsyncIterator[_Files]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        es = Eventsourcing(folder / "eventsourcing.db")
        with closing(FloorFile(folder / "floor.db")) as floor, closing(es):
            async with SqliteStore(folder / "esazure.db") as ours:
                yield _Files(folder, ours, floor, es)


async def run(report: Report, settings: Settings) -> None:
    """All of it."""
    async with _opened() as files:
        repository, py_store = eventsource_in(files.folder / "eventsource.db")
        async with AsyncExitStack() as stack:
            stack.push_async_callback(py_store.close)
            contenders = await _loads(files)
            account = await store(PyAccount, repository.save, EVENTS)

            async def eventsource_load() -> None:
                check((await repository.load(account.aggregate_id)).current, EVENTS - 1)

            async def eventsource_append() -> None:
                await repository.save(account_of(PyAccount, 1))

            result = await race({**contenders, "eventsource-py": eventsource_load}, settings)
            title, spent = "SQLite, load 1,000 events", f"CPU ms: {result.milliseconds()}"
            report.at_least(5, f"{title}: eventsourcing / esazure", result.ratio("eventsourcing", "esazure"), spent)
            report.at_least(3.5, f"{title}: eventsource-py / esazure", result.ratio("eventsource-py", "esazure"), "")
            report.shown(f"{title}: esazure / by hand", result.ratio("esazure", "by hand"), "")
            report.chart(title, result)
            with ThreadPoolExecutor(1) as thread:
                result = await race({**_appends(files, thread), "eventsource-py": eventsource_append}, settings)
            title, spent = "SQLite, append 1 event", f"CPU ms: {result.milliseconds()}"
            report.at_most(1.5, f"{title}: esazure / by hand", result.ratio("esazure", "by hand"), spent)
            report.shown(f"{title}: esazure / by hand in a thread", result.ratio("esazure", "by hand in a thread"), "")
            report.shown(f"{title}: eventsourcing / esazure", result.ratio("eventsourcing", "esazure"), "")
            report.shown(f"{title}: eventsource-py / esazure", result.ratio("eventsource-py", "esazure"), "")
            report.chart(title, result)


async def _loads(files: _Files) -> dict[str, Work]:
    ours = files.ours.events(Account)
    account = await store(Account, ours.append, EVENTS)
    by_hand = account_of(FloorAccount, EVENTS)
    files.floor.save(by_hand)
    es_account = account_of(EsAccount, EVENTS)
    files.es.save(es_account)

    async def esazure() -> None:
        check((await ours.rehydrate(account.id)).state, EVENTS - 1)

    async def hand() -> None:
        check(files.floor.load(by_hand.id).state, EVENTS - 1)

    async def eventsourcing() -> None:
        found: EsAccount = files.es.repository.get(es_account.id)
        check(found.state, EVENTS - 1)

    return {"by hand": hand, "esazure": esazure, "eventsourcing": eventsourcing}


def _appends(files: _Files, thread: ThreadPoolExecutor) -> dict[str, Work]:
    with_outbox, without = files.ours.events(Account), files.ours.events(Account, outbox=False)

    async def esazure() -> None:
        await without.append(account_of(Account, 1))

    async def esazure_and_outbox() -> None:
        await with_outbox.append(account_of(Account, 1))

    async def hand() -> None:
        files.floor.save(account_of(FloorAccount, 1))

    async def hand_in_thread() -> None:
        account = account_of(FloorAccount, 1)
        await asyncio.get_running_loop().run_in_executor(thread, files.floor.save, account)

    async def eventsourcing() -> None:
        files.es.save(account_of(EsAccount, 1))

    return {
        "by hand": hand,
        "by hand in a thread": hand_in_thread,
        "esazure": esazure,
        "esazure, with outbox": esazure_and_outbox,
        "eventsourcing": eventsourcing,
    }
