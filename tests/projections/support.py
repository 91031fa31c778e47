"""Things whose events put marks on boards, so that a view shows which events it has seen, and how often.

A `Board` is fed by every thing that names it, a thing feeds every board it names: no event missed, doubled or out of
order goes unnoticed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar, assert_never

from pydantic import BaseModel
from tests.support.simulation import SimulatedLoop
from tests.support.watched_store import WatchedStore

from esazure import AggregateRoot, DomainEvent, EventEnvelope
from esazure.events import CommitRecord
from esazure.projection import Projection
from esazure.store import Store

T = TypeVar("T")


class Put(DomainEvent):
    boards: tuple[str, ...]


class Passed(DomainEvent):
    """Of no interest to the boards."""


class Wiped(DomainEvent):
    boards: tuple[str, ...]


ThingEvent = Put | Passed | Wiped


class Thing(AggregateRoot[ThingEvent, str]):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.boards: set[str] = set()
        self.events = 0

    def put(self, *boards: str) -> None:
        self.record(Put(boards=boards))

    def skip(self) -> None:
        self.record(Passed())

    def wipe(self, *boards: str) -> None:
        self.record(Wiped(boards=boards))

    def when(self, event: ThingEvent) -> None:
        self.events += 1
        match event:
            case Put(boards=boards):
                self.boards |= set(boards)
            case Passed() | Wiped():
                pass
            case _:
                assert_never(event)


class Gadget(Thing):
    """Another class with the same events."""


class Board(BaseModel):
    seen: dict[str, list[int]] = {}
    """By thing, the versions, in the order in which they came."""

    def with_mark(self, thing: str, version: int) -> Board:
        return Board(seen={**self.seen, thing: [*self.seen.get(thing, []), version]})


def boards_of(store: Store, *classes: type[Thing], name: str = "boards", slow: bool = False) -> Projection[Board]:
    """Folds `Put`: each board it names gets a mark."""
    projection = Projection(store.views(Board, name=name), source=store)

    for each in classes or (Thing,):

        @projection.fold(each, Put, key=lambda put: put.event.boards)
        async def put(view: Board | None, envelope: EventEnvelope[Put]) -> Board:
            if slow:
                await asyncio.sleep(0)
            return (view or Board()).with_mark(f"{envelope.aggregate_type}.{envelope.aggregate_id}", envelope.version)

    return projection


class Card(BaseModel):
    id: str
    events: int


def cards_of(store: Store, *, name: str = "cards") -> Projection[Card]:
    """Reloads `Thing`: a card for each."""
    projection = Projection(store.views(Card, name=name), source=store)

    @projection.reload(Thing)
    def card(_: Card | None, thing: Thing) -> Card:
        return Card(id=thing.id, events=thing.events)

    return projection


async def stored(store: Store, id: str, *events: ThingEvent, kind: type[Thing] = Thing) -> Sequence[EventEnvelope[Any]]:
    """Append these, each as a commit of its own; all events of the stream."""
    repository = store.events(kind, outbox=True)
    records = await store.read(f"{kind.aggregate_type}.{id}")
    thing = await repository.rehydrate(id) if records else kind(id)
    for event in events:
        thing.record(event)
        await repository.append(thing)
    return await envelopes_of(store, f"{kind.aggregate_type}.{id}")


async def envelopes_of(store: Store, stream: str) -> Sequence[EventEnvelope[Any]]:
    """The events of a stream, decoded by hand."""
    kinds = {"Put": Put, "Passed": Passed, "Wiped": Wiped}
    found: list[EventEnvelope[Any]] = []
    for record in await store.read(stream):
        found.extend(_envelopes(record, kinds))
    return found


def _envelopes(record: CommitRecord, kinds: Mapping[str, type[Any]]) -> list[EventEnvelope[Any]]:
    from datetime import datetime  # noqa: PLC0415

    kind, _, id = record.stream.partition(".")  # noqa: A001
    lines = [line.partition(" ") for line in record.payload.split("\n")]
    return [
        EventEnvelope(
            kinds[name].model_validate_json(payload), kind, id, version, datetime.fromisoformat(record.occurred_at)
        )
        for version, (name, _, payload) in enumerate(lines, record.first_version)
    ]


async def in_order(store: Store) -> dict[str, Board]:
    """What the boards must show, computed from the streams alone."""
    boards: dict[str, Board] = {}
    for kind in (Thing, Gadget):
        async for records in store.scan("0", kind.aggregate_type):
            for envelope in await envelopes_of(store, records[0].stream):
                if isinstance(envelope.event, Put):
                    for board in envelope.event.boards:
                        marked = boards.get(board, Board()).with_mark(records[0].stream, envelope.version)
                        boards[board] = marked
    return boards


def shown(store: WatchedStore, collection: str) -> dict[str, Any]:
    """The views of a generation, seen from the side."""
    views = {key: json.loads(text)["view"] for key, text in store.texts(collection).items()}
    return {key: Board.model_validate(view) for key, view in views.items() if view is not None}


class Worker:
    """What a consumer does about one projection: a position in each stream, and the store for what was missed."""

    def __init__(self, projection: Projection[Any], store: Store) -> None:
        self.projection = projection
        self.store = store
        self.positions: dict[tuple[str, str], int] = {}

    async def deliver(self, stream: str, version: int) -> None:
        """A message."""
        for handler in await self.projection.handlers():
            position = self.positions.get((handler.name, stream), 0)
            if version <= position:
                continue
            kind = next(each for each in handler.interests if each.aggregate_type == stream.partition(".")[0])
            events = [
                envelope
                for envelope in await envelopes_of(self.store, stream)
                if position < envelope.version <= version and type(envelope.event) in handler.interests[kind]
            ]
            reached = await handler.handle(stream, events) if events else version
            # Another task of this worker may have come further.
            known = self.positions.get((handler.name, stream), 0)
            self.positions[handler.name, stream] = max(known, reached, version)


def simulated(work: Coroutine[Any, Any, T]) -> T:
    """Run where an hour takes no time."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(work)


async def all_of(works: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """At once."""
    await asyncio.gather(*(work() for work in works))
