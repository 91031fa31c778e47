"""What is done when an event arrives: handlers with side effects, and reactions that change another aggregate.

    notifications = EventHandlers("notifications")

    @notifications.on(Account, AccountOpened)
    async def welcome(opened: EventEnvelope[AccountOpened]) -> None: ...

Each set of handlers has a name, under which a consumer remembers how far it has come in every stream. Read
`projection.py` next, or `consumer/`, which calls all of them.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from inspect import isawaitable, iscoroutinefunction
from types import MappingProxyType
from typing import Any, Generic, Protocol, cast, overload
from uuid import UUID

from typing_extensions import TypeVar

from esazure.aggregate import AggregateRoot, as_class
from esazure.context import Given
from esazure.errors import AppendOutcomeUnknownError, ConcurrencyError, RetryLaterError
from esazure.events import DomainEvent, EventEnvelope
from esazure.plain import own
from esazure.ports import IEventsService

__all__ = ["EventHandlers", "IEventHandler", "IHandlerSet", "Interests", "Reactions"]

A = TypeVar("A", bound=AggregateRoot[Any, Any])
E = TypeVar("E", bound=DomainEvent)
E_contra = TypeVar("E_contra", bound=DomainEvent, contravariant=True)
Other = TypeVar("Other", bound=DomainEvent)
R = TypeVar("R")
T = TypeVar("T")
TId = TypeVar("TId", bound=UUID | str)

Interests = Mapping[type[AggregateRoot[Any, Any]], frozenset[type[DomainEvent]]]

PATIENCE = 2.0
"""Seconds for which a reaction decides again after a conflict, before its message waits."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,79}")
_CARRIED_CHARACTERS = 1_024  # of a correlation id: it has to fit into the metadata of a commit, however it is escaped


class IEventHandler(Protocol):
    """One that a consumer keeps up to date with every stream it is interested in, apart from all others."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Unique in a consumer and never changed: how far it has come is stored under it."""
        raise NotImplementedError

    @property
    @abstractmethod
    def interests(self) -> Interests:
        """Which events it wants, by aggregate class. The others of the same classes pass it by."""
        raise NotImplementedError

    @property
    @abstractmethod
    def repeatable(self) -> bool:
        """Whether handling an event a second time has no effect.

        If not, how far it has come is stored each time `handle` returns; otherwise once for all handlers of a message.
        """
        raise NotImplementedError

    @abstractmethod
    async def handle(self, stream: str, events: Sequence[EventEnvelope[Any]]) -> int:
        """Handle events of one stream in version order: all that are of interest since the last time.

        Returns the version it has reached, which may be beyond the last of them; those up to it will not come again.
        When it stops before the last, the rest comes at once: one that is not repeatable should return after each event
        it acted on.

        Raises:
            PoisonMessageError: an event can never be handled.
            RetryLaterError, StoreUnavailableError: not now; does not count as a failure.
            Exception: it failed; it is tried again a few times.
        """
        raise NotImplementedError


class IHandlerSet(Protocol):
    """What a consumer is made with."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Unique in a consumer."""
        raise NotImplementedError

    @property
    @abstractmethod
    def interests(self) -> Interests:
        """Which events its handlers want, all of them together."""
        raise NotImplementedError

    @property
    @abstractmethod
    def needs_history(self) -> bool:
        """Whether an event that one of its handlers misses does damage that lasts.

        If so, only a consumer that has positions and a source may serve it.
        """
        raise NotImplementedError

    @abstractmethod
    def handlers(self) -> Sequence[IEventHandler] | Awaitable[Sequence[IEventHandler]]:
        """Those that are to be served now; asked for each message. May be a coroutine function."""
        raise NotImplementedError


class Records(Protocol[E_contra]):
    """An aggregate that declares this event: how type checkers know that a class and an event belong together."""

    def record(self, event: E_contra) -> None:
        """See `AggregateRoot.record`."""


class HandlerDecorator(Protocol[E]):
    """Takes a function of this event, or of this event and others, and gives it back."""

    # "Of at least E" cannot be said of a parameter. A checker solves `E | Other` for a function of several events, and
    # the second form is for those that do not solve it for a function of E alone.
    @overload
    def __call__(
        self, function: Callable[[EventEnvelope[E | Other]], R], /
    ) -> Callable[[EventEnvelope[E | Other]], R]: ...
    @overload
    def __call__(self, function: Callable[[EventEnvelope[E]], R], /) -> Callable[[EventEnvelope[E]], R]: ...


class ReactionDecorator(Protocol[A, E]):
    """Takes a function that changes an aggregate because of this event, or of this and others; gives it back."""

    @overload
    def __call__(
        self, function: Callable[[A, EventEnvelope[E | Other]], R], /
    ) -> Callable[[A, EventEnvelope[E | Other]], R]: ...
    @overload
    def __call__(self, function: Callable[[A, EventEnvelope[E]], R], /) -> Callable[[A, EventEnvelope[E]], R]: ...


class _OneByOne(IEventHandler, Generic[T]):
    """A set of functions, one for an event class of an aggregate class; handles one event at a time."""

    def __init__(self, name: str) -> None:
        if _NAME.fullmatch(name) is None:
            raise ValueError(
                f"a handler's name has 1 to 80 of a-z, 0-9, - and _, beginning with a letter, not {name[:100]!r}"
            )
        self._name = name
        self._functions: dict[tuple[str, type[DomainEvent]], T] = {}
        self._interests: dict[type[AggregateRoot[Any, Any]], frozenset[type[DomainEvent]]] = {}

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    @property
    def interests(self) -> Interests:
        """What was registered with `on`."""
        return MappingProxyType(self._interests)

    @property
    def needs_history(self) -> bool:
        """No: what does not arrive is not acted on."""
        return False

    def handlers(self) -> Sequence[IEventHandler]:
        """Itself."""
        return (self,)

    def _register(
        self, aggregate_class: type[AggregateRoot[Any, Any]], event_class: type[DomainEvent], function: T
    ) -> None:
        key = aggregate_class.aggregate_type, event_class
        if key in self._functions:
            raise ValueError(
                f"{self._name} has a handler for {event_class.__name__} of {aggregate_class.__name__} already: "
                "make a second set, which also is retried by itself"
            )
        self._functions[key] = function
        self._interests[aggregate_class] = self._interests.get(aggregate_class, frozenset()) | {event_class}


class EventHandlers(_OneByOne[Callable[[EventEnvelope[Any]], object]]):
    """Functions with side effects: mail, calls of other systems.

    Each event is handled once, unless a worker dies between what the function did and writing that down. Then it comes
    once more, with the same `event_id`: hand that on as an idempotency key where the other side takes one.
    """

    def __init__(self, name: str, *, since: datetime | None = None) -> None:
        """Name the set.

        Args:
            name: how far it has come is stored under it, so it must not change.
            since: events that occurred earlier are passed over. A new set gets the whole history of a stream otherwise.

        Raises:
            ValueError: a name that is not 1 to 80 of lower-case letters, digits, `-` and `_`, beginning with a letter,
                or a time without a zone.
        """
        super().__init__(name)
        if since is not None and since.tzinfo is None:
            raise ValueError("`since` needs a zone, as in datetime(2027, 1, 1, tzinfo=UTC)")
        self._since = since

    @property
    def repeatable(self) -> bool:
        """No: who knows what they do."""
        return False

    def on(self, aggregate_class: Callable[[Any], Records[E]], event_class: type[E]) -> HandlerDecorator[E]:
        """Call the decorated function, plain or asynchronous, for these events.

        Raises:
            TypeError: not an aggregate class, or not one of its events.
            ValueError: there is a handler for them in this set already.
        """
        owner = check_event(aggregate_class, event_class)

        def register(function: Callable[[EventEnvelope[E]], Any]) -> Any:
            self._register(owner, event_class, function)
            return function

        return register

    async def handle(self, stream: str, events: Sequence[EventEnvelope[Any]]) -> int:  # noqa: ARG002 - the port's
        """See `IEventHandler.handle`: passes over what is too old, or acts on one."""
        passed = 0
        for envelope in events:
            if self._since is None or envelope.occurred_at >= self._since:
                break
            passed = envelope.version
        if passed:
            return passed
        envelope = events[0]
        with because_of(envelope):
            outcome = self._functions[envelope.aggregate_type, type(envelope.event)](own(envelope))
            if isawaitable(outcome):
                await outcome
        return envelope.version


class Reactions(_OneByOne[Callable[[EventEnvelope[Any]], Awaitable[object]]]):
    """Changes of one aggregate because something happened to another: small processes.

    Each change is a command whose id is the event's, so it is stored once however often the event arrives.
    """

    @property
    def repeatable(self) -> bool:
        """Yes, by the command id."""
        return True

    def on(
        self,
        aggregate_class: Callable[[Any], Records[E]],
        event_class: type[E],
        *,
        changes: IEventsService[A, TId],
        id: Callable[[EventEnvelope[E]], TId],
    ) -> ReactionDecorator[A, E]:
        """Call the decorated function with the aggregate to change and the event.

        It must be plain, only change the aggregate it is given, and may be called again after a conflict.

        Args:
            aggregate_class: whose events.
            event_class: which.
            changes: the service of the aggregate that is changed.
            id: which one.

        Raises:
            TypeError: not an aggregate class, not one of its events, or an asynchronous function.
            ValueError: there is a reaction to them in this set already.
        """
        owner = check_event(aggregate_class, event_class)

        def register(
            function: Callable[[A, EventEnvelope[E | Other]], R],
        ) -> Callable[[A, EventEnvelope[E | Other]], R]:
            if iscoroutinefunction(function):
                raise TypeError(f"{self._name}: a reaction is a plain function; for I/O make an EventHandlers set")

            async def react(envelope: EventEnvelope[E]) -> None:
                await changes.update(
                    id(own(envelope)),
                    lambda aggregate: function(aggregate, own(envelope)),
                    timeout=PATIENCE,
                    command_id=f"{self._name}:{envelope.event_id}",
                )

            self._register(owner, event_class, react)
            return function

        return register

    async def handle(self, stream: str, events: Sequence[EventEnvelope[Any]]) -> int:  # noqa: ARG002 - the port's
        """See `IEventHandler.handle`: carries out the first."""
        envelope = events[0]
        try:
            with because_of(envelope):
                await self._functions[envelope.aggregate_type, type(envelope.event)](envelope)
        except (ConcurrencyError, AppendOutcomeUnknownError) as error:
            # Neither says that the change is impossible; and should it have been stored, the command id will tell.
            raise RetryLaterError(f"{self._name}: {type(error).__name__}: {error}") from error
        return envelope.version


def check_event(
    aggregate_class: Callable[[Any], object], event_class: type[DomainEvent]
) -> type[AggregateRoot[Any, Any]]:
    """The aggregate class; refuses an event class that it does not declare.

    Raises:
        TypeError: not an aggregate class, or not one of its events.
    """
    chosen = as_class(cast("type[AggregateRoot[Any, Any]]", aggregate_class))
    declared = chosen.event_types.values()
    if event_class not in declared:
        raise TypeError(
            f"{getattr(event_class, '__name__', event_class)!s} is not an event of {chosen.__name__}: "
            f"those are {', '.join(sorted(known.__name__ for known in declared))}"
        )
    return chosen


def because_of(envelope: EventEnvelope[Any]) -> Given:
    """A block whose commits carry on the event's correlation id, and name the event as their cause."""
    facts = {"causation_id": str(envelope.event_id)}
    correlation_id = envelope.metadata.get("correlation_id")
    if correlation_id is not None and len(correlation_id) <= _CARRIED_CHARACTERS:
        facts["correlation_id"] = correlation_id
    return Given(facts)
