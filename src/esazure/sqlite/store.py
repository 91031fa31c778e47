"""`SqliteStore`: opens a file, and hands each call to one of two threads. Read `worker.py` next."""

from __future__ import annotations

import os
from asyncio import shield, wrap_future
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from datetime import datetime
from pathlib import Path
from sqlite3 import Connection
from typing import Self
from uuid import UUID

from typing_extensions import TypeVar

from esazure.documents import Document, DocumentPage, check_collection, check_document, check_page, decode_token
from esazure.errors import StoreError
from esazure.events import CommandRecord, CommitRecord
from esazure.ports import Lease, Swept, ViewRecord
from esazure.repository import utc_now
from esazure.sqlite import commits, documents, outbox, schema
from esazure.sqlite.file import OpenFile
from esazure.sqlite.worker import Worker
from esazure.store import Store

T = TypeVar("T")


class SqliteStore(Store):
    """Commits in one SQLite file: `async with SqliteStore("bank.db") as store: store.events(Customer)`.

    The file is created when it does not exist; it must be on a local disk, and stay what and where it is while it is
    open: no call goes on in a file that was removed or replaced. An append is on the disk when it returns.
    Other processes may use the file at the same time; a call that has waited for one of them for `busy_timeout`
    seconds fails with StoreUnavailableError.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, clock: Callable[[], datetime] = utc_now, busy_timeout: float = 5.0
    ) -> None:
        if os.fspath(path) in ("", ":memory:"):
            raise ValueError("SqliteStore needs a file: for a store in memory use esazure.memory.InMemoryStore")
        self.clock = clock
        self._path = Path(path).absolute()
        self._busy_timeout = busy_timeout
        self._store_id: UUID | None = None
        # Two, because WAL lets reads run beside a write: a load waits neither for an fsync nor for a locked file.
        self._writer: Worker | None = None
        self._reader: Worker | None = None

    @property
    def store_id(self) -> UUID:
        """Written into the file when it was created.

        Raises:
            StoreError: the store has not been opened yet.
        """
        if self._store_id is None:
            raise self._not_open()
        return self._store_id

    async def __aenter__(self) -> Self:
        """Open the file, or create it; several processes may do so at once.

        Raises:
            StoreMismatchError: the file has the layout of another version of esazure.
            StoreUnavailableError: another process keeps the file locked.
            StoreError: it cannot be opened, or is not ours; nothing was changed in it.
        """
        if self._writer is not None:
            raise StoreError(f"the store {self._path} is already open: use it, or make another SqliteStore")
        file = OpenFile(self._path)
        self._writer = Worker(self._path, self._busy_timeout, file)
        self._reader = Worker(self._path, self._busy_timeout, file)

        def prepare(db: Connection) -> UUID:
            store_id = schema.prepare(db, self._path, self._busy_timeout)
            db.execute("SELECT 1 FROM meta").fetchone()  # from here on there is a log
            file.opened()
            return store_id

        try:
            self._store_id = await self._writer.run(None, prepare)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the file when the work under way is done; closing again is fine."""
        writer, reader = self._writer, self._reader
        self._writer = self._reader = None
        if writer is not None and reader is not None:
            # Both are on their way before the first await, so cancelling this leaves nothing open.
            await shield(wrap_future(writer.close(after=reader.close())))

    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        """See `ICommitStore.insert`."""
        await self._write(record.stream, lambda db: commits.insert(db, record, outbox=outbox, views=views))

    async def read(
        self, stream: str, *, from_version: int = 1, to_version: int | None = None
    ) -> Sequence[CommitRecord]:
        """See `ICommitStore.read`."""
        return await self._read(stream, lambda db: commits.read(db, stream, from_version, to_version))

    async def load(
        self, stream: str, *, to_version: int | None = None, tag: str = "", within: int = 1_000
    ) -> AsyncGenerator[Sequence[CommitRecord], None]:
        """See `ICommitStore.load`."""
        found = await self._read(stream, lambda db: commits.load(db, stream, to_version, tag, within))
        while found:
            yield found
            if len(found) < commits.PAGE:
                break
            last = found[-1]
            found = await self._read(stream, lambda db: commits.page(db, last, to_version))  # noqa: B023 - run at once

    async def find_command(self, stream: str, command_id: str, *, forbid: bool = False) -> CommandRecord | None:
        """See `ICommitStore.find_command`."""
        if forbid:
            return await self._write(stream, lambda db: commits.forbid_command(db, stream, command_id))
        return await self._read(stream, lambda db: commits.find_command(db, stream, command_id))

    async def remember_command(
        self, stream: str, command_id: str, *, version: int, request: str | None = None
    ) -> CommandRecord:
        """See `ICommitStore.remember_command`."""
        return await self._write(stream, lambda db: commits.remember_command(db, stream, command_id, version, request))

    async def read_view(self, stream: str, name: str) -> ViewRecord | None:
        """See `ICommitStore.read_view`."""
        return await self._read(stream, lambda db: commits.read_view(db, stream, name))

    async def write_view(self, stream: str, view: ViewRecord, *, seen: ViewRecord | None) -> bool:
        """See `ICommitStore.write_view`; it may be gone after the power failed, and is computed anew then."""
        return await self._write(stream, lambda db: commits.write_view(db, stream, view, seen))

    async def scan(
        self,
        partition: str,  # noqa: ARG002 - there is one
        aggregate_type: str,
        *,
        after: str | None = None,
    ) -> AsyncIterator[Sequence[CommitRecord]]:
        """See `IStreamSource.scan`."""
        while found := await self._read(None, lambda db: commits.scan(db, aggregate_type, after)):  # noqa: B023 - run at once
            for stream in found:
                yield stream
            after = found[-1][0].stream

    async def unpublished(
        self, stream: str, *, before_version: int, limit: int | None = None
    ) -> Sequence[CommitRecord]:
        """See `ICommitStore.unpublished`."""
        return await self._read(stream, lambda db: outbox.unpublished(db, stream, before_version, limit))

    async def mark_published(self, record: CommitRecord) -> bool:
        """See `ICommitStore.mark_published`."""
        return await self._write(record.stream, lambda db: outbox.mark_published(db, record))

    @property
    def partitions(self) -> Sequence[str]:
        """One: a file has one writer at a time."""
        return ("0",)

    async def sweep(self, partition: str, *, after: tuple[str, int] | None = None, limit: int = 1_000) -> Swept:
        """See `IOutboxStore.sweep`; ages by SQLite's own clock."""
        return await self._read(None, lambda db: outbox.sweep(db, partition, after or ("", 0), limit))

    async def write_lease(self, partition: str, seen: Lease | None, *, owner: str, epoch: int) -> Lease | None:
        """See `IOutboxStore.write_lease`."""
        return await self._write(None, lambda db: outbox.write_lease(db, partition, seen, owner=owner, epoch=epoch))

    async def set_aside(self, record: CommitRecord, reason: str) -> None:
        """See `IOutboxStore.set_aside`; what was set aside is in the table `quarantine`."""
        await self._write(record.stream, lambda db: outbox.set_aside(db, record, reason))

    async def read_document(self, collection: str, key: str) -> Document | None:
        """See `IDocumentStore.read_document`."""
        check_collection(collection)
        check_document(key)
        return await self._read(collection, lambda db: documents.read(db, collection, key))

    async def write_document(self, collection: str, key: str, text: str, *, seen: str | None) -> str | None:
        """See `IDocumentStore.write_document`."""
        check_collection(collection)
        check_document(key, text)
        return await self._write(collection, lambda db: documents.write(db, collection, key, text, seen))

    async def delete_document(self, collection: str, key: str, *, seen: str, erase: bool = False) -> bool:  # noqa: ARG002 - here it makes no difference
        """See `IDocumentStore.delete_document`; nothing remains in either case."""
        check_collection(collection)
        check_document(key)
        return await self._write(collection, lambda db: documents.delete(db, collection, key, seen))

    async def list_documents(self, collection: str, *, after: str | None = None, limit: int = 100) -> DocumentPage:
        """See `IDocumentStore.list_documents`; by key."""
        check_collection(collection)
        check_page(limit)
        key = decode_token(after)
        return await self._read(collection, lambda db: documents.page(db, collection, key, limit))

    async def clear_documents(self, collection: str) -> None:
        """See `IDocumentStore.clear_documents`."""
        check_collection(collection)
        while await self._write(collection, lambda db: documents.clear(db, collection)):
            pass

    async def _read(self, subject: str | None, work: Callable[[Connection], T]) -> T:
        return await self._open(self._reader).run(subject, work)

    async def _write(self, subject: str | None, work: Callable[[Connection], T]) -> T:
        return await self._open(self._writer).run(subject, work)

    def _open(self, worker: Worker | None) -> Worker:
        if worker is None:
            raise self._not_open()
        return worker

    def _not_open(self) -> StoreError:
        return StoreError(f"the store {self._path} is not open: use it inside `async with SqliteStore(...) as store`")
