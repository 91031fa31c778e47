"""Which generation is read and which are written: one document, looked at once a second."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from tests.support.simulation import SimulatedLoop
from tests.support.watched_store import WatchedStore
from tests.views.support import STREAM, Balance, to

from esazure.errors import CorruptStreamError
from esazure.generations import Generations
from esazure.views import Views

POINTER = "read_document views/balance"


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """In which an hour takes no time."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        yield runner


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


async def activate(store: WatchedStore, active: int, *, building: int | None = None) -> None:
    """What a rebuild in another process does."""
    wanted = Generations(active=active, building=building)
    await store.another().views(Balance).generations.change(lambda _: wanted)


async def fill(store: WatchedStore) -> Views[Balance]:
    """Two generations that differ."""
    views = store.views(Balance)
    for generation in (1, 2):
        for number in range(5):
            await views.update(f"k{number}", STREAM, 1, to(generation * 10 + number), generation=generation)
    return views


async def test_at_first_there_is_one() -> None:
    generations = await WatchedStore().views(Balance).generations.get()
    assert generations == Generations(active=1, building=None, dropping=())
    assert generations.fed == (1,)


def test_while_one_is_built_both_are_fed() -> None:
    assert Generations(active=1, building=2).fed == (1, 2)


async def test_the_document_is_read_by_people() -> None:
    store = WatchedStore()
    await activate(store, 1, building=2)
    assert store.texts("views") == {"balance": '{"active":1,"building":2,"dropping":[]}'}


def test_it_is_asked_for_once_a_second(runner: asyncio.Runner, store: WatchedStore) -> None:
    views = store.views(Balance)

    async def ask(times: int) -> None:
        for _ in range(times):
            await views.get("a")
            await views.list()
            await asyncio.sleep(0.1)

    runner.run(ask(9))
    assert store.count(POINTER) == 1
    runner.run(ask(21))
    assert store.count(POINTER) == 3


def test_a_change_is_noticed_within_a_second(runner: asyncio.Runner, store: WatchedStore) -> None:
    async def work() -> None:
        views = await fill(store)
        assert await views.get("k1") == Balance(amount=11)
        await activate(store, 2)
        assert await views.get("k1") == Balance(amount=11), "as long as it relies on what it knows"
        await asyncio.sleep(1.0)
        assert await views.get("k1") == Balance(amount=21)
        assert [view.amount for view in (await views.list()).views] == [20, 21, 22, 23, 24]

    runner.run(work())


def test_whoever_changes_it_notices_at_once(runner: asyncio.Runner, store: WatchedStore) -> None:
    async def work() -> None:
        views = await fill(store)
        assert (await views.generations.get()).active == 1
        await views.generations.change(lambda found: found.model_copy(update={"active": 2}))
        assert (await views.generations.get()).active == 2

    runner.run(work())


def test_the_second_counts_from_the_question_and_not_from_the_answer(
    runner: asyncio.Runner, store: WatchedStore
) -> None:
    async def work() -> None:
        views = store.views(Balance)

        async def change_and_dawdle() -> None:
            await asyncio.sleep(0.9)

        store.hooks[POINTER] = change_and_dawdle
        await views.generations.get()
        await activate(store, 2)
        await asyncio.sleep(0.2)
        assert (await views.generations.get()).active == 2

    runner.run(work())


def test_a_slow_answer_does_not_hide_a_newer_one(runner: asyncio.Runner, store: WatchedStore) -> None:
    async def work() -> None:
        views = store.views(Balance)
        slow_answer = asyncio.Event()
        asked = asyncio.Event()
        original = store.read_document

        async def dawdling(collection: str, key: str) -> Any:
            answer = await original(collection, key)
            if not asked.is_set():
                asked.set()
                await slow_answer.wait()
            return answer

        store.read_document = dawdling  # type: ignore[method-assign]
        first = asyncio.create_task(views.generations.get())
        await asked.wait()
        await asyncio.sleep(0.1)
        await activate(store, 2)
        assert (await views.generations.get()).active == 2
        slow_answer.set()
        assert (await first).active == 1, "as of when it was asked"
        assert (await views.generations.get()).active == 2

    runner.run(work())


def test_an_answer_from_a_generation_that_was_dropped_meanwhile_does_not_count(
    runner: asyncio.Runner, store: WatchedStore
) -> None:
    async def swap_and_drop() -> None:
        await activate(store, 2)
        await asyncio.sleep(2.0)
        await store.another().clear_documents("balance-g1")

    async def work() -> None:
        views = await fill(store)
        store.hooks["read_document balance-g1/k1"] = swap_and_drop
        assert await views.get("k1") == Balance(amount=21)
        assert await views.get("k9") is None

    runner.run(work())


def test_nor_does_a_listing_from_one(runner: asyncio.Runner, store: WatchedStore) -> None:
    async def swap_and_drop() -> None:
        await activate(store, 2)
        await asyncio.sleep(2.0)
        await store.another().clear_documents("balance-g1")

    async def work() -> None:
        views = await fill(store)
        first = await views.list(limit=2)
        assert [view.amount for view in first.views] == [10, 11]
        store.hooks["list_documents balance-g1"] = swap_and_drop
        second = await views.list(after=first.next, limit=2)
        assert [view.amount for view in second.views] == [22, 23], "it goes on in the new one, at the same place"

    runner.run(work())


def test_without_a_generation_an_update_means_the_active_one(runner: asyncio.Runner, store: WatchedStore) -> None:
    async def work() -> None:
        await activate(store, 3, building=4)
        await store.views(Balance).update("a", STREAM, 1, to(5))
        assert "a" in store.texts("balance-g3")
        assert store.texts("balance-g4") == {}

    runner.run(work())


def test_two_that_change_it_at_once_both_succeed(runner: asyncio.Runner, store: WatchedStore) -> None:
    def more(found: Generations) -> Generations:
        return found.model_copy(update={"dropping": (*found.dropping, len(found.dropping))})

    async def work() -> None:
        both: list[Coroutine[Any, Any, Generations]] = [
            store.another().views(Balance).generations.change(more) for _ in range(2)
        ]
        await asyncio.gather(*both)
        assert (await store.views(Balance).generations.get()).dropping == (0, 1)

    runner.run(work())


async def test_what_stays_as_it_is_is_not_written(store: WatchedStore) -> None:
    await store.views(Balance).generations.change(lambda found: found)
    assert store.count("write_document") == 0


@pytest.mark.parametrize("text", ["", "[]", '{"active":0}', '{"active":"x"}', '{"active":1,"building":1}'])
async def test_a_damaged_document_is_an_error(store: WatchedStore, text: str) -> None:
    await store.put("views", "balance", text)
    with pytest.raises(CorruptStreamError, match="balance does not say which generation"):
        await store.views(Balance).get("a")
