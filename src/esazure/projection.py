"""Projections: functions from events to views.

    archive = Projection(store.views(CustomerItem, name="archive"), source=store)

    @archive.fold(Customer, CustomerCreated)
    def created(item: CustomerItem | None, envelope: EventEnvelope[CustomerCreated]) -> CustomerItem: ...

Events come to a view by several ways at once: two workers, a message delivered twice or late, a worker everybody takes
for dead, a rebuild. What comes out is the same as if each stream had come once and in order, because

1. each call brings, of one stream, every event of interest above some version which the views show already, without a
   gap: a consumer hands over what is above the position it keeps for this generation, and a rebuild whole streams;
2. a view says up to which version of each stream it was changed. Of a call only what is above that is applied. The view
   is replaced, together with that version, only if nobody has replaced it since it was read.

So a view that says version n of a stream shows exactly the changes up to n which concern it, and every call leaves that
true, whoever else is at work. An older result is not above that version, so it never replaces a newer one. Each stream
is in order for itself; between two streams there is no order, in a rebuild as in life.

A `fold` applies each event. A `reload` looks at the aggregate as it is when an event arrives, which may be newer than
that event. One class is either folded or reloaded: the version a reload leaves would hide events that were not folded.
Read `rebuild.py` next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, overload
from uuid import UUID

from pydantic import BaseModel
from typing_extensions import TypeVar

from esazure.aggregate import AggregateRoot, as_class, codec_of, id_text, stream_of
from esazure.errors import CorruptStreamError
from esazure.events import CommitRecord, DomainEvent, EventEnvelope, decode_metadata, decode_time
from esazure.handlers import IEventHandler, IHandlerSet, Interests, Records, check_event
from esazure.keys import split_stream_name
from esazure.lifecycle import replay
from esazure.plain import own
from esazure.repository import CommitStore
from esazure.views import Change, Key, Views, key_text

__all__ = ["Projection"]

V = TypeVar("V", bound=BaseModel)
E = TypeVar("E", bound=DomainEvent)
Other = TypeVar("Other", bound=DomainEvent)
A = TypeVar("A", bound=AggregateRoot[Any, Any])

# From the view as it is (None: there is none) to what it shall be (None: none any more).
Fold = Callable[[V | None, EventEnvelope[E]], V | None]
AsyncFold = Callable[[V | None, EventEnvelope[E]], Awaitable[V | None]]
Reload = Callable[[V | None, A], V | None]
AsyncReload = Callable[[V | None, A], Awaitable[V | None]]

Keys = Key | Iterable[Key]
Rows = Mapping[str, list[tuple[int, Change[V]]]]
"""By key, what to do with a view at which version."""

_TAKEN = "an event has one function, a class is either folded or reloaded, and one class has a stored name"


class FoldDecorator(Protocol[V, E]):
    """Takes a function of this event, or of this event and others, and gives it back."""

    # For why there are two of each see `HandlerDecorator`.
    @overload
    def __call__(self, function: Fold[V, E | Other], /) -> Fold[V, E | Other]: ...
    @overload
    def __call__(self, function: Fold[V, E], /) -> Fold[V, E]: ...
    @overload
    def __call__(self, function: AsyncFold[V, E | Other], /) -> AsyncFold[V, E | Other]: ...
    @overload
    def __call__(self, function: AsyncFold[V, E], /) -> AsyncFold[V, E]: ...


class ReloadDecorator(Protocol[V, A]):
    """Takes a function of this aggregate, and gives it back."""

    @overload
    def __call__(self, function: Reload[V, A], /) -> Reload[V, A]: ...
    @overload
    def __call__(self, function: AsyncReload[V, A], /) -> AsyncReload[V, A]: ...


class Projection(IHandlerSet, Generic[V]):
    """Keeps the views of one model up to date. Its name is theirs.

    Give it to a `Consumer` that has positions and a source; without them, one with a `fold` is refused.
    Register every function before it is used, with the same functions in every process.
    """

    def __init__(self, views: Views[V], *, source: CommitStore | None = None) -> None:
        self.views = views
        self._source = source
        self._ways: dict[str, _Way[V]] = {}

    @property
    def name(self) -> str:
        """The name of its views."""
        return self.views.name

    @property
    def interests(self) -> Interests:
        """Which events it wants. See `IEventHandler.interests`."""
        return {way.aggregate_class: way.wanted for way in self._ways.values()}

    @property
    def needs_history(self) -> bool:
        """With a `fold`: a view that misses an event is wrong from then on."""
        return any(isinstance(way, _Folded) for way in self._ways.values())

    def fold(
        self,
        aggregate_class: Callable[[Any], Records[E]],
        event_class: type[E],
        *,
        key: Callable[[EventEnvelope[E]], Keys] | None = None,
    ) -> FoldDecorator[V, E]:
        """Change a view by each event of a class: decorates a function `(view, envelope) -> view`.

        Args:
            aggregate_class: a subclass of AggregateRoot.
            event_class: one of its events.
            key: which view an event changes, or which ones; the aggregate's id when left out. The same event must
                always give the same keys.

        Raises:
            TypeError: not an aggregate class, or not one of its events.
            ValueError: the event has a function already, or the class is reloaded.
        """
        chosen = check_event(aggregate_class, event_class)

        def register(function: Callable[[V | None, EventEnvelope[E]], Any]) -> Any:
            way = self._ways.setdefault(chosen.aggregate_type, _Folded(chosen))
            if not isinstance(way, _Folded) or way.aggregate_class is not chosen or event_class in way.functions:
                raise ValueError(f"{self.name}: {event_class.__name__} of {chosen.__name__}: {_TAKEN}")
            way.functions[event_class] = (function, key or _own_id)
            return function

        return register

    def reload(
        self, aggregate_class: Callable[[Any], A], *, key: Callable[[A], Keys] | None = None
    ) -> ReloadDecorator[V, A]:
        """Change a view by the aggregate as it is, at any event of its class: decorates `(view, aggregate) -> view`.

        Args:
            aggregate_class: a subclass of AggregateRoot.
            key: which view it changes, or which ones; its id when left out. An aggregate must keep its keys: a view it
                no longer names would stay as it is.

        Raises:
            TypeError: not an aggregate class.
            ValueError: the class has a function already, or the projection was made without a source.
        """
        chosen = as_class(aggregate_class)
        if self._source is None:
            raise ValueError(f"{self.name}: to reload {chosen.__name__}, make the projection with source=store")
        rehydrate = self._source.events(chosen).rehydrate

        def register(function: Callable[[V | None, A], Any]) -> Any:
            if chosen.aggregate_type in self._ways:
                raise ValueError(f"{self.name}: {chosen.__name__}: {_TAKEN}")
            self._ways[chosen.aggregate_type] = _Reloaded(chosen, rehydrate, function, key or _id_of)
            return function

        return register

    async def handlers(self) -> Sequence[IEventHandler]:
        """One for each generation that gets events now: two of them while a rebuild goes on.

        Asked for every message, it is answered from memory for a second at a time.

        Raises:
            StoreError: which generations there are could not be read.
        """
        return [_Generation(self, number) for number in (await self.views.generations.get()).fed]

    async def handle(self, stream: str, events: Sequence[EventEnvelope[Any]], *, generation: int) -> int:
        """Change the views of one generation by events of one stream. See `IEventHandler.handle`.

        Raises:
            EventNotStorableError, ViewOutdatedError: see `Views.update`.
            Exception: what a function raises; some views may have been changed. Doing it again is safe.
        """
        version, rows = await self._way_of(stream).rows(events)
        # One after the other: after a failure the same rows are written again, in the same order.
        for key, changes in rows.items():
            await self.views.advance(key, stream, changes, generation=generation)
        return version

    async def replay(self, records: Sequence[CommitRecord], *, generation: int) -> None:
        """Change the views of one generation by a whole stream; `handle` for `rebuild`.

        Raises:
            CorruptStreamError, UnknownEventTypeError: see `IEventsRepository.rehydrate`.
            Exception: as for `handle`.
        """
        stream = records[0].stream
        own_id = split_stream_name(stream)[1]
        for key, changes in self._way_of(stream).rows_of_all(records).items():
            await self.views.advance(key, stream, changes, generation=generation, likely_new=key == own_id)

    def _way_of(self, stream: str) -> _Way[V]:
        return self._ways[split_stream_name(stream)[0]]


@dataclass(frozen=True, slots=True)
class _Generation(IEventHandler):
    """One generation of a projection, as a consumer sees it."""

    projection: Projection[Any]
    number: int

    @property
    def name(self) -> str:
        return self.projection.views.collection(self.number)

    @property
    def interests(self) -> Interests:
        return self.projection.interests

    @property
    def repeatable(self) -> bool:
        return True

    async def handle(self, stream: str, events: Sequence[EventEnvelope[Any]]) -> int:
        return await self.projection.handle(stream, events, generation=self.number)


class _Way(ABC, Generic[V]):
    """How one aggregate class is projected."""

    def __init__(self, aggregate_class: type[AggregateRoot[Any, Any]]) -> None:
        self.aggregate_class = aggregate_class
        self._codec = codec_of(aggregate_class)

    @property
    @abstractmethod
    def wanted(self) -> frozenset[type[DomainEvent]]:
        """The events of interest."""

    @abstractmethod
    async def rows(self, events: Sequence[EventEnvelope[Any]]) -> tuple[int, Rows[V]]:
        """What these events change, and the version reached thereby."""

    @abstractmethod
    def rows_of_all(self, records: Sequence[CommitRecord]) -> Rows[V]:
        """What a whole stream changes."""


class _Folded(_Way[V]):
    """Event by event."""

    def __init__(self, aggregate_class: type[AggregateRoot[Any, Any]]) -> None:
        super().__init__(aggregate_class)
        self.functions: dict[type[DomainEvent], tuple[Callable[..., Any], Callable[[Any], Keys]]] = {}

    @property
    def wanted(self) -> frozenset[type[DomainEvent]]:
        return frozenset(self.functions)

    async def rows(self, events: Sequence[EventEnvelope[Any]]) -> tuple[int, Rows[V]]:
        return events[-1].version, self._rows(events)

    def rows_of_all(self, records: Sequence[CommitRecord]) -> Rows[V]:
        return self._rows(self._envelopes(records))

    def _rows(self, events: Iterable[EventEnvelope[Any]]) -> Rows[V]:
        rows: dict[str, list[tuple[int, Change[V]]]] = {}
        for envelope in events:
            function, key = self.functions[type(envelope.event)]
            change = _with(function, envelope)
            for text in _texts(key(own(envelope))):
                rows.setdefault(text, []).append((envelope.version, change))
        return rows

    def _envelopes(self, records: Sequence[CommitRecord]) -> Iterator[EventEnvelope[Any]]:
        """The events of interest; a name nobody declares is an error all the same."""
        aggregate_type, aggregate_id = split_stream_name(records[0].stream)
        others = self.aggregate_class.event_types.keys() - {event.event_type for event in self.functions}
        version = 0
        for record in records:
            lines = record.payload.split("\n")
            if record.first_version != version + 1 or record.count != len(lines):
                raise CorruptStreamError(
                    f"{record.stream}: after version {version} comes a commit of {record.count} events at "
                    f"{record.first_version} with {len(lines)} payloads: rows were removed, or written by others"
                )
            occurred_at, metadata = decode_time(record), decode_metadata(record)
            for version, line in enumerate(lines, record.first_version):
                if line.partition(" ")[0] not in others:
                    event = self._codec.decode(record.stream, version, line)
                    yield EventEnvelope(event, aggregate_type, aggregate_id, version, occurred_at, metadata)


class _Reloaded(_Way[V]):
    """By the aggregate as it is."""

    def __init__(
        self,
        aggregate_class: type[AggregateRoot[Any, Any]],
        rehydrate: Callable[[Any], Awaitable[AggregateRoot[Any, Any]]],
        function: Callable[[V | None, Any], Any],
        key: Callable[[Any], Keys],
    ) -> None:
        super().__init__(aggregate_class)
        self._rehydrate, self._function, self._key = rehydrate, function, key

    @property
    def wanted(self) -> frozenset[type[DomainEvent]]:
        return frozenset(self.aggregate_class.event_types.values())

    async def rows(self, events: Sequence[EventEnvelope[Any]]) -> tuple[int, Rows[V]]:
        aggregate = await self._rehydrate(self._id(events[-1].aggregate_id))
        if aggregate.version < events[-1].version:
            raise CorruptStreamError(
                f"{stream_of(aggregate)}: event {events[-1].version} has come, and the store holds only "
                f"{aggregate.version}: give the projection the store its events are written to"
            )
        return aggregate.version, self._rows(aggregate)

    def rows_of_all(self, records: Sequence[CommitRecord]) -> Rows[V]:
        aggregate = self.aggregate_class(self._id(split_stream_name(records[0].stream)[1]))
        replay(aggregate, records, self._codec, to=None)
        return self._rows(aggregate)

    def _rows(self, aggregate: AggregateRoot[Any, Any]) -> Rows[V]:
        def change(view: V | None) -> Any:
            return self._function(view, aggregate)

        return {text: [(aggregate.version, change)] for text in _texts(self._key(aggregate))}

    def _id(self, text: str) -> UUID | str:
        return UUID(text) if self.aggregate_class.id_type is UUID else text


def _with(function: Callable[[Any, Any], Any], envelope: EventEnvelope[Any]) -> Change[Any]:
    return lambda view: function(view, own(envelope))


def _texts(keys: Keys) -> Iterable[str]:
    """Each key once."""
    return dict.fromkeys(map(key_text, (keys,) if isinstance(keys, str | UUID) else keys))


def _own_id(envelope: EventEnvelope[Any]) -> Key:
    return envelope.aggregate_id


def _id_of(aggregate: AggregateRoot[Any, Any]) -> Key:
    return id_text(aggregate.id)
