"""Projections as they are used: behind a consumer, fed by messages or by the outbox, with a rebuild in between."""

from __future__ import annotations

import asyncio
import time
from itertools import permutations
from random import Random

import pytest
from tests.projections.support import (
    Gadget,
    Passed,
    Put,
    Thing,
    boards_of,
    cards_of,
    in_order,
    shown,
    simulated,
    stored,
)
from tests.support.watched_store import WatchedStore

from esazure import EventsService, IntegrationMessage
from esazure.consumer import Consumer
from esazure.inprocess import InProcessSubscription
from esazure.memory import InMemoryEventProducer
from esazure.rebuild import rebuild


async def messages_for(store: WatchedStore) -> list[IntegrationMessage]:
    """Of two streams that feed one board."""
    producer = InMemoryEventProducer()
    for kind, id_ in ((Thing, "a"), (Gadget, "b")):
        service = EventsService(store.events(kind), producer)
        thing = kind(id_)
        for boards in (("x",), ("x", "y"), ("x",)):
            thing.put(*boards)
            await service.persist(thing)
        thing.skip()
        await service.persist(thing)
    return producer.messages


async def test_every_order_of_the_messages_gives_the_same_views() -> None:
    messages = await messages_for(WatchedStore())
    for order in permutations(range(0, len(messages), 2)):
        store = WatchedStore()
        store.turns = lambda: 0
        own = await messages_for(store)
        consumer = Consumer("worker", [boards_of(store, Thing, Gadget)], positions=store, source=store)
        for number in [*order, *range(len(own)), *order]:
            await consumer.lane().handle(own[number])
        assert shown(store, "boards-g1") == await in_order(store), order


async def test_two_consumers_that_get_everything_at_once() -> None:
    store = WatchedStore()
    messages = await messages_for(store)
    lanes = [
        Consumer("worker", [boards_of(each, Thing, Gadget)], positions=each, source=each).lane()
        for each in (store.another(), store.another())
    ]

    async def deliver(number: int) -> None:
        chance = Random(number)  # noqa: S311 - not a secret
        for message in chance.sample(messages, len(messages)):
            await lanes[number].handle(message)

    await asyncio.gather(deliver(0), deliver(1))
    assert shown(store, "boards-g1") == await in_order(store)


async def test_after_a_rebuild_a_stream_is_read_once_and_nothing_is_counted_twice() -> None:
    store = WatchedStore()
    messages = await messages_for(store)
    projection = boards_of(store, Thing, Gadget)
    consumer = Consumer("worker", [projection], positions=store, source=store)
    for message in messages:
        await consumer.lane().handle(message)
    await projection.views.generations.change(lambda _: _.model_copy(update={"building": 2}))
    for kind in (Thing, Gadget):
        async for records in store.scan("0", kind.aggregate_type):
            await projection.replay(records, generation=2)
    await projection.views.generations.change(lambda _: _.model_copy(update={"active": 2, "building": None}))

    producer = InMemoryEventProducer()
    await EventsService(store.events(Thing), producer).update("a", lambda thing: thing.put("x"))
    reads = store.count("read Thing.a")
    await consumer.lane().handle(producer.messages[-1])
    assert store.count("read Thing.a") == reads + 1
    await EventsService(store.events(Thing), producer).update("a", lambda thing: thing.put("x"))
    reads = store.count("read Thing.a")
    await consumer.lane().handle(producer.messages[-1])
    assert store.count("read Thing.a") == reads
    assert shown(store, "boards-g2") == await in_order(store)


@pytest.mark.parametrize("seed", range(5))
def test_a_rebuild_while_two_workers_and_a_writer_go_on(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = Random(seed)  # noqa: S311 - not a secret
    store = WatchedStore()
    store.turns = lambda: chance.randrange(3)

    async def write(over: asyncio.Event) -> None:
        while not over.is_set():
            await stored(store.another(), f"s{chance.randrange(25)}", Put(boards=("all", f"b{chance.randrange(3)}")))
            await asyncio.sleep(chance.random() / 5)

    async def work() -> None:
        monkeypatch.setattr(time, "monotonic", asyncio.get_running_loop().time)
        for number in range(20):
            await stored(store, f"s{number}", Put(boards=("all",)), Passed())
        subscriptions = []
        for _ in range(2):
            own = store.another()
            handlers = [boards_of(own, Thing, Gadget), cards_of(own)]
            consumer = Consumer("worker", handlers, positions=own, source=own)
            subscriptions.append(InProcessSubscription(own, [Thing, Gadget], consumer))
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for subscription in subscriptions:
                tasks.create_task(subscription.run())
            tasks.create_task(write(over))
            for _ in range(2):
                await asyncio.sleep(chance.random())
                await rebuild(boards_of(store.another(), Thing, Gadget), store.another())
                await rebuild(cards_of(store.another()), store.another())
            over.set()
            await asyncio.sleep(1)
            for subscription in subscriptions:
                subscription.stop()
        consumer = Consumer("worker", [boards_of(store, Thing, Gadget), cards_of(store)], positions=store, source=store)
        await InProcessSubscription(store, [Thing, Gadget], consumer).drain()
        assert shown(store, "boards-g3") == await in_order(store)
        cards = (await cards_of(store).views.list(limit=100)).views
        assert {card.id: card.events for card in cards} == {
            stream.partition(".")[2]: records[-1].last_version for stream, records in store._streams.items()
        }
        kept = {name for name in store.collections() if name.startswith(("boards", "cards", "rebuild"))}
        assert kept == {"boards-g3", "cards-g3"}

    simulated(work())
    assert sum(len(records) for records in store._streams.values()) > 100, "too little went on to prove anything"
