"""A process that forks writers, one for each line of its input, and prints what they are told; to be killed.

python -m tests.support.process_writer KIND WHERE BROKER: the store is `sqlite` in a file, or `tables` in a table of
ESAZURE_TABLES. Each line printed is JSON: `started` and `pid`; what is begun; `marker` and `outcome`. Modules are
imported once, so that a writer is there in no time.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.file_broker import FileProducer
from tests.support.history import ACKNOWLEDGED, CONFLICTED

from esazure import AggregateNotFoundError, ConcurrencyError, EventsService
from esazure.aggregate import stream_of
from esazure.sqlite import SqliteStore
from esazure.tables import TableStore
from esazure.testing.conformance import Counter


def say(**what: Any) -> None:
    """One write for each line: several processes share the pipe."""
    os.write(1, f"{json.dumps(what)}\n".encode())


def store_at(kind: str, where: str) -> SqliteStore | TableStore:
    """The store writers and the test use."""
    if kind == "sqlite":
        return SqliteStore(where, busy_timeout=30)
    return TableStore.from_connection_string(os.environ["ESAZURE_TABLES"], table=where, shards=2)


async def write(kind: str, where: str, broker: Path, who: str) -> None:
    """Load, record and persist until this process is killed, or its parent is gone."""
    parent = os.getppid()
    async with store_at(kind, where) as store:
        service = EventsService(store.events(Counter), FileProducer(broker))
        done = 0
        while os.getppid() == parent:
            name = f"shared-{random.randrange(3)}"  # noqa: S311 - not a secret
            try:
                counter = await service.rehydrate(name)
            except AggregateNotFoundError:
                counter = Counter(name)
            done += 1
            marker, events, began = f"{who}.{done}", done % 3 + 1, time.monotonic()
            say(marker=marker, stream=stream_of(counter), expected=counter.version, events=events, who=who, began=began)
            counter.note(*(f"{marker}.{number}" for number in range(events)))
            try:
                await service.persist(counter)
            except ConcurrencyError:
                say(marker=marker, outcome=CONFLICTED, ended=time.monotonic())
            else:
                say(marker=marker, outcome=ACKNOWLEDGED, ended=time.monotonic())


def main(kind: str, where: str, broker: Path) -> None:
    """Fork, line by line."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        who = line.strip()
        pid = os.fork()
        if not pid:
            asyncio.run(write(kind, where, broker, who))
            os._exit(0)
        say(started=who, pid=pid)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
