"""Given past events, when a command runs, then these events (or this error) follow.

    given(Account, AccountOpened(owner="Ada"), Deposited(amount=10)).when(
        lambda account: account.withdraw(4)
    ).then(Withdrawn(amount=4))

A scenario that ends in neither `then` nor `raises` asserts nothing: end each one with one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from inspect import isawaitable, iscoroutine
from typing import Any, Generic, Self
from uuid import UUID

from typing_extensions import TypeVar

from esazure.aggregate import AggregateRoot, TId, as_class, codec_of, stream_of
from esazure.errors import UnknownEventTypeError
from esazure.events import CommitRecord, DomainEvent
from esazure.lifecycle import replay
from esazure.testing._state import differences

A = TypeVar("A", bound=AggregateRoot[Any, Any])

FIXED_ID = UUID("00000000-0000-4000-8000-000000000001")
"""The id of an aggregate in a scenario, unless one is given; `"test"` where ids are text."""


def given(aggregate_class: Callable[[TId], A], *past: DomainEvent, id: TId | None = None) -> Scenario[A]:
    """An aggregate with this history.

    Raises:
        AssertionError: an event of the history does not survive being stored.
        UnknownEventTypeError: an event is not declared by the aggregate.
    """
    chosen = as_class(aggregate_class)
    return Scenario(chosen, _default_id(chosen) if id is None else id, past)


class Scenario(Generic[A]):
    """One given/when/then; `given` begins it."""

    def __init__(self, aggregate_class: type[A], id: Any, past: tuple[DomainEvent, ...]) -> None:
        self._class = aggregate_class
        self._id = id
        self._past = past
        self._error: Exception | None = None
        self._recorded: tuple[Any, ...] = ()
        self._acted = False
        self.aggregate = self._stored_and_loaded(past)
        """The live aggregate, for assertions of your own."""

    def when(self, command: Callable[[A], object]) -> Self:
        """Run a command. An error is kept: `raises` expects it, `then` raises it.

        Raises:
            AssertionError: a second `when` (what happened before belongs into `given`), or the command is asynchronous.
        """
        assert not self._acted, "one when() a scenario: what happened before belongs into given()"
        self._acted = True
        try:
            outcome = command(self.aggregate)
        except Exception as error:  # noqa: BLE001 - kept for `raises`, raised by `then`
            self._error = error
        else:
            if isawaitable(outcome):
                if iscoroutine(outcome):
                    outcome.close()  # so that Python does not warn of it on top
                raise AssertionError("the command is asynchronous: aggregates decide without I/O, so it must not be")
        self._recorded = self.aggregate.pending
        return self

    def then(self, *expected: DomainEvent) -> None:
        """Exactly these events, in this order; none given means that nothing was recorded.

        Also proves what a test of decisions alone would miss: every new event comes back from its stored form as it
        was, and the history with the new events rebuilds the very state the aggregate has now.

        Raises:
            AssertionError: it is not so.
            Exception: what the command raised.
        """
        assert self._acted, "then() comes after when()"
        if self._error is not None:
            raise self._error
        assert self._recorded == expected, _difference(self._recorded, expected)
        replayed = self._stored_and_loaded((*self._past, *self._recorded))
        differing = differences(self.aggregate, replayed)
        assert not differing, (
            f"replaying the events of {self._class.__name__} gives another state than the command left: "
            f"{'; '.join(differing)}; only when() may change state, and from nothing but its event"
        )

    def raises(self, error_type: type[Exception], *, match: str | None = None) -> None:
        """The command failed with this error, whose text contains the pattern `match`, and recorded nothing.

        Raises:
            AssertionError: it is not so; the command's own error, if it was another, is the cause.
        """
        assert self._acted, "raises() comes after when()"
        if not isinstance(self._error, error_type):
            happened = f"recorded {list(self._recorded)}" if self._error is None else f"raised {self._error!r}"
            raise AssertionError(f"expected {error_type.__name__}, but the command {happened}") from self._error  # noqa: TRY004 - a test failed
        if match is not None and re.search(match, str(self._error)) is None:
            raise AssertionError(f"{str(self._error)!r} does not match {match!r}") from self._error
        assert not self._recorded, (
            f"the command raised {error_type.__name__} after it had recorded {list(self._recorded)}: "
            "check first, then record"
        )

    def _stored_and_loaded(self, events: tuple[DomainEvent, ...]) -> A:
        """A fresh aggregate, rebuilt from the stored form of these events."""
        aggregate = self._class(self._id)
        stream, codec = stream_of(aggregate), codec_of(self._class)
        lines: list[str] = []
        for event in events:
            if self._class.event_types.get(event.event_type) is not type(event):
                raise UnknownEventTypeError(stream, event.event_type, tuple(self._class.event_types))
            lines.append(codec.encode(stream, event))  # refuses what would come back different
        if lines:
            record = CommitRecord(
                stream, "scenario", 1, len(lines), "2000-01-01T00:00:00+00:00", "{}", "\n".join(lines)
            )
            replay(aggregate, [record], codec, to=None)
        return aggregate


def _default_id(aggregate_class: type[AggregateRoot[Any, Any]]) -> UUID | str:
    return FIXED_ID if aggregate_class.id_type is UUID else "test"


def _difference(recorded: tuple[Any, ...], expected: tuple[Any, ...]) -> str:
    def listed(events: tuple[Any, ...]) -> str:
        return "".join(f"\n    {event!r}" for event in events) or " nothing"

    return f"expected:{listed(expected)}\n  but the command recorded:{listed(recorded)}"
