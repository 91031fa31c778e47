"""The consistency boundary: decides, records, and is rebuilt from its own events.

User code needs `AggregateRoot` only. What the library keeps of one is in `state.py`, how a class declares its events in
`declaration.py`. Read `lifecycle.py` next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import copy
from inspect import isasyncgenfunction, iscoroutine, iscoroutinefunction, isgeneratorfunction, signature
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeGuard, cast, get_origin
from uuid import UUID

from typing_extensions import TypeVar, get_original_bases

from esazure.codec import EventCodec
from esazure.declaration import check_parameters, event_types_of, id_type_of, parameters
from esazure.errors import (
    EventNotStorableError,
    InvalidIdError,
    UnknownEventTypeError,
    UnusableAggregateError,
)
from esazure.events import DomainEvent, check_stored_name
from esazure.keys import stream_name
from esazure.state import StreamState, state_of, uninitialised, why_not

E = TypeVar("E", bound=DomainEvent)
TId = TypeVar("TId", bound=UUID | str, default=UUID)


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
                inherited = [parameters(cls.__name__, base, None)]
                break  # what the class says itself
            if isinstance(origin, type) and issubclass(origin, AggregateRoot):
                inherited.append(parameters(cls.__name__, base, origin.__parameters))  # noqa: SLF001 - the same class
        union, id_type = cls.__parameters = inherited[0]
        check_parameters(cls, inherited)
        cls.event_types = event_types_of(cls.__name__, union)
        cls.__event_classes = frozenset(cls.event_types.values())
        cls.id_type = id_type_of(cls.__name__, id_type)
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
            raise uninitialised(self) from None

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
            raise UnusableAggregateError(f"{stream_of(self)} cannot record {event.event_type}: {why_not(state)}")
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


def stream_of(aggregate: AggregateRoot[Any, Any]) -> str:
    """The encoded name of the aggregate's stream.

    Raises:
        InvalidIdError: the id cannot be a key.
    """
    return stream_name(type(aggregate).aggregate_type, id_text(aggregate.id))


def id_text(id: UUID | str) -> str:
    """An id as it is stored. A member of a `str` enum is its value, however it prints."""
    return str.__str__(id) if isinstance(id, str) else str(id)


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
