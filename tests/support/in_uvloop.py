"""One service and its subscription in uvloop, over the double: `in_uvloop.py KIND WHERE`. Ends with 0 when all is well.

The store is `memory`, `sqlite` in a file, or `tables` in a table of ESAZURE_TABLES.
"""

from __future__ import annotations

import asyncio
import os
import sys

import uvloop
from tests.servicebus.receiving import Handled, Recorder

from esazure import EventsService
from esazure.memory import InMemoryStore
from esazure.servicebus import ServiceBus
from esazure.sqlite import SqliteStore
from esazure.store import Store
from esazure.tables import TableStore
from esazure.testing._counter import Counter, counter_with
from esazure.testing.servicebus import ServiceBusDouble


def store_at(kind: str, where: str) -> Store:
    """The store of this run."""
    if kind == "memory":
        return InMemoryStore()
    if kind == "sqlite":
        return SqliteStore(where)
    return TableStore.from_connection_string(os.environ["ESAZURE_TABLES"], table=where)


async def main(kind: str, where: str) -> None:
    """Events are stored, published, received, and loaded again."""
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    received: list[tuple[str, int]] = []

    async def handle(call: Handled) -> None:
        received.append((call.lane, call.version))
        if len(received) == 2 * len(counters):
            subscription.stop()

    async with ServiceBusDouble() as double, store_at(kind, where) as store:
        double.topic("counters").subscribe("all", requires_session=True)
        async with ServiceBus.from_connection_string(double.connection_string) as bus:
            service = EventsService(store.events(Counter), bus.producer("counters"))
            counters = [counter_with("a") for _ in range(8)]
            for counter in counters:
                await service.persist(counter)
                counter.note("b")
                await service.persist(counter)
                assert (await service.rehydrate(counter.id)).notes == ["a", "b"]
                assert not await store.unpublished(f"Counter.{counter.id}", before_version=3)
            subscription = bus.subscription("counters", "all", Recorder(handle=handle), idle=0.5)
            async with asyncio.timeout(60):
                await subscription.run()
    assert sorted(version for _, version in received) == [1] * 8 + [2] * 8, received


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
