"""A process that appends to a store until it has stored enough, or is killed; it prints what it was told is stored.

python writer.py FILE STREAM COMMITS: it prints `ready`, waits for a line, and then each line is `stored <commit id>` or
`conflict`.
"""

from __future__ import annotations

import asyncio
import sys
from uuid import uuid4

from esazure.errors import ConcurrencyError
from esazure.events import CommitRecord
from esazure.sqlite import SqliteStore


async def main(file: str, stream: str, commits: int) -> None:
    async with SqliteStore(file, busy_timeout=30) as store:
        while commits:
            read = await store.read(stream)
            version = read[-1].last_version if read else 0
            count = version % 3 + 1
            payload = "\n".join([f'Noted {{"text":"{version}"}}'] * count)
            record = CommitRecord(stream, uuid4().hex, version + 1, count, "2026-01-02T03:04:05+00:00", "{}", payload)
            try:
                await store.insert(record, outbox=True)
            except ConcurrencyError:
                print("conflict", flush=True)  # noqa: T201 - its answer
            else:
                # In one write, which a kill does not cut in two.
                print(f"stored {record.commit_id}\n", end="", flush=True)  # noqa: T201 - its answer
                commits -= 1


if __name__ == "__main__":
    print("ready", flush=True)  # noqa: T201 - now importing is done, and several can start together
    sys.stdin.readline()
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
