"""What every `ICommitStore` promises about loading whole streams, and the snapshots that make it short."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel

from esazure.events import CommitRecord
from esazure.keys import MAX_SNAPSHOT_CHARACTERS
from esazure.repository import CommitStore
from esazure.snapshots import Snapshotted
from esazure.testing._binding import StoreBinding
from esazure.testing._counter import Counter, CounterEvent, commit_of, fresh_id


class Total(BaseModel):
    """The whole state of a `Tally`."""

    total: int
    notes: list[str]


class Tally(Counter, Snapshotted[Total]):
    """A counter with snapshots. It counts what it was given to apply."""

    snapshot_every = 4

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.applied = 0

    def when(self, event: CounterEvent) -> None:
        """Apply it."""
        super().when(event)
        self.applied += 1

    def snapshot(self) -> Total:
        """Total and notes."""
        return Total(total=self.total, notes=self.notes)

    def restore(self, state: Total) -> None:
        """Set them."""
        self.total, self.notes = state.total, state.notes


@pytest.mark.asyncio
class LoadPromises(StoreBinding):
    """A load gives what a read gives, by pages; a snapshot makes it begin later, and changes nothing else."""

    async def test_a_load_gives_the_commits_a_read_gives(self, store: CommitStore, stream: str) -> None:
        counts = (1, 3, 1, 2, 12, 1)
        commits = [commit_of(stream, 1 + sum(counts[:at]), *["x"] * count) for at, count in enumerate(counts)]
        await self.fill(store, commits)
        assert await _loaded(store.load(stream)) == commits
        for to_version in range(1, 23):
            expected = [commit for commit in commits if commit.first_version <= to_version]
            assert await _loaded(store.load(stream, to_version=to_version)) == expected

    async def test_an_unknown_stream_has_no_pages(self, store: CommitStore, stream: str) -> None:
        assert await _loaded(store.load(stream)) == []
        assert await _loaded(store.load(stream, to_version=5, tag="tag", within=5)) == []

    async def test_a_stream_of_three_thousand_commits_is_loaded_whole_and_in_order(
        self, store: CommitStore, stream: str
    ) -> None:
        commits = [commit_of(stream, version, str(version)) for version in range(1, 3_001)]
        await self.fill(store, commits)
        assert await _loaded(store.load(stream)) == commits
        assert await _loaded(store.load(stream, tag="tag", within=10)) == commits
        for to_version in (999, 1_000, 1_001, 2_500):
            assert await _loaded(store.load(stream, to_version=to_version)) == commits[:to_version]

    async def test_a_load_that_is_given_up_harms_nothing(self, store: CommitStore, stream: str) -> None:
        await self.fill(store, [commit_of(stream, version, "x") for version in range(1, 1_102)])
        async with aclosing(store.load(stream)) as pages:
            async for page in pages:
                assert page[0].first_version == 1
                break
        await store.insert(commit_of(stream, 1_102, "last"), outbox=False)
        assert len(await _loaded(store.load(stream))) == 1_102

    async def test_a_load_begins_with_the_newest_snapshot(self, store: CommitStore, stream: str) -> None:
        commits = _commits(stream, {2: "ab one", 4: "ab two", 7: "other three", 8: "abc four"})
        await self.fill(store, commits)
        assert await _loaded(store.load(stream)) == commits
        assert await _loaded(store.load(stream, tag="ab", within=5)) == commits[3:]
        assert await _loaded(store.load(stream, tag="other", within=5)) == commits[6:]
        assert await _loaded(store.load(stream, tag="b", within=8)) == commits
        assert await _loaded(store.load(stream, tag="a%", within=8)) == commits

    async def test_a_snapshot_is_looked_for_among_the_newest(self, store: CommitStore, stream: str) -> None:
        commits = _commits(stream, {3: "tag x"})
        await self.fill(store, commits)
        for within in range(1, 10):
            found = await _loaded(store.load(stream, tag="tag", within=within))
            # Further back it may be found, too.
            assert found == commits[2:] or (found == commits and within < 6)

    async def test_a_load_to_a_version_takes_no_later_snapshot(self, store: CommitStore, stream: str) -> None:
        commits = [
            commit_of(stream, 1, "x"),
            replace(commit_of(stream, 2, "x", "x"), snapshot="tag 3"),
            replace(commit_of(stream, 4, "x", "x", "x"), snapshot="tag 6"),
            commit_of(stream, 7, "x"),
        ]
        await self.fill(store, commits)
        for to_version, first, last in ((1, 0, 1), (2, 0, 2), (3, 1, 2), (4, 1, 3), (5, 1, 3), (6, 2, 3), (7, 2, 4)):
            found = await _loaded(store.load(stream, to_version=to_version, tag="tag", within=10))
            assert found == commits[first:last]

    @pytest.mark.parametrize("character", ["x", "\xe9", "\u20ac", "\U0001f600", "\x00"])
    async def test_a_snapshot_of_any_text_is_stored_as_it_is(
        self, store: CommitStore, stream: str, character: str
    ) -> None:
        text = "x"  # beside a payload as large as it may be
        payload = f'Noted {{"text":"{text * (MAX_SNAPSHOT_CHARACTERS - 20)}"}}'
        snapshot = f"tag {'digest ':0>17}{character * MAX_SNAPSHOT_CHARACTERS}"
        commit = replace(commit_of(stream, 1, "x"), payload=payload, snapshot=snapshot)
        await store.insert(commit, outbox=True)
        assert await _loaded(store.load(stream, tag="tag", within=1)) == [commit]

    async def test_with_snapshots_every_version_is_loaded_as_without(self, store: CommitStore) -> None:
        tallies = store.events(Tally)
        tally = Tally(fresh_id())
        counts = (1, 3, 2, 5, 1, 1, 1, 1, 9, 1)
        for number, count in enumerate(counts):
            tally.increment(number)
            tally.note(*[f"{number} {each}" for each in range(count - 1)])
            await tallies.append(tally)
        for version in range(1, sum(counts) + 1):
            found = await tallies.rehydrate(tally.id, version=version)
            plain = await store.events(_Plain).rehydrate(tally.id, version=version)
            assert (found.version, found.total, found.notes) == (version, plain.total, plain.notes)
        newest = await tallies.rehydrate(tally.id)
        assert (newest.version, newest.total, newest.notes) == (tally.version, tally.total, tally.notes)
        assert newest.applied == 1, "the snapshot of the ninth commit, and the tenth"
        newest.increment()
        await tallies.append(newest)
        assert (await tallies.rehydrate(tally.id)).total == tally.total + 1

    @pytest.mark.parametrize(
        "damage",
        [
            lambda good: good.replace('"total":6', '"total":7'),
            lambda good: good[:-1],
            lambda good: good.partition(" ")[0] + " ",
            lambda good: good.partition(" ")[0] + " 0123456789abcdef {}",
            lambda good: "0123456789abcdef" + good[16:],
            lambda _: "",
            lambda _: "payload-marker",
        ],
    )
    async def test_a_damaged_snapshot_is_passed_over(self, store: CommitStore, damage: Any) -> None:
        tallies = store.events(Tally)
        tally = Tally(fresh_id())
        for by in (1, 2, 3):
            tally.increment(by)
        tally.note("a")
        commit = await tallies.append(tally)
        assert commit is not None
        assert commit.record.snapshot is not None
        await self.overwrite(store, replace(commit.record, snapshot=damage(commit.record.snapshot)))
        found = await tallies.rehydrate(tally.id)
        assert (found.version, found.total, found.notes, found.applied) == (4, 6, ["a"], 4)

    async def test_a_snapshot_of_another_stream_or_version_is_passed_over(self, store: CommitStore) -> None:
        tallies = store.events(Tally)
        ada, grace = Tally(fresh_id()), Tally(fresh_id())
        records: list[CommitRecord] = []
        for tally, by in ((ada, 1), (grace, 10), (ada, 2)):
            for _ in range(4):
                tally.increment(by)
            commit = await tallies.append(tally)
            assert commit is not None
            records.append(commit.record)
        first, of_grace, second = records
        for wrong in (first.snapshot, of_grace.snapshot):
            await self.overwrite(store, replace(second, snapshot=wrong))
            found = await tallies.rehydrate(ada.id)
            assert (found.version, found.total) == (8, 12)


class _Plain(Counter):
    """`Tally` in a version of the program without snapshots."""

    __module__, __qualname__ = Tally.__module__, Tally.__qualname__
    aggregate_type = Tally.aggregate_type


def _commits(stream: str, snapshots: dict[int, str]) -> Sequence[CommitRecord]:
    """Eight of one event."""
    return [
        replace(commit_of(stream, version, str(version)), snapshot=snapshots.get(version)) for version in range(1, 9)
    ]


async def _loaded(pages: AsyncGenerator[Sequence[CommitRecord], None]) -> list[CommitRecord]:
    found: list[CommitRecord] = []
    async with aclosing(pages):
        async for page in pages:
            assert page, "no page is empty"
            found += page
    return found
