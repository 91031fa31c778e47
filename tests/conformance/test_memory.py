"""The in-process backends keep every promise."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from esazure.events import CommitRecord
from esazure.integration import Integration, IntegrationMessage
from esazure.memory import InMemoryEventProducer, InMemoryStore
from esazure.testing.conformance import CommitStoreConformance, EventProducerConformance


class TestInMemoryStore(CommitStoreConformance):
    @pytest.fixture
    def store(self) -> InMemoryStore:
        return InMemoryStore()

    async def overwrite(self, store: InMemoryStore, record: CommitRecord) -> None:
        stream = store._streams[record.stream]
        stream[:] = [record if stored.first_version == record.first_version else stored for stored in stream]

    async def remove(self, store: InMemoryStore, record: CommitRecord) -> None:
        store._streams[record.stream].remove(record)

    def another(self, store: InMemoryStore) -> nullcontext[InMemoryStore]:
        return nullcontext(store)  # whoever has the object has the store


class Producers:
    """Several producers, read back as one broker."""

    def __init__(self) -> None:
        self.made: list[InMemoryEventProducer] = []

    def producer(self, integration: Integration) -> InMemoryEventProducer:
        self.made.append(InMemoryEventProducer(integration=integration))
        return self.made[-1]

    async def received(self, count: int) -> list[IntegrationMessage]:
        return [message for producer in self.made for message in producer.messages]


class TestInMemoryEventProducer(EventProducerConformance):
    @pytest.fixture
    def broker(self) -> Producers:
        return Producers()
