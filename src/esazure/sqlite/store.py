"""`SqliteStore`: opens a file, and hands each call to one of two threads. Read `worker.py` next."""

from __future__ import annotations

import os
from asyncio import shield, wrap_future
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Self
from uuid import UUID

from esazure.errors import StoreError
from esazure.events import CommitRecord
from esazure.ports import IOutboxStore, Lease, Swept
from esazure.repository import CommitStore, utc_now
from esazure.sqlite import statements
from esazure.sqlite.worker import Worker


class SqliteStore(CommitStore, IOutboxStore):
    """Commits in one SQLite file: `async with SqliteStore("bank.db") as store: store.events(Customer)`.

    The file is created when it does not exist; it must be on a local disk. An append is on the disk when it returns.
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
        self._writer = Worker(self._path, self._busy_timeout)
        self._reader = Worker(self._path, self._busy_timeout)
        try:
            self._store_id = await self._writer.run(
                None, lambda db: statements.prepare(db, self._path, self._busy_timeout)
            )
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

    async def insert(self, record: CommitRecord, *, outbox: bool) -> None:
        """See `ICommitStore.insert`."""
        await self._open(self._writer).run(record.stream, lambda db: statements.insert(db, record, outbox=outbox))

    async def read(self, stream: str, *, to_version: int | None = None) -> Sequence[CommitRecord]:
        """See `ICommitStore.read`."""
        return await self._open(self._reader).run(stream, lambda db: statements.read(db, stream, to_version))

    async def unpublished(
        self, stream: str, *, before_version: int, limit: int | None = None
    ) -> Sequence[CommitRecord]:
        """See `ICommitStore.unpublished`."""
        return await self._open(self._reader).run(
            stream, lambda db: statements.unpublished(db, stream, before_version, limit)
        )

    async def mark_published(self, record: CommitRecord) -> bool:
        """See `ICommitStore.mark_published`."""
        return await self._open(self._writer).run(record.stream, lambda db: statements.mark_published(db, record))

    @property
    def partitions(self) -> Sequence[str]:
        """One: a file has one writer at a time."""
        return ("0",)

    async def sweep(self, partition: str) -> Swept:
        """See `IOutboxStore.sweep`; ages by SQLite's own clock."""
        return await self._open(self._reader).run(None, lambda db: statements.sweep(db, partition))

    async def write_lease(self, partition: str, seen: Lease | None, *, owner: str, epoch: int) -> Lease | None:
        """See `IOutboxStore.write_lease`."""
        return await self._open(self._writer).run(
            None, lambda db: statements.write_lease(db, partition, seen, owner=owner, epoch=epoch)
        )

    async def set_aside(self, record: CommitRecord, reason: str) -> None:
        """See `IOutboxStore.set_aside`; what was set aside is in the table `quarantine`."""
        await self._open(self._writer).run(record.stream, lambda db: statements.set_aside(db, record, reason))

    def _open(self, worker: Worker | None) -> Worker:
        if worker is None:
            raise self._not_open()
        return worker

    def _not_open(self) -> StoreError:
        return StoreError(f"the store {self._path} is not open: use it inside `async with SqliteStore(...) as store`")
