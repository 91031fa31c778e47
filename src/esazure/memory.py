"""In-process backends. Two jobs: fast tests, and the shortest true example of a backend.

The store keeps the same text under the same names and limits as the durable ones, so what cannot be stored fails here
too.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

from typing_extensions import TypeVar

from esazure.aggregate import AggregateRoot, TId
from esazure.documents import (
    Document,
    DocumentPage,
    check_collection,
    check_document,
    check_page,
    decode_token,
    encode_token,
)
from esazure.errors import ConcurrencyError, CorruptStreamError, DispatchError, RefusedError
from esazure.events import CommandRecord, Commit, CommitRecord
from esazure.integration import (
    LANES,
    MAX_MESSAGE_BYTES,
    Integration,
    IntegrationMessage,
    check_lanes,
    check_publishable,
    messages_of,
    whole,
)
from esazure.keys import encode_part
from esazure.ports import IEventProducer, Lease, OutboxRow, Swept, ViewRecord
from esazure.repository import EventsRepository, utc_now
from esazure.store import Store

__all__ = ["InMemoryEventProducer", "InMemoryEventsRepository", "InMemoryStore"]

A = TypeVar("A", bound=AggregateRoot[Any, Any])


class InMemoryStore(Store):
    """Keeps everything in this process, for as long as the object lives."""

    def __init__(self, *, clock: Callable[[], datetime] = utc_now) -> None:
        self.clock = clock
        self._store_id = uuid4()
        self._streams: dict[str, list[CommitRecord]] = {}
        self._outbox: dict[str, dict[int, datetime]] = {}
        self._waiting: list[str] = []
        """The streams in it, in order."""
        self._leases: dict[str, Lease] = {}
        self._commands: dict[tuple[str, str], CommandRecord] = {}  # those without a commit
        self._views: dict[tuple[str, str], ViewRecord] = {}
        self._documents: dict[str, dict[str, Document]] = {}
        self.quarantine: dict[tuple[str, int], str] = {}
        """Stream and first version of each commit that was set aside, and why."""

    @property
    def store_id(self) -> UUID:
        """Another one for each object."""
        return self._store_id

    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        """See `ICommitStore.insert`."""
        # No await between these checks and the write: another task must not interleave.
        stream = self._streams.setdefault(record.stream, [])
        version = stream[-1].last_version if stream else 0
        follows = version == record.expected_version and record.after in ("", stream[-1].commit_id if stream else "")
        if version != record.expected_version and any(stored.commit_id == record.commit_id for stored in stream):
            return
        if record.command_id is not None:
            found = self._find_command(record.stream, record.command_id)
            if found is not None:
                raise found.as_error(record.stream)
        if not follows:
            raise ConcurrencyError(record.stream, expected=record.expected_version, actual=version)
        stream.append(record)
        if outbox:
            if record.stream not in self._outbox:
                insort(self._waiting, record.stream)
            self._outbox.setdefault(record.stream, {})[record.first_version] = self.clock()
        for view in views:
            self._views[record.stream, view.name] = replace(view, tag=uuid4().hex)

    async def read(
        self, stream: str, *, from_version: int = 1, to_version: int | None = None
    ) -> Sequence[CommitRecord]:
        """See `ICommitStore.read`."""
        return [
            record
            for record in self._streams.get(stream, [])
            if record.last_version >= from_version and (to_version is None or record.first_version <= to_version)
        ]

    async def find_command(self, stream: str, command_id: str, *, forbid: bool = False) -> CommandRecord | None:
        """See `ICommitStore.find_command`."""
        found = self._find_command(stream, command_id)
        if forbid and found is None:
            found = self._commands[stream, command_id] = CommandRecord()
        return None if found is None or found.is_forbidden else found

    async def remember_command(
        self, stream: str, command_id: str, *, version: int, request: str | None = None
    ) -> CommandRecord:
        """See `ICommitStore.remember_command`."""
        found = self._find_command(stream, command_id)
        if found is None:
            found = self._commands[stream, command_id] = CommandRecord(answered_at=version, request=request)
        if found.is_forbidden:
            raise found.as_error(stream)
        return found

    def _find_command(self, stream: str, command_id: str) -> CommandRecord | None:
        for record in self._streams.get(stream, []):
            if record.command_id == command_id:
                return CommandRecord(record.first_version, request=record.request)
        return self._commands.get((stream, command_id))

    async def read_view(self, stream: str, name: str) -> ViewRecord | None:
        """See `ICommitStore.read_view`."""
        view = self._views.get((stream, name))
        commits = self._streams.get(stream)
        return view and replace(view, latest=commits[-1].last_version if commits else 0)

    async def write_view(self, stream: str, view: ViewRecord, *, seen: ViewRecord | None) -> bool:
        """See `ICommitStore.write_view`."""
        there = self._views.get((stream, view.name))
        if (there.tag if there else None) != (seen.tag if seen else None):
            return False
        self._views[stream, view.name] = replace(view, tag=uuid4().hex)
        return True

    async def scan(
        self,
        partition: str,  # noqa: ARG002 - there is one
        aggregate_type: str,
        *,
        after: str | None = None,
    ) -> AsyncIterator[Sequence[CommitRecord]]:
        """See `IStreamSource.scan`."""
        prefix = f"{encode_part(aggregate_type)}."
        for stream in sorted(self._streams):
            if stream.startswith(prefix) and (after is None or stream > after) and self._streams[stream]:
                yield list(self._streams[stream])

    async def unpublished(
        self, stream: str, *, before_version: int, limit: int | None = None
    ) -> Sequence[CommitRecord]:
        """See `ICommitStore.unpublished`."""
        due = sorted(first for first in self._outbox.get(stream, {}) if first < before_version)[:limit]
        commits = {record.first_version: record for record in self._streams.get(stream, [])}
        if not commits.keys() >= set(due):
            raise CorruptStreamError(f"{stream}: an outbox row has lost its commit")
        return [commits[first] for first in due]

    async def mark_published(self, record: CommitRecord) -> bool:
        """See `ICommitStore.mark_published`."""
        waiting = self._outbox.get(record.stream, {})
        was_there = waiting.pop(record.first_version, None) is not None
        if was_there and not waiting:
            del self._outbox[record.stream], self._waiting[bisect_left(self._waiting, record.stream)]
        return was_there

    @property
    def partitions(self) -> Sequence[str]:
        """One for all: a process has little to share out."""
        return ("0",)

    async def sweep(self, partition: str, *, after: tuple[str, int] | None = None, limit: int = 1_000) -> Swept:
        """See `IOutboxStore.sweep`."""
        now, behind = self.clock(), after or ("", 0)
        begin = bisect_left(self._waiting, behind[0])
        waiting = (
            OutboxRow(stream, first, max((now - stored_at).total_seconds(), 0.0))
            for stream in islice(self._waiting, begin, None)
            for first, stored_at in sorted(self._outbox[stream].items())
            if (stream, first) > behind
        )
        rows = list(islice(waiting, limit))
        return Swept(rows, self._leases.get(partition), more=next(waiting, None) is not None)

    async def write_lease(self, partition: str, seen: Lease | None, *, owner: str, epoch: int) -> Lease | None:
        """See `IOutboxStore.write_lease`."""
        if self._leases.get(partition) != seen:
            return None
        self._leases[partition] = Lease(owner, epoch, uuid4().hex)
        return self._leases[partition]

    async def set_aside(self, record: CommitRecord, reason: str) -> None:
        """See `IOutboxStore.set_aside`; what was set aside is in `quarantine`."""
        if await self.mark_published(record):
            self.quarantine[record.stream, record.first_version] = reason

    async def read_document(self, collection: str, key: str) -> Document | None:
        """See `IDocumentStore.read_document`."""
        check_collection(collection)
        check_document(key)
        return self._documents.get(collection, {}).get(key)

    async def write_document(self, collection: str, key: str, text: str, *, seen: str | None) -> str | None:
        """See `IDocumentStore.write_document`."""
        check_collection(collection)
        check_document(key, text)
        documents = self._documents.setdefault(collection, {})
        if (documents[key].tag if key in documents else None) != seen:
            return None
        documents[key] = Document(key, text, uuid4().hex)
        return documents[key].tag

    async def delete_document(self, collection: str, key: str, *, seen: str, erase: bool = False) -> bool:  # noqa: ARG002 - here it makes no difference
        """See `IDocumentStore.delete_document`; nothing remains in either case."""
        check_collection(collection)
        check_document(key)
        document = self._documents.get(collection, {}).get(key)
        if document is None or document.tag != seen:
            return False
        del self._documents[collection][key]
        return True

    async def list_documents(self, collection: str, *, after: str | None = None, limit: int = 100) -> DocumentPage:
        """See `IDocumentStore.list_documents`; by key."""
        check_collection(collection)
        check_page(limit)
        behind = decode_token(after)
        documents = self._documents.get(collection, {})
        keys = sorted(key for key in documents if behind is None or key > behind)
        found = [documents[key] for key in keys[:limit]]
        return DocumentPage(found, encode_token(found[-1].key) if len(keys) > limit else None)

    async def clear_documents(self, collection: str) -> None:
        """See `IDocumentStore.clear_documents`."""
        check_collection(collection)
        self._documents.pop(collection, None)


class InMemoryEventsRepository(EventsRepository[A, TId]):
    """`InMemoryStore().events(...)` in one word, for tests that need one aggregate class."""

    def __init__(self, aggregate_class: Callable[[TId], A]) -> None:
        super().__init__(aggregate_class, InMemoryStore())


class InMemoryEventProducer(IEventProducer):
    """Keeps the messages that would have been sent, under the broker's limits."""

    def __init__(
        self, *, integration: Integration = whole, lanes: int | None = LANES, max_message_bytes: int = MAX_MESSAGE_BYTES
    ) -> None:
        self._integration = integration
        self._lanes = check_lanes(lanes)
        self._max_message_bytes = max_message_bytes
        self.messages: list[IntegrationMessage] = []
        """What was dispatched, oldest first; a commit that is dispatched again is here again."""

    def check(self, commit: Commit[Any]) -> None:
        """See `IEventProducer.check`."""
        check_publishable(commit.stream, messages_of(commit, self._integration, self._lanes), self._max_message_bytes)

    async def dispatch(self, commit: Commit[Any]) -> None:
        """See `IEventProducer.dispatch`."""
        messages = messages_of(commit, self._integration, self._lanes)
        try:
            check_publishable(commit.stream, messages, self._max_message_bytes)
        except RefusedError as error:
            raise DispatchError(str(error), unpublishable=True) from None
        self.messages.extend(messages)
