"""Many writers on one stream, many relays on one lease: each gets a place of its own, or is told that it did not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import uniform
from uuid import uuid4

import pytest
from tests.support.fake_tables import FakeTable, fake_store
from tests.support.history import ACKNOWLEDGED, CONFLICTED, Operation, StoredCommit, report, violations

from esazure import AggregateNotFoundError, ConcurrencyError
from esazure.aggregate import stream_of
from esazure.memory import InMemoryStore
from esazure.ports import IOutboxStore, Lease
from esazure.repository import CommitStore
from esazure.sqlite import SqliteStore
from esazure.tables import TableStore
from esazure.testing.conformance import Counter

pytestmark = pytest.mark.long

CROWDS = [(2, 1_000), (8, 700), (32, 300)]
"""Writers, and how many appends they have to get acknowledged between them."""
CROWDS_ON_AZURITE = [(2, 40), (8, 40), (32, 20)]
STREAM_COMMITS = 50
"""Then all move on to the next stream: a load reads all of it, and is not what is tested here."""


@dataclass
class Race:
    """Writers that load and append to one stream, again and again, until enough was acknowledged in all."""

    stores: Sequence[CommitStore]
    appends: int
    run_id: str = field(default_factory=lambda: uuid4().hex)
    history: list[Operation] = field(default_factory=list)
    acknowledged: int = 0

    async def run(self, writers: int) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(writers):
                group.create_task(self._write(self.stores[number % len(self.stores)], f"writer {number}"))

    async def _write(self, store: CommitStore, who: str) -> None:
        repository = store.events(Counter, outbox=True)
        while self.acknowledged < self.appends:
            name = f"{self.run_id}-{self.acknowledged // STREAM_COMMITS}"
            try:
                counter = await repository.rehydrate(name)
            except AggregateNotFoundError:
                counter = Counter(name)
            # Between the load and the append the others have their turn, on backends that never wait, too.
            await asyncio.sleep(0)
            count = len(self.history) % 3 + 1
            operation = Operation(f"m{len(self.history)}", stream_of(counter), counter.version, count, who)
            counter.note(*operation.texts())
            self.history.append(operation)
            try:
                await repository.append(counter)
            except ConcurrencyError:
                operation.end(CONFLICTED)
                await asyncio.sleep(uniform(0, 0.01))  # noqa: S311 - not a secret
            else:
                operation.end(ACKNOWLEDGED)
                self.acknowledged += 1

    async def assert_fair(self) -> None:
        """Everybody who was told so has a place of its own, in the order of events; everybody else has none."""
        outbox = self.stores[0].events(Counter).outbox
        assert outbox is not None
        commits = [
            StoredCommit(stream, commit.first_version, len(commit.recorded), [event.text for event in commit.recorded])
            for stream in dict.fromkeys(operation.stream for operation in self.history)
            for commit in await outbox.unpublished(stream, before_version=10**9)
        ]
        found = violations(self.history, commits)
        assert not found, report("contention", found, self.history)
        assert len(commits) == self.acknowledged
        assert len(self.history) > self.acknowledged, "nobody met anybody, this proves nothing"


@pytest.mark.parametrize(("writers", "appends"), CROWDS)
async def test_writers_in_memory_get_versions_of_their_own(writers: int, appends: int) -> None:
    race = Race([InMemoryStore()], appends)
    await race.run(writers)
    await race.assert_fair()


@pytest.mark.parametrize(("writers", "appends"), CROWDS)
async def test_writers_on_a_file_get_versions_of_their_own(writers: int, appends: int, tmp_path: Path) -> None:
    path = tmp_path / "one.db"
    async with SqliteStore(path, busy_timeout=30) as one, SqliteStore(path, busy_timeout=30) as other:
        race = Race([one, other], appends)
        await race.run(writers)
        await race.assert_fair()


@pytest.mark.azurite
@pytest.mark.parametrize(("writers", "appends"), CROWDS_ON_AZURITE)
async def test_writers_on_a_table_get_versions_of_their_own(writers: int, appends: int, tables: str) -> None:
    table = f"t{uuid4().hex}"
    async with (
        TableStore.from_connection_string(tables, table=table) as one,
        TableStore.from_connection_string(tables, table=table) as other,
    ):
        race = Race([one, other], appends)
        await race.run(writers)
        await race.assert_fair()


async def relays_on_one_lease(stores: list[IOutboxStore], rounds: int) -> list[list[Lease]]:
    """Each round all stores want the lease as they saw it; who got it."""
    winners = []
    for _ in range(rounds):
        partition = stores[0].partitions[0]
        seen = [(await store.sweep(partition)).lease for store in stores]
        epoch = (seen[0].epoch if seen[0] else 0) + 1
        written = await asyncio.gather(
            *(
                store.write_lease(partition, lease, owner=f"relay {number}", epoch=epoch)
                for number, (store, lease) in enumerate(zip(stores, seen, strict=True))
            )
        )
        winners.append([lease for lease in written if lease is not None])
    return winners


async def test_of_relays_that_want_one_lease_one_gets_it() -> None:
    table = FakeTable()
    stores = [fake_store(table, shards=1) for _ in range(8)]
    for store in stores:
        await store.__aenter__()
    winners = await relays_on_one_lease(list(stores), 20)
    assert [len(each) for each in winners] == [1] * 20
    assert [each[0].epoch for each in winners] == list(range(1, 21))


@pytest.mark.azurite
async def test_of_relays_that_want_one_lease_on_a_table_one_gets_it(tables: str) -> None:
    table = f"t{uuid4().hex}"
    async with (
        TableStore.from_connection_string(tables, table=table, shards=1) as one,
        TableStore.from_connection_string(tables, table=table, shards=1) as other,
    ):
        winners = await relays_on_one_lease([one, other] * 4, 5)
    assert [len(each) for each in winners] == [1] * 5
