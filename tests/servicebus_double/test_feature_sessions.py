"""Feature suite: sessions. Runs against a real namespace too, see `support.py`."""

import asyncio
import datetime as dt

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusMessage, ServiceBusSubQueue
from azure.servicebus.aio import AutoLockRenewer, ServiceBusClient
from azure.servicebus.exceptions import (
    OperationTimeoutError,
    ServiceBusError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)
from tests.servicebus_double.support import SESSIONS, SHORT_SESSIONS, TOPIC, Place, consume, receive, texts, until

pytestmark = pytest.mark.amqp


async def send(client: ServiceBusClient, *bodies: str, queue: str = SESSIONS) -> None:
    """Messages whose session is the first letter of their body."""
    async with client.get_queue_sender(queue) as sender:
        await sender.send_messages([ServiceBusMessage(body.encode(), session_id=body[0]) for body in bodies])


async def test_the_next_session_is_the_one_that_waits_longest_and_keeps_its_order(client: ServiceBusClient) -> None:
    await send(client, "a0", "b0", "a1", "b1", "a2")
    next_available = {"session_id": NEXT_AVAILABLE_SESSION, "max_wait_time": 5}
    async with client.get_queue_receiver(SESSIONS, **next_available) as first:
        assert first.session.session_id == "a"
        assert first.session.locked_until_utc > dt.datetime.now(dt.UTC)
        async with client.get_queue_receiver(SESSIONS, **next_available) as second:
            assert second.session.session_id == "b"
            assert await consume(second, 2) == ["b0", "b1"]
        assert await consume(first, 3) == ["a0", "a1", "a2"]


async def test_a_session_has_one_receiver_at_a_time(hasty: ServiceBusClient) -> None:
    async with hasty.get_queue_receiver(SESSIONS, session_id="a"):
        with pytest.raises(SessionCannotBeLockedError):
            async with hasty.get_queue_receiver(SESSIONS, session_id="a"):
                pass


async def test_waiting_for_a_session_ends_in_time(hasty: ServiceBusClient) -> None:
    with pytest.raises(OperationTimeoutError):
        async with hasty.get_queue_receiver(SESSIONS, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=1):
            pass


async def test_a_receiver_that_waits_gets_the_session_that_comes(place: Place, client: ServiceBusClient) -> None:
    double = place.double
    receiver = client.get_queue_receiver(SESSIONS, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=20)
    opening = asyncio.create_task(receiver.__aenter__())
    await until(lambda: double.activity.open_connections == 1 and double.activity.tokens > 0)
    await send(client, "a0")
    await opening
    async with receiver:
        assert receiver.session.session_id == "a"
        assert await consume(receiver, 1) == ["a0"]


async def test_closing_frees_the_session_with_what_was_not_completed(client: ServiceBusClient) -> None:
    await send(client, "a0", "a1")
    async with client.get_queue_receiver(SESSIONS, session_id="a") as receiver:
        assert texts(await receive(receiver, 2)) == ["a0", "a1"]
    async with client.get_queue_receiver(SESSIONS, session_id="a") as receiver:
        messages = await receive(receiver, 2)
        assert [(str(message), message.delivery_count) for message in messages] == [("a0", 0), ("a1", 0)]
        for message in messages:
            await receiver.complete_message(message)


async def test_a_session_keeps_a_state(client: ServiceBusClient) -> None:
    async with client.get_queue_receiver(SESSIONS, session_id="state") as receiver:
        await receiver.session.set_state(b"remember")
    async with client.get_queue_receiver(SESSIONS, session_id="state") as receiver:
        assert await receiver.session.get_state() == b"remember"
        await receiver.session.set_state(None)
        assert await receiver.session.get_state() is None


async def test_renewing_a_session_holds_it_longer(place: Place, client: ServiceBusClient) -> None:
    double = place.double
    await send(client, "a0")
    async with client.get_queue_receiver(SESSIONS, session_id="a") as receiver:
        (got,) = await receive(receiver, 1)
        double.advance(20)
        until = await receiver.session.renew_lock()
        assert until > dt.datetime.now(dt.UTC) + dt.timedelta(seconds=25)
        double.advance(20)
        await receiver.complete_message(got)
    assert double.messages(SESSIONS) == []


async def test_an_expired_session_is_lost_to_all_its_messages(place: Place, client: ServiceBusClient) -> None:
    await send(client, "a0")
    async with client.get_queue_receiver(SESSIONS, session_id="a") as receiver:
        (got,) = await receive(receiver, 1)
        place.double.advance(31)
        with pytest.raises(SessionLockLostError):
            await receiver.complete_message(got)
        with pytest.raises(SessionLockLostError):
            await receiver.receive_messages(1, max_wait_time=1)
        with pytest.raises(SessionLockLostError):
            await receiver.session.renew_lock()
        with pytest.raises(SessionLockLostError):
            await receiver.session.set_state(b"too late")
    assert [message.delivery_count for message in place.double.messages(SESSIONS)] == [1]


async def test_the_auto_lock_renewer_keeps_a_session(place: Place, client: ServiceBusClient) -> None:
    await send(client, "a0", queue=SHORT_SESSIONS)
    async with (
        AutoLockRenewer() as renewer,
        client.get_queue_receiver(SHORT_SESSIONS, session_id="a", auto_lock_renewer=renewer) as receiver,
    ):
        (got,) = await receive(receiver, 1)
        await place.outlive("renew-session-lock", 5)
        await receiver.complete_message(got)


async def test_deferring_in_a_session_comes_back_in_that_session(client: ServiceBusClient) -> None:
    await send(client, "a0", "a1")
    async with client.get_queue_receiver(SESSIONS, session_id="a") as receiver:
        first, second = await receive(receiver, 2)
        await receiver.defer_message(first)
        await receiver.complete_message(second)
        (deferred,) = await receiver.receive_deferred_messages(first.sequence_number)
        assert str(deferred) == "a0"
        await receiver.complete_message(deferred)
        assert await receiver.peek_messages(5, sequence_number=1) == []


async def test_a_queue_with_sessions_refuses_a_whole_batch_for_one_message_without(client: ServiceBusClient) -> None:
    async with client.get_queue_sender(SESSIONS) as sender:
        with pytest.raises(ServiceBusError, match="SessionId"):
            await sender.send_messages([ServiceBusMessage(b"good", session_id="a"), ServiceBusMessage(b"bad")])
    async with client.get_queue_receiver(SESSIONS, session_id="a") as receiver:
        assert await receiver.peek_messages(5) == []


async def test_a_subscription_with_sessions_dead_letters_a_message_without(client: ServiceBusClient) -> None:
    async with client.get_topic_sender(TOPIC) as sender:
        await sender.send_messages([ServiceBusMessage(b"without"), ServiceBusMessage(b"with", session_id="a")])
    async with client.get_subscription_receiver(TOPIC, "sessions", session_id="a") as receiver:
        assert await consume(receiver, 1) == ["with"]
    dead_letter = ServiceBusSubQueue.DEAD_LETTER
    async with client.get_subscription_receiver(TOPIC, "sessions", sub_queue=dead_letter) as receiver:
        (dead,) = await receive(receiver, 1)
        assert (str(dead), dead.dead_letter_reason) == ("without", "Session id is null.")
        await receiver.complete_message(dead)
