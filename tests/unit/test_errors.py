"""One tree, described in one place, that never quotes what users stored."""

from __future__ import annotations

import copy
import logging
import pickle
import re
from typing import Any

import pytest
from tests.unit.doubles import TroubledProducer, TroubledStore, broker_down

from esazure import errors, metadata
from esazure.errors import (
    AggregateNotFoundError,
    AppendOutcomeUnknownError,
    ConcurrencyError,
    DispatchError,
    EsAzureError,
    StoreError,
    UnknownEventTypeError,
)
from esazure.service import EventsService
from esazure.testing._counter import Counter, Kept, counter_with

MARKER = "payload-marker"


def subclasses(error: type[Exception], depth: int = 0) -> list[tuple[int, str]]:
    below = [entry for child in error.__subclasses__() for entry in subclasses(child, depth + 1)]
    return [(depth, error.__name__), *below] if error.__module__ == errors.__name__ else []


def test_the_docstring_is_the_tree() -> None:
    described = re.findall(r"^( *)\* (\w+)", errors.__doc__ or "", re.MULTILINE)
    assert sorted((len(indent) // 2, name) for indent, name in described) == sorted(subclasses(EsAzureError))


async def test_no_error_log_or_repr_quotes_an_event(caplog: pytest.LogCaptureFixture) -> None:
    store = TroubledStore(None, "lost on the way back")
    service = EventsService(store.events(Counter), TroubledProducer(broker_down(), RuntimeError(MARKER)))
    found: list[BaseException] = []

    async def expect(error_type: type[BaseException], counter: Counter) -> None:
        with pytest.raises(error_type) as caught:
            await service.persist(counter)
        found.append(caught.value)

    with caplog.at_level(logging.DEBUG), metadata(user=MARKER):
        counter = counter_with(MARKER)
        commit = await service.persist(counter)
        counter.note(MARKER)
        await expect(errors.AppendOutcomeUnknownError, counter)
        with pytest.raises(errors.UnusableAggregateError) as unusable:
            counter.note(MARKER)
        await service.persist(counter)
        await expect(errors.ConcurrencyError, counter_with(MARKER, id=counter.id))
        await expect(errors.CommitTooLargeError, counter_with(MARKER * 300_000))
        odd = counter_with(MARKER)
        with pytest.raises(errors.EventNotStorableError) as not_storable:
            odd.record(Kept.model_construct(value=[MARKER, float("nan")]))
        past = await service.rehydrate(counter.id, version=1)
        past.note(MARKER)
        await expect(errors.ReadOnlyAggregateError, past)

    things: list[Any] = [
        *found,
        not_storable.value,
        unusable.value,
        commit,
        counter,
        past,
        service,
        store,
        *counter.pending,
    ]
    for thing in things:
        assert MARKER not in str(thing) + repr(thing)
    assert "not dispatched" in caplog.text
    assert MARKER not in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        AggregateNotFoundError("S.a", 3),
        AppendOutcomeUnknownError("S.a", expected=2, commit_id="c"),
        ConcurrencyError("S.a", expected=2, actual=5),
        DispatchError("text", unpublishable=True),
        StoreError("text"),
        UnknownEventTypeError("S.a", "Name", ("A", "B")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_process_borders(error: EsAzureError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert str(copy.copy(error)) == str(error)
