"""What every `IEventsRepository` promises about streams: appending, conflicts, loading.

Read `_content_suite.py` next: what ids and payloads have to survive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol
from uuid import UUID, uuid4

import pytest
from typing_extensions import TypeVar

from esazure.aggregate import AggregateRoot, TId, stream_of
from esazure.errors import (
    AggregateNotFoundError,
    ConcurrencyError,
    CorruptStreamError,
    ReadOnlyAggregateError,
    UnknownEventTypeError,
    UnusableAggregateError,
)
from esazure.events import Commit
from esazure.ports import IEventsRepository
from esazure.service import EventsService
from esazure.testing._counter import (
    Counter,
    DifferentCounter,
    Gauge,
    Incremented,
    LaterCounter,
    NotedDifferently,
    Renamed,
    counter_with,
    fresh_id,
    fresh_type,
)

A = TypeVar("A", bound=AggregateRoot[Any, Any])


class MakesRepositories(Protocol):
    """What the `events` fixture is: a function from an aggregate class to its repository, all in one store."""

    def __call__(self, aggregate_class: Callable[[TId], A]) -> IEventsRepository[A, TId]: ...


@pytest.mark.asyncio
class StreamPromises:
    """Appending, conflicts and loading."""

    @pytest.fixture
    def events(self) -> MakesRepositories:
        """The binding's: `lambda aggregate_class: MyRepository(aggregate_class, ...)`."""
        raise NotImplementedError("a binding overrides the fixture `events`, or `store`")

    @pytest.fixture
    def counters(self, events: MakesRepositories) -> IEventsRepository[Counter, str]:
        """The repository most tests use."""
        return events(Counter)

    async def test_what_was_appended_is_loaded_again(self, counters: IEventsRepository[Counter, str]) -> None:
        counter = counter_with("first", "na\u00efve \u2603")
        counter.increment(3)
        counter.keep({"a": [1, None]})
        counter.empty()

        commit = await counters.append(counter)

        assert commit is not None
        assert commit.recorded == (*counter_with("first", "na\u00efve \u2603").pending, *commit.recorded[2:])
        assert [envelope.version for envelope in commit.events] == [1, 2, 3, 4, 5]
        assert (counter.pending, counter.version) == ((), 5)
        again = await counters.rehydrate(counter.id)
        assert (again.notes, again.total, again.kept, again.emptied) == (
            ["first", "na\u00efve \u2603"],
            3,
            [{"a": [1, None]}],
            1,
        )
        assert (again.id, again.version, again.pending) == (counter.id, 5, ())

    async def test_appends_to_one_copy_accumulate(self, counters: IEventsRepository[Counter, str]) -> None:
        counter = counter_with("a", "b")
        await counters.append(counter)
        counter.note("c")
        await counters.append(counter)
        counter.note("d", "e", "f")
        commit = await counters.append(counter)

        assert commit is not None
        assert (commit.first_version, commit.last_version) == (4, 6)
        assert (await counters.rehydrate(counter.id)).notes == list("abcdef")

    async def test_order_holds_past_ten_and_past_a_hundred_commits(
        self, counters: IEventsRepository[Counter, str]
    ) -> None:
        counter = Counter(fresh_id())
        for number in range(120):
            counter.note(str(number))
            await counters.append(counter)

        again = await counters.rehydrate(counter.id)

        assert again.notes == [str(number) for number in range(120)]
        assert again.version == 120

    async def test_order_holds_past_a_hundred_events_in_a_commit(
        self, counters: IEventsRepository[Counter, str]
    ) -> None:
        counter = counter_with(*map(str, range(120)))
        await counters.append(counter)
        assert (await counters.rehydrate(counter.id)).notes == [str(number) for number in range(120)]

    async def test_with_nothing_pending_nothing_is_stored(self, counters: IEventsRepository[Counter, str]) -> None:
        counter = Counter(fresh_id())
        assert await counters.append(counter) is None
        with pytest.raises(AggregateNotFoundError):
            await counters.rehydrate(counter.id)

        counter.note("once")
        await counters.append(counter)
        assert await counters.append(counter) is None
        assert (await counters.rehydrate(counter.id)).version == 1

    async def test_an_unknown_id_is_not_found(self, counters: IEventsRepository[Counter, str]) -> None:
        with pytest.raises(AggregateNotFoundError):
            await counters.rehydrate(fresh_id())

    async def test_creating_the_same_id_twice_conflicts(self, counters: IEventsRepository[Counter, str]) -> None:
        first = counter_with("first")
        second = counter_with("second", id=first.id)
        await counters.append(first)

        with pytest.raises(ConcurrencyError):
            await counters.append(second)

        assert (await counters.rehydrate(first.id)).notes == ["first"]

    async def test_a_conflicting_append_stores_nothing_and_keeps_what_was_pending(
        self, counters: IEventsRepository[Counter, str]
    ) -> None:
        counter = counter_with("created")
        await counters.append(counter)
        theirs = await counters.rehydrate(counter.id)
        mine = await counters.rehydrate(counter.id)
        theirs.note("theirs")
        await counters.append(theirs)
        mine.note("mine", "mine too")

        with pytest.raises(ConcurrencyError) as caught:
            await counters.append(mine)

        assert (caught.value.stream, caught.value.expected) == (stream_of(mine), 1)
        assert caught.value.actual in (2, None)
        assert (len(mine.pending), mine.version) == (2, 3)
        assert (await counters.rehydrate(counter.id)).notes == ["created", "theirs"]

    async def test_a_copy_that_conflicted_once_never_gets_in(self, counters: IEventsRepository[Counter, str]) -> None:
        first = counter_with("first")
        stale = counter_with("stale", id=first.id)
        await counters.append(first)
        for _ in range(3):
            with pytest.raises(ConcurrencyError):
                await counters.append(stale)
        assert (await counters.rehydrate(first.id)).notes == ["first"]

    async def test_of_eight_concurrent_writers_exactly_one_wins_each_version(
        self, counters: IEventsRepository[Counter, str]
    ) -> None:
        contested = fresh_id()
        winners: list[str] = []
        for turn in range(6):
            racers = (
                [await counters.rehydrate(contested) for _ in range(8)]
                if turn
                else [Counter(contested) for _ in range(8)]
            )
            for number, racer in enumerate(racers):
                racer.note(f"{turn}/{number}")
            outcomes = await asyncio.gather(*[counters.append(racer) for racer in racers], return_exceptions=True)
            for outcome, racer in zip(outcomes, racers, strict=True):
                if isinstance(outcome, Commit):
                    winners.append(racer.notes[-1])
                    assert racer.pending == ()
                else:
                    assert isinstance(outcome, ConcurrencyError)
                    assert len(racer.pending) == 1
            assert len(winners) == turn + 1

        again = await counters.rehydrate(contested)
        assert (again.notes, again.version) == (winners, 6)

    async def test_update_under_contention_loses_and_doubles_nothing(
        self, counters: IEventsRepository[Counter, str]
    ) -> None:
        service = EventsService(counters)
        counter = counter_with("created")
        await service.persist(counter)

        async def write(writer: int) -> None:
            for number in range(4):
                await service.update(counter.id, lambda it: it.note(f"{writer}/{number}"))  # noqa: B023 - called at once

        await asyncio.gather(*[write(writer) for writer in range(8)])

        again = await service.rehydrate(counter.id)
        assert again.version == 33
        assert sorted(again.notes[1:]) == sorted(f"{writer}/{number}" for writer in range(8) for number in range(4))
        for writer in range(8):
            mine = [note for note in again.notes if note.startswith(f"{writer}/")]
            assert mine == sorted(mine), "one writer's events are in the order in which it wrote them"

    async def test_two_types_with_the_same_id_are_two_streams(self, events: MakesRepositories) -> None:
        one, another = fresh_type(), fresh_type()
        ones: IEventsRepository[Counter, str] = events(one)
        others: IEventsRepository[Counter, str] = events(another)
        for aggregate_class, repository, note in ((one, ones, "one"), (another, others, "another")):
            counter = aggregate_class("the same id")
            counter.note(note)
            await repository.append(counter)
        assert (await ones.rehydrate("the same id")).notes == ["one"]
        assert (await others.rehydrate("the same id")).notes == ["another"]

    async def test_uuid_ids_come_back_as_uuids(self, events: MakesRepositories) -> None:
        gauge = Gauge(uuid4())
        gauge.record(Incremented(by=7))
        await events(Gauge).append(gauge)
        again = await events(Gauge).rehydrate(UUID(str(gauge.id)))
        assert (again.id, again.total) == (gauge.id, 7)

    async def test_changing_a_loaded_aggregate_does_not_change_the_store(
        self, counters: IEventsRepository[Counter, str]
    ) -> None:
        counter = counter_with("stored")
        counter.keep({"list": [1]})
        await counters.append(counter)
        counter.kept[0]["list"].append(2)

        loaded = await counters.rehydrate(counter.id)
        loaded.kept[0]["list"].append(3)
        loaded.notes.append("only in memory")
        loaded.note("pending")

        again = await counters.rehydrate(counter.id)
        assert again is not loaded
        assert (again.notes, again.kept, again.version) == (["stored"], [{"list": [1]}], 2)

    async def test_each_version_of_a_stream_can_be_looked_at(self, counters: IEventsRepository[Counter, str]) -> None:
        counter = Counter(fresh_id())
        for notes in ("a", "bcd", "e", "fg"):  # versions 1, 2-4, 5, 6-7: some end inside a commit
            counter.note(*notes)
            await counters.append(counter)
        for version in range(1, 8):
            then = await counters.rehydrate(counter.id, version=version)
            assert (then.notes, then.version) == (list("abcdefg"[:version]), version)

    @pytest.mark.parametrize("version", [1, 2, 3])
    async def test_a_copy_as_of_a_version_is_never_persisted(
        self, counters: IEventsRepository[Counter, str], version: int
    ) -> None:
        counter = counter_with("a", "b", "c")
        await counters.append(counter)
        then = await counters.rehydrate(counter.id, version=version)
        then.note("from the past")
        with pytest.raises(ReadOnlyAggregateError):
            await counters.append(then)
        assert (await counters.rehydrate(counter.id)).notes == ["a", "b", "c"]

    async def test_a_version_beyond_the_end_is_not_found(self, counters: IEventsRepository[Counter, str]) -> None:
        counter = counter_with("a", "b")
        await counters.append(counter)
        for version in (3, 4, 10**9):
            with pytest.raises(AggregateNotFoundError):
                await counters.rehydrate(counter.id, version=version)
        with pytest.raises(AggregateNotFoundError):
            await counters.rehydrate(fresh_id(), version=1)

    @pytest.mark.parametrize("version", [0, -1])
    async def test_versions_below_one_are_a_mistake_of_the_caller(
        self, counters: IEventsRepository[Counter, str], version: int
    ) -> None:
        counter = counter_with("a")
        await counters.append(counter)
        with pytest.raises(ValueError, match="count from 1"):
            await counters.rehydrate(counter.id, version=version)

    async def test_an_event_name_that_is_not_declared_is_an_error(self, events: MakesRepositories) -> None:
        later = LaterCounter(fresh_id())
        later.record(Incremented(by=1))
        later.record(Renamed(secret="payload-marker"))  # noqa: S106 - not a password
        await events(LaterCounter).append(later)

        with pytest.raises(UnknownEventTypeError) as caught:
            await events(Counter).rehydrate(later.id)

        assert (caught.value.name, caught.value.stream) == ("Renamed", stream_of(later))
        assert "payload-marker" not in str(caught.value)

    async def test_a_payload_its_class_does_not_accept_is_corrupt_and_stays_out_of_the_message(
        self, events: MakesRepositories
    ) -> None:
        different = DifferentCounter(fresh_id())
        different.record(NotedDifferently(text=1, secret="payload-marker"))  # noqa: S106 - not a password
        await events(DifferentCounter).append(different)

        with pytest.raises(CorruptStreamError) as caught:
            await events(Counter).rehydrate(different.id)

        assert stream_of(different) in str(caught.value)
        assert "payload-marker" not in str(caught.value)

    async def test_an_unusable_copy_is_not_persisted(self, events: MakesRepositories) -> None:
        class Fragile(Counter):
            aggregate_type = f"Fragile-{uuid4().hex}"

            def when(self, event: Any) -> None:
                super().when(event)
                if isinstance(event, Incremented):
                    raise ZeroDivisionError

        fragile = Fragile("f")
        fragile.note("fine")
        with pytest.raises(ZeroDivisionError):
            fragile.increment()
        with pytest.raises(UnusableAggregateError):
            await events(Fragile).append(fragile)
        with pytest.raises(AggregateNotFoundError):
            await events(Fragile).rehydrate("f")
