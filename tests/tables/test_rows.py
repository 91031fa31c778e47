"""Keys and columns, without a server."""

from __future__ import annotations

import random
import string
import zlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esazure import CorruptStreamError
from esazure.events import CommitRecord
from esazure.keys import MAX_COMMIT_BYTES, stream_name
from esazure.tables.rows import (
    Row,
    commit_key,
    commit_rows,
    commits_range,
    outbox_key,
    outbox_row,
    partition_of,
    records_of,
    touch_of,
)

NOISE = "".join(random.Random(1).choices(string.printable[:94], k=MAX_COMMIT_BYTES))  # noqa: S311 - a seed


def record(
    payload: str = 'Noted {"text":"hello"}', first: int = 1, count: int = 1, stream: str = "Counter.a"
) -> CommitRecord:
    return CommitRecord(stream, f"id{first}", first, count, "2026-01-01T00:00:00+00:00", '{"user":"ada"}', payload)


def stored(*records: CommitRecord) -> list[dict[str, Any]]:
    """As a query returns them: in the order of their keys."""
    rows = [row for record in records for row in commit_rows(record, "00")]
    return sorted((dict(row) for row in rows), key=lambda row: str(row["RowKey"]).encode("utf-16-be"))


def entity_size(row: Row) -> int:
    """By the service's formula for the size of an entity."""
    size = 4 + 2 * (len(str(row["PartitionKey"])) + len(str(row["RowKey"])))
    for name, value in row.items():
        if name in ("PartitionKey", "RowKey"):
            continue
        size += 8 + 2 * len(name)
        if isinstance(value, str):
            size += 4 + len(value.encode("utf-16-le"))
        elif isinstance(value, bytes):
            size += 4 + len(value)
        else:
            size += 4
    return size


def test_the_layout_of_an_ordinary_commit() -> None:
    """Pinned: this is what is in people's tables."""
    commit = record('A {"x":1}\nB {"y":2}\nA {}', first=7, count=3)
    assert commit_rows(commit, "1f") == [
        {
            "PartitionKey": "1f",
            "RowKey": "e.Counter.a.9999999992",
            "cid": "id7",
            "n": 3,
            "at": "2026-01-01T00:00:00+00:00",
            "types": "A,B",
            "meta": '{"user":"ada"}',
            "d0": 'A {"x":1}\nB {"y":2}\nA {}',
        }
    ]
    assert outbox_row(commit, "1f") == {
        "PartitionKey": "1f",
        "RowKey": "o.Counter.a.0000000007",
        "cid": "id7",
        "n": 3,
    }


def test_a_commit_that_carries_out_a_command_says_which() -> None:
    """Pinned, too; people who look at the table know the id as it was sent."""
    commit = replace(record(), command_id="pay-1 \U0001f600")
    (row,) = commit_rows(commit, "1f")
    assert row == {**commit_rows(record(), "1f")[0], "cmd": "pay-1 \U0001f600"}
    assert records_of("Counter.a", stored(commit)) == [commit]


def test_the_shard_of_a_stream_never_changes() -> None:
    """Pinned: another hash would lose every stream."""
    streams = [stream_name("Customer", name) for name in ("1", "ada@example.com", "")]
    assert [partition_of(stream, 64) for stream in streams] == ["15", "2a", "11"]


def test_newer_commits_come_first() -> None:
    keys = [commit_key("Counter.a", version) for version in (1, 2, 9, 10, 11, 99, 100, 9_999_999_998)]
    assert sorted(keys, reverse=True) == keys


def test_outbox_rows_come_in_version_order() -> None:
    keys = [outbox_key("Counter.a", version) for version in (1, 2, 9, 10, 11, 99, 100, 9_999_999_998)]
    assert sorted(keys) == keys


@given(st.lists(st.text(max_size=12), min_size=2, max_size=2, unique=True))
def test_no_range_holds_rows_of_another_stream(ids: list[str]) -> None:
    one, other = (stream_name("Counter", name) for name in ids)
    low, high = commits_range(one)
    foreign = [f"{commit_key(other, version)}{part}" for version in (1, 9_999_999_998) for part in ("", ".1", ".9")]
    assert not [key for key in foreign if low <= key <= high]
    own = [f"{commit_key(one, version)}{part}" for version in (1, 9_999_999_998) for part in ("", ".1", ".9")]
    assert [key for key in own if low <= key <= high] == own


def test_a_range_up_to_a_version_keeps_continuation_rows_of_that_version() -> None:
    low, high = commits_range("Counter.a", to_version=5, from_version=3)
    inside = [commit_key("Counter.a", 5), commit_key("Counter.a", 5) + ".1", commit_key("Counter.a", 3) + ".3"]
    assert all(low <= key <= high for key in inside)
    assert not low <= commit_key("Counter.a", 6) + ".1" <= high
    assert not low <= commit_key("Counter.a", 2) <= high


@pytest.mark.parametrize(
    ("payload", "rows"),
    [
        ("A {}", 1),
        ("A " + "x" * 32_766, 1),
        ("A " + "x" * 32_767, 1),
        ("A " + "x" * (15 * 32_768 - 2), 1),
        ("A " + "x" * (15 * 32_768 - 1), 1),
        ("A " + "é" * 400_000, 1),
        ("A " + "😀" * 245_758, 1),
        ("A " + "😀" * 245_759, 1),
        ("A " + NOISE[:1_500_000], 2),
        ("A " + NOISE[2:], 4),
    ],
    ids=[
        "tiny",
        "column full",
        "column over",
        "entity full",
        "compressed",
        "two bytes",
        "astral",
        "astral zip",
        "two",
        "max",
    ],
)
def test_every_size_comes_back_and_keeps_the_limits_of_the_service(payload: str, rows: int) -> None:
    commit = record(payload)
    written = commit_rows(commit, "00")
    assert len(written) == rows
    for row in written:
        assert entity_size(row) < 1_048_576
        for value in row.values():
            if isinstance(value, str):
                assert len(value.encode("utf-16-le")) <= 65_536
            if isinstance(value, bytes):
                assert len(value) <= 65_536
    assert records_of("Counter.a", stored(commit)) == [commit]


def test_the_largest_incompressible_commit_fits_one_transaction() -> None:
    body = sum(
        len(value) * 4 // 3
        for row in commit_rows(record("A " + NOISE[2:]), "00")
        for value in row.values()
        if isinstance(value, bytes)
    )
    assert body < 4 * 1024 * 1024 - 16_384


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=200), st.integers(1, 9_000_000_000))
def test_any_payload_comes_back(text: str, first: int) -> None:
    commit = record(f"A {text}", first=first)
    assert records_of("Counter.a", stored(commit)) == [commit]


def test_commits_come_back_oldest_first() -> None:
    commits = [record(first=first) for first in range(1, 12)]
    commits[4] = replace(commits[4], payload="A " + NOISE[:1_500_000])
    assert records_of("Counter.a", stored(*commits)) == commits


BIG = record("A " + NOISE[:1_500_000])


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: rows[0].pop("cid"),
        lambda rows: rows[0].pop("n"),
        lambda rows: rows[0].update(n=0),
        lambda rows: rows[0].update(n="1"),
        lambda rows: rows[0].update(at=1),
        lambda rows: rows[0].update(meta=b"{}"),
        lambda rows: rows[0].update(cmd=1),
        lambda rows: rows[0].update(d0="text"),
        lambda rows: rows[0].update(d0=b"not zlib"),
        lambda rows: rows[0].update(d3=rows[0]["d3"][:-1]),
        lambda rows: rows[1].update(d0=b""),
        lambda rows: rows[1].pop("d0"),
        lambda rows: rows.pop(1),
        lambda rows: rows.pop(0),
        lambda rows: rows[0].update(parts=2),
        lambda rows: rows[0].update(parts=-1),
        lambda rows: rows[0].update(parts="1"),
        lambda rows: rows[0].pop("parts"),
        lambda rows: rows[0].update(RowKey="e.Counter.a.12"),
        lambda rows: rows.insert(1, {"PartitionKey": "00", "RowKey": "e.Counter.a.note"}),
        lambda rows: rows[0].update(d0=zlib.compress(b"A {}" * 2_000_000), d1=None, parts=0),
        lambda rows: rows[0].update(d0=zlib.compress(b"A \xff"), d1=None, parts=0) or rows.pop(),
    ],
)
def test_a_damaged_row_is_an_error_that_names_the_stream_and_no_payload(damage: Any) -> None:
    rows = stored(BIG)
    damage(rows)
    with pytest.raises(CorruptStreamError, match=r"^Counter\.a: ") as caught:
        records_of("Counter.a", rows)
    assert NOISE[:20] not in str(caught.value)


@pytest.mark.parametrize("parts", [0, 1])
def test_a_commit_with_more_continuation_rows_than_it_says_is_damaged(parts: int) -> None:
    rows = stored(BIG)
    number = max(int(str(row["RowKey"])[-1]) for row in rows if str(row["RowKey"]).count(".") == 4)
    rows[0]["parts"] = parts
    rows += [{**rows[-1], "RowKey": f"{rows[0]['RowKey']}.{extra}"} for extra in range(number + 1, parts + 3)]
    with pytest.raises(CorruptStreamError, match="fewer or more continuation rows than it says"):
        records_of("Counter.a", rows)


def test_a_forged_row_cannot_fill_the_memory() -> None:
    bomb = zlib.compress(b"A" * (MAX_COMMIT_BYTES + 1))
    row = {**stored(record())[0], "z": True, "d0": bomb}
    with pytest.raises(CorruptStreamError, match="too long"):
        records_of("Counter.a", [row])


@pytest.mark.parametrize("tag", ["", "1", "1 ", ' W/"1"', 'x W/"1"', '-1 W/"1"'])
def test_what_never_was_a_tag_of_a_commit_touches_nothing(tag: str) -> None:
    assert touch_of("00", "Counter.a", tag) is None
