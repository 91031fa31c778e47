"""The bank in one file on one machine; messages stay in this process."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, closing

from bank.backend import Backend
from bank.domain import Account, Customer
from bank.evidence import Published, Stored, StoredEvent, events_of_commit
from esazure.memory import InMemoryEventProducer
from esazure.sqlite import SqliteStore


@asynccontextmanager
async def sqlite_backend(path: str) -> AsyncGenerator[Backend]:
    producer = InMemoryEventProducer()

    async def receive(_: frozenset[StoredEvent]) -> Sequence[Published]:
        return [
            Published(
                stream=f"{message.properties['aggregate_type']}.{message.correlation_id}",
                version=int(message.properties["version"]),
                subject=message.subject,
                session=message.session_id,
                body=message.body,
            )
            for message in producer.messages
        ]

    async with SqliteStore(path) as store:
        yield Backend(
            name=f"SQLite, in {path}",
            customers=store.events(Customer),
            accounts=store.events(Account),
            producer=producer,
            read_store=lambda: asyncio.to_thread(read_file, path),
            receive=receive,
        )


def read_file(path: str) -> Stored:
    """The whole file, with sqlite3 alone."""
    with closing(sqlite3.connect(path)) as connection:
        commits: list[tuple[str, int, str]] = connection.execute(
            "SELECT stream, first_version, payload FROM commits"
        ).fetchall()
        outbox: list[tuple[str, int]] = connection.execute("SELECT stream, first_version FROM outbox").fetchall()
    return Stored(
        frozenset(event for stream, first, payload in commits for event in events_of_commit(stream, first, payload)),
        frozenset(outbox),
    )
