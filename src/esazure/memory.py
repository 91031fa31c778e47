"""In-process backends. Two jobs: fast tests, and the shortest true example of a backend.

The store keeps the same text under the same names and limits as the durable ones, so what cannot be stored fails here
too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from typing_extensions import TypeVar

from esazure.aggregate import AggregateRoot, TId
from esazure.errors import ConcurrencyError, CorruptStreamError, DispatchError, RefusedError
from esazure.events import Commit, CommitRecord
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
from esazure.ports import IEventProducer, IOutboxStore, Lease, OutboxRow, Swept
from esazure.repository import CommitStore, EventsRepository, utc_now

__all__ = ["InMemoryEventProducer", "InMemoryEventsRepository", "InMemoryStore"]

A = TypeVar("A", bound=AggregateRoot[Any, Any])


class InMemoryStore(CommitStore, IOutboxStore):
    """Keeps everything in this process, for as long as the object lives."""

    def __init__(self, *, clock: Callable[[], datetime] = utc_now) -> None:
        self.clock = clock
        self._store_id = uuid4()
        self._streams: dict[str, list[CommitRecord]] = {}
        self._outbox: dict[str, dict[int, datetime]] = {}
        self._leases: dict[str, Lease] = {}
        self.quarantine: dict[tuple[str, int], str] = {}
        """Stream and first version of each commit that was set aside, and why."""

    @property
    def store_id(self) -> UUID:
        """Another one for each object."""
        return self._store_id

    async def insert(self, record: CommitRecord, *, outbox: bool) -> None:
        """See `ICommitStore.insert`."""
        # No await between this check and the write: another task must not interleave.
        stream = self._streams.setdefault(record.stream, [])
        version = stream[-1].last_version if stream else 0
        if version != record.expected_version:
            if any(stored.commit_id == record.commit_id for stored in stream):
                return
            raise ConcurrencyError(record.stream, expected=record.expected_version, actual=version)
        stream.append(record)
        if outbox:
            self._outbox.setdefault(record.stream, {})[record.first_version] = self.clock()

    async def read(self, stream: str, *, to_version: int | None = None) -> Sequence[CommitRecord]:
        """See `ICommitStore.read`."""
        records = self._streams.get(stream, [])
        return [record for record in records if to_version is None or record.first_version <= to_version]

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
        return self._outbox.get(record.stream, {}).pop(record.first_version, None) is not None

    @property
    def partitions(self) -> Sequence[str]:
        """One for all: a process has little to share out."""
        return ("0",)

    async def sweep(self, partition: str) -> Swept:
        """See `IOutboxStore.sweep`."""
        now = self.clock()
        rows = [
            OutboxRow(stream, first, (now - stored_at).total_seconds())
            for stream, waiting in sorted(self._outbox.items())
            for first, stored_at in sorted(waiting.items())
        ]
        return Swept(rows, self._leases.get(partition))

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
