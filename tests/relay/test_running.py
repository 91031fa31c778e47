"""`run`: sweeps at once and then each interval, survives whatever fails, and ends when it is told to."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest
from tests.relay.support import Diary, Producer, Store, until

from esazure.errors import StoreError, StoreUnavailableError
from esazure.keys import stream_name
from esazure.relay import OutboxRelay
from esazure.tables import TableStore

A = stream_name("Diary", "a")


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def producer() -> Producer:
    return Producer()


def others() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


async def ended(running: asyncio.Task[None]) -> None:
    async with asyncio.timeout(2):
        await running
    assert others() == set()


async def test_it_sweeps_at_once(store: Store, producer: Producer) -> None:
    await store.put("a", "1")
    relay = OutboxRelay(store, {Diary: producer}, grace=0, interval=1_000)
    running = asyncio.create_task(relay.run())
    await until(lambda: producer.published == ["a/1"], 1)
    relay.stop()
    await ended(running)


async def test_it_sweeps_again_each_interval_give_or_take_a_fifth(
    store: Store, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[float] = []
    dice = Dice(0.8, 1.2, 0.8, 10)

    async def note(call: str) -> None:
        times.append(time.monotonic())

    store.before = note
    monkeypatch.setattr("esazure.relay.relay._random", dice)
    relay = OutboxRelay(store, {Diary: producer}, interval=0.1)
    running = asyncio.create_task(relay.run())
    await until(lambda: len(times) == 4)
    await asyncio.sleep(0.2)
    assert len(times) == 4, "the fourth pause is a long one"
    relay.stop()
    await ended(running)
    assert set(dice.asked) == {(0.8, 1.2)}, "relays that were started together must drift apart"
    for gap, expected in zip((later - earlier for earlier, later in pairwise(times)), (0.08, 0.12, 0.08), strict=True):
        assert expected - 0.002 < gap < expected + 0.2  # the machine may be slow, a timer is hardly ever early


class Dice:
    """Says what it was told to say."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)
        self.asked: list[tuple[float, float]] = []

    def uniform(self, low: float, high: float) -> float:
        self.asked.append((low, high))
        return self.numbers.pop(0)

    def shuffle(self, what: list[object]) -> None:
        pass


async def test_what_fails_is_tried_again_at_the_next_sweep(store: Store, producer: Producer) -> None:
    await store.put("a", "1")
    store.failures["sweep"] = [StoreUnavailableError("away"), OSError("odd")]
    store.failures["write_lease"] = [StoreUnavailableError("away")]
    store.failures["unpublished"] = [StoreUnavailableError("away")]
    relay = OutboxRelay(store, {Diary: producer}, grace=0, interval=0.005)
    running = asyncio.create_task(relay.run())
    await until(lambda: store.waiting() == [])
    relay.stop()
    await ended(running)
    assert (producer.published, relay.metrics.failed) == (["a/1"], 4)


async def test_stopping_lets_the_commit_under_way_end_and_no_other_begin(store: Store, producer: Producer) -> None:
    await store.put("a", "1", "2")
    await store.put("b", "1", "2")
    producer.gate = asyncio.Event()
    relay = OutboxRelay(store, {Diary: producer}, grace=0)
    running = asyncio.create_task(relay.run())
    await until(lambda: len(producer.tried) == 1)
    relay.stop()
    await asyncio.sleep(0.01)
    assert not running.done()
    producer.gate.set()
    await ended(running)
    assert len(producer.tried) == len(producer.published) == 1
    assert len(store.waiting()) == 3, "what was published is marked, the rest waits"
    assert len(store.called("unpublished")) == 1
    assert store.lease_writes[-1].owner == "", "others may go on at once"


async def test_stopping_ends_the_pause(store: Store, producer: Producer) -> None:
    relay = OutboxRelay(store, {Diary: producer}, interval=1_000)
    running = asyncio.create_task(relay.run())
    await until(lambda: relay.metrics.sweeps == 1)
    relay.stop()
    await ended(running)


async def test_stopping_leaves_partitions_that_were_not_begun(producer: Producer) -> None:
    store = Store(partitions=16)
    relay = OutboxRelay(store, {Diary: producer}, concurrency=2)

    async def stop(call: str) -> None:
        relay.stop()

    store.before = stop
    await relay.run()
    assert len(store.called("sweep")) <= 2
    assert relay.metrics.sweeps == 0


async def test_stopping_first_means_not_starting(store: Store, producer: Producer) -> None:
    relay = OutboxRelay(store, {Diary: producer})
    relay.stop()
    await relay.run()
    assert store.calls == []


@pytest.mark.parametrize("where", ["pause", "dispatch", "sweep", "write_lease", "mark_published"])
async def test_cancelling_ends_it_at_once_and_leaves_no_task(store: Store, producer: Producer, where: str) -> None:
    reached = asyncio.Event()

    async def hang(call: str) -> None:
        if call == where:
            reached.set()
            await asyncio.Event().wait()

    store.before = hang
    await store.put("a", "1")
    if where == "dispatch":
        producer.gate = asyncio.Event()
    relay = OutboxRelay(store, {Diary: producer}, grace=0, interval=1_000)
    running = asyncio.create_task(relay.run())
    await until(lambda: reached.is_set() or producer.running > 0 or (where == "pause" and relay.metrics.sweeps == 1))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ended(running)
    assert others() == set()
    assert producer.running == 0
    if where != "pause":
        assert store.waiting() == [(A, 1)]


async def test_after_a_cancelled_sweep_the_same_relay_goes_on_at_once(store: Store, producer: Producer) -> None:
    await store.put("a", "1")
    producer.gate = asyncio.Event()
    relay = OutboxRelay(store, {Diary: producer}, grace=0)
    sweeping = asyncio.create_task(relay.run_once())
    await until(lambda: producer.running == 1)
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)
    producer.gate.set()
    await relay.run_once()
    assert producer.published == ["a/1"]


async def test_sweeps_of_one_relay_that_overlap_do_not_repeat_each_other(store: Store, producer: Producer) -> None:
    await store.put("a", "1", "2", "3")
    producer.pause = 0.01
    relay = OutboxRelay(store, {Diary: producer}, grace=0)
    await asyncio.gather(*[relay.run_once() for _ in range(4)])
    assert producer.tried == ["a/1", "a/2", "a/3"]


async def test_a_store_that_is_not_open_is_a_mistake_and_no_outage() -> None:
    store = TableStore.from_connection_string("DefaultEndpointsProtocol=http;AccountName=a;AccountKey=a2V5;")
    with pytest.raises(StoreError, match="not open"):
        await OutboxRelay(store, {}).run()
