"""What each operation costs in requests, counted on the wire between the SDK and Azurite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel
from tests.support import table_rows
from tests.support.table_proxy import TableProxy
from tests.tables.test_rows import NOISE

from esazure import Commit, CommitTooLargeError, ConcurrencyError, EventsService
from esazure.aggregate import stream_of
from esazure.errors import CommandHandledError
from esazure.events import CommandRecord
from esazure.memory import InMemoryEventProducer
from esazure.ports import ViewRecord
from esazure.tables import TableStore
from esazure.testing._counter import commit_of
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
    async with _store_behind(proxy) as store:
        await table_rows.settle_all(store)
        proxy.seen.clear()
        yield store


def _store_behind(proxy: TableProxy) -> TableStore:
    return TableStore.from_connection_string(proxy.connection_string, table=f"t{uuid4().hex}", shards=2)


@pytest.mark.parametrize("events", [1, 10, 1_000])
async def test_persist_to_a_new_stream_is_one_transaction_before_the_ack(
    store: TableStore, proxy: TableProxy, events: int
) -> None:
    producer = CountingProducer(proxy)
    await EventsService(store.events(Counter), producer).persist(new_counter(events))
    assert producer.seen_at_dispatch == [{"transaction": 1}]
    assert proxy.seen == {"transaction": 2}, "the second removes the outbox row"


class Card(BaseModel):
    total: int


def card(counter: Counter) -> Card:
    return Card(total=counter.total)


def other_card(counter: Counter) -> Card:
    return Card(total=-counter.total)


async def test_persist_with_a_command_id_and_views_is_still_one_transaction_before_the_ack(
    store: TableStore, proxy: TableProxy
) -> None:
    producer = CountingProducer(proxy)
    repository = store.events(Counter, views=[card, other_card])
    counter = new_counter()
    await EventsService(repository, producer).persist(counter, command_id="pay-1")
    assert producer.seen_at_dispatch == [{"transaction": 1}]
    proxy.seen.clear()
    assert await repository.view(card).get(counter.id) == Card(total=1)
    assert proxy.seen == {"query": 1}


async def test_a_view_that_is_not_there_is_computed_and_kept(store: TableStore, proxy: TableProxy) -> None:
    counter = new_counter()
    await store.events(Counter).append(counter)
    view = store.events(Counter, views=[card]).view(card)
    proxy.seen.clear()
    assert await view.get(counter.id) == Card(total=1)
    assert proxy.seen == {"query": 2, "transaction": 1}
    proxy.seen.clear()
    assert await view.get(counter.id) == Card(total=1)
    assert proxy.seen == {"query": 1}


async def test_a_view_that_was_not_told_of_the_last_commit_costs_the_same_once(
    store: TableStore, proxy: TableProxy
) -> None:
    repository, counter = store.events(Counter, views=[card, other_card]), new_counter()
    await repository.append(counter)
    counter.increment()
    await store.events(Counter).append(counter)
    for requests in ({"query": 2, "transaction": 1}, {"query": 1}):
        proxy.seen.clear()
        assert await repository.view(card).get(counter.id) == Card(total=2)
        assert proxy.seen == requests


async def test_a_view_is_read_without_the_payload_of_any_commit_or_another_view(tables: str) -> None:
    answers: list[int] = []

    class Weighing(TableProxy):
        async def _exchange(self, head: bytes, body: bytes) -> bytes:
            answer = await super()._exchange(head, body)
            answers.append(len(answer))
            return answer

    async with Weighing(tables) as proxy, _store_behind(proxy) as store:
        large = {name: ViewRecord(name, "0" * 16, 1, NOISE[:300_000]) for name in ("aaa", "card0", "zzz")}
        for version in range(1, 4):
            commit = commit_of("Counter.a", version, NOISE[:300_000])
            views = [replace(view, version=version) for view in large.values()]
            await store.insert(commit, outbox=False, views=[*views, ViewRecord("card", "0" * 16, version, "{}")])
        answers.clear()
        found = await store.read_view("Counter.a", "card")
        assert found is not None
        assert (found.text, found.version, found.latest) == ("{}", 3, 3)
        assert len(answers) == 1
        assert answers[0] < 2_000


async def test_a_command_is_found_or_forbidden_in_one_request(store: TableStore, proxy: TableProxy) -> None:
    commit = await store.events(Counter).append(new_counter(), command_id="pay-1")
    assert commit is not None
    proxy.seen.clear()
    assert await store.find_command(commit.stream, "pay-1") == CommandRecord(1)
    assert await store.find_command(commit.stream, "pay-2") is None
    assert proxy.seen == {"query": 2}
    proxy.seen.clear()
    assert await store.find_command(commit.stream, "pay-2", forbid=True) is None
    assert proxy.seen == {"transaction": 1}
    assert await store.find_command(commit.stream, "pay-1", forbid=True) == CommandRecord(1)
    assert proxy.seen == {"transaction": 2, "query": 1}


async def test_a_command_that_stored_nothing_is_remembered_in_one_request(store: TableStore, proxy: TableProxy) -> None:
    service = EventsService(store.events(Counter))
    counter = new_counter()
    await service.persist(counter)
    proxy.seen.clear()
    await service.persist(counter, command_id="pay-1")
    assert proxy.seen == {"transaction": 1}
    await service.persist(counter, command_id="pay-1")
    assert proxy.seen == {"transaction": 2, "query": 1}


async def test_a_command_that_was_handled_is_one_transaction_and_its_read_back(
    store: TableStore, proxy: TableProxy
) -> None:
    counter = new_counter()
    stored = await store.events(Counter).append(counter, command_id="pay-1")
    assert stored is not None
    again = replace(commit_of(stream_of(counter), 2, "a"), command_id="pay-1", after=stored.record.identity)
    proxy.seen.clear()
    with pytest.raises(CommandHandledError):
        await store.insert(again, outbox=True)
    assert proxy.seen == {"transaction": 1, "query": 1}


async def test_a_conflict_of_a_commit_with_a_command_id_is_one_transaction_and_two_read_backs(
    store: TableStore, proxy: TableProxy
) -> None:
    counter = new_counter()
    await store.events(Counter).append(counter)
    rival = replace(commit_of(stream_of(counter), 1, "a"), command_id="pay-1")
    proxy.seen.clear()
    with pytest.raises(ConcurrencyError):
        await store.insert(rival, outbox=True)
    assert proxy.seen == {"transaction": 1, "query": 2}


async def test_the_first_stream_of_a_shard_takes_three_more_requests_once(tables: str) -> None:
    async with TableProxy(tables) as proxy:
        name = f"t{uuid4().hex}"
        for seen in ({"transaction": 3, "query": 1}, {"transaction": 1}, {"transaction": 1}):
            async with TableStore.from_connection_string(proxy.connection_string, table=name, shards=1) as store:
                proxy.seen.clear()
                await store.events(Counter).append(new_counter())
                assert proxy.seen == seen


async def test_a_commit_to_a_stream_that_was_loaded_or_stored_is_one_transaction(
    store: TableStore, proxy: TableProxy
) -> None:
    counter = new_counter()
    await store.events(Counter).append(counter)
    loaded = await store.events(Counter).rehydrate(counter.id)
    for copy in (loaded, loaded):
        copy.increment()
        proxy.seen.clear()
        await store.events(Counter).append(copy)
        assert proxy.seen == {"transaction": 1}


async def test_a_read_from_where_a_commit_begins_is_one_query_and_otherwise_two(
    store: TableStore, proxy: TableProxy
) -> None:
    counter = new_counter(events=3)
    await store.events(Counter).append(counter)
    counter.increment()
    await store.events(Counter).append(counter)
    for from_version, queries in ((1, 1), (2, 2), (4, 1), (5, 2)):
        proxy.seen.clear()
        await store.read(stream_of(counter), from_version=from_version)
        assert proxy.seen == {"query": queries}


async def test_a_scan_is_one_query_for_each_1000_rows(tables: str, proxy: TableProxy) -> None:
    opened = TableStore.from_connection_string(proxy.connection_string, table=f"t{uuid4().hex}", shards=1)
    async with opened as store:
        for number in range(5):
            commits = [commit_of(f"Counter.{number}", version, "a") for version in range(1, 501)]
            await table_rows.fill(store, commits)
        proxy.seen.clear()
        assert [len(commits) async for commits in store.scan("00", "Counter")] == [500] * 5
        assert proxy.seen == {"query": 3}
        proxy.seen.clear()
        assert [len(commits) async for commits in store.scan("00", "Counter", after="Counter.3")] == [500]
        assert proxy.seen == {"query": 1}


async def test_a_document_is_one_request_to_read_write_or_delete(store: TableStore, proxy: TableProxy) -> None:
    created = await store.write_document("c", "a", "first", seen=None)
    assert proxy.seen == {"transaction": 1}
    replaced = await store.write_document("c", "a", NOISE[:2_000_000], seen=created)
    assert proxy.seen == {"transaction": 2}
    shorter = await store.write_document("c", "a", "short", seen=replaced)
    assert proxy.seen == {"transaction": 3}
    assert await store.write_document("c", "a", "conflict", seen=replaced) is None
    assert proxy.seen == {"transaction": 4}
    document = await store.read_document("c", "a")
    assert document is not None
    assert (document.text, document.tag) == ("short", shorter)
    assert proxy.seen == {"transaction": 4, "query": 1}
    assert await store.delete_document("c", "a", seen=document.tag)
    assert proxy.seen == {"transaction": 5, "query": 1}
    assert await store.read_document("c", "a") is None
    assert proxy.seen == {"transaction": 5, "query": 2}


async def test_creating_what_exists_or_was_deleted_takes_a_look(store: TableStore, proxy: TableProxy) -> None:
    tag = await store.write_document("c", "a", "first", seen=None)
    assert tag is not None
    proxy.seen.clear()
    assert await store.write_document("c", "a", "second", seen=None) is None
    assert proxy.seen == {"transaction": 1, "query": 1}
    await store.delete_document("c", "a", seen=tag)
    proxy.seen.clear()
    assert await store.write_document("c", "a", "second", seen=None) is not None
    assert proxy.seen == {"transaction": 2, "query": 1}


async def test_a_small_collection_is_listed_in_one_request_and_a_page_behind_in_two(
    store: TableStore, proxy: TableProxy
) -> None:
    for number in range(40):
        await store.write_document("c", f"{number}", "text", seen=None)
    proxy.seen.clear()
    assert len((await store.list_documents("c")).documents) == 40
    assert proxy.seen == {"query": 1}
    proxy.seen.clear()
    first = await store.list_documents("c", limit=20)
    assert proxy.seen == {"query": 1}
    second = await store.list_documents("c", limit=20, after=first.next)
    assert (len(first.documents), len(second.documents), second.next) == (20, 20, None)
    assert proxy.seen == {"query": 3}


async def test_clearing_a_collection_is_one_query_and_a_transaction_for_each_bucket(
    store: TableStore, proxy: TableProxy
) -> None:
    for number in range(60):
        await store.write_document("c", f"{number}", "text", seen=None)
    proxy.seen.clear()
    await store.clear_documents("c")
    assert proxy.seen == {"query": 1, "transaction": 16}
    await store.clear_documents("c")
    assert proxy.seen == {"query": 2, "transaction": 16}


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
