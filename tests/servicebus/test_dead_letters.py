"""Dead letters: what they tell, and how they are sent again."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.amqp import AmqpAnnotatedMessage
from tests.servicebus.receiving import (
    DEAD_LETTERS,
    Handled,
    Mailbox,
    Recorder,
    dead,
    message_of,
    running,
    until,
    waiting,
)
from tests.support.secrets import MARKER

from esazure.errors import PoisonMessageError, SubscriptionError
from esazure.servicebus import DeadLetter, ServiceBus, ServiceBusSubscription, deadletters
from esazure.testing.servicebus import Close, Detach, Drop, MessageState, Reject, ServiceBusDouble

pytestmark = pytest.mark.amqp

RAW = {"TYPE": "BINARY", "VALUE": b"\xff"}


@pytest.fixture
def poisoned(recorder: Recorder) -> Recorder:
    """A consumer for which everything is poison."""

    async def handle(call: Handled) -> None:
        raise PoisonMessageError("HandlerFailed", f"welcome: ValueError at version {call.version}")

    recorder.handle = handle
    return recorder


@pytest.fixture
async def subscription(
    bus: ServiceBus, mail: Mailbox, double: ServiceBusDouble, poisoned: Recorder
) -> ServiceBusSubscription:
    """With the dead letters a/1, a/2, a/3, b/1."""
    consumer: Any = poisoned
    await mail.send("a", count=3)
    async with running(bus.subscription("customers", "all", consumer, sessions=1)):
        await until(lambda: len(dead(double)) == 3)
        await mail.send("b")
        await until(lambda: len(dead(double)) == 4)
    return bus.subscription("customers", "all", consumer, sessions=1)


def ids(double: ServiceBusDouble) -> list[str]:
    return [message.message_id for message in dead(double)]


def sent(double: ServiceBusDouble) -> list[str]:
    return [message.message_id for message in waiting(double)]


async def test_without_dead_letters_there_are_none(bus: ServiceBus, recorder: Recorder) -> None:
    consumer: Any = recorder
    subscription = bus.subscription("customers", "all", consumer)
    assert await subscription.dead_letters() == []
    assert await subscription.resubmit() == 0


async def test_a_dead_letter_tells_what_it_was_and_why(
    subscription: ServiceBusSubscription, double: ServiceBusDouble
) -> None:
    letters = await subscription.dead_letters()
    assert [letter.message_id for letter in letters] == ["a/1", "a/2", "a/3", "b/1"]
    second = letters[1]
    assert second.enqueued_at is not None
    assert datetime.now(UTC) - second.enqueued_at < timedelta(minutes=1)
    assert second == DeadLetter(
        message_id="a/2",
        stream="Customer.a",
        version=2,
        type="Noted",
        reason="HandlerFailed",
        description="welcome: ValueError at version 2",
        enqueued_at=second.enqueued_at,
        delivery_count=0,
    )
    assert ids(double) == ["a/1", "a/2", "a/3", "b/1"], "they were only looked at"
    assert [letter.message_id for letter in await subscription.dead_letters(limit=2)] == ["a/1", "a/2"]


async def test_many_dead_letters_come_in_pages(
    subscription: ServiceBusSubscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadletters, "PAGE", 3)
    assert len(await subscription.dead_letters()) == 4


async def test_no_more_are_asked_for_than_are_wanted(
    subscription: ServiceBusSubscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    peek = ServiceBusReceiver.peek_messages

    async def counted(receiver: ServiceBusReceiver, count: int, **options: Any) -> list[ServiceBusReceivedMessage]:
        asked.append(count)
        return await peek(receiver, count, **options)

    monkeypatch.setattr(ServiceBusReceiver, "peek_messages", counted)
    monkeypatch.setattr(deadletters, "PAGE", 2)
    assert [letter.message_id for letter in await subscription.dead_letters(limit=3)] == ["a/1", "a/2", "a/3"]
    assert asked == [2, 1]


async def test_a_dead_letter_of_others_may_lack_everything(
    bus: ServiceBus, mail: Mailbox, double: ServiceBusDouble, poisoned: Recorder
) -> None:
    consumer: Any = poisoned
    subscription = bus.subscription("customers", "all", consumer, sessions=1)
    await mail.post(AmqpAnnotatedMessage(value_body=MARKER, properties={"group_id": "a"}))
    await mail.post(message_of("a", 1, application_properties={"version": "x", "aggregate_type": "Customer"}))
    await mail.post(message_of("a", 2, application_properties={"aggregate_type": "C", "aggregate": "x" * 481}))
    async with running(subscription):
        await until(lambda: len(dead(double)) == 3)
    letters = await subscription.dead_letters()
    assert [(letter.message_id, letter.stream, letter.version, letter.type) for letter in letters] == [
        (letters[0].message_id, None, None, None),
        ("a/1", None, None, None),
        ("a/2", None, None, None),
    ]
    assert re.fullmatch("[0-9a-f]{32}", letters[0].message_id), "the service gives one to a message without"
    assert MARKER not in repr(letters)


async def test_all_are_sent_again_in_their_order_with_new_ids(
    subscription: ServiceBusSubscription, double: ServiceBusDouble, poisoned: Recorder
) -> None:
    before = {message.message_id: message for message in dead(double)}
    assert await subscription.resubmit() == 4
    assert dead(double) == []
    again = waiting(double)
    assert [message.message_id.partition("~")[0] for message in again] == ["a/1", "a/2", "a/3", "b/1"]
    for message in again:
        original = before[message.message_id.partition("~")[0]]
        assert message.message_id != original.message_id, "duplicate detection would have dropped it"
        for name in ("session_id", "correlation_id", "subject", "content_type", "body"):
            assert getattr(message, name) == getattr(original, name)
        assert message.application_properties == {
            name: value for name, value in original.application_properties.items() if not name.startswith("DeadLetter")
        }
        assert message.delivery_count == 0

    poisoned.handle = None
    async with running(subscription):
        await until(lambda: len(poisoned.done) == 4)
    assert poisoned.done == [*(Handled("a", version, 1) for version in (1, 2, 3)), Handled("b", 1, 1)]


async def test_some_are_sent_again_and_the_others_stay(
    subscription: ServiceBusSubscription, double: ServiceBusDouble
) -> None:
    assert await subscription.resubmit({"a/2", "b/1", "unheard"}) == 2
    assert [message_id.partition("~")[0] for message_id in sent(double)] == ["a/2", "b/1"]
    assert ids(double) == ["a/1", "a/3"]
    assert double.messages(DEAD_LETTERS, state=MessageState.LOCKED) == []
    assert await subscription.resubmit([]) == 0
    assert await subscription.resubmit(["a/3"]) == 1
    assert ids(double) == ["a/1"]


async def test_no_more_are_sent_again_than_the_limit(
    subscription: ServiceBusSubscription, double: ServiceBusDouble
) -> None:
    assert await subscription.resubmit(limit=3) == 3
    assert ids(double) == ["b/1"]
    assert len(sent(double)) == 3


async def test_a_search_ends_after_so_many(
    subscription: ServiceBusSubscription, double: ServiceBusDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadletters, "SCANNED", 2)
    assert await subscription.resubmit(["b/1"]) == 0
    assert ids(double) == ["a/1", "a/2", "a/3", "b/1"]
    assert double.messages(DEAD_LETTERS, state=MessageState.LOCKED) == []


@pytest.mark.parametrize("call", ["dead_letters", "resubmit"])
async def test_a_limit_below_one_is_refused(subscription: ServiceBusSubscription, call: str) -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        await getattr(subscription, call)(limit=0)


async def test_what_comes_back_at_once_is_not_sent_again_without_end(
    subscription: ServiceBusSubscription, double: ServiceBusDouble, poisoned: Recorder
) -> None:
    async with running(subscription):  # everything is still poison
        assert await subscription.resubmit() == 4
        await until(lambda: len(dead(double)) == 4)
    assert len(poisoned.begun) == 8

    # Nor do ids grow with each time.
    assert await subscription.resubmit() == 4
    assert {len(message_id) for message_id in sent(double)} == {len("a/1~") + 12}


async def test_a_crash_between_sending_and_removing_repeats_no_message(
    subscription: ServiceBusSubscription, double: ServiceBusDouble
) -> None:
    double.faults.next_settlement(Drop(), entity=DEAD_LETTERS)
    with pytest.raises(SubscriptionError):
        await subscription.resubmit()
    assert len(sent(double)) == 1
    double.advance(31)  # its lock
    assert len(dead(double)) == 4
    assert await subscription.resubmit() == 4
    # The copy of the first was a duplicate to the broker.
    assert [message_id.partition("~")[0] for message_id in sent(double)] == ["a/1", "a/2", "a/3", "b/1"]


async def test_a_body_that_is_no_data_stays(
    subscription: ServiceBusSubscription, mail: Mailbox, double: ServiceBusDouble
) -> None:
    await mail.post(AmqpAnnotatedMessage(value_body="x", properties={"message_id": "odd", "group_id": "a"}))
    async with running(subscription):
        await until(lambda: len(dead(double)) == 5)
    assert await subscription.resubmit() == 4
    assert ids(double) == ["odd"]


async def test_odd_properties_survive(
    subscription: ServiceBusSubscription, mail: Mailbox, double: ServiceBusDouble
) -> None:
    odd = {"large": {"TYPE": "LONG", "VALUE": 2**40}, "flag": True, "small": -5, "raw": RAW, "float": 1.5}
    await mail.post(message_of("c", 1, application_properties={"version": "1", **odd}, message_id="x" * 128))
    async with running(subscription):
        await until(lambda: len(dead(double)) == 5)
    assert await subscription.resubmit(["x" * 128]) == 1
    (message,) = waiting(double)
    assert message.application_properties == {**odd, "version": "1", "large": 2**40, "raw": b"\xff"}
    assert len(message.message_id) == 64 + 13


@pytest.mark.parametrize("fault", [Drop(), Detach(), Close(), Reject("com.microsoft:server-busy")], ids=repr)
async def test_a_broker_that_fails_is_an_error_and_loses_nothing(
    subscription: ServiceBusSubscription, double: ServiceBusDouble, fault: Any
) -> None:
    double.faults.next_send(fault)
    with pytest.raises(SubscriptionError, match="customers/all: its dead letters cannot be had"):
        await subscription.resubmit()
    double.advance(31)
    assert ids(double) == ["a/1", "a/2", "a/3", "b/1"]
    double.faults.next_attach(fault)
    with pytest.raises(SubscriptionError):
        await subscription.dead_letters()
    assert len(await subscription.dead_letters()) == 4


async def test_a_subscription_that_is_not_there_has_no_dead_letters(bus: ServiceBus, recorder: Recorder) -> None:
    consumer: Any = recorder
    with pytest.raises(SubscriptionError, match=r"customers/nobody: .*it does not exist: create it"):
        await bus.subscription("customers", "nobody", consumer).dead_letters()
