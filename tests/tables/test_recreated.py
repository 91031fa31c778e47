"""A table that is deleted and created again, cleared, or loses its layout row under an open store: whatever was
acknowledged is found by who opens it next, or the opening is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from azure.data.tables.aio import TableServiceClient

from esazure import ConcurrencyError, EsAzureError, StoreMismatchError
from esazure.errors import AggregateNotFoundError
from esazure.ports import ViewRecord
from esazure.tables import TableStore
from esazure.testing._counter import Counter, counter_with

pytestmark = pytest.mark.azurite


class Account:
    """A table that can be put away and created anew."""

    def __init__(self, service: TableServiceClient, connection_string: str) -> None:
        self.service, self.connection_string, self.name = service, connection_string, f"t{uuid4().hex}"

    def store(self, shards: int | None = None) -> TableStore:
        return TableStore.from_connection_string(self.connection_string, table=self.name, shards=shards)

    async def create_again(self) -> None:
        await self.service.delete_table(self.name)
        await self.service.create_table(self.name)

    async def clear(self, partition: str | None = None) -> None:
        table = self.service.get_table_client(self.name)
        async for row in table.list_entities():
            if partition in (None, row["PartitionKey"]):
                await table.delete_entity(row)


@pytest.fixture
async def account(tables: str) -> AsyncIterator[Account]:
    async with TableServiceClient.from_connection_string(tables) as service:
        yield Account(service, tables)


async def acknowledged(store: TableStore, count: int = 12) -> tuple[list[str], list[EsAzureError]]:
    """The ids of new counters whose `append` returned, and what the others raised."""
    ids: list[str] = []
    refused: list[EsAzureError] = []
    for _ in range(count):
        counter = counter_with("a")
        try:
            await store.events(Counter).append(counter)
            ids.append(counter.id)
        except EsAzureError as error:
            refused.append(error)
    return ids, refused


@pytest.mark.parametrize("how", ["created again", "cleared"])
@pytest.mark.parametrize("before", [0, 40])
async def test_what_is_stored_in_a_table_that_was_emptied_is_found_by_who_opens_it_next(
    account: Account, how: str, before: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with account.store(shards=8) as store:
        await acknowledged(store, before)
        await (account.create_again() if how == "created again" else account.clear())
        assert caplog.messages == []
        ids, refused = await acknowledged(store)
        assert refused == []
        async with account.store() as other:
            assert (other.store_id, other.shards) == (store.store_id, 8)
            for counter_id in ids:
                assert (await other.events(Counter).rehydrate(counter_id)).notes == ["a"]
    (warning,) = caplog.records
    assert (warning.name, warning.levelname) == ("esazure.tables", "WARNING")
    assert "was emptied while it was open: what it held is gone" in warning.getMessage()


async def test_a_command_that_recorded_nothing_is_remembered_in_a_table_that_was_emptied(account: Account) -> None:
    async with account.store(shards=8) as store:
        await account.create_again()
        await store.remember_command("Counter.a", "pay-1", version=0)
        async with account.store() as other:
            found = await other.find_command("Counter.a", "pay-1")
    assert found is not None
    assert found.answered_at == 0


async def test_tasks_and_stores_that_find_the_same_table_emptied_agree(account: Account) -> None:
    async with account.store(shards=8) as store, account.store() as same:
        await account.create_again()
        counters = [counter_with("a") for _ in range(24)]
        await asyncio.gather(
            *[(store, same)[at % 2].events(Counter).append(counter) for at, counter in enumerate(counters)]
        )
        async with account.store() as other:
            assert other.store_id == store.store_id
            for counter in counters:
                assert (await other.events(Counter).rehydrate(counter.id)).notes == ["a"]


async def test_of_two_stores_whose_table_was_emptied_the_first_one_has_it(account: Account) -> None:
    async with account.store(shards=8) as first:
        await account.create_again()
        async with account.store(shards=2) as second:
            await account.create_again()
            ids, refused = await acknowledged(first)
            assert (len(ids), refused) == (12, [])
            ids, refused = await acknowledged(second)
            assert ids == []
            assert all(isinstance(error, StoreMismatchError) for error in refused)


async def test_a_store_whose_table_has_another_layout_by_now_takes_no_new_stream(account: Account) -> None:
    async with account.store() as store:
        await acknowledged(store, 40)
        await account.create_again()
        async with account.store(shards=4) as other:
            ids, refused = await acknowledged(store)
            assert ids == []
            assert all(isinstance(error, StoreMismatchError) for error in refused)
            assert "open the store again" in str(refused[0])
            ids, _ = await acknowledged(other)
            assert len(ids) == 12
            for counter_id in ids:
                assert (await other.events(Counter).rehydrate(counter_id)).notes == ["a"]


async def test_a_store_whose_table_is_gone_does_not_bring_it_back(account: Account) -> None:
    async with account.store() as store:
        await account.service.delete_table(account.name)
        _, refused = await acknowledged(store, 1)
        assert "the table does not exist" in str(refused[0])
        assert [name async for name in account.service.query_tables(f"TableName eq '{account.name}'")] == []


async def test_a_store_that_is_opened_again_goes_on(account: Account) -> None:
    async with account.store() as store:
        counter = counter_with("a")
        await store.events(Counter).append(counter)
        await account.create_again()
    async with account.store() as store:
        counter.note("b")
        with pytest.raises(StoreMismatchError):
            await store.events(Counter).append(counter)
        with pytest.raises(AggregateNotFoundError):
            await store.events(Counter).rehydrate(counter.id)
        ids, _ = await acknowledged(store)
        assert len(ids) == 12


async def test_a_stream_of_a_table_that_was_created_again_is_not_continued(account: Account) -> None:
    async with account.store() as store:
        counter = counter_with("a")
        await store.events(Counter).append(counter)
        await account.create_again()
        counter.note("b")
        with pytest.raises(ConcurrencyError, match="is at version 0, this copy was loaded at 1"):
            await store.events(Counter).append(counter)


async def test_streams_without_a_layout_row_are_never_given_another_layout(account: Account) -> None:
    async with account.store() as store:
        ids, _ = await acknowledged(store)
        await account.clear("meta")
        assert len(ids) == 12
        with pytest.raises(StoreMismatchError, match="has lost the row that says where they are"):
            await account.store(shards=16).__aenter__()
        # In shards that have no stream yet, where the row is looked for.
        _, refused = await acknowledged(store, 40)
        assert refused
        assert all(isinstance(error, StoreMismatchError) for error in refused)


async def test_what_waits_in_no_stream_keeps_nobody_from_using_a_table_that_was_emptied(account: Account) -> None:
    async with account.store(shards=8) as store:
        await account.create_again()
        for partition in store.partitions:
            assert await store.write_lease(partition, None, owner="relay", epoch=1) is not None
        assert await store.write_view("Counter.a", ViewRecord("card", "shape", 1, "{}"), seen=None)
        assert await store.write_document("notes", "a", "text", seen=None) is not None
        ids, refused = await acknowledged(store)
        assert (len(ids), refused) == (12, [])
        async with account.store() as other:
            assert other.store_id == store.store_id
            assert (await other.sweep(other.partitions[0])).lease == (await store.sweep(store.partitions[0])).lease
            assert await other.read_document("notes", "a") is not None


async def test_documents_are_where_the_next_one_looks_whatever_became_of_the_table(account: Account) -> None:
    async with account.store() as store:
        await account.create_again()
        assert await store.write_document("notes", "a", "text", seen=None) is not None
        async with account.store(shards=4) as other:
            found = await other.read_document("notes", "a")
    assert found is not None
    assert found.text == "text"
