"""What every `IOutboxStore` promises a relay: all that waits, its age, leases with one winner, and a place apart."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pytest

from esazure.events import CommitRecord
from esazure.keys import stream_name
from esazure.ports import IOutboxStore, Lease, OutboxRow
from esazure.testing._binding import StoreBinding
from esazure.testing._counter import commit_of, fresh_id

_GROWS_WITHIN = 5.0


@pytest.mark.asyncio
class RelayPromises(StoreBinding):
    """Uses the fixture `store`; a `CommitStore` that no relay can work on is left out."""

    @pytest.fixture
    def waiting(self, store: Any) -> IOutboxStore:
        """The store, as relays see it."""
        if not hasattr(store, "sweep"):
            pytest.skip("this store is not an IOutboxStore")
        outbox_store: IOutboxStore = store
        return outbox_store

    @pytest.fixture
    def mine(self) -> list[str]:
        """Streams nobody has used, whose names begin alike."""
        beginning = fresh_id()
        return [stream_name("Counter", beginning + end) for end in ("", "-", "0", "a", "/", "_")]

    async def test_partitions_have_names_of_their_own_that_stay(self, waiting: IOutboxStore) -> None:
        names = list(waiting.partitions)
        assert names
        assert len(set(names)) == len(names)
        assert list(waiting.partitions) == names

    async def test_a_sweep_finds_every_waiting_commit_by_stream_and_in_version_order(
        self, waiting: IOutboxStore, mine: list[str]
    ) -> None:
        for version in range(1, 13):  # in turn, so that the order of storing is another one
            for stream in mine:
                await waiting.insert(commit_of(stream, version, str(version)), outbox=True)

        rows = await rows_of(waiting, mine)

        grouped = [(stream, [row.first_version for row in found]) for stream, found in groupby(rows, _stream)]
        assert sorted(grouped) == sorted((stream, list(range(1, 13))) for stream in mine)

    async def test_a_sweep_names_the_first_version_of_each_commit(self, waiting: IOutboxStore, mine: list[str]) -> None:
        for commit in (commit_of(mine[0], 1, "a", "b", "c"), commit_of(mine[0], 4, "d")):
            await waiting.insert(commit, outbox=True)
        assert [row.first_version for row in await rows_of(waiting, mine)] == [1, 4]

    async def test_all_commits_of_a_stream_wait_in_one_partition(self, waiting: IOutboxStore, mine: list[str]) -> None:
        for version in (1, 2, 3):
            await waiting.insert(commit_of(mine[0], version, "a"), outbox=True)
        found = [
            len([row for row in (await waiting.sweep(partition)).rows if row.stream == mine[0]])
            for partition in waiting.partitions
        ]
        assert sorted(found, reverse=True)[:2] in ([3], [3, 0])

    async def test_a_commit_without_outbox_does_not_wait(self, waiting: IOutboxStore, mine: list[str]) -> None:
        await waiting.insert(commit_of(mine[0], 1, "a"), outbox=False)
        assert await rows_of(waiting, mine) == []

    async def test_a_commit_stored_again_waits_once(self, waiting: IOutboxStore, mine: list[str]) -> None:
        commit = commit_of(mine[0], 1, "a")
        for _ in range(2):
            await waiting.insert(commit, outbox=True)
        assert len(await rows_of(waiting, mine)) == 1

    async def test_ages_are_not_negative_and_grow(self, waiting: IOutboxStore, mine: list[str]) -> None:
        await waiting.insert(commit_of(mine[0], 1, "a"), outbox=True)
        (before,) = await rows_of(waiting, mine)
        assert 0 <= before.age < 2 * _GROWS_WITHIN
        async with asyncio.timeout(_GROWS_WITHIN):
            while (await rows_of(waiting, mine))[0].age <= before.age:  # noqa: ASYNC110 - time is no event
                await asyncio.sleep(0.05)

    async def test_a_fresh_row_is_never_younger_than_nothing(self, waiting: IOutboxStore, mine: list[str]) -> None:
        # Again and again, because a clock that shows whole seconds is right now and then.
        for version in range(1, 8):
            await waiting.insert(commit_of(mine[0], version, "a"), outbox=True)
            assert all(row.age >= 0 for row in await rows_of(waiting, mine))
            await asyncio.sleep(0.15)

    async def test_a_sweep_is_bounded_and_goes_on_where_it_is_told(
        self, waiting: IOutboxStore, mine: list[str]
    ) -> None:
        stream = mine[0]
        await fill(waiting, [commit_of(stream, version, "a") for version in range(1, 9)])
        for other in mine[1:]:
            await waiting.insert(commit_of(other, 1, "a"), outbox=True)
        found: list[tuple[str, int]] = []
        for partition in waiting.partitions:
            swept = await waiting.sweep(partition, limit=3)
            while True:
                assert len(swept.rows) <= 3
                found += [(row.stream, row.first_version) for row in swept.rows if row.stream in mine]
                if not swept.more:
                    break
                last = swept.rows[-1]
                swept = await waiting.sweep(partition, after=(last.stream, last.first_version), limit=3)
        assert len(found) == len(set(found)), "no row twice"
        assert {version for name, version in found if name == stream} == set(range(1, 9))
        assert {name for name, _ in found} == set(mine)

    async def test_a_sweep_goes_on_behind_a_whole_class(self, waiting: IOutboxStore, mine: list[str]) -> None:
        for stream in mine:
            await waiting.insert(commit_of(stream, 1, "a"), outbox=True)
        for partition in waiting.partitions:
            rows = (await waiting.sweep(partition, after=("Counter/", 0))).rows
            assert not [row for row in rows if row.stream.startswith("Counter.")]

    async def test_of_two_commits_the_older_waits_longer(self, waiting: IOutboxStore, mine: list[str]) -> None:
        await waiting.insert(commit_of(mine[0], 1, "a"), outbox=True)
        await asyncio.sleep(0.05)
        await waiting.insert(commit_of(mine[0], 2, "b"), outbox=True)
        older, younger = await rows_of(waiting, mine)
        assert older.age > younger.age

    async def test_with_a_limit_the_oldest_of_what_waits_are_read(self, waiting: IOutboxStore, mine: list[str]) -> None:
        commits = [commit_of(mine[0], version, str(version)) for version in range(1, 13)]
        await fill(waiting, commits)
        await waiting.mark_published(commits[1])
        waits = [commits[0], *commits[2:]]
        for limit in (1, 3, 11, 40):
            assert list(await waiting.unpublished(mine[0], before_version=99, limit=limit)) == waits[:limit]
        assert list(await waiting.unpublished(mine[0], before_version=4, limit=9)) == waits[:2]
        assert list(await waiting.unpublished(mine[0], before_version=99)) == waits

    async def test_what_was_published_does_not_wait_and_the_first_to_say_so_is_told(
        self, waiting: IOutboxStore, mine: list[str]
    ) -> None:
        first, second = commit_of(mine[0], 1, "a"), commit_of(mine[0], 2, "b")
        await fill(waiting, [first, second])

        assert await waiting.mark_published(first) is True
        assert await waiting.mark_published(first) is False

        assert [row.first_version for row in await rows_of(waiting, mine)] == [2]

    async def test_of_many_who_published_a_commit_one_is_the_first(
        self, waiting: IOutboxStore, mine: list[str]
    ) -> None:
        commit = commit_of(mine[0], 1, "a")
        await waiting.insert(commit, outbox=True)
        told = await asyncio.gather(*[waiting.mark_published(commit) for _ in range(8)])
        assert sorted(told) == [False] * 7 + [True]

    async def test_a_commit_that_never_waited_cannot_be_marked(self, waiting: IOutboxStore, mine: list[str]) -> None:
        commit = commit_of(mine[0], 1, "a")
        await waiting.insert(commit, outbox=False)
        assert await waiting.mark_published(commit) is False

    async def test_what_was_set_aside_does_not_wait_and_stays_in_its_stream(
        self, waiting: IOutboxStore, mine: list[str]
    ) -> None:
        commits = [commit_of(mine[0], version, str(version)) for version in (1, 2, 3)]
        await fill(waiting, commits)

        await waiting.set_aside(commits[1], "too large")
        await waiting.set_aside(commits[1], "too large, said twice")

        assert [row.first_version for row in await rows_of(waiting, mine)] == [1, 3]
        assert list(await waiting.unpublished(mine[0], before_version=9)) == [commits[0], commits[2]]
        assert list(await waiting.read(mine[0])) == commits
        assert await waiting.mark_published(commits[1]) is False

    async def test_inserting_what_was_set_aside_again_does_not_bring_it_back(
        self, waiting: IOutboxStore, mine: list[str]
    ) -> None:
        commit = commit_of(mine[0], 1, "a")
        await waiting.insert(commit, outbox=True)
        await waiting.set_aside(commit, "too large")
        await waiting.insert(commit, outbox=True)
        assert await rows_of(waiting, mine) == []

    async def test_a_long_reason_is_no_reason_to_fail(self, waiting: IOutboxStore, mine: list[str]) -> None:
        commit = commit_of(mine[0], 1, "a")
        await waiting.insert(commit, outbox=True)
        await waiting.set_aside(commit, "\U0001f600" * 50_000)
        assert await rows_of(waiting, mine) == []

    async def test_a_lease_is_seen_as_it_was_written(self, waiting: IOutboxStore) -> None:
        partition = waiting.partitions[-1]
        lease = await write(waiting, partition, await lease_of(waiting, partition), "ada", 7)
        assert (lease.owner, lease.epoch) == ("ada", 7)
        assert await lease_of(waiting, partition) == lease

    async def test_a_lease_can_be_given_up(self, waiting: IOutboxStore) -> None:
        partition = waiting.partitions[0]
        taken = await write(waiting, partition, await lease_of(waiting, partition), "ada", 1)
        given_up = await write(waiting, partition, taken, "", 1)
        assert await lease_of(waiting, partition) == given_up
        await write(waiting, partition, given_up, "bob", 2)

    async def test_each_write_of_a_lease_has_another_tag(self, waiting: IOutboxStore) -> None:
        partition = waiting.partitions[0]
        leases = [await write(waiting, partition, await lease_of(waiting, partition), "ada", 1)]
        for _ in range(4):  # the same words each time
            leases.append(await write(waiting, partition, leases[-1], "ada", 1))
        assert len({lease.tag for lease in leases}) == len(leases)

    async def test_who_decides_on_an_outdated_lease_does_not_get_it(self, waiting: IOutboxStore) -> None:
        partition = waiting.partitions[0]
        old = await write(waiting, partition, await lease_of(waiting, partition), "ada", 1)
        new = await write(waiting, partition, old, "bob", 2)

        assert await waiting.write_lease(partition, old, owner="eve", epoch=2) is None
        assert await waiting.write_lease(partition, None, owner="eve", epoch=1) is None

        assert await lease_of(waiting, partition) == new

    async def test_a_lease_that_is_not_there_can_be_seen_as_none_once(self, waiting: IOutboxStore) -> None:
        partition = waiting.partitions[0]
        if await lease_of(waiting, partition) is not None:
            pytest.skip("somebody else has used this store")
        assert await waiting.write_lease(partition, None, owner="ada", epoch=1) is not None
        assert await waiting.write_lease(partition, None, owner="bob", epoch=1) is None

    async def test_of_eight_who_take_a_lease_at_once_one_gets_it_at_every_epoch(self, waiting: IOutboxStore) -> None:
        partition = waiting.partitions[0]
        seen = await lease_of(waiting, partition)
        for epoch in range(1, 6):
            taken = await asyncio.gather(
                *[waiting.write_lease(partition, seen, owner=f"relay {one}", epoch=epoch) for one in range(8)]
            )
            winners = [lease for lease in taken if lease is not None]
            assert len(winners) == 1
            seen = winners[0]
            assert await lease_of(waiting, partition) == seen

    async def test_a_lease_is_no_commit_and_harms_none(self, waiting: IOutboxStore, mine: list[str]) -> None:
        commit = commit_of(mine[0], 1, "a")
        await waiting.insert(commit, outbox=True)
        for partition in waiting.partitions:
            await write(waiting, partition, await lease_of(waiting, partition), "ada", 1)
        assert len(await rows_of(waiting, mine)) == 1
        assert list(await waiting.read(mine[0])) == [commit]

    async def test_leases_of_two_partitions_are_two(self, waiting: IOutboxStore) -> None:
        if len(waiting.partitions) == 1:
            return
        one, other = waiting.partitions[:2]
        before = await lease_of(waiting, other)
        await write(waiting, one, await lease_of(waiting, one), "ada", 1)
        assert await lease_of(waiting, other) == before

    async def test_whoever_opens_the_store_sees_what_waits_what_was_set_aside_and_the_lease(
        self, waiting: IOutboxStore, mine: list[str]
    ) -> None:
        commits = [commit_of(mine[0], version, str(version)) for version in (1, 2, 3)]
        await fill(waiting, commits)
        await waiting.mark_published(commits[0])
        await waiting.set_aside(commits[1], "too large")
        partition = waiting.partitions[0]
        lease = await write(waiting, partition, await lease_of(waiting, partition), "ada", 3)

        async with self.another(waiting) as again:
            assert [row.first_version for row in await rows_of(again, mine)] == [3]
            assert await lease_of(again, partition) == lease
            assert await again.write_lease(partition, lease, owner="bob", epoch=4) is not None
        assert await waiting.write_lease(partition, lease, owner="ada", epoch=3) is None


async def rows_of(store: IOutboxStore, streams: Sequence[str]) -> list[OutboxRow]:
    """What waits of these streams, in any partition, as swept."""
    found: list[OutboxRow] = []
    for partition in store.partitions:
        swept = await store.sweep(partition)
        found += swept.rows
        while swept.more:
            swept = await store.sweep(partition, after=(swept.rows[-1].stream, swept.rows[-1].first_version))
            found += swept.rows
    return [row for row in found if row.stream in streams]


async def fill(store: IOutboxStore, commits: Sequence[CommitRecord]) -> None:
    """Store them, each with its outbox row."""
    for commit in commits:
        await store.insert(commit, outbox=True)


async def lease_of(store: IOutboxStore, partition: str) -> Lease | None:
    """The lease that is there."""
    return (await store.sweep(partition)).lease


async def write(store: IOutboxStore, partition: str, seen: Lease | None, owner: str, epoch: int) -> Lease:
    """Write a lease that nobody else touches."""
    lease = await store.write_lease(partition, seen, owner=owner, epoch=epoch)
    assert lease is not None
    return lease


def _stream(row: OutboxRow) -> str:
    return row.stream
