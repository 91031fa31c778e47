"""Inline views as rows, and what a repair does when its answer gets lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.support.fake_tables import FakeGateway, FakeTable
from tests.support.flaky_tables import FlakyGateway
from tests.tables.test_rows import NOISE

from esazure import CorruptStreamError
from esazure.ports import ViewRecord
from esazure.tables.inline import read, view_rows, write


def view(text: str = "{}", version: int = 7) -> ViewRecord:
    return ViewRecord("card", "0123456789abcdef", version, text)


async def upsert(table: FakeTable, record: ViewRecord) -> None:
    """As an append does."""
    rows = view_rows("00", "Counter.a", record, "commit")
    await FakeGateway(table).submit([("upsert", row) for row in rows])


async def seen_in(table: FakeTable) -> ViewRecord | None:
    return await read(FakeGateway(table), "00", "Counter.a", "card")


@pytest.fixture
def table() -> FakeTable:
    return FakeTable()


def test_the_row_of_a_view() -> None:
    """Pinned: this is what is in people's tables. The version is text because it may be beyond an Int32."""
    assert view_rows("1f", "Counter.a", view('{"a":1}', 9_000_000_000), "commit") == [
        {
            "PartitionKey": "1f",
            "RowKey": "e.Counter.a..card.0",
            "w": "commit",
            "name": "card",
            "shape": "0123456789abcdef",
            "version": "9000000000",
            "v0": '{"a":1}',
        }
    ]


async def test_a_shorter_view_is_read_without_what_a_longer_one_left(table: FakeTable) -> None:
    for length in (10, 2_900_000, 10, 1_500_000, 0, 2_900_000):
        await upsert(table, view(NOISE[:length]))
        found = await seen_in(table)
        assert found is not None
        assert found.text == NOISE[:length]


async def test_views_whose_names_begin_alike_are_kept_apart(table: FakeTable) -> None:
    for name in ("card", "card_", "card1", "cards"):
        rows = view_rows("00", "Counter.a", ViewRecord(name, "s", 1, name), "commit")
        await FakeGateway(table).submit([("upsert", row) for row in rows])
    found = await seen_in(table)
    assert found is not None
    assert found.text == "card"


async def test_a_repair_replaces_only_what_was_seen(table: FakeTable) -> None:
    gateway = FakeGateway(table)
    assert await write(gateway, "00", "Counter.a", view("first"), None)
    assert not await write(gateway, "00", "Counter.a", view("mine"), None)
    before = await seen_in(table)
    assert await write(gateway, "00", "Counter.a", view(NOISE), before)
    assert not await write(gateway, "00", "Counter.a", view("mine"), before)
    after = await seen_in(table)
    assert after is not None
    assert after.text == NOISE


async def test_a_repair_of_what_is_gone_is_none(table: FakeTable) -> None:
    await upsert(table, view())
    before = await seen_in(table)
    table.rows.clear()
    assert not await write(FakeGateway(table), "00", "Counter.a", view("mine"), before)
    assert table.rows == {}


async def test_a_repair_whose_answer_was_lost_is_not_repeated(table: FakeTable) -> None:
    gateway = FlakyGateway(table, "before")
    assert not await write(gateway, "00", "Counter.a", view(), None)
    assert len(gateway.sent) == 1


async def test_a_view_that_could_not_be_read_back_is_not_kept(table: FakeTable) -> None:
    gateway = FlakyGateway(table)
    assert not await write(gateway, "00", "Counter.a", view("x" * 4_000_000), None)
    assert gateway.sent == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: rows["e.Counter.a..card.0"].pop("shape"),
        lambda rows: rows["e.Counter.a..card.0"].update(version=7),
        lambda rows: rows["e.Counter.a..card.0"].update(version="7"),
        lambda rows: rows["e.Counter.a..card.0"].update(v0=1),
        lambda rows: rows.pop("e.Counter.a..card.1"),
        lambda rows: rows["e.Counter.a..card.1"].update(w="another"),
    ],
)
async def test_a_damaged_view_is_an_error_that_quotes_nothing(
    table: FakeTable, damage: Callable[[dict[str, Any]], object]
) -> None:
    await upsert(table, view(NOISE))
    rows: dict[str, Any] = {key: row for (_, key), row in table.rows.items()}
    damage(rows)
    table.rows = {("00", key): row for key, row in rows.items()}
    with pytest.raises(CorruptStreamError, match=r"^Counter\.a: the view card is damaged: ") as caught:
        await seen_in(table)
    assert NOISE[:9] not in str(caught.value)
