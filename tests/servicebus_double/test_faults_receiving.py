"""Fault suite, receivers: what the SDK does when the broker or the network misbehaves. Against the double only.

Pinned to 7.15: the 7.14 SDK settles without waiting for an answer, so it never learns that a settlement failed.
"""

import asyncio

import pytest
from azure.servicebus import ServiceBusClient as SyncServiceBusClient
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessagingEntityDisabledError,
    OperationTimeoutError,
    ServiceBusConnectionError,
    SessionLockLostError,
)
from tests.servicebus_double.raw_client import put
from tests.servicebus_double.support import connect, consume, receive, texts

from esazure.testing.servicebus import Close, Detach, Drop, Fault, Ignore, MessageState, Reject, ServiceBusDouble

pytestmark = [
    pytest.mark.amqp,
    pytest.mark.usefixtures("sdk_leaks_sockets"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:loop is closed:ResourceWarning"),
]

SESSION_LOST = "com.microsoft:session-lock-lost"


@pytest.mark.parametrize("way", ["drop", "detach", "close"])
async def test_a_receiver_comes_back_and_can_still_complete_what_it_had(
    bus: ServiceBusDouble, to_bus: ServiceBusClient, way: str
) -> None:
    interrupt = {
        "drop": bus.faults.drop_connections,
        "detach": bus.faults.detach_links,
        "close": bus.faults.close_connections,
    }[way]
    async with to_bus.get_queue_receiver("q") as receiver:
        assert interrupt() == 1
        await put(bus, "1")
        (got,) = await receive(receiver, 1)
        assert interrupt() == 1
        # The delivery is gone with its link, the lock is not: the SDK completes over $management.
        await receiver.complete_message(got)
    assert bus.activity.requests == {"update-disposition": 1}
    assert bus.messages("q") == bus.messages("q", state=MessageState.LOCKED) == []


async def test_iterating_survives_a_broken_connection(bus: ServiceBusDouble, to_bus: ServiceBusClient) -> None:
    await put(bus, *"0123")
    seen: list[str] = []
    async with to_bus.get_queue_receiver("q", max_wait_time=10) as receiver:
        async for message in receiver:
            seen.append(str(message))
            await receiver.complete_message(message)
            if len(seen) == 2:
                bus.faults.drop_connections()
            if len(seen) == 4:
                break
    assert seen == list("0123")


async def test_a_settlement_can_be_refused_for_a_lost_lock(bus: ServiceBusDouble, to_bus: ServiceBusClient) -> None:
    await put(bus, "1")
    async with to_bus.get_queue_receiver("q") as receiver:
        (got,) = await receive(receiver, 1)
        bus.faults.next_settlement(Reject("com.microsoft:message-lock-lost"), entity="q")
        with pytest.raises(MessageLockLostError):
            await receiver.complete_message(got)
    assert len(bus.messages("q", state=MessageState.LOCKED)) == 1


@pytest.mark.parametrize("fault", [Drop(applied=True), Detach(applied=True), Close(applied=True)])
async def test_completed_without_a_confirmation_looks_like_a_lost_lock(
    bus: ServiceBusDouble, to_bus: ServiceBusClient, fault: Fault
) -> None:
    await put(bus, "1")
    async with to_bus.get_queue_receiver("q") as receiver:
        (got,) = await receive(receiver, 1)
        bus.faults.next_settlement(fault)
        with pytest.raises(MessageLockLostError):
            await receiver.complete_message(got)
    assert bus.messages("q") == bus.messages("q", state=MessageState.LOCKED) == []


@pytest.mark.parametrize("fault", [Drop(), Detach()])
async def test_a_settlement_that_was_not_done_is_done_over_management(
    bus: ServiceBusDouble, to_bus: ServiceBusClient, fault: Fault
) -> None:
    await put(bus, "1")
    async with to_bus.get_queue_receiver("q") as receiver:
        (got,) = await receive(receiver, 1)
        planned = bus.faults.next_settlement(fault)
        await receiver.complete_message(got)
    assert planned.hits == 1
    assert bus.messages("q", state=MessageState.LOCKED) == []


@pytest.mark.parametrize("applied", [True, False])
async def test_a_settlement_without_an_answer_waits(
    *, bus: ServiceBusDouble, to_bus: ServiceBusClient, applied: bool
) -> None:
    await put(bus, "1")
    async with to_bus.get_queue_receiver("q") as receiver:
        (got,) = await receive(receiver, 1)
        bus.faults.next_settlement(Ignore(applied=applied))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await receiver.complete_message(got)
        assert bool(bus.messages("q", state=MessageState.LOCKED)) is not applied


async def test_a_session_receiver_does_not_survive_its_connection(
    bus: ServiceBusDouble, to_bus: ServiceBusClient
) -> None:
    await put(bus, "1", "2", entity="sessions", session_id="a")
    async with to_bus.get_queue_receiver("sessions", session_id="a") as receiver:
        (got,) = await receive(receiver, 1)
        bus.faults.drop_connections()
        with pytest.raises(ServiceBusConnectionError):
            await receiver.complete_message(got)
        with pytest.raises(SessionLockLostError):
            await receiver.receive_messages(2, max_wait_time=1)
    async with to_bus.get_queue_receiver("sessions", session_id="a") as receiver:
        messages = await receive(receiver, 2)
        assert [(str(message), message.delivery_count) for message in messages] == [("1", 0), ("2", 0)]


async def test_a_session_taken_away_is_lost(bus: ServiceBusDouble, to_bus: ServiceBusClient) -> None:
    await put(bus, "1", entity="sessions", session_id="a")
    async with to_bus.get_queue_receiver("sessions", session_id="a") as receiver:
        assert bus.faults.detach_links(SESSION_LOST, "Accept a new session.", entity="sessions") == 1
        with pytest.raises(SessionLockLostError):
            await receiver.receive_messages(1, max_wait_time=2)


async def test_held_deliveries_come_when_let_go(bus: ServiceBusDouble, to_bus: ServiceBusClient) -> None:
    await put(bus, "1")
    async with to_bus.get_queue_receiver("q") as receiver:
        bus.faults.hold_deliveries = True
        assert await receiver.receive_messages(1, max_wait_time=0.5) == []
        assert texts(bus.messages("q")) == ["1"]
        waiting = asyncio.create_task(receive(receiver, 1))
        await asyncio.sleep(0)
        bus.faults.hold_deliveries = False
        (got,) = await waiting
        await receiver.complete_message(got)


async def test_a_disabled_queue_ends_its_receivers(bus: ServiceBusDouble) -> None:
    async with connect(bus.connection_string, retries=0) as client:
        await put(bus, "1")
        async with client.get_queue_receiver("q") as receiver:
            bus.faults.disable("q")
            with pytest.raises(MessagingEntityDisabledError):
                await receiver.receive_messages(1, max_wait_time=10)
            bus.faults.enable("q")
            assert await consume(receiver, 1) == ["1"]


async def test_a_half_open_receiver_times_out_and_recovers(bus: ServiceBusDouble, to_bus: ServiceBusClient) -> None:
    await put(bus, "1")
    async with to_bus.get_queue_receiver("q") as receiver:
        bus.faults.stop_reading = True
        with pytest.raises(OperationTimeoutError):
            await receiver.peek_messages(1, timeout=1)
        bus.faults.stop_reading = False
        assert await consume(receiver, 1) == ["1"]


def test_the_synchronous_receiver_recovers_too() -> None:
    with ServiceBusDouble() as bus:
        bus.queue("q")
        with SyncServiceBusClient.from_connection_string(bus.connection_string, retry_backoff_factor=0.05) as client:
            with client.get_queue_sender("q") as sender:
                sender.send_messages([ServiceBusMessage(body) for body in (b"1", b"2", b"3", b"4")])
            seen: list[str] = []
            with client.get_queue_receiver("q", max_wait_time=10) as receiver:
                for message in receiver:
                    seen.append(str(message))
                    if len(seen) == 2:
                        bus.faults.drop_connections()
                    receiver.complete_message(message)
                    if len(seen) == 4:
                        break
        assert seen == ["1", "2", "3", "4"]
        assert bus.messages("q") == bus.messages("q", state=MessageState.LOCKED) == []
