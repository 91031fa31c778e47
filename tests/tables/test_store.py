"""Opening a store, its layout row, and what the service's failures become."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Self
from uuid import UUID, uuid4

import pytest
from aiohttp import web
from azure.core.credentials import AccessToken, AzureNamedKeyCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.data.tables.aio import TableClient
from tests.support.table_proxy import Forward, TableProxy
from tests.support.table_rows import remove

from esazure import (
    AppendOutcomeUnknownError,
    CorruptStreamError,
    EventsService,
    StoreError,
    StoreMismatchError,
    StoreUnavailableError,
)
from esazure.events import CommitRecord
from esazure.tables import TableStore
from esazure.tables.append import append
from esazure.tables.gateway import (
    OutcomeUnknownError,
    RowExistsError,
    RowMissingError,
    TableMissingError,
    meaning_for_a_write,
)
from esazure.tables.layout import Layout
from esazure.tables.rest import TableGateway
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


@pytest.mark.parametrize("endpoint", [ACCOUNT, "https://a.table.core.windows.net/?sv=1&sig=secret"])
def test_an_endpoint_that_holds_a_secret_is_refused_and_not_shown(endpoint: str) -> None:
    with pytest.raises(ValueError, match="use from_connection_string") as caught:
        TableStore(endpoint, credential=AzureNamedKeyCredential("someone", "c2VjcmV0LWtleQ=="))
    assert "secret" not in str(caught.value)


def test_an_endpoint_with_a_password_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="a user or a password") as caught:
        TableStore("https://user:secret@example.com", credential=AzureNamedKeyCredential("someone", "a2V5"))
    assert "secret" not in str(caught.value)


async def test_a_credential_that_fails_is_found_at_once_and_is_definite() -> None:
    class NoToken:
        async def get_token(self, *scopes: str, **options: object) -> AccessToken:
            raise ClientAuthenticationError("no identity here")

        async def close(self) -> None: ...

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None: ...

    store = TableStore("https://someone.table.core.windows.net", credential=NoToken(), deadline=30)
    started = asyncio.get_running_loop().time()
    with pytest.raises(StoreError, match="no token or signature could be made") as caught:
        await store.__aenter__()
    assert not isinstance(caught.value, StoreUnavailableError)
    gateway, create = TableGateway(store._make_client(), patience=30), {"PartitionKey": "00", "RowKey": "e"}
    with pytest.raises(StoreError, match="no token or signature"):
        await append(
            gateway,
            Layout(UUID(int=1), 64),
            commit(),
            "00",
            [("create", create)],
            deadline=30,
        )
    await gateway.close()
    assert asyncio.get_running_loop().time() - started < 10


@pytest.mark.parametrize("status", [200, 204, 302, 408, 429, 500, 503, 507, 520, 599])
def test_only_an_answer_that_blames_the_request_is_a_definite_refusal(status: int) -> None:
    assert isinstance(meaning_for_a_write(_answer(status)), OutcomeUnknownError)


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        (400, "InvalidInput", StoreError),
        (403, "AuthorizationFailure", StoreError),
        (404, "ResourceNotFound", RowMissingError),
        (404, "TableNotFound", TableMissingError),
        (409, "EntityAlreadyExists", RowExistsError),
        (409, None, RowExistsError),
        (409, "AccountBeingCreated", StoreError),
        (409, "TableBeingDeleted", StoreUnavailableError),
        (412, "UpdateConditionNotSatisfied", RowExistsError),
        (413, "RequestBodyTooLarge", StoreError),
    ],
)
def test_a_refusal_is_told_by_its_code(status: int, code: str | None, meaning: type[Exception]) -> None:
    assert type(meaning_for_a_write(_answer(status, code))) is meaning


def _answer(status: int, code: str | None = None) -> HttpResponseError:
    error = HttpResponseError("text that may quote a key")
    error.status_code = status
    error.error_code = code  # type: ignore[attr-defined]
    return error


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


async def ask_for_an_hour(kind: str, forward: Forward) -> web.StreamResponse:
    return web.Response(status=503, headers={"Retry-After": "3600"})


@pytest.mark.azurite
class TestOnAzurite:
    async def test_the_layout_is_chosen_once_and_found_again(self, tables: str) -> None:
        name = fresh_name()
        async with TableStore.from_connection_string(tables, table=name, shards=16) as store:
            assert store.shards == 16
            first = store.store_id
        async with TableStore.from_connection_string(tables, table=name) as store:
            assert (store.shards, store.store_id) == (16, first)

    async def test_a_new_store_has_16_shards(self, tables: str) -> None:
        async with TableStore.from_connection_string(tables, table=fresh_name()) as store:
            assert store.shards == 16

    async def test_opening_with_another_number_of_shards_is_refused(self, tables: str) -> None:
        name = fresh_name()
        async with TableStore.from_connection_string(tables, table=name):
            pass
        with pytest.raises(StoreMismatchError, match="16 shards and cannot be opened with 32"):
            await TableStore.from_connection_string(tables, table=name, shards=32).__aenter__()

    @pytest.mark.parametrize("layout", [1, 3])
    async def test_a_layout_of_another_version_is_refused(self, tables: str, layout: int) -> None:
        name = fresh_name()
        async with TableStore.from_connection_string(tables, table=name):
            pass
        async with TableClient.from_connection_string(tables, name) as client:
            await client.update_entity({"PartitionKey": "meta", "RowKey": "store", "layout": layout})
        with pytest.raises(StoreMismatchError, match=f"has layout {layout}, .* uses 2: open it with"):
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

    async def test_of_a_unique_value_that_is_given_up_no_row_is_left(self, tables: str) -> None:
        table = fresh_name()
        async with TableStore.from_connection_string(tables, table=table) as store:
            emails, counters = store.unique_values("email"), EventsService(store.events(Counter, outbox=False))
            counter = Counter("a")
            counter.increment()
            await emails.persist(counters, counter, "ada@example.com")
            abandoned = await emails.reserve("grace@example.com", counter, "never")
            async with TableClient.from_connection_string(tables, table) as client:

                async def claims() -> int:
                    rows = [row async for row in client.list_entities()]
                    return sum(str(row["PartitionKey"]).startswith("d.unique-") for row in rows)

                assert await claims() == 2
                await emails.abandon(abandoned)
                assert await emails.release("ada@example.com", counter)
                assert await claims() == 0

    async def test_opened_twice_at_a_time_is_refused_and_again_is_fine(self, tables: str) -> None:
        store = TableStore.from_connection_string(tables, table=fresh_name())
        async with store:
            with pytest.raises(StoreError, match="open already"):
                await store.__aenter__()
            await store.insert(commit(), outbox=False)
        async with store:
            assert len(await store.read("Counter.a")) == 1

    async def test_a_table_made_by_the_deployment_needs_no_right_to_create_tables(self, tables: str) -> None:
        name = fresh_name()
        async with TableClient.from_connection_string(tables, name) as client:
            await client.create_table()
        async with (
            TableProxy(tables) as proxy,
            TableStore.from_connection_string(proxy.connection_string, table=name) as store,
        ):
            await store.insert(commit(), outbox=True)
            assert "create table" not in proxy.seen

    @pytest.mark.parametrize("damage", [{"shards": 0}, {"shards": 3}, {"shards": "64"}, {"sid": "x"}])
    async def test_a_damaged_layout_row_is_an_error(self, tables: str, damage: dict[str, Any]) -> None:
        name = fresh_name()
        async with TableStore.from_connection_string(tables, table=name):
            pass
        async with TableClient.from_connection_string(tables, name) as client:
            await client.update_entity({"PartitionKey": "meta", "RowKey": "store", **damage})
        with pytest.raises(CorruptStreamError, match="layout row is damaged"):
            await TableStore.from_connection_string(tables, table=name).__aenter__()

    async def test_an_outbox_row_without_its_commit_is_an_error_and_not_skipped(self, tables: str) -> None:
        async with TableStore.from_connection_string(tables, table=fresh_name()) as store:
            commits = [commit(first) for first in (1, 2, 3)]
            for each in commits:
                await store.insert(each, outbox=True)
            await remove(store, commits[1])
            with pytest.raises(CorruptStreamError, match="lost its commit"):
                await store.unpublished("Counter.a", before_version=9)

    async def test_a_backlog_is_read_in_portions(self, tables: str) -> None:
        async with TableStore.from_connection_string(tables, table=fresh_name()) as store:
            commits = [commit(first) for first in range(1, 9)]
            for each in commits:
                await store.insert(each, outbox=True)
            assert list(await store.unpublished("Counter.a", before_version=9, limit=3)) == commits[:3]
            assert list(await store.unpublished("Counter.a", before_version=3, limit=3)) == commits[:2]

    @pytest.mark.parametrize("call", ["read", "mark_published"])
    async def test_a_long_retry_after_does_not_hold_a_caller_beyond_the_deadline(self, tables: str, call: str) -> None:
        async with TableProxy(tables) as proxy:
            opened = TableStore.from_connection_string(proxy.connection_string, table=fresh_name(), deadline=0.5)
            async with opened as store:
                proxy.fault = ask_for_an_hour
                started = asyncio.get_running_loop().time()
                with pytest.raises(StoreUnavailableError):
                    await (store.read("Counter.a") if call == "read" else store.mark_published(commit()))
                assert asyncio.get_running_loop().time() - started < 5

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
            blocker = {"PartitionKey": partition_of("Counter.a", store.shards), "RowKey": outbox_key("Counter.a", 1)}
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
