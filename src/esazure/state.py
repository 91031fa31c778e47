"""The library's side of an aggregate, apart from the user's: where it stands against its stream, and what is pending.

Read `aggregate.py` next.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any
from uuid import UUID

from esazure.errors import UnusableAggregateError
from esazure.events import Commit


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


def state_of(aggregate: Any) -> StreamState:
    """The library's side of an aggregate, for repositories: private to users, by a name that their classes cannot take.

    Raises:
        TypeError: the class's `__init__` did not reach `AggregateRoot.__init__`.
        UnusableAggregateError: it is another aggregate's, copied by hand.
    """
    try:
        state: StreamState = aggregate._AggregateRoot__state  # noqa: SLF001 - the library's own
    except AttributeError:
        raise uninitialised(aggregate) from None
    if state.owner != id(aggregate):
        if state.owner is not None:
            raise UnusableAggregateError(
                f"this {type(aggregate).__name__} shares what is pending with the one it was copied from: copy with "
                "copy.copy, and let a __copy__ or __getstate__ of your own begin with super().__getstate__()"
            )
        state.owner = id(aggregate)
    return state


def uninitialised(aggregate: object) -> TypeError:
    """The error of an aggregate whose `__init__` did not reach ours."""
    name = type(aggregate).__name__
    return TypeError(
        f"{name}.__init__ did not call super().__init__(id): write `def __init__(self, id)` that calls it first, and "
        "put no @dataclass on an aggregate, for the __init__ it makes takes that place"
    )


def why_not(state: StreamState) -> str:
    """Why nothing may be recorded on it, or it may not be persisted."""
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
