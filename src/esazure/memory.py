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
from esazure.errors import ConcurrencyError
from esazure.events import Commit, CommitRecord
from esazure.integration import (
    LANES,
    MAX_MESSAGE_BYTES,
    Integration,
    IntegrationMessage,
    check_publishable,
    messages_of,
    whole,
)
from esazure.ports import IEventProducer
from esazure.repository import CommitStore, EventsRepository, utc_now

__all__ = ["InMemoryEventProducer", "InMemoryEventsRepository", "InMemoryStore"]

A = TypeVar("A", bound=AggregateRoot[Any, Any])


class InMemoryStore(CommitStore):
    """Keeps everything in this process, for as long as the object lives."""

    def __init__(self, *, clock: Callable[[], datetime] = utc_now) -> None:
        self.clock = clock
        self._store_id = uuid4()
        self._streams: dict[str, list[CommitRecord]] = {}
        self._outbox: dict[str, set[int]] = {}

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
            self._outbox.setdefault(record.stream, set()).add(record.first_version)

    async def read(self, stream: str, *, to_version: int | None = None) -> Sequence[CommitRecord]:
        """See `ICommitStore.read`."""
        records = self._streams.get(stream, [])
        return [record for record in records if to_version is None or record.first_version <= to_version]

    async def unpublished(self, stream: str, *, before_version: int) -> Sequence[CommitRecord]:
        """See `ICommitStore.unpublished`."""
        waiting = self._outbox.get(stream, set())
        return [
            record
            for record in self._streams.get(stream, [])
            if record.first_version in waiting and record.first_version < before_version
        ]

    async def mark_published(self, record: CommitRecord) -> None:
        """See `ICommitStore.mark_published`."""
        self._outbox.get(record.stream, set()).discard(record.first_version)


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
        self._lanes = lanes
        self._max_message_bytes = max_message_bytes
        self.messages: list[IntegrationMessage] = []
        """What was dispatched, oldest first; a commit that is dispatched again is here again."""

    def check(self, commit: Commit[Any]) -> None:
        """See `IEventProducer.check`."""
        check_publishable(commit.stream, messages_of(commit, self._integration, self._lanes), self._max_message_bytes)

    async def dispatch(self, commit: Commit[Any]) -> None:
        """See `IEventProducer.dispatch`."""
        self.messages.extend(messages_of(commit, self._integration, self._lanes))
