"""Looks at the bank from outside, for the demo: what is stored, with sqlite3 or azure-data-tables and without esazure;
what is published, with azure-servicebus or, on one machine, as a handler gets it.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import time
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bank.backends import SUBSCRIPTION, TABLE, TOPIC, SettingsError
from bank.domain import Account, Customer
from bank.evidence import Published, Stored, StoredEvent, events_of_commit
from esazure import EventEnvelope
from esazure.handlers import EventHandlers, IHandlerSet

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusReceivedMessage

DEMO = "demo"

_PATIENCE = 60.0
_COMMIT = re.compile(r"e\.(?P<stream>[^.]+\.[^.]+)\.(?P<inverted>\d{10})")
_OUTBOX = re.compile(r"o\.(?P<stream>[^.]+\.[^.]+)\.(?P<first>\d{10})")


@dataclass(frozen=True)
class Observer:
    """How to look at one bank."""

    where: str
    read_store: Callable[[], Awaitable[Stored]]
    read_outbox: Callable[[], Awaitable[frozenset[tuple[str, int]]]]
    """`Stored.waiting`, and nothing else of it: that can be asked often."""
    receive: Callable[[frozenset[StoredEvent]], Awaitable[Sequence[Published]]]
    """What was published so far; waits until these events are among it."""
    handlers: Sequence[IHandlerSet] = ()
    """For the bank to serve as well."""


@asynccontextmanager
async def observer_of(store: str) -> AsyncGenerator[Observer]:
    """For `sqlite:///demo.db`, or `azure`. What ESAZURE_TABLES and ESAZURE_SERVICEBUS do not name is started.

    Raises:
        SettingsError: something else, which cannot be looked at from outside.
    """
    scheme, _, path = store.partition(":///")
    if scheme == "sqlite" and path:
        seen: list[Published] = []
        yield Observer(
            f"SQLite, in {path}",
            lambda: asyncio.to_thread(read_file, path),
            lambda: asyncio.to_thread(read_outbox_of_file, path),
            lambda wanted: _until_seen(seen, wanted),
            [onlooker(seen)],
        )
    elif store == "azure":
        async with _azure() as observer:
            yield observer
    else:
        raise SettingsError(
            f"the demo looks into the store from outside: use sqlite:///demo.db or azure, not {store!r}"
        )


def onlooker(seen: list[Published]) -> EventHandlers:
    """One more handler: it notes every event it gets."""
    handlers = EventHandlers(DEMO)

    def note(happened: EventEnvelope[Any]) -> None:
        stream = f"{happened.aggregate_type}.{happened.aggregate_id}"
        seen.append(Published(stream, happened.version, happened.type, "in process", happened.event.model_dump_json()))

    on: Any = handlers.on  # checkers want to know which event it is; here it is every one
    for aggregate_class in (Customer, Account):
        for event_class in aggregate_class.event_types.values():
            on(aggregate_class, event_class)(note)
    return handlers


async def _until_seen(seen: list[Published], wanted: frozenset[StoredEvent]) -> Sequence[Published]:
    missing = {(event.stream, event.version) for event in wanted}
    deadline = time.monotonic() + _PATIENCE
    while missing - {(message.stream, message.version) for message in seen}:
        assert time.monotonic() < deadline, "some events were never handled"
        await asyncio.sleep(0.02)
    return tuple(seen)


def read_file(path: str) -> Stored:
    """The whole file, with sqlite3 alone."""
    with closing(sqlite3.connect(path)) as connection:
        commits: list[tuple[str, int, str]] = connection.execute(
            "SELECT stream, first_version, payload FROM commits"
        ).fetchall()
    return Stored(
        frozenset(event for stream, first, payload in commits for event in events_of_commit(stream, first, payload)),
        read_outbox_of_file(path),
    )


def read_outbox_of_file(path: str) -> frozenset[tuple[str, int]]:
    with closing(sqlite3.connect(path)) as connection:
        rows: list[tuple[str, int]] = connection.execute("SELECT stream, first_version FROM outbox").fetchall()
    return frozenset(rows)


@asynccontextmanager
async def _azure() -> AsyncGenerator[Observer]:
    from esazure.testing.azurite import Azurite  # noqa: PLC0415 - not for a bank on one machine
    from esazure.testing.servicebus import ServiceBusDouble  # noqa: PLC0415 - the same

    async with AsyncExitStack() as stack:
        streams, messages = "the account in ESAZURE_TABLES", "the namespace in ESAZURE_SERVICEBUS"
        if not os.environ.get("ESAZURE_TABLES"):
            streams = "Azurite, started for this run"
            os.environ["ESAZURE_TABLES"] = stack.enter_context(Azurite()).connection_string
        if not os.environ.get("ESAZURE_SERVICEBUS"):
            messages = "a Service Bus double, over AMQP"
            double = await stack.enter_async_context(ServiceBusDouble())
            topic = double.topic(TOPIC)
            for subscription in (SUBSCRIPTION, DEMO):
                topic.subscribe(subscription, requires_session=True)
            os.environ["ESAZURE_SERVICEBUS"] = double.connection_string
        yield Observer(f"{streams}, table {TABLE!r}; messages go to {messages}", read_table, read_outbox_rows, receive)


async def read_table() -> Stored:
    """Every row."""
    events: list[StoredEvent] = []
    waiting: list[tuple[str, int]] = []
    async for row in _rows("RowKey ge ''"):
        key: str = row["RowKey"]
        if commit := _COMMIT.fullmatch(key):
            first_version = 9_999_999_999 - int(commit["inverted"])
            events += events_of_commit(commit["stream"], first_version, payload_of(row))
        elif outbox := _OUTBOX.fullmatch(key):
            waiting.append((outbox["stream"], int(outbox["first"])))
    return Stored(frozenset(events), frozenset(waiting))


async def read_outbox_rows() -> frozenset[tuple[str, int]]:
    keys = [row["RowKey"] async for row in _rows("RowKey ge 'o.' and RowKey lt 'o/'")]
    found = (outbox for key in keys if (outbox := _OUTBOX.fullmatch(key)))
    return frozenset((outbox["stream"], int(outbox["first"])) for outbox in found)


async def _rows(which: str) -> AsyncGenerator[Any]:
    """With azure-data-tables alone."""
    from azure.data.tables.aio import TableClient  # noqa: PLC0415 - not for a bank on one machine

    async with TableClient.from_connection_string(os.environ["ESAZURE_TABLES"], TABLE) as table:
        untyped: Any = table  # the SDK's types are incomplete
        async for row in untyped.query_entities(which):
            yield row


def payload_of(row: Mapping[str, object]) -> str:
    """Columns `d0`, `d1` and so on: text, or bytes when compressed. A bank's commit fits in one row."""
    chunks = [row[f"d{index}"] for index in range(len(row)) if f"d{index}" in row]
    if "z" not in row:
        return "".join(chunk for chunk in chunks if isinstance(chunk, str))
    return zlib.decompress(b"".join(chunk for chunk in chunks if isinstance(chunk, bytes))).decode()


async def receive(wanted: frozenset[StoredEvent]) -> Sequence[Published]:
    """Messages of a subscription of its own, session by session, with azure-servicebus alone."""
    from azure.servicebus import NEXT_AVAILABLE_SESSION  # noqa: PLC0415 - not for a bank on one machine
    from azure.servicebus.aio import ServiceBusClient  # noqa: PLC0415 - the same
    from azure.servicebus.exceptions import OperationTimeoutError  # noqa: PLC0415 - the same

    missing = {(event.stream, event.version) for event in wanted}
    received: list[Published] = []
    deadline = time.monotonic() + _PATIENCE
    async with ServiceBusClient.from_connection_string(os.environ["ESAZURE_SERVICEBUS"]) as client:
        while missing:
            assert time.monotonic() < deadline, f"these were never received: {sorted(missing)}"
            with suppress(OperationTimeoutError):  # no session has messages at the moment
                async with client.get_subscription_receiver(TOPIC, DEMO, session_id=NEXT_AVAILABLE_SESSION) as session:
                    while missing and (batch := await session.receive_messages(100, max_wait_time=0.5)):
                        for message in batch:
                            received.append(_published(message))
                            await session.complete_message(message)
                        missing -= {(message.stream, message.version) for message in received}
    return received


def _published(message: ServiceBusReceivedMessage) -> Published:
    properties = {
        name.decode() if isinstance(name, bytes) else name: value.decode() if isinstance(value, bytes) else str(value)
        for name, value in (message.application_properties or {}).items()
    }
    return Published(
        stream=f"{properties['aggregate_type']}.{properties['aggregate']}",
        version=int(properties["version"]),
        subject=message.subject or "",
        session=message.session_id or "",
        body=str(message),
    )
