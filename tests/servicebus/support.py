"""Commits to publish, and what a double has received of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, assert_never
from uuid import uuid4

from esazure import AggregateRoot, Commit, DomainEvent
from esazure.memory import InMemoryEventsRepository
from esazure.servicebus.producer import ServiceBusEventProducer
from esazure.testing.servicebus import MessageSnapshot, PlannedFault, ServiceBusDouble

SUBSCRIPTION = "customers/subscriptions/all"


class Noted(DomainEvent):
    text: str


class Customer(AggregateRoot[Noted, str]):
    def note(self, *texts: str) -> None:
        for text in texts:
            self.record(Noted(text=text))

    def when(self, event: Noted) -> None:
        match event:
            case Noted():
                pass
            case _:
                assert_never(event)


@dataclass
class Sends:
    """What the fixture `sends` sees."""

    batches: list[int] = field(default_factory=list)
    timeouts: list[float] = field(default_factory=list)
    before: Callable[[int], object] = lambda number: None


async def commits_of(*commits: tuple[str, ...], id: str | None = None) -> list[Commit[Any]]:
    """The commits of one stream, an event for each text."""
    customer = Customer(uuid4().hex if id is None else id)
    repository = InMemoryEventsRepository(Customer)
    stored = []
    for texts in commits:
        customer.note(*texts)
        commit = await repository.append(customer)
        assert commit is not None
        stored.append(commit)
    return stored


async def commit_of(*texts: str, id: str | None = None) -> Commit[Any]:
    """A commit of a stream of its own."""
    (commit,) = await commits_of(texts, id=id)
    return commit


def end_silence(producer: ServiceBusEventProducer) -> None:
    """As if the time had passed for which a silent broker is not asked."""
    if producer._breaker._open_until is not None:
        producer._breaker._open_until = 0.0


def received(double: ServiceBusDouble) -> list[MessageSnapshot]:
    """What is in the subscription, in the order in which the broker took it."""
    return double.messages(SUBSCRIPTION)


def versions(double: ServiceBusDouble, commit: Commit[Any]) -> list[int]:
    """The versions received of one stream, in order."""
    return [
        int(message.application_properties["version"])
        for message in received(double)
        if message.correlation_id == commit.aggregate_id
    ]


async def open_connections(double: ServiceBusDouble, expected: int) -> int:
    """How many connections are open, once they are as expected or seconds have passed: closing takes a moment."""
    for _ in range(100):
        if double.activity.open_connections == expected:
            break
        await asyncio.sleep(0.05)
    return double.activity.open_connections


async def met(planned: PlannedFault) -> None:
    """The operation a fault was planned for has come."""
    for _ in range(500):
        if planned.hits:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nothing met the fault")


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """What is inside ends in time: a test that hangs should say where."""
    start = asyncio.get_running_loop().time()
    yield
    elapsed = asyncio.get_running_loop().time() - start
    assert elapsed < seconds, f"took {elapsed:.1f} s"
