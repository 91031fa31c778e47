"""What each operation costs in requests, counted on the wire between the SDK and Azurite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from tests.support import table_rows
from tests.support.table_proxy import TableProxy

from esazure import Commit, CommitTooLargeError, ConcurrencyError, EventsService
from esazure.memory import InMemoryEventProducer
from esazure.tables import TableStore
from esazure.testing.conformance import Counter

pytestmark = pytest.mark.azurite


def new_counter(events: int = 1) -> Counter:
    counter = Counter(uuid4().hex)
    for _ in range(events):
        counter.increment()
    return counter


class CountingProducer(InMemoryEventProducer):
    """Notes what had been requested of the tables when each commit was published."""

    def __init__(self, proxy: TableProxy) -> None:
        super().__init__()
        self.proxy = proxy
        self.seen_at_dispatch: list[dict[str, int]] = []

    async def dispatch(self, commit: Commit[Any]) -> None:
        self.seen_at_dispatch.append(dict(self.proxy.seen))
        await super().dispatch(commit)


@pytest.fixture
async def proxy(tables: str) -> AsyncIterator[TableProxy]:
    async with TableProxy(tables) as proxy:
        yield proxy


@pytest.fixture
async def store(proxy: TableProxy) -> AsyncIterator[TableStore]:
    async with TableStore.from_connection_string(proxy.connection_string, table=f"t{uuid4().hex}") as store:
        proxy.seen.clear()
        yield store


@pytest.mark.parametrize("events", [1, 10, 1_000])
async def test_persist_to_a_new_stream_is_one_transaction_before_the_ack(
    store: TableStore, proxy: TableProxy, events: int
) -> None:
    producer = CountingProducer(proxy)
    await EventsService(store.events(Counter), producer).persist(new_counter(events))
    assert producer.seen_at_dispatch == [{"transaction": 1}]
    assert proxy.seen == {"transaction": 2}, "the second removes the outbox row"


async def test_persist_to_an_existing_stream_adds_only_the_look_behind(store: TableStore, proxy: TableProxy) -> None:
    producer = CountingProducer(proxy)
    service = EventsService(store.events(Counter), producer)
    counter = new_counter()
    await service.persist(counter)
    proxy.seen.clear()
    counter.increment()
    await service.persist(counter)
    assert producer.seen_at_dispatch[1] == {"transaction": 1, "query": 1}
    assert proxy.seen == {"transaction": 2, "query": 1}


async def test_persist_without_a_producer_is_one_transaction(store: TableStore, proxy: TableProxy) -> None:
    service = EventsService(store.events(Counter))
    counter = new_counter()
    await service.persist(counter)
    counter.increment()
    await service.persist(counter)
    assert proxy.seen == {"transaction": 2}


async def test_a_conflict_is_one_transaction_and_its_read_back(store: TableStore, proxy: TableProxy) -> None:
    repository = store.events(Counter)
    counter = new_counter()
    await repository.append(counter)
    stale = await repository.rehydrate(counter.id)
    counter.increment()
    await repository.append(counter)
    stale.increment()
    proxy.seen.clear()
    with pytest.raises(ConcurrencyError):
        await repository.append(stale)
    assert proxy.seen == {"transaction": 1, "query": 1}


async def test_a_load_of_up_to_1000_commits_is_one_query(store: TableStore, proxy: TableProxy) -> None:
    repository = store.events(Counter)
    first = await repository.append(new_counter())
    assert first is not None
    at = [replace(first.record, first_version=version) for version in range(2, 1_002)]
    await table_rows.fill(store, at[:-1])
    proxy.seen.clear()
    assert (await repository.rehydrate(first.aggregate_id)).version == 1_000
    assert proxy.seen == {"query": 1}
    await table_rows.fill(store, at[-1:])
    proxy.seen.clear()
    assert (await repository.rehydrate(first.aggregate_id)).version == 1_001
    assert proxy.seen == {"query": 2}


async def test_what_is_refused_causes_no_request(store: TableStore, proxy: TableProxy) -> None:
    service = EventsService(store.events(Counter), InMemoryEventProducer())
    counter = new_counter()
    await service.persist(counter)
    counter.note("x" * 300_000)  # storable, but no message could carry it
    proxy.seen.clear()
    with pytest.raises(CommitTooLargeError):
        await service.persist(counter)
    assert not proxy.seen
    assert len(counter.pending) == 1
