"""A store and a producer whose every call is a point. Read `_evidence.py` next: what is looked at in the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, cast
from uuid import UUID

from pydantic import BaseModel
from typing_extensions import TypeVar

from esazure.aggregate import AggregateRoot, TId, as_class
from esazure.documents import Document, DocumentPage, IDocumentStore
from esazure.errors import AppendOutcomeUnknownError, DispatchError, StoreUnavailableError
from esazure.events import CommandRecord, Commit, CommitRecord
from esazure.ports import IEventProducer, IOutboxStore, IStreamSource, Lease, Swept, ViewRecord
from esazure.repository import CommitStore, EventsRepository
from esazure.store import Store
from esazure.testing._points import Faults

A = TypeVar("A", bound=AggregateRoot[Any, Any])
T = TypeVar("T")


class _NoAnswerError(Exception):
    """A lease whose outcome nobody knows: the port has no error for that, but None."""


class FaultyStore(Store):
    """A store whose every call is a point. Use it in place of the store; opening and closing stay with the store."""

    def __init__(self, store: CommitStore, faults: Faults) -> None:
        self.clock = store.clock
        self.aggregate_classes: dict[str, type[AggregateRoot[Any, Any]]] = {}
        """Those `events` was called for, by stored name: whoever sweeps has to know them."""
        self._store = store
        self._faults = faults
        self._life = faults.life

    def events(
        self,
        aggregate_class: Callable[[TId], A],
        *,
        outbox: bool | None = None,
        views: Sequence[Callable[[A], BaseModel]] = (),
    ) -> EventsRepository[A, TId]:
        """See `CommitStore.events`."""
        chosen = as_class(aggregate_class)
        self.aggregate_classes[chosen.aggregate_type] = chosen
        return super().events(aggregate_class, outbox=outbox, views=views)

    @property
    def store_id(self) -> UUID:
        """The store's."""
        return self._store.store_id

    @property
    def partitions(self) -> Sequence[str]:
        """The store's."""
        return outbox_of(self._store).partitions

    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        """A point. See `ICommitStore.insert`."""
        await self._faults.call(
            self._life,
            ("insert", record.stream, record.first_version),
            lambda: self._store.insert(record, outbox=outbox, views=views),
            silence=AppendOutcomeUnknownError(
                record.stream, expected=record.expected_version, commit_id=record.commit_id
            ),
        )

    async def read(
        self, stream: str, *, from_version: int = 1, to_version: int | None = None
    ) -> Sequence[CommitRecord]:
        """A point. See `ICommitStore.read`."""
        return await self._call(
            "read", stream, lambda: self._store.read(stream, from_version=from_version, to_version=to_version)
        )

    async def find_command(self, stream: str, command_id: str, *, forbid: bool = False) -> CommandRecord | None:
        """A point, `forbid_command` if it forbids. See `ICommitStore.find_command`."""
        return await self._call(
            "forbid_command" if forbid else "find_command",
            stream,
            lambda: self._store.find_command(stream, command_id, forbid=forbid),
        )

    async def remember_command(
        self, stream: str, command_id: str, *, version: int, request: str | None = None
    ) -> CommandRecord:
        """A point. See `ICommitStore.remember_command`."""
        return await self._call(
            "remember_command",
            stream,
            lambda: self._store.remember_command(stream, command_id, version=version, request=request),
        )

    async def read_view(self, stream: str, name: str) -> ViewRecord | None:
        """A point. See `ICommitStore.read_view`."""
        return await self._call("read_view", stream, lambda: self._store.read_view(stream, name))

    async def write_view(self, stream: str, view: ViewRecord, *, seen: ViewRecord | None) -> bool:
        """A point. See `ICommitStore.write_view`."""
        return await self._call("write_view", stream, lambda: self._store.write_view(stream, view, seen=seen))

    async def scan(
        self, partition: str, aggregate_type: str, *, after: str | None = None
    ) -> AsyncIterator[Sequence[CommitRecord]]:
        """A point for each stream, and one for the end. See `IStreamSource.scan`."""
        last = after

        async def following() -> Sequence[CommitRecord] | None:
            # Anew each time: a step of an iterator that arrives twice would leave a stream out.
            streams = source_of(self._store).scan(partition, aggregate_type, after=last)
            found = await anext(streams, None)
            if isinstance(streams, AsyncGenerator):
                await streams.aclose()
            return found

        while (records := await self._call("scan", f"{aggregate_type} in {partition}", following)) is not None:
            yield records
            last = records[0].stream

    async def unpublished(
        self, stream: str, *, before_version: int, limit: int | None = None
    ) -> Sequence[CommitRecord]:
        """A point. See `ICommitStore.unpublished`."""
        return await self._call(
            "unpublished", stream, lambda: self._store.unpublished(stream, before_version=before_version, limit=limit)
        )

    async def mark_published(self, record: CommitRecord) -> bool:
        """A point. See `ICommitStore.mark_published`."""
        return await self._call(
            "mark_published", record.stream, lambda: self._store.mark_published(record), version=record.first_version
        )

    async def sweep(self, partition: str, *, after: tuple[str, int] | None = None, limit: int = 1_000) -> Swept:
        """A point. See `IOutboxStore.sweep`."""
        return await self._call(
            "sweep", partition, lambda: outbox_of(self._store).sweep(partition, after=after, limit=limit)
        )

    async def write_lease(self, partition: str, seen: Lease | None, *, owner: str, epoch: int) -> Lease | None:
        """A point. See `IOutboxStore.write_lease`; without an answer it is None, as the port says."""
        try:
            return await self._faults.call(
                self._life,
                ("write_lease", partition, None),
                lambda: outbox_of(self._store).write_lease(partition, seen, owner=owner, epoch=epoch),
                silence=_NoAnswerError(),
            )
        except _NoAnswerError:
            return None

    async def set_aside(self, record: CommitRecord, reason: str) -> None:
        """A point. See `IOutboxStore.set_aside`."""
        await self._call(
            "set_aside",
            record.stream,
            lambda: outbox_of(self._store).set_aside(record, reason),
            version=record.first_version,
        )

    async def read_document(self, collection: str, key: str) -> Document | None:
        """A point. See `IDocumentStore.read_document`."""
        return await self._call(
            "read_document", f"{collection}/{key}", lambda: documents_of(self._store).read_document(collection, key)
        )

    async def write_document(self, collection: str, key: str, text: str, *, seen: str | None) -> str | None:
        """A point. See `IDocumentStore.write_document`."""
        written: list[str] = []

        async def write() -> str | None:
            tag = await documents_of(self._store).write_document(collection, key, text, seen=seen)
            if tag is not None:
                written.append(tag)
            return written[0] if written else None  # when it arrives twice, its own first time is found out

        return await self._call("write_document", f"{collection}/{key}", write)

    async def delete_document(self, collection: str, key: str, *, seen: str, erase: bool = False) -> bool:
        """A point. See `IDocumentStore.delete_document`."""
        return await self._call(
            "delete_document",
            f"{collection}/{key}",
            lambda: documents_of(self._store).delete_document(collection, key, seen=seen, erase=erase),
        )

    async def list_documents(self, collection: str, *, after: str | None = None, limit: int = 100) -> DocumentPage:
        """A point. See `IDocumentStore.list_documents`."""
        return await self._call(
            "list_documents",
            collection,
            lambda: documents_of(self._store).list_documents(collection, after=after, limit=limit),
        )

    async def clear_documents(self, collection: str) -> None:
        """A point. See `IDocumentStore.clear_documents`."""
        await self._call("clear_documents", collection, lambda: documents_of(self._store).clear_documents(collection))

    async def _call(
        self, method: str, subject: str, action: Callable[[], Awaitable[T]], *, version: int | None = None
    ) -> T:
        silence = StoreUnavailableError(f"{method} of {subject}: no answer")
        return await self._faults.call(self._life, (method, subject, version), action, silence=silence)


class FaultyProducer(IEventProducer):
    """A producer whose every dispatch is a point."""

    def __init__(self, producer: IEventProducer, faults: Faults) -> None:
        self._producer = producer
        self._faults = faults
        self._life = faults.life

    def check(self, commit: Commit[Any]) -> None:
        """The producer's own: no I/O, so no point."""
        self._producer.check(commit)

    async def dispatch(self, commit: Commit[Any]) -> None:
        """A point. See `IEventProducer.dispatch`."""
        await self._faults.call(
            self._life,
            ("dispatch", commit.stream, commit.first_version),
            lambda: self._producer.dispatch(commit),
            silence=DispatchError(f"{commit.stream}: no answer"),
        )


def has_outbox(store: CommitStore) -> bool:
    """Whether relays can work on it: a protocol cannot be asked."""
    return hasattr(store, "sweep")


def outbox_of(store: CommitStore) -> IOutboxStore:
    """The store as relays see it.

    Raises:
        TypeError: it is an `ICommitStore` and no more.
    """
    if not has_outbox(store):
        raise TypeError(f"{type(store).__name__} is no IOutboxStore: no relay can work on it")
    return cast("IOutboxStore", store)


def source_of(store: CommitStore) -> IStreamSource:
    """The store as whoever reads all streams sees it.

    Raises:
        TypeError: its streams cannot be listed.
    """
    if not hasattr(store, "scan"):
        raise TypeError(f"{type(store).__name__} is no IStreamSource: its streams cannot be listed")
    return cast("IStreamSource", store)


def documents_of(store: CommitStore) -> IDocumentStore:
    """The store as views, positions and unique values see it.

    Raises:
        TypeError: it keeps no documents.
    """
    if not hasattr(store, "read_document"):
        raise TypeError(
            f"{type(store).__name__} is no IDocumentStore: it cannot keep views, positions or unique values"
        )
    return cast("IDocumentStore", store)
