"""Many who update one aggregate: nobody is refused, all wait alike, and nothing is left behind. In simulated time."""

from __future__ import annotations

import asyncio
import gc
import math
import random
from collections.abc import AsyncGenerator, Coroutine, Sequence
from statistics import mean
from typing import Any, TypeVar

import pytest
from tests.support.simulation import SimulatedLoop

from esazure import ConcurrencyError, EventsService
from esazure.events import Commit, CommitRecord
from esazure.memory import InMemoryStore
from esazure.ports import ViewRecord
from esazure.testing.conformance import Counter

T = TypeVar("T")
WRITERS, UPDATES = 32, 5
Service = EventsService[Counter, str]


class Remote(InMemoryStore):
    """Takes ten milliseconds for each request, more or less."""

    def __init__(self) -> None:
        super().__init__()
        self.inserts = 0
        self._random = random.Random(1)  # noqa: S311 - not a secret

    async def load(
        self, stream: str, *, to_version: int | None = None, tag: str = "", within: int = 1_000
    ) -> AsyncGenerator[Sequence[CommitRecord], None]:
        await self._travel()
        async for page in super().load(stream, to_version=to_version, tag=tag, within=within):
            yield page

    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        self.inserts += 1
        await self._travel()
        await super().insert(record, outbox=outbox, views=views)
        await self._travel()

    async def _travel(self) -> None:
        await asyncio.sleep(self._random.uniform(0.005, 0.015))


def simulated(work: Coroutine[Any, Any, T]) -> T:
    random.seed(1)
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(work)


async def created(service: Service, name: str = "a") -> None:
    counter = Counter(name)
    counter.increment()
    await service.persist(counter)


async def waits_of(services: Sequence[Service]) -> list[list[float]]:
    """How long the updates of each writer took; the writers are spread over the services."""
    clock = asyncio.get_running_loop().time

    async def write(service: Service) -> list[float]:
        waits = []
        for _ in range(UPDATES):
            began = clock()
            await service.update("a", lambda counter: counter.increment())
            waits.append(clock() - began)
        return waits

    return await asyncio.gather(*(write(services[number % len(services)]) for number in range(WRITERS)))


def jain(waits: Sequence[float]) -> float:
    """1 when all wait alike, 1/n when one waits for all."""
    return sum(waits) ** 2 / (len(waits) * sum(wait * wait for wait in waits))


def test_writers_of_one_service_wait_alike_and_meet_no_conflict() -> None:
    async def run() -> None:
        store = Remote()
        service = EventsService(store.events(Counter))
        await created(service)
        waits = await waits_of([service])
        assert (await service.rehydrate("a")).version == 1 + WRITERS * UPDATES
        assert store.inserts == 1 + WRITERS * UPDATES, "no attempt was in vain"
        each = [wait for writer in waits for wait in writer]
        assert jain([mean(writer) for writer in waits]) >= 0.95
        assert max(each) <= 3 * mean(each)

    simulated(run())


def test_writers_of_several_processes_are_not_refused() -> None:
    async def run() -> None:
        store = Remote()
        services = [EventsService(store.events(Counter)) for _ in range(4)]  # which know nothing of each other
        await created(services[0])
        await waits_of(services)
        assert (await services[0].rehydrate("a")).version == 1 + WRITERS * UPDATES

    simulated(run())


def test_turns_are_first_come_first_served() -> None:
    async def run() -> None:
        service = EventsService(Remote().events(Counter))
        await created(service)
        order: list[int] = []

        async def write(number: int) -> None:
            await service.update("a", lambda counter: (counter.increment(), order.append(number)))

        await asyncio.gather(*(write(number) for number in range(10)))
        assert order == list(range(10))

    simulated(run())


def test_different_aggregates_do_not_wait_for_each_other() -> None:
    async def run() -> None:
        service = EventsService(Remote().events(Counter))
        clock = asyncio.get_running_loop().time
        for number in range(20):
            await created(service, str(number))
        began = clock()
        await asyncio.gather(*(service.update(str(number), lambda it: it.increment()) for number in range(20)))
        assert clock() - began < 0.1

    simulated(run())


@pytest.mark.parametrize("ending", ["stored", "failed", "cancelled"])
def test_a_turn_ends_however_it_ends_and_nothing_is_kept(ending: str) -> None:
    def change(counter: Counter) -> None:
        if ending == "failed":
            raise ZeroDivisionError
        counter.increment()

    async def run() -> None:
        service = EventsService(Remote().events(Counter))
        await created(service)
        tasks = [asyncio.create_task(service.update("a", change)) for _ in range(3)]
        await asyncio.sleep(0.001)
        if ending == "cancelled":
            tasks[0].cancel()
            tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await service.update("a", lambda counter: counter.increment())
        del tasks
        gc.collect()
        assert len(service._queues) == 0

    simulated(run())


def test_who_waits_in_vain_for_a_turn_goes_on_without() -> None:
    class Stuck(Remote):
        is_stuck = False

        async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
            if self.is_stuck:
                self.is_stuck = False
                await asyncio.sleep(3600)
            await super().insert(record, outbox=outbox, views=views)

    async def run() -> None:
        store = Stuck()
        service = EventsService(store.events(Counter))
        await created(service)
        store.is_stuck = True
        stuck = asyncio.create_task(service.update("a", lambda counter: counter.increment(), timeout=0))
        await asyncio.sleep(0.1)
        clock = asyncio.get_running_loop().time
        began = clock()
        await service.update("a", lambda counter: counter.increment(), timeout=2)
        assert clock() - began < 3
        with pytest.raises(ConcurrencyError):
            await stuck

    simulated(run())


def test_each_event_loop_has_turns_of_its_own() -> None:
    service = EventsService(InMemoryStore().events(Counter))

    async def run() -> None:
        await asyncio.gather(*(service.update("a", lambda counter: counter.increment()) for _ in range(5)))

    asyncio.run(created(service))
    for _ in range(2):
        asyncio.run(run())
    assert asyncio.run(service.rehydrate("a")).version == 11


def test_an_update_that_its_own_publishing_leads_to_does_not_wait_for_itself() -> None:
    class Reacting:
        service: Service
        reacts = False

        def check(self, _: object) -> None: ...

        async def dispatch(self, _: Commit[Any]) -> None:
            if self.reacts:
                self.reacts = False
                async with asyncio.TaskGroup() as group:
                    group.create_task(self.service.update("a", lambda it: it.increment(), timeout=math.inf))

    async def run() -> None:
        producer = Reacting()
        producer.service = EventsService(Remote().events(Counter), producer)
        await created(producer.service)
        producer.reacts = True
        async with asyncio.timeout(5):
            await producer.service.update("a", lambda counter: counter.increment())
        assert (await producer.service.rehydrate("a")).version == 3

    simulated(run())


def test_a_task_that_outlives_the_turn_it_began_in_waits_like_everybody() -> None:
    class Starting:
        service: Service
        late: asyncio.Task[None] | None = None

        def check(self, _: object) -> None: ...

        async def dispatch(self, _: Commit[Any]) -> None:
            self.late = self.late or asyncio.create_task(self.go_on())

        async def go_on(self) -> None:
            await asyncio.sleep(1)
            await asyncio.gather(*(self.service.update("a", lambda it: it.increment()) for _ in range(5)))

    async def run() -> None:
        store, producer = Remote(), Starting()
        producer.service = EventsService(store.events(Counter), producer)
        await created(EventsService(store.events(Counter)))
        await producer.service.update("a", lambda counter: counter.increment())
        assert producer.late is not None
        await producer.late
        assert store.inserts == 1 + 1 + 5

    simulated(run())
