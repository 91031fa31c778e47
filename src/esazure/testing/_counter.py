"""The toy aggregates every conformance test drives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never
from uuid import UUID, uuid4

from esazure.aggregate import AggregateRoot
from esazure.events import CommitRecord, DomainEvent


class Incremented(DomainEvent):
    """A number went up."""

    by: int


class Noted(DomainEvent):
    """A text was added."""

    text: str


class Kept(DomainEvent):
    """Any JSON was kept."""

    value: Any


class Emptied(DomainEvent):
    """An event without fields."""


CounterEvent = Incremented | Noted | Kept | Emptied


class Counter(AggregateRoot[CounterEvent, str]):
    """Counts, and keeps what it is given."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.total = 0
        self.notes: list[str] = []
        self.kept: list[Any] = []
        self.emptied = 0

    def increment(self, by: int = 1) -> None:
        """Record `Incremented`."""
        self.record(Incremented(by=by))

    def note(self, *texts: str) -> None:
        """Record a `Noted` for each text."""
        for text in texts:
            self.record(Noted(text=text))

    def keep(self, *values: Any) -> None:
        """Record a `Kept` for each value."""
        for value in values:
            self.record(Kept(value=value))

    def empty(self) -> None:
        """Record `Emptied`."""
        self.record(Emptied())

    def when(self, event: CounterEvent) -> None:
        """Apply one event."""
        match event:
            case Incremented(by=by):
                self.total += by
            case Noted(text=text):
                self.notes.append(text)
            case Kept(value=value):
                self.kept.append(value)
            case Emptied():
                self.emptied += 1
            case _:
                assert_never(event)


class Gauge(AggregateRoot[Incremented]):
    """Another type, with the default ids."""

    def __init__(self, id: UUID) -> None:
        super().__init__(id)
        self.total = 0

    def when(self, event: Incremented) -> None:
        """Apply the event."""
        self.total += event.by


class Renamed(DomainEvent):
    """An event which `Counter` does not declare."""

    secret: str


class LaterCounter(AggregateRoot[Incremented | Renamed, str]):
    """`Counter` in a newer version of the program."""

    __qualname__ = "Counter"
    aggregate_type = "Counter"

    def when(self, event: Incremented | Renamed) -> None:
        """Keep nothing."""


class NotedDifferently(DomainEvent):
    """`Noted` with a payload that `Noted` does not accept."""

    event_type = "Noted"
    text: int
    secret: str


class DifferentCounter(AggregateRoot[NotedDifferently, str]):
    """`Counter` in a program that changed an event's fields."""

    __qualname__ = "Counter"
    aggregate_type = "Counter"

    def when(self, event: NotedDifferently) -> None:
        """Keep nothing."""


def fresh_id() -> str:
    """An id that no test used before, so that a store may be shared."""
    return uuid4().hex


def fresh_type() -> type[Counter]:
    """A `Counter` under a stored name of its own, for tests that need particular ids in a shared store."""

    class FreshCounter(Counter):
        aggregate_type = f"Counter-{uuid4().hex}"

    return FreshCounter


def counter_with(*notes: str, id: str | None = None) -> Counter:
    """A new counter with these notes pending."""
    counter = Counter(fresh_id() if id is None else id)
    counter.note(*notes)
    return counter


def commit_of(
    stream: str, first_version: int, *notes: str, metadata: str = "{}", command_id: str | None = None
) -> CommitRecord:
    """A commit as a store gets it: one `Noted` for each text."""
    lines = [f"Noted {Noted(text=text).model_dump_json()}" for text in notes]
    return record_of(stream, first_version, lines, metadata, command_id)


def record_of(
    stream: str, first_version: int, lines: Sequence[str], metadata: str = "{}", command_id: str | None = None
) -> CommitRecord:
    """A commit of these payload lines."""
    return CommitRecord(
        stream=stream,
        commit_id=uuid4().hex,
        first_version=first_version,
        count=len(lines),
        occurred_at="2024-02-29T23:59:59.123456+00:00",
        metadata=metadata,
        payload="\n".join(lines),
        command_id=command_id,
    )
