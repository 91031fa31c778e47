"""Commands, inline views, documents and scans, broken at every call; and stores that are careless with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from esazure import EventsService, StoreUnavailableError
from esazure import service as service_module
from esazure.errors import CommandHandledError
from esazure.events import CommandRecord, CommitRecord
from esazure.memory import InMemoryStore
from esazure.ports import ViewRecord
from esazure.sqlite import SqliteStore
from esazure.testing._counter import Counter, commit_of
from esazure.testing.faults import Fault, Faults, FaultyStore, Kind, Report, World, crash_everywhere

ID = "c"
STREAM = "Counter.c"


class Card(BaseModel):
    notes: list[str]


def card(counter: Counter) -> Card:
    return Card(notes=counter.notes)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "uniform", lambda low, high: 0.0)


def methods(report: Report) -> list[str]:
    return [point.method for point in report.points]


async def opened(world: World) -> None:
    counter = Counter(ID)
    counter.note("opened")
    await EventsService(world.events(Counter), world.producer).persist(counter)


async def pay(world: World) -> None:
    """Does not look whether it was done before: the command's id does."""
    service = EventsService(world.events(Counter, views=[card]), world.producer)
    paid = await service.update(ID, lambda counter: counter.note("paid"), command_id="pay-1")
    assert paid.notes == ["opened", "paid"]


async def forbid(world: World) -> None:
    """Whoever comes first: either it is paid, or it never will be."""
    found = await world.store.find_command(STREAM, "pay-1", forbid=True)
    with suppress(CommandHandledError):
        await world.store.insert(commit_of(STREAM, 2, "paid", command_id="pay-1"), outbox=True)
        assert found == CommandRecord(2)


async def count_up(world: World) -> None:
    """Adds its own word to a document; adding it again changes nothing."""
    while True:
        seen = await world.store.read_document("words", "all")
        words = json.loads(seen.text) if seen is not None else []
        if "mine" in words:
            return
        tag = None if seen is None else seen.tag
        if await world.store.write_document("words", "all", json.dumps([*words, "mine"]), seen=tag) is not None:
            return


async def theirs(world: World) -> None:
    await world.store.write_document("words", "all", '["theirs"]', seen=None)


async def test_a_command_that_is_carried_out_again_after_every_fault_is_carried_out_once() -> None:
    async def check(world: World) -> None:
        assert (await world.events(Counter).rehydrate(ID)).notes == ["opened", "paid"]
        assert await world.events(Counter, views=[card]).view(card).get(ID) == Card(notes=["opened", "paid"])

    report = await crash_everywhere(pay, given=opened, check=check)
    assert methods(report)[:2] == ["read", "insert"]
    assert report.runs > len(report.points) * (len(Kind) - 1)


async def test_a_command_is_carried_out_or_forbidden_whatever_arrives_late() -> None:
    report = await crash_everywhere(forbid, given=opened)
    assert methods(report) == ["forbid_command", "insert"]


async def test_a_document_is_written_by_who_has_seen_it_whatever_fails() -> None:
    async def check(world: World) -> None:
        found = await world.store.read_document("words", "all")
        assert found is not None
        assert json.loads(found.text) == ["theirs", "mine"]

    report = await crash_everywhere(count_up, given=theirs, check=check)
    assert [str(point) for point in report.points] == [
        "point 1, read_document of words/all",
        "point 2, write_document of words/all",
    ]


async def test_a_document_is_deleted_and_a_collection_cleared_whatever_fails() -> None:
    async def handler(world: World) -> None:
        page = await world.store.list_documents("words")
        for document in page.documents:
            await world.store.delete_document("words", document.key, seen=document.tag)
        await world.store.clear_documents("words")

    async def check(world: World) -> None:
        assert (await world.store.list_documents("words")).documents == []

    report = await crash_everywhere(handler, given=theirs, check=check)
    assert methods(report) == ["list_documents", "delete_document", "clear_documents"]


async def test_a_scan_is_a_point_for_each_stream_and_a_step_that_arrives_twice_leaves_none_out() -> None:
    found: dict[str, None] = {}

    async def three(world: World) -> None:
        for each in "abc":
            await world.store.insert(commit_of(f"Counter.{each}", 1, each), outbox=False)

    async def handler(world: World) -> None:
        found.clear()
        (partition,) = world.store.partitions
        async for records in world.store.scan(partition, "Counter"):
            found[records[0].stream] = None

    async def check(world: World) -> None:
        assert list(found) == ["Counter.a", "Counter.b", "Counter.c"]

    report = await crash_everywhere(handler, given=three, check=check)
    assert methods(report) == ["scan"] * 4
    assert str(report.points[0]) == "point 1, scan of Counter in 0"


async def test_the_view_of_an_older_stream_is_written_when_it_is_asked_for_whatever_fails() -> None:
    async def handler(world: World) -> None:
        assert await world.events(Counter, views=[card]).view(card).get(ID) == Card(notes=["opened"])

    report = await crash_everywhere(handler, given=opened)
    assert methods(report) == ["read_view", "read", "write_view"]


async def test_the_same_on_a_file(tmp_path: Path) -> None:
    names = count()

    async def handler(world: World) -> None:
        await pay(world)
        await count_up(world)

    report = await crash_everywhere(
        handler,
        given=opened,
        store=lambda: SqliteStore(tmp_path / f"{next(names)}.db"),
        kinds=[Kind.CRASH_BEFORE, Kind.CRASH_AFTER, Kind.LOST_ANSWER, Kind.TWICE],
    )
    assert methods(report)[-2:] == ["read_document", "write_document"]


async def test_a_lost_answer_of_a_document_is_unavailable_and_one_that_arrives_twice_is_found_out() -> None:
    real = InMemoryStore()
    store = FaultyStore(real, Faults({1: Fault(Kind.LOST_ANSWER), 2: Fault(Kind.TWICE), 3: Fault(Kind.LOST_REQUEST)}))
    with pytest.raises(StoreUnavailableError):
        await store.write_document("words", "a", "1", seen=None)
    first = await real.read_document("words", "a")
    assert first is not None
    tag = await store.write_document("words", "a", "2", seen=first.tag)
    second = await real.read_document("words", "a")
    assert second is not None
    assert (second.text, second.tag) == ("2", tag)
    with pytest.raises(StoreUnavailableError):
        await store.delete_document("words", "a", seen=second.tag)
    assert await real.read_document("words", "a") == second


async def test_what_a_store_cannot_do_is_said() -> None:
    class Plain(InMemoryStore):
        def __getattribute__(self, name: str) -> Any:
            if name in ("scan", "read_document"):
                raise AttributeError(name)
            return super().__getattribute__(name)

    store = FaultyStore(Plain(), Faults())
    with pytest.raises(TypeError, match="Plain is no IDocumentStore"):
        await store.write_document("words", "a", "1", seen=None)
    with pytest.raises(TypeError, match="Plain is no IStreamSource"):
        await anext(aiter(store.scan("0", "Counter")))


async def test_a_world_offers_everything_a_store_does() -> None:
    async def handler(world: World) -> None:
        assert world.store.views(Card).name == "card"
        assert world.store.unique_values("emails") is not None
        assert await world.store.read_document("positions-reader", STREAM) is None

    assert methods(await crash_everywhere(handler)) == ["read_document"]


# Negative controls: what is broken is found.


class ForgetsCommands(InMemoryStore):
    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        if any(stored.commit_id == record.commit_id for stored in await self.read(record.stream)):
            return
        await super().insert(replace(record, command_id=None), outbox=outbox, views=views)
        self._streams[record.stream][-1] = record


class ForgetsWhatIsForbidden(InMemoryStore):
    async def find_command(self, stream: str, command_id: str, *, forbid: bool = False) -> CommandRecord | None:
        return await super().find_command(stream, command_id)


class WritesViewsApart(InMemoryStore):
    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        await super().insert(record, outbox=outbox, views=() if record.first_version > 1 else views)


class MixesViewsUp(InMemoryStore):
    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        await super().insert(record, outbox=outbox, views=[replace(view, text="{}") for view in views])


class WritesOverEverything(InMemoryStore):
    async def write_document(self, collection: str, key: str, text: str, *, seen: str | None) -> str | None:
        there = await self.read_document(collection, key)
        return await super().write_document(collection, key, text, seen=there and there.tag)


class ForgetsDocuments(InMemoryStore):
    async def write_document(self, collection: str, key: str, text: str, *, seen: str | None) -> str | None:
        return "tag"


async def pay_again(world: World) -> None:
    """As a client would that got no answer, and asks with a copy of its own."""
    for version in (2, 3):
        with suppress(CommandHandledError):
            await world.store.insert(commit_of(STREAM, version, "paid", command_id="pay-1"), outbox=True)


async def pay_what_is_forbidden(world: World) -> None:
    await world.store.find_command(STREAM, "pay-1", forbid=True)
    with suppress(CommandHandledError):
        await world.store.insert(commit_of(STREAM, 2, "paid", command_id="pay-1"), outbox=True)


async def write_blindly(world: World) -> None:
    for _ in range(2):
        seen = await world.store.read_document("words", "all")
        assert seen is not None
        for text in ("1", "2"):
            await world.store.write_document("words", "all", text, seen=seen.tag)


@pytest.mark.parametrize(
    ("broken", "given", "handler", "what"),
    [
        (ForgetsCommands, opened, pay_again, "at version 3 has the command id of an earlier one"),
        (ForgetsWhatIsForbidden, opened, pay_what_is_forbidden, "at version 2 has a command id that was forbidden"),
        (WritesViewsApart, opened, pay, r"Counter\.c: the view card is not that of version 2"),
        (MixesViewsUp, opened, pay, r"Counter\.c: the view card is not what was stored with version 2"),
        (WritesOverEverything, theirs, write_blindly, "words/all: two writes replaced the same text"),
        (ForgetsDocuments, theirs, count_up, "words/all is not what was written last"),
    ],
)
async def test_a_broken_store_is_found(
    broken: Callable[[], InMemoryStore],
    given: Callable[[World], Any],
    handler: Callable[[World], Any],
    what: str,
) -> None:
    with pytest.raises(AssertionError) as caught:
        await crash_everywhere(handler, given=given, store=broken)
    assert caught.match(what)
