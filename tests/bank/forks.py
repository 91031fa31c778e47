"""A process that forks workers of the bank, one for each line of its input; they are there to be killed.

python -m tests.bank.forks LETTERS: for each it prints `worker <pid>`, and each appends the letters it sends to the
file. Modules are imported once, so that a worker is there in no time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

import esazure.tables  # noqa: F401 - which a worker imports when it opens the bank
from bank.__main__ import worker
from esazure.servicebus import ServiceBus

LANES = 4
"""At a time, not 16: who lives for seconds should not spend them on connecting."""


async def work() -> None:
    """Until it is killed, or its parent is."""
    parent = os.getppid()
    working = asyncio.create_task(worker("azure"))
    while os.getppid() == parent and not working.done():  # noqa: ASYNC110 - its parent is another process
        await asyncio.sleep(1)
    os._exit(1)


def main(letters: str) -> None:
    """Fork, line by line."""
    ServiceBus.subscription.__kwdefaults__["sessions"] = LANES
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            logging.basicConfig(filename=letters, level=logging.WARNING, format="%(name)s %(message)s")
            logging.getLogger("bank.notifications").setLevel(logging.INFO)
            asyncio.run(work())
        os.write(1, f"{line.strip()} {pid}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1])
