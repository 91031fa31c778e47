"""`TableStore`: opens a table, writes commits with their outbox rows in one transaction, reads them in one query."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Self
from uuid import UUID, uuid4

from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.core.credentials_async import AsyncTokenCredential
from azure.data.tables.aio import TableClient

from esazure.errors import CorruptStreamError, StoreError, StoreMismatchError, StoreUnavailableError
from esazure.events import CommitRecord
from esazure.ports import IOutboxStore, Lease, Swept
from esazure.repository import CommitStore, utc_now
from esazure.tables.append import append
from esazure.tables.gateway import (
    Operation,
    OutcomeUnknownError,
    RowExistsError,
    RowMissingError,
    SdkTableGateway,
    TableMissingError,
    replacing,
)
from esazure.tables.rows import (
    LAYOUT,
    LEASE_KEY,
    META_KEY,
    SWEEP_RANGE,
    Row,
    commit_rows,
    commits_range,
    first_version_of,
    lease_of,
    outbox_key,
    outbox_row,
    outbox_row_of,
    partition_of,
    quarantine_row,
    records_of,
)

SHARDS = 64
MAX_SHARDS = 256
DEADLINE = 30.0

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TABLE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{2,62}")
_MARK_SECONDS = 5.0
_MARK_PAUSE = 0.4


class TableStore(CommitStore, IOutboxStore):
    """A store in one table of an Azure Storage account, or of Azurite.

    Typically::

        async with TableStore.from_connection_string(os.environ["ESAZURE_TABLES"]) as store:
            customers = EventsService(store.events(Customer), producer)

    Opening creates the table and its layout row when they are missing; a principal that may not create tables needs
    them to exist. One object serves any number of tasks.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        credential: AzureNamedKeyCredential | AzureSasCredential | AsyncTokenCredential,
        table: str = "events",
        shards: int | None = None,
        deadline: float = DEADLINE,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Name the account and the credential, one of azure-core's or azure-identity's (`esazure[identity]`).

        Args:
            endpoint: of the table service, such as `https://account.table.core.windows.net`.
            credential: as the SDK takes it.
            table: 3 to 63 letters and digits.
            shards: partitions to spread streams over, a power of two up to 256; 64 for a new store. It is stored and
                never changes: None takes what is there, another than what is there is refused.
            deadline: seconds after which an append without a definite answer raises AppendOutcomeUnknownError.
            clock: stamps commits.

        Raises:
            ValueError: a table name, a number of shards or a deadline that cannot be.
        """
        _check(table, shards, deadline)
        if "=" in endpoint or ";" in endpoint:
            raise ValueError("this is a connection string, or holds a SAS: use from_connection_string, or a credential")
        self._set_up(lambda: TableClient(endpoint, table, credential=credential, **_CLIENT), shards, deadline, clock)

    @classmethod
    def from_connection_string(
        cls,
        connection_string: str,
        *,
        table: str = "events",
        shards: int | None = None,
        deadline: float = DEADLINE,
        clock: Callable[[], datetime] = utc_now,
    ) -> Self:
        """The same from a connection string of the account, of a SAS, or of Azurite.

        Raises:
            ValueError: not a connection string, or see the constructor.
        """
        _check(table, shards, deadline)
        self = cls.__new__(cls)
        try:
            self._set_up(
                lambda: TableClient.from_connection_string(connection_string, table, **_CLIENT), shards, deadline, clock
            )
        except (ValueError, TypeError, AttributeError):
            # The SDK's text may quote the string.
            raise ValueError("this is not a connection string of a storage account") from None
        return self

    def _set_up(
        self, make_client: Callable[[], TableClient], shards: int | None, deadline: float, clock: Callable[[], datetime]
    ) -> None:
        self.clock = clock
        # A client cannot be opened again once it was closed; the first one shows now whether it can be made at all.
        self._make_client = make_client
        self._gateway = SdkTableGateway(make_client(), patience=deadline)
        self._deadline = deadline
        self._wanted_shards = shards
        self._opened: tuple[UUID, int] | None = None

    def __repr__(self) -> str:
        return f"<TableStore {self._gateway.address}>"

    async def __aenter__(self) -> Self:
        """Connect, and read or create the layout row.

        Raises:
            StoreMismatchError: the store has another number of shards, or a layout this version does not know.
            StoreUnavailableError: no answer.
            StoreError: refused; check the credential and its roles.
        """
        if self._opened is not None:
            raise StoreError(f"{self!r} is open already: use it, or make another")
        self._gateway = SdkTableGateway(self._make_client(), patience=self._deadline)
        await self._gateway.open()
        try:
            self._opened = await self._read_layout() or await self._create_layout()
        except BaseException:
            await self._gateway.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        self._opened = None
        await self._gateway.close()

    @property
    def store_id(self) -> UUID:
        """Chosen when the store was created, kept in its layout row."""
        return self._layout[0]

    @property
    def shards(self) -> int:
        """How many partitions the streams are spread over."""
        return self._layout[1]

    async def insert(self, record: CommitRecord, *, outbox: bool) -> None:
        """One transaction, one request unless it fails. See `ICommitStore.insert`."""
        partition = partition_of(record.stream, self.shards)
        rows = commit_rows(record, partition)
        if outbox:
            rows.append(outbox_row(record, partition))
        operations: list[Operation] = [("create", row) for row in rows]
        await append(self._gateway, record, partition, operations, deadline=self._deadline)

    async def read(self, stream: str, *, to_version: int | None = None) -> Sequence[CommitRecord]:
        """One request for each 1,000 commits. See `ICommitStore.read`."""
        low, high = commits_range(stream, to_version=to_version)
        return records_of(stream, await self._gateway.query(partition_of(stream, self.shards), low, high))

    async def unpublished(
        self, stream: str, *, before_version: int, limit: int | None = None
    ) -> Sequence[CommitRecord]:
        """One request when nothing waits, two otherwise. See `ICommitStore.unpublished`."""
        partition = partition_of(stream, self.shards)
        low, high = outbox_key(stream, 0), outbox_key(stream, before_version - 1)
        rows = await self._gateway.query(partition, low, high, limit)
        if not rows:
            return ()
        waiting = {row.get("cid"): first_version_of(row) for row in rows}
        first, last = min(waiting.values()), max(waiting.values())
        commits = await self._gateway.query(partition, *commits_range(stream, from_version=first, to_version=last))
        found = [record for record in records_of(stream, commits) if record.commit_id in waiting]
        if len(found) != len(rows):
            raise CorruptStreamError(f"{stream}: between versions {first} and {last} an outbox row has lost its commit")
        return found

    async def mark_published(self, record: CommitRecord) -> bool:
        """One request. See `ICommitStore.mark_published`."""
        return await self._remove_from_outbox(record, [])

    @property
    def partitions(self) -> Sequence[str]:
        """See `IOutboxStore.partitions`."""
        return [f"{shard:02x}" for shard in range(self.shards)]

    async def sweep(self, partition: str) -> Swept:
        """One request for each 1,000 rows. See `IOutboxStore.sweep`."""
        rows, now = await self._gateway.query_with_time(partition, *SWEEP_RANGE)
        lease = next((lease_of(row) for row in rows if row["RowKey"] == LEASE_KEY), None)
        waiting = (outbox_row_of(row, now) for row in rows)
        return Swept([row for row in waiting if row is not None], lease)

    async def write_lease(self, partition: str, seen: Lease | None, *, owner: str, epoch: int) -> Lease | None:
        """One request. See `IOutboxStore.write_lease`."""
        row: Row = {"PartitionKey": partition, "RowKey": LEASE_KEY, "owner": owner, "epoch": epoch}
        try:
            if seen is None:
                (tag,) = await self._gateway.submit([("create", row)])
            else:
                (tag,) = await self._gateway.submit([replacing(row, seen.tag)])
        except (RowExistsError, RowMissingError, OutcomeUnknownError):
            return None  # a lease that may be ours counts as lost: that costs time, never an event
        return Lease(owner, epoch, tag)

    async def set_aside(self, record: CommitRecord, reason: str) -> None:
        """One transaction: kind `o` becomes kind `q`. See `IOutboxStore.set_aside`."""
        row = quarantine_row(record, partition_of(record.stream, self.shards), reason, self.clock())
        await self._remove_from_outbox(record, [("upsert", row)])

    async def _remove_from_outbox(self, record: CommitRecord, also: list[Operation]) -> bool:
        partition = partition_of(record.stream, self.shards)
        row: Row = {"PartitionKey": partition, "RowKey": outbox_key(record.stream, record.first_version)}
        asked_before = False
        with suppress(TimeoutError):
            # A persist waits for this, and its events are stored: not for as long as a Retry-After may say.
            async with asyncio.timeout(min(_MARK_SECONDS, self._deadline)):
                while True:
                    try:
                        await self._gateway.submit([("delete", row), *also])
                    except RowMissingError:
                        return asked_before  # after a lost answer it was, as far as anybody knows, this call
                    except OutcomeUnknownError as unknown:
                        asked_before = True
                        # With jitter: what failed together must not come back together.
                        wait = (unknown.retry_after or 0.0) + random.uniform(0, _MARK_PAUSE)  # noqa: S311 - not a secret
                        await asyncio.sleep(wait)
                    else:
                        return True
        raise StoreUnavailableError(
            f"{record.stream}: the outbox row of version {record.first_version} could not be removed"
        )

    @property
    def _layout(self) -> tuple[UUID, int]:
        if self._opened is None:
            raise StoreError("this store is not open: use it inside `async with store:`")
        return self._opened

    async def _read_layout(self) -> tuple[UUID, int] | None:
        partition, key = META_KEY
        try:
            rows = await self._gateway.query(partition, key, key)
        except TableMissingError:
            return None
        if not rows:
            return None
        layout, shards, store_id = rows[0].get("layout"), rows[0].get("shards"), rows[0].get("sid")
        if layout != LAYOUT:
            raise StoreMismatchError(f"{self!r} has layout {layout}, this version of esazure reads layout {LAYOUT}")
        if type(shards) is not int or not _are_shards(shards) or not _UUID.fullmatch(str(store_id)):
            raise CorruptStreamError(f"{self!r}: its layout row is damaged")
        if self._wanted_shards not in (None, shards):
            raise StoreMismatchError(
                f"{self!r} was created with {shards} shards and cannot be opened with {self._wanted_shards}: "
                "streams would not be found; leave `shards` out"
            )
        return UUID(str(store_id)), shards

    async def _create_layout(self) -> tuple[UUID, int]:
        partition, key = META_KEY
        layout: Row = {
            "PartitionKey": partition,
            "RowKey": key,
            "layout": LAYOUT,
            "shards": self._wanted_shards or SHARDS,
            "sid": str(uuid4()),
        }
        # What counts is the row that is there in the end: another process may create it at the same moment. The table
        # itself only when it is missing: who may write rows may not always create tables.
        with suppress(RowExistsError, OutcomeUnknownError):
            try:
                await self._gateway.submit([("create", layout)])
            except TableMissingError:
                await self._gateway.create_table()
                await self._gateway.submit([("create", layout)])
        created = await self._read_layout()
        if created is None:
            raise StoreUnavailableError(f"{self!r} could not be created: try again")
        return created


# Reads are repeated by the SDK; its own defaults would wait for minutes. Writes are repeated by `append` alone.
_CLIENT: Mapping[str, Any] = {
    "retry_total": 3,
    "retry_backoff_factor": 0.2,
    "retry_backoff_max": 2,
    "connection_timeout": 5,
    "read_timeout": 20,
}


def _check(table: str, shards: int | None, deadline: float) -> None:
    if _TABLE_NAME.fullmatch(table) is None:
        raise ValueError(f"a table name has 3 to 63 ASCII letters and digits and starts with a letter, not {table!r}")
    if shards is not None and not _are_shards(shards):
        raise ValueError(f"shards must be a power of two from 1 to {MAX_SHARDS}, not {shards}")
    if not deadline > 0:
        raise ValueError(f"deadline must be above 0 seconds, not {deadline}")


def _are_shards(shards: int) -> bool:
    return 1 <= shards <= MAX_SHARDS and not shards & (shards - 1)
