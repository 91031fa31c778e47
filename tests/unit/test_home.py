"""A store or a producer that is used in another event loop than its own, or in a child of its process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.support.fake_tables import FakeTable, fake_store

from esazure import EventsService, RefusedError, StoreError
from esazure.home import Home
from esazure.memory import InMemoryStore
from esazure.servicebus import ServiceBus
from esazure.sqlite import SqliteStore
from esazure.store import Store
from esazure.testing._calls import CALLS
from esazure.testing._counter import Counter, counter_with
from esazure.testing.servicebus import ServiceBusDouble

Work = Callable[[], Coroutine[Any, Any, Any]]


def in_a_thread(work: Work) -> Any:
    """What it returns, in an event loop of its own beside the one that runs."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(work()))
        except Exception as error:  # noqa: BLE001 - it is looked at by the test
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return outcome[0]


async def put(store: Store) -> None:
    await store.events(Counter).append(counter_with("a"))


def test_every_call_of_a_table_store_in_a_second_loop_is_refused_before_anything_is_sent() -> None:
    table = FakeTable()
    store = fake_store(table)
    asyncio.run(store.__aenter__())
    before = table.requests
    for name, call in CALLS.items():
        if name in ("store_id", "partitions"):
            continue

        async def use(call: Callable[[Any], Any] = call) -> None:
            await call(store)

        with pytest.raises(StoreError, match="was opened in another event loop: open one in each loop"):
            asyncio.run(use())
    assert table.requests == before
    asyncio.run(store.__aexit__())


async def test_a_table_store_in_a_loop_beside_its_own_is_refused_and_goes_on_in_its_own() -> None:
    async with fake_store(FakeTable()) as store:
        assert isinstance(in_a_thread(lambda: put(store)), StoreError)
        assert isinstance(in_a_thread(store.__aexit__), StoreError)
        await put(store)


def test_a_table_store_is_closed_and_opened_again_in_other_loops() -> None:
    store = fake_store(FakeTable())

    async def use() -> None:
        async with store:
            await put(store)

    for _ in range(2):
        asyncio.run(store.__aenter__())
        asyncio.run(store.__aexit__())
        asyncio.run(use())


@pytest.mark.parametrize("made", ["memory", "sqlite"])
async def test_stores_without_connections_work_in_every_loop(tmp_path: Path, made: str) -> None:
    store: Store = InMemoryStore() if made == "memory" else SqliteStore(tmp_path / "a.db")
    async with store:
        await put(store)
        assert in_a_thread(lambda: put(store)) is None
        found = [each async for each in store.scan(store.partitions[0], "Counter")]
        assert len(found) == 2


@pytest.mark.amqp
async def test_a_producer_in_a_loop_beside_its_own_is_refused_before_anything_is_stored() -> None:
    store = InMemoryStore()
    with ServiceBusDouble() as double:
        double.topic("counters")
        async with ServiceBus.from_connection_string(double.connection_string) as bus:
            service = EventsService(store.events(Counter), bus.producer("counters"))
            await service.persist(counter_with("a"))
            refused = in_a_thread(lambda: service.persist(counter_with("b")))
            assert isinstance(refused, RefusedError)
            assert "open one in each loop" in str(refused)
            assert len([each async for each in store.scan("0", "Counter")]) == 1
            await service.persist(counter_with("c"))


_TWO_LOOPS = """
import asyncio, sys
from esazure import EventsService
from esazure.memory import InMemoryStore
from esazure.servicebus import ServiceBus
from esazure.testing._counter import Counter, counter_with

bus = ServiceBus.from_connection_string(sys.argv[1])
service = EventsService(InMemoryStore().events(Counter), bus.producer("counters"))

async def persist_two():
    await asyncio.gather(*[service.persist(counter_with("a")) for _ in range(2)])

for _ in range(2):
    asyncio.run(persist_two())
print(service.undispatched)
asyncio.run(bus.__aexit__())
"""


@pytest.mark.amqp
def test_a_producer_goes_on_in_another_loop_when_its_own_was_closed() -> None:
    with ServiceBusDouble() as double:
        double.topic("counters").subscribe("all")
        assert run_script(_TWO_LOOPS, double.connection_string) == "0\n"


def run_script(script: str, *arguments: str) -> str:
    """What it prints; in a process of its own, for what it leaves behind."""
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout  # noqa: S603 - ours


def test_a_home_knows_its_loop_and_says_what_to_do() -> None:
    async def home() -> Home:
        assert Home().why_not_here() is None
        return Home()

    found = asyncio.run(home())
    assert found.is_gone
    assert not found.is_busy_elsewhere
    assert "another event loop" in (found.why_not_here() or "")
    assert Home().why_not_here() is None


_FORK = """
import asyncio, multiprocessing, os, sys
from uuid import uuid4
from esazure import EsAzureError, EventsService
from esazure.sqlite import SqliteStore
from esazure.testing._counter import Counter, counter_with

store = SqliteStore(sys.argv[1], busy_timeout=1)

async def put():
    await store.events(Counter, outbox=False).append(counter_with("a"))

def child():
    try:
        asyncio.run(put())
    except EsAzureError as error:
        print(type(error).__name__, "opened before this process was forked" in str(error), flush=True)
    asyncio.run(store.__aexit__())
    try:
        asyncio.run(put())
    except EsAzureError as error:
        print(type(error).__name__, "not open" in str(error), flush=True)

async def parent():
    async with store:
        await put()
        calls = [asyncio.ensure_future(put()) for _ in range(CALLS)]
        await asyncio.sleep(0)
        FORK
        await asyncio.gather(*calls)
        await put()
        wal = os.path.exists(sys.argv[1] + "-wal")
    async with SqliteStore(sys.argv[1]) as again:
        print(len([each async for each in again.scan("0", "Counter")]), wal)

asyncio.run(parent())
"""
_WAYS = {
    "multiprocessing": """
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(30)
        print(process.exitcode)
    """,
    # Also when everything is cleaned up in the child, as at the end of a program.
    "os.fork": """
        pid = os.fork()
        if not pid:
            try:
                loop = asyncio.new_event_loop()
                asyncio._set_running_loop(None)
                child()
            finally:
                import gc
                gc.collect()
                sys.stdout.flush()
                os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """,
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("calls", [0, 20], ids=["quiet", "while calls are under way"])
@pytest.mark.parametrize("way", _WAYS)
def test_a_child_is_refused_at_once_and_its_parent_goes_on(tmp_path: Path, way: str, calls: int) -> None:
    script = _FORK.replace("FORK", textwrap.dedent(_WAYS[way]).strip().replace("\n", "\n        ")).replace(
        "CALLS", str(calls)
    )
    printed = run_script(script, str(tmp_path / "a.db")).splitlines()
    assert printed == ["StoreError True", "StoreError True", "0", f"{2 + calls} True"]
