"""`ServiceBus`: the entry point, in the Azure SDK's own convention."""

from __future__ import annotations

import asyncio
from typing import Self

from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.core.credentials_async import AsyncTokenCredential
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient

from esazure.consumer import Consumer
from esazure.integration import LANES, MAX_MESSAGE_BYTES, Integration, check_lanes, whole
from esazure.servicebus.deadletters import DeadLetters
from esazure.servicebus.links import Link
from esazure.servicebus.needed import look_for_what_is_needed
from esazure.servicebus.producer import ServiceBusEventProducer
from esazure.servicebus.sessions import Session
from esazure.servicebus.sockets import bounded
from esazure.servicebus.subscription import ServiceBusSubscription

# The producer tries again by itself. The SDK's tries would nest in it, each waiting for the failed connection to close.
_SDK_RETRIES = 0


class ServiceBus:
    """A Service Bus namespace; `async with` closes what it opened. Making one does no I/O.

    Give it the namespace and a credential of azure-identity, or use `from_connection_string`. For web sockets, a proxy,
    or certificates of your own, make the SDK's client yourself and use `from_client`.
    """

    def __init__(
        self,
        fully_qualified_namespace: str,
        credential: AsyncTokenCredential | AzureSasCredential | AzureNamedKeyCredential,
    ) -> None:
        if "=" in fully_qualified_namespace:
            raise ValueError("this is a connection string, not a namespace: use ServiceBus.from_connection_string")
        client = ServiceBusClient(fully_qualified_namespace, credential, retry_total=_SDK_RETRIES)
        self._begin(client, owned=True)

    @classmethod
    def from_connection_string(cls, conn_str: str) -> Self:
        """With a shared access key or signature, or `UseDevelopmentEmulator=true`.

        Raises:
            ValueError: not a connection string of Service Bus.
        """
        client = ServiceBusClient.from_connection_string(conn_str, retry_total=_SDK_RETRIES)
        return cls._of(client, owned=True)

    @classmethod
    def from_client(cls, client: ServiceBusClient) -> Self:
        """Over a client of yours, which you also close. Make it with `retry_total=0`: producers do the retrying."""
        return cls._of(client, owned=False)

    def producer(
        self,
        topic: str,
        *,
        integration: Integration = whole,
        lanes: int | None = LANES,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        timeout: float = 30.0,
    ) -> ServiceBusEventProducer:
        """A producer for one topic (or queue), over a connection of its own that opens at the first dispatch.

        Args:
            topic: its name.
            integration: what goes out for an event: `whole`, `thin`, or a function of yours.
            lanes: how many sessions the streams share; None gives each stream a session of its own.
            max_message_bytes: what the tier takes; a commit with a larger message is refused before it is stored.
            timeout: seconds within which a dispatch returns or raises.

        Raises:
            ValueError: `lanes` or `timeout` out of range, or a connection string made for another entity.
        """
        check_lanes(lanes)
        if timeout <= 0:
            raise ValueError(f"timeout must be above 0 seconds, not {timeout}")
        producer = ServiceBusEventProducer(
            topic,
            lambda: Link(self._client.get_topic_sender(topic)),
            integration=integration,
            lanes=lanes,
            max_message_bytes=max_message_bytes,
            timeout=timeout,
        )
        self._producers.append(producer)
        return producer

    def subscription(
        self,
        topic: str,
        name: str,
        consumer: Consumer,
        *,
        sessions: int = LANES,
        idle: float = 2.0,
        hold: float = 60.0,
    ) -> ServiceBusSubscription:
        """A subscription of a topic, made with sessions required; connections open when it runs.

        Args:
            topic: its name.
            name: the subscription's name.
            consumer: whose handlers get the messages.
            sessions: how many lanes this process works on at a time, at most; each takes a connection.
            idle: seconds without a message after which a lane is given back, for whoever is free when one comes.
            hold: seconds after which a lane is given back even if it is busy, so that everybody gets a share.

        Raises:
            ValueError: a number out of range, or a connection string made for another entity.
        """
        if sessions < 1 or min(idle, hold) <= 0:
            raise ValueError("sessions must be at least 1, idle and hold above 0 seconds")
        path = f"{topic}/{name}"
        dead_letters = DeadLetters(
            path,
            lambda: self._client.get_subscription_receiver(topic, name, sub_queue=ServiceBusSubQueue.DEAD_LETTER),
            lambda: Link(self._client.get_topic_sender(topic)),
        )

        def new_session(patience: float) -> Session:
            return Session(
                self._client.get_subscription_receiver(
                    topic, name, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=patience
                )
            )

        new_session(1)  # refuses what will never do
        subscription = ServiceBusSubscription(
            path, consumer, new_session, dead_letters, sessions=sessions, idle=idle, hold=hold
        )
        self._subscriptions.append(subscription)
        return subscription

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            # Consumers first: what they still do may be published.
            await asyncio.gather(*(subscription.close() for subscription in self._subscriptions))
            await asyncio.gather(*(producer.close() for producer in self._producers))
        finally:
            if self._owned:
                await bounded(self._client.close())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._client.fully_qualified_namespace!r})"

    @classmethod
    def _of(cls, client: ServiceBusClient, *, owned: bool) -> Self:
        bus = cls.__new__(cls)
        cls._begin(bus, client, owned=owned)
        return bus

    def _begin(self, client: ServiceBusClient, *, owned: bool) -> None:
        look_for_what_is_needed()
        self._client = client
        self._owned = owned
        self._producers: list[ServiceBusEventProducer] = []
        self._subscriptions: list[ServiceBusSubscription] = []
