"""A commit with all that belongs to it is one transaction that the service takes, or is refused before any request."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from uuid import uuid4

import pytest
from tests.support import table_rows
from tests.support.fake_tables import FakeTable, fake_store
from tests.support.table_proxy import TableProxy
from tests.tables.test_rows import NOISE, entity_size

from esazure import CommitTooLargeError
from esazure.keys import (
    MAX_COMMIT_BYTES,
    MAX_DENSE_COMMIT_BYTES,
    MAX_METADATA_CHARACTERS,
    MAX_SNAPSHOT_CHARACTERS,
    MAX_STREAM_NAME,
)
from esazure.limits import MAX_INLINE_VIEWS, check_limits
from esazure.ports import ViewRecord
from esazure.tables import TableStore
from esazure.tables.columns import MAX_ROWS, text_of, text_rows
from esazure.tables.insertion import insertion
from esazure.testing._counter import commit_of

LONGEST = "Counter." + "a" * (MAX_STREAM_NAME - len("Counter."))
METADATA = json.dumps({"x": "é" * (MAX_METADATA_CHARACTERS - 8)}, ensure_ascii=False, separators=(",", ":"))
COMMIT = replace(commit_of(LONGEST, 1, "a", metadata=METADATA), command_id="é" * 256)


def views_of(*texts: str) -> list[ViewRecord]:
    return [ViewRecord(f"view{number}", "0123456789abcdef", 1, text) for number, text in enumerate(texts)]


def test_everything_is_created_but_views_replace() -> None:
    commit = replace(commit_of("Counter.a", 1, "a"), command_id="pay-1")
    operations = insertion(commit, "00", views_of("one", "two"), outbox=True)
    assert [(kind, str(row["RowKey"])[:2]) for kind, row, *_ in operations] == [
        *(("create", kind) for kind in ("e.", "o.", "c.")),
        *(("upsert", "e."),) * 2,
    ]
    assert [
        str(row["RowKey"])[:2] for _, row, *_ in insertion(replace(commit, command_id=None), "00", (), outbox=False)
    ] == ["e."]


@pytest.mark.parametrize(
    "text",
    ["x" * 491_520, "x" * 491_521, '"' * 491_520, "é" * 491_520, "😀" * 245_760, "\x00" * 491_520, NOISE[:3_000_000]],
    ids=["plain", "one more", "quotes", "two bytes", "astral", "nul", "dense"],
)
def test_rows_that_are_replaced_keep_the_limits_of_the_service_and_of_azurite(text: str) -> None:
    rows = text_rows("00", "a", text, "w")
    for row in rows:
        assert entity_size(row) < 1_048_576
        body = sum(
            len(value) * 4 // 3 if isinstance(value, bytes) else len(json.dumps(value)) for value in row.values()
        )
        assert body < 1_030_000
    assert text_of(rows) == text


async def test_as_many_views_as_a_class_may_have_fit_beside_the_largest_commit() -> None:
    largest = replace(COMMIT, payload=f"Noted {NOISE[: MAX_DENSE_COMMIT_BYTES - 1_000]}", command_id="x")
    check_limits(largest, views_of(*["{}"] * MAX_INLINE_VIEWS))
    async with fake_store(FakeTable()) as store:
        await store.insert(largest, outbox=True, views=views_of(*["{}"] * MAX_INLINE_VIEWS))


async def test_more_views_than_a_transaction_holds_are_refused_before_any_request() -> None:
    table = FakeTable()
    async with fake_store(table) as store:
        await table_rows.settle_all(store)
        table.requests = 0
        await store.insert(COMMIT, outbox=True, views=views_of(*["{}"] * (MAX_ROWS - 4)))
        assert table.requests == 1
        with pytest.raises(CommitTooLargeError, match="97 inline views"):
            await store.insert(COMMIT, outbox=True, views=views_of(*["{}"] * (MAX_ROWS - 3)))
        assert table.requests == 1


@pytest.mark.parametrize(
    ("view", "is_kept"), [("{}", True), (NOISE[: MAX_DENSE_COMMIT_BYTES - 200], False)], ids=["small", "large"]
)
def test_a_snapshot_is_left_out_rather_than_the_commit_refused(view: str, *, is_kept: bool) -> None:
    commit = replace(COMMIT, snapshot="tag digest " + "\u20ac" * MAX_SNAPSHOT_CHARACTERS)
    check_limits(commit, views_of(view))
    (_, row, *_), *_ = insertion(commit, "00", views_of(view), outbox=True)
    assert ("s0" in row) == is_kept
    assert row["cid"] == commit.commit_id


async def test_what_only_fits_when_it_is_compressed_as_one_is_refused_before_any_request() -> None:
    """The same thirty kilobytes of noise in many views: together they compress to those thirty, apart they do not."""
    noise = "".join(random.Random(1).choices(list(map(chr, range(128))), k=1_270_000))  # noqa: S311 - a seed
    views = views_of(*[noise[:30_000]] * 80)
    commit = replace(COMMIT, payload=noise)
    check_limits(commit, views)
    table = FakeTable()
    async with fake_store(table) as store:
        table.requests = 0
        with pytest.raises(CommitTooLargeError, match="more than one transaction holds"):
            await store.insert(commit, outbox=True, views=views)
        assert table.requests == 0


@pytest.mark.azurite
@pytest.mark.parametrize(
    ("payload", "views"),
    [
        (NOISE[: MAX_DENSE_COMMIT_BYTES - 6], ()),
        ("é" * 491_514, ("é" * 491_520,)),
        ("é" * 491_514, ("é" * 491_520, "é" * 491_520)),
        ("😀" * 245_757, ("😀" * 245_760, "😀" * 245_760)),
        (NOISE[:1_000_000], (NOISE[-1_000_000:], NOISE[1_000_000:2_000_000])),
        (NOISE[:100], (NOISE[: MAX_DENSE_COMMIT_BYTES - 200],)),
        ("x" * (MAX_COMMIT_BYTES // 2), ("y" * (MAX_COMMIT_BYTES // 2 - 10),)),
    ],
    ids=["commit alone", "plain and plain", "three plain", "astral", "three dense", "view alone", "compressible"],
)
async def test_whatever_is_within_the_limits_is_stored_in_one_request(
    tables: str, payload: str, views: tuple[str, ...]
) -> None:
    commit = replace(COMMIT, payload=f"Noted {payload}")
    check_limits(commit, views_of(*views))
    async with TableProxy(tables) as proxy:
        store = TableStore.from_connection_string(proxy.connection_string, table=f"t{uuid4().hex}", shards=2)
        async with store:
            await table_rows.settle_all(store)
            proxy.seen.clear()
            await store.insert(commit, outbox=True, views=views_of(*views))
            assert proxy.seen == {"transaction": 1}
            assert await store.read(LONGEST) == [commit]
            for view in views_of(*views):
                found = await store.read_view(LONGEST, view.name)
                assert found is not None
                assert found.text == view.text
