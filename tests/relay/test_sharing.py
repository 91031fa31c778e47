"""Several relays on one store: they share the work, and take over from one that died, by monotonic clocks alone."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import pairwise
from uuid import uuid4

import pytest
from tests.relay.support import Diary, Noted, Producer, Store, until

from esazure.events import Commit
from esazure.keys import stream_name
from esazure.memory import InMemoryStore
from esazure.ports import Lease
from esazure.relay import OutboxRelay
from esazure.relay.leases import TRUSTED, Leases
from esazure.tables import TableStore

A = stream_name("Diary", "a")


async def test_relays_share_the_work_and_repeat_nothing_while_nothing_stalls() -> None:
    store = Store(partitions=32)
    for number in range(160):
        await store.put(f"{number}", "1", "2")
    producers = [Producer(pause=0.001) for _ in range(8)]
    relays = [OutboxRelay(store, {Diary: producer}, grace=0, concurrency=2) for producer in producers]
    while store.waiting():
        await asyncio.gather(*[relay.run_once() for relay in relays])
    shares = [len(producer.published) for producer in producers]
    assert sum(shares) == 320
    assert min(shares) > 0
    assert max(shares) < 160
    assert sum(relay.metrics.repeated for relay in relays) == 0


class Lawless(Store):
    """Everybody gets every lease."""

    async def write_lease(self, partition: str, seen: Lease | None, *, owner: str, epoch: int) -> Lease | None:
        return Lease(owner, epoch, uuid4().hex)


async def test_without_any_leases_nothing_is_lost_and_first_publications_are_in_order() -> None:
    store, producer = Lawless(partitions=4), Producer(pause=0.001)
    for number in range(12):
        await store.put(f"{number}", *"12345")
    relays = [OutboxRelay(store, {Diary: producer}, grace=0) for _ in range(8)]
    await asyncio.gather(*[relay.run_once() for relay in relays])
    assert store.waiting() == []
    firsts: dict[str, list[int]] = defaultdict(list)
    for name in dict.fromkeys(producer.published):
        stream, _, version = name.partition("/")
        firsts[stream].append(int(version))
    assert list(firsts.values()) == [[1, 2, 3, 4, 5]] * 12
    repeated = sum(relay.metrics.repeated for relay in relays)
    assert repeated == len(producer.published) - 60 > 0


@pytest.mark.parametrize("streams", [1, 50])
async def test_a_turn_ends_after_half_of_the_lease_so_that_it_is_the_turn_of_others(streams: int) -> None:
    store, producer = Store(), Producer(pause=0.01)
    for number in range(streams):
        await store.put(f"{number}", *["x"] * (50 // streams))
    relay = OutboxRelay(store, {Diary: producer}, grace=0, lease=0.2)
    begin = time.monotonic()
    await relay.run_once()
    assert time.monotonic() - begin < 0.2
    done = len(producer.published)
    assert 0 < done <= 10
    assert len(store.called("unpublished")) <= done + 1
    assert store.lease_writes[-1].owner == ""
    await relay.run_once()
    assert len(producer.published) > done


async def test_a_partition_somebody_works_on_is_left_alone() -> None:
    store, slow, quick = Store(), Producer(gate=asyncio.Event()), Producer()
    await store.put("a", "1")
    holder = asyncio.create_task(OutboxRelay(store, {Diary: slow}, grace=0).run_once())
    await until(lambda: slow.running == 1)
    other = OutboxRelay(store, {Diary: quick}, grace=0)
    for _ in range(3):
        await other.run_once()
    assert quick.tried == []
    assert slow.gate is not None
    slow.gate.set()
    await holder
    assert slow.published == ["a/1"]


async def test_of_relays_that_find_the_same_lease_one_gets_it() -> None:
    store, producer = Store(), Producer(pause=0.01)
    await store.put("a", "1")
    swept = asyncio.Barrier(8)

    async def together(call: str) -> None:
        if call == "write_lease" and len(store.called("write_lease")) <= 8:
            await swept.wait()

    store.before = together
    await asyncio.gather(*[OutboxRelay(store, {Diary: producer}, grace=0).run_once() for _ in range(8)])
    assert producer.tried == ["a/1"]
    assert [lease.epoch for lease in store.lease_writes] == [1, 1]


class TestTakingOver:
    async def dead_holder(self, store: Store) -> Lease:
        lease = await store.write_lease("0", None, owner="dead", epoch=7)
        assert lease is not None
        return lease

    @pytest.mark.parametrize("interval", [0.02, 0.3])
    async def test_a_dead_relays_partition_is_taken_over_after_the_lease_or_at_the_next_sweep(
        self, interval: float
    ) -> None:
        store, producer = Store(), Producer()
        await store.put("a", "1")
        await self.dead_holder(store)
        relay = OutboxRelay(store, {Diary: producer}, grace=0, lease=0.2, interval=interval)
        begin = time.monotonic()
        running = asyncio.create_task(relay.run())
        await until(lambda: producer.published != [])
        took = time.monotonic() - begin
        relay.stop()
        await running
        assert 0.2 <= took < 0.2 + 1.2 * interval + 0.2
        assert [lease.epoch for lease in store.lease_writes] == [7, 8, 8]

    async def test_a_holder_that_gives_signs_of_life_is_never_robbed(self) -> None:
        store, producer = Store(), Producer()
        await store.put("a", "1")
        lease: Lease | None = await self.dead_holder(store)
        relay = OutboxRelay(store, {Diary: producer}, grace=0, lease=0.1)
        for _ in range(10):
            await relay.run_once()
            await asyncio.sleep(0.03)
            lease = await store.write_lease("0", lease, owner="alive", epoch=7)
            assert lease is not None
        assert producer.tried == []

    async def test_the_lease_of_a_dead_relay_on_an_empty_partition_costs_nothing_and_delays_nothing(self) -> None:
        store, producer = Store(partitions=4), Producer()
        for partition in store.partitions:
            await store.write_lease(partition, None, owner="dead", epoch=1)
        store.calls.clear()
        relay = OutboxRelay(store, {Diary: producer}, grace=0, lease=0.05)
        await relay.run_once()
        assert sorted(store.calls) == [("sweep", str(number)) for number in range(4)]
        await asyncio.sleep(0.06)
        await store.put("a", "1")
        await relay.run_once()
        assert producer.published == ["a/1"], "it was seen to be dead before there was anything to do"

    async def test_what_is_remembered_of_others_is_one_lease_for_each_partition_at_most(self) -> None:
        store = Store(partitions=4)
        leases = Leases(store, 60)
        for epoch in range(100):
            for partition in store.partitions:
                leases.note(partition, Lease(f"owner {epoch}", epoch, uuid4().hex))
        assert len(leases._seen) == 4
        for partition in store.partitions:
            leases.note(partition, Lease("", 100, uuid4().hex))
        assert leases._seen == {}


class Scene:
    """Eight relays on twelve partitions; who took which when, and who worked where from when to when."""

    LEASE = 0.5

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dice = random.Random(7)  # noqa: S311 - so that it can be repeated
        self.dispatches = 0
        self.store = Store(partitions=12)
        self.store.before = self.skew
        self.taken: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
        self.worked: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
        self.killed: dict[str, float] = {}
        self.slowed_down = 0.0
        self.wall_time, self.wall_offset = time.time, 0.0
        monkeypatch.setattr(time, "time", lambda: self.wall_time() + self.wall_offset)
        self.write_lease = self.store.write_lease
        monkeypatch.setattr(self.store, "write_lease", self.note)
        self.relays = [
            OutboxRelay(
                self.store, {Diary: Watched(self, name)}, grace=0, lease=self.LEASE, interval=0.05, concurrency=3
            )
            for name in "ABCDEFGH"
        ]

    async def skew(self, call: str) -> None:
        """Whoever looks at the wall from here on sees nonsense, up to six hours off."""
        self.wall_offset = self.dice.uniform(-6, 6) * 3600
        await asyncio.sleep(self.dice.uniform(0, 0.004))

    async def note(self, partition: str, seen: Lease | None, *, owner: str, epoch: int) -> Lease | None:
        written = await self.write_lease(partition, seen, owner=owner, epoch=epoch)
        if written is not None and owner:
            self.taken[partition].append((time.monotonic(), epoch, owner))
        return written

    async def play(self, seconds: float, deaths: int) -> None:
        running = [asyncio.create_task(relay.run()) for relay in self.relays]
        watching = asyncio.create_task(self.watch_the_machine())
        begin = time.monotonic()
        written = 0
        while (now := time.monotonic()) - begin < seconds:
            await asyncio.sleep(0.02)
            for _ in range(4):
                await self.store.put(f"{written}", "x")
                written += 1
            if now - begin > 0.5 * (len(self.killed) + 1) and len(self.killed) < deaths:
                self.kill_one_at_work(running)
        await until(lambda: self.store.waiting() == [], 10)
        for relay in self.relays:
            relay.stop()
        watching.cancel()
        await asyncio.gather(*running, watching, return_exceptions=True)

    async def watch_the_machine(self) -> None:
        """By how much all of this was slowed down by whatever else runs here: no promise of ours covers that."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.05)
            self.slowed_down += time.monotonic() - before - 0.05

    def kill_one_at_work(self, running: list[asyncio.Task[None]]) -> None:
        """It dies without a word, in the middle of whatever it does."""
        for relay, task in zip(self.relays, running, strict=True):
            if relay._leases._working and not task.done():
                self.killed[relay._leases._owner] = time.monotonic()
                task.cancel()
                return

    def longest_without_holder(self) -> float:
        """After a death, until somebody else took what the dead relay held."""
        gaps = [0.0]
        for takes in self.taken.values():
            for (_, _, owner), (taken, _, _) in pairwise(takes):
                died = self.killed.get(owner)
                if died is not None and taken > died:
                    gaps.append(taken - died)
        return max(gaps)

    def longest_together(self) -> float:
        """How long two relays worked on one partition at the same time."""
        return max(
            end - begin
            for spans in self.worked.values()
            for (_, end, one), (begin, _, other) in pairwise(sorted(spans))
            if one != other
        )


class Watched(Producer):
    """Stalls now and then, for longer than the lease: the 20th dispatch of all does, and each 100th from there."""

    STALLS = 20

    def __init__(self, scene: Scene, name: str) -> None:
        super().__init__()
        self.scene = scene
        self.name = name

    async def dispatch(self, commit: Commit[Noted]) -> None:
        begin = time.monotonic()
        try:
            self.scene.dispatches += 1
            await asyncio.sleep(0.6 if self.scene.dispatches % 100 == self.STALLS else 0.004)
        finally:
            partition = self.scene.store.partition_of(commit.stream)
            self.scene.worked[partition].append((begin, time.monotonic(), self.name))


async def test_eight_relays_with_stalls_and_wrong_clocks_never_work_on_one_partition_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(monkeypatch)
    await scene.play(seconds=3, deaths=4)
    assert len(scene.killed) == 4
    for takes in scene.taken.values():
        epochs = [epoch for _, epoch, _ in takes]
        assert epochs == sorted(set(epochs)), "each change of hands has a higher epoch"
    assert sum(relay.metrics.failed for relay in scene.relays) > 0, "nobody stalled: this run proves nothing"
    assert scene.longest_together() < 0.05 + scene.slowed_down
    assert 0 < scene.longest_without_holder() < 2 * Scene.LEASE + scene.slowed_down
    assert sum(relay.metrics.repeated for relay in scene.relays) <= 2


@pytest.mark.parametrize("stall", [0.0, 0.4])
async def test_a_relay_that_stalls_after_it_asked_for_a_lease_counts_the_stall(stall: float) -> None:
    store = Store()

    async def slow(call: str) -> None:
        await asyncio.sleep(stall)

    store.before = slow
    leases = Leases(store, 0.6)
    async with leases.turn("0", None) as turn:
        assert turn is not None
        assert turn.is_over == (stall > 0.6 * TRUSTED)


@pytest.mark.azurite
class TestOnTableStorage:
    @pytest.fixture
    async def store(self, tables: str) -> AsyncIterator[TableStore]:
        async with TableStore.from_connection_string(tables, table=f"t{uuid4().hex}", shards=8) as store:
            yield store
            await store._gateway._client.delete_table()

    async def test_eight_relays_share_the_work_and_repeat_little(self, store: TableStore) -> None:
        async def put(number: int) -> None:
            diary = Diary(f"{number}")
            for text in "12":
                diary.record(Noted(text=text))
                await store.events(Diary, outbox=True).append(diary)

        await asyncio.gather(*[put(number) for number in range(24)])
        producers = [Producer(pause=0.005) for _ in range(8)]
        relays = [OutboxRelay(store, {Diary: producer}, grace=0, concurrency=1) for producer in producers]
        await asyncio.sleep(1.1)  # ages are whole seconds here, and a fresh row may seem to be from the future
        async with asyncio.timeout(30):
            while True:
                done = await asyncio.gather(*[relay.run_once() for relay in relays])
                if not any(metrics.pending for metrics in done):
                    break
        shares = [len(producer.published) for producer in producers]
        tally = Tally(name for producer in producers for name in producer.published)
        assert len(tally) == 48
        assert sum(shares) - len(tally) <= 6
        assert sum(share > 0 for share in shares) >= 4, shares
        for number in range(24):
            assert not await store.unpublished(stream_name("Diary", f"{number}"), before_version=9)

    async def test_what_a_relay_set_aside_is_kept_with_the_reason(self, store: TableStore) -> None:
        diary = Diary("a")
        diary.record(Noted(text="1"))
        commit = await store.events(Diary, outbox=True).append(diary)
        assert commit is not None
        await store.set_aside(commit.record, "DispatchError: too large")
        rows = [row async for row in store._gateway._client.query_entities("RowKey ge 'q.' and RowKey lt 'q/'")]
        assert [(row["RowKey"], row["reason"]) for row in rows] == [(f"q.{A}.0000000001", "DispatchError: too large")]


def test_the_fake_has_the_partitions_it_says() -> None:
    assert list(Store(partitions=3).partitions) == ["0", "1", "2"]
    assert isinstance(Store(), InMemoryStore)
    assert Store().clock() == datetime(2000, 1, 1, tzinfo=UTC)
