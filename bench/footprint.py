"""How much memory a load takes, each in a process of its own. Read `publishing.py` next.

What counts is the most that the process had beyond what it had before the load. It is asked of Linux's `/proc`.
"""

# ruff: noqa: S603, SLF001
from __future__ import annotations

import asyncio
import gc
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

from bench.domain import COMMIT, OWNER, PAYLOADS, Account, Deposited, Opened, check
from bench.measuring import Settings
from bench.report import Report
from esazure.events import CommitRecord
from esazure.sqlite import SqliteStore
from esazure.store import Store
from esazure.tables import TableStore
from esazure.tables.insertion import insertion
from esazure.testing.azurite import Azurite

SHORT, LONG = 50_000, 100_000
"""Both of many pages: what a stream takes as a whole would be twice as much."""

WARM, WARM_ID = 9, UUID(int=1)

_ROWS = 100


def records(id: UUID, events: int) -> Iterator[CommitRecord]:
    """The commits of one account, as a repository makes them."""
    texts = [f"Deposited {Deposited(**fields).model_dump_json()}" for fields in PAYLOADS]
    first = f"Opened {Opened(owner=OWNER).model_dump_json()}"
    lines = [first, *(texts[number % len(texts)] for number in range(events - 1))]
    at = datetime.now(UTC).isoformat()
    for start in range(0, events, COMMIT):
        some = lines[start : start + COMMIT]
        yield CommitRecord(f"Account.{id}", uuid4().hex, start + 1, len(some), at, "{}", "\n".join(some))


async def run(report: Report, settings: Settings) -> None:
    """Both stores; a few rounds, because memory hardly varies."""
    rounds = 1 if settings.quick else 3
    short, long = uuid4(), uuid4()
    with tempfile.TemporaryDirectory() as folder, Azurite() as azurite:
        file = Path(folder) / "esazure.db"
        async with SqliteStore(file):
            pass
        async with TableStore.from_connection_string(azurite.connection_string) as tables:
            for stream_id, events in ((WARM_ID, WARM), (short, SHORT), (long, LONG)):
                with closing(sqlite3.connect(file)) as db, db:
                    db.executemany(
                        "INSERT INTO commits VALUES (?, ?, ?, ?, ?, NULL, NULL, ?, NULL, ?)",
                        (
                            (
                                *(each.stream, each.first_version, each.count, each.commit_id),
                                *(each.occurred_at, each.metadata, each.payload),
                            )
                            for each in records(stream_id, events)
                        ),
                    )
                rows = [
                    operation
                    for each in records(stream_id, events)
                    for operation in insertion(each, tables._partition(each.stream), (), outbox=False)
                ]
                for start in range(0, len(rows), _ROWS):
                    await tables._gateway.submit(rows[start : start + _ROWS])
        for name, address in (("SQLite", str(file)), ("Tables", azurite.connection_string)):
            least = {
                events: min(_growth(name, address, stream_id, events) for _ in range(rounds))
                for stream_id, events in ((short, SHORT), (long, LONG))
            }
            spent = f"MiB: {SHORT:,} events {least[SHORT]:.1f}, {LONG:,} events {least[LONG]:.1f}"
            measure = f"{name}, memory to load {LONG:,} events / {SHORT:,}"
            report.at_most(1.2, measure, least[LONG] / least[SHORT], spent)


def _growth(kind: str, address: str, id: UUID, events: int) -> float:
    arguments = [kind, str(id), str(events)]
    environment = {**os.environ, "BENCH_ADDRESS": address}
    command = [sys.executable, "-m", "bench.footprint", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


async def _load(kind: str, id: UUID, events: int) -> float:
    address = os.environ["BENCH_ADDRESS"]
    async with AsyncExitStack() as stack:
        store: Store = (
            await stack.enter_async_context(SqliteStore(address))
            if kind == "SQLite"
            else await stack.enter_async_context(TableStore.from_connection_string(address))
        )
        check((await store.events(Account).rehydrate(WARM_ID)).state, WARM - 1)  # what is loaded or made only once
        gc.collect()
        await asyncio.to_thread(Path("/proc/self/clear_refs").write_text, "5")  # forget the peak so far
        before = _kibibytes("VmRSS")
        check((await store.events(Account).rehydrate(id)).state, events - 1)
        return (_kibibytes("VmHWM") - before) / 1024


def _kibibytes(name: str) -> int:
    # Not by `getrusage`: its peak is that of the parent process as well.
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0])


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_load(sys.argv[1], UUID(sys.argv[2]), int(sys.argv[3])))))
