"""The same consumer under Azure Functions: one message of a Service Bus trigger, without a subscription of our own."""

from __future__ import annotations

from azure.servicebus import ServiceBusReceivedMessage

from esazure.consumer import Consumer
from esazure.servicebus.inbound import FunctionsMessage, attempt_of, from_functions, from_service_bus


async def dispatch_message(consumer: Consumer, message: FunctionsMessage | ServiceBusReceivedMessage) -> None:
    """Handle a message that somebody else received and settles: a trigger of Azure Functions, or a receiver of yours.

    When this returns the message is done: complete it, as the host of Functions does by itself. When it raises, abandon
    it; the host does that, too. The host cannot dead-letter: it delivers a poison message again until the
    subscription's maximum delivery count, and then the broker sets it aside. So give the subscription a maximum
    delivery count above the consumer's `attempts`.

    Raises:
        PoisonMessageError: it can never be handled. Whoever is able to should dead-letter it.
        HandlerFailedError, RetryLaterError, StoreUnavailableError: deliver it again.
    """
    if isinstance(message, ServiceBusReceivedMessage):
        integration = from_service_bus(message)
    else:
        integration = from_functions(message)
    await consumer.lane().handle(integration, attempt_of(message))
