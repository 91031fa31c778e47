"""A consumer that does what a test says, messages for its lanes, and looking at what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusSender
from tests.support.secrets import MARKER

from esazure.integration import IntegrationMessage
from esazure.servicebus import ServiceBusSubscription
from esazure.testing.servicebus import MessageSnapshot, MessageState, ServiceBusDouble

SUBSCRIPTION = "customers/subscriptions/all"
DEAD_LETTERS = f"{SUBSCRIPTION}/$DeadLetterQueue"


@dataclass(frozen=True)
class Handled:
    """One call of a lane."""

    lane: str
    version: int
    attempt: int


@dataclass
class Recorder:
    """In the place of a consumer: remembers every call that began, and those that ended well."""

    begun: list[Handled] = field(default_factory=list)
    done: list[Handled] = field(default_factory=list)
    cancelled: list[Handled] = field(default_factory=list)
    lanes: int = 0
    handle: Callable[[Handled], Awaitable[None]] | None = None
    """What is done for each call; may raise."""

    def lane(self) -> Any:
        self.lanes += 1
        return _Lane(self)

    async def record(self, call: Handled) -> None:
        self.begun.append(call)
        try:
            if self.handle is not None:
                await self.handle(call)
        except asyncio.CancelledError:
            self.cancelled.append(call)
            raise
        self.done.append(call)

    def versions(self, lane: str) -> list[int]:
        """Handled in this lane, in order."""
        return [call.version for call in self.done if call.lane == lane]

    def in_order(self, counts: dict[str, int]) -> bool:
        """Whether every message was handled, each lane's in order; repeats do not count, as for a version guard."""
        return all(first_times(self.versions(lane)) == list(range(1, count + 1)) for lane, count in counts.items())


class _Lane:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def handle(self, message: IntegrationMessage, attempt: int = 1) -> None:
        version = message.properties.get("version", "")
        await self._recorder.record(Handled(message.session_id, int(version) if version.isdigit() else 0, attempt))


def first_times(versions: Iterable[int]) -> list[int]:
    """Without what a version guard drops: everything at or below the highest so far."""
    found: list[int] = []
    for version in versions:
        if version > (found[-1] if found else 0):
            found.append(version)
    return found


def message_of(lane: str, version: int, **fields: Any) -> ServiceBusMessage:
    """A message as esazure sends them; `fields` say otherwise."""
    standard: dict[str, Any] = {
        "body": f'{{"text":"{MARKER}"}}'.encode(),
        "message_id": f"{lane}/{version}",
        "session_id": lane,
        "correlation_id": lane,
        "subject": "Noted",
        "content_type": "application/json",
        "application_properties": {
            "aggregate": f"{lane}",
            "aggregate_type": "Customer",
            "type": "Noted",
            "version": str(version),
            "occurred_at": "2026-01-01T00:00:00+00:00",
        },
    }
    return ServiceBusMessage(**{**standard, **fields})


class Mailbox:
    """Sends to the topic, numbering each lane's messages from 1."""

    def __init__(self, sender: ServiceBusSender) -> None:
        self._sender = sender
        self.counts: dict[str, int] = {}

    async def send(self, *lanes: str, count: int = 1) -> None:
        """This many messages to each lane."""
        for lane in lanes:
            first = self.counts.get(lane, 0) + 1
            self.counts[lane] = first + count - 1
            messages = [message_of(lane, version) for version in range(first, first + count)]
            for start in range(0, count, 200):
                await self._sender.send_messages(messages[start : start + 200], timeout=10)

    async def post(self, message: Any) -> None:
        """Anything."""
        await self._sender.send_messages(message, timeout=10)


@asynccontextmanager
async def mailbox(double: ServiceBusDouble) -> AsyncIterator[Mailbox]:
    async with (
        ServiceBusClient.from_connection_string(double.connection_string, retry_total=0) as client,
        client.get_topic_sender("customers") as sender,
    ):
        yield Mailbox(sender)


@asynccontextmanager
async def running(*subscriptions: ServiceBusSubscription) -> AsyncIterator[None]:
    """They run meanwhile, and are stopped in the end."""
    tasks = [asyncio.create_task(subscription.run()) for subscription in subscriptions]
    try:
        yield
    finally:
        for subscription in subscriptions:
            subscription.stop()
        await asyncio.gather(*tasks)


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for it."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - what is waited for is in other processes, too
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError("it did not come to that in time") from None


def waiting(double: ServiceBusDouble) -> list[MessageSnapshot]:
    """What is in the subscription, delivered or not."""
    states = (MessageState.ACTIVE, MessageState.LOCKED)
    found = [message for state in states for message in double.messages(SUBSCRIPTION, state=state)]
    return sorted(found, key=lambda message: message.sequence_number)


def dead(double: ServiceBusDouble) -> list[MessageSnapshot]:
    """What was dead-lettered."""
    return double.messages(DEAD_LETTERS)
