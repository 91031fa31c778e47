"""The consistency boundary: decides, records, and is rebuilt from its own events.

User code needs `AggregateRoot` only; the functions below it are what repositories and the test kit work with. Read
`ports.py` next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, fields
from inspect import isasyncgenfunction, iscoroutine, iscoroutinefunction, isgeneratorfunction, signature
from operator import length_hint
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, ClassVar, Generic, TypeGuard, Union, cast, get_args, get_origin
from uuid import UUID

from typing_extensions import TypeVar, get_original_bases

from esazure.codec import EventCodec
from esazure.errors import (
    CorruptStreamError,
    EventNotStorableError,
    InvalidIdError,
    StoreMismatchError,
    UnknownEventTypeError,
    UnusableAggregateError,
)
from esazure.events import Commit, CommitRecord, DomainEvent, check_stored_name
from esazure.keys import stream_name

E = TypeVar("E", bound=DomainEvent)
TId = TypeVar("TId", bound=UUID | str, default=UUID)


@dataclass(slots=True, repr=False)  # what is pending is payload
class StreamState:
    """Where an aggregate stands against its stream; the library's side of an aggregate, kept apart from the user's."""

    stored_version: int = 0
    store_id: UUID | None = None
    """The store that holds this aggregate; None while it is in none."""
    head: str = ""
    """What its store tells the last stored commit from others by; the next commit says that it follows this one."""
    snapshot_version: int = 0
    """The version of the last usable snapshot."""
    pending: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    """Each event's line, and the event itself when nothing in it can change (`plain.py`); else None, and it is read."""
    unusable: str | None = None
    """Why recording and persisting are refused, if they are."""
    read_only: bool = False
    persisting: bool = False
    """An append is under way: nothing may be recorded on this copy, and no second append may begin."""
    in_doubt: Commit[Any] | None = None
    """A commit that was sent and never answered; only the very same commit may be sent next."""
    applying: bool = False
    owner: int | None = None
    """The `id()` of its aggregate; None until that is first used. A copy that was made by hand has another."""

    def __getstate__(self) -> dict[str, Any]:
        """For a copy: it shares nothing, nobody persists it, and it belongs to nobody yet."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**values, "pending": [*self.pending], "persisting": False, "owner": None}

    def __setstate__(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(self, name, value)


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
    __codec: ClassVar[EventCodec[Any] | None] = None
    """Made once for each class, at first use: events build their schemas late."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "aggregate_type" not in cls.__dict__:
            cls.aggregate_type = cls.__name__
        check_stored_name(cls.__name__, cls.aggregate_type)
        inherited: list[tuple[Any, Any]] = []
        for base in get_original_bases(cls):
            origin = get_origin(base) or base
            if origin is AggregateRoot:
                inherited = [_parameters(cls.__name__, base, None)]
                break  # what the class says itself
            if isinstance(origin, type) and issubclass(origin, AggregateRoot):
                inherited.append(_parameters(cls.__name__, base, origin.__parameters))  # noqa: SLF001 - the same class
        union, id_type = cls.__parameters = inherited[0]
        _check_parameters(cls, inherited)
        cls.event_types = _event_types(cls.__name__, union)
        cls.__event_classes = frozenset(cls.event_types.values())
        cls.id_type = _id_type(cls.__name__, id_type)
        cls.__codec = None
        if any(kind(cls.when) for kind in (iscoroutinefunction, isgeneratorfunction, isasyncgenfunction)):
            raise TypeError(f"{cls.__name__}.when must be a plain function: it applies an event, without I/O")

    def __init__(self, id: TId) -> None:
        if not isinstance(id, type(self).id_type):
            raise InvalidIdError(
                f"{type(self).__name__} ids are {type(self).id_type.__name__}, not {type(id).__name__}: "
                "convert it, or name the id type as in AggregateRoot[Events, str]"
            )
        self.__id = id
        self.__state = StreamState()
        state_of(self)  # which makes it the owner

    def __getstate__(self) -> object:
        """For `copy` and `pickle`: the copy has the library's side for itself, too."""
        state = copy(self.__read("be copied"))
        found = cast("Any", super().__getstate__())
        values, slots = found if isinstance(found, tuple) else (found, None)
        values = {**values, "_AggregateRoot__state": state}
        return values if slots is None else (values, slots)

    @property
    def id(self) -> TId:
        """Which aggregate this is; never changes."""
        try:
            return self.__id
        except AttributeError:
            raise _uninitialised(self) from None

    @property
    def version(self) -> int:
        """How many events made this state, pending ones included.

        Raises:
            UnusableAggregateError: asked by `when`; a replay does not know it before its end.
        """
        state = self.__read("read the version")
        return state.stored_version + len(state.pending)

    @property
    def token(self) -> str:
        """`<stream>@<stored version>`, for `IViews.wait_for` like `Commit.token`: read what this copy has seen.

        Pending events do not count. While nothing is stored there is nothing to wait for, and the token is refused.

        Raises:
            InvalidIdError: the id cannot be a key.
            UnusableAggregateError: asked by `when`, like `version`.
        """
        return f"{stream_of(self)}@{self.__read('read the token').stored_version}"

    @property
    def pending(self) -> tuple[E, ...]:
        """Recorded but not yet stored, oldest first, as a load will give them.

        Raises:
            UnusableAggregateError: asked by `when`, like `version`.
        """
        state = self.__read("read what is pending")
        if not state.pending:
            return ()
        return codec_of(type(self)).events_of(stream_of(self), state.stored_version + 1, state.pending)

    def __read(self, what: str) -> StreamState:
        state = state_of(self)
        if state.applying:
            raise UnusableAggregateError(
                f"{stream_of(self)}: when() must not {what}, for a replay is elsewhere in the stream; "
                "keep what it needs, such as a count of events, in the state instead"
            )
        return state

    @abstractmethod
    def when(self, event: E) -> None:
        """Apply one event to the state.

        It must not fail, decide, record, read `version`, `token` or `pending`, or do I/O.
        """

    def record(self, event: E) -> None:
        """Apply a new event and hold it until it is persisted.

        What is stored is fixed here, so no later change of a list in the event gets into the history. `when` gets the
        event as every load will give it: read back from what is stored, or the event itself when nothing in it can
        change. When `when` raises, nothing is recorded, and this copy is unusable from then on: its state may be half
        changed.

        Raises:
            UnknownEventTypeError: the event's class is not in the aggregate's union.
            EventNotStorableError: it would not come back from the store as it is. Nothing has changed.
            UnusableAggregateError: an earlier `when` failed, a persist is under way, or its outcome is unknown.
        """
        state = state_of(self)
        if type(event) not in self.__event_classes:
            name = getattr(event, "event_type", type(event).__name__)
            raise UnknownEventTypeError(self.aggregate_type, name, tuple(self.event_types))
        if state.unusable is not None or state.in_doubt is not None or state.applying or state.persisting:
            raise UnusableAggregateError(f"{stream_of(self)} cannot record {event.event_type}: {_why_not(state)}")
        codec = self.__codec or codec_of(type(self))
        fixed = codec.fix(event)
        if isinstance(fixed, str):
            raise EventNotStorableError(f"{stream_of(self)}: {fixed}")
        line, applied = fixed
        state.applying = True
        try:
            returned: object = self.when(applied)
            if returned is not None:
                if iscoroutine(returned):
                    returned.close()
                raise UnusableAggregateError(f"{type(self).__name__}.when must return nothing, and not be asynchronous")  # noqa: TRY301 - it is as wrong as a `when` that raises
        except BaseException:
            state.unusable = (
                f"applying {event.event_type} failed and may have left its state half changed; load it again"
            )
            raise
        finally:
            state.applying = False
        # What was read back is the state's from now on, so it is read anew when asked for.
        state.pending.append((line, event if applied is event else None))

    def __repr__(self) -> str:
        if "_AggregateRoot__state" not in self.__dict__:
            return f"<{type(self).__name__} whose __init__ did not call super().__init__(id)>"
        state = self.__state
        if state.applying:
            return f"<{type(self).__name__} {self.id}, applying an event>"
        pending = len(state.pending)
        return f"<{type(self).__name__} {self.id} at version {state.stored_version + pending}, {pending} pending>"


A = TypeVar("A", bound=AggregateRoot[Any, Any])


def state_of(aggregate: Any) -> StreamState:
    """The library's side of an aggregate, for repositories: private to users, by a name that their classes cannot take.

    Raises:
        TypeError: the class's `__init__` did not reach `AggregateRoot.__init__`.
        UnusableAggregateError: it is another aggregate's, copied by hand.
    """
    try:
        state: StreamState = aggregate._AggregateRoot__state  # noqa: SLF001 - the library's own
    except AttributeError:
        raise _uninitialised(aggregate) from None
    if state.owner != id(aggregate):
        if state.owner is not None:
            raise UnusableAggregateError(
                f"this {type(aggregate).__name__} shares what is pending with the one it was copied from: copy with "
                "copy.copy, and let a __copy__ or __getstate__ of your own begin with super().__getstate__()"
            )
        state.owner = id(aggregate)
    return state


def _uninitialised(aggregate: AggregateRoot[Any, Any]) -> TypeError:
    name = type(aggregate).__name__
    return TypeError(
        f"{name}.__init__ did not call super().__init__(id): write `def __init__(self, id)` that calls it first, and "
        "put no @dataclass on an aggregate, for the __init__ it makes takes that place"
    )


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


def check_home(aggregate: AggregateRoot[Any, Any], store_id: UUID) -> None:
    """Refuse a copy whose events are in another store, or may be.

    Raises:
        StoreMismatchError: it was loaded or persisted there.
    """
    state = state_of(aggregate)
    home = state.store_id if state.in_doubt is None else state.in_doubt.store_id
    if home is not None and home != store_id:
        raise StoreMismatchError(
            f"{stream_of(aggregate)} belongs to the store {home}, and this one is {store_id}: "
            "persist it where it was loaded or first persisted, or load it from this store"
        )


@contextmanager
def looked_at(aggregate: AggregateRoot[Any, Any]) -> Iterator[None]:
    """Code of the user gets it to look at: nothing may be recorded inside."""
    state = state_of(aggregate)
    state.persisting = True
    try:
        yield
    finally:
        state.persisting = False


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
    """The codec for the events a class declares; one for each class."""
    codec: EventCodec[E] | None = aggregate_class.__dict__.get("_AggregateRoot__codec")
    if codec is None:
        codec = EventCodec(cast("Mapping[str, type[E]]", aggregate_class.event_types))
        setattr(aggregate_class, "_AggregateRoot__codec", codec)  # noqa: B010 - its private name
    return codec


def as_class(factory: Callable[[Any], A]) -> type[A]:
    """The aggregate class behind a factory parameter; typed so that checkers infer the id type from `__init__`.

    Raises:
        TypeError: not an aggregate class.
    """
    if not _is_aggregate_class(factory):
        raise TypeError(f"give the aggregate class itself, a subclass of AggregateRoot, not {factory!r}")
    if not factory.event_types:
        raise TypeError(f"{factory.__name__} declares no events: subclass AggregateRoot[YourEvents]")
    try:
        signature(factory).bind(object())
    except TypeError:
        raise TypeError(
            f"{factory.__name__}.__init__ must accept the id alone, for a load calls it so: record what else is known "
            "in the first event, in a class method"
        ) from None
    return cast("type[A]", factory)


def _is_aggregate_class(factory: object) -> TypeGuard[type[AggregateRoot[Any, Any]]]:
    return isinstance(factory, type) and issubclass(factory, AggregateRoot)


def _why_not(state: StreamState) -> str:
    if state.unusable is not None:
        return state.unusable
    if state.persisting:
        return (
            "another task is persisting this copy, or a view or a snapshot is made of it; give each task a copy of its "
            "own, and record in command methods alone"
        )
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


def _check_parameters(cls: Any, inherited: list[tuple[Any, Any]]) -> None:
    if len({(frozenset(_members(union)), id_type) for union, id_type in inherited}) > 1:
        raise TypeError(
            f"{cls.__name__}: its bases have different events or ids: say which it has, with AggregateRoot[A | B] as "
            "its last base"
        )
    if any(_is_type_variable(given) and given not in cls.__parameters__ for given in inherited[0]):
        raise TypeError(f"{cls.__name__}: a base is generic: say which events it has, as in Base[Opened | Deposited]")


def _event_types(owner: str, union: Any) -> Mapping[str, type[DomainEvent]]:
    if _is_type_variable(union):  # a base that is still generic
        return MappingProxyType({})
    table: dict[str, type[DomainEvent]] = {}
    for member in _members(union):
        if not (isinstance(member, type) and issubclass(member, DomainEvent) and member is not DomainEvent):
            raise TypeError(
                f"{owner}: {member!r} is not an event class; give DomainEvent subclasses, A | B | C, and no text: they "
                "have to be defined before the aggregate"
            )
        generic = member.__pydantic_generic_metadata__
        if generic["origin"] is not None or generic["parameters"]:
            raise TypeError(f"{owner}: {member!r} is generic: name it, as in class PriceChanged(Changed[int])")
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
    elif get_origin(union) is Annotated:
        yield from _members(get_args(union)[0])
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
