"""Opening a store, its layout row, and what the service's failures become."""

from __future__ import annotations

import asyncio
import re
from uuid import uuid4

import pytest
from aiohttp import web
from azure.core.credentials import AzureNamedKeyCredential
from azure.data.tables.aio import TableClient
from tests.support.table_proxy import Forward, TableProxy

from esazure import (
    AppendOutcomeUnknownError,
    CorruptStreamError,
    StoreError,
    StoreMismatchError,
    StoreUnavailableError,
)
from esazure.events import CommitRecord
from esazure.tables import TableStore
from esazure.tables.rows import outbox_key, partition_of
from esazure.testing.conformance import Counter

ACCOUNT = "AccountName=someone;AccountKey=c2VjcmV0LWtleQ==;TableEndpoint=http://127.0.0.1:1/someone"


def fresh_name() -> str:
    return f"t{uuid4().hex}"


def commit(first: int = 1, stream: str = "Counter.a", commit_id: str | None = None) -> CommitRecord:
    at = "2026-01-01T00:00:00+00:00"
    return CommitRecord(stream, commit_id or uuid4().hex, first, 1, at, "{}", 'Incremented {"by":1}')


@pytest.mark.parametrize("name", ["", "ab", "1table", "my-table", "täble", "x" * 64, "a.b"])
def test_a_table_name_the_service_would_refuse_is_refused_at_once(name: str) -> None:
    with pytest.raises(ValueError, match="a table name has 3 to 63"):
        TableStore.from_connection_string(ACCOUNT, table=name)


@pytest.mark.parametrize("shards", [0, -1, 3, 100, 512])
def test_shards_are_a_power_of_two(shards: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        TableStore.from_connection_string(ACCOUNT, shards=shards)


@pytest.mark.parametrize("deadline", [0, -1, float("nan")])
def test_a_deadline_is_above_zero(deadline: float) -> None:
    with pytest.raises(ValueError, match="deadline"):
        TableStore.from_connection_string(ACCOUNT, deadline=deadline)


@pytest.mark.parametrize("text", ["", "nonsense", "AccountKey=c2VjcmV0", "AccountName=a;AccountKey=c2VjcmV0;Endpoint"])
def test_a_string_that_is_no_connection_string_is_not_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="not a connection string") as caught:
        TableStore.from_connection_string(text)
    assert "c2VjcmV0" not in str(caught.value)


def test_the_repr_shows_where_and_no_key() -> None:
    store = TableStore.from_connection_string(ACCOUNT + "?sv=1&sig=secret", table="events")
    assert re.fullmatch(r"<TableStore http://127\.0\.0\.1:1/events>", repr(store))


async def test_a_store_that_is_not_open_says_so() -> None:
    store = TableStore.from_connection_string(ACCOUNT)
    with pytest.raises(StoreError, match="not open"):
        await store.events(Counter).rehydrate("a")


async def test_an_account_that_cannot_be_reached_is_unavailable(unused_tcp_port: int) -> None:
    address = f"http://127.0.0.1:{unused_tcp_port}/someone"
    store = TableStore(address, credential=AzureNamedKeyCredential("someone", "c2VjcmV0LWtleQ=="))
    with pytest.raises(StoreUnavailableError) as caught:
        await store.__aenter__()
    assert "c2VjcmV0" not in str(caught.value)


@pytest.mark.azurite
class TestOnAzurite:
    async def test_the_layout_is_chosen_once_and_found_again(self, tables: str) -> None:
        name = fresh_name()
        async with TableStore.from_connection_string(tables, table=name, shards=16) as store:
            assert store.shards == 16
            first = store.store_id
        async with TableStore.from_connection_string(tables, table=name) as store:
            assert (store.shards, store.store_id) == (16, first)

    async def test_a_new_store_has_64_shards(self, tables: str) -> None:
        async with TableStore.from_connection_string(tables, table=fresh_name()) as store:
            assert store.shards == 64

    async def test_opening_with_another_number_of_shards_is_refused(self, tables: str) -> None:
        name = fresh_name()
        async with TableStore.from_connection_string(tables, table=name):
            pass
        with pytest.raises(StoreMismatchError, match="64 shards and cannot be opened with 32"):
            await TableStore.from_connection_string(tables, table=name, shards=32).__aenter__()

    async def test_a_layout_of_another_version_is_refused(self, tables: str) -> None:
        name = fresh_name()
        async with TableStore.from_connection_string(tables, table=name):
            pass
        async with TableClient.from_connection_string(tables, name) as client:
            await client.update_entity({"PartitionKey": "meta", "RowKey": "store", "layout": 2})
        with pytest.raises(StoreMismatchError, match="layout 2"):
            await TableStore.from_connection_string(tables, table=name).__aenter__()

    async def test_processes_that_create_it_at_once_agree(self, tables: str) -> None:
        name = fresh_name()

        async def open_it() -> tuple[object, int]:
            async with TableStore.from_connection_string(tables, table=name) as store:
                return store.store_id, store.shards

        assert len(set(await asyncio.gather(*(open_it() for _ in range(8))))) == 1

    async def test_a_wrong_key_is_refused_and_not_shown(self, tables: str) -> None:
        key = "d3Jvbmcta2V5LXdyb25nLWtleQ=="
        store = TableStore.from_connection_string(re.sub(r"AccountKey=[^;]+", f"AccountKey={key}", tables))
        with pytest.raises(StoreError, match="check the account, the credential and its roles") as caught:
            await store.__aenter__()
        assert not isinstance(caught.value, StoreUnavailableError)
        assert key not in str(caught.value)

    async def test_a_table_that_disappears_is_a_definite_refusal(self, tables: str) -> None:
        async with TableStore.from_connection_string(tables, table=fresh_name()) as store:
            await store._gateway._client.delete_table()
            with pytest.raises(StoreError, match="table does not exist"):
                await store.insert(commit(), outbox=True)
            with pytest.raises(StoreError, match="table does not exist"):
                await store.read("Counter.a")

    async def test_removing_an_outbox_row_that_is_gone_is_fine_but_not_when_the_table_is(self, tables: str) -> None:
        async with TableStore.from_connection_string(tables, table=fresh_name()) as store:
            await store.mark_published(commit())
            await store._gateway._client.delete_table()
            with pytest.raises(StoreError, match="table does not exist"):
                await store.mark_published(commit())

    async def test_a_foreign_row_between_commits_is_an_error_for_that_stream_alone(self, tables: str) -> None:
        async with TableStore.from_connection_string(tables, table=fresh_name(), shards=1) as store:
            await store.insert(commit(), outbox=False)
            await store.insert(commit(stream="Counter.b"), outbox=False)
            await store._gateway._client.create_entity({"PartitionKey": "00", "RowKey": "e.Counter.a.0note"})
            with pytest.raises(CorruptStreamError, match="not written by this library"):
                await store.read("Counter.a")
            assert len(await store.read("Counter.b")) == 1

    async def test_commit_and_outbox_row_share_a_transaction(self, tables: str) -> None:
        async with TableStore.from_connection_string(tables, table=fresh_name()) as store:
            blocker = {"PartitionKey": partition_of("Counter.a", 64), "RowKey": outbox_key("Counter.a", 1)}
            await store._gateway._client.create_entity(blocker)
            with pytest.raises(AppendOutcomeUnknownError):
                await store.insert(commit(), outbox=True)
            assert await store.read("Counter.a") == []

    async def test_own_write_after_a_lost_answer_is_a_success(self, tables: str) -> None:
        async with (
            TableProxy(tables) as proxy,
            TableStore.from_connection_string(proxy.connection_string, table=fresh_name()) as store,
        ):
            lost = 0

            async def lose_the_first_answer(kind: str, forward: Forward) -> web.StreamResponse:
                nonlocal lost
                answer = await forward()
                if kind == "transaction" and not lost:
                    lost += 1
                    return web.Response(status=500)
                return answer

            proxy.fault = lose_the_first_answer
            await store.insert(commit(commit_id="mine"), outbox=True)
            assert lost == 1
            assert [record.commit_id for record in await store.read("Counter.a")] == ["mine"]

    async def test_no_answer_until_the_deadline_is_unknown_and_asking_again_tells(self, tables: str) -> None:
        async with TableProxy(tables) as proxy:
            opened = TableStore.from_connection_string(proxy.connection_string, table=fresh_name(), deadline=0.5)
            async with opened as store:

                async def applied_but_never_said(kind: str, forward: Forward) -> web.StreamResponse:
                    await forward()
                    return web.Response(status=503, headers={"Retry-After": "1"})

                repository = store.events(Counter)
                counter = Counter("a")
                counter.increment()
                proxy.fault = applied_but_never_said
                started = asyncio.get_running_loop().time()
                with pytest.raises(AppendOutcomeUnknownError) as caught:
                    await repository.append(counter)
                assert asyncio.get_running_loop().time() - started < 1.5
                proxy.fault = None
                stored = await caught.value.retry()
                assert stored.commit_id == caught.value.commit_id
                assert counter.pending == ()
                assert (await repository.rehydrate("a")).version == 1
