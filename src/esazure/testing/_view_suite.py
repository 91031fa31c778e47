"""What every `ICommitStore` promises about inline views: stored with the commit or not at all, and never out of date.

Read `_scan_suite.py` next.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from pydantic import BaseModel

from esazure.aggregate import stream_of
from esazure.errors import CommandHandledError, CommitTooLargeError, ConcurrencyError
from esazure.keys import MAX_COMMIT_BYTES, MAX_DENSE_COMMIT_BYTES, stream_name
from esazure.ports import ViewRecord
from esazure.repository import CommitStore
from esazure.testing._binding import StoreBinding
from esazure.testing._counter import Counter, commit_of, counter_with, fresh_id
from esazure.testing._hostile import SHAPES, dense, incompressible

_LARGEST: dict[str, Callable[[], str]] = {
    "of three bytes": lambda: "\u20ac" * ((MAX_COMMIT_BYTES - 100) // 3),
    "in ASCII": lambda: incompressible(MAX_COMMIT_BYTES - 100),
    "dense": lambda: dense(MAX_DENSE_COMMIT_BYTES - 100),
}


class Card(BaseModel):
    """A view of a counter."""

    notes: list[str]


def card(counter: Counter) -> Card:
    """What a counter noted."""
    return Card(notes=counter.notes)


def view_of(version: int, text: str = "{}", *, name: str = "card", shape: str = "0123456789abcdef") -> ViewRecord:
    """A view as a repository hands it to a store."""
    return ViewRecord(name, shape, version, text)


@pytest.mark.asyncio
class ViewPromises(StoreBinding):
    """Uses the fixtures `store` and `stream` of `StorePromises`."""

    async def test_a_view_that_was_never_stored_is_none(self, store: CommitStore, stream: str) -> None:
        assert await store.read_view(stream, "card") is None
        await store.insert(commit_of(stream, 1, "a"), outbox=True, views=[view_of(1)])
        assert await store.read_view(stream, "other") is None

    async def test_the_views_of_a_commit_are_stored_with_it(self, store: CommitStore, stream: str) -> None:
        views = [view_of(2, '{"a":1}'), view_of(2, '{"b":2}', name="other", shape="f" * 16)]
        await store.insert(commit_of(stream, 1, "a", "b"), outbox=True, views=views)
        for view in views:
            assert await self._seen(store, stream, view.name) == view

    async def test_the_next_commit_replaces_its_views_and_leaves_the_others(
        self, store: CommitStore, stream: str
    ) -> None:
        both = [view_of(1, '"first"'), view_of(1, '"first"', name="other")]
        await store.insert(commit_of(stream, 1, "a"), outbox=True, views=both)
        await store.insert(commit_of(stream, 2, "b"), outbox=True, views=[view_of(2, '"second"', shape="f" * 16)])
        await store.insert(commit_of(stream, 3, "c"), outbox=True)
        assert await self._seen(store, stream) == view_of(2, '"second"', shape="f" * 16)
        assert await self._seen(store, stream, "other") == both[1]

    async def test_a_conflict_leaves_the_view_alone(self, store: CommitStore, stream: str) -> None:
        await store.insert(commit_of(stream, 1, "a"), outbox=True, views=[view_of(1, '"mine"')])
        before = await store.read_view(stream, "card")
        late = [view_of(2, '"late"'), view_of(2, name="other")]
        with pytest.raises(ConcurrencyError):
            await store.insert(commit_of(stream, 1, "b", "c"), outbox=True, views=late)
        assert await store.read_view(stream, "card") == before
        assert await store.read_view(stream, "other") is None

    async def test_a_command_that_was_handled_leaves_the_view_alone(self, store: CommitStore, stream: str) -> None:
        first = commit_of(stream, 1, "a", command_id="pay-1")
        await store.insert(first, outbox=True, views=[view_of(1, '"first"')])
        before = await store.read_view(stream, "card")
        with pytest.raises(CommandHandledError):
            await store.insert(
                commit_of(stream, 2, "b", command_id="pay-1"), outbox=True, views=[view_of(2, '"again"')]
            )
        assert await store.read_view(stream, "card") == before

    async def test_storing_a_commit_again_does_not_bring_back_its_view(self, store: CommitStore, stream: str) -> None:
        first = commit_of(stream, 1, "a")
        await store.insert(first, outbox=True, views=[view_of(1, '"first"')])
        await store.insert(commit_of(stream, 2, "b"), outbox=True, views=[view_of(2, '"second"')])
        await store.insert(first, outbox=True, views=[view_of(1, '"first"')])
        assert await self._seen(store, stream) == view_of(2, '"second"')

    async def test_of_many_commits_at_once_the_view_is_the_winners(self, store: CommitStore, stream: str) -> None:
        rivals = [commit_of(stream, 1, f"rival {number}") for number in range(8)]
        outcomes = await asyncio.gather(
            *[store.insert(one, outbox=True, views=[view_of(1, json.dumps(one.commit_id))]) for one in rivals],
            return_exceptions=True,
        )
        (winner,) = [rival for rival, outcome in zip(rivals, outcomes, strict=True) if outcome is None]
        assert await self._seen(store, stream) == view_of(1, json.dumps(winner.commit_id))

    async def test_views_of_streams_whose_names_begin_alike_are_kept_apart(self, store: CommitStore) -> None:
        beginning = fresh_id()
        streams = [stream_name("Counter", beginning + end) for end in ("", "-", ".", "_", "0", "card", "/")]
        for stream in streams:
            await store.insert(commit_of(stream, 1, "a"), outbox=True, views=[view_of(1, json.dumps(stream))])
        for stream in streams:
            assert await self._seen(store, stream) == view_of(1, json.dumps(stream))

    async def test_names_that_differ_in_case_are_two_views(self, store: CommitStore, stream: str) -> None:
        views = [view_of(1, '"a"', name=name) for name in ("card", "Card", "car", "card_", "card1")]
        await store.insert(commit_of(stream, 1, "a"), outbox=True, views=views)
        for view in views:
            assert await self._seen(store, stream, view.name) == view

    async def test_a_view_is_no_commit(self, store: CommitStore, stream: str) -> None:
        commit = commit_of(stream, 1, "a")
        await store.insert(commit, outbox=True, views=[view_of(1)])
        assert list(await store.read(stream)) == [commit]
        assert [list(page) async for page in store.load(stream)] == [[commit]]
        assert list(await store.unpublished(stream, before_version=9)) == [commit]

    async def test_a_missing_view_can_be_written_once(self, store: CommitStore, stream: str) -> None:
        await store.insert(commit_of(stream, 1, "a"), outbox=True)
        assert await store.write_view(stream, view_of(1, '"mine"'), seen=None) is True
        assert await store.write_view(stream, view_of(1, '"theirs"'), seen=None) is False
        assert await self._seen(store, stream) == view_of(1, '"mine"')

    async def test_a_view_can_be_replaced_by_who_saw_it(self, store: CommitStore, stream: str) -> None:
        await store.insert(commit_of(stream, 1, "a"), outbox=True, views=[view_of(1, '"old shape"', shape="0" * 16)])
        seen = await store.read_view(stream, "card")
        assert await store.write_view(stream, view_of(1, '"new shape"'), seen=seen) is True
        assert await self._seen(store, stream) == view_of(1, '"new shape"')

    async def test_who_saw_an_older_view_writes_nothing(self, store: CommitStore, stream: str) -> None:
        await store.write_view(stream, view_of(1, '"first"'), seen=None)
        old = await store.read_view(stream, "card")
        await store.write_view(stream, view_of(1, '"second"'), seen=old)
        assert await store.write_view(stream, view_of(1, '"third"'), seen=old) is False
        assert await self._seen(store, stream) == view_of(1, '"second"')

    async def test_each_write_of_a_view_has_another_tag(self, store: CommitStore, stream: str) -> None:
        same, tags = view_of(1, '"the same"'), []
        await store.write_view(stream, same, seen=None)
        for _ in range(4):
            seen = await store.read_view(stream, "card")
            assert seen is not None
            tags.append(seen.tag)
            assert await store.write_view(stream, same, seen=seen)
        assert len(set(tags)) == 4
        assert "" not in tags

    async def test_a_commit_outdates_what_was_seen_before_it(self, store: CommitStore, stream: str) -> None:
        await store.insert(commit_of(stream, 1, "a"), outbox=True, views=[view_of(1, '"the same"')])
        seen = await store.read_view(stream, "card")
        await store.insert(commit_of(stream, 2, "b"), outbox=True, views=[view_of(2, '"the same"')])
        assert await store.write_view(stream, view_of(1, '"late"'), seen=seen) is False
        assert await self._seen(store, stream) == view_of(2, '"the same"')

    @pytest.mark.parametrize("there", [False, True])
    async def test_of_many_who_replace_a_view_at_once_one_does(
        self, store: CommitStore, stream: str, *, there: bool
    ) -> None:
        await store.insert(commit_of(stream, 1, "a"), outbox=True, views=[view_of(1)] if there else [])
        seen = await store.read_view(stream, "card")
        mine = [view_of(1, json.dumps(number)) for number in range(8)]
        done = await asyncio.gather(*[store.write_view(stream, view, seen=seen) for view in mine])
        assert sorted(done) == [False] * 7 + [True]
        assert await self._seen(store, stream) == mine[done.index(True)]

    @pytest.mark.parametrize("there", [False, True])
    async def test_a_view_that_was_computed_before_a_commit_never_replaces_the_commits(
        self, store: CommitStore, stream: str, *, there: bool
    ) -> None:
        await store.insert(commit_of(stream, 1, "a"), outbox=True, views=[view_of(1)] if there else [])
        for version in range(2, 17):
            name = "card" if there else f"card{version}"
            seen = await store.read_view(stream, name)
            commit, view = commit_of(stream, version, "b"), view_of(version, '"the commit\'s"', name=name)
            insert = store.insert(commit, outbox=True, views=[view])
            write = store.write_view(stream, view_of(version - 1, '"late"', name=name), seen=seen)
            await asyncio.gather(*((insert, write) if version % 2 else (write, insert)))
            assert await self._seen(store, stream, name) == view

    async def test_a_view_of_every_shape_of_json_comes_back_as_it_went(self, store: CommitStore, stream: str) -> None:
        texts = [json.dumps(shape, ensure_ascii=ascii_only) for shape in SHAPES for ascii_only in (True, False)]
        for version, text in enumerate(texts, start=1):
            await store.insert(commit_of(stream, version, "a"), outbox=False, views=[view_of(version, text)])
            assert await self._seen(store, stream) == view_of(version, text)

    @pytest.mark.parametrize("kind", _LARGEST)
    async def test_a_view_just_below_the_limit_is_stored(self, store: CommitStore, stream: str, kind: str) -> None:
        name, text = "of_twenty_characters", _LARGEST[kind]()
        await store.insert(commit_of(stream, 1, "a"), outbox=True, views=[view_of(1, text, name=name)])
        seen = await store.read_view(stream, name)
        assert await self._seen(store, stream, name) == view_of(1, text, name=name)
        assert await store.write_view(stream, view_of(2, text, name=name), seen=seen)
        assert await self._seen(store, stream, name) == view_of(2, text, name=name)

    async def test_a_commit_and_its_views_are_over_the_limit_together(self, store: CommitStore) -> None:
        repository = store.events(Counter, views=[card])
        counter = counter_with("small")
        await repository.append(counter)
        counter.note(incompressible(MAX_COMMIT_BYTES // 2))  # it is in the view, too
        with pytest.raises(CommitTooLargeError):
            await repository.append(counter)
        assert await repository.view(card).get(counter.id) == Card(notes=["small"])

    async def test_a_repositorys_view_is_as_of_the_last_commit(self, store: CommitStore) -> None:
        repository = store.events(Counter, views=[card])
        counter = counter_with("a", "b")
        assert await repository.view(card).get(counter.id) is None
        await repository.append(counter)
        assert await repository.view(card).get(counter.id) == Card(notes=["a", "b"])
        counter.note("c")
        await repository.append(counter)
        assert await repository.view(card).get(counter.id) == Card(notes=["a", "b", "c"])

    async def test_a_stream_that_is_older_than_its_view_gets_it_when_it_is_asked_for(self, store: CommitStore) -> None:
        counter = counter_with("a", "b")
        commit = await store.events(Counter).append(counter)
        assert commit is not None
        repository = store.events(Counter, views=[card])
        assert await repository.view(card).get(counter.id) == Card(notes=["a", "b"])
        kept = await store.read_view(commit.stream, "card")
        assert kept is not None
        assert (kept.version, json.loads(kept.text)) == (2, {"notes": ["a", "b"]})

    async def test_a_view_comes_with_the_version_of_its_stream(self, store: CommitStore, stream: str) -> None:
        await store.write_view(stream, view_of(7), seen=None)
        assert await self._latest(store, stream) == (7, 0), "there is no commit yet"
        await store.insert(commit_of(stream, 1, "a", "b"), outbox=True, views=[view_of(2)])
        assert await self._latest(store, stream) == (2, 2)
        await store.insert(commit_of(stream, 3, "c", "d"), outbox=True)
        assert await self._latest(store, stream) == (2, 4)
        await store.insert(commit_of(stream, 5, "e", "f"), outbox=True, views=[view_of(6, name="other")])
        assert await self._latest(store, stream) == (2, 6)
        assert await self._latest(store, stream, "other") == (6, 6)

    @pytest.mark.parametrize("kind", _LARGEST)
    async def test_so_does_the_largest_one_beside_others(self, store: CommitStore, stream: str, kind: str) -> None:
        view = view_of(1, _LARGEST[kind]())
        await store.insert(commit_of(stream, 1, "a"), outbox=True, views=[view])
        others = [view_of(3, name=name) for name in ("before", "card0", "last")]
        await store.insert(commit_of(stream, 2, "b", "c"), outbox=True, views=others)
        assert await self._latest(store, stream) == (1, 3)
        assert await self._seen(store, stream) == view

    async def test_a_view_is_not_behind_when_a_process_without_it_stored_the_last_commit(
        self, store: CommitStore
    ) -> None:
        older, newer = store.events(Counter), store.events(Counter, views=[card])
        counter = counter_with("a")
        await newer.append(counter)
        counter.note("b")
        await older.append(counter)
        assert await newer.view(card).get(counter.id) == Card(notes=["a", "b"])
        kept = await store.read_view(stream_of(counter), "card")
        assert kept is not None
        assert kept.version == kept.latest == 2, "it was computed, and kept"
        counter.note("c")
        await newer.append(counter)
        assert await newer.view(card).get(counter.id) == Card(notes=["a", "b", "c"])

    async def test_whoever_opens_the_store_sees_the_view(self, store: CommitStore, stream: str) -> None:
        await store.insert(commit_of(stream, 1, "a"), outbox=True, views=[view_of(1, '"first"')])
        seen = await store.read_view(stream, "card")
        async with self.another(store) as again:
            assert await again.read_view(stream, "card") == seen
            assert await again.write_view(stream, view_of(1, '"second"'), seen=seen)
        assert await store.write_view(stream, view_of(1, '"third"'), seen=seen) is False

    async def _latest(self, store: CommitStore, stream: str, name: str = "card") -> tuple[int, int]:
        """The version that a view shows, and that of its stream."""
        view = await store.read_view(stream, name)
        assert view is not None
        return view.version, view.latest

    async def _seen(self, store: CommitStore, stream: str, name: str = "card") -> ViewRecord | None:
        """The view as it is stored, but for what its tag and the stream are now."""
        view = await store.read_view(stream, name)
        return None if view is None else replace(view, tag="", latest=0)
