"""What every `CommitStore` promises about what a commit follows: the history its writer has seen, in the same store.

Rows can get lost (a table is created again, a failover loses the last seconds) while somebody still holds an aggregate
that was made of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from esazure.errors import ConcurrencyError, StoreMismatchError
from esazure.events import Commit
from esazure.keys import stream_name
from esazure.memory import InMemoryStore
from esazure.ports import IEventsRepository
from esazure.repository import CommitStore
from esazure.testing._binding import StoreBinding
from esazure.testing._counter import Counter, commit_of, counter_with, fresh_id


@pytest.mark.asyncio
class HistoryPromises(StoreBinding):
    """A binding gives `store`; `remove` lets rows get lost."""

    async def test_a_commit_after_a_gap_is_refused(self, store: CommitStore) -> None:
        stream = stream_name("Counter", fresh_id())
        for after in ("", "an id that never was"):
            with pytest.raises(ConcurrencyError) as caught:
                await store.insert(replace(commit_of(stream, 3, "c"), after=after), outbox=True)
            assert (caught.value.expected, caught.value.actual) == (2, 0)
        await store.insert(commit_of(stream, 1, "a"), outbox=False)
        with pytest.raises(ConcurrencyError) as caught:
            await store.insert(commit_of(stream, 3, "c"), outbox=True)
        assert (caught.value.expected, caught.value.actual) == (2, 1)
        assert [record.first_version for record in await store.read(stream)] == [1]
        assert list(await store.unpublished(stream, before_version=9)) == []

    async def test_a_copy_whose_whole_stream_is_gone_is_refused(self, store: CommitStore) -> None:
        counters = store.events(Counter)
        counter, commits = await _counter_of_two_commits(counters)
        for commit in reversed(commits):
            await self.remove(store, commit.record)
        await _is_refused(store, counters, counter, actual=0)

    async def test_a_copy_whose_last_commit_is_gone_is_refused(self, store: CommitStore) -> None:
        counters = store.events(Counter)
        stored, commits = await _counter_of_two_commits(counters)
        loaded = await counters.rehydrate(stored.id)
        await self.remove(store, commits[-1].record)
        for counter in (stored, loaded):
            await _is_refused(store, counters, counter, actual=1)

    async def test_a_copy_whose_last_commit_was_replaced_by_another_is_refused(self, store: CommitStore) -> None:
        counters = store.events(Counter, outbox=False)
        stored, commits = await _counter_of_two_commits(counters)
        loaded = await counters.rehydrate(stored.id)
        await self.remove(store, commits[-1].record)
        other = await counters.rehydrate(stored.id)
        other.note("other")
        await counters.append(other)
        for counter in (stored, loaded):
            await _is_refused(store, counters, counter, actual=2)

        again = await counters.rehydrate(stored.id)
        again.note("c")
        await counters.append(again)
        assert (await counters.rehydrate(stored.id)).notes == ["a", "other", "c"]

    async def test_what_follows_the_commit_that_was_seen_is_stored(self, store: CommitStore) -> None:
        counters = store.events(Counter)
        counter, _ = await _counter_of_two_commits(counters)
        for note in "cde":
            counter.note(note)
            await counters.append(counter)
            counter = await counters.rehydrate(counter.id) if note == "d" else counter
        assert (await counters.rehydrate(counter.id)).notes == list("abcde")

    @pytest.mark.parametrize("how", ["loaded", "persisted"])
    async def test_an_aggregate_of_another_store_is_refused(self, store: CommitStore, how: str) -> None:
        here, there = store.events(Counter), InMemoryStore().events(Counter)
        for home, other in ((here, there), (there, here)):
            counter = counter_with("a")
            await home.append(counter)
            if how == "loaded":
                counter = await home.rehydrate(counter.id)
            counter.note("b")
            with pytest.raises(StoreMismatchError, match="belongs to the store"):
                await other.append(counter)
            assert len(counter.pending) == 1
            await home.append(counter)
            assert (await home.rehydrate(counter.id)).notes == ["a", "b"]

    async def test_an_aggregate_that_no_store_has_taken_belongs_to_none(self, store: CommitStore) -> None:
        here, there = store.events(Counter), InMemoryStore().events(Counter)
        first = counter_with("a")
        await here.append(first)
        rival = Counter(first.id)
        rival.note("b")
        with pytest.raises(ConcurrencyError):
            await here.append(rival)
        await there.append(rival)
        assert (await there.rehydrate(rival.id)).notes == ["b"]


async def _counter_of_two_commits(counters: IEventsRepository[Counter, str]) -> tuple[Counter, list[Commit[Any]]]:
    counter = counter_with("a")
    commits = [await counters.append(counter)]
    counter.note("b")
    commits.append(await counters.append(counter))
    return counter, [commit for commit in commits if commit is not None]


async def _is_refused(
    store: CommitStore, counters: IEventsRepository[Counter, str], counter: Counter, *, actual: int
) -> None:
    counter.note("late")
    before = list(await store.read(stream_name("Counter", counter.id)))
    with pytest.raises(ConcurrencyError) as caught:
        await counters.append(counter)
    assert (caught.value.expected, caught.value.actual) == (2, actual)
    assert len(counter.pending) == 1
    assert list(await store.read(stream_name("Counter", counter.id))) == before
