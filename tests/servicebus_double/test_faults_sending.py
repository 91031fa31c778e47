"""Fault suite, senders: what the SDK does when the broker or the network misbehaves. Against the double only."""

import asyncio
import datetime as dt

import pytest
from azure.servicebus import ServiceBusClient as SyncServiceBusClient
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import (
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    OperationTimeoutError,
    ServiceBusAuthenticationError,
    ServiceBusConnectionError,
    ServiceBusError,
    ServiceBusQuotaExceededError,
    ServiceBusServerBusyError,
)
from tests.servicebus_double.support import connect, texts

from esazure.testing.servicebus import Close, Detach, Drop, Fault, Ignore, MessageState, Reject, ServiceBusDouble

pytestmark = [
    pytest.mark.amqp,
    pytest.mark.usefixtures("sdk_leaks_sockets"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:loop is closed:ResourceWarning"),
]

BUSY = Reject("com.microsoft:server-busy", "Please wait 4 seconds and try again.")


async def send(client: ServiceBusClient, body: bytes = b"1", queue: str = "q", **options: float) -> None:
    async with client.get_queue_sender(queue) as sender:
        await sender.send_messages(ServiceBusMessage(body, message_id="id"), **options)


async def test_a_connection_that_broke_while_idle_is_opened_again(
    bus: ServiceBusDouble, to_bus: ServiceBusClient
) -> None:
    async with to_bus.get_queue_sender("q") as sender:
        await sender.send_messages(ServiceBusMessage(b"1"))
        assert bus.faults.drop_connections() == 1
        await sender.send_messages(ServiceBusMessage(b"2"))
    assert texts(bus.messages("q")) == ["1", "2"]
    assert bus.activity.connections == 2


@pytest.mark.parametrize(
    "fault",
    [
        Drop(),
        Detach("amqp:link:detach-forced", "The link is force detached."),
        Close("amqp:connection:forced", "The connection was inactive."),
        BUSY,
    ],
)
async def test_what_was_not_stored_is_sent_again(bus: ServiceBusDouble, to_bus: ServiceBusClient, fault: Fault) -> None:
    planned = bus.faults.next_send(fault)
    await send(to_bus)
    assert planned.hits == 1
    assert texts(bus.messages("q")) == ["1"]


@pytest.mark.parametrize("fault", [Drop(applied=True), Detach(applied=True), Close(applied=True)])
async def test_what_was_stored_without_an_answer_is_doubled_unless_duplicates_are_detected(
    bus: ServiceBusDouble, to_bus: ServiceBusClient, fault: Fault
) -> None:
    bus.faults.next_send(fault, entity="q")
    bus.faults.next_send(fault, entity="unique")
    await asyncio.gather(send(to_bus), send(to_bus, queue="unique"))
    assert texts(bus.messages("q")) == ["1", "1"]
    assert texts(bus.messages("unique")) == ["1"]


@pytest.mark.parametrize("stored", [True, False])
async def test_no_answer_is_a_timeout_and_says_nothing_about_the_message(
    *, bus: ServiceBusDouble, to_bus: ServiceBusClient, stored: bool
) -> None:
    bus.faults.next_send(Ignore(applied=stored), times=None)
    with pytest.raises(OperationTimeoutError):
        await send(to_bus, timeout=1)
    assert bool(bus.messages("q")) is stored


async def test_half_open_connections_time_out(bus: ServiceBusDouble, to_bus: ServiceBusClient) -> None:
    async with to_bus.get_queue_sender("q") as sender:
        await sender.send_messages(ServiceBusMessage(b"1"))
        bus.faults.stop_reading = True
        with pytest.raises(OperationTimeoutError):
            await sender.send_messages(ServiceBusMessage(b"2"), timeout=1)
        assert texts(bus.messages("q")) == ["1"]
        bus.faults.stop_reading = False
        await sender.send_messages(ServiceBusMessage(b"3"))
    assert texts(bus.messages("q"))[-1] == "3"


async def test_a_busy_server_is_given_up_after_the_retries(bus: ServiceBusDouble, to_bus: ServiceBusClient) -> None:
    planned = bus.faults.next_send(BUSY, times=None)
    with pytest.raises(ServiceBusServerBusyError):
        await send(to_bus)
    assert planned.hits == 4
    planned.cancel()
    await send(to_bus)
    assert texts(bus.messages("q")) == ["1"]


async def test_a_quota_is_not_retried(bus: ServiceBusDouble, to_bus: ServiceBusClient) -> None:
    planned = bus.faults.next_send(Reject("amqp:resource-limit-exceeded", "The maximum size has been reached."))
    with pytest.raises(ServiceBusQuotaExceededError):
        await send(to_bus)
    assert planned.hits == 1


async def test_detaching_and_closing_idle_senders_is_not_noticed(
    bus: ServiceBusDouble, to_bus: ServiceBusClient
) -> None:
    async with to_bus.get_queue_sender("q") as sender:
        await sender.send_messages(ServiceBusMessage(b"1"))
        assert bus.faults.detach_links(entity="unique") == 0
        assert bus.faults.detach_links(entity="Q") == 1
        await sender.send_messages(ServiceBusMessage(b"2"))
        assert bus.faults.close_connections() == 1
        await sender.send_messages(ServiceBusMessage(b"3"))
    assert texts(bus.messages("q")) == ["1", "2", "3"]


async def test_a_disabled_entity_refuses_open_and_new_senders_until_enabled(bus: ServiceBusDouble) -> None:
    async with connect(bus.connection_string, retries=0) as client:
        async with client.get_queue_sender("q") as sender:
            await sender.send_messages(ServiceBusMessage(b"1"))
            bus.faults.disable("q")
            with pytest.raises(ServiceBusError):  # the SDK does not look at why a sender's link was detached
                await sender.send_messages(ServiceBusMessage(b"2"))
        with pytest.raises(MessagingEntityDisabledError):
            await send(client)
        bus.faults.enable("q")
        await send(client, b"3")
    assert texts(bus.messages("q")) == ["1", "3"]


async def test_refused_tokens_are_an_authentication_error(bus: ServiceBusDouble) -> None:
    async with connect(bus.connection_string, retries=0) as client:
        bus.faults.refuse_tokens = True
        with pytest.raises(ServiceBusAuthenticationError):
            await send(client)
        bus.faults.clear()
        await send(client)
    assert texts(bus.messages("q")) == ["1"]


async def test_refused_connections_are_a_connection_error(bus: ServiceBusDouble, to_bus: ServiceBusClient) -> None:
    bus.faults.refuse_connections = True
    with pytest.raises(ServiceBusConnectionError):
        await send(to_bus)
    bus.faults.refuse_connections = False
    await send(to_bus)
    assert texts(bus.messages("q")) == ["1"]


async def test_an_attach_can_be_refused_dropped_or_never_answered(
    bus: ServiceBusDouble, to_bus: ServiceBusClient
) -> None:
    refused = bus.faults.next_attach(Reject("amqp:not-found"), entity="q")
    with pytest.raises(MessagingEntityNotFoundError):
        await send(to_bus)
    dropped = bus.faults.next_attach(Drop())
    await send(to_bus)
    bus.faults.next_attach(Ignore())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await send(to_bus)
    assert (refused.hits, dropped.hits) == (1, 1)
    assert texts(bus.messages("q")) == ["1"]


async def test_a_scheduled_message_whose_answer_was_lost_is_scheduled_twice(
    bus: ServiceBusDouble, to_bus: ServiceBusClient
) -> None:
    when = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    bus.faults.next_request(Drop(applied=True), operation="renew-lock")
    planned = bus.faults.next_request(Drop(applied=True), operation="schedule-message", entity="q")
    async with to_bus.get_queue_sender("q") as sender:
        (number,) = await sender.schedule_messages(ServiceBusMessage(b"1"), when, timeout=10)
    assert planned.hits == 1
    scheduled = bus.messages("q", state=MessageState.SCHEDULED)
    assert [message.sequence_number for message in scheduled] == [1, number]


@pytest.mark.parametrize("fault", [Drop(), Reject("com.microsoft:server-busy")])
async def test_a_management_request_that_was_not_done_is_done_again(
    bus: ServiceBusDouble, to_bus: ServiceBusClient, fault: Fault
) -> None:
    when = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    planned = bus.faults.next_request(fault)
    async with to_bus.get_queue_sender("q") as sender:
        await sender.schedule_messages(ServiceBusMessage(b"1"), when, timeout=10)
    assert planned.hits == 1
    assert len(bus.messages("q", state=MessageState.SCHEDULED)) == 1


async def test_a_management_request_without_an_answer_times_out(
    bus: ServiceBusDouble, to_bus: ServiceBusClient
) -> None:
    planned = bus.faults.next_request(Ignore(), times=None)
    async with to_bus.get_queue_receiver("q") as receiver:
        with pytest.raises(OperationTimeoutError):
            await receiver.peek_messages(1, timeout=1)
    assert planned.hits >= 1


async def test_a_management_link_that_is_detached_is_an_error_without_a_retry(
    bus: ServiceBusDouble, to_bus: ServiceBusClient
) -> None:
    bus.faults.next_request(Detach())
    async with to_bus.get_queue_receiver("q") as receiver:
        with pytest.raises(ServiceBusError):
            await receiver.peek_messages(1, timeout=10)


async def test_the_sender_does_not_care_about_credit(bus: ServiceBusDouble, to_bus: ServiceBusClient) -> None:
    bus.faults.sender_credit = 0
    await send(to_bus, timeout=5)
    assert texts(bus.messages("q")) == ["1"]


async def test_more_messages_than_credit_and_windows_are_taken(to_bus: ServiceBusClient, bus: ServiceBusDouble) -> None:
    bus.faults.sender_credit = 10
    async with to_bus.get_queue_sender("q") as sender:
        for _ in range(50):
            await sender.send_messages(ServiceBusMessage(b"x"))
    assert len(bus.messages("q")) == 50


def test_the_synchronous_sender_recovers_too() -> None:
    with ServiceBusDouble() as bus:
        bus.queue("q")
        with (
            SyncServiceBusClient.from_connection_string(bus.connection_string, retry_backoff_factor=0.05) as client,
            client.get_queue_sender("q") as sender,
        ):
            sender.send_messages(ServiceBusMessage(b"1"))
            bus.faults.drop_connections()
            sender.send_messages(ServiceBusMessage(b"2"))
            bus.faults.next_send(Drop())
            sender.send_messages(ServiceBusMessage(b"3"))
            bus.faults.detach_links()
            sender.send_messages(ServiceBusMessage(b"4"))
        assert texts(bus.messages("q")) == ["1", "2", "3", "4"]
