"""A dispatch that is cancelled, at every point of its way, and a bus that is closed under one."""

from __future__ import annotations

import asyncio

import pytest
from tests.servicebus.support import commit_of, commits_of, met, open_connections, versions, within

from esazure import DispatchError
from esazure.servicebus import ServiceBus
from esazure.testing.servicebus import Fault, Ignore, Reject, ServiceBusDouble

pytestmark = pytest.mark.amqp


async def cancel(task: asyncio.Task[None]) -> None:
    async with within(2):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize(
    ("fault", "connections"),
    [(Ignore(), 2), (Ignore(applied=True), 2), (Reject("com.microsoft:server-busy"), 1)],
    ids=["sent", "stored", "pausing"],
)
async def test_cancelled_while_sending(
    bus: ServiceBus, double: ServiceBusDouble, fault: Fault, connections: int
) -> None:
    producer = bus.producer("customers")
    first, second, third = await commits_of(("a",), ("b", "c"), ("d",))
    await producer.dispatch(first)
    planned = double.faults.next_send(fault, times=None)
    task = asyncio.create_task(producer.dispatch(second))
    await met(planned)
    await asyncio.sleep(0.05)

    await cancel(task)

    double.faults.clear()
    await producer.dispatch(second)
    await producer.dispatch(third)
    assert versions(double, first) == [1, 2, 3, 4]
    assert await open_connections(double, 1) == 1
    assert double.activity.connections == connections  # nobody knows what still happens on a link that was left


async def test_cancelled_at_any_moment_of_the_opening(bus: ServiceBus, double: ServiceBusDouble) -> None:
    producer = bus.producer("customers")
    commit = await commit_of("a", "b")
    for moment in range(12):
        task = asyncio.create_task(producer.dispatch(commit))
        await asyncio.sleep(moment * 0.04)
        if task.done():
            break
        await cancel(task)

    await producer.dispatch(commit)

    assert versions(double, commit) == [1, 2]
    assert await open_connections(double, 1) == 1


async def test_cancelled_while_the_peer_hangs(bus: ServiceBus, double: ServiceBusDouble) -> None:
    producer = bus.producer("customers")
    await producer.dispatch(await commit_of("before"))
    double.faults.stop_reading = True
    commit = await commit_of(*("x" * 200_000 for _ in range(16)))
    task = asyncio.create_task(producer.dispatch(commit))
    await asyncio.sleep(0.3)

    await cancel(task)

    double.faults.clear()
    await producer.dispatch(commit)
    assert versions(double, commit) == list(range(1, 17))
    assert await open_connections(double, 1) == 1


async def test_cancelled_while_waiting_for_its_turn_disturbs_nobody(bus: ServiceBus, double: ServiceBusDouble) -> None:
    producer = bus.producer("customers")
    first, second, third = [await commit_of("a") for _ in range(3)]
    tasks = [asyncio.create_task(producer.dispatch(commit)) for commit in (first, second, third)]
    await asyncio.sleep(0)

    await cancel(tasks[1])

    await asyncio.gather(tasks[0], tasks[2])
    assert [versions(double, commit) for commit in (first, second, third)] == [[1], [], [1]]
    assert double.activity.connections == 1


async def test_a_cancelled_dispatch_leaves_its_neighbours_alone(bus: ServiceBus, double: ServiceBusDouble) -> None:
    producer = bus.producer("customers")
    await producer.dispatch(await commit_of("before"))
    planned = double.faults.next_send(Ignore(applied=True))
    commits = await commits_of(*[("a",)] * 4)
    tasks = [asyncio.create_task(producer.dispatch(commit)) for commit in commits]
    await met(planned)

    await cancel(tasks[0])

    await asyncio.gather(*tasks[1:])
    assert versions(double, commits[0]) == [1, 2, 3, 4]
    assert await open_connections(double, 1) == 1


async def test_leaving_the_bus_waits_for_the_dispatch_under_way(double: ServiceBusDouble) -> None:
    commit = await commit_of("a")
    async with ServiceBus.from_connection_string(double.connection_string) as bus:
        task = asyncio.create_task(bus.producer("customers").dispatch(commit))
        await asyncio.sleep(0.05)
    await task
    assert versions(double, commit) == [1]
    assert await open_connections(double, 0) == 0


async def test_leaving_the_bus_does_not_wait_for_one_that_hangs(double: ServiceBusDouble) -> None:
    async with within(10), ServiceBus.from_connection_string(double.connection_string) as bus:
        producer = bus.producer("customers")
        await producer.dispatch(await commit_of("before"))
        double.faults.stop_reading = True
        tasks = [asyncio.create_task(producer.dispatch(await commit_of("a"))) for _ in range(3)]
        await asyncio.sleep(0.05)
    assert all(task.done() for task in tasks)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert ["ServiceBus was closed" in str(outcome) for outcome in outcomes] == [True] * 3
    double.faults.clear()
    assert await open_connections(double, 0) == 0


async def test_after_the_bus_is_left_nothing_is_opened_again(double: ServiceBusDouble) -> None:
    async with ServiceBus.from_connection_string(double.connection_string) as bus:
        producer = bus.producer("customers")
    with pytest.raises(DispatchError, match="its ServiceBus was closed"):
        await producer.dispatch(await commit_of("a"))
    assert double.activity.connections == 0


async def test_leaving_the_bus_after_a_failure_takes_its_remains_along(double: ServiceBusDouble) -> None:
    async with ServiceBus.from_connection_string(double.connection_string) as bus:
        double.faults.next_send(Reject("amqp:not-allowed"))
        with pytest.raises(DispatchError):
            await bus.producer("customers").dispatch(await commit_of("a"))
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert await open_connections(double, 0) == 0
