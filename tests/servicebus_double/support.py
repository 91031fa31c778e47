"""Where the feature suite runs, and the few helpers all suites share.

Without ESAZURE_SERVICEBUS every test gets a double of its own. With it, the feature suite runs against that namespace,
which needs these entities (lock duration 30 s unless given):

- queue `esazure-queue`
- queue `esazure-sessions`, sessions required
- queue `esazure-short`, lock duration 5 s
- queue `esazure-short-sessions`, sessions required, lock duration 5 s
- queue `esazure-unique`, duplicate detection window 60 s
- queue `esazure-expiring`, dead-lettering on expiration
- topic `esazure-topic` with the subscriptions `all` (max delivery count 3), `sessions` (sessions required), `created`
  (correlation filter subject = created), `eu` (correlation filter region = eu), `sql` (SQL filter as in `SQL` below)
  and `either` (two rules: subject = created, and region = eu)
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusReceiveMode, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import OperationTimeoutError

from esazure.testing.servicebus import MessageSnapshot, ServiceBusDouble, correlation_rule, sql_rule

REAL = os.environ.get("ESAZURE_SERVICEBUS")
QUEUE = "esazure-queue"
SESSIONS = "esazure-sessions"
SHORT = "esazure-short"
SHORT_SESSIONS = "esazure-short-sessions"
UNIQUE = "esazure-unique"
EXPIRING = "esazure-expiring"
TOPIC = "esazure-topic"
SQL = "sys.Label = 'created' AND (region IN ('eu', 'uk') OR amount > 10)"


def declare(bus: ServiceBusDouble, *, short_lock: float = 5) -> None:
    """What the module docstring says."""
    bus.queue(QUEUE)
    bus.queue(SESSIONS, requires_session=True)
    bus.queue(SHORT, lock_duration=short_lock)
    bus.queue(SHORT_SESSIONS, lock_duration=short_lock, requires_session=True)
    bus.queue(UNIQUE, duplicate_detection_window=60)
    bus.queue(EXPIRING, dead_letter_on_expiry=True)
    topic = bus.topic(TOPIC)
    topic.subscribe("all", max_delivery_count=3)
    topic.subscribe("sessions", requires_session=True)
    topic.subscribe("created", rules=[correlation_rule(subject="created")])
    topic.subscribe("eu", rules=[correlation_rule(properties={"region": "eu"})])
    topic.subscribe("sql", rules=[sql_rule(SQL)])
    topic.subscribe(
        "either", rules=[correlation_rule(subject="created"), correlation_rule(properties={"region": "eu"})]
    )


@dataclass(frozen=True)
class Place:
    """A namespace to test against, and the double behind it if it is one."""

    connection_string: str
    bus: ServiceBusDouble | None

    @property
    def double(self) -> ServiceBusDouble:
        """The double, for what only it can do."""
        if self.bus is None:
            pytest.skip("a real namespace neither moves its clock nor shows what is inside")
        return self.bus

    async def outlive(self, operation: str, lock_duration: float) -> None:
        """Return when a lock taken before would have expired, had `operation` not renewed it."""
        if self.bus is None:
            await asyncio.sleep(lock_duration + 2)
            return
        bus = self.bus
        await until(lambda: bus.activity.requests.get(operation, 0) > 0)
        bus.advance(lock_duration - 1)  # with the second or more that passed before the renewal, too long for the first


def connect(connection_string: str, *, retries: int = 3) -> ServiceBusClient:
    """A client that does not sit out the default backoff."""
    return ServiceBusClient.from_connection_string(
        connection_string, retry_total=retries, retry_backoff_factor=0.05, retry_mode="fixed"
    )


@asynccontextmanager
async def a_place() -> AsyncIterator[Place]:
    """The real namespace, emptied, or a fresh double."""
    if REAL:
        async with connect(REAL, retries=0) as client:
            await _empty(client)
        yield Place(REAL, None)
    else:
        async with ServiceBusDouble() as bus:
            declare(bus)
            yield Place(bus.connection_string, bus)


def texts(messages: Iterable[Any]) -> list[str]:
    """The bodies, of received messages or of snapshots."""
    return [m.body.decode() if isinstance(m, MessageSnapshot) else str(m) for m in messages]


@asynccontextmanager
async def both(
    client: ServiceBusClient, queue: str, **options: Any
) -> AsyncIterator[tuple[ServiceBusSender, ServiceBusReceiver]]:
    """A sender and a receiver, opened and closed side by side: each takes the SDK half a second and more."""
    sender, receiver = client.get_queue_sender(queue), client.get_queue_receiver(queue, **options)
    await asyncio.gather(sender.__aenter__(), receiver.__aenter__())
    try:
        yield sender, receiver
    finally:
        await asyncio.gather(sender.close(), receiver.close())


async def until(condition: Callable[[], bool], patience: float = 20) -> None:
    """Wait for the broker or the client to get there."""
    async with asyncio.timeout(patience):
        while not condition():  # noqa: ASYNC110 - neither of them can set an event for us
            await asyncio.sleep(0.01)


async def receive(receiver: ServiceBusReceiver, count: int) -> list[Any]:
    """Exactly `count` messages, in as many calls as they need: one call may return early with fewer."""
    got: list[Any] = []
    async with asyncio.timeout(20):
        while len(got) < count:
            got += await receiver.receive_messages(count - len(got), max_wait_time=5)
    return got


async def consume(receiver: ServiceBusReceiver, count: int) -> list[str]:
    """The bodies of the next messages, which are completed."""
    messages = await receive(receiver, count)
    for message in messages:
        await receiver.complete_message(message)
    return texts(messages)


async def nothing_waits(receiver: ServiceBusReceiver) -> bool:
    """Whether nothing is delivered for a moment."""
    return await receiver.receive_messages(1, max_wait_time=0.3) == []


async def _empty(client: ServiceBusClient) -> None:
    """Take everything out of the real entities, so that a test starts with nothing."""
    queues = [
        _drain(partial(client.get_queue_receiver, queue), sessions="sessions" in queue)
        for queue in (QUEUE, SESSIONS, SHORT, SHORT_SESSIONS, UNIQUE, EXPIRING)
    ]
    subscriptions = [
        _drain(partial(client.get_subscription_receiver, TOPIC, name), sessions=name == "sessions")
        for name in ("all", "sessions", "created", "eu", "sql", "either")
    ]
    await asyncio.gather(*queues, *subscriptions)


async def _drain(receiver: Callable[..., ServiceBusReceiver], *, sessions: bool) -> None:
    take = partial(receiver, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE)
    await _drain_one(take(sub_queue=ServiceBusSubQueue.DEAD_LETTER))
    if not sessions:
        await _drain_one(take())
        return
    with suppress(OperationTimeoutError):
        while True:
            await _drain_one(take(session_id=NEXT_AVAILABLE_SESSION, max_wait_time=1))


async def _drain_one(receiver: ServiceBusReceiver) -> None:
    async with receiver:
        while await receiver.receive_messages(100, max_wait_time=1):
            pass
