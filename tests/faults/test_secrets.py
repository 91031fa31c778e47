"""The watch over all tests bites, and the roads on which payloads and keys travel are clean at DEBUG."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from tests.support.secrets import MARKER, SecretsWatch

from esazure import (
    CommitStore,
    CommitTooLargeError,
    ConcurrencyError,
    CorruptStreamError,
    DispatchError,
    EsAzureError,
    EventsService,
    StoreError,
    metadata,
)
from esazure.memory import InMemoryEventProducer, InMemoryStore
from esazure.servicebus import ServiceBus
from esazure.sqlite import SqliteStore
from esazure.tables import TableStore
from esazure.testing.conformance import Counter
from esazure.testing.servicebus import ServiceBusDouble


def marked() -> Counter:
    counter = Counter(uuid4().hex)
    counter.note(MARKER)
    return counter


@pytest.mark.parametrize(
    "text",
    [
        MARKER,
        "AccountKey=abc",
        "SharedAccessKey=abc",
        "https://a.table.core.windows.net/?sv=1&sig=abc",
        "Authorization: SharedKey a:b",
    ],
)
def test_the_watch_finds_what_is_logged_or_raised(no_secret_leaves: SecretsWatch, text: str) -> None:
    before = len(no_secret_leaves.found)
    logging.getLogger("anything").debug("said %s", text)
    logging.getLogger("anything").debug("failed", exc_info=ValueError(text))
    EsAzureError(f"it was {text}")
    assert len(no_secret_leaves.found) == before + 3
    del no_secret_leaves.found[before:]


@pytest.fixture(params=["memory", "sqlite", pytest.param("tables", marks=pytest.mark.azurite)])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CommitStore]:
    opened: CommitStore
    if request.param == "memory":
        opened = InMemoryStore()
    elif request.param == "sqlite":
        opened = SqliteStore(tmp_path / "secrets.db")
    else:
        connection_string = request.getfixturevalue("tables")
        opened = TableStore.from_connection_string(connection_string, table=f"t{uuid4().hex}")
    async with opened:
        yield opened


async def test_a_store_says_nothing_of_what_it_stores(store: CommitStore, no_secret_leaves: SecretsWatch) -> None:
    service = EventsService(store.events(Counter), InMemoryEventProducer())
    counter = marked()
    with metadata(user=MARKER):
        commit = await service.persist(counter)
    stale = await service.rehydrate(counter.id)
    counter.note(MARKER)
    await service.persist(counter)
    stale.note(MARKER)
    with pytest.raises(ConcurrencyError):
        await service.persist(stale)
    stale.note(MARKER * 300_000)
    with pytest.raises(CommitTooLargeError):
        await service.persist(stale)
    assert commit is not None
    for shown in (store, service, counter, commit, commit.record, commit.events, commit.events[0]):
        no_secret_leaves.look(f"the repr of {type(shown).__name__}", repr(shown))


async def test_a_damaged_row_is_not_quoted() -> None:
    store = InMemoryStore()
    counter = marked()
    await store.events(Counter).append(counter)
    ((record, *_),) = store._streams.values()
    object.__setattr__(record, "payload", f'Noted {{"{MARKER}":"{MARKER}"}}')
    with pytest.raises(CorruptStreamError):
        await store.events(Counter).rehydrate(counter.id)


@pytest.mark.azurite
async def test_a_refused_key_is_not_shown(tables: str) -> None:
    wrong = re.sub(r"AccountKey=[^;]+", "AccountKey=cGF5bG9hZC1tYXJrZXI=", tables)
    store = TableStore.from_connection_string(wrong, table="secrets")
    with pytest.raises(StoreError) as caught:
        await store.__aenter__()
    assert "cGF5bG9hZC1tYXJrZXI" not in f"{caught.value}{caught.value!r}{store!r}"


@pytest.mark.amqp
async def test_publishing_says_nothing_of_what_it_publishes(
    no_secret_leaves: SecretsWatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with ServiceBusDouble() as double:
        double.topic("secrets")
        async with ServiceBus.from_connection_string(double.connection_string) as bus:
            producer = bus.producer("secrets")
            await EventsService(InMemoryStore().events(Counter), producer).persist(marked())
            missing = EventsService(InMemoryStore().events(Counter, outbox=False), bus.producer("missing"))
            with pytest.raises(DispatchError) as caught:
                await missing.persist(marked())
            for shown in (bus, producer, caught.value, caught.value.__cause__, double):
                no_secret_leaves.look(f"the repr of {type(shown).__name__}", f"{shown!r} {shown}")
