"""Publishing to a broker that behaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from tests.servicebus.support import Sends, commit_of, commits_of, received, versions, within

from esazure import CommitTooLargeError, DispatchError, whole
from esazure.integration import Integration, IntegrationMessage, lane_of
from esazure.servicebus import ServiceBus, ServiceBusEventProducer
from esazure.testing.conformance import EventProducerConformance
from esazure.testing.servicebus import Drop, Ignore, ServiceBusDouble

pytestmark = pytest.mark.amqp


class Destination:
    """A topic that keeps duplicates."""

    def __init__(self, bus: ServiceBus, double: ServiceBusDouble) -> None:
        self._bus = bus
        self._double = double

    def producer(self, integration: Integration) -> ServiceBusEventProducer:
        return self._bus.producer("events", integration=integration)

    async def received(self, count: int) -> list[IntegrationMessage]:
        return [
            IntegrationMessage(
                message.message_id,
                message.session_id or "",
                message.correlation_id,
                message.subject or "",
                message.application_properties,
                message.body.decode(),
            )
            for message in self._double.messages("events/subscriptions/all")
        ]


class TestServiceBusEventProducer(EventProducerConformance):
    @pytest.fixture
    async def broker(self) -> AsyncIterator[Destination]:
        async with ServiceBusDouble() as double:
            double.topic("events").subscribe("all", requires_session=True)
            async with ServiceBus.from_connection_string(double.connection_string) as bus:
                yield Destination(bus, double)


async def test_commits_arrive_in_the_order_in_which_they_were_dispatched(
    bus: ServiceBus, double: ServiceBusDouble
) -> None:
    producer = bus.producer("customers")
    commits = await commits_of(("a", "b"), ("c",), ("d", "e", "f"))

    for commit in commits:
        await producer.dispatch(commit)

    assert [json.loads(message.body)["text"] for message in received(double)] == list("abcdef")
    assert versions(double, commits[0]) == [1, 2, 3, 4, 5, 6]


async def test_twenty_dispatches_at_once_share_one_link_and_take_turns(
    bus: ServiceBus, double: ServiceBusDouble
) -> None:
    producer = bus.producer("customers")
    commits = [await commit_of("a", "b", id=f"customer-{number}") for number in range(20)]

    await asyncio.gather(*[producer.dispatch(commit) for commit in commits])

    assert (double.activity.connections, double.activity.tokens, double.activity.open_connections) == (1, 1, 1)
    assert [message.correlation_id for message in received(double)] == [
        f"customer-{number}" for number in range(20) for _ in "ab"
    ]


async def test_a_commit_that_fits_is_one_batch(bus: ServiceBus, sends: Sends) -> None:
    await bus.producer("customers").dispatch(await commit_of(*("x" * 300 for _ in range(60))))
    assert sends.batches == [60]


async def test_a_message_alone_is_not_put_into_a_batch(bus: ServiceBus, double: ServiceBusDouble, sends: Sends) -> None:
    commit = await commit_of("a")
    await bus.producer("customers").dispatch(commit)
    assert sends.batches == [0]
    assert versions(double, commit) == [1]


@pytest.fixture
async def keeping() -> AsyncIterator[ServiceBusDouble]:
    """A broker that keeps duplicates."""
    async with ServiceBusDouble() as keeping:
        keeping.topic("customers").subscribe("all", requires_session=True)
        yield keeping


async def test_a_larger_commit_takes_several_batches_in_order(keeping: ServiceBusDouble, sends: Sends) -> None:
    commit = await commit_of(*("x" * 20_000 for _ in range(40)))
    async with ServiceBus.from_connection_string(keeping.connection_string) as bus:
        await bus.producer("customers").dispatch(commit)
    assert versions(keeping, commit) == list(range(1, 41))
    assert sends.batches == [12, 12, 12, 4]
    assert keeping.activity.connections == 1


async def test_after_a_failure_between_batches_only_the_rest_is_sent(keeping: ServiceBusDouble, sends: Sends) -> None:
    commit = await commit_of(*("x" * 20_000 for _ in range(40)))
    sends.before = lambda number: keeping.faults.next_send(Drop()) if number == 2 else None
    async with ServiceBus.from_connection_string(keeping.connection_string) as bus:
        await bus.producer("customers").dispatch(commit)
    assert versions(keeping, commit) == list(range(1, 41))  # a second copy would be here too
    assert sends.batches == [12, 12, 12, 12, 4]


async def test_every_send_has_a_timeout(bus: ServiceBus, sends: Sends) -> None:
    await bus.producer("customers", timeout=7).dispatch(await commit_of("a"))
    assert sends.timeouts == [3.5]


async def test_a_commit_of_private_events_opens_nothing(bus: ServiceBus, double: ServiceBusDouble) -> None:
    await bus.producer("customers", integration=lambda envelope, payload: None).dispatch(await commit_of("a"))
    assert double.activity.connections == 0


async def test_a_commit_of_private_events_does_not_wait_for_its_turn(bus: ServiceBus, double: ServiceBusDouble) -> None:
    producer = bus.producer(
        "customers", integration=lambda envelope, payload: None if "private" in payload else whole(envelope, payload)
    )
    double.faults.next_send(Ignore(), times=None)
    hanging = asyncio.create_task(producer.dispatch(await commit_of("a")))
    await asyncio.sleep(0.01)

    async with within(5):
        await producer.dispatch(await commit_of("private"))

    assert not hanging.done()
    hanging.cancel()
    await asyncio.wait({hanging})


async def test_nothing_is_opened_before_the_first_dispatch(bus: ServiceBus, double: ServiceBusDouble) -> None:
    bus.producer("customers").check(await commit_of("a"))
    assert double.activity.connections == 0


async def test_lanes_are_the_sessions(bus: ServiceBus, double: ServiceBusDouble) -> None:
    commit = await commit_of("a", id="ada")
    for lanes in (16, 3, None):
        double.advance(700)  # out of the window of duplicate detection
        await bus.producer("customers", lanes=lanes).dispatch(commit)
    assert [message.session_id for message in received(double)] == [
        lane_of("Customer.ada", 16),
        lane_of("Customer.ada", 3),
        "Customer.ada",
    ]


async def test_the_limit_for_a_message_is_the_producers(bus: ServiceBus) -> None:
    commit = await commit_of("x" * 2_000)
    bus.producer("customers", max_message_bytes=10_000).check(commit)
    with pytest.raises(CommitTooLargeError, match="at most 1,000"):
        bus.producer("customers", max_message_bytes=1_000).check(commit)


async def test_a_commit_over_the_limit_is_not_dispatched_either(bus: ServiceBus, double: ServiceBusDouble) -> None:
    producer = bus.producer("customers", max_message_bytes=1_000)
    with pytest.raises(DispatchError, match="larger than the broker takes") as caught:
        await producer.dispatch(await commit_of("small", "x" * 2_000))
    assert caught.value.permanent
    assert double.activity.connections == 0


async def test_a_producer_may_publish_to_a_queue(bus: ServiceBus, double: ServiceBusDouble) -> None:
    double.queue("inbox")
    await bus.producer("inbox").dispatch(await commit_of("a"))
    assert [message.body for message in double.messages("inbox")] == [b'{"text":"a"}']


async def test_each_producer_has_a_connection_of_its_own(bus: ServiceBus, double: ServiceBusDouble) -> None:
    for producer in (bus.producer("customers"), bus.producer("customers")):
        await producer.dispatch(await commit_of("a"))
    assert double.activity.open_connections == 2
