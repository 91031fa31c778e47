"""What waits to be published: rows that are written with their commits, read by relays, removed after the broker.

Read `store.py` next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from esazure.errors import CorruptStreamError, StoreUnavailableError
from esazure.events import CommitRecord
from esazure.ports import Lease, Swept
from esazure.tables.columns import Row
from esazure.tables.gateway import PAGE, ITableGateway, Operation, OutcomeUnknownError, RowExistsError, RowMissingError
from esazure.tables.pauses import rest
from esazure.tables.rows import (
    LEASE_KEY,
    SWEEP_RANGE,
    commits_range,
    first_version_of,
    lease_of,
    outbox_key,
    outbox_row_of,
    quarantine_row,
    records_of,
)

_MARK_SECONDS = 5.0
_MARK_PAUSE = 0.4


async def unpublished(
    gateway: ITableGateway, partition: str, stream: str, before_version: int, limit: int | None
) -> Sequence[CommitRecord]:
    """See `ICommitStore.unpublished`. One request when nothing waits, two otherwise."""
    low, high = outbox_key(stream, 0), outbox_key(stream, before_version - 1)
    rows = await gateway.query(partition, low, high, limit)
    if not rows:
        return ()
    waiting = {row.get("cid"): first_version_of(row) for row in rows}
    first, last = min(waiting.values()), max(waiting.values())
    commits = await gateway.query(partition, *commits_range(stream, from_version=first, to_version=last))
    found = [record for record in records_of(stream, commits) if record.commit_id in waiting]
    if len(found) != len(rows):
        raise CorruptStreamError(f"{stream}: between versions {first} and {last} an outbox row has lost its commit")
    return found


async def remove(gateway: ITableGateway, partition: str, record: CommitRecord, *, deadline: float) -> bool:
    """See `ICommitStore.mark_published`. One request."""
    return await _remove(gateway, partition, record, [], deadline)


async def set_aside(
    gateway: ITableGateway, partition: str, record: CommitRecord, reason: str, now: datetime, *, deadline: float
) -> None:
    """See `IOutboxStore.set_aside`. One transaction: kind `o` becomes kind `q`."""
    row = quarantine_row(record, partition, reason, now)
    await _remove(gateway, partition, record, [("upsert", row)], deadline)


async def sweep(gateway: ITableGateway, partition: str, after: tuple[str, int] | None, limit: int) -> Swept:
    """See `IOutboxStore.sweep`. One request, or a few when the service gives less than asked for."""
    low, high = SWEEP_RANGE
    if after is not None:
        low = outbox_key(after[0], after[1] + 1)
    top = min(limit + 1, PAGE)  # the lease is before the rows
    rows, now = await gateway.query_with_time(partition, low, high, top)
    lease = next((lease_of(row) for row in rows if row["RowKey"] == LEASE_KEY), None)
    waiting = (outbox_row_of(row, now) for row in rows)
    found = [row for row in waiting if row is not None]
    return Swept(found[:limit], lease, more=len(rows) == top)


async def write_lease(
    gateway: ITableGateway, partition: str, seen: Lease | None, *, owner: str, epoch: int
) -> Lease | None:
    """See `IOutboxStore.write_lease`. One request."""
    row: Row = {"PartitionKey": partition, "RowKey": LEASE_KEY, "owner": owner, "epoch": epoch}
    try:
        if seen is None:
            (tag,) = await gateway.submit([("create", row)])
        else:
            (tag,) = await gateway.submit([("replace", row, seen.tag)])
    except (RowExistsError, RowMissingError, OutcomeUnknownError):
        return None  # a lease that may be ours counts as lost: that costs time, never an event
    return Lease(owner, epoch, tag)


async def _remove(
    gateway: ITableGateway, partition: str, record: CommitRecord, also: Sequence[Operation], deadline: float
) -> bool:
    row: Row = {"PartitionKey": partition, "RowKey": outbox_key(record.stream, record.first_version)}
    asked_before = False
    with suppress(TimeoutError):
        # A persist waits for this, and its events are stored: not for as long as a Retry-After may say.
        async with asyncio.timeout(min(_MARK_SECONDS, deadline)):
            while True:
                try:
                    await gateway.submit([("delete", row), *also])
                except RowMissingError:
                    return asked_before  # after a lost answer it was, as far as anybody knows, this call
                except OutcomeUnknownError as unknown:
                    asked_before = True
                    await rest(_MARK_PAUSE, unknown.retry_after)
                else:
                    return True
    raise StoreUnavailableError(
        f"{record.stream}: the outbox row of version {record.first_version} could not be removed"
    )
