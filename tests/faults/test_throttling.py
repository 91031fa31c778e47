"""Storms of 503 and 429: every call ends in its time, adds few requests to the storm, and then all is well again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from types import SimpleNamespace
from typing import Any, Self
from uuid import UUID, uuid4

import pytest
from tests.support.table_proxy import Forward, Reply, TableProxy

import esazure.tables.pauses
from esazure import AppendOutcomeUnknownError, Commit, EventsService, StoreUnavailableError
from esazure.memory import InMemoryEventProducer
from esazure.repository import EventsRepository
from esazure.tables import TableStore
from esazure.tables.append import append
from esazure.tables.gateway import ITableGateway, Operation, OutcomeUnknownError
from esazure.tables.layout import Layout
from esazure.tables.pauses import FIRST_PAUSE, LONGEST_PAUSE
from esazure.testing._counter import commit_of
from esazure.testing.conformance import Counter

pytestmark = pytest.mark.long

DEADLINE = 2.0
TENTH = 0.1 * DEADLINE
RETRY_AFTER = [None, "1", "60"]


class Storm:
    """Answers every request with 503 and 429 in turn, until it is over."""

    def __init__(self, retry_after: str | None) -> None:
        self._headers = {} if retry_after is None else {"Retry_After": retry_after}
        self._statuses = cycle((503, 429))
        self.over = False

    async def __call__(self, kind: str, forward: Forward) -> Reply:
        """See `TableProxy.fault`."""
        return await forward() if self.over else Reply.of(next(self._statuses), **self._headers)


@asynccontextmanager
async def calm_table(tables: str) -> AsyncIterator[tuple[TableProxy, EventsRepository[Counter, str]]]:
    async with (
        TableProxy(tables) as proxy,
        TableStore.from_connection_string(
            proxy.connection_string, table=f"t{uuid4().hex}", deadline=DEADLINE, shards=1
        ) as store,
    ):
        yield proxy, store.events(Counter)


class Stalls:
    """How long this process did not get to run its loop: a machine that is busy must not look like a late library."""

    TICK = 0.02

    def __init__(self) -> None:
        self.seconds = 0.0

    async def __aenter__(self) -> Self:
        self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ticker.cancel()
        await asyncio.gather(self._ticker, return_exceptions=True)

    async def _tick(self) -> None:
        while True:
            before = now()
            await asyncio.sleep(self.TICK)
            self.seconds += max(0.0, now() - before - self.TICK - 0.005)


def now() -> float:
    return asyncio.get_running_loop().time()


def counter_with_an_event() -> Counter:
    counter = Counter(uuid4().hex)
    counter.increment()
    return counter


def attempts_within(seconds: float) -> int:
    """How many requests an append sends when no pause is cut short by chance."""
    count, at, pause = 1, 0.0, FIRST_PAUSE
    while (at := at + pause) < seconds:
        count, pause = count + 1, min(2 * pause, LONGEST_PAUSE)
    return count


@pytest.mark.azurite
@pytest.mark.parametrize("retry_after", RETRY_AFTER)
async def test_appends_in_a_storm_end_at_their_deadline_and_send_little(tables: str, retry_after: str | None) -> None:
    async with calm_table(tables) as (proxy, counters):
        await counters.append(counter_with_an_event())  # the connection is there
        proxy.fault = Storm(retry_after)
        proxy.seen.clear()
        writers = 8

        async def one() -> float:
            began = now()
            with pytest.raises(AppendOutcomeUnknownError):
                await counters.append(counter_with_an_event())
            return now() - began

        async with Stalls() as stalls:
            took = await asyncio.gather(*[one() for _ in range(writers)])

    assert all(-TENTH <= seconds - DEADLINE <= TENTH + stalls.seconds for seconds in took), took
    assert set(proxy.seen) == {"transaction"}
    # 503 and 429 alike; the SDK must not add repeats of its own. What a Retry-After asks for is less still.
    assert proxy.seen["transaction"] <= 4 * writers * attempts_within(DEADLINE)
    if retry_after is not None:
        assert proxy.seen["transaction"] <= writers * (1 + DEADLINE / float(retry_after))


@pytest.mark.azurite
@pytest.mark.parametrize("retry_after", RETRY_AFTER)
async def test_a_load_in_a_storm_fails_in_time_and_sends_four_requests_at_most(
    tables: str, retry_after: str | None
) -> None:
    async with calm_table(tables) as (proxy, counters):
        counter = counter_with_an_event()
        await counters.append(counter)
        proxy.fault = Storm(retry_after)
        proxy.seen.clear()
        began = now()
        async with Stalls() as stalls:
            with pytest.raises(StoreUnavailableError):
                await counters.rehydrate(counter.id)
            took = now() - began

    assert took <= DEADLINE + TENTH + stalls.seconds
    assert proxy.seen["query"] <= 4
    assert set(proxy.seen) == {"query"}


@pytest.mark.azurite
@pytest.mark.parametrize("retry_after", RETRY_AFTER)
async def test_a_persist_whose_outbox_row_cannot_be_removed_returns_in_time(
    tables: str, retry_after: str | None
) -> None:
    """The events are stored and published when the storm begins: it must not hold up who is waiting for that."""
    async with calm_table(tables) as (proxy, counters):

        class StormyProducer(InMemoryEventProducer):
            async def dispatch(self, commit: Commit[Any]) -> None:
                await super().dispatch(commit)
                proxy.fault = Storm(retry_after)
                proxy.seen.clear()

        began = now()
        async with Stalls() as stalls:
            await EventsService(counters, StormyProducer()).persist(counter_with_an_event())
            took = now() - began

    assert took <= DEADLINE + TENTH + stalls.seconds + 0.5  # the append itself, which was calm
    assert proxy.seen["transaction"] <= 4 * attempts_within(DEADLINE)


@pytest.mark.azurite
async def test_after_a_storm_appends_go_through_at_once(tables: str) -> None:
    async with calm_table(tables) as (proxy, counters):
        storm = proxy.fault = Storm(None)
        waiting = [asyncio.create_task(counters.append(counter_with_an_event())) for _ in range(8)]
        await asyncio.sleep(0.3 * DEADLINE)
        assert not any(task.done() for task in waiting)
        storm.over = True
        over = now()
        assert all(await asyncio.gather(*waiting))
        assert now() - over <= attempts_pause(0.3 * DEADLINE) + DEADLINE

        proxy.seen.clear()
        began = now()
        await counters.append(counter_with_an_event())
        assert proxy.seen == {"transaction": 1}
        assert now() - began < DEADLINE


def attempts_pause(seconds: float) -> float:
    """The longest pause an append can be in after so many seconds without an answer, and a further one for luck."""
    return FIRST_PAUSE * 2.0 ** attempts_within(seconds)


class Refusing(ITableGateway):
    """Fails the first attempt."""

    def __init__(self, retry_after: float | None) -> None:
        self._retry_after = retry_after
        self._attempts = 0

    async def submit(self, operations: Sequence[Operation]) -> Sequence[str]:
        self._attempts += 1
        if self._attempts == 1:
            raise OutcomeUnknownError(self._retry_after)
        return [""] * len(operations)


@pytest.mark.parametrize("retry_after", [None, 0.1])
async def test_appends_that_failed_together_do_not_come_back_together(
    retry_after: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(esazure.tables.pauses, "asyncio", SimpleNamespace(sleep=sleep))
    record = commit_of("Counter.a", 1, "a")
    for _ in range(50):
        await append(Refusing(retry_after), Layout(UUID(int=1), 1), record, "00", [], deadline=60)
    pauses.sort()
    assert len(pauses) == 50
    assert pauses[0] >= (retry_after or 0.0)
    assert pauses[37] - pauses[12] > FIRST_PAUSE / 8, "they stampede"
