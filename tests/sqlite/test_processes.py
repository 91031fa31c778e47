"""Several processes on one file, and processes that die: nothing acknowledged is lost, doubled or out of order."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pytest

from esazure.events import CommitRecord
from esazure.sqlite import SqliteStore

WRITER = Path(__file__).with_name("writer.py")
STREAM = "Counter.shared"


async def start(file: Path, commits: int) -> Process:
    arguments = (str(WRITER), str(file), STREAM, str(commits))
    writer = await create_subprocess_exec(sys.executable, *arguments, stdin=PIPE, stdout=PIPE)
    assert writer.stdout is not None
    assert await writer.stdout.readline() == b"ready\n"
    return writer


def let_go(writer: Process) -> None:
    assert writer.stdin is not None
    writer.stdin.write(b"\n")


def stored_ids(output: bytes) -> list[str]:
    return [line.split()[1] for line in output.decode().splitlines() if line.startswith("stored ")]


def assert_contiguous(records: Sequence[CommitRecord]) -> None:
    assert [record.expected_version for record in records] == [0, *[record.last_version for record in records[:-1]]]


@pytest.mark.long
async def test_processes_that_append_to_one_stream_lose_and_double_nothing(tmp_path: Path) -> None:
    file = tmp_path / "shared.db"
    writers = [await start(file, 40) for _ in range(3)]  # the file does not exist yet: they also race to create it
    for writer in writers:
        let_go(writer)
    outputs = [(await writer.communicate())[0] for writer in writers]

    assert [writer.returncode for writer in writers] == [0, 0, 0]
    told = [stored_ids(output) for output in outputs]
    assert [len(ids) for ids in told] == [40, 40, 40]
    assert any(b"conflict" in output for output in outputs), "they never met: this run proves nothing"
    async with SqliteStore(file) as store:
        records = await store.read(STREAM)
        assert list(await store.unpublished(STREAM, before_version=10**9)) == records
    assert_contiguous(records)
    ids = [record.commit_id for record in records]
    assert sorted(ids) == sorted(chain.from_iterable(told))
    for mine in told:
        assert [one for one in ids if one in mine] == mine, (
            "one process's commits are in the order in which it made them"
        )


@pytest.mark.long
async def test_killed_while_appending_every_acknowledged_commit_is_there_once(tmp_path: Path) -> None:
    file = tmp_path / "killed.db"
    told: list[str] = []
    for round_ in range(5):
        writer = await start(file, 10**9)
        let_go(writer)
        assert writer.stdout is not None
        output = b"".join([await writer.stdout.readline() for _ in range(15)])
        await asyncio.sleep(round_ / 1_500)  # so that it does not always die at the same instruction
        writer.kill()
        output += await writer.stdout.read()
        await writer.wait()
        told += stored_ids(output)

        async with SqliteStore(file) as store:
            records = await store.read(STREAM)
            assert list(await store.unpublished(STREAM, before_version=10**9)) == records
        assert_contiguous(records)
        ids = [record.commit_id for record in records]
        assert len(set(ids)) == len(ids)
        assert [one for one in ids if one in told] == told
        assert len(ids) - len(told) <= round_ + 1, "at most the one commit under way was stored without being told"


async def test_a_process_that_dies_with_the_lock_blocks_nobody(tmp_path: Path) -> None:
    file = tmp_path / "lock.db"
    async with SqliteStore(file, busy_timeout=5) as store:
        holder = await create_subprocess_exec(
            sys.executable,
            "-c",
            "import sqlite3, sys, time; db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "db.execute('BEGIN IMMEDIATE'); print('locked', flush=True); time.sleep(60)",
            str(file),
            stdout=PIPE,
        )
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"locked\n"
        record = CommitRecord(STREAM, "c1", 1, 1, "2026-01-02T03:04:05+00:00", "{}", "Noted {}")
        append = asyncio.create_task(store.insert(record, outbox=True))
        await asyncio.sleep(0.1)
        assert not append.done()
        holder.kill()
        await holder.communicate()
        await append
        assert list(await store.read(STREAM)) == [record]
