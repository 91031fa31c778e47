"""How much a client can do against a server that has nothing to do (`canned.py`), with 1, 8 and 64 tasks.

The server is a process of its own; the client has one core. Read `footprint.py` next.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from azure.data.tables.aio import TableClient

from bench.domain import FloorAccount, account_of
from bench.measuring import Settings, Work, race
from bench.raw import RawTable
from bench.report import Report
from bench.sdk_gateway import SdkTableGateway
from bench.tables import raw_at
from esazure.events import CommitRecord
from esazure.tables.gateway import ITableGateway
from esazure.tables.insertion import insertion
from esazure.tables.rest import TableGateway

TASKS = (1, 8, 64)
CALLS = 128
GOAL_TASKS = 64

_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def _payload() -> str:
    return "\n".join(f"{name} {text.decode()}" for name, text in account_of(FloorAccount, 1).lines())


def _page() -> str:
    """Twenty rows, as the service sends them."""
    rows = [
        {
            "odata.etag": 'W/"1"',
            "PartitionKey": "00",
            "RowKey": f"e.{number}",
            "Timestamp": "2026-01-01T00:00:00Z",
            "cid": uuid4().hex,
            "n": 1,
            "at": "2026-01-01T00:00:00+00:00",
            "types": "Opened",
            "meta": "{}",
            "d0": _payload(),
        }
        for number in range(20)
    ]
    return json.dumps({"value": rows}, separators=(",", ":"))


@contextmanager
def _served() -> Iterator[str]:
    """The server, and its connection string."""
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".json"))
        file.write(_page())
        file.flush()
        command = [sys.executable, str(Path(__file__).with_name("canned.py")), file.name]
        server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))  # noqa: S603 - ours
        stack.callback(server.kill)
        if server.stdout is None:
            raise AssertionError
        port = int(server.stdout.readline())
        endpoint = f"http://127.0.0.1:{port}/devstoreaccount1"
        yield f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={_KEY};TableEndpoint={endpoint};"


@asynccontextmanager
async def _clients(address: str) -> AsyncIterator[tuple[ITableGateway, ITableGateway, RawTable]]:
    sdk = SdkTableGateway(TableClient.from_connection_string(address, "ceiling"), patience=30)
    ours = TableGateway(TableClient.from_connection_string(address, "ceiling"), patience=30)
    raw = raw_at(address, "ceiling")
    async with AsyncExitStack() as stack:
        for each in (sdk, ours, raw):
            await each.open()
            stack.push_async_callback(each.close)
        yield sdk, ours, raw


async def run(report: Report, settings: Settings) -> None:
    """All of it."""
    with _served() as address:
        async with _clients(address) as (sdk, ours, raw):
            record = CommitRecord(
                f"Account.{uuid4()}", uuid4().hex, 1, 1, datetime.now(UTC).isoformat(), "{}", _payload()
            )
            batch = insertion(record, "00", (), outbox=True)
            rows = [operation[1] for operation in batch]
            writes: dict[str, Work] = {
                "SDK": lambda: sdk.submit(batch),
                "esazure": lambda: ours.submit(batch),
                "by hand": lambda: raw.create(rows),
            }
            reads: dict[str, Work] = {
                "SDK": lambda: sdk.query("00", "a", "z"),
                "esazure": lambda: ours.query("00", "a", "z"),
                "by hand": lambda: raw.query("00", "a", "z"),
            }
            if len(await ours.submit(batch)) != await raw.create(rows):
                raise AssertionError("the server does not answer as it should")
            if not len(await ours.query("00", "a", "z")) == len(await raw.query("00", "a", "z")) == 20:  # noqa: PLR2004 - rows
                raise AssertionError("the server does not answer as it should")
            for title, contenders in (("a transaction of 2 rows", writes), ("a query of 20 rows", reads)):
                for tasks in (GOAL_TASKS,) if settings.quick else TASKS:
                    await _compare(report, settings, f"client ceiling, {title}, {tasks} tasks", contenders, tasks)


async def _compare(report: Report, settings: Settings, title: str, contenders: dict[str, Work], tasks: int) -> None:
    async def many(work: Work) -> None:
        for _ in range(CALLS // tasks):
            await work()

    async def together(work: Work) -> None:
        await asyncio.gather(*[many(work) for _ in range(tasks)])

    def side(work: Work) -> Work:
        return lambda: together(work)

    result = await race({name: side(work) for name, work in contenders.items()}, settings, calls=CALLS)
    rates = ", ".join(f"{name} {1 / result.typical(name).wall:,.0f}" for name in contenders)
    ratio, spent = result.ratio("SDK", "esazure", "wall"), f"a second: {rates}"
    if tasks == GOAL_TASKS:
        report.at_least(3.5, f"{title}: esazure / SDK", ratio, spent)
        report.chart(title, result)
    else:
        report.shown(f"{title}: esazure / SDK", ratio, spent)
