"""What a write and a read cost: the SDK, this library's gateway and aiohttp by hand, side by side in one process.

    PYTHONPATH=src:. python bench/tables.py [rounds]

In each round every contender does the same work in a random order; the figures are medians of the rounds, and the
ratios medians of the ratios within a round, so that a disturbed round cancels out. CPU is this process alone. Azurite
is started, unless ESAZURE_TABLES names an account. Results are compared before anything is measured.
"""

# ruff: noqa: ASYNC220, B023, C901, D101, D102, D103, PLR2004, S101, S603
from __future__ import annotations

import asyncio
import gc
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from azure.data.tables.aio import TableClient
from bench.raw import RawTable
from bench.sdk_gateway import SdkTableGateway

from esazure import AggregateRoot, DomainEvent
from esazure.events import CommitRecord
from esazure.tables import TableStore
from esazure.tables.gateway import ITableGateway, Operation
from esazure.tables.insertion import insertion
from esazure.tables.rest import TableGateway
from esazure.tables.rows import commit_key, commits_range
from esazure.testing.azurite import Azurite

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 15
SDK_OPTIONS: dict[str, Any] = {"retry_total": 3, "connection_timeout": 5, "read_timeout": 20}
PARTITION = "00"

Work = Callable[[int], Awaitable[object]]


class Deposited(DomainEvent):
    tx_id: UUID
    at: datetime
    amount: Decimal
    currency: str
    memo: str


class Account(AggregateRoot[Deposited, str]):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.balance, self.count = Decimal(0), 0

    def deposit(self, number: int) -> None:
        memo = f"payment no {number} for services"
        self.record(
            Deposited(tx_id=uuid4(), at=datetime.now(UTC), amount=Decimal("12.34") + number, currency="EUR", memo=memo)
        )

    def when(self, event: Deposited) -> None:
        self.balance += event.amount
        self.count += 1


def account(events: int) -> Account:
    made = Account(uuid4().hex)
    for number in range(events):
        made.deposit(number)
    return made


def lines(events: int) -> list[str]:
    return [f"Deposited {event.model_dump_json()}" for event in account(events).pending]


def record(stream: str, first: int, texts: list[str]) -> CommitRecord:
    at = datetime.now(UTC).isoformat()
    return CommitRecord(stream, uuid4().hex, first, len(texts), at, "{}", "\n".join(texts))


async def measure(title: str, contenders: dict[str, Work], *, times: int, rounds: int = ROUNDS) -> None:
    """Print CPU and wall of each contender; the last one is what the ratios refer to."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name in random.sample(list(contenders), len(contenders)):
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            await contenders[name](times)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if number:  # the first round warms up
                taken[name].append((cpu / times * 1e3, wall / times * 1e3))
    base = taken[list(contenders)[-1]]
    print(f"\n{title}\n{'':28}{'CPU ms':>9}{'ratio':>8}{'wall ms':>10}{'ratio':>8}")
    for name, spent in taken.items():
        cpu_ratio = statistics.median(a[0] / b[0] for a, b in zip(spent, base, strict=True))
        wall_ratio = statistics.median(a[1] / b[1] for a, b in zip(spent, base, strict=True))
        cpu, wall = statistics.median(a[0] for a in spent), statistics.median(a[1] for a in spent)
        print(f"  {name:26}{cpu:9.3f}{cpu_ratio:8.2f}{wall:10.3f}{wall_ratio:8.2f}", flush=True)


async def write_cases(sdk: ITableGateway, ours: ITableGateway, raw: RawTable) -> None:
    for events in (1, 10, 100):
        texts = lines(events)

        def operations(texts: list[str] = texts) -> list[Operation]:
            return insertion(record(f"Account.{uuid4().hex}", 1, texts), PARTITION, (), outbox=True)

        seen = []
        for submit in (sdk.submit, ours.submit, lambda batch: raw.create([each[1] for each in batch])):
            batch = operations()
            await submit(batch)
            key = str(batch[0][1]["RowKey"])
            (stored,) = await ours.query(PARTITION, key, key)
            seen.append({name: stored[name] for name in ("n", "types", "meta", "d0")})
        assert seen[0] == seen[1] == seen[2]

        async def by_gateway(gateway: ITableGateway, times: int) -> None:
            for batch in [operations() for _ in range(times)]:
                assert len(await gateway.submit(batch)) == 2

        async def by_sdk_rows(times: int, events: int = events) -> None:
            for _ in range(times):
                stream = f"Account.{uuid4().hex}"
                rows = [
                    insertion(record(stream, 1 + number, [texts[number]]), PARTITION, (), outbox=number == events - 1)
                    for number in range(min(events, 99))
                ]
                await sdk.submit([operation for row in rows for operation in row])

        async def by_hand(times: int) -> None:
            for batch in [operations() for _ in range(times)]:
                assert await raw.create([each[1] for each in batch]) == 2

        await measure(
            f"store {events} event(s): one entity and its outbox row",
            {
                **({"SDK, a row for each event": by_sdk_rows} if events > 1 else {}),
                "SDK": lambda times: by_gateway(sdk, times),
                "esazure": lambda times: by_gateway(ours, times),
                "aiohttp by hand": by_hand,
            },
            times=max(4, 20 // events),
        )


async def conflict_case(sdk: ITableGateway, ours: ITableGateway, raw: RawTable) -> None:
    batch = insertion(record(f"Account.{uuid4().hex}", 1, lines(1)), PARTITION, (), outbox=True)
    await ours.submit(batch)

    async def refused(gateway: ITableGateway, times: int) -> None:
        for _ in range(times):
            try:
                await gateway.submit(batch)
            except Exception as error:  # noqa: BLE001 - its type is compared
                assert type(error).__name__ == "RowExistsError"  # noqa: PT017

    async def by_hand(times: int) -> None:
        for _ in range(times):
            assert await raw.create([each[1] for each in batch]) == 0

    contenders: dict[str, Work] = {
        "SDK": lambda times: refused(sdk, times),
        "esazure": lambda times: refused(ours, times),
        "aiohttp by hand": by_hand,
    }
    await measure("a conflict", contenders, times=20)


async def load_cases(client: TableClient, sdk: ITableGateway, ours: ITableGateway, raw: RawTable) -> None:
    decode = Deposited.__pydantic_validator__.validate_json
    for events in (20, 1000):
        texts = lines(events)
        streams = {1: f"Account.{uuid4().hex}", 3: f"Account.{uuid4().hex}"}
        for size, stream in streams.items():
            rows = [
                operation
                for first in range(0, events, size)
                for operation in insertion(
                    record(stream, first + 1, texts[first : first + size]), PARTITION, (), outbox=False
                )
            ]
            for start in range(0, len(rows), 100):
                await ours.submit(rows[start : start + 100])

        def replay(rows: Any, stream: str, events: int = events) -> tuple[int, Decimal]:
            loaded = Account(stream)
            for row in reversed(rows):
                for line in row["d0"].split("\n"):
                    loaded.when(decode(line.partition(" ")[2]))
            assert loaded.count == events
            return loaded.count, loaded.balance

        low, high = commits_range(streams[3])
        found = [
            replay(await sdk.query(PARTITION, low, high), streams[3]),
            replay(await ours.query(PARTITION, low, high), streams[3]),
            replay(await raw.query(PARTITION, low, high), streams[3]),
        ]
        assert found[0] == found[1] == found[2]

        async def sdk_rows(times: int, stream: str = streams[1]) -> None:
            single_low, single_high = commits_range(stream)
            for _ in range(times):
                condition = f"PartitionKey eq '{PARTITION}' and RowKey ge '{single_low}' and RowKey le '{single_high}'"
                replay([row async for row in client.query_entities(condition)], stream)

        async def by(query: Any, times: int, stream: str = streams[3], low: str = low, high: str = high) -> None:
            for _ in range(times):
                replay(await query(PARTITION, low, high), stream)

        await measure(
            f"load {events} events in commits of 3, into objects",
            {
                "SDK, a row for each event": sdk_rows,
                "SDK": lambda times: by(sdk.query, times),
                "esazure": lambda times: by(ours.query, times),
                "aiohttp by hand": lambda times: by(raw.query, times),
            },
            times=max(2, 100 // events),
        )
        await measure(
            f"the rows of {events} events in commits of 3, not decoded",
            {
                "SDK": lambda times: many(times, lambda: sdk.query(PARTITION, low, high)),
                "esazure": lambda times: many(times, lambda: ours.query(PARTITION, low, high)),
                "aiohttp by hand": lambda times: many(times, lambda: raw.query(PARTITION, low, high)),
            },
            times=max(2, 100 // events),
        )


async def many(times: int, work: Callable[[], Awaitable[object]]) -> None:
    for _ in range(times):
        await work()


async def whole_cases(connection_string: str, table: str, raw: RawTable) -> None:
    """Through every layer: repository, codec, store."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(TableStore.from_connection_string(connection_string, table=table))
        slow = await stack.enter_async_context(TableStore.from_connection_string(connection_string, table=table))
        sdk = SdkTableGateway(TableClient.from_connection_string(connection_string, table, **SDK_OPTIONS), patience=30)
        slow._gateway, fast = sdk, slow._gateway  # noqa: SLF001 - the only difference
        stack.push_async_callback(fast.close)
        dump, decode = Deposited.__pydantic_serializer__.to_json, Deposited.__pydantic_validator__.validate_json

        async def append(through: TableStore, times: int) -> None:
            accounts = through.events(Account)
            for _ in range(times):
                await accounts.append(account(1))

        async def append_by_hand(times: int) -> None:
            for _ in range(times):
                made = account(1)
                payload = "\n".join(f"Deposited {dump(event).decode()}" for event in made.pending)
                row = {
                    "PartitionKey": PARTITION,
                    "RowKey": commit_key(f"Account.{made.id}", 1),
                    "cid": uuid4().hex,
                    "n": 1,
                    "at": datetime.now(UTC).isoformat(),
                    "types": "Deposited",
                    "meta": "{}",
                    "d0": payload,
                }
                outbox = {"PartitionKey": PARTITION, "RowKey": f"o.Account.{made.id}.0000000001", "cid": "x", "n": 1}
                assert await raw.create([row, outbox]) == 2

        contenders: dict[str, Work] = {
            "SDK": lambda times: append(slow, times),
            "esazure": lambda times: append(store, times),
            "aiohttp and pydantic by hand": append_by_hand,
        }
        await measure("repository.append of a new aggregate with 1 event", contenders, times=20)

        stored = Account(uuid4().hex)
        for _ in range(334):
            for number in range(3):
                stored.deposit(number)
            await store.events(Account).append(stored)
        low, high = commits_range(f"Account.{stored.id}")
        (partition,) = {
            shard
            for shard in store.partitions
            if await store._gateway.query(shard, low, high, 1)  # noqa: SLF001
        }

        async def rehydrate(through: TableStore, times: int) -> None:
            for _ in range(times):
                loaded = await through.events(Account).rehydrate(stored.id)
                assert (loaded.version, loaded.balance) == (1002, stored.balance)

        async def rehydrate_by_hand(times: int) -> None:
            for _ in range(times):
                loaded = Account(stored.id)
                for row in reversed(await raw.query(partition, low, high)):
                    for line in row["d0"].split("\n"):
                        loaded.when(decode(line.partition(" ")[2]))
                assert loaded.balance == stored.balance

        contenders = {
            "SDK": lambda times: rehydrate(slow, times),
            "esazure": lambda times: rehydrate(store, times),
            "aiohttp and pydantic by hand": rehydrate_by_hand,
        }
        await measure("repository.rehydrate of 1,002 events in commits of 3", contenders, times=2)


async def ceiling(connection_string: str) -> None:
    """Operations a second with 64 tasks, against a server that has nothing to do."""
    rows = [
        f'{{"odata.etag":"W/\\"1\\"","PartitionKey":"00","RowKey":"e.{number}","Timestamp":"2026-01-01T00:00:00Z",'
        f'"cid":"{uuid4().hex}","n":1,"at":"2026-01-01T00:00:00+00:00","types":"Deposited","meta":"{{}}",'
        f'"d0":"{lines(1)[0].replace(chr(34), chr(92) + chr(34))}"}}'
        for number in range(20)
    ]
    batch = insertion(record(f"Account.{uuid4().hex}", 1, lines(1)), PARTITION, (), outbox=True)
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".json"))
        file.write(f'{{"value":[{",".join(rows)}]}}')
        file.flush()
        server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("canned.py")), file.name], stdout=subprocess.PIPE
        )
        stack.callback(server.wait)
        stack.callback(server.kill)
        assert server.stdout is not None
        port = int(server.stdout.readline())
        address = re.sub(r"(TableEndpoint=https?://)[^/;]+", rf"\g<1>127.0.0.1:{port}", connection_string)
        sdk, ours, raw = contenders_at(address, "ceiling")
        for each in (sdk, ours, raw):
            await each.open()

        async def race(times: int, work: Callable[[], Awaitable[object]]) -> None:
            await asyncio.gather(*[many(times // 64, work) for _ in range(64)])

        write: dict[str, Work] = {
            "SDK": lambda times: race(times, lambda: sdk.submit(batch)),
            "esazure": lambda times: race(times, lambda: ours.submit(batch)),
            "aiohttp by hand": lambda times: race(times, lambda: raw.create([each[1] for each in batch])),
        }
        read: dict[str, Work] = {
            "SDK": lambda times: race(times, lambda: sdk.query("00", "a", "z")),
            "esazure": lambda times: race(times, lambda: ours.query("00", "a", "z")),
            "aiohttp by hand": lambda times: race(times, lambda: raw.query("00", "a", "z")),
        }
        await measure("64 tasks, canned server: a transaction of two rows", write, times=640)
        await measure("64 tasks, canned server: a query of 20 rows", read, times=640)
        for each in (sdk, ours, raw):
            await each.close()


def contenders_at(connection_string: str, table: str) -> tuple[SdkTableGateway, TableGateway, RawTable]:
    account_name, key, endpoint = (
        re.search(rf"{name}=([^;]+)", connection_string)[1]  # type: ignore[index]
        for name in ("AccountName", "AccountKey", "TableEndpoint")
    )
    return (
        SdkTableGateway(TableClient.from_connection_string(connection_string, table, **SDK_OPTIONS), patience=30),
        TableGateway(TableClient.from_connection_string(connection_string, table, **SDK_OPTIONS), patience=30),
        RawTable(endpoint, account_name, key, table),
    )


async def main(connection_string: str) -> None:
    table = f"t{uuid4().hex}"
    sdk, ours, raw = contenders_at(connection_string, table)
    for each in (sdk, ours, raw):
        await each.open()
    await ours.create_table()
    await write_cases(sdk, ours, raw)
    await conflict_case(sdk, ours, raw)
    await load_cases(ours._client, sdk, ours, raw)  # noqa: SLF001 - the SDK's own client
    await whole_cases(connection_string, table, raw)
    await ceiling(connection_string)
    for each in (sdk, ours, raw):
        await each.close()


if __name__ == "__main__":
    with ExitStack() as resources:
        address = os.environ.get("ESAZURE_TABLES") or resources.enter_context(Azurite()).connection_string
        asyncio.run(main(address))
