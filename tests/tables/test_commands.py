"""The row of a command: what it says, and how a command is forbidden while requests get lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from tests.support.fake_tables import FakeGateway, FakeTable, fake_store
from tests.support.flaky_tables import Fate, FlakyGateway
from tests.support.table_rows import settle_all

from esazure import CorruptStreamError, StoreError, StoreUnavailableError
from esazure.errors import CommandHandledError, StoreMismatchError
from esazure.events import CommandRecord
from esazure.tables.commands import Handled, command_rows, note, read
from esazure.tables.gateway import Operation
from esazure.tables.layout import Layout, presence
from esazure.testing._counter import commit_of

COMMIT = replace(commit_of("Counter.a", 9_000_000_000, "a"), commit_id="mine", command_id="pay-1")
LAYOUT = Layout(UUID(int=1), 64)
KEY = "c.Counter.a.0da3174c441a36c80c2ecf4b"


@pytest.fixture
def table() -> FakeTable:
    table = FakeTable()
    table.apply([("create", presence(LAYOUT, "1f"))])
    return table


def test_the_row_of_a_command() -> None:
    """Pinned: this is what is in people's tables. The version is text because it may be beyond an Int32."""
    assert command_rows(COMMIT, "1f") == [{"PartitionKey": "1f", "RowKey": KEY, "cid": "mine", "first": "9000000000"}]
    (row,) = command_rows(replace(COMMIT, request="hash"), "1f")
    assert row["req"] == "hash"
    assert command_rows(replace(COMMIT, command_id=None), "1f") == []


async def test_what_is_stored_is_found(table: FakeTable) -> None:
    gateway = FakeGateway(table)
    assert await read(gateway, "1f", "Counter.a", "pay-1") is None
    await gateway.submit([("create", row) for row in command_rows(COMMIT, "1f")])
    assert await read(gateway, "1f", "Counter.a", "pay-1") == Handled("mine", CommandRecord(9_000_000_000))
    assert await read(gateway, "1f", "Counter.b", "pay-1") is None


@pytest.mark.parametrize(
    "damage",
    [
        {"cid": 1},
        {"first": "1"},
        {"first": 1},
        {"first": None},
        {"forbidden": "yes", "cid": None},
        {"req": 1},
        {"cid": None, "at": "7"},
    ],
)
async def test_a_damaged_row_is_an_error(table: FakeTable, damage: dict[str, Any]) -> None:
    gateway = FakeGateway(table)
    (row,) = command_rows(COMMIT, "1f")
    await gateway.submit([("create", row | damage)])
    with pytest.raises(CorruptStreamError, match=r"^Counter\.a: the row of a command is damaged"):
        await read(gateway, "1f", "Counter.a", "pay-1")


@pytest.mark.parametrize("losses", [(), ("before",), ("after",), ("before", "after", "before")], ids=str)
@pytest.mark.parametrize(
    ("wanted", "columns"),
    [
        (CommandRecord(), {"forbidden": True}),
        (CommandRecord(answered_at=0), {"at": "0000000000"}),
        (CommandRecord(answered_at=9_000_000_000, request="hash"), {"at": "9000000000", "req": "hash"}),
    ],
    ids=["forbid", "remember", "remember what it asked for"],
)
async def test_what_has_no_commit_is_one_row_however_often_it_is_asked(
    table: FakeTable, losses: tuple[Fate, ...], wanted: CommandRecord, columns: dict[str, object]
) -> None:
    assert await note(FlakyGateway(table, *losses), LAYOUT, "1f", "Counter.a", "pay-1", wanted, deadline=5) == wanted
    _, row = sorted(table.rows.values(), key=lambda row: str(row["RowKey"]), reverse=True)
    assert row.items() >= {"PartitionKey": "1f", "RowKey": KEY, **columns}.items()
    assert row.keys() & {"forbidden", "at", "req", "cid", "first"} == columns.keys()
    assert await note(FakeGateway(table), LAYOUT, "1f", "Counter.a", "pay-1", CommandRecord(), deadline=5) == wanted


async def test_in_a_table_that_is_another_stores_by_now_nothing_is_forbidden_and_nothing_noted() -> None:
    table = FakeTable()
    async with fake_store(table) as store:
        table.rows.clear()
        async with fake_store(table):
            another = dict(table.rows)
        with pytest.raises(StoreMismatchError, match="open the store again"):
            await store.find_command("Counter.a", "pay-1", forbid=True)
        with pytest.raises(StoreMismatchError, match="open the store again"):
            await store.remember_command("Counter.a", "pay-1", version=0)
    assert table.rows == another != {}


@pytest.mark.parametrize("wanted", [CommandRecord(), CommandRecord(answered_at=7)], ids=["forbid", "remember"])
async def test_what_was_carried_out_stays_so(table: FakeTable, wanted: CommandRecord) -> None:
    stored = replace(COMMIT, request="hash")
    await FakeGateway(table).submit([("create", row) for row in command_rows(stored, "1f")])
    found = await note(FlakyGateway(table, "before"), LAYOUT, "1f", "Counter.a", "pay-1", wanted, deadline=5)
    assert found == CommandRecord(9_000_000_000, request="hash")


async def test_no_answer_until_the_deadline_is_unavailable(table: FakeTable) -> None:
    started = asyncio.get_running_loop().time()
    with pytest.raises(StoreUnavailableError, match=r"^Counter\.a: it is unknown whether a command was answered"):
        await note(
            FlakyGateway(table, *["before"] * 99), LAYOUT, "1f", "Counter.a", "pay-1", CommandRecord(), deadline=0.2
        )
    assert 0.19 <= asyncio.get_running_loop().time() - started < 5


async def test_a_refusal_is_passed_on(table: FakeTable) -> None:
    class Refusing(FakeGateway):
        async def submit(self, operations: Sequence[Operation]) -> Sequence[str]:
            raise StoreError("not allowed")

    with pytest.raises(StoreError, match="not allowed"):
        await note(Refusing(table), LAYOUT, "1f", "Counter.a", "pay-1", CommandRecord(), deadline=5)


async def test_of_a_commit_and_a_fence_on_their_way_one_arrives() -> None:
    """Many times, because the loop decides who is first."""
    won = {"commit": 0, "fence": 0}
    for number in range(40):
        async with fake_store(FakeTable(), shards=1) as store:
            await settle_all(store)
            commit = replace(commit_of("Counter.a", 1, "a"), command_id="pay-1")
            append, fence = store.insert(commit, outbox=True), store.find_command("Counter.a", "pay-1", forbid=True)
            work = (append, fence) if number % 2 else (fence, append)
            outcomes = dict(zip(work, await asyncio.gather(*work, return_exceptions=True), strict=True))
            stored = list(await store.read("Counter.a"))
            if outcomes[append] is None:
                won["commit"] += 1
                assert (outcomes[fence], stored) == (CommandRecord(1), [commit])
            else:
                won["fence"] += 1
                assert isinstance(outcomes[append], CommandHandledError)
                assert (outcomes[fence], stored) == (None, [])
    assert min(won.values()) > 0
