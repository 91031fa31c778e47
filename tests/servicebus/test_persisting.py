"""The whole road: what `persist` does when the broker fails."""

from __future__ import annotations

import json
import logging
from uuid import uuid4

import pytest
from tests.servicebus.support import Customer, received

from esazure import DispatchError, EventsService
from esazure.memory import InMemoryEventsRepository, InMemoryStore
from esazure.servicebus import ServiceBus
from esazure.testing.servicebus import Reject, ServiceBusDouble

pytestmark = pytest.mark.amqp

NO = Reject("amqp:not-allowed")


async def test_what_could_not_be_published_goes_out_with_the_next_commit_in_order(
    bus: ServiceBus, double: ServiceBusDouble, caplog: pytest.LogCaptureFixture
) -> None:
    customers = EventsService(InMemoryEventsRepository(Customer), bus.producer("customers"))
    customer = Customer(uuid4().hex)
    customer.note("a", "b")
    double.faults.next_send(NO)

    with caplog.at_level(logging.WARNING, logger="esazure"):
        commit = await customers.persist(customer)

    assert commit is not None
    assert customers.undispatched == 1
    assert received(double) == []
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "esazure.service"]
    assert commit.stream in warning
    assert "the broker refuses the messages" in warning

    customer.note("c")
    await customers.persist(customer)

    assert customers.undispatched == 1
    assert [json.loads(message.body)["text"] for message in received(double)] == ["a", "b", "c"]
    assert (await customers.rehydrate(customer.id)).version == 3


async def test_without_an_outbox_the_failure_is_raised_and_the_events_are_stored(
    bus: ServiceBus, double: ServiceBusDouble
) -> None:
    customers = EventsService(InMemoryStore().events(Customer, outbox=False), bus.producer("customers"))
    customer = Customer(uuid4().hex)
    customer.note("a")
    double.faults.next_send(NO)
    with pytest.raises(DispatchError, match="version 1 is stored"):
        await customers.persist(customer)
    assert (await customers.rehydrate(customer.id)).version == 1
