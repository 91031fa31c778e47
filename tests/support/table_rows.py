"""Writing and damaging rows behind the store's back, with the plain SDK."""

from __future__ import annotations

from collections.abc import Sequence

from azure.data.tables import UpdateMode

from esazure.events import CommitRecord
from esazure.tables import TableStore
from esazure.tables.commands import command_rows
from esazure.tables.layout import settle
from esazure.tables.rows import commit_rows, partition_of


async def settle_all(store: TableStore) -> None:
    """What happens once for each shard happens now."""
    for partition in store.partitions:
        await settle(store._gateway, store._layout, partition)


async def fill(store: TableStore, records: Sequence[CommitRecord]) -> None:
    """Store many commits of one stream at once, a hundred rows a transaction; without outbox rows."""
    partition = partition_of(records[0].stream, store.shards)
    rows = [row for record in records for row in (*commit_rows(record, partition), *command_rows(record, partition))]
    for start in range(0, len(rows), 100):
        await store._gateway._client.submit_transaction([("create", row) for row in rows[start : start + 100]])


async def overwrite(store: TableStore, record: CommitRecord) -> None:
    """Replace the row of a commit."""
    for row in commit_rows(record, partition_of(record.stream, store.shards)):
        await store._gateway._client.upsert_entity(row, mode=UpdateMode.REPLACE)


async def remove(store: TableStore, record: CommitRecord) -> None:
    """Remove the row of a commit."""
    for row in commit_rows(record, partition_of(record.stream, store.shards)):
        await store._gateway._client.delete_entity(row)
