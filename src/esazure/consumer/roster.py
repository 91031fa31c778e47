"""Who is served, and what all lanes of a consumer share. Read `lane.py` next."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field

from esazure.consumer.decoding import Route
from esazure.consumer.positions import Positions
from esazure.errors import CorruptStreamError, RetryLaterError, StoreError, StoreUnavailableError
from esazure.handlers import IEventHandler, IHandlerSet
from esazure.ports import ICommitStore


@dataclass(slots=True)
class ConsumerMetrics:
    """What an operator wants to know: plain numbers, to be read whenever and handed to any metrics library."""

    handled: int = 0
    """Messages that were new to a handler, and are done."""
    duplicates: int = 0
    """Messages that every handler had already."""
    ignored: int = 0
    """Messages of aggregates nobody here is interested in."""
    filled: int = 0
    """Versions that were read from the store because no message had brought them."""
    failed: int = 0
    """Times a handler raised; what it was for is tried again, or parked."""
    parked: int = 0
    """Times a stream was parked for a handler. Alert when it grows."""


class Roster:
    """The handlers of a consumer, as they are now, and how the events they want are read."""

    def __init__(self, sets: Sequence[IHandlerSet], *, has_history: bool) -> None:
        """Look for mistakes, as far as they can be seen already.

        Args:
            sets: who is to be served.
            has_history: whether there are positions, and a source.

        Raises:
            ValueError: two sets have the same name, or two aggregate classes are stored under one; see `check`.
        """
        self._sets = tuple(sets)
        self._has_history = has_history
        self._seen: tuple[IEventHandler, ...] = ()
        self._ordered: tuple[IEventHandler, ...] = ()
        self._routes: dict[str, Route] = {}
        self._learn(self._sets)
        self.check()

    def check(self) -> None:
        """Functions may have been registered since the last time.

        Raises:
            ValueError: a set needs history, and there is none.
        """
        if not self._has_history:
            for handler_set in self._sets:
                if handler_set.needs_history:
                    raise ValueError(
                        f"{handler_set.name} folds events, and would be wrong for good after one that it missed: give "
                        "its consumer `positions` and `source`, or use `reload`"
                    )

    async def current(self) -> tuple[IEventHandler, ...]:
        """Those to be served now, the repeatable ones first: a position that is written for another covers theirs.

        Raises:
            ValueError: two have the same name, or two aggregate classes are stored under one; see `check`.
            StoreUnavailableError, RetryLaterError: a set cannot say who they are now.
        """
        self.check()
        current: tuple[IEventHandler, ...] = ()
        for handler_set in self._sets:
            handlers = handler_set.handlers()
            current += tuple(handlers if isinstance(handlers, Sequence) else await _answer(handlers))
        if current != self._seen:
            self._learn(current)
            self._seen = current
            self._ordered = tuple(sorted(current, key=lambda handler: not handler.repeatable))
        return self._ordered

    def route(self, aggregate_type: str) -> Route | None:
        """How to read the events of an aggregate type; None when nobody is interested."""
        if aggregate_type not in self._routes:
            self._learn(self._sets)  # something may have been registered since
        return self._routes.get(aggregate_type)

    def _learn(self, handlers: Sequence[IHandlerSet | IEventHandler]) -> None:
        names = [handler.name for handler in handlers]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"two handlers are named {', '.join(sorted(twice))}: what one has seen the other would miss"
            )
        for handler in handlers:
            for aggregate_class in handler.interests:
                known = self._routes.get(aggregate_class.aggregate_type)
                if known is None:
                    self._routes[aggregate_class.aggregate_type] = Route(aggregate_class)
                elif known.aggregate_class is not aggregate_class:
                    raise ValueError(
                        f"two classes are stored as {aggregate_class.aggregate_type}: handlers of one consumer must "
                        "agree on one"
                    )


@dataclass(slots=True)
class Setup:
    """What a consumer was made with, for its lanes."""

    name: str
    roster: Roster
    positions: Positions
    source: ICommitStore | None
    attempts: int
    thin: bool
    metrics: ConsumerMetrics = field(default_factory=ConsumerMetrics)


async def _answer(handlers: Awaitable[Sequence[IEventHandler]]) -> Sequence[IEventHandler]:
    try:
        return await handlers
    except StoreUnavailableError:
        raise
    except (StoreError, CorruptStreamError) as error:
        raise RetryLaterError(str(error)) from error
