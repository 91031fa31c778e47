"""Documents and commands when requests and answers get lost: no update is lost, none is made twice, none is made up.

The same on a table in memory and, through the SDK and a proxy, on Azurite. What was done is read from what is stored:
everybody leaves marks of his own.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter as Tally
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar
from unittest.mock import patch
from uuid import uuid4

import pytest
from tests.support.fake_tables import FakeTable, fake_store
from tests.support.table_faults import Dice, proxy_faults
from tests.support.table_proxy import TableProxy

import esazure.tables.store as table_store
from esazure.errors import (
    AppendOutcomeUnknownError,
    CommandHandledError,
    ConcurrencyError,
    StoreUnavailableError,
)
from esazure.events import CommitRecord
from esazure.tables import TableStore
from esazure.testing._counter import commit_of

pytestmark = pytest.mark.long

T = TypeVar("T")

_log = logging.getLogger("stress")

CLIENTS = 6
PLACES = [pytest.param("memory", 60, id="memory"), pytest.param("azurite", 12, marks=pytest.mark.azurite, id="azurite")]
"""Where, and how much is done there."""
READ_TIMEOUT = 0.5
SEEDS = 2


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    soak: int = metafunc.config.getoption("--soak", 1)
    metafunc.parametrize("seed", range(1, SEEDS * soak + 1))


@dataclass
class World:
    """Clients of their own, on a way that loses requests until it is `calm`."""

    stores: list[TableStore]
    dice: Dice

    async def calm(self) -> None:
        """No more faults, and what is late has arrived."""
        _log.info("%d requests, of which met: %s", self.dice.requests, dict(self.dice.met))
        assert sum(self.dice.met.values()) > self.dice.requests / 10, "little went wrong, this proves nothing"
        self.dice.stop()
        await self.dice.settled()


@asynccontextmanager
async def world(place: str, seed: int, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        if place == "memory":
            dice, table = Dice(seed, hang=0.02, late=0.1), FakeTable()

            def make() -> TableStore:
                return fake_store(table, dice, deadline=5.0, shards=1)
        else:
            dice, name = Dice(seed, hang=READ_TIMEOUT + 0.2, late=0.3), f"t{uuid4().hex}"
            patience = {**table_store._CLIENT, "read_timeout": READ_TIMEOUT, "retry_backoff_factor": 0.02}
            stack.enter_context(patch.object(table_store, "_CLIENT", patience))
            proxy = await stack.enter_async_context(TableProxy(request.getfixturevalue("tables")))
            proxy.fault = proxy_faults(dice)

            def make() -> TableStore:
                return TableStore.from_connection_string(proxy.connection_string, table=name, deadline=8.0, shards=1)

        share, dice.share = 0.25, 0.0
        stores = [await stack.enter_async_context(make()) for _ in range(CLIENTS)]
        dice.share = share
        yield World(stores, dice)


async def answered(call: Callable[[], Awaitable[T]]) -> T:
    """However often it has to be asked."""
    while True:
        with suppress(StoreUnavailableError):
            return await call()


async def marks_in(store: TableStore, key: str) -> tuple[str | None, list[str]]:
    """The tag and the content of a document."""
    document = await answered(lambda: store.read_document("counters", key))
    return (None, []) if document is None else (document.tag, json.loads(document.text))


async def add_mark(store: TableStore, key: str, mark: str) -> str:
    """Until it is written, or nobody knows."""
    tag, marks = await marks_in(store, key)
    while True:
        try:
            tag = await store.write_document("counters", key, json.dumps([*marks, mark]), seen=tag)
        except StoreUnavailableError:
            return "unknown"
        if tag is not None:
            return "written"
        tag, marks = await marks_in(store, key)


@pytest.mark.parametrize(("place", "updates"), PLACES)
async def test_every_acknowledged_update_of_a_document_is_there_once(
    place: str, updates: int, seed: int, request: pytest.FixtureRequest
) -> None:
    told: dict[str, str] = {}

    async def work(number: int, store: TableStore) -> None:
        for update in range(updates):
            mark = f"{number}.{update}"
            told[mark] = await add_mark(store, f"key-{update % 2}", mark)

    async with world(place, seed, request) as found:
        await asyncio.gather(*[work(*each) for each in enumerate(found.stores)])
        await found.calm()
        stored = Tally([mark for key in ("key-0", "key-1") for mark in (await marks_in(found.stores[0], key))[1]])
    outcomes = Tally(told.values())
    _log.info("%s, seed %d: %s", place, seed, dict(outcomes))
    allowed = {"written": (1,), "unknown": (0, 1)}
    assert not {mark: (what, stored[mark]) for mark, what in told.items() if stored[mark] not in allowed[what]}
    assert outcomes["written"] > 3 / 4 * CLIENTS * updates, "answers that were lost are to be found out"


@pytest.mark.parametrize(("place", "updates"), PLACES)
async def test_one_of_many_creates_a_document_and_a_deleted_one_stays_deleted(
    place: str, updates: int, seed: int, request: pytest.FixtureRequest
) -> None:
    created: Tally[str] = Tally()
    unknown: set[str] = set()

    async def create(store: TableStore, key: str) -> None:
        try:
            tag = await store.write_document("c", key, "text", seen=None)
        except StoreUnavailableError:
            unknown.add(key)
        else:
            created[key] += tag is not None

    async def delete(store: TableStore, key: str) -> None:
        while (document := await answered(lambda: store.read_document("c", key))) is not None:
            with suppress(StoreUnavailableError):
                await store.delete_document("c", key, seen=document.tag)

    async with world(place, seed, request) as found:
        keys = [f"{number}" for number in range(updates)]
        for key in keys:
            await asyncio.gather(*[create(store, key) for store in found.stores])
            if created[key]:
                await delete(Random(seed).choice(found.stores), key)  # noqa: S311 - not a secret
        await found.calm()
        left = {document.key for document in (await found.stores[0].list_documents("c")).documents}
    assert set(created.values()) <= {0, 1}
    assert {key for key in keys if not created[key]} <= unknown
    assert not left & {key for key in keys if created[key]}, "a copy that came late brought it back"
    assert sum(created.values()) > updates / 2


async def carry_out(store: TableStore, command_id: str, streams: list[str], told: list[tuple[str, object]]) -> None:
    """Load, append under the command's id, and again after a conflict; or after no answer, with the same commit."""
    stream = streams[int(command_id) % len(streams)]
    commit: CommitRecord | None = None
    while True:
        if commit is None:
            stored = await answered(lambda: store.read(stream))
            first = stored[-1].last_version + 1 if stored else 1
            commit = replace(commit_of(stream, first, command_id), command_id=command_id)
        try:
            await store.insert(commit, outbox=False)
        except CommandHandledError as error:
            return told.append((command_id, error.first_version))
        except ConcurrencyError:
            commit = None
        except (AppendOutcomeUnknownError, StoreUnavailableError):
            continue
        else:
            return told.append((command_id, commit))


async def give_up(store: TableStore, command_id: str, streams: list[str], told: list[tuple[str, object]]) -> None:
    """Forbid the command."""
    stream = streams[int(command_id) % len(streams)]
    handled = await answered(lambda: store.find_command(stream, command_id, forbid=True))
    told.append((command_id, None if handled is None else handled.first_version))


@pytest.mark.parametrize(("place", "commands"), PLACES)
async def test_a_command_many_send_is_carried_out_once_or_given_up_and_all_are_told_the_same(
    place: str, commands: int, seed: int, request: pytest.FixtureRequest
) -> None:
    streams = ["Counter.a", "Counter.b"]
    told: list[tuple[str, object]] = []
    random = Random(seed)  # noqa: S311 - not a secret
    async with world(place, seed, request) as found:
        for number in range(commands):
            # Some are given up while others are about to carry them out.
            work = [carry_out] * (CLIENTS - 2) + [random.choice((carry_out, give_up)) for _ in range(2)]
            random.shuffle(work)
            tasks = [each(store, f"{number}", streams, told) for each, store in zip(work, found.stores, strict=True)]
            await asyncio.gather(*tasks)
        await found.calm()
        stored = [commit for stream in streams for commit in await found.stores[0].read(stream)]
    by_command = {commit.command_id: commit for commit in stored}
    assert len(by_command) == len(stored), "a command was carried out twice"
    for command_id, what in told:
        commit = by_command.get(command_id)
        if isinstance(what, CommitRecord):
            assert commit == what
        else:
            assert what == (None if commit is None else commit.first_version)
    assert len(told) == commands * CLIENTS
    given_up = commands - len(stored)
    _log.info("%s, seed %d: %d carried out, %d given up", place, seed, len(stored), given_up)
    assert min(len(stored), given_up) > 0
