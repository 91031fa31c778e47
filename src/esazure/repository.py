"""Between aggregates and stores: the one repository every backend uses, and the base class of every store.

`append` refuses what must not be stored, makes the commit, and hands text to the store; `rehydrate` goes back. Read
`service.py` next, or `memory.py` for the shortest store.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import cached_property
from os import urandom
from typing import Any, Generic, Self
from uuid import UUID

from pydantic import BaseModel
from typing_extensions import TypeVar

from esazure.aggregate import AggregateRoot, TId, as_class, codec_of, id_text, stream_of
from esazure.context import current_metadata
from esazure.errors import (
    AggregateNotFoundError,
    AppendOutcomeUnknownError,
    CommandHandledError,
    CommandReusedError,
    ConcurrencyError,
    CorruptStreamError,
    EsAzureError,
    ReadOnlyAggregateError,
    UnusableAggregateError,
)
from esazure.events import CommandRecord, Commit, CommitRecord, decode_metadata, decode_time
from esazure.inline import InlineViewReader, inline_views
from esazure.keys import (
    MAX_VERSION,
    split_stream_name,
    stream_name,
)
from esazure.lifecycle import accept, check_home, check_persistable, replay
from esazure.limits import MAX_INLINE_VIEWS, check_limits
from esazure.outbox import StreamOutbox
from esazure.ports import HandledCommand, ICommitStore, IEventsRepository, IOutbox, IRequest, digest_of
from esazure.snapshots import SnapshotCodec, snapshots_of
from esazure.state import state_of

A = TypeVar("A", bound=AggregateRoot[Any, Any])
V = TypeVar("V", bound=BaseModel)

_log = logging.getLogger("esazure.snapshots")


def utc_now() -> datetime:
    """The clock commits are stamped with unless a store is given another."""
    return datetime.now(UTC)


class CommitStore(ICommitStore):
    """Base of the stores: a backend implements `ICommitStore`, users call `events`."""

    clock: Callable[[], datetime] = staticmethod(utc_now)

    @cached_property
    def _named(self) -> dict[str, str]:
        """Of which class each stored name is: where it is defined, so that no class is kept alive."""
        return {}

    def note_name(self, given: type[AggregateRoot[Any, Any]]) -> None:
        """A class is stored here. One that was defined again, as in a reloaded module, is the same.

        Raises:
            ValueError: another class of this stored name is.
        """
        here = f"{given.__module__}.{given.__qualname__}"
        other = self._named.setdefault(given.aggregate_type, here)
        if other != here:
            raise ValueError(
                f"{other} and {here} both have the stored name {given.aggregate_type}, so one would read the streams "
                'of the other: pin another one in one of them, as in aggregate_type = "..."'
            )

    @cached_property
    def _without_rows(self) -> set[str]:
        """Classes of which this process has stored commits that nobody will find in the outbox."""
        return set()

    @cached_property
    def _awaited(self) -> set[str]:
        """Classes whose commits somebody in this process expects in the outbox."""
        return set()

    def note_no_row(self, aggregate_class: type[AggregateRoot[Any, Any]]) -> None:
        """A commit of this class is about to be stored without an outbox row, and nobody has said so.

        Raises:
            ValueError: a relay or an `InProcessSubscription` over this store waits for it.
        """
        self._note_rows(aggregate_class, self._without_rows, self._awaited)

    def note_awaited(self, aggregate_class: type[AggregateRoot[Any, Any]]) -> None:
        """Somebody waits for commits of this class in the outbox.

        Raises:
            ValueError: there are commits of it that left no row.
        """
        self._note_rows(aggregate_class, self._awaited, self._without_rows)

    def _note_rows(self, aggregate_class: type[AggregateRoot[Any, Any]], here: set[str], not_there: set[str]) -> None:
        name = aggregate_class.aggregate_type
        if name in not_there:
            raise ValueError(
                f"a relay or an InProcessSubscription waits for commits of {name}, and they leave no outbox row: give "
                f"the EventsService a producer, or make its repository with events({name}, outbox=True)"
            )
        here.add(name)

    async def __aenter__(self) -> Self:
        """Open the store. A backend with nothing to open inherits this."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it. A backend with nothing to close inherits this."""

    async def load(
        self, stream: str, *, to_version: int | None = None, tag: str = "", within: int = 1_000
    ) -> AsyncGenerator[Sequence[CommitRecord], None]:
        """See `ICommitStore.load`. A backend that has streams in memory anyway inherits this."""
        records = await self.read(stream, to_version=to_version)
        newest_first = range(len(records) - 1, max(len(records) - within, 0) - 1, -1)
        first = next((at for at in newest_first if records[at].has_snapshot(tag, to_version)), 0)
        if records:
            yield records[first:]

    def events(
        self,
        aggregate_class: Callable[[TId], A],
        *,
        outbox: bool | None = None,
        views: Sequence[Callable[[A], BaseModel]] = (),
    ) -> EventsRepository[A, TId]:
        """The repository of one aggregate class.

        Args:
            aggregate_class: a subclass of AggregateRoot.
            outbox: whether a commit leaves an outbox row. Left out, it does when it is persisted by an `EventsService`
                that has a producer. Say True when somebody else publishes or consumes what waits: a relay with the only
                producer, or an `InProcessSubscription`. Say False to publish without a safety net.
            views: its inline views, functions from the aggregate to a pydantic model.

        Raises:
            TypeError: not a subclass of AggregateRoot, or a view that does not say what it returns.
            ValueError: more than 80 inline views, or two of one name; or this store object was given another class with
                the same stored name.
        """
        return EventsRepository(aggregate_class, self, clock=self.clock, outbox=outbox, views=views)


class EventsRepository(IEventsRepository[A, TId], Generic[A, TId]):
    """One aggregate class over one store; made by a store's `events`."""

    def __init__(
        self,
        aggregate_class: Callable[[TId], A],
        store: ICommitStore,
        *,
        clock: Callable[[], datetime] = utc_now,
        outbox: bool | None = None,
        views: Sequence[Callable[[A], BaseModel]] = (),
    ) -> None:
        self._class = as_class(aggregate_class)
        if len(views) > MAX_INLINE_VIEWS:
            raise ValueError(f"{len(views)} inline views, at most {MAX_INLINE_VIEWS} fit: make one of several")
        self._views = inline_views(self._class, views)
        self._codec = codec_of(self._class)
        self._snapshots = snapshots_of(self._class)
        self._store = store
        self._clock = clock
        self._leaves_row = outbox
        self._outbox = None if outbox is False else StreamOutbox(store, self._commit_of)
        if isinstance(store, CommitStore):
            store.note_name(self._class)

    @property
    def store_id(self) -> UUID:
        """See `IEventsRepository.store_id`."""
        return self._store.store_id

    @property
    def outbox(self) -> IOutbox | None:
        """None when made with `outbox=False`."""
        return self._outbox

    async def append(
        self,
        aggregate: A,
        *,
        command_id: str | None = None,
        request: IRequest | None = None,
        before_io: Callable[[Commit[Any]], None] | None = None,
        publishing: bool = False,
    ) -> Commit[Any] | None:
        """Store the pending events as one commit. See `IEventsRepository.append`."""
        digest = digest_of(command_id, request)
        commit = self._commit_to_send(aggregate, command_id, digest)
        if commit is None:
            return None if command_id is None else await self._remember(aggregate, command_id, digest)
        leaves_row = publishing if self._leaves_row is None else self._leaves_row
        if not leaves_row and self._leaves_row is None and isinstance(self._store, CommitStore):
            self._store.note_no_row(self._class)
        views = [view.record_of(aggregate) for view in self._views.values()]
        check_limits(commit.record, views)
        if before_io is not None:
            before_io(commit)
        state = state_of(aggregate)
        state.persisting = True
        try:
            await self._store.insert(commit.record, outbox=leaves_row, views=views)
        except CommandHandledError as error:
            # Nothing was stored: under another command this copy may still be.
            state.in_doubt = None
            if error.first_version is None and error.answered_at is None:
                raise
            handled = error
        except BaseException as error:
            self._note_failure(aggregate, commit, error, publishing=publishing)
            raise
        else:
            accept(aggregate, commit)
            return commit
        finally:
            state.persisting = False
        _check_request(commit.stream, handled, commit.record.request)
        return await self._earlier_answer(aggregate, handled)

    async def _remember(self, aggregate: A, command_id: str, digest: str | None) -> Commit[Any] | None:
        """Note that there was nothing to store for a command, or give its earlier answer."""
        state, stream = state_of(aggregate), stream_of(aggregate)
        state.persisting = True
        try:
            found = await self._store.remember_command(stream, command_id, version=state.stored_version, request=digest)
        finally:
            state.persisting = False
        _check_request(stream, found, digest)
        # A twin that was answered at the same version had the same answer.
        return None if found.answered_at == state.stored_version else await self._earlier_answer(aggregate, found)

    async def _earlier_answer(self, aggregate: A, handled: CommandRecord | CommandHandledError) -> Commit[Any] | None:
        state_of(aggregate).unusable = "its command was carried out before; load it again"
        first_version = handled.first_version
        return None if first_version is None else await self._commit_at(stream_of(aggregate), first_version)

    async def find_command(self, id: TId, command_id: str, *, request: IRequest | None = None) -> HandledCommand | None:
        """See `IEventsRepository.find_command`."""
        digest = digest_of(command_id, request)
        stream = stream_name(self._class.aggregate_type, id_text(id))
        found = await self._store.find_command(stream, command_id)
        if found is None:
            return None
        _check_request(stream, found, digest)
        if found.first_version is None:
            return HandledCommand(found.answered_at or 0, None)
        commit = await self._commit_at(stream, found.first_version)
        return HandledCommand(commit.last_version, commit)

    def view(self, function: Callable[[A], V]) -> InlineViewReader[A, V, TId]:
        """An inline view of this repository, for reading.

        Raises:
            KeyError: it was not among the `views` this repository was made with.
        """
        return InlineViewReader(self._views[function], self._class, self._store, self.rehydrate)

    async def rehydrate(self, id: TId, *, version: int | None = None) -> A:
        """Load and rebuild. See `IEventsRepository.rehydrate`."""
        if version is not None and not 1 <= version <= MAX_VERSION:
            raise ValueError(f"versions count from 1 to {MAX_VERSION:,}, there is no version {version}")
        aggregate = await self._load(id, version, self._snapshots)
        if not aggregate.version:
            raise AggregateNotFoundError(stream_of(aggregate))
        if version is not None:
            if aggregate.version < version:
                raise AggregateNotFoundError(stream_of(aggregate), version)
            state_of(aggregate).read_only = True
        return aggregate

    async def _load(self, id: TId, to: int | None, snapshots: SnapshotCodec[A] | None) -> A:
        aggregate = self._class(id)
        if aggregate.pending:
            raise TypeError(f"{self._class.__name__}.__init__ must not record: every load would; use a class method")
        stream = stream_of(aggregate)
        if snapshots is None:
            pages = self._store.load(stream, to_version=to)
        else:
            # Every commit has an event, so the last snapshot is not further back; but for the commit that `to` may cut.
            within = snapshots.every + (to is not None)
            pages = self._store.load(stream, to_version=to, tag=snapshots.tag, within=within)
        state = state_of(aggregate)
        state.store_id = self._store.store_id
        is_restored = False  # from a snapshot, which is then doubted before the stream is
        async with aclosing(pages):
            async for page in pages:
                first, state.head = page[0], page[-1].identity
                if snapshots is not None and not aggregate.version and first.has_snapshot(snapshots.tag, to):
                    is_restored = snapshots.restore(aggregate, first.last_version, first.snapshot or "")
                    if not is_restored:
                        break
                    page = page[1:]  # noqa: PLW2901 - the rest of it
                try:
                    replay(aggregate, page, self._codec, to=to)
                except CorruptStreamError as error:
                    if not is_restored:
                        raise
                    _log.warning("%s: the snapshot is not used, for behind it: %s", stream, error)
                    break
            else:
                return aggregate
        return await self._load(id, to, None)

    def _commit_to_send(self, aggregate: A, command_id: str | None, digest: str | None) -> Commit[Any] | None:
        if type(aggregate) is not self._class:  # a subclass has another name, and so another stream
            raise TypeError(f"this repository stores {self._class.__name__}, not {type(aggregate).__name__}")
        state = state_of(aggregate)
        check_persistable(aggregate)
        if not state.pending and command_id is None:
            return None
        if state.read_only:
            raise ReadOnlyAggregateError(
                f"{stream_of(aggregate)} was loaded as of version {state.stored_version}, to look at: "
                "load it without a version to change it"
            )
        check_home(aggregate, self._store.store_id)
        if not state.pending:
            return None
        if state.in_doubt is None:
            return self._new_commit(aggregate, command_id, digest)
        # It may be stored under its own command already, so under another one it could be stored twice.
        if command_id not in (None, state.in_doubt.command_id):
            raise UnusableAggregateError(
                f"{stream_of(aggregate)} cannot be persisted with this command id: it is unknown whether its last "
                "commit, of another command, was stored; persist it again without the id first, or load it again"
            )
        if digest is not None and state.in_doubt.record.request not in (None, digest):
            raise CommandReusedError(stream_of(aggregate))
        return state.in_doubt

    def _note_failure(self, aggregate: A, commit: Commit[Any], error: BaseException, *, publishing: bool) -> None:
        """What an insert that failed says about the copy.

        Raises:
            AppendOutcomeUnknownError: a definite refusal of this attempt, which says nothing of an earlier one that was
                never answered.
        """
        state = state_of(aggregate)
        if isinstance(error, ConcurrencyError):
            state.in_doubt = None  # the slot is taken for good, so a copy still under way cannot land either
        elif isinstance(error, AppendOutcomeUnknownError):
            state.in_doubt = commit
            error.retry = lambda: self.append(aggregate, publishing=publishing)
        elif not isinstance(error, EsAzureError):
            state.in_doubt = commit  # cancelled, or a failure no store should let out: nobody knows
        elif state.in_doubt is not None:
            unknown = AppendOutcomeUnknownError(
                commit.stream, expected=commit.record.expected_version, commit_id=commit.commit_id
            )
            unknown.retry = lambda: self.append(aggregate, publishing=publishing)
            raise unknown from error

    async def _commit_at(self, stream: str, first_version: int) -> Commit[Any]:
        records = await self._store.read(stream, from_version=first_version, to_version=first_version)
        if len(records) != 1 or records[0].first_version != first_version:
            raise CorruptStreamError(
                f"{stream}: the commit of a handled command, at version {first_version}, is missing"
            )
        return self._commit_of(records[0])

    def _new_commit(self, aggregate: A, command_id: str | None, digest: str | None) -> Commit[Any]:
        state = state_of(aggregate)
        aggregate_id = id_text(aggregate.id)
        stream = stream_name(aggregate.aggregate_type, aggregate_id)
        pending = tuple(state.pending)
        payload = "\n".join([line for line, _ in pending])
        recorded = self._codec.events_of(stream, state.stored_version + 1, pending)
        metadata = current_metadata()
        metadata_json = json.dumps(dict(metadata), ensure_ascii=False, separators=(",", ":")) if metadata else "{}"
        now = self._clock()
        if now.tzinfo is None:
            raise ValueError("the clock of a store must return times with a zone, as datetime.now(UTC) does")
        record = CommitRecord(
            stream=stream,
            commit_id=urandom(16).hex(),
            first_version=state.stored_version + 1,
            count=len(recorded),
            occurred_at=now.isoformat(),
            metadata=metadata_json,
            payload=payload,
            command_id=command_id,
            request=digest,
            snapshot=None if self._snapshots is None else self._snapshots.take(aggregate, payload),
            after=state.head,
        )
        return Commit(record, aggregate.aggregate_type, aggregate_id, now, self._store.store_id, metadata, recorded)

    def _commit_of(self, record: CommitRecord) -> Commit[Any]:
        """A stored commit, decoded."""
        aggregate_type, aggregate_id = split_stream_name(record.stream)
        lines = record.payload.split("\n")
        if record.count != len(lines):
            raise CorruptStreamError(
                f"{record.stream}: the commit at version {record.first_version} has {len(lines)} payloads for "
                f"{record.count} events"
            )
        recorded = tuple(
            self._codec.decode(record.stream, version, line) for version, line in enumerate(lines, record.first_version)
        )
        return Commit(
            record,
            aggregate_type,
            aggregate_id,
            decode_time(record),
            self._store.store_id,
            decode_metadata(record),
            recorded,
        )


def _check_request(stream: str, handled: CommandRecord | CommandHandledError, digest: str | None) -> None:
    """Refuse a command id that was used for another request, as far as both are known."""
    if digest is not None and handled.request not in (None, digest):
        raise CommandReusedError(stream)
