"""The seams. Backends implement them; services and user code know only these.

`IEventsRepository`, `IEventProducer` and `IEventsService` speak of aggregates and commits. `ICommitStore` is what a
storage backend has to be: a few calls that move text. They are protocols, so nobody has to import esazure to satisfy
one; our own classes inherit them all the same, so that a missing method is an error here and not a surprise there. Read
`repository.py` next.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from typing_extensions import TypeVar

from esazure.aggregate import AggregateRoot
from esazure.events import CommandRecord, Commit, CommitRecord
from esazure.keys import MAX_DIGEST, command_key

A = TypeVar("A", bound=AggregateRoot[Any, Any])
TId_contra = TypeVar("TId_contra", bound=UUID | str, default=UUID, contravariant=True)


@dataclass(frozen=True, slots=True)
class ViewRecord:
    """An inline view as it is stored: computed from one aggregate at one version."""

    name: str
    shape: str
    """Changes with the fields of the view's model and with the code that fills them; else it is computed anew."""
    version: int
    """The version of the aggregate it shows."""
    text: str = field(repr=False)
    """JSON."""
    tag: str = ""
    """Changes with every write; empty until it is stored."""
    latest: int = 0
    """The version of the stream when this was read. Another than `version`: it was not told of the last commit."""


class ICommitStore(Protocol):
    """Keeps commits as text, stream by stream, each with the outbox row that says it is not yet published."""

    @property
    @abstractmethod
    def store_id(self) -> UUID:
        """Chosen when the store was created and never changed."""
        raise NotImplementedError

    @abstractmethod
    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        """Store the commit, and with it all or none of: its outbox row, its command's id, its inline views.

        It follows what its writer has seen or it is not stored: a stream has no gap, whatever became of its rows.

        Inserting a commit that is already stored, with the same commit id, succeeds and changes nothing.

        Raises:
            ConcurrencyError: the stream does not end at the expected version, or not with the commit it is `after`.
            CommandHandledError: the command id was answered by another commit of the stream or without one, or none
                may ever have it. Comes before ConcurrencyError when both are true.
            AppendOutcomeUnknownError: no definite answer before the deadline.
            StoreError: a definite refusal; nothing was stored.
        """

    @abstractmethod
    async def read(
        self, stream: str, *, from_version: int = 1, to_version: int | None = None
    ) -> Sequence[CommitRecord]:
        """The commits of a stream, oldest first.

        Those that end at or after `from_version` and, with `to_version`, begin at or before it.

        Raises:
            CorruptStreamError: a row cannot be what was written.
            StoreError: the store could not be read.
        """
        raise NotImplementedError

    @abstractmethod
    def load(
        self, stream: str, *, to_version: int | None = None, tag: str = "", within: int = 1_000
    ) -> AsyncGenerator[Sequence[CommitRecord], None]:
        """The commits of a whole stream by pages, oldest first; no page is empty.

        Those that begin at or before `to_version`, and no more than some thousand of them in memory at once. With a
        `tag` it begins with the newest commit that has a snapshot of that tag and ends at or before `to_version`, if
        one is among the newest `within`.

        Raises:
            CorruptStreamError: a row cannot be what was written.
            StoreError: the store could not be read.
        """
        raise NotImplementedError

    @abstractmethod
    async def find_command(self, stream: str, command_id: str, *, forbid: bool = False) -> CommandRecord | None:
        """What became of this command; None when it was not answered yet.

        With `forbid`, None means: and it never will be. A commit with this command id that is still on its way is
        refused from now on, with CommandHandledError, and so is `remember_command`. Forbidding again changes nothing.

        Raises:
            StoreError: the store could not be asked; with `forbid`, it may be forbidden or not.
        """
        raise NotImplementedError

    @abstractmethod
    async def remember_command(
        self, stream: str, command_id: str, *, version: int, request: str | None = None
    ) -> CommandRecord:
        """Note that at this version of the stream there was nothing to store for a command.

        From now on no commit with this command id gets in. Returns what is remembered: this, or what was there
        before, a commit or an earlier note; that stays as it is. The stream need not exist, and may have moved on.

        Raises:
            CommandHandledError: the command was forbidden.
            StoreError: the store could not be asked; it may be remembered or not, and asking again is safe.
        """
        raise NotImplementedError

    @abstractmethod
    async def read_view(self, stream: str, name: str) -> ViewRecord | None:
        """The inline view of this name as it was last written, and with it, in one step, the version of its stream.

        Raises:
            CorruptStreamError: its row cannot be what was written.
            StoreError: the store could not be read.
        """
        raise NotImplementedError

    @abstractmethod
    async def write_view(self, stream: str, view: ViewRecord, *, seen: ViewRecord | None) -> bool:
        """Replace the inline view that was seen (None: there was none). False when it has changed since."""
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
    """Seconds since it was stored, by the store's own clock; never negative, and on Table Storage up to a second more,
    because its clock is read in whole seconds."""


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
    more: bool = False
    """Whether there are rows behind the last of these."""


class IOutboxStore(ICommitStore, Protocol):
    """A store whose outbox relays can work on, partition by partition."""

    @property
    @abstractmethod
    def partitions(self) -> Sequence[str]:
        """The names of all partitions; a stream is in one of them for ever."""
        raise NotImplementedError

    @abstractmethod
    async def sweep(self, partition: str, *, after: tuple[str, int] | None = None, limit: int = 1_000) -> Swept:
        """The outbox rows of a partition, `limit` (1 to 1,000) of them at most, and with the first ones its lease.

        Bounded, because on some backends loads wait behind it.

        With `after`, a stream and a first version, those behind it, in an order of the store's own in which the streams
        of a class are one range; `("<type>/", 0)` is behind all of a type.
        """
        raise NotImplementedError

    @abstractmethod
    async def write_lease(self, partition: str, seen: Lease | None, *, owner: str, epoch: int) -> Lease | None:
        """Replace the lease last seen; None when it has changed since, or when nobody knows."""
        raise NotImplementedError

    @abstractmethod
    async def set_aside(self, record: CommitRecord, reason: str) -> None:
        """Take an unpublishable commit out of the outbox and keep it apart, with the reason, in one step."""


class IStreamSource(ICommitStore, Protocol):
    """A store whose streams can be listed, for whatever reads all of them."""

    @property
    @abstractmethod
    def partitions(self) -> Sequence[str]:
        """The names of all partitions; a stream is in one of them for ever."""
        raise NotImplementedError

    @abstractmethod
    def scan(
        self, partition: str, aggregate_type: str, *, after: str | None = None
    ) -> AsyncIterator[Sequence[CommitRecord]]:
        """Every stream of one aggregate type in a partition, each whole and oldest first.

        In an order of the store's own that never changes; with `after`, those behind that stream name. No snapshot: a
        stream that is stored meanwhile may be found or not.

        Raises:
            CorruptStreamError: a row cannot be what was written.
            StoreError: the store could not be read.
        """
        raise NotImplementedError


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


class IRequest(Protocol):
    """What a command asks for; a `Command` is one."""

    @abstractmethod
    def digest(self, command_id: str) -> str:
        """A hash of it, different for each command id, of at most 64 characters: the same request, the same hash."""
        raise NotImplementedError


def digest_of(command_id: str | None, request: IRequest | None) -> str | None:
    """What is stored of a request; for whoever takes one, before any I/O.

    Raises:
        ValueError: without a command id, or the id or the hash is none.
        TypeError: see `Command.digest`.
    """
    if command_id is not None:
        command_key(command_id)
    if request is None:
        return None
    if command_id is None:
        raise ValueError("a request is told from others under the same command_id: give that, too")
    digest = request.digest(command_id)
    if not 0 < len(digest) <= MAX_DIGEST:
        raise ValueError(f"{type(request).__name__}.digest gives 1 to {MAX_DIGEST} characters, not {len(digest)}")
    return digest


@dataclass(frozen=True, slots=True)
class HandledCommand:
    """A command that was answered."""

    version: int
    """Of the aggregate as the command left it; 0 when nothing was stored by then."""
    commit: Commit[Any] | None
    """What it stored; None when there was nothing to store."""


class IEventsRepository(Protocol[A, TId_contra]):
    """Stores one aggregate type, a stream per id."""

    @property
    @abstractmethod
    def store_id(self) -> UUID:
        """Of the store it stores in."""
        raise NotImplementedError

    @property
    @abstractmethod
    def outbox(self) -> IOutbox | None:
        """Where commits wait until they are published; None when this repository keeps no outbox."""
        raise NotImplementedError

    @abstractmethod
    async def append(
        self,
        aggregate: A,
        *,
        command_id: str | None = None,
        request: IRequest | None = None,
        before_io: Callable[[Commit[Any]], None] | None = None,
        publishing: bool = False,
    ) -> Commit[Any] | None:
        """Store the pending events as one commit: all of them or none.

        Returns None when nothing is pending; with a `command_id` that is remembered, too. When this command was
        answered already, nothing is stored, this copy becomes unusable, and the earlier commit is returned, or None if
        there was none. After a conflict the aggregate is as it was: the caller can reload and decide again.
        `before_io` is called with the finished commit after every check and before the first request; what it raises
        refuses the commit. `publishing` says that the caller publishes what is stored; unless the
        repository was told otherwise, only such commits leave an outbox row.

        Raises:
            CommandReusedError: the command id was used for another `request`; this copy is as it was.
            ConcurrencyError: somebody else stored a commit since this aggregate was loaded.
            AppendOutcomeUnknownError: the deadline passed without a definite answer; the error's `retry()` asks again.
            UnusableAggregateError: this copy must not be persisted; the message says why.
            StoreMismatchError: this copy belongs to another store; nothing was sent.
            RefusedError: over a limit or not storable; nothing was sent.
            CommandHandledError: the command was given up for good.
            StoreError: the store refused; nothing was stored.
        """
        raise NotImplementedError

    @abstractmethod
    async def find_command(
        self, id: TId_contra, command_id: str, *, request: IRequest | None = None
    ) -> HandledCommand | None:
        """What became of a command of this id; None when it was not answered yet.

        Raises:
            CommandReusedError: the command id was used for another `request`.
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

    @property
    @abstractmethod
    def store_id(self) -> UUID:
        """Of the store it persists into."""
        raise NotImplementedError

    @abstractmethod
    async def persist(
        self, aggregate: A, *, command_id: str | None = None, request: IRequest | None = None
    ) -> Commit[Any] | None:
        """Append the pending events, then dispatch them. Returns None when nothing is pending.

        With a `command_id` the same command is carried out once: the second time nothing is stored and the first answer
        is given again, the commit or None. With a `request` another one under the same id is refused.

        Succeeds when the events are stored, even if they could not be dispatched yet: their outbox row waits.
        """
        raise NotImplementedError

    @abstractmethod
    async def rehydrate(self, id: TId_contra, *, version: int | None = None) -> A:
        """See `IEventsRepository.rehydrate`."""
        raise NotImplementedError

    @abstractmethod
    async def find_command(
        self, id: TId_contra, command_id: str, *, request: IRequest | None = None
    ) -> HandledCommand | None:
        """See `IEventsRepository.find_command`."""
        raise NotImplementedError

    @abstractmethod
    async def update(
        self,
        id: TId_contra,
        change: Callable[[A], object],
        *,
        timeout: float = 10.0,  # noqa: ASYNC109 - no attempt is cut off
        command_id: str | None = None,
        request: IRequest | None = None,
    ) -> A:
        """Load, change, persist; after a conflict load and decide again, until `timeout` seconds have passed.

        With a `command_id` that was answered before, nothing is stored, and the aggregate is returned as that command
        left it, to look at.
        """
        raise NotImplementedError


__all__ = [
    "HandledCommand",
    "ICommitStore",
    "IEventProducer",
    "IEventsRepository",
    "IEventsService",
    "IOutbox",
    "IOutboxStore",
    "IRequest",
    "IStreamSource",
    "Lease",
    "OutboxRow",
    "Swept",
    "ViewRecord",
]
