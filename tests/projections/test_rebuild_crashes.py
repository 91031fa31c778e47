"""A rebuild that dies at any of its calls, before or after it was carried out, is finished by the next one."""

from __future__ import annotations

import asyncio

import pytest
from tests.projections.support import Board, Gadget, Put, Thing, Worker, boards_of, in_order, shown, simulated, stored
from tests.support.watched_store import Died, WatchedStore

from esazure.errors import StoreUnavailableError
from esazure.generations import Generations
from esazure.projection import Projection
from esazure.rebuild import rebuild


@pytest.fixture(autouse=True)
def many_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esazure.rebuild.CHECKPOINT_STREAMS", 2)


def boards(store: WatchedStore) -> Projection[Board]:
    return boards_of(store, Thing, Gadget)


async def world() -> WatchedStore:
    """Streams, live views, and one view that is wrong."""
    store = WatchedStore()
    for number in range(5):
        kind = Gadget if number == 2 else Thing
        await stored(store, f"s{number}", Put(boards=("all", f"b{number}")), Put(boards=("all",)), kind=kind)
        await Worker(boards(store), store).deliver(f"{kind.aggregate_type}.s{number}", 2)
    await boards(store).views.update("wrong", "Thing.gone", 1, lambda _: Board())
    return store


async def assert_finished(store: WatchedStore, *, at_most: int) -> None:
    (pointer,) = store.texts("views").values()
    now = Generations.model_validate_json(pointer)
    assert now == Generations(active=now.active)
    assert now.active <= at_most
    assert shown(store, f"boards-g{now.active}") == await in_order(store)
    assert store.collections() == {"views", f"boards-g{now.active}"}


async def calls_of(concurrency: int) -> list[str]:
    """What an undisturbed rebuild does."""
    store = (await world()).another()
    await rebuild(boards(store), store, concurrency=concurrency)
    return store.calls


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("moment", ["dies_before", "dies_after"])
@pytest.mark.long
def test_wherever_it_dies_the_next_one_finishes(moment: str, concurrency: int) -> None:
    async def work() -> None:
        calls = await calls_of(concurrency)
        assert len(calls) == 41 or concurrency > 1, "a call that was added is tried, too"
        for number in range(1, len(calls) + 1):
            store = await world()
            dying = store.another()
            setattr(dying, moment, number)
            with pytest.raises(Died):
                await rebuild(boards(dying), dying, concurrency=concurrency)
            half_way = await boards(store.another()).views.get("all")
            assert half_way == (await in_order(store))["all"], "readers see what they saw, or all of the new"
            report = await rebuild(boards(store), store, concurrency=concurrency)
            # One that had begun to be visible was begun; only its very last call leaves nothing to go on with.
            await assert_finished(store, at_most=3 if not report.resumed and report.generation == 3 else 2)

    simulated(work())


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.long
def test_whichever_answer_is_lost_the_next_one_finishes(concurrency: int) -> None:
    async def work() -> None:
        for number in range(1, len(await calls_of(concurrency)) + 1):
            store = await world()
            unlucky = store.another()
            unlucky.loses_answer = number
            with pytest.raises(StoreUnavailableError):
                await rebuild(boards(unlucky), unlucky, concurrency=concurrency)
            await rebuild(boards(store), store, concurrency=concurrency)
            await assert_finished(store, at_most=3)

    simulated(work())


def test_dying_again_and_again_it_gets_there() -> None:
    async def work() -> None:
        store = await world()
        deaths = 0
        while True:
            dying = store.another()
            dying.dies_before = 12
            try:
                await rebuild(boards(dying), dying, concurrency=1)
            except Died:
                deaths += 1
            else:
                break
        assert 5 < deaths < 30, "each life does a little of it"
        await assert_finished(store, at_most=2)

    simulated(work())


def test_what_was_done_before_is_not_done_again() -> None:
    async def work() -> None:
        number = (await calls_of(1)).index("write_document rebuild-boards-g2/Thing/0") + 1
        store = await world()
        dying = store.another()
        dying.dies_after = number
        with pytest.raises(Died):
            await rebuild(boards(dying), dying, concurrency=1)
        report = await rebuild(boards(store), store, concurrency=1)
        assert report.resumed
        assert report.streams == 3
        await assert_finished(store, at_most=2)

    simulated(work())


@pytest.mark.parametrize("number", range(1, 41, 3))
def test_while_workers_go_on_a_death_loses_nothing(number: int) -> None:
    async def work() -> None:
        store = await world()
        worker = Worker(boards(store.another()), store.another())
        over = asyncio.Event()

        async def live() -> None:
            turn = 0
            while not over.is_set():
                turn += 1
                name = f"s{turn % 7}"
                events = await stored(store.another(), name, Put(boards=("all",)))
                await asyncio.sleep(0.1)
                await worker.deliver(f"Thing.{name}", events[-1].version)

        living = asyncio.create_task(live())
        dying = store.another()
        dying.dies_before = number
        with pytest.raises(Died):
            await rebuild(boards(dying), dying)
        await asyncio.sleep(0.7)
        await rebuild(boards(store.another()), store.another())
        over.set()
        await living
        await assert_finished(store, at_most=3)

    simulated(work())
