"""`ServiceBus`: the entry point, in the Azure SDK's own convention."""

from __future__ import annotations

import asyncio
from typing import Self

from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.core.credentials_async import AsyncTokenCredential
from azure.servicebus.aio import ServiceBusClient

from esazure.integration import LANES, MAX_MESSAGE_BYTES, Integration, check_lanes, whole
from esazure.servicebus.links import Link, bounded
from esazure.servicebus.producer import ServiceBusEventProducer

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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
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
        self._client = client
        self._owned = owned
        self._producers: list[ServiceBusEventProducer] = []
