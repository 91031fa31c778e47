"""Reads of a stream from some version on, and of all streams of a partition."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fake_tables import FakeGateway, FakeTable, fake_store
from tests.tables.test_rows import NOISE

from esazure import CorruptStreamError
from esazure.events import CommitRecord
from esazure.keys import stream_name
from esazure.memory import InMemoryStore
from esazure.tables.reading import read_commits, scan_streams
from esazure.tables.rows import commit_rows
from esazure.testing._counter import commit_of

LONG = "Noted " + NOISE[:1_500_000]


async def table_with(*commits: CommitRecord) -> FakeTable:
    table = FakeTable()
    for commit in commits:
        await FakeGateway(table).submit([("create", row) for row in commit_rows(commit, "00")])
    table.requests = 0
    return table


def stream_of_lengths(*lengths: int, stream: str = "Counter.a") -> list[CommitRecord]:
    ends = [0]
    for length in lengths:
        ends.append(ends[-1] + length)
    return [commit_of(stream, start + 1, *["x"] * (end - start)) for start, end in pairwise(ends)]


@given(
    st.lists(st.integers(1, 4), max_size=5),
    st.integers(-1, 20),
    st.none() | st.integers(0, 20),
    st.sampled_from(["", "-", "0"]),
)
async def test_any_range_holds_the_same_commits_as_in_memory(
    lengths: list[int], from_version: int, to_version: int | None, other: str
) -> None:
    commits = stream_of_lengths(*lengths)
    memory = InMemoryStore()
    for commit in commits:
        await memory.insert(commit, outbox=False)
    table = await table_with(*commits, *stream_of_lengths(9, 9, stream=f"Counter.a{other or 'b'}"))
    found = await read_commits(FakeGateway(table), "00", "Counter.a", from_version, to_version)
    assert found == await memory.read("Counter.a", from_version=from_version, to_version=to_version)


@pytest.mark.parametrize(
    ("from_version", "requests", "commits"),
    [(1, 1, 3), (2, 2, 3), (3, 1, 2), (4, 2, 2), (6, 1, 1), (7, 2, 0), (10**12, 2, 0)],
)
async def test_a_second_request_only_looks_for_where_a_commit_begins(
    from_version: int, requests: int, commits: int
) -> None:
    stored = stream_of_lengths(2, 3, 1)
    table = await table_with(*stored)
    found = await read_commits(FakeGateway(table), "00", "Counter.a", from_version, None)
    assert found == stored[3 - commits :]
    assert table.requests == requests


async def test_a_large_commit_that_begins_before_the_version_is_whole() -> None:
    first, second, third = stream_of_lengths(2, 3, 1)
    second = replace(second, payload=f"{LONG}\nNoted {{}}\nNoted {{}}")
    table = await table_with(first, second, third)
    assert await read_commits(FakeGateway(table), "00", "Counter.a", 4, None) == [second, third]
    assert table.requests == 3


async def test_a_new_stream_is_one_request() -> None:
    table = FakeTable()
    assert await read_commits(FakeGateway(table), "00", "Counter.a", 1, 5) == []
    assert table.requests == 1


class TestScan:
    """All streams of a type in one partition."""

    NAMES = ("", "a", "a-", "a-b", "a.", "aa", "A", "z", "é", "10", "9")

    async def test_every_stream_is_whole_however_the_pages_fall(self) -> None:
        expected = {
            (stream := stream_name("Counter", name)): stream_of_lengths(*[1 + number % 3] * number, stream=stream)
            for number, name in enumerate(self.NAMES, start=1)
        }
        expected["Counter.z"][2] = replace(expected["Counter.z"][2], payload=LONG, count=1)
        others = [commit_of(stream_name(other, "a"), 1, "x") for other in ("Counte", "Counter-1", "Counter0", "D")]
        table = await table_with(*others, *[commit for commits in expected.values() for commit in commits])
        for size in (1, 2, 3, 7, 1_000):

            class Small(FakeGateway):
                def pages(self, partitions: Any, keys: Any = None, *, size: int = size) -> Any:
                    return super().pages(partitions, keys, size=size)

            found = [commits async for commits in scan_streams(Small(table), "00", "Counter", None)]
            assert {commits[0].stream: commits for commits in found} == expected
            assert len(found) == len(expected)

    async def test_after_each_stream_it_goes_on_with_the_next(self) -> None:
        async with fake_store(FakeTable(), shards=1) as store:
            for name in self.NAMES:
                await store.insert(commit_of(stream_name("Counter", name), 1, "x"), outbox=True)
            everything = [commits async for commits in store.scan("00", "Counter")]
            assert len(everything) == len(self.NAMES)
            for number, commits in enumerate(everything):
                rest = [each async for each in store.scan("00", "Counter", after=commits[0].stream)]
                assert rest == everything[number + 1 :]

    async def test_after_a_stream_of_another_type_it_begins_with_the_first_or_ends(self) -> None:
        table = await table_with(*[commit_of(f"{name}.a", 1, "x") for name in ("A", "B", "C")])
        for after, found in (("A.0", 1), ("C.a", 0)):
            assert len([each async for each in scan_streams(FakeGateway(table), "00", "B", after)]) == found

    async def test_whoever_stops_early_has_asked_for_no_more(self) -> None:
        table = await table_with(*[commit_of(f"Counter.{number:04d}", 1, "x") for number in range(2_500)])
        scan = scan_streams(FakeGateway(table), "00", "Counter", None)
        assert (await anext(scan))[0].stream == "Counter.0000"
        await scan.aclose()
        assert table.requests == 1

    @pytest.mark.parametrize("key", ["e.Counter.a.note", "e.Counter.note", "e.Counter.a.9999999998.x"])
    async def test_a_foreign_row_is_an_error(self, key: str) -> None:
        table = await table_with(commit_of("Counter.a", 1, "x"))
        await FakeGateway(table).submit([("create", {"PartitionKey": "00", "RowKey": key})])
        with pytest.raises(CorruptStreamError, match="not written by this library"):
            _ = [each async for each in scan_streams(FakeGateway(table), "00", "Counter", None)]
