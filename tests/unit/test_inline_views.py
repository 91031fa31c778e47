"""Inline views: as of the last commit, computed anew when the code has changed, refused when they do not come back."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator
from tests.support.races import RacyStore
from tests.unit.doubles import TroubledStore

from esazure import (
    AppendOutcomeUnknownError,
    CommitTooLargeError,
    ConcurrencyError,
    EventNotStorableError,
    EventsService,
    StoreError,
    StoreUnavailableError,
    UnusableAggregateError,
)
from esazure.events import CommitRecord
from esazure.inline import InlineView
from esazure.keys import MAX_COMMIT_BYTES
from esazure.limits import MAX_INLINE_VIEWS
from esazure.memory import InMemoryStore
from esazure.ports import ViewRecord
from esazure.sqlite import SqliteStore
from esazure.store import Store
from esazure.testing._counter import Counter, Gauge, Incremented, counter_with
from esazure.testing.faults import World, crash_everywhere

ID = "c"
STREAM = f"Counter.{ID}"
calls: list[int] = []


class Card(BaseModel):
    notes: list[str]
    version: int


class NewCard(BaseModel):
    notes: list[str]
    version: int
    total: int = 0
    """With a default, so that an old card can be read as a new one, and would be wrong."""


class Total(BaseModel):
    total: int = Field(alias="sum")


class Number(BaseModel):
    number: float | None


class Special(Card):
    """A subclass: what it adds would be lost."""


def card(counter: Counter) -> Card:
    calls.append(counter.version)
    return Card(notes=list(counter.notes), version=counter.version)


def new_card(counter: Counter) -> NewCard:
    calls.append(counter.version)
    return NewCard(notes=list(counter.notes), version=counter.version, total=counter.total)


new_card.__name__ = "card"


def total(counter: Counter) -> Total:
    return Total(sum=counter.total)


@pytest.fixture(autouse=True)
def no_calls_yet() -> None:
    calls.clear()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with InMemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "a.db") as opened:
        yield opened


async def test_a_view_shows_each_commit_as_soon_as_it_is_stored(store: Store) -> None:
    counters = store.events(Counter, views=[card, total])
    service = EventsService(counters)
    counter = counter_with("a", "b", id=ID)
    await service.persist(counter)
    assert await counters.view(card).get(ID) == Card(notes=["a", "b"], version=2)
    counter.increment(5)
    await service.persist(counter)
    assert await counters.view(card).get(ID) == Card(notes=["a", "b"], version=3)
    await service.update(ID, lambda it: it.note("c"))
    assert await counters.view(card).get(ID) == Card(notes=["a", "b", "c"], version=4)
    assert await counters.view(total).get(ID) == Total(sum=5)


async def test_of_an_unknown_id_there_is_no_view(store: Store) -> None:
    counters = store.events(Counter, views=[card])
    assert await counters.view(card).get("nobody") is None
    gauges = store.events(Gauge, views=[gauge_card])
    assert await gauges.view(gauge_card).get(uuid4()) is None
    assert await store.read_view("Counter.nobody", "card") is None


def gauge_card(gauge: Gauge) -> Number:
    return Number(number=gauge.total)


async def test_ids_that_are_uuids_find_their_view(store: Store) -> None:
    gauges = store.events(Gauge, views=[gauge_card])
    gauge = Gauge(UUID(int=7))
    gauge.record(Incremented(by=3))
    await gauges.append(gauge)
    assert await gauges.view(gauge_card).get(UUID(int=7)) == Number(number=3)


async def test_a_persist_stays_one_insert_and_a_read_one_read() -> None:
    class Counting(TroubledStore):
        async def read(self, stream: str, **kwargs: Any) -> Any:
            self.calls.append("read")
            return await super().read(stream, **kwargs)

        async def read_view(self, stream: str, name: str) -> ViewRecord | None:
            self.calls.append("read_view")
            return await super().read_view(stream, name)

        async def write_view(self, stream: str, view: ViewRecord, *, seen: ViewRecord | None) -> bool:
            self.calls.append("write_view")
            return await super().write_view(stream, view, seen=seen)

    store = Counting()
    counters = store.events(Counter, views=[card, total])
    await counters.append(counter_with("a", id=ID))
    await counters.view(card).get(ID)
    assert store.calls == ["insert", "read_view"]


# What the code has changed.


async def test_a_stream_that_is_older_than_the_view_gets_it_at_the_first_read(store: Store) -> None:
    await store.events(Counter).append(counter_with("a", id=ID))
    counters = store.events(Counter, views=[card])
    for _ in range(3):
        assert await counters.view(card).get(ID) == Card(notes=["a"], version=1)
    assert calls == [1], "computed once"


async def test_a_view_of_another_shape_is_computed_anew_once(store: Store) -> None:
    counter = counter_with("a", id=ID)
    counter.increment(5)
    await store.events(Counter, views=[card]).append(counter)
    counters = store.events(Counter, views=[new_card])
    calls.clear()
    for _ in range(3):
        assert await counters.view(new_card).get(ID) == NewCard(notes=["a"], version=2, total=5)
    assert calls == [2], "computed once"
    await EventsService(counters).update(ID, lambda it: it.increment())
    assert await counters.view(new_card).get(ID) == NewCard(notes=["a"], version=3, total=6)


@pytest.mark.parametrize("text", ["", "[]", '{"notes": 7}', '{"payload-marker'])
async def test_a_damaged_view_is_computed_anew(store: Store, text: str) -> None:
    counters = store.events(Counter, views=[card])
    await counters.append(counter_with("a", id=ID))
    seen = await store.read_view(STREAM, "card")
    assert seen is not None
    assert await store.write_view(STREAM, ViewRecord("card", seen.shape, 1, text), seen=seen)
    assert await counters.view(card).get(ID) == Card(notes=["a"], version=1)
    repaired = await store.read_view(STREAM, "card")
    assert repaired is not None
    assert repaired.text == seen.text


async def test_a_writer_who_is_faster_than_a_repair_wins() -> None:
    class Slow(InMemoryStore):
        async def write_view(self, stream: str, view: ViewRecord, *, seen: ViewRecord | None) -> bool:
            await counters_of(self).append(mine)
            return await super().write_view(stream, view, seen=seen)

    def counters_of(store: InMemoryStore) -> Any:
        return store.events(Counter, views=[card])

    store = Slow()
    await store.events(Counter).append(counter_with("a", id=ID))
    mine = await counters_of(store).rehydrate(ID)
    mine.note("b")
    assert await counters_of(store).view(card).get(ID) == Card(notes=["a"], version=1), "as it was when it was loaded"
    stored = await store.read_view(STREAM, "card")
    assert stored is not None
    assert (stored.version, '"b"' in stored.text) == (2, True)
    assert await counters_of(store).view(card).get(ID) == Card(notes=["a", "b"], version=2)


async def test_writers_and_repairs_never_leave_an_older_view_however_they_interleave() -> None:
    async def look(get: Callable[[str], Any]) -> list[int]:
        return [(await get(ID)).version for _ in range(3)]

    for seed in range(200):
        store = RacyStore(seed)
        await store.events(Counter).append(counter_with("a", id=ID))
        counters = store.events(Counter, views=[card])
        service = EventsService(counters)
        older = EventsService(store.events(Counter))  # a release that does not know the view
        writes = [it.update(ID, lambda it: it.note("b")) for it in (service, older, service)]
        seen, *_ = await asyncio.gather(look(counters.view(card).get), *writes)
        assert seen == sorted(seen), f"seed {seed}"
        latest = await counters.view(card).get(ID)
        assert latest == Card(notes=["a", "b", "b", "b"], version=4), f"seed {seed}"


@pytest.mark.parametrize("error", [StoreError("read only"), StoreUnavailableError("throttled")])
async def test_who_cannot_write_the_repair_gets_the_view_all_the_same(error: StoreError) -> None:
    class ReadOnly(InMemoryStore):
        async def write_view(self, stream: str, view: ViewRecord, *, seen: ViewRecord | None) -> bool:
            raise error

    store = ReadOnly()
    await store.events(Counter).append(counter_with("a", id=ID))
    assert await store.events(Counter, views=[card]).view(card).get(ID) == Card(notes=["a"], version=1)


async def test_a_view_is_never_behind_whatever_happens_to_the_persist() -> None:
    async def handler(world: World) -> None:
        service = EventsService(world.events(Counter, views=[card]), world.producer)
        await service.update(ID, lambda it: it.note("b"), command_id="note-b")

    async def given(world: World) -> None:
        await world.events(Counter).append(counter_with("a", id=ID))

    async def check(world: World) -> None:
        counters = world.events(Counter, views=[card])
        assert await counters.view(card).get(ID) == card(await counters.rehydrate(ID))

    report = await crash_everywhere(handler, given=given, check=check)
    assert [point.method for point in report.points].count("insert") == 1


# What cannot be stored.


async def refused(function: Any, match: str, counter: Counter | None = None) -> str:
    """Nothing is stored or asked, and the aggregate is as it was."""
    store = TroubledStore()
    mine = counter or counter_with("payload-marker", id=ID)
    pending = mine.pending
    with pytest.raises(EventNotStorableError, match=match) as caught:
        await store.events(Counter, views=[total, function]).append(mine)
    assert store.calls == []
    assert mine.pending == pending
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "payload-marker" not in str(caught.value)
    mine.note("still usable")
    await store.events(Counter).append(mine)
    return str(caught.value)


async def test_what_a_view_function_raises_comes_out_and_nothing_is_stored() -> None:
    def broken(counter: Counter) -> Card:
        raise ZeroDivisionError

    store = TroubledStore()
    counter = counter_with("a", id=ID)
    with pytest.raises(ZeroDivisionError):
        await store.events(Counter, views=[broken]).append(counter)
    assert store.calls == []
    counter.note("b")
    await store.events(Counter).append(counter)
    with pytest.raises(ZeroDivisionError):
        await store.events(Counter, views=[broken]).view(broken).get(ID)
    assert await store.read_view(STREAM, "broken") is None


@pytest.mark.parametrize("wrong", [None, {}, Special(notes=[], version=1), Total(sum=1)])
async def test_a_view_of_another_type_is_refused(wrong: Any) -> None:
    def card(counter: Counter) -> Card:
        return wrong  # type: ignore[no-any-return]

    message = await refused(card, "the view card of Counter cannot be stored")
    assert message.endswith(f"the function returned {type(wrong).__name__}, not Card")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
async def test_a_number_that_json_has_no_word_for_is_refused(number: float) -> None:
    def card(counter: Counter) -> Number:
        return Number(number=number)

    assert "number" in await refused(card, "cannot be stored")


class Masked(BaseModel):
    name: str
    shown: str = Field(default="", exclude=True)


class Loud(BaseModel):
    name: str

    @field_serializer("name")
    def louder(self, name: str) -> str:
        return name.upper()


class Picky(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def known(cls, name: str) -> str:
        if name == "payload-marker":
            raise ValueError(name)
        return name


class Anything(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    value: Any


def masked(counter: Counter) -> Masked:
    return Masked(name="a", shown="payload-marker")


def loud(counter: Counter) -> Loud:
    return Loud(name="payload-marker")


def picky(counter: Counter) -> Picky:
    return Picky.model_construct(name="payload-marker")


def anything(counter: Counter) -> Anything:
    return Anything(value=object())


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (masked, "shown: what would be read back is not equal to it"),
        (loud, "name: what would be read back is not equal to it"),
        (picky, "cannot be read back: name: "),
        (anything, "value: it cannot be written as JSON (PydanticSerializationError)"),
    ],
)
async def test_a_view_that_would_not_come_back_as_it_is_is_refused(function: Any, why: str) -> None:
    assert why in await refused(function, "cannot be stored")


async def test_a_view_counts_into_the_limit_of_a_commit() -> None:
    def card(counter: Counter) -> Card:
        return Card(notes=["x" * MAX_COMMIT_BYTES], version=1)

    store = TroubledStore()
    counter = counter_with("a", id=ID)
    with pytest.raises(CommitTooLargeError):
        await store.events(Counter, views=[card]).append(counter)
    assert (store.calls, len(counter.pending)) == ([], 1)


# With everything else that can happen to an append.


async def test_a_conflict_leaves_the_view_as_it_was(store: Store) -> None:
    counters = store.events(Counter, views=[card])
    await counters.append(counter_with("a", id=ID))
    with pytest.raises(ConcurrencyError):
        await counters.append(counter_with("mine", id=ID))
    assert await counters.view(card).get(ID) == Card(notes=["a"], version=1)


@pytest.mark.parametrize("lost", ["lost on the way there", "lost on the way back"])
async def test_the_retry_of_an_append_stores_the_view(lost: str) -> None:
    store = TroubledStore(lost)
    counters = store.events(Counter, views=[card])
    with pytest.raises(AppendOutcomeUnknownError) as caught:
        await counters.append(counter_with("a", id=ID))
    await caught.value.retry()
    calls.clear()
    assert await counters.view(card).get(ID) == Card(notes=["a"], version=1)
    assert calls == [], "it was stored, not computed"


async def test_a_repeated_command_leaves_the_view_as_it_was(store: Store) -> None:
    counters = store.events(Counter, views=[card])
    await counters.append(counter_with("a", id=ID), command_id="open-1")
    await counters.append(counter_with("another", id=ID), command_id="open-1")
    assert await counters.view(card).get(ID) == Card(notes=["a"], version=1)


# Declaring them.


def without_a_type(counter: Counter):  # type: ignore[no-untyped-def]  # noqa: ANN201 - the point
    return card(counter)


def of_no_model(counter: Counter) -> dict[str, Any]:
    return {}


def of_any_model(counter: Counter) -> BaseModel:
    return card(counter)


def a_name_of_more_than_20_characters(counter: Counter) -> Card:
    return card(counter)


@pytest.mark.parametrize(
    "function",
    [
        without_a_type,
        of_no_model,
        of_any_model,
        a_name_of_more_than_20_characters,
        lambda _: card(Counter(ID)),
        functools.partial(card),
        Card,
        len,
        "card",
    ],
)
def test_what_is_no_view_function_is_refused(function: Any) -> None:
    with pytest.raises(TypeError, match=r"an inline view is a function .* says which pydantic model it returns"):
        InMemoryStore().events(Counter, views=[function])


def test_types_that_cannot_be_found_are_named() -> None:
    def card(counter: Unfindable) -> Card:  # type: ignore[name-defined]  # noqa: F821 - the point
        return Card(notes=[], version=1)

    with pytest.raises(TypeError, match="signature of card must be importable: Unfindable is not"):
        InMemoryStore().events(Counter, views=[card])


def test_two_views_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        InMemoryStore().events(Counter, views=[card, new_card])


def test_only_views_of_this_repository_can_be_read() -> None:
    with pytest.raises(KeyError):
        InMemoryStore().events(Counter, views=[card]).view(total)


def test_the_shape_is_that_of_the_model_and_of_the_code_that_makes_it() -> None:
    def other(counter: Counter) -> Card:
        return card(counter)

    assert InlineView(Counter, card).shape == InlineView(Counter, card).shape
    assert InlineView(Counter, card).shape != InlineView(Counter, other).shape
    assert InlineView(Counter, card).shape != InlineView(Counter, new_card).shape


class Late(BaseModel):
    model_config = ConfigDict(defer_build=True)

    version: int


async def test_a_model_whose_schema_is_built_late_will_do() -> None:
    def late(counter: Counter) -> Late:
        return Late(version=counter.version)

    counters = InMemoryStore().events(Counter, views=[late])
    await counters.append(counter_with("a", id=ID))
    assert await counters.view(late).get(ID) == Late(version=1)


async def test_a_record_is_handed_over_with_the_commit_it_belongs_to() -> None:
    class Noting(InMemoryStore):
        seen: Any = None

        async def insert(self, record: CommitRecord, *, outbox: bool, views: Any = ()) -> None:
            self.seen = record.last_version, [(view.name, view.version) for view in views]

    store = Noting()
    await store.events(Counter, views=[card, total]).append(counter_with("a", "b", id=ID))
    assert store.seen == (2, [("card", 2), ("total", 2)])


class Shown(BaseModel):
    """Nothing."""


@pytest.mark.parametrize("store", [InMemoryStore(), SqliteStore("never-opened.db")], ids=["memory", "sqlite"])
def test_a_class_has_as_many_inline_views_everywhere(store: Store) -> None:
    def view(number: int) -> Callable[[Counter], BaseModel]:
        def show(counter: Counter) -> Shown:
            return Shown()

        show.__name__ = f"show_{number}"
        return show

    views = [view(number) for number in range(MAX_INLINE_VIEWS + 1)]
    store.events(Counter, views=views[1:])
    with pytest.raises(ValueError, match="81 inline views, at most 80"):
        store.events(Counter, views=views)


def recording(counter: Counter) -> Card:
    counter.note("by the view")
    return Card(notes=counter.notes, version=counter.version)


async def test_a_view_function_that_records_is_refused_and_nothing_is_stored() -> None:
    store = InMemoryStore()
    counters, counter = store.events(Counter, views=[recording]), counter_with("a")
    with pytest.raises(UnusableAggregateError, match="record in command methods alone"):
        await counters.append(counter)
    assert (await store.read(STREAM), len(counter.pending), counter.notes) == ([], 1, ["a"])
