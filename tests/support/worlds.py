"""Where runs of `stress.py` take place: a table in memory, or Azurite behind a proxy; a broker in memory, or AMQP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from azure.data.tables.aio import TableClient
from tests.support.fake_tables import FakeTable, fake_store
from tests.support.flaky_broker import FlakyBroker, Received
from tests.support.stress import World
from tests.support.table_faults import Dice, proxy_faults
from tests.support.table_proxy import TableProxy

import esazure.tables.store as table_store
from esazure.errors import ConcurrencyError, StoreUnavailableError
from esazure.events import Commit, CommitRecord
from esazure.ports import IEventProducer, ViewRecord
from esazure.servicebus import ServiceBus
from esazure.tables import TableStore
from esazure.tables.gateway import Operation, OutcomeUnknownError, RowExistsError
from esazure.tables.rows import commit_rows, outbox_row, partition_of
from esazure.testing.servicebus import Detach, Drop, Ignore, Reject, ServiceBusDouble

READ_TIMEOUT = 1.0
_TOPIC = "counters"
_AMQP_FAULTS = (
    *(Drop(), Drop(applied=True), Detach(), Detach(applied=True), Ignore(), Ignore(applied=True)),
    Reject("com.microsoft:server-busy"),
)


class NaiveStore(TableStore):
    """What everybody writes first: taken is a conflict, and no answer, not even at the second attempt, is a failure."""

    async def insert(self, record: CommitRecord, *, outbox: bool, views: Sequence[ViewRecord] = ()) -> None:
        """See `ICommitStore.insert`, and do not do it like this."""
        partition = partition_of(record.stream, self.shards)
        rows: list[Operation] = [("create", row) for row in commit_rows(record, partition)]
        if outbox:
            rows.append(("create", outbox_row(record, partition)))
        for _ in range(2):
            try:
                await self._gateway.submit(rows)
            except RowExistsError:
                raise ConcurrencyError(record.stream, expected=record.expected_version) from None
            except OutcomeUnknownError:
                continue
            return
        raise StoreUnavailableError("no answer")


@asynccontextmanager
async def fake_world(seed: int, *, store_class: type[TableStore] = TableStore) -> AsyncIterator[tuple[World, Dice]]:
    """Nothing but memory: a millisecond or two an operation."""
    table, dice, broker = FakeTable(), Dice(seed, hang=0.02, late=0.1), FlakyBroker(seed)

    async def rows() -> Iterable[Mapping[str, Any]]:
        return table.rows.values()

    async def calm() -> None:
        dice.stop()
        broker.share = 0.0
        await dice.settled()
        await broker.settled()

    yield (
        World(lambda: fake_store(table, dice, store_class=store_class, shards=2, deadline=2.0), rows, broker, calm),
        dice,
    )


@asynccontextmanager
async def table_world(
    tables: str, seed: int, *, store_class: type[TableStore] = TableStore, amqp: bool = False
) -> AsyncIterator[tuple[World, Dice]]:
    """The tables of a connection string, behind a proxy; and the Service Bus double, if wanted."""
    name = f"t{uuid4().hex}"
    dice = Dice(seed, hang=READ_TIMEOUT + 0.3)
    async with AsyncExitStack() as stack:
        # Beyond the time a request hangs, but not the twenty seconds that are right for a service.
        patience = {**table_store._CLIENT, "read_timeout": READ_TIMEOUT, "retry_backoff_factor": 0.02}
        stack.enter_context(patch.object(table_store, "_CLIENT", patience))
        broker = await AmqpBroker.open(stack, seed) if amqp else FlakyBroker(seed)
        async with TableStore.from_connection_string(tables, table=name, shards=2):
            pass
        proxy = await stack.enter_async_context(TableProxy(tables))
        proxy.fault = proxy_faults(dice)

        def open_store() -> TableStore:
            return store_class.from_connection_string(proxy.connection_string, table=name, deadline=4.0)

        async def rows() -> Iterable[Mapping[str, Any]]:
            async with TableClient.from_connection_string(tables, name) as client:
                return [row async for row in client.list_entities()]

        async def calm() -> None:
            dice.stop()
            broker.share = 0.0
            await dice.settled()
            await broker.settled()

        yield World(open_store, rows, broker, calm), dice


class AmqpBroker:
    """The Service Bus double, and three connections to it that are shared by whoever wants to send."""

    def __init__(self, double: ServiceBusDouble, producers: Sequence[IEventProducer], seed: int) -> None:
        self._double = double
        self._producers = producers
        self._random = Random(seed)  # noqa: S311 - not a secret
        self.share = 0.15

    @classmethod
    async def open(cls, stack: AsyncExitStack, seed: int) -> AmqpBroker:
        """With a topic and a subscription that gets everything, repeats included."""
        double = ServiceBusDouble()
        double.topic(_TOPIC).subscribe("all")
        await stack.enter_async_context(double)
        bus = await stack.enter_async_context(ServiceBus.from_connection_string(double.connection_string))
        return cls(double, [bus.producer(_TOPIC, timeout=2) for _ in range(3)], seed)

    def producer(self) -> IEventProducer:
        """A way to send."""
        return _Endangered(self._random.choice(self._producers), self)

    def endanger(self) -> None:
        """Something may happen to the next send."""
        if self._random.random() < self.share:
            self._double.faults.next_send(self._random.choice(_AMQP_FAULTS))

    async def settled(self) -> None:
        """No more faults."""
        self._double.faults.clear()
        await asyncio.sleep(0.2)

    async def received(self) -> Sequence[Received]:
        """What the broker has."""
        return [
            Received(
                f"Counter.{message.correlation_id}",
                int(message.application_properties["version"]),
                message.message_id,
                (
                    *(str(message.session_id), str(message.subject), message.body.decode()),
                    *(f"{name}={text}" for name, text in sorted(message.application_properties.items())),
                ),
            )
            for message in self._double.messages(f"{_TOPIC}/subscriptions/all")
        ]


class _Endangered(IEventProducer):
    def __init__(self, producer: IEventProducer, broker: AmqpBroker) -> None:
        self._producer = producer
        self._broker = broker

    def check(self, commit: Commit[Any]) -> None:
        """See `IEventProducer.check`."""
        self._producer.check(commit)

    async def dispatch(self, commit: Commit[Any]) -> None:
        """See `IEventProducer.dispatch`."""
        self._broker.endanger()
        await self._producer.dispatch(commit)
