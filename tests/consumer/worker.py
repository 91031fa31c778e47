"""A worker process for the tests: writes a line for each event it handles, and takes its time over it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.consumer.support import Account, Deposited

from esazure import EventEnvelope
from esazure.consumer import Consumer
from esazure.handlers import EventHandlers
from esazure.inprocess import InProcessSubscription
from esazure.sqlite import SqliteStore


async def main(file: str, log: str) -> None:
    handlers, lines = EventHandlers("log"), os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @handlers.on(Account, Deposited)
    async def note(envelope: EventEnvelope[Deposited]) -> None:
        os.write(lines, f"{os.getpid()}:{envelope.aggregate_id}@{envelope.version}\n".encode())
        await asyncio.sleep(0.2)

    async with SqliteStore(file) as store:
        consumer = Consumer("worker", [handlers], positions=store, source=store)
        print("ready", flush=True)  # noqa: T201 - who started it waits for this
        await InProcessSubscription(store, [Account], consumer).run()


asyncio.run(main(*sys.argv[1:]))
