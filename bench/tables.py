"""Table Storage through every layer: esazure, the Azure SDK as one would use it, and aiohttp by hand.

Azurite is started, unless ESAZURE_TABLES names an account. What is compared is CPU, which carries over to the service;
the wall time is mostly the emulator's. Read `ceiling.py` next.
"""

# ruff: noqa: SLF001
from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from azure.data.tables.aio import TableClient

from bench.domain import (
    Account,
    FloorAccount,
    Line,
    SeldomSnapshottedAccount,
    SnapshottedAccount,
    account_of,
    check,
    state_after,
    store,
)
from bench.measuring import Settings, Work, race
from bench.raw import RawTable
from bench.report import Report
from esazure.keys import stream_name
from esazure.tables import TableStore, multipart
from esazure.tables.insertion import insertion
from esazure.tables.layout import SHARDS
from esazure.tables.rows import commit_key, commits_range, outbox_key, partition_of
from esazure.testing.azurite import Azurite

EVENTS = 1_000

MOST = 99
"""Events a commit at most, so that the outbox row is the hundredth of the SDK's transaction."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sides:
    """The three over one table."""

    ours: TableStore
    sdk: TableClient
    raw: RawTable


def raw_at(connection_string: str, table: str) -> RawTable:
    """By hand, with the parts of a connection string."""
    parts = dict(part.split("=", 1) for part in connection_string.strip(";").split(";"))
    return RawTable(parts["TableEndpoint"], parts["AccountName"], parts["AccountKey"], table)


@asynccontextmanager
async def opened() -> AsyncIterator[Sides]:
    """Over a new table."""
    table = f"t{uuid4().hex}"
    async with AsyncExitStack() as stack:
        address = os.environ.get("ESAZURE_TABLES") or stack.enter_context(Azurite()).connection_string
        ours = await stack.enter_async_context(TableStore.from_connection_string(address, table=table))
        sdk = await stack.enter_async_context(TableClient.from_connection_string(address, table))
        stack.push_async_callback(sdk.delete_table)
        raw = raw_at(address, table)
        await raw.open()
        stack.push_async_callback(raw.close)
        yield Sides(ours, sdk, raw)


async def run(report: Report, settings: Settings) -> None:
    """All of it."""
    async with opened() as sides:
        await persist(report, settings, sides)
        await load(report, settings, sides)
        await snapshot(report, settings, sides)
        await sizes(report, sides)


def commit_row(account: FloorAccount) -> Row:
    """The pending events as one row, as esazure stores them."""
    lines = account.lines()
    stream = stream_name("Account", str(account.id))
    return {
        "PartitionKey": partition_of(stream, SHARDS),
        "RowKey": commit_key(stream, account.version - len(lines) + 1),
        "cid": uuid4().hex,
        "n": len(lines),
        "at": datetime.now(UTC).isoformat(),
        "types": ",".join(dict.fromkeys(name for name, _ in lines)),
        "meta": "{}",
        "d0": "\n".join(f"{name} {json.decode()}" for name, json in lines),
    }


def outbox_row(commit: Row, stream: str) -> Row:
    """Its outbox row."""
    return {
        "PartitionKey": commit["PartitionKey"],
        "RowKey": outbox_key(stream, 1),
        "cid": commit["cid"],
        "n": commit["n"],
    }


def event_rows(account: FloorAccount) -> list[Row]:
    """The pending events as a row each."""
    commit, at = uuid4().hex, datetime.now(UTC).isoformat()
    first = account.version - len(account.pending) + 1
    return [
        {
            "PartitionKey": str(account.id),
            "RowKey": f"e.{version:010d}",
            "cid": commit,
            "at": at,
            "type": name,
            "meta": "{}",
            "data": json.decode(),
        }
        for version, (name, json) in enumerate(account.lines(), start=first)
    ]


async def persist(report: Report, settings: Settings, sides: Sides) -> None:
    """A new account with 1, 10 and 99 events, and its outbox row, in one transaction."""
    for events in (1, 10, MOST):
        result = await race(_persists(sides, events), settings)
        title = f"Tables, persist {events} event{'s' * (events > 1)} and an outbox row"
        spent = f"CPU ms: {result.milliseconds()}"
        if events == 1:
            report.at_least(5, f"{title}: SDK / esazure", result.ratio("SDK", "esazure"), spent)
            report.at_most(1.7, f"{title}: esazure / by hand", result.ratio("esazure", "by hand"), "")
            scheme = "SDK, query before"
            report.at_least(
                6, f"{title}: the original's query, then batch / esazure", result.ratio(scheme, "esazure"), ""
            )
            wall = f"wall ms: {result.milliseconds('wall')}"
            report.at_least(4, f"{title}: the same, wall time", result.ratio(scheme, "esazure", "wall"), wall)
        else:
            rows = result.ratio("SDK, a row for each event", "esazure")
            report.at_least(7 if events == 10 else 16, f"{title}: SDK, a row for each event / esazure", rows, spent)  # noqa: PLR2004 - as above
            report.shown(f"{title}: esazure / by hand", result.ratio("esazure", "by hand"), "")
        report.chart(title, result)


def _persists(sides: Sides, events: int) -> dict[str, Work]:
    ours, sdk, raw = sides.ours.events(Account), sides.sdk, sides.raw

    async def esazure() -> None:
        await ours.append(account_of(Account, events))

    async def hand() -> None:
        account = account_of(FloorAccount, events)
        row = commit_row(account)
        if await raw.create([row, outbox_row(row, stream_name("Account", str(account.id)))]) != 2:  # noqa: PLR2004 - rows
            raise AssertionError("not stored")

    async def by_sdk() -> None:
        account = account_of(FloorAccount, events)
        row = commit_row(account)
        outbox = outbox_row(row, stream_name("Account", str(account.id)))
        await sdk.submit_transaction([("create", row), ("create", outbox)])

    async def sdk_rows() -> None:
        account = account_of(FloorAccount, events)
        rows = event_rows(account)
        outbox = {"PartitionKey": str(account.id), "RowKey": "o.0000000001", "cid": rows[0]["cid"], "n": events}
        await sdk.submit_transaction([("create", row) for row in [*rows, outbox]])

    async def sdk_scheme() -> None:
        account = account_of(FloorAccount, events)
        rows = event_rows(account)
        stored = [row["RowKey"] async for row in sdk.query_entities(f"PartitionKey eq '{account.id}'")]
        if stored:
            raise AssertionError("a conflict")
        # It writes no outbox row; here it does, so that all do the same work.
        outbox = {"PartitionKey": str(account.id), "RowKey": "o.0000000001", "cid": rows[0]["cid"], "n": events}
        await sdk.submit_transaction([("create", row) for row in [*rows, outbox]])

    contenders: dict[str, Work] = {"by hand": hand, "esazure": esazure, "SDK": by_sdk}
    if events == 1:
        return {**contenders, "SDK, query before": sdk_scheme}
    return {**contenders, "SDK, a row for each event": sdk_rows}


def _lines(row: Row) -> list[tuple[str, str]]:
    return [(name, json) for name, _, json in (line.partition(" ") for line in row["d0"].split("\n"))]


async def load(report: Report, settings: Settings, sides: Sides) -> None:
    """A stream in commits of 3, into an account; by the SDK from a row for each event."""
    ours, sdk, raw = sides.ours.events(Account), sides.sdk, sides.raw
    account = await store(Account, ours.append, EVENTS)
    singly = account_of(FloorAccount, EVENTS)
    rows = event_rows(singly)
    for start in range(0, EVENTS, 100):
        await raw.create(rows[start : start + 100])
    stream = stream_name("Account", str(account.id))
    partition, (low, high) = partition_of(stream, SHARDS), commits_range(stream)

    async def esazure() -> None:
        check((await ours.rehydrate(account.id)).state, EVENTS - 1)

    async def hand() -> None:
        loaded = FloorAccount(account.id)
        for row in reversed(await raw.query(partition, low, high)):
            loaded.replay(_lines(row))
        check(loaded.state, EVENTS - 1)

    async def sdk_rows() -> None:
        found = sdk.query_entities(f"PartitionKey eq '{singly.id}'", results_per_page=1_000)
        lines: list[Line] = [(row["type"], row["data"]) async for row in found]
        check(FloorAccount(singly.id).replay(lines).state, EVENTS - 1)

    async def sdk_commits() -> None:
        condition = f"PartitionKey eq '{partition}' and RowKey ge '{low}' and RowKey le '{high}'"
        found = [row async for row in sdk.query_entities(condition, results_per_page=1_000)]
        loaded = FloorAccount(account.id)
        for row in reversed(found):
            loaded.replay(_lines(row))
        check(loaded.state, EVENTS - 1)

    contenders: dict[str, Work] = {
        "by hand": hand,
        "esazure": esazure,
        "SDK": sdk_commits,
        "SDK, a row for each event": sdk_rows,
    }
    result = await race(contenders, settings)
    title, spent = "Tables, load 1,000 events", f"CPU ms: {result.milliseconds()}"
    of_rows = result.ratio("SDK, a row for each event", "esazure")
    report.at_least(5, f"{title}: SDK, a row for each event / esazure", of_rows, spent)
    report.at_most(1.3, f"{title}: esazure / by hand", result.ratio("esazure", "by hand"), "")
    report.shown(f"{title}: SDK, the same rows / esazure", result.ratio("SDK", "esazure"), "")
    report.chart(title, result)


async def snapshot(report: Report, settings: Settings, sides: Sides) -> None:
    """The same stream with a snapshot ten events back, and how many requests that takes."""
    plain, often = sides.ours.events(Account), sides.ours.events(SnapshottedAccount)
    seldom = sides.ours.events(SeldomSnapshottedAccount)
    whole = await store(Account, plain.append, EVENTS)
    account = await store(SnapshottedAccount, often.append, EVENTS)
    other = await store(SeldomSnapshottedAccount, seldom.append, EVENTS)

    async def replay() -> None:
        check((await plain.rehydrate(whole.id)).state, EVENTS - 1)

    async def esazure() -> None:
        check((await often.rehydrate(account.id)).state, EVENTS - 1)

    async def esazure_seldom() -> None:
        check((await seldom.rehydrate(other.id)).state, EVENTS - 1)

    contenders = {"esazure": esazure, "esazure, every 90": esazure_seldom, "full replay": replay}
    result = await race(contenders, settings)
    title = "Tables, load 1,000 events, snapshot 10 back"
    spent = f"CPU ms: {result.milliseconds()}"
    report.at_least(5, f"{title}: full replay / esazure", result.ratio("full replay", "esazure"), spent)
    every_90 = result.ratio("full replay", "esazure, every 90")
    report.shown(f"{title}, one for 90 events: full replay / esazure", every_90, "")
    report.at_most(1, f"{title}: requests", await _requests(sides.ours, esazure), "", "requests")
    report.chart(title, result)


async def _requests(store: TableStore, work: Work) -> int:
    pipeline: Any = store._gateway._pipeline  # type: ignore[attr-defined]
    get: Callable[..., Any] = pipeline.get
    count = 0

    async def counted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return await get(*arguments)

    pipeline.get = counted
    try:
        await work()
    finally:
        del pipeline.get
    return count


async def sizes(report: Report, sides: Sides) -> None:
    """Bytes of the body that stores a commit of ten: one row, or Streamstone's header and a row for each event."""
    ours = sides.ours.events(Account, outbox=False)
    account = account_of(Account, 10)
    commit = await ours.append(account)
    if commit is None or account.state != state_after(9):
        raise AssertionError("nothing was stored")
    operations = insertion(commit.record, partition_of(commit.stream, SHARDS), (), outbox=False)
    mine = len(multipart.encode(operations, sides.sdk.url + "/" + sides.sdk.table_name, uuid4().hex))
    by_hand = account_of(FloorAccount, 10)
    header = {"PartitionKey": str(by_hand.id), "RowKey": "SS-HEAD", "Version": by_hand.version}
    rows = [
        {
            "PartitionKey": str(by_hand.id),
            "RowKey": f"SS-SE-{version:010d}",
            "Id": str(uuid4()),
            "Type": name,
            "Data": json.decode(),
            "Metadata": "{}",
            "Version": version,
        }
        for version, (name, json) in enumerate(by_hand.lines(), start=1)
    ]
    theirs = len(sides.raw.encode([header, *rows]))
    detail = f"bytes: esazure {mine:,}, Streamstone's {theirs:,}"
    report.at_most(0.5, "Tables, bytes sent for a commit of 10: esazure / Streamstone's layout", mine / theirs, detail)
