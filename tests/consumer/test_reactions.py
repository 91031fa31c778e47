"""A reaction changes its target exactly once, whatever call fails on the way, and says whose fault it was."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence

import pytest
from tests.consumer.support import (
    Account,
    Customer,
    Deposited,
    Greeted,
    Opened,
    Recorder,
    deliver,
    deposits,
    outcome,
)

from esazure import EventEnvelope, EventsService, IEventsService, metadata
from esazure.consumer import Consumer
from esazure.errors import (
    AggregateNotFoundError,
    AppendOutcomeUnknownError,
    ConcurrencyError,
    HandlerFailedError,
    RetryLaterError,
)
from esazure.handlers import Reactions
from esazure.integration import IntegrationMessage
from esazure.memory import InMemoryStore
from esazure.repository import CommitStore
from esazure.testing.faults import Kind, Point, World, crash_everywhere


def greeting(customers: IEventsService[Customer, str], name: str = "greeting") -> Reactions:
    """Every event of an account is greeted by the customer who has the same id."""
    reactions = Reactions(name)

    @reactions.on(Account, Opened, changes=customers, id=lambda envelope: envelope.aggregate_id)
    @reactions.on(Account, Deposited, changes=customers, id=lambda envelope: envelope.aggregate_id)
    def greet(customer: Customer, envelope: EventEnvelope[Opened | Deposited]) -> None:
        customer.record(Greeted(account=envelope.aggregate_id, version=envelope.version))

    return reactions


async def open_customer(store: CommitStore, id: str = "ada") -> None:
    customer = Customer(id)
    customer.record(Opened())
    await store.events(Customer, outbox=True).append(customer)


async def greeted(store: CommitStore, id: str = "ada") -> list[tuple[str, int]]:
    return (await store.events(Customer).rehydrate(id)).greeted


async def account_messages(store: CommitStore, deposited: int = 2) -> list[IntegrationMessage]:
    with metadata(correlation_id="request-7", user="ada"):
        return await deposits(store, "ada", deposited)


async def test_a_reaction_changes_the_aggregate_it_names() -> None:
    store = InMemoryStore()
    await open_customer(store)
    messages = await account_messages(store)
    consumer = Consumer("worker", [greeting(EventsService(store.events(Customer)))], positions=store, source=store)
    assert await deliver(consumer, [*messages, *messages]) == ["done"] * 6
    assert await greeted(store) == [("ada", 1), ("ada", 2), ("ada", 3)]


async def test_an_event_that_comes_again_after_its_position_was_lost_changes_nothing() -> None:
    store = InMemoryStore()
    await open_customer(store)
    messages = await account_messages(store)
    for _ in range(3):
        reactions = greeting(EventsService(store.events(Customer)))
        await deliver(Consumer("worker", [reactions], positions=InMemoryStore(), source=store), messages)
    assert await greeted(store) == [("ada", 1), ("ada", 2), ("ada", 3)]


async def test_two_sets_react_to_the_same_event_each_for_itself() -> None:
    store = InMemoryStore()
    await open_customer(store)
    customers = EventsService(store.events(Customer))
    sets = [greeting(customers, "one"), greeting(customers, "two")]
    await deliver(Consumer("worker", sets, positions=store, source=store), (await account_messages(store))[:1])
    assert await greeted(store) == [("ada", 1), ("ada", 1)]


async def test_the_commit_names_the_event_as_its_cause_and_carries_the_correlation_on() -> None:
    store = InMemoryStore()
    await open_customer(store)
    messages, recorder = await account_messages(store), Recorder()
    sets = [greeting(EventsService(store.events(Customer))), recorder]
    await deliver(Consumer("worker", sets, positions=store, source=store), [messages[0], messages[2]])
    commits = (await store.read("Customer.ada"))[1:]
    assert [json.loads(commit.metadata) for commit in commits] == [
        {"causation_id": str(envelope.event_id), "correlation_id": "request-7"} for envelope in recorder.envelopes
    ]
    assert len(commits) == 3
    assert [commit.command_id for commit in commits] == [
        f"greeting:{envelope.event_id}" for envelope in recorder.envelopes
    ]


async def test_a_reaction_that_records_nothing_is_done() -> None:
    store, reactions = InMemoryStore(), Reactions("quiet")
    await open_customer(store)
    customers = EventsService(store.events(Customer))

    @reactions.on(Account, Opened, changes=customers, id=lambda envelope: "ada")
    def nothing(customer: Customer, envelope: EventEnvelope[Opened]) -> None: ...

    consumer = Consumer("worker", [reactions], positions=store, source=store)
    assert await deliver(consumer, await account_messages(store)) == ["done"] * 3
    assert len(await store.read("Customer.ada")) == 1


async def test_a_target_that_is_not_there_is_a_failure_and_found_later() -> None:
    store = InMemoryStore()
    messages = await account_messages(store)
    consumer = Consumer(
        "worker", [greeting(EventsService(store.events(Customer)))], positions=store, source=store, attempts=2
    )
    lane = consumer.lane()
    with pytest.raises(HandlerFailedError) as caught:
        await lane.handle(messages[0])
    assert isinstance(caught.value.__cause__, AggregateNotFoundError)
    assert await outcome(lane, messages[0], 2) == "HandlerFailed"
    await open_customer(store)
    assert await outcome(lane, messages[2]) == "done"
    assert await greeted(store) == [("ada", 1), ("ada", 2), ("ada", 3)]
    assert await consumer.parked() == []


@pytest.mark.parametrize(
    "error",
    [
        ConcurrencyError("Customer.ada", expected=1),
        AppendOutcomeUnknownError("Customer.ada", expected=1, commit_id="x"),
    ],
)
async def test_conflicts_and_lost_answers_make_the_message_wait_and_never_park(error: Exception) -> None:
    store = InMemoryStore()
    await open_customer(store)

    class Troubled(EventsService[Customer, str]):
        async def persist(self, aggregate: Customer, **_: object) -> None:
            raise error

    reactions = greeting(Troubled(store.events(Customer)))
    consumer = Consumer("worker", [reactions], positions=store, source=store, attempts=1)
    (message, *_) = await account_messages(store)
    for _ in range(2):
        with pytest.raises(RetryLaterError, match=type(error).__name__):
            await consumer.lane().handle(message, 9)
    assert await consumer.parked() == []


def crashing(
    work: Callable[[World, Sequence[IntegrationMessage]], Awaitable[None]],
) -> Callable[..., Awaitable[object]]:
    """The work, for `crash_everywhere`; the messages are those of an account opened before."""
    messages: list[IntegrationMessage] = []

    async def given(world: World) -> None:
        await open_customer(world.store)
        messages[:] = await account_messages(world.store, deposited=1)

    async def check(world: World) -> None:
        assert await greeted(world.store) == [("ada", 1), ("ada", 2)]
        positions = await world.store.read_document("positions-worker", "Account.ada")
        assert positions is not None
        assert json.loads(positions.text) == {"positions": {"greeting": 2}, "parked": {}}

    async def run(kinds: Sequence[Kind] = tuple(Kind)) -> tuple[Point, ...]:
        report = await crash_everywhere(lambda world: work(world, messages), given=given, check=check, kinds=kinds)
        return report.points

    return run


async def test_whatever_call_fails_the_target_is_changed_exactly_once() -> None:
    async def work(world: World, messages: Sequence[IntegrationMessage]) -> None:
        reactions = greeting(EventsService(world.events(Customer), world.producer))
        lane = Consumer("worker", [reactions], positions=world.store, source=world.store).lane()
        for message in messages:
            await lane.handle(message)

    points = await crashing(work)()
    for_one = ["read", "insert", "unpublished", "dispatch", "mark_published", "write_document"]
    opening = ["dispatch", "mark_published"]  # of the customer, by the first reaction
    assert sorted(point.method for point in points) == sorted(["read_document", *for_one * 2, *opening])


async def test_the_same_when_the_first_messages_were_lost_and_the_store_has_to_tell() -> None:
    async def work(world: World, messages: Sequence[IntegrationMessage]) -> None:
        reactions = greeting(EventsService(world.events(Customer), world.producer))
        consumer = Consumer("worker", [reactions], positions=world.store, source=world.store)
        await consumer.lane().handle(messages[-1])

    points = await crashing(work)()
    for_one = ["read", "insert", "unpublished", "dispatch", "mark_published"]
    around = ["read_document", "read", "dispatch", "mark_published", "write_document"]
    assert sorted(point.method for point in points) == sorted([*for_one * 2, *around])


async def test_the_same_when_two_workers_have_the_message() -> None:
    async def work(world: World, messages: Sequence[IntegrationMessage]) -> None:
        for _ in range(2):
            reactions = greeting(EventsService(world.events(Customer), world.producer))
            lane = Consumer("worker", [reactions], positions=world.store, source=world.store).lane()
            for message in messages:
                await lane.handle(message)

    await crashing(work)([Kind.CRASH_BEFORE, Kind.CRASH_AFTER, Kind.LOST_ANSWER, Kind.LOST_REQUEST])
