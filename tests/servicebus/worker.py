"""A process that receives: `worker.py <connection string> <file>`. Appends a line to the file for each message."""

from __future__ import annotations

import asyncio
import os
import sys

from tests.servicebus.receiving import Handled, Recorder

from esazure.servicebus import ServiceBus


async def main(connection_string: str, path: str) -> None:
    """Until it is killed, or a line comes on stdin."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def handle(call: Handled) -> None:
        await asyncio.sleep(0.01)
        os.write(file, f"{os.getpid()} {call.lane} {call.version}\n".encode())

    async with ServiceBus.from_connection_string(connection_string) as bus:
        subscription = bus.subscription("customers", "all", Recorder(handle=handle), idle=0.5, hold=5.0)
        loop = asyncio.get_running_loop()
        loop.add_reader(sys.stdin.fileno(), subscription.stop)
        print("running", flush=True)  # noqa: T201 - the test waits for it
        await subscription.run()
        loop.remove_reader(sys.stdin.fileno())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
