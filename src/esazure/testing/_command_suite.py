"""What every repository and every `ICommitStore` promise about command ids: carried out once, or never.

Read `_view_suite.py` next.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from esazure.errors import CommandHandledError, ConcurrencyError, InvalidIdError, UnusableAggregateError
from esazure.events import CommitRecord
from esazure.keys import MAX_COMMAND_ID, MAX_VERSION, stream_name
from esazure.ports import IEventsRepository
from esazure.repository import CommitStore
from esazure.service import EventsService
from esazure.testing._binding import StoreBinding
from esazure.testing._counter import Counter, commit_of, counter_with, fresh_id

_COMMANDS = (
    *("pay", "Pay", "PAY", " pay", "pay ", "pay-1", "pay-10", "pay.1", "pay/1", "pay_1", "p%61y", "0", "1", "-"),
    *("a'b", "' or 1 eq 1", '"', "\\", "\x00", "\n", "\u00e9", "e\u0301", "\U0001f600", "\uffff", "\u2028"),
    *("x" * MAX_COMMAND_ID, "x" * (MAX_COMMAND_ID - 1), "\u20ac" * MAX_COMMAND_ID),
)


@pytest.mark.asyncio
class CommandPromises:
    """What a repository promises; uses the fixture `counters` of `StreamPromises`."""

    async def test_a_command_that_was_carried_out_gives_its_commit_and_stores_nothing(
        self, counters: IEventsRepository[Counter, str]
    ) -> None:
        counter = counter_with("paid", "and noted")
        first = await counters.append(counter, command_id="pay-1")
        again = await counters.rehydrate(counter.id)
        again.note("paid twice")

        assert await counters.append(again, command_id="pay-1") == first

        assert (await counters.rehydrate(counter.id)).notes == ["paid", "and noted"]
        with pytest.raises(UnusableAggregateError):
            await counters.append(again)

    async def test_a_command_is_recognised_by_a_copy_that_is_outdated(
        self, counters: IEventsRepository[Counter, str]
    ) -> None:
        counter = counter_with("opened")
        first = await counters.append(counter, command_id="open-1")
        again = counter_with("opened", id=counter.id)
        assert await counters.append(again, command_id="open-1") == first

    async def test_a_commit_is_found_by_its_command(self, counters: IEventsRepository[Counter, str]) -> None:
        counter = counter_with("a", "b")
        await counters.append(counter)
        assert await counters.find_command(counter.id, "pay-1") is None
        counter.note("c")
        commit = await counters.append(counter, command_id="pay-1")
        assert commit is not None
        assert commit.command_id == "pay-1"
        assert await counters.find_command(counter.id, "pay-1") == commit
        assert await counters.find_command(counter.id, "pay-2") is None
        assert await counters.find_command(fresh_id(), "pay-1") is None

    @pytest.mark.parametrize("command_id", ["", "x" * (MAX_COMMAND_ID + 1), "\ud800"], ids=ascii)
    async def test_what_cannot_be_a_command_id_is_refused_and_changes_nothing(
        self, counters: IEventsRepository[Counter, str], command_id: str
    ) -> None:
        counter = counter_with("a")
        with pytest.raises(InvalidIdError):
            await counters.append(counter, command_id=command_id)
        with pytest.raises(InvalidIdError):
            await counters.find_command(counter.id, command_id)
        assert (len(counter.pending), counter.version) == (1, 1)
        await counters.append(counter)

    async def test_a_command_sent_by_eight_at_once_is_carried_out_once(
        self, counters: IEventsRepository[Counter, str]
    ) -> None:
        service = EventsService(counters)
        counter = counter_with("opened")
        await service.persist(counter)

        answers = await asyncio.gather(
            *[service.update(counter.id, lambda it: it.note("paid"), command_id="pay-1") for _ in range(8)]
        )

        assert [answer.notes for answer in answers] == [["opened", "paid"]] * 8
        assert (await service.rehydrate(counter.id)).notes == ["opened", "paid"]


@pytest.mark.asyncio
class CommandStorePromises(StoreBinding):
    """What a store promises; uses the fixtures `store` and `stream` of `StorePromises`."""

    async def test_a_commit_is_read_with_its_command_id(self, store: CommitStore, stream: str) -> None:
        commits = [
            commit_of(stream, 1, "a", command_id="open-1"),
            commit_of(stream, 2, "b"),
            commit_of(stream, 3, "c", command_id="\x00 \U0001f600 '"),
        ]
        for commit in commits:
            await store.insert(commit, outbox=True)
        assert list(await store.read(stream)) == commits
        assert list(await store.unpublished(stream, before_version=9)) == commits

    async def test_a_command_is_found_where_its_commit_begins(self, store: CommitStore, stream: str) -> None:
        assert await store.find_command(stream, "pay-1") is None
        await store.insert(commit_of(stream, 1, "a", "b"), outbox=True)
        await store.insert(commit_of(stream, 3, "c", "d", command_id="pay-1"), outbox=True)
        await store.insert(commit_of(stream, 5, "e", command_id="pay-2"), outbox=False)
        assert await store.find_command(stream, "pay-1") == 3
        assert await store.find_command(stream, "pay-2") == 5
        assert await store.find_command(stream, "pay-3") is None

    async def test_a_second_commit_of_a_command_is_refused_and_leaves_nothing(
        self, store: CommitStore, stream: str
    ) -> None:
        commits = [commit_of(stream, 1, "a", "b"), commit_of(stream, 3, "c", command_id="pay-1")]
        await self._insert(store, *commits)
        with pytest.raises(CommandHandledError) as caught:
            await store.insert(commit_of(stream, 4, "d", command_id="pay-1"), outbox=True)
        assert (caught.value.stream, caught.value.first_version) == (stream, 3)
        assert list(await store.read(stream)) == commits
        assert list(await store.unpublished(stream, before_version=9)) == []

    @pytest.mark.parametrize("first_version", [1, 2, 3, 9])
    async def test_a_handled_command_comes_before_a_conflict(
        self, store: CommitStore, stream: str, first_version: int
    ) -> None:
        await self._insert(store, commit_of(stream, 1, "a", command_id="pay-1"), commit_of(stream, 2, "b", "c"))
        with pytest.raises(CommandHandledError) as caught:
            await store.insert(commit_of(stream, first_version, "d", command_id="pay-1"), outbox=True)
        assert caught.value.first_version == 1

    async def test_a_command_that_met_a_conflict_was_not_carried_out(self, store: CommitStore, stream: str) -> None:
        await self._insert(store, commit_of(stream, 1, "a", command_id="open-1"))
        with pytest.raises(ConcurrencyError):
            await store.insert(commit_of(stream, 1, "late", command_id="pay-1"), outbox=True)
        assert await store.find_command(stream, "pay-1") is None
        retried = commit_of(stream, 2, "in time", command_id="pay-1")
        await store.insert(retried, outbox=True)
        assert (await store.read(stream))[-1] == retried

    async def test_storing_the_commit_of_a_command_again_succeeds_and_is_one_commit(
        self, store: CommitStore, stream: str
    ) -> None:
        commits = [commit_of(stream, version, str(version), command_id=f"pay-{version}") for version in (1, 2, 3)]
        await self._insert(store, *commits)
        await self._insert(store, *commits)
        assert list(await store.read(stream)) == commits

    async def test_storing_the_commit_of_a_command_concurrently_is_one_commit(
        self, store: CommitStore, stream: str
    ) -> None:
        commit = commit_of(stream, 1, "a", command_id="open-1")
        await asyncio.gather(*[store.insert(commit, outbox=True) for _ in range(6)])
        assert list(await store.read(stream)) == [commit]

    async def test_of_many_commits_of_a_command_at_once_one_is_stored_and_the_others_are_told_where(
        self, store: CommitStore, stream: str
    ) -> None:
        await self._insert(store, commit_of(stream, 1, "a", "b"))
        rivals = [commit_of(stream, 3, *["x"] * number, command_id="pay-1") for number in range(1, 9)]
        outcomes = await asyncio.gather(*[store.insert(one, outbox=True) for one in rivals], return_exceptions=True)
        winners = [rival for rival, outcome in zip(rivals, outcomes, strict=True) if outcome is None]
        assert len(winners) == 1
        told = [outcome for outcome in outcomes if isinstance(outcome, CommandHandledError)]
        assert [error.first_version for error in told] == [3] * 7
        assert list(await store.read(stream, from_version=3)) == winners

    async def test_the_same_command_in_another_stream_is_another_command(self, store: CommitStore) -> None:
        beginning = fresh_id()
        streams = [stream_name("Counter", beginning + end) for end in ("", "-", ".", "_", "0", "/")]
        for stream in streams:
            await self._insert(store, commit_of(stream, 1, "a", command_id="pay-1"))
        assert [await store.find_command(stream, "pay-1") for stream in streams] == [1] * len(streams)

    async def test_every_hostile_command_id_is_a_command_of_its_own(self, store: CommitStore, stream: str) -> None:
        for version, command_id in enumerate(_COMMANDS, start=1):
            await store.insert(commit_of(stream, version, "a", command_id=command_id), outbox=False)
        found = [await store.find_command(stream, command_id) for command_id in _COMMANDS]
        assert found == list(range(1, len(_COMMANDS) + 1))

    async def test_what_is_forbidden_never_gets_in(self, store: CommitStore, stream: str) -> None:
        await self._insert(store, commit_of(stream, 1, "a"))
        assert await store.find_command(stream, "pay-1", forbid=True) is None
        for first_version in (2, 1, 5):  # and comes before a conflict
            with pytest.raises(CommandHandledError) as caught:
                await store.insert(commit_of(stream, first_version, "b", command_id="pay-1"), outbox=True)
            assert (caught.value.stream, caught.value.first_version) == (stream, None)
        assert len(await store.read(stream)) == 1
        assert list(await store.unpublished(stream, before_version=9)) == []
        assert await store.find_command(stream, "pay-1") is None

    async def test_forbidding_again_changes_nothing(self, store: CommitStore, stream: str) -> None:
        for _ in range(3):
            assert await store.find_command(stream, "pay-1", forbid=True) is None
        with pytest.raises(CommandHandledError):
            await store.insert(commit_of(stream, 1, "a", command_id="pay-1"), outbox=True)

    async def test_what_was_carried_out_cannot_be_forbidden_any_more(self, store: CommitStore, stream: str) -> None:
        commits = [commit_of(stream, 1, "a"), commit_of(stream, 2, "b", command_id="pay-1")]
        await self._insert(store, *commits)
        for _ in range(2):
            assert await store.find_command(stream, "pay-1", forbid=True) == 2
        await store.insert(commits[1], outbox=False)  # its sender may still ask whether it is stored
        assert list(await store.read(stream)) == commits
        assert await store.find_command(stream, "pay-1") == 2

    async def test_forbidding_a_command_harms_no_other_command_and_no_other_stream(self, store: CommitStore) -> None:
        beginning = fresh_id()
        mine, other = (stream_name("Counter", beginning + end) for end in ("", "0"))
        await store.find_command(mine, "pay-1", forbid=True)
        for command_id in (None, "pay-", "pay-10", "PAY-1"):
            version = len(await store.read(mine)) + 1
            await store.insert(commit_of(mine, version, "a", command_id=command_id), outbox=True)
        await store.insert(commit_of(other, 1, "a", command_id="pay-1"), outbox=True)
        assert await store.find_command(other, "pay-1") == 1

    async def test_forbidding_is_no_commit(self, store: CommitStore, stream: str) -> None:
        await store.find_command(stream, "pay-1", forbid=True)
        assert list(await store.read(stream)) == []
        assert list(await store.unpublished(stream, before_version=MAX_VERSION)) == []
        first = commit_of(stream, 1, "a", command_id="open-1")
        await store.insert(first, outbox=True)
        assert list(await store.read(stream)) == [first]

    @pytest.mark.parametrize("events", [0, 2])
    async def test_of_a_commit_on_its_way_and_who_forbids_it_exactly_one_wins(
        self, store: CommitStore, stream: str, events: int
    ) -> None:
        if events:
            await self._insert(store, commit_of(stream, 1, *["a"] * events))
        version, stored = events, 0
        for turn in range(40):
            command_id = f"pay-{turn}"
            insert = store.insert(commit_of(stream, version + 1, "b", command_id=command_id), outbox=False)
            forbid = [store.find_command(stream, command_id, forbid=True) for _ in range(turn % 3 + 1)]
            calls = [insert, *forbid] if turn % 2 else [*forbid, insert]
            outcomes: list[Any] = list(await asyncio.gather(*calls, return_exceptions=True))
            answer, found = outcomes.pop(0 if turn % 2 else -1), outcomes
            if answer is None:
                version, stored = version + 1, stored + 1
                assert found == [version] * len(found)
            else:
                assert isinstance(answer, CommandHandledError)
                assert answer.first_version is None
                assert found == [None] * len(found)
        assert len(await store.read(stream)) == stored + (events > 0)

    async def test_whoever_opens_the_store_knows_what_was_carried_out_and_what_is_forbidden(
        self, store: CommitStore, stream: str
    ) -> None:
        await self._insert(store, commit_of(stream, 1, "a", command_id="open-1"))
        await store.find_command(stream, "pay-1", forbid=True)
        async with self.another(store) as again:
            assert await again.find_command(stream, "open-1") == 1
            with pytest.raises(CommandHandledError):
                await again.insert(commit_of(stream, 2, "b", command_id="pay-1"), outbox=True)

    async def _insert(self, store: CommitStore, *commits: CommitRecord) -> None:
        for commit in commits:
            await store.insert(commit, outbox=False)
