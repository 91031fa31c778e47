"""Cancelled at every turn of the event loop: a client that hangs up, a timeout, a shutdown.

Each call to the store and the producer gives way to the loop before it is carried out and before its answer is heard,
so cancelling at every turn hits each of these moments, and those of the tasks beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from tests.support.fake_tables import FakeGateway, FakeTable

from esazure import ConcurrencyError, EventsService, UnusableAggregateError
from esazure import service as service_module
from esazure.memory import InMemoryEventProducer, InMemoryStore
from esazure.relay import OutboxRelay
from esazure.repository import CommitStore
from esazure.state import state_of
from esazure.tables import TableStore
from esazure.tables import append as append_module
from esazure.tables.gateway import Operation, OutcomeUnknownError
from esazure.tables.layout import Layout, presence
from esazure.testing._counter import Counter
from esazure.testing._witness import Witness, WitnessedProducer, WitnessedStore
from esazure.testing.faults import Faults, FaultyProducer, FaultyStore

ID = "c"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "uniform", lambda low, high: 0.0)
    monkeypatch.setattr(append_module, "FIRST_PAUSE", 0.0)


class Backend:
    """A store and a broker that suspend at every call, under a witness."""

    def __init__(self, store: CommitStore) -> None:
        self.faults = Faults()
        self.real = store
        self.broker = InMemoryEventProducer()
        self.witness = Witness()
        self.store = FaultyStore(WitnessedStore(store, self.witness), self.faults)
        self.producer = FaultyProducer(WitnessedProducer(self.broker, self.witness), self.faults)
        self.service = EventsService(self.store.events(Counter, outbox=True), self.producer)
        self.relay = OutboxRelay(self.store, {Counter: self.producer}, grace=0.0)

    async def two_commits_wait(self) -> Counter:
        """A counter whose commits were not dispatched."""
        counter = Counter(ID)
        for note in ("a", "b"):
            counter.note(note)
            await EventsService(self.store.events(Counter, outbox=True)).persist(counter)
        return counter

    async def check(self, *notes: str) -> None:
        """After a sweep: exactly these notes, each promise kept, and nobody left at work."""
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await self.relay.run_once()
        assert (await self.service.rehydrate(ID)).notes == list(notes)
        assert await self.witness.violations(self.real, self.broker.messages) == []
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def cancelled_at(turn: int, work: Coroutine[Any, Any, object]) -> bool:
    """Let the loop turn so often, then cancel. Whether the work had ended by then; what it raised is raised."""
    task = asyncio.create_task(work)
    for _ in range(turn):
        await asyncio.sleep(0)
    done = task.done()
    task.cancel()
    await asyncio.wait({task})
    assert asyncio.all_tasks() == {asyncio.current_task()}, "a cancelled call leaves nobody at work"
    if not task.cancelled():
        task.result()
    return done


async def every_turn(trial: Callable[[int], Awaitable[bool]]) -> int:
    """Cancel at the first turn, the second, ... until the work ends before it is cancelled; how many turns it has."""
    for turn in count():
        if await trial(turn):
            return turn
    raise AssertionError


def is_usable_or_says_why_not(counter: Counter) -> bool:
    """Either nothing is in doubt, or recording is refused and the message says what to do. Whether it is in doubt."""
    if state_of(counter).in_doubt is None:
        return False
    with pytest.raises(UnusableAggregateError, match="persist it again first, or load it again"):
        counter.note("refused")
    return True


async def persist_again(backend: Backend, counter: Counter) -> None:
    """What the user does with the very copy: it resolves the doubt, and the copy is as good as new."""
    await backend.service.persist(counter)
    assert counter.pending == ()
    assert state_of(counter).in_doubt is None
    counter.note("later")
    await backend.service.persist(counter)


async def test_persisting_a_new_aggregate() -> None:
    in_doubt = 0

    async def trial(turn: int) -> bool:
        nonlocal in_doubt
        backend, counter = Backend(InMemoryStore()), Counter(ID)
        counter.note("a")
        done = await cancelled_at(turn, backend.service.persist(counter))
        in_doubt += is_usable_or_says_why_not(counter)
        await persist_again(backend, counter)
        await backend.check("a", "later")
        return done

    assert await every_turn(trial) == 1 + 2 * len(["insert", "dispatch", "mark_published"])
    assert in_doubt == 2, "before the insert was carried out, and before its answer was heard"


async def test_persisting_when_older_commits_wait() -> None:
    async def trial(turn: int) -> bool:
        backend = Backend(InMemoryStore())
        counter = await backend.two_commits_wait()
        counter.note("c")
        done = await cancelled_at(turn, backend.service.persist(counter))
        is_usable_or_says_why_not(counter)
        await persist_again(backend, counter)
        await backend.check("a", "b", "c", "later")
        return done

    assert await every_turn(trial) >= 2 * len(["insert", *["dispatch", "mark_published"] * 3])


async def test_a_cancelled_persist_that_is_loaded_again_instead() -> None:
    async def trial(turn: int) -> bool:
        backend = Backend(InMemoryStore())
        counter = await backend.two_commits_wait()
        counter.note("c")
        done = await cancelled_at(turn, backend.service.persist(counter))
        again = await backend.service.rehydrate(ID)
        if "c" not in again.notes:
            again.note("c")
            await backend.service.persist(again)
        await backend.check("a", "b", "c")
        return done

    assert await every_turn(trial) >= 14


async def test_persisting_again_is_cancelled_too() -> None:
    """Every pair of moments."""

    async def trial(first: int, second: int) -> tuple[bool, bool]:
        backend = Backend(InMemoryStore())
        counter = await backend.two_commits_wait()
        counter.note("c")
        done = await cancelled_at(first, backend.service.persist(counter))
        done_again = await cancelled_at(second, backend.service.persist(counter))
        is_usable_or_says_why_not(counter)
        await persist_again(backend, counter)
        await backend.check("a", "b", "c", "later")
        return done, done_again

    pairs = 0
    for first in count():
        done = False
        for second in count():
            pairs += 1
            done, done_again = await trial(first, second)
            if done_again:
                break
        if done:
            break
    assert pairs > 30


async def test_a_conflict_while_being_cancelled() -> None:
    async def trial(turn: int) -> bool:
        backend = Backend(InMemoryStore())
        counter = await backend.two_commits_wait()
        winner = await backend.service.rehydrate(ID)
        winner.note("winner")
        await backend.store.events(Counter, outbox=True).append(winner)
        counter.note("loser")
        try:
            done = await cancelled_at(turn, backend.service.persist(counter))
        except ConcurrencyError:
            done = True
        is_usable_or_says_why_not(counter)
        with pytest.raises(ConcurrencyError):
            await backend.service.persist(counter)
        counter.note("the slot is taken for good, so nothing is in doubt")
        await backend.check("a", "b", "winner")
        return done

    assert await every_turn(trial) >= 4


async def test_updating_under_a_conflict() -> None:
    async def trial(turn: int) -> bool:
        backend = Backend(InMemoryStore())
        await backend.two_commits_wait()
        rivals = iter(["rival"])
        repository = backend.service._repository
        load = repository.rehydrate

        async def meet(id: str, *, version: int | None = None) -> Counter:
            mine = await load(id, version=version)
            if rival := next(rivals, None):
                theirs = await load(id)
                theirs.note(rival)
                await EventsService(backend.real.events(Counter, outbox=True)).persist(theirs)
            return mine

        def change(counter: Counter) -> None:
            if "mine" not in counter.notes:
                counter.note("mine")

        repository.rehydrate = meet  # type: ignore[method-assign]
        done = await cancelled_at(turn, backend.service.update(ID, change))
        updated = await backend.service.update(ID, change)
        assert updated.pending == ()
        notes = [note for note in updated.notes if note != "rival"]
        assert notes == ["a", "b", "mine"]
        await backend.check(*updated.notes)
        return done

    assert await every_turn(trial) >= 20


async def test_a_sweep() -> None:
    async def trial(turn: int) -> bool:
        backend = Backend(InMemoryStore())
        await backend.two_commits_wait()
        done = await cancelled_at(turn, backend.relay.run_once())
        await backend.check("a", "b")
        return done

    relayed = ["sweep", "write_lease", "unpublished", *["dispatch", "mark_published"] * 2, "write_lease"]
    assert await every_turn(trial) >= 2 * len(relayed)


async def test_two_persists_of_one_copy() -> None:
    """The second is refused while the first is under way; when the first is cancelled, the copy is free again."""

    async def trial(turn: int) -> bool:
        backend, counter = Backend(InMemoryStore()), Counter(ID)
        counter.note("a")
        first = asyncio.create_task(backend.service.persist(counter))
        for _ in range(turn):
            await asyncio.sleep(0)
        if state_of(counter).persisting:
            with pytest.raises(UnusableAggregateError, match="another task is persisting this copy"):
                await backend.service.persist(counter)
        done = first.done()
        first.cancel()
        await asyncio.wait({first})
        assert not state_of(counter).persisting
        is_usable_or_says_why_not(counter)
        await persist_again(backend, counter)
        await backend.check("a", "later")
        return done

    assert await every_turn(trial) >= 6


# The table store, over a table that answers late, and the first time not at all.


class Table(FakeGateway):
    """The answer to each first attempt to create is lost."""

    def __init__(self) -> None:
        table = FakeTable()
        table.apply([("create", presence(LAYOUT, "00"))])
        super().__init__(table)
        self.unanswered: set[object] = set()

    async def submit(self, operations: Sequence[Operation]) -> Sequence[str]:
        tags = await super().submit(operations)
        first = operations[0][1]["RowKey"]
        if operations[0][0] == "create" and first not in self.unanswered:
            self.unanswered.add(first)
            raise OutcomeUnknownError
        return tags


LAYOUT = Layout(UUID(int=1), 1)


@pytest.fixture
async def table_store() -> AsyncIterator[Callable[[], TableStore]]:
    def make() -> TableStore:
        store = TableStore.from_connection_string(
            "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=a2V5;TableEndpoint=http://127.0.0.1:1/a;"
        )
        gateways.append(store._gateway)
        store._gateway = Table()  # type: ignore[assignment]
        store._opened = LAYOUT
        return store

    gateways: list[Any] = []
    yield make
    for gateway in gateways:
        await gateway.close()


async def test_persisting_to_a_table_that_answers_the_second_time(table_store: Callable[[], TableStore]) -> None:
    async def trial(turn: int) -> bool:
        store, witness, broker = table_store(), Witness(), InMemoryEventProducer()
        repository = WitnessedStore(store, witness).events(Counter, outbox=True)
        service = EventsService(repository, WitnessedProducer(broker, witness))
        counter = Counter(ID)
        counter.note("a")
        await EventsService(repository).persist(counter)
        counter.note("b")
        done = await cancelled_at(turn, service.persist(counter))
        is_usable_or_says_why_not(counter)
        await service.persist(counter)
        counter.note("later")
        await service.persist(counter)
        assert (await service.rehydrate(ID)).notes == ["a", "b", "later"]
        assert await witness.violations(store, broker.messages) == []
        return done

    assert await every_turn(trial) >= 2 * len(["submit", "submit", "query", "delete", "delete"])
