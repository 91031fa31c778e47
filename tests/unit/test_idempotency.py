"""A command that is sent again is not carried out again, and gets the same answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.support.races import RacyStore
from tests.unit.doubles import TroubledProducer, TroubledStore, broker_down

from esazure import (
    AppendOutcomeUnknownError,
    Commit,
    ConcurrencyError,
    CorruptStreamError,
    DispatchError,
    EventsService,
    InvalidIdError,
    ReadOnlyAggregateError,
    StoreError,
    StoreUnavailableError,
    UnusableAggregateError,
)
from esazure.commands import Command, problem_details
from esazure.errors import CommandHandledError, CommandReusedError
from esazure.events import CommandRecord
from esazure.memory import InMemoryStore
from esazure.relay import OutboxRelay
from esazure.sqlite import SqliteStore
from esazure.store import Store
from esazure.testing._counter import Counter, counter_with
from esazure.testing._faulty import FaultyStore
from esazure.testing._points import Fault, Faults
from esazure.testing.faults import Kind, World, crash_everywhere

ID = "purse"
Service = EventsService[Counter, str]


class Open(Command):
    name: str


class OverdrawnError(Exception):
    """The domain refuses."""


def spend(amount: int, *, of: list[int] | None = None) -> Any:
    """A change that is refused when the money is gone."""

    def change(counter: Counter) -> None:
        if of is not None:
            of.append(counter.total)
        if counter.total < amount:
            raise OverdrawnError
        counter.increment(-amount)

    return change


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with InMemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "a.db") as opened:
        yield opened


async def service_with(store: Store, amount: int = 100, producer: Any = None) -> Service:
    service = EventsService(store.events(Counter, outbox=True), producer)
    purse = Counter(ID)
    purse.increment(amount)
    await service.persist(purse)
    return service


async def commits(store: Store, stream: str = f"Counter.{ID}") -> int:
    return len(await store.read(stream))


# Persisting.


async def test_a_repeated_command_stores_nothing_and_returns_the_first_commit(store: Store) -> None:
    producer = TroubledProducer()
    service = EventsService(store.events(Counter), producer)
    first = await service.persist(counter_with("a", "b", id=ID), command_id="open-1")
    again = await service.persist(counter_with("a", "b", id=ID), command_id="open-1")
    assert first is not None
    assert first.command_id == "open-1"
    assert again == first
    assert await commits(store) == 1
    assert producer.versions == [1, 2], "nothing is published again either"


async def test_the_copy_of_a_repeat_cannot_be_used_any_more(store: Store) -> None:
    service = EventsService(store.events(Counter, outbox=True))
    await service.persist(counter_with("a", id=ID), command_id="open-1")
    repeated = counter_with("a", id=ID)
    await service.persist(repeated, command_id="open-1")
    assert len(repeated.pending) == 1
    with pytest.raises(UnusableAggregateError, match="carried out before"):
        repeated.note("b")
    with pytest.raises(UnusableAggregateError, match="carried out before"):
        await service.persist(repeated)
    assert await commits(store) == 1


async def test_a_repeat_is_found_before_a_conflict(store: Store) -> None:
    service = await service_with(store)
    stale = await service.rehydrate(ID)
    first = await service.update(ID, spend(10), command_id="spend-1")
    await service.update(ID, spend(20))
    stale.increment(-10)
    commit = await service.persist(stale, command_id="spend-1")
    assert commit is not None
    assert commit.last_version == first.version == 2
    assert (await service.rehydrate(ID)).total == 70


async def test_the_same_id_may_be_used_for_other_streams(store: Store) -> None:
    service = EventsService(store.events(Counter, outbox=True))
    for name in ("a", "b"):
        commit = await service.persist(counter_with("x", id=name), command_id="open-1")
        assert commit is not None
        assert commit.aggregate_id == name
    assert [await commits(store, f"Counter.{name}") for name in ("a", "b")] == [1, 1]


async def test_another_id_is_another_command_and_none_is_none(store: Store) -> None:
    service = await service_with(store)
    for command_id in ("1", "2", None, None):
        await service.update(ID, spend(10), command_id=command_id)
    assert (await service.rehydrate(ID)).total == 60


async def test_the_commit_of_a_command_can_be_found(store: Store) -> None:
    service = await service_with(store)
    await service.update(ID, spend(10), command_id="spend-1")
    found = await service.find_command(ID, "spend-1")
    assert found is not None
    assert found.commit is not None
    assert (found.version, found.commit.first_version, found.commit.command_id) == (2, 2, "spend-1")
    assert await service.find_command(ID, "spend-2") is None
    assert await service.find_command("other", "spend-1") is None


@pytest.mark.parametrize("command_id", ["", "x" * 257, "\ud800"])
async def test_an_id_that_cannot_be_one_is_refused_before_any_request(command_id: str) -> None:
    class Noting(TroubledStore):
        async def read(self, stream: str, **kwargs: Any) -> Any:
            self.calls.append("read")
            return await super().read(stream, **kwargs)

    store = Noting()
    service = await service_with(store)
    store.calls.clear()
    counter = counter_with("a")
    with pytest.raises(InvalidIdError, match="command id"):
        await service.persist(counter, command_id=command_id)
    with pytest.raises(InvalidIdError, match="command id"):
        await service.update(ID, spend(1), command_id=command_id)
    with pytest.raises(InvalidIdError, match="command id"):
        await service.find_command(ID, command_id)
    assert store.calls == []
    await service.persist(counter, command_id="x" * 256)
    assert counter.pending == ()


async def test_a_command_given_up_for_good_stores_nothing_and_leaves_the_copy_as_it_was(store: Store) -> None:
    service = await service_with(store)
    assert await store.find_command(f"Counter.{ID}", "spend-1", forbid=True) is None
    purse = await service.rehydrate(ID)
    purse.increment(-10)
    for _ in range(2):
        with pytest.raises(CommandHandledError, match="send it again as a new command") as caught:
            await service.persist(purse, command_id="spend-1")
        assert caught.value.first_version is None
    assert await commits(store) == 1
    assert len(purse.pending) == 1
    await service.persist(purse, command_id="spend-2")
    assert (await service.rehydrate(ID)).total == 90


async def test_a_handled_command_whose_commit_is_gone_is_a_corrupt_stream() -> None:
    class Forgetful(InMemoryStore):
        async def read(self, stream: str, **kwargs: Any) -> Any:
            return []

    service = EventsService(Forgetful().events(Counter, outbox=True))
    await service.persist(counter_with("a", id=ID), command_id="open-1")
    with pytest.raises(CorruptStreamError, match="at version 1, is missing"):
        await service.persist(counter_with("a", id=ID), command_id="open-1")


# Publishing.


async def test_what_the_first_time_could_not_be_published_is_left_to_the_relay(store: Store) -> None:
    producer = TroubledProducer(broker_down())
    service = EventsService(store.events(Counter), producer)
    for _ in range(2):
        await service.persist(counter_with("a", id=ID), command_id="open-1")
    assert (producer.versions, service.undispatched) == ([], 1)
    await OutboxRelay(store, {Counter: producer}, grace=0).run_once()
    assert producer.versions == [1]


async def test_without_an_outbox_the_repeat_publishes(store: Store) -> None:
    producer = TroubledProducer(broker_down())
    service = EventsService(store.events(Counter, outbox=False), producer)
    with pytest.raises(DispatchError):
        await service.persist(counter_with("a", id=ID), command_id="open-1")
    await service.persist(counter_with("a", id=ID), command_id="open-1")
    assert producer.versions == [1]
    assert await commits(store) == 1


async def test_a_repeat_leaves_no_task_behind(store: Store) -> None:
    service = await service_with(store, producer=TroubledProducer())
    stale = await service.rehydrate(ID)
    await service.update(ID, spend(10), command_id="spend-1")
    stale.increment(-10)
    await service.persist(stale, command_id="spend-1")
    assert asyncio.all_tasks() == {asyncio.current_task()}


# Updating.


async def test_an_update_that_is_repeated_answers_as_the_first_time(store: Store) -> None:
    service = await service_with(store)
    first = await service.update(ID, spend(60), command_id="spend-1")
    await service.update(ID, lambda purse: purse.increment(500))
    again = await service.update(ID, spend(60), command_id="spend-1")
    assert (first.total, first.version) == (again.total, again.version) == (40, 2)
    assert (await service.rehydrate(ID)).total == 540
    again.increment()
    with pytest.raises(ReadOnlyAggregateError):
        await service.persist(again)


async def test_an_update_that_would_now_be_refused_answers_as_the_first_time(store: Store) -> None:
    service, seen = await service_with(store), []
    await service.update(ID, spend(60), command_id="spend-1")
    again = await service.update(ID, spend(60, of=seen), command_id="spend-1")
    assert again.total == 40
    assert seen == [40], "the domain did refuse"
    with pytest.raises(OverdrawnError):
        await service.update(ID, spend(60), command_id="spend-2")


async def test_an_update_that_would_now_change_nothing_answers_as_the_first_time(store: Store) -> None:
    def once(counter: Counter) -> None:
        if "once" not in counter.notes:
            counter.note("once")

    service = await service_with(store)
    await service.update(ID, once, command_id="note-1")
    await service.update(ID, spend(10))
    assert (await service.update(ID, once, command_id="note-1")).version == 2
    assert (await service.update(ID, once, command_id="note-2")).version == 3
    assert (await service.update(ID, once)).version == 3
    assert await commits(store) == 3


async def test_an_asynchronous_change_is_refused_also_when_the_command_was_carried_out() -> None:
    async def change(counter: Counter) -> None:
        counter.note("never")

    service = await service_with(InMemoryStore())
    await service.update(ID, spend(60), command_id="spend-1")
    with pytest.raises(TypeError, match="plain function"):
        await service.update(ID, change, command_id="spend-1")


# No answer.


@pytest.mark.parametrize("lost", ["lost on the way there", "lost on the way back"])
async def test_the_retry_of_an_append_keeps_the_command_id(lost: str) -> None:
    store = TroubledStore(lost, lost)
    service = EventsService(store.events(Counter, outbox=True))
    counter = counter_with("a", id=ID)
    with pytest.raises(AppendOutcomeUnknownError) as caught:
        await service.persist(counter, command_id="open-1")
    with pytest.raises(AppendOutcomeUnknownError) as again:
        await caught.value.retry()
    commit = await again.value.retry()
    assert isinstance(commit, Commit)
    assert commit.command_id == "open-1"
    assert counter.pending == ()
    assert len(set(store.inserted)) == 1
    repeated = await service.persist(counter_with("a", id=ID), command_id="open-1")
    assert repeated is not None
    assert repeated.commit_id == commit.commit_id


@pytest.mark.parametrize("lost", ["lost on the way there", "lost on the way back"])
async def test_who_got_no_answer_may_send_the_command_again_with_a_new_copy(lost: str) -> None:
    store = TroubledStore(None, lost)
    service = await service_with(store)
    with pytest.raises(AppendOutcomeUnknownError):
        await service.update(ID, spend(60), command_id="spend-1")
    assert (await service.update(ID, spend(60), command_id="spend-1")).total == 40
    assert await commits(store) == 2


@pytest.mark.parametrize("lost", ["lost on the way there", "lost on the way back"])
@pytest.mark.parametrize("command_id", ["open-1", None])
async def test_the_copy_in_doubt_may_be_persisted_again_with_its_id_or_without(
    lost: str, command_id: str | None
) -> None:
    store = TroubledStore(lost)
    service = EventsService(store.events(Counter, outbox=True))
    counter = counter_with("a", id=ID)
    with pytest.raises(AppendOutcomeUnknownError):
        await service.persist(counter, command_id="open-1")
    commit = await service.persist(counter, command_id=command_id)
    assert commit is not None
    assert commit.command_id == "open-1"
    assert await commits(store) == 1


@pytest.mark.parametrize("first", ["open-1", None])
async def test_the_copy_in_doubt_is_not_persisted_under_another_id(first: str | None) -> None:
    store = TroubledStore("lost on the way back")
    service = EventsService(store.events(Counter, outbox=True))
    counter = counter_with("a", id=ID)
    with pytest.raises(AppendOutcomeUnknownError):
        await service.persist(counter, command_id=first)
    with pytest.raises(UnusableAggregateError, match="of another command"):
        await service.persist(counter, command_id="open-2")
    assert store.calls == ["insert"]
    commit = await service.persist(counter)
    assert commit is not None
    assert commit.command_id == first


async def test_a_copy_in_doubt_whose_command_was_given_up_is_in_doubt_no_more() -> None:
    store = TroubledStore("lost on the way there")
    service = EventsService(store.events(Counter, outbox=True))
    counter = counter_with("a", id=ID)
    with pytest.raises(AppendOutcomeUnknownError) as caught:
        await service.persist(counter, command_id="open-1")
    await store.find_command(f"Counter.{ID}", "open-1", forbid=True)
    with pytest.raises(CommandHandledError):
        await caught.value.retry()
    counter.note("b")
    await service.persist(counter, command_id="open-2")
    assert (await service.rehydrate(ID)).notes == ["a", "b"]


# At the same time.


@pytest.mark.parametrize("portion", range(10))
async def test_twins_are_carried_out_once_and_get_the_same_answer_however_they_interleave(portion: int) -> None:
    for seed in range(portion * 50, portion * 50 + 50):
        store = RacyStore(seed)
        service = await service_with(store)
        twins = [service.update(ID, spend(60), command_id="spend-1") for _ in range(3)]
        others = [service.update(ID, lambda purse: purse.increment(1000)) for _ in range(2)]
        answers = (await asyncio.gather(*twins, *others))[:3]
        assert len({answer.version for answer in answers}) == 1, f"seed {seed}"
        assert len({answer.total for answer in answers}) == 1, f"seed {seed}"
        assert (await service.rehydrate(ID)).total == 2040, f"seed {seed}"
        assert await commits(store) == 4, f"seed {seed}"


@pytest.mark.parametrize("portion", range(10))
async def test_twins_that_create_the_same_aggregate_get_the_same_commit(portion: int) -> None:
    for seed in range(portion * 50, portion * 50 + 50):
        store = RacyStore(seed)
        service = EventsService(store.events(Counter, outbox=True))
        made = [service.persist(counter_with("a", id=ID), command_id="open-1") for _ in range(4)]
        rival = service.persist(counter_with("rival", id=ID), command_id="open-2")
        *answers, other = await asyncio.gather(*made, rival, return_exceptions=True)
        assert await commits(store) == 1, f"seed {seed}"
        if isinstance(other, ConcurrencyError):
            assert len({answer.commit_id for answer in answers if isinstance(answer, Commit)}) == 1, f"seed {seed}"
            assert all(isinstance(answer, Commit) for answer in answers), f"seed {seed}"
        else:
            assert all(isinstance(answer, ConcurrencyError) for answer in answers), f"seed {seed}"


async def test_a_fence_and_a_command_on_its_way_agree_however_they_interleave() -> None:
    outcomes = set()
    for seed in range(200):
        store = RacyStore(seed)
        service = EventsService(store.events(Counter, outbox=True))
        stored, found = await asyncio.gather(
            service.persist(counter_with("a", id=ID), command_id="open-1"),
            store.find_command(f"Counter.{ID}", "open-1", forbid=True),
            return_exceptions=True,
        )
        assert isinstance(stored, Commit) == (found == CommandRecord(1)) == (await commits(store) == 1), f"seed {seed}"
        outcomes.add(found)
    assert outcomes == {None, CommandRecord(1)}


# Crashes: the client sends the command again, and the effect is there exactly once.


async def purse_of_100(world: World) -> None:
    await service_with(world.store)  # type: ignore[arg-type]


async def spend_once(world: World) -> None:
    service = EventsService(world.events(Counter), world.producer)
    assert (await service.update(ID, spend(60), command_id="spend-1")).total == 40


async def open_once(world: World) -> None:
    service = EventsService(world.events(Counter), world.producer)
    commit = await service.persist(counter_with("opened", id=ID), command_id="open-1")
    assert commit is not None
    assert (commit.first_version, commit.last_version) == (1, 1)


async def test_a_command_sent_until_it_is_answered_is_carried_out_exactly_once() -> None:
    async def check(world: World) -> None:
        purse = await world.events(Counter).rehydrate(ID)
        assert (purse.total, purse.version) == (40, 2)
        assert {message.properties["version"] for message in world.messages} == {"1", "2"}

    report = await crash_everywhere(spend_once, given=purse_of_100, check=check)
    points = [point.method for point in report.points]
    assert points == ["read", "insert", "unpublished", *["dispatch", "mark_published"] * 2]
    assert report.runs > len(points) * (len(Kind) - 1)


async def test_a_creation_sent_until_it_is_answered_is_carried_out_exactly_once() -> None:
    async def check(world: World) -> None:
        assert (await world.events(Counter).rehydrate(ID)).notes == ["opened"]

    report = await crash_everywhere(open_once, check=check)
    assert [point.method for point in report.points] == ["insert", "dispatch", "mark_published"]


async def test_without_a_command_id_the_same_client_carries_it_out_twice() -> None:
    """The negative control: what is tested here is not given by anything else."""

    async def careless(world: World) -> None:
        with suppress(OverdrawnError):
            await EventsService(world.events(Counter), world.producer).update(ID, spend(30))

    async def check(world: World) -> None:
        total = (await world.events(Counter).rehydrate(ID)).total
        assert total == 70, f"there are {total}"

    with pytest.raises(AssertionError, match="there are 40"):
        await crash_everywhere(careless, given=purse_of_100, check=check)


async def test_the_same_on_a_file(tmp_path: Path) -> None:
    names = count()

    async def check(world: World) -> None:
        assert (await world.events(Counter).rehydrate(ID)).total == 40

    report = await crash_everywhere(
        spend_once,
        given=purse_of_100,
        check=check,
        store=lambda: SqliteStore(tmp_path / f"{next(names)}.db"),
        kinds=[Kind.CRASH_BEFORE, Kind.CRASH_AFTER, Kind.LOST_ANSWER, Kind.TWICE],
    )
    assert report.runs == 1 + 7 * 4


async def test_a_refusal_of_the_store_while_looking_for_the_command_comes_out() -> None:
    class Blind(InMemoryStore):
        async def find_command(self, stream: str, command_id: str, *, forbid: bool = False) -> CommandRecord | None:
            raise StoreError("no")

    service = await service_with(Blind())
    with pytest.raises(StoreError, match="no"):
        await service.update(ID, spend(1000), command_id="spend-1")


@pytest.mark.parametrize("kind", [Kind.LOST_REQUEST, Kind.LOST_ANSWER, Kind.LATE, Kind.TWICE, Kind.SLOW, Kind.REFUSED])
async def test_a_note_whose_answer_is_lost_is_found_out_by_sending_it_again(kind: Kind) -> None:
    store, faults = InMemoryStore(), Faults({2: Fault(kind, lands_after=1)})
    await service_with(store)
    service = EventsService(FaultyStore(store, faults).events(Counter))
    if kind in (Kind.TWICE, Kind.SLOW):
        first = await service.update(ID, lambda _: None, command_id="look-1")
        assert first.version == 1
    else:
        with pytest.raises(StoreUnavailableError):
            await service.update(ID, lambda _: None, command_id="look-1")
    assert [point.method for point in faults.points] == ["read", "remember_command"]
    again = await service.update(ID, lambda _: None, command_id="look-1")
    assert again.version == 1
    await service.update(ID, spend(10))
    assert (await service.update(ID, spend(10), command_id="look-1")).version == 1
    await faults.settle()
    assert await commits(store) == 2


async def test_nothing_is_recorded_on_a_copy_whose_note_is_under_way() -> None:
    store = RacyStore(0)
    service = await service_with(store)
    purse = await service.rehydrate(ID)
    errors: list[UnusableAggregateError] = []

    async def meanwhile() -> None:
        try:
            purse.increment(-10)
        except UnusableAggregateError as error:
            errors.append(error)

    await asyncio.gather(service.persist(purse, command_id="look-1"), meanwhile())
    assert len(errors) == 1
    purse.increment(-10)
    await service.persist(purse)
    assert await commits(store) == 2


async def test_a_command_given_up_is_not_answered_with_nothing_either(store: Store) -> None:
    service = await service_with(store)
    await store.find_command(f"Counter.{ID}", "look-1", forbid=True)
    purse = await service.rehydrate(ID)
    for _ in range(2):
        with pytest.raises(CommandHandledError, match="send it again as a new command"):
            await service.persist(purse, command_id="look-1")
    purse.increment(-10)
    await service.persist(purse, command_id="spend-1")


async def test_of_twins_that_race_one_with_something_to_store_and_one_without_one_is_the_answer() -> None:
    outcomes: set[object] = set()
    for seed in range(60):
        store = RacyStore(seed)
        service = await service_with(store)
        twin = EventsService(store.events(Counter))  # of another process: those of one service take turns
        one, other = await asyncio.gather(
            service.update(ID, spend(10), command_id="pay-1"), twin.update(ID, lambda _: None, command_id="pay-1")
        )
        handled = await service.find_command(ID, "pay-1")
        assert handled is not None
        assert one.version == other.version == handled.version == await commits(store), f"seed {seed}"
        assert one.total == other.total
        outcomes.add(handled.version)
    assert outcomes == {1, 2}


async def test_a_retry_asks_for_what_the_first_attempt_asked_for() -> None:
    store, faults = InMemoryStore(), Faults({1: Fault(Kind.LATE, lands_after=None)})
    service = EventsService(FaultyStore(store, faults).events(Counter))
    counter = counter_with("a", id=ID)
    with pytest.raises(AppendOutcomeUnknownError) as caught:
        await service.persist(counter, command_id="open-1", request=Open(name="a"))
    with pytest.raises(CommandReusedError):
        await service.persist(counter, command_id="open-1", request=Open(name="b"))
    twin = counter_with("b", id=ID)
    await EventsService(store.events(Counter)).persist(twin, command_id="open-1", request=Open(name="b"))
    with pytest.raises(CommandReusedError):
        await caught.value.retry()
    assert (await service.rehydrate(ID)).notes == ["b"]


async def test_a_command_is_told_from_another_of_the_same_id(store: Store) -> None:
    service = await service_with(store)
    first = await service.update(ID, spend(10), command_id="pay-1", request=Open(name="a"))
    again = await service.update(ID, spend(10), command_id="pay-1", request=Open.parse('{"name": "a"}'))
    assert (again.version, again.total) == (first.version, first.total)
    with pytest.raises(CommandReusedError, match="choose a new one") as caught:
        await service.update(ID, spend(10), command_id="pay-1", request=Open(name="payload-marker"))
    assert "payload-marker" not in str(caught.value)
    problem = problem_details(caught.value)
    assert (problem["status"], problem["type"]) == (422, "urn:esazure:problem:command-reused")
