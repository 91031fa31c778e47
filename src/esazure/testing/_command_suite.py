"""What every repository and every `ICommitStore` promise about command ids: carried out once, or never.

Read `_view_suite.py` next.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from esazure.errors import (
    AggregateNotFoundError,
    CommandHandledError,
    CommandReusedError,
    ConcurrencyError,
    InvalidIdError,
    ReadOnlyAggregateError,
    UnusableAggregateError,
)
from esazure.events import CommandRecord, CommitRecord
from esazure.keys import MAX_COMMAND_ID, MAX_VERSION, stream_name
from esazure.ports import HandledCommand, IEventsRepository
from esazure.repository import CommitStore
from esazure.service import EventsService
from esazure.testing._binding import StoreBinding
from esazure.testing._counter import Counter, commit_of, counter_with, fresh_id

_COMMANDS = (
    *("pay", "Pay", "PAY", " pay", "pay ", "pay-1", "pay-10", "pay.1", "pay/1", "pay_1", "p%61y", "0", "1", "-"),
    *("a'b", "' or 1 eq 1", '"', "\\", "\x00", "\n", "\u00e9", "e\u0301", "\U0001f600", "\uffff", "\u2028"),
    *("x" * MAX_COMMAND_ID, "x" * (MAX_COMMAND_ID - 1), "\u20ac" * MAX_COMMAND_ID),
)


class _RefusedError(Exception):
    """A rule of the domain."""


def _refuse(_: Counter) -> None:
    raise _RefusedError


class _Asked:
    """A request, by its name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def digest(self, command_id: str) -> str:
        return f"{self._name} as {command_id}"


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
        assert await counters.find_command(counter.id, "pay-1") == HandledCommand(3, commit)
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

    async def test_a_command_that_recorded_nothing_is_answered_alike_however_late_it_comes_again(
        self, counters: IEventsRepository[Counter, str]
    ) -> None:
        service = EventsService(counters)
        counter = counter_with("a")
        await service.persist(counter)
        first = await service.update(counter.id, lambda _: None, command_id="look-1")
        await service.update(counter.id, lambda it: it.note("b"), command_id="note-1")

        for change in (lambda it: it.note("c"), lambda _: None, _refuse):
            again = await service.update(counter.id, change, command_id="look-1")
            assert (again.notes, again.version) == (first.notes, first.version) == (["a"], 1)
            again.note("d")
            with pytest.raises(UnusableAggregateError):
                await service.persist(again)

        assert await counters.find_command(counter.id, "look-1") == HandledCommand(1, None)
        assert (await service.rehydrate(counter.id)).notes == ["a", "b"]

    async def test_a_repeat_by_persist_stores_nothing_and_its_copy_is_of_no_use(
        self, counters: IEventsRepository[Counter, str]
    ) -> None:
        counter = counter_with("a")
        await counters.append(counter)
        assert await counters.append(counter, command_id="look-1") is None
        counter.note("b")  # this copy is as it was
        await counters.append(counter)
        for notes in ([], ["c"]):
            again = await counters.rehydrate(counter.id)
            again.note(*notes)
            assert await counters.append(again, command_id="look-1") is None
            with pytest.raises(UnusableAggregateError):
                again.note("d")
        assert (await counters.rehydrate(counter.id)).notes == ["a", "b"]

    async def test_a_command_that_recorded_nothing_on_a_stream_that_is_not_there_is_remembered(
        self, counters: IEventsRepository[Counter, str]
    ) -> None:
        counter_id = fresh_id()
        assert await counters.append(Counter(counter_id), command_id="open-1") is None
        assert await counters.find_command(counter_id, "open-1") == HandledCommand(0, None)
        with pytest.raises(AggregateNotFoundError):
            await counters.rehydrate(counter_id)
        assert await counters.append(counter_with("twin", id=counter_id), command_id="open-1") is None
        await counters.append(counter_with("a", id=counter_id), command_id="open-2")
        again = await EventsService(counters).update(counter_id, lambda it: it.note("b"), command_id="open-1")
        assert (again.version, again.notes) == (0, [])
        assert (await counters.rehydrate(counter_id)).notes == ["a"]

    async def test_what_a_command_stored_is_its_answer_also_when_nothing_is_pending_now(
        self, counters: IEventsRepository[Counter, str]
    ) -> None:
        counter = counter_with("a")
        commit = await counters.append(counter, command_id="open-1")
        counter.note("b")
        await counters.append(counter)
        assert await counters.append(await counters.rehydrate(counter.id), command_id="open-1") == commit
        again = await EventsService(counters).update(counter.id, lambda _: None, command_id="open-1")
        assert (again.version, again.notes) == (1, ["a"])

    async def test_a_command_that_was_refused_is_decided_anew(self, counters: IEventsRepository[Counter, str]) -> None:
        service = EventsService(counters)
        counter = counter_with("a")
        await service.persist(counter)
        with pytest.raises(_RefusedError):
            await service.update(counter.id, _refuse, command_id="pay-1")
        assert await counters.find_command(counter.id, "pay-1") is None
        assert (await service.update(counter.id, lambda it: it.note("b"), command_id="pay-1")).notes == ["a", "b"]

    async def test_of_twins_at_once_one_with_something_to_store_and_one_without_there_is_one_answer(
        self, counters: IEventsRepository[Counter, str]
    ) -> None:
        services = [EventsService(counters) for _ in range(6)]  # each on its own: those of one service take turns
        service = services[0]
        counter = counter_with("a")
        await service.persist(counter)
        for turn in range(10):
            before = (await service.rehydrate(counter.id)).version
            changes = [lambda it: it.note("b"), lambda _: None, lambda it: it.note("c", "d")]
            answers = await asyncio.gather(
                *[
                    one.update(counter.id, changes[(turn + i) % 3], command_id=f"pay-{turn}")
                    for i, one in enumerate(services)
                ]
            )
            now = await service.rehydrate(counter.id)
            assert {answer.version for answer in answers} == {now.version}
            assert {tuple(answer.notes) for answer in answers} == {tuple(now.notes)}
            handled = await counters.find_command(counter.id, f"pay-{turn}")
            assert handled is not None
            assert (handled.version, handled.commit is None) == (now.version, now.version == before)

    async def test_the_same_id_with_another_request_is_refused_and_changes_nothing(
        self, counters: IEventsRepository[Counter, str]
    ) -> None:
        service = EventsService(counters)
        counter = counter_with("a")
        commit = await service.persist(counter, command_id="open-1", request=_Asked("open"))
        await service.update(counter.id, lambda _: None, command_id="look-1", request=_Asked("look"))
        for command_id in ("open-1", "look-1"):
            other = _Asked("another thing")
            for change in (lambda it: it.note("b"), lambda _: None, _refuse):
                with pytest.raises(CommandReusedError):
                    await service.update(counter.id, change, command_id=command_id, request=other)
            with pytest.raises(CommandReusedError):
                await service.find_command(counter.id, command_id, request=other)
            for copy in (counter_with("new", id=counter.id), await service.rehydrate(counter.id)):
                version, pending = copy.version, copy.pending
                with pytest.raises(CommandReusedError):
                    await service.persist(copy, command_id=command_id, request=other)
                assert (copy.version, copy.pending) == (version, pending)
                copy.note("it is as it was")
        assert (await service.rehydrate(counter.id)).notes == ["a"]

        again = counter_with("new", id=counter.id)
        assert await service.persist(again, command_id="open-1", request=_Asked("open")) == commit
        looked = await service.update(counter.id, _refuse, command_id="look-1", request=_Asked("look"))
        assert looked.notes == ["a"]

    async def test_requests_are_compared_when_both_are_known(self, counters: IEventsRepository[Counter, str]) -> None:
        counter = counter_with("a")
        first = await counters.append(counter, command_id="open-1")
        counter.note("b")
        second = await counters.append(counter, command_id="note-1", request=_Asked("note"))
        for command_id, request, commit in (("open-1", _Asked("x"), first), ("note-1", None, second)):
            again = counter_with("new", id=counter.id)
            assert await counters.append(again, command_id=command_id, request=request) == commit

    async def test_a_request_without_a_command_id_is_refused(self, counters: IEventsRepository[Counter, str]) -> None:
        for counter in (counter_with("a"), Counter(fresh_id())):
            with pytest.raises(ValueError, match="command_id"):
                await counters.append(counter, request=_Asked("note"))

    async def test_a_copy_of_the_past_answers_no_command(self, counters: IEventsRepository[Counter, str]) -> None:
        counter = counter_with("a", "b")
        await counters.append(counter)
        with pytest.raises(ReadOnlyAggregateError):
            await counters.append(await counters.rehydrate(counter.id, version=1), command_id="look-1")
        assert await counters.find_command(counter.id, "look-1") is None

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
            replace(commit_of(stream, 3, "c", command_id="\x00 \U0001f600 '"), request="0f" * 32),
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
        assert await store.find_command(stream, "pay-1") == CommandRecord(3)
        assert await store.find_command(stream, "pay-2") == CommandRecord(5)
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
        assert [await store.find_command(stream, "pay-1") for stream in streams] == [CommandRecord(1)] * len(streams)

    async def test_every_hostile_command_id_is_a_command_of_its_own(self, store: CommitStore, stream: str) -> None:
        for version, command_id in enumerate(_COMMANDS, start=1):
            await store.insert(commit_of(stream, version, "a", command_id=command_id), outbox=False)
        found = [await store.find_command(stream, command_id) for command_id in _COMMANDS]
        assert found == [CommandRecord(version) for version in range(1, len(_COMMANDS) + 1)]

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
            assert await store.find_command(stream, "pay-1", forbid=True) == CommandRecord(2)
        await store.insert(commits[1], outbox=False)  # its sender may still ask whether it is stored
        assert list(await store.read(stream)) == commits
        assert await store.find_command(stream, "pay-1") == CommandRecord(2)

    async def test_forbidding_a_command_harms_no_other_command_and_no_other_stream(self, store: CommitStore) -> None:
        beginning = fresh_id()
        mine, other = (stream_name("Counter", beginning + end) for end in ("", "0"))
        await store.find_command(mine, "pay-1", forbid=True)
        for command_id in (None, "pay-", "pay-10", "PAY-1"):
            version = len(await store.read(mine)) + 1
            await store.insert(commit_of(mine, version, "a", command_id=command_id), outbox=True)
        await store.insert(commit_of(other, 1, "a", command_id="pay-1"), outbox=True)
        assert await store.find_command(other, "pay-1") == CommandRecord(1)

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
                assert found == [CommandRecord(version)] * len(found)
            else:
                assert isinstance(answer, CommandHandledError)
                assert answer.first_version is None
                assert found == [None] * len(found)
        assert len(await store.read(stream)) == stored + (events > 0)

    async def test_what_had_nothing_to_store_is_remembered_and_no_commit_of_it_gets_in(
        self, store: CommitStore, stream: str
    ) -> None:
        await self._insert(store, commit_of(stream, 1, "a"))
        noted = CommandRecord(answered_at=1, request="hash")
        assert await store.remember_command(stream, "look-1", version=1, request="hash") == noted
        for first_version in (2, 1, 5):  # and comes before a conflict
            with pytest.raises(CommandHandledError) as caught:
                await store.insert(commit_of(stream, first_version, "b", command_id="look-1"), outbox=True)
            error = caught.value
            assert (error.first_version, error.answered_at, error.request) == (None, 1, "hash")
        for forbid in (False, True, False):
            assert await store.find_command(stream, "look-1", forbid=forbid) == noted
        assert len(await store.read(stream)) == 1
        assert list(await store.unpublished(stream, before_version=9)) == []

    async def test_the_first_note_of_a_command_stays(self, store: CommitStore, stream: str) -> None:
        first = CommandRecord(answered_at=0)
        for version in (0, 0, 7, MAX_VERSION):
            assert await store.remember_command(stream, "look-1", version=version) == first
            assert await store.find_command(stream, "look-1") == first
        last = CommandRecord(answered_at=MAX_VERSION, request="hash")
        assert await store.remember_command(stream, "look-2", version=MAX_VERSION, request="hash") == last
        assert await store.find_command(stream, "look-2") == last

    async def test_what_was_carried_out_is_not_noted_as_nothing(self, store: CommitStore, stream: str) -> None:
        commit = replace(commit_of(stream, 1, "a", command_id="open-1"), request="hash")
        await self._insert(store, commit)
        carried_out = CommandRecord(1, request="hash")
        assert await store.remember_command(stream, "open-1", version=1, request="other") == carried_out
        assert await store.find_command(stream, "open-1") == carried_out
        assert list(await store.read(stream)) == [commit]
        assert list(await store.unpublished(stream, before_version=9)) == []
        with pytest.raises(CommandHandledError) as caught:
            await store.insert(commit_of(stream, 2, "b", command_id="open-1"), outbox=True)
        assert (caught.value.first_version, caught.value.answered_at, caught.value.request) == (1, None, "hash")

    async def test_what_is_forbidden_is_not_noted_either(self, store: CommitStore, stream: str) -> None:
        assert await store.find_command(stream, "look-1", forbid=True) is None
        for _ in range(2):
            with pytest.raises(CommandHandledError) as caught:
                await store.remember_command(stream, "look-1", version=1)
            assert (caught.value.first_version, caught.value.answered_at) == (None, None)
            assert await store.find_command(stream, "look-1") is None

    async def test_a_note_harms_no_other_command_and_no_other_stream(self, store: CommitStore) -> None:
        beginning = fresh_id()
        mine, other = (stream_name("Counter", beginning + end) for end in ("", "0"))
        await store.remember_command(mine, "look-1", version=3)
        assert list(await store.read(mine)) == []
        for command_id in (None, "look-", "look-10", "LOOK-1"):
            version = len(await store.read(mine)) + 1
            await store.insert(commit_of(mine, version, "a", command_id=command_id), outbox=True)
        await store.insert(commit_of(other, 1, "a", command_id="look-1"), outbox=True)
        assert await store.find_command(mine, "look-1") == CommandRecord(answered_at=3)

    async def test_every_hostile_command_id_is_noted_as_a_command_of_its_own(
        self, store: CommitStore, stream: str
    ) -> None:
        for version, command_id in enumerate(_COMMANDS):
            await store.remember_command(stream, command_id, version=version, request=str(version))
        found = [await store.find_command(stream, command_id) for command_id in _COMMANDS]
        assert found == [CommandRecord(answered_at=at, request=str(at)) for at in range(len(_COMMANDS))]

    async def test_of_a_commit_a_note_and_a_fence_on_their_way_one_wins_and_all_agree(
        self, store: CommitStore, stream: str
    ) -> None:
        version, won = 0, set[str]()
        for turn in range(30):
            command_id = f"pay-{turn}"
            calls: list[Any] = [
                store.insert(commit_of(stream, version + 1, "b", command_id=command_id), outbox=False),
                store.remember_command(stream, command_id, version=version),
                store.find_command(stream, command_id, forbid=True),
            ]
            order = [(turn + i) % 3 for i in range(3)]
            outcomes = await asyncio.gather(*[calls[i] for i in order], return_exceptions=True)
            stored, noted, fenced = (outcomes[order.index(i)] for i in range(3))
            found = await store.find_command(stream, command_id)
            if stored is None:
                version += 1
                won.add("commit")
                assert (noted, fenced, found) == (CommandRecord(version),) * 3
            elif found is not None:
                won.add("note")
                assert isinstance(stored, CommandHandledError)
                assert stored.answered_at == version
                assert (noted, fenced, found) == (CommandRecord(answered_at=version),) * 3
            else:
                won.add("fence")
                assert isinstance(stored, CommandHandledError)
                assert isinstance(noted, CommandHandledError)
                assert (stored.answered_at, noted.answered_at, fenced) == (None, None, None)
        assert len(won) > 1
        assert len(await store.read(stream)) == version

    async def test_whoever_opens_the_store_knows_what_was_carried_out_and_what_is_forbidden(
        self, store: CommitStore, stream: str
    ) -> None:
        await self._insert(store, commit_of(stream, 1, "a", command_id="open-1"))
        await store.find_command(stream, "pay-1", forbid=True)
        await store.remember_command(stream, "look-1", version=1, request="hash")
        async with self.another(store) as again:
            assert await again.find_command(stream, "look-1") == CommandRecord(answered_at=1, request="hash")
            assert await again.find_command(stream, "open-1") == CommandRecord(1)
            with pytest.raises(CommandHandledError):
                await again.insert(commit_of(stream, 2, "b", command_id="pay-1"), outbox=True)

    async def _insert(self, store: CommitStore, *commits: CommitRecord) -> None:
        for commit in commits:
            await store.insert(commit, outbox=False)
