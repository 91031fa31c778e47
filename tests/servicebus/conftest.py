"""A double with one topic, and a bus that must leave no connection behind."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch
from azure.servicebus.aio import ServiceBusSender
from tests.servicebus.receiving import Mailbox, Recorder, mailbox
from tests.servicebus.support import Sends, open_connections

from esazure.servicebus import ServiceBus, lanes
from esazure.testing.servicebus import ServiceBusDouble


@pytest.fixture
async def double() -> AsyncIterator[ServiceBusDouble]:
    async with ServiceBusDouble() as double:
        double.topic("customers", duplicate_detection_window=600).subscribe("all", requires_session=True)
        yield double


@pytest.fixture
async def bus(double: ServiceBusDouble) -> AsyncIterator[ServiceBus]:
    async with ServiceBus.from_connection_string(double.connection_string) as bus:
        yield bus
    double.faults.clear()
    assert await open_connections(double, 0) == 0
    gc.collect()  # what was left to the garbage collector warns now, and warnings are errors


@pytest.fixture
def sends(monkeypatch: pytest.MonkeyPatch) -> Sends:
    """How the SDK is asked to send: the sizes of the batches, 0 for a message alone; and what to do before the next."""
    sends = Sends()
    send_messages = ServiceBusSender.send_messages

    async def watched(
        sender: ServiceBusSender, message: ServiceBusMessageBatch | ServiceBusMessage, **options: Any
    ) -> None:
        sends.before(len(sends.batches))
        sends.batches.append(len(message) if isinstance(message, ServiceBusMessageBatch) else 0)
        sends.timeouts.append(options["timeout"])
        await send_messages(sender, message, **options)

    monkeypatch.setattr(ServiceBusSender, "send_messages", watched)
    return sends


@pytest.fixture
async def mail(double: ServiceBusDouble, bus: ServiceBus) -> AsyncIterator[Mailbox]:
    """A sender of the SDK's own, gone before `bus` looks for connections left open."""
    async with mailbox(double) as mail:
        yield mail


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again at once."""
    monkeypatch.setattr(lanes, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(lanes, "LONGEST_PAUSE", 0.02)
