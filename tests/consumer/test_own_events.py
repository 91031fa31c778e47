"""What a function of the user gets is its own: whatever it does to an event, nobody else sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from pydantic import BaseModel

from esazure import AggregateRoot, ConcurrencyError, DomainEvent, EventEnvelope, EventsService
from esazure.consumer import Consumer
from esazure.handlers import EventHandlers, Reactions
from esazure.inprocess import InProcessSubscription
from esazure.integration import IntegrationEvent
from esazure.memory import InMemoryEventProducer, InMemoryStore
from esazure.plain import own
from esazure.projection import Projection


class Ordered(DomainEvent):
    items: list[str]


class Packed(DomainEvent):
    items: list[str]


class Named(DomainEvent):
    name: str


class Order(AggregateRoot[Ordered]):
    def when(self, event: Ordered) -> None: ...


class Parcel(AggregateRoot[Packed]):
    def __init__(self, id: UUID) -> None:
        super().__init__(id)
        self.items: list[str] = []

    def when(self, event: Packed) -> None:
        self.items = event.items


class Items(BaseModel):
    items: list[str]


def worked_off(event: Ordered) -> list[str]:
    """The items, of which none is left."""
    found = list(event.items)
    event.items.clear()
    return found


async def ordered(store: InMemoryStore, *items: str) -> Order:
    order = Order(uuid4())
    order.record(Ordered(items=list(items)))
    await EventsService(store.events(Order, outbox=True)).persist(order)
    return order


async def test_handlers_and_projections_of_a_consumer_share_no_event() -> None:
    store, seen = InMemoryStore(), list[list[str]]()
    sets = [EventHandlers("first"), EventHandlers("second")]
    for handlers in sets:

        @handlers.on(Order, Ordered)
        def handle(envelope: EventEnvelope[Ordered]) -> None:
            seen.append(worked_off(envelope.event))

    projection = Projection(store.views(Items), source=store)

    def keys(envelope: EventEnvelope[Ordered]) -> list[str]:
        return [str(number) for number, _ in enumerate(worked_off(envelope.event))]

    @projection.fold(Order, Ordered, key=keys)
    def fold(view: Items | None, envelope: EventEnvelope[Ordered]) -> Items:
        return Items(items=worked_off(envelope.event))

    await ordered(store, "pen", "ink")
    await InProcessSubscription(
        store, [Order], Consumer("work", [*sets, projection], positions=store, source=store)
    ).drain()
    assert seen == [["pen", "ink"]] * 2
    for key in ("0", "1"):
        assert await projection.views.get(key) == Items(items=["pen", "ink"])


class Greedy(EventHandlers):
    """A handler of somebody's own, which works through what it is given."""

    async def handle(self, stream: str, events: Sequence[EventEnvelope[Any]]) -> int:
        taken.append([worked_off(envelope.event) for envelope in events])
        return events[-1].version


taken: list[list[list[str]]] = []


async def test_handlers_of_somebodys_own_share_no_event_either() -> None:
    taken.clear()
    store, sets = InMemoryStore(), [Greedy("first"), Greedy("second")]
    for handlers in sets:
        handlers.on(Order, Ordered)(lambda envelope: None)
    await ordered(store, "pen", "ink")
    await InProcessSubscription(store, [Order], Consumer("work", sets, positions=store, source=store)).drain()
    assert taken == [[["pen", "ink"]]] * 2


async def test_a_reaction_that_is_tried_again_gets_the_event_as_it_was() -> None:
    store, parcel_id, tries = InMemoryStore(), uuid4(), 0
    parcels = EventsService(store.events(Parcel))
    parcel = Parcel(parcel_id)
    parcel.record(Packed(items=[]))
    await parcels.persist(parcel)
    reactions = Reactions("pack")

    @reactions.on(Order, Ordered, changes=parcels, id=lambda envelope: parcel_id)
    def pack(parcel: Parcel, envelope: EventEnvelope[Ordered]) -> None:
        nonlocal tries
        tries += 1
        items = worked_off(envelope.event)
        if tries == 1:
            raise ConcurrencyError("Parcel.x", expected=1, actual=2)
        parcel.record(Packed(items=items))

    await ordered(store, "pen", "ink")
    await InProcessSubscription(store, [Order], Consumer("work", [reactions], positions=store, source=store)).drain()
    assert tries > 1
    assert (await parcels.rehydrate(parcel_id)).items == ["pen", "ink"]


async def test_what_an_integration_does_to_an_event_changes_neither_the_commit_nor_what_is_sent_next() -> None:
    def public(envelope: EventEnvelope[Any], payload: str) -> IntegrationEvent:
        return IntegrationEvent("Ordered", ",".join(worked_off(envelope.event)))

    store, producer, order = InMemoryStore(), InMemoryEventProducer(integration=public), Order(uuid4())
    order.record(Ordered(items=["pen", "ink"]))
    commit = await EventsService(store.events(Order), producer).persist(order)
    assert commit is not None
    assert [message.body for message in producer.messages] == ["pen,ink"]
    assert commit.recorded == (Ordered(items=["pen", "ink"]),)


async def test_an_event_in_which_nothing_can_change_is_handed_on_as_it_is() -> None:
    class Person(AggregateRoot[Named]):
        def when(self, event: Named) -> None: ...

    person, event = Person(uuid4()), Named(name="Ada")
    person.record(event)
    assert person.pending[0] is event
    commit = await EventsService(InMemoryStore().events(Person)).persist(person)
    assert commit is not None
    assert own(commit.events[0]).event is event
