"""Every call of persist, update and the relay, broken in every way; and broken services and stores that are found out.

The numbers of points are part of what is tested: a call that is added has to be added here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from esazure import (
    AggregateNotFoundError,
    AppendOutcomeUnknownError,
    Commit,
    ConcurrencyError,
    CorruptStreamError,
    DispatchError,
    EventsService,
    IEventsService,
    StoreUnavailableError,
)
from esazure import service as service_module
from esazure.events import CommitRecord
from esazure.memory import InMemoryEventProducer, InMemoryStore
from esazure.ports import IEventsRepository, ViewRecord
from esazure.relay import OutboxRelay
from esazure.sqlite import SqliteStore
from esazure.testing._counter import Counter, commit_of
from esazure.testing.faults import (
    Crash,
    Fault,
    Faults,
    FaultyProducer,
    FaultyStore,
    Kind,
    Report,
    World,
    crash_everywhere,
)

ID = "c"
MakeService = Callable[[IEventsRepository[Counter, str], FaultyProducer], IEventsService[Counter, str]]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "uniform", lambda low, high: 0.0)


def methods(report: Report) -> list[str]:
    return [point.method for point in report.points]


def runs_of(report: Report) -> int:
    """At least: one undisturbed, every kind but LATE at each point, LATE landing at the next point and at the end."""
    return 1 + len(report.points) * (len(Kind) - 1)


async def notes_of(world: World, id: str = ID) -> list[str]:
    return (await world.events(Counter).rehydrate(id)).notes


def versions_of(world: World) -> list[int]:
    """The versions that were published, each where it was first."""
    return list(dict.fromkeys(int(message.properties["version"]) for message in world.messages))


# Handlers: each can be called again, as a client would that got no answer.


async def open_counter(world: World) -> None:
    """Persist a new aggregate; who finds it taken looks whether it was this very request."""
    counter = Counter(ID)
    counter.note("opened")
    try:
        await EventsService(world.events(Counter), world.producer).persist(counter)
    except ConcurrencyError:
        assert await notes_of(world) == ["opened"]


def noting(note: str, make_service: MakeService = EventsService) -> Callable[[World], Any]:
    """Load, note unless it is noted already, persist."""

    async def handler(world: World) -> None:
        service = make_service(world.events(Counter), world.producer)
        counter = await service.rehydrate(ID)
        if note not in counter.notes:
            counter.note(note)
            await service.persist(counter)

    return handler


async def stored_but_not_dispatched(world: World) -> None:
    """The broker was away: two events of one commit wait."""
    counter = Counter(ID)
    counter.note("a", "b")
    await EventsService(world.events(Counter, outbox=True)).persist(counter)


async def two_streams_wait(world: World) -> None:
    service = EventsService(world.events(Counter, outbox=True))
    for each in ("c", "d"):
        counter = Counter(each)
        for note in ("a", "b"):
            counter.note(note)
            await service.persist(counter)


# The library, broken everywhere.


async def test_persisting_a_new_stream() -> None:
    async def check(world: World) -> None:
        assert await notes_of(world) == ["opened"]
        assert versions_of(world) == [1]

    report = await crash_everywhere(open_counter, check=check)
    assert methods(report) == ["insert", "dispatch", "mark_published"]
    assert report.runs > runs_of(report)


async def test_persisting_to_a_stream_whose_older_commit_was_never_dispatched() -> None:
    async def check(world: World) -> None:
        assert await notes_of(world) == ["a", "b", "c"]
        assert versions_of(world) == [1, 2, 3]

    report = await crash_everywhere(noting("c"), given=stored_but_not_dispatched, check=check)
    behind_and_own = ["dispatch", "mark_published"] * 2
    assert methods(report) == ["read", "insert", "unpublished", *behind_and_own]
    assert report.runs > runs_of(report)


async def test_an_append_whose_answer_is_asked_for_again_by_the_handler_itself() -> None:
    surprises: list[Exception] = []

    async def handler(world: World) -> None:
        service = EventsService(world.events(Counter), world.producer)
        counter = await service.rehydrate(ID)
        if "c" not in counter.notes:
            counter.note("c")
            try:
                await service.persist(counter)
            except AppendOutcomeUnknownError as error:
                try:
                    commit = await error.retry()
                except Exception as surprise:
                    surprises.append(surprise)  # nobody else writes, so it can be nothing but a success
                    raise
                assert (commit.last_version, counter.version, counter.pending) == (3, 3, ())

    async def check(world: World) -> None:
        assert await notes_of(world) == ["a", "b", "c"]

    report = await crash_everywhere(handler, given=stored_but_not_dispatched, check=check)
    assert len(report.points) == 7
    assert surprises == []


class Rival(EventsService[Counter, str]):
    """Whenever it has loaded an aggregate, somebody else notes "rival" in it first; once."""

    def __init__(self, world: World) -> None:
        super().__init__(world.events(Counter), world.producer)
        repository = self._repository
        load = repository.rehydrate

        async def meet(id: str, *, version: int | None = None) -> Counter:
            mine = await load(id, version=version)
            if "rival" not in mine.notes:
                theirs = await load(id)
                theirs.note("rival")
                await repository.append(theirs, publishing=True)
            return mine

        repository.rehydrate = meet  # type: ignore[method-assign]


async def test_an_update_that_meets_a_conflict() -> None:
    async def handler(world: World) -> None:
        def change(counter: Counter) -> None:
            if "mine" not in counter.notes:
                counter.note("mine")

        await Rival(world).update(ID, change)

    async def check(world: World) -> None:
        notes = await notes_of(world)
        assert notes[-1] == "mine"
        assert notes.count("mine") == 1
        assert versions_of(world) == list(range(1, len(notes) + 1))

    report = await crash_everywhere(handler, given=stored_but_not_dispatched, check=check)
    conflicting = ["read", "read", "insert", "insert", "unpublished"]
    assert methods(report) == [*conflicting, "read", "insert", "unpublished", *["dispatch", "mark_published"] * 3]
    assert report.runs > runs_of(report)


async def test_a_sweep_of_the_relay() -> None:
    async def handler(world: World) -> None:
        await OutboxRelay(world.store, {Counter: world.producer}, grace=0.0).run_once()

    async def check(world: World) -> None:
        assert await notes_of(world, "c") == await notes_of(world, "d") == ["a", "b"]

    report = await crash_everywhere(handler, given=two_streams_wait, check=check)
    a_stream = ["unpublished", *["dispatch", "mark_published"] * 2]
    assert methods(report) == ["sweep", "write_lease", *a_stream * 2, "write_lease"]
    assert report.runs > runs_of(report)


class Fussy(InMemoryEventProducer):
    """A broker that will never take "poison"."""

    async def dispatch(self, commit: Commit[Any]) -> None:
        if any("poison" in payload for payload in commit.payloads):
            raise DispatchError("poison", unpublishable=True)
        await super().dispatch(commit)


async def test_a_relay_that_sets_an_unpublishable_commit_aside() -> None:
    async def poisoned(world: World) -> None:
        service = EventsService(world.events(Counter, outbox=True))
        counter = Counter(ID)
        for note in ("a", "poison", "b"):
            counter.note(note)
            await service.persist(counter)

    async def handler(world: World) -> None:
        relay = OutboxRelay(world.store, {Counter: world.producer}, grace=0.0, attempts=1, poison="skip")
        for _ in range(3):  # as `run` would, without the pauses
            await relay.run_once()

    async def check(world: World) -> None:
        assert versions_of(world) == [1, 3]

    report = await crash_everywhere(handler, given=poisoned, check=check, producer=Fussy)
    published = ["dispatch", "mark_published"]
    first = ["sweep", "write_lease", "unpublished", *published, "dispatch", "set_aside", *published, "write_lease"]
    assert methods(report) == [*first, "sweep", "sweep"]


async def test_a_lease_of_the_dead_does_not_keep_the_sweep_from_its_work() -> None:
    async def handler(world: World) -> None:
        await OutboxRelay(world.store, {Counter: world.producer}, grace=0.0).run_once()

    report = await crash_everywhere(
        handler, given=two_streams_wait, kinds=[Kind.CRASH_BEFORE, Kind.CRASH_AFTER, Kind.LATE]
    )
    assert len(report.points) == 13


async def test_without_an_outbox_nothing_has_to_be_published() -> None:
    async def handler(world: World) -> None:
        counter = Counter(ID)
        counter.note("opened")
        with suppress(ConcurrencyError):
            await EventsService(world.events(Counter, outbox=False), world.producer).persist(counter)

    async def check(world: World) -> None:
        assert await notes_of(world) == ["opened"]

    report = await crash_everywhere(handler, check=check)
    assert methods(report) == ["insert", "dispatch"]


async def test_two_handlers_at_once() -> None:
    """Their calls interleave the same way each time, so their points can be enumerated."""

    async def handler(world: World) -> None:
        async def note(text: str) -> None:
            def change(counter: Counter) -> None:
                if text not in counter.notes:
                    counter.note(text)

            await EventsService(world.events(Counter), world.producer).update(ID, change)

        async with asyncio.TaskGroup() as group:
            group.create_task(note("c"))
            group.create_task(note("d"))

    async def check(world: World) -> None:
        assert sorted(await notes_of(world)) == ["a", "b", "c", "d"]
        assert versions_of(world) == [1, 2, 3, 4]

    report = await crash_everywhere(handler, given=stored_but_not_dispatched, check=check)
    assert len(report.points) > 14


async def test_the_same_on_a_file(tmp_path: Path) -> None:
    names = count()

    async def check(world: World) -> None:
        assert await notes_of(world) == ["a", "b", "c"]
        assert versions_of(world) == [1, 2, 3]

    report = await crash_everywhere(
        noting("c"),
        given=stored_but_not_dispatched,
        check=check,
        store=lambda: SqliteStore(tmp_path / f"{next(names)}.db"),
        kinds=[Kind.CRASH_BEFORE, Kind.CRASH_AFTER, Kind.LOST_ANSWER, Kind.TWICE],
    )
    assert len(report.points) == 7
    assert report.runs == 1 + 7 * 4


async def test_a_store_which_relays_cannot_work_on_is_swept_stream_by_stream() -> None:
    class Plain(InMemoryStore):
        def __getattribute__(self, name: str) -> Any:
            if name in ("sweep", "partitions", "write_lease", "set_aside"):
                raise AttributeError(name)
            return super().__getattribute__(name)

    report = await crash_everywhere(noting("c"), given=stored_but_not_dispatched, store=Plain)
    assert len(report.points) == 7

    async def unknown(world: World) -> None:
        await world.store.insert(commit_of("Counter.c", 1, "a"), outbox=True)

    with pytest.raises(AssertionError, match="still has its outbox row"):
        await crash_everywhere(unknown, store=Plain)

    async def relay(world: World) -> None:
        await OutboxRelay(world.store, {Counter: world.producer}).run_once()

    with pytest.raises(TypeError, match="Plain is no IOutboxStore"):
        await crash_everywhere(relay, store=Plain)


# Negative controls: what is broken is found, and the message says where.


class DeletesFirst(EventsService[Counter, str]):
    async def _dispatch(self, commit: Any, producer: Any, outbox: Any, behind: Any) -> None:
        for owed in (*(await behind if behind is not None else ()), commit):
            await outbox.mark_published(owed)
            await producer.dispatch(owed)


class LooksNotBehind(EventsService[Counter, str]):
    async def _dispatch(self, commit: Any, producer: Any, outbox: Any, behind: Any) -> None:
        if behind is not None:
            await behind
        await super()._dispatch(commit, producer, outbox, None)


class SkipsWhatFails(EventsService[Counter, str]):
    async def _dispatch(self, commit: Any, producer: Any, outbox: Any, behind: Any) -> None:
        for owed in (*(await behind if behind is not None else ()), commit):
            try:
                await producer.dispatch(owed)
                await outbox.mark_published(owed)
            except (DispatchError, StoreUnavailableError):
                continue


class AnnouncesFirst(EventsService[Counter, str]):
    async def persist(self, aggregate: Counter) -> Commit[Any] | None:
        announced: list[Commit[Any]] = []

        def refuse(commit: Commit[Any]) -> None:
            announced.append(commit)
            raise KeyError

        with suppress(KeyError):
            await self._repository.append(aggregate, before_io=refuse)
        assert self._producer is not None
        await self._producer.dispatch(announced[0])
        return await super().persist(aggregate)


@pytest.mark.parametrize(
    ("broken", "where", "what"),
    [
        (
            DeletesFirst,
            r"^crash after the call: point 4, mark_published of Counter\.c at version 1",
            r"at version 1 is stored with an outbox row, and was never published",
        ),
        (LooksNotBehind, "^undisturbed", r"at version 1 was first published after version 3"),
        (
            SkipsWhatFails,
            r"^the call is refused: point 4, dispatch of Counter\.c at version 1",
            "first published after",
        ),
        (AnnouncesFirst, "^undisturbed", "was published, and is not stored"),
    ],
)
async def test_a_broken_service_is_found(broken: MakeService, where: str, what: str) -> None:
    with pytest.raises(AssertionError, match=where) as caught:
        await crash_everywhere(noting("c", broken), given=stored_but_not_dispatched)
    assert caught.match(what)


class TakesAnyoneForAStranger(InMemoryStore):
    """Does not look whether the commit in the slot is the very one it is asked to store."""

    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        stored = await self.read(record.stream)
        if any(each.commit_id == record.commit_id for each in stored):
            raise ConcurrencyError(record.stream, expected=record.expected_version)
        await super().insert(record, outbox=outbox, views=views)


class TakesEverything(InMemoryStore):
    """Does not look at the slot."""

    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        self._streams.setdefault(record.stream, []).append(record)
        if record.stream not in self._outbox:
            self._waiting.append(record.stream)
        self._outbox.setdefault(record.stream, {})[record.first_version] = self.clock()


class WritesTheOutboxApart(InMemoryStore):
    """The commit first; its outbox row only if somebody asks again."""

    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        again = bool(await self.read(record.stream))
        await super().insert(record, outbox=outbox and again, views=views)


class SaysYesAndForgets(InMemoryStore):
    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        if record.expected_version == 0:
            await super().insert(record, outbox=outbox, views=views)


class Rewrites(InMemoryStore):
    async def read(
        self, stream: str, *, from_version: int = 1, to_version: int | None = None
    ) -> Sequence[CommitRecord]:
        found = await super().read(stream, from_version=from_version, to_version=to_version)
        self._streams[stream] = [replace(record, metadata='{"read": "yes"}') for record in found]
        return found


class CannotBeRead(InMemoryStore):
    async def read(
        self, stream: str, *, from_version: int = 1, to_version: int | None = None
    ) -> Sequence[CommitRecord]:
        if len(self._streams[stream]) > 1:
            raise CorruptStreamError(f"{stream} is damaged")
        return await super().read(stream, from_version=from_version, to_version=to_version)


class KeepsItsRows(InMemoryStore):
    async def mark_published(self, record: CommitRecord) -> bool:
        return True


@pytest.mark.parametrize(
    ("broken", "where", "what"),
    [
        (TakesAnyoneForAStranger, "^the call arrives twice: point 2, insert", "was refused with a conflict, and is"),
        (TakesEverything, "^the call arrives late, .*: point 2, insert", "after version 3 comes 3"),
        (SaysYesAndForgets, "^undisturbed", "was acknowledged, and is stored 0 times"),
        (Rewrites, "^undisturbed", "at version 1 is not what was read there before"),
        (CannotBeRead, "^undisturbed", r"Counter\.c cannot be read: CorruptStreamError: Counter\.c is damaged"),
        (KeepsItsRows, "^undisturbed", "still has its outbox row after a sweep"),
    ],
)
async def test_a_broken_store_is_found(broken: Callable[[], InMemoryStore], where: str, what: str) -> None:
    with pytest.raises(AssertionError, match=where) as caught:
        await crash_everywhere(noting("c"), given=stored_but_not_dispatched, store=broken)
    assert caught.match(what)


async def test_an_outbox_row_that_is_not_written_with_its_commit_is_found() -> None:
    with pytest.raises(AssertionError, match=r"^crash after the call: point 1, insert .*\n.*was never published"):
        await crash_everywhere(open_counter, store=WritesTheOutboxApart)


class NamesMessagesAtRandom(InMemoryEventProducer):
    async def dispatch(self, commit: Commit[Any]) -> None:
        await super().dispatch(commit)
        self.messages[-1] = replace(self.messages[-1], message_id=uuid4().hex)


class NamesMessagesAlike(InMemoryEventProducer):
    async def dispatch(self, commit: Commit[Any]) -> None:
        await super().dispatch(commit)
        self.messages[:] = [replace(message, message_id="m") for message in self.messages]


async def test_a_message_whose_id_changes_from_one_dispatch_to_the_next_is_found() -> None:
    with pytest.raises(AssertionError, match=r"point 2, dispatch .*\n.*Counter\.c at version 1 was sent in two forms"):
        await crash_everywhere(open_counter, producer=NamesMessagesAtRandom)


async def test_a_message_with_the_id_of_another_is_found() -> None:
    with pytest.raises(AssertionError, match=r"^undisturbed\n.*at version 2 has the id of another event's message"):
        await crash_everywhere(noting("c"), given=stored_but_not_dispatched, producer=NamesMessagesAlike)


class GoesPastAFailure(OutboxRelay):
    async def _publish_commit(self, *arguments: Any) -> bool:
        await super()._publish_commit(*arguments)
        return True


async def test_a_relay_that_goes_past_a_failure_is_found() -> None:
    async def handler(world: World) -> None:
        await GoesPastAFailure(world.store, {Counter: world.producer}, grace=0.0).run_once()

    with pytest.raises(AssertionError, match=r"^the call is refused: point 4, dispatch .*\n.* first published after"):
        await crash_everywhere(handler, given=two_streams_wait)


# What a user gets to see.


async def test_the_story_of_a_failure_names_the_fault_the_check_and_every_call() -> None:
    async def handler(world: World) -> None:
        service = EventsService(world.events(Counter), world.producer)
        await service.update(ID, Counter.increment)

    async def check(world: World) -> None:
        total = (await world.events(Counter).rehydrate(ID)).total
        if total != 1:
            raise ValueError(f"counted {total} times")

    with pytest.raises(AssertionError) as caught:
        await crash_everywhere(handler, given=stored_but_not_dispatched, check=check, kinds=[Kind.CRASH_AFTER])
    lines = str(caught.value).splitlines()
    assert lines[:5] == [
        "crash after the call: point 2, insert of Counter.c at version 3",
        "  - check: ValueError: counted 2 times",
        "  calls:",
        "    point 1, read of Counter.c",
        "    point 2, insert of Counter.c at version 3   <-- crash after the call",
    ]
    assert "    -- called again after Crash" in lines
    assert "    -- swept" in lines
    assert isinstance(caught.value.__cause__, ValueError)


async def test_a_handler_that_cannot_be_called_again_is_a_failure() -> None:
    async def handler(world: World) -> None:
        counter = Counter(ID)
        counter.note("opened")
        await EventsService(world.events(Counter), world.producer).persist(counter)

    with pytest.raises(AssertionError, match=r"called again, the handler still fails: ConcurrencyError: ") as caught:
        await crash_everywhere(handler)
    assert isinstance(caught.value.__cause__, ConcurrencyError)


async def test_a_handler_that_swallows_the_crash_is_dead_all_the_same() -> None:
    async def handler(world: World) -> None:
        for _ in range(3):
            with suppress(BaseException):
                await open_counter(world)

    report = await crash_everywhere(handler, kinds=[Kind.CRASH_BEFORE, Kind.CRASH_AFTER])
    assert report.runs == 1 + 2 * len(report.points)


async def test_a_class_nobody_asked_the_world_for_is_named() -> None:
    async def handler(world: World) -> None:
        await world.store.insert(commit_of("Counter.c", 1, "a"), outbox=True)

    with pytest.raises(AssertionError, match=r"the relay could not publish Counter\.c at version 1: no producer"):
        await crash_everywhere(handler)


@pytest.mark.parametrize("step", ["handler", "given", "check"])
async def test_what_fails_undisturbed_is_raised_as_it_is(step: str) -> None:
    async def fail(world: World) -> None:
        raise AggregateNotFoundError("Counter.c")

    steps: dict[str, Any] = {"handler": open_counter, step: fail}
    with pytest.raises(AggregateNotFoundError):
        await crash_everywhere(**steps)


async def test_what_is_no_error_of_the_handler_ends_everything() -> None:
    class EndOfTestError(BaseException):
        """As a failure of pytest is."""

    attempts = count()

    async def handler(world: World) -> None:
        await world.store.read("Counter.c")
        if next(attempts) > 0:
            raise EndOfTestError

    with pytest.raises(EndOfTestError):
        await crash_everywhere(handler, kinds=[Kind.SLOW])


async def test_a_handler_whose_calls_differ_from_run_to_run_is_refused() -> None:
    calls = count()

    async def changing(world: World) -> None:
        if next(calls) == 0:
            await world.store.read("Counter.c")

    with pytest.raises(AssertionError, match=r"undisturbed, point 1, read of Counter\.c was called, and now nothing"):
        await crash_everywhere(changing)


async def test_faults_by_themselves() -> None:
    """For tests that want one particular fault."""
    real = InMemoryStore()
    faults = Faults({1: Fault(Kind.LATE), 2: Fault(Kind.LATE, lands_after=1), 4: Fault(Kind.CRASH_AFTER)})
    store = FaultyStore(real, faults)
    first, second, third = (commit_of(stream, 1, "a") for stream in ("Counter.a", "Counter.b", "Counter.c"))
    for late in (first, second):
        with pytest.raises(AppendOutcomeUnknownError):
            await store.insert(late, outbox=True)
    assert await real.read("Counter.b") == []
    assert await store.read("Counter.b") == [second], "it arrived just before this call"
    with pytest.raises(Crash, match=r"at point 4, insert of Counter\.c at version 1"):
        await store.insert(third, outbox=True)
    assert faults.crashed
    assert await real.read("Counter.c") == [third]
    with pytest.raises(Crash, match="this process is dead"):
        await store.read("Counter.a")
    faults.restart()
    assert not faults.crashed
    with pytest.raises(Crash, match="this process is dead"):
        await store.read("Counter.a")
    assert await FaultyStore(real, faults).read("Counter.a") == []
    assert await faults.settle() == 1
    assert await real.read("Counter.a") == [first]
    assert [point.number for point in faults.points] == [1, 2, 3, 4, 5]
    assert (store.store_id, store.partitions, store.clock) == (real.store_id, real.partitions, real.clock)
