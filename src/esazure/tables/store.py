"""`TableStore`: opens a table, writes commits with their outbox rows in one transaction, reads them in one query."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Self
from urllib.parse import urlsplit
from uuid import UUID

from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.core.credentials_async import AsyncTokenCredential
from azure.data.tables.aio import TableClient

from esazure.documents import Document, DocumentPage, check_collection, check_document, check_page
from esazure.errors import StoreError, StoreUnavailableError
from esazure.events import CommandRecord, CommitRecord
from esazure.home import Home
from esazure.ports import Lease, Swept, ViewRecord
from esazure.repository import utc_now
from esazure.store import Store
from esazure.tables import commands, documents, inline, outbox, reading
from esazure.tables.append import append
from esazure.tables.document_rows import Place
from esazure.tables.document_writes import put, remove
from esazure.tables.gateway import ITableGateway
from esazure.tables.insertion import insertion
from esazure.tables.layout import MAX_SHARDS, Layout, are_shards, open_layout
from esazure.tables.loading import load_commits
from esazure.tables.pipeline import OPTIONS
from esazure.tables.rest import TableGateway
from esazure.tables.rows import partition_of

DEADLINE = 30.0

_CLIENT = OPTIONS  # tests are less patient

_TABLE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{2,62}")


class TableStore(Store):
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
            shards: partitions to spread streams over, a power of two up to 256; 16 for a new store. It is stored and
                never changes: None takes what is there, another than what is there is refused.
            deadline: seconds that opening, or any one request, may take; after which an append without a definite
                answer raises AppendOutcomeUnknownError.
            clock: stamps commits.

        Raises:
            ValueError: a table name, a number of shards or a deadline that cannot be.
        """
        _check(table, shards, deadline)
        if "=" in endpoint or ";" in endpoint:
            raise ValueError("this is a connection string, or holds a SAS: use from_connection_string, or a credential")
        self._set_up(lambda: TableClient(endpoint, table, credential=credential), shards, deadline, clock)

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
            self._set_up(lambda: TableClient.from_connection_string(connection_string, table), shards, deadline, clock)
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
        client = make_client()
        if "@" in urlsplit(client.url).netloc:
            raise ValueError("the endpoint has a user or a password in it: give a credential instead")
        self._gateway: ITableGateway = TableGateway(client, patience=deadline, options=_CLIENT)
        self._deadline = deadline
        self._wanted_shards = shards
        self._opened: Layout | None = None
        self._home = Home()

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
        self._home = Home()
        self._gateway = TableGateway(self._make_client(), patience=self._deadline, options=_CLIENT)
        try:
            async with asyncio.timeout(self._deadline):  # for all of its requests
                await self._gateway.open()
                self._opened = await open_layout(self._gateway, self._wanted_shards)
        except BaseException as error:
            await self._gateway.close()
            if isinstance(error, TimeoutError):
                raise StoreUnavailableError(f"{self!r} was not opened within {self._deadline:g} s: try again") from None
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections; in a process that was forked off since nothing is done.

        Raises:
            StoreError: the event loop it was opened in runs elsewhere: close it there.
        """
        if not self._home.is_of_this_process:
            self._opened = None
            return
        if self._home.is_busy_elsewhere:
            raise StoreError(f"{self!r} {self._home.why_not_here()}")
        self._opened = None
        await self._gateway.close()

    @property
    def store_id(self) -> UUID:
        """Chosen when the store was created, kept in its layout row."""
        return self._layout.store_id

    @property
    def shards(self) -> int:
        """How many partitions the streams are spread over."""
        return self._layout.shards

    @property
    def _table(self) -> ITableGateway:
        """The way there, for an open store and where it was opened."""
        if self._layout and (why := self._home.why_not_here()):
            raise StoreError(f"{self!r} {why}")
        return self._gateway

    @property
    def _layout(self) -> Layout:
        if self._opened is None:
            raise StoreError("this store is not open: use it inside `async with store:`")
        return self._opened

    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        """One transaction, one request unless it fails, three more once for each shard. See `ICommitStore.insert`.

        A table that was emptied since it was opened is used on, under the same id, with a warning in the log.
        """
        partition = self._partition(record.stream)
        operations = insertion(record, partition, views, outbox=outbox)
        await append(self._table, self._layout, record, partition, operations, deadline=self._deadline)

    async def read(
        self, stream: str, *, from_version: int = 1, to_version: int | None = None
    ) -> Sequence[CommitRecord]:
        """One request for each 1,000 commits, and one more to look for where they begin. See `ICommitStore.read`."""
        partition = self._partition(stream)
        return await reading.read_commits(self._table, partition, stream, from_version, to_version)

    def load(
        self, stream: str, *, to_version: int | None = None, tag: str = "", within: int = 1_000
    ) -> AsyncGenerator[Sequence[CommitRecord], None]:
        """One request for each 1,000 commits; to a snapshot it is one. See `ICommitStore.load`."""
        return load_commits(self._table, self._partition(stream), stream, to_version, tag, within)

    async def find_command(self, stream: str, command_id: str, *, forbid: bool = False) -> CommandRecord | None:
        """One request; to forbid what was carried out takes two. See `ICommitStore.find_command`."""
        partition = self._partition(stream)
        if forbid:
            found = await self._note(partition, stream, command_id, CommandRecord())
        else:
            handled = await commands.read(self._table, partition, stream, command_id)
            found = CommandRecord() if handled is None else handled.record
        return None if found.is_forbidden else found

    async def remember_command(
        self, stream: str, command_id: str, *, version: int, request: str | None = None
    ) -> CommandRecord:
        """One request; two when something is known of it. See `ICommitStore.remember_command`."""
        wanted = CommandRecord(answered_at=version, request=request)
        found = await self._note(self._partition(stream), stream, command_id, wanted)
        if found.is_forbidden:
            raise found.as_error(stream)
        return found

    async def _note(self, partition: str, stream: str, command_id: str, wanted: CommandRecord) -> CommandRecord:
        return await commands.note(
            self._table, self._layout, partition, stream, command_id, wanted, deadline=self._deadline
        )

    async def read_view(self, stream: str, name: str) -> ViewRecord | None:
        """One request. See `ICommitStore.read_view`."""
        return await inline.read(self._table, self._partition(stream), stream, name)

    async def write_view(self, stream: str, view: ViewRecord, *, seen: ViewRecord | None) -> bool:
        """One request; False also when nobody knows. See `ICommitStore.write_view`."""
        return await inline.write(self._table, self._partition(stream), stream, view, seen)

    def scan(
        self, partition: str, aggregate_type: str, *, after: str | None = None
    ) -> AsyncIterator[Sequence[CommitRecord]]:
        """One request for each 1,000 rows, and one page of them in memory. See `IStreamSource.scan`."""
        return reading.scan_streams(self._table, partition, aggregate_type, after)

    async def unpublished(
        self, stream: str, *, before_version: int, limit: int | None = None
    ) -> Sequence[CommitRecord]:
        """One request when nothing waits, two otherwise. See `ICommitStore.unpublished`."""
        return await outbox.unpublished(self._table, self._partition(stream), stream, before_version, limit)

    async def mark_published(self, record: CommitRecord) -> bool:
        """One request. See `ICommitStore.mark_published`."""
        partition = self._partition(record.stream)
        return await outbox.remove(self._table, partition, record, deadline=self._deadline)

    @property
    def partitions(self) -> Sequence[str]:
        """See `IOutboxStore.partitions`."""
        return [f"{shard:02x}" for shard in range(self.shards)]

    async def sweep(self, partition: str, *, after: tuple[str, int] | None = None, limit: int = 1_000) -> Swept:
        """One request. See `IOutboxStore.sweep`."""
        return await outbox.sweep(self._table, partition, after, limit)

    async def write_lease(self, partition: str, seen: Lease | None, *, owner: str, epoch: int) -> Lease | None:
        """One request. See `IOutboxStore.write_lease`."""
        return await outbox.write_lease(self._table, partition, seen, owner=owner, epoch=epoch)

    async def set_aside(self, record: CommitRecord, reason: str) -> None:
        """One transaction. See `IOutboxStore.set_aside`."""
        partition = self._partition(record.stream)
        await outbox.set_aside(self._table, partition, record, reason, self.clock(), deadline=self._deadline)

    async def read_document(self, collection: str, key: str) -> Document | None:
        """One request. See `IDocumentStore.read_document`."""
        check_collection(collection)
        check_document(key)
        return await documents.read(self._table, collection, key)

    async def write_document(self, collection: str, key: str, text: str, *, seen: str | None) -> str | None:
        """One request. See `IDocumentStore.write_document`."""
        check_collection(collection)
        check_document(key, text)
        return await put(self._table, Place.of(collection, key), text, seen, deadline=self._deadline)

    async def delete_document(self, collection: str, key: str, *, seen: str, erase: bool = False) -> bool:
        """One request. See `IDocumentStore.delete_document`."""
        check_collection(collection)
        check_document(key)
        place = Place.of(collection, key)
        if erase:
            return await remove(self._table, place, seen, deadline=self._deadline)
        return await put(self._table, place, None, seen, deadline=self._deadline) is not None

    async def list_documents(self, collection: str, *, after: str | None = None, limit: int = 100) -> DocumentPage:
        """One request for a small collection. See `IDocumentStore.list_documents`."""
        check_collection(collection)
        check_page(limit)
        return await documents.page(self._table, collection, after, limit)

    async def clear_documents(self, collection: str) -> None:
        """One request for each 1,000 rows to read them, and for each 100 to delete them."""
        check_collection(collection)
        await documents.clear(self._table, collection, deadline=self._deadline)

    def _partition(self, stream: str) -> str:
        return partition_of(stream, self.shards)


def _check(table: str, shards: int | None, deadline: float) -> None:
    if _TABLE_NAME.fullmatch(table) is None:
        raise ValueError(f"a table name has 3 to 63 ASCII letters and digits and starts with a letter, not {table!r}")
    if shards is not None and not are_shards(shards):
        raise ValueError(f"shards must be a power of two from 1 to {MAX_SHARDS}, not {shards}")
    if not deadline > 0:
        raise ValueError(f"deadline must be above 0 seconds, not {deadline}")
