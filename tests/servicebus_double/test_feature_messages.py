"""Feature suite: messages in queues, as the SDK sees them. Runs against a real namespace too, see `support.py`."""

import datetime as dt
import uuid

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceiveMode, ServiceBusSubQueue
from azure.servicebus.aio import AutoLockRenewer, ServiceBusClient
from azure.servicebus.amqp import AmqpAnnotatedMessage
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessageNotFoundError,
    MessageSizeExceededError,
    ServiceBusAuthenticationError,
    ServiceBusError,
)
from tests.servicebus_double.support import (
    EXPIRING,
    QUEUE,
    SESSIONS,
    SHORT,
    TOPIC,
    UNIQUE,
    Place,
    both,
    consume,
    nothing_waits,
    receive,
    texts,
)

pytestmark = pytest.mark.amqp


async def test_every_property_of_a_message_arrives(client: ServiceBusClient) -> None:
    sent = ServiceBusMessage(
        b"body",
        message_id="id1",
        correlation_id="correlation",
        subject="created",
        content_type="application/json",
        to="to",
        reply_to="reply",
        reply_to_session_id="reply-session",
        session_id="s1",
        partition_key="s1",
        time_to_live=dt.timedelta(seconds=60),
        application_properties={
            "int": 1,
            "long": {"TYPE": "LONG", "VALUE": 2**40},
            "float": 1.5,
            "bool": True,
            "text": "é",
            "uuid": uuid.UUID(int=5),
            "time": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        },
    )
    async with both(client, QUEUE) as (sender, receiver):
        await sender.send_messages(sent)
        (got,) = await receive(receiver, 1)
        assert isinstance(got.lock_token, uuid.UUID)
        assert got.locked_until_utc > got.enqueued_time_utc
        await receiver.complete_message(got)

    assert str(got) == "body"
    for name in ("message_id", "correlation_id", "subject", "content_type", "to", "reply_to", "reply_to_session_id"):
        assert getattr(got, name) == getattr(sent, name), name
    assert (got.session_id, got.partition_key) == ("s1", "s1")
    assert got.time_to_live == dt.timedelta(seconds=60)
    assert got.expires_at_utc == got.enqueued_time_utc + got.time_to_live
    values = {name.decode(): value for name, value in got.application_properties.items()}
    assert values["int"] == 1
    assert values["long"] == 2**40
    assert values["float"] == 1.5
    assert values["bool"] is True
    assert values["text"] == "é".encode()
    assert values["uuid"] == uuid.UUID(int=5)
    assert got.sequence_number >= 1
    assert got.delivery_count == 0


@pytest.mark.parametrize("body", [{"value_body": {"k": 1}}, {"sequence_body": [[1, 2], [3]]}, {"data_body": b"bytes"}])
async def test_bodies_of_every_kind_arrive(client: ServiceBusClient, body: dict) -> None:
    async with both(client, QUEUE) as (sender, receiver):
        await sender.send_messages(AmqpAnnotatedMessage(**body))
        (got,) = await receive(receiver, 1)
        await receiver.complete_message(got)
    (kind,) = body
    arrived = got.raw_amqp_message.body
    if kind == "value_body":
        assert arrived == {b"k": 1}
    else:
        assert list(arrived) == (body[kind] if kind == "sequence_body" else [body[kind]])


async def test_a_batch_arrives_in_order_and_has_a_limit(client: ServiceBusClient) -> None:
    async with client.get_queue_sender(QUEUE) as sender:
        batch = await sender.create_message_batch()
        assert batch.max_size_in_bytes >= 262_144
        for number in range(100):
            batch.add_message(ServiceBusMessage(b"x" * 300, message_id=str(number)))
        await sender.send_messages(batch)
        with pytest.raises(MessageSizeExceededError):
            batch.add_message(ServiceBusMessage(b"x" * batch.max_size_in_bytes))
    async with client.get_queue_receiver(QUEUE, prefetch_count=50) as receiver:
        got = await receive(receiver, 100)
        for message in got:
            await receiver.complete_message(message)
    assert [message.message_id for message in got] == [str(number) for number in range(100)]


async def test_a_message_of_several_frames_arrives_whole(client: ServiceBusClient) -> None:
    async with both(client, QUEUE) as (sender, receiver):
        await sender.send_messages(ServiceBusMessage(b"y" * 200_000))
        assert await consume(receiver, 1) == ["y" * 200_000]


async def test_a_message_over_the_limit_is_refused_and_the_sender_goes_on(
    place: Place, client: ServiceBusClient
) -> None:
    size = 300_000 if place.bus else 1_200_000
    async with both(client, QUEUE) as (sender, receiver):
        with pytest.raises(MessageSizeExceededError):
            await sender.send_messages(ServiceBusMessage(b"x" * size))
        await sender.send_messages(ServiceBusMessage(b"small"))
        assert await consume(receiver, 1) == ["small"]


async def test_an_abandoned_message_comes_back_first_with_its_count(client: ServiceBusClient) -> None:
    async with both(client, QUEUE) as (sender, receiver):
        await sender.send_messages([ServiceBusMessage(b"1"), ServiceBusMessage(b"2")])
        (first,) = await receive(receiver, 1)
        await receiver.abandon_message(first)
        again, second = await receive(receiver, 2)
        assert texts([again, second]) == ["1", "2"]
        assert (again.delivery_count, second.delivery_count) == (1, 0)
        await receiver.complete_message(again)
        await receiver.complete_message(second)


async def test_too_many_deliveries_end_in_the_dead_letter_queue(client: ServiceBusClient) -> None:
    async with client.get_topic_sender(TOPIC) as sender:
        await sender.send_messages(ServiceBusMessage(b"x", application_properties={"k": "v"}))
    async with client.get_subscription_receiver(TOPIC, "all") as receiver:
        for count in range(3):
            (got,) = await receive(receiver, 1)
            assert got.delivery_count == count
            await receiver.abandon_message(got)
        assert await nothing_waits(receiver)
    async with client.get_subscription_receiver(TOPIC, "all", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
        (dead,) = await receive(receiver, 1)
        assert dead.dead_letter_reason == "MaxDeliveryCountExceeded"
        assert dead.application_properties[b"k"] == b"v"
        await receiver.complete_message(dead)


async def test_a_dead_letter_says_why_and_where_from(client: ServiceBusClient) -> None:
    async with both(client, QUEUE) as (sender, receiver):
        await sender.send_messages(ServiceBusMessage(b"x", message_id="1"))
        (got,) = await receive(receiver, 1)
        await receiver.dead_letter_message(got, reason="bad", error_description="very")
    async with client.get_queue_receiver(QUEUE, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
        (dead,) = await receive(receiver, 1)
        assert (dead.message_id, str(dead)) == ("1", "x")
        assert (dead.dead_letter_reason, dead.dead_letter_error_description) == ("bad", "very")
        assert dead.dead_letter_source == QUEUE
        await receiver.complete_message(dead)


async def test_a_deferred_message_comes_back_by_its_number_only(client: ServiceBusClient) -> None:
    async with both(client, QUEUE) as (sender, receiver):
        await sender.send_messages([ServiceBusMessage(b"1"), ServiceBusMessage(b"2")])
        (got,) = await receive(receiver, 1)
        await receiver.defer_message(got)
        assert await consume(receiver, 1) == ["2"]
        (deferred,) = await receiver.receive_deferred_messages(got.sequence_number)
        assert str(deferred) == "1"
        assert isinstance(deferred.lock_token, uuid.UUID)
        await receiver.complete_message(deferred)
        with pytest.raises(ServiceBusError):
            await receiver.receive_deferred_messages(got.sequence_number)
        assert await receiver.peek_messages(10, sequence_number=1) == []


async def test_peeking_shows_without_locking(client: ServiceBusClient) -> None:
    async with both(client, QUEUE) as (sender, receiver):
        await sender.send_messages([ServiceBusMessage(b"1"), ServiceBusMessage(b"2")])
        peeked = await receiver.peek_messages(10)
        assert texts(peeked) == ["1", "2"]
        assert texts(await receiver.peek_messages(10, sequence_number=peeked[1].sequence_number)) == ["2"]
        assert await consume(receiver, 2) == ["1", "2"]


async def test_receive_and_delete_leaves_nothing(client: ServiceBusClient) -> None:
    async with client.get_queue_sender(QUEUE) as sender:
        await sender.send_messages([ServiceBusMessage(b"1"), ServiceBusMessage(b"2")])
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    async with client.get_queue_receiver(QUEUE, receive_mode=mode) as receiver:
        assert texts(await receive(receiver, 2)) == ["1", "2"]
        assert await receiver.peek_messages(10, sequence_number=1) == []


async def test_duplicates_within_the_window_are_dropped(place: Place, client: ServiceBusClient) -> None:
    identifier = str(uuid.uuid4())
    async with both(client, UNIQUE) as (sender, receiver):
        for body in (b"first", b"again", b"again"):
            await sender.send_messages(ServiceBusMessage(body, message_id=identifier))
        assert await consume(receiver, 1) == ["first"]
        assert await nothing_waits(receiver)
        place.double.advance(61)
        await sender.send_messages(ServiceBusMessage(b"later", message_id=identifier))
        assert await consume(receiver, 1) == ["later"]


async def test_an_expired_message_is_dead_lettered_where_so_configured(place: Place, client: ServiceBusClient) -> None:
    async with client.get_queue_sender(EXPIRING) as sender:
        await sender.send_messages(ServiceBusMessage(b"1", time_to_live=dt.timedelta(seconds=5)))
    place.double.advance(6)
    assert place.double.messages(EXPIRING) == []
    async with client.get_queue_receiver(EXPIRING, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
        (dead,) = await receive(receiver, 1)
        assert dead.dead_letter_reason == "TTLExpiredException"


async def test_scheduled_messages_can_be_cancelled_once(client: ServiceBusClient) -> None:
    when = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)
    async with client.get_queue_sender(QUEUE) as sender:
        first, second = await sender.schedule_messages([ServiceBusMessage(b"a"), ServiceBusMessage(b"b")], when)
        assert first != second
        await sender.cancel_scheduled_messages(first)
        with pytest.raises(MessageNotFoundError):
            await sender.cancel_scheduled_messages(first)
        await sender.cancel_scheduled_messages([second])


async def test_scheduled_messages_come_at_their_time(place: Place, client: ServiceBusClient) -> None:
    double = place.double
    when = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)
    async with client.get_topic_sender(TOPIC) as sender, client.get_subscription_receiver(TOPIC, "all") as receiver:
        await sender.schedule_messages(ServiceBusMessage(b"a"), when)
        await sender.send_messages(ServiceBusMessage(b"b", scheduled_enqueue_time_utc=when))
        assert await nothing_waits(receiver)
        double.advance(301)
        assert await consume(receiver, 2) == ["a", "b"]


async def test_an_expired_lock_is_lost_and_a_renewed_one_is_not(place: Place, client: ServiceBusClient) -> None:
    double = place.double
    async with both(client, QUEUE) as (sender, receiver):
        await sender.send_messages(ServiceBusMessage(b"x"))
        (got,) = await receive(receiver, 1)
        double.advance(20)
        until = await receiver.renew_message_lock(got)
        assert dt.timedelta(seconds=25) < until - dt.datetime.now(dt.UTC) <= dt.timedelta(seconds=30)
        double.advance(20)
        await receiver.renew_message_lock(got)
        double.advance(31)
        with pytest.raises(MessageLockLostError):
            await receiver.complete_message(got)
        with pytest.raises(MessageLockLostError):
            await receiver.renew_message_lock(got)
        (again,) = await receive(receiver, 1)
        assert again.delivery_count == 1
        await receiver.complete_message(again)


async def test_the_auto_lock_renewer_keeps_a_message(place: Place, client: ServiceBusClient) -> None:
    async with AutoLockRenewer() as renewer, both(client, SHORT, auto_lock_renewer=renewer) as (sender, receiver):
        await sender.send_messages(ServiceBusMessage(b"x"))
        (got,) = await receive(receiver, 1)
        await place.outlive("renew-lock", 5)
        await receiver.complete_message(got)
        assert await nothing_waits(receiver)


async def test_iterating_ends_when_nothing_comes(client: ServiceBusClient) -> None:
    seen: list[str] = []
    async with client.get_queue_sender(QUEUE) as sender:
        await sender.send_messages([ServiceBusMessage(str(number).encode()) for number in range(5)])
    async with client.get_queue_receiver(QUEUE, max_wait_time=2) as receiver:
        async for message in receiver:
            seen.append(str(message))
            await receiver.complete_message(message)
    assert seen == list("01234")


async def test_closing_a_prefetching_receiver_gives_back_without_counting(client: ServiceBusClient) -> None:
    async with client.get_queue_sender(QUEUE) as sender:
        await sender.send_messages([ServiceBusMessage(str(number).encode()) for number in range(5)])
    async with client.get_queue_receiver(QUEUE, prefetch_count=5) as receiver:
        assert await consume(receiver, 1) == ["0"]
    async with client.get_queue_receiver(QUEUE) as receiver:
        rest = await receive(receiver, 4)
        assert [(str(message), message.delivery_count) for message in rest] == [(n, 0) for n in "1234"]
        for message in rest:
            await receiver.complete_message(message)


async def test_what_is_not_there_is_not_found(hasty: ServiceBusClient) -> None:
    """The SDK says so when it is refused a token, so the exception is another than the one it has for it."""
    for nowhere in (
        hasty.get_queue_sender("esazure-nowhere"),
        hasty.get_subscription_receiver(TOPIC, "nobody"),
        hasty.get_queue_receiver("esazure-nowhere", sub_queue=ServiceBusSubQueue.DEAD_LETTER),
    ):
        with pytest.raises(ServiceBusAuthenticationError) as refused:
            async with nowhere:
                pass
        assert getattr(refused.value.inner_exception, "status_code", None) == 404


async def test_what_does_not_fit_the_entity_is_refused(hasty: ServiceBusClient) -> None:
    with pytest.raises(ServiceBusError, match="requires sessions"):
        async with hasty.get_queue_receiver(SESSIONS):
            pass
    with pytest.raises(ServiceBusError, match="not require sessions"):
        async with hasty.get_queue_receiver(QUEUE, session_id="a"):
            pass
    with pytest.raises(ServiceBusError):
        async with hasty.get_queue_sender(f"{TOPIC}/Subscriptions/all"):
            pass
    with pytest.raises(ServiceBusError):
        async with hasty.get_queue_receiver(TOPIC):
            pass
