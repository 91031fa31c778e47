"""The bank on Azure: streams in Table Storage, messages on a Service Bus topic.

ESAZURE_TABLES and ESAZURE_SERVICEBUS are connection strings; the namespace needs a topic `bank-events` and, on it, a
subscription `demo` that requires sessions. What is not given is started here: Azurite, and a double speaking AMQP.
"""

from __future__ import annotations

import os
import re
import time
import zlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from azure.data.tables.aio import TableClient
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import OperationTimeoutError

from bank.backend import Backend
from bank.domain import Account, Customer
from bank.evidence import Published, Stored, StoredEvent, events_of_commit
from esazure.servicebus import ServiceBus
from esazure.tables import TableStore
from esazure.testing.azurite import Azurite
from esazure.testing.servicebus import ServiceBusDouble

TABLE = "bank"
TOPIC = "bank-events"
SUBSCRIPTION = "demo"

_PATIENCE = 60.0
_COMMIT = re.compile(r"e\.(?P<stream>[^.]+\.[^.]+)\.(?P<inverted>\d{10})")
_OUTBOX = re.compile(r"o\.(?P<stream>[^.]+\.[^.]+)\.(?P<first>\d{10})")


@asynccontextmanager
async def azure_backend() -> AsyncGenerator[Backend]:
    async with AsyncExitStack() as stack:
        tables, servicebus = os.environ.get("ESAZURE_TABLES"), os.environ.get("ESAZURE_SERVICEBUS")
        streams = "the account in ESAZURE_TABLES" if tables else "Azurite, started for this run"
        messages = "the namespace in ESAZURE_SERVICEBUS" if servicebus else "a Service Bus double, over AMQP"
        if not tables:
            tables = stack.enter_context(Azurite()).connection_string
        if not servicebus:
            double = await stack.enter_async_context(ServiceBusDouble())
            double.topic(TOPIC).subscribe(SUBSCRIPTION, requires_session=True)
            servicebus = double.connection_string
        account, namespace = tables, servicebus

        store = await stack.enter_async_context(TableStore.from_connection_string(account, table=TABLE))
        bus = await stack.enter_async_context(ServiceBus.from_connection_string(namespace))
        yield Backend(
            name=f"{streams}, table {TABLE!r}; messages go to {messages}",
            customers=store.events(Customer),
            accounts=store.events(Account),
            producer=bus.producer(topic=TOPIC),
            read_store=lambda: read_table(account),
            receive=lambda wanted: receive(namespace, wanted),
        )


async def read_table(connection_string: str) -> Stored:
    """Every row, with azure-data-tables alone."""
    events: list[StoredEvent] = []
    waiting: list[tuple[str, int]] = []
    async with TableClient.from_connection_string(connection_string, TABLE) as table:
        untyped: Any = table  # the SDK's types are incomplete
        async for row in untyped.list_entities():
            key: str = row["RowKey"]
            if commit := _COMMIT.fullmatch(key):
                first_version = 9_999_999_999 - int(commit["inverted"])
                events += events_of_commit(commit["stream"], first_version, payload_of(row))
            elif outbox := _OUTBOX.fullmatch(key):
                waiting.append((outbox["stream"], int(outbox["first"])))
    return Stored(frozenset(events), frozenset(waiting))


def payload_of(row: Mapping[str, object]) -> str:
    """Columns `d0`, `d1` and so on: text, or bytes when compressed. A bank's commit fits in one row."""
    chunks = [row[f"d{index}"] for index in range(len(row)) if f"d{index}" in row]
    if "z" not in row:
        return "".join(chunk for chunk in chunks if isinstance(chunk, str))
    return zlib.decompress(b"".join(chunk for chunk in chunks if isinstance(chunk, bytes))).decode()


async def receive(connection_string: str, wanted: frozenset[StoredEvent]) -> Sequence[Published]:
    """Messages, session by session, with azure-servicebus alone."""
    missing = {(event.stream, event.version) for event in wanted}
    received: list[Published] = []
    deadline = time.monotonic() + _PATIENCE
    async with ServiceBusClient.from_connection_string(connection_string) as client:
        while missing:
            assert time.monotonic() < deadline, f"these were never received: {sorted(missing)}"
            with suppress(OperationTimeoutError):  # no session has messages at the moment
                async with client.get_subscription_receiver(
                    TOPIC, SUBSCRIPTION, session_id=NEXT_AVAILABLE_SESSION
                ) as session:
                    while missing and (batch := await session.receive_messages(100, max_wait_time=0.5)):
                        for message in batch:
                            received.append(published(message))
                            await session.complete_message(message)
                        missing -= {(message.stream, message.version) for message in received}
    return received


def published(message: ServiceBusReceivedMessage) -> Published:
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
