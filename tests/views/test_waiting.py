"""Whoever wrote can wait until a view shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from tests.support.simulation import SimulatedLoop
from tests.support.watched_store import WatchedStore
from tests.views.support import OTHER, STREAM, Balance, nothing, to

from esazure.errors import ViewBehindError
from esazure.keys import stream_name
from esazure.testing._counter import Counter
from esazure.testing._hostile import hostile_ids
from esazure.views import parse_token

T = TypeVar("T")


def timed(work: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """What it returned, and how many seconds it took."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        began = runner.get_loop().time()
        return runner.run(work), runner.get_loop().time() - began


async def test_a_view_that_shows_it_already_is_returned_at_once() -> None:
    store = WatchedStore()
    views = store.views(Balance)
    await views.update("a", STREAM, 3, to(5))
    for version in (1, 2, 3):
        assert await views.wait_for("a", f"{STREAM}@{version}") == Balance(amount=5)


async def test_the_token_of_a_commit_is_understood() -> None:
    store = WatchedStore()
    views = store.views(Balance)
    counter = Counter(f"{uuid4()} é@.")
    counter.note("x", "y")
    commit = await store.events(Counter).append(counter)
    assert commit is not None
    await views.update("a", commit.stream, 2, to(5))
    assert await views.wait_for("a", commit.token) == Balance(amount=5)


def test_it_comes_back_soon_after_the_view_shows_it() -> None:
    store = WatchedStore()
    views = store.views(Balance)

    async def work() -> Balance | None:
        async def later() -> None:
            await asyncio.sleep(1.0)
            await store.another().views(Balance).update("a", OTHER, 9, to(1))
            await asyncio.sleep(1.0)
            await store.another().views(Balance).update("a", STREAM, 2, to(5))

        writing = asyncio.create_task(later())
        found = await views.wait_for("a", f"{STREAM}@2")
        await writing
        return found

    found, seconds = timed(work())
    assert found == Balance(amount=5)
    assert 2.0 <= seconds <= 2.25
    assert store.count("read_document balance-g1/a") < 20, "it does not ask all the time"


def test_a_short_wait_is_noticed_at_once() -> None:
    store = WatchedStore()
    views = store.views(Balance)

    async def work() -> None:
        async def later() -> None:
            await asyncio.sleep(0.03)
            await store.another().views(Balance).update("a", STREAM, 1, to(5))

        writing = asyncio.create_task(later())
        await views.wait_for("a", f"{STREAM}@1")
        await writing

    assert timed(work())[1] < 0.06


async def test_a_view_that_was_deleted_by_then_is_none() -> None:
    store = WatchedStore()
    views = store.views(Balance)
    await views.update("a", STREAM, 1, to(5))
    await views.update("a", STREAM, 2, nothing)
    assert await views.wait_for("a", f"{STREAM}@2") is None


def test_a_view_that_stays_behind_is_an_error_after_the_timeout() -> None:
    views = WatchedStore().views(Balance)

    async def work() -> str:
        await views.update("a", STREAM, 1, to(5))
        with pytest.raises(ViewBehindError) as behind:
            await views.wait_for("a", f"{STREAM}@2", timeout=3.0)
        assert behind.value.__cause__ is None
        return str(behind.value)

    message, seconds = timed(work())
    assert message.startswith("balance: the view did not show version 2 of Account.a within 3 s")
    assert 3.0 <= seconds < 3.1


def test_the_timeout_holds_while_the_store_does_not_answer() -> None:
    store = WatchedStore()
    views = store.views(Balance)
    store.hooks["read_document balance-g1/a"] = lambda: asyncio.sleep(60)

    async def work() -> None:
        with pytest.raises(ViewBehindError):
            await views.wait_for("a", f"{STREAM}@1", timeout=3.0)

    assert timed(work())[1] < 3.1


NO_TOKENS = pytest.mark.parametrize(
    "token",
    [
        *("", "@", "Account.a", "Account.a@", "@1", "Account@1", ".a@1", "Account.a@0", "Account.a@-1", "Account.a@01"),
        *("Account.a@1.0", "Account.a@x", "Account.a@1@2", "Account.a b@1", "Account.a@1\n", "Account.a@१"),
        *("Account.\ud800@1", "Account._ZZ@1", "Account._FF@1", f"Account.{'a' * 480}@1", f"Account.a@{'9' * 11}"),
    ],
)


@NO_TOKENS
async def test_what_is_no_token_is_refused_before_anything_is_read(token: str) -> None:
    store = WatchedStore()
    with pytest.raises(ValueError, match="not the token of a commit") as refused:
        await store.views(Balance).wait_for("a", token)
    assert refused.value.__context__ is None
    assert store.calls == []


@NO_TOKENS
def test_what_is_no_token_is_not_taken_apart(token: str) -> None:
    with pytest.raises(ValueError, match="this is not the token of a commit") as refused:
        parse_token(token)
    assert refused.value.__context__ is None


@pytest.mark.parametrize("id", ["a", "", "@", "a@7", "a.b", "_2E", "é", "\U0001f600", "a b\n", "x" * 472])
async def test_the_token_of_a_commit_or_of_an_aggregate_is_taken_apart_again(id: str) -> None:
    counter = Counter(id)
    counter.note("x", "y")
    commit = await WatchedStore().events(Counter).append(counter)
    assert commit is not None
    assert parse_token(commit.token) == parse_token(counter.token) == ("Counter", id, 2)


def test_every_hostile_id_comes_back_from_its_token() -> None:
    for version, each in enumerate(hostile_ids("Counter"), start=1):
        assert parse_token(f"{stream_name('Counter', each)}@{version}") == ("Counter", each, version)


async def test_an_aggregate_knows_what_a_view_must_show_to_show_what_it_has_seen() -> None:
    store = WatchedStore()
    views, counters = store.views(Balance), store.events(Counter)
    counter = Counter("a")
    counter.note("x")
    await counters.append(counter)
    copy = await counters.rehydrate("a")
    copy.note("not stored")
    await views.update("a", "Counter.a", 1, to(5))
    assert await views.wait_for("a", copy.token) == Balance(amount=5)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
async def test_a_timeout_is_above_0_seconds(seconds: float) -> None:
    store = WatchedStore()
    with pytest.raises(ValueError, match="above 0"):
        await store.views(Balance).wait_for("a", f"{STREAM}@1", timeout=seconds)
    assert store.calls == []
