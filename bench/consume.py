"""How fast messages are consumed, next to the bare SDK: 10,000 small ones of 400 streams on 16 lanes, in one process.

    python bench/consume.py           # two minutes
    python bench/consume.py --quick   # a fifth of the messages, and less sure

The double runs in a process of its own. Both sides do nothing with a message but look whether it is the next one of its
stream. The bare SDK: a session receiver for each lane, batches of a hundred, each message completed before the next one
is looked at. esazure: a `Consumer` without positions behind a subscription. They take turns, round by round, and what
counts is the median of the ratios within the rounds, because a machine is faster now and slower then. The clock runs
from the moment the broker lets go of the messages, with every lane taken up, until the last one is completed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, assert_never

from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver

from esazure import AggregateRoot, DomainEvent, EventEnvelope
from esazure.consumer import Consumer
from esazure.handlers import EventHandlers
from esazure.integration import LANES, lane_of
from esazure.keys import stream_name
from esazure.servicebus import ServiceBus
from esazure.testing.servicebus import ServiceBusDouble

STREAMS = 400
BATCH = 100
SUBSCRIPTION = "all"


class Counted(DomainEvent):
    """A small event."""

    number: int
    note: str


class Counter(AggregateRoot[Counted, str]):
    """Whose events they are."""

    def when(self, event: Counted) -> None:
        """Nothing to remember."""
        match event:
            case Counted():
                pass
            case _:
                assert_never(event)


@dataclass
class Witness:
    """Sees every message, and that it is the next one of its stream."""

    seen: int = 0
    versions: dict[str, int] = field(default_factory=dict[str, int])

    def see(self, stream: str, version: int) -> None:
        """The next one."""
        before = self.versions.get(stream, 0)
        if version != before + 1:
            raise AssertionError(f"{stream}: version {version} came after {before}")
        self.versions[stream] = version
        self.seen += 1

    async def has_seen(self, count: int) -> None:
        """Wait for it."""
        while self.seen < count:  # noqa: ASYNC110 - cheaper than an event in what is measured
            await asyncio.sleep(0.01)


Completed = Callable[[], int]
Side = Callable[[str, str, Witness], AbstractAsyncContextManager[Completed]]


@asynccontextmanager
async def bare(connection_string: str, topic: str, witness: Witness) -> AsyncIterator[Completed]:
    """The obvious loop over the SDK."""
    completed = 0

    async def work(receiver: ServiceBusReceiver) -> None:
        nonlocal completed
        while True:
            for message in await receiver.receive_messages(BATCH, max_wait_time=60):
                properties: Any = message.application_properties
                witness.see(str(message.correlation_id), int(properties[b"version"]))
                await receiver.complete_message(message)
                completed += 1

    async with ServiceBusClient.from_connection_string(connection_string) as client:
        receivers = [
            client.get_subscription_receiver(topic, SUBSCRIPTION, session_id=NEXT_AVAILABLE_SESSION)
            for _ in range(LANES)
        ]
        await asyncio.gather(*[receiver.__aenter__() for receiver in receivers])
        workers = [asyncio.create_task(work(receiver)) for receiver in receivers]
        yield lambda: completed
        for worker in workers:
            worker.cancel()
        outcomes = await asyncio.gather(*workers, return_exceptions=True)
        await asyncio.gather(*[receiver.close() for receiver in receivers])
        if failures := [outcome for outcome in outcomes if isinstance(outcome, Exception)]:
            raise failures[0]


@asynccontextmanager
async def ours(connection_string: str, topic: str, witness: Witness) -> AsyncIterator[Completed]:
    """A consumer behind a subscription."""
    handlers = EventHandlers("witness")

    @handlers.on(Counter, Counted)
    async def see(counted: EventEnvelope[Counted]) -> None:
        witness.see(counted.aggregate_id, counted.version)

    consumer = Consumer("bench", [handlers], positions=None, source=None)
    async with ServiceBus.from_connection_string(connection_string) as bus:
        subscription = bus.subscription(topic, SUBSCRIPTION, consumer, sessions=LANES, idle=60)
        run = asyncio.create_task(subscription.run())
        yield lambda: subscription.metrics.completed
        subscription.stop()
        await run
        if consumer.metrics.failed:
            raise AssertionError("a message came out of its order")


async def fill(connection_string: str, topic: str, streams: list[str], versions: int) -> None:
    """Version by version, each stream gets its messages; a batch holds those of one lane."""
    lanes: dict[str, list[ServiceBusMessage]] = {}
    for version in range(1, versions + 1):
        for stream in streams:
            lane = stream if stream.isdigit() else lane_of(stream_name("Counter", stream), LANES)
            message = ServiceBusMessage(
                f'{{"number":{version},"note":"a small event"}}',
                message_id=f"{stream}/{version}",
                session_id=lane,
                correlation_id=stream,
                subject="Counted",
                content_type="application/json",
                application_properties={
                    "aggregate": stream,
                    "aggregate_type": "Counter",
                    "type": "Counted",
                    "version": str(version),
                    "occurred_at": "2026-01-01T00:00:00+00:00",
                },
            )
            lanes.setdefault(lane, []).append(message)
    async with (
        ServiceBusClient.from_connection_string(connection_string) as client,
        client.get_topic_sender(topic) as sender,
    ):
        for messages in lanes.values():
            for start in range(0, len(messages), BATCH):
                await sender.send_messages(messages[start : start + BATCH])


@dataclass(frozen=True)
class Result:
    """What one side did in one round."""

    rate: float
    """Messages a second."""
    cpu: float
    """Microseconds of this process for a message."""


class Double:
    """The double in its own process."""

    def __init__(self) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
        self._process.start()
        self.connection_string: str = self._pipe.recv()

    def declare(self, topic: str) -> None:
        """A topic with a subscription."""
        self._ask(("declare", topic))

    def hold(self, *, deliveries: bool) -> None:
        """Receivers get nothing, or again something."""
        self._ask(("hold", deliveries))

    def close(self) -> None:
        """No more."""
        self._pipe.send(None)
        self._process.join()

    def _ask(self, order: tuple[str, object]) -> None:
        self._pipe.send(order)
        self._pipe.recv()


def serve(pipe: Connection) -> None:
    """What runs in that process."""
    with ServiceBusDouble() as double:
        pipe.send(double.connection_string)
        while (order := pipe.recv()) is not None:
            what, value = order
            if what == "declare":
                double.topic(value).subscribe(SUBSCRIPTION, requires_session=True, lock_duration=300)
            else:
                double.faults.hold_deliveries = value
            pipe.send("done")


async def measure(double: Double, side: Side, topic: str, versions: int) -> Result:
    """One side, once."""
    address, witness = double.connection_string, Witness()
    double.declare(topic)
    await fill(address, topic, [str(lane) for lane in range(LANES)], 1)  # one for each lane, so that it can be taken up
    async with side(address, topic, witness) as completed:
        await witness.has_seen(LANES)
        double.hold(deliveries=True)
        await fill(address, topic, [f"stream-{number}" for number in range(STREAMS)], versions)
        expected = LANES + STREAMS * versions
        gc.collect()
        gc.freeze()  # as everywhere here: nobody pays for the objects of others
        try:
            cpu, began = time.process_time(), time.perf_counter()
            double.hold(deliveries=False)
            while completed() < expected:  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.005)
            cpu, elapsed = time.process_time() - cpu, time.perf_counter() - began
        finally:
            gc.unfreeze()
    if witness.seen != expected or set(list(witness.versions.values())[LANES:]) != {versions}:
        raise AssertionError(f"{witness.seen} messages were handled instead of {expected}")
    count = STREAMS * versions
    return Result(count / elapsed, cpu / count * 1_000_000)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of the messages, and fewer rounds")
    quick = parser.parse_args().quick
    versions, rounds = (5, 3) if quick else (25, 7)
    double = Double()
    ratios: list[float] = []
    costs: list[float] = []
    sides: list[tuple[str, Side]] = [("bare SDK", bare), ("esazure", ours)]
    try:
        for number in range(rounds):
            results: dict[str, Result] = {}
            for name, side in sides if number % 2 == 0 else reversed(sides):
                topic = f"{name.replace(' ', '-')}-{number}"
                results[name] = asyncio.run(measure(double, side, topic, versions))
            theirs, mine = results["bare SDK"], results["esazure"]
            ratios.append(mine.rate / theirs.rate)
            costs.append(mine.cpu / theirs.cpu)
            print(
                f"round {number + 1}: bare SDK {theirs.rate:5.0f}/s, {theirs.cpu:4.0f} us CPU a message;"
                f" esazure {mine.rate:5.0f}/s, {mine.cpu:4.0f} us; ratio {ratios[-1]:.2f}",
                flush=True,
            )
    finally:
        double.close()
    print(
        f"{STREAMS * versions:,} messages of {STREAMS} streams on {LANES} lanes: esazure handles"
        f" {statistics.median(ratios):.2f} times as many a second as the bare SDK"
        f" (rounds: {min(ratios):.2f} to {max(ratios):.2f}), for {statistics.median(costs):.2f} times the CPU"
    )


if __name__ == "__main__":
    main()
