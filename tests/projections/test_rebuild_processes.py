"""Processes that rebuild and are killed: the next one does the rest, and little more."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from tests.projections.support import Board, boards_of
from tests.support.process_writer import store_at

from esazure.events import CommitRecord
from esazure.rebuild import CHECKPOINT_STREAMS
from esazure.store import Store

_ROOT = Path(__file__).parents[2]


async def fill(store: Store, streams: int, events: int) -> None:
    """Each stream in one commit; ten of them feed a board."""

    async def one(number: int) -> None:
        payload = "\n".join([f'Put {{"boards":["b{number // 10}"]}}'] * events)
        stream = f"Thing.s{number:05}"
        await store.insert(
            CommitRecord(stream, uuid4().hex, 1, events, "2026-01-02T03:04:05+00:00", "{}", payload), outbox=False
        )

    for start in range(0, streams, 16):
        await asyncio.gather(*(one(number) for number in range(start, min(start + 16, streams))))


@asynccontextmanager
async def rebuilder(kind: str, where: str, concurrency: int, **environment: str) -> AsyncIterator[Process]:
    """A process at work; dead at the end."""
    process = await create_subprocess_exec(
        *(sys.executable, "-m", "tests.projections.rebuilder", kind, where, str(concurrency)),
        stdout=PIPE,
        stderr=PIPE,
        cwd=_ROOT,
        env={**os.environ, **environment},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def killed_after(process: Process, streams: int) -> tuple[list[str], str]:
    """What it had done when it was killed, and what it showed."""
    assert process.stdout is not None
    assert process.stderr is not None
    done = [await process.stdout.readline() for _ in range(streams)]
    process.kill()
    rest, shown = await asyncio.gather(process.stdout.read(), process.stderr.read())
    return [line.decode() for line in [*(line.strip() for line in done), *rest.split()]], shown.decode()


async def assert_a_kill_costs_little(
    kind: str, where: str, *, streams: int, events: int, concurrency: int, store: Store, **environment: str
) -> str:
    """Kill it midway, run it again; what the two showed."""
    async with rebuilder(kind, where, concurrency, **environment) as process:
        first, first_shown = await killed_after(process, streams * 6 // 10)
    assert len(first) < streams, "it was too late: this run proves nothing"
    views = boards_of(store).views
    assert (await views.list()).views == (), "nobody reads half of it"

    async with rebuilder(kind, where, concurrency, **environment) as process:
        output, shown = await process.communicate()
        assert process.returncode == 0, shown.decode()
    *second, report = output.decode().splitlines()
    assert "resumed=True" in report
    assert f"streams={len(second)}," in report
    again = set(first) & set(second)
    assert len(set(first) | set(second)) == streams
    assert len(second) == streams - len(first) + len(again), "what was done already, once more and not twice"
    assert len(again) <= concurrency * CHECKPOINT_STREAMS

    await asyncio.sleep(1.1)  # until everybody notices
    for number in range(streams // 10):
        ten = {f"Thing.s{each:05}": list(range(1, events + 1)) for each in range(number * 10, number * 10 + 10)}
        assert await views.get(f"b{number}") == Board(seen=ten)
    return first_shown + shown.decode()


def rates(shown: str) -> Sequence[str]:
    """The lines of progress."""
    line = r"^rebuild: \d+ of \d+ partitions, [\d,]+ streams, [\d,]+ events, [\d,]+ events/s$"
    return re.findall(line, shown, re.MULTILINE)


@pytest.mark.long
async def test_killed_on_a_file_it_goes_on_and_does_not_start_over(tmp_path: Path) -> None:
    path = str(tmp_path / "one.db")
    async with store_at("sqlite", path) as store:
        await fill(store, 200, 3)
        shown = await assert_a_kill_costs_little("sqlite", path, streams=200, events=3, concurrency=1, store=store)
    assert len(rates(shown)) >= 2
    assert rates(shown)[-1].startswith("rebuild: 1 of 1 partitions, ")


@pytest.mark.long
@pytest.mark.azurite
@pytest.mark.timeout(600)
async def test_killed_in_the_middle_of_20_000_events_on_a_table(tables: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESAZURE_TABLES", tables)
    table = f"t{uuid4().hex}"
    async with store_at("tables", table) as store:
        await fill(store, 1_000, 20)
        shown = await assert_a_kill_costs_little(
            "tables", table, streams=1_000, events=20, concurrency=2, store=store, ESAZURE_TABLES=tables
        )
    assert len(rates(shown)) >= 2
    assert rates(shown)[-1].startswith("rebuild: 2 of 2 partitions, ")
