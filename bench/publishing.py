"""What it costs to publish one event, and how fast messages are consumed, next to the SDK alone."""

from __future__ import annotations

import asyncio
import statistics
from uuid import uuid4

from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from bench import consume
from bench.domain import PAYLOADS, Account, account_of
from bench.measuring import Settings, race
from bench.report import Report
from esazure.integration import LANES, messages_of, whole
from esazure.memory import InMemoryStore
from esazure.servicebus import ServiceBus

TOPIC = "published"


async def run(report: Report, settings: Settings) -> None:
    """All of it."""
    double = consume.Double()
    try:
        await publish(report, settings, double)
        await handle(report, settings, double)
    finally:
        double.close()


async def publish(report: Report, settings: Settings, double: consume.Double) -> None:
    """The message of one event; the SDK gets its fields ready made, as if the application had them."""
    double.declare(TOPIC)
    account = account_of(Account, 1)
    repository = InMemoryStore().events(Account)
    await repository.append(account)
    account.deposit(PAYLOADS[0])
    commit = await repository.append(account)
    assert commit is not None  # noqa: S101 - it has an event
    (message,) = messages_of(commit, whole, LANES)
    async with (
        ServiceBusClient.from_connection_string(double.connection_string) as client,
        client.get_topic_sender(TOPIC) as sender,
        ServiceBus.from_connection_string(double.connection_string) as bus,
    ):
        producer = bus.producer(TOPIC)

        def made() -> ServiceBusMessage:
            return ServiceBusMessage(
                message.body.encode(),
                message_id=str(uuid4()),
                session_id=message.session_id,
                correlation_id=message.correlation_id,
                subject=message.subject,
                application_properties=dict(message.properties),
                content_type="application/json",
            )

        async def sdk() -> None:
            await sender.send_messages(made())

        async def sdk_batch() -> None:
            batch = await sender.create_message_batch()
            batch.add_message(made())
            await sender.send_messages(batch)

        async def esazure() -> None:
            await producer.dispatch(commit)

        result = await race({"SDK": sdk, "SDK, a batch of one": sdk_batch, "esazure": esazure}, settings)
    title, spent = "publish one event", f"CPU ms: {result.milliseconds()}"
    report.at_most(1.15, f"{title}: esazure / SDK", result.ratio("esazure", "SDK"), spent)
    report.shown(f"{title}: esazure / SDK, a batch of one", result.ratio("esazure", "SDK, a batch of one"), "")
    report.chart("Publish one event", result)


async def handle(report: Report, settings: Settings, double: consume.Double) -> None:
    """See `consume.py`."""
    versions, rounds = (3, 3) if settings.quick else (25, 5)
    sides: list[tuple[str, consume.Side]] = [("SDK", consume.bare), ("esazure", consume.ours)]
    rates: list[float] = []
    costs: list[float] = []
    for number in range(rounds):
        results: dict[str, consume.Result] = {}
        for name, side in sides if number % 2 == 0 else reversed(sides):
            # In a thread of its own, so that each has a fresh event loop.
            work = consume.measure(double, side, f"{name}-{number}", versions)
            results[name] = await asyncio.to_thread(asyncio.run, work)
        theirs, mine = results["SDK"], results["esazure"]
        rates.append(mine.rate / theirs.rate)
        costs.append(mine.cpu / theirs.cpu)
    title = f"consume {consume.STREAMS * versions:,} messages"
    spent = f"messages a second in the last round: SDK {theirs.rate:.0f}, esazure {mine.rate:.0f}"
    report.at_least(0.8, f"{title}, rate: esazure / SDK", statistics.median(rates), spent)
    report.shown(f"{title}, CPU: esazure / SDK", statistics.median(costs), "")
