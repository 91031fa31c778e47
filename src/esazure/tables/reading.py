"""Reads that may take more than one request: a stream from some version on, all streams of a type, a long text."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from esazure.events import CommitRecord
from esazure.keys import encode_part
from esazure.tables.columns import DamagedTextError, StoredRow, are_whole
from esazure.tables.gateway import ITableGateway
from esazure.tables.rows import commits_range, records_of, stream_of_row

_READS = 3


async def read_commits(
    gateway: ITableGateway, partition: str, stream: str, from_version: int, to_version: int | None
) -> list[CommitRecord]:
    """See `ICommitStore.read`. One request for each 1,000 commits, and one more unless a commit begins there.

    Raises:
        CorruptStreamError: a row cannot be what was written.
        StoreError: it could not be read.
    """
    low, high = commits_range(stream, from_version=from_version, to_version=to_version)
    records = records_of(stream, await gateway.query(partition, low, high))
    if from_version <= 1 or (records and records[0].first_version == from_version):
        return records
    newest = from_version - 1 if to_version is None else min(from_version - 1, to_version)
    low, high = commits_range(stream, to_version=newest)
    rows = await gateway.query(partition, low, high, 1)  # newest first
    if rows and "parts" in rows[0]:
        key = str(rows[0]["RowKey"])
        rows = await gateway.query(partition, key, f"{key}.9")
    return [record for record in records_of(stream, rows) if record.last_version >= from_version] + records


async def scan_streams(
    gateway: ITableGateway, partition: str, aggregate_type: str, after: str | None
) -> AsyncGenerator[Sequence[CommitRecord], None]:
    """See `IStreamSource.scan`. One request for each 1,000 rows; in memory are one page and one stream.

    Raises:
        CorruptStreamError: a row cannot be what was written.
        StoreError: it could not be read.
    """
    prefix = f"e.{encode_part(aggregate_type)}"
    low = f"{prefix}." if after is None else max(f"{prefix}.", f"e.{after}/")  # the slash follows the dot
    stream, rows = "", list[StoredRow]()
    async with aclosing(gateway.pages((partition, partition), (low, f"{prefix}/"))) as pages:
        async for page in pages:
            for row in page:
                belongs_to = stream_of_row(row)
                if belongs_to is None:
                    continue
                if belongs_to != stream and rows:
                    yield records_of(stream, rows)
                    rows = []
                stream = belongs_to
                rows.append(row)
    if rows:
        yield records_of(stream, rows)


async def read_text_rows(gateway: ITableGateway, partition: str, name: str) -> Sequence[StoredRow]:
    """The rows of a text that may be replaced meanwhile, all of the same write; empty when there is none. One request.

    Raises:
        DamagedTextError: they do not belong together, however often they are read.
        StoreError: they could not be read.
    """
    for _ in range(_READS):
        rows = await gateway.query(partition, f"{name}.0", f"{name}.9")
        if not rows or are_whole(rows):
            return rows
        # An answer that came in two pages, with a write in between.
    raise DamagedTextError("its rows do not belong together")
