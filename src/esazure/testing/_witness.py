"""Between the faults and the real things: tells a witness what was carried out, and not what the caller heard.

Read `faults.py` next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

from esazure.documents import Document, DocumentPage
from esazure.errors import CommandHandledError, ConcurrencyError
from esazure.events import CommandRecord, Commit, CommitRecord
from esazure.ports import IEventProducer, Lease, Swept, ViewRecord
from esazure.repository import CommitStore
from esazure.store import Store
from esazure.testing._evidence import Witness
from esazure.testing._faulty import documents_of, outbox_of, source_of

__all__ = ["Witness", "WitnessedProducer", "WitnessedStore"]


class WitnessedStore(Store):
    """A store that tells a witness."""

    def __init__(self, store: CommitStore, witness: Witness) -> None:
        self.clock = store.clock
        self._store = store
        self._witness = witness

    @property
    def store_id(self) -> UUID:
        """The store's."""
        return self._store.store_id

    @property
    def partitions(self) -> Sequence[str]:
        """The store's."""
        return outbox_of(self._store).partitions

    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        """Noted before and after."""
        self._witness.inserting(record, outbox=outbox, views=views)
        try:
            await self._store.insert(record, outbox=outbox, views=views)
        except (ConcurrencyError, CommandHandledError):
            self._witness.conflicted(record)
            raise
        self._witness.inserted(record)

    async def read(
        self, stream: str, *, from_version: int = 1, to_version: int | None = None
    ) -> Sequence[CommitRecord]:
        """Noted."""
        records = await self._store.read(stream, from_version=from_version, to_version=to_version)
        self._witness.read(records)
        return records

    async def find_command(self, stream: str, command_id: str, *, forbid: bool = False) -> CommandRecord | None:
        """Noted if it forbids."""
        handled = await self._store.find_command(stream, command_id, forbid=forbid)
        if forbid and (handled is None or handled.first_version is None):
            self._witness.forbade(stream, command_id)
        return handled

    async def remember_command(
        self, stream: str, command_id: str, *, version: int, request: str | None = None
    ) -> CommandRecord:
        """Noted if no commit may follow."""
        handled = await self._store.remember_command(stream, command_id, version=version, request=request)
        if handled.first_version is None:
            self._witness.forbade(stream, command_id)
        return handled

    async def read_view(self, stream: str, name: str) -> ViewRecord | None:
        """Passed on."""
        return await self._store.read_view(stream, name)

    async def write_view(self, stream: str, view: ViewRecord, *, seen: ViewRecord | None) -> bool:
        """Passed on."""
        return await self._store.write_view(stream, view, seen=seen)

    async def scan(
        self, partition: str, aggregate_type: str, *, after: str | None = None
    ) -> AsyncIterator[Sequence[CommitRecord]]:
        """Noted."""
        async for records in source_of(self._store).scan(partition, aggregate_type, after=after):
            self._witness.read(records)
            yield records

    async def unpublished(
        self, stream: str, *, before_version: int, limit: int | None = None
    ) -> Sequence[CommitRecord]:
        """Noted."""
        records = await self._store.unpublished(stream, before_version=before_version, limit=limit)
        self._witness.read(records)
        return records

    async def mark_published(self, record: CommitRecord) -> bool:
        """Passed on."""
        return await self._store.mark_published(record)

    async def sweep(self, partition: str, *, after: tuple[str, int] | None = None, limit: int = 1_000) -> Swept:
        """Passed on."""
        return await outbox_of(self._store).sweep(partition, after=after, limit=limit)

    async def write_lease(self, partition: str, seen: Lease | None, *, owner: str, epoch: int) -> Lease | None:
        """Passed on."""
        return await outbox_of(self._store).write_lease(partition, seen, owner=owner, epoch=epoch)

    async def set_aside(self, record: CommitRecord, reason: str) -> None:
        """Noted."""
        await outbox_of(self._store).set_aside(record, reason)
        self._witness.set_aside(record)

    async def read_document(self, collection: str, key: str) -> Document | None:
        """Passed on."""
        return await documents_of(self._store).read_document(collection, key)

    async def write_document(self, collection: str, key: str, text: str, *, seen: str | None) -> str | None:
        """Noted."""
        try:
            tag = await documents_of(self._store).write_document(collection, key, text, seen=seen)
        except BaseException:
            self._witness.lost_sight(collection, key)
            raise
        if tag is not None:
            self._witness.wrote(collection, key, seen=seen, tag=tag)
        return tag

    async def delete_document(self, collection: str, key: str, *, seen: str, erase: bool = False) -> bool:
        """Noted."""
        try:
            deleted = await documents_of(self._store).delete_document(collection, key, seen=seen, erase=erase)
        except BaseException:
            self._witness.lost_sight(collection, key)
            raise
        if deleted:
            self._witness.wrote(collection, key, seen=seen, tag=None)
        return deleted

    async def list_documents(self, collection: str, *, after: str | None = None, limit: int = 100) -> DocumentPage:
        """Passed on."""
        return await documents_of(self._store).list_documents(collection, after=after, limit=limit)

    async def clear_documents(self, collection: str) -> None:
        """Noted."""
        try:
            await documents_of(self._store).clear_documents(collection)
        finally:
            self._witness.cleared(collection)


class WitnessedProducer(IEventProducer):
    """A producer that tells a witness."""

    def __init__(self, producer: IEventProducer, witness: Witness) -> None:
        self._producer = producer
        self._witness = witness

    def check(self, commit: Commit[Any]) -> None:
        """Passed on."""
        self._producer.check(commit)

    async def dispatch(self, commit: Commit[Any]) -> None:
        """Noted."""
        await self._producer.dispatch(commit)
        self._witness.published(commit.record)
