"""The seams. Backends implement them; services and user code know only these.

`IEventsRepository`, `IEventProducer` and `IEventsService` speak of aggregates and commits. `ICommitStore` is what a
storage backend has to be: four calls that move text. They are protocols, so nobody has to import esazure to satisfy
one; our own classes inherit them all the same, so that a missing method is an error here and not a surprise there. Read
`repository.py` next.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from typing_extensions import TypeVar

from esazure.aggregate import AggregateRoot
from esazure.events import Commit, CommitRecord

A = TypeVar("A", bound=AggregateRoot[Any, Any])
TId_contra = TypeVar("TId_contra", bound=UUID | str, default=UUID, contravariant=True)


class ICommitStore(Protocol):
    """Keeps commits as text, stream by stream, each with the outbox row that says it is not yet published."""

    @property
    @abstractmethod
    def store_id(self) -> UUID:
        """Chosen when the store was created and never changed."""
        raise NotImplementedError

    @abstractmethod
    async def insert(self, record: CommitRecord, *, outbox: bool) -> None:
        """Store the commit, and its outbox row if asked to: both or neither.

        Inserting a commit that is already stored, with the same commit id, succeeds and changes nothing.

        Raises:
            ConcurrencyError: the slot after the expected version is taken by another commit.
            AppendOutcomeUnknownError: no definite answer before the deadline.
            StoreError: a definite refusal; nothing was stored.
        """

    @abstractmethod
    async def read(self, stream: str, *, to_version: int | None = None) -> Sequence[CommitRecord]:
        """The commits of a stream, oldest first; with `to_version` those that begin at or before it.

        Raises:
            CorruptStreamError: a row cannot be what was written.
            StoreError: the store could not be read.
        """
        raise NotImplementedError

    @abstractmethod
    async def unpublished(
        self, stream: str, *, before_version: int, limit: int | None = None
    ) -> Sequence[CommitRecord]:
        """The commits that begin before this version and still have an outbox row: the oldest `limit`, oldest first.

        Raises:
            CorruptStreamError: an outbox row has lost its commit, or a row cannot be what was written.
            StoreError: the store could not be read.
        """
        raise NotImplementedError

    @abstractmethod
    async def mark_published(self, record: CommitRecord) -> bool:
        """Remove the outbox row. False when it was gone already: somebody else has published the commit, too."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A commit that is not yet published."""

    stream: str
    first_version: int
    age: float
    """Seconds since it was stored, by the store's own clock."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who works on a partition. Efficiency only: two holders at a time would repeat messages, and lose nothing."""

    owner: str
    """Empty when it was given up."""
    epoch: int
    """Grows by one each time the lease changes hands."""
    tag: str
    """Changes with every write; a write succeeds only on the tag it was decided on."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a partition holds for a relay."""

    rows: Sequence[OutboxRow]
    """By stream, and in version order within it."""
    lease: Lease | None


class IOutboxStore(ICommitStore, Protocol):
    """A store whose outbox relays can work on, partition by partition."""

    @property
    @abstractmethod
    def partitions(self) -> Sequence[str]:
        """The names of all partitions; a stream is in one of them for ever."""
        raise NotImplementedError

    @abstractmethod
    async def sweep(self, partition: str) -> Swept:
        """Every outbox row of a partition, and its lease."""
        raise NotImplementedError

    @abstractmethod
    async def write_lease(self, partition: str, seen: Lease | None, *, owner: str, epoch: int) -> Lease | None:
        """Replace the lease last seen; None when it has changed since, or when nobody knows."""
        raise NotImplementedError

    @abstractmethod
    async def set_aside(self, record: CommitRecord, reason: str) -> None:
        """Take an unpublishable commit out of the outbox and keep it apart, with the reason, in one step."""


class IOutbox(Protocol):
    """What one repository has stored and nobody has published yet."""

    @abstractmethod
    async def unpublished(self, stream: str, *, before_version: int, limit: int | None = None) -> Sequence[Commit[Any]]:
        """Commits of the stream that begin before this version and wait for publication: the oldest `limit` of them.

        Each is decoded when it is reached, and only then raises CorruptStreamError or UnknownEventTypeError.
        """
        raise NotImplementedError

    @abstractmethod
    async def mark_published(self, commit: Commit[Any]) -> None:
        """The broker has accepted every message of this commit."""


class IEventsRepository(Protocol[A, TId_contra]):
    """Stores one aggregate type, a stream per id."""

    @property
    @abstractmethod
    def outbox(self) -> IOutbox | None:
        """Where commits wait until they are published; None when this repository keeps no outbox."""
        raise NotImplementedError

    @abstractmethod
    async def append(
        self, aggregate: A, *, before_io: Callable[[Commit[Any]], None] | None = None
    ) -> Commit[Any] | None:
        """Store the pending events as one commit: all of them or none.

        Returns None when nothing is pending. After a conflict the aggregate is unchanged, so the caller can reload and
        decide again. `before_io` is called with the finished commit after every check and before the first request;
        what it raises refuses the commit.

        Raises:
            ConcurrencyError: somebody else stored a commit since this aggregate was loaded.
            AppendOutcomeUnknownError: the deadline passed without a definite answer; the error's `retry()` asks again.
            UnusableAggregateError: this copy must not be persisted; the message says why.
            RefusedError: over a limit or not storable; nothing was sent.
            StoreError: the store refused; nothing was stored.
        """
        raise NotImplementedError

    @abstractmethod
    async def rehydrate(self, id: TId_contra, *, version: int | None = None) -> A:
        """Load every event of this id and rebuild; with `version`, as it was then, to look at and not to persist.

        Raises:
            AggregateNotFoundError: there are no events, or fewer than `version`.
            UnknownEventTypeError: a stored event is not declared by the aggregate.
            CorruptStreamError: what is stored cannot be what was written.
            StoreError: the store could not be read.
        """
        raise NotImplementedError


class IEventProducer(Protocol):
    """Hands stored commits to the outside world: at least once, in version order within a stream."""

    @abstractmethod
    def check(self, commit: Commit[Any]) -> None:
        """Refuse, without I/O, a commit that could never be published: once it is stored it has to be.

        Raises:
            CommitTooLargeError: an event's message is over the broker's limit.
        """

    @abstractmethod
    async def dispatch(self, commit: Commit[Any]) -> None:
        """Publish; when this returns the broker has accepted every message of the commit, in order.

        Raises:
            DispatchError: not all were accepted, or nobody knows; dispatching the commit again is safe.
        """


class IEventsService(Protocol[A, TId_contra]):
    """What application code holds: load, act, persist."""

    @abstractmethod
    async def persist(self, aggregate: A) -> Commit[Any] | None:
        """Append the pending events, then dispatch them. Returns None when nothing is pending.

        Succeeds when the events are stored, even if they could not be dispatched yet: their outbox row waits.
        """
        raise NotImplementedError

    @abstractmethod
    async def rehydrate(self, id: TId_contra, *, version: int | None = None) -> A:
        """See `IEventsRepository.rehydrate`."""
        raise NotImplementedError

    @abstractmethod
    async def update(self, id: TId_contra, change: Callable[[A], object], *, attempts: int = 3) -> A:
        """Load, change, persist; after a conflict load and decide again, `attempts` times in all."""
        raise NotImplementedError


__all__ = [
    "ICommitStore",
    "IEventProducer",
    "IEventsRepository",
    "IEventsService",
    "IOutbox",
    "IOutboxStore",
    "Lease",
    "OutboxRow",
    "Swept",
]
