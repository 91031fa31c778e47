"""However the events come, by however many workers: the views are as if each stream had come once and in order."""

from __future__ import annotations

import asyncio
from itertools import permutations, product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.projections.support import (
    Board,
    Gadget,
    Put,
    Thing,
    Wiped,
    Worker,
    all_of,
    boards_of,
    cards_of,
    envelopes_of,
    in_order,
    shown,
    simulated,
    stored,
)
from tests.support.watched_store import WatchedStore

from esazure import EventEnvelope
from esazure.projection import Projection

MESSAGES = [("Thing.a", 1), ("Thing.a", 2), ("Thing.a", 3), ("Gadget.b", 1), ("Gadget.b", 2)]


async def two_streams(store: WatchedStore) -> None:
    """That feed one board, and another one now and then."""
    await stored(store, "a", Put(boards=("x",)), Put(boards=("x", "y")), Put(boards=("x",)))
    await stored(store, "b", Put(boards=("x", "y")), Put(boards=("x",)), kind=Gadget)


def worker_of(store: WatchedStore, *, slow: bool = False) -> Worker:
    own = store.another()
    return Worker(boards_of(own, Thing, Gadget, slow=slow), own)


async def test_every_order_of_the_messages_gives_the_same_views() -> None:
    for order in permutations(MESSAGES):
        store = WatchedStore()
        store.turns = lambda: 0
        await two_streams(store)
        worker = worker_of(store)
        for stream, version in order:
            await worker.deliver(stream, version)
        assert shown(store, "boards-g1") == await in_order(store), order


async def test_every_order_gives_the_same_when_another_worker_takes_over_after_each_message() -> None:
    for order in permutations(MESSAGES[:4]):
        store = WatchedStore()
        store.turns = lambda: 0
        await two_streams(store)
        for stream, version in order:
            # It never learns what the others did: all it knows is the views.
            await worker_of(store).deliver(stream, version)
        expected = WatchedStore()
        await stored(expected, "a", Put(boards=("x",)), Put(boards=("x", "y")), Put(boards=("x",)))
        await stored(expected, "b", Put(boards=("x", "y")), kind=Gadget)
        assert shown(store, "boards-g1") == await in_order(expected), order


async def test_all_messages_at_once_by_two_workers() -> None:
    for slow in (False, True):
        store = WatchedStore()
        await two_streams(store)
        workers = [worker_of(store, slow=slow) for _ in range(2)]
        await asyncio.gather(
            *(worker.deliver(stream, version) for worker, (stream, version) in product(workers, MESSAGES))
        )
        assert shown(store, "boards-g1") == await in_order(store)


@settings(deadline=None)  # machines differ
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(MESSAGES)), max_size=15),
    st.integers(0, 2**32),
)
def test_any_messages_to_any_workers_at_any_time(messages: list[tuple[int, tuple[str, int]]], seed: int) -> None:
    async def work() -> None:
        chance = Random(seed)  # noqa: S311 - not a secret
        store = WatchedStore()
        await two_streams(store)
        store.turns = lambda: chance.randrange(5)
        workers = [worker_of(store, slow=chance.random() < 0.5) for _ in range(3)]

        async def deliver(number: int, stream: str, version: int) -> None:
            await asyncio.sleep(chance.random() / 50)
            await workers[number].deliver(stream, version)
            if chance.random() < 0.2:
                workers[number].positions.clear()  # it dies, and another one begins without knowing anything
            await workers[number].deliver(stream, version)

        await asyncio.gather(*(deliver(number, *message) for number, message in messages))
        # Whatever came or did not come: in the end each stream's last message comes.
        for stream, version in (("Thing.a", 3), ("Gadget.b", 2)):
            await workers[0].deliver(stream, version)
        assert shown(store, "boards-g1") == await in_order(store)

    simulated(work())


async def test_a_worker_everybody_takes_for_dead_does_no_harm() -> None:
    store = WatchedStore()
    await stored(store, "a", Put(boards=("x",)), Put(boards=("x",)))
    zombie = worker_of(store)
    held = asyncio.Event()
    zombie_store = zombie.store
    assert isinstance(zombie_store, WatchedStore)
    zombie_store.hooks["write_document boards-g1/x"] = held.wait
    late = asyncio.create_task(zombie.deliver("Thing.a", 1))
    await asyncio.sleep(0.01)

    await worker_of(store).deliver("Thing.a", 2)
    await stored(store, "a", Put(boards=("x",)))
    await worker_of(store).deliver("Thing.a", 3)
    before = store.texts("boards-g1")
    held.set()
    await late
    assert store.texts("boards-g1") == before
    assert shown(store, "boards-g1") == {"x": Board(seen={"Thing.a": [1, 2, 3]})}


@pytest.mark.parametrize("number", range(1, 12))
async def test_a_worker_that_dies_at_any_call_leaves_nothing_another_could_not_finish(number: int) -> None:
    for moment in ("dies_before", "dies_after", "loses_answer"):
        store = WatchedStore()
        await two_streams(store)
        worker = worker_of(store)
        assert isinstance(worker.store, WatchedStore)
        setattr(worker.store, moment, number)
        results = await asyncio.gather(
            *(worker.deliver(stream, version) for stream, version in MESSAGES), return_exceptions=True
        )
        assert any(isinstance(result, BaseException) for result in results), "nothing happened: it proves nothing"
        other = worker_of(store)
        for stream, version in MESSAGES:
            await other.deliver(stream, version)
        assert shown(store, "boards-g1") == await in_order(store)


async def test_what_was_deleted_stays_deleted_whatever_comes_late() -> None:
    for order in permutations([1, 2, 3, 3, 1]):
        store = WatchedStore()
        store.turns = lambda: 0
        await stored(store, "a", Put(boards=("x",)), Put(boards=("x",)), Wiped(boards=("x",)))
        for version in order:
            projection = boards_of(store)

            @projection.fold(Thing, Wiped, key=lambda wiped: wiped.event.boards)
            def wiped(_view: Board | None, _envelope: EventEnvelope[Wiped]) -> None:
                return None

            await Worker(projection, store).deliver("Thing.a", version)
        assert await boards_of(store).views.get("x") is None, order


async def test_views_that_are_reloaded_only_ever_get_newer() -> None:
    store = WatchedStore()
    await stored(store, "a", *[Put(boards=())] * 3)
    events = await envelopes_of(store, "Thing.a")
    projections: list[Projection[object]] = [cards_of(store.another()) for _ in range(4)]  # type: ignore[misc]
    ages: list[int] = []

    async def look() -> None:
        views = cards_of(store.another()).views
        for _ in range(60):
            card = await views.get("a")
            ages.append(0 if card is None else card.events)

    async def write() -> None:
        for _ in range(5):
            await stored(store.another(), "a", Put(boards=()))

    await all_of(
        [look, write, *(lambda each=each: each.handle("Thing.a", events, generation=1) for each in projections * 3)]  # type: ignore[misc]
    )
    await cards_of(store).handle("Thing.a", await envelopes_of(store, "Thing.a"), generation=1)
    card = await cards_of(store).views.get("a")
    assert card is not None
    assert card.events == 8
    assert ages == sorted(ages)
