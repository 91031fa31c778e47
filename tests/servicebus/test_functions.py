"""`dispatch_message`: the same consumer, without a subscription of ours."""

from __future__ import annotations

from typing import Any

import pytest
from azure.functions.servicebus import ServiceBusMessage as FunctionsMessage
from azure.servicebus import NEXT_AVAILABLE_SESSION
from azure.servicebus.aio import ServiceBusClient
from tests.servicebus.receiving import Handled, Mailbox, Recorder, waiting
from tests.servicebus.test_inbound import functions_message

from esazure.errors import HandlerFailedError, PoisonMessageError, RetryLaterError, StoreUnavailableError
from esazure.servicebus import dispatch_message
from esazure.testing.servicebus import ServiceBusDouble


def message(version: int = 1, **fields: Any) -> FunctionsMessage:
    return functions_message(application_properties={"version": str(version)}, **fields)


async def test_a_message_of_a_trigger_is_handled_in_a_lane_of_its_own(recorder: Recorder) -> None:
    consumer: Any = recorder
    await dispatch_message(consumer, message(1))
    await dispatch_message(consumer, message(2, delivery_count=3))
    assert recorder.done == [Handled("7", 1, 1), Handled("7", 2, 3)]
    assert recorder.lanes == 2


@pytest.mark.parametrize(
    "error",
    [
        PoisonMessageError("UnknownEventType", "Customer.a: version 1"),
        HandlerFailedError("h", "Customer.a", 1, "ValueError"),
        RetryLaterError("away"),
        StoreUnavailableError("away"),
    ],
)
async def test_what_a_handler_raises_is_for_the_host_to_see(recorder: Recorder, error: Exception) -> None:
    async def handle(call: Handled) -> None:
        raise error

    recorder.handle = handle
    consumer: Any = recorder
    with pytest.raises(type(error)) as caught:
        await dispatch_message(consumer, message())
    assert caught.value is error


async def test_a_malformed_message_reaches_no_handler(recorder: Recorder) -> None:
    consumer: Any = recorder
    with pytest.raises(PoisonMessageError, match="Malformed"):
        await dispatch_message(consumer, message(body=b"\xff"))
    assert recorder.begun == []


@pytest.mark.amqp
async def test_a_message_of_the_sdk_will_do_as_well(
    double: ServiceBusDouble, mail: Mailbox, recorder: Recorder
) -> None:
    consumer: Any = recorder
    await mail.send("a", count=2)
    async with (
        ServiceBusClient.from_connection_string(double.connection_string) as client,
        client.get_subscription_receiver("customers", "all", session_id=NEXT_AVAILABLE_SESSION) as receiver,
    ):
        for received in await receiver.receive_messages(2, max_wait_time=5):
            await dispatch_message(consumer, received)
            await receiver.complete_message(received)
    assert recorder.done == [Handled("a", 1, 1), Handled("a", 2, 1)]
    assert waiting(double) == []
