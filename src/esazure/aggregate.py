"""The consistency boundary: decides, records, and is rebuilt from its own events.

User code needs `AggregateRoot` only; the functions below it are what repositories and the test kit work with. Read
`ports.py` next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter, length_hint
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, ClassVar, Generic, TypeGuard, Union, cast, get_args, get_origin
from uuid import UUID

from typing_extensions import TypeVar, get_original_bases

from esazure.codec import EventCodec
from esazure.errors import CorruptStreamError, InvalidIdError, UnknownEventTypeError, UnusableAggregateError
from esazure.events import Commit, CommitRecord, DomainEvent, check_stored_name
from esazure.keys import stream_name

E = TypeVar("E", bound=DomainEvent)
TId = TypeVar("TId", bound=UUID | str, default=UUID)


@dataclass(slots=True)
class StreamState:
    """Where an aggregate stands against its stream; the library's side of an aggregate, kept apart from the user's."""

    stored_version: int = 0
    store_id: UUID | None = None
    """The store that holds this aggregate; None while it is in none."""
    head: str = ""
    """What its store tells the last stored commit from others by; the next commit says that it follows this one."""
    snapshot_version: int = 0
    """The version of the last usable snapshot."""
    pending: list[Any] = field(default_factory=list[Any])
    unusable: str | None = None
    """Why recording and persisting are refused, if they are."""
    read_only: bool = False
    persisting: bool = False
    """An append is under way: nothing may be recorded on this copy, and no second append may begin."""
    in_doubt: Commit[Any] | None = None
    """A commit that was sent and never answered; only the very same commit may be sent next."""
    applying: bool = False


class AggregateRoot(ABC, Generic[E, TId]):
    """Subclass with the union of its events: `class Account(AggregateRoot[AccountEvent])`.

    Ids are UUIDs; write `AggregateRoot[AccountEvent, str]` for a natural key. Command methods check the rules and call
    `record`; `when` alone changes state, so replaying the same events always rebuilds the same state. `__init__(self,
    id)` gives the initial state and must accept the id alone: rehydration calls it so.
    """

    aggregate_type: ClassVar[str]
    """The stored name. Defaults to the class name; pin it before renaming the class."""

    event_types: ClassVar[Mapping[str, type[DomainEvent]]] = MappingProxyType({})
    """Stored name -> class, read from the type parameter. There is no other registry."""

    id_type: ClassVar[type[UUID | str]] = UUID
    """UUID or str, read from the type parameter."""

    __parameters: ClassVar[tuple[Any, Any]]
    __event_classes: ClassVar[frozenset[type[DomainEvent]]] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "aggregate_type" not in cls.__dict__:
            cls.aggregate_type = cls.__name__
        check_stored_name(cls.__name__, cls.aggregate_type)
        for base in get_original_bases(cls):
            origin = get_origin(base) or base
            if isinstance(origin, type) and issubclass(origin, AggregateRoot):
                cls.__parameters = _parameters(
                    cls.__name__,
                    base,
                    None if origin is AggregateRoot else origin.__parameters,  # noqa: SLF001 - the same class
                )
        union, id_type = cls.__parameters
        cls.event_types = _event_types(cls.__name__, union)
        cls.__event_classes = frozenset(cls.event_types.values())
        cls.id_type = _id_type(cls.__name__, id_type)

    def __init__(self, id: TId) -> None:
        if not isinstance(id, type(self).id_type):
            raise InvalidIdError(
                f"{type(self).__name__} ids are {type(self).id_type.__name__}, not {type(id).__name__}: "
                "convert it, or name the id type as in AggregateRoot[Events, str]"
            )
        self.__id = id
        self.__state = StreamState()

    @property
    def id(self) -> TId:
        """Which aggregate this is; never changes."""
        return self.__id

    @property
    def version(self) -> int:
        """How many events made this state, pending ones included.

        Raises:
            UnusableAggregateError: asked by `when`; a replay does not know it before its end.
        """
        state = self.__state
        if state.applying:
            raise UnusableAggregateError(
                f"{stream_of(self)}: when() must not read the version, which a replay knows at its end only; "
                "count events in the state instead"
            )
        return state.stored_version + len(state.pending)

    @property
    def token(self) -> str:
        """`<stream>@<stored version>`, for `IViews.wait_for` like `Commit.token`: read what this copy has seen.

        Pending events do not count. While nothing is stored there is nothing to wait for, and the token is refused.

        Raises:
            InvalidIdError: the id cannot be a key.
        """
        return f"{stream_of(self)}@{self.__state.stored_version}"

    @property
    def pending(self) -> tuple[E, ...]:
        """Recorded but not yet stored, oldest first."""
        return tuple(self.__state.pending)

    @abstractmethod
    def when(self, event: E) -> None:
        """Apply one event to the state. Must not fail, decide, record, read the version or do I/O."""

    def record(self, event: E) -> None:
        """Apply a new event and hold it until it is persisted.

        When `when` raises, nothing is recorded, and this copy is unusable from then on: its state may be half changed.

        Raises:
            UnknownEventTypeError: the event's class is not in the aggregate's union.
            UnusableAggregateError: an earlier `when` failed, a persist is under way, or its outcome is unknown.
        """
        state = self.__state
        if type(event) not in self.__event_classes:
            name = getattr(event, "event_type", type(event).__name__)
            raise UnknownEventTypeError(self.aggregate_type, name, tuple(self.event_types))
        if state.unusable is not None or state.in_doubt is not None or state.applying or state.persisting:
            raise UnusableAggregateError(f"{stream_of(self)} cannot record {event.event_type}: {_why_not(state)}")
        state.applying = True
        try:
            self.when(event)
        except BaseException:
            state.unusable = (
                f"applying {event.event_type} failed and may have left its state half changed; load it again"
            )
            raise
        finally:
            state.applying = False
        state.pending.append(event)

    def __repr__(self) -> str:
        stored, pending = self.__state.stored_version, len(self.__state.pending)
        return f"<{type(self).__name__} {self.id} at version {stored + pending}, {pending} pending>"


A = TypeVar("A", bound=AggregateRoot[Any, Any])

state_of: Callable[[AggregateRoot[Any, Any]], StreamState] = attrgetter("_AggregateRoot__state")
"""The library's side of an aggregate, for repositories: private to users, by a name that their classes cannot take."""


def stream_of(aggregate: AggregateRoot[Any, Any]) -> str:
    """The encoded name of the aggregate's stream.

    Raises:
        InvalidIdError: the id cannot be a key.
    """
    return stream_name(type(aggregate).aggregate_type, id_text(aggregate.id))


def id_text(id: UUID | str) -> str:
    """An id as it is stored. A member of a `str` enum is its value, however it prints."""
    return str.__str__(id) if isinstance(id, str) else str(id)


def check_persistable(aggregate: AggregateRoot[Any, Any]) -> None:
    """Refuse a copy whose pending events must not be stored.

    Raises:
        UnusableAggregateError: an earlier `when` failed, or another task is persisting this copy.
    """
    state = state_of(aggregate)
    if state.unusable is not None or state.persisting:
        raise UnusableAggregateError(f"{stream_of(aggregate)} cannot be persisted: {_why_not(state)}")


def accept(aggregate: AggregateRoot[Any, Any], commit: Commit[Any]) -> None:
    """The commit is durable: its events are no longer pending."""
    state = state_of(aggregate)
    state.in_doubt = None
    state.stored_version = commit.last_version
    state.store_id = commit.store_id
    state.head = commit.record.identity
    if commit.record.snapshot is not None:
        state.snapshot_version = commit.last_version
    del state.pending[: commit.record.count]


def replay(
    aggregate: AggregateRoot[E, Any], records: Iterable[CommitRecord], codec: EventCodec[E], *, to: int | None
) -> None:
    """Apply stored commits, oldest first, up to and including version `to`.

    Decode, apply, drop: keeping the events of a long stream costs more than reading them.

    Raises:
        CorruptStreamError: a gap or an overlap between commits, a damaged payload, or a `when` that refuses an event.
        UnknownEventTypeError: a stored name is not declared.
    """
    state = state_of(aggregate)
    when, validators = aggregate.when, codec.validators
    version = state.stored_version
    state.applying = True
    try:
        for record in records:
            lines = record.payload.split("\n")
            if record.first_version != version + 1 or record.count != len(lines):
                raise CorruptStreamError(
                    f"{record.stream}: after version {version} comes a commit of {record.count} events at "
                    f"{record.first_version} with {len(lines)} payloads: rows were removed, or written by others"
                )
            if to is not None:
                del lines[to - version :]
            left = iter(lines)
            try:
                for line in left:
                    name, _, json = line.partition(" ")
                    when(validators[name](json))
                version += len(lines)
                continue
            except Exception as error:  # noqa: BLE001 - user code may raise anything
                why = f"{type(error).__name__} at {place_of(error)}"
            # Outside the handler: the text of that exception may quote the event, so it is not chained.
            version += len(lines) - length_hint(left)
            event = codec.decode(record.stream, version, line)  # raises when it was not `when` that failed
            raise CorruptStreamError(
                f"{record.stream}: {type(aggregate).__name__}.when refused the stored {event.event_type} of "
                f"version {version} with {why}; it must accept every event ever stored"
            )
    finally:
        state.applying = False
    state.stored_version = version


def place_of(error: BaseException) -> str:
    """The file and line that raised it: what can be said of an exception whose text may quote a payload."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def codec_of(aggregate_class: type[AggregateRoot[E, Any]]) -> EventCodec[E]:
    """The codec for the events a class declares."""
    return EventCodec(cast("Mapping[str, type[E]]", aggregate_class.event_types))


def as_class(factory: Callable[[Any], A]) -> type[A]:
    """The aggregate class behind a factory parameter; typed so that checkers infer the id type from `__init__`.

    Raises:
        TypeError: not an aggregate class.
    """
    if not _is_aggregate_class(factory):
        raise TypeError(f"give the aggregate class itself, a subclass of AggregateRoot, not {factory!r}")
    if not factory.event_types:
        raise TypeError(f"{factory.__name__} declares no events: subclass AggregateRoot[YourEvents]")
    return cast("type[A]", factory)


def _is_aggregate_class(factory: object) -> TypeGuard[type[AggregateRoot[Any, Any]]]:
    return isinstance(factory, type) and issubclass(factory, AggregateRoot)


def _why_not(state: StreamState) -> str:
    if state.unusable is not None:
        return state.unusable
    if state.persisting:
        return "another task is persisting this copy; give each task a copy of its own"
    if state.in_doubt is not None:
        return "it is unknown whether its last commit was stored; persist it again first, or load it again"
    return "when() applies events and must not record new ones"


def _parameters(owner: str, base: Any, inherited: tuple[Any, Any] | None) -> tuple[Any, Any]:
    """The event union and the id type that `base` gives, with an own generic base in between resolved."""
    given = get_args(base)
    if inherited is None:
        if not given:
            raise TypeError(f"{owner}: say which events it has, as in AggregateRoot[AccountOpened | Deposited]")
        return given[0], given[1] if len(given) > 1 else UUID
    meaning = dict(zip(getattr(get_origin(base), "__parameters__", ()), given, strict=False))
    return meaning.get(inherited[0], inherited[0]), meaning.get(inherited[1], inherited[1])


def _event_types(owner: str, union: Any) -> Mapping[str, type[DomainEvent]]:
    if _is_type_variable(union):  # a base that is still generic
        return MappingProxyType({})
    table: dict[str, type[DomainEvent]] = {}
    for member in _members(union):
        if not (isinstance(member, type) and issubclass(member, DomainEvent) and member is not DomainEvent):
            raise TypeError(f"{owner}: {member!r} is not an event class; give DomainEvent subclasses, A | B | C")
        if table.get(member.event_type, member) is not member:
            raise TypeError(
                f"{owner}: {table[member.event_type]!r} and {member!r} are both stored as {member.event_type!r}"
            )
        table[member.event_type] = member
    return MappingProxyType(table)


def _members(union: Any) -> Iterator[Any]:
    """The classes of a union, also of one that is made of named unions, `type X = A | B`."""
    if hasattr(union, "__value__"):
        yield from _members(union.__value__)
    elif get_origin(union) in (Union, UnionType):
        for part in get_args(union):
            yield from _members(part)
    else:
        yield union


def _id_type(owner: str, given: Any) -> type[UUID | str]:
    if _is_type_variable(given):
        return UUID
    bare = given
    while hasattr(bare, "__supertype__"):  # unwrap NewType, also of a NewType
        bare = bare.__supertype__
    if bare is not UUID and bare is not str:
        raise TypeError(f"{owner}: ids are UUID or str (or a NewType of one), not {given!r}")
    return bare


def _is_type_variable(given: Any) -> bool:
    return hasattr(given, "__bound__")
