"""Two processes on one store, killed again and again in the middle of anything: what they were told stays true."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.support.file_broker import FileProducer, received_in
from tests.support.history import ACKNOWLEDGED, Operation, StoredCommit, report, violations
from tests.support.process_writer import store_at
from tests.support.stress import sweep_until_quiet

pytestmark = pytest.mark.long

KILLS = 7
"""Of each of the two, times `--soak`."""

_ROOT = Path(__file__).parents[2]
_STREAMS = [f"Counter.shared-{number}" for number in range(3)]


class Writers:
    """The forking process, and what its children said."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.history: dict[str, Operation] = {}
        self.pids: dict[str, int] = {}
        self._said = asyncio.Condition()

    async def start(self, who: str) -> None:
        """One more, at work."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{who}\n".encode())
        async with self._said, asyncio.timeout(60):
            await self._said.wait_for(lambda: any(f"{who}." in marker for marker in self.history))

    def kill(self, who: str) -> None:
        """In the middle of anything."""
        os.kill(self.pids[who], signal.SIGKILL)

    async def listen(self) -> None:
        """Until they are all gone."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            if "started" in said:
                self.pids[said["started"]] = said["pid"]
            elif "outcome" in said:
                operation = self.history[said["marker"]]
                operation.outcome, operation.ended = said["outcome"], said["ended"]
            else:
                self.history[said["marker"]] = Operation(**said)
            async with self._said:
                self._said.notify_all()


@asynccontextmanager
async def writers_on(kind: str, where: str, broker: Path, tables: str = "") -> AsyncIterator[Writers]:
    """Ready to start some; those still alive in the end are killed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.process_writer", kind, where, str(broker)),
        stdin=PIPE,
        stdout=PIPE,
        cwd=_ROOT,
        env={**os.environ, "ESAZURE_TABLES": tables},
    )
    writers = Writers(process)
    listening = asyncio.create_task(writers.listen())
    try:
        yield writers
    finally:
        for who in writers.pids:
            with suppress(ProcessLookupError):
                writers.kill(who)
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        await listening


async def assert_killed_writers_keep_their_promises(
    kind: str, where: str, broker: Path, kills: int, tables: str = ""
) -> None:
    async with writers_on(kind, where, broker, tables) as writers:
        alive = ["a0", "b0"]
        for who in alive:
            await writers.start(who)
        for round_ in range(1, kills + 1):
            for number, letter in enumerate("ab"):
                await asyncio.sleep(random.uniform(0.05, 0.4))  # noqa: S311 - not a secret
                writers.kill(alive[number])
                alive[number] = f"{letter}{round_}"
                await writers.start(alive[number])
    history = list(writers.history.values())
    producer = FileProducer(broker)
    async with store_at(kind, where) as store:
        await sweep_until_quiet(store, producer, interval=0.1, grace=0.0, lease=1.0)
        records = [record for stream in _STREAMS for record in await store.read(stream)]
        swept = [await store.sweep(partition) for partition in store.partitions]
    producer.close()
    commits = [
        StoredCommit(
            record.stream,
            record.first_version,
            record.count,
            [json.loads(line.partition(" ")[2])["text"] for line in record.payload.split("\n")],
        )
        for record in records
    ]
    waiting = [(row.stream, row.first_version) for each in swept for row in each.rows]
    messages = received_in(broker)
    found = violations(history, commits, waiting, messages)
    assert not found, report(kind, found, history, messages)
    assert sum(operation.outcome == ACKNOWLEDGED for operation in history) > kills


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    soak: int = request.config.getoption("--soak", 1)
    return KILLS * soak


async def test_killed_on_a_file_nothing_is_lost_or_doubled(tmp_path: Path, kills: int) -> None:
    path = str(tmp_path / "one.db")
    await assert_killed_writers_keep_their_promises("sqlite", path, tmp_path / "broker", kills)


@pytest.mark.azurite
async def test_killed_on_a_table_nothing_is_lost_or_doubled(
    tables: str, tmp_path: Path, kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESAZURE_TABLES", tables)
    table = f"t{uuid4().hex}"
    await assert_killed_writers_keep_their_promises("tables", table, tmp_path / "broker", kills, tables)
