"""Stored events become messages on a Service Bus topic, in order per aggregate; a subscriber prints them.

ESAZURE_SERVICEBUS names a namespace with a topic `parcels` and, on it, a subscription `printer` that requires sessions;
without it a double in this process speaks real AMQP to the same SDK.
"""

import asyncio
import os
from uuid import uuid4

from azure.servicebus import NEXT_AVAILABLE_SESSION
from azure.servicebus.aio import ServiceBusClient

from esazure import AggregateRoot, DomainEvent, EventsService
from esazure.memory import InMemoryStore
from esazure.servicebus import ServiceBus
from esazure.testing.servicebus import ServiceBusDouble


class Scanned(DomainEvent):
    place: str


class Parcel(AggregateRoot[Scanned]):
    def when(self, event: Scanned) -> None: ...


async def main(connection_string: str) -> None:
    async with ServiceBus.from_connection_string(connection_string) as bus:
        parcels = EventsService(InMemoryStore().events(Parcel), bus.producer(topic="parcels"))
        parcel = Parcel(uuid4())
        for place in ("London", "Paris", "Torino"):
            parcel.record(Scanned(place=place))
        await parcels.persist(parcel)

    async with (
        ServiceBusClient.from_connection_string(connection_string) as client,
        client.get_subscription_receiver("parcels", "printer", session_id=NEXT_AVAILABLE_SESSION) as receiver,
    ):
        received: list[str] = []
        while len(received) < len(("London", "Paris", "Torino")):
            for message in await receiver.receive_messages(max_message_count=10, max_wait_time=5):
                received.append(str(message))
                print(f"{message.subject} {message} about {message.correlation_id}, in session {message.session_id}")
                await receiver.complete_message(message)
    assert received == ['{"place":"London"}', '{"place":"Paris"}', '{"place":"Torino"}']


async def with_double() -> None:
    async with ServiceBusDouble() as double:
        double.topic("parcels").subscribe("printer", requires_session=True)
        await main(double.connection_string)


namespace = os.environ.get("ESAZURE_SERVICEBUS")
asyncio.run(main(namespace) if namespace else with_double())
