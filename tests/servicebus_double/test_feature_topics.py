"""Feature suite: topics and rules, and the synchronous client. Runs against a real namespace too, see `support.py`."""

import asyncio
import datetime as dt

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, AutoLockRenewer, ServiceBusMessage, ServiceBusSubQueue
from azure.servicebus import ServiceBusClient as SyncServiceBusClient
from azure.servicebus.aio import ServiceBusClient
from tests.servicebus_double.support import QUEUE, SESSIONS, TOPIC, Place, consume, nothing_waits

pytestmark = pytest.mark.amqp


async def test_each_subscription_gets_what_its_rules_want(client: ServiceBusClient) -> None:
    def message(body: bytes, subject: str, **properties: object) -> ServiceBusMessage:
        return ServiceBusMessage(body, subject=subject, application_properties=properties)

    async with client.get_topic_sender(TOPIC) as sender:
        await sender.send_messages(
            [
                message(b"1", "created", region="us", amount=1),
                message(b"2", "paid", region="eu"),
                message(b"3", "created", region="eu"),
                message(b"4", "created", amount=11),
                message(b"5", "paid", region="us", amount=11),
            ]
        )

    async def arrived(subscription: str, count: int) -> list[str]:
        async with client.get_subscription_receiver(TOPIC, subscription) as receiver:
            got = await consume(receiver, count)
            assert await nothing_waits(receiver)
            return got

    everything = await asyncio.gather(
        arrived("all", 5), arrived("created", 3), arrived("eu", 2), arrived("sql", 2), arrived("either", 4)
    )
    assert everything == [["1", "2", "3", "4", "5"], ["1", "3", "4"], ["2", "3"], ["3", "4"], ["1", "2", "3", "4"]]


async def test_addresses_do_not_care_about_case(client: ServiceBusClient) -> None:
    async with client.get_topic_sender(TOPIC.upper()) as sender:
        await sender.send_messages(ServiceBusMessage(b"1"))
    async with client.get_subscription_receiver(TOPIC.title(), "ALL") as receiver:
        assert await consume(receiver, 1) == ["1"]


def settle_in_every_way(client: SyncServiceBusClient) -> None:
    with client.get_queue_sender(QUEUE) as sender:
        sender.send_messages(ServiceBusMessage(b"x", message_id="1"))
        number = sender.schedule_messages(
            ServiceBusMessage(b"later"), dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)
        )
        sender.cancel_scheduled_messages(number)
    with client.get_queue_receiver(QUEUE) as receiver:
        (got,) = receiver.receive_messages(1, max_wait_time=10)
        receiver.renew_message_lock(got)
        receiver.abandon_message(got)
        (got,) = receiver.receive_messages(1, max_wait_time=10)
        assert got.delivery_count == 1
        receiver.dead_letter_message(got, reason="bad", error_description="very")
    with client.get_queue_receiver(QUEUE, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
        (dead,) = receiver.receive_messages(1, max_wait_time=10)
        assert dead.dead_letter_reason == "bad"
        receiver.complete_message(dead)


def iterate_a_session(client: SyncServiceBusClient) -> None:
    with client.get_queue_sender(SESSIONS) as sender:
        sender.send_messages([ServiceBusMessage(b"1", session_id="a"), ServiceBusMessage(b"2", session_id="a")])
    seen: list[str] = []
    with (
        AutoLockRenewer() as renewer,
        client.get_queue_receiver(
            SESSIONS, session_id=NEXT_AVAILABLE_SESSION, auto_lock_renewer=renewer, max_wait_time=2
        ) as receiver,
    ):
        for message in receiver:
            seen.append(str(message))
            receiver.complete_message(message)
    assert seen == ["1", "2"]


@pytest.mark.parametrize("scenario", [settle_in_every_way, iterate_a_session])
async def test_the_synchronous_client_works_from_another_thread(place: Place, scenario: object) -> None:
    def run() -> None:
        with SyncServiceBusClient.from_connection_string(place.connection_string) as client:
            scenario(client)  # type: ignore[operator]

    await asyncio.to_thread(run)
