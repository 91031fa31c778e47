"""Appending when the store answers, refuses, or does not answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.unit.doubles import TroubledStore

from esazure import (
    AppendOutcomeUnknownError,
    Commit,
    CommitTooLargeError,
    ConcurrencyError,
    CorruptStreamError,
    StoreError,
    StoreUnavailableError,
    UnknownEventTypeError,
    UnusableAggregateError,
)
from esazure.keys import MAX_VERSION
from esazure.limits import check_limits
from esazure.memory import InMemoryEventsRepository, InMemoryStore
from esazure.repository import decode_metadata
from esazure.testing import ManualClock
from esazure.testing._counter import Counter, Gauge, commit_of, counter_with

LOST = ["lost on the way there", "lost on the way back"]


async def test_commits_are_stamped_by_the_stores_clock() -> None:
    clock = ManualClock(datetime(2024, 2, 29, 12, tzinfo=UTC))
    counters = InMemoryStore(clock=clock).events(Counter)
    counter = counter_with("a")
    first = await counters.append(counter)
    clock.advance(1.5)
    counter.note("b")
    second = await counters.append(counter)
    assert first is not None
    assert second is not None
    assert first.occurred_at == datetime(2024, 2, 29, 12, tzinfo=UTC)
    assert second.record.occurred_at == "2024-02-29T12:00:01.500000+00:00"
    assert second.events[0].occurred_at == second.occurred_at


async def test_another_class_is_not_stored() -> None:
    repository: Any = InMemoryEventsRepository(Gauge)
    with pytest.raises(TypeError, match="stores Gauge, not Counter"):
        await repository.append(counter_with("a"))


async def test_nothing_pending_asks_nobody() -> None:
    store = TroubledStore()
    asked: list[Commit[Any]] = []
    assert await store.events(Counter).append(Counter("c"), before_io=asked.append) is None
    assert (store.calls, asked) == ([], [])


async def test_what_before_io_raises_refuses_the_commit_before_any_request() -> None:
    def refuse(commit: Commit[Any]) -> None:
        raise CommitTooLargeError("too large to publish")

    store = TroubledStore()
    counter = counter_with("a")
    with pytest.raises(CommitTooLargeError, match="too large to publish"):
        await store.events(Counter).append(counter, before_io=refuse)
    assert store.calls == []
    assert len(counter.pending) == 1
    counter.note("still usable")
    await store.events(Counter).append(counter)
    assert counter.version == 2


@pytest.mark.parametrize("lost", LOST)
async def test_without_an_answer_the_error_asks_again_with_the_same_commit(lost: str) -> None:
    store = TroubledStore(lost, "lost on the way there")
    counters = store.events(Counter)
    counter = counter_with("a", "b")

    with pytest.raises(AppendOutcomeUnknownError) as caught:
        await counters.append(counter)
    assert (caught.value.stream, caught.value.expected) == (f"Counter.{counter.id}", 0)
    assert len(counter.pending) == 2

    with pytest.raises(AppendOutcomeUnknownError) as again:
        await caught.value.retry()
    commit = await again.value.retry()

    assert isinstance(commit, Commit)
    assert set(store.inserted) == {caught.value.commit_id} == {commit.commit_id}
    assert len(store.inserted) == 3
    assert counter.pending == ()
    assert [record.commit_id for record in await store.read(commit.stream)] == [commit.commit_id]


@pytest.mark.parametrize("lost", LOST)
async def test_a_copy_in_doubt_records_nothing_and_persists_the_same_commit(lost: str) -> None:
    store = TroubledStore(lost)
    counters = store.events(Counter)
    counter = counter_with("a")
    with pytest.raises(AppendOutcomeUnknownError):
        await counters.append(counter)

    with pytest.raises(UnusableAggregateError, match="persist it again"):
        counter.note("b")
    assert counter.notes == ["a"]

    await counters.append(counter)
    assert len(set(store.inserted)) == 1
    counter.note("b")
    await counters.append(counter)
    assert (await counters.rehydrate(counter.id)).notes == ["a", "b"]


async def test_a_copy_in_doubt_learns_that_another_won() -> None:
    store = TroubledStore("lost on the way there")
    counters = store.events(Counter)
    counter = counter_with("mine")
    with pytest.raises(AppendOutcomeUnknownError) as caught:
        await counters.append(counter)
    await counters.append(counter_with("theirs", id=counter.id))
    with pytest.raises(ConcurrencyError):
        await caught.value.retry()
    assert len(counter.pending) == 1
    counter.note("no longer in doubt, only late")
    with pytest.raises(ConcurrencyError):
        await counters.append(counter)
    assert (await counters.rehydrate(counter.id)).notes == ["theirs"]


@pytest.mark.parametrize("error", [StoreError("no"), StoreUnavailableError("later")])
async def test_a_definite_refusal_keeps_what_is_pending_and_the_copy_usable(error: StoreError) -> None:
    store = TroubledStore(error)
    counters = store.events(Counter)
    counter = counter_with("a")
    with pytest.raises(StoreError) as caught:
        await counters.append(counter)
    assert caught.value is error
    counter.note("b")
    commit = await counters.append(counter)
    assert commit is not None
    assert (commit.first_version, commit.last_version) == (1, 2)
    assert len(set(store.inserted)) == 2, "another content is another commit"


async def test_a_refusal_of_the_second_attempt_leaves_the_first_in_doubt() -> None:
    store = TroubledStore("lost on the way back", StoreError("no"))
    counters = store.events(Counter)
    counter = counter_with("a")
    with pytest.raises(AppendOutcomeUnknownError):
        await counters.append(counter)
    with pytest.raises(AppendOutcomeUnknownError) as caught:
        await counters.append(counter)
    assert isinstance(caught.value.__cause__, StoreError), "nothing was stored now, but perhaps the first time"
    with pytest.raises(UnusableAggregateError):
        counter.note("b")
    await caught.value.retry()
    assert len(set(store.inserted)) == 1


async def test_a_failure_no_store_should_let_out_leaves_the_copy_in_doubt() -> None:
    store = TroubledStore(OSError("reset"))
    counters = store.events(Counter)
    counter = counter_with("a")
    with pytest.raises(OSError, match="reset"):
        await counters.append(counter)
    with pytest.raises(UnusableAggregateError):
        counter.note("b")
    await counters.append(counter)
    assert len(set(store.inserted)) == 1


async def test_cancelling_an_insert_leaves_the_copy_in_doubt_and_loses_nothing() -> None:
    store = TroubledStore()
    counters = store.events(Counter)
    counter = counter_with("a")
    task = asyncio.create_task(counters.append(counter))
    await store.began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert len(counter.pending) == 1
    with pytest.raises(UnusableAggregateError, match="unknown whether its last commit was stored"):
        counter.note("b")
    await counters.append(counter)
    assert len(store.inserted) == 2
    assert len(set(store.inserted)) == 1
    assert (await counters.rehydrate(counter.id)).notes == ["a"]


async def test_recording_while_an_append_is_under_way_is_refused() -> None:
    store = TroubledStore()
    counters = store.events(Counter)
    counter = counter_with("a")
    task = asyncio.create_task(counters.append(counter))
    await asyncio.sleep(0)
    with pytest.raises(UnusableAggregateError, match="another task is persisting this copy"):
        counter.note("b")
    await task
    counter.note("b")
    await counters.append(counter)
    assert (await counters.rehydrate(counter.id)).notes == ["a", "b"]


async def test_persisting_one_copy_twice_at_once_is_refused_and_stores_it_once() -> None:
    store = TroubledStore()
    counters = store.events(Counter)
    counter = counter_with("a")
    outcomes = await asyncio.gather(counters.append(counter), counters.append(counter), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Commit", "UnusableAggregateError"]
    assert counter.pending == ()
    assert (await counters.rehydrate(counter.id)).notes == ["a"]


async def test_an_error_from_elsewhere_has_nothing_to_retry() -> None:
    with pytest.raises(RuntimeError, match="did not come from a repository"):
        await AppendOutcomeUnknownError("s", expected=0, commit_id="c").retry()


def test_a_stream_has_an_end() -> None:
    check_limits(commit_of("s", MAX_VERSION, "a"))
    with pytest.raises(CommitTooLargeError, match="ends at version"):
        check_limits(commit_of("s", MAX_VERSION, "a", "b"))


@pytest.mark.parametrize("text", ["", "[]", "null", '{"a":1}', '{"a":null}', '{"payload-marker"', "[" * 100_000])
def test_damaged_metadata_is_a_corrupt_stream(text: str) -> None:
    with pytest.raises(CorruptStreamError, match="metadata at version 1 is damaged") as caught:
        decode_metadata(replace(commit_of("s", 1, "a"), metadata=text))
    assert "payload-marker" not in str(caught.value)


@pytest.mark.parametrize("time", ["", "payload-marker", "2024-02-30T00:00:00+00:00", "2024-02-29T12:00:00"])
async def test_a_damaged_time_is_a_corrupt_stream_for_who_publishes(time: str) -> None:
    store = InMemoryStore()
    await store.insert(replace(commit_of("Counter.a", 1, "a"), occurred_at=time), outbox=True)
    outbox = store.events(Counter).outbox
    assert outbox is not None
    with pytest.raises(CorruptStreamError, match="time at version 1 is damaged") as caught:
        list(await outbox.unpublished("Counter.a", before_version=9))
    assert "payload-marker" not in str(caught.value)


async def test_a_clock_without_a_zone_is_refused_and_stores_nothing() -> None:
    store = InMemoryStore(clock=lambda: datetime(2024, 2, 29))  # noqa: DTZ001 - the point
    with pytest.raises(ValueError, match="with a zone"):
        await store.events(Counter).append(counter_with("a", id="a"))
    assert list(await store.read("Counter.a")) == []


async def test_an_unusable_copy_is_refused_also_when_nothing_is_pending() -> None:
    class Fragile(Counter):
        def when(self, event: Any) -> None:
            raise ZeroDivisionError

    fragile = Fragile("f")
    with pytest.raises(ZeroDivisionError):
        fragile.note("a")
    with pytest.raises(UnusableAggregateError):
        await InMemoryEventsRepository(Fragile).append(fragile)


async def test_an_init_that_records_is_refused_at_the_first_load() -> None:
    class Eager(Counter):
        def __init__(self, id: str) -> None:
            super().__init__(id)
            self.note("born")

    store = InMemoryStore()
    await store.events(Eager).append(Eager("a"))
    with pytest.raises(TypeError, match=r"Eager\.__init__ must not record"):
        await store.events(Eager).rehydrate("a")


async def test_a_version_no_stream_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no version"):
        await InMemoryStore().events(Counter).rehydrate("a", version=10**20)


async def test_a_commit_that_cannot_be_read_does_not_hold_back_those_before_it() -> None:
    store = InMemoryStore()
    await store.insert(commit_of("Counter.a", 1, "fine"), outbox=True)
    await store.insert(replace(commit_of("Counter.a", 2, "x"), payload="Unheard {}"), outbox=True)
    outbox = store.events(Counter).outbox
    assert outbox is not None
    waiting = iter(await outbox.unpublished("Counter.a", before_version=9))
    assert next(waiting).first_version == 1
    with pytest.raises(UnknownEventTypeError):
        next(waiting)
