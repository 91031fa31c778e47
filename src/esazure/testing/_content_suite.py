"""What every `IEventsRepository` promises about ids, payloads and sizes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esazure.context import metadata
from esazure.errors import AggregateNotFoundError, CommitTooLargeError, EventNotStorableError, InvalidIdError
from esazure.keys import MAX_COMMIT_BYTES, MAX_DENSE_COMMIT_BYTES
from esazure.ports import IEventsRepository
from esazure.testing._counter import Counter, Kept, Noted, counter_with, fresh_id, fresh_type
from esazure.testing._hostile import SHAPES, dense, hostile_ids, id_one_over_the_limit, incompressible, nested
from esazure.testing._repository_suite import MakesRepositories

_ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)

# The suite is inherited by several classes and the repository may be shared between examples; both are meant so.
_ON_ANY_BACKEND = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow],
)


async def _for_each(texts: Iterable[str], work: Callable[[str], Coroutine[Any, Any, None]]) -> None:
    """Concurrently, but gently: a real store is reached through a few connections."""
    slots = asyncio.Semaphore(16)

    async def run(text: str) -> None:
        async with slots:
            await work(text)

    await asyncio.gather(*[run(text) for text in texts])


@pytest.mark.asyncio
class ContentPromises:
    """Ids, payloads and sizes; uses the fixtures of `StreamPromises`."""

    async def test_every_hostile_id_is_a_stream_of_its_own(self, events: MakesRepositories) -> None:
        aggregate_class = fresh_type()
        repository: IEventsRepository[Counter, str] = events(aggregate_class)
        ids = hostile_ids(aggregate_class.aggregate_type)
        assert len(ids) > 600

        async def store(id: str) -> None:
            counter = aggregate_class(id)
            counter.note(id, f"{len(id)}")
            await repository.append(counter)

        async def compare(id: str) -> None:
            again = await repository.rehydrate(id)
            assert again.notes == [id, f"{len(id)}"]
            assert (again.id, again.version) == (id, 2)

        await _for_each(ids, store)
        await _for_each(ids, compare)

    @pytest.mark.parametrize("id", ["\ud800", "a\udfffb", "\udc80"], ids=ascii)  # noqa: PT014 - surrogates look alike to the linter
    async def test_an_id_that_is_not_unicode_is_refused(
        self, counters: IEventsRepository[Counter, str], id: str
    ) -> None:
        counter = Counter(id)
        counter.note("a")
        with pytest.raises(InvalidIdError):
            await counters.append(counter)
        with pytest.raises(InvalidIdError):
            await counters.rehydrate(id)

    async def test_an_id_one_character_too_long_is_refused(self, counters: IEventsRepository[Counter, str]) -> None:
        too_long = id_one_over_the_limit("Counter")
        with pytest.raises(InvalidIdError, match="480"):
            await counters.append(counter_with("a", id=too_long))
        with pytest.raises(InvalidIdError, match="480"):
            await counters.rehydrate(too_long)

    async def test_every_shape_of_json_comes_back_as_it_went(self, counters: IEventsRepository[Counter, str]) -> None:
        counter = Counter(fresh_id())
        counter.keep(*SHAPES)
        await counters.append(counter)
        again = await counters.rehydrate(counter.id)
        assert len(again.kept) == len(SHAPES)
        for kept, shape in zip(again.kept, SHAPES, strict=True):
            assert repr(kept) == repr(shape)  # also tells 1 from True and -0.0 from 0.0

    @_ON_ANY_BACKEND
    @given(values=st.lists(_ANY_JSON, min_size=1, max_size=5), text=st.text())
    async def test_any_json_comes_back_as_it_went(
        self, counters: IEventsRepository[Counter, str], values: list[Any], text: str
    ) -> None:
        counter = counter_with(text)
        counter.keep(*values)
        await counters.append(counter)
        again = await counters.rehydrate(counter.id)
        assert again.notes == [text]
        assert repr(again.kept) == repr(values)

    @pytest.mark.parametrize(
        "value",
        [float("nan"), [float("inf")], {"a": {"b": float("-inf")}}, "\ud800", {"\udc00": 1}, nested(400), 10**5000],
        ids=["nan", "infinity", "nested infinity", "lone surrogate", "lone surrogate in a key", "depth", "digits"],
    )
    async def test_what_json_cannot_carry_is_refused_where_it_is_recorded(
        self, counters: IEventsRepository[Counter, str], value: Any
    ) -> None:
        counter = counter_with("before")
        counter.keep("fine")  # so that the type has been seen before
        await counters.append(counter)

        with pytest.raises(EventNotStorableError) as caught:
            counter.record(Kept.model_construct(value=value))

        assert len(str(caught.value)) < 500, "the value is not in the message"
        assert (counter.pending, counter.version) == ((), 2)
        assert await counters.append(counter) is None
        assert (await counters.rehydrate(counter.id)).version == 2

    async def test_a_commit_just_below_the_limit_is_stored(self, counters: IEventsRepository[Counter, str]) -> None:
        overhead = len('Noted {"text":""}\n')
        half = MAX_COMMIT_BYTES // 2 - overhead
        counter = counter_with(incompressible(half), incompressible(half - 1))
        await counters.append(counter)
        again = await counters.rehydrate(counter.id)
        assert again.notes == counter.notes

    async def test_a_commit_of_one_event_just_below_the_limit_is_stored(
        self, counters: IEventsRepository[Counter, str]
    ) -> None:
        counter = counter_with("\u20ac" * ((MAX_COMMIT_BYTES - 20) // 3))
        await counters.append(counter)
        assert (await counters.rehydrate(counter.id)).notes == counter.notes

    @pytest.mark.parametrize(
        "text",
        [incompressible(MAX_COMMIT_BYTES), "\u20ac" * (MAX_COMMIT_BYTES // 3)],
        ids=["in ASCII", "in characters of three bytes"],
    )
    async def test_a_commit_just_above_the_limit_is_refused_and_changes_nothing(
        self, counters: IEventsRepository[Counter, str], text: str
    ) -> None:
        counter = counter_with("small")
        await counters.append(counter)
        counter.note(text)

        with pytest.raises(CommitTooLargeError):
            await counters.append(counter)

        assert (len(counter.pending), counter.version) == (1, 2)
        assert (await counters.rehydrate(counter.id)).notes == ["small"]

    async def test_dense_text_is_stored_or_refused_by_its_size_on_the_wire(
        self, counters: IEventsRepository[Counter, str]
    ) -> None:
        fits = counter_with(dense(MAX_DENSE_COMMIT_BYTES))
        await counters.append(fits)
        assert (await counters.rehydrate(fits.id)).notes == fits.notes

        too_much = counter_with(dense(MAX_COMMIT_BYTES - 100))
        with pytest.raises(CommitTooLargeError):
            await counters.append(too_much)
        assert too_much.version == len(too_much.pending) == 1

    async def test_metadata_over_the_limit_is_refused_and_changes_nothing(
        self, counters: IEventsRepository[Counter, str]
    ) -> None:
        counter = counter_with("a")
        with metadata(user="x" * 9_000), pytest.raises(CommitTooLargeError):
            await counters.append(counter)
        assert counter.version == len(counter.pending) == 1
        with pytest.raises(AggregateNotFoundError):
            await counters.rehydrate(counter.id)

    async def test_a_thousand_events_are_one_commit(self, counters: IEventsRepository[Counter, str]) -> None:
        counter = counter_with(*map(str, range(1_000)))
        commit = await counters.append(counter)
        assert commit is not None
        assert (commit.first_version, commit.last_version, len(commit.recorded)) == (1, 1_000, 1_000)
        assert commit.recorded[999] == Noted(text="999")
        again = await counters.rehydrate(counter.id)
        assert (again.version, again.notes) == (1_000, counter.notes)
        assert (await counters.rehydrate(counter.id, version=998)).notes[-1] == "997"
