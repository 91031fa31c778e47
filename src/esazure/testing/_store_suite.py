"""What every `ICommitStore` promises beneath the repository: text in, the same text out, one winner for each slot."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from esazure.errors import ConcurrencyError, CorruptStreamError, UnknownEventTypeError
from esazure.keys import stream_name
from esazure.repository import CommitStore
from esazure.testing._binding import StoreBinding
from esazure.testing._counter import Counter, commit_of, counter_with, fresh_id, record_of
from esazure.testing._repository_suite import MakesRepositories


@pytest.mark.asyncio
class StorePromises(StoreBinding):
    """A binding gives `store`; the rest follows, and `overwrite` and `remove` let damage be tested."""

    @pytest.fixture
    def store(self) -> CommitStore:
        """The binding's. It may be shared between tests: they use ids of their own."""
        raise NotImplementedError("a binding overrides the fixture `store`")

    @pytest.fixture
    def events(self, store: CommitStore) -> MakesRepositories:
        """Repositories over `store`."""
        return store.events

    @pytest.fixture
    def stream(self) -> str:
        """A stream nobody has used."""
        return stream_name("Counter", fresh_id())

    async def test_a_commit_is_read_as_it_was_inserted(self, store: CommitStore, stream: str) -> None:
        first = commit_of(stream, 1, "a", "\u2028 \U0001f600 \x00", metadata='{"user":"ada \U0001f600"}')
        second = commit_of(stream, 3, "c")
        await store.insert(first, outbox=True)
        await store.insert(second, outbox=False)
        assert list(await store.read(stream)) == [first, second]

    async def test_an_unknown_stream_is_empty(self, store: CommitStore, stream: str) -> None:
        assert list(await store.read(stream)) == []
        assert list(await store.read(stream, to_version=5)) == []
        assert list(await store.read(stream, from_version=5)) == []
        assert list(await store.unpublished(stream, before_version=5)) == []

    async def test_reading_to_a_version_gives_the_commits_that_begin_by_then(
        self, store: CommitStore, stream: str
    ) -> None:
        commits = [commit_of(stream, 1, "a"), commit_of(stream, 2, "b", "c", "d"), commit_of(stream, 5, "e")]
        await self.fill(store, commits)
        for to_version, count in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 3), (6, 3)):
            assert list(await store.read(stream, to_version=to_version)) == commits[:count]

    async def test_reading_from_a_version_gives_the_commits_that_end_there_or_later(
        self, store: CommitStore, stream: str
    ) -> None:
        commits = [commit_of(stream, 1, "a"), commit_of(stream, 2, "b", "c", "d"), commit_of(stream, 5, "e")]
        await self.fill(store, commits)
        for from_version, gone in ((-1, 0), (0, 0), (1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (6, 3), (10**9, 3)):
            assert list(await store.read(stream, from_version=from_version)) == commits[gone:]

    async def test_reading_between_versions_gives_the_commits_that_touch_them(
        self, store: CommitStore, stream: str
    ) -> None:
        counts = (1, 3, 1, 2, 12, 1)
        commits = [commit_of(stream, 1 + sum(counts[:i]), *["x"] * count) for i, count in enumerate(counts)]
        await self.fill(store, commits)
        for first in range(1, 22):
            for last in range(first, 22):
                expected = [each for each in commits if each.last_version >= first and each.first_version <= last]
                assert list(await store.read(stream, from_version=first, to_version=last)) == expected

    async def test_inserting_the_same_commit_again_is_one_commit(self, store: CommitStore, stream: str) -> None:
        commit = commit_of(stream, 1, "a", "b")
        await store.insert(commit, outbox=True)
        await store.insert(commit, outbox=True)
        assert list(await store.read(stream)) == [commit]
        assert list(await store.unpublished(stream, before_version=9)) == [commit]

    async def test_inserting_the_same_commit_concurrently_is_one_commit(self, store: CommitStore, stream: str) -> None:
        commit = commit_of(stream, 1, "a")
        await asyncio.gather(*[store.insert(commit, outbox=True) for _ in range(6)])
        assert list(await store.read(stream)) == [commit]

    async def test_a_commit_is_recognised_as_stored_after_later_commits_too(
        self, store: CommitStore, stream: str
    ) -> None:
        commits = [commit_of(stream, 1, "a"), commit_of(stream, 2, "b", "c"), commit_of(stream, 4, "d")]
        await self.fill(store, commits)
        for commit in commits:
            await store.insert(commit, outbox=False)
        assert list(await store.read(stream)) == commits

    async def test_inserting_a_published_commit_again_does_not_publish_it_again(
        self, store: CommitStore, stream: str
    ) -> None:
        commit = commit_of(stream, 1, "a")
        await store.insert(commit, outbox=True)
        await store.mark_published(commit)
        await store.insert(commit, outbox=True)
        assert list(await store.unpublished(stream, before_version=9)) == []

    async def test_another_commit_in_the_same_place_is_a_conflict(self, store: CommitStore, stream: str) -> None:
        mine = commit_of(stream, 1, "same text")
        theirs = replace(mine, commit_id=commit_of(stream, 1, "x").commit_id)
        await store.insert(theirs, outbox=False)
        with pytest.raises(ConcurrencyError) as caught:
            await store.insert(mine, outbox=True)
        assert (caught.value.stream, caught.value.expected) == (stream, 0)
        assert list(await store.read(stream)) == [theirs]
        assert list(await store.unpublished(stream, before_version=9)) == [], "a refused commit leaves no outbox row"

    async def test_a_conflict_leaves_the_winners_outbox_row(self, store: CommitStore, stream: str) -> None:
        winner = commit_of(stream, 1, "winner")
        await store.insert(winner, outbox=True)
        with pytest.raises(ConcurrencyError):
            await store.insert(commit_of(stream, 1, "loser", "loser"), outbox=True)
        assert list(await store.unpublished(stream, before_version=9)) == [winner]

    async def test_of_many_commits_for_one_place_one_is_stored(self, store: CommitStore, stream: str) -> None:
        rivals = [commit_of(stream, 1, *["x"] * number) for number in range(1, 9)]
        outcomes = await asyncio.gather(*[store.insert(one, outbox=True) for one in rivals], return_exceptions=True)
        winners = [rival for rival, outcome in zip(rivals, outcomes, strict=True) if outcome is None]
        assert len(winners) == 1
        assert all(isinstance(outcome, ConcurrencyError) for outcome in outcomes if outcome is not None)
        assert list(await store.read(stream)) == winners
        assert list(await store.unpublished(stream, before_version=99)) == winners

    async def test_a_sequence_that_was_read_belongs_to_the_reader(self, store: CommitStore, stream: str) -> None:
        commit = commit_of(stream, 1, "a")
        await store.insert(commit, outbox=True)
        for taken in (await store.read(stream), await store.unpublished(stream, before_version=9)):
            if isinstance(taken, list):
                taken.clear()
        assert list(await store.read(stream)) == [commit]
        assert list(await store.unpublished(stream, before_version=9)) == [commit]

    async def test_the_outbox_is_ascending_and_ends_before_the_version(self, store: CommitStore, stream: str) -> None:
        commits = [commit_of(stream, version, str(version)) for version in range(1, 13)]
        for commit in commits:
            await store.insert(commit, outbox=True)
        assert list(await store.unpublished(stream, before_version=99)) == commits
        for version in (1, 2, 9, 10, 11, 12):
            assert list(await store.unpublished(stream, before_version=version)) == commits[: version - 1]

    async def test_marking_published_takes_away_one_commit_however_often(self, store: CommitStore, stream: str) -> None:
        commits = [commit_of(stream, version, str(version)) for version in (1, 2, 3)]
        for commit in commits:
            await store.insert(commit, outbox=True)
        await store.mark_published(commits[1])
        await store.mark_published(commits[1])
        assert list(await store.unpublished(stream, before_version=9)) == [commits[0], commits[2]]
        assert list(await store.read(stream)) == commits

    async def test_without_outbox_a_commit_leaves_no_outbox_row(self, store: CommitStore, stream: str) -> None:
        commit = commit_of(stream, 1, "a")
        await store.insert(commit, outbox=False)
        assert list(await store.unpublished(stream, before_version=9)) == []
        await store.mark_published(commit)
        assert list(await store.read(stream)) == [commit]

    async def test_a_repository_without_outbox_leaves_no_outbox_row(self, store: CommitStore) -> None:
        repository = store.events(Counter, outbox=False)
        assert repository.outbox is None
        commit = await repository.append(counter_with("a"))
        assert commit is not None
        assert list(await store.unpublished(commit.stream, before_version=9)) == []

    async def test_streams_whose_names_begin_alike_are_kept_apart(self, store: CommitStore) -> None:
        beginning = fresh_id()
        streams = [stream_name("Counter", beginning + end) for end in ("", "-", ".", "_", "0", "a", "/")]
        commits = [commit_of(stream, 1, stream) for stream in streams]
        for commit in commits:
            await store.insert(commit, outbox=True)
        await store.mark_published(commits[1])
        for number, (stream, commit) in enumerate(zip(streams, commits, strict=True)):
            assert list(await store.read(stream)) == [commit]
            assert list(await store.unpublished(stream, before_version=9)) == ([] if number == 1 else [commit])

    async def test_a_stream_of_three_thousand_commits_is_read_whole_and_in_order(
        self, store: CommitStore, stream: str
    ) -> None:
        commits = [commit_of(stream, version, str(version)) for version in range(1, 3_001)]
        await self.fill(store, commits)
        assert list(await store.read(stream)) == commits
        assert list(await store.read(stream, to_version=1_500)) == commits[:1_500]
        assert list(await store.read(stream, from_version=1_501)) == commits[1_500:]
        assert list(await store.read(stream, from_version=1_490, to_version=1_500)) == commits[1_489:1_500]

    async def test_the_store_id_stays(self, store: CommitStore) -> None:
        before = store.store_id
        commit = await store.events(Counter).append(counter_with("a"))
        assert isinstance(before, UUID)
        assert commit is not None
        assert store.store_id == before == commit.store_id

    @pytest.mark.parametrize("removed", [0, 1])
    async def test_a_gap_is_an_error_and_never_loaded_over(self, store: CommitStore, stream: str, removed: int) -> None:
        commits = [commit_of(stream, 1, "a"), commit_of(stream, 2, "b", "c"), commit_of(stream, 4, "d")]
        await self.fill(store, commits)
        await self.remove(store, commits[removed])
        with pytest.raises(CorruptStreamError):
            await self._load(store, stream)

    @pytest.mark.parametrize("count", [1, 3])
    async def test_a_commit_of_more_or_fewer_events_than_it_says_is_an_error(
        self, store: CommitStore, stream: str, count: int
    ) -> None:
        commit = commit_of(stream, 1, "a", "b")
        await store.insert(commit, outbox=False)
        await self.overwrite(store, replace(commit, count=count))
        with pytest.raises(CorruptStreamError):
            await self._load(store, stream)

    @pytest.mark.parametrize(
        "line",
        [
            'Noted {"text":"payload-marker',
            'Noted {"text":"payload-marker"} trailing',
            'Noted {"text":["payload-marker"]}',
            'Noted {"text":"a","payload-marker":1}',
            'Noted "payload-marker"',
            "Noted ",
            "Noted",
            "",
            '{"text":"payload-marker"}',
            'Noted{"text":"payload-marker"}',
            f'Kept {{"value":{"[" * 5_000}"payload-marker"{"]" * 5_000}}}',
            f'Incremented {{"by":{"9" * 5_000}}}',
            'Incremented {"by":NaN}',
        ],
    )
    async def test_a_damaged_payload_is_an_error_that_does_not_quote_it(
        self, store: CommitStore, stream: str, line: str
    ) -> None:
        commit = commit_of(stream, 1, "fine")
        await store.insert(commit, outbox=False)
        await self.overwrite(store, replace(commit, payload=line))
        with pytest.raises(CorruptStreamError) as caught:
            await self._load(store, stream)
        assert stream in str(caught.value)
        assert "payload-marker" not in str(caught.value)

    @pytest.mark.parametrize("name", ["os:system", "builtins.eval", "Deleted", "noted", "N\u00f6ted"])
    async def test_a_stored_name_nobody_declared_is_an_error(self, store: CommitStore, stream: str, name: str) -> None:
        await store.insert(record_of(stream, 1, [f'{name} {{"text":"payload-marker"}}']), outbox=False)
        with pytest.raises(UnknownEventTypeError) as caught:
            await self._load(store, stream)
        assert caught.value.name == name
        assert "payload-marker" not in str(caught.value)

    @pytest.mark.parametrize(
        "damage", [{"metadata": '{"user":"payload-marker'}, {"metadata": '["payload-marker"]'}, {"count": 2}], ids=str
    )
    async def test_damage_is_an_error_for_who_publishes_too(
        self, store: CommitStore, stream: str, damage: dict[str, Any]
    ) -> None:
        commit = commit_of(stream, 1, "fine")
        await store.insert(commit, outbox=True)
        await self.overwrite(store, replace(commit, **damage))
        outbox = store.events(Counter).outbox
        assert outbox is not None
        with pytest.raises(CorruptStreamError) as caught:
            list(await outbox.unpublished(stream, before_version=9))
        assert "payload-marker" not in str(caught.value)

    async def test_a_damaged_stream_harms_no_other(self, store: CommitStore, stream: str) -> None:
        healthy = counter_with("healthy")
        await store.events(Counter).append(healthy)
        damaged = commit_of(stream, 1, "a")
        await store.insert(damaged, outbox=True)
        await self.overwrite(store, replace(damaged, payload="nonsense"))
        assert (await store.events(Counter).rehydrate(healthy.id)).notes == ["healthy"]

    async def _load(self, store: CommitStore, stream: str) -> Counter:
        return await store.events(Counter).rehydrate(stream.partition(".")[2])
