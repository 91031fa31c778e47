"""Loads of whole streams by pages: every commit once, in few requests, and never many rows at a time."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.fake_tables import FakeGateway, FakeTable

from esazure.errors import CorruptStreamError
from esazure.events import CommitRecord
from esazure.tables.columns import StoredRow
from esazure.tables.gateway import PAGE
from esazure.tables.loading import load_commits
from esazure.tables.rows import commit_key, commit_rows, commits_range
from esazure.testing._counter import commit_of

STREAM = "Counter.a"
TEMPLATE = commit_rows(commit_of(STREAM, 1, "x"), "00")[0]


class LongStream(FakeGateway):
    """Commits of these lengths, whose rows are made when somebody asks for them."""

    def __init__(self, lengths: Sequence[int], *, removed: frozenset[int] = frozenset(), parts: int = 0) -> None:
        super().__init__(FakeTable())
        self.parts = parts
        firsts = [1, *(1 + end for end in accumulate(lengths))][:-1]
        kept = [each for each in zip(firsts, lengths, strict=True) if each[0] not in removed]
        self.firsts = [first for first, _ in kept]
        self.counts = dict(kept)
        self.rows: list[int] = []
        """How many each request brought."""

    def found(self, low: str, high: str) -> range:
        """The places of the commits in a range of keys."""
        to = 9_999_999_999 - int(low[-10:]) if re.search(r"\d{10}$", low) else 9_999_999_999
        since = 9_999_999_999 - int(high.removesuffix(".9")[-10:])
        return range(bisect_left(self.firsts, since), bisect_right(self.firsts, to))

    def made(self, places: Sequence[int], top: int) -> list[StoredRow]:
        """Their rows, newest first, and not more than so many."""
        made: list[StoredRow] = []
        for first in (self.firsts[place] for place in reversed(places[-top:])):
            key = commit_key(STREAM, first)
            made.append(
                {**TEMPLATE, "RowKey": key, "n": self.counts[first], **({"parts": self.parts} if self.parts else {})}
            )
            made += [{"RowKey": f"{key}.{part}"} for part in range(1, self.parts + 1)]
            if len(made) >= top:
                break
        self.rows.append(len(made[:top]))
        return made[:top]

    async def query(self, partition: str, low: str, high: str, top: int | None = None) -> list[StoredRow]:
        """In one request as far as the count of rows goes."""
        assert top is not None
        return self.made(self.found(low, high), top)

    async def pages(
        self, partitions: tuple[str, str], keys: tuple[str, str] | None = None, *, size: int = PAGE
    ) -> AsyncGenerator[Sequence[StoredRow], None]:
        """The first page alone is ever taken."""
        assert keys is not None
        yield self.made(self.found(*keys), size)


async def loaded(gateway: LongStream, to_version: int | None = None) -> list[tuple[int, int]]:
    pages: list[Sequence[CommitRecord]] = [
        page async for page in load_commits(gateway, "00", STREAM, to_version, "", PAGE)
    ]
    assert all(pages)
    return [(record.first_version, record.count) for page in pages for record in page]


LENGTHS = {
    "alike": [3] * 30_000,
    "large ones and then small ones": [1_000] * 1_000 + [1] * 60_000,
    "small ones and then large ones": [1] * 60_000 + [1_000] * 2_000,
    "small, large and small ones": [1] * 5_000 + [5_000] * 50 + [1] * 5_000,
    "a very large one in front": [700_000] + [1_000] * 1_000,
    "a very large one between": [1] * 1_500 + [700_000] + [1] * 1_500,
}


@pytest.mark.parametrize("kind", LENGTHS)
async def test_many_commits_take_few_requests_and_none_brings_many_rows(kind: str) -> None:
    lengths = LENGTHS[kind]
    gateway = LongStream(lengths)
    assert await loaded(gateway) == list(gateway.counts.items())
    assert max(gateway.rows) <= 2 * PAGE
    changes = sum(before != after for before, after in pairwise(lengths))
    assert len(gateway.rows) <= len(lengths) / PAGE + 1 + 23 * changes


@pytest.mark.parametrize("parts", [1, 3, 9])
@pytest.mark.parametrize("length", [1, 3, 1_000])
async def test_commits_of_many_rows_are_asked_for_by_rows(length: int, parts: int) -> None:
    gateway = LongStream([length] * 5_000, parts=parts)
    assert await loaded(gateway) == list(gateway.counts.items())
    assert max(gateway.rows) <= 2 * PAGE
    assert sum(gateway.rows) <= 5_000 * (1 + parts) * 1.1 + 2 * PAGE
    assert len(gateway.rows) <= 5_000 * (1 + parts) / PAGE * 1.3 + 3


async def test_foreign_rows_however_many_are_a_damaged_stream() -> None:
    class Crowded(LongStream):
        async def query(self, partition: str, low: str, high: str, top: int | None = None) -> list[StoredRow]:
            """The first commit is followed by very many rows of somebody else."""
            assert top is not None
            key = commit_key(STREAM, 1)
            return [{**TEMPLATE, "RowKey": key}, *({"RowKey": f"{key}.1x{number}"} for number in range(5_000))][:top]

    with pytest.raises(CorruptStreamError, match="not written by this library"):
        await loaded(Crowded([1] * 1_500))


async def test_a_damaged_number_of_rows_is_a_damaged_stream() -> None:
    row = {**TEMPLATE, "parts": -1, "s0": "tag of this"}
    gateway = FakeGateway(FakeTable())
    await gateway.submit([("create", row)])
    with pytest.raises(CorruptStreamError, match="number of continuation rows is not possible"):
        assert [page async for page in load_commits(gateway, "00", STREAM, None, "tag", 10)] == []


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 90, 999, 1_000, 5_000]), st.integers(1, 3_000)), min_size=1, max_size=6
    ),
    st.data(),
)
async def test_any_stream_is_loaded_to_any_version(runs: list[tuple[int, int]], data: st.DataObject) -> None:
    gateway = LongStream([length for length, times in runs for _ in range(times)])
    to_version = data.draw(st.none() | st.integers(1, sum(length * times for length, times in runs) + 5))
    expected = [each for each in gateway.counts.items() if to_version is None or each[0] <= to_version]
    assert await loaded(gateway, to_version) == expected
    assert max(gateway.rows) <= 2 * PAGE
    assert len(gateway.rows) <= len(expected) / PAGE + 1 + 23 * len(runs)


@pytest.mark.parametrize("removed", [1, 1_500, 2_999])
async def test_where_a_commit_was_removed_a_gap_is_left(removed: int) -> None:
    gateway = LongStream([1] * 5_000, removed=frozenset({removed}))
    assert await loaded(gateway) == list(gateway.counts.items())


async def test_where_very_many_were_removed_the_newest_still_come() -> None:
    gateway = LongStream([1] * 9_000, removed=frozenset(range(1_000, 7_500)))
    found = await loaded(gateway)
    assert found[-PAGE:] == list(gateway.counts.items())[-PAGE:]
    assert len(found) < 9_000 - 6_500 + 1


async def test_a_commit_of_many_rows_comes_with_its_snapshot() -> None:
    record = commit_of(STREAM, 1, "x")
    record.payload = "Noted " + "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(700_000))
    record.snapshot = "tag of this"
    gateway = FakeGateway(FakeTable())
    rows = commit_rows(record, "00")
    assert len(rows) > 1
    await gateway.submit([("create", row) for row in rows])
    pages: list[Any] = [page async for page in load_commits(gateway, "00", STREAM, None, "tag", 10)]
    assert pages == [[record]]


def test_the_ranges_a_load_asks_for_are_as_the_stream_here_reads_them() -> None:
    gateway = LongStream([2, 3, 1])
    assert list(gateway.found(*commits_range(STREAM))) == [0, 1, 2]
    assert list(gateway.found(*commits_range(STREAM, from_version=2, to_version=5))) == [1]
