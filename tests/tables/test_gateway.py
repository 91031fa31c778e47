"""What `ITableGateway` promises, of the one over the SDK on Azurite and of the fake alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from aiohttp import web
from azure.data.tables.aio import TableClient
from tests.support.fake_tables import FakeGateway, FakeTable
from tests.support.table_proxy import Forward, TableProxy

from esazure import StoreError
from esazure.tables.columns import TAG, TIME, Row, tag_of, time_of
from esazure.tables.gateway import ITableGateway, RowExistsError, RowMissingError
from esazure.tables.rest import TableGateway


@pytest.fixture(params=["fake", pytest.param("sdk", marks=pytest.mark.azurite)])
async def gateway(request: pytest.FixtureRequest) -> AsyncIterator[ITableGateway]:
    if request.param == "fake":
        yield FakeGateway(FakeTable())
        return
    client = TableClient.from_connection_string(request.getfixturevalue("tables"), f"t{uuid4().hex}")
    sdk = TableGateway(client, patience=30)
    await sdk.open()
    await sdk.create_table()
    yield sdk
    await client.delete_table()
    await sdk.close()


def row(key: str, partition: str = "p", **columns: str) -> Row:
    return {"PartitionKey": partition, "RowKey": key, **columns}


async def in_table(gateway: ITableGateway) -> dict[str, str]:
    return {found["RowKey"]: found.get("x", "") for found in await gateway.query("p", "-", "~")}


async def test_a_row_is_read_with_the_tag_its_write_was_answered_with(gateway: ITableGateway) -> None:
    tags = [*await gateway.submit([("create", row("a", x="1"))]), *await gateway.submit([("upsert", row("b"))])]
    first, second = await gateway.query("p", "a", "b")
    assert [tag_of(first), tag_of(second)] == tags
    assert first["x"] == "1"
    assert (written_at := time_of(first)) is not None
    assert written_at.utcoffset() is not None


async def test_what_replaces_a_row_leaves_nothing_of_it(gateway: ITableGateway) -> None:
    await gateway.submit([("create", row("a", x="1", y="1")), ("create", row("b", x="1", y="1"))])
    first, _ = await gateway.query("p", "a", "b")
    await gateway.submit([("replace", row("a", x="2"), tag_of(first)), ("upsert", row("b", x="2"))])
    found = await gateway.query("p", "a", "b")
    assert [row.keys() - {"PartitionKey", "RowKey", TAG, TIME} for row in found] == [{"x"}, {"x"}]


async def test_a_transaction_is_applied_as_a_whole_or_not_at_all(gateway: ITableGateway) -> None:
    (old,) = await gateway.submit([("create", row("a", x="1"))])
    (new,) = await gateway.submit([("replace", row("a", x="2"), old)])
    assert new != old
    for refused in (
        ("create", row("a")),
        ("replace", row("a"), old),
        ("delete", row("a"), old),
        ("replace", row("a"), "no tag"),
        ("delete", row("a"), 'W/"a\r\nb: c"'),
    ):
        with pytest.raises(RowExistsError):
            await gateway.submit([("upsert", row("b")), refused])
    for missing in (("delete", row("c")), ("delete", row("c"), old), ("replace", row("c"), old)):
        with pytest.raises(RowMissingError):
            await gateway.submit([("upsert", row("b")), missing])
    assert await in_table(gateway) == {"a": "2"}
    await gateway.submit([("delete", row("a"), new)])
    assert await in_table(gateway) == {}


async def test_a_range_is_closed_and_in_order_and_ends_at_the_first_so_many(gateway: ITableGateway) -> None:
    await gateway.submit([("create", row(key)) for key in ("a.1", "a", "a-", "aa", "b", "a0")])
    assert [found["RowKey"] for found in await gateway.query("p", "a", "aa")] == ["a", "a-", "a.1", "a0", "aa"]
    assert [found["RowKey"] for found in await gateway.query("p", "a", "aa", 2)] == ["a", "a-"]
    assert await gateway.query("p", "c", "d") == []
    assert await gateway.query("p", "b", "a") == []
    assert await gateway.query("' or '1' eq '1", "a", "b") == []
    rows, now = await gateway.query_with_time("p", "a", "aa")
    assert len(rows) == 5
    assert now.utcoffset() is not None


async def test_pages_go_through_partitions_in_order(gateway: ITableGateway) -> None:
    for partition in ("d.c.0", "d.c.1", "d.c.f", "d.c-.5", "d.c0.5", "d.b.0"):
        for key in ("a", "b", "c"):
            await gateway.submit([("create", row(key, partition))])

    async def read(
        first: str, last: str, keys: tuple[str, str] | None = None, size: int = 1_000
    ) -> tuple[list[str], list[int]]:
        pages = [page async for page in gateway.pages((first, last), keys, size=size)]
        return [f"{each['PartitionKey']}{each['RowKey']}" for page in pages for each in page], list(map(len, pages))

    whole = [f"d.c.{x}{key}" for x in "01f" for key in "abc"]
    assert (await read("d.c.0", "d.c.f"))[0] == whole
    found, sizes = await read("d.c.0", "d.c.f", size=2)
    assert found == whole
    assert max(sizes) == 2
    assert (await read("d.c.0", "d.c.f", ("b", "b")))[0] == ["d.c.0b", "d.c.1b", "d.c.fb"]
    assert (await read("d.c.1", "d.c.1", ("b", "~")))[0] == ["d.c.1b", "d.c.1c"]
    assert (await read("e", "f"))[0] == []


@pytest.mark.azurite
async def test_an_answer_that_no_table_gives_is_a_refusal_only_when_a_row_could_not_be_missing(tables: str) -> None:
    async def not_here(kind: str, forward: Forward) -> web.StreamResponse:
        return web.Response(status=404)

    async with TableProxy(tables) as proxy:
        proxy.fault = not_here
        gateway = TableGateway(TableClient.from_connection_string(proxy.connection_string, "events"), patience=30)
        await gateway.open()
        with pytest.raises(StoreError, match="is the endpoint right"):
            await gateway.submit([("create", row("a")), ("upsert", row("b"))])
        with pytest.raises(RowMissingError):
            await gateway.submit([("create", row("a")), ("delete", row("b"))])
        await gateway.close()
